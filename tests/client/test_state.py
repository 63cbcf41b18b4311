"""State through the daemon: parameters that runs update in place."""
import asyncio
import os

import numpy as np
import pytest

import kiln

PROGRAMS = int(os.environ.get("KILN_STATE_PROGRAMS", "40"))


def counter(client):
    g = kiln.Graph()
    x = g.param("x", "f32", (5,), state=True)
    g.assign(x, x + 1)
    g.output("now", x * 1)
    return client.compile(g)


def test_runs_update_one_buffer_in_order(client):
    exe = counter(client)
    assert exe.inputs[0].state and not exe.outputs[0].state
    x = client.upload(np.arange(5, dtype=np.float32))
    for k in range(1, 4):
        np.testing.assert_array_equal(exe({"x": x})["now"], np.arange(5) + k)
        np.testing.assert_array_equal(x.numpy(), np.arange(5) + k)


def test_state_begins_as_zeros(client):
    exe = counter(client)
    state = exe.state()
    exe(state)
    exe(state)
    np.testing.assert_array_equal(state["x"].numpy(), np.full(5, 2, np.float32))


def test_state_without_outputs(client):
    g = kiln.Graph()
    x = g.param("x", "i32", (4, 6), state=True)
    v = g.param("v", "i32", (6,))
    g.assign(g.shrink(x, [(2, 3), (0, 6)]), v)
    exe, state = client.compile(g), None
    state = exe.state()
    assert exe({**state, "v": np.arange(6, dtype=np.int32)}) == {}
    want = np.zeros((4, 6), np.int32)
    want[2] = np.arange(6)
    np.testing.assert_array_equal(state["x"].numpy(), want)


def test_state_in_asyncio(client):
    async def main():
        async with await kiln.aio.connect(client.target) as c:
            g = kiln.Graph()
            x = g.param("x", "i32", (3,), state=True)
            g.assign(x, x + 2)
            exe = await c.compile(g)
            state = await exe.state()
            await asyncio.gather(*[exe(state) for _ in range(5)])
            np.testing.assert_array_equal(await state["x"].numpy(), [10, 10, 10])
    asyncio.run(main())


def refused(code, words, fn):
    with pytest.raises(kiln.Error) as e:
        fn()
    assert e.value.code == code
    for word in words:
        assert word in e.value.message, e.value.message


def test_mistakes_with_state_are_refused(client):
    exe = counter(client)
    refused("INVALID_ARGUMENT", ["'x'", "state", "buffer"], lambda: exe({"x": np.zeros(5, np.float32)}))
    refused("INVALID_ARGUMENT", ["'x'", "missing"], lambda: exe({}))
    g = kiln.Graph()
    a, b = g.param("a", "f32", (5,), state=True), g.param("b", "f32", (5,))
    g.assign(a, b)
    two, x = client.compile(g), client.upload(np.zeros(5, np.float32))
    refused("INVALID_ARGUMENT", ["given twice"], lambda: two({"a": x, "b": x}))


def test_as_many_rows_as_the_run_has(client):
    """The part that is assigned has a symbolic size."""
    g = kiln.Graph()
    cache, x = g.param("cache", "f32", (16, 4), state=True), g.param("x", "f32", ("n", 4))
    g.assign(g.shrink(cache, [(0, x.shape[0]), (0, 4)]), x * 2.0)
    g.output("sum", cache.sum(0))
    exe = client.compile(g, kiln.Options(dims={"n": (1, 16)}))
    state, want = exe.state(), np.zeros((16, 4), np.float32)
    for n in (3, 7, 16, 1):
        v = np.random.default_rng(n).random((n, 4), np.float32)
        want[:n] = v * 2
        np.testing.assert_allclose(exe({**state, "x": v})["sum"], want.sum(0), rtol=1e-5)


def assign_error(client, build):
    g = kiln.Graph()
    x, y = g.param("x", "f32", (4, 4), state=True), g.param("y", "f32", (4, 4))
    with pytest.raises(kiln.Error) as e:  # by the builder, or by the server
        build(g, x, y)
        client.compile(g)
    assert e.value.code == "INVALID_ARGUMENT" and "ASSIGN" in e.value.message
    return e.value.message


def test_bad_assignments_name_the_node(client):
    assert "view of a state" in assign_error(client, lambda g, x, y: g.assign(y, x))
    assert "view of a state" in assign_error(client, lambda g, x, y: g.assign(x + 1, x))
    assert "twice" in assign_error(client, lambda g, x, y: g.assign(g.expand(g.shrink(x, [(0, 1), (0, 4)]), (4, 4)), y))
    assert "twice" in assign_error(client, lambda g, x, y: g.assign(g.window(x, 0, 2), 0))
    assert "i32" in assign_error(client, lambda g, x, y: g.assign(x, y.cast("i32")))
    assign_error(client, lambda g, x, y: g.assign(x, y.reshape(16)))


