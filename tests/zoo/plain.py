"""Networks written with plain tensors and layers, as research code writes them: graphs, points, sequences, recommenders."""

from __future__ import annotations

from tests.zoo import Maker


def models() -> dict[str, Maker]:
    """Name to maker."""
    return {}
