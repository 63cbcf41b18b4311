"""The rules of docs/numerics.md, held on compiled code: special values, edges of integers, rounding.

Everything is asked for in one graph per topic, over arrays long enough for vectors and a remainder."""
import itertools

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import kiln

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")

INF, NAN = np.inf, np.nan
SPECIAL = [0.0, -0.0, 1.0, -1.0, 0.5, -0.5, 1.5, 2.5, -2.5, 3.0, -3.0, 1e-40, -1e-40, 1e30, -1e30, 7.25, INF, -INF, NAN]


def elementwise(client, make, *arrays):
    g = kiln.Graph()
    out = make(g, *(g.param(f"x{k}", a.dtype, a.shape) for k, a in enumerate(arrays)))
    g.output("y", out)
    return client.compile(g).run({f"x{k}": a for k, a in enumerate(arrays)})["y"]


def pairs(values, dtype):
    a = np.array(list(itertools.product(values, values)), dtype)
    return np.ascontiguousarray(a[:, 0]), np.ascontiguousarray(a[:, 1])


def assert_identical(got, want, *inputs):
    """Equal, with signs of zeros; NaN equals NaN."""
    assert got.dtype == want.dtype and got.shape == want.shape
    g, w = got.astype(np.float64), want.astype(np.float64)
    ok = ((g == w) & (np.signbit(g) == np.signbit(w))) | (np.isnan(g) & np.isnan(w))
    assert ok.all(), [(tuple(i[k] for i in inputs), got[k], want[k]) for k in np.flatnonzero(~ok.ravel())[:5]]


def onnx_run(client, op, arrays, outputs=1, opset=21, out_type=None, **attributes):
    names = [f"x{k}" for k in range(len(arrays))]
    kind = helper.np_dtype_to_tensor_dtype
    infos = [helper.make_tensor_value_info(n, kind(a.dtype), a.shape) for n, a in zip(names, arrays)]
    outs = [helper.make_tensor_value_info(f"y{k}", out_type or kind(arrays[0].dtype), None) for k in range(outputs)]
    graph = helper.make_graph([helper.make_node(op, names, [o.name for o in outs], **attributes)], "g", infos, outs)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    return client.compile(model.SerializeToString()).run(dict(zip(names, arrays)))["y0"]


# -- NaN -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16, ml_dtypes.bfloat16])
def test_max_and_min_propagate_nan_and_order_zeros(client, dtype):
    a, b = pairs(SPECIAL, dtype)
    for op, fn, zero in (("max", np.maximum, 0.0), ("min", np.minimum, -0.0)):
        want = fn(a.astype(np.float64), b.astype(np.float64))
        both = (a == 0) & (b == 0)
        signs = np.signbit(a.astype(np.float64)), np.signbit(b.astype(np.float64))
        minus = signs[0] & signs[1] if op == "max" else signs[0] | signs[1]
        want[both] = np.where(minus[both], -0.0, 0.0)
        assert_identical(elementwise(client, lambda g, x, y: getattr(g, op)(x, y), a, b), want.astype(dtype), a, b)


@pytest.mark.parametrize("op", ["cmplt", "cmple", "cmpeq", "cmpne"])
def test_comparisons_with_nan(client, op):
    a, b = pairs(SPECIAL, np.float32)
    fn = {"cmplt": np.less, "cmple": np.less_equal, "cmpeq": np.equal, "cmpne": np.not_equal}[op]
    np.testing.assert_array_equal(elementwise(client, lambda g, x, y: getattr(g, op)(x, y), a, b), fn(a, b))
    same = elementwise(client, lambda g, x: getattr(g, op)(x, x), a)
    np.testing.assert_array_equal(same, fn(a, a))


