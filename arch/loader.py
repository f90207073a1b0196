"""Device files: read, checked, completed by the rules of their generation, overridden, and written back."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, Final

import yaml
from pydantic import TypeAdapter, ValidationError

from ..errors import SpecError, UnknownNameError, shown
from ..files import write_atomically
from ..units import parse
from . import constants
from .schema import PARTS, Leaf, describe, leaves, tree
from .spec import AnySystem, Provenance, System
from .yamlfile import read_yaml

__all__ = ["describe", "from_document", "generations", "load", "load_gpu", "names", "override", "paths", "read_yaml", "save",
           "value_at"]

FOLDER: Final = Path(__file__).parent / "devices"
GENERATIONS: Final = Path(__file__).parent / "generations.yaml"
_KEYS: Final = ("name", "title", "kind", "generation", "sources", *PARTS, "calibration", "intervals", "notes")
_LEAF_KEYS: Final = ("value", "source", "status")
_STATUSES: Final = ("sourced", "fitted", "assumed", "override")


def names() -> list[str]:
    """Names of the shipped device files."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def load(name: str | Path | AnySystem) -> AnySystem:
    """Load a system of any kind by its name (``"h100-sxm"``, ``"eyeriss"``) or from a YAML file.

    Raises
    ------
    UnknownNameError
        No shipped file has that name and no file of that path exists, or the file has an unknown key.
    SpecError
        The file is not YAML, lacks a number or its source, or holds a bad unit or value; it names file and field.

    >>> load("a100-sxm-80gb").kind
    'gpu'
    """
    if not isinstance(name, str | Path):
        if hasattr(name, "kind"):
            return name
        raise SpecError(f"expected a system, its name or the path of a device file, found {shown(name)}")
    text = str(name)
    if text.endswith((".yaml", ".yml")) or "/" in text:
        return _load_path(Path(text))
    path = FOLDER / f"{text}.yaml"
    if text not in names():
        raise UnknownNameError("system", text, names())
    return _load_shipped(path)


def load_gpu(name: str | Path | AnySystem) -> System:
    """As `load`, where only a GPU will do.

    Raises
    ------
    SpecError
        The system is of another kind.

    >>> load_gpu("a100-sxm-80gb").gpu.sm.count
    108.0
    """
    system = load(name)
    if not isinstance(system, System):
        raise SpecError(f"{system.name}: expected a GPU, found a system of kind {system.kind}")
    return system


@lru_cache(maxsize=64)
def _load_shipped(path: Path) -> AnySystem:
    return _load_path(path)


def _load_path(path: Path) -> AnySystem:
    document = read_yaml(path)
    try:
        return _of_kind(document, path.parent)
    except UnknownNameError as error:
        error.args = (f"{path}: {error}",)
        raise
    except SpecError as error:
        raise SpecError(f"{path}: {error}") from None


@cache
def generations() -> dict[str, Any]:
    """Rules that fill absent numbers, by generation (arch/generations.yaml).

    A rule is ``{value, source}``, or ``{value, per, of, source}``: `value` for each `per` of the number `of` beside it.
    With ``status: sourced`` it is a documented fact of the whole generation, else an assumption.
    """
    return read_yaml(GENERATIONS)


def from_document(document: Mapping[str, Any]) -> System:
    """Build a System from the content of a device file; see `load` for the errors."""
    if not isinstance(document, Mapping):
        raise SpecError(f"expected a mapping of sections, found {shown(document)}")
    return _build(copy.deepcopy(dict(document)))


def _of_kind(document: dict[str, Any], folder: Path) -> AnySystem:
    """Read a document as the kind of system that it says it is; without a word, a GPU."""
    kind = document.get("kind", "gpu")
    if kind == "npu":
        from .npu import npu_from_document

        return npu_from_document(document)
    if kind == "hybrid":
        from .hybrid import hybrid_from_document

        return hybrid_from_document(document, folder)
    if kind != "gpu":
        raise UnknownNameError("kind", str(kind), ("gpu", "npu", "hybrid"), where="kind")
    return _build(document)


