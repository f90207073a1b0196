"""The faster engine for products that fill an array badly, arrays of a core side by side, and groups in another order."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from presilicon.arch import load
from presilicon.arch.npu import NpuSystem
from presilicon.mapping.nest import Keep, Loop, evaluate
from presilicon.mapping.nest import Mapping as Nest
from presilicon.mapping.npu import compile as compiling
from presilicon.mapping.npu import group
from presilicon.mapping.npu.compile import compile_graph
from presilicon.mapping.npu.engine import groups_at_once, joined
from presilicon.mapping.npu.matrix import _sunk, plan
from presilicon.mapping.npu.pipeline import pipeline_s
from presilicon.mapping.npu.product import from_layer, spread
from presilicon.mapping.systolic_layer import conv, gemm
from presilicon.sim.npu.run import simulate_npu
from presilicon.workloads.formats import by_name
from presilicon.workloads.graph import OpGraph
from presilicon.workloads.op import Op, Operand, tensor


def npu(name: str) -> NpuSystem:
    system = load(name)
    assert isinstance(system, NpuSystem)
    return system


def depthwise(channels: int, size: int, fmt: str = "int8", groups: int | None = None) -> Op:
    """A 3 x 3 convolution of so many groups; depthwise by default."""
    kind, groups = by_name(fmt), groups or channels
    wide = channels // groups
    dims = {"b": 1, "g": groups, "m": wide, "c": wide, "p": size, "q": size, "r": 3, "s": 3}
    image = ((("b", 1),), (("g", wide), ("c", 1)), (("p", 1), ("r", 1)), (("q", 1), ("s", 1)))
    operands = (
        Operand("a", "input", image, kind, channels * size * size),
        Operand("w", "weight", ((("g", wide), ("m", 1)), (("c", 1),), (("r", 1),), (("s", 1),)), kind),
        Operand("out", "output", ((("b", 1),), (("g", wide), ("m", 1)), (("p", 1),), (("q", 1),)), kind),
    )
    attributes = {"stride": [1, 1], "padding": [1, 1], "dilation": [1, 1], "groups": groups, "transposed": False}
    return Op("dw", "conv", "aten.conv2d.default", dims, operands, {"mac": 1.0}, attributes)


def test_the_vector_engine_runs_what_it_is_faster_at() -> None:
    """TPU v4i: 1,024 lanes do a product and a sum a cycle, four arrays 14 channels of nine taps each."""
    system = npu("tpu-v4i")
    (compiled,) = compile_graph(OpGraph("g", [depthwise(192, 28, "bf16")]), system)
    assert compiled.family == "npu.vector"
    assert "on the vector engine in" in compiled.how
    macs = 192 * 28 * 28 * 9
    assert compiled.segments[0].busy_s["vector"] == pytest.approx(macs / 1024 / system.clock_hz)
    slow = system.override({"vector.lanes": 64})
    (compiled,) = compile_graph(OpGraph("g", [depthwise(192, 28, "bf16")]), slow)
    assert compiled.family == "npu.conv"
    assert "14 groups at once" in compiled.how


@pytest.mark.parametrize("name", ["tpu-v1", "tpu-v4i", "ascend-910", "gemmini-16", "eyeriss"])
def test_the_choice_is_never_slower_than_group_by_group(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    system = npu(name)
    fmt = {"tpu-v4i": "bf16", "ascend-910": "fp16", "eyeriss": "int16"}.get(name, "int8")
    graph = OpGraph("g", [depthwise(96, 28, fmt)])
    (chosen,) = compile_graph(graph, system)
    monkeypatch.setattr(compiling, "groups_at_once", lambda *_: 1)
    monkeypatch.setattr(compiling, "on_vector", lambda *_: None)
    (plain,) = compile_graph(graph, system)
    times = [sum(pipeline_s(s, system) for s in c.segments) for c in (chosen, plain)]
    assert times[0] <= times[1]
    assert times[0] >= graph["dw"].flops / max(system.peaks_flops_per_s.values())
    assert bool(chosen.how) == (times[0] < times[1])
    if name != "ascend-910":  # its cube is small: loads decide
        packs = name in ("tpu-v1", "tpu-v4i")
        assert bool(chosen.how) == packs, "Gemmini's 16 rows hold one 3 x 3 window, and Eyeriss's columns take groups as they are"


def test_block_diagonal_weights_count_their_zeros() -> None:
    shape = from_layer(conv("dw", 28, 28, 3, 3, 100, 100, padding=(1, 1), groups=100), ("int8",) * 3)
    system = npu("tpu-v1")
    groups = groups_at_once(shape, system)
    assert groups == math.ceil(100 / math.ceil(100 / (256 // 9))) == 25
    wide = joined(shape, groups)
    dims = dict(wide.dims)
    assert (dims["g"], dims["n"], dims["k"]) == (4, 25, 25)
    assert wide.macs == shape.macs * groups
    one, many = shape.op(), wide.op()
    for name, factor in (("I", 1), ("O", 1), ("W", groups)):
        sizes = [next(op.elements(o) for o in op.operands if o.name == name) for op in (one, many)]
        assert sizes[1] == factor * sizes[0], name
    assert joined(shape, 100).of_class("g") == []
    assert groups_at_once(from_layer(gemm("mm", 8, 8, 8, batch=4), ("int8",) * 3), system) == 4


def test_grouped_convolutions_that_fill_the_array_stay_as_they_are() -> None:
    shape = from_layer(conv("g", 28, 28, 3, 3, 512, 512, padding=(1, 1), groups=2), ("int8",) * 3)
    assert groups_at_once(shape, npu("tpu-v1")) == 1
    assert groups_at_once(shape, npu("eyeriss")) == 1


def test_the_report_says_which_engine() -> None:
    found = simulate_npu(OpGraph("g", [depthwise(96, 28, "bf16")]), npu("tpu-v4i"))
    (result,) = found.results
    assert result.family == "npu.vector"
    assert "as the array would take" in result.reason
    assert result.estimate.busy_s["vector"] > 0
    found = simulate_npu(OpGraph("g", [depthwise(96, 28, "int8")]), npu("tpu-v1"))
    assert "24 groups at once, as block-diagonal weights" in found.results[0].reason


def test_a_residual_sum_goes_along_to_the_vector_engine() -> None:
    """Work on the results is done in the same pass: the sum's other operand is read, and the result written once."""
    system, size = npu("tpu-v4i"), 192 * 28 * 28
    operands = (*(tensor(f"x{i}", "input", "n", "bf16") for i in (0, 1)), tensor("out", "output", "n", "bf16"))
    add = Op("add", "elementwise", "aten.add.Tensor", {"n": size}, operands, {"add": 1.0})
    (compiled,) = compile_graph(OpGraph("g", [depthwise(192, 28, "bf16"), add], [("dw", "add", "x0")]), system)
    assert compiled.family == "npu.vector"
    assert compiled.segments[0].moved("dram") == pytest.approx(2 * (3 * size + 192 * 9))
    assert compiled.segments[0].busy_s["vector"] == pytest.approx((size * 9 / 1024 + size / 2048) / system.clock_hz)


