"""DRAM devices as data: clock, organisation, timings, commands, constraint rows, and where processing units sit.

A device is one YAML file in `dram_standards` (or a path of your own). Every number carries its source, as in a device file
of a GPU. Timings are cycles of the command clock, or times with a unit, which are rounded up to cycles as JEDEC does.

A *constraint row* says: after any of the commands `after`, none of the commands `before` may follow within `cycles`
(a sum of timing names) on the same node of `level`. With ``window: n`` the distance is counted from the n-th last one, as
in a four-activate window. A command addresses a set of banks, its *scope*; a row binds two commands when their sets meet in
one node of the row's level. The engine (`presilicon.sim.dram`), its checker and the closed forms (`presilicon.mapping.pim`)
read the same rows.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, Final

from ..errors import SpecError, UnknownNameError, shown
from ..units import parse
from .dram_spec import (
    BUSES,
    EFFECTS,
    LEVELS,
    NEEDS,
    PLACEMENTS,
    SCOPES,
    Command,
    DramDevice,
    Organisation,
    Pim,
    Refresh,
    Roles,
    Rule,
    expand,
)
from .dram_units import check_units, least_cycles
from .yamlfile import read_yaml

__all__ = ["FOLDER", "LEVELS", "PLACEMENTS", "SCOPES", "Command", "DramDevice", "Organisation", "Pim", "Refresh", "Roles", "Rule",
           "from_document", "load", "names"]

FOLDER: Final = Path(__file__).parent / "dram_standards"
_KEYS: Final = ("base", "name", "title", "standard", "sources", "clock", "organisation", "timings", "power_limit", "buses", "commands",
                "include", "constraints", "refresh", "refresh_bank", "pim", "gemv", "energy", "controller", "notes")
#: Sections of which a file with a `base` states only what differs; its constraint rows come after those of the base.
_SECTIONS: Final = ("organisation", "timings", "power_limit", "commands", "controller", "energy", "pim")
#: Files that may build on each other.
_DEEPEST: Final = 8
#: What a number's second source says; "single" where there is none.
STATUSES: Final = ("agreed", "differs", "single", "assumed")
#: Largest value of an organisation's count or of a timing, against slips of the keyboard.
_MOST: Final = 1 << 40


def names() -> list[str]:
    """Names of the shipped DRAM files.

    >>> "aim-gddr6" in names()
    True
    """
    return sorted(path.stem for path in FOLDER.glob("*.yaml") if not path.stem.startswith("_"))


def load(name: str | Path | DramDevice) -> DramDevice:
    """A device by its name (``"aim-gddr6"``), or from a YAML file.

    Raises
    ------
    UnknownNameError
        No such device, or an unknown key.
    SpecError
        The file is wrong; it names file and field.

    >>> load("aim-gddr6").organisation.channels
    32
    """
    if isinstance(name, DramDevice):
        return name
    text = str(name)
    if text.endswith((".yaml", ".yml")) or "/" in text:
        return from_document(_based(Path(text), text), text)
    if text not in names():
        raise UnknownNameError("DRAM device", text, names())
    return _shipped(text)


@cache
def _shipped(name: str) -> DramDevice:
    path = FOLDER / f"{name}.yaml"
    return from_document(_based(path, path.name), path.name)


#: Energies a bit along the path of a read, of a multiply-add, and power of a channel that only stands by.
_ENERGY: Final = ("activate", "cell", "column", "bankgroup", "tsv", "io", "mac_j", "standby_w")


def _energy(key: str, where: str) -> str:
    if key not in _ENERGY:
        raise UnknownNameError("energy", key, _ENERGY, where=f"{where}: energy")
    return key


def _based(path: Path, where: str, depth: int = 0) -> dict[str, Any]:
    """Content of a file, laid over that of its `base`, a shipped device or a file beside it."""
    own = read_yaml(path)
    if "base" not in own:
        return own
    name = own["base"]
    if not isinstance(name, str) or depth > _DEEPEST:
        raise SpecError(f"{where}: base: expected the name of a device or a file that does not build on this one, found {shown(name)}")
    beside = path.parent / name
    if not name.endswith((".yaml", ".yml")) and name not in names():
        raise UnknownNameError("DRAM device", name, names(), f"{where}: base")
    base = _based(beside, where, depth + 1) if name not in names() else _based(FOLDER / f"{name}.yaml", name, depth + 1)
    whole = {**_spelt(base), **({"title": own["name"]} if "name" in own else {}), **own}
    for key in _SECTIONS:
        mine = own.get(key, {})
        if key in base and isinstance(mine, dict):
            whole[key] = {**_spelt(base)[key], **mine}
    rows = [part.get("constraints", []) for part in (base, own)]
    whole["constraints"] = [*rows[0], *rows[1]] if all(isinstance(part, list) for part in rows) else own["constraints"]
    return whole


def _spelt(document: Mapping[str, Any]) -> dict[str, Any]:
    """The content with sources in words, not by their names in the file."""
    named = document.get("sources")
    known: Mapping[str, Any] = named if isinstance(named, dict) else {}

    def spelt(node: Any) -> Any:
        if not isinstance(node, dict):
            return node
        return {key: known.get(value, value) if key in ("source", "second") and isinstance(value, str) else spelt(value)
                for key, value in node.items()}

    return {key: spelt(value) for key, value in document.items() if key not in ("sources", "notes", "base")}


class Reader:
    """Walks a document, collects sources, and names the place of what is wrong."""

    def __init__(self, document: Mapping[str, Any], where: str) -> None:
        self.document, self.where = document, where
        self.sources: dict[str, str] = {}
        self.seconds: dict[str, str] = {}
        self.statuses: dict[str, str] = {}
        named = document.get("sources", {})
        self.named = named if isinstance(named, dict) else {}

    def fail(self, path: str, problem: str) -> SpecError:
        return SpecError(f"{self.where}: {path}: {problem}")

    def section(self, path: str, found: Any, allowed: tuple[str, ...] | None = None) -> dict[str, Any]:
        if not isinstance(found, dict):
            raise self.fail(path, f"expected a mapping, found {shown(found)}")
        for key in found:
            if not isinstance(key, str):
                raise self.fail(path, f"expected names as keys, found {shown(key)}")
            if allowed is not None and key not in allowed:
                raise UnknownNameError("key", key, allowed, f"{self.where}: {path}")
        return found

    def leaf(self, path: str, found: Any) -> Any:
        leaf = self.section(path, found, ("value", "source", "status", "second"))
        for key in ("value", "source"):
            if key not in leaf:
                raise self.fail(path, f"lacks its {key}; expected {{value: ..., source: ...}}")
        source = leaf["source"]
        if not isinstance(source, str) or not source.strip():
            raise self.fail(path, f"expected a source in words, found {shown(source)}")
        self.sources[path] = self.named.get(source, source)
        second = leaf.get("second")
        if "second" in leaf:
            if not isinstance(second, str) or not second.strip():
                raise self.fail(path, f"expected a second source in words, found {shown(second)}")
            self.seconds[path] = self.named.get(second, second)
        if "status" in leaf:
            self.statuses[path] = self.word(f"{path}.status", leaf["status"], STATUSES)
        return leaf["value"]

    def quantity(self, path: str, found: Any, unit: str) -> float:
        value = self.leaf(path, found)
        try:
            number = parse(value, unit)
        except SpecError as error:
            raise self.fail(path, str(error)) from None
        if number <= 0:
            raise self.fail(path, f"expected a positive number, found {shown(value)}")
        return number

    def count(self, path: str, found: Any, least: int = 1) -> int:
        value = self.leaf(path, found)
        return self.whole(path, value, least)

    def whole(self, path: str, value: Any, least: int) -> int:
        try:
            number = parse(value, "B" if isinstance(value, str) else "1")
        except SpecError as error:
            raise self.fail(path, str(error)) from None
        if number != int(number) or not least <= number <= _MOST:
            raise self.fail(path, f"expected a whole number from {least} on, found {shown(value)}")
        return int(number)

    def timing(self, path: str, found: Any, clock_hz: float, least: int = 0) -> int:
        value = self.leaf(path, found)
        if isinstance(value, str):
            try:
                seconds = parse(value, "s")
            except SpecError as error:
                raise self.fail(path, str(error)) from None
            if not 0 <= seconds * clock_hz <= _MOST:
                raise self.fail(path, f"expected a time from 0 s on, found {shown(value)}")
            # JEDEC's rounding: a cycle is added only for more than 2.6 % of one.
            cycles = math.floor(seconds * clock_hz + 0.974)
            if cycles < least:
                raise self.fail(path, f"expected a time of at least {least} cycle of {clock_hz:g} Hz, found {shown(value)}")
            return cycles
        return self.whole(path, value, least)

    def text(self, path: str, value: Any) -> str:
        if not isinstance(value, str) or not value.strip():
            raise self.fail(path, f"expected a text, found {shown(value)}")
        return value

    def word(self, path: str, value: Any, allowed: tuple[str, ...]) -> str:
        if not isinstance(value, str):
            raise self.fail(path, f"expected one of {', '.join(allowed)}, found {shown(value)}")
        if value not in allowed:
            raise UnknownNameError(path.rsplit(".", 1)[-1], value, allowed, f"{self.where}: {path}")
        return value


def from_document(document: Mapping[str, Any], where: str) -> DramDevice:
    """A device from the content of a YAML file; `where` names it in errors, which are those of `load`."""
    reader = Reader(document, where)
    reader.section("top level", dict(document), _KEYS)
    for key in ("name", "standard", "clock", "organisation", "timings", "commands"):
        if key not in document:
            raise SpecError(f"{where}: lacks {key!r}")
    clock_hz = reader.quantity("clock", document["clock"], "Hz")
    given = reader.section("organisation", document["organisation"], tuple(Organisation.__dataclass_fields__))
    for key in Organisation.__dataclass_fields__:
        if key not in given:
            raise reader.fail("organisation", f"lacks {key!r}")
    organisation = Organisation(**{key: reader.count(f"organisation.{key}", value) for key, value in given.items()})
    timings = {key: reader.timing(f"timings.{key}", value, clock_hz, least_cycles(key))
               for key, value in reader.section("timings", document["timings"]).items()}
    limits = {key: reader.timing(f"power_limit.{key}", value, clock_hz, least_cycles(key))
              for key, value in reader.section("power_limit", document.get("power_limit", {}), tuple(timings)).items()}
    commands, rules, switch = _included(reader, document, timings)
    refreshes = [_refresh(reader, document, part) for part in ("refresh", "refresh_bank")]
    rules += _behind_refresh(commands, rules, timings, refreshes)
    known = {key: reader.text(key, document.get(key, document["name"])) for key in ("name", "title", "standard")}
    given_units = _pim(reader, document, organisation)
    settings = {key: reader.count(f"controller.{key}", value)
                for key, value in reader.section("controller", document.get("controller", {})).items()}
    try:
        device = DramDevice(
            **known, clock_hz=clock_hz, organisation=organisation, timings=dict(timings), commands=commands, rules=rules,
            buses=reader.whole("buses", document.get("buses", 1), 1), mode_switch=switch, refresh=refreshes[0], refresh_bank=refreshes[1],
            pim=given_units, power_limit=dict(limits), controller=settings,
            energy={
                _energy(key, where): reader.quantity(f"energy.{key}", value, {"_j": "J", "_w": "W"}.get(key[-2:], "J/bit"))
                for key, value in reader.section("energy", document.get("energy", {})).items()},
            gemv=_roles(reader, document), sources=dict(reader.sources), seconds=dict(reader.seconds), statuses=dict(reader.statuses))
        check_units(device)
    except (SpecError, UnknownNameError) as error:
        error.args = (f"{where}: {str(error).removeprefix(where).removeprefix(known['name']).removeprefix(': ')}",)
        raise
    return device


def _included(reader: Reader, document: Mapping[str, Any], timings: Mapping[str, int],
              ) -> tuple[tuple[Command, ...], tuple[Rule, ...], str]:
    """Commands and rows of the file and of the shared file that it includes; shared rows of absent timings fall away."""
    commands: dict[str, Command] = {}
    rules: list[Rule] = []
    switch = ""
    include = document.get("include")
    if include is not None:
        shared = FOLDER / f"_{include}.yaml"
        if not isinstance(include, str) or not shared.exists():
            raise UnknownNameError("shared rows", str(include), [p.stem[1:] for p in FOLDER.glob("_*.yaml")], f"{reader.where}: include")
        content = read_yaml(shared)
        inner = Reader(content, shared.name)
        commands.update(_commands(inner, content.get("commands", {}))[0])
        rules += [rule for rule in _rules(inner, content.get("constraints", []), commands) if _known(rule, timings)]
    own, switch = _commands(reader, document["commands"])
    commands.update(own)
    rules += _rules(reader, document.get("constraints", []), commands, timings)
    return tuple(commands.values()), tuple(rules), switch


def _behind_refresh(commands: tuple[Command, ...], rules: tuple[Rule, ...], timings: Mapping[str, int],
                    refreshes: list[Refresh | None]) -> tuple[Rule, ...]:
    """Rows that hold activates for a refresh's duration, of those that no row of the file holds: JEDEC allows nothing else meanwhile."""
    found = []
    for refresh in refreshes:
        known = next((c for c in commands if refresh is not None and c.name == refresh.command), None)
        if refresh is None or known is None or refresh.duration not in timings:
            continue
        free = tuple(c.name for c in commands if c.effect == "open"
                     and not any(known.name in rule.after and c.name in rule.before for rule in rules))
        if free:
            found.append(Rule(known.scope if known.scope in LEVELS else "channel", (known.name,), free, refresh.duration))
    return tuple(found)


