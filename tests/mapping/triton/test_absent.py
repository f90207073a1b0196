"""Programs that ask for their GPU while their launches are recorded."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest

from presilicon.arch import load
from presilicon.errors import KernelError
from presilicon.mapping.triton import bind_launch, capture_launches, configs_of, evaluate
from presilicon.mapping.triton.absent import AbsentGpu
from presilicon.mapping.triton.tune import own_space


def test_meta_tensors_pass_for_tensors_on_the_gpu_inside_the_block_only(kernels: ModuleType) -> None:
    import torch
    import triton

    inside: dict[str, Any] = {}
    with capture_launches(load("a100-sxm-80gb")) as launches:
        x = torch.empty(1000, device="cuda")
        inside["tensor"] = x.is_cuda, x.is_meta, x.device, x.get_device(), torch.empty_like(x).device, x.to("cuda:0", torch.float16).device
        inside["host"] = torch.zeros(2).device.type, torch.zeros(2).cuda().is_cuda
        with torch.cuda.device(x.device), torch.cuda.device_of(x), torch.accelerator.device_index(x.device.index):
            sms = torch.cuda.get_device_properties(x.device).multi_processor_count
            kernels.add[(sms,)](x, x, torch.empty(1000, device=x.device), 1000, BLOCK=8)
        driver = triton.runtime.driver.active
        inside["told"] = sms, torch.cuda.get_device_capability(), driver.get_current_target().arch
        inside["utils"] = driver.utils.get_device_properties(0)["multiprocessor_count"]
    there = torch.device("cuda", 0)
    assert inside["tensor"] == (True, False, there, 0, there, there)
    assert inside["host"] == ("cpu", True)
    assert (inside["told"], inside["utils"]) == ((108, (8, 0), 80), 108)
    assert (x.device.type, x.is_cuda, torch.cuda.is_available()) == ("meta", False, False)
    (launch,) = launches
    assert launch.bind(80).grid == (108, 1, 1)
    assert launch.told == {"multi_processor_count": 108}, "what was asked for after the launch had no part in it"
    assert AbsentGpu(load("h100-sxm")).differing(launch.told) == ["multi_processor_count (108 there, 132 here)"]


def test_autograd_and_custom_operators_come_to_their_kernels(kernels: ModuleType) -> None:
    import torch

    @torch.library.custom_op("presilicon_tests::doubled", mutates_args=(), device_types="cuda", schema="(Tensor x) -> Tensor")
    def doubled(x: torch.Tensor) -> torch.Tensor:
        assert x.is_cuda
        out = torch.empty_like(x)
        kernels.add[(1,)](x, x, out, 8, BLOCK=8)
        return out

    @doubled.register_fake
    def _(x: torch.Tensor) -> torch.Tensor:
        return torch.empty_like(x)

    class Twice(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
            return doubled(x)

        @staticmethod
        def backward(ctx: Any, *grad: torch.Tensor) -> torch.Tensor:
            assert grad[0].is_cuda
            return torch.ops.presilicon_tests.doubled(grad[0])

    with capture_launches(load("h100-sxm")) as launches:
        Twice.apply(torch.empty(8, device="cuda", requires_grad=True)).sum().backward()
    assert [launch.name for launch in launches] == ["add", "add"]


def test_what_warmup_gives_back_tells_the_kernels_resources_and_launches_it(kernels: ModuleType, lab: ModuleType) -> None:
    x = lab.floats(512)
    with capture_launches(load("h100-sxm")) as launches:
        warmed = kernels.add.warmup(x, x, x, 512, BLOCK=256, num_warps=2, grid=(1,))
        warmed._init_handles()
        resources = warmed.n_regs, warmed.n_spills, warmed.metadata.num_warps, warmed.metadata.shared
        warmed[(2, 1, 1)](x, x, x, 512, 256)
    (launch,) = launches
    compiled = launch.compile(90)
    assert resources == (compiled.registers, 0, 2, compiled.shared_bytes)
    assert launch.bind(90).grid == (2, 1, 1)
    with capture_launches():
        warmed = kernels.add.warmup(x, x, x, 512, BLOCK=256, grid=(1,))
    with pytest.raises(KernelError, match=r"depends on the GPU; name it: capture_launches\(system\)"):
        warmed.n_regs  # noqa: B018


def test_wrappers_of_libraries_around_tritons_own_are_recorded_as_they_are_launched(kernels: ModuleType, lab: ModuleType) -> None:
    import triton
    from triton.runtime.autotuner import Autotuner
    from triton.runtime.jit import KernelInterface

    class Tuner(Autotuner):
        def run(self, *args: Any, **kwargs: Any) -> Any:
            raise AssertionError("it would measure")

    class Entry(KernelInterface):
        def __init__(self, fn: Any) -> None:
            self.fn = fn

        def run(self, *args: Any, **kwargs: Any) -> Any:
            return self.fn.run(*args, **kwargs).metadata.shared

    configs = [triton.Config({"BLOCK": block}) for block in (8, 16)]
    entry = Entry(Tuner(kernels.add, kernels.add.arg_names, configs, ["n"], None, None))
    x = lab.floats(64)
    with capture_launches() as launches:
        entry[lambda meta: (64 // meta["BLOCK"],)](x, x, x, 64)
    (launch,) = launches
    assert [launch.bind(90, config).grid[0] for config in launch.configs()] == [8, 4]


def test_heuristics_grids_and_pruning_find_the_gpu_that_is_predicted(kernels: ModuleType, lab: ModuleType) -> None:
    import torch
    import triton

    def sms() -> int:
        return int(torch.cuda.get_device_properties(0).multi_processor_count)

    rule = triton.heuristics({"BLOCK": lambda args: 256 if args["x_ptr"].is_cuda and sms() > 100 else 64})(kernels.add)
    x, l4 = lab.floats(512), load("l4")
    bound = [bind_launch(rule, lambda meta: (sms(),), (x, x, x, 512), target=system.generation, system=system)
             for system in (load("h100-sxm"), l4)]
    assert [(launch.grid[0], launch.constexprs[(4,)]) for launch in bound] == [(132, 256), (int(l4.gpu.sm.count), 64)]
    prune = {"early_config_prune": lambda configs, named, **_: configs[:1] if sms() < 100 else configs}
    tuned = triton.autotune([triton.Config({"BLOCK": n}) for n in (8, 16)], key=["n"], prune_configs_by=prune)(kernels.add)
    assert [len(configs_of(tuned, (x, x, x, 512), system=system)) for system in (load("h100-sxm"), l4)] == [2, 1]
    assert [own_space(tuned, (x, x, x, 512), {}, system) for system in (load("h100-sxm"), l4)] == [
        [{"BLOCK": n, "num_warps": 4, "num_stages": 3, "num_ctas": 1} for n in sizes] for sizes in ((8, 16), (8,))]


def test_nothing_can_be_timed(kernels: ModuleType, lab: ModuleType) -> None:
    import torch
    import triton

    x = lab.floats(8)
    with capture_launches(load("h100-sxm")):
        with pytest.raises(KernelError, match="recorded here, not run"):
            torch.cuda.Event(enable_timing=True).elapsed_time(torch.cuda.Event(enable_timing=True))
        with pytest.raises(KernelError, match="recorded here, not run"):
            triton.testing.do_bench(lambda: kernels.add[(1,)](x, x, x, 8, BLOCK=8))


def test_wrapped_tensors_lie_on_the_memory_of_their_tensor(kernels: ModuleType) -> None:
    import torch
    import triton
    import triton.language as tl

    class Shifted:
        """A library's own buffer: a tensor from some element on."""

        def __init__(self, base: torch.Tensor, by: int) -> None:
            self._base, self.by, self.dtype, self.shape, self.device = base, by, base.dtype, base.shape, torch.device("cuda", 0)

        def data_ptr(self) -> int:
            return self._base.data_ptr() + self.by * self.dtype.itemsize

    x = torch.arange(16, dtype=torch.float32)
    launch = bind_launch(kernels.add, (1,), (x, Shifted(x, 4), triton.reinterpret(x, tl.int32), 8), {"BLOCK": 8}, target=90)
    plain, shifted, other = (launch.arguments[name] for name in ("x_ptr", "y_ptr", "out_ptr"))
    assert len(launch.buffers) == 1
    assert (shifted.address - plain.address, shifted.start, other.address) == (16, plain.start, plain.address)
    assert launch.signature["out_ptr"] == "*i32"


def test_a_mask_that_only_data_knows_leaves_known_addresses_known(kernels: ModuleType, steered: ModuleType) -> None:
    import torch

    from presilicon.mapping.triton import compile_launch

    def run(flags: torch.Tensor) -> Any:
        x = torch.empty(512, dtype=torch.bfloat16, device="meta")
        launch = bind_launch(steered.masked_copy, (1,), (x, flags, torch.empty_like(x)), {"BLOCK": 512}, target=90)
        return evaluate(compile_launch(launch), launch, trace=True)

    known, unknown = run(torch.ones(512, dtype=torch.int32)), run(torch.empty(512, dtype=torch.int32, device="meta"))
    assert known.assumptions == ()
    assert any("mask depends on what" in str(text) for text in unknown.assumptions)
    assert unknown.memory_bytes() == known.memory_bytes() == {"global load": 512 * 6, "global store": 1024}
    assert sum(tally.sectors for tally in unknown.tallies.values()) == sum(tally.sectors for tally in known.tallies.values())
