"""Kernels taken out of a package that is neither installed nor imported."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("triton")
pytest.importorskip("torch")

import torch

from presilicon.errors import KernelError, TableError, UnknownNameError
from presilicon.mapping.triton import bind_launch, capture_launches
from presilicon.validate.packages import find_package

_OPS = '''"""Doubles."""
from __future__ import annotations
import torch
from typing import TYPE_CHECKING

import some_library_that_is_not_here
from toy.maths import twice, WIDTH as LANES
from toy.platform import capability, is_cuda
from toy.tl import tl, triton

if TYPE_CHECKING:
    from toy.never import Nothing

raise_at_import = 1 / 0
_is_cuda = is_cuda()
if _is_cuda:
    CAPABILITY = capability()


def _helper(n: int) -> int:
    return LANES * (2 if CAPABILITY[0] >= 9 else 1)


@triton.jit
def double(x, y, n, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(y + at, twice(tl.load(x + at, mask=at < n)), mask=at < n)


def launch_double(x, y):
    block = _helper(x.numel())
    double[(triton.cdiv(x.numel(), block),)](x, y, x.numel(), BLOCK=block)


def needs_more():
    return unknown_thing()
'''
_MATHS = '''from .tl import tl, triton
import os
if os.environ.get("TOY_WIDE") == "1":
    WIDTH = 128
else:
    WIDTH = 64


@triton.jit
def once(x):
    return x


@triton.jit
def twice(x):
    return once(x) + x
'''


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PRESILICON_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "toy-1.0" / "toy"
    folder.mkdir(parents=True)
    (folder / "ops.py").write_text(_OPS)
    (folder / "maths").mkdir()
    (folder / "maths" / "__init__.py").write_text(_MATHS.replace(".tl", "toy.tl"))
    return tmp_path


GIVEN: dict[str, Any] = {"_is_cuda": True, "CAPABILITY": (9, 0)}


def test_the_launch_is_the_packages_own(toy: Path) -> None:
    for capability, block in (((8, 9), 64), ((9, 0), 128)):
        module = find_package(toy, "toy", "1.0").take("toy.ops", ["launch_double"], {**GIVEN, "CAPABILITY": capability})
        x, y = (torch.empty(1000, device="meta") for _ in range(2))
        with capture_launches() as launches:
            module.launch_double(x, y)
        (launch,) = launches
        bound = bind_launch(launch.kernel, launch.grid, launch.args, launch.meta, target="sm_80")
        assert (bound.name, bound.grid, bound.arguments["BLOCK"]) == ("double", (-(-1000 // block), 1, 1), block)
        assert not hasattr(module, "raise_at_import")
        assert not hasattr(module, "needs_more")


def test_lines_stay_where_they_were(toy: Path) -> None:
    module = find_package(toy, "toy", "1.0").take("toy.ops", ["double"])
    assert module.__file__ is not None
    taken = Path(module.__file__).read_text().splitlines()
    for number, line in enumerate(_OPS.splitlines()):
        assert taken[number] in (line, "")
    assert "    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)" in taken
    assert "def launch_double(x, y):" not in taken
    assert Path(module.__file__).is_relative_to(toy / "cache")


def test_a_wheel_is_as_good_as_a_folder(toy: Path, tmp_path: Path) -> None:
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    with zipfile.ZipFile(wheels / "toy-1.0-py3-none-any.whl", "w") as wheel:
        for path in (toy / "toy-1.0").rglob("*.py"):
            wheel.write(path, str(path.relative_to(toy / "toy-1.0")))
    one = find_package(wheels, "toy", "1.0").take("toy.ops", ["launch_double"], GIVEN)
    other = find_package(toy, "toy", "1.0").take("toy.ops", ["launch_double"], GIVEN)
    assert one.double.src == other.double.src


def test_what_is_missing_is_named(toy: Path) -> None:
    package = find_package(toy, "toy", "1.0")
    with pytest.raises(UnknownNameError, match="dubble") as error:
        package.take("toy.ops", ["dubble"])
    assert "double" in str(error.value)
    with pytest.raises(KernelError, match="unknown_thing"):
        package.take("toy.ops", ["needs_more"])
    with pytest.raises(KernelError, match=r"no module toy\.platform"):
        package.take("toy.ops", ["launch_double"], {})
    with pytest.raises(KernelError, match="ZeroDivisionError"):
        package.take("toy.ops", ["raise_at_import"])
    with pytest.raises(TableError, match=r"pip download --no-deps .* toy==2\.0"):
        find_package(toy, "toy", "2.0")


def test_what_is_no_python_or_no_wheel_is_refused(toy: Path) -> None:
    (toy / "toy-1.0" / "toy" / "broken.py").write_text("x = 1\ndef f(:\n")
    with pytest.raises(KernelError, match=r"toy\.broken, line 2"):
        find_package(toy, "toy", "1.0").take("toy.broken", ["x"])
    (toy / "toy-3.0-py3-none-any.whl").write_bytes(b"no archive")
    with pytest.raises(KernelError, match="cannot be read"):
        find_package(toy, "toy", "3.0").take("toy.ops", ["double"])
