"""Pareto fronts and hypervolume; the search: its constraints, that it goes on, and what it refuses."""

from __future__ import annotations

import dataclasses
import itertools
import json
import sqlite3
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from presilicon.arch import load
from presilicon.errors import OutputError, PresiliconError, UnknownNameError
from presilicon.explore.expression import parse_expression
from presilicon.explore.pareto import hypervolume, non_dominated, pareto_front
from presilicon.explore.space import dimensions, evaluate_points, violation
from presilicon.explore.study import load_study
from presilicon.sim.run import simulate
from presilicon.workloads.graph import OpGraph

DATA = Path(__file__).parents[1] / "data"
GRAPH = DATA / "mlp.graph.json"


def document(**changes: Any) -> dict[str, Any]:
    return {
        "workloads": [{"graph": str(GRAPH)}],
        "systems": ["h100-sxm"],
        "parameters": {
            "gpu.sm.count": {"range": [20, 200], "steps": 5},
            "dram.bandwidth": {"range": ["1 TB/s", "8 TB/s"], "steps": 5, "scale": "log"},
        },
        "objectives": ["latency", "area"],
    } | changes


def brute_front(values: np.ndarray) -> list[int]:
    kept = []
    for i, row in enumerate(values):
        worse = ((values <= row).all(axis=1) & (values < row).any(axis=1)).any()
        twin = any((values[j] == row).all() for j in range(i))
        if not worse and not twin:
            kept.append(i)
    return kept


@pytest.mark.parametrize("objectives", [2, 3, 4])
def test_front_equals_the_definition(objectives: int) -> None:
    values = np.random.default_rng(objectives).integers(0, 8, (400, objectives)).astype(float)
    assert np.flatnonzero(non_dominated(values)).tolist() == brute_front(values)


def test_points_that_are_not_finite_are_dominated() -> None:
    assert non_dominated(np.array([[np.nan, 0.0], [1.0, np.inf], [3.0, 3.0]])).tolist() == [False, False, True]
    assert non_dominated(np.full((2, 2), np.inf)).tolist() == [False, False]


@pytest.mark.parametrize("objectives", [1, 2, 3, 4])
def test_hypervolume_counts_cells(objectives: int) -> None:
    """On whole numbers the volume is the number of unit cells that some point dominates."""
    rng = np.random.default_rng(objectives)
    values = rng.integers(0, 6, (12, objectives)).astype(float)
    cells = sum((values <= np.array(corner)).all(axis=1).any() for corner in itertools.product(range(6), repeat=objectives))
    assert hypervolume(values, [6.0] * objectives) == pytest.approx(cells)
    assert hypervolume(values, [0.0] * objectives) == 0.0


def test_hypervolume_equals_optunas() -> None:
    pytest.importorskip("optuna")
    try:
        from optuna._hypervolume import compute_hypervolume
    except ImportError:
        pytest.skip("this Optuna has no such function")
    values = np.random.default_rng(0).random((60, 3))
    assert hypervolume(values, [1.0, 1.0, 1.0]) == pytest.approx(compute_hypervolume(values, np.ones(3)))


def test_front_of_rows_leaves_out_failed_and_infeasible_ones() -> None:
    frame = pd.DataFrame({
        "time_s": [1.0, 2.0, 3.0, 0.1, 0.2], "tokens_per_s": [1.0, 5.0, 2.0, 9.0, 9.0],
        "error": [None, None, None, "broken", None], "feasible": [True, True, True, True, False],
    })
    assert pareto_front(frame, ["latency", "throughput"]).index.tolist() == [0, 1]
    with pytest.raises(UnknownNameError, match="latency"):
        pareto_front(frame, ["latenc", "throughput"])
    with pytest.raises(UnknownNameError, match="no column area_mm2"):
        pareto_front(frame, ["latency", "area"])
    with pytest.raises(PresiliconError, match="two objectives"):
        pareto_front(frame, ["latency"])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a <= 10", [0.0, 1.0]), ("a >= 40", [0.75, 0.5]), ("a < 10", [1e-9, 1.0]), ("a <= 10 and a >= 40", [0.75, 1.5]),
        ("a <= 5 or a >= 15", [1.0, 0.0]), ("a == 10", [0.0, 1.0]), ("2 * a <= b", [0.0, 1.0]), ("not a > 15", [0.0, 1.0]),
    ],
)
def test_violation_is_relative_and_zero_where_the_condition_holds(text: str, expected: list[float]) -> None:
    columns = {"a": np.array([10.0, 20.0]), "b": np.array([20.0, 20.0])}
    assert violation(parse_expression(text, "x"), columns, {}) == pytest.approx(expected)


