"""The names that people import: what they take, what they refuse, and that importing them is cheap."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import presilicon as ps
from presilicon.errors import PresiliconError, UncoveredOpError, UnknownNameError
from presilicon.workloads.graph import Uncovered

PATH = Path(__file__).parent / "data" / "mlp.graph.json"
GRAPH = ps.load_graph(PATH)


def test_every_public_name_loads() -> None:
    assert set(ps.__all__) <= set(dir(ps))
    for name in ps.__all__:
        assert getattr(ps, name) is not None
    with pytest.raises(AttributeError, match="has no attribute 'simulat'"):
        ps.simulat  # noqa: B018


def test_systems_by_name_by_path_and_as_they_are(tmp_path: Path) -> None:
    from presilicon.arch import save

    system = ps.load_system("l4")
    path = save(system, tmp_path / "mine.yaml")
    times = {ps.simulate(GRAPH, given).time_s for given in ("l4", system, path, str(path))}
    assert len(times) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"system": "h100"}, "unknown system 'h100'; did you mean 'h100-aim' or 'h100-nvl' or 'h100-pcie'"),
        ({"fidelity": "tiles"}, "unknown fidelity 'tiles'; did you mean 'tile'"),
        ({"runtime": "eagre"}, "unknown runtime 'eagre'; did you mean 'eager'"),
    ],
)
def test_unknown_names(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UnknownNameError, match=re.escape(message)):
        ps.simulate(GRAPH, **({"system": "l4"} | options))


def test_what_is_no_graph() -> None:
    with pytest.raises(PresiliconError, match="expected an OpGraph, found dict"):
        ps.simulate({}, "l4")  # type: ignore[arg-type]


def test_strict_refuses_ops_without_a_formula() -> None:
    edges = [(u, v, d["tensor"]) for u, v, d in GRAPH.nx.edges(data=True)]
    graph = ps.OpGraph("mlp", GRAPH.ops, edges, uncovered=[Uncovered("aten.mystery.default", 1, 0.0)])
    with pytest.raises(UncoveredOpError, match=r"ops without a formula: aten\.mystery\.default"):
        ps.simulate(graph, "l4", strict=True)
    assert ps.simulate(graph, "l4").time_s > 0
    assert ps.simulate(GRAPH, "l4", strict=True).time_s > 0


def test_a_graph_without_ops() -> None:
    report = ps.simulate(ps.OpGraph("nothing", []), "l4", runtime="eager")
    assert report.time_s == 0.0
    assert report.to_frame().empty
    assert report.by_kind().empty
    assert "nothing" in report.summary()
    assert report.limited_by == ""


def test_repeats_cost_what_they_cost_once() -> None:
    edges = [(u, v, d["tensor"]) for u, v, d in GRAPH.nx.edges(data=True)]
    many = ps.OpGraph("mlp", [replace(op, count=10) for op in GRAPH.ops], edges)
    one, ten = (ps.simulate(graph, "l4").simulation for graph in (GRAPH, many))
    assert ten.device_busy_s == pytest.approx(10 * one.device_busy_s)
    assert len(ten.results) == len(one.results)
    names = [span.name for span in ten.spans if span.lane == "gpu"]
    assert names == names[:5] * 10, "the block repeats; its ops do not run ten times each in a row"


def test_runtimes_are_ordered() -> None:
    eager, captured, compiled = (ps.simulate(GRAPH, "h100-sxm", runtime=runtime).time_s for runtime in ("eager", "cudagraph", "compiled"))
    assert compiled <= captured <= eager


def test_fidelities_agree() -> None:
    analytic, tile = (ps.simulate(GRAPH, "a100-sxm-80gb", fidelity=fidelity).time_s for fidelity in ("analytic", "tile"))
    assert tile == pytest.approx(analytic, rel=0.25)


def test_tracing_a_module() -> None:
    torch = pytest.importorskip("torch")
    with torch.device("meta"):
        module = torch.nn.Linear(256, 512)
        graph = ps.trace(module, torch.empty(64, 256))
    assert graph.flops == pytest.approx(2 * 64 * 256 * 512, rel=0.01)
    assert ps.simulate(graph, "t4").time_s > 0


def _loaded(code: str) -> set[str]:
    done = subprocess.run([sys.executable, "-c", f"import sys\n{code}\nprint(*sys.modules)"], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_importing_loads_nothing_heavy() -> None:
    heavy = {"torch", "transformers", "pandas", "matplotlib", "scipy", "numba", "numpy", "networkx", "pyarrow"}
    assert not _loaded("import presilicon, presilicon.cli") & heavy
    assert not _loaded("import presilicon as ps; ps.load_system('l4')") & (heavy - {"numpy"})
    assert not _loaded(f"import presilicon as ps; ps.simulate(ps.load_graph({str(PATH)!r}), 'l4').time_s") & {
        "torch",
        "transformers",
        "pandas",
        "matplotlib",
        "scipy",
    }


GEMMS = {"m": [1, 64, 4096], "n": [4096, 4096, 4096], "k": [4096, 4096, 4096], "gemm_dtype": ["bfloat16"] * 3}


def test_tables_in_memory_and_on_disk_are_predicted_alike(tmp_path: Path) -> None:
    import pandas as pd

    frame = pd.DataFrame(GEMMS, index=[7, 8, 9])
    frame.to_csv(tmp_path / "gemm.csv", index=False)
    found = ps.predict_table(frame, "a100-sxm-80gb")
    assert list(found.index) == [7, 8, 9]
    assert list(found["limiter"]) == ["dram", "dram", "tensor"]
    assert (found["low_s"] <= found["predicted_s"]).all()
    assert (found["predicted_s"] <= found["high_s"]).all()
    from_file = ps.predict_table(str(tmp_path / "gemm.csv"), "a100-sxm-80gb")
    assert list(found["predicted_s"]) == list(from_file["predicted_s"])
    assert list(frame.columns) == list(GEMMS)


def test_bad_tables_in_memory() -> None:
    import pandas as pd

    with pytest.raises(PresiliconError, match="table, line 1, column 'm'"):
        ps.predict_table(pd.DataFrame({**GEMMS, "m": [1, -4, 2]}), "l4")
    with pytest.raises(PresiliconError, match=r"found one table; write \[table\]"):
        ps.calibrate(pd.DataFrame(GEMMS), "l4")  # type: ignore[arg-type]
    with pytest.raises(PresiliconError, match="'latency_s'"):
        ps.calibrate([pd.DataFrame(GEMMS)], "l4")
    with pytest.raises(PresiliconError, match="expected a GPU"):
        ps.predict_table(pd.DataFrame(GEMMS), "tpu-v1")


def test_calibration_from_python_finds_a_constant_that_was_hidden() -> None:
    import pandas as pd

    base = ps.load_system("h100-sxm")
    hidden = base.override({"calibration.gemm.dram_fraction": 0.7})
    rows = [(m, n, k, "bfloat16") for n in (2048, 4096, 8192) for k in (4096, 8192) for m in (1, 16, 256, 4096)]
    frame = pd.DataFrame(rows, columns=list(GEMMS))
    frame["latency_s"] = ps.predict_table(frame, hidden)["predicted_s"]
    found = ps.calibrate([frame], base, source="made up")
    assert found.system.calibration["gemm.dram_fraction"] == pytest.approx(0.7, rel=0.02)
    errors = found.to_frame().set_index("group")["mape"]
    assert errors["table held out"] < 0.02 < errors["table before"]
    assert "made up" in found.system.provenance["calibration.gemm.dram_fraction"].source
    assert repr(found).startswith("CalibrationSummary(h100-sxm: ")


@pytest.mark.slow
def test_figures_show_themselves_in_a_notebook() -> None:
    report = ps.simulate(GRAPH, "l4")
    for figure in (report.roofline(), report.timeline(), ps.plot(report.to_frame(), "flops", "time_s")):
        assert figure._repr_svg_().startswith("<?xml")  # type: ignore[attr-defined]
    assert ps.map("matmul m=16 n=16 k=16 int8").picture()._repr_svg_().count("<svg") == 1  # type: ignore[attr-defined]


def test_kinds_of_ops_have_one_colour_in_every_picture() -> None:
    from presilicon.plots import kind_colours

    assert kind_colours(["matmul", "norm"])["matmul"] == kind_colours(["attention", "conv", "matmul"])["matmul"]
    eight = kind_colours(["matmul", "attention", "elementwise", "reduce", "conv", "copy", "norm", "softmax"])
    assert len(set(eight.values())) == 8


def test_predict_traces_changes_and_simulates() -> None:
    """A saved graph, quantised and split, as the steps one by one give it."""
    llama_decode = PATH.with_name("llama-3-8b.decode.graph.json.gz")
    found = ps.predict(llama_decode, "h100-sxm", quant="fp8", tp=2, fidelity="analytic")
    graph = ps.parallelise(ps.quantise(ps.load_graph(llama_decode), "fp8"), tp=2)
    assert found.headline() == ps.simulate(graph, "h100-sxm", fidelity="analytic").headline()
    for options, text in (
        ({"requests": "sharegpt"}, "phase='decode'"),
        ({"requests": "sharegpt", "phase": "decode"}, "a saved graph has the batch that it was traced with"),
        ({"microbatches": 2}, "give pp"),
    ):
        with pytest.raises(PresiliconError, match=text):
            ps.predict(llama_decode, "h100-sxm", **options)  # type: ignore[arg-type]


def test_a_batch_of_none_is_no_default() -> None:
    with pytest.raises(PresiliconError, match="batch must be a positive whole number, not 0"):
        ps.predict("gpt2", "l4", phase="decode", batch=0, fidelity="analytic")


@pytest.mark.slow
def test_predict_takes_requests_of_different_lengths() -> None:
    from presilicon.predicting import drawn

    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    assert drawn([100, 300], None)[0].contexts.tolist() == [100, 300]
    with pytest.raises(PresiliconError, match="2 contexts are given, and a batch of 3"):
        drawn([100, 300], 3)
    short, long = (ps.predict("gpt2", "l4", phase="decode", requests=r, fidelity="analytic") for r in ([100, 100], [100, 900]))
    assert long.time_s > short.time_s
    assert long.simulation.graph.meta["requests"] == "2 contexts as given"


@pytest.mark.parametrize("name", ["h100-sxm", "tpu-v1", "neupims"])
def test_systems_show_themselves_in_one_line(name: str) -> None:
    system = ps.load_system(name)
    assert name in repr(system)
    assert len(repr(system)) < 200
    assert "overridden" not in repr(system)
    path = next(path for path, value, unit in system.numbers() if unit == "B/s")
    changed = system.override({path: 1e12})
    assert "1 number overridden" in repr(changed)
    assert repr(changed).split(":")[0].replace("(", " (") in changed._repr_html_().replace("(", " (")
    assert "<script>" not in changed._repr_html_()


def test_systems_without_a_calibration_have_no_interval() -> None:
    import math

    report = ps.simulate(GRAPH, "gemmini-16", fidelity="analytic")
    assert all(map(math.isnan, (*report.interval_s, report.headline()["low_s"], report.headline()["high_s"])))
    assert report.to_frame()[["low_s", "high_s"]].isna().all().all()
    assert "90 % interval" not in report.summary()
    assert "[" not in repr(report)
    low, high = ps.simulate(GRAPH, "h100-sxm", fidelity="analytic").interval_s
    assert low < high
