"""An override changes what it names and nothing else; saving and loading loses nothing."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from presilicon import arch
from presilicon.arch import loader
from presilicon.errors import OutputError, SpecError, UnknownNameError

QUICK = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
NAMES = [name for name in sorted(arch.names()) if arch.load(name).kind == "gpu"]
OTHERS = [name for name in sorted(arch.names()) if name not in NAMES]
WHOLE = ("gpu.sm.count", "gpu.sm.registers", "gpu.sm.max_warps", "gpu.sm.max_ctas", "link.max_devices",
    "host.queue_depth", "gpu.l2.partitions")


def values(system: arch.System) -> dict[str, Any]:
    return {path: arch.value_at(system, path) for path in loader.paths(system)}


@st.composite
def changes(draw: st.DrawFn) -> tuple[str, dict[str, Any]]:
    """A system's name, and some of its numbers made larger, which keeps it consistent."""
    system = arch.load(draw(st.sampled_from(NAMES)))
    bounded = ("gpu.sm.shared_memory_per_cta", "gpu.sm.sparse_speedup", "gpu.clock.headroom", "power.idle")
    free = [p for p in loader.paths(system) if p not in bounded]
    found: dict[str, Any] = {}
    for path in draw(st.lists(st.sampled_from(free), min_size=1, max_size=4, unique=True)):
        now = arch.value_at(system, path)
        if path == "link.kind":
            found[path] = "pcie" if now == "nvlink" else "nvlink"
        elif path == "link.multicast":
            found[path] = not now
        elif path in WHOLE:
            found[path] = now + draw(st.integers(1, 1000))
        elif path.startswith("calibration."):
            constant = loader.constants.all_constants()[path.partition(".")[2]]
            found[path] = draw(st.floats(constant.low, constant.high))
        else:
            found[path] = now * draw(st.floats(1.001, 100.0))
    return system.name, found


@QUICK
@given(changes())
def test_an_override_changes_what_it_names_and_nothing_else(change: tuple[str, dict[str, Any]]) -> None:
    name, named = change
    system = arch.load(name)
    before, document = values(system), repr(system.document)
    changed = system.override(named)
    assert values(changed) == before | named
    for path, origin in changed.provenance.items():
        assert origin.status == "override" if path in named else origin == system.provenance[path]
    assert values(arch.load(name)) == before
    assert repr(system.document) == document
    assert changed == loader.from_document(changed.document)


@QUICK
@given(changes())
def test_overrides_compose(change: tuple[str, dict[str, Any]]) -> None:
    name, named = change
    step = arch.load(name)
    for path, value in reversed(named.items()):
        step = step.override({path: value})
    assert step == arch.load(name).override(named)


@settings(QUICK, max_examples=20)
@given(changes())
def test_save_and_load_is_the_same_system_and_the_same_bytes(tmp_path: Path, change: tuple[str, dict[str,
    Any]]) -> None:
    name, named = change
    system = arch.load(name).override(named)
    first = arch.save(system, tmp_path / "first.yaml")
    again = arch.load(first)
    assert again == system
    assert arch.save(again, tmp_path / "second.yaml").read_bytes() == first.read_bytes()


@pytest.mark.parametrize("name", NAMES)
def test_a_shipped_file_survives_a_round_trip(name: str, tmp_path: Path) -> None:
    system = arch.load(name)
    assert arch.load(arch.save(system, tmp_path / "copy.yaml")) == system
    assert arch.load(system) is system
    assert pickle.loads(pickle.dumps(system)) == system


@pytest.mark.parametrize("name", OTHERS)
def test_an_override_of_another_kind_changes_what_it_names_and_nothing_else(name: str) -> None:
    system = arch.load(name)
    before = {path: value for path, value, _ in system.numbers()}
    path = next(p for p, value, unit in system.numbers() if unit in ("B/s", "Hz") and value)  # nothing is derived from these
    changed = system.override({path: before[path] * 1.25})
    after = {p: value for p, value, _ in changed.numbers()}
    assert after[path] == pytest.approx(1.25 * before[path])
    assert {p: value for p, value in after.items() if p != path} == {p: value for p, value in before.items() if p != path}
    assert changed.provenance[path].status == "override"
    assert {p: value for p, value, _ in system.numbers()} == before
    assert pickle.loads(pickle.dumps(changed)).provenance[path].status == "override"
    with pytest.raises(UnknownNameError):
        system.override({f"{path}x": 1})


def test_quantities_numpy_scalars_and_flags() -> None:
    system = arch.load("h100-sxm").override({
        "gpu.sm.count": np.int64(144), "dram.bandwidth": "4 TB/s", "gpu.l2.size": np.float64(2.0**26),
            "link.multicast": np.bool_(False)})
    assert (system.gpu.sm.count, system.dram.bandwidth_bytes_per_s, system.gpu.l2.size_bytes) == (144.0, 4e12, 2.0**26)
    assert system.link.multicast is False
    assert system.provenance["dram.bandwidth"] == arch.Provenance("set by the user", "override")


def test_a_number_that_a_rule_derived_keeps_its_value() -> None:
    system = arch.load("h100-pcie")
    assert system.power.idle_w == pytest.approx(0.1 * system.power.limit_w)
    assert {"power.idle", "gpu.l2.bandwidth"} <= set(system.assumed())
    larger = system.override({"power.limit": "700 W", "gpu.l2.size": "100 MiB"})
    assert larger.power.idle_w == system.power.idle_w
    assert larger.gpu.l2.bytes_per_clk == system.gpu.l2.bytes_per_clk
    assert larger.assumed() == system.assumed()
    both = {"power.idle": 20, "power.limit": 400}
    assert system.override(both) == system.override(dict(reversed(both.items())))
    assert system.override(both).power.idle_w == 20


