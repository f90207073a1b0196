"""Ops for mapping without a traced graph: matrix products and convolutions from their sizes, or from a line of text."""

from __future__ import annotations

from typing import Final

from ...errors import MappingError, UnknownNameError
from ...workloads.formats import by_name, names
from ...workloads.op import Axis, Op, Operand, tensor

_SIZES: Final = {
    "matmul": {"m": None, "n": None, "k": None, "b": 1},
    "conv": {"m": None, "c": None, "p": None, "q": None, "r": 1, "s": 1, "n": 1, "g": 1, "stride": 1, "dilation": 1},
}


def matmul(m: int, n: int, k: int, b: int = 1, number_format: str = "int8") -> Op:
    """O[b, m, n] = sum over k of I[b, m, k] W[b, k, n]; a batch of 1 has no dimension of its own.

    >>> matmul(4, 5, 6).flops
    240.0
    """
    batch, dims = ("b ", {"b": b}) if b != 1 else ("", {})
    operands = (
        tensor("I", "input", f"{batch}m k", number_format),
        tensor("W", "weight", f"{batch}k n", number_format),
        tensor("O", "output", f"{batch}m n", number_format),
    )
    return Op("matmul", "matmul", "matmul", {**dims, "m": m, "n": n, "k": k}, operands, {"mac": 1.0})


def conv(
    m: int,
    c: int,
    p: int,
    q: int,
    r: int = 1,
    s: int = 1,
    n: int = 1,
    g: int = 1,
    stride: int = 1,
    dilation: int = 1,
    number_format: str = "int8",
) -> Op:
    """O[n, g, m, p, q] = sum over c, r, s of I[n, g, c, stride p + dilation r, stride q + dilation s] W[g, m, c, r, s].

    `m` output and `c` input channels of each of `g` groups, `p` x `q` outputs, an `r` x `s` window, a batch of `n`. The input
    is the padded one.

    >>> op = conv(m=64, c=64, p=56, q=56, r=3, s=3)
    >>> op.extent(op.operands[0])
    (64, 58, 58)
    """
    extra = {dim: extent for dim, extent in (("n", n), ("g", g)) if extent != 1}
    rows: Axis = (("p", stride), ("r", dilation))
    cols: Axis = (("q", stride), ("s", dilation))
    outer = tuple(((dim, 1),) for dim in extra)
    fmt = by_name(number_format)
    operands = (
        Operand("I", "input", (*outer, (("c", 1),), rows, cols), fmt),
        tensor("W", "weight", f"{'g ' if g != 1 else ''}m c r s", fmt),
        Operand("O", "output", (*outer, (("m", 1),), (("p", 1),), (("q", 1),)), fmt),
    )
    return Op("conv", "conv", "conv", {**extra, "m": m, "c": c, "p": p, "q": q, "r": r, "s": s}, operands, {"mac": 1.0})


def op_from_text(text: str) -> Op:
    """An op from a line: its kind, sizes as ``name=number``, and optionally a number format.

    Raises
    ------
    UnknownNameError
        An unknown kind, size or format.
    MappingError
        A size is missing, given twice, or no whole number of 1 or more.

    >>> op_from_text("matmul m=1024 n=1024 k=1024 int8").dims
    {'m': 1024, 'n': 1024, 'k': 1024}
    """
    words = text.split()
    if not words:
        raise MappingError(f"op: expected a kind and its sizes, such as 'matmul m=1024 n=1024 k=1024 int8'; found {text!r}")
    kind, rest = words[0], words[1:]
    if kind not in _SIZES:
        raise UnknownNameError("op", kind, _SIZES)
    sizes: dict[str, int] = {}
    number_format = "int8"
    for word in rest:
        name, equals, number = word.partition("=")
        if not equals:
            if word not in names():
                raise UnknownNameError("number format", word, names(), f"op {kind!r}")
            number_format = word
            continue
        if name not in _SIZES[kind]:
            raise UnknownNameError("size", name, _SIZES[kind], f"op {kind!r}")
        if name in sizes:
            raise MappingError(f"op {kind!r}: {name} is given twice")
        if not number.isascii() or not number.isdigit() or int(number) < 1:
            raise MappingError(f"op {kind!r}: {name}: expected a whole number of 1 or more, found {number!r}")
        sizes[name] = int(number)
    missing = [name for name, default in _SIZES[kind].items() if default is None and name not in sizes]
    if missing:
        raise MappingError(f"op {kind!r}: give {', '.join(f'{name}=...' for name in missing)}")
    return matmul(**sizes, number_format=number_format) if kind == "matmul" else conv(**sizes, number_format=number_format)
