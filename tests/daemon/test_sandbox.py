"""The workers of a running server are made to try: a system call is put into them by ptrace, and what comes of it is looked at.

tests/unit/test_sandbox.c shows what the filter does; here it is shown that the processes that strangers' models reach are behind it."""
import ctypes
import errno
import os
import pathlib
import platform
import signal
import struct
import subprocess
import threading
import time

import pytest
from conftest import SANITIZED, add_graph, kiln_pb2
from ways import say

pytestmark = pytest.mark.skipif(platform.machine() != "x86_64", reason="registers are those of x86-64")
libc = ctypes.CDLL(None, use_errno=True)
libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
libc.ptrace.restype = ctypes.c_long
PEEK, POKE, CONT, STEP, GETREGS, SETREGS, ATTACH, DETACH = 1, 4, 7, 9, 12, 13, 16, 17
NAMES = ("r15 r14 r13 r12 rbp rbx r11 r10 r9 r8 rax rcx rdx rsi rdi orig_rax rip cs eflags rsp ss fs_base gs_base ds es fs gs").split()
CALLS = {"read": 0, "open": 2, "mmap": 9, "socket": 41, "connect": 42, "bind": 49, "clone": 56, "fork": 57, "execve": 59, "kill": 62,
         "unlink": 87, "ptrace": 101, "prlimit64": 302, "openat": 257, "openat2": 437, "io_uring_setup": 425, "process_vm_readv": 310,
         "getpid": 39, "setrlimit": 160, "name_to_handle_at": 303, "userfaultfd": 323, "bpf": 321, "keyctl": 250, "unshare": 272}
DENIED = -errno.EPERM
GiB = 1 << 30


def ptrace(what, pid, at=0, data=0):
    ctypes.set_errno(0)
    r = libc.ptrace(what, pid, at, data)
    if r == -1 and ctypes.get_errno():
        raise OSError(ctypes.get_errno(), f"ptrace {what}")
    return r


class Puppet:
    """A process that makes the system calls it is told to, and then goes on as if nothing had happened."""

    def __init__(self, pid):
        self.pid = pid

    def __enter__(self):
        ptrace(ATTACH, self.pid)
        os.waitpid(self.pid, 0x40000000)  # __WALL
        self.saved = self.registers()
        self.words = [ptrace(PEEK, self.pid, self.stack() + 8 * i) for i in range(16)]
        return self

    def __exit__(self, *error):
        try:
            for i, w in enumerate(self.words):
                ptrace(POKE, self.pid, self.stack() + 8 * i, w)
            self.set(self.saved)
            ptrace(DETACH, self.pid)
        except OSError:
            pass  # it did not survive what it was made to do

    def stack(self):
        return (self.saved["rsp"] - 4096) & ~15

    def registers(self):
        raw = ctypes.create_string_buffer(8 * len(NAMES))
        ptrace(GETREGS, self.pid, 0, ctypes.addressof(raw))
        return dict(zip(NAMES, struct.unpack(f"{len(NAMES)}Q", raw.raw)))

    def set(self, registers):
        raw = ctypes.create_string_buffer(struct.pack(f"{len(NAMES)}Q", *[registers[n] for n in NAMES]))
        ptrace(SETREGS, self.pid, 0, ctypes.addressof(raw))

    def text(self, s):
        raw = s.encode() + b"\0"
        raw += bytes(-len(raw) % 8)
        for i in range(0, len(raw), 8):
            ptrace(POKE, self.pid, self.stack() + i, struct.unpack("q", raw[i:i + 8])[0])
        return self.stack()

    def call(self, name, *args):
        """The result; negative: an errno. The process waits in a call of its own, so the instruction is right before where it is."""
        r = dict(self.saved, rax=CALLS[name], orig_rax=(1 << 64) - 1, rip=self.saved["rip"] - 2)
        r.update(zip(("rdi", "rsi", "rdx", "r10", "r8", "r9"), [a & (1 << 64) - 1 for a in (*args, 0, 0, 0, 0, 0, 0)]))
        assert ptrace(PEEK, self.pid, r["rip"]) & 0xffff == 0x050f, "it was not waiting in a system call"
        self.set(r)
        ptrace(STEP, self.pid)
        _, status = os.waitpid(self.pid, 0x40000000)
        if os.WIFSIGNALED(status):
            return f"killed by {signal.Signals(os.WTERMSIG(status)).name}"
        if os.WSTOPSIG(status) == signal.SIGSYS:  # seen on its way: it is let through
            ptrace(CONT, self.pid, 0, signal.SIGSYS)
            _, status = os.waitpid(self.pid, 0x40000000)
            return f"killed by {signal.Signals(os.WTERMSIG(status)).name}"
        rax = self.registers()["rax"]
        return rax - (1 << 64) if rax >> 63 else rax


@pytest.fixture(scope="module")
def strict(tmp_path_factory):
    """A server with limits, and a worker of each kind that works for a client."""
    from conftest import Daemon, ends_well
    limits = ["[workers]", "compile = 1", "compile_memory = 4G", "device_memory = 4G", "device = cpu:0", "[tuning]", "background = off", "memory = 4G"]
    d = Daemon(tmp_path_factory.mktemp("sandbox"), config=limits)
    d.compile(add_graph(1 << 16))
    yield d
    ends_well(d)


