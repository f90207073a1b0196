"""Models from a user's Python file: ``file.py:function`` returns ``(nn.Module, example_inputs)``."""

from __future__ import annotations

import sys
import traceback
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from ..errors import MissingPackageError, TraceError, UnknownNameError

if TYPE_CHECKING:
    from .graph import OpGraph


def load_function(text: str) -> tuple[str, Any]:
    """Run the named file and return its path and the named function.

    Raises
    ------
    TraceError
        No function is named, the file does not exist, or it raises while it is run.
    UnknownNameError
        The file has no such function; names the nearest.
    """
    file, colon, function = text.rpartition(":")
    if not colon or not file.endswith(".py"):
        raise TraceError(f"{text}: name a function in the file, as file.py:function")
    path = Path(file)
    if not path.is_file():
        raise TraceError(f"{path}: no such file")
    if not function.isidentifier():
        raise TraceError(f"{text}: {function!r} is not the name of a function")
    module = ModuleType(f"presilicon_user_{path.stem}")
    module.__file__ = str(path)
    sys.modules[module.__name__] = module  # dataclasses and pickling of user classes look their module up
    sys.path.insert(0, str(path.resolve().parent))
    try:
        exec(compile(path.read_text(encoding="utf-8"), str(path), "exec"), module.__dict__)
    except SyntaxError as error:
        raise TraceError(f"{path}:{error.lineno}: {type(error).__name__}: {error.msg}") from error
    except (Exception, SystemExit) as error:
        raise TraceError(f"{path} raised while it was run: {user_line(error, path)}") from error
    finally:
        sys.path.remove(str(path.resolve().parent))
    found = getattr(module, function, None)
    if found is None:
        raise UnknownNameError(
            "function",
            function,
            [n for n, v in vars(module).items() if callable(v) and not n.startswith("_")],
            where=str(path),
        )
    if not callable(found):
        raise TraceError(f"{text}: {function!r} is a {type(found).__name__}, not a function")
    return str(path), found


def trace_function(text: str, *, phase: str, strict: bool, folded: bool, front_end: str) -> OpGraph:
    """Call a user's function and trace the module that it returns with the inputs that it returns.

    ``example_inputs`` is a tensor, a tuple or list of positional arguments, or a dict of keyword arguments.

    Raises
    ------
    TraceError
        The function raises (its exception, file and line are in the message), or returns something else.
    """
    path, function = load_function(text)
    _need_torch(text)
    import torch
    from torch import nn

    from .trace.api import trace

    if phase == "decode":
        raise TraceError(
            f"{text}: a function gives one call of a module; phase 'decode' needs a configuration with a cache "
            "(return the decode step's inputs and use phase 'prefill')"
        )
    try:
        result = function()
    except (Exception, SystemExit) as error:
        raise TraceError(f"{text} raised: {user_line(error, Path(path))}") from error
    if not isinstance(result, tuple) or len(result) != 2 or not isinstance(result[0], nn.Module):
        shown = (
            f"({', '.join(type(r).__name__ for r in result)})" if isinstance(result, tuple) else type(result).__name__
        )
        raise TraceError(f"{text} must return (nn.Module, example_inputs), but returned {shown}")
    module, example = result
    if isinstance(example, torch.Tensor):
        args: tuple[Any, ...] = (example,)
        kwargs: dict[str, Any] = {}
    elif isinstance(example, dict):
        if not all(isinstance(key, str) for key in example):
            raise TraceError(f"{text}: example_inputs as a dict needs argument names as keys")
        args, kwargs = (), dict(example)
    elif isinstance(example, (tuple, list)):
        args, kwargs = tuple(example), {}
    else:
        raise TraceError(
            f"{text}: example_inputs must be a tensor, a tuple, a list or a dict, not {type(example).__name__}"
        )
    reserved = {"strict", "folded", "name", "front_end", "phase"} & set(kwargs)
    if reserved:
        raise TraceError(f"{text}: example_inputs uses the reserved name {sorted(reserved)[0]!r}; give it by position")
    options: dict[str, Any] = {"strict": strict, "folded": folded, "front_end": front_end, "phase": phase}
    try:
        return trace(module, *args, name=type(module).__name__, **options, **kwargs)
    except TraceError as error:
        raise type(error)(f"{text}: {error}") from error


def user_line(error: BaseException, path: Path) -> str:
    """Exception, message and the last line of the user's file on the stack."""
    line = next(
        (f.lineno for f in reversed(traceback.extract_tb(error.__traceback__)) if Path(f.filename) == path), None
    )
    message = str(error).strip().splitlines()
    where = f" ({path}:{line})" if line else ""
    return f"{type(error).__name__}: {message[0] if message else ''}{where}"


def _need_torch(text: str) -> None:
    from importlib.util import find_spec

    if find_spec("torch") is None:
        raise MissingPackageError(f"tracing {text!r} needs torch: pip install 'presilicon[trace]' (a saved graph does not)")
