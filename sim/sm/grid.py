"""Whole grids from one SM: which CTAs it runs, under which share of the memory system, and how few of them need be simulated."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Final

import numpy as np

from ...arch import System
from ...arch.sm_timing import SmTiming
from ...errors import KernelError
from ...mapping.triton import CompiledKernel, Evaluation, Launch, evaluate
from ...mapping.triton.access import LINE_BYTES
from . import isa
from .classes import Classes, Samples, program_ids
from .core import DEADLOCK, REASONS, compiled_core
from .core import run_sm as core_function
from .core_state import FIRST_DRAW
from .dispatch import dispatch
from .facts import CodeFacts, GridCounts
from .isa import IsaTable
from .l2 import PIECE_BYTES, SLICE_BYTES
from .operations import PHASED
from .refresh import N_DELAYS, delays
from .sharing import Sharing
from .streams import CtaStreams, Rows

#: By kind of instruction: whether it asks memory for lines.
_REQUESTS: Final = np.isin(np.arange(isa.BULK_GROUP + 1), (isa.LOAD, isa.STORE, isa.ASYNC_COPY, isa.BULK_LOAD, isa.BULK_STORE))
#: Warp-instructions that are simulated one by one before loops and waves are cut.
BUDGET = 400_000
#: Iterations of a long loop that are simulated (twice: so many, and half as many).
KEEP = 48
#: Share of what comes from DRAM, all such accesses together, for which it does not matter what lies beside it.
FEW = 0.01
#: The core's parameters, in order.
_CORE = tuple(inspect.signature(core_function).parameters)


@dataclass(frozen=True)
class Schedule:
    """What the busiest SM runs.

    Attributes
    ----------
    slots
        CTAs resident at once.
    ctas
        CTAs in all, one after another.
    waves
        Full waves before the last.
    last
        CTAs of the last, partial wave (0: none) on this SM.
    last_share
        Factor by which the SM's share of L2 and DRAM is larger in it.
    share
        The same factor for all CTAs.
    """

    slots: int
    waves: int
    last: int
    last_share: float
    share: float = 1.0

    @property
    def ctas(self) -> int:
        """CTAs that the SM runs."""
        return self.waves * self.slots + self.last


def schedule(programs: int, sms: int, slots: int) -> Schedule:
    """CTAs of the busiest SM: dealt breadth first, refilled as they end.

    Examples
    --------
    >>> schedule(programs=300, sms=100, slots=2)
    Schedule(slots=2, waves=1, last=1, last_share=1.0, share=1.0)
    """
    waves, rest = divmod(programs, sms * slots)
    last = -(-rest // sms)
    return Schedule(slots, waves, last, last * sms / rest if rest else 1.0)


@dataclass(frozen=True)
class SmRun:
    """One run of the core: clocks, and sums over the CTAs that it simulated.

    Where CTAs differ, sums are those of a mean SM (so that `ctas` is a fraction), and `idle` is the share of the clocks in which it has
    no CTA.
    """

    ctas: float
    cycles: float
    issued: float
    l2_bytes: float
    dram_bytes: float
    smem_passes: float
    l1_bytes: float
    busy: np.ndarray
    stalls: np.ndarray
    spans: np.ndarray
    idle: float = 0.0


@dataclass(frozen=True, eq=False)
class FollowedLaunch:
    """A launch whose CTAs were followed.

    Attributes
    ----------
    grid
        Counts of the whole grid.
    runs
        The CTAs that stand for the classes of `samples`.
    classes, samples
        CTAs by the way they go, and which stand for all.
    share
        What they share in L2.
    facts
        The code.
    """

    grid: GridCounts
    runs: tuple[CtaStreams, ...]
    classes: Classes
    samples: Samples
    share: Sharing
    facts: CodeFacts


@dataclass(frozen=True)
class Kernel:
    """What does not change between runs of the core.

    `written_back` is what L2 writes to DRAM of lines of before, by byte that the kernel moves; `made` keeps what was made of a CTA cut to
    so many stretches.
    """

    compiled: CompiledKernel
    launch: Launch
    grid: GridCounts
    system: System
    timing: SmTiming
    facts: CodeFacts
    runs: tuple[CtaStreams, ...]
    classes: Classes
    samples: Samples
    share: Sharing
    l1_bytes: float
    clock_hz: float
    written_back: float = 0.0
    made: dict[tuple[CtaStreams, int], Any] = field(default_factory=dict)

    @property
    def table(self) -> IsaTable:
        """Instructions as the SM sees them."""
        return self.facts.table

    @property
    def lines(self) -> np.ndarray:
        """The 128-byte line of code of each."""
        return self.facts.lines

    @cached_property
    def l2_bytes_each(self) -> np.ndarray:
        """float64 by instruction: bytes between SM and L2 of an access of a warp, mean of the rows that it has."""
        index = np.concatenate([np.array(run.rows.instruction, dtype=np.int64) for run in self.runs])
        size = np.concatenate([np.array(run.rows.l2_bytes) for run in self.runs])
        count = len(self.grid.counts)
        return np.bincount(index, size, count) / np.maximum(np.bincount(index, minlength=count), 1)


def rates(kernel: Kernel) -> tuple[float, float]:
    """Bytes a clock of one SM's share of L2 and of DRAM."""
    system = kernel.system
    calibration = system.calibration
    sms = system.gpu.sm.count
    l2 = system.gpu.l2.bytes_per_clk * calibration["memory.l2_efficiency"] / sms
    dram = dram_bytes_per_s(kernel) / sms / kernel.clock_hz
    return l2, dram


