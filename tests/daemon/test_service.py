"""kilnd under a service manager, which these tests act: readiness and watchdog, passed sockets, reload, drain, upgrade under load; and
what the unit files say."""
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import threading
import time

import grpc
import numpy as np
import pytest
from conftest import BIN, ROOT, Daemon, add_graph, ends_well, fails, kiln_pb2, kiln_pb2_grpc, slow_graph
from test_metrics import get, scrape
from wire import ACK, GOAWAY, PING, Peer, frame, headers

DEPLOY = ROOT / "deploy"
UNITS = ["kilnd.service", "kilnd.socket", "kilnd-metrics.socket"]


class Manager:
    """Keeps listening sockets and starts daemons on them, as systemd does."""

    def __init__(self, folder):
        self.folder = pathlib.Path(folder)
        self.notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.notify.bind(str(self.folder / "notify"))
        self.sockets, self.said, self.daemons, self.started = [], [], [], 0

    def listen(self, name, address=None):
        s = socket.socket(socket.AF_INET if address else socket.AF_UNIX)
        s.bind(address or str(self.folder / f"{name}.sock"))
        s.listen(64)
        self.sockets.append((s, name))
        return s

    def start(self, wait=True, env=None, **kw):
        folder = self.folder / f"d{self.started}"
        self.started += 1
        folder.mkdir()
        numbers = [s.fileno() for s, _ in self.sockets]

        def pass_sockets():
            high = [os.dup(n) for n in numbers]  # above what they are moved to
            for i, n in enumerate(high):
                os.dup2(n, 3 + i)
        env = {"NOTIFY_SOCKET": str(self.folder / "notify"), **(env or {})}
        kw.setdefault("cache", str(self.folder / "shared.db"))
        if numbers:
            env.update(LISTEN_FDS=str(len(numbers)), LISTEN_FDNAMES=":".join(n for _, n in self.sockets))
        d = Daemon(folder, env=env, preexec=pass_sockets, prefix=("sh", "-c", 'LISTEN_PID=$$ exec "$@"', "sh"),
                   popen={"close_fds": False}, wait=False, **kw)
        d.http = self.folder / "metrics.sock"
        self.daemons.append(d)
        if wait:
            self.expect("READY=1")
            assert f"MAINPID={d.process.pid}" in self.said[-1]
        return d

    def expect(self, word, timeout=30):
        """Reads datagrams until one holds the word."""
        end = time.time() + timeout
        while True:
            self.notify.settimeout(max(end - time.time(), 0.001))
            try:
                self.said.append(self.notify.recv(4096).decode())
            except TimeoutError:
                raise AssertionError(f"{word} was not said, but {self.said[-10:]}: {self.daemons[-1].log()}") from None
            if word in self.said[-1]:
                return self.said[-1]

    def stop(self):
        for d in self.daemons:
            ends_well(d)
        for s, _ in self.sockets:
            s.close()
        self.notify.close()


@pytest.fixture
def manager(tmp_path):
    m = Manager(tmp_path)
    yield m
    m.stop()


def stub_at(path):
    channel = grpc.insecure_channel(f"unix:{path}")  # as clients have it: a connection may wait 20 s for the next daemon
    return channel, kiln_pb2_grpc.KilnStub(channel)


# -- what is said to the manager ------------------------------------------------------------------

def test_says_when_it_is_ready_and_when_it_stops(manager):
    d = manager.start()
    assert d.devices()[0].available
    assert "1 of 1 devices up" in manager.expect("STATUS=")
    assert d.stop() == 0
    assert "STATUS=finishing 0 calls" in manager.expect("STOPPING=1")


def test_watchdog(manager):
    d = manager.start(env={"WATCHDOG_USEC": "800000"})
    begin = time.time()
    for _ in range(5):
        manager.expect("WATCHDOG=1", 2)
    assert time.time() - begin < 5 * 0.8
    os.kill(d.process.pid, signal.SIGSTOP)  # a loop that does not turn says nothing
    try:
        time.sleep(0.1)
        manager.notify.setblocking(False)
        try:
            while True:
                manager.notify.recv(4096)
        except BlockingIOError:
            pass
        manager.notify.settimeout(1.5)
        with pytest.raises(TimeoutError):
            manager.notify.recv(4096)
    finally:
        os.kill(d.process.pid, signal.SIGCONT)


