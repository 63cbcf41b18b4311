"""Random ops, native and ONNX's: which runs repeat, and whether the numbers have their distributions.

All statistics are of fixed seeds, so a test passes always or never; their limits are 4 sigma or p = 1e-4."""
import math

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import kiln

N = 200_000


def draw(client, make, seed=1, **options):
    g = kiln.Graph()
    g.output("y", make(g))
    return client.compile(g, kiln.Options(**options) if options else None).run({}, seed=seed)["y"]


def kolmogorov_smirnov(x, cdf):
    """The p-value of the two-sided test, by Kolmogorov's limit."""
    x = np.sort(np.asarray(x, np.float64))
    n, f = len(x), cdf(x)
    d = max((np.arange(1, n + 1) / n - f).max(), (f - np.arange(n) / n).max())
    t = d * math.sqrt(n)
    return 2 * sum((-1) ** (k - 1) * math.exp(-2 * k * k * t * t) for k in range(1, 50)) if t > 0.2 else 1.0


def normal_cdf(x):
    return 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


def assert_uniform(u):
    assert u.min() >= 0 and u.max() < 1
    assert abs(u.mean() - 0.5) < 4 * math.sqrt(1 / 12 / len(u))
    assert abs(u.var() - 1 / 12) < 4 * math.sqrt(1 / 180 / len(u))
    assert kolmogorov_smirnov(u, lambda x: x) > 1e-4


def assert_normal(z):
    assert abs(z.mean()) < 4 / math.sqrt(len(z))
    assert abs(z.var() - 1) < 4 * math.sqrt(2 / len(z))
    assert abs((z**3).mean()) < 4 * math.sqrt(15 / len(z)) and abs((z**4).mean() - 3) < 4 * math.sqrt(96 / len(z))
    assert kolmogorov_smirnov(z, normal_cdf) > 1e-4


@pytest.mark.parametrize("seed", [0, 1, 2**64 - 1])
@pytest.mark.parametrize("dtype", ["f32", "f64"])
def test_uniform(client, dtype, seed):
    assert_uniform(draw(client, lambda g: g.rand((N,), dtype), seed).astype(np.float64))


@pytest.mark.parametrize("seed", [0, 1, 2**64 - 1])
@pytest.mark.parametrize("dtype", ["f32", "f64"])
def test_normal(client, dtype, seed):
    assert_normal(draw(client, lambda g: g.randn((N,), dtype), seed).astype(np.float64))


@pytest.mark.parametrize("dtype,digits", [("f16", 11), ("bf16", 8)])
def test_small_floats_are_uniform_on_their_grid(client, dtype, digits):
    u = draw(client, lambda g: g.rand((N,), dtype)).astype(np.float64)
    k = u * 2**digits
    assert (k == np.floor(k)).all() and k.max() < 2**digits
    counts = np.bincount(k.astype(int), minlength=2**digits)
    chi2 = ((counts - N / 2**digits) ** 2 / (N / 2**digits)).sum()
    assert abs(chi2 - 2**digits + 1) < 4 * math.sqrt(2 * 2**digits)
    z = draw(client, lambda g: g.randn((N,), dtype)).astype(np.float64)
    assert abs(z.mean()) < 0.02 and abs(z.std() - 1) < 0.02


def test_bits_have_no_bias_and_streams_do_not_correlate(client):
    g = kiln.Graph()
    g.output("a", g.random_bits((N,), "u32"))
    g.output("b", g.random_bits((N,), "u32"))
    r = client.compile(g).run({}, seed=9)
    for bit in range(32):
        ones = int((r["a"] >> np.uint32(bit) & np.uint32(1)).sum())
        assert abs(ones - N / 2) < 4.5 * math.sqrt(N) / 2
    assert np.array_equal(r["a"], r["b"]) is False
    a, b = (r[k].astype(np.float64) / 2**32 for k in "ab")
    assert abs(np.corrcoef(a, b)[0, 1]) < 4 / math.sqrt(N)
    assert abs(np.corrcoef(a[:-1], a[1:])[0, 1]) < 4 / math.sqrt(N)


def test_randint_and_bernoulli(client):
    i = draw(client, lambda g: g.randint(-3, 7, (N,)))
    values, counts = np.unique(i, return_counts=True)
    assert list(values) == list(range(-3, 7))
    assert ((counts - N / 10) ** 2 / (N / 10)).sum() < 33.7  # chi square of 9 degrees, p = 1e-4
    b = draw(client, lambda g: g.bernoulli(0.3, (N,)))
    assert b.dtype == np.bool_ and abs(b.mean() - 0.3) < 4 * math.sqrt(0.21 / N)
    wide = draw(client, lambda g: g.randint(-2**63, 2**63 - 1, (1000,), "i64"))
    assert wide.min() < -2**62 and wide.max() > 2**62


