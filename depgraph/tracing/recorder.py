"""The dispatch mode under which a forward runs: it records operators."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import torch
from attrs import frozen
from torch._ops import HigherOrderOperator
from torch._subclasses.fake_tensor import FakeTensor, UnsupportedFakeTensorException, UnsupportedOperatorException
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from depgraph.solving.statements import Rule
from depgraph.tracing.session import PLAIN, DataRead, Session, memory_order, shape_of
from depgraph.tracing.size_arguments import with_provenance

_SKIPPED = frozenset({"prim.device", "aten.is_same_size", "aten.is_pinned", "aten._local_scalar_dense"})


_DEVICE = torch.ops.prim.device.default


_DETACH = torch.ops.aten.detach_.default


_SAME = frozenset({"aten.contiguous", "aten.lift_fresh"})
"""Operators that return what they are given, and that torch calls or leaves out by sizes and devices, on which a graph must not
depend: it makes a tensor contiguous only where it is not, and lifts what `torch.tensor` has made unless that lies on `meta`."""


_MAX_ARGUMENTS = 16
"""How many arguments of a higher-order operator without a signature of its own are recorded."""


class Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Records operators. Those without a rule are decomposed where PyTorch can."""

    supports_higher_order_operators = True

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Whether torch is to keep its compiler away from each call: a trace runs eagerly, and does that once."""
        return False

    def __init__(self, session: Session, rules: Mapping[str, Rule], call: Callable[..., Any]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.session = session
        self.rules = rules
        self.call = call

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is _DEVICE and type(args[0]) is FakeTensor:
            return args[0].device  # torch asks for it before each view
        kwargs = kwargs or {}
        session = self.session
        if session.muted:
            return self._run(func, args, kwargs)
        if func is _DETACH and args[0].is_meta and not isinstance(args[0], FakeTensor):
            return args[0]  # torch.tensor(..., device='meta') detaches what it has just made; fake tensors refuse that
        operator = _operator(func)
        name = operator.name
        if name == "higher_order.cond" and name not in self.rules:
            return self._branch(*args, **kwargs)
        if name in _SKIPPED:
            result = self._run(func, args, kwargs)
            if name == "aten._local_scalar_dense":
                session.read(args[0])
            return result
        if operator.decomposes and name not in self.rules:
            with self:
                return func.decompose(*args, **kwargs)
        bound: dict[str, Any] = {}
        targets: list[Any] = []
        count = len(args)
        for position, (key, default, written_to) in enumerate(operator.parameters):
            argument = args[position] if position < count else kwargs.get(key, default)
            if written_to:  # what `out=` names is the result, and no operand
                targets.append(argument)
            else:
                bound[key] = argument if type(argument) in PLAIN else session.data(argument)
        memory = _MEMORY[name](*args) if name in _MEMORY else {}
        result = self._run(func, args, kwargs)
        if name in _SAME or (name == "aten.to" and session.autocasts) or func is _DETACH:
            session.same(result, bound["self"])
            return result
        self._record(name, bound, memory, pytree.tree_leaves(targets) if targets else result)
        return result

    def _branch(self, condition: Any, if_true: Any, if_false: Any, operands: Any) -> Any:
        """`torch.cond` is the branch that the data choose."""
        if isinstance(condition, torch.Tensor):
            if self.session.mode == "fake":
                raise DataRead("torch.cond")
            self.session.read(condition)
        branch = if_true if condition else if_false
        with self:
            return branch(*operands)

    def _run(self, func: Any, args: Any, kwargs: Any) -> Any:
        """The result of an operator, on real tensors or on fake ones."""
        if isinstance(func, HigherOrderOperator):
            return func(*args, **kwargs)
        if self.session.mode == "real":
            return self.call(func, args, kwargs)
        if func.name() == "aten::_grouped_mm":  # by its name: not every torch has it
            return _grouped_product(*args, **kwargs)
        try:
            return self.call(func, args, kwargs)
        except (UnsupportedOperatorException, UnsupportedFakeTensorException, NotImplementedError) as error:
            raise NoFakeKernel(func.name()) from error
        except RuntimeError as error:
            if str(error).startswith("There was no fake impl registered"):
                raise NoFakeKernel(func.name()) from error
            raise

    def _record(self, name: str, bound: dict[str, Any], memory: dict[str, Any], result: Any) -> None:
        """Hand a call with its operands and results to the session."""
        session = self.session
        outputs = tuple(
            [
                session.value(tensor, shape_of(tensor))
                for tensor in (result if isinstance(result, (tuple, list)) else (result,))
                if isinstance(tensor, torch.Tensor)
            ]
        )
        args = with_provenance(bound, session.written, session) | memory
        if session.assigning and name == "aten.view":
            args = {**args, "size": None}  # an assignment strips leading axes of size 1 by itself
        if name.startswith("aten.conv") and int(bound.get("groups") or 1) > 1:
            transposed = "transpose" in name
            channels = (outputs[0] if transposed else bound["input"])[1 - bound["weight"].ndim]
            session.grouped("out_channels" if transposed else "in_channels", channels, bound["weight"], args["groups"])
        session.called(name, args, outputs)


def _strided_memory(tensor: torch.Tensor, *_: Any) -> dict[str, Any]:
    """In which order the dimensions of a tensor that is read by strides lie in memory, and where it begins."""
    return {"order": memory_order(tensor), "begins": tensor.storage_offset()}


def _mask_memory(_: Any, mask: torch.Tensor, *__: Any) -> dict[str, Any]:
    """The dimensions along which a mask is expanded: it has the same value at each index."""
    return {"alike": tuple(dim - mask.ndim for dim, step in enumerate(mask.stride()) if step == 0)}


_MEMORY: dict[str, Callable[..., dict[str, Any]]] = {
    **dict.fromkeys(("aten.as_strided", "aten.as_strided_copy"), _strided_memory),
    "aten.masked_scatter": _mask_memory,
}
"""What a call records of its operands' memory beside their shapes, before the operator runs and may change it."""


