"""Integers that threads tell one another: matrices of 16-bit numbers, tiles that are skipped, CTAs in compiled code; compare-and-swap."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
import pytest

from presilicon.mapping.triton import bind_launch, compile_launch, evaluate, take_apart
from presilicon.mapping.triton.cta_shared import KEPT, REFUSED, in_shared
from presilicon.mapping.triton.group import Lanes
from presilicon.mapping.triton.parameters import parameters_of
from presilicon.mapping.triton.shared_memory import SharedMemory
from presilicon.mapping.triton.values import Unknown
from presilicon.mapping.triton.warp_records import COUNT
from presilicon.mapping.triton.warp_runs import Warps, warp_code

N, TILE, WINDOW = 1024, 64, 100


def fragment(row: int, column: int, transposed: bool) -> tuple[int, int]:
    """Lane and half of its register that hold an element of an 8x8 matrix (PTX ISA, fragments of ldmatrix)."""
    row, column = (column, row) if transposed else (row, column)
    return 4 * row + column // 2, column % 2


@pytest.mark.parametrize("transposed", [False, True])
def test_matrices_are_spread_as_the_instruction_set_says(transposed: bool) -> None:
    """Two warps, two matrices each, rows in any order: both ways to follow them agree with the definition."""
    rng = np.random.default_rng(3)
    content = rng.integers(0, 1 << 16, 2048).astype(np.uint16)
    memory = SharedMemory(1, 64, 4096 + 64, 0)
    memory.contents[0, :4096], memory.known[0, :4096], memory.low, memory.high = content.view(np.uint8), True, 0, 4096
    address = (16 * rng.permutation(256)[:64]).astype(np.uint64)
    unknown = Unknown("nothing")
    got = memory.get_matrices(Lanes(np.arange(64), 0), True, address, 2, transposed, unknown, False)
    words = np.zeros((1040, 3), np.uint64)
    words[:1024, 0] = content.view(np.uint32)
    file, dark = np.zeros((4, 64), np.uint64), np.zeros((4, 64), np.uint64)
    file[0, :], file[1] = 1, address
    for matrix, register in enumerate(got):
        wanted = np.zeros((64, 2), np.uint64)
        for warp in range(2):
            for row in range(8):
                begins = int(address[32 * warp + 8 * matrix + row]) // 2
                for column in range(8):
                    lane, half = fragment(row, column, transposed)
                    wanted[32 * warp + lane, half] = content[begins + column]
        assert np.array_equal(register, wanted[:, 0] | wanted[:, 1] << np.uint64(16))
        held, held_u = np.zeros(64, np.uint64), np.ones(64, np.uint64)
        state = in_shared(matrix << 20, False, 0, 1, 1, 1, 2, 1, file, dark, np.zeros(64, np.uint64), np.arange(64), 64, held, held_u,
                          16, 16, int(transposed), words)
        assert state == KEPT
        assert not held_u.any()
        assert np.array_equal(held, register)


def test_what_is_stored_as_matrices_is_loaded_again() -> None:
    lanes, unknown = Lanes(np.arange(32), 0), Unknown("nothing")
    memory = SharedMemory(1, 32, 1024, 0)
    address = np.arange(32, dtype=np.uint64) * np.uint64(16)
    given = tuple(np.random.default_rng(n).integers(0, 1 << 32, 32, dtype=np.uint64) for n in range(4))
    assert memory.get_matrices(lanes, True, address, 4, False, unknown, False) == (unknown,) * 4
    memory.put_matrices(lanes, True, address, given, True, False)
    back = memory.get_matrices(lanes, True, address, 4, True, unknown, False)
    assert all(np.array_equal(one, other) for one, other in zip(given, back, strict=True))
    memory.put_matrices(lanes, True, address, (given[0], unknown, given[2], given[3]), False, False)
    found = memory.get_matrices(lanes, True, address, 4, False, unknown, False)
    assert found[1] is unknown
    assert np.array_equal(found[2], given[2])
    memory.put_matrices(lanes, True, unknown, given, False, False)
    assert memory.get_matrices(lanes, True, address, 4, False, unknown, False) == (unknown,) * 4


def test_matrices_need_whole_warps() -> None:
    file, dark = np.zeros((4, 32), np.uint64), np.zeros((4, 32), np.uint64)
    file[0, :20] = 1
    held = np.zeros(32, np.uint64)
    assert in_shared(0, False, 0, 1, 1, 1, 2, 1, file, dark, held.copy(), np.arange(32), 32, held, held.copy(), 16, 8, 0,
                     np.zeros((64, 3), np.uint64)) == REFUSED


# -- kernels -----------------------------------------------------------------------------------------------------------------


def windowed(steered: ModuleType, lab: ModuleType, target: int, warps: int) -> Any:
    import torch

    launch = bind_launch(steered.windowed, (N // TILE,), (lab.meta(N, N, dtype=torch.float16), lab.floats(N, TILE), N),
                         {"WINDOW": WINDOW, "BLOCK_M": TILE, "BLOCK_N": TILE, "num_warps": warps}, target=target)
    return compile_launch(launch), launch


def tiles(block: int) -> int:
    """Tiles of a block of rows in which anything is seen."""
    rows, columns = block * TILE + np.arange(TILE)[:, None], np.arange(N)[None, :]
    seen = (rows >= columns) & (rows <= columns + WINDOW)
    return int(seen.reshape(TILE, N // TILE, TILE).any(axis=(0, 2)).sum())


@pytest.mark.slow
@pytest.mark.parametrize(("target", "warps"), [(80, 4), (90, 8), (100, 4)])
def test_tiles_that_are_skipped_are_not_read(steered: ModuleType, lab: ModuleType, target: int, warps: int) -> None:
    """Whether anything of a tile counts is found by reductions over the CTA, through shared memory."""
    compiled, launch = windowed(steered, lab, target, warps)
    for block in (0, 2, 15):
        run = evaluate(compiled, launch, (block, 0, 0))
        assert run.assumptions == ()
        assert run.memory_bytes()["global load"] == tiles(block) * TILE * TILE * 2


@pytest.mark.slow
@pytest.mark.parametrize(("target", "warps"), [(80, 4), (90, 8)])
def test_compiled_code_goes_the_same_way(steered: ModuleType, lab: ModuleType, target: int, warps: int) -> None:
    """Whole warps with all they access, and one lane of every CTA: neither could do without what other warps say."""
    pytest.importorskip("llvmlite", reason="needs llvmlite (the extra `fast`)")
    compiled, launch = windowed(steered, lab, target, warps)
    program, bank = take_apart(compiled), parameters_of(compiled, launch)[0]
    place = np.array([9, 0, 0])
    whole, followed = evaluate(compiled, launch, (9, 0, 0)), Warps(warp_code(program), launch, bank)
    runs = [followed.one(place, warp) for warp in range(warps)]
    for index, tally in whole.tallies.items():
        mine = np.concatenate([run.accesses[run.accesses[:, 1] == index] for run in runs])
        assert (len(mine), *mine[:, [5, 3, 2]].sum(axis=0)) == (tally.executions, tally.threads, tally.sectors, tally.passes)
    assert not any(run.assumed or run.leaves_known for run in runs)
    assert all(run.on_program == (True, False, False) for run in runs)
    control = take_apart(compiled, addresses=False)
    ids = np.stack([np.arange(16), np.zeros(16, np.int64), np.zeros(16, np.int64)], axis=1)
    counts = Warps(warp_code(control), launch, bank).many(ids, COUNT).counts
    products = [s.number for s in control.segments
                if any(i.base in ("HMMA", "HGMMA") for i in control.listing.instructions[s.first:s.last + 1])]
    loop = counts[:, [n for n in products if counts[15, n] > 0]]
    assert np.array_equal(loop[:, 0], [tiles(block) for block in range(16)])


@pytest.mark.parametrize("target", [80, 90, 100])
def test_compare_and_swap_goes_to_its_lock(steered: ModuleType, lab: ModuleType, target: int) -> None:
    """Its address is one of 64 bits, although the listing does not say so."""
    import torch

    launch = bind_launch(steered.swapped, (64,), (lab.meta(64, dtype=torch.int32), lab.meta(64, dtype=torch.int32), 1), {}, target=target)
    run = evaluate(compile_launch(launch), launch, (5, 0, 0), trace=True)
    found = [int(touch.addresses[touch.active][0]) for touch in run.walk() if run.program.memory_ops[touch.instruction].kind == "atomic"]
    assert found == [launch.arguments["lock_ptr"].start + 20]
