"""The measuring loop: what to measure, in what order, and one row a point."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from .machine import Machine, Timing
from .pool import Compilers
from .record import MeasureError, Point, Record, beside
from .suite import Shape, Suite, relative_error, text_of


class GpuLostError(Exception):
    """The GPU's context is gone (an illegal access); nothing more can be measured in this process."""


class _NotCompiledError(Exception):
    """A point does not compile; the message is the compiler's."""


@dataclass
class Outcome:
    """What a run did."""

    rows: int = 0
    failed: int = 0
    wrong: int = 0
    skipped: int = 0
    finished: bool = False


def plan(suites: Sequence[Suite], capability: int, *, tiny: bool = False, most_shapes: int | None = None) -> tuple[list[Point], int]:
    """Points in order, and how many shapes the GPU refuses.

    Suites take turns, one shape with all its configs a turn, so that a run that is cut short has a part of each.
    """
    points: list[Point] = []
    refused = 0
    if tiny:
        return [Point(s.name, shape, config) for s in suites if s.interpretable for shape, config in s.tiny], 0
    for turn in range(max((len(s.shapes) for s in suites), default=0)):
        for suite in suites:
            if turn >= len(suite.shapes) or (most_shapes is not None and turn >= most_shapes):
                continue
            shape = suite.shapes[turn]
            if suite.refuses(shape, capability):
                refused += 1
            else:
                points += [Point(suite.name, shape, config) for config in suite.configs(shape)]
    return points, refused


def timers_of(suite: Suite, point: Point) -> tuple[str, ...]:
    """Timers of a point: a config that names its runtime is timed in that way only."""
    runtime = point.config.get("runtime")
    if runtime is None:
        return suite.timers
    return ("graph",) if runtime == "graph" else ("eager",) if runtime == "eager" else suite.timers


class InFlight:
    """The point that is being measured, on disk beside the data, so that whoever finds the process dead knows which one it was."""

    def __init__(self, path: Path, gpu: str, clock: Callable[[], float] = time.time) -> None:
        self.path, self.gpu, self.clock = beside(path, "inflight.json"), gpu, clock
        self.since: float | None = None

    def begin(self, point: Point, timers: Sequence[str]) -> None:
        """Note a point."""
        what = {"gpu": self.gpu, "suite": point.suite, "shape": dict(point.shape), "config": dict(point.config), "timers": list(timers)}
        self.path.write_text(json.dumps(what), encoding="utf-8")
        self.since = self.clock()

    def say(self, message: str) -> None:
        """Add what is known of its end."""
        what = json.loads(self.path.read_text(encoding="utf-8"))
        self.path.write_text(json.dumps(what | {"message": message}), encoding="utf-8")

    def end(self) -> None:
        """It is done."""
        self.since = None
        self.path.unlink(missing_ok=True)


def _groups(points: Sequence[Point]) -> Iterator[tuple[str, Shape, list[Point]]]:
    """Runs of points that share suite and shape."""
    group: list[Point] = []
    for point in points:
        if group and (point.suite, text_of(point.shape)) != (group[0].suite, text_of(group[0].shape)):
            yield group[0].suite, group[0].shape, group
            group = []
        group.append(point)
    if group:
        yield group[0].suite, group[0].shape, group


def measure_points(
    points: Sequence[Point],
    suites: Mapping[str, Suite],
    machine: Machine,
    record: Record,
    *,
    deadline: float,
    seed: int = 0,
    compilers: Compilers | None = None,
    in_flight: InFlight | None = None,
    clock: Callable[[], float] = time.time,
    progress: Callable[[str, int, int], None] = lambda text, number, total: None,
) -> Outcome:
    """Measure what has no row yet, until all is done or the time is up.

    Parameters
    ----------
    deadline
        By `clock`; no point is begun that would probably end later (by twice the median of the last eight).

    Raises
    ------
    GpuLostError
        A point took the GPU's context with it; its row has not been written, and `in_flight` still names it.
    """
    outcome = Outcome()
    recent: list[float] = []
    number = 0
    for name, shape, group in _groups(points):
        suite = suites[name]
        state: _Shape | None = None
        for point in group:
            number += 1
            timers = record.missing(point, timers_of(suite, point))
            if not timers:
                outcome.skipped += 1
                continue
            left = deadline - clock()
            if left <= (2 * statistics.median(recent[-8:]) if recent else 0.0):
                return outcome
            error = compilers.error(point, left) if compilers else ""
            if error is None:
                return outcome
            progress(f"{name} {text_of(shape)} {text_of(point.config)}", number, len(points))
            began = clock()
            if in_flight:
                in_flight.begin(point, timers)
            try:
                if error:
                    raise _NotCompiledError(error)
                state = state or _Shape(suite, shape, machine, seed)
                for row in state.rows(point, timers):
                    _add(outcome, record, row)
            except MeasureError:  # the file cannot be written
                raise
            except Exception as caught:  # one bad config must not end the run, whatever it raises
                _keep_or_lose(machine, caught)
                for timer in record.missing(point, timers):
                    _add(outcome, record, failed_row(point, timer, error or f"{type(caught).__name__}: {caught}"))
                machine.release()
            if in_flight:
                in_flight.end()
            recent.append(clock() - began)
        if state is not None:
            state = None
            machine.release()
    outcome.finished = True
    return outcome


