"""Units told by the roles of their commands, and Samsung's, in hybrid systems: the forms, and a system of its own from files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml

from presilicon.arch import dram, load
from presilicon.arch.hybrid_spec import HybridSystem, PimSide, crossed, internal_bytes_per_s, suits
from presilicon.errors import MappingError, PresiliconError
from presilicon.mapping.pim_attention import Heads
from presilicon.mapping.pim_products import product, product_attention
from presilicon.sim.dram.gemv import gemv
from presilicon.sim.hybrid.run import simulate_hybrid
from presilicon.validate.cases.hybrids import decoder_layers

UNITS = """
name: lp5-pim
standard: LPDDR5
base: lpddr5-6400
organisation: {channels: {value: 16, source: mine}}
timings: {tRCD_MAC: {value: 22 ns, source: mine}, tBUF: {value: 3, source: mine}}
commands:
  ACTU: {scope: same-bank, bus: row, needs: closed, effect: open}
  PREU: {scope: same-bank, bus: row, effect: close}
  MACU: {scope: same-bank, needs: open, opener: ACTU, closer: PREU}
  PUT: {scope: channel}
  GET: {scope: channel, latency: tCL + tBL}
constraints:
  - {level: bank, after: [ACTU], before: [MACU], cycles: tRCD_MAC}
  - {level: bank, after: [ACTU], before: [PREU], cycles: tRAS}
  - {level: bank, after: [MACU], before: [PREU], cycles: tRTP}
  - {level: bank, after: [PREU], before: [ACTU], cycles: tRP}
  - {level: channel, after: [MACU], before: [MACU], cycles: tCCD_L}
  - {level: channel, after: [PUT], before: [PUT, MACU], cycles: tBUF}
  - {level: channel, after: [MACU], before: [GET], cycles: tCCD_L}
pim:
  placement: {value: bankgroup, source: mine}
  lanes: {value: 16, source: mine}
  width: {value: 32, source: mine}
  clock: {value: 400 MHz, source: mine}
  buffer: {value: 512, source: mine}
  buffer_scope: {value: unit, source: mine}
  registers: {value: 1, source: mine}
