"""What `warp_machine` writes down and why it ends: numbers that it and its callers share."""

from __future__ import annotations

from typing import Final

import numpy as np

from .access import FAR
from .bytecode import ENDS, KINDS, NUMBER, REDUCTIONS, SHUFFLES, SPACES
from .memory_ops import ATOMIC, COPY, GLOBAL, LOAD, LOCAL, SHARED, STORE
from .segments import BARRIER, BRANCH, EXIT, INDIRECT, JOIN, RETURN

SPECIAL_, FIRST_LANE, ANY, ALL, BALLOT, ELECT, ELECTED_LANE, REDUCE, SHUFFLE, IN_RANGE, ACCESS, COPIED, LOAD_, STORE_, ARGUMENT, BULK, \
    SYNC, MATRIX, REFUSE = range(31, 50)
assert NUMBER["special"] == SPECIAL_
assert NUMBER["refuse"] == REFUSE
#: Why a run ended: all done, enough known, a reason to fall back, or room for more records wanted.
DONE, ENOUGH, ON_DATA, WHOLE_WARP, NOT_MODELLED, ENDLESS, FULL = range(7)
#: Beside the way that a jump goes if data decides (0 or 1; -1: none): not the end of a loop that only waits, but a way that is assumed; at
#: the top of a loop, after one trip.
ASSUMED, ONE_TRIP = 2, 4
#: What a value depends on.
NOTHING, ON_X, ON_Y, ON_Z, ON_THREAD = np.uint8(0), np.uint8(1), np.uint8(2), np.uint8(4), np.uint8(8)
#: What is recorded: everything; addresses; the first address of each instruction and how often it has one; nothing but the way.
RECORD, TOUCH, TALLY, COUNT = range(4)
AT_BRANCH, AT_EXIT, AT_JOIN, AT_RETURN, AT_INDIRECT, AT_BARRIER = (
    ENDS.index(name) for name in (BRANCH, EXIT, JOIN, RETURN, INDIRECT, BARRIER))
IN_GLOBAL, IN_SHARED, IN_LOCAL = (SPACES.index(name) for name in (GLOBAL, SHARED, LOCAL))
OF_LOADS, OF_STORES, OF_ATOMICS, OF_COPIES = (KINDS.index(name) for name in (LOAD, STORE, ATOMIC, COPY))
BY_IDX, BY_BFLY, BY_UP = (SHUFFLES.index(name) for name in ("IDX", "BFLY", "UP"))
OF_AND, OF_OR, OF_XOR, OF_SUM, OF_MIN = (REDUCTIONS.index(name) for name in ("AND", "OR", "XOR", "SUM", "MIN"))
MIXER: Final = np.uint64(0x9E3779B97F4A7C15)
#: Bits of the number that stands for a box.
BOX: Final = np.uint64(0x7FFFFFFFFFFF)
#: Where no memory is.
TOO_FAR: Final = np.uint64(FAR)
#: Columns of what is recorded of an access: step, instruction, bank passes, sectors, lines, active lanes, first address,
#: sectors that L1 does not hold, active lanes as bits.
ACCESS_COLUMNS: Final = 9
#: Columns of mbarrier records: step, instruction, lane, address, value; of bulk copies: step, instruction, shared address, descriptor,
#: number of coordinates and up to five of them.
SYNC_COLUMNS: Final = 5
BULK_COLUMNS: Final = 10
#: Of a word that a thread was told (`cta_machine`): from which bit on it says what it depends on, and the bit that says that data does.
TOLD_TAINT: Final = np.uint64(32)
TOLD_UNKNOWN: Final = np.uint64(1 << 63)
