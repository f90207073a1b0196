"""The measuring harness with a machine that only pretends: what is on disk after a kill, a hang, a bad config; budget; op tables."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("triton")

from presilicon.errors import PresiliconError  # noqa: E402
from presilicon.validate import measure as module  # noqa: E402
from presilicon.validate.kernels import all_suites  # noqa: E402
from presilicon.validate.kernels.loop import GpuLostError, InFlight, Outcome, measure_points, plan  # noqa: E402
from presilicon.validate.kernels.machine import CudaMachine, Health, Smi, Timing  # noqa: E402
from presilicon.validate.kernels.record import (  # noqa: E402
    COLUMNS,
    TABLES,
    MeasureError,
    Point,
    Record,
    beside,
    drop_rows,
    export_tables,
    note_run,
    read_rows,
)
from presilicon.validate.kernels.suite import Place, Shape, Suite, Tensors, text_of  # noqa: E402

MEASURED = Path(__file__).resolve().parents[2].parent / "shared" / "measured"
SCRIPT = Path(module.__file__).resolve()


class Clock:
    """Seconds that pass only when somebody says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Pretender:
    """A machine whose calls take `call_s` each; it fails, or is lost, when told."""

    name, capability, sm_count = "Pretend 9000", 90, 4

    def __init__(self, clock: Clock | None = None, point_s: float = 1.0) -> None:
        self.clock, self.point_s, self.lost, self.timed = clock or Clock(), point_s, False, 0

    def place(self, seed: int) -> Place:
        return Place("cpu", self.sm_count, self.capability, seed)

    def time(self, call: Callable[[], Any], timer: str) -> Timing:
        self.clock.now += self.point_s
        self.timed += 1
        call()
        return Timing([(20 + i) * 1e-6 for i in range(21)], 5, Health(1500.0, 2600.0, 300.0, 50.0))

    def synchronize(self) -> None:
        if self.lost:
            raise RuntimeError("an illegal memory access was encountered")

    def release(self) -> None:
        pass

    def facts(self) -> dict[str, Any]:
        return {"gpu": self.name}


def _suite(
    name: str = "double",
    *,
    fail: Callable[[Shape, dict[str, Any]], None] = lambda s, c: None,
    wrong: int = -1,
    shapes: int = 3,
    **more: Any,
) -> Suite:
    def call(shape: Shape, config: Any, t: Tensors) -> Callable[[], Any]:
        fail(shape, config)
        return lambda: t["x"] * (3 if config["way"] == wrong else 2)

    return Suite(
        name,
        "",
        [{"n": n, "dtype": "float32"} for n in range(1, shapes + 1)],
        lambda s: [{"way": w} for w in range(3)],
        lambda s, p: {"x": p.uniform(int(s["n"]), low=1.0, high=2.0)},
        lambda *a: [],
        lambda s, t: t["x"] * 2,
        lambda s: 1000 * int(s["n"]),
        lambda s: 8 * int(s["n"]),
        call=call,
        **more,
    )


def _run(path: Path, suites: list[Suite], machine: Pretender | None = None, deadline: float = 1e9, **more: Any) -> Outcome:
    machine = machine or Pretender()
    record = Record(path, machine.name)
    try:
        return measure_points(
            plan(suites, 90)[0], {s.name: s for s in suites}, machine, record, deadline=deadline, clock=machine.clock, **more
        )
    finally:
        record.close()


def _keys(path: Path) -> list[tuple[str, ...]]:
    return [(r["suite"], r["shape"], r["config"], r["timer"]) for r in read_rows(path)]


