"""Storage dtypes through the whole stack, against ml_dtypes: every code read, rounding at and beside every midpoint, arithmetic, movement.

NaN has one pattern in what Kiln writes, so NaNs are compared as NaN; e8m0 has no zero, and 0 becomes its smallest value."""
import warnings

import numpy as np
import pytest

import kiln

ml_dtypes = pytest.importorskip("ml_dtypes")

FLOATS = ["float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz", "float8_e8m0fnu", "float4_e2m1fn"]
INTS = ["int4", "uint4", "int2", "uint2"]


def dtype(name):
    return np.dtype(getattr(ml_dtypes, name, None) or name)


def bits(name):
    return {"float4_e2m1fn": 4, "int4": 4, "uint4": 4, "int2": 2, "uint2": 2}.get(name, 8)


def codes(name):
    return np.arange(1 << bits(name), dtype=np.uint8).view(dtype(name))


def run(client, graph, **inputs):
    return client.compile(graph).run(inputs)


def cast_graph(source, target, n):
    g = kiln.Graph()
    g.output("y", g.cast(g.param("x", source, (n,)), target))
    return g


def same(got, want):
    with np.errstate(all="ignore"):
        got, want = got.astype(np.float64), want.astype(np.float64)
    return ((got == want) & (np.signbit(got) == np.signbit(want))) | (np.isnan(got) & np.isnan(want))


def assert_same(x, got, want):
    wrong = np.flatnonzero(~same(got, want))
    assert not len(wrong), [(x[k], got[k], want[k]) for k in wrong[:5]]


@pytest.mark.parametrize("target", ["float32", "float16", "bfloat16", "float64"])
@pytest.mark.parametrize("name", FLOATS + INTS)
def test_every_code_reads_as_ml_dtypes_says(client, name, target):
    x = codes(name)
    with np.errstate(all="ignore"):
        want = x.astype(np.float32).astype(dtype(target))
    assert_same(x, run(client, cast_graph(name, target, len(x)), x=x)["y"], want)


def interesting(name, source):
    """Every value of the format, every midpoint, their neighbours in the source dtype, and specials."""
    with np.errstate(all="ignore"):
        v = np.unique(codes(name).astype(np.float64))
        v = v[np.isfinite(v)]
        top = v[-1]
        v = np.concatenate([v, (v[1:] + v[:-1]) / 2, [top + (v[-1] - v[-2]) / 2, top * 1.5, 1e30, -1e30, np.inf, -np.inf, np.nan, 0.0, -0.0]])
        x = v.astype(dtype(source))
        if source == "bfloat16":
            return x
        return np.concatenate([x, np.nextafter(x, dtype(source).type(np.inf)), np.nextafter(x, dtype(source).type(-np.inf))])


def rounded(name, x):
    """astype with one rounding: ml_dtypes goes from f64 through f32, so f64 is rounded to odd first."""
    if x.dtype == np.float64:
        f = x.astype(np.float32)
        b = f.view(np.uint32) - (np.abs(f.astype(np.float64)) > np.abs(x)).astype(np.uint32)
        x = (b | (f.astype(np.float64) != x).astype(np.uint32)).view(np.float32)
    want = x.astype(dtype(name))
    if name == "float8_e8m0fnu":
        want = np.where(x == 0, codes(name)[0], want)
    return want


@pytest.mark.parametrize("source", ["float32", "float16", "bfloat16", "float64"])
@pytest.mark.parametrize("name", FLOATS)
def test_rounding_is_to_the_nearest_even(client, name, source):
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        x = interesting(name, source)
        want = rounded(name, x)
    got = run(client, cast_graph(source, name, len(x)), x=x)["y"]
    if name == "float8_e8m0fnu":  # ml_dtypes rounds subnormals up, all of them
        tiny = (x > 2.0**-127) & (x < 1.5 * 2.0**-127)
        assert (got[tiny] == codes(name)[0]).all()
        got, want, x = got[~tiny], want[~tiny], x[~tiny]
    if name == "float4_e2m1fn":  # NaN becomes a zero
        got, want, x = got[~np.isnan(x)], want[~np.isnan(x)], x[~np.isnan(x)]
    assert_same(x, got, want)


