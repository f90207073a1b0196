"""Following a launch's program ids through a kernel."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from ...errors import KernelError
from .access import Tally
from .assumptions import Assumption, Chooser
from .compile import CompiledKernel
from .decisions import decisions, split
from .evaluation import Evaluation
from .execute import MAX_STEPS, Execution
from .launch import Launch
from .parameters import parameters_of
from .program import take_apart
from .tensor_core import MatrixShape

#: Program ids that are followed before a grid is sampled; fewer where shared memory must be followed too.
_GRID_LIMIT, _GRID_LIMIT_SHARED = 4096, 512
#: A prime: successive samples of a grid stand at different places of their runs, whatever the run's length.
_SPREAD = 7919
_LANES_AT_ONCE = 65536
_FOLLOWED_BYTES = 64 * 2**20


def all_program_ids(grid: tuple[int, int, int]) -> np.ndarray:
    """Every program id of a grid, x fastest, as int64 of shape (programs, 3)."""
    z, y, x = np.meshgrid(np.arange(grid[2]), np.arange(grid[1]), np.arange(grid[0]), indexing="ij")
    return np.stack([x.ravel(), y.ravel(), z.ravel()], axis=1).astype(np.int64)


def _check_ids(launch: Launch, program_ids: Any) -> np.ndarray:
    ids = np.atleast_2d(np.asarray(program_ids, dtype=np.int64))
    if ids.shape[1] < 3:
        ids = np.pad(ids, ((0, 0), (0, 3 - ids.shape[1])))
    if ids.shape[1] != 3 or (ids < 0).any() or (ids >= np.array(launch.grid)).any():
        raise KernelError(f"program ids {np.asarray(program_ids).tolist()!r} are not all inside the grid {launch.grid}")
    return ids


def evaluate(compiled: CompiledKernel, launch: Launch, program_ids: Any = None, *, addresses: bool = True, trace: bool = False,
             assume: Mapping[str, int | bool] | None = None, max_steps: int = MAX_STEPS, close: bool = False) -> Evaluation:
    """Follow some CTAs of a launch through the kernel.

    Parameters
    ----------
    compiled, launch
        From `compile_launch` and `bind_launch`.
    program_ids
        ``(x, y, z)``, or a list of them; every program id of the grid by default (see `evaluate_grid` for large ones).
    addresses
        False leaves memory alone: instruction counts only, faster.
    trace
        Keep the order of execution and every access (one group of CTAs only).
    assume
        Decisions about lines where data decides, beside those of the launch: ``{"line 34": 17}`` trips of the loop there,
        ``{"line 36": True}`` the condition there holds. Names are those of `Assumption.name`; see `decisions.decisions`.
    max_steps
        Segments executed before the kernel is taken to never end.
    close
        Count iterations of a loop that repeat with registers moving by equal steps instead of walking them: the same counts, sooner. With
        ``addresses`` only where a trace is kept, whose `repeats` then say which steps stand for more.

    Raises
    ------
    KernelError
        An infinite loop, a jump that depends on data, program ids outside the grid.
    UnknownNameError
        A name in `assume` that names nothing that data decides.
    """
    program = take_apart(compiled, addresses=addresses)
    ids = all_program_ids(launch.grid) if program_ids is None else _check_ids(launch, program_ids)
    bank, maps = parameters_of(compiled, launch)
    _, asked = split(decisions(assume))
    chooser = Chooser(program, {**launch.assume, **asked})
    cluster = compiled.num_ctas
    ranks = np.tile(np.arange(cluster), len(ids))
    raw = np.repeat(ids, cluster, axis=0)
    raw[:, 0] = raw[:, 0] * cluster + ranks
    at_once = _LANES_AT_ONCE // program.threads
    if program.plan.tracks_shared:
        at_once = min(at_once, _FOLLOWED_BYTES // program.shared_bytes)
    at_once = max(cluster, at_once // cluster * cluster)
    if trace and len(raw) > at_once:
        raise KernelError(f"a trace of {len(raw)} CTAs was asked for; {at_once} are the most")
    counts = np.zeros(len(program.flow.blocks), dtype=np.int64)
    edges: dict[tuple[int, int], int] = {}
    runs = []
    for start in range(0, len(raw), at_once):
        run = Execution(program, bank, raw[start:start + at_once], buffers=launch.buffers, chooser=chooser, trace=trace,
                        max_steps=max_steps, cluster_ranks=ranks[start:start + at_once], close=close)
        run.run()
        for segment, count, taken in zip(program.segments, run.counts, run.taken, strict=True):
            if segment.opens_block:
                counts[segment.block] += count
            for way, times in ((segment.target, taken), (segment.next, count - taken if segment.conditional else 0)):
                if way is not None and program.segments[way].opens_block and times:
                    pair = (segment.block, program.segments[way].block)
                    edges[pair] = edges.get(pair, 0) + times
        runs.append(run)
    chooser.check_used(asked)
    tallies, copies = _sum_tallies([r.tallies for r in runs]), _sum_tallies([r.copies for r in runs])
    matrices: dict[tuple[int, MatrixShape], int] = {}
    for run in runs:
        for key, times in run.matrices.items():
            matrices[key] = matrices.get(key, 0) + times
    last = runs[-1]
    made = Evaluation(program, launch, ids, counts, edges, tallies, copies, matrices, tuple(b for r in runs for b in r.bulks), maps,
                      (), last.trace, last.patterns.patterns, last.lane_sets)
    for bulk in made.bulks:
        found, size = made.bulk_box(bulk)
        if found is None or any(type(c) is not int for c in bulk.coordinates):
            cause = "its coordinates" if found else "a tensor descriptor that the kernel makes of more than its arguments"
            chooser.note("box", bulk.instruction, cause,
                         "nothing counted" if size is None else f"{size} bytes, as if all inside the tensor")
    return replace(made, assumptions=chooser.assumptions())


def _sum_tallies(parts: list[dict[int, Tally]]) -> dict[int, Tally]:
    total: dict[int, Tally] = {}
    for part in parts:
        for index, tally in part.items():
            into = total.setdefault(index, Tally())
            for name in Tally.__dataclass_fields__:
                setattr(into, name, getattr(into, name) + getattr(tally, name))
    return total


def evaluate_grid(compiled: CompiledKernel, launch: Launch, *, assume: Mapping[str, int | bool] | None = None,
                  limit: int | None = None) -> Evaluation:
    """Instruction and FLOP counts of the whole grid.

    Where control does not depend on the program id, one CTA stands for all, exactly. Else every CTA is followed, up to
    `limit` of them (4,096, or 512 where values in shared memory decide control); of a larger grid one CTA of each run of
    as many as needed is followed, at a place that differs from run to run, and scaled, which the result's assumptions say.
    """
    program = take_apart(compiled, addresses=False)
    if not program.plan.reads_program_id:
        return evaluate(compiled, launch, (0, 0, 0), addresses=False, assume=assume).scaled(launch.programs)
    limit = limit or (_GRID_LIMIT_SHARED if program.plan.tracks_shared else _GRID_LIMIT)
    if launch.programs <= limit:
        return evaluate(compiled, launch, addresses=False, assume=assume)
    factor = -(-launch.programs // limit)
    starts = np.arange(0, launch.programs, factor)
    picks = np.minimum(starts + np.arange(len(starts)) * _SPREAD % factor, launch.programs - 1)
    x, y, _ = launch.grid
    ids = np.stack([picks % x, picks // x % y, picks // (x * y)], axis=1)
    part = evaluate(compiled, launch, ids, addresses=False, assume=assume)
    note = Assumption("sample", "sample", program.where(0), -1, "the program id",
                      f"{len(picks)} of {launch.programs} program ids, counts times {factor}", 1)
    return part.scaled(factor, note)


def alternatives(evaluation: Evaluation, *, assume: Mapping[str, int | bool] | None = None) -> dict[str, tuple[int, int]]:
    """For each branch or loop that data decides: warp-level instructions the way taken, and the other way.

    The other way of a branch is its other side; of a loop, twice the trips.
    """
    base = dict(assume or {})
    found = {}
    for item in evaluation.assumptions:
        if item.kind not in ("branch", "loop") or item.name in found:
            continue
        other: int | bool = 2 * int(item.choice.split()[0]) or 1 if item.kind == "loop" else not item.holds
        try:
            run = evaluate(evaluation.program.compiled, evaluation.launch, evaluation.program_ids, addresses=False,
                           assume={**base, item.name: other})
            found[item.name] = (evaluation.instructions, run.instructions)
        except KernelError:
            found[item.name] = (evaluation.instructions, -1)
    return found
