"""Graphs, points, sets and tables: message passing, T-Nets, embedding bags, towers."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from tests.zoo import Made, Maker
from tests.zoo.plain_sequences import made

EDGES = torch.tensor([[0, 1, 1, 2, 3, 3, 4, 5, 2], [1, 0, 2, 1, 2, 4, 3, 0, 5]])


def scatter_softmax(scores: torch.Tensor, index: torch.Tensor, nodes: int) -> torch.Tensor:
    """Softmax over the edges that enter the same node."""
    index = index.unsqueeze(-1).expand_as(scores)
    largest = torch.full((nodes, scores.size(-1)), float("-inf"), dtype=scores.dtype)
    largest = largest.scatter_reduce(0, index, scores, reduce="amax", include_self=True)
    weights = (scores - largest.gather(0, index)).exp()
    total = torch.zeros(nodes, scores.size(-1), dtype=scores.dtype).scatter_add(0, index, weights)
    return weights / (total.gather(0, index) + 1e-16)


class GCNLayer(nn.Module):
    """Symmetrically normalised neighbourhood sums by `index_add`."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(inputs, outputs) * 0.3), nn.Parameter(torch.zeros(outputs))

    def forward(self, x: torch.Tensor, edges: torch.Tensor) -> torch.Tensor:
        source, target = edges
        degree = torch.zeros(x.size(0), dtype=x.dtype).scatter_add_(0, target, torch.ones(target.size(0), dtype=x.dtype))
        norm = (degree + 1).rsqrt()
        x = x @ self.weight
        messages = x[source] * (norm[source] * norm[target]).unsqueeze(-1)
        return torch.zeros_like(x).index_add(0, target, messages) + x / (degree + 1).unsqueeze(-1) + self.bias


class GCN(nn.Module):
    """Two graph convolutions and a readout over nodes."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = GCNLayer(7, 16), GCNLayer(16, 12), nn.Linear(12, 3)

    def forward(self, x: torch.Tensor, edges: torch.Tensor) -> torch.Tensor:
        return self.head(F.relu(self.second(F.relu(self.first(x, edges)), edges)))


class GATLayer(nn.Module):
    """Heads of attention over edges, concatenated."""

    def __init__(self, inputs: int, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.width = heads, width
        self.project = nn.Linear(inputs, heads * width, bias=False)
        self.source, self.target = nn.Parameter(torch.randn(1, heads, width)), nn.Parameter(torch.randn(1, heads, width))

    def forward(self, x: torch.Tensor, edges: torch.Tensor) -> torch.Tensor:
        nodes = x.size(0)
        h = self.project(x).view(-1, self.heads, self.width)
        a, b = (h * self.source).sum(-1), (h * self.target).sum(-1)
        alpha = scatter_softmax(F.leaky_relu(a[edges[0]] + b[edges[1]], 0.2), edges[1], nodes)
        messages = h[edges[0]] * alpha.unsqueeze(-1)
        index = edges[1].view(-1, 1, 1).expand_as(messages)
        return torch.zeros_like(h).scatter_add(0, index, messages).flatten(1)


class GAT(nn.Module):
    """Two layers of graph attention."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = GATLayer(7, 6, 4), GATLayer(24, 8, 2)
        self.head = nn.Linear(16, 3)

    def forward(self, x: torch.Tensor, edges: torch.Tensor) -> torch.Tensor:
        return self.head(F.elu(self.second(F.elu(self.first(x, edges)), edges)))


class GraphSAGE(nn.Module):
    """A node's features beside the mean of its neighbours', edge features mixed into the messages, pooled per graph."""

    def __init__(self) -> None:
        super().__init__()
        self.encode, self.edge = nn.Linear(7, 12), nn.Linear(3, 12)
        self.message = nn.Sequential(nn.Linear(36, 16), nn.ReLU(), nn.Linear(16, 10))
        self.update = nn.Linear(12 + 10, 14)
        self.head = nn.Linear(14, 2)

    def forward(self, x: torch.Tensor, edges: torch.Tensor, attributes: torch.Tensor) -> torch.Tensor:
        h, e = self.encode(x), self.edge(attributes)
        source, target = edges
        messages = self.message(torch.cat([h[source], h[target], e], dim=-1))
        total = h.new_zeros(h.size(0), messages.size(-1)).index_add_(0, target, messages)
        count = h.new_zeros(h.size(0)).index_add_(0, target, h.new_ones(target.numel())).clamp(min=1)
        h = F.normalize(F.relu(self.update(torch.cat([h, total / count[:, None]], -1))), dim=-1)
        return self.head(h.mean(0, keepdim=True))


