"""A canary: one tenant fills memory with a pattern, and no byte of it is ever in another's hands.

Two looks: what the other tenant can read over the RPCs, and, from outside, all memory of the processes that work for it."""
import os
import pathlib
import re
import signal
import time

import grpc
import numpy as np
import pytest
from conftest import SANITIZED, Graph, add_graph, fails, kiln_pb2, slow_graph
from tenants import As, boss, ones, section

# Four floats that nothing else computes; additions of zero leave their bits as they are.
CANARY = np.array([1.2345678e17, -7.654321e-13, 3.1415926e22, -2.7182818e-19], np.float32)
BYTES = CANARY.tobytes()
SIZES = [256, 20_000, 300_000]


def canary(n):
    return np.resize(CANARY, n)


def chain_graph(n, m=64):
    """Sums with a zero, stored on the way: a product reads all of a row, so what it reads is a temporary."""
    g = Graph()
    x, z, w = g.param("x", [m, n // m]), g.param("z", [m, n // m]), g.param("w", [n // m, 8])
    t = g.node("ADD", x, z)
    g.output("t", t)
    g.output("p", g.node("MATMUL", g.node("EXP2", g.node("MUL", t, z)), w))
    return g.bytes()


def fill(who):
    """Every way in which a tenant's bytes get into memory, and everything is given back."""
    buffers = [who.upload(canary(n)) for n in SIZES]
    for n, b in zip(SIZES, buffers):
        assert who.download(b).tobytes()[:16] == BYTES
        add = who.compile(add_graph(n)).executable
        zero = np.zeros(n, np.float32)
        assert who.run(add, {"x": canary(n), "b": zero})["y"].tobytes()[:16] == BYTES
        made = who.run(add, {"x": b, "b": zero}, buffers=True)["y"]
        assert who.download(made).tobytes()[:16] == BYTES
        weighted = who.compile(add_graph(n, weight=canary(n))).executable
        assert who.run(weighted, {"x": zero})["y"].tobytes()[:16] == BYTES
        m = n // 64 * 64
        chain = who.compile(chain_graph(m)).executable
        out = who.run(chain, {"x": canary(m).reshape(64, -1), "z": np.zeros((64, m // 64), np.float32),
                              "w": canary(m // 64 * 8).reshape(-1, 8)})
        assert out["t"].tobytes()[:16] == BYTES
        for e in (add, weighted, chain):
            who.stub.ReleaseExecutable(kiln_pb2.ReleaseExecutableRequest(executable=e), timeout=10)
        who.stub.FreeBuffers(kiln_pb2.FreeBuffersRequest(buffers=[made]), timeout=10)
    who.stub.FreeBuffers(kiln_pb2.FreeBuffersRequest(buffers=buffers), timeout=10)


def look(who):
    """All that a tenant can have allocated and read; the same sizes, so that what was used is used again."""
    seen = b""
    for n in [*SIZES, 150_000]:
        one = np.ones(n, np.float32)
        add = who.compile(add_graph(n)).executable
        seen += who.run(add, {"x": one, "b": one})["y"].tobytes()
        made = who.run(add, {"x": who.upload(one), "b": one}, buffers=True)["y"]
        seen += who.download(made).tobytes()
        m = n // 64 * 64
        chain = who.compile(chain_graph(m)).executable
        for _ in range(2):
            out = who.run(chain, {"x": np.ones((64, m // 64), np.float32), "z": np.zeros((64, m // 64), np.float32),
                                  "w": np.ones((m // 64, 8), np.float32)})
            seen += out["t"].tobytes() + out["p"].tobytes()
    for b in who.buffers():
        seen += who.download(b.buffer).tobytes()
    assert len(seen) > 8 * sum(SIZES)
    return seen


def found_in(pid):
    """Where the canary is in the writable memory of a process: names of mappings and how often."""
    found = {}
    with open(f"/proc/{pid}/maps") as maps, open(f"/proc/{pid}/mem", "rb", 0) as memory:
        for line in maps:
            m = re.match(r"([0-9a-f]+)-([0-9a-f]+) .w.. \S+ \S+ \S+ *(.*)", line)
            if not m or m[3] in ("[vvar]", "[vsyscall]"):
                continue
            at, end = int(m[1], 16), int(m[2], 16)
            try:
                memory.seek(at)
                data = memory.read(end - at)
            except OSError:
                continue
            if BYTES in data:
                found[m[3] or "anonymous"] = data.count(BYTES)
    return found


def shared_memory(pid):
    """Canaries in the memfds that a process holds."""
    found = {}
    for fd in pathlib.Path(f"/proc/{pid}/fd").iterdir():
        try:
            if "memfd:" in os.readlink(fd) and BYTES in fd.read_bytes():
                found[os.readlink(fd)] = 1
        except OSError:
            pass
    return found


def readable(pid):
    try:
        open(f"/proc/{pid}/mem", "rb").close()
        return True
    except OSError:
        return False


@pytest.fixture(params=["shared", "strict"])
def two(request, start):
    config = ["[server]", f"isolation = {request.param}", *boss(), *section("alice"), *section("bob")]
    d = start(config=config)
    d.strict = request.param == "strict"
    return d


def test_no_byte_of_another(two):
    alice, bob = As(two, "alice"), As(two, "bob")
    look(bob)  # so that both have a worker, and memory that is warm
    for _ in range(2):
        fill(alice)
        assert BYTES not in look(bob)


def infer(who, values):
    """A call of the model "add" of the folder. The messages are tritonclient's: two descriptions of one package do not fit one process."""
    from tritonclient.grpc import service_pb2 as module
    m = module.ModelInferRequest(model_name="add")
    for name, a in values.items():
        m.inputs.add(name=name, datatype="FP32", shape=a.shape)
        m.raw_input_contents.append(a.tobytes())
    answer = who.raw("/inference.GRPCInferenceService/ModelInfer", m.SerializeToString(), timeout=60)
    return np.frombuffer(module.ModelInferResponse.FromString(answer).raw_output_contents[0], np.float32)


@pytest.mark.skipif(SANITIZED, reason="a sanitizer keeps freed memory")
@pytest.mark.parametrize("isolation", ["shared", "strict"])
def test_a_model_that_belongs_to_all(start, tmp_path, isolation):
    """One executable, two callers: what the first has left in memory is gone for the second."""
    models = tmp_path / "models"
    models.mkdir()
    (models / "add.kgraph").write_bytes(add_graph(20_000))
    d = start(config=["[server]", f"isolation = {isolation}", f"models = {models}", *boss(), *section("alice"), *section("bob")])
    zero, one = np.zeros(20_000, np.float32), np.ones(20_000, np.float32)
    end = time.time() + 30
    while True:
        try:
            infer(As(d, "bob"), {"x": one, "b": one})
            break
        except grpc.RpcError as e:
            assert time.time() < end, e
            time.sleep(0.1)
    worker = d.children("device")
    assert len(worker) == 1  # also with strict isolation: it belongs to all
    if not readable(worker[0]):
        pytest.skip("this system does not let a test read the memory of a process that it started")
    assert infer(As(d, "alice"), {"x": canary(20_000), "b": zero}).tobytes()[:16] == BYTES
    assert found_in(worker[0]) and shared_memory(d.process.pid)
    assert (infer(As(d, "bob"), {"x": one, "b": one}) == 2).all()
    assert not found_in(worker[0]) and not shared_memory(d.process.pid)


@pytest.mark.skipif(SANITIZED, reason="a driver's own code is not clean")
@pytest.mark.parametrize("isolation", ["shared", "strict"])
@pytest.mark.parametrize("device", ["opencl:0", "cuda:0"])
def test_no_byte_of_another_on_a_device_with_memory_of_its_own(start, monkeypatch, device, isolation):
    """The same where tensors are copied to the device."""
    monkeypatch.setattr("test_isolation.SIZES", SIZES[:2])
    d = start(config=["[server]", f"isolation = {isolation}", "[workers]", f"device = {device}", *boss(), *section("alice"), *section("bob")], wait=False)
    end = time.time() + 120  # beside a GPU's other tests a driver takes its time
    while "device up" not in d.log():
        if "device down" in d.log():
            pytest.skip(f"this machine has no {device}")
        assert time.time() < end, d.log()
        time.sleep(0.05)
    alice, bob = As(d, "alice"), As(d, "bob")
    look(bob)
    for _ in range(2):
        fill(alice)
        assert BYTES not in look(bob)


@pytest.mark.skipif(SANITIZED, reason="a sanitizer keeps freed memory")
def test_no_byte_is_left_in_memory(two):
    """The same from outside: after the change of tenant there is no canary in what is mapped or shared."""
    alice, bob = As(two, "alice"), As(two, "bob")
    look(bob)
    workers = two.children("device")
    if not readable(workers[0]):
        pytest.skip("this system does not let a test read the memory of a process that it started")
    # the search finds what is there
    buffer = alice.upload(canary(4096))
    exe = alice.compile(add_graph(4096)).executable
    alice.run(exe, {"x": buffer, "b": np.zeros(4096, np.float32)})
    assert shared_memory(two.process.pid)
    assert any(found_in(pid) for pid in two.children("device"))
    alice.stub.FreeBuffers(kiln_pb2.FreeBuffersRequest(buffers=[buffer]), timeout=10)
    alice.stub.ReleaseExecutable(kiln_pb2.ReleaseExecutableRequest(executable=exe), timeout=10)
    fill(alice)
    assert BYTES not in look(bob)
    if two.strict:  # alice's own worker may keep what was hers
        pids = [pid for pid in two.children("device") if pid in workers]
    else:
        pids = two.children("device")
        # another's slab is zeroed when it is taken, so one that bob did not need may be as it was: nobody has it; the memory of
        # a freed upload waits in kilnd for alice's next one of its size, is never given to another, and no worker maps it
        assert not {k: v for k, v in shared_memory(two.process.pid).items() if "slab" not in k and "kiln-buffer" not in k}
    assert pids
    for pid in pids:
        found = found_in(pid)
        assert not {k: v for k, v in found.items() if "kiln-slab" not in k}, found


def test_strict_isolation_has_a_worker_for_each(start):
    """Another's worker may die as often as it likes."""
    d = start(config=["[server]", "isolation = strict", *boss(), *section("alice"), *section("bob")])
    base = d.wait_children("device")
    alice, bob = As(d, "alice"), As(d, "bob")
    exe = alice.compile(add_graph()).executable
    hers = set(d.wait_children("device", 2)) - set(base)
    own = bob.compile(add_graph()).executable
    his = set(d.wait_children("device", 3)) - set(base) - hers
    assert len(hers) == len(his) == 1
    events = alice.stub.Events(kiln_pb2.EventsRequest(), timeout=30)
    assert next(events).WhichOneof("what") == "subscribed"
    os.kill(his.pop(), signal.SIGKILL)
    assert (bob.run(own, {"x": ones(), "b": ones()})["y"] == 2).all()  # loaded again into a new one
    assert bob.devices()[0].restarts == 1
    assert alice.devices()[0].restarts == 0 and d.devices()[0].restarts == 0
    assert hers <= set(d.children("device"))
    assert (alice.run(exe, {"x": ones(), "b": ones()})["y"] == 2).all()
    os.kill(hers.pop(), signal.SIGKILL)  # this one she hears of
    assert next(events).WhichOneof("what") == "device"
    events.cancel()
    assert (alice.run(exe, {"x": ones(), "b": ones()})["y"] == 2).all()


def test_strict_isolation_of_compile_workers(start):
    """One that has seen a tenant's graph sees no other's."""
    d = start(config=["[server]", "isolation = strict", "[workers]", "compile = 2", *boss(), *section("alice"), *section("bob")])
    alice, bob = As(d, "alice"), As(d, "bob")
    seen = set()
    for n in range(6):
        (alice if n % 2 else bob).compile(slow_graph(6, first=10 * n))
        seen |= set(d.wait_children("compile", 2))
    assert len(seen) >= 6, seen  # two workers that served everybody would be two


def test_a_failed_worker_loses_nobodys_handles(start):
    """Shared: the worker that one tenant kills serves the other again, who finds all that he uploaded."""
    d = start(config=[*boss(), *section("alice"), *section("bob")])
    alice, bob = As(d, "alice"), As(d, "bob")
    exe, buf = alice.compile(add_graph()).executable, alice.upload(ones())
    bob.upload(ones())
    os.kill(d.wait_children("device")[0], signal.SIGKILL)
    assert (alice.run(exe, {"x": buf, "b": ones()})["y"] == 2).all()
    with fails(grpc.StatusCode.NOT_FOUND):
        bob.download(buf)
