"""Hopper's matrix instructions on the SM's core, beside what public microbenchmarks measured in clocks on an H100 SXM.

revollllt/flash-vla, hardware-unit-test, sm90/unit-mma.md: bfloat16 with float32 sums, both operands of wgmma in shared memory, one
warpgroup, correct results checked. No constant was chosen on the rates; `wgmma_latency` is what its waits leave.
"""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from hand import EXIT, Op, play

from presilicon import arch
from presilicon.arch.sm_timing import sm_timing
from presilicon.mapping.triton import Instruction
from presilicon.mapping.triton.sass import Control
from presilicon.sim.sm import isa


def op_of(opcode: str, *operands: str) -> Op:
    """An H100's instruction as the core takes it."""
    base, *modifiers = opcode.split(".")
    control = Control(stall=1, yields=False, write_barrier=None, read_barrier=None, wait_mask=0, reuse=0)
    ins = Instruction(0, 0, opcode, base, tuple(modifiers), None, False, operands, (), (), None, (), None, control, 0)
    program: Any = SimpleNamespace(listing=SimpleNamespace(instructions=(ins,)))
    t = isa.instruction_table(program, arch.load("h100-sxm"), sm_timing("sm_90"))
    return Op(int(t.kind[0]), isa.PIPES[t.pipe[0]], float(t.interval[0]), int(t.latency[0]), first=int(t.first[0]), second=int(t.second[0]))


def wgmma(n: int, last: bool = False) -> Op:
    return op_of(f"HGMMA.64x{n}x16.F32.BF16", "R24", "gdesc[UR8]", "R24", *(["gsb0"] if last else []))


@pytest.mark.parametrize(("n", "measured"), [(8, 18.9), (16, 20.7), (32, 24.7), (64, 32.8), (96, 48.7), (128, 65.0), (192, 97.1),
                                             (256, 129.3)])
def test_products_of_shared_operands_take_their_time(n: int, measured: float) -> None:
    """Below 64 columns the operands bound the rate (the whole of A is read for each), from there on the tensor cores."""
    found = play([[wgmma(n)] * 128 + [wgmma(n, last=True), Op(isa.WAIT_WGMMA, "none"), EXIT] for _ in range(4)], wgmma=0.0)
    assert found.cycles / 129 == pytest.approx(measured, rel=0.06)


def test_a_second_warpgroup_adds_nothing() -> None:
    one, two = ([[wgmma(64)] * 64 + [wgmma(64, last=True), Op(isa.WAIT_WGMMA, "none"), EXIT]] * (4 * groups) for groups in (1, 2))
    assert play(two).cycles == pytest.approx(2 * play(one).cycles, rel=0.03), "33.1 clocks each, 64.4 with two"


@pytest.mark.parametrize(("group", "measured"), [(1, 79.0), (2, 55.6), (4, 44.6), (8, 38.2)])
def test_waiting_for_all_products_exposes_their_latency(group: int, measured: float) -> None:
    warp = ([wgmma(64)] * (group - 1) + [wgmma(64, last=True), Op(isa.WAIT_WGMMA, "none")]) * 16 + [EXIT]
    found = play([warp] * 4, wgmma=sm_timing("sm_90").wgmma_latency)
    assert found.cycles / (16 * group) == pytest.approx(measured, rel=0.06)


def test_warp_level_products_reach_two_thirds_of_the_rate() -> None:
    mma = op_of("HMMA.16816.F32.BF16", "R24", "R8", "R4", "R24")
    found = play([[mma] * 128 + [EXIT]] * 4)
    assert found.cycles / 128 == pytest.approx(6.26, rel=0.06), "clocks an m16n8k16 and warp, four accumulators and more"


@pytest.mark.parametrize(("opcode", "measured"), [
    ("F2FP.BF16.F32.PACK_AB", 62), ("F2FP.SATFINITE.E4M3.F32.PACK_AB_MERGE_C", 32), ("F2FP.SATFINITE.E2M1.F32.PACK_AB_MERGE_C", 57),
    ("F2FP.F16.E4M3.UNPACK_B", 64)])
def test_float32_becomes_eight_bits_at_half_the_rate(opcode: str, measured: float) -> None:
    """Results a clock and SM, measured on a B300: only rounding of float32 to 8 (or 6) bits is slower than the integer pipe."""
    found = play([[op_of(opcode, "R1", "R2", "R3")] * 128 + [EXIT]] * 16)
    assert 16 * 128 * 32 / found.cycles == pytest.approx(measured, rel=0.14)


def test_products_take_half_of_the_registers_ports() -> None:
    """100 instructions that read each bank once: one a clock alone, one in two clocks beside wgmma, whose sums are read meanwhile."""
    add = Op(pipe="fma", first=1)
    idle = [EXIT]
    product = [Op(isa.WGMMA, "tensor", interval=1000.0), EXIT]
    alone = play([idle, idle, idle, idle, [add] * 100 + [EXIT]])
    beside = play([product, idle, idle, idle, [add] * 100 + [EXIT]])
    assert alone.cycles == pytest.approx(101, abs=3)
    assert beside.cycles == pytest.approx(201, abs=6)
    assert beside.stalls["dispatch stall"] > 90
    assert play([product, idle, idle, idle, [add] * 100 + [EXIT]], python=True).cycles == beside.cycles


def test_reads_of_one_bank_wait_for_one_another() -> None:
    def reading(opcode: str, *registers: int) -> Instruction:
        control = Control(stall=1, yields=False, write_barrier=None, read_barrier=None, wait_mask=0, reuse=1)
        return Instruction(0, 0, opcode, opcode, (), None, False, (), registers, (9,), None, (), None, control, 0)

    even = reading("FFMA", 2, 4, 6)
    assert isa.read_clocks(even, None) == 3
    assert isa.read_clocks(reading("FFMA", 2, 5, 7), even) == 2, "R2 is kept"
    assert isa.read_clocks(reading("FADD", 3, 4), None) == 1
