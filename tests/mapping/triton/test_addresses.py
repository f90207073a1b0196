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


@pytest.mark.parametrize("target", SLOW_TOO)
@pytest.mark.parametrize("shape", [pytest.param((256, 384, 192), marks=pytest.mark.slow), (200, 260, 100)])
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