class Program:
    """A random program of reads and writes on views, in the graph and in numpy: a view is the array of its places in the state."""

    def __init__(self, seed):
        self.rng = np.random.default_rng(seed)
        self.g = kiln.Graph()
        self.states, self.temps = [], []
        for k in range(self.rng.integers(1, 4)):
            shape = tuple(int(d) for d in self.rng.integers(1, 9, self.rng.integers(1, 4)))
            node = self.g.param(f"s{k}", "i32", shape, state=True)
            self.states.append((node, self.rng.integers(-50, 50, int(np.prod(shape))).astype(np.int32), shape))
        self.start = [s[1].copy() for s in self.states]
        for _ in range(self.rng.integers(1, 9)):
            self.step()
        for k, (node, value) in enumerate(self.temps):
            self.g.output(f"t{k}", node)

    def pick(self, n):
        return int(self.rng.integers(n))

    def view(self):
        s = self.pick(len(self.states))
        node, cells, shape = self.states[s]
        at = np.arange(cells.size).reshape(shape)
        for _ in range(self.pick(5)):
            node, at = self.move(node, at)
        return s, node, at

    def move(self, node, at):
        kind, g = self.pick(5), self.g
        if kind == 0:
            order = [int(i) for i in self.rng.permutation(at.ndim)]
            return g.permute(node, order), at.transpose(order)
        if kind == 1:
            bounds = [(b := self.pick(d), b + 1 + self.pick(d - b)) for d in at.shape]
            return g.shrink(node, bounds), at[tuple(slice(*b) for b in bounds)]
        if kind == 2:
            axis = self.pick(at.ndim)
            return g.flip(node, [axis]), np.flip(at, axis)
        if kind == 3 and at.ndim < 5:
            axis, step = self.pick(at.ndim), 1 + self.pick(3)
            at = at[(slice(None),) * axis + (slice(None, None, step),)]
            return g.window(node, axis, 1, step), np.expand_dims(at, axis + 1)
        last = next(d for d in (4, 3, 2, 1) if at.size % d == 0)
        dims = (at.size // last, last) if self.pick(2) else (at.size,)
        return g.reshape(node, dims), at.reshape(dims)

    def value(self, shape):
        """Something of that shape, read now."""
        n = int(np.prod(shape))
        s, node, at = self.view()
        cells = self.states[s][1]
        node, value = self.g.reshape(node, (at.size,)), cells[at].reshape(-1)
        node, value = self.fit(node, value, n)
        if self.temps and self.pick(2):
            t, tv = self.temps[self.pick(len(self.temps))]
            t, tv = self.fit(self.g.reshape(t, (tv.size,)), tv.reshape(-1), n)
            node, value = node + t, value + tv
        if self.pick(3):
            node, value = node * 3 + 1, value * 3 + 1
        if self.pick(4) == 0:
            axis_sum = node.sum(keepdims=True)
            node, value = node + self.g.expand(axis_sum, (n,)), value + value.sum(dtype=np.int32)
        return self.g.reshape(node, shape), value.reshape(shape)

    def fit(self, node, value, n):
        if value.size >= n:
            return self.g.shrink(node, [(0, n)]), value[:n]
        return self.g.expand(self.g.shrink(node, [(0, 1)]), (n,)), np.repeat(value[:1], n)

    def step(self):
        s, node, at = self.view()
        value, number = self.value(at.shape)
        if self.pick(3) == 0:
            self.temps.append((self.g.neg(value), -number))
            return
        if self.pick(3) == 0:
            value, number = value ^ node, number ^ self.states[s][1][at]
        self.g.assign(node, value)
        self.states[s][1][at] = number

    def check(self, client):
        if not self.temps and all((a == s[1]).all() for a, s in zip(self.start, self.states)) and not any(
                n.op for n in self.g._proto.nodes if kiln.v1.graph_pb2.GraphOp.Name(n.op) == "ASSIGN"):
            return
        exe = client.compile(self.g)
        buffers = [client.upload(a.reshape(s[2])) for a, s in zip(self.start, self.states)]
        out = exe({f"s{k}": b for k, b in enumerate(buffers)})
        for k, (_, value) in enumerate(self.temps):
            np.testing.assert_array_equal(out[f"t{k}"], value)
        for b, (_, cells, shape) in zip(buffers, self.states):
            np.testing.assert_array_equal(b.numpy(), cells.reshape(shape))
            b.free()
        exe.release()


@pytest.mark.parametrize("seed", range(PROGRAMS))
def test_random_programs_equal_numpy(client, seed):
    with np.errstate(over="ignore"):
        Program(seed).check(client)
