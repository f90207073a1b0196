"""What all tests share."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator

import pytest

# A shell without job control has its background jobs ignore Ctrl-C, and all that they start; tests of interrupts need it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN and threading.current_thread() is threading.main_thread():
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="module")
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The tests of a module keep compiled kernels in a folder of their own."""
    patch = pytest.MonkeyPatch()
    patch.setenv("PRESILICON_CACHE", str(tmp_path_factory.mktemp("cache")))
    yield
    patch.undo()
