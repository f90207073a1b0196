"""The loops that are compiled before they are called are those that a prediction calls, for the very arguments."""

from __future__ import annotations

import threading
from typing import Any

import pytest

pytest.importorskip("triton", reason="needs Triton (the extra `kernels`)")
pytest.importorskip("llvmlite", reason="needs llvmlite (the extra `fast`)")
pytest.importorskip("torch", reason="needs torch for meta tensors")

from presilicon import arch, native
from presilicon.mapping.triton import bind_launch, compile_launch
from presilicon.native.kinds import argument_of
from presilicon.sim.sm import ahead
from presilicon.sim.sm.run import simulate_kernel
from presilicon.validate.kernels import suite_named

A100 = arch.load("a100-sxm-80gb")


@pytest.mark.parametrize("fidelity", ["tile", "cycle"])
def test_loops_are_called_as_usual(monkeypatch: pytest.MonkeyPatch, fidelity: str) -> None:
    called: dict[native.Native, set[tuple[native.Argument, ...]]] = {}
    call = native.Native.__call__

    def noted(self: native.Native, *arguments: Any) -> Any:
        called.setdefault(self, set()).add(tuple(map(argument_of, arguments)))
        return call(self, *arguments)

    monkeypatch.setattr(native.Native, "__call__", noted)
    suite = suite_named("elementwise")
    sizes = suite.shapes[0]
    one = suite.predict(sizes, suite.configs(sizes)[0], sm_count=108, capability=80)[0]
    launch = bind_launch(one.kernel, one.grid, one.args, one.meta, target=80)
    simulate_kernel(compile_launch(launch), launch, A100, fidelity=fidelity)
    loops = ahead._LOOPS[fidelity]
    assert set(loops) <= called.keys()
    assert [called[loop] for loop in loops] == [{loop.usual} for loop in loops]


def doubled(values, times):  # type: ignore[no-untyped-def]
    """Twice the numbers, so many times."""
    for _ in range(times):
        for k in range(values.shape[0]):
            values[k] = values[k] * 2
    return values[0]


def test_one_thread_compiles_and_a_fork_waits_for_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.setenv("PRESILICON_CACHE", str(tmp_path))
    made, load = [], native._loaded
    monkeypatch.setattr(native, "_loaded", lambda *what: (made.append(threading.current_thread().name), load(*what))[1])
    loop = native.Native(doubled, usual={"i": "times"})
    native.ahead([loop])
    native._wait()
    values = native.np.array([1, 5])
    assert (loop(values, 3), values.tolist(), made) == (8, [8, 40], ["presilicon-native"])
