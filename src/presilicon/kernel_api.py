"""Triton kernels predicted without a GPU: `predict_kernel` and `capture_launches`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from . import kernel_memo
from .errors import KernelError, SpecError, UnknownNameError, shown
from .kernel_report import KernelInfo, KernelReport
from .units import format_si

if TYPE_CHECKING:
    from .arch import System
    from .mapping.triton import CapturedLaunch, CompiledKernel, Launch
    from .sim.sm.result import KernelRun

FIDELITIES: Final = ("tile", "cycle")
#: Calibrated intervals of kernels stand in a device file under this family.
_FAMILY: Final = "kernel"


def predict_kernel(
    kernel: Any,
    grid: Any = None,
    args: Sequence[Any] = (),
    system: System | str | Path = "h100-sxm",
    *,
    fidelity: str = "tile",
    config: Any = None,
    record: bool = False,
    assume: Mapping[Any, int | bool] | None = None,
    **meta: Any,
) -> KernelReport:
    """Predict ``kernel[grid](*args, **meta)`` on a GPU that need not be there.

    Parameters
    ----------
    kernel
        A `@triton.jit` function, plain or under `@triton.autotune` and `@triton.heuristics`; or a launch that `capture_launches` recorded,
        alone (``predict_kernel(launch, system="l4")``).
    grid, args, meta
        As at a launch; tensors are meta tensors (``torch.empty(..., device="meta")``), or CPU tensors where their values steer the kernel.
    system
        A GPU: a System, a shipped name (``presilicon systems``) or the path of a device file.
    fidelity
        ``"tile"``, or ``"cycle"``: the machine code issued warp by warp.
    config
        For an autotuned kernel: a `triton.Config`, its number, or ``"first"``; by default all are predicted and the fastest is taken.
        Configs that cannot run on this system are left out and named in the report (`KernelInfo.left_out`).
    record
        Keep one SM's timeline for `KernelReport.to_perfetto`.
    assume
        What only data could tell: ``{"lengths_ptr": 1024}``, every element of that integer tensor is 1024; ``{36: False}``, the line that
        the assumption about line 36 names is not executed; ``{34: 17}``, the loop in line 34 makes 17 trips (as it stands in machine code:
        the compiler may have unrolled it). What is not decided is assumed, and named in ``run.assumptions``.

    Raises
    ------
    KernelError
        The kernel does not compile (the message is Triton's), never ends, or cannot be launched with these arguments.
    SpecError
        The system is no GPU.
    UnknownNameError
        Unknown system or fidelity, a generation that Triton does not compile for, or an argument or a line in `assume`
        by which nothing is decided.

    Examples
    --------
    >>> report = ps.predict_kernel(add, (1024,), (x, y, out, x.numel()), "h100-sxm", BLOCK=1024)  # doctest: +SKIP
    >>> print(report.summary())  # doctest: +SKIP
    """
    from .mapping.triton.capture import CapturedLaunch
    from .mapping.triton.decisions import check_arguments, check_used, decisions, split
    from .mapping.triton.launch import unwrap

    gpu, told = gpu_of(system), ""
    if isinstance(kernel, CapturedLaunch):
        if grid is not None or args or meta:
            raise KernelError("a recorded launch has its own grid and arguments; give it alone: predict_kernel(launch, system=...)")
        told = told_elsewhere(kernel, gpu)
        kernel, grid, args, meta = kernel.kernel, kernel.grid, kernel.args, dict(kernel.meta)
    elif isinstance(kernel, list | tuple):
        raise KernelError("one launch at a time: [predict_kernel(launch, system=...) for launch in launches]")
    elif grid is None:
        raise KernelError("a grid is needed: predict_kernel(kernel, grid, args, system, ...)")
    elif not isinstance(args, list | tuple):
        raise KernelError(f"args are the launch's positional arguments in a tuple or list, not {shown(args)}")
    try:
        report = predict_launch(kernel, grid, args, gpu, meta, fidelity=fidelity, config=config, record=record, assume=assume)
    except KernelError as error:
        if not told:
            raise
        raise KernelError(f"{error}\n{told}") from error
    values, lines = split(decisions(assume))
    check_arguments(values, {param.name for param in unwrap(kernel).params})
    check_used(lines, report.run.assumptions)
    return report.assuming(told) if told else report


def told_elsewhere(launch: CapturedLaunch, gpu: System) -> str:
    """What the launch may owe to the GPU that its program was told to be on, "" where `gpu` would have answered alike."""
    from .mapping.triton.absent import AbsentGpu

    differing = [] if launch.system is None else AbsentGpu(gpu).differing(launch.told)
    if not differing or launch.system is None:
        return ""
    return (f"{launch.where}: launched as on {launch.system.name}, of which the program had asked {', '.join(differing)}: "
            f"grid and arguments taken as they are; capture_launches({gpu.name!r}) records it anew")


def predict_launch(kernel: Any, grid: Any, args: Sequence[Any], gpu: System, meta: Mapping[str, Any], *, fidelity: str = "tile",
                   config: Any = None, record: bool = False, assume: Mapping[Any, int | bool] | None = None,
                   progress: Callable[[int, int], None] | None = None) -> KernelReport:
    """`predict_kernel`, but `assume` may name arguments of other kernels and lines where data decides nothing.

    `progress` is called with autotune configs done and wanted.
    """
    from .mapping.triton.decisions import decisions, split
    from .mapping.triton.launch import unwrap

    values, lines = split(decisions(assume))
    assume = lines | {param.name: values[param.name] for param in unwrap(kernel).params if param.name in values}
    if fidelity not in FIDELITIES:
        raise UnknownNameError("fidelity", fidelity, FIDELITIES)
    from .mapping.triton import bind_launch, configs_of

    configs = configs_of(kernel, args, meta, gpu)
    if config is not None and not configs:
        raise KernelError(f"config={config}: the kernel is not autotuned; name its constexprs and options (num_warps, ...) themselves")
    if config is None and len(configs) > 1:
        return _fastest(kernel, grid, args, meta, configs, gpu, fidelity, record, assume, progress)
    launch = bind_launch(kernel, grid, args, meta, target=gpu.generation, config=config, assume=assume, system=gpu)
    return _predict(launch, gpu, fidelity, record)


@contextmanager
def capture_launches(system: System | str | Path | None = None) -> Iterator[list[CapturedLaunch]]:
    """Record every Triton launch made in the block instead of running it; see `presilicon.mapping.triton.capture_launches`.

    Parameters
    ----------
    system
        The GPU that the program is told to be on where it asks (`x.is_cuda`, number of SMs, compute capability): a System, a shipped
        name or the path of a device file. By default the machine's own where it has one, else ``"h100-sxm"``.

    Examples
    --------
    >>> with ps.capture_launches("l4") as launches:  # doctest: +SKIP
    ...     my_module(meta_inputs)
    >>> [ps.predict_kernel(launch, system="l4") for launch in launches]  # doctest: +SKIP
    """
    import importlib

    from .mapping.triton import capture_launches as capture

    own = system is None and importlib.import_module("torch").cuda.is_available()
    with capture(None if own else gpu_of(system or "h100-sxm")) as launches:
        yield launches


def gpu_of(system: System | str | Path) -> System:
    """The system, if it is a GPU whose generation Triton compiles for.

    Raises
    ------
    SpecError
        Another kind of system, or a generation without a target.
    """
    from .arch import System, load
    from .mapping.triton.tools import TARGETS, parse_target

    found = load(system)
    if not isinstance(found, System):
        raise SpecError(f"{found.name}: a system of kind {found.kind!r} runs no Triton kernels; give a GPU")
    try:
        parse_target(found.generation)
    except UnknownNameError:
        known = ", ".join(f"sm_{target}" for target in TARGETS)
        raise SpecError(f"{found.name}: generation {found.generation!r} is none that Triton kernels are compiled for ({known})") from None
    return found


def _fastest(kernel: Any, grid: Any, args: Sequence[Any], meta: Mapping[str, Any], configs: Sequence[Any], gpu: System, fidelity: str,
             record: bool, assume: Mapping[Any, int | bool] | None, progress: Callable[[int, int], None] | None) -> KernelReport:
    """The fastest of the configs that can run, which names the others; several processes predict those that are not known yet."""
    from .forked import forked
    from .mapping.triton import bind_launch
    from .sim.sm.ahead import compile_ahead

    found: dict[int, KernelReport | KernelError] = {}
    open_ones: list[tuple[int, Launch]] = []
    for number, config in enumerate(configs):
        try:
            launch = bind_launch(kernel, grid, args, meta, target=gpu.generation, config=config, assume=assume, system=gpu)
            with kernel_memo.not_recording():
                kept = _kept(_question(launch, gpu, fidelity, record, str(config)))
        except KernelError as error:
            found[number] = error
            continue
        if kept is None:
            open_ones.append((number, launch))
        else:
            found[number] = kept

    gone: KernelReport | KernelError = KernelError("the compiler ended without an answer (out of memory?)")

    def predict(one: tuple[int, Launch]) -> KernelReport | KernelError:
        try:
            return _predict(one[1], gpu, fidelity, record, str(configs[one[0]]))
        except KernelError as error:
            return error

    if open_ones:
        compile_ahead(fidelity)
    with kernel_memo.not_recording():
        for place, answer in forked(predict, open_ones, lost=gone):
            found[open_ones[place][0]] = answer
            if progress is not None:
                progress(len(found), len(configs))
    reports = [answer for _, answer in sorted(found.items()) if isinstance(answer, KernelReport)]
    errors = [(number, answer) for number, answer in sorted(found.items()) if isinstance(answer, KernelError)]
    if not reports:
        raise KernelError(f"none of {len(configs)} autotune configs can run on {gpu.name}; the first: {errors[0][1]}") from errors[0][1]
    best = min(reports, key=lambda report: report.time_s)
    left_out = tuple(f"{configs[number]}: {' '.join(str(error).split())}" for number, error in errors)
    return replace(best, info=replace(best.info, left_out=left_out))


def _predict(launch: Launch, system: System, fidelity: str, record: bool, config: str = "") -> KernelReport:
    """One bound launch; the same question was perhaps answered before."""
    with kernel_memo.not_recording():
        key = _question(launch, system, fidelity, record, config)
        return _kept(key) or _answer(key, launch, system, fidelity, record, config)


def _question(launch: Launch, system: System, fidelity: str, record: bool, config: str) -> str:
    from .mapping.triton.compile import content_key

    return kernel_memo.question("launch", {
        "code": content_key(launch), "grid": launch.grid, "arguments": _fingerprint(launch), "system": dict(system.document),
        "name": system.name, "fidelity": fidelity, "record": record, "config": config,
    })


def _kept(key: str) -> KernelReport | None:
    kept = kernel_memo.load(key)
    return None if kept is None else KernelReport.from_document(kept)


def _answer(key: str, launch: Launch, system: System, fidelity: str, record: bool, config: str) -> KernelReport:
    from .mapping.triton import compile_launch, occupancy_of
    from .sim.sm.ahead import compile_ahead
    from .sim.sm.run import simulate_kernel

    compile_ahead(fidelity)

    def cannot_launch(compiled: CompiledKernel) -> str:
        found = occupancy_of(compiled, system).problem
        return f"cannot launch on {system.name}: {found}" if found else ""

    compiled = compile_launch(launch, problem=cannot_launch)
    run = simulate_kernel(compiled, launch, system, fidelity=fidelity, record=record)
    report = _report(run, compiled, launch, system, config)
    kernel_memo.store(key, report.document())
    return report


def _fingerprint(launch: Launch) -> list[Any]:
    """All that a launch's arguments say, data included."""
    import hashlib

    data = [hashlib.sha256(buffer.data.tobytes()).hexdigest() if buffer.data is not None else "" for buffer in launch.buffers]
    told = sorted(map(repr, launch.assume.items()))
    return [{name: repr(value) for name, value in launch.arguments.items()}, [repr(buffer) for buffer in launch.buffers], data, told]


def _report(run: KernelRun, compiled: CompiledKernel, launch: Launch, system: System, config: str) -> KernelReport:
    low, high, rule = interval_of(run, system)
    info = KernelInfo(
        name=launch.name, where=f"{compiled.source_file}:{compiled.source_line}", system=system.name, title=system.title,
        target=compiled.target, grid=launch.grid, arguments={name: _shown(value) for name, value in launch.arguments.items()},
        registers=compiled.registers, stack_bytes=compiled.stack_bytes, shared_bytes=compiled.shared_bytes + compiled.static_shared_bytes,
        num_stages=compiled.num_stages, interval=rule, config=config,
    )
    calls = tuple(f"{info.where}: time depends on what {name} of the CUDA system does: left out" for name in _called(compiled))
    return KernelReport(replace(run, low_s=low, high_s=high, assumptions=run.assumptions + calls), info)


def _called(compiled: CompiledKernel) -> list[str]:
    """Functions of the CUDA system that may be called and come back (debug prints)."""
    from .mapping.triton.calls import ENDLESS

    return sorted(set(compiled.layout.functions.values()) - ENDLESS)


def _shown(value: Any) -> str:
    if hasattr(value, "size_bytes"):
        return f"tensor of {format_si(value.size_bytes, 'B')}"
    if hasattr(value, "block_shape"):
        return f"descriptor of {'x'.join(map(str, value.shape))}, blocks of {'x'.join(map(str, value.block_shape))}"
    return str(value)


def interval_of(run: KernelRun, system: System) -> tuple[float, float, str]:
    """Low and high end of a run's time, and the rule by which they were found.

    A system whose calibration has measured kernels (family ``kernel`` in its `intervals`) gives its own. Else the transfer intervals of
    arch/intervals.yaml stand in, as a rule: ``fused_moe``, whose rows are Triton kernels, for kernels on the tensor cores, and ``default``
    for the others.
    """
    import numpy as np

    from .arch.intervals import bounds, table_for

    kind = "tensor" if run.tensor_flops else "memory"
    table, own = table_for(system, f"{_FAMILY}.{kind}")
    if own:
        low, high = bounds(system, f"{_FAMILY}.{kind}", np.array(run.time_s))
        return float(low), float(high), str(table["source"])
    family = "fused_moe" if run.tensor_flops else "default"
    low, high = bounds(replace(system, intervals={}), family, np.array(run.time_s))
    source = table_for(replace(system, intervals={}), family)[0]["source"]
    return float(low), float(high), f"not calibrated on kernels of this GPU; interval of {family!r}: {source}"
