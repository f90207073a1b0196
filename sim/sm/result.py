"""What a simulation of one Triton launch on one GPU found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ...mapping.triton import Occupancy
from ..result import Span


@dataclass(frozen=True)
class LineCost:
    """What one line of the kernel's source costs, over the whole grid.

    Attributes
    ----------
    file, line
        The place in the user's Python file; line 0 gathers instructions that ptxas ties to no line.
    text
        The line itself, where the file can be read.
    issued
        Warp-instructions.
    stall_cycles
        Warp-cycles in which a warp stood before an instruction of this line and could not issue it, or was not chosen.
    share
        Of the kernel's warp-cycles (issues and stalls together).
    """

    file: str
    line: int
    text: str
    issued: int
    stall_cycles: float
    share: float


#: Reasons for which a warp does not issue, in Nsight Compute's terms, with what they stand for here.
STALLS: Mapping[str, str] = {
    "selected": "the warp issues",
    "not selected": "ready, but the scheduler chose another warp",
    "wait": "the stall count of the instruction before",
    "long scoreboard": "a result of global or local memory",
    "short scoreboard": "a result of shared memory, the special-function unit or another variable-latency unit",
    "barrier": "the other warps of the CTA at a barrier",
    "mbarrier": "a bulk copy or another warp group at an mbarrier",
    "tensor": "asynchronous matrix instructions (wgmma, tcgen05)",
    "math pipe throttle": "the arithmetic or tensor pipe is taken",
    "mio throttle": "the queue to shared memory and special functions is full",
    "lg throttle": "the queue to global memory is full",
    "branch": "instruction fetch behind a jump",
    "membar": "a memory fence",
}


@dataclass(frozen=True)
class KernelRun:
    """One launch on one GPU.

    Attributes
    ----------
    time_s, low_s, high_s
        Seconds on the device from the kernel's start to its end. The simulation knows no interval: `low_s` and `high_s` equal `time_s`;
        what calibration or another model's errors allow is put around it by who asks (`predict_kernel`).
    cycles, clock_hz
        SM cycles of the whole grid, at the clock that the power limit allows.
    launch_s
        Fixed part of `time_s`: launch, ramp and drain.
    ctas, ctas_per_sm, warps_per_cta, occupancy
        CTAs of the grid, those resident on an SM at once, warps of each; `mapping.triton.occupancy`'s result.
    waves
        CTAs over what the GPU holds at once.
    tail_share
        Share of `cycles` in which the SMs are not all at work (the last, partial wave).
    issued, simulated_issued
        Warp-instructions of the whole grid, and how many of them the simulator issued one by one.
    flops, tensor_flops
        Floating-point operations in all, and those of the tensor cores.
    bytes_moved
        Bytes by level, whole grid: ``"l1"`` (asked for by threads), ``"smem"``, ``"l2"``, ``"dram"``.
    pipe_busy
        Share of the SM's cycles for which each pipe or memory level is taken.
    stalls
        Warp-cycles by reason (`STALLS`), whole grid.
    lines
        Cost of each source line, most expensive first.
    limiter
        Pipe or memory level that limits, ``"latency"``, ``"issue"`` or ``"launch"``.
    assumptions
        What was assumed where only data, or a measurement, could tell.
    issued_by_instruction, stalls_by_instruction
        Warp-instructions and stalled warp-cycles by index into the listing, whole grid.
    spans
        With ``record=True``: one SM's timeline, lanes per CTA and warp group, and per pipe.
    fidelity
        ``"cycle"`` or ``"tile"``.
    energy_j
        Energy by component at the throttled clock.
    """

    name: str
    fidelity: str
    time_s: float
    low_s: float
    high_s: float
    cycles: int
    clock_hz: float
    launch_s: float
    ctas: int
    ctas_per_sm: int
    warps_per_cta: int
    occupancy: Occupancy
    waves: float
    tail_share: float
    issued: int
    simulated_issued: int
    flops: float
    tensor_flops: float
    bytes_moved: Mapping[str, float]
    pipe_busy: Mapping[str, float]
    stalls: Mapping[str, float]
    lines: tuple[LineCost, ...] = field(repr=False)
    limiter: str
    assumptions: tuple[str, ...] = ()
    issued_by_instruction: tuple[int, ...] = field(default=(), repr=False)
    stalls_by_instruction: tuple[float, ...] = field(default=(), repr=False)
    spans: tuple[Span, ...] = field(default=(), repr=False)
    energy_j: Mapping[str, float] = field(default_factory=dict)

    @property
    def flops_per_s(self) -> float:
        """FLOP/s."""
        return self.flops / self.time_s

    @property
    def bytes_per_s(self) -> float:
        """DRAM bytes per second."""
        return self.bytes_moved.get("dram", 0.0) / self.time_s