def _keep_or_lose(machine: Machine, error: Exception) -> None:
    try:
        machine.synchronize()
    except Exception:
        raise GpuLostError(f"{type(error).__name__}: {error}") from error


def _add(outcome: Outcome, record: Record, row: dict[str, Any]) -> None:
    import triton

    record.append(row | {"triton": triton.__version__, "measured_at": datetime.now(UTC).isoformat(timespec="seconds")})
    outcome.rows += 1
    outcome.failed += row["status"] == "failed"
    outcome.wrong += row["status"] == "wrong"


def failed_row(point: Point, timer: str, message: str) -> dict[str, Any]:
    """The row of a point that could not be measured."""
    suite, shape, config, _ = point.key(timer)
    return {
        "suite": suite,
        "dtype": point.shape.get("dtype", ""),
        "shape": shape,
        "config": config,
        "timer": timer,
        "status": "failed",
        "message": message[:500],
    }


class _Shape:
    """Tensors and reference of one shape, made once for all its configs."""

    def __init__(self, suite: Suite, shape: Shape, machine: Machine, seed: int) -> None:
        self.suite, self.shape, self.machine = suite, shape, machine
        self.place = machine.place(seed)
        self.tensors = suite.tensors(shape, self.place)
        self.reference = suite.reference(shape, self.tensors)

    def rows(self, point: Point, timers: Sequence[str]) -> Iterator[dict[str, Any]]:
        """Check the output, then time; one row a timer, as soon as it is known."""
        suite, shape, config, _ = point.key("")
        base: dict[str, Any] = {
            "suite": suite,
            "dtype": self.shape.get("dtype", ""),
            "shape": shape,
            "config": config,
            "flops": self.suite.flops(self.shape),
            "bytes": self.suite.bytes(self.shape),
        }
        call, facts, out = self._prepare(point)
        error = relative_error(out, self.reference)
        allowed = self.suite.tolerance(self.shape)
        base |= facts | {"error": error, "tolerance": allowed, "status": "ok" if error <= allowed else "wrong"}
        if base["status"] == "wrong":
            base["message"] = f"relative error {error:.3g} above {allowed:.3g}"
        for timer in timers:
            timing = self.machine.time(call, timer)
            yield base | {"timer": timer} | _numbers(timing, base["flops"], base["bytes"])

    def _prepare(self, point: Point) -> tuple[Callable[[], Any], dict[str, Any], Any]:
        """The call, what is known of its kernels, and its output."""
        if self.suite.call is not None:
            call = self.suite.call(self.shape, point.config, self.tensors)
            out = call()
            self.machine.synchronize()
            return call, {"kernel": "torch"}, out
        out = self.tensors[self.suite.output]
        if out.dtype.is_floating_point:
            out.fill_(float("nan"))
        launches = self.suite.launches(self.shape, point.config, self.tensors, self.place)
        kernels = [launch.run() for launch in launches]
        self.machine.synchronize()

        def joined(values: Sequence[Any]) -> str:
            return "/".join("" if value is None else str(value) for value in values)

        facts = {
            "kernel": "+".join(launch.kernel.__name__ for launch in launches),
            "grid": joined(["x".join(map(str, launch.grid)) for launch in launches]),
        }
        if kernels[0] is not None:
            facts |= {
                "registers": joined([getattr(k, "n_regs", None) for k in kernels]),
                "spills": joined([getattr(k, "n_spills", None) for k in kernels]),
                "shared_bytes": joined([k.metadata.shared for k in kernels]),
            }
        runs = [launch.kernel[launch.grid] for launch in launches]

        def launch_all() -> None:
            for run, launch in zip(runs, launches, strict=True):
                run(*launch.args, **launch.meta)

        return launch_all, facts, out


def _numbers(timing: Timing, flops: int, moved: int) -> dict[str, Any]:
    samples = sorted(timing.samples)
    median = statistics.median(samples)
    tenth = max(0, round(0.1 * (len(samples) - 1)))
    return {
        "latency_s": median,
        "p10_s": samples[tenth],
        "p90_s": samples[len(samples) - 1 - tenth],
        "runs": len(samples),
        "repeats": timing.repeats,
        "tflop_per_s": flops / median * 1e-12 if flops else None,
        "gb_per_s": moved / median * 1e-9 if moved else None,
        **vars(timing.health),
    }
