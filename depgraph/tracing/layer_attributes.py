"""Which integer attributes of torch's own layers follow which parameter axes, and which of them forward reads."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from attrs import frozen
from torch import nn

from depgraph.solving.statements import Term, Value
from depgraph.wrappers import own_class

Lookup = Callable[[str], Value | None]
"""The parameter or buffer of a layer by its name there; None where it has none of this name."""


_READ_ATTRIBUTES: tuple[tuple[type | tuple[type, ...], frozenset[str]], ...] = (
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
"""Layers whose forward takes integer attributes as sizes, and which; that of any other layer of torch takes none."""


POSITIONAL = frozenset({"kernel_size", "stride", "padding", "dilation", "output_padding", "_reversed_padding_repeated_twice"})
"""Attributes of convolutions and poolings that count positions. They are no sizes of channels, also in subclasses."""


def read_in_forward(module: nn.Module) -> frozenset[str] | None:
    """The integer attributes that the forward of a layer of torch takes as sizes; None for any other module: all."""
    for kinds, names in _READ_ATTRIBUTES:
        if isinstance(module, kinds):
            return names if own_class(module).__module__.startswith("torch.") else None
    return frozenset() if own_class(module).__module__.startswith("torch.nn.modules") else None


@frozen
class _CountedAxis:
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


_COUNTED_AXES: tuple[tuple[type, tuple[_CountedAxis, ...]], ...] = (
    (nn.Linear, (_CountedAxis(("out_features",), 0), _CountedAxis(("in_features",), 1))),
    (nn.Embedding, (_CountedAxis(("num_embeddings",), 0), _CountedAxis(("embedding_dim",), 1))),
    (nn.modules.batchnorm._NormBase, (_CountedAxis(("num_features",), 0, ("weight", "running_mean")),)),
    (nn.GroupNorm, (_CountedAxis(("num_channels",), 0),)),
    (nn.PReLU, (_CountedAxis(("num_parameters",), 0),)),
    (
        nn.Bilinear,
        tuple(_CountedAxis((name,), dim) for dim, name in enumerate(("out_features", "in1_features", "in2_features"))),
    ),
    (
        nn.RNNCellBase,
        (
            _CountedAxis(("hidden_size",), 1, ("weight_hh",), needs=("weight_ih",)),
            _CountedAxis(("input_size",), 1, ("weight_ih",), needs=("weight_hh",)),
        ),
    ),
    (
        nn.RNNBase,  # with a projection the recurrent weight counts its results, and not the hidden size
        (
            _CountedAxis(("hidden_size",), 1, ("weight_hh_l0",), ("weight_ih_l0",), lambda module: not module.proj_size),
            _CountedAxis(("input_size",), 1, ("weight_ih_l0",), ("weight_hh_l0",), lambda module: not module.proj_size),
        ),
    ),
    (
        nn.MultiheadAttention,
        (
            _CountedAxis(("embed_dim",), 0, ("out_proj.weight",)),
            _CountedAxis(("kdim", "vdim"), 0, ("out_proj.weight",), applies=lambda module: module._qkv_same_embed_dim),
            _CountedAxis(("kdim",), 1, ("k_proj_weight",)),
            _CountedAxis(("vdim",), 1, ("v_proj_weight",)),
        ),
    ),
)
"""Layers with what their attributes count; the first that fits a module is taken. Convolutions are below."""


def followed(module: nn.Module, lookup: Lookup) -> Iterator[tuple[str, Term]]:
    """Attributes of a layer with the term that each one counts."""
    if isinstance(module, nn.modules.conv._ConvNd):
        weight = _weight(lookup)
        if weight is not None and weight.shape[0] > 0 and weight.ndim == len(module.kernel_size) + 2:
            yield from _convolution_attributes(module, weight)
        return
    for axis in next((axes for kind, axes in _COUNTED_AXES if isinstance(module, kind)), ()):
        tensor = next((value for name in axis.tensors if (value := _tensor(name, lookup)) is not None), None)
        if tensor is None or axis.dim >= tensor.ndim or any(lookup(name) is None for name in axis.needs):
            continue
        if axis.applies(module):
            size = tensor.shape[axis.dim]
            yield from ((name, tensor[axis.dim]) for name in axis.attributes if getattr(module, name, None) == size)


def _tensor(name: str, lookup: Lookup) -> Value | None:
    return _weight(lookup) if name == "weight" else lookup(name)


def _weight(lookup: Lookup) -> Value | None:
    """The weight, or what one of torch's parametrisations, weight norms and spectral norms computes it from."""
    plain = lookup("weight") or lookup("parametrizations.weight.original") or lookup("parametrizations.weight.original1")
    return plain or (lookup("weight_v") if lookup("weight_g") is not None else lookup("weight_orig"))


def _convolution_attributes(module: nn.modules.conv._ConvNd, weight: Value) -> Iterator[tuple[str, Term]]:
    """The second weight axis of a grouped convolution is one block, but the attribute counts all blocks: it is left out."""
    first, second = ("in_channels", "out_channels") if module.transposed else ("out_channels", "in_channels")
    yield first, weight[0]
    if module.groups == 1:
        yield second, weight[1]
