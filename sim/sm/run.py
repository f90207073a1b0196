"""One Triton launch on one GPU: `simulate_kernel`."""

from __future__ import annotations

import linecache
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from typing import Final

import numpy as np

from ...arch import System
from ...arch.sm_timing import sm_timing
from ...errors import KernelError, UnknownNameError
from ...mapping.gpu.machine import Machine
from ...mapping.gpu.power import clock_ratio, energy_joules, fma_joules, l2_joules, tensor_joules
from ...mapping.triton import CompiledKernel, Launch, Occupancy, occupancy_of
from ...mapping.triton.warp_runs import NotFollowedError
from ..result import Span
from . import isa
from .addresses import first_addresses, walks
from .calibrated import Same, calibrated
from .classes import cta_classes, grid_of, program_ids, sample
from .core import REASONS
from .distinct import distinct_of, ranks_of
from .facts import CodeFacts, GridCounts, counts_of, facts_of
from .grid import FollowedLaunch, Kernel, Schedule, SmRun, dram_bytes_per_s, dram_moved, follow, rates, run_grid, run_sm, schedule
from .l2 import L2Cache
from .light import follow_lightly
from .loads import loads_of
from .result import KernelRun, LineCost
from .sharing import phase_shares, sharing
from .streams import follow_streams
from .walked import sharing_of_walks
from .warps import SAMPLED_LANES, ends_decide

FIDELITIES = ("cycle", "tile")

#: Pipes of a sub-core that an instruction takes alone, for its interval.
_LANES: Final = ("fma", "alu", "imad", "half", "fp64", "sfu")


def simulate_kernel(compiled: CompiledKernel, launch: Launch, system: System, *, fidelity: str = "cycle", record: bool = False,
                    warm_l2: bool | float = False, dirty_l2: bool = False) -> KernelRun:
    """Time of one launch, from its machine code.

    Parameters
    ----------
    compiled, launch
        From `mapping.triton.compile_launch` and `bind_launch`, for the compute capability of `system`.
    system
        The GPU.
    fidelity
        ``"cycle"``: every warp-instruction of one SM; ``"tile"``: tiles.
    record
        Keep one SM's timeline in `KernelRun.spans` (``"cycle"``).
    warm_l2
        The operands were used just before the launch, so that L2 still holds what of them fits, and takes what of the results fits; a
        number is the share of both that it holds, where other kernels came between. By default nothing of use is in it, and what the
        kernel writes goes to DRAM while it runs.
    dirty_l2
        L2 is as after a flush that clears a buffer (`triton.testing.do_bench`): nothing of use in it, and lines that are still to be
        written to DRAM, as the kernel takes their places (`L2Cache.written_back`). Without effect where `warm_l2` is set.

    Raises
    ------
    KernelError
        Code for another compute capability, a kernel that does not fit an SM, one that launches clusters of CTAs (``num_ctas``), or
        one whose warps wait for one another.
    UnknownNameError
        An unknown fidelity.
    """
    return simulate_at_limits(compiled, launch, (system,), fidelity=fidelity, record=record, warm_l2=warm_l2, dirty_l2=dirty_l2)[0]


def simulate_at_limits(compiled: CompiledKernel, launch: Launch, systems: Sequence[System], *, fidelity: str = "cycle",
                       record: bool = False, warm_l2: bool | float = False, dirty_l2: bool = False) -> list[KernelRun]:
    """`simulate_kernel` on GPUs that differ in the limit of their power alone: the SM is simulated once, for the first of them."""
    if fidelity not in FIDELITIES:
        raise UnknownNameError("fidelity", fidelity, FIDELITIES)
    systems = [calibrated(system) for system in systems]
    system = systems[0]
    if f"sm_{compiled.target}" != system.generation:
        raise KernelError(f"{launch.name} is compiled for sm_{compiled.target}, {system.name} is {system.generation}")
    if compiled.num_ctas > 1:
        raise KernelError(f"{launch.name}: num_ctas={compiled.num_ctas}, but clusters of CTAs are not modelled")
    occupancy = occupancy_of(compiled, system)
    if occupancy.problem or not occupancy.ctas:
        raise KernelError(f"{launch.name} cannot launch on {system.name}: {occupancy.problem or 'no CTA fits an SM'}")
    kernel, plan = prepare(compiled, launch, system, occupancy, warm_l2, light=fidelity == "tile", dirty_l2=dirty_l2)
    if fidelity == "tile":
        from .tile import run_tiles

        found, spent = run_tiles(kernel, plan)
    else:
        found, spent = run_grid(kernel, plan, partial(run_sm, record=record))
    return [_grid_result(replace(kernel, system=one), plan, found, spent, occupancy, fidelity) for one in systems]


