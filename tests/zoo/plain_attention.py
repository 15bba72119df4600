"""Transformers and attention from scratch: positions, windows, grouped queries, cross-attention."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from tests.zoo import Made, Maker
from tests.zoo.plain_sequences import made, tokens


class TorchTransformer(nn.Module):
    """`nn.TransformerEncoder` and `nn.TransformerDecoder` with a causal mask."""

    def __init__(self, width: int = 16, heads: int = 4) -> None:
        super().__init__()
        self.embed, self.position = nn.Embedding(40, width), nn.Parameter(torch.randn(1, 32, width))
        encoder = nn.TransformerEncoderLayer(width, heads, 24, batch_first=True, norm_first=True)
        decoder = nn.TransformerDecoderLayer(width, heads, 24, batch_first=True)
        self.encoder = nn.TransformerEncoder(encoder, 2, enable_nested_tensor=False)
        self.decoder = nn.TransformerDecoder(decoder, 1)
        self.out = nn.Linear(width, 40)

    def forward(self, source: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        memory = self.encoder(self.embed(source) + self.position[:, : source.size(1)])
        mask = nn.Transformer.generate_square_subsequent_mask(target.size(1))
        y = self.decoder(self.embed(target) + self.position[:, : target.size(1)], memory, tgt_mask=mask)
        return self.out(y)


def rotate_half(x: torch.Tensor) -> torch.Tensor:
    """The second half negated before the first."""
    x1, x2 = x[..., : x.shape[-1] // 2], x[..., x.shape[-1] // 2 :]
    return torch.cat((-x2, x1), dim=-1)


class RotaryGQA(nn.Module):
    """Grouped-query attention with rotary positions: keys repeated, or `enable_gqa`; halves, or complex pairs."""

    def __init__(self, native: bool, complex_pairs: bool, width: int = 24, heads: int = 8, kv: int = 2, dim: int = 6) -> None:
        super().__init__()
        self.native, self.complex_pairs = native, complex_pairs
        self.n_heads, self.n_kv_heads, self.head_dim = heads, kv, dim
        self.n_rep, self.scale = heads // kv, dim**-0.5
        self.wq, self.wk = nn.Linear(width, heads * dim, bias=False), nn.Linear(width, kv * dim, bias=False)
        self.wv, self.wo = nn.Linear(width, kv * dim, bias=False), nn.Linear(heads * dim, width, bias=False)
        angles = torch.outer(torch.arange(16.0), 1.0 / 10000 ** (torch.arange(0, dim, 2) / dim))
        if complex_pairs:
            self.register_buffer("rotation", torch.polar(torch.ones_like(angles), angles))
        else:
            self.register_buffer("cos", torch.cat([angles, angles], -1).cos())
            self.register_buffer("sin", torch.cat([angles, angles], -1).sin())

    def rotated(self, x: torch.Tensor) -> torch.Tensor:
        length = x.shape[1]
        if self.complex_pairs:
            pairs = torch.view_as_complex(x.float().reshape(*x.shape[:-1], -1, 2))
            return torch.view_as_real(pairs * self.rotation[:length].view(1, length, 1, -1)).flatten(3).type_as(x)
        cos, sin = self.cos[:length].unsqueeze(1), self.sin[:length].unsqueeze(1)
        return x * cos + rotate_half(x) * sin

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        b, n, _ = x.shape
        q = self.rotated(self.wq(x).view(b, n, self.n_heads, self.head_dim)).transpose(1, 2)
        k = self.rotated(self.wk(x).view(b, n, self.n_kv_heads, self.head_dim)).transpose(1, 2)
        v = self.wv(x).view(b, n, self.n_kv_heads, self.head_dim).transpose(1, 2)
        if self.native:
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        else:
            k, v = k.repeat_interleave(self.n_rep, dim=1), v.repeat_interleave(self.n_rep, dim=1)
            scores = q @ k.transpose(-2, -1) * self.scale
            mask = torch.full((n, n), float("-inf")).triu(1)
            y = F.softmax(scores + mask, dim=-1) @ v
        return self.wo(y.transpose(1, 2).contiguous().view(b, n, -1))


class RMSNorm(nn.Module):
    """Root-mean-square normalisation, as language models write it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * self.weight


class LlamaLike(nn.Module):
    """Rotary grouped-query attention, gated MLPs and RMSNorm, with the embedding tied to the head."""

    def __init__(self, native: bool = False, complex_pairs: bool = False, width: int = 24) -> None:
        super().__init__()
        self.embed = nn.Embedding(40, width)
        self.attentions = nn.ModuleList(RotaryGQA(native, complex_pairs, width) for _ in range(2))
        self.norms = nn.ModuleList(RMSNorm(width) for _ in range(4))
        self.gates = nn.ModuleList(nn.Linear(width, 2 * 20, bias=False) for _ in range(2))
        self.downs = nn.ModuleList(nn.Linear(20, width, bias=False) for _ in range(2))
        self.norm, self.out = RMSNorm(width), nn.Linear(width, 40, bias=False)
        self.out.weight = self.embed.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.embed(x)
        for k in range(2):
            h = h + self.attentions[k](self.norms[2 * k](h))
            gate, up = self.gates[k](self.norms[2 * k + 1](h)).chunk(2, dim=-1)
            h = h + self.downs[k](F.silu(gate) * up)
        return self.out(self.norm(h))


