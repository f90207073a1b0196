"""What measures: a CUDA GPU by events, graphs and NVML; or, to check the kernels, Triton's interpreter on the CPU."""

from __future__ import annotations

import contextlib
import ctypes
import math
import platform
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from .record import MeasureError
from .suite import Place

RUNS: Final = (20, 100)
#: Seconds of GPU time that a point's runs should take together, between the bounds of RUNS; and of one graph.
_POINT_S, _GRAPH_S = 0.08, 1e-3
_FLUSH_BYTES: Final = 256 * 1024 * 1024
_SUSTAINED_S: Final = 2.5

METHOD: Final = {
    "cold": f"CUDA events around one launch; before each, {_FLUSH_BYTES >> 20} MiB are overwritten with zeros, which clears L2 (as "
    "triton.testing.do_bench does); the CPU runs ahead, which hides the launch; the cost of two events is in the number (see suite launch)",
    "graph": "CUDA-graph replay of `repeats` calls back to back, events around the replay, divided by `repeats`; operands that fit L2 "
    "stay in it",
    "eager": "`repeats` calls back to back without a graph, events around them, divided by `repeats`",
    "host": "seconds of the CPU for `repeats` launches, GPU queue not full, divided by `repeats`",
    "sustained": f"calls back to back for {_SUSTAINED_S} s; the last 60 % count; clock and power are medians over that time",
    "statistics": f"at least {RUNS[0]} samples a point; median, 10th and 90th percentile; 3 calls of warm-up; random inputs; outputs "
    "are filled with NaN before the run that is checked against a float32 reference",
}


def seconds_meant(timer: str) -> float:
    """GPU seconds that the samples of one timer are meant to take together; a slow call takes longer, at least `RUNS[0]` times its own."""
    return {"sustained": _SUSTAINED_S, "eager": RUNS[0] * _GRAPH_S}.get(timer, _POINT_S)


@dataclass(frozen=True)
class Health:
    """What the GPU says of itself; None where it does not."""

    sm_clock_mhz: float | None = None
    memory_clock_mhz: float | None = None
    power_w: float | None = None
    temperature_c: float | None = None


@dataclass(frozen=True)
class Timing:
    """Seconds a call, one number a sample; each sample is the mean of `repeats` calls."""

    samples: list[float]
    repeats: int
    health: Health = field(default_factory=Health)


class Machine(Protocol):
    """What the measuring loop needs."""

    name: str
    capability: int
    sm_count: int

    def place(self, seed: int) -> Place:
        """Where tensors are made."""

    def time(self, call: Callable[[], Any], timer: str) -> Timing:
        """Run and time; `timer` is one of `presilicon.validate.kernels.suite.TIMERS`."""

    def synchronize(self) -> None:
        """Wait for what was launched; raises if the GPU is lost."""

    def release(self) -> None:
        """Give memory of dropped tensors back."""

    def facts(self) -> dict[str, Any]:
        """GPU, driver, clocks, versions."""


class Nvml:
    """Clocks, power and temperature through libnvidia-ml; reads only."""

    _CLOCKS: Final = {"sm_clock_mhz": 1, "memory_clock_mhz": 2}

    def __init__(self, pci_bus_id: str = "") -> None:
        self.library, self.handle = ctypes.CDLL("libnvidia-ml.so.1"), ctypes.c_void_p()
        self._check(self.library.nvmlInit_v2())
        if pci_bus_id:
            self._check(self.library.nvmlDeviceGetHandleByPciBusId_v2(pci_bus_id.encode(), ctypes.byref(self.handle)))
        else:
            self._check(self.library.nvmlDeviceGetHandleByIndex_v2(0, ctypes.byref(self.handle)))

    @staticmethod
    def _check(code: int) -> None:
        if code:
            raise OSError(f"NVML error {code}")

    def _number(self, function: str, *args: int) -> float | None:
        value = ctypes.c_uint()
        try:
            code = getattr(self.library, function)(self.handle, *args, ctypes.byref(value))
        except AttributeError:
            return None
        return None if code else float(value.value)

    def health(self) -> Health:
        """One reading."""
        power = self._number("nvmlDeviceGetPowerUsage")
        clocks = {name: self._number("nvmlDeviceGetClockInfo", which) for name, which in self._CLOCKS.items()}
        return Health(power_w=None if power is None else power / 1000, temperature_c=self._number("nvmlDeviceGetTemperature", 0), **clocks)

    def facts(self) -> dict[str, Any]:
        """Driver, largest clocks and power limit."""
        text = ctypes.create_string_buffer(96)
        driver = text.value.decode() if not self.library.nvmlSystemGetDriverVersion(text, 96) else None
        limit = self._number("nvmlDeviceGetEnforcedPowerLimit")
        return {
            "driver": driver,
            "power_limit_w": None if limit is None else limit / 1000,
            **{f"max_{name}": self._number("nvmlDeviceGetMaxClockInfo", which) for name, which in self._CLOCKS.items()},
        }


