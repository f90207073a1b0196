"""The HTML page: self-contained, complete, and nothing that files or YAML say gets through unescaped."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from typer.testing import CliRunner

from presilicon.arch import load, save
from presilicon.errors import OutputError, SpecError
from presilicon.explore.html_report import page, parameter_effect, write_report
from presilicon.explore.loaded import Loaded, load_folder
from presilicon.explore.sweep import sweep

DATA = Path(__file__).parents[1] / "data"
EVIL = "<script>alert(1)</script>"


def document(**changes: Any) -> dict[str, Any]:
    return {
        "workloads": [{"graph": str(DATA / "mlp.graph.json")}, {"graph": str(DATA / "llama-3-8b.decode.graph.json.gz")}],
        "systems": ["h100-sxm"],
        "parameters": {"gpu.sm.count": [66, 100, 132], "dram.bandwidth": ["2 TB/s", "4 TB/s", "8 TB/s"], "link.latency": ["1 us", "2 us"]},
        "objectives": ["latency", "area"],
        "name": "a study",
    } | changes


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PRESILICON_CACHE", "off")
    sweep(document(), tmp_path / "results")
    return tmp_path / "results"


class Tags(HTMLParser):
    """What a browser would see."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.opened: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.opened.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_data(self, data: str) -> None:
        self.words.append(data)


@pytest.mark.slow
def test_page_of_a_sweep_has_every_part_and_no_network(results: Path) -> None:
    text = page(load_folder(results))
    seen = Tags(text)
    headings = " ".join(seen.words)
    parts = ("Pareto front", "Parallel coordinates", "Best designs", "Sensitivity", "Where this comes from", "study hash", "code version")
    for part in parts:
        assert part in headings
    assert "No effect: link.latency." in headings
    assert seen.opened.count("script") == 1
    assert seen.opened.count("svg") >= 6
    links = [value for name, value in seen.attributes if name in ("src", "href", "xlink:href", "action")]
    assert [value for value in links if not value.startswith(("#", "data:"))] == []
    assert not re.search(r"@import|url\((?!#)", text)
    assert page(load_folder(results)) == text


@pytest.mark.slow
def test_the_front_of_the_page_is_that_of_the_rows(results: Path) -> None:
    from presilicon.explore.pareto import pareto_front

    loaded = load_folder(results)
    text = page(loaded)
    for _, rows in loaded.frame.groupby("workload", sort=False, observed=True):
        assert f"Pareto front: {len(pareto_front(rows, ['latency', 'area'])):,} of {len(rows):,} designs" in text


def test_nothing_from_names_files_or_errors_comes_through_unescaped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PRESILICON_CACHE", "off")
    graph = tmp_path / f"{EVIL.replace('/', '')}.graph.json"
    graph.write_bytes((DATA / "mlp.graph.json").read_bytes())
    device = load("h100-sxm")
    save(device, tmp_path / "evil.yaml")
    content = yaml.safe_load((tmp_path / "evil.yaml").read_text()) | {"name": f"chip{EVIL}", "title": EVIL}
    (tmp_path / "evil.yaml").write_text(yaml.safe_dump(content))
    study = document(name=f"study {EVIL}", workloads=[{"graph": str(graph)}], systems=[str(tmp_path / "evil.yaml"), "h100-sxm"])
    sweep(study, tmp_path / "results")
    loaded = load_folder(tmp_path / "results")
    loaded.frame.loc[3, ["error", "limiter"]] = [f"broken {EVIL}", EVIL]
    loaded.frame.loc[loaded.frame["error"].isna(), "limiter"] = f"'\"><img src=x onerror=alert(1)>{EVIL}"
    text = page(loaded)
    assert text.count("&lt;script&gt;") >= 5
    assert EVIL not in text
    seen = Tags(text)
    assert seen.opened.count("script") == 1
    assert "img" not in seen.opened
    assert [name for name, _ in seen.attributes if name.startswith("on")] == []
    assert f"study {EVIL}" in "".join(seen.words)


