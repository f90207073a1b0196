"""Energy, bandwidth and layouts of products on PIM devices: what the closed form counts against the commands themselves, and by hand."""

from __future__ import annotations

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from presilicon.arch import dram
from presilicon.arch.dram import DramDevice
from presilicon.arch.hybrid_spec import PATH
from presilicon.errors import MappingError, UnknownNameError
from presilicon.mapping.pim_energy import energy_j
from presilicon.mapping.pim_layouts import GemvLayout, Product, closed_form, gemv_kernel, layouts
from presilicon.sim.dram.gemv import GemvReport, gemv

AIM, ATTACC, NEUPIMS = (dram.load(name) for name in ("aim-gddr6", "attacc-hbm3", "neupims-hbm2"))
#: Commands of one channel that write inputs, and those that write or read accumulators.
WRITES = {"aim-gddr6": ("WRGB",), "neupims-hbm2": ("GWRITE",), "newton-hbm2": ("GWRITE",), "attacc-hbm3": ("WRGB",)}
READS = {"aim-gddr6": ("WRMAC16", "RDMAC16"), "neupims-hbm2": ("READRES",), "newton-hbm2": ("READRES",), "attacc-hbm3": ("MVSB",)}
OPENERS = ("ACT16", "GACT", "ACTAB", "ACTSB", "ACTPB")
MACS = ("MAC16", "COMP", "MACAB", "MACSB", "MACPB")


def _sent(report: GemvReport, names: tuple[str, ...]) -> int:
    assert report.stream is not None
    return sum(report.stream.counts().get(name, 0) for name in names)


def _banks(device: DramDevice, report: GemvReport, names: tuple[str, ...]) -> int:
    """Banks that the commands of a channel reach, one after the other."""
    assert report.stream is not None
    return sum(count * (len(device.addressed(name, 0)) if name not in ("COMP", "GACT") else {"COMP": 32, "GACT": 4}[name])
               for name, count in report.stream.counts().items() if name in names)


@settings(max_examples=25, deadline=None)
@given(name=st.sampled_from(sorted(WRITES)), outputs=st.integers(1, 3000), inputs=st.integers(1, 3000), batch=st.integers(1, 3),
       level=st.sampled_from(("bank", "bg", "buffer")), bits=st.sampled_from((16.0, 8.0, 4.25)), split=st.sampled_from((1, 2, 8)))
def test_what_the_closed_form_moves_and_opens_is_what_the_commands_do(
        name: str, outputs: int, inputs: int, batch: int, level: str, bits: float, split: int) -> None:
    assume(outputs * inputs * batch <= 2_000_000 and split <= inputs)
    device = dram.load(name)
    report = gemv(device, outputs, inputs, batch=batch, level=level, bits=bits, split=split, refresh=False)
    closed, org = report.analytic, device.organisation
    assert report.gap is not None
    assert abs(report.gap) <= 0.02
    assert (closed.writes, closed.reads) == (_sent(report, WRITES[name]), _sent(report, READS[name]))
    width = device.pim.width_bytes if device.pim and "GACT" in {c.name for c in device.commands} else org.column_bytes
    assert closed.weight_bytes == _banks(device, report, MACS) * width * org.channels
    assert closed.opened_bytes == _banks(device, report, OPENERS) * org.row_bytes * org.channels
    assert closed.weight_bytes >= batch * report.product.matrix_bytes
    assert 0 < report.roofline_share <= 1


def test_a_read_by_units_and_the_rest_of_the_path_are_an_ordinary_read() -> None:
    # AttAcc's table: 0.55, 1.56 and 3.29 pJ/bit to the units, 3.59 to the processor (facts of the public simulator).
    for where, pj in (("bank", 0.55), ("bg", 1.56), ("buffer", 3.29)):
        read = energy_j(ATTACC, where, read_bits=1.0, path_bits=0.0, macs=0.0)
        both = energy_j(ATTACC, where, read_bits=1.0, path_bits=1.0, macs=0.0)
        assert sum(read.values()) == pytest.approx(pj * 1e-12)
        assert sum(both.values()) == pytest.approx(3.59e-12)
        assert set(both) == {*PATH, "mac"}


