"""Large tensors and slow clients: chunks with flow control both ways, memory that a local client passes, and bounds on what is kept for
those who do not read."""
import array as bytes_array
import fcntl
import mmap
import os
import socket
import struct
import threading
import time
import urllib.request

import grpc
import numpy as np
import pytest
from conftest import SANITIZED, Daemon, add_graph, ends_well, fails, kiln_pb2
from tenants import free_port

MIB = 1 << 20
F_ADD_SEALS, F_SEAL_SHRINK, F_SEAL_GROW, F_SEAL_WRITE = 1033, 2, 4, 8
ALL = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE


def resident(d):
    with open(f"/proc/{d.process.pid}/statm") as f:
        return int(f.read().split()[1]) * mmap.PAGESIZE


def frame(kind, flags, stream, payload):
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def literal(name, value):
    return b"\x00" + bytes([len(name)]) + name + bytes([len(value)]) + value


class Raw:
    """A client that speaks frames, so that it can also not read, and pass descriptors."""

    def __init__(self, d, window=1 << 30):
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.connect(str(d.socket))
        settings = frame(4, 0, 0, struct.pack(">HI", 4, window if window < 1 << 31 else (1 << 31) - 1))
        self.sock.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + settings + frame(8, 0, 0, struct.pack(">I", 1 << 30)))
        self.stream = 1

    def call(self, method, message, fds=()):
        headers = b"".join(literal(*h) for h in [(b":method", b"POST"), (b":scheme", b"http"), (b":path", b"/kiln.v1.Kiln/" + method),
                                                 (b":authority", b"x"), (b"te", b"trailers"), (b"content-type", b"application/grpc")])
        body = b"\0" + struct.pack(">I", len(message)) + message
        data = frame(1, 4, self.stream, headers) + frame(0, 1, self.stream, body)
        control = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, bytes_array.array("i", fds))] if fds else []
        self.sock.sendmsg([data], control)
        self.stream += 2

    def answer(self, timeout=20):
        """All that comes until a stream ends: the bytes of DATA and of HEADERS."""
        self.sock.settimeout(timeout)
        buf, data, headers = b"", b"", b""
        while True:
            while len(buf) < 9:
                buf += self._more()
            n, kind, flags = int.from_bytes(buf[:3], "big"), buf[3], buf[4]
            while len(buf) < 9 + n:
                buf += self._more()
            payload, buf = buf[9:9 + n], buf[9 + n:]
            data += payload if kind == 0 else b""
            headers += payload if kind == 1 else b""
            if kind in (0, 1) and flags & 1:
                return data, headers

    def _more(self):
        got = self.sock.recv(1 << 20)
        assert got, "the server closed the connection"
        return got


def memory(data, seals=ALL, size=None):
    fd = os.memfd_create("tensor", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, size if size is not None else len(data))
    os.pwrite(fd, data, 0)
    fcntl.fcntl(fd, F_ADD_SEALS, seals)
    return fd


@pytest.fixture(scope="module")
def daemon(tmp_path_factory):
    """One that says why a call failed: its answers here are not decoded that far."""
    d = Daemon(tmp_path_factory.mktemp("daemon"), config=["[server]", "log_level = debug"])
    yield d
    ends_well(d)


def upload_memory(d, fds, n, number=1, raw=None):
    """(id, None), or (None, what the daemon logged meanwhile)"""
    before = len(d.log())
    raw = raw or Raw(d)
    header = kiln_pb2.UploadHeader(dtype=12, dims=[n], memory=number)
    raw.call(b"Upload", kiln_pb2.UploadRequest(header=header).SerializeToString(), fds)
    data, _ = raw.answer()
    if data:
        return kiln_pb2.UploadResponse.FromString(data[5:]).buffer, None
    return None, d.log()[before:]


def test_streams_both_ways(daemon):
    a = np.random.default_rng(1).integers(0, 255, 48 * MIB, np.uint8)
    for _ in range(3):  # the second and third reuse the memory of the one before
        b = daemon.upload(a)
        assert (daemon.download(b) == a).all()
        daemon.stub.FreeBuffers(kiln_pb2.FreeBuffersRequest(buffers=[b]))
        a = a[::-1].copy()


