"""Products on units whose commands a file tells by their roles, and on Samsung's, as parts of a hybrid system.

Both multiply a matrix with one vector at a time, in the closed forms of `presilicon.mapping.pim_rows` and `presilicon.mapping.pim`. Decode
attention of one KV head is two such products on the units of one channel, each of whose channels holds its own heads: keys by queries, and
values by probabilities, in between which the processor, or the logic beside the memory, has the softmax. Query heads that share a KV head
follow each other.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import numpy as np
import numpy.typing as npt

from ..arch.dram import DramDevice
from ..arch.hybrid_spec import PimSide
from ..errors import MappingError
from .pim import PimEstimate, samsung_gemv
from .pim_attention import Heads, RequestCosts
from .pim_rows import row_gemv

#: Kernels of these forms: a device with a `gemv` section, and one of Samsung's.
PRODUCT_KERNELS: Final = ("gemv", "samsung")
_SAMSUNG_BITS: Final = 16.0


def product(device: DramDevice, kernel: str, outputs: int, inputs: int, bits: float = 16.0, *, refresh: bool = True) -> PimEstimate:
    """One vector's product with a matrix of ``(outputs, inputs)`` of so many stored bits an element.

    Raises
    ------
    MappingError
        A matrix larger than the device, another kernel than `PRODUCT_KERNELS`, and elements that are not of 16 bits on Samsung's units,
        which multiply FP16 alone.
    """
    if kernel == "gemv":
        return row_gemv(device, outputs, inputs, refresh=refresh, bits=None if bits == _SAMSUNG_BITS else bits)
    if kernel != "samsung":
        raise MappingError(f"{device.name}: kernel {kernel!r} has no products here; {', '.join(PRODUCT_KERNELS)} have")
    if bits != _SAMSUNG_BITS:
        raise MappingError(f"{device.name}: its units multiply FP16; found elements of {bits:g} bits")
    return samsung_gemv(device, outputs, inputs, refresh=refresh)


def product_attention(side: PimSide, heads: Heads, lengths: npt.NDArray[np.int64]) -> RequestCosts:
    """Cost of decode attention of requests with so many keys; arguments and errors as `presilicon.mapping.pim_attention.request_costs`."""
    if len(lengths) == 0 or int(lengths.min()) < 1:
        raise MappingError(f"{side.device.name}: attention needs requests of at least one key")
    if min(heads.kv_heads, heads.group, heads.head_dim) < 1:
        raise MappingError(f"{side.device.name}: attention needs heads and a head dimension of at least 1, found {heads}")
    device = side.device
    one = replace(device, organisation=replace(device.organisation, channels=1))
    stolen = 0.0 if device.refresh is None else device.timings[device.refresh.duration] / device.timings[device.refresh.interval]
    distinct, back = np.unique(lengths, return_inverse=True)
    pairs = [(product(one, side.kernel, int(n), heads.head_dim, heads.kv_bits, refresh=False),
              product(one, side.kernel, heads.head_dim, int(n), heads.kv_bits, refresh=False)) for n in distinct]
    score, both = (heads.vectors / (1.0 - stolen) * np.array(found, dtype=np.float64)[back]
                   for found in ([a.cycles for a, _ in pairs], [a.cycles + b.cycles for a, b in pairs]))
    read = np.array([a.weight_bytes + b.weight_bytes for a, b in pairs], dtype=np.float64)[back]
    keys, each = lengths.astype(np.float64), heads.kv_heads * heads.vectors
    none = np.zeros(len(lengths))
    # Queries in, scores out, probabilities in, results out, 16 bits each.
    return RequestCosts(heads.kv_heads, both, score, 8.0 * each * read, 16.0 * each * (2.0 * heads.head_dim + 2.0 * keys),
                        2.0 * each * heads.head_dim * keys, {}, none, none)
