"""Formulas of pointwise operators: one dimension n; a broadcast operand carries its own number of elements."""

from __future__ import annotations

from typing import Final

from .registry import formula
from .values import Call, Draft, Value, read, write

ADD: Final = {"add": 1.0}
MUL: Final = {"mul": 1.0}
FMA: Final = {"add": 1.0, "mul": 1.0}
CMP: Final = {"cmp": 1.0}

#: Scalar operations per element, and the operators that need them. Transcendentals without a class of their own are
#: counted by what the usual implementation does: erf as one exp and a polynomial of eight terms, sin and cos as one
#: special function and a range reduction, a random number as ten integer operations (Philox).
_TABLE: Final = """
    add: add sub rsub frac
    mul: mul neg negative square conj_physical
    div: div true_divide reciprocal floor_divide
    cmp: abs sign sgn maximum minimum clamp clamp_min clamp_max clip relu relu6 hardtanh threshold fmax fmin
    cmp: hardshrink softshrink where masked_fill eq ne lt le gt ge greater less greater_equal less_equal
    cmp: not_equal isnan isinf isfinite isneginf isposinf nan_to_num isin floor ceil round trunc fix
    cmp: heaviside copysign threshold_backward
    cmp mul: leaky_relu prelu _prelu_kernel
    cmp add mul*2: hardswish
    cmp add mul: hardsigmoid
    exp: exp exp2
    exp add: expm1 sinh cosh
    log: log log2 log10
    log add: log1p
    rsqrt: sqrt rsqrt
    tanh: tanh asin acos angle
    tanh mul*4: atan atan2 arctan2
    tanh mul*2: tan sin cos
    tanh*2 mul*2: polar
    exp mul*8 add*8: erf erfc
    log mul*8 add*8: erfinv
    exp add div: sigmoid silu special_expit
    exp log add: log_sigmoid log_sigmoid_forward
    log div add: logit
    exp log tanh mul: mish
    exp log add cmp: softplus
    exp add mul cmp: elu selu celu
    exp add div mul: glu
    log exp mul: pow float_power
    log mul: xlogy
    mul*2 add: addcmul
    div mul add: addcdiv
    add*2 mul: lerp
    cmp add*2: isclose
    cmp*8: bucketize
    cmp*16: searchsorted
    int: logical_and logical_or logical_not logical_xor bitwise_and bitwise_or bitwise_not bitwise_xor
    int: bitwise_left_shift bitwise_right_shift __and__ __or__ __xor__ __lshift__ __rshift__ __iand__ __ior__
    int: __ilshift__ __irshift__
    div add: fmod remainder
    mul*2 add rsqrt: hypot
    -: real cartesian_prod
    log mul*8: digamma
    log*2 mul*8: lgamma
    int*10 cmp: bernoulli
    int*10 cmp mul: native_dropout rrelu dropout
    int mul: feature_dropout
    int*10 mul*2: alpha_dropout
    int*10 mul: uniform rand rand_like
    int*10 log tanh mul*2: normal randn randn_like
    int*10: random randint randint_like
    int*10 log: exponential
    int*20: randperm
    exp mul*16: i0
    mul add cmp*2: quantize_per_tensor
    mul*2 add*2 cmp*2: fake_quantize_per_tensor_affine
"""


def parse_bodies(table: str) -> dict[str, dict[str, float]]:
    """``"exp mul*8: erf erfc"`` as a body for each of the operators named.

    >>> parse_bodies("exp mul*8: erf erfc")["erf"]
    {'exp': 1.0, 'mul': 8.0}
    """
    bodies: dict[str, dict[str, float]] = {}
    for line in table.strip().splitlines():
        classes, _, names = line.partition(":")
        parts = [part.partition("*") for part in classes.split() if part != "-"]
        body = {name: float(times or 1) for name, _, times in parts}
        bodies |= dict.fromkeys(names.split(), body)
    return bodies


BODIES: Final = parse_bodies(_TABLE)

GELU_TANH: Final = {"mul": 5.0, "add": 2.0, "tanh": 1.0}
GELU_ERF: Final = {"mul": 10.0, "add": 9.0, "exp": 1.0}


def pointwise(call: Call, body: dict[str, float], **attributes: object) -> Draft:
    """Every tensor argument is read, the outputs are written, and the body runs once per element of the largest."""
    outputs = [v for v in call.outputs if v.numel] or call.outputs[:1]
    if not outputs and call.mutated:  # an operator that returns nothing and writes an argument
        outputs = [call[call.mutated[0]]]
    sizes = [v.numel for v in (*outputs, *call.values)]
    n = outputs[0].numel if outputs else max(sizes, default=0)
    integral = bool(outputs) and not outputs[0].is_float and not any(v.is_float for v in call.values)
    if integral and body:
        body = {"int": sum(body.values())}
    ports = [read(f"x{i}", v, "n", None if v.stored == n else v.stored) for i, v in enumerate(_once(call))]
    ports += [
        write(v, "n", "out" if i == 0 else f"out{i}", None if v.numel == n else v.stored) for i, v in enumerate(outputs)
    ]
    return Draft("elementwise", {"n": n}, ports, dict(body), dict(attributes))


def _once(call: Call) -> list[Value]:
    """Tensor arguments, a tensor that is passed twice counted once."""
    seen: list[Value] = []
    for value in call.values:
        if value not in seen:
            seen.append(value)
    return seen


def _register() -> None:
    for name, body in BODIES.items():
        for spelling in (f"aten.{name}", f"aten.{name}_"):
            if name.startswith("__") and spelling.endswith("___"):
                continue

            def run(call: Call, body: dict[str, float] = body) -> Draft | None:
                return pointwise(call, body)

            run.__name__ = name
            if name not in ("pow", "dropout", "feature_dropout", "real"):
                formula(spelling)(run)


_register()


@formula("aten.pow", "aten.pow_")
def power(call: Call) -> Draft:
    """Small whole exponents are multiplications, one half a square root."""
    exponent = call.get("exponent")
    known = {
        2: MUL,
        3: {"mul": 2.0},
        4: {"mul": 2.0},
        0.5: {"rsqrt": 1.0},
        -0.5: {"rsqrt": 1.0},
        1: {},
        -1: {"div": 1.0},
        -2: {"div": 1.0, "mul": 1.0},
    }
    body = known.get(exponent) if isinstance(exponent, (int, float)) else None
    return pointwise(call, BODIES["pow"] if body is None else body)


@formula("aten.gelu", "aten.gelu_")
def gelu(call: Call) -> Draft:
    """The tanh approximation or the exact one."""
    return pointwise(call, GELU_TANH if call.get("approximate") == "tanh" else GELU_ERF)


@formula("""
    aten.dropout aten.dropout_ aten.feature_dropout aten.feature_dropout_
""")
def dropout(call: Call) -> Draft | None:
    """Nothing outside training."""
    if not call.get("train") or call.get("p") == 0:
        return None
    return pointwise(call, BODIES["dropout"])


@formula("""
    aten._foreach_add_ aten._foreach_mul_ aten._foreach_lerp_ aten._foreach_addcdiv_ aten._foreach_addcmul_
    aten._foreach_sqrt aten._foreach_div_ aten._fused_adamw_ aten._fused_adam_ aten._fused_sgd_
""")
def foreach(call: Call) -> Draft:
    """Multi-tensor updates of optimizers: one pass over all elements."""
    values = call.values
    n = sum(v.numel for v in values)
    ports = [read(f"x{i}", v, "n", v.stored) for i, v in enumerate(values)]
    return Draft("elementwise", {"n": n}, ports, dict(FMA))
