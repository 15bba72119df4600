"""Small sizes that many configurations of transformers share, and what a row of the tables holds."""

from __future__ import annotations

from typing import Any

Row = tuple[str, str, dict[str, Any], str]
"""Model class, config class, options of the config, kind of inputs."""

SIZES = {"hidden_size": 64, "num_hidden_layers": 2, "intermediate_size": 128, "vocab_size": 100}
SPECIAL = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
HEADS = {"num_attention_heads": 4}
BERT = {**SIZES, **SPECIAL, **HEADS, "max_position_embeddings": 40}
DECODER = {**SIZES, **SPECIAL, "num_attention_heads": 8}
GQA = {**DECODER, "num_key_value_heads": 4, "hidden_size": 128}
CONV = {"hidden_size": 64, "num_hidden_layers": 2, "intermediate_size": 128, "num_attention_heads": 4}
IMAGES = {**CONV, "image_size": 32, "patch_size": 8}
T5 = {"d_model": 64, "d_kv": 16, "d_ff": 128, "num_layers": 2, "num_heads": 4, "vocab_size": 100}
SEQ2SEQ = {
    "d_model": 64, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4, "decoder_attention_heads": 4,
    "encoder_ffn_dim": 128, "decoder_ffn_dim": 128, "vocab_size": 100,
}  # fmt: skip
TRANSLATOR = {**SEQ2SEQ, **SPECIAL, "max_position_embeddings": 40, "decoder_start_token_id": 1}
WAVES = {
    **CONV, "conv_dim": [32] * 3, "conv_stride": [5, 2, 2], "conv_kernel": [10, 3, 3], "num_feat_extract_layers": 3,
    "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4,
}  # fmt: skip
