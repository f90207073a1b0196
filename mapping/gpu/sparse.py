"""Pruned weights on a GPU: skipped by sparse tensor cores, or loaded as sparse and computed as dense.

Sparse tensor cores (Ampere and later) multiply the stored half of a 2:4 matrix with the activations that its metadata selects: a product
of twice the depth takes the cycles of a dense one. Stored weights and metadata pass all memories; the activations, half of which no
product uses, pass them whole, so that the shared memory, not the tensor cores, tends to limit (A. Mishra et al., "Accelerating sparse deep
neural networks", arXiv 2104.08378).

Any other pattern, and every pattern where the tensor cores skip none, is loaded as sparse and computed as dense (Flash-LLM, arXiv
2309.10285): stored weights pass DRAM and L2, are put back among the zeros by the integer lanes of each CTA (`Pruned.expand_cycles`), pass
shared memory as a dense tile, and the tensor cores multiply the zeros too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from ...arch.spec import SKIPPED_PATTERNS
from ...workloads.formats import NumberFormat
from .machine import Machine

#: Arithmetics by name with the suffix under which `presilicon.arch.System.peaks_flops_per_s` has their rate with 2:4 weights.
SUFFIX: Final = "_sparse"


@dataclass(frozen=True)
class Pruned:
    """Zeros among a product's weights, as a kernel meets them.

    Attributes
    ----------
    density
        Share of the weights that is stored.
    bits
        Of an element once it is back in its place.
    bitmap
        A bitmap says where the stored weights belong.
    skippable
        Sparse tensor cores can take the pattern in the arithmetic of the product.
    """

    density: float
    bits: float
    bitmap: bool = False
    skippable: bool = False

    def skipped(self, machine: Machine) -> np.ndarray:
        """Whether the tensor cores skip the zeros: a flag, or one per design."""
        return self.skippable & (np.asarray(machine.sparse_speedup) > 1.0)

    def expand_cycles(self, machine: Machine) -> Any:
        """Cycles of an SM per weight, zeros included, to put stored weights back in their places.

        Each stored weight takes ``gemm.place_ops`` on the integer lanes; a bitmap takes ``gemm.bitmap_ops`` more for each element, zero or
        not, and two population counts (of 64 bits) for each register of 32 bits, which run at the rate of special functions (16 a clock
        and SM: CUDA programming guide, arithmetic throughput).
        """
        cycles = self.density * machine["gemm.place_ops"] / machine.fma_per_clk
        if self.bitmap:
            cycles = cycles + machine["gemm.bitmap_ops"] / machine.fma_per_clk + 2.0 * (self.bits / 32.0) / machine.sfu_per_clk
        return cycles


def sparse_options(weight: NumberFormat, arithmetic: str) -> dict[str, Any]:
    """Option ``pruned`` of a product whose weights have a pattern of zeros; none for dense weights."""
    pattern = weight.sparsity
    if pattern is None:
        return {}
    skippable = pattern.name in SKIPPED_PATTERNS.get(arithmetic, ())
    return {"pruned": Pruned(pattern.density, weight.dense.bits, pattern.bitmap, skippable)}


def skips(options: Mapping[str, Any], machine: Machine) -> np.ndarray:
    """Whether the tensor cores skip the zeros of a kernel with these options: a flag, or one per design."""
    pruned: Pruned | None = options.get("pruned")
    return np.asarray(False) if pruned is None else pruned.skipped(machine)


def executed_share(options: Mapping[str, Any], machine: Machine) -> Any:
    """Executed multiply-adds over those of the dense product, from a kernel's options; for their energy."""
    return np.where(skips(options, machine), options["pruned"].density, 1.0) if "pruned" in options else 1.0


def arithmetic_label(options: Mapping[str, Any], machine: Machine) -> str:
    """Arithmetic of a kernel on one GPU, ``"bf16_sparse"`` where its zeros are skipped; intervals and peaks go by this name."""
    name = str(options.get("arithmetic", ""))
    return f"{name}{SUFFIX}" if bool(np.all(skips(options, machine))) else name
