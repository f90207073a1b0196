"""Latency with the first fill and the last drain, against cases computed by hand."""

from __future__ import annotations

import dataclasses

import pytest
import yaml

from presilicon.arch.hierarchy import FOLDER, Fanout, Hierarchy, Memory, hierarchy_from_document, load_hierarchy
from presilicon.errors import MappingError, UnknownNameError
from presilicon.mapping.nest import Keep, Loop, Mapping, Spatial, evaluate, map_cascade, map_graph, map_op, matmul, pareto, problem
from presilicon.workloads.graph import OpGraph

KEEPS = tuple(Keep(t, "regs") for t in "IWO")


def two(buffers: int, **rates: float) -> Hierarchy:
    """DRAM of 2 B/clk over registers without a port of their own."""
    rates = rates or {"bandwidth_bytes_per_clk": 2.0}
    memories = (Memory("dram", None, 1.0, 1.0, **rates), Memory("regs", 128.0, 1.0, 1.0, buffers=buffers))  # type: ignore[arg-type]
    return Hierarchy("two", memories, 1.0, 1e9, latency="fill-drain")


# Four tiles along m of 2 x 4 x 8 points: 64 MACs; each fetches 16 B of I and drains 8 B of O; W, 32 B, is fetched once.
NEST = Mapping((Loop("m", 4), *KEEPS, Loop("m", 2), Loop("n", 4), Loop("k", 8)))
OP = matmul(8, 4, 8)


def test_two_buffers_overlap_all_but_the_first_fill_and_the_last_drain() -> None:
    counts = evaluate(NEST, problem(OP, two(2)))
    # Transfers: (64 + 32 + 32) B at 2 B/clk = 64 cycles, behind 256 of MACs. First tiles: 16 + 32 B in 24 cycles; last: 8 B in 4.
    assert counts.phases == {"fill": 24.0, "steady": 256.0, "drain": 4.0}
    assert counts.cycles == 284
    assert counts.utilisation == pytest.approx(256 / 284)


def test_one_buffer_computes_and_transfers_in_turn() -> None:
    counts = evaluate(NEST, problem(OP, two(1)))
    assert counts.phases == {"fill": 0.0, "steady": 256.0 + 64.0, "drain": 0.0}


def test_separate_ports_fill_and_drain_at_once() -> None:
    counts = evaluate(NEST, problem(OP, two(1, read_bytes_per_clk=2.0, write_bytes_per_clk=1.0)))
    assert counts.cycles == 256 + max(96 / 2, 32 / 1)


def test_transfers_that_are_slower_than_the_macs_are_the_steady_phase() -> None:
    counts = evaluate(NEST, problem(OP, two(2, bandwidth_bytes_per_clk=0.25)))
    assert counts.phases == {"fill": 192.0, "steady": 512.0, "drain": 32.0}


def test_an_array_is_filled_by_multicast_and_drained_by_addition() -> None:
    levels = (
        Memory("dram", None, bandwidth_bytes_per_clk=1.0),
        Fanout("pe", {"x": 4}),
        Memory("regs", 64.0, write_bytes_per_clk=0.5, read_bytes_per_clk=4.0, buffers=2),
    )
    spec = Hierarchy("array", levels, 1.0, 1e9, latency="fill-drain")
    nest = Mapping((Spatial("m", 4, "pe", "x"), *KEEPS, Loop("k", 8)))
    counts = evaluate(nest, problem(matmul(4, 1, 8), spec))
    # Each PE takes 8 B of I and 8 B of W at 0.5 B/clk (32 cycles); dram sends 4 x 8 B of I and 8 B of W once (40). O: 4 B to dram.
    assert counts.phases["fill"] == 40
    assert counts.phases["drain"] == 4
    # Slowest is the registers' write port: 16 B filled and 8 partial sums of the MAC at 0.5 B/clk; dram moves 44 B.
    assert counts.phases["steady"] == 48


def test_the_default_is_unchanged_and_no_latency_is_shorter_than_the_overlapped_one() -> None:
    spec = load_hierarchy("mapbench-16")
    assert spec.latency == "overlapped"
    plain = map_op(matmul(64, 64, 64), spec, "edp")
    assert not plain.counts.phases
    full = map_op(matmul(64, 64, 64), spec, "edp", latency="fill-drain")
    assert full.mapping == plain.mapping
    assert full.counts.cycles > plain.counts.cycles
    assert full.bound == pytest.approx(plain.value)
    assert (full.exhausted, full.gap) == (False, pytest.approx(1 - plain.counts.cycles / full.counts.cycles))
    assert "searched for the overlapped latency, fill and drain counted afterwards" in str(full)
    assert map_op(matmul(64, 64, 64), spec, "energy", latency="fill-drain").exhausted


def test_a_graph_is_not_taken_for_stopped() -> None:
    spec = dataclasses.replace(load_hierarchy("mapbench-16"), latency="fill-drain")
    graph = OpGraph("two", [dataclasses.replace(matmul(m, 16, 16), name=f"fc{m}") for m in (16, 32)])
    assert len(map_graph(graph, spec, "edp").mapped) == 2


def test_what_counts_no_phases_says_so() -> None:
    spec = dataclasses.replace(load_hierarchy("mapbench-16"), latency="fill-drain")
    with pytest.raises(MappingError, match="overlapped latencies"):
        pareto(matmul(16, 16, 16), spec)
    with pytest.raises(MappingError, match="fill and drain are counted for single ops"):
        map_cascade("S[m,p] = Q[m,e] K[p,e]; A[m,f] = S[m,p] V[p,f]; m=8 p=8 e=4 f=4", spec)
    with pytest.raises(MappingError, match="by accelforge's rule"):
        map_op(matmul(16, 16, 16), spec, counting="zigzag")


def test_the_file_says_which_latency() -> None:
    document = yaml.safe_load((FOLDER / "mapbench-16.yaml").read_text())
    assert hierarchy_from_document(document | {"latency": "fill-drain"}).latency == "fill-drain"
    with pytest.raises(UnknownNameError, match="unknown latency 'fill'"):
        hierarchy_from_document(document | {"latency": "fill"})
