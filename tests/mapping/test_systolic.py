"""Systolic closed forms and lowering: the reference's numbers, bounds, addresses checked by multiplying, bad input."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from presilicon.arch.array import DATAFLOWS, PHYSICAL, SCALESIM, SystolicArray, SystolicOptions, preset
from presilicon.errors import MappingError, SpecError, UnknownNameError
from presilicon.mapping.systolic import closed_form, estimate
from presilicon.mapping.systolic_layer import Layer, TensorAxis, conv, gemm
from presilicon.mapping.systolic_lower import lower, read_topology
from presilicon.workloads.formats import by_name
from presilicon.workloads.op import Op, Operand, tensor

GOLDEN = Path(__file__).resolve().parents[3] / "shared" / "golden" / "scalesim"
needs_golden = pytest.mark.skipif(not GOLDEN.is_dir(), reason=f"no reference tables in {GOLDEN}")
SIZES = st.integers(1, 300)
EDGES = st.integers(1, 70)


def table(name):
    with (GOLDEN / name).open(newline="") as file:
        return list(csv.DictReader(file))


def columns(rows, *names):
    return [np.array([int(float(row[name])) for row in rows]) for name in names]


def layer_of(row):
    """The layer of a row of topologies.csv."""
    h, w, fh, fw, c, f, sh, sw = (
        int(row[k])
        for k in (
            "ifmap_h_or_M",
            "ifmap_w_or_K",
            "filter_h",
            "filter_w",
            "channels",
            "num_filters_or_N",
            "stride_h",
            "stride_w",
        )
    )
    if row["kind"] == "gemm":
        return gemm(row["name"], h, f, w)
    return conv(row["name"], h, w, fh, fw, c, f, stride=(sh, sw), ceil_mode=True)


def multiplied(layer, ifmap, filters):
    """The output tensor of a layer, from its addresses alone; flat arrays in and out."""
    out = np.zeros(layer.elements("ofmap"), dtype=np.int64)
    share = {(role, s): layer.addresses(role, s) for role in ("ifmap", "filter", "ofmap") for s in "pfwg"}
    for g in range(layer.g):
        at = share["ifmap", "p"][:, None] + share["ifmap", "w"] + share["ifmap", "g"][g]
        stored = np.ones(at.shape, dtype=bool)
        outside = [a for a, out_of in zip(layer.ifmap, layer.padded_axes("ifmap"), strict=True) if out_of]
        for axis, p, w, k in zip(outside, *(layer.coordinates("ifmap", s) for s in "pwg"), strict=True):
            position = p[:, None] + w + k[g]
            stored &= (position >= 0) & (position < axis.size)
        a = np.where(stored, ifmap[np.where(stored, at, 0)], 0)
        assert int(stored.sum()) == layer.ifmap_elements
        b = filters[share["filter", "w"][:, None] + share["filter", "f"] + share["filter", "g"][g]]
        out[share["ofmap", "p"][:, None] + share["ofmap", "f"] + share["ofmap", "g"][g]] = a @ b
    return out


# --- the reference -------------------------------------------------------------------------------------------------------


@needs_golden
def test_every_layer_of_the_reference_has_its_sizes():
    rows = table("topologies.csv")
    layers = [layer_of(row) for row in rows]
    assert rows
    assert [x.p for x in layers] == [int(row["ofmap_px"]) for row in rows]
    assert [x.w for x in layers] == [int(row["window"]) for row in rows]


@needs_golden
@pytest.mark.parametrize("dataflow", ["os", "ws", "is"])
def test_reference_compute_cycles(dataflow):
    rows = [row for row in table("compute_cycles.csv") if row["dataflow"] == dataflow]
    assert len(rows) > 50
    p, f, w = columns(rows, "ofmap_px", "filters", "window")
    size = np.array([int(row["array"].split("x")[0]) for row in rows])
    counts = closed_form(p, f, w, rows=size, cols=size, dataflow=dataflow, options=SCALESIM)
    check_counts(counts, rows, "total_cycles", "sram_ifmap_reads", "sram_filter_reads", "sram_ofmap_writes")


@needs_golden
@pytest.mark.parametrize("dataflow", ["os", "ws", "is"])
def test_reference_full_runs(dataflow):
    rows = [row for row in table("full_runs.csv") if row["dataflow"] == dataflow and row["mode"] == "CALC"]
    assert rows
    layers = {(row["network"], row["name"]): layer_of(row) for row in table("topologies.csv")}
    for size in {row["array"] for row in rows}:
        some = [row for row in rows if row["array"] == size and (row["network"], row["name"]) in layers]
        array = SystolicArray(*(int(n) for n in size.split("x")), dataflow, SCALESIM)
        counts = estimate([layers[row["network"], row["name"]] for row in some], array)
        check_counts(counts, some, "total_cycles", "sram_if_reads", "sram_fl_reads", "sram_of_writes")
        for field, column in (("ifmap_reads", "bw_sram_if"), ("filter_reads", "bw_sram_fl"), ("ofmap_writes", "bw_sram_of")):
            assert list(np.round(getattr(counts, field) / counts.cycles, 6)) == [float(row[column]) for row in some]


def check_counts(counts, rows, cycles, ifmap, filters, ofmap):
    for field, column in (("cycles", cycles), ("ifmap_reads", ifmap), ("filter_reads", filters), ("ofmap_writes", ofmap)):
        assert getattr(counts, field).tolist() == columns(rows, column)[0].tolist(), field
    for field, column in (
        ("overall_utilisation", "overall_util_pct"),
        ("mapping_efficiency", "mapping_eff_pct"),
        ("compute_utilisation", "compute_util_pct"),
    ):
        assert list(np.round(100 * getattr(counts, field), 6)) == [float(row[column]) for row in rows], field


# --- physical counts -----------------------------------------------------------------------------------------------------


def test_single_folds_by_hand():
    # One fold of 3 x 2 on a 5 x 4 array, 7 streamed: counted on paper from the register transfers.
    assert closed_form(3, 2, 7, rows=5, cols=4, dataflow="os").cycles == 7 + 5 + 3 + 2 - 3
    assert closed_form(7, 2, 3, rows=5, cols=4, dataflow="ws").cycles == 3 + 7 + 5 + 2 - 2
    assert closed_form(2, 7, 3, rows=5, cols=4, dataflow="is").cycles == 3 + 7 + 5 + 2 - 2
    # A second fold follows 7 cycles behind; the first one's 4 columns no longer matter.
    assert closed_form(7, 6, 3, rows=5, cols=4, dataflow="ws").cycles == 3 + 7 + (7 + 5 + 2 - 2)
    # With one element to stream the first fold's far columns finish last.
    assert closed_form(1, 5, 1, rows=1, cols=4, dataflow="ws").cycles == 1 + (1 + 1 + 4 - 2)
    # Each fold alone: one that uses one column of four does not wait for what passes through the other three.
    alone = SystolicOptions(overlap=False)
    assert closed_form(1, 9, 1, rows=1, cols=4, dataflow="ws", groups=2, options=alone).cycles == 2 * (5 + 5 + 2)


def test_partial_sums_are_written_by_every_fold_and_read_by_all_but_the_first():
    counts = closed_form(10, 6, 25, rows=8, cols=8, dataflow="ws")
    assert (counts.ofmap_writes, counts.ofmap_reads) == (10 * 6 * 4, 10 * 6 * 3)
    assert closed_form(10, 6, 25, rows=8, cols=8, dataflow="os").ofmap_writes == 60
    without = closed_form(10, 6, 25, rows=8, cols=8, dataflow="is", options=SystolicOptions(read_back=False))
    assert without.ofmap_reads == 0


@given(p=SIZES, f=SIZES, w=SIZES, rows=EDGES, cols=EDGES, g=st.integers(1, 4), dataflow=st.sampled_from(["os", "ws", "is"]))
def test_bounds(p, f, w, rows, cols, g, dataflow):
    def run(**changes):
        options = SystolicOptions(**changes)
        return closed_form(p, f, w, rows=rows, cols=cols, dataflow=dataflow, groups=g, options=options)

    real = run()
    assert real.macs == p * f * w * g
    # No more multiply-adds in a cycle than PEs, and every element is read at least once.
    assert real.cycles * rows * cols >= real.macs
    assert 0 < real.overall_utilisation <= real.mapping_efficiency <= 1
    assert real.ifmap_reads >= p * w * g
    assert real.filter_reads >= f * w * g
    assert real.ofmap_writes - real.ofmap_reads == p * f * g
    # Each relaxation helps or changes nothing.
    assert real.cycles <= run(overlap=False).cycles
    assert real.cycles <= run(edge_folds="full").cycles
    assert run(drain=False).cycles <= real.cycles
    # The reference is one cycle short of what its own schedule takes, and takes no account of the drain.
    scalesim = closed_form(p, f, w, rows=rows, cols=cols, dataflow=dataflow, groups=g, options=SCALESIM)
    assert scalesim.cycles + 1 == run(edge_folds="full", overlap=False, drain=False).cycles


@given(p=SIZES, f=SIZES, w=SIZES, rows=EDGES, cols=EDGES, options=st.sampled_from([PHYSICAL, SCALESIM]))
def test_input_stationary_is_weight_stationary_with_the_operands_exchanged(p, f, w, rows, cols, options):
    ws = closed_form(p, f, w, rows=rows, cols=cols, dataflow="ws", options=options)
    is_ = closed_form(f, p, w, rows=rows, cols=cols, dataflow="is", options=options)
    assert (ws.cycles, ws.ifmap_reads, ws.filter_reads) == (is_.cycles, is_.filter_reads, is_.ifmap_reads)


def test_arrays_and_layers_broadcast():
    p, f, w = np.array([3, 50, 700]), np.array([9, 1, 33]), np.array([5, 64, 200])
    rows, cols = np.array([[4], [16]]), np.array([[8], [2]])
    for dataflow in ("os", "ws", "is"):
        many = closed_form(p, f, w, rows=rows, cols=cols, dataflow=dataflow)
        assert many.cycles.shape == (2, 3)
        for i in range(2):
            for j in range(3):
                one = closed_form(p[j], f[j], w[j], rows=rows[i, 0], cols=cols[i, 0], dataflow=dataflow)
                assert one.cycles == many.cycles[i, j]
                assert one.overall_utilisation == many.overall_utilisation[i, j]
    assert estimate([], SystolicArray(4, 4, "os")).cycles.shape == (0,)
    assert estimate([], SystolicArray(4, 4, "rs")).cycles.shape == (0,)


def test_groups_repeat_the_folds_of_one():
    whole = conv("dw", 16, 16, 3, 3, 8, 8, padding=(1, 1), groups=8)
    one = conv("one", 16, 16, 3, 3, 1, 1, padding=(1, 1))
    for dataflow in DATAFLOWS:
        array = SystolicArray(8, 8, dataflow, SystolicOptions(overlap=False))
        both = estimate([whole, one], array)
        for field in ("macs", "folds", "cycles", "ifmap_reads", "filter_reads", "ofmap_writes", "ofmap_reads"):
            assert getattr(both, field)[0] == 8 * getattr(both, field)[1], (dataflow, field)


def test_row_stationary_by_hand():
    # 3 x 3 filter over 8 x 8, 4 channels, 5 filters, on 7 x 4: two channels above each other, output rows 4 + 2.
    layer, array = conv("c", 8, 8, 3, 3, 4, 5), SystolicArray(7, 4, "rs", filters_per_pe=1)
    counts = estimate([layer], array).row(0)
    assert counts["folds"] == 2 * 2
    assert counts["cycles"] == 4 * (5 * 6 * 3) + 6
    # Strips of 4 and 2 output rows need 6 and 4 input rows of 8, for each of 4 channels and 5 filters.
    assert counts["ifmap_reads"] == (6 + 4) * 8 * 4 * 5
    assert counts["filter_reads"] == 2 * layer.f * layer.w
    assert (counts["ofmap_writes"], counts["ofmap_reads"]) == (36 * 5 * 2, 36 * 5)
    held = estimate([layer], SystolicArray(7, 4, "rs", filters_per_pe=5)).row(0)
    assert held["ifmap_reads"] * 5 == counts["ifmap_reads"]
    assert held["cycles"] == counts["cycles"]
    # The window of one pixel stays from filter to filter; of windows 0-2 and 1-3, two elements do.
    assert estimate([conv("c", 8, 3, 3, 3, 1, 9)], array).row(0)["ifmap_reads"] == (6 + 4) * 3
    assert estimate([conv("c", 8, 4, 3, 3, 1, 9)], array).row(0)["ifmap_reads"] == (6 + 4) * (4 + 8 * 2)
    # A matrix product is a 1 x 1 convolution: M along the columns, K along the rows.
    product = estimate([gemm("g", 10, 6, 20)], array).row(0)
    assert (product["folds"], product["cycles"]) == (3 * 3, 9 * 6 + 6)


# --- lowering ------------------------------------------------------------------------------------------------------------


def conv_op(b, g, m, c, pixels, taps, stride, dilation, padding, elements=None, **attributes):
    p, q = pixels
    r, s = taps
    dims = {"b": b, "g": g, "m": m, "c": c, "p": p, "q": q, "r": r, "s": s}
    batch = (("b", 1),)
    outs, ins = (("g", m), ("m", 1)), (("g", c), ("c", 1))
    window = (("p", stride[0]), ("r", dilation[0])), (("q", stride[1]), ("s", dilation[1]))
    bf16 = by_name("bf16")
    operands = (
        Operand("a", "input", (batch, ins, *window), bf16, elements),
        Operand("w", "weight", (outs, (("c", 1),), (("r", 1),), (("s", 1),)), bf16),
        Operand("bias", "weight", (outs,), bf16),
        Operand("out", "output", (batch, outs, (("p", 1),), (("q", 1),)), bf16),
    )
    return Op("c", "conv", "aten.conv2d", dims, operands, {"mac": 1.0}, {"padding": padding, **attributes})


def naive_conv(x, w, stride, padding, dilation, groups):
    """x (b, c, h, w), w (m, c of a group, r, s), by definition."""
    x = np.pad(x, ((0, 0), (0, 0), *((n, n) for n in padding)))
    m, c, r, s = w.shape
    p, q = ((x.shape[2 + i] - dilation[i] * (w.shape[2 + i] - 1) - 1) // stride[i] + 1 for i in range(2))
    out = np.zeros((x.shape[0], m, p, q), dtype=np.int64)
    for k in range(m):
        first = k // (m // groups) * c
        for i in range(r):
            for j in range(s):
                rows = slice(i * dilation[0], i * dilation[0] + stride[0] * (p - 1) + 1, stride[0])
                cols = slice(j * dilation[1], j * dilation[1] + stride[1] * (q - 1) + 1, stride[1])
                out[:, k] += np.einsum("bcpq,c->bpq", x[:, first : first + c, rows, cols], w[k, :, i, j])
    return out


@st.composite
def convolutions(draw):
    small = st.integers(1, 3)
    taps, stride, dilation = ((draw(small), draw(small)) for _ in range(3))
    padding = (draw(st.integers(0, 2)), draw(st.integers(0, 2)))
    size = tuple(max(dilation[i] * (taps[i] - 1) + 1 - 2 * padding[i], 1) + draw(st.integers(0, 4)) for i in range(2))
    return draw(small), draw(small), draw(small), draw(small), size, taps, stride, dilation, padding


@settings(max_examples=60, deadline=None)
@given(convolutions(), st.randoms(use_true_random=False))
def test_a_lowered_convolution_multiplies_to_the_convolution(shape, random):
    b, g, m, c, size, taps, stride, dilation, padding = shape
    rng = np.random.default_rng(random.randrange(2**32))
    x = rng.integers(-9, 9, (b, g * c, *size))
    w = rng.integers(-9, 9, (g * m, c, *taps))
    expected = naive_conv(x, w, stride, padding, dilation, g)
    built = conv("x", *size, *taps, g * c, g * m, stride=stride, padding=padding, dilation=dilation, batch=b, groups=g)
    assert built.p == expected[:, 0].size
    got = multiplied(built, x.transpose(0, 2, 3, 1).ravel(), w.transpose(0, 2, 3, 1).ravel())
    assert np.array_equal(got.reshape(b, *expected.shape[2:], g * m).transpose(0, 3, 1, 2), expected)

    lowered = lower(conv_op(b, g, m, c, expected.shape[2:], taps, stride, dilation, list(padding), x.size))
    assert (lowered.p, lowered.f, lowered.w, lowered.g) == (built.p, built.f, built.w, built.g)
    if tuple(axis.size for axis in lowered.ifmap[2:]) == size:
        assert np.array_equal(multiplied(lowered, x.ravel(), w.ravel()), expected.ravel())
    else:
        # Another size of as many elements and pixels: only where stride leaves the size open.
        assert max(stride) > 1
        assert lowered.elements("ifmap") == x.size


def test_matrix_products_lower():
    rng = np.random.default_rng(0)
    for b, shared in ((1, True), (3, False), (3, True)):
        m, n, k = 4, 5, 6
        a = tensor("a", "input", "b m k", "bf16")
        w = tensor("w", "weight" if shared else "input", "k n" if shared else "b k n", "bf16")
        bias, out = tensor("bias", "weight", "n", "bf16"), tensor("out", "output", "b m n", "bf16")
        op = Op("mm", "matmul", "aten.bmm", {"b": b, "m": m, "n": n, "k": k}, (a, w, bias, out), {"mac": 1.0})
        layer = lower(op)
        # A batch that shares its right factor makes one taller product.
        expected = (b * m, 1) if shared and b > 1 else (m, b)
        assert (layer.p, layer.g, layer.f, layer.w) == (*expected, n, k)
        x, y = rng.integers(-9, 9, (b, m, k)), rng.integers(-9, 9, (k, n) if shared else (b, k, n))
        assert np.array_equal(multiplied(layer, x.ravel(), y.ravel()), (x @ y).ravel())


def test_the_weight_is_the_filter_wherever_it_stands():
    w, a = tensor("w", "weight", "n k", "bf16"), tensor("a", "input", "m k", "bf16")
    op = Op("mm", "matmul", "x", {"m": 2, "n": 3, "k": 4}, (w, a, tensor("o", "output", "m n", "bf16")), {"mac": 1.0})
    assert (lower(op).p, lower(op).f) == (2, 3)


def test_same_padding_and_transposed_convolutions():
    layer = lower(conv_op(1, 1, 2, 3, (9, 9), (3, 4), (1, 1), (2, 1), "same", elements=3 * 81))
    assert [(x.size, x.offset) for x in layer.sliding] == [(9, -2), (9, -1)]
    assert layer.ifmap_elements < layer.p * layer.w
    bf16 = by_name("bf16")
    up = (("p", 2), ("r", 1))
    ports = (
        Operand("a", "input", ((("c", 1),), (("p", 1),)), bf16),
        Operand("w", "weight", ((("c", 1),), (("m", 1),), (("r", 1),)), bf16),
        Operand("out", "output", ((("m", 1),), up), bf16),
    )
    dims = {"m": 4, "c": 5, "p": 6, "r": 3}
    layer = lower(Op("t", "conv", "aten.conv_transpose1d", dims, ports, {"mac": 1.0}, {"padding": [0], "transposed": True}))
    # Columns that are added up where they overlap: 6 pixels by 4 x 3 products.
    assert (layer.p, layer.f, layer.w, layer.elements("ofmap")) == (6, 12, 5, 72)


def test_routed_experts_share_the_rows():
    ports = (
        tensor("a", "input", "b m k", "bf16"),
        tensor("w", "weight", "k n", "bf16", 8 * 6 * 7),
        tensor("out", "output", "b m n", "bf16"),
    )
    dims = {"b": 1, "m": 20, "n": 6, "k": 7}
    op = Op("moe", "matmul", "aten._grouped_mm", dims, ports, {"mac": 1.0}, {"groups": 8, "distribution": "balanced"})
    assert (lower(op).g, lower(op).p) == (8, 3)


def test_traced_layers_lower():
    torch = pytest.importorskip("torch")
    from presilicon.workloads.trace import trace

    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.stem = torch.nn.Conv2d(3, 8, 7, stride=2, padding=3)
            self.depthwise = torch.nn.Conv2d(8, 8, 3, padding=1, groups=8)
            self.head = torch.nn.Linear(8, 10)

        def forward(self, x):
            return self.head(self.depthwise(self.stem(x)).mean((2, 3)))

    graph = trace(Net(), torch.zeros(2, 3, 33, 35, device="meta"))
    stem, depthwise, head = (lower(op) for op in graph if op.kind in ("conv", "matmul"))
    expected = conv("x", 33, 35, 7, 7, 3, 8, stride=(2, 2), padding=(3, 3), batch=2)
    assert (stem.p, stem.f, stem.w, stem.g) == (expected.p, expected.f, expected.w, 1)
    assert stem.ifmap_elements == expected.ifmap_elements
    assert (depthwise.f, depthwise.w, depthwise.g) == (1, 9, 8)
    assert (head.p, head.f, head.w) == (2, 10, 8)


# --- topology files ------------------------------------------------------------------------------------------------------


def test_topology_files(tmp_path):
    path = tmp_path / "net.csv"
    header = "Layer name, IFMAP Height, IFMAP Width, Filter Height, Filter Width, Channels, Num Filter, Strides,\n"
    path.write_text(header + "Conv1, 224, 224, 7, 7, 3, 64, 2,\n\n,,,,,,,,\nDP1, 9, 9, 3, 3, 4, 1, 1, 1:1,\nX, 8, 9, 2, 2, 1, 1, 1, 3\n")
    layers = read_topology(path)
    assert [x.name for x in layers] == ["Conv1", *(f"DP1Channel_{i}" for i in range(4)), "X"]
    # 109.5 steps: rounded up.
    assert (layers[0].p, layers[0].w, layers[1].w, layers[-1].p) == (110 * 110, 147, 9, 7 * 4)
    grouped = read_topology(path, depthwise="grouped")
    assert (len(grouped), grouped[1].g, grouped[1].f) == (3, 4, 1)

    path.write_text("Layer,M,N,K,\nqkv,512,768,64,\n")
    (layer,) = read_topology(path)
    assert (layer.p, layer.f, layer.w) == (512, 768, 64)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected a header"),
        ("h\nc, 3, 3, 5, 3, 1, 1, 1,\n", "line 2: layer 'c': filter height: 5 is larger"),
        ("h\nc, 3, 3, 1, 1, 1, 1, 0,\n", "line 2: layer 'c': stride"),
        ("h\nc, 3, 3, 1, 1, 1, x, 1,\n", "line 2: expected an integer, found 'x'"),
        ("h\nc, 3, 3, 1, 1, 1,\n", "line 2: a convolution has 7 sizes"),
        ("h\nc, 3, 3, 1, 1, 1, 1, 1, 2:4\n", "line 2: sparsity 2:4"),
        ("n,m,n,k\nc, 3, -3, 1,\n", "line 2: layer 'c': n: expected an integer of 1 or more, found -3"),
        ("n,m,n,k\nc, 3, 3,\n", "line 2: a GEMM has 3 sizes"),
    ],
)
def test_bad_topology_files(tmp_path, text, message):
    path = tmp_path / "net.csv"
    path.write_text(text)
    with pytest.raises(MappingError, match=message):
        read_topology(path)


def test_missing_topology_file(tmp_path):
    with pytest.raises(MappingError, match="cannot be read"):
        read_topology(tmp_path / "none.csv")


# --- bad input -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"p": 0}, "p: expected integers of 1 or more, found 0"),
        ({"w": [3, -1]}, "w: .* found -1 at"),
        ({"f": 2.5}, "f: expected integers"),
        ({"f": float("nan")}, "f: expected integers"),
        ({"rows": 0}, "rows"),
        ({"cols": [[1, 2], [3]]}, "cols"),
        ({"p": [1, 2], "f": [1, 2, 3]}, "broadcast"),
        ({"p": 2**31, "f": 2**31, "w": 2}, "multiply-adds"),
        ({"dataflow": "rs"}, "dataflow"),
    ],
)
def test_bad_sizes(sizes, message):
    good = {"p": 4, "f": 4, "w": 4, "rows": 4, "cols": 4, "dataflow": "os"}
    arguments = good | sizes
    with pytest.raises(MappingError, match=message):
        closed_form(arguments.pop("p"), arguments.pop("f"), arguments.pop("w"), **arguments)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: gemm("g", 0, 1, 1), "layer 'g': m: .* found 0"),
        (lambda: gemm("g", 1, 1, 1.5), "layer 'g': k"),
        (lambda: conv("c", 4, 4, 5, 1, 1, 1), "layer 'c': filter height: 5 is larger than the input, 4"),
        (lambda: conv("c", 4, 4, 1, 3, 1, 1, dilation=(1, 2)), "filter width: 5"),
        (lambda: conv("c", 4, 4, 1, 1, 3, 4, groups=2), "channels: 3 do not divide into 2 groups"),
        (lambda: conv("c", 4, 4, 1, 1, 1, 1, padding=(-1, 0)), "padding"),
        (lambda: gemm("g", 2**31, 2**31, 4), "multiply-adds"),
        (lambda: Layer("x", (("p", 0),), (), (), (), (), (), ()), "pixels: p"),
    ],
)
def test_bad_layers(make, message):
    with pytest.raises(MappingError, match=message):
        make()


def bad_op(kind="matmul", projections=("m k", "k n", "m n"), dims=None, **changes):
    roles = ["input"] * (len(projections) - 1) + ["output"]
    operands = tuple(tensor(f"t{i}", r, p, "bf16") for i, (r, p) in enumerate(zip(roles, projections, strict=True)))
    return Op("op1", kind, "aten.x", dims or {"m": 2, "n": 3, "k": 4}, operands, **({"body": {"mac": 1.0}} | changes))


@pytest.mark.parametrize(
    ("op", "message"),
    [
        (bad_op("softmax"), "kind matmul and conv, found 'softmax'"),
        (bad_op("attention"), "kind matmul and conv"),
        (bad_op(body={"add": 1.0}), "multiply-add"),
        (bad_op(iterations=10.0), "not a dense product"),
        (bad_op(dims={"m": 2, "n": 0, "k": 4}), "dimension 'n'"),
        (bad_op(projections=("m k", "k n", "k n", "m n")), "expected two operands"),
        (bad_op(projections=("m k", "m n")), "expected two operands"),
        (bad_op(projections=("m k n", "k", "m")), "dimension 'n' of extent 3 is only in t0"),
    ],
)
def test_ops_that_the_array_cannot_run(op, message):
    with pytest.raises(MappingError, match=r"op 'op1' \(aten.x\).*" + message):
        lower(op)


@pytest.mark.parametrize(
    "changes",
    [
        {"rows": 0},
        {"cols": -1},
        {"rows": 2.0},
        {"rows": True},
        {"filters_per_pe": 0},
        {"clock_hz": 0.0},
        {"ifmap_sram_bytes": -1},
        {"ofmap_sram_bytes": float("nan")},
        {"options": "scalesim"},
    ],
)
def test_bad_arrays(changes):
    with pytest.raises(SpecError, match=next(iter(changes))):
        SystolicArray(**({"rows": 4, "cols": 4, "dataflow": "os"} | changes))


def test_bad_names():
    with pytest.raises(UnknownNameError, match="dataflow 'wss'; did you mean 'ws'"):
        SystolicArray(4, 4, "wss")
    with pytest.raises(UnknownNameError, match="scalesim"):
        preset("scale-sim")
    with pytest.raises(UnknownNameError, match="overlap"):
        SystolicArray(4, 4, "os").with_options(overlaps=True)
    with pytest.raises(UnknownNameError, match="edge_folds"):
        SystolicOptions(edge_folds="partly")
    with pytest.raises(SpecError, match="overlap: expected true or false"):
        SystolicOptions(overlap=1)
    with pytest.raises(SpecError, match="offsets"):
        SystolicOptions(offsets=(0, 1))
    assert preset("scalesim") is SCALESIM


def test_axes_count_padding():
    axis = TensorAxis(3, (("p", 1), ("r", 1)), -1)
    one = (TensorAxis(1, ()),)
    layer = Layer("x", (("p", 3),), (("f", 1),), (("r", 3),), (), (axis,), one, one)
    assert layer.ifmap_elements == 7
