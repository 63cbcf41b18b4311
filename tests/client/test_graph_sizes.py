"""Sizes of native graphs that a run decides: what they compute, and what is refused."""
import numpy as np
import pytest

import kiln
from kiln.v1 import graph_pb2 as pb


def test_expressions(client):
    g = kiln.Graph()
    n, m = g.dim("n", 1, 40), g.dim("m", 2, 40, multiple=2)
    x = g.param("x", "i32", (n, m))
    g.param("y", "i32", (m,))
    g.output("sum", g.arange(n + m))
    g.output("product", g.flatten(x))
    g.output("half", x.reshape(n, 2, m // 2).sum(1))
    g.output("rest", g.arange(n % 7))
    g.output("least", g.arange(n.min(m)))
    g.output("most", g.arange(n.max(5)))
    g.output("number", g.size(n * m + 1))
    g.output("padded", g.pad(x, [(0, m), (1, 0)], 9))
    g.output("wide", g.expand(g.const(3, "i32"), (m, n)))
    exe = client.compile(g)
    for a, b in ((1, 2), (9, 4), (40, 40)):
        v = np.arange(a * b, dtype=np.int32).reshape(a, b)
        got = exe({"x": v, "y": np.zeros(b, np.int32)})
        np.testing.assert_array_equal(got["sum"], np.arange(a + b))
        np.testing.assert_array_equal(got["product"], v.ravel())
        np.testing.assert_array_equal(got["half"], v.reshape(a, 2, b // 2).sum(1))
        assert [len(got[k]) for k in ("rest", "least", "most")] == [a % 7, min(a, b), max(a, 5)]
        assert got["number"] == a * b + 1
        np.testing.assert_array_equal(got["padded"], np.pad(v, [(0, b), (1, 0)], constant_values=9))
        assert got["wide"].shape == (b, a) and (got["wide"] == 3).all()


def test_a_computed_size(client):
    g = kiln.Graph()
    x = g.param("x", "f32", (16,))
    count = g.size_of((x > 0.0).cast("i32").sum(), max=16)
    g.output("order", g.shrink(g.sort(x, descending=True), [(0, count)]))
    exe = client.compile(g)
    for seed in range(3):
        a = np.random.default_rng(seed).standard_normal(16).astype(np.float32)
        np.testing.assert_array_equal(exe({"x": a})["order"], np.sort(a[a > 0])[::-1])


def test_a_computed_size_outside_of_its_bounds_fails_the_run(client):
    g = kiln.Graph()
    x = g.param("x", "i32", ())
    g.output("y", g.arange(g.size_of(x, max=8)))
    exe = client.compile(g)
    assert len(exe({"x": np.int32(8)})["y"]) == 8
    for bad in (9, -1):
        with pytest.raises(kiln.Error) as e:
            exe({"x": np.int32(bad)})
        assert e.value.code == "OUT_OF_RANGE" and str(bad) in e.value.message


def refused(client, change):
    """The message for x f32[n, m] reshaped to [n * m], after change(graph) damaged it."""
    g = kiln.Graph()
    x = g.param("x", "f32", (g.dim("n", 0, 50), g.dim("m", 1, 50)))
    g.output("y", g.flatten(x) * 2)
    change(g._proto)
    with pytest.raises(kiln.Error) as e:
        client.compile(g)
    assert e.value.code == "INVALID_ARGUMENT"
    return e.value.message


def entry(**fields):
    def change(p):
        p.sizes.add(**fields)
        p.nodes[1].sizes[0] = len(p.sizes)

    return change


@pytest.mark.parametrize("change,text", [
    (lambda p: p.nodes[1].sizes.append(1), "2 sizes for 1 integers"),
    (lambda p: p.nodes[1].sizes.__setitem__(0, 99), "size 98 of"),
    (lambda p: p.nodes[-1].sizes.append(1), "1 sizes for 0 integers of an op that takes none"),
    (entry(op=pb.SIZE_DIM, name="k"), "no parameter has a dimension 'k'"),
    (entry(op=pb.SIZE_ADD, src=[0]), "expected two sources"),
    (entry(op=pb.SIZE_ADD, src=[0, 77]), "not an earlier size"),
    (entry(op=77), "an unknown op"),
    (entry(op=pb.SIZE_FLOORDIV, src=[0, 1]), "may be less than 1"),
    (entry(op=pb.SIZE_MOD, src=[0, 1]), "may be less than 1"),
    (entry(op=pb.SIZE_CONST, value=-(2**63) + 2**46), "2^48"),
    (entry(op=pb.SIZE_CONST, value=2**49), "2^48"),
    (entry(op=pb.SIZE_NODE, node=2), "an earlier one"),
    (entry(op=pb.SIZE_NODE, node=0), "expected an integer scalar"),
    (lambda p: p.nodes[1].ints.__setitem__(0, 7000) or p.nodes[1].sizes.__setitem__(0, 0), "cannot reshape"),
    (lambda p: p.nodes[1].ClearField("sizes") or p.nodes[1].ints.__setitem__(0, -(2**63) + 2**46), "integer 0 is -92"),
    (lambda p: setattr(p.params[0].dims[0], "max", 2**60), "dimension 'n' in [0,"),
    (lambda p: setattr(p.params[0].dims[0], "min", 60), "dimension 'n' in [60,"),
])
def test_what_is_refused(client, change, text):
    message = refused(client, change)
    assert text in message, message


def test_what_is_not_certain_is_refused(client):
    g = kiln.Graph()
    x = g.param("x", "f32", (g.dim("n", 0, 50),))
    g.output("y", g.shrink(x, [(1, 4)]))
    with pytest.raises(kiln.Error) as e:
        client.compile(g)
    assert e.value.code == "INVALID_ARGUMENT" and "range [1, 4) of axis 0 with n" in e.value.message


def test_a_reshape_that_may_fit_is_checked_by_the_run(client):
    g = kiln.Graph()
    x = g.param("x", "f32", (g.dim("n", 1, 9), g.dim("m", 1, 9)))
    g.output("y", x.reshape(6))
    exe = client.compile(g)
    for shape in ((6, 1), (2, 3)):
        a = np.arange(6, dtype=np.float32)
        np.testing.assert_array_equal(exe({"x": a.reshape(shape)})["y"], a)
    with pytest.raises(kiln.Error) as e:
        exe({"x": np.zeros((2, 4), np.float32)})
    assert e.value.code in ("INVALID_ARGUMENT", "OUT_OF_RANGE")


def test_a_constant_has_numbers_as_dimensions(client):
    def change(p):
        p.params.add(name="c", dtype=pb.DTYPE_F32, data=b"").dims.add(name="q")
        p.nodes.add(op=pb.PARAM, ints=[1])

    assert "its dimensions are numbers" in refused(client, change)
