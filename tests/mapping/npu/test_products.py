"""Products on NPUs: what is spread, what is padded, and traffic step by step against the loop-nest model."""

from __future__ import annotations

import math
from itertools import product as every

import numpy as np
import pytest

from presilicon.arch import load
from presilicon.arch.npu import NpuSystem
from presilicon.errors import MappingError
from presilicon.mapping.nest import Constraints, map_op
from presilicon.mapping.npu.matrix import home, plan
from presilicon.mapping.npu.product import Product, product, smooth, spread
from presilicon.mapping.npu.segment import join_steps, joined, joined_room
from presilicon.mapping.npu.traffic import traffic
from presilicon.mapping.systolic import closed_form
from presilicon.workloads.op import Op, Operand, tensor

NPUS = ("ascend-910", "eyeriss", "gemmini-16", "tpu-v1", "tpu-v4i")
SHAPES = [(1, 1000, 2048), (49, 512, 2048), (512, 768, 768), (197, 331, 67), (3136, 64, 64)]


def npu(name: str) -> NpuSystem:
    system = load(name)
    assert isinstance(system, NpuSystem)
    return system


def matmul(m: int, n: int, k: int, fmt: str) -> Product:
    tensors = (tensor("a", "input", "m k", fmt), tensor("w", "weight", "k n", fmt), tensor("out", "output", "m n", fmt))
    return product(Op("mm", "matmul", "mm", {"m": m, "n": n, "k": k}, tensors, {"mac": 1.0}), fmt)


def conv(filters: int, channels: int, size: int, window: int, stride: int, fmt: str) -> Product:
    out = (size - window) // stride + 1
    dims = {"b": 1, "g": 1, "m": filters, "c": channels, "p": out, "q": out, "r": window, "s": window}
    image = ((("b", 1),), (("g", channels), ("c", 1)), (("p", stride), ("r", 1)), (("q", stride), ("s", 1)))
    weight = ((("g", filters), ("m", 1)), (("c", 1),), (("r", 1),), (("s", 1),))
    result = ((("b", 1),), (("g", filters), ("m", 1)), (("p", 1),), (("q", 1),))
    first = tensor("x", "input", "p", fmt).number_format
    operands = (Operand("a", "input", image, first), Operand("w", "weight", weight, first), Operand("out", "output", result, first))
    return product(Op("conv", "conv", "conv", dims, operands, {"mac": 1.0}, {"padding": [0, 0]}), fmt)


def arithmetic(system: NpuSystem) -> str:
    return next(iter(system.matrix.macs_per_clk))


def products(system: NpuSystem) -> list[Product]:
    fmt = arithmetic(system)
    convolutions = [(64, 3, 64, 7, 2), (48, 32, 30, 3, 1), (32, 16, 15, 5, 1)]
    return [*(matmul(*shape, fmt) for shape in SHAPES), *(conv(*shape, fmt) for shape in convolutions)]


@pytest.mark.parametrize("name", NPUS)
def test_traffic_by_step_sums_to_the_loop_nests_counts(name: str) -> None:
    system = npu(name)
    for each in products(system):
        chosen = spread(each, system)
        result = map_op(each.op(chosen.extents), system.hierarchy(arithmetic(system)), "latency", Constraints(spatial=chosen.spatial))
        moves = traffic(result.mapping, result.problem, system.memories[-1].name)
        for memory in result.problem.memories:
            own = [a for a in result.counts.accesses if a.level == memory.name]
            assert moves.bytes_read(memory.name) == pytest.approx(math.fsum(a.read_bytes for a in own), rel=1e-12)
            assert moves.bytes_written(memory.name) == pytest.approx(math.fsum(a.written_bytes for a in own), rel=1e-12)
        for edge in moves.edges:
            assert all(np.all(values >= 0) for values in (edge.read, edge.filled, edge.drained, edge.stored))
            assert np.all(edge.room < np.arange(moves.steps))


@pytest.mark.parametrize("name", NPUS)
def test_energy_is_the_loop_nests_and_resident_operands_leave_only_the_dram(name: str) -> None:
    system = npu(name)
    for each in products(system)[:4]:
        mapped = plan(each, system, arithmetic(system))
        counted = mapped.result.counts.energy_by
        assert dict(mapped.energy_j) == pytest.approx(dict(counted), rel=1e-12)
        where = home(system)
        if where is None or name == "eyeriss":  # whose buffer is smaller than the tensors
            continue
        stays = plan(each, system, arithmetic(system), frozenset({"I", "O"}))
        left = {e.tensor for e in stays.traffic.edges if e.parent == "dram"}
        assert left == {"W"}
        assert stays.energy_j["dram"] < mapped.energy_j["dram"]


