"""Collectives: traffic bounds, monotonicity, protocol choice, agreement with the measured tables."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from presilicon import arch
from presilicon.errors import TableError, UnknownNameError
from presilicon.mapping.gpu import collective
from presilicon.mapping.gpu.collective import CUSTOM_ALL_REDUCE, Link
from presilicon.mapping.gpu.machine import Machine

MEASURED = Path(__file__).resolve().parents[3] / "shared" / "measured"
NVLINK = Link("nvlink", 300e9, 0.8e-6)
NVSWITCH = Link("nvlink", 450e9, 0.5e-6, multicast=True)
PCIE = Link("pcie", 24e9, 1.2e-6)
OPERATIONS = {
    "all_reduce": collective.all_reduce,
    "all_gather": collective.all_gather,
    "reduce_scatter": collective.reduce_scatter,
    "all_to_all": collective.all_to_all,
}
sizes = st.floats(1.0, 4e9)
groups = st.sampled_from([2.0, 3.0, 4.0, 6.0, 8.0])
links = st.sampled_from([NVLINK, NVSWITCH, PCIE, replace(PCIE, shared_host=False), replace(PCIE, socket_devices=2)])


@pytest.fixture(scope="module")
def machine() -> Machine:
    return Machine.of(arch.load("a100-sxm-80gb"))


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("link", [NVLINK, PCIE])
def test_bulk_time_is_bounded_by_the_bytes_that_must_cross_the_link(machine: Machine, name: str, link: Link) -> None:
    gpus = np.array([2.0, 4.0, 8.0])
    share = (gpus - 1) / gpus * (2 if name == "all_reduce" else 1)
    times = OPERATIONS[name](machine, link, 1e9, gpus)
    np.testing.assert_allclose(times.bytes_moved["link"], 1e9 * share)
    assert (times.time_s > 1e9 * share / link.bandwidth_bytes_per_s).all()


def test_bulk_rates_are_those_of_the_ring(machine: Machine) -> None:
    """The bus bandwidth of a large all-reduce is the link's achievable rate, for any number of GPUs behind a switch."""
    gpus = np.array([4.0, 8.0])
    times = collective.all_reduce(machine, NVLINK, 4e9, gpus)
    bus = 4e9 * 2 * (gpus - 1) / gpus / times.time_s
    reached = NVLINK.bandwidth_bytes_per_s * machine["collective.link_efficiency"]
    assert (bus > 0.9 * reached).all()
    assert (bus <= reached).all()


def test_multicast_beats_the_ring_only_for_large_all_reduce(machine: Machine) -> None:
    plain = replace(NVSWITCH, multicast=False)
    large = collective.all_reduce(machine, NVSWITCH, 1e9, 8)
    assert large.choice["protocol"].item() == "nvls"
    assert large.time_s < 0.85 * collective.all_reduce(machine, plain, 1e9, 8).time_s
    small = collective.all_reduce(machine, NVSWITCH, 1024, 8)
    assert small.time_s == collective.all_reduce(machine, plain, 1024, 8).time_s


def test_protocols_by_size(machine: Machine) -> None:
    protocol = collective.all_gather(machine, NVLINK, np.array([1e3, 8e6, 1e9]), 8).choice["protocol"]
    assert protocol.tolist() == ["ll", "ll128", "simple"]
    assert "ll128" not in collective.all_gather(machine, PCIE, np.geomspace(1, 1e10, 60), 8).choice["protocol"]
    # The library's own cost lines put the switch for two A100s between 1 and 2 MiB (all-gather), as its tables show.
    pair = collective.all_gather(machine, NVLINK, np.array([2.0**20, 2.0**21]), 2).choice["protocol"]
    assert pair.tolist() == ["ll", "simple"]
    # And those of 2, 4 and 8 L40S through their host between 256 and 512 KiB or, all-gather of 8, 512 KiB and 1 MiB.
    l40s = Machine.of(arch.load("l40s"))
    for name, gpus, last in (
        ("all_reduce", 2, 18), ("all_reduce", 4, 18), ("all_reduce", 8, 18),
        ("all_gather", 2, 18), ("all_gather", 4, 18), ("all_gather", 8, 19),
    ):  # fmt: skip
        around = OPERATIONS[name](l40s, PCIE, np.array([2.0**last, 2.0 ** (last + 1)]), gpus)
        assert around.choice["protocol"].tolist() == ["ll", "simple"], (name, gpus)


