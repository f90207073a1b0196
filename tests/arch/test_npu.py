"""NPU device files, their energies, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from presilicon import arch
from presilicon.arch import energy
from presilicon.arch.npu import NpuSystem
from presilicon.arch.yamlfile import read_yaml
from presilicon.errors import PresiliconError, SpecError, UnknownNameError

NPUS = ("ascend-910", "eyeriss", "gemmini-16", "tpu-v1", "tpu-v4i")
DEVICES = Path(arch.__file__).parent / "devices"
#: Peaks that the makers or papers print, FLOP/s (a multiply-add is two).
PEAKS = {
    ("tpu-v1", "int8"): 92e12,
    ("tpu-v4i", "bf16"): 138e12,
    ("eyeriss", "int16"): 67.2e9,
    ("gemmini-16", "int8"): 512e9,
    ("ascend-910", "fp16"): 353.9e12,
}


def npu(name: str) -> NpuSystem:
    system = arch.load(name)
    assert isinstance(system, NpuSystem)
    return system


@pytest.mark.parametrize("name", NPUS)
def test_every_number_has_a_source_and_a_place(name: str) -> None:
    system = npu(name)
    assert {path for path, _, _ in system.numbers()} == set(system.provenance)
    assert all(origin.source.strip() for origin in system.provenance.values())
    short = system.document["sources"]
    assert not any(origin.source.split(":")[0] in short for origin in system.provenance.values()), "short names are written out"
    assert set(system.assumed()) < set(system.provenance)
    assert next(iter(system.ceilings_bytes_per_s)) == "dram"
    for arithmetic in system.matrix.macs_per_clk:
        assert system.hierarchy(arithmetic).mac_units == system.matrix.pes * system.cores


@pytest.mark.parametrize(("key", "peak"), PEAKS.items(), ids=str)
def test_peaks_are_the_published_ones(key: tuple[str, str], peak: float) -> None:
    assert npu(key[0]).peaks_flops_per_s[key[1]] == pytest.approx(peak, rel=0.01)


def test_override_changes_what_it_names_and_nothing_else() -> None:
    tpu = npu("tpu-v1")
    wide = tpu.override({"dram.bandwidth": "68 GB/s", "memories.unified_buffer.size": "48 MiB"})
    assert wide.dram.bandwidth_bytes_per_s == 68e9
    assert wide.memories[0].size_bytes == 48 * 2**20
    assert wide.matrix == tpu.matrix
    assert wide.provenance["dram.bandwidth"].status == "override"
    assert wide.provenance["clock"] == tpu.provenance["clock"]
    assert tpu.override({"dram.energy": "1 pJ/bit"}).dram.j_per_byte == pytest.approx(8e-12)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("matrix.row", 8, "did you mean 'matrix.rows'"),
        ("matrix", 8, "holds several numbers"),
        ("matrix.rows", 0, "matrix.rows: expected a whole number of 1 or more"),
        ("matrix.rows", 2.5, "expected a whole number"),
        ("dram.bandwidth", "-3 GB/s", "dram.bandwidth: expected a quantity above 0"),
        ("dram.bandwidth", "3 GB", "dram.bandwidth"),
        ("matrix.dataflow", "wss", "did you mean 'ws'"),
        ("memories.unified_buffer.size", "0.5 B", "too small for one element"),
        ("memories.accumulators.buffers", 3, "expected 1, or 2 for double buffering"),
        ("coupling", "shared", "unknown coupling 'shared'"),
    ],
)
def test_override_refuses(path: str, value: Any, message: str) -> None:
    with pytest.raises(SpecError if "did you mean" not in message and "unknown" not in message else PresiliconError, match=message):
        npu("tpu-v1").override({path: value})


def without(document: dict[str, Any], path: str) -> dict[str, Any]:
    node = document
    *steps, last = path.split(".")
    for step in steps:
        node = node[step]
    del node[last]
    return document


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("dram.size", "dram.size: missing"),
        ("matrix.rows.source", "matrix.rows.source: missing"),
        ("dram.standard", "give either energy, or standard"),
        ("memories.unified_buffer.size", "give either size, which its tensors share, or partition"),
        ("matrix.rate.int8", None),
    ],
)
def test_a_file_that_lacks_something(path: str, message: str | None, tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump(without(read_yaml(DEVICES / "tpu-v1.yaml"), path)), encoding="utf-8")
    if message is None:
        assert list(arch.load(file).peaks_flops_per_s) == ["int16"]
        return
    with pytest.raises(SpecError, match=message) as caught:
        arch.load(file)
    assert str(file) in str(caught.value)


def test_order_of_memories_and_unknown_keys(tmp_path: Path) -> None:
    document = read_yaml(DEVICES / "tpu-v4i.yaml")
    document["memories"] = dict(reversed(document["memories"].items()))
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")
    with pytest.raises(SpecError, match="chip memories stand above those of a core"):
        arch.load(file)
    document = read_yaml(DEVICES / "tpu-v4i.yaml")
    document["dram"]["bandwith"] = document["dram"]["bandwidth"]
    file.write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")
    with pytest.raises(UnknownNameError, match="did you mean 'bandwidth'"):
        arch.load(file)


def test_energy_falls_with_the_node_and_rises_with_size_and_width() -> None:
    for operation in ("int8_mul", "fp16_mul", "fp32_add"):
        energies = [energy.operation_j(operation, node) for node in (7, 16, 28, 45)]
        assert energies == sorted(energies)
    for node in (7, 28, 45):
        sizes = [energy.sram_j_per_byte(size, node) for size in (512, 8192, 2**15, 2**17, 2**20, 2**23)]
        assert sizes == sorted(sizes)
        macs = [energy.mac_j(a, node) for a in ("int4", "int8", "int16", "fp16", "fp32")]
        assert macs == sorted(macs)


def test_energy_is_that_of_the_tables_at_their_own_points() -> None:
    assert energy.mac_j("fp32", 45) == pytest.approx((3.7 + 0.9) * 1e-12)
    assert energy.sram_j_per_byte(2**20, 45) == pytest.approx(100e-12 / 8)
    assert energy.sram_j_per_byte(8192, 7) == pytest.approx(7.5e-12 / 8)
    assert energy.dram_j_per_byte("ddr4") == pytest.approx(1300e-12 / 8, rel=0.01)


def test_energy_names_what_it_knows() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'fp16'"):
        energy.mac_j("fp17", 7)
    with pytest.raises(UnknownNameError, match="did you mean 'hbm2"):
        energy.dram_j_per_byte("hbm2f")
    with pytest.raises(UnknownNameError, match="unknown operation 'mul'"):
        energy.operation_j("mul", 7)


def test_arithmetic_of_a_format_is_its_own_or_the_nearest() -> None:
    assert npu("ascend-910").arithmetic_for("bf16") == "bf16"
    assert npu("tpu-v4i").arithmetic_for("fp16") == "bf16"
    assert npu("tpu-v4i").arithmetic_for("fp32") == "bf16"
    assert npu("tpu-v1").arithmetic_for("bf16") == "int8"