@pytest.mark.parametrize(("m", "n", "k"), [(64, 4096, 4096), (128, 4096, 4096), (128, 8192, 1024)])
def test_arrays_of_a_core_share_filters_where_pixels_are_few(m: int, n: int, k: int) -> None:
    """Four arrays that took a quarter of the 128 rows each would shift in all weights each, in 128 cycles a fold."""
    system = npu("tpu-v4i")
    shape = from_layer(gemm("mm", m, n, k), ("bf16",) * 3)
    assert spread(shape, system).spatial["engines"] == {"n": 4}
    folds = n * k / 128**2 / 4
    operands = (tensor("a", "input", "m k", "bf16"), tensor("w", "weight", "k n", "bf16"), tensor("out", "output", "m n", "bf16"))
    op = Op("mm", "matmul", "mm", {"m": m, "n": n, "k": k}, operands, {"mac": 1.0})
    (compiled,) = compile_graph(OpGraph("g", [op]), system)
    assert compiled.plans[0].matrix_clk == folds * max(m, 128)


def branchy(width: int, fmt: str = "bf16") -> OpGraph:
    """Three branches that widen and narrow again, written side by side in the program: every wide tensor is made before one is read."""
    rows, narrow = 2048, 256

    def mm(name: str, n: int, k: int) -> Op:
        operands = (tensor("a", "input", "m k", fmt), tensor("w", "weight", "k n", fmt), tensor("out", "output", "m n", fmt))
        return Op(name, "matmul", "aten.linear.default", {"m": rows, "n": n, "k": k}, operands, {"mac": 1.0})

    names = ("a", "b", "c")
    parts = (Operand(f"x{i}", "input", ((("n", 1),),), by_name(fmt), rows * narrow) for i in range(3))
    cat = Op("cat", "copy", "aten.cat.default", {"n": 3 * rows * narrow}, (*parts, tensor("out", "output", "n", fmt)), {})
    ops = [mm("stem", narrow, narrow), *(mm(f"{x}1", width, narrow) for x in names), *(mm(f"{x}2", narrow, width) for x in names), cat]
    edges = [("stem", f"{x}1", "a") for x in names] + [(f"{x}1", f"{x}2", "a") for x in names]
    return OpGraph("branchy", ops, [*edges, *((f"{x}2", "cat", f"x{i}") for i, x in enumerate(names))])


