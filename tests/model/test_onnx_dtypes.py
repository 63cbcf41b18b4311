"""Every dtype that ONNX allows an op's source, on every op: each node test of one node is run again with the sources of one type
variable, and the outputs that share it, in every other dtype that the newest version of the op allows. That a combination is
taken is all that is asked here; numbers are checked where this once failed."""
import collections
import warnings

import ml_dtypes
import numpy as np
import onnx
import onnx.backend.test.case.node as cases
import pytest
from onnx import TensorProto, helper

from onnx_suite import EvalRunner, RunError, bindings, describes_shapes, freeze, numpy_dtype
from serving import BIN

ONNX_NAME = {"f16": "float16", "bf16": "bfloat16", "f32": "float", "f64": "double", "bool": "bool", "f8e4m3fn": "float8e4m3fn",
             "f8e4m3fnuz": "float8e4m3fnuz", "f8e5m2": "float8e5m2", "f8e5m2fnuz": "float8e5m2fnuz", "f8e8m0": "float8e8m0", "f4e2m1": "float4e2m1",
             **{f"{k}{b}": f"{n}{b}" for k, n in (("i", "int"), ("u", "uint")) for b in (2, 4, 8, 16, 32, 64)}}
KILN_NAME = {v: k for k, v in ONNX_NAME.items()}

# What cannot be asked this way: the dtype of something inside the node, or of another source, would have to follow.
FOLLOWS = {"Loop", "Scan", "If", "SequenceInsert", "SequenceMap"}
REFUSED = {"ImageDecoder"}  # docs/onnx.md
PER_OP = 12  # tests tried before a combination counts as refused


def retyped(test, schema, variable, dtype):
    """The model and its inputs, or None when the test has no source of that variable."""
    model = onnx.ModelProto()
    model.CopyFrom(test.model)
    node = model.graph.node[0]

    def of(names, formal):
        return {k for i, k in enumerate(names) if k and formal[min(i, len(formal) - 1)].type_str == variable}

    sources, results = of(node.input, schema.inputs), of(node.output, schema.outputs)
    values = list(test.data_sets[0][0])
    plain = all(isinstance(v, (np.ndarray, np.generic)) and v.dtype.kind not in "OSU" for v in values)
    infos = [v for v in [*model.graph.input, *model.graph.output] if v.name in sources | results]
    if not sources or not plain or any(v.type.WhichOneof("value") != "tensor_type" for v in infos):
        return None
    for v in infos:
        v.type.tensor_type.elem_type = getattr(TensorProto, ONNX_NAME[dtype].upper())
    inputs = {v.name: np.asarray(a).astype(numpy_dtype(dtype)) if v.name in sources else np.asarray(a)
              for v, a in zip(model.graph.input, values)}
    return (model, inputs) if len(values) == len(model.graph.input) else None


def refusal(runner, model, inputs):
    error = None
    for which in [lambda k, a: False, describes_shapes, lambda k, a: True]:
        frozen, rest = freeze(model, inputs, which)
        try:
            runner.run(frozen.SerializeToString(), rest, bindings(frozen, rest))
            return None
        except RunError as e:
            error = str(e)
            if e.code != "FAILED_PRECONDITION":
                break
    return error


def one_node_tests():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = collections.defaultdict(list)
        for test in cases.collect_testcases(None):
            nodes = test.model.graph.node
            if len(nodes) == 1 and nodes[0].domain in ("", "ai.onnx.ml") and nodes[0].op_type not in FOLLOWS | REFUSED:
                found[nodes[0].domain, nodes[0].op_type].append(test)
    return found


