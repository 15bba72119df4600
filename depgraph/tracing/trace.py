"""Run a model's forward once, on fake tensors where that can be, and record every operator. The model is never written to.

The forward runs on a shallow copy of the module tree (`module_copy`) under two modes: a function
mode (`size_mode`) that keeps the arguments of a call as they were written, and a dispatch mode (`recorder`) that records
the operators, composite ones undecomposed.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any, Literal

import attrs
import torch
from torch import nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    UnsupportedOperatorException,
)

from depgraph.collector import without_collections
from depgraph.errors import TraceError, UnreachedWarning
from depgraph.graph.graph import Graph
from depgraph.process import FUSED_ATTENTION, ONE_AT_A_TIME, deeper, same_draws, same_draws_elsewhere
from depgraph.rules import RULES
from depgraph.running import arguments, mapping_explained
from depgraph.solving.assembly import assemble
from depgraph.solving.recording import Recording, joined
from depgraph.solving.sized import listen, unlisten
from depgraph.solving.statements import Rule
from depgraph.tracing.calls import Call
from depgraph.tracing.custom_rules import RuleKey, RuleTable, as_one_function, rule_table
from depgraph.tracing.left_behind import hooks_of, restoring_containers
from depgraph.tracing.lru_caches import uncached
from depgraph.tracing.module_copy import declare_stand_ins, instrumented_copies, stand_in_inputs
from depgraph.tracing.number_calls import numbers_followed
from depgraph.tracing.reached import Reached
from depgraph.tracing.recorder import NoFakeKernel, Recorder
from depgraph.tracing.session import DataRead, Session, named_leaves, raised_at
from depgraph.tracing.size_mode import SizeMode
from depgraph.tracing.stand_in_tensors import FakeTensors, RealTensors
from depgraph.unsupported import supported_in_shards
from depgraph.wrappers import is_sharded

Mode = Literal["auto", "fake", "real"]


_NEEDS_DATA = (DataDependentOutputException, DynamicOutputShapeException, UnsupportedOperatorException, DataRead)


_WITHOUT_DATA = ("data is not allocated yet", "Cannot access data pointer", "not supported for tensor subclasses")
"""What torch says where compiled code, such as the making of a tensor from a list of tensors, meets a fake one."""


def trace(
    model: nn.Module,
    example_inputs: Any = (),
    kwargs: Mapping[str, Any] | None = None,
    *,
    rules: Mapping[RuleKey, Rule] | Mapping[str, Rule] = RULES,
    mode: Mode = "auto",
    also: Sequence[Call] = (),
    free: Sequence[str] = (),
) -> Graph:
    """The dependency graph of a model.

    The forward runs once, on fake tensors: no data, no memory for weights, any device. Where it reads the data of a tensor
    (`.item()`, routing, detection heads), it runs on the example inputs instead, and `graph.mode` says so: the graph is
    that of the branches that these inputs take. The model is left as it was.

    Threads may trace at the same time: one waits for the other, settings of torch are as before at the end, and operators are
    recorded of the tracing thread alone. Numbers that forward draws are drawn again afterwards, unless other threads run whose
    numbers would come twice: then Python's, NumPy's and torch's generators go on.

    Args:
        model: any `nn.Module`; compiled, data-parallel and averaging wrappers are looked through. One that `fully_shard` or
            tensor parallelism has spread over ranks is traced by its whole sizes, on each rank by itself.
        example_inputs: a tensor, a tuple or list of positional arguments, or a mapping, such as what a tokenizer returns. A
            mapping whose keys are names of forward's parameters is passed by keyword; any other is the one argument. To pass
            such a mapping as it stands, put it inside a tuple: ``({"x": x},)``.
        kwargs: keyword arguments of the forward.
        rules: the operator table; extend it with ``RULES | {key: Rule(...)}``, where the key is an operator
            (``"mylib::op"``), a module class or an autograd function class. Such a class is taken as one operator.
        mode: ``fake``, ``real``, or ``auto``: fake, and real where forward needs data.
        also: further calls that the pruned model must support: in training, with a mask or a cache, by another method. What
            each of them says of the parameters holds; costs are those of the first call.
        free: axes of the model's interface that may lose indices, which are pinned else: ``"input:1"``, ``"output:-1"``,
            ``"output.logits:-1"``, a name and a dimension; ``input`` and ``output`` alone stand for the only one.
            ``"transformer.wte.weight:0"`` is a vocabulary, by the table that ids of an input look up; ``"vocabulary"`` are all.
            Where outputs range over a free vocabulary, they follow. `Plan.kept_inputs`, `Plan.kept_outputs` and
            `Plan.kept_ids` say what is left.

    Returns:
        The graph: nodes, groups, pinned axes with their reasons, parameter and MAC counts.

    Raises:
        RuleError: `rules` has a key that names no operator and is no such class, or a value that is no `Rule`.
        TraceError: the model is scripted or not initialised, the inputs lie on another device, forward needs
            data that there is none of, or `free` names no axis of the interface.
        UnsupportedError: the model is offloaded or quantised, or `FullyShardedDataParallel` has flattened its parameters.
        Exception: whatever the model's own forward raises comes through as it is.

    Warns:
        UnreachedWarning: modules with parameters were reached by none of the calls. Their parameters are pinned, but what they
            read is not: they may not run on the pruned model.

    >>> import torch, depgraph as dg
    >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    >>> graph = dg.trace(model, torch.randn(1, 4))
    >>> [str(group) for group in graph.groups]
    ['0.weight:0 (8 indices, 3 axes)']
    """
    table = rule_table(rules)
    with without_collections():
        recording = record(model, example_inputs, kwargs, rules=table, mode=mode, also=also)
        recording = attrs.evolve(recording, free=_texts(free))
        graph = assemble(recording, table.by_name)
    _warn_of_unreached(recording, model)
    return graph


def _texts(free: object) -> tuple[str, ...]:
    """What `free=` lists. Raises `TraceError` for anything else than texts; one alone stands for a list of it."""
    entries: Any = (free,) if isinstance(free, str) or not isinstance(free, (list, tuple)) else free
    strange = [entry for entry in entries if not isinstance(entry, str)]
    if strange:
        raise TraceError(f"expected free= as a list of texts such as 'output:-1', met {strange[0]!r} in it.")
    return tuple(entries)


def record(
    model: nn.Module,
    example_inputs: Any = (),
    kwargs: Mapping[str, Any] | None = None,
    *,
    rules: RuleTable | None = None,
    mode: Mode = "auto",
    also: Sequence[Call] = (),
) -> Recording:
    """What `trace` hands to the rules: the operator calls of one forward, or of several, without tensors."""
    invalid = [call for call in also if not isinstance(call, Call)] if isinstance(also, (list, tuple)) else [also]
    if invalid:
        raise TraceError(f"expected also= as a list of dg.Call, met {type(invalid[0]).__name__}; write also=[dg.Call(x)].")
    rules = rules or rule_table(RULES)
    first = _record_call(model, Call(example_inputs, dict(kwargs or {})), rules, mode, 0)
    others: list[Recording] = []
    for call in also:
        others.append(_record_call(model, call, rules, mode, (others or [first])[-1].value_count))
    return joined(first, others) if others else first


def _record_call(model: nn.Module, call: Call, rules: RuleTable, mode: Mode, first_value: int) -> Recording:
    """The recording of one call: on fake tensors, or on the example inputs where `mode` or a read of data asks for them."""
    if mode not in {"auto", "fake", "real"}:
        raise TraceError(f"expected mode to be 'auto', 'fake' or 'real', met {mode!r}.")
    if not isinstance(model, nn.Module):
        raise TraceError(f"expected an nn.Module, met a {type(model).__name__}; wrap a function in a module.")
    model = supported_in_shards(model)
    _refuse_untraceable(model)
    if not callable(getattr(model, call.method, None)):
        raise TraceError(f"expected the name of a method of {type(model).__name__} as method=, met {call.method!r}.")
    batch = call.args
    args, kwargs = arguments(model, batch, call.kwargs, call.method)
    with mapping_explained(batch, args):
        return _record_arguments(model, attrs.evolve(call, args=args, kwargs=kwargs), rules, mode, first_value)


def _record_arguments(model: nn.Module, call: Call, rules: RuleTable, mode: Mode, first_value: int) -> Recording:
    """The recording of one call, whose arguments are positional ones and keywords."""
    inputs = call.args, call.kwargs
    device, without_data = _devices(model)
    _check_devices(device, inputs)
    if mode == "real":
        if without_data:
            raise TraceError(
                "expected weights in memory, met a model on the meta device, or one whose weights are spread over ranks: "
                "mode='real' runs forward on data. Load the whole weights first, or trace with mode='fake'."
            )
        return _record_in_mode(model, call, rules, RealTensors(), device, first_value)
    try:
        return _record_in_mode(model, call, rules, FakeTensors(), device, first_value)
    except (*_NEEDS_DATA, NoFakeKernel, RuntimeError) as error:
        reader = _reader(error)
        if reader is None:
            if mode == "auto" and not without_data:
                return _record_on_examples(model, call, rules, device, first_value, error)
            raise
        if mode == "auto" and not without_data:
            return _record_in_mode(model, call, rules, RealTensors(), device, first_value)
        if isinstance(error, NoFakeKernel):
            raise TraceError(
                f"the operator {error} has no kernel for fake tensors, and forward calls it at {raised_at(error)}. "
                "Give it one with torch.library.register_fake, or trace with mode='real' and a model that is not on the meta "
                "device."
            ) from error
        raise TraceError(
            f"forward reads the data of a tensor ({reader}) at {raised_at(error)}; fake tensors have none. "
            "Trace with mode='real' and a model that is not on the meta device nor spread over ranks, move that decision out "
            "of forward, or trace the submodule behind it."
        ) from error


def _record_on_examples(
    model: nn.Module, call: Call, rules: RuleTable, device: torch.device | None, first_value: int, error: BaseException
) -> Recording:
    """Another try on real tensors, as forward may take another branch on them. If it fails, too, the first error is raised."""
    try:
        return _record_in_mode(model, call, rules, RealTensors(), device, first_value)
    except Exception:  # noqa: BLE001 - it fails either way: the first error is raised
        raise error from None


def _warn_of_unreached(recording: Recording, model: nn.Module) -> None:
    """Warn of modules whose parameters no call uses."""
    used = {value.id for call in recording.calls for value in (*call.inputs, *call.outputs)}
    parameters = [declared for declared in recording.declared if declared.kind == "parameter"]
    reached = {declared.owner for declared in parameters if declared.value.id in used}
    unreached = dict.fromkeys(declared.owner for declared in parameters if declared.owner not in reached)
    if unreached:
        names = ", ".join(map(repr, list(unreached)[:_MAX_NAMES])) + (", ..." if len(unreached) > _MAX_NAMES else "")
        training = "" if model.training else ", such as also=[dg.Call(x, training=True)] if they run in training"
        warnings.warn(
            f"{len(unreached)} of the model's modules were not reached: {names}. Their parameters are pinned, but what they "
            f"read is not: they may not run on the pruned model. Pass a call that reaches them{training}, or ignore this.",
            UnreachedWarning,
            stacklevel=3,
        )


_MAX_NAMES = 5


def _reader(error: BaseException) -> str | None:
    """What asked a fake tensor for its data, or None if that is not why forward failed."""
    if isinstance(error, (*_NEEDS_DATA, NoFakeKernel)):
        return str(error.func) if isinstance(error, _NEEDS_DATA) else str(error)
    return "by its address" if any(words in str(error) for words in _WITHOUT_DATA) else None


def _record_in_mode(
    model: nn.Module,
    call: Call,
    rules: RuleTable,
    tensors: FakeTensors | RealTensors,
    device: torch.device | None,
    first_value: int,
) -> Recording:
    """The recording of one call whose tensors are fake, or real. Everything that is changed meanwhile is changed back."""
    session = Session(tensors.mode, tensors.keep)
    with ExitStack() as stack:
        # caches, classes and torch's settings are changed meanwhile: a trace in another thread waits
        stack.enter_context(ONE_AT_A_TIME)
        # a function's cache would hide its operators, and keep a fake tensor for forwards to come
        reached = Reached(model, call.method)
        stack.enter_context(uncached(reached))
        # Python makes plain numbers of sizes where they are cast
        stack.enter_context(numbers_followed(reached))
        stand_ins = declare_stand_ins(model, tensors, session)
        session.number_from(first_value)
        copies, uncopied = instrumented_copies(model, stand_ins, tensors, session, rules.modules)
        args, kwargs = stand_in_inputs((call.args, call.kwargs), tensors, session, device)
        # the fused kernel of attention is one operator for a whole layer, which hides the heads
        stack.enter_context(FUSED_ATTENTION.changed())
        # a function that forward compiles would be traced by the compiler, which the modes below do not see
        stack.enter_context(torch.compiler.set_stance("force_eager"))
        # comparisons of sizes are statements about the model: they are reported to the session
        token = listen(session)
        stack.callback(unlisten, token)
        # hooks run, and may keep their arguments
        stack.enter_context(
            restoring_containers([*hooks_of(model), *uncopied], lambda tensor: session.known(tensor) is not None)
        )
        # the copy of a module takes more frames to run than the module, for it has hooks
        stack.enter_context(deeper(_FRAMES + _FRAMES_EACH * _depth(model)))
        # dropout and the like draw numbers: the next draw of the caller is to be what it would have been
        stack.enter_context(same_draws([device]))
        stack.enter_context(same_draws_elsewhere())
        # nobody asks for gradients, and their graph would hold the tensors
        stack.enter_context(torch.no_grad())
        # fake: operators compute shapes only; real: parameters that forward writes to get their data back
        stack.enter_context(tensors.context())
        # an autograd function with a rule is one call; its class is changed, for forward calls it by name
        for function, op in rules.functions.items():
            stack.callback(as_one_function(function, op, session))
        # operators meet the types of the call that is described
        if call.autocast is not None:
            stack.enter_context(torch.autocast((device or torch.device("cpu")).type, dtype=call.autocast))
        # above the fake mode, so that operators are recorded before it computes their shapes
        stack.enter_context(Recorder(session, rules.by_name, tensors.caller()))
        # the dispatcher makes plain integers of sizes: here they are still as forward wrote them
        stack.enter_context(SizeMode(session))
        # without the kernels of autograd, which take some composite operators apart before they can be recorded
        stack.enter_context(torch._C._AutoDispatchBelowAutograd())
        if call.training is not None:
            copies[0].train(call.training)
        result = copies[0](*args, **kwargs) if call.method == "forward" else getattr(copies[0], call.method)(*args, **kwargs)
        outputs = named_leaves("output", result)
        del result  # what only the result holds is no longer alive
        session.returned(outputs)
    recording = session.recording(outputs)
    for module in copies:
        vars(module).clear()  # each copy holds itself: only the garbage collector would free them and all their tensors
    return recording


_FRAMES, _FRAMES_EACH = 400, 6
"""How many frames of Python a trace adds to those of forward: what records an operator, and what each nested module adds."""


def _depth(model: nn.Module) -> int:
    """How many modules are nested in each other."""
    return 1 + max(len(name.split(".")) for name, _ in model.named_modules(remove_duplicate=False))


def _refuse_untraceable(model: nn.Module) -> None:
    """Raise for modules that are scripted, or lazy and not initialised."""
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


def _devices(model: nn.Module) -> tuple[torch.device | None, bool]:
    """The one device of the parameters and buffers, if it is one, and whether any of them has no data, or not all of it."""
    tensors = (*model.parameters(), *model.buffers())
    devices = {tensor.device for tensor in tensors}
    return next(iter(devices)) if len(devices) == 1 else None, any(tensor.is_meta or is_sharded(tensor) for tensor in tensors)


def _check_devices(device: torch.device | None, inputs: Any) -> None:
    """Raise for inputs on another device than the model's one."""
    if device is None or device.type == "meta":
        return
    for name, tensor in named_leaves("input", inputs[0]) + named_leaves("kwargs", inputs[1]):
        if tensor.device != device:
            raise TraceError(
                f"expected inputs on {device}, where the model is, met {name} on {tensor.device}. "
                f"Move it with .to({str(device)!r})."
            )
