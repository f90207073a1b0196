"""Public measurements of GPU operators as op tables: those that ai-dynamo/aiconfigurator publishes with its package.

``pip download --no-deps aiconfigurator==0.7.0`` takes the wheel from PyPI (Apache-2.0);
``python -m presilicon.validate.public_tables WHEEL OUT`` writes OUT/GPU.KIND.csv for H100, H200, B200, GB200, A100 and L40S, which
``presilicon validate OUT`` and ``presilicon calibrate`` take. `make public-tables` does both. The constants of the device files were
fitted on that release. Later ones (``aiconfigurator-core==0.12.0``, `make kernel-tables`) hold newer software, more GPUs and more kinds of
operators, as Parquet; they are read in the same way.

How the rows were measured: a CUDA graph replayed back to back, CUDA events, 3 warm-ups, 6 runs or more (``collector/helper.py`` there).
"""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ..errors import TableError, UnknownNameError
from ..files import write_atomically

if TYPE_CHECKING:
    import pandas as pd

#: Tables that are read, by what the wheel calls them, with the name that the op table gets.
KINDS: Final = {
    "gemm": "gemm", "context_attention": "context_attention", "generation_attention": "generation_attention", "context_mla": "context_mla",
    "generation_mla": "generation_mla", "moe": "moe", "mamba2": "mamba2", "nccl": "nccl", "custom_allreduce": "custom_allreduce",
    "encoder_attention": "encoder_attention", "gdn": "gdn",
}
#: Tables that are left out: what was wrong when they were measured.
BROKEN: Final = {
    ("h100_sxm", "sglang", "0.5.6.post2", "moe"):
        "10.1 times (median) the times of the same 4,368 rows with 0.5.8.post1, and 11.8 times those of an H200 with the same version",
}
#: Where a wheel holds GPU/FRAMEWORK/VERSION/KIND_perf.txt, or GPU/AREA/FRAMEWORK/VERSION/KIND_perf.parquet.
_PLACE: Final = re.compile(r"aiconfigurator(?:_core)?/systems/data/(\w+)/(?:\w+/)?([a-z]+)/([\w.]+)/(\w+)_perf\.(txt|parquet)")
_FORMATS: Final = ("gemm_dtype", "moe_dtype")
#: Columns that say what ran; a sample takes its share of each combination.
_CLASSES: Final = ("framework", "version", "kernel_source", *_FORMATS, "attn_dtype", "mla_dtype", "kv_cache_dtype", "operation", "num_gpus")
#: Rows of each class that a sample keeps where there are so many.
_LEAST: Final = 60


def read_public(wheel: Path) -> Iterator[tuple[str, str, pd.DataFrame]]:
    """GPU, kind and rows of every table of the wheel, in `latency_s` seconds, those of all frameworks and versions together.

    Rows that repeat another row's sizes and software are left out, as are number formats that presilicon does not know, `BROKEN` tables,
    and all releases of NCCL but the newest.

    Raises
    ------
    TableError
        The file is no wheel with tables.
    """
    import pandas as pd

    try:
        with zipfile.ZipFile(wheel) as archive:
            places = sorted((place for place in map(_PLACE.fullmatch, archive.namelist()) if place), key=lambda place: place[0])
            newest_nccl = {place[1]: place[0] for place in places if place[4] == "nccl"}
            parts: dict[tuple[str, str], list[pd.DataFrame]] = {}
            for place in places:
                gpu, framework, version, stem, ending = place.groups()
                kind = KINDS.get(stem)
                if kind == "nccl" and place[0] != newest_nccl[gpu]:
                    continue   # an older NCCL, which nothing in the table would tell from the newest
                if kind is not None and (gpu, framework, version, kind) not in BROKEN:
                    text = io.BytesIO(archive.read(place[0]))
                    frame = pd.read_parquet(text) if ending == "parquet" else pd.read_csv(text, dtype={"version": str})
                    frame["framework"] = frame["framework"].str.lower() if "framework" in frame else framework
                    frame["version"] = frame.get("version", version)
                    parts.setdefault((gpu, kind), []).append(frame)
    except (OSError, zipfile.BadZipFile, ValueError) as error:
        raise TableError(f"{wheel}: no wheel that can be read: {error}") from error
    if not parts:
        raise TableError(f"{wheel}: no tables in it; they are in the wheels of aiconfigurator 0.7.0 and of aiconfigurator-core")
    for (gpu, kind), frames in parts.items():
        yield gpu, kind, _cleaned(pd.concat(frames, ignore_index=True))


def _cleaned(frame: pd.DataFrame) -> pd.DataFrame:
    frame = frame.rename(columns={"op_name": "operation"} if "nccl_dtype" in frame else {})
    frame["latency_s"] = frame.pop("latency") * 1e-3
    if "operation" in frame:
        frame["operation"] = frame.operation.replace({"alltoall": "all_to_all"})
    frame = frame.drop(columns=[name for name in ("device", "op_name") if name in frame])
    for name in _FORMATS:
        if name in frame:
            frame = frame[frame[name].map({value: _is_known(str(value)) for value in frame[name].unique()})]
    if "kernel_source" in frame:   # times of many tokens are far below what the arithmetic takes: not the layer
        frame = frame[~frame.kernel_source.astype(str).str.endswith("min_latency")]
    return frame.drop_duplicates(subset=[name for name in frame if name != "latency_s"], ignore_index=True)


def _is_known(number_format: str) -> bool:
    from .optable import formats_of

    try:
        formats_of(number_format)
    except UnknownNameError:
        return False
    return True


def sampled(frame: pd.DataFrame, rows: int, seed: int = 0) -> pd.DataFrame:
    """About so many rows, each class of software and number format with its share, and no class with fewer than 60 that has so many."""
    if len(frame) <= rows:
        return frame
    share = rows / len(frame)
    classes = [name for name in _CLASSES if name in frame]
    kept = [part.sample(min(len(part), max(_LEAST, round(len(part) * share))), random_state=seed).index
            for _, part in frame.groupby(classes, dropna=False, sort=True)]
    return frame.loc[sorted(index for part in kept for index in part)]


def main(wheel: Path, out: Path, rows: int = 9000, gpu: str = "") -> None:
    """Write OUT/GPU.KIND.csv from the tables of WHEEL; --rows 0 takes all rows, --gpu those of GPUs whose name begins so."""
    import sys

    for name, kind, frame in read_public(wheel):
        if name.startswith(gpu):
            kept = sampled(frame, rows or len(frame))
            out.mkdir(parents=True, exist_ok=True)
            write_atomically(out / f"{name}.{kind}.csv", kept.to_csv(index=False).encode())
            sys.stdout.write(f"{name}.{kind}.csv: {len(kept)} of {len(frame)} rows\n")


if __name__ == "__main__":
    import typer

    typer.run(main)