def test_dimensions_of_ranges_lists_groups_and_systems() -> None:
    study = load_study(document(systems=["h100-sxm", "a100-sxm-80gb"], parameters={
        "gpu.sm.count": {"range": [20, 200], "steps": 5},
        "gpu.clock.boost": ["1.2 GHz", "1.8 GHz"],
        "zip": {"gpu.l2.size": ["32 MiB", "64 MiB"], "gpu.l2.bandwidth": [4096, 8192]},
        "dram.bandwidth": {"random": {"low": "1 TB/s", "high": "8 TB/s", "scale": "log", "samples": 3}},
    }))
    found = {d.name: d for d in dimensions(study)}
    assert list(found) == ["system", "gpu.sm.count", "gpu.clock.boost", "gpu.l2.size & gpu.l2.bandwidth", "dram.bandwidth"]
    assert found["gpu.sm.count"].whole
    assert (found["gpu.sm.count"].low, found["gpu.sm.count"].high) == (20.0, 200.0)
    assert found["dram.bandwidth"].log
    assert not found["dram.bandwidth"].whole
    pair = found["gpu.l2.size & gpu.l2.bandwidth"].values([1, 0])
    assert pair["gpu.l2.size"].tolist() == [64 * 2**20, 32 * 2**20]
    assert pair["gpu.l2.bandwidth"].tolist() == [8192.0, 4096.0]


def test_points_over_several_workloads_are_geometric_means_of_single_simulations() -> None:
    decode = DATA / "llama-3-8b.decode.graph.json.gz"
    study = load_study(document(workloads=[{"graph": str(GRAPH)}, {"graph": str(decode)}], constraints=["area_mm2 <= 700"]))
    graphs = {w: OpGraph.load(w.model) for w in study.workloads}
    found = evaluate_points(study, graphs, {"gpu.sm.count": np.array([60.0, 132.0]), "dram.bandwidth": np.array([2e12, 8e12])})
    system = load("h100-sxm").override({"gpu.sm.count": 60, "dram.bandwidth": 2e12})
    alone = [simulate(g, system, fidelity="analytic").time_s for g in graphs.values()]
    assert found["time_s"][0] == pytest.approx(np.sqrt(alone[0] * alone[1]))
    assert found["feasible"].tolist() == [True, False]
    assert found["violation"][1] == pytest.approx(found["area_mm2"][1] / 700 - 1)


def test_a_workload_that_does_not_fit_is_infeasible_by_how_much_it_exceeds() -> None:
    decode = [{"graph": str(DATA / "llama-3-8b.decode.graph.json.gz")}]
    study = load_study(document(workloads=decode, parameters={"dram.size": [1e9, 80e9]}))
    graphs = {w: OpGraph.load(w.model) for w in study.workloads}
    found = evaluate_points(study, graphs, {"dram.size": np.array([1e9, 80e9])})
    assert found["feasible"].tolist() == [False, True]
    assert found["violation"][0] == pytest.approx(found["peak_memory_bytes"][0] / 1e9 - 1)


@pytest.mark.parametrize("sampler", ["nsga2", "tpe", "random"])
def test_search_is_deterministic_and_keeps_ranges(sampler: Any) -> None:
    pytest.importorskip("optuna")
    from presilicon.explore.search import explore

    first, second = (explore(document(), trials=30, population=10, sampler=sampler, seed=3).frame for _ in range(2))
    pd.testing.assert_frame_equal(first, second)
    assert len(first) == 30
    assert first["gpu.sm.count"].between(20, 200).all()
    assert (first["gpu.sm.count"] % 1 == 0).all()
    assert first["dram.bandwidth"].between(1e12, 8e12).all()
    other = explore(document(), trials=30, population=10, sampler=sampler, seed=4).frame
    assert other["gpu.sm.count"].tolist() != first["gpu.sm.count"].tolist()


def test_front_is_of_feasible_designs_and_the_best_of_its_trials() -> None:
    pytest.importorskip("optuna")
    from presilicon.explore.search import explore

    found = explore(document(constraints=["area_mm2 <= 700"]), trials=60, population=15)
    assert 0 < len(found.front) < 60
    assert (found.front["area_mm2"] <= 700).all()
    feasible = found.frame[found.frame["feasible"]]
    assert found.front["time_s"].min() == feasible["time_s"].min()
    assert found.front["area_mm2"].min() == feasible["area_mm2"].min()
    assert found.hypervolume() > 0
    assert found.hypervolume(found.reference * 2) > found.hypervolume()