def _known(rule: Rule, timings: Mapping[str, int]) -> bool:
    return all(node.id in timings or node.id == "max" for node in ast.walk(ast.parse(rule.cycles, mode="eval"))
               if isinstance(node, ast.Name))


def _commands(reader: Reader, found: Any) -> tuple[dict[str, Command], str]:
    commands: dict[str, Command] = {}
    switch = ""
    for name, given in reader.section("commands", found).items():
        path = f"commands.{name}"
        keys = reader.section(path, given, ("scope", "bus", "needs", "effect", "opener", "closer", "latency", "mode",
                                            "switches_mode"))
        if "scope" not in keys:
            raise reader.fail(path, f"lacks its scope, one of {', '.join(SCOPES)}")
        parts = {key: reader.text(f"{path}.{key}", keys[key]) for key in ("opener", "closer", "mode") if keys.get(key, "") != ""}
        late = keys.get("latency", "0")
        if isinstance(late, bool) or not isinstance(late, str | int):
            raise reader.fail(f"{path}.latency", f"expected a timing, or a sum of timings, found {shown(late)}")
        if not isinstance(keys.get("switches_mode", False), bool):
            raise reader.fail(f"{path}.switches_mode", f"expected true or false, found {shown(keys['switches_mode'])}")
        commands[name] = Command(
            name=name, scope=reader.word(f"{path}.scope", keys["scope"], SCOPES),
            bus=reader.word(f"{path}.bus", keys.get("bus", "column"), BUSES),
            needs=reader.word(f"{path}.needs", keys.get("needs", "any"), NEEDS),
            effect=reader.word(f"{path}.effect", keys.get("effect", "none"), EFFECTS),
            latency=str(late), **parts)
        if keys.get("switches_mode"):
            switch = name
    return commands, switch


