"""How many bytes a model holds where it serves: weights, the cache of keys and values, recurrent states."""

from __future__ import annotations

import fnmatch
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeAlias, TypeVar

from attrs import field, frozen

from depgraph.algebra.numbers import is_number, is_whole
from depgraph.algebra.spaces import Product, Space
from depgraph.choosing.costs import CostPolynomial, Terms
from depgraph.errors import PlanError, UnknownNameError
from depgraph.graph.graph import Graph
from depgraph.graph.records import Operation, OpType
from depgraph.read_only import read_only

V = TypeVar("V")

ByPattern: TypeAlias = V | Mapping[str, V]
"""One value for all, or one by glob of dotted names; where several match, the last counts."""


def _fixed(value: Any) -> Any:
    return read_only(value) if isinstance(value, Mapping) else value


def _are_bytes(instance: object, attribute: Any, value: Any) -> None:
    for pattern, each in _pairs(value):
        if not is_number(each) or each < 0:
            raise PlanError(
                f"expected {attribute.name}= as bytes of one element, such as 2 or {{'*': 2, 'lm_head.*': 4}}, "
                f"met {each!r} for {pattern!r}."
            )


def _are_tokens(instance: object, attribute: Any, value: Any) -> None:
    for pattern, each in _pairs(value):
        if not is_whole(each):
            raise PlanError(f"expected {attribute.name}= as a whole number of tokens, met {each!r} for {pattern!r}.")


def _is_batch(instance: object, attribute: Any, value: Any) -> None:
    if not is_whole(value, least=1):
        raise PlanError(f"expected {attribute.name}= as a whole number of sequences from 1 up, met {value!r}.")


def _pairs(value: Any) -> list[tuple[str, Any]]:
    return [*value.items()] if isinstance(value, Mapping) else [("*", value)]


@frozen
class Memory:
    """What the budget `memory` of `dg.plan` counts, in bytes; called with a graph, it gives their number.

    The cache holds keys and values of every attention, as it reads them but before they are repeated for several query heads.
    An engine that stores something else, such as the latent of DeepSeek's attention, holds less. Recurrent layers of torch
    keep their states, one per sequence; of other ones name tensors in `states`.

    Attributes:
        weights: bytes of one element of a parameter: 4, 2, 1, 0.5 for weights of four bits; or by globs of parameter names. A
            tied parameter counts once, by its first name. Buffers do not count.
        cache_tokens: the length of the cache in tokens, of each sequence; or by globs of the names of attention operations,
            such as ``{"*": 8192, "model.layers.0.*": 512}`` for a sliding window. 0, as for encoders: no cache.
        batch: how many sequences are served at once.
        cache: bytes of one element of cache and states.
        states: globs of parameters; each sequence keeps as many further elements as they have: of Mamba's first form
            ``["*.A_log", "*.conv1d.weight"]``.

    >>> import torch, depgraph as dg
    >>> class Attention(torch.nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.heads = 2
    ...         self.qkv, self.out = torch.nn.Linear(8, 24, bias=False), torch.nn.Linear(8, 8, bias=False)
    ...     def forward(self, x):
    ...         q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in self.qkv(x).chunk(3, -1))
    ...         x = torch.nn.functional.scaled_dot_product_attention(q, k, v)
    ...         return self.out(x.transpose(1, 2).flatten(2))
    >>> graph = dg.trace(Attention(), torch.zeros(1, 5, 8))
    >>> dg.Memory()(graph), dg.Memory(cache_tokens=100, batch=3)(graph)         # 256 weights; 3 * 100 * 16 keys and values
    (512, 10112)
    >>> scores = {group.name: range(group.size) for group in graph.groups}
    >>> small = dg.plan(graph, scores, memory=0.5, memory_model=dg.Memory(cache_tokens=100, batch=3)).apply(graph)
    >>> dg.Memory(cache_tokens=100, batch=3)(small)
    5056
    """

    weights: ByPattern[float] = field(default=2, converter=_fixed, validator=_are_bytes)
    cache_tokens: ByPattern[int] = field(default=0, converter=_fixed, validator=_are_tokens)
    batch: int = field(default=1, validator=_is_batch, kw_only=True)
    cache: float = field(default=2, validator=_are_bytes, kw_only=True)
    states: Sequence[str] = field(default=(), converter=tuple, kw_only=True)

    def __call__(self, graph: Graph) -> int | float:
        """The bytes of a graph's model. Raises `PlanError` as `dg.plan` does."""
        return CostPolynomial(self.terms(graph))({})

    def terms(self, graph: Graph) -> Terms:
        """The bytes as a polynomial.

        Raises:
            PlanError: a mapping leaves out a parameter or an attention, or the cache of an attention can't be read off.
            UnknownNameError: `states` names no parameter.
        """
        total: dict[tuple[Space, ...], int | float] = {}
        problems = []
        parameters = [tensor for tensor in graph.tensors if tensor.kind == "parameter"]
        for tensor in parameters:
            if (each := _matched(self.weights, tensor.name)) is None:
                problems.append(f"weights= has no bytes for {tensor.name!r}; add '*' for all others.")
            else:
                total[tensor.axes] = total.get(tensor.axes, 0) + each
        caches: list[tuple[tuple[Space, ...], int]] = []
        for pattern in self.states:
            names = fnmatch.filter([tensor.name for tensor in parameters], pattern)
            if not names:
                raise UnknownNameError("parameter", pattern, [tensor.name for tensor in parameters])
            caches.extend((graph.tensor(name).axes, 1) for name in names)
        caches.extend((axes, 1) for axes in _recurrent(graph))
        counted = set[str]()
        producer = {name: made for made in graph.operations for name in made.outputs}
        for operation in _attentions(graph) if any(tokens for _, tokens in _pairs(self.cache_tokens)) else ():
            tokens = _matched(self.cache_tokens, operation.name)
            if tokens is None:
                problems.append(f"cache_tokens= has no length for {operation.name!r}; add '*' for all others.")
            for name, axes in _cached(graph, operation, producer) if tokens else ():
                if axes is None:
                    problems.append(
                        f"{operation.name!r} reads {name!r}, {graph.tensor(name).shape}, whose tokens or sequences can't be "
                        f"told from other axes; give it the length 0 by cache_tokens={{..., {operation.name!r}: 0}}."
                    )
                elif name not in counted:
                    counted.add(name)
                    caches.append((axes, tokens or 0))
        if problems:
            raise PlanError.of(problems)
        for axes, count in caches:
            total[axes] = total.get(axes, 0) + count * self.batch * self.cache
        return total


