"""The graph builder: every op of the table is a method, and what is composed of ops gives what numpy gives."""
import itertools

import numpy as np
import pytest

import kiln
from kiln._ops import OPS
from kiln.v1 import graph_pb2

R = np.random.default_rng(7)
X = R.standard_normal((3, 4, 5)).astype(np.float32)
I = R.integers(-9, 9, (4, 6)).astype(np.int32)


def run(client, build, *arrays, dims=None):
    """build(g, *nodes) on the arrays as inputs: its value, or values."""
    g = kiln.Graph()
    nodes = [g.param(f"x{k}", a.dtype, a.shape) for k, a in enumerate(arrays)]
    out = build(g, *nodes)
    several = isinstance(out, (list, tuple))
    for k, n in enumerate(out if several else [out]):
        g.output(f"y{k}", n)
    exe = client.compile(g)
    got = exe({f"x{k}": a for k, a in enumerate(arrays)})
    exe.release()
    for k, n in enumerate(out if several else [out]):
        assert got[f"y{k}"].shape == n.shape, "the shape that the builder inferred"
        assert kiln._codec.dtype_number(got[f"y{k}"].dtype) == n.dtype
    values = [got[f"y{k}"] for k in range(len(out) if several else 1)]
    return values if several else values[0]


def same(client, build, expected, *arrays, tol=2e-6):
    got = run(client, build, *arrays)
    want = np.asarray(expected)
    assert got.shape == want.shape
    if got.dtype.kind in "biu":
        np.testing.assert_array_equal(got, want)
    else:
        np.testing.assert_allclose(got.astype(np.float64), want.astype(np.float64), rtol=tol, atol=tol)


def test_every_op_of_the_format_is_a_method():
    assert set(OPS) | {"GRAPH_OP_UNSPECIFIED"} == set(graph_pb2.GraphOp.keys())
    for op in OPS:
        name = op.lower() + ("_" if op in ("AND", "OR", "NOT") else "")
        method = getattr(kiln.Graph, name, None)
        assert callable(method) and len(method.__doc__) > 5, op


def test_every_public_method_is_documented():
    for cls in (kiln.Graph, kiln.Node, kiln.Size):
        for name in dir(cls):
            if not name.startswith("_"):
                assert getattr(cls, name).__doc__, f"{cls.__name__}.{name}"


SHAPES = {
    "transpose": (lambda g, x: g.transpose(x, (2, 0, 1)), lambda x: x.transpose(2, 0, 1)),
    "T": (lambda g, x: x.T, lambda x: x.T),
    "swapaxes": (lambda g, x: g.swapaxes(x, 0, -1), lambda x: x.swapaxes(0, -1)),
    "moveaxis": (lambda g, x: g.moveaxis(x, 0, -1), lambda x: np.moveaxis(x, 0, -1)),
    "unsqueeze": (lambda g, x: g.unsqueeze(x, -1), lambda x: x[..., None]),
    "squeeze": (lambda g, x: g.squeeze(x[:1]), lambda x: x[0]),
    "flatten": (lambda g, x: g.flatten(x, 1), lambda x: x.reshape(3, 20)),
    "reshape": (lambda g, x: x.reshape(5, -1), lambda x: x.reshape(5, -1)),
    "stack": (lambda g, x: g.stack([x, x + 1], 1), lambda x: np.stack([x, x + 1], 1)),
    "concat": (lambda g, x: g.concat([x, x], -1), lambda x: np.concatenate([x, x], -1)),
    "split": (lambda g, x: g.split(x, [1, 3, 1], 2)[1], lambda x: x[:, :, 1:4]),
    "split equal": (lambda g, x: g.split(x, 2, 1)[1], lambda x: x[:, 2:]),
    "roll": (lambda g, x: g.roll(x, 7, 2), lambda x: np.roll(x, 7, 2)),
    "tile": (lambda g, x: g.tile(x, (2, 1, 1, 3)), lambda x: np.tile(x, (2, 1, 1, 3))),
    "repeat": (lambda g, x: g.repeat(x, 3, 1), lambda x: np.repeat(x, 3, 1)),
    "tril": (lambda g, x: g.tril(x, 1), lambda x: np.tril(x, 1)),
    "triu": (lambda g, x: g.triu(x, -1), lambda x: np.triu(x, -1)),
    "full": (lambda g, x: g.full((2, 3), 7, "i16"), lambda x: np.full((2, 3), 7, np.int16)),
    "arange": (lambda g, x: g.arange(5, "f32", 2, 0.5), lambda x: np.arange(5, dtype=np.float32) * 0.5 + 2),
    "eye": (lambda g, x: g.eye(4), lambda x: np.eye(4, dtype=np.float32)),
    "zeros and ones": (lambda g, x: g.zeros((2,)) - g.ones((2,)), lambda x: -np.ones(2, np.float32)),
    "index": (lambda g, x: x[1, :, -2], lambda x: x[1, :, -2]),
    "slices": (lambda g, x: x[..., 1:4, None, ::2], lambda x: x[..., 1:4, None, ::2]),
    "backward": (lambda g, x: x[::-1, 3:0:-2], lambda x: x[::-1, 3:0:-2]),
    "empty": (lambda g, x: x[3:1], lambda x: x[3:1]),
    "gather by node": (lambda g, x: x[:, g.constant(np.array([[2, -1]]))], lambda x: x[:, np.array([[2, -1]])]),
}


