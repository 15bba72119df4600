"""Operators of which nothing is said that pruning could use, and why: sparse and nested layouts, packed weights, training."""

from __future__ import annotations

from depgraph.rules.common import table
from depgraph.solving.statements import Rule

RULES: dict[str, Rule] = {
    **table(
        "_coalesce _coalesced _indices _indices_copy _values _values_copy indices indices_copy values values_copy "
        "ccol_indices ccol_indices_copy col_indices col_indices_copy crow_indices crow_indices_copy row_indices "
        "row_indices_copy _convert_indices_from_coo_to_csr _convert_indices_from_csr_to_coo _sparse_addmm "
        "_sparse_broadcast_to _sparse_broadcast_to_copy _sparse_compressed_tensor_with_dims _sparse_coo_tensor_with_dims "
        "_sparse_coo_tensor_with_dims_and_tensors _sparse_csr_prod _sparse_csr_sum _sparse_log_softmax "
        "_sparse_mask_projection _sparse_mm_reduce_impl _sparse_softmax _sparse_sparse_matmul _sparse_sum _spdiags _spsolve "
        "_to_dense _to_sparse _to_sparse_bsc _to_sparse_bsr _to_sparse_csc _to_sparse_csr "
        "_validate_compressed_sparse_indices copy_sparse_to_sparse hspmm resize_as_sparse sparse_compressed_tensor "
        "sparse_coo_tensor sparse_mask sparse_resize sparse_resize_and_clear sparse_sampled_addmm sspaddmm",
        "{} works on a sparse layout, whose axes hold no plain indices",
    ),
    **table(
        "_to_sparse_semi_structured _cslt_compress _cslt_sparse_mm _cslt_sparse_mm_search _sparse_semi_structured_addmm "
        "_sparse_semi_structured_apply _sparse_semi_structured_apply_dense _sparse_semi_structured_linear "
        "_sparse_semi_structured_mm _sparse_semi_structured_tile",
        "{} works on blocks of four of which two are zero",
    ),
    **table(
        "_jagged_to_padded_dense_forward _padded_dense_to_jagged_forward to_padded_tensor _nested_from_padded "
        "_nested_compute_contiguous_strides_offsets _nested_from_padded_and_nested_example _nested_from_padded_tensor "
        "_nested_get_jagged_dummy _nested_get_lengths _nested_get_offsets _nested_get_ragged_idx _nested_get_values "
        "_nested_get_values_copy _nested_tensor_from_mask _nested_tensor_from_mask_left_aligned "
        "_nested_tensor_from_tensor_list _nested_tensor_size _nested_tensor_softmax_with_shape "
        "_nested_tensor_storage_offsets _nested_tensor_strides _nested_view_from_buffer _nested_view_from_buffer_copy "
        "_nested_view_from_jagged _nested_view_from_jagged_copy",
        "{} works on nested tensors, whose rows have lengths of their own",
    ),
    **table(
        "_convert_weight_to_int4pack _convert_weight_to_int4pack_for_cpu _dyn_quant_matmul_4bit _dyn_quant_pack_4bit_weight "
        "_mixed_dtypes_linear _weight_int4pack_mm _weight_int4pack_mm_for_cpu _weight_int4pack_mm_with_scales_and_zeros "
        "mkldnn_reorder_conv2d_weight mkldnn_reorder_conv3d_weight to_mkldnn",
        "{} packs weights in blocks of the kernel's own layout",
    ),
    **table(
        "_empty_affine_quantized _empty_per_channel_affine_quantized empty_quantized _make_per_channel_quantized_tensor "
        "_make_per_tensor_quantized_tensor q_per_channel_scales q_per_channel_zero_points quantized_gru quantized_lstm",
        "{} works on quantised storage; prune before quantising",
    ),
    **table(
        "_amp_foreach_non_finite_check_and_unscale _amp_update_scale _fused_adagrad _fused_adam _fused_adamw _fused_sgd",
        "{} is a step of training, no part of a forward",
    ),
    **table(
        "_dirichlet_grad _sample_dirichlet _standard_gamma_grad _cummax_helper _cummin_helper _philox_key_fold_in "
        "_philox_key_split _philox_normal _philox_uniform _cudnn_init_dropout_state _fill_mem_eff_dropout_mask",
        "{} draws or helps to compute numbers along axes whose order matters",
    ),
    **table(
        "_copy_from _copy_from_and_resize _fw_primal _fw_primal_copy _make_dual _make_dual_copy "
        "_new_zeros_with_same_feature_meta from_file slice_inverse _chunk_cat",
        "{} is a helper of torch's own machinery",
    ),
    **table(
        "_histogramdd_bin_edges _histogramdd_from_bin_cts _histogramdd_from_bin_tensors",
        "{} counts values in bins of many dimensions",
    ),
    **table("_triton_multi_head_attention _triton_scaled_dot_attention", "{} is a kernel that torch does not call by itself"),
}