def test_workers_do_not_see_the_managers_variables(manager):
    manager.listen("calls")
    d = manager.start(env={"WATCHDOG_USEC": "10000000"})
    pids = [int(p) for p in pathlib.Path(f"/proc/{d.process.pid}/task/{d.process.pid}/children").read_text().split()] + d.children()
    assert len(pids) >= 2
    for pid in pids:
        names = {v.split(b"=")[0] for v in pathlib.Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")}
        assert not names & {b"NOTIFY_SOCKET", b"WATCHDOG_USEC", b"LISTEN_FDS", b"LISTEN_PID", b"LISTEN_FDNAMES"}, pid
        fds = [os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")]
        listening = f"socket:[{os.fstat(manager.sockets[0][0].fileno()).st_ino}]"
        assert listening not in fds


# -- passed sockets -------------------------------------------------------------------------------

def test_serves_on_passed_sockets(manager):
    manager.listen("calls")
    manager.listen("metrics")
    d = manager.start()
    channel, stub = stub_at(manager.folder / "calls.sock")
    assert stub.GetServerInfo(kiln_pb2.GetServerInfoRequest(), timeout=10).pid == d.process.pid
    assert get(d, "/readyz")[0] == 200
    assert not d.socket.exists()  # instead of what it was told to listen on
    channel.close()
    assert d.stop() == 0
    assert (manager.folder / "calls.sock").exists()  # the manager's, not the daemon's


def test_sockets_for_another_process_are_left_alone(tmp_path, start):
    d = start(env={"LISTEN_FDS": "1", "LISTEN_PID": "1"})
    assert d.devices()[0].available


def test_what_is_passed_must_listen(manager):
    s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    s.bind(str(manager.folder / "dgram"))
    manager.sockets.append((s, "calls"))
    d = manager.start(wait=False)
    assert d.process.wait(20) == 69
    assert "no listening stream socket" in d.log()
    manager.daemons.clear()


def test_a_passed_port_that_is_open_to_the_world_is_refused(manager):
    manager.listen("calls", ("0.0.0.0", 0))
    d = manager.start(wait=False)
    assert d.process.wait(20) == 69
    assert "insecure_tcp" in d.log()
    manager.daemons.clear()
    d = manager.start(config=["[server]", "insecure_tcp = true"])
    channel = grpc.insecure_channel("127.0.0.1:%d" % manager.sockets[0][0].getsockname()[1])
    assert kiln_pb2_grpc.KilnStub(channel).GetServerInfo(kiln_pb2.GetServerInfoRequest(), timeout=10).pid == d.process.pid
    channel.close()


# -- reload ---------------------------------------------------------------------------------------

def test_reload(manager):
    manager.listen("metrics")
    d = manager.start(config=["[server]", "log_level = warn"])
    conf = d.folder / "kiln.conf"
    d.compile(add_graph())
    assert 'msg="compiled"' not in d.log()
    conf.write_text("[server]\nlog_level = info\n")
    os.kill(d.process.pid, signal.SIGHUP)
    manager.expect("RELOADING=1")
    manager.expect("READY=1")
    d.compile(add_graph(8))
    assert 'msg="compiled"' in d.log()
    conf.write_text("[server]\nlog_level = loud\n")
    os.kill(d.process.pid, signal.SIGHUP)
    manager.expect("RELOADING=1")
    manager.expect("READY=1")
    lines = [line for line in d.log().splitlines() if 'action="config.reload"' in line]
    assert len(lines) == 2 and "code=OK" in lines[0] and "code=INVALID_ARGUMENT" in lines[1] and "loud" in lines[1]
    d.compile(add_graph(24))  # the last good one holds
    assert d.log().count('msg="compiled"') == 2
    values, _ = scrape(d)
    assert values['kiln_reloads_total{result="ok"}'] == values['kiln_reloads_total{result="failed"}'] == 1


# -- drain ----------------------------------------------------------------------------------------

def test_drain_finishes_what_was_begun(manager):
    manager.listen("calls")
    manager.listen("metrics")
    d = manager.start(config=["[server]", "grace = 60s"])
    channel, stub = stub_at(manager.folder / "calls.sock")
    health = channel.unary_stream("/grpc.health.v1.Health/Watch", request_serializer=bytes, response_deserializer=bytes)(b"", timeout=60)
    assert next(health) == b"\x08\x01"  # SERVING
    call = stub.Compile.future(d.compile_parts(slow_graph(120)), timeout=120)
    while scrape(d)[0]["kiln_compile_busy"] == 0:
        time.sleep(0.01)
    d.process.send_signal(signal.SIGTERM)
    assert next(health) == b"\x08\x02"  # NOT_SERVING
    with pytest.raises(grpc.RpcError):
        next(health)
    assert get(d, "/readyz") == (503, "the server is stopping\n") and get(d, "/healthz")[0] == 200
    assert call.result().report.kernels == 120
    assert d.process.wait(30) == 0
    channel.close()


def test_drain_ends_in_time(manager):
    manager.listen("calls")
    manager.listen("metrics")
    d = manager.start(config=["[server]", "grace = 1s"])
    channel, stub = stub_at(manager.folder / "calls.sock")
    call = stub.Compile.future(d.compile_parts(slow_graph(1500)), timeout=120)
    while scrape(d)[0]["kiln_compile_busy"] == 0:
        time.sleep(0.01)
    begin = time.time()
    d.process.send_signal(signal.SIGTERM)
    assert d.process.wait(20) == 0
    assert 0.5 < time.time() - begin < 10
    assert call.exception() is not None and call.code() == grpc.StatusCode.UNAVAILABLE
    channel.close()


def test_who_writes_while_the_server_ends_is_not_cut_off(start):
    """The end of the stream is said first and the socket closed when the client has ended, too: a client that writes in between would
    otherwise fail before it has read what was said. Who never ends is not waited for."""
    d = start()
    with Peer(f"unix:{d.socket}") as quick, Peer(f"unix:{d.socket}") as never:
        d.process.send_signal(signal.SIGTERM)
        for p in quick, never:
            assert p.until(lambda: p.seen(PING)) and p.seen(GOAWAY), p.frames
            p.send(frame(PING, ACK, payload=p.seen(PING)[0][3]))
            assert p.closed() and len(p.seen(GOAWAY)) == 2, p.frames
            p.socket.sendall(headers(1))  # raises when the socket is closed
        quick.socket.close()
        assert d.process.wait(10) == 0


# -- upgrade --------------------------------------------------------------------------------------

class Load:
    """Clients that call all the time; every answer is checked, and every failure kept."""

    def __init__(self, path, clients=4):
        self.path, self.stop_now = path, threading.Event()
        self.failures, self.calls, self.pids, self.recompiled = [], 0, set(), 0
        self.lock = threading.Lock()
        self.threads = [threading.Thread(target=self.work, args=(i,)) for i in range(clients)]
        for t in self.threads:
            t.start()

    def work(self, seed):
        channel, stub = stub_at(self.path)
        x = np.arange(16, dtype=np.float32) + seed
        parts = Daemon.compile_parts
        exe = None
        while not self.stop_now.is_set():
            try:
                pid = stub.GetServerInfo(kiln_pb2.GetServerInfoRequest(), timeout=30).pid
                if exe is None:
                    exe = stub.Compile(parts(None, add_graph(), name=f"c{seed}"), timeout=30).executable
                tensor = kiln_pb2.Tensor(dtype=12, dims=[16], data=x.tobytes())
                inputs = [kiln_pb2.NamedTensor(name=n, tensor=tensor) for n in "xb"]
                try:
                    r = stub.Run(kiln_pb2.RunRequest(executable=exe, inputs=inputs), timeout=30)
                    right = np.frombuffer(r.outputs[0].tensor.data, np.float32).tolist() == (2 * x).tolist()
                except grpc.RpcError as e:
                    # handles belong to the daemon that gave them: as its message says, the model is compiled again
                    if e.code() != grpc.StatusCode.NOT_FOUND:
                        raise
                    exe, right = None, True
                with self.lock:
                    self.calls += 1
                    self.pids.add(pid)
                    self.recompiled += exe is None
                    if not right:
                        self.failures.append("a wrong answer")
            except grpc.RpcError as e:
                with self.lock:
                    self.failures.append(f"{e.code()}: {e.details()}")
        channel.close()

    def end(self):
        self.stop_now.set()
        for t in self.threads:
            t.join(60)
        assert not self.failures, self.failures[:5]


def wait_calls(load, n):
    begin, end = load.calls, time.time() + 60
    while load.calls < begin + n:
        assert time.time() < end and not load.failures, load.failures[:5]
        time.sleep(0.01)


@pytest.mark.parametrize("overlap", [True, False], ids=["new-before-old-ends", "old-ends-first"])
def test_upgrade_drops_no_request(manager, overlap):
    manager.listen("calls")
    old = manager.start()
    load = Load(manager.folder / "calls.sock")
    try:
        for _ in range(3):
            wait_calls(load, 50)
            if overlap:
                new = manager.start()
                wait_calls(load, 20)
            old.process.send_signal(signal.SIGTERM)
            if not overlap:
                assert old.process.wait(30) == 0, old.log()
                new = manager.start()
            wait_calls(load, 50)
            assert old.process.wait(30) == 0, old.log()
            old = new
        wait_calls(load, 50)
    finally:
        load.end()
    assert len(load.pids) == 4 and load.recompiled >= 4
    assert len(manager.daemons) == 4


# -- unit files -----------------------------------------------------------------------------------

def test_units_are_hardened():
    tool = shutil.which("systemd-analyze")
    assert tool, "systemd is installed by tests/run.sh"
    out = subprocess.run([tool, "security", "--offline=yes", "--no-pager", str(DEPLOY / "kilnd.service")], capture_output=True, text=True)
    score = re.search(r"Overall exposure level for kilnd.service: ([0-9.]+)", out.stdout)
    assert score, out.stdout + out.stderr
    assert float(score[1]) <= 2.0


def test_units_verify(tmp_path):
    for unit in UNITS:
        text = (DEPLOY / unit).read_text().replace("/usr/bin/kilnd", str(BIN / "kilnd"))
        (tmp_path / unit).write_text(text)
    out = subprocess.run(["systemd-analyze", "verify", "--man=no", *[str(tmp_path / u) for u in UNITS]], capture_output=True, text=True)
    complaints = [line for line in (out.stdout + out.stderr).splitlines() if "kilnd" in line]
    assert not complaints, complaints


def allowed_calls():
    """What SystemCallFilter= of the unit comes to."""
    groups, name = {}, None
    listing = subprocess.run(["systemd-analyze", "syscall-filter", "--no-pager"], capture_output=True, text=True, check=True).stdout
    for line in listing.splitlines():
        if line.startswith("@"):
            name = line.strip()
            groups[name] = set()
        elif name and line.startswith("    ") and not line.strip().startswith("#"):
            groups[name].add(line.strip())

    def expand(word):
        return set().union(*(expand(w) for w in groups[word])) if word in groups else {word}
    allowed = set(expand("@default"))
    for line in re.findall(r"^SystemCallFilter=(.*)$", (DEPLOY / "kilnd.service").read_text(), re.M):
        calls = set().union(*(expand(w) for w in line.lstrip("~").split()))
        allowed = allowed - (calls - expand("@default")) if line.startswith("~") else allowed | calls
    return allowed


def test_the_units_filter_admits_every_system_call_in_use(tmp_path):
    """kilnd and its workers under strace: starting, compiling, running, tuning, stopping."""
    tool = shutil.which("strace")
    if not tool or subprocess.run([tool, "-o", "/dev/null", "true"], capture_output=True).returncode:
        pytest.skip("strace cannot trace here")
    if b"__asan_init" in (BIN / "kilnd").read_bytes() or b"__tsan_init" in (BIN / "kilnd").read_bytes():
        pytest.skip("sanitizers make calls of their own")
    log = tmp_path / "calls"
    (tmp_path / "d").mkdir()
    d = Daemon(tmp_path / "d", prefix=(tool, "-f", "-qq", "--trace=all", "--seccomp-bpf", "-o", str(log)))
    try:
        exe = d.compile(slow_graph(3)).executable
        d.stub.ReleaseExecutable(kiln_pb2.ReleaseExecutableRequest(executable=exe), timeout=60)
        exe = d.compile(add_graph()).executable
        x = np.arange(16, dtype=np.float32)
        d.run(exe, {"x": x, "b": x})
        list(d.stub.Tune(kiln_pb2.TuneRequest(executable=exe, budget_ns=3_000_000_000), timeout=120))
        d.run(exe, {"x": d.upload(np.zeros(16, np.float32)), "b": x})
    finally:
        kilnd = [int(p) for p in pathlib.Path(f"/proc/{d.process.pid}/task/{d.process.pid}/children").read_text().split()][0]
        os.kill(kilnd, signal.SIGTERM)
        d.channel.close()
        d.process.wait(60)
        d.log_file.close()
    used = set(re.findall(r"^\d+ +(?:<\.\.\. )?([a-z0-9_]+)", log.read_text(errors="replace"), re.M)) - {"resumed", "exited", "killed"}
    if os.getuid() == 0:
        used -= {"fchown"}  # SQLite gives its files to the owner of the folder, but only as root
    assert len(used) > 40, used
    extra = used - allowed_calls()
    assert not extra, sorted(extra)
