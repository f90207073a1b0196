"""Measure the kernel suites on the GPU of this machine: ``presilicon measure``, or ``python validate/measure.py`` with only torch, triton,
numpy and pandas installed.

One process supervises and one measures. If the measuring one dies or hangs (an illegal access, a deadlock), the point that it was at is
recorded as failed, and a new one goes on behind it.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
import types
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if (
    __name__ == "__main__" and not __package__
):  # run as a file: the folder becomes a package of its own, so that nothing of presilicon need be installed
    _package = types.ModuleType("presilicon_validate")
    _package.__path__ = [str(Path(__file__).resolve().parent)]
    sys.modules[_package.__name__] = _package
    sys.exit(importlib.import_module("presilicon_validate.measure").main())

if TYPE_CHECKING:
    from .kernels.suite import Suite

#: The measuring process ends with the first when the GPU's context is lost, with the second when a point takes too long, and with the third
#: when the time has long been up.
LOST, HUNG, LATE = 74, 75, 76
#: Seconds behind the deadline for which a point that was begun before may go on.
GRACE_S: Final = 60.0
DEFAULT_BUDGET_S: Final = 500.0
DEFAULT_POINT_S: Final = 120.0
#: The compute capability that `list_suites` counts points for (some suites need Hopper).
_LISTED_CAPABILITY: Final = 90


def select(names: str) -> list[Suite]:
    """Suites by comma-separated names, groups (gemms, attentions, moes, memory, micro, torch) or prefixes that end in ``*``; "all".

    Raises
    ------
    MeasureError
        A name is unknown, or torch or triton is not installed.
    """
    from .kernels.record import MeasureError

    try:
        from .kernels import all_suites, groups

        suites, families = all_suites(), groups()
    except ImportError as error:
        raise MeasureError(f"measuring needs torch and triton: {error} (pip install torch triton)") from None
    chosen: dict[str, Suite] = {}
    for name in filter(None, (part.strip() for part in names.split(","))):
        if name == "all":
            found = [other for other in suites if not suites[other].extra]
        elif name in suites:
            found = [name]
        elif name.endswith("*"):
            found = [other for other in suites if other.startswith(name[:-1])]
        else:
            found = families.get(name, [])
        if not found:
            import difflib

            near = difflib.get_close_matches(name, [*suites, *families, "all"], n=3, cutoff=0.4)
            hint = f"did you mean {' or '.join(map(repr, near))}?" if near else f"groups are {', '.join(families)}; --list shows all"
            raise MeasureError(f"--suite: unknown suite {name!r}; {hint}")
        chosen |= {other: suites[other] for other in found}
    if not chosen:
        raise MeasureError("--suite: no suite is named")
    return list(chosen.values())


def measure(
    suite: str = "all",
    out: Path | str = "measured.csv",
    *,
    budget_s: float = DEFAULT_BUDGET_S,
    jobs: int | None = None,
    check: bool = False,
    point_s: float = DEFAULT_POINT_S,
    shapes: int | None = None,
    seed: int = 0,
    retry: bool = False,
    quiet: bool = False,
) -> int:
    """Supervise a run; see `main` for the options.

    Returns
    -------
    Exit status: 0 if the run came to its end or its budget's.

    Raises
    ------
    MeasureError
        An option is wrong.
    """
    from .kernels.record import MeasureError, beside, drop_rows, export_tables

    if budget_s <= 0 or point_s <= 0:
        raise MeasureError("--budget and --point-limit are seconds and must be positive")
    path = Path(out)
    suites = select(suite)
    deadline = time.time() + budget_s
    marker = beside(path, "inflight.json")
    marker.unlink(missing_ok=True)
    if retry and path.exists():
        count = drop_rows(path, {s.name for s in suites})
        sys.stderr.write(f"{path}: {count} rows that failed or were wrong are measured again\n")
    child = [
        *command(),
        "--child",
        "--suite",
        ",".join(s.name for s in suites),
        "-o",
        str(path),
        "--deadline",
        str(deadline),
        "--point-limit",
        str(point_s),
        "--seed",
        str(seed),
        *(["--jobs", str(jobs)] if jobs is not None else []),
        *(["--check"] if check else []),
        *(["--quiet"] if quiet else []),
        *(["--shapes", str(shapes)] if shapes is not None else []),
    ]
    environment = os.environ | ({"TRITON_INTERPRET": "1"} if check else {})
    while True:
        status = subprocess.run(child, env=environment, check=False).returncode
        if status in (0, 1, 2, 130, -signal.SIGINT, -signal.SIGTERM) or not marker.exists():
            break
        if status == LATE:
            marker.unlink()
            sys.stdout.write(f"{path}: the budget is spent, and the point in flight was left; the same command goes on with it\n")
            status = 0
            break
        reason = {HUNG: f"took longer than {point_s:g} s", LOST: "took the GPU's context with it"}.get(
            status, f"ended its process (exit status {status})"
        )
        _bury(path, marker, reason)
        if time.time() >= deadline:
            status = 0
            break
    if path.exists() and status == 0:
        export_tables(path, {s.name: s for s in suites})
    return status


def _bury(path: Path, marker: Path, reason: str) -> None:
    """Record the point at which a process died."""
    from .kernels.loop import failed_row
    from .kernels.record import Point, Record
    from .kernels.suite import text_of

    what = json.loads(marker.read_text(encoding="utf-8"))
    record = Record(path, what["gpu"])
    point = Point(what["suite"], what["shape"], what["config"])
    reason = " ".join(filter(None, (reason, what.get("message"))))
    for timer in record.missing(point, what["timers"]):
        record.append(failed_row(point, timer, reason) | {"measured_at": datetime.now(UTC).isoformat(timespec="seconds")})
    record.close()
    marker.unlink()
    sys.stderr.write(f"{what['suite']} {text_of(point.shape)} {text_of(point.config)}: {reason}; going on behind it\n")


def command() -> list[str]:
    """How to start this module again, in the way in which it was started."""
    if str(__package__).startswith("presilicon_validate"):
        return [sys.executable, str(Path(__file__).resolve())]
    return [sys.executable, "-m", f"{__package__}.measure"]


def _measure_here(options: Any) -> int:
    """The measuring process."""
    from .kernels.loop import GpuLostError, InFlight, measure_points, plan, timers_of
    from .kernels.machine import METHOD, machine_for
    from .kernels.pool import Compilers
    from .kernels.record import Record, note_run

    path = Path(options.out)
    suites = select(options.suite)
    machine = machine_for(options.check)
    record = Record(path, machine.name)
    points, refused = plan(suites, machine.capability, tiny=options.check, most_shapes=options.shapes)
    by_name = {s.name: s for s in suites}
    in_flight = InFlight(path, machine.name)
    _watch(in_flight, options.point_limit, options.deadline + GRACE_S)
    run: dict[str, Any] = {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "suites": list(by_name),
        "seed": options.seed,
        "machine": machine.facts(),
        "method": METHOD,
        "points": len(points),
        "refused_shapes": refused,
    }
    note_run(path, run)
    jobs = options.jobs if options.jobs is not None else max(0, min(12, (os.cpu_count() or 1) - 2))
    wanted = [
        point for point in points if by_name[point.suite].call is None and record.missing(point, timers_of(by_name[point.suite], point))
    ]
    compilers = Compilers(
        [*command(), "--compile"], wanted, sm_count=machine.sm_count, capability=machine.capability, jobs=0 if options.check else jobs
    )
    lines = _Progress(options.quiet)
    try:
        outcome = measure_points(
            points,
            by_name,
            machine,
            record,
            deadline=options.deadline,
            seed=options.seed,
            compilers=compilers,
            in_flight=in_flight,
            progress=lines.show,
        )
    except GpuLostError as error:
        in_flight.say(str(error))
        os._exit(LOST)  # the driver's own clean-up may hang
    finally:
        compilers.close()
        record.close()
    note_run(
        path,
        run
        | {
            "ended": datetime.now(UTC).isoformat(timespec="seconds"),
            "rows": outcome.rows,
            "failed": outcome.failed,
            "wrong": outcome.wrong,
            "finished": outcome.finished,
        },
    )
    state = "all points done" if outcome.finished else "the budget is spent; the same command goes on"
    sys.stdout.write(
        f"{path}: {outcome.rows} rows added ({outcome.failed} failed, {outcome.wrong} wrong), {outcome.skipped} points were there, "
        f"{refused} shapes do not run on {machine.name}; {state}\n"
    )
    return 0


def _watch(in_flight: Any, limit_s: float, latest: float) -> None:
    """End the process when a point takes longer than `limit_s`, or goes on at the time `latest`."""

    def look() -> None:
        while True:
            time.sleep(min(1.0, limit_s / 4))
            status = _overdue(in_flight.since, time.time(), limit_s, latest)
            if status:
                os._exit(status)

    threading.Thread(target=look, daemon=True).start()


def _overdue(since: float | None, now: float, limit_s: float, latest: float) -> int:
    """Status with which a process ends whose point was begun at `since` (None: there is none); 0 to go on."""
    if since is None:
        return 0
    return HUNG if now - since > limit_s else LATE if now > latest else 0


class _Progress:
    """A line every five seconds."""

    def __init__(self, quiet: bool) -> None:
        self.quiet, self.last = quiet, 0.0

    def show(self, text: str, number: int, total: int) -> None:
        if not self.quiet and time.time() - self.last > 5.0:
            self.last = time.time()
            sys.stderr.write(f"{number}/{total} {text}\n")
            sys.stderr.flush()


def list_suites(names: str = "all", most_shapes: int | None = None) -> str:
    """The plan of a run: suites with their points and summaries by group, and what they take together.

    Parameters
    ----------
    names
        As `select` takes them; "all" lists every suite, also those that it leaves out.
    most_shapes
        At most so many shapes of a suite.

    Raises
    ------
    MeasureError
        As `select` does.
    """
    chosen = {suite.name for suite in select(names)}  # says what is missing, if anything is
    from .kernels import groups
    from .kernels.loop import plan, timers_of
    from .kernels.machine import seconds_meant

    lines, points, timings, seconds = [], 0, 0, 0.0
    for group, members in groups().items():
        shown = [suite for suite in select(",".join(members)) if names == "all" or suite.name in chosen]
        if shown:
            lines.append(f"{group}:")
        for suite in shown:
            mine = plan([suite], _LISTED_CAPABILITY, most_shapes=most_shapes)[0]
            lines.append(f"  {suite.name:24} {len(mine):5} points  {suite.summary}")
            if suite.name in chosen:
                timers = [timer for point in mine for timer in timers_of(suite, point)]
                points, timings = points + len(mine), timings + len(timers)
                seconds += sum(map(seconds_meant, timers))
    lines.append(
        f"{names}: {len(chosen)} suites, {points} points, {timings} rows on a GPU of compute capability {_LISTED_CAPABILITY / 10}; about "
        f"{seconds:.0f} s of timing, and inputs, references and compilation besides"
    )
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    import argparse

    parser = argparse.ArgumentParser(prog="measure", description="Measure the kernel suites on the GPU of this machine.")
    parser.add_argument("--suite", default="all", help="names, groups or prefixes*, comma-separated (default: all; --list shows them)")
    parser.add_argument("-o", "--out", default="measured.csv", help="CSV, gone on with if it is there (default: measured.csv)")
    parser.add_argument(
        "--budget",
        type=float,
        default=DEFAULT_BUDGET_S,
        help="seconds in all, compilation included (default: 500); a point in flight may take a minute more",
    )
    parser.add_argument("--jobs", type=int, help="processes that compile ahead (default: CPU cores less two, at most 12)")
    parser.add_argument(
        "--point-limit", type=float, default=DEFAULT_POINT_S, help="seconds after which a point counts as hung (default: 120)"
    )
    parser.add_argument("--shapes", type=int, help="at most so many shapes of a suite, the first ones")
    parser.add_argument("--retry", action="store_true", help="measure again what failed or was wrong, of the suites named")
    parser.add_argument("--seed", type=int, default=0, help="of the random inputs")
    parser.add_argument(
        "--check", action="store_true", help="without a GPU: tiny sizes in Triton's interpreter, outputs checked, times meaningless"
    )
    parser.add_argument("--quiet", action="store_true", help="no progress")
    parser.add_argument("--list", action="store_true", help="list suites, points and the time that they take; measure nothing")
    for hidden in ("--child", "--compile"):
        parser.add_argument(hidden, action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--deadline", type=float, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    from .kernels.record import PresiliconError

    try:
        if options.compile:
            from .kernels.precompile import serve

            serve()
            return 0
        if options.list:
            sys.stdout.write(list_suites(options.suite, options.shapes))
            return 0
        if options.child:
            return _measure_here(options)
        return measure(
            options.suite,
            options.out,
            budget_s=options.budget,
            jobs=options.jobs,
            check=options.check,
            point_s=options.point_limit,
            shapes=options.shapes,
            seed=options.seed,
            retry=options.retry,
            quiet=options.quiet,
        )
    except PresiliconError as error:
        sys.stderr.write(f"{error}\n")
        return 2


if __name__ == "__main__":
    sys.exit(main())
