"""Instruction streams written by hand, played on the SM's core."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

import numpy as np

from presilicon.sim.sm import core, isa
from presilicon.sim.sm.refresh import N_DELAYS


@dataclass(frozen=True)
class Op:
    """One instruction: what `isa.IsaTable` holds of it, and its row of the access table."""

    kind: int = isa.MATH
    pipe: str = "alu"
    interval: float = 1.0
    latency: int = 0
    stall: int = 1
    write: int = -1
    read: int = -1
    wait: int = 0
    first: int = 0
    second: int = 0
    smem: float = 0.0
    tags: float = 0.0
    l2: float = 0.0
    slices: float = -1.0  # bytes that L2's slices give for these: as many
    dram: float = 0.0
    dram_time: float = -1.0  # those that DRAM could move meanwhile: as many
    lines: float = 0.0  # that wait for DRAM
    load_latency: float = 0.0
    link: float = 0.0
    atomics: float = 0.0
    slot: int = -1
    value: int = 0
    has_row: bool = False


@dataclass(frozen=True)
class Machine:
    """The core's parameters; everything that would blur a hand count is 0."""

    lsu_interval: float = 0.0
    address_interval: float = 0.0
    queue: float = 60.0
    l2_rate: float = 64.0
    dram_rate: float = 16.0
    port: float = 64.0
    delivered: float = 1e9
    operand_read: float = 0.0
    barrier: float = 15.0
    bubble: float = 0.0
    fetch: float = 0.0
    cta_launch: float = 0.0
    async_launch: float = 0.0
    tma: float = 0.0
    mbarrier: float = 0.0
    wgmma: float = 64.0
    fetch_latency: float = 0.0
    wgmma_depth: float = 8.0
    ahead: float = 0.0
    buffer: float = 1e9
    link: float = 32.0
    drift: float = 1.0
    refresh: float = 0.0
    first_draw: float = 0.0
    delay: float = 1.0  # what each draw has, where lines are held up
    numbers: tuple[str, ...] = field(default=(
        "lsu_interval", "address_interval", "queue", "l2_rate", "dram_rate", "port", "delivered", "operand_read", "barrier", "bubble",
        "fetch", "cta_launch", "async_launch", "tma", "mbarrier", "wgmma", "fetch_latency", "wgmma_depth", "ahead", "buffer",
        "link", "drift", "refresh", "first_draw"), repr=False)

    def array(self) -> np.ndarray:
        return np.array([*(getattr(self, name) for name in self.numbers), *[self.delay] * N_DELAYS])


EXIT = Op(isa.BRANCH, "branch")


def play(warps: list[list[Op]], *, ctas: int = 1, slots: int = 1, machine: Machine | None = None, python: bool = False,
         **changes: float) -> Any:
    """Run CTAs of these warps; returns cycles, issued, stalls by reason, busy by pipe, end clocks of the CTAs."""
    machine = replace(machine or Machine(), **changes)
    ops = [op for warp in warps for op in warp]
    code = np.arange(len(ops), dtype=np.int32)
    rows = np.where([op.kind in (isa.SHARED, isa.LOAD, isa.STORE, isa.ASYNC_COPY, isa.BULK_LOAD, isa.SYNC_INIT, isa.SYNC_ARRIVE,
                                 isa.SYNC_WAIT) for op in ops], np.arange(len(ops)), -1).astype(np.int32)
    sizes = np.array([len(warp) for warp in warps], dtype=np.int64)

    def ints(name: str) -> np.ndarray:
        return np.array([getattr(op, name) for op in ops], dtype=np.int64)

    def floats(name: str) -> np.ndarray:
        return np.array([float(getattr(op, name)) for op in ops])

    pipe = np.array([isa.PIPE[op.pipe] for op in ops], dtype=np.int64)
    zeros = np.zeros(len(ops))
    busy, stalls = np.zeros(len(isa.PIPES) + len(isa.UNITS)), np.zeros((len(ops), len(core.REASONS)))
    end, first = np.zeros(ctas, np.int64), np.zeros(ctas, np.int64)
    run = core.run_sm if python else core.compiled_core()
    l2, slices, dram, dram_time = floats("l2"), floats("slices"), floats("dram"), floats("dram_time")
    got = run(code, rows, np.concatenate([[0], np.cumsum(sizes)[:-1]]).astype(np.int64), sizes, ints("kind"), pipe, floats("interval"),
              ints("latency"), ints("stall"), np.zeros(len(ops), np.int64), ints("write"), ints("read"), ints("wait"), ints("first"),
              ints("second"), np.zeros(len(ops), np.int64), floats("smem"), floats("tags"), l2, zeros, floats("atomics"),
              np.where(slices < 0, l2, slices)[None],
              dram[None], np.where(dram_time < 0, dram, dram_time)[None], floats("link")[None], floats("lines")[None],
              floats("load_latency")[None], ints("slot"), ints("value"), np.arange(len(warps), dtype=np.int64)[None],
              np.zeros(ctas, np.int64), np.zeros(ctas, np.int64), np.ones(ctas), slots, machine.array(), end, first, busy, stalls,
              np.zeros((1, 4), np.int64))
    reasons = {name: float(stalls[:, n].sum()) for n, name in enumerate(core.REASONS)}
    return SimpleNamespace(status=int(got[0]), cycles=int(got[1]), issued=int(got[2]), stalls=reasons, by_op=stalls, end=end.tolist(),
                           busy=dict(zip([*isa.PIPES, *isa.UNITS], busy.tolist(), strict=True)), dram=float(got[4]))
