"""What `tile` finds in compiled code, and when two lanes or one do not stand for their warp."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("triton", reason="needs Triton (the extra `kernels`)")
pytest.importorskip("llvmlite", reason="needs llvmlite (the extra `fast`)")
torch = pytest.importorskip("torch", reason="needs torch for meta tensors")

sys.path.insert(0, str(Path(__file__).parent))

from presilicon import arch  # noqa: E402
from presilicon.arch.sm_timing import sm_timing  # noqa: E402
from presilicon.mapping.triton import bind_launch, compile_launch, evaluate, occupancy_of, warp_runs  # noqa: E402
from presilicon.sim.sm import core, light, light_code, run  # noqa: E402
from presilicon.sim.sm.addresses import first_addresses  # noqa: E402
from presilicon.sim.sm.facts import counts_of  # noqa: E402
from presilicon.sim.sm.warps import ends_decide  # noqa: E402
from presilicon.validate.kernels import suite_named  # noqa: E402

A100, H100 = arch.load("a100-sxm-80gb"), arch.load("h100-sxm")


pytestmark = pytest.mark.usefixtures("own_cache")


def launched(name: str, system: arch.System = A100) -> Any:
    suite = suite_named(name)
    sizes = suite.shapes[0]
    capability = int(system.generation.removeprefix("sm_"))
    one = suite.predict(sizes, suite.configs(sizes)[0], sm_count=int(system.gpu.sm.count), capability=capability)[0]
    launch = bind_launch(one.kernel, one.grid, one.args, one.meta, target=capability)
    return compile_launch(launch), launch


def middle_launch(programs: int = 2160) -> Any:
    from middle import middle

    x, out = (torch.empty(programs * 256, dtype=torch.float32, device="meta") for _ in range(2))
    launch = bind_launch(middle, (programs,), (x, out), {"BLOCK": 256, "num_warps": 4}, target=80)
    return compile_launch(launch), launch


@pytest.mark.parametrize("name", ["gemm_tune", "softmax"])
def test_the_grid_counts_as_every_cta_followed(name: str) -> None:
    compiled, launch = launched(name)
    kernel, _ = run.prepare(compiled, launch, A100, occupancy_of(compiled, A100), False, light=True)
    exact, _ = run.prepare(compiled, launch, A100, occupancy_of(compiled, A100), False)
    assert isinstance(kernel.runs[0], light.WarpStreams)
    assert np.array_equal(kernel.grid.counts, exact.grid.counts)
    assert kernel.grid.tensor_flops == exact.grid.tensor_flops
    assert len(kernel.classes) == len(exact.classes)
    for mine, theirs in zip(kernel.runs, exact.runs, strict=True):
        one, other = mine.pack(), theirs.pack()
        assert [one.code[role].tolist() for role in one.roles] == [other.code[role].tolist() for role in other.roles]


@pytest.mark.slow
def test_bulk_copies_and_their_barriers_are_those_of_every_thread() -> None:
    """TMA: the same counts, streams, rows (bytes of boxes, mbarriers' arrivals and parities) and rounds of the longest run."""
    compiled, launch = launched("gemm_tma", H100)
    kernel, _ = run.prepare(compiled, launch, H100, occupancy_of(compiled, H100), False, light=True)
    exact, _ = run.prepare(compiled, launch, H100, occupancy_of(compiled, H100), False)
    assert isinstance(kernel.runs[0], light.WarpStreams)
    assert np.array_equal(kernel.grid.counts, exact.grid.counts)
    assert kernel.grid.tensor_flops == exact.grid.tensor_flops > 0
    names = ("instruction", "smem", "l2_bytes", "sync_value")
    for all_runs, theirs in zip(kernel.runs, exact.runs, strict=True):
        assert isinstance(all_runs, light.WarpStreams)
        assert all_runs.period is not None
        assert len(all_runs.period.again) > 0
        warps = tuple(replace(warp, period=warp.period and replace(warp.period, again=())) for warp in all_runs.warps)
        mine = replace(all_runs, period=replace(all_runs.period, again=()), warps=warps)
        assert mine.period == theirs.period
        for keep in (None, 2):
            one, other = mine.pack(keep), theirs.pack(keep)
            for a, b in zip(one.roles, other.roles, strict=True):
                assert np.array_equal(one.code[a], other.code[b])
                for name in names:
                    found, wanted = (np.append(np.array(getattr(part.rows, name), float), -1.0)[cta.access[role]]
                                     for part, cta, role in ((mine, one, a), (theirs, other, b)))
                    assert np.array_equal(found, wanted), name


@pytest.mark.slow
def test_a_way_that_data_decide_is_assumed_and_named() -> None:
    """Stream-K waits for a lock that it reads: one trip, as the walk of every thread assumes, and the same words for it."""
    compiled, launch = launched("gemm_stream_k", H100)
    found = light.LightLaunch(compiled, launch, H100)
    found.cta(middle := launch.programs // 2, 1e5)
    whole = evaluate(compiled, launch, (middle, 0, 0), addresses=False, close=True)
    assert found.assumptions() == tuple(map(str, whole.assumptions))
    assert len(whole.assumptions) == 1
    assert np.array_equal(found._counts(found.cta(middle, 1e5)[2]), whole.instruction_counts)


def test_code_kept_on_disk_is_the_code() -> None:
    compiled, _ = launched("gemm_tune")
    timing = sm_timing(A100.generation)
    light_code._light_code.cache_clear()
    first = light_code.light_code(compiled, A100, timing)
    light_code._light_code.cache_clear()
    again = light_code.light_code(compiled, A100, timing)
    assert first is not again
    one, two = (light_code._flat(code, "") for code in (first, again))
    assert one.keys() == two.keys()
    assert all(np.array_equal(one[name], two[name]) for name in one)


def test_masks_in_the_middle_of_a_warp_take_all_lanes() -> None:
    """Lanes 8 to 23 of each warp read: neither the first lane nor the last says so."""
    compiled, launch = middle_launch()
    one = evaluate(compiled, launch, (7, 0, 0), trace=True)
    assert not ends_decide(one)
    ids = np.array([(0, 0, 0), (9, 0, 0)])
    load = next(i for i, op in one.program.memory_ops.items() if op.kind == "load")
    assert (first_addresses(compiled, launch, ids).get(load, np.full(2, -1)) < 0).all(), "two lanes see nothing"
    found = first_addresses(compiled, launch, ids, lanes=())[load]
    assert found[1] - found[0] == 9 * 256 * 4
    assert ends_decide(evaluate(*launched("gemm_tune"), (0, 0, 0), trace=True))


@pytest.mark.parametrize("fidelity", ["tile", "cycle"])
def test_bytes_behind_such_masks(fidelity: str) -> None:
    """Half of the lanes read a float each: whole sectors of 32 bytes, so half of the tensor."""
    compiled, launch = middle_launch()
    found = run.simulate_kernel(compiled, launch, A100, fidelity=fidelity)
    read = 2160 * 256 * 4 / 2
    assert read <= found.bytes_moved["l2"] <= 2.1 * read
    assert read * 0.9 <= found.bytes_moved["dram"] <= 2.1 * read


def test_kernels_that_it_does_not_know_are_followed_in_full(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled, launch = launched("gemm_tune")
    quick = run.simulate_kernel(compiled, launch, A100, fidelity="tile")
    monkeypatch.setattr(light, "light_code", _refuse)
    whole = run.simulate_kernel(compiled, launch, A100, fidelity="tile")
    assert quick.time_s == pytest.approx(whole.time_s, rel=0.05), "later waves are played once more where all lanes are known"
    assert quick.issued == whole.issued
    assert counts_of(evaluate(compiled, launch, (0, 0, 0), addresses=False)).counts.sum() * launch.programs == whole.issued


def _refuse(*_: Any) -> Any:
    raise warp_runs.NotFollowedError


@pytest.mark.slow
def test_every_tile_of_a_persistent_cta_is_cut() -> None:
    """A CTA of the middle has three tiles or four, each with a loop over k: what is left out is as much of each, and counts stay whole."""
    compiled, launch = launched("gemm_persistent", H100)
    kernel, _ = run.prepare(compiled, launch, H100, occupancy_of(compiled, H100), False, light=True)
    for cta in kernel.runs:
        assert isinstance(cta, light.WarpStreams)
        assert cta.period is not None
        tiles = 1 + len(cta.period.again)
        assert tiles > 2
        whole, more, fewer = (cta.pack(keep).issued for keep in (None, 8, 4))
        assert whole == cta.counts.sum()
        each = (more - fewer) / 4
        assert whole - more == each * (cta.period.times - 8)
        assert whole - more > 0.6 * whole


def test_parameters_of_another_number_are_refused() -> None:
    with pytest.raises(ValueError, match=str(core.NUMBERS)):
        core.compiled_core()(*[np.zeros(3)] * 36)
