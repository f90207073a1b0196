"""The notebooks as files: what each has, that no outputs are stored, that what they name exists. `make notebooks` executes them."""

from __future__ import annotations

import ast
import json
import re
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest

import presilicon as ps

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "notebooks"
PATHS = sorted(FOLDER.glob("*.ipynb"))
DATA = sorted((FOLDER / "data").glob("*.json.gz"))

pytestmark = pytest.mark.skipif(not FOLDER.exists(), reason="reads the checkout's notebooks; this is not one")
every_notebook = pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)


def _read(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text(encoding="utf-8")))


def _source(path: Path, kind: str) -> list[str]:
    return ["".join(cell["source"]) for cell in _read(path)["cells"] if cell["cell_type"] == kind]


def test_there_are_eight_and_the_documentation_lists_each() -> None:
    assert [path.name[:2] for path in PATHS] == [f"{number:02d}" for number in range(1, 9)]
    page = (ROOT / "docs" / "notebooks.md").read_text(encoding="utf-8")
    assert re.findall(r"`(\d\d-[\w-]+\.ipynb)`", page) == [path.name for path in PATHS]


@every_notebook
def test_form(path: Path) -> None:
    notebook = _read(path)
    assert notebook["nbformat"] == 4
    assert notebook["metadata"]["kernelspec"]["name"] == "python3"
    cells = notebook["cells"]
    assert re.match(r"# \w[^\n]+\n", "".join(cells[0]["source"]))
    assert "## Try next" in "".join(cells[-1]["source"])
    assert {cells[0]["cell_type"], cells[-1]["cell_type"]} == {"markdown"}
    for cell in cells:
        assert len("".join(cell["source"]).splitlines()) <= 20
        if cell["cell_type"] == "code":
            assert cell["outputs"] == []
            assert cell["execution_count"] is None
    assert len({cell["id"] for cell in cells}) == len(cells)


@every_notebook
def test_imports_and_names(path: Path) -> None:
    code = "\n".join(_source(path, "code"))
    roots = set()
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            roots |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            roots.add(str(node.module).split(".")[0])
    assert "presilicon" in roots
    assert roots - sys.stdlib_module_names <= {"presilicon", "numpy", "pandas", "torch", "my_kernels"}
    for name in re.findall(r"\bps\.(\w+)", "\n".join([code, *_source(path, "markdown")])):
        assert hasattr(ps, name), f"ps.{name}"


@every_notebook
def test_paths_are_relative_and_exist(path: Path) -> None:
    text = "\n".join(_source(path, "code") + _source(path, "markdown"))
    assert not re.findall(r"""(?:^|["'`(\s])(?:/\w+/|[A-Z]:\\|~/)""", text)
    named = re.findall(r"data/[\w.{}-]+\.(?:json\.gz|py)", text)
    for name in named:
        pattern = re.sub(r"\{\w+\}", "*", name)
        assert list(FOLDER.glob(pattern)), name
    for name in re.findall(r"`(\d\d-[\w-]+\.ipynb)`", text):
        assert (FOLDER / name).exists(), name


@every_notebook
def test_command_lines_parse(path: Path) -> None:
    import typer.main

    from presilicon.cli import app

    commands = dict(typer.main.get_command(app).commands)  # type: ignore[attr-defined]
    for line in re.findall(r"`presilicon ([^`]+)`", "\n".join(_source(path, "markdown"))):
        words = shlex.split(line)
        commands[words[0]].make_context(words[0], words[1:])


@pytest.mark.parametrize("path", DATA, ids=lambda path: path.name)
def test_saved_graphs_are_what_their_names_say_and_are_used(path: Path) -> None:
    graph = ps.load_graph(path)
    model, *words = path.name.removesuffix(".graph.json.gz").split(".")
    while words and words[0].isdigit():  # llama-3.1-8b
        model = f"{model}.{words.pop(0)}"
    assert graph.name == model
    assert not graph.uncovered
    if words:
        assert graph.meta["phase"] == words[0]
    if len(words) > 1:
        assert graph.meta["batch"] == int(words[1].removeprefix("b"))
    stem = re.sub(r"\.b\d+\.", ".b", path.name.removesuffix("graph.json.gz"))
    assert any(stem.rstrip(".") in "\n".join(_source(notebook, "code")) for notebook in PATHS)
