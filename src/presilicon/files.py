"""Writing files so that nothing is ever half written, and the folder of what is kept between runs."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from .errors import OutputError


def cache_folder() -> Path | None:
    """Folder of what is kept between runs: ``$PRESILICON_CACHE``, or ``presilicon`` in the user's cache folder.

    None where that variable is ``off``: nothing is kept.
    """
    own = os.environ.get("PRESILICON_CACHE")
    if own:
        return None if own == "off" else Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "presilicon"


def trim_folder(folder: Path, pattern: str, limit_bytes: int) -> None:
    """Remove the files used longest ago, by their time stamps, until those that match hold no more than `limit_bytes`."""
    entries = []
    for path in folder.glob(pattern):
        with suppress(OSError):
            state = path.stat()
            entries.append((state.st_mtime, state.st_size, path))
    total = sum(size for _, size, _ in entries)
    for _, size, path in sorted(entries):
        if total <= limit_bytes:
            break
        with suppress(OSError):
            path.unlink()
        total -= size


def check_writable(path: Path) -> None:
    """Raise what `replacing` would, before long work whose result goes there."""
    folder = next(folder for folder in path.absolute().parents if folder.exists())
    if path.exists() and not path.is_file():
        raise OutputError(f"{path}: cannot be written: not a regular file")
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        raise OutputError(f"{path}: cannot be written: {folder} is not a folder that may be written to")


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A binary stream that becomes the file `path` when the block ends well, and vanishes when it does not.

    Folders on the way are made, and removed again if the block fails.

    Raises
    ------
    OutputError
        `path` cannot be written: a folder, a device, on the way a file or a place without permission, a full disk.
    """
    made = [folder for folder in path.parents if not folder.exists()]
    temporary = None
    try:
        check_writable(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:100]}.")
        with os.fdopen(handle, "wb") as stream:
            yield stream
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException as error:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
        for folder in made:
            with suppress(OSError):
                folder.rmdir()
        if isinstance(error, OSError):
            raise OutputError(f"{path}: cannot be written: {error.strerror or error}") from None
        raise


def write_atomically(path: Path, payload: bytes) -> None:
    """Write a file so that a reader sees the old one or the new one, never half; raises as `replacing` does."""
    with replacing(path) as stream:
        stream.write(payload)
