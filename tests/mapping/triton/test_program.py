"""Following control flow: counts, assumptions, known data, infinite loops."""

from __future__ import annotations

from types import ModuleType

import numpy as np
import pytest

from presilicon.errors import KernelError, UnknownNameError
from presilicon.mapping.triton import alternatives, bind_launch, compile_launch, evaluate, evaluate_grid


def _ragged(kernels: ModuleType, lab: ModuleType, lengths: object, target: int = 90) -> object:
    return bind_launch(kernels.ragged_sum, (4,), (lab.floats(4, 1024), lengths, lab.floats(4), 1024), {"BLOCK": 128}, target=target)


@pytest.mark.parametrize("target", [80, 90, 100])
def test_counts_are_those_of_a_walk_over_the_blocks(lab: ModuleType, target: int) -> None:
    launch = lab.matmul(512, 512, 512, target)
    run = evaluate(compile_launch(launch), launch, (3, 0, 0), trace=True)
    assert run.trace is not None
    counts = np.zeros(len(run.program.flow.blocks), dtype=int)
    for segment, lanes in zip(run.trace.segments, run.trace.lanes, strict=True):
        if run.program.segments[segment].opens_block:
            counts[run.program.segments[segment].block] += len(run.lane_sets[lanes].warps)
    np.testing.assert_array_equal(counts, run.block_counts)
    assert run.instructions == sum(len(b) * n for b, n in zip(run.program.flow.blocks, counts, strict=True))
    assert sum(run.by_opcode().values()) == sum(run.by_line().values()) == run.instructions
    assert run.by_opcode()["EXIT"] == run.instruction_counts[[i.index for i in run.program.listing.instructions
                                                              if i.base == "EXIT"]].sum()


def test_one_cta_times_the_grid_where_all_do_the_same(lab: ModuleType) -> None:
    launch = lab.matmul(512, 512, 512, 90)
    compiled = compile_launch(launch)
    one, grid = evaluate(compiled, launch, (0, 0, 0)), evaluate_grid(compiled, launch)
    np.testing.assert_array_equal(one.block_counts * launch.programs, grid.block_counts)
    np.testing.assert_array_equal(evaluate(compiled, launch).block_counts, grid.block_counts)


