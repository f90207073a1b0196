"""From a group of ops to the segments that an NPU plays: matrix work by its mapping, vector work, copies, and the host's part."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ...arch.npu import NpuSystem
from ...errors import MappingError
from ...workloads.op import Op, Operand
from .group import MATRIX_KINDS, Group, Schedule, arithmetic_of, element_bytes
from .matrix import MatrixPlan, home
from .segment import Segment, join_steps, joined, joined_room, port_rates, ports_of
from .traffic import Edge

Floats = NDArray[np.float64]

#: Tiles into which vector work and copies are cut at least, so that loads, work and stores overlap.
LEAST_TILES: Final = 8
#: Part of the scratchpads that one tile of vector work may take: two tiles in, two out.
TILE_SHARE: Final = 0.25


@dataclass
class Ports:
    """Bytes a step by port, added up as they are found."""

    system: NpuSystem
    steps: int
    weights: dict[str, Floats] = field(default_factory=dict)
    inputs: dict[str, Floats] = field(default_factory=dict)
    outputs: dict[str, Floats] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.rates = port_rates(self.system)
        self.shared = {"dram"} | {m.name for m in self.system.memories if m.scope == "chip"}

    def add(self, part: dict[str, Floats], names: Iterable[str], values: Floats | float) -> None:
        """So many bytes a step (or in all, spread evenly) at each of some ports."""
        by_step = values if isinstance(values, np.ndarray) else np.full(self.steps, values / self.steps)
        if by_step.any():
            for name in names:
                part[name] = part.get(name, 0.0) + by_step

    def cross(self) -> list[str]:
        """Ports that everything takes which moves between shared memories and cores."""
        return ["dma", *(["noc"] if "noc" in self.rates else [])]

    def read(self, part: dict[str, Floats], memory: str, values: Floats | float) -> None:
        """Bytes read in a shared memory, on their way to the cores."""
        self.add(part, [*ports_of(memory, "read", self.rates), *self.cross()], values)

    def write(self, memory: str, values: Floats | float) -> None:
        """Bytes that cores write to a shared memory."""
        self.add(self.outputs, [*ports_of(memory, "write", self.rates), *self.cross()], values)

    def busy(self) -> dict[str, float]:
        """Seconds for which each port is busy."""
        total: dict[str, float] = defaultdict(float)
        for part in (self.weights, self.inputs, self.outputs):
            for name, values in part.items():
                total[name] += float(values.sum()) / self.rates[name]
        return dict(total)


@dataclass(frozen=True)
class VectorWork:
    """Scalar operations of the vector engines by class, and elements that they read and write in the scratchpads, in bytes."""

    operations: Mapping[str, float] = field(default_factory=dict)
    local_bytes: float = 0.0

    def __add__(self, other: VectorWork) -> VectorWork:
        names = {**self.operations, **other.operations}
        total = {n: self.operations.get(n, 0.0) + other.operations.get(n, 0.0) for n in names}
        return VectorWork(total, self.local_bytes + other.local_bytes)

    def seconds(self, system: NpuSystem) -> float:
        """On the vector engines of all cores."""
        if system.vector is None or not self.operations:
            return 0.0
        clk = sum(number / system.vector.ops_per_clk[name] for name, number in self.operations.items() if number)
        return clk / system.vector.lanes / system.cores / system.clock_hz

    def energy(self, system: NpuSystem) -> dict[str, float]:
        """Joules by component: the operations, and one read or write of each element in a core's scratchpad."""
        found = {}
        if system.vector is not None and self.operations:
            found["vector"] = sum(number * system.vector.op_j[name] for name, number in self.operations.items() if number)
        local = next((m for m in reversed(system.memories) if "output" in m.keeps), None)
        if local is not None and self.local_bytes:
            found[local.name] = self.local_bytes * (local.read_j_per_byte + local.write_j_per_byte) / 2
        return found


def operations(op: Op) -> dict[str, float]:
    """Scalar operations of one run for the vector engine; a multiply-accumulate outside of a matrix op is a product and a sum."""
    found: dict[str, float] = defaultdict(float)
    for name, number in op.body.items():
        for each in ("mul", "add") if name == "mac" else (name,):
            found[each] += number * op.points
    return dict(found)


def vector_work(op: Op, system: NpuSystem) -> VectorWork:
    """An op's vector work."""
    arithmetic = arithmetic_of(op, system)
    local = sum(op.elements(o) * element_bytes(o, arithmetic) for o in op.operands)
    return VectorWork(operations(op), local)


