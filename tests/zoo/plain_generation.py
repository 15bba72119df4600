"""Generative networks: autoencoders, diffusion, super-resolution, modulated convolutions."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import nn

from tests.zoo import Maker
from tests.zoo.plain_sequences import made


class VAE(nn.Module):
    """Mean and log variance from one layer, a random draw, and a decoder that shuffles pixels up."""

    def __init__(self, latent: int = 8) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.BatchNorm2d(8), nn.LeakyReLU(0.2),
            nn.Conv2d(8, 16, 3, stride=2, padding=1), nn.BatchNorm2d(16), nn.LeakyReLU(0.2),
        )  # fmt: skip
        self.moments = nn.Linear(16 * 4 * 4, 2 * latent)
        self.expand = nn.Linear(latent, 16 * 4 * 4)
        self.decoder = nn.Sequential(
            nn.Conv2d(16, 32, 3, padding=1), nn.PixelShuffle(2), nn.ReLU(), nn.Conv2d(8, 12, 3, padding=1), nn.PixelShuffle(2)
        )

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        mean, logvar = self.moments(self.encoder(x).flatten(1)).chunk(2, dim=-1)
        z = mean + torch.randn_like(mean) * torch.exp(0.5 * logvar)
        y = self.expand(z).view(-1, 16, 4, 4)
        return torch.sigmoid(self.decoder(y)), mean, logvar


class SuperResolution(nn.Module):
    """Residual blocks and depth to space: by `nn.PixelShuffle`, or by view and permute."""

    def __init__(self, by_hand: bool = False, width: int = 8, scale: int = 2) -> None:
        super().__init__()
        self.by_hand, self.scale = by_hand, scale
        self.head = nn.Conv2d(3, width, 3, padding=1)
        self.body = nn.ModuleList(
            nn.Sequential(nn.Conv2d(width, width, 3, padding=1), nn.PReLU(width), nn.Conv2d(width, width, 3, padding=1))
            for _ in range(2)
        )
        self.up = nn.Conv2d(width, width * scale**2, 3, padding=1)
        self.shuffle = nn.PixelShuffle(scale)
        self.tail = nn.Conv2d(width, 3, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = y = self.head(x)
        for block in self.body:
            y = y + 0.1 * block(y)
        y = self.up(x + y)
        if self.by_hand:
            b, c, h, w = y.shape
            r = self.scale
            y = y.view(b, c // (r * r), r, r, h, w).permute(0, 1, 4, 2, 5, 3).reshape(b, c // (r * r), h * r, w * r)
        else:
            y = self.shuffle(y)
        return self.tail(y)


def timestep_embedding(t: torch.Tensor, dim: int) -> torch.Tensor:
    """Cosines and sines of the step at geometric frequencies."""
    half = dim // 2
    frequencies = torch.exp(-math.log(10000) * torch.arange(half, dtype=torch.float32) / half)
    args = t[:, None].float() * frequencies[None]
    return torch.cat([torch.cos(args), torch.sin(args)], dim=-1)


class DiffusionBlock(nn.Module):
    """Convolutions with GroupNorm whose features are scaled and shifted by the embedding of the time."""

    def __init__(self, inputs: int, outputs: int, embed: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = nn.GroupNorm(2, inputs), nn.Conv2d(inputs, outputs, 3, padding=1)
        self.emb = nn.Linear(embed, 2 * outputs)
        self.norm2, self.conv2 = nn.GroupNorm(2, outputs), nn.Conv2d(outputs, outputs, 3, padding=1)
        self.skip = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(self, x: torch.Tensor, emb: torch.Tensor) -> torch.Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        scale, shift = self.emb(F.silu(emb))[:, :, None, None].chunk(2, dim=1)
        h = self.conv2(F.silu(self.norm2(h) * (1 + scale) + shift))
        return self.skip(x) + h


class DiffusionAttention(nn.Module):
    """Attention over positions, with queries, keys and values from one 1x1 convolution."""

    def __init__(self, channels: int, heads: int = 2) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.GroupNorm(2, channels)
        self.qkv, self.proj = nn.Conv1d(channels, 3 * channels, 1), nn.Conv1d(channels, channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        b, c, *spatial = x.shape
        x = x.reshape(b, c, -1)
        q, k, v = self.qkv(self.norm(x)).chunk(3, dim=1)
        q, k, v = (t.reshape(b * self.heads, c // self.heads, -1) for t in (q, k, v))
        weight = torch.einsum("bct,bcs->bts", q / math.sqrt(q.shape[1]), k).softmax(dim=-1)
        h = torch.einsum("bts,bcs->bct", weight, v).reshape(b, c, -1)
        return (x + self.proj(h)).reshape(b, c, *spatial)


class DiffusionUNet(nn.Module):
    """A denoiser: time embedding, residual blocks, attention at the bottom, skips by concatenation."""

    def __init__(self, width: int = 8, embed: int = 16) -> None:
        super().__init__()
        self.width = width
        self.time = nn.Sequential(nn.Linear(width, embed), nn.SiLU(), nn.Linear(embed, embed))
        self.stem = nn.Conv2d(3, width, 3, padding=1)
        self.down1, self.pool = DiffusionBlock(width, width, embed), nn.Conv2d(width, width, 3, stride=2, padding=1)
        self.down2, self.attention = DiffusionBlock(width, 2 * width, embed), DiffusionAttention(2 * width)
        self.middle = DiffusionBlock(2 * width, 2 * width, embed)
        self.up2, self.up1 = DiffusionBlock(4 * width, 2 * width, embed), DiffusionBlock(3 * width, width, embed)
        self.out = nn.Sequential(nn.GroupNorm(2, width), nn.SiLU(), nn.Conv2d(width, 3, 3, padding=1))

    def forward(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        emb = self.time(timestep_embedding(t, self.width))
        h1 = self.down1(self.stem(x), emb)
        h2 = self.attention(self.down2(self.pool(h1), emb))
        h = self.middle(h2, emb)
        h = F.interpolate(self.up2(torch.cat([h, h2], dim=1), emb), scale_factor=2, mode="nearest")
        return self.out(self.up1(torch.cat([h, h1], dim=1), emb))


class ModulatedConv(nn.Module):
    """StyleGAN's convolution: one weight per sample, by a grouped convolution over the folded batch."""

    def __init__(self, inputs: int, outputs: int, style: int, demodulate: bool = True) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs, 3, 3))
        self.modulation, self.demodulate = nn.Linear(style, inputs), demodulate
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, x: torch.Tensor, style: torch.Tensor) -> torch.Tensor:
        batch, channels, height, width = x.shape
        scale = self.modulation(style).view(batch, 1, channels, 1, 1)
        weight = self.weight.unsqueeze(0) * scale
        if self.demodulate:
            weight = weight * torch.rsqrt(weight.pow(2).sum([2, 3, 4], keepdim=True) + 1e-8)
        weight = weight.view(-1, channels, *weight.shape[3:])
        out = F.conv2d(x.reshape(1, batch * channels, height, width), weight, padding=1, groups=batch)
        return out.view(batch, -1, height, width) + self.bias.view(1, -1, 1, 1)


