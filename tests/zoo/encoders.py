"""Encoders of transformers: BERT and what came after it."""

from __future__ import annotations

from tests.zoo.shapes import BERT, HEADS, SIZES, SPECIAL, Row

ENCODERS: dict[str, Row] = {
    "bert": ("BertForSequenceClassification", "BertConfig", {**SIZES, "num_attention_heads": 4}, "tokens"),
    "roberta": ("RobertaForSequenceClassification", "RobertaConfig", BERT, "tokens"),
    "albert": ("AlbertForSequenceClassification", "AlbertConfig", {**BERT, "embedding_size": 32}, "tokens"),
    "electra": ("ElectraForSequenceClassification", "ElectraConfig", {**BERT, "embedding_size": 32}, "tokens"),
    "camembert": ("CamembertForMaskedLM", "CamembertConfig", BERT, "tokens"),
    "xlm_roberta": ("XLMRobertaForTokenClassification", "XLMRobertaConfig", BERT, "tokens"),
    "xlm_roberta_xl": ("XLMRobertaXLForSequenceClassification", "XLMRobertaXLConfig", BERT, "tokens"),
    "roberta_prelayernorm": ("RobertaPreLayerNormForMaskedLM", "RobertaPreLayerNormConfig", BERT, "tokens"),
    "ernie": ("ErnieForSequenceClassification", "ErnieConfig", BERT, "tokens"),
    "funnel": (
        "FunnelForSequenceClassification", "FunnelConfig",
        {"d_model": 64, "n_head": 4, "d_head": 16, "d_inner": 128, "block_sizes": [1, 1], "vocab_size": 100}, "tokens",
    ),
    "squeezebert": (
        "SqueezeBertForSequenceClassification", "SqueezeBertConfig", {**BERT, "embedding_size": 64}, "tokens",
    ),
    "mobilebert": (
        "MobileBertForSequenceClassification", "MobileBertConfig",
        {**BERT, "embedding_size": 32, "intra_bottleneck_size": 32, "num_feedforward_networks": 2}, "tokens",
    ),
    "longformer": ("LongformerForSequenceClassification", "LongformerConfig", {**BERT, "attention_window": 8}, "tokens"),
    "big_bird": (
        "BigBirdForSequenceClassification", "BigBirdConfig", {**BERT, "attention_type": "original_full"}, "tokens",
    ),
    "layoutlm": ("LayoutLMForSequenceClassification", "LayoutLMConfig", BERT, "tokens"),
    "modernbert": (
        "ModernBertForSequenceClassification", "ModernBertConfig",
        {**BERT, "cls_token_id": 1, "sep_token_id": 2, "local_attention": 8}, "tokens",
    ),
    "roformer": ("RoFormerForSequenceClassification", "RoFormerConfig", BERT, "tokens"),
    "fnet": ("FNetForSequenceClassification", "FNetConfig", {**BERT, "tpu_short_seq_length": 12}, "tokens"),
    "distilbert": (
        "DistilBertForSequenceClassification", "DistilBertConfig",
        {**SPECIAL, "dim": 64, "hidden_dim": 128, "n_heads": 4, "n_layers": 2, "vocab_size": 100}, "tokens",
    ),
    "deberta": (
        "DebertaForSequenceClassification", "DebertaConfig",
        {**BERT, "relative_attention": True, "pos_att_type": ["c2p", "p2c"]}, "tokens",
    ),
    "deberta_v2": (
        "DebertaV2ForSequenceClassification", "DebertaV2Config",
        {**BERT, "relative_attention": True, "pos_att_type": ["c2p", "p2c"], "position_buckets": 8, "share_att_key": True,
         "norm_rel_ebd": "layer_norm"}, "tokens",
    ),
    "mpnet": ("MPNetForSequenceClassification", "MPNetConfig", BERT, "tokens"),
    "nystromformer": (
        "NystromformerForSequenceClassification", "NystromformerConfig",
        {**BERT, "num_landmarks": 4, "segment_means_seq_len": 12, "conv_kernel_size": 3}, "tokens",
    ),
    "convbert": (
        "ConvBertForSequenceClassification", "ConvBertConfig", {**BERT, "embedding_size": 32, "conv_kernel_size": 3}, "tokens",
    ),
    "xlnet": (
        "XLNetForSequenceClassification", "XLNetConfig",
        {**SPECIAL, "d_model": 64, "n_layer": 2, "n_head": 4, "d_inner": 128, "vocab_size": 100}, "tokens",
    ),
    "xlm": (
        "XLMForSequenceClassification", "XLMConfig",
        {"emb_dim": 64, "n_layers": 2, "n_heads": 4, "vocab_size": 100, "max_position_embeddings": 40}, "tokens",
    ),
    "flaubert": (
        "FlaubertForSequenceClassification", "FlaubertConfig",
        {"emb_dim": 64, "n_layers": 2, "n_heads": 4, "vocab_size": 100, "max_position_embeddings": 40}, "tokens",
    ),
    "megatron_bert": ("MegatronBertForSequenceClassification", "MegatronBertConfig", BERT, "tokens"),
    "rembert": (
        "RemBertForSequenceClassification", "RemBertConfig",
        {**BERT, "input_embedding_size": 32, "output_embedding_size": 48}, "tokens",
    ),
    "canine": (
        "CanineForSequenceClassification", "CanineConfig",
        {**SPECIAL, **HEADS, "hidden_size": 64, "num_hidden_layers": 2, "intermediate_size": 128, "num_hash_functions": 4,
         "num_hash_buckets": 40, "local_transformer_stride": 8, "max_position_embeddings": 40}, "long_tokens",
    ),
    "ibert": ("IBertForSequenceClassification", "IBertConfig", BERT, "tokens"),
    "lilt": ("LiltForSequenceClassification", "LiltConfig", {**BERT, "hidden_size": 96, "channel_shrink_ratio": 2}, "tokens"),
    "luke": ("LukeModel", "LukeConfig", {**BERT, "entity_vocab_size": 20, "entity_emb_size": 32}, "entities"),
    "roc_bert": ("RoCBertForSequenceClassification", "RoCBertConfig", {**BERT, "pronunciation_vocab_size": 100,
        "shape_vocab_size": 100, "pronunciation_embed_dim": 16, "shape_embed_dim": 16}, "shaped_tokens"),
    "esm": ("EsmForSequenceClassification", "EsmConfig", {**BERT, "mask_token_id": 4}, "tokens"),
    "data2vec_text": ("Data2VecTextForSequenceClassification", "Data2VecTextConfig", BERT, "tokens"),
    "xmod": ("XmodForSequenceClassification", "XmodConfig", {**BERT, "default_language": "en_XX"}, "tokens"),
    "nomic_bert": ("NomicBertForSequenceClassification", "NomicBertConfig", BERT, "tokens"),
    "eurobert": ("EuroBertForSequenceClassification", "EuroBertConfig", BERT, "tokens"),
    "splinter": ("SplinterModel", "SplinterConfig", BERT, "tokens"),
    "dpr": ("DPRQuestionEncoder", "DPRConfig", BERT, "tokens"),
    "markuplm": ("MarkupLMForSequenceClassification", "MarkupLMConfig", {**BERT, "max_depth": 4}, "tokens"),
    "bros": ("BrosForTokenClassification", "BrosConfig", BERT, "boxed_tokens"),
    "tapas": ("TapasModel", "TapasConfig", BERT, "tokens"),
    "perceiver": (
        "PerceiverForMaskedLM", "PerceiverConfig",
        {"num_latents": 6, "d_latents": 32, "d_model": 64, "num_blocks": 1, "num_self_attends_per_block": 2,
         "num_self_attention_heads": 4, "num_cross_attention_heads": 4, "qk_channels": 32, "v_channels": 32,
         "max_position_embeddings": 12, "vocab_size": 100}, "masked_tokens",
    ),
    "mra": ("MraForSequenceClassification", "MraConfig", BERT, "tokens"),
    "yoso": ("YosoForSequenceClassification", "YosoConfig", {**BERT, "use_expectation": True}, "tokens"),
    "reformer": (
        "ReformerForSequenceClassification", "ReformerConfig",
        {**SPECIAL, "hidden_size": 64, "num_attention_heads": 4, "attention_head_size": 16, "feed_forward_size": 128,
         "attn_layers": ["local", "local"], "local_attn_chunk_length": 4, "axial_pos_embds": False, "vocab_size": 100,
         "max_position_embeddings": 40}, "tokens",
    ),
}  # fmt: skip
