"""Launches recorded instead of run."""

from __future__ import annotations

from types import ModuleType

import pytest

from presilicon.mapping.triton import capture_launches, evaluate


def _module(kernels: ModuleType, lab: ModuleType, n: int) -> object:
    """What a user's own function looks like: it allocates its output and launches."""
    import torch

    x = lab.floats(n)
    out = torch.empty_like(x)
    kernels.add[lambda meta: (-(-n // meta["BLOCK"]),)](x, x, out, n, BLOCK=256, num_warps=2)
    kernels.scale[(n // 256 + 1,)](out, n, 0.5, BLOCK=256)
    kernels.tuned_add[lambda meta: (-(-n // meta["BLOCK"]),)](x, out, out, n)
    return out


def test_every_launch_is_recorded_in_order(kernels: ModuleType, lab: ModuleType) -> None:
    with capture_launches() as launches:
        out = _module(kernels, lab, 1000)
    assert out.shape == (1000,)  # type: ignore[attr-defined]
    assert [launch.name for launch in launches] == ["add", "scale", "add"]
    assert launches[0].meta == {"BLOCK": 256, "num_warps": 2}
    assert launches[0].where.startswith(__file__)
    assert len(launches[2].configs()) == 2
    assert launches[2].kernel is kernels.tuned_add
    bound = launches[0].bind(90)
    assert (bound.grid, bound.options.num_warps) == ((4, 1, 1), 2)
    run = evaluate(launches[1].compile(90), launches[1].bind(90))
    assert run.memory_bytes() == {"global load": 4000, "global store": 4000}


def test_outside_the_block_triton_is_as_it_was(kernels: ModuleType, lab: ModuleType) -> None:
    from triton.runtime.autotuner import Autotuner
    from triton.runtime.jit import JITFunction

    before = JITFunction.run, Autotuner.run
    with capture_launches() as outer:
        with capture_launches() as inner:
            _module(kernels, lab, 512)
        kernels.add[(1,)](*(lab.floats(8) for _ in range(3)), 8, BLOCK=8)
    assert (len(outer), len(inner)) == (1, 3)
    assert before == (JITFunction.run, Autotuner.run)
    with pytest.raises(ZeroDivisionError), capture_launches():
        _module(kernels, lab, 1 // 0)
    assert before == (JITFunction.run, Autotuner.run)


def test_a_warmup_is_no_launch(kernels: ModuleType, lab: ModuleType) -> None:
    with capture_launches() as launches:
        kernels.add.warmup(*(lab.floats(8) for _ in range(3)), 8, BLOCK=8, grid=(1,))
    assert launches == []
