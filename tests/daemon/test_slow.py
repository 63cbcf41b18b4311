"""Who is slow on purpose: while connecting, in the metadata, in the body, in reading; and who opens too many connections."""
import collections
import concurrent.futures
import contextlib
import inspect
import socket
import time

import grpc
import numpy as np
import pytest
from conftest import SANITIZED, fails, kiln_pb2
from tenants import As, boss, free_port, section
from wire import (CONTINUATION, DATA, END_STREAM, ENHANCE_YOUR_CALM, GOAWAY, HEADERS, HEALTH, INITIAL_WINDOW_SIZE, PREFACE, Peer, block, body,
                  call, changed, connect, frame, headers, settings, window_update)
from ways import WAYS, Ways, say

CODE = grpc.StatusCode
PATIENCE = ["[patience]", "handshake = 1s", "first_call = 1s", "headers = 1s", "message = 1s", "reader = 1s"]
counts = collections.Counter()


@pytest.fixture(scope="module")
def ways(tmp_path_factory, request):
    w = Ways(tmp_path_factory.mktemp("slow"), config=PATIENCE)
    yield w
    w.end()
    say(request, "slow: " + ", ".join(f"{counts[x]} kinds over {x}" for x in WAYS))


def everywhere(over=WAYS):
    """The test over each listener at once: most of its time is waiting. Its parameter `way` is no fixture."""
    def wrap(f):
        names = [n for n in inspect.signature(f).parameters if n != "way"]

        def test(**kw):
            with concurrent.futures.ThreadPoolExecutor(len(over)) as pool:
                for way, done in [(w, pool.submit(f, way=w, **kw)) for w in over]:
                    done.result()
                    counts[way] += 1
        test.__name__, test.__doc__ = f.__name__, f.__doc__
        test.__signature__ = inspect.Signature([inspect.Parameter(n, inspect.Parameter.KEYWORD_ONLY) for n in names])
        test.pytestmark = getattr(f, "pytestmark", [])
        return test
    return wrap


def drip(p, data, every=0.1, most=20.0):
    """A byte at a time, until the server has had enough; the seconds that took."""
    began = time.monotonic()
    for i in range(len(data)):
        p.send(data[i:i + 1])
        p.read(every)
        if p.ended or time.monotonic() - began > most:
            break
    return time.monotonic() - began


def long_body(n=1 << 20):
    return b"\0" + n.to_bytes(4, "big") + bytes(n)


# -- the client sends slowly ------------------------------------------------------------------------

HEADS = {"in one frame": headers(1, [*HEALTH, ("x", "y" * 4000)]),
         "in CONTINUATION": frame(HEADERS, 0, 1, block(HEALTH)) + frame(CONTINUATION, 4, 1, block([("x", "y" * 4000)])),
         "that never begins to hold anything": frame(HEADERS, 4, 1, block([("x", "y" * 4000)]))}


@everywhere()
@pytest.mark.parametrize("how", HEADS)
def test_metadata_by_drops(ways, way, how):
    with Peer(ways.address[way]) as p:
        p.send(call(1))
        assert p.answered(1)  # one whom we know
        took = drip(p, HEADS[how].replace(b"\0\0\0\1", b"\0\0\0\3", 1))
        assert p.ended and p.code(GOAWAY) == ENHANCE_YOUR_CALM and 0.5 < took < 8, (took, p.frames[-3:])


@everywhere()
def test_metadata_that_stops(ways, way):
    with Peer(ways.address[way]) as p:
        p.send(frame(HEADERS, 0, 1, block(HEALTH)))
        assert p.closed() and p.code(GOAWAY) == ENHANCE_YOUR_CALM, p.frames[-3:]


@everywhere(["tcp", "tls"])
def test_a_preface_by_drops(ways, way):
    """Before somebody has shown who he is. On a Unix socket we know that already."""
    with Peer(ways.address[way], hello=False) as p:
        took = drip(p, PREFACE + settings() * 100)
        assert p.ended and 0.5 < took < 8, took


@everywhere(["tls"])
def test_a_handshake_by_drops(ways, way):
    port = int(ways.address[way].split(":")[1])
    with Peer(f"tcp:{port}", hello=False) as p:
        took = drip(p, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500))
        assert p.ended and 0.5 < took < 8, took


@everywhere()
@pytest.mark.parametrize("path", ["/kiln.v1.Kiln/Run", "/kiln.v1.Kiln/Upload", "/grpc.health.v1.Health/Check"])
def test_a_body_by_drops(ways, way, path):
    """DEADLINE_EXCEEDED for the call; others on the connection go on."""
    with Peer(ways.address[way]) as p:
        p.send(headers(1, changed(path=path)))
        began = time.monotonic()
        for byte in long_body(100):
            p.send(frame(DATA, 0, 1, bytes([byte])))
            p.read(0.1)
            if p.finished(1):
                break
        assert p.finished(1) and 0.5 < time.monotonic() - began < 8
        assert p.seen(HEADERS, 1, END_STREAM)
        p.send(call(3))
        assert p.answered(3)


