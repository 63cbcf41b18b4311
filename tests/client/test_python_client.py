"""The Python client against a real daemon."""
import asyncio

import numpy as np
import pytest

import kiln


def test_graph_with_a_symbolic_dim(client):
    g = kiln.Graph()
    x = g.param("x", "f32", (4, "n"))
    g.output("y", g.exp2(x).sum(axis=1))
    exe = client.compile(g, kiln.Options(dims={"n": 9}))
    assert exe.inputs == [kiln.TensorSpec("x", "f32", (4, 9))]
    assert exe.outputs == [kiln.TensorSpec("y", "f32", (4,))]
    a = np.random.default_rng(0).standard_normal((4, 9)).astype(np.float32)
    np.testing.assert_allclose(exe({"x": a})["y"], np.exp2(a).sum(1), rtol=1e-5)


def test_an_open_dim_serves_every_size(client):
    g = kiln.Graph()
    n = g.dim("n", 1, 64)
    x = g.param("x", "f32", (4, n))
    g.output("y", (x.reshape(2, -1) * 2)[:, 1:])
    exe = client.compile(g)
    for size in (1, 5, 64):
        a = np.arange(4 * size, dtype=np.float32).reshape(4, size)
        np.testing.assert_array_equal(exe({"x": a})["y"], a.reshape(2, -1)[:, 1:] * 2)
    with pytest.raises(kiln.Error) as e:
        exe({"x": np.zeros((4, 65), np.float32)})
    assert e.value.code == "INVALID_ARGUMENT" and "n" in e.value.message


@pytest.mark.parametrize("dtype", ["bool", "i8", "i16", "i32", "i64", "u8", "u16", "u32", "u64", "f16", "f32", "f64"])
def test_every_dtype_crosses_the_wire(client, dtype):
    g = kiln.Graph()
    x = g.param("x", dtype, (3, 5))
    g.output("y", x.permute(1, 0))
    a = np.arange(15).reshape(3, 5).astype(exe_dtype(dtype))
    out = client.compile(g)({"x": a})["y"]
    assert out.dtype == a.dtype
    np.testing.assert_array_equal(out, a.T)


def exe_dtype(name):
    from kiln import _codec
    return _codec.numpy_dtype(_codec.dtype_number(name))


def test_operators_match_numpy(client):
    g = kiln.Graph()
    x, y = g.param("x", "i32", (6,)), g.param("y", "i32", (6,))
    cases = {"add": x + y, "sub": x - y, "mul": x * y, "floordiv": x // y, "mod": x % y, "lt": x < y, "ge": x >= y,
             "neg": -x, "rsub": 3 - x, "where": g.where(x < y, x, 7), "and": x & y, "xor": x ^ y}
    for name, node in cases.items():
        g.output(name, node)
    a = np.array([5, -5, 7, -7, 0, 100], np.int32)
    b = np.array([3, 3, -2, -2, 9, 7], np.int32)
    out = client.compile(g)({"x": a, "y": b})
    want = {"add": a + b, "sub": a - b, "mul": a * b, "floordiv": a // b, "mod": a % b, "lt": a < b, "ge": a >= b, "neg": -a,
            "rsub": 3 - a, "where": np.where(a < b, a, 7), "and": a & b, "xor": a ^ b}
    for name, value in want.items():
        np.testing.assert_array_equal(out[name], value, err_msg=name)


