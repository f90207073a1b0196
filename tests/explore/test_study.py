"""Studies: what a file may say, what the design space then is, and how a wrong one is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from presilicon.errors import PresiliconError, SpecError, UnknownNameError
from presilicon.explore.expand import config_hashes, config_prefix, design_points
from presilicon.explore.expression import parse_expression
from presilicon.explore.study import load_study

DATA = Path(__file__).parents[1] / "data"
MLP = str(DATA / "mlp.graph.json")


def document(**changes: Any) -> dict[str, Any]:
    return {"workloads": [{"graph": MLP}], "systems": ["h100-sxm"], "parameters": {"gpu.sm.count": [100, 132]}} | changes


def all_points(study: Any) -> list[dict[str, Any]]:
    designs = design_points(study)
    rows = []
    for batch in designs.batches():
        index, columns = designs.block(batch)
        for i in range(len(index)):
            place = {"workload": batch.workload, "system": batch.system}
            rows.append(place | {path: values[i].item() if hasattr(values[i], "item") else values[i] for path, values in columns.items()})
    return rows


def test_grid_order_and_units() -> None:
    study = load_study(
        document(
            parameters={"dram.bandwidth": ["2 TB/s", 4e12], "gpu.sm.count": {"range": [100, 110], "step": 5}}, systems=["h100-sxm", "l40s"]
        )
    )
    rows = all_points(study)
    assert len(rows) == design_points(study).size == design_points(study).count() == 12
    assert [r["system"] for r in rows] == [0] * 6 + [1] * 6
    assert [(r["dram.bandwidth"], r["gpu.sm.count"]) for r in rows[:4]] == [(2e12, 100), (2e12, 105), (2e12, 110), (4e12, 100)]


def test_ranges() -> None:
    axes = load_study(
        document(
            parameters={
                "dram.bandwidth": {"range": ["1 TB/s", "4 TB/s"], "steps": 3, "scale": "log"},
                "gpu.sm.count": {"range": [100, 103], "steps": 7},
                "gpu.l2.size": {"range": ["10 MB", "30 MB"], "steps": 5},
            }
        )
    ).axes
    values = {path: column for axis in axes for path, column in axis.columns.items()}
    np.testing.assert_allclose(values["dram.bandwidth"], [1e12, 2e12, 4e12])
    assert values["gpu.sm.count"].tolist() == [100, 101, 102, 103], "rounded to whole SMs, none twice"
    assert values["gpu.l2.size"].tolist() == [10e6, 15e6, 20e6, 25e6, 30e6]


def test_zip_moves_together_and_multiplies_with_the_rest() -> None:
    study = load_study(
        document(parameters={"gpu.sm.count": [100, 132], "zip": {"gpu.l2.size": ["20 MB", "40 MB"], "gpu.l2.bandwidth": [4096, 8192]}})
    )
    pairs = {(r["gpu.l2.size"], r["gpu.l2.bandwidth"]) for r in all_points(study)}
    assert pairs == {(20e6, 4096.0), (40e6, 8192.0)}
    assert design_points(study).size == 4


def test_random_parameters_are_drawn_together_and_by_seed() -> None:
    def drawn(seed: int, **more: Any) -> dict[str, np.ndarray]:
        random = {
            "dram.bandwidth": {"random": {"low": "1 TB/s", "high": "8 TB/s", "scale": "log"}},
            "gpu.sm.count": {"random": {"low": 60, "high": 200}},
        }
        study = load_study(document(parameters=random | more, samples=500, seed=seed))
        (axis,) = study.axes
        assert design_points(study).size == 500
        return dict(axis.columns)

    first, again, other = drawn(0), drawn(0), drawn(1)
    assert np.array_equal(first["dram.bandwidth"], again["dram.bandwidth"])
    assert not np.array_equal(first["dram.bandwidth"], other["dram.bandwidth"])
    assert first["dram.bandwidth"].min() >= 1e12
    assert first["dram.bandwidth"].max() <= 8e12
    assert np.median(first["dram.bandwidth"]) == pytest.approx(np.sqrt(8) * 1e12, rel=0.15), "evenly spread on the logarithmic scale"
    assert np.array_equal(first["gpu.sm.count"], np.round(first["gpu.sm.count"]))
    more = drawn(0, **{"gpu.l2.size": {"random": {"choices": ["20 MB", "40 MB"]}}})
    assert np.array_equal(more["dram.bandwidth"], first["dram.bandwidth"]), "a further parameter leaves the others as they were"
    assert set(more["gpu.l2.size"]) == {20e6, 40e6}


def test_workload_lists_multiply(tmp_path: Path) -> None:
    study = load_study(
        document(workloads=[{"model": "llama-3-8b", "phase": ["prefill", "decode"], "batch": [1, 8], "quant": [None, "w4a16"]}])
    )
    assert [w.label for w in study.workloads][:3] == [
        "llama-3-8b prefill batch=1 seq=2048",
        "llama-3-8b prefill batch=1 seq=2048 w4a16",
        "llama-3-8b prefill batch=8 seq=2048",
    ]
    assert len(study.workloads) == 8
    names = {"qwen2.5-7b": "qwen2.5-7b", "/some/where/config.json": "where", "/some/mine.json": "mine", "nets/net.py:build": "net.py:build"}
    for model, name in names.items():
        assert load_study(document(workloads=[{"model": model}])).workloads[0].name == name


def test_conditions_read_parameters_workloads_and_the_system() -> None:
    conditions = [
        "gpu.sm.count * gpu.clock.boost <= 2.4e11",
        "dram.bandwidth >= '2 TB/s' or batch > 4",
        "system == 'h100-sxm' and power.limit > 500",
        "gpu.sm.count in (100, 132) and not gpu.clock.boost == 1.5e9",
    ]
    study = load_study(
        document(
            workloads=[{"model": "llama-3-8b", "batch": [1, 8]}],
            parameters={"gpu.sm.count": [100, 120, 132], "dram.bandwidth": [1e12, 2e12], "gpu.clock.boost": [1.5e9, 1.8e9]},
            when=conditions,
        )
    )
    rows = all_points(study)
    expected = [
        (w, s, b, c)
        for w, batch in enumerate((1, 8))
        for s in (100.0, 120.0, 132.0)
        for b in (1e12, 2e12)
        for c in (1.5e9, 1.8e9)
        if s * c <= 2.4e11 and (b >= 2e12 or batch > 4) and s in (100, 132) and c != 1.5e9
    ]
    assert [(r["workload"], r["gpu.sm.count"], r["dram.bandwidth"], r["gpu.clock.boost"]) for r in rows] == expected
    assert design_points(study).count() == len(expected) > 0


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os').system('true') == 0",
        "(lambda: 1)() > 0",
        "a.b[0] > 1",
        "[x for x in y] == 1",
        "a if b else c",
        "f'{a}' == 'b'",
        "open('x') > 1",
        "a",
        "1 + 1",
        "",
        "a >",
        "min(a) > 1",
        "x := 3",
    ],
)
def test_nothing_but_the_small_grammar_is_read(text: str) -> None:
    with pytest.raises(SpecError, match="when"):
        parse_expression(text, "when")


def test_expression_values() -> None:
    columns = {"a": np.array([1.0, 2.0, 4.0]), "b.c": 2.0, "word": np.array(["x", "y", "x"], dtype=object)}
    for text, expected in (
        ("1 < a <= 4", [False, True, True]),
        ("a ** 2 / b.c > 2", [False, False, True]),
        ("word == 'x' and a < 3", [True, False, False]),
        ("word not in ['y', 'z']", [True, False, True]),
        ("max(a, b.c) == b.c or log2(a) >= 2", [True, True, True]),
        ("abs(-a) % 2 == 1 or a // 3 == 1", [True, False, True]),
        ("a / 0 > 1e300", [True, True, True]),
        ("word != 3", [True, True, True]),
    ):
        found = parse_expression(text, "when").evaluate(columns)
        assert np.broadcast_to(found, (3,)).tolist() == expected, text
    with pytest.raises(SpecError, match="word with a number"):
        parse_expression("word < 3", "when").evaluate(columns)
    with pytest.raises(UnknownNameError, match=r"'b\.c'"):
        parse_expression("b.cc > 1", "when").evaluate(columns)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"parameter": {}}, r"unknown key 'parameter'; did you mean 'parameters'"),
        ({"parameters": {"dram.bandwith": [1e12]}}, r"parameters.dram.bandwith: h100-sxm: unknown parameter path .*'dram.bandwidth'"),
        ({"parameters": {"gpu.sm": [1]}}, r"holds several numbers; name one: .*gpu.sm.count"),
        ({"parameters": {"dram.bandwidth": ["4 TB"]}}, r"parameters.dram.bandwidth: expected a quantity in B/s"),
        ({"parameters": {"dram.bandwidth": [-1]}}, r"dram.bandwidth: expected more than 0"),
        ({"parameters": {"gpu.sm.count": [100.5]}}, r"gpu.sm.count: expected a whole number"),
        ({"parameters": {"gpu.sm.count": []}}, r"parameters.gpu.sm.count: empty"),
        ({"parameters": {"gpu.sm.count": {"range": [1, 2]}}}, r"either steps .* or step"),
        ({"parameters": {"gpu.sm.count": {"range": [5, 2], "steps": 2}}}, r"the lower one first"),
        ({"parameters": {"gpu.sm.count": {"range": [1, 2], "stepz": 2}}}, r"unknown key 'stepz'; did you mean 'step'"),
        ({"parameters": {"gpu.sm.count": {"range": [1, 2], "steps": 2, "scale": "lin"}}}, r"unknown scale 'lin'; did you mean 'linear'"),
        ({"parameters": {"host.launch": {"range": [0, 1e-6], "steps": 3, "scale": "log"}}}, r"starts above 0"),
        ({"parameters": {"gpu.sm.count": {"random": {"low": 1, "high": 5}}}}, r"samples: expected a whole number"),
        ({"parameters": {"zip": {"gpu.sm.count": [1, 2], "gpu.l2.size": [1e6]}}}, r"gpu.sm.count: 2, gpu.l2.size: 1"),
        ({"parameters": {"gpu.sm.count": [1], "zip": {"gpu.sm.count": [1]}}}, r"gpu.sm.count is given twice"),
        ({"systems": ["h100"]}, r"systems.0: unknown system 'h100'; did you mean 'h100-"),
        ({"systems": []}, r"systems: empty"),
        ({"systems": ["h100-sxm", "h100-sxm"]}, r"two systems are named 'h100-sxm'"),
        ({"workloads": []}, r"workloads: empty"),
        ({"workloads": [{"model": "llama-3-8b", "phases": "decode"}]}, r"workloads.0: unknown key 'phases'; did you mean 'phase'"),
        ({"workloads": [{"model": "llama-3-8b", "batch": 0}]}, r"workloads.0.batch: expected a positive whole number"),
        ({"workloads": [{"model": "llama-3-8b", "quant": "w4"}]}, r"unknown quantisation scheme 'w4'.*'w4a16'"),
        ({"workloads": [{"batch": 1}]}, r"give either model or graph"),
        ({"workloads": [{"graph": "nowhere.json"}]}, r"workloads.0: nowhere.json: cannot be read"),
        ({"workloads": [{"graph": MLP, "batch": 3}]}, r"workloads.0.batch: a saved graph is what it is"),
        ({"workloads": [{"graph": MLP}, {"graph": MLP}]}, r"listed twice"),
        ({"fidelity": "tiles"}, r"unknown fidelity 'tiles'; did you mean 'tile'"),
        ({"runtime": "graph"}, r"unknown runtime 'graph'"),
        ({"objectives": ["speed"]}, r"unknown objective 'speed'"),
        ({"when": ["dram.bandwith > 1"]}, r"when.0: .*unknown name 'dram.bandwith'; did you mean 'dram.bandwidth'"),
        ({"when": ["dram.bandwidth > '2 GHz'"]}, r"when.0: expected a quantity in B/s"),
        ({"when": "batch > 1"}, r"when: expected a list"),
        ({"seed": -1}, r"seed: .*greater than or equal to 0"),
    ],
)
def test_a_wrong_study_is_refused(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    import yaml

    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(document(**changes), sort_keys=False))
    with pytest.raises(PresiliconError, match=message) as caught:
        load_study(path)
    assert str(caught.value).startswith(f"{path}: "), "the message names the file"


def test_values_that_only_hold_together_are_taken() -> None:
    pair = {"gpu.sm.shared_memory": ["400 KiB", "300 KiB"], "gpu.sm.shared_memory_per_cta": ["300 KiB", "299 KiB"]}
    assert design_points(load_study(document(parameters={"zip": pair}))).size == 2
    assert design_points(load_study(document(parameters=pair))).size == 4


def test_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    from presilicon import arch

    (tmp_path / "graph.json").write_bytes(Path(MLP).read_bytes())
    arch.save(arch.load_gpu("l4"), tmp_path / "mine.yaml")
    path = tmp_path / "study.yaml"
    path.write_text("workloads: [{graph: graph.json}]\nsystems: [./mine.yaml]\nparameters: {gpu.sm.count: [10]}\n")
    study = load_study(path)
    assert study.name == "study"
    assert (study.systems[0].name, study.workloads[0].model) == ("l4", str(tmp_path / "graph.json"))


def test_hashes_tell_designs_apart_and_nothing_else() -> None:
    study = load_study(document(parameters={"gpu.sm.count": [100, 132], "dram.bandwidth": [1e12, 2e12], "link.kind": ["pcie", "nvlink"]}))
    designs = design_points(study)
    (batch,) = designs.batches()
    index, columns = designs.block(batch)

    def hashes(columns: Any, runtime: str = "eager", count: int = len(index)) -> list[str]:
        return config_hashes(config_prefix(study.workloads[0], study.systems[0], "analytic", runtime), columns, count)

    found = hashes(columns)
    assert len(set(found)) == 8
    turned = {path: columns[path] for path in reversed(list(columns))}
    assert hashes(turned) == found, "the order of the parameters does not matter"
    assert hashes({path: values[3:4] for path, values in columns.items()}, count=1) == found[3:4], "nor what else the study holds"
    assert set(hashes(columns, "cudagraph")).isdisjoint(found)


def test_an_empty_study_is_one_point_a_workload() -> None:
    assert all_points(load_study(document(parameters={}))) == [{"workload": 0, "system": 0}]


def test_count_of_a_huge_grid_takes_no_memory() -> None:
    wide = {"steps": 1000}
    study = load_study(
        document(
            parameters={
                "dram.bandwidth": wide | {"range": [1e12, 2e12]},
                "gpu.l2.size": wide | {"range": [1e6, 9e7]},
                "gpu.clock.boost": wide | {"range": [1e9, 2e9]},
            }
        )
    )
    assert design_points(study).size == 10**9


def test_a_misspelt_constraint_is_found_before_anything_runs(tmp_path: Path) -> None:
    from presilicon.explore.sweep import sweep

    bad = document(constraints=["aera_mm2 <= 800"])
    with pytest.raises(UnknownNameError, match=r"constraints\.0: unknown column 'aera_mm2'; did you mean 'area_mm2'"):
        sweep(bad, tmp_path / "out")
    assert not (tmp_path / "out").exists()
