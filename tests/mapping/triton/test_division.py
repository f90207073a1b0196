"""64-bit division as each generation's compiler writes it out, by what only the launch knows, against Python's integers."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
import pytest

TOP = 2**63 - 1
CASES = [(5_000_000_007, 999_999_937, 4_097), (-(2**62) + 1, 123_456_789_013, 3), (TOP, -(2**55) - 1, -7), (-1, -1, 2**33 + 3),
         (2**40 + 1, 2**57 + 5, -(2**61) - 3), (-TOP, 2**58 + 3, TOP), (4_194_303, 65_537, 1_025), (2**31 - 1, 1, 0xFFFFFFFB)]


@pytest.fixture(scope="module", params=[80, 90, 100])
def divide(request: pytest.FixtureRequest, lab: ModuleType, kernels: ModuleType) -> Any:
    """Where the stores of one warp go, for a first value, a step and a divisor; compiled once a generation."""
    import torch

    from presilicon.mapping.triton import bind_launch, compile_launch, evaluate

    out = lab.meta(2**34, dtype=torch.int8)

    def stores(first: int, step: int, by: int) -> np.ndarray:
        launch = bind_launch(kernels.divide, (1,), (out, first, step, by), {"BLOCK": 32, "num_warps": 1}, target=request.param)
        run = evaluate(compile_launch(launch), launch, trace=True)
        assert run.assumptions == ()
        start = launch.arguments["out_ptr"].start
        at = np.sort(np.concatenate([touch.addresses[touch.active] for touch in run.walk()]))
        return np.unique(at) - np.uint64(start)

    return stores


@pytest.mark.parametrize(("first", "step", "by"), CASES)
def test_quotients_and_remainders_of_64_bits(divide: Any, first: int, step: int, by: int) -> None:
    expected = set()
    for n in range(32):
        value = (first + n * step + 2**63) % 2**64 - 2**63
        quotient = abs(value) // abs(by) * (1 if (value < 0) == (by < 0) else -1)
        remainder = abs(value) % abs(by - 2) * (-1 if value < 0 else 1)
        for part, word in enumerate((quotient, quotient >> 32, remainder, remainder >> 32)):
            expected.add((part << 32) + word % 2**32)
    assert divide(first, step, by).tolist() == sorted(expected)


@pytest.mark.parametrize("target", [80, 90])
def test_addresses_beyond_all_memory_are_not_known(lab: ModuleType, kernels: ModuleType, target: int) -> None:
    from presilicon.mapping.triton import bind_launch

    def run(stride: int) -> Any:
        launch = bind_launch(kernels.strides_apart, (3,), (lab.floats(1024), lab.floats(1024), stride), {"BLOCK": 128}, target=target)
        return lab.follow(launch, program_ids=(2, 0, 0), trace=True)

    assert run(2**34 + 1).assumptions == ()
    far = run(2**58 + 1)
    assert [(a.kind, "beyond all memory" in a.cause) for a in far.assumptions] == [("address", True)]
    assert far.memory_bytes() == {"global load": 512, "global store": 512}
