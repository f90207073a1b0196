"""Timing of one SM by compute capability: what `sm_timing.yaml` states, in SM clocks, with its sources."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any, Final

from ..errors import SpecError, UnknownNameError, shown
from .yamlfile import read_yaml

PATH: Final = Path(__file__).with_name("sm_timing.yaml")


@dataclass(frozen=True)
class SmTiming:
    """Latencies and rates of one SM that no control word and no device file states, in SM clocks.

    Attributes
    ----------
    alu_lanes, imad_lanes, half_lanes, fp64_lanes, uniform_lanes, convert_lanes
        Lanes of a sub-core's pipes; a warp takes 32 over that many clocks.
    warp_mma
        Rate of mma.sync over the device file's tensor-core rate.
    mma_latency, sfu_latency, shared_latency, l1_latency, constant_latency, special_register_latency, shuffle_latency
        Issue to result, without queueing.
    operand_read
        Issue until a memory instruction has read its registers.
    memory_queue
        Memory instructions that a sub-core holds before issue stalls.
    address_interval, lsu_interval
        Clocks between memory instructions of one sub-core, and of the SM.
    barrier_latency
        Last arrival at a CTA barrier to release.
    branch_bubble, fetch_interval
        Issue gap behind a taken jump; clocks for each 128 bytes of code that are fetched for the first time.
    cta_launch
        Free slot to the next CTA's first instruction.
    sm_port
        Bytes a clock between an SM and the L2, at most.
    l2_delivered
        Share of L2's peak bandwidth that arrives at all SMs together, what it serves to several of them with one read included.
    dram_steady
        Share of DRAM's peak bandwidth in the steady state of a stream that is only read, or only written.
    dram_turnaround
        Share of that which is lost where half of the bytes are read and half are written.
    dram_access
        Bytes that a DRAM channel could move between two activations: what a shorter piece of a line costs (64 bytes come at a time).
    dram_refresh, refresh_share
        Nanoseconds for which a bank of DRAM answers nothing while it is refreshed; share of the time for which that is so.
    merged_sms
        Reads of one line by different SMs, under way together, that L2 serves once.
    l2_kept
        Share of L2 that one kernel can fill before it loses what it used least recently.
    atomic_interval, atomic_block
        Clocks for which a sector of a warp's atomics takes a slice of L2; bytes of consecutive addresses that lie in one slice.
    async_launch, tma_latency, mbarrier_latency
        Bulk copies: gap between two, latency beyond an L2 hit; an mbarrier's arrival to a waiting warp's release.
    try_wait_latency
        A look at an mbarrier to the predicate that says whether its phase has ended.
    wgmma_latency
        Last product of an asynchronous matrix instruction to its result.
    wgmma_depth, tensor_ahead
        Asynchronous matrix instructions in flight; warp-level ones that issue before the one before has ended.
    bank_buffer
        Clocks of bank work that wait behind the address units.
    tensor_memory_bytes
        Bytes a clock and sub-core out of tensor memory.
    sources, statuses
        Source of each number, and whether it is ``published``, ``measured`` or ``assumed``.
    """

    alu_lanes: float
    imad_lanes: float
    half_lanes: float
    fp64_lanes: float
    uniform_lanes: float
    convert_lanes: float
    warp_mma: float
    mma_latency: float
    sfu_latency: float
    shared_latency: float
    l1_latency: float
    constant_latency: float
    special_register_latency: float
    shuffle_latency: float
    operand_read: float
    memory_queue: float
    address_interval: float
    lsu_interval: float
    barrier_latency: float
    branch_bubble: float
    fetch_interval: float
    cta_launch: float
    sm_port: float
    l2_delivered: float
    dram_steady: float
    dram_turnaround: float
    dram_access: float
    dram_refresh: float
    refresh_share: float
    merged_sms: float
    l2_kept: float
    atomic_interval: float
    atomic_block: float
    async_launch: float
    tma_latency: float
    mbarrier_latency: float
    try_wait_latency: float
    wgmma_latency: float
    wgmma_depth: float
    tensor_ahead: float
    bank_buffer: float
    tensor_memory_bytes: float
    sources: Mapping[str, str]
    statuses: Mapping[str, str]

    def assumed(self) -> list[str]:
        """Names of the numbers that no document gives."""
        return sorted(name for name, status in self.statuses.items() if status == "assumed")


_NAMES: Final = tuple(field.name for field in fields(SmTiming) if field.name not in ("sources", "statuses"))
#: Where a number can come from: a document, a public microbenchmark, or nowhere.
STATUSES: Final = ("published", "measured", "assumed")


@cache
def _document() -> dict[str, Any]:
    return read_yaml(PATH)


@cache
def sm_timing(generation: str) -> SmTiming:
    """Timing of a generation's SM.

    Raises
    ------
    UnknownNameError
        A generation that the file does not have, or a status that is none of `STATUSES`.
    SpecError
        A number is missing, unknown, or without a status and a source.

    Examples
    --------
    >>> sm_timing("sm_90").shared_latency
    29.0
    """
    known = [name for name in _document() if name != "default"]
    if generation not in known:
        raise UnknownNameError("generation with SM timing", generation, known)
    entry = _document()[generation]
    for name in entry:
        if name not in _NAMES:
            raise UnknownNameError("SM timing", str(name), _NAMES, where=f"{PATH.name}: {generation}")
    values: dict[str, float] = {}
    sources: dict[str, str] = {}
    statuses: dict[str, str] = {}
    for name in _NAMES:
        node = entry.get(name)
        if not isinstance(node, Mapping) or set(node) != {"value", "status", "source"} or not isinstance(node["value"], int | float):
            raise SpecError(f"{PATH.name}: {generation}.{name}: expected {{value: ..., status: ..., source: ...}}, found {shown(node)}")
        if node["status"] not in STATUSES:
            raise UnknownNameError("status", str(node["status"]), STATUSES, where=f"{PATH.name}: {generation}.{name}")
        if node["value"] < 0:
            raise SpecError(f"{PATH.name}: {generation}.{name}: {node['value']:g} is below 0")
        values[name], sources[name], statuses[name] = float(node["value"]), str(node["source"]), str(node["status"])
    return SmTiming(**values, sources=sources, statuses=statuses)
