"""Whose turn it is on a device: told from the order in which runs end, not from how long they take."""
import os
import signal
import threading
import time

import grpc
import numpy as np
import pytest
from conftest import TSAN, Graph, add_graph, fails, kiln_pb2, slow_graph, tensor
from tenants import As, boss, ones, section

N = 256


def product_graph(times):
    g = Graph()
    y = x = g.param("x", [N, N])
    for _ in range(times):
        y = g.node("MATMUL", y, x)
    g.output("y", y)
    return g.bytes()


class Flood:
    """So many runs at once of one tenant; `done` counts those that have ended well."""

    def __init__(self, who, exe, n, **fields):
        self.done, self.lock, self.who = 0, threading.Lock(), who
        x = kiln_pb2.NamedTensor(name="x", buffer=who.upload(np.zeros((N, N), np.float32)))
        request = kiln_pb2.RunRequest(executable=exe, inputs=[x], outputs_as_buffers=True, **fields)
        self.calls = [who.stub.Run.future(request, timeout=120) for _ in range(n)]
        for c in self.calls:
            c.add_done_callback(self._count)

    def _count(self, call):
        with self.lock:
            self.done += call.code() == grpc.StatusCode.OK

    def wait_for(self, n):
        while self.done < n:
            time.sleep(0.001)

    def wait(self):
        for c in self.calls:
            c.result()


def channel(d):
    return grpc.insecure_channel(f"unix:{d.socket}", options=[("grpc.use_local_subchannel_pool", 1)])


@pytest.fixture(params=["shared", "strict"])
def shared(request, start):
    """Tenants a and b, equal, and c with four times the weight, each on a connection of its own; with one worker for all, and with
    one for each."""
    d = start(config=["[server]", f"isolation = {request.param}", *boss(), *section("a"), *section("b"), *section("c", weight=4)])
    d.strict = request.param == "strict"
    return [As(d, name, channel=channel(d)) for name in "abc"]


def test_a_flood_does_not_bury_others(shared):
    a, b, _ = shared
    model = product_graph(20)
    mine, theirs = b.compile(model).executable, a.compile(model).executable
    flood = Flood(a, theirs, 90)
    flood.wait_for(2)
    few = Flood(b, mine, 5)
    few.wait()
    assert flood.done < 45, flood.done  # in the order of asking it would be 90
    flood.wait()


def test_weights(shared):
    """By the time that runs take, which a busy machine may multiply for one of them: hence three tries."""
    a, _, c = shared
    model = product_graph(20)
    cheap, dear = a.compile(model).executable, c.compile(model).executable
    ran = []
    for _ in range(3):
        light, heavy = Flood(a, cheap, 99), Flood(c, dear, 99)
        heavy.wait_for(5)
        before = light.done
        heavy.wait_for(heavy.done + 60)
        ran.append(light.done - before)
        if 5 <= ran[-1] <= 30:  # 15; without weights it would be 60
            return
        light.wait()
        heavy.wait()
    pytest.fail(f"beside 60 runs of a tenant of four times the weight: {ran}")


@pytest.mark.skipif(TSAN, reason="its runtime keeps signals until the next system call")
def test_nobody_waits_for_a_worker_that_hangs(start):
    """Each has its own: the device is not held by a kernel of minutes, nor by a worker that is stopped."""
    d = start(config=["[server]", "isolation = strict", *boss(), *section("a"), *section("b")])
    a, b = As(d, "a", channel=channel(d)), As(d, "b", channel=channel(d))
    first = set(d.wait_children("device"))
    x = kiln_pb2.NamedTensor(name="x", tensor=tensor(np.ones(6000, np.float32)))
    exe = a.compile(long_kernel()).executable
    hers = (set(d.wait_children("device", 2)) - first).pop()
    mine = b.compile(add_graph()).executable
    long = [a.stub.Run.future(kiln_pb2.RunRequest(executable=exe, inputs=[x]), timeout=120) for _ in range(5)]
    time.sleep(0.3)
    for _ in range(20):
        assert (b.run(mine, {"x": ones(), "b": ones()}, timeout=30)["y"] == 2).all()
    slow = b.compile(product_graph(60)).executable  # of which a few cost more than what hers were expected to
    Flood(b, slow, 10).wait()
    assert not any(call.done() for call in long)
    row = d.stub.GetStatus(kiln_pb2.GetStatusRequest(), timeout=10).devices[0]  # who runs the server sees all workers of a device
    assert row.in_flight >= 1 and row.waiting + row.in_flight == 5, row
    os.kill(hers, signal.SIGSTOP)
    for _ in range(20):
        assert (b.run(mine, {"x": ones(), "b": ones()}, timeout=30)["y"] == 2).all()
    os.kill(hers, signal.SIGCONT)
    for call in long:
        call.cancel()
    short = a.compile(add_graph()).executable
    assert (a.run(short, {"x": ones(), "b": ones()}, timeout=30)["y"] == 2).all()
    os.kill(hers, signal.SIGKILL)
    assert (a.run(short, {"x": ones(), "b": ones()}, timeout=30)["y"] == 2).all()
    assert d.stub.GetStatus(kiln_pb2.GetStatusRequest(), timeout=10).devices[0].restarts == 1


