"""Requests to a language model with their own lengths, and the batches that they make.

A trace file or a distribution gives `Requests`. What one step runs is a `Batch`: decoding requests with the tokens that
each has in its cache, or prompts that enter together.
"""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np

from ..errors import TableError, UnknownNameError, WorkloadError, shown

#: Mean prompt and output tokens of published traces. ShareGPT and Alpaca: NeuPIMs (ASPLOS 2024). The others: Lamina
#: (arXiv 2405.01814 v2).
NAMED: Final[Mapping[str, tuple[float, float]]] = {
    "sharegpt": (80.0, 296.0),
    "alpaca": (12.0, 56.0),
    "azure-conv": (1154.7, 211.1),
    "azure-code": (2047.8, 27.9),
    "kimi-conv": (12035.1, 342.6),
    "kimi-ta": (8560.0, 182.1),
}
DISTRIBUTIONS: Final = ("fixed", "uniform", "lognormal")
#: Standard deviation of the logarithm of a log-normal length; an assumption (its 95th percentile is 3.1 times its mean).
SIGMA: Final = 1.0
#: Names under which traces keep their columns, after lower-casing and dropping everything but letters and digits.
ALIASES: Final[Mapping[str, tuple[str, ...]]] = {
    "arrival_s": ("arrivals", "arrival", "arrivaltime", "arrivaltimes", "time", "times", "timestamp", "arrivedat"),
    "prompt_tokens": (
        "prompttokens", "numprefilltokens", "inputtokens", "inputlen", "inputlength", "contexttokens", "promptlen",
        "promptlength", "seqlen", "prompt", "input",
    ),
    "output_tokens": (
        "outputtokens", "numdecodetokens", "generatedtokens", "outputlen", "outputlength", "completiontokens",
        "generationtokens", "outlen", "output", "generated",
    ),
}  # fmt: skip
#: Most tokens that a length may have; larger values are a mistake in the file.
_LONGEST: Final = 10**9


@dataclass(frozen=True)
class Requests:
    """Requests in order of arrival.

    Attributes
    ----------
    arrival_s
        Seconds, ascending, shape ``(requests,)``.
    prompt_tokens, output_tokens
        Tokens that each brings and makes, at least 1, shape ``(requests,)``.

    Raises
    ------
    WorkloadError
        No request, arrays of different lengths, an arrival that is negative, not finite or before the one above it, or
        a length that is not a whole number from 1.

    Examples
    --------
    >>> r = Requests([0.0, 0.5], [100, 20], [10, 300])
    >>> len(r), int(r.total_tokens.max())
    (2, 320)
    """

    arrival_s: np.ndarray
    prompt_tokens: np.ndarray
    output_tokens: np.ndarray

    def __post_init__(self) -> None:
        arrival = _numbers(self.arrival_s, "arrival_s")
        object.__setattr__(self, "arrival_s", _frozen(arrival))
        for name in ("prompt_tokens", "output_tokens"):
            object.__setattr__(self, name, _frozen(_lengths(getattr(self, name), name)))
        if not len(arrival):
            raise WorkloadError("requests: there are none")
        if not len(arrival) == len(self.prompt_tokens) == len(self.output_tokens):
            found = f"{len(arrival)}, {len(self.prompt_tokens)} and {len(self.output_tokens)}"
            raise WorkloadError(f"requests: arrival_s, prompt_tokens and output_tokens have {found} values")
        if arrival.min() < 0:
            at = int(np.argmax(arrival < 0))
            raise WorkloadError(f"requests: arrival_s[{at}] is {arrival[at]:g}; arrivals are 0 or later")
        back = np.flatnonzero(np.diff(arrival) < 0)
        if len(back):
            at = int(back[0]) + 1
            raise WorkloadError(
                f"requests: arrival_s[{at}] = {arrival[at]:g} is before arrival_s[{at - 1}] = {arrival[at - 1]:g}; "
                "sort the trace by arrival"
            )

    def __len__(self) -> int:
        return len(self.arrival_s)

    @property
    def total_tokens(self) -> np.ndarray:
        """Tokens of each when it ends: prompt and output."""
        return self.prompt_tokens + self.output_tokens

    def describe(self) -> str:
        """One line: how many, mean lengths, rate."""
        span = float(self.arrival_s[-1] - self.arrival_s[0])
        rate = f", {(len(self) - 1) / span:.3g} a second" if span > 0 else ""
        mean_in, mean_out = float(self.prompt_tokens.mean()), float(self.output_tokens.mean())
        return f"{len(self)} requests, {mean_in:.1f} prompt and {mean_out:.1f} output tokens on average{rate}"


