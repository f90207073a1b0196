"""What runs: the operator graph, number formats, named models, and the front end that traces PyTorch modules.

Names are loaded when they are first used; a saved graph is read without torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .formats import NumberFormat as NumberFormat
    from .graph import Memory as Memory
    from .graph import OpGraph as OpGraph
    from .graph import Uncovered as Uncovered
    from .models import builtin as builtin
    from .models import trace_model as trace_model
    from .op import Op as Op
    from .op import Operand as Operand
    from .op import tensor as tensor
    from .parallel import parallelise as parallelise
    from .quantise import quantise as quantise
    from .sparsify import sparsify as sparsify
    from .trace.api import trace as trace
    from .trace.registry import formula as formula

_EXPORTS = {
    "Op": "op",
    "Operand": "op",
    "tensor": "op",
    "OpGraph": "graph",
    "Memory": "graph",
    "Uncovered": "graph",
    "NumberFormat": "formats",
    "trace_model": "models",
    "builtin": "models",
    "parallelise": "parallel",
    "formula": "trace.registry",
}

__all__ = [
    "Memory",
    "NumberFormat",
    "Op",
    "OpGraph",
    "Operand",
    "Uncovered",
    "builtin",
    "formula",
    "parallelise",
    "quantise",
    "sparsify",
    "tensor",
    "trace",
    "trace_model",
]


def __getattr__(name: str) -> Any:
    if name in ("trace", "quantise", "sparsify"):  # modules that can be called
        return import_module(f".{name}", __name__)
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{_EXPORTS[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
