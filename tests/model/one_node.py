"""Models of one node, for tests that compare an op with another implementation."""
from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper

SKIP = None  # an optional input left out


def model(op, inputs, outputs, domain="", domain_version=1, imports=17, constants=(), types=None, **attrs):
    """The serialized model. inputs: name to array, or SKIP; constants: those of them that become initializers. Output types are unknown
    unless `types` (name to (TensorProto type, rank)) gives them: onnxruntime finds them out."""
    given = {k: v for k, v in inputs.items() if v is not SKIP}
    node = helper.make_node(op, [k if v is not SKIP else "" for k, v in inputs.items()], list(outputs), name="n", domain=domain, **attrs)
    infos = [helper.make_tensor_value_info(k, helper.np_dtype_to_tensor_dtype(v.dtype), v.shape) for k, v in given.items() if k not in constants]
    inits = [onnx.numpy_helper.from_array(given[k], k) for k in constants if k in given]
    outs = []
    for name in outputs:
        info = helper.make_empty_tensor_value_info(name)
        if types and name in types:
            kind, rank = types[name]
            info = helper.make_tensor_value_info(name, kind, [None] * rank)
        if name:
            outs.append(info)
    graph = helper.make_graph([node], "one", infos, outs, inits)
    opsets = [helper.make_opsetid("", imports)]
    if domain:
        opsets.append(helper.make_opsetid(domain, domain_version))
    return helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString()


def feeds(inputs, constants=()):
    return {k: v for k, v in inputs.items() if v is not SKIP and k not in constants}


def onnxruntime_outputs(blob, values):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(blob, options, providers=["CPUExecutionProvider"])
    return dict(zip([o.name for o in session.get_outputs()], session.run(None, values)))


def compare(client, op, inputs, outputs, constants=(), rtol=1e-3, atol=1e-5, want=None, look=None, **attrs):
    """Runs the node through the daemon and compares every output with `want`, or with what onnxruntime gives. look(name, array) picks the
    part of an output that is defined."""
    blob = model(op, inputs, [o for o in outputs], constants=constants, **attrs)
    values = feeds(inputs, constants)
    expected = onnxruntime_outputs(blob, values) if want is None else dict(zip(outputs, want))
    got = client.compile(blob)(values)
    for name, value in expected.items():
        have, value = np.asarray(got[name]), np.asarray(value)
        assert have.dtype == value.dtype and have.shape == value.shape, (name, have.dtype, have.shape, value.dtype, value.shape)
        if look:
            have, value = look(name, have), look(name, value)
        if have.dtype.kind not in "biuf":
            have, value = have.astype(np.float32), value.astype(np.float32)
        np.testing.assert_allclose(have, value, rtol=rtol, atol=atol, err_msg=f"{op} {name}")
    return got