def test_every_dtype_of_every_op(number):
    runner, taken, refused = EvalRunner(str(BIN / "kiln-eval"), []), 0, []
    for (domain, op), tests in one_node_tests().items():
        version = max(o.version for o in tests[0].model.opset_import if o.domain == domain)
        schema = onnx.defs.get_schema(op, version, domain)
        for constraint in schema.type_constraints:
            allowed = [KILN_NAME[t[7:-1]] for t in constraint.allowed_type_strs if t[:7] == "tensor(" and t[7:-1] in KILN_NAME]
            for dtype in allowed:
                errors = []
                for test in tests:
                    with np.errstate(all="ignore"), warnings.catch_warnings():
                        warnings.simplefilter("ignore")
                        made = retyped(test, schema, constraint.type_param_str, dtype)
                    if not made:
                        continue
                    error = refusal(runner, *made)
                    if error is None:
                        errors, taken = [], taken + 1
                        break
                    errors.append(error)
                    if len(errors) == PER_OP:
                        break
                if errors:
                    refused.append(f"{op} {constraint.type_param_str}={dtype}: {errors[0]}")
    runner.close()
    number(f"ONNX ops in every dtype of every type variable: {taken} combinations, {len(refused)} refused")
    assert not refused, "\n".join(refused)
    assert taken > 1500


def run(op, inputs, opset=23, constants=(), **attrs):
    """The first output of one node."""
    infos = [helper.make_tensor_value_info(k, helper.np_dtype_to_tensor_dtype(v.dtype), v.shape) for k, v in inputs.items() if v is not None]
    node = helper.make_node(op, [k if v is not None else "" for k, v in inputs.items()], ["y"], **attrs)
    graph = helper.make_graph([node], "one", infos, [helper.make_empty_tensor_value_info("y")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=11)
    runner = EvalRunner(str(BIN / "kiln-eval"), [])
    try:
        given = {k: v for k, v in inputs.items() if v is not None}
        frozen, rest = freeze(model, given, lambda i, a: list(given)[i] in constants)
        return runner.run(frozen.SerializeToString(), rest, {})["y"]
    finally:
        runner.close()


@pytest.mark.parametrize("out", ["float8_e4m3fn", "float8_e5m2"])
@pytest.mark.parametrize("b", ["float8_e4m3fn", "int8"])
def test_products_of_eight_bit_floats(b, out):
    rng, f8 = np.random.default_rng(1), np.dtype(ml_dtypes.float8_e4m3fn)
    out, bt = np.dtype(getattr(ml_dtypes, out)), np.dtype(getattr(ml_dtypes, b, b))
    a = (rng.standard_normal((3, 8)) * 4).astype(f8)
    w = rng.integers(-100, 100, (8, 5)).astype(bt) if b == "int8" else rng.standard_normal((8, 5)).astype(bt)
    zero = np.array(7 if b == "int8" else 0).astype(bt)
    scales = np.array([0.5, 0.125, 2.0], np.float32)
    got = run("QLinearMatMul", {"a": a, "as": scales[0], "az": np.zeros((), f8), "b": w, "bs": scales[1], "bz": zero, "ys": scales[2], "yz": np.zeros((), out)})
    want = (a.astype(np.float64) @ (w.astype(np.float64) - zero.astype(np.float64)) * scales[0] * scales[1] / scales[2])
    top = float(ml_dtypes.finfo(out).max)
    assert got.dtype == out
    np.testing.assert_array_equal(got.astype(np.float32), want.clip(-top, top).astype(np.float32).astype(out).astype(np.float32))


@pytest.mark.parametrize("v,mask", [("float64", "float32"), ("float16", "int32"), ("float32", "float64")])
def test_attention_of_mixed_dtypes(v, mask):
    rng = np.random.default_rng(2)
    q, k, values = (rng.standard_normal((1, 2, 4, 8)) for _ in range(3))
    bias = rng.integers(-2, 3, (4, 4))
    got = run("Attention", {"q": q.astype(np.float32), "k": k.astype(np.float32), "v": values.astype(v), "m": bias.astype(mask)})
    s = q @ k.swapaxes(2, 3) / np.sqrt(8) + bias
    p = np.exp(s - s.max(-1, keepdims=True))
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, p / p.sum(-1, keepdims=True) @ values.astype(v).astype(np.float64), rtol=2e-5, atol=2e-5)


def test_columns_of_bools():
    x = np.array([[[1, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 1], [0, 0, 1, 0]]], bool)
    got = run("Col2Im", {"x": x, "i": np.array([3, 3]), "b": np.array([2, 2])}, constants=("i", "b"))
    assert got.dtype == bool and got[0, 0].tolist() == [[True, False, False], [False, False, False], [False, True, False]]
