"""Results that took long to compute, kept on disk by content and shared by every process of a machine.

One SQLite file (its own locking makes it safe with many processes); an entry's key is the hash of everything that its value depends on,
the code's version included, so that no entry is ever stale. Oldest entries leave first. A cache that cannot be read or written is
silently none: it saves time, and nothing else depends on it.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Mapping
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, Final

from ..files import cache_folder

#: Entries of one cache file; about 1 kB each.
MOST_ENTRIES: Final = 200_000
_WAIT_S: Final = 10.0


def default_cache() -> Path | None:
    """File in the user's cache folder; None where nothing is to be kept."""
    base = cache_folder()
    return base / "points.sqlite" if base else None


class Cache:
    """Plain data by key, in one file.

    Parameters
    ----------
    path
        The file; it and its folder are made on first use.
    most
        Entries that stay.
    """

    def __init__(self, path: Path, most: int = MOST_ENTRIES) -> None:
        self.path, self.most = path, most

    def get(self, keys: Iterable[str]) -> dict[str, Any]:
        """Values of those keys that are there."""
        found: dict[str, Any] = {}
        with suppress(sqlite3.Error, OSError, ValueError), closing(self._open()) as connection:
            for key in keys:
                row = connection.execute("SELECT value FROM entries WHERE key = ?", (key,)).fetchone()
                if row:
                    found[key] = json.loads(row[0])
        return found

    def put(self, entries: Mapping[str, Any]) -> None:
        """Add entries in one transaction, and let the oldest go where there are too many."""
        if not entries:
            return
        rows = [(key, json.dumps(value)) for key, value in entries.items()]
        with suppress(sqlite3.Error, OSError), closing(self._open()) as connection, connection:
            connection.executemany("INSERT OR IGNORE INTO entries (key, value) VALUES (?, ?)", rows)
            connection.execute("DELETE FROM entries WHERE rowid <= (SELECT max(rowid) FROM entries) - ?", (self.most,))

    def _open(self) -> sqlite3.Connection:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        connection = sqlite3.connect(self.path, timeout=_WAIT_S)
        try:
            connection.execute("CREATE TABLE IF NOT EXISTS entries (rowid INTEGER PRIMARY KEY AUTOINCREMENT, key TEXT UNIQUE, value TEXT)")
        except sqlite3.Error:
            connection.close()
            raise
        return connection
