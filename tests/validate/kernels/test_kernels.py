"""The Triton kernels against torch, in Triton's interpreter on tiny sizes; and that each compiles for several GPUs without one."""

from __future__ import annotations

import csv
import itertools
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("triton")

from presilicon.validate.kernel_rows import _GROUPS, TIMER  # noqa: E402
from presilicon.validate.kernels import all_suites, groups, suite_named  # noqa: E402
from presilicon.validate.kernels.attention_suites import pairs, prefill_flops, prefill_of, sparse_blocks  # noqa: E402
from presilicon.validate.kernels.moe import align, route  # noqa: E402
from presilicon.validate.kernels.precompile import compile_offline  # noqa: E402
from presilicon.validate.kernels.suite import Place, fields_of, relative_error, text_of  # noqa: E402

SUITES = all_suites()
COMPILED = [name for name, suite in SUITES.items() if suite.call is None]
MEASURE = [sys.executable, "-m", "presilicon.validate.measure"]


@pytest.fixture(scope="module")
def checked(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, str]]:
    """Rows of one run of every tiny point in the interpreter."""
    out = tmp_path_factory.mktemp("check") / "check.csv"
    run = subprocess.run(
        [*MEASURE, "--check", "--suite", "all,gemm_tutorial", "--quiet", "-o", str(out)],
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        timeout=600,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    with out.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, suite in SUITES.items() if suite.interpretable and suite.tiny])
def test_agrees_with_torch_on_tiny_sizes(name: str, checked: list[dict[str, str]]) -> None:
    rows = [row for row in checked if row["suite"] == name]
    assert {row["shape"] for row in rows} == {text_of(shape) for shape, _ in SUITES[name].tiny}
    for row in rows:
        assert row["status"] == "ok", f"{row['shape']} {row['config']}: {row['message']}"
        assert float(row["error"]) <= float(row["tolerance"])


def test_every_kernel_is_run_by_the_interpreter_but_those_in_assembly() -> None:
    untried = {name for name, suite in SUITES.items() if not suite.tiny}
    # the same kernels as gemm, latency_arithmetic and latency_tensor_core
    assert untried == {"latency_shared", "gemm_fp16", "gemm_tune", "rate_arithmetic", "rate_tensor_core"}


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Triton's driver is put back after the test."""
    from triton.runtime import driver

    monkeypatch.setattr(driver, "_active", driver._active)
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "cache"))


def _compile(name: str, capability: int, number: int = 0) -> list[Any]:
    suite = suite_named(name)
    shape = suite.shapes[0]
    if refused := suite.refuses(shape, capability):
        pytest.skip(refused)
    return compile_offline(suite.predict(shape, suite.configs(shape)[number], capability=capability), capability)


@pytest.mark.slow
@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize(("capability", "instruction"), [(80, "mma.sync"), (90, "wgmma"), (100, "tcgen05")])
def test_gemm_uses_the_tensor_cores_of_each_generation(capability: int, instruction: str) -> None:
    (kernel,) = _compile("gemm", capability, 5)
    assert instruction in kernel.asm["ptx"]


@pytest.mark.usefixtures("offline")
@pytest.mark.slow
@pytest.mark.parametrize("capability", [80, 90, 100])
@pytest.mark.parametrize("name", COMPILED)
def test_every_kernel_compiles(name: str, capability: int) -> None:
    for kernel in _compile(name, capability):
        assert kernel.asm["cubin"][:4] == b"\x7fELF"


@pytest.mark.usefixtures("offline")
def test_a_launch_finds_what_was_compiled_offline_in_the_cache(tmp_path: Path) -> None:
    """The tensors of a launch have data and addresses, those of the compiler do not; both must give one cache entry."""
    suite = suite_named("rms_norm")
    shape, config = {"m": 64, "n": 512, "dtype": "bfloat16"}, {"num_warps": 4}
    compile_offline(suite.predict(shape, config), 90)
    before = {path.name for path in (tmp_path / "cache").iterdir()}
    place = Place("cpu")
    compile_offline(suite.launches(shape, config, suite.tensors(shape, place), place), 90)
    assert {path.name for path in (tmp_path / "cache").iterdir()} == before
    assert before


@pytest.mark.slow
def test_compiler_process_answers_errors_and_goes_on(tmp_path: Path) -> None:
    requests = [
        {
            "suite": "softmax",
            "shape": {"m": 8, "n": 64, "dtype": "float32"},
            "config": {"PER_SM": 1, "STAGES": 2, "num_warps": warps},
            "sm_count": 4,
            "capability": 90,
        }
        for warps in (3, 4)
    ]
    run = subprocess.run(
        [*MEASURE, "--compile"],
        input="".join(json.dumps(r) + "\n" for r in requests),
        capture_output=True,
        text=True,
        env=os.environ | {"TRITON_CACHE_DIR": str(tmp_path)},
        timeout=600,
        check=False,
    )
    first, second = (json.loads(line)["error"] for line in run.stdout.splitlines())
    assert "num_warps" in first
    assert second == ""


