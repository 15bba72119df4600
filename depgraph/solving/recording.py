"""What a tracer records of one forward, as data without a tensor in it."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, chain

from attrs import evolve, frozen

from depgraph.graph.records import ModuleSequence, TensorKind, TraceMode
from depgraph.solving.expressions import Expression
from depgraph.solving.statements import Call, Term, Value


@frozen
class Declared:
    """A parameter or buffer of the model."""

    value: Value
    name: str
    kind: TensorKind
    owner: str
    aliases: tuple[str, ...] = ()


@frozen
class IntegerAttribute:
    """An integer that the model holds under a dotted path.

    Attributes:
        path: the path, from the model's root.
        value: the integer.
        module: the path of the module that holds it.
        in_config: whether it lies in a configuration, which says something of all the module's layers.
    """

    path: str
    value: int
    module: str
    in_config: bool


@frozen(eq=False)
class CalledModule:
    """A call of a module that holds parameters.

    Attributes:
        path: the module's dotted path.
        begins: how many operators were called before it.
        ends: how many were called when it returned.
        takes: the tensors among its arguments, each by its position or keyword.
        arguments: how many arguments there were.
        returns: what it returned, in order; None where None stood.
        alone: whether it returned one tensor, and no tuple.
        problem: why another module cannot be called in its place.
    """

    path: str
    begins: int
    ends: int
    takes: tuple[tuple[str, Value], ...]
    arguments: int
    returns: tuple[Value | None, ...]
    alone: bool
    problem: str = ""


@frozen(eq=False)
class Recording:
    """Everything that a tracer records, without a tensor in it.

    Attributes:
        calls: operator calls in order.
        declared: parameters and buffers in the model's order.
        inputs: tensors given to the model, by name.
        outputs: tensors that forward returns, by name.
        constants: other tensors that it reads, or that leave it by another way, with the reason for which they are pinned.
        layer_attributes: attributes of layers that follow a term, as ``conv1.out_channels``, and whether only others read them.
        facts: expressions that forward compares and that are equal, with the source line.
        differences: those that are different.
        orders: those of which the first is smaller.
        mode: ``fake`` or ``real``, as the forward ran.
        escapes: expressions from which forward computes a plain number, with the source line.
        value_count: how many values there are; their numbers are smaller.
        begins: where in `calls` further forwards begin. Their operators are part of the graph, their work is not.
        integers: the integers of the model that a path can name, whether forward reads them or not.
        containers: paths of modules that are mere lists, dicts and sequences of others.
        sequences: those of several elements, and what forward does with them as lists.
        free: the axes of inputs, outputs and vocabularies that may lose indices, as they were asked for.
        modules: the calls of modules that hold parameters, as they returned.
    """

    calls: tuple[Call, ...]
    declared: tuple[Declared, ...]
    inputs: tuple[tuple[str, Value], ...]
    outputs: tuple[tuple[str, Value], ...]
    constants: tuple[tuple[Value, str], ...] = ()
    layer_attributes: tuple[tuple[str, Term, bool], ...] = ()
    facts: tuple[tuple[Expression, Expression, str], ...] = ()
    differences: tuple[tuple[Expression, Expression, str], ...] = ()
    orders: tuple[tuple[Expression, Expression, str], ...] = ()
    escapes: tuple[tuple[tuple[Expression, ...], str], ...] = ()
    mode: TraceMode = "fake"
    value_count: int = 0
    begins: tuple[int, ...] = ()
    integers: tuple[IntegerAttribute, ...] = ()
    containers: frozenset[str] = frozenset()
    sequences: tuple[ModuleSequence, ...] = ()
    free: tuple[str, ...] = ()
    modules: tuple[CalledModule, ...] = ()


def joined(first: Recording, others: Sequence[Recording]) -> Recording:
    """The recording of several forwards of one model: what each of them states holds.

    Parameters and buffers have the same numbers in all of them, other values each a number of their own.
    """
    recordings = (first, *others)
    lengths = [len(recording.calls) for recording in recordings]
    return Recording(
        calls=tuple(chain.from_iterable(recording.calls for recording in recordings)),
        declared=first.declared,
        inputs=tuple(chain.from_iterable(recording.inputs for recording in recordings)),
        outputs=tuple(chain.from_iterable(recording.outputs for recording in recordings)),
        constants=tuple(chain.from_iterable(recording.constants for recording in recordings)),
        layer_attributes=tuple(chain.from_iterable(recording.layer_attributes for recording in recordings)),
        facts=tuple(chain.from_iterable(recording.facts for recording in recordings)),
        differences=tuple(chain.from_iterable(recording.differences for recording in recordings)),
        orders=tuple(chain.from_iterable(recording.orders for recording in recordings)),
        escapes=tuple(chain.from_iterable(recording.escapes for recording in recordings)),
        mode="real" if any(recording.mode == "real" for recording in recordings) else "fake",
        integers=first.integers,
        containers=first.containers,
        sequences=sequences_of_all([recording.sequences for recording in recordings]),
        value_count=recordings[-1].value_count,
        begins=tuple(accumulate(lengths))[:-1],
        modules=tuple(
            evolve(item, begins=item.begins + before, ends=item.ends + before)
            for recording, before in zip(recordings, accumulate(lengths, initial=0), strict=False)
            for item in recording.modules
        ),
    )


def sequences_of_all(forwards: Sequence[tuple[ModuleSequence, ...]]) -> tuple[ModuleSequence, ...]:
    """The lists of modules of one model, with what each of several forwards does with them."""
    joint: dict[str, ModuleSequence] = {}
    for sequence in chain.from_iterable(forwards):
        known = joint.setdefault(sequence.path, sequence)
        joint[sequence.path] = evolve(
            known,
            counts=tuple(sorted({*known.counts, *sequence.counts})),
            fixed=tuple(sorted((dict(sequence.fixed) | dict(known.fixed)).items())),
            problem=known.problem or sequence.problem,
        )
    return tuple(joint.values())
