"""`predict_kernel`, `capture_launches` and `tune` from Python."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

pytest.importorskip("triton", reason="needs Triton (the extra `kernels`)")
torch = pytest.importorskip("torch", reason="needs torch for meta tensors")

import presilicon as ps  # noqa: E402
from presilicon.errors import KernelError, SpecError, UnknownNameError  # noqa: E402
from presilicon.kernel_api import interval_of  # noqa: E402

HERE = Path(__file__).parent
N = 1 << 20


pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture(scope="module")
def kernels() -> ModuleType:
    spec = importlib.util.spec_from_file_location("kernels_for_commands", HERE / "cli" / "kernels_for_commands.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def vectors(kernels: ModuleType) -> tuple[Any, ...]:
    return kernels.floats(N), kernels.floats(N), kernels.floats(N), N


def test_a_report(kernels: ModuleType, tmp_path: Path) -> None:
    report = ps.predict_kernel(kernels.add, (N // 1024,), vectors(kernels), "h100-sxm", BLOCK=1024)
    assert repr(report).startswith("KernelReport(add[1024, 1, 1] on h100-sxm: ")
    low, high = report.interval_s
    assert low < report.time_s < high
    assert "limited by" in report.summary()
    assert "tl.store(out_ptr" in report.annotated_source()
    frame = report.to_frame()
    assert frame["share"].sum() == pytest.approx(1.0)
    assert "<table>" in report._repr_html_()
    with pytest.raises(SpecError, match="no timeline was recorded"):
        report.to_perfetto(tmp_path / "none.json")


def test_a_report_comes_back_from_the_disk_as_it_was(kernels: ModuleType) -> None:
    first = ps.predict_kernel(kernels.add, (N // 512,), vectors(kernels), "l4", BLOCK=512)
    again = ps.predict_kernel(kernels.add, (N // 512,), vectors(kernels), "l4", BLOCK=512)
    assert again == first
    assert again is not first
    faster = ps.load_system("l4").override({"dram.bandwidth": "600 GB/s"})
    other = ps.predict_kernel(kernels.add, (N // 512,), vectors(kernels), faster, BLOCK=512)
    assert other.time_s < 0.7 * first.time_s, "a changed system is another question"


def test_recorded_launches(kernels: ModuleType) -> None:
    with ps.capture_launches() as launches:
        x, y, out, n = vectors(kernels)
        kernels.add[(N // 1024,)](x, y, out, n, BLOCK=1024)
    (launch,) = launches
    report = ps.predict_kernel(launch, system="l4")
    assert report.time_s == ps.predict_kernel(kernels.add, (N // 1024,), vectors(kernels), "l4", BLOCK=1024).time_s
    with pytest.raises(KernelError, match="a recorded launch has its own grid"):
        ps.predict_kernel(launch, (1,))


def test_a_launch_says_where_it_owes_something_to_another_gpu(kernels: ModuleType) -> None:
    import torch

    with ps.capture_launches() as launches:
        x, y, out, n = vectors(kernels)
        sms = torch.cuda.get_device_properties(0).multi_processor_count
        kernels.add[(sms,)](x, y, out, n, BLOCK=1024)
        kernels.add[(sms,)](x, y, out, n, BLOCK=1024, num_warps=64)
    assert ps.predict_kernel(launches[0], system="h100-sxm").run.assumptions == ()
    (told,) = ps.predict_kernel(launches[0], system="a100-sxm-80gb").run.assumptions
    assert "launched as on h100-sxm" in told
    assert "multi_processor_count (132 there, 108 here)" in told
    with pytest.raises(KernelError, match=r"(?s)2048 threads a CTA.*launched as on h100-sxm"):
        ps.predict_kernel(launches[1], system="a100-sxm-80gb")


@pytest.mark.slow
def test_of_an_autotuned_kernel_the_fastest_config_is_taken(kernels: ModuleType) -> None:
    grid = lambda meta: (-(-N // meta["BLOCK"]),)  # noqa: E731
    args = (kernels.floats(N), kernels.floats(N), N)
    chosen = ps.predict_kernel(kernels.tuned, grid, args, "h100-sxm")
    each = [ps.predict_kernel(kernels.tuned, grid, args, "h100-sxm", config=i).time_s for i in range(2)]
    assert chosen.time_s == min(each)
    assert "BLOCK" in chosen.info.config


@pytest.mark.slow
def test_configs_that_cannot_run_are_left_out_and_named_as_an_autotuner_does(kernels: ModuleType) -> None:
    import triton

    def tuned(*threads: int) -> Any:
        configs = [triton.Config({"BLOCK": 1024}, num_warps=warps) for warps in threads]
        return triton.autotune(configs, key=["n"])(kernels.add)

    report = ps.predict_kernel(tuned(64, 4, 2), (N // 1024,), vectors(kernels), "l4")
    assert "num_warps: 64" not in report.info.config
    (left_out,) = report.info.left_out
    assert left_out.startswith("BLOCK: 1024, num_warps: 64")
    assert "2048 threads a CTA, 1024 are the most" in left_out
    assert "left out    BLOCK: 1024, num_warps: 64" in report.summary()
    assert type(report).from_document(report.document()) == report
    with pytest.raises(KernelError, match=r"none of 2 autotune configs can run on l4; the first: .*2048 threads"):
        ps.predict_kernel(tuned(64, 128), (N // 1024,), vectors(kernels), "l4")


def test_what_cannot_launch_is_not_disassembled_and_known_the_next_time(kernels: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    from presilicon.mapping.triton import compile as compiling

    monkeypatch.setattr(compiling, "_disassembled", None)
    for _ in range(2):
        with pytest.raises(KernelError, match="add' cannot launch on l4: 2048 threads a CTA"):
            ps.predict_kernel(kernels.add, (N // 1024,), vectors(kernels), "l4", BLOCK=1024, num_warps=64)
        monkeypatch.setattr(compiling, "_run_stages", None)


@pytest.mark.slow
@pytest.mark.parametrize("many", [1, 2])
def test_several_processes_choose_as_one_does(kernels: ModuleType, monkeypatch: pytest.MonkeyPatch, many: int) -> None:
    import triton

    from presilicon import forked
    from presilicon.kernel_api import gpu_of, predict_launch

    monkeypatch.setattr(forked, "cores", lambda: many)
    monkeypatch.setenv("PRESILICON_CACHE", "off")
    configs = [triton.Config({"BLOCK": block}, num_warps=warps) for block, warps in ((256, 64), (512, 4), (2048, 8))]
    grid = lambda meta: (-(-N // meta["BLOCK"]),)  # noqa: E731
    steps: list[tuple[int, int]] = []
    found = predict_launch(triton.autotune(configs, key=["n"])(kernels.add), grid, vectors(kernels), gpu_of("l4"), {},
                           progress=lambda done, wanted: steps.append((done, wanted)))
    each = [ps.predict_kernel(kernels.add, grid, vectors(kernels), "l4", **config.kwargs, num_warps=config.num_warps)
            for config in configs[1:]]
    best = min(range(2), key=lambda n: each[n].time_s)
    assert (found.time_s, found.info.config) == (each[best].time_s, str(configs[1 + best]))
    assert [text.partition(":")[0] for text in found.info.left_out] == ["BLOCK"]
    assert steps == [(1, 3), (2, 3), (3, 3)]


def test_assumptions_of_one_line_and_cause_are_one_line_that_says_what_decides_them() -> None:
    from presilicon.kernel_tables import joined_assumptions

    made = joined_assumptions([
        "k.py:9: branch depends on what LDG.E at 0x120 (line 8) reads: not taken (1 times)",
        "k.py:9: loop depends on what LDG.E at 0x120 (line 8) reads: 1 trip (1 times)",
        "k.py:9: branch depends on what LDG.E at 0x130 (line 8) reads: not taken (3 times)",
        "k.py:9: branch depends on what LDG.E at 0x130 (line 7) reads: not taken (1 times)",
    ])
    assert made == [
        "k.py:9: branch depends on what LDG.E (line 8) reads: not taken (4 times)",
        "k.py:9: loop depends on what LDG.E at 0x120 (line 8) reads: 1 trip (1 times)",
        "k.py:9: branch depends on what LDG.E at 0x130 (line 7) reads: not taken (1 times)",
    ]


@pytest.mark.slow
def test_what_data_decides_can_be_told(kernels: ModuleType) -> None:
    args = (torch.empty(1, dtype=torch.int32, device="meta"), kernels.floats(1 << 20))
    blind = ps.predict_kernel(kernels.by_data, (64,), args, "l4", BLOCK=1024)
    told = ps.predict_kernel(kernels.by_data, (64,), args, "l4", BLOCK=1024, assume={"count_ptr": 200})
    known = ps.predict_kernel(kernels.by_data, (64,), (torch.tensor([200], dtype=torch.int32), args[1]), "l4", BLOCK=1024)
    assert blind.run.assumptions
    assert told.run.assumptions == ()
    assert told.time_s == known.time_s > 3 * blind.time_s
    line = next(int(text.split(":")[1]) for text in blind.run.assumptions if "loop depends" in text)
    assert f"--assume {line}=TRIPS" in " ".join(blind.summary().split())
    by_line = ps.predict_kernel(kernels.by_data, (64,), args, "l4", BLOCK=1024, assume={line: 50})
    assert by_line.time_s > 2 * blind.time_s, "the cache tells what was given apart"
    assert "50 trips, as given" in " ".join(by_line.summary().split())
    with pytest.raises(UnknownNameError, match="unknown argument 'counts_ptr'; did you mean 'count_ptr'"):
        ps.predict_kernel(kernels.by_data, (64,), args, "l4", BLOCK=1024, assume={"counts_ptr": 200})
    with pytest.raises(UnknownNameError, match="unknown assumption 'line 1'"):
        ps.predict_kernel(kernels.by_data, (64,), args, "l4", BLOCK=1024, assume={1: 200})
    ranked = ps.tune(kernels.by_data, (64,), args, "num_warps=2,4", "l4", BLOCK=1024, assume={"count_ptr": 200})
    assert {row.config["num_warps"]: row.time_s for row in ranked.rows}[4] == told.time_s
    assert "assumed: " not in ranked.summary()
    assert "assumed: " in ps.tune(kernels.by_data, (64,), args, "num_warps=2,4", "l4", BLOCK=1024).summary()


def test_a_call_of_the_system_is_named(kernels: ModuleType) -> None:
    report = ps.predict_kernel(kernels.talking, (64,), (kernels.floats(1 << 16),), "h100-sxm", BLOCK=1024)
    (text,) = report.run.assumptions
    assert text.endswith("time depends on what vprintf of the CUDA system does: left out")


@pytest.mark.slow
def test_tuning(kernels: ModuleType) -> None:
    grid = lambda meta: (-(-N // meta["BLOCK"]),)  # noqa: E731
    args = (kernels.floats(N), kernels.floats(N), N)
    seen: list[tuple[int, int]] = []
    result = ps.tune(kernels.tuned, grid, args, "BLOCK=64,1024 num_warps=1,4", "l4", progress=lambda a, b: seen.append((a, b)))
    frame = result.to_frame()
    assert len(frame) == 4
    assert frame["time_s"].is_monotonic_increasing
    assert seen[-1] == (4, 4)
    assert result.best in result.worth_measuring
    assert all(row.time_s > 1.14 * result.rows[0].time_s for row in result.rows if not row.worth_measuring)
    text = result.summary()
    assert "worth measuring" in text
    assert "all have" not in text
    one = ps.tune(kernels.tuned, grid, args, "BLOCK=1024 num_warps=1,4", "l4").summary()
    assert one.splitlines()[0].rstrip().endswith("2 of 2 configs can launch; all have BLOCK=1024"), "a column for what differs only"
    assert ps.tune(kernels.tuned, grid, args, None, "l4").to_frame().shape[0] == 2, "the kernel's own configs"


@pytest.mark.parametrize(
    ("configs", "error", "message"),
    [
        ([], KernelError, "the config space is empty"),
        ([{"BLOK": 64}], UnknownNameError, "unknown config key 'BLOK'; did you mean 'BLOCK'"),
        ([3], KernelError, "expected a config as a mapping"),
        ([{"BLOCK": 64, "num_warps": 64}], KernelError, "none of 1 configs can launch"),
    ],
)
def test_bad_spaces(kernels: ModuleType, configs: list[Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        ps.tune(kernels.tuned, lambda meta: (N // 64,), (kernels.floats(N), kernels.floats(N), N), configs, "l4")


def test_intervals_come_from_a_calibration_where_there_is_one(kernels: ModuleType) -> None:
    from dataclasses import replace

    report = ps.predict_kernel(kernels.add, (N // 1024,), vectors(kernels), "h100-sxm", BLOCK=1024)
    table = {"coverage": 0.9, "edges_s": [1e-6, 1e-3], "low": [0.9], "high": [1.2], "rows": 10, "source": "kernels measured here"}
    system = replace(ps.load_system("h100-sxm"), intervals={"kernel": table})
    low, high, source = interval_of(report.run, system)
    assert (low, high) == pytest.approx((0.9 * report.time_s, 1.2 * report.time_s))
    assert source == "kernels measured here"


def test_bad_calls(kernels: ModuleType) -> None:
    with pytest.raises(KernelError, match="a grid is needed"):
        ps.predict_kernel(kernels.add)
    with pytest.raises(KernelError, match="one launch at a time"):
        ps.predict_kernel([kernels.add], (1,))
    with pytest.raises(KernelError, match="args are the launch's positional arguments in a tuple or list, not None"):
        ps.predict_kernel(kernels.add, (1,), None)
    with pytest.raises(KernelError, match="config=3: the kernel is not autotuned"):
        ps.predict_kernel(kernels.add, (1,), vectors(kernels), BLOCK=64, config=3)
    with pytest.raises(UnknownNameError, match="unknown fidelity 'tiles'; did you mean 'tile'"):
        ps.predict_kernel(kernels.add, (1,), vectors(kernels), fidelity="tiles", BLOCK=64)
    with pytest.raises(KernelError, match=r"not a @triton\.jit function"):
        ps.predict_kernel(len, (1,))