def prepare(compiled: CompiledKernel, launch: Launch, system: System, occupancy: Occupancy, warm_l2: bool | float, *,
            light: bool = False, dirty_l2: bool = False) -> tuple[Kernel, Schedule]:
    """Everything that the core needs, but for the clock's ratio.

    Parameters
    ----------
    light
        Warps that stand for others, in compiled code, where the kernel allows it (see `light`).
    """
    timing = sm_timing(system.generation)
    sms = int(system.gpu.sm.count)
    l2 = L2Cache.of(system, timing, warm=warm_l2, dirty=dirty_l2 and not warm_l2)
    l1 = max(0.0, system.gpu.sm.shared_bytes + 28 * 1024 - occupancy.ctas * occupancy.shared_bytes_per_cta)
    follow_launch = follow_lightly if light else follow_fully
    try:
        found = follow_launch(compiled, launch, system, l2, together=sms * occupancy.ctas, l1_bytes=l1)
    except NotFollowedError:
        return prepare(compiled, launch, system, occupancy, warm_l2, dirty_l2=dirty_l2)
    kernel = Kernel(compiled, launch, found.grid, system, timing, found.facts, found.runs, found.classes, found.samples,
                    found.share, l1, system.gpu.clock.boost_hz * system.gpu.clock.headroom)
    if l2.dirty:
        moved, written = dram_moved(kernel, phase_shares(math.ceil(launch.programs / (sms * occupancy.ctas))) @ found.share.dram)
        kernel = replace(kernel, written_back=l2.written_back(moved, written) / max(moved, 1.0))
    return kernel, schedule(launch.programs, sms, occupancy.ctas)


def follow_fully(compiled: CompiledKernel, launch: Launch, system: System, l2: L2Cache, *, together: int,
                 l1_bytes: float) -> FollowedLaunch:
    """What the core needs of a launch, every thread of a CTA of each class followed.

    Parameters
    ----------
    l2, together
        As `sharing.sharing` takes them.
    l1_bytes
        L1 cache left beside shared memory.
    """
    lanes = SAMPLED_LANES
    while True:
        classes = cta_classes(compiled, launch, lanes)
        samples = sample(classes)
        runs = follow(compiled, launch, classes, samples)
        if not lanes or all(ends_decide(run) for run in runs):
            break
        lanes = ()
    grid = grid_of(compiled, launch, classes, samples, runs)
    asked = [loads_of(run, l1_bytes=l1_bytes) for run in runs]
    others = frozenset().union(*(part.others for part in asked))

    def first(numbers: np.ndarray) -> Mapping[int, np.ndarray]:
        return first_addresses(compiled, launch, program_ids(launch, numbers), others, lanes)

    if len(classes) == 1:
        share = sharing(launch, asked[0], first, l2, together=together)
    else:
        share = sharing_of_walks(launch, asked, partial(walks, compiled, launch, others, lanes), l2, together=together,
                                 work=classes.work[classes.number], first=first)
    streams = tuple(follow_streams(run, l1_bytes=l1_bytes, storage=part.storage) for run, part in zip(runs, asked, strict=True))
    return FollowedLaunch(counts_of(grid), streams, classes, samples, share,
                          facts_of(compiled, system, sm_timing(system.generation)))


def _grid_result(kernel: Kernel, plan: Schedule, found: SmRun, spent: int, occupancy: Occupancy, fidelity: str) -> KernelRun:
    """The grid's numbers from those of its busiest SM, or of a mean one where CTAs differ."""
    system, launch, grid = kernel.system, kernel.launch, kernel.grid
    machine = _machine(Same(system))
    counts, facts = grid.counts, kernel.facts
    cycles = found.cycles
    scale = np.divide(counts, found.stalls[:, 0], out=np.zeros(len(counts)), where=found.stalls[:, 0] > 0)
    stalls = np.maximum(found.stalls, 0.0) * scale[:, None]
    stalls[:, 0] = counts
    per_sm = launch.programs / found.ctas
    moved = {"l1": found.l1_bytes * per_sm, "smem": found.smem_passes * system.gpu.sm.shared_bytes_per_clk * per_sm,
             "l2": found.l2_bytes * per_sm, "dram": found.dram_bytes * per_sm}
    launch_s = system.calibration["memory.floor"]
    clock, boost = kernel.clock_hz, system.gpu.clock.boost_hz
    tensor = float(grid.tensor_flops)
    vector = float(facts.vector @ counts)
    core_j = {"tensor": float(tensor_joules(machine, tensor, facts.arithmetic)), "vector": float(fma_joules(machine, vector)),
              "l2": float(l2_joules(machine, moved["l2"]))}
    dram_j = machine["power.joule_per_dram_byte"] * moved["dram"]
    busy = _busy(found, cycles)
    # boost is the clock at which tensor cores that are never idle are held
    highest = 1.0 + (clock / boost - 1.0) * (1.0 - max(busy.get("tensor", 0.0), busy.get("tcgen05", 0.0)))
    ratio = float(clock_ratio(machine, cycles / boost, sum(core_j.values()), dram_j, launch_s, highest))
    slower = clock / (ratio * boost)
    dram_s = moved["dram"] / dram_bytes_per_s(kernel)
    # cycles go with the clock, DRAM does not
    time_s = max(cycles / clock * slower - (slower - 1) * dram_s, dram_s) if slower > 1 else cycles / clock
    clock = ratio * boost
    time_s = max(time_s, _roofline(kernel, grid, moved, min(clock, boost)))
    total_s = time_s + launch_s
    energy = energy_joules(machine, total_s, ratio, core_j=core_j, memory_j=dram_j)
    waves = launch.programs / (system.gpu.sm.count * occupancy.ctas)
    wasted = found.idle if len(kernel.classes) > 1 else 1.0 - launch.programs / (plan.ctas * system.gpu.sm.count)
    names = {name: float(stalls[:, n].sum()) for n, name in enumerate(REASONS)}
    limiter = _limiter(busy, launch_s / total_s)
    issued = int(counts.sum())
    return KernelRun(
        name=launch.name, fidelity=fidelity, time_s=total_s, low_s=total_s, high_s=total_s, cycles=math.ceil(time_s * clock),
        clock_hz=clock, launch_s=launch_s, ctas=launch.programs, ctas_per_sm=occupancy.ctas,
        warps_per_cta=kernel.compiled.num_warps, occupancy=occupancy, waves=waves, tail_share=wasted, issued=issued,
        simulated_issued=spent, flops=tensor + vector, tensor_flops=tensor, bytes_moved=moved, pipe_busy=busy,
        stalls={name: value for name, value in names.items() if value}, lines=_lines(facts, stalls), limiter=limiter,
        assumptions=grid.assumptions, issued_by_instruction=tuple(counts.tolist()),
        stalls_by_instruction=tuple(stalls[:, 1:].sum(axis=1).tolist()), spans=_spans(kernel, found),
        energy_j={name: float(value) for name, value in energy.items()})