def _build(document: dict[str, Any]) -> System:
    for key in document:
        if key not in _KEYS:
            raise UnknownNameError("key", str(key), _KEYS)
    name, generation = _text(document, "name"), _text(document, "generation")
    title = _text(document, "title") if "title" in document else name
    if generation not in generations():
        raise UnknownNameError("generation", generation, generations(), where="generation")
    _check_intervals(_mapping(document.get("intervals"), "intervals", " of families to tables"))
    for short, text in _mapping(document.get("sources"), "sources", " of short names to descriptions").items():
        if not isinstance(text, str) or not text.strip():
            raise SpecError(f"sources.{short}: expected a text, found {shown(text)}")
    parts: dict[str, Any] = {}
    provenance: dict[str, Provenance] = {}
    for part in PARTS:
        parts[part], origins = _part(document, part)
        provenance |= origins
    calibration, origins = _calibration(document)
    provenance |= origins
    intervals = document.get("intervals") or {}
    return _consistent(System(name=name, title=title, generation=generation, calibration=calibration,
                              intervals=intervals, provenance=provenance, document=document, **parts))


def _check_intervals(tables: Mapping[str, Any]) -> None:
    if tables:
        from .intervals import check

        for family, table in tables.items():
            check(table, f"intervals.{family}")


def _text(document: Mapping[str, Any], key: str) -> str:
    if key not in document:
        raise SpecError(f"{key}: missing; a device file starts with name, title, generation")
    value = document[key]
    if not isinstance(value, str) or not value.strip():
        raise SpecError(f"{key}: expected a text, found {shown(value)}")
    return value


def _mapping(node: Any, where: str, keys: str = "") -> Mapping[str, Any]:
    """A section, where None (nothing written under its key) is an empty one."""
    if node is None:
        return {}
    if not isinstance(node, Mapping):
        raise SpecError(f"{where}: expected a mapping{keys}, found {shown(node)}")
    return node


def _part(document: Mapping[str, Any], part: str) -> tuple[Any, dict[str, Provenance]]:
    """One dataclass of `PARTS` with the provenance of its numbers."""
    provenance: dict[str, Provenance] = {}
    values = _strip(document.get(part), part, tree()[part], document.get("sources") or {}, provenance)
    _fill(values, generations()[document["generation"]].get(part) or {}, part, provenance)
    try:
        return _adapter(part).validate_python(values), provenance
    except ValidationError as error:
        first = error.errors()[0]
        path = ".".join([part, *(str(step) for step in first["loc"])])
        raise SpecError(f"{path}: {_explain(first)}") from None


def _strip(node: Any, where: str, fields: Mapping[str, Any], sources: Mapping[str, Any],
           provenance: dict[str, Provenance]) -> dict[str, Any]:
    """Separate values from their sources; every key must be known and every number have a source."""
    values: dict[str, Any] = {}
    for key, child in _mapping(node, where, f" of {', '.join(fields)}").items():
        path = f"{where}.{key}"
        if key not in fields:
            raise UnknownNameError("arithmetic" if where == "gpu.sm.tensor" else "key", str(key), fields, where=where)
        if isinstance(fields[key], Leaf):
            values[key], provenance[path] = _leaf(child, path, sources)
        else:
            values[key] = _strip(child, path, fields[key], sources, provenance)
    return values


def _leaf(node: Any, path: str, sources: Mapping[str, Any]) -> tuple[Any, Provenance]:
    if not isinstance(node, Mapping):
        raise SpecError(f"{path}: write {{value: {shown(node)}, source: ...}}; every number names its source")
    for key in node:
        if key not in _LEAF_KEYS:
            raise UnknownNameError("key", str(key), _LEAF_KEYS, where=path)
    if node.get("value") is None:
        raise SpecError(f"{path}: no value; write {{value: ..., source: ...}}, or leave it out for a rule to fill")
    source = node.get("source")
    if not isinstance(source, str) or not source.strip():
        raise SpecError(f"{path}: no source; every number names its source (a data sheet, a paper, a measurement)")
    status = node.get("status", "sourced")
    if status not in _STATUSES:
        raise UnknownNameError("status", str(status), _STATUSES, where=path)
    return node["value"], Provenance(str(sources.get(source, source)), status)


