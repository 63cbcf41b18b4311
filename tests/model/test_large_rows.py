"""Kernels whose heuristic schedule depends on sizes that random graphs do not draw: transposes in blocks, many columns, pairs of rows."""
import ml_dtypes
import numpy as np
import pytest

import kiln

NAMES = {np.float32: "f32", np.float64: "f64", ml_dtypes.bfloat16: "bf16", np.uint8: "u8", np.int64: "i64"}


def values(dtype, shape):
    r = np.random.default_rng(0)
    return (r.integers(0, 200, shape) if np.dtype(dtype).kind in "iu" else r.standard_normal(shape)).astype(dtype)


def run(client, dtype, shape, make):
    g = kiln.Graph()
    g.output("y", make(g, g.param("x", NAMES[dtype], shape)))
    x = values(dtype, shape)
    return x, np.asarray(client.compile(g)({"x": x})["y"])


@pytest.mark.parametrize("dtype", NAMES)
@pytest.mark.parametrize("shape", [(2100, 1100), (2048, 512), (31, 257), (16, 16), (5, 3)])
def test_transposes(client, dtype, shape):
    x, y = run(client, dtype, shape, lambda g, x: x.permute(1, 0))
    np.testing.assert_array_equal(y, x.T)


@pytest.mark.parametrize("shape", [(2100, 1030), (257, 259)])
def test_transposes_of_what_is_computed(client, shape):
    x, y = run(client, np.float32, shape, lambda g, x: x.permute(1, 0) * 2.0 + x.sum(axis=1))
    np.testing.assert_allclose(y, x.T * 2 + x.astype(np.float64).sum(1), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("shape,axis", [((300, 1024), 0), ((70, 1000), 0), ((5, 33, 768), 1), ((40, 250), 0), ((9, 2048), 0)])
def test_many_columns(client, shape, axis):
    x, y = run(client, np.float32, shape, lambda g, x: x.sum(axis=axis))
    np.testing.assert_allclose(y, x.astype(np.float64).sum(axis), rtol=1e-4, atol=1e-4)
    x, y = run(client, np.float32, shape, lambda g, x: x.amax(axis=axis))
    np.testing.assert_array_equal(y, x.max(axis))


@pytest.mark.parametrize("shape", [(6, 130), (7, 1000), (4, 4096), (2, 3, 77)])
def test_pairs_of_rows(client, shape):
    x, y = run(client, np.float32, shape, lambda g, x: g.softmax(x, -1))
    e = np.exp(x.astype(np.float64) - x.max(-1, keepdims=True))
    np.testing.assert_allclose(y, e / e.sum(-1, keepdims=True), rtol=1e-5, atol=1e-7)
    x, y = run(client, np.float32, shape, lambda g, x: x.amax(axis=-1))
    np.testing.assert_array_equal(y, x.max(-1))


def test_a_pair_of_rows_of_which_one_has_a_nan(client):
    g = kiln.Graph()
    x = g.param("x", "f32", (4, 512))
    g.output("most", x.amax(axis=1))
    g.output("least", x.amin(axis=1))
    v = values(np.float32, (4, 512))
    v[1, 300] = np.nan
    v[2, 511] = np.inf
    got = client.compile(g)({"x": v})
    np.testing.assert_array_equal(np.asarray(got["most"]), v.max(1))
    np.testing.assert_array_equal(np.asarray(got["least"]), v.min(1))
