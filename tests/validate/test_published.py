"""Published figures of Triton kernels: what is read, how it is split, and predictions of a handful."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("torch")
pytest.importorskip("triton")

import pandas as pd

from presilicon import arch
from presilicon.arch.yamlfile import read_yaml
from presilicon.errors import KernelError, TableError, UnknownNameError
from presilicon.validate import moe_routing, moe_rows, older_triton, published, published_kernels
from presilicon.validate.published_kernels import KERNELS, Point, predict

POINTS = published.read_points()

_INTERPRETED = """
import torch
from presilicon.validate.kernels import published as kernels
torch.manual_seed(0)
a, b = torch.randn(40, 24), torch.randn(24, 72)
c = torch.empty(40, 72)
kernels.matmul_fp32[(4,)](a, b, c, 40, 72, 24, 24, 1, 72, 1, 72, 1, BLOCK_M=32, BLOCK_N=64, BLOCK_K=16, GROUP_M=8)
torch.testing.assert_close(c, a @ b)
x = torch.randn(5, 70, requires_grad=True)
target = torch.randint(0, 70, (5,))
wanted = torch.nn.functional.cross_entropy(x, target, reduction="none")
wanted.mean().backward()
loss, got = torch.empty(5), x.detach().clone()
kernels.cross_entropy[(5,)](got, target, loss, 70, 70, 5, BLOCK=32)
torch.testing.assert_close(loss, wanted.detach())
torch.testing.assert_close(got, x.grad)
from triton.tools.tensor_descriptor import TensorDescriptor
q, k, v = (torch.randn(2 * 64, 16) for _ in range(3))
out, lse = torch.empty(2 * 64, 16), torch.empty(2 * 64)
boxes = [TensorDescriptor.from_tensor(t, [32, 16]) for t in (q, k, v, out)]
kernels.attention_tma[(2, 2)](*boxes, lse, 16**-0.5 * 1.4426950408889634, 64, HEAD_DIM=16, BLOCK_M=32, BLOCK_N=32, SPECIALISED=False)
reference = torch.nn.functional.scaled_dot_product_attention(*(t.view(2, 64, 16) for t in (q, k, v)))
torch.testing.assert_close(out.view(2, 64, 16), reference, atol=1e-4, rtol=1e-4)
q, k, v = (t.view(2, 64, 16) for t in (q, k, v))
for causal in (False, True):
    reference = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=causal)
    scores = (q @ k.transpose(1, 2)) * 0.25
    if causal:
        scores = scores.masked_fill(torch.ones(64, 64).triu(1).bool(), -torch.inf)
    out, lse = torch.empty(2, 64, 16), torch.empty(2, 64)
    values = v if causal else v.transpose(1, 2).contiguous()
    kernels.attention_tiles[(2, 2)](q, k, values, out, lse, 0.25 * 1.4426950408889634, 64, HEAD_DIM=16, BLOCK_M=32, BLOCK_N=16,
                                    CAUSAL=causal, V_BY_COLUMNS=not causal, BLOCK_POINTERS=False)
    torch.testing.assert_close(out, reference, atol=1e-4, rtol=1e-4)
    # the total starts at one where the maximum starts at minus infinity, and fades out with the first block
    torch.testing.assert_close(lse, scores.logsumexp(-1) * 1.4426950408889634, atol=1e-4, rtol=1e-4)