def test_sessions_of_one_tenant_share(shared):
    a = shared[0]
    again = As(a.daemon, "a", channel=channel(a.daemon))
    exe = a.compile(product_graph(20)).executable
    flood = Flood(a, exe, 90)
    flood.wait_for(2)
    Flood(again, exe, 5).wait()
    assert flood.done < 45, flood.done
    flood.wait()


def test_priority_inside_a_tenant(shared):
    a = shared[0]
    exe = a.compile(product_graph(20)).executable
    patient = Flood(a, exe, 60, priority=kiln_pb2.PRIORITY_LOW)
    patient.wait_for(2)
    urgent = Flood(a, exe, 20, priority=kiln_pb2.PRIORITY_HIGH)
    urgent.wait()
    assert patient.done < 20, patient.done  # sharing equally it would be more
    patient.wait()


def test_compiles_of_one_tenant_do_not_bury_others(shared):
    """Neither the models that another waits for nor the kernels of those that have begun."""
    a, b, _ = shared
    flood = [a.stub.Compile.future(a.compile_parts(slow_graph(100, 100 * i)), timeout=120) for i in range(5)]
    ended = []
    for f in flood:
        f.add_done_callback(lambda _: ended.append(time.time()))
    while a.stub.GetStatus(kiln_pb2.GetStatusRequest()).tenants[0].compile_ns < 2e8:
        time.sleep(0.01)
    for n in range(5):
        b.compile(add_graph(20 + n))
    assert len(ended) < 4, len(ended)  # all of them, if they went first
    assert all(f.result().executable for f in flood)


def test_what_a_run_would_cost(start):
    """Before it is admitted: predicted, then as measured; behind what waits; and that it would be refused."""
    d = start(config=[*boss(), *section("a", runs=10), *section("b")])
    a, b = As(d, "a", channel=channel(d)), As(d, "b", channel=channel(d))
    exe, mine = a.compile(product_graph(200)).executable, b.compile(product_graph(200)).executable
    ask = lambda who, of: who.stub.Explain(kiln_pb2.ExplainRequest(executable=of)).run
    first = ask(a, exe)
    assert first.device_ns > 0 and not first.measured and not first.wait_ns and not first.refused
    assert first.host_bytes == 2 * 4 * N * N
    Flood(a, exe, 2).wait()
    idle = ask(a, exe)
    assert idle.measured and idle.device_ns > 0 and idle.waiting == 0
    flood = Flood(a, exe, 10)
    while not (full := ask(a, exe)).refused:
        assert not flood.done
    beside = ask(b, mine)
    assert "10 runs" in full.refused and full.waiting and full.wait_ns > 3 * idle.device_ns, full
    assert beside.waiting == 0 and beside.wait_ns < full.wait_ns and not beside.refused, beside
    flood.wait()


def test_unknown_priority(shared):
    a = shared[0]
    exe = a.compile(add_graph()).executable
    x = [kiln_pb2.NamedTensor(name=n, tensor=tensor(ones())) for n in "xb"]
    with fails(grpc.StatusCode.INVALID_ARGUMENT, "priority 17"):
        a.stub.Run(kiln_pb2.RunRequest(executable=exe, inputs=x, priority=17))


