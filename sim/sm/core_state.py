"""Names of what the SM's core holds: its parameters, the columns of its tables, the units behind issue."""

from __future__ import annotations

from .isa import PIPE, PIPES, UNITS
from .refresh import N_DELAYS

#: The core's parameters, by their place in `numbers` (see `grid.parameters`).
(LSU_INTERVAL, ADDRESS_INTERVAL, QUEUE_DEPTH, L2_RATE, DRAM_RATE, PORT_RATE, DELIVERED, OPERAND_READ, BARRIER_LATENCY, BUBBLE,
 FETCH_INTERVAL, CTA_LAUNCH, ASYNC_LAUNCH, BULK_LATENCY, MBARRIER_LATENCY, WGMMA_LATENCY, FETCH_LATENCY, WGMMA_DEPTH, TENSOR_AHEAD,
 BANK_BUFFER, LINK_RATE, DRIFT, REFRESH, FIRST_DRAW, DELAYS) = range(25)
NUMBERS = DELAYS + N_DELAYS
#: Share of the register file's read ports that asynchronous products leave. Their float32 sums are read once in 16 steps of k (bytes of
#: 8 for fp8): 256 N bytes in N / 2 clocks, 512 of the 1,024 that an SM's registers give a clock (FlashGPU-Sim SM90_H100 has both numbers).
PORTS_LEFT = 0.5
#: Clocks within which an instruction of fixed latency reads its registers (Huerta et al. 2025).
READ_WINDOW = 3

#: Rows of the stall table.
(SELECTED, NOT_SELECTED, WAIT, LONG, SHORT, AT_BARRIER, AT_MBARRIER, TENSOR, MATH_THROTTLE, MIO_THROTTLE, LG_THROTTLE, FETCH,
 MEMBAR, DISPATCH) = range(14)
REASONS = ("selected", "not selected", "wait", "long scoreboard", "short scoreboard", "barrier", "mbarrier", "tensor",
           "math pipe throttle", "mio throttle", "lg throttle", "branch", "membar",
           "dispatch stall")

#: Pipes of a sub-core that the core treats apart.
TENSOR_PIPE, MEMORY, SFU, FP64 = PIPE["tensor"], PIPE["memory"], PIPE["sfu"], PIPE["fp64"]
N_PIPES = len(PIPES)
#: The SM's units, by their place in `busy` and in the table of the clocks at which they are free; behind them, in the latter alone, code
#: fetch, the end of the last tcgen05 product, and how many requests have waited for DRAM.
LSU, SMEM, L2, DRAM, TMA, TCGEN05, LINK, ATOMICS, PORT, CODE, TCGEN_END, DRAWN = range(N_PIPES, N_PIPES + len(UNITS) + 3)
N_FREE = N_PIPES + len(UNITS) + 3
#: Columns of the sums that the core returns: bytes of L2, of DRAM, passes of shared memory, bytes of L1.
L2_SUM, DRAM_SUM, SMEM_SUM, L1_SUM = range(4)

#: Columns of a warp: its place in its stream and that stream's end; clocks of its next issue and of its last; the clocks before which
#: stall count, scoreboards, something else and a busy pipe held it, with their reasons; when its copies and its stores are done;
#: wgmma groups so far; since when it works (-1: it does not); its CTA; the CTA barrier and the mbarrier (with parity) at which it waits.
(POSITION, END, READY, ISSUED, BY_STALL, BY_BOARD, BOARD_REASON, BY_OTHER, OTHER_REASON, BY_PIPE, PIPE_REASON, COPIES, STORES, WG_COUNT,
 SINCE, CTA, BARRIER_AT, MBARRIER_AT, PARITY) = range(19)
WARP_COLUMNS = 19
#: Columns of an mbarrier: arrivals wanted and so far, bytes outstanding, latest arrival, phases completed, clock of the last completion.
MB_WANTED, MB_ARRIVED, MB_BYTES, MB_TIME, MB_PHASE, MB_DONE = range(6)
#: Barriers and mbarriers of a CTA, scoreboards of a warp, groups that a scoreboard remembers.
N_BARRIERS, N_MBARRIERS, N_BOARDS, N_GROUPS = 16, 64, 6, 32
#: Later than everything.
FAR = 1 << 60
DONE, DEADLOCK = 0, 1
