"""Formulas of reductions, sorts and pooling: dimensions r (results) and c (elements that make one)."""

from __future__ import annotations

import math
from typing import Any, Final

from .elementwise import parse_bodies
from .registry import formula
from .values import Call, Draft, Value, read, write

#: Scalar operations per element read.
SUMS: Final = parse_bodies("""
    add: sum mean nanmean trace
    add cmp: nansum
    mul: prod
    cmp: max min amax amin argmax argmin
    cmp*2: aminmax _aminmax
    int: any all count_nonzero
    add*3 mul: var std var_mean std_mean
    exp add*2: logcumsumexp
    cmp*8: median kthvalue
    add mul: cdist _cdist_forward _euclidean_dist
    add*3 mul*3: cosine_similarity
    cmp*16: quantile
""")


def reduction(call: Call, body: dict[str, float], **attributes: Any) -> Draft:
    """All tensor arguments are read once, the outputs written once."""
    x = call.values[0]
    rows = max(call.out.numel, 1) if call.outputs else 1
    cols = x.numel // rows
    if cols == 0 or (cols == 1 and x.numel < rows):  # e.g. distances: the result is larger than the argument
        rows, cols = max(call.out.numel, 1), x.shape[-1] if x.shape else 1
    if not x.is_float and body:
        body = {"int": sum(body.values())}
    ports = [read(f"x{i}", v, "r c", None if v.stored == rows * cols else v.stored) for i, v in enumerate(call.values)]
    ports += [
        write(v, "r", "out" if i == 0 else f"out{i}", None if v.numel == rows else v.numel)
        for i, v in enumerate(call.outputs)
    ]
    return Draft("reduce", {"r": rows, "c": cols}, ports, dict(body), attributes)


def _register() -> None:
    for name, body in SUMS.items():

        def run(call: Call, body: dict[str, float] = body) -> Draft:
            values = call.values
            if len(values) == 2 and call.packet in ("aten.max", "aten.min"):  # the binary form is maximum, minimum
                n = call.out.numel
                return Draft(
                    "elementwise",
                    {"n": n},
                    [
                        *(read(f"x{i}", v, "n", None if v.stored == n else v.stored) for i, v in enumerate(values)),
                        write(call.out, "n"),
                    ],
                    {"cmp": 1.0},
                )
            return reduction(call, body)

        run.__name__ = name
        formula(f"aten.{name}")(run)


_register()


def along(call: Call, kind: str, body: dict[str, float], **attributes: Any) -> Draft:
    """Work along one axis that writes as many elements as it reads, or fewer."""
    x = call["self"]
    axis = call.get("dim", -1)
    cols = x.shape[axis] if x.shape and isinstance(axis, int) else max(x.numel, 1)
    rows = x.numel // max(cols, 1)
    ports = [read("x0", x, "r c", None if x.stored == rows * cols else x.stored)]
    ports += [
        write(v, "r c", "out" if i == 0 else f"out{i}", None if v.numel == rows * cols else v.numel)
        for i, v in enumerate(call.outputs)
    ]
    return Draft(kind, {"r": rows, "c": cols}, ports, body, attributes)  # type: ignore[arg-type]


@formula("aten.topk")
def topk(call: Call) -> Draft:
    """Radix select along an axis, then a sort of the k winners."""
    return along(call, "reduce", {"cmp": 4.0}, topk=int(call["k"]), launches=2)


@formula("aten.sort", "aten.argsort", "aten.msort")
def sort(call: Call) -> Draft:
    """Segmented radix sort; a compare per element and level."""
    x = call["self"]
    axis = call.get("dim", -1)
    cols = x.shape[axis] if x.shape and isinstance(axis, int) else max(x.numel, 1)
    return along(
        call,
        "reduce",
        {"cmp": float(max(math.ceil(math.log2(max(cols, 2))), 1))},
        sort=True,
        launches=1 if cols <= 4096 else 4,
    )


@formula("aten.histc", "aten.bincount", "aten.histogram")
def histogram(call: Call) -> Draft:
    """Counts by bin."""
    x, out = call["self"], call.out
    ports = [read("x0", x, "r c"), write(out, "r", elements=out.numel)]
    return Draft("reduce", {"r": 1, "c": x.numel}, ports, {"int": 2.0}, {"launches": 2})


@formula("""
    aten.unique_consecutive aten._unique2 aten.unique_dim aten.multinomial
""")
def unique(call: Call) -> Draft:
    """Sort, compare with the neighbour, compact."""
    return along(call, "reduce", {"cmp": 16.0}, launches=6)


@formula("aten.diff")
def diff(call: Call) -> Draft:
    """Neighbouring differences."""
    n = call.out.numel
    return Draft(
        "elementwise",
        {"n": n},
        [*(read(f"x{i}", v, "n", v.stored) for i, v in enumerate(call.values)), write(call.out, "n")],
        {"add": 1.0},
    )