class TNet(nn.Module):
    """Predicts a square transform, near the identity."""

    def __init__(self, k: int) -> None:
        super().__init__()
        self.k = k
        self.conv1, self.conv2 = nn.Conv1d(k, 16, 1), nn.Conv1d(16, 24, 1)
        self.bn1, self.bn2 = nn.BatchNorm1d(16), nn.BatchNorm1d(24)
        self.fc1, self.fc2 = nn.Linear(24, 20), nn.Linear(20, k * k)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch = x.size()[0]
        x = F.relu(self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))))
        x = torch.max(x, 2, keepdim=True)[0].view(-1, 24)
        x = self.fc2(F.relu(self.fc1(x)))
        return x.view(-1, self.k, self.k) + torch.eye(self.k).view(1, self.k, self.k).repeat(batch, 1, 1)


class PointNet(nn.Module):
    """Points and features are transformed by predicted matrices; a maximum over points classifies."""

    def __init__(self) -> None:
        super().__init__()
        self.points, self.features = TNet(3), TNet(12)
        self.conv1, self.conv2, self.conv3 = nn.Conv1d(3, 12, 1), nn.Conv1d(12, 16, 1), nn.Conv1d(16, 32, 1)
        self.bn1, self.bn2, self.bn3 = nn.BatchNorm1d(12), nn.BatchNorm1d(16), nn.BatchNorm1d(32)
        self.segment, self.classify = nn.Conv1d(32 + 12, 10, 1), nn.Linear(32, 5)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        n = x.size()[2]
        x = torch.bmm(x.transpose(2, 1), self.points(x)).transpose(2, 1)
        x = F.relu(self.bn1(self.conv1(x)))
        x = torch.bmm(x.transpose(2, 1), self.features(x)).transpose(2, 1)
        local = x
        x = self.bn3(self.conv3(F.relu(self.bn2(self.conv2(x)))))
        x = torch.max(x, 2, keepdim=True)[0]
        pooled = x.view(x.size(0), -1)
        spread = x.repeat(1, 1, n)
        return self.classify(pooled), self.segment(torch.cat([spread, local], 1)).max(1)[0]


class EdgeConv(nn.Module):
    """DGCNN: features of the nearest neighbours, by pairwise distances, topk and flat indices."""

    def __init__(self, k: int = 3) -> None:
        super().__init__()
        self.k = k
        self.convs = nn.ModuleList([nn.Conv2d(6, 12, 1), nn.Conv2d(24, 16, 1)])
        self.head = nn.Linear(28, 4)

    def neighbours(self, x: torch.Tensor) -> torch.Tensor:
        inner = -2 * torch.matmul(x.transpose(2, 1), x)
        squares = torch.sum(x**2, dim=1, keepdim=True)
        index = (-squares - inner - squares.transpose(2, 1)).topk(k=self.k, dim=-1)[1]
        batch, dims, points = x.shape
        index = (index + torch.arange(batch).view(-1, 1, 1) * points).view(-1)
        x = x.transpose(2, 1).contiguous()
        near = x.view(batch * points, -1)[index, :].view(batch, points, self.k, dims)
        x = x.view(batch, points, 1, dims).repeat(1, 1, self.k, 1)
        return torch.cat((near - x, x), dim=3).permute(0, 3, 1, 2).contiguous()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        levels = []
        for conv in self.convs:
            x = F.leaky_relu(conv(self.neighbours(x)), 0.2).max(dim=-1, keepdim=False)[0]
            levels.append(x)
        return self.head(torch.cat(levels, dim=1).max(-1)[0])


