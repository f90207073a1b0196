"""Sensitivities: against single simulations, against closed forms, and what has no effect."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

import presilicon as ps
from presilicon.arch import load
from presilicon.errors import PresiliconError, UnknownNameError
from presilicon.explore.sensitivity import sensitivity
from presilicon.sim.run import simulate
from presilicon.workloads.graph import OpGraph

DATA = Path(__file__).parents[1] / "data"


@pytest.fixture(scope="module")
def decode() -> OpGraph:
    return OpGraph.load(DATA / "llama-3-8b.decode.graph.json.gz")


def test_derivative_equals_two_simulations(decode: OpGraph) -> None:
    system = load("h100-sxm")
    found = sensitivity(decode, system, paths=["dram.bandwidth"]).iloc[0]
    up, down = (simulate(decode, system.override({"dram.bandwidth": system.dram.bandwidth_bytes_per_s * f}), fidelity="analytic").time_s
                for f in (1.01, 0.99))
    assert found["sensitivity"] == pytest.approx(math.log(up / down) / math.log(1.01 / 0.99), rel=1e-6)
    more = simulate(decode, system.override({"dram.bandwidth": system.dram.bandwidth_bytes_per_s * 1.1}), fidelity="analytic").time_s
    base = simulate(decode, system, fidelity="analytic").time_s
    assert found["more"] == pytest.approx(more / base - 1, rel=1e-6)


def test_memory_bandwidth_rules_decode_and_unused_numbers_have_no_effect(decode: OpGraph) -> None:
    frame = sensitivity(decode, "h100-sxm")
    assert frame["path"].iloc[0] == "dram.bandwidth"
    assert -1.0 <= frame["sensitivity"].iloc[0] < -0.3
    still = set(frame.loc[frame["effect"] == "no effect", "path"])
    assert {"gpu.sm.tensor.fp8", "link.bandwidth", "dram.size", "host.launch"} <= still
    assert (frame.loc[frame["effect"] == "no effect", "sensitivity"] == 0).all()
    assert not frame["path"].str.startswith("calibration.").any()
    strength = frame[["more", "less"]].abs().max(axis=1).to_numpy()
    assert (np.diff(strength[np.isfinite(strength)]) <= 0).all()


def test_calibration_constants_and_sources(decode: OpGraph) -> None:
    frame = sensitivity(decode, "h100-sxm", calibration=True).set_index("path")
    assert frame.loc["calibration.gemm.dram_fraction", "sensitivity"] < -0.1
    assert frame.loc["gpu.sm.count", "status"] == "sourced"
    assert "white paper" in frame.loc["gpu.sm.count", "source"]


def test_area_does_not_depend_on_the_clock_and_is_linear_in_its_parts(decode: OpGraph) -> None:
    frame = sensitivity(decode, "h100-sxm", objective="area").set_index("path")
    assert frame.loc["gpu.clock.boost", "effect"] == "no effect"
    shares = frame.loc[["gpu.sm.count", "gpu.l2.size", "dram.bandwidth", "link.bandwidth"], "sensitivity"]
    assert (shares > 0).all()
    assert shares.sum() < 1.0
    assert shares["gpu.sm.count"] > 0.6


def test_a_jump_is_called_a_step_and_counts_move_by_whole_numbers(decode: OpGraph) -> None:
    frame = sensitivity(decode, "h100-sxm", paths=["link.max_devices", "gpu.sm.registers"]).set_index("path")
    assert frame.loc["gpu.sm.registers", "effect"] == "step"
    assert np.isfinite(frame.loc["link.max_devices", "more"])


def test_a_number_that_is_zero_cannot_be_moved(decode: OpGraph) -> None:
    system = load("h100-sxm").override({"link.latency": 0.0})
    row = sensitivity(decode, system, paths=["link.latency"]).iloc[0]
    assert row["effect"] == "cannot be moved"
    assert math.isnan(row["sensitivity"])


def test_wrong_names(decode: OpGraph) -> None:
    with pytest.raises(UnknownNameError, match=r"'dram\.bandwidth'"):
        sensitivity(decode, "h100-sxm", paths=["dram.bandwith"])
    with pytest.raises(UnknownNameError, match="objective"):
        sensitivity(decode, "h100-sxm", objective="speed")
    with pytest.raises(UnknownNameError, match="system"):
        sensitivity(decode, "h1000")


def test_public_name(decode: OpGraph) -> None:
    assert ps.sensitivity is sensitivity
    assert len(ps.sensitivity(decode, "a100-sxm-80gb", paths=["dram.bandwidth"])) == 1


@pytest.mark.slow
def test_knobs_redraw_when_turned(decode: OpGraph) -> None:
    pytest.importorskip("ipywidgets")
    found = ps.knobs(decode, "h100-sxm")
    before, picture, time_s = found.headline.value, found.picture.value, found.report.time_s
    found.sliders["dram.bandwidth"].value = 1.0
    assert found.values()["dram.bandwidth"] == pytest.approx(2 * 3352e9)
    expected = simulate(decode, load("h100-sxm").override({"dram.bandwidth": 2 * 3352e9}), fidelity="analytic").time_s
    assert found.report.time_s == pytest.approx(expected)
    assert found.report.time_s < time_s
    assert found.headline.value != before
    assert found.picture.value != picture
    assert "<svg" in found.picture.value
    found.reset()
    assert found.headline.value == before
    assert found.picture.value == picture


@pytest.mark.slow
def test_knobs_of_a_hybrid_turn_the_gpu_inside(decode: OpGraph) -> None:
    pytest.importorskip("ipywidgets")
    found = ps.knobs(decode, "h100-aim")
    assert {"xpu.gpu.clock.boost", "xpu.dram.bandwidth"} <= set(found.sliders)
    found.sliders["xpu.gpu.clock.boost"].value = -2.0
    assert (found.error, found.report.time_s > found.base.time_s) == ("", True)


@pytest.mark.slow
def test_knobs_say_why_a_design_cannot_be(decode: OpGraph) -> None:
    pytest.importorskip("ipywidgets")
    found = ps.knobs(decode, "h100-sxm", ["power.limit", "gpu.sm.count"])
    found.sliders["power.limit"].value = 3.0
    assert found.error == ""
    found = ps.knobs(decode, "l4", ["power.limit"])
    found.sliders["power.limit"].value = -3.0
    assert "power.idle" in found.error
    assert "power.idle" in found.headline.value
    with pytest.raises(UnknownNameError, match="path"):
        ps.knobs(decode, "h100-sxm", ["dram.bandwith"])


def test_knobs_without_ipywidgets(decode: OpGraph, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "ipywidgets", None)
    with pytest.raises(PresiliconError, match=r"presilicon\[notebook\]"):
        ps.knobs(decode, "h100-sxm")


def test_report_compare(decode: OpGraph) -> None:
    slow, fast = (ps.simulate(decode, name, fidelity="analytic") for name in ("l4", "h100-sxm"))
    frame = slow.compare(fast)
    assert frame["system"].tolist() == ["l4", "h100-sxm"]
    assert frame["speedup"].iloc[1] == pytest.approx(slow.time_s / fast.time_s)


@pytest.mark.slow
def test_counts_move_to_the_next_whole_number_and_say_so(decode: OpGraph) -> None:
    """A tenth of two stacks is no stack: three and one are tried, and stand in the table."""
    system = load("neupims").override({"pim.count": 2})
    frame = sensitivity(decode, system, paths=["pim.count", "xpu.npu.bandwidth", "xpu.npu.arrays"], use_cache=False).set_index("path")
    assert (frame.loc["pim.count", "more_at"], frame.loc["pim.count", "less_at"]) == (3.0, 1.0)
    assert (frame.loc["xpu.npu.arrays", "more_at"], frame.loc["xpu.npu.arrays", "less_at"]) == (9.0, 7.0)
    base = simulate(decode, system, fidelity="analytic").time_s
    for column, count in (("more", 3), ("less", 1)):
        moved = simulate(decode, system.override({"pim.count": count}), fidelity="analytic").time_s
        assert frame.loc["pim.count", column] == pytest.approx(moved / base - 1)
    assert frame.loc["xpu.npu.bandwidth", "more_at"] == pytest.approx(1.1 * 1.024e12)


@pytest.mark.slow
def test_numbers_of_the_gpu_inside_a_hybrid_move_it(decode: OpGraph) -> None:
    paths = ["xpu.dram.bandwidth", "xpu.gpu.sm.count"]
    frame = sensitivity(decode, "h100-aim", paths=paths, use_cache=False).set_index("path")
    assert frame.loc["xpu.dram.bandwidth", "sensitivity"] < -0.1
    assert frame.loc["xpu.dram.bandwidth", "status"] == "sourced"
    assert frame.loc["xpu.gpu.sm.count", "more_at"] == 146.0


@pytest.mark.slow
def test_an_npu_s_silicon_moves_its_area(decode: OpGraph) -> None:
    frame = sensitivity(OpGraph.load(DATA / "mlp.graph.json"), "gemmini-16", objective="area", use_cache=False,
                        paths=["matrix.rows", "memories.scratchpad.size", "dram.bandwidth", "clock"]).set_index("path")  # fmt: skip
    assert (frame.loc[["matrix.rows", "memories.scratchpad.size", "dram.bandwidth"], "sensitivity"] > 0).all()
    assert frame.loc["clock", "effect"] == "no effect"
