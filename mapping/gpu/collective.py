"""Closed forms of collectives inside one node: NCCL's rings, NVLS, point-to-point exchange, and custom all-reduce.

Sizes follow nccl-tests: ``message_bytes`` is the whole vector for all-reduce, the gathered output for all-gather, the
input for reduce-scatter, and what one GPU sends in all (its own part included) for all-to-all.

Every GPU of the group does the same work at the same time, so the time of a collective is that of one GPU: latency of
the steps, plus the bytes that cross its link in one direction over the bandwidth that the protocol reaches.

Sources
-------
Ring traffic of ``2 (n-1)/n`` and ``(n-1)/n``: Patarasuk and Yuan, "Bandwidth optimal all-reduce algorithms for clusters
of workstations" (JPDC 2009). Steps, and the LL, LL128 and Simple protocols: NCCL, src/graph/tuning.cc. One-shot and
two-shot kernels: vLLM, csrc/custom_all_reduce.cuh. Send and receive: NCCL, src/enqueue.cc and src/graph/paths.cc. NVLS
traffic of ``1 + 1/n``: each GPU is read once by the switch's reduction and stores its n-th part by multicast.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np

from ...errors import TableError, UnknownNameError
from .machine import KernelTimes, Machine, Number

#: The order in which AIConfigurator's collector runs the operations for each (num_gpus, dtype).
NCCL_TABLE_ORDER = ("all_gather", "all_to_all", "reduce_scatter", "all_reduce")

#: A send takes LL up to this many bytes for each of its channels (NCCL, src/enqueue.cc, NCCL_P2P_LL_THRESHOLD).
P2P_LL_BYTES = 16384.0


#: The largest group for which NCCL's tables on NVSwitch nodes show rings at every size (int8, which the switch cannot add,
#: takes as long as fp16 on 4 GPUs, and longer on 8).
NVLS_MOST_RINGS = 4.0


_Time = Callable[[Any], np.ndarray]
Operation = Literal["all_reduce", "all_gather", "reduce_scatter", "all_to_all"]


@dataclass(frozen=True)
class Link:
    """What joins the GPUs of one node; every number may be an array that broadcasts against the message sizes.

    Attributes
    ----------
    kind
        ``"nvlink"``: any GPU to any other through switches at full bandwidth. ``"pcie"``: through the host.
    bandwidth_bytes_per_s
        Of one GPU, in one direction (A100 300e9, H100 450e9, B200 900e9, PCIe 4.0 x16 32e9).
    latency_s
        From a store to a peer's memory until that peer's poll sees it.
    max_devices
        GPUs that the link joins.
    multicast
        Whether the switch reduces and multicasts (NVLS; NVLink switches from Hopper on).
    shared_host
        Whether transfers between GPUs share host bridges, so that each GPU's bandwidth falls as the group grows. False
        for NVLink, and for PCIe behind one switch with peer-to-peer transfers; None: true for PCIe.
    socket_devices
        GPUs whose bridges belong to one CPU socket; a larger group spans two. Matters only where the host is shared.
    """

    kind: Literal["nvlink", "pcie"]
    bandwidth_bytes_per_s: Number
    latency_s: Number
    max_devices: int = 8
    multicast: bool = False
    shared_host: bool | None = None
    socket_devices: Number = 4

    @property
    def shares_host(self) -> bool:
        """`shared_host`, and where that is not given whether the link is PCIe."""
        return self.kind == "pcie" if self.shared_host is None else self.shared_host

    @classmethod
    def of(cls, link: Any, shared_host: bool | None = None) -> Link:
        """From the link of a device file (anything with this class's first five attributes)."""
        return cls(link.kind, link.bandwidth_bytes_per_s, link.latency_s, link.max_devices, link.multicast, shared_host)


@dataclass(frozen=True)
class CustomAllReduce:
    """Which all-reduce kernel a serving framework launches.

    Attributes
    ----------
    max_bytes, pair_bytes
        Up to this size its own kernel runs, above it NCCL; and for two GPUs.
    pcie_pair
        Whether its kernel also runs on two GPUs that only PCIe joins.
    hops
        Flag hops of its one-shot kernel: a barrier before and one after, or data that carry their own flags (Lamport).
    in_flight_bytes
        Bytes that its kernel has under way to each peer: blocks times threads times 16 bytes.
    one_shot_bytes
        Message sizes from which groups of up to 4 and of up to 8 GPUs take two shots (a pair never does); None: whichever
        is faster.
    two_shots
        Whether it has a two-shot kernel.
    """

    max_bytes: float
    pcie_pair: bool
    pair_bytes: float = 0.0
    hops: float = 2.0
    in_flight_bytes: float = np.inf
    one_shot_bytes: tuple[float, float] | None = None
    two_shots: bool = True

    def limit(self, num_gpus: np.ndarray) -> np.ndarray:
        """Largest message of its own kernel."""
        return np.where(num_gpus <= 2.0, max(self.max_bytes, self.pair_bytes), self.max_bytes)


_VLLM_IN_FLIGHT: Final = 36 * 512 * 16.0
_VLLM_ONE_SHOT: Final = (512 * 1024.0, 256 * 1024.0)

#: Documented rules of the frameworks' own kernels: max_size of vLLM's and SGLang's CustomAllreduce, and blocks, threads and
#: thresholds of csrc/custom_all_reduce.cuh; TensorRT-LLM's Lamport kernels need NVLink, in 1.0 up to 1 MiB, later up to the
#: workspace of CustomAllReduceHelper.max_workspace_size_auto (16 MB for a pair, 8 MB beyond).
CUSTOM_ALL_REDUCE: Mapping[str, CustomAllReduce] = {
    "vllm": CustomAllReduce(8 * 2**20 - 1, pcie_pair=True, in_flight_bytes=_VLLM_IN_FLIGHT, one_shot_bytes=_VLLM_ONE_SHOT),
    "sglang": CustomAllReduce(8 * 2**20, pcie_pair=True, in_flight_bytes=_VLLM_IN_FLIGHT, one_shot_bytes=_VLLM_ONE_SHOT),
    "trtllm-1.0": CustomAllReduce(max_bytes=2**20, pcie_pair=False, hops=1.0, two_shots=False),
    "trtllm": CustomAllReduce(max_bytes=8e6, pcie_pair=False, pair_bytes=16e6, hops=1.0),
}


def _link_rate(machine: Machine, link: Link, in_flight_bytes: Any, num_gpus: np.ndarray, remote: Any) -> np.ndarray:
    """Bytes per second that one GPU sends in one direction while the whole group does, at best.

    A pair behind a shared host has its links to itself. In a larger group every message is staged in host memory, and
    each further GPU takes its part of what the bridges carry. What is in flight at once and fits the part of the last
    level cache that devices write to fares better than what goes through DRAM. ``remote``: staged on one socket's
    memory by GPUs of both.
    """
    rate = link.bandwidth_bytes_per_s * machine["collective.link_efficiency"]
    shape = np.broadcast_shapes(np.shape(rate), np.shape(in_flight_bytes), np.shape(num_gpus))
    if not link.shares_host:
        return np.broadcast_to(rate, shape)
    burst = in_flight_bytes <= machine["collective.host_burst_bytes"]
    sharing = machine["collective.host_sharing"] * np.where(burst, machine["collective.host_burst_sharing"], 1.0)
    rate = rate * np.where(remote, machine["collective.socket_share"], 1.0)
    return np.broadcast_to(rate / (1.0 + sharing * np.maximum(num_gpus - 2.0, 0.0)), shape)


def _remote(link: Link, num_gpus: np.ndarray, process_per_gpu: bool) -> np.ndarray:
    """Whether GPUs of two sockets stage on one: one process drives them all (a process per GPU stages on its own)."""
    return np.logical_and(num_gpus > link.socket_devices, not process_per_gpu)


def _channels(link: Link, num_gpus: np.ndarray) -> np.ndarray:
    """Channels between two GPUs: 2 per NVLink, rounded up to a power of two; 2 through a host, 4 for a pair alone."""
    return np.full(num_gpus.shape, 32.0) if link.kind == "nvlink" else np.where(num_gpus > 2.0, 2.0, 4.0)


def _steps_and_share(operation: Operation, num_gpus: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Latency steps, and the part of the message that crosses each link in one direction."""
    peers = np.maximum(num_gpus - 1.0, 0.0)
    share = peers / np.maximum(num_gpus, 1.0)
    if operation == "all_reduce":
        return 2.0 * peers, 2.0 * share
    if operation == "all_to_all":
        return np.minimum(peers, 1.0), share
    return peers, share


def _finish(
    machine: Machine,
    gpus: np.ndarray,
    time: np.ndarray,
    latency: np.ndarray,
    link_s: np.ndarray,
    link_bytes: np.ndarray,
    dram: np.ndarray,
    choice: Mapping[str, np.ndarray],
    host: np.ndarray | None = None,
) -> KernelTimes:
    """A group of one GPU moves nothing and takes no time."""
    some = gpus > 1.0
    shape = np.broadcast_shapes(time.shape, np.shape(machine.clock_hz))

    def spread(value: np.ndarray) -> np.ndarray:
        return np.broadcast_to(np.where(some, value, 0.0), shape)

    # The host's time for an eager call is a start that nothing on the GPU shortens.
    start = latency if host is None else np.maximum(latency, host)
    return KernelTimes(
        time_s=spread(time),
        busy_s={"link": spread(link_s), "floor": spread(start), "dram": spread(dram / machine.dram_bytes_per_s)},
        bytes_moved={"link": spread(link_bytes), "dram": spread(dram), "l2": spread(dram)},
        clock_hz=np.broadcast_to(np.asarray(machine.clock_hz, dtype=float), shape),
        choice={name: np.broadcast_to(value, shape) for name, value in choice.items()},
    )


def _tuner_switches(
    link: Link, belief: Number, operation: Operation, steps: np.ndarray, share: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Message bytes above which NCCL leaves LL, and above which it takes Simple (the second is never the smaller).

    The library compares lines of latency and bandwidth that it assumes (src/graph/tuning.cc, from 2.19 on), so the
    switch does not depend on what the link in fact gives; ``belief`` is the bus bandwidth that it assumes.
    """
    nvlink = link.kind == "nvlink"
    per_byte = np.maximum(share, 1e-9) / belief
    ll = 6.6e-6 + (0.6e-6 if nvlink else 1.0e-6) * steps
    simple = 8.4e-6 + (3.4e-6 if nvlink else 5.7e-6) * steps
    ll_cost = 4.0 if operation == "all_reduce" else 3.0
    to_simple = (simple - ll) / (per_byte * (ll_cost - 1.0))
    if not nvlink:  # LL128 needs 128-byte stores that arrive whole
        return to_simple, to_simple
    ll128 = 14.0e-6 + 1.9e-6 * steps
    to_ll128 = (ll128 - ll) / (per_byte * (ll_cost - 1.0 / 0.92))
    leave = np.minimum(to_simple, to_ll128)
    return leave, np.maximum(leave, (simple - ll128) / (per_byte * (1.0 / 0.92 - 1.0)))


def _switched(size: np.ndarray, at: Any, before: _Time, after: _Time) -> np.ndarray:
    """Seconds of a protocol up to ``at`` bytes and of another above it.

    Where the library leaves a protocol too late, the time would fall as the message grows; the nearest curve that does
    not is level there, between the two.
    """
    level = np.sqrt(before(at) * after(at))
    return np.where(size <= at, np.minimum(before(size), level), np.maximum(after(size), level))


def _nccl(
    machine: Machine, link: Link, message_bytes: Any, num_gpus: Any, operation: Operation, process_per_gpu: bool,
    in_switch: bool = True,
) -> KernelTimes:  # fmt: skip
    size, gpus = np.broadcast_arrays(np.asarray(message_bytes, dtype=float), np.asarray(num_gpus, dtype=float))
    steps, share = _steps_and_share(operation, gpus)
    exchange = operation == "all_to_all"
    remote, channels = _remote(link, gpus, process_per_gpu), _channels(link, gpus)

    def rate(in_flight_bytes: Any) -> np.ndarray:  # an exchange loads all bridges both ways, as bulk does
        return _link_rate(machine, link, np.inf if exchange else in_flight_bytes, gpus, remote)

    hop, barrier = machine["collective.hop"] * link.latency_s, machine["collective.barrier_hops"]
    floor = machine["collective.floor"]
    barriers = steps * barrier
    if exchange:  # nothing to wait for before the first peer
        floor = floor + machine["collective.exchange_floor"]
        further = machine["collective.exchange_step"] * np.maximum(gpus - 2.0, 0.0)
        steps, barriers = steps + further, steps + further * barrier
    # A GPU's own part is copied by the same few CTAs, not by the whole GPU.
    own_copy = 2.0 / np.maximum(gpus, 1.0) / (machine.dram_bytes_per_s * machine["collective.own_copy"])

    # Every store of LL and LL128 carries its flag, so a step is one hop; a step of Simple is a slice and a barrier. A
    # small message uses one channel (one CTA); more channels join, and have to meet, as it grows.
    def ll(bytes_: Any) -> np.ndarray:
        ramp = machine["collective.channel_ramp"] * bytes_ / (bytes_ + machine["collective.channel_bytes"])
        # Half of what LL stores is flags; those polled from the other socket keep a burst out of its cache.
        stored = np.where(remote, np.inf, 2.0 * bytes_)
        return floor + steps * hop + ramp + bytes_ * share / (rate(stored) * machine["collective.ll_fraction"])

    def ll128(bytes_: Any) -> np.ndarray:
        start = floor + machine["collective.channel_ramp"] + steps * hop * machine["collective.ll128_hops"]
        return start + bytes_ * share / (rate(bytes_) * machine["collective.ll128_fraction"])

    def simple(bytes_: Any) -> np.ndarray:
        start = floor + machine["collective.slice_fill"] + hop * barriers
        return start + bytes_ * (share / rate(bytes_) + own_copy)

    latency = np.broadcast_to(floor + steps * hop, np.broadcast_shapes(size.shape, np.shape(floor + steps * hop)))
    if exchange:
        leave_ll = to_simple = P2P_LL_BYTES * channels * gpus
        time = _switched(size, leave_ll, ll, simple)
    else:
        if link.kind == "nvlink":
            belief = machine["collective.tuner_bandwidth"]
        else:
            belief = machine["collective.tuner_channel_bandwidth"] * channels
        leave_ll, to_simple = _tuner_switches(link, belief, operation, steps, share)

        def larger(bytes_: Any) -> np.ndarray:
            if link.kind == "pcie":
                return simple(bytes_)
            return np.where(to_simple > leave_ll, _switched(bytes_, to_simple, ll128, simple), simple(bytes_))

        time = _switched(size, leave_ll, ll, larger)
    protocol = np.where(size > to_simple, "simple", np.where(size > leave_ll, "ll128", "ll"))
    link_bytes = size * share
    if operation == "all_reduce" and in_switch and np.any(link.multicast):
        nvls_bytes = size * (1.0 + 1.0 / np.maximum(gpus, 1.0))
        nvls = floor + machine["collective.nvls_fill"] + 2.0 * hop
        nvls_time = nvls + nvls_bytes / (link.bandwidth_bytes_per_s * machine["collective.nvls_efficiency"])
        better = np.logical_and(link.multicast, gpus > NVLS_MOST_RINGS) & (nvls_time < time)
        time, latency = np.where(better, nvls_time, time), np.where(better, nvls, latency)
        protocol, link_bytes = np.where(better, "nvls", protocol), np.where(better, nvls_bytes, link_bytes)
    passes = 3.0 if operation in ("all_reduce", "reduce_scatter") else 2.0
    choice = {"protocol": protocol}
    return _finish(machine, gpus, time, latency, link_bytes / rate(size), link_bytes, passes * link_bytes, choice)


def all_reduce(
    machine: Machine,
    link: Link,
    message_bytes: Any,
    num_gpus: Any,
    *,
    implementation: str = "nccl",
    eager: bool = False,
    process_per_gpu: bool | None = None,
    in_switch: bool = True,
) -> KernelTimes:
    """All-reduce inside one node.

    Parameters
    ----------
    message_bytes, num_gpus
        Arrays that broadcast together; one GPU takes no time.
    implementation
        ``"nccl"``, or a framework of `CUSTOM_ALL_REDUCE`, whose own one-shot or two-shot kernel runs
        up to its documented size limit where its link condition holds, and NCCL elsewhere.
    eager
        Launched from the host, call by call, as a framework does outside CUDA graphs: the time is then at least the
        host's time for one call, and the input is copied first (twice for a custom kernel, whose buffer is registered).
    process_per_gpu
        Each GPU is driven by its own process, which stages on its own socket, as frameworks do; False: by threads of
        one process, as nccl-tests does. None: true for a framework.
    in_switch
        Whether the switch can add the elements (NVLink SHARP: 16, 32 and 64-bit types, not int8).

    Raises
    ------
    UnknownNameError
        For an unknown implementation.
    """
    size, gpus = np.broadcast_arrays(np.asarray(message_bytes, dtype=float), np.asarray(num_gpus, dtype=float))
    alone = implementation != "nccl" if process_per_gpu is None else process_per_gpu
    nccl = _nccl(machine, link, size, gpus, "all_reduce", alone, in_switch)
    library_s = nccl.time_s + (_eager_copy(machine, size, 1.0) if eager else 0.0)
    if implementation == "nccl":
        own, time, choice = np.zeros(size.shape, dtype=bool), library_s, dict(nccl.choice)
        link_bytes, latency = nccl.bytes_moved["link"], nccl.busy_s["floor"]
    elif implementation in CUSTOM_ALL_REDUCE:
        rule = CUSTOM_ALL_REDUCE[implementation]
        able = gpus > 1.0 if link.kind == "nvlink" else (gpus == 2.0) & rule.pcie_pair
        limit = rule.limit(gpus)
        own = able & (size <= limit)
        # Above the limit the library is at least as slow as the kernel at the limit: a larger message is never faster.
        limited = np.minimum(size, limit)
        kernel_s, start_s, kernel_bytes, kernel = _custom_kernel(machine, link, limited, gpus, rule)
        own_s = kernel_s + (_eager_copy(machine, limited, 2.0) if eager else 0.0)
        time = np.where(own, own_s, np.where(able, np.maximum(library_s, own_s), library_s))
        link_bytes = np.where(own, kernel_bytes, nccl.bytes_moved["link"])
        latency = np.where(own, start_s, nccl.busy_s["floor"])
        choice = {"protocol": np.where(own, kernel, nccl.choice["protocol"])}
    else:
        raise UnknownNameError("all-reduce implementation", implementation, ["nccl", *CUSTOM_ALL_REDUCE])
    link_s = link_bytes / _link_rate(machine, link, size, gpus, _remote(link, gpus, alone))
    dram = 3.0 * link_bytes
    if not eager:
        return _finish(machine, gpus, time, latency, link_s, link_bytes, dram, choice)
    host: Any = np.where(own, machine["collective.host_custom"], machine["collective.host_nccl"])
    dram = dram + np.where(own, 4.0, 2.0) * size
    return _finish(machine, gpus, np.maximum(time, host), latency, link_s, link_bytes, dram, choice, host)


def _custom_kernel(
    machine: Machine, link: Link, size: np.ndarray, gpus: np.ndarray, rule: CustomAllReduce
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Time, start-up time, link bytes and name of the framework's one-shot or two-shot kernel."""
    peers = np.maximum(gpus - 1.0, 0.0)
    hop = machine["collective.hop"] * link.latency_s
    # what is under way to all peers comes once in a round trip
    rate = np.minimum(_link_rate(machine, link, size, gpus, False), np.maximum(peers, 1.0) * rule.in_flight_bytes / (2.0 * hop))
    start = machine["collective.custom_floor"] + rule.hops * hop
    ramp = machine["collective.custom_ramp"] * size / (size + machine["collective.channel_bytes"])
    # One shot: every GPU reads all of each peer's vector. Two shots: reduce-scatter, barrier, all-gather.
    one_bytes = peers * size
    one = start + ramp + one_bytes / (rate * machine["collective.one_shot_fraction"])
    two_bytes = 2.0 * peers / np.maximum(gpus, 1.0) * size
    two_start = start + machine["collective.two_shot_floor"] + 2.0 * hop
    two = two_start + ramp + two_bytes / rate
    if not rule.two_shots:
        first = np.full(one.shape, True)
    elif rule.one_shot_bytes is None:
        first = one <= two
    else:
        few, many = rule.one_shot_bytes
        first = (gpus <= 2.0) | (size < np.where(gpus <= 4.0, few, many))
        at_switch = np.where(gpus <= 4.0, few, many) * peers / (rate * machine["collective.one_shot_fraction"])
        two = np.maximum(two, start + ramp + at_switch)  # a message past the switch is never faster than one before
    return (
        np.where(first, one, two), np.where(first, start, two_start), np.where(first, one_bytes, two_bytes),
        np.where(first, "one_shot", "two_shot"),
    )  # fmt: skip


def _eager_copy(machine: Machine, size: np.ndarray, copies: float) -> np.ndarray:
    """Seconds for `copies` device-to-device copies of the message."""
    rate = machine.dram_bytes_per_s * machine["collective.copy_efficiency"]
    return copies * 2.0 * size / rate


def all_gather(
    machine: Machine, link: Link, message_bytes: Any, num_gpus: Any, *, process_per_gpu: bool = False
) -> KernelTimes:
    """NCCL all-gather; ``message_bytes`` is the gathered output. Arrays broadcast together."""
    return _nccl(machine, link, message_bytes, num_gpus, "all_gather", process_per_gpu)


def reduce_scatter(
    machine: Machine, link: Link, message_bytes: Any, num_gpus: Any, *, process_per_gpu: bool = False
) -> KernelTimes:
    """NCCL reduce-scatter; ``message_bytes`` is the input of one GPU. Arrays broadcast together."""
    return _nccl(machine, link, message_bytes, num_gpus, "reduce_scatter", process_per_gpu)


def all_to_all(
    machine: Machine, link: Link, message_bytes: Any, num_gpus: Any, *, process_per_gpu: bool = False
) -> KernelTimes:
    """All-to-all by NCCL sends and receives; ``message_bytes`` is what one GPU sends in all. Arrays broadcast."""
    return _nccl(machine, link, message_bytes, num_gpus, "all_to_all", process_per_gpu)


def send(machine: Machine, link: Link, message_bytes: Any, num_gpus: Any = 2, *, process_per_gpu: bool = False) -> KernelTimes:
    """One GPU sends ``message_bytes`` to another: half of an exchange between two, in which each keeps the other half."""
    size = np.asarray(message_bytes, dtype=float)
    return _nccl(machine, link, 2.0 * size, np.minimum(num_gpus, 2.0), "all_to_all", process_per_gpu)


def operation_by_occurrence(*keys: Any) -> np.ndarray:
    """Operation of each row of an NCCL table without an operation column, by how often its key came before.

    AIConfigurator's tables hold every (dtype, num_gpus, message size) four times, in the order in which its collector
    runs the operations (`NCCL_TABLE_ORDER`; collector/collect_comm.sh). The rows must be in that order and complete.

    Parameters
    ----------
    keys
        Columns of equal length (dtype, num_gpus, message_size).

    Returns
    -------
    Array of operation names, shape ``(rows,)``.

    Raises
    ------
    TableError
        If some key does not occur exactly four times.

    Examples
    --------
    >>> operation_by_occurrence([2, 4, 2, 2, 4, 2, 4, 4]).tolist()[:3]
    ['all_gather', 'all_gather', 'all_to_all']
    """
    if len({len(key) for key in keys}) != 1:
        raise TableError("operation: the key columns differ in length")
    seen: dict[tuple[Any, ...], int] = {}
    order = []
    for key in zip(*keys, strict=True):
        order.append(seen.get(key, 0))
        seen[key] = order[-1] + 1
    wrong = next((key for key, count in seen.items() if count != len(NCCL_TABLE_ORDER)), None)
    if wrong is not None:
        raise TableError(
            f"operation: {wrong} occurs {seen[wrong]} times, expected {len(NCCL_TABLE_ORDER)}: "
            "the table is not complete, so name the operation in a column"
        )
    return np.array(NCCL_TABLE_ORDER)[order]
