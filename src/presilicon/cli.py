"""The command line: one function per command; models and heavy libraries are imported inside."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, NoReturn

import typer

from . import cli_accelerators, cli_explore, cli_kernels, cli_npu, cli_workload
from .errors import PresiliconError, UnknownNameError
from .explore import commands
from .files import check_writable, write_atomically
from .terminal import make_console

if TYPE_CHECKING:
    from .arch import AnySystem
    from .report import Report
    from .workloads import OpGraph

app = typer.Typer(
    help="Predict how fast, and at what energy, a PyTorch model runs on hardware that you do not own.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


class Phase(StrEnum):
    """What one step does."""

    PREFILL = "prefill"
    DECODE = "decode"
    TRAIN = "train"


class AttentionName(StrEnum):
    """Which attention code of the model is traced."""

    SDPA = "sdpa"
    EAGER = "eager"
    FLASH = "flash"


class ScanName(StrEnum):
    """Which code of state-space layers is traced."""

    TORCH = "torch"
    FUSED = "fused"


class RuntimeName(StrEnum):
    """How kernels are launched."""

    EAGER = "eager"
    CUDAGRAPH = "cudagraph"
    COMPILED = "compiled"


class FidelityName(StrEnum):
    """How closely kernels are modelled."""

    ANALYTIC = "analytic"
    TILE = "tile"


#: Closed sets that options take, as their help lists them; the modules that own them are too heavy to import for it.
_SCHEMES: Final = ("w4a16", "w4a16_zero", "w8a16", "w8a8", "int8", "fp8", "fp8_block", "mxfp8", "mxfp4", "nvfp4", "w4a16_mxfp4")
_KINDS: Final = "gemm, attention-prefill, attention-decode, encoder-attention, mla-prefill, mla-decode, moe, scan, collective"

Model = Annotated[
    str,
    typer.Argument(
        metavar="MODEL", help=("Built-in name, folder or file with a Hugging Face config.json, FILE.py:FUNCTION, or a graph file.")
    ),
]
PhaseOption = Annotated[Phase, typer.Option(help="What one step does.")]
Batch = Annotated[int, typer.Option(help="Sequences in the batch.", min=1)]
Seq = Annotated[
    int | None, typer.Option(help="Tokens a sequence takes in (prefill, train); else 2048, or the positions of the model if fewer.", min=1)
]
Context = Annotated[
    int | None, typer.Option(help="Tokens already in the KV cache (decode); else 4096, or the positions of the model if fewer.", min=1)
]
Dtype = Annotated[str, typer.Option(help="Number format of weights and activations: bfloat16 or bf16, float16 or fp16, float32 or fp32.")]
Attention = Annotated[AttentionName, typer.Option(help="sdpa or eager: as PyTorch runs it; flash: one kernel, as serving engines run it.")]
Scans = Annotated[ScanName, typer.Option(help="State-space layers: torch code as written, or fused kernels as serving engines run them.")]
Quant = Annotated[str | None, typer.Option(help=f"Formats of the linear layers: {', '.join(_SCHEMES)}.")]
Strict = Annotated[bool, typer.Option("--strict", help="Fail if an op has no formula.")]
SystemOption = Annotated[str, typer.Option("--system", help="Name (see `presilicon systems`) or path of a device file.")]
RuntimeOption = Annotated[
    RuntimeName, typer.Option(help=("eager: the CPU launches each kernel; cudagraph: captured; compiled: captured and fused."))
]
FidelityOption = Annotated[FidelityName, typer.Option(help="analytic: closed forms; tile: tiles played out in time.")]


@app.callback()
def _options(debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False) -> None:
    """Listed here; `main` takes --debug out of the arguments, wherever it stands."""


def _graph(model: str, strict: bool, call: typer.Context, systems: Sequence[AnySystem] = ()) -> OpGraph:
    """A graph file as it is, anything else traced with the options of the call; then the part of one rank."""
    graph = _requests(model, strict, call, systems) if call.params.get("requests") else _traced(model, strict, call)
    return cli_workload.split(graph, call.params)


def _requests(model: str, strict: bool, call: typer.Context, systems: Sequence[AnySystem]) -> OpGraph:
    if model.endswith((".json", ".json.gz")) and Path(model).name != "config.json":
        raise PresiliconError(f"{model}: a saved graph has the batch that it was traced with; --requests need the model")

    def trace(batch: int, context: int) -> OpGraph:
        return _traced(model, strict, call, {"batch": batch, "context": context})

    return cli_workload.traced_requests(call, call.params["requests"], trace, systems)


def _traced(model: str, strict: bool, call: typer.Context, changes: Mapping[str, Any] | None = None) -> OpGraph:
    names = ("phase", "batch", "seq", "context", "dtype", "attention", "scans")
    options = {name: getattr(call.params[name], "value", call.params[name]) for name in names} | dict(changes or {})
    if not model.endswith((".json", ".json.gz")) or Path(model).name == "config.json":
        import logging

        from .workloads.models import trace_model

        logging.disable(logging.CRITICAL)  # torch logs tracebacks of what the error then says in one line
        try:
            return cli_workload.reformatted(trace_model(model, **options, strict=strict), call.params)
        finally:
            logging.disable(logging.NOTSET)
    from .workloads.graph import OpGraph

    graph = OpGraph.load(model)
    for name, value in options.items():
        given = getattr(call.get_parameter_source(name), "name", "") == "COMMANDLINE"
        if given and graph.meta.get(name, value) != value:
            raise PresiliconError(f"{model}: traced with {name} {graph.meta[name]}; --{name} {value} cannot change a saved graph")
    return cli_workload.reformatted(graph, call.params)


@app.command()
def predict(
    call: typer.Context,
    model: Model,
    system: Annotated[list[str], typer.Option("--system", help="Name or device file; repeat to compare.")],
    phase: PhaseOption = Phase.PREFILL,
    batch: Batch = 1,
    seq: Seq = None,
    context: Context = None,
    dtype: Dtype = "bfloat16",
    attention: Attention = AttentionName.SDPA,
    scans: Scans = ScanName.TORCH,
    quant: Quant = None,
    sparsity: cli_workload.SparsityOption = None,
    tp: cli_workload.Tp = 1,
    pp: cli_workload.Pp = 1,
    dp: cli_workload.Dp = 1,
    ep: cli_workload.Ep = 1,
    cp: cli_workload.Cp = 1,
    microbatches: cli_workload.Microbatches = None,
    sequence_parallel: cli_workload.SequenceParallel = False,
    requests: cli_workload.RequestsOption = None,
    runtime: RuntimeOption = RuntimeName.CUDAGRAPH,
    fidelity: FidelityOption = FidelityName.TILE,
    place: Annotated[
        str, typer.Option(help="Hybrid systems: auto (by cost), xpu, pim-attention, pim-linear, or pim (all that the units can do).")
    ] = "auto",
    strict: Strict = False,
    override: Annotated[list[str] | None, typer.Option("--set", help=("PATH=VALUE, such as dram.bandwidth='4 TB/s'; repeatable."))] = None,
    top: Annotated[int, typer.Option(help="Ops to list.", min=1)] = 10,
    out: Annotated[Path | None, typer.Option("-o", "--out", help="Folder for the tables, timeline and roofline.")] = None,
) -> None:
    """Predict one step of a model on one system or several."""
    from .api import simulate
    from .arch import load
    from .tables import comparison_table

    console = make_console()
    if out is not None:
        check_writable(out / "report.csv")
    systems = [load(name).override(_assignments(override)) for name in system]
    graph = _graph(model, strict, call, systems)
    reports = [simulate(graph, s, fidelity=fidelity.value, runtime=runtime.value, strict=strict, place=place) for s in systems]
    for report in reports:
        report.print(console, top)
    if len(reports) > 1:
        console.print(comparison_table(reports))
    if out is not None:
        for report in reports:
            _write_outputs(report, out)
        console.print(f"wrote {out}", highlight=False, markup=False)


@app.command()
def compare(
    call: typer.Context,
    model: Model,
    first: Annotated[str, typer.Argument(metavar="A", help="System whose budget counts: a name or device file.")],
    second: Annotated[str, typer.Argument(metavar="B", help="System whose PEs are scaled to that budget.")],
    iso: Annotated[cli_npu.BudgetName, typer.Option("--iso", help="area: equal silicon; power: equal peak power.")],
    phase: PhaseOption = Phase.PREFILL,
    batch: Batch = 1,
    seq: Seq = None,
    context: Context = None,
    dtype: Dtype = "bfloat16",
    attention: Attention = AttentionName.SDPA,
    scans: Scans = ScanName.TORCH,
    quant: Quant = None,
    sparsity: cli_workload.SparsityOption = None,
    fidelity: FidelityOption = FidelityName.TILE,
) -> None:
    """Two systems at equal area or power: B with as many PEs as A's budget holds."""
    from .api import simulate
    from .arch import load
    from .iso import equalise

    found = equalise(load(second), load(first), iso.value)
    graph = _traced(model, False, call)
    systems = (load(first), load(second), found.system)
    cli_npu.show_equal([simulate(graph, s, fidelity=fidelity.value) for s in systems], found)


