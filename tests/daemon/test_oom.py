"""The kernel's own want of memory: kilnd in a control group with a real limit, and a worker that needs more than that.

The kernel ends a worker, never kilnd (`oom_score_adj`); the call that it worked for says that it was for want of memory, and the rest goes on.
Needs root and a memory controller that groups can be made of (version 1 or 2); without one the tests are skipped, and say so."""
import os
import pathlib
import time

import grpc
import numpy as np
import pytest
from conftest import SANITIZED, Graph, add_graph, fails
from tenants import ones
from test_bombs import long_chain

CODE = grpc.StatusCode
ROOT = pathlib.Path("/sys/fs/cgroup")
LIMIT = 256 << 20
pytestmark = pytest.mark.skipif(SANITIZED, reason="a sanitizer's memory is not what is measured here")


def make_group(name):
    """(folder, file of its limit, file of its limit with swap), or None."""
    if (ROOT / "memory" / "memory.limit_in_bytes").exists():
        at, limit, swap = ROOT / "memory" / name, "memory.limit_in_bytes", "memory.memsw.limit_in_bytes"
    elif "memory" in (ROOT / "cgroup.subtree_control").read_text() if (ROOT / "cgroup.subtree_control").exists() else False:
        at, limit, swap = ROOT / name, "memory.max", "memory.swap.max"
    else:
        return None
    try:
        at.mkdir()
    except OSError:
        return None
    return at, at / limit, at / swap


@pytest.fixture
def group():
    made = make_group(f"kiln-test-{os.getpid()}")
    if not made:
        pytest.skip("no control group for memory can be made here")
    at, limit, swap = made
    limit.write_text(str(LIMIT))
    if swap.exists():
        swap.write_text("0" if swap.name == "memory.swap.max" else str(LIMIT))
    yield at
    end = time.time() + 10
    while True:
        try:
            at.rmdir()
            return
        except OSError:  # somebody is still ending
            assert time.time() < end
            time.sleep(0.05)


@pytest.fixture
def bounded(group, start):
    """The limits that kilnd has of its own are out of the way: what ends a worker is the kernel."""
    d = start(config=["[workers]", "compile = 1", "compile_memory = 8G", "device_memory = 8G", "device = cpu:0", "[tuning]", "background = off"],
              preexec=lambda: (group / "cgroup.procs").write_text(str(os.getpid())))
    d.pid = d.process.pid
    return d


def works(d, seconds=30):
    """A small graph is right again, in the same kilnd."""
    end = time.time() + seconds
    while True:
        try:
            assert (d.run(d.compile(add_graph()).executable, {"x": ones(), "b": ones()})["y"] == 2).all()
            break
        except grpc.RpcError as e:
            assert e.code() == CODE.UNAVAILABLE and time.time() < end, e
            time.sleep(0.05)
    assert d.process.poll() is None and d.info().pid == d.pid


def killed(call):
    with pytest.raises(grpc.RpcError) as e:
        call()
    assert e.value.code() == CODE.UNAVAILABLE and "oom" in e.value.details(), e.value


def large(n):
    """From 16 numbers three temporaries of 4 n bytes each, and one number of those. One that is larger than the group is refused when it is
    compiled; these are not, each for itself."""
    g = Graph()
    x = g.node("EXPAND", g.node("RESHAPE", g.param("x", [16]), ints=[16, 1]), ints=[16, n // 16])
    places = g.node("CAST", g.node("IOTA", ints=[1, 16, n // 16], dtype=4), dtype=12)
    a, b, c = (g.node("CONTIGUOUS", g.node(op, x, places)) for op in ("MUL", "ADD", "SUB"))
    g.output("y", g.node("REDUCE_SUM", g.node("ADD", a, g.node("ADD", g.node("FLIP", b, ints=[0]), c)), ints=[0, 1]))
    return g.bytes()


def test_a_device_worker(bounded):
    """A run fits, what was uploaded fits, and both do not: the run goes, what was uploaded stays."""
    d = bounded
    with fails(CODE.RESOURCE_EXHAUSTED, "the device has"):
        d.compile(large(LIMIT // 8))
    exe = d.compile(large(16 << 20)).executable  # 192 MiB of temporaries
    x = np.ones(16, np.float32)
    d.run(exe, {"x": x}, timeout=120)
    kept = np.random.default_rng(7).integers(0, 255, 50 << 20, np.uint8)
    buffers = [d.upload(kept) for _ in range(2)]
    worker = d.wait_children("device")
    killed(lambda: d.run(exe, {"x": x}, timeout=120))
    works(d)
    assert d.wait_children("device") != worker and "cause=oom" in d.log()
    assert all((d.download(b) == kept).all() for b in buffers)


def test_a_compile_worker(bounded):
    d = bounded
    works(d)
    worker = d.children("compile")
    killed(lambda: d.compile(long_chain(1900000), timeout=120))
    works(d)
    assert d.children("compile") != worker and "cause=oom" in d.log()
