"""Sweeps: rows equal what `simulate` says of each design, points that fail are recorded, and the results read back as a table."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import presilicon as ps
from presilicon import arch
from presilicon.errors import OutputError, PresiliconError, SpecError, UnknownNameError
from presilicon.explore.cache import Cache
from presilicon.explore.evaluate import Subject, code_version, evaluate_designs
from presilicon.explore.study import Workload, load_study
from presilicon.explore.sweep import plan, sweep
from presilicon.workloads.graph import OpGraph

DATA = Path(__file__).parents[1] / "data"
MLP, PREFILL, DECODE = (
    str(DATA / name) for name in ("mlp.graph.json", "llama-3-8b.prefill.graph.json.gz", "llama-3-8b.decode.graph.json.gz")
)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PRESILICON_CACHE", str(tmp_path / "cache"))


def document(**changes: Any) -> dict[str, Any]:
    parameters = {"gpu.sm.count": [66, 132], "dram.bandwidth": ["2 TB/s", "4 TB/s", "8 TB/s"]}
    return {"workloads": [{"graph": MLP}], "systems": ["h100-sxm"], "parameters": parameters} | changes


def random_designs(count: int, seed: int) -> dict[str, np.ndarray]:
    """Designs over parameters of every kind: the GPU's, memory's, host's, link's, calibration's."""
    rng = np.random.default_rng(seed)
    return {
        "gpu.sm.count": rng.integers(16, 200, count).astype(float),
        "gpu.clock.boost": rng.uniform(1e9, 2.2e9, count),
        "gpu.l2.size": rng.uniform(10e6, 120e6, count),
        "gpu.sm.tensor.bf16": rng.uniform(512, 8192, count),
        "gpu.sm.shared_memory_per_cta": rng.uniform(50e3, 220e3, count),
        "dram.bandwidth": rng.uniform(5e11, 8e12, count),
        "dram.size": rng.uniform(10e9, 90e9, count),
        "dram.latency": rng.uniform(300, 1200, count),
        "power.limit": rng.uniform(200, 900, count),
        "power.idle": rng.uniform(20, 90, count),
        "host.launch": rng.uniform(5e-7, 1e-5, count),
        "host.dispatch": rng.uniform(0, 2e-5, count),
        "host.graph_launch": rng.uniform(1e-6, 1e-4, count),
        "host.stream_gap": rng.uniform(0, 2e-6, count),
        "host.queue_depth": rng.integers(1, 1500, count).astype(float),
        "calibration.gemm.launch": rng.uniform(1e-6, 5e-6, count),
        "link.bandwidth": rng.choice([1e11, 4.5e11], count),
    }


@pytest.mark.parametrize("runtime", ["eager", "cudagraph", "compiled"])
@pytest.mark.parametrize("fidelity", ["analytic", "tile"])
@pytest.mark.parametrize("name", ["mlp.graph.json", "llama-3-8b.prefill.graph.json.gz", "llama-3-8b.decode.graph.json.gz"])
def test_rows_equal_simulate(name: str, fidelity: Any, runtime: Any) -> None:
    graph, system = OpGraph.load(DATA / name), arch.load("h100-sxm")
    designs = random_designs(4, seed=len(name) + len(runtime))
    subject = Subject(Workload(name, True), graph, system, fidelity, runtime)
    frame = evaluate_designs(subject, designs).to_pandas()
    assert frame["error"].isna().all()
    for i, row in frame.iterrows():
        report = ps.simulate(
            graph, system.override({path: values[i] for path, values in designs.items()}), fidelity=fidelity, runtime=runtime
        )
        expected = report.headline()
        for column in ("time_s", "low_s", "high_s", "tokens_per_s", "energy_j", "peak_memory_bytes"):
            assert row[column] == pytest.approx(expected[column], rel=1e-9), column
        assert (row["limiter"], row["fits"]) == (expected["limited_by"], expected["fits"])
        seconds = report.bottlenecks()
        for resource, share in seconds.items():
            assert row[f"share.{resource}"] == pytest.approx(share / sum(seconds.values()), abs=1e-9)
        assert sum(row[c] for c in frame.columns if c.startswith("share.")) == pytest.approx(1.0)
        for path, values in designs.items():
            assert row[path] == values[i]


