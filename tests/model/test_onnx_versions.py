"""Older versions of ops whose meaning has changed, against ONNX Runtime where it still has that version, else against numpy."""
import numpy as np
import pytest
from onnx import TensorProto

from one_node import SKIP, compare


def f32(*shape, seed=0):
    return np.random.default_rng(seed + sum(shape)).standard_normal(shape).astype(np.float32)


def i64(*values):
    return np.array(values, np.int64)


X = f32(2, 3, 4, 5)

# op, opset, inputs, constants, attributes: ONNX Runtime says what is right.
AGAINST_RUNTIME = [
    ("Softmax", 11, {"x": X}, (), {"axis": 2}), ("Softmax", 13, {"x": X}, (), {"axis": 2}), ("Softmax", 1, {"x": X}, (), {}),
    ("LogSoftmax", 11, {"x": X}, (), {"axis": 1}), ("Hardmax", 11, {"x": X}, (), {"axis": 2}), ("Hardmax", 13, {"x": X}, (), {"axis": 1}),
    ("Pad", 2, {"x": X}, (), {"pads": [0, 1, 0, 2, 0, 0, 1, 1], "value": 2.5}), ("Pad", 2, {"x": X}, (), {"pads": [0, 0, 1, 2, 0, 0, 1, 1], "mode": "reflect"}),
    ("Pad", 11, {"x": X, "p": i64(0, 0, 1, 2, 0, 0, 1, 1)}, ("p",), {"mode": "edge"}),
    ("Pad", 18, {"x": X, "p": i64(1, 2), "v": np.float32(3), "a": i64(-1)}, ("p", "v", "a"), {}),
    ("Slice", 1, {"x": X}, (), {"starts": [1, -3], "ends": [10, -1], "axes": [1, 3]}), ("Slice", 1, {"x": X}, (), {"starts": [0, 1], "ends": [1, 3]}),
    ("Slice", 10, {"x": X, "s": i64(3, -1), "e": i64(0, -9), "a": i64(2, 3), "d": i64(-1, -2)}, ("s", "e", "a", "d"), {}),
    ("Split", 2, {"x": X}, (), {"axis": 3, "split": [2, 3]}), ("Split", 11, {"x": X}, (), {"axis": -2}),
    ("Split", 13, {"x": X, "s": i64(2, 3)}, ("s",), {"axis": 3}), ("Split", 18, {"x": X}, (), {"axis": 3, "num_outputs": 2}),
    ("Squeeze", 1, {"x": f32(1, 3, 1, 2)}, (), {"axes": [0, 2]}), ("Squeeze", 1, {"x": f32(1, 3, 1, 2)}, (), {}),
    ("Squeeze", 13, {"x": f32(1, 3, 1, 2), "a": i64(-2)}, ("a",), {}), ("Unsqueeze", 1, {"x": X}, (), {"axes": [0, 3]}),
    ("Unsqueeze", 11, {"x": X}, (), {"axes": [-1]}), ("Unsqueeze", 13, {"x": X, "a": i64(1, -1)}, ("a",), {}),
    ("ReduceSum", 1, {"x": X}, (), {"axes": [1, 3], "keepdims": 0}), ("ReduceSum", 11, {"x": X}, (), {"axes": [-1]}),
    ("ReduceSum", 13, {"x": X, "a": i64(1)}, ("a",), {}), ("ReduceSum", 13, {"x": X}, (), {"noop_with_empty_axes": 1}),
    ("ReduceMean", 11, {"x": X}, (), {"axes": [1, 2]}), ("ReduceMean", 18, {"x": X, "a": i64(1, 2)}, ("a",), {}), ("ReduceMax", 12, {"x": X}, (), {}),
    ("ReduceL2", 13, {"x": X}, (), {"axes": [2]}), ("ReduceLogSumExp", 11, {"x": X}, (), {"axes": [0, 2]}), ("ReduceProd", 1, {"x": X}, (), {"axes": [3]}),
    ("TopK", 1, {"x": X}, (), {"k": 2, "axis": 3}), ("TopK", 10, {"x": X, "k": i64(2)}, ("k",), {"axis": 1}),
    ("TopK", 11, {"x": X, "k": i64(2)}, ("k",), {"axis": 2, "largest": 0}),
    ("Clip", 6, {"x": X}, (), {"min": -0.5, "max": 0.25}), ("Clip", 11, {"x": X, "lo": np.array(-0.5, np.float32), "hi": np.array(0.25, np.float32)}, (), {}),
    ("Clip", 12, {"x": (X * 9).astype(np.int32), "lo": SKIP, "hi": np.array(4, np.int32)}, (), {}),
    ("Upsample", 7, {"x": X}, (), {"scales": [1.0, 1.0, 2.0, 3.0], "mode": "nearest"}), ("Upsample", 7, {"x": X}, (), {"scales": [1.0, 1.0, 2.0, 2.0], "mode": "linear"}),
    ("Upsample", 9, {"x": X, "s": np.array([1, 1, 2, 1.5], np.float32)}, ("s",), {"mode": "nearest"}),
    ("Resize", 10, {"x": X, "s": np.array([1, 1, 0.6, 1.7], np.float32)}, ("s",), {"mode": "nearest"}),
    ("Resize", 10, {"x": X, "s": np.array([1, 1, 0.6, 2], np.float32)}, ("s",), {"mode": "linear"}),
    ("Resize", 11, {"x": X, "r": np.zeros(0, np.float32), "s": np.array([1, 1, 2, 2], np.float32)}, ("r", "s"), {"mode": "cubic", "coordinate_transformation_mode": "align_corners"}),
    ("Resize", 13, {"x": X, "r": SKIP, "s": SKIP, "z": i64(2, 3, 7, 9)}, ("z",), {"mode": "linear", "coordinate_transformation_mode": "pytorch_half_pixel"}),
    ("BatchNormalization", 7, {"x": X, "s": f32(3), "b": f32(3, seed=1), "m": f32(3, seed=2), "v": np.abs(f32(3, seed=3))}, (), {}),
    ("BatchNormalization", 9, {"x": X, "s": f32(3), "b": f32(3, seed=1), "m": f32(3, seed=2), "v": np.abs(f32(3, seed=3))}, (), {"epsilon": 1e-3}),
    ("BatchNormalization", 15, {"x": X, "s": f32(3), "b": f32(3, seed=1), "m": f32(3, seed=2), "v": np.abs(f32(3, seed=3))}, (), {}),
    ("Dropout", 7, {"x": X}, (), {"ratio": 0.3}), ("Dropout", 10, {"x": X}, (), {"ratio": 0.3}), ("Dropout", 13, {"x": X}, (), {}),
    ("Scatter", 9, {"x": f32(3, 4), "i": i64([1, 0], [2, 3])[:, :], "u": f32(2, 2)}, (), {"axis": 1}),
    ("ScatterElements", 11, {"x": f32(3, 4), "i": i64([1, 0], [2, -1]), "u": f32(2, 2)}, (), {"axis": 1}),
    ("ScatterElements", 16, {"x": f32(3, 4), "i": i64([1, 1], [2, 2]), "u": f32(2, 2)}, (), {"axis": 1, "reduction": "add"}),
    ("ScatterElements", 18, {"x": f32(3, 4), "i": i64([1, 1], [2, 2]), "u": f32(2, 2)}, (), {"axis": 1, "reduction": "max"}),
    ("Cast", 6, {"x": X}, (), {"to": TensorProto.INT32}), ("Cast", 9, {"x": X}, (), {"to": TensorProto.BOOL}),
    ("Gemm", 7, {"a": f32(2, 3), "b": f32(3, 4), "c": f32(1, 4)}, (), {"alpha": 0.5, "beta": 2.0}), ("Gemm", 11, {"a": f32(2, 3), "b": f32(3, 4)}, (), {}),
    ("ArgMax", 11, {"x": X}, (), {"axis": -1}), ("ArgMax", 12, {"x": np.round(X)}, (), {"axis": 1, "select_last_index": 1}),
    ("MaxPool", 1, {"x": X}, (), {"kernel_shape": [2, 2], "pads": [1, 1, 0, 0]}), ("MaxPool", 8, {"x": X}, (), {"kernel_shape": [2, 2], "storage_order": 1}),
    ("MaxPool", 10, {"x": X}, (), {"kernel_shape": [2, 2], "strides": [2, 2], "ceil_mode": 1, "dilations": [1, 2]}),
    ("AveragePool", 7, {"x": X}, (), {"kernel_shape": [2, 2], "pads": [1, 1, 1, 1]}),
    ("AveragePool", 7, {"x": X}, (), {"kernel_shape": [2, 2], "pads": [1, 1, 1, 1], "count_include_pad": 1}),
    ("AveragePool", 10, {"x": X}, (), {"kernel_shape": [2, 2], "strides": [2, 2], "ceil_mode": 1}),
    ("Concat", 4, {"x": X, "y": X}, (), {"axis": 1}), ("Flatten", 9, {"x": X}, (), {"axis": 2}), ("Flatten", 11, {"x": X}, (), {"axis": -1}),
    ("OneHot", 9, {"i": i64(1, 5, 2), "d": np.float32(4), "v": np.array([0, 2], np.float32)}, ("d",), {"axis": 0}),
    ("Gather", 11, {"x": X, "i": i64(-1, 0)}, (), {"axis": 1}), ("CumSum", 11, {"x": X, "a": np.array(2, np.int32)}, ("a",), {"exclusive": 1, "reverse": 1}),
    ("Mod", 10, {"a": np.array([-5, 5, 7], np.int32), "b": np.array([3, -3, 2], np.int32)}, (), {}),
    ("DepthToSpace", 1, {"x": f32(1, 8, 2, 3)}, (), {"blocksize": 2}), ("DepthToSpace", 11, {"x": f32(1, 8, 2, 3)}, (), {"blocksize": 2, "mode": "CRD"}),
    ("LpPool", 2, {"x": X}, (), {"kernel_shape": [2, 2], "p": 3}), ("GlobalLpPool", 2, {"x": X}, (), {"p": 1}),
    ("PRelu", 7, {"x": X, "s": f32(3, 1, 1)}, (), {}), ("Reshape", 5, {"x": X, "s": i64(0, -1)}, ("s",), {}),
    ("Reshape", 14, {"x": X, "s": i64(2, 3, 20)}, ("s",), {"allowzero": 1}), ("Equal", 7, {"a": i64(1, 2), "b": i64(1, 3)}, (), {}),
    ("GridSample", 16, {"x": X, "g": np.clip(f32(2, 3, 2, 2) * 0.5, -1, 1)}, (), {"mode": "bicubic"}), ("Shape", 15, {"x": X}, (), {"start": 1, "end": -1}),
    ("RoiAlign", 10, {"x": X, "r": np.array([[0, 0, 3, 2], [1, 1, 4, 3.5]], np.float32), "b": i64(1, 0)}, (), {"output_height": 2, "output_width": 2, "sampling_ratio": 2}),
    ("RoiAlign", 16, {"x": f32(2, 3, 12, 12), "r": np.array([[0, 0, 30, 20], [1, 1, 7.3, 9.1]], np.float32), "b": i64(1, 0)}, (), {"output_height": 3, "output_width": 2}),
    ("RoiAlign", 16, {"x": f32(2, 3, 12, 12), "r": np.array([[0, 0, 30, 20], [1, 1, 7.3, 9.1]], np.float32), "b": i64(1, 0)}, (), {"output_height": 3, "output_width": 2, "mode": "max"}),
    ("MaxRoiPool", 1, {"x": f32(2, 3, 12, 12), "r": np.array([[0, 1, 2, 8, 9], [1, 0, 0, 11, 5], [0, 9, 9, 20, 30]], np.float32)}, (), {"pooled_shape": [3, 2], "spatial_scale": 0.75}),
    ("Det", 11, {"x": f32(3, 6, 6)}, (), {}), ("InstanceNormalization", 6, {"x": X, "s": f32(3), "b": f32(3, seed=1)}, (), {}),
    ("RNN", 7, {"x": f32(4, 2, 3), "w": f32(1, 5, 3), "r": f32(1, 5, 5)}, (), {"hidden_size": 5}),
    ("GRU", 7, {"x": f32(4, 2, 3), "w": f32(2, 15, 3), "r": f32(2, 15, 5)}, (), {"hidden_size": 5, "direction": "bidirectional", "linear_before_reset": 1}),
    ("GRU", 14, {"x": f32(4, 2, 3), "w": f32(1, 15, 3), "r": f32(1, 15, 5)}, (), {"hidden_size": 5}),
    ("LSTM", 7, {"x": f32(4, 2, 3), "w": f32(1, 20, 3), "r": f32(1, 20, 5), "b": f32(1, 40)}, (), {"hidden_size": 5}),
    *[("RNN", 7, {"x": f32(4, 2, 3), "w": f32(1, 5, 3), "r": f32(1, 5, 5)}, (), {"hidden_size": 5, "activations": [name], **numbers})
      for name, numbers in [("Sigmoid", {}), ("Relu", {}), ("Softsign", {}), ("Softplus", {}), ("LeakyRelu", {}), ("Elu", {}), ("HardSigmoid", {}),
                            ("LeakyRelu", {"activation_alpha": [0.3]}), ("Elu", {"activation_alpha": [0.7]}), ("ThresholdedRelu", {"activation_alpha": [0.2]}),
                            ("Affine", {"activation_alpha": [0.5], "activation_beta": [0.1]}), ("ScaledTanh", {"activation_alpha": [1.5], "activation_beta": [0.4]}),
                            ("HardSigmoid", {"activation_alpha": [0.3], "activation_beta": [0.4]})]],
    # an activation takes its numbers from where the one before it ended
    ("LSTM", 7, {"x": f32(4, 2, 3), "w": f32(1, 20, 3), "r": f32(1, 20, 5)}, (),
     {"hidden_size": 5, "activations": ["Sigmoid", "LeakyRelu", "ScaledTanh"], "activation_alpha": [0.1, 1.5], "activation_beta": [0.8]}),
    ("GRU", 7, {"x": f32(4, 2, 3), "w": f32(2, 15, 3), "r": f32(2, 15, 5)}, (),
     {"hidden_size": 5, "direction": "bidirectional", "activations": ["HardSigmoid", "Tanh", "Sigmoid", "LeakyRelu"], "activation_alpha": [0.3, 0.2], "activation_beta": [0.4]}),
]
OUTPUTS = {"Split": 2, "TopK": 2, "MaxPool": 1, "Dropout": 1, "RNN": 2, "GRU": 2, "LSTM": 3}


