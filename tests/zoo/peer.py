"""The same models with Torch-Pruning: half of every group by L2 magnitude, with the settings of its own examples.

The classifier is ignored; attention modules that have a number of heads are named in `num_heads`, their head dim is set after
the step, and the forward of timm's plain attention is replaced by one that takes its width from `head_dim`.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

import depgraph as dg
from depgraph import testing
from depgraph.algebra.spaces import atoms
from tests.zoo import Maker
from tests.zoo.conformance import Examination, Record, Report, Skipped, doubled, in_double, on_meta, run, unused

CHECKS = ("construct", "prune", "forward", "tenth", "zero_channels")
PARTS = {"q_proj", "k_proj", "v_proj", "query", "key", "value", "q", "k", "v"}


def examine(make: Maker, *, report: Report = lambda record: None) -> Record:
    """Put one model through Torch-Pruning, and check what comes out."""
    examination = Examination(CHECKS, report)
    record, check = examination.record, examination.check
    report({**record, "stage": "make"})
    torch.manual_seed(0)
    try:
        model, args, kwargs = make()
    except Exception as error:  # noqa: BLE001 - a model that cannot be built tells nothing about a pruner
        record["checks"] = dict.fromkeys(CHECKS, f"- not made: {type(error).__name__}")
        return record
    if on_meta(model):
        record["checks"] = dict.fromkeys(CHECKS, "- on the meta device, where only depgraph is run")
        return record
    if hasattr(model, "config"):
        model.config.use_cache = False  # it cannot walk a cache; its examples switch it off
    before = run(unused(model), args, kwargs)
    total = count(model)
    small = copy.deepcopy(model)
    pruner = check("construct", lambda: pruner_of(small, args, kwargs, before))
    if pruner is None:
        return record
    if check("prune", lambda: _step(pruner, small)) is None:
        return record
    record["remaining"] = round(count(small) / max(total, 1), 4)
    check("forward", lambda: _forward(small, args, kwargs, before))
    check("tenth", lambda: _tenth(record["remaining"]))
    check("zero_channels", lambda: _zero_channels(model, args, kwargs, before))
    return record


def count(model: nn.Module) -> int:
    """Number of elements of all parameters."""
    return sum(parameter.numel() for parameter in model.parameters())


def pruner_of(model: nn.Module, args: Any, kwargs: Any, outputs: list[torch.Tensor]) -> Any:
    """A pruner with its examples' settings. Its default dicts are shared between pruners, so new ones are given."""
    import torch_pruning as tp

    _ready(model)
    return tp.pruner.MetaPruner(
        model,
        dict(kwargs) if kwargs else args,
        importance=tp.importance.GroupMagnitudeImportance(p=2),
        pruning_ratio=0.5,
        ignored_layers=classifiers(model, outputs),
        in_channel_groups={},
        out_channel_groups={},
        num_heads=dict(heads(model)),
    )


def classifiers(model: nn.Module, outputs: list[torch.Tensor]) -> list[nn.Module]:
    """For each output the last layer that is as wide as it."""
    found = []
    for output in outputs:
        wide = {output.shape[-1], output.shape[1] if output.ndim > 3 else output.shape[-1]} if output.ndim else set()
        layers = [module for module in model.modules() if isinstance(module, (nn.Linear, nn.Conv2d)) and width(module) in wide]
        found += layers[-1:]
    return found


def width(module: Any) -> int:
    """Outputs of a linear layer or a convolution."""
    return module.out_features if isinstance(module, nn.Linear) else module.out_channels


def heads(model: nn.Module) -> Iterator[tuple[nn.Module, int]]:
    """Linear layers of attention modules with the number of their heads."""
    for module in model.modules():
        config = getattr(module, "config", None)
        number = next(
            (
                value
                for holder in (module, config)
                for name in ("num_heads", "num_attention_heads", "n_heads", "n_head")
                if isinstance(value := getattr(holder, name, None), int)
            ),
            None,
        )
        shared = getattr(config, "num_key_value_heads", None) or number
        for name, child in module.named_children():
            if number and isinstance(child, nn.Linear) and (name == "qkv" or name in PARTS):
                yield child, shared if name in {"k_proj", "v_proj"} else number


def _ready(model: nn.Module) -> None:
    from timm.layers import attention as timm_attention
    from timm.models import vision_transformer

    plain = {getattr(file, "Attention", None) for file in (timm_attention, vision_transformer)}
    for module in model.modules():
        if type(module) in plain and isinstance(getattr(module, "qkv", None), nn.Linear):
            module.forward = _attention.__get__(module)


def _attention(self: Any, x: torch.Tensor, **_: Any) -> torch.Tensor:
    batch, tokens, _channels = x.shape
    q, k, v = self.qkv(x).reshape(batch, tokens, 3, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4).unbind(0)
    x = nn.functional.scaled_dot_product_attention(self.q_norm(q), self.k_norm(k), v)
    return self.proj(x.transpose(1, 2).reshape(batch, tokens, -1))


