"""Tutorial 03's matmuls as an older Triton compiles them: a program of its own, for the Python in which that Triton is installed.

``python older_triton.py OUT`` needs Triton 3.0 or 3.1 and nothing of presilicon; it compiles `kernels/gemm.py` for sm_80, no GPU needed,
and writes OUT/DTYPE.CONFIG.cubin and OUT/kernels.json with the shared memory of each. `tutorials.compare` takes OUT as `cubins`.
`make triton-accuracy` runs it in an environment of its own, into which it installs Triton 3.0.0 from PyPI.
"""

from __future__ import annotations

import importlib
import importlib.util
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
#: Triton's names of the element types by torch's.
TYPES = {"float16": "fp16", "float8_e5m2": "fp8e5"}


def name_of(dtype: str, config: Sequence[int]) -> str:
    """File name of one kernel, without its ending."""
    return f"{dtype}.{'x'.join(map(str, config))}"


def older_version(folder: Path) -> str:
    """Version of the Triton whose kernels a folder holds; ``"?"`` where it does not say."""
    try:
        return str(json.loads((folder / "kernels.json").read_text(encoding="utf-8"))["triton"])
    except (OSError, KeyError, ValueError):
        return "?"


def compile_one(kernel: Any, dtype: str, config: Sequence[int]) -> Any:
    """The kernel for sizes divisible by 16, as a launch of the tutorial specialises it: fp8 takes B transposed."""
    compiler: Any = importlib.import_module("triton.compiler.compiler")
    target: Any = importlib.import_module("triton.backends.compiler").GPUTarget("cuda", 80, 32)
    block_m, block_n, block_k, stages, warps = config
    constants: dict[str, Any] = {"BLOCK_M": block_m, "BLOCK_N": block_n, "BLOCK_K": block_k, "GROUP_M": 8, "INT8": False, "SCALED": False}
    ones = ["stride_ak", "stride_cn", "stride_bk" if dtype.startswith("float8") else "stride_bn"]
    constants |= dict.fromkeys(ones, 1)
    names = list(kernel.arg_names)
    signature = {name: "*fp16" if name == "c_ptr" else "*" + TYPES[dtype] if name.endswith("_ptr") else "i32"
                 for name in names if name not in constants}
    places = [tuple(names.index(name) for name in group) for group in (signature, ones)]
    try:
        attributes = compiler.AttrsDescriptor(*places)
    except TypeError:
        attributes = compiler.AttrsDescriptor(divisible_by_16=places[0], equal_to_1=places[1])
    source = compiler.ASTSource(kernel, signature=signature, constants=constants, attrs=attributes)
    return compiler.compile(source, target=target, options={"num_warps": warps, "num_stages": stages})


def main(out: Path) -> None:
    """Write all configs of both element types."""
    spec = importlib.util.spec_from_file_location("gemm", Path(__file__).resolve().parent / "kernels" / "gemm.py")
    assert spec is not None
    assert spec.loader is not None
    gemm = sys.modules["gemm"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(gemm)
    out.mkdir(parents=True, exist_ok=True)
    shared = {}
    for dtype in TYPES:
        for config in MATMUL_CONFIGS:
            made = compile_one(gemm.matmul, dtype, config)
            (out / f"{name_of(dtype, config)}.cubin").write_bytes(made.asm["cubin"])
            shared[name_of(dtype, config)] = int(made.metadata.shared)
    version = importlib.import_module("triton").__version__
    (out / "kernels.json").write_text(json.dumps({"triton": version, "shared_bytes": shared}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
