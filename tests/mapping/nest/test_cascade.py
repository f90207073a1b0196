"""Cascades: their text, fusion on the common problem, whole graphs, and bad input."""

from __future__ import annotations

import dataclasses
import signal
import time
from itertools import pairwise

import pytest

from presilicon.arch.hierarchy import Fanout, Hierarchy, load_hierarchy
from presilicon.errors import MappingError, UnknownNameError
from presilicon.mapping.nest import Keep, Loop, cascade_from_graph, cascade_from_text, map_cascade, map_graph, map_op, matmul
from presilicon.mapping.nest.cascade_picture import turns
from presilicon.mapping.nest.fused import CascadeMapping, FusedNest, Held, evaluate_cascade
from presilicon.mapping.nest.result import StoppedBeforeError
from presilicon.workloads.graph import OpGraph
from presilicon.workloads.op import Op

from .resnet import resnet50

ATTENTION = "S[h,m,p] = Q[h,m,e] K[h,p,e]; A[h,m,f] = S[h,m,p] V[h,p,f]; h={h} m={m} p={m} e={e} f={e} int8"


def small() -> Hierarchy:
    """mapbench-16 with four PEs."""
    spec = load_hierarchy("mapbench-16")
    fanout = next(level for level in spec.levels if isinstance(level, Fanout))
    fewer = dataclasses.replace(fanout, axes={"x": 2, "y": 2})
    return dataclasses.replace(spec, levels=tuple(fewer if level is fanout else level for level in spec.levels))


@pytest.mark.slow
def test_attention_of_the_common_problem_is_proven_fused_and_not() -> None:
    text = ATTENTION.format(h=12, m=512, e=64)
    apart = map_cascade(text, "mapbench-16", "edp", fuse=False)
    fused = map_cascade(text, "mapbench-16", "edp")
    assert apart.exhausted
    assert fused.exhausted
    assert round(apart.counts.energy_j * 1e6, 3) == 1748.317  # 853.515 and 894.802, each proven by itself
    assert round(fused.counts.energy_j * 1e6, 3) == 1307.915
    assert apart.counts.cycles == fused.counts.cycles == 1_572_864
    # What fusion saves of DRAM traffic is the 3 MiB of scores, written once and read once.
    assert apart.counts.moved_bytes("dram") - fused.counts.moved_bytes("dram") == 2 * 12 * 512 * 512
    assert fused.fused == ("S",)


def test_what_is_fused_never_reaches_the_first_memory() -> None:
    result = map_cascade(ATTENTION.format(h=2, m=16, e=8), small(), "energy")
    assert result.fused == ("S",)
    assert not [a for counts in result.counts.by_op for a in counts.accesses if a.tensor == "S" and a.level == "dram"]
    assert [result.counts.passes(i, t, "dram") for i, t in ((0, "Q"), (0, "K"), (1, "V"), (1, "A"))] == [1, 1, 1, 1]
    text = str(result)
    for part in ("never further out", "passes", "proven optimal", "never written to dram: S", "during S"):
        assert part in text
    assert result.estimate.total_energy_j == pytest.approx(result.counts.energy_j)
    assert "<pre>" in result._repr_html_()


def test_one_pass_softmax_keeps_its_running_maximum_and_sum() -> None:
    text = "S[m,p] = Q[m,e] K[p,e]; P[m,p], X[m], D[m] = softmax(S[m,p]); A[m,f] = P[m,p] V[p,f]; m=8 p=8 e=4 f=4 int8"
    result = map_cascade(text, small(), "energy")
    assert result.exhausted
    assert set(result.fused) == {"S", "P"}
    macs = 8 * 8 * (4 + 9 + 4)  # compare, subtract and add, and an exponential of 6
    assert result.counts.energy_by["mac"] == pytest.approx(macs * 0.3e-12)


def test_no_room_no_fusion() -> None:
    spec = small()
    levels = tuple(dataclasses.replace(x, keeps=("weight",)) if x.name == "buffer" else x for x in spec.levels)
    result = map_cascade(ATTENTION.format(h=1, m=8, e=4), dataclasses.replace(spec, levels=levels), "energy")
    assert result.fused == ()
    assert "nothing is fused" in str(result)


def test_ops_of_a_graph_become_a_cascade() -> None:
    first = dataclasses.replace(matmul(8, 16, 8), name="up")
    second = dataclasses.replace(matmul(8, 8, 16), name="down")
    graph = OpGraph("mlp", [first, second], [("up", "down", "I")])
    result = map_cascade(cascade_from_graph(graph, ["up", "down"]), small(), "energy")
    assert result.fused == ("up.O",)
    apart = sum(map_op(op, small(), "energy").counts.energy_j for op in (first, second))
    assert result.counts.energy_j < apart
    with pytest.raises(UnknownNameError, match="did you mean 'down'"):
        cascade_from_graph(graph, ["up", "dwn"])
    loose = OpGraph("loose", [first, second])
    with pytest.raises(MappingError, match="down reads nothing directly from up"):
        cascade_from_graph(loose, ["up", "down"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected einsums such as"),
        ("S[m] = ; m=4", "expected OUT"),
        ("S[m,p] = Q[m,e] K[p,e]; m=4 p=4", "give the size of e"),
        ("S[m] = soft(Q[m]); m=4", "unknown function 'soft'"),
        ("S[m] = exp(Q[m]); m=0", "expected a whole number of 1 or more, found '0'"),
        ("S[m] = exp(Q[m]); m=4 n=3", "unknown dimension 'n'"),
        ("S[m] = exp(Q[m]); m=4 int9", "unknown number format 'int9'"),
        ("S[m] = exp(Q[m]); m=4 m=5", "m is given twice"),
        ("S[m] = exp(Q[m-1]); m=4", "expected a dimension, or a sum"),
        ("S[m] = exp(Q[m]); S[m] = exp(R[m]); m=4", "S is written twice"),
        ("S[m] = exp(Q[m]); Q[m] = exp(R[m]); m=4", "Q of op 'S' is written only later"),
        ("S[m] = add(S[m], R[m]); m=4", "read and written by the same op"),
        ("S[m] = exp(Q[m]); R[m,n] = exp(S[m,n]); m=4 n=2", "S of op 'R' has 2 axes; elsewhere it has 1"),
        ("S[m] = Q[m] +; m=4", "cannot read"),
    ],
)
def test_bad_texts_say_where(text: str, message: str) -> None:
    with pytest.raises((MappingError, UnknownNameError), match=message):
        cascade_from_text(text)