@pytest.mark.slow
def test_page_of_a_search(tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    from presilicon.explore.search import explore

    found = explore(document(constraints=["area_mm2 <= 800"]), trials=18, population=6, out=tmp_path / "found")
    loaded = load_folder(tmp_path / "found")
    assert loaded.parameters == ("gpu.sm.count", "dram.bandwidth", "link.latency")
    text = page(loaded)
    assert f"Pareto front: {len(found.front)} of {int(found.frame['feasible'].sum())} designs" in text
    assert "<title>time_s = " in text
    assert "nsga2, seed 0" in text


def test_page_of_nothing_feasible_shows_the_nearest(tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    from presilicon.explore.search import explore

    explore(document(constraints=["area_mm2 <= 1"]), trials=6, population=6, out=tmp_path)
    text = page(load_folder(tmp_path))
    assert "No design meets every constraint" in text
    assert "violation" in text


def test_errors_are_counted(results: Path) -> None:
    loaded = load_folder(results)
    loaded.frame.loc[:3, "error"] = "does not fit"
    text = page(loaded)
    assert "4 have no result" in text
    assert "does not fit" in text


def test_a_table_of_failed_rows_only_is_still_a_page() -> None:
    frame = pd.DataFrame({"workload": ["w"], "time_s": [np.nan], "energy_j": [np.nan], "error": ["broken"], "feasible": [False]})
    text = page(Loaded(Path("x"), "sweep", "n", frame, (), ("latency", "energy")))
    assert "1 have no result" in text


def test_effect_of_a_parameter() -> None:
    x = pd.Series(np.arange(1.0, 101.0))
    rank, span = parameter_effect(x, 1.0 / x)
    assert rank == pytest.approx(-1.0)
    assert span > 10
    rank, span = parameter_effect(x, pd.Series(np.ones(100)))
    assert (rank, span) == (0.0, 1.0)


def test_bad_folders_and_places(tmp_path: Path, results: Path) -> None:
    with pytest.raises(SpecError, match="holds no results"):
        load_folder(tmp_path)
    with pytest.raises(OutputError, match="cannot be written"):
        write_report(results, tmp_path)
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "explore.json").write_text("{")
    (broken / "trials.parquet").write_bytes(b"PAR1")
    with pytest.raises(SpecError, match="damaged"):
        load_folder(broken)


@pytest.mark.slow
def test_commands(results: Path, tmp_path: Path) -> None:
    from presilicon.cli import app

    run = CliRunner().invoke
    html, picture = tmp_path / "report.html", tmp_path / "a.svg"
    assert run(app, ["report", str(results), "-o", str(html)]).exit_code == 0
    assert html.read_text().startswith("<!DOCTYPE html>")
    arguments = ["plot", str(results), "--x", "dram.bandwidth", "--y", "tokens_per_s", "--color", "workload", "-o", str(picture)]
    assert run(app, [*arguments, "--where", "gpu.sm.count == 132"]).exit_code == 0
    assert picture.read_bytes().startswith(b"<?xml")
    graph = str(DATA / "llama-3-8b.decode.graph.json.gz")
    outcome = run(app, ["sensitivity", graph, "--system", "h100-sxm", "--top", "3", "-o", str(tmp_path / "all.csv")])
    assert outcome.exit_code == 0
    assert "dram.bandwidth" in outcome.output
    assert "no effect: " in outcome.output
    assert len(pd.read_csv(tmp_path / "all.csv")) > 20


def test_explore_command(tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    from presilicon.cli import app

    study = tmp_path / "study.yaml"
    study.write_text(yaml.safe_dump(document()))
    run = CliRunner().invoke
    common = ["explore", str(study), "-o", str(tmp_path / "out"), "--trials", "8", "--population", "4"]
    outcome = run(app, common)
    assert outcome.exit_code == 0
    assert "8 designs" in outcome.output
    assert "hypervolume" in outcome.output
    study.write_text(yaml.safe_dump(document(constraints=["area_mm2 <= 1"])))
    outcome = run(app, [*common[:3], str(tmp_path / "none"), *common[4:]])
    assert outcome.exit_code == 1
    assert "no design meets every constraint" in outcome.output


def test_a_search_that_was_stopped_says_so(tmp_path: Path) -> None:
    from presilicon.explore.search import DATABASE

    (tmp_path / DATABASE).write_bytes(b"")
    with pytest.raises(SpecError, match="was stopped before it wrote its trials"):
        write_report(tmp_path, tmp_path / "r.html")
