"""What a bulk copy (TMA) through a descriptor of the launch moves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from .compile import CompiledKernel
from .launch import TensorMap
from .made_maps import in_scratch
from .parameters import CONSTANT_WINDOW


def map_of(compiled: CompiledKernel, maps: Mapping[int, TensorMap], descriptor: int) -> TensorMap | None:
    """The descriptor at an address; None for one that the kernel made itself of more than the launch's arguments."""
    made = in_scratch(compiled, descriptor)
    return maps.get(descriptor - CONSTANT_WINDOW + compiled.layout.parameter_base if made is None else made)


def box_shape(compiled: CompiledKernel, maps: Mapping[int, TensorMap], found: TensorMap) -> tuple[int, ...]:
    """Box of a descriptor: its block, cut along the last axis as the swizzle asks."""
    metas = compiled.metadata.get("tensordesc_meta") or []
    number = next((i for i, place in enumerate(sorted(maps)) if maps[place] is found), None)
    return tuple(metas[number]["block_size"]) if number is not None and number < len(metas) else found.block_shape


def bytes_inside(found: TensorMap, box: Sequence[int], coordinates: np.ndarray) -> np.ndarray:
    """Bytes of boxes that lie inside the tensor.

    Parameters
    ----------
    found, box
        The descriptor, and the shape of its boxes.
    coordinates
        int64 of shape (boxes, axes), as the machine takes them: last axis first, 32 bits.

    Returns
    -------
    int64 by box.
    """
    starts = np.where(coordinates >> 31 & 1, coordinates - (1 << 32), coordinates)[:, ::-1]
    bytes_ = np.full(len(starts), found.element_bytes, dtype=np.int64)
    for at, n, size in zip(starts.T, box, found.shape, strict=False):
        bytes_ *= np.maximum(0, np.minimum(at + n, size) - np.maximum(at, 0))
    return bytes_