def _fill(values: dict[str, Any], rules: Mapping[str, Any], where: str, provenance: dict[str, Provenance]) -> None:
    """Take what is absent from the generation's rules, as assumed unless the rule is a documented fact."""
    for key, rule in rules.items():
        path = f"{where}.{key}"
        if "value" not in rule:
            _fill(values.setdefault(key, {}), rule, path, provenance)
        elif key not in values:
            derived = _derive(rule, values, where, leaves()[path].unit) if "of" in rule else rule["value"]
            if derived is not None:
                values[key], provenance[path] = derived, Provenance(rule["source"], rule.get("status", "assumed"))


def _derive(rule: Mapping[str, Any], values: Mapping[str, Any], where: str, unit: str) -> float | None:
    """``value`` for each ``per`` of the sibling ``of``; None where the sibling is absent, which is then the error."""
    if rule["of"] not in values:
        return None
    path = f"{where}.{rule['of']}"
    base = leaves()[path].unit
    try:
        return parse(rule["value"], unit) * parse(values[rule["of"]], base) / parse(rule["per"], base)
    except SpecError as error:
        raise SpecError(f"{path}: {error}") from None


@cache
def _adapter(part: str) -> TypeAdapter[Any]:
    return TypeAdapter(PARTS[part])


def _explain(error: Any) -> str:
    """What is wrong with one value, in our words."""
    kind, found = error["type"], error["input"]
    if kind == "missing":
        return "missing, and the rules of its generation do not give it"
    if kind == "value_error":
        return str(error["msg"]).removeprefix("Value error, ")
    if kind in ("greater_than", "greater_than_equal", "less_than_equal"):
        words = {"greater_than": "more than {gt:g}", "greater_than_equal": "{ge:g} or more", "less_than_equal": "at most {le:g}"}
        return f"expected {words[kind].format(**error['ctx'])}, found {shown(found)}"
    if kind == "literal_error":
        return f"expected {error['ctx']['expected']}, found {shown(found)}"
    if kind.startswith("bool"):
        return f"expected true or false, found {shown(found)}"
    return f"{error['msg']} (found {shown(found)})"


def _calibration(document: Mapping[str, Any]) -> tuple[dict[str, float], dict[str, Provenance]]:
    known, sources = constants.all_constants(), document.get("sources") or {}
    given = _mapping(document.get("calibration"), "calibration", " of constant names")
    for name in given:
        if name not in known:
            raise UnknownNameError("constant", str(name), known, where="calibration")
    values: dict[str, float] = {}
    provenance: dict[str, Provenance] = {}
    for name, constant in known.items():
        path = f"calibration.{name}"
        if name in given:
            value, provenance[path] = _leaf(given[name], path, sources)
            values[name] = constant.check(value, path)
        else:
            values[name], source = constant.assume(document["generation"])
            provenance[path] = Provenance(source, "assumed")
    return values, provenance


def _consistent(system: System) -> System:
    sm, power = system.gpu.sm, system.power
    if not sm.tensor_flops_per_clk:
        raise SpecError("gpu.sm.tensor: empty; give the rate of one arithmetic or more")
    if sm.shared_bytes_per_cta > sm.shared_bytes:
        raise SpecError(f"gpu.sm.shared_memory_per_cta: {sm.shared_bytes_per_cta:g} B exceeds gpu.sm.shared_memory, "
                        f"{sm.shared_bytes:g} B")
    if power.idle_w >= power.limit_w:
        raise SpecError(f"power.idle: {power.idle_w:g} W is not below power.limit, {power.limit_w:g} W")
    return system


def paths(system: System) -> list[str]:
    """Every path whose value the system has, which `value_at` reads and `override` changes."""
    return sorted(system.provenance)


def override(system: System, changes: Mapping[str, Any], *, source: str = "set by the user",
             status: str = "override") -> System:
    """See `System.override`; `source` and `status` are noted beside each changed number."""
    if not isinstance(changes, Mapping):
        raise SpecError(f"expected changes as a mapping of paths to values, found {shown(changes)}")
    document, sections = dict(system.document), []
    for path, value in changes.items():
        section, steps = _steps(system, path)
        for frozen in _derived_from(system, section, steps):
            if frozen in changes:
                continue
            kept = {"value": value_at(system, frozen), "source": system.provenance[frozen].source, "status": "assumed"}
            _put(document, _steps(system, frozen), kept)
        if value is None:
            raise SpecError(f"{path}: expected a value, found None")
        _put(document, (section, steps), {"value": _scalar(value), "source": source, "status": status})
        sections.append(section)
    parts: dict[str, Any] = {}
    provenance = dict(system.provenance)
    for section in dict.fromkeys(sections):
        parts[section], origins = _calibration(document) if section == "calibration" else _part(document, section)
        provenance |= origins
    return _consistent(replace(system, provenance=provenance, document=document, **parts))


