"""The examples in the docstrings run."""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import pytest

FLOORS = ("arch", "workloads", "mapping", "sim", "validate")


def _modules() -> list[str]:
    import presilicon

    names = [f"presilicon.{module.name}" for module in pkgutil.iter_modules(presilicon.__path__)]
    for floor in FLOORS:
        package = importlib.import_module(f"presilicon.{floor}")
        names += [package.__name__, *(m.name for m in pkgutil.walk_packages(package.__path__, f"{package.__name__}."))]
    return sorted(set(names) - {"presilicon.__main__"})


@pytest.mark.parametrize("name", _modules())
def test_examples_run(name: str) -> None:
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] == "presilicon":
            raise
        pytest.skip(f"needs {error.name}, which is optional")
    result = doctest.testmod(module, optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    assert result.failed == 0
