"""Decisions where data decides, float scalars, assertions, prints, and library functions."""

from __future__ import annotations

import itertools
import math
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from presilicon.errors import KernelError, UnknownNameError
from presilicon.mapping.triton import bind_launch, compile_launch, configs_of, evaluate
from presilicon.mapping.triton.decisions import check_used, decisions, parse_decisions
from presilicon.mapping.triton.patience import VARIABLE, numbers_made, reason_to_stop, within

TARGETS = [80, 90, 100]
SOURCE = (Path(__file__).parent / "steered.py").read_text().splitlines()


def line_of(text: str) -> int:
    (number,) = [n for n, line in enumerate(SOURCE, 1) if text in line]
    return number


def bound(steered: ModuleType, lab: ModuleType, target: int, **given: Any) -> Any:
    import torch

    whole = lab.meta(256, dtype=torch.int32)
    args = (lab.floats(256, 8192), lab.floats(256, 128), whole, lab.meta(256, dtype=torch.int32), 8192)
    return bind_launch(steered.ragged, (256,), args, {"BLOCK": 128}, target=target, **given)


# -- decisions -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", TARGETS)
def test_a_loop_makes_the_trips_that_are_given(steered: ModuleType, lab: ModuleType, target: int) -> None:
    launch = bound(steered, lab, target)
    compiled, rows = compile_launch(launch), line_of("# the rows")

    def loads(trips: int) -> int:
        return evaluate(compiled, launch, (3, 0, 0), assume={rows: trips}).memory_bytes()["global load"]

    first, second, third = loads(2) - loads(1), loads(3) - loads(2), loads(17) - loads(3)
    assert first == second == third / 14
    assert first % 512 == 0, "128 floats a trip, or several times as many where the compiler has unrolled the loop"
    run = evaluate(compiled, launch, (3, 0, 0), assume={f"steered.py:{rows}": 17})
    assert any(a.kind == "loop" and a.choice == "17 trips, as given" for a in run.assumptions)


@pytest.mark.parametrize("target", TARGETS)
def test_what_a_tensor_holds_decides_what_depends_on_it(steered: ModuleType, lab: ModuleType, target: int) -> None:
    def bytes_of(rows: int) -> int:
        run = lab.follow(bound(steered, lab, target, assume={"lengths_ptr": 128 * rows, "flags_ptr": 50}), program_ids=(3, 0, 0))
        assert run.assumptions == ()
        return int(run.memory_bytes()["global load"])

    assert [bytes_of(n) - bytes_of(0) for n in (1, 2, 3, 17)] == [512, 1024, 1536, 17 * 512]
    for told, said in (({"x_ptr": 3}, "only tensors of integers"), ({"width": 3}, "3 was given for 8192"),
                       ({"lengths_ptr": 1 << 40}, "does not fit int32")):
        with pytest.raises(KernelError, match=said):
            bound(steered, lab, target, assume=told)
    with pytest.raises(UnknownNameError, match="unknown argument 'length_ptr'; did you mean 'lengths_ptr'"):
        bound(steered, lab, target, assume={"length_ptr": 3})


@pytest.mark.parametrize("target", TARGETS)
def test_a_condition_holds_or_not_by_its_line(steered: ModuleType, lab: ModuleType, target: int) -> None:
    launch = bound(steered, lab, target)
    compiled, choice, leave = compile_launch(launch), line_of("# the choice"), line_of("# the return")

    def run(**told: Any) -> Any:
        return evaluate(compiled, launch, (3, 0, 0), assume={int(name[1:]): value for name, value in told.items()})

    whole = run()
    lines = {int(name.rpartition(":")[2]) for name in whole.by_line() if ".py:" in name}
    assert choice + 1 in lines, "without a word the body of an `if` is executed"
    body, other = run(**{f"_{choice}": True}), run(**{f"_{choice}": False})
    assert body.by_opcode().get("MUFU", 0) > other.by_opcode().get("MUFU", 0), "the exponentials of the body"
    (said,) = {a.choice for a in other.assumptions if a.where.endswith(f":{choice}")}
    assert said == f"line {choice + 1} is passed over, as given"
    assert "global store" in whole.memory_bytes(), "of an early return the way with more work"
    named = next(a for a in whole.assumptions if a.where.endswith(f":{leave}"))
    gone = run(**{f"_{leave}": not named.holds})
    assert "global store" not in gone.memory_bytes()


def test_decisions_of_a_launch_are_another_question_than_none(steered: ModuleType, lab: ModuleType) -> None:
    told, untold = bound(steered, lab, 90, assume={line_of("# the rows"): 5}), bound(steered, lab, 90)
    compiled = compile_launch(told)
    assert compile_launch(untold).key == compiled.key, "the code is the same"
    assert evaluate(compiled, told, (0, 0, 0)).instructions > evaluate(compiled, untold, (0, 0, 0)).instructions