@everywhere()
def test_messages_by_drops(ways, way):
    """A stream of messages that are whole, small and rare enough to go on for ever."""
    part = kiln_pb2.UploadRequest(header=kiln_pb2.UploadHeader(dtype=6, dims=[1 << 20])).SerializeToString()
    crumb = kiln_pb2.UploadRequest(chunk=b"x").SerializeToString()
    with Peer(ways.address[way]) as p:
        p.send(headers(1, changed(path="/kiln.v1.Kiln/Upload")), frame(DATA, 0, 1, b"\0" + len(part).to_bytes(4, "big") + part))
        for i in range(100):
            p.send(frame(DATA, 0, 1, b"\0" + len(crumb).to_bytes(4, "big") + crumb))
            p.read(0.1)
            if p.finished(1):
                break
        assert p.finished(1) and 5 < i < 80, (i, p.frames[-3:])
        p.send(call(3))
        assert p.answered(3)


@everywhere()
def test_one_who_is_merely_not_fast(ways, way):
    """40 KiB in 2.5 seconds is more than the patience with silence, and no silence."""
    n = 40 << 10
    parts = [kiln_pb2.UploadRequest(header=kiln_pb2.UploadHeader(dtype=6, dims=[n])).SerializeToString()]
    parts += [kiln_pb2.UploadRequest(chunk=bytes(n // 10)).SerializeToString()] * 10
    with Peer(ways.address[way]) as p:
        p.send(headers(1, changed(path="/kiln.v1.Kiln/Upload")))
        for i, part in enumerate(parts):
            p.send(frame(DATA, END_STREAM * (i == 10), 1, b"\0" + len(part).to_bytes(4, "big") + part))
            p.read(0.25)
        assert p.until(lambda: p.finished(1)) and b"buf-" in p.data(1), p.frames[-3:]


# -- the client reads slowly ------------------------------------------------------------------------

BYTES = 8 << 20


@contextlib.contextmanager
def big(d):
    buffer = d.upload(np.zeros(BYTES, np.uint8))
    yield buffer
    d.stub.FreeBuffers(kiln_pb2.FreeBuffersRequest(buffers=[buffer]))


def download(buffer, stream=1):
    message = kiln_pb2.DownloadRequest(buffer=buffer).SerializeToString()
    return headers(stream, changed(path="/kiln.v1.Kiln/Download")) + body(stream, b"\0" + len(message).to_bytes(4, "big") + message)


@everywhere()
@pytest.mark.parametrize("how", ["a window of no bytes", "a window that closes", "drops"])
def test_a_reader_without_a_window(ways, way, how):
    d = ways.daemon(way)
    before = d.info().resident_bytes
    window = 65535 if how == "a window that closes" else 0
    with big(d) as buffer, Peer(ways.address[way], opening=[(INITIAL_WINDOW_SIZE, window)]) as p:
        began = time.monotonic()
        p.send(download(buffer))
        while not p.ended and time.monotonic() - began < 10:
            p.read(0.1)
            if how == "drops":
                p.send(window_update(1, 100))
        assert p.ended and p.code(GOAWAY) == ENHANCE_YOUR_CALM and 0.5 < time.monotonic() - began < 8, p.frames[-3:]
    assert SANITIZED or d.info().resident_bytes < before + 4 * BYTES


@everywhere()
def test_a_reader_who_leaves_his_socket_alone(ways, way):
    """Big windows and a full socket: nothing can be said any more, the connection is cut; others are served meanwhile."""
    d = ways.daemon(way)
    with big(d) as buffer, Peer(ways.address[way], opening=[(INITIAL_WINDOW_SIZE, (1 << 31) - 1)]) as p:
        p.send(window_update(0, (1 << 30)), *[download(buffer, 1 + 2 * i) for i in range(4)])
        end = time.monotonic() + 5
        while time.monotonic() < end:
            d.info()
            time.sleep(0.2)
        left = 0
        while p.read(5):
            left += 1
        assert p.ended and sum(len(f[3]) for f in p.seen(DATA)) < 4 * BYTES


@everywhere()
def test_a_reader_who_takes_a_break(ways, way):
    """Slower than he could be, but not slower than allowed: he gets everything."""
    d = ways.daemon(way)
    step = 1 << 20
    with big(d) as buffer, Peer(ways.address[way], opening=[(INITIAL_WINDOW_SIZE, step)]) as p:
        p.send(window_update(0, 1 << 30), download(buffer))
        for i in range(1, BYTES // step + 1):
            assert p.until(lambda: sum(len(f[3]) for f in p.seen(DATA)) >= i * step), p.frames[-3:]
            time.sleep(0.1)
            p.send(window_update(1, step))
        assert p.until(lambda: p.finished(1)) and len(p.data(1)) > BYTES


@everywhere()
def test_a_watcher_may_wait(ways, way):
    """A stream on which nothing happens is nobody's fault."""
    with Peer(ways.address[way]) as p:
        p.send(headers(1, changed(path="/grpc.health.v1.Health/Watch")), body(1))
        assert p.until(lambda: p.data(1))
        time.sleep(3)
        p.send(call(3))
        assert p.answered(3) and not p.finished(1)


# -- connections ------------------------------------------------------------------------------------

def test_idle_connections_are_closed(start):
    d = start(config=["[server]", "idle_connection = 1s"])
    with Peer(f"unix:{d.socket}") as p:
        p.send(call(1))
        assert p.answered(1)
        assert p.closed(8) and p.code(GOAWAY) == 0, p.frames


def serves(address):
    with Peer(address) as p:
        p.send(call(1))
        return p.answered(1)


def dies(s, wait=5.0):
    s.settimeout(wait)
    try:
        while s.recv(4096):  # the server's settings may have come before
            pass
        return True
    except TimeoutError:
        return False
    except OSError:
        return True


def test_connections_of_one_address(start):
    port = free_port()
    d = start(config=["[server]", "connections_per_address = 5", "listen = x"], args=["--listen", f"127.0.0.1:{port}"])
    held = [connect(f"tcp:{port}") for _ in range(5)]
    sixth = connect(f"tcp:{port}")
    assert dies(sixth)
    elsewhere = socket.create_connection(("127.0.0.1", port), source_address=("127.0.0.2", 0))
    elsewhere.sendall(PREFACE + settings())
    assert elsewhere.recv(9)  # another address is let in
    d.info()  # and so is a Unix socket
    held.pop().close()
    time.sleep(0.2)
    assert serves(f"tcp:{port}")
    for s in [*held, sixth, elsewhere]:
        s.close()
    assert "are open from its address" in d.log()


def test_strangers_make_room(start):
    """Who only holds connections open cannot keep others out: the oldest that nobody has called on makes room."""
    d = start(config=["[server]", "max_connections = 10", *boss()])
    d.info()  # one that is somebody's
    held = [connect(f"unix:{d.socket}") for _ in range(30)]
    d.info()
    assert all(dies(s) for s in held[:21])  # 10 less the boss's are left
    fresh = As(d)
    fresh.stub.GetServerInfo(kiln_pb2.GetServerInfoRequest(), timeout=10)
    for s in held:
        s.close()


def test_a_full_house_of_known_guests_refuses(start):
    d = start(config=["[server]", "max_connections = 3"])
    peers = [Peer(f"unix:{d.socket}") for _ in range(2)]
    for p in peers:
        p.send(call(1), headers(3, changed(path="/kiln.v1.Kiln/GetServerInfo")), body(3))
        assert p.answered(1) and p.until(lambda: p.data(3))
    s = connect(f"unix:{d.socket}")
    assert dies(s)
    for p in peers:
        p.send(call(5))
        assert p.answered(5)
        p.socket.close()
    time.sleep(0.2)
    d.info()


def test_connections_of_one_tenant(start):
    d = start(config=[*boss(), *section("alice", connections=3), *section("bob")])

    def as_(name):
        p = Peer(f"unix:{d.socket}")
        p.send(call_as(1, name))
        p.until(lambda: p.finished(1))
        return p

    def call_as(stream, name):
        return headers(stream, changed(("authorization", f"Bearer {name}-token"), path="/kiln.v1.Kiln/GetServerInfo")) + body(stream)

    held = [as_("alice") for _ in range(3)]
    assert all(p.data(1) for p in held)
    fourth = as_("alice")
    assert not fourth.data(1) and fourth.seen(HEADERS, 1, END_STREAM)
    bob = as_("bob")
    assert bob.data(1)
    held[0].send(call_as(3, "bob"))  # now it is bob's
    assert held[0].until(lambda: held[0].data(3))
    fourth.send(call_as(3, "alice"))
    assert fourth.until(lambda: fourth.data(3))
    bob.send(call_as(3, "alice"))
    bob.until(lambda: bob.finished(3))
    assert not bob.data(3)
    fourth.socket.close()
    time.sleep(0.2)
    bob.send(call_as(5, "alice"))
    assert bob.until(lambda: bob.data(5))
    for p in [*held, bob]:
        p.socket.close()
    with fails(CODE.RESOURCE_EXHAUSTED, "connections of tenant 'alice'"):
        more = [As(d, "alice", channel=grpc.insecure_channel(f"unix:{d.socket}", options=[("x", i)])) for i in range(4)]
        for a in more:
            a.stub.GetServerInfo(kiln_pb2.GetServerInfoRequest(), timeout=10)