def test_an_operation_that_the_array_lacks_is_named() -> None:
    spec = dataclasses.replace(load_hierarchy("mapbench-16"), op_macs={})
    with pytest.raises(MappingError, match=r"mac\.ops of mapbench-16 does not name exp"):
        map_cascade("S[m] = exp(Q[m]); m=4", spec)


CASCADE = cascade_from_text("S[m,p] = Q[m,e] K[p,e]; A[m,f] = S[m,p] V[p,f]; m=4 p=4 e=2 f=2")


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ((FusedNest((0,), "", (), ((),)),), "expected every op once, in order"),
        ((FusedNest((0, 1), "", (), ((), ())),), "a group has a memory for its intermediates"),
        ((FusedNest((0, 1), "cache", (), ((), ())),), "unknown memory 'cache'"),
        ((FusedNest((0, 1), "buffer", (Loop("e", 2),), ((), ())),), "a shared loop runs over e; dimensions that may be shared: m, p"),
        ((FusedNest((0, 1), "buffer", (Held(3, Keep("Q", "buffer")),), ((), ())),), "belongs to op 3, which is not in the group"),
    ],
)
def test_bad_fused_nests_say_where(groups: tuple[FusedNest, ...], message: str) -> None:
    with pytest.raises((MappingError, UnknownNameError), match=message):
        evaluate_cascade(CascadeMapping(groups), CASCADE, load_hierarchy("mapbench-16"))


def test_time_limit_leaves_a_bound_that_holds() -> None:
    text = ATTENTION.format(h=2, m=32, e=8)
    optimum = map_cascade(text, small(), "energy")
    try:
        result = map_cascade(text, small(), "energy", time_limit_s=0.3)
    except StoppedBeforeError:
        return
    assert result.bound <= optimum.value * (1 + 1e-9)
    assert result.value >= optimum.value * (1 - 1e-9)


@pytest.mark.slow
def test_all_layers_of_resnet_50_repeated_shapes_once() -> None:
    seen = []
    found = map_graph(resnet50(), "mapbench-16", "edp", progress=lambda done, total, name: seen.append((done, total, name)))
    assert found.exhausted
    assert sum(len(shape.ops) for shape in found.mapped) == 54
    assert len(seen) == len(found.shapes) == 24
    assert found.estimate.flops == pytest.approx(sum(op.flops for op in resnet50()))


def test_a_graph_lists_what_it_cannot_map_and_stops_at_an_interrupt(monkeypatch: pytest.MonkeyPatch) -> None:
    relu = Op("relu", "elementwise", "t", {"m": 8}, cascade_from_text("Y[m] = exp(X[m]); m=8").ops[0].operands, {"tanh": 1.0})
    ops = [dataclasses.replace(matmul(m, 8, 8), name=f"fc{m}") for m in (16, 16, 32)][1:]
    graph = OpGraph("net", [*ops, relu])
    found = map_graph(graph, "mapbench-16", "energy")
    assert [shape.ops for shape in found.shapes if shape.result is None] == [("relu",)]
    assert "tanh" in found.shapes[-1].reason

    from presilicon.mapping.nest.search import _Search

    def interrupted(self: _Search, group: object, *, narrow: bool) -> None:
        signal.raise_signal(signal.SIGINT)
        time.sleep(0.1)

    monkeypatch.setattr(_Search, "_solve", interrupted)
    stopped = map_graph(graph, "mapbench-16", "energy")
    assert not stopped.exhausted


@pytest.mark.slow
def test_a_picture_shows_the_turns_of_the_ops() -> None:
    result = map_cascade("S[m,p] = Q[m,e] K[p,e]; A[m,f] = S[m,p] V[p,f]; m=64 p=64 e=16 f=16 int8", "mapbench-16", "energy")
    assert result.fused == ("S",)
    for memory in result.hierarchy.memories[1:]:
        shown = turns(result, memory.name, shown=10**6)
        assert shown[-1].stop == pytest.approx(result.counts.cycles)
        assert max(t.kept + t.tiles for t in shown) == max(result.counts.occupancy_bytes[memory.name])
        assert all(a.stop == b.start for a, b in pairwise(shown))
    assert {t.kept > 0 for t in turns(result, "buffer")} == {True}  # S is there from its writer to its reader
    assert {t.kept for t in turns(result, "register_file")} == {0.0}
    pytest.importorskip("matplotlib")
    titles = [axes.get_title() for axes in result.picture().axes]
    assert titles == ["S -> A on mapbench-16", "buffer, one instance", "register_file, one instance"]
