"""Costs of every kind of system: published dies, parts and powers; monotone; one device against all."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from presilicon.arch import load, names
from presilicon.arch.area_table import of_node, table
from presilicon.arch.costs import PER_DEVICE, TOTALS, design_costs
from presilicon.arch.hybrid import HybridSystem
from presilicon.arch.hybrid_area import hybrid_device, units_area_mm2, units_power_w
from presilicon.arch.npu import NpuSystem
from presilicon.arch.npu_area import npu_area_mm2, npu_chip, npu_die_errors, npu_peak_power_w, pe_transistors
from presilicon.errors import SpecError, UnknownNameError

#: Relative errors that docs/explore.md states; nothing was fitted on these totals.
DIES = {"tpu-v1": -0.30, "tpu-v4i": -0.17, "ascend-910": -0.17, "ascend-910-2019": -0.07, "eyeriss": -0.40}
PARTS = {
    ("tpu-v1", "matrix"): -0.55, ("tpu-v1", "unified_buffer"): -0.11, ("tpu-v1", "accumulators"): -0.29, ("tpu-v1", "links"): 0.21,
    ("gemmini-16", "matrix"): -0.01, ("gemmini-16", "scratchpad"): 0.13, ("gemmini-16", "accumulator"): 0.05, ("tpu-v4i", "cmem"): -0.14,
}  # fmt: skip


def npu(name: str) -> NpuSystem:
    system = load(name)
    assert isinstance(system, NpuSystem)
    return system


def hybrid(name: str) -> HybridSystem:
    system = load(name)
    assert isinstance(system, HybridSystem)
    return system


@pytest.mark.parametrize(("die", "error"), DIES.items())
def test_errors_on_published_npu_dies_are_as_documented(die: str, error: float) -> None:
    published, modelled = npu_die_errors()[die]
    assert modelled / published - 1 == pytest.approx(error, abs=0.015)


def test_every_published_npu_die_is_documented() -> None:
    assert set(npu_die_errors()) == set(DIES)


@pytest.mark.parametrize(("part", "error"), PARTS.items(), ids=lambda v: "-".join(v) if isinstance(v, tuple) else None)
def test_errors_on_published_parts_are_as_documented(part: tuple[str, str], error: float) -> None:
    published = float(table()["npu_parts"][part[0]][part[1]])
    assert npu_area_mm2(npu(part[0]))[part[1]] / published - 1 == pytest.approx(error, abs=0.02)


def test_both_kinds_of_units_count() -> None:
    """PAPI: attention units in stacks of their own, and units for products in the processors' memory."""
    papi = hybrid("papi")
    found, without = hybrid_device(papi), hybrid_device(replace(papi, pim_linear=None))
    assert papi.pim is not None
    assert papi.pim_linear is not None
    assert found.areas_mm2["units"] == pytest.approx(units_area_mm2(papi.pim) + units_area_mm2(papi.pim_linear))
    assert found.power_w - without.power_w == pytest.approx(units_power_w(papi.pim_linear))
    assert found.cost_usd > without.cost_usd
    assert found.areas_mm2["controllers"] == without.areas_mm2["controllers"]  # only the stacks apart need their own
    one = hybrid_device(papi.override({"pim_linear.vectors": 1}))
    assert one.power_w < found.power_w  # as many reads, a quarter of the multiply-adds


def test_power_lies_where_it_was_measured() -> None:
    """TPU v1: 40 W busy, 75 W by design (ISCA 2017, table 2); TPU v4i: 175 W (ISCA 2021); Eyeriss: 278 mW (JSSC 2017) with clock tree."""
    assert 40 < npu_peak_power_w(npu("tpu-v1")) < 75
    assert npu_peak_power_w(npu("tpu-v4i")) == pytest.approx(175, rel=0.1)
    assert 0.5 * 0.278 < npu_peak_power_w(npu("eyeriss")) < 0.278


@pytest.mark.parametrize("name", [n for n in names() if load(n).kind != "gpu"])
def test_every_shipped_accelerator_has_costs(name: str) -> None:
    found = design_costs(load(name), {})
    assert set(found) == {*TOTALS, *PER_DEVICE, "devices"}
    for total, each in zip(TOTALS, PER_DEVICE, strict=True):
        assert float(found[each][0]) > 0
        assert found[total][0] == pytest.approx(found[each][0] * found["devices"][0])
    assert found["devices"][0] == (load(name).devices if load(name).kind == "hybrid" else 1)


@pytest.mark.parametrize("path", ["matrix.rows", "memories.cmem.size", "memories.vmem.size", "dram.bandwidth", "vector.lanes", "cores"])
def test_more_of_an_npu_takes_more_area_and_money(path: str) -> None:
    system = npu("tpu-v4i")
    base = system.values[path][0]
    found = design_costs(system, {path: np.array([base, 2 * base], dtype=float)})
    assert found["area_mm2"][1] > found["area_mm2"][0]
    assert found["cost_usd"][1] > found["cost_usd"][0]
    assert found["area_mm2"][0] == pytest.approx(sum(npu_area_mm2(system).values()))


