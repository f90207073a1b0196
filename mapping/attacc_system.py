"""Decode of a transformer on processors with AttAcc memories, token by token: what each layer takes, overlapped as AttAcc overlaps it.

Layers of one decoder, its weights over all devices (tensor parallel): QKV, attention, projection, two or three feed-forward products, two
all-reduces, norms and an activation function. Source of every formula: AttAcc simulator (public).

* Head-level pipelining: attention of one head hides QKV and projection of the others, and their transfers to and from the units; one head's
  share of the shorter side stays.
* Feed-forward co-processing: the units take the share of each feed-forward product that their bandwidth gives them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ..arch import Estimate
from ..arch.hybrid_spec import CROSSED, PATH, HybridSystem, PimSide, TiledSide
from ..errors import MappingError
from . import pim as forms
from .tiled_side import product, streamed

#: All-reduce: nanoseconds of a hop, and a byte's nanoseconds at 600 GB/s (measured on an A100, AttAcc simulator).
_HOP_NS, _BYTE_NS, _MEASURED_BYTES_PER_S = 6060.0, 0.009, 600e9


@dataclass(frozen=True)
class Decoder:
    """A transformer: decoders, hidden size, heads, head dimension, feed-forward factor, gated activation, bytes of an element."""

    layers: int
    hidden: int
    heads: int
    head_dim: int = 128
    factor: float = 4.0
    gated: bool = False
    element_bytes: int = 2


def token_estimate(system: HybridSystem, model: Decoder, batch: int, keys: int) -> Estimate:
    """One token of every request of a batch whose requests all have `keys` keys.

    Returns
    -------
    Estimate
        Time of all decoders, joules by component (``dram``, ``cache``, ``compute``, ``link``) of all devices.

    Raises
    ------
    MappingError
        A system of another kind than a tiled processor, with AttAcc memories or none.
    """
    xpu, side = system.xpu, system.pim
    if not isinstance(xpu, TiledSide) or (side is not None and side.kernel != "attacc"):
        raise MappingError(f"{system.name}: AttAcc's closed form takes a tiled processor, with AttAcc memories or none")
    devices, size = system.devices, model.element_bytes
    heads = model.heads // devices
    copies, width = heads * batch, int(model.hidden / devices)
    wide = int(model.factor * width)

    def linear(n: int, k: int) -> Estimate:
        return product(xpu, batch, n, k, 1, size)

    qkv, proj = linear(3 * width, model.hidden), linear(model.hidden, width)
    ups = [linear(wide, model.hidden)] * (2 if model.gated else 1)
    feeds = [*ups, linear(model.hidden, wide)]
    act_parts = 3 if model.gated else 2
    act = streamed(xpu, float(act_parts * batch * wide * size), (9.0 if model.gated else 8.0) * batch * wide, "act", size)
    norm = streamed(xpu, 3.0 * batch * model.hidden * size, 5.0 * batch * model.hidden, "norm", size)
    reduce_s, reduce_j = _all_reduce(system, float(batch * model.hidden * size))
    if side is None:
        attention = [product(xpu, 1, keys, model.head_dim, copies, size, False),
                     streamed(xpu, 2.0 * copies * keys * size, 5.0 * copies * keys, "softmax", size),
                     product(xpu, 1, model.head_dim, keys, copies, size, False)]
        attention_s = sum(e.time_s for e in attention)
        extra_j = {name: devices * sum(e.energy_j[name] for e in attention) for name in attention[0].energy_j}
        link_j = 0.0
        time_s = qkv.time_s + proj.time_s + attention_s + sum(e.time_s for e in feeds)
    else:
        attention_s, moves_s, softmax_s, extra_j, link_j = _on_units(system, side, model, batch, keys, copies)
        qkv_s, proj_s, attention_s, moves_s = _overlap(
            system, qkv.time_s, proj.time_s, attention_s, moves_s, softmax_s, heads)
        feed_s = [_shared(e, xpu, side, batch, size) if system.plan.co_processing else e.time_s for e in feeds]
        time_s = qkv_s + proj_s + attention_s + moves_s + sum(feed_s)
    time_s = model.layers * (time_s + act.time_s + 2 * norm.time_s + 2 * reduce_s)
    energy: dict[str, float] = {}
    for e in (qkv, proj, *feeds, act, norm, norm):
        for name, joules in e.energy_j.items():
            energy[name] = energy.get(name, 0.0) + devices * joules
    for name, joules in extra_j.items():
        energy[name] = energy.get(name, 0.0) + joules
    energy["link"] = link_j + 2 * reduce_j
    return Estimate(time_s=time_s, low_s=time_s, high_s=time_s, energy_j={name: model.layers * j for name, j in energy.items()})


def _all_reduce(system: HybridSystem, size_bytes: float) -> tuple[float, float]:
    if system.fabric is None:
        return 0.0, 0.0
    # The link's two directions together.
    rate, part = 2.0 * system.fabric.bandwidth_bytes_per_s, size_bytes / system.devices
    hop_s = max((_HOP_NS + _BYTE_NS * part * _MEASURED_BYTES_PER_S / rate) * 1e-9, part / system.fabric.bandwidth_bytes_per_s)
    return hop_s * (system.devices - 1), system.devices * size_bytes * system.fabric.j_per_byte


def _on_units(system: HybridSystem, side: PimSide, model: Decoder, batch: int, keys: int, copies: int,
              ) -> tuple[float, float, float, dict[str, float], float]:
    """Seconds of attention, of the transfers, of the softmax; joules of the units and of the transfers."""
    devices, size, link = system.devices, model.element_bytes, system.link
    assert link is not None
    device, org = side.device, side.device.organisation
    per_stack = -(-copies // side.count)
    level: Literal["bank", "bg", "buffer"] = {"bank": "bank", "bg": "bg", "buffer": "buffer"}[side.level]  # type: ignore[assignment]
    found = forms.attacc_attention(device, per_stack, keys, head_dim=model.head_dim, element_bytes=size, level=level,
                                   power_limited=side.power_limited)
    external = org.channels * org.pseudo_channels * org.column_bytes / device.timings["tBL"] * device.clock_hz * side.count
    softmax_flops, softmax_bytes = 5.0 * copies * keys, 2.0 * copies * keys * size
    softmax_s = max(softmax_flops / (external * (2 // size)), softmax_bytes / external)
    moved = float((batch * 3 * int(model.hidden / devices) + copies * model.head_dim) * size)
    crossed = PATH[:CROSSED[side.level]]
    read = 2.0 * copies * keys * model.head_dim * size
    macs = float(copies * keys * model.head_dim) + softmax_flops / 2.0
    energy = {"dram": devices * read * 8.0 * sum(device.energy[part] for part in crossed), "mac": devices * macs * device.energy["mac_j"]}
    return found.time_s, moved / link.bandwidth_bytes_per_s, softmax_s, energy, devices * moved * link.j_per_byte


def _overlap(system: HybridSystem, qkv_s: float, proj_s: float, attention_s: float, moves_s: float, softmax_s: float, heads: int,
             ) -> tuple[float, float, float, float]:
    """QKV, projection, attention and transfers as they add up; the softmax hides behind the products of other heads."""
    one = 1.0 / heads
    attending = attention_s + softmax_s
    products = qkv_s + proj_s
    if not system.plan.head_pipeline:
        moves_s = moves_s * one if attending > moves_s else moves_s - attending * (1.0 - one)
    elif attending > products:
        qkv_s, proj_s = qkv_s * one, proj_s * one
        moves_s = moves_s * one if attending > moves_s else moves_s - attending * (1.0 - one)
    elif products > moves_s:
        hidden = attending * (1.0 - one)
        qkv_s, proj_s, moves_s = qkv_s - hidden * 0.75, proj_s - hidden * 0.25, moves_s * one
    else:
        qkv_s, proj_s, moves_s = qkv_s * one, proj_s * one, moves_s - attending * (1.0 - one)
    return qkv_s, proj_s, attention_s, moves_s


#: Bandwidth inside over that outside, by where the units are: power-limited, and not (AttAcc simulator; paper, table 2).
INTERNAL = {True: {"bank": 9.0, "bg": 3.0, "buffer": 1.0}, False: {"bank": 16.0, "bg": 8.0, "buffer": 1.0}}


def _shared(e: Estimate, xpu: TiledSide, side: PimSide, batch: int, element_bytes: int) -> float:
    """Time of a feed-forward product of which the units take their share."""
    scale = INTERNAL[side.power_limited][side.level]
    inside = xpu.bandwidth_bytes_per_s * scale
    if e.limiter == "compute":
        return e.time_s * xpu.flops_per_s / (xpu.flops_per_s + inside / element_bytes * 2.0)
    return e.time_s * xpu.bandwidth_bytes_per_s / (xpu.bandwidth_bytes_per_s + inside / batch)