def test_what_decisions_may_say() -> None:
    assert decisions({34: 17, "line 36 at 0x120": True, "moe.py:7": 0}) == {"line 34": 17, "line 36 at 0x120": True, "moe.py:7": 0}
    assert parse_decisions(["34=17", "36=no"]) == {"line 34": 17, "line 36": False}
    for bad in ({"x y": 1}, {34: -1}, {34: 1.5}, {34: "yes"}, {"x": 1.5}):
        with pytest.raises(KernelError, match='or "line 34"'):
            decisions(bad)
    for text in ("34", "34=many", "34=-2", "=3"):
        with pytest.raises(KernelError, match="assume"):
            parse_decisions([text])
    with pytest.raises(KernelError, match="stands twice"):
        parse_decisions(["34=1", "34=2"])
    said = ["a/b.py:34: loop depends on what LDG (line 7) reads: 1 trip (1 times)", "a/b.py:40: mask depends on x: y (1 times)"]
    check_used(decisions({34: 1}), said)
    check_used(decisions({"b.py:34": 1}), said)
    with pytest.raises(UnknownNameError, match="unknown assumption 'line 40'; did you mean 'line 34'"):
        check_used(decisions({40: 1}), said)


# -- scalars ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", TARGETS)
def test_float_scalars_steer(steered: ModuleType, lab: ModuleType, target: int) -> None:
    counts = {}
    for p in (0.0, -0.0, math.nan, -1.0, 0.5, math.inf):
        launch = bind_launch(steered.dropout, (4,), (lab.floats(4096), lab.floats(4096), p, 4096), {"BLOCK": 1024}, target=target)
        run = lab.follow(launch, program_ids=(0, 0, 0))
        assert run.assumptions == ()
        counts[p] = run.instructions
    few = {n for p, n in counts.items() if not p > 0.0}
    many = {n for p, n in counts.items() if p > 0.0}
    assert len(few) == len(many) == 1
    assert min(many) > 5 * max(few)


@pytest.mark.parametrize("target", TARGETS)
def test_bools_steer(steered: ModuleType, lab: ModuleType, target: int) -> None:
    for first, second in itertools.product((False, True), repeat=2):
        run = lab.follow(bind_launch(steered.switched, (1,), (lab.floats(256), first, second), {"BLOCK": 128}, target=target))
        assert run.assumptions == ()
        assert run.memory_bytes() == ({"global store": 512 * (first + second)} if first or second else {})


@pytest.mark.parametrize("target", TARGETS)
def test_one_thread_adds_to_a_scalar_whatever_its_sign(steered: ModuleType, lab: ModuleType, target: int) -> None:
    """The largest of floats is taken as integers, by another instruction where the number is negative, and by the first thread alone."""
    run = lab.follow(bind_launch(steered.largest, (3,), (lab.floats(3 * 512), lab.floats(1)), {"BLOCK": 512}, target=target))
    atomics = [tally.threads for index, tally in run.tallies.items() if run.program.memory_ops[index].kind == "atomic"]
    assert set(atomics) == {3}


@pytest.mark.slow
@pytest.mark.parametrize("target", [80, 100])
def test_comparisons_of_floats_are_ieee(steered: ModuleType, lab: ModuleType, target: int) -> None:
    how = (lambda p, q: p < q, lambda p, q: p <= q, lambda p, q: p == q, lambda p, q: p != q, lambda p, q: not p < q,
           lambda p, q: -p > q)
    values = (0.0, -0.0, 1.5, -1.5, 1e-40, math.inf, -math.inf, math.nan)
    for number, holds in enumerate(how):
        for p in values:
            for q in (0.0, 1.5, -1e-40, -math.inf, math.nan):
                launch = bind_launch(steered.compared, (1,), (lab.floats(1), p, q), {"HOW": number, "num_warps": 1}, target=target)
                run = lab.follow(launch)
                assert run.assumptions == ()
                assert ("global store" in run.memory_bytes()) == holds(p, q), (number, p, q)


# -- assertions, prints, library functions ---------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
def test_assertions_hold_and_prints_are_passed_over(steered: ModuleType, lab: ModuleType, target: int) -> None:
    args = (lab.floats(4096), 4096)
    plain = lab.follow(bind_launch(steered.asserting, (4,), args, {"BLOCK": 1024}, target=target))
    assert plain.program.compiled.layout.functions == {}, "assertions are compiled for debug=True alone"
    checked = lab.follow(bind_launch(steered.asserting, (4,), args, {"BLOCK": 1024, "debug": True}, target=target))
    assert set(checked.program.compiled.layout.functions.values()) == {"__assertfail"}
    assert checked.memory_bytes()["global store"] == 4 * 4096
    assert {a.choice for a in checked.assumptions} == {"an assertion, taken to hold"}
    printed = lab.follow(bind_launch(steered.printing, (4,), args, {"BLOCK": 1024}, target=target))
    assert set(printed.program.compiled.layout.functions.values()) == {"vprintf"}
    assert printed.memory_bytes()["global store"] == 4 * 4096
    calls = [i for i in printed.program.listing.instructions if i.opcode.startswith("CALL")]
    assert calls
    assert int(printed.instruction_counts[[i.index for i in calls]].min()) == 16, "every warp of four CTAs passes every call"