class Smi:
    """The same through nvidia-smi, where the library cannot be loaded; slow, so a reading serves for a second."""

    _FIELDS: Final = "clocks.sm,clocks.mem,power.draw,temperature.gpu"

    def __init__(self) -> None:
        self.last, self.read_at = Health(), -math.inf

    def _query(self, fields: str) -> list[str]:
        command = ["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader,nounits", "--id=0"]
        try:
            return [
                cell.strip() for cell in subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.split(",")
            ]
        except (OSError, subprocess.SubprocessError):
            return []

    def health(self) -> Health:
        """A reading at most a second old."""
        if time.monotonic() - self.read_at > 1.0:
            numbers = [_float(cell) for cell in self._query(self._FIELDS)]
            self.last = Health(*numbers) if len(numbers) == 4 else Health()
            self.read_at = time.monotonic()
        return self.last

    def facts(self) -> dict[str, Any]:
        """Driver, largest clocks and power limit."""
        names = ("driver", "power_limit_w", "max_sm_clock_mhz", "max_memory_clock_mhz")
        cells = self._query("driver_version,enforced.power.limit,clocks.max.sm,clocks.max.mem")
        return dict(zip(names, [cells[0], *map(_float, cells[1:])], strict=False)) if len(cells) == 4 else {}


