# ruff: noqa: PLR1730  (plain comparisons are what can be compiled)
"""Instructions of a warp joined into operations on tiles: one pass over its stream."""

from __future__ import annotations

from typing import Final

import numpy as np

from ...native import Native
from . import isa
from .isa import BRANCH, MATH, WGMMA

#: Kinds whose instructions go together; all others stand alone.
_JOINED: Final = np.isin(np.arange(32), [MATH, BRANCH, isa.SHARED, isa.LOAD, isa.STORE, isa.ASYNC_COPY, isa.QUEUED, WGMMA, isa.LATENCY])
_ARITHMETIC: Final = np.isin(isa.PIPES, ("none", "fma", "alu", "imad", "half", "uniform", "branch"))
_FMA: Final = isa.PIPE["fma"]
_PIPES: Final = len(isa.PIPES)
#: Columns of an operation, by the name of the core's parameter: whole numbers, real ones, and those by phase (`grid.memory_costs`).
WHOLE: Final = ("kind", "pipe", "latency", "stall", "yields", "write_barrier", "read_barrier", "wait_mask", "first", "second", "code_line",
                "sync_slot", "sync_value", "access", "head")
REAL: Final = ("interval", "smem", "tags", "l2_bytes", "l1_passes", "atomics")
PHASED: Final = ("slice_bytes", "dram_bytes", "dram_time", "link_bytes", "dram_lines", "load_latency")
(_KIND, _PIPE, _LATENCY, _STALL, _YIELDS, _WRITE, _READ, _WAIT, _FIRST, _SECOND, _LINE, _SLOT, _VALUE, _ACCESS, _HEAD) = range(len(WHOLE))


def join_stream(code, access, kind, pipe, interval, latency, stall, yields, write, read, wait, first, second, lines,  # type: ignore[no-untyped-def]
                amounts, phased, slot, value, bubble, number, base, whole, real, by_phase):
    """Fill the columns of one stream's operations; `number` with the operation of each position.

    Parameters
    ----------
    code, access
        The stream: instructions, and rows of the access table or -1.
    kind ... lines
        `isa.IsaTable` and the lines of code.
    amounts, phased, slot, value
        The access table: float64 of shape (5, rows) and (6, 3, rows), int64.
    bubble
        Clocks of a taken jump.
    base
        Place of the stream's first operation in what is filled.
    whole, real, by_phase
        Filled: int64, float64 and float64 of shapes (15, operations), (6, operations) and (6, 3, operations).

    Returns
    -------
    How many operations there are.
    """
    n = code.shape[0]
    keys = np.zeros(256, np.int64)
    places = np.zeros(256, np.int64)
    members = 0
    others = 0  # operations of this window that are not plain
    count = 0
    closed = True
    sums = np.zeros((n, _PIPES))
    stalls = np.zeros(n)
    behind = np.zeros(n)
    last_interval = np.zeros(n)
    size = np.zeros(n)
    passed = 0.0
    for at in range(n):
        i = code[at]
        alone = not _JOINED[kind[i]]
        if closed or wait[i] != 0 or alone:
            members = 0
            others = 0
        closed = alone or (kind[i] == WGMMA and second[i] == 1)
        plain = (kind[i] == MATH or kind[i] == BRANCH) and _ARITHMETIC[pipe[i]] and write[i] < 0 and read[i] < 0
        key = (1 if others else 0) if plain else 2 + ((kind[i] * _PIPES + pipe[i]) * 7 + write[i] + 1) * 7 + read[i] + 1
        if not plain:
            others = 1
        found = -1
        for k in range(members):
            if keys[k] == key:
                found = places[k]
                break
        row = access[at]
        to = base + (found if found >= 0 else count)
        if found < 0:
            found = count
            count += 1
            if members < 256:
                keys[members], places[members] = key, found
                members += 1
            whole[_HEAD, to], whole[_KIND, to], whole[_PIPE, to] = i, kind[i], _FMA if plain else pipe[i]
            whole[_WRITE, to], whole[_READ, to], whole[_LINE, to] = write[i], read[i], lines[i]
            whole[_FIRST, to] = first[i] if kind[i] != WGMMA and kind[i] != MATH else 0
            whole[_WAIT, to] = 0
            whole[_SLOT, to], whole[_VALUE, to] = slot[row] if row >= 0 else -1, value[row] if row >= 0 else 0
            whole[_ACCESS, to] = -1
            for k in range(6):
                real[k, to] = 0.0
            for k in range(18):
                by_phase[k // 3, k % 3, to] = 0.0
        number[at] = found
        taken = float(stall[i])
        if at + 1 < n and code[at + 1] != i + 1:
            taken += bubble
        stalls[found] += taken
        behind[found] = passed
        passed += taken
        size[found] += 1.0
        real[0, to] += interval[i]
        if plain:
            sums[found, pipe[i]] += interval[i]
        else:
            sums[found, 0] = -1.0
        last_interval[found] = interval[i]
        whole[_LATENCY, to], whole[_YIELDS, to], whole[_SECOND, to] = latency[i], yields[i], second[i]
        whole[_WAIT, to] |= wait[i]
        if kind[i] == WGMMA or kind[i] == MATH:
            whole[_FIRST, to] += first[i]
        if row >= 0:
            whole[_ACCESS, to] = 0
            for k in range(5):
                real[1 + k, to] += amounts[k, row]
            for k in range(3):
                for part in range(5):
                    by_phase[part, k, to] += phased[part, k, row]
                if phased[5, k, row] > by_phase[5, k, to]:
                    by_phase[5, k, to] = phased[5, k, row]
    begun = 0
    for o in range(count):
        whole[_STALL, base + o] = round(stalls[o])
        late = behind[o] - begun  # when the operation's last instruction really issues, against the operation's own start
        if sums[o, 0] < 0.0:
            late -= real[0, base + o] - last_interval[o]
        else:
            most = size[o]
            for k in range(_PIPES):
                if sums[o, k] > most:
                    most = sums[o, k]
            real[0, base + o] = most
        delay = max(0, int(late))
        whole[_LATENCY, base + o] += delay
        for k in range(3):
            by_phase[5, k, base + o] += delay
        begun += whole[_STALL, base + o]
    return count


#: `join_stream` as machine code.
joined_stream: Final = Native(join_stream, usual={
    ("i4", 1): "code access", ("i8", 2): "whole", "f": "bubble", "i": "base", ("f8", 1): "interval", ("f8", 2): "amounts real",
    ("f8", 3): "phased by_phase"})