@dataclass(frozen=True)
class Batch:
    """What one step runs.

    Attributes
    ----------
    contexts
        Decode: tokens that each request has in its cache before the step. Prefill: length of each prompt. Shape
        ``(requests,)``, whole numbers from 1.
    phase
        ``"decode"`` or ``"prefill"``.
    """

    contexts: np.ndarray
    phase: Literal["decode", "prefill"] = "decode"

    def __post_init__(self) -> None:
        object.__setattr__(self, "contexts", _frozen(_lengths(self.contexts, "contexts")))
        if not len(self.contexts):
            raise WorkloadError("batch: it holds no request")
        if self.phase not in ("decode", "prefill"):
            raise UnknownNameError("phase of a batch", str(self.phase), ("decode", "prefill"))

    def __len__(self) -> int:
        return len(self.contexts)

    @property
    def tokens(self) -> int:
        """New tokens of the step: one per decoding request, all of a prompt."""
        return len(self) if self.phase == "decode" else int(self.contexts.sum())


def _numbers(values: Any, name: str) -> np.ndarray:
    try:
        array = np.array(values, dtype=float)
    except (TypeError, ValueError):
        raise WorkloadError(f"requests: {name}: expected numbers, found {shown(values)}") from None
    if array.ndim != 1:
        raise WorkloadError(f"requests: {name}: expected one row of numbers, found shape {array.shape}")
    if not np.all(np.isfinite(array)):
        at = int(np.argmin(np.isfinite(array)))
        raise WorkloadError(f"requests: {name}[{at}] is {array[at]:g}; expected a finite number")
    return array


def _lengths(values: Any, name: str) -> np.ndarray:
    array = _numbers(values, name)
    wrong = (array < 1) | (array > _LONGEST) | (array != np.floor(array))
    if np.any(wrong):
        at = int(np.argmax(wrong))
        raise WorkloadError(f"requests: {name}[{at}] is {array[at]:g}; expected a whole number of tokens from 1 to 10^9")
    return array.astype(np.int64)


def _frozen(array: np.ndarray) -> np.ndarray:
    array.setflags(write=False)
    return array


def load_requests(path: str | os.PathLike[str]) -> Requests:
    """Read a trace: CSV (``.csv``, ``.csv.gz``) or Parquet with columns of arrival, prompt and output tokens.

    The columns are ``arrival_s``, ``prompt_tokens``, ``output_tokens`` or a name of `ALIASES` (``num_prefill_tokens``,
    ``ContextTokens``, ``input_len`` ...). Arrivals are seconds, or dates and times, which count from the first. A file
    without arrivals has all requests at 0.

    Raises
    ------
    TableError
        The file cannot be read, lacks a column, or two of its columns have the same meaning.
    WorkloadError
        A value is out of range; see `Requests`.
    """
    import pandas as pd

    source = Path(path)
    try:
        frame = pd.read_parquet(source) if source.suffix in (".parquet", ".pq") else pd.read_csv(source)
    except OSError as error:
        raise TableError(f"{source}: cannot be read: {error.strerror or error}") from None
    except (ValueError, UnicodeDecodeError) as error:
        raise TableError(f"{source}: not a table of requests: {str(error).splitlines()[0]}") from None
    found: dict[str, Any] = {}
    for column in frame.columns:
        first = re.sub(r"\.\d+$", "", str(column))  # pandas numbers columns of equal names
        name = _meaning(first if first in frame.columns else str(column))
        if name in found:
            raise TableError(f"{source}: columns {str(found[name])!r} and {str(column)!r} both mean {name}")
        if name:
            found[name] = column
    for name in ("prompt_tokens", "output_tokens"):
        if name not in found:
            has = ", ".join(map(str, frame.columns[:12]))
            raise TableError(f"{source}: no column {name}; has {has}; accepted: {name}, {', '.join(ALIASES[name][:4])} ...")
    for name, column in found.items():
        if pd.api.types.is_bool_dtype(frame[column]):
            raise TableError(f"{source}: column {str(column)!r}: expected {name}, found true and false")
    arrival = np.zeros(len(frame)) if "arrival_s" not in found else _seconds(frame[found["arrival_s"]], source)
    try:
        return Requests(arrival, frame[found["prompt_tokens"]].to_numpy(), frame[found["output_tokens"]].to_numpy())
    except WorkloadError as error:
        raise WorkloadError(f"{source}: {error}") from None


