"""The report: its numbers add up, its pictures and timelines can be opened, and what is unknown or does not fit is said."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

import presilicon as ps
from presilicon import perfetto, plots
from presilicon.errors import OutputError
from presilicon.workloads.graph import Memory, Uncovered

GRAPH = ps.load_graph(Path(__file__).parent / "data" / "mlp.graph.json")
L4 = ps.load_system("l4")


def _graph(**changes: Any) -> ps.OpGraph:
    """The small graph with some of its arguments changed."""
    edges = [(u, v, d["tensor"]) for u, v, d in GRAPH.nx.edges(data=True)]
    kept = {"memory": GRAPH.memory, "tokens": GRAPH.tokens, "uncovered": GRAPH.uncovered, "meta": GRAPH.meta}
    name, ops = changes.pop("name", GRAPH.name), changes.pop("ops", GRAPH.ops)
    return ps.OpGraph(name, ops, edges, **(kept | changes))


def _repeated(count: int) -> ps.OpGraph:
    return _graph(ops=[replace(op, count=count) for op in GRAPH.ops])


@pytest.fixture(scope="module", params=["eager", "cudagraph", "compiled"])
def report(request: pytest.FixtureRequest) -> ps.Report:
    return ps.simulate(_repeated(3), L4, runtime=request.param)


def test_the_frame_has_a_row_for_each_op(report: ps.Report) -> None:
    frame = report.to_frame()
    assert list(frame.columns) == [
        "op",
        "module",
        "kind",
        "family",
        "shape",
        "count",
        "time_s",
        "low_s",
        "high_s",
        "total_s",
        "share",
        "limiter",
        "flops",
        "tflops_per_s",
        "bytes",
        "dram_bytes",
        "gb_per_s",
        "clock_hz",
        "energy_j",
        "source",
        "place",
        "reason",
    ]
    assert len(frame) == len(report.simulation.results)
    assert set(frame["count"]) == {3}
    assert frame["share"].sum() == pytest.approx(1.0)
    assert (frame["low_s"] <= frame["time_s"]).all()
    assert (frame["time_s"] <= frame["high_s"]).all()
    assert (frame["flops"] * frame["count"]).sum() == pytest.approx(_repeated(3).flops)
    if report.simulation.runtime == "compiled":  # there "up" carries its activation as epilogue
        return
    up = frame[frame["op"] == "up"].iloc[0]
    assert (up["kind"], up["family"], up["shape"]) == ("matmul", "gemm", "b=1 k=1024 m=512 n=4096")
    assert up["flops"] == 2 * 512 * 4096 * 1024
    assert up["bytes"] == 2 * (512 * 1024 + 1024 * 4096 + 512 * 4096)
    assert up["tflops_per_s"] == pytest.approx(up["flops"] / up["time_s"] / 1e12)
    assert up["gb_per_s"] == pytest.approx(up["dram_bytes"] / up["time_s"] / 1e9)


def test_times_add_up(report: ps.Report) -> None:
    s = report.simulation
    kernels = sum(r.estimate.time_s * r.op.count for r in s.results)
    assert s.device_busy_s == pytest.approx(kernels)
    assert s.total.time_s == pytest.approx(kernels)
    assert sum(report.bottlenecks().values()) == pytest.approx(report.time_s)
    assert report.by_kind()["time_s"].sum() == pytest.approx(kernels)
    low, high = report.interval_s
    assert low <= report.time_s <= high
    assert report.tokens_per_s == pytest.approx(512 / report.time_s)


def test_energy_adds_up(report: ps.Report) -> None:
    s = report.simulation
    idle_gap = max(0.0, report.time_s - s.device_busy_s) * L4.power.idle_w
    assert sum(report.energy_j.values()) == pytest.approx(report.to_frame()["energy_j"].sum() + idle_gap)
    assert report.headline()["energy_j"] == pytest.approx(sum(report.energy_j.values()))
    assert report.energy_j["static"] == pytest.approx(L4.power.idle_w * max(report.time_s, s.device_busy_s))
    mean_w = sum(report.energy_j.values()) / report.time_s
    assert L4.power.idle_w <= mean_w <= 1.05 * L4.power.limit_w


def test_the_timeline_is_chrome_trace_events(report: ps.Report, tmp_path: Path) -> None:
    path = report.to_perfetto(tmp_path / "t.json")
    events = json.loads(path.read_text())["traceEvents"]
    lanes = {e["tid"]: e["args"]["name"] for e in events if e["name"] == "thread_name"}
    assert set(lanes.values()) == {"host", "gpu"}
    bars = [e for e in events if e["ph"] == "X"]
    assert all(e["ts"] >= 0 and e["dur"] >= 0 and e["tid"] in lanes for e in bars)
    for lane in lanes:
        ordered = sorted((e["ts"], e["ts"] + e["dur"]) for e in bars if e["tid"] == lane)
        assert all(end <= start + 1e-6 for (_, end), (start, _) in pairwise(ordered)), "one at a time"
    kernels = [e for e in bars if lanes[e["tid"]] == "gpu"]
    assert len(kernels) == sum(r.op.count for r in report.simulation.results)
    assert sum(e["dur"] for e in kernels) == pytest.approx(report.simulation.device_busy_s * 1e6)
    assert max(e["ts"] + e["dur"] for e in bars) == pytest.approx(report.time_s * 1e6)
    assert {"module", "kind", "limiter", "flops"} <= set(kernels[0]["args"])


@pytest.mark.slow
def test_pictures_render(report: ps.Report) -> None:
    for figure in (report.roofline(), report.timeline(), report.timeline(max_spans=3)):
        picture = plots.svg(figure)
        assert picture.startswith(b"<?xml")
        assert b"</svg>" in picture
    assert b"mlp" in plots.svg(report.roofline())


def test_same_input_same_bytes(tmp_path: Path) -> None:
    def outputs() -> list[bytes]:
        report = ps.simulate(_repeated(2), L4, runtime="eager")
        return [
            report.to_frame().to_csv().encode(),
            json.dumps(report.headline()).encode(),
            json.dumps(perfetto.events(report.simulation)).encode(),
            plots.svg(report.roofline()),
            plots.svg(report.timeline()),
            report.summary().encode(),
            report._repr_html_().encode(),
        ]

    assert outputs() == outputs()


def test_the_summary_says_what_matters(report: ps.Report) -> None:
    text = report.summary()
    for part in (
        "mlp  prefill  batch 1, seq 512, dtype bfloat16",
        "NVIDIA L4 (l4), tile",
        "90 % interval",
        "tokens/s",
        "limited by",
        "fits",
        "kernels have a formula",
        "0 of ",
        "calibrated on this GPU",
        "Share by kind",
        "Most expensive of ",
    ):
        assert part in text
    assert report.limited_by in text
    assert repr(report).startswith("Report(mlp on l4: ")


def test_html_escapes_names() -> None:
    ops = [replace(op, module="<script>alert(1)</script>", name=op.name) for op in GRAPH.ops]
    graph = _graph(name="<b>&mlp", ops=ops, uncovered=[Uncovered("<i>op", 1, 0.0, "")])
    page = ps.simulate(graph, L4)._repr_html_()
    assert "&lt;b&gt;&amp;mlp" in page
    assert "&lt;i&gt;op" in page
    for raw in ("<b>", "<i>", "<script>"):
        assert raw not in page


def test_names_are_not_terminal_markup() -> None:
    graph = _graph(name="[red]mlp[/red]", ops=[replace(op, module="[bold]x[/bold]") for op in GRAPH.ops])
    text = ps.simulate(graph, L4).summary()
    assert "[red]mlp[/red]" in text
    assert "[bold]x[/bold]" in text


def test_uncovered_ops_are_shown_everywhere() -> None:
    report = ps.simulate(
        _graph(uncovered=[Uncovered("aten.mystery.default", 7, 1e6, "model.x"), Uncovered("aten.riddle.default", 2, 0.0)]), L4
    )
    assert report.uncovered[0] == {"target": "aten.mystery.default", "count": 7, "bytes_touched": 1e6, "example": "model.x"}
    expected = "9 ops without a formula: aten.mystery.default x7, aten.riddle.default x2"
    for text in (report.summary(), report._repr_html_()):
        assert "UNCOVERED" in text
        assert expected in text
    assert report.headline()["uncovered_ops"] == 9
    assert "UNCOVERED" not in ps.simulate(GRAPH, L4).summary()


def test_what_does_not_fit_is_said_and_still_timed() -> None:
    capacity = L4.dram.size_bytes
    report = ps.simulate(_graph(memory=Memory(weights_bytes=capacity, kv_cache_bytes=2e9)), L4)
    memory = report.simulation.memory
    assert not memory.fits
    assert memory.missing_bytes == 2e9
    assert "DOES NOT FIT: 2 GB too much" in report.summary()
    assert "DOES NOT FIT: 2 GB too much" in report._repr_html_()
    assert not report.headline()["fits"]
    assert report.time_s == ps.simulate(GRAPH, L4).time_s
    exact = ps.simulate(_graph(memory=Memory(weights_bytes=capacity)), L4)
    assert exact.simulation.memory.fits
    assert exact.simulation.memory.missing_bytes == 0.0


def test_the_report_says_when_the_host_is_the_limit() -> None:
    slow_host = L4.override({"host.dispatch": "1 ms"})
    eager, captured = (ps.simulate(GRAPH, slow_host, runtime=runtime) for runtime in ("eager", "cudagraph"))
    assert eager.limited_by == "host"
    assert eager.time_s >= 5e-3, "five operators"
    assert "host        5." in eager.summary()
    assert "device busy " in eager.summary()
    assert eager.bottlenecks()["host"] == pytest.approx(eager.time_s - eager.simulation.device_busy_s)
    assert captured.limited_by != "host"
    assert captured.time_s < 0.2 * eager.time_s


def test_compare() -> None:
    reports = [ps.simulate(GRAPH, name) for name in ("l4", "a100-sxm-80gb", "h100-sxm")]
    frame = ps.compare(reports)
    assert frame["system"].tolist() == ["l4", "a100-sxm-80gb", "h100-sxm"]
    assert frame["speedup"].tolist() == pytest.approx([reports[0].time_s / r.time_s for r in reports])
    assert frame["speedup"].iloc[0] == 1.0
    assert frame["speedup"].is_monotonic_increasing
    assert ps.compare([]).empty


def test_calibration_and_assumptions_are_named() -> None:
    report = ps.simulate(GRAPH, L4)
    assert set(report.calibration) == {"gemm.bf16", "memory"}
    assert all(text.startswith("not calibrated on this GPU; ") for text in report.calibration.values())
    assert report.assumed == L4.assumed()
    assert "calibration.gemm.launch" in report.assumed


def test_a_timeline_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="cannot be written"):
        ps.simulate(GRAPH, L4).to_perfetto(tmp_path)
    assert list(tmp_path.iterdir()) == []
