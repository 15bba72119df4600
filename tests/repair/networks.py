"""Small networks in which some channels are affine combinations of others, so that a repair is exact."""

import torch
from torch import nn
from torch.nn import functional as F


class Gated(nn.Module):
    """A residual stream with a gate: products read the stream and the product of two of them."""

    def __init__(self, width, inner):
        super().__init__()
        self.first, self.up, self.gate = nn.Linear(5, width), nn.Linear(width, inner), nn.Linear(width, inner, bias=False)
        self.down, self.last = nn.Linear(inner, width), nn.Linear(width, 3)

    def forward(self, x):
        x = self.first(x)
        x = x + self.down(self.up(x) * torch.sigmoid(self.gate(x)))
        return self.last(x)


class ConvNet(nn.Module):
    """Convolutions with batch normalisation, one of them grouped, and a linear layer behind a flatten."""

    def __init__(self, width, groups=1):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(2, width, 3, padding=1), nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, 2 * groups, 3, stride=2, padding=1, groups=groups, bias=False)
        self.bn2, self.head = nn.BatchNorm2d(2 * groups), nn.Linear(2 * groups * 9, 3)

    def forward(self, x):
        x = F.relu(self.bn1(self.conv1(x)))
        return self.head(F.relu(self.bn2(self.conv2(x))).flatten(1))


def settled(model, x):
    """The model in evaluation mode, with running statistics that are not the default ones."""
    model.train()
    with torch.no_grad():
        for _ in range(3):
            model(x)
    return model.eval()
