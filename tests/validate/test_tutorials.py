"""The Triton tutorials' published figures against predictions, the power at which the SM clock falls alone fitted."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("triton")
pytest.importorskip("llvmlite")  # a pure Python run of as many instructions takes an hour

from presilicon.errors import TableError
from presilicon.validate import tutorials

TABLE = Path(__file__).resolve().parents[3] / "shared" / "measured" / "triton_tutorials.a100_sxm_40gb.csv"
needs_table = pytest.mark.skipif(not TABLE.is_file(), reason="published figures are not beside the project (../shared/measured)")
#: What `python validate/older_triton.py FOLDER` wrote under Triton 3.0, which the published figures come from.
OLDER = Path(os.environ.get("PRESILICON_OLDER_TRITON", ""))
#: Configs that come first somewhere; the others change no answer.
SHORT = [c for c in tutorials.MATMUL_CONFIGS if c[2] < 128]


@pytest.mark.slow
@needs_table
def test_softmax_sizes() -> None:
    rows = tutorials.compare(TABLE, kernel="softmax", dtype="float32", sizes=range(1024, 12800, 3072))
    assert len(rows) == 4
    assert tutorials.mape(rows) < 0.08


@pytest.mark.slow
@needs_table
def test_matmul_sizes() -> None:
    sizes = (512, 1024, 2048)
    rows = tutorials.compare(TABLE, kernel="matmul", dtype="float16", sizes=sizes, configs=SHORT)
    assert [row.size for row in rows] == list(sizes)
    assert tutorials.mape(rows) < 0.08
    assert all(abs(row.error) < 0.16 for row in rows)


@needs_table
@pytest.mark.exhaustive
def test_every_published_size() -> None:
    matmul = tutorials.compare(TABLE, kernel="matmul", dtype="float16")
    assert len(matmul) == 31
    assert tutorials.mape(matmul) < 0.05
    softmax = tutorials.compare(TABLE, kernel="softmax", dtype="float32")
    assert tutorials.mape(softmax) < 0.08


@needs_table
def test_the_power_is_fitted_on_one_half_and_tested_on_the_other() -> None:
    sizes = (256, 512, 768, 1024)
    one, two = tutorials.held_out(TABLE, sizes=sizes, configs=SHORT[5:7])
    for part in (one, two):
        assert {row.size for row in part.fitted} | {row.size for row in part.other} == set(sizes)
        assert not {row.size for row in part.fitted} & {row.size for row in part.other}
        assert part.power_w in tutorials.POWERS_W
    assert {row.size for row in one.other} == {row.size for row in two.fitted}


def test_one_clock_for_all_sizes_is_found() -> None:
    boost = tutorials.machine().gpu.clock.boost_hz
    rows = [tutorials.Row("matmul", "float16", size, 1e-9 * size**2 * boost / 1.25e9 + tutorials.DO_BENCH_S,
                          1e-9 * size**2 + tutorials.DO_BENCH_S, ()) for size in (256, 1024, 4096)]
    clock, found = tutorials.at_one_clock(rows)
    assert clock == pytest.approx(1.25e9)
    assert tutorials.mape(found) < 1e-9 < tutorials.mape(rows)


@needs_table
@pytest.mark.exhaustive
def test_held_out_halves() -> None:
    for part in tutorials.held_out(TABLE):
        assert tutorials.mape(part.other) < 0.06


@needs_table
@pytest.mark.exhaustive
@pytest.mark.skipif(not (OLDER / "kernels.json").is_file(), reason="PRESILICON_OLDER_TRITON names no folder of an older Triton's kernels")
def test_fp8_as_the_published_triton_compiled_it() -> None:
    rows = tutorials.compare(TABLE, kernel="matmul", dtype="float8_e5m2", cubins=OLDER)
    assert len(rows) == 31
    assert tutorials.mape(rows) < 0.12


def test_a_folder_without_older_kernels_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TableError, match=r"no kernel 'float16\.128x256x64x3x8'"):
        tutorials.older_launch(tmp_path, 256, "float16", tutorials.MATMUL_CONFIGS[0])


def test_a_table_without_times_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text("kernel,dtype,n\nmatmul,float16,256\n")
    with pytest.raises(TableError, match="latency_s"):
        tutorials.read_published(path)


def test_softmax_programs_follow_the_tutorials_rule() -> None:
    system = tutorials.machine()
    compiled, launch = tutorials.softmax_launch(2048, system)
    assert launch.programs == min(4096, 108 * (65536 // (compiled.registers * 256)))
