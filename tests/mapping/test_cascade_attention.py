"""Attention cascades: passes that follow from the einsums, times and traffic against counts by hand, bad input."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from presilicon.errors import MappingError, UnknownNameError
from presilicon.mapping.cascade_attention import ENERGIES, ArrayPair, AttentionShape, Binding, attention, linear_layers
from presilicon.mapping.cascade_einsums import cascade, parse_cascade
from presilicon.validate.cases.cascades import array_pair, binding_of

BERT = AttentionShape(64, 12, 1024, 64, 64)
BINDINGS = ("unfused", "flat", "cascade", "architecture", "fusemax")


def pair(**change: Any) -> ArrayPair:
    fields: dict[str, Any] = {
        "name": "small", "rows": 4, "cols": 4, "lanes": 4, "clock_hz": 1e9, "buffer_bytes": 4096, "line_bytes": 8,
        "dram_bytes_per_s": 1e15, "element_bytes": 2, "exp_macs": None, "energy_j": dict.fromkeys(ENERGIES, 1e-12),
    }  # fmt: skip
    return ArrayPair(**{**fields, **change})


def three_pass(**change: Any) -> Binding:
    einsums = cascade("three-pass")
    stages = (tuple(e.name for e in einsums.einsums),)
    fields: dict[str, Any] = {
        "name": "b", "cascade": einsums, "array": ("QK", "AV"), "stages": stages, "exchange": "buffer", "chained": True,
    }  # fmt: skip
    return Binding(**{**fields, **change})


# ---- passes


@pytest.mark.parametrize(("name", "passes"), [("three-pass", 3), ("one-pass", 1)])
def test_passes_of_the_known_cascades(name: str, passes: int) -> None:
    assert cascade(name).passes("QK") == cascade(name).passes("K") == passes
    assert cascade(name).passes("V") == 1


def test_dividing_after_the_values_saves_a_pass() -> None:
    late = """
        QK[m,p] = mac: Q[p,e] K[m,e]
        M[p] = max: QK[m,p]
        SN[m,p] = add exp: QK[m,p] M[p]
        SD[p] = add: SN[m,p]
        SNV[f,p] = mac: SN[m,p] V[m,f]
        AV[f,p] = div: SNV[f,p] SD[p]
    """
    assert parse_cascade("late division", late).passes() == 2


def test_without_a_maximum_one_pass_is_enough() -> None:
    plain = """
        QK[m,p] = mac: Q[p,e] K[m,e]
        SN[m,p] = exp: QK[m,p]
        SD[p] = add: SN[m,p]
        SNV[f,p] = mac: SN[m,p] V[m,f]
        AV[f,p] = div: SNV[f,p] SD[p]
    """
    assert parse_cascade("unstable", plain).passes() == 1


def test_what_a_cascade_carries_and_takes() -> None:
    assert cascade("one-pass").inputs == ("Q", "K", "V")
    assert cascade("one-pass").carried == ("RM", "RD", "RNV")
    assert cascade("three-pass").carried == ()


# ---- times


def test_array_and_vector_cycles_by_hand() -> None:
    found = attention(AttentionShape(2, 3, 8, 4, 2), pair(), three_pass())
    # 8 x 8 scores: 4 + 2 steps of 2 x 2 tiles on the array; four einsums of 8 x 8 points on 4 lanes
    assert found.busy_s["array"] == pytest.approx(6 * (4 + 2) * 4 / 1e9)
    assert found.busy_s["vector"] == pytest.approx(6 * 4 * 16 / 1e9)
    assert found.time_s == pytest.approx(found.busy_s["vector"])
    assert found.limiter == "vector"


def test_units_in_a_chain_save_the_second_operation() -> None:
    shape = AttentionShape(1, 1, 8, 4, 2)
    chained = attention(shape, pair(), three_pass()).cycles
    assert attention(shape, pair(), three_pass(chained=False)).cycles == chained + 16  # SN adds, then exponentiates
    assert attention(shape, pair(exp_macs=6), three_pass(chained=False)).cycles == chained + 16 * 6


def test_a_partial_tile_costs_a_whole_one() -> None:
    whole, odd = (attention(AttentionShape(1, 1, n, 4, 2), pair(), three_pass()) for n in (12, 9))
    assert odd.busy_s["array"] == whole.busy_s["array"]
    assert odd.flops < whole.flops


def test_stages_that_exchange_through_dram_add_up() -> None:
    separate = three_pass(exchange="dram", stages=(("QK",), ("M", "SN", "SD", "A"), ("AV",)))
    slow = pair(dram_bytes_per_s=1e3)
    found = attention(AttentionShape(1, 1, 8, 4, 2), slow, separate)
    # Q, K and the scores; scores and weights; weights, V and the result
    assert found.bytes_moved["dram"] == 2 * ((32 + 32 + 64) + (64 + 64) + (64 + 16 + 16))
    assert found.time_s == pytest.approx(found.bytes_moved["dram"] / 1e3)


def test_keys_and_values_are_fetched_once_for_each_block_of_queries() -> None:
    _, binding = binding_of("fusemax")
    shape = AttentionShape(1, 1, 64, 4, 4)
    moved = {}
    for size in (10_000, 500, 300):
        found = attention(shape, pair(buffer_bytes=size, exp_macs=6), binding)
        moved[size] = found.bytes_moved["dram"] / 2 / (64 * 4)
    # queries and outputs once; 10 elements a query (Q 4, RNV 4, RM, RD) and a tile of keys and values, 32 elements
    assert moved == {10_000: 4, 500: 2 + 2 * 4, 300: 2 + 2 * 8}


def test_scores_that_do_not_fit_go_through_dram_when_that_is_less() -> None:
    shape, binding = AttentionShape(1, 1, 1024, 4, 4), three_pass(block_rows=16)
    small, large = (attention(shape, pair(buffer_bytes=b), binding).bytes_moved["dram"] / 2 for b in (1024, 2**22))
    assert small == 4 * 1024**2 + (1 + 64) * 2 * 4 * 1024
    assert large == 3 * 1024 * 4 * 256 + 4 * 1024  # each tile of the scores streams its queries, keys and values past it


@pytest.mark.parametrize("name", BINDINGS)
@pytest.mark.parametrize("length", [1024, 65536])
def test_no_binding_beats_its_parts(name: str, length: int) -> None:
    arrays, binding = binding_of(name)
    found = attention(dataclasses.replace(BERT, length=length), arrays, binding)
    assert found.time_s >= max(found.busy_s.values()) * (1 - 1e-12)
    compulsory = 4 * 64 * 12 * length * 64 * 2
    assert found.bytes_moved["dram"] >= compulsory
    assert found.busy_s["array"] <= found.time_s
    assert set(found.energy_j) >= {"mac", "exp", "buffer", "dram"}


@pytest.mark.parametrize("name", BINDINGS)
def test_more_bandwidth_or_buffer_never_hurts(name: str) -> None:
    arrays, binding = binding_of(name)
    shape = dataclasses.replace(BERT, length=262144)
    base = attention(shape, arrays, binding)
    for change in ({"dram_bytes_per_s": 2 * arrays.dram_bytes_per_s}, {"buffer_bytes": 2 * arrays.buffer_bytes}):
        better = attention(shape, dataclasses.replace(arrays, **change), binding)
        assert better.time_s <= base.time_s
        assert better.bytes_moved["dram"] <= base.bytes_moved["dram"]


def test_published_times_of_bert() -> None:
    published = {"unfused": 21.8236e-3, "flat": 13.3861e-3, "cascade": 15.3339e-3, "architecture": 5.98713e-3, "fusemax": 2.01314e-3}
    for name, time_s in published.items():
        arrays, binding = binding_of(name)
        assert attention(BERT, arrays, binding).time_s == pytest.approx(time_s, rel=1e-5)


def test_linear_layers_are_four_projections_and_two_products() -> None:
    found = linear_layers(64, 1024, 768, 3072, array_pair("fusemax"))
    macs = 65536 * (4 * 768**2 + 2 * 768 * 3072)
    assert found.flops == 2 * macs
    assert found.time_s == pytest.approx(macs / 65536 / 940e6)
    assert found.bytes_moved["dram"] == 1826095104  # end2end-proposal.csv of the artifact


# ---- bad input


def test_bad_bindings_name_what_is_wrong() -> None:
    with pytest.raises(UnknownNameError, match=r"'QX'.*QK"):
        three_pass(array=("QX",))
    with pytest.raises(MappingError, match="each einsum in one stage"):
        three_pass(stages=(("QK", "M"),))
    with pytest.raises(UnknownNameError, match=r"'drum'.*dram"):
        three_pass(exchange="drum")


def test_bad_arrays_name_what_is_wrong() -> None:
    with pytest.raises(MappingError, match="lanes: expected more than 0, found 0"):
        pair(lanes=0)
    with pytest.raises(MappingError, match="exp: missing"):
        pair(energy_j={k: 1.0 for k in ENERGIES if k != "exp"})
    with pytest.raises(UnknownNameError, match="'macs'"):
        pair(energy_j={**dict.fromkeys(ENERGIES, 1.0), "macs": 1.0})
    with pytest.raises(MappingError, match="buffer that holds 4 queries"):
        attention(AttentionShape(1, 1, 64, 4, 4), pair(buffer_bytes=16, exp_macs=6), binding_of("fusemax")[1])
    with pytest.raises(MappingError, match="length: expected 1 or more, found 0"):
        AttentionShape(1, 1, 0, 4, 4)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("QK[m,p] mac Q[p,e]", "expected OUT"),
        ("QK[m,p] = mak: Q[p,e]", "'mak'.*mac"),
        ("A[m] = add: B[m]\nA[m] = add: C[m]", "A is written twice"),
    ],
)
def test_bad_cascades(text: str, message: str) -> None:
    with pytest.raises((MappingError, UnknownNameError), match=message):
        parse_cascade("mine", text)


def test_unknown_names() -> None:
    with pytest.raises(UnknownNameError, match="one-pass"):
        cascade("onepass")
    with pytest.raises(UnknownNameError, match="'RM'"):
        cascade("one-pass")["Rm"]
    with pytest.raises(MappingError, match="no einsum goes over keys"):
        cascade("three-pass").passes("W")