class DLRM(nn.Module):
    """Dense features and embedding bags; pairs interact by dot products below the diagonal."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.bags = nn.ModuleList(nn.EmbeddingBag(30, width, mode="sum") for _ in range(3))
        self.bottom = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, width), nn.ReLU())
        self.top = nn.Sequential(nn.Linear(width + 6, 12), nn.ReLU(), nn.Linear(12, 1), nn.Sigmoid())

    def forward(self, dense: torch.Tensor, *sparse: torch.Tensor) -> torch.Tensor:
        x = self.bottom(dense)
        embedded = [bag(ids) for bag, ids in zip(self.bags, sparse, strict=True)]
        batch, width = x.shape
        stacked = torch.cat([x, *embedded], dim=1).view((batch, -1, width))
        pairs = torch.bmm(stacked, torch.transpose(stacked, 1, 2))
        i, j = torch.tril_indices(pairs.shape[1], pairs.shape[2], offset=-1)
        return self.top(torch.cat([x, pairs[:, i, j]], dim=1))


class TwoTower(nn.Module):
    """Users and items in one space, compared by cosine similarity; normalised by hand for the whole batch."""

    def __init__(self) -> None:
        super().__init__()
        self.users, self.items = nn.Embedding(30, 10), nn.Embedding(40, 10)
        self.user, self.item = (nn.Sequential(nn.Linear(10, 16), nn.ReLU(), nn.Linear(16, 12)) for _ in range(2))
        self.temperature = nn.Parameter(torch.tensor(2.0))

    def forward(self, users: torch.Tensor, items: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        u, v = self.user(self.users(users)), self.item(self.items(items))
        pairwise = F.normalize(u, dim=-1) @ (v / v.norm(dim=-1, keepdim=True)).T
        return F.cosine_similarity(u, v, dim=-1), pairwise * self.temperature.exp()


class Siamese(nn.Module):
    """One encoder for two images, compared by absolute differences and products."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv2d(1, 6, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 16, 12)
        )
        self.compare = nn.Linear(24, 1)

    def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        p, q = self.encoder(a), self.encoder(b)
        return torch.sigmoid(self.compare(torch.cat([(p - q).abs(), p * q], 1))).squeeze(1)


class DeepFM(nn.Module):
    """Factorisation by sums and squares of field embeddings from one table with offsets, beside a network."""

    def __init__(self, fields: tuple[int, ...] = (5, 7, 9), width: int = 6) -> None:
        super().__init__()
        self.fields, self.width = len(fields), width
        self.table, self.linear = nn.Embedding(sum(fields), width), nn.Embedding(sum(fields), 1)
        self.register_buffer("offsets", torch.tensor((0, *fields)).cumsum(0)[:-1])
        self.net = nn.Sequential(nn.Linear(self.fields * width, 14), nn.BatchNorm1d(14), nn.ReLU(), nn.Linear(14, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.offsets.unsqueeze(0)
        embedded = self.table(x)
        squares = embedded.sum(dim=1) ** 2 - (embedded**2).sum(dim=1)
        deep = self.net(embedded.view(-1, self.fields * self.width))
        return torch.sigmoid(self.linear(x).sum(1) + 0.5 * squares.sum(1, keepdim=True) + deep).squeeze(1)


class SetEncoder(nn.Module):
    """Deep Sets with a masked mean, from a boolean mask of present elements."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.outer = nn.Sequential(nn.Linear(5, 16), nn.ReLU(), nn.Linear(16, 12)), nn.Linear(12, 3)

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        h = self.inner(x).masked_fill(~mask[..., None], 0.0)
        return self.outer(h.sum(1) / mask.sum(1, keepdim=True))


def graph(kind: type[nn.Module], *more: Any) -> Maker:
    """A maker of a network on a small graph."""
    return lambda: (kind().eval(), (torch.randn(6, 7), EDGES, *more), {})


def dlrm() -> Made:
    """Dense features, and three bags of two numbers each."""
    return DLRM().eval(), (torch.randn(4, 6), *(torch.randint(0, 30, (4, 2)) for _ in range(3))), {}


def towers() -> Made:
    """Four users and items."""
    return TwoTower().eval(), (torch.randint(0, 30, (4,)), torch.randint(0, 40, (4,))), {}


def masked_sets() -> Made:
    """Three sets of at most five elements."""
    return SetEncoder().eval(), (torch.randn(3, 5, 5), torch.tensor([[1, 1, 0, 0, 1]] * 3).bool()), {}


MODELS: dict[str, Maker] = {
    "gcn": graph(GCN),
    "gat": graph(GAT),
    "graphsage": graph(GraphSAGE, torch.randn(9, 3)),
    "pointnet": made(PointNet, 2, 3, 10),
    "dgcnn": made(EdgeConv, 2, 3, 8),
    "dlrm": dlrm,
    "two_tower": towers,
    "siamese": lambda: (Siamese().eval(), (torch.randn(2, 1, 14, 14), torch.randn(2, 1, 14, 14)), {}),
    "deep_fm": lambda: (DeepFM().eval(), (torch.randint(0, 5, (4, 3)),), {}),
    "deep_sets": masked_sets,
}
