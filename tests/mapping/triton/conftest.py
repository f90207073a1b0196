"""Kernels and helpers for the tests of presilicon.mapping.triton; compiled kernels are cached for the session."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

HERE = Path(__file__).parent


def _load(name: str) -> ModuleType:
    full = f"presilicon_tests_{name}"
    if full not in sys.modules:
        spec = importlib.util.spec_from_file_location(full, HERE / f"{name}.py")
        assert spec is not None
        assert spec.loader is not None
        sys.modules[full] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[full])
    return sys.modules[full]


@pytest.fixture(scope="session", autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """One cache folder for the session, shared by the processes of pytest-xdist."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if base.name.startswith("popen-") else base) / "presilicon-cache"
    patch = pytest.MonkeyPatch()
    patch.setenv("PRESILICON_CACHE", str(folder))
    yield
    patch.undo()


@pytest.fixture(scope="session")
def kernels() -> ModuleType:
    """The kernels of kernels.py."""
    pytest.importorskip("triton", reason="needs Triton (the extra `kernels`)")
    pytest.importorskip("torch", reason="needs torch for meta tensors")
    return _load("kernels")


@pytest.fixture(scope="session")
def lab(kernels: ModuleType) -> ModuleType:
    """The helpers of lab.py."""
    return _load("lab")


@pytest.fixture(scope="session")
def steered(kernels: ModuleType) -> ModuleType:
    """The kernels of steered.py."""
    return _load("steered")
