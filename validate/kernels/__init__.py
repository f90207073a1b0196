"""Triton kernels to measure and to predict, each with a torch reference, its work, a config space and shapes.

Needs torch and triton, and nothing else of presilicon: the folder also works when it is copied to a machine where presilicon is not
installed (`validate/measure.py` does that).

Examples
--------
>>> from presilicon.validate.kernels import suite_named  # doctest: +SKIP
>>> gemm = suite_named("gemm")  # doctest: +SKIP
>>> shape = gemm.shapes[0]  # doctest: +SKIP
>>> kernel, grid, args, meta = gemm.predict(shape, gemm.configs(shape)[0])[0]  # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from .suite import Suite

#: Groups that ``--suite`` takes as one name, in the order of measurement, and the modules whose tuple SUITES they are.
_MODULES: Final[Mapping[str, str]] = {
    "gemms": "gemm_suites",
    "attentions": "attention_suites",
    "moes": "moe_suites",
    "memory": "row_suites",
    "tensors": "tensor_suites",
    "micro": "micro_suites",
    "torch": "library_suites",
}


def all_suites() -> dict[str, Suite]:
    """Every suite by name (imports torch and triton)."""
    from importlib import import_module

    found: dict[str, Suite] = {}
    for module in _MODULES.values():
        for suite in import_module(f".{module}", __name__).SUITES:
            if suite.name in found:
                raise ValueError(f"two suites named {suite.name!r}")
            found[suite.name] = suite
    return found


def groups() -> dict[str, list[str]]:
    """Names of suites by group."""
    from importlib import import_module

    return {group: [suite.name for suite in import_module(f".{module}", __name__).SUITES] for group, module in _MODULES.items()}


def suite_named(name: str) -> Suite:
    """One suite.

    Raises
    ------
    KeyError
        No suite has the name; the message lists those that are alike.
    """
    import difflib

    suites = all_suites()
    if name not in suites:
        near = difflib.get_close_matches(name, suites, n=3, cutoff=0.5) or sorted(suites)
        raise KeyError(f"no suite {name!r}; did you mean {', '.join(near)}?")
    return suites[name]
