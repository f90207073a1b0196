"""What is wrong with device files, overrides, models, graph files and places to write: one clear error each, and no output."""

from __future__ import annotations

import gzip
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from presilicon.arch import load, save

from .conftest import Outcome, snapshot

GRAPH = Path(__file__).parents[1] / "data" / "mlp.graph.json"
PREDICT = ("predict", GRAPH, "--system", "l4")


def _predict(fails: Callable[..., str], tmp_path: Path, *args: Any) -> str:
    """Predict the small graph with these arguments; nothing may appear in the output folder."""
    return fails("predict", GRAPH, *args, "--out", tmp_path / "out")


DEVICES = {
    "unknown key": ("    count:", "    cuont:", "gpu.sm: unknown key 'cuont'; did you mean 'count'"),
    "missing number": ("bandwidth: {value: 300 GB/s", "#", "dram.bandwidth: missing"),
    "negative": ("count: {value: 58", "count: {value: -58", "gpu.sm.count: expected more than 0, found -58"),
    "bad unit": ("300 GB/s", "300 GHz", "dram.bandwidth: expected a quantity in B/s"),
    "no source": (", source: datasheet}", "}", "no source; every number names its source"),
    "code": ("count: {value: 58", "count: {value: !!python/object/apply:os.system ['touch hacked']", "not valid YAML"),
}


@pytest.mark.parametrize("case", DEVICES)
def test_device_files(case: str, tmp_path: Path, fails: Callable[..., str]) -> None:
    from presilicon.arch.loader import FOLDER

    old, new, message = DEVICES[case]
    text = (FOLDER / "l4.yaml").read_text(encoding="utf-8")
    assert old in text
    device = tmp_path / "mine.yaml"
    device.write_text(text.replace(old, new, 1), encoding="utf-8")
    for error in (_predict(fails, tmp_path, "--system", device), fails("systems", device)):
        assert error.startswith(str(device))
        assert message in error


def test_systems_that_do_not_exist(tmp_path: Path, fails: Callable[..., str]) -> None:
    expected = "unknown system 'h100-sxn'; did you mean 'h100-sxm' or 'v100-sxm' or 'h200-sxm'?"
    assert _predict(fails, tmp_path, "--system", "l4", "--system", "h100-sxn") == expected
    assert fails("systems", "h100-sxn") == expected
    assert fails("calibrate", "t.csv", "--system", "h100-sxn", "-o", tmp_path / "new.yaml") == expected
    assert fails("systems", "no/such.yaml") == "no/such.yaml: cannot be read: No such file or directory"


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("gpu.sm.cuont=144", "l4: unknown path 'gpu.sm.cuont'; did you mean 'gpu.sm.count'"),
        ("gpu.sm.count", "--set 'gpu.sm.count': expected PATH=VALUE, such as gpu.sm.count=144"),
        ("gpu.sm.count=", "gpu.sm.count: expected a plain number"),
        ("gpu.sm.count=many", "gpu.sm.count: expected a plain number, such as '132', found 'many'"),
        ("gpu.sm.count=-1", "gpu.sm.count: expected more than 0, found -1"),
        ("gpu.sm.count=nan", "gpu.sm.count: expected a plain number that is finite, found nan"),
        ("gpu.sm.count=inf", "gpu.sm.count: expected a plain number that is finite, found inf"),
        ("dram.bandwidth=4 TB", "dram.bandwidth: expected a quantity in B/s, found '4 TB', which is in B"),
        ("gpu.sm=1", "l4: gpu.sm: holds several numbers"),
        ("=1", "l4: unknown path ''"),
        ("gemm.launch=1 us", "l4: unknown path 'gemm.launch'; did you mean 'calibration.gemm.launch'"),
        ("calibration.gemm.launch=1 s", "calibration.gemm.launch: 1 is outside of ["),
    ],
)
def test_overrides(assignment: str, message: str, tmp_path: Path, fails: Callable[..., str]) -> None:
    assert _predict(fails, tmp_path, "--system", "l4", "--set", assignment).startswith(message)


