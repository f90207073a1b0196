"""Every byte that a kernel touches in global memory, against a NumPy walk of the same kernel."""

from __future__ import annotations

from types import ModuleType

import numpy as np
import pytest

TARGETS = [80, 90, 100]
SLOW_TOO = [*TARGETS, *(pytest.param(cc, marks=pytest.mark.slow) for cc in (86, 89, 120))]


def _tiles(M: int, N: int, BM: int, BN: int, group: int) -> list[tuple[int, int]]:
    """(row tile, column tile) of each program id, as the kernel swizzles them."""
    down, across = -(-M // BM), -(-N // BN)
    found = []
    for pid in range(down * across):
        first = pid // (group * across) * group
        size = min(down - first, group)
        within = pid % (group * across)
        found.append((first + within % size, within // size))
    return found


@pytest.mark.slow
@pytest.mark.parametrize("target", SLOW_TOO)
@pytest.mark.parametrize("shape", [(256, 384, 192), (200, 260, 100)])
def test_matmul(lab: ModuleType, target: int, shape: tuple[int, int, int]) -> None:
    M, N, K = shape
    BM, BN, group = 64, 128, 2
    run = lab.follow(lab.matmul(M, N, K, target, BM=BM, BN=BN, BK=32, warps=4, group=group), trace=True)
    a, b, c = np.zeros((M, K), int), np.zeros((K, N), int), np.zeros((M, N), int)
    for row, column in _tiles(M, N, BM, BN, group):
        np.add.at(a, ((row * BM + np.arange(BM)) % M, slice(None)), 1)
        np.add.at(b.T, ((column * BN + np.arange(BN)) % N, slice(None)), 1)
        c[row * BM:(row + 1) * BM, column * BN:(column + 1) * BN] += 1
    loads, stores = lab.touched(run, "load", "copy"), lab.touched(run, "store")
    np.testing.assert_array_equal(loads["a_ptr"], lab.spread(a, 2))
    np.testing.assert_array_equal(loads["b_ptr"], lab.spread(b, 2))
    np.testing.assert_array_equal(stores["c_ptr"], lab.spread(c, 2))
    assert not loads["c_ptr"].any()
    total = run.memory_bytes()
    assert total.get("global load", 0) + total.get("global copy", 0) == 2 * (a.sum() + b.sum())
    assert total["global store"] == 2 * c.sum()
    assert run.assumptions == ()


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("causal", [False, True])
def test_attention(lab: ModuleType, target: int, causal: bool) -> None:
    batch, heads, length, head, block = 2, 2, 150, 64, 64
    run = lab.follow(lab.attention(batch, heads, length, head, target, causal), trace=True)
    keys = np.zeros(length, int)
    for start in range(0, length, block):
        end = min(start + block, length) if causal else length
        for at in range(0, end, block):
            keys[at:at + block] += 1
    everywhere = np.tile(np.repeat(keys, head), batch * heads)
    loads, stores = lab.touched(run, "load", "copy"), lab.touched(run, "store")
    np.testing.assert_array_equal(loads["q_ptr"], np.ones(2 * len(everywhere)))
    np.testing.assert_array_equal(loads["k_ptr"], lab.spread(everywhere, 2))
    np.testing.assert_array_equal(loads["v_ptr"], lab.spread(everywhere, 2))
    np.testing.assert_array_equal(stores["o_ptr"], np.ones(2 * len(everywhere)))


@pytest.mark.parametrize("target", TARGETS)
def test_softmax_over_rows_in_a_persistent_loop(lab: ModuleType, target: int) -> None:
    run = lab.follow(lab.softmax(13, 777, 4, target), trace=True)
    np.testing.assert_array_equal(lab.touched(run, "load", "copy")["in_ptr"], np.ones(13 * 777 * 4))
    np.testing.assert_array_equal(lab.touched(run, "store")["out_ptr"], np.ones(13 * 777 * 4))
    assert run.loop_trips() == {header: pytest.approx(13 / 4) for header in run.loop_trips()}


@pytest.mark.parametrize("target", SLOW_TOO)
def test_masked_elementwise(lab: ModuleType, target: int) -> None:
    run = lab.follow(lab.add(1000, target), trace=True)
    loads, stores = lab.touched(run, "load"), lab.touched(run, "store")
    for name, counts in (("x_ptr", loads), ("y_ptr", loads), ("out_ptr", stores)):
        np.testing.assert_array_equal(counts[name], np.ones(4000))


@pytest.mark.parametrize("target", TARGETS)
def test_sectors(lab: ModuleType, target: int) -> None:
    def sectors(n: int) -> int:
        run = lab.follow(lab.add(n, target))
        return sum(t.sectors for i, t in run.tallies.items() if run.program.memory_ops[i].kind == "load")

    assert sectors(1024) == 2 * 4096 // 32, "a size divisible by 16 is loaded in vectors, each sector once"
    assert sectors(1000) == 2 * 2 * 4000 // 32, "else a warp's two loads both touch every other element"


@pytest.mark.parametrize("target", [80, 90, 100, 120])
def test_strided_copy_with_long_division(lab: ModuleType, target: int) -> None:
    run = lab.follow(lab.strided_copy(70, 90, 104, target), trace=True)
    inside = np.zeros((70, 104), int)
    inside[:, :90] = 1
    np.testing.assert_array_equal(lab.touched(run, "load")["x_ptr"], lab.spread(inside, 4))
    np.testing.assert_array_equal(lab.touched(run, "store")["out_ptr"], np.ones(70 * 90 * 4))


@pytest.mark.parametrize(("target", "specialize"), [
    (90, False), (100, True),
    *(pytest.param(*case, marks=pytest.mark.slow) for case in ((80, False), (100, False), (120, False), (120, True)))])
def test_tma_bytes_are_those_inside_the_tensors(lab: ModuleType, target: int, specialize: bool) -> None:
    M, N, K, tile = 300, 264, 200, 128
    run = lab.follow(lab.matmul_tma(M, N, K, target, specialize))
    loaded = 0
    for row in range(-(-M // tile)):
        for column in range(-(-N // tile)):
            loaded += (min(tile, M - row * tile) + min(tile, N - column * tile)) * K * 2
    total = run.memory_bytes()
    assert total.get("tma load", 0) + total.get("global load", 0) == loaded
    assert total.get("tma store", 0) + total.get("global store", 0) == M * N * 2
    assert run.assumptions == ()


def test_views_keep_their_storage_and_alignment(lab: ModuleType, kernels: ModuleType) -> None:
    from presilicon.mapping.triton import bind_launch

    x = lab.floats(2, 1000)
    launch = bind_launch(kernels.add, (4,), (x[0], x[1], lab.floats(1001)[1:], 1000), {"BLOCK": 256}, target=90)
    one, two, out = (launch.arguments[name] for name in ("x_ptr", "y_ptr", "out_ptr"))
    assert one.start == two.start
    assert two.address - one.address == 4000
    assert out.address == out.start + 4
    kinds = {name: launch.attributes.get((i,)) for i, name in enumerate(("x_ptr", "y_ptr", "out_ptr"))}
    assert kinds["x_ptr"] == kinds["y_ptr"] == [["tt.divisibility", 16]]
    assert not kinds["out_ptr"], "four bytes into a storage is not 16-aligned"


@pytest.mark.parametrize("target", SLOW_TOO)
def test_routed_rows_of_a_mixture_of_experts(lab: ModuleType, kernels: ModuleType, target: int) -> None:
    """Row numbers and experts are data; seven pointers reach past the first 0x198 bytes of the constant bank."""
    import torch

    from presilicon.mapping.triton import bind_launch

    tokens, N, K, BM, BN = 40, 128, 64, 32, 64
    token = torch.full((96,), tokens, dtype=torch.int32)
    token[:20] = torch.arange(0, 40, 2)
    token[32:40] = torch.arange(1, 17, 2)
    args = (lab.meta(tokens, K), lab.meta(4, N, K), lab.meta(tokens, N), lab.floats(tokens), token,
            torch.tensor([3, 1, 0], dtype=torch.int32), torch.tensor([64], dtype=torch.int32), N, K, tokens)
    options = {"BLOCK_M": BM, "BLOCK_N": BN, "BLOCK_K": 32, "num_warps": 4}
    run = lab.follow(bind_launch(kernels.routed_matmul, (3, N // BN), args, options, target=target), trace=True)
    real = np.zeros(tokens, int)
    real[token[:64][token[:64] < tokens].numpy()] = 1
    experts = np.array([0, 1, 0, 1])
    loads = lab.touched(run, "load", "copy")
    np.testing.assert_array_equal(loads["a_ptr"], lab.spread(np.repeat(real * (N // BN), K), 2))
    np.testing.assert_array_equal(loads["b_ptr"], lab.spread(np.repeat(experts, N * K), 2))
    np.testing.assert_array_equal(lab.touched(run, "store")["c_ptr"], lab.spread(np.repeat(real, N), 2))
    assert run.tensor_flops == 2 * 64 * N * K, "two of three blocks have rows"
    assert run.assumptions == ()


@pytest.mark.slow
@pytest.mark.parametrize("target", [80, 90, 100, 120])
def test_spilled_predicates_and_atomics(lab: ModuleType, kernels: ModuleType, target: int) -> None:
    from presilicon.mapping.triton import bind_launch, compile_launch, evaluate

    M, N, K, split = 200, 264, 128, 2
    args = (lab.meta(M, K), lab.meta(K, N), lab.floats(M, N), M, N, K)
    options = {"BLOCK_M": 128, "BLOCK_N": 128, "BLOCK_K": 32, "SPLIT": split, "num_warps": 4}
    launch = bind_launch(kernels.split_matmul, (6, split), args, options, target=target)
    compiled = compile_launch(launch)
    assert compiled.stack_bytes > 0
    run = evaluate(compiled, launch)
    assert run.memory_bytes()["global atomic"] == M * N * 4 * split
    assert run.tensor_flops == 2 * 256 * 384 * K
    assert run.assumptions == ()


@pytest.mark.parametrize(("target", "dtype", "block"), [(80, "float16", 1024), (90, "float16", 512), (90, "bfloat16", 1024),
                                                        (90, "float32", 256), (100, "float32", 1024), (90, "float64", 128)])
def test_atomics_on_vectors_of_floats(lab: ModuleType, kernels: ModuleType, target: int, dtype: str, block: int) -> None:
    """From sm_90 on, one instruction adds up to four float32 or eight float16 for a thread."""
    import torch

    from presilicon.mapping.triton import bind_launch

    one = torch.empty(2 * block, dtype=getattr(torch, dtype), device="meta")
    run = lab.follow(bind_launch(kernels.add_to, (2,), (one, torch.empty_like(one)), {"BLOCK": block}, target=target))
    assert run.memory_bytes()["global atomic"] == run.memory_bytes()["global load"] == one.nbytes


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
def test_persistent_programs(lab: ModuleType, kernels: ModuleType, target: int) -> None:
    from presilicon.mapping.triton import bind_launch

    M, N, K = 200, 264, 96
    args = (lab.meta(M, K), lab.meta(K, N), lab.meta(M, N), M, N, K)
    options = {"PROGRAMS": 5, "BLOCK_M": 64, "BLOCK_N": 64, "BLOCK_K": 32, "num_warps": 4}
    run = lab.follow(bind_launch(kernels.persistent_matmul, (5,), args, options, target=target), trace=True)
    np.testing.assert_array_equal(lab.touched(run, "store")["c_ptr"], np.ones(M * N * 2))
    assert run.tensor_flops == 2 * 256 * 320 * K
    assert run.assumptions == ()


@pytest.mark.slow
@pytest.mark.parametrize("target", [90, 100, 120])
def test_descriptors_made_on_the_device_lie_in_each_programs_scratch(lab: ModuleType, kernels: ModuleType, target: int) -> None:
    """sm_120 addresses them as a 64-bit offset on a 64-bit uniform base."""
    from presilicon.mapping.triton import bind_launch

    args = (lab.meta(256, 128), lab.meta(256, 128), 256, 128)
    launch = bind_launch(kernels.copy_tiles, (4,), args, {"BLOCK_M": 64, "BLOCK_N": 64}, target=target)
    run = lab.follow(launch, trace=True)
    scratch = [t for t in run.walk() if run.program.listing.instructions[t.instruction].base == "ATOMG"]
    first = {int(t.addresses[t.active].min()) % 2**32 for t in scratch}
    assert scratch
    assert max(first) < 4 * 256
    assert run.memory_bytes()["tma load"] == 256 * 128 * 2
    assert run.assumptions == ()


def test_bytes_that_were_not_followed_are_not_none(lab: ModuleType, kernels: ModuleType) -> None:
    import torch

    from presilicon.errors import KernelError
    from presilicon.mapping.triton import bind_launch, compile_launch, evaluate_grid

    one = torch.empty(256, dtype=torch.int32, device="meta")
    launch = bind_launch(kernels.add_to, (2,), (one, torch.empty_like(one)), {"BLOCK": 128}, target=80)
    with pytest.raises(KernelError, match="addresses were not followed"):
        evaluate_grid(compile_launch(launch), launch).memory_bytes()
