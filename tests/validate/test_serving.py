"""Serving frameworks' Triton kernels: which rows are taken, what surrounds the kernels, how parts are added up."""

from __future__ import annotations

import math
import zlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("triton")

import numpy as np
import pandas as pd

from presilicon import arch
from presilicon.errors import KernelError, TableError
from presilicon.mapping.gpu.machine import Machine
from presilicon.mapping.gpu.memory_bound import memory_kernel
from presilicon.validate import serving
from presilicon.validate import serving_launches as launches
from presilicon.validate.packages import Package

L40S = arch.load_gpu("l40s")
ROW = {"framework": "sglang", "version": "0.5.14", "kernel_source": "triton", "batch_size": 4, "isl": 64, "num_heads": 8,
       "num_key_value_heads": 2, "head_dim": 64, "attn_dtype": "bfloat16", "kv_cache_dtype": "bfloat16", "step": 0, "window_size": 0,
       "latency_s": 1e-5}


class Recorder:
    """A package whose launch functions note what they are called with."""

    def __init__(self) -> None:
        self.args: tuple[Any, ...] = ()
        self.keyword: dict[str, Any] = {}
        self.given: dict[str, Any] = {}

    def take(self, module: str, names: Any, given: Any = None) -> Any:
        self.given = dict(given or {})

        def called(*args: Any, **keyword: Any) -> None:
            self.args, self.keyword = args, keyword

        return SimpleNamespace(**(dict.fromkeys(names, called) | {"KVQuantMode": SimpleNamespace(NONE=0, FP8_PER_TENSOR=1)}))


def _table(folder: Path, rows: list[dict[str, Any]], name: str = "l40s.encoder_attention") -> None:
    pd.DataFrame(rows).to_csv(folder / f"{name}.csv", index=False)


def _read(folder: Path, source: serving.Source, half: str, count: int, name: str = "l40s.encoder_attention") -> list[dict[str, Any]]:
    return serving.read_rows(folder / f"{name}.csv", source, half, count, L40S)


def test_rows_are_those_of_the_kernel_spread_over_its_times(tmp_path: Path) -> None:
    rows = [{**ROW, "isl": n, "latency_s": n * 1e-6} for n in range(1, 401)]
    _table(tmp_path, [*rows, {**ROW, "kernel_source": "other"}, {**ROW, "version": "0.5.9"}])
    source = serving.SOURCES[0]
    both = [_read(tmp_path, source, half, 1000) for half in serving.HALVES]
    assert sorted(row["isl"] for half in both for row in half) == list(range(1, 401))
    for half, part in zip(serving.HALVES, both, strict=True):
        assert 120 < len(part) < 280
        for row in part:
            text = ",".join(str(row[name]) for name in row if name not in ("framework", "version", "kernel_source", "latency_s"))
            assert zlib.crc32(text.encode()) % 2 == (half == "test")
    times = [row["latency_s"] for row in _read(tmp_path, source, "", 40)]
    assert np.all(np.diff(times) == pytest.approx(1e-5))
    (tmp_path / "l40s.encoder_attention.csv").write_text("framework,version,kernel_source\n")
    with pytest.raises(TableError, match="latency_s"):
        _read(tmp_path, source, "", 40)


def test_every_gpu_of_a_folder_that_has_a_device_file_is_compared(tmp_path: Path) -> None:
    source = serving.SOURCES[0]
    for gpu in ("l40s", "rtx_pro_6000_server", "b999_sxm"):
        _table(tmp_path, [{**ROW, "isl": n} for n in range(1, 9)], f"{gpu}.encoder_attention")
    _table(tmp_path, [{**ROW, "kernel_source": "other"}], "h100_sxm.encoder_attention")
    found = serving.find_rows(tmp_path, source, "", 4)
    assert [(system.name, len(rows)) for system, rows in found] == [("l40s", 4), ("rtx-pro-6000", 4)]
    assert [system.name for system, _ in serving.find_rows(tmp_path, source, "", 4, gpu="rtx")] == ["rtx-pro-6000"]
    with pytest.raises(TableError, match=r"no table h100\*.*SGLang encoder attention"):
        serving.compare(tmp_path, tmp_path, [source], gpu="h100")


def test_rows_that_measure_the_host_are_left_out(tmp_path: Path) -> None:
    (source,) = (source for source in serving.SOURCES if source.bytes_of is not None)
    rows = [{"framework": source.framework, "version": source.version, "kernel_source": source.kernel_source, "batch_size": 64,
             "num_heads": 16, "step": n, "latency_s": 3e-4} for n in range(1, 20_000, 10)]
    _table(tmp_path, rows, "a100_sxm.generation_mla")
    ((_, taken),) = serving.find_rows(tmp_path, source, "", 5000)
    kept = [row["step"] for row in taken]
    least = 3e-4 * 2.039e12 / (64 * 576 * 2)
    assert kept == [n for n in range(1, 20_000, 10) if n >= least]


