"""Kernels as an older Triton compiles them: a program of its own, for the Python in which that Triton is installed.

``python older_triton.py OUT`` needs Triton 3.0 to 3.3 and nothing of presilicon; it compiles tutorial 03's matmuls (`kernels/gemm.py`) for
sm_80, no GPU needed, and writes OUT/NAME.cubin and OUT/kernels.json with the shared memory of each. `tutorials.compare` takes OUT as
`cubins`. `make triton-accuracy` runs it in an environment of its own, into which it installs Triton 3.0.0 from PyPI.
``python older_triton.py OUT attention`` adds tutorial 06's attention of 2024 (`kernels/published.py`) for sm_90, which `published` takes.
"""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

#: BLOCK_M, BLOCK_N, BLOCK_K, stages, warps of tutorial 03's CUDA autotune set (release 3.0), in its order.
MATMUL_CONFIGS: Sequence[tuple[int, int, int, int, int]] = (
    (128, 256, 64, 3, 8), (64, 256, 32, 4, 4), (128, 128, 32, 4, 4), (128, 64, 32, 4, 4), (64, 128, 32, 4, 4), (128, 32, 32, 4, 4),
    (64, 32, 32, 5, 2), (32, 64, 32, 5, 2), (128, 256, 128, 3, 8), (256, 128, 128, 3, 8), (256, 64, 128, 4, 4), (64, 256, 128, 4, 4),
    (128, 128, 128, 4, 4), (128, 64, 64, 4, 4), (64, 128, 64, 4, 4), (128, 32, 64, 4, 4),
)
#: BLOCK_M, BLOCK_N, warps, stages of tutorial 06's autotune set in release 3.0, and of the copy of it in pytorch/benchmark in July 2024.
#: Both leave out 8 warps on tiles below 128x128; those that no SM has the shared memory for are passed over.
ATTENTION_CONFIGS: dict[str, Sequence[tuple[int, int, int, int]]] = {
    "tutorial-2024": tuple((m, n, 4, stages) for m in (64, 128) for n in (32, 64) for stages in (3, 4, 7)),
    "torchbench-2024": tuple((m, n, warps, stages) for m in (64, 128) for n in (64, 128) for stages in (3, 4, 7) for warps in (4, 8)
                             if warps == 4 or m * n == 128 * 128),
}
#: Element type, head size, causal or not, and autotune set of the attention kernels whose figures were published.
ATTENTION_KERNELS: Sequence[tuple[str, int, bool, str]] = (
    ("float16", 64, False, "tutorial-2024"), ("float16", 128, False, "tutorial-2024"), ("float16", 128, True, "tutorial-2024"),
    ("bfloat16", 128, False, "torchbench-2024"), ("float8_e4m3fn", 64, False, "tutorial-2024"),
    ("float8_e4m3fn", 128, False, "tutorial-2024"), ("float8_e4m3fn", 256, False, "tutorial-2024"),
    ("float8_e4m3fn", 256, True, "tutorial-2024"),
)
#: Triton's names of the element types by torch's.
TYPES = {"float16": "fp16", "float8_e5m2": "fp8e5"}
ATTENTION_TYPES = {"float16": "fp16", "bfloat16": "bf16", "float8_e4m3fn": "fp8e4nv"}


def name_of(dtype: str, config: Sequence[int]) -> str:
    """File name of one matmul, without its ending."""
    return f"{dtype}.{'x'.join(map(str, config))}"


def attention_name(dtype: str, head_dim: int, causal: bool, config: Sequence[int]) -> str:
    """File name of one attention kernel, without its ending."""
    return f"attention.{dtype}.{head_dim}.{'causal' if causal else 'full'}.{'x'.join(map(str, config))}"


def older_version(folder: Path) -> str:
    """Version of the Triton whose kernels a folder holds; ``"?"`` where it does not say."""
    try:
        return str(json.loads((folder / "kernels.json").read_text(encoding="utf-8"))["triton"])
    except (OSError, KeyError, ValueError):
        return "?"


