"""Errors of op tables by protocol: whose constants are lent, and the page."""

from __future__ import annotations

import numpy as np
import pytest

pd = pytest.importorskip("pandas")
pytest.importorskip("scipy")

from presilicon.arch import load_gpu  # noqa: E402
from presilicon.validate.accuracy import Entry, at_a_glance, system_of, transfers  # noqa: E402
from presilicon.validate.calibrate import Table  # noqa: E402
from presilicon.validate.errors_table import error_line  # noqa: E402
from presilicon.validate.optable import KINDS, check, predict  # noqa: E402


def table_of(gpu: str) -> tuple[Table, object]:
    """A made-up table of a GPU: 1.2 times what its own device file says."""
    kind, system = KINDS["gemm"], load_gpu(gpu)
    sizes = [(m, n, 4096) for m in (16, 256, 4096) for n in (512, 1024, 2048, 4096, 8192, 16384, 640, 768, 896, 1280)]
    frame = check(pd.DataFrame(sizes, columns=["m", "n", "k"]).assign(gemm_dtype="bfloat16"), kind, gpu)
    return Table(f"{gpu.replace('-', '_')}.gemm.csv", kind, frame, 1.2 * predict(frame, kind, system)["predicted_s"]), system


@pytest.mark.slow
def test_constants_are_lent_within_a_generation_where_one_was_measured() -> None:
    tables = [table_of(gpu) for gpu in ("h100-sxm", "h200-sxm", "l40s")]
    lent = {(system.name, donor): used for _, system, used, donor in transfers(tables)}  # type: ignore[arg-type]
    assert set(lent) == {("h100-sxm", "h200-sxm"), ("h200-sxm", "h100-sxm"), ("l40s", "h100-sxm"), ("l40s", "h200-sxm")}
    used = lent["h100-sxm", "h200-sxm"]
    assert used.dram == load_gpu("h100-sxm").dram   # its own data sheet
    table, _ = tables[0]
    assert np.median(predict(table.frame, table.kind, used)["predicted_s"] / table.measured_s) == pytest.approx(1.0, abs=0.08)


def test_the_overview_has_a_row_for_each_gpu_and_protocol() -> None:
    def entry(table: str, system: str, kind: str, protocol: str, error: float) -> Entry:
        line = error_line("all", np.array([1.0, 1.0]), np.array([1.0 + error, 1.0 - error]))
        return Entry(table, system, kind, protocol, [line])

    found = at_a_glance([
        entry("a.gemm.csv", "a", "gemm", "held-out", 0.1), entry("a.custom_allreduce.csv", "a", "collective", "held-out", 0.2),
        entry("b.gemm.csv", "b", "gemm", "held-out", 0.3), entry("a.gemm.csv", "a", "gemm", "transfer from b", 0.4),
    ])
    assert found.splitlines() == [
        "| GPU | protocol | gemm | custom allreduce |", "|---|---|--:|--:|",
        "| a | held-out | 10.0% | 20.0% |", "| b | held-out | 30.0% |  |", "| a | transfer from b | 40.0% |  |"]


@pytest.mark.parametrize(("gpu", "device"), [
    ("h100_sxm", "h100-sxm"), ("a100_sxm", "a100-sxm-80gb"), ("b200_sxm", "b200"), ("gb200_sxm", "gb200"),
])
def test_a_table_names_its_gpu(gpu: str, device: str) -> None:
    assert system_of(gpu).name == device