def _rules(reader: Reader, found: Any, commands: Mapping[str, Command], timings: Mapping[str, int] | None = None) -> list[Rule]:
    """Constraint rows; with `timings`, those that name others are refused."""
    if not isinstance(found, list):
        raise reader.fail("constraints", f"expected a list of rows, found {shown(found)}")
    rules = []
    for index, given in enumerate(found):
        path = f"constraints[{index}]"
        row = reader.section(path, given, ("level", "after", "before", "cycles", "window", "source"))
        for key in ("level", "after", "before", "cycles"):
            if key not in row:
                raise reader.fail(path, f"lacks {key!r}")
        sides = []
        for key in ("after", "before"):
            side = list(commands) if row[key] == "all" else row[key]
            if not isinstance(side, list) or not side:
                raise reader.fail(f"{path}.{key}", f"expected a list of commands or 'all', found {shown(row[key])}")
            for name in side:
                if not isinstance(name, str):
                    raise reader.fail(f"{path}.{key}", f"expected names of commands, found {shown(name)}")
                if name not in commands:
                    raise UnknownNameError("DRAM command", str(name), commands, f"{reader.where}: {path}.{key}")
            sides.append(tuple(side))
        if isinstance(row["cycles"], bool) or not isinstance(row["cycles"], str | int):
            raise reader.fail(f"{path}.cycles", f"expected a timing, or a sum of timings, found {shown(row['cycles'])}")
        if timings is not None:
            cycles = expand(str(row["cycles"]), timings, f"{reader.where}: {path}.cycles")
            opens = [name for name in sides[0] if commands[name].effect == "open"]
            users = [name for name in sides[1] if commands[name].opener in opens]
            if cycles < 1 and users:
                raise reader.fail(f"{path}.cycles", f"expected 1 or more from {commands[users[0]].opener} to {users[0]}, which needs the "
                                                    f"open row, found {shown(row['cycles'])}")
        rules.append(Rule(reader.word(f"{path}.level", row["level"], LEVELS), sides[0], sides[1], str(row["cycles"]),
                          reader.whole(f"{path}.window", row.get("window", 1), 1)))
    return rules