def matrix_segment(name: str, plan: MatrixPlan, system: NpuSystem, extra: VectorWork, moves: Moves) -> Segment:
    """A product with the vector work on its results."""
    starts = join_steps(plan.traffic.steps)
    ports = Ports(system, len(starts))
    shared = [e for e in plan.traffic.edges if e.parent in ports.shared]
    idle = system.cores / math.prod(plan.spread.spatial.get("cores", {}).values())
    for e in shared:
        part = ports.weights if e.tensor == "W" else ports.inputs
        ports.add(part, ports_of(e.parent, "read", ports.rates), joined(e.read, starts))
        ports.add(ports.outputs, ports_of(e.parent, "write", ports.rates), joined(e.stored, starts))
        if e.child not in ports.shared:  # each core has its own DMA queues: those of idle cores do not help
            ports.add(part, ["dma"], joined(e.filled, starts) * idle)
            ports.add(ports.outputs, ["dma"], joined(e.drained, starts) * idle)
            if "noc" in ports.rates:
                ports.add(part, ["noc"], joined(e.read, starts))
                ports.add(ports.outputs, ["noc"], joined(e.stored, starts))
        if e.child in ports.shared:
            ports.add(part, ports_of(e.child, "write", ports.rates), joined(e.filled, starts))
            ports.add(ports.outputs, ports_of(e.child, "read", ports.rates), joined(e.drained, starts))
    moves.onto(ports)
    share = np.diff(np.append(starts, plan.traffic.steps)) / plan.traffic.steps
    transfers = sum(e.tiles for e in shared if e.child not in ports.shared)
    ports.add(ports.inputs, ["dma"], share * (transfers * system.dma.setup_clk * system.dma.bytes_per_clk * system.cores))
    core = max((plan.port_clk[m.name] for m in system.memories if m.scope == "core"), default=0.0)
    matrix_s, vector_s = max(plan.matrix_clk, core) / system.clock_hz, extra.seconds(system)
    energy = _sum(plan.energy_j, extra.energy(system), moves.energy(system))
    fits = _fits_twice(plan, system)
    busy = ports.busy() | {"matrix": matrix_s} | ({"vector": vector_s} if vector_s else {})
    skew = system.matrix.skew_clk + (system.matrix.rows if system.matrix.dataflow in ("ws", "is") else 0)
    return Segment(
        name,
        ports.weights,
        ports.inputs,
        ports.outputs,
        matrix_s * share,
        vector_s * share,
        busy,
        energy,
        skew_s=skew / system.clock_hz,
        prefetch=fits,
        weights_room=_joined_rooms([e for e in shared if e.tensor == "W"], starts),
        inputs_room=_joined_rooms([e for e in shared if e.tensor == "I"], starts),
    )


def _joined_rooms(edges: Iterable[Edge], starts: NDArray[np.int64]) -> NDArray[np.int64]:
    """The latest of what a tensor's tiles wait for on their way through the memories."""
    rooms = [joined_room(e.room, e.read, starts) for e in edges]
    return np.max(rooms, axis=0) if rooms else np.full(len(starts), -1)


def _fits_twice(plan: MatrixPlan, system: NpuSystem) -> bool:
    """Whether the memory into which the DRAM's tiles come has room for the next ones beside those in use."""
    first = system.memories[0]
    if first.buffers == 2:
        return True
    held = plan.result.counts.occupancy_bytes[first.name]
    size = first.size_bytes or sum(first.partition_bytes.values())
    whole = {name: plan.result.problem.tensors[name] for name in plan.resident}
    waiting = sum(t.volume(plan.result.problem.dims) * t.bytes_per_element for t in whole.values())
    return 2 * (held - waiting) + waiting <= size


@dataclass
class Moves:
    """Operands and results that vector work reads and writes in shared memories: bytes by memory."""

    read: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    written: dict[str, float] = field(default_factory=lambda: defaultdict(float))

    def onto(self, ports: Ports) -> None:
        """Add them to ports, evenly over the steps."""
        for memory, size in self.read.items():
            if memory in ports.shared:
                ports.read(ports.inputs, memory, size)
        for memory, size in self.written.items():
            if memory in ports.shared:
                ports.write(memory, size)

    def energy(self, system: NpuSystem) -> dict[str, float]:
        """Joules by memory."""
        found = {}
        joules = {"dram": (system.dram.j_per_byte, system.dram.j_per_byte)}
        joules |= {m.name: (m.read_j_per_byte, m.write_j_per_byte) for m in system.memories}
        for name in {**self.read, **self.written}:
            found[name] = self.read.get(name, 0.0) * joules[name][0] + self.written.get(name, 0.0) * joules[name][1]
        return found

    @property
    def total(self) -> float:
        """All bytes."""
        return sum(self.read.values()) + sum(self.written.values())


