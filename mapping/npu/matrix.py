"""A product on an NPU's matrix engines: the best mapping, found once for each shape, and what it costs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from typing import Final

from ...arch.hierarchy import Hierarchy, Memory
from ...arch.npu import NpuSystem
from ...errors import MappingError
from ..nest.constraints import Constraints
from ..nest.counts import evaluate, port_cycles
from ..nest.nest import Keep, Loop, Spatial
from ..nest.nest import Mapping as Nest
from ..nest.result import MappingResult, map_op
from .product import Product, Spread, spread
from .traffic import Traffic, traffic

#: Operand of a product that holds each tensor class.
OPERANDS: Final = {"input": "I", "weight": "W", "output": "O"}


@dataclass(frozen=True)
class MatrixPlan:
    """How a product runs.

    Attributes
    ----------
    product, spread, result
        What, what is side by side, and the loop nest that the mapper proved best.
    resident
        Operands that are in the on-chip memory `home` before the product starts, or stay there: nothing moves below the DRAM for them.
    traffic
        What moves, step by step, without that of resident operands.
    matrix_clk
        Cycles of the array: multiply-accumulates, or shifting in of stationary operands where that takes longer.
    port_clk
        Cycles of each memory's ports.
    energy_j
        Joules by memory and of the ``"mac"``.
    finer
        The same with smaller tiles in the innermost scratchpad, at no more cycles and no more energy, if there is one: tiles come in more
        steps, and results leave sooner. Which of equally good nests the mapper finds says nothing about that.
    """

    product: Product
    spread: Spread
    result: MappingResult
    resident: frozenset[str]
    traffic: Traffic
    matrix_clk: float
    port_clk: Mapping[str, float]
    energy_j: Mapping[str, float]
    finer: MatrixPlan | None = None


def home(system: NpuSystem) -> str | None:
    """The memory in which tensors can wait between two ops: the outermost on chip that holds inputs and outputs, for all cores."""
    for memory in system.memories:
        shared = memory.scope == "chip" or system.cores == 1
        if shared and {"input", "output"} <= set(memory.keeps) and memory.size_bytes is not None:
            return memory.name
    return None


def plan(
    product: Product, system: NpuSystem, arithmetic: str, resident: frozenset[str] = frozenset(), reserved_bytes: float = 0.0
) -> MatrixPlan:
    """The mapping of least latency (of equally fast ones that of least energy), and its traffic.

    Parameters
    ----------
    product, system, arithmetic
        What runs where.
    resident
        Operands (``"I"``, ``"O"``) that lie whole in `home`. The mapper then keeps the whole tensor there, which moves it from or to
        the DRAM just once, and those moves are taken out.
    reserved_bytes
        Part of `home` that other tensors take up.

    Raises
    ------
    MappingError
        Nothing fits; says what, and by how much.
    """
    return _plan(product, _Key(system), arithmetic, resident, reserved_bytes)


class _Key:
    """A system as a cache key: equal when its hierarchies are."""

    def __init__(self, system: NpuSystem) -> None:
        self.system = system
        self.text = repr([getattr(system, f.name) for f in fields(system) if f.repr])  # numbers, without their sources

    def __hash__(self) -> int:
        return hash(self.text)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Key) and self.text == other.text


@lru_cache(maxsize=4096)
def _plan(product: Product, key: _Key, arithmetic: str, resident: frozenset[str], reserved_bytes: float) -> MatrixPlan:
    system = key.system
    where = home(system)
    hierarchy = system.hierarchy(arithmetic)
    if reserved_bytes and where is not None:
        hierarchy = _with_less(hierarchy, where, reserved_bytes)
    found: list[tuple[Spread, MappingResult]] = []
    refused: MappingError | None = None
    for padded in (True, False):  # a bound with few divisors costs no work and leaves few tiles; a padded one the other way round
        chosen = spread(product, system, padded=padded)
        if found and chosen.extents == found[0][0].extents:
            continue
        try:
            found.append((chosen, _mapped(product, chosen, hierarchy, resident, where)))
        except MappingError as error:
            refused = refused or error
    if not found:
        raise MappingError(f"{system.name}: {dict(product.dims)}: {refused}") from None
    chosen, result = min(found, key=lambda each: each[1].counts.latency_s)
    innermost = system.memories[-1].name
    sunk = _sunk(result, innermost, resident if innermost == where else frozenset())
    counted = _counted(product, chosen, result, resident, innermost)
    return counted if sunk is None else replace(counted, finer=_counted(product, chosen, sunk, resident, innermost))


def _sunk(result: MappingResult, level: str, pinned: frozenset[str]) -> MappingResult | None:
    """The nest with the tiles of one memory below loops that they may as well stand above; None where there are no such loops."""
    base, nodes = result.counts, list(result.mapping.nodes)
    for at in reversed(range(len(nodes))):
        keep = nodes[at]
        if not isinstance(keep, Keep) or keep.level != level or keep.tensor in pinned:
            continue
        best = nodes
        for below in range(at + 1, len(nodes)):
            passed = nodes[below]
            if isinstance(passed, Spatial) or (isinstance(passed, Keep) and passed.level != level):
                break
            other = [*nodes[:at], *nodes[at + 1 : below + 1], keep, *nodes[below + 1 :]]
            counts = evaluate(Nest(tuple(other)), result.problem)
            if counts.latency_s > base.latency_s * (1 + 1e-12) or counts.energy_j > base.energy_j * (1 + 1e-12):
                break
            if isinstance(passed, Loop) and passed.factor > 1:
                best = other
        nodes = best
    if tuple(nodes) == result.mapping.nodes:
        return None
    nest = Nest(tuple(nodes))
    return replace(result, mapping=nest, counts=evaluate(nest, result.problem))


def _mapped(product: Product, chosen: Spread, hierarchy: Hierarchy, resident: frozenset[str], where: str | None) -> MappingResult:
    op = product.op(chosen.extents)
    tiles: dict[tuple[str, str], Mapping[str, int]] = {}
    if resident and where is not None:
        whole = {operand.name: {d: op.dims[d] for axis in operand.projection for d, _ in axis} for operand in op.operands}
        tiles = {(where, name): whole[name] for name in resident}
    return map_op(op, hierarchy, "latency", Constraints(spatial=chosen.spatial, spatial_dims=chosen.axes, tiles=tiles))


def _with_less(hierarchy: Hierarchy, name: str, reserved: float) -> Hierarchy:
    def smaller(level: Memory) -> Memory:
        return replace(level, size_bytes=max((level.size_bytes or 0.0) - reserved, 1.0))

    levels = tuple(smaller(level) if isinstance(level, Memory) and level.name == name else level for level in hierarchy.levels)
    return replace(hierarchy, levels=levels)


def _counted(product: Product, chosen: Spread, result: MappingResult, resident: frozenset[str], innermost: str) -> MatrixPlan:
    moves = traffic(result.mapping, result.problem, innermost)
    if resident:
        moves = moves.without(resident, "dram")
    instances, cycles = result.counts.instances, {}
    energy = {}
    for memory in result.problem.memories:
        read, written = moves.bytes_read(memory.name), moves.bytes_written(memory.name)
        energy[memory.name] = read * memory.read_j_per_byte + written * memory.write_j_per_byte
        cycles[memory.name] = port_cycles(memory, read / instances[memory.name], written / instances[memory.name])
    energy["mac"] = result.counts.energy_by["mac"]
    matrix_clk = max(result.counts.cycles_by["mac"], cycles.pop("registers", 0.0)) + _refill_clk(result, moves)
    return MatrixPlan(product, chosen, result, resident, moves, matrix_clk, cycles, energy)


def _refill_clk(result: MappingResult, moves: Traffic) -> float:
    """Cycles in which the PEs of an array with register files take new weights: a file has one place, so that its old ones must be done.

    Inputs and sums slide through theirs while the array works. Systolic arrays hold the next stationary operands in a second register.
    """
    memories = {memory.name: memory for memory in result.problem.memories}
    files = memories.get("registers")
    if files is None or "weight" not in files.partition_bytes:
        return 0.0
    total = 0.0
    for edge in moves.edges:
        if edge.child == "registers" and edge.tensor == "W":
            parent = memories[edge.parent]
            rate = parent.bandwidth_bytes_per_clk or parent.read_bytes_per_clk
            if rate is not None:
                total += float(edge.read.sum()) / result.counts.instances[edge.parent] / rate
    return total
