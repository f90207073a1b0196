"""Basic blocks, control-flow graph and loops of a SASS listing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from .sass import INSTRUCTION_BYTES, Instruction, Listing

if TYPE_CHECKING:
    import networkx as nx

_JUMPS = frozenset({"BRA", "BRX", "JMP", "JMX", "EXIT", "RET", "CALL", "KILL", "BPT"})


def is_conditional(instruction: Instruction) -> bool:
    """Whether control may fall through a jump: it has a guard, or a condition among its operands.

    ``BRA.DIV`` and ``BRA.CONV`` ask whether the warp is converged.
    """
    if instruction.guard is not None or instruction.guard_negated:
        return True
    if instruction.base != "BRA":
        return False
    return instruction.has("DIV", "CONV") or any(not op.startswith("`(") for op in instruction.operands)


@dataclass(frozen=True)
class Block:
    """A basic block: control enters at its first instruction only and leaves at its last only."""

    index: int
    instructions: tuple[Instruction, ...] = field(repr=False)

    @property
    def start(self) -> int:
        """Address of the first instruction."""
        return self.instructions[0].address

    @property
    def end(self) -> int:
        """Address behind the last instruction."""
        return self.instructions[-1].address + INSTRUCTION_BYTES

    def __len__(self) -> int:
        return len(self.instructions)


@dataclass(frozen=True)
class Loop:
    """A natural loop.

    Attributes
    ----------
    header
        Block that every iteration starts with.
    blocks
        All its blocks, those of inner loops included.
    latches
        Blocks that branch back to the header.
    parent
        Header of the loop around it, None for none; `depth` is 1 for an outermost loop.
    waits
        It only spins on a barrier (an mbarrier's try_wait, or an allocation): its trips are time, not work.
    """

    header: int
    blocks: frozenset[int]
    latches: tuple[int, ...]
    parent: int | None
    depth: int
    waits: bool


@dataclass(frozen=True)
class ControlFlow:
    """Blocks in order of address and the edges between them."""

    listing: Listing
    blocks: tuple[Block, ...]
    edges: tuple[tuple[int, int], ...]

    @cached_property
    def graph(self) -> nx.DiGraph:
        """networkx graph of block indices; nodes carry ``block``."""
        import networkx as nx

        graph: nx.DiGraph = nx.DiGraph()
        for block in self.blocks:
            graph.add_node(block.index, block=block)
        graph.add_edges_from(self.edges)
        return graph

    @cached_property
    def block_of(self) -> tuple[int, ...]:
        """Block index by instruction index."""
        return tuple(block.index for block in self.blocks for _ in block.instructions)

    @cached_property
    def block_at(self) -> dict[int, int]:
        """Block index by start address."""
        return {block.start: block.index for block in self.blocks}

    @cached_property
    def loops(self) -> tuple[Loop, ...]:
        """Natural loops, outer ones first, then by address."""
        return tuple(_loops(self))


def control_flow(listing: Listing) -> ControlFlow:
    """Cut a listing into basic blocks and join them.

    A call has an edge to the function and one to the instruction behind it; a return has edges to the instructions behind
    every call of its function.
    """
    code = listing.instructions
    leaders = {code[0].address}
    for instruction in code:
        if instruction.base in _JUMPS:
            leaders.add(instruction.address + INSTRUCTION_BYTES)
        if instruction.target is not None and instruction.base in ("BRA", "JMP", "CALL"):
            leaders.add(instruction.target)
        leaders |= set(instruction.targets)
    leaders |= {address for name, address in listing.labels.items() if not name.startswith(".")}
    runs: list[list[Instruction]] = []
    for instruction in code:
        if instruction.address in leaders:
            runs.append([])
        runs[-1].append(instruction)
    blocks = tuple(Block(i, tuple(run)) for i, run in enumerate(runs))
    return ControlFlow(listing, blocks, tuple(_edges(blocks, listing)))


def _edges(blocks: tuple[Block, ...], listing: Listing) -> Iterator[tuple[int, int]]:
    at = {block.start: block.index for block in blocks}
    entries = sorted(address for name, address in listing.labels.items() if not name.startswith(".") and address in at)
    calls = [block.instructions[-1] for block in blocks if block.instructions[-1].base == "CALL"]
    for block in blocks:
        last = block.instructions[-1]
        falls = last.base not in _JUMPS or is_conditional(last) or last.base == "CALL"
        if last.base in ("BRA", "JMP", "CALL") and last.target in at:
            yield block.index, at[last.target]
        yield from ((block.index, at[address]) for address in dict.fromkeys(last.targets) if address in at)
        if falls and block.end in at:
            yield block.index, at[block.end]
        if last.base == "RET":
            entry = max((address for address in entries if address <= block.start), default=0)
            for call in calls:
                behind = call.address + INSTRUCTION_BYTES
                if call.target == entry and behind in at:
                    yield block.index, at[behind]


def _loops(flow: ControlFlow) -> Iterator[Loop]:
    import networkx as nx

    graph = flow.graph
    order = nx.immediate_dominators(graph, 0)

    def dominates(one: int, other: int) -> bool:
        while other not in (one, 0):
            other = order[other]
        return other == one

    bodies: dict[int, tuple[set[int], list[int]]] = {}
    for source, header in flow.edges:
        if source not in order or not dominates(header, source):
            continue
        body, latches = bodies.setdefault(header, ({header}, []))
        latches.append(source)
        todo = [source]
        while todo:
            block = todo.pop()
            if block not in body:
                body.add(block)
                todo += [before for before in graph.predecessors(block) if before in order]
    parents = {}
    for header, (body, _) in bodies.items():
        around = [other for other, (outer, _) in bodies.items() if other != header and header in outer and body <= outer]
        parents[header] = min(around, key=lambda other: len(bodies[other][0]), default=None)

    def depth(header: int) -> int:
        parent = parents[header]
        return 1 if parent is None else 1 + depth(parent)

    found = [Loop(header, frozenset(body), tuple(sorted(latches)), parents[header], depth(header), _waits(flow, body))
             for header, (body, latches) in bodies.items()]
    yield from sorted(found, key=lambda loop: (loop.depth, loop.header))


def _waits(flow: ControlFlow, body: set[int]) -> bool:
    code = [instruction for index in body for instruction in flow.blocks[index].instructions]
    spins = any("TRYWAIT" in i.modifiers or i.base in ("NANOSLEEP", "UTCATOMSWS") for i in code)
    return (spins and len(code) <= 12) or all(i.base in ("BRA", "NOP") for i in code)