@pytest.mark.parametrize("name", SHAPES)
def test_shapes(client, name):
    build, f = SHAPES[name]
    same(client, build, f(X), X)


@pytest.mark.parametrize("mode", ["edge", "reflect", "symmetric", "wrap"])
def test_pad_modes(client, mode):
    pads = [(0, 0), (2, 3), (4, 1)]
    same(client, lambda g, x: g.pad(x, pads, mode=mode), np.pad(X, pads, mode=mode), X)


def test_pad_constant(client):
    same(client, lambda g, x: g.pad(x, [(1, 0), (0, 2), (0, 0)], 2.5), np.pad(X, [(1, 0), (0, 2), (0, 0)], constant_values=2.5), X)


def softmax(x, axis):
    e = np.exp(x - x.max(axis, keepdims=True))
    return e / e.sum(axis, keepdims=True)


D = X.astype(np.float64)
MATH = {
    "clip": (lambda g, x: x.clip(-0.5, 0.5), np.clip(X, -0.5, 0.5)),
    "sign": (lambda g, x: g.sign(x), np.sign(X)),
    "isnan": (lambda g, x: g.isnan(g.sqrt(x)), X < 0),
    "isinf": (lambda g, x: g.isinf(x / 0.0), np.ones(X.shape, bool)),
    "log1p": (lambda g, x: g.log1p(abs(x) * 1e-4), np.log1p(np.abs(D) * 1e-4)),
    "expm1": (lambda g, x: g.expm1(x * 1e-4), np.expm1(D * 1e-4)),
    "sigmoid": (lambda g, x: g.sigmoid(x), 1 / (1 + np.exp(-D))),
    "silu": (lambda g, x: g.silu(x), D / (1 + np.exp(-D))),
    "relu": (lambda g, x: g.relu(x), np.maximum(X, 0)),
    "softplus": (lambda g, x: g.softplus(x), np.log1p(np.exp(D))),
    "gelu": (lambda g, x: g.gelu(x, approximate=True), D * 0.5 * (1 + np.tanh(np.sqrt(2 / np.pi) * (D + 0.044715 * D**3)))),
    "rsqrt": (lambda g, x: g.rsqrt(g.square(x)), 1 / np.abs(D)),
    "mean": (lambda g, x: x.mean((0, 2)), D.mean((0, 2))),
    "var": (lambda g, x: x.var(1, keepdims=True, ddof=1), D.var(1, keepdims=True, ddof=1)),
    "std": (lambda g, x: g.std(x), D.std()),
    "any": (lambda g, x: g.any(x > 1.5, 0), (X > 1.5).any(0)),
    "all": (lambda g, x: g.all(x < 1.5, (0, 1)), (X < 1.5).all((0, 1))),
    "logsumexp": (lambda g, x: g.logsumexp(x, 1), np.log(np.exp(D).sum(1))),
    "argmax": (lambda g, x: x.argmax(1), X.argmax(1)),
    "argmin": (lambda g, x: x.argmin(-1, keepdims=True), X.argmin(-1, keepdims=True)),
    "cumsum": (lambda g, x: g.cumsum(x, 1), D.cumsum(1)),
    "cumsum reverse": (lambda g, x: g.cumsum(x, 2, reverse=True), np.flip(np.flip(D, 2).cumsum(2), 2)),
    "cumprod": (lambda g, x: g.cumprod(x, 0), D.cumprod(0)),
    "softmax": (lambda g, x: g.softmax(x, 1), softmax(D, 1)),
    "log_softmax": (lambda g, x: g.log_softmax(x), np.log(softmax(D, 2))),
    "layernorm": (lambda g, x: g.layernorm(x, g.constant(X[0, 0]), g.constant(X[1, 1])),
                  (D - D.mean(-1, keepdims=True)) / np.sqrt(D.var(-1, keepdims=True) + 1e-5) * X[0, 0] + X[1, 1]),
    "rmsnorm": (lambda g, x: g.rmsnorm(x), D / np.sqrt((D * D).mean(-1, keepdims=True) + 1e-6)),
    "powers": (lambda g, x: 2 ** x - x ** 2, 2**D - D**2),
    "floors": (lambda g, x: x // 0.5 + x % 0.5 + 7 // x + 7 % x, X // np.float32(0.5) + X % np.float32(0.5) + 7 // X + 7 % X),
}


@pytest.mark.parametrize("name", MATH)
def test_math(client, name):
    build, want = MATH[name]
    same(client, build, want, X, tol=1e-5)


def test_integer_operators(client):
    same(client, lambda g, x: ((x << 2) >> 1) ^ (~x & 5) | 2, ((I << 2) >> 1) ^ (~I & 5) | 2, I)
    same(client, lambda g, x: g.max(g.sign(x), 100 - x), np.maximum(np.sign(I), 100 - I), I)


@pytest.mark.parametrize("dtype", ["f32", "f16", "i32", "u8", "i64"])
@pytest.mark.parametrize("descending", [False, True])
def test_order(client, dtype, descending):
    x = R.integers(-5, 5, (3, 9)).astype(kiln._codec.numpy_dtype(kiln._codec.dtype_number(dtype)))
    if x.dtype.kind == "f":
        x[0, :4] = [np.nan, np.inf, -np.inf, -0.0]
    key = -x.astype(np.float64) if descending else x.astype(np.float64)
    order = np.argsort(key, -1, kind="stable")
    got = run(client, lambda g, n: [g.sort(n, -1, descending), g.argsort(n, -1, descending), *g.topk(n, 4, -1, descending)], x)
    np.testing.assert_array_equal(got[0], np.take_along_axis(x, order, -1))
    np.testing.assert_array_equal(got[1], order)
    np.testing.assert_array_equal(got[2], np.take_along_axis(x, order, -1)[:, :4])
    np.testing.assert_array_equal(got[3], order[:, :4])


def test_long_axes(client):
    x = R.integers(-50, 50, (3, 700)).astype(np.float32)
    x[1, ::7], x[2, ::9] = np.nan, -0.0
    for descending in (False, True):
        order = np.argsort(-x if descending else x, -1, kind="stable")
        got = run(client, lambda g, n: [g.argsort(n, -1, descending), g.sort(n.T, 0, descending), g.topk(n, 5, -1, descending)[0]], x)
        np.testing.assert_array_equal(got[0], order)
        np.testing.assert_array_equal(got[1].T, np.take_along_axis(x, order, -1))
        np.testing.assert_array_equal(got[2], np.take_along_axis(x, order[:, :5], -1))
    v = R.integers(-3, 4, (2, 3000)).astype(np.float32)
    got = run(client, lambda g, n: [g.cumsum(n, 1), g.cumsum(n, 1, reverse=True), g.cumsum(n.cast("i16"), 1), g.cumprod(g.sign(n * 2 + 1), 1)], v)
    np.testing.assert_array_equal(got[0], v.cumsum(1))
    np.testing.assert_array_equal(got[1], v[:, ::-1].cumsum(1)[:, ::-1])
    np.testing.assert_array_equal(got[2], v.astype(np.int16).cumsum(1, dtype=np.int16))
    np.testing.assert_array_equal(got[3], np.sign(v * 2 + 1).cumprod(1))


def test_order_at_every_size(client):
    g = kiln.Graph()
    n = g.dim("n", 1, 3000)
    x = g.param("x", "i32", (2, n))
    for name, node in (("sort", g.sort(x)), ("sum", g.cumsum(x, 1)), ("place", x.argmax(1)), ("mean", x.cast("f32").mean(1))):
        g.output(name, node)
    exe = client.compile(g)
    for size in (1, 2, 31, 33, 64, 1000, 3000):
        a = R.integers(-90, 90, (2, size)).astype(np.int32)
        got = exe({"x": a})
        np.testing.assert_array_equal(got["sort"], np.sort(a))
        np.testing.assert_array_equal(got["sum"], a.cumsum(1, dtype=np.int32))
        np.testing.assert_array_equal(got["place"], a.argmax(1))
        np.testing.assert_allclose(got["mean"], a.mean(1), rtol=1e-5)
    exe.release()


def test_argmax_takes_the_first_nan(client):
    x = np.array([[1, np.nan, 3, np.nan], [2, 2, 1, 0]], np.float32)
    got = run(client, lambda g, n: [n.argmax(1), n.argmin(1)], x)
    np.testing.assert_array_equal(got[0], [1, 0])
    np.testing.assert_array_equal(got[1], [1, 3])


def test_indexing(client):
    at = np.array([[3, -1], [0, 9]], np.int64)
    same(client, lambda g, i: g.one_hot(i, 4), np.eye(4, dtype=np.float32)[np.array([[3, 0], [0, 0]])] * np.array([[[1], [0]], [[1], [0]]]), at)
    inside = np.array([[3, -1], [0, 2]], np.int64)
    same(client, lambda g, x, i: g.take(x, i, 1), np.take(X, inside, 1), X, inside)
    along = R.integers(-4, 4, (3, 2, 5))
    same(client, lambda g, x, i: g.take_along_axis(x, i, 1), np.take_along_axis(X, along, 1), X, along)


@pytest.mark.parametrize("how", ["set", "add", "mul", "max", "min"])
@pytest.mark.parametrize("dtype", [np.float32, np.int16])
def test_scatter(client, how, dtype):
    x, at = (X * 8).astype(dtype), np.array([[1, 3], [1, 7]], np.int32)
    upd = (R.standard_normal((3, 2, 2, 5)) * 8).astype(dtype)
    want = x.copy()
    for i, j in itertools.product(range(2), range(2)):
        k = at[i, j]
        if k >= 4:
            continue
        f = {"set": lambda a, b: b, "add": np.add, "mul": np.multiply, "max": np.maximum, "min": np.minimum}[how]
        want[:, k] = f(want[:, k], upd[:, i, j])
    same(client, lambda g, a, i, u: g.scatter(a, i, u, 1, how), want, x, at, upd, tol=1e-5)


@pytest.mark.parametrize("text,shapes", [
    ("bij,bjk->bik", [(2, 3, 4), (2, 4, 5)]), ("ij,jk", [(3, 4), (4, 5)]), ("ii->i", [(4, 4)]), ("ii", [(4, 4)]),
    ("...ij->...ji", [(2, 3, 4)]), ("bhqd,bhkd->bhqk", [(2, 3, 4, 5), (2, 3, 6, 5)]), ("i,j->ij", [(3,), (4,)]),
    ("ij,jk,kl->il", [(2, 3), (3, 4), (4, 5)]), ("ij->j", [(3, 4)]), ("i,i", [(5,), (5,)]), ("...i,i->...", [(2, 3, 4), (4,)]),
    ("bij,bij->b", [(2, 3, 4), (2, 3, 4)]),
])
def test_einsum(client, text, shapes):
    arrays = [R.standard_normal(s).astype(np.float32) for s in shapes]
    same(client, lambda g, *n: g.einsum(text, *n), np.einsum(text, *[a.astype(np.float64) for a in arrays]), *arrays, tol=1e-5)


def convolved(x, w, stride, pads, dilation, groups):
    x = np.pad(x.astype(np.float64), [(0, 0), (0, 0), *pads])
    n, c, h, wd = x.shape
    m, per, kh, kw = w.shape
    oh, ow = (h - dilation[0] * (kh - 1) - 1) // stride[0] + 1, (wd - dilation[1] * (kw - 1) - 1) // stride[1] + 1
    y = np.zeros((n, m, oh, ow))
    for f in range(m):
        base = f // (m // groups) * per
        for i, j in itertools.product(range(kh), range(kw)):
            part = x[:, base:base + per, i * dilation[0]:, j * dilation[1]:][:, :, :(oh - 1) * stride[0] + 1:stride[0], :(ow - 1) * stride[1] + 1:stride[1]]
            y[:, f] += np.einsum("nchw,c->nhw", part, w[f, :, i, j].astype(np.float64))
    return y


@pytest.mark.parametrize("stride,padding,dilation,groups", [(1, 0, 1, 1), (2, 1, 1, 2), ((1, 2), (0, 1), (2, 1), 1), (1, (1, 0, 2, 1), 1, 4)])
def test_conv2d(client, stride, padding, dilation, groups):
    x, w, b = (R.standard_normal(s).astype(np.float32) for s in ((2, 4, 7, 8), (8, 4 // groups, 3, 2), (8,)))
    pair = lambda v: (v, v) if isinstance(v, int) else v  # noqa: E731
    p = pair(padding)
    pads = [(p[0], p[0]), (p[1], p[1])] if len(p) == 2 else [p[:2], p[2:]]
    want = convolved(x, w, pair(stride), pads, pair(dilation), groups) + b[:, None, None]
    same(client, lambda g, *n: g.conv2d(*n, stride, padding, dilation, groups), want, x, w, b, tol=1e-4)


def test_pooling(client):
    x = R.standard_normal((1, 2, 6, 6)).astype(np.float32)
    blocks = x.reshape(1, 2, 3, 2, 3, 2)
    same(client, lambda g, n: g.max_pool2d(n, 2), blocks.max((3, 5)), x)
    same(client, lambda g, n: g.avg_pool2d(n, 2), blocks.astype(np.float64).mean((3, 5)), x)


def test_half_floats_are_widened(client):
    x = (X * 100).astype(np.float16)
    same(client, lambda g, n: g.softmax(n, 1), softmax(x.astype(np.float64), 1), x, tol=1e-3)
    same(client, lambda g, n: n.var(2), x.astype(np.float64).var(2), x, tol=2e-3 * 10000)


@pytest.mark.parametrize("build,text", [
    (lambda g, x: g.exp(g.cast(x, "i32")), "EXP of i32"),
    (lambda g, x: x + g.cast(x, "f64"), "ADD of f32 and f64"),
    (lambda g, x: x + g.constant(np.zeros(7, np.float32)), "[3, 4, 5] and [7] do not broadcast"),
    (lambda g, x: x.reshape(7, 9), "cannot reshape [3, 4, 5] to [7, 9]"),
    (lambda g, x: x.sum(3), "axis 3 of a tensor of rank 3"),
    (lambda g, x: x.sum((0, 0)), "an axis occurs twice"),
    (lambda g, x: x @ x, "5 and 4 elements to sum over"),
    (lambda g, x: x[5], "index 5 of an axis of 3 elements"),
    (lambda g, x: g.cat([x, x[:, :2]], 0), "cat of [3, 4, 5] and [3, 2, 5]"),
    (lambda g, x: g.pad(x, [(0, 0)]), "1 paddings of a tensor of rank 3"),
    (lambda g, x: g.window(x, 1, 9), "window of size 9"),
    (lambda g, x: g.where(x, x, x), "condition"),
    (lambda g, x: g.gather(x, x), "indices of f32"),
    (lambda g, x: g.einsum("ij,jk", x, x), "'ij' of a tensor of rank 3"),
    (lambda g, x: g.topk(x, 9), "the 9 largest of 5"),
    (lambda g, x: g.scatter(x, x.cast("i32")[0, 0], x, how="sub"), "how='sub'"),
    (lambda g, x: kiln.Graph().neg(x), "another graph"),
])
def test_mistakes_are_named_where_they_are_made(build, text):
    g = kiln.Graph()
    with pytest.raises(kiln.Error) as e:
        build(g, g.param("x", "f32", (3, 4, 5)))
    assert e.value.code == "INVALID_ARGUMENT" and text in e.value.message, e.value.message


def test_sizes_are_polynomials():
    g = kiln.Graph()
    n, m = g.dim("n", 1, 64, multiple=8), g.dim("m")
    assert (n + 1) * (n - 1) == n * n - 1
    assert (n * 8) // 8 == n and (n * 8) % 4 == 0 and n - n == 0 and n // n == 1
    assert isinstance(n + 0 - n + 3, int)
    x = g.param("x", "f32", (n, m, 4))
    assert x.reshape(-1, 4).shape == (n * m, 4)
    assert g.flatten(x).shape == (n * m * 4,)
    assert g.cat([x, x], 0).shape == (2 * n, m, 4)
    assert (x.sum(1, keepdims=True) + x).shape == (n, m, 4)
    assert x[1:].shape == (n - 1, m, 4)
    assert repr(n * 2 + 1) in ("2*n + 1", "1 + 2*n")
    with pytest.raises(kiln.Error):
        g.dim("n", 1, 65)
    message = g._proto
    assert [(d.name, d.min, d.max, d.multiple) for d in message.params[0].dims[:1]] == [("n", 1, 64, 8)]
    assert len(message.sizes) > 0 and message.nodes[-1].sizes
