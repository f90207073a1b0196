"""Mappings in and out in the YAML of Timeloop's mapper (v0.3: strings; v0.4: lists).

A file lists directives under ``mapping``::

    mapping:
      - {target: buffer, type: temporal, factors: M2 N2 K4, permutation: KNM}
      - {target: buffer, type: spatial, factors: M16 N16 K1, permutation: NMK, split: 1}
      - {target: register_file, type: datatype, keep: [Inputs, Outputs], bypass: [Weights]}

A target's temporal loops stand below its tiles; of a permutation the first dimension is innermost. A spatial directive is the fanout
below its target; loops up to ``split`` in the permutation lie on its first axis. A factor of 0 stands for what is left of a dimension.
Dimensions that a directive does not name have the factor 1; case does not matter. Timeloop documentation, "Mapping".
"""

from __future__ import annotations

import re
from collections.abc import Mapping as MappingABC
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from ...arch.hierarchy import Fanout
from ...arch.yamlfile import read_yaml
from ...errors import MappingError, UnknownNameError, shown
from .counts import evaluate
from .nest import Keep, Loop, Mapping, Node, Spatial
from .problem import Problem

_KINDS: Final = {"temporal": "temporal", "spatial": "spatial", "datatype": "bypass", "bypass": "bypass", "dataspace": "bypass"}
_KEYS: Final = {
    "temporal": ("target", "type", "factors", "permutation", "name"),
    "spatial": ("target", "type", "factors", "permutation", "split", "name"),
    "bypass": ("target", "type", "keep", "bypass", "name"),
}


@dataclass(frozen=True)
class _Directive:
    where: str
    target: str
    kind: str
    factors: MappingABC[str, int]
    order: tuple[str, ...]  # innermost first
    split: int | None
    keep: tuple[str, ...]
    bypass: tuple[str, ...]


def mapping_from_timeloop(source: str | Path | MappingABC[str, Any], problem: Problem) -> tuple[Mapping, Problem]:
    """The nest of a Timeloop mapping, and the problem with the tensors that it lets pass by.

    Parameters
    ----------
    source
        Path of a file, or its content.
    problem
        Op and hierarchy that it maps; `target` is the name of a memory, or of a fanout.

    Raises
    ------
    UnknownNameError
        An unknown key, type, target, dimension or tensor; says in which directive.
    MappingError
        A factor that is no whole number, a permutation that is none, or a tensor kept where the hierarchy keeps none of its class.
    """
    document = read_yaml(Path(source)) if isinstance(source, str | Path) else source
    place = f"{source}: " if isinstance(source, str | Path) else ""
    if not isinstance(document, dict) or "mapping" not in document:
        found = ", ".join(map(str, document)) if isinstance(document, dict) else shown(document)
        raise MappingError(f"{place}expected a list of directives under 'mapping', found {found or 'nothing'}")
    entries = document["mapping"]
    if isinstance(entries, dict) and "nodes" in entries:
        entries = entries["nodes"]
    if not isinstance(entries, list):
        raise MappingError(f"{place}mapping: expected a list of directives, found {shown(entries)}")
    directives = [_directive(entry, f"{place}mapping.{i}", problem) for i, entry in enumerate(entries)]
    problem = _bypassed(directives, problem)
    return Mapping(_nodes(directives, problem)), problem


def _directive(entry: Any, where: str, problem: Problem) -> _Directive:
    if not isinstance(entry, dict):
        raise MappingError(f"{where}: expected a directive with 'target' and 'type', found {shown(entry)}")
    for key in ("target", "type"):
        if key not in entry:
            raise MappingError(f"{where}.{key}: missing")
    if str(entry["type"]) not in _KINDS:
        raise UnknownNameError("type", str(entry["type"]), _KINDS, where)
    kind = _KINDS[str(entry["type"])]
    for key in entry:
        if key not in _KEYS[kind]:
            raise UnknownNameError("key", str(key), _KEYS[kind], where)
    targets = [m.name for m in problem.memories] + ([f.name for _, f in problem.fanouts] if kind == "spatial" else [])
    target = next((name for name in targets if name.lower() == str(entry["target"]).lower()), None)
    if target is None:
        raise UnknownNameError("target", str(entry["target"]), targets, where)
    split = entry.get("split")
    if split is not None and (isinstance(split, bool) or not isinstance(split, int) or split < 0):
        raise MappingError(f"{where}.split: expected a whole number, found {shown(split)}")
    factors = _factors(entry.get("factors", ()), f"{where}.factors", problem)
    order = _order(entry.get("permutation"), f"{where}.permutation", problem)
    keep, bypass = (_tensors(entry.get(key) or (), f"{where}.{key}", problem) for key in ("keep", "bypass"))
    return _Directive(where, target, kind, factors, order, split, keep, bypass)


