"""Decode attention of requests of any length on memory with processing units, in closed form.

An *item* is what one channel does alone: a request with all its heads (Newton, NeuPIMs), or one KV head of a request (AiM, AttAcc). Items
are packed into channels by `presilicon.mapping.packing`. Query heads that share a KV head (grouped-query attention) come one after the
other, since these units multiply one vector at a time.

Newton and NeuPIMs: a tile is one row in every bank of a channel. Scores: banks hold one key each, a row as many heads as fit; context:
banks hold one dimension each, a row as many keys as fit. A tile of n columns and r
results costs (w - 1) tFAW + tRCD + tCCD_L n + tCCD_S (r - 1) + tRP and two command slots, w activates of four banks per rank; that is 184
cycles for a full one with one result (NeuPIMs, scheduler constants). A vector goes into the global buffer in tGWRITE. Refresh stops the
units for longer than it takes (`presilicon.mapping.newton_refresh`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..arch.dram import DramDevice
from ..arch.hybrid_spec import PimSide
from ..errors import MappingError
from . import newton_refresh
from . import pim as forms

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Heads:
    """Heads of one device: KV heads, query heads that share each, dimension, bits of a cached element, and query vectors of a request."""

    kv_heads: int
    group: int
    head_dim: int
    kv_bits: float = 16.0
    queries: int = 1

    @property
    def vectors(self) -> int:
        """Vectors that each KV head is multiplied with."""
        return self.group * self.queries


@dataclass(frozen=True)
class RequestCosts:
    """What attention of each request costs.

    Attributes
    ----------
    items
        Items of one request.
    cycles
        Command clocks of one item of each request, refresh included.
    score_cycles
        The part of it up to the softmax.
    read_bits, path_bits
        Bits that units take from the cells, and bits that cross the path between units and processor, of each request.
    macs
        Multiply-adds of each request.
    commands
        Commands of each request by name, where the kernel counts them.
    score_sent, context_sent
        Commands that the processor sends for each request, up to the softmax and after it; 0 where the kernel does not count them.
    """

    items: int
    cycles: Floats
    score_cycles: Floats
    read_bits: Floats
    path_bits: Floats
    macs: Floats
    commands: Mapping[str, Floats]
    score_sent: Floats
    context_sent: Floats


def request_costs(side: PimSide, heads: Heads, lengths: npt.NDArray[np.int64]) -> RequestCosts:
    """Cost of decode attention for requests of the given context lengths.

    Parameters
    ----------
    side
        The memory and its units.
    heads
        Heads that this device holds.
    lengths
        Keys of each request, int64 of ``(requests,)``, at least 1.

    Raises
    ------
    MappingError
        No request, a length below 1, a head that the units cannot hold, or a kernel without attention.
    """
    if len(lengths) == 0 or int(lengths.min()) < 1:
        raise MappingError(f"{side.device.name}: attention needs requests of at least one key")
    if min(heads.kv_heads, heads.group, heads.head_dim) < 1:
        raise MappingError(f"{side.device.name}: attention needs heads and a head dimension of at least 1, found {heads}")
    distinct, back = np.unique(lengths, return_inverse=True)
    found = {"newton": _newton, "aim": _aim, "attacc": _attacc, "logic": _logic, "upmem": _upmem}[side.kernel](side, heads, distinct)
    return RequestCosts(found.items, found.cycles[back], found.score_cycles[back], found.read_bits[back], found.path_bits[back],
                        found.macs[back], {name: values[back] for name, values in found.commands.items()}, found.score_sent[back],
                        found.context_sent[back])


def tile_cycles(device: DramDevice, columns: int, results: int = 1) -> int:
    """Cycles from the first activate of a tile to that of the next, for so many columns of units and results.

    >>> from presilicon.arch.dram import load
    >>> tile_cycles(load("neupims-hbm2"), 32)
    184
    """
    t, org = device.timings, device.organisation
    # Ranks open at the same time, a slot of the row bus apart.
    opened = (org.bank_groups - 1) * t["tFAW"] + org.pseudo_channels * org.ranks - 1
    close = t["tCCD_L"] + 1
    if all(command.name != "PIMPRE" for command in device.commands):
        close = max(close, t["tRTP"])
    worked = opened + t["tRCDRD"] + (columns - 1) * t["tCCD_L"] + (results - 1) * t["tCCD_S"] + close
    return max(max(worked, opened + t["tRAS"]) + t["tRP"], t["tRC"])


def refreshed(device: DramDevice, cycles: Floats) -> Floats:
    """Cycles with the share of time that refresh takes."""
    if device.refresh is None:
        return cycles
    return cycles / (1.0 - device.timings[device.refresh.duration] / device.timings[device.refresh.interval])


def _newton(side: PimSide, heads: Heads, lengths: npt.NDArray[np.int64]) -> RequestCosts:
    device = side.device
    org, unit = device.organisation, device.pim
    assert unit is not None
    banks, per_row = org.banks_per_channel, int(org.row_bytes * 8 // heads.kv_bits)
    per_column = unit.width_bytes * 8 / heads.kv_bits
    if heads.head_dim > per_row:
        raise MappingError(f"{device.name}: a head of {heads.head_dim} does not fit a row of {per_row} elements")
    gwrite = device.timings["tGWRITE"]
    in_row = per_row // heads.head_dim
    chunks = math.ceil(heads.kv_heads / in_row)
    head_columns = math.ceil(heads.head_dim / per_column)
    last = heads.kv_heads - (chunks - 1) * in_row
    full, short = (tile_cycles(device, head_columns * n, n) for n in (in_row, last))
    key_tiles = np.ceil(lengths / banks)
    ones = np.ones(len(lengths))
    vectors = (float(gwrite), newton_refresh.waiting(gwrite, newton_refresh.vector_estimate(device), 0.0))

    def shaped(length: int, columns: int, results: int = 1) -> tuple[float, float]:
        ahead = newton_refresh.seen_before(device, length, columns, results)
        return length, newton_refresh.waiting(length, newton_refresh.tile_estimate(device, columns, results), ahead)

    rows: Floats = heads.vectors * key_tiles
    score = newton_refresh.refreshed(device, [
        (heads.vectors * chunks * ones, *vectors), ((chunks - 1) * rows, *shaped(full, head_columns * in_row, in_row)),
        (rows, *shaped(short, head_columns * last, last))])
    pages = lengths // per_row
    rest = lengths - pages * per_row
    dimension_tiles = math.ceil(heads.head_dim / banks)
    value_chunks = pages + (rest > 0)
    wide = np.ceil(rest / per_column).astype(np.int64)
    widest, each = math.ceil(per_row / per_column), heads.vectors * heads.kv_heads
    shapes = {columns: shaped(tile_cycles(device, columns), columns) for columns in {widest, *wide.tolist()} - {0}}
    context = newton_refresh.refreshed(device, [
        (each * value_chunks * ones, *vectors), *((each * dimension_tiles * (pages * (columns == widest) + (wide == columns)), *shape)
                                           for columns, shape in shapes.items())])
    tiles = heads.vectors * (chunks * key_tiles + heads.kv_heads * dimension_tiles * value_chunks)
    results = heads.vectors * (heads.kv_heads * key_tiles + heads.kv_heads * dimension_tiles * value_chunks)
    columns = heads.vectors * heads.kv_heads * (
        key_tiles * head_columns + dimension_tiles * np.ceil(lengths / per_column))
    commands = {
        "GWRITE": heads.vectors * (chunks + heads.kv_heads * value_chunks), "GACT": tiles * org.bank_groups * org.ranks,
        "COMP": columns, "READRES": results}
    # The processor sends GWRITE, a header a tile, and a command a column and a read a result, or one for both; the controller activates.
    score_tiles, score_results = heads.vectors * chunks * key_tiles, heads.vectors * heads.kv_heads * key_tiles
    score_columns = score_results * head_columns
    score_sent = heads.vectors * chunks + score_tiles + score_results + (0.0 if side.composite else score_columns)
    sent = commands["GWRITE"] + tiles + results + (0.0 if side.composite else columns)
    return RequestCosts(
        1, score + context, score, columns * unit.width_bytes * 8.0 * banks,
        results * banks * 16.0 + commands["GWRITE"] * org.row_bytes * 8.0, _macs(heads, lengths),
        {name: np.asarray(values, dtype=np.float64) for name, values in commands.items()}, score_sent, sent - score_sent)


def _macs(heads: Heads, lengths: npt.NDArray[np.int64]) -> Floats:
    return 2.0 * heads.kv_heads * heads.vectors * heads.head_dim * lengths.astype(np.float64)


def _uncounted(lengths: npt.NDArray[np.int64]) -> tuple[Floats, Floats]:
    none = np.zeros(len(lengths))
    return none, none


def _path_bits(heads: Heads, lengths: npt.NDArray[np.int64]) -> Floats:
    """Queries in, scores out, probabilities in, results out, 16 bits each."""
    return 16.0 * heads.kv_heads * heads.vectors * (2.0 * heads.head_dim + 2.0 * lengths.astype(np.float64))


def _aim(side: PimSide, heads: Heads, lengths: npt.NDArray[np.int64]) -> RequestCosts:
    device = side.device
    org, banks = device.organisation, device.organisation.banks_per_channel
    per_column = int(org.column_bytes * 8 // heads.kv_bits)
    if per_column < 1:
        raise MappingError(f"{device.name}: elements of {heads.kv_bits:g} bits do not fit a column of {org.column_bytes} bytes")
    columns = math.ceil(heads.head_dim / per_column)
    score = np.array([forms.aim_scores(device, int(n), columns) for n in lengths.tolist()], dtype=np.float64)
    context = np.array([forms.aim_blocks(device, math.ceil(heads.head_dim / banks), math.ceil(int(n) / per_column))
                        for n in lengths.tolist()], dtype=np.float64)
    read = heads.kv_heads * heads.vectors * banks * org.column_bytes * 8.0 * (
        np.ceil(lengths / banks) * columns + math.ceil(heads.head_dim / banks) * np.ceil(lengths / per_column))
    cycles, first = (heads.vectors * refreshed(device, part) for part in (score + context, score))
    return RequestCosts(heads.kv_heads, cycles, first, read, _path_bits(heads, lengths), _macs(heads, lengths), {}, *_uncounted(lengths))


def _attacc(side: PimSide, heads: Heads, lengths: npt.NDArray[np.int64]) -> RequestCosts:
    device, org = side.device, side.device.organisation
    element_bytes = max(1, math.ceil(heads.kv_bits / 8))
    level = {"bank": "bank", "bg": "bg", "buffer": "buffer"}[side.level]
    # Heads come in interleaved pairs: half of a pair is what one costs in a long row of them.
    pair = [forms.attacc_attention(device, 2 * org.channels, int(n), head_dim=heads.head_dim, element_bytes=element_bytes,
                                   level=level, power_limited=side.power_limited, refresh=False).cycles  # type: ignore[arg-type]
            for n in lengths.tolist()]
    cycles = refreshed(device, heads.vectors * np.array(pair, dtype=np.float64) / 2.0)
    read = heads.kv_heads * heads.vectors * 2.0 * heads.kv_bits * heads.head_dim * lengths.astype(np.float64)
    return RequestCosts(heads.kv_heads, cycles, cycles / 2.0, read, _path_bits(heads, lengths), _macs(heads, lengths), {},
                        *_uncounted(lengths))


def _logic(side: PimSide, heads: Heads, lengths: npt.NDArray[np.int64]) -> RequestCosts:
    """Units on the logic die: `scale` times the external bandwidth, `op_per_byte` (Duplex); they read the cache once for a group."""
    device, org = side.device, side.device.organisation
    per_cycle = side.scale * org.column_bytes * org.pseudo_channels / device.timings["tBL"]
    cache = 2.0 * heads.kv_heads * heads.head_dim * lengths.astype(np.float64) * heads.kv_bits / 8.0
    operations = 2.0 * _macs(heads, lengths)
    cycles = np.maximum(cache / per_cycle, operations / (per_cycle * side.op_per_byte)) / heads.kv_heads
    return RequestCosts(heads.kv_heads, refreshed(device, cycles), refreshed(device, cycles / 2.0), cache * 8.0,
                        _path_bits(heads, lengths), _macs(heads, lengths), {}, *_uncounted(lengths))


def _upmem(side: PimSide, heads: Heads, lengths: npt.NDArray[np.int64]) -> RequestCosts:
    """Scalar cores: a head's keys lie over the cores of a channel (a DIMM), and partial contexts are added by the host.

    Two multiply-adds a key and element by the instructions that the device file states, of int8 for caches of up to 8 bits, else of fp32;
    reads from MRAM go on beside them (`presilicon.mapping.pim_gemv.upmem_gemv`).
    """
    device, unit, told = side.device, side.device.pim, side.device.controller
    assert unit is not None
    if "mac_int8" not in told:
        raise MappingError(f"{device.name}: its controller states no instructions (mac_int8, mac_fp32), which kernel 'upmem' needs")
    size, element = (1, "int8") if heads.kv_bits <= 8 else (4, "fp32")
    own = np.ceil(lengths / device.organisation.banks_per_channel)
    work = own * heads.head_dim * told[f"mac_{element}"]
    moved = own * heads.head_dim * size
    dma = np.ceil(moved / told["dma_block"]) * told["dma_cycles"] + moved / told["dma_bytes_per_cycle"]
    score = heads.vectors * (np.maximum(work, dma) + told["stages"]) * device.clock_hz / unit.clock_hz
    read = 2.0 * heads.kv_heads * heads.vectors * size * 8.0 * heads.head_dim * lengths.astype(np.float64)
    return RequestCosts(heads.kv_heads, 2.0 * score, score, read, _path_bits(heads, lengths), _macs(heads, lengths), {},
                        *_uncounted(lengths))
