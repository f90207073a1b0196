"""Commands for Triton kernels: predicted, and their configs ranked, without a GPU."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from .errors import KernelError
from .files import check_writable, write_atomically
from .terminal import make_console

_Assume = Annotated[
    list[str] | None,
    typer.Option("--assume", metavar="NAME=VALUE", help="What only data could tell: ARGUMENT=INTEGER, LINE=true, LINE=TRIPS."),
]


class KernelFidelity(StrEnum):
    """How closely a kernel is modelled."""

    TILE = "tile"
    CYCLE = "cycle"


def kernel(
    file: Annotated[Path, typer.Argument(metavar="FILE.py", help="Holds @triton.jit functions, and launches() that yields launches.")],
    system: Annotated[list[str], typer.Option("--system", help="Name or device file of a GPU; repeat to compare.")],
    fidelity: Annotated[KernelFidelity, typer.Option(help="tile: operations on tiles; cycle: machine code.")] = KernelFidelity.TILE,
    lines: Annotated[bool, typer.Option("--lines", help="Print the annotated source.")] = False,
    perfetto: Annotated[Path | None, typer.Option(help="File for one SM's timeline, for ui.perfetto.dev.")] = None,
    out: Annotated[
        Path | None, typer.Option("-o", "--out", help="Folder for the answers (JSON) and the cost of each source line (CSV).")
    ] = None,
    assume: _Assume = None,
    top: Annotated[int, typer.Option(help="Source lines to list.", min=0)] = 10,
    fresh: Annotated[bool, typer.Option("--fresh", help="Predict again although the answer is known.")] = False,
) -> None:
    """Predict the Triton launches of a file on GPUs that need not be there."""
    from .kernel_file import LaunchesError, predict_file
    from .kernel_tables import kernel_comparison, print_kernel

    if perfetto is not None and fidelity is not KernelFidelity.CYCLE:
        raise KernelError("--perfetto: only the cycle simulation has a timeline; add --fidelity cycle")
    console = make_console()
    for path in filter(None, (perfetto, out and out / "kernels.json")):
        check_writable(path)
    with _progress("predicting") as step:
        failed = None
        try:
            documents = predict_file(
                file, system, fidelity=fidelity.value, record=perfetto is not None, fresh=fresh, assume=_decisions(assume), progress=step
            )
        except LaunchesError as error:
            documents, failed = error.documents, error
    for number, document in enumerate(documents):
        if number:
            console.print()
        print_kernel(document, console, top)
        if lines:
            from .kernel_report import annotated

            console.print(annotated(document), highlight=False, markup=False)
    if len(system) > 1:
        console.print(kernel_comparison(documents))
    written = _write(documents, perfetto, out)
    for path in written:
        console.print(f"wrote {path}", highlight=False, markup=False)
    if failed is not None:
        raise failed


def _decisions(texts: list[str] | None) -> dict[str, int | bool]:
    if not texts:
        return {}
    from .mapping.triton.decisions import parse_decisions

    return parse_decisions(texts)


def _write(documents: list[dict[str, Any]], perfetto: Path | None, out: Path | None) -> list[Path]:
    written = []
    if perfetto is not None:
        from .kernel_report import write_perfetto

        for number, document in enumerate(documents):
            path = perfetto if len(documents) == 1 else perfetto.with_stem(f"{perfetto.stem}.{number}")
            written.append(write_perfetto(document, path))
    if out is not None:
        for number, document in enumerate(documents):
            stem = f"{number:02d}-{document['info']['name']}-{document['info']['system']}".replace("/", "_")
            write_atomically(out / f"{stem}.json", (json.dumps(_without_spans(document), indent=1) + "\n").encode())
            write_atomically(out / f"{stem}.lines.csv", _lines_csv(document))
        written.append(out)
    return written


def _without_spans(document: Mapping[str, Any]) -> dict[str, Any]:
    left_out = ("spans", "issued_by_instruction", "stalls_by_instruction")
    return {**document, "run": {name: value for name, value in document["run"].items() if name not in left_out}}


def _lines_csv(document: Mapping[str, Any]) -> bytes:
    import csv
    import io

    stream = io.StringIO()
    columns = ["file", "line", "share", "issued", "stall_cycles", "text"]
    writer = csv.DictWriter(stream, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: line[name] for name in columns} for line in document["run"]["lines"])
    return stream.getvalue().encode()


@contextmanager
def _progress(what: str) -> Iterator[Any]:
    """A function of things done and wanted that draws a bar on a terminal."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(what, total=None)
        yield lambda done, wanted: progress.update(task, completed=done, total=wanted)


def tune(
    kernel: Annotated[str, typer.Argument(metavar="FILE.py:KERNEL", help="A kernel that launches() of the file launches.")],
    system: Annotated[str, typer.Option("--system", help="Name or device file of a GPU.")],
    top: Annotated[int, typer.Option(help="Configs to list.", min=1)] = 5,
    space: Annotated[Path | None, typer.Option(help="YAML: names with lists of values, or a list of configs under `configs`.")] = None,
    grid: Annotated[str | None, typer.Option(help="Space as text: 'BLOCK_M=64,128 num_warps=4,8 num_stages=2,3'.")] = None,
    launch: Annotated[int | None, typer.Option(help="Only this launch of the kernel; default: the sum over all of them.", min=0)] = None,
    fidelity: Annotated[KernelFidelity, typer.Option(help="tile: operations on tiles; cycle: machine code.")] = KernelFidelity.TILE,
    assume: _Assume = None,
    jobs: Annotated[int | None, typer.Option(help="Processes; default: one a CPU core.", min=1)] = None,
    out: Annotated[Path | None, typer.Option("-o", "--out", help="CSV of all configs.")] = None,
) -> None:
    """Rank the configs of a Triton kernel without a GPU, and say which are worth measuring."""
    from .kernel_tune import tune_file
    from .mapping.triton.tune import parse_space, read_space

    file, colon, name = kernel.rpartition(":")
    if not colon or not file.endswith(".py") or not name.isidentifier():
        raise KernelError(f"{kernel}: name a kernel in a file, as FILE.py:KERNEL")
    if space is not None and grid is not None:
        raise KernelError("tune: give either --space or --grid")
    if out is not None:
        check_writable(out)
    configs = read_space(space) if space is not None else parse_space(grid) if grid is not None else None
    with _progress("ranking") as step:
        result = tune_file(
            Path(file), name, configs, system, top=top, fidelity=fidelity.value, number=launch, assume=_decisions(assume), jobs=jobs,
            progress=step,
        )
    console = make_console()
    result.print(console)
    if out is not None:
        write_atomically(out, result.to_frame().to_csv(index=False).encode())
        console.print(f"wrote {out}", highlight=False, markup=False)