def _dim(text: str, where: str, problem: Problem) -> str:
    found = next((dim for dim in problem.dims if dim.lower() == text.lower()), None)
    if found is None:
        raise UnknownNameError("dimension", text, problem.dims, where)
    return found


def _factors(value: Any, where: str, problem: Problem) -> dict[str, int]:
    words = re.split(r"[\s,]+", value.strip()) if isinstance(value, str) else [str(word) for word in value]
    found: dict[str, int] = {}
    for word in filter(None, words):
        match = re.fullmatch(r"\s*([A-Za-z_]\w*?)\s*=?\s*(\d+)\s*", word)
        if not match:
            raise MappingError(f"{where}: expected a dimension and its factor, such as M16 or M=16, found {word!r}")
        name = match[1]
        if name.lower() not in {d.lower() for d in problem.dims} and int(match[2]) == 1:
            continue  # files name dimensions that the op does not have, with a factor of 1
        dim = _dim(name, where, problem)
        if dim in found:
            raise MappingError(f"{where}: {dim} is given twice")
        found[dim] = int(match[2])
    return found


def _order(value: Any, where: str, problem: Problem) -> tuple[str, ...]:
    if value is None:
        return tuple(problem.dims)
    if isinstance(value, str):
        words = re.split(r"[\s,]+", value.strip()) if re.search(r"[\s,]", value.strip()) else list(value.strip())
    else:
        words = [str(word) for word in value]
    known = {d.lower() for d in problem.dims}
    if len(words) > 1 and not any(word.lower() in known for word in words):
        raise UnknownNameError("dimension", words[0], problem.dims, where)
    found = [_dim(word, where, problem) for word in words if word.lower() in known]
    if len(set(found)) < len(found):
        raise MappingError(f"{where}: a dimension is named twice in {shown(value)}")
    return (*found, *(dim for dim in problem.dims if dim not in found))


def _tensors(value: Any, where: str, problem: Problem) -> tuple[str, ...]:
    words = value.split() if isinstance(value, str) else [str(word) for word in value]
    found = []
    for word in words:
        names = [t.name for t in problem.tensors.values() if word.lower() in (t.name.lower(), t.kind, f"{t.kind}s")]
        if not names:
            raise UnknownNameError("tensor", word, [*problem.tensors, "inputs", "weights", "outputs"], where)
        found += names
    return tuple(found)


def _bypassed(directives: Sequence[_Directive], problem: Problem) -> Problem:
    numbers = {memory.name: i for i, memory in enumerate(problem.memories)}
    tensors = dict(problem.tensors)
    for each in directives:
        for name in each.keep:
            if numbers[each.target] not in tensors[name].levels:
                raise MappingError(f"{each.where}.keep: {each.target} keeps no {tensors[name].kind}, such as {name}")
        for name in each.bypass:
            if not numbers[each.target]:
                raise MappingError(f"{each.where}.bypass: {each.target} backs every tensor; none passes it by")
            levels = tuple(i for i in tensors[name].levels if i != numbers[each.target])
            tensors[name] = replace(tensors[name], levels=levels)
    return replace(problem, tensors=tensors)


