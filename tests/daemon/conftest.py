"""A real kilnd on a temporary socket, spoken to with stock grpcio and stubs generated from the tree's own protos.

KILN_BIN names the folder with kilnd and kiln-worker (default build/release/bin)."""
import os
import pathlib
import re
import signal
import subprocess
import sys
import tempfile
import time

# A child is forked to exec a daemon, under calls of other threads: gRPC's handlers of forks abort some of them before that.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")

import grpc  # noqa: E402
import numpy as np  # noqa: E402
import pytest  # noqa: E402

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[1]
BIN = pathlib.Path(os.environ.get("KILN_BIN", ROOT / "build/release/bin"))
TSAN = b"__tsan_init" in (BIN / "kilnd").read_bytes()
SANITIZED = TSAN or b"__asan_init" in (BIN / "kilnd").read_bytes()  # memory is not bounded then
STUBS = tempfile.mkdtemp(prefix="kiln-stubs-")


def _generate():
    from grpc_tools import protoc
    args = ["protoc", f"-I{ROOT}/proto", f"--python_out={STUBS}", f"--grpc_python_out={STUBS}"]
    args += [str(ROOT / "proto/kiln/v1" / f) for f in ("graph.proto", "kiln.proto")]
    assert protoc.main(args) == 0
    sys.path.insert(0, STUBS)


_generate()
from kiln.v1 import graph_pb2, kiln_pb2, kiln_pb2_grpc  # noqa: E402

DTYPES = {np.dtype("bool"): 1, np.dtype("int8"): 2, np.dtype("int16"): 3, np.dtype("int32"): 4, np.dtype("int64"): 5,
          np.dtype("uint8"): 6, np.dtype("uint16"): 7, np.dtype("uint32"): 8, np.dtype("uint64"): 9,
          np.dtype("float16"): 10, np.dtype("float32"): 12, np.dtype("float64"): 13}
NUMPY = {v: k for k, v in DTYPES.items()}


def tensor(a):
    a = np.asarray(a, order="C")
    return kiln_pb2.Tensor(dtype=DTYPES[a.dtype], dims=a.shape, data=a.tobytes())


def array(t):
    return np.frombuffer(t.data, NUMPY[t.dtype]).reshape(tuple(t.dims))


class Graph:
    """Builds a kiln.v1.Graph; every method returns the new node's position."""

    def __init__(self):
        self.g = graph_pb2.Graph()

    def node(self, op, *src, **fields):
        self.g.nodes.add(op=graph_pb2.GraphOp.Value(op), src=src, **fields)
        return len(self.g.nodes) - 1

    def param(self, name, dims, dtype="float32", data=None):
        p = self.g.params.add(name=name, dtype=DTYPES[np.dtype(dtype)])
        for d in dims:
            p.dims.add(size=d)
        if data is not None:
            p.data = np.ascontiguousarray(data, dtype).tobytes()
        return self.node("PARAM", ints=[len(self.g.params) - 1])

    def const(self, value):
        return self.node("CONST", dtype=DTYPES[np.dtype("float32")], f=value)

    def output(self, name, node):
        self.g.outputs.add(name=name, node=node)

    def bytes(self):
        return self.g.SerializeToString(deterministic=True)


def add_graph(n=16, weight=None):
    """y = x + b over n floats; b is a parameter with data when weight is given."""
    g = Graph()
    x, b = g.param("x", [n]), g.param("b", [n], data=weight)
    g.output("y", g.node("ADD", x, b))
    return g.bytes()


def slow_graph(kernels=200, first=0):
    """Many different kernels: every matmul has a shape of its own, so none is shared."""
    g = Graph()
    x = g.param("x", [8, 8 + first])
    for i in range(first, first + kernels):
        w = g.param(f"w{i:04}", [8 + i, 9 + i])
        x = g.node("MATMUL", x, w)
    g.output("y", x)
    return g.bytes()


