"""Systolic traces: equal to the closed forms, to the reference's tables, and to what registers that move the data compute."""

from __future__ import annotations

import csv
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from presilicon.arch.array import DATAFLOWS, PHYSICAL, SCALESIM, SystolicArray, SystolicOptions
from presilicon.errors import MappingError, UnknownNameError
from presilicon.mapping.systolic import estimate
from presilicon.mapping.systolic_layer import conv, gemm
from presilicon.sim import systolic
from presilicon.sim.systolic import demand, schedule, walk

GOLDEN = Path(__file__).resolve().parents[3] / "shared" / "golden" / "scalesim"
needs_golden = pytest.mark.skipif(not GOLDEN.is_dir(), reason=f"no reference tables in {GOLDEN}")
COUNTS = ("macs", "folds", "cycles", "ifmap_reads", "filter_reads", "ofmap_writes", "ofmap_reads")
ROLES = ("ifmap", "filter", "ofmap")


@st.composite
def layers(draw):
    small, one_to_nine = st.integers(1, 3), st.integers(1, 9)
    if draw(st.booleans()):
        return gemm("gemm", draw(one_to_nine), draw(one_to_nine), draw(one_to_nine), batch=draw(small))
    taps, stride, dilation = ((draw(st.integers(1, 4)), draw(st.integers(1, 3))) for _ in range(3))
    padding, groups = (draw(st.integers(0, 2)), draw(st.integers(0, 2))), draw(small)
    size = (max(1, dilation[i] * (taps[i] - 1) + 1 - 2 * padding[i]) + draw(st.integers(0, 5)) for i in range(2))
    return conv(
        "conv",
        *size,
        *taps,
        groups * draw(small),
        groups * draw(small),
        stride=stride,
        padding=padding,
        dilation=dilation,
        batch=draw(st.integers(1, 2)),
        groups=groups,
        ceil_mode=draw(st.booleans()),
    )


@st.composite
def arrays(draw, dataflows=DATAFLOWS, **fixed):
    flags = ("overlap", "drain", "read_back", "padding_reads", "last_cycle", "extra_writes", "skew_twice")
    changes = {flag: draw(st.booleans()) for flag in flags}
    any_options = SystolicOptions(edge_folds=draw(st.sampled_from(["used", "full"])), **(changes | fixed))
    options = any_options if fixed else draw(st.sampled_from([PHYSICAL, SCALESIM, any_options]))
    edge = st.integers(1, 7)
    return SystolicArray(draw(edge), draw(edge), draw(st.sampled_from(dataflows)), options, filters_per_pe=draw(st.integers(1, 3)))


# --- trace against closed form -------------------------------------------------------------------------------------------


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(layers(), arrays())
def test_walk_equals_closed_form(layer, array):
    counted, walked = estimate([layer], array).row(0), walk(layer, array, "numpy")
    assert {name: getattr(walked, name) for name in COUNTS} == {name: counted[name] for name in COUNTS}


@pytest.mark.slow
@settings(max_examples=80, deadline=None)
@given(layers(), arrays(last_cycle=False, extra_writes=False, padding_reads=False))
def test_demand_holds_what_the_walk_counted(layer, array):
    walked, trace = walk(layer, array, "numpy"), demand(layer, array)
    # As many addresses as accesses: no two of them at one port in one cycle.
    assert np.count_nonzero(trace.ifmap >= 0) == walked.ifmap_reads
    assert np.count_nonzero(trace.filter >= 0) == walked.filter_reads
    assert np.count_nonzero(trace.ofmap >= 0) == walked.ofmap_writes
    assert np.count_nonzero(trace.ofmap_reads >= 0) == walked.ofmap_reads
    assert trace.ofmap.shape == (walked.cycles, array.cols)
    # An addition reads what it writes.
    assert np.array_equal(trace.ofmap_reads[trace.ofmap_reads >= 0], trace.ofmap[trace.ofmap_reads >= 0])
    for role, signature in zip(ROLES, walked.signatures, strict=True):
        addresses = np.maximum(getattr(trace, role), 0)
        assert int((addresses * (np.arange(walked.cycles)[:, None] + 1)).sum()) % 2**64 == signature
    middle = walked.cycles // 2
    if middle:
        parts = demand(layer, array, 0, middle), demand(layer, array, middle)
        for role in (*ROLES, "ofmap_reads"):
            assert np.array_equal(np.concatenate([getattr(part, role) for part in parts]), getattr(trace, role))