def test_shapes_and_configs_survive_their_text() -> None:
    for suite in SUITES.values():
        points = [(shape, config) for shape in suite.shapes for config in suite.configs(shape)]
        assert points
        assert len({(text_of(s), text_of(c)) for s, c in points}) == len(points), f"{suite.name}: a point is there twice"
        for shape, config in points:
            assert fields_of(text_of(shape)) == dict(shape)
            assert fields_of(text_of(config)) == dict(config)
            assert suite.flops(shape) >= 0
            assert suite.bytes(shape) >= 0


def test_tuning_space_has_fifty_configs() -> None:
    tune = suite_named("gemm_tune")
    assert all(len(tune.configs(shape)) >= 50 for shape in tune.shapes)


def test_what_is_measured_of_kernels_can_be_predicted() -> None:
    """Rows of other timers than CUDA graphs are left out of calibration and validation, the bar of tuning included."""
    predicted = {name for group in _GROUPS for name in groups()[group] if not SUITES[name].extra}
    assert "gemm_tune" in predicted
    assert {name for name in predicted if TIMER not in SUITES[name].timers} == set()


def test_meta_launches_keep_the_values_that_steer_a_kernel() -> None:
    moe = suite_named("moe_gemm")
    shape = {"tokens": 64, "hidden": 64, "inter": 64, "experts": 8, "top_k": 2, "distribution": "balanced", "dtype": "bfloat16"}
    (launch,) = moe.predict(shape, moe.configs(shape)[0])
    devices = {a.device.type for a in launch.args if hasattr(a, "device")}
    assert devices == {"meta", "cpu"}
    assert launch.args[8].item() == 8 * 64  # each expert's 16 pairs fill one block of 64 rows


@pytest.mark.parametrize(("q", "kv", "causal", "window"), [(7, 7, True, 0), (5, 9, True, 3), (4, 6, False, 0), (6, 6, True, 20)])
def test_seen_pairs_are_those_of_the_mask(q: int, kv: int, causal: bool, window: int) -> None:
    stand, keys = np.arange(q)[:, None] + kv - q, np.arange(kv)[None, :]
    seen = np.ones((q, kv), bool)
    if causal:
        seen &= keys <= stand
    if window:
        seen &= keys > stand - window
    assert pairs(q, kv, causal, window) == seen.sum()


def test_flops_of_causal_attention_are_half() -> None:
    full, causal = (prefill_flops(prefill_of(1, 1024, 1024, 4, 4, 64, causal=c)) for c in (0, 1))
    assert causal / full == pytest.approx(0.5, rel=2e-3)


@pytest.mark.parametrize("distribution", ["balanced", "power_law_1.01", "power_law_1.2"])
@pytest.mark.parametrize(("tokens", "experts", "top_k", "block"), [(100, 8, 2, 16), (3, 64, 8, 64), (1, 8, 1, 16), (64, 60, 4, 16)])
def test_routing_is_sorted_into_whole_blocks_of_one_expert(distribution: str, tokens: int, experts: int, top_k: int, block: int) -> None:
    chosen = route(tokens, experts, top_k, distribution, seed=3)
    assert chosen.shape == (tokens, top_k)
    assert all(len(set(row)) == top_k for row in chosen.tolist())
    ids, of_block, used = align(chosen, experts, block)
    assert used % block == 0
    assert used <= len(ids) == len(of_block) * block
    assert sorted(ids[ids < tokens * top_k].tolist()) == list(range(tokens * top_k))
    assert (ids[used:] == tokens * top_k).all()
    for number, expert in enumerate(of_block[: used // block]):
        rows = [i for i in ids[number * block : (number + 1) * block].tolist() if i < tokens * top_k]
        assert rows
        assert (chosen.reshape(-1)[rows] == expert).all()


def test_sparse_lists_hold_the_diagonal_and_the_strided_blocks() -> None:
    first, blocks = sparse_blocks(n=80, block=16, local=2, stride=4)
    assert [blocks[a:b].tolist() for a, b in itertools.pairwise(first)] == [[0], [0, 1], [0, 1, 2], [0, 2, 3], [0, 3, 4]]


def test_relative_error_of_unwritten_output_is_infinite() -> None:
    reference = torch.ones(4)
    assert relative_error(torch.tensor([1.0, 1.0, float("nan"), 1.0]), reference) == float("inf")
    assert relative_error(torch.full((4,), 1.01), reference) == pytest.approx(0.01, rel=1e-3)
    with pytest.raises(ValueError, match="shape"):
        relative_error(torch.ones(3), reference)


def test_groups_cover_every_suite_once() -> None:
    assert sorted(name for names in groups().values() for name in names) == sorted(SUITES)


def test_unknown_suite_names_the_nearest() -> None:
    with pytest.raises(KeyError, match="gemm_split_k"):
        suite_named("gemm_splitk")
