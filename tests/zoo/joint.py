"""Models of transformers that read several modalities."""

from __future__ import annotations

from tests.zoo.shapes import BERT, CONV, GQA, IMAGES, SIZES, SPECIAL, Row

_TEXT = {**CONV, **SPECIAL, "vocab_size": 100, "max_position_embeddings": 40}
_TOWERS = {"text_config": _TEXT, "vision_config": IMAGES, "projection_dim": 32}
_LLAMA = {"model_type": "llama", **GQA}

JOINT: dict[str, Row] = {
    "clip": ("CLIPModel", "CLIPConfig", _TOWERS, "both"),
    "clip_vision": ("CLIPVisionModelWithProjection", "CLIPVisionConfig", {**IMAGES, "projection_dim": 32}, "images"),
    "clip_text": ("CLIPTextModelWithProjection", "CLIPTextConfig", {**_TEXT, "projection_dim": 32}, "tokens"),
    "siglip": (
        "SiglipModel", "SiglipConfig",
        {"text_config": {**_TEXT, "projection_size": 64}, "vision_config": IMAGES}, "both",
    ),
    "siglip_vision": (
        "SiglipForImageClassification", "SiglipConfig",
        {"text_config": _TEXT, "vision_config": IMAGES}, "images",
    ),
    "altclip": (
        "AltCLIPModel", "AltCLIPConfig",
        {"text_config": {**_TEXT, "project_dim": 32}, "vision_config": IMAGES, "projection_dim": 32}, "both",
    ),
    "chinese_clip": ("ChineseCLIPModel", "ChineseCLIPConfig", _TOWERS, "both"),
    "clipseg": (
        "CLIPSegForImageSegmentation", "CLIPSegConfig",
        {**_TOWERS, "extract_layers": [0, 1], "reduce_dim": 16, "decoder_intermediate_size": 32}, "both",
    ),
    "owlvit": ("OwlViTModel", "OwlViTConfig", {**_TOWERS, "text_config": {**_TEXT, "max_position_embeddings": 12}}, "both"),
    "align": (
        "AlignModel", "AlignConfig",
        {"text_config": {**BERT}, "projection_dim": 160,
         "vision_config": {"image_size": 32, "width_coefficient": 0.5, "depth_coefficient": 0.5, "hidden_dim": 160}},
         "both_large",
    ),
    "blip": (
        "BlipForConditionalGeneration", "BlipConfig",
        {"text_config": {**_TEXT, "encoder_hidden_size": 64}, "vision_config": IMAGES, "projection_dim": 32}, "both",
    ),
    "blip_2": (
        "Blip2ForConditionalGeneration", "Blip2Config",
        {"vision_config": IMAGES, "qformer_config": {**BERT, "encoder_hidden_size": 64, "cross_attention_frequency": 1},
         "text_config": {"model_type": "opt", **_TEXT, "ffn_dim": 128, "word_embed_proj_dim": 64}, "num_query_tokens": 4,
         "image_token_index": 99}, "captioned",
    ),
    "instructblip": (
        "InstructBlipForConditionalGeneration", "InstructBlipConfig",
        {"vision_config": IMAGES, "qformer_config": {**BERT, "encoder_hidden_size": 64, "cross_attention_frequency": 1},
         "text_config": {"model_type": "opt", **_TEXT, "ffn_dim": 128, "word_embed_proj_dim": 64}, "num_query_tokens": 4,
         "image_token_index": 99}, "instructed",
    ),
    "vilt": ("ViltModel", "ViltConfig", {**IMAGES, **SPECIAL, "vocab_size": 100}, "both"),
    "flava": (
        "FlavaModel", "FlavaConfig",
        {"text_config": {**BERT}, "image_config": IMAGES, "multimodal_config": CONV, "hidden_size": 64, "projection_dim": 32},
        "both",
    ),
    "lxmert": (
        "LxmertModel", "LxmertConfig",
        {**BERT, "l_layers": 1, "x_layers": 1, "r_layers": 1, "visual_feat_dim": 24}, "regions",
    ),
    "visual_bert": ("VisualBertModel", "VisualBertConfig", {**BERT, "visual_embedding_dim": 24}, "visual_tokens"),
    "bridgetower": (
        "BridgeTowerModel", "BridgeTowerConfig",
        {"hidden_size": 64, "num_attention_heads": 4, "num_hidden_layers": 2,
         "text_config": BERT, "vision_config": {"hidden_size": 64, "num_hidden_layers": 2, "patch_size": 8, "image_size": 32}},
        "both",
    ),
    "git": (
        "GitForCausalLM", "GitConfig", {**BERT, "vision_config": IMAGES}, "both",
    ),
    "layoutlmv3": (
        "LayoutLMv3ForSequenceClassification", "LayoutLMv3Config",
        {**BERT, "coordinate_size": 8, "shape_size": 16, "input_size": 32, "patch_size": 8, "max_2d_position_embeddings": 128},
        "document",
    ),
    "llava": (
        "LlavaForConditionalGeneration", "LlavaConfig",
        {"text_config": _LLAMA, "vision_config": {"model_type": "clip_vision_model", **IMAGES}, "image_token_index": 99},
        "chat",
    ),
    "paligemma": (
        "PaliGemmaForConditionalGeneration", "PaliGemmaConfig",
        {"text_config": {"model_type": "gemma", **GQA, "head_dim": 16}, "image_token_index": 99, "projection_dim": 128,
         "vision_config": {"model_type": "siglip_vision_model", **IMAGES, "projection_dim": 128}}, "chat",
    ),
    "gemma3_vision": (
        "Gemma3ForConditionalGeneration", "Gemma3Config",
        {"text_config": {**GQA, "head_dim": 16}, "vision_config": {**IMAGES, "vision_use_head": False}, "image_token_index": 99,
         "mm_tokens_per_image": 4}, "chat4",
    ),
    "idefics3": (
        "Idefics3ForConditionalGeneration", "Idefics3Config",
        {"text_config": _LLAMA, "vision_config": IMAGES, "image_token_id": 99, "scale_factor": 2}, "chat_list",
    ),
    "smolvlm": (
        "SmolVLMForConditionalGeneration", "SmolVLMConfig",
        {"text_config": _LLAMA, "vision_config": IMAGES, "image_token_id": 99, "scale_factor": 2}, "chat_list",
    ),
    "idefics": (
        "IdeficsForVisionText2Text", "IdeficsConfig",
        {**SIZES, **SPECIAL, "num_attention_heads": 4, "cross_layer_interval": 1,
         "vision_config": {"embed_dim": 64, "image_size": 32, "patch_size": 8, "num_attention_heads": 4, "num_hidden_layers": 2,
                           "intermediate_size": 128}}, "interleaved",
    ),
    "qwen2_vl": (
        "Qwen2VLForConditionalGeneration", "Qwen2VLConfig",
        {"text_config": {**GQA, "head_dim": 16, "rope_parameters": {"rope_type": "default", "mrope_section": [2, 3, 3]}},
         "vision_config": {"depth": 2, "embed_dim": 64, "hidden_size": 128, "num_heads": 4, "patch_size": 8, "mlp_ratio": 2},
         "image_token_id": 99, "video_token_id": 98, "vision_start_token_id": 97, "vision_end_token_id": 96}, "grid",
    ),
    "internvl": (
        "InternVLForConditionalGeneration", "InternVLConfig",
        {"text_config": {"model_type": "qwen2", **GQA},
         "vision_config": {**CONV, "image_size": [32, 32], "patch_size": [8, 8]}, "image_token_id": 99, "image_seq_length": 4},
        "chat4",
    ),
    "trocr": (
        "TrOCRForCausalLM", "TrOCRConfig",
        {**SPECIAL, "d_model": 64, "decoder_layers": 2, "decoder_attention_heads": 4, "decoder_ffn_dim": 128, "vocab_size": 100,
         "max_position_embeddings": 40}, "attended",
    ),
    "pix2struct": (
        "Pix2StructVisionModel", "Pix2StructVisionConfig",
        {"hidden_size": 64, "patch_embed_hidden_size": 192, "d_ff": 128, "d_kv": 16, "num_hidden_layers": 2,
         "num_attention_heads": 4, "seq_len": 16}, "patches",
    ),
    "udop": (
        "UdopForConditionalGeneration", "UdopConfig",
        {"d_model": 64, "d_kv": 16, "d_ff": 128, "num_layers": 2, "num_heads": 4, "vocab_size": 100, "image_size": 32,
         "patch_size": 8, "max_2d_position_embeddings": 128}, "boxed_pairs",
    ),
}  # fmt: skip
