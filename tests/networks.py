"""Networks of our own that tests share."""

from __future__ import annotations

import torch
from torch import nn


class PlainVGG(nn.Module):
    """Convolutions without normalisation, and a classifier that follows `flatten`. Inputs: (batch, 3, 16, 16)."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(inplace=True), nn.MaxPool2d(2),
            nn.Conv2d(8, 12, 3, padding=1), nn.ReLU(inplace=True), nn.MaxPool2d(2),
        )  # fmt: skip
        self.classifier = nn.Sequential(nn.Linear(12 * 4 * 4, 20), nn.ReLU(), nn.Dropout(), nn.Linear(20, 10))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.classifier(torch.flatten(self.features(x), 1))


class UNet(nn.Module):
    """Two levels with transposed convolutions and skip concats. Inputs: (batch, 1, 16, 16)."""

    def __init__(self) -> None:
        super().__init__()
        self.down1, self.down2 = self._pair(1, 8), self._pair(8, 16)
        self.bottom = self._pair(16, 32)
        self.up2, self.join2 = nn.ConvTranspose2d(32, 16, 2, stride=2), self._pair(32, 16)
        self.up1, self.join1 = nn.ConvTranspose2d(16, 8, 2, stride=2), self._pair(16, 8)
        self.head = nn.Conv2d(8, 2, 1)

    @staticmethod
    def _pair(inner: int, outer: int) -> nn.Sequential:
        return nn.Sequential(
            nn.Conv2d(inner, outer, 3, padding=1), nn.BatchNorm2d(outer), nn.ReLU(inplace=True),
            nn.Conv2d(outer, outer, 3, padding=1), nn.BatchNorm2d(outer), nn.ReLU(inplace=True),
        )  # fmt: skip

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first = self.down1(x)
        second = self.down2(nn.functional.max_pool2d(first, 2))
        x = self.bottom(nn.functional.max_pool2d(second, 2))
        x = self.join2(torch.cat([self.up2(x), second], 1))
        x = self.join1(torch.cat([self.up1(x), first], 1))
        return self.head(x)


class SequenceClassifier(nn.Module):
    """An embedding, an LSTM, of two layers and both directions unless told, and a classifier; for token ids (batch, length)."""

    def __init__(self, kind: type[nn.RNNBase] = nn.LSTM, layers: int = 2, directions: int = 2, **options: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(50, 12)
        self.recurrent = kind(12, 10, num_layers=layers, bidirectional=directions == 2, batch_first=True, **options)
        self.head = nn.Linear(directions * (options.get("proj_size") or 10), 4)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.head(self.recurrent(self.embedding(tokens))[0][:, -1])
