"""Sequences and optionals as inputs and outputs, through the daemon and the Python client."""
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import kiln


def model(nodes, inputs, outputs):
    graph = helper.make_graph(nodes, "g", inputs, outputs)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8).SerializeToString()


def tensor(shape):
    return helper.make_tensor_type_proto(TensorProto.FLOAT, shape)


def sequence(name, shape):
    return helper.make_value_info(name, helper.make_sequence_type_proto(tensor(shape)))


def optional(name, of):
    return helper.make_value_info(name, helper.make_optional_type_proto(of))


INSERT = model([helper.make_node("SequenceInsert", ["list", "x"], ["longer"])],
               [sequence("list", [None, 3]), helper.make_tensor_value_info("x", 1, [1, 3])], [sequence("longer", None)])


def test_lists_in_and_out(client):
    exe = client.compile(INSERT, kiln.Options(dims={"list.length": 2, "list[0].0": 4, "list[1].0": 2}))
    assert [s.name for s in exe.inputs] == ["list[0]", "list[1]", "x"]
    assert exe.input_values == [kiln.ValueSpec("list", 2, False)] and exe.output_values == [kiln.ValueSpec("longer", 3, False)]
    parts = [np.random.default_rng(k).standard_normal((n, 3)).astype(np.float32) for k, n in enumerate((4, 2, 1))]
    got = exe({"list": parts[:2], "x": parts[2]})
    assert list(got) == ["longer"]
    for have, want in zip(got["longer"], parts, strict=True):
        np.testing.assert_array_equal(have, want)
    assert len(exe.run({"list": parts[:2], "x": parts[2]}, outputs=["longer"])["longer"]) == 3


def test_an_empty_list(client):
    exe = client.compile(INSERT, kiln.Options(dims={"list.length": 0}))
    assert len(exe({"list": [], "x": np.ones((1, 3), np.float32)})["longer"]) == 1


def test_a_list_needs_a_length(client):
    with pytest.raises(kiln.Error) as e:
        client.compile(INSERT)
    assert e.value.code == "INVALID_ARGUMENT" and "list.length" in str(e.value)
    with pytest.raises(kiln.Error) as e:
        client.compile(INSERT, kiln.Options(dims={"list.length": 1 << 40}))
    assert e.value.code == "INVALID_ARGUMENT"


def test_a_list_of_another_length_is_refused(client):
    exe = client.compile(INSERT, kiln.Options(dims={"list.length": 2, "list[0].0": 4, "list[1].0": 2}))
    with pytest.raises(kiln.Error) as e:
        exe({"list": [np.ones((4, 3), np.float32)], "x": np.ones((1, 3), np.float32)})
    assert e.value.code == "INVALID_ARGUMENT" and "2 tensors" in str(e.value)


def test_elements_may_differ_in_size_at_every_run(client):
    exe = client.compile(INSERT, kiln.Options(dims={"list.length": 1}))
    for n in (1, 5, 9):
        got = exe({"list": [np.full((n, 3), n, np.float32)], "x": np.zeros((1, 3), np.float32)})["longer"]
        assert got[0].shape == (n, 3) and (got[0] == n).all()


HAS = model([helper.make_node("OptionalHasElement", ["maybe"], ["there"]), helper.make_node("Identity", ["maybe"], ["same"])],
            [optional("maybe", tensor([2]))], [helper.make_tensor_value_info("there", TensorProto.BOOL, []), optional("same", tensor([2]))])


def test_optionals(client):
    exe = client.compile(HAS)
    got = exe({"maybe": np.array([1, 2], np.float32)})
    assert got["there"] and got["same"].tolist() == [1, 2]
    exe = client.compile(HAS, kiln.Options(dims={"maybe.present": 0}))
    assert exe.inputs == [] and exe.input_values == [kiln.ValueSpec("maybe", 0, True)]
    for inputs in ({}, {"maybe": None}):
        got = exe(inputs)
        assert not got["there"] and got["same"] is None
    with pytest.raises(kiln.Error) as e:
        exe({"maybe": np.ones(2, np.float32)})
    assert e.value.code == "INVALID_ARGUMENT"


def test_a_rank_from_the_request(client):
    blob = model([helper.make_node("Neg", ["x"], ["y"])], [helper.make_value_info("x", helper.make_tensor_type_proto(TensorProto.FLOAT, None))],
                 [helper.make_empty_tensor_value_info("y")])
    with pytest.raises(kiln.Error) as e:
        client.compile(blob)
    assert e.value.code == "INVALID_ARGUMENT" and "x.rank" in str(e.value)
    exe = client.compile(blob, kiln.Options(dims={"x.rank": 2, "x.0": 2, "x.1": 3}))
    np.testing.assert_array_equal(exe({"x": np.ones((2, 3), np.float32)})["y"], -np.ones((2, 3)))


def test_a_sequence_where_a_tensor_is_expected(client):
    blob = model([helper.make_node("SequenceConstruct", ["x"], ["s"]), helper.make_node("Neg", ["s"], ["y"])], [helper.make_tensor_value_info("x", 1, [2])],
                 [helper.make_empty_tensor_value_info("y")])
    with pytest.raises(kiln.Error) as e:
        client.compile(blob)
    assert e.value.code == "INVALID_ARGUMENT" and "is a sequence, expected a tensor" in str(e.value)