@formula("""
    aten.avg_pool1d aten.avg_pool2d aten.avg_pool3d aten.max_pool1d aten.max_pool2d aten.max_pool3d
    aten.max_pool2d_with_indices aten.max_pool3d_with_indices aten.max_pool1d_with_indices
""")
def pool(call: Call) -> Draft:
    """A window per output pixel."""
    x, out = call["self"], call.out
    kernel = call["kernel_size"]
    kernel = [kernel] if isinstance(kernel, int) else list(kernel)
    spatial = int(call.packet.split("pool")[1][0])
    window = math.prod(kernel) if len(kernel) > 1 else kernel[0] ** spatial
    ports = [read("x0", x, "r c", x.stored)]
    ports += [write(v, "r", "out" if i == 0 else f"out{i}") for i, v in enumerate(call.outputs)]
    return Draft(
        "reduce",
        {"r": out.numel, "c": window},
        ports,
        {"cmp" if "max" in call.packet else "add": 1.0},
        {"window": kernel},
    )


@formula("""
    aten.adaptive_avg_pool1d aten.adaptive_avg_pool2d aten.adaptive_avg_pool3d aten._adaptive_avg_pool2d
    aten._adaptive_avg_pool3d aten.adaptive_max_pool1d aten.adaptive_max_pool2d aten.adaptive_max_pool3d
""")
def adaptive_pool(call: Call) -> Draft:
    """Windows that tile the input."""
    return reduction(call, {"cmp" if "max" in call.packet else "add": 1.0})


@formula("""
    aten.upsample_nearest1d aten.upsample_nearest2d aten.upsample_nearest3d aten.upsample_linear1d
    aten.upsample_bilinear2d aten.upsample_trilinear3d aten.upsample_bicubic2d aten._upsample_bicubic2d_aa
    aten._upsample_bilinear2d_aa aten.grid_sampler aten.grid_sampler_2d aten.grid_sampler_3d
    aten._upsample_nearest_exact1d aten._upsample_nearest_exact2d aten._upsample_nearest_exact3d
    torchvision.roi_align aten.affine_grid_generator
""")
def resample(call: Call) -> Draft:
    """A weighted sum of neighbours per output pixel."""
    taps = (
        16.0
        if "bicubic" in call.packet
        else 1.0
        if "nearest" in call.packet
        else 8.0
        if "3d" in call.packet or "tri" in call.packet
        else 4.0
    )
    values: list[Value] = call.values
    n = call.out.numel
    ports = [read(f"x{i}", v, "n", v.stored) for i, v in enumerate(values)]
    ports.append(write(call.out, "n"))
    return Draft("elementwise", {"n": n}, ports, {"add": taps, "mul": taps})


@formula("""
    aten.nll_loss aten.nll_loss_nd aten.nll_loss2d aten.nll_loss_forward aten.nll_loss2d_forward
""")
def nll_loss(call: Call) -> Draft:
    """Picks one log-probability per row."""
    target = call["target"]
    ports = [read("x0", call["self"], "r c", target.numel), read("target", target, "r c")]
    ports += [write(v, "r", "out" if i == 0 else f"out{i}", v.numel) for i, v in enumerate(call.outputs)]
    return Draft("reduce", {"r": 1, "c": target.numel}, ports, {"add": 1.0})


@formula("aten.cross_entropy_loss")
def cross_entropy(call: Call) -> list[Draft]:
    """log_softmax, then the negative log-likelihood; they run as two kernels over a buffer that the graph does not
    show.
    """
    x, target = call["self"], call["target"]
    cols = x.shape[1] if len(x.shape) > 1 else x.shape[0]
    rows = x.numel // max(cols, 1)
    return [
        Draft(
            "softmax",
            {"r": rows, "c": cols},
            [read("x0", x, "r c"), write(call.out, "r c", elements=x.numel)],
            {"cmp": 1.0, "add": 2.0, "exp": 1.0},
            suffix="log_softmax",
        ),
        Draft(
            "reduce",
            {"r": 1, "c": rows},
            [read("target", target, "r c"), write(call.out, "r")],
            {"add": 1.0},
            suffix="nll_loss",
        ),
    ]


@formula("""
    aten.mse_loss aten.l1_loss aten.smooth_l1_loss aten.huber_loss aten.binary_cross_entropy
    aten.binary_cross_entropy_with_logits aten.kl_div aten.multi_margin_loss aten.soft_margin_loss
    aten.multilabel_margin_loss
""")
def pair_loss(call: Call) -> Draft:
    """A pointwise difference and its mean."""
    body = {"add": 2.0, "mul": 1.0} | (
        {"log": 1.0, "exp": 1.0} if "cross_entropy" in call.packet or "kl" in call.packet else {}
    )
    return reduction(call, body)
