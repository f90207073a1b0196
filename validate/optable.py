"""Op tables: one measured or wanted operator per row, read from CSV, checked, and predicted in vectorised calls."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from ..arch import Link, System
from ..arch.intervals import bounds, interval_key
from ..errors import TableError, UnknownNameError, shown
from ..mapping.gpu import attention_kernels, collective, gemm, moe_kernels
from ..mapping.gpu.analytic import evaluate
from ..mapping.gpu.lower import arithmetic_of
from ..mapping.gpu.machine import KernelTimes, Machine
from ..workloads.formats import by_name

if TYPE_CHECKING:
    import pandas as pd

_MAMBA2_SOURCES: Final = ("selective_state_update", "mamba_chunk_scan_combined")
_GATED_DELTA_SOURCES: Final = ("fused_recurrent_gated_delta_rule", "chunk_gated_delta_rule")
_MAMBA2_COLUMNS: Final = ("nheads", "head_dim", "n_groups", "d_state", "chunk_size")
_GATED_DELTA_COLUMNS: Final = ("num_k_heads", "head_k_dim", "num_v_heads", "head_v_dim")
_SCAN_COLUMNS: Final = ("batch_size", "seq_len", "d_conv", *_GATED_DELTA_COLUMNS, *_MAMBA2_COLUMNS)

#: Names of 8-bit formats that also say how their scales are found.
_SCALED_FP8: Final = ("fp8_static", "fp8_ootb")
#: Largest number that a size column may hold; past it products leave the exact range of a double.
MAX_SIZE: Final = 2**40


@dataclass(frozen=True)
class Call:
    """Rows of a table that one vectorised call predicts.

    Attributes
    ----------
    index
        Positions of the rows in the table.
    family, sizes, options
        As `presilicon.mapping.gpu.analytic.evaluate` takes them.
    """

    index: np.ndarray
    family: str
    sizes: Mapping[str, np.ndarray]
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class TableKind:
    """How the rows of one kind of table become kernels.

    Attributes
    ----------
    name
        As ``--kind`` takes it.
    sizes
        Columns of positive whole numbers that must be there.
    texts
        Columns of text that must be there, each one of several alternatives.
    optional
        Columns of whole numbers that may be absent or empty, with their default.
    either
        Groups of columns of positive whole numbers, one of which must be there.
    at_most
        (smaller, larger) columns of which the first must not exceed the second.
    complete
        Fills columns that can be told from the others; what it assumes stands in the table's ``attrs["note"]``.
    calls
        Groups the rows of a checked table into calls.
    """

    name: str
    sizes: tuple[str, ...]
    texts: tuple[tuple[str, ...], ...]
    optional: Mapping[str, int]
    calls: Callable[[pd.DataFrame, System], Iterator[Call]]
    either: tuple[tuple[str, ...], ...] = ()
    at_most: tuple[tuple[str, str], ...] = ()
    complete: Callable[[pd.DataFrame], pd.DataFrame] = lambda frame: frame


def _column(frame: pd.DataFrame, names: Sequence[str], default: str = "") -> pd.Series:
    import pandas as pd

    for name in names:
        if name in frame.columns:
            return frame[name].fillna(default).astype(str).replace("", default)
    return pd.Series([default] * len(frame), index=frame.index)


def _grouped(frame: pd.DataFrame, keys: Mapping[str, pd.Series]) -> Iterator[tuple[np.ndarray, dict[str, str]]]:
    """Row positions by distinct combination of text columns."""
    import pandas as pd

    if not len(frame):
        return
    labels = pd.DataFrame({name: column.to_numpy() for name, column in keys.items()})
    for combination, positions in labels.groupby(list(keys), sort=True).indices.items():
        values = combination if isinstance(combination, tuple) else (combination,)
        yield np.asarray(positions), dict(zip(keys, (str(v) for v in values), strict=True))


def _sizes(frame: pd.DataFrame, index: np.ndarray, names: Mapping[str, str]) -> dict[str, np.ndarray]:
    return {size: frame[column].to_numpy(dtype=float)[index] for size, column in names.items()}


def formats_of(dtype: str) -> tuple[str, float, float, bool]:
    """Arithmetic, bits of an activation, bits of a weight, and whether weights are dequantised, of a table's dtype name."""
    fmt = by_name({"fp8_static": "fp8", "fp8_ootb": "fp8", "int8_sq": "int8"}.get(dtype, dtype))
    if fmt.execution == "dequantise":
        return fmt.arithmetic, 16.0, fmt.bits, True
    if dtype.startswith(("w4a16", "w8a16")):
        return "bf16", 16.0, fmt.bits, True
    return fmt.arithmetic, fmt.bits, fmt.bits, False


