"""Formulas of matrix products: one op of kind ``matmul`` each, dimensions b, m, n, k."""

from __future__ import annotations

from typing import Any

from .registry import formula
from .values import Call, Draft, Value, read, write


def product(
    b: int,
    m: int,
    n: int,
    k: int,
    a: Value,
    w: Value,
    out: Value,
    *,
    bias: Value | None = None,
    add: Value | None = None,
    attributes: dict[str, Any] | None = None,
) -> Draft:
    """``out[b, m, n] = sum over k of a[b, m, k] * w[b, k, n]``; `bias` (n) is a vector, `add` a full addend.

    A factor that is broadcast over the batch carries its own number of elements.
    """
    batched = b > 1 and w.stored > k * n
    ports = [
        read("a", a, "b m k", _unless(a.stored, b * m * k)),
        read("w", w, "b k n" if batched else "k n", _unless(w.stored, (b if batched else 1) * k * n)),
    ]
    if bias is not None:
        ports.append(read("bias", bias, "n", _unless(bias.stored, n)))
    if add is not None:
        ports.append(read("add", add, "b m n", _unless(add.stored, b * m * n)))
    ports.append(write(out, "b m n", elements=_unless(out.numel, b * m * n)))
    return Draft("matmul", {"b": b, "m": m, "n": n, "k": k}, ports, {"mac": 1.0}, attributes or {})


def _unless(elements: int, expected: int) -> int | None:
    return None if elements == expected else elements


