"""What `tile` needs of a launch, without following every thread: warps that stand for all, in compiled code.

One warp of one CTA is followed with all its lanes; two lanes of each other warp say which warps do as it does. A lane that takes part in
everything stands for its warp in other CTAs. If its way does not depend on
the program id, all CTAs go the same way; else one lane of each is followed for control. What CTAs share in L2 is found from one lane of
each CTA. A kernel that the interpreter of `mapping.triton.warp_machine` does not know (see there) is followed as `cycle` does it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Final

import numpy as np

from ...arch import System
from ...arch.sm_timing import sm_timing
from ...mapping.triton import CompiledKernel, Launch, evaluate
from ...mapping.triton.access import BANK_BYTES, BANKS, LINE_BYTES, SECTOR_BYTES
from ...mapping.triton.bytecode import KINDS, SPACES
from ...mapping.triton.memory_ops import ATOMIC, COPY, GLOBAL, LOAD, LOCAL
from ...mapping.triton.memory_ops import SHARED as SHARED_SPACE
from ...mapping.triton.parameters import parameters_of
from ...mapping.triton.warp_records import COUNT, TALLY, TOUCH
from ...mapping.triton.warp_runs import NotFollowedError, WarpRun, Warps
from . import isa
from .addresses import by_wave
from .classes import Classes, classes_of, middle_cta, program_ids, sample, single, spread_sample
from .distinct import among, count_of, distinct_of, distinct_rows
from .facts import GridCounts, tensor_flops
from .footprint import STRETCHES, Footprint, joined, size_of
from .grid import FollowedLaunch
from .l2 import L2Cache
from .light_barriers import Boxes, cut_together, events_of, stretch_of
from .light_code import light_code
from .light_streams import Warp, WarpStreams, cut_all_runs, step_keys, turns_of
from .loads import Loads
from .sharing import sharing
from .streams import ROUNDS, Rows, find_period
from .walked import WAVES_WALKED, Walk, bytes_each, sharing_of_walks

#: CTAs that are followed for control, and for what they share in L2.
CLASS_CTAS: Final = 1024
SHARING_CTAS: Final = 1600
#: Accesses of warps that stand for all of a launch.
WALKED: Final = 16_384
#: Of a CTA that copies in bulk, so many accesses at least: a box is large, and few of them would not tell its pace.
BOXES: Final = 256
_SPACE: Final = {name: n for n, name in enumerate(SPACES)}
_READING: Final = [KINDS.index(name) for name in (LOAD, COPY)]
_ATOMIC: Final = KINDS.index(ATOMIC)


class LightLaunch:
    """A launch whose warps are followed in compiled code.

    Parameters
    ----------
    told
        Follow what shared memory holds, as `Warps` has it.

    Raises
    ------
    NotFollowedError
        The interpreter does not know the kernel.
    """

    def __init__(self, compiled: CompiledKernel, launch: Launch, system: System, *, told: bool = True) -> None:
        if launch.assume:
            raise NotFollowedError
        self.compiled, self.launch, self.made = compiled, launch, light_code(compiled, system, sm_timing(system.generation))
        self.facts, self.code = self.made.facts, self.made.full
        self.bank, maps = parameters_of(compiled, launch)
        self.boxes = Boxes(compiled, maps)
        self.full, self.told = Warps(self.code, launch, self.bank, told=told), told
        self.axes, self.lanes = np.zeros(3, dtype=bool), (1 << 32) - 1
        self.assumed: dict[int, list[tuple[int, int]]] = {}  # by where ways were assumed, steps and number of the CTAs
        self.leaves_known = False
        self.followed: dict[tuple[int, int], WarpRun] = {}  # by number of the CTA and the warp
        self.ctas: dict[int, tuple[tuple[int, ...], np.ndarray, dict[int, WarpRun]]] = {}  # by number of the CTA
        self.owner: dict[int, int] = {}  # by instruction the first warp that accesses memory with it
        self.begun: tuple[list[int], dict[int, np.ndarray]] = [], {}  # instructions, and first addresses of all CTAs, if ever asked for

    # -- one CTA -----------------------------------------------------------------------------------------------------------

    def follow(self, number: int, l1_bytes: float) -> tuple[tuple[int, ...], np.ndarray, dict[int, WarpRun]]:
        """The CTA's warps, followed once: by warp the first that does the same, `_alike`'s shares, and what those warps do."""
        if number in self.ctas:
            return self.ctas[number]
        count, ids = self.compiled.num_warps, program_ids(self.launch, [number])[0]
        lead = self._run(number, ids, 0, l1_bytes / count)
        roles, distinct = (0,) * count, np.ones(len(self.code.space))
        if count > 1 and (lead.on_thread or self.code.cached[np.maximum(lead.accesses[:, 1], 0)].any()):
            roles, distinct, begins = self._alike(ids, count)
            self._share_windows(lead, begins, distinct, l1_bytes)
        runs = {warp: self._run(number, ids, warp, l1_bytes / count) for warp in dict.fromkeys(roles)}
        self.axes |= np.any([run.on_program for run in runs.values()], axis=0)
        self.leaves_known |= any(run.leaves_known for run in runs.values())
        if where := int(np.bitwise_or.reduce([run.assumed for run in runs.values()])):
            self.assumed.setdefault(where, []).append((len(lead.steps), number))
        if self.assumed and self.leaves_known:
            raise NotFollowedError  # what was assumed, another warp's values might tell
        self.lanes &= self._lanes_of(lead)
        if not self.lanes:
            raise NotFollowedError
        for warp, run in runs.items():
            for index in distinct_of(np.concatenate([run.accesses[:, 1], run.bulks[:, 1]])).tolist():
                self.owner.setdefault(index, warp)
        self.ctas[number] = roles, distinct, runs
        return self.ctas[number]

    def cta(self, number: int, l1_bytes: float) -> tuple[WarpStreams, Loads, np.ndarray, dict[int, int]]:
        """The CTA's streams, what it reads, how often its warps enter each segment, and its matrix instructions with a guard."""
        roles, distinct, followed = self.follow(number, l1_bytes)
        leaders, runs = list(followed), list(followed.values())
        times = [roles.count(warp) for warp in leaders]
        rows, slots = Rows(), dict[int, int]()
        warps = tuple(self._warp(run, rows, slots, distinct) for run in runs)
        if slots:
            kinds = self.facts.table.kind
            cut = cut_together([stretch_of(warp.period, warp.at, warp.row, rows, kinds) for warp in warps])
            warps = tuple(replace(warp, period=period) for warp, period in zip(warps, cut, strict=True))
        warps = cut_all_runs(warps, inner=not slots)
        periods = {warp.period.times for warp in warps if warp.period is not None}
        period = next(warp.period for warp in warps if warp.period is not None) if len(periods) == 1 else None
        entered = sum((run.counts * n for run, n in zip(runs, times, strict=True)), np.zeros(len(self.facts.first), dtype=np.int64))
        streams = WarpStreams(self.facts, rows, period, self._counts(entered), tuple(leaders.index(warp) for warp in roles), warps)
        return streams, self._loads(number, runs, times, l1_bytes, distinct), entered, self._matrices(runs, times)

    def _run(self, number: int, ids: np.ndarray, warp: int, l1_bytes: float) -> WarpRun:
        """A warp of the CTA of this number with every step and access, followed once."""
        if (number, warp) not in self.followed:
            self.followed[number, warp] = self.full.one(ids, warp, l1_bytes=l1_bytes, pieces=True)
        return self.followed[number, warp]

    def _lanes_of(self, run: WarpRun) -> int:
        """Lanes, as bits, that take part wherever one does that touches global memory."""
        index = run.accesses[:, 1]
        reads = run.accesses[(index >= 0) & (self.code.space[np.maximum(index, 0)] == _SPACE[GLOBAL]), 8]
        return int(np.bitwise_and.reduce(reads, initial=(1 << 32) - 1))

    def _alike(self, ids: np.ndarray, count: int) -> tuple[tuple[int, ...], np.ndarray, dict[int, np.ndarray]]:
        """By warp the first that does the same; by instruction the share of the warps that begin with an address of their own; and by
        instruction that looks into L1 these addresses.
        """
        found = self.full.across(ids, count)
        times, begins = found.tally[:, :, 0], found.tally[::2, :, 1]
        barriers = found.tally[:, np.flatnonzero(self.code.space[self.code.noted] < 0), 1]
        whole = np.concatenate([found.counts, times, barriers], axis=1).reshape(count, -1)
        first = {row.tobytes(): n for n, row in reversed(list(enumerate(whole)))}
        distinct, own = np.ones(len(self.code.space)), {}
        for place in np.flatnonzero(self.code.cached[self.code.noted]).tolist():
            instruction, mine = int(self.code.noted[place]), begins[times[::2, place] > 0, place]
            if len(mine):
                distinct[instruction] = count_of(mine // SECTOR_BYTES) / len(mine)
                own[instruction] = mine
        return tuple(first[row.tobytes()] for row in whole), distinct, own

    def _share_windows(self, lead: WarpRun, begins: dict[int, np.ndarray], distinct: np.ndarray, l1_bytes: float) -> None:
        """Lower `distinct` where loads of one buffer are shifted windows of it, so that what one warp has brought into L1 is another's too.

        It shows where another warp begins a load within what the first reads by other loads; then the sectors of all warps, each once, are
        what the CTA asks L2 for, if L1 holds them together.
        """
        if len(begins) < 2 or not len(lead.pieces):
            return
        index = lead.accesses[lead.pieces[:, 0], 1]
        among_windows = set[int]()
        for one, mine in begins.items():
            others = (index != one) & self.code.cached[index]
            low, high = joined(lead.pieces[others, 1], lead.pieces[others, 2])
            at = mine[mine != mine[0]] // SECTOR_BYTES
            inside = np.searchsorted(low, at, side="right") - 1
            if len(low) and ((inside >= 0) & (at < high[inside])).any():
                among_windows.add(one)
        for buffer in self.launch.buffers:
            loads = [i for i, mine in begins.items() if buffer.start <= mine[0] < buffer.start + buffer.size_bytes]
            if not among_windows & set(loads) or np.count_nonzero(among(index, loads)) * max(len(begins[i]) for i in loads) > STRETCHES:
                continue
            starts, stops, asked = list[np.ndarray](), list[np.ndarray](), 0.0
            for load in loads:  # every warp reads what the first one does, by as much further on as it begins
                mine, at = begins[load], index == load
                moves = distinct_of(mine // SECTOR_BYTES - mine[0] // SECTOR_BYTES)[:, None]
                starts.append((lead.pieces[at, 1] + moves).reshape(-1))
                stops.append((lead.pieces[at, 2] + moves).reshape(-1))
                asked += len(mine) * SECTOR_BYTES * float(lead.accesses[lead.accesses[:, 1] == load, 7].sum())
            once = SECTOR_BYTES * size_of(*joined(np.concatenate(starts), np.concatenate(stops)))
            if 0 < once <= l1_bytes and asked:
                distinct[loads] = np.minimum(distinct[loads], once / asked)

    def _counts(self, entered: np.ndarray) -> np.ndarray:
        return self.facts.by_instruction(entered)

    def _warp(self, run: WarpRun, rows: Rows, slots: dict[int, int], distinct: np.ndarray) -> Warp:
        """Accesses of a warp as rows of costs."""
        c = self.code
        step, instruction, passes = run.accesses[:, :3].T
        copied = instruction < 0
        behind = np.zeros(len(c.space))
        if copied.any():
            which = -1 - instruction[copied]
            behind = np.bincount(which, passes[copied], len(c.space)) / np.maximum(np.bincount(which, minlength=len(c.space)), 1)
        main = np.flatnonzero(~copied)
        step, instruction = step[main], instruction[main]
        columns = run.accesses[main][:, [1, 2, 3, 4, 5, 7]]
        picks, inverse = distinct_rows(columns)
        numbers = []
        for index, pass_, sector, line, lane, miss in columns[picks].tolist():
            space, size = c.space[index], float(c.size[index])
            if space == _SPACE[SHARED_SPACE]:
                numbers.append(rows.find(index, smem=float(pass_)))
            elif space == _SPACE[LOCAL]:
                numbers.append(rows.find(index, tags=1.0, l1_passes=size * 32 / LINE_BYTES))
            elif behind[index]:
                numbers.append(rows.find(index, smem=behind[index], tags=float(line), l2_bytes=float(sector * SECTOR_BYTES)))
            else:
                data = max(lane * size / (BANKS * BANK_BYTES), sector * SECTOR_BYTES / LINE_BYTES)
                atomics = 0.0
                if c.kind[index] == _ATOMIC:
                    if lane > 1 and lane * size != sector * SECTOR_BYTES:
                        raise NotFollowedError  # lanes may share an address: all of them have to be known
                    atomics = float(sector)
                numbers.append(rows.find(index, tags=float(line), l2_bytes=float(miss * SECTOR_BYTES) * distinct[index], l1_passes=data,
                                         atomics=atomics))
        row = np.array(numbers, dtype=np.int64)[inverse]
        keys = step_keys(run, step, row)
        period = find_period(keys)
        if len(run.syncs):
            found = events_of(run, rows, self.facts.table.kind, slots, self.boxes)
            step, instruction, row = (np.concatenate(pair) for pair in zip((step, instruction, row), found, strict=True))
            order = np.argsort(step, kind="stable")
            step, instruction, row = step[order], instruction[order], row[order]
            keys = step_keys(run, step, row)
            rounds = find_period(keys, at_least=ROUNDS) if period is not None else None
            if period is not None and rounds is not None:
                rounds = replace(rounds, iterations=max(1, round(rounds.length / period.length)))
            period = rounds
        return Warp(run.steps.astype(np.int64), step, instruction, row, period, keys)

    def _loads(self, number: int, runs: Sequence[WarpRun], times: Sequence[int], l1_bytes: float, distinct: np.ndarray) -> Loads:
        """What the CTA of this number reads and writes."""
        c, buffers = self.code, self.launch.buffers
        count = len(c.space)
        sectors, executed, begins = np.zeros(count), np.zeros(count), np.full(count, -1)
        passed = np.zeros(count)
        low, high = np.full(count, np.iinfo(np.int64).max), np.full(count, -1)
        for run, n in zip(reversed(runs), reversed(times), strict=True):
            index, size, first = run.accesses[:, 1], run.accesses[:, 3], run.accesses[:, 6]
            mine = index >= 0
            sectors += n * np.bincount(index[mine], size[mine], count)
            passed += n * np.bincount(index[mine], np.where(c.cached[index[mine]], run.accesses[mine, 7], size[mine]), count)
            executed += n * self._counts(run.counts)
            begins[index[mine][::-1]] = first[mine][::-1]
            np.minimum.at(low, index[mine], first[mine])
            np.maximum.at(high, index[mine], first[mine])
        sides: tuple[dict[int, float], dict[int, float]] = ({}, {})
        storage: dict[int, tuple[int, int]] = {}
        for at in np.flatnonzero((c.space == _SPACE[GLOBAL]) & (sectors > 0)).tolist():
            sides[int(c.kind[at] not in _READING)][at] = float(sectors[at]) * SECTOR_BYTES
            behind = next((b for b in buffers if b.start <= begins[at] < b.start + b.size_bytes), None)
            if behind is not None:
                storage[at] = (behind.start, behind.size_bytes)
        warps = self.compiled.num_warps
        executed /= warps
        boxes: dict[int, int] = {}
        for run, n in zip(runs, times, strict=True):
            inside, _ = self.boxes.bytes_of(run.bulks)
            for at in distinct_of(run.bulks[:, 1]).tolist():
                copies = np.flatnonzero(run.bulks[:, 1] == at)
                side, tensor = sides[int(self.facts.table.kind[at] != isa.BULK_LOAD)], self.boxes.tensor(int(run.bulks[copies[0], 3]))
                side[at] = side.get(at, 0.0) + float(n * inside[copies].sum())
                boxes[at] = boxes.get(at, 0) + n * len(copies)
                storage[at] = (tensor.buffer.start, tensor.buffer.size_bytes)
        # without holes (`_warp`), from the first address to the last
        atomics = {at: np.arange(low[at], high[at] + LINE_BYTES, SECTOR_BYTES) for at in sides[1] if c.kind[at] == _ATOMIC}
        return Loads(count, sides[0], {at: float(boxes.get(at) or executed[at]) for side in sides for at in side}, frozenset(boxes),
                     sides[1], storage, partial(self.footprint, l1_bytes), number,
                     {at: (int(low[at]), int(high[at])) for side in sides for at in side if at not in boxes},
                     {at: float(passed[at] * distinct[at]) * SECTOR_BYTES for side in sides for at in side if at not in boxes},
                     atomics=atomics, glimpse=partial(self.footprint, l1_bytes, number, warps=2))

    def footprint(self, l1_bytes: float, number: int, warps: int = 32) -> Footprint | None:
        """What the CTA of this number in order of launch reads and writes, all its warps (or so many) at one pace."""
        count, ids = self.compiled.num_warps, program_ids(self.launch, [number])[0]
        load, pace, start, stop, turn = [], [], [], [], []
        asked = np.zeros(len(self.code.space))
        for warp in range(min(count, warps)):
            run = self._run(number, ids, warp, l1_bytes / count)
            if not len(run.pieces):
                continue
            access, low, high = run.pieces.T
            size = high - low
            done = np.cumsum(size)
            load.append(run.accesses[access, 1])
            turn.append(turns_of(run.accesses[:, 1])[access])
            pace.append((done - size) / done[-1])
            start.append(low)
            stop.append(high)
            first = np.append(True, access[1:] != access[:-1])
            asked += np.bincount(load[-1][first], run.accesses[access[first], 7], len(asked)) * SECTOR_BYTES
        if not load or sum(map(len, load)) > STRETCHES:
            return None
        whole = [np.concatenate(part) for part in (load, pace, start, stop, turn)]
        if warps >= count and len(load) > 1:
            order = np.argsort(whole[1], kind="stable")
            whole = [part[order] for part in whole]
        met = np.flatnonzero(np.bincount(whole[0], minlength=len(asked))).tolist()
        return Footprint(whole[0], whole[1], whole[2], whole[3], {index: float(asked[index]) for index in met}, whole[4])

    def _matrices(self, runs: Sequence[WarpRun], times: Sequence[int]) -> dict[int, int]:
        """Executions of matrix instructions that have a guard."""
        which = np.flatnonzero((self.facts.matrix > 0) & self.facts.guarded).tolist()
        return {index: sum(int(run.matrices[index]) * n for run, n in zip(runs, times, strict=True)) for index in which}

    def assumptions(self) -> tuple[str, ...]:
        """What only data could tell of the way of CTAs: of each set of places, the shortest of those that were followed says it."""
        if not self.assumed:
            return ()
        ids = program_ids(self.launch, [min(ctas)[1] for ctas in self.assumed.values()])
        return tuple(map(str, evaluate(self.compiled, self.launch, ids, addresses=False, close=True).assumptions))

    @property
    def lane(self) -> int:
        """The lane that stands for its warp in other CTAs."""
        return (self.lanes & -self.lanes).bit_length() - 1

    # -- all CTAs ----------------------------------------------------------------------------------------------------------

    def classes(self) -> Classes:
        """CTAs by their way: followed is one of each place on the axes of the grid on which the way depends."""
        grid = self.launch.grid
        short = (grid[0] if self.axes[0] else 1, grid[1] if self.axes[1] else 1, grid[2] if self.axes[2] else 1)
        picks, stands = spread_sample(short[0] * short[1] * short[2], CLASS_CTAS)
        x, y, z = (np.where(on, place, n // 2) for on, place, n in zip(
            self.axes, (picks % short[0], picks // short[0] % short[1], picks // (short[0] * short[1])), grid, strict=True))
        warps = Warps(self.made.control, self.launch, self.bank, told=self.told)
        found = warps.many(np.stack([x, y, z], axis=1), COUNT, lane=self.lane).counts
        if (found == found[0]).all():
            return single(grid)
        at = program_ids(self.launch, np.arange(self.launch.programs)) * self.axes
        owner = stands[at[:, 0] + short[0] * (at[:, 1] + short[1] * at[:, 2])]
        return classes_of(grid, x + grid[0] * (y + grid[1] * z), found, self.facts.size, owner)

    def _by_owner(self, loads: Sequence[int]) -> Iterator[tuple[int, list[int]]]:
        """Warps that stand for all, and the accesses that each stands for."""
        for warp in sorted({self.owner.get(index, 0) for index in loads}):
            yield warp, [index for index in loads if self.owner.get(index, 0) == warp]

    def first(self, numbers: np.ndarray, loads: Sequence[int]) -> dict[int, np.ndarray]:
        """First addresses of CTAs, by instruction."""
        if self.begun[1] and self.begun[0] == loads:
            return {index: begins[numbers] for index, begins in self.begun[1].items()}
        warps, ids = Warps(self.made.reads, self.launch, self.bank, told=self.told), program_ids(self.launch, numbers)
        found: dict[int, np.ndarray] = {}
        for warp, mine in self._by_owner(loads):
            tally = warps.many(ids, TALLY, mine, warp=warp, lane=self.lane, repeats=1, most=240).tally
            begins = np.ascontiguousarray(np.where(tally[:, :, 0] > 0, tally[:, :, 1], -1).T)
            found |= dict(zip(mine, begins, strict=True))
        if np.array_equal(numbers, np.arange(self.launch.programs)):
            self.begun = list(loads), found
        return found

    def walks(self, asked: Sequence[Loads], thin: int, waves: Sequence[np.ndarray], loads: Sequence[int]) -> list[Walk]:
        """Addresses of some waves of CTAs, as `addresses.walks` has them, of one sector (or box) in ``1 << thin``; and their pace."""
        warps, ids = Warps(self.made.reads, self.launch, self.bank, told=self.told), program_ids(self.launch, np.concatenate(waves))
        weight = np.zeros(len(self.code.space), np.int64)
        for size in (bytes_each(asked, lambda part: part.stores), bytes_each(asked, lambda part: part.of_l2(part.sizes))):
            weight[list(size)] = np.round(list(size.values()))
        touched = np.concatenate([np.zeros((0, 4), np.int64), *(
            warps.many(ids, TOUCH, mine, warp=warp, lane=self.lane, thin=thin, weight=weight).touched
            for warp, mine in self._by_owner(loads))])
        touched = touched[np.argsort(touched[:, 0], kind="stable")]
        key = np.where(self.code.space[touched[:, 1]] >= 0, touched[:, 2] // SECTOR_BYTES, touched[:, 2])
        parts = by_wave(touched[:, 1], touched[:, 0], key, waves)
        edges = np.cumsum([len(part[0]) for part in parts])[:-1]
        return [(*part, pace) for part, pace in zip(parts, np.split(touched[:, 3], edges), strict=True)]


def follow_lightly(compiled: CompiledKernel, launch: Launch, system: System, l2: L2Cache, *, together: int,
                   l1_bytes: float) -> FollowedLaunch:
    """What the core needs of a launch.

    Raises
    ------
    NotFollowedError
        The interpreter does not know the kernel.
    """
    if any(buffer.data is not None for buffer in launch.buffers):
        return _followed(LightLaunch(compiled, launch, system, told=True), l2, together, l1_bytes)
    light = LightLaunch(compiled, launch, system, told=False)
    try:
        return _followed(light, l2, together, l1_bytes)
    except NotFollowedError:  # where something known was left in shared memory, and something unknown decided
        if not light.code.shared_words:
            raise
    return _followed(LightLaunch(compiled, launch, system, told=True), l2, together, l1_bytes)


def _followed(light: LightLaunch, l2: L2Cache, together: int, l1_bytes: float) -> FollowedLaunch:
    launch, middle = light.launch, middle_cta(light.launch.grid)
    light.follow(middle, l1_bytes)
    classes = single(launch.grid)
    if light.axes.any() and launch.programs > 1:
        classes = light.classes()
    samples = sample(classes)
    found = [light.cta(int(classes.representative[number]), l1_bytes) for number in samples.classes]
    counted = classes.count @ samples.weights
    if len(classes) == 1:
        wanted = [*found[0][1].sizes, *found[0][1].stores]
        share = sharing(launch, found[0][1], lambda numbers: light.first(numbers, wanted), l2, together=together, most=SHARING_CTAS)
    else:
        asked = [part[1] for part in found]
        each = max(sum(part.times.values()) for part in asked)
        thin = max(0, int(np.log2(max(each * min(together * len(WAVES_WALKED), launch.programs) / WALKED, 1.0))))
        if any(part.boxes for part in asked):
            thin = min(thin, max(0, int(np.log2(max(each / BOXES, 1.0)))))
        share = sharing_of_walks(launch, asked, partial(light.walks, asked, thin), l2, thinned=0.5**thin, together=together,
                                 work=classes.work[classes.number], first=lambda numbers: light.first(
                                     numbers, sorted({index for part in asked for index in part.sizes})))
    guarded: dict[int, int] = {}
    entered = np.zeros(len(light.facts.first))
    for part, n in zip(found, counted.tolist(), strict=True):
        entered += part[2] * n
        for index, times in part[3].items():
            guarded[index] = guarded.get(index, 0) + round(times * n)
    counts = light.facts.by_instruction(entered)
    grid = GridCounts(counts, tensor_flops(light.facts, counts, guarded), light.assumptions())
    return FollowedLaunch(grid, tuple(part[0] for part in found), classes, samples, share, light.facts)
