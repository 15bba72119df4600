"""The layers that read the indices of each group: which columns of their matrices an index owns, and the moments of these."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping

import torch
from attrs import evolve, frozen

from depgraph.algebra.spaces import atoms
from depgraph.criteria.gathering import GroupIndices, Member, Members, Tensors, slices
from depgraph.criteria.sums import readable, real
from depgraph.graph.graph import Graph
from depgraph.moments.layers import Layer
from depgraph.moments.sums import Moments, Sums


@frozen(eq=False)
class Reader:
    """One block of a layer's matrix, of which the indices of a group own columns.

    Attributes:
        weight: ``[outputs, inputs]``.
        count: number of rows that it read.
        products: the mean of x xᵀ, about the mean of x where the layer's bias can make up for that, ``[inputs, inputs]``.
        variances: the mean of (x - mean) ** 2, ``[inputs]``.
        owned: indices that own equally many columns, and the columns of each: ``[some]`` and ``[some, columns]``.
        gone: outputs that go with each index, ``[indices, outputs]``; None where none does.
        indices: how many indices there are.
        energy: the mean square of the layer's outputs, about their means where its bias can make up for these; of all blocks.
    """

    weight: torch.Tensor
    count: int
    products: torch.Tensor
    variances: torch.Tensor
    owned: tuple[tuple[torch.Tensor, torch.Tensor], ...]
    gone: torch.Tensor | None
    indices: int
    energy: float = 0.0


class Layers:
    """The layers of a model whose moments are known, as readers of groups."""

    def __init__(self, graph: Graph, tensors: Tensors, moments: Moments) -> None:
        self.graph, self.tensors, self.moments = graph, tensors, moments
        self._users = Counter(layer.bias for layer in moments.layers)
        self._by_name: dict[str, list[Layer]] = {}
        for layer in moments.layers:
            if layer.weight.name not in moments.left and (layer.reads in moments.fitted or layer.reads in moments.held_out):
                self._by_name.setdefault(layer.weight.name, []).append(layer)

    def reading(self, members: Members) -> Members:
        """Of the members of each group those that are inputs of a layer, without the groups that no layer reads."""
        chosen = {group: tuple(axis for axis in axes if self._is_read(axis)) for group, axes in members.items()}
        return {group: axes for group, axes in chosen.items() if axes}

    def readers(self, member: Member, indices: GroupIndices) -> Iterator[Reader]:
        """The blocks of the layers in which a parameter's dimension is an input, with what each index of a group owns there."""
        name, dim = member
        parameter = readable(name, self.tensors[name])
        owners = self._owners(name, indices)
        for layer in self._by_name[name]:
            positions = layer.weight.positions(parameter.device)
            inputs = _inputs(_coordinates(positions, parameter.shape, dim))
            if inputs is None:
                continue
            gone = _outputs_gone(positions, parameter.shape, owners)
            weight = real(parameter.flatten()[positions])
            sums = self.moments.everything(layer.reads)
            blocks = [
                self._reader(layer, sums, weight[block], block, owners[dim][:, inputs[block]], gone[block])
                for block in range(len(weight))
            ]
            energy = sum(float(((block.weight @ block.products) * block.weight).sum()) for block in blocks)
            yield from (evolve(block, energy=energy) for block in blocks)

    def _reader(
        self, layer: Layer, sums: Sums, weight: torch.Tensor, block: int, owned: torch.Tensor, gone: torch.Tensor
    ) -> Reader:
        exact = torch.float32 if weight.device.type == "mps" else torch.float64
        total = sums.total[block].to(weight.device, exact) / sums.count
        products = sums.products[block].to(weight.device, exact) / sums.count
        variances = (products.diagonal() - total.square()).clamp(min=0)
        bias = layer.bias
        if bias is not None and self._users[bias] == 1 and bias.name not in self.moments.left:
            products = products - total[:, None] * total
        gone = gone | owned.all(1)[:, None]
        going = gone if bool(gone.any()) else None
        return Reader(weight.to(exact), sums.count, products, variances, _by_count(owned), going, len(owned))

    def _is_read(self, member: Member) -> bool:
        name, dim = member
        layers = self._by_name.get(name)
        if layers is None:
            return False
        shape = self.tensors[name].shape
        places = (_inputs(_coordinates(layer.weight.positions(), shape, dim)) for layer in layers)
        return any(inputs is not None and bool((inputs != inputs[:, :1]).any()) for inputs in places)

    def _owners(self, name: str, indices: GroupIndices) -> dict[int, torch.Tensor]:
        """For each dimension of a parameter with the group's atom a mask, ``[indices, size]``: whose each place is."""
        owners = {}
        for dim, space in enumerate(self.graph.by_name[name].axes):
            numbers = torch.arange(space.size, device=self.tensors[name].device)
            if indices.atom in atoms(space):
                places = slices(numbers[:, None], 0, space, indices).flatten(0, -2)
                mask = torch.zeros(len(places), space.size, dtype=torch.bool, device=numbers.device)
                owners[dim] = mask.scatter_(1, places, True)
        return owners


def _coordinates(positions: torch.Tensor, shape: torch.Size, dim: int) -> torch.Tensor:
    """The indices along one dimension of flat positions in a contiguous tensor."""
    return positions // shape[dim + 1 :].numel() % shape[dim]


def _inputs(coordinates: torch.Tensor) -> torch.Tensor | None:
    """The index of each column, ``[blocks, inputs]``; None where it is another one for each output."""
    columns = coordinates[:, 0]
    return columns if torch.equal(coordinates, columns[:, None].expand_as(coordinates)) else None


def _outputs_gone(positions: torch.Tensor, shape: torch.Size, owners: Mapping[int, torch.Tensor]) -> torch.Tensor:
    """Which outputs of each block go with each index, ``[blocks, indices, outputs]``."""
    gone = torch.zeros(len(positions), len(next(iter(owners.values()))), positions.shape[1], dtype=torch.bool)
    gone = gone.to(positions.device)
    for dim, owned in owners.items():
        rows = _inputs(_coordinates(positions, shape, dim).mT)
        if rows is not None:
            gone |= owned[:, rows].movedim(1, 0)
    return gone


def _by_count(owned: torch.Tensor) -> tuple[tuple[torch.Tensor, torch.Tensor], ...]:
    """Indices by how many columns they own, with these columns; without those that own none."""
    counts = owned.sum(1)
    chosen = [(counts == count).nonzero()[:, 0] for count in sorted(set(counts.tolist())) if count]
    return tuple((indices, owned[indices].nonzero()[:, 1].view(len(indices), -1)) for indices in chosen)