def test_a_large_grid_is_sampled_and_says_so(lab: ModuleType) -> None:
    launch = lab.attention(1, 8, 1024, 64, 90, True)
    compiled = compile_launch(launch)
    whole, part = evaluate_grid(compiled, launch), evaluate_grid(compiled, launch, limit=32)
    assert whole.assumptions == ()
    assert [a.kind for a in part.assumptions] == ["sample"]
    assert part.tensor_flops == pytest.approx(whole.tensor_flops, rel=0.1)
    uneven = evaluate_grid(compiled, launch, limit=launch.programs * 2 // 3)  # a sample that does not divide the grid
    assert uneven.tensor_flops == pytest.approx(whole.tensor_flops, rel=0.1)


def test_data_dependent_loop_is_a_named_assumption(kernels: ModuleType, lab: ModuleType) -> None:
    import torch

    launch = _ragged(kernels, lab, lab.meta(4, dtype=torch.int32))
    compiled = compile_launch(launch)  # type: ignore[arg-type]
    run = evaluate(compiled, launch)  # type: ignore[arg-type]
    (loop,) = {a.name: a for a in run.assumptions if a.kind == "loop"}.values()
    assert loop.name.startswith("line ")
    assert loop.choice == "1 trip"
    assert "LDG" in loop.cause
    assert "kernels.py" in loop.where
    assert {a.kind for a in run.assumptions} == {"loop", "branch", "mask"}
    more = evaluate(compiled, launch, assume={loop.name: 8})  # type: ignore[arg-type]
    per_trip = len(run.program.flow.blocks[run.program.flow.loops[0].header]) * 4 * 4
    assert more.instructions - run.instructions == 7 * per_trip
    both = alternatives(run)
    assert both[loop.name] == (run.instructions, run.instructions + per_trip)
    with pytest.raises(UnknownNameError, match="unknown assumption 'line 1'"):
        evaluate(compiled, launch, assume={"line 1": 3})  # type: ignore[arg-type]


@pytest.mark.parametrize("target", [80, 90, 100])
def test_tensors_with_values_decide_what_depends_on_them(kernels: ModuleType, lab: ModuleType, target: int) -> None:
    import torch

    lengths = [10, 500, 0, 1000]
    launch = _ragged(kernels, lab, torch.tensor(lengths, dtype=torch.int32), target)
    run = evaluate(compile_launch(launch), launch, trace=True)  # type: ignore[arg-type]
    assert run.assumptions == ()
    wanted = np.zeros((4, 1024), int)
    for row, length in enumerate(lengths):
        wanted[row, :length] = 1
    np.testing.assert_array_equal(lab.touched(run, "load")["x_ptr"], lab.spread(wanted, 4))


@pytest.mark.parametrize("target", [80, 90, 100])
def test_gathered_addresses(kernels: ModuleType, lab: ModuleType, target: int) -> None:
    import torch

    def bind(index: object) -> object:
        return bind_launch(kernels.gather, (4,), (lab.floats(64, 200), index, lab.floats(4, 200), 200), {"BLOCK": 256}, target=target)

    known = lab.follow(bind(torch.tensor([10, 63, 0, 10])), trace=True)
    wanted = np.zeros((64, 200), int)
    for row in (10, 63, 0, 10):
        wanted[row] += 1
    np.testing.assert_array_equal(lab.touched(known, "load")["x_ptr"], lab.spread(wanted, 4))
    blind = lab.follow(bind(lab.meta(4, dtype=torch.int64)))
    assert [a.kind for a in blind.assumptions] == ["address"]
    assert blind.memory_bytes() == known.memory_bytes(), "bytes do not depend on where they are"


def test_a_branch_on_data_takes_the_code_behind_it_and_can_be_decided(kernels: ModuleType, lab: ModuleType) -> None:
    import torch

    x = lab.meta(1000, dtype=torch.int32)
    launch = bind_launch(kernels.histogram, (4,), (x, lab.meta(100, dtype=torch.int32), 1000), {"BLOCK": 256}, target=90)
    run = lab.follow(launch)
    (branch,) = [a for a in run.assumptions if a.kind == "branch"]
    assert run.memory_bytes()["global atomic"] == 4000
    skipped = lab.follow(launch, assume={branch.name: not branch.holds})
    assert "global atomic" not in skipped.memory_bytes()
    assert alternatives(run)[branch.name] == (run.instructions, skipped.instructions)


@pytest.mark.slow
def test_infinite_loops(kernels: ModuleType, lab: ModuleType) -> None:
    launch = bind_launch(kernels.forever, (1,), (lab.floats(1), 7), target=90)
    with pytest.raises(KernelError, match=r"kernels\.py:\d+: infinite loop: nothing that its condition depends on changes"):
        lab.follow(launch)
    assert lab.follow(bind_launch(kernels.forever, (1,), (lab.floats(1), 0), target=90)).instructions > 0
    long = lab.matmul(128, 128, 2**20, 80, BK=32)
    with pytest.raises(KernelError, match="still running after 10,000 steps"):
        lab.follow(long, max_steps=10_000)


def test_program_ids_outside_the_grid(lab: ModuleType) -> None:
    with pytest.raises(KernelError, match=r"not all inside the grid \(4, 1, 1\)"):
        lab.follow(lab.add(1000, 90), program_ids=(4, 0, 0))


@pytest.mark.slow
def test_the_same_twice_is_the_same(lab: ModuleType) -> None:
    one, two = (lab.follow(lab.attention(1, 1, 200, 64, 100, True), trace=True) for _ in range(2))
    np.testing.assert_array_equal(one.block_counts, two.block_counts)
    assert one.trace == two.trace
    assert one.memory_bytes() == two.memory_bytes()
    assert one.edge_counts == two.edge_counts


def test_shared_memory_passes(lab: ModuleType) -> None:
    """LDSM through Triton's swizzled layout is free of bank conflicts: four passes of 128 bytes for .x4."""
    run = lab.follow(lab.matmul(512, 512, 512, 80, BK=32), program_ids=(0, 0, 0))
    for index, tally in run.tallies.items():
        ins = run.program.listing.instructions[index]
        if ins.base == "LDSM":
            assert tally.passes == 4 * tally.executions, str(ins)
