"""Which integer attributes of torch's own layers follow which parameter axes, and which of them forward reads."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from torch import nn

from depgraph.solving.statements import Axis, Term, Value

Find = Callable[[str], Value | None]


_NORMS = (nn.modules.batchnorm._NormBase,)


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


def followed(module: nn.Module, find: Find) -> Iterator[tuple[str, Term]]:
    """Attributes of a layer with the term that each one counts."""
    weight = _weight(find)
    if isinstance(module, nn.modules.conv._ConvNd):
        if weight is not None and weight.shape[0] > 0 and weight.ndim == len(module.kernel_size) + 2:
            yield from _convolution(module, weight)
    elif isinstance(module, nn.Linear) and weight is not None:
        yield from _plain(module, weight, out_features=0, in_features=1)
    elif isinstance(module, nn.Embedding) and weight is not None:
        yield from _plain(module, weight, num_embeddings=0, embedding_dim=1)
    elif isinstance(module, _NORMS):
        held = weight or find("running_mean")
        if held is not None:
            yield from _plain(module, held, num_features=0)
    elif isinstance(module, nn.GroupNorm) and weight is not None:
        yield from _plain(module, weight, num_channels=0)
    elif isinstance(module, nn.PReLU) and weight is not None:
        yield from _plain(module, weight, num_parameters=0)
    elif isinstance(module, nn.Bilinear) and weight is not None:
        yield from _plain(module, weight, out_features=0, in1_features=1, in2_features=2)
    elif isinstance(module, nn.RNNCellBase):
        recurrent, inputs = find("weight_hh"), find("weight_ih")
        if recurrent is not None and inputs is not None:
            yield from _plain(module, recurrent, hidden_size=1)
            yield from _plain(module, inputs, input_size=1)
    elif isinstance(module, nn.RNNBase):
        recurrent, inputs = find("weight_hh_l0"), find("weight_ih_l0")
        if recurrent is not None and inputs is not None and not module.proj_size:
            yield from _plain(module, recurrent, hidden_size=1)
            yield from _plain(module, inputs, input_size=1)
    elif isinstance(module, nn.MultiheadAttention):
        out = find("out_proj.weight")
        if out is not None:
            yield from _plain(module, out, embed_dim=0)
            if module._qkv_same_embed_dim:
                yield from _plain(module, out, kdim=0, vdim=0)
        for name, tensor in (("kdim", "k_proj_weight"), ("vdim", "v_proj_weight")):
            held = find(tensor)
            if held is not None:
                yield from _plain(module, held, **{name: 1})


def _weight(find: Find) -> Value | None:
    """The weight, or what one of torch's parametrisations, weight norms and spectral norms computes it from."""
    found = find("weight") or find("parametrizations.weight.original") or find("parametrizations.weight.original1")
    return found or (find("weight_v") if find("weight_g") is not None else find("weight_orig"))


def _plain(module: nn.Module, tensor: Value, **dims: int) -> Iterator[tuple[str, Axis]]:
    for name, dim in dims.items():
        if dim < tensor.ndim and getattr(module, name, None) == tensor.shape[dim]:
            yield name, tensor[dim]


def _convolution(module: nn.modules.conv._ConvNd, weight: Value) -> Iterator[tuple[str, Term]]:
    """A grouped convolution's second weight axis counts one block; the attribute counts them all."""
    narrow = ("out_channels", "in_channels") if module.transposed else ("in_channels", "out_channels")
    yield narrow[1], weight[0]
    if module.groups == 1:
        yield narrow[0], weight[1]
