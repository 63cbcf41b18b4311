"""Named dimensions in the Python client: options, interfaces, sizes that runs decide; blocking and asyncio."""
import asyncio

import numpy as np
import pytest

import kiln


def graph():
    """y[n, m] = relu(x[n, m]) + 1, s = y summed over n."""
    g = kiln.Graph()
    y = g.maximum(g.param("x", "f32", ("n", "m")), 0) + 1
    g.output("y", y)
    g.output("s", y.sum(axis=0))
    return g


def check(outputs, x):
    want = np.maximum(x, 0) + 1
    np.testing.assert_array_equal(outputs["y"], want)
    np.testing.assert_allclose(outputs["s"], want.sum(0), rtol=1e-5)


def rand(*shape):
    return np.random.default_rng(1).standard_normal(shape).astype(np.float32)


def test_one_executable_for_all_sizes(client):
    exe = client.compile(graph(), kiln.Options(dims={"n": (1, 300), "m": kiln.Dim(8, 64, multiple=8)}))
    assert exe.inputs[0].shape == ("n", "m")
    assert exe.inputs[0].bounds == {"n": (1, 300, 1), "m": (8, 64, 8)}
    assert exe.outputs[0].shape == ("n", "m") and exe.outputs[1].shape == ("m",)
    compiled = client.cache_stats().kernels
    for n in (1, 2, 17, 300):
        for m in (8, 24, 64):
            check(exe({"x": rand(n, m)}), rand(n, m))
    assert client.cache_stats().kernels == compiled


def test_a_number_fixes_and_the_rest_stays_open(client):
    exe = client.compile(graph(), kiln.Options(dims={"n": 4, "m": (1, 9)}))
    assert exe.inputs[0].shape == (4, "m")
    check(exe({"x": rand(4, 9)}), rand(4, 9))
    with pytest.raises(kiln.Error, match="axis 0 must have 4 elements, got 5"):
        exe({"x": rand(5, 9)})
    assert client.compile(graph(), kiln.Options(dims={"n": 4, "m": 9})).inputs[0].shape == (4, 9)


def test_sizes_outside(client):
    exe = client.compile(graph(), kiln.Options(dims={"n": (1, 512), "m": kiln.Dim(8, 64, 8)}))
    for shape, words in (((600, 8), r"dimension 'n' must be in \[1,512\], got 600"), ((1, 12), "must be a multiple of 8, got 12")):
        with pytest.raises(kiln.Error, match=words) as e:
            exe({"x": rand(*shape)})
        assert e.value.code == "INVALID_ARGUMENT"


@pytest.mark.parametrize("dims", [{"n": "4"}, {"n": (1, 2, 3)}, {"n": 1.5}, {"n": None}, {"n": (1, "x")}, {"n": -1}, {"n": (-1, 4)}, {"n": (5, 4)}])
def test_bad_options(client, dims):
    with pytest.raises(kiln.Error) as e:
        client.compile(graph(), kiln.Options(dims=dims))
    assert e.value.code == "INVALID_ARGUMENT" and "'n'" in e.value.message


def test_buffers_carry_their_shape(client):
    exe = client.compile(graph(), kiln.Options(dims={"n": (1, 99), "m": (1, 99)}))
    kept = exe({"x": client.upload(rand(7, 3))}, "buffers")
    assert kept["y"].shape == (7, 3) and kept["s"].shape == (3,)
    check({"y": kept["y"].numpy(), "s": kept["s"].numpy()}, rand(7, 3))
    again = exe({"x": kept["y"]})
    np.testing.assert_array_equal(again["y"], kept["y"].numpy() + 1)
    for b in kept.values():
        b.free()


def test_asyncio(client):
    async def main():
        async with await kiln.aio.connect(client.target) as c:
            exe = await c.compile(graph(), kiln.Options(dims={"n": (1, 64), "m": 4}))
            assert exe.inputs[0].shape == ("n", 4)
            sizes = list(range(1, 65, 7))
            for n, out in zip(sizes, await asyncio.gather(*(exe({"x": rand(n, 4)}) for n in sizes))):
                check(out, rand(n, 4))
            kept = await exe({"x": rand(5, 4)}, "buffers")
            assert kept["y"].shape == (5, 4)

    asyncio.run(main())
