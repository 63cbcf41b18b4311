"""Quotas of tenants: each is refused with RESOURCE_EXHAUSTED and a time to try again, concerns nobody else, and ends."""
import concurrent.futures as futures
import time

import grpc
import numpy as np
import pytest
from conftest import Graph, add_graph, fails, kiln_pb2, slow_graph
from tenants import As, boss, ones, section
from test_tune import inputs, model

FULL = grpc.StatusCode.RESOURCE_EXHAUSTED


def two(start, **keys):
    """A daemon with tenant a, who has these quotas, and tenant b, who has none."""
    d = start(config=[*boss(), *section("a", "run, tune", **keys), *section("b", "run, tune")])
    return As(d, "a"), As(d, "b")


def fields(data):
    """Of a protobuf message, by number; the last of each."""
    out, at = {}, 0

    def varint():
        nonlocal at
        v = shift = 0
        while True:
            v |= (data[at] & 127) << shift
            shift += 7
            at += 1
            if data[at - 1] < 128:
                return v
    while at < len(data):
        key, v = varint(), varint()
        if key & 7 == 2:
            v, at = data[at:at + v], at + v
        out[key >> 3] = v
    return out


def retry_after(error):
    """Seconds of google.rpc.RetryInfo, read by hand from the trailers."""
    details = dict(error.trailing_metadata())["grpc-status-details-bin"]
    status = fields(details)
    assert status[1] == 8 and status[2].decode() == error.details()
    any_ = fields(status[3])
    assert any_[1] == b"type.googleapis.com/google.rpc.RetryInfo"
    delay = fields(fields(any_[2])[1])
    return delay.get(1, 0) + delay.get(2, 0) / 1e9


def refused(call, *words):
    with pytest.raises(grpc.RpcError) as e:
        call()
    assert e.value.code() == FULL, e.value
    for w in words:
        assert w in e.value.details(), e.value.details()
    return retry_after(e.value)


def test_request_rate(start):
    a, b = two(start, request_rate=5)
    results = []
    for _ in range(40):
        try:
            a.buffers()
            results.append(None)
        except grpc.RpcError as e:
            assert e.code() == FULL and "5 requests per second of tenant 'a'" in e.details()
            results.append(retry_after(e))
    assert results[0] is None and 0 < sum(r is not None for r in results) < 40
    wait = [r for r in results if r][-1]
    assert 0 < wait <= 0.2
    for _ in range(40):
        b.buffers()
    time.sleep(wait)
    a.buffers()


def test_device_bytes(start):
    a, b = two(start, device_bytes=1 << 20)
    kept = a.upload(np.zeros(200_000, np.float32))
    assert refused(lambda: a.upload(np.zeros(100_000, np.float32)), "device memory", "tenant 'a'", "800000 of 1048576") > 0
    for _ in range(4):
        b.upload(np.zeros(200_000, np.float32))
    exe = a.compile(add_graph(60_000)).executable
    x = np.zeros(60_000, np.float32)
    a.run(exe, {"x": x, "b": x})
    out = a.run(exe, {"x": x, "b": x}, buffers=True)["y"]
    assert refused(lambda: a.run(exe, {"x": x, "b": x}, buffers=True), "device memory") > 0
    a.stub.FreeBuffers(kiln_pb2.FreeBuffersRequest(buffers=[kept, out]))
    a.run(exe, {"x": x, "b": x}, buffers=True)


def test_host_bytes(start):
    a, b = two(start, host_bytes=4 << 20)
    big = add_graph(2_000_000, weight=np.ones(2_000_000))
    assert refused(lambda: a.compile(big), "host memory", "tenant 'a'") > 0
    b.compile(big)
    x = np.ones(500_000, np.float32)
    exe = a.compile(add_graph(500_000)).executable
    assert refused(lambda: a.run(exe, {"x": x, "b": x}), "host memory") > 0
    small = a.compile(add_graph(16)).executable
    assert (a.run(small, {"x": ones(), "b": ones()})["y"] == 2).all()
    for _ in range(20):  # what is given back counts no more
        a.stub.FreeBuffers(kiln_pb2.FreeBuffersRequest(buffers=[a.upload(np.zeros(500_000, np.float32))]))


