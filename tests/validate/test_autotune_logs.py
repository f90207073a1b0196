"""Public autotuning logs: what is read, how it is split, the kernel, and what a choice from predictions is worth."""

from __future__ import annotations

import hashlib
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("triton")

import pandas as pd

from presilicon import arch
from presilicon.arch.yamlfile import read_yaml
from presilicon.errors import TableError, UnknownNameError
from presilicon.mapping.triton import bind_launch
from presilicon.validate import autotune_logs
from presilicon.validate.points_report import HALVES

SHAPES = {f"{shape.gpu} {shape.label}": shape for shape in autotune_logs.read_shapes()}

_INTERPRETED = """
import torch
from presilicon.validate.kernels.gemm_inductor import matmul_inductor
torch.manual_seed(0)
for m, n, k, block_m, block_n in ((40, 72, 32, 32, 64), (8, 200, 48, 16, 32)):
    a, b = torch.randn(m, k), torch.randn(k, n)
    for nk in (True, False):
        c = torch.empty(m, n)
        grid = (-(-m // block_m) * -(-n // block_n),)
        stored = b.t().contiguous() if nk else b
        matmul_inductor[grid](a, stored, c, M=m, N=n, K=k, B_NK=nk, BLOCK_M=block_m, BLOCK_N=block_n, BLOCK_K=16, GROUP_M=8)
        torch.testing.assert_close(c, a @ b)
"""


def test_figures_are_many_and_say_where_they_come_from() -> None:
    assert sum(len(shape.seconds) for shape in SHAPES.values()) >= 100
    assert len({shape.gpu for shape in SHAPES.values()}) >= 2
    for name, log in read_yaml(autotune_logs.DATA)["logs"].items():
        assert str(log["source"]).startswith("https://"), name
        assert arch.load_gpu(log["gpu"]).name == log["gpu"]
        for label in log["shapes"]:
            m, n, _ = (int(size) for size in label.split())
            assert len(autotune_logs.tried(m, n)) == log["tried"][m] - 1  # the library's own kernel is the other


def test_every_printed_config_is_one_that_was_tried_and_rounding_is_small() -> None:
    for shape in SHAPES.values():
        assert set(shape.seconds) <= set(autotune_logs.tried(shape.m, shape.n))
        assert all(0.5e-7 / time < 0.01 for time in shape.measured().values())


def test_the_split_depends_on_log_and_sizes_alone() -> None:
    odd = hashlib.sha256(b"h100-llama-2-7b 64 4096 4096").digest()[0] % 2
    assert SHAPES["h100-sxm 64 4096 4096"].half == ("test" if odd else "develop")
    assert {shape.half for shape in SHAPES.values()} == set(HALVES)


def test_runs_are_averaged_and_those_that_miss_a_config_left_out() -> None:
    shape = SHAPES["h100-sxm 64 32000 4096"]
    assert shape.measured()[32, 32, 128, 2, 4] == pytest.approx(133.1e-6)
    assert shape.measured()[64, 128, 64, 3, 4] == pytest.approx(math.sqrt(99.8e-6 * 100.7e-6))


def test_no_figure_is_below_the_floor_of_bytes_and_products() -> None:
    shape = SHAPES["h100-sxm 64 32000 4096"]
    system = arch.load_gpu("h100-sxm")
    # one weight, once: 262 MB at 3.35 TB/s; the product at the peak takes a fifth of it
    assert shape.floor_s(system) == pytest.approx(2 * (64 * 4096 + 4096 * 32000 + 64 * 32000) / 3.352e12, rel=1e-3)
    for one in SHAPES.values():
        assert min(one.measured().values()) > one.floor_s(arch.load_gpu(one.gpu))


