"""Closed forms of products on AttAcc, NeuPIMs, Newton and UPMEM, and AiM's batches, against commands and by hand."""

from __future__ import annotations

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from presilicon.arch import dram
from presilicon.errors import MappingError, UnknownNameError
from presilicon.mapping import pim, pim_gemv
from presilicon.sim.dram import aim, attacc
from presilicon.sim.dram.checker import check
from presilicon.sim.dram.engine import RefreshKind
from presilicon.sim.dram.gemv import gemv

ATTACC, UPMEM, AIM = (dram.load(name) for name in ("attacc-hbm3", "upmem", "aim-gddr6"))


SIZE = st.one_of(st.integers(1, 64), st.integers(1, 1500), st.integers(1, 9000))


@pytest.mark.slow
@settings(max_examples=30, deadline=None)
@given(
    outputs=SIZE, inputs=SIZE, batch=st.integers(1, 4), level=st.sampled_from(pim_gemv.LEVELS), limited=st.booleans(), refresh=st.booleans()
)
def test_attacc_is_within_two_per_cent_of_commands_that_obey_every_timing(
    outputs: int, inputs: int, batch: int, level: pim_gemv.Level, limited: bool, refresh: bool
) -> None:
    assume(outputs * inputs * batch <= 3_000_000)
    closed = pim_gemv.attacc_gemv(ATTACC, outputs, inputs, batch=batch, level=level, power_limited=limited, refresh=refresh)
    how: RefreshKind = "all-bank" if refresh else "off"
    run = attacc.gemv(ATTACC, outputs, inputs, batch=batch, level=level, power_limited=limited, refresh=how)
    assert abs(closed.cycles - run.cycles) <= 0.02 * run.cycles
    assert check(run.stream, refresh=how).clean


@pytest.mark.parametrize("name", ["aim-gddr6", "samsung-hbm2-pim", "neupims-hbm2", "newton-hbm2"])
@settings(max_examples=15, deadline=None)
@given(outputs=SIZE, inputs=SIZE, batch=st.integers(1, 4), refresh=st.booleans())
def test_every_device_is_within_two_per_cent_of_its_commands(name: str, outputs: int, inputs: int, batch: int, refresh: bool) -> None:
    assume(outputs * inputs * batch <= 8_000_000)
    report = gemv(name, outputs, inputs, batch=batch, refresh=refresh)
    assert report.gap is not None
    device = dram.load(name)
    last = device.timings[device.refresh.duration] if refresh and device.refresh else 0   # falls due beside the last command, or just after
    assert abs(report.gap) <= 0.02 or abs(report.analytic.cycles - report.cycles) <= last
    if name != "samsung-hbm2-pim" and not refresh:
        assert report.analytic.cycles == report.cycles


@pytest.mark.parametrize("name", ["neupims-hbm2", "newton-hbm2", "attacc-hbm3", "aim-gddr6"])
@pytest.mark.parametrize(("outputs", "inputs"), [(4096, 4096), (5000, 3000), (12288, 1000)])
@pytest.mark.parametrize("batch", [1, 3])
def test_every_device_reports_its_gap(name: str, outputs: int, inputs: int, batch: int) -> None:
    report = gemv(name, outputs, inputs, batch=batch)
    assert report.gap is not None
    assert abs(report.gap) < 0.02
    assert report.analytic.macs == outputs * inputs * batch
    assert 0 < report.analytic.utilisation <= 1


@settings(max_examples=15, deadline=None)
@given(outputs=st.integers(1, 4000), inputs=st.integers(1, 4000), batch=st.integers(2, 4), order=st.sampled_from(pim.ORDERS))
def test_aim_batches_equal_their_commands(outputs: int, inputs: int, batch: int, order: pim.Order) -> None:
    closed = pim.aim_gemv(AIM, outputs, inputs, batch=batch, order=order, refresh=False)
    assert closed.cycles == aim.gemv(AIM, outputs, inputs, batch=batch, order=order, refresh="off").cycles
    assert closed.cycles > pim.aim_gemv(AIM, outputs, inputs, batch=batch - 1, order=order, refresh=False).cycles


def test_attacc_by_hand() -> None:
    # 64 inputs fill one column of 4 banks: 4 writes hide behind tRCD, then one MAC and 8 moves, two cycles apart.
    assert pim_gemv.attacc_gemv(ATTACC, 16, 64, refresh=False).cycles == 1 + 19 + 0 + 1 + 7 * 2
    bank, group, buffer = (pim_gemv.attacc_gemv(ATTACC, 8192, 4096, level=level).cycles for level in pim_gemv.LEVELS)
    assert bank < group < buffer


