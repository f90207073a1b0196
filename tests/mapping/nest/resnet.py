"""The convolutions and the classifier of ResNet-50 (He et al., CVPR 2016, table 1; the stride in the 3x3, as torchvision has it)."""

from __future__ import annotations

import dataclasses

from presilicon.mapping.nest import conv, matmul
from presilicon.workloads.graph import OpGraph
from presilicon.workloads.op import Op


def resnet50() -> OpGraph:
    """53 convolutions and one matrix product, batch 1, int8; inputs are the padded ones."""
    ops: list[Op] = []

    def add(name: str, op: Op) -> None:
        ops.append(dataclasses.replace(op, name=name))

    add("conv1", conv(m=64, c=3, p=112, q=112, r=7, s=7, stride=2))
    channels, size = 64, 56
    for stage, (blocks, width) in enumerate(((3, 64), (4, 128), (6, 256), (3, 512)), start=1):
        for block in range(blocks):
            stride = 2 if stage > 1 and block == 0 else 1
            place, out = f"layer{stage}.{block}", size // stride
            add(f"{place}.conv1", conv(m=width, c=channels, p=size, q=size))
            add(f"{place}.conv2", conv(m=width, c=width, p=out, q=out, r=3, s=3, stride=stride))
            add(f"{place}.conv3", conv(m=4 * width, c=width, p=out, q=out))
            if block == 0:
                add(f"{place}.downsample", conv(m=4 * width, c=channels, p=out, q=out, stride=stride))
            channels, size = 4 * width, out
    add("fc", matmul(1, 1000, 2048))
    return OpGraph("resnet50", ops)