@pytest.mark.slow
@pytest.mark.parametrize("sampler", ["nsga2", "tpe"])
def test_a_search_that_goes_on_equals_one_that_never_stopped(tmp_path: Path, sampler: Any) -> None:
    pytest.importorskip("optuna")
    from presilicon.explore.search import explore

    whole = explore(document(), trials=30, population=10, sampler=sampler)
    for trials in (10, 30, 20):
        last = explore(document(), trials=trials, population=10, sampler=sampler, out=tmp_path)
        pd.testing.assert_frame_equal(last.frame, whole.frame.head(trials).assign(front=last.frame["front"]))
    assert {"explore.db", "explore.json", "trials.parquet", "front.parquet", "front.svg"} <= {p.name for p in tmp_path.iterdir()}
    assert len(pd.read_parquet(tmp_path / "trials.parquet")) == 20


def test_a_part_of_a_generation_is_completed_without_repeating_it(tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    from presilicon.explore.search import explore

    explore(document(), trials=4, population=10, out=tmp_path)
    found = explore(document(), trials=10, population=10, out=tmp_path)
    assert len(found.frame) == 10
    assert found.frame["dram.bandwidth"].nunique() == 10


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"constraints": ["area_mm2 <= 500"]}, "constraints: was"),
        ({"parameters": {"gpu.sm.count": {"range": [20, 100], "steps": 5}}}, "space"),
        ({"systems": ["a100-sxm-80gb"]}, "systems"),
        ({"objectives": ["latency", "energy"]}, "objectives"),
    ],
)
def test_another_study_in_the_folder_is_refused_with_the_difference(tmp_path: Path, change: dict[str, Any], told: str) -> None:
    pytest.importorskip("optuna")
    from presilicon.explore.search import explore

    explore(document(), trials=2, population=2, out=tmp_path)
    before = (tmp_path / "trials.parquet").read_bytes()
    with pytest.raises(OutputError, match=told):
        explore(document(**change), trials=2, population=2, out=tmp_path)
    assert (tmp_path / "trials.parquet").read_bytes() == before


