"""What a program is told that asks for its GPU while its launches are recorded: a GPU that is not there, as the device file describes it.

Meta tensors pass for tensors on that GPU: their `device` is ``cuda:0`` and `is_cuda` holds, what is created on ``"cuda"`` becomes a meta
tensor, and `torch.cuda` and Triton's driver answer for the system.
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Callable, Iterator, Mapping
from types import SimpleNamespace
from typing import Any, Final

from ...arch import System
from ...errors import KernelError
from .occupancy import MAX_THREADS_PER_CTA, WARP, Limits
from .tools import parse_target

#: What torch and Triton call the same fact; the facts by which GPUs of one generation differ are those that a launch may depend on.
_TOLD: Final = {
    "multi_processor_count": "multi_processor_count", "multiprocessor_count": "multi_processor_count", "major": "capability",
    "minor": "capability", "shared_memory_per_block_optin": "shared_memory", "max_shared_mem": "shared_memory",
    "total_memory": "total_memory", "L2_cache_size": "L2_cache_size",
}
_UNTIMED: Final = "launches are recorded here, not run, and nothing can be timed; after the block: predict_kernel(launch, system=...)"


class AbsentGpu:
    """One GPU for torch and Triton to ask.

    Attributes
    ----------
    system
        The device file's content.
    asked
        What the program asked for so far, of that in which GPUs differ: ``{"multi_processor_count": 132}``.
    """

    def __init__(self, system: System) -> None:
        self.system = system
        self.asked: dict[str, Any] = {}

    @property
    def target(self) -> int:
        """Compute capability: 90 is sm_90."""
        return parse_target(self.system.generation)

    def facts(self) -> dict[str, Any]:
        """Fields of `torch.cuda.get_device_properties`."""
        limits = Limits.of(self.system)
        return {
            "name": self.system.title, "major": self.target // 10, "minor": self.target % 10, "warp_size": WARP,
            "total_memory": int(self.system.memory_bytes), "multi_processor_count": int(self.system.gpu.sm.count),
            "max_threads_per_multi_processor": limits.warps * WARP, "max_threads_per_block": MAX_THREADS_PER_CTA,
            "regs_per_multiprocessor": limits.registers, "shared_memory_per_block": 48 * 1024,
            "shared_memory_per_block_optin": limits.shared_bytes_per_cta, "shared_memory_per_multiprocessor": limits.shared_bytes,
            "L2_cache_size": int(self.system.gpu.l2.size_bytes), "gcnArchName": "", "is_integrated": 0, "is_multi_gpu_board": 0,
            "clock_rate": int(self.system.gpu.clock.boost_hz * self.system.gpu.clock.headroom / 1e3),
        }

    def triton_facts(self) -> dict[str, Any]:
        """What Triton's `driver.active.utils.get_device_properties` gives."""
        facts = self.facts()
        return {"max_shared_mem": facts["shared_memory_per_block_optin"], "max_num_regs": facts["regs_per_multiprocessor"],
                "multiprocessor_count": facts["multi_processor_count"], "warpSize": WARP, "sm_clock_rate": facts["clock_rate"],
                "mem_clock_rate": int(self.system.dram.bandwidth_bytes_per_s / 2 / 1e3), "mem_bus_width": 8}

    def differing(self, told: Mapping[str, Any]) -> list[str]:
        """Of what another GPU's program was told, that which it would be told differently here, as text."""
        facts = self.facts() | {"capability": self.system.generation, "shared_memory": self.facts()["shared_memory_per_block_optin"]}
        return [f"{name} ({value} there, {facts[name]} here)" for name, value in told.items() if name != "name" and facts[name] != value]

    def note(self, name: str, value: Any) -> Any:
        """`value`, which the program now knows."""
        if name in _TOLD:
            self.asked[_TOLD[name]] = self.system.generation if _TOLD[name] == "capability" else value
        return value


class _Properties:
    """Facts as attributes; what is read is noted."""

    def __init__(self, gpu: AbsentGpu) -> None:
        self.__dict__["_gpu"], self.__dict__["_facts"] = gpu, gpu.facts()

    def __getattr__(self, name: str) -> Any:
        facts = self.__dict__["_facts"]
        if name not in facts:
            raise AttributeError(f"{name}: not known of {facts['name']}, which is not there; known are {', '.join(facts)}")
        return self.__dict__["_gpu"].note(name, facts[name])