def _tables_name(dtype: str) -> str:
    """The name by which libraries' rules know a number format: all wide ones go one way, and so do both of 8 bits with an exponent."""
    arithmetic, a_bits, w_bits, _ = formats_of(dtype)
    if min(a_bits, w_bits) >= 16.0:
        return "bfloat16"
    return "fp8" if arithmetic == "fp8" and a_bits == 8.0 and dtype not in _SCALED_FP8 else dtype


def _gemm_calls(frame: pd.DataFrame, system: System) -> Iterator[Call]:
    keys = {
        "dtype": _column(frame, ("gemm_dtype",)),
        "source": _column(frame, ("kernel_source",)),
        "framework": _column(frame, ("framework",)),
        "version": _column(frame, ("version",)),
        "copies": _column(frame, ("weight_copies",)),
    }
    for index, key in _grouped(frame, keys):
        arithmetic, a_bits, w_bits, dequantise = formats_of(key["dtype"])
        options = {
            "arithmetic": arithmetic,
            "a_bits": a_bits,
            "w_bits": w_bits,
            "out_bits": 16.0,
            "dequantise": dequantise,
            **gemm.table_options(_tables_name(key["dtype"]), key["source"], system.generation, key["framework"], key["version"]),
        }
        if key["copies"]:
            options["weight_copies"] = float(key["copies"])
        options["arithmetic"] = arithmetic_of(options["arithmetic"], system.gpu.sm.tensor_flops_per_clk)
        yield Call(index, "gemm", _sizes(frame, index, {"m": "m", "n": "n", "k": "k"}), options)


def _name_weight_copies(frame: pd.DataFrame) -> pd.DataFrame:
    """A GEMM table with a ``weight_copies`` column: how many distinct weights its calls cycled through, empty where by rule."""
    if "weight_copies" in frame.columns:
        return frame
    columns = (_column(frame, (name,)) for name in ("framework", "version", "gemm_dtype"))
    return frame.assign(weight_copies=gemm.table_weight_copies(*columns))


def _attention_calls(frame: pd.DataFrame, system: System, *, decode: bool, causal: bool = True) -> Iterator[Call]:
    keys = {
        "dtype": _column(frame, ("attn_dtype",), "bfloat16"),
        "kv": _column(frame, ("kv_cache_dtype", "attn_dtype"), "bfloat16"),
        "source": _column(frame, ("kernel_source",)),
        "version": _column(frame, ("version",)),
    }
    kv_heads = "num_key_value_heads" if "num_key_value_heads" in frame.columns else "num_heads"
    names = {"batch": "batch_size", "q_heads": "num_heads", "kv_heads": kv_heads, "head_dim": "head_dim", "window": "window_size"}
    for index, key in _grouped(frame, keys):
        sizes = _sizes(frame, index, names)
        query = frame["isl"].to_numpy(dtype=float)[index]
        past = frame["step"].to_numpy(dtype=float)[index]
        arithmetic = arithmetic_of(by_name(key["dtype"]).arithmetic, system.gpu.sm.tensor_flops_per_clk)
        options: dict[str, Any] = {"arithmetic": arithmetic, "kv_bits": by_name(key["kv"]).bits}
        options |= attention_kernels.implementation_of(key["source"], key["version"])
        if decode:
            yield Call(index, "attention_decode", sizes | {"kv_len": query + past}, options)
        else:
            yield Call(index, "attention_prefill", sizes | {"q_len": query, "kv_len": query + past}, options | {"causal": causal})