def dram_bytes_per_s(kernel: Kernel) -> float:
    """Bandwidth of DRAM that the kernel's mix of reads and writes can keep up.

    A bus that goes from reading to writing and back loses time: most, `dram_turnaround`, where half of the bytes are written.
    """
    moved, written = dram_moved(kernel, kernel.share.dram[1])
    share = (written / max(moved, 1.0) + kernel.written_back) / (1.0 + kernel.written_back)
    loss = kernel.timing.dram_turnaround * 4.0 * share * (1.0 - share)
    return float(kernel.system.dram.bandwidth_bytes_per_s * kernel.timing.dram_steady * (1.0 - loss))


def dram_moved(kernel: Kernel, shares: np.ndarray) -> tuple[float, float]:
    """Bytes of the whole grid that DRAM brings or takes, and those that it takes, where `shares` of what each instruction asks for do."""
    moved = shares * kernel.l2_bytes_each * kernel.grid.counts
    return float(moved.sum()), float(moved[(kernel.table.kind == isa.STORE) | (kernel.table.kind == isa.BULK_STORE)].sum())


def parameters(kernel: Kernel, keep: int | None = None) -> np.ndarray:
    """The core's `numbers` but the first draw, for runs in which the longest run of stretches is cut to `keep`."""
    t = kernel.timing
    l2, dram = rates(kernel)
    gpu = kernel.system.gpu
    delivered = t.l2_delivered * gpu.l2.bytes_per_clk / gpu.sm.count
    return np.array([t.lsu_interval, t.address_interval, t.memory_queue, l2, dram, t.sm_port, delivered, t.operand_read,
                     t.barrier_latency, t.branch_bubble, t.fetch_interval, t.cta_launch, t.async_launch, t.tma_latency, t.mbarrier_latency,
                     t.wgmma_latency, gpu.l2.latency_clk, t.wgmma_depth, t.tensor_ahead, t.bank_buffer,
                     gpu.l2.far_bytes_per_clk / gpu.sm.count, left_of_loops(kernel, keep),
                     t.dram_refresh * 1e-9 * kernel.clock_hz, 0.0, *delays(t)])


def left_of_loops(kernel: Kernel, keep: int | None) -> float:
    """Share of the longest run of stretches that is left where it is cut to `keep`."""
    period = kernel.runs[0].period
    return 1.0 if keep is None or period is None else min(1.0, keep / max(period.times, 1))


@dataclass(frozen=True)
class Streams:
    """What the warps of one CTA do, as the core takes it.

    Attributes
    ----------
    columns
        Columns of the instructions and of the access rows, and `code` and `access`, by the name of `core.run_sm`'s parameter.
    start, length
        int64 by stream.
    warps
        Stream of each warp.
    """

    columns: Mapping[str, np.ndarray]
    start: np.ndarray
    length: np.ndarray
    warps: tuple[int, ...]

    @cached_property
    def waiting(self) -> np.ndarray:
        """int64 of shape (phases, streams): requests for lines that wait for DRAM."""
        access = self.columns["access"]
        asks = np.flatnonzero(_REQUESTS[self.columns["kind"][self.columns["code"]]] & (access >= 0))
        lines = self.columns["dram_lines"]
        so_far = np.zeros((len(lines), len(asks) + 1), np.int64)
        np.cumsum(lines[:, access[asks]] > 0, axis=1, out=so_far[:, 1:])
        begin, end = (np.searchsorted(asks, at) for at in (self.start, self.start + self.length))
        return np.asarray(so_far[:, end] - so_far[:, begin])


