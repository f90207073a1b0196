"""Time of whole networks on NPUs, every op mapped to a proof: `make bench`. The bar: 60 s for ResNet-50 on one system."""

from __future__ import annotations

from pathlib import Path

import pytest

from presilicon.arch import load
from presilicon.arch.npu import NpuSystem
from presilicon.mapping.npu import matrix
from presilicon.sim.npu.run import simulate_npu
from presilicon.workloads import OpGraph


@pytest.fixture(scope="module")
def resnet(tmp_path_factory: pytest.TempPathFactory) -> OpGraph:
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    from presilicon.workloads.models import trace_model

    path: Path = tmp_path_factory.mktemp("graphs") / "resnet.json"
    trace_model("resnet-50").save(path)
    return OpGraph.load(path)


@pytest.mark.parametrize("fidelity", ["analytic", "tile"])
@pytest.mark.parametrize("name", ["tpu-v1", "tpu-v4i"])
def test_resnet_50(benchmark, resnet, name, fidelity):
    system = load(name)
    assert isinstance(system, NpuSystem)

    def fresh() -> tuple[tuple[object, ...], dict[str, object]]:
        matrix._plan.cache_clear()
        return (resnet, system, fidelity), {}

    found = benchmark.pedantic(simulate_npu, setup=fresh, rounds=1)
    benchmark.extra_info.update(bar_s=60.0, predicted_s=found.time_s)
    assert any("all proven optimal" in note for note in found.notes)
