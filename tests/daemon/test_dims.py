"""Named dimensions: one executable for every size within bounds, and a clear error for every other."""
import os
import signal
import time

import grpc
import numpy as np
import pytest
from conftest import Graph, fails, graph_pb2, kiln_pb2
from onnx import TensorProto, helper

C = grpc.StatusCode
RNG = np.random.default_rng(11)


def rand(*dims):
    return RNG.standard_normal(dims).astype(np.float32)


def named(g, name, dims, dtype="float32"):
    """A parameter whose dims may be names, or (name, min, max, multiple)."""
    node = g.param(name, [], dtype)
    p = g.g.params[-1]
    for d in dims:
        if isinstance(d, tuple):
            p.dims.add(name=d[0], min=d[1], max=d[2], multiple=d[3])
        elif isinstance(d, str):
            p.dims.add(name=d)
        else:
            p.dims.add(size=d)
    return node


def span(name, low, high, multiple=1):
    return graph_pb2.Dim(name=name, min=low, max=high, multiple=multiple)


def product(n="n"):
    """y[n, 24] = x[n, 16] @ w, s = y summed over n, z = y + b[n, 1]: two inputs share n."""
    g = Graph()
    x, b = named(g, "x", [n, 16]), named(g, "b", ["n", 1])
    w = g.param("w", [16, 24], data=WEIGHT)
    y = g.node("MATMUL", x, w)
    g.output("y", y)
    g.output("s", g.node("REDUCE_SUM", y, ints=[0], i=1))
    g.output("z", g.node("ADD", y, b))
    return g.bytes()


WEIGHT = rand(16, 24)


