"""Hybrid device files: shipped ones, overrides, and what is refused."""

from __future__ import annotations

import copy
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from presilicon.arch import dram, load, names
from presilicon.arch.hybrid import hybrid_from_document
from presilicon.arch.hybrid_spec import HybridSystem
from presilicon.errors import PresiliconError, SpecError, UnknownNameError

SHIPPED = [name for name in names() if load(name).kind == "hybrid"]


def _system(name: str = "neupims") -> HybridSystem:
    system = load(name)
    assert isinstance(system, HybridSystem)
    return system


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_files_are_whole(name: str) -> None:
    system = _system(name)
    assert system.name == name
    assert system.memory_bytes > 0
    assert all(rate > 0 for rate in system.peaks_flops_per_s.values())
    assert next(iter(system.ceilings_bytes_per_s)) == "dram"
    assert set(system.values) == set(system.provenance)
    assert all(p.source for p in system.provenance.values())


def test_published_totals() -> None:
    neupims = _system()
    assert neupims.peaks_flops_per_s["fp16"] == pytest.approx(4 * 262.1e12, rel=0.001)  # 8 x 128 x 128 x 2 x 1 GHz
    assert neupims.ceilings_bytes_per_s == pytest.approx({"dram": 4 * 1.024e12, "pim": 4 * 16.4e12}, rel=0.01)
    assert neupims.memory_bytes == 4 * 32 * 2**30
    assert _system("h100-aim").ceilings_bytes_per_s["pim"] == pytest.approx(8 * 16.4e12, rel=0.01)  # 16.4 TB/s per 32 channels
    assert _system("dgx-attacc").memory_bytes == pytest.approx(640 * 2**30 + 8 * 5 * 16 * 2**30)


def test_switches_and_numbers_are_overridden_by_path() -> None:
    changed = _system().override({"pim.access": "blocked", "devices": 8, "plan.packing": "round-robin", "xpu.npu.clock": "2 GHz"})
    assert changed.pim is not None
    assert (changed.pim.access, changed.devices, changed.plan.packing) == ("blocked", 8, "round-robin")
    assert changed.peaks_flops_per_s["fp16"] == 4 * _system().peaks_flops_per_s["fp16"]
    assert changed.provenance["devices"].status == "override"
    assert _system().devices == 4
    assert _system("neupims-npu-only").override({"plan.prefetch": True}).plan.prefetch


def test_entries_that_a_file_leaves_out_are_set_as_well() -> None:
    changed = _system("h100-aim").override({"pim.channels": 16, "plan.head_pipeline": True})
    assert changed.pim is not None
    assert (changed.pim.channels, changed.plan.head_pipeline) == (8 * 16, True)
    assert changed.memory_bytes == pytest.approx(_system("h100-aim").memory_bytes - 8 * 16 * 2**29)
    assert changed.override({"pim.channels": 8}).pim.channels == 8 * 8  # type: ignore[union-attr]
    assert _system("dgx-attacc").override({"pim.vectors": 4}).pim.vectors == 4  # type: ignore[union-attr]
    with pytest.raises(UnknownNameError, match=r"did you mean 'pim.channels'"):
        _system("h100-aim").override({"pim.chanels": 16})
    with pytest.raises(UnknownNameError, match=r"pim_linear\.vectors"):
        _system("h100-aim").override({"pim_linear.vectors": 4})


def test_a_processors_own_numbers_are_overridden_below_xpu() -> None:
    system = _system("h100-aim").override({"xpu.dram.bandwidth": "4 TB/s"})
    assert system.bandwidth_bytes_per_s == 4e12
    assert system.override({"pim.count": 4}).bandwidth_bytes_per_s == 4e12


@pytest.mark.parametrize(("changes", "error", "says"), [
    ({"pim.acess": "blocked"}, UnknownNameError, "pim.access"),
    ({"pim.access": "blokced"}, UnknownNameError, "blocked"),
    ({"devices": 1.5}, SpecError, "whole number"),
    ({"devices": 0}, SpecError, "whole number"),
    ({"plan.sub_batches": 3}, SpecError, "1 or 2"),
    ({"xpu.npu.efficiency": 1.2}, SpecError, "up to 1"),
    ({"xpu.npu.bandwidth": "3 GHz"}, SpecError, "xpu.npu.bandwidth"),
    ({"plan.prefetch": "yes"}, SpecError, "true or false"),
    ({"pim.dram": "hbm2"}, SpecError, "no processing units"),
    ({"pim.dram": "neupims-hbm3"}, UnknownNameError, "neupims-hbm2"),
    ({"pim.memory": "separate"}, SpecError, "link"),
])  # fmt: skip
def test_wrong_overrides(changes: dict[str, Any], error: type[PresiliconError], says: str) -> None:
    with pytest.raises(error, match=says):
        _system().override(changes)


def _without(document: dict[str, Any], path: str) -> dict[str, Any]:
    *steps, last = path.split(".")
    node = document
    for step in steps:
        node = node[step]
    del node[last]
    return document


@pytest.mark.parametrize("path", ["name", "devices", "xpu", "xpu.npu.clock", "xpu.npu.clock.value", "xpu.npu.clock.source", "pim.kernel"])
def test_missing_entries_are_named(path: str) -> None:
    document = _without(copy.deepcopy(dict(_system().document)), path)
    with pytest.raises(SpecError, match=path.removesuffix(".value").removesuffix(".source")):
        hybrid_from_document(document)


def test_unknown_keys_are_named() -> None:
    document = copy.deepcopy(dict(_system().document))
    document["pim"]["channel"] = {"value": 1, "source": "x"}
    with pytest.raises(UnknownNameError, match="channel"):
        hybrid_from_document(document)
    with pytest.raises(UnknownNameError, match="fabirc"):
        hybrid_from_document({**dict(_system().document), "fabirc": {}})


def test_overrides_find_the_memory_beside_the_device_file(tmp_path: Path) -> None:
    shutil.copy(dram.FOLDER / "neupims-hbm2.yaml", tmp_path / "mine.yaml")
    document = copy.deepcopy(dict(_system().document))
    document["pim"]["dram"]["value"] = "mine.yaml"
    (tmp_path / "device.yaml").write_text(yaml.safe_dump(document), encoding="utf-8")
    found = load(tmp_path / "device.yaml").override({"devices": 2})
    assert isinstance(found, HybridSystem)
    assert found.devices == 2
    assert found.pim == _system().pim
