"""Small models of transformers with random weights, by configuration."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from tests.zoo import Made, Maker, transformers
from tests.zoo.decoders import DECODERS
from tests.zoo.encoders import ENCODERS
from tests.zoo.joint import JOINT
from tests.zoo.shapes import Row
from tests.zoo.sight import SIGHT
from tests.zoo.sound import SOUND
from tests.zoo.translators import TRANSLATORS

TRANSFORMERS: dict[str, Row] = {**ENCODERS, **DECODERS, **TRANSLATORS, **SIGHT, **SOUND, **JOINT}
"""Name to model class, config class, config and kind of inputs."""

LITTLE_PRUNABLE: dict[str, str] = {
    "longformer": "chunks of keys overlap in memory (as_strided), over which heads and head dims are laid out",
    "led": "its encoder is Longformer's; heads times head dims must be the width, an output (encoder's states)",
    "prophetnet": "heads times head dims must be the model's width, which is an output (the encoder's hidden states)",
    "table_transformer": "heads times head dims must be the width, an output that forward also computes as sines",
    "tapas": "seven vocabularies and an output of the model share the width, and hold most of a model as small as this",
}
"""Models of which less than 60 % of the parameters lie in groups, and why."""

LEFT_OUT: dict[str, str] = {
    "DinatForImageClassification": "needs the package natten, whose kernels are compiled",
    "LayoutLMv2Model": "needs the package detectron2 for its visual backbone",
    "xLSTMForCausalLM": "its forward without the package xlstm refuses the shapes of its own states",
    "VitsModel": "the length of the speech that it returns is computed from its weights, so that no pruned one returns as much",
}
"""Classes of transformers that are not in the table, and why."""


def models() -> dict[str, Maker]:
    """Name to maker."""
    return {name: small_transformers(name) for name in TRANSFORMERS}


def seeded(name: str) -> nn.Module:
    """A small language model of transformers with random weights, in evaluation mode."""
    torch.manual_seed(0)
    return small_transformers(name)()[0]


def small_transformers(name: str) -> Callable[[], Made]:
    """A maker of a small model of transformers, of its arguments and of its keyword arguments."""

    def make() -> Made:
        module = transformers()
        model_class, config_class, options, kind = TRANSFORMERS[name]
        model = getattr(module, model_class)(getattr(module, config_class)(**options)).eval()
        return model, (), inputs(kind)

    return make


def inputs(kind: str) -> dict[str, Any]:
    """Keyword arguments of a forward: random, of few tokens and pixels."""
    ids = torch.randint(3, 90, (2, 12))
    one = ids[:1]
    tokens = {"input_ids": ids}
    small, large = torch.randn(1, 3, 32, 32), torch.randn(1, 3, 64, 64)
    # the image tokens of a chat stand in front: 16 of them, or 4 where a model merges patches
    sixteen = {"input_ids": torch.cat([torch.full((1, 16), 99), one], 1)}
    four = {"input_ids": torch.cat([torch.full((1, 4), 99), one], 1)}
    boxes = torch.randint(0, 50, (2, 12, 2)).repeat(1, 1, 2)
    return {
        "tokens": lambda: tokens,
        "long_tokens": lambda: {"input_ids": torch.randint(3, 90, (1, 32))},
        "masked_tokens": lambda: {"inputs": ids, "attention_mask": torch.ones(2, 12)},
        "shaped_tokens": lambda: {**tokens, "input_shape_ids": ids, "input_pronunciation_ids": ids},
        "boxed_tokens": lambda: {**tokens, "bbox": boxes.float()},
        "boxed_pairs": lambda: {**tokens, "bbox": boxes / 100, "decoder_input_ids": ids},
        "entities": lambda: {
            **tokens, "entity_ids": torch.randint(1, 20, (2, 3)), "entity_attention_mask": torch.ones(2, 3),
            "entity_position_ids": torch.randint(0, 12, (2, 3, 2)),
        },
        "attended": lambda: {**tokens, "encoder_hidden_states": torch.randn(2, 5, 64)},
        "pairs": lambda: {**tokens, "decoder_input_ids": ids},
        "images": lambda: {"pixel_values": small},
        "pictures": lambda: {"pixel_values": large},
        "videos": lambda: {"pixel_values": torch.randn(1, 4, 3, 16, 16)},
        "patches": lambda: {"flattened_patches": torch.cat([torch.randint(1, 4, (1, 16, 2)), torch.randn(1, 16, 192)], -1)},
        "both": lambda: {**tokens, "pixel_values": small.expand(2, -1, -1, -1)},
        "both_large": lambda: {**tokens, "pixel_values": large.expand(2, -1, -1, -1)},
        "document": lambda: {**tokens, "bbox": boxes, "pixel_values": small.expand(2, -1, -1, -1)},
        "regions": lambda: {**tokens, "visual_feats": torch.randn(2, 5, 24), "visual_pos": torch.rand(2, 5, 4)},
        "visual_tokens": lambda: {**tokens, "visual_embeds": torch.randn(2, 5, 24)},
        "captioned": lambda: {**four, "pixel_values": small},
        "instructed": lambda: {**four, "pixel_values": small, "qformer_input_ids": one},
        "chat": lambda: {**sixteen, "pixel_values": small},
        "chat4": lambda: {**four, "pixel_values": small},
        "chat_list": lambda: {**four, "pixel_values": small[None]},
        "interleaved": lambda: {
            "input_ids": one, "attention_mask": torch.ones(1, 12, dtype=torch.long), "pixel_values": small[None],
            "image_attention_mask": torch.ones(1, 12, 1, dtype=torch.long),
        },
        "grid": lambda: {
            "input_ids": torch.cat([torch.tensor([[97]]), four["input_ids"]], 1), "pixel_values": torch.randn(16, 384),
            "image_grid_thw": torch.tensor([[1, 4, 4]]), "mm_token_type_ids": torch.tensor([[0] + [1] * 4 + [0] * 12]),
        },
        "speech": lambda: {"input_features": torch.randn(1, 8, 32), "decoder_input_ids": one},
        "spoken": lambda: {"input_features": torch.randn(1, 32, 16), "decoder_input_ids": one},
        "heard": lambda: {**tokens, "input_features": torch.randn(2, 1, 64, 16), "is_longer": torch.tensor([[False], [False]])},
        "features": lambda: {"input_features": torch.randn(1, 20, 16)},
        "spectrograms": lambda: {"input_values": torch.randn(1, 32, 16)},
        "waves": lambda: {"input_values": torch.randn(1, 800)},
        "long_waves": lambda: {"input_values": torch.randn(1, 2400), "decoder_input_ids": one},
        "mono": lambda: {"input_values": torch.randn(1, 1, 320)},
        "series": lambda: {"past_values": torch.randn(2, 16, 2)},
    }[kind]()  # fmt: skip
