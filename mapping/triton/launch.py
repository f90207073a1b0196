"""From ``kernel[grid](*args, **meta)`` to what a launch would pass on: specialised arguments, grid, parameter bytes.

The binding and the specialisation are Triton's own functions, so that a kernel is compiled for the very signature that a
launch on a GPU would compile it for (divisibility by 16, equal to 1, dtypes, constexprs, tensor descriptors).
"""

from __future__ import annotations

import importlib
import inspect
import itertools
import math
import operator
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ...arch import System
from ...errors import KernelError, shown
from .decisions import check_arguments, decisions, filled, split
from .tools import parse_target, require_triton

#: A grid as a launch takes it: one to three sizes, or a function of the bound arguments that returns them.
Grid = Sequence[int] | Callable[[dict[str, Any]], Sequence[int]] | int

_GRID_LIMITS = (2**31 - 1, 65535, 65535)
#: Allocations start at multiples of this, as torch's caching allocator places them.
_ALIGNMENT = 512
_FIRST_ADDRESS = 0x7F00_0000_0000


@dataclass(frozen=True)
class Buffer:
    """The memory behind a pointer argument, at an address that we choose.

    Attributes
    ----------
    address
        First byte of the tensor (its storage offset included).
    start, size_bytes
        The storage that holds it; tensors that share a storage share both.
    data
        The storage's bytes where the argument was a tensor with values (on the CPU), so that loads from it are known;
        None for meta tensors.
    """

    address: int
    start: int
    size_bytes: int
    data: np.ndarray | None = field(default=None, repr=False, compare=False)


@dataclass(frozen=True)
class TensorMap:
    """A tensor descriptor argument (TMA): what the host would encode into a CUtensorMap."""

    buffer: Buffer
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    block_shape: tuple[int, ...]
    element_bytes: int


@dataclass(frozen=True)
class Launch:
    """One kernel launch, bound to its arguments and specialised for a target.

    Attributes
    ----------
    function
        The `triton.JITFunction`.
    target
        Compute capability (90 is sm_90).
    grid
        Numbers of program ids along x, y and z.
    arguments
        Values by parameter name, constexprs included, tensors as `Buffer`, tensor descriptors as `TensorMap`.
    signature
        Triton types by parameter name: ``"*bf16"``, ``"i32"``, ``"constexpr"``.
    options
        The backend's options (`CUDAOptions`): num_warps, num_stages, num_ctas and the rest.
    constexprs, attributes
        As `ASTSource` takes them.
    buffers
        Every storage once, in order of address.
    assume
        Decisions about lines where only data could tell, as `decisions.decisions` makes them.
    """

    function: Any = field(repr=False)
    target: int
    grid: tuple[int, int, int]
    arguments: Mapping[str, Any] = field(repr=False)
    signature: Mapping[str, Any]
    options: Any = field(repr=False)
    constexprs: Mapping[tuple[int, ...], Any] = field(repr=False)
    attributes: Mapping[tuple[int, ...], Any] = field(repr=False)
    buffers: tuple[Buffer, ...] = field(repr=False, default=())
    assume: Mapping[str, int | bool] = field(repr=False, default_factory=dict)

    @property
    def name(self) -> str:
        """The kernel's function name."""
        return str(self.function.__name__)

    @property
    def programs(self) -> int:
        """Number of program ids in the grid."""
        return math.prod(self.grid)


class _Pointer:
    """Stands for a tensor in Triton's specialisation: a dtype and an address, no device."""

    def __init__(self, tensor: Any, buffer: Buffer) -> None:
        self.dtype, self.tensor, self.buffer = tensor.dtype, tensor, buffer

    def data_ptr(self) -> int:
        return self.buffer.address


