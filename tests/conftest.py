"""What all tests share."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from presilicon.files import cache_folder

# A shell without job control has its background jobs ignore Ctrl-C, and all that they start; tests of interrupts need it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN and threading.current_thread() is threading.main_thread():
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="module")
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The tests of a module keep kernels and answers in a folder of their own; our own loops, compiled, are everybody's."""
    patch, own, shared = pytest.MonkeyPatch(), tmp_path_factory.mktemp("cache"), cache_folder()
    if shared is not None:
        link_folder(own / "native", shared / "native")
    patch.setenv("PRESILICON_CACHE", str(own))
    yield
    patch.undo()


def link_folder(link: Path, folder: Path) -> None:
    """Have `link` stand for a folder, which is made; where that cannot be (or another process of pytest-xdist was first), leave it."""
    with suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        link.symlink_to(folder, target_is_directory=True)
