"""ZigZag's counting: what zigzag-dse 3.9.1 found on mapbench-16, counted by our preset; our searches under it.

Recorded from ``get_hardware_performance_zigzag(..., opt="energy", lpf_limit=6, nb_spatial_mappings_generated=1)`` with memories of 8 bit
``bandwidth_min``; energies in pJ.
"""

from __future__ import annotations

import contextlib
import math
import random

import pytest

from presilicon.arch.hierarchy import load_hierarchy
from presilicon.errors import MappingError, UnknownNameError
from presilicon.mapping.nest import Counts, Keep, Loop, Mapping, Spatial, conv, evaluate, map_op, matmul
from presilicon.mapping.nest.search import search
from presilicon.mapping.nest.zigzag import LATCH, zigzag_problem
from presilicon.workloads.op import Op

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


def test_the_search_counts_as_the_preset_does() -> None:
    for seed in range(60):
        rng = random.Random(seed)
        op = random_op(rng, (1, 2, 3, 4))
        compiled = zigzag_problem(op, random_hierarchy(rng, memories=rng.choice((1, 2)), roomy=True))
        found = search(compiled, "energy")
        assert found.exhausted
        assert found.mapping is not None
        assert found.counts is not None
        nests = [random_mapping(rng, compiled) for _ in range(40)]
        costs = []
        for nest in nests:
            with contextlib.suppress(MappingError):  # more than one element in the latch
                costs.append(evaluate(nest, compiled).energy_j)
        assert found.counts.energy_j <= min(costs, default=math.inf) * (1 + 1e-9), seed


@pytest.mark.slow
@pytest.mark.parametrize(
    ("op", "micro_j"),
    [
        (matmul(1024, 1024, 1024), 3669.177),  # its best, with lpf_limit 8
        (matmul(512, 512, 64, b=12), 949.774),
        (conv(m=64, c=64, p=56, q=56, r=3, s=3), 336.953),  # its best, with three spatial mappings
    ],
    ids=["gemm", "qk", "conv"],
)
def test_our_search_beats_its_results_at_once(op: Op, micro_j: float) -> None:
    result = map_op(op, "mapbench-16", "energy", counting="zigzag", time_limit_s=10)
    assert result.counts.energy_j * 1e6 < micro_j


def test_an_unknown_rule_is_named() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'zigzag'"):
        map_op(matmul(4, 4, 4), "mapbench-16", counting="zigzg")  # type: ignore[arg-type]