@pytest.mark.parametrize(("link", "per_peer"), [(NVLINK, 2.0**19), (PCIE, 2.0**15)])
def test_an_exchange_leaves_ll_by_the_bytes_per_peer(machine: Machine, link: Link, per_peer: float) -> None:
    """16 KiB for each channel, 32 over NVLink and 2 through a host: where the tables of 4 and 8 A100 and L40S bend."""
    gpus = np.array([[4.0], [8.0]])
    around = collective.all_to_all(machine, link, per_peer * gpus * np.array([1.0, 1.01]), gpus)
    assert around.choice["protocol"].tolist() == [["ll", "simple"]] * 2


def test_a_shared_host_costs_every_gpu_beyond_the_pair(machine: Machine) -> None:
    gpus = np.array([2.0, 4.0, 8.0])
    shared = collective.all_reduce(machine, PCIE, 1e9, gpus).time_s
    switched = collective.all_reduce(machine, replace(PCIE, shared_host=False), 1e9, gpus).time_s
    assert shared[0] == pytest.approx(switched[0])
    assert (shared[1:] > 3 * switched[1:]).all()
    # Behind one switch a ring of any size has the links to itself.
    bus = 1e9 * 2 * (gpus - 1) / gpus / switched
    np.testing.assert_allclose(bus, bus[0], rtol=0.03)
    assert PCIE.shares_host
    assert not NVLINK.shares_host


@pytest.mark.parametrize("name", OPERATIONS)
def test_only_a_group_of_two_sockets_gains_from_a_process_per_gpu(machine: Machine, name: str) -> None:
    gpus, run = np.array([2.0, 4.0, 8.0]), OPERATIONS[name]
    one, each = (run(machine, PCIE, 1e8, gpus, process_per_gpu=own).time_s for own in (False, True))
    np.testing.assert_array_equal(one[:2], each[:2])
    assert one[2] == pytest.approx(each[2] / machine["collective.socket_share"], rel=0.05)
    wide = replace(PCIE, socket_devices=8)
    assert run(machine, wide, 1e8, 8).time_s == run(machine, wide, 1e8, 8, process_per_gpu=True).time_s
    assert run(machine, NVLINK, 1e8, 8).time_s == run(machine, NVLINK, 1e8, 8, process_per_gpu=True).time_s


def test_a_ring_slows_down_once_its_message_leaves_the_host_cache(machine: Machine) -> None:
    size = machine["collective.host_burst_bytes"] * np.array([0.5, 1.0, 1.001])
    shared = collective.all_reduce(machine, PCIE, size, 4).time_s
    switched = collective.all_reduce(machine, replace(PCIE, shared_host=False), size, 4).time_s
    assert shared[2] > 1.3 * shared[1]
    assert switched[2] < 1.01 * switched[1]
    exchange = collective.all_to_all(machine, PCIE, size, 4).time_s
    assert exchange[2] < 1.01 * exchange[1]


def test_custom_kernels_run_where_their_framework_says(machine: Machine) -> None:
    limit = CUSTOM_ALL_REDUCE["sglang"].max_bytes
    size = np.array([4096.0, limit, limit + 2])
    protocol = collective.all_reduce(machine, NVLINK, size, 8, implementation="sglang").choice["protocol"]
    assert protocol[:2].tolist() == ["one_shot", "two_shot"]
    assert protocol[2] in ("ll", "ll128", "simple")
    nccl = collective.all_reduce(machine, PCIE, 4096.0, 4)
    assert collective.all_reduce(machine, PCIE, 4096.0, 4, implementation="vllm").time_s == nccl.time_s
    assert collective.all_reduce(machine, PCIE, 4096.0, 2, implementation="vllm").time_s < nccl.time_s
    with pytest.raises(UnknownNameError, match="vllm"):
        collective.all_reduce(machine, NVLINK, 1.0, 2, implementation="vlm")


def test_the_switch_adds_no_bytes_and_serves_only_large_groups(machine: Machine) -> None:
    size = np.array([1e9])
    ring = collective.all_reduce(machine, replace(NVSWITCH, multicast=False), size, 8).time_s
    assert collective.all_reduce(machine, NVSWITCH, size, 8, in_switch=False).time_s == ring
    assert collective.all_reduce(machine, NVSWITCH, size, 8).time_s < ring
    for gpus in (2, 4):
        assert collective.all_reduce(machine, NVSWITCH, size, gpus).choice["protocol"] != "nvls"


