"""The `tile` fidelity of any Triton kernel: the program as operations on tiles, on the machine of the cycle simulation.

Between two points at which a warp waits (a scoreboard, a barrier, an mbarrier, a group of copies or of matrix instructions) its
instructions need nothing of one another but the order that the compiler gave them. What a warp does there of one class (arithmetic, matrix
products, copies, loads, shared memory) is its part of one tile operation: it is issued as one operation, which takes the pipes, the queues
and the bytes of all its instructions, and stands for the sum of their stall counts. So the engine of `core` plays out a few times fewer
steps, and loops and waves are cut shorter. Occupancy, waves, L2 sharing, clock and bytes are the very functions of the cycle simulation.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from ...arch import System
from ...mapping.triton import CompiledKernel, Launch, compile_launch, occupancy_of
from . import core, isa
from .grid import Kernel, Schedule, SmRun, Streams, access_columns, add, kept, parameters, play, run_grid
from .operations import PHASED, REAL, WHOLE, joined_stream
from .result import KernelRun
from .run import grid_result, prepare, simulate_kernel
from .streams import Cta, Rows

#: Iterations of a long loop that are played (twice: so many, and half as many), and waves.
KEEP: Final = 8
WAVES: Final = 2


def simulate_tile(compiled: CompiledKernel, launch: Launch, system: System, *, warm_l2: bool = False) -> KernelRun:
    """One launch at tile granularity.

    Parameters
    ----------
    compiled, launch, system, warm_l2
        As `simulate_kernel` takes them.

    Raises
    ------
    KernelError
        Warps that wait for one another for ever.
    """
    occupancy = occupancy_of(compiled, system)
    kernel, plan = prepare(compiled, launch, system, occupancy, warm_l2, light=True)
    found, spent = run_tiles(kernel, plan)
    return replace(grid_result(kernel, plan, found, spent, occupancy), fidelity="tile")


@dataclass(frozen=True)
class Agreement:
    """One launch at both fidelities.

    Attributes
    ----------
    name
        The kernel.
    tile_s, cycle_s
        Seconds.
    tile_steps, cycle_steps
        Operations and warp-instructions that were played one by one.
    """

    name: str
    tile_s: float
    cycle_s: float
    tile_steps: int
    cycle_steps: int

    @property
    def ratio(self) -> float:
        """Time at `tile` over time at `cycle`."""
        return self.tile_s / self.cycle_s


def compare_with_cycle(launches: Iterable[Launch], system: System) -> list[Agreement]:
    """Predict launches, bound for the GPU's compute capability, at both fidelities."""
    found = []
    for launch in launches:
        compiled = compile_launch(launch)
        tile, cycle = (simulate_kernel(compiled, launch, system, fidelity=fidelity) for fidelity in ("tile", "cycle"))
        found.append(Agreement(launch.name, tile.time_s, cycle.time_s, tile.simulated_issued, cycle.simulated_issued))
    return found


def run_tiles(kernel: Kernel, plan: Schedule) -> tuple[SmRun, int]:
    """The whole grid, and how many operations were played for it: `grid.run_grid` with operations in place of instructions."""
    total, spent = run_grid(kernel, plan, _all_waves)
    counts = kernel.grid.counts * (total.ctas / kernel.launch.programs)
    stalls = total.stalls.copy()
    stalls[:, core.SELECTED] = counts
    busy = total.busy.copy()
    for number in range(len(isa.PIPES)):
        here = kernel.table.pipe == number
        busy[number] = float((counts * kernel.table.interval)[here].sum())
    return replace(total, stalls=stalls, busy=busy, issued=float(counts.sum())), spent


def _all_waves(kernel: Kernel, plan: Schedule) -> tuple[SmRun, int]:
    """All waves and all iterations of CTAs that are alike.

    What a wave adds comes from `WAVES` and one less, what iterations add from `KEEP` and half as many; in a later wave as in the first,
    unless L2 holds for it what the first one brought.
    """
    times, keep, fewer = kept(kernel, KEEP)
    waves = min(plan.waves, WAVES)
    total = _play(kernel, replace(plan, waves=waves), keep)
    one, two, spent, at_once = total, total, round(total.issued), waves
    if plan.waves > waves:
        one = _play(kernel, replace(plan, waves=waves - 1), keep)
        total, spent, at_once = add(total, add(total, one, -1.0), plan.waves - waves), spent + round(one.issued), waves - 1
    if times <= keep:
        return total, spent
    half = _play(kernel, replace(plan, waves=at_once), fewer)
    spent += round(half.issued)
    extra, last = (times - keep) / (keep - fewer), plan.last / plan.slots
    first = add(one, half, -1.0)
    if plan.waves == waves or not _later_waves_differ(kernel, plan):
        return add(total, first, extra * (plan.waves + last) / (at_once + last)), spent
    more = _play(kernel, replace(plan, waves=waves), fewer)
    steady = add(add(two, more, -1.0), first, -1.0)
    return add(add(total, first, extra), steady, extra * (plan.waves - at_once)), spent + round(more.issued)


