"""Updates that meet, prefix sums, the largest few and sorting: what random graphs do not draw, against loops and numpy."""
import ml_dtypes
import numpy as np
import pytest

import kiln
from one_node import compare, model

BF16 = ml_dtypes.bfloat16
COMBINE = {"none": lambda a, b: b, "add": np.add, "mul": np.multiply, "max": np.maximum, "min": np.minimum}


def scattered(data, at, updates, axis, how):
    """One update after the other, rounded each time."""
    out, n = data.copy(), data.shape[axis]
    with np.errstate(all="ignore"):
        for place in np.ndindex(*updates.shape):
            k = int(at[place])
            k += n if k < 0 else 0
            if 0 <= k < n:
                to = (*place[:axis], k, *place[axis + 1:])
                out[to] = COMBINE[how](out[to], updates[place])
    return out


def values(dtype, shape, seed):
    r = np.random.default_rng(seed)
    x = r.integers(-9, 9, shape) if np.dtype(dtype).kind in "iu" else r.standard_normal(shape) * 3
    return x.astype(dtype)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16, BF16, np.int64, np.int32, np.int8, np.uint8])
@pytest.mark.parametrize("how", COMBINE)
def test_elements_with_duplicates_and_negative_indices(client, how, dtype):
    data, updates = values(dtype, (5, 7, 4), 0), values(dtype, (3, 6, 4), 1)
    at = np.random.default_rng(2).integers(-7, 7, updates.shape)
    want = scattered(data, at, updates, 1, how)
    exact = dict(rtol=0, atol=0) if np.dtype(dtype) in (np.float32, np.float64) or np.dtype(dtype).kind in "iu" else dict(rtol=1e-2, atol=1e-2)
    compare(client, "ScatterElements", {"d": data, "i": at, "u": updates}, ["y"], want=[want], imports=18, axis=1, reduction=how, **exact)


@pytest.mark.parametrize("how", COMBINE)
def test_outside_of_the_axis_nothing_is_written(client, how):
    data, updates = values(np.float32, (4, 3), 3), values(np.float32, (6, 3), 4)
    at = np.array([[9, -5, 0], [4, 3, -4], [-1, 2, 1 << 40], [0, 0, 0], [0, 99, 3], [-99, 1, 0]])
    want = scattered(data, np.where((at < -4) | (at > 3), 99, at), updates, 0, how)
    compare(client, "ScatterElements", {"d": data, "i": at, "u": updates}, ["y"], want=[want], imports=18, axis=0, reduction=how, rtol=0, atol=0)
    pairs = np.array([[0, 0], [3, 2], [0, 3], [4, 0], [-1, -1], [-5, 0], [0, 0]])  # (0, 3) is not (1, 0)
    flat = np.where((pairs[:, 0] >= -4) & (pairs[:, 0] < 4) & (pairs[:, 1] >= -3) & (pairs[:, 1] < 3), pairs[:, 0] % 4 * 3 + pairs[:, 1] % 3, 99)
    u = values(np.float32, (7,), 5)
    want = scattered(data.reshape(-1), flat, u, 0, how).reshape(4, 3)
    compare(client, "ScatterND", {"d": data, "i": pairs, "u": u}, ["y"], want=[want], imports=18, reduction=how, rtol=0, atol=0)


@pytest.mark.parametrize("how", ["max", "min"])
def test_nan_stays(client, how):
    data = np.array([1, np.nan, 3, -0.0, 5], np.float32)
    at, u = np.array([0, 0, 1, 2, 2, 3, 4]), np.array([np.nan, 7, 2, 9, -9, 0.0, np.inf], np.float32)
    want = scattered(data, at, u, 0, how)
    got = compare(client, "ScatterElements", {"d": data, "i": at, "u": u}, ["y"], want=[want], imports=18, axis=0, reduction=how)
    assert np.isnan(np.asarray(got["y"])[:2]).all()


def test_nothing_to_write_and_nothing_to_write_to(client):
    x, none = values(np.float32, (4, 3), 6), np.zeros((0, 3), np.float32)
    compare(client, "ScatterElements", {"d": x, "i": np.zeros((0, 3), np.int64), "u": none}, ["y"], want=[x], imports=18, axis=0)
    compare(client, "ScatterElements", {"d": none, "i": np.zeros((2, 3), np.int64), "u": x[:2]}, ["y"], want=[none], imports=18, axis=0)
    compare(client, "ScatterND", {"d": x, "i": np.zeros((0, 1), np.int64), "u": none}, ["y"], want=[x], imports=18, reduction="add")


