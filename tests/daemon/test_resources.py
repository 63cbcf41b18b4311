"""What runs out or goes wrong around a daemon: the disk, the clock, descriptors, memory, and processes that hang instead of dying.

The rule is the same everywhere: a call is answered, rightly or with an error that says what is missing; the daemon goes on, and when there is
enough again everything works."""
import mmap
import os
import pathlib
import resource
import signal
import socket
import struct
import subprocess
import threading
import time

import grpc
import numpy as np
import pytest
from conftest import HERE, SANITIZED, Daemon, add_graph, ends_well, fails, kiln_pb2, slow_graph
from mixed import Client, verified
from test_faults import check_run, ones, stopped, until

C = grpc.StatusCode
SHORT = (C.RESOURCE_EXHAUSTED, C.UNAVAILABLE)
MIB = 1 << 20


def cpu_seconds(pid):
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def limit(pid, what, n):
    resource.prlimit(pid, what, (n, resource.prlimit(pid, what)[1]))


def address_space(pid):
    return int(pathlib.Path(f"/proc/{pid}/statm").read_text().split()[0]) * mmap.PAGESIZE


# -- the disk -------------------------------------------------------------------------------------

@pytest.fixture
def disk(tmp_path):
    """A file system of 2 MiB."""
    at = tmp_path / "disk"
    at.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2M", "tmpfs", at], capture_output=True).returncode:
        pytest.skip("mounting a file system is not allowed here")
    yield at
    subprocess.run(["umount", "-l", at], check=True)


def fill(disk):
    with open(disk / "filler", "ab", buffering=0) as f:
        try:
            while True:
                f.write(bytes(4096))
        except OSError:
            pass


def test_disk_full(disk):
    """Cache, log and socket on a disk that fills up: serving goes on without remembering, and the cache is used again when there is room;
    killed with the disk full, it starts on the full disk, and the cache is whole."""
    d = Daemon(disk)
    d.compile(slow_graph(3))
    until(lambda: d.stats().kernels == 3)
    fill(disk)
    c = Client(d, 1)
    for _ in range(60):
        c.step()
    assert not c.wrong, c.wrong[:3]
    for i in range(20):
        if d.stats().error:
            break
        d.compile(slow_graph(5, first=5 * i))
    assert "write failed" in d.stats().error and "full" in d.stats().error, d.stats().error
    d.process.kill()
    d.process.wait()
    (disk / "run" / "kiln.sock").unlink()  # its place is enough for no page of a database
    d = Daemon(disk)
    check_run(d)
    (disk / "filler").unlink()
    d.compile(slow_graph(3, first=900))
    until(lambda: d.stats().kernels >= 3 and not d.stats().error, what="the cache is used again")
    assert verified(d) >= 3
    assert d.compile(slow_graph(3)).report.kernels_compiled == 0  # from before
    assert d.stop() == 0


# -- the clock, and memory that is refused --------------------------------------------------------

class Shim:
    """A daemon that obeys shim.c."""

    def __init__(self, folder, **kw):
        library, page = folder / "shim.so", folder / "page"
        subprocess.run(["gcc", "-O2", "-shared", "-fPIC", "-o", library, HERE / "shim.c", "-ldl"], check=True)
        page.write_bytes(bytes(4096))
        with open(page, "r+b") as f:
            self.page = mmap.mmap(f.fileno(), 4096)
        env = {"KILN_SHIM": str(page), "LD_PRELOAD": str(library)}
        self.d = Daemon(folder, env=env, **kw)

    def set(self, i, value):
        struct.pack_into("q", self.page, 8 * i, value)

    def get(self, i):
        return struct.unpack_from("q", self.page, 8 * i)[0]


YEAR = 365 * 86400


@pytest.mark.skipif(SANITIZED, reason="a sanitizer wants to be loaded first")
def test_clock_jumps(tmp_path):
    """Years forward and back under load: deadlines, budgets and quotas are not of the wall clock, and records from the future are whole."""
    s = Shim(tmp_path, config=["[tuning]", "background = false"])
    d, stop = s.d, threading.Event()
    clients = [Client(d, i, stop, tune=i == 0) for i in range(3)]
    for c in clients:
        c.start()
    for jump in (10 * YEAR, -20 * YEAR, 3, -3, 0, 30 * YEAR, -YEAR, 0):
        s.set(0, jump)
        wall = d.stub.CacheList(kiln_pb2.CacheListRequest(limit=1), timeout=20)
        assert wall is not None
        began = time.monotonic()
        with fails(C.DEADLINE_EXCEEDED):
            for _ in d.stub.Events(kiln_pb2.EventsRequest(), timeout=0.3):
                pass
        assert 0.2 < time.monotonic() - began < 10
        check_run(d, 100 + jump % 97)
    stop.set()
    for c in clients:
        c.join(60)
        assert not c.is_alive() and not c.wrong, c.wrong[:3]
    stamped = [line for line in d.log().splitlines() if line.startswith(("ts=203", "ts=200"))]
    assert stamped  # the clock did jump
    assert verified(d) > 0
    # nothing is older than a hundred years, whichever way the clock went; all is older than nothing
    assert d.stub.CachePrune(kiln_pb2.CachePruneRequest(older_ns=100 * YEAR * 10**9), timeout=20).entries == 0
    ends_well(d)