def _assignments(items: list[str] | None) -> dict[str, Any]:
    pairs = (_pair(item, "--set", "PATH=VALUE, such as gpu.sm.count=144") for item in items or ())
    return {path: _number_or_text(value) for path, value in pairs}


def _pair(item: str, option: str, form: str) -> tuple[str, str]:
    name, sign, value = item.partition("=")
    if not sign:
        raise PresiliconError(f"{option} {item!r}: expected {form}")
    return name.strip(), value.strip()


def _number_or_text(text: str) -> Any:
    try:
        return float(text)
    except ValueError:
        return {"true": True, "false": False}.get(text.lower(), text)


def _write_outputs(report: Report, folder: Path) -> None:
    import json
    import math

    from .plots import svg

    s = report.simulation
    stem = "-".join(filter(None, (s.graph.name, s.graph.meta.get("phase", ""), s.system.name))).replace("/", "_")
    picture = svg(report.roofline())
    write_atomically(folder / f"{stem}.csv", report.to_frame().to_csv(index=False).encode())
    plain = {name: None if isinstance(value, float) and math.isnan(value) else value for name, value in report.headline().items()}
    write_atomically(folder / f"{stem}.json", (json.dumps(plain, indent=1) + "\n").encode())
    report.to_perfetto(folder / f"{stem}.perfetto.json")
    write_atomically(folder / f"{stem}.roofline.svg", picture)


