"""A bounded folder of compiled kernels, by content; several processes may read and write it at once.

An entry is one file: a magic line, a JSON head that names and measures the parts that follow, then the parts, compressed or not.
Whole files appear by renaming, so that a reader sees an entry or none; an entry that does not check is treated as absent.
"""

from __future__ import annotations

import hashlib
import json
import os
import zlib
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from ...errors import OutputError
from ...files import cache_folder, trim_folder, write_atomically

_MAGIC = b"presilicon kernel 2\n"
#: The folder is kept below this size; the entries that were used longest ago go first.
LIMIT_BYTES = 512 * 2**20


def kernel_folder() -> Path | None:
    """``kernels`` in `presilicon.files.cache_folder`; None where nothing is to be kept."""
    base = cache_folder()
    return base / "kernels" if base else None


def load(folder: Path, key: str) -> tuple[dict[str, Any], dict[str, bytes]] | None:
    """Head and parts of an entry; None where there is none, or it is damaged."""
    path = folder / f"{key}.kernel"
    try:
        raw = path.read_bytes()
        if not raw.startswith(_MAGIC):
            return None
        size = int.from_bytes(raw[len(_MAGIC):len(_MAGIC) + 4], "little")
        at = len(_MAGIC) + 4 + size
        head = json.loads(raw[at - size:at])
        compressed, parts = head.pop("compressed"), {}
        for name, length, digest in head.pop("parts"):
            packed = raw[at:at + length]
            if hashlib.sha256(packed).hexdigest() != digest:
                return None
            parts[name] = zlib.decompress(packed) if compressed else packed
            at += length
    except (OSError, ValueError, KeyError, TypeError, zlib.error):
        return None
    with suppress(OSError):
        os.utime(path)
    return head, parts


def store(folder: Path, key: str, head: Mapping[str, Any], parts: Mapping[str, bytes], *, compress: bool = True) -> None:
    """Write an entry, and drop the oldest ones where the folder grows too large; a folder that cannot be written is let be."""
    packed = {name: zlib.compress(part, 1) if compress else part for name, part in parts.items()}
    listed = [(name, len(part), hashlib.sha256(part).hexdigest()) for name, part in packed.items()]
    text = json.dumps({**head, "parts": listed, "compressed": compress}).encode()
    with suppress(OutputError, OSError):
        write_atomically(folder / f"{key}.kernel", b"".join([_MAGIC, len(text).to_bytes(4, "little"), text, *packed.values()]))
        trim_folder(folder, "*.kernel", LIMIT_BYTES)
