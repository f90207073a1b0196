"""The chain that a measured GPU goes through, end to end: rows as the harness writes them, `presilicon calibrate`, `presilicon validate`.

The GPU is the simulated one with other constants, noise, and rows that were disturbed: what comes out is known.
"""

from __future__ import annotations

import csv
import json
import math
import re
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
triton = pytest.importorskip("triton")
pytest.importorskip("pandas")
pytest.importorskip("numba")

from presilicon.arch import load_gpu  # noqa: E402
from presilicon.cli import main  # noqa: E402
from presilicon.validate.kernel_report import kernel_errors  # noqa: E402
from presilicon.validate.kernel_rows import predict_point, read_kernel_rows, split_of  # noqa: E402
from presilicon.validate.kernels import all_suites  # noqa: E402
from presilicon.validate.kernels.record import Record, beside  # noqa: E402
from presilicon.validate.kernels.suite import Config, Shape, text_of, tile  # noqa: E402

TRUTH = {"kernel.clock": 0.85, "kernel.dram": 0.8, "kernel.l2": 0.8, "kernel.launch": 1.5}
#: One config of some suites, since each is compiled; kernels bound by each of the constants are among them.
TAKEN = ("elementwise", "swiglu", "gather", "gemm")
NOISE, DISTURBED = 0.02, 3.0


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `presilicon measure` would have written on that GPU."""
    gpu = load_gpu("h100-sxm").override({f"calibration.{name}": value for name, value in TRUTH.items()})
    path = tmp_path_factory.mktemp("measured") / "h100.csv"
    record, draw = Record(path, "NVIDIA H100 80GB HBM3"), np.random.default_rng(0)
    points = [(name, shape, config_of(name, shape)) for name in TAKEN for shape in all_suites()[name].shapes]
    disturbed = {"fit", "held-out shape"}  # the first row of each
    for name, shape, config in (point for point in points if point[2]):
        (one,) = predict_point(name, text_of(shape), text_of(config), [gpu])
        assert not one.problem
        part = split_of(name, text_of(shape), text_of(config))
        seconds = (one.core_s + one.launch_s) * math.exp(draw.normal(0.0, NOISE)) * (DISTURBED if part in disturbed else 1.0)
        disturbed.discard(part)
        record.append({"suite": name, "kernel": name, "dtype": shape["dtype"], "shape": text_of(shape), "config": text_of(config),
                       "timer": "graph", "status": "ok", "latency_s": seconds, "p10_s": 0.99 * seconds, "p90_s": 1.02 * seconds,
                       "runs": 20, "repeats": 5, "triton": triton.__version__})
    record.close()
    return path


def config_of(name: str, shape: Shape) -> Config:
    """The config that is taken of a shape; none of shapes that are long to simulate, or that would be one more kernel to compile."""
    suite, square = all_suites()[name], tile(128, 128, 32, 4, 4)
    if name == "gemm":
        return square if square in suite.configs(shape) and suite.flops(shape) < 3e11 and shape["m"] != 1000 else {}
    return suite.configs(shape)[0] if shape.get("ops", 1) != 8 else {}


@pytest.mark.slow
def test_constants_of_a_measured_gpu_are_found_again(measured: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before, mine = measured.read_bytes(), measured.with_name("my-h100.yaml")
    with pytest.raises(SystemExit) as ended:
        main(["calibrate", str(measured), "--system", "h100-sxm", "-o", str(mine), "--jobs", "1"])
    assert not ended.value.code
    said = " ".join(capsys.readouterr().out.split())
    gpu = load_gpu(str(mine))
    for name, value in TRUTH.items():
        assert gpu.calibration[name] == pytest.approx(value, rel=0.08 if name in ("kernel.clock", "kernel.l2") else 0.03), name
    assert "a kernel left out altogether: MAPE 15% met by all" in said
    assert re.search(r"1 of \d+ rows stay wrong by more than a factor of 2", said)
    rows = read_kernel_rows(measured, gpu)
    parts = json.loads(beside(measured, "split.json").read_text())["parts"]
    assert {part: len(names) for part, names in parts.items()} == rows.frame["part"].value_counts().to_dict()
    found = kernel_errors(rows, gpu)
    assert found.calibrated
    held = found.line("held out", found.frame["part"] != "fit")
    every = found.line("all", np.ones(len(found.frame), bool))
    assert held is not None
    assert every is not None
    assert held.median < 2 * NOISE
    assert every.coverage >= 0.8
    assert len(list(csv.DictReader(measured.read_text().splitlines()))) == every.rows
    assert measured.read_bytes() == before
