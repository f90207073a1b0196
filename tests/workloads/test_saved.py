"""Saved graphs: the same after a round trip, read without torch; quantised copies."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from presilicon.errors import UnknownNameError
from presilicon.workloads import Op, OpGraph, quantise
from presilicon.workloads.graph import Memory
from presilicon.workloads.op import tensor


def small() -> OpGraph:
    def linear(module: str, count: int) -> Op:
        ports = (
            tensor("a", "input", "b m k", "bf16"),
            tensor("w", "weight", "k n", "bf16"),
            tensor("bias", "weight", "n", "bf16"),
            tensor("out", "output", "b m n", "bf16"),
        )
        return Op(
            f"{module}.linear",
            "matmul",
            "aten.linear.default",
            {"b": 1, "m": 4, "n": 256, "k": 128},
            ports,
            {"mac": 1.0},
            count=count,
            module=module,
        )

    weights = 2.0 * (128 * 256 + 256) * (3 + 1)
    return OpGraph(
        "small",
        [linear("layers.0.up_proj", 3), linear("lm_head", 1)],
        [("layers.0.up_proj.linear", "lm_head.linear", "a")],
        memory=Memory(weights_bytes=weights),
        tokens=4,
        meta={"phase": "prefill"},
    )


@pytest.mark.parametrize("name", ["g.json", "g.json.gz"])
def test_round_trip(tmp_path: Path, name: str) -> None:
    graph = small()
    again = OpGraph.load(graph.save(tmp_path / name))
    assert again.to_dict() == graph.to_dict()
    assert (tmp_path / name).read_bytes() == again.save(tmp_path / f"again-{name}").read_bytes()


def test_a_traced_graph_survives_the_round_trip(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    from presilicon.workloads import trace

    layer = torch.nn.TransformerEncoderLayer(32, 4, 64, batch_first=True)
    graph = trace(torch.nn.Sequential(layer, layer), torch.zeros(2, 8, 32))
    again = OpGraph.load(graph.save(tmp_path / "g.json"))
    assert again.to_dict() == graph.to_dict()
    assert again.flops == graph.flops


def test_loading_and_quantising_import_no_torch(tmp_path: Path) -> None:
    path = small().save(tmp_path / "g.json")
    code = (
        "import sys\nfrom presilicon.workloads import OpGraph, quantise, builtin\n"
        "from presilicon.workloads.fold import fold\n"
        f"g = fold(OpGraph.load({str(path)!r}))\nquantise(g, 'w4a16')\nassert builtin()\n"
        "from presilicon.workloads.trace import registry\nassert len(registry.covered()) > 500\n"
        "print(sorted({'torch', 'transformers'} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"


def test_weight_only_quantisation() -> None:
    graph = small()
    lighter = quantise(graph, "w4a16")
    up, head = lighter.ops
    assert {o.name: o.number_format.name for o in up.operands} == {
        "a": "bf16",
        "w": "w4_g128",
        "bias": "bf16",
        "out": "bf16",
    }
    assert head.operands == graph.ops[1].operands
    assert lighter.flops == graph.flops
    saved = 3 * 128 * 256 * (2 - 4.125 / 8)
    assert graph.memory.weights_bytes - lighter.memory.weights_bytes == pytest.approx(saved)
    assert list(lighter.nx.edges) == list(graph.nx.edges)
    assert lighter.meta["quantised"] == "w4a16"


def test_weights_and_activations_and_the_head_if_asked() -> None:
    up, head = quantise(small(), "fp8", lm_head=True).ops
    for op in (up, head):
        assert [o.number_format.name for o in op.operands] == ["fp8_e4m3", "fp8_e4m3", "bf16", "bf16"]


def test_unknown_scheme() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'w4a16'"):
        quantise(small(), "w4a61")


def test_the_public_names() -> None:
    from presilicon import workloads

    for name in workloads.__all__:
        if name in ("trace",):
            continue
        assert getattr(workloads, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = workloads.nothing  # type: ignore[attr-defined]
