"""The package map in pyproject.toml against the disk, and the declared dependencies against the imports.

A package or data file that the map forgets imports fine from an editable install and is silently absent from the wheel.
"""

from __future__ import annotations

import ast
import importlib.util
import re
import sys
import tomllib
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
FLOORS = ("arch", "workloads", "mapping", "sim", "validate")
DATA_SUFFIXES = {".yaml", ".yml", ".json", ".csv", ".md", ".typed", ".gz", ".txt", ".html", ".js", ".css", ".svg"}

pytestmark = pytest.mark.skipif(not (ROOT / "pyproject.toml").exists(), reason="compares the checkout; this is not one")


@pytest.fixture(scope="module")
def config() -> dict[str, Any]:
    """pyproject.toml."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def _folders() -> dict[str, Path]:
    """Every package on disk, by import name."""
    tops = {f"presilicon.{floor}": ROOT / floor for floor in FLOORS} | {"presilicon": ROOT / "src" / "presilicon"}
    found = {}
    for name, folder in tops.items():
        for init in folder.rglob("__init__.py"):
            found[".".join((name, *init.parent.relative_to(folder).parts))] = init.parent
    return found


def _sources() -> list[Path]:
    return [path for folder in _folders().values() for path in folder.glob("*.py")]


def test_every_package_on_disk_is_listed(config: dict[str, Any]) -> None:
    assert set(config["tool"]["setuptools"]["packages"]) == set(_folders())


def test_package_dir_points_each_package_at_its_folder(config: dict[str, Any]) -> None:
    mapped = {name: (ROOT / folder).resolve() for name, folder in config["tool"]["setuptools"]["package-dir"].items()}
    assert mapped == {name: folder.resolve() for name, folder in _folders().items()}


def test_every_folder_of_modules_is_a_package() -> None:
    tops = [ROOT / floor for floor in FLOORS] + [ROOT / "src" / "presilicon"]
    orphans = {path.parent for top in tops for path in top.rglob("*.py") if not (path.parent / "__init__.py").exists()}
    assert not orphans, "folders with modules but without __init__.py"


def test_package_data_covers_every_data_file(config: dict[str, Any]) -> None:
    globs = config["tool"]["setuptools"]["package-data"]
    folders = _folders()
    covered = {path for name, patterns in globs.items() for pattern in patterns for path in folders[name].glob(pattern)}
    data = {path for folder in folders.values() for path in folder.rglob("*")
            if path.suffix in DATA_SUFFIXES and "__pycache__" not in path.parts}
    assert not sorted(str(path.relative_to(ROOT)) for path in data - covered), "data files that the wheel would lack"


def test_package_data_globs_all_match_something(config: dict[str, Any]) -> None:
    folders = _folders()
    globs = config["tool"]["setuptools"]["package-data"]
    dead = [(name, glob) for name, patterns in globs.items() for glob in patterns if not any(folders[name].glob(glob))]
    assert not dead


def _name(requirement: str) -> str:
    match = re.match(r"[A-Za-z0-9._-]+", requirement)
    assert match, requirement
    return re.sub(r"[-_.]+", "-", match.group()).lower()


def _declared(config: dict[str, Any], *extras: str) -> set[str]:
    project = config["project"]
    optional = project["optional-dependencies"]
    return {_name(r) for r in (*project["dependencies"], *(r for extra in extras for r in optional[extra]))}


def _imported_modules(path: Path) -> set[str]:
    """Top-level names of absolute imports, wherever in the file they stand."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), str(path))):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            found.add(node.module.partition(".")[0])
    return found - set(sys.stdlib_module_names) - {"presilicon", "__future__"}


@pytest.mark.slow
def test_every_import_is_declared(config: dict[str, Any]) -> None:
    distributions = metadata.packages_distributions()
    runtime = set(config["project"]["optional-dependencies"]) - {"dev", "docs"}
    declared = _declared(config, *runtime)
    missing = {}
    for path in _sources():
        for module in _imported_modules(path):
            if not declared & {_name(d) for d in distributions.get(module, [module])}:
                missing.setdefault(module, str(path.relative_to(ROOT)))
    assert not missing, "imported, but in neither dependencies nor an extra"


def test_every_dependency_is_installed_importable_and_used(config: dict[str, Any]) -> None:
    by_distribution: dict[str, set[str]] = {}
    for module, names in metadata.packages_distributions().items():
        for name in names:
            by_distribution.setdefault(_name(name), set()).add(module)
    used = {module for path in _sources() for module in _imported_modules(path)}
    for name in _declared(config):
        modules = {m for m in by_distribution.get(name, set()) if importlib.util.find_spec(m)}
        assert modules, f"{name} is declared but provides nothing importable here"
        assert modules & used or name in INDIRECT, f"{name} is declared but nothing imports it"


#: Needed though no module imports them: pandas reads and writes Parquet through pyarrow.
INDIRECT = {"pyarrow"}


def test_constraints_pin_every_direct_dependency_within_its_range(config: dict[str, Any]) -> None:
    from packaging.requirements import Requirement

    pins = {}
    for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines():
        if line.strip() and not line.startswith("#"):
            name, _, version = line.partition("==")
            pins[_name(name)] = version.strip()
    project = config["project"]
    for text in (*project["dependencies"], *(r for extra in project["optional-dependencies"].values() for r in extra)):
        requirement = Requirement(text)
        assert _name(requirement.name) in pins, f"constraints.txt does not pin {requirement.name}"
        pin = pins[_name(requirement.name)]
        assert requirement.specifier.contains(pin), f"constraints.txt pins {requirement.name} to {pin}, not {text!r}"
    assert pins["torch"] == "2.13.0"
