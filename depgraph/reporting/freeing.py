"""What would free a pinned axis, by what pins it."""

from __future__ import annotations

import re

_WAYS = (
    (
        r"is a dimension of the model's input",
        "Free it by dg.trace(..., free=[...]): whoever calls the model then passes what is kept.",
    ),
    (
        r"is a dimension of the model's",
        "Free it by dg.trace(..., free=[...]), or trace a model that ends earlier, without its head.",
    ),
    (r"a vocabulary", 'Free it by dg.trace(..., free=["vocabulary"]), and give the tokenizer the ids that are kept.'),
    (r"is not used in forward", "Record the call that uses it: dg.trace(..., also=[...]). Unused, it costs no time."),
    (r"there is no rule for", "Give the operator a rule: dg.trace(..., rules=dg.RULES | {...}), or one for its module."),
    (r"the rule for ", "The rule does not cover this call: give one of your own by dg.trace(..., rules=...)."),
    (
        r"kernel axis|counts the kernel",
        "Nothing here: kernel positions are no channels. Choose another kernel size before training.",
    ),
    (r"recurrent (cell|network)", "Nothing here: a recurrent layer needs them all. Its hidden size is what is pruned."),
    (
        r"fixed position|at a position|unequal parts|leaves a remainder",
        "Compute the position from sizes: x.shape[i] // 2, no number.",
    ),
    (r"single indices|do not nest", "Read the axis in blocks that divide each other, on both sides."),
    (r"no parameter holds it", "Nothing to gain: no parameter has this axis."),
    (
        r"named by|names it|size|compared",
        "Take the number from x.shape or from an attribute of the layer, so that it is followed.",
    ),
)
"""A part of a reason, and what one does about it; the first that fits counts."""


def way_out(reason: str) -> str:
    """What would free an axis that is pinned for this reason.

    >>> way_out("it is a kernel axis of aten.conv2d")
    'Nothing here: kernel positions are no channels. Choose another kernel size before training.'
    """
    for part, way in _WAYS:
        if re.search(part, reason):
            return way
    return "Its place in forward is named in the reason: write it with operators that keep indices apart."