def test_bad_data_files(tmp_path: Path) -> None:
    text = autotune_logs.DATA.read_text(encoding="utf-8")
    bad = tmp_path / "bad.yaml"
    bad.write_text(text.replace("- [16, 128, 64, 5, 8, 0.0655]", "- [16, 128, 64, 5, 8]"), encoding="utf-8")
    with pytest.raises(TableError, match="5 values for a config of 5 and 1 runs"):
        autotune_logs.read_shapes(bad)
    bad.write_text(text.replace("    b: kn\n", "    b: nn\n"), encoding="utf-8")
    with pytest.raises(UnknownNameError, match="kn"):
        autotune_logs.read_shapes(bad)
    bad.write_text(text.replace("    gpu: l40s\n", ""), encoding="utf-8")
    with pytest.raises(TableError, match="l40s-max-autotune lacks gpu"):
        autotune_logs.read_shapes(bad)


@pytest.mark.slow
def test_kernel_against_torch() -> None:
    run = subprocess.run([sys.executable, "-c", _INTERPRETED], capture_output=True, text=True, timeout=300, check=False,
                         env=os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"})
    assert run.returncode == 0, run.stderr


def test_the_kernel_can_be_bound_for_every_layout() -> None:
    import torch

    from presilicon.validate.kernels.gemm_inductor import matmul_inductor

    a, b, c = (torch.empty(*size, dtype=torch.float16, device="meta") for size in ((64, 128), (128, 256), (64, 256)))
    for nk in (True, False):
        meta = {"M": 64, "N": 256, "K": 128, "B_NK": nk, "BLOCK_M": 64, "BLOCK_N": 64, "BLOCK_K": 32, "GROUP_M": 8, "num_warps": 4,
                "num_stages": 3}
        assert bind_launch(matmul_inductor, (4,), (a, b, c), meta, target="sm_90").programs == 4


def _frame(predicted: list[float]) -> pd.DataFrame:
    measured = [10e-6, 12e-6, 15e-6, math.nan]
    rows = [{"set": "log", "gpu": "gpu", "shape": "gpu 1 2 3", "half": "test", "config": str(n), "measured_s": measured[n],
             "floor_s": 9.5e-6, "predicted_s": predicted[n], "error": predicted[n] / measured[n] - 1.0, "limiter": "dram"}
            for n in range(4)]
    return pd.DataFrame(rows)


def test_regret_is_of_the_best_measured_among_the_fastest_predicted() -> None:
    found, = autotune_logs.choices(_frame([11e-6, 10e-6, 14e-6, 20e-6]), tops=(1, 2))
    assert (found.printed, found.tried, found.place) == (3, 4, 2)
    assert found.regret == {1: pytest.approx(0.2), 2: pytest.approx(0.0)}
    assert found.rank == pytest.approx(0.5)
    first, = autotune_logs.choices(_frame([11e-6, 12e-6, 14e-6, 8e-6]), tops=(1, 2))
    assert math.isinf(first.regret[1])  # the log does not print what was predicted to be the fastest
    assert first.regret[2] == 0.0


def test_the_page_counts_choices_and_predictions_below_the_floor() -> None:
    page = autotune_logs.page(_frame([11e-6, 10e-6, 14e-6, 8e-6]))
    assert "| gpu 1 2 3 | 3 | 4 | 0.500 | 3 | not printed | 0.0% | 0.0% |" in page
    assert "Predictions below the floor of bytes and products: 1 of 4." in page
    assert "top 1: within 3 % of the measured best in 0 of 1 shapes" in page


@pytest.mark.slow
def test_a_weight_is_read_no_faster_than_a_flushed_l2_lets_it() -> None:
    pytest.importorskip("llvmlite")
    shape, system = SHAPES["h100-sxm 64 12288 4096"], arch.load_gpu("h100-sxm")
    time_s, limiter = autotune_logs.predict(shape, (64, 128, 128, 4, 4), system)
    assert limiter == "dram"
    assert time_s > 1.2 * shape.floor_s(system)
    assert abs(time_s / shape.measured()[64, 128, 128, 4, 4] - 1.0) < 0.15
