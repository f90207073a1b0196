"""From Ops to the GPU kernels that would run them: family, sizes and static options, ready for the closed forms."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from ...errors import MappingError
from ...workloads.op import SPECIAL, Op, Operand
from .sparse import sparse_options

#: Arithmetic that a GPU falls back to when it lacks the wanted one, nearest first.
FALLBACK: Final = {
    "bf16": ("fp16",),
    "fp8": ("fp16",),
    "fp4": ("fp8", "fp16"),
    "int4": ("int8", "fp16"),
    "int8": ("fp16",),
    "tf32": (),
    "fp32": (),
    "fp64": (),
}

#: Scans with a closed form of their own, and the sizes that it takes (mapping/gpu/scan.py); other scans move their bytes.
SCANS: Final = {
    "causal_conv1d": ("batch", "seq_len", "channels", "width"),
    "causal_conv1d_update": ("batch", "channels", "width"),
    "mamba2_scan": ("batch", "seq_len", "heads", "head_dim", "state_dim", "groups", "chunk"),
    "mamba2_update": ("batch", "heads", "head_dim", "state_dim"),
    "gated_delta": ("batch", "seq_len", "key_heads", "value_heads", "key_dim", "value_dim", "chunk"),
    "gated_delta_update": ("batch", "value_heads", "key_dim", "value_dim"),
}


@dataclass(frozen=True)
class Kernel:
    """One kernel launch (or a fixed small group of them) as a closed form takes it.

    Attributes
    ----------
    op
        Name of the op.
    family
        Closed form: ``gemm``, ``grouped_gemm``, ``attention_prefill``, ``attention_decode``, ``memory``, ``scan``, ``collective``.
    sizes
        Numbers that vary from kernel to kernel.
    options
        What selects a variant; kernels with equal family and options are evaluated together.
    launches
        Kernels that the host submits for it.
    flops
        Floating-point operations, for achieved rates.
    """

    op: str
    family: str
    sizes: Mapping[str, float]
    options: Mapping[str, Any] = field(default_factory=dict)
    launches: int = 1
    flops: float = 0.0

    @property
    def batch_key(self) -> tuple[Any, ...]:
        """Kernels with equal keys go through one vectorised call."""
        return (self.family, tuple(sorted(self.sizes)), tuple(sorted(self.options.items())))


def arithmetic_of(name: str, available: Mapping[str, Any]) -> str:
    """The tensor-core arithmetic that executes a number format on a GPU; ``"fma"`` where none does.

    >>> arithmetic_of("bf16", {"fp16": 1024.0})
    'fp16'
    """
    for candidate in (name, *FALLBACK.get(name, ())):
        if candidate in available:
            return candidate
    return "fma"


def lower(op: Op, available: Mapping[str, Any]) -> Kernel:
    """Choose the kernel family of an op.

    Parameters
    ----------
    op
        Any op of a graph.
    available
        Tensor-core rates of the GPU by arithmetic.

    Raises
    ------
    MappingError
        The op lacks a dimension that its kind needs.
    """
    try:
        return _LOWER[op.kind](op, available)
    except KeyError as error:
        raise MappingError(f"op {op.name!r} ({op.kind}): needs dimension or attribute {error}, which it lacks") from None


def _operand(op: Op, role: str, index: int) -> Operand:
    found = [o for o in op.operands if (o.role == "output") == (role == "output")]
    if index >= len(found):
        raise MappingError(f"op {op.name!r} ({op.kind}) has no {role} operand {index}")
    return found[index]


def _matmul_formats(op: Op, available: Mapping[str, Any]) -> dict[str, Any]:
    a, w, out = _operand(op, "input", 0), _operand(op, "input", 1), _operand(op, "output", 0)
    wide = max((a.number_format, w.number_format), key=lambda f: f.element_bits)
    name = wide.arithmetic
    if name == "fp32" and op.attributes.get("allow_tf32"):
        name = "tf32"
    arithmetic = arithmetic_of(name, available)
    return {
        "arithmetic": arithmetic,
        "a_bits": a.number_format.bits,
        "w_bits": w.number_format.bits,
        "out_bits": _epilogue_bits(op, out),
        "dequantise": w.number_format.dense.bits < a.number_format.dense.bits,
    } | sparse_options(w.number_format, arithmetic)


def _epilogue_bits(op: Op, out: Operand) -> float:
    """Bits that leave or enter per element of the result: its format, or what a fused epilogue reads and writes beside it."""
    if "epilogue_bytes" not in op.attributes:
        return out.number_format.bits
    return 8.0 * op.attributes["epilogue_bytes"] / op.elements(out)


def _copies(op: Op) -> float:
    """Distinct second operands used before the same one comes again: a parameter returns only after all others, an activation at once."""
    return math.inf if op.operand_bytes("weight", "cache") > 0 else 1.0


def _matmul(op: Op, available: Mapping[str, Any]) -> Kernel:
    options = _matmul_formats(op, available)
    d = op.dims
    if "groups" in op.attributes:
        sizes = {"rows": d["m"], "n": d["n"], "k": d["k"], "groups": op.attributes["groups"]}
        if op.attributes.get("distribution") == "balanced":
            sizes["active"] = min(d["m"], sizes["groups"])
        options = {name: options[name] for name in ("arithmetic", "w_bits", "pruned") if name in options}
        options["warm"] = op.operand_bytes("weight") == 0  # other layers ran since these weights were read
        return Kernel(op.name, "grouped_gemm", sizes, options, op.attributes.get("launches", 1), op.flops)
    batch = math.prod(extent for name, extent in d.items() if name not in ("m", "n", "k"))
    options["weight_copies"] = _copies(op)
    return Kernel(
        op.name, "gemm", {"m": d["m"], "n": d["n"], "k": d["k"], "batch": batch}, options, op.attributes.get("launches", 1), op.flops
    )


def _conv(op: Op, available: Mapping[str, Any]) -> Kernel:
    d = op.dims
    pixels = math.prod(d.get(x, 1) for x in ("b", "p", "q", "z"))
    window = math.prod(d.get(x, 1) for x in ("r", "s", "t"))
    if d["c"] * d["m"] == 1 or d["m"] == 1:
        return _memory(op, available)
    options = _matmul_formats(op, available) | {"weight_copies": math.inf}
    sizes = {"m": pixels, "n": d["m"], "k": d["c"] * window, "batch": d.get("g", 1), "a_reuse": window}
    return Kernel(op.name, "gemm", sizes, options, 1, op.flops)


def _attention(op: Op, available: Mapping[str, Any]) -> Kernel:
    d, a = op.dims, op.attributes
    q, k = _operand(op, "input", 0), _operand(op, "input", 1)
    sizes = {
        "batch": d["b"],
        "q_len": d["q"],
        "kv_len": d["s"],
        "q_heads": d["h"] * d["g"],
        "kv_heads": d["h"],
        "head_dim": d["e"],
        "window": a.get("window", 0) or 0,
        "v_head_dim": a.get("v_head_dim", d["e"]),
    }
    if a.get("backward"):  # five products of the forward's sizes for its two: timed as so many more sequences of the forward kernel
        sizes["batch"] *= op.body["mac"] / (1.0 + sizes["v_head_dim"] / d["e"])
    options: dict[str, Any] = {"arithmetic": arithmetic_of(q.number_format.arithmetic, available), "kv_bits": k.number_format.bits}
    if "kv_lengths" in a:  # requests of different lengths
        options["kv_lengths"] = tuple(a["kv_lengths"])
    if d["q"] <= 8 and a.get("phase", "decode") == "decode":
        options["cold"] = op.operand_bytes("cache") > 0
        return Kernel(op.name, "attention_decode", sizes, options, a.get("launches", 1), op.flops)
    options["causal"] = bool(a.get("causal", False))
    return Kernel(op.name, "attention_prefill", sizes, options, a.get("launches", 1), op.flops)


def _memory(op: Op, available: Mapping[str, Any]) -> Kernel:
    kind = op.kind if op.kind in ("norm", "softmax", "reduce", "gather", "copy") else "elementwise"
    read = op.bytes_read
    sizes = {
        "bytes_read": read,
        "bytes_written": op.bytes_written,
        "fma_ops": op.scalar_ops("mac", "add", "mul", "cmp", "int"),
        "sfu_ops": op.scalar_ops(*SPECIAL),
        "resident": 1.0 - op.operand_bytes("weight", "cache") / read if read else 1.0,
    }
    if kind in ("norm", "softmax") and "r" in op.dims:
        sizes["rows"] = op.dims["r"]
    if kind == "gather" and "c" in op.dims and "n" in op.dims:
        sizes |= {"rows": op.dims["n"], "row_bytes": op.dims["c"] * _operand(op, "output", 0).number_format.bytes}
    return Kernel(op.name, "memory", sizes, {"kind": kind}, op.attributes.get("launches", 1), op.flops)


def _scan(op: Op, available: Mapping[str, Any]) -> Kernel:
    variant = op.attributes.get("variant", "cumsum")
    if variant not in SCANS:
        return _memory(op, available)
    sizes = {name: float(op.attributes[name]) for name in SCANS[variant] if name in op.attributes}
    return Kernel(op.name, "scan", sizes, {"variant": variant}, op.attributes.get("launches", 1), op.flops)


def _collective(op: Op, available: Mapping[str, Any]) -> Kernel:
    # The message is the larger side: what an all-gather gives, what a reduce-scatter takes.
    sizes = {"message_bytes": max(op.bytes_read, op.bytes_written), "num_gpus": op.attributes["devices"]}
    options = {"operation": op.attributes["operation"], "process_per_gpu": True}  # as serving and training frameworks run
    if "implementation" in op.attributes:
        options["implementation"] = op.attributes["implementation"]
    return Kernel(op.name, "collective", sizes, options, 1, 0.0)


_LOWER: Final = {
    "matmul": _matmul,
    "conv": _conv,
    "attention": _attention,
    "norm": _memory,
    "softmax": _memory,
    "elementwise": _memory,
    "reduce": _memory,
    "gather": _memory,
    "copy": _memory,
    "scan": _scan,
    "collective": _collective,
    "view": _memory,
    "unknown": _memory,
}
