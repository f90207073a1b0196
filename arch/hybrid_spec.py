"""Systems that mix a processor with processing in memory, as typed values; `presilicon.arch.hybrid` reads them from files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final

from .dram_spec import DramDevice
from .spec import Provenance, System

#: Where the units' share of the memory is: in the processor's own memory, or in devices of its own behind a link.
MEMORIES: Final = ("shared", "separate")
#: Whether units and processor may use one memory at the same time.
ACCESSES: Final = ("concurrent", "blocked")
#: How requests are given channels: in turn, or to the least loaded one, longest first.
PACKINGS: Final = ("round-robin", "greedy")
#: Command sets and placements of units, each with a closed form of its own in `presilicon.mapping.pim_attention` or, of ``"gemv"``, devices
#: whose file tells its commands by their roles, and ``"samsung"``, in `presilicon.mapping.pim_products`.
KERNELS: Final = ("newton", "aim", "attacc", "logic", "upmem", "samsung", "gemv")
STATIONARY: Final = ("inputs", "weights")
#: How the arrays of a processor multiply vectors with matrices of their own: one array a matrix, or all arrays one matrix after the other.
GEMV: Final = ("spread", "in-turn")
LEVELS: Final = ("bank", "bg", "buffer")
#: Parts of the path from a cell to the processor, in order (names of a DRAM file's energies).
PATH: Final = ("activate", "cell", "column", "bankgroup", "tsv", "io")
#: How many of them a read by units crosses, by where the units are (AttAcc simulator: its energies by level).
CROSSED: Final[Mapping[str, int]] = {"bank": 2, "bg": 3, "buffer": 5, "logic": 5}


@dataclass(frozen=True)
class NpuSide:
    """A processor of systolic arrays and vector cores.

    Attributes
    ----------
    clock_hz, arrays, rows, columns
        Clock, and systolic arrays of so many rows and columns of multiply-adders.
    stationary
        What the arrays hold: ``"inputs"``, a tile of activations past which all arrays stream shares of the weights, or ``"weights"``,
        each array a tile of weights.
    vector_cores, lanes
        Vector cores, and elements that each takes per cycle.
    bandwidth_bytes_per_s, efficiency
        Peak bandwidth of its memory, and the share of it that long streams reach.
    scratchpad_bytes
        On-chip memory, which holds what is prefetched.
    mac_j, vector_j, idle_w
        Energy of a multiply-add and of a vector operation; power while nothing runs.
    gemv
        One of `GEMV`.
    """

    clock_hz: float
    arrays: int
    rows: int
    columns: int
    stationary: str
    vector_cores: int
    lanes: int
    bandwidth_bytes_per_s: float
    efficiency: float
    scratchpad_bytes: float
    mac_j: float
    vector_j: float
    idle_w: float
    gemv: str = "spread"

    @property
    def peak_flops_per_s(self) -> float:
        """Highest rate of the arrays, a multiply-add being two."""
        return 2.0 * self.arrays * self.rows * self.columns * self.clock_hz


@dataclass(frozen=True)
class TiledSide:
    """A processor known by its peaks, with caches that decide the traffic of its products (the xPU of AttAcc).

    Attributes
    ----------
    cores, flops_per_s, bandwidth_bytes_per_s
        Cores, peak FLOP/s and memory bandwidth.
    compute_share, memory_share
        Shares of the peaks that kernels reach.
    l1_bytes, l2_bytes
        Level-1 memory of a core, level-2 memory of the device.
    memory_bytes
        Capacity.
    energy
        J/B of ``dram``, ``l2``, ``l1``, ``register``, and J of a multiply-add, ``mac``.
    """

    cores: int
    flops_per_s: float
    bandwidth_bytes_per_s: float
    compute_share: float
    memory_share: float
    l1_bytes: float
    l2_bytes: float
    memory_bytes: float
    energy: Mapping[str, float]
    idle_w: float = 0.0


@dataclass(frozen=True)
class Wire:
    """A link: bytes per second and direction, seconds of one hop, joules per byte."""

    bandwidth_bytes_per_s: float
    latency_s: float
    j_per_byte: float = 0.0

    def time_s(self, size_bytes: float) -> float:
        """Seconds for a message; none for no bytes."""
        return self.latency_s + size_bytes / self.bandwidth_bytes_per_s if size_bytes else 0.0


@dataclass(frozen=True)
class PimSide:
    """Memory with processing units beside one processor.

    Attributes
    ----------
    device
        The memory, one of `presilicon.arch.dram`.
    kernel
        Which of `KERNELS` its units run.
    count
        How many such memories one processor has.
    memory, access
        One of `MEMORIES`, one of `ACCESSES`.
    level, power_limited
        AttAcc: where the units are, and whether a power limit stretches their commands.
    host_s
        Time of the processor to start the units for one op.
    scale, op_per_byte
        Logic-die units: their bandwidth over the external one, and operations per byte that they can do.
    issue_per_s
        Commands of units that the processor sends in a second to all channels together, channel after channel; 0: as many as they take.
    composite
        Whether one command stands for all products of a result and its read (NeuPIMs), instead of one a column.
    vectors
        Vectors of a product with weights that a unit multiplies with each column that it has read (PAPI's FC-PIM: four multiplier groups
        a bank); attention takes one at a time.
    """

    device: DramDevice
    kernel: str
    count: int
    memory: str
    access: str
    level: str = "bank"
    power_limited: bool = True
    host_s: float = 0.0
    scale: float = 1.0
    op_per_byte: float = 0.0
    issue_per_s: float = 0.0
    composite: bool = False
    vectors: int = 1

    @property
    def size_bytes(self) -> float:
        """Capacity."""
        return float(self.device.organisation.size_bytes * self.count)

    @property
    def channels(self) -> int:
        """Channels of all its memories."""
        return self.device.organisation.channels * self.count


@dataclass(frozen=True)
class Plan:
    """How work is laid out in time.

    Attributes
    ----------
    packing
        One of `PACKINGS`.
    sub_batches, sub_batch_least
        Into how many parts a batch is cut so that the processor works on one while the units attend for another, and the least batch for
        which that is done.
    prefetch
        Whether the processor fetches the next weights while the units work.
    head_pipeline
        Whether attention of one head overlaps the projections of others.
    co_processing
        Whether the units take a share of the feed-forward products.
    fuse
        Whether chains of elementwise ops and norms, and what follows a product, run as one; otherwise norms, chains of elementwise ops
        between them, and products read and write memory on their own.
    """

    packing: str = "round-robin"
    sub_batches: int = 1
    sub_batch_least: int = 1
    prefetch: bool = False
    head_pipeline: bool = False
    co_processing: bool = False
    fuse: bool = True


@dataclass(frozen=True)
class HybridSystem:
    """A number of equal devices, each a processor and, beside it, memory with processing units.

    Attributes
    ----------
    name, title
        Name of its file and a name for people.
    devices
        Devices that share every layer (tensor parallelism).
    xpu
        A GPU, an NPU or a processor known by its peaks.
    pim
        Memory with units of one device; None without.
    pim_linear
        A second memory, with units of another kind: products with weights run on these, and on those of `pim` only attention; None: `pim`
        runs both.
    link
        Between the processor and separate memories; None where they are one.
    fabric
        Between devices; None for one device.
    plan
        How work is laid out.
    document, provenance
        Content of the file with overrides, and the source of every number.
    """

    kind: ClassVar[str] = "hybrid"

    name: str
    title: str
    devices: int
    xpu: System | NpuSide | TiledSide
    pim: PimSide | None
    link: Wire | None
    fabric: Wire | None
    plan: Plan
    memory_bytes: float
    generation: str = ""
    intervals: Mapping[str, Any] = field(default_factory=dict)
    provenance: Mapping[str, Provenance] = field(default_factory=dict)
    values: Mapping[str, tuple[Any, str]] = field(default_factory=dict)
    document: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)
    pim_linear: PimSide | None = None

    def __repr__(self) -> str:
        from .listing import short

        return short(self)

    def _repr_html_(self) -> str:
        from .listing import short_html

        return short_html(self)

    @property
    def sides(self) -> dict[str, PimSide]:
        """Memories with units by the name of their device in a placement: ``"pim"``, ``"pim-linear"``."""
        return {name: side for name, side in (("pim", self.pim), ("pim-linear", self.pim_linear)) if side is not None}

    @property
    def bandwidth_bytes_per_s(self) -> float:
        """Memory bandwidth of one processor."""
        return self.xpu.dram.bandwidth_bytes_per_s if isinstance(self.xpu, System) else self.xpu.bandwidth_bytes_per_s

    @property
    def idle_w(self) -> float:
        """Power of all devices while nothing runs."""
        return self.devices * self.xpu.idle_w

    @property
    def peaks_flops_per_s(self) -> dict[str, float]:
        """Peak of all processors by arithmetic, or of all units where that is higher (systems without a processor for products)."""
        if isinstance(self.xpu, System):
            return {name: self.devices * rate for name, rate in self.xpu.peaks_flops_per_s.items()}
        peak = self.xpu.peak_flops_per_s if isinstance(self.xpu, NpuSide) else self.xpu.flops_per_s
        for side in self.sides.values():  # a multiply-add for each 2 bytes and vector
            peak = max(peak, internal_bytes_per_s(side) * max(1.0, side.op_per_byte, float(side.vectors)))
        return {"fp16": self.devices * peak, "bf16": self.devices * peak}

    @property
    def ceilings_bytes_per_s(self) -> dict[str, float]:
        """Bandwidth of all processors' memories, and that inside the memory with units."""
        inside = {name: self.devices * internal_bytes_per_s(side) for name, side in self.sides.items()}
        return {"dram": self.devices * self.bandwidth_bytes_per_s, **inside}

    def numbers(self) -> list[tuple[str, Any, str]]:
        """Every number of the file as (path, SI value, unit)."""
        return [(path, value, unit) for path, (value, unit) in self.values.items()]

    def assumed(self) -> list[str]:
        """Paths of the numbers that no source gave."""
        return sorted(path for path, p in self.provenance.items() if p.status == "assumed")

    def override(self, changes: Mapping[str, Any]) -> HybridSystem:
        """The same system with some entries changed: ``{"pim.access": "blocked", "devices": 8}``.

        Raises
        ------
        UnknownNameError
            A path that does not exist, or a word that is not allowed, with the nearest.
        SpecError
            A value of the wrong unit or out of range.
        """
        from .hybrid import override

        return override(self, changes)


