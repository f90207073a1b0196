"""Warps of CTAs followed in compiled code: what `warp_machine` needs of a kernel and a launch, and what it says of them."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import numpy as np

from ... import native
from .access import in_l1
from .assumptions import Chooser
from .bytecode import ENDS, KINDS, SPACES, Bytecode, bytecode_of
from .launch import Launch
from .memory_ops import transposed_of
from .program import Program
from .told import Told
from .values import Unknown
from .warp_machine import machine
from .warp_records import (
    ACCESS_COLUMNS,
    ASSUMED,
    BULK,
    BULK_COLUMNS,
    COUNT,
    DONE,
    ENOUGH,
    FULL,
    ON_THREAD,
    ON_X,
    ON_Y,
    ON_Z,
    ONE_TRIP,
    RECORD,
    SYNC,
    SYNC_COLUMNS,
    TALLY,
    TOUCH,
)

#: Steps and touches that there is room for at first; a run that needs more is done again.
_ROOM, _TOUCHES = 4096, 1 << 16
#: Lanes whose values the processor's cache holds.
_AT_ONCE: Final = 1024
#: How matrices lie in shared memory: `MemoryOp.rows` aside, what `cta_machine` wants to know of LDSM and STSM.
_MATRICES: Final = {False: 0, True: 1, None: 2}
#: Places of L1 that sectors are told apart by.
_PLACES: Final = 1 << 15


#: Bytes of an array that are kept for the next run, and shapes that are remembered.
_KEPT_BYTES, _VIEWS = 1 << 24, 512


class _Desk(threading.local):
    """Arrays that runs of one thread fill one after another: memory that the system need not clear and map anew."""

    def __init__(self) -> None:
        self.held: dict[str, np.ndarray] = {}
        self.views: dict[tuple[str, tuple[int, ...]], np.ndarray] = {}
        self.zeros: dict[str, np.ndarray] = {}

    def array(self, name: str, shape: tuple[int, ...], dtype: Any = np.int64, fill: int | None = None) -> np.ndarray:
        """An array of some shape (one type a name), with whatever it holds where `fill` is not given."""
        found = self.views.get((name, shape))
        if found is None:
            found = self._made(name, shape, dtype)
        if fill is not None:
            found.fill(fill)
        return found

    def cleared(self, name: str, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        """An array of zeros; who has filled it puts zeros there again and says so by `clean`: that is less than all of it."""
        found = self.array(name, shape, dtype)
        if found.nbytes > _KEPT_BYTES:
            found.fill(0)
        elif self.zeros.pop(name, None) is not self.held[name]:
            self.held[name].fill(0)
        return found

    def clean(self, name: str, array: np.ndarray) -> None:
        """An array that `cleared` gave holds zeros again."""
        if array.nbytes <= _KEPT_BYTES:
            self.zeros[name] = self.held[name]

    def _made(self, name: str, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        size = math.prod(shape) * np.dtype(dtype).itemsize
        if size > _KEPT_BYTES:
            return np.empty(shape, dtype)
        if name not in self.held or len(self.held[name]) < size:
            self.held[name] = np.empty(size, np.uint8)
            self.views = {key: view for key, view in self.views.items() if key[0] != name}
        if len(self.views) >= _VIEWS:
            self.views.clear()
        made = self.views[name, shape] = self.held[name][:size].view(dtype).reshape(shape)
        return made


_DESK: Final = _Desk()


class NotFollowedError(Exception):
    """The compiled interpreter does not know how to go on: `follow.evaluate` does."""


@dataclass(frozen=True, eq=False)
class WarpCode:
    """A kernel as the interpreter takes it.

    Attributes
    ----------
    bytecode
        Its operations.
    ends, after, target, forced, where
        By segment; see `warp_machine.run_warp`.
    space, kind, size, rows, signed
        By instruction: its memory access, `space` -1 for none; of matrices in shared memory `signed` says how they lie (see
        `cta_shared.in_shared`).
    cached
        By instruction: it looks into L1.
    spills
        Words of local memory that values may come back from, a power of two.
    threads
        Of a CTA.
    shared_words, reserved_words
        Words of shared memory where what it holds is followed (else 0), and of those at its start that the system clears.
    """

    bytecode: Bytecode
    ends: np.ndarray
    after: np.ndarray
    target: np.ndarray
    forced: np.ndarray
    where: np.ndarray
    space: np.ndarray
    kind: np.ndarray
    size: np.ndarray
    rows: np.ndarray
    signed: np.ndarray
    cached: np.ndarray
    spills: int
    threads: int
    shared_words: int
    reserved_words: int

    @cached_property
    def looks_into_l1(self) -> bool:
        """Whether any instruction does."""
        return bool(self.cached.any())

    @cached_property
    def noted(self) -> np.ndarray:
        """int64: instructions that access memory, touch mbarriers or copy in bulk."""
        code, noted = self.bytecode.code, self.space >= 0
        noted[code[(code[:, 0] == BULK) | (code[:, 0] == SYNC), 5]] = True
        return np.flatnonzero(noted)


def warp_code(program: Program) -> WarpCode:
    """The arrays of a program.

    Raises
    ------
    NotFollowedError
        A cluster of CTAs, or nothing can be compiled here.
    """
    if program.compiled.num_ctas > 1 or not native.available():
        raise NotFollowedError
    segments, code = program.segments, program.listing.instructions
    chooser = Chooser(program)
    forced = np.full(len(segments), -1, np.int64)
    for segment in segments:
        loop, leaves = chooser.exit_of(segment)
        if loop is not None:
            at_top = not loop.waits and chooser.before_its_body(segment, loop, leaves)
            forced[segment.number] = leaves | (0 if loop.waits else ONE_TRIP if at_top else ASSUMED)
        elif segment.conditional:
            forced[segment.number] = chooser.branch(segment, Unknown("data"), None) | ASSUMED
    count = len(code)
    space, cached = np.full(count, -1, np.int64), np.zeros(count, np.bool_)
    kind, size, rows, signed = (np.zeros(count, np.int64) for _ in range(4))
    for index, op in program.memory_ops.items():
        space[index], kind[index] = SPACES.index(op.space), KINDS.index(op.kind)
        size[index], rows[index], signed[index] = op.thread_bytes, op.rows, code[index].has("S8", "S16")
        if op.rows:
            signed[index] = _MATRICES[transposed_of(code[index])]
        cached[index] = in_l1(op, code[index])
    return WarpCode(
        bytecode_of(program), np.array([ENDS.index(s.ends) for s in segments]),
        np.array([-1 if s.next is None else s.next for s in segments]),
        np.array([-1 if s.target is None else s.target for s in segments]), forced,
        np.array([code[s.first].address for s in segments]), space, kind, size, rows, signed, cached,
        1 << (program.compiled.stack_bytes // 4 + 1).bit_length() if program.plan.tracks_local else 1, program.threads,
        (program.shared_bytes + 4096) // 4 if program.plan.tracks_shared and _meet_as_one(program) else 0,
        256 if program.target >= 90 else 0)


def _meet_as_one(program: Program) -> bool:
    """Whether at every barrier all threads of the CTA wait for all."""
    barriers = [ins for ins in program.listing.instructions if ins.base == "BAR"]
    return all(ins.operands == ("0x0",) and "ARV" not in ins.modifiers for ins in barriers)


@dataclass(frozen=True, eq=False)
class WarpRun:
    """One warp of one CTA.

    Attributes
    ----------
    steps, masks
        int32 and int64: segments in order, and the lanes that execute each.
    accesses, syncs, bulks
        int64: columns as `warp_machine` names them.
    matrices
        int64 by instruction: executions of matrix instructions whose guard is dynamic.
    counts
        int64 by segment: how often the warp goes through it.
    pieces
        int64 of shape (n, 3), if asked for: access, first sector of a stretch in global memory, and the one behind its last.
    on_program, on_thread
        Whether its way depends on the program id's parts; whether that, or who takes part in an access, depends on the thread's
        number in the CTA.
    assumed, leaves_known
        Where data decided its way, so that one was assumed as `assumptions.Chooser` does (bits: segments modulo 62); whether it writes what
        is known to shared memory, where others might find it.
    """

    steps: np.ndarray
    masks: np.ndarray
    accesses: np.ndarray
    syncs: np.ndarray
    bulks: np.ndarray
    matrices: np.ndarray
    counts: np.ndarray
    pieces: np.ndarray
    on_program: tuple[bool, bool, bool]
    on_thread: bool
    assumed: int
    leaves_known: bool


@dataclass(frozen=True, eq=False)
class Lanes:
    """Lanes that were followed each for itself.

    Attributes
    ----------
    counts
        int64 of shape (lanes, segments): how often each goes through each segment; of no lane where it was not asked for.
    touched
        int64 of shape (n, 4): lane, instruction and address of accesses (of bulk copies a number for the box), in order, and the weights of
        all that the lane accessed before.
    tally
        int64 of shape (lanes, instructions wanted, 2): accesses, and the address of the first (of bulk copies a number for the box).
    """

    counts: np.ndarray
    touched: np.ndarray
    tally: np.ndarray


class Warps:
    """Follows warps of one launch.

    Parameters
    ----------
    code, launch
        The kernel and its launch.
    constants
        Constant bank 0, from `parameters.parameters_of`.
    told
        Follow what shared memory holds, where that may decide something; else what comes from it is not known.
    """

    def __init__(self, code: WarpCode, launch: Launch, constants: Any, *, told: bool = True) -> None:
        self.code, self.launch, self.equal = code, launch, constants.equal
        made = code.bytecode
        held = [(b.start, b.size_bytes, b.data) for b in launch.buffers if b.data is not None]
        places = np.cumsum([0, *(len(data) for _, _, data in held)])
        known = [(start, len(data), at) for (start, _, data), at in zip(held, places, strict=False)]
        self.buffers = np.array(known, np.uint64).reshape(-1, 3)
        self.data = np.concatenate([np.zeros(0, np.uint8), *(data for _, _, data in held)])
        self.threads, self.told = code.threads, Told(self) if told and code.shared_words else None
        self.nothing = np.zeros(len(code.space), np.int64)
        self.values, self.unknown = np.zeros(made.slots, np.uint64), np.zeros(made.slots, np.uint64)
        self.values[made.first_number:made.first_number + len(made.numbers)] = made.numbers
        for slot, offset in made.words.tolist():
            word = constants[offset]
            if type(word) is int:
                self.values[slot] = word
            else:
                self.unknown[slot] = ~np.uint64(0)

    def _run(self, lanes: np.ndarray, ctas: np.ndarray, thread: np.ndarray, ids: np.ndarray, mode: int, wanted: np.ndarray, repeats: int,
             most: int, room: tuple[int, int, int], l1_bytes: float = 0.0, thin: int = 0,
             pieces: bool = False, weight: np.ndarray | None = None,
             told: tuple[np.ndarray, np.ndarray] | None = None, counted: bool = True) -> tuple[int, dict[str, np.ndarray]]:
        """One run of the machine, with room for so many steps (and a few times as many other records), touches and CTAs' counts."""
        c = self.code
        made, slots, count, width = c.bytecode, c.bytecode.slots, len(c.space), len(lanes)
        desk = _DESK.array
        values, unknown = desk("values", (slots + 4, width), np.uint64), _DESK.cleared("unknown", (slots, width), np.uint64)
        values[:slots, 0], unknown[:, 0] = self.values, self.unknown
        same, taint, dark = np.ones(slots, np.bool_), np.zeros(slots, np.uint8), self.unknown != 0
        steps, touches, ctas_counted = room
        got: dict[str, np.ndarray] = {
            "steps": desk("steps", (steps,), np.int32), "masks": desk("masks", (steps,)),
            "accesses": desk("accesses", (4 * steps, ACCESS_COLUMNS)), "pieces": desk("pieces", (64 * steps if pieces else 0, 3)),
            "syncs": desk("syncs", (steps, SYNC_COLUMNS)), "bulks": desk("bulks", (steps, BULK_COLUMNS)),
            "counts": np.zeros((len(c.ends), ctas_counted if counted else 0), np.int64),
            "matrices": np.zeros(count, np.int64),
            "touched": desk("touched", (touches, 4)),
            "tally": np.zeros((int(wanted.max(initial=0)) if mode == TALLY else 0, 2, ctas_counted), np.int64),
        }
        memo, base, times, cost = (desk("memo", (2 * count, 32), np.uint64), desk("base", (2 * count,), np.uint64),
                                   np.zeros(2 * count, np.int64), desk("cost", (2 * count, 3)))
        sectors = desk("sectors", (2 * count, 160))
        local = desk("local", (c.spills, width, 3), np.uint64, 0)
        trips = desk("trips", (len(c.ends), width), np.bool_, 0)
        out = np.zeros(10, np.int64)
        seen = desk("seen", (_PLACES if mode == RECORD and c.looks_into_l1 else 1, 2), fill=-1)
        word = np.zeros(1, np.uint32)
        status = machine(
            made.code, made.registers, made.begin, made.end, made.condition, c.ends, c.after, c.target, c.forced, c.where, values, unknown,
            same, taint, dark, lanes, ctas, thread, ids, c.space, c.kind, c.size, c.rows, c.signed, self.buffers, self.data,
            c.cached, l1_bytes, self.equal, mode, wanted, repeats, most, thin,
            self.nothing if weight is None else weight, local, trips,
            *(told or (np.zeros((1, 0), np.uint64), np.zeros(width, np.int64))),
            *got.values(), memo, base, times, cost, sectors, seen, word, word.view(np.float32), out)
        unknown[dark] = 0  # by now the rows that hold unknown bits
        _DESK.clean("unknown", unknown)
        for name, number in zip(("steps", "accesses", "syncs", "bulks", "touched"), out[:5].tolist(), strict=True):
            got[name] = got[name][:number].copy()
        got["pieces"] = got["pieces"][:out[7]].copy()
        got["masks"], got["counts"], got["out"] = got["masks"][:out[0]].copy(), got["counts"].T, out
        return status, got

    def one(self, ids: np.ndarray, warp: int, *, l1_bytes: float = 0.0, most: int = 1_000_000, pieces: bool = False) -> WarpRun:
        """A warp of one CTA, with every step and access.

        Raises
        ------
        NotFollowedError
            See there.
        """
        room = _ROOM
        told = self.told.threads(ids, 32 * warp + np.arange(32), most) if self.told else None
        while True:
            nothing = np.zeros(1, np.int64)
            status, got = self._run(np.arange(32), np.zeros(32, np.int64), np.full(32, 32 * warp), ids.reshape(1, 3), RECORD, nothing, 0,
                                    most, (room, 1, 1), l1_bytes, pieces=pieces, told=told)
            if status != FULL:
                break
            room *= 8
        if status != DONE:
            raise NotFollowedError(status)
        on = got["out"][5]
        return WarpRun(got["steps"], got["masks"], got["accesses"], got["syncs"], got["bulks"], got["matrices"], got["counts"][0],
                       got["pieces"],
                       (bool(on & ON_X), bool(on & ON_Y), bool(on & ON_Z)), bool(on & ON_THREAD),
                       int(got["out"][8]), bool(got["out"][9]))

    def many(self, ids: np.ndarray, mode: int, wanted: Iterable[int] = (), *, warp: int = 0, lane: int = 0, repeats: int = 1 << 30,
             most: int = 1_000_000, thin: int = 0, weight: np.ndarray | None = None) -> Lanes:
        """One lane of a warp of many CTAs; only `COUNT` counts segments.

        Parameters
        ----------
        ids, mode, wanted
            Program ids; `COUNT`, `TALLY` or `TOUCH`; instructions whose accesses are recorded.
        warp, lane
            Their numbers.
        repeats, most
            Executions of an instruction, and segments, after which it is enough.
        thin
            Of touches, those of one sector in ``1 << thin`` are recorded.
        weight
            int64 by instruction: what an access counts in the sum behind each touch (by default nothing).

        Raises
        ------
        NotFollowedError
            See there.
        """
        if mode == TALLY and len(ids) > 2 * _AT_ONCE:
            chosen, starts = list(wanted), range(0, len(ids), _AT_ONCE)
            parts = [self.many(ids[at:at + _AT_ONCE], mode, chosen, warp=warp, lane=lane, repeats=repeats, most=most) for at in starts]
            return Lanes(parts[0].counts, parts[0].touched,
                         np.concatenate([part.tally.transpose(1, 2, 0) for part in parts], axis=2).transpose(2, 0, 1))
        return self._lanes(np.full(len(ids), lane), np.full(len(ids), 32 * warp), ids, mode, wanted, repeats, most, thin, weight,
                           counted=mode == COUNT)

    def across(self, ids: np.ndarray, warps: int, *, most: int = 1_000_000) -> Lanes:
        """The first and the last lane of every warp of one CTA, two rows a warp, and how often they access memory."""
        lanes, threads = np.tile([0, 31], warps), np.repeat(np.arange(warps) * 32, 2)
        wanted = self.code.noted.tolist()
        return self._lanes(lanes, threads, np.tile(ids.reshape(1, 3), (2 * warps, 1)), TALLY, wanted, 1 << 30, most)

    def _lanes(self, lanes: np.ndarray, threads: np.ndarray, ids: np.ndarray, mode: int, wanted: Iterable[int], repeats: int,
               most: int, thin: int = 0, weight: np.ndarray | None = None, *, counted: bool = True) -> Lanes:
        count = len(ids)
        mask = np.zeros(len(self.code.space), np.int64)
        chosen = list(wanted)
        mask[chosen] = np.arange(1, len(chosen) + 1)
        if count == 1:  # two at least, so that lanes count as warps
            lanes, threads, ids = np.tile(lanes, 2), np.tile(threads, 2), np.tile(ids, (2, 1))
        room = 64 * len(ids) + _TOUCHES if mode == TOUCH else 1
        # where few executions are wanted, no more than they take: twice through the code, once more for each of them
        enough = min(most, (min(repeats, most) + 2) * len(self.code.ends)) if mode != COUNT else most
        told = self.told.lanes(ids, threads + lanes, enough) if self.told else None
        while True:
            status, got = self._run(lanes, np.arange(len(ids)), threads, ids, mode, mask, repeats, most, (1, room, len(ids)), thin=thin,
                                    weight=weight, told=told, counted=counted)
            if status != FULL:
                break
            room *= 8
        if status > ENOUGH:
            raise NotFollowedError(status)
        touched = got["touched"]
        touched = touched if count == len(ids) else touched[touched[:, 0] < count]
        return Lanes(got["counts"][:count if counted else 0], touched, got["tally"].transpose(2, 0, 1)[:count])
