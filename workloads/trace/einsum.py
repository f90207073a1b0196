"""Formula of einsum: contracted from left to right, each pair a product, as torch does without opt_einsum."""

from __future__ import annotations

import math

from .matmul import product
from .registry import formula
from .values import Call, Draft, Value, read, write

#: Labels that stand for the axes of an ellipsis, last axis first.
_DOTS = "".join(chr(0x3B1 + i) for i in range(16))


def labels_of(equation: str, values: list[Value]) -> tuple[list[str], str, dict[str, int]]:
    """One label per axis for each term and for the result, and the extent of each label."""
    left, arrow, right = equation.replace(" ", "").partition("->")
    terms, sizes, dots = [], dict[str, int](), ""
    for term, value in zip(left.split(","), values, strict=True):
        head, ellipsis, tail = term.partition("...")
        filled = _DOTS[: len(value.shape) - len(head) - len(tail)][::-1] if ellipsis else ""
        dots = max(dots, filled, key=len)
        terms.append(head + filled + tail)
        for label, extent in zip(terms[-1], value.shape, strict=True):
            sizes[label] = max(sizes.get(label, 1), extent)
    if not arrow:
        once = sorted(c for c in sizes if c not in dots and sum(t.count(c) for t in terms) == 1)
        return terms, dots + "".join(once), sizes
    return terms, right.replace("...", dots), sizes


@formula("aten.einsum")
def einsum(call: Call) -> list[Draft]:
    """Labels of a pair that are kept from both are batch, from one m or n; those of both that go are k."""
    values: list[Value] = list(call["tensors"])
    terms, right, sizes = labels_of(call["equation"], values)
    if len(values) == 1:
        return [_single(call, values[0], right, sizes)]
    drafts: list[Draft] = []
    a, names = values[0], terms[0]
    for i, (w, term) in enumerate(zip(values[1:], terms[1:], strict=True), 1):
        kept = set(right) | set("".join(terms[i + 1 :]))
        both, summed = set(names) & set(term), (set(names) & set(term)) - kept
        result = "".join(dict.fromkeys(c for c in names + term if c in kept))
        out = call.out
        if i < len(values) - 1:
            shape = tuple(sizes[c] for c in result)
            out = Value(shape, (1,) * len(shape), call.out.number_format, -(id(call) + i))

        def extent(labels: set[str]) -> int:
            return math.prod(sizes[c] for c in labels)

        if summed:
            m, n = extent((set(names) - set(term)) & kept), extent((set(term) - set(names)) & kept)
            draft = product(extent(both & kept), m, n, extent(summed), a, w, out)
        else:
            size = out.numel
            draft = Draft("elementwise", {"n": size}, [read("x0", a, "n", a.stored), read("x1", w, "n", w.stored)])
            draft.ports.append(write(out, "n"))
            draft.body["mul"] = 1.0
        draft.attributes["equation"] = f"{names},{term}->{result}"
        drafts.append(draft)
        a, names = out, result
    return drafts


def _single(call: Call, value: Value, right: str, sizes: dict[str, int]) -> Draft:
    """A sum over axes, or a copy."""
    rows = math.prod(sizes[c] for c in right)
    cols = math.prod(sizes[c] for c in sizes if c not in right)
    if cols == 1:
        return Draft("copy", {"n": rows}, [read("x0", value, "n", value.stored), write(call.out, "n")])
    ports = [read("x0", value, "r c", value.stored), write(call.out, "r")]
    return Draft("reduce", {"r": rows, "c": cols}, ports, {"add": 1.0})