@app.command()
def trace(
    call: typer.Context,
    model: Model,
    out: Annotated[Path, typer.Option("-o", "--out", help="Graph file to write (.json or .json.gz).")],
    phase: PhaseOption = Phase.PREFILL,
    batch: Batch = 1,
    seq: Seq = None,
    context: Context = None,
    dtype: Dtype = "bfloat16",
    attention: Attention = AttentionName.SDPA,
    scans: Scans = ScanName.TORCH,
    quant: Quant = None,
    sparsity: cli_workload.SparsityOption = None,
    tp: cli_workload.Tp = 1,
    pp: cli_workload.Pp = 1,
    dp: cli_workload.Dp = 1,
    ep: cli_workload.Ep = 1,
    cp: cli_workload.Cp = 1,
    microbatches: cli_workload.Microbatches = None,
    sequence_parallel: cli_workload.SequenceParallel = False,
    strict: Strict = False,
) -> None:
    """Trace a model into a graph file, which every command takes in place of MODEL without importing torch."""
    check_writable(out)
    graph = _graph(model, strict, call)
    graph.save(out)
    console = make_console()
    console.print(f"{graph!r} written to {out}", highlight=False, markup=False)
    for u in graph.uncovered:
        console.print(f"uncovered: {u.target} x{u.count} ({u.example})", style="bold red", highlight=False, markup=False)