def _graph(**changes: Any) -> dict[str, Any]:
    return {**json.loads(GRAPH.read_text()), **changes}


def _damaged(change: Callable[[dict[str, Any]], Any]) -> bytes:
    graph = _graph()
    change(graph)
    return json.dumps(graph).encode()


GRAPHS: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "not a graph file, or cut short"),
    "cut short": (GRAPH.read_bytes()[:-20], "not a graph file, or cut short"),
    "binary": (b"\x80\x04\x95\x10cos\nsystem\n", "not a graph file, or cut short"),
    "deep": (b"[" * 200_000, "not a graph file, or cut short"),
    "another file": (b'{"model_type": "llama"}', 'not a presilicon graph (no "format": "presilicon-graph")'),
    "list": (b"[1]", "not a presilicon graph"),
    "newer": (json.dumps(_graph(version=2)).encode(), "graph format version 2; this release reads version 1"),
    "cycle": (_damaged(lambda g: g["edges"].append(["add", "up", "loop"])), "has a cycle: "),
    "edge to nowhere": (_damaged(lambda g: g["edges"].append(["add", "nowhere", "x"])), "an edge names op 'nowhere', which does not exist"),
    "op twice": (_damaged(lambda g: g["ops"].append(g["ops"][0])), "two ops are named 'norm'"),
    "no ops": (_damaged(lambda g: g.pop("ops")), "damaged graph: KeyError: 'ops'"),
    "unknown kind": (_damaged(lambda g: g["ops"][0].update(kind="magic")), "op 'norm': unknown kind 'magic'; allowed: matmul"),
    "unknown format": (
        _damaged(lambda g: g["ops"][0]["operands"][0].update(format="bf61")),
        "unknown number format 'bf61'; did you mean 'bf16'",
    ),
    "negative size": (
        _damaged(lambda g: g["ops"][0]["dims"].update(c=-1)),
        "op 'norm': dims.c: expected a number from 0 to 2^62, found -1",
    ),
    "size of text": (
        _damaged(lambda g: g["ops"][0]["dims"].update(c="1")),
        "op 'norm': dims.c: expected a number from 0 to 2^62, found '1'",
    ),
    "not a number": (_damaged(lambda g: g["ops"][0]["body"].update(mac=float("nan"))), "op 'norm': body.mac: expected a number"),
    "memory of text": (_damaged(lambda g: g["memory"].update(weights_bytes="many")), "memory.weights_bytes: expected a number"),
}


@pytest.mark.parametrize("packed", [False, True], ids=["json", "gz"])
@pytest.mark.parametrize("case", GRAPHS)
def test_graph_files(case: str, packed: bool, tmp_path: Path, fails: Callable[..., str]) -> None:
    content, message = GRAPHS[case]
    path = tmp_path / ("graph.json.gz" if packed else "graph.json")
    path.write_bytes(gzip.compress(content) if packed else content)
    error = fails("predict", path, "--system", "l4", "--out", tmp_path / "out")
    assert error.startswith(str(path))
    assert message in error


def test_graph_files_that_are_not_what_their_name_says(tmp_path: Path, fails: Callable[..., str]) -> None:
    assert fails("predict", tmp_path / "none.json", "--system", "l4").endswith("none.json: cannot be read: No such file or directory")
    packed = gzip.compress(GRAPH.read_bytes())
    for name, content in (
        ("plain.json.gz", GRAPH.read_bytes()),
        ("cut.json.gz", packed[:-30]),
        ("bent.json.gz", packed[:40] + b"xxxx" + packed[44:]),
    ):
        (tmp_path / name).write_bytes(content)
        assert fails("predict", tmp_path / name, "--system", "l4").startswith(f"{tmp_path / name}: ")


