"""Tensor descriptors that a kernel makes itself, against those that the host makes of the same tensors."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
import pytest

M, N, K = 300, 264, 200


def _made(lab: ModuleType, kernels: ModuleType, target: int) -> Any:
    from presilicon.mapping.triton import bind_launch

    args = (lab.meta(M, K), lab.meta(N, K), lab.meta(M, N), M, N, K)
    return bind_launch(kernels.matmul_tma_made, (9,), args, {"BLOCK_M": 128, "BLOCK_N": 128, "BLOCK_K": 64, "num_warps": 8},
                       target=target)


@pytest.mark.slow
@pytest.mark.parametrize("target", [90, 100])
def test_their_boxes_are_those_of_the_hosts(lab: ModuleType, kernels: ModuleType, target: int) -> None:
    made = lab.follow(_made(lab, kernels, target), program_ids=(7, 0, 0), trace=True)
    host = lab.follow(lab.matmul_tma(M, N, K, target), program_ids=(7, 0, 0), trace=True)
    assert made.assumptions == ()
    boxes = []
    for run in (made, host):
        names = {value.buffer.start: n for n, value in enumerate(run.maps.values())}
        found = [(run.bulk_box(bulk), bulk.coordinates, run.bulk_bytes(bulk)) for bulk in run.bulks]
        boxes.append(sorted((names[tensor.buffer.start], tensor.shape, tensor.strides, tensor.element_bytes, inside, *place, whole)
                            for (tensor, inside), place, whole in found))
    assert boxes[0] == boxes[1]
    for kind in ("tma load", "tma store"):
        assert made.memory_bytes()[kind] == host.memory_bytes()[kind]


@pytest.mark.parametrize("kernel", ["matmul_tma_made", "copy_batches"])
def test_only_descriptors_of_arguments_alone_are_the_same_in_every_cta(lab: ModuleType, kernels: ModuleType, kernel: str) -> None:
    from presilicon.mapping.triton import bind_launch, compile_launch
    from presilicon.mapping.triton.made_maps import SCRATCH_WINDOW, common
    from presilicon.mapping.triton.parameters import parameters_of

    launch = _made(lab, kernels, 90) if kernel == "matmul_tma_made" else bind_launch(
        kernels.copy_batches, (4,), (lab.meta(4 * 64, 128), lab.meta(4 * 64, 128), 64, 128), {"BLOCK_M": 64, "BLOCK_N": 64}, target=90)
    compiled = compile_launch(launch)
    bank, maps = parameters_of(compiled, launch)
    every = compiled.metadata["global_scratch_size"]
    mine = [SCRATCH_WINDOW + every + place for place in range(0, every, 128)]
    if kernel == "copy_batches":
        assert maps == {}
        assert [common(place, bank.equal) for place in mine] == mine
    else:
        assert [maps[common(place, bank.equal)].shape for place in mine] == [(M, K), (N, K), (M, N)]
    assert common(5, bank.equal) == 5


def test_a_pointer_that_is_moved_by_what_the_launch_knows(lab: ModuleType, kernels: ModuleType) -> None:
    from presilicon.mapping.triton import bind_launch, compile_launch
    from presilicon.mapping.triton.made_maps import made_maps

    args = (lab.meta(256, 128), lab.meta(256, 128), 128, 128, 64)
    launch = bind_launch(kernels.copy_below, (2,), args, {"BLOCK_M": 64, "BLOCK_N": 64}, target=90)
    found = made_maps(compile_launch(launch), launch)
    assert [m.buffer.address - m.buffer.start for m in found.values()] == [64 * 128 * 2 + launch.arguments["in_ptr"].address
                                                                          - launch.arguments["in_ptr"].start,
                                                                          launch.arguments["out_ptr"].address
                                                                          - launch.arguments["out_ptr"].start]
    assert {m.strides for m in found.values()} == {(128, 1)}
    assert np.unique([m.block_shape for m in found.values()]).tolist() == [64]