def _refresh(reader: Reader, document: Mapping[str, Any], part: str) -> Refresh | None:
    if part not in document:
        return None
    keys = ("command", "closer", "interval", "duration")
    given = reader.section(part, document[part], keys)
    for key in keys:
        if key not in given:
            raise reader.fail(part, f"lacks {key!r}")
    return Refresh(**{key: reader.text(f"{part}.{key}", given[key]) for key in keys})


def _roles(reader: Reader, document: Mapping[str, Any]) -> Roles | None:
    if "gemv" not in document:
        return None
    given = reader.section("gemv", document["gemv"], tuple(Roles.__dataclass_fields__))
    for key in ("mac", "write", "read"):
        if key not in given:
            raise reader.fail("gemv", f"lacks {key!r}, the name of a command")
    return Roles(**{key: reader.text(f"gemv.{key}", value) for key, value in given.items()})


def _pim(reader: Reader, document: Mapping[str, Any], organisation: Organisation) -> Pim | None:
    if "pim" not in document:
        return None
    keys = tuple(Pim.__dataclass_fields__)
    renamed = {"clock_hz": "clock", "width_bytes": "width", "buffer_bytes": "buffer"}
    names_ = tuple(renamed.get(key, key) for key in keys)
    given = reader.section("pim", document["pim"], names_)
    for key in names_:
        if key not in given:
            raise reader.fail("pim", f"lacks {key!r}")
    width = reader.count("pim.width", given["width"])
    if organisation.column_bytes % width:
        raise reader.fail("pim.width", f"a unit takes {width} bytes, which does not divide a column of "
                                       f"{organisation.column_bytes} bytes")
    return Pim(placement=reader.word("pim.placement", reader.leaf("pim.placement", given["placement"]), PLACEMENTS),
               lanes=reader.count("pim.lanes", given["lanes"]), width_bytes=width,
               clock_hz=reader.quantity("pim.clock", given["clock"], "Hz"),
               buffer_bytes=reader.count("pim.buffer", given["buffer"]),
               buffer_scope=reader.word("pim.buffer_scope", reader.leaf("pim.buffer_scope", given["buffer_scope"]),
                                        ("channel", "unit")),
               registers=reader.count("pim.registers", given["registers"]))
