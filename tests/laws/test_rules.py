"""Every rule of the operator table is proven against the real operator: it couples neither too little nor too much."""

import math

import pytest
from hypothesis import given, settings

from depgraph.probing import Mixed, probe
from depgraph.rules import RULES
from tests.laws import samples, samples_layers, samples_moving
from tests.laws.drawing import Draw, draws

ROWS = {
    **samples.POINTWISE_ROWS, **samples.HAND_ROWS, **samples.REDUCTION_ROWS, **samples_moving.SHAPE_ROWS,
    **samples_moving.JOINING_ROWS, **samples_moving.INDEXING_ROWS, **samples_layers.LAYER_ROWS, **samples_layers.CELL_ROWS,
    **samples_layers.WINDOW_ROWS,
}  # fmt: skip

_AVERAGE = "it divides by the number of positions"
_NORMAL = "it normalises across them"
_ORDER = "its result is one of the positions"
TREATMENTS = {
    **dict.fromkeys(("mean", "var", "std", "var_mean", "std_mean"), (None, _AVERAGE)),
    **dict.fromkeys(("softmax", "log_softmax", "_softmax", "_log_softmax", "_safe_softmax"), (None, _NORMAL)),
    **dict.fromkeys(("batch_norm", "instance_norm", "group_norm", "layer_norm", "rms_norm"), (None, _NORMAL)),
    **dict.fromkeys(("_weight_norm", "_weight_norm_interface", "renorm", "_masked_softmax"), (None, _NORMAL)),
    "scaled_dot_product_attention": (None, "a softmax runs across the keys"),
    "median": (None, _ORDER),
    "aminmax": (None, "what is neutral to the least is not to the greatest"),
    **dict.fromkeys(("amax", "max"), (-math.inf, _ORDER)),
    **dict.fromkeys(("amin", "min"), (math.inf, _ORDER)),
    **dict.fromkeys(("nanmean", "nanmedian"), (math.nan, "it passes over what is not a number")),
    **dict.fromkeys(("prod", "all"), (1.0, "it multiplies them")),
    "logsumexp": (-math.inf, "it adds their exponentials"),
    **dict.fromkeys(("sum", "nansum", "norm", "linalg_vector_norm", "count_nonzero", "any"), (0.0, "it adds them")),
    **dict.fromkeys(("lstm", "gru", "rnn_tanh", "rnn_relu"), (0.0, "hidden units feed each other")),
}
"""How removals along mixed axes are compared: the neutral element (None: there is none, shapes alone are compared), and why."""

_POSITIONS = "positions are no channels, whatever the window"
PINS_BY_CHOICE = {
    **dict.fromkeys(("view", "reshape", "_unsafe_view", "view_copy"), "without elements no runs of axes can be matched"),
    **dict.fromkeys(("tensor_split",), "parts of unequal size, or outside of the axis"),
    "slice": "an empty slice, or one of every k positions with a remainder",
    **dict.fromkeys(("index",), "a mask, of which only the data tells what it takes"),
    **dict.fromkeys(("tril", "triu"), "rows and columns are positions, even where they could go together"),
    "take_along_dim": "positions of all elements in a row",
    "scatter_reduce": "what is written to a position depends on the reduction",
    **dict.fromkeys(("grid_sampler", "grid_sampler_2d", "grid_sampler_3d"), _POSITIONS),
}
"""Operators whose rule pins an axis of which every index could go, and why it does."""

LEFT_OUT = {
    "contiguous": "it is passed over: its result counts as its operand",
    "_assert_async": "it returns nothing",
    "_linalg_check_errors": "it returns nothing",
    "_assert_tensor_metadata": "it returns nothing",
    "sym_size": "it returns sizes, which the trace follows by themselves",
    "is_nonzero": "it takes a tensor without axes",
    "_grouped_mm": "its kernel takes aligned bfloat16 only, whose axes cannot lose single indices",
    "fliplr": "a call of flip",
    "flipud": "a call of flip",
}
"""Operators of the table that are not probed, and why."""

