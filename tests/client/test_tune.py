"""Tuning from Python, asyncio and the command line."""
import asyncio
import json
import subprocess

import kiln
import numpy as np
import pytest
import serving


@pytest.fixture()
def server():
    with serving.Server() as s:
        yield s


def graph(n=80):
    g = kiln.Graph()
    x, w = g.param("x", "f32", (n, n)), g.param("w", "f32", (n, n + 4))
    g.output("y", g.tanh(x @ w))
    return g


def inputs(n=80):
    r = np.random.default_rng(0)
    return {"x": r.standard_normal((n, n), np.float32) / 8, "w": r.standard_normal((n, n + 4), np.float32) / 8}


def test_tune(server):
    with kiln.connect(server.target) as client:
        exe = client.compile(graph())
        given = inputs()
        before = exe(given)["y"]
        seen = []
        s = exe.tune(budget=8, progress=seen.append)
        assert seen and all(isinstance(p, kiln.TuneProgress) for p in seen) and "tried" in str(seen[-1])
        assert s.ended in ("exhausted", "budget") and s.tried > 0 and s.speed_up >= 1 and s.kernels[0].calls == 1
        np.testing.assert_allclose(exe(given)["y"], before, rtol=1e-4, atol=1e-5)
        with pytest.raises(kiln.Error, match="INVALID_ARGUMENT"):
            exe.tune(budget=-1)


def test_progress_can_end_it(server):
    """An exception from the callback is the caller's, and the server goes on."""
    class Enough(Exception):
        pass

    def stop(p):
        raise Enough

    with kiln.connect(server.target) as client:
        exe = client.compile(graph())
        with pytest.raises(Enough):
            exe.tune(progress=stop)
        assert exe.tune(budget=0.2).wall < 60


def test_events(server):
    with kiln.connect(server.target) as client:
        events = client.events()
        assert next(events).WhichOneof("what") == "subscribed"
        exe = client.compile(graph())
        exe.tune(budget=0.5)
        began = next(e for e in events if e.WhichOneof("what") == "tune")
        assert began.tune.executable == exe.executable_id and not began.tune.background and not began.tune.ended
        assert next(e for e in events if e.WhichOneof("what") == "tune").tune.ended
        events.close()


def test_aio(server):
    async def work():
        async with await kiln.aio.connect(server.target) as client:
            exe = await client.compile(graph())
            seen = []
            s = await exe.tune(budget=1, progress=seen.append)
            assert seen and s.tried > 0

    asyncio.run(work())


def command(server, *args):
    return subprocess.run([str(serving.BIN / "kiln"), "--server", server.target, "tune", *args], capture_output=True, text=True, timeout=120)


def test_command(server, tmp_path):
    model = tmp_path / "model.kgraph"
    model.write_bytes(graph().serialize())
    r = command(server, str(model), "--budget", "2s")
    assert r.returncode == 0, r.stderr
    assert "schedules tried" in r.stdout and "roofline" in r.stdout
    assert "\r" not in r.stderr  # no terminal: no line that changes
    r = command(server, str(model), "--budget", "0.5", "--json")
    report = json.loads(r.stdout)
    assert r.returncode == 0 and report["kernels"][0]["calls"] == 1 and report["model_best_ns"] > 0 and not r.stderr
    assert command(server, str(model), "--budget", "0.5", "--fast-math", "--device", "cpu:0").returncode == 0
    for budget in ("", "x", "0", "-1s", "2d", "1e9", "nan", "5s5"):
        r = command(server, str(model), "--budget", budget)
        assert r.returncode == 64 and "--budget" in r.stderr, budget
