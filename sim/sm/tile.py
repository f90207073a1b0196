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
from .result import KernelRun
from .run import grid_result, prepare, simulate_kernel
from .streams import Cta, Rows, pack_cta

#: Iterations of a long loop that are played (twice: so many, and half as many), and waves.
KEEP: Final = 16
WAVES: Final = 2

_PLAIN: Final = np.array([isa.MATH, isa.BRANCH])
#: Kinds whose instructions go together; all others stand alone.
_JOINED: Final = np.array([isa.MATH, isa.BRANCH, isa.SHARED, isa.LOAD, isa.STORE, isa.ASYNC_COPY, isa.QUEUED, isa.WGMMA, isa.LATENCY])
_ARITHMETIC: Final = np.array([isa.PIPE[name] for name in ("none", "fma", "alu", "imad", "half", "uniform", "branch")])


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
    kernel, plan = prepare(compiled, launch, system, occupancy, warm_l2)
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
    counts = kernel.grid.instruction_counts * (total.ctas / kernel.launch.programs)
    stalls = total.stalls.copy()
    stalls[:, core.SELECTED] = counts
    busy = total.busy.copy()
    for number in range(len(isa.PIPES)):
        here = kernel.table.pipe == number
        busy[number] = float((counts * kernel.table.interval)[here].sum())
    return replace(total, stalls=stalls, busy=busy, issued=float(counts.sum())), spent


def _all_waves(kernel: Kernel, plan: Schedule) -> tuple[SmRun, int]:
    """All waves and all iterations of CTAs that are alike.

    What a wave adds comes from `WAVES` and one less, what iterations add from `KEEP` and half as many.
    """
    times, keep, fewer = kept(kernel, KEEP)
    waves = min(plan.waves, WAVES)
    total = _play(kernel, replace(plan, waves=waves), keep)
    one, spent, at_once = total, round(total.issued), waves
    if plan.waves > waves:
        one = _play(kernel, replace(plan, waves=waves - 1), keep)
        total, spent, at_once = add(total, add(total, one, -1.0), plan.waves - waves), spent + round(one.issued), waves - 1
    if times <= keep:
        return total, spent
    half = _play(kernel, replace(plan, waves=at_once), fewer)
    extra = (times - keep) / (keep - fewer)
    last = plan.last / plan.slots
    extra *= (plan.waves + last) / (at_once + last)
    return add(total, add(one, half, -1.0), extra), spent + round(half.issued)


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


def group_operations(table: isa.IsaTable, code: np.ndarray) -> np.ndarray:
    """Number of the operation that each position of one warp's stream belongs to, rising in order of first appearance.

    Parameters
    ----------
    code
        int64: indices into the listing, as one warp issues them.
    """
    kind, pipe = table.kind[code], table.pipe[code]
    alone = ~np.isin(kind, _JOINED)
    ends = alone | ((kind == isa.WGMMA) & (table.second[code] == 1))
    opens = (table.wait_mask[code] != 0) | alone
    opens[1:] |= ends[:-1]
    window = np.cumsum(opens)
    write, read = table.write_barrier[code] + 1, table.read_barrier[code] + 1
    plain = np.isin(kind, _PLAIN) & np.isin(pipe, _ARITHMETIC) & (write == 0) & (read == 0)
    others = np.cumsum(~plain)
    starts = np.flatnonzero(np.diff(window, prepend=window[0] - 1))
    behind = others - (others - ~plain)[starts][window - window[0]] > 0  # another operation of the window has begun
    key = np.where(plain, behind.astype(np.int64), 2 + (((kind * len(isa.PIPES) + pipe) * 7 + write) * 7 + read))
    _, first, inverse = np.unique(window * 100_000 + key, return_index=True, return_inverse=True)
    rank = np.empty(len(first), dtype=np.int64)
    rank[np.argsort(first, kind="stable")] = np.arange(len(first))
    return rank[inverse.reshape(-1)]


def make_operations(kernel: Kernel, cta: Cta, rows: Rows) -> Operations:
    """The operations of every stream."""
    table_rows = access_columns(kernel, rows)
    parts = [_operations(kernel, code.astype(np.int64), access.astype(np.int64), table_rows)
             for code, access in zip(cta.code, cta.access, strict=True)]
    length = np.array([len(part["head"]) for part in parts], dtype=np.int64)
    columns = {name: np.concatenate([part[name] for part in parts], axis=-1) for name in parts[0]}
    return Operations(columns, columns.pop("head"), np.cumsum(length) - length, length)