def _meaning(column: str) -> str:
    plain = "".join(c for c in column.lower() if c.isalnum())
    for name, aliases in ALIASES.items():
        if plain == name.replace("_", "") or plain in aliases:
            return name
    return ""


def _seconds(column: Any, source: Path) -> np.ndarray:
    import pandas as pd

    if column.empty:
        return np.zeros(0)
    if pd.api.types.is_numeric_dtype(column):
        return column.to_numpy(dtype=float)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # pandas guesses each one where they are not all of one format
            times = pd.to_datetime(column)
    except (ValueError, TypeError, UserWarning):
        raise TableError(f"{source}: arrivals are neither seconds nor dates of one format: {shown(column.iloc[0])}") from None
    return (times - times.iloc[0]).dt.total_seconds().to_numpy(dtype=float)


def draw_requests(
    count: int,
    prompt: float,
    output: float,
    *,
    distribution: str = "lognormal",
    sigma: float = SIGMA,
    rate_per_s: float | None = None,
    seed: int = 0,
) -> Requests:
    """Requests with lengths from a distribution of given means.

    Parameters
    ----------
    count
        Requests.
    prompt, output
        Mean tokens.
    distribution
        ``"fixed"``: every length is the mean. ``"uniform"``: 1 to twice the mean, less 1. ``"lognormal"``: with
        standard deviation `sigma` of the logarithm.
    rate_per_s
        Poisson arrivals of this rate; None: all at 0.

    Raises
    ------
    UnknownNameError
        Unknown distribution.
    WorkloadError
        A count, mean, spread or rate that is not positive.
    """
    if distribution not in DISTRIBUTIONS:
        raise UnknownNameError("distribution of lengths", str(distribution), DISTRIBUTIONS)
    _positive_whole(count, "count")
    for label, value, least in (("prompt", prompt, 1.0), ("output", output, 1.0), ("sigma", sigma, 0.0)):
        if not least <= value < _LONGEST:
            raise WorkloadError(f"requests: {label} must be a number from {least:g}, not {value!r}")
    if rate_per_s is not None and not 0 < rate_per_s < np.inf:
        raise WorkloadError(f"requests: rate_per_s must be above 0, not {rate_per_s!r}")
    rng = np.random.default_rng(seed)

    def lengths(mean: float) -> np.ndarray:
        if distribution == "fixed":
            return np.full(count, max(1, round(mean)))
        if distribution == "uniform":
            return rng.integers(1, max(2, round(2 * mean)), size=count)
        return np.maximum(1, np.rint(rng.lognormal(np.log(mean) - sigma**2 / 2, sigma, count)))

    prompts, outputs = lengths(prompt), lengths(output)
    gaps = rng.exponential(1.0 / rate_per_s, count) if rate_per_s else np.zeros(count)
    return Requests(np.cumsum(gaps), prompts, outputs)


