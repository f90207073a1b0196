"""What a search promises: proofs on the common problem, constraints, time limits, interruption, the front, and bad input."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import time
from itertools import pairwise

import pytest

from presilicon.arch.hierarchy import Fanout, Hierarchy, Memory, load_hierarchy
from presilicon.errors import MappingError, UnknownNameError
from presilicon.mapping.nest import Constraints, Keep, conv, evaluate, map_op, matmul, op_from_text, pareto, problem
from presilicon.mapping.nest.search import _Search
from presilicon.workloads.op import Op, Operand, tensor

GEMM = matmul(1024, 1024, 1024)
CONV = conv(m=64, c=64, p=56, q=56, r=3, s=3)
QK = matmul(512, 512, 64, b=12)
AV = matmul(512, 64, 512, b=12)


@pytest.mark.parametrize("objective", ["energy", "edp", "latency"])
def test_gemm_of_the_common_problem_is_proven(objective: str) -> None:
    result = map_op(GEMM, "mapbench-16", objective)  # type: ignore[arg-type]
    assert result.exhausted
    assert result.gap == 0
    assert round(result.counts.energy_j * 1e6, 3) == 3706.506
    assert result.counts.cycles == 4_194_304
    assert result.counts.edp_js <= 1.55462e-5 * (1 + 1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("op", "micro_j", "cycles"), [(CONV, 354.263, 451_584), (QK, 853.515, 786_432), (AV, 894.802, 786_432)], ids=["conv", "qk", "av"]
)
def test_other_layers_of_the_common_problem_are_proven(op: Op, micro_j: float, cycles: int) -> None:
    for objective in ("energy", "edp"):
        result = map_op(op, "mapbench-16", objective)  # type: ignore[arg-type]
        assert result.exhausted
        assert (round(result.counts.energy_j * 1e6, 3), result.counts.cycles) == (micro_j, cycles)


def test_the_same_search_gives_the_same_bytes() -> None:
    assert str(map_op(matmul(96, 64, 48), "mapbench-16")) == str(map_op(matmul(96, 64, 48), "mapbench-16"))


def test_text_shows_nest_traffic_energy_and_proof() -> None:
    text = str(map_op(matmul(64, 64, 64), "mapbench-16", "energy"))
    for part in ("parallel", "buffer: O", "bytes read", "share", "MAC utilisation", "limited by", "proven optimal", "register_file holds"):
        assert part in text


@pytest.mark.parametrize(("dataflow", "outermost"), [("os", "O"), ("ws", "W"), ("is", "I")])
def test_dataflow_puts_its_tile_outermost(dataflow: str, outermost: str) -> None:
    result = map_op(matmul(64, 64, 64), "mapbench-16", "energy", Constraints(dataflow=dataflow))
    kept = [n.tensor for n in result.mapping.nodes if isinstance(n, Keep) and n.level == "register_file"]
    assert kept[0] == outermost
    assert result.counts.energy_j >= map_op(matmul(64, 64, 64), "mapbench-16", "energy").counts.energy_j


def test_spatial_factors_dimensions_order_and_tiles_can_be_fixed() -> None:
    wanted = Constraints(
        spatial={"pe_array": {"m": 16, "k": 8}},
        spatial_dims={"pe_array.x": ("m",)},
        order={"buffer": ("W", "I", "O")},
        tiles={("buffer", "O"): {"m": 32}, ("register_file", "W"): {"k": 1}},
    )
    result = map_op(matmul(64, 64, 64), "mapbench-16", "energy", wanted)
    assert result.exhausted
    assert result.counts.instances["mac"] == 128
    below = result.mapping.extents_below(result.problem.dims)
    tiles = {n: t for n, t in zip(result.mapping.nodes, below, strict=True) if isinstance(n, Keep)}
    assert [n.tensor for n in tiles if n.level == "buffer"] == ["W", "I", "O"]
    assert tiles[Keep("O", "buffer")]["m"] == 32
    assert tiles[Keep("W", "register_file")]["k"] == 1


def test_the_reference_nest_as_constraints_is_found_again() -> None:
    wanted = Constraints(dataflow="os", spatial={"pe_array": {"m": 16, "n": 16}}, tiles={("buffer", "O"): {"m": 512, "n": 512}})
    assert round(map_op(GEMM, "mapbench-16", "energy", wanted).counts.energy_j * 1e6, 3) == 3706.506


@pytest.mark.slow
def test_time_limit_leaves_a_bound_that_holds() -> None:
    optimum = map_op(CONV, "mapbench-16", "edp").value
    result = map_op(CONV, "mapbench-16", "edp", time_limit_s=1.5)
    assert result.bound <= optimum * (1 + 1e-9)
    assert result.value >= optimum * (1 - 1e-9)
    assert 0 <= result.gap < 1
    if not result.exhausted:
        assert "stopped early" in str(result)


def test_keyboard_interrupt_gives_the_best_so_far(monkeypatch: pytest.MonkeyPatch) -> None:
    solved = []
    solve = _Search._solve

    def interrupted(self: _Search, group: object, *, narrow: bool) -> None:
        if len(solved) == 1:
            raise KeyboardInterrupt
        solved.append(group)
        solve(self, group, narrow=narrow)  # type: ignore[arg-type]

    monkeypatch.setattr(_Search, "_solve", interrupted)
    result = map_op(GEMM, "mapbench-16", "energy")
    assert not result.exhausted
    assert result.bound < 3706.506e-6 <= result.value * (1 + 1e-6)
    assert "at most" in str(result)


SEARCH_WITHOUT_END = """
import sys
from presilicon.mapping.nest import conv, map_op
from presilicon.mapping.nest.sweep import Meter