def test_a_row_says_what_was_measured(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    outcome = _run(path, [_suite()])
    row = read_rows(path)[0]
    assert (outcome.rows, outcome.failed, outcome.wrong, outcome.finished) == (18, 0, 0, True)
    assert (float(row["latency_s"]), float(row["p10_s"]), float(row["p90_s"])) == pytest.approx((30e-6, 22e-6, 38e-6))
    assert (row["runs"], row["repeats"], row["status"], row["gpu"], row["power_w"]) == ("21", "5", "ok", "Pretend 9000", "300")
    assert float(row["tflop_per_s"]) == pytest.approx(1000 / 30e-6 * 1e-12)
    assert float(row["error"]) == 0.0


def test_the_schema_is_stable() -> None:
    assert ",".join(COLUMNS) == (
        "suite,kernel,dtype,shape,config,timer,status,latency_s,p10_s,p90_s,runs,repeats,flops,bytes,tflop_per_s,gb_per_s,error,tolerance,grid,"
        "registers,spills,shared_bytes,sm_clock_mhz,memory_clock_mhz,power_w,temperature_c,gpu,triton,measured_at,message"
    )


@pytest.mark.skipif(not MEASURED.is_dir(), reason="the measured op tables are not beside the checkout")
@pytest.mark.parametrize("kind", sorted(TABLES))
def test_op_tables_have_the_columns_of_the_measured_ones(kind: str) -> None:
    found = sorted(MEASURED.glob(f"*.{kind}.csv"))
    assert found
    for path in found:
        with path.open(encoding="utf-8") as stream:
            assert tuple(next(csv.reader(stream))) == TABLES[kind], path.name


def test_a_second_run_measures_nothing_again(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    _run(path, [_suite()])
    before = path.read_bytes()
    machine = Pretender()
    outcome = _run(path, [_suite()], machine)
    assert (outcome.rows, outcome.skipped, machine.timed) == (0, 9, 0)
    assert path.read_bytes() == before


def test_killed_at_any_byte_it_loses_the_row_in_flight_at_most(tmp_path: Path) -> None:
    whole = tmp_path / "whole.csv"
    _run(whole, [_suite()])
    payload, keys = whole.read_bytes(), _keys(whole)
    for cut in (0, 5, *range(payload.index(b"\n"), len(payload), 97), len(payload) - 1):
        path = tmp_path / "cut.csv"
        path.write_bytes(payload[:cut])
        kept = max(0, payload[:cut].count(b"\n") - 1)
        machine = Pretender()
        _run(path, [_suite()], machine)
        assert machine.timed == len(keys) - kept
        assert path.read_bytes().startswith(payload[:cut][: payload[:cut].rfind(b"\n") + 1])
        assert sorted(_keys(path)) == sorted(keys)


def test_the_budget_is_kept_and_the_rest_follows_later(tmp_path: Path) -> None:
    path, clock = tmp_path / "a.csv", Clock()
    machine = Pretender(clock, point_s=1.0)
    outcome = _run(path, [_suite()], machine, deadline=clock.now + 9.0)
    assert not outcome.finished
    assert clock.now <= 1009.0
    assert 6 <= outcome.rows < 18
    rest = _run(path, [_suite()], machine, deadline=clock.now + 100.0)
    assert rest.finished
    assert outcome.rows + rest.rows == 18 == len(set(_keys(path)))


def test_no_time_left_means_no_row(tmp_path: Path) -> None:
    machine = Pretender()
    assert _run(tmp_path / "a.csv", [_suite()], machine, deadline=machine.clock.now).rows == 0


def test_suites_take_turns() -> None:
    points, refused = plan([_suite("a"), _suite("b", shapes=1, refuses=lambda s, c: ""), _suite("c", refuses=lambda s, c: "no")], 90)
    assert [(p.suite, p.shape["n"]) for p in points][::3] == [("a", 1), ("b", 1), ("a", 2), ("a", 3)]
    assert refused == 3


def test_a_failing_config_is_recorded_and_passed_over(tmp_path: Path) -> None:
    def fail(shape: Shape, config: dict[str, Any]) -> None:
        if config["way"] == 1:
            raise ValueError("out of resource: shared memory,\nRequired: 300000, Hardware limit: 232448")

    path = tmp_path / "a.csv"
    outcome = _run(path, [_suite(fail=fail)])
    failed = [row for row in read_rows(path) if row["status"] == "failed"]
    assert (outcome.failed, outcome.rows, outcome.finished) == (6, 18, True)
    assert {row["config"] for row in failed} == {"way=1"}
    assert {row["message"] for row in failed} == {"ValueError: out of resource: shared memory, Required: 300000, Hardware limit: 232448"}
    assert {row["latency_s"] for row in failed} == {""}


def test_a_wrong_output_is_measured_but_marked(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    assert _run(path, [_suite(wrong=2)]).wrong == 6
    wrong = [row for row in read_rows(path) if row["status"] == "wrong"]
    assert {row["config"] for row in wrong} == {"way=2"}
    assert "relative error 0.5" in wrong[0]["message"]
    assert wrong[0]["latency_s"]


def test_a_shape_without_memory_fails_alone(tmp_path: Path) -> None:
    def tensors(shape: Shape, place: Place) -> Tensors:
        if shape["n"] == 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return {"x": place.uniform(int(shape["n"]), low=1.0)}

    suite = _suite()
    suite = Suite(**{**vars(suite), "tensors": tensors})
    outcome = _run(tmp_path / "a.csv", [suite])
    assert (outcome.failed, outcome.rows) == (6, 18)


def test_a_lost_gpu_ends_the_process_and_the_point_is_still_named(tmp_path: Path) -> None:
    path, machine = tmp_path / "a.csv", Pretender()

    def fail(shape: Shape, config: dict[str, Any]) -> None:
        if config["way"] == 1:
            machine.lost = True
            raise RuntimeError("an illegal memory access was encountered")

    in_flight = InFlight(path, machine.name)
    with pytest.raises(GpuLostError, match="illegal memory access"):
        _run(path, [_suite(fail=fail)], machine, in_flight=in_flight)
    assert len(read_rows(path)) == 2
    what = json.loads(in_flight.path.read_text(encoding="utf-8"))
    assert (what["suite"], what["config"], what["timers"]) == ("double", {"way": 1}, ["cold", "graph"])


def test_a_full_disk_is_not_a_failing_config(tmp_path: Path) -> None:
    record = Record(tmp_path / "a.csv", "Pretend 9000")

    class Full:
        def write(self, text: str) -> None:
            raise OSError(28, "No space left on device")

        def close(self) -> None:
            pass

    record.close()
    record._stream = Full()  # type: ignore[assignment]
    suite = _suite()
    with pytest.raises(MeasureError, match=r"a\.csv: cannot be written: No space"):
        measure_points(plan([suite], 90)[0], {suite.name: suite}, Pretender(), record, deadline=1e9, clock=Clock())


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            ",".join(COLUMNS) + "\n" + ",".join("Other" if c == "gpu" else "" for c in COLUMNS) + "\n",
            "measured on 'Other', not on 'Pretend 9000'",
        ),
        ("m,n,k,latency_s\n1,2,3,4\n", r"columns differ \(missing: suite, .*; unknown: m, n, k\); choose another name"),
        (",".join(COLUMNS[::-1]) + "\n", r"columns differ \(their order\); choose another name"),
        (",".join(COLUMNS) + "\n1,2\n", "row 2: expected 30 cells, found 2"),
    ],
)
def test_a_file_of_something_else_is_refused_and_left_alone(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "a.csv"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(MeasureError, match=said):
        Record(path, "Pretend 9000")
    assert path.read_text(encoding="utf-8") == text


def test_mixed_gpus_are_refused_when_read(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    rows = [",".join(gpu if c == "gpu" else "" for c in COLUMNS) for gpu in ("H100", "A100")]
    path.write_text("\n".join([",".join(COLUMNS), *rows, ""]), encoding="utf-8")
    with pytest.raises(PresiliconError, match="row 3: measured on 'A100', not on 'H100'"):
        read_rows(path)


def test_a_last_line_without_its_end_counts_if_it_is_whole(tmp_path: Path) -> None:
    path, row = tmp_path / "a.csv", ",".join(COLUMNS)
    for text in ("\n".join([row, row, row]), "\n".join([row, row, row, ""]), "\n".join([row, row, row, row[:40]])):
        path.write_text(text, encoding="utf-8")
        assert read_rows(path) == [{name: name for name in COLUMNS}] * 2
        assert path.read_text(encoding="utf-8") == text
    path.write_text(row, encoding="utf-8")
    assert read_rows(path) == []


def test_a_file_that_went_through_other_programs_can_be_read(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(b"\xef\xbb\xbf" + "\r\n".join(["note," + ",".join(COLUMNS), "mine," + ",".join(COLUMNS), ""]).encode())
    assert read_rows(path) == [{name: name for name in COLUMNS}]
    path.write_text(",".join(name for name in COLUMNS if name != "latency_s") + "\n", encoding="utf-8")
    with pytest.raises(MeasureError, match=r"columns differ \(missing: latency_s\)$"):
        read_rows(path)


def test_provenance_lists_every_run_once(tmp_path: Path) -> None:
    path = tmp_path / "h100.csv"
    for run in ({"started": "1", "rows": 1}, {"started": "2"}, {"started": "2", "rows": 5}):
        note_run(path, run)
    notes = json.loads((tmp_path / "h100.provenance.json").read_text(encoding="utf-8"))
    assert notes["runs"] == [{"started": "1", "rows": 1}, {"started": "2", "rows": 5}]
    assert notes["data"] == "h100.csv"


def _measured_row(suite: str, shape: str, latency: str, **more: str) -> dict[str, str]:
    return {"suite": suite, "shape": shape, "config": "", "timer": "graph", "status": "ok", "latency_s": latency, "triton": "3.9.0"} | more


def test_op_tables_hold_the_best_checked_graph_replay_and_can_be_calibrated_on(tmp_path: Path) -> None:
    from presilicon.validate.opfile import read_table

    path = tmp_path / "h100.csv"
    record = Record(path, "H100")
    moe = "tokens=16;hidden=4096;inter=14336;experts=8;top_k=2;distribution=balanced;dtype=bfloat16"
    for row in (
        _measured_row("torch_gemm", "m=16;n=4096;k=4096;dtype=bfloat16", "1e-05"),
        _measured_row("torch_gemm", "m=16;n=4096;k=4096;dtype=bfloat16", "9e-06", timer="cold"),
        _measured_row("torch_gemm", "m=32;n=4096;k=4096;dtype=fp8_e4m3", "2e-05"),
        _measured_row("torch_gemm", "m=64;n=4096;k=4096;dtype=bfloat16", "1e-05", status="wrong"),
        _measured_row("moe", moe, "0.002", config="a"),
        _measured_row("moe", moe, "0.001", config="b"),
        _measured_row("torch_attention_decode", "batch=2;kv=128;heads=8;kv_heads=2;head_dim=128;dtype=bfloat16", "5e-06"),
        _measured_row("gemm", "m=16;n=4096;k=4096;dtype=bfloat16;layout=nt", "1e-05"),
    ):
        record.append(row)
    record.close()
    written = export_tables(path, all_suites(), version="2.13")
    assert [p.name for p in written] == ["h100.gemm.csv", "h100.moe_triton.csv", "h100.generation_attention.csv"]
    assert written[0].read_text(encoding="utf-8").splitlines() == [
        "framework,version,kernel_source,gemm_dtype,m,n,k,latency_s",
        "torch,2.13,torch.nn.functional.linear,bfloat16,16,4096,4096,1e-05",
        "torch,2.13,torch._scaled_mm,fp8,32,4096,4096,2e-05",
    ]
    assert "0.001" in written[1].read_text(encoding="utf-8")
    tables = [read_table(p, None, "latency_s") for p in written]
    assert [t.kind.name for t in tables] == ["gemm", "moe", "attention-decode"]


def _supervised(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, statuses: list[int], **more: Any) -> tuple[int, list[dict[str, str]], int]:
    """Run `measure` with children that end so: each non-zero one dies at a point of its own."""
    path, seen = tmp_path / "a.csv", []

    def child(arguments: list[str], **options: Any) -> SimpleNamespace:
        status = statuses[len(seen)]
        seen.append(arguments)
        if status:
            what = {
                "gpu": "Pretend 9000",
                "suite": "gemm",
                "shape": {"m": len(seen)},
                "config": {"BLOCK_M": 16},
                "timers": ["cold", "graph"],
            }
            beside(path, "inflight.json").write_text(json.dumps(what), encoding="utf-8")
        return SimpleNamespace(returncode=status)

    monkeypatch.setattr(module.subprocess, "run", child)
    status = module.measure("gemm", path, **more)
    return status, read_rows(path) if path.exists() else [], len(seen)


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (module.HUNG, "took longer than 120 s"),
        (module.LOST, "took the GPU's context with it"),
        (-9, "ended its process"),
        (-11, "ended its process"),
    ],
)
def test_the_supervisor_buries_the_point_and_goes_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, status: int, said: str) -> None:
    end, rows, children = _supervised(monkeypatch, tmp_path, [status, status, 0])
    assert (end, children) == (0, 3)
    assert [(row["shape"], row["timer"], row["status"]) for row in rows] == [
        ("m=1", "cold", "failed"),
        ("m=1", "graph", "failed"),
        ("m=2", "cold", "failed"),
        ("m=2", "graph", "failed"),
    ]
    assert all(said in row["message"] for row in rows)
    assert not beside(tmp_path / "a.csv", "inflight.json").exists()


