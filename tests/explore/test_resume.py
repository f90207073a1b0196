"""A sweep that is stopped, killed, doubled or runs out of disk: nothing lost, nothing twice, never a broken file."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

import presilicon as ps
from presilicon.errors import OutputError
from presilicon.explore.sweep import sweep

DATA = Path(__file__).parents[1] / "data"
KILLS = 10

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals and file limits of POSIX")


def write_study(folder: Path, **changes: Any) -> Path:
    document = {
        "workloads": [{"graph": str(DATA / "llama-3-8b.prefill.graph.json.gz")}, {"graph": str(DATA / "llama-3-8b.decode.graph.json.gz")}],
        "systems": ["h100-sxm", "a100-sxm-80gb"],
        "parameters": {"gpu.sm.count": {"range": [60, 159], "steps": 40}, "dram.bandwidth": {"range": ["1 TB/s", "8 TB/s"], "steps": 20}},
        "batch_points": 20,
    } | changes
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump(document))
    return path


def command(study: Path, out: Path) -> list[str]:
    return [sys.executable, "-m", "presilicon", "sweep", str(study), "-o", str(out)]


def run(study: Path, out: Path, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(study, out), capture_output=True, text=True, check=False, timeout=600, **options)


@pytest.mark.slow
def test_killed_at_ten_random_moments_and_resumed(tmp_path: Path) -> None:
    study = write_study(tmp_path)
    whole = sweep(study, tmp_path / "whole")
    total = whole.batches[1]
    seed = int.from_bytes(os.urandom(4), "big")
    rng, out, seen = random.Random(seed), tmp_path / "killed", []
    for _ in range(KILLS):
        process = subprocess.Popen(command(study, out), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        before = len(list((out / "batches").glob("batch-*")))
        if rng.random() < 0.3:  # some die while they start, the others while they write
            time.sleep(rng.uniform(0.2, 1.0))
        else:
            wait_for = before + rng.randrange(1, total // KILLS + 1)
            while process.poll() is None and len(list((out / "batches").glob("batch-*"))) < wait_for:
                time.sleep(0.001)
            time.sleep(rng.uniform(0, 0.03))
        process.send_signal(signal.SIGKILL)
        process.wait()
        seen.append(len(list((out / "batches").glob("batch-*"))))
    assert seen[-1] > 0, f"seed {seed}: {seen}"
    assert seen[0] < total, f"seed {seed}: the first run was never interrupted: {seen}"
    finished = run(study, out)
    assert finished.returncode == 0, finished.stderr
    frame, expected = ps.load_results(out).to_frame(), whole.to_frame()
    assert frame["config_hash"].is_unique
    assert frame.equals(expected), f"seed {seed}: rows differ from those of an uninterrupted run"
    assert not list((out / "batches").glob(".*")), "what was half written is swept up"


def test_a_second_process_is_refused_with_a_clear_word(tmp_path: Path) -> None:
    study, out = write_study(tmp_path, parameters={"gpu.sm.count": [100, 132]}), tmp_path / "out"
    sweep(study, out)
    holder = "import fcntl, sys; f = open(sys.argv[1], 'a'); fcntl.flock(f, fcntl.LOCK_EX); print('held', flush=True); sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", holder, str(out / ".lock")], stdin=-1, stdout=-1, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with pytest.raises(OutputError, match=r"another process \(pid \d+ on .*\) is writing here"):
            sweep(study, out)
        other.communicate()
    assert len(sweep(study, out)) == 8, "the lock goes with the process that held it"


@pytest.mark.slow
def test_two_processes_at_once_leave_whole_files(tmp_path: Path) -> None:
    study, out = write_study(tmp_path), tmp_path / "out"
    both = [subprocess.Popen(command(study, out), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    ends = [process.communicate(timeout=300) for process in both]
    codes = [process.returncode for process in both]
    assert 0 in codes
    for code, (_, stderr) in zip(codes, ends, strict=True):
        assert code == 0 or (code == 2 and "is writing here" in stderr), stderr
    assert ps.load_results(out).to_frame()["config_hash"].is_unique
    assert len(ps.load_results(out)) == 3200


@pytest.mark.slow
def test_ctrl_c_says_how_to_go_on(tmp_path: Path) -> None:
    study, out = write_study(tmp_path, fidelity="tile", batch_points=2), tmp_path / "out"
    environment = os.environ | {"PRESILICON_CACHE": "off"}
    process = subprocess.Popen(command(study, out), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    deadline = time.monotonic() + 300
    while process.poll() is None and time.monotonic() < deadline and not list((out / "batches").glob("batch-*")):
        time.sleep(0.005)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=300)
    assert process.returncode == 130
    assert stderr == f"presilicon: stopped; whole batches are in {out}, and the same command goes on from there\n"


@pytest.mark.slow
def test_a_full_disk_keeps_whole_batches(tmp_path: Path) -> None:
    """A limit on the size of files stands for the disk: writing fails with an OSError in the midst of a batch."""
    import resource

    study, out = write_study(tmp_path, batch_points=800), tmp_path / "out"

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))

    failed = run(study, out, preexec_fn=limit)
    assert failed.returncode == 2
    assert failed.stderr.startswith(f"presilicon: {out}/batches/batch-"), failed.stderr
    assert "cannot be written: File too large" in failed.stderr
    assert all(path.name.startswith("batch-") for path in (out / "batches").iterdir()), "nothing half written stays"
    assert len(sweep(study, out)) == 3200


def test_a_damaged_batch_is_computed_again(tmp_path: Path) -> None:
    study, out = write_study(tmp_path, parameters={"gpu.sm.count": {"range": [60, 99], "steps": 40}}), tmp_path / "out"
    whole = sweep(study, out).to_frame()
    first, second, *_ = sorted((out / "batches").iterdir())
    first.write_bytes(first.read_bytes()[:1000])
    second.write_bytes(b"")
    assert sweep(study, out).to_frame().equals(whole)


def test_a_study_that_is_done_is_not_computed_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study, out = write_study(tmp_path, parameters={"gpu.sm.count": [100, 132]}), tmp_path / "out"
    first = sweep(study, out).to_frame()
    monkeypatch.setattr("presilicon.explore.cluster.evaluate_designs", lambda *a, **k: pytest.fail("computed again"))
    assert sweep(study, out).to_frame().equals(first)
