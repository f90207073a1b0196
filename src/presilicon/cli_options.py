"""Options that several commands share, and how their texts are read."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from enum import StrEnum
from functools import wraps
from typing import Annotated, Any, Final

import typer

from .errors import PresiliconError


class Phase(StrEnum):
    """What one step does."""

    PREFILL = "prefill"
    DECODE = "decode"
    TRAIN = "train"


class AttentionName(StrEnum):
    """Which attention code of the model is traced."""

    SDPA = "sdpa"
    EAGER = "eager"
    FLASH = "flash"


class ScanName(StrEnum):
    """Which code of state-space layers is traced."""

    TORCH = "torch"
    FUSED = "fused"


class RuntimeName(StrEnum):
    """How kernels are launched."""

    EAGER = "eager"
    CUDAGRAPH = "cudagraph"
    COMPILED = "compiled"


class FidelityName(StrEnum):
    """How closely kernels are modelled."""

    ANALYTIC = "analytic"
    TILE = "tile"


#: Closed sets that options take, as their help lists them; the modules that own them are too heavy to import for it.
SCHEMES: Final = ("w4a16", "w4a16_zero", "w8a16", "w8a8", "int8", "fp8", "fp8_block", "mxfp8", "mxfp4", "nvfp4", "w4a16_mxfp4")
KINDS: Final = "gemm, attention-prefill, attention-decode, encoder-attention, mla-prefill, mla-decode, moe, scan, collective"

Model = Annotated[
    str,
    typer.Argument(
        metavar="MODEL", help=("Built-in name, folder or file with a Hugging Face config.json, FILE.py:FUNCTION, or a graph file.")
    ),
]
PhaseOption = Annotated[Phase, typer.Option(help="What one step does.")]
Batch = Annotated[int, typer.Option(help="Sequences in the batch.", min=1)]
Seq = Annotated[
    int | None, typer.Option(help="Tokens a sequence takes in (prefill, train); else 2048, or the positions of the model if fewer.", min=1)
]
Context = Annotated[
    int | None, typer.Option(help="Tokens already in the KV cache (decode); else 4096, or the positions of the model if fewer.", min=1)
]
Dtype = Annotated[str, typer.Option(help="Number format of weights and activations: bfloat16 or bf16, float16 or fp16, float32 or fp32.")]
Attention = Annotated[AttentionName, typer.Option(help="sdpa or eager: as PyTorch runs it; flash: one kernel, as serving engines run it.")]
Scans = Annotated[ScanName, typer.Option(help="State-space layers: torch code as written, or fused kernels as serving engines run them.")]
Quant = Annotated[str | None, typer.Option(help=f"Formats of the linear layers: {', '.join(SCHEMES)}.")]
Strict = Annotated[bool, typer.Option("--strict", help="Fail if an op has no formula.")]
SystemOption = Annotated[str, typer.Option("--system", help="Name (see `presilicon systems`) or path of a device file.")]
RuntimeOption = Annotated[
    RuntimeName, typer.Option(help=("eager: the CPU launches each kernel; cudagraph: captured; compiled: captured and fused."))
]
FidelityOption = Annotated[FidelityName, typer.Option(help="analytic: closed forms; tile: tiles played out in time.")]
SparsityOption = Annotated[
    str | None,
    typer.Option(
        "--sparsity",
        help="Zeros in the weights of the linear layers: 2:4 or another N:M, unstructured:0.6 (60 % are zero), tiled_csl:0.8.",
    ),
]
Tp = Annotated[int, typer.Option("--tp", help="Tensor-parallel devices: heads, MLP features and vocabulary are split.", min=1)]
Pp = Annotated[int, typer.Option("--pp", help="Pipeline stages of equally many blocks.", min=1)]
Dp = Annotated[int, typer.Option("--dp", help="Replicas, each with its share of the batch.", min=1)]
Ep = Annotated[int, typer.Option("--ep", help="Devices that the experts are dealt over, out of tp x dp x cp.", min=1)]
Cp = Annotated[int, typer.Option("--cp", help="Context-parallel devices: the sequence, or in decode the cache, is split.", min=1)]
Microbatches = Annotated[int | None, typer.Option(help="Parts of the batch in the pipeline; default: as many as stages.", min=1)]
SequenceParallel = Annotated[bool, typer.Option("--sequence-parallel", help="Norms on 1/tp of the tokens: reduce-scatter and all-gather.")]
RequestsOption = Annotated[
    str | None,
    typer.Option(
        "--requests",
        help="Decode requests of different lengths: a trace (CSV, Parquet), sharegpt, alpaca ..., or lognormal:PROMPT:OUTPUT. "
        "Without --batch, memory decides how many.",
    ),
]


def what_runs(
    phase: PhaseOption = Phase.PREFILL,
    batch: Batch = 1,
    seq: Seq = None,
    context: Context = None,
    dtype: Dtype = "bfloat16",
    attention: Attention = AttentionName.SDPA,
    scans: Scans = ScanName.TORCH,
    quant: Quant = None,
    sparsity: SparsityOption = None,
) -> None:
    """Options that say what one step is and in which formats."""


def how_split(
    tp: Tp = 1,
    pp: Pp = 1,
    dp: Dp = 1,
    ep: Ep = 1,
    cp: Cp = 1,
    microbatches: Microbatches = None,
    sequence_parallel: SequenceParallel = False,
) -> None:
    """Options that say how a model is split over devices."""


def takes(*options: Callable[..., None]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command the options of `what_runs` or `how_split`, found in `call.params`; help lists them behind its required ones."""

    def given(command: Callable[..., None]) -> Callable[..., None]:
        own = inspect.signature(command, eval_str=True).parameters
        shared = {name: p for each in options for name, p in inspect.signature(each, eval_str=True).parameters.items()}
        required = {name: p for name, p in own.items() if p.default is p.empty}
        parameters = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in (required | shared | own).values()]

        @wraps(command)
        def run(**values: Any) -> None:
            command(**{name: value for name, value in values.items() if name in own})

        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {p.name: p.annotation for p in parameters}
        return run

    return given


def assignments(items: list[str] | None) -> dict[str, Any]:
    """Paths and values of ``--set PATH=VALUE``."""
    pairs = (pair(item, "--set", "PATH=VALUE, such as gpu.sm.count=144") for item in items or ())
    return {path: _number_or_text(value) for path, value in pairs}


def pair(item: str, option: str, form: str) -> tuple[str, str]:
    """Both sides of ``NAME=VALUE``; an error that shows the `form` without the sign."""
    name, sign, value = item.partition("=")
    if not sign:
        raise PresiliconError(f"{option} {item!r}: expected {form}")
    return name.strip(), value.strip()


def _number_or_text(text: str) -> Any:
    try:
        return float(text)
    except ValueError:
        return {"true": True, "false": False}.get(text.lower(), text)
