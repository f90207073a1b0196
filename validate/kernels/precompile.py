"""Compiling ahead of a measurement, on CPU cores and without the GPU, into the disk cache from which the launch then takes it."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Any

from .suite import Launch


class OfflineDriver:
    """What Triton's JIT asks of a driver before a launch: the target. It is its own device and stream.

    Parameters
    ----------
    capability
        90 is sm_90; it also numbers the device, so that kernels for several targets are kept apart in one process.
    """

    def __init__(self, capability: int) -> None:
        self.capability = capability

    def get_current_target(self) -> Any:
        from triton.backends.compiler import GPUTarget

        return GPUTarget("cuda", self.capability, 32)

    def get_current_device(self) -> int:
        return self.capability

    def get_current_stream(self, device: int) -> int:
        return 0


def compile_offline(launches: Sequence[Launch], capability: int) -> list[Any]:
    """Compile launches as a launch on a GPU would, by Triton's own binding and specialisation; returns Triton's compiled kernels.

    The process must not launch anything afterwards: Triton's driver is replaced.
    """
    from triton.runtime import driver

    driver.set_active(OfflineDriver(capability))
    return [launch.kernel.warmup(*launch.args, grid=launch.grid, **launch.meta) for launch in launches]


def serve() -> None:
    """Compile what standard input asks for, one JSON object a line, and answer each with a line: the error, or an empty one."""
    from . import suite_named

    answers = sys.stdout
    sys.stdout = sys.stderr
    for line in sys.stdin:
        request = json.loads(line)
        try:
            suite = suite_named(request["suite"])
            launches = suite.predict(request["shape"], request["config"], sm_count=request["sm_count"], capability=request["capability"])
            compile_offline(launches, request["capability"])
            error = ""
        except Exception as caught:  # whatever the compiler raises is the answer
            error = f"{type(caught).__name__}: {caught}"
        answers.write(json.dumps({"error": error}) + "\n")
        answers.flush()
