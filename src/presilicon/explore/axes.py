"""Parameters of a study: lists, ranges, random draws and zipped groups, read into axes of checked SI values."""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from ..arch import AnySystem, Provenance, System
from ..errors import PresiliconError, SpecError, UnknownNameError, shown
from ..units import BASE_UNITS, parse

_MOST_VALUES: Final = 10_000_000
#: Values of one parameter that are tried one by one against the system's own checks; of longer lists the ends are.
_TRIED: Final = 1000
_FORM: Final = (
    "a list of values, {range: [low, high], steps: n, scale: linear or log}, {range: [low, high], step: x}, "
    "or {random: {low: a, high: b, scale: linear or log, samples: n}}"
)


@dataclass(frozen=True)
class Axis:
    """One dimension of the design space: columns of equal length that move together.

    Attributes
    ----------
    columns
        Arrays of shape ``(values,)`` by override path: SI floats, words (object) or flags (bool).
    kind
        ``"grid"``, ``"zip"`` or ``"random"``.
    ranges
        For parameters given as a range or a random draw: (low, high, whether the scale is logarithmic) by path.
    """

    columns: Mapping[str, np.ndarray]
    kind: str = "grid"
    ranges: Mapping[str, tuple[float, float, bool]] | None = None

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))


def numbers_of(system: AnySystem) -> list[tuple[str, Any, str]]:
    """Every number of a system as (path, SI value, unit); of a hybrid one those of the GPU inside too, under ``xpu.``."""
    found = list(system.numbers())
    inner = getattr(system, "xpu", None)
    if isinstance(inner, System):
        found += [(f"xpu.{path}", value, unit) for path, value, unit in inner.numbers()]
    return found


def provenance_of(system: AnySystem, path: str) -> Provenance | None:
    """Source of a number of `numbers_of`."""
    inner = getattr(system, "xpu", None)
    own = system.provenance.get(path)
    return inner.provenance.get(path.removeprefix("xpu.")) if own is None and isinstance(inner, System) else own


def is_whole(system: AnySystem, path: str, value: float) -> bool:
    """Whether a system takes only whole numbers there: a half is refused where its neighbours on both sides are not."""
    probe = max(1.0, math.floor(value))
    return not _takes(system, {path: probe + 0.5}) and all(_takes(system, {path: whole}) for whole in (probe, probe + 1.0))


def read_axes(
    parameters: Mapping[str, Any], systems: Sequence[AnySystem], *, samples: int | None = None, seed: int = 0
) -> tuple[Axis, ...]:
    """Axes of the ``parameters`` section.

    Parameters
    ----------
    parameters
        Generators by override path; under ``zip`` a mapping of paths to lists of one length, or a list of such mappings. All random
        parameters of a study are drawn together: `samples` designs, independent of each other, one axis.
    systems
        Every system of the study must have each path and take each value.
    samples
        Number of random designs, where the generators do not say.
    seed
        Of the random draws; each path has its own stream, so that adding one leaves the others as they were.

    Returns
    -------
    tuple of Axis
        In the order of the file, the random axis last.

    Raises
    ------
    UnknownNameError
        A path that a system does not have, with the nearest that it has.
    SpecError
        A generator that is ill formed, empty, or whose values a system refuses.
    """
    reader = _Reader(systems, seed, samples)
    axes: list[Axis] = []
    for key, node in parameters.items():
        if key == "zip":
            for index, group in enumerate(node if isinstance(node, list) else [node]):
                axes.append(reader.zipped(group, f"parameters.zip.{index}"))
        elif isinstance(node, Mapping) and "random" in node:
            reader.draw(str(key), node, f"parameters.{key}")
        else:
            values, limits = reader.values(str(key), node, f"parameters.{key}")
            axes.append(Axis({str(key): values}, "grid", {str(key): limits} if limits else None))
    if reader.drawn:
        axes.append(reader.random_axis())
    paths = [path for axis in axes for path in axis.columns]
    for path in paths:
        if paths.count(path) > 1:
            raise SpecError(f"parameters: {path} is given twice")
    _check_values(axes, systems)
    return tuple(axes)


