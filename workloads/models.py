"""`trace_model`: a model by name, by configuration or by a user's function, in one phase, as an `OpGraph`."""

from __future__ import annotations

import gc
import inspect
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Literal

from ..errors import MissingPackageError, TraceError, UnknownNameError
from . import kept
from .graph import OpGraph

Phase = Literal["prefill", "decode", "train"]
PHASES: Final = ("prefill", "decode", "train")
CONFIGS: Final = Path(__file__).parent / "configs"


def builtin() -> list[str]:
    """Names of the built-in configurations."""
    return sorted(path.stem for path in CONFIGS.glob("*.json"))


def load_config(model: str | Path) -> tuple[str, dict[str, Any]]:
    """Name and content of a configuration: built-in name, folder with a config.json, or file.

    Raises
    ------
    TraceError
        Not a JSON object, or cannot be read.
    UnknownNameError
        Neither a built-in name nor a path that exists.
    """
    path = Path(model)
    shipped = _shipped(str(model))
    if shipped is not None and not path.exists():
        path, name = shipped, shipped.stem
    elif path.is_dir():
        path, name = path / "config.json", path.resolve().name
        if not path.is_file():
            raise TraceError(f"{path.parent}: a folder without config.json")
    elif path.is_file():
        name = path.resolve().parent.name if path.name == "config.json" else path.stem
    else:
        raise UnknownNameError(
            "model", str(model), builtin(), where="neither a built-in name, nor a file or folder with a config.json"
        )
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise TraceError(f"{path}: cannot be read: {error.strerror or error}") from None
    except ValueError as error:
        raise TraceError(f"{path}: not JSON: {error}") from None
    if not isinstance(data, dict):
        raise TraceError(f"{path}: a config.json holds a JSON object, not {type(data).__name__}")
    return name, data


def _shipped(model: str) -> Path | None:
    """The built-in configuration of a name, in which case and separators do not matter: ``ResNet50``, ``mobilenet_v2``."""
    plain = {name.replace("-", ""): name for name in builtin()}
    found = plain.get(model.lower().replace("-", "").replace("_", ""))
    return CONFIGS / f"{found}.json" if found else None


def trace_model(
    model: str | Path,
    *,
    phase: Phase = "prefill",
    batch: int = 1,
    seq: int | None = None,
    context: int | None = None,
    dtype: str = "bfloat16",
    strict: bool = False,
    folded: bool = True,
    attention: str = "sdpa",
    scans: str = "torch",
    front_end: str = "auto",
) -> OpGraph:
    """Trace a model in one phase; a configuration that was traced before is read from the user's cache (`PRESILICON_CACHE`).

    Parameters
    ----------
    model
        A built-in name (`builtin`), a folder or file with a Hugging Face ``config.json`` (no weights, no network), or
        ``file.py:function`` with a function that returns ``(nn.Module, example_inputs)``.
    phase
        ``"prefill"``: one forward pass over `batch` sequences of `seq` tokens, logits of the last token only, as
        serving engines do. ``"decode"``: one new token for each of `batch` sequences, on top of a cache that holds
        `context` tokens. ``"train"``: forward, backward and one fused AdamW update over `batch` sequences of `seq`
        tokens.
    seq
        Tokens a sequence takes in; None: 2,048, or as many as the configuration has positions for where those are fewer.
    context
        Tokens in the cache of a decode step; None: 4,096, or one fewer than the configuration has positions for where
        those are fewer. For an encoder-decoder model these are the decoder's, and
        `seq` is the encoder's length.
    dtype
        Of weights and activations: ``"bfloat16"``, ``"float16"``, ``"float32"``.
    strict, folded, front_end
        See `presilicon.workloads.trace`.
    attention
        ``"sdpa"``: what transformers runs by default. ``"flash"``: one fused kernel that knows windows, soft caps and
        sinks, as serving engines have. ``"eager"``: matmul, softmax, matmul. A model that does not support the choice
        runs what it has, and ``graph.meta["attention"]`` says what that was.

    scans
        State-space and linear-attention layers: ``"torch"``, transformers' own code in plain torch, or ``"fused"``, the
        kernels of mamba_ssm, causal_conv1d and flash-linear-attention. Loops over single tokens are always fused.

    Returns
    -------
    OpGraph
        ``tokens`` is batch * seq (prefill, train) or batch (decode).

    Raises
    ------
    TraceError
        The configuration is not usable, or the model cannot be traced.
    UnknownNameError
        No such model, with the nearest names.
    UncoveredOpError
        With `strict`, when any operator has no formula.
    """
    if phase not in PHASES:
        raise UnknownNameError("phase", str(phase), PHASES)
    for label, number in (("batch", batch), ("seq", seq), ("context", context)):
        if number is not None and (not isinstance(number, int) or number < 1):
            raise TraceError(f"{label} must be a positive whole number, not {number!r}")
    text = str(model)
    if ".py:" in text or text.endswith(".py"):
        from .pyfile import trace_function

        return trace_function(text, phase=phase, strict=strict, folded=folded, front_end=front_end)
    name, data = load_config(model)
    _need_torch(name)
    options: dict[str, Any] = {
        "phase": phase,
        "batch": batch,
        "seq": seq,
        "context": context,
        "dtype": dtype,
        "strict": strict,
        "folded": folded,
        "attention": attention,
        "scans": scans,
        "front_end": front_end,
    }
    path = kept.path_of(name, data, options)
    graph = kept.find(path)
    if graph is None:
        with _without_collection():
            from .trace.pretrained import trace_config

            graph = trace_config(name, data, **options)
        kept.keep(path, graph)
    return graph


@contextmanager
def _without_collection() -> Iterator[None]:
    """Leave the collector of cycles off: imports of torch and exports make millions of objects that stay, which it would walk in vain."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def kept_path(model: str | Path, **options: Any) -> Path | None:
    """Where `trace_model` keeps the graph of a configuration under these options, traced or not; None: nowhere.

    Raises
    ------
    TraceError, UnknownNameError
        No such model, or its configuration cannot be read.
    """
    if ".py:" in str(model) or str(model).endswith(".py"):
        return None
    parameters = inspect.signature(trace_model).parameters.values()
    usual = {p.name: p.default for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY}
    return kept.path_of(*load_config(model), usual | options)


def _need_torch(name: str) -> None:
    from importlib.util import find_spec

    for package in ("torch", "transformers"):
        if find_spec(package) is None:
            raise MissingPackageError(
                f"tracing {name!r} needs {package}: pip install 'presilicon[trace]' (a saved graph needs neither)"
            )
