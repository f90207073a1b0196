"""What a suite of kernels is: shapes, configs, launches, a torch reference, and the work that a launch has to do."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor

Value = int | float | str
#: Sizes and number format of one problem, by name; a config holds tile sizes, warps and stages.
Shape = Mapping[str, Value]
Config = Mapping[str, Value]
Tensors = dict[str, Any]

#: How a point may be timed: one launch at a time after the L2 cache has been overwritten; CUDA-graph replays back to back; calls back to
#: back without a graph; seconds that the CPU spends on a launch; and replays for seconds, with clock and power.
TIMERS: Final = ("cold", "graph", "eager", "host", "sustained")


class Launch(NamedTuple):
    """One launch: what ``kernel[grid](*args, **meta)`` takes."""

    kernel: Any
    grid: tuple[int, ...]
    args: tuple[Any, ...]
    meta: Mapping[str, Any]

    def run(self) -> Any:
        """Launch it; returns Triton's compiled kernel."""
        return self.kernel[self.grid](*self.args, **self.meta)


@dataclass(frozen=True)
class Place:
    """Where tensors live and on what GPU the launches will run.

    Attributes
    ----------
    device
        ``"meta"``: float tensors have no data. Integer tensors that kernels use as addresses or bounds (routing, page and block lists) then
        live on the CPU with their values, since the control flow depends on them.
    sm_count
        Grid of the persistent kernels.
    capability
        90 is sm_90.
    seed
        Of the random data.
    """

    device: str = "meta"
    sm_count: int = 132
    capability: int = 90
    seed: int = 0
    _made: Iterator[int] = field(default_factory=itertools.count, compare=False, repr=False)

    def _generator(self) -> Any:
        import torch

        return torch.Generator(self.device).manual_seed(self.seed * 1_000_003 + next(self._made))

    def normal(self, *shape: int, dtype: str = "bfloat16", scale: float = 1.0) -> Tensor:
        """Normal numbers of standard deviation `scale`; whole numbers from -127 to 127 for int8."""
        import torch

        if self.device == "meta":
            return torch.empty(shape, dtype=torch_dtype(dtype), device="meta")
        if dtype == "int8":
            return torch.randint(-127, 128, shape, dtype=torch.int8, device=self.device, generator=self._generator())
        wide = torch.randn(shape, dtype=torch.float32, device=self.device, generator=self._generator())
        return (wide * scale).to(torch_dtype(dtype))

    def uniform(self, *shape: int, low: float = 0.0, high: float = 1.0, dtype: str = "float32") -> Tensor:
        """Numbers between `low` and `high`."""
        import torch

        if self.device == "meta":
            return torch.empty(shape, dtype=torch_dtype(dtype), device="meta")
        wide = torch.rand(shape, dtype=torch.float32, device=self.device, generator=self._generator())
        return (wide * (high - low) + low).to(torch_dtype(dtype))

    def bytes(self, *shape: int) -> Tensor:
        """Random bytes (packed weights)."""
        import torch

        if self.device == "meta":
            return torch.empty(shape, dtype=torch.uint8, device="meta")
        return torch.randint(0, 256, shape, dtype=torch.uint8, device=self.device, generator=self._generator())

    def index(self, values: Any, dtype: str = "int32") -> Tensor:
        """Integers that steer a kernel, from a NumPy array or a list; they keep their values on every device."""
        import torch

        return torch.as_tensor(values, dtype=torch_dtype(dtype), device="cpu" if self.device == "meta" else self.device)

    def empty(self, *shape: int, dtype: str = "bfloat16") -> Tensor:
        """An output, filled with NaN (or -1) so that an element left unwritten shows."""
        import torch

        kind = torch_dtype(dtype)
        if self.device == "meta":
            return torch.empty(shape, dtype=kind, device="meta")
        return torch.full(shape, float("nan") if kind.is_floating_point else -1, dtype=kind, device=self.device)

    def zeros(self, *shape: int, dtype: str = "int32") -> Tensor:
        """Zeros, such as flags."""
        import torch

        return torch.zeros(shape, dtype=torch_dtype(dtype), device=self.device)


def torch_dtype(name: str) -> Any:
    """torch's dtype for a name such as ``"bfloat16"``, ``"fp8_e4m3"``, ``"fp8_e5m2"`` or ``"int8"``."""
    import torch

    return getattr(torch, {"fp8_e4m3": "float8_e4m3fn", "fp8_e5m2": "float8_e5m2"}.get(name, name))


def size_of(dtype: str) -> int:
    """Bytes of an element.

    >>> size_of("bfloat16"), size_of("fp8_e4m3")
    (2, 1)
    """
    return {"float32": 4, "int32": 4, "bfloat16": 2, "float16": 2, "int64": 8}.get(dtype, 1)


def never(shape: Shape, capability: int) -> str:
    """The default of `Suite.refuses`: every GPU of sm_80 or later runs it."""
    return ""


