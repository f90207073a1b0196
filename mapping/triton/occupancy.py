"""How many CTAs of a kernel fit on an SM at once, and what bounds them: CUDA's allocation rules.

The rules are those of the CUDA occupancy calculator (`cudaOccMaxActiveBlocksPerMultiprocessor` in ``cuda_occupancy.h``) for
compute capability 8.0 and later: registers go to warps in units of 256 and lie in four sub-cores, which hold whole warps;
shared memory goes to CTAs in units of 128 bytes, 1 KiB of each CTA's being the system's own.
"""

from __future__ import annotations

from dataclasses import dataclass

from ...arch import System
from ...errors import KernelError
from .compile import CompiledKernel
from .tools import parse_target

REGISTER_UNIT, SUB_CORES, SHARED_UNIT, RESERVED_SHARED_BYTES, WARP = 256, 4, 128, 1024, 32
MAX_REGISTERS_PER_THREAD, MAX_THREADS_PER_CTA, TENSOR_MEMORY_COLUMNS = 255, 1024, 512


@dataclass(frozen=True)
class Limits:
    """What one SM has.

    Attributes
    ----------
    warps, ctas
        Resident warps and CTAs at most.
    registers
        32-bit registers.
    shared_bytes, shared_bytes_per_cta
        Shared memory of the SM, and what one CTA may ask for (without the 1 KiB that the system reserves).
    """

    warps: int
    ctas: int
    registers: int
    shared_bytes: int
    shared_bytes_per_cta: int

    @classmethod
    def of(cls, system: System) -> Limits:
        """The limits that a device file states."""
        sm = system.gpu.sm
        return cls(int(sm.max_warps), int(sm.max_ctas), int(sm.registers), int(sm.shared_bytes), int(sm.shared_bytes_per_cta))


#: By compute capability (CUDA C++ Programming Guide, "Technical Specifications per Compute Capability").
LIMITS = {
    80: Limits(64, 32, 65536, 164 * 1024, 163 * 1024), 86: Limits(48, 16, 65536, 100 * 1024, 99 * 1024),
    89: Limits(48, 24, 65536, 100 * 1024, 99 * 1024), 90: Limits(64, 32, 65536, 228 * 1024, 227 * 1024),
    100: Limits(64, 32, 65536, 228 * 1024, 227 * 1024), 120: Limits(48, 24, 65536, 100 * 1024, 99 * 1024),
}


@dataclass(frozen=True)
class Occupancy:
    """Resident CTAs and why not more.

    Attributes
    ----------
    ctas
        CTAs of this kernel on one SM at once; 0 if it cannot launch.
    warps
        Their warps.
    fraction
        Of the SM's warp slots.
    bound_by
        What allows no more: ``"registers"``, ``"shared memory"``, ``"warps"``, ``"CTAs"``, ``"tensor memory"``; several where
        they tie.
    ctas_by
        CTAs that each resource alone would allow.
    registers_per_warp, shared_bytes_per_cta
        As allocated, granularity included.
    problem
        Why it cannot launch, "" if it can.
    """

    ctas: int
    warps: int
    fraction: float
    bound_by: tuple[str, ...]
    ctas_by: dict[str, int]
    registers_per_warp: int
    shared_bytes_per_cta: int
    problem: str = ""


def _up(value: int, unit: int) -> int:
    return -(-value // unit) * unit


def occupancy(*, warps: int, registers: int, shared_bytes: int, limits: Limits | int | str, tensor_memory_columns: int = 0) -> Occupancy:
    """Occupancy of a kernel.

    Parameters
    ----------
    warps
        Warps a CTA.
    registers
        Registers a thread, as ptxas states them.
    shared_bytes
        Shared memory a CTA asks for, dynamic and static, without what the system reserves.
    limits
        The SM: `Limits`, or a compute capability.
    tensor_memory_columns
        Columns of tensor memory a CTA (sm_100).

    Raises
    ------
    KernelError
        A negative or absurd size.
    UnknownNameError
        An unknown compute capability.

    Examples
    --------
    >>> found = occupancy(warps=8, registers=174, shared_bytes=32768, limits=80)
    >>> found.ctas, found.bound_by, found.registers_per_warp
    (1, ('registers',), 5632)
    """
    sm = limits if isinstance(limits, Limits) else LIMITS[parse_target(limits)]
    if warps < 1 or registers < 0 or shared_bytes < 0 or tensor_memory_columns < 0:
        raise KernelError(f"a kernel of {warps} warps, {registers} registers a thread and {shared_bytes} bytes of shared memory")
    per_warp = _up(max(registers, 1) * WARP, REGISTER_UNIT)
    shared = _up(shared_bytes + RESERVED_SHARED_BYTES, SHARED_UNIT)
    warps_in_registers = sm.registers // SUB_CORES // per_warp * SUB_CORES
    allowed = {"warps": sm.warps // warps, "CTAs": sm.ctas, "registers": warps_in_registers // warps,
               "shared memory": sm.shared_bytes // shared}
    if tensor_memory_columns:
        allowed["tensor memory"] = TENSOR_MEMORY_COLUMNS // tensor_memory_columns
    problem = ""
    if warps * WARP > MAX_THREADS_PER_CTA:
        problem = f"{warps * WARP} threads a CTA, {MAX_THREADS_PER_CTA} are the most"
        allowed["warps"] = 0
    elif per_warp * _up(warps, SUB_CORES) > sm.registers:
        problem = f"{per_warp * _up(warps, SUB_CORES)} registers a CTA, the SM has {sm.registers}"
        allowed["registers"] = 0
    elif shared_bytes > sm.shared_bytes_per_cta:
        problem = f"{shared_bytes} bytes of shared memory a CTA, {sm.shared_bytes_per_cta} are the most"
        allowed["shared memory"] = 0
    elif tensor_memory_columns > TENSOR_MEMORY_COLUMNS:
        problem = f"{tensor_memory_columns} columns of tensor memory, the SM has {TENSOR_MEMORY_COLUMNS}"
    ctas = min(allowed.values())
    bound = tuple(name for name, count in allowed.items() if count == ctas)
    return Occupancy(ctas, ctas * warps, ctas * warps / sm.warps, bound, allowed, per_warp, shared, problem)


def occupancy_of(compiled: CompiledKernel, system: System | None = None) -> Occupancy:
    """Occupancy of a compiled kernel on a device, or on any of its compute capability."""
    return occupancy(warps=compiled.num_warps, registers=compiled.registers,
                     shared_bytes=compiled.shared_bytes + compiled.static_shared_bytes,
                     limits=Limits.of(system) if system is not None else compiled.target,
                     tensor_memory_columns=compiled.tensor_memory_columns)
