"""Closed form of a processor known by its peaks, with two levels of cache that decide what its products move (the xPU of AttAcc).

A product (m, n, k) is cut into level-1 tiles that fit a core and, around them, level-2 tiles that fit the cache; a tile of (tm, tn) reads
ceil(n / tn) m k + ceil(m / tm) n k and writes m n elements. The level-1 tile has the least traffic over the square of the share of cores
that its grid keeps busy, the level-2 tile the least traffic. Time is the longer of FLOPs over the reached peak and bytes over the reached
bandwidth, both times that share of cores. Source: AttAcc simulator (public), its xPU model.

Activation functions and norms take a fixed time and one per byte, as measured there on an A100: 8.29 us and 0.447 ns/kB, 6.87 us and
1.6 ns/kB, at 1,555 GB/s.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Final

import numpy as np

from ..arch import Estimate
from ..arch.hybrid_spec import TiledSide
from ..workloads.op import Op

_TILES: Final = (8, 16, 32, 64, 128, 192, 256, 320, 384, 448, 512)
_DEPTH: Final = 32
#: Depth of a level-2 tile: k over this (found by experiment there).
_L2_PARTS: Final = 64
#: Register tile.
_REGISTER: Final = 16
#: Microseconds, and microseconds a byte at 1,555 GB/s, of activation functions and of norms.
_ACT: Final = (8.29, 4.47e-7)
_NORM: Final = (6.87, 1.6e-6)
_MEASURED_BYTES_PER_S: Final = 1.555e12


def traffic(m: float, n: float, k: float, tm: float, tn: float) -> float:
    """Elements that a product moves with tiles of ``(tm, tn)``."""
    return math.ceil(n / tn) * m * k + math.ceil(m / tm) * n * k + m * n


@lru_cache(maxsize=4096)
def tiles(m: int, n: int, k: int, copies: int, element_bytes: int, weights: bool, side_key: tuple[int, float, float]) -> tuple[int, ...]:
    """Level-1 and level-2 tiles of a product: ``(l1_m, l1_n, l2_m, l2_n)``; `side_key` is cores, L1 and L2 bytes."""
    cores, l1_bytes, l2_bytes = side_key
    best, chosen = math.inf, (min(_TILES[0], m), min(_TILES[0], n))
    for tm in dict.fromkeys(min(t, m) for t in _TILES):
        for tn in dict.fromkeys(min(t, n) for t in _TILES):
            if (tm + tn) * _DEPTH * element_bytes + tm * tn * element_bytes > l1_bytes:
                continue
            blocks = copies * (math.ceil(m / tm) * math.ceil(n / tn) if weights else 1)
            cost = copies * element_bytes * traffic(m, n, k, tm, tn) / (blocks / (math.ceil(blocks / cores) * cores)) ** 2
            if cost < best:
                best, chosen = cost, (tm, tn)
    l1_m, l1_n = chosen
    rows = np.unique(np.minimum(np.append(np.arange(1, m // l1_m + 1) * l1_m, m), m)).astype(float)[:, None]
    cols = np.unique(np.minimum(np.append(np.arange(1, n // l1_n + 1) * l1_n, n), n)).astype(float)[None, :]
    fits = ((rows + cols) * (k / _L2_PARTS) + rows * cols) * element_bytes <= l2_bytes
    fits |= (rows == l1_m) & (cols == l1_n)
    moved = np.where(fits, np.ceil(m / rows) * n * k + np.ceil(n / cols) * m * k + m * n, np.inf)
    at = np.unravel_index(int(np.argmin(moved)), moved.shape)
    return l1_m, l1_n, int(rows[at[0], 0]), int(cols[0, at[1]])


def product(side: TiledSide, m: int, n: int, k: int, copies: int = 1, element_bytes: int = 2, weights: bool = True) -> Estimate:
    """`copies` products of ``(m, k)`` by ``(k, n)``; with `weights`, a grid of tiles fills the cores, otherwise one product a core."""
    l1_m, l1_n, l2_m, l2_n = tiles(m, n, k, copies, element_bytes, weights, (side.cores, side.l1_bytes, side.l2_bytes))
    blocks = copies * (math.ceil(m / l1_m) * math.ceil(n / l1_n) if weights else 1)
    share = blocks / (math.ceil(blocks / side.cores) * side.cores)
    size = copies * element_bytes
    moved = {"dram": size * traffic(m, n, k, l2_m, l2_n), "l2": size * traffic(m, n, k, l1_m, l1_n),
             "l1": size * traffic(m, n, k, _REGISTER, _REGISTER), "register": 3.0 * m * n * k}
    flops = 2.0 * m * n * k * copies
    return _estimate(side, flops, moved, flops / (side.flops_per_s * side.compute_share * share * (2 // element_bytes)),
                     moved["dram"] / (side.bandwidth_bytes_per_s * side.memory_share * share))


def _estimate(side: TiledSide, flops: float, moved: dict[str, float], compute_s: float, memory_s: float) -> Estimate:
    time_s = max(compute_s, memory_s)
    energy = {name: moved[name] * side.energy[name] for name in ("dram", "l2", "l1", "register")}
    energy["mac"] = flops / 2.0 * side.energy["mac"]
    return Estimate(time_s=time_s, low_s=time_s, high_s=time_s, energy_j=energy, bytes_moved=moved, flops=flops,
                    busy_s={"compute": compute_s, "dram": memory_s}, limiter="compute" if compute_s > memory_s else "dram")


def streamed(side: TiledSide, size_bytes: float, flops: float, kind: str, element_bytes: int = 2) -> Estimate:
    """An activation function (``"act"``), a norm (``"norm"``), or anything else that moves its operands once."""
    moved = dict.fromkeys(("dram", "l2", "l1", "register"), size_bytes)
    compute_s = flops / (side.flops_per_s * side.compute_share * (2 // element_bytes))
    if kind in ("act", "norm"):
        fixed, per_byte = _ACT if kind == "act" else _NORM
        memory_s = (fixed + per_byte * (_MEASURED_BYTES_PER_S / side.bandwidth_bytes_per_s) * size_bytes) * 1e-6
    else:
        memory_s = size_bytes / (side.bandwidth_bytes_per_s * side.memory_share)
    return _estimate(side, flops, moved, compute_s, memory_s)


def tiled_estimate(op: Op, side: TiledSide) -> Estimate:
    """Time, traffic and energy of one run of an op of a graph."""
    d = op.dims
    element_bytes = 1 if op.operands and max(o.number_format.bits for o in op.operands) <= 8 else 2
    if op.kind == "matmul":
        copies = math.prod(extent for name, extent in d.items() if name not in ("m", "n", "k"))
        groups = int(op.attributes.get("groups") or 1)  # experts: each has weights of its own and its share of the rows, if any
        few, more = divmod(d["m"], groups)
        shares = [product(side, rows, d["n"], d["k"], copies * times, element_bytes, op.operand_bytes("weight") > 0)
                 for rows, times in ((few + 1, more), (few, groups - more)) if rows and times]
        return sum(shares[1:], start=shares[0])
    if op.kind == "attention":
        copies, rows = d["b"] * d["h"], d["g"] * d["q"]
        parts = (product(side, rows, d["s"], d["e"], copies, element_bytes, False),
                 streamed(side, 2.0 * copies * rows * d["s"] * element_bytes, 5.0 * copies * rows * d["s"], "softmax", element_bytes),
                 product(side, rows, d["e"], d["s"], copies, element_bytes, False))
        return parts[0] + parts[1] + parts[2]
    kind = {"norm": "norm", "elementwise": "act"}.get(op.kind, op.kind)
    size = op.bytes_read + op.bytes_written
    found = streamed(side, size, op.flops, kind, element_bytes)
    # The measured slope is that of activation functions, whose operands partly come from level 2; memory is no faster than its peak.
    return found if found.time_s * side.bandwidth_bytes_per_s >= size else streamed(side, size, op.flops, "copy", element_bytes)