def _float(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


class CudaMachine:
    """The first visible CUDA GPU.

    Raises
    ------
    MeasureError
        There is none.
    """

    def __init__(self) -> None:
        import torch

        if not torch.cuda.is_available():
            raise MeasureError(
                "no CUDA GPU here (torch.cuda.is_available() is false); --check runs tiny sizes in Triton's interpreter instead, "
                "--list says what would be measured"
            )
        self.torch = torch
        torch.backends.cuda.matmul.allow_tf32 = False
        torch.backends.cudnn.allow_tf32 = False
        self.properties: Any = torch.cuda.get_device_properties(0)
        self.name: str = self.properties.name
        self.capability: int = self.properties.major * 10 + self.properties.minor
        self.sm_count: int = self.properties.multi_processor_count
        self.flush = torch.empty(_FLUSH_BYTES // 4, dtype=torch.int32, device="cuda")
        self.sensors: Nvml | Smi = self._sensors()

    def _sensors(self) -> Nvml | Smi:
        p = self.properties
        try:
            with contextlib.suppress(AttributeError):
                return Nvml(f"{p.pci_domain_id:08x}:{p.pci_bus_id:02x}:{p.pci_device_id:02x}.0")
            return Nvml()
        except (OSError, AttributeError):
            return Smi()

    def place(self, seed: int) -> Place:
        """Tensors on the GPU."""
        return Place("cuda", self.sm_count, self.capability, seed)

    def synchronize(self) -> None:
        """Wait for the GPU."""
        self.torch.cuda.synchronize()

    def release(self) -> None:
        """Give cached memory back."""
        self.torch.cuda.empty_cache()

    def facts(self) -> dict[str, Any]:
        """For the provenance."""
        import triton

        p = self.properties
        return {
            "gpu": self.name,
            "compute_capability": f"{p.major}.{p.minor}",
            "sm_count": p.multi_processor_count,
            "memory_bytes": p.total_memory,
            "l2_bytes": getattr(p, "L2_cache_size", None),
            "torch": self.torch.__version__,
            "triton": triton.__version__,
            "cuda": self.torch.version.cuda,
            "python": platform.python_version(),
            **self.sensors.facts(),
            "clock_control": "as found; nothing was set",
            "idle": vars(self.sensors.health()),
        }

    def time(self, call: Callable[[], Any], timer: str) -> Timing:
        """Warm up, then take the samples of one timer."""
        for _ in range(3):
            call()
        self.synchronize()
        return {"cold": self._cold, "graph": self._graph, "eager": self._eager, "host": self._host, "sustained": self._sustained}[timer](
            call
        )

    def _between(self, work: Callable[[], Any], runs: int, before: Callable[[], Any] = lambda: None) -> tuple[list[float], Health]:
        """Seconds of `work` by events, `runs` times; all is launched before anything is waited for."""
        event = self.torch.cuda.Event
        marks = [(event(enable_timing=True), event(enable_timing=True)) for _ in range(runs)]
        for start, end in marks:
            before()
            start.record()
            work()
            end.record()
        health = self.sensors.health()
        self.synchronize()
        return [start.elapsed_time(end) * 1e-3 for start, end in marks], health

    def _runs(self, sample_s: float) -> int:
        return min(RUNS[1], max(RUNS[0], math.ceil(_POINT_S / max(sample_s, 1e-6))))

    def _estimate(self, call: Callable[[], Any]) -> float:
        return min(self._between(call, 3)[0])

    def _cold(self, call: Callable[[], Any]) -> Timing:
        samples, health = self._between(call, self._runs(self._estimate(call)), self.flush.zero_)
        return Timing(samples, 1, health)

    def _graph(self, call: Callable[[], Any]) -> Timing:
        repeats = min(100, max(1, math.ceil(_GRAPH_S / max(self._estimate(call), 1e-6))))
        graph = self.torch.cuda.CUDAGraph()
        with self.torch.cuda.graph(graph):
            for _ in range(repeats):
                call()
        for _ in range(2):
            graph.replay()
        samples, health = self._between(graph.replay, self._runs(self._estimate(graph.replay)))
        return Timing([s / repeats for s in samples], repeats, health)

    def _eager(self, call: Callable[[], Any]) -> Timing:
        repeats = min(50, max(1, math.ceil(_GRAPH_S / max(self._estimate(call), 1e-6))))

        def many() -> None:
            for _ in range(repeats):
                call()

        samples = []
        for _ in range(RUNS[0]):
            seconds, health = self._between(many, 1)
            samples += seconds
        return Timing([s / repeats for s in samples], repeats, health)

    def _host(self, call: Callable[[], Any]) -> Timing:
        samples, repeats = [], 100
        for _ in range(RUNS[0] * 2):
            self.synchronize()
            start = time.perf_counter()
            for _ in range(repeats):
                call()
            samples.append((time.perf_counter() - start) / repeats)
        health = self.sensors.health()
        self.synchronize()
        return Timing(samples, repeats, health)

    def _sustained(self, call: Callable[[], Any]) -> Timing:
        repeats = max(1, math.ceil(0.03 / max(self._estimate(call), 1e-6)))
        count = max(50, math.ceil(_SUSTAINED_S / 0.03))
        event = self.torch.cuda.Event
        marks, health = [event(enable_timing=True)], []
        marks[0].record()
        for number in range(count):
            for _ in range(repeats):
                call()
            marks.append(event(enable_timing=True))
            marks[-1].record()
            if number >= 2:
                marks[number - 1].synchronize()  # two batches ahead of the GPU, no more
            health.append(self.sensors.health())
        self.synchronize()
        first = count * 2 // 5
        samples = [a.elapsed_time(b) * 1e-3 / repeats for a, b in zip(marks[first:], marks[first + 1 :], strict=False)]
        return Timing(samples, repeats, _median_health(health[first:]))


def _median_health(readings: list[Health]) -> Health:
    from statistics import median

    def middle(name: str) -> float | None:
        known = [value for value in (getattr(reading, name) for reading in readings) if value is not None]
        return median(known) if known else None

    return Health(*(middle(name) for name in ("sm_clock_mhz", "memory_clock_mhz", "power_w", "temperature_c")))


class Interpreter:
    """Triton's interpreter on the CPU, to check kernels and harness; its seconds mean nothing. TRITON_INTERPRET=1 must be set first."""

    name = "interpreter"
    capability = 90
    sm_count = 4

    def place(self, seed: int) -> Place:
        """Tensors on the CPU."""
        return Place("cpu", self.sm_count, self.capability, seed)

    def synchronize(self) -> None:
        """Nothing runs behind."""

    def release(self) -> None:
        """Nothing is cached."""

    def facts(self) -> dict[str, Any]:
        """Versions."""
        import torch
        import triton

        return {"gpu": self.name, "torch": torch.__version__, "triton": triton.__version__, "python": platform.python_version()}

    def time(self, call: Callable[[], Any], timer: str) -> Timing:
        """One run."""
        start = time.perf_counter()
        call()
        return Timing([time.perf_counter() - start], 1)


def machine_for(check: bool) -> Machine:
    """The GPU, or the interpreter."""
    return Interpreter() if check else CudaMachine()