def _grouped_product(a: Any, b: Any, offs: Any = None, *_: Any, **__: Any) -> Any:
    """An empty result: the fake kernel of grouped products takes bfloat16 only, and rows of as many bytes as that has."""
    rows = a.shape[-2:-1] if a.ndim == 2 or b.ndim == 2 else a.shape[:-1]
    groups = offs.shape if a.ndim == b.ndim == 2 else ()
    return a.new_empty((*groups, *rows, b.shape[-1]))


class NoFakeKernel(Exception):
    """An operator that runs on real tensors only; its name is the argument."""


@frozen(eq=False)
class _Operator:
    """What is asked of an operator at each of its calls.

    Attributes:
        name: ``aten.name`` without overload and trailing underscore.
        parameters: their names, defaults, and whether `out=` names them.
        decomposes: whether PyTorch writes it in terms of other operators.
    """

    name: str
    parameters: tuple[tuple[str, Any, bool], ...]
    decomposes: bool


@cache
def _operator(func: Any) -> _Operator:
    if isinstance(func, HigherOrderOperator):
        written = [p for p in inspect.signature(func.__call__).parameters.values() if p.kind is p.POSITIONAL_OR_KEYWORD]
        parameters = tuple((p.name, None if p.default is p.empty else p.default, False) for p in written)
        numbered = tuple((f"argument_{k}", None, False) for k in range(_MAX_ARGUMENTS))
        return _Operator(f"{func.namespace}.{func.__name__}", parameters or numbered, False)
    schema = func._schema
    namespace, _, name = schema.name.partition("::")
    if name.endswith("_") and not name.endswith("__"):
        name = name[:-1]
    parameters = tuple(
        (arg.name, arg.default_value if arg.has_default_value() else None, arg.is_out) for arg in schema.arguments
    )
    full = f"{namespace}.{name}"
    decomposes = full not in _SKIPPED and torch._C._dispatch_has_kernel_for_dispatch_key(
        func.name(), "CompositeImplicitAutograd"
    )
    return _Operator(full, parameters, bool(decomposes))
