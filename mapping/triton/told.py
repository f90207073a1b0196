"""What threads of a CTA are told through shared memory and by their warps, once for all CTAs that are told the same."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from .cta_machine import cta_machine
from .warp_records import AT_INDIRECT, AT_RETURN, BALLOT, DONE, ENOUGH, FULL, IN_RANGE, IN_SHARED, LOAD_, ON_X, ON_Y, ON_Z, REDUCE, SHUFFLE

if TYPE_CHECKING:
    from .warp_runs import WarpCode, Warps

#: Words that a thread is told, at first and at most in all.
_ROOM: Final = 4096
_MOST_WORDS: Final = 1 << 26
#: Operations by which threads of a warp tell one another something.
_TELLING: Final = (SHUFFLE, IN_RANGE, BALLOT, REDUCE)
#: What stands where nothing was written down.
_END: Final = ~np.uint64(0)


class Told:
    """Follows all threads of CTAs for what they are told.

    CTAs whose program ids agree in the parts that control and all that is told depend on are told the same: one of them is followed.

    Parameters
    ----------
    warps
        The kernel and its launch.
    """

    def __init__(self, warps: Warps) -> None:
        self.warps = warps
        self.found: dict[tuple[tuple[bool, ...], tuple[int, ...], bytes, int], np.ndarray] = {}
        self.parts: list[tuple[bool, ...]] = []
        self.tells = _telling(warps.code)

    def threads(self, ids: np.ndarray, threads: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray]:
        """Words of these threads of one CTA, and by thread its row of them.

        Raises
        ------
        NotFollowedError
            `cta_machine` does not know how to go on.
        """
        everyone = np.arange(self._count)
        return self._of(ids.reshape(3), everyone, most), threads

    def lanes(self, ids: np.ndarray, threads: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray]:
        """Words of one thread of each of some CTAs, and by thread its row of them."""
        wanted = np.unique(threads)
        where = np.searchsorted(wanted, threads)
        parts: dict[int, int] = {}
        logs: list[np.ndarray] = []
        rows = np.empty(len(ids), np.int64)
        for n, place in enumerate(ids):
            log = self._of(place, wanted, most)
            if id(log) not in parts:
                parts[id(log)] = len(logs)
                logs.append(log)
            rows[n] = len(wanted) * parts[id(log)] + where[n]
        told = np.full((len(logs) * len(wanted), max(log.shape[1] for log in logs)), _END, np.uint64)
        for n, log in enumerate(logs):
            told[n * len(wanted):(n + 1) * len(wanted), :log.shape[1]] = log
        return told, rows

    @property
    def _count(self) -> int:
        return self.warps.threads

    def _of(self, ids: np.ndarray, threads: np.ndarray, most: int) -> np.ndarray:
        """uint64 of shape (threads, words): what these threads of a CTA are told."""
        place, which = ids.tolist(), threads.tobytes()
        for parts in self.parts:
            log = self.found.get((parts, _masked(place, parts), which, most))
            if log is not None:
                return log
        log, parts = self._follow(ids, threads, most)
        if parts not in self.parts:
            self.parts.append(parts)
        self.found[parts, _masked(place, parts), which, most] = log
        return log

    def _follow(self, ids: np.ndarray, threads: np.ndarray, most: int) -> tuple[np.ndarray, tuple[bool, ...]]:
        from .warp_runs import NotFollowedError

        code, room = self.warps.code, _ROOM
        made, count = code.bytecode, self._count
        rows = np.full(count, -1, np.int64)
        rows[threads] = np.arange(len(threads))
        while True:
            values, unknown = np.empty((made.slots + 4, count), np.uint64), np.zeros((made.slots, count), np.uint64)
            values[:made.slots, 0], unknown[:, 0] = self.warps.values, self.warps.unknown
            shared = np.zeros((code.shared_words, 3), np.uint64)
            shared[code.reserved_words:, 1] = np.uint64(0xFFFFFFFF)
            log, cursor, out = np.full((len(threads), room), _END, np.uint64), np.zeros(count, np.int64), np.zeros(2, np.int64)
            word = np.zeros(1, np.uint32)
            status = cta_machine(
                made.code, made.registers, made.begin, made.end, made.condition, code.ends, code.after, code.target, code.forced,
                code.where, values, unknown, np.ones(made.slots, np.bool_), np.zeros(made.slots, np.uint8), self.warps.unknown != 0,
                ids.reshape(1, 3), code.space, code.kind, code.size, code.rows, code.signed, self.warps.buffers, self.warps.data, most,
                np.zeros((code.spills, count, 3), np.uint64), np.zeros((len(code.ends), count), np.bool_), self.tells, shared,
                code.reserved_words, rows, cursor, word, word.view(np.float32), log, out)
            if status != FULL or room * len(threads) >= _MOST_WORDS:
                break
            room *= 4
        if status not in (DONE, ENOUGH):
            raise NotFollowedError(status)
        on = int(out[0])
        parts = (bool(on & ON_X), bool(on & ON_Y), bool(on & ON_Z))
        return np.ascontiguousarray(log[:, :max(1, int(cursor.max(initial=0)))]), parts


def _telling(code: WarpCode) -> np.ndarray:
    """bool by segment: whether threads are told anything there, or where control may come to from there."""
    made, count = code.bytecode, len(code.ends)
    op, index = made.code[:, 0], np.minimum(made.code[:, 5] & 0xFFFFF, len(code.space) - 1)
    telling = np.isin(op, _TELLING) | ((op == LOAD_) & (code.space[index] == IN_SHARED))
    before = np.concatenate([[0], np.cumsum(telling)])
    tells = before[made.end] > before[made.begin]
    anywhere = np.isin(code.ends, (AT_RETURN, AT_INDIRECT))
    while True:
        behind = np.zeros(count, np.bool_)
        for way in (code.after, code.target):
            behind |= (way >= 0) & tells[np.maximum(way, 0)]
        more = tells | behind | (anywhere & tells.any())
        if (more == tells).all():
            return np.ascontiguousarray(more)
        tells = more


def _masked(ids: list[int], parts: tuple[bool, ...]) -> tuple[int, ...]:
    return tuple(place if part else -1 for place, part in zip(ids, parts, strict=True))