@app.command()
def sensitivity(
    call: typer.Context,
    model: Model,
    system: SystemOption,
    objective: Annotated[str, typer.Option(help="latency, throughput, energy, memory, area, power or cost.")] = "latency",
    calibration: Annotated[bool, typer.Option("--calibration", help="The constants of the models too.")] = False,
    top: Annotated[int, typer.Option(help="Numbers to print.", min=1)] = 20,
    out: Annotated[Path | None, typer.Option("-o", "--out", help="Picture (.svg, .pdf, .png), or CSV of every number.")] = None,
    phase: PhaseOption = Phase.PREFILL,
    batch: Batch = 1,
    seq: Seq = None,
    context: Context = None,
    dtype: Dtype = "bfloat16",
    attention: Attention = AttentionName.SDPA,
    scans: Scans = ScanName.TORCH,
    quant: Quant = None,
    sparsity: cli_workload.SparsityOption = None,
    fidelity: FidelityOption = FidelityName.ANALYTIC,
    runtime: RuntimeOption = RuntimeName.CUDAGRAPH,
) -> None:
    """Which number of a device moves the answer, and by how much."""
    from .arch import load
    from .explore.sensitivity import sensitivity as run

    if out is not None:
        check_writable(out)
    device = load(system)
    graph = _traced(model, False, call)
    frame = run(graph, device, objective=objective, calibration=calibration, fidelity=fidelity.value, runtime=runtime.value)
    commands.show_sensitivity(frame, out, top)


@app.command()
def systems(name: Annotated[str | None, typer.Argument(help="One system: show every number with its source.")] = None) -> None:
    """List the device files, or show one with the source of every number."""
    from . import arch
    from .arch.listing import table
    from .tables import make_table
    from .units import format_si

    console = make_console()
    if name is None:
        rows = []
        for each in arch.names():
            s = arch.load(each)
            peaks = s.peaks_flops_per_s
            arithmetic = next((a for a in ("bf16", "fp16", "int8") if a in peaks), max(peaks, key=lambda a: peaks[a]))
            rows.append(
                (
                    s.name,
                    s.title,
                    s.kind,
                    s.generation or "-",
                    f"{format_si(peaks[arithmetic], 'FLOP/s')} {arithmetic}",
                    format_si(s.ceilings_bytes_per_s["dram"], "B/s"),
                    format_si(s.memory_bytes, "B"),
                    ", ".join(sorted(s.intervals)) or "-",
                )
            )
        left = ("name", "device", "kind", "generation")
        right = ("peak", "DRAM", "memory")
        columns = [(n, "left") for n in left] + [(n, "right") for n in right] + [("calibrated", "left")]
        console.print(make_table("", columns, rows))
        return
    system = arch.load(name)
    generation = f", generation {system.generation}" if system.generation else ""
    console.print(f"{system.title} ({system.name}), {system.kind}{generation}", highlight=False, markup=False)
    console.print(
        make_table(
            "",
            [("path", "left"), ("value", "right"), ("status", "left"), ("source", "left")],
            [(r.path, r.value, r.status, r.source) for r in table(system)],
        )
    )


@app.command()
def ops(
    table: Annotated[Path, typer.Argument(help="CSV, one operator per row.")],
    system: SystemOption,
    kind: Annotated[
        str | None,
        typer.Option(help=f"{_KINDS}; default: from the columns."),
    ] = None,
    out: Annotated[Path | None, typer.Option("-o", "--out", help="CSV to write: the input's columns and the prediction.")] = None,
    measured: Annotated[str | None, typer.Option(help="Column of measured seconds: print the error table.")] = None,
    worst: Annotated[int, typer.Option(help="Worst rows to print.", min=0)] = 10,
) -> None:
    """Predict every row of an op table; with --measured, print how wrong the prediction is."""
    from .arch import load_gpu
    from .validate.opfile import predict_file

    console = make_console()
    summary = predict_file(table, load_gpu(system), kind, out, measured, worst, console if sys.stderr.isatty() else None)
    for line in summary.lines(worst):
        console.print(line, highlight=False, markup=False)


