"""The `tile` fidelity of any Triton kernel: the program as operations on tiles, on the machine of the cycle simulation.

Between two points at which a warp waits (a scoreboard, a barrier, an mbarrier, a group of copies or of matrix instructions) its
instructions need nothing of one another but the order that the compiler gave them. What a warp does there of one class (arithmetic, matrix
products, copies, loads, shared memory) is its part of one tile operation: it is issued as one operation, which takes the pipes, the queues
and the bytes of all its instructions, and stands for the sum of their stall counts. So the engine of `core` plays out a few times fewer
steps, and loops and waves are cut shorter. Occupancy, waves, L2 sharing, clock and bytes are the very functions of the cycle simulation.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from ...arch import System
from ...mapping.triton import Launch, compile_launch
from . import core, isa
from .core_state import BUBBLE, FETCH_INTERVAL
from .distinct import count_of
from .grid import Kernel, Schedule, SmRun, Streams, access_columns, add, kept, parameters, play, run_grid
from .operations import PHASED, REAL, WHOLE, joined_stream
from .run import simulate_kernel
from .streams import KEPT, Cta

#: Waves that are played.
WAVES: Final = 2


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

    What a wave adds comes from `WAVES` and one less, what iterations add from `KEPT` and half as many; in a later wave as in the first,
    unless L2 holds for it what the first one brought. Where warps do not come out even on the four sub-cores, slots take turns on them, and
    as many waves are added as it takes until they do. A CTA that has its SM to itself meets what the one before it stores, which the first
    does not: there it is one wave more.
    """
    times, keep, fewer = kept(kernel, KEPT)
    cut, turn = times > keep, 4 // math.gcd(4, plan.slots * kernel.compiled.num_warps)
    at_once = WAVES - 1 if turn == 1 and plan.slots > 1 else WAVES
    if plan.waves <= max(WAVES, at_once + turn - 1):
        at_once = plan.waves
    alike = not cut or not _later_waves_differ(kernel, plan)
    last, later = plan.last / plan.slots, (plan.waves - at_once) / turn
    spent = 0

    def played(number: int, iterations: int) -> SmRun:
        nonlocal spent
        run = _play(kernel, replace(plan, waves=number), iterations)
        spent += round(run.issued)
        return run

    one = played(at_once, keep)
    half = played(at_once, fewer) if cut else one
    extra, iterations = (times - keep) / (keep - fewer) if cut else 0.0, add(one, half, -1.0)
    if not later:
        return add(one, iterations, extra), spent
    two = played(at_once + turn, fewer if cut else keep)
    wave = add(two, half, -1.0)
    if alike:  # a later wave's iterations are those of the first ones
        return add(add(one, wave, later), iterations, extra + (extra + cut) * turn * later / (at_once + last)), spent
    both = played(at_once + turn, keep)
    steady = add(add(both, two, -1.0), iterations, -1.0)
    return add(add(add(one, iterations, extra), add(both, one, -1.0), later), steady, extra * later), spent


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


def make_operations(kernel: Kernel, cta: Cta, rows: Mapping[str, np.ndarray]) -> Operations:
    """The operations of every stream; `rows` as `grid.access_columns` gives them."""
    table, amounts = kernel.table, _amounts(rows)
    room = sum(map(len, cta.code))
    number = np.empty(room, np.int64)
    whole, real, phased = np.empty((len(WHOLE), room), np.int64), np.empty((len(REAL), room)), np.empty((len(PHASED), 3, room))
    edges = [0]
    for code, access in zip(cta.code, cta.access, strict=True):
        edges.append(edges[-1] + _joined(table, kernel.lines, kernel.timing.branch_bubble, code, access, amounts, number, edges[-1], whole,
                                         real, phased))
    columns = dict(zip(WHOLE, whole[:, :edges[-1]], strict=True)) | dict(zip(REAL, real[:, :edges[-1]], strict=True))
    columns |= zip(PHASED, np.ascontiguousarray(phased[:, :, :edges[-1]]), strict=True)
    start = np.array(edges, dtype=np.int64)
    return Operations(columns, columns.pop("head"), start[:-1], start[1:] - start[:-1])