def suits(kernel: str, device: DramDevice) -> bool:
    """Whether a memory has the units and commands that a kernel needs; ``"logic"`` needs none in the memory's dies."""
    commands = {command.name for command in device.commands}
    return kernel == "logic" or (device.pim is not None and {
        "newton": "GACT" in commands, "aim": "MAC16" in commands, "attacc": "MACAB" in commands, "upmem": "mac_int8" in device.controller,
        "samsung": device.pim.placement == "bank-pair" and device.gemv is None and not {"MACAB", "MAC16", "GACT"} & commands,
        "gemv": device.gemv is not None}[kernel])


def crossed(pim: PimSide) -> str:
    """How far a read by the units comes: ``"bank"``, ``"bg"``, ``"buffer"``, or ``"logic"``."""
    if pim.kernel == "attacc":
        return pim.level
    return "logic" if pim.kernel == "logic" else unit_level(pim.device)


def unit_level(device: DramDevice) -> str:
    """Where a memory's own units are: ``"bank"``, ``"bg"`` or ``"buffer"``; ``"logic"`` without any."""
    if device.pim is None:
        return "logic"
    return {"bankgroup": "bg", "pseudochannel": "buffer"}.get(device.pim.placement, "bank")


def internal_bytes_per_s(pim: PimSide) -> float:
    """Peak rate at which the units of one device's memories read rows: one width a unit and command."""
    device = pim.device
    org = device.organisation
    if pim.kernel == "logic" or device.pim is None:
        return pim.scale * pim.count * org.channels * org.pseudo_channels * org.column_bytes * device.clock_hz / device.timings["tBL"]
    return pim.count * org.channels * device.units_per_channel * device.pim.width_bytes * device.pim.clock_hz
