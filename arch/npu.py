"""NPU: cores with a matrix engine, a vector engine, scratchpads and DMA queues, that share on-chip memories and a DRAM.

`NpuSystem` is what an NPU's device file (``kind: npu``) becomes. `NpuSystem.hierarchy` shows its memory system to the loop-nest
model, so that the mapper that finds proven optima maps the NPU's ops, and the simulator plays those same mappings.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final, Literal, get_args

from .array import SystolicArray
from .hierarchy import CLASSES, Fanout, Hierarchy, Memory, TensorClass
from .spec import Provenance

MatrixDataflow = Literal["os", "ws", "is", "rs", "cube"]
#: Output, weight, input and row stationary arrays, and a cube: rows x columns x depth products summed along the depth each cycle.
MATRIX_DATAFLOWS: Final[tuple[MatrixDataflow, ...]] = get_args(MatrixDataflow)
Coupling = Literal["shared-buffer", "memory"]
#: How matrix and vector engines exchange tensors: through a scratchpad of the core, or through the memory that all cores share.
COUPLINGS: Final[tuple[Coupling, ...]] = get_args(Coupling)
#: What a systolic array's PEs hold while the others stream.
STATIONARY: Final[Mapping[str, TensorClass]] = {"os": "output", "ws": "weight", "is": "input"}


@dataclass(frozen=True)
class MatrixEngine:
    """Matrix engine of one core.

    Attributes
    ----------
    dataflow
        ``"os"``, ``"ws"``, ``"is"``: a systolic array; ``"rs"``: a PE array with register files (Eyeriss);
        ``"cube"``: a three-dimensional one.
    rows, cols, depth
        PEs along each axis; depth is 1 but for a cube.
    engines
        Arrays of this kind in a core; they share its scratchpads.
    macs_per_clk
        By arithmetic: multiply-accumulates that a PE starts in a cycle (int8 may run at twice the rate of fp16).
    mac_j
        By arithmetic: joules of one.
    register_bytes
        Per PE and tensor class: register file of a PE array; empty for systolic arrays and cubes.
    register_j_per_byte
        Joules of one byte read from or written to it.
    """

    dataflow: MatrixDataflow
    rows: int
    cols: int
    macs_per_clk: Mapping[str, float]
    mac_j: Mapping[str, float]
    depth: int = 1
    engines: int = 1
    register_bytes: Mapping[TensorClass, float] = field(default_factory=dict)
    register_j_per_byte: float = 0.0

    @property
    def pes(self) -> int:
        """PEs of all arrays of a core."""
        return self.rows * self.cols * self.depth * self.engines

    @property
    def systolic(self) -> bool:
        """Whether operands enter at the edges, one row or column a cycle later than the one before."""
        return self.dataflow in STATIONARY

    @property
    def skew_clk(self) -> int:
        """Cycles by which the first result leaves later than the first operand enters: the wavefront over rows and columns."""
        return self.rows + self.cols - 2 if self.systolic else self.rows - 1 if self.dataflow == "rs" else 0


@dataclass(frozen=True)
class VectorEngine:
    """Vector engine of one core.

    Attributes
    ----------
    lanes
        Elements worked on at once.
    ops_per_clk
        By class of scalar operation: operations that a lane starts in a cycle; classes left out cannot be executed.
    op_j
        By class: joules of one.
    """

    lanes: float
    ops_per_clk: Mapping[str, float]
    op_j: Mapping[str, float]


@dataclass(frozen=True)
class Scratchpad:
    """One software-managed memory.

    Attributes
    ----------
    scope
        ``"chip"``: one for all cores; ``"core"``: one in each.
    size_bytes, partition_bytes
        Capacity, shared, or of each tensor class.
    partial_bytes
        Bytes of one partial sum that it holds in place of an output element (accumulators are 4 bytes wide); None: the element's own.
    bandwidth_bytes_per_clk, read_bytes_per_clk, write_bytes_per_clk
        Port rates, shared or separate; None: unlimited.
    buffers
        2: tiles are double-buffered, which halves what fits.
    """

    name: str
    scope: Literal["chip", "core"]
    size_bytes: float | None
    read_j_per_byte: float
    write_j_per_byte: float
    keeps: tuple[TensorClass, ...] = CLASSES
    partition_bytes: Mapping[TensorClass, float] = field(default_factory=dict)
    partial_bytes: float | None = None
    bandwidth_bytes_per_clk: float | None = None
    read_bytes_per_clk: float | None = None
    write_bytes_per_clk: float | None = None
    buffers: int = 1


@dataclass(frozen=True)
class Dma:
    """Queues of a core between its scratchpads and the shared memories: count, bytes per cycle of each, cycles to set one up."""

    queues: int
    bytes_per_clk: float
    setup_clk: float


@dataclass(frozen=True)
class NpuDram:
    """Memory that all cores share: bytes, bytes per second, seconds to the first byte, joules per byte."""

    size_bytes: float
    bandwidth_bytes_per_s: float
    latency_s: float
    j_per_byte: float


@dataclass(frozen=True)
class NpuHost:
    """CPU beside the NPU, for ops that no engine executes: scalar operations and bytes per second."""

    ops_per_s: float
    bandwidth_bytes_per_s: float


@dataclass(frozen=True)
class NpuKernels:
    """How the library of an NPU writes its products.

    Attributes
    ----------
    rows, cols
        Least part of the output rows and columns that one core takes: cores split an op by whole tiles of its outputs.
    split_sum
        Whether cores that outputs leave idle may share a sum (split-K).
    """

    rows: int = 1
    cols: int = 1
    split_sum: bool = True


@dataclass(frozen=True)
class NpuSystem:
    """An NPU; treat as immutable, mappings included.

    Attributes
    ----------
    name, title, node_nm
        Name of its file, name for people, process node.
    clock_hz, cores
        Clock; cores, all alike.
    matrix, vector, memories, dma, dram, host
        The parts; `vector` and `host` are None where there is none. Memories stand outermost first, without the DRAM.
    noc_bytes_per_s
        Rate of the network between the shared memories and all cores; None: no limit of its own.
    coupling
        How matrix and vector engine exchange tensors; see `COUPLINGS`.
    static_w
        Power that is drawn all the time, whatever runs.
    kernels
        How its library writes products.
    launch_s
        Time from one op's end to the next one's start that commands and synchronisation take.
    provenance, document, values
        Source of every number by path, the file's content, and every number by path with its unit.

    Examples
    --------
    >>> from presilicon.arch import load
    >>> tpu = load("tpu-v1")
    >>> round(tpu.peaks_flops_per_s["int8"] / 1e12, 1)
    91.8
    >>> [level.name for level in tpu.hierarchy("int8").memories]
    ['dram', 'unified_buffer', 'accumulators', 'registers']
    """

    kind: ClassVar[str] = "npu"
    name: str
    title: str
    node_nm: float
    clock_hz: float
    cores: int
    matrix: MatrixEngine
    vector: VectorEngine | None
    memories: tuple[Scratchpad, ...]
    dma: Dma
    dram: NpuDram
    noc_bytes_per_s: float | None = None
    host: NpuHost | None = None
    coupling: Coupling = "shared-buffer"
    static_w: float = 0.0
    launch_s: float = 0.0
    kernels: NpuKernels = NpuKernels()
    provenance: Mapping[str, Provenance] = field(default_factory=dict, compare=False, repr=False)
    document: Mapping[str, Any] = field(default_factory=dict, compare=False, repr=False)
    values: Mapping[str, tuple[Any, str]] = field(default_factory=dict, compare=False, repr=False)

    def __repr__(self) -> str:
        from .listing import short

        return short(self)

    def _repr_html_(self) -> str:
        from .listing import short_html

        return short_html(self)

    @property
    def generation(self) -> str:
        """No rules of a generation fill an NPU's numbers."""
        return ""

    @property
    def intervals(self) -> Mapping[str, Any]:
        """Nothing is calibrated."""
        return {}

    @property
    def memory_bytes(self) -> float:
        """Capacity of the DRAM."""
        return self.dram.size_bytes

    @property
    def idle_w(self) -> float:
        """Static power."""
        return self.static_w

    @property
    def peaks_flops_per_s(self) -> Mapping[str, float]:
        """FLOP/s of all matrix engines by arithmetic, a multiply-accumulate being two."""
        return {a: 2 * rate * self.matrix.pes * self.cores * self.clock_hz for a, rate in self.matrix.macs_per_clk.items()}

    @property
    def ceilings_bytes_per_s(self) -> Mapping[str, float]:
        """B/s of the DRAM and of every memory with a limited port, all its instances."""
        found = {"dram": self.dram.bandwidth_bytes_per_s}
        for memory in self.memories:
            rate = memory.bandwidth_bytes_per_clk or memory.read_bytes_per_clk
            if rate is not None:
                found[memory.name] = rate * self.clock_hz * (self.cores if memory.scope == "core" else 1)
        return found

    def numbers(self) -> list[tuple[str, Any, str]]:
        """Every number as (path, SI value, unit); those that the energy tables filled last."""
        return [(path, value, unit) for path, (value, unit) in self.values.items()]

    def assumed(self) -> list[str]:
        """Paths of the numbers that no source gave."""
        return sorted(path for path, origin in self.provenance.items() if origin.status == "assumed")

    def override(self, changes: Mapping[str, Any]) -> NpuSystem:
        """The same NPU with some numbers changed: ``{"dram.bandwidth": "68 GB/s", "matrix.rows": 128}``.

        Raises
        ------
        UnknownNameError
            A path that the device file lacks.
        SpecError
            A value of the wrong unit or range.
        """
        from .npu_file import override

        return override(self, changes)

    def arithmetic_for(self, number_format: str) -> str:
        """Arithmetic that executes operands of a format: its own, else another floating-point one, else the fastest (quantised)."""
        own = {"float16": "fp16", "bfloat16": "bf16"}.get(number_format, number_format)
        rates = self.matrix.macs_per_clk
        alike = {"bf16": ("fp16",), "fp16": ("bf16",)}.get(own, ())
        floats = [a for a in rates if not a.startswith("int")] if own.startswith(("fp", "bf", "tf")) else []
        return next((a for a in (own, *alike, *floats) if a in rates), max(rates, key=lambda a: (rates[a], arithmetic_bits(a), a)))

    def array(self) -> SystolicArray | None:
        """One matrix engine as a systolic array, for its closed forms; None for a cube."""
        if self.matrix.dataflow == "cube":
            return None
        return SystolicArray(self.matrix.rows, self.matrix.cols, self.matrix.dataflow, clock_hz=self.clock_hz)

    def hierarchy(self, arithmetic: str) -> Hierarchy:
        """The memory system and the PEs as a loop-nest hierarchy, for operands of an arithmetic.

        Cores and engines are fanouts whose partial sums are not added up, so that a mapping splits an op over them by its outputs. A
        systolic array appears as a register per PE that holds the stationary operand; it is written at one PE of a column a cycle,
        as operands that enter at an edge are shifted in, so that a fold shorter than the array is high waits for the next one's operands.
        """
        size = arithmetic_bits(arithmetic) / 8
        dram = Memory(
            "dram",
            read_j_per_byte=self.dram.j_per_byte,
            write_j_per_byte=self.dram.j_per_byte,
            bandwidth_bytes_per_clk=self.dram.bandwidth_bytes_per_s / self.clock_hz,
        )
        chip = [self._memory(m, size) for m in self.memories if m.scope == "chip"]
        core = [self._memory(m, size) for m in self.memories if m.scope == "core"]
        levels: list[Memory | Fanout] = [dram, *chip]
        if self.cores > 1:
            levels.append(Fanout("cores", {"core": self.cores}, reduction=False))
        levels += core
        if self.matrix.engines > 1:
            levels.append(Fanout("engines", {"engine": self.matrix.engines}, reduction=False))
        axes = {"row": self.matrix.rows, "col": self.matrix.cols} | ({"depth": self.matrix.depth} if self.matrix.depth > 1 else {})
        levels.append(Fanout("array", axes))
        registers = self._registers(size)
        if registers is not None:
            levels.append(registers)
        return Hierarchy(
            self.name,
            tuple(levels),
            self.matrix.mac_j[arithmetic],
            self.clock_hz,
            self.matrix.macs_per_clk[arithmetic],
            self.title,
        )

    def _memory(self, memory: Scratchpad, element_bytes: float) -> Memory:
        """A scratchpad; one that holds wide partial sums is seen in output elements: less room, and more energy and port time for each."""
        wide = 1.0 if memory.partial_bytes is None else memory.partial_bytes / element_bytes

        def narrowed(value: float | None) -> float | None:
            return None if value is None else value / wide

        return Memory(
            memory.name,
            narrowed(memory.size_bytes),
            memory.read_j_per_byte * wide,
            memory.write_j_per_byte * wide,
            narrowed(memory.bandwidth_bytes_per_clk),
            narrowed(memory.read_bytes_per_clk),
            narrowed(memory.write_bytes_per_clk),
            memory.keeps,
            {kind: size / wide for kind, size in memory.partition_bytes.items()},
            memory.buffers,
        )

    def _registers(self, element_bytes: float) -> Memory | None:
        matrix = self.matrix
        if matrix.register_bytes:
            kinds = tuple(kind for kind in CLASSES if kind in matrix.register_bytes)
            energy = matrix.register_j_per_byte
            return Memory("registers", None, energy, energy, keeps=kinds, partition_bytes=dict(matrix.register_bytes))
        if not matrix.systolic:
            return None
        held = STATIONARY[matrix.dataflow]
        rate = element_bytes / matrix.rows if held != "output" else None
        return Memory("registers", element_bytes, keeps=(held,), write_bytes_per_clk=rate)


def arithmetic_bits(arithmetic: str) -> int:
    """Bits of an operand: the digits of the arithmetic's name.

    >>> arithmetic_bits("bf16"), arithmetic_bits("int8")
    (16, 8)
    """
    return int("".join(c for c in arithmetic if c.isdigit()) or 32)


def npu_from_document(document: Mapping[str, Any]) -> NpuSystem:
    """Build an `NpuSystem` from the content of its device file; see `presilicon.arch.npu_file.npu_from_document` for the errors."""
    from .npu_file import npu_from_document as build

    return build(document)
