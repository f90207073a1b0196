"""Measures of attention cascades on a 2D array beside a vector array."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, Final

from ...arch.estimate import Estimate
from ...arch.yamlfile import read_yaml
from ...errors import CaseError, PresiliconError, UnknownNameError
from ...mapping.cascade_attention import ENERGIES, ArrayPair, AttentionShape, Binding, attention, linear_layers
from ...mapping.cascade_einsums import cascade
from ...units import parse
from .registry import measures

TABLE: Final = Path(__file__).parent / "systems" / "attention-arrays.yaml"
#: Batch of FuseMax's evaluation.
_BATCH: Final = 64
#: Hidden size, heads, elements of a head and of the feed-forward network: the models of FuseMax's evaluation (flat_validation.csv).
_MODELS: Final = {"bert": (768, 12, 64, 3072), "trxl": (1024, 16, 64, 4096), "t5": (512, 8, 64, 2048), "xlm": (2048, 16, 128, 8192)}
_LENGTHS: Final = tuple(4**power for power in range(5, 11))
_PARTS: Final = ("attention", "linear", "end-to-end")
_UNITS: Final = {"rows": "1", "cols": "1", "lanes": "1", "clock": "Hz", "buffer": "B", "line": "B", "bandwidth": "B/s", "element": "B"}


def _pick(what: str, name: str, known: Mapping[str, Any] | tuple[str, ...]) -> None:
    if name not in known:
        raise CaseError(str(UnknownNameError(what, str(name), known)))


@cache
def _table() -> dict[str, Any]:
    return read_yaml(TABLE)


@cache
def array_pair(name: str) -> ArrayPair:
    """The arrays of a name in ``systems/attention-arrays.yaml``."""
    _pick("arrays", name, _table()["arrays"])
    node = _table()["arrays"][name]
    numbers = {key: parse(node[key]["value"], unit) for key, unit in _UNITS.items()}
    energy = {key: parse(node["energy"][key]["value"], "J") for key in ENERGIES if key in node["energy"]}
    return ArrayPair(
        name,
        int(numbers["rows"]),
        int(numbers["cols"]),
        int(numbers["lanes"]),
        numbers["clock"],
        numbers["buffer"],
        numbers["line"],
        numbers["bandwidth"],
        numbers["element"],
        int(node["exp_macs"]["value"]) if "exp_macs" in node else None,
        energy,
    )


@cache
def binding_of(name: str) -> tuple[ArrayPair, Binding]:
    """The binding of a name in ``systems/attention-arrays.yaml``, and its arrays."""
    _pick("binding", name, _table()["bindings"])
    node = _table()["bindings"][name]
    found = Binding(
        name,
        cascade(node["cascade"]),
        tuple(node["array"]),
        tuple(tuple(stage) for stage in node["stages"]),
        node["exchange"],
        chained=node.get("chained", False),
        drains=tuple(node.get("drains", ())),
        block_rows=node.get("block_rows"),
        buffered=tuple(node.get("buffered", ())),
    )
    return array_pair(node["arrays"]), found


@cache
def _estimate(binding: str, model: str, length: int, part: str) -> Estimate:
    _pick("model", model, _MODELS)
    _pick("part", part, _PARTS)
    hidden, heads, size, inner = _MODELS[model]
    arrays, bound = binding_of(binding)
    try:
        if part == "linear":
            return linear_layers(_BATCH, length, hidden, inner, arrays)
        found = attention(AttentionShape(_BATCH, heads, length, size, size), arrays, bound)
        return found + linear_layers(_BATCH, length, hidden, inner, arrays) if part == "end-to-end" else found
    except PresiliconError as error:
        raise CaseError(f"{binding}, {model}, {length} tokens: {error}") from error


@measures.add("s")
def cascade_time(binding: str, model: str, length: int, part: str = "attention") -> float:
    """Time of one layer's attention (``linear``: its linear layers, ``end-to-end``: both) of a batch of 64 under a binding.

    Source: FuseMax (MICRO 2024) and its artifact; see `presilicon.mapping.cascade_attention`.
    """
    return _estimate(binding, model, length, part).time_s


@measures.add("1")
def cascade_speedup(binding: str, over: str, model: str, length: int, part: str = "attention") -> float:
    """`cascade_time` under one binding over that under another."""
    return _estimate(over, model, length, part).time_s / _estimate(binding, model, length, part).time_s


@measures.add("1")
def cascade_energy_ratio(binding: str, over: str, model: str, length: int, part: str = "attention") -> float:
    """Energy of what `cascade_time` times under one binding over that under another."""
    return _estimate(binding, model, length, part).total_energy_j / _estimate(over, model, length, part).total_energy_j


@measures.add("J")
def cascade_energy(binding: str, model: str, length: int, part: str = "attention") -> float:
    """Energy of what `cascade_time` times: scalar operations, accesses to the buffer, DRAM; no registers, as in the artifact."""
    return _estimate(binding, model, length, part).total_energy_j


@measures.add("B")
def cascade_dram_bytes(binding: str, model: str, length: int) -> float:
    """DRAM traffic of one layer's attention of a batch of 64 under a binding."""
    return _estimate(binding, model, length, "attention").bytes_moved["dram"]


@measures.add("1")
def cascade_mean(quantity: str, binding: str, over: str = "flat", part: str = "attention", of: str = "mean") -> float:
    """Arithmetic mean (or ``least``, ``most``) over FuseMax's four models and six lengths of a ratio to another binding, or a utilisation.

    ``quantity`` is ``speedup``, ``energy`` (ratio), or ``utilisation`` of the 2D array (its busy time over the time).

    Source: FuseMax (MICRO 2024); its headline figures are arithmetic means.
    """
    cells = [(model, length) for model in _MODELS for length in _LENGTHS]
    if quantity == "speedup":
        found = [cascade_speedup(binding, over, model, length, part) for model, length in cells]
    elif quantity == "energy":
        found = [cascade_energy_ratio(binding, over, model, length, part) for model, length in cells]
    elif quantity == "utilisation":
        every = [_estimate(binding, model, length, part) for model, length in cells]
        found = [estimate.busy_s["array"] / estimate.time_s for estimate in every]
    else:
        raise CaseError(str(UnknownNameError("quantity", quantity, ("speedup", "energy", "utilisation"))))
    reduce = {"mean": sum(found) / len(found), "least": min(found), "most": max(found)}
    _pick("reduction", of, reduce)
    return reduce[of]


@measures.add("1")
def cascade_passes(name: str, tensor: str = "QK") -> float:
    """Passes that a cascade of einsums must make over the keys of a tensor; see `presilicon.mapping.cascade_einsums.Cascade.passes`."""
    _pick("cascade", name, ("three-pass", "one-pass"))
    return float(cascade(name).passes(tensor))