class StyleGenerator(nn.Module):
    """A mapping network, a learned constant, and modulated convolutions."""

    def __init__(self, style: int = 10) -> None:
        super().__init__()
        self.mapping = nn.Sequential(nn.Linear(6, 12), nn.LeakyReLU(0.2), nn.Linear(12, style))
        self.constant = nn.Parameter(torch.randn(1, 8, 4, 4))
        self.conv1, self.conv2 = ModulatedConv(8, 12, style), ModulatedConv(12, 8, style)
        self.rgb = ModulatedConv(8, 3, style, demodulate=False)

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        style = self.mapping(z * torch.rsqrt(z.pow(2).mean(dim=1, keepdim=True) + 1e-8))
        x = self.constant.repeat(z.shape[0], 1, 1, 1)
        x = F.leaky_relu(self.conv1(x, style), 0.2)
        x = F.leaky_relu(self.conv2(F.interpolate(x, scale_factor=2), style), 0.2)
        return self.rgb(x, style)


class TiedAutoencoder(nn.Module):
    """The decoder uses the encoder's weights, transposed."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(20, 12), nn.Linear(12, 6)
        self.unsecond, self.unfirst = nn.Parameter(torch.zeros(12)), nn.Parameter(torch.zeros(20))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        code = torch.relu(self.second(torch.relu(self.first(x))))
        y = torch.relu(F.linear(code, self.second.weight.t(), self.unsecond))
        return F.linear(y, self.first.weight.t(), self.unfirst)


class FiLM(nn.Module):
    """A condition scales and shifts the features of an image network, from one layer for all blocks."""

    def __init__(self, width: int = 12) -> None:
        super().__init__()
        self.width, self.blocks = width, 2
        self.condition = nn.Sequential(nn.Linear(5, 16), nn.ReLU(), nn.Linear(16, 2 * self.blocks * width))
        self.stem = nn.Conv2d(3, width, 3, padding=1)
        self.convs = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in range(self.blocks))
        self.norms = nn.ModuleList(nn.BatchNorm2d(width, affine=False) for _ in range(self.blocks))
        self.head = nn.Linear(width, 3)

    def forward(self, x: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
        film = self.condition(c).view(c.size(0), self.blocks, 2, self.width)
        x = self.stem(x)
        for k, (conv, norm) in enumerate(zip(self.convs, self.norms, strict=True)):
            gamma, beta = film[:, k, 0], film[:, k, 1]
            x = x + F.relu(norm(conv(x)) * gamma[:, :, None, None] + beta[:, :, None, None])
        return self.head(x.mean((2, 3)))


class VectorQuantiser(nn.Module):
    """A VQ-VAE: nearest codes by distance, looked up, with a straight-through estimator."""

    def __init__(self, codes: int = 16, width: int = 8) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Conv2d(3, 12, 4, stride=2, padding=1), nn.ReLU(), nn.Conv2d(12, width, 1))
        self.codebook = nn.Embedding(codes, width)
        self.decoder = nn.Sequential(nn.Conv2d(width, 12, 3, padding=1), nn.ReLU(), nn.ConvTranspose2d(12, 3, 4, 2, 1))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        z = self.encoder(x).permute(0, 2, 3, 1).contiguous()
        flat = z.view(-1, z.shape[-1])
        weight = self.codebook.weight
        distances = flat.pow(2).sum(1, keepdim=True) + weight.pow(2).sum(1) - 2 * flat @ weight.t()
        quantised = self.codebook(distances.argmin(1)).view(z.shape)
        quantised = z + (quantised - z).detach()
        return self.decoder(quantised.permute(0, 3, 1, 2)), F.mse_loss(quantised, z)


class CouplingFlow(nn.Module):
    """A normalising flow: halves condition each other, channels are mixed by an invertible matrix."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.nets = nn.ModuleList(nn.Sequential(nn.Linear(width // 2, 14), nn.ReLU(), nn.Linear(14, width)) for _ in range(2))
        self.mix = nn.Parameter(torch.linalg.qr(torch.randn(width, width))[0])

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        total = x.new_zeros(x.shape[0])
        for net in self.nets:
            a, b = (x @ self.mix).chunk(2, -1)
            shift, scale = net(a).chunk(2, -1)
            b = b * torch.exp(torch.tanh(scale)) + shift
            x = torch.cat([b, a], -1)
            total = total + torch.tanh(scale).sum(-1)
        return x, total


MODELS: dict[str, Maker] = {
    "vae_pixelshuffle": made(VAE, 2, 3, 16, 16),
    "super_resolution": made(SuperResolution, 1, 3, 6, 6),
    "depth_to_space": made(SuperResolution, 1, 3, 6, 6, by_hand=True),
    "diffusion_unet": lambda: (DiffusionUNet().eval(), (torch.randn(2, 3, 8, 8), torch.tensor([3, 7])), {}),
    "style_generator": made(StyleGenerator, 2, 6),
    "tied_autoencoder": made(TiedAutoencoder, 3, 20),
    "film": lambda: (FiLM().eval(), (torch.randn(2, 3, 6, 6), torch.randn(2, 5)), {}),
    "vq_vae": made(VectorQuantiser, 1, 3, 8, 8),
    "coupling_flow": made(CouplingFlow, 3, 8),
}