@pytest.mark.parametrize("fidelity", ["analytic", "tile"])
def test_one_by_one_gives_the_rows_of_arrays(fidelity: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Systems of other kinds go through `simulate` design by design; a GPU made to go that way gives the same rows."""
    subject = Subject(Workload("mlp", True), OpGraph.load(MLP), arch.load("h100-sxm"), fidelity, "eager")
    designs = random_designs(3, seed=7) | {"gpu.sm.shared_memory_per_cta": np.array([1e5, 1e9, 2e5])}
    fast = evaluate_designs(subject, designs).to_pandas()
    monkeypatch.setattr(Subject, "vectorised", False)
    slow = evaluate_designs(subject, designs).to_pandas()
    assert set(slow.columns) <= set(fast.columns)
    for name in slow.columns:
        if slow[name].dtype.kind == "f":
            np.testing.assert_allclose(slow[name].fillna(-1), fast[name].fillna(-1), rtol=1e-9, atol=1e-12, err_msg=name)
        else:
            assert slow[name].equals(fast[name]), name
    assert slow["error"].notna().tolist() == [False, True, False]


@pytest.mark.parametrize("degrees", [{"dp": 4}, {"pp": 2, "dp": 2}])
@pytest.mark.parametrize("runtime", ["eager", "cudagraph"])
def test_arrays_hide_gradients_and_wait_for_stages_as_simulate_does(degrees: dict[str, int], runtime: Any, tmp_path: Path) -> None:
    """Collectives beside a backward pass, an optimizer after the last microbatch, and the pipeline's bubble."""
    from presilicon.workloads.parallel import parallelise

    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    config = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 64, "intermediate_size": 96,
              "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 256}  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(config))
    graph = ps.trace_model(tmp_path, phase="train", batch=8, seq=64)
    split, system = parallelise(graph, **degrees), arch.load("h100-sxm")
    assert any(op.attributes.get("overlap") for op in split)
    columns = {"dram.bandwidth": np.array([2e12, 6e12]), "link.bandwidth": np.array([4e11, 1e9])}
    frame = evaluate_designs(Subject(Workload("tiny", True, phase="train"), split, system, "analytic", runtime), columns).to_pandas()
    for i, row in frame.iterrows():
        changes = {path: values[i] for path, values in columns.items()}
        report = ps.simulate(split, system.override(changes), fidelity="analytic", runtime=runtime)
        expected, seconds = report.headline(), report.bottlenecks()
        for column in ("time_s", "low_s", "high_s", "energy_j"):
            assert row[column] == pytest.approx(expected[column], rel=1e-9), column
        assert row["limiter"] == expected["limited_by"]
        for resource, share in seconds.items():
            assert row[f"share.{resource}"] == pytest.approx(share / sum(seconds.values()), abs=1e-9)


@pytest.mark.parametrize("degrees", [{"tp": 2}, {"tp": 4, "dp": 2}, {"pp": 2}, {"pp": 4, "tp": 2}])
@pytest.mark.parametrize("runtime", ["eager", "compiled"])
def test_parallel_workloads(degrees: dict[str, int], runtime: Any, tmp_path: Path) -> None:
    from presilicon.workloads.parallel import parallelise

    text = document(
        workloads=[{"graph": DECODE} | degrees], runtime=runtime, parameters={"link.bandwidth": [1e11, 4e11], "gpu.sm.count": [66, 132]}
    )
    frame = sweep(text, tmp_path / "out").to_frame()
    graph, system = parallelise(OpGraph.load(DECODE), **degrees), arch.load("h100-sxm")
    for _, row in frame.iterrows():
        changes = {path: row[path] for path in ("link.bandwidth", "gpu.sm.count")}
        expected = ps.simulate(graph, system.override(changes), fidelity="analytic", runtime=runtime).headline()
        for column in ("time_s", "low_s", "high_s", "tokens_per_s", "energy_j", "peak_memory_bytes"):
            assert row[column] == pytest.approx(expected[column], rel=1e-9), column
        assert row["limiter"] == expected["limited_by"]
        assert {name: row[name] for name in degrees} == degrees
    assert ps.load_results(tmp_path / "out").study.workloads == load_study(text).workloads


def test_too_many_devices_for_the_link_are_recorded() -> None:
    frame = sweep(document(workloads=[{"graph": DECODE, "tp": 8}], parameters={"link.max_devices": [4, 8]})).to_frame()
    assert frame["error"].str.contains("8 devices, but its link joins 4").tolist()[:1] == [True]
    assert frame["error"].isna().tolist() == [False, True]


def test_collectives_see_the_links(tmp_path: Path) -> None:
    from presilicon.workloads.formats import by_name
    from presilicon.workloads.op import Op, Operand

    axis = ((("n", 1),),)
    ends = (Operand("x", "input", axis, by_name("bf16")), Operand("y", "output", axis, by_name("bf16")))
    attributes = {"operation": "all_reduce", "devices": 8}
    op = Op(name="ar", kind="collective", target="all_reduce", dims={"n": 1 << 24}, operands=ends, attributes=attributes)
    graph, system = OpGraph("collective", [op]), arch.load("h100-sxm")
    designs = {
        "link.bandwidth": np.array([1e11, 1e11, 4.5e11]),
        "link.multicast": np.array([False, True, True]),
        "gpu.clock.boost": np.array([1e9, 1.5e9, 2e9]),
    }
    frame = evaluate_designs(Subject(Workload("collective", True), graph, system), designs).to_pandas()
    for i in range(3):
        changes = {path: values[i] for path, values in designs.items()}
        expected = ps.simulate(graph, system.override(changes), fidelity="analytic").time_s
        assert frame["time_s"][i] == pytest.approx(expected, rel=1e-9)
    assert frame["time_s"].nunique() == 3


def test_an_arithmetic_that_the_gpu_lacks_can_be_added() -> None:
    system = arch.load("a100-sxm-80gb")
    graph = OpGraph.load(DATA / "mlp.graph.json")
    designs = {"gpu.sm.tensor.fp8": np.array([4096.0, 8192.0])}
    from presilicon.workloads.quantise import quantise

    eight = quantise(graph, "fp8")
    times = evaluate_designs(Subject(Workload("mlp", True, quant="fp8"), eight, system), designs).to_pandas()["time_s"]
    for i, rate in enumerate(designs["gpu.sm.tensor.fp8"]):
        expected = ps.simulate(eight, system.override({"gpu.sm.tensor.fp8": rate}), fidelity="analytic").time_s
        assert times[i] == pytest.approx(expected, rel=1e-9)


def test_sweep_reads_back_as_a_table(tmp_path: Path) -> None:
    found = sweep(document(batch_points=4), tmp_path / "out")
    assert len(found) == 6
    assert found.batches == (2, 2)
    assert sorted(p.name.split("-")[1] for p in (tmp_path / "out" / "batches").iterdir()) == ["000000", "000001"]
    frame = found.to_frame()
    assert frame["gpu.sm.count"].tolist() == [66, 66, 66, 132, 132, 132]
    assert set(frame["code_version"]) == {code_version()}
    assert frame["config_hash"].is_unique
    some = found.to_frame(["time_s"], filter="gpu.sm.count == 132 and dram.bandwidth > 2e12")
    assert some["time_s"].tolist() == frame["time_s"][4:].tolist()
    assert found["time_s"].equals(frame["time_s"])
    with pytest.raises(UnknownNameError, match="'time_s'"):
        found.to_frame(["time"])
    with pytest.raises(UnknownNameError, match="'time_s'"):
        found.to_frame(filter="time < 1")
    assert found._repr_html_().count("<tr") == 7
    again = ps.load_results(tmp_path / "out")
    assert again.to_frame().equals(frame)
    assert again.study.axes[0].columns["gpu.sm.count"].tolist() == [66, 132]
    best = again.best("latency")
    assert best["time_s"].tolist() == [frame["time_s"].min()]


def test_without_a_folder_the_results_live_as_long_as_the_object() -> None:
    found = ps.sweep(document())
    folder = found.path
    assert len(found) == 6
    del found
    assert not folder.exists()


def test_a_design_that_no_system_can_be_is_recorded(tmp_path: Path) -> None:
    parameters = {
        "gpu.sm.shared_memory_per_cta": ["100 KiB", "400 KiB"],
        "gpu.sm.shared_memory": ["228 KiB", "500 KiB"],
        "gpu.sm.count": [66, 132],
    }
    found = sweep(document(parameters=parameters), tmp_path / "out")
    frame = found.to_frame()
    bad = frame["error"].notna()
    assert bad.tolist() == ((frame["gpu.sm.shared_memory_per_cta"] > frame["gpu.sm.shared_memory"]).tolist())
    assert bad.sum() == 2
    assert found.failed()["error"].str.contains("gpu.sm.shared_memory_per_cta: .* exceeds").all()
    assert frame.loc[bad, "time_s"].isna().all()
    assert frame.loc[~bad, "time_s"].notna().all()


def test_a_point_that_raises_is_recorded_and_the_sweep_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from presilicon.explore import vector

    whole = vector.evaluate_all

    def broken(kernels: Any, machine: Any, link: Any) -> Any:
        if np.any(np.asarray(machine.dram_bytes_per_s) == 4e12):
            raise ZeroDivisionError("four")
        return whole(kernels, machine, link)

    expected = sweep(document(), tmp_path / "whole").to_frame()
    monkeypatch.setattr(vector, "evaluate_all", broken)
    frame = sweep(document(), tmp_path / "out").to_frame()
    bad = frame["dram.bandwidth"] == 4e12
    assert frame.loc[bad, "error"].tolist() == ["ZeroDivisionError: four"] * 2
    assert frame.loc[~bad, "error"].isna().all()
    assert frame.loc[~bad, "time_s"].tolist() == expected.loc[~bad, "time_s"].tolist()
    assert frame["config_hash"].tolist() == expected["config_hash"].tolist()


def test_a_workload_that_cannot_be_mapped_is_recorded(tmp_path: Path) -> None:
    import gzip
    import json

    data = json.loads(gzip.decompress(Path(DECODE).read_bytes()))
    for op in data["ops"]:
        if op["kind"] == "matmul":
            op["dims"] = {"mm" if d == "m" else d: n for d, n in op["dims"].items()}
            for operand in op["operands"]:
                operand["projection"] = [[["mm" if d == "m" else d, s] for d, s in axis] for axis in operand["projection"]]
    (tmp_path / "bad.json").write_text(json.dumps(data))
    found = sweep(document(workloads=[{"graph": str(tmp_path / "bad.json")}, {"graph": MLP}]), tmp_path / "out")
    frame = found.to_frame()
    assert frame["error"].notna().tolist() == [True] * 6 + [False] * 6
    assert frame["error"][:6].str.contains("needs dimension or attribute 'm'").all()


def test_a_design_beyond_what_floats_hold_has_an_error(tmp_path: Path) -> None:
    found = sweep(document(parameters={"dram.bandwidth": ["2 TB/s", 1e-300]}), tmp_path)
    frame = found.to_frame()
    assert frame["error"].isna().tolist() == [True, False]
    assert frame["error"][1].startswith("time_s is ")
    assert found.best("energy")["dram.bandwidth"].tolist() == [2e12]


def test_a_workload_without_a_scheme_is_not_one_with_another(tmp_path: Path) -> None:
    found = sweep(document(workloads=[{"graph": MLP, "quant": [None, "w4a16"]}], constraints=["quant != 'w4a16'"]), tmp_path)
    assert len(found.to_frame(filter="quant != 'w4a16'")) == len(found.to_frame(filter="quant == 'w4a16'")) == 6
    assert found.feasible()["quant"].isna().all()
    assert len(found.feasible()) == 6


def test_constraints_may_write_quantities(tmp_path: Path) -> None:
    found = sweep(document(constraints=["dram.bandwidth <= '4 TB/s'", "time_s < '1 s'", "energy_j > '1 nJ'"]), tmp_path)
    assert found.unmet() == []
    assert sorted(found.feasible()["dram.bandwidth"].unique()) == [2e12, 4e12]
    assert len(found.to_frame(filter="dram.bandwidth > '3 TB/s' and power_w < '2 kW'")) == 4


@pytest.mark.parametrize("refuse", [sweep, plan])
@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"constraints": ["power.limit <= 500"]}, "constraints.0: unknown column 'power.limit'"),  # no column: it does not vary
        ({"constraints": ["area_mm2 <= '800 mm2'"]}, "constraints.0: .*compares a word with a number"),
        ({"constraints": ["time_s <= '5 lightyears'"]}, "constraints.0: .*lightyears"),
        ({"when": ["gpu.sm.count > 1000"]}, "when: no point meets"),
    ],
)
def test_what_could_only_fail_in_the_end_is_refused_at_once(refuse: Any, changes: dict[str, Any], told: str, tmp_path: Path) -> None:
    with pytest.raises(PresiliconError, match=told):
        refuse(document(**changes), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_conditions_that_nothing_meets_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"no point meets 'gpu.sm.count > 500'"):
        sweep(document(when=["dram.bandwidth > 1e12", "gpu.sm.count > 500"]), tmp_path / "out")
    with pytest.raises(SpecError, match="all of the conditions together"):
        sweep(document(when=["dram.bandwidth > 5e12", "dram.bandwidth < 5e12"]), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_batches_that_the_conditions_empty_are_complete(tmp_path: Path) -> None:
    found = sweep(document(batch_points=2, when=["gpu.sm.count > 100"]), tmp_path / "out")
    assert len(found) == 3
    assert found.batches == (3, 3)
    assert found.to_frame()["dram.bandwidth"].tolist() == [2e12, 4e12, 8e12]


def test_an_exploding_study_must_be_confirmed(tmp_path: Path) -> None:
    wide = {"range": [1e12, 2e12], "steps": 4000}
    with pytest.raises(SpecError, match=r"16,000,000 points.*--yes"):
        sweep(document(parameters={"dram.bandwidth": wide, "gpu.clock.boost": {"range": [1e9, 2e9], "steps": 4000}}), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_constraint_that_no_design_meets_is_named(tmp_path: Path) -> None:
    found = sweep(document(constraints=["time_s < 1e-9", "fits == 1"]), tmp_path / "out")
    (line,) = found.unmet()
    assert line.startswith("time_s < 1e-9: met by no design; time_s is from ")
    assert found.best().empty
    with pytest.raises(UnknownNameError, match=r"constraints.0: unknown column 'are_mm2'"):
        sweep(document(constraints=["are_mm2 < 800"]), tmp_path / "out").unmet()


def test_area_power_and_cost_of_each_design(tmp_path: Path) -> None:
    pytest.importorskip("presilicon.arch.area")
    frame = sweep(document(), tmp_path / "out").to_frame()
    assert frame["area_mm2"].iloc[3:].min() > frame["area_mm2"].iloc[:3].max(), "twice the SMs take more area than any DRAM interface here"
    assert (frame["power_w"] <= arch.load_gpu("h100-sxm").power.limit_w).all()
    assert (frame["cost_usd"] > 0).all()


def test_a_power_limit_that_cannot_be_held_is_not_what_a_design_draws() -> None:
    """The clock has a lowest value, below which a limit takes nothing away: power would be free to ask for."""
    subject = Subject(Workload("decode", True), OpGraph.load(DECODE), load_study(document()).systems[0])
    frame = evaluate_designs(subject, {"power.limit": np.array([100.0, 700.0])}).to_pandas()
    mean = frame["energy_j"] / frame["time_s"]
    assert mean[0] > 100
    assert frame["power_w"].tolist() == pytest.approx([mean[0], 700.0])
    assert frame["power_w_per_device"].tolist() == frame["power_w"].tolist()


def test_another_study_or_version_is_refused_with_the_difference(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    before = sweep(document(), out).to_frame()
    more = {"gpu.sm.count": [66, 132, 144], "dram.bandwidth": ["2 TB/s", "4 TB/s", "8 TB/s"]}
    for changes, message in (
        ({"parameters": more}, "parameters: 'gpu.sm.count' changed"),
        ({"parameters": {"gpu.sm.count": [66, 132]}}, "parameters: no 'dram.bandwidth' any more"),
        ({"systems": ["l40s"]}, "systems: no 'h100-sxm' any more, 'l40s' is new"),
        ({"runtime": "eager"}, "runtime: was 'cudagraph', is 'eager'"),
        ({"when": ["gpu.sm.count > 1"]}, "when: was"),
    ):
        with pytest.raises(OutputError, match=f"another study: {message}"):
            sweep(document(**changes), out)
    monkeypatch.setattr("presilicon.explore.sweep.code_version", lambda: "9.9.9+00000000")
    with pytest.raises(OutputError, match=r"written by version .* of the models, this is 9.9.9"):
        sweep(document(), out)
    monkeypatch.undo()
    monkeypatch.setenv("PRESILICON_CACHE", str(tmp_path / "cache"))
    assert sweep(document(objectives=["energy"], constraints=["fits == 1"]), out).to_frame().equals(before), "what is best may change"
    assert ps.load_results(out).study.objectives == ("energy",)


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(OutputError, match="not a results folder"):
        sweep(document(), tmp_path)
    with pytest.raises(SpecError, match="not a results folder"):
        ps.load_results(tmp_path)
    with pytest.raises(OutputError, match="cannot be written"):
        sweep(document(), tmp_path / "thesis.tex")
    assert [p.name for p in tmp_path.iterdir() if p.name != "cache"] == ["thesis.tex"]


def test_a_saved_graph_is_all_that_going_on_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    graph = tmp_path / "graph.json"
    graph.write_bytes(Path(MLP).read_bytes())
    text = document(workloads=[{"graph": str(graph)}], batch_points=2)
    sweep(text, tmp_path / "out")
    monkeypatch.setattr("presilicon.explore.folder.graph_of", lambda workload: pytest.fail("traced again"))
    for part in sorted((tmp_path / "out" / "batches").iterdir())[1:]:
        part.unlink()
    assert len(sweep(text, tmp_path / "out")) == 6


def test_the_plan_counts_and_writes_nothing(tmp_path: Path) -> None:
    out = tmp_path / "out"
    p = plan(document(batch_points=4), out)
    assert (p.points, p.batches, p.done) == (6, 2, 0)
    assert p.time_s > 0
    assert p.disk_bytes > 0
    assert not out.exists()
    sweep(document(batch_points=4), out)
    next((out / "batches").iterdir()).unlink()
    assert plan(document(batch_points=4), out).done == 1


def test_the_cache_is_bounded_and_survives_damage(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "deep" / "points.sqlite", most=3)
    assert cache.get(["a"]) == {}
    cache.put({name: {"value": name} for name in "abcde"})
    assert cache.get("abcde") == {name: {"value": name} for name in "cde"}
    cache.path.write_bytes(b"not a database" * 100)
    assert cache.get("abcde") == {}
    cache.put({"a": 1})


def test_slow_fidelities_are_computed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = sweep(document(fidelity="tile"), tmp_path / "one").to_frame()
    from presilicon.explore import vector

    played: list[int] = []
    whole = vector.refine
    monkeypatch.setattr(vector, "refine", lambda *a: played.append(1) or whole(*a))
    more = {"gpu.sm.count": [66, 100, 132], "dram.bandwidth": ["2 TB/s", "4 TB/s", "8 TB/s"]}
    second = sweep(document(fidelity="tile", parameters=more), tmp_path / "two").to_frame()
    fresh = len(played)
    same = second[second["gpu.sm.count"] != 100].reset_index(drop=True)
    columns = [c for c in first.columns if c != "workload"]
    assert same[columns].equals(first[columns])
    sweep(
        document(fidelity="tile", parameters={"gpu.sm.count": [100], "dram.bandwidth": ["2 TB/s", "4 TB/s", "8 TB/s"]}),
        tmp_path / "3",
        use_cache=False,
    )
    assert len(played) == 2 * fresh > 0, "of nine designs only the three new ones were played"


@pytest.mark.slow
def test_analytic_ranks_designs_as_tile_does(tmp_path: Path) -> None:
    """Spearman's correlation over a random sample of designs, for each phase."""
    from scipy.stats import spearmanr

    random = {
        "gpu.sm.count": [60, 200],
        "gpu.clock.boost": [1.0e9, 2.2e9],
        "gpu.l2.size": [20e6, 120e6],
        "dram.bandwidth": [1e12, 8e12],
        "gpu.sm.tensor.bf16": [1024, 8192],
    }
    text = document(
        workloads=[{"graph": PREFILL}, {"graph": DECODE}],
        parameters={path: {"random": {"low": low, "high": high}} for path, (low, high) in random.items()},
        samples=150,
    )
    fast, slow = (sweep(text | {"fidelity": f}, tmp_path / f).to_frame(["phase", "time_s"]) for f in ("analytic", "tile"))
    for phase in ("prefill", "decode"):
        chosen = fast["phase"] == phase
        assert spearmanr(fast["time_s"][chosen], slow["time_s"][chosen]).statistic >= 0.95, phase


def test_the_study_of_the_docs() -> None:
    path = Path(__file__).parents[2] / "docs" / "studies" / "llama-3-8b.yaml"
    if not path.exists():
        pytest.skip("reads the checkout's docs; this is not one")
    from presilicon.explore.expand import design_points

    assert design_points(load_study(path)).size == 200_000


def test_kinds_of_systems_share_columns_and_words_are_plain_strings(tmp_path: Path) -> None:
    names = ["h100-sxm", "gemmini-16", "duplex"]
    found = sweep({"workloads": [{"graph": DECODE}], "systems": names}, tmp_path / "out")
    frame = found.to_frame()
    assert frame["error"].isna().all(), frame["error"].tolist()
    assert not any(str(kind) == "category" for kind in frame.dtypes)
    assert list(frame["system"]) == names
    assert str(found.to_frame(["system"], categories=True)["system"].dtype) == "category"
    for name in ("area_mm2", "power_w", "cost_usd"):
        assert (frame[name] > 0).all()
        np.testing.assert_allclose(frame[name], frame[f"{name}_per_device"] * frame["devices"])
    assert frame["devices"].tolist() == [1, 1, 4]
    assert frame["low_s"].isna().tolist() == [False, True, True]  # no calibration, no interval


def test_totals_are_those_of_every_device(tmp_path: Path) -> None:
    frame = sweep({"workloads": [{"graph": DECODE, "tp": [1, 4]}], "systems": ["h100-sxm"]}, tmp_path / "out").to_frame().set_index("tp")
    assert frame["devices"].tolist() == [1, 4]
    assert frame.loc[4, "area_mm2"] == pytest.approx(4 * frame.loc[1, "area_mm2"])
    assert frame.loc[4, "cost_usd_per_device"] == pytest.approx(frame.loc[1, "cost_usd"])


def test_a_hybrid_s_inner_gpu_is_part_of_its_identity() -> None:
    from dataclasses import replace

    from presilicon.explore.expand import system_identity

    system = arch.load("h100-aim")
    changed = system.override({"xpu.dram.bandwidth": 4e12})
    assert system_identity(system) != system_identity(replace(system, xpu=changed.xpu))  # type: ignore[type-var, attr-defined]
    assert system_identity(system) == system_identity(arch.load("h100-aim"))
