"""The tile-level view of a kernel, from Triton's TTGIR: loops, copies, waits, dots, allocations, layouts.

TTGIR names tensors with shapes and layouts, where SASS has registers. Integers that loops run on are kept as expressions
of the kernel's arguments and the program id, so that trip counts follow from a launch's values.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from .sass import SourceLine
from .tile_scalars import evaluate_scalar, render

ELEMENT_BITS = {"i1": 1, "i8": 8, "i16": 16, "i32": 32, "i64": 64, "f16": 16, "bf16": 16, "f32": 32, "f64": 64, "f8E5M2": 8,
                 "f8E4M3FN": 8, "f8E4M3FNUZ": 8, "f8E5M2FNUZ": 8}


@dataclass(frozen=True)
class TileType:
    """A tensor or a buffer: ``tensor<128x64xbf16, #mma>``, ``!ttg.memdesc<3x128x64xbf16, #shared, #smem>``.

    Attributes
    ----------
    kind
        ``"tensor"``, ``"memdesc"`` or ``"tensordesc"``.
    shape
        Extents, slowest first.
    element
        MLIR name of the element: ``"bf16"``; ``"ptr"`` for pointers.
    layout
        Name of the layout, without the ``#``; "" for none.
    space
        ``"smem"`` or ``"tensor_memory"`` for buffers, "" for tensors.
    """

    kind: str
    shape: tuple[int, ...]
    element: str
    layout: str
    space: str = ""

    @property
    def elements(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def bytes(self) -> int:
        """Bytes of the whole tile; pointers count 8."""
        return self.elements * ELEMENT_BITS.get(self.element, 64 if self.element == "ptr" else 8) // 8


@dataclass(frozen=True)
class Op:
    """One operation of interest.

    Attributes
    ----------
    name
        ``"ttng.warp_group_dot"``.
    operands, results
        SSA names, without the ``%``.
    types
        Tile types on the line, in order.
    attributes
        Integer and bare attributes: ``{"num": 2}``, ``{"isAsync": "true"}``.
    source
        The user's line.
    """

    name: str
    operands: tuple[str, ...]
    results: tuple[str, ...]
    types: tuple[TileType, ...]
    attributes: Mapping[str, int | str]
    source: SourceLine | None

    @property
    def dot_shape(self) -> tuple[int, int, int] | None:
        """(m, n, k) of a dot, batch folded into m; None for other operations."""
        if self.name not in DOTS or len(self.types) < 2:
            return None
        a, b = self.types[0].shape, self.types[1].shape
        return math.prod(a[:-1]), b[-1], a[-1]


#: Dots by the generation of their instruction: warp-level, warpgroup, tcgen05.
DOTS = {"tt.dot": 2, "tt.dot_scaled": 2, "ttng.warp_group_dot": 3, "ttng.tc_gen5_mma": 5, "ttng.tc_gen5_mma_scaled": 5}
COPIES = {"ttg.async_copy_global_to_local": "cp.async", "ttng.async_tma_copy_global_to_local": "tma load",
          "ttng.async_tma_copy_local_to_global": "tma store", "ttng.async_tma_gather": "tma load",
          "ttng.async_tma_scatter": "tma store", "ttng.async_tma_reduce": "tma store", "tt.load": "load", "tt.store": "store",
          "tt.atomic_rmw": "atomic"}
WAITS = {"ttg.async_wait": "num", "ttng.warp_group_dot_wait": "pendings", "ttng.async_tma_store_wait": "pendings",
         "ttng.wait_barrier": ""}
_KEPT = {*DOTS, *COPIES, *WAITS, "ttg.local_alloc", "ttng.tmem_alloc", "ttg.convert_layout", "ttg.local_load", "ttg.local_store",
         "ttng.tmem_load", "ttng.tmem_store", "ttng.init_barrier", "ttng.barrier_expect", "ttng.arrive_barrier",
         "ttng.tc_gen5_commit", "ttg.async_commit_group", "tt.reduce"}


@dataclass(frozen=True)
class Loop:
    """``scf.for`` or ``scf.while``: bounds as SSA names ("" for a while loop), body in order."""

    low: str
    high: str
    step: str
    variable: str
    body: tuple[Node, ...]
    source: SourceLine | None


@dataclass(frozen=True)
class Branch:
    """``scf.if``: its condition and both bodies."""

    condition: str
    then: tuple[Node, ...]
    otherwise: tuple[Node, ...]
    source: SourceLine | None


@dataclass(frozen=True)
class Partition:
    """One branch of ``ttg.warp_specialize``: warps of its own that run this body beside the others."""

    name: str
    body: tuple[Node, ...]


Node = Op | Loop | Branch | Partition
_LaunchValues = tuple[Mapping[str, Any], tuple[int, int, int], tuple[int, int, int]]


@dataclass(frozen=True)
class TileProgram:
    """A kernel in TTGIR.

    Attributes
    ----------
    name, target, num_warps
        Entry point, compute capability, warps of the default partition.
    arguments
        Names of the function's arguments in order.
    body
        Operations of interest, loops, branches and partitions, in order.
    layouts
        Definition of each layout by name (``"mma"``: ``"#ttg.nvidia_mma<{...}>"``).
    scalars
        Definition of each integer by SSA name: operation and operands.
    """

    name: str
    target: int
    num_warps: int
    arguments: tuple[str, ...]
    body: tuple[Node, ...]
    layouts: Mapping[str, str]
    scalars: Mapping[str, tuple[str, ...]] = field(repr=False)

    def walk(self) -> Iterator[tuple[Op, tuple[Loop, ...]]]:
        """Every operation with the loops around it, outermost first."""
        yield from _walk(self.body, ())

    def find(self, names: Mapping[str, Any] | set[str]) -> list[tuple[Op, tuple[Loop, ...]]]:
        """Operations of these names with the loops around them: ``find(DOTS)``, ``find(COPIES)``, ``find(WAITS)``."""
        return [(op, loops) for op, loops in self.walk() if op.name in names]

    @cached_property
    def shared_allocations(self) -> tuple[TileType, ...]:
        """Buffers in shared memory, in order."""
        return tuple(op.types[-1] for op, _ in self.find({"ttg.local_alloc"}) if op.types)

    def expression(self, name: str) -> str:
        """An integer as a formula of arguments and program ids: ``"(K + 63) // 64"``."""
        return render(self.scalars, name.split("#", maxsplit=1)[0] if name not in self.scalars else name, 0)

    def value(self, name: str, arguments: Mapping[str, Any], program_id: tuple[int, int, int] = (0, 0, 0),
              grid: tuple[int, int, int] = (1, 1, 1), loops: Mapping[str, int] | None = None) -> int | None:
        """An integer for given arguments, program id and loop variables; None where it depends on anything else."""
        return evaluate_scalar(self.scalars, name, arguments, program_id, grid, dict(loops or {}))

    def trips(self, loop: Loop, arguments: Mapping[str, Any], program_id: tuple[int, int, int] = (0, 0, 0),
              grid: tuple[int, int, int] = (1, 1, 1), loops: Mapping[str, int] | None = None) -> int | None:
        """How often a loop's body runs; None where its bounds depend on data, or on a loop around it that is not given."""
        low, high, step = (self.value(name, arguments, program_id, grid, loops) if name else None
                           for name in (loop.low, loop.high, loop.step))
        if low is None or high is None or not step:
            return None
        return max(0, -(-(high - low) // step))

    def dot_flops(self, arguments: Mapping[str, Any], program_id: tuple[int, int, int] = (0, 0, 0),
                  grid: tuple[int, int, int] = (1, 1, 1)) -> int | None:
        """FLOP of all dots of one program id; None where a trip count or a predicate depends on data."""
        return self._flops(self.body, (arguments, program_id, grid), {})

    def _flops(self, body: tuple[Node, ...], launch: _LaunchValues, loops: dict[str, int]) -> int | None:
        total = 0
        for node in body:
            part: int | None
            if isinstance(node, Op):
                shape = node.dot_shape
                part = 2 * math.prod(shape) if shape else 0
                if part and node.name == "ttng.tc_gen5_mma" and len(node.operands) > 4:
                    runs = self.value(node.operands[4], *launch, loops)
                    part = None if runs is None else part if runs else 0
            elif isinstance(node, Partition):
                part = self._flops(node.body, launch, loops)
            elif isinstance(node, Branch):
                taken = self.value(node.condition, *launch, loops)
                sides = [self._flops(side, launch, loops) for side in (node.then, node.otherwise)]
                part = sides[0 if taken else 1] if taken is not None else sides[0] if sides[0] == sides[1] else None
            else:
                part = self._loop_flops(node, launch, loops)
            if part is None:
                return None
            total += part
        return total

    def _loop_flops(self, loop: Loop, launch: _LaunchValues, loops: dict[str, int]) -> int | None:
        if not any(op.name in DOTS for op, _ in _walk(loop.body, ())):
            return 0
        times = self.trips(loop, *launch, loops)
        low, step = self.value(loop.low, *launch, loops), self.value(loop.step, *launch, loops)
        if times is None or low is None or step is None:
            return None
        once = self._flops(loop.body, launch, loops)
        if once is not None:
            return once * times
        total = 0
        for i in range(times):
            part = self._flops(loop.body, launch, {**loops, loop.variable: low + i * step})
            if part is None:
                return None
            total += part
        return total


def _walk(body: tuple[Node, ...], loops: tuple[Loop, ...]) -> Iterator[tuple[Op, tuple[Loop, ...]]]:
    for node in body:
        if isinstance(node, Op):
            yield node, loops
        elif isinstance(node, Loop):
            yield from _walk(node.body, (*loops, node))
        elif isinstance(node, Branch):
            yield from _walk(node.then + node.otherwise, loops)
        else:
            yield from _walk(node.body, loops)


# -- text --------------------------------------------------------------------------------------------------------------

_TYPE = re.compile(r"(tensor|!ttg\.memdesc|!tt\.tensordesc|(?<=[>\s])(?=<\d))<((?:\d+x)*)(!tt\.ptr<[^>]*>|[a-zA-Z0-9]+)"
                   r"((?:,[^<>]*(?:<[^<>]*(?:<[^<>]*>)?[^<>]*>)?[^<>]*)*)>")
_RESULT = re.compile(r"^((?:%[\w$.#-]+(?::\d+)?(?:, )?)+) = ")
_NAME = re.compile(r'^"?([a-z_]+\.[\w.]+)"?')
_SSA = re.compile(r"%([\w$.-]+(?:#\d+)?)")
_LOC = re.compile(r"\s*loc\((#loc\d*|unknown|[^()]*(?:\([^()]*\))?[^()]*)\)")


def _types(text: str) -> tuple[TileType, ...]:
    found = []
    for match in _TYPE.finditer(text):
        kind = {"tensor": "tensor", "!ttg.memdesc": "memdesc", "!tt.tensordesc": "tensordesc"}.get(match[1], "memdesc")
        shape = tuple(int(n) for n in match[2].split("x") if n)
        parts = [part.strip() for part in match[4].split(",")[1:]]
        layout = next((p.lstrip("#") for p in parts if p.startswith("#") and p not in ("#smem", "#ttng.tensor_memory")), "")
        space = "smem" if "#smem" in parts else "tensor_memory" if "#ttng.tensor_memory" in parts else ""
        element = "ptr" if match[3].startswith("!tt.ptr") else match[3]
        found.append(TileType(kind, shape, element, layout, space))
    return tuple(found)


def _locations(text: str) -> dict[str, str]:
    return {match[1]: match[2] for match in re.finditer(r"^(#loc\d*) = loc\((.*)\)$", text, re.MULTILINE)}


def _source(locations: Mapping[str, str], name: str, depth: int = 0) -> SourceLine | None:
    body = locations.get(name, "")
    if match := re.fullmatch(r'"([^"]*)":(\d+):\d+', body):
        return SourceLine(match[1], int(match[2]))
    if match := re.fullmatch(r"callsite\((#loc\d*) at (#loc\d*)\)", body):
        return _source(locations, match[2], depth + 1)
    if (match := re.search(r"\((#loc\d*)\)$", body)) and depth < 20:
        return _source(locations, match[1], depth + 1)
    return None


def _attributes(text: str) -> dict[str, int | str]:
    found: dict[str, int | str] = {}
    for block in re.findall(r"<?\{([^{}]*)\}>?", text):
        for part in block.split(","):
            name, _, value = part.partition("=")
            number = re.match(r"\s*(-?\d+)\b", value)
            found[name.strip()] = int(number[1]) if number else value.strip() or "true"
    return found


class _Parser:
    """Reads the function line by line; a line that ends with an open brace starts a region."""

    def __init__(self, text: str) -> None:
        self.locations = _locations(text)
        start = next((i for i, line in enumerate(text.splitlines()) if "tt.func public" in line), 0)
        self.lines = [line.strip() for line in text.splitlines()[start:] if line.strip() and not line.startswith("#loc")]
        self.at = 1
        self.scalars: dict[str, tuple[str, ...]] = {}
        self.captured: list[str] = []

    def location(self, line: str) -> SourceLine | None:
        found = re.findall(r"loc\((#loc\d*)\)\s*$", line)
        return _source(self.locations, found[-1]) if found else None

    def region(self) -> tuple[tuple[Node, ...], str]:
        """Nodes up to the closing brace, and the line that closes."""
        nodes: list[Node] = []
        while self.at < len(self.lines):
            raw = self.lines[self.at]
            self.at += 1
            if raw.startswith("}"):
                return tuple(nodes), raw
            if raw.startswith("^"):
                continue
            nodes += self.node(raw)
        return tuple(nodes), "}"

    def node(self, raw: str) -> list[Node]:
        line = _LOC.sub("", raw).strip()
        head = _RESULT.match(line)
        results = tuple(name.split(":")[0] for name in _SSA_LIST.findall(head[1])) if head else ()
        body = line[head.end():] if head else line
        match = _NAME.match(body)
        name = match[1] if match else ""
        if name == "scf.for":
            return [self.loop(body)]
        if name == "scf.while":
            return self.while_loop()
        if name == "scf.if":
            return [self.branch(body)]
        if name == "ttg.warp_specialize":
            return self.partitions(body)
        if line.endswith(("({", "{")):
            _, close = self.region()
            while not re.match(r"^\}\)?\s*:", _LOC.sub("", close)) and close.rstrip().endswith("{"):
                _, close = self.region()
            raw, body = close, body + " " + _LOC.sub("", close)
        self.scalar(name, results, body)
        if name not in _KEPT:
            return []
        return [Op(name, tuple(_SSA.findall(body.split(" : ")[0])), results, _types(body), _attributes(body), self.location(raw))]

    def loop(self, body: str) -> Loop:
        match = re.search(r"%([\w$.-]+) = %([\w$.#-]+) to %([\w$.#-]+) step %([\w$.#-]+)", body)
        variable, low, high, step = match.groups() if match else ("", "", "", "")
        self.scalars[variable] = ("loop",)
        inner, close = self.region()
        return Loop(low, high, step, variable, inner, self.location(close))

    def while_loop(self) -> list[Node]:
        before, close = self.region()
        after: tuple[Node, ...] = ()
        if "do {" in close:
            after, close = self.region()
        return [Loop("", "", "", "", before + after, self.location(close))]

    def branch(self, body: str) -> Branch:
        condition = _SSA.search(body)
        then, close = self.region()
        otherwise: tuple[Node, ...] = ()
        if "else" in close:
            otherwise, close = self.region()
        return Branch(condition[1] if condition else "", then, otherwise, self.location(close))

    def partitions(self, body: str) -> list[Node]:
        passed = _SSA.findall(body.split(" attributes", maxsplit=1)[0])
        made: list[Node] = []
        while self.at < len(self.lines):
            raw = self.lines[self.at]
            name = re.match(r"(default|partition\d+)", raw)
            if not name:
                break
            self.at += 1
            taken = re.findall(r"%([\w$.-]+):", raw)
            self.scalars |= {inner: ("same", outer) for inner, outer in zip(taken, passed, strict=False)}
            inner, close = self.region()
            made.append(Partition(name[1], inner))
            if ":" in _LOC.sub("", close):
                break
        return made

    def scalar(self, name: str, results: tuple[str, ...], body: str) -> None:
        if len(results) != 1:
            return
        result = results[0]
        if name == "arith.constant":
            if match := re.match(r"arith\.constant (-?\d+|true|false)(?: : i\d+)?$", body.split(" loc", maxsplit=1)[0].strip()):
                self.scalars[result] = ("constant", {"true": "1", "false": "0"}.get(match[1], match[1]))
        elif name == "tt.get_program_id":
            self.scalars[result] = ("program_id", body.split()[1])
        elif name == "tt.get_num_programs":
            self.scalars[result] = ("programs", body.split()[1])
        elif name.startswith("arith.") and "tensor<" not in body:
            operands = _SSA.findall(body)
            kind = name.removeprefix("arith.")
            if kind == "cmpi":
                operands = [body.split()[1].rstrip(","), *operands]
            self.scalars[result] = (kind, *operands)


_SSA_LIST = re.compile(r"%([\w$.-]+(?::\d+)?)")


def parse_ttgir(text: str) -> TileProgram:
    """Read a kernel's TTGIR; what it does not know is left out."""
    parser = _Parser(text)
    head = next((line for line in text.splitlines() if "tt.func public" in line), "")
    name = re.search(r"@([\w$.]+)\(", head)
    signature = head[name.end():] if name else ""
    arguments = tuple(re.findall(r"%([\w$.-]+):", signature))
    parser.scalars |= {argument: ("argument", argument) for argument in arguments}
    body, _ = parser.region()
    module = next((line for line in text.splitlines() if line.startswith("module")), "")
    target = re.search(r'"cuda:(\d+)"', module)
    warps = re.search(r'"ttg\.num-warps" = (\d+)', module)
    layouts = {match[1]: match[2] for match in re.finditer(r"^#(\w+) = (#\S.*)$", text, re.MULTILINE) if not match[1].startswith("loc")}
    return TileProgram(name[1] if name else "", int(target[1]) if target else 0, int(warps[1]) if warps else 0, arguments, body,
                       layouts, parser.scalars)