@pytest.mark.parametrize("name", INTS)
def test_integers_wrap_and_floats_saturate(client, name):
    info = ml_dtypes.iinfo(dtype(name))
    x = np.arange(-300, 300, dtype=np.int32)
    got = run(client, cast_graph("int32", name, len(x)), x=x)["y"]
    np.testing.assert_array_equal(got.astype(np.int32), x.astype(dtype(name)).astype(np.int32))
    x = np.array([-np.inf, -100, -2.9, -1.5, -0.5, 0.99, 1.5, 2.9, 7.5, 15.9, 1e9, np.inf, np.nan], np.float32)
    got = run(client, cast_graph("float32", name, len(x)), x=x)["y"]
    want = np.trunc(np.clip(np.nan_to_num(x, nan=0.0), int(info.min), int(info.max)))
    np.testing.assert_array_equal(got.astype(np.float32), want)


@pytest.mark.parametrize("op", ["add", "sub", "mul", "max", "min"])
@pytest.mark.parametrize("name", FLOATS[:4] + FLOATS[5:] + INTS)
def test_arithmetic_of_all_pairs(client, name, op):
    x = codes(name)
    a, b = np.repeat(x, len(x)), np.tile(x, len(x))
    g = kiln.Graph()
    g.output("y", getattr(g, op)(g.param("a", name, (len(a),)), g.param("b", name, (len(b),))))
    got = run(client, g, a=a, b=b)["y"]
    wide = np.float32 if name in FLOATS else np.int32
    with np.errstate(all="ignore"):
        fn = {"add": np.add, "sub": np.subtract, "mul": np.multiply, "max": np.maximum, "min": np.minimum}[op]
        want = fn(a.astype(wide), b.astype(wide)).astype(dtype(name))
    got, want = got.astype(np.float64), want.astype(np.float64)
    both_zero = (got == 0) & (want == 0)  # numpy's maximum does not order zeros, Kiln's does
    assert (same(got, want) | (both_zero if op in ("max", "min") else False)).all()


@pytest.mark.parametrize("name", FLOATS + INTS)
def test_movement_keeps_bits_and_sums_are_rounded_once(client, name):
    rng = np.random.default_rng(1)
    x = codes(name)[rng.integers(0, 1 << bits(name), 60)].reshape(5, 12)
    g = kiln.Graph()
    p = g.param("x", name, (5, 12))
    g.output("t", g.flip(g.permute(p, [1, 0]), [0]))
    g.output("g", g.gather(p, g.constant(np.array([4, 0, 9], np.int64)), 0))
    g.output("s", p.sum(axis=1))
    got = run(client, g, x=x)
    f32 = [v.astype(np.float32) for v in (x, got["t"], got["g"], got["s"])]
    np.testing.assert_array_equal(f32[1], f32[0].T[::-1])
    np.testing.assert_array_equal(f32[2][:2], f32[0][[4, 0]])
    assert (f32[2][2] == (2.0**-127 if name == "float8_e8m0fnu" else 0)).all()
    with np.errstate(all="ignore"):
        wide = np.float32 if name in FLOATS else np.int64
        want = x.astype(wide).sum(axis=1).astype(dtype(name)).astype(np.float32)
    np.testing.assert_array_equal(f32[3], want)


def test_bits_stand_for_values_without_ml_dtypes(client):
    g = kiln.Graph()
    x = g.param("x", "f8e5m2", (3,))
    g.output("y", g.cast(x + g.constant(np.array([0x3C, 0x3C, 0x3C], np.uint8), "f8e5m2"), "f32"))
    np.testing.assert_array_equal(run(client, g, x=np.array([0, 0x3C, 0xBC], np.uint8))["y"], [1, 2, 0])


# -- ONNX ----------------------------------------------------------------------------------------

ONNX_TYPES = {"float8_e4m3fn": 17, "float8_e4m3fnuz": 18, "float8_e5m2": 19, "float8_e5m2fnuz": 20, "uint4": 21, "int4": 22,
              "float4_e2m1fn": 23, "float8_e8m0fnu": 24, "uint2": 25, "int2": 26}


def cast_of_initializer(tensor):
    """A model that casts one initializer to float."""
    from onnx import helper

    y = helper.make_tensor_value_info("y", 1, list(tensor.dims))
    node = helper.make_node("Cast", [tensor.name], ["y"], to=1)
    graph = helper.make_graph([node], "g", [], [y], [tensor])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 25)]).SerializeToString()