@app.command()
def calibrate(
    tables: Annotated[list[Path], typer.Argument(help="CSV op tables with measured seconds.")],
    system: SystemOption,
    out: Annotated[Path, typer.Option("-o", "--out", help="Device file to write.")],
    kind: Annotated[str | None, typer.Option(help=f"Kind of all tables: {_KINDS}; default: from the columns of each.")] = None,
    measured: Annotated[str, typer.Option(help="Column of measured seconds.")] = "latency_s",
    source: Annotated[str | None, typer.Option(help="What the tables were measured on; default: the files' names.")] = None,
    half: Annotated[
        int | None, typer.Option(min=0, max=1, help=("0 or 1: fit on this random half of the rows only and report the error on the other."))
    ] = None,
    start: Annotated[str | None, typer.Option(help="Take the starting constants from this system.")] = None,
    seed: Annotated[int, typer.Option(help="Of the random subsample, folds and half.")] = 0,
) -> None:
    """Fit the physical constants of a device to measured op tables and write a new device file."""
    from .arch import load_gpu, save
    from .validate.opfile import calibrate_files

    console = make_console()
    check_writable(out)
    result = calibrate_files(
        tables,
        load_gpu(system),
        kind=kind,
        measured=measured,
        source=source,
        half=half,
        seed=seed,
        start=load_gpu(start) if start else None,
        show_progress=sys.stderr.isatty(),
    )
    save(result.system, out)
    for line in result.lines():
        console.print(line, highlight=False, markup=False)
    console.print(f"wrote {out}", highlight=False, markup=False)


@app.command()
def validate(
    folder: Annotated[Path, typer.Argument(help="Folder of measured op tables, GPU.KIND.csv.")],
    protocol: Annotated[list[str] | None, typer.Option(help="shipped, held-out, transfer; repeatable; default: all.")] = None,
    system: Annotated[list[str] | None, typer.Option(help=("GPU=NAME: the device file of a GPU in the file names; repeatable."))] = None,
    kind: Annotated[list[str] | None, typer.Option(help=f"Only tables of this kind: {_KINDS}; repeatable.")] = None,
    seed: Annotated[int, typer.Option(help="Of the random half.")] = 0,
    out: Annotated[Path | None, typer.Option("-o", "--out", help="Markdown page to write.")] = None,
    intervals: Annotated[
        Path | None,
        typer.Option(help=("YAML to write: the transfer residuals as intervals for GPUs without a calibration (arch/intervals.yaml).")),
    ] = None,
) -> None:
    """Error on measured op tables by protocol (as shipped, held out, transferred from another GPU), worst first."""
    from rich.progress import Progress

    from .validate import accuracy

    console = make_console()
    for path in filter(None, (out, intervals)):
        check_writable(path)
    for name in protocol or ():
        if name not in accuracy.PROTOCOLS:
            raise UnknownNameError("protocol", name, accuracy.PROTOCOLS)
    tables = accuracy.find_tables(folder, dict(_pair(item, "--system", "GPU=NAME") for item in system or ()))
    tables = [(t, s) for t, s in tables if not kind or t.kind.name in kind]
    with Progress(disable=not sys.stderr.isatty(), transient=True) as progress:
        task = progress.add_task("validating", total=1.0)
        entries = accuracy.evaluate_tables(
            tables,
            protocol or accuracy.PROTOCOLS,
            seed=seed,
            progress=lambda stage, share: progress.update(task, description=stage, completed=share),
        )
        if intervals is not None:
            accuracy.write_intervals(intervals, tables, seed)
    console.print(accuracy.overview(entries), highlight=False, markup=False)
    if out is not None:
        write_atomically(out, accuracy.page(entries, "presilicon validate").encode())
    for written in filter(None, (out, intervals)):
        console.print(f"wrote {written}", highlight=False, markup=False)