def play(kernel: Kernel, plan: Schedule, streams: Streams, numbers: np.ndarray, *, record: bool = False) -> SmRun:
    """Let one SM run the CTAs of a schedule, all of them alike.

    Parameters
    ----------
    numbers
        The machine, as `parameters` gives it.
    record
        Keep the timeline.

    Raises
    ------
    KernelError
        Warps wait for one another for ever.
    """
    n = plan.ctas
    phase = np.where(np.arange(n) < plan.slots, 0, 1).astype(np.int64)
    share = np.full(n, plan.share)
    if plan.last:
        phase[-plan.last:] = 2 if plan.waves else 0
        share[-plan.last:] *= plan.last_share
    rows = len(streams.columns["kind"])
    busy, stalls = np.zeros(len(isa.PIPES) + len(isa.UNITS)), np.zeros((rows, len(REASONS)))
    spans = np.zeros((20_001 if record else 1, 4), np.int64)
    numbers = numbers.copy()
    numbers[FIRST_DRAW] = -requests_that_wait(streams, phase) % N_DELAYS
    given: dict[str, Any] = {
        **streams.columns, "stream_start": streams.start, "stream_length": streams.length,
        "template_stream": np.array([streams.warps], np.int64), "cta_template": np.zeros(n, np.int64), "cta_phase": phase,
        "cta_share": share, "slots": plan.slots, "numbers": numbers, "end_times": np.zeros(n, np.int64),
        "first_issue": np.zeros(n, np.int64), "busy": busy, "stalls": stalls, "spans": spans,
    }
    got = compiled_core()(*(given[name] for name in _CORE))
    if got[0] == DEADLOCK:
        raise KernelError(f"{kernel.compiled.source_file}:{kernel.compiled.source_line}: {kernel.launch.name}: warps wait for one another "
                              f"at clock {got[1]} and none can go on")
    return SmRun(n, float(got[1]), float(got[2]), float(got[3]), float(got[4]), float(got[5]), float(got[6]), busy, stalls,
                 spans[1:1 + spans[0, 0]])


def requests_that_wait(streams: Streams, phase: np.ndarray) -> int:
    """How often CTAs of these phases ask for lines that wait for DRAM.

    Runs draw from one sequence so that all end with its last draw: what more iterations or waves take is then not what the last of them
    happens to wait.
    """
    by_stream = np.bincount(phase, minlength=len(streams.waiting)) @ streams.waiting
    return int(by_stream[list(streams.warps)].sum())


def access_columns(kernel: Kernel, rows: Rows) -> dict[str, np.ndarray]:
    """The access table's columns, by the name of the core's parameter; one empty row stands behind them."""
    names = ("smem", "tags", "l2_bytes", "l1_passes", "atomics")
    made = {name: np.array([*getattr(rows, name), 0.0]) for name in names}
    made |= {name: np.array([*getattr(rows, name), 0], dtype=np.int64) for name in ("sync_slot", "sync_value")}
    index = np.array(rows.instruction, dtype=np.int64)
    for number in np.flatnonzero(kernel.table.kind[index] == isa.TCGEN).tolist():
        made["l1_passes"][number] /= 4 * kernel.facts.rate[index[number]]
    costs = memory_costs(kernel, index, *(made[name][:-1] for name in ("l2_bytes", "l1_passes", "tags", "atomics")))
    for name, cost in zip(PHASED, costs, strict=True):
        made[name] = np.ascontiguousarray(np.concatenate([cost, np.zeros((3, 1))], axis=1))
    few = kernel.share.serving[index]
    each = kernel.timing.atomic_interval * kernel.system.gpu.sm.count
    made["atomics"][:-1] *= np.divide(each, few, out=np.zeros(len(few)), where=few > 0)
    return made


def run_ctas(kernel: Kernel, plan: Schedule, *, keep: int | None = None, record: bool = False) -> SmRun:
    """Simulate the CTAs of one SM, all like the first of `kernel.runs`; the longest run of stretches cut to `keep`."""
    followed = kernel.runs[0]
    cta, table = followed.pack(keep), kernel.table
    length = np.array([len(stream) for stream in cta.code], dtype=np.int64)
    columns = {name: getattr(table, name) for name in IsaTable.__dataclass_fields__}
    columns |= {**access_columns(kernel, followed.rows), "code": np.concatenate(cta.code), "access": np.concatenate(cta.access),
                "code_line": kernel.lines}
    streams = Streams(columns, np.concatenate([[0], np.cumsum(length)[:-1]]).astype(np.int64), length, cta.roles)
    return play(kernel, plan, streams, parameters(kernel, keep), record=record)


