"""Workloads and measures of NPU cases."""

from __future__ import annotations

import pytest

from presilicon.arch import load
from presilicon.errors import CaseError
from presilicon.validate.cases import npus
from presilicon.workloads.formats import by_name

INT8 = by_name("int8")


def test_convolutions_have_the_published_work_of_alexnet() -> None:
    """Chen et al., JSSC 2017, table V: 2.66 G multiply-accumulates for four images."""
    layers = [[3, 227, 96, 11, 4, 55, 1, 1], [96, 27, 256, 5, 1, 27, 2, 1], [256, 13, 384, 3, 1, 13, 1, 1]]
    layers += [[384, 13, 384, 3, 1, 13, 2, 1], [384, 13, 256, 3, 1, 13, 2, 1]]
    graph = npus.convolutions(layers, batch=4, values=by_name("int16"))
    assert sum(op.flops for op in graph) / 2 == pytest.approx(2.66e9, rel=0.005)
    assert [op.attributes["padding"] for op in graph] == [[0, 0], [2, 2], [1, 1], [1, 1], [1, 1]]
    assert not graph.nx.edges
    with pytest.raises(CaseError, match="expected channels, size, filters"):
        npus.convolutions([[3, 227]])


@pytest.mark.slow
def test_a_chain_keeps_its_results_on_chip() -> None:
    system = load("tpu-v1")
    row = [64, 19, 64, 3, 1, 19, 1, 4]
    chained = npus.convolutions([row], batch=8, values=INT8, chained=True)
    alone = npus.convolutions([row], batch=8, values=INT8)
    assert len(chained) == 4
    assert sum(op.flops * op.count for op in chained) == sum(op.flops * op.count for op in alone)
    image, weights = 8 * 64 * 19 * 19, 9 * 64 * 64
    assert npus.npu_dram_bytes(chained, system) == pytest.approx(2 * image + 4 * weights, rel=0.25)
    assert npus.npu_dram_bytes(alone, system) >= 4 * (2 * image + weights)
    assert npus.npu_throughput(chained, system) > npus.npu_throughput(alone, system)


def test_measures_agree_with_each_other() -> None:
    system = load("tpu-v1")
    graph = npus.chain(128, 512, 3, INT8)
    work = 3 * 2 * 128 * 512 * 512
    assert npus.npu_throughput(graph, system) == pytest.approx(work / npus.npu_time(graph, system))
    assert work / max(system.peaks_flops_per_s.values()) <= npus.npu_array_time(graph, system) <= npus.npu_time(graph, system)
    assert npus.npu_power(graph, system) > system.idle_w
    with pytest.raises(CaseError, match="a100-sxm-80gb: expected an NPU"):
        npus.npu_time(graph, load("a100-sxm-80gb"))
    with pytest.raises(CaseError, match=r"unknown fidelity 'tiles'.*tile"):
        npus.npu_time(graph, system, "tiles")
