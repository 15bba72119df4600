"""Attention in many forms, for tests of cuts that go row by row."""

from __future__ import annotations

import copy

import torch
from torch import nn
from torch.nn import functional as F

from depgraph.algebra.index_maps import summands


class Attention(nn.Module):
    """Grouped-query attention with a width of its own for values, by one of several ways to write it.

    Scores are scaled by a constant: a factor from the number of head dims would tell masking from removing.
    """

    def __init__(self, heads=4, shared=1, width=5, values=3, stream=6, bias=True, how="matmul"):
        super().__init__()
        self.heads, self.groups, self.width, self.values = heads, heads // shared, width, values
        self.how, self.grouped = how, shared > 1
        self.q = nn.Linear(stream, heads * width, bias=bias)
        self.k = nn.Linear(stream, self.groups * width, bias=bias)
        self.v = nn.Linear(stream, self.groups * values, bias=bias)
        self.o = nn.Linear(heads * values, stream, bias=bias)

    def forward(self, x):
        batch, tokens, _ = x.shape
        q = self.q(x).view(batch, tokens, self.heads, self.width).transpose(1, 2)
        k = self.k(x).view(batch, tokens, self.groups, self.width).transpose(1, 2)
        v = self.v(x).view(batch, tokens, self.groups, self.values).transpose(1, 2)
        if self.how == "kernel":
            y = F.scaled_dot_product_attention(q, k, v, scale=0.7, enable_gqa=self.grouped)
        else:
            if self.grouped:
                k, v = (part.repeat_interleave(self.heads // self.groups, 1) for part in (k, v))
            if self.how == "einsum":
                weights = torch.softmax(0.7 * torch.einsum("bhqd,bhkd->bhqk", q, k), -1)
                y = torch.einsum("bhqk,bhkd->bhqd", weights, v)
            else:
                y = torch.softmax(0.7 * q @ k.transpose(-1, -2), -1) @ v
        return self.o(y.transpose(1, 2).reshape(batch, tokens, -1))


class Stream(nn.Module):
    """A layer between two projections, so that the stream can be pruned too."""

    def __init__(self, inner, stream=6, outside=3):
        super().__init__()
        self.enter, self.inner, self.leave = nn.Linear(outside, stream), inner, nn.Linear(stream, outside)

    def forward(self, x):
        x = self.enter(x)
        return self.leave(x + self.inner(x))


class Heads(nn.Module):
    """A projection to heads, a function of (batch, tokens, heads, width), and a projection back."""

    def __init__(self, function, heads=4, width=5, stream=6, **parameters):
        super().__init__()
        self.function, self.heads, self.width = function, heads, width
        self.a, self.b = nn.Linear(stream, heads * width), nn.Linear(stream, heads * width)
        self.o = nn.Linear(heads * width, stream)
        for name, value in parameters.items():
            if isinstance(value, nn.Parameter):
                self.register_parameter(name, value)
            elif isinstance(value, nn.Module):
                self.add_module(name, value)
            else:
                self.register_buffer(name, value)

    def forward(self, x):
        batch, tokens, _ = x.shape
        a, b = (layer(x).view(batch, tokens, self.heads, self.width) for layer in (self.a, self.b))
        return self.o(self.function(self, a, b).reshape(batch, tokens, self.heads * self.width))


def shuffled(graph, model, atom, base, seed=0):
    """The model with an atom's indices in another order in each row: the same function, if nothing ties the rows.

    A cut row by row is such a shuffle, a plain cut, and the shuffle back.
    """
    generator = torch.Generator().manual_seed(seed)
    orders = torch.stack([torch.randperm(atom.size, generator=generator) for _ in range(base.size)])
    model = copy.deepcopy(model)
    held = dict(model.named_parameters()) | dict(model.named_buffers())
    for name, tensor in held.items():
        for dim, space in enumerate(graph.tensor(name).axes):
            numbers = torch.arange(space.size)
            moved = numbers.clone()
            for term in summands(space):
                places = {place.atom: (place.atom.size, place.stride) for place in term.places}
                if atom in places:
                    ordered = (places.pop(base), places.pop(atom), *places.values())
                    block = numbers.as_strided([size for size, _ in ordered], [step for _, step in ordered], term.offset)
                    order = orders.view(*orders.shape, *(1,) * (block.ndim - 2)).expand_as(block)
                    moved[block.flatten()] = block.gather(1, order).flatten()
            if not torch.equal(moved, numbers):
                tensor.data = tensor.data.index_select(dim, moved)
    return model
