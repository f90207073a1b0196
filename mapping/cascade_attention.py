"""Attention cascades on a 2D array of PEs beside a 1D vector array: time, traffic and energy of a binding.

A binding says which einsums the 2D array runs and which the vector array, in which stages, and through what they exchange tensors. Work
follows from the einsums, traffic from what the buffer holds:

* an array runs its einsums of one stage one after the other, the two arrays side by side; the stage takes the longer of them;
* memory moves what it must while all stages run, or, where einsums exchange through DRAM, stage by stage;
* tensors of the queries (inputs, what is carried from tile to tile, the output) stay in the buffer for a block of queries, and keys and
  values are fetched once for each block; a cascade of several passes over the scores holds whole rows of them, or goes through DRAM.

Sources: FuseMax (MICRO 2024) and its artifact FPSG-UIUC/micro24-fusemax-artifact for bindings and the rule that joins the times; FLAT
(ASPLOS 2023) for the choice between scores on the chip and in DRAM.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Final, Literal, get_args

from ..arch.estimate import Estimate
from ..errors import MappingError, UnknownNameError, shown
from .cascade_einsums import OPERATIONS, Access, Cascade, Einsum

Exchange = Literal["dram", "buffer", "arrays"]
EXCHANGES: Final[tuple[str, ...]] = get_args(Exchange)
#: What an `ArrayPair` gives an energy for: scalar operations, one line of the buffer, one byte of DRAM.
ENERGIES: Final = (*OPERATIONS, "buffer_read", "buffer_write", "dram")


@dataclass(frozen=True)
class ArrayPair:
    """A 2D array and a vector array that share a buffer and DRAM.

    Attributes
    ----------
    rows, cols
        PEs of the 2D array: keys along the rows, queries along the columns.
    lanes
        Lanes of the vector array.
    buffer_bytes, line_bytes
        Shared buffer, and what one access moves.
    element_bytes
        Of every tensor.
    exp_macs
        Multiply-adds that an exponential takes; None: a unit of its own, one a cycle.
    energy_j
        By `ENERGIES`: of an operation, of an access to a line, of a byte of DRAM.
    """

    name: str
    rows: int
    cols: int
    lanes: int
    clock_hz: float
    buffer_bytes: float
    line_bytes: float
    dram_bytes_per_s: float
    element_bytes: float
    exp_macs: int | None
    energy_j: Mapping[str, float]

    def __post_init__(self) -> None:
        for field in ("rows", "cols", "lanes", "clock_hz", "buffer_bytes", "line_bytes", "dram_bytes_per_s", "element_bytes"):
            if not getattr(self, field) > 0:
                raise MappingError(f"arrays {self.name}: {field}: expected more than 0, found {shown(getattr(self, field))}")
        for key in self.energy_j:
            if key not in ENERGIES:
                raise UnknownNameError("energy", str(key), ENERGIES, f"arrays {self.name}")
        for key in ENERGIES:
            if key not in self.energy_j and not (key == "exp" and self.exp_macs is not None):
                raise MappingError(f"arrays {self.name}: energy_j: {key}: missing")

    @property
    def buffer_elements(self) -> float:
        """Elements that the buffer holds."""
        return self.buffer_bytes / self.element_bytes

    def operation_j(self, operation: str) -> float:
        """Energy of one scalar operation."""
        if operation == "exp" and self.exp_macs is not None:
            return self.exp_macs * self.energy_j["mac"]
        return self.energy_j[operation]

    def operation_cycles(self, operation: str) -> int:
        """Cycles of one scalar operation on a PE or lane."""
        return self.exp_macs if operation == "exp" and self.exp_macs is not None else 1


@dataclass(frozen=True)
class Binding:
    """Where and when the einsums of a cascade run.

    Attributes
    ----------
    cascade
        What runs.
    array
        Einsums on the 2D array; the others run on the vector array.
    stages
        Einsums that run side by side, stage after stage; each einsum once.
    exchange
        What passes from stage to stage or array to array goes through ``dram``, the ``buffer`` where it fits, or from ``arrays`` to arrays.
    chained
        The vector units work as a pipeline: an einsum takes a cycle a point, however many operations it has.
    drains
        Einsums of the 2D array whose result the next stage waits for without another tile to work on: each tile's takes `rows` more steps.
    block_rows
        Most rows of scores worked on at a time where the buffer does not hold all; None: no limit.
    buffered
        Tensors of products that a cascade of several passes reads and writes through the buffer while its scores go through DRAM.
    """

    name: str
    cascade: Cascade
    array: tuple[str, ...]
    stages: tuple[tuple[str, ...], ...]
    exchange: Exchange
    chained: bool = False
    drains: tuple[str, ...] = ()
    block_rows: int | None = None
    buffered: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        known = [e.name for e in self.cascade.einsums]
        for name in (*self.array, *self.drains, *(n for stage in self.stages for n in stage)):
            if name not in known:
                raise UnknownNameError("einsum", str(name), known, f"binding {self.name}")
        placed = sorted(n for stage in self.stages for n in stage)
        if placed != sorted(known):
            raise MappingError(f"binding {self.name}: expected each einsum in one stage, found {', '.join(placed)}")
        if self.exchange not in EXCHANGES:
            raise UnknownNameError("exchange", str(self.exchange), EXCHANGES, f"binding {self.name}")


@dataclass(frozen=True)
class AttentionShape:
    """Full (not causal) self-attention: so many sequences, heads, and tokens; elements of a key and of a value."""

    batch: int
    heads: int
    length: int
    key_dim: int
    value_dim: int

    def __post_init__(self) -> None:
        for name in ("batch", "heads", "length", "key_dim", "value_dim"):
            if not getattr(self, name) >= 1:
                raise MappingError(f"attention: {name}: expected 1 or more, found {shown(getattr(self, name))}")


def attention(shape: AttentionShape, arrays: ArrayPair, binding: Binding) -> Estimate:
    """Time, energy and traffic of attention under a binding.

    Returns
    -------
    Estimate
        ``energy_j`` by scalar operation, ``buffer`` and ``dram``; ``bytes_moved`` of ``buffer`` and ``dram``; ``busy_s`` of the ``array``
        (`Binding.array`), the ``vector`` array and ``dram``. Registers of the PEs are not counted.

    Examples
    --------
    >>> from presilicon.mapping.cascade_einsums import cascade
    >>> pair = ArrayPair("toy", 4, 4, 4, 1e9, 2**20, 8, 1e12, 2, 6, dict.fromkeys(ENERGIES, 1e-12))
    >>> einsums = cascade("three-pass")
    >>> whole = Binding("whole", einsums, ("QK", "AV"), (tuple(e.name for e in einsums.einsums),), "buffer", chained=True)
    >>> attention(AttentionShape(1, 1, 64, 8, 8), pair, whole).cycles     # M, SN, SD and A on 4 lanes
    4096
    """
    head = _Head(shape, arrays, binding)
    heads = shape.batch * shape.heads
    busy = {"array": 0.0, "vector": 0.0}
    times, moved = [], head.dram_elements()
    for stage, elements in zip(binding.stages, moved, strict=True):
        on_array = sum(head.cycles(name) for name in stage if name in binding.array)
        on_vector = sum(head.cycles(name) for name in stage if name not in binding.array)
        stall = sum(head.cycles(name) * arrays.rows for name in stage if name in binding.drains)
        busy["array"] += on_array
        busy["vector"] += on_vector
        times.append((max(on_array, on_vector) + stall, elements * arrays.element_bytes))
    clocks = heads / arrays.clock_hz
    if binding.exchange == "dram":
        time_s = sum(max(cycles * clocks, heads * size / arrays.dram_bytes_per_s) for cycles, size in times)
    else:
        time_s = max(sum(cycles for cycles, _ in times) * clocks, heads * sum(size for _, size in times) / arrays.dram_bytes_per_s)
    dram_bytes = heads * sum(size for _, size in times)
    busy_s = {name: cycles * clocks for name, cycles in busy.items()} | {"dram": dram_bytes / arrays.dram_bytes_per_s}
    reads, writes = head.buffer_elements()
    energy = {operation: heads * count * arrays.operation_j(operation) for operation, count in head.operations().items()}
    per_line = heads * arrays.element_bytes / arrays.line_bytes
    energy["buffer"] = per_line * (reads * arrays.energy_j["buffer_read"] + writes * arrays.energy_j["buffer_write"])
    energy["dram"] = dram_bytes * arrays.energy_j["dram"]
    return Estimate(
        time_s,
        time_s,
        time_s,
        energy,
        {"buffer": heads * arrays.element_bytes * (reads + writes), "dram": dram_bytes},
        busy_s,
        flops=2.0 * heads * head.operations().get("mac", 0.0),
        clock_hz=arrays.clock_hz,
        limiter=max(busy_s, key=lambda name: busy_s[name]),
    )


@dataclass(frozen=True)
class _Head:
    """One head of one sequence; counts are in elements and points."""

    shape: AttentionShape
    arrays: ArrayPair
    binding: Binding

    @cached_property
    def extents(self) -> dict[str, int]:
        m, tile = self.shape.length, self.arrays.rows
        return {"m": m, "p": m, "m1": -(-m // tile), "m0": min(m, tile), "e": self.shape.key_dim, "f": self.shape.value_dim}

    def size(self, access: Access) -> int:
        """Elements of a tensor over the whole cascade, every tile's where it is carried along."""
        return math.prod(self.extents[rank] for rank in access.iterated)

    @property
    def scores(self) -> int:
        return self.extents["m1"] * self.extents["m0"] * self.extents["p"]

    def cycles(self, name: str) -> int:
        """Cycles of an einsum on its array: keys by queries in space on the 2D array, keys or queries on the vector array."""
        einsum = self.binding.cascade[name]
        if name in self.binding.array:
            spatial = {"m": self.arrays.rows, "m0": self.arrays.rows, "p": self.arrays.cols}
        else:
            spatial = {"m" if "m" in einsum.ranks else "p": self.arrays.lanes}
        steps = math.prod(-(-self.extents[rank] // spatial.get(rank, 1)) for rank in einsum.ranks)
        if self.binding.chained and name not in self.binding.array:
            return steps
        return steps * sum(count * self.arrays.operation_cycles(operation) for operation, count in einsum.body.items())

    def operations(self) -> dict[str, float]:
        """Scalar operations by class."""
        found: dict[str, float] = {}
        for einsum in self.binding.cascade.einsums:
            for operation, count in einsum.body.items():
                found[operation] = found.get(operation, 0.0) + count * einsum.points(self.extents)
        return found

    # ---- what the buffer holds

    def _held_a_query(self, stage: tuple[str, ...]) -> int:
        """Elements a query that stay in the buffer: inputs and outputs, what is carried from tile to tile, and the scores
        that go from array to array through the buffer, twice: one array writes a tile while the other reads the one before."""
        names: dict[str, int] = {}
        for einsum in (self.binding.cascade[name] for name in stage):
            for access in (*einsum.reads, einsum.out):
                tile = {"m1", "m"} & access.iterated
                if access.tensor in self.binding.cascade.inputs and "p" in access.iterated:
                    names[access.tensor] = self.size(access) // self.extents["p"]
                elif access.tensor in self.binding.cascade.carried:
                    names[access.tensor] = self.size(access) // self.extents["p"] // (self.extents["m1"] if tile else 1)
                elif access.tensor == self._output.name and not self.binding.cascade.carried:
                    names[access.tensor] = self.size(access) // self.extents["p"]
        crossing = [t for t in self._crossing() if t in stage] if self.binding.exchange == "buffer" and self._one_pass else []
        return sum(names.values()) + 2 * len(crossing) * self.extents["m0"]

    @property
    def _output(self) -> Einsum:
        return self.binding.cascade.einsums[-1]

    @property
    def _one_pass(self) -> bool:
        return self.binding.cascade.passes() == 1

    def _blocks(self, stage: tuple[str, ...]) -> int:
        """Blocks of queries for each of which keys and values are fetched: equal ones of whole array widths, as large as the buffer allows.

        Raises
        ------
        MappingError
            Not even one array width of queries fits.
        """
        groups = -(-self.extents["p"] // self.arrays.cols)
        tile = self.arrays.rows * (self.shape.key_dim + self.shape.value_dim)
        fit = (self.arrays.buffer_elements - tile) // (self.arrays.cols * max(1, self._held_a_query(stage)))
        if fit < 1:
            found = f"{shown(self.arrays.buffer_bytes)} B"
            raise MappingError(f"arrays {self.arrays.name}: expected a buffer that holds {self.arrays.cols} queries, found {found}")
        return next(blocks for blocks in range(1, groups + 1) if groups % blocks == 0 and groups // blocks <= fit)

    def _crossing(self) -> list[str]:
        """Tensors of the size of the scores that one array writes and the other reads."""
        place = {e.name: e.name in self.binding.array for e in self.binding.cascade.einsums}
        return [
            e.name
            for e in self.binding.cascade.einsums
            if self.size(e.out) == self.scores
            and any(place[e.name] != place[c.name] for c in self.binding.cascade.einsums for a in c.reads if a.tensor == e.name)
        ]

    @cached_property
    def _rows_held(self) -> int:
        """Rows of scores at a time: all, if they fit; else a power of two array widths, as many as fit, one at least."""
        if self.scores <= self.arrays.buffer_elements:
            return self.extents["p"]
        rows = self.arrays.cols
        limit = min(self.binding.block_rows or self.extents["p"], self.extents["p"])
        while rows * 2 <= limit and rows * 2 * self.extents["m"] <= self.arrays.buffer_elements:
            rows *= 2
        return rows

    @cached_property
    def _spilled_share(self) -> float:
        """Share of the scores held that the buffer has no room for, beside two tiles each of queries, keys, values and outputs."""
        staged = 2 * (self.arrays.rows + self.arrays.cols) * (self.shape.key_dim + self.shape.value_dim)
        return max(0.0, 1.0 - self.arrays.buffer_elements / (self._rows_held * self.extents["m"] + staged))

    @cached_property
    def _score_accesses(self) -> tuple[int, int]:
        """How often scores, and what is made of them, are read and written: by each later pass, and from one array to the other."""
        reads = writes = 0
        level = self.binding.cascade.levels
        for einsum in self.binding.cascade.einsums:
            writes += self.size(einsum.out) == self.scores
            for access in einsum.reads:
                if self.size(access) == self.scores and access.tensor in level:
                    crosses = (access.tensor in self.binding.array) != (einsum.name in self.binding.array)
                    reads += crosses or level[access.tensor] < level[einsum.name]
        return reads, writes

    # ---- traffic

    @cached_property
    def _through_dram(self) -> bool:
        """Whether the scores of a cascade of several passes go through DRAM: always, or where that moves less."""
        return self.binding.exchange == "dram" or self._off_chip_elements < self._on_chip_elements

    @property
    def _vectors(self) -> int:
        return self.extents["p"] * (self.shape.key_dim + self.shape.value_dim)

    @property
    def _off_chip_elements(self) -> float:
        blocks = -(-self.extents["p"] // (self.binding.block_rows or self.extents["p"]))
        return 4.0 * self.scores + (1 + blocks) * self._vectors

    @property
    def _on_chip_elements(self) -> float:
        """Scores stay: queries, keys and values stream past the array's tiles of them; what does not fit goes to DRAM and back."""
        e, f = self.shape.key_dim, self.shape.value_dim
        down, across = -(-self.extents["m"] // self.arrays.rows), -(-self.extents["p"] // self.arrays.cols)
        streamed = self.extents["p"] * e * down + self.extents["m"] * (e + f) * across + self.extents["p"] * f
        return streamed + self._spilled_share * sum(self._score_accesses) * self.scores

    def dram_elements(self) -> list[float]:
        """Elements that each stage moves between DRAM and the buffer."""
        stages, one = self.binding.stages, self.binding.cascade
        if self.binding.exchange == "dram":
            return [self._stage_elements(stage) for stage in stages]
        if self._one_pass:
            every = tuple(e.name for e in one.einsums)
            whole = float((1 + self._blocks(every)) * self._vectors)
        else:
            whole = self._off_chip_elements if self._through_dram else self._on_chip_elements
        return [whole / len(stages)] * len(stages)

    def _stage_elements(self, stage: tuple[str, ...]) -> float:
        """A stage that reads its inputs from DRAM and writes its outputs there."""
        einsums = [self.binding.cascade[name] for name in stage]
        read = {a.tensor: a for e in einsums for a in e.reads if a.tensor not in stage}
        used_later = {a.tensor for e in self.binding.cascade.einsums if e.name not in stage for a in e.reads}
        written = [e.out for e in einsums if e.name in used_later or e is self._output]
        total = float(sum(self.size(a) for a in written))
        for tensor, access in read.items():
            again = self._blocks(stage) if tensor in self.binding.cascade.inputs and "p" not in access.iterated else 1
            total += again * self.size(access)
        row = self.extents["m"] * (len(einsums) > 1)
        if row > self.arrays.buffer_elements:  # a row of scores does not fit: what does not, moves with every access after the first
            total += (1.0 - self.arrays.buffer_elements / row) * (sum(self._score_accesses) - 4) * self.scores
        return total

    def buffer_elements(self) -> tuple[float, float]:
        """Elements read from the buffer, and written to it."""
        if self._one_pass:
            return self._buffer_one_pass()
        reads, writes = (float(count * self.scores) for count in self._score_accesses)
        if not self._through_dram:
            return reads, writes
        # The scores come in once; the weights leave, and come back, past the buffer.
        reads -= self.scores
        writes -= self.scores
        for tensor in self.binding.buffered:
            for einsum in self.binding.cascade.einsums:
                for access in (*einsum.reads, einsum.out):
                    if access.tensor == tensor and einsum.name in self.binding.array:
                        moved = self._array_elements(einsum, access)
                        reads += moved
                        writes += moved if access is einsum.out else self.size(access)
        return reads, writes

    def _array_elements(self, einsum: Einsum, access: Access) -> float:
        """Elements of an operand that pass between buffer and 2D array: a point each, less what goes to a whole row or column at once."""
        spatial = {"m": self.arrays.rows, "m0": self.arrays.rows, "p": self.arrays.cols}
        return einsum.points(self.extents) / math.prod(spatial[r] for r in einsum.ranks if r in spatial and r not in access.iterated)

    def _buffer_one_pass(self) -> tuple[float, float]:
        one = self.binding.cascade
        every = tuple(e.name for e in one.einsums)
        blocks = self._blocks(every)
        reads = writes = 0.0
        for einsum in one.einsums:
            for access in einsum.reads:
                if access.tensor in one.inputs:
                    reads += self._array_elements(einsum, access)
                    writes += self.size(access) * (1 if "p" in access.iterated else blocks)
                elif "end" in access.ranks:
                    reads += self.size(access)
            if einsum.name in one.carried:  # once a tile
                reads += self.size(einsum.out)
                writes += self.size(einsum.out)
        if self.binding.exchange == "buffer":
            reads += len(self._crossing()) * self.scores
            writes += len(self._crossing()) * self.scores
        return reads, writes


def linear_layers(batch: int, length: int, hidden: int, inner: int, arrays: ArrayPair) -> Estimate:
    """Queries, keys, values, output projection and the two products of the feed-forward network, one after the other on the 2D array.

    Each runs at the longer of its multiply-adds and its traffic: inputs, weights and outputs once, inputs again for each part of the
    weights that the buffer holds. Both operands pass from the buffer to whole rows and columns of the array.
    """
    tokens, found = batch * length, Estimate()
    for depth, outputs, count in ((hidden, hidden, 4), (hidden, inner, 1), (inner, hidden, 1)):
        macs, weights = tokens * depth * outputs, depth * outputs
        again = math.ceil(weights / arrays.buffer_elements)
        fetched = again * tokens * depth + weights
        dram_bytes = (fetched + tokens * outputs) * arrays.element_bytes
        compute_s = macs / (arrays.rows * arrays.cols) / arrays.clock_hz
        memory_s = dram_bytes / arrays.dram_bytes_per_s
        reads, per_line = macs / arrays.rows + macs / arrays.cols, arrays.element_bytes / arrays.line_bytes
        energy = {
            "mac": macs * arrays.energy_j["mac"],
            "buffer": per_line * (reads * arrays.energy_j["buffer_read"] + fetched * arrays.energy_j["buffer_write"]),
            "dram": dram_bytes * arrays.energy_j["dram"],
        }
        time_s = max(compute_s, memory_s)
        moved = {"buffer": (reads + fetched) * arrays.element_bytes, "dram": dram_bytes}
        limiter = "array" if compute_s >= memory_s else "dram"
        busy = {"array": compute_s, "dram": memory_s}
        found = found + Estimate(time_s, time_s, time_s, energy, moved, busy, 2.0 * macs, arrays.clock_hz, limiter) * count
    return found
