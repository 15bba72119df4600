"""Audio models and forecasters of transformers."""

from __future__ import annotations

from tests.zoo.shapes import CONV, SEQ2SEQ, SPECIAL, WAVES, Row

_SPEECH = {**SEQ2SEQ, **SPECIAL, "decoder_start_token_id": 1, "max_target_positions": 40}

SOUND: dict[str, Row] = {
    "wav2vec2": ("Wav2Vec2ForSequenceClassification", "Wav2Vec2Config", WAVES, "waves"),
    "wav2vec2_ctc": (
        "Wav2Vec2ForCTC", "Wav2Vec2Config",
        {**WAVES, "feat_extract_norm": "layer", "do_stable_layer_norm": True, "vocab_size": 20}, "waves",
    ),
    "wav2vec2_conformer": (
        "Wav2Vec2ConformerForCTC", "Wav2Vec2ConformerConfig",
        {**WAVES, "vocab_size": 20, "position_embeddings_type": "relative", "conv_depthwise_kernel_size": 3}, "waves",
    ),
    "wav2vec2_conformer_rotary": (
        "Wav2Vec2ConformerForCTC", "Wav2Vec2ConformerConfig",
        {**WAVES, "vocab_size": 20, "position_embeddings_type": "rotary", "conv_depthwise_kernel_size": 3}, "waves",
    ),
    "wav2vec2_bert": (
        "Wav2Vec2BertForCTC", "Wav2Vec2BertConfig",
        {**CONV, "vocab_size": 20, "feature_projection_input_dim": 16, "conv_depthwise_kernel_size": 3}, "features",
    ),
    "hubert": ("HubertForSequenceClassification", "HubertConfig", WAVES, "waves"),
    "wavlm": ("WavLMForSequenceClassification", "WavLMConfig", {**WAVES, "num_buckets": 16}, "waves"),
    "unispeech": ("UniSpeechForSequenceClassification", "UniSpeechConfig", WAVES, "waves"),
    "unispeech_sat": ("UniSpeechSatForSequenceClassification", "UniSpeechSatConfig", WAVES, "waves"),
    "data2vec_audio": (
        "Data2VecAudioForSequenceClassification", "Data2VecAudioConfig",
        {**WAVES, "num_conv_pos_embeddings": 2, "conv_pos_kernel_size": 3}, "waves",
    ),
    "sew": ("SEWForSequenceClassification", "SEWConfig", {**WAVES, "squeeze_factor": 4}, "waves"),
    "sew_d": (
        "SEWDForSequenceClassification", "SEWDConfig",
        {**WAVES, "squeeze_factor": 4, "max_position_embeddings": 64, "position_buckets": 8}, "waves",
    ),
    "whisper": (
        "WhisperForConditionalGeneration", "WhisperConfig",
        {**_SPEECH, "num_mel_bins": 8, "max_source_positions": 16, "suppress_tokens": None, "begin_suppress_tokens": None},
        "speech",
    ),
    "speech_to_text": (
        "Speech2TextForConditionalGeneration", "Speech2TextConfig",
        {**_SPEECH, "conv_channels": 32, "conv_kernel_sizes": [3, 3], "input_feat_per_channel": 16, "max_source_positions": 40},
        "spoken",
    ),
    "moonshine": (
        "MoonshineForConditionalGeneration", "MoonshineConfig",
        {**SPECIAL, "hidden_size": 128, "intermediate_size": 128, "vocab_size": 100, "encoder_num_hidden_layers": 2,
         "decoder_num_hidden_layers": 2, "encoder_num_attention_heads": 4, "decoder_num_attention_heads": 4,
         "encoder_num_key_value_heads": 4, "decoder_num_key_value_heads": 4}, "long_waves",
    ),
    "ast": (
        "ASTForAudioClassification", "ASTConfig",
        {**CONV, "patch_size": 8, "frequency_stride": 8, "time_stride": 8, "max_length": 32, "num_mel_bins": 16},
        "spectrograms",
    ),
    "encodec": (
        "EncodecModel", "EncodecConfig",
        {"num_filters": 8, "hidden_size": 32, "upsampling_ratios": [4, 2], "codebook_size": 32, "num_lstm_layers": 1,
         "sampling_rate": 800, "target_bandwidths": [1.5, 3.0]}, "mono",
    ),
    "dac": (
        "DacModel", "DacConfig",
        {"encoder_hidden_size": 8, "downsampling_ratios": [2, 4], "decoder_hidden_size": 64, "n_codebooks": 2,
         "codebook_size": 32, "codebook_dim": 4}, "mono",
    ),
    "mimi": (
        "MimiModel", "MimiConfig",
        {"hidden_size": 32, "num_filters": 8, "upsampling_ratios": [4, 2], "codebook_size": 32, "codebook_dim": 16,
         "num_quantizers": 2, "vector_quantization_hidden_dimension": 16, "upsample_groups": 32, "num_hidden_layers": 1,
         "intermediate_size": 64, "num_attention_heads": 4, "num_key_value_heads": 4, "sliding_window": 8, "frame_rate": 50},
        "mono",
    ),
    "clap": (
        "ClapModel", "ClapConfig",
        {"text_config": {**CONV, **SPECIAL, "vocab_size": 100, "max_position_embeddings": 40, "projection_dim": 16},
         "audio_config": {"hidden_size": 32, "patch_embeds_hidden_size": 16, "depths": [1, 1], "num_attention_heads": [2, 4],
                          "window_size": 4, "num_mel_bins": 16, "spec_size": 64, "patch_size": 4, "patch_stride": [4, 4],
                          "projection_dim": 16, "projection_hidden_size": 16}, "projection_dim": 16}, "heard",
    ),
    "patchtst": (
        "PatchTSTForPrediction", "PatchTSTConfig",
        {"num_input_channels": 2, "context_length": 16, "patch_length": 4, "patch_stride": 4, "num_hidden_layers": 2,
         "d_model": 32, "num_attention_heads": 4, "ffn_dim": 64, "prediction_length": 4, "loss": "mse"}, "series",
    ),
    "patchtsmixer": (
        "PatchTSMixerForPrediction", "PatchTSMixerConfig",
        {"num_input_channels": 2, "context_length": 16, "patch_length": 4, "patch_stride": 4, "num_layers": 2, "d_model": 16,
         "prediction_length": 4}, "series",
    ),
}  # fmt: skip
