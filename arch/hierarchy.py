"""Spatial accelerator: an ordered hierarchy of memories with spatial fanouts between them, and the MACs at its end.

A file of ``arch/hierarchies`` lists the levels from the outermost memory, which backs every tensor, to the innermost;
a fanout in the list multiplies everything below it. Every number names its source.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ..errors import SpecError, UnknownNameError, shown
from ..units import parse
from .spec import Provenance
from .yamlfile import read_yaml

FOLDER: Final = Path(__file__).parent / "hierarchies"

#: Classes of tensors that a memory may keep or pass by. A weight is an operand with the role ``weight``, or the second
#: input of an op that has none; every other operand that is read is an input.
TensorClass = Literal["input", "weight", "output"]
CLASSES: Final[tuple[TensorClass, ...]] = get_args(TensorClass)
#: What of transfers and computation overlaps.
Latency = Literal["overlapped", "fill-drain"]


@dataclass(frozen=True)
class Memory:
    """One memory level; numbers are those of one instance.

    Attributes
    ----------
    name
        Unique in its hierarchy.
    size_bytes
        Capacity, shared by all tensors that it keeps; None: unlimited.
    partition_bytes
        Capacity of each tensor class instead, where the memory is divided; empty: shared.
    read_j_per_byte, write_j_per_byte
        Energy of one byte read and written.
    bandwidth_bytes_per_clk, read_bytes_per_clk, write_bytes_per_clk
        Rates: one port that reads and writes share, or separate ports; None: unlimited.
    keeps
        Tensor classes that have a tile here; the others pass by.
    buffers
        Copies of each tile that it holds: 2 is double buffering.
    """

    name: str
    size_bytes: float | None = None
    read_j_per_byte: float = 0.0
    write_j_per_byte: float = 0.0
    bandwidth_bytes_per_clk: float | None = None
    read_bytes_per_clk: float | None = None
    write_bytes_per_clk: float | None = None
    keeps: tuple[TensorClass, ...] = CLASSES
    partition_bytes: Mapping[TensorClass, float] = field(default_factory=dict)
    buffers: int = 1


@dataclass(frozen=True)
class Fanout:
    """Copies of everything below, along named axes.

    Attributes
    ----------
    name, axes
        Name, and how many instances stand along each axis: ``{"x": 16, "y": 16}``.
    multicast
        One read above serves all instances that need the same datum.
    reduction
        Partial sums of several instances are added on their way up.
    """

    name: str
    axes: Mapping[str, int]
    multicast: bool = True
    reduction: bool = True

    @property
    def instances(self) -> int:
        """Instances of what is below, for each one of what is above."""
        return math.prod(self.axes.values())


@dataclass(frozen=True)
class Hierarchy:
    """A spatial accelerator.

    Attributes
    ----------
    name, title
        Name of its file and a line for people.
    levels
        Memories and fanouts, outermost first. The first is the memory that backs every tensor.
    mac_j
        Energy of one multiply-accumulate.
    macs_per_clk
        Multiply-accumulates that one MAC unit starts in a cycle.
    clock_hz
        Clock.
    op_macs
        Multiply-accumulates whose time and energy one other scalar operation takes, by class (``exp``, ``add`` ...); the MAC
        units execute no class that is not named.
    latency
        ``"overlapped"``: that of the slowest of the MACs and the ports. ``"fill-drain"``: with the first fill and the last drain, and with
        fills that wait where a memory has one buffer (`presilicon.mapping.nest.filldrain`).
    provenance
        Source of every number that a file gave, by path.

    Raises
    ------
    SpecError
        No backing memory, a name used twice, a size or an energy that is no number of its range.

    Examples
    --------
    >>> load_hierarchy("mapbench-16").mac_units
    256
    """

    name: str
    levels: tuple[Memory | Fanout, ...]
    mac_j: float
    clock_hz: float
    macs_per_clk: float = 1.0
    title: str = ""
    op_macs: Mapping[str, float] = field(default_factory=dict)
    latency: Latency = "overlapped"
    provenance: Mapping[str, Provenance] = field(default_factory=dict, compare=False)

    def __post_init__(self) -> None:
        _check(self)

    @property
    def memories(self) -> tuple[Memory, ...]:
        """The memories, outermost first."""
        return tuple(level for level in self.levels if isinstance(level, Memory))

    @property
    def mac_units(self) -> int:
        """MAC units of the whole array."""
        return math.prod(level.instances for level in self.levels if isinstance(level, Fanout))

    def fanouts_below(self, position: int) -> tuple[Fanout, ...]:
        """Fanouts directly below memory number `position`, above the next memory (or the MACs)."""
        found: list[Fanout] = []
        seen = -1
        for level in self.levels:
            if isinstance(level, Memory):
                seen += 1
            elif seen == position:
                found.append(level)
        return tuple(found)


def _number(value: float | None, where: str, *, zero: bool = False) -> None:
    if value is None:
        return
    good = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not good or value < 0 or (value == 0 and not zero):
        raise SpecError(f"{where}: expected a finite number {'of 0 or more' if zero else 'above 0'}, found {shown(value)}")


def _check(spec: Hierarchy) -> None:
    where = f"hierarchy {spec.name!r}"
    if not spec.levels or not isinstance(spec.levels[0], Memory):
        raise SpecError(f"{where}: levels: expected a memory that backs every tensor first, found {_first(spec)}")
    names = [level.name for level in spec.levels]
    for name in names:
        if names.count(name) > 1:
            raise SpecError(f"{where}: levels: the name {name!r} is used {names.count(name)} times; level names are unique")
    backing = spec.levels[0]
    if backing.size_bytes is not None or backing.partition_bytes or set(backing.keeps) != set(CLASSES):
        wanted = f"no size limit, and keeps all of {', '.join(CLASSES)}"
        raise SpecError(f"{where}: {backing.name}: the first memory backs every tensor: {wanted}")
    for level in spec.levels:
        place = f"{where}: {level.name}"
        if isinstance(level, Memory):
            _check_memory(level, place)
        else:
            _check_fanout(level, place)
    if spec.latency not in get_args(Latency):
        raise UnknownNameError("latency", str(spec.latency), get_args(Latency), where)
    _number(spec.mac_j, f"{where}: mac.energy", zero=True)
    _number(spec.clock_hz, f"{where}: clock")
    _number(spec.macs_per_clk, f"{where}: mac.rate")
    for name, macs in spec.op_macs.items():
        _number(macs, f"{where}: mac.ops.{name}", zero=True)


def _first(spec: Hierarchy) -> str:
    return f"the fanout {spec.levels[0].name!r}" if spec.levels else "no level at all"


def _check_memory(memory: Memory, place: str) -> None:
    _number(memory.size_bytes, f"{place}: size")
    for kind, size in memory.partition_bytes.items():
        if kind not in CLASSES:
            raise UnknownNameError("tensor class", str(kind), CLASSES, f"{place}: partition")
        _number(size, f"{place}: partition.{kind}")
    _number(memory.read_j_per_byte, f"{place}: read_energy", zero=True)
    _number(memory.write_j_per_byte, f"{place}: write_energy", zero=True)
    for name in ("bandwidth_bytes_per_clk", "read_bytes_per_clk", "write_bytes_per_clk"):
        _number(getattr(memory, name), f"{place}: {name}")
    if memory.bandwidth_bytes_per_clk is not None and (memory.read_bytes_per_clk or memory.write_bytes_per_clk):
        raise SpecError(f"{place}: give either bandwidth, which reads and writes share, or read_bandwidth and write_bandwidth")
    for kind in memory.keeps:
        if kind not in CLASSES:
            raise UnknownNameError("tensor class", str(kind), CLASSES, f"{place}: keeps")
    if not memory.keeps:
        raise SpecError(f"{place}: keeps: empty; a memory that keeps nothing is none: leave it out")
    if memory.buffers not in (1, 2):
        raise SpecError(f"{place}: buffers: expected 1, or 2 for double buffering, found {shown(memory.buffers)}")


def _check_fanout(fanout: Fanout, place: str) -> None:
    if not fanout.axes:
        raise SpecError(f"{place}: axes: empty; name at least one axis with its number of instances")
    for axis, count in fanout.axes.items():
        if isinstance(count, bool) or not isinstance(count, int) or count < 1:
            raise SpecError(f"{place}: axes.{axis}: expected an integer of 1 or more, found {shown(count)}")


# The boundary: what a file may hold.


class _Leaf(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    value: Any
    source: Annotated[str, Field(min_length=1)]
    status: Literal["sourced", "fitted", "assumed"] = "sourced"


class _MemoryFile(BaseModel):
    model_config = ConfigDict(extra="forbid")
    memory: str
    size: _Leaf | None = None
    partition: dict[str, _Leaf] = {}
    read_energy: _Leaf
    write_energy: _Leaf
    bandwidth: _Leaf | None = None
    read_bandwidth: _Leaf | None = None
    write_bandwidth: _Leaf | None = None
    keeps: tuple[str, ...] = CLASSES
    buffers: _Leaf | None = None


class _FanoutFile(BaseModel):
    model_config = ConfigDict(extra="forbid")
    fanout: str
    axes: dict[str, _Leaf]
    multicast: _Leaf | None = None
    reduction: _Leaf | None = None


class _MacFile(BaseModel):
    model_config = ConfigDict(extra="forbid")
    energy: _Leaf
    rate: _Leaf | None = None
    ops: dict[str, _Leaf] = {}


class _HierarchyFile(BaseModel):
    model_config = ConfigDict(extra="forbid")
    name: str
    title: str = ""
    sources: dict[str, str] = {}
    levels: list[dict[str, Any]]
    mac: _MacFile
    clock: _Leaf
    latency: str = "overlapped"
    notes: str = ""


_Part = TypeVar("_Part", bound=BaseModel)


class _Reader:
    """Turns leaves into numbers and notes where each came from."""

    def __init__(self, sources: Mapping[str, str]) -> None:
        self.sources = sources
        self.provenance: dict[str, Provenance] = {}

    def number(self, leaf: _Leaf, path: str, unit: str) -> float:
        self._note(leaf, path)
        try:
            return parse(leaf.value, unit)
        except SpecError as error:
            raise SpecError(f"{path}: {error}") from None

    def optional(self, leaf: _Leaf | None, path: str, unit: str) -> float | None:
        return None if leaf is None else self.number(leaf, path, unit)

    def whole(self, leaf: _Leaf, path: str) -> int:
        number = self.number(leaf, path, "1")
        if number != int(number):
            raise SpecError(f"{path}: expected a whole number, found {shown(leaf.value)}")
        return int(number)

    def flag(self, leaf: _Leaf | None, path: str) -> bool:
        if leaf is None:
            return True
        self._note(leaf, path)
        if not isinstance(leaf.value, bool):
            raise SpecError(f"{path}: expected true or false, found {shown(leaf.value)}")
        return leaf.value

    def _note(self, leaf: _Leaf, path: str) -> None:
        self.provenance[path] = Provenance(self.sources.get(leaf.source, leaf.source), leaf.status)


def hierarchy_names() -> list[str]:
    """Names of the shipped hierarchies."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def load_hierarchy(name: str | Path | Hierarchy) -> Hierarchy:
    """Load a hierarchy by its name (``"mapbench-16"``) or from a YAML file.

    Raises
    ------
    UnknownNameError
        No shipped file has that name, or the file has an unknown key.
    SpecError
        The file is not YAML, lacks a number or its source, or describes no hierarchy; names file and field.

    >>> [level.name for level in load_hierarchy("mapbench-16").levels]
    ['dram', 'buffer', 'pe_array', 'register_file']
    """
    if isinstance(name, Hierarchy):
        return name
    text = str(name)
    if text.endswith((".yaml", ".yml")) or "/" in text:
        return _load(Path(text))
    if text not in hierarchy_names():
        raise UnknownNameError("hierarchy", text, hierarchy_names())
    return _load_shipped(FOLDER / f"{text}.yaml")