"""


def one(name: str, label: str) -> Point:
    return next(point for point in POINTS if (point.name, point.label) == (name, label))


def test_figures_are_many_and_say_where_they_come_from() -> None:
    assert len(POINTS) >= 150
    assert len({point.kernel for point in POINTS}) >= 6
    assert len({point.gpu for point in POINTS}) >= 6
    assert len({(point.name, point.label) for point in POINTS}) == len(POINTS)
    for name, group in read_yaml(published.DATA)["sets"].items():
        assert str(group["source"]).startswith(("https://github.com/", "https://arxiv.org/")), name
        assert arch.load_gpu(group["gpu"]).name == group["gpu"]


def test_the_split_depends_on_set_and_sizes_alone() -> None:
    point = one("l40s-moe-fp8", "64")
    odd = hashlib.sha256(b"l40s-moe-fp8 64").digest()[0] % 2
    assert published.half_of(point) == ("test" if odd else "develop")
    for half in published.HALVES:
        assert len([p for p in POINTS if published.half_of(p) == half]) > 0.4 * len(POINTS)


def test_units() -> None:
    # the thread prints both numbers for this kernel: 1,208.855 TFLOP/s and 454.774 us
    assert 2 * 8192**2 * 4096 / one("h100-matmul-fp8-persistent", "plain 8192 8192 4096").measured_s == pytest.approx(1208.855e12, rel=1e-5)
    # half of the products of causal attention count
    assert one("h100-attention-d64-causal", "2048").measured_s == pytest.approx(2 * 4 * 48 * 2048**2 * 64 / 303.033e12)


def test_bad_data_files(tmp_path: Path) -> None:
    text = published.DATA.read_text(encoding="utf-8")
    bad = tmp_path / "bad.yaml"
    bad.write_text(text.replace("columns: [tokens, figure]", "columns: [tokens, config, figure]", 1), encoding="utf-8")
    with pytest.raises(TableError, match="2 values for the columns tokens, config, figure"):
        published.read_points(bad)
    bad.write_text(text.replace("kernel: layer_norm", "kernel: layer_nrm"), encoding="utf-8")
    with pytest.raises(UnknownNameError, match="layer_norm"):
        published.read_points(bad)
    bad.write_text(text.replace("    gpu: l40s\n", ""), encoding="utf-8")
    with pytest.raises(TableError, match="l40s-moe-fp8 lacks gpu"):
        published.read_points(bad)


def test_uniform_routing_takes_different_experts_for_each_token() -> None:
    row = moe_rows.MoeRow("vllm", "", "bfloat16", 512, 64, 64, 8, 32, 1, 1, "uniform", 0.0)
    routing = moe_routing.routing_of(row, 16)
    assert routing.experts_of.shape == (512, 8)
    assert all(len(set(experts)) == 8 for experts in routing.experts_of.tolist())
    assert routing.active == 32


@pytest.mark.slow
def test_kernels_against_torch() -> None:
    run = subprocess.run([sys.executable, "-c", _INTERPRETED], capture_output=True, text=True, timeout=300, check=False,
                         env=os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"})
    assert run.returncode == 0, run.stderr


def test_older_kernels_are_taken_from_the_folder_of_their_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    point = one("h100-fa3-attention-d64", "16 1024")
    monkeypatch.setattr(published_kernels, "compile_launch", lambda launch: None)
    monkeypatch.setattr(published_kernels, "occupancy_of", lambda compiled, machine: SimpleNamespace(ctas=0))
    folders = [tmp_path / version for version in ("3.0.0", "3.2.0")]
    for folder in folders:
        folder.mkdir()
        (folder / "kernels.json").write_text(f'{{"triton": "{folder.name}", "shared_bytes": {{}}}}', encoding="utf-8")
    with pytest.raises(TableError, match=r"3\.0\.0: no kernel 'attention\.float16\.64\.full\.64x32x4x3'"):
        predict(point, cubins=folders[::-1])
    with pytest.raises(KernelError, match="no config fits"):
        predict(point, cubins=folders[1:])


def test_older_triton_compiles_every_kernel_that_is_wanted_of_it() -> None:
    wanted = {(str(p.sizes["dtype"]), int(p.sizes["head_dim"]), bool(p.sizes["causal"]), str(p.sizes["configs"]))
              for p in POINTS if p.kernel == "attention_tiles" and p.triton}
    assert wanted == set(older_triton.ATTENTION_KERNELS)
    # release 3.0 leaves out 8 warps on tiles below 128x128, so that all of its own have 4
    assert {warps for *_, warps, _ in older_triton.ATTENTION_CONFIGS["tutorial-2024"]} == {4}
    assert (128, 128, 8, 3) in older_triton.ATTENTION_CONFIGS["torchbench-2024"]


def test_every_kernel_of_the_data_file_can_be_bound() -> None:
    for kernel in KERNELS:
        point = next(point for point in POINTS if point.kernel == kernel)
        config, launch = next(KERNELS[kernel](point.sizes, point.system()))
        assert config
        assert launch.programs > 0


@pytest.mark.slow
def test_a_handful_of_predictions() -> None:
    pytest.importorskip("llvmlite")  # a pure Python run of as many instructions takes an hour
    few = [one("h100-rms-norm", "32768"), one("a100-pcie-moe-bf16", "64")]
    frame = published.compare(few)
    assert frame.predicted_s.notna().all()
    assert (frame.error.abs() < 0.25).all()
    rows = predict(few[0])
    moved = 2 * 2048 * 32768 * 2
    # do_bench clears a buffer before: what of it L2 still has to write is no more than L2 holds
    assert 0.99 * moved < rows.runs[0].bytes_moved["dram"] < moved + few[0].system().gpu.l2.size_bytes
    assert rows.time_s > moved / few[0].system().ceilings_bytes_per_s["dram"]


def test_errors_are_printed_worst_first() -> None:
    names = ("set", "gpu", "kernel", "triton", "sizes", "half", "measured_s", "predicted_s", "error", "config", "limiter")
    rows = [("good", "a", "x", "3.9", "1", "test", 1e-4, 1.02e-4, 0.02, "c", "dram"),
            ("bad", "b", "y", "3.0", "2", "develop", 1e-4, 1.5e-4, 0.5, "c", "l2"),
            ("none", "b", "y", "3.0", "3", "test", 1e-4, float("nan"), float("nan"), "", "why not")]
    page = published.page(pd.DataFrame([dict(zip(names, row, strict=True)) for row in rows]))
    assert page.index("| bad |") < page.index("| good |")
    assert page.index("+50.0%") < page.index("+2.0%")
    assert "1 points without a prediction, the first: why not" in page