def test_options_that_a_saved_graph_cannot_follow(fails: Callable[..., str], run: Callable[..., Outcome]) -> None:
    assert fails(*PREDICT, "--seq", 1024) == f"{GRAPH}: traced with seq 512; --seq 1024 cannot change a saved graph"
    assert fails(*PREDICT, "--phase", "decode") == f"{GRAPH}: traced with phase prefill; --phase decode cannot change a saved graph"
    assert run(*PREDICT, "--seq", 512, "--phase", "prefill").status == 0


@pytest.mark.parametrize(
    "arguments", [("--fidelity", "exact"), ("--runtime", "jit"), ("--phase", "sleep"), ("--batch", "0"), ("--top", "x"), ("--nope",)]
)
def test_wrong_options(arguments: tuple[str, ...], tmp_path: Path, run: Callable[..., Outcome]) -> None:
    outcome = run(*PREDICT, *arguments, "--out", tmp_path / "out")
    assert outcome.status == 2
    assert "Error: " in outcome.err
    assert arguments[0] in outcome.err
    assert "Traceback" not in outcome.err
    assert not snapshot(tmp_path)


def test_places_that_cannot_be_written(tmp_path: Path, fails: Callable[..., str]) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    assert "cannot be written" in fails(*PREDICT, "--out", tmp_path / "file")
    assert "cannot be written" in fails("trace", GRAPH, "-o", tmp_path / "folder")
    assert "cannot be written" in fails("trace", GRAPH, "-o", tmp_path / "file" / "graph.json")
    assert "cannot be written" in fails("calibrate", "t.csv", "--system", "l4", "-o", tmp_path / "folder")
    assert "cannot be written" in fails("cases", "-o", tmp_path / "folder")


def test_names_in_files_lead_nowhere_outside_of_the_folder(tmp_path: Path, run: Callable[..., Outcome]) -> None:
    device = save(load("l4"), tmp_path / "device.yaml")
    device.write_text(device.read_text().replace("name: l4", "name: ../../l4", 1))
    (tmp_path / "graph.json").write_text(json.dumps(_graph(name="../mlp")))
    assert run("predict", tmp_path / "graph.json", "--system", device, "--out", tmp_path / "a" / "b").status == 0
    assert len(list((tmp_path / "a" / "b").iterdir())) == 4
    assert {path.name for path in tmp_path.iterdir()} == {"device.yaml", "graph.json", "a"}


CONFIGS = {
    "unknown architecture": ('{"model_type": "lama", "architectures": ["LamaForCausalLM"]}', "lama"),
    "no architecture": ("{}", "model_type"),
    "not JSON": ("{", "not JSON"),
    "list": ("[]", "a config.json holds a JSON object, not list"),
}


@pytest.mark.parametrize("case", CONFIGS)
def test_configurations(case: str, tmp_path: Path, fails: Callable[..., str]) -> None:
    pytest.importorskip("transformers")
    content, message = CONFIGS[case]
    (tmp_path / "config.json").write_text(content)
    for model in (tmp_path, tmp_path / "config.json"):
        assert message in fails("trace", model, "-o", tmp_path / "graph.json")


FUNCTIONS = {
    "raises": ("def model():\n    raise RuntimeError('no GPU here')\n", "raised: RuntimeError: no GPU here", "mine.py:2"),
    "exits": ("import sys\ndef model():\n    sys.exit(3)\n", "raised: SystemExit: 3", "mine.py:3"),
    "returns nothing": ("def model(): pass\n", "must return (nn.Module, example_inputs), but returned NoneType", ""),
    "returns a module alone": ("import torch\ndef model(): return torch.nn.Linear(1, 1)\n", "but returned Linear", ""),
    "wrong inputs": (
        "import torch\ndef model(): return torch.nn.Linear(1, 1), 7\n",
        "example_inputs must be a tensor, a tuple, a list or a dict, not int",
        "",
    ),
    "wrong shapes": ("import torch\ndef model(): return torch.nn.Linear(4, 1), torch.zeros(1, 3)\n", "", ""),
    "raises on import": ("1 / 0\n", "raised while it was run: ZeroDivisionError", "mine.py:1"),
    "syntax": ("def model(:\n", "mine.py:1: SyntaxError", ""),
    "no such function": ("def modell(): pass\n", "unknown function 'model'; did you mean 'modell'?", ""),
    "not a function": ("model = 3\n", "'model' is a int, not a function", ""),
}