@lru_cache(maxsize=16)
def _machine(same: Same[System]) -> Machine:
    """Numbers of a GPU, flattened once."""
    return Machine.of(same.held)


def _roofline(kernel: Kernel, grid: GridCounts, moved: Mapping[str, float], clock_hz: float) -> float:
    """Least time that the device's peaks allow: of DRAM (its steady share: no stream goes on at the data sheet's rate), L2, tensor cores,
    each of the other pipes, and issue.
    """
    gpu = kernel.system.gpu
    dram = moved["dram"] / dram_bytes_per_s(kernel)
    l2 = moved["l2"] / (gpu.l2.bytes_per_clk * clock_hz)
    tensor = 0.0
    if grid.tensor_flops:
        tensor = grid.tensor_flops / (2 * float(kernel.facts.rate.max()) * 4 * gpu.sm.count * clock_hz)
    table, cores = kernel.facts.table, 4 * gpu.sm.count * clock_hz
    taken = np.bincount(table.pipe, grid.counts * table.interval, len(isa.PIPES))
    return max(dram, l2, tensor, float(grid.counts.sum()) / cores, *(float(taken[isa.PIPE[name]]) / cores for name in _LANES))


def _busy(found: SmRun, cycles: float) -> dict[str, float]:
    names = [*isa.PIPES, *isa.UNITS]  # what is written last may still be on its way from L2 to DRAM when the kernel ends
    return {name: min(1.0, float(found.busy[n]) / cycles / (4.0 if n < len(isa.PIPES) else 1.0))
            for n, name in enumerate(names) if name not in ("none", "branch", "memory") and found.busy[n] > 0}


def _limiter(busy: Mapping[str, float], launch_share: float) -> str:
    if launch_share > 0.5:
        return "launch"
    name = max(busy, key=lambda key: busy[key], default="latency")
    return name if busy.get(name, 0.0) * (1 - launch_share) > 0.5 else "latency"


def _lines(facts: CodeFacts, stalls: np.ndarray) -> tuple[LineCost, ...]:
    key = facts.file << 32 | facts.line
    places, inverse = distinct_of(key), ranks_of(key)
    issued, waited = (np.bincount(inverse, part, len(places)) for part in (stalls[:, 0], stalls[:, 1:].sum(axis=1)))
    whole = float((issued + waited).sum()) or 1.0
    made = []
    for place, a, b in zip(places.tolist(), issued.tolist(), waited.tolist(), strict=True):
        file, line = facts.files[place >> 32], place & 0xFFFFFFFF
        made.append(LineCost(file, line, linecache.getline(file, line).strip() if line else "", int(a), b, (a + b) / whole))
    return tuple(sorted(made, key=lambda item: (-item.share, item.file, item.line)))


def _spans(kernel: Kernel, found: SmRun) -> tuple[Span, ...]:
    """One SM's timeline: stretches in which a warp issues."""
    clock = kernel.clock_hz
    made = []
    for cta, warp, start, end in found.spans.tolist():
        made.append(Span(f"CTA {cta}", f"warp {warp}", start / clock, (end - start) / clock, kernel.launch.name))
    return tuple(made)


__all__ = ["FIDELITIES", "prepare", "rates", "simulate_at_limits", "simulate_kernel"]
