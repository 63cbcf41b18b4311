"""If with branches that cost something: only the one taken is computed. Compared with ONNX Runtime, and with the plan's own steps."""
import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from test_open_sizes import model, random, reference

F, B = TensorProto.FLOAT, TensorProto.BOOL


def branch(name, nodes, out, shape):
    return helper.make_graph(nodes, name, [], [helper.make_tensor_value_info(out, F, shape)])


def constant(name, value):
    return helper.make_node("Constant", [], [name], value=numpy_helper.from_array(value))


def deep(name, source, n, layers, scale):
    """A chain of matrix products with weights of its own."""
    nodes, x = [], source
    for k in range(layers):
        nodes += [constant(f"{name}w{k}", random(n, n, seed=k) * np.float32(scale)), helper.make_node("MatMul", [x, f"{name}w{k}"], [f"{name}m{k}"]),
                  helper.make_node("Tanh", [f"{name}m{k}"], [f"{name}t{k}"])]
        x = f"{name}t{k}"
    return nodes, x


def two_branches(n=128, rows=64, inner=False):
    """y = c ? deep(relu(x)) : deep(x) + relu(x); relu(x) is computed outside and used inside. inner: an If in the branch."""
    then, then_out = deep("a", "r", n, 3, 0.1)
    other, last = deep("b", "x", n, 2, 0.2)
    other.append(helper.make_node("Add", [last, "r"], ["bsum"]))
    if inner:
        left, left_out = deep("c", "bsum", n, 2, 0.3)
        nested = helper.make_node("If", ["d"], ["bn"], then_branch=branch("left", left, left_out, [rows, n]),
                                  else_branch=branch("right", [helper.make_node("Neg", ["bsum"], ["neg"])], "neg", [rows, n]))
        other.append(nested)
    other_out = "bn" if inner else "bsum"
    nodes = [helper.make_node("Relu", ["x"], ["r"]),
             helper.make_node("If", ["c"], ["z"], then_branch=branch("then", then, then_out, [rows, n]),
                              else_branch=branch("else", other, other_out, [rows, n])),
             helper.make_node("Mul", ["z", "r"], ["y"])]
    inputs = [("x", F, [rows, n]), ("c", B, [])] + ([("d", B, [])] if inner else [])
    return model(nodes, inputs, [("y", F, 2)])


@pytest.mark.parametrize("inner", [False, True])
def test_the_branch_taken(client, inner):
    data = two_branches(inner=inner)
    exe = client.compile(data)
    for c in (True, False, True):
        for d in ((True, False) if inner else (None,)):
            feeds = {"x": random(64, 128, seed=5), "c": np.array(c)}
            if inner:
                feeds["d"] = np.array(d)
            np.testing.assert_allclose(exe(feeds)["y"], reference(data, feeds)["y"], rtol=1e-3, atol=1e-5)


def steps(client, data):
    return [line.split()[0] for line in client.inspect(data, stage="kernels").splitlines() if line.split()[0].rstrip("0123456789:") in ("call", "loop", "end")]


def test_products_are_inside_of_the_loops(client):
    """What is computed whatever the condition is: relu, the conditions as numbers, the select at the end."""
    depth, outside, inside = 0, 0, 0
    for step in steps(client, two_branches()):
        depth += {"loop": 1, "end": -1}.get(step, 0)
        outside += step == "call" and depth == 0
        inside += step == "call" and depth == 1
    assert depth == 0 and inside >= 5 and outside <= 4


def test_a_cheap_branch_is_a_select(client):
    small = two_branches(n=4, rows=2)
    assert "loop" not in steps(client, small)


def test_a_loop_in_a_branch(client):
    """An LSTM in one branch, over a sequence that is long enough to be a loop."""
    T, n = 40, 32
    weights = [constant("W", random(1, 4 * n, n) * 0.2), constant("R", random(1, 4 * n, n, seed=1) * 0.2)]
    then = weights + [helper.make_node("LSTM", ["x", "W", "R"], ["all", "h", "cell"], hidden_size=n)]
    other = [constant("zero", np.zeros((1, 2, n), np.float32)), helper.make_node("Identity", ["zero"], ["i"])]
    nodes = [helper.make_node("If", ["c"], ["z"], then_branch=branch("then", then, "h", [1, 2, n]), else_branch=branch("else", other, "i", [1, 2, n])),
             helper.make_node("Neg", ["z"], ["y"])]
    data = model(nodes, [("x", F, [T, 2, n]), ("c", B, [])], [("y", F, 3)])
    exe = client.compile(data)
    for c in (True, False):
        feeds = {"x": random(T, 2, n, seed=3), "c": np.array(c)}
        np.testing.assert_allclose(exe(feeds)["y"], reference(data, feeds)["y"], rtol=1e-3, atol=1e-5)