def test_energy_of_a_product_by_hand() -> None:
    report = gemv(ATTACC, 4096, 4096, refresh=False)
    found, bits = report.energy_j, 8 * 2 * 4096 * 4096
    assert found["activate"] == pytest.approx(bits * 0.11e-12)  # every row that opens is read whole
    assert found["cell"] == pytest.approx(bits * 0.44e-12)
    assert found["mac"] == pytest.approx(4096 * 4096 * 0.32e-12)
    # 256 columns of inputs on each channel, and 8 moves for each 16 of 8 rows a unit, once a block of 1,024 inputs: 32 bytes each.
    assert found["io"] == pytest.approx((256 + 4 * 8) * 32 * 8 * 16 * 0.3e-12)
    assert "static" not in found
    # Rows of which a part is read are opened whole.
    part = gemv(AIM, 512, 512, refresh=False)
    assert part.energy_j["activate"] == pytest.approx(512 * 2048 * 8 * 0.18e-12)
    assert part.energy_j["cell"] == pytest.approx(512 * 512 * 16 * 0.321e-12)
    assert part.energy_j["static"] == pytest.approx(32 * 0.5075 * part.time_s)
    assert gemv("upmem", 64, 64).energy_j == {}


def test_loop_orders_differ_by_what_they_move() -> None:
    both = {order: gemv(AIM, 4096, 4096, order=order, refresh=False) for order in ("outputs", "inputs")}  # type: ignore[arg-type]
    # Four blocks of 64 columns: written once each, or for each of 8 groups; accumulators written and read 32 times, or 8.
    assert [(r.analytic.writes, r.analytic.reads) for r in both.values()] == [(8 * 4 * 64, 2 * 8), (4 * 64, 2 * 32)]
    assert sum(both["inputs"].energy_j.values()) < sum(both["outputs"].energy_j.values())
    why = gemv(AIM, 4096, 4096, refresh=False).why()
    assert why[0].startswith("loop order inputs: 9665 cycles, 256 writes")
    assert "loop order outputs: 13057, 2048" in why[0]


def test_inputs_over_several_channels_give_idle_units_work() -> None:
    # 128 outputs on 512 units: over 4 channels each unit has an output, and a quarter of the inputs.
    alone, over = (gemv(AIM, 128, 8192, split=split, refresh=False, fidelity="analytic") for split in (1, 4))
    assert over.analytic.macs == alone.analytic.macs == 128 * 8192
    assert over.analytic.weight_bytes == 128 * 8192 * 2
    assert alone.analytic.weight_bytes == 4 * over.analytic.weight_bytes  # banks without an output read along
    assert over.time_s < 0.4 * alone.time_s
    assert any("inputs over" in line for line in alone.why())
    best = gemv(AIM, 128, 8192, split=None, refresh=False, fidelity="analytic")
    every = [closed_form(AIM, best.product, layout).cycles for layout in layouts(AIM, split=None)]
    assert best.analytic.cycles == min(every) <= over.analytic.cycles
    assert len(every) == 2 * 6  # orders, and 1 to 32 channels


@pytest.mark.parametrize("name", ["aim-gddr6", "samsung-hbm2-pim", "attacc-hbm3", "newton-hbm2", "upmem"])
def test_the_answer_as_data(name: str) -> None:
    report = gemv(name, 300, 700, batch=2)
    told = report.document()
    assert told["macs"] == 300 * 700 * 2
    assert told["bandwidth_bytes_per_s"] * told["time_s"] == pytest.approx(2 * 300 * 700 * told["bits"] / 8)
    assert told["roofline_share"] == pytest.approx(told["bandwidth_bytes_per_s"] / told["peak_bytes_per_s"])
    assert told["roofline_share"] <= 1
    if told["energy_j"]:
        assert told["energy_per_mac_j"] == pytest.approx(sum(told["energy_j"].values()) / told["macs"])
    assert all(other["analytic_cycles"] > 0 for other in told["others"])


def test_what_units_cannot_take_is_refused() -> None:
    for name, bits, match in (("aim-gddr6", 17.0, "up to 16 bits"), ("samsung-hbm2-pim", 8.0, "FP16 alone"), ("upmem", 16.0, "int8 of 8"),
                              ("attacc-hbm3", 0.0, "up to 16 bits"), ("newton-hbm2", float("nan"), "nan")):
        with pytest.raises(MappingError, match=match):
            gemv(name, 64, 64, bits=bits)
    with pytest.raises(MappingError, match="does not divide its 32 channels; allowed are 1, 2, 4"):
        gemv("aim-gddr6", 64, 64, split=3)
    with pytest.raises(MappingError, match="fewer than channels"):
        gemv("aim-gddr6", 64, 2, split=4)
    with pytest.raises(MappingError, match="one loop order"):
        gemv("newton-hbm2", 64, 64, order="inputs")
    with pytest.raises(UnknownNameError, match="loop order"):
        list(layouts(AIM, order="rows"))
    with pytest.raises(MappingError, match="has no GEMV kernel"):
        gemv_kernel(dram.load("hbm3"))
    assert str(GemvLayout("inputs", "", 4)) == "loop order inputs, inputs over 4 channels"
    assert Product(2, 3, bits=8.0).matrix_bytes == 6