def test_a_constraint_that_nothing_meets_shows_the_nearest(tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    from presilicon.explore.search import explore

    found = explore(document(constraints=["area_mm2 <= 1"]), trials=20, population=10, out=tmp_path)
    assert not found.frame["feasible"].any()
    assert found.front.empty
    assert found.hypervolume() == 0.0
    near = found.least_violating(3)
    assert near["area_mm2"].tolist() == sorted(found.frame["area_mm2"])[:3]
    assert not (tmp_path / "front.svg").exists()


def test_wrong_arguments() -> None:
    pytest.importorskip("optuna")
    from presilicon.explore.search import explore

    with pytest.raises(UnknownNameError, match="did you mean 'latency'"):
        explore(document(), ["latancy", "area"])
    with pytest.raises(PresiliconError, match="two or more"):
        explore(document(), ["latency"])
    with pytest.raises(PresiliconError, match="each once"):
        explore(document(), ["latency", "latency"])
    with pytest.raises(UnknownNameError, match="sampler"):
        explore(document(), sampler="nsga3")  # type: ignore[arg-type]
    with pytest.raises(PresiliconError, match="trials"):
        explore(document(), trials=0)
    with pytest.raises(PresiliconError, match="nothing varies"):
        explore(document(parameters={}))
    with pytest.raises(PresiliconError, match="cannot be opened"):
        explore(document(), trials=2, storage="nosuchdb://x")


def test_without_optuna_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    from presilicon.explore.search import explore

    with pytest.raises(PresiliconError, match=r"pip install 'presilicon\[explore\]'"):
        explore(document(), trials=2)


def test_manifest_is_plain_json(tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    from presilicon.explore.search import explore

    explore(document(), trials=4, population=2, out=tmp_path)
    manifest = json.loads((tmp_path / "explore.json").read_text())
    assert manifest["objectives"] == ["latency", "area"]
    assert manifest["space"]["gpu.sm.count"] == "20 to 200"


STUDIES = Path(__file__).resolve().parents[2] / "docs" / "studies"


@pytest.mark.skipif(not STUDIES.exists(), reason="reads the checkout's studies; this is not one")
@pytest.mark.parametrize("path", sorted(STUDIES.glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_studies_are_sound(path: Path) -> None:
    from presilicon.explore.space import check_constraints, dimensions
    from presilicon.explore.study import load_study

    study = load_study(path)
    check_constraints(study)
    assert len(dimensions(study)) > 2
    assert f"docs/studies/{path.name}" in path.read_text(encoding="utf-8")


@pytest.mark.slow
def test_search_over_a_hybrid_keeps_its_budget_and_goes_on(tmp_path: Path) -> None:
    """Arrays and memory stacks of NPUs beside PIM: the same trials whether stopped or not, none of the front above the budget."""
    from presilicon.explore.search import explore

    pytest.importorskip("optuna")
    text = {
        "workloads": [{"graph": str(DATA / "llama-3-8b.decode.graph.json.gz")}], "systems": ["neupims"],
        "parameters": {"xpu.npu.arrays": [2, 8], "zip": {"pim.count": [1, 2], "xpu.npu.bandwidth": ["1024 GB/s", "2048 GB/s"]}},
        "objectives": ["latency", "area"], "constraints": ["area_mm2_per_device <= 2000"],
    }  # fmt: skip
    whole = explore(text, trials=6, population=3)
    explore(text, trials=3, population=3, out=tmp_path)
    again = explore(text, trials=6, population=3, out=tmp_path)
    columns = ["xpu.npu.arrays", "pim.count", "time_s", "area_mm2", "area_mm2_per_device", "devices", "feasible"]
    pd.testing.assert_frame_equal(whole.frame[columns], again.frame[columns])
    assert (again.front["area_mm2_per_device"] <= 2000).all()
    assert (again.frame["area_mm2"] == 4 * again.frame["area_mm2_per_device"]).all()
    assert again.frame["feasible"].any()


def test_systems_of_several_kinds_may_be_all_that_varies() -> None:
    pytest.importorskip("optuna")
    from presilicon.explore.search import explore

    study = load_study(document(systems=["h100-sxm", "gemmini-16", "h100-aim"], parameters={}))
    found = explore(study, trials=12, population=6)
    assert found.frame["error"].isna().all()
    for name, rows in found.frame.groupby("system"):
        expected = simulate(OpGraph.load(GRAPH), load(str(name)), fidelity="analytic").time_s
        assert rows["time_s"].to_numpy() == pytest.approx(expected, rel=1e-9)


def test_a_system_without_a_known_area_has_none_rather_than_the_least() -> None:
    study = load_study(document(systems=["h100-sxm", "gemmini-16"], parameters={"dram.bandwidth": ["16 GB/s", "2 TB/s"]}))
    far = load("gemmini-16").override({"node": 90})  # beyond the table
    study = dataclasses.replace(study, systems=(study.systems[0], far))
    columns = {"system": np.array(["h100-sxm", "gemmini-16"], dtype=object), "dram.bandwidth": np.array([2e12, 16e9])}
    found = evaluate_points(study, {w: OpGraph.load(GRAPH) for w in study.workloads}, columns)
    assert found["area_mm2"][0] > 100
    assert np.isnan(found["area_mm2"][1])
    assert found["share.tensor"][1] == 0


def test_a_constraint_on_a_field_of_the_workload_holds_for_each_workload() -> None:
    graphs = [{"graph": str(GRAPH)}, {"graph": str(DATA / "llama-3-8b.decode.graph.json.gz")}]
    study = load_study(document(workloads=graphs, constraints=["phase != 'decode' or time_s <= '8 ms'", "area_mm2 <= 2000"]))
    columns = {"gpu.sm.count": np.array([132.0, 132.0]), "dram.bandwidth": np.array([1e12, 8e12])}
    found = evaluate_points(study, {w: OpGraph.load(w.model) for w in study.workloads}, columns)
    decode = found[f"time_s[{study.workloads[1].label}]"]
    assert decode[0] > 8e-3 > decode[1]
    assert found["violation"].tolist() == [1.0, 0.0]  # the prefill alone would meet both


def test_quantities_in_constraints_carry_units() -> None:
    columns = {"gpu.sm.count": np.array([132.0, 132.0]), "dram.bandwidth": np.array([1e12, 8e12])}
    for texts in (["dram.bandwidth <= '2 TB/s'"], ["dram.bandwidth <= 2e12"]):
        study = load_study(document(constraints=texts))
        found = evaluate_points(study, {w: OpGraph.load(GRAPH) for w in study.workloads}, columns)
        assert found["violation"].tolist() == [0.0, 3.0]


def _both_at_once(folder: Path, monkeypatch: pytest.MonkeyPatch, trials: int) -> tuple[Any, Any]:
    """A search during whose first generation another process, of the same seed, searches the same storage to its half."""
    import optuna

    from presilicon.explore import search

    url, kept = f"sqlite:///{folder}/shared.db", search._evaluated
    calls = []

    def evaluated(*arguments: Any) -> list[Any]:
        calls.append(1)
        if len(calls) == 1:
            search.explore(document(), trials=trials // 2, population=10, storage=url, out=folder / "other")
        return kept(*arguments)

    monkeypatch.setattr(search, "_evaluated", evaluated)
    found = search.explore(document(), trials=trials, population=10, storage=url, out=folder / "own")
    return found, optuna.load_study(study_name="presilicon", storage=url)


@pytest.mark.slow
def test_processes_that_share_a_storage_do_not_repeat_each_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("optuna")
    found, stored = _both_at_once(tmp_path, monkeypatch, 40)
    assert len(stored.trials) == len(found.frame) == 40
    assert found.frame["dram.bandwidth"].nunique() > 30  # with one seed they would draw ten designs twice
    assert len(pd.read_parquet(tmp_path / "other" / "trials.parquet")) == 20


def test_a_search_that_is_full_when_its_generation_is_done_adds_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("optuna")
    from presilicon.explore import search

    monkeypatch.setattr(search, "_own_seed", lambda: 1)
    _, stored = _both_at_once(tmp_path, monkeypatch, 20)
    assert len(stored.trials) == 20


def test_a_storage_that_another_process_makes_meanwhile_is_taken_and_one_without_description_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    optuna = pytest.importorskip("optuna")
    from presilicon.explore.search import explore

    url = f"sqlite:///{tmp_path}/shared.db"
    optuna.create_study(storage=url, study_name="presilicon", directions=["minimize", "minimize"])  # killed before it was described
    names, asked = optuna.get_all_study_names, []

    def late(storage: Any) -> list[str]:
        asked.append(storage)
        return [] if len(asked) == 1 else list(names(storage))

    monkeypatch.setattr(optuna, "get_all_study_names", late)
    found = explore(document(), trials=10, population=10, storage=url)
    assert len(asked) == 2
    pd.testing.assert_frame_equal(found.frame, explore(document(), trials=10, population=10).frame)


def test_a_study_of_something_else_under_the_same_name_is_refused(tmp_path: Path) -> None:
    optuna = pytest.importorskip("optuna")
    from presilicon.explore.search import explore

    url = f"sqlite:///{tmp_path}/shared.db"
    optuna.create_study(storage=url, study_name="presilicon", directions=["minimize"])
    with pytest.raises(OutputError, match="presilicon did not write"):
        explore(document(), trials=10, storage=url)


def test_a_database_that_fails_is_one_line_and_the_search_goes_on_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    optuna = pytest.importorskip("optuna")
    from presilicon.explore.search import explore

    def full(*_: Any, **__: Any) -> None:
        raise optuna.exceptions.StorageInternalError("commit") from sqlite3.OperationalError("database or disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(optuna.storages._CachedStorage, "create_new_trial", full)
        with pytest.raises(OutputError, match="database or disk is full; the generations in it are whole"):
            explore(document(), trials=10, population=10, out=tmp_path)
    assert len(explore(document(), trials=10, population=10, out=tmp_path).frame) == 10


def test_workers_find_the_trials_of_one_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("optuna")
    pytest.importorskip("joblib")
    from presilicon.explore.search import explore

    monkeypatch.setenv("PRESILICON_CACHE", "off")
    study = document(systems=["gemmini-16", "h100-sxm"], parameters={"dram.bandwidth": {"range": ["8 GB/s", "2 TB/s"], "steps": 5}})
    alone, shared = (explore(study, trials=12, population=12, workers=n) for n in (1, 2))
    pd.testing.assert_frame_equal(alone.frame, shared.frame)


@pytest.mark.slow
def test_a_name_that_looks_like_a_formula_is_drawn_to_the_letter(tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    from presilicon.explore.search import explore

    explore(document(name="$\\frac{ $"), trials=4, population=4, out=tmp_path)
    assert (tmp_path / "front.svg").exists()
