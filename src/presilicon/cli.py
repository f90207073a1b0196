"""The command line: one function per command; models and heavy libraries are imported inside."""

from __future__ import annotations

import os
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .errors import PresiliconError

if TYPE_CHECKING:
    from rich.console import Console

    from .report import Report
    from .workloads import OpGraph

app = typer.Typer(help="Predict how fast, and at what energy, a PyTorch model runs on hardware that you do not own.", no_args_is_help=True,
                  add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


class Phase(StrEnum):
    """What one step does."""

    PREFILL = "prefill"
    DECODE = "decode"
    TRAIN = "train"


class RuntimeName(StrEnum):
    """How kernels are launched."""

    EAGER = "eager"
    CUDAGRAPH = "cudagraph"
    COMPILED = "compiled"


class FidelityName(StrEnum):
    """How closely kernels are modelled."""

    ANALYTIC = "analytic"
    TILE = "tile"


Model = Annotated[str, typer.Argument(help="Built-in name, folder or file with a Hugging Face config.json, FILE.py:FUNCTION, or a graph file.",
                                      metavar="MODEL")]
PhaseOption = Annotated[Phase, typer.Option(help="What one step does.")]
Batch = Annotated[int, typer.Option(help="Sequences in the batch.", min=1)]
Seq = Annotated[int, typer.Option(help="Tokens a sequence takes in (prefill, train).", min=1)]
Context = Annotated[int, typer.Option(help="Tokens already in the KV cache (decode).", min=0)]
Dtype = Annotated[str, typer.Option(help="Number format of weights and activations.")]
Strict = Annotated[bool, typer.Option("--strict", help="Fail if an op has no formula.")]
SystemOption = Annotated[str, typer.Option("--system", help="Name (see `presilicon systems`) or path of a device file.")]
RuntimeOption = Annotated[RuntimeName, typer.Option(help="eager: the CPU launches each kernel; cudagraph: captured; compiled: captured and fused.")]
FidelityOption = Annotated[FidelityName, typer.Option(help="analytic: closed forms; tile: tiles played out on the SMs.")]


@app.callback()
def _options(debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False) -> None:
    if debug:
        os.environ["PRESILICON_DEBUG"] = "1"


def _console() -> Console:
    from rich.console import Console

    return Console(soft_wrap=not sys.stdout.isatty(), width=None if sys.stdout.isatty() else 140)


def _graph(model: str, phase: Phase, batch: int, seq: int, context: int, dtype: str, strict: bool) -> OpGraph:
    """A graph file as it is, anything else traced."""
    from .workloads.graph import OpGraph

    if model.endswith((".json", ".json.gz")) and Path(model).name != "config.json":
        return OpGraph.load(model)
    from .workloads.models import trace_model

    return trace_model(model, phase=phase.value, batch=batch, seq=seq, context=context, dtype=dtype, strict=strict)


@app.command()
def predict(model: Model, system: Annotated[list[str], typer.Option("--system", help="Name or device file; repeat to compare.")],
            phase: PhaseOption = Phase.PREFILL, batch: Batch = 1, seq: Seq = 2048, context: Context = 4096, dtype: Dtype = "bfloat16",
            runtime: RuntimeOption = RuntimeName.CUDAGRAPH, fidelity: FidelityOption = FidelityName.TILE, strict: Strict = False,
            override: Annotated[list[str] | None, typer.Option("--set", help="PATH=VALUE, such as dram.bandwidth='4 TB/s'; repeatable.")] = None,
            top: Annotated[int, typer.Option(help="Ops to list.", min=1)] = 10,
            out: Annotated[Path | None, typer.Option(help="Folder for the tables, timeline and roofline.")] = None) -> None:
    """Predict one step of a model on one system or several."""
    from .api import simulate
    from .arch import load
    from .tables import comparison_table

    console = _console()
    systems = [load(name).override(_assignments(override)) for name in system]
    graph = _graph(model, phase, batch, seq, context, dtype, strict)
    reports = [simulate(graph, s, fidelity=fidelity.value, runtime=runtime.value, strict=strict) for s in systems]
    for report in reports:
        report.print(console, top)
    if len(reports) > 1:
        console.print(comparison_table(reports))
    if out is not None:
        for report in reports:
            _write_outputs(report, out)
        console.print(f"wrote {out}", highlight=False)


def _assignments(items: list[str] | None) -> dict[str, Any]:
    changes: dict[str, Any] = {}
    for item in items or ():
        path, sign, value = item.partition("=")
        if not sign:
            raise PresiliconError(f"--set {item!r}: expected PATH=VALUE, such as gpu.sm.count=144")
        changes[path.strip()] = _number_or_text(value.strip())
    return changes


def _number_or_text(text: str) -> Any:
    try:
        return float(text)
    except ValueError:
        return {"true": True, "false": False}.get(text.lower(), text)


def _write_outputs(report: Report, folder: Path) -> None:
    import io
    import json

    from .files import write_atomically

    s = report.simulation
    stem = "-".join(filter(None, (s.graph.name.replace("/", "_"), s.graph.meta.get("phase", ""), s.system.name)))
    write_atomically(folder / f"{stem}.csv", report.to_frame().to_csv(index=False).encode())
    write_atomically(folder / f"{stem}.json", (json.dumps(report.headline(), indent=1) + "\n").encode())
    report.to_perfetto(folder / f"{stem}.perfetto.json")
    picture = io.BytesIO()
    report.roofline().savefig(picture, format="svg", metadata={"Date": None})
    write_atomically(folder / f"{stem}.roofline.svg", picture.getvalue())


@app.command()
def trace(model: Model, out: Annotated[Path, typer.Option("-o", "--out", help="Graph file to write (.json or .json.gz).")],
          phase: PhaseOption = Phase.PREFILL, batch: Batch = 1, seq: Seq = 2048, context: Context = 4096, dtype: Dtype = "bfloat16",
          strict: Strict = False) -> None:
    """Trace a model into a graph file, which every command takes in place of MODEL without importing torch."""
    graph = _graph(model, phase, batch, seq, context, dtype, strict)
    graph.save(out)
    console = _console()
    console.print(f"{graph!r} written to {out}", highlight=False)
    for u in graph.uncovered:
        console.print(f"uncovered: {u.target} x{u.count} ({u.example})", style="bold red", highlight=False)


@app.command()
def systems(name: Annotated[str | None, typer.Argument(help="One system: show every number with its source.")] = None) -> None:
    """List the device files, or show one with the source of every number."""
    from . import arch
    from .arch.listing import table
    from .tables import make_table
    from .units import format_si

    console = _console()
    if name is None:
        rows = []
        for each in arch.names():
            s = arch.load(each)
            peak = max((s.tensor_flops_per_s(a) for a in ("bf16", "fp16") if a in s.gpu.sm.tensor_flops_per_clk), default=0.0)
            rows.append((s.name, s.title, s.generation, int(s.gpu.sm.count), format_si(peak, "FLOP/s"), format_si(s.dram.bandwidth_bytes_per_s, "B/s"),
                         format_si(s.dram.size_bytes, "B"), format_si(s.power.limit_w, "W"), ", ".join(sorted(s.intervals)) or "-"))
        console.print(make_table("", [("name", "left"), ("device", "left"), ("generation", "left"), ("SMs", "right"), ("16-bit tensor", "right"),
                                      ("DRAM", "right"), ("memory", "right"), ("power", "right"), ("calibrated", "left")], rows))
        return
    system = arch.load(name)
    console.print(f"{system.title} ({system.name}), generation {system.generation}", highlight=False)
    console.print(make_table("", [("path", "left"), ("value", "right"), ("status", "left"), ("source", "left")],
                             [(r.path, r.value, r.status, r.source) for r in table(system)]))


@app.command()
def ops(table: Annotated[Path, typer.Argument(help="CSV, one operator per row.")], system: SystemOption,
        kind: Annotated[str | None, typer.Option(help="gemm, attention-prefill, attention-decode, moe, collective, encoder-attention ...; "
                                                      "default: from the columns.")] = None,
        out: Annotated[Path | None, typer.Option("-o", "--out", help="CSV to write: the input's columns and the prediction.")] = None,
        measured: Annotated[str | None, typer.Option(help="Column of measured seconds: print the error table.")] = None,
        worst: Annotated[int, typer.Option(help="Worst rows to print.", min=0)] = 10) -> None:
    """Predict every row of an op table; with --measured, print how wrong the prediction is."""
    from .arch import load
    from .validate.opfile import predict_file

    console = _console()
    summary = predict_file(table, load(system), kind, out, measured, worst, console if sys.stderr.isatty() else None)
    for line in summary.lines(worst):
        console.print(line, highlight=False)


@app.command()
def calibrate(tables: Annotated[list[Path], typer.Argument(help="CSV op tables with measured seconds.")], system: SystemOption,
              out: Annotated[Path, typer.Option("-o", "--out", help="Device file to write.")],
              kind: Annotated[str | None, typer.Option(help="Kind of all tables; default: from the columns of each.")] = None,
              measured: Annotated[str, typer.Option(help="Column of measured seconds.")] = "latency_s",
              source: Annotated[str | None, typer.Option(help="What the tables were measured on; default: the files' names.")] = None,
              half: Annotated[int | None, typer.Option(help="0 or 1: fit on this random half of the rows only and report the error on the other.",
                                                       min=0, max=1)] = None,
              start: Annotated[str | None, typer.Option(help="Take the starting constants from this system.")] = None,
              seed: Annotated[int, typer.Option(help="Of the random subsample, folds and half.")] = 0) -> None:
    """Fit the physical constants of a device to measured op tables and write a new device file."""
    from .arch import load, save
    from .validate.opfile import calibrate_files

    console = _console()
    result = calibrate_files(tables, load(system), kind=kind, measured=measured, source=source, half=half, seed=seed,
                             start=load(start) if start else None, show_progress=sys.stderr.isatty())
    save(result.system, out)
    for line in result.lines():
        console.print(line, highlight=False)
    console.print(f"wrote {out}", highlight=False)


@app.command()
def cases(names: Annotated[list[str] | None, typer.Argument(help="Cases to run; default: all.")] = None,
          folder: Annotated[Path | None, typer.Option(help="Folder of case files; default: the shipped ones.")] = None,
          out: Annotated[Path | None, typer.Option("-o", "--out", help="CSV of the results.")] = None) -> None:
    """Run published results and print claimed beside predicted; exit status 1 if one is outside of its tolerance."""
    from .validate.cases import run_cases, to_csv

    console = _console()
    results = run_cases(names or [], folder)
    for line in results.lines():
        console.print(line, highlight=False)
    if out is not None:
        to_csv(results, out)
    if not results.all_within:
        raise typer.Exit(1)


@app.command()
def demo(out: Annotated[Path, typer.Option(help="Folder for what the demo writes.")] = Path("demo-out")) -> None:
    """Llama-3-8B, prefill and decode, predicted on an A100, an L40S and an H100."""
    from .demo import run

    run(_console(), out, _write_outputs)


def main() -> None:
    """Entry point: an error of presilicon's own is one line on stderr and exit status 2."""
    try:
        app(standalone_mode=True)
    except PresiliconError as error:
        if os.environ.get("PRESILICON_DEBUG"):
            raise
        sys.stderr.write(f"presilicon: {error}\n")
        sys.exit(2)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)


if __name__ == "__main__":
    main()
