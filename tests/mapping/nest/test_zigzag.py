"""ZigZag's counting: what zigzag-dse 3.9.1 found on mapbench-16, counted by our preset; our searches under it.

Recorded from ``get_hardware_performance_zigzag(..., opt="energy", lpf_limit=6, nb_spatial_mappings_generated=1)`` with memories of 8 bit
``bandwidth_min``; energies in pJ.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import random

import pytest

from presilicon.arch.hierarchy import load_hierarchy
from presilicon.errors import MappingError, UnknownNameError
from presilicon.mapping.nest import Constraints, Counts, Keep, Loop, Mapping, Spatial, conv, evaluate, map_op, matmul
from presilicon.mapping.nest.incumbent import OBJECTIVES, Objective
from presilicon.mapping.nest.search import search
from presilicon.mapping.nest.zigzag import LATCH, zigzag_problem
from presilicon.workloads.op import Op

from .enumeration import latched_counts
from .random_nests import random_hierarchy, random_mapping, random_op

BUFFER, REGISTERS = "buffer", "register_file"


def keeps(level: str, *tensors: str) -> tuple[Keep, ...]:
    return tuple(Keep(t, level) for t in tensors)


def pes(**factors: int) -> tuple[Spatial, ...]:
    return tuple(Spatial(dim, factor, "pe_array", axis) for (dim, factor), axis in zip(factors.items(), "xy", strict=True))


GEMM = (
    Loop("k", 4), *keeps(BUFFER, "W"), Loop("m", 4), *keeps(BUFFER, "I"), Loop("m", 16), *keeps(BUFFER, "O"), *pes(k=16, m=16),
    *keeps(REGISTERS, "I"), Loop("n", 64), *keeps(REGISTERS, "O"), Loop("k", 16), *keeps(REGISTERS, "W"),
    *keeps(LATCH, "I"), Loop("n", 16), *keeps(LATCH, "W"),
)  # fmt: skip
CONV = (
    *keeps(BUFFER, "W", "I", "O"), *pes(m=16, p=14), Loop("q", 56), *keeps(REGISTERS, "O"), Loop("s", 3), Loop("c", 64),
    *keeps(REGISTERS, "I", "W"), Loop("p", 4), Loop("r", 3), *keeps(LATCH, "I"), Loop("m", 4), *keeps(LATCH, "W"),
)  # fmt: skip

#: By tensor, energy at the registers, the buffer and DRAM.
GEMM_PJ = {
    "O": (1369020825.6, 100663296, 536870912),
    "I": (40894464.0, 12582912, 67108864),
    "W": (1288490188.8, 408944640, 67108864),
}
CONV_PJ = {"O": (138847027.2, 2408448, 12845056), "W": (86704128.0, 12607488, 2359296), "I": (26011238.4, 6709248, 13778944)}


def counted(op: Op, nodes: tuple[object, ...]) -> Counts:
    return evaluate(Mapping(nodes), zigzag_problem(op, load_hierarchy("mapbench-16")))  # type: ignore[arg-type]


def energies(counts: Counts) -> dict[str, tuple[float, ...]]:
    memories = {m.name: m for m in load_hierarchy("mapbench-16").memories}
    return {
        t: tuple(
            1e12 * (a.read_bytes * memories[a.level].read_j_per_byte + a.written_bytes * memories[a.level].write_j_per_byte)
            for a in (counts.access(t, level) for level in (REGISTERS, BUFFER, "dram"))
        )
        for t in "OIW"
    }


def test_its_mapping_of_the_product() -> None:
    counts = counted(matmul(1024, 1024, 1024), GEMM)
    assert counts.energy_j * 1e12 == pytest.approx(4213807513.6, rel=1e-12)
    for tensor, parts in energies(counts).items():
        assert parts == pytest.approx(GEMM_PJ[tensor], rel=1e-12)


def test_its_mapping_of_the_convolution() -> None:
    counts = counted(conv(m=64, c=64, p=56, q=56, r=3, s=3), CONV)
    # ZigZag rounds what neighbouring tiles of the input share: 902,912 reads of the buffer where whole tiles make 903,168.
    assert counts.energy_j * 1e12 == pytest.approx(336952524.8, rel=5e-6)
    found = energies(counts)
    for tensor in "OW":
        assert found[tensor] == pytest.approx(CONV_PJ[tensor], rel=1e-12)
    assert found["I"] == pytest.approx(CONV_PJ["I"], rel=3e-4)
    assert counts.access("I", BUFFER).reads == 903_168


def test_latency_of_its_mappings() -> None:
    """ZigZag: 8,688,903 and 1,161,336 cycles, with waits for tiles, the first fill and the last drain, which are not modelled here."""
    common = load_hierarchy("mapbench-16")
    ports = {"read_bytes_per_clk": 8.0, "write_bytes_per_clk": 8.0}  # 64 bit, as ZigZag's hardware file has them
    levels = tuple(dataclasses.replace(x, **ports) if x.name == REGISTERS else x for x in common.levels)  # type: ignore[arg-type]
    wired = dataclasses.replace(common, levels=levels)
    product, convolution = matmul(1024, 1024, 1024), conv(m=64, c=64, p=56, q=56, r=3, s=3)
    assert evaluate(Mapping(GEMM), zigzag_problem(product, wired)).cycles == pytest.approx(8_688_903, rel=1e-3)
    assert evaluate(Mapping(CONV), zigzag_problem(convolution, wired)).cycles == pytest.approx(1_161_336, rel=1e-5)


#: What ZigZag finds for the least latency: inputs pass the registers one by one below weights that stay at the MACs.
QK = (
    *keeps(BUFFER, "I"), Loop("n", 16), *keeps(BUFFER, "W"), Loop("n", 32), *keeps(BUFFER, "O"), Loop("b", 12), *pes(k=16, m=16),
    *keeps(REGISTERS, "W", "O"), Loop("k", 4), *keeps(LATCH, "W"), Loop("m", 32), *keeps(REGISTERS, "I"), *keeps(LATCH, "I"),
)  # fmt: skip


def test_an_operand_stays_at_the_mac_while_other_tiles_change() -> None:
    op, common = matmul(512, 512, 64, b=12), load_hierarchy("mapbench-16")
    counts = counted(op, QK)
    # By PE: every partial sum and input, 1/32 of the weights, and the drained outputs by eights. ZigZag: 1,622,496 with fill and drain.
    ports = {"read_bytes_per_clk": 8.0, "write_bytes_per_clk": 8.0}
    levels = tuple(dataclasses.replace(x, **ports) if x.name == REGISTERS else x for x in common.levels)  # type: ignore[arg-type]
    wired = dataclasses.replace(common, levels=levels)
    assert evaluate(Mapping(QK), zigzag_problem(op, wired)).cycles == 786_432 + 786_432 + 24_576 + 196_608 / 8 == 1_622_016
    assert counts.access("W", REGISTERS).reads == 512 * 512 * 64 * 12 // 32
    assert (counts.access("I", REGISTERS).reads, counts.access("I", REGISTERS).writes) == (201_326_592, 201_326_592)
    small = matmul(128, 128, 32)
    free, fixed = (map_op(small, wired, "latency", constraints, counting="zigzag") for constraints in (None, Constraints(dataflow="ws")))
    assert free.exhausted
    assert fixed.exhausted
    assert free.counts.cycles < fixed.counts.cycles  # orders of tiles keep those of the operands at the MACs below all others


def test_what_an_operand_at_the_mac_stands_below() -> None:
    latch, registers = QK.index(Keep("W", LATCH)), QK.index(Keep("W", REGISTERS))
    nodes = (*QK[:registers], QK[latch], *QK[registers:latch], *QK[latch + 1 :])
    with pytest.raises(MappingError, match="W is kept in operand_latch above the memory that it comes from"):
        counted(matmul(512, 512, 64, b=12), nodes)


@pytest.mark.parametrize("number", [2, pytest.param(30, marks=pytest.mark.exhaustive)])
def test_the_optimum_equals_full_enumeration(number: int) -> None:
    """Tiles of the registers and of the operands at the MACs in every order in which each operand's stand one below the other."""
    checked = 0
    for seed in range(400):
        rng = random.Random(seed)
        compiled = zigzag_problem(random_op(rng, (1, 2, 2, 3)), random_hierarchy(rng, memories=1, roomy=rng.random() < 0.3))
        if not compiled.latched or compiled.points > 24 or checked == number:
            continue
        try:
            counts = latched_counts(compiled, 2000)
        except MappingError:
            continue
        if not counts:
            continue
        checked += 1
        for objective in OBJECTIVES:
            found = search(compiled, objective)
            assert found.counts is not None
            assert _value(found.counts, objective) == pytest.approx(min(_value(c, objective) for c in counts), rel=1e-9), seed
    assert checked == number


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_the_search_counts_as_the_preset_does(objective: Objective) -> None:
    for seed in range(20):
        rng = random.Random(seed)
        op = random_op(rng, (1, 2, 3, 4))
        compiled = zigzag_problem(op, random_hierarchy(rng, memories=rng.choice((1, 2)), roomy=True))
        found = search(compiled, objective)
        assert found.exhausted
        assert found.mapping is not None
        assert found.counts is not None
        costs = []
        for nest in [random_mapping(rng, compiled) for _ in range(40)]:
            with contextlib.suppress(MappingError):  # more than one element in the latch
                costs.append(_value(evaluate(nest, compiled), objective))
        assert _value(found.counts, objective) <= min(costs, default=math.inf) * (1 + 1e-9), seed


def _value(counts: Counts, objective: Objective) -> float:
    return {"energy": counts.energy_j, "latency": counts.cycles, "edp": counts.edp_js}[objective]


@pytest.mark.parametrize(
    ("op", "proven_uj", "zigzag_uj"),
    [
        (matmul(1024, 1024, 1024), 3150.342, 3669.177),  # its best, with lpf_limit 8
        (matmul(512, 512, 64, b=12), 789.342, 949.774),
        (matmul(512, 64, 512, b=12), 789.342, 928.776),
        (conv(m=64, c=64, p=56, q=56, r=3, s=3), 305.872, 336.953),  # its best, with three spatial mappings
    ],
    ids=["gemm", "qk", "av", "conv"],
)
def test_our_search_beats_its_results_with_a_proof(op: Op, proven_uj: float, zigzag_uj: float) -> None:
    result = map_op(op, "mapbench-16", "energy", counting="zigzag")
    assert result.exhausted
    assert round(result.counts.energy_j * 1e6, 3) == proven_uj < zigzag_uj


def test_an_unknown_rule_is_named() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'zigzag'"):
        map_op(matmul(4, 4, 4), "mapbench-16", counting="zigzg")  # type: ignore[arg-type]
