"""Vision models of transformers."""

from __future__ import annotations

from tests.zoo.shapes import CONV, IMAGES, Row

_STAGES = {"depths": [1, 1, 1, 1], "hidden_sizes": [16, 32, 64, 64]}
_RESNET = {"model_type": "resnet", "embedding_size": 16, "hidden_sizes": [16, 32, 48, 64], "depths": [1, 1, 1, 1]}
_BACKBONE = {**_RESNET, "out_features": ["stage2", "stage3", "stage4"]}
_DETR = {
    "d_model": 64, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4, "decoder_attention_heads": 4,
    "encoder_ffn_dim": 128, "decoder_ffn_dim": 128, "num_queries": 8,
    "backbone_config": {**_RESNET, "out_features": ["stage4"]},
}  # fmt: skip
_SWIN = {"image_size": 32, "patch_size": 2, "embed_dim": 32, "depths": [2, 2], "num_heads": [4, 8], "window_size": 4}
_SWIN_BACKBONE = {
    "model_type": "swin", "image_size": 64, "patch_size": 2, "embed_dim": 16, "depths": [1, 1, 1, 1], "num_heads": [2, 2, 4, 4],
    "window_size": 4, "out_features": ["stage1", "stage2", "stage3", "stage4"],
}  # fmt: skip