def test_data_that_others_read_stays(client):
    """The data may be computed where the result goes, unless somebody else wants it: two scatters of one value, and the value."""
    g = kiln.Graph()
    x, u = g.param("x", "f32", (6, 4)), g.param("u", "f32", (9, 4))
    at = g.constant(np.array([0, 5, 0, 3, 3, 9, -1, 2, 0]))
    y = g.exp(x)
    once = g.scatter(y, at, u, 0, "add")
    g.output("y", y)
    g.output("once", once)
    g.output("twice", g.scatter(once, at, u + once[0, 0], 0, "max"))
    g.output("other", g.index_add(y, at, u * 2.0))
    feed = {"x": values(np.float32, (6, 4), 7) / 4, "u": values(np.float32, (9, 4), 8)}
    got = client.compile(g)(feed)
    places = np.broadcast_to(np.array([0, 5, 0, 3, 3, 9, 99, 2, 0])[:, None], (9, 4))
    e = np.exp(feed["x"])
    first = scattered(e, places, feed["u"], 0, "add")
    want = {"y": e, "once": first, "twice": scattered(first, places, feed["u"] + first[0, 0], 0, "max"),
            "other": scattered(e, places, feed["u"] * 2, 0, "add")}
    for name, value in want.items():
        np.testing.assert_allclose(np.asarray(got[name]), value, rtol=1e-5, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("shape,axis", [((1000,), 0), ((70001,), 0), ((3, 400), 1), ((300, 33), 0), ((2, 130, 5), 1), ((0, 4), 1)])
@pytest.mark.parametrize("attrs", [{}, {"exclusive": 1}, {"reverse": 1}, {"exclusive": 1, "reverse": 1}])
def test_prefix_sums(client, shape, axis, attrs):
    x = np.random.default_rng(9).integers(-4, 5, shape).astype(np.float32)  # whose sums are exact
    y = np.flip(x, axis) if attrs.get("reverse") else x
    want = np.cumsum(y, axis, dtype=np.float32)
    want = want - y if attrs.get("exclusive") else want
    want = np.flip(want, axis) if attrs.get("reverse") else want
    compare(client, "CumSum", {"x": x, "axis": np.array(axis)}, ["y"], ["axis"], want=[want], rtol=0, atol=0, **attrs)


def order(x, largest):
    """Positions in order along the last axis; of equal elements the first, NaN as the largest."""
    key = np.where(np.isnan(x), np.inf, x) if x.dtype.kind == "f" else x.astype(object)
    extra = np.isnan(x) if x.dtype.kind == "f" else np.zeros(x.shape, bool)
    rows = [sorted(range(x.shape[-1]), key=lambda k: ((-int(e[k]), -r[k]) if largest else (int(e[k]), r[k])))
            for r, e in zip(key.reshape(-1, x.shape[-1]), extra.reshape(-1, x.shape[-1]))]
    return np.array(rows, np.int64).reshape(x.shape)


@pytest.mark.parametrize("largest", [1, 0])
@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.float64, np.int32, np.int64, np.uint8, np.uint32, np.uint64])
@pytest.mark.parametrize("rows,n,k", [(3, 300, 5), (1, 5000, 16), (2, 2100, 3), (2, 300, 200), (1, 3001, 3001), (1, 129, 1), (3, 1024, 1024), (1, 16384, 40), (1, 16400, 40),
                                      (3, 16, 16), (5, 17, 3), (4, 100, 100), (2, 65, 20)])
def test_top_k(client, rows, n, k, dtype, largest):
    r = np.random.default_rng(n + k)
    d = np.dtype(dtype)
    x = (r.integers(-40, 40, (rows, n)) / 4 if d.kind == "f" else r.integers(0 if d.kind == "u" else -90, 90, (rows, n))).astype(dtype)
    if d.kind == "f":
        x[:, ::97], x[:, 5::101], x[:, 7::103] = np.inf, -np.inf, -0.0
        x[0, 11] = np.nan
    else:
        x[:, ::97], x[:, 5::101] = np.iinfo(d).max, np.iinfo(d).min
    at = order(x, largest)[..., :k]
    compare(client, "TopK", {"x": x, "k": np.array([k])}, ["v", "i"], ["k"], want=[np.take_along_axis(x, at, -1), at], rtol=0, atol=0, largest=largest)


def test_wrong_shapes_are_named(client):
    x, u = values(np.float32, (4, 3), 0), values(np.float32, (2, 5), 1)
    with pytest.raises(kiln.Error) as e:
        client.compile(model("ScatterElements", {"d": x, "i": np.zeros((2, 5), np.int64), "u": u}, ["y"], imports=18, axis=0))
    assert e.value.code == "INVALID_ARGUMENT" and "[2, 5]" in e.value.message and "[4, 3]" in e.value.message