@app.command()
def measure(
    suite: Annotated[str, typer.Option(help="Names, groups or prefixes*, comma-separated; --list shows them.")] = "all",
    out: Annotated[Path, typer.Option("-o", "--out", help="CSV of the measurements; gone on with if it is there.")] = Path("measured.csv"),
    budget: Annotated[float, typer.Option(help="Seconds in all, compilation included.")] = 500.0,
    shapes: Annotated[int | None, typer.Option(help="At most so many shapes of a suite, the first ones.", min=1)] = None,
    jobs: Annotated[int | None, typer.Option(help="Processes that compile ahead; default: CPU cores less two, at most 12.", min=0)] = None,
    point_limit: Annotated[float, typer.Option(help="Seconds after which a point counts as hung.")] = 120.0,
    seed: Annotated[int, typer.Option(help="Of the random inputs.")] = 0,
    check: Annotated[bool, typer.Option("--check", help="Without a GPU: tiny sizes in Triton's interpreter, outputs checked.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress.")] = False,
    list_: Annotated[bool, typer.Option("--list", help="List the suites.")] = False,
) -> None:
    """Measure kernels, microbenchmarks and torch's operators on the GPU of this machine."""
    from .validate import measure as harness

    if list_:
        sys.stdout.write(harness.list_suites())
        return
    status = harness.measure(
        suite, out, budget_s=budget, jobs=jobs, check=check, point_s=point_limit, shapes=shapes, seed=seed, quiet=quiet
    )
    if status:
        raise typer.Exit(status if status > 0 else 128 - status)


app.command("map")(cli_accelerators.map_)
app.command()(cli_npu.allocate)
app.command()(cli_explore.sweep)
app.command()(commands.explore)
app.command()(commands.plot)
app.command()(commands.report)
app.command("kernel")(cli_kernels.kernel)
app.command("tune")(cli_kernels.tune)
app.add_typer(cli_accelerators.pim_app, name="pim")


@app.command()
def cases(
    names: Annotated[list[str] | None, typer.Argument(help="Cases to run; default: all.")] = None,
    folder: Annotated[Path | None, typer.Option(help="Folder of case files; default: the shipped ones.")] = None,
    out: Annotated[Path | None, typer.Option("-o", "--out", help="CSV of the results.")] = None,
) -> None:
    """Run published results and print claimed beside predicted; exit status 1 if one is outside of its tolerance."""
    from .validate.cases import run_cases, to_csv

    console = make_console()
    if out is not None:
        check_writable(out)
    results = run_cases(names or [], folder)
    for line in results.lines():
        console.print(line, highlight=False, markup=False)
    if out is not None:
        to_csv(results, out)
        console.print(f"wrote {out}", highlight=False, markup=False)
    if not results.all_within:
        raise typer.Exit(1)


@app.command()
def demo(out: Annotated[Path, typer.Option("-o", "--out", help="Folder for what the demo writes.")] = Path("demo-out")) -> None:
    """Llama-3-8B, prefill and decode, predicted on an A100, an L40S and an H100."""
    from .demo import run

    check_writable(out / "graph.json")
    run(make_console(), out, _write_outputs)


def main(args: Sequence[str] | None = None) -> NoReturn:
    """Entry point: an error that the user can mend is one line on stderr and exit status 2, with --debug a traceback."""
    args = sys.argv[1:] if args is None else list(args)
    try:
        app([arg for arg in args if arg != "--debug"], prog_name="presilicon")
    except (PresiliconError, OSError) as error:
        if "--debug" in args:
            raise
        sys.stderr.write(f"presilicon: {' '.join(str(error).split())}\n")
        sys.exit(2)
    except Exception as error:
        if "--debug" in args:
            raise
        sys.stderr.write(f"presilicon: internal error, {type(error).__name__}: {' '.join(str(error).split())} (--debug shows where)\n")
        sys.exit(1)
    sys.exit(0)


if __name__ == "__main__":
    main()
