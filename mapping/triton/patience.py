"""A limit on how long the compiler may take: work that may never end is done by a process that can be ended."""

from __future__ import annotations

import contextlib
import math
import os
import pickle
import re
import signal
import tempfile
import time
from collections.abc import Callable
from typing import Any, Final

from ...errors import KernelError

#: Numbers of one tensor that each thread holds from which on compiling may take minutes: a thread has 255 registers, and ptxas spills the
#: rest. Seen: 512 numbers 8 s, 2,048 more than 10 minutes.
HEAVY: Final = 1024
#: Numbers that a thread makes, all of the kernel's text together, from which on compiling may take minutes too: LLVM holds them all in one
#: straight line. Seen: at most 9,700 in 181 kernels of public libraries; 180,000 in a bitonic top-k, more than 100 s.
LONG: Final = 1 << 15
#: Seconds that such a kernel may take, unless the environment says otherwise.
LIMIT_S: Final = 60.0
VARIABLE: Final = "PRESILICON_COMPILE_LIMIT"
_TENSOR: Final = re.compile(r"tensor<((?:\d+x)+)[a-zA-Z]\w*, #")
_RESULT: Final = re.compile(r"^ *%.* = .*tensor<((?:\d+x)+)[a-zA-Z][^,]*, #", re.MULTILINE)


def limit_s() -> float:
    """Seconds that a kernel which is heavy to compile may take; 0 for no limit.

    Raises
    ------
    KernelError
        The environment variable is no number.
    """
    text = os.environ.get(VARIABLE, "")
    try:
        return float(text) if text else LIMIT_S
    except ValueError:
        raise KernelError(f"{VARIABLE}={text}: expected seconds (0: no limit)") from None


def numbers_a_thread(ttgir: str, threads: int) -> tuple[int, str]:
    """The most numbers of one tensor that a thread holds, and the tensor's shape.

    Examples
    --------
    >>> numbers_a_thread("%0 = arith.constant dense<0.0> : tensor<512x512xf32, #blocked>", 128)
    (2048, '512x512')
    """
    most, shape = 0, ""
    for text in set(_TENSOR.findall(ttgir)):
        count = 1
        for size in text.rstrip("x").split("x"):
            count *= int(size)
        if count // threads > most:
            most, shape = count // threads, text.rstrip("x")
    return most, shape


def numbers_made(ttgir: str, threads: int) -> int:
    """Numbers that a thread makes in all operations of the text, each counted once; of an operation the last tensor on its line.

    Examples
    --------
    >>> numbers_made("%1 = math.absf %0 : tensor<512x512xf32, #blocked>\\n%2 = arith.negf %1 : tensor<512x512xf32, #blocked>", 128)
    4096
    """
    return sum(max(1, math.prod(map(int, text.rstrip("x").split("x"))) // threads) for text in _RESULT.findall(ttgir))


def reason_to_stop(ttgir: str, threads: int) -> str | None:
    """Why compiling a kernel may take minutes, and what helps; None where it takes seconds."""
    numbers, shape = numbers_a_thread(ttgir, threads)
    if numbers >= HEAVY:
        return f"each thread holds {numbers:,d} numbers of one tensor ({shape}) and has 255 registers; smaller tiles or more warps"
    made = numbers_made(ttgir, threads)
    if made >= LONG:
        return f"each thread makes {made:,d} numbers one after another (as unrolled sorting does); smaller tiles, more warps or loops"
    return None


def within(seconds: float, work: Callable[[], Any]) -> Any:
    """The result of `work`, which may be pickled, done in a process of its own that is ended after so many seconds.

    Raises
    ------
    TimeoutError
        It took longer.
    RuntimeError
        It failed; the message is its own.
    """
    with tempfile.TemporaryFile() as answer:
        child = os.fork()
        if not child:
            _work_and_leave(work, answer)
        until = time.monotonic() + seconds
        while os.waitpid(child, os.WNOHANG)[0] == 0:
            if time.monotonic() > until:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(child, signal.SIGKILL)
                with contextlib.suppress(ProcessLookupError):
                    os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
                raise TimeoutError
            time.sleep(0.02)
        answer.seek(0)
        said = answer.read()
    if not said:
        raise RuntimeError("the compiler's process ended without an answer (out of memory?)")
    done, result = pickle.loads(said)
    if not done:
        raise RuntimeError(result)
    return result


def _work_and_leave(work: Callable[[], Any], answer: Any) -> None:
    """What the process does; it does not come back."""
    try:
        os.setsid()
        said = pickle.dumps((True, work()))
    except BaseException as error:  # whatever it is, the other process must hear of it
        text = "\n".join(str(e) for e in (error, error.__cause__) if e is not None and str(e))
        said = pickle.dumps((False, text or type(error).__name__))
    try:
        answer.write(said)
        answer.flush()
    finally:
        os._exit(0)
