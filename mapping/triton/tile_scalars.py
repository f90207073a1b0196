"""Integers of TTGIR: as formulas, and as values for given arguments and program ids."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_SYMBOLS = {"addi": "+", "subi": "-", "muli": "*", "divsi": "//", "divui": "//", "remsi": "%", "remui": "%", "andi": "&",
            "ori": "|", "xori": "^", "shli": "<<", "shrsi": ">>", "shrui": ">>"}
_COMPARISONS = {"slt": "<", "ult": "<", "sle": "<=", "ule": "<=", "sgt": ">", "ugt": ">", "sge": ">=", "uge": ">=", "eq": "==",
                "ne": "!="}


def render(scalars: Mapping[str, tuple[str, ...]], name: str, depth: int = 0) -> str:
    """An integer as a formula of arguments and program ids."""
    entry = scalars.get(name)
    if entry is None or depth > 40:
        return name
    kind, *operands = entry
    if kind in ("argument", "constant"):
        return operands[0]
    if kind == "loop":
        return f"<{name}>"
    if kind in ("program_id", "programs"):
        return f"{kind}({operands[0]})"
    parts = [render(scalars, op, depth + 1) for op in operands[-2:] if op]
    if kind in _SYMBOLS:
        return f"({parts[0]} {_SYMBOLS[kind]} {parts[1]})"
    if kind == "cmpi":
        return f"({parts[0]} {_COMPARISONS.get(operands[0], '?')} {parts[1]})"
    if kind in ("extsi", "extui", "trunci", "same"):
        return parts[-1]
    names = [render(scalars, op, depth + 1) for op in operands]
    return f"{kind.rstrip('siu')}({', '.join(names)})"


def _quotient(a: int, b: int) -> int:
    return abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)


def evaluate_scalar(scalars: Mapping[str, tuple[str, ...]], name: str, arguments: Mapping[str, Any],
              program_id: tuple[int | None, int | None, int | None],
              grid: tuple[int, int, int], seen: dict[str, int | None]) -> int | None:
    """An integer's value, or None; `seen` holds the values of loop variables and takes those found. Of the program id None is not known."""
    if name in seen:
        return seen[name]
    seen[name] = None
    entry = scalars.get(name)
    if entry is None:
        return None
    kind, *operands = entry
    result: int | None = None
    if kind == "constant":
        result = int(operands[0])
    elif kind == "argument":
        value = arguments.get(operands[0])
        result = int(value) if isinstance(value, bool | int) else None
    elif kind in ("program_id", "programs"):
        result = (program_id if kind == "program_id" else grid)["xyz".index(operands[0])]
    elif kind != "loop":
        values = [evaluate_scalar(scalars, op, arguments, program_id, grid, seen) for op in (operands[1:] if kind == "cmpi" else operands)]
        if kind == "select" and values[0] is not None:
            result = values[1] if values[0] else values[2]
        elif None not in values:
            result = _apply(kind, operands[0], [v for v in values if v is not None])
    seen[name] = result
    return result


def _apply(kind: str, predicate: str, v: list[int]) -> int | None:
    if kind == "cmpi":
        a, b = v if predicate[0] != "u" else [x & (2**64 - 1) for x in v]
        return int({"<": a < b, "<=": a <= b, ">": a > b, ">=": a >= b, "==": a == b, "!=": a != b}[_COMPARISONS[predicate]])
    if kind in ("divsi", "divui", "remsi", "remui"):
        if v[1] == 0:
            return None
        quotient = _quotient(v[0], v[1])
        return quotient if kind.startswith("div") else v[0] - quotient * v[1]
    table = {"addi": lambda: v[0] + v[1], "subi": lambda: v[0] - v[1], "muli": lambda: v[0] * v[1], "andi": lambda: v[0] & v[1],
             "ori": lambda: v[0] | v[1], "xori": lambda: v[0] ^ v[1], "minsi": lambda: min(v), "maxsi": lambda: max(v),
             "minui": lambda: min(v), "maxui": lambda: max(v), "extsi": lambda: v[0], "extui": lambda: v[0],
             "trunci": lambda: v[0], "same": lambda: v[0], "shli": lambda: v[0] << v[1], "shrsi": lambda: v[0] >> v[1],
             "shrui": lambda: v[0] >> v[1], "index_cast": lambda: v[0], "ceildivsi": lambda: -(-v[0] // v[1])}
    return table[kind]() if kind in table else None
