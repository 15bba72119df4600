"""Layers whose weights are computed: hypernetworks, low rank, splines, quaternions, parametrisations, capsules."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations, parametrize

from tests.zoo import Made, Maker
from tests.zoo.plain_sequences import made


class HyperNetwork(nn.Module):
    """One network computes the weights and biases of another, per sample, sliced from one vector."""

    def __init__(self, inputs: int = 5, hidden: int = 8, outputs: int = 3) -> None:
        super().__init__()
        self.inputs, self.hidden, self.outputs = inputs, hidden, outputs
        self.count1, self.count2 = inputs * hidden, hidden * outputs
        self.hyper = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, self.count1 + hidden + self.count2))

    def forward(self, x: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        w = self.hyper(z)
        w1 = w[:, : self.count1].view(-1, self.inputs, self.hidden)
        b1 = w[:, self.count1 : self.count1 + self.hidden]
        w2 = w[:, self.count1 + self.hidden :].reshape(-1, self.hidden, self.outputs)
        h = torch.relu(torch.bmm(x.unsqueeze(1), w1) + b1.unsqueeze(1))
        return torch.bmm(h, w2).squeeze(1)


class LoRALinear(nn.Module):
    """A frozen layer with a trained low-rank difference."""

    def __init__(self, inputs: int, outputs: int, rank: int = 4, merged: bool = False) -> None:
        super().__init__()
        self.base = nn.Linear(inputs, outputs)
        self.base.requires_grad_(False)
        self.lora_a, self.lora_b = nn.Parameter(torch.randn(rank, inputs)), nn.Parameter(torch.randn(outputs, rank))
        self.scaling, self.merged = 8 / rank, merged

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.merged:
            return F.linear(x, self.base.weight + self.lora_b @ self.lora_a * self.scaling, self.base.bias)
        return self.base(x) + F.linear(F.linear(x, self.lora_a), self.lora_b) * self.scaling


class LoRANet(nn.Module):
    """A network with low-rank adapters, merged and beside."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(LoRALinear(6, 16), nn.ReLU(), LoRALinear(16, 12, merged=True), nn.ReLU(), nn.Linear(12, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)


class Symmetric(nn.Module):
    """A parametrisation that mirrors the upper triangle."""

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        return weight.triu() + weight.triu(1).transpose(-1, -2)


class Scaled(nn.Module):
    """A parametrisation with parameters of its own, one per row."""

    def __init__(self, rows: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(rows, 1))

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        return weight * torch.exp(self.scale)


class Parametrised(nn.Module):
    """Linear layers with parametrisations: scaled rows, symmetric, orthogonal."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.square, self.rotation, self.last = (
            nn.Linear(5, 12),
            nn.Linear(12, 12),
            nn.Linear(12, 12),
            nn.Linear(12, 2),
        )
        parametrize.register_parametrization(self.first, "weight", Scaled(12))
        parametrize.register_parametrization(self.square, "weight", Symmetric())
        parametrize.register_parametrization(self.last, "weight", Scaled(2))
        self.wide = nn.Linear(12, 16)
        self.narrow = nn.Linear(16, 12)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.first(x))
        x = x + self.square(x)
        x = x + self.narrow(torch.tanh(self.wide(x)))
        return self.last(torch.relu(self.rotation(x)))


class NormedConvs(nn.Module):
    """Convolutions whose weights are normalised in one of torch's ways."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        wrap = {
            "weight_norm": parametrizations.weight_norm,
            "old_weight_norm": nn.utils.weight_norm,
            "spectral_norm": parametrizations.spectral_norm,
            "old_spectral_norm": nn.utils.spectral_norm,
        }[kind]
        self.first, self.second = wrap(nn.Conv2d(3, 8, 3, padding=1)), wrap(nn.Conv2d(8, 12, 3, padding=1))
        self.up, self.head = wrap(nn.ConvTranspose2d(12, 6, 2, stride=2)), wrap(nn.Linear(6, 2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.leaky_relu(self.second(F.leaky_relu(self.first(x), 0.2)), 0.2)
        return self.head(self.up(x).mean((2, 3)))


class StandardisedConv(nn.Conv2d):
    """A convolution with standardised weights."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        w = self.weight
        mean = w.mean(dim=1, keepdim=True).mean(dim=2, keepdim=True).mean(dim=3, keepdim=True)
        w = w - mean
        std = w.view(w.size(0), -1).std(dim=1).view(-1, 1, 1, 1) + 1e-5
        return F.conv2d(x, w / std.expand_as(w), self.bias, self.stride, self.padding, self.dilation, self.groups)


class Standardised(nn.Module):
    """Standardised convolutions with GroupNorm, as BiT has them."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            StandardisedConv(3, 8, 3, padding=1), nn.GroupNorm(4, 8), nn.ReLU(),
            StandardisedConv(8, 12, 3, padding=1), nn.GroupNorm(3, 12), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
            nn.Linear(12, 3),
        )  # fmt: skip

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)


