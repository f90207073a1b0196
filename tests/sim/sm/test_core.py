"""Single mechanisms of the SM against clocks counted by hand."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from hand import EXIT, Machine, Op, play

from presilicon.sim.sm import core, isa

FFMA = Op(pipe="fma", interval=2.0, stall=4)
HMMA = Op(pipe="tensor", interval=8.0, stall=1)
LDG = Op(isa.LOAD, "memory", write=0, l2=128.0, load_latency=200.0)
USE = Op(pipe="alu", wait=0b1)
BAR = Op(isa.BARRIER, "none")


def test_dependent_chain_takes_its_stall_counts() -> None:
    # 100 FFMA at clocks 0, 4, ..., 396, the exit at 400
    assert play([[FFMA] * 100 + [EXIT]]).cycles == 401


def test_two_warps_of_a_sub_core_fill_each_others_stalls_up_to_the_pipe() -> None:
    # warps 0 and 4 share sub-core 0: 200 FFMA at one in two clocks
    idle = [EXIT]
    found = play([[FFMA] * 100 + [EXIT], idle, idle, idle, [FFMA] * 100 + [EXIT]])
    assert 400 <= found.cycles <= 404
    assert found.busy["fma"] == 400.0


def test_a_sub_core_issues_one_instruction_a_clock() -> None:
    quick = Op(pipe="fma", interval=1.0)
    warps = [[quick] * 50 + [EXIT] for _ in range(8)]  # two warps on each of four sub-cores
    assert play(warps).cycles == 102


def test_tensor_instructions_go_at_the_rate_of_their_pipe() -> None:
    found = play([[HMMA] * 64 + [EXIT]])
    assert found.cycles == 63 * 8 + 2  # the last one at 504, the exit behind it
    assert found.stalls["math pipe throttle"] == 63 * 7


def test_a_scoreboard_holds_the_user_until_the_load_is_there() -> None:
    found = play([[LDG, USE, EXIT]])
    # issued at 0, into the memory system at 1, 128 bytes at 64 a clock, 200 clocks of latency
    assert found.cycles == 1 + 2 + 200 + 2
    assert found.stalls["long scoreboard"] == 202


def test_a_barrier_waits_for_the_last_warp() -> None:
    late = [replace(FFMA, stall=10)] * 30 + [BAR, EXIT]
    found = play([[BAR, EXIT], late])
    assert found.cycles == 300 + 15 + 1
    assert found.stalls["barrier"] > 300


def test_bank_conflicts_cost_their_passes() -> None:
    plain, clash = Op(isa.SHARED, "memory", smem=1.0), Op(isa.SHARED, "memory", smem=32.0)
    one = play([[plain] * 16 + [replace(plain, write=0), USE, EXIT]])
    many = play([[clash] * 16 + [replace(clash, write=0), USE, EXIT]])
    assert one.busy["smem"] == 17.0
    assert many.busy["smem"] == 17 * 32.0
    assert many.cycles - one.cycles == 17 * 31


def test_a_full_memory_queue_throttles() -> None:
    clash = Op(isa.SHARED, "memory", smem=32.0)
    found = play([[clash] * 16 + [EXIT]], queue=4.0, buffer=0.0)
    assert found.stalls["mio throttle"] > 10 * 30


def test_copy_groups_complete_in_order() -> None:
    copy = Op(isa.ASYNC_COPY, "memory", l2=64.0, load_latency=500.0)
    close = Op(isa.COPY_GROUP, "none", write=0)
    slow = replace(copy, load_latency=900.0)

    def until(pending: int) -> int:
        wait = Op(isa.WAIT_GROUP, "none", first=0, second=pending)
        return play([[slow, close, copy, close, wait, EXIT]]).cycles

    assert until(2) < 20
    assert until(1) == 1 + 1 + 900 + 2
    assert until(0) == until(1)  # the second group is there first, and counts behind the first


def test_asynchronous_matrix_instructions_queue_and_are_waited_for() -> None:
    wgmma = Op(isa.WGMMA, "tensor", interval=128.0, first=0)
    last = replace(wgmma, second=1)
    wait = Op(isa.WAIT_WGMMA, "none", second=0)
    found = play([[wgmma, wgmma, wgmma, last, wait, EXIT]])
    assert found.cycles == 4 * 128 + 64 + 2
    assert found.stalls["tensor"] > 500
    # a queue of two holds issue back until the third from the end is done
    held = play([[wgmma] * 8 + [EXIT]], wgmma_depth=2.0)
    assert held.stalls["math pipe throttle"] >= 5 * 120


def test_operands_from_shared_memory_can_be_slower_than_the_tensor_core() -> None:
    starved = Op(isa.WGMMA, "tensor", interval=32.0, first=16 * 16, second=1)  # 16 passes a warp, 64 a warp group
    assert play([[starved] * 4 + [Op(isa.WAIT_WGMMA, "none"), EXIT]]).cycles == 4 * 64 + 64 + 2


def test_two_ctas_hide_each_others_latency() -> None:
    body = [LDG, USE] * 20 + [EXIT]
    alone = play([body], ctas=2, slots=1)
    together = play([body], ctas=2, slots=2)
    assert alone.cycles == pytest.approx(2 * play([body]).cycles, abs=4)
    assert together.cycles < 0.55 * alone.cycles


def test_a_copy_runs_at_the_share_of_dram() -> None:
    load = Op(isa.LOAD, "memory", write=0, l2=128.0, dram=128.0, load_latency=400.0)
    store = Op(isa.STORE, "memory", wait=0b1, l2=128.0, dram=128.0)
    warps = [[load, store] * 50 + [EXIT] for _ in range(32)]
    found = play(warps)
    assert found.dram == 32 * 100 * 128
    assert found.cycles == pytest.approx(found.dram / 16.0, rel=0.03)
    assert found.cycles >= (found.dram - 32 * 128) / 16.0


def test_dram_is_taken_for_longer_than_its_bytes_need() -> None:
    def cycles(**row: float) -> int:
        load = Op(isa.LOAD, "memory", write=0, l2=512.0, dram=512.0, **row)
        found = play([[load] * 100 + [USE, EXIT]], machine=Machine(l2_rate=1e9, port=1e9))
        assert found.dram == 100 * 512, "bytes stay what they are"
        return found.cycles

    assert cycles(dram_time=768.0) == pytest.approx(1.5 * cycles(), rel=0.02)


def test_the_last_of_some_lines_waits_for_its_refresh() -> None:
    # 128 bytes at 64 a clock behind clock 1, 200 clocks; of a refresh of 640 clocks all but a draw of 8 over the lines, and half of the
    # time in which they come
    few, many = replace(LDG, lines=4.0), replace(LDG, lines=32.0)
    assert play([[few, USE, EXIT]], refresh=640.0, delay=8.0).cycles == 205
    assert play([[many, USE, EXIT]], refresh=640.0, delay=8.0).cycles == 205 + 480 - 1


def test_a_refresh_takes_nothing_of_a_stream_with_enough_under_way() -> None:
    load = Op(isa.LOAD, "memory", write=0, l2=512.0, dram=512.0, lines=4.0, load_latency=400.0)
    warps = [[load] * 100 + [EXIT]] * 8
    assert play(warps, refresh=640.0).cycles <= play(warps).cycles + 640


def test_what_other_sms_leave_of_dram_is_had_once_sms_have_drifted_apart() -> None:
    load = Op(isa.LOAD, "memory", write=0, l2=1600.0, dram=1600.0)  # 100 clocks of the share
    use = replace(FFMA, wait=0b1)
    fast = Machine(l2_rate=1e9, port=1e9)

    def cycles(busy: int, phases: int) -> int:
        return int(play([([load, use] + [replace(FFMA, stall=15)] * (busy // 15)) * phases + [EXIT]], machine=fast).cycles)

    first = cycles(0, 1)
    assert first == pytest.approx(100, abs=10), "all SMs begin together and have no more than their share"
    assert cycles(300, 8) == pytest.approx(100 + 8 * 300, rel=0.05), "later phases load what others do not ask for while they compute"
    assert cycles(60, 8) == pytest.approx(8 * 100, rel=0.1), "but no more comes than the share of all the time"
    late = play([[replace(FFMA, stall=15)] * 40 + [load, load, load, use, EXIT]], machine=fast)
    assert late.cycles >= 40 * 15 + 100, "SMs that have loaded nothing so far are still together"


def test_an_mbarrier_releases_when_the_bytes_are_there() -> None:
    make = Op(isa.SYNC_INIT, "none", slot=3, value=1)
    expect = Op(isa.SYNC_ARRIVE, "none", slot=3, value=4096)
    bulk = Op(isa.BULK_LOAD, "memory", slot=3, value=4096, l2=4096.0, load_latency=600.0)
    wait = Op(isa.SYNC_WAIT, "none", slot=3, value=0)
    producer, consumer = [make, expect, bulk, EXIT], [replace(FFMA, stall=8), wait, EXIT]
    found = play([producer, consumer])
    assert found.cycles == 2 + 4096 // 64 + 600 + 2
    assert found.stalls["mbarrier"] > 600
    late = [make, expect, replace(bulk, lines=32.0), EXIT]
    assert play([late, consumer], refresh=640.0, delay=8.0).cycles == found.cycles + 480 - 32
    again = play([[make, expect, bulk, wait, replace(wait, value=1), EXIT]])
    assert again.status == core.DEADLOCK  # the second phase never completes


def test_a_warp_at_both_kinds_of_barrier_goes_on_behind_the_later_one() -> None:
    make, expect = Op(isa.SYNC_INIT, "none", slot=3, value=1), Op(isa.SYNC_ARRIVE, "none", slot=3, value=4096)
    bulk = Op(isa.BULK_LOAD, "memory", slot=3, value=4096, l2=4096.0, load_latency=600.0)
    wait = Op(isa.SYNC_WAIT, "none", slot=3, value=0)
    late = [replace(FFMA, stall=10)] * 200
    bytes_last = play([[BAR, wait, EXIT], [make, expect, bulk, BAR, EXIT]])
    assert bytes_last.cycles == 2 + 4096 // 64 + 600 + 2
    barrier_last = play([[BAR, wait, EXIT], [make, expect, bulk, *late, BAR, EXIT]])
    assert barrier_last.cycles == 3 + 2000 + 15 + 2
    assert barrier_last.stalls["barrier"] > barrier_last.stalls["mbarrier"]


def test_ctas_follow_one_another() -> None:
    found = play([[FFMA] * 10 + [EXIT]], ctas=3, slots=1, cta_launch=100.0)
    assert found.end == [41, 41 + 141, 41 + 2 * 141]


def test_code_is_fetched_once() -> None:
    body = [FFMA] * 4 + [EXIT]
    assert play([body], fetch=32.0, fetch_latency=200.0).cycles == 232 + 17
    both = play([body], ctas=2, slots=1, fetch=32.0, fetch_latency=200.0)
    assert both.cycles == 232 + 17 + 17


def test_python_and_compiled_core_agree() -> None:
    pytest.importorskip("llvmlite")
    warps = [[LDG, FFMA, USE, HMMA, BAR, HMMA, EXIT] * 3 for _ in range(6)]
    a, b = play(warps, ctas=3, slots=2, python=True), play(warps, ctas=3, slots=2)
    assert (a.cycles, a.issued, a.end, a.stalls) == (b.cycles, b.issued, b.end, b.stalls)


def test_every_warp_cycle_has_a_reason() -> None:
    warps = [[LDG, FFMA, USE, HMMA, BAR, HMMA, EXIT] for _ in range(6)]
    found = play(warps, machine=Machine(address_interval=4.0, lsu_interval=1.0))
    assert found.stalls["selected"] == found.issued == 42
    assert sum(found.stalls.values()) <= 6 * found.cycles
    assert sum(found.stalls.values()) >= 5.5 * (found.cycles - 16)