@pytest.mark.parametrize(
    ("name", "path"),
    [("neupims", "xpu.npu.arrays"), ("neupims", "xpu.npu.scratchpad"), ("neupims", "pim.count"), ("neupims", "xpu.npu.bandwidth"),
     ("dgx-attacc", "xpu.tiled.flops"), ("h100-aim", "pim.count"), ("h100-aim", "xpu.gpu.sm.count"), ("duplex", "pim.scale")],
)  # fmt: skip
def test_more_of_a_hybrid_takes_more_area_and_money(name: str, path: str) -> None:
    system = hybrid(name)
    inner = system.xpu.gpu.sm.count if path == "xpu.gpu.sm.count" else system.values[path][0]  # type: ignore[union-attr]
    factor = 1.02 if path == "xpu.gpu.sm.count" else 2  # twice the SMs do not fit under the reticle
    found = design_costs(system, {path: np.array([inner, round(inner * factor)], dtype=float)})
    assert found["area_mm2"][1] > found["area_mm2"][0]
    assert found["cost_usd"][1] > found["cost_usd"][0]


def test_devices_multiply_totals_and_leave_one_device_as_it_is() -> None:
    for name in ("h100-sxm", "tpu-v4i"):
        one, eight = design_costs(load(name), {}), design_costs(load(name), {}, devices=8)
        for total, each in zip(TOTALS, PER_DEVICE, strict=True):
            assert float(np.squeeze(eight[total])) == pytest.approx(8 * float(np.squeeze(one[total])))
            assert float(np.squeeze(eight[each])) == pytest.approx(float(np.squeeze(one[each])))
    more = design_costs(hybrid("neupims"), {"devices": np.array([4.0, 8.0])})
    assert more["area_mm2"][1] == pytest.approx(2 * more["area_mm2"][0])
    assert more["area_mm2_per_device"][1] == pytest.approx(more["area_mm2_per_device"][0])


def test_the_units_are_what_a_hybrid_adds_to_its_processor() -> None:
    """An H100 with units beside it is an H100, the units, and what drives their memories."""
    from presilicon.arch import area

    areas = hybrid_device(hybrid("h100-aim")).areas_mm2
    alone = float(area.chip(load("h100-sxm")).area_mm2)  # type: ignore[arg-type]
    assert sum(v for k, v in areas.items() if k not in ("units", "controllers")) == pytest.approx(alone)
    dram = hybrid("h100-aim").pim.size_bytes / 1e9 * 92  # type: ignore[union-attr]
    assert 0.20 < areas["units"] / dram < 0.27  # what units cost of a DRAM die (Duplex, MICRO 2024)
    with_units, without = hybrid_device(hybrid("neupims")), hybrid_device(hybrid("neupims-npu-only"))
    assert with_units.area_mm2 - with_units.areas_mm2["units"] == pytest.approx(without.area_mm2, rel=0.01)
    assert with_units.cost_usd > without.cost_usd


def test_designs_that_a_system_refuses_have_no_numbers() -> None:
    found = design_costs(npu("tpu-v4i"), {"matrix.rows": np.array([128.0, 0.5])})
    assert np.isfinite(found["area_mm2"][0])
    assert np.isnan(found["area_mm2"][1])
    assert design_costs(npu("tpu-v4i"), {"node": np.array([130.0])}) == {}


def test_nodes_between_rows_are_interpolated_and_beyond_refused() -> None:
    assert of_node(28.0, "logic") == of_node("N28", "logic")
    assert of_node("N28", "logic") < of_node(20.0, "logic") < of_node("N12", "logic")
    assert of_node(4.0, "sram_cell") == of_node("N4", "sram_cell")
    for bad in (130.0, 1.0, float("nan")):
        with pytest.raises(SpecError, match="3 to 65 nm"):
            of_node(bad, "logic")
    with pytest.raises(UnknownNameError, match="dataflow"):
        pe_transistors("int8", "xs")
    assert pe_transistors("int8", "ws") < pe_transistors("bf16", "ws") < pe_transistors("fp32", "ws")


def test_a_user_s_npu_without_a_standard_gets_the_usual_interface() -> None:
    from dataclasses import replace

    system = replace(npu("tpu-v4i"), name="mine")
    wide, narrow = (npu_chip(replace(system, dram=replace(system.dram, bandwidth_bytes_per_s=b))) for b in (600e9, 20e9))
    assert wide.areas_mm2["memory_phy"] > narrow.areas_mm2["memory_phy"] > 0