def _latent_calls(frame: pd.DataFrame, system: System, *, decode: bool) -> Iterator[Call]:
    """Multi-head latent attention with DeepSeek's sizes: prefill on heads of 128 + 64 and values of 128; decode of all heads over one
    latent of 512 + 64, whose first 512 are the values (DeepSeek-V2, arXiv 2405.04434, section 2.1)."""
    keys = {
        "dtype": _column(frame, ("mla_dtype",), "bfloat16"),
        "kv": _column(frame, ("kv_cache_dtype", "mla_dtype"), "bfloat16"),
        "source": _column(frame, ("kernel_source",)),
        "version": _column(frame, ("version",)),
    }
    for index, key in _grouped(frame, keys):
        sizes = _sizes(frame, index, {"batch": "batch_size", "q_heads": "num_heads", "query": "isl", "past": "step"})
        query, past = sizes.pop("query"), sizes.pop("past")
        one = np.ones_like(query)
        arithmetic = arithmetic_of(by_name(key["dtype"]).arithmetic, system.gpu.sm.tensor_flops_per_clk)
        options: dict[str, Any] = {"arithmetic": arithmetic, "kv_bits": by_name(key["kv"]).bits}
        options |= attention_kernels.latent_implementation_of(key["source"], key["version"])
        if decode:
            latent = {"kv_len": query + past, "kv_heads": one, "head_dim": 576.0 * one, "v_head_dim": 512.0 * one}
            yield Call(index, "attention_decode", sizes | latent, options)
        else:
            heads = {"kv_heads": sizes["q_heads"], "head_dim": 192.0 * one, "v_head_dim": 128.0 * one}
            yield Call(index, "attention_prefill", sizes | heads | {"q_len": query, "kv_len": query + past}, options | {"causal": True})


def _moe_calls(frame: pd.DataFrame, system: System) -> Iterator[Call]:
    keys = {
        "dtype": _column(frame, ("moe_dtype",)),
        "distribution": _column(frame, ("distribution",), "balanced"),
        "framework": _column(frame, ("framework",), "sglang"),
        "version": _column(frame, ("version",)),
        "source": _column(frame, ("kernel_source",)),
    }
    names = ("num_tokens", "hidden_size", "inter_size", "topk", "num_experts", "moe_tp_size", "moe_ep_size")
    for index, key in _grouped(frame, keys):
        arithmetic, _, w_bits, _ = formats_of(key["dtype"])
        sizes = _sizes(frame, index, {n: n for n in names})
        known = key["framework"].lower() in moe_kernels.FRAMEWORKS
        framework, version = (key["framework"], key["version"]) if known else ("sglang", "")  # the same Triton kernels, of another's call
        sizes["gated"] = moe_kernels.is_gated(framework, version, sizes["hidden_size"], sizes["inter_size"], sizes["topk"], key["source"])
        if framework.lower() == "trtllm":
            timed = ("hidden_size", "inter_size", "num_experts", "moe_ep_size")
            sizes["tuned"] = moe_kernels.is_timed(version, key["dtype"], *(sizes[name] for name in timed))
        yield Call(
            index,
            "fused_moe",
            sizes,
            {
                "arithmetic": arithmetic_of(arithmetic, system.gpu.sm.tensor_flops_per_clk),
                "w_bits": w_bits,
                "distribution": key["distribution"],
                **moe_kernels.implementation_of(framework, version, key["dtype"], key["source"]),
            },
        )