class _Memory:
    """Gives each storage an address, and the same storage the same one."""

    def __init__(self) -> None:
        self.next = _FIRST_ADDRESS
        self.storages: dict[int, Buffer] = {}
        self.alive: list[Any] = []

    def buffer(self, tensor: Any, where: str) -> Buffer:
        base = _lies_on(tensor)
        if base is not None:
            found = self.buffer(base, where)
            return replace(found, address=found.address + _distance(tensor, base))
        layout = str(getattr(tensor, "layout", "torch.strided"))
        if layout != "torch.strided":
            raise KernelError(f"{where}: a tensor of layout {layout}; a kernel takes the address of a dense one")
        item = tensor.element_size() if hasattr(tensor, "element_size") else tensor.dtype.itemsize
        offset = tensor.storage_offset() if hasattr(tensor, "storage_offset") else 0
        if hasattr(tensor, "untyped_storage"):
            storage = tensor.untyped_storage()
            key, size = storage._cdata, int(storage.nbytes())
            self.alive.append(storage)
        else:
            key, size = id(tensor), math.prod(tensor.shape) * item
            self.alive.append(tensor)
        extent = sum((n - 1) * s for n, s in zip(tensor.shape, tensor.stride(), strict=True)) if math.prod(tensor.shape) else -1
        size = max(size, (offset + extent + 1) * item)
        if key not in self.storages:
            self.storages[key] = Buffer(self.next, self.next, size, _values(tensor, where))
            self.next += -(-max(size, 1) // _ALIGNMENT) * _ALIGNMENT + _ALIGNMENT
        start = self.storages[key]
        return Buffer(start.start + offset * item, start.start, start.size_bytes, start.data)


def _lies_on(tensor: Any) -> Any:
    """The tensor whose memory a wrapper names (`triton.reinterpret`, a library's own buffer); None for tensors and for all else."""
    torch = sys.modules.get("torch")
    if torch is None or isinstance(tensor, torch.Tensor):
        return None
    found = (getattr(tensor, name, None) for name in ("base", "_base"))
    return next((base for base in found if isinstance(base, torch.Tensor)), None)


def _distance(wrapper: Any, base: Any) -> int:
    """Bytes from a tensor's first element to that of a wrapper around it."""
    try:
        return int(wrapper.data_ptr()) - int(base.data_ptr())
    except Exception:  # torch's fake tensors have no address to ask for
        return 0


def _values(tensor: Any, where: str) -> np.ndarray | None:
    """The bytes of a tensor's whole storage, or None where it has no values."""
    kind = getattr(getattr(tensor, "device", None), "type", "meta")
    fake = type(tensor).__name__ in ("FakeTensor", "FunctionalTensor")
    if kind == "cuda" and not fake:
        torch = sys.modules.get("torch")
        if torch is None or not torch.cuda.is_available():
            raise KernelError(f"{where} is a CUDA tensor on a machine without CUDA; pass torch.empty(..., device='meta')")
        return None
    if kind != "cpu" or fake or not hasattr(tensor, "untyped_storage"):
        return None
    torch = sys.modules["torch"]
    flat = torch.empty(0, dtype=torch.uint8).set_(tensor.untyped_storage())
    return np.asarray(flat.numpy())


def _is_tensor(value: Any) -> bool:
    return hasattr(value, "data_ptr") and hasattr(value, "dtype") and hasattr(value, "shape")


def _is_descriptor(value: Any) -> bool:
    return all(hasattr(value, name) for name in ("base", "shape", "strides", "block_shape"))


def _stand_in(value: Any, memory: _Memory, where: str) -> Any:
    """`value` with its tensors replaced by pointers; lists and other values stay, for Triton to judge."""
    if isinstance(value, tuple):
        inner = [_stand_in(item, memory, where) for item in value]
        return type(value)(*inner) if hasattr(value, "_fields") else tuple(inner)
    return _Pointer(value, memory.buffer(value, where)) if _is_tensor(value) else value


def _as_given(value: Any) -> Any:
    """What `_stand_in` made its pointers from."""
    if isinstance(value, tuple):
        inner = [_as_given(item) for item in value]
        return type(value)(*inner) if hasattr(value, "_fields") else tuple(inner)
    return value.tensor if isinstance(value, _Pointer) else value


def _plain(value: Any, memory: _Memory, where: str) -> Any:
    """What the parameter buffer is filled from: numbers, `Buffer`, `TensorMap`, tuples of them."""
    if isinstance(value, tuple):
        return tuple(_plain(item, memory, where) for item in value)
    if isinstance(value, _Pointer):
        return value.buffer
    if _is_descriptor(value):
        item = value.base.element_size() if hasattr(value.base, "element_size") else value.base.dtype.itemsize
        return TensorMap(memory.buffer(value.base, where), tuple(map(int, value.shape)), tuple(map(int, value.strides)),
                         tuple(map(int, value.block_shape)), item)
    return getattr(value, "value", value) if type(value).__name__ == "constexpr" else value


def source_place(function: Any) -> tuple[str, int]:
    """File and line of a kernel's ``def``, also with a Triton (before 3.7) that does not tell them: it counts from the decorators."""
    file = getattr(function, "file_name", "") or inspect.getfile(function.fn)
    line = getattr(function, "def_file_line_number", None)
    if line is None:
        heads = (number for number, text in enumerate(getattr(function, "raw_src", ())) if text.lstrip().startswith("def "))
        line = getattr(function, "starting_line_number", 0) + next(heads, 0)
    return file, line


def place_of(function: Any) -> str:
    """``file.py:12: kernel 'name'`` for messages."""
    file, line = source_place(function)
    return f"{file}:{line}: kernel {function.__name__!r}"


def unwrap(kernel: Any) -> Any:
    """The `JITFunction` inside autotune and heuristics wrappers.

    Raises
    ------
    KernelError
        `kernel` is no Triton kernel.
    """
    require_triton()
    inner = kernel
    while not hasattr(inner, "params") and hasattr(inner, "fn"):
        inner = inner.fn
    if not hasattr(inner, "cache_key") or not hasattr(inner, "params"):
        raise KernelError(f"not a @triton.jit function: {shown(kernel)}")
    return inner


def _as_on(system: System | None) -> AbstractContextManager[None]:
    """Heuristics, grids and hooks that ask for their GPU are told `system`; None leaves torch and Triton as they are."""
    if system is None:
        return nullcontext()
    from .absent import AbsentGpu, present

    return present(AbsentGpu(system))


def configs_of(kernel: Any, args: Sequence[Any] = (), meta: Mapping[str, Any] | None = None, system: System | None = None) -> list[Any]:
    """The `triton.Config`s that an autotuned kernel chooses from for these arguments, early pruning applied (as on `system`, if given).

    Returns
    -------
    Empty for a kernel that is not autotuned.

    Raises
    ------
    KernelError
        The pruning function failed (it may want values or a GPU), or left no config.
    """
    layer = kernel
    while not hasattr(layer, "configs") and hasattr(layer, "fn") and not hasattr(layer, "params"):
        layer = layer.fn
    if not hasattr(layer, "configs"):
        return []
    if getattr(layer, "early_config_prune", None) is None:
        return list(layer.configs)
    named = dict(zip(layer.arg_names, args, strict=False))
    try:
        with _as_on(system):
            left = list(layer.early_config_prune(layer.configs, named, **dict(meta or {})))
    except Exception as error:
        raise KernelError(f"{place_of(unwrap(kernel))}: early_config_prune failed: {type(error).__name__}: {error}") from error
    if not left:
        raise KernelError(f"{place_of(unwrap(kernel))}: early_config_prune leaves none of {len(layer.configs)} configs for these arguments")
    return left


def _choose(kernel: Any, args: Sequence[Any], meta: Mapping[str, Any], config: Any, system: System | None) -> Any:
    """The config for an autotuned layer."""
    if config is not None and not isinstance(config, int | str):
        return config
    configs = configs_of(kernel, args, meta, system)
    if isinstance(config, int):
        if not -len(configs) <= config < len(configs):
            raise KernelError(f"{place_of(unwrap(kernel))}: config {config} of {len(configs)}")
        return configs[config]
    if len(configs) == 1 or config == "first":
        return configs[0]
    raise KernelError(f"{place_of(unwrap(kernel))} is autotuned over {len(configs)} configs: pass config= (a triton.Config, its "
                      "number, or 'first'), or bind one launch for each of configs_of(kernel)")


def _resolve(kernel: Any, args: Sequence[Any], meta: dict[str, Any], config: Any, system: System | None) -> tuple[Any, dict[str, Any]]:
    """Apply autotune and heuristics layers from the outside in, as their `run` methods do."""
    layer = kernel
    while not hasattr(layer, "params"):
        if hasattr(layer, "configs"):
            chosen = _choose(layer, args, meta, config, system)
            clash = meta.keys() & chosen.kwargs.keys()
            if clash:
                raise KernelError(f"{place_of(unwrap(kernel))}: {', '.join(sorted(clash))} given although the config sets them")
            meta |= chosen.all_kwargs()
            if chosen.pre_hook is not None:
                with _as_on(system):
                    chosen.pre_hook({**dict(zip(layer.arg_names, args, strict=False)), **meta})
        elif hasattr(layer, "values") and isinstance(layer.values, Mapping):
            for name, rule in layer.values.items():
                try:
                    with _as_on(system):
                        meta[name] = rule({**dict(zip(layer.arg_names, args, strict=False)), **meta})
                except Exception as error:
                    raise KernelError(f"{place_of(unwrap(kernel))}: heuristic for {name!r} failed: "
                                      f"{type(error).__name__}: {error}") from error
        elif not hasattr(layer, "fn"):
            unwrap(kernel)
        layer = layer.fn
    return layer, meta


def _evaluate_grid(grid: Grid, bound: dict[str, Any], where: str, system: System | None) -> tuple[int, int, int]:
    if callable(grid):
        try:
            with _as_on(system):
                grid = grid(bound)
        except Exception as error:
            raise KernelError(f"{where}: the grid function failed on these arguments, which carry no data "
                              f"({type(error).__name__}: {error}); it may read shapes and constants only") from error
    try:
        sizes = (grid,) if isinstance(grid, int) else tuple(grid)
    except TypeError:
        raise KernelError(f"{where}: the grid is {shown(grid)}, not one to three sizes or a function that returns them") from None
    while len(sizes) > 3 and sizes[-1] == 1:  # Triton reads the first three
        sizes = sizes[:-1]
    if not 1 <= len(sizes) <= 3:
        raise KernelError(f"{where}: a grid has one to three sizes, not {shown(sizes)}")
    full = []
    for axis, size in enumerate((*sizes, 1, 1)[:3]):
        try:
            number = operator.index(size)
        except Exception as error:
            raise KernelError(f"{where}: grid size {axis} is {shown(size)}, not a whole number ({error})") from None
        if not 1 <= number <= _GRID_LIMITS[axis]:
            why = "a grid of no CTAs launches nothing" if number == 0 else f"allowed are 1 to {_GRID_LIMITS[axis]}"
            raise KernelError(f"{where}: grid size {axis} is {number}; {why}")
        full.append(number)
    return full[0], full[1], full[2]


_TAKEN = "a kernel takes tensors, tensor descriptors, numbers, None and tuples of these; what else it needs to know is a tl.constexpr"


def _misfit(function: Any, args: Sequence[Any], keyword: Mapping[str, Any]) -> str:
    """Which argument cannot be passed on, and why; "" where none is to be seen."""
    named = [(param, keyword[param.name]) for param in function.params if param.name in keyword]
    for param, value in [*zip(function.params, args, strict=False), *named]:
        text = "" if param.is_constexpr else _why_not(value)
        if text:
            return f"argument {param.name!r} is {text}"
    return ""


def _why_not(value: Any) -> str:
    if isinstance(value, tuple):
        return next(filter(None, map(_why_not, value)), "")
    if _is_tensor(value):
        element = str(value.dtype).removeprefix("torch.")
        known = importlib.import_module("triton._utils").type_canonicalisation_dict
        return "" if element in known else f"a tensor of {element}, which Triton has no type for"
    if isinstance(value, int) and not -(1 << 63) <= value < 1 << 64:
        return f"{shown(value)}, which does not fit 64 bits"
    plain = value is None or isinstance(value, bool | int | float) or _is_descriptor(value)
    named = type(value).__module__.partition(".")[0] == "triton"
    return "" if plain or named or hasattr(value, "data_ptr") else f"{shown(value)}, of type {type(value).__name__}; {_TAKEN}"


def bind_launch(kernel: Any, grid: Grid, args: Sequence[Any], meta: Mapping[str, Any] | None = None, *,
                target: int | str, config: Any = None, assume: Mapping[str, int | bool] | None = None,
                system: System | None = None) -> Launch:
    """Bind ``kernel[grid](*args, **meta)`` for a GPU that need not be there.

    Parameters
    ----------
    kernel
        A `@triton.jit` function, plain or under `@triton.autotune` and `@triton.heuristics`.
    grid, args, meta
        As at a launch. Tensors are meta tensors (``torch.empty(..., device="meta")``); a CPU tensor's values are known
        to the program that follows from it, which resolves data-dependent loops.
    target
        Compute capability: 90, ``"sm_90"``.
    config
        For an autotuned kernel: a `triton.Config`, its number in `configs_of`, or ``"first"``.
    assume
        Decisions where only data could tell: ``{"lengths_ptr": 1024, "line 36": False}``; see `decisions.decisions`.
    system
        The GPU that heuristics, hooks and grid functions find where they ask for one.

    Raises
    ------
    KernelError
        Wrong number or kind of arguments, a grid that cannot be evaluated without data, a CUDA tensor without CUDA,
        several configs and none chosen. Every message names the kernel's file and line.
    UnknownNameError
        An unknown target, or an argument in `assume` that the kernel does not have.
    """
    require_triton()
    capability = parse_target(target)
    function, meta = _resolve(kernel, args, dict(meta or {}), config, system)
    where = place_of(function)
    compiler = importlib.import_module("triton.compiler.compiler")
    jit = importlib.import_module("triton.runtime.jit")
    knobs = importlib.import_module("triton.knobs")
    backend = compiler.make_backend(compiler.GPUTarget("cuda", capability, 32))
    memory = _Memory()
    names = [param.name for param in function.params]
    values, told = split(decisions(assume))
    check_arguments(values, names)
    args = [filled(value, values[name], f"{where}: argument {name!r}") if name in values else value
            for name, value in itertools.zip_longest(names[:len(args)], args)]
    meta |= {name: filled(meta[name], value, f"{where}: argument {name!r}") for name, value in values.items() if name in meta}
    positional = [_stand_in(value, memory, f"{where}: argument {names[i] if i < len(names) else i!r}")
                  for i, value in enumerate(args)]
    keyword = {name: _stand_in(value, memory, f"{where}: argument {name!r}") for name, value in meta.items()}
    keyword.setdefault("debug", getattr(function, "debug", None) or getattr(knobs.runtime, "debug", False))
    try:
        binder = jit.create_function_from_signature(function.signature, function.params, backend)
        bound, specialization, extra = binder(*positional, **keyword)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            options, signature, constexprs, attributes = function._pack_args(backend, keyword, bound, specialization, extra)
    except (TypeError, KeyError, ValueError, OverflowError, AssertionError) as error:
        message = str(error.args[0] if error.args else error).replace("dynamic_func() ", "")
        message = _misfit(function, args, dict(meta)) or message
        raise KernelError(f"{where} cannot be launched with these arguments: {message}\n"
                          f"  its signature: ({', '.join(names)})") from error
    arguments = {name: _plain(value, memory, f"{where}: argument {name!r}") for name, value in bound.items()}
    given = {name: _as_given(value) for name, value in bound.items()}
    return Launch(function, capability, _evaluate_grid(grid, given, where, system), arguments, signature, options, constexprs,
                  attributes, tuple(memory.storages.values()), told)
