"""The operator table: what each ATen operator states about the spaces of its operands.

`RULES` is read-only. Extend it for one trace with ``trace(model, inputs, rules=RULES | {"mylib.op": Rule(...)})``.
An operator without a rule is decomposed where PyTorch can, else every axis it touches is pinned, with the reason.

>>> "aten.conv2d" in RULES, RULES["aten.conv2d"].type, RULES["aten.relu"].traits == POINTWISE
(True, 'CONV', True)
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from depgraph.rules import (
    attention,
    creation,
    detection,
    elementwise,
    indexing,
    joining,
    layers,
    linalg,
    losses,
    norms,
    opaque,
    products,
    recurrent,
    reductions,
    shape,
    spectral,
    strides,
    windows,
)
from depgraph.solving.statements import (
    POINTWISE,
    Accumulated,
    Axis,
    Backwards,
    Balanced,
    Call,
    Chosen,
    Equal,
    Fresh,
    Larger,
    Moved,
    Multiple,
    Named,
    Pin,
    Plus,
    Rule,
    Scale,
    Taken,
    Times,
    Traits,
    Value,
    Weight,
    Work,
)

_FAMILIES = (
    *(elementwise, creation, layers, products, norms, attention, recurrent, shape, joining, indexing, windows, reductions),
    *(spectral, strides, linalg, losses, detection, opaque),
)

RULES: Mapping[str, Rule] = MappingProxyType({name: rule for family in _FAMILIES for name, rule in family.RULES.items()})
"""Operator name to `Rule`; `RULES | {...}` gives a new mapping."""

__all__ = [
    "POINTWISE",
    "RULES",
    "Accumulated",
    "Axis",
    "Backwards",
    "Balanced",
    "Call",
    "Chosen",
    "Equal",
    "Fresh",
    "Larger",
    "Moved",
    "Multiple",
    "Named",
    "Pin",
    "Plus",
    "Rule",
    "Scale",
    "Taken",
    "Times",
    "Traits",
    "Value",
    "Weight",
    "Work",
]
