"""Pruned weights on a GPU: skipped by sparse tensor cores, or loaded as sparse and computed as dense.

Sparse tensor cores (Ampere and later) multiply the stored half of a 2:4 matrix with the activations that its metadata selects: a product
of twice the depth takes the cycles of a dense one. Stored weights and metadata pass all memories; the activations, half of which no
product uses, pass them whole, so that the shared memory, not the tensor cores, tends to limit (A. Mishra et al., "Accelerating sparse deep
neural networks", arXiv 2104.08378).

Any other pattern, and every pattern where the tensor cores skip none, is loaded as sparse and computed as dense (Flash-LLM, arXiv
2309.10285): stored weights pass DRAM and L2, are put back among the zeros by the integer lanes of each CTA (`expand_cycles`), pass shared
memory as a dense tile, and the tensor cores multiply the zeros too.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np

from ...arch.spec import SKIPPED_PATTERNS
from ...workloads.formats import NumberFormat
from .machine import Machine

#: Arithmetics by name with the suffix under which `presilicon.arch.System.peaks_flops_per_s` has their rate with 2:4 weights.
SUFFIX: Final = "_sparse"


def sparse_options(weight: NumberFormat, arithmetic: str) -> dict[str, Any]:
    """Options of a product whose weights have a pattern of zeros; none for dense weights.

    ``skip``: tensor cores that skip zeros can take the pattern; ``density``: stored share; ``expanded_bits``: bits of an
    element once it is back in its place; ``bitmap``: whether a bitmap says where.
    """
    pattern = weight.sparsity
    if pattern is None:
        return {}
    skip = pattern.name in SKIPPED_PATTERNS.get(arithmetic, ())
    return {"density": pattern.density, "skip": skip, "expanded_bits": weight.dense.bits, "bitmap": pattern.bitmap}


def expand_cycles(density: float, bitmap: bool, bits: float, place_ops: Any, bitmap_ops: Any, fma: Any, sfu: Any) -> Any:
    """Cycles of an SM per weight, zeros included, to put stored weights back in their places.

    Each stored weight takes ``gemm.place_ops`` on the integer lanes; a bitmap takes ``gemm.bitmap_ops`` more for each element, zero or not,
    and two population counts (of 64 bits) for each register of 32 bits, which run at the rate of special functions (16 a clock and SM: CUDA
    programming guide, arithmetic throughput).

    Parameters
    ----------
    density, bitmap
        Of the pattern.
    bits
        Of an element in its place.
    place_ops, bitmap_ops
        The constants.
    fma, sfu
        Lanes and special functions per clock and SM.
    """
    cycles = density * place_ops / fma
    return cycles + bitmap_ops / fma + 2.0 * (bits / 32.0) / sfu if bitmap else cycles


def skips(options: Mapping[str, Any], machine: Machine) -> np.ndarray:
    """Whether the tensor cores skip the zeros of a product: a flag, or one per design."""
    return np.asarray(bool(options.get("skip", False)) & (np.asarray(machine.sparse_speedup) > 1.0))


def executed_share(options: Mapping[str, Any], machine: Machine) -> Any:
    """Executed multiply-adds over those of the dense product, from a kernel's options; for their energy."""
    return np.where(skips(options, machine), options.get("density", 1.0), 1.0) if "density" in options else 1.0


def arithmetic_label(options: Mapping[str, Any], machine: Machine) -> str:
    """Arithmetic of a kernel on one GPU, ``"bf16_sparse"`` where its zeros are skipped; intervals and peaks go by this name."""
    name = str(options.get("arithmetic", ""))
    return f"{name}{SUFFIX}" if "density" in options and bool(np.all(skips(options, machine))) else name
