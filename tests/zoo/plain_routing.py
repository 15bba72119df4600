"""Forwards that depend on data: routing, early exits, filters, pruned tokens, memories."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from tests.zoo import Maker
from tests.zoo.plain_sequences import made, tokens


class Expert(nn.Module):
    """A gated feed-forward network."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.w1, self.w3, self.w2 = nn.Linear(width, hidden), nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.w2(F.silu(self.w1(x)) * self.w3(x))


class TopKMoE(nn.Module):
    """Each token goes to its best experts; each expert gathers its tokens by `torch.where` and adds its results."""

    def __init__(self, width: int = 12, experts: int = 4, k: int = 2, one_hot: bool = False) -> None:
        super().__init__()
        self.num_experts, self.top_k, self.one_hot = experts, k, one_hot
        self.inputs, self.norm = nn.Linear(6, width), nn.LayerNorm(width)
        self.gate = nn.Linear(width, experts, bias=False)
        self.experts = nn.ModuleList(Expert(width, 10) for _ in range(experts))
        self.head = nn.Linear(width, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.inputs(x)
        b, n, width = h.shape
        flat = self.norm(h).view(-1, width)
        weights, chosen = torch.topk(F.softmax(self.gate(flat), dim=1, dtype=torch.float), self.top_k, dim=-1)
        weights = (weights / weights.sum(dim=-1, keepdim=True)).to(flat.dtype)
        out = torch.zeros((b * n, width), dtype=flat.dtype)
        if self.one_hot:
            mask = F.one_hot(chosen, num_classes=self.num_experts).permute(2, 1, 0)
            for number in mask.sum(dim=(-1, -2)).nonzero():
                slot, token = torch.where(mask[number].squeeze(0))
                current = flat[None, token].reshape(-1, width)
                out.index_add_(0, token, self.experts[number](current) * weights[token, slot, None])
        else:
            for number, expert in enumerate(self.experts):
                token, slot = torch.where(chosen == number)
                out[token] += weights[token, slot, None] * expert(flat[token])
        return self.head(h + out.reshape(b, n, width))


class DenseMoE(nn.Module):
    """Soft mixture by einsum over stacked expert weights, with every expert computed."""

    def __init__(self, width: int = 12, experts: int = 4, hidden: int = 10) -> None:
        super().__init__()
        self.inputs, self.gate, self.head = nn.Linear(6, width), nn.Linear(width, experts), nn.Linear(width, 3)
        self.w1 = nn.Parameter(torch.randn(experts, width, hidden) * 0.2)
        self.w2 = nn.Parameter(torch.randn(experts, hidden, width) * 0.2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.inputs(x)
        weights = self.gate(h).softmax(-1)
        hidden = F.gelu(torch.einsum("bnd,edh->bneh", h, self.w1))
        return self.head(h + torch.einsum("bneh,ehd,bne->bnd", hidden, self.w2, weights))


class EarlyExit(nn.Module):
    """Leaves after the block whose classifier is sure, by `if` on a tensor."""

    def __init__(self, threshold: float = 0.2, by_item: bool = False) -> None:
        super().__init__()
        self.threshold, self.by_item = threshold, by_item
        self.stem = nn.Linear(6, 12)
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 12)) for _ in range(3))
        self.exits = nn.ModuleList(nn.Linear(12, 4) for _ in range(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.stem(x)
        for block, leave in zip(self.blocks, self.exits, strict=True):
            h = h + block(h)
            logits = leave(h)
            confidence = logits.softmax(-1).max(-1).values.mean()
            if self.by_item and confidence.item() > self.threshold:
                return logits
            if not self.by_item and confidence > self.threshold:
                return logits
        return logits


class DetectionHead(nn.Module):
    """Keeps the positions whose score is high, by a boolean mask, and describes each by its own features."""

    def __init__(self, width: int = 12) -> None:
        super().__init__()
        self.backbone = nn.Sequential(
            nn.Conv2d(3, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, 10, 3, padding=1), nn.ReLU()
        )
        self.score, self.box = nn.Conv2d(10, 1, 1), nn.Conv2d(10, 4, 1)
        self.describe = nn.Sequential(nn.Linear(10, 14), nn.ReLU(), nn.Linear(14, 5))

    def forward(self, x: torch.Tensor) -> list[dict[str, torch.Tensor]]:
        features = self.backbone(x)
        scores, boxes = self.score(features).sigmoid(), self.box(features)
        results = []
        for image in range(x.shape[0]):
            flat = features[image].flatten(1).t()
            score = scores[image].flatten()
            keep = score > score.mean()
            order = score[keep].argsort(descending=True)
            box = boxes[image].permute(1, 2, 0).reshape(-1, 4)[keep][order]
            results.append({"scores": score[keep][order], "boxes": box, "classes": self.describe(flat[keep][order])})
        return results


class TokenPruning(nn.Module):
    """Between attention blocks only the tokens survive that the class token attends to most."""

    def __init__(self, width: int = 12, heads: int = 2, keep: int = 4) -> None:
        super().__init__()
        self.heads, self.keep = heads, keep
        self.scale = (width // heads) ** -0.5
        self.embed, self.cls = nn.Linear(6, width), nn.Parameter(torch.zeros(1, 1, width))
        self.qkv, self.proj = nn.ModuleList(nn.Linear(width, 3 * width) for _ in range(2)), nn.Linear(width, width)
        self.head = nn.Linear(width, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.embed(x)
        x = torch.cat([self.cls.expand(x.shape[0], -1, -1), x], 1)
        for qkv in self.qkv:
            b, n, c = x.shape
            q, k, v = qkv(x).reshape(b, n, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4).unbind(0)
            attn = (q @ k.transpose(-2, -1) * self.scale).softmax(-1)
            x = x + self.proj((attn @ v).transpose(1, 2).reshape(b, n, c))
            importance = attn[:, :, 0, 1:].mean(1)
            _, index = torch.topk(importance, min(self.keep, n - 1), dim=1, sorted=True)
            x = torch.cat([x[:, :1], torch.gather(x[:, 1:], 1, index.unsqueeze(-1).expand(-1, -1, c))], dim=1)
        return self.head(x[:, 0])


class MemoryBank(nn.Module):
    """Reads the nearest slots of a memory by similarity, and gathers their values."""

    def __init__(self, slots: int = 20, width: int = 10, k: int = 3) -> None:
        super().__init__()
        self.k = k
        self.query = nn.Linear(6, width)
        self.register_buffer("keys", F.normalize(torch.randn(slots, width), dim=-1))
        self.values = nn.Parameter(torch.randn(slots, 12))
        self.out = nn.Linear(width + 12, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q = F.normalize(self.query(x), dim=-1)
        weights, index = (q @ self.keys.t()).topk(self.k, dim=-1)
        gathered = torch.gather(
            self.values.unsqueeze(0).expand(x.size(0), -1, -1), 1, index.unsqueeze(-1).expand(-1, -1, self.values.size(1))
        )
        read = (weights.softmax(-1).unsqueeze(-1) * gathered).sum(1)
        return self.out(torch.cat([q, read], -1))


class LastToken(nn.Module):
    """Takes each sequence's last real position, found by comparing with the padding, through `.tolist()`."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.mix, self.out = nn.Embedding(40, 12), nn.Linear(12, 16), nn.Linear(16, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        lengths = (x != 0).sum(-1).tolist()
        h = torch.tanh(self.mix(self.embed(x)))
        return self.out(torch.stack([h[row, : max(length, 1)].mean(0) for row, length in enumerate(lengths)]))


class AdaptiveComputation(nn.Module):
    """Repeats one block until every sample has halted."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.block, self.halt, self.out = nn.Linear(5, 12), nn.GRUCell(12, 12), nn.Linear(12, 1), nn.Linear(12, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.embed(x)
        state, total, result = torch.zeros_like(x), torch.zeros(x.shape[0], 1, dtype=x.dtype), torch.zeros_like(x)
        steps = 0
        while bool((total < 0.9).any()) and steps < 4:
            state = self.block(x, state)
            p = torch.minimum(torch.sigmoid(self.halt(state) + 1), 1 - total)
            total, result, steps = total + p, result + p * state, steps + 1
        return self.out(result)


MODELS: dict[str, Maker] = {
    "moe_where": made(TopKMoE, 4, 12, 6),
    "moe_one_hot": made(TopKMoE, 4, 12, 6, one_hot=True),
    "moe_dense": made(DenseMoE, 2, 5, 6),
    "early_exit": made(EarlyExit, 3, 6),
    "early_exit_item": made(EarlyExit, 3, 6, by_item=True, threshold=0.9),
    "detection_head": made(DetectionHead, 2, 3, 6, 6),
    "token_pruning": made(TokenPruning, 2, 8, 6),
    "memory_bank": made(MemoryBank, 3, 6),
    "last_token": lambda: (LastToken().eval(), (tokens(3, 6),), {}),
    "adaptive_computation": made(AdaptiveComputation, 3, 5),
}
