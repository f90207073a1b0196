"""Our mappings against those of zigzag-dse 3.9.1, both costed by ZigZag's own model, in one run.

ZigZag searches with its defaults (LOMA, uneven, ``lpf_limit=6``); ours runs under ``counting="zigzag"`` to the proof; our mapping
is then handed to ZigZag's cost model. Needs zigzag-dse in this environment, or in another one that ``PRESILICON_ZIGZAG_PYTHON`` names::

    python -m venv zz && zz/bin/pip install zigzag-dse==3.9.1 six
    PRESILICON_ZIGZAG_PYTHON=zz/bin/python pytest tests/benchmarks/test_nest_zigzag.py -s
"""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from presilicon.arch.hierarchy import Hierarchy, Memory, load_hierarchy
from presilicon.mapping.nest import Keep, Loop, Mapping, Spatial, conv, map_op, matmul

PYTHON = os.environ.get("PRESILICON_ZIGZAG_PYTHON", "") or (sys.executable if importlib.util.find_spec("zigzag") else "")
INSTALL = "python -m venv zz && zz/bin/pip install zigzag-dse==3.9.1 six; then set PRESILICON_ZIGZAG_PYTHON=zz/bin/python"

MATMUL = {"kind": "Gemm", "equation": "O[m][n]+=I[m][k]*W[k][n]", "relations": []}
BATCHED = {"kind": "Gemm", "equation": "O[b][m][n]+=I[b][m][k]*W[b][k][n]", "relations": []}
CONV = {"kind": "Conv", "equation": "O[m][p][q]+=W[m][c][r][s]*I[c][ih][iw]", "relations": ["ih=1*p+1*r", "iw=1*q+1*s"]}
OPS = {
    "gemm": (matmul(1024, 1024, 1024), MATMUL),
    "conv": (conv(m=64, c=64, p=56, q=56, r=3, s=3), CONV),
    "qk": (matmul(512, 512, 64, b=12), BATCHED),
    "av": (matmul(512, 64, 512, b=12), BATCHED),
}


def hierarchy() -> Hierarchy:
    """mapbench-16 with the 64-bit ports of its registers, which ZigZag's latency needs."""
    common = load_hierarchy("mapbench-16")
    ports = {"read_bytes_per_clk": 8.0, "write_bytes_per_clk": 8.0}
    levels = tuple(dataclasses.replace(x, **ports) if isinstance(x, Memory) and x.name == "register_file" else x for x in common.levels)
    return dataclasses.replace(common, levels=levels)


def for_zigzag(mapping: Mapping) -> dict[str, object]:
    """A nest as ZigZag has it: for each operand the loops within each memory's tile, innermost first."""
    temporal = {}
    for tensor in "IWO":
        levels: list[list[tuple[str, int]]] = [[], [], []]
        at = 2
        for node in mapping.nodes:
            if isinstance(node, Keep) and node.tensor == tensor:
                at = {"buffer": 1, "register_file": 0}.get(node.level, at)
            elif isinstance(node, Loop):
                levels[at].append((node.dim.upper(), node.factor))
        temporal[tensor] = [level[::-1] for level in levels]
    return {"spatial": [(n.dim.upper(), n.factor) for n in mapping.nodes if isinstance(n, Spatial)], "temporal": temporal}


@pytest.mark.skipif(not PYTHON, reason=f"zigzag-dse is not installed: {INSTALL}")
@pytest.mark.parametrize("objective", ["energy", "edp", "latency"])
@pytest.mark.parametrize("name", OPS)
def test_no_worse_by_its_own_model(benchmark, name: str, objective: str) -> None:
    op, described = OPS[name]
    start = time.process_time()
    options = {"counting": "zigzag"}
    result = benchmark.pedantic(map_op, (op, hierarchy(), objective), options, rounds=1)
    cpu_s = time.process_time() - start
    assert result.exhausted
    asked = {
        **described, "dims": {d: n for d, n in op.dims.items() if n > 1}, "objective": objective, "spatial_mappings": 1,
        "ours": [for_zigzag(result.mapping)],
    }  # fmt: skip
    side = Path(__file__).with_name("zigzag_side.py")
    run = subprocess.run([PYTHON, str(side)], input=json.dumps(asked), capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr[-2000:]
    answer = json.loads(run.stdout.splitlines()[-1])
    ours, theirs = answer["ours"][0], answer["best"]
    # Both models agree on our mapping: ZigZag rounds what tiles of a convolution share, and adds fill, drain and some waits to the latency.
    assert ours["energy_j"] == pytest.approx(result.counts.energy_j, rel=1e-5)
    assert ours["cycles"] == pytest.approx(result.counts.cycles, rel=2e-3)
    value = {
        "energy": lambda cost: cost["energy_j"],
        "latency": lambda cost: cost["cycles"],
        "edp": lambda cost: cost["energy_j"] * cost["cycles"],
    }[objective]
    ratio = value(ours) / value(theirs)
    benchmark.extra_info.update(ratio=ratio, cpu_s=cpu_s, zigzag_cpu_s=theirs["cpu_s"], speedup=theirs["cpu_s"] / cpu_s)
    print(
        f"\n{name}, {objective}: ours / ZigZag's = {ratio:.4f}; {ours['energy_j'] * 1e6:.3f} uJ and {ours['cycles']:,.0f} cycles against "
        f"{theirs['energy_j'] * 1e6:.3f} and {theirs['cycles']:,.0f}; {cpu_s:.2f} s to the proof, {theirs['cpu_s']:.2f} s without one"
    )
    assert ratio <= 1 + 1e-9