def _nodes(directives: Sequence[_Directive], problem: Problem) -> tuple[Node, ...]:
    seen: set[tuple[str, str]] = set()
    for each in directives:
        if (each.target, each.kind) in seen:
            raise MappingError(f"{each.where}: {each.target} has a second directive of type {each.kind}")
        seen.add((each.target, each.kind))
    resolved = _resolved(directives, problem)
    nodes: list[Node] = []
    for number, memory in enumerate(problem.memories):
        nodes += [Keep(t.name, memory.name) for t in problem.tensors.values() if number and number in t.levels]
        fanouts = problem.hierarchy.fanouts_below(number)
        for each in directives:
            factors = resolved[each.where] if each.kind != "bypass" else {}
            if each.kind == "temporal" and each.target == memory.name:
                nodes += [Loop(dim, factors[dim]) for dim in reversed(each.order) if factors.get(dim, 1) > 1]
        for fanout in fanouts:
            for each in directives:
                mine = each.target == fanout.name or (each.target == memory.name and fanout is fanouts[0])
                if each.kind == "spatial" and mine:
                    nodes += _spatial(each, resolved[each.where], fanout)
        for each in directives:
            if each.kind == "spatial" and each.target == memory.name and not fanouts and any(f > 1 for f in resolved[each.where].values()):
                raise MappingError(f"{each.where}: no fanout stands directly below {memory.name}")
    return tuple(nodes)


def _resolved(directives: Sequence[_Directive], problem: Problem) -> dict[str, dict[str, int]]:
    """Factors with every 0 replaced by what is left."""
    loops = [each for each in directives if each.kind != "bypass"]
    found = {each.where: dict(each.factors) for each in loops}
    for dim, extent in problem.dims.items():
        open_at = [each for each in loops if each.factors.get(dim) == 0]
        product = 1
        for each in loops:
            product *= each.factors.get(dim, 1) or 1
        if len(open_at) > 1:
            raise MappingError(f"{open_at[1].where}.factors: a second factor of {dim} is 0; only one can be what is left")
        if open_at and extent % product:
            raise MappingError(
                f"{open_at[0].where}.factors: {dim}=0: the other factors multiply to {product}, which does not divide {extent}"
            )
        if open_at:
            found[open_at[0].where][dim] = extent // product
        elif product != extent:
            places = ", ".join(f"{each.target} {each.factors[dim]}" for each in loops if each.factors.get(dim, 1) != 1) or "none"
            raise MappingError(
                f"{loops[0].where if loops else 'mapping'}: the factors of {dim} ({places}) multiply to {product}, not {extent}"
            )
    return found


def _spatial(each: _Directive, factors: MappingABC[str, int], fanout: Fanout) -> list[Spatial]:
    axes = list(fanout.axes)
    loops = [(dim, factors.get(dim, 1)) for dim in each.order]
    split = len(loops) if each.split is None else each.split
    if each.split is None and len(axes) > 1:
        return _fitted([(d, f) for d, f in loops if f > 1], fanout, each.where)
    found = []
    for i, (dim, factor) in enumerate(loops):
        if factor > 1:
            if i >= split and len(axes) < 2:
                raise MappingError(f"{each.where}.split: {fanout.name} has one axis, {axes[0]}")
            found.append(Spatial(dim, factor, fanout.name, axes[0] if i < split else axes[1]))
    return sorted(found, key=lambda node: axes.index(node.axis))


def _fitted(loops: list[tuple[str, int]], fanout: Fanout, where: str) -> list[Spatial]:
    """Loops on the first axis that has room left for them."""
    room, found = dict(fanout.axes), []
    for dim, factor in sorted(loops, key=lambda loop: -loop[1]):
        axis = next((a for a, left in room.items() if factor <= left), None)
        if axis is None:
            raise MappingError(f"{where}: {fanout.name} has no axis with room for {dim} {factor}; give 'split'")
        room[axis] //= factor
        found.append(Spatial(dim, factor, fanout.name, axis))
    return found


def mapping_to_timeloop(mapping: Mapping, problem: Problem) -> dict[str, Any]:
    """A nest as the content of a Timeloop mapping file.

    Raises
    ------
    MappingError
        What Timeloop cannot write: a memory whose tiles stand at different depths, unless the loops between do not index the tiles above
        them; two loops over one dimension in one memory with others between; a fanout with more than two axes, two fanouts in a row, or
        a dimension on both axes of one; a window that slides along one of two neighbouring loops.
    """
    blocks = _blocks(mapping, problem)
    entries: list[dict[str, Any]] = []
    for number, memory in enumerate(problem.memories):
        loops = [n for n in blocks[number] if isinstance(n, Loop)]
        entries.append({"target": memory.name, "type": "temporal", **_directive_of(loops, problem, memory.name)})
        fanouts = problem.hierarchy.fanouts_below(number)
        spatial = [n for n in blocks[number] if isinstance(n, Spatial)]
        if fanouts and (spatial or number):
            entries.append(_spatial_of(spatial, fanouts, memory.name, problem))
        if number:
            kept = [t.name for t in problem.tensors.values() if number in t.levels]
            passing = [name for name in problem.tensors if name not in kept]
            entries.append({"target": memory.name, "type": "datatype", "keep": kept, "bypass": passing})
    document = {"mapping": entries}
    if evaluate(*mapping_from_timeloop(document, problem)).accesses != evaluate(mapping, problem).accesses:
        raise MappingError(
            "Timeloop writes neighbouring loops over a dimension at a memory as one; here a window slides along part of them"
        )
    return document


