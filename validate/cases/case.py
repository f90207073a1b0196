"""Case files: one YAML per published result, read and checked whole before anything runs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from ...arch import AnySystem, load
from ...arch.yamlfile import read_yaml
from ...errors import CaseError, PresiliconError
from ...units import format_si, parse
from ...workloads import NumberFormat
from ...workloads.formats import by_name
from .registry import Entry, Parameter, Role, builders, measures, unknown

_CASE_KEYS: Final = ("name", "title", "source", "notes", "formats", "systems", "workloads", "claims")
_CLAIM_KEYS: Final = ("quantity", "measure", "with", "vary", "claimed", "tolerance", "tolerance_abs", "source", "note",
                      "expected", "seen", "derived")  # fmt: skip
_FORMAT_KEYS: Final = ("element_bits", "arithmetic", "execution", "group_size", "scale_bits", "zero_bits", "index_bits")
#: Role of one element of a list.
_ELEMENT: Final[dict[str, Role]] = {"counts": "count", "quantities": "quantity", "shapes": "counts"}
_EXECUTIONS: Final = ("native", "dequantise", "bit-serial", "look-up")


@dataclass(frozen=True)
class Workload:
    """How to make one workload of a case: a builder and its arguments, checked."""

    builder: Entry
    arguments: Mapping[str, Any]
    where: str


@dataclass(frozen=True)
class Claim:
    """One published number.

    Attributes
    ----------
    quantity
        What it is, for people.
    measure, arguments
        What computes it, and with what. Workloads and systems are given by their names in the case.
    changes
        Arguments of builders that this claim changes, by the name of the workload and of the argument.
    claimed, tolerance
        Published value and how far a prediction may be off, both in the measure's unit.
    relative
        Whether the tolerance was given as a share of the claimed value.
    expected_miss
        The model is known not to reach it, for the reason that `note` gives; such a miss does not fail a run.
    seen
        A constant of the model leans on this figure, so that agreement is consistency, not prediction.
    derived
        The figure follows from the case's own inputs by arithmetic: agreement checks the calculation, not a model.
    """

    quantity: str
    measure: Entry
    arguments: Mapping[str, Any]
    changes: Mapping[str, Mapping[str, Any]]
    claimed: float
    tolerance: float
    relative: bool
    source: str
    note: str
    expected_miss: bool
    seen: bool
    derived: bool
    where: str


@dataclass(frozen=True)
class Case:
    """One published result: hardware, workloads and claims as data."""

    name: str
    title: str
    source: str
    notes: str
    systems: Mapping[str, AnySystem]
    formats: Mapping[str, NumberFormat]
    workloads: Mapping[str, Workload]
    claims: tuple[Claim, ...]
    path: Path = field(compare=False)


def read_case(path: Path) -> Case:
    """Read and check one case file.

    Raises
    ------
    CaseError
        Anything in the file is wrong; the message names the file, the field and, for an unknown name, the nearest one.
    """
    try:
        document = read_yaml(path)
    except PresiliconError as error:
        raise CaseError(str(error)) from None
    _known(document, _CASE_KEYS, "key", str(path))
    name = _text(document, "name", str(path))
    if name != path.stem:
        raise CaseError(f"{path}: name: {name!r} differs from the file's name, {path.stem!r}")
    formats = {
        str(key): _format(str(key), node, f"{path}: formats.{key}")
        for key, node in _mapping(document.get("formats"), f"{path}: formats").items()
    }
    case = Case(
        name=name,
        title=_text(document, "title", str(path)),
        source=_text(document, "source", str(path)),
        notes=_optional(document, "notes", str(path)),
        systems=_systems(document.get("systems"), path),
        formats=formats,
        workloads={},
        claims=(),
        path=path,
    )
    workloads = {
        str(key): _workload(case, node, f"{path}: workloads.{key}")
        for key, node in _mapping(document.get("workloads"), f"{path}: workloads").items()
    }
    case = replace(case, workloads=workloads)
    claims = document.get("claims")
    if not isinstance(claims, list) or not claims:
        raise CaseError(f"{path}: claims: expected a list of one claim or more, found {claims!r}")
    return replace(
        case, claims=tuple(c for i, node in enumerate(claims) for c in _claims(case, node, f"{path}: claims[{i}]"))
    )


def _known(node: Mapping[str, Any], allowed: Iterable[str], what: str, where: str) -> None:
    for key in node:
        if key not in allowed:
            raise unknown(what, key, allowed, where)


def _mapping(node: Any, where: str) -> Mapping[str, Any]:
    if node is None:
        return {}
    if not isinstance(node, Mapping):
        raise CaseError(f"{where}: expected a mapping, found {node!r}")
    return node


def _text(node: Mapping[str, Any], key: str, where: str) -> str:
    if key not in node:
        raise CaseError(f"{where}: {key}: missing")
    value = node[key]
    if not isinstance(value, str) or not value.strip():
        raise CaseError(f"{where}: {key}: expected a text, found {value!r}")
    return value.strip()


def _optional(node: Mapping[str, Any], key: str, where: str) -> str:
    return _text(node, key, where) if key in node else ""


def _number(value: Any, unit: str, where: str) -> float:
    try:
        return parse(value, unit)
    except PresiliconError as error:
        raise CaseError(f"{where}: {error}") from None


def _format(name: str, node: Any, where: str) -> NumberFormat:
    fields = _mapping(node, where)
    _known(fields, _FORMAT_KEYS, "key", where)
    arithmetic = _text(fields, "arithmetic", where)
    execution = fields.get("execution", "native")
    if execution not in _EXECUTIONS:
        raise unknown("execution", execution, _EXECUTIONS, f"{where}.execution")
    if "element_bits" not in fields:
        raise CaseError(f"{where}: element_bits: missing")
    bits = {
        key: _number(fields.get(key, 0), "1", f"{where}.{key}")
        for key in ("element_bits", "scale_bits", "zero_bits", "index_bits")
    }
    for key, value in bits.items():
        if value < 0:
            raise CaseError(f"{where}.{key}: expected 0 or more, found {value:g}")
    group = 0 if fields.get("group_size", 0) == 0 else _count(fields["group_size"], f"{where}.group_size")
    return NumberFormat(name, arithmetic=arithmetic, execution=execution, group_size=group, sparsity=None, **bits)


def _systems(node: Any, path: Path) -> dict[str, AnySystem]:
    """Systems by name: from a list of device names, or a mapping of names to a device or ``{device, set}``."""
    where = f"{path}: systems"
    if isinstance(node, list):
        node = {str(item): item for item in node}
    found = {}
    for key, entry in _mapping(node, where).items():
        place = f"{where}.{key}"
        spec = _mapping(entry if not isinstance(entry, str) else {"device": entry}, place)
        _known(spec, ("device", "set"), "key", place)
        device = _text(spec, "device", place)
        try:
            system = load(path.parent / device if device.endswith((".yaml", ".yml")) else device)
            found[str(key)] = system.override(_mapping(spec.get("set"), f"{place}.set")) if spec.get("set") else system
        except PresiliconError as error:
            raise CaseError(f"{place}: {error}") from None
    return found


def _workload(case: Case, node: Any, where: str) -> Workload:
    spec = dict(_mapping(node, where))
    builder = builders.get(_text(spec, "kind", where), f"{where}.kind")
    del spec["kind"]
    parameters = {p.name: p for p in builder.parameters}
    _known(spec, parameters, "key", where)
    return Workload(
        builder, {key: convert(case, parameters[key], value, f"{where}.{key}") for key, value in spec.items()}, where
    )


def convert(case: Case, parameter: Parameter, value: Any, where: str) -> Any:
    """A value of a case file as a parameter takes it; workloads and systems stay names, checked to exist."""
    if parameter.role in ("graph", "system"):
        known: Mapping[str, Any] = case.workloads if parameter.role == "graph" else case.systems
        if value not in known:
            raise unknown("workload" if parameter.role == "graph" else "system", value, known, where)
        if parameter.gpu and known[value].kind != "gpu":
            raise CaseError(f"{where}: expected a GPU, found {value!r}, a system of kind {known[value].kind}")
        return value
    if parameter.role == "format":
        if value in case.formats:
            return case.formats[value]
        try:
            return by_name(str(value))
        except PresiliconError as error:
            raise CaseError(f"{where}: {error}") from None
    if parameter.role == "quantity":
        return _number(value, parameter.unit, where)
    if parameter.role == "count":
        return _count(value, where)
    if parameter.role in ("counts", "quantities", "shapes"):
        if not isinstance(value, list) or not value:
            raise CaseError(f"{where}: expected a list, found {value!r}")
        inner = replace(parameter, role=_ELEMENT[parameter.role])
        return [convert(case, inner, item, f"{where}[{i}]") for i, item in enumerate(value)]
    if not isinstance(value, bool if parameter.role == "flag" else str):
        raise CaseError(
            f"{where}: expected {'true or false' if parameter.role == 'flag' else 'a text'}, found {value!r}"
        )
    return value


def _count(value: Any, where: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise CaseError(f"{where}: expected a whole number of 1 or more, found {value!r}")
    return value


def _claims(case: Case, node: Any, where: str) -> list[Claim]:
    """The claims of one entry: as many as the lists under ``vary`` are long."""
    spec = _mapping(node, where)
    _known(spec, _CLAIM_KEYS, "key", where)
    vary = _mapping(spec.get("vary"), f"{where}.vary")
    claimed = spec.get("claimed")
    if not vary:
        return [_claim(case, spec, {}, claimed, where)]
    if not isinstance(claimed, list):
        raise CaseError(f"{where}.claimed: expected a list, one value for each of those under vary, found {claimed!r}")
    for key, values in vary.items():
        if not isinstance(values, list) or len(values) != len(claimed):
            raise CaseError(
                f"{where}.vary.{key}: expected a list of {len(claimed)} values, as long as claimed, found {values!r}"
            )
    points: Sequence[dict[str, Any]] = [{str(k): v[i] for k, v in vary.items()} for i in range(len(claimed))]
    return [
        _claim(case, spec, point, value, f"{where}[{i}]")
        for i, (point, value) in enumerate(zip(points, claimed, strict=True))
    ]


def _label(quantity: str, point: Mapping[str, Any]) -> str:
    """A quantity with ``{key}`` replaced by its value; where it has none of them, the values stand behind it."""
    if any(f"{{{key}}}" in quantity for key in point):
        for key, value in point.items():
            quantity = quantity.replace(f"{{{key}}}", str(value))
        return quantity
    return ", ".join([quantity, *(f"{key} {value}" for key, value in point.items() if key != "system")])


def _claim(case: Case, spec: Mapping[str, Any], point: Mapping[str, Any], value: Any, where: str) -> Claim:
    measure = measures.get(_text(spec, "measure", where), f"{where}.measure")
    arguments, changes = _arguments(case, measure, _mapping(spec.get("with"), f"{where}.with"), point, where)
    if value is None:
        raise CaseError(f"{where}: claimed: missing")
    claimed = _number(value, measure.unit, f"{where}.claimed")
    given = [key for key in ("tolerance", "tolerance_abs") if key in spec]
    if len(given) != 1:
        raise CaseError(
            f"{where}: give either tolerance (a share of the claimed value) or tolerance_abs (in {measure.unit})"
        )
    relative = given == ["tolerance"]
    bound = _number(spec[given[0]], "1" if relative else measure.unit, f"{where}.{given[0]}")
    if bound < 0:
        raise CaseError(f"{where}.{given[0]}: expected 0 or more, found {spec[given[0]]!r}")
    expected = spec.get("expected", "within")
    if expected not in ("within", "miss"):
        raise unknown("expectation", expected, ("within", "miss"), f"{where}.expected")
    note = _optional(spec, "note", where)
    flags = {name: spec.get(name, False) for name in ("seen", "derived")}
    for name, flag in flags.items():
        if not isinstance(flag, bool):
            raise CaseError(f"{where}.{name}: expected true or false, found {flag!r}")
    if expected == "miss" and not note:
        raise CaseError(f"{where}: note: missing; an expected miss gives its reason there")
    quantity = _label(_text(spec, "quantity", where), point)
    return Claim(
        quantity,
        measure,
        arguments,
        changes,
        claimed,
        bound * abs(claimed) if relative else bound,
        relative,
        _optional(spec, "source", where) or case.source,
        note,
        expected == "miss",
        flags["seen"],
        flags["derived"],
        where,
    )


def _arguments(
    case: Case, measure: Entry, given: Mapping[str, Any], point: Mapping[str, Any], where: str
) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """Arguments of the measure, and changes to the workloads that it names."""
    parameters = {p.name: p for p in measure.parameters}
    arguments: dict[str, Any] = {}
    only = {"graph": case.workloads, "system": case.systems}
    for p in measure.parameters:
        if p.role in only and p.required and len(only[p.role]) == 1:
            arguments[p.name] = next(iter(only[p.role]))
    rest: list[tuple[str, Any, str]] = []
    for values, place in ((given, f"{where}.with"), (point, f"{where}.vary")):
        for key, value in values.items():
            if key in parameters:
                arguments[key] = convert(case, parameters[key], value, f"{place}.{key}")
            else:
                rest.append((str(key), value, f"{place}.{key}"))
    for p in measure.parameters:
        if p.required and p.name not in arguments:
            raise CaseError(f"{where}.with: {p.name}: missing; measure {measure.name} needs {_wanted(p)}")
    used = {
        arguments[p.name]: case.workloads[arguments[p.name]]
        for p in measure.parameters
        if p.role == "graph" and p.name in arguments
    }
    fields = {name: {p.name: p for p in w.builder.parameters} for name, w in used.items()}
    changes: dict[str, dict[str, Any]] = {name: {} for name in used}
    for key, value, place in rest:
        owner, _, field_name = key.rpartition(".")
        places = [name for name in used if owner in ("", name) and field_name in fields[name]]
        if not places:
            known = {
                *parameters,
                *(f for each in fields.values() for f in each),
                *(f"{name}.{f}" for name in used for f in fields[name]),
            }
            raise unknown(f"argument of {measure.name} or of its workloads", key, known, place)
        for name in places:
            changes[name][field_name] = convert(case, fields[name][field_name], value, place)
    for name, w in used.items():
        for p in w.builder.parameters:
            if p.required and p.name not in w.arguments and p.name not in changes[name]:
                raise CaseError(f"{w.where}: {p.name}: missing; workload kind {w.builder.name} needs {_wanted(p)}")
    return arguments, changes


def _wanted(parameter: Parameter) -> str:
    what = {
        "graph": "a workload",
        "system": "a system",
        "format": "a number format",
        "count": "a whole number",
        "counts": "a list of whole numbers",
        "quantities": f"a list of quantities in {parameter.unit}",
        "shapes": "a list of lists of whole numbers",
        "text": "a text",
        "flag": "true or false",
    }
    return what.get(parameter.role) or f"a quantity in {parameter.unit}, such as {format_si(1.0, parameter.unit)!r}"
