"""What a system made of pruned weights: a note for the report, and the memory of those that lie dense all the same."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import replace
from typing import Final

from ..arch import System
from ..arch.hybrid_spec import HybridSystem, NpuSide
from ..arch.spec import SKIPPED_PATTERNS
from ..mapping.gpu.sparse import SUFFIX
from ..mapping.placement import XPU
from ..workloads.linear import sparsity_of, with_dense_weights
from .result import OpResult, Simulation

#: Kernels of units in memory that multiply weights (`presilicon.sim.hybrid.costs`).
WEIGHT_KERNELS: Final = ("aim", "newton", "logic")


def with_sparsity(simulation: Simulation) -> Simulation:
    """The simulation with a note of what its pruned weights gained; unchanged where there are none."""
    pruned = [r for r in simulation.results if sparsity_of(r.op) is not None]
    if not pruned:
        return simulation
    system = simulation.system
    if isinstance(system, System):
        return replace(simulation, notes=(*simulation.notes, *_gpu(pruned, system)))
    if system.kind == "npu":
        lines = [f"{_products(found)} weights lie pruned in DRAM and are expanded on their way in; {system.name} multiplies the zeros too"
                 for found in _by_pattern(pruned).values()]
        return replace(simulation, notes=(*simulation.notes, *lines))
    return _hybrid(simulation, pruned, system)  # type: ignore[arg-type]


def _by_pattern(results: Iterable[OpResult]) -> dict[str, list[OpResult]]:
    found: dict[str, list[OpResult]] = defaultdict(list)
    for r in results:
        pattern = sparsity_of(r.op)
        if pattern is not None:
            found[pattern.name].append(r)
    return found


def _products(results: Iterable[OpResult]) -> str:
    """``"2:4, 224 products:"``."""
    listed = list(results)
    pattern = sparsity_of(listed[0].op)
    assert pattern is not None
    runs = sum(r.op.count for r in listed)
    return f"{pattern.name}, {runs} product{'s' if runs > 1 else ''}:"


def _gpu(results: Iterable[OpResult], system: System) -> list[str]:
    speedup, lines = system.gpu.sm.sparse_speedup, []
    for found in _by_pattern(results).values():
        skipped = [r for r in found if r.arithmetic.endswith(SUFFIX)]
        expanded = [r for r in found if not r.arithmetic.endswith(SUFFIX)]
        if skipped:
            arithmetics = ", ".join(sorted({r.arithmetic.removesuffix(SUFFIX) for r in skipped}))
            lines.append(f"{_products(skipped)} the tensor cores skip the zeros, {speedup:g} x the dense {arithmetics} rate at most; "
                         "FLOPs count the zeros")
        if expanded:
            why = _why(expanded, system)
            lines.append(f"{_products(expanded)} loaded as sparse, computed as dense: fewer bytes, no fewer operations; {why}")
    return lines


def _why(results: list[OpResult], system: System) -> str:
    if system.gpu.sm.sparse_speedup <= 1:
        return f"{system.name} has no sparse tensor cores"
    arithmetics = sorted({r.arithmetic for r in results})
    can = ["/".join(SKIPPED_PATTERNS[a]) + f" in {a}" for a in arithmetics if a in SKIPPED_PATTERNS]
    return f"the tensor cores skip only {', '.join(can)}" if can else f"the tensor cores skip nothing in {', '.join(arithmetics)}"


def _hybrid(simulation: Simulation, pruned: list[OpResult], system: HybridSystem) -> Simulation:
    lines, memory, xpu = list(simulation.notes), simulation.memory, system.xpu
    used = any(r.place not in ("", XPU) for r in simulation.results)
    side = system.pim_linear or system.pim
    shared = used and system.plan.co_processing and side is not None and side.kernel in WEIGHT_KERNELS
    in_units = [r for r in pruned if r.place not in ("", XPU) or shared]
    beside = [r for r in pruned if r not in in_units]
    dense = in_units
    for found in _by_pattern(in_units).values():
        lines.append(f"{_products(found)} the units in memory need every weight in its place: zeros lie there too, and nothing is gained")
    if isinstance(xpu, System):
        lines += _gpu(beside, xpu)
    elif isinstance(xpu, NpuSide):
        lines += [f"{_products(found)} weights are expanded on their way to the processor, which multiplies the zeros too"
                  for found in _by_pattern(beside).values()]
    else:
        dense = pruned
        lines += [f"{_products(found)} the processor's kernels take dense weights: zeros lie in memory too, and nothing is gained"
                  for found in _by_pattern(beside).values()]
    if dense and "weights" in memory.parts_bytes:
        more = sum(r.op.count * (with_dense_weights(r.op).operand_bytes("weight") - r.op.operand_bytes("weight")) for r in dense)
        parts = {**memory.parts_bytes, "weights": memory.parts_bytes["weights"] + _copies(simulation, system) * more}
        memory = replace(memory, parts_bytes=parts)
    return replace(simulation, notes=tuple(lines), memory=memory)


def _copies(simulation: Simulation, system: HybridSystem) -> int:
    """Devices whose weights the graph's memory counts: all of them, unless the graph is one device's share."""
    return 1 if "parallel" in simulation.graph.meta else system.devices
