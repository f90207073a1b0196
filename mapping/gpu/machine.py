"""The numbers of one GPU (or of an array of GPU designs) as the closed forms read them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ...arch import System, value_at

#: A scalar, or an array that broadcasts against the arrays of op sizes.
Number = Any


@dataclass(frozen=True)
class Machine:
    """One GPU, or many designs of one, flattened for vectorised formulas.

    Every number is a float, or a NumPy array that broadcasts against the op sizes: shape ``(designs, 1)`` against
    sizes of shape ``(ops,)`` gives results of shape ``(designs, ops)``.

    Attributes
    ----------
    tensor_flops_per_clk
        Dense FLOP per clock and SM of the tensor cores, by arithmetic name (``"bf16"``, ``"fp16"``, ``"tf32"``, ``"fp8"``,
        ``"int8"``, ``"int4"``, ``"fp4"``); an arithmetic that the GPU lacks is absent.
    fma_per_clk, sfu_per_clk
        fp32 multiply-adds (2 FLOP each) and special functions per clock and SM.
    l2_bytes_per_clk
        Peak L2 read bandwidth of the whole GPU in bytes per SM clock.
    constants
        Calibration constants by name (``"gemm.floor"``), SI units; see ``arch/constants``.
    sparse_speedup
        Tensor-core rate with weights in a pattern that they skip (2:4), over the dense rate; 1: they skip none.
    """

    name: str
    generation: str
    sm_count: Number
    clock_hz: Number
    tensor_flops_per_clk: Mapping[str, Number]
    fma_per_clk: Number
    sfu_per_clk: Number
    smem_bytes_per_clk: Number
    smem_bytes: Number
    smem_bytes_per_cta: Number
    registers: Number
    max_warps: Number
    max_ctas: Number
    l2_bytes: Number
    l2_bytes_per_clk: Number
    l2_latency_s: Number
    dram_bytes: Number
    dram_bytes_per_s: Number
    dram_latency_s: Number
    power_limit_w: Number
    power_idle_w: Number
    constants: Mapping[str, Number] = field(default_factory=dict)
    sparse_speedup: Number = 1.0

    @classmethod
    def of(cls, system: System, designs: Mapping[str, np.ndarray] | None = None) -> Machine:
        """Flatten a System; `designs` replaces the numbers at some override paths by arrays of one value per design.

        Parameters
        ----------
        system
            The GPU.
        designs
            Arrays of shape ``(designs,)`` by override path (``"gpu.sm.count"``), SI units; they enter with shape
            ``(designs, 1)`` so that sizes of shape ``(ops,)`` broadcast to ``(designs, ops)``.
        """
        changed = {path: np.asarray(values, dtype=float)[:, np.newaxis] for path, values in (designs or {}).items()}

        def at(path: str) -> Number:
            return changed.pop(path) if path in changed else value_at(system, path)

        clock = at("gpu.clock.boost")
        machine = cls(
            name=system.name,
            generation=system.generation,
            sm_count=at("gpu.sm.count"),
            clock_hz=clock,
            tensor_flops_per_clk={name: at(f"gpu.sm.tensor.{name}") for name in system.gpu.sm.tensor_flops_per_clk},
            fma_per_clk=at("gpu.sm.fma"),
            sfu_per_clk=at("gpu.sm.sfu"),
            smem_bytes_per_clk=at("gpu.sm.shared_bandwidth"),
            smem_bytes=at("gpu.sm.shared_memory"),
            smem_bytes_per_cta=at("gpu.sm.shared_memory_per_cta"),
            registers=at("gpu.sm.registers"),
            max_warps=at("gpu.sm.max_warps"),
            max_ctas=at("gpu.sm.max_ctas"),
            l2_bytes=at("gpu.l2.size"),
            l2_bytes_per_clk=at("gpu.l2.bandwidth"),
            l2_latency_s=at("gpu.l2.latency") / clock,
            dram_bytes=at("dram.size"),
            dram_bytes_per_s=at("dram.bandwidth"),
            dram_latency_s=at("dram.latency") / clock,
            power_limit_w=at("power.limit"),
            power_idle_w=at("power.idle"),
            constants={name: at(f"calibration.{name}") for name in system.calibration},
            sparse_speedup=at("gpu.sm.sparse_speedup"),
        )
        for path in changed:
            value_at(system, path)  # raises for a path that does not exist; one that the GPU model does not read moves nothing
        return machine

    def __getitem__(self, constant: str) -> Number:
        return self.constants[constant]

    def with_constants(self, **changes: Number) -> Machine:
        """The same machine with some constants replaced; ``gemm__floor`` names ``gemm.floor``."""
        merged = dict(self.constants) | {key.replace("__", "."): value for key, value in changes.items()}
        return replace(self, constants=merged)

    def tensor_rate(self, arithmetic: str) -> Number:
        """Dense tensor-core FLOP/s at the boost clock."""
        return self.tensor_flops_per_clk[arithmetic] * self.sm_count * self.clock_hz


@dataclass(frozen=True)
class KernelTimes:
    """What a closed form says about a batch of kernels; every array has the broadcast shape of the call.

    Attributes
    ----------
    time_s
        Seconds from the kernel's start to its end on an idle GPU (host launch cost not included).
    busy_s
        Seconds for which each resource (``"tensor"``, ``"fma"``, ``"sfu"``, ``"smem"``, ``"l2"``, ``"dram"``, ``"link"``,
        ``"floor"``) would be busy if it ran alone at its achievable rate.
    bytes_moved
        Bytes by level: ``"dram"``, ``"l2"``.
    clock_hz
        SM clock under the power limit.
    choice
        What the library's heuristic chose, by name (``tile_m``, ``tile_n``, ``split_k`` ...), for the tile simulator.
    """

    time_s: np.ndarray
    busy_s: Mapping[str, np.ndarray]
    bytes_moved: Mapping[str, np.ndarray]
    clock_hz: np.ndarray
    choice: Mapping[str, np.ndarray] = field(default_factory=dict)

    def limiter(self) -> np.ndarray:
        """Name of the resource with the longest busy time, per kernel."""
        names = np.array(list(self.busy_s))
        stack = np.stack([np.broadcast_to(self.busy_s[n], self.time_s.shape) for n in names])
        return names[np.argmax(stack, axis=0)]
