"""Each kind of reason that pins an axis, as its sentence, and what would free the axis.

The sentences are those that rules, the solver and the tracer give; a test reads them off the source, so none is missing here.
"""

from __future__ import annotations

import re
from functools import cache

from attrs import frozen


@frozen
class Kind:
    """Reasons that one does the same about.

    Attributes:
        way: what would free the axis, or why nothing does.
        sentences: the reasons, with ``{}`` for each part that differs.
    """

    way: str
    sentences: tuple[str, ...]


INSIDE = (
    "it must keep the size of a pinned axis: {}",
    "numbers of its indices leave: {}",
    "it is a vocabulary, and {}",
    "{}, in a way that is not understood",
)
"""Sentences that end or begin with another reason, which says more."""

KINDS = (
    Kind(
        "Free it by dg.trace(..., free=[...]): whoever calls the model then passes what is kept.",
        ("it is a dimension of the model's input{}",),
    ),
    Kind(
        "Free it by dg.trace(..., free=[...]), or trace a model that ends earlier, without its head.",
        ("it is a dimension of the model's {}", "they are the model's {}"),
    ),
    Kind(
        'Free it by dg.trace(..., free=["vocabulary"]), and give the tokenizer the ids that are kept.',
        ("it is indexed by the data (a vocabulary)", "{} rescales each of the rows that it names"),
    ),
    Kind(
        "Give ids to the model, and use them for nothing but lookups: then free=[...] of dg.trace can free the vocabulary.",
        (
            "forward computes the ids that it looks up",
            "{} computes with its ids",
            "the same ids look up another table, which is not free or has another size",
            *INSIDE[2:3],
        ),
    ),
    Kind("Record the call that uses it: dg.trace(..., also=[...]). Unused, it costs no time.", ("{} is not used in forward",)),
    Kind(
        "Give the operator a rule: dg.trace(..., rules=dg.RULES | {...}), or one for its module.", ("there is no rule for {}",)
    ),
    Kind(
        "The rule does not cover this call: give one of your own by dg.trace(..., rules=...).",
        (
            "the rule for {} does not fit this call ({})",
            "the rule for {} equates sizes {} and {}",
            "the rule for {} says nothing about it",
        ),
    ),
    Kind(
        "Nothing here: kernel positions are no channels. Choose another kernel size before training.",
        (
            "it is a kernel axis of {}",
            "it counts the kernel positions of {}",
            "it counts the positions of a region of {}",
            "it counts the coordinates of an offset of {}",
        ),
    ),
    Kind(
        "Nothing here: the operator takes so many parts. What lies in each of them is what is pruned.",
        (
            "it counts the gates of a recurrent cell",
            "it counts the layers and directions of a recurrent network",
            "it counts what {} keeps of every unit for its gradient",
            "it counts the queries, keys and values of {}",
            "it counts the groups of {}, to which the data sends its rows",
            "it counts the parts that {} makes",
            "it counts the tensors that {} joins",
            "it counts the pixels that {} moves",
            "{} counts bags and their elements",
            "{} counts the pairs of its rows",
            "{} mixes its three positions",
            "{} reads it as the real and the imaginary part",
        ),
    ),
    Kind(
        "Nothing to gain: no parameter has this axis, or nothing of the model reads it.",
        (
            "no parameter holds it",
            "it has no axis longer than 1",
            "it is what {} keeps for its gradient",
            "{} does not read it",
            "{} returns it beside the tokens",
            "{} takes it beside the tokens",
            "{} takes or keeps it beside the tokens",
        ),
    ),
    Kind(
        "Nothing here: these are positions in space or time, or samples, and no channels.",
        (
            "its positions are computed by {}, they are no channels",
            "its values are the positions that {} counts",
            "it is made by {}",
            "{} counts positions of it",
            "{} cuts it into segments",
            "{} depends on its positions",
            "{} draws positions of it",
            "{} draws or helps to compute numbers along axes whose order matters",
            "{} masks it in blocks",
            "{} masks positions",
            "{} masks what comes later, so its order matters",
            "{} mixes its positions",
            "{} returns positions of it",
            "{} runs along it, so its order matters",
            "{} turns it by half of its size",
            "{} gathers it over devices",
            "{} takes packed sequences",
            "it counts the rows of packed sequences, which the data gives",
        ),
    ),
    Kind(
        "Compute the position from sizes, as x.shape[i] // 2, and cut where the parts begin and end.",
        (
            "an empty slice is taken of it",
            "it falls into single indices: forward takes each by itself, or needs as many as there are",
            "{} copies or drops some of its positions",
            "{} cuts it at a position outside of it",
            "{} cuts it into unequal parts",
            "{} ends before it does",
            "{} fills it with zeros",
            "{} leaves a remainder of it",
            "{} takes a fixed position of it",
            "{} takes a part of it",
            "{} takes one of every {} positions",
            "{} takes one of every {} positions of a part that {} does not divide evenly",
            "{} turns it by more than its size",
            "{} writes to a fixed position of it",
        ),
    ),
    Kind(
        "Read the axis in blocks that divide each other, on both sides.",
        (
            "{}: the sizes on both sides do not nest, so no index map can be given",
            "{} moves positions across axes",
            "its elements are read as others",
        ),
    ),
    Kind(
        "The data choose indices of it: choose along another axis, or multiply with a mask that has the whole axis.",
        (
            "it is repeated by amounts that the data gives",
            "{} computes with the numbers of its indices",
            "{} counts the positions of a mask",
            "{} counts the positions where its condition holds",
            "{} counts the values of its operand",
            "{} counts values",
            "{} counts values in bins of many dimensions",
            "{} cuts at positions that are computed in forward",
            "{} cuts it where the data say",
            "{} joins numbers of indices",
            "{} lays in a row what a mask chooses by the data",
            "{} makes as many as the data need",
            "{} orders it by the data",
            "{} picks boxes by their scores",
            "{} puts numbers of its indices among others",
            "{} returns or counts positions that the data gives",
            "{} takes positions of all elements in a row",
            "{} takes positions of it that are computed in forward",
            "{} uses a mask without dimensions",
            "{} writes numbers of its indices into another tensor",
            "{} writes to a tensor without axes",
            "{} writes to each of the positions that it holds",
            "{} writes to positions of all elements in a row",
            "{} writes to positions of it that are computed in forward",
        ),
    ),
    Kind(
        "Nothing here: the operator works on all of it at once, and what it gives has no index of its own for each of these.",
        (
            "targets of {} number its classes",
            "{} aligns its classes and time with targets",
            "{} asks about its targets",
            "{} makes a matrix that is not square",
            "{} works on a matrix as a whole",
        ),
    ),
    Kind(
        "Prune before the weights are packed, quantised or made sparse, and make that form of the pruned ones.",
        (
            "the scales of {} belong to blocks of fixed size, and its kernels take sizes that such blocks divide",
            "the weights of {} also lie in one flat buffer",
            "{} lays all weights into one flat buffer",
            "{} packs weights in blocks of the kernel's own layout",
            "{} works on a sparse layout, whose axes hold no plain indices",
            "{} works on blocks of four of which two are zero",
            "{} works on nested tensors, whose rows have lengths of their own",
            "{} works on quantised storage; prune before quantising",
        ),
    ),
    Kind(
        "Write it with views, slices and reshapes: then it is known which element comes from which index.",
        (
            "{} lays the same memory out anew",
            "{} reads memory beyond it",
            "{} reads memory by strides that no size gives",
            "{} reads memory that has gaps or repetitions",
            "{} reads no element of it, or begins outside of it",
            "{} takes strides, which no other size follows",
            "{} writes to memory by strides, which no other size follows",
        ),
    ),
    Kind(
        "Call the operator's plain form: one tensor at a time, as the model's forward has it outside of training.",
        (
            "a function that is given to {} may tell heads apart",
            "{} is a helper of torch's own machinery",
            "{} is a kernel that torch does not call by itself",
            "{} is a step of training, no part of a forward",
            "{} is understood for batches of heads only",
            "{} multiplies lists of matrices",
        ),
    ),
    Kind(
        "Let it go through the model's output, or through parameters and buffers, where it is followed.",
        (
            "forward reads its data",
            "it is a constant that forward reads in {}",
            "it leaves forward by another way than the model's output, where anybody may read it",
            "its data leave torch through {} ({}), where nothing is followed",
        ),
    ),
    Kind(
        "Take the number from x.shape or from an attribute of the layer, so that it is followed.",
        (
            "a size beyond its own names it",
            "forward compares {} with {} at {}",
            "forward computes its size in a way that is not understood",
            "it is a constant factor of an attribute",
            "it is compared with {}",
            "it is named by {}",
            "it must keep the size of a pinned axis",
            "it names another axis beyond that one's size",
            "its size must agree with another one in a way that only the present sizes do",
            "{} is given a number that follows from its size",
        ),
    ),
    Kind("It goes with the axis that is pinned for the other reason: free that one.", (INSIDE[0], INSIDE[1], INSIDE[3])),
)
"""Every kind. Where several sentences fit a reason, the one with the most words of its own counts."""