@pytest.mark.parametrize("status", [1, 2, -signal.SIGTERM, -signal.SIGINT])
def test_the_supervisor_stops_when_stopped_and_blames_no_point(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, status: int) -> None:
    assert _supervised(monkeypatch, tmp_path, [status]) == (status, [], 1)


def test_a_point_that_goes_on_behind_the_deadline_is_left_for_the_next_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert _supervised(monkeypatch, tmp_path, [module.LATE]) == (0, [], 1)
    assert not beside(tmp_path / "a.csv", "inflight.json").exists()
    found = [module._overdue(since, now, 120.0, 600.0) for since, now in ((None, 900.0), (500.0, 599.0), (500.0, 601.0), (470.0, 601.0))]
    assert found == [0, 0, module.LATE, module.HUNG]


def test_what_failed_is_measured_again_on_demand(tmp_path: Path) -> None:
    path, suites = tmp_path / "a.csv", {"gemm": all_suites()["gemm"], "softmax": all_suites()["softmax"]}
    points = plan(list(suites.values()), 90, most_shapes=1)[0][:4]
    record = Record(path, "Pretend 9000")
    for point, status in zip(points, ("ok", "failed", "wrong", "failed"), strict=True):
        base = {"shape": text_of(point.shape), "config": text_of(point.config), "timer": "graph", "status": status, "message": "a, \"b\""}
        record.append({"suite": point.suite, **base})
    record.append({"suite": "softmax", "shape": "m=1", "config": "", "timer": "graph", "status": "failed"})
    record.close()
    before = path.read_text().splitlines()
    assert drop_rows(path, {"gemm"}) == 3
    assert path.read_text().splitlines() == [before[0], before[1], before[5]]
    again = Record(path, "Pretend 9000")
    assert [bool(again.missing(point, ["graph"])) for point in points] == [False, True, True, True]
    again.close()
    assert drop_rows(path, {"gemm"}) == 0


