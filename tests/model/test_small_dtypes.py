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