class _Noted(dict[str, Any]):
    """Facts as items; what is read is noted."""

    def __init__(self, gpu: AbsentGpu) -> None:
        super().__init__(gpu.triton_facts())
        self.gpu = gpu

    def __getitem__(self, name: str) -> Any:
        return self.gpu.note(name, super().__getitem__(name))

    def get(self, name: str, default: Any = None) -> Any:
        return self.gpu.note(name, super().get(name, default))


class _Stream:
    """A stream or an event: whatever is called does nothing."""

    cuda_stream, device_index, stream_id = 0, 0, 0

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def __enter__(self) -> _Stream:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def _nothing(self, *_: Any, **__: Any) -> None:
        pass

    wait_stream = wait_event = record_event = synchronize = record = wait = _nothing

    def query(self) -> bool:
        """Nothing is under way."""
        return True

    def elapsed_time(self, _other: Any = None) -> float:
        """Nothing ran that could be timed."""
        raise KernelError(_UNTIMED)


class _Generator:
    """The GPU's random numbers: seed and offset of Philox, 8 bytes each, both zero."""

    def get_state(self) -> Any:
        torch = importlib.import_module("torch")
        return torch.zeros(16, dtype=torch.uint8)

    def set_state(self, _state: Any) -> None:
        pass

    def initial_seed(self) -> int:
        return 0


