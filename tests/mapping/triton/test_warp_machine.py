"""Warps followed in compiled code, against the interpreter that follows every thread."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("triton", reason="needs Triton (the extra `kernels`)")
pytest.importorskip("llvmlite", reason="needs llvmlite (the extra `fast`)")
pytest.importorskip("torch", reason="needs torch for meta tensors")

from presilicon.mapping.triton import bind_launch, bytecode, compile_launch, evaluate, take_apart, values, warp_runs
from presilicon.mapping.triton.parameters import parameters_of
from presilicon.mapping.triton.warp_alu import alu
from presilicon.mapping.triton.warp_records import COUNT, TALLY
from presilicon.mapping.triton.warp_rows import lane_operations, of_rows, row_operation, spread, takes_common
from presilicon.mapping.triton.warp_runs import NotFollowedError, Warps, warp_code
from presilicon.validate.kernels import suite_named


def launched(name: str, capability: int) -> Any:
    suite = suite_named(name)
    sizes = suite.shapes[0]
    one = suite.predict(sizes, suite.configs(sizes)[0], sm_count=108 if capability == 80 else 132, capability=capability)[0]
    launch = bind_launch(one.kernel, one.grid, one.args, one.meta, target=capability)
    return compile_launch(launch), launch


@pytest.mark.slow
@pytest.mark.parametrize(("name", "capability"), [
    ("gemm_tune", 80), ("gemm_tma", 90), ("gemm_split_k", 90), ("reduce", 80), ("moe_gemm", 80), ("latency_shared", 90)])
def test_all_warps_of_a_cta_count_what_its_threads_do(name: str, capability: int) -> None:
    """Loads whose data decide, spilled registers, warps that go different ways, TMA: the same counts, sectors and bank passes."""
    compiled, launch = launched(name, capability)
    program = take_apart(compiled)
    warps = Warps(warp_code(program), launch, parameters_of(compiled, launch)[0])
    last = np.array(launch.grid) - 1
    whole = evaluate(compiled, launch, tuple(last), trace=True)
    runs = [warps.one(last, warp) for warp in range(compiled.num_warps)]
    entered = sum(run.counts for run in runs)
    blocks = np.zeros(len(program.flow.blocks), np.int64)
    for segment in program.segments:
        blocks[segment.block] += entered[segment.number] if segment.opens_block else 0
    assert np.array_equal(blocks, whole.block_counts)
    accesses = np.concatenate([run.accesses for run in runs])
    for shift, side in ((0, whole.tallies), (1, whole.copies)):
        for index, tally in side.items():
            mine = accesses[accesses[:, 1] == (index if shift == 0 else -1 - index)]
            assert (len(mine), *mine[:, [5, 2]].sum(axis=0)) == (tally.executions, tally.threads, tally.passes)
            if shift == 0:
                assert tuple(mine[:, [3, 4]].sum(axis=0)) == (tally.sectors, tally.lines)
    assert sum(len(run.bulks) for run in runs) == len(whole.bulks)
    assert whole.trace is not None
    assert sum(len(run.syncs) for run in runs) == sum(len(sync[2]) for sync in whole.trace.syncs)


@pytest.mark.slow
def test_one_lane_of_many_ctas_goes_their_way() -> None:
    compiled, launch = launched("attention", 80)
    program = take_apart(compiled, addresses=False)
    bank = parameters_of(compiled, launch)[0]
    ids = np.array([(x, y, 0) for x in range(0, launch.grid[0], 5) for y in range(2)])
    counts = Warps(warp_code(program), launch, bank).many(ids, COUNT).counts
    for place, found in zip(ids, counts, strict=True):
        one = evaluate(compiled, launch, tuple(place), addresses=False)
        opened = {s.block: int(found[s.number]) for s in program.segments if s.opens_block}
        trips = {block: count for block, count in opened.items() if one.block_counts[block] != count * compiled.num_warps}
        assert not {block for block in trips if block in {loop.header for loop in program.flow.loops}}
    assert len({tuple(row) for row in counts.tolist()}) > 3
    assert not warp_runs._DESK.held["unknown"].any()  # what the next run takes for granted


def test_first_addresses_are_those_of_the_walk() -> None:
    compiled, launch = launched("gemm_tune", 80)
    program = take_apart(compiled)
    warps = Warps(warp_code(program), launch, parameters_of(compiled, launch)[0])
    wanted = [i for i, op in program.memory_ops.items() if op.space == "global" and op.kind == "copy"]
    tally = warps.many(np.array([(3, 0, 0), (77, 0, 0)]), TALLY, wanted, repeats=1).tally
    for row, place in zip(tally, (3, 77), strict=True):
        begins: dict[int, int] = {}
        for touch in evaluate(compiled, launch, (place, 0, 0), trace=True).walk():
            begins.setdefault(touch.instruction, int(touch.addresses[touch.active][0]))
        found = [(index, address) for index, (times, address) in zip(wanted, row.tolist(), strict=True) if times]
        assert found
        assert all(begins[index] == address for index, address in found)


def test_what_warps_leave_one_another_is_refused_where_some_meet_without_others() -> None:
    compiled, launch = launched("latency_shared", 90)
    code = warp_code(take_apart(compiled))
    assert code.shared_words * 4 > compiled.shared_bytes
    warps = Warps(replace(code, shared_words=0), launch, parameters_of(compiled, launch)[0])
    with pytest.raises(NotFollowedError):
        warps.one(np.zeros(3, np.int64), 0)


_ONES = np.uint64(0xFFFFFFFFFFFFFFFF)


@pytest.mark.parametrize(("name", "arguments"), [
    ("sar64", 2), ("absolute", 1), ("prmt", 3), ("popc", 1), ("brev", 1), ("bmsk", 2), ("rcp", 1)])
def test_operations_against_their_python_meaning(name: str, arguments: int) -> None:
    function: Any = {"sar64": values.arithmetic_right64, "absolute": values.absolute, "prmt": values.permute_bytes,
                     "popc": values.count_ones, "brev": values.reverse_bits, "bmsk": values.bit_mask, "rcp": values.reciprocal}[name]
    rng = np.random.default_rng(5)
    word = np.zeros(1, np.uint32)
    real, zero = word.view(np.float32), np.uint64(0)
    for _ in range(300):
        wide = 64 if name == "sar64" else 32
        given = [int(rng.integers(0, 1 << wide, dtype=np.uint64)) if wide == 64 and n == 0 else int(rng.integers(0, 1 << (6 if n else 32)))
                 for n in range(arguments)]
        padded = [np.uint64(x) for x in (*given, 0, 0)[:3]]
        got, unknown = alu(bytecode.NUMBER[name], padded[0], zero, padded[1], zero, padded[2], zero, 0, word, real)
        assert unknown == 0
        assert int(got) == function(*given), (name, given)


_ROWS = ["mov", "add", "sub", "mul", "and", "or", "xor", "lsl", "lsr", "lt", "le", "gt", "ge", "eq", "ne", "sel", "shl", "shr", "min",
         "absolute", "sgxt", "i2f", "rcp", "f2i"]


def _drawn(name: str, rng: Any, lanes: int) -> tuple[Any, int]:
    """Three rows of operands as code has them (32 bits, few bits that say how far or how many, floats), and what stands beside them."""
    rows = rng.integers(0, 1 << 32, (3, lanes), dtype=np.uint64)
    if name in ("lsl", "lsr", "shl", "shr", "sgxt"):
        rows[1] = rng.integers(0, 70, lanes)
    elif name in ("eq", "ne", "sel"):
        rows[:2] = rng.integers(0, 2, (2, lanes))
    elif name in ("rcp", "f2i"):
        rows[0] = (rng.normal(size=lanes) * 1e4).astype(np.float32).view(np.uint32)
    return rows, {"sgxt": 1, "i2f": 32 | 1 << 8, "f2i": 32 | 1 << 8}.get(name, 0)


@pytest.mark.filterwarnings("ignore:overflow encountered")
@pytest.mark.parametrize("name", _ROWS)
def test_rows_hold_what_their_lanes_would(name: str) -> None:
    """Operations on many lanes at once, against those on one: of operands that each lane has, and with a second one that all share."""
    op, zero, lanes = bytecode.NUMBER[name], np.uint64(0), 24
    word = np.zeros(1, np.uint32)
    real = word.view(np.float32)
    rows, extra = _drawn(name, np.random.default_rng(11), lanes)
    assert of_rows(op)
    for shared in (False, True):
        file = np.concatenate([rows, np.zeros((1, lanes), np.uint64)])
        second = np.full(lanes, rows[1, 0]) if shared else rows[1]
        if shared and not takes_common(op):
            spread(file, 1, rows[1, 0])
        elif shared:
            file[1] = 12345  # is not looked at
        row_operation(op, file, 0, 1, 2, 3, rows[1, 0], shared, extra, word, real)
        wanted = [alu(op, rows[0, k], zero, second[k], zero, rows[2, k] if name == "sel" else zero, zero, extra, word, real)[0]
                  for k in range(lanes)]
        assert file[3].tolist() == [int(value) for value in wanted]


@pytest.mark.filterwarnings("ignore:overflow encountered")
@pytest.mark.parametrize("name", ["mov", "or", "lsl", "lsr", "add", "mul", "and", "gt"])
def test_lanes_with_unknown_bits_are_those_of_one_by_one(name: str) -> None:
    op, zero, lanes = bytecode.NUMBER[name], np.uint64(0), 40
    rng = np.random.default_rng(3)
    word = np.zeros(1, np.uint32)
    real = word.view(np.float32)
    dark = rng.integers(0, 1 << 32, (3, lanes), dtype=np.uint64) * (rng.random((3, lanes)) < 0.5)
    rows = rng.integers(0, 1 << 32, (3, lanes), dtype=np.uint64) * (rng.random((3, lanes)) < 0.7) & ~dark
    rows[2] = dark[2] = 0
    shift = name in ("lsl", "lsr")
    if shift:
        rows[1], dark[1] = 7, 0
    active = np.array([k for k in range(lanes) if k % 3])
    held, unknown = np.zeros((2, len(active)), np.uint64)
    lane_operations(op, 0, 1, 1, int(not shift), 2, 0, rows, dark, active, len(active), held, unknown, 0, word, real)
    wanted = [alu(op, rows[0, k], dark[0, k], rows[1, k], dark[1, k], zero, zero, 0, word, real) for k in active]
    assert [(int(v), int(u)) for v, u in zip(held, unknown, strict=True)] == [(int(v), int(u)) for v, u in wanted]
    assert unknown.any() or name == "gt"


def test_bits_that_are_known_stay_known() -> None:
    word = np.zeros(1, np.uint32)
    zero, real = np.uint64(0), word.view(np.float32)

    def run(name: str, a: int, ua: int, b: int, ub: int) -> tuple[int, int]:
        v, u = alu(bytecode.NUMBER[name], np.uint64(a), np.uint64(ua), np.uint64(b), np.uint64(ub), zero, zero, 0, word, real)
        return int(v), int(u)

    assert run("and", 0, 0xFF, 0x0F, 0) == (0, 0x0F)
    assert run("or", 0, 0xFF, 0x0F, 0) == (0x0F, 0xF0)
    assert run("ne", 0x100, 0xFF, 0, 0) == (1, 0), "a bit that is known differs"
    assert run("ne", 0, 0xFF, 0, 0)[1] != 0
    assert run("mul", 0, int(_ONES), 0, 0) == (0, 0)
    assert run("add", 0, 1, 1, 0)[1] == int(_ONES)


@pytest.mark.parametrize(("lines", "operations"), [
    ("R[1] = R[2] & M", [("mov", 1, 2)]),  # a register has 32 bits
    ("t = R[2] + R[3]\nR[1] = t & M", [("add", None, 2), ("and", 1, None)]),
    ("q = True\nt = (R[2] >= R[3])\nR[512] = t & q", [("ge", 512, 2)]),
    ("v0 = R[2] ^ 5\nv1 = R[1] | 0\nR[1] = v0\nR[2] = v1", [("xor", None, 2), ("mov", 2, 1), ("mov", 1, None)]),
    ("t = 3 * 5 + 1\nR[4] = t", [("mov", 4, None)]),
])
def test_operations_that_change_nothing_are_left_out(lines: str, operations: list[tuple[str, int | None, int | None]]) -> None:
    writer = bytecode._Writer()
    writer.instruction(lines)
    names = {number: name for name, number in bytecode.NUMBER.items()}
    assert len(writer.code) == len(operations)
    for made, (name, target, operand) in zip(writer.code, operations, strict=True):
        assert names[made[0]] == name
        assert target is None or made[1] == target
        assert operand is None or made[2] == operand
