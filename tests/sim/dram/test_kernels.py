"""Kernels on PIM devices, against the cycles of the public simulators, and what they are asked for wrongly."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from presilicon.arch import dram
from presilicon.errors import MappingError, UnknownNameError
from presilicon.sim.dram import aim, attacc, samsung
from presilicon.sim.dram.aim import Instruction
from presilicon.sim.dram.attacc import Attention
from presilicon.sim.dram.checker import check
from presilicon.sim.dram.engine import Channel
from presilicon.sim.dram.gemv import gemv

GOLDEN = Path(__file__).resolve().parents[4] / "shared" / "golden" / "pim"
needs_golden = pytest.mark.skipif(not GOLDEN.is_dir(), reason=f"no reference tables in {GOLDEN}")
AIM, ATTACC, SAMSUNG = (dram.load(name) for name in ("aim-gddr6", "attacc-hbm3", "samsung-hbm2-pim"))


def golden(name):
    path = GOLDEN / name
    return list(csv.DictReader(path.read_text().splitlines())) if path.exists() else []


def aim_run(row):
    name = row["trace"]
    if name.startswith("gemv"):
        order = "inputs" if name.endswith("reuse") else "outputs"
        return aim.gemv(AIM, int(row["N"]), int(row["K"]), order=order, refresh="off")
    if name.startswith("mac_abk"):
        rows = int(row["act16_per_ch"])
        width = int(row["mac16_per_ch"]) // rows
        return aim.run(AIM, [Instruction("W_CFR")] + [Instruction("MAC_ABK", width, at) for at in range(rows)], refresh="off")
    program = {"macab": [Instruction("MAC_ABK", 64, at) for at in range(1024)],
               "ewmul": [Instruction("EWMUL", 64, at) for at in range(1024)],
               "rdmac": [Instruction("RD_MAC")] * 1024}[name.split("_")[2]]
    return aim.run(AIM, program, refresh="off")


@needs_golden
@pytest.mark.parametrize("row", golden("aim_gddr6_gemv.csv"), ids=lambda row: f"{row['trace']}-{row['K']}x{row['N']}")
def test_aim_equals_the_reference(row):
    run = aim_run(row)
    assert run.cycles == int(row["cycles_tCK0.5ns"])
    counts = run.stream.counts()
    for column, command in (("mac16_per_ch", "MAC16"), ("wrgb_per_ch", "WRGB"), ("rdmac_per_ch", "RDMAC16")):
        assert counts.get(command, 0) == int(row[column])
    assert check(run.stream).clean


def _repeat(count, *steps):
    return [Instruction(name, opsize, index if row < 0 else row, bank) for index in range(count) for name, opsize, row, bank in steps]


#: Programs that the reference tables lack, and their cycles by a line-by-line transcription of the public simulator's DMA, controller and
#: constraint list, which gives those of the tables to the cycle.
OTHER_AIM = [
    (_repeat(64, ("EWMUL", 64, -1, 0)), 14140),
    (_repeat(100, ("WR_ABK", 1, -1, 0)), 10069),
    (_repeat(200, ("WR_BIAS", 1, 0, 0)), 435),
    (_repeat(20, ("WR_BIAS", 1, 0, 0), ("MAC_ABK", 64, 0, 0), ("AF", 1, 0, 0), ("RD_AF", 1, 0, 0)), 8300),
    (_repeat(20, ("WR_BIAS", 1, 0, 0), ("MAC_ABK", 64, -1, 0), ("RD_MAC", 1, 0, 0), ("MAC_ABK", 64, -1, 0)), 9470),
    (_repeat(20, ("WR_GB", 64, 0, 0), ("COPY_GBBK", 64, -1, 0), ("COPY_BKGB", 64, -1, 8)), 12398),
    # A precharge waits for the columns of its bank group; writes that have not landed hold the end; a host that falls behind.
    ([Instruction("COPY_BKGB", 2, 0, 15), Instruction("MAC_SBK", 1, 1, 13), Instruction("MAC_SBK", 40, 2, 15)], 306),
    ([Instruction("EWMUL", 40), Instruction("COPY_GBBK", 5, 2, 13), Instruction("MAC_SBK", 5, 1, 12)], 370),
    ([Instruction("WR_ABK"), Instruction("WR_BIAS")], 70),
    (_repeat(30, *[("W_GPR", 1, 0, 0)] * 5, ("MAC_ABK", 1, 0, 0)), 182),
    (_repeat(30, *[("W_GPR", 1, 0, 0)] * 40, ("MAC_ABK", 1, 0, 0)), 1232),
]


@pytest.mark.parametrize(("program", "cycles"), OTHER_AIM, ids=lambda value: value[0].name if isinstance(value, list) else str(value))
@pytest.mark.parametrize("engine", ["python", "numba"])
def test_aim_programs_that_the_tables_lack(program, cycles, engine):
    if engine == "numba":
        pytest.importorskip("numba")
    run = aim.run(AIM, program, refresh="off", engine=engine)
    assert run.cycles == cycles
    assert check(run.stream).clean


#: Earliest legal cycles behind a command at cycle 100: a SYNC the cycle after a write has landed (tCWL 6, tBL 2, tRP 32; tCWL_GB 1), two
#: behind what returns nothing later; ordinary accesses of a bank as JEDEC has them.
@pytest.mark.parametrize(("before", "after", "distance"), [
    ("WR", "SYNC", 6 + 2 + 1), ("WRA16", "SYNC", 6 + 2 + 32 + 1), ("WRGB", "SYNC", 1 + 2 + 1), ("MAC16", "SYNC", 2), ("SYNC", "SYNC", 2),
    ("ACT", "WR", 28), ("ACT", "RD", 36), ("ACT16", "WR", 28), ("RD", "WR", 50 + 2 + 4 - 6), ("WR", "RD", 6 + 2 + 11), ("RD", "RD", 2),
    ("RD", "MAC16", 2), ("WR", "WRA16", 2), ("WR", "PRE", 6 + 2 + 33), ("RD", "PRE", 12), ("RDMAC16", "RD", 2),
])
def test_aim_single_bank_accesses_and_syncs_have_their_rows(before, after, distance):
    channel = Channel(AIM)
    channel.issue(before, 100, 0, 5)
    assert channel.earliest(after) == 100 + distance


def test_aim_programs_with_single_bank_accesses_and_syncs():
    def cycles(*steps):
        run = aim.run(AIM, [Instruction(*step) for step in steps], refresh="off")
        assert check(run.stream).clean
        return run.cycles, dict(zip([run.stream.names[c] for c in run.stream.command], run.stream.cycle.tolist(), strict=True))

    # ACT in cycle 1, RD tRCDRD later; the host hears of it after tCL + tBL, and the next read goes the cycle after.
    end, at = cycles(("RD_SBK", 1, 3, 2))
    assert (at["ACT"], at["RD"], end) == (1, 37, 37 + 52 + 2)
    assert cycles(("RD_SBK", 1, 3, 2), ("RD_SBK", 1, 3, 2))[1]["RD"] == 37 + 52 + 1
    # A write waits for nothing; a SYNC until it has landed, and the host sends on the cycle after.
    assert cycles(("WR_SBK", 1, 3, 2), ("WR_SBK", 1, 3, 2))[1]["WR"] == 1 + 28 + 2
    _, at = cycles(("WR_SBK", 1, 3, 2), ("SYNC",), ("WR_SBK", 1, 3, 2))
    assert (at["SYNC"], at["WR"]) == (29 + 9, 29 + 9 + 1)
    # Additions of registers are the host's: as many cycles as writes of them, and no command.
    host = [cycles(*[step for _ in range(20) for step in [(name,)] * 40 + [("MAC_ABK", 1)]]) for name in ("EWADD", "W_GPR")]
    assert host[0] == host[1]
    assert host[0][0] > 20 * 40
    with pytest.raises(MappingError, match="a bank has"):
        cycles(("WR_SBK", 1, 1 << 20))
    with pytest.raises(MappingError, match="banks 0 to 15"):
        cycles(("RD_SBK", 1, 0, 16))
    with pytest.raises(UnknownNameError, match="WR_SBK"):
        cycles(("WR_SB",))


@pytest.mark.parametrize("order", aim.ORDERS)
def test_aim_with_refresh_pays_what_trfc_and_trefi_imply(order):
    off = aim.gemv(AIM, 12288, 4096, order=order, refresh="off")
    on = aim.gemv(AIM, 12288, 4096, order=order)
    assert on.cycles / off.cycles == pytest.approx(1 / (1 - 210 / 3333), rel=0.01)
    assert on.stream.counts()["REFab"] == on.cycles // 3333
    assert check(on.stream, refresh="all-bank").clean


def test_aim_loop_order_is_worth_what_the_reference_says():
    slow, fast = (aim.gemv(AIM, 4096, 4096, order=order, refresh="off").cycles for order in aim.ORDERS)
    assert slow / fast == pytest.approx(1.35, abs=0.005)


def test_aim_row_of_c_columns_costs_98_plus_2c():
    for columns in (1, 7, 64):
        few, many = (aim.run(AIM, [Instruction("MAC_ABK", columns, at) for at in range(rows)], refresh="off").cycles
                     for rows in (10, 30))
        assert (many - few) / 20 == 98 + 2 * columns


#: Shapes that the reference tables lack: level, keys, heads, head_dim, bytes, power limit, and cycles without refresh by a line-by-line
#: transcription of the public simulator's trace generators, controller and constraint list, which gives every row of the tables with
#: units at banks and bank groups to the cycle.
OTHER_ATTACC = [
    ("bank", 300, 40, 96, 2, 1, 1850), ("bank", 777, 20, 64, 1, 0, 1113), ("bank", 33, 63, 256, 2, 1, 903), ("bank", 1, 112, 80, 2, 0, 787),
    ("bg", 300, 40, 96, 2, 1, 4190), ("bg", 500, 3, 64, 1, 0, 560), ("bg", 33, 63, 256, 2, 1, 2447), ("bg", 130, 48, 80, 2, 0, 1152),
    ("bg", 16, 24, 96, 2, 1, 260), ("bg", 96, 33, 40, 2, 0, 684), ("buffer", 100, 17, 64, 2, 1, 1671), ("buffer", 33, 2, 128, 1, 1, 342),
    ("buffer", 64, 31, 96, 2, 0, 1606), ("buffer", 7, 20, 112, 1, 1, 242),
]


@pytest.mark.parametrize(("level", "keys", "heads", "head_dim", "element_bytes", "limited", "cycles"), OTHER_ATTACC)
def test_attacc_shapes_that_the_tables_lack(level, keys, heads, head_dim, element_bytes, limited, cycles):
    run = attacc.simulate(ATTACC, Attention(heads, keys, head_dim, element_bytes, level), power_limited=bool(limited), refresh="off")
    assert run.cycles == cycles
    assert check(run.stream).clean


#: With refresh: the public simulator lets REFab follow PREA at once, and PREA cut a row open for less than tRAS.
@pytest.mark.slow
@pytest.mark.parametrize(("level", "keys", "heads", "head_dim", "element_bytes", "limited", "cycles"), [
    ("bank", 1500, 56, 112, 2, 0, 8469), ("bg", 640, 80, 80, 1, 1, 7754), ("buffer", 256, 40, 64, 2, 0, 6720),
])
def test_attacc_refreshes_cost_what_the_timings_that_the_reference_skips_ask(level, keys, heads, head_dim, element_bytes, limited, cycles):
    run = attacc.simulate(ATTACC, Attention(heads, keys, head_dim, element_bytes, level), power_limited=bool(limited))
    due, timings = run.stream.counts()["REFab"] // 2, ATTACC.timings
    assert 0 < run.cycles - cycles <= due * (timings["tRAS"] + timings["tRP"])
    assert check(run.stream, refresh="all-bank").clean


def _long(row):
    """Whether playing it takes seconds: one unit a stack, and many keys."""
    return row["pim_level"] == "buffer" and int(row["seq_len"]) * int(row["heads_per_stack"]) > 30_000


@needs_golden
@pytest.mark.parametrize("row", [pytest.param(row, marks=pytest.mark.slow if _long(row) else ())
                                 for row in golden("attacc_ramulator_attention.csv")], ids=lambda row: "-".join(list(row.values())[:7]))
def test_attacc_agrees_with_the_reference(row):
    work = Attention(int(row["heads_per_stack"]), int(row["seq_len"]), int(row["dhead"]), int(row["bytes_per_elem"]),
                     row["pim_level"])
    refresh = "all-bank" if row["refresh"] == "1" else "off"
    run = attacc.simulate(ATTACC, work, power_limited=row["power_constraint"] == "1", refresh=refresh)
    assert run.cycles == pytest.approx(int(row["cycles"]), rel=0.03 if refresh == "all-bank" else 0.01)
    channels = min(16, work.heads)
    for column, command in (("softmax_cmds", "SFM"), ("mv_gemvbuf_cmds", "MVGB"), ("mv_softmaxbuf_cmds", "MVSB"),
                            ("wr_gemvbuf_cmds", "WRGB"), ("mac_cmds", attacc._MAC[work.level])):
        assert run.counts[command] * channels == int(row[column])
    assert check(run.stream, refresh=refresh).clean


@needs_golden
@pytest.mark.parametrize("row", golden("samsung_pimsimulator_hbm2.csv"),
                         ids=lambda row: f"{row['kernel']}-{row['out_dim']}x{row['in_dim']}-{row['batch']}")
def test_samsung_agrees_with_the_reference(row):
    for pim, column in ((True, "pim_cycles"), (False, "host_cycles")):
        if row[column]:
            run = samsung.simulate(SAMSUNG, row["kernel"], int(row["out_dim"]), int(row["in_dim"]), int(row["batch"]), pim=pim)
            assert run.cycles == pytest.approx(int(row[column]), rel=0.01)
            assert check(run.stream, refresh="all-bank").clean


def test_samsung_time_is_a_step_function_of_outputs_and_linear_in_batch():
    def cycles(outputs, batch=1):
        return samsung.simulate(SAMSUNG, "GEMV", outputs, 1024, batch, refresh="off").cycles

    assert cycles(1) == cycles(4096) < cycles(4097) == cycles(8192)
    assert cycles(4096, 4) - cycles(4096, 3) == cycles(4096, 3) - cycles(4096, 2)


@pytest.mark.parametrize("engine", ["python", "numba"])
def test_engines_agree(engine):
    if engine == "numba":
        pytest.importorskip("numba")
    assert attacc.simulate(ATTACC, Attention(32, 256), engine=engine).cycles == attacc.simulate(ATTACC, Attention(32, 256)).cycles
    assert (samsung.simulate(SAMSUNG, "ADD", 1 << 18, pim=False, engine=engine).cycles
            == samsung.simulate(SAMSUNG, "ADD", 1 << 18, pim=False).cycles)


def test_matrices_larger_than_the_device_are_refused():
    with pytest.raises(MappingError, match="rows of every bank"):
        aim.gemv(AIM, 1 << 24, 1 << 20)
    with pytest.raises(MappingError, match="do not fit"):
        attacc.simulate(ATTACC, Attention(1 << 20, 4096))
    with pytest.raises(MappingError, match="rows of every bank"):
        samsung.simulate(SAMSUNG, "GEMV", 1 << 20, 1 << 20)
    with pytest.raises(MappingError, match="columns of every bank"):
        samsung.simulate(SAMSUNG, "ADD", 1 << 30)
    with pytest.raises(MappingError, match="bursts"):
        samsung.simulate(SAMSUNG, "GEMV", 1 << 20, 1 << 20, pim=False)


@pytest.mark.parametrize("size", [0, -4, 2.5, True, "4096"])
def test_sizes_that_are_no_positive_integers_are_refused(size):
    with pytest.raises(MappingError, match="positive whole number"):
        aim.gemv(AIM, size, 4096)
    with pytest.raises(MappingError, match="positive whole number"):
        attacc.simulate(ATTACC, Attention(size, 256))
    with pytest.raises(MappingError, match="positive whole number"):
        samsung.simulate(SAMSUNG, "GEMV", size, 256)


def test_wrong_names_and_devices_are_refused():
    with pytest.raises(UnknownNameError, match="MAC_ABK"):
        aim.run(AIM, [Instruction("MAC_ALL")])
    with pytest.raises(MappingError, match="65 columns"):
        aim.run(AIM, [Instruction("MAC_ABK", 65)])
    with pytest.raises(MappingError, match="no command"):
        aim.run(AIM, [Instruction("W_CFR")])
    with pytest.raises(UnknownNameError, match="loop order"):
        aim.gemv(AIM, 64, 64, order="rows")
    with pytest.raises(MappingError, match="unit in every bank"):
        aim.gemv(SAMSUNG, 64, 64)
    with pytest.raises(UnknownNameError, match="level"):
        attacc.simulate(ATTACC, Attention(1, 256, level="die"))
    with pytest.raises(UnknownNameError, match="MACAB"):
        attacc.simulate(AIM, Attention(1, 256))
    with pytest.raises(UnknownNameError, match="kernel"):
        samsung.simulate(SAMSUNG, "CONV", 64)
    with pytest.raises(MappingError, match="between two banks"):
        samsung.simulate(AIM, "GEMV", 64, 64)
    with pytest.raises(MappingError, match="per bank"):
        attacc.simulate(ATTACC, Attention(1, 256), refresh="per-bank")


def test_gemv_by_both_fidelities_and_the_gap(tmp_path):
    report = gemv("aim-gddr6", 4096, 4096)
    assert report.analytic.order == "inputs"
    assert abs(report.gap) < 0.02
    report.stream.write(tmp_path / "trace.txt")
    assert len((tmp_path / "trace.txt").read_text().splitlines()) == len(report.stream) + 1
    closed = gemv("aim-gddr6", 4096, 4096, fidelity="analytic")
    assert closed.cycles is None
    assert closed.time_s == report.analytic.time_s
    assert abs(gemv("samsung-hbm2-pim", 4096, 1024, batch=4).gap) < 0.02
    with pytest.raises(MappingError, match="no GEMV kernel"):
        gemv("hbm3", 64, 64)
    with pytest.raises(MappingError, match="batch: expected"):
        gemv("aim-gddr6", 64, 64, batch=0)
    with pytest.raises(UnknownNameError, match="cycle"):
        gemv("aim-gddr6", 64, 64, fidelity="cycles")


@pytest.mark.exhaustive
def test_ten_million_commands_break_no_timing():
    """Kernels of every device, refresh on and off, until ten million commands have been checked."""
    checked = 0
    shapes = [("samsung-hbm2-pim", 32768, 8192, 1), ("attacc-hbm3", 32768, 16384, 1), ("neupims-hbm2", 16384, 16384, 1),
              ("newton-hbm2", 16384, 16384, 1), *[("aim-gddr6", 32768, 32768 - 528 * turn, 6) for turn in range(6)]]
    for name, outputs, inputs, batch in shapes:
        for refresh in (True, False):
            stream = gemv(name, outputs, inputs, batch=batch, refresh=refresh).stream
            found = check(stream, refresh="all-bank" if refresh else "off")
            assert found.clean, (name, outputs, inputs, found)
            checked += len(stream)
    assert checked >= 10_000_000