SIGHT: dict[str, Row] = {
    "vit": ("ViTForImageClassification", "ViTConfig", IMAGES, "images"),
    "vit_msn": ("ViTMSNForImageClassification", "ViTMSNConfig", IMAGES, "images"),
    "vit_mae": (
        "ViTMAEModel", "ViTMAEConfig", {**IMAGES, "decoder_hidden_size": 32, "decoder_num_hidden_layers": 1}, "images",
    ),
    "vit_mae_decoder": (
        "ViTMAEForPreTraining", "ViTMAEConfig",
        {**IMAGES, "decoder_hidden_size": 32, "decoder_num_hidden_layers": 1, "decoder_num_attention_heads": 4,
         "decoder_intermediate_size": 64}, "images",
    ),
    "ijepa": ("IJepaForImageClassification", "IJepaConfig", IMAGES, "images"),
    "deit": ("DeiTForImageClassification", "DeiTConfig", IMAGES, "images"),
    "beit": ("BeitForImageClassification", "BeitConfig", {**IMAGES, "use_relative_position_bias": True}, "images"),
    "data2vec_vision": (
        "Data2VecVisionForImageClassification", "Data2VecVisionConfig", {**IMAGES, "use_relative_position_bias": True},
        "images",
    ),
    "dinov2": ("Dinov2ForImageClassification", "Dinov2Config", IMAGES, "images"),
    "dinov2_with_registers": (
        "Dinov2WithRegistersForImageClassification", "Dinov2WithRegistersConfig", IMAGES, "images",
    ),
    "dinov3_vit": ("DINOv3ViTModel", "DINOv3ViTConfig", IMAGES, "images"),
    "dinov3_convnext": ("DINOv3ConvNextModel", "DINOv3ConvNextConfig", {**_STAGES, "image_size": 64}, "pictures"),
    "swin": ("SwinForImageClassification", "SwinConfig", _SWIN, "images"),
    "swinv2": ("Swinv2ForImageClassification", "Swinv2Config", _SWIN, "images"),
    "swin2sr": (
        "Swin2SRForImageSuperResolution", "Swin2SRConfig",
        {"image_size": 16, "embed_dim": 32, "depths": [2], "num_heads": [4], "window_size": 4}, "images",
    ),
    "hiera": (
        "HieraForImageClassification", "HieraConfig",
        {"image_size": [64, 64], "embed_dim": 16, "depths": [1, 1, 1], "num_heads": [1, 2, 4],
         "num_query_pool": 2,
         "masked_unit_size": [4, 4], "masked_unit_attention": [True, False, False]}, "pictures",
    ),
    "convnext": ("ConvNextForImageClassification", "ConvNextConfig", _STAGES, "pictures"),
    "convnextv2": ("ConvNextV2ForImageClassification", "ConvNextV2Config", _STAGES, "pictures"),
    "segformer": (
        "SegformerForImageClassification", "SegformerConfig",
        {"depths": [1, 1, 1, 1], "hidden_sizes": [16, 32, 64, 64], "num_attention_heads": [1, 2, 4, 8]}, "pictures",
    ),
    "segformer_segmentation": (
        "SegformerForSemanticSegmentation", "SegformerConfig",
        {"depths": [1, 1, 1, 1], "hidden_sizes": [16, 32, 64, 64], "num_attention_heads": [1, 2, 4, 8],
         "decoder_hidden_size": 32}, "pictures",
    ),
    "glpn": (
        "GLPNForDepthEstimation", "GLPNConfig",
        {"depths": [1, 1, 1, 1], "hidden_sizes": [16, 32, 64, 64], "num_attention_heads": [1, 2, 4, 8],
         "decoder_hidden_size": 16}, "pictures",
    ),
    "pvt": (
        "PvtForImageClassification", "PvtConfig",
        {"image_size": 64, "depths": [1, 1, 1, 1], "hidden_sizes": [16, 32, 64, 64], "num_attention_heads": [1, 2, 4, 8]},
        "pictures",
    ),
    "pvt_v2": (
        "PvtV2ForImageClassification", "PvtV2Config",
        {"image_size": 64, "depths": [1, 1, 1, 1], "hidden_sizes": [16, 32, 64, 64], "num_attention_heads": [1, 2, 4, 8]},
        "pictures",
    ),
    "poolformer": ("PoolFormerForImageClassification", "PoolFormerConfig", _STAGES, "pictures"),
    "swiftformer": (
        "SwiftFormerForImageClassification", "SwiftFormerConfig", {"depths": [1, 1, 1, 1], "embed_dims": [16, 32, 48, 64]},
        "pictures",
    ),
    "mobilevit": (
        "MobileViTForImageClassification", "MobileViTConfig",
        {"image_size": 64, "hidden_sizes": [32, 32, 48], "neck_hidden_sizes": [8, 16, 16, 24, 24, 32, 64]}, "pictures",
    ),
    "mobilevitv2": (
        "MobileViTV2ForImageClassification", "MobileViTV2Config",
        {"image_size": 64, "width_multiplier": 0.25}, "pictures",
    ),
    "levit": (
        "LevitForImageClassification", "LevitConfig",
        {"image_size": 64, "hidden_sizes": [32, 48, 64], "num_attention_heads": [2, 3, 4], "depths": [1, 1, 1],
         "key_dim": [8, 8, 8]}, "pictures",
    ),
    "cvt": (
        "CvtForImageClassification", "CvtConfig",
        {"embed_dim": [16, 32, 64], "num_heads": [1, 2, 4], "depth": [1, 2, 3]}, "pictures",
    ),
    "dpt": (
        "DPTForDepthEstimation", "DPTConfig",
        {**CONV, "num_hidden_layers": 4, "image_size": 32, "patch_size": 8, "backbone_out_indices": [0, 1, 2, 3],
         "neck_hidden_sizes": [16, 16, 32, 32], "fusion_hidden_size": 16}, "images",
    ),
    "depth_anything": (
        "DepthAnythingForDepthEstimation", "DepthAnythingConfig",
        {"backbone_config": {"model_type": "dinov2", **CONV, "num_hidden_layers": 4, "image_size": 32, "patch_size": 8,
                             "out_features": ["stage1", "stage2", "stage3", "stage4"], "reshape_hidden_states": False},
         "patch_size": 8, "reassemble_hidden_size": 64, "neck_hidden_sizes": [16, 16, 32, 32], "fusion_hidden_size": 16,
         "head_hidden_size": 8}, "images",
    ),
    "upernet": (
        "UperNetForSemanticSegmentation", "UperNetConfig",
        {"backbone_config": {**_RESNET, "out_features": ["stage1", "stage2", "stage3", "stage4"]}, "hidden_size": 32,
         "auxiliary_channels": 16, "auxiliary_in_channels": 48, "pool_scales": [1, 2]}, "pictures",
    ),
    "detr": ("DetrForObjectDetection", "DetrConfig", _DETR, "pictures"),
    "conditional_detr": ("ConditionalDetrForObjectDetection", "ConditionalDetrConfig", _DETR, "pictures"),
    "deformable_detr": (
        "DeformableDetrForObjectDetection", "DeformableDetrConfig",
        {**_DETR, "backbone_config": _BACKBONE, "num_feature_levels": 3, "encoder_n_points": 2, "decoder_n_points": 2},
        "pictures",
    ),
    "table_transformer": ("TableTransformerForObjectDetection", "TableTransformerConfig", _DETR, "pictures"),
    "yolos": (
        "YolosForObjectDetection", "YolosConfig", {**IMAGES, "image_size": [32, 32], "num_detection_tokens": 5}, "images",
    ),
    "maskformer": (
        "MaskFormerForInstanceSegmentation", "MaskFormerConfig",
        {"fpn_feature_size": 32, "mask_feature_size": 32, "backbone_config": _SWIN_BACKBONE,
         "decoder_config": {"model_type": "detr", **{key: value for key, value in _DETR.items() if "backbone" not in key}}},
        "pictures",
    ),
    "mask2former": (
        "Mask2FormerForUniversalSegmentation", "Mask2FormerConfig",
        {"backbone_config": _SWIN_BACKBONE, "feature_size": 32, "mask_feature_size": 32, "hidden_dim": 32,
         "encoder_feedforward_dim": 64, "encoder_layers": 1, "decoder_layers": 2, "num_attention_heads": 4,
         "dim_feedforward": 64, "num_queries": 6}, "pictures",
    ),
    "resnet": (
        "ResNetForImageClassification", "ResNetConfig",
        {key: value for key, value in _RESNET.items() if key != "model_type"}, "pictures",
    ),
    "regnet": (
        "RegNetForImageClassification", "RegNetConfig", {**_STAGES, "hidden_sizes": [16, 32, 48, 64], "groups_width": 8,
        "embedding_size": 16}, "pictures",
    ),
    "bit": (
        "BitForImageClassification", "BitConfig",
        {"embedding_size": 16, "hidden_sizes": [32, 64, 64, 64], "depths": [1, 1, 1, 1], "num_groups": 4}, "pictures",
    ),
    "hgnet_v2": (
        "HGNetV2ForImageClassification", "HGNetV2Config",
        {"embedding_size": 16, "depths": [1, 1, 1, 1], "hidden_sizes": [32, 48, 64, 64], "stem_channels": [3, 8, 16],
         "stage_in_channels": [16, 32, 48, 64], "stage_mid_channels": [8, 16, 16, 16], "stage_out_channels": [32, 48, 64, 64],
         "stage_num_blocks": [1, 1, 1, 1], "stage_numb_of_layers": [2, 2, 2, 2]}, "pictures",
    ),
    "mobilenet_v1": ("MobileNetV1ForImageClassification", "MobileNetV1Config", {"depth_multiplier": 0.25}, "pictures"),
    "mobilenet_v2": ("MobileNetV2ForImageClassification", "MobileNetV2Config", {"depth_multiplier": 0.25}, "pictures"),
    "efficientnet": (
        "EfficientNetForImageClassification", "EfficientNetConfig",
        {"image_size": 64, "width_coefficient": 0.5, "depth_coefficient": 0.5, "hidden_dim": 640}, "pictures",
    ),
    "focalnet": (
        "FocalNetForImageClassification", "FocalNetConfig",
        {"image_size": 64, "embed_dim": 16, "hidden_sizes": [32, 32], "depths": [1, 1], "focal_levels": [2, 2],
         "focal_windows": [3, 3]}, "pictures",
    ),
    "textnet": (
        "TextNetForImageClassification", "TextNetConfig",
        {"stem_out_channels": 16, "hidden_sizes": [16, 16, 24, 32, 48], "image_size": [64, 64],
         "conv_layer_kernel_sizes": [[[3, 3]], [[3, 1], [1, 3]], [[3, 3]], [[3, 3]]],
         "conv_layer_strides": [[1], [2, 1], [2], [2]]}, "pictures",
    ),
    "vivit": (
        "VivitForVideoClassification", "VivitConfig",
        {**CONV, "image_size": 16, "num_frames": 4, "tubelet_size": [2, 8, 8]}, "videos",
    ),
    "videomae": (
        "VideoMAEForVideoClassification", "VideoMAEConfig",
        {**CONV, "image_size": 16, "patch_size": 8, "num_frames": 4}, "videos",
    ),
    "timesformer": (
        "TimesformerForVideoClassification", "TimesformerConfig",
        {**CONV, "image_size": 16, "patch_size": 8, "num_frames": 4}, "videos",
    ),
}  # fmt: skip
