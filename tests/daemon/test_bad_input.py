"""Everything a client can get wrong: a clear error with the right code, and the server goes on."""
import random
import socket
import time

import grpc
import numpy as np
import pytest
from conftest import DTYPES, SANITIZED, Graph, add_graph, fails, kiln_pb2

C = grpc.StatusCode


@pytest.fixture(autouse=True)
def still_alive(daemon):
    """After each of these the next request works, in the same processes."""
    workers = sorted(daemon.children())
    yield
    r = daemon.compile(add_graph(16))
    x = np.ones(16, np.float32)
    assert daemon.run(r.executable, {"x": x, "b": x})["y"][0] == 2
    if workers:
        assert sorted(daemon.children()) == workers, daemon.log()


def f32(*dims):
    return np.zeros(dims, np.float32)


# -- models ---------------------------------------------------------------------------------------

@pytest.mark.parametrize("fmt", [1, 2], ids=["onnx", "kgraph"])
def test_random_bytes_as_model(daemon, fmt):
    rng = random.Random(1)
    for n in (1, 10, 1000, 100000):
        with fails(C.INVALID_ARGUMENT):
            daemon.compile(rng.randbytes(n), fmt=fmt)


def test_truncated_model(daemon):
    model = add_graph(64, weight=np.arange(64))
    for n in (1, len(model) // 2, len(model) - 1):
        with fails(C.INVALID_ARGUMENT):
            daemon.compile(model[:n])


def test_empty_model(daemon):
    with fails(C.INVALID_ARGUMENT, "0 bytes"):
        daemon.compile(b"")


def test_unknown_format(daemon):
    with fails(C.INVALID_ARGUMENT, "format 7"):
        daemon.compile(add_graph(), fmt=7)


def test_unknown_device(daemon):
    with fails(C.NOT_FOUND, "cuda:7", "cpu:0"):
        daemon.compile(add_graph(), device="cuda:7")


def test_dims_that_overflow(daemon):
    g = Graph()
    x = g.param("x", [1 << 40, 1 << 40])
    g.output("y", g.node("ADD", x, x))
    with fails(C.INVALID_ARGUMENT):
        daemon.compile(g.bytes())


def test_tensor_over_the_limit(daemon):
    g = Graph()
    x = g.param("x", [1 << 33])
    g.output("y", g.node("ADD", x, x))
    with pytest.raises(grpc.RpcError) as e:
        daemon.compile(g.bytes())
    assert e.value.code() in (C.RESOURCE_EXHAUSTED, C.INVALID_ARGUMENT) and "x" in e.value.details()


def test_model_over_the_limit(start):
    d = start(config=["[limits]", "model = 1K"])
    with fails(C.RESOURCE_EXHAUSTED, "1025", "1024"):
        d.compile(b"x" * 1025)


# -- streams --------------------------------------------------------------------------------------

def test_chunk_before_header(daemon):
    with fails(C.INVALID_ARGUMENT, "before the header"):
        daemon.stub.Compile(iter([kiln_pb2.CompileRequest(chunk=b"abc")]), timeout=10)


def test_two_headers(daemon):
    header = kiln_pb2.CompileRequest(header=kiln_pb2.CompileHeader(format=2, size=10))
    with fails(C.INVALID_ARGUMENT, "second header"):
        daemon.stub.Compile(iter([header, header]), timeout=10)


def test_no_message_at_all(daemon):
    with fails(C.INVALID_ARGUMENT, "without a message"):
        daemon.stub.Compile(iter([]), timeout=10)


def test_fewer_and_more_bytes_than_announced(daemon):
    model = add_graph()
    with fails(C.INVALID_ARGUMENT, "announced", str(len(model) + 1)):
        daemon.compile(model, size=len(model) + 1)
    with fails(C.INVALID_ARGUMENT, "announced", str(len(model) - 1)):
        daemon.compile(model, size=len(model) - 1)


def test_client_gone_mid_upload(daemon):
    before = daemon.info().resident_bytes
    for _ in range(20):
        def parts():
            yield kiln_pb2.CompileRequest(header=kiln_pb2.CompileHeader(format=2, size=64 << 20))
            for _ in range(4):
                yield kiln_pb2.CompileRequest(chunk=bytes(1 << 20))
            time.sleep(5)
        call = daemon.stub.Compile.future(parts())
        time.sleep(0.05)
        call.cancel()
    time.sleep(0.2)
    assert SANITIZED or daemon.info().resident_bytes < before + (16 << 20)


# -- frames and messages --------------------------------------------------------------------------

def test_garbage_on_the_socket(daemon):
    rng = random.Random(2)
    for _ in range(20):
        s = socket.socket(socket.AF_UNIX)
        s.connect(str(daemon.socket))
        s.settimeout(5)
        try:
            s.sendall(rng.choice([b"", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"]) + rng.randbytes(rng.randrange(2000)))
            s.shutdown(socket.SHUT_WR)
            while s.recv(4096):
                pass
        except (BrokenPipeError, ConnectionResetError):
            pass
        s.close()


def test_malformed_message(daemon):
    call = daemon.channel.unary_unary("/kiln.v1.Kiln/Run")
    for raw in (b"\xff" * 40, b"\x0a\xff\xff\xff\xff\x0f", b"\x0a\x05abc", b"\x12\x03\x0a\x7fx"):
        with fails(C.INVALID_ARGUMENT, "byte"):
            call(raw, timeout=10)
    with fails(C.NOT_FOUND, "'??'"):  # not UTF-8: is not echoed
        call(b"\x0a\x02\xff\xfe", timeout=10)
    with fails(C.INVALID_ARGUMENT):
        daemon.channel.unary_unary("/kiln.v1.Kiln/Download")(b"\x0a\x02\xff\xfe", timeout=10)


def test_deep_nesting_and_many_elements(daemon):
    call = daemon.channel.unary_unary("/kiln.v1.Kiln/Run")
    bomb = b"\x12\x00" * (1 << 20)  # a million empty inputs
    with pytest.raises(grpc.RpcError) as e:
        call(bomb, timeout=30)
    assert e.value.code() in (C.RESOURCE_EXHAUSTED, C.INVALID_ARGUMENT, C.NOT_FOUND)


def test_message_over_the_limit(start):
    d = start(config=["[limits]", "message = 64K"])
    with fails(C.RESOURCE_EXHAUSTED):
        d.run("exe-0000000000000001", {"x": np.zeros(1 << 16, np.float32)})


def test_unknown_method_and_service(daemon):
    for path in ("/kiln.v1.Kiln/Nonsense", "/no.such.Service/Run"):
        with fails(C.UNIMPLEMENTED):
            daemon.channel.unary_unary(path)(b"", timeout=10)


# -- runs -----------------------------------------------------------------------------------------

@pytest.fixture
def exe(daemon):
    return daemon.compile(add_graph(16)).executable


def test_unknown_executable(daemon):
    for name in ("exe-0123456789abcdef", "exe-zz", "", "x" * 1000):
        with fails(C.NOT_FOUND, "unknown executable"):
            daemon.run(name, {})


@pytest.mark.parametrize("x,words", [
    (f32(16, 1), ["input 'x'", "expected f32[16]", "got f32[16,1]"]),
    (f32(15), ["expected f32[16]", "got f32[15]"]),
    (np.zeros(16, np.float64), ["expected f32[16]", "got f64[16]"]),
    (np.float32(1), ["got f32[]"]),
])
def test_wrong_type(daemon, exe, x, words):
    with fails(C.INVALID_ARGUMENT, *words):
        daemon.run(exe, {"x": x, "b": f32(16)})


def test_wrong_names(daemon, exe):
    with fails(C.INVALID_ARGUMENT, "no input 'q'", "'x'", "'b'"):
        daemon.run(exe, {"x": f32(16), "q": f32(16)})
    with fails(C.INVALID_ARGUMENT, "input 'b' is missing", "f32[16]"):
        daemon.run(exe, {"x": f32(16)})
    with fails(C.INVALID_ARGUMENT, "no output 'z'", "'y'"):
        daemon.run(exe, {"x": f32(16), "b": f32(16)}, outputs=["z"])
    with fails(C.INVALID_ARGUMENT, "twice"):
        daemon.run(exe, {"x": f32(16), "b": f32(16)}, outputs=["y", "y"])


def test_input_twice_and_without_value(daemon, exe):
    t = kiln_pb2.Tensor(dtype=12, dims=[16], data=bytes(64))
    x = kiln_pb2.NamedTensor(name="x", tensor=t)
    with fails(C.INVALID_ARGUMENT, "'x' is given twice"):
        daemon.stub.Run(kiln_pb2.RunRequest(executable=exe, inputs=[x, x]), timeout=10)
    with fails(C.INVALID_ARGUMENT, "'x' has no value"):
        daemon.stub.Run(kiln_pb2.RunRequest(executable=exe, inputs=[kiln_pb2.NamedTensor(name="x")]), timeout=10)


def test_data_of_wrong_length(daemon, exe):
    x = kiln_pb2.NamedTensor(name="x", tensor=kiln_pb2.Tensor(dtype=12, dims=[16], data=bytes(63)))
    with fails(C.INVALID_ARGUMENT, "expected 64 bytes", "got 63"):
        daemon.stub.Run(kiln_pb2.RunRequest(executable=exe, inputs=[x]), timeout=10)


# -- buffers --------------------------------------------------------------------------------------

def upload(daemon, dtype, dims, data=b"", device=""):
    header = kiln_pb2.UploadHeader(dtype=dtype, dims=dims, device=device)
    return daemon.stub.Upload(iter([kiln_pb2.UploadRequest(header=header), kiln_pb2.UploadRequest(chunk=data)]),
                              timeout=10)


def test_uploads(daemon):
    f = DTYPES[np.dtype("float32")]
    with fails(C.INVALID_ARGUMENT, "overflows"):
        upload(daemon, f, [1 << 62, 1 << 62])
    with fails(C.RESOURCE_EXHAUSTED, "f32[1073741824]", "at most"):
        upload(daemon, f, [1 << 30])
    with fails(C.INVALID_ARGUMENT, "dtype 99"):
        upload(daemon, 99, [1])
    with fails(C.INVALID_ARGUMENT, "announced 16", "got 12"):
        upload(daemon, f, [4], bytes(12))
    with fails(C.INVALID_ARGUMENT, "announced 16", "20"):
        upload(daemon, f, [4], bytes(20))
    with fails(C.INVALID_ARGUMENT, "dimensions"):
        upload(daemon, f, [1] * 100)
    with fails(C.NOT_FOUND, "device"):
        upload(daemon, f, [1], bytes(4), device="cpu:9")


def test_unknown_and_unfit_buffers(daemon, exe):
    with fails(C.NOT_FOUND, "unknown buffer 'buf-0123456789abcdef'"):
        daemon.run(exe, {"x": "buf-0123456789abcdef", "b": f32(16)})
    b = daemon.upload(f32(17))
    with fails(C.INVALID_ARGUMENT, "expected f32[16]", "got f32[17]"):
        daemon.run(exe, {"x": b, "b": f32(16)})
    with fails(C.NOT_FOUND, "buf-00"):  # all or nothing
        daemon.stub.FreeBuffers(kiln_pb2.FreeBuffersRequest(buffers=[b, "buf-0000000000000000"]))
    assert daemon.download(b).shape == (17,)
    daemon.stub.FreeBuffers(kiln_pb2.FreeBuffersRequest(buffers=[b, b]))


def test_buffers_over_the_limit(start):
    d = start(config=["[limits]", "buffers = 1M"])
    b = d.upload(f32(200000))
    with fails(C.RESOURCE_EXHAUSTED, "800000", "1048576"):
        d.upload(f32(200000))
    d.stub.FreeBuffers(kiln_pb2.FreeBuffersRequest(buffers=[b]))
    d.upload(f32(200000))