@pytest.mark.slow
@settings(max_examples=40, deadline=None)
@given(layers(), arrays(dataflows=("os", "ws", "is")))
def test_compiled_walk_equals_numpy(layer, array):
    pytest.importorskip("numba")
    assert walk(layer, array, "numba") == walk(layer, array, "numpy")


@pytest.mark.slow
@pytest.mark.parametrize("dataflow", DATAFLOWS)
@pytest.mark.parametrize("options", [PHYSICAL, SCALESIM], ids=["physical", "scalesim"])
def test_walk_equals_closed_form_on_real_layers(dataflow, options):
    some = [
        conv("conv3", 28, 28, 3, 3, 128, 128, padding=(1, 1)),
        conv("stem", 64, 64, 7, 7, 3, 64, stride=(2, 2), padding=(3, 3)),
        conv("depthwise", 14, 14, 3, 3, 96, 96, padding=(1, 1), groups=96),
        gemm("odd", 129, 33, 257),
        gemm("decode", 1, 1024, 512),
        gemm("scores", 128, 128, 64, batch=4),
    ]
    if dataflow == "rs":
        some = [layer for layer in some if layer.macs < 20_000_000]
    for rows, cols in ((32, 32), (12, 14), (128, 16)):
        array = SystolicArray(rows, cols, dataflow, options, filters_per_pe=4)
        counts = estimate(some, array)
        for i, layer in enumerate(some):
            walked, counted = walk(layer, array, "numpy"), counts.row(i)
            assert {n: getattr(walked, n) for n in COUNTS} == {n: counted[n] for n in COUNTS}, (layer.name, rows)


# --- the reference -------------------------------------------------------------------------------------------------------


