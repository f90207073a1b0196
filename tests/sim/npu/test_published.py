"""Published figures of chips, and the file of the documentation."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from presilicon.arch import load
from presilicon.arch.npu import NpuSystem, npu_from_document
from presilicon.mapping.nest import Keep, Loop, Mapping, Spatial, evaluate, problem
from presilicon.mapping.npu.compile import compile_graph
from presilicon.mapping.npu.product import product
from presilicon.sim.npu.run import simulate_npu
from presilicon.validate.cases.npus import convolutions
from presilicon.workloads.formats import by_name
from presilicon.workloads.graph import OpGraph
from presilicon.workloads.op import Op, Operand

#: Channels, size, filters, window, stride, padding and groups of AlexNet's convolutions.
ALEXNET = (
    (3, 227, 96, 11, 4, 0, 1),
    (96, 27, 256, 5, 1, 2, 2),
    (256, 13, 384, 3, 1, 1, 1),
    (384, 13, 384, 3, 1, 1, 2),
    (384, 13, 256, 3, 1, 1, 2),
)


def convolution(i: int, batch: int) -> Op:
    channels, size, filters, window, stride, padding, groups = ALEXNET[i]
    out = (size + 2 * padding - window) // stride + 1
    dims = {"b": batch, "g": groups, "m": filters // groups, "c": channels // groups, "p": out, "q": out, "r": window, "s": window}
    fmt = by_name("int16")
    image = ((("b", 1),), (("g", channels // groups), ("c", 1)), (("p", stride), ("r", 1)), (("q", stride), ("s", 1)))
    operands = (
        Operand("a", "input", image, fmt, batch * channels * size * size),
        Operand("w", "weight", ((("g", filters // groups), ("m", 1)), (("c", 1),), (("r", 1),), (("s", 1),)), fmt),
        Operand("out", "output", ((("b", 1),), (("g", filters // groups), ("m", 1)), (("p", 1),), (("q", 1),)), fmt),
    )
    attributes = {"stride": [stride] * 2, "padding": [padding] * 2, "dilation": [1, 1], "groups": groups}
    return Op(f"conv{i + 1}", "conv", "aten.conv2d.default", dims, operands, {"mac": 1.0}, attributes)


@pytest.mark.slow
def test_eyeriss_on_alexnet() -> None:
    """Chen et al., JSSC 2017: batch 4 takes 115.3 ms, of which the array works 103.5; no figure is fitted."""
    system = load("eyeriss")
    assert isinstance(system, NpuSystem)
    array = whole = 0.0
    for i in range(len(ALEXNET)):
        graph = OpGraph("layer", [convolution(i, 4)])
        (compiled,) = compile_graph(graph, system)
        array += compiled.plans[0].matrix_clk / system.clock_hz
        whole += simulate_npu(graph, system, "tile").time_s
    macs = 4 * 665_784_864
    assert macs / (168 * system.clock_hz) < array < 103.5e-3
    assert array == pytest.approx(103.5e-3, rel=0.15)
    assert whole == pytest.approx(115.3e-3, rel=0.10)


def test_the_documented_file_is_an_npu() -> None:
    page = Path(__file__).parents[3] / "docs" / "npu.md"
    if not page.is_file():
        pytest.skip(f"not a checkout: {page} is absent")
    text = re.findall(r"```yaml\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)[0]
    system = npu_from_document(yaml.safe_load(text))
    assert system.peaks_flops_per_s["bf16"] == 4 * 128 * 128 * 2 * 1e9
    assert system.assumed(), "energies come from the tables"
    for fmt in system.matrix.macs_per_clk:
        assert system.hierarchy(fmt).mac_units == 4 * 128 * 128


@pytest.mark.parametrize(
    ("channels", "size", "filters", "held", "claimed_s", "claimed_mb"),
    [(64, 224, 64, 16, 0.8106, 2402.8), (64, 112, 128, 32, 0.4053, 1201.4), (128, 112, 128, 32, 0.8108, 2402.8)],
)
def test_eyeriss_with_the_nest_that_its_table_of_vgg16_implies(
    channels: int, size: int, filters: int, held: int, claimed_s: float, claimed_mb: float
) -> None:
    """Chen et al., JSSC 2017, table VI, CONV1-2, CONV2-1 and CONV2-2, batch 3.

    The 156 PEs in use are 4 sets of 3 x 13, and sums of 13 rows of 16 or 32 filters with the rows of one channel fill the buffer. One
    channel at a time, every sum passes the global buffer: its port, not the array, is what limits, as on the chip. (The mapper finds far
    better nests, which is why the predicted time of VGG-16 is a miss.)
    """
    system, strips = load("eyeriss"), -(-size // 13)
    assert isinstance(system, NpuSystem)
    shape = product(vgg(channels, size, filters), "int16")
    nest = (
        *(Loop("m", 3), Loop("n", filters // held), Loop("y", strips), Keep("O", "global_buffer")),
        *(Loop("k", channels), Keep("I", "global_buffer"), Keep("W", "filter_buffer")),
        *(Spatial("r", 3, "array", "row"), Spatial("n", 4, "array", "row"), Spatial("y", 13, "array", "col")),
        *(Keep("W", "registers"), Loop("x", size), Keep("O", "registers"), Keep("I", "registers"), Loop("n", held // 4), Loop("s", 3)),
    )
    found = evaluate(Mapping(nest), problem(shape.op({"y": 13 * strips}), system.hierarchy("int16")))
    assert 0.9 * 100 * 1024 < found.occupancy_bytes["global_buffer"] <= 100 * 1024
    assert found.limiter == "global_buffer"
    assert found.latency_s == pytest.approx(claimed_s, rel=0.15)
    assert found.latency_s > claimed_s, "rows that pad the last strip count as work"
    sums = sum(a.read_bytes + a.written_bytes for a in found.accesses if (a.tensor, a.level) == ("O", "global_buffer"))
    assert sums * size / (13 * strips) == pytest.approx(claimed_mb * 2**20, rel=0.05)


def vgg(channels: int, size: int, filters: int) -> Op:
    """A 3 x 3 convolution of VGG-16, batch 3."""
    return next(iter(convolutions([[channels, size, filters, 3, 1, size, 1, 1]], 3, by_name("int16"))))
