"""Launches that several tests use, and what NumPy says of their addresses."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import torch

from presilicon.mapping.triton import Evaluation, Launch, bind_launch, compile_launch, evaluate

kernels = sys.modules["presilicon_tests_kernels"]


def meta(*shape: int, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
    """A tensor without data."""
    return torch.empty(*shape, dtype=dtype, device="meta")


def floats(*shape: int) -> torch.Tensor:
    """A float32 tensor without data."""
    return meta(*shape, dtype=torch.float32)


def matmul(M: int, N: int, K: int, target: int, BM: int = 128, BN: int = 128, BK: int = 64, warps: int = 8, stages: int = 3,
           group: int = 8, dtype: torch.dtype = torch.bfloat16) -> Launch:
    """The tutorial GEMM on contiguous operands."""
    a, b, c = meta(M, K, dtype=dtype), meta(K, N, dtype=dtype), meta(M, N)
    grid = (-(-M // BM) * -(-N // BN),)
    options = {"BLOCK_M": BM, "BLOCK_N": BN, "BLOCK_K": BK, "GROUP_M": group, "num_warps": warps, "num_stages": stages}
    return bind_launch(kernels.matmul, grid, (a, b, c, M, N, K, K, 1, N, 1, N, 1), options, target=target)


def matmul_tma(M: int, N: int, K: int, target: int, specialize: bool = False, BM: int = 128, BN: int = 128,
               BK: int = 64) -> Launch:
    """The GEMM through host-side tensor descriptors; B is N by K."""
    from triton.tools.tensor_descriptor import TensorDescriptor

    make = TensorDescriptor.from_tensor
    args = (make(meta(M, K), [BM, BK]), make(meta(N, K), [BN, BK]), make(meta(M, N), [BM, BN]), M, N, K)
    options = {"BLOCK_M": BM, "BLOCK_N": BN, "BLOCK_K": BK, "SPECIALIZE": specialize, "num_warps": 4 if specialize else 8,
               "num_stages": 3 if target != 120 else 2}
    return bind_launch(kernels.matmul_tma, (-(-M // BM) * -(-N // BN),), args, options, target=target)


def attention(batch: int, heads: int, length: int, head: int, target: int, causal: bool, block: int = 64) -> Launch:
    """Flash attention forward on contiguous operands."""
    q, k, v, o = (meta(batch, heads, length, head) for _ in range(4))
    args = (q, k, v, o, 0.1, heads, length, heads * length * head, length * head, head)
    options = {"HEAD": head, "BLOCK_M": block, "BLOCK_N": block, "CAUSAL": causal, "num_warps": 4}
    return bind_launch(kernels.attention, (-(-length // block), batch * heads), args, options, target=target)


def softmax(rows: int, columns: int, programs: int, target: int, block: int = 1024) -> Launch:
    """Softmax over rows by a few persistent programs."""
    args = (floats(rows, columns), floats(rows, columns), columns, columns, rows, columns)
    return bind_launch(kernels.softmax, (programs,), args, {"BLOCK": block, "STAGES": 2}, target=target)


def add(n: int, target: int, block: int = 256) -> Launch:
    """Elementwise sum with a masked last block."""
    return bind_launch(kernels.add, (-(-n // block),), (floats(n), floats(n), floats(n), n), {"BLOCK": block}, target=target)


def strided_copy(rows: int, columns: int, stride: int, target: int) -> Launch:
    """Two-dimensional copy whose program ids need a 64-bit division."""
    down, across = -(-rows // 32), -(-columns // 32)
    args = (floats(rows, stride), floats(rows, columns), rows, columns, stride)
    return bind_launch(kernels.strided_copy, (across, down), args, {"BLOCK_R": 32, "BLOCK_C": 32}, target=target)


def follow(launch: Launch, **options: Any) -> Evaluation:
    """Compile and evaluate."""
    return evaluate(compile_launch(launch), launch, **options)


def touched(run: Evaluation, *kinds: str) -> dict[str, np.ndarray]:
    """How often each byte of each tensor argument was accessed from global memory, by argument name."""
    found = {name: np.zeros(value.size_bytes, dtype=np.int64) for name, value in run.launch.arguments.items()
             if hasattr(value, "size_bytes")}
    for touch in run.walk():
        op = run.program.memory_ops[touch.instruction]
        if op.space != "global" or op.kind not in kinds:
            continue
        at = touch.addresses[touch.active]
        for name, value in run.launch.arguments.items():
            if hasattr(value, "size_bytes"):
                inside = at[(at >= value.start) & (at < value.start + value.size_bytes)] - np.uint64(value.start)
                for byte in range(op.thread_bytes):
                    np.add.at(found[name], inside.astype(np.int64) + byte, 1)
    return found


def spread(elements: np.ndarray, size: int) -> np.ndarray:
    """Access counts of elements as access counts of bytes."""
    return np.repeat(elements.ravel(), size)