add = Meter.add

def first(self, evaluated):
    Meter.add = add
    print("searching", flush=True)
    add(self, evaluated)

Meter.add = first  # factors that do not divide take half an hour to prove
result = map_op(conv(m=256, c=256, p=56, q=56, r=3, s=3), "mapbench-16", "energy", imperfect=True)
sys.exit(0 if not result.exhausted and 0 < result.bound < result.value else 1)
"""


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="sends SIGINT")
@pytest.mark.parametrize("after_s", [0.0, 1.0, 3.0])
def test_a_real_interrupt_gives_the_best_so_far(after_s: float) -> None:
    with subprocess.Popen([sys.executable, "-c", SEARCH_WITHOUT_END], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "searching\n"
        time.sleep(after_s)
        process.send_signal(signal.SIGINT)
        try:
            assert process.wait(300) == 0
        finally:
            process.kill()


def test_front_falls_in_energy_and_rises_in_latency() -> None:
    front = pareto(matmul(64, 64, 64), "mapbench-16")
    assert len(front) > 1
    assert all(point.exhausted for point in front)
    for cheaper, faster in pairwise(front):
        assert cheaper.counts.energy_j < faster.counts.energy_j
        assert cheaper.counts.cycles > faster.counts.cycles
    assert front[-1].counts.cycles == map_op(matmul(64, 64, 64), "mapbench-16", "latency").counts.cycles


def test_a_memory_bound_op_is_limited_by_its_memory() -> None:
    result = map_op(matmul(1, 1024, 1024), "mapbench-16", "latency")
    assert (result.counts.limiter, result.exhausted) == ("dram", True)
    assert result.counts.cycles == (1024 * 1024 + 2 * 1024) / 64


def small(register_bytes: float, **more: object) -> Hierarchy:
    """DRAM, an array of 4 and a register file."""
    levels = (Memory("dram"), Fanout("array", {"x": 4}), Memory("regs", register_bytes, 1.0, 1.0, **more))  # type: ignore[arg-type]
    return Hierarchy("small", levels, 1.0, 1e9)


def test_a_memory_too_small_for_one_element_is_named() -> None:
    with pytest.raises(MappingError, match=r"regs: .*I 1 B, W 1 B, O 1 B\) needs 3 B, 1 B more than its 2 B"):
        map_op(matmul(4, 4, 4), small(2))
    with pytest.raises(MappingError, match=r"regs: the smallest tile of O needs 2 B, 1 B more than its 1 B"):
        map_op(matmul(4, 4, 4, number_format="bf16"), small(64, partition_bytes={"output": 1.0}))


def test_constraints_that_no_mapping_meets_are_named() -> None:
    with pytest.raises(MappingError, match=r"regs: .* needs 18 B, 2 B more than its 16 B"):
        map_op(matmul(16, 4, 4), small(16), constraints=Constraints(tiles={("regs", "O"): {"m": 16}}))
    crossed = Constraints(tiles={("regs", "O"): {"m": 2}, ("regs", "I"): {"m": 4}}, order={"regs": ("O", "I", "W")})
    with pytest.raises(MappingError, match=r"without any one of these there is one: order of regs, tile of O in regs, tile of I in regs"):
        map_op(matmul(4, 4, 4), small(64), constraints=crossed)


@pytest.mark.parametrize(
    ("constraints", "message"),
    [
        (Constraints(dataflow="rs"), "unknown dataflow 'rs'"),
        (Constraints(spatial={"pe": {"m": 2}}), "unknown fanout 'pe'"),
        (Constraints(spatial={"array": {"m": 3}}), "expected a divisor of its extent 4, found 3"),
        (Constraints(spatial={"array": {"m": 4, "n": 2}}), "array has 4 instances; the factors need 8"),
        (Constraints(spatial_dims={"array.y": ("m",)}), "unknown axis 'y'"),
        (Constraints(spatial_dims={"array": ("z",)}), "unknown dimension 'z'"),
        (Constraints(order={"dram": ("I",)}), "unknown memory 'dram'"),
        (Constraints(order={"regs": ("I", "I")}), "names a tensor twice"),
        (Constraints(tiles={("regs", "X"): {}}), "unknown tensor 'X'"),
        (Constraints(spatial={"array": {"m": 4}}, spatial_dims={"array": ("n",)}), "cannot hold m 4"),
    ],
)
def test_bad_constraints_say_where(constraints: Constraints, message: str) -> None:
    with pytest.raises((MappingError, UnknownNameError), match=message):
        map_op(matmul(4, 4, 4), small(64), constraints=constraints)


def test_bad_objective_and_time_limit() -> None:
    with pytest.raises(UnknownNameError, match="unknown objective 'edq'; did you mean 'edp'"):
        map_op(matmul(4, 4, 4), small(64), "edq")  # type: ignore[arg-type]
    with pytest.raises(MappingError, match="time limit: expected seconds above 0"):
        map_op(matmul(4, 4, 4), small(64), time_limit_s=0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"body": {"exp": 1.0}}, "body is 1 exp"),
        ({"body": {}}, "body is none"),
        ({"iterations": 7.0}, "7 of 64 points are executed"),
        ({"dims": {"m": 4, "n": 4, "k": 0}}, "dimension 'k': expected an integer of 1 or more, found 0"),
    ],
)
def test_ops_that_the_array_cannot_execute(change: dict[str, object], message: str) -> None:
    with pytest.raises(MappingError, match=message):
        map_op(dataclasses.replace(matmul(4, 4, 4), **change), small(64))  # type: ignore[arg-type]


def test_outputs_that_windows_overlap_are_refused() -> None:
    out = Operand("O", "output", ((("m", 1), ("k", 1)),), GEMM.operands[0].number_format)
    op = Op(
        "scatter", "conv", "t", {"m": 4, "k": 3}, (tensor("I", "input", "m", "int8"), tensor("W", "weight", "k", "int8"), out), {"mac": 1.0}
    )
    with pytest.raises(MappingError, match="an output axis is indexed by one dimension with stride 1, found m \\+ k"):
        problem(op, small(64))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected a kind"),
        ("matmull m=1", "did you mean 'matmul'"),
        ("matmul m=4 n=4", "give k="),
        ("matmul m=4 n=4 k=4 m=2", "m is given twice"),
        ("matmul m=4 n=0 k=4", "expected a whole number of 1 or more, found '0'"),
        ("matmul m=4 n=4 k=4 int9", "unknown number format 'int9'"),
        ("conv h=4", "unknown size 'h'"),
    ],
)
def test_op_texts(text: str, message: str) -> None:
    with pytest.raises((MappingError, UnknownNameError), match=message):
        op_from_text(text)


def test_evaluating_what_does_not_fit_says_by_how_much() -> None:
    mapping = map_op(matmul(64, 64, 64), "mapbench-16").mapping
    tight = load_hierarchy("mapbench-16")
    levels = tuple(dataclasses.replace(x, size_bytes=16.0) if x.name == "register_file" else x for x in tight.levels)
    with pytest.raises(MappingError, match=r"register_file: the tiles take .* B more than its 16 B"):
        evaluate(mapping, problem(matmul(64, 64, 64), dataclasses.replace(tight, levels=levels)))


def test_a_search_is_not_stopped_before_it_has_a_mapping() -> None:
    result = map_op(conv(m=64, c=64, p=28, q=28, r=3, s=3), "mapbench-16", "edp", time_limit_s=1e-6)
    assert not result.exhausted
    assert result.counts.utilisation > 0.5
    assert result.bound < result.value


def test_an_interrupt_at_once_leaves_a_plain_mapping(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(self: _Search, group: object, *, narrow: bool) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(_Search, "_solve", interrupted)
    result = map_op(GEMM, "mapbench-16", "energy")
    assert not result.exhausted
    assert result.counts.instances["mac"] == 1
    assert result.bound < 3706.506e-6 < result.value


@pytest.mark.slow
def test_two_large_fanouts_are_searched_within_a_bound() -> None:
    levels = (
        Memory("dram", None, 64e-12, 64e-12, 64.0), Fanout("cores", {"x": 4, "y": 14}), Memory("shared", 2.0**19, 6e-12, 6e-12),
        Fanout("array", {"x": 16, "y": 14}), Memory("local", 2.0**14, 2e-12, 2e-12), Memory("regs", 64.0, 0.5e-12, 0.5e-12),
    )  # fmt: skip
    result = map_op(matmul(768, 512, 3072), Hierarchy("wide", levels, 0.3e-12, 1e9), "edp", time_limit_s=3)
    assert result.exhausted or 0 < result.gap < 20


@pytest.mark.parametrize(
    ("constraints", "message"),
    [
        (Constraints(tiles={("regs", "O"): {"k": 1}}), "k does not index O, whose tile has no extent along it; expected of m, n"),
        (Constraints(dataflow="os", order={"regs": ("I", "O")}), "put I above O and O above I; drop one of them"),
    ],
)
def test_constraints_that_mean_nothing_are_refused(constraints: Constraints, message: str) -> None:
    with pytest.raises(MappingError, match=message):
        map_op(matmul(4, 4, 4), small(64), constraints=constraints)


def test_an_order_counts_where_tiles_stand_not_how_they_are_found() -> None:
    """The input does not move with n: kept below the loop over n it costs what it does above, and so may stand below the output."""
    problem_ = problem(matmul(2, 6, 1), small(64))
    free = map_op(problem_.op, problem_.hierarchy, "energy")
    fixed = map_op(problem_.op, problem_.hierarchy, "energy", Constraints(order={"regs": ("O", "W", "I")}))
    kept = [n.tensor for n in fixed.mapping.nodes if isinstance(n, Keep) and n.level == "regs"]
    assert kept == ["O", "W", "I"]
    assert fixed.counts.energy_j == pytest.approx(free.counts.energy_j)
