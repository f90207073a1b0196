"""Tuned configs of fused mixture-of-experts kernels, as SGLang and vLLM ship them for each GPU name.

The files lie in the wheels (``.../configs/**/E=8,N=3584,device_name=NVIDIA_A100-SXM4-80GB.json``): experts of the rank, intermediate size
of the rank, GPU, number format; inside, one config for each of some numbers of tokens, of which the framework takes the nearest
(``get_moe_configs`` and ``try_get_optimal_moe_config`` of both). A folder of an unpacked wheel is read; none of it is in this package.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ..errors import TableError
from ..mapping.gpu.moe_kernels import Tile

#: What ``torch.cuda.get_device_name`` says, with underscores, of the GPU of a device file.
GPU_NAMES: Final[Mapping[str, str]] = {
    "a100-sxm-40gb": "NVIDIA_A100-SXM4-40GB",
    "a100-sxm-80gb": "NVIDIA_A100-SXM4-80GB",
    "b200": "NVIDIA_B200",
    "gb200": "NVIDIA_GB200",
    "h100-sxm": "NVIDIA_H100_80GB_HBM3",
    "h20": "NVIDIA_H20",
    "h200-sxm": "NVIDIA_H200",
    "l40s": "NVIDIA_L40S",
}
#: Formats of a table's ``moe_dtype`` in a file's name; 16 bits have none.
_SELECTORS: Final = {"fp8": "dtype=fp8_w8a8", "fp8_block": "dtype=fp8_w8a8,block_shape=[128,128]"}
_NAME: Final = re.compile(r"E=(\d+),N=(\d+),device_name=([^,]+)((?:,.*)?)\.json")
_TRITON: Final = re.compile(r"triton_(\d+)_(\d+)_(\d+)")
#: What Triton takes where a config does not say.
TRITON_DEFAULTS: Final = {"num_warps": 4, "num_stages": 3}
_KEYS: Final = ("BLOCK_SIZE_M", "BLOCK_SIZE_N", "BLOCK_SIZE_K", "GROUP_SIZE_M")


@dataclass(frozen=True)
class TunedConfigs:
    """Tuned files of a folder.

    Attributes
    ----------
    files
        Path by (library, experts, intermediate size, GPU name, rest of the name). Of SGLang's folders, one for each version of Triton, the
        newest that has the file: what its fallback list does from the Triton that these tables ran (3.5).
    """

    files: Mapping[tuple[str, int, int, str, str], Path]

    def find(self, library: str, system: str, experts: int, inter: int, tokens: int, moe_dtype: str) -> Tile | None:
        """Config for a call of `tokens`; None where no file ships for the shape, format and GPU.

        Raises
        ------
        TableError
            The file is not as the frameworks write it.
        """
        path = self.files.get((library, experts, inter, GPU_NAMES.get(system, ""), _SELECTORS.get(moe_dtype, "")))
        if path is None:
            return None
        configs = read_configs(path)
        return configs[min(configs, key=lambda m: abs(m - tokens))]


def read_configs(path: Path) -> dict[int, Tile]:
    """Tile by number of tokens; warps and stages are Triton's defaults, 4 and 3, where the file does not say.

    Raises
    ------
    TableError
        It is no JSON object of configs, or a config lacks a block size.
    """
    try:
        document = json.loads(path.read_text())
        items = {int(tokens): dict(config) for tokens, config in document.items() if tokens != "triton_version"}
    except (ValueError, AttributeError, TypeError) as error:
        raise TableError(f"{path}: not a file of configs by number of tokens: {error}") from None
    if not items:
        raise TableError(f"{path}: no config")
    for tokens, config in items.items():
        for key in _KEYS:
            if not isinstance(config.get(key), int):
                raise TableError(f"{path}: the config for {tokens} tokens has no {key}; it has {', '.join(config)}")
    return {tokens: Tile(*[int({**TRITON_DEFAULTS, **config}[key]) for key in (*_KEYS, *TRITON_DEFAULTS)])
            for tokens, config in items.items()}


def read_tuned(folder: Path) -> TunedConfigs:
    """Tuned files under a folder, of one version of each framework.

    SGLang's lie in folders ``triton_X_Y_Z``, vLLM's do not.

    Raises
    ------
    TableError
        There is none, or two of a name say different things.
    """
    found: dict[tuple[str, int, int, str, str], tuple[tuple[int, ...], Path]] = {}
    for path in sorted(folder.rglob("E=*.json")):
        match = _NAME.fullmatch(path.name)
        if match is None:
            continue
        experts, inter, gpu, rest = match.groups()
        of_triton = _TRITON.fullmatch(path.parent.name)
        version = tuple(int(part) for part in of_triton.groups()) if of_triton else ()
        key = ("sglang" if of_triton else "vllm", int(experts), int(inter), gpu, rest.replace(" ", "").lstrip(","))
        other = found.get(key)
        if other is not None and other[0] == version and other[1].read_bytes() != path.read_bytes():
            raise TableError(f"{other[1]} and {path} differ: name a folder with one version of each framework")
        if other is None or version >= other[0]:
            found[key] = version, path
    if not found:
        raise TableError(f"{folder}: no tuned config file, such as E=8,N=3584,device_name={GPU_NAMES['h100-sxm']}.json")
    return TunedConfigs({key: path for key, (_, path) in found.items()})
