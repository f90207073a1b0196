"""Measured rows of fused mixture-of-experts ops: what ran, by framework and version, and the tile that it takes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from ..arch import System
from ..errors import TableError
from ..mapping.gpu.moe_kernels import Tile, default_tile, implementation_of, is_gated, is_tuned

#: Number formats of the tables whose kernels ours are: SGLang's Triton path expands ``w4a16_mxfp4`` to bf16; tables of early 2026 write
#: ``float16`` for bfloat16 tensors.
FORMATS: Final[Mapping[str, str]] = {"bfloat16": "bfloat16", "float16": "bfloat16", "w4a16_mxfp4": "bfloat16", "fp8": "fp8_e4m3",
                                     "fp8_block": "fp8_e4m3"}
#: Rows and columns of weights that share a scale in ``fp8_block``, and columns of a row of activations (both collectors).
SCALE_BLOCK: Final = 128
#: The first vLLM with the default tiles by tokens (pull request 34846, 18 February 2026); 0.14 still has SGLang's.
TILES_BY_TOKENS: Final = (0, 17)
#: The first SGLang whose tables were recorded with expert loads capped at one row a token.
EARLY_SGLANG: Final = (0, 5, 9)
#: Sources that are Triton's without saying so.
TRITON_SOURCES: Final = ("vllm_fused_moe",)
#: Calls that both collectors make in turn, each with a draw of its own (and in SGLang's of one rank of several, its own activations).
IN_TURN: Final = 5


@dataclass(frozen=True)
class MoeRow:
    """One row of a ``*.moe_triton.csv`` table.

    Attributes
    ----------
    framework, version, moe_dtype
        What ran, and the table's name of its number format.
    tokens, hidden, inter, top_k, experts
        Sizes of the whole layer.
    tp, ep
        GPUs over which each expert's intermediate size, and the experts, are divided.
    distribution
        ``"balanced"``, ``"power_law_A"``, or ``"uniform"``: every token draws its experts at random.
    measured_s
        Seconds a call.
    in_turn
        Calls that are made in turn, each with a draw of its own.
    """

    framework: str
    version: str
    moe_dtype: str
    tokens: int
    hidden: int
    inter: int
    top_k: int
    experts: int
    tp: int
    ep: int
    distribution: str
    measured_s: float
    in_turn: int = IN_TURN

    @property
    def release(self) -> tuple[int, ...]:
        """Numbers of the framework's version; (99,) where the row names none."""
        return tuple(int(part) for part in self.version.split(".")[:3] if part.isdigit()) or (99,)

    @property
    def fp8(self) -> bool:
        """Whether weights and activations are fp8."""
        return FORMATS[self.moe_dtype] == "fp8_e4m3"

    @property
    def block_scaled(self) -> bool:
        """Whether each `SCALE_BLOCK` square of the weights has a scale; SGLang's collector took one where sizes are no multiples of it.

        That of early 2026 took one everywhere. This is inferred: its rows reach 1,018 TFLOP/s on an H100, as per-tensor scales with their
        default tile of 128x256 do, where vLLM's rows with the same 64x128 tile for scales by block as SGLang's stop at 585.
        """
        even = self.hidden % SCALE_BLOCK == 0 and self.inter // self.tp % SCALE_BLOCK == 0
        return self.moe_dtype == "fp8_block" and (self.vllm or (even and not self.early))

    @property
    def vllm(self) -> bool:
        """Whether vLLM ran."""
        return self.framework.lower() == "vllm"

    @property
    def early_vllm(self) -> bool:
        """Whether it is a vLLM before `TILES_BY_TOKENS`, whose collector also chose the experts before the clock started."""
        return self.vllm and self.release < TILES_BY_TOKENS

    @property
    def early(self) -> bool:
        """Whether the table is of early 2026, whose collector drew expert loads by other rules (`early_counts`)."""
        return self.early_vllm or (not self.vllm and self.release < EARLY_SGLANG)

    @property
    def gated(self) -> bool:
        """Whether GEMM 1 computes gate and up; the early collectors drove every layer so."""
        return self.early or bool(is_gated(self.framework, self.version, self.hidden, self.inter, self.top_k))


def read_rows(path: Any) -> list[MoeRow]:
    """Rows of a table of mixture-of-experts layers whose number format our kernels have and, where it says what ran, that Triton ran.

    Raises
    ------
    TableError
        A column is missing.
    """
    import pandas as pd

    frame = pd.read_csv(path, dtype={"version": str})
    names = ("framework", "version", "moe_dtype", "num_tokens", "hidden_size", "inter_size", "topk", "num_experts", "moe_tp_size",
             "moe_ep_size", "distribution", "latency_s")
    for name in names:
        if name not in frame.columns:
            raise TableError(f"{path}: no column {name!r}; it has {', '.join(map(str, frame.columns))}")
    frame = frame[frame.moe_dtype.isin(list(FORMATS))]
    if "kernel_source" in frame:
        source = frame.kernel_source.astype(str)
        frame = frame[source.str.contains("triton") | source.isin(TRITON_SOURCES)]
    return [MoeRow(*values) for values in frame[list(names)].itertuples(index=False, name=None)]


def has_tuned_file(row: MoeRow, system: System) -> bool:
    """Whether a tuned file ships for this GPU and shape, so that the framework's default does not apply."""
    return not row.fp8 and bool(is_tuned(system.name, row.experts // row.ep, row.inter // row.tp))


def default_of(row: MoeRow, tokens: int) -> Tile:
    """The framework's default tile for a call of `tokens`, as its version has it.

    vLLM up to 0.14 has SGLang's two tiles for 16 bits and takes them for fp8 as well, and one for scales by block (its
    ``get_default_config``).
    """
    library, fp8 = str(implementation_of(row.framework, row.version, row.moe_dtype)["library"]), row.fp8
    if row.early_vllm:
        library, fp8 = "sglang", row.block_scaled
    return default_tile(library, tokens, row.experts // row.ep, fp8=fp8, block_scaled=row.block_scaled)


def sample(rows: list[MoeRow], count: int) -> list[MoeRow]:
    """Every n-th row in order of format, tokens, experts, sizes and parallelism: each size class has its share."""
    order = sorted(rows, key=lambda r: (r.moe_dtype, r.tokens, r.experts, r.hidden, r.tp, r.ep, r.distribution, r.version, r.measured_s))
    if count >= len(order):
        return order
    return [order[int((n + 0.5) * len(order) / count)] for n in range(count)]
