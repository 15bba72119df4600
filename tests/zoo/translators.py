"""Encoder-decoders of transformers."""

from __future__ import annotations

from tests.zoo.shapes import SPECIAL, T5, TRANSLATOR, Row

TRANSLATORS: dict[str, Row] = {
    "t5": ("T5ForConditionalGeneration", "T5Config", T5, "pairs"),
    "mt5": ("MT5ForConditionalGeneration", "MT5Config", T5, "pairs"),
    "umt5": ("UMT5ForConditionalGeneration", "UMT5Config", T5, "pairs"),
    "longt5": (
        "LongT5ForConditionalGeneration", "LongT5Config", {**T5, "local_radius": 4, "encoder_attention_type": "local"}, "pairs",
    ),
    "longt5_global": (
        "LongT5ForConditionalGeneration", "LongT5Config",
        {**T5, "local_radius": 4, "encoder_attention_type": "transient-global", "global_block_size": 4}, "pairs",
    ),
    "switch_transformers": (
        "SwitchTransformersForConditionalGeneration", "SwitchTransformersConfig",
        {**T5, "num_decoder_layers": 2, "num_sparse_encoder_layers": 1, "num_sparse_decoder_layers": 1, "num_experts": 1},
        "pairs",
    ),
    "bart": ("BartForConditionalGeneration", "BartConfig", TRANSLATOR, "pairs"),
    "mbart": ("MBartForConditionalGeneration", "MBartConfig", TRANSLATOR, "pairs"),
    "pegasus": ("PegasusForConditionalGeneration", "PegasusConfig", TRANSLATOR, "pairs"),
    "pegasus_x": (
        "PegasusXForConditionalGeneration", "PegasusXConfig", {**TRANSLATOR, "num_global_tokens": 4, "block_size": 4}, "pairs",
    ),
    "bigbird_pegasus": (
        "BigBirdPegasusForConditionalGeneration", "BigBirdPegasusConfig", {**TRANSLATOR, "attention_type": "original_full"},
        "pairs",
    ),
    "marian": ("MarianMTModel", "MarianConfig", {**TRANSLATOR, "decoder_vocab_size": 100}, "pairs"),
    "m2m_100": ("M2M100ForConditionalGeneration", "M2M100Config", TRANSLATOR, "pairs"),
    "nllb_moe": (
        "NllbMoeForConditionalGeneration", "NllbMoeConfig",
        {**TRANSLATOR, "num_experts": 2, "encoder_sparse_step": 2, "decoder_sparse_step": 2}, "pairs",
    ),
    "prophetnet": (
        "ProphetNetForConditionalGeneration", "ProphetNetConfig",
        {**SPECIAL, "hidden_size": 64, "encoder_ffn_dim": 128, "num_encoder_layers": 2, "num_encoder_attention_heads": 4,
         "decoder_ffn_dim": 128, "num_decoder_layers": 2, "num_decoder_attention_heads": 4, "vocab_size": 100,
         "max_position_embeddings": 40, "decoder_start_token_id": 1}, "pairs",
    ),
    "led": (
        "LEDForConditionalGeneration", "LEDConfig",
        {**TRANSLATOR, "max_encoder_position_embeddings": 40, "max_decoder_position_embeddings": 40, "attention_window": 4},
        "pairs",
    ),
    "blenderbot": ("BlenderbotForConditionalGeneration", "BlenderbotConfig", TRANSLATOR, "pairs"),
    "blenderbot_small": ("BlenderbotSmallForConditionalGeneration", "BlenderbotSmallConfig", TRANSLATOR, "pairs"),
    "mvp": ("MvpForConditionalGeneration", "MvpConfig", TRANSLATOR, "pairs"),
    "plbart": ("PLBartForConditionalGeneration", "PLBartConfig", TRANSLATOR, "pairs"),
    "fsmt": (
        "FSMTForConditionalGeneration", "FSMTConfig",
        {**TRANSLATOR, "langs": ["en", "de"], "src_vocab_size": 100, "tgt_vocab_size": 100}, "pairs",
    ),
    "t5gemma": (
        "T5GemmaForConditionalGeneration", "T5GemmaConfig",
        {part: {**SPECIAL, "hidden_size": 64, "num_hidden_layers": 2, "intermediate_size": 128, "vocab_size": 100,
                "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 16} for part in ("encoder", "decoder")},
        "pairs",
    ),
}  # fmt: skip
