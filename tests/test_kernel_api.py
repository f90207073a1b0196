"""`predict_kernel`, `capture_launches` and `tune` from Python."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
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


@pytest.fixture(scope="module", autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    patch = pytest.MonkeyPatch()
    patch.setenv("PRESILICON_CACHE", str(tmp_path_factory.mktemp("cache")))
    yield
    patch.undo()


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


def test_of_an_autotuned_kernel_the_fastest_config_is_taken(kernels: ModuleType) -> None:
    grid = lambda meta: (-(-N // meta["BLOCK"]),)  # noqa: E731
    args = (kernels.floats(N), kernels.floats(N), N)
    chosen = ps.predict_kernel(kernels.tuned, grid, args, "h100-sxm")
    each = [ps.predict_kernel(kernels.tuned, grid, args, "h100-sxm", config=i).time_s for i in range(2)]
    assert chosen.time_s == min(each)
    assert "BLOCK" in chosen.info.config


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
    assert "worth measuring" in result.summary()
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
    with pytest.raises(UnknownNameError, match="unknown fidelity 'tiles'; did you mean 'tile'"):
        ps.predict_kernel(kernels.add, (1,), vectors(kernels), fidelity="tiles", BLOCK=64)
    with pytest.raises(KernelError, match=r"not a @triton\.jit function"):
        ps.predict_kernel(len, (1,))
