"""Measures of arrays of processing elements: products of a decoder on PEs of one arithmetic style."""

from __future__ import annotations

from typing import Annotated, Final

from ...arch.lut_area import LookUpCore
from ...arch.pe import DotArray, load_array, nonzero_digits
from ...errors import CaseError, UnknownNameError
from ...mapping.dot_array import Product, total_cycles
from ...workloads.models import load_config
from .registry import measures


def _array(pe: str, phase: str) -> DotArray:
    try:
        return load_array(pe, phase)
    except UnknownNameError as error:
        raise CaseError(str(error)) from None


def _products(model: str, phase: str, context: int, weight_bits: float) -> list[Product]:
    """The products of a decoder-only model as BitMoD's simulator takes them.

    Linear layers are what they are. Attention has quirks that its published cycles contain: queries (then scores) stand as weights, of
    16 bits in memory but with the cycles of the linear layers' weights, and every head reads whole rows of all heads' keys.
    """
    _, config = load_config(model)
    hidden, heads, layers = (_size(config, name) for name in ("hidden_size", "num_attention_heads", "num_hidden_layers"))
    kv_heads = int(config.get("num_key_value_heads") or heads)
    inner, kv = _size(config, "intermediate_size", "ffn_dim"), hidden // heads * kv_heads
    gated = str(config["model_type"]) in ("llama", "mistral", "qwen2", "gemma")
    tokens = context if phase == "prefill" else 1
    shapes = [(hidden, hidden)] * 2 + [(kv, hidden)] * 2 + [(inner, hidden)] * (2 if gated else 1) + [(hidden, inner)]
    found = [Product(outputs, depth, tokens, weight_bits, count=layers) for outputs, depth in shapes]
    found.append(Product(int(config["vocab_size"]), hidden, tokens, weight_bits))
    for outputs, depth, columns in ((tokens, hidden, heads * tokens), (heads * tokens, context, tokens)):
        found.append(Product(outputs, depth, columns, weight_bits, stored_bits=16.0, input_depth=kv, count=layers))
    return found


def _size(config: dict[str, object], *names: str) -> int:
    for name in names:
        if name in config:
            return int(config[name])  # type: ignore[call-overload]
    raise CaseError(f"configuration without {' or '.join(names)}")


@measures.add("clk")
def dot_array_cycles(model: str, pe: str, weight_bits: float, phase: str, context: int = 256) -> float:
    """Cycles of one forward pass of a decoder on an array of BitMoD's comparison: per product, the larger of PEs and DRAM.

    Source: BitMoD (HPCA 2025), bitmod_sim of its repository, whose counting of attention is kept.
    """
    return total_cycles(_products(model, phase, context, weight_bits), _array(pe, phase))


def _request_cycles(model: str, pe: str, prefill_bits: float, decode_bits: float, tokens: int, context: int) -> float:
    one = dot_array_cycles(model, pe, decode_bits, "decode", context)
    return dot_array_cycles(model, pe, prefill_bits, "prefill", context) + tokens * one


@measures.add("1")
def dot_array_speedup(
    model: str,
    pe: str,
    prefill_bits: float,
    decode_bits: float,
    over: str,
    over_prefill_bits: float,
    over_decode_bits: float,
    tokens: int = 20,
    context: int = 256,
) -> float:
    """Cycles of a request (a prefill, then `tokens` decode steps at the same context) on one array over those on another.

    Source: BitMoD (HPCA 2025), speed-up notebook of its repository.
    """
    baseline = _request_cycles(model, over, over_prefill_bits, over_decode_bits, tokens, context)
    return baseline / _request_cycles(model, pe, prefill_bits, decode_bits, tokens, context)


_SIX: Final = ("opt-1.3b", "phi-2", "yi-6b", "llama-2-7b", "llama-2-13b", "llama-3-8b")


@measures.add("1")
def dot_array_pooled_speedup(
    over: str, over_prefill_bits: list[float], over_decode_bits: list[float], tokens: int = 20, context: int = 256
) -> float:
    """Arithmetic mean, over six LLMs and two tasks (a prefill alone, and with `tokens` decode steps), of BitMoD's speed-up at 4 and 3 bits.

    Source: BitMoD (HPCA 2025), speed-up notebook of its repository.
    """
    ratios = [
        _request_cycles(model, over, prefill, decode, n, context) / _request_cycles(model, "bitmod", 4.0625, 3.0625, n, context)
        for model, prefill, decode in zip(_SIX, over_prefill_bits, over_decode_bits, strict=True)
        for n in (0, tokens)
    ]
    return sum(ratios) / len(ratios)


@measures.add("1")
def array_area_ratio(pe: str, over: str, phase: str) -> float:
    """PE area of one array over that of another: 1 is an iso-area comparison.

    Source: BitMoD (HPCA 2025), PE areas of its repository.
    """
    return _array(pe, phase).area_m2 / _array(over, phase).area_m2


@measures.add("1")
def encoded_digits(sigma: float) -> float:
    """Mean non-zero radix-4 digits of rounded normal int8 values; see `presilicon.arch.pe.nonzero_digits`.

    Source: arXiv 2503.06342 and its repository wqzustc/High-Performance-Tensor-Processing-Engines.
    """
    return nonzero_digits(sigma)


@measures.add("1")
def digit_load_reduction(sigma: float) -> float:
    """Share of the four radix-4 digits of rounded normal int8 values that are zero; see `presilicon.arch.pe.nonzero_digits`.

    Source: arXiv 2503.06342 and its repository.
    """
    return 1.0 - nonzero_digits(sigma) / 4.0


@measures.add("1")
def iso_area_throughput(
    array: str,
    clock: Annotated[float, "Hz"],
    area: Annotated[float, "m2"],
    over_clock: Annotated[float, "Hz"],
    over_area: Annotated[float, "m2"],
    work: float = 1.0,
) -> float:
    """Throughput at equal area of one synthesised array over another: clock / area / work over clock / area; `array` only names them.

    `work` is cycles of a product on the first, in cycles of one on the second.
    """
    if not min(clock, area, over_clock, over_area, work) > 0:
        raise CaseError(f"{array}: expected clocks, areas and work of more than 0")
    return clock / area / work / (over_clock / over_area)


@measures.add("1")
def look_up_entries(rows: int = 2, lanes: int = 4) -> float:
    """Entries of the tables of a look-up core; see `presilicon.arch.lut_area.LookUpCore`."""
    return float(LookUpCore(rows=rows, lanes=lanes).table_entries)


@measures.add("1")
def look_up_best_lanes(rows: int = 2, cols: int = 64) -> float:
    """Activations that one look-up sums in the densest core of so many rows and columns, of 1 to 8."""
    return float(max(range(1, 9), key=lambda lanes: LookUpCore(rows, cols, lanes).density_ratio(1)))


@measures.add("1")
def look_up_density(weight_bits: int, mac_scale: float, rows: int = 2, cols: int = 64, lanes: int = 4) -> float:
    """Compute density of a look-up core over multiply-adds; see `presilicon.arch.lut_area.LookUpCore.density_ratio`."""
    return LookUpCore(rows, cols, lanes).density_ratio(weight_bits, mac_scale)


@measures.add("1")
def look_up_area_ratio(weight_bits: int, mac_scale: float, times: float = 1.0) -> float:
    """Area of a look-up core over that of multiply-adds that do one in `times` of its products a cycle."""
    return times / LookUpCore().density_ratio(weight_bits, mac_scale)
