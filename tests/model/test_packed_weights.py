"""Products whose weights are stored once in columns of a vector (passes/pack.c): sizes that random graphs do not draw."""
import ml_dtypes
import numpy as np
import onnx
import onnx.helper as h
import pytest
import serving
from onnx_suite import EvalRunner

T = onnx.TensorProto
DTYPES = {"f32": (np.float32, T.FLOAT, 1e-5), "f16": (np.float16, T.FLOAT16, 5e-3), "bf16": (ml_dtypes.bfloat16, T.BFLOAT16, 4e-2),
          "f64": (np.float64, T.DOUBLE, 1e-12)}
ROWS, DEPTH, COLUMNS = 40, 96, 288


def tensor(name, dtype, x):
    return h.make_tensor(name, dtype, x.shape, x.tobytes(), raw=True)


def model(nodes, dtype, x_shape, weights, opset=17):
    graph = h.make_graph(nodes, "g", [h.make_tensor_value_info("x", dtype, x_shape)], [h.make_tensor_value_info("y", dtype, None)],
                         [tensor(name, kind, w) for name, kind, w in weights])
    return h.make_model(graph, opset_imports=[h.make_opsetid("", opset)], ir_version=9).SerializeToString()


def rng(*shape, kind=np.float32):
    return np.random.default_rng(len(shape) + shape[-1]).standard_normal(shape).astype(kind)


def check(client, m, x, want, tolerance=1e-5):
    exe = client.compile(m)
    for _ in range(2):  # the second run finds what the first has stored
        got = np.asarray(exe({"x": x})["y"]).astype(np.float64)
        np.testing.assert_allclose(got, want, rtol=tolerance, atol=tolerance * np.abs(want).max())
    return exe


def kernels(exe):
    """Of the products, and one for each weight that is stored when the executable is loaded."""
    return exe.report()["kernels"]


@pytest.mark.parametrize("rows", [1, 15, 16, 17, 200])
@pytest.mark.parametrize("dtype", DTYPES)
def test_rows(client, dtype, rows):
    kind, number, tolerance = DTYPES[dtype]
    x, w = rng(rows, DEPTH, kind=kind), rng(DEPTH, COLUMNS, kind=kind)
    m = model([h.make_node("MatMul", ["x", "w"], ["y"])], number, x.shape, [("w", number, w)])
    exe = check(client, m, x, x.astype(np.float64) @ w.astype(np.float64), tolerance)
    assert kernels(exe) == (2 if rows >= 16 else 1)


@pytest.mark.parametrize("columns", [257, 264, 1000])
def test_columns_that_are_no_whole_vectors(client, columns):
    x, w = rng(ROWS, DEPTH), rng(DEPTH, columns)
    check(client, model([h.make_node("MatMul", ["x", "w"], ["y"])], T.FLOAT, x.shape, [("w", T.FLOAT, w)]), x, x.astype(np.float64) @ w)


def test_transposed_and_batched(client):
    x, w = rng(3, ROWS, DEPTH), rng(COLUMNS, DEPTH)
    nodes = [h.make_node("Transpose", ["w"], ["t"], perm=[1, 0]), h.make_node("MatMul", ["x", "t"], ["y"])]
    check(client, model(nodes, T.FLOAT, x.shape, [("w", T.FLOAT, w)]), x, x.astype(np.float64) @ w.T)


def test_a_weight_of_its_own_per_batch(client):
    x, w = rng(3, ROWS, DEPTH), rng(3, DEPTH, COLUMNS)
    exe = check(client, model([h.make_node("MatMul", ["x", "w"], ["y"])], T.FLOAT, x.shape, [("w", T.FLOAT, w)]), x, x.astype(np.float64) @ w)
    assert kernels(exe) == 1


def test_one_weight_in_two_products_and_a_gather(client):
    """Tied embeddings: rows are looked up in the weight as it is."""
    x, w = rng(ROWS, 160), rng(160, 160)
    nodes = [h.make_node("MatMul", ["x", "w"], ["a"]), h.make_node("MatMul", ["a", "w"], ["b"]), h.make_node("Gather", ["w", "i"], ["c"]),
             h.make_node("Add", ["b", "c"], ["y"])]
    at = np.arange(ROWS, dtype=np.int64) * 2
    m = model(nodes, T.FLOAT, x.shape, [("w", T.FLOAT, w), ("i", T.INT64, at)])
    d = w.astype(np.float64)
    assert kernels(check(client, m, x, x @ d @ d + d[at], 1e-4)) == 3


def test_a_weight_that_is_computed_stays_computed(client):
    """A byte of it is read per run, not what it means."""
    x, w, s = rng(ROWS, DEPTH), np.random.default_rng(0).integers(-8, 8, (DEPTH, COLUMNS)).astype(np.int8), np.float32([0.1])
    nodes = [h.make_node("Cast", ["w"], ["f"], to=T.FLOAT), h.make_node("Mul", ["f", "s"], ["d"]), h.make_node("MatMul", ["x", "d"], ["y"])]
    m = model(nodes, T.FLOAT, x.shape, [("w", T.INT8, w), ("s", T.FLOAT, s)])
    check(client, m, x, x.astype(np.float64) @ (w * np.float64(s)))


@pytest.mark.parametrize("target", ["sse2", "avx2", "gpu"])
def test_every_stage_for_other_targets(target):
    """Vectors of 4 and 8 columns; a target with workgroups keeps the weight as it is."""
    runner = EvalRunner(str(serving.BIN / "kiln-eval"), ["--stages", target])
    x, w = rng(17, 64), rng(64, 256)
    m = model([h.make_node("MatMul", ["x", "w"], ["y"])], T.FLOAT, x.shape, [("w", T.FLOAT, w)])
    found = runner.run(m, {"x": x}, {})
    runner.close()
    assert {n.split(":")[0] for n in found} >= {"tensor", "ranged", "scheduled", "linear"}
    for y in found.values():
        np.testing.assert_allclose(y, x.astype(np.float64) @ w, rtol=1e-5, atol=1e-4)