def test_runs_differ_and_seeds_repeat(client):
    g = kiln.Graph()
    g.output("y", g.rand((64,)))
    exe, again = client.compile(g), client.compile(g, kiln.Options(no_cache=True))
    runs = [exe.run({})["y"] for _ in range(4)]
    assert len({r.tobytes() for r in runs}) == 4
    assert np.array_equal(exe.run({}, seed=5)["y"], again.run({}, seed=5)["y"])
    assert not np.array_equal(exe.run({}, seed=5)["y"], exe.run({}, seed=6)["y"])
    first, second = (client.compile(g, kiln.Options(seed=8)) for _ in range(2))
    a, b = [first.run({})["y"] for _ in range(3)], [second.run({})["y"] for _ in range(3)]
    np.testing.assert_array_equal(a, b)
    assert len({x.tobytes() for x in a}) == 3
    assert np.array_equal(exe.run({}, seed=8)["y"], a[0])


def test_keys(client):
    g = kiln.Graph()
    key = g.random_key()
    g.output("a", g.rand((32,), key=g.random_fold(key, 1)))
    g.output("b", g.rand((32,), key=g.random_fold(key, 1)))
    g.output("c", g.rand((32,), key=g.random_fold(key, 2)))
    g.output("d", g.rand((32,), key=7))
    exe = client.compile(g)
    assert exe.inputs == []
    r, s = exe.run({}), exe.run({})
    assert np.array_equal(r["a"], r["b"]) and not np.array_equal(r["a"], r["c"])
    assert not np.array_equal(r["a"], s["a"]) and np.array_equal(r["d"], s["d"])


def test_a_draw_is_one_kernel_also_inside_a_computation(client):
    g = kiln.Graph()
    x = g.param("x", "f32", (300, 40))
    g.output("y", g.tanh(x + g.randn((300, 40))) * g.cast(g.bernoulli(0.5, (300, 40)), "f32"))
    assert client.compile(g).report()["kernels"] == 1


def test_the_reserved_input_is_refused(client):
    g = kiln.Graph()
    g.output("y", g.param(".random", "u32", (2,)) + g.random_bits((2,)))
    with pytest.raises(kiln.Error, match="reserved") as e:
        client.compile(g)
    assert e.value.code == "INVALID_ARGUMENT"


# -- ONNX ----------------------------------------------------------------------------------------


def model(op, inputs, outputs, opset=22, **attributes):
    node = helper.make_node(op, [n for n, *_ in inputs], [n for n, *_ in outputs], **attributes)
    infos = [[helper.make_tensor_value_info(n, t, s) for n, t, s in side] for side in (inputs, outputs)]
    return helper.make_model(helper.make_graph([node], "g", *infos), opset_imports=[helper.make_opsetid("", opset)])


F = TensorProto.FLOAT


def test_onnx_normal_and_uniform(client):
    exe = client.compile(model("RandomNormal", [], [("y", F, [N])], shape=[N], mean=3.0, scale=2.0))
    a, b = exe.run({}, seed=1)["y"], exe.run({})["y"]
    assert not np.array_equal(a, b)
    assert_normal((a.astype(np.float64) - 3) / 2)
    u = client.compile(model("RandomUniform", [], [("y", TensorProto.DOUBLE, [N])], shape=[N], low=-2.0, high=4.0,
                             dtype=TensorProto.DOUBLE)).run({}, seed=1)["y"]
    assert_uniform((u + 2) / 6)


@pytest.mark.parametrize("op", ["RandomNormalLike", "RandomUniformLike"])
def test_onnx_like_and_seed(client, op):
    m = model(op, [("x", F, [5, 7])], [("y", TensorProto.FLOAT16, [5, 7])], dtype=TensorProto.FLOAT16, seed=3.5)
    x = np.zeros((5, 7), np.float32)
    a, b = (client.compile(m).run({"x": x})["y"] for _ in range(2))
    assert a.dtype == np.float16 and a.shape == (5, 7) and np.array_equal(a, b)
    other = model(op, [("x", F, [5, 7])], [("y", TensorProto.FLOAT16, [5, 7])], dtype=TensorProto.FLOAT16, seed=4.5)
    assert not np.array_equal(a, client.compile(other).run({"x": x})["y"])


