"""Which integer attributes of torch's own layers follow which parameter axes, and which of them forward reads."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from attrs import frozen
from torch import nn

from depgraph.solving.statements import Term, Value

Find = Callable[[str], Value | None]


_READ: tuple[tuple[type | tuple[type, ...], frozenset[str]], ...] = (
    (nn.modules.conv._ConvNd, frozenset({"groups"})),
    (nn.GroupNorm, frozenset({"num_groups"})),
    (nn.modules.instancenorm._InstanceNorm, frozenset({"num_features"})),
    (nn.LayerNorm, frozenset({"normalized_shape"})),
    (nn.RMSNorm, frozenset({"normalized_shape"})),
    (nn.RNNCellBase, frozenset({"hidden_size", "input_size"})),
    (nn.RNNBase, frozenset({"hidden_size", "input_size", "proj_size"})),
    (nn.MultiheadAttention, frozenset({"embed_dim", "num_heads", "head_dim", "kdim", "vdim"})),
    (nn.Unflatten, frozenset({"unflattened_size"})),
    (nn.ChannelShuffle, frozenset({"groups"})),
    (nn.TransformerEncoder, frozenset()),
)


POSITIONAL = frozenset({"kernel_size", "stride", "padding", "dilation", "output_padding", "_reversed_padding_repeated_twice"})
"""Attributes of convolutions and poolings that count positions. They are no sizes of channels, also in subclasses."""


def read_in_forward(module: nn.Module) -> frozenset[str] | None:
    """The integer attributes that the forward of a layer of torch takes as sizes; None for any other module: all."""
    for kinds, names in _READ:
        if isinstance(module, kinds):
            return names if type(module).__module__.startswith("torch.") else None
    return frozenset() if type(module).__module__.startswith("torch.nn.modules") else None


@frozen
class _Counting:
    """An axis that attributes of a layer count.

    Attributes:
        attributes: their names.
        dim: the axis, of the first of `tensors` that the layer has.
        tensors: names of parameters or buffers; ``weight`` stands for what a parametrisation computes it from, too.
        needs: names of parameters without which the attributes are left alone.
        applies: whether the layer uses its attributes in this way.
    """

    attributes: tuple[str, ...]
    dim: int
    tensors: tuple[str, ...] = ("weight",)
    needs: tuple[str, ...] = ()
    applies: Callable[[Any], bool] = lambda module: True


_COUNTED: tuple[tuple[type, tuple[_Counting, ...]], ...] = (
    (nn.Linear, (_Counting(("out_features",), 0), _Counting(("in_features",), 1))),
    (nn.Embedding, (_Counting(("num_embeddings",), 0), _Counting(("embedding_dim",), 1))),
    (nn.modules.batchnorm._NormBase, (_Counting(("num_features",), 0, ("weight", "running_mean")),)),
    (nn.GroupNorm, (_Counting(("num_channels",), 0),)),
    (nn.PReLU, (_Counting(("num_parameters",), 0),)),
    (nn.Bilinear, tuple(_Counting((name,), dim) for dim, name in enumerate(("out_features", "in1_features", "in2_features")))),
    (
        nn.RNNCellBase,
        (
            _Counting(("hidden_size",), 1, ("weight_hh",), needs=("weight_ih",)),
            _Counting(("input_size",), 1, ("weight_ih",), needs=("weight_hh",)),
        ),
    ),
    (
        nn.RNNBase,  # with a projection the recurrent weight counts its results, and not the hidden size
        (
            _Counting(("hidden_size",), 1, ("weight_hh_l0",), ("weight_ih_l0",), lambda module: not module.proj_size),
            _Counting(("input_size",), 1, ("weight_ih_l0",), ("weight_hh_l0",), lambda module: not module.proj_size),
        ),
    ),
    (
        nn.MultiheadAttention,
        (
            _Counting(("embed_dim",), 0, ("out_proj.weight",)),
            _Counting(("kdim", "vdim"), 0, ("out_proj.weight",), applies=lambda module: module._qkv_same_embed_dim),
            _Counting(("kdim",), 1, ("k_proj_weight",)),
            _Counting(("vdim",), 1, ("v_proj_weight",)),
        ),
    ),
)
"""Layers with what their attributes count; the first that fits a module is taken. Convolutions are below."""


def followed(module: nn.Module, find: Find) -> Iterator[tuple[str, Term]]:
    """Attributes of a layer with the term that each one counts."""
    if isinstance(module, nn.modules.conv._ConvNd):
        weight = _weight(find)
        if weight is not None and weight.shape[0] > 0 and weight.ndim == len(module.kernel_size) + 2:
            yield from _convolution(module, weight)
        return
    for counting in next((rows for kind, rows in _COUNTED if isinstance(module, kind)), ()):
        tensor = next((value for name in counting.tensors if (value := _tensor(name, find)) is not None), None)
        if tensor is None or counting.dim >= tensor.ndim or any(find(name) is None for name in counting.needs):
            continue
        if counting.applies(module):
            size = tensor.shape[counting.dim]
            yield from ((name, tensor[counting.dim]) for name in counting.attributes if getattr(module, name, None) == size)


def _tensor(name: str, find: Find) -> Value | None:
    return _weight(find) if name == "weight" else find(name)


def _weight(find: Find) -> Value | None:
    """The weight, or what one of torch's parametrisations, weight norms and spectral norms computes it from."""
    plain = find("weight") or find("parametrizations.weight.original") or find("parametrizations.weight.original1")
    return plain or (find("weight_v") if find("weight_g") is not None else find("weight_orig"))


def _convolution(module: nn.modules.conv._ConvNd, weight: Value) -> Iterator[tuple[str, Term]]:
    """A grouped convolution's second weight axis counts one block; the attribute counts them all."""
    narrow = ("out_channels", "in_channels") if module.transposed else ("in_channels", "out_channels")
    yield narrow[1], weight[0]
    if module.groups == 1:
        yield narrow[0], weight[1]