def find_requests(source: str | os.PathLike[str], *, count: int = 2000, seed: int = 0) -> Requests:
    """Requests of a trace file, of a name of `NAMED`, or of a distribution written ``lognormal:PROMPT:OUTPUT``.

    Raises
    ------
    UnknownNameError
        Neither a file, nor a name, nor a distribution.
    TableError, WorkloadError
        As `load_requests` and `draw_requests`.
    """
    text = os.fspath(source)
    if text.lower() in NAMED and not Path(text).exists():
        return draw_requests(count, *NAMED[text.lower()], seed=seed)
    kind, *means = text.split(":")
    if len(means) == 2 and kind in DISTRIBUTIONS:
        try:
            prompt, output = (float(mean) for mean in means)
        except ValueError:
            raise WorkloadError(f"requests {text!r}: expected {kind}:PROMPT:OUTPUT, both mean tokens") from None
        return draw_requests(count, prompt, output, distribution=kind, seed=seed)
    if Path(text).exists() or Path(text).suffix in (".csv", ".gz", ".parquet", ".pq"):
        return load_requests(text)
    known = [*NAMED, *(f"{name}:PROMPT:OUTPUT" for name in DISTRIBUTIONS)]
    raise UnknownNameError("requests", text, known, where="neither a trace file nor a known distribution")


def sample_decode_batch(requests: Requests, batch: int, seed: int = 0) -> Batch:
    """A batch as it stands at a random moment of continuous batching in its steady state.

    A request is met while it decodes in proportion to its decode steps, and is then at any of them with equal
    probability. The first output token comes from the prefill, so a request of ``o`` output tokens decodes ``o - 1``
    times, with ``p``, ``p + 1`` ... ``p + o - 2`` tokens in its cache.

    Raises
    ------
    WorkloadError
        `batch` is not positive, or no request decodes.
    """
    _positive_whole(batch, "batch")
    steps = requests.output_tokens - 1
    if not steps.sum():
        raise WorkloadError("requests: each makes one token, which its prefill gives; none decodes")
    rng = np.random.default_rng(seed)
    who = rng.choice(len(requests), size=batch, p=steps / steps.sum())
    done = np.floor(rng.random(batch) * steps[who]).astype(np.int64)
    return Batch(requests.prompt_tokens[who] + done)


def decode_batches(
    requests: Requests,
    capacity_bytes: float,
    bytes_per_token: float,
    *,
    max_batch: int = 1024,
    samples: int = 10,
    reserve: Literal["final", "current"] = "final",
    seed: int = 0,
    kept: Callable[[np.ndarray], np.ndarray] | None = None,
) -> list[Batch]:
    """Steady-state decode batches as large as the memory for caches allows.

    Parameters
    ----------
    capacity_bytes
        Memory that is left for caches.
    bytes_per_token
        Cache of one token over all layers.
    max_batch
        Most requests that the engine schedules at once.
    samples
        Batches to draw.
    reserve
        ``"final"``: a request holds the cache of its last step from the start, so none is ever thrown out.
        ``"current"``: it holds what it has now (paged caches with pre-emption).
    kept
        From tokens of requests to tokens whose bytes their caches take, fewer where sliding windows forget; None: all.

    Raises
    ------
    WorkloadError
        A request is longer than the memory, or an argument is out of range.
    """
    if reserve not in ("final", "current"):
        raise UnknownNameError("reservation of caches", str(reserve), ("final", "current"))
    _positive_whole(max_batch, "max_batch")
    _positive_whole(samples, "samples")
    if not bytes_per_token > 0:
        raise WorkloadError(f"requests: bytes_per_token must be above 0, not {bytes_per_token!r}")
    room = capacity_bytes / bytes_per_token
    keep = kept if kept is not None else np.asarray
    longest = int(np.argmax(requests.total_tokens))
    if keep(requests.total_tokens)[longest] > room:
        raise WorkloadError(
            f"requests: request {longest} needs a cache of {int(requests.total_tokens[longest])} tokens, "
            f"and the memory holds {max(int(room), 0)} ({capacity_bytes:.4g} B at {bytes_per_token:.4g} B a token)"
        )
    steps = requests.output_tokens - 1
    if not steps.sum():
        raise WorkloadError("requests: each makes one token, which its prefill gives; none decodes")
    rng = np.random.default_rng(seed)
    batches = []
    for _ in range(samples):
        who = rng.choice(len(requests), size=max_batch, p=steps / steps.sum())
        contexts = requests.prompt_tokens[who] + np.floor(rng.random(max_batch) * steps[who]).astype(np.int64)
        held = np.cumsum(keep(requests.total_tokens[who] if reserve == "final" else contexts + 1))
        batches.append(Batch(contexts[: max(1, int(np.searchsorted(held, room, side="right")))]))
    return batches