def _blocks(mapping: Mapping, problem: Problem) -> list[list[Loop | Spatial]]:
    """Loops that Timeloop writes at each memory, outermost first."""
    numbers = {memory.name: i for i, memory in enumerate(problem.memories)}
    blocks: list[list[Loop | Spatial]] = [[] for _ in problem.memories]
    positions = {fanout.name: position for position, fanout in problem.fanouts}
    kept: list[Keep] = []
    for i, node in enumerate(mapping.nodes):
        if isinstance(node, Keep):
            kept.append(node)
            continue
        if node.factor == 1:
            continue
        if isinstance(node, Spatial):
            blocks[positions[node.fanout]].append(node)
            continue
        here = max((numbers[k.level] for k in kept), default=0)
        name = problem.memories[here].name
        if here and any(isinstance(n, Keep) and n.level == name for n in mapping.nodes[i:]):
            # Tiles that a loop does not index stay in place while it runs, so that it may as well stand above them.
            for keep in kept:
                if keep.level == name and node.dim in problem.tensors[keep.tensor].relevant:
                    raise MappingError(
                        f"Timeloop holds the tiles of {name} at one depth; here the loop over {node.dim} in {node.factor} stands between "
                        f"the tile of {keep.tensor}, which it indexes, and another of {name}"
                    )
            here -= 1
        blocks[here].append(node)
    return blocks


def _directive_of(loops: Sequence[Loop | Spatial], problem: Problem, name: str) -> dict[str, Any]:
    """Factors and permutation of loops that stand outermost first."""
    merged: list[tuple[str, int]] = []
    for loop in loops:
        if merged and merged[-1][0] == loop.dim:
            merged[-1] = (loop.dim, merged[-1][1] * loop.factor)
        elif any(dim == loop.dim for dim, _ in merged):
            raise MappingError(f"Timeloop writes one loop over a dimension at a memory; {name} has two over {loop.dim} with others between")
        else:
            merged.append((loop.dim, loop.factor))
    factors = dict(merged)
    inner_first = [dim for dim, _ in reversed(merged)]
    order = [dim for dim in problem.dims if dim not in factors] + inner_first
    return {"factors": [f"{dim}={factors.get(dim, 1)}" for dim in problem.dims], "permutation": order}


def _spatial_of(loops: Sequence[Spatial], fanouts: Sequence[Fanout], name: str, problem: Problem) -> dict[str, Any]:
    if len(fanouts) > 1 or len(fanouts[0].axes) > 2:
        raise MappingError(f"Timeloop writes two axes below a memory; {', '.join(f.name for f in fanouts)} below {name} have more")
    axes = list(fanouts[0].axes)
    parts = [[loop for loop in loops if loop.axis == axis] for axis in axes]
    both = {loop.dim for loop in parts[0]} & {loop.dim for part in parts[1:] for loop in part}
    if both:
        raise MappingError(f"Timeloop puts a dimension on one axis; {min(both)} lies on both axes of {fanouts[0].name}")
    # Of a permutation the first `split` dimensions lie on the first axis.
    factors: dict[str, int] = {}
    for loop in loops:
        factors[loop.dim] = factors.get(loop.dim, 1) * loop.factor
    first = list(dict.fromkeys(loop.dim for loop in parts[0]))
    second = [dim for dim in problem.dims if dim not in first]
    order = {"factors": [f"{dim}={factors.get(dim, 1)}" for dim in problem.dims], "permutation": [*first, *second]}
    return {"target": name, "type": "spatial", **order, "split": len(first)}