def test_branches_run_one_after_the_other_where_their_tensors_do_not_fit_side_by_side(monkeypatch: pytest.MonkeyPatch) -> None:
    system = npu("tpu-v4i").override({"memories.cmem.size": "32 MiB"})
    graph = branchy(2048)
    found, scheduled = simulate_npu(graph, system), group.schedule(graph, system)
    assert any("in the program's order" in note for note in found.notes)
    assert [r.op.name for r in found.results] == [op.name for op in graph], "the report keeps the program's order"
    monkeypatch.setattr(group, "best_order", lambda *_: None)
    program = simulate_npu(graph, system)
    assert scheduled.retained is not None
    assert scheduled.program_bytes is not None
    saved = scheduled.program_bytes - scheduled.retained.moved_bytes
    assert saved >= 2 * 2048 * 2048 * 2, "a wide tensor is neither written nor read"
    assert program.total.bytes_moved["dram"] - found.total.bytes_moved["dram"] == pytest.approx(saved)
    assert found.time_s < program.time_s


def test_order_stays_where_everything_fits() -> None:
    scheduled = group.schedule(branchy(512), npu("tpu-v4i"))
    assert scheduled.program_bytes is None
    assert [g.lead.name for g in scheduled.groups] == [op.name for op in branchy(512)]


def test_ops_that_touch_a_cache_keep_their_order() -> None:
    """Two branches as above, that write to and read from one cache without an edge between them."""
    graph = branchy(2048)
    cached = []
    for op in graph:
        extra = (Operand("cache", "cache", ((("m", 1),), (("n", 1),)), by_name("bf16"), 16),) if op.name in ("b1", "a2", "c1") else ()
        cached.append(Op(op.name, op.kind, op.target, dict(op.dims), (*op.operands, *extra), dict(op.body)))
    system = npu("tpu-v4i").override({"memories.cmem.size": "32 MiB"})
    edges = [(u, v, d["tensor"]) for u, v, d in graph.nx.edges(data=True)]
    order = [g.lead.name for g in group.schedule(OpGraph("cached", cached, edges), system).groups]
    assert [name for name in order if name in ("b1", "c1", "a2")] == ["b1", "c1", "a2"]


def padded(readers: int = 1, target: str = "aten.pad.default") -> OpGraph:
    """A padding behind a view and before so many convolutions, as traces of models that pad by themselves have it."""

    def copy(name: str, kind: str, of: int, to: int, target: str) -> Op:
        operands = (tensor("x0", "input", "n", "int8"), tensor("out", "output", "n", "int8"))
        given = Operand("x0", "input", operands[0].projection, operands[0].number_format, of)
        return Op(name, kind, target, {"n": to}, (given, operands[1]), {})

    size, wide = 64 * 26 * 26, 64 * 28 * 28
    o = depthwise(64, 28, groups=1)
    convolutions = [Op(f"conv{i}", o.kind, o.target, dict(o.dims), o.operands, dict(o.body), dict(o.attributes)) for i in range(readers)]
    first = Op("relu", "elementwise", "aten.relu.default", {"n": size}, copy("", "copy", size, size, "").operands, {"cmp": 1.0})
    ops = [first, copy("view", "view", size, size, "aten.view.default"), copy("pad", "copy", size, wide, target), *convolutions]
    edges = [("relu", "view", "x0"), ("view", "pad", "x0"), *(("pad", o.name, "a") for o in convolutions)]
    return OpGraph("padded", ops, edges)


