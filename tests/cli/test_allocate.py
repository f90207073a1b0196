"""`presilicon allocate`: a plan that adds up, its files, and what it refuses."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from presilicon.workloads.graph import OpGraph
from presilicon.workloads.op import Op, tensor

from .conftest import Outcome

#: Skip connections: ``a`` is read again at the end, behind larger tensors.
SIZES = {"a": 4096, "b": 6144, "c": 6144, "d": 4096, "e": 2048}


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    def op(name: str, *inputs: str) -> Op:
        operands = [tensor(f"x{i}", "input", f"n{i}", "int8") for i in range(len(inputs) or 1)]
        dims = {f"n{i}": SIZES.get(source, 1024) for i, source in enumerate(inputs or ("",))}
        return Op(name, "reduce", "sum", {**dims, "m": SIZES[name]}, (*operands, tensor("y", "output", "m", "int8")))

    feeds = {"a": (), "b": ("a",), "c": ("b",), "d": ("c",), "e": ("d", "a")}
    edges = [(source, name, f"x{i}") for name, sources in feeds.items() for i, source in enumerate(sources)]
    path = tmp_path / "skip.json"
    OpGraph("skip", [op(name, *sources) for name, sources in feeds.items()], edges).save(path)
    return path


def bytes_of(line: str, outcome: Outcome) -> float:
    found = re.search(rf"^{line} +([\d.]+) (k?)B", outcome.out, re.MULTILINE)
    assert found, outcome.out
    return float(found[1]) * (1000 if found[2] else 1)


def test_a_plan_is_printed_and_written(graph: Path, tmp_path: Path, run: Callable[..., Outcome]) -> None:
    out, picture = tmp_path / "plan.csv", tmp_path / "plan.svg"
    outcome = run("allocate", graph, "--scratchpad", "16KiB", "--no-fuse", "--out", out, "--picture", picture)
    assert (outcome.status, outcome.err) == (0, "")
    assert bytes_of("compulsory", outcome) == 1024 + 2048
    assert bytes_of("forced", outcome) == 0
    assert bytes_of("greedy", outcome) >= 0
    assert "proven" in outcome.out
    rows = list(csv.DictReader(out.open(encoding="utf-8")))
    assert {row["tensor"] for row in rows} >= {f"{name}:y" for name in SIZES}
    assert all(int(row["address"]) + int(row["bytes"]) <= 16 * 1024 for row in rows)
    assert picture.read_text(encoding="utf-8").startswith("<?xml")


def test_the_program_is_never_worse_than_greedy(graph: Path, run: Callable[..., Outcome]) -> None:
    for size in ("10KiB", "13KiB", "15KiB"):
        greedy = bytes_of("greedy", run("allocate", graph, "--scratchpad", size, "--method", "greedy", "--no-fuse"))
        outcome = run("allocate", graph, "--scratchpad", size, "--method", "ilp", "--no-fuse")
        assert bytes_of("greedy", outcome) == greedy
        found = re.search(
            r"^(?:ilp|greedy) +[\d.]+ k?B not compulsory(?:, (\d+)% less)?.*\n +(proven|not proven)", outcome.out, re.MULTILINE
        )
        assert found, outcome.out


def test_the_same_input_gives_the_same_files(graph: Path, tmp_path: Path, run: Callable[..., Outcome]) -> None:
    for name in ("one", "two"):
        run("allocate", graph, "--scratchpad", "13KiB", "--out", tmp_path / f"{name}.csv", "--picture", tmp_path / f"{name}.svg")
    assert (tmp_path / "one.csv").read_bytes() == (tmp_path / "two.csv").read_bytes()
    assert (tmp_path / "one.svg").read_bytes() == (tmp_path / "two.svg").read_bytes()


@pytest.mark.parametrize(("size", "message"), [("0B", "1 byte or more"), ("2 GHz", "GHz"), ("much", "much")])
def test_sizes_that_are_none(graph: Path, size: str, message: str, fails: Callable[..., str]) -> None:
    assert message in fails("allocate", graph, "--scratchpad", size)


def test_a_graph_that_is_not_there(tmp_path: Path, fails: Callable[..., str]) -> None:
    assert "none.json" in fails("allocate", tmp_path / "none.json", "--scratchpad", "1MiB")
