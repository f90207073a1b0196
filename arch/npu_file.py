"""The device file of an NPU: what it may hold, its checks, and overrides by path."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from pydantic import BaseModel, ConfigDict

from ..errors import SpecError, UnknownNameError, shown
from . import energy
from .hierarchy import CLASSES, _Leaf, _Reader, _validated
from .npu import (
    COUPLINGS,
    MATRIX_DATAFLOWS,
    Dma,
    MatrixEngine,
    NpuDram,
    NpuHost,
    NpuKernels,
    NpuSystem,
    Scratchpad,
    VectorEngine,
    arithmetic_bits,
)
from .spec import Provenance

_FORBID: Final = ConfigDict(extra="forbid")
#: Classes of scalar operations, and the energy table's operation that each counts as (special functions as one multiply-add, fp32).
_VECTOR_OPS: Final = {"add": "add", "mul": "mul", "cmp": "add", "int": "add"} | dict.fromkeys(("div", "exp", "rsqrt", "tanh", "log"), "mac")


class _File(BaseModel):
    model_config = _FORBID
    kind: str
    name: str
    title: str = ""
    sources: dict[str, str] = {}
    notes: str = ""
    node: _Leaf
    clock: _Leaf
    cores: _Leaf
    coupling: _Leaf
    matrix: dict[str, Any]
    vector: dict[str, Any] | None = None
    memories: dict[str, dict[str, Any]]
    dma: dict[str, Any]
    noc: dict[str, Any] = {}
    dram: dict[str, Any]
    host: dict[str, Any] | None = None
    power: dict[str, Any]
    kernels: dict[str, Any] | None = None
    launch: _Leaf


class _Matrix(BaseModel):
    model_config = _FORBID
    dataflow: _Leaf
    rows: _Leaf
    cols: _Leaf
    depth: _Leaf | None = None
    engines: _Leaf | None = None
    rate: dict[str, _Leaf]
    energy: dict[str, _Leaf] = {}
    registers: dict[str, _Leaf] = {}
    register_energy: _Leaf | None = None


class _Vector(BaseModel):
    model_config = _FORBID
    lanes: _Leaf
    rate: dict[str, _Leaf]
    energy: dict[str, _Leaf] = {}


class _Memory(BaseModel):
    model_config = _FORBID
    scope: _Leaf
    size: _Leaf | None = None
    partition: dict[str, _Leaf] = {}
    keeps: list[str] = list(CLASSES)
    partial: _Leaf | None = None
    read_energy: _Leaf | None = None
    write_energy: _Leaf | None = None
    bandwidth: _Leaf | None = None
    read_bandwidth: _Leaf | None = None
    write_bandwidth: _Leaf | None = None
    buffers: _Leaf | None = None


class _DmaFile(BaseModel):
    model_config = _FORBID
    queues: _Leaf
    bandwidth: _Leaf
    setup: _Leaf


class _Noc(BaseModel):
    model_config = _FORBID
    bandwidth: _Leaf | None = None


class _Dram(BaseModel):
    model_config = _FORBID
    size: _Leaf
    bandwidth: _Leaf
    latency: _Leaf
    standard: _Leaf | None = None
    energy: _Leaf | None = None


class _Host(BaseModel):
    model_config = _FORBID
    rate: _Leaf
    bandwidth: _Leaf


class _Kernels(BaseModel):
    model_config = _FORBID
    rows: _Leaf | None = None
    cols: _Leaf | None = None
    split_sum: _Leaf | None = None


class _Power(BaseModel):
    model_config = _FORBID
    static: _Leaf


class _NpuReader(_Reader):
    """Numbers above zero (or of zero and more), words, and numbers that the energy tables fill; all kept by path."""

    def __init__(self, sources: Mapping[str, str]) -> None:
        super().__init__(sources)
        self.values: dict[str, tuple[Any, str]] = {}

    def number(self, leaf: _Leaf, path: str, unit: str) -> float:
        value = super().number(leaf, path, unit)
        self.values[path] = (value, unit)
        return value

    def _note(self, leaf: _Leaf, path: str) -> None:
        """A source may name a short one and add to it: ``"sheet: table 2"``."""
        name, colon, rest = leaf.source.partition(":")
        whole = f"{self.sources[name]}:{rest}" if colon and name in self.sources else self.sources.get(leaf.source, leaf.source)
        self.provenance[path] = Provenance(whole, leaf.status)

    def positive(self, leaf: _Leaf, path: str, unit: str, *, zero: bool = False) -> float:
        number = self.number(leaf, path, unit)
        if number < 0 or (number == 0 and not zero):
            raise SpecError(f"{path}: expected a quantity {'of 0 or more' if zero else 'above 0'}, found {shown(leaf.value)}")
        return number

    def maybe(self, leaf: _Leaf | None, path: str, unit: str) -> float | None:
        return None if leaf is None else self.positive(leaf, path, unit)

    def count(self, leaf: _Leaf | None, path: str) -> int:
        if leaf is None:
            return 1
        number = self.whole(leaf, path)
        if number < 1:
            raise SpecError(f"{path}: expected a whole number of 1 or more, found {shown(leaf.value)}")
        return number

    def word(self, leaf: _Leaf, path: str, known: tuple[str, ...], what: str) -> str:
        self._note(leaf, path)
        if leaf.value not in known:
            raise UnknownNameError(what, str(leaf.value), known, path)
        self.values[path] = (str(leaf.value), "")
        return str(leaf.value)

    def filled(self, path: str, value: float, rule: str, unit: str = "J") -> float:
        """A number that no file gave."""
        self.values[path] = (value, unit)
        self.provenance[path] = Provenance(f"energy table: {rule}", "assumed")
        return value


def npu_from_document(document: Mapping[str, Any]) -> NpuSystem:
    """Build an `NpuSystem` from the content of its device file.

    Raises
    ------
    UnknownNameError
        An unknown key, dataflow, coupling, scope, arithmetic, operation class or DRAM standard; with the nearest known one.
    SpecError
        A number or its source is missing, of the wrong unit or out of range; memories that do not form one chain from the DRAM to the PEs.
    """
    document = copy.deepcopy(dict(document))
    file = _validated(_File, document, "")
    if file.kind != "npu":
        raise SpecError(f"kind: expected 'npu', found {shown(file.kind)}")
    r = _NpuReader(file.sources)
    node = r.positive(file.node, "node", "1")
    matrix = _matrix(_validated(_Matrix, file.matrix, "matrix"), r, node)
    memories = tuple(_memory(name, _validated(_Memory, part, f"memories.{name}"), r, node) for name, part in file.memories.items())
    _check_chain(memories, matrix)
    dma = _validated(_DmaFile, file.dma, "dma")
    noc = _validated(_Noc, file.noc, "noc")
    power = _validated(_Power, file.power, "power")
    return NpuSystem(
        name=file.name,
        title=file.title or file.name,
        node_nm=node,
        clock_hz=r.positive(file.clock, "clock", "Hz"),
        cores=r.count(file.cores, "cores"),
        matrix=matrix,
        vector=None if file.vector is None else _vector(_validated(_Vector, file.vector, "vector"), r, node),
        memories=memories,
        dma=Dma(
            r.count(dma.queues, "dma.queues"),
            r.positive(dma.bandwidth, "dma.bandwidth", "B/clk"),
            r.positive(dma.setup, "dma.setup", "clk", zero=True),
        ),
        dram=_dram(_validated(_Dram, file.dram, "dram"), r),
        noc_bytes_per_s=r.maybe(noc.bandwidth, "noc.bandwidth", "B/s"),
        host=None if file.host is None else _host(_validated(_Host, file.host, "host"), r),
        coupling=r.word(file.coupling, "coupling", COUPLINGS, "coupling"),  # type: ignore[arg-type]
        static_w=r.positive(power.static, "power.static", "W", zero=True),
        launch_s=r.positive(file.launch, "launch", "s", zero=True),
        kernels=NpuKernels() if file.kernels is None else _kernels(_validated(_Kernels, file.kernels, "kernels"), r),
        provenance=r.provenance,
        document=document,
        values=r.values,
    )


def _matrix(part: _Matrix, r: _NpuReader, node: float) -> MatrixEngine:
    if not part.rate:
        raise SpecError("matrix.rate: empty; give the rate of one arithmetic or more")
    for name in part.rate:
        if name not in energy.MAC_PARTS:
            raise UnknownNameError("arithmetic", name, energy.MAC_PARTS, "matrix.rate")
    for name in part.energy:
        if name not in part.rate:
            raise UnknownNameError("arithmetic", name, part.rate, "matrix.energy")
    for name in part.registers:
        if name not in CLASSES:
            raise UnknownNameError("tensor class", name, CLASSES, "matrix.registers")
    dataflow = r.word(part.dataflow, "matrix.dataflow", MATRIX_DATAFLOWS, "dataflow")
    if (dataflow == "rs") != bool(part.registers):
        raise SpecError("matrix.registers: a row-stationary PE array has register files, and no other engine has; sizes by tensor class")
    registers = {kind: r.positive(leaf, f"matrix.registers.{kind}", "B") for kind, leaf in part.registers.items()}
    register_j = 0.0
    if part.register_energy is not None:
        register_j = r.positive(part.register_energy, "matrix.register_energy", "J/B", zero=True)
    elif registers:
        rule = f"SRAM of the largest register file at {node:g} nm"
        register_j = r.filled("matrix.register_energy", energy.sram_j_per_byte(max(registers.values()), node), rule, "J/B")
    joules = {
        name: r.positive(part.energy[name], f"matrix.energy.{name}", "J")
        if name in part.energy
        else r.filled(f"matrix.energy.{name}", energy.mac_j(name, node), f"{name} multiply-accumulate at {node:g} nm")
        for name in part.rate
    }
    return MatrixEngine(
        dataflow=dataflow,  # type: ignore[arg-type]
        rows=r.count(part.rows, "matrix.rows"),
        cols=r.count(part.cols, "matrix.cols"),
        depth=r.count(part.depth, "matrix.depth"),
        engines=r.count(part.engines, "matrix.engines"),
        macs_per_clk={name: r.positive(leaf, f"matrix.rate.{name}", "1") for name, leaf in part.rate.items()},
        mac_j=joules,
        register_bytes=registers,  # type: ignore[arg-type]
        register_j_per_byte=register_j,
    )


def _vector(part: _Vector, r: _NpuReader, node: float) -> VectorEngine:
    for name in (*part.rate, *part.energy):
        if name not in _VECTOR_OPS:
            raise UnknownNameError("operation class", name, _VECTOR_OPS, "vector.rate")
    joules = {}
    for name in part.rate:
        if name in part.energy:
            joules[name] = r.positive(part.energy[name], f"vector.energy.{name}", "J", zero=True)
            continue
        kind = _VECTOR_OPS[name]
        value = energy.mac_j("fp32", node) if kind == "mac" else energy.operation_j(f"fp32_{kind}", node)
        joules[name] = r.filled(f"vector.energy.{name}", value, f"fp32 {kind} at {node:g} nm")
    return VectorEngine(
        r.positive(part.lanes, "vector.lanes", "1"),
        {name: r.positive(leaf, f"vector.rate.{name}", "1") for name, leaf in part.rate.items()},
        joules,
    )


def _memory(name: str, part: _Memory, r: _NpuReader, node: float) -> Scratchpad:
    where = f"memories.{name}"
    if name in ("dram", "registers", "mac", "vector", "static", "host"):
        raise SpecError(f"{where}: the name {name!r} stands for something else; choose another")
    for kind in (*part.keeps, *part.partition):
        if kind not in CLASSES:
            raise UnknownNameError("tensor class", kind, CLASSES, where)
    if (part.size is None) == (not part.partition):
        raise SpecError(f"{where}: give either size, which its tensors share, or partition, by tensor class")
    size = r.maybe(part.size, f"{where}.size", "B")
    partition = {kind: r.positive(leaf, f"{where}.partition.{kind}", "B") for kind, leaf in part.partition.items()}
    whole = size or sum(partition.values())
    table = energy.sram_j_per_byte(whole, node)
    rule = f"SRAM of its size at {node:g} nm, 64-bit words"
    joules = [
        r.positive(leaf, f"{where}.{key}", "J/B", zero=True) if leaf is not None else r.filled(f"{where}.{key}", table, rule, "J/B")
        for key, leaf in (("read_energy", part.read_energy), ("write_energy", part.write_energy))
    ]
    buffers = r.count(part.buffers, f"{where}.buffers")
    if buffers > 2:
        raise SpecError(f"{where}.buffers: expected 1, or 2 for double buffering, found {buffers}")
    return Scratchpad(
        name=name,
        scope=r.word(part.scope, f"{where}.scope", ("chip", "core"), "scope"),  # type: ignore[arg-type]
        size_bytes=size,
        read_j_per_byte=joules[0],
        write_j_per_byte=joules[1],
        keeps=tuple(part.partition or part.keeps),  # type: ignore[arg-type]
        partition_bytes=partition,  # type: ignore[arg-type]
        partial_bytes=r.maybe(part.partial, f"{where}.partial", "B"),
        bandwidth_bytes_per_clk=r.maybe(part.bandwidth, f"{where}.bandwidth", "B/clk"),
        read_bytes_per_clk=r.maybe(part.read_bandwidth, f"{where}.read_bandwidth", "B/clk"),
        write_bytes_per_clk=r.maybe(part.write_bandwidth, f"{where}.write_bandwidth", "B/clk"),
        buffers=buffers,
    )


def _check_chain(memories: tuple[Scratchpad, ...], matrix: MatrixEngine) -> None:
    """Chip memories stand above those of a core, and each tensor class finds room for one element between the DRAM and the array."""
    if not memories:
        raise SpecError("memories: empty; an NPU has at least one scratchpad between its DRAM and its matrix engine")
    scopes = [memory.scope for memory in memories]
    if scopes != sorted(scopes):
        raise SpecError(f"memories: chip memories stand above those of a core, found the order {', '.join(scopes)}")
    widest = max(arithmetic_bits(a) for a in matrix.macs_per_clk) / 8
    for memory in memories:
        for kind, size in memory.partition_bytes.items() or ((kind, memory.size_bytes or 0.0) for kind in memory.keeps):
            least = widest * memory.buffers
            if size < least:
                what = f"too small for one element of {least:g} B with its buffers"
                raise SpecError(f"memories.{memory.name}: {size:g} B for the {kind}, {what}")


def _dram(part: _Dram, r: _NpuReader) -> NpuDram:
    if (part.standard is None) == (part.energy is None):
        raise SpecError("dram: give either energy, or standard, whose energy the energy table holds")
    if part.energy is not None:
        joules = r.positive(part.energy, "dram.energy", "J/B", zero=True)
    else:
        assert part.standard is not None
        standard = r.word(part.standard, "dram.standard", tuple(energy.dram_standards()), "DRAM standard")
        joules = r.filled("dram.energy", energy.dram_j_per_byte(standard), standard, "J/B")
    return NpuDram(
        r.positive(part.size, "dram.size", "B"),
        r.positive(part.bandwidth, "dram.bandwidth", "B/s"),
        r.positive(part.latency, "dram.latency", "s", zero=True),
        joules,
    )


def _host(part: _Host, r: _NpuReader) -> NpuHost:
    return NpuHost(r.positive(part.rate, "host.rate", "1"), r.positive(part.bandwidth, "host.bandwidth", "B/s"))


def _kernels(part: _Kernels, r: _NpuReader) -> NpuKernels:
    split = 1 if part.split_sum is None else r.whole(part.split_sum, "kernels.split_sum")
    if split not in (0, 1):
        raise SpecError(f"kernels.split_sum: expected 0 (never) or 1 (where it is faster), found {split}")
    if part.split_sum is not None:
        r.values["kernels.split_sum"] = (split, "")
    return NpuKernels(r.count(part.rows, "kernels.rows"), r.count(part.cols, "kernels.cols"), bool(split))


def override(system: NpuSystem, changes: Mapping[str, Any]) -> NpuSystem:
    """See `NpuSystem.override`; the new numbers have the status ``override``."""
    if not isinstance(changes, Mapping):
        raise SpecError(f"expected changes as a mapping of paths to values, found {shown(changes)}")
    document = copy.deepcopy(dict(system.document))
    for path, value in changes.items():
        if path not in system.provenance:
            inside = sorted(name for name in system.provenance if name.startswith(f"{path}."))
            if inside:
                raise SpecError(f"{system.name}: {path}: holds several numbers; name one: {', '.join(inside)}")
            raise UnknownNameError("path", str(path), system.provenance, where=system.name)
        if value is None:
            raise SpecError(f"{path}: expected a value, found None")
        steps = path.split(".")
        node = document
        for step in steps[:-1]:
            node = node.setdefault(step, {})
        if path == "dram.energy":
            node.pop("standard", None)
        node[steps[-1]] = {"value": value.item() if hasattr(value, "item") else value, "source": "set by the user"}
    try:
        changed = npu_from_document(document)
    except UnknownNameError as error:
        error.args = (f"{system.name}: {error}",)
        raise
    except SpecError as error:
        raise SpecError(f"{system.name}: {error}") from None
    provenance = dict(changed.provenance)
    for path, origin in provenance.items():
        if origin.source == "set by the user":
            provenance[path] = Provenance(origin.source, "override")
    return replace(changed, provenance=provenance)
