"""Closed form of kernels that move bytes: elementwise chains, norms, softmax, reductions, gathers and copies.

One kernel takes its floor, then the larger of what the memory levels and the vector pipes need, joined with what
latency allows: a CTA's turn (load, as many dependent phases as the kind has, store) moves the bytes that the CTA holds,
so the rate is bytes in flight over the length of a turn (Little's law), for the SMs that have a CTA at all.

A tensor that an earlier kernel left in L2 is read from there. What stays is the part of the footprint that fits: a
replacement that is neither LRU nor random keeps all of a footprint below the capacity and loses it over the next one.
"""

from __future__ import annotations

from typing import Any, Final, Literal

import numpy as np

from ...errors import UnknownNameError
from .machine import KernelTimes, Machine

Kind = Literal["elementwise", "norm", "softmax", "reduce", "gather", "copy"]

#: Dependent phases of a CTA's turn beyond the first load: a reduction across the CTA each, or a second dependent load.
PHASES: Final = {"elementwise": 0.0, "copy": 0.0, "gather": 1.0, "norm": 1.0, "reduce": 1.0, "softmax": 2.0}

#: Kinds whose CTA owns a row, so that few rows leave SMs idle.
BY_ROW: Final = frozenset({"norm", "softmax"})

#: Bytes of the smallest DRAM access.
SECTOR_BYTES: Final = 32.0


def memory_kernel(
    machine: Machine,
    bytes_read: Any,
    bytes_written: Any,
    *,
    kind: Kind = "elementwise",
    fma_ops: Any = 0.0,
    sfu_ops: Any = 0.0,
    rows: Any = None,
    row_bytes: Any = None,
    resident: Any = 1.0,
) -> KernelTimes:
    """Time of a kernel that is bound by bytes, vector arithmetic, latency or its own start.

    All arguments but `kind` are arrays that broadcast together and with the machine's numbers.

    Parameters
    ----------
    bytes_read, bytes_written
        Compulsory bytes.
    fma_ops, sfu_ops
        fp32 multiply-adds (other vector instructions count one each) and special functions, in all.
    rows
        For norm and softmax: rows, each reduced by one CTA; for gather: rows fetched. Default: as many as fill the GPU.
    row_bytes
        For gather: contiguous bytes per row, charged in whole sectors. Default: whole sectors.
    resident
        Share of the read bytes that an earlier kernel touched, so that L2 may still hold them (1: an activation just
        written; 0: weights of a model larger than L2).

    Raises
    ------
    UnknownNameError
        For an unknown kind.

    Notes
    -----
    Never faster than DRAM's peak on the bytes that cannot be in L2; never slower for more SMs, bandwidth, clock or L2.
    """
    if kind not in PHASES:
        raise UnknownNameError("kind of memory kernel", kind, PHASES)
    phases = PHASES[kind]
    read, written = np.asarray(bytes_read, dtype=float), np.asarray(bytes_written, dtype=float)
    if kind == "gather" and row_bytes is not None:
        length = np.maximum(np.asarray(row_bytes, dtype=float), 1.0)
        read = read * np.ceil(length / SECTOR_BYTES) * SECTOR_BYTES / length
    total = read + written
    sms, clock = machine.sm_count, machine.clock_hz

    capacity = machine["memory.l2_residency"] * machine.l2_bytes
    kept = np.clip(2.0 - total / capacity, 0.0, 1.0)
    dram = read * (1.0 - kept * resident) + written * (1.0 - kept)
    dram_s = dram / (machine.dram_bytes_per_s * machine["memory.dram_efficiency"])
    l2_s = total / (machine.l2_bytes_per_clk * clock * machine["memory.l2_efficiency"])
    fma_s = np.asarray(fma_ops, dtype=float) / (machine.fma_per_clk * sms * clock * machine["memory.issue_efficiency"])
    sfu_s = np.asarray(sfu_ops, dtype=float) / (machine.sfu_per_clk * sms * clock * machine["memory.issue_efficiency"])
    throughput = np.maximum(np.maximum(dram_s, l2_s), np.maximum(fma_s, sfu_s))

    # One turn of one CTA, and how many turns the fullest SM runs through, several CTAs at a time.
    fetch = machine.l2_latency_s + (machine.dram_latency_s - machine.l2_latency_s) * dram / np.maximum(total, 1.0)
    turn = fetch + phases * machine["memory.phase_cycles"] / clock
    in_flight = machine["memory.in_flight_bytes"]
    if kind in BY_ROW and rows is not None:
        count = np.maximum(np.asarray(rows, dtype=float), 1.0)
        held = np.maximum(total / count, 1.0)
    else:
        held = machine["memory.cta_bytes"]
        count = np.maximum(total / held, 1.0)
    # A row longer than an SM keeps in flight takes several loads, each a turn of its own.
    slots = np.clip(in_flight / held, 1.0, machine["memory.ctas_per_sm"])
    turns = np.maximum(count / (sms * slots), 1.0) * np.maximum(held / in_flight, 1.0)
    latency_s = turn * turns

    time = machine["memory.floor"] + np.hypot(throughput, latency_s)
    floor = np.broadcast_to(machine["memory.floor"] + latency_s, time.shape)
    return KernelTimes(
        time_s=time,
        busy_s={
            name: np.broadcast_to(value, time.shape)
            for name, value in {"dram": dram_s, "l2": l2_s, "fma": fma_s, "sfu": sfu_s, "floor": floor}.items()
        },
        bytes_moved={"dram": np.broadcast_to(dram, time.shape), "l2": np.broadcast_to(total, time.shape)},
        clock_hz=np.broadcast_to(np.asarray(clock, dtype=float), time.shape),
        choice={
            "ctas": np.ceil(count),
            "resident": np.floor(slots),
            "cta_s": np.maximum(fma_s, sfu_s) * np.minimum(sms, np.ceil(count)) / np.ceil(count),
            "extra_s": time - throughput,
        },
    )
