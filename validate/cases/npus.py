"""Workloads and measures of NPUs."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

from ...arch import AnySystem
from ...arch.npu import NpuSystem
from ...errors import CaseError, UnknownNameError
from ...workloads import NumberFormat, OpGraph
from ...workloads.formats import by_name
from ...workloads.op import Axis, Op, Operand, tensor
from .registry import builders, measures

if TYPE_CHECKING:
    from ...sim.result import Simulation

FP16 = by_name("fp16")


@measures.add("1")
def npu_speedup(graph: OpGraph, baseline: OpGraph, system: AnySystem, fidelity: str = "tile") -> float:
    """Predicted time of the baseline on an NPU over that of the workload."""
    from ...sim.run import simulate

    times = [simulate(each, system, fidelity=fidelity).time_s for each in (baseline, graph)]  # type: ignore[arg-type]
    return times[0] / times[1]


@builders.add()
def convolutions(layers: list[list[int]], batch: int = 1, values: NumberFormat = FP16, chained: bool = False) -> OpGraph:
    """Convolutions, each ``[channels, size, filters, window, stride, outputs, groups, count]``: square images, windows and outputs.

    Each stands alone, or if `chained` reads the result of the one before, and `count` says how often it stands in the chain.
    """
    if any(len(layer) != 8 for layer in layers):
        raise CaseError("layers: expected channels, size, filters, window, stride, outputs, groups and count of each")
    rows = [layer for each in layers for layer in [[*each[:-1], 1]] * each[-1]] if chained else layers
    ops = [_convolution(f"conv{i}", layer, batch, values) for i, layer in enumerate(rows, 1)]
    return OpGraph("convolutions", ops, [(a.name, b.name, "a") for a, b in pairwise(ops)] if chained else [])


@builders.add()
def chain(m: int, width: int, layers: int, values: NumberFormat = FP16) -> OpGraph:
    """Square products, each of which reads the result of the one before: m rows, as wide as deep."""
    kind = values.name
    operands = (tensor("a", "input", "m k", kind), tensor("w", "weight", "k n", kind), tensor("out", "output", "m n", kind))
    dims = {"m": m, "n": width, "k": width}
    ops = [Op(f"layer{i}", "matmul", "aten.linear.default", dims, operands, {"mac": 1.0}) for i in range(layers)]
    return OpGraph("chain", ops, [(a.name, b.name, "a") for a, b in pairwise(ops)])


def _convolution(name: str, layer: list[int], batch: int, values: NumberFormat) -> Op:
    channels, size, filters, window, stride, out, groups, count = layer
    padding = max(0, (out - 1) * stride + window - size + 1) // 2
    dims = {"b": batch, "g": groups, "m": filters // groups, "c": channels // groups, "p": out, "q": out, "r": window, "s": window}
    group: Axis = (("g", filters // groups), ("m", 1))
    image = ((("b", 1),), (("g", channels // groups), ("c", 1)), (("p", stride), ("r", 1)), (("q", stride), ("s", 1)))
    operands = (
        Operand("a", "input", image, values, batch * channels * size * size),
        Operand("w", "weight", (group, (("c", 1),), (("r", 1),), (("s", 1),)), values),
        Operand("out", "output", ((("b", 1),), group, (("p", 1),), (("q", 1),)), values),
    )
    attributes = {"stride": [stride] * 2, "padding": [padding] * 2, "dilation": [1, 1], "groups": groups}
    return Op(name, "conv", "aten.conv2d.default", dims, operands, {"mac": 1.0}, attributes, count=count)


@measures.add("s")
def npu_time(graph: OpGraph, system: AnySystem, fidelity: str = "tile", layer: str = "") -> float:
    """Predicted time of a workload on an NPU; `layer` only names it."""
    return _simulated(graph, system, fidelity).time_s


@measures.add("s")
def npu_array_time(graph: OpGraph, system: AnySystem, layer: str = "") -> float:
    """Time for which an NPU's matrix engines work, as the mapper maps each product; `layer` only names them."""
    from ...mapping.npu.compile import compile_graph

    npu = _npu(system)
    compiled = compile_graph(graph, npu)
    return sum(plan.matrix_clk * c.group.lead.count for c in compiled for plan in c.plans) / npu.clock_hz


@measures.add("B")
def npu_dram_bytes(graph: OpGraph, system: AnySystem, layer: str = "") -> float:
    """Bytes between an NPU and its DRAM; `layer` only names the workload."""
    return _simulated(graph, system, "tile").total.bytes_moved["dram"]


@measures.add("FLOP/s")
def npu_throughput(graph: OpGraph, system: AnySystem, fidelity: str = "tile") -> float:
    """FLOPs of a workload's matrix products over its predicted time on an NPU, a multiply-accumulate being two."""
    work = sum(op.flops * op.count for op in graph if op.kind in ("matmul", "conv", "attention"))
    return work / _simulated(graph, system, fidelity).time_s


@measures.add("W")
def npu_power(graph: OpGraph, system: AnySystem) -> float:
    """Mean power of an NPU without its DRAM while it runs a workload."""
    found = _simulated(graph, system, "tile")
    return sum(joules for name, joules in found.total.energy_j.items() if name != "dram") / found.time_s


def _simulated(graph: OpGraph, system: AnySystem, fidelity: str) -> Simulation:
    from ...sim.npu.run import simulate_npu

    if fidelity not in ("analytic", "tile"):
        raise CaseError(str(UnknownNameError("fidelity", fidelity, ("analytic", "tile"))))
    return simulate_npu(graph, _npu(system), fidelity)


def _npu(system: AnySystem) -> NpuSystem:
    if not isinstance(system, NpuSystem):
        raise CaseError(f"{system.name}: expected an NPU")
    return system
