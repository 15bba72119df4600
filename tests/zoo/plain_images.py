"""Recognition in images: detectors, segmentation, channel attention, shuffles, mixers."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from tests.zoo import Maker
from tests.zoo.plain_sequences import made


class DoubleConv(nn.Module):
    """Two convolutions with BatchNorm."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True),
            nn.Conv2d(outputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True),
        )  # fmt: skip

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)


class UNet(nn.Module):
    """Down with max pooling, up with transposed convolutions, skips padded to size and concatenated."""

    def __init__(self, width: int = 6) -> None:
        super().__init__()
        self.inc = DoubleConv(3, width)
        self.downs = nn.ModuleList(DoubleConv(width * 2**k, width * 2 ** (k + 1)) for k in range(2))
        self.ups = nn.ModuleList(nn.ConvTranspose2d(width * 2 ** (k + 1), width * 2**k, 2, stride=2) for k in (1, 0))
        self.convs = nn.ModuleList(DoubleConv(width * 2 ** (k + 1), width * 2**k) for k in (1, 0))
        self.out = nn.Conv2d(width, 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        skips = [self.inc(x)]
        for down in self.downs:
            skips.append(down(F.max_pool2d(skips[-1], 2)))
        y = skips.pop()
        for up, conv in zip(self.ups, self.convs, strict=True):
            y, skip = up(y), skips.pop()
            dy, dx = skip.size()[2] - y.size()[2], skip.size()[3] - y.size()[3]
            y = F.pad(y, [dx // 2, dx - dx // 2, dy // 2, dy - dy // 2])
            y = conv(torch.cat([skip, y], dim=1))
        return self.out(y)


class ConvUnit(nn.Module):
    """Convolution, BatchNorm, SiLU."""

    def __init__(self, c1: int, c2: int, k: int = 1, s: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(c1, c2, k, s, k // 2, bias=False)
        self.bn = nn.BatchNorm2d(c2)
        self.act = nn.SiLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.act(self.bn(self.conv(x)))


class Bottleneck(nn.Module):
    """Two convolutions with a residual."""

    def __init__(self, c: int, shortcut: bool) -> None:
        super().__init__()
        self.cv1, self.cv2, self.add = ConvUnit(c, c, 3), ConvUnit(c, c, 3), shortcut

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.cv2(self.cv1(x)) if self.add else self.cv2(self.cv1(x))


class C2f(nn.Module):
    """Cross-stage block: halves of the first convolution, and every bottleneck's result, are concatenated."""

    def __init__(self, c1: int, c2: int, n: int = 1, shortcut: bool = False, by_split: bool = False) -> None:
        super().__init__()
        self.c, self.by_split = c2 // 2, by_split
        self.cv1 = ConvUnit(c1, 2 * self.c)
        self.cv2 = ConvUnit((2 + n) * self.c, c2)
        self.m = nn.ModuleList(Bottleneck(self.c, shortcut) for _ in range(n))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = list(self.cv1(x).split((self.c, self.c), 1)) if self.by_split else list(self.cv1(x).chunk(2, 1))
        y.extend(m(y[-1]) for m in self.m)
        return self.cv2(torch.cat(y, 1))


class SPPF(nn.Module):
    """Pyramid pooling by repeated max pooling."""

    def __init__(self, c1: int, c2: int, k: int = 5) -> None:
        super().__init__()
        self.cv1, self.cv2 = ConvUnit(c1, c1 // 2), ConvUnit(c1 // 2 * 4, c2)
        self.m = nn.MaxPool2d(k, 1, k // 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = [self.cv1(x)]
        y.extend(self.m(y[-1]) for _ in range(3))
        return self.cv2(torch.cat(y, 1))


class DFL(nn.Module):
    """The expected value of a distribution over bins, by a frozen convolution."""

    def __init__(self, c1: int = 16) -> None:
        super().__init__()
        self.conv = nn.Conv2d(c1, 1, 1, bias=False).requires_grad_(False)
        self.conv.weight.data[:] = torch.arange(c1, dtype=torch.float).view(1, c1, 1, 1)
        self.c1 = c1

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        b, _, a = x.shape
        return self.conv(x.view(b, 4, self.c1, a).transpose(2, 1).softmax(1)).view(b, 4, a)


class Detect(nn.Module):
    """Boxes and classes at each level, joined over all positions."""

    def __init__(self, nc: int, ch: tuple[int, ...]) -> None:
        super().__init__()
        self.nc, self.reg_max = nc, 8
        self.no = nc + self.reg_max * 4
        self.cv2 = nn.ModuleList(
            nn.Sequential(ConvUnit(x, 16, 3), ConvUnit(16, 16, 3), nn.Conv2d(16, 4 * self.reg_max, 1)) for x in ch
        )
        self.cv3 = nn.ModuleList(nn.Sequential(ConvUnit(x, 12, 3), ConvUnit(12, 12, 3), nn.Conv2d(12, nc, 1)) for x in ch)
        self.dfl = DFL(self.reg_max)

    def forward(self, x: list[torch.Tensor]) -> tuple[torch.Tensor, list[torch.Tensor]]:
        for i in range(len(x)):
            x[i] = torch.cat((self.cv2[i](x[i]), self.cv3[i](x[i])), 1)
        joined = torch.cat([xi.view(x[0].shape[0], self.no, -1) for xi in x], 2)
        box, cls = joined.split((self.reg_max * 4, self.nc), 1)
        distance = self.dfl(box)
        lt, rb = distance.chunk(2, 1)
        return torch.cat((torch.cat(((rb - lt) / 2, rb + lt), 1), cls.sigmoid()), 1), x


class YOLO(nn.Module):
    """A small detector: C2f backbone, SPPF, a neck that goes up and down again, and a decoupled head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = ConvUnit(3, 8, 3, 2)
        self.p3 = nn.Sequential(ConvUnit(8, 16, 3, 2), C2f(16, 16, 1, True))
        self.p4 = nn.Sequential(ConvUnit(16, 32, 3, 2), C2f(32, 32, 2, True, by_split=True), SPPF(32, 32))
        self.up = nn.Upsample(scale_factor=2, mode="nearest")
        self.n3, self.down, self.n4 = C2f(48, 16), ConvUnit(16, 16, 3, 2), C2f(48, 32)
        self.detect = Detect(3, (16, 32))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        p3 = self.p3(self.stem(x))
        p4 = self.p4(p3)
        n3 = self.n3(torch.cat([self.up(p4), p3], 1))
        n4 = self.n4(torch.cat([self.down(n3), p4], 1))
        return self.detect([n3, n4])


class ShuffleUnit(nn.Module):
    """Half of the channels pass, half are convolved; then the halves are interleaved by hand."""

    def __init__(self, width: int) -> None:
        super().__init__()
        half = width // 2
        self.branch = nn.Sequential(
            nn.Conv2d(half, half, 1, bias=False), nn.BatchNorm2d(half), nn.ReLU(),
            nn.Conv2d(half, half, 3, padding=1, groups=half, bias=False), nn.BatchNorm2d(half),
            nn.Conv2d(half, half, 1, bias=False), nn.BatchNorm2d(half), nn.ReLU(),
        )  # fmt: skip

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        kept, changed = x.chunk(2, dim=1)
        y = torch.cat((kept, self.branch(changed)), dim=1)
        b, c, h, w = y.size()
        return y.view(b, 2, c // 2, h, w).transpose(1, 2).contiguous().view(b, -1, h, w)


class GroupShuffle(nn.Module):
    """Grouped pointwise convolutions with `nn.ChannelShuffle` between them, as ShuffleNet's first version."""

    def __init__(self, width: int = 24, groups: int = 3) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, padding=1)
        self.squeeze = nn.Conv2d(width, 12, 1, groups=groups)
        self.shuffle = nn.ChannelShuffle(groups)
        self.depth = nn.Conv2d(12, 12, 3, padding=1, groups=12)
        self.expand = nn.Conv2d(12, width, 1, groups=groups)
        self.head = nn.Linear(width, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.stem(x)
        y = F.relu(y + self.expand(self.depth(self.shuffle(F.relu(self.squeeze(y))))))
        return self.head(y.mean((-2, -1)))


class Attended(nn.Module):
    """Convolutions with one kind of channel attention behind them."""

    def __init__(self, attention: type[nn.Module]) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.attention = attention(16)
        self.last = nn.Conv2d(16, 8, 3, padding=1)
        self.head = nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.attention(F.relu(self.stem(x)))
        return self.head(torch.flatten(F.adaptive_avg_pool2d(F.relu(self.last(y)), 1), 1))


class SqueezeExcite(nn.Module):
    """Linear gates over pooled channels, viewed with sizes from the input; GroupNorm before."""

    def __init__(self, channels: int, reduction: int = 4) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(4, channels)
        self.fc = nn.Sequential(
            nn.Linear(channels, channels // reduction), nn.ReLU(), nn.Linear(channels // reduction, channels), nn.Sigmoid()
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norm(x)
        b, c, _, _ = x.size()
        y = F.adaptive_avg_pool2d(x, 1).view(b, c)
        return x * self.fc(y).view(b, c, 1, 1).expand_as(x)


class CBAM(nn.Module):
    """Channel gates from average and maximum pooling by one shared network, then a spatial gate."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Flatten(), nn.Linear(channels, channels // 4), nn.ReLU(), nn.Linear(channels // 4, channels)
        )
        self.spatial = nn.Conv2d(2, 1, 7, padding=3, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        average = F.avg_pool2d(x, (x.size(2), x.size(3)), stride=(x.size(2), x.size(3)))
        largest = F.max_pool2d(x, (x.size(2), x.size(3)), stride=(x.size(2), x.size(3)))
        gate = torch.sigmoid(self.mlp(average) + self.mlp(largest)).unsqueeze(2).unsqueeze(3).expand_as(x)
        x = x * gate
        pooled = torch.cat((torch.max(x, 1)[0].unsqueeze(1), torch.mean(x, 1).unsqueeze(1)), dim=1)
        return x * torch.sigmoid(self.spatial(pooled))


class EfficientChannelAttention(nn.Module):
    """A 1-d convolution runs along the channels: their order matters, so they stay."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(1, 1, 3, padding=1, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv(x.mean((2, 3)).unsqueeze(1)).squeeze(1)
        return x * torch.sigmoid(y)[:, :, None, None]


class SelectiveKernel(nn.Module):
    """Two branches weighted by a softmax over the branches."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.branches = nn.ModuleList(nn.Conv2d(channels, channels, k, padding=k // 2) for k in (3, 5))
        self.reduce, self.select = nn.Linear(channels, 8), nn.Linear(8, 2 * channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        feats = torch.stack([F.relu(branch(x)) for branch in self.branches], dim=1)
        weights = self.select(F.relu(self.reduce(feats.sum(1).mean((-1, -2)))))
        weights = weights.reshape(x.shape[0], 2, x.shape[1]).softmax(1)
        return (feats * weights[..., None, None]).sum(dim=1)


class MixerBlock(nn.Module):
    """Mixing over tokens, then over channels."""

    def __init__(self, tokens: int, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.tokens = nn.Sequential(nn.Linear(tokens, 10), nn.GELU(), nn.Linear(10, tokens))
        self.channels = nn.Sequential(nn.Linear(width, 32), nn.GELU(), nn.Linear(32, width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.tokens(self.norm1(x).transpose(1, 2)).transpose(1, 2)
        return x + self.channels(self.norm2(x))


class Mixer(nn.Module):
    """MLP-Mixer on patches."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 16, 4, stride=4)
        self.blocks = nn.Sequential(MixerBlock(16, 16), MixerBlock(16, 16))
        self.norm, self.head = nn.LayerNorm(16), nn.Linear(16, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.norm(self.blocks(self.patches(x).flatten(2).transpose(1, 2))).mean(dim=1))


class FocusStem(nn.Module):
    """Pixels of each 2x2 block become channels by strided slices, then a ghost convolution makes cheap maps."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = ConvUnit(12, 16, 3)
        self.primary, self.cheap = ConvUnit(16, 8), nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.unshuffle = nn.PixelUnshuffle(2)
        self.head = nn.Conv2d(64, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.cat((x[..., ::2, ::2], x[..., 1::2, ::2], x[..., ::2, 1::2], x[..., 1::2, 1::2]), 1)
        y = self.primary(self.conv(x))
        return self.head(self.unshuffle(torch.cat([y, self.cheap(y)], 1)))


class DeepSupervision(nn.Module):
    """A segmentation net that returns a dictionary of its own and its auxiliary outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.stage1, self.stage2 = DoubleConv(3, 8), DoubleConv(8, 12)
        self.fuse = nn.Conv2d(20, 8, 1)
        self.heads = nn.ModuleDict({"out": nn.Conv2d(8, 2, 1), "aux": nn.Conv2d(12, 2, 1)})

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        size = x.shape[-2:]
        low = self.stage1(x)
        high = self.stage2(F.avg_pool2d(low, 2))
        fused = self.fuse(torch.cat([low, F.interpolate(high, size=size, mode="bilinear", align_corners=False)], 1))
        aux = F.interpolate(self.heads["aux"](high), size=size, mode="bilinear", align_corners=False)
        return {"out": self.heads["out"](F.relu(fused)), "aux": aux}


class DenseNet(nn.Module):
    """Every layer takes all features before it; a slice of the last ones feeds a second head."""

    def __init__(self, growth: int = 6) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.growth = growth
        self.layers = nn.ModuleList(
            nn.Sequential(nn.BatchNorm2d(8 + k * growth), nn.ReLU(), nn.Conv2d(8 + k * growth, growth, 3, padding=1))
            for k in range(3)
        )
        self.head, self.side = nn.Linear(8 + 3 * growth, 4), nn.Linear(growth, 4)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        features = [self.stem(x)]
        for layer in self.layers:
            features.append(layer(torch.cat(features, 1)))
        pooled = torch.cat(features, 1).mean((2, 3))
        return self.head(pooled), self.side(pooled[:, -self.growth :])


class ShuffleNet(nn.Module):
    """Shuffled units between two convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 16, 3, padding=1), ShuffleUnit(16), ShuffleUnit(16), nn.Conv2d(16, 12, 1), nn.ReLU(),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 4),
        )  # fmt: skip

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)


MODELS: dict[str, Maker] = {
    "unet": made(UNet, 1, 3, 18, 16),
    "yolo": made(YOLO, 1, 3, 32, 32),
    "shufflenet": made(ShuffleNet, 1, 3, 8, 8),
    "group_shuffle": made(GroupShuffle, 1, 3, 8, 8),
    "squeeze_excite": made(Attended, 1, 3, 8, 8, attention=SqueezeExcite),
    "cbam": made(Attended, 1, 3, 8, 8, attention=CBAM),
    "eca": made(Attended, 1, 3, 8, 8, attention=EfficientChannelAttention),
    "selective_kernel": made(Attended, 1, 3, 8, 8, attention=SelectiveKernel),
    "mlp_mixer": made(Mixer, 2, 3, 16, 16),
    "focus_ghost": made(FocusStem, 1, 3, 8, 8),
    "deep_supervision": made(DeepSupervision, 1, 3, 8, 8),
    "densenet": made(DenseNet, 1, 3, 8, 8),
}