@pytest.mark.parametrize("op,opset,inputs,constants,attrs", AGAINST_RUNTIME, ids=[f"{c[0]}-{c[1]}-{i}" for i, c in enumerate(AGAINST_RUNTIME)])
def test_as_onnxruntime(client, op, opset, inputs, constants, attrs):
    compare(client, op, inputs, [f"y{k}" for k in range(OUTPUTS.get(op, 1))], constants=constants, imports=opset, **attrs)


A, ROW = f32(2, 3, 4), f32(3)
BOOL_A, BOOL_ROW = A > 0, ROW > 0

# op, opset, inputs, constants, attributes, what is right: versions that ONNX Runtime no longer runs.
AGAINST_NUMPY = [
    *[(op, v, {"a": A, "b": ROW}, (), {"broadcast": 1, "axis": 1}, fn(A, ROW[:, None]))
      for v in (1, 6) for op, fn in (("Add", np.add), ("Sub", np.subtract), ("Mul", np.multiply), ("Div", np.divide))],
    ("Add", 6, {"a": A, "b": f32(4)}, (), {"broadcast": 1}, A + f32(4)),
    ("Pow", 1, {"a": np.abs(A), "b": ROW}, (), {"broadcast": 1, "axis": 1}, np.abs(A) ** ROW[:, None]),
    *[(op, 1, {"a": BOOL_A, "b": BOOL_ROW}, (), {"broadcast": 1, "axis": 1}, fn(BOOL_A, BOOL_ROW[:, None]))
      for op, fn in (("And", np.logical_and), ("Or", np.logical_or), ("Xor", np.logical_xor))],
    ("Less", 1, {"a": A, "b": ROW}, (), {"broadcast": 1, "axis": 1}, A < ROW[:, None]),
    ("Greater", 1, {"a": A, "b": ROW}, (), {"broadcast": 1, "axis": 1}, A > ROW[:, None]),
    ("Equal", 1, {"a": np.arange(6).reshape(2, 3), "b": i64(0, 4, 5)}, (), {"broadcast": 1, "axis": 1}, np.arange(6).reshape(2, 3) == i64(0, 4, 5)),
    ("PRelu", 1, {"x": A, "s": ROW}, (), {}, np.where(A < 0, A * ROW[:, None], A)),
    ("Cast", 1, {"x": A}, (), {"to": "INT32"}, A.astype(np.int32)),
    ("Clip", 1, {"x": A}, (), {"min": -0.5, "max": 0.25, "consumed_inputs": [0]}, A.clip(-0.5, 0.25)),
    ("Max", 1, {"a": A, "b": -A}, (), {}, np.abs(A)), ("Min", 1, {"a": A, "b": -A}, (), {}, -np.abs(A)),
    ("Sum", 1, {"a": A, "b": A, "c": A}, (), {}, 3 * A), ("Mean", 1, {"a": A, "b": 3 * A}, (), {}, 2 * A),
    ("Pad", 1, {"x": A}, (), {"paddings": [0, 1, 2, 1, 0, 0], "value": 1.5}, np.pad(A, [(0, 1), (1, 0), (2, 0)], constant_values=1.5)),
    ("Tile", 1, {"x": A, "n": np.array(3, np.int64), "a": np.array(1, np.int64)}, ("n", "a"), {}, np.tile(A, (1, 3, 1))),
    ("Split", 1, {"x": A, "s": i64(1, 2)[1:]}, ("s",), {"axis": 2, "split": [4]}, A),
    ("Upsample", 1, {"x": X}, (), {"height_scale": 2.0, "width_scale": 3.0, "mode": "nearest"}, X.repeat(2, 2).repeat(3, 3)),
    ("GlobalLpPool", 1, {"x": X}, (), {"p": 2.0}, np.sqrt((X * X).sum((2, 3), keepdims=True))),
    ("LpPool", 1, {"x": X}, (), {"p": 1.5, "kernel_shape": [4, 5]}, (np.abs(X) ** 1.5).sum((2, 3), keepdims=True) ** (1 / 1.5)),
    ("Gemm", 1, {"a": f32(2, 3), "b": f32(3, 4), "c": f32(4)}, (), {"broadcast": 1, "transA": 0}, f32(2, 3) @ f32(3, 4) + f32(4)),
    ("Concat", 1, {"a": A, "b": A}, (), {}, np.concatenate([A, A], 1)),
    ("Reshape", 1, {"x": A}, (), {"shape": [0, -1]}, A.reshape(2, -1)),
    ("InstanceNormalization", 1, {"x": X, "s": ROW, "b": f32(3, seed=1)}, (), {},
     (X - X.mean((2, 3), keepdims=True)) / np.sqrt(X.var((2, 3), keepdims=True) + 1e-5) * ROW[:, None, None] + f32(3, seed=1)[:, None, None]),
    ("Relu", 1, {"x": A}, (), {"consumed_inputs": [0]}, A.clip(0)),
    ("HardSigmoid", 1, {"x": A}, (), {"alpha": 0.3}, (0.3 * A + 0.5).clip(0, 1)),
]