@pytest.mark.parametrize("target", TARGETS)
def test_library_functions_meet_no_rare_operands(steered: ModuleType, lab: ModuleType, target: int) -> None:
    launch = bind_launch(steered.sines, (1,), (lab.floats(512), lab.floats(512)), {"BLOCK": 512}, target=target)
    run = lab.follow(launch)
    assert {a.choice for a in run.assumptions} == {"the usual way of a library function"}
    assert run.memory_bytes()["global load"] == 4 * 512, "no table of the library's is read"
    slow = [b.index for b in run.program.flow.blocks if any(i.base in ("CALL", "RET") for i in b.instructions)]
    assert slow
    assert not run.block_counts[slow].any()


@pytest.mark.parametrize("target", TARGETS)
def test_a_loop_around_a_division_is_no_library_function(steered: ModuleType, lab: ModuleType, target: int) -> None:
    run = lab.follow(bind_launch(steered.newton, (1,), (lab.floats(512), lab.floats(512), 1e-4), {"BLOCK": 512}, target=target))
    kinds = {a.choice for a in run.assumptions if a.where.endswith(f":{line_of('while tl.max')}")}
    assert kinds == {"1 trip"} or any("is executed" in kind for kind in kinds)
    divisions = [i.index for i in run.program.listing.instructions if i.base == "MUFU" and "RCP" in i.opcode]
    assert run.instruction_counts[divisions].max() >= 4, "four warps go through the loop's body"


# -- arguments and compiling -----------------------------------------------------------------------------------------------


def test_messages_name_the_argument(steered: ModuleType, lab: ModuleType) -> None:
    import torch

    def message(*args: Any, **meta: Any) -> str:
        with pytest.raises(KernelError) as caught:
            bind_launch(steered.dropout, (4,), args, {"BLOCK": 1024, **meta}, target=90)
        return str(caught.value)

    x = lab.floats(4096)
    assert "argument 'out_ptr' is 'hello', of type str; a kernel takes tensors" in message(x, "hello", 0.5, 4096)
    assert "argument 'x_ptr' is [1, 2], of type list" in message([1, 2], x, 0.5, 4096)
    assert "argument 'x_ptr' is a tensor of complex64" in message(lab.meta(4, dtype=torch.complex64), x, 0.5, 4096)
    assert "argument 'n' is 1180591620717411303424, which does not fit 64 bits" in message(x, x, 0.5, 1 << 70)
    assert "arguments: missing 1 required positional argument: 'n'" in message(x, x, 0.5)


def test_a_string_is_no_number(steered: ModuleType, lab: ModuleType) -> None:
    def launch(block: Any) -> Any:
        return bind_launch(steered.printing, (4,), (lab.floats(4096), 4096), {"BLOCK": block}, target=90)

    assert compile_launch(launch(1024)).name == "printing"
    with pytest.raises(KernelError, match="does not compile"):
        compile_launch(launch("1024"))


def test_pruning_that_leaves_none_says_so(steered: ModuleType, lab: ModuleType) -> None:
    import triton

    pruned = triton.autotune([triton.Config({"BLOCK": 128}), triton.Config({"BLOCK": 256})], ["n"],
                             prune_configs_by={"early_config_prune": lambda configs, named, **rest: []})(steered.printing)
    with pytest.raises(KernelError, match="early_config_prune leaves none of 2 configs"):
        configs_of(pruned, (lab.floats(4096), 4096), {})


def test_compiling_without_end_is_ended(steered: ModuleType, lab: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    launch = bind_launch(steered.square, (1,), (lab.floats(512, 512), lab.floats(512, 512)), {"BLOCK": 512}, target=90)
    monkeypatch.setenv(VARIABLE, "1")
    with pytest.raises(KernelError, match=r"still compiling after 1 s: each thread holds 2,048 numbers of one tensor \(512x512\)"):
        compile_launch(launch)
    monkeypatch.setenv(VARIABLE, "soon")
    with pytest.raises(KernelError, match="expected seconds"):
        compile_launch(launch)


def test_long_straight_code_is_a_reason_to_stop_too() -> None:
    """A sort that is unrolled makes many small tensors; a matrix product makes few."""
    line = "    %v_{} = arith.select %p, %a, %b : tensor<64x128xi1, #blocked>, tensor<64x128xf32, #blocked> loc(#loc1)\n"
    assert numbers_made("".join(map(line.format, range(10))), 128) == 10 * 64
    assert reason_to_stop("".join(map(line.format, range(500))), 128) is None
    assert "38,400 numbers one after another" in str(reason_to_stop("".join(map(line.format, range(600))), 128))
    assert reason_to_stop("".join(map(line.format, range(600))), 256) is None


def test_a_process_of_its_own() -> None:
    assert within(600, lambda: {"made": b"1"}) == {"made": b"1"}
    with pytest.raises(RuntimeError, match="no such thing"):
        within(600, lambda: (_ for _ in ()).throw(ValueError("no such thing")))
    with pytest.raises(TimeoutError):
        within(0.1, lambda: time.sleep(30))