@lru_cache(maxsize=32)
def _load_shipped(path: Path) -> Hierarchy:
    return _load(path)


def _load(path: Path) -> Hierarchy:
    document = read_yaml(path)
    try:
        return hierarchy_from_document(document)
    except UnknownNameError as error:
        error.args = (f"{path}: {error}",)
        raise
    except SpecError as error:
        raise SpecError(f"{path}: {error}") from None


def hierarchy_from_document(document: Mapping[str, Any]) -> Hierarchy:
    """Build a Hierarchy from the content of a file; see `load_hierarchy` for the errors."""
    file = _validated(_HierarchyFile, document, "")
    reader = _Reader(file.sources)
    levels = tuple(_level(node, f"levels.{i}", reader) for i, node in enumerate(file.levels))
    return Hierarchy(
        name=file.name,
        title=file.title or file.name,
        levels=levels,
        mac_j=reader.number(file.mac.energy, "mac.energy", "J"),
        macs_per_clk=1.0 if file.mac.rate is None else reader.number(file.mac.rate, "mac.rate", "1"),
        clock_hz=reader.number(file.clock, "clock", "Hz"),
        latency=file.latency,  # type: ignore[arg-type]
        op_macs={name: reader.number(leaf, f"mac.ops.{name}", "1") for name, leaf in file.mac.ops.items()},
        provenance=reader.provenance,
    )


