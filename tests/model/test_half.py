"""Sums, products and contractions of f16 and bf16 through the daemon: accumulated in f32, rounded once."""
import kiln
import ml_dtypes
import numpy as np
import pytest

HALVES = {"f16": np.dtype(np.float16), "bf16": np.dtype(ml_dtypes.bfloat16)}


def run(client, model, **feeds):
    exe = client.compile(model)
    try:
        return exe(feeds)["y"]
    finally:
        exe.release()


def one(client, build, **feeds):
    """The output of the graph that build(graph, *params) makes."""
    g = kiln.Graph()
    g.output("y", build(g, *(g.param(name, a.dtype, a.shape) for name, a in feeds.items())))
    return run(client, g, **feeds)


def ulp(values, dtype):
    """The distance between neighbours at the values, as f64."""
    info = ml_dtypes.finfo(dtype)
    magnitude = np.maximum(np.abs(values), float(info.smallest_normal))
    return 2.0 ** np.floor(np.log2(magnitude)) * float(info.eps)


def assert_one_rounding(got, want, scale=0.0):
    """got is want rounded; the f32 accumulation may move it by scale * 2^-24 before."""
    bound = 0.5 * ulp(want, got.dtype) * 1.001 + scale * 2.0**-20
    assert (np.abs(got.astype(np.float64) - want) <= bound).all()


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("n", [300, 4096, 1 << 17])
def test_sum_of_ones(client, dtype, n):
    x = np.ones(n, HALVES[dtype])
    got = one(client, lambda g, x: x.sum(), x=x)
    want = np.float32(n).astype(HALVES[dtype])
    assert got == want, (got, want)


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("shape, axis", [((65536,), 0), ((8, 65536), 1), ((65536, 8), 0)])
def test_sum_of_many_small_values(client, dtype, shape, axis):
    x = (np.random.default_rng(1).random(shape) * 1e-2).astype(HALVES[dtype])
    got = one(client, lambda g, x: x.sum(axis=axis), x=x)
    wide = x.astype(np.float64)
    assert_one_rounding(got, wide.sum(axis=axis), np.abs(wide).sum(axis=axis))


@pytest.mark.parametrize("dtype", HALVES)
def test_product(client, dtype):
    x = (1 + np.random.default_rng(2).standard_normal((16, 500)) * 0.01).astype(HALVES[dtype])
    got = one(client, lambda g, x: x.prod(axis=1), x=x)
    want = x.astype(np.float64).prod(axis=1)
    assert_one_rounding(got, want, 8 * np.abs(want))


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("m, k, n", [(1, 2000, 64), (3, 1024, 130), (65, 777, 96)])
def test_matmul(client, dtype, m, k, n):
    r = np.random.default_rng(3)
    a, b = (r.standard_normal(s).astype(HALVES[dtype]) for s in ((m, k), (k, n)))
    want = a.astype(np.float64) @ b.astype(np.float64)
    scale = np.abs(a.astype(np.float64)) @ np.abs(b.astype(np.float64))
    assert_one_rounding(one(client, lambda g, a, b: g.matmul(a, b), a=a, b=b), want, scale)

    def summed_product(g, a, b):
        a = g.expand(a.reshape(m, 1, k), (m, n, k))
        b = g.expand(b.permute(1, 0).reshape(1, n, k), (m, n, k))
        return (a * b).sum(axis=2)

    assert_one_rounding(one(client, summed_product, a=a, b=b), want, scale)


def node_model(kind, shape, out, **attrs):
    from onnx import TensorProto, helper

    graph = helper.make_graph([helper.make_node(kind, ["x"], ["y"], **attrs)], "g",
                              [helper.make_tensor_value_info("x", TensorProto.FLOAT16, shape)],
                              [helper.make_tensor_value_info("y", TensorProto.FLOAT16, out)])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8).SerializeToString()


@pytest.mark.parametrize("kind, n, value, want", [
    ("ReduceMean", 70000, 2.0, 2.0),            # the sum and the count are beyond f16
    ("ReduceL2", 100, 1000.0, 10000.0),         # the squares are
    ("ReduceLogSum", 40000, 2.0, np.log(80000.0)),
    ("ReduceLogSumExp", 70000, 1.0, 1 + np.log(70000.0)),
])
def test_what_is_between_sum_and_result_is_not_rounded(client, kind, n, value, want):
    got = run(client, node_model(kind, [1, n], [1, 1], axes=[1]), x=np.full((1, n), value, np.float16))
    assert_one_rounding(got, np.array([[want]]), want)


def test_average_pool_of_large_values(client):
    x = np.full((1, 1, 8, 8), 40000, np.float16)
    pool = node_model("AveragePool", [1, 1, 8, 8], [1, 1, 4, 4], kernel_shape=[2, 2], strides=[2, 2])
    assert (run(client, pool, x=x) == 40000).all()
    assert (run(client, node_model("GlobalAveragePool", [1, 1, 8, 8], [1, 1, 1, 1]), x=x) == 40000).all()