@pytest.mark.parametrize("name", NPUS)
def test_spread_covers_the_op_and_stays_within_the_machine(name: str) -> None:
    system = npu(name)
    sizes = {"array": system.matrix.pes // system.matrix.engines, "engines": system.matrix.engines, "cores": system.cores}
    for each in products(system):
        chosen = spread(each, system)
        for fanout, factors in chosen.spatial.items():
            assert math.prod(factors.values()) <= sizes[fanout]
            assert all(chosen.extents[d] % factor == 0 for d, factor in factors.items())
        assert all(chosen.extents[d] >= extent for d, extent in each.dims)
        assert 0 < chosen.used <= 1


def test_a_systolic_product_takes_the_folds_of_its_closed_form() -> None:
    """Loop nest and systolic closed form count the same multiply-accumulate cycles where the extents fill the array."""
    system = npu("tpu-v1")
    for m, n, k in ((512, 1024, 768), (1024, 256, 512), (256, 256, 256)):
        mapped = plan(matmul(m, n, k, "int8"), system, "int8")
        closed = closed_form(m, n, k, rows=256, cols=256, dataflow="ws")
        alone = mapped.matrix_clk + system.matrix.rows + system.matrix.skew_clk
        assert alone == pytest.approx(int(closed.cycles), rel=0.02)


def test_cores_share_columns_only_where_that_takes_less_time() -> None:
    """With few rows each core takes its own columns; with few columns they share them."""
    system = npu("ascend-910")
    assert spread(matmul(16, 8192, 4096, "fp16"), system).spatial["cores"] == {"n": 24}
    tall = spread(matmul(8192, 64, 4096, "fp16"), system).spatial["cores"]
    assert tall["m"] > tall.get("n", 1)


def test_smooth_bounds_are_close_and_have_small_factors() -> None:
    for number in range(1, 3000):
        bound = smooth(number)
        assert number <= bound <= max(number * 1.15, 16)
        rest = bound
        for prime in (2, 3, 5, 7, 11, 13):
            while rest % prime == 0:
                rest //= prime
        assert rest == 1


@pytest.mark.parametrize("steps", [1, 2, 23, 24, 25, 100, 8192])
def test_joined_steps_lose_nothing(steps: int) -> None:
    starts = join_steps(steps)
    values = np.random.default_rng(0).random(steps)
    assert joined(values, starts).sum() == pytest.approx(values.sum())
    assert starts[0] == 0
    assert np.all(np.diff(starts) > 0)
    lengths = np.diff(np.append(starts, steps))
    assert lengths[0] == lengths[-1] == 1
    room = joined_room(np.arange(steps) - 2, values, starts)
    assert np.all(room < np.arange(len(starts)))


def test_what_fits_nowhere_is_refused_with_the_place() -> None:
    tiny = npu("gemmini-16").override({"memories.scratchpad.size": "16 B"})
    with pytest.raises(MappingError, match="gemmini-16"):
        plan(matmul(64, 64, 64, "int8"), tiny, "int8")


def test_grouped_and_batched_products_keep_their_groups() -> None:
    for groups, batch in every((1, 4), (1, 3)):
        dims = {"b": batch, "g": groups, "m": 8, "c": 4, "p": 6, "q": 6, "r": 3, "s": 3}
        image = ((("b", 1),), (("g", 4), ("c", 1)), (("p", 1), ("r", 1)), (("q", 1), ("s", 1)))
        fmt = tensor("x", "input", "p", "int8").number_format
        operands = (
            Operand("a", "input", image, fmt),
            Operand("w", "weight", ((("g", 8), ("m", 1)), (("c", 1),), (("r", 1),), (("s", 1),)), fmt),
            Operand("out", "output", ((("b", 1),), (("g", 8), ("m", 1)), (("p", 1),), (("q", 1),)), fmt),
        )
        found = product(Op("c", "conv", "conv", dims, operands, {"mac": 1.0}, {"padding": [0, 0]}), "int8")
        assert found.macs == math.prod(dims.values())
        assert dict(found.dims).get("g", 1) == groups


@pytest.mark.parametrize("name", ["tpu-v1", "gemmini-16"])
def test_bounds_with_a_large_prime_are_padded_only_where_that_is_faster(name: str) -> None:
    system = npu(name)
    shape = conv(64, 32, 21, 3, 1, arithmetic(system))  # outputs of 19 x 19
    found = plan(shape, system, arithmetic(system))
    for padded in (True, False):
        chosen = spread(shape, system, padded=padded)
        constraints = Constraints(spatial=chosen.spatial, spatial_dims=chosen.axes)
        alone = map_op(shape.op(chosen.extents), system.hierarchy(arithmetic(system)), "latency", constraints)
        assert found.result.counts.latency_s <= alone.counts.latency_s * (1 + 1e-12)
    assert spread(shape, system).extents["y"] == 20
    assert found.spread.extents["y"] == 19


def test_register_files_take_new_weights_while_the_array_waits() -> None:
    system = npu("eyeriss")
    found = plan(conv(96, 48, 15, 3, 1, "int16"), system, "int16")
    fed = sum(e.read.sum() for e in found.traffic.edges if e.tensor == "W" and e.child == "registers")
    (buffer,) = (m for m in system.memories if m.name == "filter_buffer")
    assert fed >= 96 * 48 * 9 * 2, "every weight once at least"
    assert buffer.bandwidth_bytes_per_clk is not None
    assert found.matrix_clk == pytest.approx(found.result.counts.cycles_by["mac"] + fed / buffer.bandwidth_bytes_per_clk)
    tpu = npu("tpu-v1")
    held_twice = plan(matmul(512, 768, 768, "int8"), tpu, "int8")
    assert held_twice.matrix_clk == max(held_twice.result.counts.cycles_by[part] for part in ("mac", "registers"))
