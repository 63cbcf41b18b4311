"""Sizes that a run decides, through the daemon: one executable, several inputs, compared with ONNX Runtime."""
import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper

import models

F, I, B = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL


def model(nodes, inputs, outputs):
    graph = helper.make_graph(nodes, "g", [helper.make_tensor_value_info(*i) for i in inputs],
                              [helper.make_tensor_value_info(name, kind, [None] * rank) for name, kind, rank in outputs])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()


def reference(data, feeds):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    return dict(zip([o.name for o in session.get_outputs()], session.run(None, feeds)))


def check(client, data, runs, rtol=1e-3, atol=1e-5):
    exe = client.compile(data)
    for feeds in runs:
        got, want = exe(feeds), reference(data, feeds)
        for name, value in want.items():
            assert got[name].shape == value.shape, name
            np.testing.assert_allclose(got[name], value, rtol=rtol, atol=atol, err_msg=name)
    return exe


def random(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def test_bert_with_named_dimensions(client):
    data = models.bert_dynamic(2, 64, 4)

    def feeds(batch, tokens):
        ids = np.random.default_rng(tokens).integers(0, 1000, (batch, tokens))
        mask = np.ones((batch, tokens), np.int64)
        mask[0, (tokens + 1) // 2:] = 0
        return {"ids": ids, "mask": mask}

    exe = check(client, data, [feeds(1, 1), feeds(1, 7), feeds(3, 33), feeds(2, 128)], atol=1e-4)
    import kiln

    with pytest.raises(kiln.Error) as e:  # there are 512 positions
        exe(feeds(1, 513))
    assert e.value.code == "OUT_OF_RANGE"


CASES = {
    "NonZero": ([helper.make_node("NonZero", ["x"], ["y"])], [("x", F, ["n", 3])], [("y", I, 2)],
                [{"x": np.where(random(n, 3, seed=n) > 0, 1, 0).astype(np.float32)} for n in (1, 5, 700)]),
    "Compress": ([helper.make_node("Compress", ["x", "c"], ["y"], axis=0)], [("x", F, ["n", 2]), ("c", B, ["n"])], [("y", F, 2)],
                 [{"x": random(n, 2), "c": random(n, seed=n) > 0} for n in (1, 6, 300)]),
    "Unique": ([helper.make_node("Unique", ["x"], ["y", "first", "inverse", "counts"])], [("x", I, ["n"])],
               [("y", I, 1), ("first", I, 1), ("inverse", I, 1), ("counts", I, 1)],
               [{"x": np.random.default_rng(n).integers(-9, 9, n)} for n in (1, 8, 100, 3000)]),
    "Unique, as they occur": ([helper.make_node("Unique", ["x"], ["y", "first", "inverse", "counts"], sorted=0)], [("x", F, ["n"])],
                              [("y", F, 1), ("first", I, 1), ("inverse", I, 1), ("counts", I, 1)],
                              [{"x": np.round(random(n, seed=n))} for n in (1, 9, 200)]),
    "TopK": ([helper.make_node("TopK", ["x", "k"], ["y", "at"])], [("x", F, [2, "n"]), ("k", I, [1])], [("y", F, 2), ("at", I, 2)],
             [{"x": random(2, n, seed=n), "k": np.array([k])} for n, k in ((3, 1), (10, 10), (5000, 17))]),
    "Range": ([helper.make_node("Range", ["a", "b", "c"], ["y"])], [("a", I, []), ("b", I, []), ("c", I, [])], [("y", I, 1)],
              [{"a": np.array(a), "b": np.array(b), "c": np.array(c)} for a, b, c in ((0, 5, 1), (7, -3, -2), (3, 3, 1))]),
    "Slice": ([helper.make_node("Slice", ["x", "s", "e", "", "t"], ["y"])],
              [("x", F, ["n", 4]), ("s", I, [1]), ("e", I, [1]), ("t", I, [1])], [("y", F, 2)],
              [{"x": random(n, 4), "s": np.array([s]), "e": np.array([e]), "t": np.array([t])}
               for n, s, e, t in ((5, 1, 4, 1), (9, -1, -100, -2), (3, 2, 1, 1), (6, 0, 1 << 60, 4))]),
    "Reshape": ([helper.make_node("Reshape", ["x", "s"], ["y"])], [("x", F, ["n", 6]), ("s", I, [3])], [("y", F, 3)],
                [{"x": random(n, 6), "s": np.array(s)} for n, s in ((2, (3, -1, 2)), (4, (0, 2, 3)), (1, (1, 6, 1)))]),
    "Expand": ([helper.make_node("Expand", ["x", "s"], ["y"])], [("x", F, ["n", 1]), ("s", I, [3])], [("y", F, 3)],
               [{"x": random(n, 1), "s": np.array(s)} for n, s in ((1, (2, 3, 4)), (5, (1, 1, 7)), (4, (3, 4, 1)))]),
    "Pad": ([helper.make_node("Pad", ["x", "p"], ["y"], mode="reflect")], [("x", F, ["n", 5]), ("p", I, [4])], [("y", F, 2)],
            [{"x": random(n, 5), "p": np.array(p)} for n, p in ((4, (0, 2, 3, 1)), (3, (2, 0, 0, 4)), (6, (1, 1, 1, 1)))]),
    "Resize": ([helper.make_node("Resize", ["x", "", "", "s"], ["y"], mode="linear")], [("x", F, [1, 2, "h", "w"]), ("s", I, [4])],
               [("y", F, 4)],
               [{"x": random(1, 2, h, w), "s": np.array((1, 2, *s))} for h, w, s in ((3, 4, (6, 2)), (5, 5, (5, 9)), (2, 7, (3, 3)))]),
    "sizes that meet": ([helper.make_node("Add", ["x", "y"], ["z"])], [("x", F, ["n", "k"]), ("y", F, ["m", "k"])], [("z", F, 2)],
                        [{"x": random(n, 4), "y": random(m, 4, seed=1)} for n, m in ((3, 3), (1, 5), (6, 1))]),
    "pooling, rounded up": ([helper.make_node("AveragePool", ["x"], ["y"], kernel_shape=[3], strides=[2], ceil_mode=1, pads=[1, 1])],
                            [("x", F, [1, 2, "n"])], [("y", F, 3)], [{"x": random(1, 2, n)} for n in (3, 4, 5, 16)]),
}


@pytest.mark.parametrize("name", CASES)
def test_one_executable_for_every_size(client, name):
    nodes, inputs, outputs, runs = CASES[name]
    check(client, model(nodes, inputs, outputs), runs)


def test_sizes_that_do_not_meet_are_refused(client):
    import kiln

    nodes, inputs, outputs, _ = CASES["sizes that meet"]
    exe = client.compile(model(nodes, inputs, outputs))
    with pytest.raises(kiln.Error) as e:
        exe({"x": random(3, 4), "y": random(2, 4)})
    assert e.value.code == "OUT_OF_RANGE"