class ViT(nn.Module):
    """Patches by reshape, a class token, positions, attention with one projection for q, k and v."""

    def __init__(self, width: int = 16, heads: int = 2, patch: int = 4) -> None:
        super().__init__()
        self.patch, self.heads = patch, heads
        self.scale = (width // heads) ** -0.5
        self.embed = nn.Linear(3 * patch * patch, width)
        self.cls, self.position = nn.Parameter(torch.zeros(1, 1, width)), nn.Parameter(torch.randn(1, 17, width))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(3))
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 32), nn.GELU(), nn.Dropout(0.1), nn.Linear(32, width))
        self.head = nn.Linear(width, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        b, c, h, w = x.shape
        p = self.patch
        x = x.reshape(b, c, h // p, p, w // p, p).permute(0, 2, 4, 3, 5, 1).reshape(b, (h // p) * (w // p), p * p * c)
        x = torch.cat([self.cls.expand(b, -1, -1), self.embed(x)], dim=1) + self.position
        y = self.norms[0](x)
        B, N, C = y.shape
        q, k, v = self.qkv(y).reshape(B, N, 3, self.heads, C // self.heads).permute(2, 0, 3, 1, 4)
        attn = ((q * self.scale) @ k.transpose(-2, -1)).softmax(dim=-1)
        x = x + self.proj((attn @ v).transpose(1, 2).reshape(B, N, C))
        x = x + self.mlp(self.norms[1](x))
        return self.head(self.norms[2](x)[:, 0])


class WindowAttention(nn.Module):
    """Swin's block: windows of a rolled map, with relative biases and a mask from region numbers."""

    def __init__(self, width: int = 12, heads: int = 3, window: int = 4, shift: int = 2) -> None:
        super().__init__()
        self.dim, self.num_heads, self.window_size, self.shift_size = width, heads, window, shift
        self.stem, self.norm = nn.Conv2d(3, width, 1), nn.LayerNorm(width)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.table = nn.Parameter(torch.randn((2 * window - 1) ** 2, heads))
        grid = torch.stack(torch.meshgrid(torch.arange(window), torch.arange(window), indexing="ij")).flatten(1)
        offset = grid[:, :, None] - grid[:, None, :] + window - 1
        self.register_buffer("index", offset[0] * (2 * window - 1) + offset[1])
        self.head = nn.Linear(width, 4)

    def windows(self, x: torch.Tensor) -> torch.Tensor:
        b, h, w, c = x.shape
        s = self.window_size
        return x.view(b, h // s, s, w // s, s, c).permute(0, 1, 3, 2, 4, 5).contiguous().view(-1, s * s, c)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x).permute(0, 2, 3, 1)
        b, h, w, c = x.shape
        s, shift = self.window_size, self.shift_size
        y = self.windows(torch.roll(self.norm(x), shifts=(-shift, -shift), dims=(1, 2)))
        n, t = y.shape[0], s * s
        q, k, v = self.qkv(y).reshape(n, t, 3, self.num_heads, c // self.num_heads).permute(2, 0, 3, 1, 4)
        attn = q @ k.transpose(-2, -1) * (c // self.num_heads) ** -0.5
        bias = self.table[self.index.view(-1)].view(t, t, -1).permute(2, 0, 1).contiguous()
        region = torch.zeros((1, h, w, 1))
        count = 0
        for rows in (slice(0, -s), slice(-s, -shift), slice(-shift, None)):
            for columns in (slice(0, -s), slice(-s, -shift), slice(-shift, None)):
                region[:, rows, columns, :] = count
                count += 1
        numbers = self.windows(region).squeeze(-1)
        mask = (numbers.unsqueeze(1) - numbers.unsqueeze(2)).ne(0).float() * -100.0
        attn = attn + bias.unsqueeze(0)
        attn = attn.view(b, n // b, self.num_heads, t, t) + mask.unsqueeze(1).unsqueeze(0)
        attn = attn.view(-1, self.num_heads, t, t).softmax(-1)
        y = self.proj((attn @ v).transpose(1, 2).reshape(n, t, c))
        y = y.view(b, h // s, w // s, s, s, -1).permute(0, 1, 3, 2, 4, 5).contiguous().view(b, h, w, -1)
        x = x + torch.roll(y, shifts=(shift, shift), dims=(1, 2))
        return self.head(x.mean((1, 2)))


class SlidingWindow(nn.Module):
    """Longformer-like local attention: overlapping chunks of keys by `as_strided` or by `unfold`."""

    def __init__(self, strided: bool, width: int = 12, heads: int = 2, window: int = 2) -> None:
        super().__init__()
        self.strided, self.heads, self.window = strided, heads, window
        self.head_dim = width // heads
        self.scale = 1 / math.sqrt(self.head_dim)
        self.query, self.key, self.value = (nn.Linear(5, width) for _ in range(3))
        self.out = nn.Linear(width, 3)

    def neighbours(self, x: torch.Tensor) -> torch.Tensor:
        """(batch, heads, length, 2 * window + 1, head dim) of a padded (batch, heads, length, head dim)."""
        padded = F.pad(x, (0, 0, self.window, self.window))
        if not self.strided:
            return padded.unfold(2, 2 * self.window + 1, 1).transpose(-1, -2)
        b, h, n, d = x.shape
        s = padded.contiguous().stride()
        return padded.contiguous().as_strided((b, h, n, 2 * self.window + 1, d), (s[0], s[1], s[2], s[2], s[3]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        b, n, _ = x.shape
        q, k, v = (f(x).view(b, n, self.heads, self.head_dim).transpose(1, 2) for f in (self.query, self.key, self.value))
        scores = torch.einsum("bhnd,bhnkd->bhnk", q, self.neighbours(k)) * self.scale
        y = torch.einsum("bhnk,bhnkd->bhnd", scores.softmax(-1), self.neighbours(v))
        return self.out(y.transpose(1, 2).reshape(b, n, -1))


class Perceiver(nn.Module):
    """Learned latents attend to the input, then to themselves, through `nn.MultiheadAttention`."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.latents = nn.Parameter(torch.randn(6, width))
        self.cross = nn.MultiheadAttention(width, 2, kdim=5, vdim=5, batch_first=True)
        self.own = nn.MultiheadAttention(width, 4, batch_first=True)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(3))
        self.mlp = nn.Sequential(nn.Linear(width, 20), nn.GELU(), nn.Linear(20, width))
        self.head = nn.Linear(width, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        z = self.latents.unsqueeze(0).expand(x.size(0), -1, -1)
        z = z + self.cross(self.norms[0](z), x, x, need_weights=False)[0]
        y = self.norms[1](z)
        z = z + self.own(y, y, y)[0]
        return self.head((z + self.mlp(self.norms[2](z))).mean(1))


class LinearAttention(nn.Module):
    """Kernelised attention by einsum, with cumulative sums for causality."""

    def __init__(self, width: int = 12, heads: int = 3) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.out = nn.Linear(5, 3 * width), nn.Linear(width, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = (t.unflatten(-1, (self.heads, -1)) for t in self.qkv(x).chunk(3, dim=-1))
        q, k = F.elu(q) + 1, F.elu(k) + 1
        state = torch.einsum("bnhd,bnhe->bnhde", k, v).cumsum(1)
        y = torch.einsum("bnhd,bnhde->bnhe", q, state) / (q * k.cumsum(1)).sum(-1, keepdim=True)
        return self.out(y.flatten(2))


@dataclass
class Output:
    """What a model with several results returns."""

    logits: torch.Tensor
    hidden: torch.Tensor | None = None
    attentions: tuple[torch.Tensor, ...] = ()


class DataclassOutput(nn.Module):
    """An attention pooling classifier that returns a dataclass."""

    def __init__(self) -> None:
        super().__init__()
        self.encode, self.score, self.out = nn.Linear(6, 16), nn.Linear(16, 1), nn.Linear(16, 4)

    def forward(self, x: torch.Tensor) -> Output:
        h = torch.tanh(self.encode(x))
        weights = self.score(h).softmax(1)
        return Output(self.out((weights * h).sum(1)), attentions=(weights.squeeze(-1),))


def transformer() -> Made:
    """An encoder-decoder on token pairs."""
    return TorchTransformer().eval(), (tokens(2, 7), tokens(2, 5)), {}


def llama(**options: bool) -> Maker:
    """A maker of a small Llama."""
    return lambda: (LlamaLike(**options).eval(), (tokens(2, 7),), {})


MODELS: dict[str, Maker] = {
    "nn_transformer": transformer,
    "gqa_repeat_interleave": llama(),
    "gqa_native": llama(native=True),
    "gqa_complex_rope": llama(complex_pairs=True),
    "vit_reshape": made(ViT, 2, 3, 16, 16),
    "swin_window": made(WindowAttention, 2, 3, 8, 8),
    "sliding_as_strided": made(SlidingWindow, 2, 8, 5, strided=True),
    "sliding_unfold": made(SlidingWindow, 2, 8, 5, strided=False),
    "perceiver": made(Perceiver, 2, 7, 5),
    "linear_attention": made(LinearAttention, 2, 6, 5),
    "dataclass_output": made(DataclassOutput, 2, 7, 6),
}