class _Driver:
    """The active driver that Triton and its users ask."""

    def __init__(self, gpu: AbsentGpu) -> None:
        self.gpu = gpu
        self.utils = SimpleNamespace(get_device_properties=lambda _device=0: _Noted(gpu))

    def get_current_target(self) -> Any:
        self.gpu.note("major", self.gpu.target // 10)
        return importlib.import_module("triton.backends.compiler").GPUTarget("cuda", self.gpu.target, WARP)

    def get_device_capability(self, _device: Any = 0) -> tuple[int, int]:
        self.gpu.note("major", self.gpu.target // 10)
        return self.gpu.target // 10, self.gpu.target % 10

    def get_current_device(self) -> int:
        return 0

    def set_current_device(self, _device: Any) -> None:
        pass

    def get_current_stream(self, _device: Any = 0) -> int:
        return 0

    def get_active_torch_device(self) -> Any:
        return importlib.import_module("torch").device("cuda", 0)

    def get_device_interface(self) -> Any:
        return importlib.import_module("torch").cuda

    def get_empty_cache_for_benchmark(self) -> Any:
        raise KernelError(_UNTIMED)

    get_benchmarker = get_empty_cache_for_benchmark

    def is_active(self) -> bool:
        return True


def _nothing() -> Callable[..., None]:
    """A function that does nothing; another one each time, because torch's compiler tells functions of torch.cuda apart by identity."""
    return lambda *_, **__: None


def _answers(gpu: AbsentGpu) -> dict[str, Any]:
    """What takes the place of functions of `torch.cuda`."""
    def capability(_device: Any = None) -> tuple[int, int]:
        gpu.note("major", gpu.target // 10)
        return gpu.target // 10, gpu.target % 10

    return {
        "is_available": lambda: True, "is_initialized": lambda: True, "init": _nothing(), "_lazy_init": _nothing(),
        "device_count": lambda: 1,
        "current_device": lambda: 0, "set_device": _nothing(), "synchronize": _nothing(), "empty_cache": _nothing(),
        "get_device_capability": capability, "get_device_name": lambda _device=None: gpu.note("name", gpu.system.title),
        "get_device_properties": lambda _device=None: _Properties(gpu), "current_stream": lambda _device=None: _Stream(),
        "default_stream": lambda _device=None: _Stream(), "Stream": _Stream, "Event": _Stream,
        "stream": lambda _stream: contextlib.nullcontext(),
        "set_stream": _nothing(), "_exchange_device": lambda index: max(index, -1), "_maybe_exchange_device": lambda index: max(index, -1),
        "is_current_stream_capturing": lambda: False, "mem_get_info": lambda _device=None: (int(gpu.system.memory_bytes),) * 2,
        "default_generators": (_Generator(),), "memory_allocated": lambda _device=None: 0, "max_memory_allocated": lambda _device=None: 0,
    }


def _accelerator(torch: Any) -> dict[str, Any]:
    """What takes the place of functions of `torch.accelerator`."""
    return {
        "is_available": lambda: True, "device_count": lambda: 1, "current_accelerator": lambda *_, **__: torch.device("cuda"),
        "current_device_index": lambda: 0, "current_device_idx": lambda: 0, "set_device_index": _nothing(), "set_device_idx": _nothing(),
        "synchronize": _nothing(), "empty_cache": _nothing(), "current_stream": lambda _device=None: _Stream(), "set_stream": _nothing(),
        "device_index": lambda _index: contextlib.nullcontext(), "memory_allocated": lambda _device=None: 0,
    }


def _backward(torch: Any) -> dict[str, Any]:
    """Methods by which torch runs backward functions of the program: in the mode, of which nothing is left there otherwise."""
    original = torch.autograd.function.BackwardCFunction.apply

    def apply(node: Any, *args: Any) -> Any:
        with _mode():
            return original(node, *args)

    return {"apply": apply}


def _mode() -> Any:
    """The torch function mode under which meta tensors are tensors on the GPU."""
    torch = importlib.import_module("torch")
    overrides = importlib.import_module("torch.overrides")
    tensor, there, meta = torch.Tensor, torch.device("cuda", 0), torch.device("meta")
    on_device = {tensor.device.__get__: there, tensor.is_cuda.__get__: True, tensor.is_meta.__get__: False, tensor.get_device: 0}

    def off(value: Any, text: bool) -> Any:
        """`value` with the GPU replaced by what stands in for it; its name only where a device must be meant."""
        if isinstance(value, torch.device):
            return meta if value.type == "cuda" else value
        return meta if text and isinstance(value, str) and (value == "cuda" or value.startswith("cuda:")) else value

    class OnAbsentGpu(overrides.TorchFunctionMode):  # type: ignore[name-defined]
        def __torch_function__(self, func: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if func in on_device and args:
                found = func(*args)
                return on_device[func] if args[0].device.type == "meta" else found
            if func is tensor.cuda:
                return args[0].to(meta)
            if func is torch.device:
                return func(*args, **(kwargs or {}))
            args = tuple(off(value, func is tensor.to) for value in args)
            kwargs = {name: off(value, name == "device") for name, value in (kwargs or {}).items()}
            run = _on_gpu(func, args, kwargs)
            if run is None:
                return func(*args, **kwargs)
            with self if run[1] else contextlib.nullcontext():
                return run[0](*args, **kwargs)

    return OnAbsentGpu()


def _on_gpu(func: Any, args: Any, kwargs: Any) -> tuple[Callable[..., Any], bool] | None:
    """What a custom operator (`torch.library`) would run on a GPU, where it is asked for with meta tensors, and whether it is plain Python.

    With meta tensors torch runs the operator's shape function, and the kernels inside would not be launched. An implementation that only
    torch's dispatcher knows is called through it, without the mode: called with it, it would come back here.
    """
    torch, ops = importlib.import_module("torch"), importlib.import_module("torch._ops")
    overload = getattr(func, "default", None) if isinstance(func, ops.OpOverloadPacket) else func
    if not isinstance(overload, ops.OpOverload) or overload.namespace in ("aten", "prim", "prims"):
        return None
    if not any(isinstance(value, torch.Tensor) and value.device.type == "meta" for value in (*args, *kwargs.values())):
        return None
    known = importlib.import_module("torch._library.custom_ops").OPDEFS.get(overload.name())
    if known is not None:
        kinds = known._backend_fns
        return kinds.get("cuda", kinds.get(None, known._init_fn)), True
    key = torch._C.DispatchKey.CUDA
    if not torch._C._dispatch_has_kernel_for_dispatch_key(overload.name(), "CUDA"):
        return None
    return lambda *args, **kwargs: overload._op_dk(key, *args, **kwargs), False


@contextlib.contextmanager
def present(gpu: AbsentGpu) -> Iterator[None]:
    """Let torch and Triton find `gpu` in the block."""
    config = importlib.import_module("triton.runtime.driver").driver
    before = config._active
    config._active = _Driver(gpu)
    kept: list[tuple[Any, str, Any]] = []
    torch = importlib.import_module("torch")
    try:
        node = torch.autograd.function.BackwardCFunction
        for owner, answers in ((torch.cuda, _answers(gpu)), (torch.accelerator, _accelerator(torch)), (node, _backward(torch))):
            for name, answer in answers.items():
                if name in owner.__dict__:
                    kept.append((owner, name, owner.__dict__[name]))
                    setattr(owner, name, answer)
        with _mode():
            yield
    finally:
        config._active = before
        for original in reversed(kept):
            setattr(*original)
