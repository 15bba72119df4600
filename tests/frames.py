"""Where a test puts what it looks at between two layers."""

import torch
from torch import nn


class Frame(nn.Module):
    """A linear layer, something in between that a test gives, and a linear layer."""

    def __init__(self, inner: int = 12, outer: int = 12, **attributes: object) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(8, inner), nn.Linear(outer, 5)
        for name, value in attributes.items():
            setattr(self, name, value)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.between(self.first(x)))
