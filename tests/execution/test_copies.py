"""Copies of models are those of `copy.deepcopy`, with other tensors."""

from __future__ import annotations

import copy
from collections import OrderedDict
from typing import Any

import pytest
import torch
from torch import nn

from depgraph.execution.copying import copied


class _Config:
    def __init__(self, width: int) -> None:
        self.width = width
        self.sizes = [width, 2 * width]


class _Ruler:
    """It looks at the module that it holds while it is copied."""

    def __init__(self, layer: nn.Linear) -> None:
        self.layer = layer
        self.width = layer.weight.shape[0] + layer.bias.shape[0]
        self.training, self.inner = layer.training, len(list(layer.modules()))

    def __deepcopy__(self, memo: dict[int, Any]) -> _Ruler:
        return _Ruler(copy.deepcopy(self.layer, memo))


class _Holder(nn.Module):
    """Attributes of every kind, some of them shared."""

    def __init__(self) -> None:
        super().__init__()
        config = _Config(4)
        layer = nn.Linear(4, 4)
        self.ruler = _Ruler(layer)
        self.config, self.same_config, self.sizes = config, config, config.sizes
        self.layer, self.again, self.absent = layer, layer, None
        self.attention, self.convolution = nn.MultiheadAttention(4, 2), nn.Conv2d(2, 2, 1)
        self.blocks = nn.ModuleList([nn.Sequential(layer, nn.BatchNorm1d(4)), nn.Dropout(0.1)])
        self.table = {"layer": layer, "tensor": layer.weight, "pair": (1, [layer])}
        self.method = layer.forward
        self.register_buffer("ramp", torch.arange(4.0))
        self.register_buffer("none", None)
        self.register_parameter("unused", None)
        layer.register_forward_hook(lambda module, args, result: result + 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.blocks[0](self.method(x)) * self.ramp + self.config.width


class _Own(nn.Module):
    """It says itself how it is copied, and looks at what it holds."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.layer = layer
        self.width = layer.out_features

    def __deepcopy__(self, memo: dict[int, Any]) -> _Own:
        return _Own(copy.deepcopy(self.layer, memo))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x) * self.width


class _Sharing(nn.Module):
    """The layer is met before the module that copies itself."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)
        self.first, self.last = nn.Sequential(self.layer), nn.Sequential(_Own(self.layer))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.first(x))


def _described(content: Any, numbers: dict[int, int]) -> Any:
    """Everything that a copy has in common with its original: structure, order, types, values, and what is one object."""
    if content is None or isinstance(content, (int, float, str, bool, torch.dtype, torch.device)):
        return content
    if id(content) in numbers:
        return f"object {numbers[id(content)]}"
    numbers[id(content)] = len(numbers)
    if isinstance(content, torch.Tensor):
        return type(content).__name__, content.requires_grad, content.tolist()
    if isinstance(content, (list, tuple)):
        return type(content).__name__, [_described(item, numbers) for item in content]
    if isinstance(content, dict):
        return type(content).__name__, [(key, _described(item, numbers)) for key, item in content.items()]
    if hasattr(content, "__self__"):
        return content.__name__, _described(content.__self__, numbers)
    if callable(content) and not isinstance(content, nn.Module):
        return content.__name__
    return type(content).__name__, _described(vars(content), numbers) if hasattr(content, "__dict__") else None


@pytest.mark.parametrize("make", [_Holder, _Sharing])
def test_a_copy_is_that_of_deepcopy(make: type[nn.Module]) -> None:
    model = make().eval()
    before = _described(model, {})
    result, expected = copied(model, {}), copy.deepcopy(model)
    assert _described(result, {}) == _described(expected, {})
    assert _described(model, {}) == before
    x = torch.randn(3, 4)
    assert torch.equal(result(x), expected(x))
    originals = {
        id(item) for module in model.modules() for item in (module, *vars(module).values()) if hasattr(item, "__dict__")
    }
    assert originals.isdisjoint(id(item) for module in result.modules() for item in (module, *vars(module).values()))
    addresses = {tensor.data_ptr() for tensor in model.state_dict().values()}
    assert addresses.isdisjoint(tensor.data_ptr() for tensor in result.state_dict().values())


def test_what_older_pickles_lack_is_added_and_what_was_compiled_is_not_copied() -> None:
    model = nn.Sequential(nn.Conv2d(2, 2, 1))
    model[0].compile()
    del model[0].padding_mode, model[0]._forward_hooks_with_kwargs
    result = copied(model, {})
    assert result[0].padding_mode == "zeros"
    assert result[0]._forward_hooks_with_kwargs == {}
    assert result[0]._compiled_call_impl is None


def test_a_graph_module_is_copied_in_its_own_way() -> None:
    model = torch.fx.symbolic_trace(nn.Sequential(nn.Linear(2, 3), nn.ReLU()))
    result, x = copied(model, {}), torch.randn(3, 2)
    assert torch.equal(result(x), model(x))
    assert result.get_submodule("0").weight is not model.get_submodule("0").weight


def test_given_tensors_take_their_places_everywhere() -> None:
    model = _Holder()
    new = nn.Parameter(torch.zeros(2, 4))
    result = copied(model, {id(model.layer.weight): new})
    assert result.layer.weight is new
    assert result.table["tensor"] is new
    assert result.table["layer"] is result.layer is result.again is result.blocks[0][0] is result.method.__self__
    assert result.ruler.layer is result.layer
    assert result.ruler.width == 2 + 4
    assert result.config is result.same_config is not model.config
    assert result.sizes is result.config.sizes


def test_hooks_of_copies_are_their_own() -> None:
    model = _Holder()
    result = copied(model, {})
    result.layer.register_forward_hook(lambda *_: None)
    result.blocks[1].register_forward_pre_hook(lambda *_: None)
    assert (len(model.layer._forward_hooks), len(result.layer._forward_hooks)) == (1, 2)
    assert not model.blocks[1]._forward_pre_hooks
    assert type(result.blocks[1]._forward_pre_hooks) is OrderedDict
