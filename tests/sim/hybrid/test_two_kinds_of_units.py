"""Two memories with units of their own kinds beside one processor (PAPI): where ops run, what moves, and what is refused."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from presilicon.arch import load
from presilicon.arch.hybrid import hybrid_from_document
from presilicon.arch.hybrid_spec import HybridSystem
from presilicon.errors import PresiliconError
from presilicon.mapping.pim_gemv import attacc_gemv
from presilicon.mapping.placement import RULES
from presilicon.sim.hybrid.run import simulate_hybrid
from presilicon.validate.cases.hybrids import decoder_layers


def _papi() -> HybridSystem:
    system = load("papi")
    assert isinstance(system, HybridSystem)
    return system


def _graph(batch: int, tokens: int = 1) -> Any:
    return decoder_layers(9216, 72, 6, (512,) * batch, 3, tokens)


def test_products_follow_the_tokens_of_a_step() -> None:
    few, many = (simulate_hybrid(_graph(batch, tokens), _papi(), "analytic") for batch, tokens in ((2, 2), (32, 4)))
    assert {r.place for r in few.results if r.op.kind == "matmul"} == {"pim-linear"}
    assert {r.place for r in many.results if r.op.kind == "matmul"} == {"xpu"}
    for found in (few, many):
        assert {r.place for r in found.results if r.op.kind == "attention"} == {"pim"}
    # Speculated tokens count as requests do.
    assert [r.place for r in simulate_hybrid(_graph(4), _papi(), "analytic").results] == [r.place for r in few.results]
    assert {"pim", "pim-linear", "xpu", "link"} == {span.lane for span in few.spans}


def test_only_what_goes_to_the_memory_apart_crosses_the_link() -> None:
    found = simulate_hybrid(_graph(2), _papi(), "analytic", "pim")
    crossed = {span.op for span in found.spans if span.lane == "link"}
    assert crossed == {"attention", "proj"}
    assert not [s for s in simulate_hybrid(_graph(2), _papi(), "analytic", "pim-linear").spans if s.lane == "link"]


def test_units_and_processor_take_turns_on_the_memory_that_they_share() -> None:
    found = simulate_hybrid(_graph(2), _papi(), "analytic", "pim")
    lanes = {lane: [(s.start_s, s.start_s + s.duration_s) for s in found.spans if s.lane == lane] for lane in ("xpu", "pim-linear")}
    for start, end in lanes["pim-linear"]:
        assert all(stop <= start + 1e-12 or begin >= end - 1e-12 for begin, stop in lanes["xpu"])


def test_memories_add_up() -> None:
    system = _papi()
    assert system.memory_bytes == 6 * (60 + 160) * 2**30  # FC-PIM is the processors' own memory
    assert set(system.ceilings_bytes_per_s) == {"dram", "pim", "pim-linear"}
    notes = simulate_hybrid(_graph(2), system.override({"pim_linear.count": 1, "xpu.tiled.memory": "100 MiB", "pim.count": 1}),
                            "analytic").notes
    assert not any("DO NOT FIT" in line for line in notes)  # 12 GiB of FC-PIM hold three layers


@pytest.mark.parametrize("tokens", [1, 3, 4, 5, 64])
def test_several_vectors_at_once_read_weights_once(tokens: int) -> None:
    system = _papi()
    one = system.override({"pim_linear.vectors": 1})
    both = [next(r.estimate for r in simulate_hybrid(_graph(tokens), s, "analytic", "pim-linear").results if r.op.name == "qkv")
            for s in (system, one)]
    assert both[0].energy_j["pim cell"] * tokens == pytest.approx(both[1].energy_j["pim cell"] * -(-tokens // 4))
    assert both[0].energy_j["pim mac"] == pytest.approx(both[1].energy_j["pim mac"])
    assert both[0].time_s <= both[1].time_s
    assert both[0].time_s >= both[1].time_s / 4


def test_the_closed_form_of_several_vectors() -> None:
    side = _papi().pim_linear
    assert side is not None
    one, four = (attacc_gemv(side.device, 4096, 4096, vectors=vectors) for vectors in (1, 4))
    assert one.cycles < four.cycles < 4 * one.cycles  # writes of inputs and moves of results are not shared
    assert four.macs == 4 * one.macs
    assert four.weight_bytes == one.weight_bytes


@pytest.mark.slow
def test_auto_is_not_worse_than_any_rule() -> None:
    for batch, tokens in ((1, 1), (4, 4), (16, 1), (64, 2)):
        best = simulate_hybrid(_graph(batch, tokens), _papi(), "analytic").time_s
        assert all(best <= simulate_hybrid(_graph(batch, tokens), _papi(), "analytic", rule).time_s * 1.0001 for rule in RULES)


def test_only_attaccs_units_take_several_vectors() -> None:
    with pytest.raises(PresiliconError, match="one vector at a time"):
        _papi().override({"pim_linear.dram": "aim-gddr6", "pim_linear.kernel": "aim"})


@pytest.mark.parametrize(("path", "value", "match"), [
    (("pim_linear", "kernel"), "aim", "its units run 'attacc'"), (("pim_linear", "memory"), "apart", "did you mean 'separate'"),
    (("pim_linear", "vectors"), 0, "whole number from 1"), (("pim_linear", "vector"), 2, "did you mean 'vectors'"),
    (("pim",), None, "pim: missing"), (("link",), None, "link: missing"),
])
def test_bad_files(path: tuple[str, ...], value: Any, match: str) -> None:
    document = copy.deepcopy(dict(_papi().document))
    if value is None:
        del document[path[0]]
    else:
        document[path[0]][path[1]] = {"value": value, "source": "mine"}
    with pytest.raises(PresiliconError, match=match):
        hybrid_from_document(document)