@formula("aten.linear")
def linear(call: Call) -> Draft:
    """y = x W^T + bias; W (n, k)."""
    x, w, bias = call["input"], call["weight"], call.get("bias")
    k = x.shape[-1]
    n = w.shape[0] if len(w.shape) > 1 else 1
    return product(1, x.numel // max(k, 1), n, k, x, w, call.out, bias=bias)


@formula("aten.mm", "aten._int_mm")
def mm(call: Call) -> Draft:
    """(m, k) by (k, n)."""
    a, w = call["self"], call["mat2"]
    return product(1, a.shape[0], w.shape[1], a.shape[1], a, w, call.out)


@formula("aten.addmm", "aten._addmm_activation")
def addmm(call: Call) -> Draft:
    """bias + (m, k) by (k, n)."""
    a, w, bias = call["mat1"], call["mat2"], call["self"]
    vector = len(bias.shape) <= 1
    return product(
        1,
        a.shape[0],
        w.shape[1],
        a.shape[1],
        a,
        w,
        call.out,
        bias=bias if vector else None,
        add=None if vector else bias,
    )


@formula("aten._scaled_mm")
def scaled_mm(call: Call) -> Draft:
    """fp8 product with scales; bias optional."""
    a, w = call["self"], call["mat2"]
    return product(1, a.shape[0], w.shape[1], a.shape[1], a, w, call.out, bias=call.get("bias"))


@formula("aten.bmm")
def bmm(call: Call) -> Draft:
    """(b, m, k) by (b, k, n)."""
    a, w = call["self"], call["mat2"]
    return product(a.shape[0], a.shape[1], w.shape[2], a.shape[2], a, w, call.out)


@formula("aten.baddbmm", "aten.addbmm")
def baddbmm(call: Call) -> Draft:
    """input + (b, m, k) by (b, k, n)."""
    a, w = call["batch1"], call["batch2"]
    add = call["self"] if call.get("beta", 1) != 0 else None
    return product(a.shape[0], a.shape[1], w.shape[2], a.shape[2], a, w, call.out, add=add)


@formula("aten.mv", "aten.addmv")
def mv(call: Call) -> Draft:
    """(m, k) by (k)."""
    a, w = call.get("mat", call["self"]), call["vec"]
    return product(1, a.shape[0], 1, a.shape[1], a, w, call.out)


@formula("aten.dot", "aten.vdot")
def dot(call: Call) -> Draft:
    """(k) by (k)."""
    a, w = call["self"], call.get("tensor", call.get("other"))
    return product(1, 1, 1, a.numel, a, w, call.out)


@formula("aten.outer", "aten.ger")
def outer(call: Call) -> Draft:
    """(m) by (n)."""
    a, w = call["self"], call["vec2"]
    return product(1, a.numel, w.numel, 1, a, w, call.out)


@formula("aten.matmul")
def matmul(call: Call) -> Draft:
    """The broadcasting product; a batch over a shared right factor is folded into m, as ATen does."""
    a, w, out = call["self"], call["other"], call.out
    k = a.shape[-1]
    m = a.shape[-2] if len(a.shape) > 1 else 1
    n = w.shape[-1] if len(w.shape) > 1 else 1
    batch = out.numel // max(m * n, 1)
    if len(w.shape) <= 2:
        return product(1, batch * m, n, k, a, w, out)
    return product(batch, m, n, k, a, w, out)


@formula("aten.bilinear")
def bilinear(call: Call) -> Draft:
    """x1 W x2, as a product with the larger weight."""
    x1, x2, w = call["input1"], call["input2"], call["weight"]
    rows = x1.numel // x1.shape[-1]
    return product(1, rows, w.shape[0] * w.shape[2], w.shape[1], x1, w, call.out, attributes={"second": x2.numel})


@formula("""
    aten._grouped_mm aten._scaled_grouped_mm transformers.grouped_mm_fallback aten._grouped_mm_fallback
""")
def grouped_mm(call: Call) -> Draft:
    """Rows sorted by group, each group with its own matrix (experts); routing taken as balanced.

    2-D by 3-D: ``m`` is the number of all routed rows, and the weight operand counts the matrices of the
    groups that have rows. 2-D by 2-D
    (the weight gradient) splits the inner dimension over the groups.
    """
    values = call.values
    a, w, out = values[0], values[1], call.out
    groups = w.shape[0] if len(w.shape) == 3 else a.shape[0] if len(a.shape) == 3 else out.shape[0]
    attributes = {"groups": groups, "distribution": "balanced"}
    if len(a.shape) == 2 and len(w.shape) == 3:
        m, k, n = a.shape[0], a.shape[1], w.shape[2]
    elif len(a.shape) == 3 and len(w.shape) == 2:
        m, k, n = a.shape[1], a.shape[2], w.shape[1]
    elif len(a.shape) == 2:
        m, k, n = a.shape[0], a.shape[1] // max(groups, 1), w.shape[1]
        draft = product(
            groups, m, n, max(k, 1), a, w, out, attributes={"split_groups": groups, "distribution": "balanced"}
        )
        draft.ports[-1].elements = out.numel
        return draft
    else:
        return product(a.shape[0], a.shape[1], w.shape[2], a.shape[2], a, w, out, attributes=attributes)
    ports = [read("a", a, "b m k", _unless(a.stored, m * k)), read("w", w, "k n", min(groups, m) * n * k)]
    if call.get("bias") is not None:
        ports.append(read("bias", call["bias"], "n", min(groups, m) * n))
    ports.append(write(out, "b m n"))
    return Draft("matmul", {"b": 1, "m": m, "n": n, "k": k}, ports, {"mac": 1.0}, attributes)


@formula("transformers.grouped_mm_fallback_backward")
def grouped_mm_backward(call: Call) -> list[Draft]:
    """Gradients of rows in groups and of each group's matrix, as `grouped_mm` has them."""
    a, w, gradient = call["input"], call["weight"], call["grad_output"]
    (m, k), (groups, _, n) = a.shape, w.shape
    ports = [read("a", gradient, "b m k", m * n), read("w", w, "k n", min(groups, m) * k * n)]
    ports.append(write(call.outputs[0], "b m n", elements=m * k))
    attributes: dict[str, Any] = {"groups": groups, "distribution": "balanced"}
    rows = Draft("matmul", {"b": 1, "m": m, "n": k, "k": n}, ports, {"mac": 1.0}, attributes, suffix="input")
    attributes = {"split_groups": groups, "distribution": "balanced"}
    weights = product(groups, k, n, max(m // groups, 1), a, gradient, call.outputs[1], attributes=attributes)
    weights.suffix = "weight"
    return [rows, weights]


@formula("aten.linalg_solve_triangular", "aten.triangular_solve")
def solve_triangular(call: Call) -> Draft:
    """X of A X = B with A (.., m, m) triangular: half of a product of A with B (.., m, n)."""
    values = call.values
    a, b = (values[0], values[1]) if "linalg" in call.packet else (values[1], values[0])
    m, n = a.shape[-1], b.numel // max(b.stored // b.shape[-1], 1)
    batch = b.numel // max(m * n, 1)
    draft = product(batch, m, n, m, a, b, call.out, attributes={"triangular": True})
    draft.iterations = float(batch * n) * m * (m + 1) / 2
    return draft
