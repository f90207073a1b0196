"""Area of NPUs: sums over parts, within published dies, monotone."""

from __future__ import annotations

import pytest

from presilicon.arch import load
from presilicon.arch.npu import NpuSystem
from presilicon.arch.npu_area import npu_area_mm2
from presilicon.errors import UnknownNameError


def npu(name: str) -> NpuSystem:
    system = load(name)
    assert isinstance(system, NpuSystem)
    return system


def test_tpu_v1_fits_into_half_a_haswell_die() -> None:
    """Jouppi et al., ISCA 2017, table 2: at most half of 662 mm2; the matrix unit is a quarter, the unified buffer almost a third of it."""
    parts = npu_area_mm2(npu("tpu-v1"))
    assert sum(parts.values()) < 662 / 2
    assert parts["matrix"] < 0.27 * 662 / 2
    assert parts["unified_buffer"] < 0.33 * 662 / 2


@pytest.mark.parametrize("name", ["tpu-v1", "tpu-v4i", "ascend-910"])
def test_more_takes_more_and_a_finer_node_less(name: str) -> None:
    system = npu(name)
    parts = npu_area_mm2(system)
    assert set(parts) >= {"matrix", "vector", *(m.name for m in system.memories)}
    doubled = npu_area_mm2(system.override({"matrix.rows": 2 * system.matrix.rows}))
    assert doubled["matrix"] == pytest.approx(2 * parts["matrix"])
    assert sum(npu_area_mm2(system, "N4").values()) < sum(npu_area_mm2(system, "N45").values())


def test_a_node_without_numbers_is_named() -> None:
    with pytest.raises(UnknownNameError, match="N130"):
        npu_area_mm2(npu("eyeriss"), "N130")
    assert npu_area_mm2(npu("eyeriss"))["registers"] > npu_area_mm2(npu("eyeriss"), "N45")["registers"] > 0
