"""Two systems at equal area or power."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

import presilicon as ps
from presilicon.arch import load
from presilicon.arch.costs import design_costs
from presilicon.errors import SpecError, UnknownNameError
from presilicon.iso import BUDGETS, Budget, cost, equalise, parts

#: What is scaled, the budget's system, and the paths that are scaled.
ARRAY = ("matrix.rows", "matrix.cols")
PAIRS = [
    ("gemmini-16", "tpu-v1", ARRAY),
    ("eyeriss", "gemmini-16", ARRAY),
    ("tpu-v4i", "h100-sxm", ARRAY),
    ("ascend-910", "h100-sxm", ("cores",)),
    ("h100-sxm", "a100-sxm-80gb", ("gpu.sm.count",)),
]


@pytest.mark.parametrize("budget", BUDGETS)
@pytest.mark.parametrize(("name", "like", "paths"), PAIRS)
def test_spends_the_budget_to_the_last_unit(name: str, like: str, paths: tuple[str, ...], budget: Budget) -> None:
    found = equalise(name, like, budget)
    assert tuple(found.changes) == paths
    assert found.allowed == cost(load(like), budget)
    assert found.before == cost(load(name), budget)
    assert found.spent == pytest.approx(cost(found.system, budget))
    assert found.spent <= found.allowed
    longest = max(found.changes.values())
    more = {path: round(value * (longest + 1) / longest) for path, value in found.changes.items()}
    assert cost(load(name).override(more), budget) > found.allowed


def test_equal_to_itself_and_a_shape_is_kept() -> None:
    same = equalise("eyeriss", "eyeriss")
    assert same.changes == {"matrix.rows": 12, "matrix.cols": 14}
    assert same.spent == same.allowed
    wide = equalise(load("tpu-v1").override({"matrix.cols": 128}), "tpu-v1")
    assert wide.changes["matrix.rows"] == pytest.approx(2 * wide.changes["matrix.cols"], abs=1)


@pytest.mark.parametrize("name", ["tpu-v4i", "a100-sxm-80gb", "dgx-attacc"])
def test_parts_add_up_to_the_area(name: str) -> None:
    system = load(name)
    assert sum(parts(system).values()) == pytest.approx(cost(system, "area"), rel=1e-6)
    assert cost(system, "power") == pytest.approx(float(design_costs(system, {})["power_w"].ravel()[0]))


def test_bad_input() -> None:
    with pytest.raises(UnknownNameError, match=r"budget.*areas.*area"):
        equalise("tpu-v1", "eyeriss", "areas")  # type: ignore[arg-type]
    with pytest.raises(SpecError, match=r"tpu-v4i: with one unit it takes .* mm2, more than the .* of eyeriss"):
        equalise("tpu-v4i", "eyeriss")
    with pytest.raises(SpecError, match=r"dgx-attacc: a hybrid system has units of several kinds"):
        equalise("dgx-attacc", "h100-sxm")


def test_command() -> None:
    from presilicon.cli import app

    graph = Path(__file__).parent / "data" / "mlp.graph.json"
    found = CliRunner().invoke(app, ["compare", str(graph), "gemmini-16", "eyeriss", "--iso", "area"])
    assert found.exit_code == 0, found.output
    for text in ("equal area: ", "eyeriss, scaled", "filter_buffer"):
        assert text in found.output
    a, b = (ps.simulate(ps.load_graph(graph), s).simulation.total.total_energy_j for s in ("gemmini-16", "eyeriss"))
    assert f"{a / b:.2f}x" in found.output