@pytest.mark.parametrize("op,opset,inputs,constants,attrs,want", AGAINST_NUMPY, ids=[f"{c[0]}-{c[1]}-{i}" for i, c in enumerate(AGAINST_NUMPY)])
def test_as_numpy(client, op, opset, inputs, constants, attrs, want):
    compare(client, op, inputs, ["y"], constants=constants, imports=opset, want=[want], **attrs)


def norm(x, mean, var, s, b, eps=1e-5):
    return (x - mean) / np.sqrt(var + eps) * s + b


def test_batch_normalization_per_activation(client):
    s, b, m, v = (f32(3, 4, 5, seed=k) for k in range(4))
    v = np.abs(v)
    inputs = {"x": X, "s": s, "b": b, "m": m, "v": v}
    compare(client, "BatchNormalization", inputs, ["y"], imports=7, spatial=0, want=[norm(X, m, v, s, b)])


@pytest.mark.parametrize("opset,attrs", [(1, {}), (6, {}), (7, {}), (9, {}), (14, {"training_mode": 1})])
def test_batch_normalization_training(client, opset, attrs):
    s, b, m, v = (f32(3, seed=k) for k in range(4))
    v = np.abs(v)
    mean, var = X.mean((0, 2, 3)), X.var((0, 2, 3))
    y = norm(X, *(t[:, None, None] for t in (mean, var, s, b)))
    want = [y, m * 0.9 + mean * 0.1, v * 0.9 + var * 0.1] + ([mean, var] if opset < 14 else [])
    outputs = ["y", "mean", "var", "saved_mean", "saved_var"][:len(want)]
    compare(client, "BatchNormalization", {"x": X, "s": s, "b": b, "m": m, "v": v}, outputs, imports=opset, want=want, **attrs)