def test_reductions_movement_and_matmul(client):
    g = kiln.Graph()
    x, w = g.param("x", "f32", (2, 3, 8)), g.constant(np.arange(32, dtype=np.float32).reshape(8, 4))
    g.output("matmul", x @ w)
    g.output("max", x.amax(axis=(0, 2)))
    g.output("all", x.sum())
    g.output("keep", x.sum(axis=-1, keepdims=True))
    g.output("pad", g.pad(x, [(0, 0), (1, 2), (0, 0)], 9))
    g.output("cat", g.cat([x, g.flip(x, [2])], axis=1))
    g.output("window", g.window(x, 2, 3, stride=2))
    g.output("shrink", g.shrink(x, [(0, 1), (1, 3), (2, 7)]))
    a = np.random.default_rng(1).standard_normal((2, 3, 8)).astype(np.float32)
    out = client.compile(g)({"x": a})
    np.testing.assert_allclose(out["matmul"], a @ np.arange(32, dtype=np.float32).reshape(8, 4), rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(out["max"], a.max((0, 2)))
    np.testing.assert_allclose(out["all"], a.sum(), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(out["keep"], a.sum(-1, keepdims=True), rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(out["pad"], np.pad(a, [(0, 0), (1, 2), (0, 0)], constant_values=9))
    np.testing.assert_array_equal(out["cat"], np.concatenate([a, a[:, :, ::-1]], 1))
    np.testing.assert_array_equal(out["window"], np.lib.stride_tricks.sliding_window_view(a, 3, axis=2)[:, :, ::2])
    np.testing.assert_array_equal(out["shrink"], a[0:1, 1:3, 2:7])


def test_buffers_stay_on_the_server(client):
    g = kiln.Graph()
    x = g.param("x", "f32", (1000,))
    g.output("y", x * 2 + 1)
    exe = client.compile(g)
    a = np.random.default_rng(2).standard_normal(1000).astype(np.float32)
    buf = client.upload(a)
    np.testing.assert_array_equal(buf.numpy(), a)
    kept = exe({"x": buf}, outputs="buffers")["y"]
    again = exe({"x": kept})["y"]
    np.testing.assert_allclose(again, (a * 2 + 1) * 2 + 1, rtol=1e-6)
    assert {buf.buffer_id, kept.buffer_id} <= {b.buffer_id for b in client.buffers()}
    buf.free()
    with pytest.raises(kiln.Error) as e:
        buf.numpy()
    assert e.value.code == "NOT_FOUND"


@pytest.mark.parametrize("inputs, words", [
    ({"x": np.zeros((3,), np.float32)}, ["'x'", "f32[4]", "f32[3]"]),
    ({"x": np.zeros((4,), np.float64)}, ["'x'", "f32[4]", "f64[4]"]),
    ({}, ["'x'"]),
    ({"x": np.zeros((4,), np.float32), "z": np.zeros(1, np.float32)}, ["'z'"]),
])
def test_wrong_inputs_say_expected_and_got(client, inputs, words):
    g = kiln.Graph()
    g.output("y", -g.param("x", "f32", (4,)))
    exe = client.compile(g)
    with pytest.raises(kiln.Error) as e:
        exe(inputs)
    assert e.value.code == "INVALID_ARGUMENT"
    for word in words:
        assert word in e.value.message, e.value.message


def test_asyncio_client(client):
    async def main():
        async with await kiln.aio.connect(client.target) as c:
            g = kiln.Graph()
            g.output("y", g.param("x", "f32", (8,)) + 1)
            exe = await c.compile(g)
            outs = await asyncio.gather(*(exe({"x": np.full(8, i, np.float32)}) for i in range(16)))
            for i, out in enumerate(outs):
                np.testing.assert_array_equal(out["y"], np.full(8, i + 1, np.float32))
            buf = await c.upload(np.arange(4.0))
            np.testing.assert_array_equal(await buf.numpy(), np.arange(4.0))
            await buf.free()

    asyncio.run(main())


def test_inspect_shows_code(client):
    g = kiln.Graph()
    g.output("y", g.param("x", "f32", (64,)) * 3)
    text = client.inspect(g, stage="code", kernel=0)
    assert "define void" in text
    with pytest.raises(kiln.Error) as e:
        client.inspect(g, stage="nonsense")
    assert e.value.code == "INVALID_ARGUMENT"


def test_connect_without_a_server_fails_when_spawning_is_forbidden(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.delenv("KILN_SERVER", raising=False)
    with pytest.raises(kiln.Error) as e:
        kiln.connect(spawn=False)
    assert e.value.code == "UNAVAILABLE"


def test_connect_starts_the_users_own_daemon(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.delenv("KILN_SERVER", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with kiln.connect() as c:
        pid = c.server_info().pid
        assert (tmp_path / "kiln" / "kiln.sock").exists()
    import os
    import signal
    os.kill(pid, signal.SIGTERM)


def test_the_stubs_and_the_reference_page_are_what_the_docstrings_say():
    import pathlib
    import subprocess
    import sys

    script = pathlib.Path(__file__).parent.parent / "docs" / "python_reference.py"
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