def test_a_tensor_arithmetic_may_be_added() -> None:
    system = arch.load("h100-sxm")
    with_fp4 = system.override({"gpu.sm.tensor.fp4": 16384})
    assert with_fp4.tensor_flops_per_s("fp4") == 2 * system.tensor_flops_per_s("fp8")
    assert with_fp4.provenance["gpu.sm.tensor.fp4"].status == "override"
    assert values(with_fp4) == values(system) | {"gpu.sm.tensor.fp4": 16384.0}
    assert "fp4" not in system.gpu.sm.tensor_flops_per_clk


def test_an_override_may_state_where_its_number_comes_from(tmp_path: Path) -> None:
    fitted = loader.override(arch.load("l40s"), {"gpu.l2.latency": 300}, source="measured here", status="fitted")
    again = arch.load(arch.save(fitted, tmp_path / "x.yaml"))
    assert again.provenance["gpu.l2.latency"] == arch.Provenance("measured here", "fitted")


@pytest.mark.parametrize(("change", "message"), [
    ({"gpu.sm.cuont": 144}, "h100-sxm: unknown path 'gpu.sm.cuont'; did you mean 'gpu.sm.count'"),
    ({"gpu.sm.tensor.fp3": 1}, "h100-sxm: unknown path 'gpu.sm.tensor.fp3'; did you mean 'gpu.sm.tensor.fp"),
    ({"sm.count": 144}, "did you mean 'gpu.sm.count'"),
    ({3: 4}, "unknown path '3'"),
    ({"": 4}, "unknown path ''"),
    ({"calibration.nothing": 1}, "unknown path 'calibration.nothing'"),
])
def test_an_unknown_path(change: dict[Any, Any], message: str) -> None:
    with pytest.raises(UnknownNameError) as caught:
        arch.load("h100-sxm").override(change)
    assert message in str(caught.value)


@pytest.mark.parametrize(("change", "message"), [
    ({"gpu.sm.count": "144 W"}, "gpu.sm.count: expected a plain number, found '144 W', which is in W"),
    ({"gpu.sm.count": "many"}, "gpu.sm.count: expected a plain number, such as '132', found 'many'"),
    ({"gpu.sm.count": 1.5}, "gpu.sm.count: expected a whole number, found 1.5"),
    ({"gpu.sm.count": 0}, "gpu.sm.count: expected more than 0, found 0"),
    ({"gpu.sm.count": None}, "gpu.sm.count: expected a value, found None"),
    ({"gpu.sm.count": True}, "gpu.sm.count: expected a plain number"),
    ({"gpu.sm.count": {"value": 3}}, "gpu.sm.count: expected a plain number"),
    ({"gpu.sm.count": float("nan")}, "gpu.sm.count: expected a plain number that is finite"),
    ({"dram.bandwidth": "4 TB"}, "dram.bandwidth: expected a quantity in B/s, found '4 TB', which is in B"),
    ({"dram.bandwidth": "-4 TB/s"}, "dram.bandwidth: expected more than 0, found '-4 TB/s'"),
    ({"host.launch": -1}, "host.launch: expected 0 or more, found -1"),
    ({"gpu.sm.tensor.fp16": "3 W"}, "gpu.sm.tensor.fp16: expected a quantity in FLOP/clk, found '3 W', which is in W"),
    ({"link.kind": "ethernet"}, "link.kind: expected 'nvlink' or 'pcie', found 'ethernet'"),
    ({"link.multicast": "maybe"}, "link.multicast: expected true or false, found 'maybe'"),
    ({"gpu.sm": 3}, "h100-sxm: gpu.sm: holds several numbers; name one: gpu.sm.count, "),
    ({"power.limit": 30}, "power.idle: 70 W is not below power.limit, 30 W"),
    ({"gpu.sm.shared_memory_per_cta": "1 MiB"},
        "gpu.sm.shared_memory_per_cta: 1.04858e+06 B exceeds gpu.sm.shared_memory"),
    ([("gpu.sm.count", 3)], "expected changes as a mapping of paths to values"),
])
def test_a_wrong_value_names_its_path(change: Any, message: str) -> None:
    with pytest.raises(SpecError) as caught:
        arch.load("h100-sxm").override(change)
    assert message in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_a_constant_outside_of_its_bounds_names_them() -> None:
    constant = next(iter(loader.constants.all_constants().values()))
    with pytest.raises(SpecError, match=rf"calibration\.{constant.name}: .* is outside of \["):
        arch.load("l4").override({f"calibration.{constant.name}": 2 * abs(constant.high) + 1})
    with pytest.raises(SpecError, match=rf"calibration\.{constant.name}: expected a"):
        arch.load("l4").override({f"calibration.{constant.name}": "lots"})


def test_value_at_refuses_what_is_not_there() -> None:
    for path in ("gpu.sm", "gpu.sm.tensor.fp4", "nothing", "calibration.nothing"):
        with pytest.raises(UnknownNameError, match=r"h100-sxm: unknown path"):
            arch.value_at(arch.load("h100-sxm"), path)


def test_saving_where_nothing_can_be_written_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be written"):
        arch.save(arch.load("t4"), tmp_path / "file" / "x.yaml")