def _later_waves_differ(kernel: Kernel, plan: Schedule) -> bool:
    """Whether CTAs of later waves bring more or less from DRAM than those of the first."""
    rows = kernel.runs[0].rows
    index = np.array(rows.instruction, dtype=np.int64)
    count = len(kernel.grid.counts)
    asked = np.bincount(index, rows.l2_bytes, count) / np.maximum(np.bincount(index, minlength=count), 1) * kernel.grid.counts
    dram = kernel.share.dram[:3 if plan.last else 2] @ asked
    return bool(np.ptp(dram) > 0.02 * dram.max())


@dataclass(frozen=True)
class Operations:
    """Streams of instructions as streams of operations, all streams behind one another.

    Attributes
    ----------
    columns
        What the core reads of each operation, by its parameter's name; the fields of `isa.IsaTable` and of `Rows`.
    head
        int64: instruction that an operation begins with.
    start, length
        int64 by stream.
    """

    columns: dict[str, np.ndarray]
    head: np.ndarray
    start: np.ndarray
    length: np.ndarray


def make_operations(kernel: Kernel, cta: Cta, rows: Rows) -> Operations:
    """The operations of every stream."""
    parts = [_operations(kernel, code, access, table_rows) for table_rows in (access_columns(kernel, rows),)
             for code, access in zip(cta.code, cta.access, strict=True)]
    length = np.array([part["head"].shape[-1] for part in parts], dtype=np.int64)
    columns = {name: np.concatenate([part[name] for part in parts], axis=-1) for name in parts[0]}
    return Operations(columns, columns.pop("head"), np.cumsum(length) - length, length)


def group_operations(table: isa.IsaTable, code: np.ndarray) -> np.ndarray:
    """Number of the operation that each position of one warp's stream belongs to, rising in order of first appearance.

    Parameters
    ----------
    code
        int64: indices into the listing, as one warp issues them.
    """
    nothing: dict[str, np.ndarray] = {name: np.zeros(1) for name in REAL[1:]}
    nothing |= {name: np.zeros((3, 1)) for name in PHASED} | {name: np.zeros(1, np.int64) for name in ("sync_slot", "sync_value")}
    return _joined(table, np.zeros(len(table.kind), np.int64), 0.0, code, np.full(len(code), -1), nothing)[0]


def _joined(table: isa.IsaTable, lines: np.ndarray, bubble: float, code: np.ndarray, access: np.ndarray,
            rows: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    n = len(code)
    number = np.empty(n, np.int64)
    whole, real, phased = np.empty((n, len(WHOLE)), np.int64), np.empty((n, len(REAL))), np.empty((n, len(PHASED), 3))
    count = joined_stream(
        code, access, table.kind, table.pipe, table.interval, table.latency, table.stall, table.yields, table.write_barrier,
        table.read_barrier, table.wait_mask, table.first, table.second, lines, np.array([rows[name] for name in REAL[1:]]),
        np.array([rows[name] for name in PHASED], order="C"), rows["sync_slot"], rows["sync_value"], bubble, number, whole, real, phased)
    return number, whole[:count], real[:count], phased[:count]


def _operations(kernel: Kernel, code: np.ndarray, access: np.ndarray, rows: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Columns of one stream's operations."""
    _, whole, real, phased = _joined(kernel.table, kernel.lines, kernel.timing.branch_bubble, code, access, rows)
    made = {name: np.ascontiguousarray(whole[:, k]) for k, name in enumerate(WHOLE)}
    made |= {name: np.ascontiguousarray(real[:, k]) for k, name in enumerate(REAL)}
    return made | {name: np.ascontiguousarray(phased[:, k].T) for k, name in enumerate(PHASED)}


def _play(kernel: Kernel, plan: Schedule, keep: int) -> SmRun:
    """Play the CTAs of one SM, the longest run of stretches cut to `keep`."""
    key = (kernel.runs[0], keep)
    if key not in kernel.made:
        kernel.made[key] = _ready(kernel, keep)
    streams, numbers, head = kernel.made[key]
    run = play(kernel, plan, streams, numbers)
    stalls = np.stack([np.bincount(head, column, len(kernel.table.kind)) for column in run.stalls.T], axis=1)
    return replace(run, stalls=stalls)


def _ready(kernel: Kernel, keep: int) -> tuple[Streams, np.ndarray, np.ndarray]:
    """Operations as streams, the machine, and the instruction that each operation begins with."""
    followed = kernel.runs[0]
    cta = followed.pack(keep)
    made = make_operations(kernel, cta, followed.rows)
    count = len(made.head)
    numbers = parameters(kernel)
    numbers[8] = 0.0  # bubbles stand in the operations' stalls
    lines = len(np.unique(kernel.lines[followed.counts > 0]))
    numbers[9] *= lines / max(len(np.unique(made.columns["code_line"])), 1)  # only the first line of an operation is looked up
    access = np.where(made.columns["access"] >= 0, np.arange(count), -1).astype(np.int32)
    columns = {**made.columns, "code": np.arange(count, dtype=np.int32), "access": access}
    return Streams(columns, made.start, made.length, cta.roles), numbers, made.head