def _steps(system: System, path: Any) -> tuple[str, tuple[str, ...]]:
    """Section and keys of a path that exists, or that may be added (a tensor arithmetic)."""
    addable = isinstance(path, str) and path.startswith("gpu.sm.tensor.") and path in leaves()
    if path not in system.provenance and not addable:
        known = {*system.provenance, *leaves()}
        inside = [name for name in known if name.startswith(f"{path}.")]
        if inside:
            raise SpecError(f"{system.name}: {path}: holds several numbers; name one: {', '.join(sorted(inside))}")
        raise UnknownNameError("path", str(path), known, where=system.name)
    section, _, rest = path.partition(".")
    return section, (rest,) if section == "calibration" else tuple(rest.split("."))


def _derived_from(system: System, section: str, steps: tuple[str, ...]) -> list[str]:
    """Paths of assumed numbers that a rule derived from the number at `steps`."""
    rules = generations()[system.generation].get(section) or {}
    for step in steps[:-1]:
        rules = rules.get(step) or {}
    prefix = ".".join((section, *steps[:-1]))
    found = [f"{prefix}.{key}" for key, rule in rules.items() if rule.get("of") == steps[-1]]
    return [path for path in found if system.provenance[path].status == "assumed"]


def _put(document: dict[str, Any], place: tuple[str, tuple[str, ...]], leaf: dict[str, Any]) -> None:
    """Write one leaf, copying only the mappings on the way to it: the rest is shared with the system it came from."""
    node = document
    for step in (place[0], *place[1][:-1]):
        node[step] = dict(node.get(step) or {})
        node = node[step]
    node[place[1][-1]] = leaf


def _scalar(value: Any) -> Any:
    """NumPy scalars as Python's, so that a document holds only what YAML can write."""
    return value.item() if hasattr(value, "item") and getattr(value, "ndim", None) == 0 else value


def value_at(system: System, path: str) -> Any:
    """The SI value at a path (`paths`); words and flags as they are.

    Raises
    ------
    UnknownNameError
        No such path, or a tensor arithmetic that the GPU lacks.

    >>> value_at(load_gpu("h100-sxm"), "gpu.sm.count")
    132.0
    """
    if path not in system.provenance:
        raise UnknownNameError("path", str(path), system.provenance, where=system.name)
    section, _, rest = path.partition(".")
    if section == "calibration":
        return system.calibration[rest]
    leaf, node = leaves()[path], system
    for step in leaf.steps:
        node = getattr(node, step)
    return node if leaf.key is None else node[leaf.key]  # type: ignore[index]


def save(system: System, path: Path) -> Path:
    """Write a system as a device file, with every number's source; whole or not at all.

    Loading the file gives an equal system, and saving that one the same bytes.

    Raises
    ------
    OutputError
        The file cannot be written.
    """
    text = yaml.dump(_plain(system.document), Dumper=_LeafDumper, sort_keys=False, allow_unicode=True, width=140)
    write_atomically(path, text.encode())
    return path


class _LeafDumper(yaml.SafeDumper):
    """Writes a number with its source, and a list, on one line."""

    def represent_mapping(self, tag: str, mapping: Any, flow_style: bool | None = None) -> Any:
        return super().represent_mapping(tag, mapping, "value" in mapping)

    def represent_sequence(self, tag: str, sequence: Any, flow_style: bool | None = None) -> Any:
        return super().represent_sequence(tag, sequence, True)


def _plain(node: Any) -> Any:
    if isinstance(node, Mapping):
        return {str(key): _plain(child) for key, child in node.items()}
    if isinstance(node, list | tuple):
        return [_plain(child) for child in node]
    return _scalar(node)