class Daemon:
    def __init__(self, folder, config=(), args=(), env=None, cache="cache.db", preexec=None, wait=True, prefix=(), popen=None):
        self.folder = pathlib.Path(folder)
        self.socket = self.folder / "run" / "kiln.sock"
        self.cache = self.folder / cache if cache else None
        self.log_path = self.folder / "log"
        conf = self.folder / "kiln.conf"
        conf.write_text("\n".join(config) + "\n")
        command = [*prefix, str(BIN / "kilnd"), "--config", str(conf), "--listen", f"unix:{self.socket}", *args]
        command += ["--cache", str(self.cache)] if cache else ["--no-cache"]
        self.log_file = open(self.log_path, "ab")
        env = {**os.environ, "TSAN_OPTIONS": f"suppressions={HERE}/tsan.supp", **(env or {})}
        self.process = subprocess.Popen(command, stderr=self.log_file, env=env, preexec_fn=preexec, **(popen or {}))
        self.channel = grpc.insecure_channel(f"unix:{self.socket}", options=[
            ("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1),
            ("grpc.initial_reconnect_backoff_ms", 20), ("grpc.min_reconnect_backoff_ms", 20)])
        self.stub = kiln_pb2_grpc.KilnStub(self.channel)
        if wait:
            self.wait_ready()

    def wait_ready(self, timeout=20):
        end = time.time() + timeout
        while True:
            assert self.process.poll() is None, self.log()
            try:
                if self.stub.ListDevices(kiln_pb2.ListDevicesRequest(), timeout=5).devices[0].available:
                    return
            except grpc.RpcError:
                pass
            assert time.time() < end, self.log()
            time.sleep(0.02)

    def log(self):
        return self.log_path.read_text(errors="replace")

    def stop(self, timeout=20):
        """Exit code after SIGTERM."""
        self.channel.close()
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(timeout)
        finally:
            if self.process.poll() is None:
                self.process.kill()
                self.process.wait()
            self.log_file.close()

    # -- calls ------------------------------------------------------------------------------------
    def compile_parts(self, model, fmt=2, name="test", chunk=1 << 20, size=None, **options):
        header = kiln_pb2.CompileHeader(format=fmt, name=name, size=len(model) if size is None else size,
                                        options=kiln_pb2.CompileOptions(**options))
        yield kiln_pb2.CompileRequest(header=header)
        for at in range(0, len(model), chunk):
            yield kiln_pb2.CompileRequest(chunk=model[at:at + chunk])

    def compile(self, model, timeout=60, **kw):
        return self.stub.Compile(self.compile_parts(model, **kw), timeout=timeout)

    def run(self, executable, inputs, outputs=(), buffers=False, timeout=60):
        named = [kiln_pb2.NamedTensor(name=k, buffer=v) if isinstance(v, str) else
                 kiln_pb2.NamedTensor(name=k, tensor=tensor(v)) for k, v in inputs.items()]
        r = self.stub.Run(kiln_pb2.RunRequest(executable=executable, inputs=named, outputs=outputs,
                                              outputs_as_buffers=buffers), timeout=timeout)
        return {o.name: o.buffer if o.WhichOneof("value") == "buffer" else array(o.tensor) for o in r.outputs}

    def upload(self, a, timeout=60):
        def parts():
            yield kiln_pb2.UploadRequest(header=kiln_pb2.UploadHeader(dtype=DTYPES[a.dtype], dims=a.shape))
            data = a.tobytes()
            for at in range(0, len(data), 1 << 20):
                yield kiln_pb2.UploadRequest(chunk=data[at:at + (1 << 20)])
        return self.stub.Upload(parts(), timeout=timeout).buffer

    def download(self, buffer, timeout=60):
        info, data = None, b""
        for part in self.stub.Download(kiln_pb2.DownloadRequest(buffer=buffer), timeout=timeout):
            if part.WhichOneof("part") == "header":
                info = part.header
            else:
                data += part.chunk
        return np.frombuffer(data, NUMPY[info.dtype]).reshape(tuple(info.dims))

    def devices(self):
        return self.stub.ListDevices(kiln_pb2.ListDevicesRequest(), timeout=10).devices

    def info(self):
        return self.stub.GetServerInfo(kiln_pb2.GetServerInfoRequest(), timeout=10)

    def stats(self):
        return self.stub.CacheStats(kiln_pb2.CacheStatsRequest(), timeout=10)

    # -- processes --------------------------------------------------------------------------------
    def children(self, role=None):
        """Pids of the worker processes, by the name they give themselves ("compile", "device")."""
        found = []
        for zygote in _children(self.process.pid):
            found += [pid for pid in _children(zygote) if role is None or _name(pid) == f"kiln-{role}"]
        return found

    def wait_children(self, role, n=1, timeout=10):
        end = time.time() + timeout
        while len(self.children(role)) < n:
            assert time.time() < end, self.log()
            time.sleep(0.01)
        return self.children(role)


def _children(pid):
    try:
        text = pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text()
    except OSError:
        return []
    return [int(p) for p in text.split()]


def _name(pid):
    try:
        return pathlib.Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


def fails(code, *words):
    """The call in the block fails with this code, and its message holds these words."""
    class Check:
        def __enter__(self):
            return self

        def __exit__(self, kind, error, trace):
            assert isinstance(error, grpc.RpcError), f"expected {code}, got {error!r}"
            assert error.code() == code, f"expected {code}, got {error.code()}: {error.details()}"
            for w in words:
                assert w in error.details(), f"'{w}' is not in: {error.details()}"
            self.details = error.details()
            return True
    return Check()


def ends_well(d):
    """Stops a daemon, which exits with 0; no sanitizer has reported anything, in a worker either."""
    if d.process.returncode is None:
        assert d.stop() == 0, d.log()
    reports = [line for line in d.log().splitlines() if re.search("(WARNING|ERROR): [A-Za-z]+Sanitizer|runtime error:", line)]
    assert not reports, d.log()


@pytest.fixture
def start(tmp_path):
    """Starts daemons in tmp_path; each must end well."""
    daemons = []

    def begin(**kw):
        folder = tmp_path / f"d{len(daemons)}" if "folder" not in kw else kw.pop("folder")
        pathlib.Path(folder).mkdir(exist_ok=True)
        d = Daemon(folder, **kw)
        daemons.append(d)
        return d

    yield begin
    for d in daemons:
        ends_well(d)


@pytest.fixture(scope="module")
def daemon(tmp_path_factory):
    """One daemon for the tests of a module that leave it as they found it."""
    d = Daemon(tmp_path_factory.mktemp("daemon"))
    yield d
    ends_well(d)