def test_batch_normalization_is_test(client):
    s, b, m, v = (f32(3, seed=k) for k in range(4))
    v = np.abs(v)
    want = norm(X, *(t[:, None, None] for t in (m, v, s, b)))
    compare(client, "BatchNormalization", {"x": X, "s": s, "b": b, "m": m, "v": v}, ["y"], imports=6, is_test=1, want=[want])


@pytest.mark.parametrize("reverse", [0, 1])
@pytest.mark.parametrize("exclusive", [0, 1])
@pytest.mark.parametrize("shape,axis", [((3, 200, 2), 1), ((5000,), 0), ((2, 129), 1), ((70000,), 0)])
def test_long_cumulative_sums(client, shape, axis, reverse, exclusive):
    x = np.random.default_rng(1).integers(-9, 9, shape).astype(np.int64)
    for array in (x, x.astype(np.float32)):
        inputs = {"x": array, "a": np.array(axis, np.int64)}
        compare(client, "CumSum", inputs, ["y"], constants=["a"], imports=14, reverse=reverse, exclusive=exclusive)


def test_long_cumulative_sum_of_any_size(client):
    import onnx

    graph = onnx.helper.make_graph([onnx.helper.make_node("CumSum", ["x", "a"], ["y"])], "g", [onnx.helper.make_tensor_value_info("x", 1, ["n", 3])],
                                   [onnx.helper.make_tensor_value_info("y", 1, ["n", 3])], [onnx.numpy_helper.from_array(np.array(0), "a")])
    exe = client.compile(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8).SerializeToString())
    for n in (1, 31, 32, 33, 1000, 65536):
        x = np.random.default_rng(n).integers(-9, 9, (n, 3)).astype(np.float32)
        np.testing.assert_array_equal(exe({"x": x})["y"], np.cumsum(x, 0))


