"""HTTP/2's floods: each ends in GOAWAY ENHANCE_YOUR_CALM, costs no memory, and is felt by nobody else; over every kind of listener."""
import collections
import threading
import time

import numpy as np
import pytest
from conftest import SANITIZED, kiln_pb2
from wire import (ACK, CONTINUATION, DATA, END_HEADERS, END_STREAM, ENHANCE_YOUR_CALM, FRAME_SIZE_ERROR, GOAWAY, HEADERS, HEALTH,
                  INITIAL_WINDOW_SIZE, PING, PRIORITY, PROTOCOL_ERROR, RST_STREAM, SETTINGS, Peer, block, body, call, changed, field, frame,
                  headers, integer, reset, setting, settings, window_update)
from ways import WAYS, Ways, say

MEMORY = 24 << 20  # that kilnd may have grown by after a flood
counts = collections.Counter()


@pytest.fixture(scope="module")
def ways(tmp_path_factory, request):
    w = Ways(tmp_path_factory.mktemp("floods"))
    for way in WAYS:  # what is allocated once
        with Peer(w.address[way]) as p:
            assert call_once(p, 1)
    yield w
    w.end()
    say(request, "floods: " + ", ".join(f"{counts[x]} kinds over {x}" for x in WAYS))


def call_once(p, stream):
    p.send(call(stream))
    return p.answered(stream)


class Bystander(threading.Thread):
    """Calls all the time on a connection of its own; none of its calls may fail."""

    def __init__(self, address):
        super().__init__()
        self.peer, self.calls, self.failed, self.over = Peer(address), 0, False, False
        self.start()

    def run(self):
        stream = 1
        while not self.over and not self.failed:
            self.failed = not call_once(self.peer, stream)
            self.peer.frames.clear()
            stream += 2
            self.calls += 1

    def end(self):
        calls = self.calls
        deadline = time.monotonic() + 10
        while self.calls < calls + 3 and not self.failed and time.monotonic() < deadline:
            time.sleep(0.01)
        self.over = True
        self.join()
        self.peer.socket.close()
        assert not self.failed and self.calls >= calls + 3, f"{self.calls} calls, then none"


def many(one, n, batch=500):
    """n times what one(i) makes, in pieces."""
    for at in range(0, n, batch):
        yield b"".join(one(i) for i in range(at, min(n, at + batch)))


def odd(i):
    return 2 * i + 1


def fill_streams(p):
    p.send(*[headers(odd(i)) for i in range(100)])
    assert p.pings()


def open_stream(p):
    p.send(headers(1))


def watch(p):
    p.send(headers(1, changed(path="/grpc.health.v1.Health/Watch")), body(1))
    assert p.until(lambda: p.data(1))


def big_table(p):
    """An entry of 4000 bytes in the table of fields, for one byte each time it is used."""
    p.send(headers(1, raw=block(HEALTH) + field("x", "v" * 4000, 0x40)), body(1))
    assert p.until(lambda: p.finished(1))


FLOODS = {
    # name: (how it begins, the pieces)
    "rapid reset": (None, many(lambda i: headers(odd(i)) + reset(odd(i)), 20000)),
    "resets that we are made to send": (None, many(lambda i: headers(odd(i), changed(("content-length", "1"))) + body(odd(i)), 20000, 50)),
    "malformed calls": (None, many(lambda i: headers(odd(i), changed(("Upper", "x"))), 20000, 50)),
    "resets of closed streams": (watch, many(lambda i: reset(1), 20000)),
    "calls beyond the limit of streams": (fill_streams, many(lambda i: headers(odd(100 + i)), 20000)),
    "calls beyond a limit that was not acknowledged": (None, many(lambda i: headers(odd(i)), 20000)),
    "PING": (None, many(lambda i: frame(PING, payload=bytes(8)), 50000)),
    "SETTINGS": (None, many(lambda i: settings(), 50000)),
    "SETTINGS of many entries": (None, iter([frame(SETTINGS, payload=setting(0xff, 1) * 100)])),
    "PING with ACK": (None, many(lambda i: frame(PING, ACK, payload=bytes(8)), 50000)),
    "PRIORITY": (None, many(lambda i: frame(PRIORITY, 0, odd(i % 1000), b"\0\0\0\0\1"), 50000)),
    "empty DATA": (open_stream, many(lambda i: frame(DATA, 0, 1), 50000)),
    "WINDOW_UPDATE of the connection": (None, many(lambda i: window_update(0, 1), 50000)),
    "WINDOW_UPDATE of a stream": (watch, many(lambda i: window_update(1, 1), 50000)),
    "CONTINUATION, empty": (None, iter([frame(HEADERS, 0, 1, block(HEALTH)), *many(lambda i: frame(CONTINUATION, 0, 1), 5000)])),
    "CONTINUATION, full": (None, iter([frame(HEADERS, 0, 1, block(HEALTH)),
                                       *many(lambda i: frame(CONTINUATION, 0, 1, field("x", "y" * 8000)), 100)])),
    "a header block of 128 KiB": (None, iter([headers(1, [*HEALTH, *[("x", "y" * 8000)] * 16])])),
    "metadata that grows when it is decoded": (big_table, iter([headers(3, raw=block(HEALTH) + integer(62, 7, 0x80) * 10000)])),
    "trailers that grow when they are decoded": (big_table, iter([headers(3), headers(3, raw=integer(62, 7, 0x80) * 10000, flags=END_HEADERS | END_STREAM)])),
}
# Where the library is quicker, with a code that fits as well.
CODES = {"SETTINGS of many entries": (ENHANCE_YOUR_CALM, PROTOCOL_ERROR, FRAME_SIZE_ERROR),
         "calls beyond the limit of streams": (ENHANCE_YOUR_CALM, PROTOCOL_ERROR)}