def _simulated(monkeypatch: pytest.MonkeyPatch, steps: tuple[Any, ...]) -> serving.Prediction:
    monkeypatch.setattr(serving, "compile_launch", lambda bound: None)
    monkeypatch.setattr(serving, "simulate_kernel", lambda compiled, bound, system, **options: SimpleNamespace(
        time_s=bound, limiter="dram" if options == {"fidelity": "tile", "warm_l2": True} else "?"))
    source = serving.Source("x", "x", "f", "1", "k", lambda row, package, system: launches.Call(steps))
    return serving.predict_row(ROW, source, Package("f", "1", Path()), L40S)


def test_a_call_is_the_sum_of_its_kernels_and_of_what_moves_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    configs = {1: [], 2: [3.0, 2.0, 4.0]}   # the second is autotuned: the fastest config runs
    kernel = [SimpleNamespace(name=f"k{n}", configs=lambda n=n: configs[n], bind=lambda target, config, n=n: (config or n) * 1e-5)
              for n in (1, 2)]
    moved = launches.Moved(1e6, 2e6)
    alone = _simulated(monkeypatch, (kernel[0],))
    assert alone.time_s == pytest.approx(1e-5)
    found = _simulated(monkeypatch, (moved, kernel[0], kernel[1]))
    beside = float(memory_kernel(Machine.of(L40S), 1e6, 2e6).time_s)
    floor, between = L40S.calibration["memory.floor"], L40S.calibration["gemm.step_launch"]
    assert between < floor
    assert found.time_s == pytest.approx(beside + 3e-5 - 2 * (floor - between))
    assert found.kernels == (("k1", 1e-5, "dram"), ("k2", 2e-5, "dram"))