class _Reader:
    """What the generators of one study share."""

    def __init__(self, systems: Sequence[AnySystem], seed: int, samples: int | None) -> None:
        self.systems, self.seed, self.samples = systems, seed, samples
        self.numbers = [{path: (value, unit) for path, value, unit in numbers_of(system)} for system in systems]
        self.drawn: dict[str, tuple[Mapping[str, Any], str]] = {}

    def unit(self, path: str, where: str) -> str:
        """Base unit of a path that every system has; ``""`` for words and flags."""
        for system, numbers in zip(self.systems, self.numbers, strict=True):
            if path in numbers:
                continue
            addable = _addable(system, path)
            if addable is None:
                inside = sorted(p for p in numbers if p.startswith(f"{path}."))
                if inside:
                    raise SpecError(f"{where}: {system.name}: holds several numbers; name one: {', '.join(inside)}")
                raise UnknownNameError("parameter path", path, numbers, where=f"{where}: {system.name}")
            return addable
        return self.numbers[0][path][1]

    def values(self, path: str, node: Any, where: str) -> tuple[np.ndarray, tuple[float, float, bool] | None]:
        """Values of a list, a single value or a range, in order, none twice."""
        unit = self.unit(path, where)
        if isinstance(node, Mapping):
            _keys(node, ("range", "steps", "step", "scale"), where)
            return self._range(path, node, unit, where)
        listed = node if isinstance(node, list) else [node]
        if not listed:
            raise SpecError(f"{where}: empty; expected {_FORM}")
        found = list(dict.fromkeys(_si(value, unit, where) for value in listed))
        return _column(found, where), None

    def _range(self, path: str, node: Mapping[str, Any], unit: str, where: str) -> tuple[np.ndarray, tuple[float, float, bool]]:
        low, high = _ends(node.get("range"), unit, f"{where}.range")
        logarithmic = _is_log(node, low, where)
        if ("steps" in node) == ("step" in node):
            raise SpecError(f"{where}: give either steps (how many values) or step (from one value to the next)")
        if "step" in node:
            step = _si(node["step"], unit, f"{where}.step")
            if isinstance(step, str) or step <= 0 or logarithmic or (high - low) / step > _MOST_VALUES:
                raise SpecError(
                    f"{where}.step: expected a step above 0 on a linear scale, of at most {_MOST_VALUES:,} values; "
                    f"found {shown(node['step'])}"
                )
            values = low + step * np.arange(math.floor((high - low) / step * (1 + 1e-12)) + 1)
        else:
            steps = node["steps"]
            if isinstance(steps, bool) or not isinstance(steps, int) or not 1 <= steps <= _MOST_VALUES:
                raise SpecError(f"{where}.steps: expected a whole number from 1 to {_MOST_VALUES:,}, found {shown(steps)}")
            values = np.geomspace(low, high, steps) if logarithmic else np.linspace(low, high, steps)
        if self.whole(path, low):
            values = np.round(values)
        return np.unique(values), (low, high, logarithmic)

    def zipped(self, group: Any, where: str) -> Axis:
        """Parameters that move together."""
        if not isinstance(group, Mapping) or not group:
            raise SpecError(f"{where}: expected a mapping of paths to lists of one length, found {shown(group)}")
        columns: dict[str, np.ndarray] = {}
        for path, node in group.items():
            place = f"{where}.{path}"
            unit = self.unit(str(path), place)
            if isinstance(node, Mapping):
                if "random" in node:
                    raise SpecError(f"{place}: a zipped parameter is a list or a range; random parameters move together anyway")
                columns[str(path)] = self.values(str(path), node, place)[0]
            else:
                listed = node if isinstance(node, list) else [node]
                columns[str(path)] = _column([_si(value, unit, place) for value in listed], place)
        lengths = {path: len(values) for path, values in columns.items()}
        if len(set(lengths.values())) > 1:
            raise SpecError(f"{where}: lists of one length move together; found {', '.join(f'{p}: {n}' for p, n in lengths.items())}")
        if not next(iter(lengths.values())):
            raise SpecError(f"{where}: empty")
        return Axis(columns, "zip")

    def draw(self, path: str, node: Mapping[str, Any], where: str) -> None:
        """Note a random parameter; `random_axis` draws it with the others."""
        self.unit(path, where)
        _keys(node, ("random",), where)
        if not isinstance(node["random"], Mapping):
            found = shown(node["random"])
            raise SpecError(f"{where}.random: expected {{low, high, scale, samples}} or {{choices, samples}}, found {found}")
        _keys(node["random"], ("low", "high", "scale", "samples", "choices"), f"{where}.random")
        given = node["random"].get("samples", self.samples)
        if isinstance(given, bool) or not isinstance(given, int) or not 1 <= given <= _MOST_VALUES:
            raise SpecError(
                f"{where}.random.samples: expected a whole number from 1 to {_MOST_VALUES:,} (here, or samples of the whole "
                f"study), found {shown(given)}"
            )
        if self.samples is not None and given != self.samples:
            raise SpecError(
                f"{where}.random.samples: {given}, and {self.samples} elsewhere; random parameters are drawn together, once per design"
            )
        self.samples = given
        self.drawn[path] = (node["random"], f"{where}.random")

    def random_axis(self) -> Axis:
        """One column of independent draws for each random parameter."""
        columns: dict[str, np.ndarray] = {}
        ranges: dict[str, tuple[float, float, bool]] = {}
        for path, (node, where) in self.drawn.items():
            rng = np.random.default_rng([self.seed, zlib.crc32(path.encode())])
            unit = self.unit(path, where)
            if "choices" in node:
                if set(node) - {"choices", "samples"} or not isinstance(node["choices"], list) or not node["choices"]:
                    raise SpecError(f"{where}: choices is a list of one value or more, and leaves no room for low, high and scale")
                choices = _column([_si(value, unit, f"{where}.choices") for value in node["choices"]], where)
                columns[path] = choices[rng.integers(0, len(choices), self.samples)]
                continue
            low, high = _ends([node.get("low"), node.get("high")], unit, f"{where} (low, high)")
            logarithmic = _is_log(node, low, where)
            unit_draw = rng.random(self.samples)
            values = low * (high / low) ** unit_draw if logarithmic else low + (high - low) * unit_draw
            columns[path] = np.round(values) if self.whole(path, low) else values
            ranges[path] = (low, high, logarithmic)
        return Axis(columns, "random", ranges)

    def whole(self, path: str, low: float) -> bool:
        """Whether the systems take only whole numbers there: a half is refused where its neighbours are not."""
        return any(is_whole(system, path, low) for system in self.systems)


