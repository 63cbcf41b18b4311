"""Executable.explain, and schedule records as files."""
import asyncio

import numpy as np
import pytest

import kiln


@pytest.fixture(scope="module")
def exe(client):
    g = kiln.Graph()
    x, w = g.param("x", "f32", (64, 96)), g.param("w", "f32", (96, 80))
    g.output("y", g.tanh(x @ w).sum(axis=1))
    return client.compile(g)


INPUTS = {"x": np.ones((64, 96), np.float32), "w": np.full((96, 80), 0.01, np.float32)}


def test_explain(exe):
    kernels = exe.explain(INPUTS, runs=3)
    assert sum(k.calls for k in kernels) == exe.report()["kernels"]
    assert [k.ns for k in kernels] == sorted((k.ns for k in kernels), reverse=True)
    matmul = next(k for k in kernels if k.flops >= 2 * 64 * 96 * 80)
    assert matmul.ns > 0 and matmul.executions == 1 and matmul.once == 0
    assert matmul.bytes_read >= 4 * (64 * 96 + 96 * 80) and matmul.roofline_ns > 0
    assert matmul.source == "heuristic" and not matmul.tried and len(matmul.hash) == 64


def test_explain_without_runs(exe):
    assert all(k.ns == k.executions == 0 and k.flops > 0 for k in exe.explain())


def test_explain_aio(client):
    async def go():
        async with kiln.aio.Client(client.target) as c:
            g = kiln.Graph()
            g.output("y", g.exp2(g.param("x", "f32", (1000,))))
            e = await c.compile(g)
            return await e.explain({"x": np.ones(1000, np.float32)}, runs=2)
    (k,) = asyncio.run(go())
    assert k.ns > 0 and k.shape == "1000"


def test_explain_after_release(client):
    g = kiln.Graph()
    g.output("y", g.param("x", "f32", (3,)) + 1)
    e = client.compile(g)
    e.release()
    with pytest.raises(kiln.Error) as error:
        e.explain()
    assert error.value.code == "NOT_FOUND"


def test_files_of_records(client):
    file = client.cache_export()
    assert file.startswith(b"KILNSCHD")
    assert client.cache_import(file).stored == 0
    for bad in (b"", b"nonsense", file[:20], file[:-1] + b"x"):
        with pytest.raises(kiln.Error) as error:
            client.cache_import(bad)
        assert error.value.code == "INVALID_ARGUMENT" and "byte" in error.value.message
