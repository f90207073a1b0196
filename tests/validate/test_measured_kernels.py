"""Measured kernels: files checked, the split, constants recovered from distorted times, errors and bars, tables put into a page."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
triton = pytest.importorskip("triton")
pd = pytest.importorskip("pandas")

from presilicon.arch import load_gpu  # noqa: E402
from presilicon.arch.constants import all_constants  # noqa: E402
from presilicon.errors import CalibrationError, PresiliconError, TableError  # noqa: E402
from presilicon.sim.sm.calibrated import FACTORS, calibrated  # noqa: E402
from presilicon.validate import kernel_fit, kernel_report, kernel_rows  # noqa: E402
from presilicon.validate.errors_table import error_line  # noqa: E402
from presilicon.validate.kernel_report import KernelErrors, Tuned, kernel_errors, write_into  # noqa: E402
from presilicon.validate.kernel_rows import Predicted, is_measurement, read_kernel_rows, split_of, write_split  # noqa: E402
from presilicon.validate.kernels import all_suites  # noqa: E402
from presilicon.validate.kernels.record import COLUMNS, Record, beside  # noqa: E402
from presilicon.validate.kernels.suite import fields_of, text_of  # noqa: E402

GPU = "NVIDIA H100 80GB HBM3"
H100 = load_gpu("h100-sxm")
TRUTH = {"kernel.clock": 0.87, "kernel.dram": 0.9, "kernel.l2": 0.8, "kernel.launch": 1.6}


def row(suite: str = "gemm", shape: int = 0, config: int = 0, *, shape_text: str = "", config_text: str = "", **changed: Any,
        ) -> dict[str, Any]:
    """A row as the harness writes it; of a suite that is not there with what GEMM has."""
    this = all_suites().get(suite, all_suites()["gemm"])
    what = this.shapes[shape]
    made = {"suite": suite, "kernel": "k", "dtype": what.get("dtype", ""), "shape": shape_text or text_of(what),
            "config": config_text or text_of(this.configs(what)[config])}
    made |= {"timer": "graph", "status": "ok", "latency_s": 1e-3, "p10_s": 0.99e-3,
            "p90_s": 1.01e-3, "runs": 20, "triton": triton.__version__}
    return made | changed


def write(path: Path, *rows: dict[str, Any], gpu: str = GPU) -> Path:
    record = Record(path, gpu)
    for one in rows:
        record.append(one)
    record.close()
    return path


# -- files -----------------------------------------------------------------------------------------------------------------


def test_rows_that_can_be_predicted_are_kept_and_the_others_named(tmp_path: Path) -> None:
    path = write(tmp_path / "h100.csv", row(), row(config=1), row(timer="cold"), row("launch", timer="graph"), row("torch_gemm"),
                 row(config=2, status="wrong"), row(config=3, status="failed", latency_s=None, p10_s=None, p90_s=None),
                 row(shape=1, p90_s=2e-3))
    assert is_measurement(path)
    rows = read_kernel_rows(path, H100)
    assert rows.frame[["suite", "group"]].to_numpy().tolist() == [["gemm", "gemms"]] * 2
    assert rows.frame["measured_s"].tolist() == [1e-3, 1e-3]
    assert rows.notes == ("2 of 8 rows are predicted; left out: 2 of microbenchmarks and torch's operators, 1 of other timers than graph, "
                          "1 with status wrong, 1 with status failed, 1 spread over 1.3",)
    with path.open("a") as stream:
        stream.write("gemm,k,bfloat16,m=4096;n=40")  # a run that was killed while it wrote
    assert len(read_kernel_rows(path, H100).frame) == 2


#: What torch calls GPUs, and the device file of each.
NAMED = {
    "NVIDIA H100 80GB HBM3": "h100-sxm", "NVIDIA H100 PCIe": "h100-pcie", "NVIDIA H100 NVL": "h100-nvl", "NVIDIA H200": "h200-sxm",
    "NVIDIA A100-SXM4-80GB": "a100-sxm-80gb", "NVIDIA A100-SXM4-40GB": "a100-sxm-40gb", "NVIDIA A100 80GB PCIe": "a100-pcie-80gb",
    "NVIDIA A10": "a10", "NVIDIA L4": "l4", "NVIDIA L40S": "l40s", "NVIDIA H20": "h20", "NVIDIA B200": "b200",
    "NVIDIA GeForce RTX 4090": "rtx-4090", "NVIDIA GeForce RTX 5090": "rtx-5090",
    "NVIDIA RTX PRO 6000 Blackwell Workstation Edition": "rtx-pro-6000",
}


def test_a_file_goes_with_the_device_file_of_its_gpu_alone(tmp_path: Path) -> None:
    systems = {name: load_gpu(name) for name in NAMED.values()}
    for gpu, own in NAMED.items():
        taken = []
        for name, system in systems.items():
            with contextlib.suppress(TableError):
                kernel_rows.check_gpu(tmp_path / "x.csv", gpu, system)
                taken.append(name)
        assert taken == [own], gpu
    path = tmp_path / "y.csv"
    beside(path, "provenance.json").write_text(json.dumps({"runs": [{"machine": {"memory_bytes": 21e9}}]}))  # a quarter of the GPU
    with pytest.raises(TableError, match=r"with 21 GB; h100-sxm has 85\.52 GB"):
        kernel_rows.check_gpu(path, GPU, H100)


def test_rows_of_another_version_are_left_out(tmp_path: Path) -> None:
    path = write(tmp_path / "h100.csv", row(), row("kernel_to_come"), row(shape_text="m=8;z=5"), row(config_text="TILE=3"),
                 row(shape_text=row()["shape"].replace("m=", "m=x")))
    assert read_kernel_rows(path, H100).notes == (
        "1 of 5 rows are predicted; left out: 3 of shapes or configs that are not there, 1 of suites that are not there",)


def test_every_shape_and_config_of_this_version_is_known() -> None:
    for name, suite in all_suites().items():
        for what in suite.shapes[:2]:
            for config in suite.configs(what)[:2]:
                assert kernel_rows._takes(suite, fields_of(text_of(what)), fields_of(text_of(config))), name


def test_code_of_another_compiler_is_named(tmp_path: Path) -> None:
    rows = read_kernel_rows(write(tmp_path / "h100.csv", row(triton="3.6.0"), row(config=1, triton="3.6.0"), row(config=2)), H100)
    assert rows.notes == (f"2 rows were measured with Triton 3.6.0, but Triton {triton.__version__} compiles them here, to other machine "
                          "code: pip install triton==3.6.0 predicts the code that ran",)


def test_runs_under_other_drivers_are_named(tmp_path: Path) -> None:
    path = write(tmp_path / "h100.csv", row())
    runs = [{"machine": {"driver": driver, "power_limit_w": 700.0}} for driver in ("570.86", "580.159", "570.86")]
    beside(path, "provenance.json").write_text(json.dumps({"runs": runs}))
    assert read_kernel_rows(path, H100).notes == (
        "the runs of the file had different drivers: 570.86, 580.159; one set of constants is fitted for all",)


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([row(latency_s=-1e-3)], r"row 2, column 'latency_s': expected positive seconds, found '-0.001'"),
        ([row(latency_s=math.nan)], r"row 2, column 'latency_s': expected positive seconds, found 'nan'"),
        ([row(), row(config=1, p10_s=None)], r"row 3, column 'p10_s': expected positive seconds, found ''"),
        ([row(), row(config=1), row()], r"row 4: gemm m=.* \(graph\) stands in row 2 too"),
        ([row(latency_s=1e-6, p10_s=1e-6, p90_s=1e-6)], r"row 2: gemm .* TFLOP/s; NVIDIA H100-SXM5-80GB has \d+$"),
        ([row(status="failed")], r"no row to predict: .* \(1 with status failed\)"),
        ([row(p10_s=2e-3, p90_s=0.5e-3)],
         r"row 2: the median, 0.001 s, does not lie between the 10th and the 90th percentile, 0.002 and 0.0005 s"),
        ([row(latency_s=5e-3)], r"row 2: the median, 0.005 s, does not lie"),
        *(([row(shape_text=text_of({**all_suites()["gemm"].shapes[0], **other}))], r"\(1 of shapes or configs that are not there\)")
          for other in ({"m": 0}, {"m": -4096}, {"m": 4096.5}, {"m": math.inf}, {"dtype": "float99"})),
        ([row(config_text=text_of({**fields_of(row()["config"]), "num_warps": -8}))], r"\(1 of shapes or configs that are not there\)"),
        ([], "no rows"),
    ],
)
def test_bad_rows_are_named(tmp_path: Path, rows: Sequence[dict[str, Any]], said: str) -> None:
    with pytest.raises(TableError, match=said):
        read_kernel_rows(write(tmp_path / "h100.csv", *rows), H100)


def test_files_of_another_gpu_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", row(), gpu="NVIDIA A100-SXM4-80GB")
    with pytest.raises(TableError, match="measured on NVIDIA A100-SXM4-80GB; h100-sxm is NVIDIA H100-SXM5-80GB"):
        read_kernel_rows(path, H100)
    assert len(read_kernel_rows(path, load_gpu("a100-sxm-80gb")).frame) == 1
    path = write(tmp_path / "h100.csv", row())
    for machine, said in (({"compute_capability": "8.0", "sm_count": 132}, r"\(sm_80\); h100-sxm is sm_90"),
                          ({"compute_capability": "9.0", "sm_count": 114}, "with 114 SMs; h100-sxm has 132")):
        (tmp_path / "h100.provenance.json").write_text(json.dumps({"runs": [{"machine": machine}]}))
        with pytest.raises(TableError, match=said):
            read_kernel_rows(path, H100)
    lines = path.read_text().splitlines()
    (tmp_path / "mixed.csv").write_text("\n".join([*lines, lines[1].replace(GPU, "NVIDIA L4")]) + "\n")
    with pytest.raises(PresiliconError, match=r"row 3: measured on 'NVIDIA L4', not on 'NVIDIA H100"):
        read_kernel_rows(tmp_path / "mixed.csv", H100)
    (tmp_path / "short.csv").write_text("\n".join(line.partition(",")[2] for line in lines) + "\n")
    assert is_measurement(tmp_path / "short.csv")
    with pytest.raises(PresiliconError, match=r"columns differ \(missing: suite\)"):
        read_kernel_rows(tmp_path / "short.csv", H100)
    assert not is_measurement(tmp_path / "absent.csv")
    (tmp_path / "ops.csv").write_text("gemm_dtype,m,n,k,latency_s\nbf16,1,1,1,1\n")
    assert not is_measurement(tmp_path / "ops.csv")


# -- split -----------------------------------------------------------------------------------------------------------------


def test_the_split_goes_by_names_alone(tmp_path: Path) -> None:
    parts = [split_of("gemm", f"m={m}", f"BLOCK={b}") for m in range(200) for b in range(10)]
    share = {part: parts.count(part) / len(parts) for part in set(parts)}
    assert share["held-out shape"] == pytest.approx(0.25, abs=0.06)
    assert share["fit"] > 0.5
    shapes = {m: {split_of("gemm", f"m={m}", f"BLOCK={b}") == "held-out shape" for b in range(10)} for m in range(200)}
    assert all(len(found) == 1 for found in shapes.values()), "a shape is held out with all its configs"
    assert any(split_of("gemm", f"m={m}", "x", 1) != split_of("gemm", f"m={m}", "x") for m in range(20)), "the seed tells splits apart"
    path = write(tmp_path / "h100.csv", *(row(shape=n) for n in range(8)))
    rows = read_kernel_rows(path, H100, seed=3)
    place = write_split(rows)
    written = json.loads(place.read_text())
    assert sum(map(len, written["parts"].values())) == 8
    assert written["seed"] == 3
    assert read_kernel_rows(path, H100).frame["part"].tolist() == rows.frame["part"].tolist(), "who reads the file takes its split"


# -- constants -------------------------------------------------------------------------------------------------------------


def test_constants_act_where_the_simulation_reads() -> None:
    changed = calibrated(H100.override({f"calibration.{name}": value for name, value in TRUTH.items()}))
    assert changed.gpu.clock.boost_hz == pytest.approx(0.87 * H100.gpu.clock.boost_hz)
    assert changed.dram.bandwidth_bytes_per_s == pytest.approx(0.9 * H100.dram.bandwidth_bytes_per_s)
    assert changed.gpu.l2.bytes_per_clk == pytest.approx(0.8 * H100.gpu.l2.bytes_per_clk)
    assert changed.calibration["memory.floor"] == pytest.approx(1.6 * H100.calibration["memory.floor"])
    assert calibrated(changed) is changed, "not twice"
    assert {name for name, constant in all_constants().items() if constant.family == "kernel"} == set(FACTORS) == set(kernel_fit.NAMES)


@pytest.mark.slow
def test_a_simulated_row_follows_its_constants() -> None:
    suite = all_suites()["elementwise"]
    shape = suite.shapes[0]
    systems = [H100, H100.override({"calibration.kernel.launch": 2.0}), H100.override({"calibration.kernel.dram": 0.8})]
    plain, launched, slower = kernel_rows.predict_point("elementwise", text_of(shape), text_of(suite.configs(shape)[0]), systems)
    assert launched.launch_s == pytest.approx(2 * plain.launch_s)
    assert launched.core_s == pytest.approx(plain.core_s, rel=1e-9)
    assert slower.core_s == pytest.approx(plain.core_s / 0.8, rel=0.1), "a stream goes with DRAM"
    (refused,) = kernel_rows.predict_point("gemm", text_of(all_suites()["gemm"].shapes[0]),
                                           "BLOCK_M=256;BLOCK_N=256;BLOCK_K=128;GROUP_M=8;num_stages=4;num_warps=8", [H100])
    assert "shared memory" in refused.problem


def pretend(name: str, shape: str, config: str, system: Any) -> Predicted:
    """A machine whose rows are bound by the clock, DRAM or L2, as their names say."""
    weight = np.random.default_rng(kernel_rows._draw(name, shape, config)).lognormal(-9.0, 1.5)
    value = system.calibration
    parts = {"clock": (1.0, 0.1, 0.1), "dram": (0.2, 1.0, 0.1), "l2": (0.3, 0.2, 1.0)}[name]
    core = sum((part / value[f"kernel.{way}"]) ** 4 for part, way in zip(parts, ("clock", "dram", "l2"), strict=True)) ** 0.25
    return Predicted(weight * core, 2e-6 * value["kernel.launch"], name == "clock", name)


@pytest.fixture
def rows(monkeypatch: pytest.MonkeyPatch) -> Callable[..., kernel_rows.KernelRows]:
    """Rows that a machine with other constants would give, with noise."""

    def predicted(rows: Any, systems: Any, **_: Any) -> list[list[Predicted]]:
        return [[pretend(one.suite, one.shape, one.config, system) for system in systems] for one in rows.frame.itertuples()]

    monkeypatch.setattr(kernel_fit, "predict_rows", predicted)
    monkeypatch.setattr(kernel_report, "predict_rows", predicted)

    def make(noise: float, count: int = 40) -> kernel_rows.KernelRows:
        truth = H100.override({f"calibration.{name}": value for name, value in TRUTH.items()})
        draw, made = np.random.default_rng(5), []
        for name, group in (("clock", "gemms"), ("dram", "memory"), ("l2", "attentions")):
            for shape in range(count):
                for config in range(3):
                    names = (name, f"m={shape}", f"num_warps={2 << config};num_stages=3")
                    one = pretend(*names, truth)
                    made.append({"suite": name, "group": group, "dtype": "bf16", "shape": names[1], "config": names[2],
                                 "measured_s": (one.core_s + one.launch_s) * math.exp(draw.normal(0.0, noise)), "spread": 1.02,
                                 "part": split_of(*names), "size": "over 100 MB"})
        return kernel_rows.KernelRows(Path("h100.csv"), GPU, pd.DataFrame(made), ())

    return make


def test_distortions_are_recovered(rows: Callable[..., kernel_rows.KernelRows]) -> None:
    found = kernel_fit.calibrate_kernels(rows(0.01), H100, source="a test")
    for name, value in TRUTH.items():
        assert found.fitted[name] == pytest.approx(value, rel=0.03), name
        assert found.system.calibration[name] == found.fitted[name]
        assert found.system.provenance[f"calibration.{name}"].status == "fitted"
    lines = {line.group: line for line in found.errors}
    assert lines["before"].mape > 0.1
    assert lines["fitted"].mape < 0.02
    assert lines["held out, by shapes"].mape < 0.03
    assert lines["dram left out altogether"].mape > lines["clock left out altogether"].mape / 10
    assert set(found.system.intervals) >= {"kernel.tensor", "kernel.memory", "kernel"}
    assert found.idle == []


def test_intervals_of_a_calibration_hold_held_out_rows(rows: Callable[..., kernel_rows.KernelRows]) -> None:
    noisy = rows(0.08, 120)
    found = kernel_fit.calibrate_kernels(noisy, H100, source="a test", fit_rows=600)
    held = noisy.rows((noisy.frame["part"] != "fit").to_numpy())
    line = kernel_errors(held, found.system).lines()[0]
    assert line.rows > 100
    assert line.coverage == pytest.approx(0.9, abs=0.06)
    assert line.mape == pytest.approx(0.08 * (2 / math.pi) ** 0.5, rel=0.25)


def test_a_row_that_was_disturbed_is_named_and_moves_little(rows: Callable[..., kernel_rows.KernelRows]) -> None:
    made = rows(0.01)
    assert kernel_fit.calibrate_kernels(made, H100, source="a test").outliers == ()
    number = int(np.flatnonzero((made.frame["part"] == "fit").to_numpy())[0])
    made.frame.loc[number, "measured_s"] *= 5
    found = kernel_fit.calibrate_kernels(made, H100, source="a test")
    one = made.frame.iloc[number]
    assert len(found.outliers) == 1
    assert found.outliers[0].startswith(f"{one['suite']} {one['shape']} {one['config']}: measured {one['measured_s']:.4g} s")
    for name, value in TRUTH.items():
        assert found.fitted[name] == pytest.approx(value, rel=0.05), name


def test_a_constant_that_no_row_moves_stays(rows: Callable[..., kernel_rows.KernelRows], monkeypatch: pytest.MonkeyPatch) -> None:
    def still(name: str, shape: str, config: str, system: Any) -> Predicted:
        one = pretend("dram", shape, config, H100.override({"calibration.kernel.dram": system.calibration["kernel.dram"]}))
        return Predicted(one.core_s, 2e-6 * system.calibration["kernel.launch"], False, "dram")

    made = rows(0.01)
    monkeypatch.setattr(kernel_fit, "predict_rows", lambda rows, systems, **_: [
        [still(one.suite, one.shape, one.config, system) for system in systems] for one in rows.frame.itertuples()])
    found = kernel_fit.calibrate_kernels(made.rows((made.frame["suite"] == "dram").to_numpy()), H100, source="a test")
    assert found.idle == ["kernel.clock", "kernel.l2"]
    assert found.fitted["kernel.clock"] == pytest.approx(1.0)


def test_too_few_rows(rows: Callable[..., kernel_rows.KernelRows]) -> None:
    with pytest.raises(CalibrationError, match="calibration needs at least 20"):
        kernel_fit.calibrate_kernels(rows(0.01, 2), H100, source="a test")


# -- errors ----------------------------------------------------------------------------------------------------------------


def judged(measured: Sequence[float], predicted: Sequence[float], **columns: Any) -> KernelErrors:
    count = len(measured)
    frame = pd.DataFrame({"suite": "gemm", "group": "gemms", "dtype": "bf16", "shape": "m=1", "config": [f"B={n}" for n in range(count)],
                          "measured_s": measured, "predicted_s": predicted, "low_s": np.array(predicted) * 0.9,
                          "high_s": np.array(predicted) * 1.1, "part": "held-out shape", "size": "x", "limiter": "dram", "warps": "4",
                          "stages": "3"} | columns)
    return KernelErrors(kernel_rows.KernelRows(Path("h100.csv"), GPU, frame, ()), H100, frame, (), True)


def test_tuning_is_judged_by_the_best_of_the_top_five() -> None:
    measured = np.linspace(1.0, 2.0, 60)
    predicted = measured.copy()
    predicted[0], predicted[1] = 1.04, 0.5  # five others come before the best
    (one,) = judged(measured, predicted).tuning()
    assert one == Tuned("gemm", "m=1", 60, pytest.approx(0.0), pytest.approx(measured[1] - 1.0), one.rank)
    predicted[0] = 1.5
    (one,) = judged(measured, predicted).tuning()
    assert one.loss == pytest.approx(measured[1] - 1.0)
    assert judged(measured[:49], predicted[:49]).tuning() == [], "fifty configs are asked for"


def test_bars_are_judged_on_held_out_rows() -> None:
    measured = np.ones(100)
    predicted = np.where(np.arange(100) < 50, 1.05, 3.0)
    parts = np.where(np.arange(100) < 50, "held-out shape", "fit")
    groups = np.where(np.arange(100) < 25, "gemms", "memory")
    shapes = [f"m={n}" for n in range(100)]
    found = judged(measured, predicted, part=parts, group=groups, shape=shapes)
    assert [(what, value, met) for what, _, value, met in found.verdicts()] == [
        ("held-out rows, MAPE", "5.0%", True), ("held-out rows, p95", "5.0%", True), ("held-out GEMM and attention, MAPE", "5.0%", True)]
    predicted = np.where(np.arange(100) < 25, 1.08, 1.3)
    verdicts = judged(measured, predicted, part=parts, group=groups, shape=shapes).verdicts()
    assert [met for *_, met in verdicts] == [False, False, False]
    page = found.page()
    assert "| held-out rows, MAPE | 10% | 5.0% | met |" in page
    assert page.index("3") < page.index("Worst rows:")
    assert "ratio" in page
    assert found.parity().axes[0].get_xlabel() == "measured, s"


def test_kernels_left_out_stand_beside_the_data_of_their_fit(tmp_path: Path) -> None:
    lines = [error_line(f"{name} left out altogether", np.ones(2), np.full(2, 1.0 + error)) for name, error in (("a", 0.05), ("b", 0.2))]
    found = judged([1.0], [1.0])
    found = KernelErrors(kernel_rows.KernelRows(tmp_path / "h100.csv", GPU, found.frame, ()), H100, found.frame, (), True)
    assert found.left_out() == []
    kernel_report.note_left_out(tmp_path / "h100.csv", {"kernel.clock": 1.0}, lines)
    assert [(line.group, line.rows, line.mape) for line in found.left_out()] == [("b", 2, 0.2), ("a", 2, 0.05)]
    assert "each of 2 kernels left out of the fit, MAPE (worst: b) | 15% | 20.0% | missed |" in found.page()
    kernel_report.note_left_out(tmp_path / "h100.csv", {"kernel.clock": 0.9}, lines)
    assert found.left_out() == [], "of another fit"


def test_tables_are_put_between_the_markers_of_a_page(tmp_path: Path) -> None:
    page = tmp_path / "accuracy.md"
    page.write_text(f"# Accuracy\n\nAbove.\n\n{kernel_report.BEGIN}\nold\n{kernel_report.END}\n\nBelow.\n")
    for _ in range(2):  # again gives the same
        write_into(page, [judged([1.0, 1.0], [1.1, 0.9])], "presilicon validate h100.csv")
        text = page.read_text()
        assert text.startswith("# Accuracy\n\nAbove.\n\n")
        assert text.endswith(f"{kernel_report.END}\n\nBelow.\n")
        assert "old" not in text
        assert text.count("| all | 2 | 10.0% |") == 1
    page.write_text("# Accuracy\n")
    with pytest.raises(TableError, match="no lines <!-- measured-kernels:begin -->"):
        write_into(page, [], "")


def test_columns_are_those_of_the_harness() -> None:
    assert {"suite", "shape", "config", "timer", "status", "latency_s", "p10_s", "p90_s", "gpu"} <= set(COLUMNS)


# -- commands --------------------------------------------------------------------------------------------------------------


def test_the_commands_say_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from presilicon.cli import main

    path = write(tmp_path / "h100.csv", row(), row(config=1))
    (tmp_path / "ops.csv").write_text("gemm_dtype,m,n,k,latency_s\nbf16,1,1,1,1\n")
    out = str(tmp_path / "my.yaml")
    for arguments, said in (
        (["calibrate", str(path), str(tmp_path / "ops.csv"), "--system", "h100-sxm", "-o", out], "stands alone"),
        (["calibrate", str(path), "--system", "h100-sxm", "-o", out, "--half", "0"], "measured kernels have a split of their own"),
        (["calibrate", str(path), "--system", "l4", "-o", out], "measured on NVIDIA H100 80GB HBM3; l4 is"),
        (["calibrate", str(path), "--system", "h100-sxm", "-o", out], "calibration needs at least 20"),
        (["validate", str(path)], "name the device file of its GPU with --system"),
        (["validate", str(path), "--system", "h100-sxm", "--kind", "gemm"], "are for folders of op tables"),
        (["validate", str(tmp_path / "ops.csv"), "--system", "h100-sxm"], "not a file of `presilicon measure`"),
        (["validate", str(tmp_path), "--plot", str(tmp_path / "a.svg")], "--plot and --into are for a CSV"),
    ):
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        assert ended.value.code not in (0, None)
        assert said in " ".join(capsys.readouterr().err.split()), arguments