@pytest.mark.skipif(SANITIZED, reason="a sanitizer has allocators of its own")
def test_allocations_fail(tmp_path, capsys):
    """One allocation of kilnd fails, the first, second, ... that a call needs; then three in a row. Whatever becomes of the call, kilnd goes
    on and the next one is right."""
    s = Shim(tmp_path, config=["[tuning]", "background = false", "[workers]", "compile = 1"])
    d = s.d
    warm = Client(d, 1)
    for _ in range(40):
        warm.step()
    assert not warm.wrong, warm.wrong[:3]
    most = int(os.environ.get("KILN_ALLOCATIONS", "4"))
    tried = failed = 0
    codes = {}
    for act in ("run_small", "run_large", "run_buffers", "upload", "read", "compile_new", "compile_product", "look", "count_up"):
        s.set(1, 1 << 40)
        getattr(warm, act)()
        needed = (1 << 40) - s.get(1)
        for row in (1, 3):
            for at in sorted({1 + k * needed // most for k in range(most)}):
                c = Client(d, 1000 + tried)
                c.kept, c.exe = dict(warm.kept), dict(warm.exe)
                tried += 1
                before = s.get(3)
                s.set(2, row)
                s.set(1, at)
                error = None
                try:
                    getattr(c, act)()
                except grpc.RpcError as e:
                    error = e
                    codes[e.code().name] = codes.get(e.code().name, 0) + 1
                s.set(1, 0)
                failed += s.get(3) - before
                assert d.process.poll() is None, f"{act}, allocation {at} of {needed}: kilnd ended: {d.log()[-2000:]}"
                assert not c.wrong, (act, at, c.wrong)
                if error:
                    d.wait_ready()  # the connection may have been the price
        check_run(d, 40)
    with capsys.disabled():
        print(f"\nallocations: {tried} calls with {failed} failed allocations; errors {codes}")
    assert set(codes) <= {c.name for c in (*SHORT, C.INTERNAL, C.NOT_FOUND)}, codes
    assert failed > tried / 2
    assert verified(d) > 0
    ends_well(d)


@pytest.mark.skipif(SANITIZED, reason="a sanitizer needs more address space than any limit leaves")
def test_address_space_runs_out(start):
    """kilnd may have little more than it has: large uploads and models are refused, small calls are served, and all is well afterwards."""
    d = start()
    exe = check_run(d).executable
    limit(d.process.pid, resource.RLIMIT_AS, address_space(d.process.pid) + 24 * MIB)
    refused = 0
    for _ in range(3):
        for big in (lambda: d.run(exe, {"x": ones(1 << 23), "b": ones()}), lambda: d.compile(add_graph(16, np.zeros(1 << 23)))):
            try:
                big()
            except grpc.RpcError as e:
                assert e.code() in (*SHORT, C.INVALID_ARGUMENT, C.CANCELLED), e
                refused += 1
    assert refused == 6
    assert d.run(exe, {"x": ones(), "b": ones()})["y"][0] == 2
    limit(d.process.pid, resource.RLIMIT_AS, resource.RLIM_INFINITY)
    big = d.upload(np.full(1 << 23, 3, np.float32))
    assert (d.download(big) == 3).all()
    check_run(d, 30)


@pytest.mark.skipif(SANITIZED, reason="a sanitizer needs more address space than any limit leaves")
def test_device_worker_without_memory(start):
    """The worker cannot map what a run needs: that run is refused, others are served; a new worker has what it needs."""
    d = start()
    small_exe, big_exe = check_run(d).executable, d.compile(add_graph(1 << 20)).executable
    big = {"x": ones(1 << 20), "b": ones(1 << 20)}
    assert d.run(big_exe, big)["y"][0] == 2
    pid = d.children("device")[0]
    limit(pid, resource.RLIMIT_AS, address_space(pid) + MIB)
    more = 3 << 20  # needs new memory
    for _ in range(3):
        with pytest.raises(grpc.RpcError) as e:
            d.run(d.compile(add_graph(more)).executable, {"x": ones(more), "b": ones(more)})
        assert e.value.code() in SHORT, e.value
        try:
            assert d.run(small_exe, {"x": ones(), "b": ones()})["y"][0] == 2
        except grpc.RpcError as e:
            assert e.code() in SHORT, e
    os.kill(d.children("device")[0], signal.SIGKILL)
    d.wait_ready()
    assert d.run(big_exe, big)["y"][0] == 2


# -- descriptors ----------------------------------------------------------------------------------

def test_descriptors_of_buffers_run_out(start):
    """Each upload keeps a descriptor: when there are no more, uploads, compiles and downloads say so; freeing one helps at once. kilnd does
    not spin, and new connections are accepted again."""
    d = start()
    exe = check_run(d).executable
    made = d.run(exe, {"x": ones(), "b": ones()}, buffers=True)["y"]
    base = len(os.listdir(f"/proc/{d.process.pid}/fd"))
    limit(d.process.pid, resource.RLIMIT_NOFILE, base + 16 + 12)  # 16 are kept for what the server needs itself
    kept = []
    for _ in range(40):
        try:
            kept.append(d.upload(ones()))
        except grpc.RpcError as e:
            assert e.code() == C.RESOURCE_EXHAUSTED, e
    assert 0 < len(kept) < 40
    assert d.run(exe, {"x": ones(), "b": ones()})["y"][0] == 2  # needs none
    with fails(C.RESOURCE_EXHAUSTED, "descriptor"):
        d.compile(add_graph(77))
    assert (d.download(made) == 2).all()  # of the reserve
    late = socket.socket(socket.AF_UNIX)
    late.connect(str(d.socket))
    time.sleep(0.3)
    used = cpu_seconds(d.process.pid)
    time.sleep(1.5)
    assert cpu_seconds(d.process.pid) - used < 0.5
    d.stub.FreeBuffers(kiln_pb2.FreeBuffersRequest(buffers=kept), timeout=20)
    limit(d.process.pid, resource.RLIMIT_NOFILE, base + 400)
    assert (d.download(made) == 2).all()
    check_run(d, 78)
    os.kill(d.children("device")[0], signal.SIGKILL)
    d.wait_ready()
    check_run(d, 79)


@pytest.mark.parametrize("left", range(5))
def test_no_descriptors_when_a_worker_dies(start, left):
    """A worker that dies while kilnd cannot open anything, or only some of what another one takes, is started again when it can."""
    d = start()
    exe = check_run(d).executable
    limit(d.process.pid, resource.RLIMIT_NOFILE, len(os.listdir(f"/proc/{d.process.pid}/fd")) - 2 * len(d.children()) + left)
    for pid in d.children():
        os.kill(pid, signal.SIGKILL)
    used = cpu_seconds(d.process.pid)
    time.sleep(2)
    assert cpu_seconds(d.process.pid) - used < 1
    limit(d.process.pid, resource.RLIMIT_NOFILE, 1000)
    d.wait_ready(60)
    assert d.run(exe, {"x": ones(), "b": ones()})["y"][0] == 2
    check_run(d, 31)


# -- processes that hang --------------------------------------------------------------------------

def test_device_hangs_whatever_it_is_asked(start):
    """Stopped while it loads, runs, or gives memory to a download: the call is answered when the time is over, and a new worker serves."""
    d = start(config=["[workers]", "run_seconds = 1"])
    exe = check_run(d).executable
    for n, call in enumerate([lambda: d.run(d.compile(add_graph(50)).executable, {"x": ones(50), "b": ones(50)}),
                              lambda: d.run(exe, {"x": ones(), "b": ones()}), None]):
        made = d.run(exe, {"x": ones(), "b": ones()}, buffers=True)["y"]
        stopped(d.children("device"))
        began = time.time()
        with pytest.raises(grpc.RpcError) as e:
            call() if call else d.download(made)
        assert e.value.code() in (C.UNAVAILABLE, C.DATA_LOSS), e.value
        assert time.time() - began < 30
        d.wait_ready()
        until(lambda: d.devices()[0].restarts > n)
        check_run(d, 60 + n)


def test_zygote_hangs(start):
    """Nobody answers to the wish for a worker: after some seconds the zygote is replaced."""
    d = start()
    exe = check_run(d).executable
    with open(f"/proc/{d.process.pid}/task/{d.process.pid}/children") as f:
        zygote = int(f.read().split()[0])
    workers = d.children("compile")
    os.kill(zygote, signal.SIGSTOP)
    for pid in workers:
        os.kill(pid, signal.SIGKILL)
    assert d.run(exe, {"x": ones(), "b": ones()})["y"][0] == 2
    until(lambda: not pathlib.Path(f"/proc/{zygote}").exists(), timeout=60, what="the zygote is replaced")
    d.wait_ready()
    check_run(d, 33)
