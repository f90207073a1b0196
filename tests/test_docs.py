"""What the documentation says exists: commands, options, make targets, systems, files, public names."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted(p for p in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")) if p.exists())
FENCE = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)

pytestmark = pytest.mark.skipif(not (ROOT / "docs").exists(), reason="reads the checkout's docs; this is not one")


def _text(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def _blocks(*languages: str) -> list[tuple[str, str]]:
    blocks = [(page.name, *block) for page in PAGES for block in FENCE.findall(_text(page))]
    return [(name, body) for name, language, body in blocks if language in languages]


def _command_lines() -> list[Any]:
    found = []
    for page, body in _blocks("sh", "bash"):
        for line in body.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            if words and words[0].rpartition("/")[2] == "presilicon":
                found.append(pytest.param(words[1:], id=f"{page}: {' '.join(words[:4])}"))
    return found


@pytest.fixture(scope="module")
def commands() -> dict[str, Any]:
    """The commands of the command line, by name."""
    import typer.main

    from presilicon.cli import app

    return dict(typer.main.get_command(app).commands)  # type: ignore[attr-defined]


def _capitals(words: list[str]) -> bool:
    return any(word.isupper() and len(word) > 2 for word in words)


@pytest.mark.parametrize("words", _command_lines())
def test_command_lines_parse(words: list[str], commands: dict[str, Any]) -> None:
    from presilicon import arch
    from presilicon.arch.dram import names as dram_names
    from presilicon.arch.hierarchy import hierarchy_names

    shipped = {"map": hierarchy_names, "pim": dram_names}.get(words[0], arch.names)()
    assert words[0] in commands
    context = commands[words[0]].make_context(words[0], words[1:])
    if _capitals(words):
        return
    named = [] if words[0] == "validate" else context.params.get("system") or context.params.get("name") or []
    for name in [named] if isinstance(named, str) else named:
        assert name in shipped or name.endswith(".yaml")
    model = context.params.get("model", "")
    if model and ":" not in model and not model.endswith(".json"):
        from presilicon.workloads.models import builtin

        assert model in builtin()


def test_one_line_examples_of_the_readme_parse(commands: dict[str, Any]) -> None:
    lines = [shlex.split(line) for line in re.findall(r"`presilicon ([a-z][^`]*)`", _text(ROOT / "README.md"))]
    assert len(lines) > 10
    for words in lines:
        commands[words[0]].make_context(words[0], words[1:])
        for path in re.findall(r"(?:docs|notebooks)/[\w./-]+", " ".join(words)):
            assert (ROOT / path).exists(), path


def test_the_reference_names_every_command_and_option(commands: dict[str, Any]) -> None:
    reference = _text(ROOT / "docs" / "cli.md")
    sections = dict(re.findall(r"^## presilicon (\w+)\n(.*?)(?=^## |\Z)", reference, re.MULTILINE | re.DOTALL))
    assert sorted(sections) == sorted(commands)
    for name, command in commands.items():
        members = [command, *getattr(command, "commands", {}).values()]  # a group's options are those of its commands
        parameters = [parameter for member in members for parameter in member.params]
        options = {opt for p in parameters for opt in (*p.opts, *p.secondary_opts) if opt.startswith("--")} - {"--help"}
        documented = set(re.findall(r"--[a-z][a-z-]*", sections[name]))
        assert documented == options, name


def test_make_targets_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", _text(ROOT / "Makefile"), re.MULTILINE))
    for page in PAGES:
        assert set(re.findall(r"(?:^|`)make ([a-z-]+)", _text(page), re.MULTILINE)) <= targets, page.name


def test_links_lead_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", _text(page)):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_folders_and_files_named_in_prose_exist() -> None:
    pattern = re.compile(r"`((?:arch|workloads|mapping|sim|validate|src|tests|docs)/[\w./-]*)`")
    for page in PAGES:
        for path in pattern.findall(_text(page)):
            assert (ROOT / path).exists(), f"{page.name}: {path}"


@pytest.mark.parametrize(("page", "code"), _blocks("python"))
def test_python_blocks_use_public_names(page: str, code: str) -> None:
    import presilicon

    compile(code, page, "exec")
    for name in re.findall(r"\bps\.(\w+)", code):
        assert hasattr(presilicon, name), f"{page}: ps.{name}"
    for name in re.findall(r"\breport\.(\w+)", code):
        assert hasattr(presilicon.Report, name), f"{page}: report.{name}"


def test_the_operator_in_the_docs_is_covered(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    from presilicon.workloads.models import trace_model
    from presilicon.workloads.trace import registry

    (example,) = [body for page, body in _blocks("python") if page == "add-an-op.md"]
    (tmp_path / "my_model.py").write_text(example, encoding="utf-8")
    try:
        graph = trace_model(f"{tmp_path / 'my_model.py'}:build", strict=True)
    finally:
        registry.forget("my_lib.scaled_silu")
    assert [op.kind for op in graph] == ["matmul", "elementwise"]
    assert graph.flops == 8 * (2 * 1024 * 4096 + 5 * 4096)


def test_the_docs_list_every_kind_of_op_table() -> None:
    from presilicon.validate.optable import KINDS

    cells = re.findall(r"^\| (`[\w`, -]+`) \|.*\| ([^|]*) \|$", _text(ROOT / "docs" / "ops-tables.md"), re.MULTILINE)
    rows = [(name, columns) for names, columns in cells for name in re.findall(r"`([\w-]+)`", names)]
    assert {name for name, _ in rows} - {"--kind"} == set(KINDS)
    for name, columns in rows:
        if name in KINDS and columns != "the same":
            assert set(KINDS[name].sizes) <= set(re.findall(r"`(\w+)`", columns)), name