def vector_segment(name: str, work: VectorWork, moves: Moves, system: NpuSystem) -> Segment:
    """Vector work, or with no operations a copy by DMA."""
    room = sum((m.size_bytes or sum(m.partition_bytes.values())) for m in system.memories if m.scope == "core") * system.cores
    tiles = max(LEAST_TILES, math.ceil(moves.total / (TILE_SHARE * room)))
    starts = join_steps(tiles)
    ports = Ports(system, len(starts))
    share = np.diff(np.append(starts, tiles)) / tiles
    moves.onto(ports)
    for part in (ports.weights, ports.inputs, ports.outputs):
        for port in part:
            part[port] = part[port].sum() * share
    seconds = work.seconds(system)
    return Segment(
        name,
        ports.weights,
        ports.inputs,
        ports.outputs,
        np.zeros(len(starts)),
        seconds * share,
        ports.busy() | ({"vector": seconds} if seconds else {}),
        _sum(work.energy(system), moves.energy(system)),
    )


def host_segment(op: Op, system: NpuSystem) -> Segment:
    """An op that no engine executes, on the CPU beside the NPU.

    Raises
    ------
    MappingError
        The device file names no host.
    """
    needed = sorted(name for name, number in op.body.items() if number)
    if system.host is None:
        known = ", ".join(sorted(system.vector.ops_per_clk)) if system.vector else "none"
        raise MappingError(
            f"op {op.name!r} ({op.kind}): {system.name} cannot execute {', '.join(needed) or op.kind} and has no host; its vector engine "
            f"executes {known}"
        )
    arithmetic = arithmetic_of(op, system)
    size = sum(op.elements(o) * element_bytes(o, arithmetic) for o in op.operands)
    seconds = sum(operations(op).values()) / system.host.ops_per_s + size / system.host.bandwidth_bytes_per_s
    none = np.zeros(0)
    return Segment(op.name, {}, {}, {}, none, none, {"host": seconds}, {"dram": size * system.dram.j_per_byte}, host_s=seconds)


def operand_moves(group: Group, scheduled: Schedule, system: NpuSystem, *, on_vector: bool = False) -> Moves:
    """What the vector work of a group reads and writes in shared memories, beside the operands and the result of its matrix op.

    With `on_vector` the matrix op is vector work as well.
    """
    moves = Moves()
    members = {op.name for op in group.ops}
    matrix = group.lead.kind in MATRIX_KINDS and not on_vector
    stored = stored_by(group, scheduled) if matrix else None

    def place(on_chip: bool) -> str:
        return home(system) or "dram" if on_chip else "dram"

    for op in group.ops:
        arithmetic = arithmetic_of(op, system)
        for o in op.operands:
            size = op.elements(o) * element_bytes(o, arithmetic)
            if o.role == "output":
                if op is not stored and not scheduled.inside[op.name]:
                    moves.written[place(scheduled.resident[op.name])] += size
            elif op.name not in group.folded and not (matrix and op is group.lead):
                source = scheduled.producer.get((op.name, o.name))
                if source not in members:
                    moves.read[place((op.name, o.name) in scheduled.found)] += size
    return moves


def stored_by(group: Group, scheduled: Schedule) -> Op:
    """The op of a group whose result leaves with the matrix op's own traffic: the last one that is read outside."""
    return next(op for op in reversed(group.ops) if not scheduled.inside[op.name])


def check_single(group: Group, system: NpuSystem) -> None:
    """Refuse a collective: the file describes one device.

    Raises
    ------
    MappingError
        The group is one.
    """
    if group.lead.kind == "collective":
        raise MappingError(f"op {group.lead.name!r}: a collective needs a link between devices; {system.name} is one device")


def factors(op: Op) -> tuple[Operand, Operand]:
    """The two operands that a matrix op multiplies, input first; see `presilicon.mapping.systolic_lower.lower`."""
    outputs = {d for o in op.operands if o.role == "output" for axis in o.projection for d, _ in axis}
    found = [o for o in op.operands if o.role != "output" and {d for axis in o.projection for d, _ in axis} - outputs]
    left, right = found[0], found[1]
    return (left, right) if left.role != "weight" or right.role == "weight" else (right, left)


def _sum(*parts: Mapping[str, float]) -> dict[str, float]:
    total: dict[str, float] = defaultdict(float)
    for part in parts:
        for name, value in part.items():
            total[name] += value
    return dict(total)