def memory_costs(kernel: Kernel, index: np.ndarray, l2_bytes: np.ndarray, l1_passes: np.ndarray, tags: np.ndarray,
                 atomics: np.ndarray) -> tuple[np.ndarray, ...]:
    """Bytes of L2's slices and of DRAM, those for which DRAM is taken, bytes between L2's partitions, lines that wait for DRAM, and
    load-to-use latency, by phase and access row.

    A slice of L2 gives 64 bytes a clock, to a request of fewer as well. DRAM brings 64 bytes of a line at a time, and what is shorter than
    it could move between two activations (`dram_access`) takes as long, unless the CTAs that run together read what lies beside it at the
    same time. Of what is written L2 makes lines first. Atomics take their slice for a sector that is read and one that is written, pass by
    pass.

    A request waits for the last of its lines. `dram.latency` is what pointer chases see, a mean over lines whose home is the partition that
    is asked and lines that come over the link; of a request of several lines one nearly always does.
    """
    gpu, share = kernel.system.gpu, kernel.share
    near = gpu.l2.latency_clk
    kind = kernel.table.kind[index]
    store = (kind == isa.STORE) | (kind == isa.BULK_STORE)
    ratio = kernel.clock_hz / gpu.clock.boost_hz
    dram = kernel.system.dram.latency_clk * ratio + near * (1 - ratio)
    piece = piece_bytes(l2_bytes, l1_passes, tags, store)
    asked_lines = l2_bytes / np.minimum(piece, LINE_BYTES)
    link, at_home = gpu.l2.far_latency_clk - near, 1.0 / gpu.l2.partitions
    last = dram + link * (at_home - at_home ** np.maximum(asked_lines, 1.0))
    behind = near + share.missing[:, index] * (last - near) + share.far[:, index] * link
    latency = np.where(l2_bytes > 0, np.where(store, near, behind), kernel.timing.l1_latency)
    short = np.minimum(piece, PIECE_BYTES)
    from_dram = (1.0 + kernel.written_back) * share.dram[:, index] * l2_bytes
    each = from_dram.max(axis=0) * kernel.grid.counts[index]
    many = beyond_few(each)
    lone = share.lone_halves(index[(short < PIECE_BYTES) & many], len(kernel.grid.counts))[index]
    side = share.side_by_side(index[(piece < kernel.timing.dram_access) & many], len(kernel.grid.counts))[index]
    brought = from_dram * PIECE_BYTES / (PIECE_BYTES - (PIECE_BYTES - short) * lone)
    takes = brought * np.maximum(1.0, kernel.timing.dram_access / np.maximum(np.maximum(piece, side), PIECE_BYTES))
    slices = np.where(store, 1.0, share.l2[:, index]) * l2_bytes * PIECE_BYTES / short
    lines = np.where(store, 0.0, share.missing[:, index] * asked_lines)
    return np.maximum(slices, SLICE_BYTES * atomics), brought, takes, share.crossing[:, index] * l2_bytes, lines, latency


def beyond_few(amounts: np.ndarray) -> np.ndarray:
    """All but the smallest, which together are `FEW` of the sum at most: each of many equal ones counts, however many there are.

    Examples
    --------
    >>> int(beyond_few(np.full(1000, 64.0)).sum()) > 900, beyond_few(np.array([1e6, 1.0])).tolist()
    (True, [True, False])
    """
    order = np.argsort(amounts, kind="stable")
    found = np.empty(len(amounts), np.bool_)
    found[order] = np.cumsum(amounts[order]) > FEW * amounts.sum()
    return found


def piece_bytes(l2_bytes: np.ndarray, l1_passes: np.ndarray, tags: np.ndarray, store: np.ndarray) -> np.ndarray:
    """Bytes of a line that a request asks for, what L1 held included; a whole line where its lines are not known."""
    whole = store | (tags <= 0) | (l2_bytes <= 0)
    return np.where(whole, LINE_BYTES, np.minimum(np.maximum(l2_bytes, l1_passes * LINE_BYTES) / np.where(whole, 1.0, tags), LINE_BYTES))


def add(one: SmRun, other: SmRun, times: float) -> SmRun:
    """one + times * other, field by field."""
    parts = {name: getattr(one, name) + times * getattr(other, name) for name in SmRun.__dataclass_fields__ if name != "spans"}
    return SmRun(**parts, spans=one.spans)


