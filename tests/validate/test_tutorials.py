"""The Triton tutorials' published figures against predictions, the SM clock alone fitted."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("triton")
pytest.importorskip("numba")  # a pure Python run of as many instructions takes an hour

from presilicon.errors import TableError
from presilicon.validate import tutorials

TABLE = Path(__file__).resolve().parents[3] / "shared" / "measured" / "triton_tutorials.a100_sxm_40gb.csv"
needs_table = pytest.mark.skipif(not TABLE.is_file(), reason="published figures are not beside the project (../shared/measured)")
#: Configs that come first somewhere; the others change no answer.
SHORT = [c for c in tutorials.MATMUL_CONFIGS if c[2] < 128]


@needs_table
def test_softmax_sizes() -> None:
    rows = tutorials.compare(TABLE, kernel="softmax", dtype="float32", sizes=range(1024, 12800, 3072))
    assert len(rows) == 4
    assert tutorials.mape(rows) < 0.08


@needs_table
def test_matmul_sizes() -> None:
    sizes = (512, 1024, 2048)
    rows = tutorials.compare(TABLE, kernel="matmul", dtype="float16", sizes=sizes, configs=SHORT)
    assert [row.size for row in rows] == list(sizes)
    assert tutorials.mape(rows) < 0.08
    assert all(abs(row.error) < 0.16 for row in rows)


@needs_table
@pytest.mark.slow
def test_every_published_size() -> None:
    matmul = tutorials.compare(TABLE, kernel="matmul", dtype="float16")
    assert len(matmul) == 31
    assert tutorials.mape(matmul) < 0.05
    softmax = tutorials.compare(TABLE, kernel="softmax", dtype="float32")
    assert tutorials.mape(softmax) < 0.08


def test_a_table_without_times_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text("kernel,dtype,n\nmatmul,float16,256\n")
    with pytest.raises(TableError, match="latency_s"):
        tutorials.read_published(path)


def test_softmax_programs_follow_the_tutorials_rule() -> None:
    system = tutorials.machine(1.41e9)
    compiled, launch = tutorials.softmax_launch(2048, system)
    assert launch.programs == min(4096, 108 * (65536 // (compiled.registers * 256)))