def test_memory_is_taken_as_it_is(daemon):
    x = np.random.default_rng(2).standard_normal(1 << 18).astype(np.float32)
    fd = memory(x.tobytes())
    buffer, failure = upload_memory(daemon, [fd], len(x))
    os.close(fd)
    assert buffer, failure
    assert (daemon.download(buffer) == x).all()
    exe = daemon.compile(add_graph(len(x))).executable
    got = daemon.run(exe, {"x": buffer, "b": x})["y"]
    assert (got == x + x).all()


def test_several_on_one_connection(daemon):
    raw, xs = Raw(daemon), [np.full(1000, k, np.float32) for k in range(3)]
    fds = [memory(x.tobytes()) for x in xs]
    first, _ = upload_memory(daemon, fds, 1000, 2, raw)  # all three go with the first call, which means the second
    assert (daemon.download(first) == xs[1]).all()
    for number in (3, 1):
        b, failure = upload_memory(daemon, [], 1000, number, raw)
        assert b, failure
        assert (daemon.download(b) == xs[number - 1]).all()
    b, failure = upload_memory(daemon, [], 1000, 1, raw)
    assert not b and "no descriptor 1" in failure


@pytest.mark.parametrize("what", ["not sealed", "only shrink", "no write seal", "short", "long", "a file", "a socket", "none", "far too many"])
def test_memory_that_is_refused(daemon, tmp_path, what):
    data = np.ones(1000, np.float32).tobytes()
    make = {"not sealed": lambda: memory(data, 0), "only shrink": lambda: memory(data, F_SEAL_SHRINK),
            "no write seal": lambda: memory(data, F_SEAL_SHRINK | F_SEAL_GROW), "short": lambda: memory(data[:-4]),
            "long": lambda: memory(data, size=8 * MIB), "a socket": lambda: socket.socket().detach(),
            "a file": lambda: os.open(tmp_path / "f", os.O_RDWR | os.O_CREAT)}
    if what == "a file":
        (tmp_path / "f").write_bytes(data)
    fds = [make[what]()] if what in make else [] if what == "none" else [memory(data) for _ in range(12)]
    buffer, failure = upload_memory(daemon, fds, 1000, 12 if what == "far too many" else 1)
    for fd in fds:
        os.close(fd)
    assert not buffer
    assert any(w in failure for w in ("sealed", "no memory file", "memory has", "no descriptor")), failure
    assert daemon.process.poll() is None


def test_descriptors_of_a_connection_that_ends_are_closed(daemon):
    def count():
        return len(os.listdir(f"/proc/{daemon.process.pid}/fd"))
    before = count()
    for _ in range(30):
        raw = Raw(daemon)
        fds = [memory(b"1234") for _ in range(3)]
        upload_memory(daemon, fds, 1, 1, raw)
        raw.sock.close()
        for fd in fds:
            os.close(fd)
    end = time.time() + 10
    while count() > before + 31 and time.time() < end:  # the 30 buffers that were uploaded, and what grpc opens meanwhile
        time.sleep(0.05)
    assert count() <= before + 31


def test_a_client_that_never_reads(start):
    """Downloads stop at what is queued per stream; kilnd does not hold the rest for it."""
    d = start(config=["[limits]", "buffers = 2G"])
    big = d.upload(np.zeros(256 * MIB, np.uint8))
    d.stub.ListDevices(kiln_pb2.ListDevicesRequest(), timeout=10)
    before = resident(d)
    readers = [Raw(d) for _ in range(4)]
    for raw in readers:
        for _ in range(10):
            raw.call(b"Download", kiln_pb2.DownloadRequest(buffer=big).SerializeToString())
    time.sleep(1)
    grown = resident(d) - before
    held = 256 * MIB if SANITIZED else 0  # shadows, and freed memory that a sanitizer keeps
    assert grown < 4 * 10 * 4 * MIB + held, f"{grown >> 20} MiB for 10 GiB that nobody reads"
    small = d.upload(np.ones(8 * MIB, np.uint8))
    assert d.download(small).all()  # others are served
    for raw in readers:
        raw.sock.close()


def run_request(exe, buffer):
    return kiln_pb2.RunRequest(executable=exe, inputs=[kiln_pb2.NamedTensor(name=k, buffer=buffer) for k in "xb"]).SerializeToString()