def prefill_batches(requests: Requests, max_tokens: int, max_batch: int = 1024) -> list[Batch]:
    """Prompts in order of arrival, together as long as their tokens stay within `max_tokens`; a longer one runs alone."""
    _positive_whole(max_tokens, "max_tokens")
    _positive_whole(max_batch, "max_batch")
    batches: list[Batch] = []
    held: list[int] = []
    for prompt in requests.prompt_tokens.tolist():
        if held and (sum(held) + prompt > max_tokens or len(held) == max_batch):
            batches.append(Batch(np.array(held), "prefill"))
            held = []
        held.append(prompt)
    return [*batches, Batch(np.array(held), "prefill")]


def expert_tokens(tokens: int, experts: int, topk: int, *, distribution: str = "balanced", seed: int = 0) -> np.ndarray:
    """Tokens that each expert of one layer gets.

    Parameters
    ----------
    tokens, experts, topk
        Tokens of the step, experts of the layer, experts that each token takes.
    distribution
        ``"balanced"``: as equal as whole numbers allow. ``"uniform"``: each token takes any `topk` experts with equal
        probability. ``"power_law_A"``: the same, of experts whose popularity has density ``x**-A`` on
        ``[1, max(0.8 tokens, 2)]`` (as mapping's ``power_law_A``; AIConfigurator, collector/helper.py).
        ``"zipf_A"``: of experts whose popularity falls with rank as ``rank**-A``.

    Returns
    -------
    Whole numbers of shape ``(experts,)``; their sum is ``tokens * topk``, and none is above `tokens`.
    """
    for label, value in (("tokens", tokens), ("experts", experts), ("topk", topk)):
        _positive_whole(value, label)
    if topk > experts:
        raise WorkloadError(f"requests: topk {topk} of {experts} experts")
    rng = np.random.default_rng(seed)
    if distribution == "balanced":
        return np.bincount(np.arange(tokens * topk) % experts, minlength=experts)
    kind, _, number = distribution.rpartition("_")
    try:
        exponent = float(number) if kind in ("power_law", "zipf") else 0.0
    except ValueError:
        exponent = -1.0
    if (distribution != "uniform" and kind not in ("power_law", "zipf")) or exponent < 0:
        known = ("balanced", "uniform", "power_law_1.01", "power_law_1.2", "zipf_1.0")
        raise UnknownNameError("routing distribution", str(distribution), known)
    popularity = np.ones(experts)
    if kind == "zipf":
        popularity = np.arange(1, experts + 1, dtype=float) ** -exponent
    elif kind == "power_law":
        top = max(0.8 * tokens, 2.0)
        draw = rng.random(experts)
        rest = 1.0 - exponent  # inverse of the distribution function
        popularity = top**draw if rest == 0.0 else (1.0 + draw * (top**rest - 1.0)) ** (1.0 / rest)
    counts = np.zeros(experts, dtype=np.int64)
    for start in range(0, tokens, 4096):  # Gumbel's trick: the top k of log p + noise is a draw without replacement
        rows = min(4096, tokens - start)
        keys = np.log(popularity) + rng.gumbel(size=(rows, experts))
        chosen = np.argpartition(keys, experts - topk, axis=1)[:, experts - topk :]
        counts += np.bincount(chosen.ravel(), minlength=experts)
    return counts


def _positive_whole(value: Any, label: str) -> None:
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
        raise WorkloadError(f"requests: {label} must be a whole number from 1, not {value!r}")


def contexts_of(requests: Requests | Batch | Sequence[int], batch: int, seed: int = 0) -> np.ndarray:
    """Context of each request of a decode batch: those of a `Batch` or list as they are, of `Requests` by sampling."""
    if isinstance(requests, Requests):
        return sample_decode_batch(requests, batch, seed).contexts
    return (requests if isinstance(requests, Batch) else Batch(np.asarray(requests))).contexts
