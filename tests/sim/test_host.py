"""The host and its stream: who waits for whom."""

import pytest

from presilicon.arch import Host
from presilicon.sim.host import Launch, play

HOST = Host(launch_s=4e-6, dispatch_s=6e-6, graph_launch_s=10e-6, stream_gap_s=1e-6, queue_depth=8)


def test_short_kernels_wait_for_the_cpu():
    played = play([Launch(f"k{i}", 2e-6) for i in range(100)], HOST, "eager")
    assert played.time_s == pytest.approx(100 * 10e-6 + 2e-6)
    assert played.gpu_busy_s == pytest.approx(200e-6)
    assert played.first_kernel_s == pytest.approx(10e-6)


def test_long_kernels_hide_the_cpu():
    played = play([Launch(f"k{i}", 1e-3) for i in range(10)], HOST, "eager")
    assert played.time_s == pytest.approx(10e-6 + 10 * 1e-3 + 9 * 1e-6)


def test_the_cpu_runs_ahead_by_no_more_than_the_queue():
    played = play([Launch(f"k{i}", 1e-3) for i in range(20)], HOST, "eager")
    last_launch = max(s.start_s + s.duration_s for s in played.spans if s.lane == "host")
    # the 20th launch enters the queue of 8 only when kernel 11 has begun to run
    assert last_launch >= 10e-6 + 9 * 1e-3


def test_a_graph_is_submitted_once():
    launches = [Launch(f"k{i}", 2e-6) for i in range(100)]
    graph, eager = (play(launches, HOST, runtime) for runtime in ("cudagraph", "eager"))
    assert graph.time_s == pytest.approx(10e-6 + 200e-6)
    assert graph.host_busy_s == pytest.approx(10e-6)
    assert graph.time_s < eager.time_s


def test_an_op_of_several_kernels_pays_each_launch():
    one, three = (play([Launch("op", 5e-6, n)], HOST, "eager").time_s for n in (1, 3))
    assert three - one == pytest.approx(2 * (HOST.launch_s + HOST.stream_gap_s))


def test_no_kernels_take_no_gpu_time():
    assert play([], HOST, "eager").time_s == 0.0
