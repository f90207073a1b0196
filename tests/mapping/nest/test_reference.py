"""The mapping of 3706.506 uJ that AccelForge 1.0.467 prints for its EDP search, evaluated: every byte and every digit."""

from __future__ import annotations

import pytest

from presilicon.arch.hierarchy import load_hierarchy
from presilicon.mapping.nest import Counts, Keep, Loop, Mapping, Spatial, evaluate, problem
from presilicon.workloads.op import Op, tensor

REFERENCE = Mapping(
    (
        Loop("m", 2),
        Loop("n", 2),
        Keep("O", "buffer"),
        Loop("k", 4),
        Keep("I", "buffer"),
        Loop("n", 8),
        Keep("W", "buffer"),
        Loop("m", 4),
        Spatial("n", 16, "pe_array", "x"),
        Spatial("m", 16, "pe_array", "y"),
        Keep("O", "register_file"),
        Loop("k", 256),
        Keep("I", "register_file"),
        Loop("n", 4),
        Keep("W", "register_file"),
        Loop("m", 8),
    )
)

#: Bytes read and written.
BYTES = {
    ("I", "register_file"): (1_073_741_824, 268_435_456),
    ("W", "register_file"): (1_073_741_824, 134_217_728),
    ("O", "register_file"): (1_076_887_552, 1_076_887_552),
    ("I", "buffer"): (16_777_216, 2_097_152),
    ("W", "buffer"): (8_388_608, 2_097_152),
    ("O", "buffer"): (4_194_304, 4_194_304),
    ("I", "dram"): (2 * 2**20, 0),
    ("W", "dram"): (2 * 2**20, 0),
    ("O", "dram"): (0, 2**20),
}


def gemm(m: int = 1024, n: int = 1024, k: int = 1024) -> Op:
    """An int8 product, partial sums included."""
    operands = (tensor("I", "input", "m k", "int8"), tensor("W", "weight", "k n", "int8"), tensor("O", "output", "m n", "int8"))
    return Op("gemm", "matmul", "aten.mm.default", {"m": m, "n": n, "k": k}, operands, {"mac": 1.0})


@pytest.fixture(scope="module")
def counts() -> Counts:
    return evaluate(REFERENCE, problem(gemm(), load_hierarchy("mapbench-16")))


@pytest.mark.parametrize(("tensor_name", "level"), BYTES)
def test_bytes_of_every_tensor_and_level(counts: Counts, tensor_name: str, level: str) -> None:
    access = counts.access(tensor_name, level)
    assert (access.read_bytes, access.written_bytes) == BYTES[tensor_name, level]


@pytest.mark.parametrize(("part", "micro_j"), [("register_file", 2822.347), ("buffer", 226.492), ("dram", 335.544), ("mac", 322.123)])
def test_energy_of_every_component(counts: Counts, part: str, micro_j: float) -> None:
    assert round(counts.energy_by[part] * 1e6, 3) == micro_j


def test_totals(counts: Counts) -> None:
    assert round(counts.energy_j * 1e6, 3) == 3706.506
    assert counts.cycles == 4_194_304
    assert f"{counts.edp_js:.5e}" == "1.55462e-05"
    assert (counts.limiter, counts.utilisation) == ("mac", 1.0)


def test_occupancy(counts: Counts) -> None:
    assert round(counts.occupancy_bytes["buffer"] / 2**19, 2) == 0.78
    assert round(counts.occupancy_bytes["register_file"] / 64, 2) == 0.64


def test_the_mapping_of_its_energy_search() -> None:
    """3738.383 uJ: the output never re-read, W read from DRAM four times, I once."""
    mapping = Mapping(
        (
            Loop("m", 4),
            Keep("I", "buffer"),
            Loop("n", 16),
            Keep("O", "buffer"),
            Keep("W", "buffer"),
            Loop("m", 2),
            Spatial("n", 16, "pe_array", "x"),
            Spatial("m", 16, "pe_array", "y"),
            Keep("O", "register_file"),
            Loop("k", 1024),
            Keep("I", "register_file"),
            Loop("n", 4),
            Keep("W", "register_file"),
            Loop("m", 8),
        )
    )
    counts = evaluate(mapping, problem(gemm(), load_hierarchy("mapbench-16")))
    parts = {name: round(joules * 1e6, 3) for name, joules in counts.energy_by.items()}
    assert parts == {"dram": 402.653, "buffer": 195.035, "register_file": 2818.572, "mac": 322.123}
    assert round(counts.energy_j * 1e6, 3) == 3738.383
    assert counts.access("W", "dram").read_bytes == 4 * counts.access("I", "dram").read_bytes