def test_vllm_takes_two_shots_from_its_documented_sizes(machine: Machine) -> None:
    size = 1024.0 * np.array([255.0, 256.0, 511.0, 512.0, 4096.0])
    kernels = {n: collective.all_reduce(machine, NVLINK, size, n, implementation="vllm").choice["protocol"].tolist() for n in (2, 4, 8)}
    assert kernels[2] == ["one_shot"] * 5
    assert kernels[4] == ["one_shot"] * 3 + ["two_shot"] * 2
    assert kernels[8] == ["one_shot"] + ["two_shot"] * 4


def test_tensorrt_llm_kernels_wait_for_one_hop_and_end_at_their_workspace(machine: Machine) -> None:
    lamport, barriers = (collective.all_reduce(machine, NVLINK, 128.0, 4, implementation=n).time_s for n in ("trtllm", "vllm"))
    assert barriers - lamport == pytest.approx(machine["collective.hop"] * NVLINK.latency_s, rel=0.05)
    size = np.array([7.9e6, 8.1e6, 15.9e6, 16.1e6])
    for gpus, own in ((2, 3), (4, 1)):
        chosen = collective.all_reduce(machine, NVLINK, size, gpus, implementation="trtllm").choice["protocol"]
        assert [name in ("one_shot", "two_shot") for name in chosen] == [i < own for i in range(4)]
    older = collective.all_reduce(machine, NVLINK, np.array([1e6, 1.1e6]), 8, implementation="trtllm-1.0").choice["protocol"]
    assert older[0] == "one_shot"
    assert older[1] not in ("one_shot", "two_shot")


def test_blocks_of_a_kernel_bound_its_bandwidth_on_a_faster_link(machine: Machine) -> None:
    fast = replace(NVLINK, bandwidth_bytes_per_s=1e13)
    size = np.array([2.0**20, 2.0**21])
    time = collective.all_reduce(machine, fast, size, 2, implementation="vllm").time_s
    in_flight, trip = 36 * 512 * 16.0, 2.0 * machine["collective.hop"] * NVLINK.latency_s
    bound = in_flight / trip * machine["collective.one_shot_fraction"]
    assert (size[1] - size[0]) / (time[1] - time[0]) == pytest.approx(bound, rel=0.02)


def test_eager_calls_wait_for_the_host_or_for_the_copy(machine: Machine) -> None:
    size = np.array([128.0, 1e9])
    graph = collective.all_reduce(machine, NVLINK, size, 8, implementation="vllm")
    eager = collective.all_reduce(machine, NVLINK, size, 8, implementation="vllm", eager=True)
    assert eager.time_s[0] == machine["collective.host_custom"]
    assert eager.time_s[1] - graph.time_s[1] > 2 * size[1] / machine.dram_bytes_per_s


@pytest.mark.parametrize("name", OPERATIONS)
def test_one_gpu_takes_no_time(machine: Machine, name: str) -> None:
    times = OPERATIONS[name](machine, NVSWITCH, np.array([1.0, 1e9]), 1)
    assert not times.time_s.any()
    assert not times.bytes_moved["link"].any()


def test_designs_broadcast(machine: Machine) -> None:
    link = replace(NVLINK, bandwidth_bytes_per_s=np.array([[3e11], [6e11]]))
    size = np.geomspace(1e3, 1e9, 7)
    times = collective.all_reduce(machine, link, size, 8)
    assert times.time_s.shape == (2, 7)
    assert all(value.shape == (2, 7) for value in times.busy_s.values())
    np.testing.assert_array_equal(times.time_s[0], collective.all_reduce(machine, NVLINK, size, 8).time_s)


@settings(max_examples=150, deadline=None)
@given(
    size=sizes, gpus=groups, link=links, name=st.sampled_from(sorted(OPERATIONS)), factor=st.floats(1.0, 8.0),
    own=st.booleans(), system=st.sampled_from(["a100-sxm-80gb", "l40s"]),
)  # fmt: skip
def test_better_links_and_smaller_messages_are_never_slower(
    size: float, gpus: float, link: Link, name: str, factor: float, own: bool, system: str
) -> None:
    base = Machine.of(arch.load(system))
    run = partial(OPERATIONS[name], process_per_gpu=own)
    time = run(base, link, size, gpus).time_s
    slack = 1 + 1e-12
    assert run(base, link, size * factor, gpus).time_s * slack >= time
    wider = replace(link, bandwidth_bytes_per_s=link.bandwidth_bytes_per_s * factor)
    nearer = replace(link, latency_s=link.latency_s / factor)
    memory = replace(base, dram_bytes_per_s=base.dram_bytes_per_s * factor)
    assert run(base, wider, size, gpus).time_s <= time * slack
    assert run(base, nearer, size, gpus).time_s <= time * slack
    assert run(memory, link, size, gpus).time_s <= time * slack


