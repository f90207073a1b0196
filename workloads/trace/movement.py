"""Formulas of data movement: views are free, copies read and write, factories only write. One dimension n: elements
written.
"""

from __future__ import annotations

from .registry import formula, words
from .values import Call, Draft, Value, read, write

#: Operators that only make a view; where the strides forbid it (reshape of a transposed tensor) they copy, which the
#: storages of input and output show.
VIEWS = words("""
    view reshape _reshape_alias _unsafe_view view_as reshape_as unflatten flatten squeeze unsqueeze transpose t
    permute expand expand_as broadcast_to slice select narrow split split_with_sizes tensor_split chunk unbind
    unsafe_split unsafe_chunk unsafe_split_with_sizes hsplit vsplit dsplit diagonal as_strided movedim moveaxis
    swapaxes swapdims adjoint mT mH numpy_T unfold ravel view_as_real view_as_complex _conj conj resolve_conj
    resolve_neg real imag contiguous to type_as _to_copy clone atleast_1d atleast_2d atleast_3d matrix_H positive
    _neg_view meshgrid broadcast_tensors cpu cuda float half bfloat16 long int bool double identity _cast_Float
    _cast_Half
""")

COPIES = words("""
    cat concat concatenate stack hstack vstack dstack column_stack copy roll flip fliplr flipud rot90 repeat tile
    repeat_interleave constant_pad_nd pad reflection_pad1d reflection_pad2d reflection_pad3d replication_pad1d
    replication_pad2d replication_pad3d _pad_circular _pad_enum tril triu pixel_shuffle pixel_unshuffle
    channel_shuffle block_diag diag diag_embed complex slice_scatter select_scatter as_strided_scatter
    diagonal_scatter view_copy expand_copy permute_copy transpose_copy unfold_copy slice_copy select_copy
    squeeze_copy unsqueeze_copy _foreach_copy im2col col2im narrow_copy kron unfold_backward _copy_from
    split_with_sizes_copy native_channel_shuffle
""")

FACTORIES = words("""
    zeros ones full arange linspace logspace eye zeros_like ones_like full_like new_zeros new_ones new_full fill
    zero scalar_tensor tril_indices triu_indices range hann_window hamming_window blackman_window bartlett_window
""")

FREE = words("""
    empty empty_like new_empty empty_strided new_empty_strided empty_permuted resize_ set_ tensor detach detach_
    alias lift_fresh lift_fresh_copy lift requires_grad_ data rename refine_names pin_memory squeeze_ unsqueeze_
    transpose_ t_ as_strided_ swapaxes_ swapdims_ resize_as_ view_
""")


def duplicate(call: Call) -> Draft | None:
    """Read each tensor argument and write the outputs.

    An argument written in place (``x[...] = y``) is touched only where it is written.
    """
    target = call[call.mutated[0]] if call.mutated else None
    outputs = [target] if isinstance(target, Value) else [v for v in call.outputs if v.numel]
    if not outputs:
        return None
    n = sum(v.numel for v in outputs)
    sources = [v for v in call.values if v is not target and v.numel]
    ports = [read(f"x{i}", v, "n", min(v.stored, n) if v.stored != n else None) for i, v in enumerate(sources)]
    ports += [
        write(v, "n", "out" if i == 0 else f"out{i}", None if v.numel == n else v.numel) for i, v in enumerate(outputs)
    ]
    return Draft("copy", {"n": n}, ports)


def reshaped(call: Call) -> Draft | None:
    """A view operator that had to copy (the alias case never gets here)."""
    return duplicate(call)


def fill(call: Call) -> Draft | None:
    """A factory or an in-place fill: writes only."""
    out = call[call.mutated[0]] if call.mutated else call.outputs[0] if call.outputs else None
    if not isinstance(out, Value) or out.numel == 0:
        return None
    return Draft("copy", {"n": out.numel}, [write(out, "n")])


def free(call: Call) -> None:
    """No work on the device."""


for _name in VIEWS:
    formula(f"aten.{_name}")(reshaped)
for _name in COPIES:
    formula(f"aten.{_name}")(duplicate)
for _name in ("copy_", "_foreach_copy_", "tril_", "triu_"):
    formula(f"aten.{_name}")(duplicate)
for _name in FACTORIES:
    formula(f"aten.{_name}")(fill)
for _name in ("fill_", "zero_", "fill_diagonal_"):
    formula(f"aten.{_name}")(fill)
for _name in FREE:
    formula(f"aten.{_name}")(free)
formula("prims.convert_element_type")(duplicate)