def test_the_supervisor_does_not_start_again_after_the_deadline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    end, rows, children = _supervised(monkeypatch, tmp_path, [module.HUNG, 0], budget_s=1e-9)
    assert (end, len(rows), children) == (0, 2, 1)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--suite", "gem"], "unknown suite 'gem'"),
        (["--suite", "gemm_persistant"], "gemm_persistent"),
        (["--suite", ","], "no suite"),
        (["--budget", "0"], "must be positive"),
        (["--suite", "zz*"], "unknown suite 'zz*'"),
    ],
)
def test_wrong_options_are_named(capsys: pytest.CaptureFixture[str], tmp_path: Path, arguments: list[str], said: str) -> None:
    assert module.main([*arguments, "-o", str(tmp_path / "a.csv")]) == 2
    assert said in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_selection_takes_names_groups_and_prefixes() -> None:
    assert {s.name for s in module.select("attention_*,memory,launch")} >= {"attention_decode", "softmax", "launch"}
    everything = {s.name for s in module.select("all")}
    assert "gemm_tutorial" not in everything
    assert everything | {"gemm_tutorial"} == set(all_suites())


def test_the_list_is_the_plan_of_the_options(capsys: pytest.CaptureFixture[str]) -> None:
    assert module.main(["--list", "--suite", "softmax,load", "--shapes", "1"]) == 0
    *lines, total = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["memory:", "softmax", "torch:", "load"]
    suites = module.select("softmax,load")
    points = [plan([suite], 90, most_shapes=1)[0] for suite in suites]
    assert [int(line.split()[1]) for line in lines if "points" in line] == [len(mine) for mine in points]
    rows = sum(len(suite.timers) * len(mine) for suite, mine in zip(suites, points, strict=True))
    assert total.startswith(f"softmax,load: 2 suites, {len(points[0]) + len(points[1])} points, {rows} rows ")
    assert module.main(["--list"]) == 0
    everything = capsys.readouterr().out
    assert "gemm_tutorial" in everything, "listed, though not a part of all"
    assert everything.splitlines()[-1].startswith(f"all: {len(module.select('all'))} suites, ")
    assert module.main(["--list", "--suite", "gemmz"]) == 2


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so(tmp_path: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-m", "presilicon.validate.measure", "--suite", "launch", "-o", str(tmp_path / "a.csv")],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert run.returncode == 2
    assert "no CUDA GPU here" in run.stderr
    assert "--list" in run.stderr
    assert "Traceback" not in run.stderr
    assert not list(tmp_path.iterdir())


def test_as_a_file_it_needs_nothing_of_presilicon(tmp_path: Path) -> None:
    code = (
        "import runpy, sys; sys.modules['presilicon'] = None; sys.argv = ['measure.py', '--list']; "
        f"runpy.run_path({str(SCRIPT)!r}, run_name='__main__')"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, timeout=600, check=False)
    assert run.returncode == 0, run.stderr
    assert "attention_decode" in run.stdout


@pytest.mark.slow
def test_a_real_run_killed_at_any_moment_resumes(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    command = [sys.executable, str(SCRIPT), "--check", "--quiet", "--suite", "memory,torch", "-o", str(path)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    for rows in (1, 6):
        run = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, start_new_session=True)
        until = time.time() + 120
        while time.time() < until and run.poll() is None and (not path.exists() or path.read_bytes().count(b"\n") <= rows):
            time.sleep(0.02)
        os.killpg(run.pid, signal.SIGKILL)
        run.wait()
    before = path.read_bytes()
    assert subprocess.run(command, env=environment, capture_output=True, timeout=600, check=False).returncode == 0
    whole = before[: before.rfind(b"\n") + 1]
    assert path.read_bytes().startswith(whole)
    keys = _keys(path)
    assert len(keys) == len(set(keys)) > whole.count(b"\n")
    assert not beside(path, "inflight.json").exists()


class _FakeCuda:
    """As much of torch.cuda as the timers use; time passes by the calls made."""

    def __init__(self) -> None:
        self.now = 0.0
        outer = self

        class Event:
            def __init__(self, enable_timing: bool = False) -> None:
                self.at = -1.0

            def record(self) -> None:
                self.at = outer.now

            def elapsed_time(self, other: Event) -> float:
                return (other.at - self.at) * 1e3

            def synchronize(self) -> None:
                assert self.at >= 0

        class CUDAGraph:
            calls = 0.0

            def replay(self) -> None:
                outer.now += self.calls

        class Capture:
            def __init__(self, graph: CUDAGraph) -> None:
                self.graph = graph

            def __enter__(self) -> None:
                self.begin = outer.now

            def __exit__(self, *error: object) -> None:
                self.graph.calls, outer.now = outer.now - self.begin, self.begin

        self.Event, self.CUDAGraph, self.graph = Event, CUDAGraph, Capture

    def is_available(self) -> bool:
        return True

    def get_device_properties(self, number: int) -> SimpleNamespace:
        return SimpleNamespace(name="Pretend 9000", major=9, minor=0, multi_processor_count=132, total_memory=80 * 2**30)

    def synchronize(self) -> None:
        pass

    def empty_cache(self) -> None:
        pass


@pytest.mark.parametrize("timer", ["cold", "graph", "eager", "sustained"])
@pytest.mark.parametrize("call_s", [3e-6, 4e-4, 0.05])
def test_timers_give_the_seconds_of_one_call(monkeypatch: pytest.MonkeyPatch, timer: str, call_s: float) -> None:
    fake = _FakeCuda()
    monkeypatch.setattr(torch, "cuda", fake)
    monkeypatch.setattr(torch, "empty", lambda *a, **k: SimpleNamespace(zero_=lambda: setattr(fake, "now", fake.now + 1e-4)))
    machine = CudaMachine()
    assert (machine.capability, machine.sm_count) == (90, 132)
    timing = machine.time(lambda: setattr(fake, "now", fake.now + call_s), timer)
    assert 20 <= len(timing.samples) <= 130
    assert timing.samples == pytest.approx([call_s] * len(timing.samples), rel=1e-6)
    assert machine.facts()["gpu"] == "Pretend 9000"


def test_nvidia_smi_stands_in_for_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def run(command: list[str], **options: Any) -> SimpleNamespace:
        asked.append(command)
        return SimpleNamespace(stdout="580.1, 700.00, 1980, 2619\n" if "driver_version" in command[1] else "1755, 2619, 651.2, [N/A]\n")

    monkeypatch.setattr("presilicon.validate.kernels.machine.subprocess.run", run)
    sensors = Smi()
    assert sensors.health() == sensors.health() == Health(1755.0, 2619.0, 651.2, None)
    assert len(asked) == 1  # a reading serves for a second
    assert sensors.facts() == {"driver": "580.1", "power_limit_w": 700.0, "max_sm_clock_mhz": 1980.0, "max_memory_clock_mhz": 2619.0}


def test_points_are_compiled_ahead_in_order_and_errors_come_back(tmp_path: Path) -> None:
    from presilicon.validate.kernels.pool import Compilers

    points = [Point("a", {"n": n}, {"w": 1}) for n in range(6)]
    script = tmp_path / "compiler.py"  # the third request kills it, the fifth does not compile
    script.write_text(
        "import json, sys\nfor line in sys.stdin:\n    n = json.loads(line)['shape']['n']\n    sys.exit(3) if n == 2 else None\n"
        "    print(json.dumps({'error': 'bad' if n == 4 else ''}), flush=True)\n",
        encoding="utf-8",
    )
    pool = Compilers([sys.executable, str(script)], points, sm_count=4, capability=90, jobs=2)
    try:
        assert [pool.error(p, 60.0) for p in points] == ["", "", "the compiler process ended (exit status 3)", "", "bad", ""]
        assert pool.error(Point("b", {}, {}), 0.0) == ""
    finally:
        pool.close()
    assert all(process.poll() is not None for process in pool.processes)


def test_an_unfinished_compilation_ends_the_run_at_the_deadline(tmp_path: Path) -> None:
    class Never:
        def error(self, point: Point, timeout_s: float) -> str | None:
            return None

    outcome = _run(tmp_path / "a.csv", [_suite()], compilers=Never())
    assert (outcome.rows, outcome.finished) == (0, False)