@pytest.mark.parametrize("form", ["raw", "typed"])
@pytest.mark.parametrize("name", FLOATS + INTS)
def test_onnx_data_is_unpacked(client, name, form):
    """Counts that leave a packed byte half full."""
    import onnx
    from onnx import numpy_helper

    for n in (1, 3, 4, 7, 33):
        x = np.resize(codes(name), n)
        raw = numpy_helper.from_array(x, "x")
        assert raw.data_type == ONNX_TYPES[name]
        if form == "typed":
            t = onnx.TensorProto(name="x", data_type=raw.data_type, dims=[n], int32_data=list(raw.raw_data))
        else:
            t = raw
        got = client.compile(cast_of_initializer(t)).run({})["y"]
        assert_same(x, got, x.astype(np.float32))


@pytest.mark.parametrize("name", ["int4", "uint2", "float8_e5m2", "float4_e2m1fn"])
def test_onnx_data_of_another_length_is_refused(client, name):
    import onnx
    from onnx import numpy_helper

    right = numpy_helper.from_array(np.resize(codes(name), 9), "x").raw_data
    for data in (right[:-1], right + b"\0", b""):
        for form in ({"raw_data": data}, {"int32_data": list(data)}):
            t = onnx.TensorProto(name="x", data_type=ONNX_TYPES[name], dims=[9], **form)
            with pytest.raises(kiln.Error, match="expected") as e:
                client.compile(cast_of_initializer(t))
            assert e.value.code == "INVALID_ARGUMENT"


def one_node(op, feeds, out_type, shape, **attributes):
    from onnx import helper

    infos = [helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape) for n, a in feeds.items()]
    node = helper.make_node(op, list(feeds), ["y"], **attributes)
    graph = helper.make_graph([node], "g", infos, [helper.make_tensor_value_info("y", out_type, shape)])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 25)])


def by_kiln_and_reference(client, model, feeds):
    from onnx.reference import ReferenceEvaluator

    return client.compile(model.SerializeToString()).run(feeds)["y"], ReferenceEvaluator(model).run(None, feeds)[0]


@pytest.mark.parametrize("axis,block", [(1, 0), (1, 4), (0, 2), (0, 3)])
@pytest.mark.parametrize("name", FLOATS[:4] + FLOATS[5:] + INTS)
def test_onnx_quantize_and_dequantize(client, name, axis, block):
    """Per axis and blocked, against onnx's reference."""
    rng = np.random.default_rng(5)
    x = (rng.standard_normal((6, 8)) * 4).astype(np.float32)
    shape = tuple(d // block if k == axis else d for k, d in enumerate(x.shape)) if block else (x.shape[axis],)
    scale = rng.uniform(0.5, 1.5, shape).astype(np.float32)
    zero = np.zeros(shape, dtype(name)) if name in FLOATS else rng.integers(0, 2, shape).astype(dtype(name))
    feeds = {"x": x, "s": scale, "z": zero}
    got, want = by_kiln_and_reference(client, one_node("QuantizeLinear", feeds, ONNX_TYPES[name], [6, 8], axis=axis, block_size=block), feeds)
    assert_same(x.ravel(), got.ravel(), want.ravel())
    feeds = {"x": got, "s": scale, "z": zero}
    got, want = by_kiln_and_reference(client, one_node("DequantizeLinear", feeds, 1, [6, 8], axis=axis, block_size=block), feeds)
    np.testing.assert_allclose(got, want, rtol=1e-6)


@pytest.mark.parametrize("mode", ["up", "down", "nearest"])
@pytest.mark.parametrize("saturate", [0, 1])
def test_onnx_cast_to_e8m0(client, mode, saturate):
    from onnx.numpy_helper import to_float8e8m0

    x = np.array([0.0, -0.0, 1, 1.25, 1.5, 1.75, 2, 3, 2.0**-127, 1.5 * 2.0**-127, 2.0**-149, 1.9 * 2.0**127, 2.0**127, -3, np.inf, np.nan], np.float32)
    model = one_node("Cast", {"x": x}, 24, [16], to=24, round_mode=mode, saturate=saturate)
    got = client.compile(model.SerializeToString()).run({"x": x})["y"]
    want = to_float8e8m0(x, bool(saturate), mode)
    np.testing.assert_array_equal(got.view(np.uint8), want.view(np.uint8))