@settings(max_examples=150, deadline=None)
@given(
    size=sizes, gpus=groups, link=links, factor=st.floats(1.0, 8.0), eager=st.booleans(),
    implementation=st.sampled_from(sorted(CUSTOM_ALL_REDUCE)),
)  # fmt: skip
def test_custom_all_reduce_is_monotone(
    size: float, gpus: float, link: Link, implementation: str, eager: bool, factor: float
) -> None:
    base = Machine.of(arch.load("a100-sxm-80gb"))

    def run(machine: Machine, link: Link, size: float) -> float:
        times = collective.all_reduce(machine, link, size, gpus, implementation=implementation, eager=eager)
        return float(times.time_s)

    time, slack = run(base, link, size), 1 + 1e-12
    assert run(base, link, size * factor) * slack >= time
    assert run(base, replace(link, bandwidth_bytes_per_s=link.bandwidth_bytes_per_s * factor), size) <= time * slack
    assert run(base, replace(link, latency_s=link.latency_s / factor), size) <= time * slack
    assert run(replace(base, dram_bytes_per_s=base.dram_bytes_per_s * factor), link, size) <= time * slack


def test_operations_of_a_table_without_their_column() -> None:
    found = collective.operation_by_occurrence(["half"] * 8, [2, 2, 2, 2, 2, 2, 2, 2], [1, 2, 1, 2, 1, 2, 1, 2])
    assert found.tolist() == [name for name in collective.NCCL_TABLE_ORDER for _ in range(2)]
    with pytest.raises(TableError, match="occurs 3 times"):
        collective.operation_by_occurrence([2, 2, 2])


needs_tables = pytest.mark.skipif(not MEASURED.exists(), reason="the measured tables (../shared/measured) are not here")


@needs_tables
@pytest.mark.parametrize(("table", "system", "bar"), [("a100_sxm", "a100-sxm-80gb", 0.06), ("l40s", "l40s", 0.11)])
def test_measured_nccl(table: str, system: str, bar: float) -> None:
    import pandas as pd

    rows = pd.read_csv(MEASURED / f"{table}.nccl.csv")
    operation = collective.operation_by_occurrence(rows.nccl_dtype, rows.num_gpus, rows.message_size)
    loaded = arch.load(system)
    machine, link = Machine.of(loaded), Link.of(loaded.link)
    size = rows.message_size * rows.nccl_dtype.map({"half": 2, "int8": 1})
    errors = []
    for name, run in OPERATIONS.items():
        chosen = operation == name
        time = run(machine, link, size[chosen].to_numpy(), rows.num_gpus[chosen].to_numpy()).time_s
        errors.append(np.abs(time / rows.latency_s[chosen] - 1))
    assert np.concatenate(errors).mean() < bar


@needs_tables
def test_measured_all_reduce_of_frameworks_on_two_servers() -> None:
    """One release of SGLang was timed on a server whose 8 GPUs reach the bandwidth of 2: as behind one switch."""
    import pandas as pd

    rows = pd.read_csv(MEASURED / "l40s.custom_allreduce.csv")
    loaded = arch.load("l40s")
    machine, host = Machine.of(loaded), Link.of(loaded.link)
    other = (rows.version == "0.5.12") & (rows.framework == "sglang")
    errors = []
    kernel = rows.framework.where(rows.kernel_source != "TRTLLM", "trtllm")
    eager_rows = rows.kernel_source.str.contains("eager")
    for (framework, eager, switched), part in rows.groupby([kernel, eager_rows, other]):
        link, run = (replace(host, shared_host=False), "nccl") if switched else (host, framework)
        size, gpus = 2.0 * part.message_size.to_numpy(), part.num_gpus.to_numpy()
        time = collective.all_reduce(machine, link, size, gpus, implementation=run, eager=bool(eager)).time_s
        errors.append(pd.DataFrame({"error": np.abs(time / part.latency_s - 1), "other": switched}))
    mean = pd.concat(errors).groupby("other").error.mean()
    assert mean[False] < 0.12
    assert mean[True] < 0.15
