"""Typed specifications of hardware: frozen dataclasses with SI units in the field names, which pydantic checks.

Each field's alias is its name in a device file and in an override path: ``dram.bandwidth`` is
`Dram.bandwidth_bytes_per_s`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Final, Literal, Protocol, Self

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field

from ..errors import UnitError, UnknownNameError
from ..units import parse

#: Arithmetics that a tensor core may have; the key under ``gpu.sm.tensor`` in a device file.
ARITHMETICS: Final = ("fp64", "tf32", "bf16", "fp16", "fp8", "fp4", "int8", "int4")
#: Those that sparse tensor cores speed up, with the patterns of zeros that they skip: of 8 and 16 bits 2:4, of tf32 1:2. A 1:2 pattern is
#: also a 2:4 pattern. For 4-bit elements the pattern is 4:8 in pairs of neighbours, which no pattern of single elements implies
#: (NVIDIA, PTX ISA, "Multiply-and-accumulate operation using mma.sp instruction with sparse matrix A").
SKIPPED_PATTERNS: Final[Mapping[str, tuple[str, ...]]] = {
    "tf32": ("1:2",), "bf16": ("2:4", "1:2"), "fp16": ("2:4", "1:2"), "fp8": ("2:4", "1:2"), "int8": ("2:4", "1:2"),
}


def _quantity(unit: str) -> BeforeValidator:
    return BeforeValidator(lambda value: parse(value, unit))


def _above_zero(unit: str) -> Any:
    return Field(gt=0, json_schema_extra={"unit": unit})


def _whole(value: float) -> float:
    if value != int(value):
        raise UnitError(f"expected a whole number, found {value:g}")
    return value


Hertz = Annotated[float, _quantity("Hz"), _above_zero("Hz")]
Count = Annotated[float, _quantity("1"), _above_zero("1"), AfterValidator(_whole)]
OpsPerClock = Annotated[float, _quantity("op/clk"), _above_zero("op/clk")]
FlopsPerClock = Annotated[float, _quantity("FLOP/clk"), _above_zero("FLOP/clk")]
BytesPerClock = Annotated[float, _quantity("B/clk"), _above_zero("B/clk")]
Bytes = Annotated[float, _quantity("B"), _above_zero("B")]
BytesPerSecond = Annotated[float, _quantity("B/s"), _above_zero("B/s")]
Clocks = Annotated[float, _quantity("clk"), _above_zero("clk")]
Watts = Annotated[float, _quantity("W"), _above_zero("W")]
Speedup = Annotated[float, _quantity("1"), Field(ge=1, le=2, json_schema_extra={"unit": "1"})]
Seconds = Annotated[float, _quantity("s"), Field(ge=0, json_schema_extra={"unit": "s"})]

_FORBID = ConfigDict(extra="forbid", populate_by_name=False)


@dataclass(frozen=True)
class Clock:
    """Clocks of the compute units, Hz."""

    __pydantic_config__ = _FORBID
    boost_hz: Annotated[Hertz, Field(alias="boost", description=(
        "Highest SM clock under tensor work when power allows; tensor peak at this clock is the data sheet's"))]
    headroom: Annotated[Speedup, Field(alias="headroom", description=(
        "Highest SM clock over boost, at which what leaves the tensor cores idle runs when power allows"))]


@dataclass(frozen=True)
class Sm:
    """One streaming multiprocessor; rates are per SM clock and SM, memories in bytes per SM."""

    __pydantic_config__ = _FORBID
    count: Annotated[Count, Field(alias="count", description="SMs of the GPU")]
    tensor_flops_per_clk: Annotated[Mapping[str, FlopsPerClock], Field(
        alias="tensor", description="Dense tensor-core rate, a multiply-add being two",
        json_schema_extra={"unit": "FLOP/clk"})]
    sparse_speedup: Annotated[Speedup, Field(alias="sparse_speedup", description=(
        "Tensor-core rate with half of the weights zero in a pattern that they skip (2:4), over the dense rate; 1: none is skipped"))]
    fma_per_clk: Annotated[OpsPerClock, Field(alias="fma", description="fp32 multiply-adds")]
    sfu_per_clk: Annotated[OpsPerClock, Field(alias="sfu", description="Special functions (exp, rsqrt, ...)")]
    shared_bytes_per_clk: Annotated[BytesPerClock, Field(
        alias="shared_bandwidth", description="Shared-memory bandwidth")]
    shared_bytes: Annotated[Bytes, Field(alias="shared_memory", description="Shared memory")]
    shared_bytes_per_cta: Annotated[Bytes, Field(
        alias="shared_memory_per_cta", description="Shared memory that one CTA may take")]
    registers: Annotated[Count, Field(alias="registers", description="32-bit registers")]
    max_warps: Annotated[Count, Field(alias="max_warps", description="Resident warps")]
    max_ctas: Annotated[Count, Field(alias="max_ctas", description="Resident CTAs")]


@dataclass(frozen=True)
class L2:
    """Level-2 cache of the whole GPU: bytes, bytes per SM clock, SM clocks."""

    __pydantic_config__ = _FORBID
    size_bytes: Annotated[Bytes, Field(alias="size", description="L2 capacity")]
    bytes_per_clk: Annotated[BytesPerClock, Field(
        alias="bandwidth", description="Peak L2 read bandwidth of the whole GPU per SM clock")]
    latency_clk: Annotated[Clocks, Field(
        alias="latency", description="Load-to-use latency of an L2 hit, in SM clocks; of several partitions, in the SM's own")]
    partitions: Annotated[Count, Field(alias="partitions", description=(
        "Parts that L2 consists of: an SM asks the near one, which keeps a copy of what it had to fetch from the other"))]
    far_latency_clk: Annotated[Clocks, Field(
        alias="far_latency", description="Load-to-use latency of a hit in the other partition, in SM clocks")]
    far_bytes_per_clk: Annotated[BytesPerClock, Field(
        alias="far_bandwidth", description="Bandwidth between the partitions, both ways together, per SM clock")]


@dataclass(frozen=True)
class Gpu:
    """The processor."""

    __pydantic_config__ = _FORBID
    clock: Clock
    sm: Sm
    l2: L2


@dataclass(frozen=True)
class Dram:
    """Device memory: bytes, bytes per second, SM clocks at boost."""

    __pydantic_config__ = _FORBID
    size_bytes: Annotated[Bytes, Field(alias="size", description="Memory that the driver offers to programs, ECC on")]
    bandwidth_bytes_per_s: Annotated[BytesPerSecond, Field(
        alias="bandwidth", description="Peak bandwidth, reads and writes together")]
    latency_clk: Annotated[Clocks, Field(
        alias="latency", description="Load-to-use latency of an L2 miss, in SM clocks")]


@dataclass(frozen=True)
class Power:
    """Electrical limits of one board, W."""

    __pydantic_config__ = _FORBID
    limit_w: Annotated[Watts, Field(alias="limit", description="Board power limit")]
    idle_w: Annotated[Watts, Field(
        alias="idle", description="Power of a board that is ready (state P0) but runs nothing")]


@dataclass(frozen=True)
class Link:
    """What joins several devices: bytes per second and direction, seconds."""

    __pydantic_config__ = _FORBID
    kind: Annotated[Literal["nvlink", "pcie"], Field(
        description="nvlink: through a switch; pcie: through the host's root complex")]
    bandwidth_bytes_per_s: Annotated[BytesPerSecond, Field(
        alias="bandwidth", description="Bandwidth per direction and device")]
    latency_s: Annotated[Seconds, Field(alias="latency", description="One hop, device to device")]
    max_devices: Annotated[Count, Field(alias="max_devices", description="Devices that the link joins")]
    multicast: Annotated[bool, Field(description="The switch reduces and broadcasts (NVLS)")] = False


@dataclass(frozen=True)
class Host:
    """The CPU that launches kernels, seconds."""

    __pydantic_config__ = _FORBID
    launch_s: Annotated[Seconds, Field(
        alias="launch", description="CPU time to submit one kernel from an eager framework's C++ path")]
    dispatch_s: Annotated[Seconds, Field(alias="dispatch", description=(
        "CPU time of the eager framework per operator before its launch (Python, dispatcher)"))]
    graph_launch_s: Annotated[Seconds, Field(
        alias="graph_launch", description="CPU time to launch one captured graph")]
    stream_gap_s: Annotated[Seconds, Field(
        alias="stream_gap", description="GPU time between two dependent kernels of a stream that is never empty")]
    queue_depth: Annotated[Count, Field(
        alias="queue_depth", description="Launches that may wait in a stream before the CPU blocks")]


@dataclass(frozen=True)
class Provenance:
    """Where a number comes from.

    Attributes
    ----------
    source
        Data sheet, paper, measurement or rule, in words.
    status
        ``"sourced"`` (stands in the device file with its source, or is documented for its generation), ``"fitted"``
        (calibrated on measurements),
        ``"assumed"`` (filled by the stated rule of its generation, or an estimate that the file itself states),
        or ``"override"`` (set by the user).
    """

    source: str
    status: Literal["sourced", "fitted", "assumed", "override"]


class AnySystem(Protocol):
    """What every kind of system offers to simulators, reports and pictures; `kind` says which simulator plays it.

    ``"gpu"`` is `System`, ``"npu"`` is `presilicon.arch.npu.NpuSystem`, ``"hybrid"`` is `presilicon.arch.hybrid.HybridSystem`.
    """

    @property
    def kind(self) -> str:
        """``"gpu"``, ``"npu"`` or ``"hybrid"``."""

    @property
    def name(self) -> str:
        """Name of its file."""

    @property
    def title(self) -> str:
        """Name for people."""

    @property
    def generation(self) -> str:
        """Generation whose rules fill absent numbers; ``""`` where there are none."""

    @property
    def intervals(self) -> Mapping[str, Any]:
        """What calibration knows of its own error, by family."""

    @property
    def provenance(self) -> Mapping[str, Provenance]:
        """Source and status of every number, by path."""

    @property
    def memory_bytes(self) -> float:
        """Capacity for weights, caches and activations."""

    @property
    def idle_w(self) -> float:
        """Power while nothing runs."""

    @property
    def peaks_flops_per_s(self) -> Mapping[str, float]:
        """Highest FLOP/s by arithmetic."""

    @property
    def ceilings_bytes_per_s(self) -> Mapping[str, float]:
        """Highest B/s by memory level, device memory first."""

    def numbers(self) -> Iterable[tuple[str, Any, str]]:
        """Every number as (path, SI value, unit)."""

    def assumed(self) -> list[str]:
        """Paths of the numbers that no source gave."""

    def override(self, changes: Mapping[str, Any]) -> Self:
        """The same system with some numbers changed."""


@dataclass(frozen=True)
class System:
    """A GPU with its memory, links and host; treat as immutable, mappings included.

    Attributes
    ----------
    name, title, generation
        ``"h100-sxm"``, a name for people, and the generation whose rules fill absent numbers (``"sm_90"``).
    gpu, dram, power, link, host
        The parts.
    calibration
        Constants of the models by name, SI units (their meaning: arch/constants).
    intervals
        What calibration knows of its own error, by family; see `presilicon.arch.intervals`.
    provenance
        Source and status of every number, by path.
    document
        Content of the device file, overrides included, as `save` writes it.
    """

    kind: ClassVar[str] = "gpu"

    name: str
    title: str
    generation: str
    gpu: Gpu
    dram: Dram
    power: Power
    link: Link
    host: Host
    calibration: Mapping[str, float] = field(default_factory=dict)
    intervals: Mapping[str, Any] = field(default_factory=dict)
    provenance: Mapping[str, Provenance] = field(default_factory=dict)
    document: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)

    def __repr__(self) -> str:
        from .listing import short

        return short(self)

    def _repr_html_(self) -> str:
        from .listing import short_html

        return short_html(self)

    def tensor_flops_per_s(self, arithmetic: str) -> float:
        """Dense tensor-core peak at the boost clock, FLOP/s (a multiply-add is two).

        Raises
        ------
        UnknownNameError
            The tensor cores do not have this arithmetic; the message names those that they have.
        """
        rates = self.gpu.sm.tensor_flops_per_clk
        if arithmetic not in rates:
            raise UnknownNameError("arithmetic", arithmetic, rates, where=f"{self.name}: gpu.sm.tensor")
        return rates[arithmetic] * self.gpu.sm.count * self.gpu.clock.boost_hz

    @property
    def memory_bytes(self) -> float:
        """Capacity of the device memory."""
        return self.dram.size_bytes

    @property
    def idle_w(self) -> float:
        """Power of a board that is ready but runs nothing."""
        return self.power.idle_w

    @property
    def peaks_flops_per_s(self) -> dict[str, float]:
        """Peak by tensor arithmetic, and ``"fma"`` for fp32 multiply-adds outside of the tensor cores, at the boost clock.

        ``"bf16_sparse"``, where the tensor cores skip zeros, counts the FLOPs of the dense product, as data sheets do.
        """
        peaks = {name: self.tensor_flops_per_s(name) for name in self.gpu.sm.tensor_flops_per_clk}
        if self.gpu.sm.sparse_speedup > 1:
            peaks |= {f"{name}_sparse": self.gpu.sm.sparse_speedup * peaks[name] for name in SKIPPED_PATTERNS if name in peaks}
        return peaks | {"fma": 2 * self.gpu.sm.fma_per_clk * self.gpu.sm.count * self.gpu.clock.boost_hz}

    @property
    def ceilings_bytes_per_s(self) -> dict[str, float]:
        """Peak bandwidth of device memory and L2."""
        return {"dram": self.dram.bandwidth_bytes_per_s, "l2": self.gpu.l2.bytes_per_clk * self.gpu.clock.boost_hz}

    def numbers(self) -> list[tuple[str, Any, str]]:
        """Every number as (path, SI value, unit), hardware first, then the calibration constants."""
        from .loader import value_at
        from .schema import describe

        return [(path, value_at(self, path), unit) for path, unit, _ in describe() if path in self.provenance]

    def assumed(self) -> list[str]:
        """Paths of the numbers that no source gave."""
        return sorted(path for path, p in self.provenance.items() if p.status == "assumed")

    def override(self, changes: Mapping[str, Any]) -> System:
        """A new system with some numbers changed: ``{"gpu.sm.count": 144, "dram.bandwidth": "4 TB/s"}``.

        Nothing else changes: a number that a rule derived from a changed one keeps its value. A tensor arithmetic that
        the GPU lacks may be added (``{"gpu.sm.tensor.fp4": 16384}``).

        Raises
        ------
        UnknownNameError
            A path that does not exist, with the nearest that does.
        SpecError
            A value of the wrong unit or out of range.
        """
        from .loader import override

        return override(self, changes)
