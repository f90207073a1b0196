"""Small graphs as a trace would give them."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from presilicon.workloads.formats import by_name
from presilicon.workloads.graph import OpGraph
from presilicon.workloads.op import Op, Operand, tensor


def conv(name: str, channels: int, size: int, filters: int, window: int, stride: int = 1, groups: int = 1, batch: int = 1) -> Op:
    pad = window // 2
    out = (size + 2 * pad - window) // stride + 1
    kind = by_name("int8")
    dims = {"b": batch, "g": groups, "m": filters // groups, "c": channels // groups, "p": out, "q": out, "r": window, "s": window}
    image = ((("b", 1),), (("g", channels // groups), ("c", 1)), (("p", stride), ("r", 1)), (("q", stride), ("s", 1)))
    operands = (
        Operand("a", "input", image, kind, batch * channels * size * size),
        Operand("w", "weight", ((("g", filters // groups), ("m", 1)), (("c", 1),), (("r", 1),), (("s", 1),)), kind),
        Operand("out", "output", ((("b", 1),), (("g", filters // groups), ("m", 1)), (("p", 1),), (("q", 1),)), kind),
    )
    attributes = {"stride": [stride] * 2, "padding": [pad] * 2, "dilation": [1, 1], "groups": groups, "transposed": False}
    return Op(name, "conv", "aten.conv2d.default", dims, operands, {"mac": 1.0}, attributes)


def matmul(name: str, m: int, n: int, k: int, fmt: str = "int8", weight: str | None = None, count: int = 1) -> Op:
    operands = (tensor("a", "input", "m k", fmt), tensor("w", "weight", "k n", weight or fmt), tensor("out", "output", "m n", fmt))
    return Op(name, "matmul", "aten.linear.default", {"m": m, "n": n, "k": k}, operands, {"mac": 1.0}, count=count)


def elementwise(name: str, n: int, inputs: int = 1, body: dict[str, float] | None = None, fmt: str = "int8", target: str = "relu") -> Op:
    operands = (*(tensor(f"x{i}", "input", "n", fmt) for i in range(inputs)), tensor("out", "output", "n", fmt))
    return Op(name, "elementwise", f"aten.{target}.default", {"n": n}, operands, body or {"cmp": 1.0})


def norm(name: str, r: int, c: int, fmt: str = "int8") -> Op:
    operands = (tensor("x0", "input", "r c", fmt), tensor("out", "output", "r c", fmt))
    return Op(name, "norm", "aten.batch_norm.default", {"r": r, "c": c}, operands, {"add": 2.0, "mul": 2.0})


def attention(name: str, heads: int, q: int, s: int, e: int, fmt: str = "bf16") -> Op:
    operands = (
        tensor("q", "input", "b h g q e", fmt),
        tensor("k", "input", "b h s e", fmt),
        tensor("v", "input", "b h s e", fmt),
        tensor("out", "output", "b h g q e", fmt),
    )
    dims = {"b": 1, "h": heads, "g": 1, "q": q, "s": s, "e": e}
    body = {"mac": 2.0, "exp": 1 / e, "add": 2 / e, "mul": 1 / e, "cmp": 1 / e}
    return Op(name, "attention", "aten.scaled_dot_product_attention.default", dims, operands, body, {"v_head_dim": e})


@pytest.fixture
def residual() -> OpGraph:
    """Two convolutions with batch normalisation, a residual sum and a classifier, as a ResNet block has them."""
    pixels = 56 * 56
    ops = [
        conv("conv1", 64, 56, 64, 3),
        norm("bn1", 64, pixels),
        elementwise("relu1", 64 * pixels),
        conv("conv2", 64, 56, 64, 3),
        norm("bn2", 64, pixels),
        elementwise("sum", 64 * pixels, 2, {"add": 1.0}, target="add"),
        matmul("fc", 1, 1000, 2048),
    ]
    edges = [("conv1", "bn1", "x0"), ("bn1", "relu1", "x0"), ("relu1", "conv2", "a"), ("conv2", "bn2", "x0"), ("bn2", "sum", "x0")]
    return OpGraph("residual", ops, [*edges, ("relu1", "sum", "x1")])


@pytest.fixture
def block() -> OpGraph:
    """Attention and an MLP."""
    ops = [
        matmul("qkv", 512, 2304, 768, "bf16"),
        attention("sdpa", 12, 512, 512, 64),
        matmul("up", 512, 3072, 768, "bf16"),
        elementwise("gelu", 512 * 3072, 1, {"mul": 4.0, "add": 3.0, "tanh": 1.0}, "bf16"),
        matmul("down", 512, 768, 3072, "bf16"),
    ]
    return OpGraph("block", ops, [("qkv", "sdpa", "q"), ("sdpa", "up", "a"), ("up", "gelu", "x0"), ("gelu", "down", "a")])


@pytest.fixture
def one() -> Callable[..., OpGraph]:
    """A graph of one matrix product."""

    def make(m: int, n: int, k: int, fmt: str = "int8", weight: str | None = None, count: int = 1) -> OpGraph:
        return OpGraph("one", [matmul("mm", m, n, k, fmt, weight, count)])

    return make
