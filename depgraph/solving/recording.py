"""What a tracer saw, as data without a tensor in it."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, chain

from attrs import frozen

from depgraph.graph.records import TensorKind, TraceMode
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
class Recording:
    """Everything a tracer saw, without a tensor in it.

    Attributes:
        calls: operator calls in order.
        declared: parameters and buffers in the model's order.
        inputs: tensors given to the model, by name.
        outputs: tensors that it returned, by name.
        constants: other tensors that it met, with where they came from.
        layer_attributes: attributes of layers that follow a term, as ``conv1.out_channels``, and whether only others read them.
        facts: expressions that forward compared and found equal, with the source line.
        differences: those that it found different.
        orders: those of which it found the first one smaller.
        mode: ``fake`` or ``real``, as the forward ran.
        escapes: expressions from which forward computed a plain number, with the source line.
        value_count: how many values there are; their numbers are smaller.
        begins: where in `calls` further forwards begin. Their operators are part of the graph, their work is not.
        integers: what the model holds of integers, read or not.
        containers: paths of modules that are mere lists, dicts and sequences of others.
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


def joined(first: Recording, others: Sequence[Recording]) -> Recording:
    """The recording of several forwards of one model: what each of them says holds.

    Parameters and buffers have the same numbers in all of them, other values each a number of their own.
    """
    every = (first, *others)
    lengths = [len(recording.calls) for recording in every]
    return Recording(
        calls=tuple(chain.from_iterable(recording.calls for recording in every)),
        declared=first.declared,
        inputs=tuple(chain.from_iterable(recording.inputs for recording in every)),
        outputs=tuple(chain.from_iterable(recording.outputs for recording in every)),
        constants=tuple(chain.from_iterable(recording.constants for recording in every)),
        layer_attributes=tuple(chain.from_iterable(recording.layer_attributes for recording in every)),
        facts=tuple(chain.from_iterable(recording.facts for recording in every)),
        differences=tuple(chain.from_iterable(recording.differences for recording in every)),
        orders=tuple(chain.from_iterable(recording.orders for recording in every)),
        escapes=tuple(chain.from_iterable(recording.escapes for recording in every)),
        mode="real" if any(recording.mode == "real" for recording in every) else "fake",
        integers=first.integers,
        containers=first.containers,
        value_count=every[-1].value_count,
        begins=tuple(accumulate(lengths))[:-1],
    )
