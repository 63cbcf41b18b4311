"""A quota belongs to the tenant: neither connections, nor tokens, nor ways in, nor a reload make it larger. Handles are not to be guessed."""
import concurrent.futures as futures
import secrets
import signal
import time

import grpc
import numpy as np
import pytest
from conftest import add_graph, fails, kiln_pb2
from tenants import As, boss, free_port, ones, section, token_row
from wire import Peer, body, changed, headers
from ways import say

CODE = grpc.StatusCode
FULL = CODE.RESOURCE_EXHAUSTED


def tenants(**quotas):
    """alice has these quotas, and two tokens; bob has none."""
    return [*boss(), *section("alice", **quotas), f"token = {token_row('alice-2-token')}", *section("bob")]


def channel(target):
    """A connection of its own."""
    return grpc.insecure_channel(target, options=[("grpc.use_local_subchannel_pool", 1)])


def everywhere(d, port, n):
    """alice, n times: by both tokens, over the Unix socket and TCP, each on its own connection."""
    targets = [f"unix:{d.socket}", f"127.0.0.1:{port}"]
    return [As(d, token=["alice-token", "alice-2-token"][i % 2], channel=channel(targets[i // 2 % 2])) for i in range(n)]


@pytest.fixture
def served(start):
    def begin(**quotas):
        port = free_port()
        d = start(config=tenants(**quotas), args=["--listen", f"127.0.0.1:{port}"])
        return d, port
    return begin


def test_a_rate_over_many_connections(served):
    rate = 20
    d, port = served(request_rate=rate)
    began = time.monotonic()

    def hammer(who):
        passed = 0
        while time.monotonic() - began < 3:
            try:
                who.buffers()
                passed += 1
            except grpc.RpcError as e:
                assert e.code() == FULL, e
        return passed
    with futures.ThreadPoolExecutor(8) as pool:
        passed = sum(pool.map(hammer, everywhere(d, port, 8)))
    assert rate <= passed <= rate * (time.monotonic() - began + 1) + 1, passed
    As(d, "bob").buffers()


def test_bytes_over_many_connections(served):
    """What is held is held, also when the connection that uploaded it is gone."""
    n = 1 << 20
    d, port = served(host_bytes=str(5 * n), device_bytes=str(5 * n))
    held = refusals = 0
    for who in everywhere(d, port, 12):
        try:
            who.upload(np.zeros(n, np.uint8))
            held += 1
        except grpc.RpcError as e:
            assert e.code() == FULL, e
            refusals += 1
        who.channel.close()
    assert 0 < held <= 5 and held + refusals == 12
    who = everywhere(d, port, 1)[0]
    assert sum(b.bytes for b in who.buffers()) <= 5 * n
    As(d, "bob").upload(np.zeros(n, np.uint8))


def test_seconds_over_reconnects_and_reloads(served):
    d, port = served(compile_seconds="1s")
    refused = False
    for i, who in enumerate(everywhere(d, port, 40)):
        try:
            who.compile(add_graph(100 + i), timeout=60)
            for k in range(10):
                who.compile(add_graph(1000 + 10 * i + k), timeout=60)
        except grpc.RpcError as e:
            assert e.code() == FULL, e
            refused = True
        who.channel.close()
        if refused:
            break
    assert refused
    d.folder.joinpath("kiln.conf").write_text("\n".join([*tenants(compile_seconds="1s"), f"token = {token_row('new-token')}"]) + "\n")
    d.process.send_signal(signal.SIGHUP)
    end = time.monotonic() + 10
    while "configuration reloaded" not in d.log() and time.monotonic() < end:
        time.sleep(0.02)
    with fails(FULL, "seconds of compiling"):
        As(d, "alice").compile(add_graph(99), timeout=60)
    As(d, "bob").compile(add_graph(99), timeout=60)


def test_strangers_use_nothing(served):
    """Calls without a right token are refused before anything is done for them, as many as they are."""
    d, port = served()
    before = d.info().resident_bytes
    refusals = 0
    with Peer(f"tcp:{port}") as p:
        for k in range(20):
            streams = range(1 + 180 * k, 1 + 180 * (k + 1), 2)
            p.send(*[headers(s, changed(("authorization", f"Bearer {secrets.token_hex(16)}"), path="/kiln.v1.Kiln/ListBuffers")) + body(s)
                     for s in streams])
            assert p.until(lambda: p.finished(streams[-1])), p.frames[-3:]
            refusals += sum(not p.data(s) and p.finished(s) for s in streams[-5:])
            p.frames.clear()
    assert refusals == 100
    assert d.info().resident_bytes < before + (16 << 20)


def test_guessing_handles(served, request):
    """For another's handle and for one that never was: the same answer in the same time. Which of the two was asked for cannot be told by
    waiting: the chance that one takes longer than the other is even."""
    d, _ = served()
    alice = As(d, "alice")
    real = alice.upload(ones())
    samples = {"real": [], "made up": [], "nearly": []}
    # each is asked for again and again: a text that is new costs the header table an entry, whoever's handle it names
    made_up = "buf-" + secrets.token_hex(16)
    names = {"real": lambda: real, "made up": lambda: made_up, "nearly": lambda: real[:-1] + ("0" if real[-1] != "0" else "1")}
    with Peer(f"unix:{d.socket}") as p:
        stream = 1
        for i in range(700):
            order = list(names)[i % 3:] + list(names)[:i % 3]
            for kind in order:
                name = names[kind]()
                message = kiln_pb2.DownloadRequest(buffer=name).SerializeToString()
                call = headers(stream, changed(("authorization", "Bearer bob-token"), path="/kiln.v1.Kiln/Download")) + \
                    body(stream, b"\0" + len(message).to_bytes(4, "big") + message)
                t = time.perf_counter()
                p.send(call)
                assert p.until(lambda: p.finished(stream))
                samples[kind].append(time.perf_counter() - t)
                assert not p.data(stream)
                p.frames.clear()
                stream += 2
    a = {k: np.array(v[50:]) for k, v in samples.items()}
    chances = {}
    for kind in ("real", "nearly"):
        chances[kind] = (a[kind][:, None] > a["made up"][None, :]).mean()
        assert 0.4 < chances[kind] < 0.6, chances
    for name in names.values():
        with fails(CODE.NOT_FOUND, "unknown buffer"):
            As(d, "bob").download(name())
    assert alice.download(real)[0] == 1
    say(request, "guessing: another's handle takes longer than one made up with a chance of "
        f"{chances['real']:.3f}, one that is off by a digit of {chances['nearly']:.3f}")


def test_many_guesses_count_as_requests(served):
    """Guessing is calling, and calls are counted."""
    d, _ = served(request_rate=50)
    alice, found, refused = As(d, "alice"), 0, 0
    for _ in range(300):
        try:
            alice.download("buf-" + secrets.token_hex(16))
            found += 1
        except grpc.RpcError as e:
            refused += e.code() == FULL
    assert not found and refused > 50
