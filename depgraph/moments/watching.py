"""Sees the layers of a forward as it runs: which operator multiplies what with which parameter.

It sees operators, so that functional calls, tied weights, parts of a fused weight and modules of any class count alike.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeAlias

import torch
from attrs import frozen
from torch.utils._python_dispatch import TorchDispatchMode

from depgraph.moments.layers import Call, Layout

_COPIES = frozenset({"_unsafe_view", "clone", "_to_copy", "lift_fresh"})
"""Operators that are no views, but whose result has the elements of their operand, one by one."""


@frozen(eq=False)
class Part:
    """A tensor that holds elements of a parameter in another order: a transpose, a slice, a copy in another dtype.

    Attributes:
        name: the parameter.
        twin: the same view of a contiguous tensor without data, whose strides tell which element is where.
        copied: whether a copy lies between, which does not follow when the parameter changes.
    """

    name: str
    twin: torch.Tensor
    copied: bool = False


@frozen(eq=False)
class LayerCall:
    """One call of a layer, while it happens.

    Attributes:
        call: how its operands are read.
        weight: where its matrix lies.
        bias: where its bias lies, as the operator adds it.
        copied: whether the weight was copied before.
        x: what it reads.
        run: computes the result.
    """

    call: Call
    weight: Layout
    bias: Layout | None
    copied: bool
    x: torch.Tensor
    run: Callable[[], torch.Tensor]


@frozen(eq=False)
class NormCall:
    """One call of a batch normalisation by its running statistics, while it happens.

    Attributes:
        mean: name of the running mean.
        variance: name of the running variance.
        x: what it reads; channels are dimension 1.
        run: computes the result.
        normalised: computes it for another input, running mean and running variance.
    """

    mean: str
    variance: str
    x: torch.Tensor
    run: Callable[[], Any]
    normalised: Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


OnCall: TypeAlias = Callable[[LayerCall | NormCall], Any]


class Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Within it, `on_call` is told of each layer and gives its result, most often by `run`.

    Attributes:
        others: for each parameter the operators that use it otherwise than as the weight or bias of a layer.
        added: for each weight's place the bias that another operator added to the layer's result.
    """

    def __init__(self, tensors: Mapping[str, torch.Tensor], on_call: OnCall) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.on_call = on_call
        self.others: dict[str, set[str]] = {}
        self.added: dict[Layout, Layout] = {}
        self._tensors = dict(tensors)
        self._parts = {id(tensor): (tensor, Part(name, _twin(tensor))) for name, tensor in self._tensors.items()}
        self._derived: dict[int, tuple[torch.Tensor, Part]] = {}
        self._results: dict[int, tuple[torch.Tensor, Layout]] = {}

    def forget(self) -> None:
        """Let go of what one forward made."""
        self._derived.clear()
        self._results.clear()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if torch.is_inference_mode_enabled() and func._can_decompose():
            with self:  # autograd takes composite operators apart, and has nothing to do here
                return func.decompose(*args, **kwargs)
        found = [(place, part) for place, tensor in _tensors_in(args, kwargs) if (part := self._part(tensor)) is not None]
        if not found:
            result = func(*args, **kwargs)
            if self._results and (func.is_view or func.overloadpacket.__name__ == "_unsafe_view"):
                self._follow_result(args, result)
            return result
        name = func.overloadpacket.__name__
        parts = dict(found)
        if name == "convolution":
            return self._convolution(func, args, parts)
        if name in _PRODUCTS and not kwargs:
            return self._product(name, func, args, parts)
        if name in _NORMS and not args[5] and args[3] is not None and {3, 4} <= parts.keys():
            return self._norm(func, args, parts)
        result = func(*args, **kwargs)
        if (func.is_view or name in _COPIES) and parts.keys() == {0}:
            self._derive(func, args, kwargs, parts[0], result)
        elif not (name == "add" and not kwargs and self._is_bias(args, parts)):
            for part in parts.values():
                self.others.setdefault(part.name, set()).add(str(func))
        return result

    def _part(self, tensor: torch.Tensor) -> Part | None:
        entry = self._parts.get(id(tensor)) or self._derived.get(id(tensor))
        return None if entry is None else entry[1]

    def _derive(self, func: Any, args: Any, kwargs: Any, part: Part, result: Any) -> None:
        """Follow a parameter through a view, or a copy that keeps the order of its elements."""
        if func.is_view:
            twins, copied = func(part.twin, *args[1:], **kwargs), part.copied
        else:
            twins, copied = part.twin, True
            if func.overloadpacket.__name__ == "_unsafe_view":
                twins = part.twin.view(args[1]) if part.twin.is_contiguous() else None
        if twins is None:
            self.others.setdefault(part.name, set()).add(str(func))
            return
        pairs = zip(result, twins, strict=True) if isinstance(result, (list, tuple)) else [(result, twins)]
        for tensor, twin in pairs:
            self._derived[id(tensor)] = tensor, Part(part.name, twin, copied)

    def _follow_result(self, args: Any, result: Any) -> None:
        """A layer's result in another shape, to which a bias may be added yet."""
        entry = self._results.get(id(args[0])) if args else None
        if entry is not None and isinstance(result, torch.Tensor):
            self._results[id(result)] = result, entry[1]

    def _is_bias(self, args: Any, parts: Mapping[int, Part]) -> bool:
        """Note a bias that is added to a layer's result along its last dimension."""
        for result_at, bias_at in ((0, 1), (1, 0)):
            entry = self._results.get(id(args[result_at]))
            if entry is not None and bias_at in parts and args[bias_at].ndim == 1:
                bias = _bias(parts[bias_at], entry[1])
                if bias is not None and args[result_at].shape[-1] == args[bias_at].shape[0]:
                    self.added[entry[1]] = bias
                    return True
        return False

    def _convolution(self, func: Any, args: Any, parts: Mapping[int, Part]) -> Any:
        x, weight, bias, stride, padding, dilation, transposed, output_padding, groups = args
        if parts.keys() - {2} != {1}:
            return self._other(func, args, parts)
        dims = weight.ndim - 2
        full = [tuple(item) * dims if len(item) == 1 else tuple(item) for item in (stride, padding, dilation, output_padding)]
        call = Call(
            "convolution",
            stride=full[0],
            padding=full[1],
            dilation=full[2],
            transposed=transposed,
            output_padding=full[3],
            groups=groups,
            kernel=tuple(weight.shape[2:]),
        )
        return self._layer(call, parts[1], parts.get(2), bias is not None, x, lambda: func(*args))

    def _product(self, name: str, func: Any, args: Any, parts: Mapping[int, Part]) -> Any:
        first = _PRODUCTS[name]
        operands = parts.keys() & {first, first + 1}
        if len(operands) != 1 or parts.keys() - operands - {0}:
            return self._other(func, args, parts)
        at = next(iter(operands))
        on_left = at == first
        if first and (on_left or args[0].ndim != 1):
            return self._other(func, args, parts)
        call = Call("products" if args[at].ndim == 3 else "product", on_left)
        x = args[first + 1] if on_left else args[first]
        bias = parts.get(0) if first else None
        return self._layer(call, parts[at], bias, bool(first), x, lambda: func(*args))

    def _norm(self, func: Any, args: Any, parts: Mapping[int, Part]) -> Any:
        def normalised(x: torch.Tensor, mean: torch.Tensor, variance: torch.Tensor) -> torch.Tensor:
            result: torch.Tensor = func(x, *args[1:3], mean, variance, *args[5:])[0]
            return result

        return self.on_call(NormCall(parts[3].name, parts[4].name, args[0], lambda: func(*args), normalised))

    def _layer(
        self, call: Call, weight: Part, bias: Part | None, has_bias: bool, x: torch.Tensor, run: Callable[[], torch.Tensor]
    ) -> Any:
        layout = call.layout(weight.name, weight.twin)
        offset = None if bias is None else _bias(bias, layout)
        result = self.on_call(LayerCall(call, layout, offset, weight.copied, x, run))
        if not has_bias and not call.on_left and call.kind == "product":
            self._results[id(result)] = result, layout
        return result

    def _other(self, func: Any, args: Any, parts: Mapping[int, Part]) -> Any:
        for part in parts.values():
            self.others.setdefault(part.name, set()).add(str(func))
        return func(*args)


