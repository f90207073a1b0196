"""What each op costs on the processor and on the units in memory of one device of a hybrid system."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ...arch import Estimate, System
from ...arch.hybrid_spec import HybridSystem, NpuSide, PimSide
from ...errors import MappingError
from ...mapping import pim as forms
from ...mapping.gpu.machine import Machine
from ...mapping.npu_side import npu_estimate
from ...mapping.packing import Packing, pack
from ...mapping.pim_attention import CROSSED, PATH, Heads, RequestCosts, refreshed, request_costs, tile_cycles
from ...mapping.pim_gemv import newton_shape
from ...mapping.placement import is_decode_attention, is_linear
from ...mapping.tiled_side import tiled_estimate
from ...workloads.graph import OpGraph
from ...workloads.op import Op
from ..gpu_run import estimate_ops


@dataclass(frozen=True)
class PimCost:
    """Cost on the units: the estimate, and for attention how requests lie in channels."""

    estimate: Estimate
    packing: Packing | None = None
    requests: RequestCosts | None = None


def xpu_costs(graph: OpGraph, system: HybridSystem, fidelity: str, lengths: Sequence[int] | None) -> dict[str, tuple[Estimate, str, str]]:
    """Estimate, family and arithmetic of every op on the processor; collectives go over the fabric."""
    found: dict[str, tuple[Estimate, str, str]] = {}
    if isinstance(system.xpu, System):
        whole = [op for op in graph if op.kind not in ("view", "collective")]
        mean = OpGraph(graph.name, [_mean_context(op, lengths) for op in whole])
        for r in estimate_ops(mean, system.xpu, Machine.of(system.xpu), fidelity):
            found[r.op.name] = (r.estimate, r.family, r.arithmetic)
    for op in graph:
        if op.kind == "collective":
            found[op.name] = (_over_fabric(op, system), "collective", "")
        elif op.name not in found and op.kind != "view":
            if isinstance(system.xpu, NpuSide):
                estimate = npu_estimate(op, system.xpu, tuple(lengths) if lengths is not None and is_decode_attention(op) else None)
                estimate = _with_dram_energy(estimate, system)
            else:
                assert not isinstance(system.xpu, System)
                estimate = tiled_estimate(_mean_context(op, lengths), system.xpu)
            found[op.name] = (estimate, f"xpu.{op.kind}", "fp16" if op.kind in ("matmul", "attention") else "")
    return found


def _mean_context(op: Op, lengths: Sequence[int] | None) -> Op:
    """Attention of requests of several lengths as that of equal ones, with as many bytes."""
    if lengths is None or not is_decode_attention(op):
        return op
    return replace(op, dims={**op.dims, "s": max(1, round(sum(lengths) / len(lengths)))})


def _with_dram_energy(estimate: Estimate, system: HybridSystem) -> Estimate:
    """Ordinary accesses cross the whole path from the cells."""
    energy = system.pim.device.energy if system.pim is not None else {}
    per_bit = sum(energy.get(part, 0.0) for part in PATH) or _HBM_J_PER_BIT
    return replace(estimate, energy_j={**estimate.energy_j, "dram": estimate.bytes_moved.get("dram", 0.0) * 8.0 * per_bit})


#: Off-chip HBM read where no memory file says: the sum of AttAcc's table (O'Connor et al., MICRO 2017).
_HBM_J_PER_BIT = 3.59e-12


def _over_fabric(op: Op, system: HybridSystem) -> Estimate:
    """Ring all-reduce: 2 (p - 1) / p of the bytes each way and 2 (p - 1) hops (Thakur et al., 2005)."""
    if system.fabric is None or system.devices == 1:
        return Estimate()
    p, size = system.devices, op.operand_bytes("input")
    moved = 2.0 * (p - 1) / p * size
    time_s = moved / system.fabric.bandwidth_bytes_per_s + 2 * (p - 1) * system.fabric.latency_s
    return Estimate(time_s=time_s, low_s=time_s, high_s=time_s, busy_s={"fabric": time_s}, bytes_moved={"fabric": moved}, limiter="fabric",
                    energy_j={"fabric": moved * system.fabric.j_per_byte})


def pim_costs(graph: OpGraph, system: HybridSystem, lengths: Sequence[int] | None) -> tuple[dict[str, PimCost], list[str]]:
    """Cost of the ops that the units can run, and a note for each kind of op that they should but cannot."""
    found: dict[str, PimCost] = {}
    notes: dict[str, None] = {}
    if system.pim is None:
        return found, []
    for op in graph:
        try:
            if is_decode_attention(op):
                found[op.name] = _attention(op, system, lengths)
            elif is_linear(op):
                cost = _linear(op, system.pim)
                if cost is not None:
                    found[op.name] = PimCost(cost)
        except MappingError as error:
            notes[f"{op.kind}: stays on the processor: {error}"] = None
    return found, list(notes)


def _attention(op: Op, system: HybridSystem, lengths: Sequence[int] | None) -> PimCost:
    side, d = system.pim, op.dims
    assert side is not None
    cache = next((o for o in op.operands if o.role == "cache"), op.operands[1])
    contexts = np.asarray(lengths if lengths is not None else (d["s"],) * d["b"], dtype=np.int64)
    costs = request_costs(side, Heads(d["h"], d["g"], d["e"], cache.number_format.bits, d["q"]), contexts)
    packing = pack(np.repeat(costs.cycles, costs.items), side.channels, system.plan.packing)
    cycle_s = side.device.cycle_s
    time_s = side.host_s + packing.busiest * cycle_s
    crossed = CROSSED[side.level if side.kernel == "attacc" else "logic" if side.kernel == "logic" else "bank"]
    energy = side.device.energy
    read_j = sum(energy.get(part, 0.0) for part in PATH[:crossed])
    path_j = sum(energy.get(part, 0.0) for part in PATH[crossed:])
    flops = 2.0 * float(costs.macs.sum())
    estimate = Estimate(
        time_s=time_s, low_s=time_s, high_s=time_s, flops=flops, clock_hz=side.device.clock_hz,
        busy_s={"pim": time_s - side.host_s, "pim mean channel": float(packing.load.mean()) * cycle_s, "host": side.host_s},
        bytes_moved={"pim": float(costs.read_bits.sum()) / 8.0, "link": float(costs.path_bits.sum()) / 8.0},
        energy_j={"pim cells": float(costs.read_bits.sum()) * read_j, "pim path": float(costs.path_bits.sum()) * path_j,
                  "pim mac": float(costs.macs.sum()) * energy.get("mac_j", 0.0)}, limiter="pim")
    return PimCost(estimate, packing, costs)


def _linear(op: Op, side: PimSide) -> Estimate | None:
    """Products with weights as one matrix-vector product per row of the batch; None for units that do not hold weights."""
    d, device = op.dims, side.device
    rows = math.prod(extent for name, extent in d.items() if name not in ("n", "k"))
    weight = next(o for o in op.operands if o.role == "weight")
    bits = weight.number_format.bits
    if side.kernel == "aim":
        element_bytes = max(1, round(bits / 8))
        cycles = rows * float(forms.best_gemv(device, math.ceil(d["n"] / side.count), d["k"], element_bytes=element_bytes).cycles)
    elif side.kernel == "newton":
        cycles = rows * _newton_cycles(side, d["n"], d["k"], bits)
    elif side.kernel == "logic":
        org = device.organisation
        rate = side.scale * org.column_bytes * org.pseudo_channels / device.timings["tBL"] * side.channels
        size = op.operand_bytes("weight")
        cycles = max(size / rate, 2.0 * op.scalar_ops("mac") / (rate * side.op_per_byte))
    else:
        return None
    time_s = side.host_s + cycles * device.cycle_s
    read_bits = op.operand_bytes("weight") * 8.0 * (1 if side.kernel == "logic" else rows)
    crossed = CROSSED["logic" if side.kernel == "logic" else "bank"]
    read_j = sum(device.energy.get(part, 0.0) for part in PATH[:crossed])
    path_bits = (op.operand_bytes("input") + op.bytes_written) * 8.0
    return Estimate(
        time_s=time_s, low_s=time_s, high_s=time_s, busy_s={"pim": time_s - side.host_s, "host": side.host_s}, limiter="pim",
        bytes_moved={"pim": read_bits / 8.0, "link": path_bits / 8.0}, flops=op.flops, clock_hz=device.clock_hz,
        energy_j={"pim cells": read_bits * read_j, "pim path": path_bits * sum(device.energy.get(part, 0.0) for part in PATH[crossed:]),
                  "pim mac": op.scalar_ops("mac") * device.energy.get("mac_j", 0.0)})


def _newton_cycles(side: PimSide, outputs: int, inputs: int, bits: float) -> float:
    """Cycles of one vector on the channels of all stacks, buffer writes and mean refresh included."""
    device = side.device
    groups, blocks = newton_shape(device, outputs, inputs, bits=bits, channels=side.channels)
    body = sum(device.timings["tGWRITE"] + groups * tile_cycles(device, columns) for columns in blocks)
    return float(refreshed(device, np.array(body, dtype=np.float64)))


def seconds(costs: Mapping[str, tuple[Estimate, str, str]], units: Mapping[str, PimCost]) -> dict[str, dict[str, float]]:
    """Seconds by op and device, as `presilicon.mapping.placement` takes them."""
    return {name: {"xpu": cost[0].time_s} | ({"pim": units[name].estimate.time_s} if name in units else {}) for name, cost in costs.items()}