def _operations(kernel: Kernel, code: np.ndarray, access: np.ndarray, rows: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Columns of one stream's operations."""
    table, timing = kernel.table, kernel.timing
    group = group_operations(table, code)
    n = int(group.max()) + 1
    order = np.argsort(group, kind="stable")
    edges = np.searchsorted(group[order], np.arange(n))
    kind, pipe = table.kind[code], table.pipe[code]
    stall = table.stall[code].astype(np.float64)
    stall[:-1] += np.where(code[1:] != code[:-1] + 1, timing.branch_bubble, 0.0)

    def total(values: np.ndarray) -> np.ndarray:
        return np.bincount(group, weights=values, minlength=n)

    def last(values: np.ndarray) -> np.ndarray:
        return values[order][np.append(edges[1:], len(order)) - 1]

    def any_of(values: np.ndarray) -> np.ndarray:
        return np.bitwise_or.reduceat(values[order], edges)

    head = code[order][edges]
    plain = np.isin(kind, _PLAIN) & np.isin(pipe, _ARITHMETIC) & (table.write_barrier[code] < 0) & (table.read_barrier[code] < 0)
    is_plain = plain[order][edges]
    interval = total(table.interval[code])
    by_pipe = np.zeros(n)
    for number in np.unique(pipe[plain]):
        by_pipe = np.maximum(by_pipe, total(np.where(plain & (pipe == number), table.interval[code], 0.0)))
    stalls = np.round(total(stall)).astype(np.int64)
    # when the operation's last instruction really issues, against the operation's own start
    offset = np.cumsum(stall) - stall
    own = np.cumsum(stalls) - stalls
    late = np.maximum(0, last(offset) - own - np.where(is_plain, 0.0, interval - last(table.interval[code]))).astype(np.int64)
    made: dict[str, np.ndarray] = {
        "head": head, "kind": kind[order][edges], "pipe": np.where(is_plain, isa.PIPE["fma"], pipe[order][edges]),
        "interval": np.where(is_plain, np.maximum(by_pipe, total(np.ones(len(code)))), interval),
        "latency": last(table.latency[code]) + late, "stall": stalls, "yields": last(table.yields[code]),
        "write_barrier": table.write_barrier[head], "read_barrier": table.read_barrier[head], "wait_mask": any_of(table.wait_mask[code]),
        "first": np.where(kind[order][edges] == isa.WGMMA, total(table.first[code].astype(float)).astype(np.int64), table.first[head]),
        "second": last(table.second[code]), "code_line": kernel.lines[head],
    }
    has = access >= 0
    row = np.where(has, access, len(rows["smem"]) - 1)
    for name in ("smem", "tags", "l2_bytes", "l1_passes"):
        made[name] = total(rows[name][row])
    lead = row[order][edges]
    made["sync_slot"] = np.where(lead < len(rows["smem"]) - 1, rows["sync_slot"][lead], -1)
    made["sync_value"] = rows["sync_value"][lead]
    made["load_latency"] = np.maximum.reduceat(rows["load_latency"][:, row][:, order], edges, axis=1) + late
    for name in ("slice_bytes", "dram_bytes"):
        made[name] = np.stack([total(rows[name][phase][row]) for phase in range(3)])
    made["access"] = np.where(total(has.astype(float)) > 0, 0, -1).astype(np.int32)
    return made


def _play(kernel: Kernel, plan: Schedule, keep: int) -> SmRun:
    """Play the CTAs of one SM, the longest run of stretches cut to `keep`."""
    followed = kernel.runs[0]
    cta = pack_cta(followed, keep)
    made = make_operations(kernel, cta, followed.rows)
    count = len(made.head)
    numbers = parameters(kernel)
    numbers[8] = 0.0  # bubbles stand in the operations' stalls
    lines = len(np.unique(kernel.lines[followed.run.instruction_counts > 0]))
    numbers[9] *= lines / max(len(np.unique(made.columns["code_line"])), 1)  # only the first line of an operation is looked up
    access = np.where(made.columns["access"] >= 0, np.arange(count), -1).astype(np.int32)
    columns = {**made.columns, "code": np.arange(count, dtype=np.int32), "access": access}
    run = play(kernel, plan, Streams(columns, made.start, made.length, cta.roles), numbers)
    by_instruction = np.zeros((len(kernel.table.kind), len(core.REASONS)))
    np.add.at(by_instruction, made.head, run.stalls)
    return replace(run, stalls=by_instruction)
