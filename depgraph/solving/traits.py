"""The traits that a rule states of a call, by the names of tensors: what an `Operation` keeps of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from depgraph.graph.records import AxisPlace, LayerWeight, OperationTraits
from depgraph.solving.statements import Axis, Call, Rule


def named_traits(call: Call, rule: Rule, current_names: Mapping[int, str], outputs: Sequence[str]) -> OperationTraits:
    """The traits of a call, whose operands have the names in `current_names` by then. A rule that fails states none."""
    try:
        traits = rule.traits_of(call)
    except Exception:  # noqa: BLE001 - a rule may be a user's own: its failure has pinned all that the call touches
        return OperationTraits()
    operands = [value for value in call.inputs if value.id in current_names]
    results = {value.id: name for value, name in zip(call.outputs, outputs, strict=True)}

    def places(axis: Axis) -> Iterator[AxisPlace]:
        """Where an axis stands; that of a value which is written in place stands in the operand and in the result."""
        yield from ((names[axis.value], axis.dim) for names in (current_names, results) if axis.value in names)

    mixes = None if traits.mixes is None else tuple(dict.fromkeys(place for axis in traits.mixes for place in places(axis)))
    offset_ids = {value.id for value in traits.offsets}
    offsets = tuple(position for position, value in enumerate(operands) if value.id in offset_ids)
    layer, weight = traits.weight, None
    if layer is not None:
        operand = next((position for position, value in enumerate(operands) if value.id == layer.inner.value), None)
        read, made = next(places(layer.read), None), (results[layer.made.value], layer.made.dim)
        if operand is not None and read is not None:
            weight = LayerWeight(operand, layer.inner.dim, layer.outer.dim, read, made)
    chooses = tuple(dict.fromkeys(place for axis in traits.chooses for place in places(axis)))
    return OperationTraits(mixes, traits.draws, offsets, weight, chooses)