def test_upmem_is_bound_by_instructions_and_linear_in_rows_and_batch() -> None:
    one = pim_gemv.upmem_gemv(UPMEM, 2560, 4096)
    assert one.cycles == 4096 * 7 * 11 / 4 + 14  # one row a core in 4 pieces: 4 threads of 11 fill the pipeline
    many = pim_gemv.upmem_gemv(UPMEM, 256000, 4096)
    assert many.cycles == 100 * 4096 * 7 + 14
    assert many.time_s == pytest.approx(many.cycles / 350e6)
    assert pim_gemv.upmem_gemv(UPMEM, 256000, 4096, batch=3).cycles == 3 * 100 * 4096 * 7 + 14
    assert pim_gemv.upmem_gemv(UPMEM, 256000, 4096, element="fp32").cycles > 30 * many.cycles
    assert gemv("upmem", 256000, 4096).cycles is None
    assert UPMEM.organisation.size_bytes == 2560 * 64 * 2**20


def test_what_does_not_fit_or_exist_is_refused() -> None:
    with pytest.raises(MappingError, match="there are 16"):
        gemv("attacc-hbm3", 1 << 20, 1 << 16)
    with pytest.raises(MappingError, match="every bank"):
        gemv("upmem", 1 << 20, 1 << 20)
    with pytest.raises(MappingError, match="rows of every bank"):
        gemv("neupims-hbm2", 1 << 24, 1 << 20)
    with pytest.raises(UnknownNameError, match="level"):
        gemv("attacc-hbm3", 64, 64, level="banks")
    with pytest.raises(UnknownNameError, match="int8"):
        gemv("upmem", 64, 64, element="int7")
    with pytest.raises(MappingError, match="only UPMEM"):
        gemv("aim-gddr6", 64, 64, element="int8")
    with pytest.raises(MappingError, match="batch"):
        gemv("newton-hbm2", 64, 64, batch=0)


def test_narrower_weights_take_fewer_columns_and_whole_ones_only() -> None:
    wide, half, quarter = (pim_gemv.attacc_gemv(ATTACC, 8192, 4096, bits=bits) for bits in (16, 8, 4))
    assert wide.weight_bytes == 2 * half.weight_bytes == 4 * quarter.weight_bytes == 2 * 8192 * 4096
    assert wide.cycles > 1.5 * half.cycles > 2 * quarter.cycles
    assert pim.best_gemv(AIM, 4096, 4096, bits=16).cycles == pim.best_gemv(AIM, 4096, 4096).cycles
    # Inputs keep their 16 bits: as many buffer writes for half the columns.
    some, less = (pim.aim_gemv(AIM, 512, 1024, order="outputs", refresh=False, bits=bits).cycles for bits in (16, 8))
    assert some - less == 32 * AIM.timings["tCCD_L"]
    assert pim.weights_in_column(AIM, 4.25) == 60
    for wrong in (0.0, float("nan"), 257.0):
        with pytest.raises(MappingError, match="weights of"):
            pim.weights_in_column(AIM, wrong)


@pytest.mark.parametrize(("kernel", "device"), [("aim", AIM), ("attacc", ATTACC), ("upmem", UPMEM)])
def test_products_with_weights_have_a_time_on_every_kernel(kernel: str, device: dram.DramDevice) -> None:
    times = [pim_gemv.weights_s(device, kernel, 8192, 8192, bits=bits) for bits in (4.25, 8, 16)]
    assert 0 < times[0] <= times[1] < times[2]
    with pytest.raises(MappingError, match="there are"):
        pim_gemv.weights_s(device, kernel, 1 << 24, 1 << 20)


def test_other_kernels_are_refused() -> None:
    with pytest.raises(MappingError, match="aim, attacc and upmem"):
        pim_gemv.weights_s(AIM, "newtons", 64, 64)


@pytest.mark.parametrize("name", ["papi-attn-hbm3", "papi-fc-hbm3"])
@pytest.mark.parametrize(("outputs", "inputs", "batch"), [(4096, 4096, 1), (1000, 3000, 2), (8192, 1024, 1)])
def test_units_as_slow_as_a_precharge_stop_at_once_for_a_refresh(name: str, outputs: int, inputs: int, batch: int) -> None:
    device = dram.load(name)
    for refresh in (True, False):
        closed = pim_gemv.attacc_gemv(device, outputs, inputs, batch=batch, refresh=refresh).cycles
        played = attacc.gemv(device, outputs, inputs, batch=batch, refresh="all-bank" if refresh else "off").cycles
        assert closed == pytest.approx(played, rel=0.01)