def needs_fp8(shape: Shape, capability: int) -> str:
    """Why Triton cannot run this number format there, or nothing."""
    if shape.get("dtype") == "fp8_e4m3" and capability < 89:
        return "fp8 e4m3 needs sm_89"
    return ""


@dataclass(frozen=True)
class Suite:
    """A family of launches that are measured and predicted alike.

    Attributes
    ----------
    name
        As ``--suite`` takes it.
    summary
        One line.
    shapes
        Problems, in order of importance.
    configs
        Configs to try on a shape.
    tensors
        Inputs and the output of a shape.
    launches
        What one call launches, in order. It may allocate scratch on the place.
    reference
        The right answer in float32, from the inputs.
    flops, bytes
        Useful floating-point operations; bytes that must be moved if each input is read once and each output written once.
    output
        Name of the output among the tensors.
    tolerance
        Largest relative error ``norm(out - reference) / norm(reference)`` that passes.
    timers
        How a point is timed: of `TIMERS`.
    tiny
        Shapes and configs small enough for Triton's interpreter.
    refuses
        Why a shape cannot run on a compute capability; empty where it can.
    interpretable
        Whether Triton's interpreter can run it (not so for inline assembly).
    call
        For suites of torch's own operators: a function that runs the point; there are no launches then.
    calls_per_launch
        A microbenchmark repeats its unit of work this often in one launch.
    extra
        Left out of "all": measured only where it is named.
    table, row
        Kind of op table that the points also belong to (the part of the file name before ``.csv``), and a point's columns there.
    """

    name: str
    summary: str
    shapes: Sequence[Shape]
    configs: Callable[[Shape], Sequence[Config]]
    tensors: Callable[[Shape, Place], Tensors]
    launches: Callable[[Shape, Config, Tensors, Place], list[Launch]]
    reference: Callable[[Shape, Tensors], Any]
    flops: Callable[[Shape], int]
    bytes: Callable[[Shape], int]
    output: str = "out"
    tolerance: Callable[[Shape], float] = lambda shape: 0.01
    timers: tuple[str, ...] = ("cold", "graph")
    tiny: Sequence[tuple[Shape, Config]] = ()
    refuses: Callable[[Shape, int], str] = never
    interpretable: bool = True
    call: Callable[[Shape, Config, Tensors], Callable[[], Any]] | None = None
    calls_per_launch: Callable[[Shape], int] = lambda shape: 1
    extra: bool = False
    table: str = ""
    row: Callable[[Shape], Mapping[str, Value]] = dict

    def predict(self, shape: Shape, config: Config, **place: Any) -> list[Launch]:
        """Launches on meta tensors, for the predictor; `place` as `Place` takes it."""
        where = Place(**place)
        return self.launches(shape, config, self.tensors(shape, where), where)


def text_of(fields: Mapping[str, Value]) -> str:
    """Fields as one cell of a table.

    >>> text_of({"m": 8, "dtype": "bfloat16"})
    'm=8;dtype=bfloat16'
    """
    return ";".join(f"{name}={value}" for name, value in fields.items())


def fields_of(text: str) -> dict[str, Value]:
    """What `text_of` wrote.

    >>> fields_of("m=8;p=0.5;dtype=bfloat16")
    {'m': 8, 'p': 0.5, 'dtype': 'bfloat16'}
    """
    fields: dict[str, Value] = {}
    for part in filter(None, text.split(";")):
        name, _, value = part.partition("=")
        for kind in (int, float, str):
            try:
                fields[name] = kind(value)
                break
            except ValueError:
                continue
    return fields


def product(**axes: Sequence[Value]) -> list[dict[str, Value]]:
    """Every combination.

    >>> product(a=[1, 2], b=["x"])
    [{'a': 1, 'b': 'x'}, {'a': 2, 'b': 'x'}]
    """
    return [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]


def tile(m: int, n: int, k: int, stages: int, warps: int, **more: Value) -> dict[str, Value]:
    """A GEMM config: BLOCK_M, BLOCK_N, BLOCK_K, num_stages, num_warps, GROUP_M = 8."""
    return {"BLOCK_M": m, "BLOCK_N": n, "BLOCK_K": k, "GROUP_M": 8, "num_stages": stages, "num_warps": warps} | more


def cdiv(a: int, b: int) -> int:
    """Ceiling of a / b."""
    return -(-a // b)


def power_of_two(n: int) -> int:
    """The smallest power of two that is not below n.

    >>> power_of_two(2049)
    4096
    """
    return 1 << max(n - 1, 0).bit_length()


def relative_error(out: Any, reference: Any) -> float:
    """``norm(out - reference) / norm(reference)`` in float64; infinity where an output was not written or is not finite."""
    import torch

    out64, ref64 = out.to(torch.float32).double(), reference.double()
    if out64.shape != ref64.shape:
        raise ValueError(f"output has shape {tuple(out64.shape)}, the reference {tuple(ref64.shape)}")
    error = float(torch.linalg.vector_norm(out64 - ref64) / torch.linalg.vector_norm(ref64).clamp_min(1e-30))
    return float("inf") if math.isnan(error) else error
