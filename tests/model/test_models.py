"""Whole models through the daemon, compared with ONNX Runtime (rtol 1e-3, atol 1e-5 on f32) and with the outputs that packages carry."""
import numpy as np
import onnxruntime
import pytest

import models


def reference(model: bytes, feeds):
    """ONNX Runtime's outputs by name."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 2
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    names = [o.name for o in session.get_outputs()]
    return dict(zip(names, session.run(names, feeds)))


def check(client, model: bytes, feeds, rtol=1e-3, atol=1e-5):
    exe = client.compile(model)
    got = exe(feeds)
    want = reference(model, feeds)
    assert set(got) == set(want)
    for name, value in want.items():
        np.testing.assert_allclose(got[name], value, rtol=rtol, atol=atol, err_msg=name)
    return exe, got


@pytest.mark.parametrize("name", models.LIGHT)
def test_light_model_equals_onnxruntime_and_the_package(client, name):
    input_name, x = models.light_input(name)
    model = models.light_path(name).read_bytes()
    _, got = check(client, model, {input_name: x})
    (value,) = got.values()
    np.testing.assert_allclose(value, models.light_expected(name), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", models.LIGHT)
def test_dense_model_equals_onnxruntime(client, name):
    input_name, x = models.light_input(name)
    x = np.random.default_rng(0).standard_normal(x.shape).astype(np.float32)
    check(client, models.dense(name), {input_name: x})


def test_bert_base_equals_onnxruntime(client):
    check(client, models.bert_base(), {"ids": models.token_ids()}, atol=1e-4)


def test_gpt2_equals_onnxruntime(client):
    check(client, models.gpt2(), {"ids": models.token_ids()}, atol=1e-4)


def test_magika_labels_equal_onnxruntime(client):
    import kiln

    x = np.random.default_rng(1).integers(0, 257, (4, 2048)).astype(np.int32)
    model = models.magika_path().read_bytes()
    exe = client.compile(model, kiln.Options(dims={"bytes.0": 4}))
    got = exe({"bytes": x})["target_label"]
    want = reference(model, {"bytes": x})["target_label"]
    np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-5)
    assert (got.argmax(1) == want.argmax(1)).all()


def one_op(kind, shapes, out, outputs=1, **attrs):
    from onnx import TensorProto, helper

    names = [f"x{i}" for i in range(len(shapes))]
    graph = helper.make_graph([helper.make_node(kind, names, ["y"], **attrs)], "g",
                              [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in zip(names, shapes)],
                              [helper.make_tensor_value_info("y", TensorProto.FLOAT, out)])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()


@pytest.mark.parametrize("model, kernels", [
    (one_op("Softmax", [[8, 300]], [8, 300]), 1),
    (one_op("LayerNormalization", [[8, 300], [300], [300]], [8, 300]), 1),
])
def test_kernel_count_of_single_ops(client, model, kernels):
    assert client.compile(model).report()["kernels"] == kernels


def test_kernel_counts_of_fused_groups(client):
    from onnx import TensorProto, helper

    def count(nodes, inputs, out):
        graph = helper.make_graph(nodes, "g", [helper.make_tensor_value_info(n, t, s) for n, t, s in inputs],
                                  [helper.make_tensor_value_info("y", TensorProto.FLOAT, out)])
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()
        return client.compile(model).report()["kernels"]

    f32, i64 = TensorProto.FLOAT, TensorProto.INT64
    node = helper.make_node
    assert count([node("MatMul", ["a", "b"], ["m"]), node("Add", ["m", "c"], ["s"]), node("Relu", ["s"], ["y"])],
                 [("a", f32, [64, 96]), ("b", f32, [96, 80]), ("c", f32, [80])], [64, 80]) == 1
    assert count([node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1]), node("BatchNormalization", ["c", "s", "b", "m", "v"], ["n"]),
                  node("Relu", ["n"], ["y"])],
                 [("x", f32, [1, 16, 14, 14]), ("w", f32, [32, 16, 3, 3])] + [(k, f32, [32]) for k in "sbmv"], [1, 32, 14, 14]) == 1
    assert count([node("Gather", ["t", "i"], ["y"])], [("t", f32, [1000, 64]), ("i", i64, [7])], [7, 64]) == 1


def test_sum_of_arange_is_a_constant(client):
    import kiln

    g = kiln.Graph()
    g.output("y", g.iota("i64", (10000,)).sum())
    exe = client.compile(g)
    assert exe.report()["kernels"] == 0
    assert exe({})["y"] == 49995000


@pytest.mark.parametrize("name", models.TRAINED)
def test_trained_model_equals_onnxruntime(client, name):
    import kiln

    model, inputs, dims = models.trained(name)
    got, want = client.compile(model, kiln.Options(dims=dims))(inputs), reference(model, inputs)
    assert set(got) == set(want)
    for output, value in want.items():
        np.testing.assert_allclose(got[output], value, rtol=1e-3, atol=1e-4, err_msg=output)


@pytest.mark.parametrize("name", ["silero op13", "silero op15", "silero op16", "silero op18", "silero half"])
def test_silero_keeps_its_state_over_chunks(client, name):
    import kiln

    model, inputs, dims = models.trained(name)
    exe = client.compile(model, kiln.Options(dims=dims))
    rng = np.random.default_rng(3)
    ours = theirs = np.zeros(inputs["state"].shape, np.float32)
    for _ in range(8):
        inputs["input"] = (rng.standard_normal(inputs["input"].shape) * 0.2).astype(np.float32)
        got, want = exe({**inputs, "state": ours}), reference(model, {**inputs, "state": theirs})
        np.testing.assert_allclose(got["output"], want["output"], rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(got["stateN"], want["stateN"], rtol=1e-3, atol=1e-4)
        ours, theirs = got["stateN"], want["stateN"]


def test_silero_refuses_a_rate_that_its_chunk_is_not_for(client):
    """16 kHz chunks have 576 samples, which the 8 kHz branch of the model cannot take: a run that asks for it fails and says why."""
    import kiln

    model, inputs, dims = models.trained("silero op16")
    exe = client.compile(model, kiln.Options(dims=dims))
    with pytest.raises(kiln.Error) as error:
        exe({**inputs, "sr": np.array(8000, np.int64)})
    assert error.value.code == "OUT_OF_RANGE" and "branch" in str(error.value)