def test_onnx_bernoulli(client):
    p = np.linspace(0, 1, 11, dtype=np.float32)
    exe = client.compile(model("Bernoulli", [("x", F, [10_000, 11])], [("y", TensorProto.INT32, [10_000, 11])], dtype=TensorProto.INT32))
    y = exe.run({"x": np.broadcast_to(p, (10_000, 11))}, seed=2)["y"]
    assert y.dtype == np.int32 and set(np.unique(y)) <= {0, 1}
    assert (np.abs(y.mean(axis=0) - p) <= 4 * np.sqrt(p * (1 - p) / 10_000)).all()


def test_onnx_multinomial(client):
    p = np.array([[0.1, 0.2, 0.0, 0.7], [0.25, 0.25, 0.25, 0.25]])
    with np.errstate(divide="ignore"):
        logits = (np.log(p) + 5).astype(np.float32)
    exe = client.compile(model("Multinomial", [("x", F, [2, 4])], [("y", TensorProto.INT64, [2, 20_000])], sample_size=20_000,
                               dtype=TensorProto.INT64))
    y = exe.run({"x": logits}, seed=4)["y"]
    for row in range(2):
        share = np.bincount(y[row], minlength=4) / 20_000
        assert (np.abs(share - p[row]) <= 4 * np.sqrt(p[row] * (1 - p[row]) / 20_000)).all()


@pytest.mark.parametrize("opset", [6, 13])
def test_onnx_dropout_in_training(client, opset):
    x = np.random.default_rng(0).uniform(1, 2, (100, 200)).astype(np.float32)
    outputs = [("y", F, [100, 200]), ("m", TensorProto.BOOL if opset > 6 else F, [100, 200])]
    inputs = [("x", F, [100, 200])] + ([("r", F, []), ("t", TensorProto.BOOL, [])] if opset > 6 else [])
    exe = client.compile(model("Dropout", inputs, outputs, opset, **({"ratio": 0.25} if opset == 6 else {})))
    feeds = {"x": x} | ({"r": np.array(0.25, np.float32), "t": np.array(True)} if opset > 6 else {})
    r = exe.run(feeds, seed=6)
    mask = r["m"].astype(bool)
    assert abs(mask.mean() - 0.75) < 4 * math.sqrt(0.1875 / x.size)
    np.testing.assert_allclose(r["y"], np.where(mask, x / 0.75, 0), rtol=1e-6)
    if opset > 6:
        off = exe.run(feeds | {"t": np.array(False)}, seed=6)
        np.testing.assert_array_equal(off["y"], x)
        assert off["m"].all()


def loop_model():
    """y[i] = a draw of iteration i; the number of iterations is an input."""
    body = helper.make_graph(
        [helper.make_node("RandomUniform", [], ["u"], shape=[4]), helper.make_node("Identity", ["c"], ["c2"]),
         helper.make_node("Add", ["s", "u"], ["s2"])], "body",
        [helper.make_tensor_value_info("i", TensorProto.INT64, []), helper.make_tensor_value_info("c", TensorProto.BOOL, []),
         helper.make_tensor_value_info("s", F, [4])],
        [helper.make_tensor_value_info("c2", TensorProto.BOOL, []), helper.make_tensor_value_info("s2", F, [4]),
         helper.make_tensor_value_info("u", F, [4])])
    node = helper.make_node("Loop", ["n", "", "s0"], ["s", "y"], body=body)
    graph = helper.make_graph([node], "g", [helper.make_tensor_value_info("n", TensorProto.INT64, []), helper.make_tensor_value_info("s0", F, [4])],
                              [helper.make_tensor_value_info("s", F, [4]), helper.make_tensor_value_info("y", F, [None, 4])])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)])


def test_iterations_of_a_loop_draw_other_numbers(client):
    exe = client.compile(loop_model().SerializeToString())
    feeds = {"n": np.array(20, np.int64), "s0": np.zeros(4, np.float32)}
    a, b, c = exe.run(feeds, seed=3), exe.run(feeds, seed=3), exe.run(feeds, seed=4)
    assert a["y"].shape == (20, 4) and len(np.unique(a["y"])) == 80
    np.testing.assert_allclose(a["s"], a["y"].sum(axis=0), rtol=1e-5)
    np.testing.assert_array_equal(a["y"], b["y"])
    assert not np.isin(a["y"], c["y"]).any()
    np.testing.assert_array_equal(exe.run(feeds | {"n": np.array(5, np.int64)}, seed=3)["y"], a["y"][:5])
