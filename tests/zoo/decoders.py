"""Decoders of transformers: GPT-2 and what came after it, state spaces and mixtures of experts."""

from __future__ import annotations

from tests.zoo.shapes import DECODER, GQA, SIZES, SPECIAL, Row

_GPT = {**SPECIAL, "n_layer": 2, "n_embd": 64, "n_head": 4, "vocab_size": 100, "n_positions": 32}
_D16 = {**GQA, "head_dim": 16}
_MLA = {
    **DECODER, "num_attention_heads": 4, "num_key_value_heads": 4, "hidden_size": 64, "moe_intermediate_size": 32,
    "q_lora_rank": 24, "kv_lora_rank": 24, "qk_nope_head_dim": 16, "qk_rope_head_dim": 8, "v_head_dim": 16,
    "n_routed_experts": 4, "n_shared_experts": 1, "num_experts_per_tok": 2, "n_group": 2, "topk_group": 1,
    "first_k_dense_replace": 1,
}  # fmt: skip
_MAMBA = {"hidden_size": 64, "num_hidden_layers": 2, "vocab_size": 100, "state_size": 8, **SPECIAL}

DECODERS: dict[str, Row] = {
    "gpt2": ("GPT2LMHeadModel", "GPT2Config", _GPT, "tokens"),
    "openai_gpt": ("OpenAIGPTLMHeadModel", "OpenAIGPTConfig", _GPT, "tokens"),
    "ctrl": ("CTRLLMHeadModel", "CTRLConfig", {**_GPT, "dff": 128}, "tokens"),
    "gpt_bigcode": ("GPTBigCodeForCausalLM", "GPTBigCodeConfig", _GPT, "tokens"),
    "gptj": ("GPTJForCausalLM", "GPTJConfig", {**_GPT, "rotary_dim": 8}, "tokens"),
    "codegen": ("CodeGenForCausalLM", "CodeGenConfig", {**_GPT, "rotary_dim": 8}, "tokens"),
    "gpt_neo": (
        "GPTNeoForCausalLM", "GPTNeoConfig",
        {**SPECIAL, "hidden_size": 64, "num_layers": 2, "num_heads": 4, "vocab_size": 100, "max_position_embeddings": 40,
         "attention_types": [[["global", "local"], 1]], "window_size": 8}, "tokens",
    ),
    "imagegpt": ("ImageGPTForImageClassification", "ImageGPTConfig", _GPT, "tokens"),
    "opt": (
        "OPTForCausalLM", "OPTConfig",
        {"hidden_size": 64, "num_hidden_layers": 2, "ffn_dim": 128, "num_attention_heads": 4, "vocab_size": 100,
         "word_embed_proj_dim": 64, "max_position_embeddings": 40, **SPECIAL}, "tokens",
    ),
    "biogpt": ("BioGptForCausalLM", "BioGptConfig", {**DECODER, "max_position_embeddings": 40}, "tokens"),
    "xglm": (
        "XGLMForCausalLM", "XGLMConfig",
        {**SPECIAL, "d_model": 64, "ffn_dim": 128, "num_layers": 2, "attention_heads": 4, "vocab_size": 100,
         "max_position_embeddings": 40}, "tokens",
    ),
    "gpt_neox": ("GPTNeoXForCausalLM", "GPTNeoXConfig", {**DECODER, "hidden_size": 128}, "tokens"),
    "gpt_neox_japanese": (
        "GPTNeoXJapaneseForCausalLM", "GPTNeoXJapaneseConfig", {**SIZES, **SPECIAL, "num_attention_heads": 4}, "tokens",
    ),
    "llama": ("LlamaForCausalLM", "LlamaConfig", {**DECODER, "num_attention_heads": 4}, "tokens"),
    "llama_gqa": ("LlamaForCausalLM", "LlamaConfig", {**DECODER, "num_key_value_heads": 2, "hidden_size": 128}, "tokens"),
    "mistral": ("MistralForCausalLM", "MistralConfig", GQA, "tokens"),
    "ministral": ("MinistralForCausalLM", "MinistralConfig", _D16, "tokens"),
    "qwen2": ("Qwen2ForCausalLM", "Qwen2Config", GQA, "tokens"),
    "qwen3": ("Qwen3ForCausalLM", "Qwen3Config", _D16, "tokens"),
    "gemma": ("GemmaForCausalLM", "GemmaConfig", _D16, "tokens"),
    "gemma2": ("Gemma2ForCausalLM", "Gemma2Config", _D16, "tokens"),
    "gemma3": ("Gemma3ForCausalLM", "Gemma3TextConfig", _D16, "tokens"),
    "gemma3n": (
        "Gemma3nForCausalLM", "Gemma3nTextConfig",
        {**_D16, "vocab_size_per_layer_input": 100, "hidden_size_per_layer_input": 16, "altup_num_inputs": 2,
         "num_kv_shared_layers": 0, "laurel_rank": 8, "intermediate_size": [128, 128]}, "tokens",
    ),
    "phi": ("PhiForCausalLM", "PhiConfig", {**DECODER, "num_attention_heads": 4}, "tokens"),
    "phi3": ("Phi3ForCausalLM", "Phi3Config", GQA, "tokens"),
    "cohere": ("CohereForCausalLM", "CohereConfig", GQA, "tokens"),
    "cohere2": ("Cohere2ForCausalLM", "Cohere2Config", GQA, "tokens"),
    "olmo": ("OlmoForCausalLM", "OlmoConfig", GQA, "tokens"),
    "olmo2": ("Olmo2ForCausalLM", "Olmo2Config", GQA, "tokens"),
    "olmo3": ("Olmo3ForCausalLM", "Olmo3Config", GQA, "tokens"),
    "stablelm": ("StableLmForCausalLM", "StableLmConfig", GQA, "tokens"),
    "persimmon": ("PersimmonForCausalLM", "PersimmonConfig", {**DECODER, "num_attention_heads": 4}, "tokens"),
    "starcoder2": ("Starcoder2ForCausalLM", "Starcoder2Config", GQA, "tokens"),
    "granite": ("GraniteForCausalLM", "GraniteConfig", GQA, "tokens"),
    "nemotron": ("NemotronForCausalLM", "NemotronConfig", GQA, "tokens"),
    "smollm3": ("SmolLM3ForCausalLM", "SmolLM3Config", GQA, "tokens"),
    "helium": ("HeliumForCausalLM", "HeliumConfig", _D16, "tokens"),
    "glm": ("GlmForCausalLM", "GlmConfig", _D16, "tokens"),
    "glm4": ("Glm4ForCausalLM", "Glm4Config", _D16, "tokens"),
    "exaone4": ("Exaone4ForCausalLM", "Exaone4Config", GQA, "tokens"),
    "ernie4_5": ("Ernie4_5ForCausalLM", "Ernie4_5Config", _D16, "tokens"),
    "apertus": ("ApertusForCausalLM", "ApertusConfig", GQA, "tokens"),
    "arcee": ("ArceeForCausalLM", "ArceeConfig", GQA, "tokens"),
    "seed_oss": ("SeedOssForCausalLM", "SeedOssConfig", _D16, "tokens"),
    "bitnet": ("BitNetForCausalLM", "BitNetConfig", GQA, "tokens"),
    "diffllama": ("DiffLlamaForCausalLM", "DiffLlamaConfig", GQA, "tokens"),
    "doge": ("DogeForCausalLM", "DogeConfig", GQA, "tokens"),
    "lfm2": ("Lfm2ForCausalLM", "Lfm2Config", {**GQA, "layer_types": ["conv", "full_attention"]}, "tokens"),
    "falcon": (
        "FalconForCausalLM", "FalconConfig",
        {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 100, **SPECIAL}, "tokens",
    ),
    "bloom": (
        "BloomForCausalLM", "BloomConfig",
        {"hidden_size": 64, "n_layer": 2, "n_head": 4, "vocab_size": 100, **SPECIAL}, "tokens",
    ),
    "mpt": (
        "MptForCausalLM", "MptConfig",
        {"d_model": 64, "n_heads": 4, "n_layers": 2, "max_seq_len": 32, "vocab_size": 100}, "tokens",
    ),
    "mamba": ("MambaForCausalLM", "MambaConfig", _MAMBA, "tokens"),
    "falcon_mamba": ("FalconMambaForCausalLM", "FalconMambaConfig", _MAMBA, "tokens"),
    "mamba2": (
        "Mamba2ForCausalLM", "Mamba2Config",
        {**_MAMBA, "num_heads": 8, "head_dim": 16, "n_groups": 2, "chunk_size": 4}, "tokens",
    ),
    "rwkv": (
        "RwkvForCausalLM", "RwkvConfig",
        {**SPECIAL, "hidden_size": 64, "num_hidden_layers": 2, "vocab_size": 100, "use_cache": False}, "tokens",
    ),
    "recurrent_gemma": (
        "RecurrentGemmaForCausalLM", "RecurrentGemmaConfig",
        {**DECODER, "num_hidden_layers": 3, "num_attention_heads": 4, "lru_width": 64, "attention_window_size": 8}, "tokens",
    ),
    "jamba": (
        "JambaForCausalLM", "JambaConfig",
        {**GQA, "num_hidden_layers": 4, "attn_layer_period": 2, "attn_layer_offset": 1, "num_experts": 4,
         "mamba_d_state": 8, "use_mamba_kernels": False}, "tokens",
    ),
    "bamba": (
        "BambaForCausalLM", "BambaConfig",
        {**GQA, "attn_layer_indices": [1], "mamba_n_heads": 8, "mamba_d_state": 8, "mamba_chunk_size": 4}, "tokens",
    ),
    "zamba": (
        "ZambaForCausalLM", "ZambaConfig",
        {**DECODER, "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 4,
         "layers_block_type": ["mamba", "hybrid", "mamba", "hybrid"], "mamba_d_state": 8, "use_mamba_kernels": False}, "tokens",
    ),
    "zamba2": (
        "Zamba2ForCausalLM", "Zamba2Config",
        {**DECODER, "num_hidden_layers": 3, "num_attention_heads": 4, "mamba_d_state": 8, "n_mamba_heads": 8, "chunk_size": 4,
         "layers_block_type": ["mamba", "hybrid", "mamba"], "adapter_rank": 8, "use_mamba_kernels": False}, "tokens",
    ),
    "falcon_h1": (
        "FalconH1ForCausalLM", "FalconH1Config",
        {**GQA, "mamba_d_ssm": 64, "mamba_n_heads": 8, "mamba_d_state": 8, "mamba_chunk_size": 4}, "tokens",
    ),
    "mixtral": ("MixtralForCausalLM", "MixtralConfig", {**GQA, "num_local_experts": 4}, "tokens"),
    "qwen2_moe": (
        "Qwen2MoeForCausalLM", "Qwen2MoeConfig",
        {**GQA, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32,
         "shared_expert_intermediate_size": 64}, "tokens",
    ),
    "qwen3_moe": (
        "Qwen3MoeForCausalLM", "Qwen3MoeConfig",
        {**_D16, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}, "tokens",
    ),
    "olmoe": ("OlmoeForCausalLM", "OlmoeConfig", {**GQA, "num_experts": 4, "num_experts_per_tok": 2}, "tokens"),
    "phimoe": ("PhimoeForCausalLM", "PhimoeConfig", {**GQA, "num_local_experts": 4}, "tokens"),
    "dbrx": (
        "DbrxForCausalLM", "DbrxConfig",
        {"d_model": 64, "n_heads": 4, "n_layers": 2, "max_seq_len": 32, "vocab_size": 100,
         "attn_config": {"kv_n_heads": 2, "clip_qkv": 8.0, "rope_theta": 10000.0},
         "ffn_config": {"ffn_hidden_size": 64, "moe_num_experts": 4, "moe_top_k": 4}}, "tokens",
    ),
    "gpt_oss": (
        "GptOssForCausalLM", "GptOssConfig", {**_D16, "num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 8},
        "tokens",
    ),
    "deepseek_v2": ("DeepseekV2ForCausalLM", "DeepseekV2Config", _MLA, "tokens"),
    "deepseek_v3": ("DeepseekV3ForCausalLM", "DeepseekV3Config", _MLA, "tokens"),
    "granitemoe": ("GraniteMoeForCausalLM", "GraniteMoeConfig", {**GQA, "num_local_experts": 4}, "tokens"),
    "jetmoe": (
        "JetMoeForCausalLM", "JetMoeConfig",
        {**SIZES, **SPECIAL, "num_key_value_heads": 4, "kv_channels": 16, "num_local_experts": 4, "num_experts_per_tok": 4},
        "tokens",
    ),
    "ernie4_5_moe": (
        "Ernie4_5_MoeForCausalLM", "Ernie4_5_MoeConfig",
        {**GQA, "moe_intermediate_size": 32, "moe_num_experts": 4, "moe_k": 2}, "tokens",
    ),
    "glm4_moe": (
        "Glm4MoeForCausalLM", "Glm4MoeConfig",
        {**_D16, "moe_intermediate_size": 32, "n_routed_experts": 4, "num_experts_per_tok": 2, "first_k_dense_replace": 1},
        "tokens",
    ),
    "qwen3_next": (
        "Qwen3NextForCausalLM", "Qwen3NextConfig",
        {**_D16, "moe_intermediate_size": 32, "shared_expert_intermediate_size": 32, "num_experts": 4,
         "num_experts_per_tok": 2, "linear_num_value_heads": 4, "linear_num_key_heads": 2, "linear_key_head_dim": 16,
         "linear_value_head_dim": 16, "layer_types": ["linear_attention", "full_attention"]}, "tokens",
    ),
}  # fmt: skip
