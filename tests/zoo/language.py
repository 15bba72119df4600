"""Small models of transformers with random weights, by configuration."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from tests.zoo import Made, Maker, transformers


def models() -> dict[str, Maker]:
    """Name to maker."""
    return {name: small_transformers(name) for name in TRANSFORMERS}


def seeded(name: str) -> nn.Module:
    """A small language model of transformers with random weights, in evaluation mode."""
    torch.manual_seed(0)
    return small_transformers(name)()[0]


SIZES = {"hidden_size": 64, "num_hidden_layers": 2, "intermediate_size": 128, "vocab_size": 100}
SPECIAL = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
DECODER = {**SIZES, **SPECIAL, "num_attention_heads": 8}
GQA = {**DECODER, "num_key_value_heads": 4, "hidden_size": 128}
CONV = {"hidden_size": 64, "num_hidden_layers": 2, "intermediate_size": 128, "num_attention_heads": 4}
IMAGES = {**CONV, "image_size": 32, "patch_size": 8}
SEQ2SEQ = {
    "d_model": 64, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4, "decoder_attention_heads": 4,
    "encoder_ffn_dim": 128, "decoder_ffn_dim": 128, "vocab_size": 100,
}  # fmt: skip

# name: (model class, config class, config, kind of inputs)
TRANSFORMERS: dict[str, tuple[str, str, dict[str, Any], str]] = {
    "bert": ("BertForSequenceClassification", "BertConfig", {**SIZES, "num_attention_heads": 4}, "tokens"),
    "roberta": (
        "RobertaForSequenceClassification", "RobertaConfig",
        {**SIZES, **SPECIAL, "num_attention_heads": 4, "max_position_embeddings": 40}, "tokens",
    ),
    "gpt2": (
        "GPT2LMHeadModel", "GPT2Config",
        {"n_layer": 2, "n_embd": 64, "n_head": 4, "vocab_size": 100, "n_positions": 32, **SPECIAL}, "tokens",
    ),
    "opt": (
        "OPTForCausalLM", "OPTConfig",
        {"hidden_size": 64, "num_hidden_layers": 2, "ffn_dim": 128, "num_attention_heads": 4, "vocab_size": 100,
         "word_embed_proj_dim": 64, "max_position_embeddings": 40, **SPECIAL}, "tokens",
    ),
    "gpt_neox": ("GPTNeoXForCausalLM", "GPTNeoXConfig", {**DECODER, "hidden_size": 128}, "tokens"),
    "llama": ("LlamaForCausalLM", "LlamaConfig", {**DECODER, "num_attention_heads": 4}, "tokens"),
    "llama_gqa": ("LlamaForCausalLM", "LlamaConfig", {**DECODER, "num_key_value_heads": 2, "hidden_size": 128}, "tokens"),
    "mistral": ("MistralForCausalLM", "MistralConfig", GQA, "tokens"),
    "qwen2": ("Qwen2ForCausalLM", "Qwen2Config", GQA, "tokens"),
    "qwen3": ("Qwen3ForCausalLM", "Qwen3Config", {**GQA, "head_dim": 16}, "tokens"),
    "gemma2": ("Gemma2ForCausalLM", "Gemma2Config", {**GQA, "head_dim": 16}, "tokens"),
    "phi3": ("Phi3ForCausalLM", "Phi3Config", GQA, "tokens"),
    "falcon": (
        "FalconForCausalLM", "FalconConfig",
        {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 100, **SPECIAL}, "tokens",
    ),
    "bloom": (
        "BloomForCausalLM", "BloomConfig",
        {"hidden_size": 64, "n_layer": 2, "n_head": 4, "vocab_size": 100, **SPECIAL}, "tokens",
    ),
    "t5": (
        "T5ForConditionalGeneration", "T5Config",
        {"d_model": 64, "d_kv": 16, "d_ff": 128, "num_layers": 2, "num_heads": 4, "vocab_size": 100}, "pairs",
    ),
    "bart": ("BartForConditionalGeneration", "BartConfig", {**SEQ2SEQ, "max_position_embeddings": 40, **SPECIAL}, "pairs"),
    "vit": ("ViTForImageClassification", "ViTConfig", IMAGES, "images"),
    "swin": (
        "SwinForImageClassification", "SwinConfig",
        {"image_size": 32, "patch_size": 2, "embed_dim": 32, "depths": [2, 2], "num_heads": [4, 8], "window_size": 4}, "images",
    ),
    "clip": (
        "CLIPModel", "CLIPConfig",
        {"text_config": {**CONV, **SPECIAL, "vocab_size": 100, "max_position_embeddings": 40}, "vision_config": IMAGES,
         "projection_dim": 32}, "both",
    ),
    "whisper": (
        "WhisperForConditionalGeneration", "WhisperConfig",
        {**SEQ2SEQ, **SPECIAL, "num_mel_bins": 8, "max_source_positions": 16, "max_target_positions": 40,
         "decoder_start_token_id": 1, "suppress_tokens": None, "begin_suppress_tokens": None}, "speech",
    ),
    "wav2vec2": (
        "Wav2Vec2ForSequenceClassification", "Wav2Vec2Config",
        {**CONV, "conv_dim": [32] * 3, "conv_stride": [5, 2, 2], "conv_kernel": [10, 3, 3], "num_feat_extract_layers": 3,
         "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4}, "waves",
    ),
    "segformer": (
        "SegformerForImageClassification", "SegformerConfig",
        {"depths": [1, 1, 1, 1], "hidden_sizes": [16, 32, 64, 64], "num_attention_heads": [1, 2, 4, 8]}, "pictures",
    ),
    "mamba": (
        "MambaForCausalLM", "MambaConfig",
        {"hidden_size": 64, "num_hidden_layers": 2, "vocab_size": 100, "state_size": 8}, "tokens",
    ),
    "mixtral": ("MixtralForCausalLM", "MixtralConfig", {**GQA, "num_local_experts": 4}, "tokens"),
}  # fmt: skip


def small_transformers(name: str) -> Callable[[], Made]:
    """A maker of a small model of transformers, of its arguments and of its keyword arguments."""

    def make() -> Made:
        module = transformers()
        model_class, config_class, options, kind = TRANSFORMERS[name]
        model = getattr(module, model_class)(getattr(module, config_class)(**options)).eval()
        return model, (), _inputs(kind)

    return make


def _inputs(kind: str) -> dict[str, Any]:
    tokens = {"input_ids": torch.randint(3, 100, (2, 12))}
    return {
        "tokens": tokens,
        "pairs": {**tokens, "decoder_input_ids": tokens["input_ids"]},
        "images": {"pixel_values": torch.randn(1, 3, 32, 32)},
        "pictures": {"pixel_values": torch.randn(1, 3, 64, 64)},
        "both": {**tokens, "pixel_values": torch.randn(1, 3, 32, 32)},
        "speech": {"input_features": torch.randn(1, 8, 32), "decoder_input_ids": tokens["input_ids"][:1]},
        "waves": {"input_values": torch.randn(1, 800)},
    }[kind]
