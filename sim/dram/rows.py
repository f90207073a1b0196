"""GEMV on any device whose file says which commands it takes, command by command, in order; see `presilicon.mapping.pim_rows`."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ...arch.dram import DramDevice
from ...mapping.pim import Order, positive
from ...mapping.pim_rows import row_layout, visits
from .engine import Engine, RefreshKind, Requests, Stream, play
from .tables import compile_device


@dataclass(frozen=True)
class RowRun:
    """Cycles until the last result has arrived, and the commands of a channel, which stands for all."""

    cycles: int
    stream: Stream


def gemv(device: DramDevice, outputs: int, inputs: int, *, batch: int = 1, order: Order = "outputs", refresh: RefreshKind = "all-bank",
         engine: Engine = "auto", bits: float | None = None) -> RowRun:
    """Play y = W x, W of ``(outputs, inputs)``; `bits` and errors as `presilicon.mapping.pim_rows.row_gemv`, and those of `engine.play`."""
    positive(device, batch=batch)
    layout, tables = row_layout(device, outputs, inputs, bits=bits), compile_device(device)
    parts = np.array([(tables.index(name), bank, row, count) for visit in visits(layout.shape, order, batch)
                      for name, bank, count, row in layout.visit(*visit)], dtype=np.int64)
    spread = np.repeat(parts[:, :3], parts[:, 3], axis=0)
    requests = Requests(spread[:, 0].copy(), spread[:, 1].copy(), spread[:, 2].copy(), np.zeros(len(spread), dtype=np.int64))
    stream = play(device, requests, refresh=refresh, engine=engine)
    reads = stream.cycle[stream.command == tables.index(layout.roles.read)]
    return RowRun(int(reads[-1]) + device.expand(device.command(layout.roles.read).latency), stream)