class KANLinear(nn.Module):
    """A spline on every edge, from B-spline bases on a grid, beside a base activation."""

    def __init__(self, inputs: int, outputs: int, grid: int = 4, order: int = 2) -> None:
        super().__init__()
        self.in_features, self.out_features, self.order = inputs, outputs, order
        knots = (torch.arange(-order, grid + order + 1) * (2 / grid) - 1).expand(inputs, -1).contiguous()
        self.register_buffer("grid", knots)
        self.base_weight = nn.Parameter(torch.randn(outputs, inputs) * 0.3)
        self.spline_weight = nn.Parameter(torch.randn(outputs, inputs, grid + order) * 0.1)

    def bases(self, x: torch.Tensor) -> torch.Tensor:
        assert x.dim() == 2 and x.size(1) == self.in_features
        grid, x = self.grid, x.unsqueeze(-1)
        bases = ((x >= grid[:, :-1]) & (x < grid[:, 1:])).to(x.dtype)
        for k in range(1, self.order + 1):
            left = (x - grid[:, : -(k + 1)]) / (grid[:, k:-1] - grid[:, : -(k + 1)]) * bases[:, :, :-1]
            right = (grid[:, k + 1 :] - x) / (grid[:, k + 1 :] - grid[:, 1:(-k)]) * bases[:, :, 1:]
            bases = left + right
        return bases.contiguous()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        base = F.linear(F.silu(x), self.base_weight)
        spline = F.linear(self.bases(x).view(x.size(0), -1), self.spline_weight.view(self.out_features, -1))
        return base + spline


class KAN(nn.Module):
    """Two spline layers."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([KANLinear(4, 10), KANLinear(10, 8), KANLinear(8, 2)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


class QuaternionLinear(nn.Module):
    """Four real matrices as the blocks of one, by the Hamilton product."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.r, self.i, self.j, self.k = (nn.Parameter(torch.randn(inputs // 4, outputs // 4) * 0.3) for _ in range(4))
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        r, i, j, k = self.r, self.i, self.j, self.k
        rows = [torch.cat(row, 0) for row in ([r, -i, -j, -k], [i, r, -k, j], [j, k, r, -i], [k, -j, i, r])]
        return x @ torch.cat(rows, dim=1) + self.bias


