"""Attention implementations by name and GPU generation, and the names that op tables use for them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from ...errors import MappingError
from .attention_ampere import AMPERE
from .attention_blackwell import BLACKWELL_KERNELS
from .attention_hopper import HOPPER_KERNELS
from .attention_types import Implementation

#: By the name that a call's ``implementation`` option takes: the kernels of sm_80, or of the oldest generation that a library serves.
IMPLEMENTATIONS: Final[Mapping[str, Implementation]] = {
    **BLACKWELL_KERNELS,
    **HOPPER_KERNELS,
    **AMPERE,
    "sglang": AMPERE["fa3"],
    "sglang-index-put": replace(AMPERE["fa3"], launches_prefill=3.8, launches_decode=3.8, kv_passes=0.9, write_bytes_per_clk=4.0),
    "trtllm-1.0": AMPERE["trtllm"],
    "vllm": AMPERE["fa2"],
}
#: The names under which a generation ships other kernels than sm_80.
_OF_GENERATION: Final[Mapping[str, Mapping[str, Implementation]]] = {
    "sm_90": HOPPER_KERNELS,
    "sm_100": BLACKWELL_KERNELS,
    "sm_103": BLACKWELL_KERNELS,
}
_KERNEL_SOURCES: Final[Mapping[str, str]] = {
    "flash_attention": "sglang",
    "trtllm_mha": "sglang-trtllm",
    "vllm_flash_attn": "vllm",
    "vllm_flash_attn_fa2": "fa2",
    "vllm_flash_attn_fa3": "vllm",
    "torch_flow": "trtllm",
    "flashinfer": "flashinfer",
    "vllm_flashinfer": "flashinfer-vllm",
    "vllm_flashinfer_fidecode": "flashinfer-vllm",
    "vllm_flashinfer_fiprefill": "flashinfer-vllm",
    "triton": "triton",
    "vllm_triton_attn": "triton-vllm",
    "vllm_vit_flash_attn_fa2": "fa2-dense",
}
#: The same for latent attention.
_LATENT_SOURCES: Final[Mapping[str, str]] = {
    "default": "trtllm-mla",
    "flash_attention": "sglang-mla",
    "trtllm_mla": "sglang-trtllm-mla",
    "vllm_flash_attn_mla": "vllm-fa3-mla",
    "vllm_flashmla": "vllm-flashmla",
    "vllm_triton_mla": "triton-mla",
}
#: From this version on SGLang stores new keys and values with a kernel of its own.
_SGLANG_STORES: Final = (0, 5, 8)
#: From this version on TensorRT-LLM's XQA takes calls with an fp8 cache however small their grid.
_TRTLLM_XQA_ALWAYS: Final = (1, 2)
#: Before this version TensorRT-LLM's latent cache is of 16 bits whatever the table says.
_TRTLLM_FP8_LATENT: Final = (1, 1)


def _number(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.match(r"[\d.]*", version).group().strip(".").split(".") if part)  # type: ignore[union-attr]


def implementation_of(kernel_source: str | float | None, version: str | float | None = None) -> dict[str, Any]:
    """Options of `attention_prefill` and `attention_decode` for the kernel that an op table names.

    Parameters
    ----------
    kernel_source
        As in the AIConfigurator tables (``"flash_attention"``, ``"torch_flow"`` ...); else the general case.
    version
        Of the framework that ran it, as far as it is known.

    >>> implementation_of("torch_flow")
    {'implementation': 'trtllm'}
    >>> implementation_of(None)
    {}
    """
    source = str(kernel_source)
    name = _KERNEL_SOURCES.get(source, _LATENT_SOURCES.get(source))
    if name is None:
        return {}
    number = _number(str(version))
    if name == "sglang" and number and number < _SGLANG_STORES:
        name = "sglang-index-put"
    if name == "trtllm" and number and number < _TRTLLM_XQA_ALWAYS:
        name = "trtllm-1.0"
    return {"implementation": name}


def latent_implementation_of(kernel_source: str | float | None, version: str | float | None = None) -> dict[str, Any]:
    """The same for latent attention (MLA), where one name of a table may stand for other kernels.

    >>> latent_implementation_of("default", "1.0.0rc3")
    {'implementation': 'trtllm-mla', 'kv_bits': 16.0}
    """
    name = _LATENT_SOURCES.get(str(kernel_source))
    if name is None:
        return {}
    number = _number(str(version))
    narrow = {} if name != "trtllm-mla" or not number or number >= _TRTLLM_FP8_LATENT else {"kv_bits": 16.0}
    return {"implementation": name} | narrow


def resolve(name: str | None, generation: str) -> Implementation:
    """The implementation of a name on a GPU generation; None: the general case.

    Raises
    ------
    MappingError
        No implementation has the name.
    """
    name = name or "flash"
    if name not in IMPLEMENTATIONS:
        raise MappingError(f"no attention implementation {name!r}; known: {', '.join(IMPLEMENTATIONS)}")
    return _OF_GENERATION.get(generation, {}).get(name, IMPLEMENTATIONS[name])