def _matched(values: ByPattern[V], name: str) -> V | None:
    """The value for a name, by the last pattern that matches."""
    found = [value for pattern, value in _pairs(values) if fnmatch.fnmatchcase(name, pattern)]
    return found[-1] if found else None


def _attentions(graph: Graph) -> Iterator[Operation]:
    """Operations that read keys and values, with them as second and third input."""
    producer = {name: operation for operation in graph.operations for name in operation.outputs}
    for operation in graph.operations:
        if operation.further:
            continue
        if operation.type is OpType.ATTENTION:
            yield operation
        elif operation.type is OpType.MATMUL and (scores := _scores_behind(graph, operation, producer)) is not None:
            yield _joined(scores, operation)


def _joined(scores: Operation, weighed: Operation) -> Operation:
    """Two products around a softmax as one attention."""
    inputs = (*scores.inputs[:2], weighed.inputs[1])
    return Operation(weighed.name, OpType.ATTENTION, "products", weighed.module_class, inputs, weighed.outputs)


def _scores_behind(graph: Graph, operation: Operation, producer: Mapping[str, Operation]) -> Operation | None:
    """The product of queries and keys whose softmax is the first operand of a product with the values."""
    if len(operation.inputs) < 2 or any(graph.tensor(name).kind != "value" for name in operation.inputs[:2]):
        return None
    current, normalised = operation.inputs[0], False
    while current in producer:
        before = producer[current]
        if before.type is OpType.MATMUL:
            values = [name for name in before.inputs if graph.tensor(name).kind == "value"]
            return before if normalised and len(values) >= 2 else None
        if before.type not in _MOVES | {OpType.ELEMENTWISE} or not before.inputs:
            return None
        normalised = normalised or "softmax" in before.op
        current = before.inputs[0]
    return None


_MOVES = frozenset({OpType.RESHAPE, OpType.EXPAND, OpType.PERMUTE})
_TOKENS_THIRD = ("_flash_attention_forward", "_efficient_attention_forward", "_cudnn_attention_forward")
"""Kernels that take tokens before heads."""


def _cached(
    graph: Graph, operation: Operation, producer: Mapping[str, Operation]
) -> Iterator[tuple[str, tuple[Space, ...] | None]]:
    """Names of the tensors that an attention's cache holds, each with the axes of one token; None: they can't be told."""
    tokens_third = any(part in operation.op for part in _TOKENS_THIRD)
    key, value = operation.inputs[1:3]
    for name in (key, value):
        place = -3 if tokens_third else -1 if name == key and operation.op == "products" else -2
        tokens = graph.tensor(name).axes[place]
        name = _before_repeating(graph, name, producer)
        left = Counter(_factors(graph.tensor(name).axes))
        for gone in (_factors((tokens,)), _factors(_batch(graph))):
            if not Counter(gone) <= left:
                yield name, None
                break
            left -= Counter(gone)
        else:
            yield name, tuple(left.elements())


def _before_repeating(graph: Graph, name: str, producer: Mapping[str, Operation]) -> str:
    """The first tensor with the fewest elements of those that a tensor only moves, casts or repeats."""
    smallest, current = name, name
    while current in producer:
        before = producer[current]
        values = [each for each in before.inputs if graph.tensor(each).kind == "value"]
        if (before.type not in _MOVES and not (before.type is OpType.ELEMENTWISE and before.op in _CASTS)) or len(values) != 1:
            break
        current = values[0]
        if graph.tensor(current).numel < graph.tensor(smallest).numel:
            smallest = current
    return smallest


_CASTS = frozenset({"aten.to", "aten._to_copy", "aten.clone", "aten.contiguous", "aten.mul"})


def _recurrent(graph: Graph) -> Iterator[tuple[Space, ...]]:
    """The states that recurrent layers return, each by the axes of one sequence: layers and directions, and the width."""
    for operation in graph.operations:
        if operation.type is OpType.LSTM and not operation.further:
            for name in operation.outputs[1:]:
                axes = graph.tensor(name).axes
                yield (axes[0], axes[-1])


def _batch(graph: Graph) -> tuple[Space, ...]:
    """What counts the sequences: the first axis of the first input."""
    inputs = (name for operation in graph.operations if operation.type is OpType.INPUT for name in operation.outputs)
    return next((graph.tensor(name).axes[:1] for name in inputs if graph.tensor(name).axes), ())


def _factors(axes: Sequence[Space]) -> list[Space]:
    """The factors of a product of axes."""
    parts = (part for space in axes for part in (space.factors if isinstance(space, Product) else (space,)))
    return [part for part in parts if part.size != 1]