@pytest.mark.parametrize("n", [1, 7, 64, 1001])
def test_reductions_propagate_nan(client, n):
    rng = np.random.default_rng(n)
    x = rng.standard_normal((6, n)).astype(np.float32)
    x[1, n // 2] = NAN
    x[2, 0] = INF
    x[3, n - 1] = -INF
    x[4, 0], x[4, n - 1] = INF, NAN
    g = kiln.Graph()
    p = g.param("x", "f32", x.shape)
    g.output("max", p.amax(axis=1))
    g.output("min", p.amin(axis=1))
    r = client.compile(g).run({"x": x})
    assert_identical(r["max"], x.max(axis=1))
    assert_identical(r["min"], x.min(axis=1))
    for op, fn in (("ArgMax", np.argmax), ("ArgMin", np.argmin)):
        got = onnx_run(client, op, [x], out_type=TensorProto.INT64, axis=1, keepdims=0)
        np.testing.assert_array_equal(got, fn(x, axis=1))


def test_activations_of_special_values(client):
    x = np.array(SPECIAL + [100, -100, 1e4, -1e4, 88.8, -104.0], np.float32)
    d = x.astype(np.float64)
    want = {
        "Relu": np.maximum(d, 0),
        "Sigmoid": 1 / (1 + np.exp(-d)),
        "Tanh": np.tanh(d),
        "Softplus": np.logaddexp(0, d),
        "Softsign": d / (1 + np.abs(d)),
        "Exp": np.exp(d),
        "Erf": np.vectorize(__import__("math").erf)(d),
        "Elu": np.where(d > 0, d, np.expm1(np.minimum(d, 0))),
        "LeakyRelu": np.where(d < 0, d * np.float32(0.01), d),
        "Sqrt": np.sqrt(d),
        "Log": np.log(d),
    }
    want["Elu"][np.isnan(d)] = NAN
    for op, w in want.items():
        got = onnx_run(client, op, [x])
        np.testing.assert_array_equal(np.isnan(got), np.isnan(w), err_msg=op)
        np.testing.assert_allclose(got, w.astype(np.float32), rtol=1e-5, atol=1e-40, err_msg=op)


def test_softmax_of_special_values(client):
    rows = [[1, 2, 3, 4], [NAN, 1, 2, 3], [INF, 1, 2, 3], [-INF, 1, 2, 3], [-INF] * 4, [1e38, -1e38, 0, 1e38], [88, 89, -1000, 1000]]
    x = np.array(rows, np.float32)
    d = x.astype(np.float64)
    e = np.exp(d - d.max(axis=1, keepdims=True))
    for op, want in (("Softmax", e / e.sum(axis=1, keepdims=True)), ("LogSoftmax", d - d.max(axis=1, keepdims=True) - np.log(e.sum(axis=1, keepdims=True)))):
        got = onnx_run(client, op, [x], axis=1)
        np.testing.assert_array_equal(np.isnan(got), np.isnan(want))
        np.testing.assert_allclose(got, want.astype(np.float32), rtol=1e-5, atol=1e-30)


@pytest.mark.parametrize("n", [128, 1000, 4096])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_long_rows_of_special_values(client, dtype, n):
    """Rows of vectors, unrolled: a NaN or a zero in any lane, and exponentials that underflow, are subnormal, or are of what is masked."""
    rng = np.random.default_rng(n)
    x = rng.standard_normal((40, n)).astype(dtype)
    for row in range(16):
        x[row, (row * 61 + n // 3) % n] = (NAN, -NAN)[row % 2]
    x[16, 0], x[17, n - 1], x[18] = INF, INF, -INF
    x[19, : n - 1] = -INF
    x[20, ::2] = -INF
    x[21] = -np.linspace(0, 120, n)
    x[22] = -np.linspace(86, 110, n)
    x[22, n // 2] = 0
    x[23] = np.where(np.arange(n) % 2, -1e9, 1).astype(dtype)
    x[24], x[25] = 1e38, -1e38
    x[26] = -0.0
    x[27] = -0.0
    x[27, n // 2] = 0.0
    x[28] = 0.0
    x[28, n - 1] = -0.0
    d = x.astype(np.float64)
    e = np.exp(d - d.max(axis=1, keepdims=True))
    want = e / e.sum(axis=1, keepdims=True)
    got = onnx_run(client, "Softmax", [x], axis=1)
    np.testing.assert_array_equal(np.isnan(got), np.isnan(want))
    np.testing.assert_allclose(got, want.astype(dtype), rtol=2e-5, atol=1e-44)
    g = kiln.Graph()
    p = g.param("x", x.dtype, x.shape)
    g.output("max", p.amax(axis=1))
    g.output("min", p.amin(axis=1))
    r = client.compile(g).run({"x": x})
    zeros = {26: (True, True), 27: (False, True), 28: (False, True)}  # signs of maximum and minimum
    for name, fn, which in (("max", np.max, 0), ("min", np.min, 1)):
        np.testing.assert_array_equal(r[name].ravel(), fn(x, axis=1))
        for row, signs in zeros.items():
            assert np.signbit(r[name].ravel()[row]) == signs[which], (name, row)


@pytest.mark.parametrize("causal", [0, 1])
@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16])
def test_attention_of_special_values(client, dtype, causal):
    """Long rows go block by block, and blocks that are masked are left out: what is not finite in V must still show."""
    n = 256
    rng = np.random.default_rng(causal)
    q, k, v = (rng.standard_normal((1, 3, n, 16)).astype(dtype) for _ in range(3))
    v[0, 1, n - 1, 3] = INF  # behind the diagonal of nearly all rows: 0 times infinity
    v[0, 2, 7, 2] = NAN
    node = {"is_causal": causal}
    got = onnx_run(client, "Attention", [q, k, v], opset=23, **node).astype(np.float64)
    f = [a.astype(np.float64) for a in (q, k, v)]
    s = f[0] @ f[1].transpose(0, 1, 3, 2) / 4
    if causal:
        s = np.where(np.tril(np.ones((n, n), bool)), s, -INF)
    e = np.exp(s - s.max(axis=-1, keepdims=True))
    want = (e / e.sum(axis=-1, keepdims=True)) @ f[2]
    np.testing.assert_array_equal(np.isfinite(got), np.isfinite(want))
    np.testing.assert_array_equal(np.isnan(got[np.isfinite(f[2]).all(axis=-2, keepdims=True).repeat(n, -2)]), False)
    loose = 0.05 if dtype != np.float32 else 2e-5
    ok = np.isfinite(want)
    np.testing.assert_allclose(got[ok], want[ok], rtol=loose, atol=loose)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_nothing_is_simplified_that_floats_break(client, dtype):
    """x*0, x-x, x/x, x+0, 0-x, (x*a)*b, x/(1+x) and its derivative, each op rounded by itself."""
    x = np.array(SPECIAL + [1e38, -1e38, 3e-39, 2.0], dtype)
    one, zero = dtype(1), dtype(0)
    cases = [
        (lambda g, p: p * 0.0, x * zero),
        (lambda g, p: p - p, x - x),
        (lambda g, p: p / p, x / x),
        (lambda g, p: p + 0.0, x + zero),
        (lambda g, p: 0.0 - p, zero - x),
        (lambda g, p: (p * 1e30) * 1e-30, (x * dtype(1e30)) * dtype(1e-30)),
        (lambda g, p: g.recip(g.recip(p)), one / (one / x)),
        (lambda g, p: g.sqrt(p * p), np.sqrt(x * x)),
        (lambda g, p: p / (p + 1.0), x / (x + one)),
        (lambda g, p: g.recip((p + 1.0) * (p + 1.0)), one / ((x + one) * (x + one))),
        (lambda g, p: g.recip(p + 1.0) - p / ((p + 1.0) * (p + 1.0)), one / (x + one) - x / ((x + one) * (x + one))),
        (lambda g, p: g.where(p < 0.0, -p, p), np.where(x < 0, -x, x)),
    ]
    for make, want in cases:
        assert_identical(elementwise(client, make, x), want.astype(dtype), x)


# -- rounding ------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16, ml_dtypes.bfloat16])
def test_rounding_ops_keep_signs_and_halves_go_to_even(client, dtype):
    x = np.array(SPECIAL + [k / 2 for k in range(-9, 10)] + [0.49999997, -0.49999997, 2.0**23 - 0.5, 2.0**52 + 1], np.float64).astype(dtype)
    d = x.astype(np.float64)
    for op, want in (("round", np.rint(d)), ("floor", np.floor(d)), ("ceil", np.ceil(d)), ("trunc", np.trunc(d))):
        assert_identical(elementwise(client, lambda g, p: getattr(g, op)(p), x), want.astype(dtype), x)


def test_subnormals_are_kept(client):
    tiny = np.float32(2.0**-149)
    a = np.array([2.0**-126, 3 * tiny, tiny, -tiny, 2.0**-130, 1.5, 2.0**-100], np.float32)
    b = np.array([0.5, 0.5, 0.5, 1.0, 2.0**10, 2.0**-149, 2.0**-49], np.float32)
    assert_identical(elementwise(client, lambda g, x, y: x * y, a, b), a * b, a, b)
    assert_identical(elementwise(client, lambda g, x, y: x - y, a, -a), a + a, a)
    f16 = np.arange(1, 1024, dtype=np.uint16).view(np.float16)
    assert_identical(elementwise(client, lambda g, x: g.cast(x, "f32"), f16), f16.astype(np.float32), f16)
    assert_identical(elementwise(client, lambda g, x: x * 0.5, f16), f16 * np.float16(0.5), f16)
    got = elementwise(client, lambda g, x: g.exp(x), np.array([-100.0, -103.5], np.float32))
    np.testing.assert_allclose(got, np.exp(np.array([-100.0, -103.5])).astype(np.float32), rtol=0.3, atol=0)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("op", ["add", "sub", "mul", "div"])
def test_16_bit_arithmetic_is_rounded_once(client, dtype, op):
    rng = np.random.default_rng(3)
    a, b = (rng.integers(0, 1 << 16, 30_000, dtype=np.uint16).view(dtype) for _ in range(2))
    fn = {"add": np.add, "sub": np.subtract, "mul": np.multiply, "div": np.divide}[op]
    want = fn(a.astype(np.float32), b.astype(np.float32)).astype(dtype)  # 24 bits are enough: one rounding in effect
    assert_identical(elementwise(client, lambda g, x, y: getattr(g, op)(x, y), a, b), want, a, b)


@pytest.mark.parametrize("target", [np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("source", [np.float32, np.float64])
def test_narrowing_floats_is_rounded_once(client, source, target):
    grid = np.arange(0, 1 << 16, dtype=np.uint16).view(target).astype(np.float64)
    grid = np.unique(grid[np.isfinite(grid)])
    middle = (grid[1:] + grid[:-1]) / 2
    x = np.concatenate([middle, np.nextafter(middle, INF), np.nextafter(middle, -INF), [INF, -INF, NAN, 1e300, 65520, 65519.99]])
    x = x.astype(source)
    if source == np.float64:  # the exact answer by rounding to odd first
        f = x.astype(np.float32)
        bits = f.view(np.uint32) - (np.abs(f.astype(np.float64)) > np.abs(x)).astype(np.uint32)
        want = (bits | (f.astype(np.float64) != x).astype(np.uint32)).view(np.float32).astype(target)
    else:
        want = x.astype(target)
    assert_identical(elementwise(client, lambda g, p: g.cast(p, np.dtype(target)), x), want, x)


def test_sums_of_16_bit_floats_are_accumulated_in_f32(client):
    x = np.full((1, 4096), 1.0, np.float16)
    g = kiln.Graph()
    g.output("s", g.param("x", "f16", x.shape).sum(axis=1))
    assert client.compile(g).run({"x": x})["s"][0] == 4096  # in f16 it would stop at 2048


@pytest.mark.parametrize("target", ["float16", "bfloat16", "float32"])
@pytest.mark.parametrize("source", ["int64", "uint64", "int32"])
def test_integers_to_floats_are_rounded_once(client, source, target):
    """Beside every midpoint of neighbours, by exact integer arithmetic."""
    info, dt = np.iinfo(source), np.dtype(getattr(ml_dtypes, target, None) or target)
    digits = {"float16": 11, "bfloat16": 8, "float32": 24}[target]
    x = []
    for e in range(digits + 1, info.bits - (info.min < 0)):
        step = 1 << (e - digits)  # between neighbours at 2^e
        for k in (0, 1, 2, 3):
            middle = (1 << e) + k * step * 2 + step
            x += [s * v for v in (middle - 1, middle, middle + 1) for s in ((1, -1) if info.min < 0 else (1,)) if v <= info.max]
    x = np.array(x, source)

    def rounded(v):
        m, s = abs(int(v)), -1 if v < 0 else 1
        shift = max(m.bit_length() - digits, 0)
        q, r = m >> shift, m & ((1 << shift) - 1)
        q += 2 * r > 1 << shift or (2 * r == 1 << shift and q & 1 == 1) if shift else 0
        return s * float(q << shift)

    with np.errstate(over="ignore"):
        want = np.array([rounded(v) for v in x]).astype(dt)  # exact, or too large
    assert_identical(elementwise(client, lambda g, p: g.cast(p, target), x), want, x)


# -- conversion to integers --------------------------------------------------------------------------


@pytest.mark.parametrize("source", [np.float32, np.float64, np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("target", ["int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"])
def test_float_to_integer_truncates_and_saturates(client, source, target):
    info = np.iinfo(target)
    edge = [float(v) for v in (info.min, info.max, info.min / 2, info.max / 2)]
    x = np.array(SPECIAL + edge + [-0.9, 0.9, -1.9, 255.9, -128.9, 127.9] + [2 * e for e in edge], np.float64).astype(source)
    want = []
    for v in x.astype(np.float64):
        if np.isnan(v):
            want.append(0)
        elif np.isinf(v):
            want.append(info.max if v > 0 else info.min)
        else:
            want.append(min(max(int(v), int(info.min)), int(info.max)))
    got = elementwise(client, lambda g, p: g.cast(p, target), x)
    np.testing.assert_array_equal(got, np.array(want, dtype=target))


def test_anything_to_bool_is_not_zero(client):
    x = np.array(SPECIAL, np.float32)
    np.testing.assert_array_equal(elementwise(client, lambda g, p: g.cast(p, "bool"), x), x != 0)


# -- integers ----------------------------------------------------------------------------------------


def c_div(a, b):
    return 0 if b == 0 else abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)


def wrap(v, info):
    return (v - int(info.min)) % (1 << info.bits) + int(info.min)


@pytest.mark.parametrize("dtype", ["int8", "int16", "int32", "int64", "uint8", "uint32", "uint64"])
def test_integer_division_and_shifts_are_total(client, dtype):
    info = np.iinfo(dtype)
    values = sorted({int(v) for v in (info.min, info.min + 1, 0, 1, 2, 3, 7, info.bits - 1, info.bits, info.bits + 1, info.max - 1, info.max)}
                    | ({-1, -2, -7, -8} if info.min < 0 else set()))
    a, b = pairs(values, dtype)
    bits = info.bits

    def shl(x, y):
        return x << y if 0 <= y < bits else 0

    def shr(x, y):
        return x >> y if 0 <= y < bits else (-1 if x < 0 else 0)

    ops = {
        "div": c_div,
        "mod": lambda x, y: x - c_div(x, y) * y if y else 0,
        "floordiv": lambda x, y: x // y if y else 0,
        "floormod": lambda x, y: x % y if y else 0,
        "shl": shl, "shr": shr,
        "add": lambda x, y: x + y, "sub": lambda x, y: x - y, "mul": lambda x, y: x * y,
    }
    g = kiln.Graph()
    p, q = g.param("a", dtype, a.shape), g.param("b", dtype, b.shape)
    for name in ops:
        g.output(name, getattr(g, name)(p, q))
    g.output("neg", -p)
    g.output("abs", g.abs(p))
    r = client.compile(g).run({"a": a, "b": b})
    for name, fn in ops.items():
        want = [wrap(fn(int(x), int(y)), info) for x, y in zip(a, b)]
        np.testing.assert_array_equal(r[name], np.array(want, dtype), err_msg=name)
    np.testing.assert_array_equal(r["neg"], np.array([wrap(-int(x), info) for x in a], dtype))
    np.testing.assert_array_equal(r["abs"], np.array([wrap(abs(int(x)), info) for x in a], dtype))


# -- pow and mod -------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_pow_and_mod_at_the_corners(client, dtype):
    a, b = pairs(SPECIAL, dtype)
    want = np.power(a.astype(np.float64), b.astype(np.float64)).astype(dtype)
    got = elementwise(client, lambda g, x, y: g.pow(x, y), a, b)
    np.testing.assert_array_equal(np.isnan(got), np.isnan(want))
    np.testing.assert_allclose(got, want, rtol=1e-5 if dtype == np.float32 else 1e-12)
    zero = want == 0
    np.testing.assert_array_equal(np.signbit(got[zero]), np.signbit(want[zero]))
    assert_identical(elementwise(client, lambda g, x, y: g.mod(x, y), a, b), np.fmod(a, b), a, b)


def test_pow_by_constants(client):
    x = np.array(SPECIAL, np.float32)
    for e in (0.0, 1.0, 2.0, 3.0, 0.5, -1.0, -0.5, 1.5):
        want = np.power(x.astype(np.float64), np.full(len(x), e)).astype(np.float32)  # a scalar 0.5 would be numpy's sqrt
        got = elementwise(client, lambda g, p: g.pow(p, e), x)
        np.testing.assert_array_equal(np.isnan(got), np.isnan(want), err_msg=str(e))
        np.testing.assert_allclose(got, want, rtol=1e-5, err_msg=str(e))


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_argmax_and_softmax_of_16_bit_floats_with_nan(client, dtype):
    x = np.array([[1, NAN, 3], [NAN, NAN, 1], [1, 5, 2]], np.float32).astype(dtype)
    got = onnx_run(client, "ArgMax", [x], out_type=TensorProto.INT64, axis=1, keepdims=0)
    np.testing.assert_array_equal(got, [1, 0, 1])
    assert np.isnan(onnx_run(client, "Softmax", [x], axis=1)[:2].astype(np.float32)).all()


# -- Winograd -------------------------------------------------------------------------------------

def conv_3x3(x: np.ndarray, w: np.ndarray) -> np.ndarray:
    """In f64, with a border of zeros."""
    n, _, h, width = x.shape
    padded = np.pad(x.astype(np.float64), ((0, 0), (0, 0), (1, 1), (1, 1)))
    y = np.zeros((n, w.shape[0], h, width))
    for i in range(3):
        for k in range(3):
            y += np.einsum("nchw,fc->nfhw", padded[:, :, i:i + h, k:k + width], w[:, :, i, k].astype(np.float64))
    return y


def conv_model(c: int, edge: int, w: np.ndarray) -> bytes:
    node = onnx.helper.make_node("Conv", ["x", "w"], ["y"], pads=[1, 1, 1, 1])
    info = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph([node], "g", [info("x", 1, [1, c, edge, edge])], [info("y", 1, [1, w.shape[0], edge, edge])],
                                   [onnx.numpy_helper.from_array(w, "w")])
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)]).SerializeToString()


@pytest.mark.parametrize("edge, tile, budget", [(28, 4, 5e-5), (14, 2, 5e-6)])
def test_winograd_with_fast_math(client, edge, tile, budget):
    """Errors are within what docs/numerics.md says; a NaN reaches its windows, or the tiles whose windows hold it, and no further."""
    rng = np.random.default_rng(0)
    c = 128
    x, w = rng.standard_normal((1, c, edge, edge), np.float32), rng.standard_normal((c, c, 3, 3), np.float32)
    model, want = conv_model(c, edge, w), conv_3x3(x, w)
    fast, exact = client.compile(model, kiln.Options(fast_math=True)), client.compile(model)
    assert fast.report()["graph_hash"] != exact.report()["graph_hash"]
    scale = np.abs(want).max()
    assert np.abs(exact.run({"x": x})["y"] - want).max() < 5e-6 * scale
    assert np.abs(fast.run({"x": x})["y"] - want).max() < budget * scale
    x[0, 3, 6, 7] = np.nan
    window, tiles = np.zeros((edge, edge), bool), np.zeros((edge, edge), bool)
    window[5:8, 6:9] = True
    for i, k in np.argwhere(window):
        tiles[i // tile * tile:(i // tile + 1) * tile, k // tile * tile:(k // tile + 1) * tile] = True
    np.testing.assert_array_equal(np.isnan(exact.run({"x": x})["y"]), np.broadcast_to(window, want.shape))
    nans = np.isnan(fast.run({"x": x})["y"])
    assert nans[..., window].all() and not nans[..., ~tiles].any()