def _collective_calls(frame: pd.DataFrame, system: System) -> Iterator[Call]:
    custom = "allreduce_dtype" in frame.columns
    keys = {
        "dtype": _column(frame, ("nccl_dtype", "allreduce_dtype", "dtype"), "half"),
        "operation": _column(frame, ("operation",), "all_reduce"),
        "framework": _column(frame, ("framework",), "nccl"),
        "source": _column(frame, ("kernel_source",)),
        "version": _column(frame, ("version",)),
    }
    for index, key in _grouped(frame, keys):
        key["operation"] = {"alltoall": "all_to_all"}.get(key["operation"], key["operation"])  # as nccl-tests names it
        if key["operation"] not in collective.NCCL_TABLE_ORDER:
            raise UnknownNameError("operation", key["operation"], collective.NCCL_TABLE_ORDER)
        sizes = {
            "message_bytes": frame["message_size"].to_numpy(dtype=float)[index] * by_name(key["dtype"]).bytes,
            "num_gpus": frame["num_gpus"].to_numpy(dtype=float)[index],
        }
        options: dict[str, Any] = {"operation": key["operation"]}
        if key["operation"] == "all_reduce":
            options["in_switch"] = key["dtype"] != "int8"
        if custom:
            kernel = "trtllm" if key["source"] == "TRTLLM" else key["framework"]
            kernel = "trtllm-1.0" if kernel == "trtllm" and key["version"].startswith("1.0") else kernel
            kernel = kernel if kernel in collective.CUSTOM_ALL_REDUCE else "nccl"  # a framework without a kernel of its own
            options |= {"implementation": kernel, "eager": "eager" in key["source"]}
        yield Call(index, "collective", sizes, options)


def _name_operations(frame: pd.DataFrame) -> pd.DataFrame:
    """A collective table with an ``operation`` column: an NCCL table without one is taken in its collector's order if it is complete, and
    as all-reduce, which the note says, if it is not."""
    if "operation" in frame.columns:
        return frame
    if "nccl_dtype" not in frame.columns:
        return frame.assign(operation="all_reduce")
    try:
        return frame.assign(operation=collective.operation_by_occurrence(frame["nccl_dtype"], frame["num_gpus"], frame["message_size"]))
    except TableError as error:
        named = frame.assign(operation="all_reduce")
        named.attrs["note"] = f"assumed all_reduce in every row ({error})"
        return named


def _scan_calls(frame: pd.DataFrame, system: System) -> Iterator[Call]:
    """Rows of the Mamba-2 and gated-delta-net tables: the kernel is named by ``kernel_source``."""
    gated = set(_GATED_DELTA_COLUMNS) <= set(frame.columns)
    for index, key in _grouped(frame, {"source": _column(frame, ("kernel_source",))}):
        part = {c: frame[c].to_numpy(dtype=float)[index] for c in _SCAN_COLUMNS if c in frame.columns}
        sizes: dict[str, np.ndarray] = {"batch": part["batch_size"], "seq_len": part["seq_len"]}
        if gated:  # gated delta net: the convolution's time follows its key channels
            channels = part["num_k_heads"] * part["head_k_dim"]
            heads = {"value_heads": part["num_v_heads"], "key_dim": part["head_k_dim"], "value_dim": part["head_v_dim"]}
        else:
            channels = part["nheads"] * part["head_dim"] + 2.0 * part["n_groups"] * part["d_state"]
            heads = {"heads": part["nheads"], "head_dim": part["head_dim"], "state_dim": part["d_state"]}
        conv = {"channels": channels, "width": part["d_conv"]}
        source = key["source"]
        if source in _MAMBA2_SOURCES if gated else source in _GATED_DELTA_SOURCES:
            needed = _MAMBA2_COLUMNS if gated else _GATED_DELTA_COLUMNS
            raise TableError(f"kernel_source {source!r} needs the columns {', '.join(needed)}")
        if source == "causal_conv1d_fn":
            yield Call(index, "scan", sizes | conv, {"variant": "causal_conv1d"})
        elif source == "causal_conv1d_update":
            yield Call(index, "scan", {"batch": sizes["batch"]} | conv, {"variant": "causal_conv1d_update"})
        elif source == "fused_recurrent_gated_delta_rule":
            yield Call(index, "scan", {"batch": sizes["batch"]} | heads, {"variant": "gated_delta_update", "in_place": False})
        elif source == "selective_state_update":
            yield Call(index, "scan", {"batch": sizes["batch"]} | heads, {"variant": "mamba2_update"})
        elif source == "mamba_chunk_scan_combined":
            yield Call(index, "scan", sizes | heads | {"groups": part["n_groups"], "chunk": part["chunk_size"]}, {"variant": "mamba2_scan"})
        elif source == "chunk_gated_delta_rule":
            yield Call(index, "scan", sizes | heads | {"key_heads": part["num_k_heads"]}, {"variant": "gated_delta"})
        else:
            raise UnknownNameError(
                "kernel_source of a scan table",
                source,
                ("causal_conv1d_fn", "causal_conv1d_update", *_MAMBA2_SOURCES, *_GATED_DELTA_SOURCES),
            )


