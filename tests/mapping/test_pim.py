"""Closed forms of PIM kernels against the same kernels played command by command, and against the reference."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from hypothesis import Phase, assume, given, settings
from hypothesis import strategies as st

from presilicon.arch import dram
from presilicon.errors import MappingError, UnknownNameError
from presilicon.mapping import pim
from presilicon.sim.dram import aim, attacc, samsung

GOLDEN = Path(__file__).resolve().parents[3] / "shared" / "golden" / "pim"
#: Cycles that a command queue's choices may shift attention of two heads by, which is more than 2 % of the shortest.
SMALL = 24
AIM, ATTACC, SAMSUNG = (dram.load(name) for name in ("aim-gddr6", "attacc-hbm3", "samsung-hbm2-pim"))


@settings(max_examples=15, deadline=None)
@given(outputs=st.integers(1, 20000), inputs=st.integers(1, 20000), order=st.sampled_from(pim.ORDERS))
def test_aim_gemv_equals_its_commands_without_refresh(outputs, inputs, order):
    closed = pim.aim_gemv(AIM, outputs, inputs, order=order, refresh=False)
    assert closed.cycles == aim.gemv(AIM, outputs, inputs, order=order, refresh="off").cycles


@settings(max_examples=10, deadline=None)
@given(outputs=st.integers(1, 20000), inputs=st.integers(1, 20000), order=st.sampled_from(pim.ORDERS))
def test_aim_gemv_is_within_two_per_cent_with_refresh(outputs, inputs, order):
    closed, played = pim.aim_gemv(AIM, outputs, inputs, order=order).cycles, aim.gemv(AIM, outputs, inputs, order=order).cycles
    assert abs(closed - played) <= max(0.02 * played, AIM.timings["tRFC"])


@pytest.mark.parametrize(("outputs", "inputs", "batch"), [(1, 1, 1), (4096, 128, 1), (4096, 256, 1), (1024, 4096, 1),
                                                          (4096, 1024, 4), (12288, 4096, 1), (5000, 3000, 2)])
def test_samsung_gemv_agrees_with_its_commands(outputs, inputs, batch):
    for refresh, bound in ((False, 0.002), (True, 0.02)):
        closed = pim.samsung_gemv(SAMSUNG, outputs, inputs, batch=batch, refresh=refresh).cycles
        played = samsung.simulate(SAMSUNG, "GEMV", outputs, inputs, batch, refresh="all-bank" if refresh else "off").cycles
        assert closed == pytest.approx(played, rel=bound)


@settings(max_examples=30, deadline=None, phases=(Phase.explicit, Phase.reuse, Phase.generate))
@given(heads=st.one_of(st.integers(1, 20), st.integers(1, 64)), keys=st.one_of(st.integers(1, 100), st.integers(100, 700)),
       head_dim=st.one_of(st.sampled_from((64, 80, 128)), st.integers(1, 256)), element_bytes=st.sampled_from((1, 2)),
       level=st.sampled_from(attacc.LEVELS), limited=st.booleans(), refresh=st.booleans(), longest=st.sampled_from((4096, 3001)))
def test_attacc_attention_is_near_commands_that_obey_every_timing(heads, keys, head_dim, element_bytes, level, limited, refresh, longest):
    assume(-(-heads // 16) * keys * head_dim <= (15_000 if level == "buffer" else 60_000))
    closed = pim.attacc_attention(ATTACC, heads, keys, head_dim=head_dim, element_bytes=element_bytes, level=level, power_limited=limited,
                                  refresh=refresh, longest=longest)
    how = "all-bank" if refresh else "off"
    work = attacc.Attention(heads, keys, head_dim, element_bytes, level, longest)
    run = attacc.simulate(ATTACC, work, power_limited=limited, refresh=how)
    pairs = -(-heads // 32)
    assert abs(closed.cycles - run.cycles) <= max(0.03 * run.cycles, SMALL * pairs)
    assert 0 < closed.utilisation <= 1


#: Heads, keys, head_dim, bytes, level, longest context, and power limit: heads that begin inside of a row, and rows that two stretches want
#: in turn.
@pytest.mark.parametrize(("work", "limited"), [
    ((94, 46, 137, 2, "bg", 4096), False), ((90, 399, 39, 2, "bg", 4096), False), ((71, 277, 25, 2, "bg", 4096), False),
    ((12, 24, 22, 2, "buffer", 4096), False), ((27, 30, 32, 2, "buffer", 4096), False),
    ((65, 44, 64, 1, "buffer", 4083), True), ((22, 26, 144, 2, "buffer", 4096), True),
])
def test_attacc_heads_that_begin_inside_of_a_row(work, limited):
    heads, keys, head_dim, element_bytes, level, longest = work
    closed = pim.attacc_attention(ATTACC, heads, keys, head_dim=head_dim, element_bytes=element_bytes, level=level, power_limited=limited,
                                  refresh=False, longest=longest).cycles
    assert closed == pytest.approx(attacc.simulate(ATTACC, attacc.Attention(*work), power_limited=limited, refresh="off").cycles, rel=0.03)


@pytest.mark.parametrize(("level", "heads", "keys"), [
    *[(level, *shape) for level in ("bank", "bg") for shape in ((1, 256), (16, 512), (48, 384), (16, 4096))],
    ("buffer", 1, 256), ("buffer", 16, 375), ("buffer", 48, 125)])
def test_attacc_attention_agrees_with_its_commands(level, heads, keys):
    for limited, refresh in ((True, True), (False, False)):
        closed = pim.attacc_attention(ATTACC, heads, keys, level=level, power_limited=limited, refresh=refresh).cycles
        played = attacc.simulate(ATTACC, attacc.Attention(heads, keys, level=level), power_limited=limited,
                                 refresh="all-bank" if refresh else "off").cycles
        assert closed == pytest.approx(played, rel=0.01)


@pytest.mark.skipif(not GOLDEN.is_dir(), reason=f"no reference tables in {GOLDEN}")
def test_closed_forms_agree_with_the_reference():
    for row in csv.DictReader((GOLDEN / "attacc_ramulator_attention.csv").read_text().splitlines()):
        found = pim.attacc_attention(ATTACC, int(row["heads_per_stack"]), int(row["seq_len"]), head_dim=int(row["dhead"]),
                                     element_bytes=int(row["bytes_per_elem"]), level=row["pim_level"],
                                     power_limited=row["power_constraint"] == "1", refresh=row["refresh"] == "1")
        assert found.cycles == pytest.approx(int(row["cycles"]), rel=0.03 if row["refresh"] == "1" else 0.01)
    for row in csv.DictReader((GOLDEN / "samsung_pimsimulator_hbm2.csv").read_text().splitlines()):
        if row["kernel"] == "GEMV":
            found = pim.samsung_gemv(SAMSUNG, int(row["out_dim"]), int(row["in_dim"]), batch=int(row["batch"]))
            assert found.cycles == pytest.approx(int(row["pim_cycles"]), rel=0.01)


def test_the_search_keeps_the_buffer_where_that_pays():
    assert pim.best_gemv(AIM, 4096, 4096).order == "inputs"
    best = pim.best_gemv(AIM, 512, 8192)
    assert best.cycles == min(pim.aim_gemv(AIM, 512, 8192, order=order).cycles for order in pim.ORDERS)


@settings(max_examples=20, deadline=None)
@given(outputs=st.integers(1, 50000), inputs=st.integers(1, 50000))
def test_never_faster_than_the_units_and_monotone(outputs, inputs):
    found = pim.best_gemv(AIM, outputs, inputs)
    peak = 32 * 16 * 16 * 1e9
    assert found.time_s * peak >= outputs * inputs
    assert 0 < found.utilisation <= 1
    assert pim.best_gemv(AIM, outputs + 512, inputs).cycles >= found.cycles
    assert pim.best_gemv(AIM, outputs, inputs + 1024).cycles >= found.cycles


def test_wrong_requests_are_refused():
    with pytest.raises(MappingError, match="positive whole number"):
        pim.aim_gemv(AIM, 0, 5)
    with pytest.raises(MappingError, match="rows of every bank"):
        pim.best_gemv(AIM, 1 << 24, 1 << 20)
    with pytest.raises(UnknownNameError, match="loop order"):
        pim.aim_gemv(AIM, 5, 5, order="columns")
    with pytest.raises(MappingError, match="between two banks"):
        pim.samsung_gemv(AIM, 5, 5)
    with pytest.raises(UnknownNameError, match="level"):
        pim.attacc_attention(ATTACC, 1, 1, level="die")
    with pytest.raises(MappingError, match="divide"):
        pim.aim_gemv(AIM, 5, 5, element_bytes=3)
