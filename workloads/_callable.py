"""Modules that can be called: ``presilicon.workloads.trace`` is both the folder of the front end and the function that
it is for.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any


def callable_module(name: str, find: Callable[[], Callable[..., Any]]) -> None:
    """Let the loaded module `name` be called like the function that `find` gives."""

    class CallableModule(ModuleType):
        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            return find()(*args, **kwargs)

    sys.modules[name].__class__ = CallableModule