def _level(node: Mapping[str, Any], where: str, reader: _Reader) -> Memory | Fanout:
    if ("memory" in node) == ("fanout" in node):
        raise SpecError(f"{where}: expected either 'memory: NAME' or 'fanout: NAME', found keys {', '.join(map(str, node)) or 'none'}")
    if "fanout" in node:
        fanout = _validated(_FanoutFile, node, where)
        return Fanout(
            name=fanout.fanout,
            axes={axis: reader.whole(leaf, f"{where}.axes.{axis}") for axis, leaf in fanout.axes.items()},
            multicast=reader.flag(fanout.multicast, f"{where}.multicast"),
            reduction=reader.flag(fanout.reduction, f"{where}.reduction"),
        )
    memory = _validated(_MemoryFile, node, where)
    return Memory(
        name=memory.memory,
        size_bytes=reader.optional(memory.size, f"{where}.size", "B"),
        partition_bytes={k: reader.number(leaf, f"{where}.partition.{k}", "B") for k, leaf in memory.partition.items()},  # type: ignore[misc]
        read_j_per_byte=reader.number(memory.read_energy, f"{where}.read_energy", "J/B"),
        write_j_per_byte=reader.number(memory.write_energy, f"{where}.write_energy", "J/B"),
        bandwidth_bytes_per_clk=reader.optional(memory.bandwidth, f"{where}.bandwidth", "B/clk"),
        read_bytes_per_clk=reader.optional(memory.read_bandwidth, f"{where}.read_bandwidth", "B/clk"),
        write_bytes_per_clk=reader.optional(memory.write_bandwidth, f"{where}.write_bandwidth", "B/clk"),
        keeps=memory.keeps,  # type: ignore[arg-type]
        buffers=1 if memory.buffers is None else reader.whole(memory.buffers, f"{where}.buffers"),
    )


