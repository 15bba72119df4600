"""Networks written with plain tensors and layers, as research code writes them: one file per field, all gathered here."""

from __future__ import annotations

from tests.zoo import (
    Maker,
    plain_attention,
    plain_generation,
    plain_images,
    plain_layers,
    plain_routing,
    plain_sequences,
    plain_structures,
)

FIELDS = (
    plain_sequences,
    plain_images,
    plain_generation,
    plain_attention,
    plain_structures,
    plain_layers,
    plain_routing,
)


def models() -> dict[str, Maker]:
    """Name to maker."""
    return {name: make for field in FIELDS for name, make in field.MODELS.items()}
