"""Tuning from Python, asyncio and the command line."""
import asyncio
import json
import os
import pty
import re
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


def test_live_line(server, tmp_path):
    """On a terminal one line changes while a search goes on; it is gone when the result is there."""
    model = tmp_path / "model.kgraph"
    model.write_bytes(graph(256).serialize())
    ours, theirs = pty.openpty()
    p = subprocess.Popen([str(serving.BIN / "kiln"), "--server", server.target, "tune", str(model), "--budget", "5s"], stderr=theirs,
                         stdout=subprocess.PIPE, text=True)
    os.close(theirs)
    seen = b""
    while True:
        try:
            seen += os.read(ours, 4096)
        except OSError:  # the other end is closed
            break
    os.close(ours)
    out, _ = p.communicate(timeout=60)
    assert p.returncode == 0 and "schedules tried" in out and "\r" not in out
    lines = [re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", x) for x in seen.decode().split("\r")]
    shown = [x for x in lines if x.strip() and not x.startswith("compiling")]
    # the model's time and speed-up, the kernel, its best time and speed-up, how many candidates, the time left
    parts = [re.search(r"(\S+ [mun]?s), ([\d.]+)x \| (r_\w+) (\S+ [mun]?s), ([\d.]+)x, (\d+) tried \| (\d+) s left", x) for x in shown]
    assert len(shown) > 1 and all(parts), shown
    assert len({x.group(6) for x in parts}) > 1 and all(int(x.group(7)) <= 5 for x in parts)
    assert "\n" not in seen.decode().strip()
