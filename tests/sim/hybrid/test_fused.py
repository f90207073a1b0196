"""Norms, residuals and activations of a hybrid system, fused with what stands beside them or as ops of their own."""

from __future__ import annotations

from itertools import pairwise

import pytest

from presilicon.arch import load
from presilicon.arch.hybrid_spec import HybridSystem
from presilicon.sim.hybrid.run import lay_out
from presilicon.validate.cases.hybrids import decoder_layers
from presilicon.workloads import Op, OpGraph, tensor


def _system(fuse: bool, **changes: object) -> HybridSystem:
    system = load("neupims").override({"plan.fuse": fuse, **changes})
    assert isinstance(system, HybridSystem)
    return system


def test_ops_of_their_own_read_and_write_memory() -> None:
    batch, hidden = 128, 4096
    graph = decoder_layers(hidden, 32, 4, (300,) * batch)
    whole, apart = (lay_out(graph, _system(fuse), place="pim-attention") for fuse in (True, False))
    names = [op.name for op in apart.whole.graph]
    assert {"residual_1", "ln_2", "gelu", "residual_2"} <= set(names)
    assert not {"residual_1", "gelu"} & {op.name for op in whole.whole.graph}
    moved = {op.name: apart.whole.chosen(op.name, "xpu").bytes_moved["dram"] for op in apart.whole.graph if op.kind != "attention"}
    assert moved["residual_1"] == moved["residual_2"] == 3 * batch * hidden * 2  # two inputs, one output, of 16 bits
    assert moved["ln_1"] == moved["ln_2"] == moved["gelu"] == 2 * batch * hidden * 2  # a device's share of 4 x 4096 features is 4096
    assert apart.played.time_s > whole.played.time_s


def test_the_steps_of_one_activation_stay_together() -> None:
    layer = decoder_layers(4096, 32, 4, (300,) * 8)
    gelu = layer["gelu"]
    steps = [Op(f"{gelu.name}_{i}", "elementwise", "step", dict(gelu.dims), (tensor("x", "input", "n", "fp16"), gelu.operands[-1]),
                {"mul": 1.0}) for i in range(3)]
    ops = [op for each in layer for op in (steps if each.name == "gelu" else [each])]
    edges = [(a.name, b.name, "x" if b in steps else "out") for a, b in pairwise(ops)]
    chain = OpGraph("three steps", ops, edges, meta=layer.meta)
    graphs = [lay_out(graph, _system(False), place="pim-attention").whole.graph for graph in (layer, chain)]
    assert [op.kind for op in graphs[0]] == [op.kind for op in graphs[1]]
    merged = next(op for op in graphs[1] if op.attributes.get("fused"))
    assert merged.attributes["fused"] == [op.name for op in steps]
    assert merged.bytes_read + merged.bytes_written == gelu.bytes_read + gelu.bytes_written


def test_sub_batches_share_the_elementwise_work() -> None:
    graph = decoder_layers(4096, 32, 4, tuple(200 + 3 * i for i in range(64)))
    system = _system(False, **{"plan.sub_batch_least": 2})
    found = lay_out(graph, system, place="pim-attention")
    assert len(found.parts) == 2
    for name in ("residual_1", "gelu", "ln_2"):
        parts = [part.chosen(name, "xpu").bytes_moved["dram"] for part in found.parts]
        assert sum(parts) == pytest.approx(found.whole.chosen(name, "xpu").bytes_moved["dram"])
    weights = [part.chosen("fc_1", "xpu").bytes_moved["dram"] for part in found.parts]
    assert sum(weights) > 1.9 * 2 * 4096 * 4096  # each part reads all of them
