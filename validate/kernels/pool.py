"""Processes that compile the points to come while the GPU measures the present one."""

from __future__ import annotations

import json
import os
import subprocess
import threading
from collections import deque
from collections.abc import Sequence
from typing import Any

from .record import Point

Key = tuple[str, str, str, str]


class Compilers:
    """Compiles points in order, in `jobs` processes that speak `presilicon.validate.kernels.precompile.serve`.

    Parameters
    ----------
    command
        Starts such a process.
    points
        In the order in which they will be asked for.
    sm_count, capability
        Of the GPU.
    jobs
        Processes; 0: nothing is compiled ahead, and `error` always answers that all is well.
    """

    def __init__(self, command: Sequence[str], points: Sequence[Point], *, sm_count: int, capability: int, jobs: int) -> None:
        self.command, self.place = list(command), {"sm_count": sm_count, "capability": capability}
        self.queue = deque(points if jobs else ())
        self.wanted = {point.key("") for point in self.queue}
        self.errors: dict[Key, str] = {}
        self.ready = threading.Condition()
        self.processes: list[subprocess.Popen[str]] = []
        self.closed = False
        self.threads = [threading.Thread(target=self._work, daemon=True) for _ in range(min(jobs, len(self.queue)))]
        for thread in self.threads:
            thread.start()

    def error(self, point: Point, timeout_s: float) -> str | None:
        """Why a point does not compile; empty if it does; None if that is not known after `timeout_s`."""
        key = point.key("")
        if key not in self.wanted:
            return ""
        with self.ready:
            self.ready.wait_for(lambda: key in self.errors, timeout_s)
            return self.errors.get(key)

    def close(self) -> None:
        """Stop all."""
        self.closed = True
        self.queue.clear()
        for process in self.processes:
            process.kill()
        for thread in self.threads:
            thread.join(timeout=5)

    def _start(self) -> subprocess.Popen[str]:
        environment = os.environ | {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
        process = subprocess.Popen(
            self.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment
        )
        self.processes.append(process)
        return process

    def _work(self) -> None:
        process: subprocess.Popen[str] | None = None
        while not self.closed:
            with self.ready:
                if not self.queue:
                    break
                point = self.queue.popleft()
            process = process or self._start()
            answer = self._ask(process, point)
            if answer is None:
                if self.closed:
                    break
                answer = f"the compiler process ended (exit status {process.wait()})"
                process = None
            with self.ready:
                self.errors[point.key("")] = answer
                self.ready.notify_all()
        if process is not None:
            process.kill()
            process.wait()

    def _ask(self, process: subprocess.Popen[str], point: Point) -> str | None:
        request: dict[str, Any] = {"suite": point.suite, "shape": dict(point.shape), "config": dict(point.config), **self.place}
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(json.dumps(request) + "\n")
            process.stdin.flush()
            line = process.stdout.readline()
            return str(json.loads(line)["error"]) if line else None
        except (OSError, ValueError):
            return None