_KV_HEADS: Final = (("num_key_value_heads", "num_heads"),)

KINDS: Final = {
    kind.name: kind
    for kind in (
        TableKind("gemm", ("m", "n", "k"), (("gemm_dtype",),), {}, _gemm_calls, complete=_name_weight_copies),
        TableKind(
            "attention-prefill",
            ("batch_size", "isl", "num_heads", "num_key_value_heads", "head_dim"),
            (("attn_dtype",),),
            {"step": 0, "window_size": 0},
            lambda f, s: _attention_calls(f, s, decode=False),
            at_most=_KV_HEADS,
        ),
        TableKind(
            "attention-decode",
            ("batch_size", "isl", "num_heads", "num_key_value_heads", "head_dim"),
            (("attn_dtype",),),
            {"step": 0, "window_size": 0},
            lambda f, s: _attention_calls(f, s, decode=True),
            at_most=_KV_HEADS,
        ),
        TableKind(
            "encoder-attention",
            ("batch_size", "isl", "num_heads", "head_dim"),
            (("attn_dtype",),),
            {"step": 0, "window_size": 0},
            lambda f, s: _attention_calls(f, s, decode=False, causal=False),
        ),
        TableKind(
            "mla-prefill",
            ("batch_size", "isl", "num_heads"),
            (("mla_dtype",),),
            {"step": 0},
            lambda f, s: _latent_calls(f, s, decode=False),
        ),
        TableKind(
            "mla-decode", ("batch_size", "isl", "num_heads"), (("mla_dtype",),), {"step": 0}, lambda f, s: _latent_calls(f, s, decode=True)
        ),
        TableKind(
            "moe",
            ("num_tokens", "hidden_size", "inter_size", "topk", "num_experts"),
            (("moe_dtype",),),
            {"moe_tp_size": 1, "moe_ep_size": 1},
            _moe_calls,
            at_most=(("topk", "num_experts"),),
        ),
        TableKind(
            "scan",
            ("batch_size", "seq_len", "d_conv"),
            (("kernel_source",),),
            {},
            _scan_calls,
            either=(_MAMBA2_COLUMNS, _GATED_DELTA_COLUMNS),
        ),
        TableKind(
            "collective",
            ("num_gpus", "message_size"),
            (("nccl_dtype", "allreduce_dtype", "dtype"),),
            {},
            _collective_calls,
            complete=_name_operations,
        ),
    )
}


def kind_named(name: str) -> TableKind:
    """Look a kind up; unknown names raise with the nearest."""
    if name not in KINDS:
        raise UnknownNameError("kind of op table", name, KINDS)
    return KINDS[name]