_NOT_YET = """
    _fused_dropout int_repr _masked_scale _pin_memory quantize_per_tensor quantize_per_tensor_dynamic _foreach_abs
    _foreach_acos _foreach_add _foreach_addcdiv _foreach_addcmul _foreach_asin _foreach_atan _foreach_ceil
    _foreach_clamp_max _foreach_clamp_min _foreach_clone _foreach_copy _foreach_cos _foreach_cosh _foreach_div
    _foreach_erf _foreach_erfc _foreach_exp _foreach_expm1 _foreach_floor _foreach_frac _foreach_lerp _foreach_lgamma
    _foreach_log _foreach_log10 _foreach_log1p _foreach_log2 _foreach_max _foreach_maximum _foreach_minimum _foreach_mul
    _foreach_neg _foreach_norm _foreach_pow _foreach_powsum _foreach_reciprocal _foreach_round _foreach_rsqrt
    _foreach_sigmoid _foreach_sign _foreach_sin _foreach_sinh _foreach_sqrt _foreach_sub _foreach_tan _foreach_tanh
    _foreach_trunc _foreach_zero quantize_per_channel fake_quantize_per_channel_affine_cachemask
    _fake_quantize_learnable_per_channel_affine _logcumsumexp empty_permuted _efficientzerotensor range tril_indices
    triu_indices randperm fft_fftfreq fft_rfftfreq bartlett_window blackman_window hamming_window hann_window
    kaiser_window _assert_scalar _functional_assert_async _functional_assert_scalar sym_constrain_range
    sym_constrain_range_for_size _functional_sym_constrain_range _functional_sym_constrain_range_for_size _is_all_true
    _is_any_true _has_same_storage_numel is_same_size is_set_to is_pinned is_coalesced qscheme q_scale q_zero_point
    q_per_channel_axis _fused_sdp_choice _print record_stream _nnz dense_dim sparse_dim _dimI _dimV hash_tensor
    _make_dep_token _nested_get_min_seqlen _nested_get_max_seqlen convolution_overrideable mkldnn_convolution
    cudnn_convolution cudnn_convolution_transpose cudnn_convolution_relu cudnn_convolution_add_relu miopen_convolution
    miopen_convolution_transpose miopen_convolution_relu miopen_convolution_add_relu miopen_depthwise_convolution
    _mps_convolution _mps_convolution_transpose thnn_conv2d _slow_conv2d_forward slow_conv3d slow_conv3d_forward
    slow_conv_dilated2d slow_conv_dilated3d slow_conv_transpose2d slow_conv_transpose3d _conv_depthwise2d
    conv_depthwise3d _nnpack_spatial_convolution conv_tbc mkldnn_linear _embedding_bag _embedding_bag_forward_only
    embedding_renorm _int_mm _addmm_activation addbmm addr _trilinear _weight_int8pack_mm cdist _cdist_forward
    _euclidean_dist pdist _pdist_forward native_batch_norm _native_batch_norm_legit _native_batch_norm_legit_functional
    _native_batch_norm_legit_no_training _batch_norm_impl_index _batch_norm_with_update _batch_norm_no_update
    _batch_norm_with_update_functional cudnn_batch_norm miopen_batch_norm batch_norm_elemt batch_norm_stats
    batch_norm_gather_stats batch_norm_gather_stats_with_counts batch_norm_update_stats quantized_batch_norm
    native_group_norm native_layer_norm _fused_rms_norm _scaled_dot_product_flash_attention
    _scaled_dot_product_flash_attention_for_cpu _scaled_dot_product_efficient_attention
    _scaled_dot_product_cudnn_attention _scaled_dot_product_attention_math _scaled_dot_product_attention_math_for_mps
    _scaled_dot_product_fused_attention_overrideable _flash_attention_forward
    _flash_attention_forward_no_dropout_inplace _efficient_attention_forward _cudnn_attention_forward
    _native_multi_head_attention _transformer_encoder_layer_fwd _transform_bias_rescale_qkv higher_order.flex_attention
    _lstm_mps lstm_cell gru_cell rnn_tanh_cell rnn_relu_cell _thnn_fused_lstm_cell _thnn_fused_gru_cell mkldnn_rnn_layer
    _cudnn_rnn miopen_rnn _pack_padded_sequence _pad_packed_sequence rot90 meshgrid _reshape_copy _reshape_alias_copy
    squeeze_copy unsqueeze_copy _mkldnn_reshape view_as_real_copy view_as_complex_copy permute_copy transpose_copy
    t_copy _mkldnn_transpose expand_copy _stack split_copy split_with_sizes_copy unbind_copy select_copy select_scatter
    slice_scatter slice_copy narrow_copy _unsafe_index _unsafe_index_put masked_select masked_scatter
    _unsafe_masked_index _unsafe_masked_index_put_accumulate nonzero nonzero_static nonzero_numpy argwhere _unique
    _unique2 unique_dim unique_consecutive unique_dim_consecutive take put bucketize searchsorted isin bincount histc
    histogram multinomial segment_reduce cudnn_grid_sampler _grid_sampler_2d_cpu_fallback unfold_copy
    affine_grid_generator cudnn_affine_grid_generator mkldnn_max_pool2d mkldnn_max_pool3d mkldnn_adaptive_avg_pool2d
    quantized_max_pool1d quantized_max_pool2d quantized_max_pool3d _upsample_lanczos2d_aa dist native_norm
    linalg__powsum _aminmax _fft_c2c _fft_r2c _fft_c2r stft istft _linalg_det _linalg_slogdet _linalg_eigh
    _linalg_eigvals linalg_eig linalg_eigvals _linalg_svd linalg_cholesky_ex cholesky cholesky_inverse linalg_inv_ex
    linalg_qr geqrf linalg_householder_product ormqr linalg_lu linalg_lu_factor_ex lu_unpack linalg_ldl_factor_ex
    linalg_matrix_exp linalg_pinv _compute_linear_combination linalg_lstsq linalg_solve_ex _linalg_solve_ex
    linalg_lu_solve cholesky_solve _cholesky_solve_helper linalg_solve_triangular triangular_solve linalg_ldl_solve
    trace diagonal diagonal_copy diagonal_scatter diag_embed block_diag mse_loss l1_loss smooth_l1_loss huber_loss
    soft_margin_loss binary_cross_entropy binary_cross_entropy_with_logits kl_div poisson_nll_loss cross_entropy_loss
    nll_loss nll_loss2d nll_loss_nd nll_loss_forward nll_loss2d_forward multi_margin_loss multilabel_margin_loss
    multilabel_margin_loss_forward torchvision.roi_align torchvision.roi_pool torchvision.ps_roi_align
    torchvision.ps_roi_pool torchvision.deform_conv2d
"""
LEFT_OUT |= dict.fromkeys(_NOT_YET.split(), "its samples are not written yet")

