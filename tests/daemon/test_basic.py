"""Compile, run, buffers, information: what a client does on a good day."""
import pathlib

import grpc
import numpy as np
from conftest import SANITIZED, Graph, add_graph, fails, kiln_pb2

C = grpc.StatusCode


def test_compile_and_run(daemon):
    r = daemon.compile(add_graph(16))
    assert [(i.name, i.dtype, list(i.dims)) for i in r.inputs] == [("x", 12, [16]), ("b", 12, [16])]
    assert [(o.name, o.dtype, list(o.dims)) for o in r.outputs] == [("y", 12, [16])]
    assert len(r.report.graph_hash) == 64 and r.report.kernels == 1 and r.report.device == "cpu:0"
    x, b = np.arange(16, dtype=np.float32), np.full(16, 0.5, np.float32)
    np.testing.assert_array_equal(daemon.run(r.executable, {"x": x, "b": b})["y"], x + b)
    daemon.stub.ReleaseExecutable(kiln_pb2.ReleaseExecutableRequest(executable=r.executable))
    with fails(C.NOT_FOUND, "unknown executable", r.executable):
        daemon.run(r.executable, {"x": x, "b": b})


def test_weights_come_from_the_model(daemon):
    w = np.linspace(-1, 1, 16, dtype=np.float32)
    r = daemon.compile(add_graph(16, weight=w))
    assert [i.name for i in r.inputs] == ["x"] and r.report.weight_bytes == 64
    x = np.ones(16, np.float32)
    np.testing.assert_array_equal(daemon.run(r.executable, {"x": x})["y"], x + w)


def test_same_graph_with_other_weights(daemon):
    """Shares plan and kernels, not the weights."""
    a, b = (daemon.compile(add_graph(24, weight=np.arange(v, v + 24, dtype=np.float32))) for v in (1, 2))
    assert a.executable != b.executable and a.report.graph_hash == b.report.graph_hash
    assert b.report.plan_cached and b.report.kernels_compiled == 0
    x = np.zeros(24, np.float32)
    assert daemon.run(a.executable, {"x": x})["y"][0] == 1
    assert daemon.run(b.executable, {"x": x})["y"][0] == 2


def test_recompile_reuses_what_is_loaded(daemon):
    model = add_graph(40)
    a, b = daemon.compile(model), daemon.compile(model)
    assert a.executable == b.executable and b.report.plan_cached and b.report.kernels_compiled == 0
    c = daemon.compile(model, no_cache=True)
    assert c.executable != a.executable and not c.report.plan_cached and c.report.kernels_compiled == 1
    release = kiln_pb2.ReleaseExecutableRequest(executable=a.executable)
    daemon.stub.ReleaseExecutable(release)  # two clients hold it: the second can still run
    x = np.ones(40, np.float32)
    assert daemon.run(a.executable, {"x": x, "b": x})["y"][0] == 2
    daemon.stub.ReleaseExecutable(release)
    with fails(C.NOT_FOUND):
        daemon.stub.ReleaseExecutable(release)


def test_large_tensors(daemon):
    n = 3 << 20  # 12 MiB a tensor: through shared memory
    r = daemon.compile(add_graph(n))
    x, b = np.arange(n, dtype=np.float32), np.ones(n, np.float32)
    for _ in range(3):
        np.testing.assert_array_equal(daemon.run(r.executable, {"x": x, "b": b})["y"], x + b)


def test_small_in_large_out(daemon):
    g = Graph()
    x = g.param("x", [1])
    g.output("y", g.node("EXPAND", x, ints=[1 << 16]))
    g.output("z", g.node("ADD", x, x))
    r = daemon.compile(g.bytes())
    out = daemon.run(r.executable, {"x": np.array([3], np.float32)})
    assert out["y"].shape == (1 << 16,) and (out["y"] == 3).all() and out["z"][0] == 6
    only = daemon.run(r.executable, {"x": np.array([4], np.float32)}, outputs=["z"])
    assert list(only) == ["z"] and only["z"][0] == 8


def test_buffers(daemon):
    n = 1 << 18
    x, b = np.random.default_rng(0).random(n, np.float32), np.ones(n, np.float32)
    r = daemon.compile(add_graph(n))
    bx = daemon.upload(x)
    np.testing.assert_array_equal(daemon.download(bx), x)
    out = daemon.run(r.executable, {"x": bx, "b": b}, buffers=True)
    np.testing.assert_array_equal(daemon.download(out["y"]), x + 1)
    again = daemon.run(r.executable, {"x": out["y"], "b": b})
    np.testing.assert_array_equal(again["y"], x + 1 + 1)
    listed = {b.buffer: b for b in daemon.stub.ListBuffers(kiln_pb2.ListBuffersRequest()).buffers}
    assert set(listed) == {bx, out["y"]} and listed[bx].bytes == 4 * n and list(listed[bx].dims) == [n]
    assert daemon.devices()[0].buffer_bytes == 8 * n
    daemon.stub.FreeBuffers(kiln_pb2.FreeBuffersRequest(buffers=[bx, out["y"]]))
    with fails(C.NOT_FOUND, "unknown buffer", bx):
        daemon.download(bx)
    assert not daemon.stub.ListBuffers(kiln_pb2.ListBuffersRequest()).buffers


def test_empty_buffer(daemon):
    b = daemon.upload(np.zeros((0, 4), np.float32))
    assert daemon.download(b).shape == (0, 4)
    daemon.stub.FreeBuffers(kiln_pb2.FreeBuffersRequest(buffers=[b]))


def test_inspect(daemon):
    def text(stage, kernel=-1):
        model = add_graph(16)
        header = kiln_pb2.InspectHeader(format=2, size=len(model), stage=stage, kernel=kernel)
        parts = [kiln_pb2.InspectRequest(header=header), kiln_pb2.InspectRequest(chunk=model)]
        return daemon.stub.Inspect(iter(parts), timeout=60).text
    assert "ADD" in text("tensor")
    assert "define" in text("code", 0)
    with fails(C.INVALID_ARGUMENT):
        text("nonsense")


def test_information(daemon):
    info = daemon.info()
    assert info.version and info.pid == daemon.process.pid and info.cache_path == str(daemon.cache)
    assert info.api_min <= 1 <= info.api_max and not info.cache_error
    device = daemon.devices()[0]
    assert device.name == "cpu:0" and device.kind == "cpu" and device.available and len(device.fingerprint) == 64


def test_idle_daemon_is_small(start):
    d = start()
    status = pathlib.Path(f"/proc/{d.process.pid}/status").read_text()
    resident = int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1])
    assert SANITIZED or resident <= 15 * 1024, f"{resident} KiB"
    maps = pathlib.Path(f"/proc/{d.process.pid}/maps").read_text()
    assert "LLVM" not in maps and "libsqlite3" in maps


def test_compile_worker_is_locked_up(daemon):
    daemon.wait_children("compile")
    for pid in daemon.children("compile"):
        status = pathlib.Path(f"/proc/{pid}/status").read_text()
        assert "Seccomp:\t2" in status and "NoNewPrivs:\t1" in status
        fds = {fd.name: str(fd.readlink()) for fd in pathlib.Path(f"/proc/{pid}/fd").iterdir()}
        others = [t for n, t in fds.items() if n not in "012" and not t.startswith("socket:")]
        assert not others and sum(t.startswith("socket:") for t in fds.values()) == 1, fds
