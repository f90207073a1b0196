"""The commands on good input: what they print, what they write, and that the same input writes the same bytes."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from presilicon import load_graph, load_system, simulate
from presilicon.cli import main

from .conftest import Outcome, snapshot

GRAPH = Path(__file__).parents[1] / "data" / "mlp.graph.json"


def test_predict_prints_the_report(run: Callable[..., Outcome]) -> None:
    outcome = run("predict", GRAPH, "--system", "l4")
    assert (outcome.status, outcome.err) == (0, "")
    assert outcome.out.startswith("model       mlp  prefill  batch 1, seq 512, dtype bfloat16\n")
    assert "system      NVIDIA L4 (l4), tile, cudagraph" in outcome.out


@pytest.mark.slow
def test_predict_compares_systems_and_writes_a_set_of_files_for_each(tmp_path: Path, run: Callable[..., Outcome]) -> None:
    arguments = ("predict", GRAPH, "--system", "l4", "--system", "h100-sxm", "--fidelity", "analytic", "--runtime", "eager")
    outcome = run(*arguments, "--out", tmp_path / "a")
    assert outcome.status == 0
    assert "speedup" in outcome.out
    assert "1.00x" in outcome.out
    assert f"wrote {tmp_path / 'a'}" in outcome.out
    stems = [f"mlp-prefill-{name}" for name in ("l4", "h100-sxm")]
    assert sorted(snapshot(tmp_path / "a")) == sorted(
        f"{stem}{end}" for stem in stems for end in (".csv", ".json", ".perfetto.json", ".roofline.svg")
    )
    for stem, name in zip(stems, ("l4", "h100-sxm"), strict=True):
        report = simulate(load_graph(GRAPH), name, fidelity="analytic", runtime="eager")
        headline = json.loads((tmp_path / "a" / f"{stem}.json").read_text())
        assert headline == report.headline()
        with (tmp_path / "a" / f"{stem}.csv").open() as stream:
            rows = list(csv.DictReader(stream))
        assert [float(row["time_s"]) for row in rows] == report.to_frame()["time_s"].tolist()
        assert json.loads((tmp_path / "a" / f"{stem}.perfetto.json").read_text())["traceEvents"]
    assert run(*arguments, "--out", tmp_path / "b").status == 0
    assert snapshot(tmp_path / "b") == snapshot(tmp_path / "a")


def test_set_changes_the_system(run: Callable[..., Outcome]) -> None:
    plain = run("predict", GRAPH, "--system", "l4")
    same = run("predict", GRAPH, "--system", "l4", "--set", "gpu.sm.count=58", "--set", "dram.bandwidth = 300 GB/s")
    assert same.out == plain.out
    changed = run("predict", GRAPH, "--system", "l4", "--set", "gpu.sm.count=29").out
    expected = simulate(load_graph(GRAPH), load_system("l4").override({"gpu.sm.count": 29}))
    assert changed.splitlines()[2] == expected.summary().splitlines()[2]
    assert changed != plain.out


def test_trace_takes_a_graph_and_writes_it_again(tmp_path: Path, run: Callable[..., Outcome]) -> None:
    for name in ("graph.json", "graph.json.gz", "again.json.gz"):
        assert run("trace", GRAPH, "-o", tmp_path / "new" / name).status == 0
    assert run("trace", tmp_path / "new" / "graph.json.gz", "-o", tmp_path / "new" / "again.json").status == 0
    assert load_graph(tmp_path / "new" / "graph.json.gz").to_dict() == load_graph(GRAPH).to_dict()
    assert (tmp_path / "new" / "graph.json.gz").read_bytes() == (tmp_path / "new" / "again.json.gz").read_bytes()
    assert (tmp_path / "new" / "graph.json").read_bytes() == (tmp_path / "new" / "again.json").read_bytes()


def test_trace_and_predict_of_a_function(tmp_path: Path, run: Callable[..., Outcome]) -> None:
    pytest.importorskip("torch")
    (tmp_path / "mine.py").write_text("import torch\n\ndef model():\n    return torch.nn.Linear(64, 32), torch.zeros(8, 64)\n")
    outcome = run("trace", f"{tmp_path / 'mine.py'}:model", "-o", tmp_path / "graph.json")
    assert (outcome.status, outcome.err) == (0, "")
    assert load_graph(tmp_path / "graph.json").flops >= 2 * 8 * 32 * 64
    direct = run("predict", f"{tmp_path / 'mine.py'}:model", "--system", "l4").out
    assert run("predict", tmp_path / "graph.json", "--system", "l4").out == direct


def test_systems_lists_them_and_shows_every_number(run: Callable[..., Outcome]) -> None:
    from presilicon.arch import names, table

    listed = run("systems").out
    assert all(f" {name} " in listed for name in names())
    for name, peak in {"l4": "121 TFLOP/s bf16", "t4": "65.1 TFLOP/s fp16", "tpu-v1": "91.8 TFLOP/s int8"}.items():
        assert peak in next(line for line in listed.splitlines() if line.split()[:1] == [name])
    shown = run("systems", "l4").out
    assert shown.startswith("NVIDIA L4 (l4), gpu, generation sm_89")
    rows = table(load_system("l4"))
    assert sum(line.split()[0] in {row.path for row in rows} for line in shown.splitlines() if line.split()) == len(rows)
    assert "sourced" in shown
    assert "assumed" in shown


def test_help_names_every_command(run: Callable[..., Outcome]) -> None:
    outcome = run("--help")
    assert outcome.status == 0
    for command in ("predict", "trace", "systems", "ops", "calibrate", "cases", "demo"):
        assert f" {command} " in outcome.out
        assert run(command, "--help").status == 0


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys; from presilicon.cli import main\ntry: main(['--help'])\n"
        "except SystemExit: print('\\n', *sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split("\n")[-2].split())
    assert not loaded & {"numpy", "pandas", "torch", "matplotlib", "scipy", "networkx", "yaml", "presilicon.arch", "presilicon.sim"}


def test_a_saved_graph_needs_no_torch() -> None:
    code = (
        f"import sys; from presilicon.cli import main\ntry: main(['predict', {str(GRAPH)!r}, '--system', 'l4'])\n"
        "except SystemExit as stop: assert stop.code == 0\nassert not {'torch', 'transformers', 'matplotlib', 'scipy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)


@pytest.mark.parametrize("command", ["predict", "ops", "calibrate", "validate"])
def test_help_lists_the_whole_of_closed_sets(run: Callable[..., Outcome], command: str) -> None:
    """The help does not import what owns the sets, and must not fall behind them."""
    from presilicon.validate.optable import KINDS
    from presilicon.workloads.quantise import SCHEMES

    text = "".join(run(command, "--help").out.replace("│", " ").split())  # long words wrap at their hyphens
    for name in SCHEMES if command == "predict" else KINDS:
        assert name in text, name


@pytest.mark.parametrize(("words", "status"), [(["systems", "l4"], 0), (["systems", "l5"], 2)])
def test_the_command_leaves_torch_as_it_is_once_all_is_written(
    words: list[str], status: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    done: list[Any] = []
    monkeypatch.setattr("sys.argv", ["presilicon", *words])
    monkeypatch.setitem(sys.modules, "torch", sys)
    monkeypatch.setattr("threading._shutdown", lambda: done.append("threads"))
    monkeypatch.setattr("atexit._run_exitfuncs", lambda: done.append("exit functions"))
    monkeypatch.setattr("os._exit", done.append)
    with pytest.raises(SystemExit):
        main()
    assert done == ["threads", "exit functions", status]
    written = capsys.readouterr()
    assert ("L4" in written.out, "unknown system 'l5'" in written.err) == (status == 0, status == 2)
    monkeypatch.delitem(sys.modules, "torch")
    with pytest.raises(SystemExit):
        main()
    assert len(done) == 3