def test_answers_that_nobody_reads_are_refused_at_last(start):
    """Runs whose answers are large, one after the other, by a client that does not read."""
    d = start()
    n = 4 * MIB
    exe = d.compile(add_graph(n)).executable
    zeros = d.upload(np.zeros(n, np.float32))
    raw = Raw(d)
    request = run_request(exe, zeros)
    before, done = resident(d), threading.Event()

    def flood():
        try:
            for _ in range(90):
                raw.call(b"Run", request)
                time.sleep(0.01)
        except OSError:
            pass
        done.set()
    threading.Thread(target=flood, daemon=True).start()
    assert done.wait(60)
    time.sleep(0.5)
    held = 256 * MIB if SANITIZED else 0  # freed memory that a sanitizer keeps
    # 512 MiB of answers, those of runs that go on included, whose slabs are no more than that; 256 MiB of idle slabs; 90 answers
    # and slabs would be 2,880
    assert resident(d) - before < (512 + 256 + 64) * MIB + held
    assert d.run(exe, {"x": zeros, "b": zeros})["y"].size == n
    raw.sock.close()
    end = time.time() + 60
    while resident(d) - before > (64 * MIB + held) and time.time() < end:
        time.sleep(0.2)
    assert resident(d) - before <= 64 * MIB + held  # what was held is given back to the system


def unread(d):
    """What the daemon says is waiting to be read."""
    text = urllib.request.urlopen(f"http://127.0.0.1:{d.metrics_port}/metrics", timeout=20).read().decode()
    return int(float(next(line.split()[1] for line in text.splitlines() if line.startswith("kiln_answer_bytes "))))


def comes_to(d, low, timeout=20):
    """The same once it is at least `low`, and half a second later: nothing more comes then."""
    end = time.time() + timeout
    while unread(d) < low and time.time() < end:
        time.sleep(0.05)
    time.sleep(0.5)
    return unread(d)


def test_connections_that_read_nothing_leave_room_for_others(start):
    """However many clients do not read, all they have waiting is bounded, and somebody who reads is served."""
    port = free_port()
    d = start(config=["[server]", f"metrics = 127.0.0.1:{port}", "[limits]", "answers = 96M"])
    d.metrics_port = port
    n = MIB // 4
    exe = d.compile(add_graph(n)).executable
    zeros = d.upload(np.zeros(n, np.float32))
    request, raws = run_request(exe, zeros), []
    # the first has a third of 96 MiB; each next one a third of what the others have left for the tenant, which is half of it
    for low, high in ((32, 32), (42, 43), (45, 46), (46, 47)):
        raws.append(Raw(d))
        for _ in range(60):
            raws[-1].call(b"Run", request)
        assert (low - 1) * MIB <= comes_to(d, (low - 1) * MIB) < (high + 1) * MIB
    assert d.run(exe, {"x": zeros, "b": zeros})["y"].size == n
    with fails(grpc.StatusCode.RESOURCE_EXHAUSTED, "has no room"):
        big = d.upload(np.zeros(16 * n, np.float32))
        d.run(d.compile(add_graph(16 * n)).executable, {"x": big, "b": big})
    for raw in raws:
        raw.sock.close()
    end = time.time() + 20
    while unread(d) and time.time() < end:
        time.sleep(0.1)
    assert unread(d) == 0


def test_unread_answers_are_the_tenants_host_bytes(start):
    """Whoever has a quota of the host's memory cannot have more of it by not reading."""
    port = free_port()
    d = start(config=["[server]", f"metrics = 127.0.0.1:{port}", "[tenant me]", "roles = all", f"uid = {os.getuid()}", "host_bytes = 24M"])
    d.metrics_port = port
    exe = d.compile(add_graph(MIB)).executable
    zeros = d.upload(np.zeros(MIB, np.float32))  # 4 MiB, of which the host has a copy; an answer is as long
    raw = Raw(d)
    for _ in range(20):
        raw.call(b"Run", run_request(exe, zeros))
    assert 8 * MIB <= comes_to(d, 8 * MIB) <= 20 * MIB  # a run needs 4 MiB for its answer and 4 while it runs
    with fails(grpc.StatusCode.RESOURCE_EXHAUSTED, "host memory"):
        for _ in range(3):
            d.upload(np.zeros(3 * MIB, np.float32))
    raw.sock.close()
    end = time.time() + 20
    while unread(d) and time.time() < end:
        time.sleep(0.1)
    assert d.run(exe, {"x": zeros, "b": zeros})["y"].size == MIB