_PRODUCTS = {"mm": 0, "bmm": 0, "addmm": 1, "baddbmm": 1}
"""Operators that multiply two matrices, with the position of the first one."""

_NORMS = frozenset({"native_batch_norm", "cudnn_batch_norm", "miopen_batch_norm", "_native_batch_norm_legit"})


def _twin(tensor: torch.Tensor) -> torch.Tensor:
    return torch.empty(tensor.shape, device="meta")


def _bias(part: Part, weight: Layout) -> Layout | None:
    """The place of a bias with one number for each output of a layer."""
    blocks, outputs, _ = weight.shape
    if part.twin.ndim != 1 or part.twin.shape[0] != blocks * outputs:
        return None
    step = part.twin.stride(0)
    return Layout(part.name, int(part.twin.storage_offset()), (blocks, outputs * step), (outputs, step))


def _tensors_in(args: Any, kwargs: Mapping[str, Any]) -> Iterator[tuple[int, torch.Tensor]]:
    """The tensors among the arguments, those in lists included, by position; keywords count as -1."""
    for place, item in enumerate(args):
        if isinstance(item, torch.Tensor):
            yield place, item
        elif isinstance(item, (list, tuple)):
            for inner in item:
                if isinstance(inner, torch.Tensor):
                    yield place, inner
    for item in kwargs.values():
        if isinstance(item, torch.Tensor):
            yield -1, item
