"""The `analytic` fidelity: kernels grouped by family and options, each group through its closed form in one vectorised call."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import numpy as np

from ...arch import Link as LinkSpec
from ...errors import MappingError
from . import attention, collective, gemm, memory_bound, moe, scan
from .lower import Kernel
from .machine import KernelTimes, Machine

#: Arrays by size name; the forms name their own arguments.
Sizes = Mapping[str, Any]


def _gemm(machine: Machine, link: LinkSpec, sizes: Sizes, options: Mapping[str, Any]) -> KernelTimes:
    return gemm.gemm(machine, **sizes, **options)


def _grouped(machine: Machine, link: LinkSpec, sizes: Sizes, options: Mapping[str, Any]) -> KernelTimes:
    return moe.grouped_gemm(machine, sizes["rows"], sizes["n"], sizes["k"], sizes["groups"], active=sizes.get("active"), **options)


def _moe(machine: Machine, link: LinkSpec, sizes: Sizes, options: Mapping[str, Any]) -> KernelTimes:
    return moe.fused_moe(machine, **sizes, **options)


def _prefill(machine: Machine, link: LinkSpec, sizes: Sizes, options: Mapping[str, Any]) -> KernelTimes:
    return attention.attention_prefill(
        machine,
        sizes["batch"],
        sizes["q_len"],
        sizes["kv_len"],
        sizes["q_heads"],
        sizes["kv_heads"],
        sizes["head_dim"],
        v_head_dim=sizes.get("v_head_dim"),
        window=sizes.get("window", 0),
        **options,
    )


def _decode(machine: Machine, link: LinkSpec, sizes: Sizes, options: Mapping[str, Any]) -> KernelTimes:
    if "kv_lengths" in options:
        rest = {name: value for name, value in options.items() if name != "kv_lengths"}
        return _ragged(machine, link, sizes, np.array(options["kv_lengths"], dtype=float), rest)
    return attention.attention_decode(
        machine,
        sizes["batch"],
        sizes["kv_len"],
        sizes["q_heads"],
        sizes["kv_heads"],
        sizes["head_dim"],
        q_len=sizes.get("q_len", 1),
        v_head_dim=sizes.get("v_head_dim"),
        window=sizes.get("window", 0),
        **options,
    )


def _ragged(machine: Machine, link: LinkSpec, sizes: Sizes, lengths: np.ndarray, options: Mapping[str, Any]) -> KernelTimes:
    """Decode attention of requests of different lengths: the work of their sum, and no less than the longest alone.

    Split-KV kernels cut long caches and deal the pieces to the SMs evenly, so the bytes of the batch are those of the sum;
    the longest request, cut as finely as a batch of one, still has to end.
    """
    window = np.asarray(sizes.get("window", 0.0), dtype=float)
    seen = np.where(window[..., None] > 0, np.minimum(lengths, window[..., None]), lengths)
    whole = _decode(machine, link, {**sizes, "batch": np.full(window.shape, float(len(lengths))), "kv_len": seen.mean(-1)}, options)
    longest = _decode(machine, link, {**sizes, "batch": np.ones(window.shape), "kv_len": seen.max(-1)}, options)
    if np.all(longest.time_s <= whole.time_s):
        return whole
    # CTAs of equal length, which the choice describes, are then not what sets the time.
    return replace(whole, time_s=np.maximum(whole.time_s, longest.time_s), choice={})


def _memory(machine: Machine, link: LinkSpec, sizes: Sizes, options: Mapping[str, Any]) -> KernelTimes:
    return memory_bound.memory_kernel(machine, **sizes, **options)


def _scan(machine: Machine, link: LinkSpec, sizes: Sizes, options: Mapping[str, Any]) -> KernelTimes:
    forms: dict[str, Callable[..., KernelTimes]] = {
        "causal_conv1d": scan.causal_conv1d,
        "causal_conv1d_update": scan.causal_conv1d_update,
        "mamba2_scan": scan.mamba2_scan,
        "mamba2_update": scan.mamba2_update,
        "gated_delta": scan.gated_delta,
        "gated_delta_update": scan.gated_delta_update,
    }
    rest = {key: value for key, value in options.items() if key != "variant"}
    return forms[options["variant"]](machine, **sizes, **rest)


def _collective(machine: Machine, link: LinkSpec, sizes: Sizes, options: Mapping[str, Any]) -> KernelTimes:
    forms: dict[str, Callable[..., KernelTimes]] = {
        "all_reduce": collective.all_reduce,
        "all_gather": collective.all_gather,
        "reduce_scatter": collective.reduce_scatter,
        "all_to_all": collective.all_to_all,
        "send": collective.send,
    }
    rest = {key: value for key, value in options.items() if key != "operation"}
    return forms[options["operation"]](machine, collective.Link.of(link), sizes["message_bytes"], sizes["num_gpus"], **rest)


_FORMS: Final[dict[str, Callable[[Machine, LinkSpec, Sizes, Mapping[str, Any]], KernelTimes]]] = {
    "gemm": _gemm,
    "grouped_gemm": _grouped,
    "fused_moe": _moe,
    "attention_prefill": _prefill,
    "attention_decode": _decode,
    "memory": _memory,
    "scan": _scan,
    "collective": _collective,
}


def evaluate(family: str, machine: Machine, link: LinkSpec, sizes: Sizes, options: Mapping[str, Any]) -> KernelTimes:
    """Closed form of one family over arrays.

    Parameters
    ----------
    family
        One of the keys of this module's table of forms.
    machine, link
        The GPU (or an array of designs) and what joins several.
    sizes
        Arrays of shape ``(ops,)`` by name.
    options
        Static options of the family (arithmetic, operation, causal ...).

    Returns
    -------
    KernelTimes
        Arrays of shape ``(ops,)``, or ``(designs, ops)``.
    """
    if family not in _FORMS:
        raise MappingError(f"no closed form for kernel family {family!r}; known: {', '.join(_FORMS)}")
    return _FORMS[family](machine, link, sizes, options)


def groups(kernels: Sequence[Kernel]) -> dict[tuple[Any, ...], list[int]]:
    """Indices of kernels that one vectorised call can serve."""
    found: dict[tuple[Any, ...], list[int]] = defaultdict(list)
    for index, kernel in enumerate(kernels):
        found[kernel.batch_key].append(index)
    return dict(found)


def evaluate_all(kernels: Sequence[Kernel], machine: Machine, link: LinkSpec) -> list[tuple[list[int], KernelTimes]]:
    """Every kernel through its closed form: index lists into `kernels`, each with the times of that group."""
    results = []
    for indices in groups(kernels).values():
        first = kernels[indices[0]]
        sizes = {name: np.array([float(kernels[i].sizes[name]) for i in indices]) for name in first.sizes}
        results.append((indices, evaluate(first.family, machine, link, sizes, first.options)))
    return results
