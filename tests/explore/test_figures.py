"""Pictures of results: what they show, that they are the same bytes each time, and what they refuse."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from presilicon.errors import OutputError, PresiliconError, UnknownNameError
from presilicon.explore import figures
from presilicon.explore.columns import unit_of
from presilicon.plots import svg


@pytest.fixture
def frame() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    n = 60
    bandwidth = np.geomspace(1e11, 8e12, n)
    return pd.DataFrame({
        "dram.bandwidth": bandwidth, "gpu.sm.count": rng.integers(20, 200, n).astype(float), "system": np.where(np.arange(n) % 2, "a", "b"),
        "time_s": 1e10 / bandwidth, "tokens_per_s": bandwidth / 1e9, "area_mm2": 100 + bandwidth / 1e10, "energy_j": rng.random(n) + 1,
        "feasible": np.arange(n) < 50, "share.dram": 0.75, "share.host": 0.25, "share.sfu": 0.0, "error": None,
    })


def test_plot_draws_a_colour_for_each_word_and_log_axes_where_the_range_asks(frame: pd.DataFrame) -> None:
    axes = figures.plot(frame, "dram.bandwidth", "tokens_per_s", color="system").axes[0]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["a", "b"]
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")
    assert len({line.get_color() for line in axes.lines}) == 2
    x = np.concatenate([line.get_xdata() for line in axes.lines])
    assert sorted(x) == pytest.approx(sorted(frame["dram.bandwidth"]))
    assert figures.plot(frame, "gpu.sm.count", "energy_j").axes[0].get_xscale() == "linear"


def test_ticks_carry_si_units(frame: pd.DataFrame) -> None:
    figure = figures.plot(frame, "dram.bandwidth", "area_mm2")
    figure.canvas.draw()
    axes = figure.axes[0]
    assert any(label.get_text().endswith("TB/s") for label in axes.get_xticklabels())
    assert axes.get_ylabel() == "area (mm²)"


def test_a_number_of_many_values_is_a_scale(frame: pd.DataFrame) -> None:
    figure = figures.plot(frame, "dram.bandwidth", "time_s", color="gpu.sm.count")
    assert len(figure.axes) == 2


def test_rows_that_failed_are_left_out(frame: pd.DataFrame) -> None:
    frame.loc[0, "error"] = "broken"
    axes = figures.plot(frame, "dram.bandwidth", "time_s").axes[0]
    assert len(axes.lines[0].get_xdata()) == len(frame) - 1


def test_unknown_column_offers_the_nearest(frame: pd.DataFrame) -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'tokens_per_s'"):
        figures.plot(frame, "dram.bandwidth", "token_per_s")
    with pytest.raises(PresiliconError, match="holds words"):
        figures.plot(frame, "system", "time_s")
    with pytest.raises(PresiliconError, match="no row"):
        figures.plot(frame.iloc[:0], "dram.bandwidth", "time_s")


@pytest.mark.parametrize("objectives", [("latency", "area"), ("latency", "area", "energy"), ("throughput", "area")])
def test_front_names_its_points(frame: pd.DataFrame, objectives: tuple[str, ...]) -> None:
    from presilicon.explore.pareto import pareto_front

    text = svg(figures.front_figure(frame, objectives)).decode()
    count = len(pareto_front(frame, objectives))
    assert count > 1
    assert sum(f'id="front-{i}"' in text for i in range(count + 5)) == count


@pytest.mark.slow
def test_every_picture_has_the_same_bytes_each_time(frame: pd.DataFrame) -> None:
    tornado = pd.DataFrame({"path": ["a", "b", "c"], "more": [-0.05, 0.01, 0.0], "less": [0.06, -0.01, 0.0]})
    drawers = [
        lambda: figures.plot(frame, "dram.bandwidth", "time_s", color="system"),
        lambda: figures.front_figure(frame, ("latency", "area")),
        lambda: figures.parallel_figure(frame, ["dram.bandwidth", "gpu.sm.count", "time_s"], color="time_s"),
        lambda: figures.bottleneck_figure(frame.head(3), ["a", "b", "c"]),
        lambda: figures.tornado_figure(tornado),
        lambda: figures.rank_figure(["a", "b"], [0.5, -0.2], xlabel="rank"),
        lambda: figures.parity_figure(frame["time_s"], frame["time_s"] * 1.1, xlabel="tile", ylabel="analytic"),
    ]
    for draw in drawers:
        assert svg(draw()) == svg(draw())


def test_tornado_leaves_out_what_does_not_move(frame: pd.DataFrame) -> None:
    rows = pd.DataFrame({"path": ["a", "b"], "more": [-0.05, 0.0], "less": [0.06, 0.0]})
    axes = figures.tornado_figure(rows).axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a"]
    assert sorted(bar.get_width() for bar in axes.patches) == pytest.approx([-5.0, 6.0])
    with pytest.raises(PresiliconError, match="no number has an effect"):
        figures.tornado_figure(rows.tail(1))


def test_bottlenecks_stack_to_one(frame: pd.DataFrame) -> None:
    figure = figures.bottleneck_figure(frame.head(2), ["x", "y"])
    assert sum(bar.get_width() for bar in figure.axes[0].patches) == pytest.approx(2.0)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["dram", "host"]
    figure.canvas.draw()
    assert figure.legends[0].get_window_extent().y0 >= 0  # the legend is within the picture


def test_parallel_coordinates_need_columns_that_vary(frame: pd.DataFrame) -> None:
    frame["constant"] = 1.0
    with pytest.raises(PresiliconError, match="two columns"):
        figures.parallel_figure(frame, ["dram.bandwidth", "constant"])
    lines, _ = figures.parallel_figure(frame, ["dram.bandwidth", "time_s"], color="system").axes[0].collections
    assert len(lines.get_paths()) == len(frame)


def test_designs_that_cannot_be_made_are_left_out(frame: pd.DataFrame) -> None:
    """Above the reticle a die costs infinitely much: no axis or colour scale reaches there."""
    frame["cost_usd"] = np.where(frame["area_mm2"] < 500, frame["area_mm2"], np.inf)
    made = int(np.isfinite(frame["cost_usd"]).sum())
    lines, _ = figures.parallel_figure(frame, ["dram.bandwidth", "time_s", "cost_usd"]).axes[0].collections
    assert 0 < len(lines.get_paths()) == made < len(frame)
    for drawn in (figures.plot(frame, "dram.bandwidth", "time_s", color="cost_usd"), figures.plot(frame, "dram.bandwidth", "cost_usd")):
        drawn.canvas.draw()
    assert sum(len(line.get_xdata()) for line in figures.plot(frame, "dram.bandwidth", "cost_usd").axes[0].lines) == made
    frame["cost_usd"] = np.inf
    with pytest.raises(PresiliconError, match="two columns"):
        figures.parallel_figure(frame, ["time_s", "cost_usd"])


def test_results_over_results_are_points_and_parameters_are_joined(frame: pd.DataFrame) -> None:
    assert figures.plot(frame, "dram.bandwidth", "time_s").axes[0].lines[0].get_linewidth() > 0
    assert figures.plot(frame, "area_mm2", "time_s").axes[0].lines[0].get_linewidth() == 0


def test_labels_under_an_axis_do_not_touch(frame: pd.DataFrame) -> None:
    frame["wide"] = frame["dram.bandwidth"] ** 2
    pictures = [figures.plot(frame, x, "time_s") for x in ("dram.bandwidth", "area_mm2", "wide")]
    energy = frame["energy_j"] / 1e3
    for drawn in (*pictures, figures.parity_figure(energy, energy, xlabel="x", ylabel="y")):
        drawn.canvas.draw()
        boxes = [label.get_window_extent() for label in drawn.axes[0].get_xticklabels() if label.get_text()]
        assert all(a.x1 < b.x0 for a, b in pairwise(boxes))


@pytest.mark.parametrize(
    ("column", "unit"),
    [("dma.bandwidth", "B/clk"), ("memories.cmem.size", "B"), ("xpu.npu.bandwidth", "B/s"), ("xpu.gpu.clock.boost", "Hz"),
     ("matrix.rows", ""), ("area_mm2_per_device", "mm²"), ("launch", "s"), ("dram.bandwidth", "B/s")],
)  # fmt: skip
def test_units_of_every_kind_of_system(column: str, unit: str) -> None:
    assert unit_of(column) == unit


@pytest.mark.parametrize(("ending", "start"), [("svg", b"<?xml"), ("pdf", b"%PDF"), ("png", b"\x89PNG")])
def test_files(tmp_path: Path, frame: pd.DataFrame, ending: str, start: bytes) -> None:
    paths = [figures.save(figures.plot(frame, "dram.bandwidth", "time_s"), tmp_path / f"{i}.{ending}") for i in range(2)]
    assert paths[0].read_bytes().startswith(start)
    assert paths[0].read_bytes() == paths[1].read_bytes()


def test_other_endings_are_refused(tmp_path: Path, frame: pd.DataFrame) -> None:
    with pytest.raises(OutputError, match="svg, pdf, png"):
        figures.save(figures.plot(frame, "dram.bandwidth", "time_s"), tmp_path / "a.jpg")
    assert list(tmp_path.iterdir()) == []


def test_rows_without_a_word_have_a_colour_of_their_own(frame: pd.DataFrame) -> None:
    frame["quant"] = np.where(np.arange(len(frame)) % 3 == 0, "w4a16", None)
    picture = figures.plot(frame, "time_s", "energy_j", color="quant")
    assert [text.get_text() for text in picture.axes[0].get_legend().get_texts()] == ["none", "w4a16"]
    assert sum(len(line.get_xdata()) for line in picture.axes[0].lines) == len(frame)


def test_numbers_in_a_legend_carry_units(frame: pd.DataFrame) -> None:
    rows = frame.assign(**{"dram.bandwidth": np.where(np.arange(len(frame)) % 2, 2e12, 4e12)})
    picture = figures.plot(rows, "time_s", "energy_j", color="dram.bandwidth")
    assert [text.get_text() for text in picture.axes[0].get_legend().get_texts()] == ["2 TB/s", "4 TB/s"]


def test_names_with_dollar_signs_are_drawn_to_the_letter(frame: pd.DataFrame) -> None:
    name = "cost in $\\frac{ $"
    frame["system"] = name
    pictures = [
        figures.plot(frame, "time_s", "energy_j", color="system", title=name),
        figures.front_figure(frame, ["latency", "energy"], title=name),
        figures.parallel_figure(frame, ["time_s", "energy_j"], color="system", title=name),
        figures.bottleneck_figure(frame.head(1), [name], title=name),
    ]
    for picture in pictures:
        assert svg(picture).startswith(b"<?xml")