PACED = ["resets that we are made to send", "malformed calls"]  # streams end when we have answered
KINDS = list(FLOODS)


def flood_of(name):
    """Fresh pieces: generators are used up."""
    begin, pieces = FLOODS[name]
    pieces = list(pieces)
    FLOODS[name] = (begin, pieces)
    return begin, pieces


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", KINDS)
def test_flood(ways, way, name):
    d = ways.daemon(way)
    begin, pieces = flood_of(name)
    before = d.info().resident_bytes
    other = Bystander(ways.address[way])
    try:
        with Peer(ways.address[way], agree="not acknowledged" not in name) as p:
            if begin:
                begin(p)
            for piece in pieces:
                p.send(piece)
                p.read(0) if name not in PACED else p.pings()
                if p.ended:
                    break
            assert p.closed(), f"the connection is open; {p.frames[-5:]}"
            assert p.code(GOAWAY) in CODES.get(name, (ENHANCE_YOUR_CALM,)), p.frames[-5:]
    finally:
        other.end()
    assert SANITIZED or d.info().resident_bytes < before + MEMORY
    counts[way] += 1


UNREAD = ["PING", "SETTINGS", "calls beyond the limit of streams", "resets that we are made to send", "malformed calls", "rapid reset"]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", UNREAD)
def test_flood_of_one_who_does_not_read(ways, way, name):
    """What has to be answered waits for him, and that is bounded; when he is ended kilnd does not spin over what he still sends."""
    d = ways.daemon(way)
    begin, pieces = flood_of(name)
    before = d.info().resident_bytes
    other = Bystander(ways.address[way])
    try:
        with Peer(ways.address[way], wait=0.5) as p:
            if begin:
                begin(p)
            try:
                for piece in pieces:
                    p.send(piece)
            except TimeoutError:
                pass
            assert SANITIZED or d.info().resident_bytes < before + MEMORY
            other.end()
            time.sleep(0.1)
            used = cpu_seconds(d.process.pid)
            time.sleep(1)
            assert cpu_seconds(d.process.pid) - used < 0.5
            p.wait = 10
            assert p.closed(), p.frames[-5:]
    finally:
        if other.is_alive():
            other.end()
    counts[way] += 1


def cpu_seconds(pid):
    fields = open(f"/proc/{pid}/stat").read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


@pytest.mark.parametrize("way", WAYS)
def test_windows_of_one_byte(ways, way):
    """An answer drawn out byte by byte: each byte is a frame of ours for a frame of theirs, which is a flood as well."""
    d = ways.daemon(way)
    message = kiln_pb2.DownloadRequest(buffer=d.upload(np.zeros(1 << 16, np.uint8))).SerializeToString()
    with Peer(ways.address[way], opening=[(INITIAL_WINDOW_SIZE, 0)]) as p:
        p.send(headers(1, changed(path="/kiln.v1.Kiln/Download")), body(1, b"\0" + len(message).to_bytes(4, "big") + message))
        for _ in range(400):
            p.send(window_update(1, 1) * 100)
            p.read(0)
            if p.ended:
                break
        assert p.closed() and p.code(GOAWAY) == ENHANCE_YOUR_CALM, p.frames[-5:]
        assert 0 < len(p.data(1)) < 1 << 16
    counts[way] += 1


@pytest.mark.parametrize("way", WAYS)
def test_what_is_no_flood(ways, way):
    """What a busy but honest client does is not taken for one."""
    with Peer(ways.address[way]) as p:
        stream = 1
        for _ in range(60):
            p.send(*[call(stream + 2 * i) + window_update(stream + 2 * i, 100) + window_update(0, 100) for i in range(90)])
            assert p.answered(stream + 178), p.frames[-5:]
            stream += 180
            p.frames.clear()
            p.send(frame(PING, payload=bytes(8)), settings())
        p.send(*[headers(stream + 2 * i) + reset(stream + 2 * i) for i in range(500)])  # gives up many at once
        p.send(call(stream + 2000))
        assert p.answered(stream + 2000), p.frames[-5:]
        p.send(headers(stream + 2002, [*HEALTH, *[("x", "y" * 1000)] * 20]))  # too much metadata is an answer, not an end
        p.until(lambda: p.finished(stream + 2002))
        assert p.seen(HEADERS, stream + 2002, END_STREAM) and p.pings()
        assert not p.seen(GOAWAY) and not p.seen(RST_STREAM, stream + 2000)
    counts[way] += 1


def test_floods_are_counted(tmp_path):
    """The metrics say that connections were ended, and why."""
    import urllib.request

    from conftest import Daemon, ends_well
    from tenants import free_port
    port = free_port()
    d = Daemon(tmp_path, config=["[server]", f"metrics = 127.0.0.1:{port}"])
    with Peer(f"unix:{d.socket}") as p:
        p.send(*many(lambda i: frame(PING, payload=bytes(8)), 20000))
        assert p.closed() and p.code(GOAWAY) == ENHANCE_YOUR_CALM
    text = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10).read().decode()
    assert "kiln_connections_flooded_total 1" in text and "kiln_connection_errors_total 1" in text
    ends_well(d)
