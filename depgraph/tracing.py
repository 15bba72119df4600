"""Run a model's forward once on fake tensors and record every operator. The model is never written to.

The forward runs on a shallow copy of the module tree (`depgraph.shadow`) under two modes (`depgraph.modes`): a function
mode that keeps the arguments of a call as they were written, and a dispatch mode that records the operators, composite
ones undecomposed.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from depgraph import provenance
from depgraph.assemble import Recording, assemble
from depgraph.equations import Rule
from depgraph.errors import TraceError
from depgraph.graph import Graph
from depgraph.modes import Recorder, SizeMode
from depgraph.replay import Replay
from depgraph.rules import RULES
from depgraph.session import Session, named_leaves, raised_at
from depgraph.shadow import fake_inputs, fake_parameters, shadow
from depgraph.wrappers import unwrap


def trace(
    model: nn.Module,
    example_inputs: Any = (),
    kwargs: Mapping[str, Any] | None = None,
    *,
    rules: Mapping[str, Rule] = RULES,
) -> Graph:
    """The dependency graph of a model.

    The forward runs once, on fake tensors: no data, no memory for weights, any device. The model is left as it was.

    Args:
        model: any `nn.Module`; compiled and data-parallel wrappers are looked through.
        example_inputs: a tensor, a tuple or list of positional arguments, or a dict that is passed as the one argument.
        kwargs: keyword arguments of the forward.
        rules: the operator table; extend it with ``RULES | {...}``.

    Returns:
        The graph: nodes, groups, pinned axes with their reasons, parameter and MAC counts.

    Raises:
        TraceError: the model is scripted or not initialised, the inputs lie on another device, or forward needs data.
        Exception: whatever the model's own forward raises comes through as it is.

    >>> import torch, depgraph as dg
    >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    >>> graph = dg.trace(model, torch.randn(1, 4))
    >>> [str(group) for group in graph.groups]
    ['0.weight:0 (8 indices, 3 axes)']
    """
    return assemble(record(model, example_inputs, kwargs, rules=rules), rules)


def record(
    model: nn.Module,
    example_inputs: Any = (),
    kwargs: Mapping[str, Any] | None = None,
    *,
    rules: Mapping[str, Rule] = RULES,
) -> Recording:
    """What `trace` hands to the rules: the operator calls of one forward, without tensors."""
    model = unwrap(model)
    _refuse_untraceable(model)
    args = _positional(example_inputs)
    _check_devices(model, (args, dict(kwargs or {})))
    fake_mode = FakeTensorMode(allow_non_fake_inputs=True)
    session = Session()
    with ExitStack() as stack:
        fakes = fake_parameters(model, fake_mode, session)
        tree = shadow(model, fakes, session)
        device = _only_device(model)
        fake_args, fake_kwargs = fake_inputs((args, dict(kwargs or {})), fake_mode, session, device)
        fast_path = torch.backends.mha.get_fastpath_enabled()
        stack.callback(torch.backends.mha.set_fastpath_enabled, fast_path)
        torch.backends.mha.set_fastpath_enabled(False)
        token = provenance.listen(session)
        stack.callback(provenance.unlisten, token)
        stack.enter_context(torch.random.fork_rng(devices=[]))
        stack.enter_context(torch.no_grad())
        stack.enter_context(fake_mode)
        stack.enter_context(Recorder(session, rules, Replay(fake_mode)))
        stack.enter_context(SizeMode(session))
        stack.enter_context(torch._C._AutoDispatchBelowAutograd())
        try:
            result = tree(*fake_args, **fake_kwargs)
        except DataDependentOutputException as error:
            raise TraceError(
                f"forward reads the data of a tensor ({error.func}) in {session.module or 'the model'} at {raised_at(error)}; "
                "fake tensors have none. Move that decision out of forward, or trace the submodule behind it."
            ) from error
    return session.recording(named_leaves("output", result))


def _positional(example_inputs: Any) -> tuple[Any, ...]:
    return tuple(example_inputs) if isinstance(example_inputs, (tuple, list)) else (example_inputs,)


def _refuse_untraceable(model: nn.Module) -> None:
    for path, module in model.named_modules():
        where = path or "the model itself"
        if isinstance(module, torch.jit.ScriptModule):
            raise TraceError(
                f"expected a plain nn.Module, met a scripted one at {where}. Trace the module it was scripted from."
            )
        if _is_uninitialised(module):
            raise TraceError(
                f"expected initialised parameters, met a lazy module ({type(module).__name__}) at {where}. "
                "Run one forward on real inputs first."
            )


def _is_uninitialised(module: nn.Module) -> bool:
    tensors = (*module._parameters.values(), *module._buffers.values())
    return any(tensor is not None and nn.parameter.is_lazy(tensor) for tensor in tensors)


def _only_device(model: nn.Module) -> torch.device | None:
    devices = {tensor.device for tensor in (*model.parameters(), *model.buffers())}
    return next(iter(devices)) if len(devices) == 1 else None


def _check_devices(model: nn.Module, inputs: Any) -> None:
    device = _only_device(model)
    if device is None or device.type == "meta":
        return
    for name, tensor in named_leaves("input", inputs[0]) + named_leaves("kwargs", inputs[1]):
        if tensor.device != device:
            raise TraceError(
                f"expected inputs on {device}, where the model is, met {name} on {tensor.device}. "
                f"Move it with .to({str(device)!r})."
            )


__all__ = ["record", "trace"]
