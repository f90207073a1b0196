"""What each op costs on the processor and on the units in memory of one device of a hybrid system."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from ...arch import Estimate, System
from ...arch.hybrid_spec import PATH, HybridSystem, NpuSide, PimSide, crossed
from ...errors import MappingError
from ...mapping.gpu.machine import Machine
from ...mapping.newton_refresh import refreshed, seen_before, tile_estimate, vector_estimate, waiting
from ...mapping.npu_side import npu_estimate
from ...mapping.packing import Packing, pack, packed
from ...mapping.pim_attention import Heads, RequestCosts, request_costs, tile_cycles
from ...mapping.pim_energy import energy_j
from ...mapping.pim_gemv import newton_shape, weights_s
from ...mapping.pim_products import PRODUCT_KERNELS, product, product_attention
from ...mapping.placement import PIM, PIM_LINEAR, XPU, Room, is_decode_attention, is_linear, keys_of
from ...mapping.tiled_side import tiled_estimate
from ...workloads.graph import OpGraph
from ...workloads.linear import with_dense_weights
from ...workloads.op import Op
from ..dram.neupims import Shares, contention, dual
from ..gpu_run import estimate_ops


@dataclass(frozen=True)
class PimCost:
    """Cost on the units: the estimate, the device of the placement, and for attention how requests lie in channels."""

    estimate: Estimate
    device: str = PIM
    packing: Packing | None = None
    requests: RequestCosts | None = None


def xpu_costs(graph: OpGraph, system: HybridSystem, fidelity: str) -> dict[str, tuple[Estimate, str, str]]:
    """Estimate, family and arithmetic of every op on the processor; collectives go over the fabric."""
    found: dict[str, tuple[Estimate, str, str]] = {}
    if isinstance(system.xpu, System):
        whole = [op for op in graph if op.kind not in ("view", "collective")]
        for r in estimate_ops(OpGraph(graph.name, whole), system.xpu, Machine.of(system.xpu), fidelity):
            found[r.op.name] = (r.estimate, r.family, r.arithmetic)
    for op in graph:
        if op.kind == "collective":
            found[op.name] = (_over_fabric(op, system), "collective", "")
        elif op.name not in found and op.kind != "view":
            if isinstance(system.xpu, NpuSide):
                estimate = npu_estimate(op, system.xpu, keys_of(op) if is_decode_attention(op) else None)
                estimate = _with_dram_energy(estimate, system)
            else:
                assert not isinstance(system.xpu, System)
                estimate = tiled_estimate(_mean_context(op), system.xpu)
            found[op.name] = (estimate, f"xpu.{op.kind}", "fp16" if op.kind in ("matmul", "attention") else "")
    return found


def _mean_context(op: Op) -> Op:
    """Attention of requests of several lengths as that of equal ones, with as many bytes."""
    if not is_decode_attention(op):
        return op
    keys = keys_of(op)
    return replace(op, dims={**op.dims, "s": max(1, round(sum(keys) / len(keys)))})


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


def pim_costs(graph: OpGraph, system: HybridSystem, channels: Sequence[int] | None = None) -> tuple[dict[str, PimCost], list[str]]:
    """Cost of the ops that the units can run, and a note for each kind of op that they should but cannot.

    `channels`: of each request, where they are known; the plan packs otherwise.
    """
    found: dict[str, PimCost] = {}
    notes: dict[str, None] = {}
    if system.pim is None:
        return found, []
    for op in graph:
        try:
            if op.kind == "attention" and not is_decode_attention(op):
                raise MappingError("units attend with at most 8 queries a request")
            if op.kind == "matmul" and op.operand_bytes("cache") and not is_linear(op):
                raise MappingError("attention is written out as matmuls; trace with --attention flash")
            _narrow(op, system)
            if is_decode_attention(op):
                found[op.name] = _attention(op, system, channels)
            elif is_linear(op):
                found[op.name] = PimCost(_linear(op, system.pim_linear or system.pim), PIM if system.pim_linear is None else PIM_LINEAR)
        except MappingError as error:
            notes[f"{op.kind}: stays on the processor: {error}"] = None
    return found, list(notes)


#: Bits of the widest numbers that units multiply; UPMEM's cores take wider ones.
_WIDEST = 16


def _narrow(op: Op, system: HybridSystem) -> None:
    """Raise MappingError where the units that would run an op do not multiply numbers as wide as its weights or cache."""
    attends = is_decode_attention(op)
    side = system.pim if attends else system.pim_linear or system.pim
    if side is None or side.kernel == "upmem" or not (attends or is_linear(op)):
        return
    wide = [o.number_format for o in op.operands if o.role in ("weight", "cache") and o.number_format.element_bits > _WIDEST]
    if wide:
        raise MappingError(f"{side.device.name}: its units multiply numbers of up to {_WIDEST} bits; found {wide[0].name}")


def _attention(op: Op, system: HybridSystem, channels: Sequence[int] | None) -> PimCost:
    side, d = system.pim, op.dims
    assert side is not None
    cache = next((o for o in op.operands if o.role == "cache"), op.operands[1])
    contexts = np.asarray(keys_of(op), dtype=np.int64)
    found = product_attention if side.kernel in PRODUCT_KERNELS else request_costs
    costs = found(side, Heads(d["h"], d["g"], d["e"], cache.number_format.bits, d["q"]), contexts)
    loads = np.repeat(costs.cycles, costs.items)
    if channels is None or costs.items > 1:
        packing = pack(loads, side.channels, system.plan.packing)
    else:
        packing = packed(loads, channels, side.channels)
    cycle_s = side.device.cycle_s
    busy_s = packing.busiest * cycle_s
    sent_s = 0.0
    if side.kernel == "newton":  # two ops, of which the second starts when the processor has every softmax (NeuPIMs, public code)
        parts = ((costs.score_cycles, costs.score_sent), (costs.cycles - costs.score_cycles, costs.context_sent))
        busy_s = sum(_phase_s(side, packing, cycles, sent) for cycles, sent in parts)
        sent_s = float((costs.score_sent + costs.context_sent).sum()) / side.issue_per_s if side.issue_per_s else 0.0
    time_s = side.host_s + busy_s
    flops = 2.0 * float(costs.macs.sum())
    estimate = Estimate(
        time_s=time_s, low_s=time_s, high_s=time_s, flops=flops, clock_hz=side.device.clock_hz,
        busy_s={"pim": busy_s, "pim mean channel": float(packing.load.mean()) * cycle_s, "pim commands": sent_s, "host": side.host_s},
        bytes_moved={"pim": float(costs.read_bits.sum()) / 8.0, "link": float(costs.path_bits.sum()) / 8.0},
        energy_j=_energy_j(side, float(costs.read_bits.sum()), float(costs.path_bits.sum()), float(costs.macs.sum())),
        limiter="pim commands" if 2 * sent_s > busy_s else "pim")
    return PimCost(estimate, PIM, packing, costs)


def _phase_s(side: PimSide, packing: Packing, cycles: npt.NDArray[np.float64], sent: npt.NDArray[np.float64]) -> float:
    """Seconds until the last channel has done its part, whose commands follow those of the channels before it where they are counted.

    NeuPIMs' public code keeps requests by channel, and its blocked baseline sends one command a cycle of the NPU.
    """
    load = np.bincount(packing.channel, weights=cycles, minlength=side.channels) * side.device.cycle_s
    if not side.issue_per_s:
        return float(load.max())
    sending = np.bincount(packing.channel, weights=sent, minlength=side.channels) / side.issue_per_s
    return float((np.cumsum(sending) - sending + np.maximum(load, sending)).max())


def _linear(op: Op, side: PimSide) -> Estimate:
    """Products with weights as one matrix-vector product per row of the batch, but for units on the logic die.

    Units read whole columns of banks, so that pruned weights lie there with their zeros.
    """
    op = with_dense_weights(op)
    d, device = op.dims, side.device
    rows = math.prod(extent for name, extent in d.items() if name not in ("n", "k"))
    weight = next(o for o in op.operands if o.role == "weight")
    bits = weight.number_format.bits
    if side.kernel in ("aim", "attacc", "upmem"):
        cycles = sum(times * weights_s(device, side.kernel, math.ceil(d["n"] / side.count), d["k"], bits=bits, level=side.level,
                                       power_limited=side.power_limited, vectors=vectors)
                     for vectors, times in _passes(op, side.vectors)) / device.cycle_s
    elif side.kernel in PRODUCT_KERNELS:
        cycles = rows * product(device, side.kernel, math.ceil(d["n"] / side.count), d["k"], bits).cycles
    elif side.kernel == "newton":
        cycles = rows * _newton_cycles(side, d["n"], d["k"], bits)
    else:
        org = device.organisation
        rate = side.scale * org.column_bytes * org.pseudo_channels / device.timings["tBL"] * side.channels
        size = op.operand_bytes("weight")
        cycles = max(size / rate, 2.0 * op.scalar_ops("mac") / (rate * side.op_per_byte))
    time_s = side.host_s + cycles * device.cycle_s
    # Each vector, or as many as units take at once, reads one matrix, of its own expert where there are several.
    reads = sum(times for _, times in _passes(op, side.vectors))
    read_bits = op.operand_bytes("weight") * 8.0 if side.kernel == "logic" else float(reads) * d["n"] * d["k"] * bits
    path_bits = (op.operand_bytes("input") + op.bytes_written) * 8.0
    return Estimate(
        time_s=time_s, low_s=time_s, high_s=time_s, busy_s={"pim": time_s - side.host_s, "host": side.host_s}, limiter="pim",
        bytes_moved={"pim": read_bits / 8.0, "link": path_bits / 8.0}, flops=op.flops, clock_hz=device.clock_hz,
        energy_j=_energy_j(side, read_bits, path_bits, op.scalar_ops("mac")))


def _energy_j(side: PimSide, read_bits: float, path_bits: float, macs: float) -> dict[str, float]:
    """Joules of the units by part of the path, each named after the memory: ``"pim cell"``, ``"pim io"``, ``"pim mac"``."""
    found = energy_j(side.device, crossed(side), read_bits=read_bits, path_bits=path_bits, macs=macs)
    return {f"pim {part}": joules for part, joules in found.items()}


def _passes(op: Op, most: int) -> list[tuple[int, int]]:
    """Passes over a matrix by the vectors that each takes, `most` at once: (vectors, how many such passes).

    Experts have a matrix each, and tokens are dealt over them evenly.
    """
    weight = next(o for o in op.operands if o.role == "weight")
    own = {name for axis in weight.projection for name, _ in axis}
    matrices = math.prod(extent for name, extent in op.dims.items() if name not in ("n", "k") and name in own)
    each = math.prod(extent for name, extent in op.dims.items() if name not in ("n", "k")) // matrices
    experts = int(op.attributes.get("groups") or 1)
    few, more = divmod(each, experts)  # so many experts have one token more
    found: dict[int, int] = {}
    for tokens, times in ((few + 1, more), (few, experts - more)):
        for vectors, passes in ((most, tokens // most), (tokens % most, 1)):
            if vectors and passes and times:
                found[vectors] = found.get(vectors, 0) + passes * times * matrices
    return list(found.items())


def _newton_cycles(side: PimSide, outputs: int, inputs: int, bits: float) -> float:
    """Cycles of one vector on the channels of all stacks, buffer writes and mean refresh included."""
    device = side.device
    groups, blocks = newton_shape(device, outputs, inputs, bits=bits, channels=side.channels)
    kinds = [(np.array([float(len(blocks))]), device.timings["tGWRITE"], waiting(device.timings["tGWRITE"], vector_estimate(device), 0.0))]
    for columns in blocks:
        length = tile_cycles(device, columns)
        wait = waiting(length, tile_estimate(device, columns), seen_before(device, length, columns))
        kinds.append((np.array([float(groups)]), length, wait))
    return float(refreshed(device, kinds)[0])


def shares_of(system: HybridSystem) -> Shares | None:
    """What processor and units lose to each other, command by command; None where they never share memory, or no kernel here plays both."""
    side = system.pim
    if side is None or side.kernel != "newton" or (side.memory, side.access) != ("shared", "concurrent") or not dual(side.device):
        return None
    return contention(side.device)


def seconds(costs: Mapping[str, tuple[Estimate, str, str]], units: Mapping[str, PimCost]) -> dict[str, dict[str, float]]:
    """Seconds by op and device, as `presilicon.mapping.placement` takes them."""
    return {name: {XPU: cost[0].time_s} | ({units[name].device: units[name].estimate.time_s} if name in units else {})
            for name, cost in costs.items()}


def home_of(system: HybridSystem) -> dict[str, str]:
    """In whose memory each device works: units that share the processor's memory in that, others in one of their own."""
    return {XPU: XPU} | {name: XPU if side.memory == "shared" else name for name, side in system.sides.items()}


def stored_bytes(op: Op) -> float:
    """Bytes of an op's weights in memory: of all experts, also those that no token of the step goes to."""
    size = op.operand_bytes("weight")
    experts = int(op.attributes.get("groups") or 1)
    if not size or experts == 1 or op.kind != "matmul":
        return size
    weight = next(o for o in op.operands if o.role == "weight")
    return max(size, size / op.elements(weight) * experts * op.dims["n"] * op.dims["k"])


def room_of(graph: OpGraph, system: HybridSystem) -> Room:
    """What the weights and caches of each op take of one device's share, and what units and processor hold."""
    held = {op.name: op.count * (stored_bytes(op) + op.operand_bytes("cache")) for op in graph}
    separate = {name: side.size_bytes for name, side in system.sides.items() if side.memory == "separate"}
    own = system.memory_bytes / system.devices - sum(separate.values())
    if not separate and all(side.size_bytes >= own for side in system.sides.values()):
        return Room(held, {}, home_of(system))  # one memory, whatever runs where
    if not separate and system.pim_linear is None:
        return Room(held, {PIM: sum(side.size_bytes for side in system.sides.values())})  # units in a part of the memory
    return Room(held, {XPU: own, **separate}, home_of(system))