@pytest.mark.parametrize(("dim", "cache", "kernels"), [(64, "bfloat16", 1), (64, "fp8", 3), (192, "bfloat16", 4), (192, "fp8", 6)])
def test_keys_and_values_are_cast_and_stored(dim: int, cache: str, kernels: int) -> None:
    recorder: Any = Recorder()
    call = launches.sglang_decode({**ROW, "head_dim": dim, "kv_cache_dtype": cache, "step": 99}, recorder, L40S)
    assert len(call.steps) == kernels
    values = 4 * 2 * (dim + (128 if dim == 192 else dim))
    item = 1 if cache == "fp8" else 2
    stored = sum(step.written for step in call.steps[-1:]) if dim == 64 else sum(step.written for step in call.steps[-1::-2][:2])
    assert stored == values * item
    q, k, v, out = recorder.args[:4]
    assert (k.shape[1:], v.shape[1:], out.shape) == ((2, dim), (2, values // 8 - dim), (4, 8, values // 8 - dim))
    assert q.shape == (4, 8, dim)
    assert k.element_size() == item
    assert recorder.given["CUDA_CAPABILITY"] == (8, 9)


def test_a_window_reads_no_more_than_its_tokens() -> None:
    recorder: Any = Recorder()
    launches.sglang_decode({**ROW, "step": 9999, "window_size": 128}, recorder, L40S)
    starts, slots, splits = recorder.args[4], recorder.args[5], recorder.args[8]
    assert starts.tolist() == [0, 128, 256, 384, 512]
    assert len(slots) == len(set(slots.tolist())) == 512
    assert 0 <= int(slots.min()) <= int(slots.max()) < len(recorder.args[1])
    assert splits.tolist() == [8] * 4   # by the whole length
    launches.vllm_unified({**ROW, "step": 9999, "window_size": 128, "kv_cache_dtype": "fp8"}, recorder, L40S)
    table, k = recorder.keyword["block_table"], recorder.keyword["k"]
    assert table.shape == (4, math.ceil(9999 / 64))
    read = table[:, (9999 - 128) // 64:]
    assert sorted(read.flatten().tolist()) == list(range(1, 4 * read.shape[1] + 1))
    assert len(k) == 4 * read.shape[1] + 1
    assert recorder.keyword["window_size"] == (127, 0)


def test_prefill_reads_new_keys_where_they_are() -> None:
    recorder: Any = Recorder()
    launches.sglang_extend({**ROW, "window_size": 32}, recorder, L40S)
    assert recorder.args[6].tolist() == [0, 64, 128, 192, 256]
    assert recorder.args[7].tolist() == [0] * 5
    assert recorder.keyword["sliding_window_size"] == 32
    launches.sglang_extend(ROW, recorder, L40S)
    assert recorder.keyword["sliding_window_size"] == -1
    launches.sglang_encoder(ROW, recorder, L40S)
    assert recorder.args[4].tolist() == [0, 64, 128, 192, 256]
    assert recorder.args[5].tolist() == [64] * 4
    assert recorder.keyword["is_causal"] is False


def test_latent_decode_and_the_delta_rule() -> None:
    recorder: Any = Recorder()
    call = launches.vllm_mla({"batch_size": 3, "num_heads": 16, "step": 100}, recorder, arch.load_gpu("a100-sxm-80gb"))
    assert recorder.args[1].shape == (7, 64, 1, 576)
    assert recorder.args[2].shape == (7, 64, 1, 512)
    assert recorder.args[5].shape == (3, 2)
    assert sum(step.read for step in call.steps if isinstance(step, launches.Moved)) > 2 * 2 * 16 * 128 * 512
    with pytest.raises(KernelError, match=r"2\^31"):
        launches.vllm_mla({"batch_size": 512, "num_heads": 64, "step": 8191}, recorder, L40S)
    row = {"phase": "generation", "batch_size": 5, "num_k_heads": 16, "head_k_dim": 128, "num_v_heads": 32, "head_v_dim": 64}
    launches.sglang_delta_rule(row, recorder, L40S)
    assert recorder.args[6].shape == (5, 32, 64, 128)
    with pytest.raises(KernelError, match="generation"):
        launches.sglang_delta_rule({**row, "phase": "context"}, recorder, L40S)
    launches.sglang_delta_packed({**row, "seq_len": 1}, recorder, L40S)
    assert recorder.keyword["mixed_qkv"].shape == (5, 2 * 16 * 128 + 32 * 64)
    assert recorder.keyword["initial_state"].shape == (5, 32, 64, 128)


def test_a_delta_rule_in_chunks_and_its_convolution() -> None:
    recorder: Any = Recorder()
    row = {"batch_size": 2, "seq_len": 130, "num_k_heads": 4, "head_k_dim": 128, "num_v_heads": 8, "head_v_dim": 64, "d_conv": 4}
    call = launches.sglang_delta_chunks(row, recorder, L40S)
    assert recorder.keyword["chunk_indices"].tolist() == [[0, 0], [0, 1], [0, 2], [1, 0], [1, 1], [1, 2]]
    assert recorder.keyword["cu_seqlens"].tolist() == [0, 130, 260]
    assert recorder.keyword["v"].shape == (1, 260, 8, 64)
    assert call.steps == (launches.Moved(0.0, 260 * 8 * 64 * 2),), "the matrix of a chunk, 64 numbers of 16 bits a token and head"
    launches.sglang_conv(row, recorder, L40S)
    assert recorder.args[0].shape == (2 * 4 * 128 + 8 * 64, 260)
    assert recorder.args[0].stride() == (1, 1536), "tokens outside, channels inside"
    assert recorder.keyword["seq_lens_cpu"] == [130, 130]


def test_splits_fill_the_sms_and_no_more() -> None:
    for length in (1, 2, 33, 64, 200, 4096, 131072):
        for batch in (1, 3, 64, 2048):
            for heads, kv in ((1, 1), (8, 8), (32, 4), (64, 1)):
                splits = launches.kv_splits(length, batch, heads, kv, 142)
                ctas = batch * (heads if heads == kv else math.ceil(heads / min(16, heads // kv)))
                assert 1 <= splits <= min(8, length)
                wanted = 142 * max(1.0, math.log2(length / 64))
                assert splits == 1 or (splits - 1) * ctas < wanted   # one fewer would not have been enough
    assert launches.kv_splits(4096, 142 * 7, 1, 1, 142) == 1
    assert launches.kv_splits(4096, 1, 1, 1, 142) == 8


def test_the_page_puts_the_worst_first() -> None:
    frame = pd.DataFrame([
        {"kernel": "good", "gpu": "l40s", "sizes": "a=1", "half": "develop", "measured_s": 1e-5, "predicted_s": 1.1e-5, "error": 0.1,
         "size": "up to 20 us", "limiter": "x"},
        {"kernel": "bad", "gpu": "l40s", "sizes": "a=2", "half": "test", "measured_s": 1e-3, "predicted_s": 2e-3, "error": 1.0,
         "size": "200 us to 2 ms", "limiter": "y"},
        {"kernel": "bad", "gpu": "l40s", "sizes": "a=3", "half": "test", "measured_s": 1e-3, "predicted_s": float("nan"),
         "error": float("nan"), "size": "200 us to 2 ms", "limiter": "does not fit"},
    ])
    text = serving.page(frame)
    assert "| all | 2 | 55.0% | 55.0% |" in text
    assert text.index("| bad | 1 | 100.0% |") < text.index("| good | 1 | 10.0% |")
    assert text.index("bad, l40s  a=2") < text.index("good, l40s  a=1")
    assert "1 points without a prediction, the first: does not fit" in text
    assert "1 points without a prediction" in serving.page(frame[frame.predicted_s.isna()]), "also where there is no other"