def run_sm(kernel: Kernel, plan: Schedule, *, record: bool = False) -> tuple[SmRun, int]:
    """All CTAs of the busiest SM, and how many warp-instructions were simulated for it.

    Small launches are simulated whole. Of longer ones the loops are cut to `KEEP` iterations and to half as many, and the waves to three
    and to two: what an iteration and what a wave adds in the steady state is the difference.
    """
    if int(kernel.runs[0].counts.sum()) * plan.ctas <= BUDGET:
        whole = run_ctas(kernel, plan, record=record)
        return whole, round(whole.issued)
    waves = min(plan.waves, 3)
    total, spent = _whole_loops(kernel, replace(plan, waves=waves), record)
    if plan.waves > waves:
        fewer, more = _whole_loops(kernel, replace(plan, waves=waves - 1), False)
        total, spent = add(total, add(total, fewer, -1.0), plan.waves - waves), spent + more
    return total, spent


def _whole_loops(kernel: Kernel, plan: Schedule, record: bool) -> tuple[SmRun, int]:
    """All iterations of some waves, from runs of about `KEEP` and of half as many."""
    times, keep, fewer = kept(kernel, KEEP)
    one = run_ctas(kernel, plan, keep=keep, record=record)
    if times <= keep:
        return one, round(one.issued)
    half = run_ctas(kernel, plan, keep=fewer)
    return add(one, add(one, half, -1.0), (times - keep) / (keep - fewer)), round(one.issued + half.issued)


def kept(kernel: Kernel, iterations: int) -> tuple[int, int, int]:
    """How often the longest run of stretches repeats, how many hold about so many iterations, and about half as many."""
    period = kernel.runs[0].period
    if period is None:
        return 0, 1, 0
    keep = max(2, -(-iterations // period.iterations))
    return period.times, keep, keep // 2


def run_grid(kernel: Kernel, plan: Schedule, one_class: Callable[[Kernel, Schedule], tuple[SmRun, int]]) -> tuple[SmRun, int]:
    """The whole grid, and how many warp-instructions were simulated for it.

    Where all CTAs are alike, those of the busiest SM. Else each sampled class is simulated in the company of its like (as many as an SM
    has at most, with the share of L2 and DRAM that so many have of all at work), classes between two samples take what lies between, and
    all CTAs are dealt to the SMs in order of launch.

    Parameters
    ----------
    one_class
        Simulates all CTAs of a schedule, all of one class.
    """
    if len(kernel.classes) == 1:
        return one_class(kernel, plan)
    sms = int(kernel.system.gpu.sm.count)
    classes, weights = kernel.classes, kernel.samples.weights
    guess = dispatch(classes.number, classes.work, classes.work, classes.work, sms=sms, slots=plan.slots)
    company, share = guess.most, sms / guess.active_sms
    crowded = max(1.0, sms * company / guess.resident)  # bandwidth goes to CTAs that ask, not to SMs
    cold, warm, alone, spent = [], [], [], 0
    for run in kernel.runs:
        mine = replace(kernel, runs=(run,))
        one, more = one_class(mine, Schedule(company, 1, 0, 1.0, crowded))
        spent += more
        cold.append(one)
        if kernel.launch.programs > sms * plan.slots:
            two, more = one_class(mine, Schedule(company, 2, 0, 1.0, crowded))
            spent += more
            warm.append(add(two, one, -1.0))
        else:
            warm.append(one)
        if company > 1:
            single, more = one_class(mine, Schedule(1, 1, 0, 1.0, share))
            spent += more
            alone.append(single.cycles * warm[-1].cycles / one.cycles)
        else:
            alone.append(warm[-1].cycles)
    clocks = [weights @ np.array([part.cycles for part in parts]) for parts in (cold, warm)]
    placed = dispatch(classes.number, clocks[0], clocks[1], weights @ np.array(alone), sms=sms, slots=plan.slots, company=company)
    early = np.bincount(classes.number[:sms * plan.slots], minlength=len(classes))
    total = replace(cold[0], **_scaled(cold[0], 0.0))
    for times, parts in ((early @ weights, cold), ((classes.count - early) @ weights, warm)):
        for number, part in zip(times.tolist(), parts, strict=True):
            total = add(total, part, number / company / sms)
    return replace(total, cycles=placed.makespan, idle=1.0 - placed.active_sms / sms), spent


def _scaled(run: SmRun, factor: float) -> dict[str, Any]:
    return {name: getattr(run, name) * factor for name in SmRun.__dataclass_fields__ if name != "spans"}


def follow(compiled: CompiledKernel, launch: Launch, classes: Classes, samples: Samples) -> tuple[Evaluation, ...]:
    """Traces of the CTAs that stand for the sampled classes."""
    return tuple(evaluate(compiled, launch, program_ids(launch, [int(classes.representative[number])]), trace=True, close=True)
                 for number in samples.classes)
