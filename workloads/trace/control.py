"""Operators without work on the device: assertions, shape queries, host synchronisation."""

from __future__ import annotations

from .registry import formula, words
from .values import Call

CONTROL = words("""
    aten.sym_size aten._linalg_check_errors aten.sym_stride aten.sym_numel aten.sym_storage_offset
    aten._assert_async aten._assert_scalar aten._assert_tensor_metadata aten.item aten._local_scalar_dense
    aten.is_nonzero aten.size aten.numel aten.dim aten.stride aten._has_compatible_shallow_copy_type
    aten.is_same_size aten.sym_constrain_range aten.record_stream aten.sym_constrain_range_for_size
    aten._functional_assert_async aten.result_type aten.can_cast aten.is_floating_point aten.is_complex
    aten._version aten.equal aten.allclose aten.retain_grad aten.is_pinned aten._print aten.set_data
    aten.output_nr prim.device prim.dtype prim.layout aten.is_leaf aten.promote_types aten.sym_is_contiguous
    aten.is_contiguous aten.is_strides_like_format aten.is_non_overlapping_and_dense aten._make_dep_token
    profiler._record_function_enter_new profiler._record_function_exit aten.__is__ aten.is_inference
    aten.is_signed aten._sync aten.align_to aten._fused_sdp_choice _operator.getitem
    aten._debug_has_internal_overlap aten._nested_tensor_size
""")


@formula(*CONTROL)
def nothing(call: Call) -> None:
    """Runs on the host, or not at all."""