@pytest.mark.parametrize("case", FUNCTIONS)
def test_functions(case: str, tmp_path: Path, fails: Callable[..., str]) -> None:
    pytest.importorskip("torch")
    content, message, place = FUNCTIONS[case]
    (tmp_path / "mine.py").write_text(content)
    error = fails("trace", f"{tmp_path / 'mine.py'}:model", "-o", tmp_path / "graph.json")
    assert str(tmp_path / "mine.py") in error
    assert message in error
    assert place in error


def test_models_that_do_not_exist(tmp_path: Path, fails: Callable[..., str]) -> None:
    assert "unknown model 'llama-3-8c'; did you mean 'llama-3-8b'" in fails("trace", "llama-3-8c", "-o", tmp_path / "graph.json")
    assert "folder without config.json" in fails("trace", tmp_path, "-o", tmp_path / "graph.json")
    assert "no such file" in fails("trace", f"{tmp_path / 'none.py'}:model", "-o", tmp_path / "graph.json")


def test_the_traceback_only_with_debug(capsys: pytest.CaptureFixture[str]) -> None:
    from presilicon.cli import main
    from presilicon.errors import UnknownNameError

    for args in (["--debug", "systems", "h100"], ["systems", "h100", "--debug"]):
        with pytest.raises(UnknownNameError):
            main(args)
    assert not capsys.readouterr().err


def test_a_bug_of_ours_is_one_line_too(monkeypatch: pytest.MonkeyPatch, run: Callable[..., Outcome]) -> None:
    from presilicon import arch

    def bug(_: object) -> None:
        raise ZeroDivisionError("by\nzero")

    monkeypatch.setattr(arch, "load", bug)
    outcome = run("systems", "l4")
    assert (outcome.status, outcome.out) == (1, "")
    assert outcome.err == "presilicon: internal error, ZeroDivisionError: by zero (--debug shows where)\n"


def test_interrupted_between_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Callable[..., Outcome]) -> None:
    from presilicon.validate import opfile

    table = tmp_path / "table.csv"
    table.write_text("gemm_dtype,m,n,k\nbf16,1,1,1\n")
    before = snapshot(tmp_path)

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(opfile, "predict", interrupted)
    assert run("ops", table, "--system", "l4", "-o", tmp_path / "new" / "out.csv").status == 130
    assert snapshot(tmp_path) == before


def _start(*args: Any) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "presilicon", *map(str, args)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


@pytest.mark.slow
def test_the_real_command(tmp_path: Path) -> None:
    process = _start("ops", tmp_path / "none.csv", "--system", "l4", "-o", tmp_path / "out.csv")
    out, err = process.communicate(timeout=300)
    assert (process.returncode, out) == (2, "")
    assert err == f"presilicon: {tmp_path / 'none.csv'}: cannot be read: No such file or directory\n"
    assert not snapshot(tmp_path)


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="sends SIGINT")
def test_interrupted_by_the_keyboard(tmp_path: Path) -> None:
    table = tmp_path / "table.csv"
    os.mkfifo(table)
    process = _start("ops", table, "--system", "l4", "-o", tmp_path / "new" / "out.csv")
    with table.open("w") as stream:
        stream.write("gemm_dtype,m,n,k\n" + "bf16,1,1,1\n" * 1000)
        stream.flush()
        while not (tmp_path / "new").exists():
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=300)
    assert process.returncode == 130
    assert err == ""
    assert {path.name for path in tmp_path.iterdir()} == {"table.csv"}
