"""What all tests share."""

from __future__ import annotations

import signal
import threading

# A shell without job control has its background jobs ignore Ctrl-C, and all that they start; tests of interrupts need it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN and threading.current_thread() is threading.main_thread():
    signal.signal(signal.SIGINT, signal.default_int_handler)
