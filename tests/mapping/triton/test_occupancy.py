"""CTAs on an SM against figures worked out by the CUDA occupancy rules."""

from __future__ import annotations

from types import ModuleType

import pytest

from presilicon import arch
from presilicon.errors import KernelError, UnknownNameError
from presilicon.mapping.triton import Limits, compile_launch, occupancy_of
from presilicon.mapping.triton.occupancy import LIMITS, occupancy


@pytest.mark.parametrize(("target", "warps", "registers", "shared", "ctas", "bound"), [
    (80, 4, 32, 0, 16, {"warps", "registers"}),          # 64 warps; 1,024 registers a warp: 16 to a sub-core
    (80, 1, 32, 0, 32, {"CTAs"}),
    (80, 8, 64, 0, 4, {"registers"}),                    # 2,048 a warp: 8 to a sub-core, 32 warps
    (80, 8, 65, 0, 3, {"registers"}),                    # 2,080 rounds to 2,304: 7 to a sub-core, 28 warps
    (80, 3, 255, 0, 2, {"registers"}),                   # 8,160 rounds to 8,192: 2 to a sub-core, 8 warps
    (80, 4, 40, 49152, 3, {"shared memory"}),            # 50,176 of 167,936
    (80, 8, 174, 32768, 1, {"registers"}),
    (86, 8, 40, 0, 6, {"warps", "registers"}),           # 1,280 a warp: 12 to a sub-core, 48 warps
    (86, 1, 16, 0, 16, {"CTAs"}),
    (89, 4, 32, 33792, 2, {"shared memory"}),            # 34,816 of 102,400
    (90, 8, 194, 147456, 1, {"registers", "shared memory"}),
    (90, 4, 128, 75776, 3, {"shared memory"}),           # 76,800 of 233,472
    (100, 8, 98, 98320, 2, {"registers", "shared memory"}),
    (120, 16, 56, 0, 2, {"registers"}),                  # 1,792 a warp: 9 to a sub-core, 36 warps
])
def test_by_hand(target: int, warps: int, registers: int, shared: int, ctas: int, bound: set[str]) -> None:
    found = occupancy(warps=warps, registers=registers, shared_bytes=shared, limits=target)
    assert (found.ctas, set(found.bound_by)) == (ctas, bound)
    assert found.warps == ctas * warps
    assert found.fraction == pytest.approx(ctas * warps / LIMITS[target].warps)


def test_tensor_memory_bounds() -> None:
    found = occupancy(warps=4, registers=64, shared_bytes=0, limits=100, tensor_memory_columns=256)
    assert (found.ctas, found.bound_by) == (2, ("tensor memory",))


@pytest.mark.parametrize(("sizes", "reason"), [
    ({"warps": 4, "registers": 32, "shared_bytes": 200_000}, "200000 bytes of shared memory a CTA, 166912 are the most"),
    ({"warps": 16, "registers": 255, "shared_bytes": 0}, "131072 registers a CTA, the SM has 65536"),
    ({"warps": 64, "registers": 16, "shared_bytes": 0}, "2048 threads a CTA, 1024 are the most"),
])
def test_what_cannot_launch_says_why(sizes: dict[str, int], reason: str) -> None:
    found = occupancy(**sizes, limits=80)
    assert (found.ctas, found.problem) == (0, reason)


def test_bad_sizes() -> None:
    with pytest.raises(KernelError, match="0 warps"):
        occupancy(warps=0, registers=1, shared_bytes=0, limits=80)
    with pytest.raises(UnknownNameError, match="unknown target"):
        occupancy(warps=1, registers=1, shared_bytes=0, limits=91)


@pytest.mark.parametrize(("name", "target"), [("a100-sxm-80gb", 80), ("l40s", 89), ("l4", 89), ("rtx-4090", 89), ("h100-sxm", 90),
                                              ("b200", 100)])
def test_device_files_state_the_same_limits(name: str, target: int) -> None:
    assert Limits.of(arch.load(name)) == LIMITS[target]


@pytest.mark.parametrize("target", [80, 90, 100])
def test_of_compiled_kernels(lab: ModuleType, target: int) -> None:
    compiled = compile_launch(lab.matmul(8192, 8192, 8192, target, *((128, 128, 32) if target == 80 else (128, 256, 64))))
    found = occupancy_of(compiled)
    assert found.ctas == 1
    assert not found.problem
    assert found.registers_per_warp % 256 == 0
    assert found.shared_bytes_per_cta % 128 == 0
    assert found.shared_bytes_per_cta >= compiled.shared_bytes + 1024
    assert found == occupancy_of(compiled, arch.load({80: "a100-sxm-40gb", 90: "h100-sxm", 100: "b200"}[target]))