def _validated(kind: type[_Part], node: Mapping[str, Any], where: str) -> _Part:
    try:
        return kind.model_validate(node)
    except ValidationError as error:
        first = error.errors()[0]
        path = ".".join([*([where] if where else []), *(str(step) for step in first["loc"])])
        parent, _, key = path.rpartition(".")
        if first["type"] == "extra_forbidden":
            known = _fields_of(kind, first["loc"])
            raise UnknownNameError("key", key, known, parent) from None
        if first["type"] == "missing":
            hint = "; every number is {value: ..., source: ...}" if key in ("value", "source") else ""
            raise SpecError(f"{path}: missing{hint}") from None
        if first["type"] in ("model_type", "model_attributes_type"):
            raise SpecError(f"{path}: write {{value: {shown(first['input'])}, source: ...}}; every number names its source") from None
        raise SpecError(f"{path}: {first['msg']} (found {shown(first['input'])})") from None


def _fields_of(kind: type[BaseModel], loc: tuple[int | str, ...]) -> list[str]:
    """Keys that are allowed where an unknown one was found: the part's own, or a leaf's."""
    if len(loc) == 1:
        return list(kind.model_fields)
    return list(_MacFile.model_fields if loc[0] == "mac" and len(loc) == 2 else _Leaf.model_fields)
