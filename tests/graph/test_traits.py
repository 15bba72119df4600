"""What operations keep of the operator table's traits: offsets, weights of layers, what is normalised."""

import torch
from torch import nn
from torch.nn import functional as F

import depgraph as dg
from depgraph import testing
from depgraph.algebra.spaces import atoms
from depgraph.criteria.layers import layers_of


class Shifted(nn.Module):
    """A norm with a bias but no scale, and a transposed convolution that is called by the general operator."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(4, 6), nn.Linear(6, 6)
        self.shift, self.kernel = nn.Parameter(torch.randn(6)), nn.Parameter(torch.randn(6, 5, 3))

    def forward(self, x):
        x = self.last(F.layer_norm(self.first(x), (6,), None, self.shift))
        return torch.ops.aten.convolution(x.mT, self.kernel, None, [1], [0], [1], True, [0], 1)


def test_offsets_and_weights_are_told_by_the_call():
    """A norm's bias is an offset without a scale before it; a transposed convolution reads along its weight's first axis."""
    graph = dg.trace(Shifted(), torch.randn(2, 7, 4))
    assert graph.offsets == {"first.bias", "last.bias", "shift"}
    (layer,) = layers_of(graph)["kernel"]
    assert (layer.in_dim, layer.out_dim, layer.in_space.size, layer.out_space.size) == (0, 1, 6, 5)


class Normed(nn.Module):
    """A group norm over channels and learned positions, then attention over learned keys."""

    def __init__(self):
        super().__init__()
        self.places, self.norm = nn.Parameter(torch.randn(4, 5)), nn.GroupNorm(2, 4)
        self.keys, self.values = nn.Parameter(torch.randn(1, 7, 5)), nn.Parameter(torch.randn(1, 7, 5))

    def forward(self, x):
        return F.scaled_dot_product_attention(self.norm(x * self.places), self.keys, self.values).sum(-1)


def test_positions_of_a_group_norm_and_keys_are_normalised():
    """Masking what a group norm averages over, or a key, is not removing it."""
    graph = dg.trace(Normed(), torch.randn(1, 4, 1))
    normalised = testing.normalised_atoms(graph)
    for name, dim in (("places", 0), ("places", 1), ("keys", 1)):
        assert normalised.issuperset(atoms(graph.axis(name, dim))), name
