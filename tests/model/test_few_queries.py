"""Few queries with many keys, every stage of the compiler for a GPU against numpy: sums cut into pieces, and what masks and NaN do to them."""
import ml_dtypes
import numpy as np
import onnx
import onnx.helper as h
import pytest
import serving
from onnx_suite import EvalRunner

DTYPES = {"f32": (np.float32, onnx.TensorProto.FLOAT, 2e-5), "f16": (np.float16, onnx.TensorProto.FLOAT16, 4e-3),
          "bf16": (ml_dtypes.bfloat16, onnx.TensorProto.BFLOAT16, 3e-2)}
PLAIN, MASKED, NOTHING, NAN = "plain", "masked", "nothing seen", "nan"
# dtype, queries, heads of queries and of keys, keys, depth, what is special
CASES = [("f32", 1, 2, 2, 1024, 32, PLAIN), ("f32", 1, 2, 2, 1024, 32, NOTHING), ("f32", 1, 1, 1, 641, 16, MASKED),
         ("bf16", 1, 4, 1, 2048, 32, PLAIN), ("bf16", 1, 4, 1, 1024, 32, NAN), ("f16", 3, 2, 1, 1536, 32, MASKED)]


@pytest.fixture(scope="module", params=["nvidia", "gpu"])
def stages(request):
    runner = EvalRunner(str(serving.BIN / "kiln-eval"), ["--stages", request.param])
    yield runner
    runner.close()


def model(dtype, q, kv, mask):
    ins = [("q", dtype, q), ("k", dtype, kv), ("v", dtype, kv)] + ([("mask", dtype, mask)] if mask else [])
    node = h.make_node("Attention", [name for name, _, _ in ins], ["y"])
    graph = h.make_graph([node], "g", [h.make_tensor_value_info(*i) for i in ins], [h.make_tensor_value_info("y", dtype, q)])
    return h.make_model(graph, opset_imports=[h.make_opsetid("", 23)], ir_version=10).SerializeToString()


def attention(q, k, v, mask):
    q, k, v = (x.astype(np.float64) for x in (q, k, v))
    groups = q.shape[1] // k.shape[1]
    k, v = (np.repeat(x, groups, axis=1) for x in (k, v))
    with np.errstate(all="ignore"):
        s = q @ k.swapaxes(-1, -2) / np.sqrt(q.shape[-1]) + mask
        e = np.exp(s - s.max(-1, keepdims=True))
        return e / e.sum(-1, keepdims=True) @ v


@pytest.mark.parametrize("dtype, queries, heads, kv_heads, keys, depth, what", CASES)
def test_every_stage(stages, dtype, queries, heads, kv_heads, keys, depth, what):
    kind, number, tolerance = DTYPES[dtype]
    r = np.random.default_rng(keys + heads)
    q, k, v = (r.standard_normal(s).astype(kind) for s in ((1, heads, queries, depth), (1, kv_heads, keys, depth), (1, kv_heads, keys, depth)))
    mask = np.zeros((queries, keys), kind)
    if what != PLAIN:
        mask[:, keys // 3 :] = -np.inf
    if what == NOTHING:
        mask[0] = -np.inf
    if what == NAN:
        v[0, 0, 5, 3] = np.nan
    feeds = {"q": q, "k": k, "v": v, **({} if what == PLAIN else {"mask": mask})}
    want = attention(q, k, v, mask.astype(np.float64))
    got = stages.run(model(number, q.shape, k.shape, None if what == PLAIN else mask.shape), feeds, {})
    assert {n.split(":")[0] for n in got} >= {"tensor", "ranged", "scheduled", "linear"}
    for name, y in got.items():
        have = y.astype(np.float64)
        if what == NOTHING:  # ONNX leaves open what such a row is; every stage says the same
            assert np.isnan(have[0, :, 0]).all() == np.isnan(got["tensor:y"].astype(np.float64)[0, :, 0]).all(), name
            have, want_ = have[:, :, 1:], want[:, :, 1:]
        else:
            want_ = want
        assert (np.isnan(have) == np.isnan(want_)).all(), name
        good = ~np.isnan(want_)
        assert np.abs(have - want_)[good].max(initial=0) <= tolerance, name