def reference_layers(most_macs):
    """(row of full_runs.csv, layer, array) of CALC rows that are small enough to walk."""
    with (GOLDEN / "topologies.csv").open(newline="") as file:
        shapes = {(row["network"], row["name"]): row for row in csv.DictReader(file)}
    with (GOLDEN / "full_runs.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["mode"] == "CALC" and (row["network"], row["name"]) in shapes]
    for row in rows:
        shape = shapes[row["network"], row["name"]]
        m, k, n = (int(shape[c]) for c in ("ifmap_h_or_M", "ifmap_w_or_K", "num_filters_or_N"))
        if shape["kind"] == "gemm" and m * n * k <= most_macs:
            sides = (int(side) for side in row["array"].split("x"))
            yield row, gemm(row["name"], m, n, k), SystolicArray(*sides, row["dataflow"], SCALESIM)


@needs_golden
def test_reference_cycles_accesses_and_their_times():
    seen = set()
    for row, layer, array in reference_layers(20_000_000):
        walked = walk(layer, array)
        columns = ("total_cycles", "sram_if_reads", "sram_fl_reads", "sram_of_writes")
        found = (walked.cycles, walked.ifmap_reads, walked.filter_reads, walked.ofmap_writes)
        assert found == tuple(int(float(row[column])) for column in columns), row
        trace = demand(layer, array)
        # The reference numbers cycles of reads from one, cycles of writes from zero.
        for role, prefix, one in (("ifmap", "if", 1), ("filter", "fl", 1), ("ofmap", "of", 0)):
            busy = np.flatnonzero((getattr(trace, role) >= 0).any(axis=1))
            expected = [int(float(row[f"sram_{prefix}_{end}_cycle"[: -len("_cycle")]])) for end in ("start", "stop")]
            assert [busy[0] + one, busy[-1] + one] == expected, (row["name"], array, role)
        seen.add(array.dataflow)
    assert seen == {"os", "ws", "is"}


@needs_golden
@pytest.mark.slow
def test_walk_gives_every_row_of_the_reference():
    with (GOLDEN / "topologies.csv").open(newline="") as file:
        shapes = {(row["network"], row["layer"]): row for row in csv.DictReader(file)}
    with (GOLDEN / "compute_cycles.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    names = ("ifmap_h_or_M", "ifmap_w_or_K", "filter_h", "filter_w", "channels", "num_filters_or_N", "stride_h", "stride_w")
    engine = "numba" if systolic._compiled() else "numpy"
    for row in rows:
        *sizes, down, right = (int(shapes[row["network"], row["layer"]][name]) for name in names)
        layer = conv(row["name"], *sizes, stride=(down, right), ceil_mode=True)
        array = SystolicArray(*(int(n) for n in row["array"].split("x")), row["dataflow"], SCALESIM)
        walked = walk(layer, array, engine)
        found = (walked.cycles, walked.ifmap_reads, walked.filter_reads, walked.ofmap_writes)
        columns = ("total_cycles", "sram_ifmap_reads", "sram_filter_reads", "sram_ofmap_writes")
        assert found == tuple(int(row[column]) for column in columns), row


# --- registers: the trace feeds a machine that moves data one PE a cycle, and the machine's results must be right --------


def operands(layer, seed):
    rng = np.random.default_rng(seed)
    return [rng.integers(-9, 9, layer.elements(role)) for role in ("ifmap", "filter")]


def product(layer, ifmap, filters):
    """What the layer computes, from the addresses of its elements."""
    share = {(role, s): layer.addresses(role, s) for role in ROLES for s in "pfwg"}
    out = np.zeros(layer.elements("ofmap"), dtype=np.int64)
    outside = [a for a, padded in zip(layer.ifmap, layer.padded_axes("ifmap"), strict=True) if padded]
    for g in range(layer.g):
        at = share["ifmap", "p"][:, None] + share["ifmap", "w"] + share["ifmap", "g"][g]
        stored = np.ones(at.shape, dtype=bool)
        for axis, p, w, k in zip(outside, *(layer.coordinates("ifmap", s) for s in "pwg"), strict=True):
            stored &= (p[:, None] + w + k[g] >= 0) & (p[:, None] + w + k[g] < axis.size)
        a = np.where(stored, ifmap[np.where(stored, at, 0)], 0)
        b = filters[share["filter", "w"][:, None] + share["filter", "f"] + share["filter", "g"][g]]
        out[share["ofmap", "p"][:, None] + share["ofmap", "f"] + share["ofmap", "g"][g]] = a @ b
    return out


def fetched(memory, addresses):
    return np.where(addresses >= 0, memory[np.maximum(addresses, 0)], 0)


def run_output_stationary(layer, array, ifmap, filters):
    """PE: a moves right, b moves down, their product is added up; a finished sum goes to a register that moves down."""
    trace, plan, (rows, cols) = demand(layer, array), schedule(layer, array), (array.rows, array.cols)
    a, b, acc = (np.zeros((rows, cols), dtype=np.int64) for _ in range(3))
    done: dict[tuple[int, int], tuple[int, int]] = {}
    memory = np.full(layer.elements("ofmap"), -(10**6))
    begins = set(plan.start.tolist())
    ends = {(int(s) + layer.w - 1, n) for n, s in enumerate(plan.start)}
    for cycle in range(trace.ofmap.shape[0]):
        a = np.concatenate([fetched(ifmap, trace.ifmap[cycle])[:, None], a[:, :-1]], axis=1)
        b = np.concatenate([fetched(filters, trace.filter[cycle])[None, :], b[:-1]], axis=0)
        # A column's sums move once its last row has finished.
        moved = {}
        for (i, j), (n, value) in done.items():
            long = rows if array.options.edge_folds == "full" else plan.rows[n]
            drains = cycle > plan.start[n] + long - 1 + j + layer.w - 1
            moved[i + int(drains), j] = (n, value)
        assert len(moved) == len(done), "two results in one register"
        done = moved
        for i in range(rows):
            for j in range(cols):
                if cycle - i - j in begins:
                    acc[i, j] = 0
                acc[i, j] += a[i, j] * b[i, j]
                for n in range(len(plan.start)):
                    if (cycle - i - j, n) in ends and i < plan.rows[n] and j < plan.cols[n]:
                        assert (i, j) not in done, "a result meets one that has not left"
                        done[i, j] = (n, acc[i, j])
        for j in range(cols):
            address, leaving = trace.ofmap[cycle, j], done.pop((rows - 1, j), None)
            assert (address >= 0) == (leaving is not None), (cycle, j)
            if leaving is not None:
                memory[address] = leaving[1]
    assert not done
    return memory


def run_stationary(layer, array, ifmap, filters):
    """PE: held operand; the moving operand goes right, the sum goes down; sums are added up in memory.

    With overlap a PE has a second register, which loads column after column and is taken over as the stream arrives. Without,
    the held operand is loaded in place, into all columns at once: nothing is in use by then.
    """
    trace, plan, (rows, cols) = demand(layer, array), schedule(layer, array), (array.rows, array.cols)
    weights = array.dataflow == "ws"
    moving, held = (trace.ifmap, trace.filter) if weights else (trace.filter, trace.ifmap)
    feed, store = (ifmap, filters) if weights else (filters, ifmap)
    a, active, following, sums = (np.zeros((rows, cols), dtype=np.int64) for _ in range(4))
    memory = np.zeros(layer.elements("ofmap"), dtype=np.int64)
    skew = int(array.options.overlap)
    loading = following if array.options.overlap else active
    full = array.options.edge_folds == "full"
    for cycle in range(trace.ofmap.shape[0]):
        for start in plan.start if array.options.overlap else ():
            for i in range(rows):
                j = cycle - start - i
                if 0 <= j < cols:
                    # The stream's first element arrives: the loaded operand takes over.
                    active[i, j], following[i, j] = following[i, j], 0
        before, busy = loading.copy(), np.zeros((rows, cols), dtype=bool)
        for n, load in enumerate(plan.load):
            long = rows if full else plan.rows[n]
            for j in range(cols):
                step = cycle - load - skew * j
                if 0 <= step < long:
                    # The wave of the load has reached row `step`; rows below still hold what they wait to use.
                    loading[0, j] = fetched(store, held[cycle, j])
                    loading[1 : step + 1, j] = before[:step, j]
                    # A register that loads cannot be multiplied with.
                    busy[: step + 1, j] = loading is active
        a = np.concatenate([fetched(feed, moving[cycle])[:, None], a[:, :-1]], axis=1)
        sums = np.concatenate([np.zeros((1, cols), dtype=np.int64), sums[:-1]], axis=0)
        sums += np.where(busy, 0, active) * a
        for j in range(cols):
            address = trace.ofmap[cycle, j]
            if address >= 0:
                again = trace.ofmap_reads[cycle, j]
                assert again in (-1, address)
                memory[address] = sums[rows - 1, j] + (memory[address] if again >= 0 else 0)
    return memory


@settings(max_examples=60, deadline=None)
@given(layers(), arrays(dataflows=("os", "ws", "is"), drain=True, read_back=True), st.integers(0, 2**32 - 1))
# The third fold uses one column of four: the fourth loads the others while its operand still passes through them.
@example(gemm("narrow", 1, 9, 1, batch=2), SystolicArray(1, 4, "ws", SystolicOptions(overlap=False)), 0)
def test_registers_fed_by_the_trace_compute_the_layer(layer, array, seed):
    array = array.with_options(offsets=(0, 0, 0))
    if layer.macs > 4000 or schedule(layer, array).start.size > 150:
        return
    run = run_output_stationary if array.dataflow == "os" else run_stationary
    ifmap, filters = operands(layer, seed)
    assert np.array_equal(run(layer, array, ifmap, filters), product(layer, ifmap, filters))


@settings(max_examples=60, deadline=None)
@given(layers(), arrays(dataflows=("rs",), last_cycle=False))
def test_row_stationary_writes_every_output_in_every_row_fold(layer, array):
    trace = demand(layer, array)
    written, times = np.unique(trace.ofmap[trace.ofmap >= 0], return_counts=True)
    counts = estimate([layer], array).row(0)
    assert written.size == layer.p * layer.f * layer.g
    assert set(times) == {(counts["ofmap_writes"]) // written.size}
    first, reads = array.options.offsets[1], np.unique(trace.filter[trace.filter >= 0])
    assert np.array_equal(reads, first + np.arange(layer.elements("filter")))


# --- details -------------------------------------------------------------------------------------------------------------


def test_overlapped_folds_follow_as_soon_as_the_ports_are_free():
    layer = gemm("g", 40, 9, 3)
    for dataflow, gaps in (("os", {8}), ("ws", {40}), ("is", {9})):
        starts = schedule(layer, SystolicArray(8, 8, dataflow)).start.tolist()
        assert {later - earlier for earlier, later in pairwise(starts)} <= gaps


def test_bad_requests():
    layer, array = gemm("g", 4, 4, 4), SystolicArray(2, 2, "os")
    with pytest.raises(UnknownNameError, match="engine 'nump'"):
        walk(layer, array, "nump")
    with pytest.raises(MappingError, match="layer 'g': cycles 5 to 5"):
        demand(layer, array, 5, 5)
    with pytest.raises(MappingError, match="at most"):
        demand(gemm("big", 10**6, 10**3, 10**3), SystolicArray(512, 512, "os"))
    with pytest.raises(MappingError, match="'rs'"):
        schedule(layer, SystolicArray(2, 2, "rs"))


@pytest.fixture
def no_numba(monkeypatch):
    monkeypatch.setitem(sys.modules, "numba", None)
    systolic._compiled.cache_clear()
    yield
    systolic._compiled.cache_clear()


def test_without_numba(no_numba, monkeypatch):
    layer, array = gemm("g", 4, 4, 4), SystolicArray(2, 2, "os")
    with pytest.raises(MappingError, match="numba is not installed"):
        walk(layer, array, "numba")
    monkeypatch.setattr(systolic, "COMPILE_ABOVE", 0)
    assert walk(layer, array) == walk(layer, array, "numpy")
