"""How long the lines of a request wait for DRAM that is being refreshed.

A channel of DRAM answers nothing for tRFC of every tREFI. A single line meets that seldom; a tile, whose lines lie in nearly all channels,
nearly always, and what waits for the tile waits for its last line. Channels are refreshed at times of their own, so that of *n* lines

    Poisson(n p), p = tRFC / tREFI,

are held up, each for a time that is spread evenly from 0 to tRFC. With *u* evenly spread in (0, 1) the longest of these waits is

    tRFC max(0, 1 + ln(u) / (n p)).

That is when lines come at the same time. Where they come one after another, spread evenly over a time T (a bulk copy of 32 KB takes half
as long again as a refresh, if L2 feeds it), the rest of the transfer hides what the first of them wait. The last line comes x tRFC behind
the end of the transfer or sooner with a probability of

    exp(-n p h(x)),  h(x) = 1 - x - t / 2  for t = T / tRFC up to 1 - x,  (1 - x)**2 / (2 t)  from there on,

the mean over the lines of what a line that comes so long before the end has left. For t = 0 that is the law above.

Bandwidth is not touched: what refreshing takes of it is in ``dram_steady``, which is measured.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from ...arch.sm_timing import SmTiming

#: How many draws there are: a prime, so that no loop meets the same ones in each of its iterations.
N_DELAYS: Final = 251
_GOLDEN: Final = (np.sqrt(5.0) - 1.0) / 2.0


def delays(timing: SmTiming) -> np.ndarray:
    """-ln(u) / p of evenly spread u, neighbours far apart (multiples of the golden section): float64 of shape (N_DELAYS,).

    Examples
    --------
    >>> from presilicon.arch.sm_timing import sm_timing
    >>> wait = np.maximum(0.0, 1.0 - delays(sm_timing("sm_90")) / 64)  # of 64 lines, over tRFC
    >>> round(float(wait.mean()), 2)
    0.83
    """
    u = np.mod((np.arange(N_DELAYS) + 0.5) * _GOLDEN, 1.0)
    return np.asarray(-np.log(u) / timing.refresh_share)
