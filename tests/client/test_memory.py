"""kiln.Memory: tensors that a server on this machine takes without a copy."""
import asyncio
import gc

import kiln
import numpy as np
import pytest


def doubled(client, n):
    g = kiln.Graph()
    g.output("y", g.param("x", "f32", (n,)) * 2.0)
    return client.compile(g)


def resident(client):
    return client.server_info().resident_bytes


def test_given_memory_is_the_buffer(client):
    m = kiln.Memory((3, 5), "f32")
    assert m.array.shape == (3, 5) and not m.array.any()
    m.array[:] = np.arange(15).reshape(3, 5)
    b = client.upload(m)
    assert (b.dtype, b.shape) == ("f32", (3, 5))
    np.testing.assert_array_equal(b.numpy(), np.arange(15, dtype=np.float32).reshape(3, 5))
    with pytest.raises(ValueError):
        m.array[0, 0] = 1  # it is the server's as well now
    np.testing.assert_array_equal(m.array, b.numpy())
    again = client.upload(m)
    assert again.buffer_id != b.buffer_id
    b.free(), again.free()


def test_runs_read_it(client):
    exe, m = doubled(client, 1 << 16), kiln.Memory((1 << 16,))
    m.array[:] = np.random.default_rng(1).random(1 << 16, np.float32)
    b = client.upload(m)
    np.testing.assert_array_equal(exe.run({"x": b})["y"], 2 * m.array)
    b.free()


def test_the_server_copies_nothing(client):
    size = 64 << 20
    client.upload(np.zeros(4, np.float32)).free()
    before = resident(client)
    m = kiln.Memory((size,), "u8")
    m.array[::4096] = 7
    b = client.upload(m)
    assert resident(client) - before < size // 4
    assert b.numpy()[::4096].all()
    b.free()


def test_memory_in_use_is_not_given(client):
    m = kiln.Memory((8,))
    part = m.array[2:4]
    with pytest.raises(kiln.Error) as e:
        client.upload(m)
    assert e.value.code == "FAILED_PRECONDITION" and "references" in e.value.message
    m.array[:] = 3  # nothing has happened to it
    del part
    gc.collect()
    b = client.upload(m)
    assert b.numpy().tolist() == [3] * 8
    b.free()


def test_no_run_updates_it(client):
    g = kiln.Graph()
    s = g.param("s", "f32", (4,), state=True)
    g.output("y", g.assign(s, s + 1.0))
    b = client.upload(kiln.Memory((4,)))
    with pytest.raises(kiln.Error) as e:
        client.compile(g).run({"s": b})
    assert e.value.code == "FAILED_PRECONDITION" and "sealed" in e.value.message
    b.free()


def test_what_the_server_refuses_is_said(client):
    m = kiln.Memory((4,))
    with pytest.raises(kiln.Error) as e:
        client.upload(m, device="cpu:9")
    assert e.value.code == "NOT_FOUND" and "cpu:9" in e.value.message
    with pytest.raises(kiln.Error):
        kiln.Client("unix:/nowhere/kiln.sock", retry=0).upload(m)


@pytest.mark.parametrize("shape", [(), (0,), (3, 0, 2), (1,)])
def test_small_and_empty(client, shape):
    b = client.upload(kiln.Memory(shape, "i64"))
    assert b.numpy().shape == shape and b.numpy().dtype == np.int64
    b.free()


def test_asyncio(client):
    async def main():
        async with await kiln.aio.connect(client.target) as c:
            m = kiln.Memory((6,), "f64")
            m.array[:] = 5
            b = await c.upload(m)
            assert (await b.numpy()).tolist() == [5] * 6
            await b.free()
    asyncio.run(main())