OWN_RULE = "A rule of your own says so, or another version's: let the rule state how the axes go together."


def way_out(reason: str) -> str:
    """What would free an axis that is pinned for this reason.

    >>> way_out("it is a kernel axis of aten.conv2d")
    'Nothing here: kernel positions are no channels. Choose another kernel size before training.'
    >>> way_out("it must keep the size of a pinned axis: it is a dimension of the model's input[0]")
    'Free it by dg.trace(..., free=[...]): whoever calls the model then passes what is kept.'
    """
    for sentence in INSIDE:
        if (found := re.fullmatch(_pattern(sentence), reason)) and (kind := kind_of(found[1])) is not None:
            return kind.way
    kind = kind_of(reason)
    return OWN_RULE if kind is None else kind.way


def kind_of(reason: str) -> Kind | None:
    """The kind of a reason: by its whole sentence, with or without the place in forward behind it."""
    return next((kind for pattern, kind in _patterns() if re.fullmatch(pattern, reason)), None)


@cache
def _patterns() -> tuple[tuple[str, Kind], ...]:
    pairs = [(sentence, kind) for kind in KINDS for sentence in kind.sentences]
    return tuple((_pattern(text), kind) for text, kind in sorted(pairs, key=lambda pair: (-len(pair[0]), pair[0])))


def _pattern(sentence: str) -> str:
    return "(.+)".join(map(re.escape, sentence.split("{}"))).replace("input(.+)", "input(.*)") + r"(?: \(.+\))?"
