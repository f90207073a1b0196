"""Timeloop's YAML in and out."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import yaml

from presilicon.arch.hierarchy import load_hierarchy
from presilicon.errors import MappingError, PresiliconError
from presilicon.mapping.nest import (
    Constraints,
    conv,
    evaluate,
    map_op,
    mapping_from_timeloop,
    mapping_to_timeloop,
    matmul,
    problem,
)

from .random_nests import random_mapping, random_problem

GEMM = problem(matmul(64, 64, 64), load_hierarchy("mapbench-16"))
TEXT = """
mapping:
  - {target: dram, type: temporal, factors: M2 N1 K1, permutation: KNM}
  - {target: buffer, type: temporal, factors: "M=1, N=2, K=0", permutation: KNM}
  - {target: buffer, type: spatial, factors: M16 N16 K1, permutation: MNK, split: 1}
  - {target: register_file, type: temporal, factors: [M=2, N=2, K=4], permutation: [m, n, k]}
  - {target: register_file, type: datatype, keep: [Inputs, Outputs], bypass: [Weights]}
"""


def document(**change: Any) -> dict[str, Any]:
    """The text with entries of its second directive replaced."""
    found: dict[str, Any] = yaml.safe_load(TEXT)
    found["mapping"][1] |= change
    return found


def test_a_file_is_read_and_counted(tmp_path: Path) -> None:
    path = tmp_path / "map.yaml"
    path.write_text(TEXT)
    mapping, compiled = mapping_from_timeloop(path, GEMM)
    counts = evaluate(mapping, compiled)
    assert counts.instances["mac"] == 256
    assert compiled.tensors["W"].levels == (0, 1)  # it passes the register file by
    # Each MAC fetches its weight from the buffer, once for the 16 instances along m.
    assert counts.access("W", "buffer").reads == 64**3 // 16
    # I: 32 x 64 in the buffer, 2 such tiles, each element once.
    assert counts.access("I", "dram").reads == 64 * 64
    # O: 2 x 2 in each register file; k advances 16 times above it, innermost of the buffer's loops, so that it stays.
    assert counts.access("O", "buffer").writes == 64 * 64
    # k innermost at the register file: I (2 x 4) is fetched again for both n of the buffer.
    assert counts.access("I", "register_file").writes == 64 * 64 * 16 * 2


def test_the_proven_mapping_with_tiles_at_one_depth_goes_out_and_in() -> None:
    result = map_op(matmul(1024, 1024, 1024), "mapbench-16", "edp", Constraints(even=True))
    assert result.exhausted
    assert round(result.counts.energy_j * 1e6, 3) == 3706.506  # no worse than with tiles at any depth
    written = yaml.safe_load(yaml.safe_dump(mapping_to_timeloop(result.mapping, result.problem)))
    mapping, compiled = mapping_from_timeloop(written, result.problem)
    assert evaluate(mapping, compiled).accesses == result.counts.accesses


def test_random_nests_go_out_and_in_or_say_why_not() -> None:
    told = 0
    for seed in range(400):
        rng = random.Random(seed)
        prob = random_problem(rng, sizes=(1, 2, 3, 4), memories=rng.choice((1, 2)), roomy=True)
        nest = random_mapping(rng, prob)
        try:
            written = mapping_to_timeloop(nest, prob)
        except MappingError:
            with pytest.raises(MappingError, match="Timeloop"):
                mapping_to_timeloop(nest, prob)
            told += 1
            continue
        mapping, compiled = mapping_from_timeloop(written, prob)
        assert evaluate(mapping, compiled).accesses == evaluate(nest, prob).accesses, seed
    assert 50 < told < 350


@pytest.mark.slow
def test_even_tiles_search_equals_enumeration_of_what_timeloop_can_write() -> None:
    from .enumeration import mappings
    from .random_nests import tense_problem

    checked = 0
    for seed in range(400):
        prob = tense_problem(random.Random(seed))
        if any(t.sliding for t in prob.tensors.values()) or prob.points > 64 or prob.points < 6:
            continue
        best = None
        for number, nest in enumerate(mappings(prob)):
            if number > 1000:
                break
            try:
                counts = evaluate(nest, prob)
                mapping_to_timeloop(nest, prob)
            except MappingError:
                continue
            best = counts.energy_j if best is None else min(best, counts.energy_j)
        else:
            if best is not None:
                found = map_op(prob.op, prob.hierarchy, "energy", Constraints(even=True))
                assert found.counts.energy_j == pytest.approx(best, rel=1e-9), seed
                checked += 1
        if checked == 8:
            break
    assert checked == 8


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"typ": "temporal"}, r"mapping\.1: unknown key 'typ'; did you mean 'type'|unknown key 'typ'"),
        ({"type": "temporary"}, r"unknown type 'temporary'; did you mean 'temporal'"),
        ({"target": "bufer"}, r"unknown target 'bufer'; did you mean 'buffer'"),
        ({"factors": "M1 N2 X3"}, "unknown dimension 'X'"),
        ({"factors": "M1 N2 K"}, "such as M16 or M=16, found 'K'"),
        ({"factors": "M1 N2 N2 K0"}, "n is given twice"),
        ({"factors": "M1 N2 K7"}, r"the factors of k \(buffer 7, register_file 4\) multiply to 28, not 64"),
        ({"factors": "M1 N2 K3"}, "multiply to 12, not 64"),
        ({"permutation": "KKM"}, "a dimension is named twice"),
        ({"split": 1}, "unknown key 'split'"),
    ],
)
def test_bad_files_say_where(change: dict[str, Any], message: str) -> None:
    with pytest.raises(PresiliconError, match=message):
        mapping_from_timeloop(document(**change), GEMM)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, "expected a list of directives under 'mapping'"),
        ({"mapping": 3}, "expected a list of directives, found 3"),
        ({"mapping": ["dram"]}, "mapping.0: expected a directive"),
        ({"mapping": [{"target": "dram"}]}, "mapping.0.type: missing"),
        ({"mapping": [{"target": "dram", "type": "bypass", "bypass": ["Weights"]}]}, "dram backs every tensor"),
        ({"mapping": [{"target": "buffer", "type": "bypass", "keep": ["Wieghts"]}]}, "unknown tensor 'Wieghts'"),
    ],
)
def test_bad_documents_say_where(content: dict[str, Any], message: str) -> None:
    with pytest.raises(PresiliconError, match=message):
        mapping_from_timeloop(content, GEMM)


def test_what_timeloop_cannot_write_is_named() -> None:
    result = map_op(conv(m=2, c=2, p=4, q=4, r=3, s=3), "mapbench-16", "energy")
    with pytest.raises(MappingError, match="Timeloop"):
        mapping_to_timeloop(result.mapping, result.problem)