def _repair(model: Any) -> None:
    """What its examples set by hand after the step."""
    for module in model.modules():
        qkv, number = getattr(module, "qkv", None), getattr(module, "num_heads", None)
        if isinstance(qkv, nn.Linear) and isinstance(number, int) and hasattr(module, "head_dim"):
            module.head_dim = qkv.out_features // (3 * number)
    if hasattr(model, "hidden_dim") and hasattr(model, "conv_proj"):
        model.hidden_dim = model.conv_proj.out_channels


def _step(pruner: Any, model: nn.Module) -> bool:
    pruner.step()
    _repair(model)
    return True


def _forward(small: nn.Module, args: Any, kwargs: Any, before: list[torch.Tensor]) -> None:
    shapes = [[tuple(tensor.shape) for tensor in side] for side in (before, run(small, args, kwargs))]
    assert shapes[0] == shapes[1], f"output shapes {shapes[0]} became {shapes[1]}"


def _tenth(remaining: float) -> None:
    assert remaining <= 0.9, f"{remaining:.1%} of the parameters remain"


def _zero_channels(model: nn.Module, args: Any, kwargs: Any, outputs: list[torch.Tensor]) -> None:
    """Prune but what reaches a normalised axis; the original, the removed channels' parameters zeroed, must give the same.

    What was removed is read off a second copy, pruned by the same history, whose parameters hold the numbers of their elements.
    """
    kept_out = normalised_axes(model, args, kwargs)
    small, tagged = copy.deepcopy(model), copy.deepcopy(model)
    masked = copy.deepcopy(model).double()
    _ready(masked)
    pruner, follower = (pruner_of(each, args, kwargs, outputs) for each in (small, tagged))
    names = {module: name for name, module in small.named_modules()}
    for group in pruner.step(interactive=True):
        reached = {axis for dep, _ in group for axis in axes_of(pruner.DG, names, dep)}
        if not reached & kept_out:
            group.prune()
    history = pruner.DG.pruning_history()
    if not history:
        raise Skipped("something normalises across every group")
    for parameter in tagged.parameters():
        parameter.data = torch.arange(parameter.numel(), dtype=torch.float64).view(parameter.shape)
    follower.DG.load_pruning_history(history)
    originals = dict(masked.named_parameters())
    with torch.no_grad():
        for name, left in tagged.named_parameters():
            places = torch.unravel_index(left.data.long().reshape(-1), originals[name].shape)
            for dim, place in enumerate(places):
                size = originals[name].shape[dim]
                gone = torch.tensor(sorted(set(range(size)) - set(place.tolist())), dtype=torch.long)
                originals[name].index_fill_(dim, gone, 0.0)
    _repair(small)
    if in_double(model, args, kwargs) is None:
        raise Skipped("the model itself does not run in double precision")
    expected, met = run(masked, doubled(args), doubled(kwargs)), run(small.double(), doubled(args), doubled(kwargs))
    for a, b in zip(expected, met, strict=True):
        assert a.shape == b.shape, f"output shape {tuple(a.shape)} became {tuple(b.shape)}"
        gap = float((a - b).abs().max()) if a.numel() else 0.0
        assert gap <= 1e-6 * (float(a.abs().max()) + 1.0 if a.numel() else 1.0), f"the output changed by {gap}"


def normalised_axes(model: nn.Module, args: Any, kwargs: Any) -> frozenset[tuple[str, int]]:
    """Axes of parameters over which something normalises, as law 6 leaves them out of our own comparison."""
    try:
        graph = dg.trace(model, args, kwargs)
    except Exception:  # noqa: BLE001 - counted among our own failures, not among theirs
        raise Skipped("no graph tells across what is normalised") from None
    normalised = testing.normalised_atoms(graph)
    beside = {atom for balance in graph.balances if normalised.intersection(balance.atoms) for atom in balance.atoms}
    return frozenset(
        (name, dim)
        for tensor in graph.tensors
        if tensor.kind == "parameter"
        for dim, space in enumerate(tensor.axes)
        if not (normalised | beside).isdisjoint(atoms(space))
        for name in (tensor.name, *tensor.aliases)
    )


def axes_of(graph: Any, names: dict[nn.Module, str], dep: Any) -> Iterator[tuple[str, int]]:
    """The axes of parameters that one dependency of Torch-Pruning reaches."""
    module = dep.target.module
    if isinstance(module, nn.Parameter):
        for dim in range(module.ndim):
            yield graph._param_to_name[module], dim
    elif module in names:
        outs = graph.is_out_channel_pruning_fn(dep.handler)
        transposed = isinstance(module, nn.modules.conv._ConvTransposeNd)
        for name, parameter in module.named_parameters(recurse=False):
            dim = 0 if parameter.ndim < 2 else int(outs == transposed)
            yield f"{names[module]}.{name}", dim