@pytest.mark.parametrize("target", ["aten.pad.default", "aten.constant_pad_nd.default"])
@pytest.mark.parametrize("name", ["tpu-v1", "ascend-910", "eyeriss"])
def test_paddings_go_into_the_convolution_that_reads_them(name: str, target: str) -> None:
    system, graph = npu(name), padded(target=target)
    scheduled = group.schedule(graph, system)
    assert [[op.name for op in g.ops] for g in scheduled.groups] == [["relu"], ["conv0", "pad"]]
    assert scheduled.producer["conv0", "a"] == "relu"
    found = {r.op.name: r for r in simulate_npu(graph, system).results}
    assert found["pad"].reason == "folded into conv0"
    assert found["pad"].estimate.time_s == 0
    assert not found["pad"].estimate.energy_j


def test_other_copies_and_paddings_that_several_read_stay() -> None:
    for graph in (padded(readers=2), padded(target="aten.cat.default")):
        scheduled = group.schedule(graph, npu("tpu-v1"))
        assert [g.lead.name for g in scheduled.groups][:2] in (["relu", "pad"], ["relu", "conv0"])
        assert not any("pad" in g.folded for g in scheduled.groups)


def test_equally_good_nests_with_finer_tiles_let_results_leave_sooner() -> None:
    """A layer of TPU v1's MLP1: its whole output in the accumulators is as good a nest as a tile at a time, but is stored at the end."""
    system = npu("tpu-v1")
    shape = from_layer(gemm("mm", 168, 1120, 1120), ("int8",) * 3)
    found = plan(shape, system, "int8", frozenset({"I", "O"}))
    finest = found.finer or found
    tile = next(i for i, node in enumerate(finest.result.mapping.nodes) if isinstance(node, Keep) and node.level == "accumulators")
    assert not any(isinstance(node, Loop) and node.dim == "n" and node.factor > 1 for node in finest.result.mapping.nodes[tile:])
    assert finest.result.counts.latency_s <= found.result.counts.latency_s * (1 + 1e-12)
    assert finest.result.counts.energy_j <= found.result.counts.energy_j * (1 + 1e-12)
    for level in ("dram", "unified_buffer", "accumulators"):
        assert finest.traffic.bytes_read(level) == pytest.approx(found.traffic.bytes_read(level), rel=1e-12)
    whole = Nest(tuple(n for n in finest.result.mapping.nodes if not (isinstance(n, Keep) and n.level == "accumulators")))
    first = next(i for i, n in enumerate(whole.nodes) if isinstance(n, Loop))
    coarse = Nest((*whole.nodes[:first], Keep("O", "accumulators"), *whole.nodes[first:]))
    given = replace(finest.result, mapping=coarse, counts=evaluate(coarse, finest.result.problem))
    sunk = _sunk(given, "accumulators", frozenset())
    assert sunk is not None
    assert sunk.mapping == finest.result.mapping
    assert _sunk(given, "accumulators", frozenset({"O"})) is None, "what is pinned stays"
    assert _sunk(sunk, "accumulators", frozenset()) is None


@pytest.mark.parametrize("name", ["tpu-v4i", "ascend-910"])
def test_a_cache_comes_from_the_dram_though_its_last_row_was_made_just_now(name: str) -> None:
    """Traces lead an edge from the op that writes one row of a cache to those that read all of it."""
    new = (tensor("x0", "input", "n", "bf16"), tensor("out", "output", "n", "bf16"))
    write = Op("write", "copy", "aten.index_copy.default", {"n": 128}, new, {})
    read = (tensor("a", "input", "m k", "bf16"), tensor("w", "cache", "k n", "bf16"), tensor("out", "output", "m n", "bf16"))
    scores = Op("scores", "matmul", "aten.matmul.default", {"m": 1, "n": 4096, "k": 128}, read, {"mac": 1.0})
    graph = OpGraph("step", [write, scores], [("write", "scores", "w")])
    found = {r.op.name: r.estimate for r in simulate_npu(graph, npu(name)).results}
    assert found["scores"].bytes_moved["dram"] >= 2 * 128 * 4096
    assert found["write"].bytes_moved["dram"] >= 2 * 2 * 128, "the row goes into the cache"
    whole = Op("write", "copy", "aten.cat.default", {"n": 128 * 4096}, new, {})
    found = {r.op.name: r.estimate for r in simulate_npu(OpGraph("step", [whole, scores], [("write", "scores", "w")]), npu(name)).results}
    assert found["scores"].bytes_moved["dram"] < 2 * 128 * 4096, "what was made whole on chip may wait there"