def check_product(daemon, exe, n):
    x, b = rand(n, 16), rand(n, 1)
    r = daemon.run(exe, {"x": x, "b": b})
    want = x @ WEIGHT
    np.testing.assert_allclose(r["y"], want, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(r["s"], want.sum(0), rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(r["z"], want + b, rtol=1e-4, atol=1e-4)


def test_fifty_sizes_one_compile(daemon):
    exe = daemon.compile(product(), ranges=[span("n", 1, 300)])
    before = daemon.stats()
    sizes = [1, 2, 3, 7, 8, 15, 16, 17, 299, 300] + [int(n) for n in RNG.integers(1, 301, 40)]
    for n in sizes:
        check_product(daemon, exe.executable, n)
    after = daemon.stats()
    assert (after.kernels, after.plans, after.misses) == (before.kernels, before.plans, before.misses)
    assert daemon.compile(product(), ranges=[span("n", 1, 300)]).report.kernels_compiled == 0


def test_interface_tells_names_and_bounds(daemon):
    exe = daemon.compile(product(), ranges=[span("n", 3, 100, 4)])
    x, y, s = exe.inputs[0], exe.outputs[0], exe.outputs[1]
    assert [(d.name, d.size) for d in x.shape] == [("n", 0), ("", 16)]
    assert (x.shape[0].min, x.shape[0].max, x.shape[0].multiple) == (4, 100, 4)
    assert list(x.dims) == [100, 16]
    assert [(d.name, d.size) for d in y.shape] == [("n", 0), ("", 24)]
    assert not s.shape and list(s.dims) == [24]


def test_sizes_outside(daemon):
    exe = daemon.compile(product(), ranges=[span("n", 8, 64, 8)]).executable
    for n in (600, 7, 0, 65):
        with fails(C.INVALID_ARGUMENT, f"input 'x': dimension 'n' must be in [8,64], got {n}"):
            daemon.run(exe, {"x": rand(n, 16), "b": rand(n, 1)})
    with fails(C.INVALID_ARGUMENT, "input 'x': dimension 'n' must be a multiple of 8, got 12"):
        daemon.run(exe, {"x": rand(12, 16), "b": rand(12, 1)})
    with fails(C.INVALID_ARGUMENT, "input 'b': dimension 'n' is 16, but input 'x' makes it 24"):
        daemon.run(exe, {"x": rand(24, 16), "b": rand(16, 1)})
    with fails(C.INVALID_ARGUMENT, "input 'x': axis 1 must have 16 elements, got 17"):
        daemon.run(exe, {"x": rand(8, 17), "b": rand(8, 1)})
    with fails(C.INVALID_ARGUMENT, "input 'x': expected f32[n,16], got f32[8]"):
        daemon.run(exe, {"x": rand(8), "b": rand(8, 1)})
    with fails(C.INVALID_ARGUMENT, "input 'x': expected f32[n,16], got f64[8,16]"):
        daemon.run(exe, {"x": rand(8, 16).astype(np.float64), "b": rand(8, 1)})
    with fails(C.INVALID_ARGUMENT, "input 'b' is missing; expected f32[n,1]"):
        daemon.run(exe, {"x": rand(8, 16)})
    check_product(daemon, exe, 16)


def test_size_and_bytes_disagree(daemon):
    exe = daemon.compile(product(), ranges=[span("n", 1, 64)]).executable
    for dims, got in (([5, 16], 4 * 4 * 16), ([4, 16], 0), ([2**61, 16], 64), ([2**64 - 1, 16], 64)):
        named_tensors = [kiln_pb2.NamedTensor(name="x", tensor=kiln_pb2.Tensor(dtype=12, dims=dims, data=bytes(got)))]
        with fails(C.INVALID_ARGUMENT, "input 'x'"):
            daemon.stub.Run(kiln_pb2.RunRequest(executable=exe, inputs=named_tensors))


@pytest.mark.parametrize("bad, words", [
    (dict(ranges=[span("n", 9, 8)]), ["'n'", "[9,8]"]),
    (dict(ranges=[span("n", 0, 0)]), ["multiple"]),
    (dict(ranges=[span("n", 1, 2**40)]), ["'n'", "min <= max <= "]),
    (dict(ranges=[span("n", 9, 15, 8)]), ["no multiple of 8 lies in [9,15]"]),
    (dict(ranges=[span("n", 1, 8), span("n", 1, 8)]), ["'n' is given twice"]),
    (dict(ranges=[span("n", 1, 8)], dims={"n": 4}), ["'n' is given twice"]),
    (dict(ranges=[span("", 1, 8)]), ["without a name"]),
    (dict(ranges=[graph_pb2.Dim(name="n", min=1, max=8, size=3)]), ["bounds and a size"]),
    (dict(ranges=[span("nope", 1, 8)]), ["nope"]),
])
def test_bad_bounds(daemon, bad, words):
    with fails(C.INVALID_ARGUMENT, *words):
        daemon.compile(product(), **bad)


def test_bounds_of_one_value_are_a_number(daemon):
    a = daemon.compile(product(), ranges=[span("n", 32, 32)])
    b = daemon.compile(product(), dims={"n": 32})
    assert a.report.graph_hash == b.report.graph_hash and not a.inputs[0].shape
    assert daemon.compile(product(), ranges=[span("n", 25, 39, 16)]).report.graph_hash == b.report.graph_hash
    assert daemon.compile(product(), ranges=[span("n", 25, 49, 16)]).report.graph_hash != b.report.graph_hash


def test_bounds_of_the_model_and_without_any(daemon):
    exe = daemon.compile(product(("n", 2, 10, 1))).executable
    check_product(daemon, exe, 10)
    with fails(C.INVALID_ARGUMENT, "must be in [2,10], got 11"):
        daemon.run(exe, {"x": rand(11, 16), "b": rand(11, 1)})
    exe = daemon.compile(product()).executable
    check_product(daemon, exe, 1)
    check_product(daemon, exe, 9001)  # more than fits a packet
    with fails(C.INVALID_ARGUMENT, "must be in [1,65536], got 0"):
        daemon.run(exe, {"x": rand(0, 16), "b": rand(0, 1)})


def test_zero_is_a_size(daemon):
    exe = daemon.compile(product(), ranges=[span("n", 0, 8)]).executable
    r = daemon.run(exe, {"x": rand(0, 16), "b": rand(0, 1)})
    assert r["y"].shape == (0, 24) and not r["s"].any()
    check_product(daemon, exe, 8)


def test_buffers_have_the_true_size(daemon):
    exe = daemon.compile(product(), ranges=[span("n", 1, 5000)]).executable
    for n in (5, 5000, 1):
        x, b = rand(n, 16), rand(n, 1)
        kept = daemon.run(exe, {"x": daemon.upload(x), "b": b}, buffers=True)
        y = daemon.download(kept["y"])
        np.testing.assert_allclose(y, x @ WEIGHT, rtol=1e-4, atol=1e-4)
        infos = {i.buffer: i for i in daemon.stub.ListBuffers(kiln_pb2.ListBuffersRequest()).buffers}
        assert list(infos[kept["z"]].dims) == [n, 24] and infos[kept["z"]].bytes == n * 96
        g = Graph()
        v = named(g, "v", ["m", 24])
        g.output("o", g.node("NEG", v))
        negate = daemon.compile(g.bytes(), ranges=[span("m", 1, 4000)]).executable
        if n > 4000:
            with fails(C.INVALID_ARGUMENT, "input 'v': dimension 'm' must be in [1,4000], got 5000"):
                daemon.run(negate, {"v": kept["y"]})
        else:
            np.testing.assert_array_equal(daemon.run(negate, {"v": kept["y"]})["o"], -y)
        daemon.stub.FreeBuffers(kiln_pb2.FreeBuffersRequest(buffers=list(kept.values())))


def chain(width):
    """Several stored values of n * width elements, so that the arena depends on n."""
    g = Graph()
    x = named(g, "x", ["n", width])
    for _ in range(3):
        total = g.node("REDUCE_SUM", x, ints=[0], i=0)
        x = g.node("CONTIGUOUS", g.node("ADD", g.node("CONTIGUOUS", g.node("MUL", x, g.const(0.5))), total))
    g.output("y", x)
    return g.bytes()


def check_chain(daemon, exe, width, n):
    x = rand(n, width)
    want = x
    for _ in range(3):
        want = want * np.float32(0.5) + want.sum(0, keepdims=True)
    np.testing.assert_allclose(daemon.run(exe, {"x": x})["y"], want, rtol=2e-3, atol=2e-3)


def test_executables_share_an_arena_that_grows(daemon):
    a = daemon.compile(chain(8)).executable
    b = daemon.compile(chain(24)).executable
    for n in (1, 100, 7, 3000, 2):
        check_chain(daemon, a, 8, n)
        check_chain(daemon, b, 24, n + 1)
        check_chain(daemon, a, 8, n)


def ranged():
    """o = 0, 3, 6, ... of as many elements as the input says: an ONNX Range, whose size the run finds out."""
    nodes = [helper.make_node("Range", ["zero", "x", "one"], ["r"]), helper.make_node("Mul", ["r", "three"], ["o"])]
    consts = [helper.make_tensor(name, TensorProto.INT64, [], [v]) for name, v in (("zero", 0), ("one", 1), ("three", 3))]
    graph = helper.make_graph(nodes, "g", [helper.make_tensor_value_info("x", TensorProto.INT64, [])],
                              [helper.make_tensor_value_info("o", TensorProto.INT64, [None])], consts)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()


def test_sizes_that_the_run_computes(daemon):
    exe = daemon.compile(ranged(), fmt=1)
    assert exe.outputs[0].shape[0].name == "?" and exe.outputs[0].shape[0].max == 65536
    for n in (1, 5, 20000, 0, 3, 65536):
        np.testing.assert_array_equal(daemon.run(exe.executable, {"x": np.int64(n)})["o"], 3 * np.arange(n))
        kept = daemon.run(exe.executable, {"x": np.int64(n)}, buffers=True)["o"]
        np.testing.assert_array_equal(daemon.download(kept), 3 * np.arange(n))
        daemon.stub.FreeBuffers(kiln_pb2.FreeBuffersRequest(buffers=[kept]))


def counted(low, high):
    """o = 0, 3, 6, ... of as many elements as x has ones."""
    g = Graph()
    count = g.node("REDUCE_SUM", named(g, "x", ["n"], "int64"), ints=[0], i=1)
    g.g.sizes.add(op=graph_pb2.SIZE_NODE, node=count, min=low, max=high)
    o = g.node("IOTA", dtype=5, ints=[0, 0], sizes=[0, 1])
    g.output("o", g.node("MUL", o, g.node("CAST", g.const(3), dtype=5)))
    return g.bytes()


def ones(n, of):
    return (np.arange(of) < n).astype(np.int64)


def test_computed_sizes_of_the_native_graph(daemon):
    exe = daemon.compile(counted(1, 20000), ranges=[span("n", 1, 20000)])
    assert exe.outputs[0].shape[0].name == "?" and exe.outputs[0].shape[0].max == 20000
    for n, of in ((1, 1), (5, 9), (20000, 20000), (3, 20000)):
        np.testing.assert_array_equal(daemon.run(exe.executable, {"x": ones(n, of)})["o"], 3 * np.arange(n))


def test_computed_size_outside_of_its_bounds(daemon):
    exe = daemon.compile(ranged(), fmt=1).executable
    with fails(C.OUT_OF_RANGE, "70000", "[0, 65536]"):
        daemon.run(exe, {"x": np.int64(70000)})
    np.testing.assert_array_equal(daemon.run(exe, {"x": np.int64(4)})["o"], 3 * np.arange(4))
    exe = daemon.compile(counted(1, 10), ranges=[span("n", 1, 100)]).executable
    for n in (0, 11):
        with fails(C.OUT_OF_RANGE, str(n), "[1, 10]"):
            daemon.run(exe, {"x": ones(n, 50)})
    np.testing.assert_array_equal(daemon.run(exe, {"x": ones(10, 10)})["o"], 3 * np.arange(10))


def test_outputs_whose_bounds_are_far_above_their_size(daemon):
    nodes = [helper.make_node("Reshape", ["x", "shape"], ["y"]), helper.make_node("Neg", ["x"], ["z"])]
    graph = helper.make_graph(nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n"]),
                                           helper.make_tensor_value_info("shape", TensorProto.INT64, [3])],
                              [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None, None, None]),
                               helper.make_tensor_value_info("z", TensorProto.FLOAT, ["n"])])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()
    exe = daemon.compile(model, fmt=1).executable
    for n, shape in ((24, (2, 3, 4)), (60000, (1, 60000, 1)), (40000, (200, 2, 100)), (6, (1, 1, 6))):
        x = rand(n)
        r = daemon.run(exe, {"x": x, "shape": np.array(shape, np.int64)})
        np.testing.assert_array_equal(r["y"], x.reshape(shape))
        np.testing.assert_array_equal(r["z"], -x)
        np.testing.assert_array_equal(daemon.run(exe, {"x": x, "shape": np.array(shape, np.int64)}, outputs=["y"])["y"], x.reshape(shape))
        kept = daemon.run(exe, {"x": x, "shape": np.array(shape, np.int64)}, buffers=True)
        np.testing.assert_array_equal(daemon.download(kept["y"]), x.reshape(shape))
        daemon.stub.FreeBuffers(kiln_pb2.FreeBuffersRequest(buffers=list(kept.values())))


def test_a_new_device_worker_knows_the_sizes(start):
    d = start()
    exe = d.compile(product(), ranges=[span("n", 1, 64)]).executable
    check_product(d, exe, 9)
    for pid in d.children("device"):
        os.kill(pid, signal.SIGKILL)
    end = time.time() + 20
    while True:
        try:
            check_product(d, exe, 9)
            break
        except grpc.RpcError as e:
            assert e.code() == C.UNAVAILABLE and time.time() < end, e
            time.sleep(0.05)
    check_product(d, exe, 33)


def test_plans_from_the_cache(start, tmp_path):
    folder = tmp_path / "kept"
    d = start(folder=folder)
    first = d.compile(product(), ranges=[span("n", 1, 64)])
    assert first.report.kernels_compiled > 0
    assert d.stop() == 0
    d = start(folder=folder)
    again = d.compile(product(), ranges=[span("n", 1, 64)])
    assert again.report.plan_cached and again.report.kernels_compiled == 0
    for n in (64, 1, 30):
        check_product(d, again.executable, n)
    other = d.compile(product(), ranges=[span("n", 1, 65)])
    assert not other.report.plan_cached
    check_product(d, other.executable, 65)