def check(frame: pd.DataFrame, kind: TableKind, where: str) -> pd.DataFrame:
    """The table with sizes as numbers and optional columns filled.

    Parameters
    ----------
    frame
        Cells as text or numbers; the index holds the line of each row.
    where
        Name of the table for messages.

    Raises
    ------
    TableError
        A column is missing, or a cell is not a positive whole number or not a known number format; the message names file, line and
        column.
    """
    columns = list(frame.columns)
    found = f"(found {shown_names(columns)})"
    groups = [group for group in kind.either if set(group) <= set(columns)] or kind.either[:1]
    sizes = (*kind.sizes, *(name for group in groups for name in group))
    for name in sizes:
        if name not in columns:
            others = " or ".join(", ".join(group) for group in kind.either)
            needed = ", ".join(kind.sizes) + (f", and {others}" if others else "")
            raise TableError(f"{where}: column {name!r} is missing; {kind.name} needs {needed} {found}")
    checked = frame.copy()
    for name in sizes:
        checked[name] = _whole_numbers(frame, name, None, where)
    for name, default in kind.optional.items():
        checked[name] = _whole_numbers(frame, name, default, where) if name in columns else default
    for smaller, larger in kind.at_most:
        _refuse(frame, smaller, checked[smaller] > checked[larger], f"expected at most {larger} of the same row", where)
    for alternatives in kind.texts:
        text = next((n for n in alternatives if n in columns), None)
        if text is None:
            raise TableError(f"{where}: column {' or '.join(map(repr, alternatives))} is missing {found}")
        _refuse(frame, text, frame[text].isna() | (frame[text] == ""), "expected a text", where)
    for name in columns:
        if name == "kv_cache_dtype" or any(name in alternatives and name.endswith("dtype") for alternatives in kind.texts):
            for value in frame[name].dropna().unique():
                try:
                    formats_of(str(value) or "bfloat16")
                except UnknownNameError as error:
                    raise TableError(f"{where}, line {frame.index[frame[name] == value][0]}, column {name!r}: {error}") from None
    return kind.complete(checked)


def _whole_numbers(frame: pd.DataFrame, name: str, default: int | None, where: str) -> pd.Series:
    """A column as whole numbers from 1, or from `default`, which stands for an empty cell."""
    import pandas as pd

    numbers = pd.to_numeric(frame[name], errors="coerce").astype(float)
    smallest = 1 if default is None else default
    if default is not None:
        numbers = numbers.where(~(frame[name].isna() | (frame[name] == "")), float(default))
    bad = ~(numbers >= smallest) | (numbers > MAX_SIZE) | (numbers != np.floor(numbers))
    _refuse(frame, name, bad, f"expected a whole number from {smallest} to 2^40", where)
    return numbers.astype(np.int64)


def _refuse(frame: pd.DataFrame, name: str, bad: pd.Series, expected: str, where: str) -> None:
    """TableError at the first bad row."""
    if bad.any():
        position = int(np.argmax(bad.to_numpy()))
        raise TableError(f"{where}, line {frame.index[position]}, column {name!r}: {expected}, found {shown(frame[name].iloc[position])}")


def shown_names(columns: Sequence[str]) -> str:
    """Names of columns in an error message, cut short."""
    names = [name if len(name) <= 30 and name.isprintable() else shown(name) for name in columns[:30]]
    return ", ".join(names) + (", ..." if len(columns) > 30 else "")


def predict(frame: pd.DataFrame, kind: TableKind, system: System) -> dict[str, np.ndarray]:
    """Predict every row of a checked table.

    Returns
    -------
    dict
        ``predicted_s``, ``low_s``, ``high_s`` (seconds) and ``limiter``, arrays of one entry per row, and ``interval_key``.
    """
    count = len(frame)
    out: dict[str, np.ndarray] = {name: np.full(count, np.nan) for name in ("predicted_s", "low_s", "high_s")}
    out["limiter"] = np.full(count, "", dtype=object)
    out["interval_key"] = np.full(count, "", dtype=object)
    machine = Machine.of(system)
    for call in kind.calls(frame, system):
        times = run(call, machine, system.link)
        key = interval_key(call.family, str(call.options.get("arithmetic", "")))
        time = np.broadcast_to(times.time_s, call.index.shape)
        out["predicted_s"][call.index] = time
        out["low_s"][call.index], out["high_s"][call.index] = bounds(system, key, time)
        out["limiter"][call.index] = np.broadcast_to(times.limiter(), call.index.shape)
        out["interval_key"][call.index] = key
    return out


def run(call: Call, machine: Machine, link: Link) -> KernelTimes:
    """One call through its closed form."""
    return evaluate(call.family, machine, link, call.sizes, call.options)