class Quaternions(nn.Module):
    """Quaternion layers between real ones."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.middle, self.last = nn.Linear(5, 16), QuaternionLinear(16, 24), nn.Linear(24, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(torch.relu(self.middle(torch.relu(self.first(x)))))


class ComplexNet(nn.Module):
    """Complex layers as pairs of real ones, and a complex weight used through the FFT."""

    def __init__(self, width: int = 12) -> None:
        super().__init__()
        self.real, self.imaginary = nn.Linear(6, width), nn.Linear(6, width)
        self.filter = nn.Parameter(torch.randn(5, width, 2) * 0.2)
        self.out = nn.Linear(2 * width, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        z = torch.complex(self.real(x), self.imaginary(x))
        z = torch.fft.ifft(torch.fft.fft(z, dim=1) * torch.view_as_complex(self.filter), dim=1)
        return self.out(torch.cat([z.real, z.imag], -1).mean(1))


class ComplexWeights(nn.Module):
    """Linear layers with complex parameters, read off by their absolute values."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = (nn.Linear(*sizes, dtype=torch.complex64) for sizes in ((6, 10), (10, 8)))
        self.out = nn.Linear(8, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        z = self.first(x.to(self.first.weight.dtype))
        z = torch.complex(F.relu(z.real), F.relu(z.imag))
        return self.out(self.second(z).abs())


class FourierMixer(nn.Module):
    """A global filter: images in the Fourier domain times a learned complex mask, per channel."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, width, 1), nn.LayerNorm(width)
        self.weight = nn.Parameter(torch.randn(8, 5, width, 2) * 0.02)
        self.mlp = nn.Sequential(nn.Linear(width, 20), nn.GELU(), nn.Linear(20, width))
        self.head = nn.Linear(width, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.stem(x).permute(0, 2, 3, 1)
        h, w = y.shape[1:3]
        z = torch.fft.rfft2(self.norm(y), dim=(1, 2), norm="ortho") * torch.view_as_complex(self.weight)
        y = y + torch.fft.irfft2(z, s=(h, w), dim=(1, 2), norm="ortho")
        return self.head((y + self.mlp(y)).mean((1, 2)))


def squash(x: torch.Tensor, dim: int = -1) -> torch.Tensor:
    """Shrinks short vectors to zero and long ones to length one."""
    norm = (x**2).sum(dim=dim, keepdim=True)
    return norm / (1 + norm) * x / (norm.sqrt() + 1e-8)


class Capsules(nn.Module):
    """Primary capsules, one weight per pair of capsules, and routing by agreement."""

    def __init__(self, dim: int = 6, classes: int = 4) -> None:
        super().__init__()
        self.dim = dim
        self.conv = nn.Conv2d(1, 10, 3)
        self.primary = nn.Conv2d(10, 3 * dim, 3, stride=2)
        self.weight = nn.Parameter(torch.randn(1, classes, 3 * 4, 8, dim) * 0.1)
        self.decoder = nn.Sequential(nn.Linear(8 * classes, 14), nn.ReLU(), nn.Linear(14, 5))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        u = self.primary(F.relu(self.conv(x)))
        u = squash(u.view(x.size(0), 3, self.dim, -1).permute(0, 1, 3, 2).reshape(x.size(0), -1, self.dim))
        votes = torch.matmul(self.weight, u[:, None, :, :, None]).squeeze(-1)
        logits = torch.zeros(*votes.shape[:3], 1)
        for step in range(3):
            v = squash((F.softmax(logits, dim=1) * votes).sum(dim=2))
            if step < 2:
                logits = logits + (votes * v.unsqueeze(2)).sum(dim=-1, keepdim=True)
        return v.norm(dim=-1), self.decoder(v.flatten(1))


class FactorisedConv(nn.Module):
    """Depthwise-separable and low-rank convolutions, a bilinear layer, a max-out over pieces."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.depth, self.up = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 16, 3, groups=8), nn.Conv2d(16, 12, 1)
        self.pieces = 3
        self.maxout, self.bilinear = nn.Linear(12, 6 * self.pieces), nn.Bilinear(6, 12, 5)
        self.out = nn.Linear(5, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.up(F.relu6(self.depth(self.down(x)))).mean((2, 3))
        pieces = self.maxout(y)
        top = pieces.view(y.shape[0], pieces.shape[1] // self.pieces, self.pieces).max(2).values
        return self.out(torch.tanh(self.bilinear(top, y)))


class Fourier(nn.Module):
    """Random Fourier features, sine layers and a skip of the coordinates into the middle, as NeRF has them."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("frequencies", torch.randn(3, 10))
        self.layers = nn.ModuleList([nn.Linear(20, 16), nn.Linear(16, 16), nn.Linear(16 + 20, 16)])
        self.density, self.colour = nn.Linear(16, 1), nn.Sequential(nn.Linear(16 + 3, 8), nn.ReLU(), nn.Linear(8, 3))

    def forward(self, x: torch.Tensor, direction: torch.Tensor) -> torch.Tensor:
        projected = 2 * math.pi * x @ self.frequencies
        encoded = h = torch.cat([projected.sin(), projected.cos()], -1)
        for k, layer in enumerate(self.layers):
            h = torch.relu(layer(torch.cat([h, encoded], -1) if k == 2 else h))
        colour = torch.sigmoid(self.colour(torch.cat([h, direction], -1)))
        return torch.cat([colour, F.softplus(self.density(h))], -1)


def hyper() -> Made:
    """Samples and the codes of their networks."""
    return HyperNetwork().eval(), (torch.randn(3, 5), torch.randn(3, 4)), {}


MODELS: dict[str, Maker] = {
    "hypernetwork": hyper,
    "lora": made(LoRANet, 3, 6),
    "parametrised": made(Parametrised, 3, 5),
    **{
        kind: made(NormedConvs, 1, 3, 6, 6, kind=kind)
        for kind in ("weight_norm", "old_weight_norm", "spectral_norm", "old_spectral_norm")
    },
    "weight_standardised": made(Standardised, 1, 3, 6, 6),
    "kan": made(KAN, 3, 4),
    "quaternions": made(Quaternions, 3, 5),
    "complex_filter": made(ComplexNet, 2, 5, 6),
    "complex_weights": made(ComplexWeights, 3, 6),
    "global_filter": made(FourierMixer, 2, 3, 8, 8),
    "capsules": made(Capsules, 2, 1, 7, 7),
    "factorised": made(FactorisedConv, 2, 3, 6, 6),
    "nerf": lambda: (Fourier().eval(), (torch.randn(6, 3), torch.randn(6, 3)), {}),
}
