"""Sparsity as a knob of a study, and workloads that cannot be traced as rows with their error."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import presilicon as ps
from presilicon import arch
from presilicon.errors import MissingPackageError, PresiliconError, SpecError, UnknownNameError
from presilicon.explore import sweep as module
from presilicon.explore.evaluate import Subject, evaluate_designs
from presilicon.explore.study import Workload, load_study
from presilicon.explore.sweep import plan, sweep
from presilicon.workloads.graph import OpGraph

DATA = Path(__file__).parents[1] / "data"
PREFILL, DECODE = (str(DATA / f"llama-3-8b.{phase}.graph.json.gz") for phase in ("prefill", "decode"))


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PRESILICON_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize("fidelity", ["analytic", "tile"])
@pytest.mark.parametrize("scheme", ["2:4", "unstructured:0.7"])
@pytest.mark.parametrize(("path", "system"), [(PREFILL, "a100-sxm-80gb"), (DECODE, "a100-sxm-80gb"), (PREFILL, "t4")])
def test_rows_equal_simulate(path: str, system: str, scheme: str, fidelity: Any) -> None:
    graph, device = ps.sparsify(OpGraph.load(path), scheme), arch.load(system)
    designs = {
        "gpu.sm.sparse_speedup": np.array([1.0, 1.3, 2.0]),
        "gpu.sm.count": np.array([40.0, 108.0, 77.0]),
        "calibration.gemm.place_ops": np.array([4.0, 2.0, 8.0]),
        "gpu.sm.sfu": np.array([16.0, 8.0, 32.0]),
    }
    frame = evaluate_designs(Subject(Workload(path, True, sparsity=scheme), graph, device, fidelity, "cudagraph"), designs).to_pandas()
    assert frame["error"].isna().all()
    for i, row in frame.iterrows():
        changed = device.override({name: values[i] for name, values in designs.items()})
        expected = ps.simulate(graph, changed, fidelity=fidelity).headline()
        for column in ("time_s", "low_s", "high_s", "energy_j", "peak_memory_bytes"):
            assert row[column] == pytest.approx(expected[column], rel=1e-9), column
        assert row["limiter"] == expected["limited_by"]


def test_a_study_varies_sparsity_beside_quantisation() -> None:
    entry = {"graph": DECODE, "sparsity": [None, "2:4", "unstructured:0.60"], "quant": [None, "w4a16"]}
    found = sweep({"workloads": [entry], "systems": ["h100-sxm", "t4"], "when": ["sparsity != '2:4' or system != 't4'"]})
    frame = found.to_frame()
    assert len(frame) == 10  # 6 on h100-sxm, 4 on t4
    assert set(frame["sparsity"].dropna()) == {"2:4", "unstructured:0.6"}
    assert "llama-3-8b.decode w4a16 2:4" in set(frame["workload"])
    frame[["quant", "sparsity"]] = frame[["quant", "sparsity"]].astype(object).fillna("")
    dense = frame[frame["sparsity"] == ""].set_index(["system", "quant"])
    for _, row in frame[frame["sparsity"] != ""].iterrows():
        before = dense.loc[(row["system"], row["quant"])]
        assert row["peak_memory_bytes"] < before["peak_memory_bytes"]
        if row["sparsity"] == "2:4" or not row["quant"]:  # four bits are found in a bitmap no faster than they are read
            assert row["time_s"] < before["time_s"], row["workload"]
    assert frame["config_hash"].is_unique
    assert load_study(found.study.document | {"systems": ["h100-sxm"]}).workloads == found.study.workloads


def test_two_of_four_needs_no_quotes_in_yaml(tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(f"workloads:\n  - {{graph: {DECODE}, sparsity: [2:4, 1:2, 8:16, null]}}\nsystems: [h100-sxm]\n")
    assert [w.sparsity for w in load_study(path).workloads] == ["2:4", "1:2", "8:16", None]


@pytest.mark.parametrize(
    ("value", "error", "words"),
    [
        ("2:5x", UnknownNameError, ("workloads.0.sparsity", "2:5x", "2:4")),
        ("4:2", SpecError, ("workloads.0.sparsity", "4:2", "N < M")),
        ("unstructured:2", SpecError, ("workloads.0.sparsity", "above 0 and below 1")),
        (0.5, UnknownNameError, ("workloads.0.sparsity", "0.5")),
        (True, UnknownNameError, ("workloads.0.sparsity", "True")),
        (3, UnknownNameError, ("workloads.0.sparsity", "3")),
    ],
)
def test_bad_schemes_are_named_with_their_place(value: Any, error: type[Exception], words: tuple[str, ...]) -> None:
    with pytest.raises(error) as caught:
        load_study({"workloads": [{"graph": DECODE, "sparsity": value}], "systems": ["h100-sxm"]})
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_the_same_scheme_twice_is_refused() -> None:
    with pytest.raises(SpecError, match="listed twice"):
        load_study({"workloads": [{"graph": DECODE, "sparsity": ["unstructured:0.5", "unstructured:50%"]}], "systems": ["h100-sxm"]})


def two(tmp_path: Path, **first: Any) -> dict[str, Any]:
    return {
        "workloads": [{"graph": DECODE, "tp": 3} | first, {"graph": DECODE}],
        "systems": ["h100-sxm"],
        "parameters": {"gpu.sm.count": [66, 132]},
    }


def test_a_workload_that_fails_has_rows_with_its_error_and_the_sweep_goes_on(tmp_path: Path) -> None:
    study = two(tmp_path)  # eight KV heads over three devices
    frame = sweep(study, tmp_path / "out").to_frame().sort_values(["tp", "gpu.sm.count"])
    assert frame["tp"].tolist() == [1, 1, 3, 3]
    assert frame["error"].isna().tolist() == [True, True, False, False]
    assert frame["time_s"].isna().tolist() == [False, False, True, True]
    assert frame["uncovered_ops"].isna().tolist() == [False, False, True, True]
    assert "3" in frame["error"].iloc[-1]
    assert frame["config_hash"].is_unique
    again = sweep(study, tmp_path / "out").to_frame().sort_values(["tp", "gpu.sm.count"])
    assert again.equals(frame)
    assert plan(study).points == 4


def test_whatever_tracing_raises_is_a_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = OpGraph.load

    def load(path: Any) -> OpGraph:
        if Path(path).name.startswith("llama-3-8b.decode") and state["broken"]:
            raise RuntimeError("a bug\nof two lines")
        return real(path)

    study = load_study({"workloads": [{"graph": DECODE}, {"graph": PREFILL}], "systems": ["h100-sxm"]})
    state = {"broken": True}
    monkeypatch.setattr(OpGraph, "load", load)
    frame = sweep(study).to_frame()
    assert sorted(frame["error"].fillna("")) == ["", "RuntimeError: a bug of two lines"]


def test_when_nothing_can_be_traced_the_error_is_raised(tmp_path: Path) -> None:
    study = {"workloads": [{"graph": DECODE, "tp": 3}], "systems": ["h100-sxm"]}
    with pytest.raises(PresiliconError, match="3"):
        sweep(study, tmp_path / "out")
    with pytest.raises(PresiliconError, match="3"):
        plan(study)


def test_a_missing_package_is_no_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(workload: Workload) -> OpGraph:
        if workload.model == PREFILL:
            raise MissingPackageError("tracing needs torch")
        return OpGraph.load(workload.model)

    study = load_study({"workloads": [{"graph": DECODE}, {"graph": PREFILL}], "systems": ["h100-sxm"]})
    with pytest.raises(MissingPackageError):
        module._graphs(study.workloads, refuse)


def test_the_speedup_is_no_count() -> None:
    study = load_study(
        {"workloads": [{"graph": PREFILL, "sparsity": "2:4"}], "systems": ["l40s"],
         "parameters": {"gpu.sm.sparse_speedup": {"range": [1.2, 2], "steps": 5}}}
    )
    assert study.axes[0].columns["gpu.sm.sparse_speedup"].tolist() == pytest.approx([1.2, 1.4, 1.6, 1.8, 2.0])
    times = sweep(study).to_frame().sort_values("gpu.sm.sparse_speedup")["time_s"].tolist()
    assert times == sorted(times, reverse=True)
    frame = ps.sensitivity(ps.sparsify(OpGraph.load(PREFILL), "2:4"), "l40s", paths=["gpu.sm.sparse_speedup"])
    assert -1.0 < frame["sensitivity"].iloc[0] < -0.05
    with pytest.raises(SpecError, match="at most 2"):
        load_study({"workloads": [{"graph": PREFILL}], "systems": ["l40s"], "parameters": {"gpu.sm.sparse_speedup": [1.5, 3]}})
