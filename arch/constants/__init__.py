"""Calibration constants: what each means, its unit, bounds, and the rule that gives it when a device file does not.

One YAML file per family of kernels lies beside this module. A constant has a physical meaning and one value per GPU;
models read it by name (``machine["gemm.floor"]``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

from ...errors import SpecError, UnknownNameError, shown
from ...units import parse
from ..yamlfile import read_yaml

FOLDER: Final = Path(__file__).parent
_KEYS: Final = ("unit", "bounds", "meaning", "default", "by_generation", "fit")
_REQUIRED: Final = ("unit", "bounds", "meaning", "default")
#: Spellings that the YAML files may use for a base unit of `presilicon.units`.
_UNITS: Final = {"ratio": "1", "bytes": "B", "cycles": "clk", "elements/clk": "op/clk"}


@dataclass(frozen=True)
class Constant:
    """One constant of a model.

    Attributes
    ----------
    name, unit, meaning
        ``"gemm.floor"``, SI unit (``"1"`` for a ratio or a count), and what it stands for.
    low, high
        Bounds outside of which a value makes no physical sense, in `unit`.
    default, by_generation
        ``(value, source)`` for any GPU, and for GPUs of a generation.
    fit
        Whether calibration may change it.
    """

    name: str
    unit: str
    meaning: str
    low: float
    high: float
    default: tuple[float, str]
    by_generation: Mapping[str, tuple[float, str]]
    fit: bool = True

    @property
    def family(self) -> str:
        """What stands before the first dot."""
        return self.name.partition(".")[0]

    def assume(self, generation: str) -> tuple[float, str]:
        """Value and source for a GPU whose device file does not give the constant."""
        return self.by_generation.get(generation, self.default)

    def check(self, value: Any, path: str) -> float:
        """The value (a number in `unit`, or a text such as ``"2 us"``) as a float; SpecError if out of bounds."""
        try:
            number = parse(value, self.unit)
        except SpecError as error:
            raise SpecError(f"{path}: {error}") from None
        if not self.low <= number <= self.high:
            unit = "" if self.unit == "1" else f" {self.unit}"
            raise SpecError(f"{path}: {number:g} is outside of [{self.low:g}, {self.high:g}]{unit}")
        return number


@cache
def all_constants() -> dict[str, Constant]:
    """Every constant by name, from the YAML files of this folder."""
    found: dict[str, Constant] = {}
    for path in sorted(FOLDER.glob("*.yaml")):
        for name, entry in read_yaml(path).items():
            if name in found:
                raise SpecError(f"{path}: {name}: declared in another file as well")
            found[name] = _constant(str(name), entry, path)
    return found


def _constant(name: str, entry: Any, path: Path) -> Constant:
    where = f"{path}: {name}"
    if not isinstance(entry, Mapping):
        raise SpecError(f"{where}: expected a mapping of {', '.join(_KEYS)}, found {shown(entry)}")
    for key in entry:
        if key not in _KEYS:
            raise UnknownNameError("key", str(key), _KEYS, where=where)
    for key in _REQUIRED:
        if key not in entry:
            raise SpecError(f"{where}.{key}: missing")
    unit = _UNITS.get(str(entry["unit"]), str(entry["unit"]))
    bounds = entry["bounds"]
    if not isinstance(bounds, list) or len(bounds) != 2:
        raise SpecError(f"{where}.bounds: expected [low, high], found {shown(bounds)}")
    low, high = (_number(bound, unit, f"{where}.bounds") for bound in bounds)
    default = _pair(entry["default"], unit, f"{where}.default")
    by_generation = entry.get("by_generation") or {}
    pairs = {str(g): _pair(node, unit, f"{where}.by_generation.{g}") for g, node in by_generation.items()}
    for generation, (value, _) in {"default": default, **pairs}.items():
        if not low <= value <= high:
            raise SpecError(f"{where}: {generation} value {value:g} is outside of its bounds [{low:g}, {high:g}]")
    return Constant(name, unit, str(entry["meaning"]), low, high, default, pairs, bool(entry.get("fit", True)))


def _pair(node: Any, unit: str, where: str) -> tuple[float, str]:
    if not isinstance(node, Mapping) or set(node) != {"value", "source"}:
        raise SpecError(f"{where}: expected {{value: ..., source: ...}}, found {shown(node)}")
    return _number(node["value"], unit, where), str(node["source"])


def _number(value: Any, unit: str, where: str) -> float:
    try:
        return parse(value, unit)
    except SpecError as error:
        raise SpecError(f"{where}: {error}") from None
