"""Cases of accelerators: FuseMax's cells, look-up cores, bit-weight engines, networks on arrays and in scratchpads."""

from __future__ import annotations

from typing import Any

import pytest

from presilicon.arch.yamlfile import read_yaml
from presilicon.errors import CaseError
from presilicon.validate.cases import CaseResults, run_cases
from presilicon.validate.cases.cascades import TABLE, array_pair, binding_of, cascade_mean, cascade_time


@pytest.fixture(scope="module")
def fusemax() -> CaseResults:
    return run_cases(["fusemax"])


def found(results: CaseResults, start: str) -> list[Any]:
    return [r for r in results.results if r.claim.quantity.startswith(start)]


def test_every_cell_of_fusemax_is_reached(fusemax: CaseResults) -> None:
    assert [r.claim.quantity for r in fusemax.results if r.verdict == "MISS"] == []
    parts = ("attention over FLAT, ", "attention over unfused attention, ", "end to end over FLAT, ", "end to end over unfused attention, ")
    for part in parts:
        cells = found(fusemax, part)
        assert len(cells) == 24
        assert all(abs(r.predicted / r.claim.claimed - 1) < 3e-4 for r in cells)


def test_fusemax_energies_are_near_and_marked_as_fitted(fusemax: CaseResults) -> None:
    cells = found(fusemax, "energy of attention over FLAT, ") + found(fusemax, "energy end to end over FLAT, ")
    assert len(cells) == 48
    assert all(r.claim.seen and abs(r.predicted / r.claim.claimed - 1) < 0.035 for r in cells)
    linear = found(fusemax, "energy of linear layers")
    assert len(linear) == 8
    assert all(not r.claim.seen and abs(r.predicted / r.claim.claimed - 1) < 0.005 for r in linear)


def test_headline_of_fusemax() -> None:
    assert cascade_mean("speedup", "fusemax") == pytest.approx(6.7226, rel=1e-4)
    assert cascade_mean("speedup", "fusemax", part="end-to-end") == pytest.approx(5.3017, rel=1e-4)
    assert cascade_mean("utilisation", "fusemax") == pytest.approx(0.96997, rel=1e-4)


def test_every_number_of_the_arrays_has_its_source() -> None:
    document = read_yaml(TABLE)
    for name in document["arrays"]:
        node = dict(document["arrays"][name])
        values = [*node.pop("energy").values(), *node.values()]
        assert all(set(value) == {"value", "source"} for value in values)
        assert array_pair(name).name == name
    assert all(binding_of(name)[1].name == name and document["bindings"][name]["source"] for name in document["bindings"])


def test_unknown_bindings_models_and_quantities() -> None:
    with pytest.raises(CaseError, match="fusemax"):
        cascade_time("fusemx", "bert", 1024)
    with pytest.raises(CaseError, match="bert"):
        cascade_time("fusemax", "berd", 1024)
    with pytest.raises(CaseError, match="speedup"):
        cascade_mean("speed", "fusemax")
    with pytest.raises(CaseError, match="reduction 'min'"):
        cascade_mean("speedup", "fusemax", of="min")


@pytest.mark.parametrize("name", ["lut-tensor-core", "bit-weight-tpe"])
def test_arithmetic_cases(name: str) -> None:
    assert [r.claim.quantity for r in run_cases([name]).results if r.verdict == "MISS"] == []


def test_depthwise_layers_leave_row_stationary_pes_idle() -> None:
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    from presilicon.validate.cases.networks import array_utilisation, depthwise_cycle_share, layers

    graph = layers("mobilenet-v1")
    depthwise, other = (array_utilisation(graph, 64, 64, "rs", kind) for kind in ("depthwise", "other"))
    assert 10 * depthwise < 0.25 < other
    assert 0.2 < depthwise_cycle_share(graph, 64, 64, "rs") < 0.4
    with pytest.raises(CaseError, match="depthwise"):
        array_utilisation(graph, 64, 64, "rs", "deepwise")


@pytest.mark.slow
def test_integer_programs_save_most_of_what_greedy_spills() -> None:
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    from presilicon.validate.cases.networks import network, spill_reduction

    graph = network("mobilenet-v2")
    assert spill_reduction(graph, [3.0, 5.0]) > 0.8
    assert spill_reduction(graph, [3.0, 5.0], method="greedy") == 0.0
    with pytest.raises(CaseError, match="spills nothing"):
        spill_reduction(graph, [64.0])
