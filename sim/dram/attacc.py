"""AttAcc: attention of decode steps on an HBM3 stack, with units at the banks, the bank groups, or the buffer die.

Heads are spread over the channels, one head at a time on each; two heads follow each other interleaved, so that the softmax
and the moves of one hide behind the products of the other. One head is

* ``WRGB``: the query goes to the operand buffers;
* score: ``MAC`` over the keys, spread over pseudo-channels, ranks and bank groups (whatever has a unit), and ``MVSB`` of
  16 results each to the softmax buffer;
* ``SFM``: softmax on the buffer die;
* ``MVGB``: probabilities back to the operand buffers;
* context: ``MAC`` over the values, and ``MVSB`` of the result.

Barriers keep the phases apart. The schedule, with its one-row warm-up of the first head, is that of the public trace
generators of the AttAcc simulator, worked out here per channel; channels that hold equally many heads are alike.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np

from ...arch.dram import DramDevice
from ...errors import MappingError, UnknownNameError, shown
from ...mapping.pim import weights_in_column
from ...mapping.pim_gemv import attacc_blocks, attacc_gemv
from .engine import Engine, RefreshKind, Stream, _State, check_refresh, choose, refreshing
from .queues import BARRIER
from .tables import compile_device

Level = Literal["bank", "bg", "buffer"]
LEVELS: Final = ("bank", "bg", "buffer")
_MAC: Final = {"bank": "MACAB", "bg": "MACSB", "buffer": "MACPB"}
#: Keys whose results are moved at once.
_MOVED: Final = 16
#: Byte within a bank at which values start (8 MiB: half of the bank).
_VALUES: Final = 1 << 23

Step = tuple[str, int, int]


@dataclass(frozen=True)
class Attention:
    """Decode attention of one step: heads of one stack, keys, head dimension, bytes of an element, units' level.

    `longest` is the longest context for which room is kept; it places the heads in the banks.
    """

    heads: int
    keys: int
    head_dim: int = 128
    element_bytes: int = 2
    level: Level = "bank"
    longest: int = 4096


@dataclass(frozen=True)
class AttentionRun:
    """Cycles of the stack, and the commands of its busiest channel."""

    cycles: int
    stream: Stream
    counts: dict[str, int]

    @property
    def time_s(self) -> float:
        """Seconds."""
        return self.cycles * self.stream.device.cycle_s


class _Layout:
    """Where a head lies in the banks of a channel."""

    def __init__(self, device: DramDevice, work: Attention) -> None:
        org = device.organisation
        self.org, self.work, self.mac = org, work, _MAC[work.level]
        self.lanes = org.column_bytes // work.element_bytes
        # Units that share the keys, and units that share the head dimension.
        self.split = org.pseudo_channels * (1 if work.level == "buffer" else org.ranks * org.bank_groups)
        self.across = org.banks if work.level == "bank" else 1
        self.rank, self.group = org.bank_groups * org.banks, org.banks

    def place(self, column: int, offset: int) -> tuple[int, int]:
        """Bank and row of the n-th column of a matrix that starts at byte `offset` of a bank."""
        org = self.org
        start = offset // org.row_bytes
        if self.work.level == "bank":
            return 0, (start * org.columns + offset % org.row_bytes // org.column_bytes + column) // org.columns
        within = offset % org.row_bytes // org.column_bytes  # a head may begin inside of a row, and then runs on into the next
        if self.work.level == "bg":
            page = column // org.columns
            return page % org.banks, start + page // org.banks + (within + column % org.columns) // org.columns
        groups = org.bank_groups * org.ranks
        deep = column // groups
        return column % groups * self.group + deep % org.banks, start + (within + deep // org.banks) // org.columns

    def query(self) -> list[Step]:
        steps = math.ceil(self.work.head_dim / self.across / self.lanes)
        return [("WRGB", bank, -1) for bank in range(self.across) for _ in range(steps)]

    def score(self, offset: int) -> tuple[list[list[Step]], list[list[Step]]]:
        """MACs of every key, and moves of every 16 keys."""
        per_key = math.ceil(self.work.head_dim / self.across / self.lanes)
        keys = math.ceil(self.work.keys / self.split)
        macs = [[(self.mac, *self.place(key * per_key + part, offset)) for part in range(per_key)] for key in range(keys)]
        banks = [0] if self.work.level == "buffer" else [
            rank * self.rank + group * self.group for group in range(self.org.bank_groups) for rank in range(self.org.ranks)]
        moves = [[("MVSB", bank, -1) for bank in banks] for _ in range(math.ceil(keys / _MOVED))]
        return macs, moves

    def probabilities(self) -> list[Step]:
        steps = math.ceil(self.work.keys / (self.split * self.lanes))
        banks = [0] if self.work.level == "buffer" else [
            rank * self.rank + group * self.group for rank in range(self.org.ranks) for group in range(self.org.bank_groups)]
        return [("MVGB", bank, -1) for bank in banks for _ in range(steps)]

    def context(self, offset: int) -> tuple[list[list[Step]], list[list[Step]]]:
        parts, keys = math.ceil(self.work.head_dim / (self.across * self.lanes)), math.ceil(self.work.keys / self.split)
        macs = [[(self.mac, *self.place(part * keys + key, offset)) for key in range(keys)] for part in range(parts)]
        if self.work.level == "buffer":
            banks = [0]
        else:
            banks = [rank * self.rank + bank for bank in range(self.across) for rank in range(self.org.ranks)]
        return macs, [[("MVSB", bank, -1) for bank in banks] for _ in range(parts)]


def _check(device: DramDevice, work: Attention) -> None:
    for name in ("heads", "keys", "head_dim", "element_bytes", "longest"):
        value = getattr(work, name)
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
            raise MappingError(f"{device.name}: {name}: expected a positive whole number, found {shown(value)}")
    if work.level not in LEVELS:
        raise UnknownNameError("level", str(work.level), LEVELS, device.name)
    org = device.organisation
    device.command(_MAC[work.level])
    if org.column_bytes % work.element_bytes:
        raise MappingError(f"{device.name}: elements of {work.element_bytes} bytes do not divide a column of {org.column_bytes}")
    rounds = math.ceil(work.heads / org.channels)
    used = rounds * math.ceil(work.longest * work.head_dim / org.banks_per_channel)
    if work.keys > work.longest or used > _VALUES or org.rows * org.row_bytes < 2 * _VALUES:
        raise MappingError(f"{device.name}: {work.heads} heads of {work.keys} keys (room kept for {work.longest}) do not fit: "
                           f"{used} bytes of {_VALUES} in each bank")


def programs(device: DramDevice, work: Attention) -> list[list[Step]]:
    """Requests of the channels with most heads as (command or ``BARRIER``, bank, row), those that differ; raises MappingError for
    what does not fit.

    Channels differ only in which stretch takes a move that hides beside products (`_spread`).
    """
    _check(device, work)
    layout, org = _Layout(device, work), device.organisation
    rounds = math.ceil(work.heads / org.channels)
    apart = math.ceil(work.longest * work.head_dim / org.banks_per_channel)
    heads = [_Head(layout, index * apart) for index in range(rounds)]
    busy = [min(org.channels, work.heads - turn * org.channels) for turn in range(rounds)]
    pairs = [[_beside(heads[at], heads[at + 1], (busy[at], busy[at + 1]), channel) for at in range(0, rounds - 1, 2)]
             for channel in range(busy[-1])]
    distinct = [moves for channel, moves in enumerate(pairs) if moves not in pairs[:channel]]
    found = []
    for moves in distinct:
        out: list[Step] = []
        for at, beside in zip(range(0, rounds - 1, 2), moves, strict=True):
            _pair(out, heads[at], heads[at + 1], beside, warm=at == 0)
        if rounds % 2:
            _single(out, heads[-1])
        found.append(out)
    return found


class _Head:
    """The phases of one head."""

    def __init__(self, layout: _Layout, offset: int) -> None:
        self.query = layout.query()
        self.score, self.score_moves = layout.score(offset)
        self.back = layout.probabilities()
        self.context, self.context_moves = layout.context(offset + _VALUES)


_FENCE: Final[Step] = ("BARRIER", 0, -1)
_SOFTMAX: Final[Step] = ("SFM", 0, -1)


_Beside = tuple[list[list[Step]], list[list[Step]], list[list[Step]]]


def _beside(one: _Head, two: _Head, lanes: tuple[int, int], channel: int) -> _Beside:
    """Moves that hide beside the products of a pair of heads, by phase and stretch: the second query, the probabilities of both."""
    chunks, parts = len(one.score_moves), len(one.context)
    return (_spread(two.query, chunks, chunks, lanes[1], channel), _spread(one.back, chunks, chunks - chunks // 2, lanes[0], channel),
            _spread(two.back, parts, parts - parts // 2, lanes[1], channel))


def _spread(items: list[Step], chunks: int, shares: int, lanes: int, channel: int) -> list[list[Step]]:
    """`items` over the last `shares` of `chunks` chunks, in equal shares rounded down; what is over is lost.

    The generators cut the steps of all `lanes` busy channels together, channel by channel within a step: this is what
    one of them gets.
    """
    stride = len(items) * lanes // shares
    cut: list[list[Step]] = [[] for _ in range(chunks)]
    for index, item in enumerate(items):
        share = (index * lanes + channel) // stride if stride else shares
        if share < shares:
            cut[chunks - shares + share].append(item)
    return cut


def _score_phase(out: list[Step], head: _Head, chunks: int, beside: list[list[Step]], first: list[Step]) -> None:
    for at in range(chunks + 1):
        if at < chunks:
            for key in head.score[at * _MOVED:(at + 1) * _MOVED]:
                out += key
        if at:
            out += head.score_moves[at - 1]
        if at == 0:
            out += first
        if at < chunks:
            out += beside[at]
            out.append(_FENCE)


def _context_phase(out: list[Step], head: _Head, beside: list[list[Step]], first: list[Step]) -> None:
    parts = len(head.context)
    for at in range(parts + 1):
        if at < parts:
            out += head.context[at]
        if at:
            out += head.context_moves[at - 1]
        if at == 0:
            out += first
        if at < parts:
            out += beside[at]
            out.append(_FENCE)


def _pair(out: list[Step], one: _Head, two: _Head, beside: _Beside, warm: bool) -> None:
    chunks, parts = len(one.score_moves), len(one.context)
    out += one.query
    if warm:
        out.append(one.score[0][0])
    out.append(_FENCE)
    _score_phase(out, one, chunks, beside[0], [])
    _score_phase(out, two, chunks, beside[1], [_SOFTMAX])
    _context_phase(out, one, beside[2], [_SOFTMAX])
    # The generators read the first head's rows again for the second: as many columns, no row change between short heads.
    _context_phase(out, one, [[] for _ in range(parts)], [])


def _single(out: list[Step], head: _Head) -> None:
    chunks = len(head.score_moves)
    out += head.query
    out.append(_FENCE)
    _score_phase(out, head, chunks, [[] for _ in range(chunks)], [])
    out.append(_SOFTMAX)
    out += head.back
    out.append(_FENCE)
    _context_phase(out, head, [[] for _ in head.context], [])


def simulate(device: DramDevice, work: Attention, *, power_limited: bool = True, refresh: RefreshKind = "all-bank",
             engine: Engine = "auto") -> AttentionRun:
    """Simulate decode attention on one stack, command by command, through AttAcc's controller.

    Parameters
    ----------
    device
        A device with AttAcc's commands, ``attacc-hbm3``.
    work
        The attention.
    power_limited
        Whether the power limit stretches the distance of MACs.
    refresh
        ``"all-bank"`` or ``"off"``.
    engine
        As in `engine.play`.

    Raises
    ------
    MappingError
        Sizes that are no positive integers, heads that do not fit, a refresh that the controller does not do.
    UnknownNameError
        A level or command that does not exist.
    """
    check_refresh(device, refresh)
    if refresh == "per-bank":
        raise MappingError(f"{device.name}: AttAcc's controller refreshes all banks or none, not per bank")
    played = programs(device, work)
    size = sum(len(steps) for steps in played)
    runs = [_play(device, steps, power_limited, refresh, engine, size) for steps in played]
    return max(runs, key=lambda run: run.cycles)


def _play(device: DramDevice, steps: list[Step], power_limited: bool, refresh: RefreshKind, engine: Engine, size: int) -> AttentionRun:
    """Requests through the controller; `size`: how many all channels that differ have together, which decides whether compiling pays."""
    if not power_limited:
        device = device.without_power_limit()
    tables = compile_device(device)
    number = {name: index for index, name in enumerate(tables.names)} | {"BARRIER": BARRIER}
    requests = np.array([(number[name], bank, row) for name, bank, row in steps], dtype=np.int64)
    kernel, as_lists = choose("barrier_queue", engine, size)
    depth = device.controller.get("queue", 32)
    room, issued, last = 2 * len(requests) + 4096, -1, 0
    told = refreshing(tables, refresh)[:3]
    while issued < 0:
        state = _State(tables, as_lists)
        given: list[Any] = [np.ascontiguousarray(requests[:, part]) for part in range(3)]
        scratch: list[Any] = [np.zeros(depth, np.int64), np.zeros(depth, np.int64), np.zeros(depth, np.int64), np.zeros(depth, np.bool_),
                   np.zeros(len(tables.names) * tables.banks, np.int64), np.zeros(len(tables.names) * tables.banks, np.int64)]
        out: list[Any] = [np.empty(room, np.int64) for _ in range(4)]
        if as_lists:
            given, scratch, out = ([array.tolist() for array in arrays] for arrays in (given, scratch, out))
        issued, last = kernel(*given, depth, *state.everything(), *told, *scratch, *out)
        room *= 2
    stream = Stream(device, *(np.asarray(array[:issued], np.int64) for array in out))
    return AttentionRun(int(last), stream, stream.counts())


def gemv(device: DramDevice, outputs: int, inputs: int, *, batch: int = 1, level: Level = "bank", power_limited: bool = True,
         refresh: RefreshKind = "all-bank", engine: Engine = "auto", bits: float = 16.0) -> AttentionRun:
    """Simulate y = W x, W of ``(outputs, inputs)``, whose rows lie as keys do; see `presilicon.mapping.pim_gemv`, also for `bits`.

    Raises
    ------
    MappingError
        As `simulate`; a matrix larger than the device.
    UnknownNameError
        A level that does not exist.
    """
    check_refresh(device, refresh)
    if refresh == "per-bank":
        raise MappingError(f"{device.name}: AttAcc's controller refreshes all banks or none, not per bank")
    attacc_gemv(device, outputs, inputs, batch=batch, level=level, bits=bits)  # refuses what does not fit
    org = device.organisation
    rows = math.ceil(outputs / org.channels)
    steps: list[Step] = []
    for _ in range(batch):
        offset = 0
        for block in attacc_blocks(device, inputs, level):
            layout = _Layout(device, Attention(1, rows, block, level=level))
            query = layout.query()  # inputs have 16 bits
            layout.lanes = weights_in_column(device, bits)
            macs, moves = layout.score(0)
            start = offset
            offset += sum(len(row) for row in macs)
            macs = [[(name, *layout.place(start + index * len(row) + part, 0)) for part, (name, _, _) in enumerate(row)]
                    for index, row in enumerate(macs)]
            steps += [*query, _FENCE]
            for at in range(len(moves)):
                steps += [step for row in macs[at * _MOVED:(at + 1) * _MOVED] for step in row]
                steps += moves[at - 1] if at else []
                steps.append(_FENCE)
            steps += [*moves[-1], _FENCE]
    return _play(device, steps[:-1], power_limited, refresh, engine, len(steps))