def compile_for(kernel: Any, arch: int, signature: dict[str, str], constants: dict[str, Any], ones: Sequence[str], warps: int,
                stages: int) -> Any:
    """The kernel for one compute capability; arguments that are no floats are divisible by 16, and `ones` are 1."""
    compiler: Any = importlib.import_module("triton.compiler.compiler")
    backend: Any = importlib.import_module("triton.backends.compiler")
    names = list(kernel.arg_names)
    wide = [names.index(name) for name, kind in signature.items() if kind != "fp32"]
    same = [names.index(name) for name in ones]
    described = getattr(backend, "AttrsDescriptor", None) or getattr(compiler, "AttrsDescriptor", None)
    if described is None:  # from release 3.3 on
        kinds = {name: signature.get(name, "constexpr") for name in names}
        attributes: Any = {(place,): [["tt.divisibility", 16]] for place in wide}
        source = compiler.ASTSource(kernel, signature=kinds, constexprs=constants, attrs=attributes)
    else:
        if hasattr(described, "from_hints"):  # release 3.2
            attributes = described.from_hints(dict.fromkeys(wide, 16) | dict.fromkeys(same, 1))
        else:
            attributes = described(divisible_by_16=tuple(wide), equal_to_1=tuple(same))
        source = compiler.ASTSource(kernel, signature=signature, constants=constants, attrs=attributes)
    return compiler.compile(source, target=backend.GPUTarget("cuda", arch, 32), options={"num_warps": warps, "num_stages": stages})


def compile_matmul(kernel: Any, dtype: str, config: Sequence[int]) -> Any:
    """The kernel for sizes divisible by 16, as a launch of the tutorial specialises it: fp8 takes B transposed."""
    block_m, block_n, block_k, stages, warps = config
    constants: dict[str, Any] = {"BLOCK_M": block_m, "BLOCK_N": block_n, "BLOCK_K": block_k, "GROUP_M": 8, "INT8": False, "SCALED": False}
    ones = ["stride_ak", "stride_cn", "stride_bk" if dtype.startswith("float8") else "stride_bn"]
    constants |= dict.fromkeys(ones, 1)
    signature = {name: "*fp16" if name == "c_ptr" else "*" + TYPES[dtype] if name.endswith("_ptr") else "i32"
                 for name in kernel.arg_names if name not in constants}
    return compile_for(kernel, 80, signature, constants, ones, warps, stages)


def compile_attention(kernel: Any, dtype: str, head_dim: int, causal: bool, config: Sequence[int]) -> Any:
    """The kernel for lengths divisible by 16; fp8 takes V by columns and writes fp16."""
    block_m, block_n, warps, stages = config
    fp8 = dtype.startswith("float8")
    constants: dict[str, Any] = {"HEAD_DIM": head_dim, "BLOCK_M": block_m, "BLOCK_N": block_n, "CAUSAL": causal, "V_BY_COLUMNS": fp8,
                                 "BLOCK_POINTERS": True}
    kinds = {"lse_ptr": "*fp32", "scale": "fp32", "N": "i32"} | ({"out_ptr": "*fp16"} if fp8 else {})
    signature = {name: kinds.get(name, "*" + ATTENTION_TYPES[dtype]) for name in kernel.arg_names if name not in constants}
    return compile_for(kernel, 90, signature, constants, [], warps, stages)


def main(out: Path, what: str = "matmul") -> None:
    """Write all configs of the matmuls in both element types, or of the attention kernels."""
    kernels = importlib.import_module("kernels." + {"matmul": "gemm", "attention": "published"}[what])
    jobs: list[tuple[str, Any, tuple[Any, ...]]]
    if what == "matmul":
        jobs = [(name_of(dtype, config), compile_matmul, (kernels.matmul, dtype, config)) for dtype in TYPES for config in MATMUL_CONFIGS]
    else:
        jobs = [(attention_name(dtype, dim, causal, config), compile_attention, (kernels.attention_tiles, dtype, dim, causal, config))
                for dtype, dim, causal, configs in ATTENTION_KERNELS for config in ATTENTION_CONFIGS[configs] if config[1] <= dim]
    out.mkdir(parents=True, exist_ok=True)
    index = out / "kernels.json"
    shared = json.loads(index.read_text(encoding="utf-8"))["shared_bytes"] if index.is_file() else {}
    for name, compile_one, args in jobs:
        made = compile_one(*args)
        (out / f"{name}.cubin").write_bytes(made.asm["cubin"])
        shared[name] = int(made.metadata.shared)
    version = importlib.import_module("triton").__version__
    index.write_text(json.dumps({"triton": version, "shared_bytes": shared}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
