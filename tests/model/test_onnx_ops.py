"""Every op definition of the onnx package is compiled, or refused for a reason that docs/onnx.md gives."""
import os

import onnx_ops


def evaluator():
    return os.path.join(os.environ.get("KILN_BIN", os.path.join(onnx_ops.HERE, "../../build/release/bin")), "kiln-eval")


def test_refused_ops_have_reasons():
    assert onnx_ops.problems(onnx_ops.registry(evaluator())) == []


def test_page_says_what_the_tables_say():
    with open(onnx_ops.PAGE) as f:
        assert onnx_ops.split_page(f.read())[1] == onnx_ops.page(onnx_ops.registry(evaluator()))


def test_a_missing_op_is_noticed():
    ops = [entry for entry in onnx_ops.registry(evaluator()) if entry[2] != "Conv"]
    assert any("ai.onnx.Conv, version 1," in line for line in onnx_ops.problems(ops))