def worker(d, role):
    d.fresh = getattr(d, "fresh", 100) + 1
    if role == "timing" and not d.children("timing"):  # it comes with a search that has something to try, and stays
        exe = d.compile(add_graph((1 << 16) + 16 * d.fresh)).executable
        for _ in d.stub.Tune(kiln_pb2.TuneRequest(executable=exe, budget_ns=2 * 10**9), timeout=60):
            pass
    if role == "compile" and not d.children("compile"):  # it comes with a model that was not seen before
        d.compile(add_graph(d.fresh))
    pid = d.wait_children(role)[0]
    end = time.monotonic() + 20
    while time.monotonic() < end:  # until it waits for work
        if pathlib.Path(f"/proc/{pid}/syscall").read_text().split()[0] != "running":
            return pid
        time.sleep(0.01)
    raise AssertionError(f"{role} {pid} does not rest")


FILES = [("open", "/etc/passwd", os.O_RDONLY), ("open", "/tmp/kiln-sandbox", os.O_CREAT | os.O_RDWR), ("openat", "/etc/passwd"), ("openat2", "/etc/passwd"),
         ("unlink", "/tmp/x")]
ROLES = ["compile", "timing", "device"]
tried = dict.fromkeys(ROLES, 0)


@pytest.mark.parametrize("role", ROLES)
def test_a_worker_that_tries(strict, role, request):
    pid = worker(strict, role)
    with Puppet(pid) as p:
        assert p.call("getpid") == pid  # the method works
        for name, path, *flags in FILES:
            at = p.text(path)
            args = {"openat": (-100, at, 0, 0), "openat2": (-100, at, at, 24)}.get(name, (at, *flags, 0o600))
            assert p.call(name, *args) == DENIED, (role, name, path)
            tried[role] += 1
        for family, kind in ((2, 1), (2, 2), (10, 1), (1, 1), (16, 3), (17, 3), (40, 1)):
            assert p.call("socket", family, kind, 0) == DENIED, (role, family)
            tried[role] += 1
        for name, args in {"connect": (0, 0, 0), "bind": (0, 0, 0), "fork": (), "clone": (17,), "kill": (os.getpid(), 0), "io_uring_setup": (8, 0),
                           "userfaultfd": (0,), "name_to_handle_at": (0, 0, 0, 0, 0)}.items():
            assert p.call(name, *args) == DENIED, (role, name)
            tried[role] += 1
        if not SANITIZED:
            for prot in (0, 3):
                assert p.call("mmap", 0, 100 * GiB, prot, 0x4022, -1, 0) == -errno.ENOMEM, role  # private, anonymous, not reserved
                tried[role] += 1
            at = p.text("x" * 16)
            for i in range(2):
                ptrace(POKE, pid, at + 8 * i, -1)
            raised = p.call("setrlimit", 9, at)  # RLIMIT_AS to infinity
            assert raised == -errno.EPERM or os.geteuid() == 0 and raised == 0, raised
            tried[role] += 1
    x = add_graph(16)
    assert strict.compile(x).executable  # it has come to no harm
    say(request, f"sandbox: the {role} worker tried {tried[role]} calls; all were denied")


FATAL = ["execve", "ptrace", "process_vm_readv", "bpf", "unshare"]


@pytest.mark.parametrize("role,name", [*[(r, n) for r in ("compile", "device") for n in FATAL], ("timing", "execve")])
def test_what_only_an_exploit_does_is_fatal(strict, role, name):
    pid = worker(strict, role)
    with Puppet(pid) as p:
        at = p.text("/bin/true")
        assert p.call(name, at, 0, 0) == "killed by SIGSYS", (role, name)
    end = time.monotonic() + 20
    while strict.children(role) == [pid] and time.monotonic() < end:
        time.sleep(0.02)
    if role == "device":
        strict.wait_ready()
    assert strict.compile(add_graph(20)).executable


@pytest.mark.parametrize("role", ROLES)
def test_what_the_kernel_says_of_it(strict, role):
    status = pathlib.Path(f"/proc/{worker(strict, role)}/status").read_text()
    words = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
    assert words["Seccomp"].strip() == "2" and words["NoNewPrivs"].strip() == "1"


@pytest.mark.parametrize("role", [*ROLES, "kilnd", "zygote"])
def test_nobody_leaves_a_core_file(strict, role):
    """Though its parent would have let it. Workers cannot even raise the limit; of kilnd an operator can."""
    pid = strict.process.pid if role == "kilnd" else parent(worker(strict, "device")) if role == "zygote" else worker(strict, role)
    soft, hard = next(line.split()[4:6] for line in pathlib.Path(f"/proc/{pid}/limits").read_text().splitlines() if line.startswith("Max core file size"))
    assert soft == "0" and (hard == "0") == (role != "kilnd")


def parent(pid):
    return int(pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])


def test_workers_go_first_when_memory_runs_out(daemon):
    """What the kernel's choice is made by: kilnd, which has everybody's calls, is the last one it takes."""
    points = lambda pid: int(pathlib.Path(f"/proc/{pid}/oom_score_adj").read_text())
    daemon.compile(add_graph())
    own = points(daemon.process.pid)
    device, compile_ = daemon.wait_children("device")[0], daemon.wait_children("compile")[0]
    assert own < points(device) < points(compile_)