_OPAQUE = {name.removeprefix("aten.") for name, rule in RULES.items() if rule.type == "UNKNOWN"}
"""Rules that pin all that a call touches: nothing can go, so nothing can go wrong."""

UNCHECKED = {
    **dict.fromkeys(("lstm", "gru", "rnn_tanh", "rnn_relu"), "its kernel crashes on weights of other sizes"),
    **dict.fromkeys(("_weight_norm", "_weight_norm_interface"), "its kernel reads beyond magnitudes that are too few"),
}
"""Operators that are not called on operands whose sizes disagree, so that only soundness is probed, and why."""


def mixed(name, sample):
    """How the sample's mixed axes are treated."""
    if name in samples.RANDOM or sample.over is None:
        return (Mixed(),)
    return (Mixed(sample.over, TREATMENTS[name][0]),) if sample.over else ()


def found(name, sample):
    """What probing a sample of an operator finds."""
    return probe(sample.function, sample.args, sample.kwargs, mixed=mixed(name, sample), checked=name not in UNCHECKED)


def seeded(name, seeds):
    """Findings on samples of each form of an operator."""
    for form in ROWS[name]:
        for seed in range(seeds):
            yield found(name, form(Draw.seeded(seed)))


@pytest.mark.parametrize("name", ROWS)
@settings(max_examples=max(settings.default.max_examples // 20, 1))
@given(draws())
def test_rules_hold(name, d):
    """Each form of the operator, on drawn shapes and arguments, bears out what the rule couples and pins."""
    for form in ROWS[name]:
        sample = form(d)
        findings = found(name, sample)
        assert f"aten.{name}" in findings.ops or name == "copy", f"{sample} called {findings.ops}"
        assert not findings.refuted, f"{sample}: " + "; ".join(findings.refuted)
        assert not findings.needless or name in PINS_BY_CHOICE, f"{sample}: " + "; ".join(findings.needless)


def test_every_rule_is_probed_or_left_out():
    """A new rule needs a sample, or a reason not to have one."""
    named = {rule.removeprefix("aten.") for rule in RULES}
    assert named == set(ROWS) | set(LEFT_OUT) | _OPAQUE
    assert not set(ROWS) & (set(LEFT_OUT) | _OPAQUE)
    assert all(ROWS.values())


@pytest.mark.parametrize("name", TREATMENTS)
def test_treatments_are_needed(name):
    """An operator with a treatment does mix positions: what is left changes when one goes."""
    assert any(findings.mixed for findings in seeded(name, 3))


@pytest.mark.parametrize("name", PINS_BY_CHOICE)
def test_pins_by_choice_are_chosen(name):
    """An operator listed as pinning more than it must does so."""
    assert any(findings.needless for findings in seeded(name, 3))


def test_unchecked_operators_exist():
    """The list of operators that are not called on disagreeing operands holds no stale entry."""
    assert set(UNCHECKED) <= set(ROWS)