gemv: {mac: MACU, write: PUT, read: GET}
energy: {cell: {value: 0.5 pJ/bit, source: mine}, bankgroup: {value: 1 pJ/bit, source: mine}, standby_w: {value: 60 mW, source: mine}}
"""


def _entries(**values: object) -> dict[str, dict[str, object]]:
    return {name: {"value": value, "source": "mine"} for name, value in values.items()}


@pytest.fixture
def phone(tmp_path: Path) -> HybridSystem:
    """A small NPU on the memory above, both from files."""
    (tmp_path / "units.yaml").write_text(UNITS, encoding="utf-8")
    npu = _entries(clock="1 GHz", arrays=1, rows=64, columns=64, stationary="weights", vector_cores=1, lanes=64, bandwidth="102.4 GB/s",
                   efficiency=0.9, scratchpad="8 MiB", mac_energy="0.5 pJ", vector_energy="1 pJ")
    pim = _entries(dram="units.yaml", kernel="gemv", count=1, memory="shared", access="blocked")
    document = {"name": "phone", "kind": "hybrid", **_entries(devices=1), "xpu": {"npu": npu}, "pim": pim}
    (tmp_path / "phone.yaml").write_text(yaml.safe_dump(document), encoding="utf-8")
    system = load(tmp_path / "phone.yaml")
    assert isinstance(system, HybridSystem)
    return system


def test_a_system_of_ones_own_runs_products_and_attention(phone: HybridSystem) -> None:
    side = phone.pim
    assert side is not None
    assert (side.device.title, crossed(side)) == ("lp5-pim", "bg")
    graph = decoder_layers(1024, 8, 1, (300,), 2)
    found = simulate_hybrid(graph, phone, "analytic", "pim")
    assert {r.op.kind for r in found.results if r.place == "pim"} == {"matmul", "attention"}
    for r in found.results:
        if r.place == "pim":
            size = r.op.operand_bytes("weight") + r.op.operand_bytes("cache")
            assert r.estimate.bytes_moved["pim"] >= size
            assert r.estimate.time_s >= size / internal_bytes_per_s(side)
            # A read crosses cells and columns, of which the file states the cells; the bank group's multiplexer lies beyond the units.
            assert r.estimate.energy_j["pim cell"] == pytest.approx(8 * r.estimate.bytes_moved["pim"] * 0.5e-12)
    qkv = next(r for r in found.results if r.op.name == "qkv")
    commands = gemv(side.device, 3072, 1024)
    assert qkv.estimate.time_s == pytest.approx(commands.time_s, rel=0.02)  # a product is what the command engine plays
    assert not any("states no energy" in line for line in found.notes)


def test_attention_of_a_head_is_two_products_of_a_channel(phone: HybridSystem) -> None:
    side = phone.pim
    assert side is not None
    still = replace(side, device=replace(side.device, refresh=None, organisation=replace(side.device.organisation, channels=1)))
    costs = product_attention(still, Heads(2, 4, 128), np.array([300, 70, 300]))
    played = [sum(gemv(still.device, *shape, refresh=False).cycles or 0 for shape in ((n, 128), (128, n))) for n in (300, 70)]
    assert costs.items == 2
    assert costs.cycles.tolist() == pytest.approx([4 * played[0], 4 * played[1], 4 * played[0]], rel=0.02)
    assert (costs.score_cycles < costs.cycles).all()
    assert costs.macs.tolist() == [2 * 8 * 128 * n for n in (300, 70, 300)]
    refreshed = replace(still, device=replace(still.device, refresh=side.device.refresh))
    refreshing = product_attention(refreshed, Heads(2, 4, 128), np.array([300]))
    t = side.device.timings
    assert refreshing.cycles[0] / costs.cycles[0] == pytest.approx(1 / (1 - t["tRFC"] / t["tREFI"]), rel=0.01)
    narrow = product_attention(still, Heads(2, 4, 128, 8.0), np.array([300]))
    assert narrow.cycles[0] < costs.cycles[0]
    with pytest.raises(MappingError, match="at least one key"):
        product_attention(still, Heads(2, 4, 128), np.array([0]))


def test_samsung_as_a_part_of_a_system() -> None:
    system = load("h100-aim").override({"pim.dram": "samsung-hbm2-pim", "pim.kernel": "samsung"})
    assert isinstance(system, HybridSystem)
    graph = decoder_layers(4096, 32, 1, (300,), 1)
    found = simulate_hybrid(graph, system, "analytic", "pim")
    qkv = next(r for r in found.results if r.op.name == "qkv")
    alone = gemv("samsung-hbm2-pim", 12288 // 8, 4096)
    assert qkv.place == "pim"
    assert qkv.estimate.time_s == pytest.approx(2e-6 + alone.time_s, rel=0.01)  # eight devices share the outputs; 2 us start them
    with pytest.raises(MappingError, match=r"multiply FP16; found elements of 4.1"):
        product(dram.load("samsung-hbm2-pim"), "samsung", 64, 64, 4.125)


@pytest.mark.parametrize(("device", "kernel"), [
    ("aim-gddr6", "aim"), ("neupims-hbm2", "newton"), ("newton-hbm2", "newton"), ("attacc-hbm3", "attacc"), ("papi-fc-hbm3", "attacc"),
    ("upmem", "upmem"), ("samsung-hbm2-pim", "samsung")])
def test_each_device_suits_its_own_kernel(device: str, kernel: str) -> None:
    known = ("newton", "aim", "attacc", "upmem", "samsung", "gemv")
    assert [each for each in known if suits(each, dram.load(device))] == [kernel]
    wrong = next(each for each in known if each != kernel)
    with pytest.raises(PresiliconError, match=rf"pim.kernel: '{wrong}' needs commands that {device} has not; its units run '{kernel}'"):
        load("h100-aim").override({"pim.dram": device, "pim.kernel": wrong})


def test_every_shipped_system_suits() -> None:
    for name in ("neupims", "npu-pim", "h100-aim", "duplex", "cent", "pim-gpt", "ianus", "papi", "dgx-attacc"):
        system = load(name)
        assert isinstance(system, HybridSystem)
        for side in system.sides.values():
            assert isinstance(side, PimSide)
            assert suits(side.kernel, side.device)


def test_unknown_energies_are_refused(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(UNITS.replace("cell:", "sell:"), encoding="utf-8")
    with pytest.raises(PresiliconError, match="unknown energy 'sell'; did you mean 'cell'"):
        dram.load(tmp_path / "mine.yaml")