def test_a_full_queue_is_the_tenants_own(start):
    d = start(config=[*boss(), *section("a"), *section("b"), "[limits]", "queue = 2"])
    a, b = As(d, "a", channel=channel(d)), As(d, "b", channel=channel(d))
    mine = b.compile(add_graph()).executable
    flood = Flood(a, a.compile(product_graph(60)).executable, 90)
    b.run(mine, {"x": ones(), "b": ones()})
    codes = {c.code() for c in flood.calls}
    assert codes <= {grpc.StatusCode.OK, grpc.StatusCode.RESOURCE_EXHAUSTED}
    assert grpc.StatusCode.RESOURCE_EXHAUSTED in codes
    full = next(c for c in flood.calls if c.code() != grpc.StatusCode.OK)
    assert "wait for device" in full.details()
    assert "grpc-status-details-bin" in dict(full.trailing_metadata())


def test_a_deadline_passes_in_the_queue(shared):
    a, b, _ = shared
    exe = a.compile(product_graph(20)).executable
    flood = Flood(a, exe, 60)
    x = kiln_pb2.NamedTensor(name="x", tensor=tensor(np.zeros((N, N), np.float32)))
    late = a.stub.Run.future(kiln_pb2.RunRequest(executable=exe, inputs=[x]), timeout=0.005)
    assert late.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    flood.wait()


def test_cancelling_ends_a_long_run(shared):
    """Between its launches: the run would take many times longer than the test allows."""
    a, b, _ = shared
    mine = b.compile(add_graph()).executable
    exe = a.compile(product_graph(3000)).executable
    x = {"x": kiln_pb2.NamedTensor(name="x", buffer=a.upload(np.zeros((N, N), np.float32)))}
    request = kiln_pb2.RunRequest(executable=exe, inputs=x.values(), outputs_as_buffers=True)
    begin = time.time()
    a.stub.Run(request, timeout=120)
    whole = time.time() - begin
    call = a.stub.Run.future(request, timeout=120)
    time.sleep(whole / 10)
    call.cancel()
    begin = time.time()
    b.run(mine, {"x": ones(), "b": ones()})
    assert time.time() - begin < max(0.5 * whole, 0.05), whole


def long_kernel(n=6000):
    """y[i] = the sum of exp2(x[i] x[j] x[k]) over j and k: minutes in one kernel."""
    g = Graph()
    x = g.param("x", [n])
    y = g.node("MUL", g.node("RESHAPE", x, ints=[n, 1, 1]), g.node("MUL", g.node("RESHAPE", x, ints=[n, 1]), x))
    g.output("y", g.node("REDUCE_SUM", g.node("EXP2", y), ints=[1, 2]))
    return g.bytes()


@pytest.mark.skipif(TSAN, reason="its runtime keeps signals until the next system call")
def test_cancelling_ends_a_long_kernel(shared):
    """In the middle of it; the worker goes on, with what it had."""
    a, b, _ = shared
    mine = b.compile(add_graph()).executable
    exe = a.compile(long_kernel()).executable
    x = kiln_pb2.NamedTensor(name="x", tensor=tensor(np.ones(6000, np.float32)))
    kept = b.upload(ones())
    for pause in (0.3, 0.1, 0.05, 0.02, 0.01, 0):
        call = a.stub.Run.future(kiln_pb2.RunRequest(executable=exe, inputs=[x]), timeout=120)
        time.sleep(pause)
        call.cancel()
        assert b.run(mine, {"x": kept, "b": ones()}, timeout=30)["y"][0] == 2
    with fails(grpc.StatusCode.DEADLINE_EXCEEDED):
        a.stub.Run(kiln_pb2.RunRequest(executable=exe, inputs=[x]), timeout=0.3)
    assert b.run(mine, {"x": kept, "b": ones()}, timeout=30)["y"][0] == 2
    assert "device down" not in a.log()


def test_a_deadline_ends_a_long_run(shared):
    a, b, _ = shared
    mine = b.compile(add_graph()).executable
    exe = a.compile(product_graph(3000)).executable
    x = kiln_pb2.NamedTensor(name="x", buffer=a.upload(np.zeros((N, N), np.float32)))
    request = kiln_pb2.RunRequest(executable=exe, inputs=[x], outputs_as_buffers=True)
    begin = time.time()
    a.stub.Run(request, timeout=120)
    whole = time.time() - begin
    with fails(grpc.StatusCode.DEADLINE_EXCEEDED):
        a.stub.Run(request, timeout=whole / 10)
    begin = time.time()
    b.run(mine, {"x": ones(), "b": ones()})
    assert time.time() - begin < max(0.5 * whole, 0.05), whole