def _addable(system: AnySystem, path: str) -> str | None:
    """Unit of a path that an override may add (a tensor arithmetic that the GPU lacks); None where there is no such path."""
    if system.kind != "gpu":
        return None
    from ..arch.schema import leaves

    return leaves()[path].unit if path.startswith("gpu.sm.tensor.") and path in leaves() else None


def _keys(node: Mapping[str, Any], known: Iterable[str], where: str) -> None:
    for key in node:
        if key not in known:
            raise UnknownNameError("key", str(key), known, where=where)


def _si(value: Any, unit: str, where: str) -> Any:
    """A number in SI units, a word, or a flag."""
    if unit == "" or unit not in BASE_UNITS:
        if isinstance(value, bool | int | float | str):
            return value if isinstance(value, bool | str) else float(value)
        raise SpecError(f"{where}: expected a word, a flag or a number, found {shown(value)}")
    try:
        return parse(value, unit)
    except SpecError as error:
        raise SpecError(f"{where}: {error}") from None


def _column(values: list[Any], where: str) -> np.ndarray:
    kinds = {bool if isinstance(v, bool) else str if isinstance(v, str) else float for v in values}
    if len(kinds) > 1:
        raise SpecError(f"{where}: a list holds words, flags or numbers, not several of them")
    return np.array(values, dtype=object if kinds == {str} else None)


def _ends(node: Any, unit: str, where: str) -> tuple[float, float]:
    if not isinstance(node, list) or len(node) != 2 or any(n is None for n in node):
        raise SpecError(f"{where}: expected [low, high], found {shown(node)}")
    low, high = (_si(end, unit, where) for end in node)
    if isinstance(low, str | bool) or isinstance(high, str | bool) or not low <= high:
        raise SpecError(f"{where}: expected two numbers, the lower one first; found {shown(node)}")
    return low, high


def _is_log(node: Mapping[str, Any], low: float, where: str) -> bool:
    scale = node.get("scale", "linear")
    if scale not in ("linear", "log"):
        raise UnknownNameError("scale", str(scale), ("linear", "log"), where=where)
    if scale == "log" and low <= 0:
        raise SpecError(f"{where}: a logarithmic scale starts above 0, not at {low:g}")
    return bool(scale == "log")


def _takes(system: AnySystem, changes: Mapping[str, Any]) -> bool:
    try:
        system.override(changes)
    except PresiliconError:
        return False
    return True


def _check_values(axes: Sequence[Axis], systems: Sequence[AnySystem]) -> None:
    """Every value alone must be one that the systems take, or be taken together with the first, or last, values of the others."""
    for system in systems:
        first, last = ({p: v[i] for a in axes for p, v in a.columns.items()} for i in (0, -1))
        for axis in axes:
            chosen = range(len(axis)) if len(axis) <= _TRIED else sorted({0, len(axis) - 1, *_extremes(axis)})
            for index in chosen:
                changes = {path: values[index] for path, values in axis.columns.items()}
                try:
                    system.override(changes)
                except PresiliconError as error:
                    if not (_takes(system, first | changes) or _takes(system, last | changes)):
                        raise SpecError(f"parameters: {error}") from None


def _extremes(axis: Axis) -> list[int]:
    numeric = [values for values in axis.columns.values() if values.dtype != object]
    return [int(pick(values)) for values in numeric for pick in (np.argmin, np.argmax)]