@pytest.mark.parametrize("shape,axis", [((3000,), 0), ((4, 3000), 1), ((2000, 3), 0), ((3, 1500, 2), 1)])
def test_scatter_of_many_updates(client, shape, axis):
    r = np.random.default_rng(2)
    index = r.integers(-shape[axis], shape[axis], shape)
    unique = np.argsort(r.random(shape), axis)  # the other side leaves open which of several updates wins
    compare(client, "ScatterElements", {"x": f32(*shape), "i": unique, "u": f32(*shape, seed=1)}, ["y"], imports=18, axis=axis)
    want, updates = f32(*shape), f32(*shape, seed=1)
    for at in np.ndindex(*shape):
        to = list(at)
        to[axis] = index[at]
        want[tuple(to)] = updates[at]
    compare(client, "ScatterElements", {"x": f32(*shape), "i": index, "u": updates}, ["y"], imports=18, axis=axis, want=[want])


def test_scatter_nd_of_many_rows(client):
    r = np.random.default_rng(2)
    index = np.stack([r.permutation(60)[:, None].repeat(50, 1).ravel(), np.tile(r.permutation(50), 60)], 1)[:2000]
    compare(client, "ScatterND", {"x": f32(60, 50, 4), "i": index, "u": f32(2000, 4)}, ["y"], imports=18)