def busy_graph(n=512, times=200):
    """54 GFLOP, a tenth of a second for two fast cores: products of one matrix with itself."""
    g = Graph()
    y = x = g.param("x", [n, n])
    for _ in range(times):
        y = g.node("MATMUL", y, x)
    g.output("y", y)
    return g.bytes(), np.zeros((n, n), np.float32)


def test_runs(start):
    a, b = two(start, runs=2)
    model, x = busy_graph()
    exe, other = a.compile(model).executable, b.compile(add_graph()).executable
    with futures.ThreadPoolExecutor(8) as pool:
        calls = [pool.submit(a.run, exe, {"x": x}) for _ in range(8)]
        b.run(other, {"x": ones(), "b": ones()})
        errors = [c.exception() for c in calls]
    over = [e for e in errors if e]
    assert 0 < len(over) < 7, over
    for e in over:
        assert e.code() == FULL and "2 runs of tenant 'a'" in e.details()
        assert retry_after(e) > 0
    a.run(exe, {"x": x})


def test_cancelled_runs_are_given_back(start):
    a, _ = two(start, runs=1)
    model, x = busy_graph()
    exe = a.compile(model).executable
    for _ in range(5):
        with pytest.raises(grpc.RpcError):
            a.run(exe, {"x": x}, timeout=0.02)
    end = time.time() + 10
    while True:
        try:
            a.run(exe, {"x": x})
            return
        except grpc.RpcError as e:
            assert e.code() == FULL and time.time() < end, e


def test_compile_seconds(start):
    a, b = two(start, compile_seconds=1)
    for i in range(100):
        try:
            a.compile(slow_graph(30, first=30 * i))
        except grpc.RpcError as error:
            e = error
            break
    assert e.code() == FULL and "1 seconds of compiling per hour of tenant 'a' are used up" in e.details()
    assert retry_after(e) > 0
    b.compile(add_graph(17))


def test_tune_seconds(start):
    """Searches that were asked for are charged with what they took of the workers; the one that passes the quota is the last."""
    a, b = two(start, tune_seconds=1)
    search = lambda t, exe: list(t.stub.Tune(kiln_pb2.TuneRequest(executable=exe, budget_ns=2 * 10**9), timeout=120))
    first = a.compile(model()).executable
    with pytest.raises(grpc.RpcError) as e:
        for n in range(96, 600, 8):  # what has been searched takes no time any more
            search(a, a.compile(model(n)).executable)
    e = e.value
    assert e.code() == FULL and "1 seconds of tuning per hour of tenant 'a' are used up" in e.details()
    assert retry_after(e) > 0
    assert (a.run(first, inputs())["s"] > 0).all()  # that is no search
    assert search(b, b.compile(model()).executable)[-1].WhichOneof("part") == "summary"


def test_reconnecting_evades_nothing(start):
    a, _ = two(start, request_rate=5)
    refusals = 0
    for _ in range(30):
        channel = grpc.insecure_channel(f"unix:{a.daemon.socket}", options=[("grpc.use_local_subchannel_pool", 1)])
        try:
            As(a.daemon, "a", channel=channel).buffers()
        except grpc.RpcError as e:
            refusals += e.code() == FULL
        channel.close()
    assert refusals > 10


def test_the_clients_say_when(start):
    """kiln.Error.retry_after."""
    import kiln
    d = start(config=[*boss(), "request_rate = 5"])
    client = kiln.connect(f"unix:{d.socket}", retry=0)
    with pytest.raises(kiln.Error) as e:
        for _ in range(30):
            client.buffers()
    assert e.value.code == "RESOURCE_EXHAUSTED" and 0 < e.value.retry_after <= 0.2
    client.close()


def test_the_clients_wait_for_room(start):
    """What the server refuses with a time to try again is done then, whatever it is."""
    import kiln
    d = start(config=[*boss(), "request_rate = 20"])
    with kiln.connect(f"unix:{d.socket}") as client:
        begin = time.time()
        for _ in range(60):
            client.buffers()
        assert time.time() - begin > 1.5  # a burst of 20, then 20 a second
