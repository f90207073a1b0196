"""`presilicon.map`, its pictures, and the map command's other sources of ops."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

import presilicon as ps
from presilicon.cli import app
from presilicon.errors import MappingError
from presilicon.mapping.nest import Constraints, Keep
from presilicon.mapping.nest.picture import occupancy

from .resnet import resnet50

CASCADE = "S[m,p] = Q[m,e] K[p,e]; A[m,f] = S[m,p] V[p,f]; m=8 p=8 e=4 f=4"


def run(*arguments: str) -> str:
    result = CliRunner().invoke(app, ["map", *arguments])
    assert result.exit_code == 0, result.output
    return result.output


@pytest.mark.slow
def test_ps_map_takes_an_op_its_text_or_a_cascade() -> None:
    by_text = ps.map("matmul m=32 n=32 k=32 int8", "mapbench-16", objective="energy")
    assert by_text.exhausted
    assert "<pre>" in by_text._repr_html_()
    assert by_text.estimate.total_energy_j == pytest.approx(by_text.counts.energy_j)
    assert by_text.estimate.time_s == by_text.counts.latency_s
    assert ps.map(CASCADE, "mapbench-16", "energy").exhausted
    with pytest.raises(MappingError, match="a cascade takes no constraints"):
        ps.map(CASCADE, "mapbench-16", constraints=Constraints(even=True))


def test_the_picture_shows_the_nest_and_what_memories_hold() -> None:
    pytest.importorskip("matplotlib")
    result = ps.map("matmul m=32 n=32 k=32 int8", "mapbench-16", "energy")
    figure = result.picture()
    written = " ".join(text.get_text() for axes in figure.axes for text in axes.texts)
    assert all(f"{n.level}: {n.tensor}" in written for n in result.mapping.nodes if isinstance(n, Keep))
    times, held = occupancy(result.mapping, result.problem, "buffer")
    assert max(sum(column) for column in zip(*held.values(), strict=True)) <= result.counts.occupancy_bytes["buffer"] * (1 + 1e-9)
    assert times == sorted(times)


@pytest.mark.slow
def test_commands_for_cascades_graphs_and_timeloop(tmp_path: Path) -> None:
    assert "proven optimal" in run("--cascade", CASCADE, "--objective", "energy")
    assert "nothing is fused" in run("--cascade", CASCADE, "--no-fuse", "--objective", "energy")
    written = tmp_path / "map.yaml"
    first = run("matmul m=32 n=32 k=32", "--to-timeloop", str(written))
    again = run("matmul m=32 n=32 k=32", "--from-timeloop", str(written))
    assert first.splitlines()[1] == again.splitlines()[1]  # energy, latency and EDP
    assert "counted, not searched" in again
    assert {entry["target"] for entry in yaml.safe_load(written.read_text())["mapping"]} == {"dram", "buffer", "register_file"}
    graph = tmp_path / "net.json"
    whole = resnet50()
    ps.OpGraph("tail", [op for op in whole if op.name in ("layer4.1.conv1", "layer4.2.conv1", "fc")]).save(graph)
    table = run("--graph", str(graph), "--all", "--objective", "energy")
    assert "layer4.1.conv1 and 1 more" in table
    assert "mapped ops together" in table


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "give one of: an op, --cascade TEXT, or --graph"),
        (("matmul m=4 n=4 k=4", "--cascade", CASCADE), "give one of"),
        (("matmul m=4 n=4 k=4", "--all"), "--graph FILE goes with either --op NAME or --all"),
        (("--cascade", CASCADE, "--pareto"), "take a single op"),
        (("--cascade", CASCADE, "--even"), "--dataflow and --even take single ops"),
    ],
)
def test_commands_that_contradict_themselves(arguments: tuple[str, ...], message: str) -> None:
    result = CliRunner().invoke(app, ["map", *arguments])
    assert result.exit_code != 0
    assert message in " ".join(f"{result.output} {result.exception}".split())
