"""Published figures of chips, and the file of the documentation."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from presilicon.arch import load
from presilicon.arch.npu import NpuSystem, npu_from_document
from presilicon.mapping.npu.compile import compile_graph
from presilicon.sim.npu.run import simulate_npu
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