def group_operations(table: isa.IsaTable, code: np.ndarray) -> np.ndarray:
    """Number of the operation that each position of one warp's stream belongs to, rising in order of first appearance.

    Parameters
    ----------
    code
        int64: indices into the listing, as one warp issues them.
    """
    nothing: dict[str, np.ndarray] = {name: np.zeros(1) for name in REAL[1:]}
    nothing |= {name: np.zeros((3, 1)) for name in PHASED} | {name: np.zeros(1, np.int64) for name in ("sync_slot", "sync_value")}
    n = len(code)
    number = np.empty(n, np.int64)
    _joined(table, np.zeros(len(table.kind), np.int64), 0.0, code, np.full(n, -1), _amounts(nothing), number, 0,
            np.empty((len(WHOLE), n), np.int64), np.empty((len(REAL), n)), np.empty((len(PHASED), 3, n)))
    return number


def _amounts(rows: Mapping[str, np.ndarray]) -> tuple[np.ndarray, ...]:
    """The access table as `operations.join_stream` takes it."""
    return (np.array([rows[name] for name in REAL[1:]]), np.array([rows[name] for name in PHASED], order="C"), rows["sync_slot"],
            rows["sync_value"])


def _joined(table: isa.IsaTable, lines: np.ndarray, bubble: float, code: np.ndarray, access: np.ndarray, amounts: tuple[np.ndarray, ...],
            number: np.ndarray, base: int, whole: np.ndarray, real: np.ndarray, phased: np.ndarray) -> int:
    return int(joined_stream(
        code, access, table.kind, table.pipe, table.interval, table.latency, table.stall, table.yields, table.write_barrier,
        table.read_barrier, table.wait_mask, table.first, table.second, lines, *amounts, bubble, number, base, whole, real, phased))


def _play(kernel: Kernel, plan: Schedule, keep: int) -> SmRun:
    """Play the CTAs of one SM, the longest run of stretches cut to `keep`."""
    key = (kernel.runs[0], keep)
    if key not in kernel.made:
        kernel.made[key] = _ready(kernel, keep)
    streams, numbers, order, begins, heads = kernel.made[key]
    run = play(kernel, plan, streams, numbers)
    stalls = np.zeros((len(kernel.table.kind), run.stalls.shape[1]))
    stalls[heads] = np.add.reduceat(run.stalls[order], begins, axis=0)
    return replace(run, stalls=stalls)


def _ready(kernel: Kernel, keep: int) -> tuple[Streams, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Operations as streams, the machine, and operations by the instruction that each begins with: in order, where each begins, which."""
    followed = kernel.runs[0]
    shared = followed, 0
    if shared not in kernel.made:
        kernel.made[shared] = access_columns(kernel, followed.rows), count_of(kernel.lines[followed.counts > 0])
    rows, lines = kernel.made[shared]
    cta = followed.pack(keep)
    made = make_operations(kernel, cta, rows)
    count = len(made.head)
    numbers = parameters(kernel, keep)
    numbers[BUBBLE] = 0.0  # bubbles stand in the operations' stalls
    numbers[FETCH_INTERVAL] *= lines / max(count_of(made.columns["code_line"]), 1)  # only the first line of an operation is looked up
    access = np.where(made.columns["access"] >= 0, np.arange(count), -1).astype(np.int32)
    columns = {**made.columns, "code": np.arange(count, dtype=np.int32), "access": access}
    order = np.argsort(made.head, kind="stable")
    heads = made.head[order]
    fresh = np.ones(len(heads), np.bool_)
    np.not_equal(heads[1:], heads[:-1], out=fresh[1:])
    begins = np.flatnonzero(fresh)
    return Streams(columns, made.start, made.length, cta.roles), numbers, order, begins, heads[begins]
