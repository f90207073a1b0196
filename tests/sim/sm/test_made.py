"""Tensor descriptors that a kernel makes itself: boxes are shared between CTAs as those of the host's are."""

from __future__ import annotations

import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("triton", reason="needs Triton (the extra `kernels`)")
torch = pytest.importorskip("torch", reason="needs torch for meta tensors")

sys.path.insert(0, str(Path(__file__).parent))

import made  # noqa: E402

from presilicon import arch  # noqa: E402
from presilicon.mapping.triton import bind_launch, compile_launch  # noqa: E402
from presilicon.sim.sm import run  # noqa: E402

SIDE = 2048
TILE = {"BM": 128, "BN": 128, "BK": 64, "num_warps": 8, "num_stages": 3}


@cache
def gemm(host: bool, target: str) -> Any:
    from triton.tools.tensor_descriptor import TensorDescriptor

    tensors = [torch.empty(SIDE, SIDE, dtype=torch.float16, device="meta") for _ in range(3)]
    blocks = [128, 64], [128, 64], [128, 128]
    maps = [TensorDescriptor.from_tensor(tensor, block) for tensor, block in zip(tensors, blocks, strict=True)]
    kernel, args = (made.by_host, maps) if host else (made.by_kernel, tensors)
    launch = bind_launch(kernel, ((SIDE // 128)**2,), (*args, SIDE, SIDE, SIDE), TILE, target=target)
    return compile_launch(launch), launch


@pytest.mark.slow
@pytest.mark.parametrize("fidelity", ["cycle", "tile"])
@pytest.mark.parametrize(("target", "name"), [("sm_90", "h100-sxm"), ("sm_100", "b200")])
def test_a_gemm_moves_what_one_with_the_hosts_descriptors_does(target: str, name: str, fidelity: str) -> None:
    """`cycle` follows every thread, `tile` one lane of each CTA in compiled code where the kernel allows it."""
    system = arch.load(name)
    host, own = (run.simulate_kernel(*gemm(by_host, target), system, fidelity=fidelity) for by_host in (True, False))
    for level in ("l2", "dram"):
        assert own.bytes_moved[level] == pytest.approx(host.bytes_moved[level], rel=0.02)
    assert own.bytes_moved["dram"] == pytest.approx(3 * 2 * SIDE**2, rel=0.05)
    assert own.tensor_flops == host.tensor_flops == 2 * SIDE**3
    assert 0.99 * host.time_s < own.time_s < 1.3 * host.time_s, "making them takes a little time, DRAM's waits are drawn"
    assert own.assumptions == ()
