"""Tuning: what a search finds is right, kept, used at once, and costs no more than was allowed, whatever dies in between."""
import collections
import os
import pathlib
import resource
import signal
import threading
import time

import grpc
import numpy as np
import pytest
from conftest import TSAN, Graph, fails, graph_pb2, kiln_pb2, slow_graph

C = grpc.StatusCode
OFF = ["[tuning]", "background = off"]


def model(n=96):
    """y = max(x @ w, 0) and s = exp2(z): one kernel with a sum, one without."""
    g = Graph()
    x, w, z = g.param("x", [n, n]), g.param("w", [n, n + 8]), g.param("z", [n, 64])
    g.output("y", g.node("MAX", g.node("MATMUL", x, w), g.const(0.0)))
    g.output("s", g.node("EXP2", z))
    return g.bytes()


def inputs(n=96, seed=0):
    r = np.random.default_rng(seed)
    return {"x": r.standard_normal((n, n), np.float32), "w": r.standard_normal((n, n + 8), np.float32),
            "z": r.standard_normal((n, 64), np.float32)}


def check(out, given):
    want = np.maximum(given["x"].astype(np.float64) @ given["w"], 0)
    np.testing.assert_allclose(out["y"], want, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(out["s"], np.exp2(given["z"]), rtol=1e-5)


def tuning(d, executable, seconds=20.0):
    return d.stub.Tune(kiln_pb2.TuneRequest(executable=executable, budget_ns=int(seconds * 1e9)), timeout=120 + seconds)


def tune(d, executable, seconds=20.0):
    """The progress messages and the summary."""
    parts = list(tuning(d, executable, seconds))
    assert [p.WhichOneof("part") for p in parts[:-1]] == ["progress"] * (len(parts) - 1)
    assert parts[-1].WhichOneof("part") == "summary"
    return [p.progress for p in parts[:-1]], parts[-1].summary


def wait_schedules(d, least=1):
    end = time.time() + 20
    while d.stats().schedules < least:
        assert time.time() < end, d.log()
        time.sleep(0.02)


# -- what it is for -------------------------------------------------------------------------------

def test_tune_keeps_results_and_is_kept(start):
    d = start(config=OFF)
    r = d.compile(model())
    given = inputs()
    before = d.run(r.executable, given)
    progress, s = tune(d, r.executable, 150)  # it ends long before, when nothing is left to try, unless the machine is busy
    check(before, given)
    after = d.run(r.executable, given)
    check(after, given)
    np.testing.assert_array_equal(before["s"], after["s"])  # no sum: the same bits under every schedule
    assert s.ended == "exhausted" and s.tried > 10 and 0 < s.measured <= s.tried
    assert not any(f.cause in ("wrong_result", "crash") for f in s.failures), d.log()
    assert s.model_best_ns <= s.model_first_ns and len(s.kernels) == 2
    assert s.replaced == sum(k.best_ns < k.first_ns for k in s.kernels)
    assert all(0 <= b.left_ns <= a.left_ns for a, b in zip(progress, progress[1:]))
    assert {p.step for p in progress} >= {"look", "compile", "time"}
    kept = s.measured + sum(f.count for f in s.failures)
    assert kept < s.tried  # different schedules that give the same code are timed once
    wait_schedules(d, kept)
    assert d.stats().schedules == kept
    assert d.log().count("measured the machine") == 1, d.log()
    assert d.stop() == 0
    # another process: the tuned kernels are there, nothing is compiled or timed
    d = start(config=OFF, folder=d.folder)
    r = d.compile(model())
    assert r.report.plan_cached and r.report.kernels_compiled == 0
    check(d.run(r.executable, given), given)
    assert not d.children("timing")
    # the search goes on where it stopped: nothing of what is known is timed again, so every result is one record more
    _, again = tune(d, r.executable)
    kept += again.measured + sum(f.count for f in again.failures)
    wait_schedules(d, kept)
    assert d.stats().schedules == kept
    assert d.log().count("measured the machine") == 1  # by the first server; the cache told the second one


def test_replaced_for_all_who_use_the_kernel(start):
    """Two executables of one graph with other weights share kernels; both get the new code, each keeps its weights."""
    d = start(config=OFF)
    g = [Graph(), Graph()]
    weights = [np.random.default_rng(i).standard_normal((96, 104), np.float32) for i in (1, 2)]
    exes = []
    for graph, w in zip(g, weights):
        x, p = graph.param("x", [96, 96]), graph.param("w", [96, 104], data=w)
        graph.output("y", graph.node("MATMUL", x, p))
        exes.append(d.compile(graph.bytes()).executable)
    assert exes[0] != exes[1]
    _, s = tune(d, exes[0])
    x = np.random.default_rng(3).standard_normal((96, 96), np.float32)
    for exe, w in zip(exes, weights):
        np.testing.assert_allclose(d.run(exe, {"x": x})["y"], x @ w, rtol=1e-4, atol=1e-4)
    # a device worker that starts again loads what is in use now
    os.kill(d.children("device")[0], signal.SIGKILL)
    for exe, w in zip(exes, weights):
        np.testing.assert_allclose(d.run(exe, {"x": x})["y"], x @ w, rtol=1e-4, atol=1e-4)


def test_runs_during_a_search(start):
    """Kernels are replaced between runs: no run fails or answers wrong, and all of them are served."""
    d = start(config=OFF)
    r = d.compile(model())
    given = inputs()
    wrong, stop = [], threading.Event()

    def run_on():
        while not stop.is_set():
            try:
                check(d.run(r.executable, given), given)
            except Exception as e:  # noqa: BLE001
                wrong.append(e)
                return
            time.sleep(0.002)

    threads = [threading.Thread(target=run_on) for _ in range(2)]
    for t in threads:
        t.start()
    try:
        _, s = tune(d, r.executable, 30)
    finally:
        stop.set()
        for t in threads:
            t.join()
    assert not wrong, wrong
    assert s.tried > 0


def rows_graph(columns):
    """y0, y1, ...: n rows of x by matrices of so many columns, n from 1 to 200.

    A kernel that is at the roofline at once has nothing to try; several are not by chance."""
    g = Graph()
    x = g.param("x", [1, 64])
    g.g.params[0].dims[0].Clear()
    g.g.params[0].dims[0].name = "n"
    for i, m in enumerate(columns):
        g.output(f"y{i}", g.node("MATMUL", x, g.param(f"w{i}", [64, m])))
    return g.bytes(), [graph_pb2.Dim(name="n", min=1, max=200)]


def test_symbolic_sizes(start):
    d = start(config=OFF)
    graph, ranges = rows_graph([48, 53, 200])
    r = d.compile(graph, ranges=ranges)
    _, s = tune(d, r.executable, 10)
    assert s.measured > 0 and not any(f.cause == "wrong_result" for f in s.failures), d.log()
    w = {f"w{i}": np.random.default_rng(i).standard_normal((64, m), np.float32) for i, m in enumerate([48, 53, 200])}
    for n in (1, 2, 7, 16, 33, 100, 199, 200):
        x = np.random.default_rng(n).standard_normal((n, 64), np.float32)
        out = d.run(r.executable, {"x": x, **w})
        for i in range(3):
            np.testing.assert_allclose(out[f"y{i}"], x @ w[f"w{i}"], rtol=1e-4, atol=1e-4)


def test_evidence_is_of_sizes(start):
    """What was tried for runs of size 8 is not taken for what is known of size 200, and serves again when 8 is what runs have."""
    d = start(config=OFF)
    graph, ranges = rows_graph([48, 53, 200])
    r = d.compile(graph, ranges=ranges)
    w = {f"w{i}": np.ones((64, m), np.float32) for i, m in enumerate([48, 53, 200])}

    def run(n, times):
        for _ in range(times):
            d.run(r.executable, {"x": np.ones((n, 64), np.float32), **w})

    def tried():
        kernels = d.stub.Explain(kiln_pb2.ExplainRequest(executable=r.executable, tried=100), timeout=60).kernels
        return sum(len(k.tried) for k in kernels)

    run(8, 3)
    assert tried() == 0
    _, s = tune(d, r.executable, 25)
    wait_schedules(d, s.measured)
    small = tried()
    assert 0 < small <= s.measured + sum(f.count for f in s.failures)
    run(9, 1)
    assert tried() == small  # of the same kind
    run(200, 9)
    assert tried() == 0
    _, s = tune(d, r.executable, 25)
    assert s.measured > 0
    wait_schedules(d, small + s.measured)
    assert tried() > 0
    run(10, 30)
    assert tried() == small


# -- limits ---------------------------------------------------------------------------------------

def test_bad_requests(start):
    d = start(config=OFF)
    r = d.compile(model(16))
    with fails(C.NOT_FOUND, "unknown executable"):
        tune(d, "exe-0000000000000001")
    with fails(C.INVALID_ARGUMENT, "budget"):
        tune(d, r.executable, -1)
    with fails(C.INVALID_ARGUMENT, "budget"):
        tune(d, r.executable, 1e6)


def test_too_many_searches(start):
    d = start(config=OFF)
    r = d.compile(slow_graph(40))
    calls = [tuning(d, r.executable, 60) for _ in range(16)]
    firsts = [next(iter(c)) for c in calls[:2]]
    assert firsts
    end = time.time() + 20
    while True:  # the others may not have arrived yet
        try:
            next(iter(extra := tuning(d, r.executable, 0.001)))
            list(extra)
        except grpc.RpcError as e:
            assert e.code() == C.RESOURCE_EXHAUSTED and "searches" in e.details()
            break
        assert time.time() < end
    for c in calls:
        c.cancel()
    tune(d, r.executable, 0.2)


def test_budget_bounds_a_large_graph(start):
    """300 different kernels, far more than there is time for."""
    d = start(config=OFF)
    r = d.compile(slow_graph(300))
    began = time.time()
    _, s = tune(d, r.executable, 2)
    assert s.ended == "budget"
    assert time.time() - began < 30  # a compile and a timing that were under way may end
    assert len(s.kernels) == 300
    assert d.info().resident_bytes < 1 << 30


def test_budget_bounds_a_large_kernel(start):
    """One kernel of eight axes in sixty orders, each with a sum inside of the next: far more schedules than anybody can try."""
    d = start(config=OFF)
    g, r = Graph(), np.random.default_rng(0)
    x = y = g.param("x", [3] * 8)
    for i in range(60):
        t = g.node("PERMUTE", x, ints=[int(k) for k in r.permutation(8)])
        y = g.node("MAX" if i % 2 else "ADD", y, g.node("MUL", t, y))
    g.output("y", g.node("REDUCE_SUM", y, ints=[1, 4, 6]))
    exe = d.compile(g.bytes()).executable
    began = time.time()
    _, s = tune(d, exe, 3)
    assert time.time() - began < 40
    assert len(s.kernels) < 5 and s.tried > 0
    assert d.info().resident_bytes < 1 << 30
    assert np.isfinite(d.run(exe, {"x": np.full([3] * 8, 0.01, np.float32)})["y"]).all()


def test_cancel(start):
    d = start(config=OFF)
    r = d.compile(slow_graph(20))
    given = {"x": np.ones((8, 8), np.float32), **{f"w{i:04}": np.ones((8 + i, 9 + i), np.float32) for i in range(20)}}
    before = d.run(r.executable, given)["y"]
    for wait_for in ("look", "compile", "time"):
        call = tuning(d, r.executable, 60)
        for part in call:
            if part.progress.step == wait_for:
                break
        call.cancel()
    np.testing.assert_allclose(d.run(r.executable, given)["y"], before, rtol=1e-4)
    _, s = tune(d, r.executable, 0.5)
    assert s.ended == "budget"
    assert d.stop() == 0


def test_stop_ends_a_search(start):
    d = start(config=OFF)
    r = d.compile(slow_graph(20))
    call = tuning(d, r.executable, 60)
    next(iter(call))
    d.process.send_signal(signal.SIGTERM)
    with fails(C.UNAVAILABLE, "stopping"):
        list(call)
    assert d.stop() == 0


# -- faults ---------------------------------------------------------------------------------------

def test_timing_worker_dies(start):
    """Again and again; the search goes on and what is found is right."""
    d = start(config=OFF)
    r = d.compile(model())
    given = inputs()
    killed = 0
    summary = None
    for part in tuning(d, r.executable, 20):
        if part.WhichOneof("part") == "summary":
            summary = part.summary
        elif (killed < 3 or "a timing worker ended" not in d.log()) and part.progress.step == "time":
            for pid in d.children("timing"):
                os.kill(pid, signal.SIGKILL)
                killed += 1
    assert killed and summary is not None
    assert "role=timing" in d.log() and "cause=crash" in d.log()  # on a busy machine it may have been between two jobs each time
    check(d.run(r.executable, given), given)


@pytest.mark.skipif(TSAN, reason="the sanitizer's own memory is beyond the limit")
def test_memory_of_a_timing_worker(start):
    """What needs more than it may have fails with a cause; other kernels are searched, and the server serves both."""
    d = start(config=[*OFF, "memory = 96M"])
    g = Graph()
    big, small = g.param("big", [6000, 4000]), g.param("small", [64, 64])
    g.output("b", g.node("EXP2", big))
    g.output("s", g.node("MATMUL", small, small))
    exe = d.compile(g.bytes()).executable
    _, s = tune(d, exe, 3)
    kernels = {k.kernel[0]: k for k in s.kernels}
    assert kernels["r"].tried > 0 and kernels["r"].first_ns > 0
    assert kernels["E"].best_ns == kernels["E"].first_ns  # nothing is claimed of what was not timed
    assert "96" in d.log() or "memory" in d.log(), d.log()
    x = {"big": np.full((6000, 4000), 2, np.float32), "small": np.eye(64, dtype=np.float32)}
    out = d.run(exe, x)
    assert (out["b"] == 4).all()
    np.testing.assert_array_equal(out["s"], x["small"])


def test_killed_server_goes_on(start):
    d = start(config=OFF)
    r = d.compile(slow_graph(10))
    for part in tuning(d, r.executable, 60):
        if part.progress.tried_all > 60:
            break
    wait_schedules(d, 10)
    d.process.kill()
    d.process.wait()
    d = start(config=OFF, folder=d.folder)
    known = d.stats().schedules
    assert known >= 10 and d.stats().corrupt == 0
    r = d.compile(slow_graph(10))
    _, s = tune(d, r.executable, 3)
    assert s.measured > 0
    wait_schedules(d, known + 1)


def test_two_servers_on_one_cache(start, tmp_path):
    a, b = (start(config=OFF, folder=tmp_path / name, cache="../shared.db") for name in "ab")
    given = inputs()
    exes = [d.compile(model()).executable for d in (a, b)]
    results = [None, None]

    def work(i, d):
        results[i] = tune(d, exes[i], 8)[1]

    threads = [threading.Thread(target=work, args=(i, d)) for i, d in enumerate((a, b))]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    for d, exe, s in zip((a, b), exes, results):
        assert s is not None and s.measured > 0
        check(d.run(exe, given), given)
        v = d.stub.CacheVerify(kiln_pb2.CacheVerifyRequest(), timeout=60)
        assert v.corrupt == 0 and v.schedules > 0 and not v.problems


def test_killed_beside_another_on_one_cache(start, tmp_path):
    """One of two servers that search with one cache is killed, twice: the other one's search goes on, and what is written is whole."""
    a, b = (start(config=OFF, folder=tmp_path / name, cache="../shared.db") for name in "ab")
    exe, result = b.compile(slow_graph(10)).executable, []
    t = threading.Thread(target=lambda: result.append(tune(b, exe, 30)[1]))
    t.start()
    for _ in range(2):
        before = a.stats().schedules
        call = tuning(a, a.compile(slow_graph(10)).executable, 60)
        for part in call:
            if part.progress.tried_all > 30 and a.stats().schedules > before:
                break
        a.process.kill()
        a.process.wait()
        a = start(config=OFF, folder=tmp_path / "a", cache="../shared.db")
    t.join()
    assert result and result[0].measured > 0, b.log()
    for d in (a, b):
        v = d.stub.CacheVerify(kiln_pb2.CacheVerifyRequest(), timeout=60)
        assert v.corrupt == 0 and v.schedules > 0 and not v.problems
    given = inputs()
    check(a.run(a.compile(model()).executable, given), given)


@pytest.mark.skipif(TSAN, reason="ThreadSanitizer's own memory is a file that must grow")
def test_full_disk(start):
    """Nothing can be written down: the search works, in memory only."""
    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (192 << 10, resource.RLIM_INFINITY))
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    d = start(config=OFF, preexec=limit)
    for i in range(30):
        d.compile(slow_graph(10, first=10 * i), name=f"m{i}")
        error = d.stats().error  # goes again when something small finds room
        if error:
            break
    assert "write failed" in error
    r = d.compile(model(48))
    given = inputs(48)
    _, s = tune(d, r.executable, 5)
    assert s.measured > 0
    check(d.run(r.executable, given), given)


# -- in the background ----------------------------------------------------------------------------

SOON = ["[tuning]", "background = on", "after = 0", "share = 100"]


def test_background(start):
    """Executables that are run get faster without anybody asking, and no answer is wrong meanwhile."""
    d = start(config=SOON)
    events = d.stub.Events(kiln_pb2.EventsRequest(), timeout=120)
    assert next(iter(events)).WhichOneof("what") == "subscribed"
    r = d.compile(model())
    given = inputs()
    seen = []

    def listen():
        try:
            for e in events:
                seen.append(e)
                if e.WhichOneof("what") == "tune" and e.tune.ended:
                    return
        except grpc.RpcError:
            pass

    t = threading.Thread(target=listen)
    t.start()
    end = time.time() + 100
    while t.is_alive() and time.time() < end:
        check(d.run(r.executable, given), given)
        time.sleep(0.01)
    events.cancel()
    t.join()
    kinds = [e.WhichOneof("what") for e in seen]
    assert "tune" in kinds and seen[kinds.index("tune")].tune.background, d.log()
    assert all(r.executable in e.kernel.executables for e in seen if e.WhichOneof("what") == "kernel")
    assert kinds[-1] == "tune" and seen[-1].tune.ended and seen[-1].tune.executable == r.executable, d.log()


def states(d):
    """One letter for each process that tunes in the background (T: stopped)."""
    found = []
    for pid in d.children("timing") + d.children("compile"):
        try:
            if os.sched_getscheduler(pid) == os.SCHED_IDLE:
                found.append(pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0])
        except OSError:  # it has just ended
            continue
    return found


def test_background_is_stopped_for_requests(start):
    """While requests come one after the other everything in the background stands still; afterwards it goes on."""
    d = start(config=SOON)
    r = d.compile(slow_graph(60))
    given = {"x": np.ones((8, 8), np.float32), **{f"w{i:04}": np.ones((8 + i, 9 + i), np.float32) for i in range(60)}}
    for _ in range(5):
        d.run(r.executable, given)
    d.wait_children("timing", timeout=60)
    end, stopped = time.time() + 30, False
    while not stopped and time.time() < end:
        d.run(r.executable, given)
        found = states(d)
        stopped = bool(found) and set(found) == {"T"}
    assert stopped, d.log()
    end = time.time() + 30
    while "T" in states(d) and time.time() < end:
        time.sleep(0.01)
    assert "T" not in states(d), d.log()


def ticks(d):
    """Time on a processor of the processes that tune in the background, in ticks."""
    total = 0
    for pid in d.children("timing") + d.children("compile"):
        try:
            if os.sched_getscheduler(pid) == os.SCHED_IDLE:
                f = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
                total += int(f[11]) + int(f[12])
        except OSError:
            continue
    return total


def test_background_has_a_small_share_of_a_busy_device(start):
    """A device that is never left alone is shared with what tunes in the background: it goes on, for little of the time."""
    d = start(config=SOON)
    r = d.compile(slow_graph(60))
    given = {"x": np.ones((8, 8), np.float32), **{f"w{i:04}": np.ones((8 + i, 9 + i), np.float32) for i in range(60)}}
    g = Graph()
    y = x = g.param("x", [256, 256])
    for _ in range(20):
        y = g.node("MATMUL", y, x)
    g.output("y", y)
    busy, square = d.compile(g.bytes()), kiln_pb2.NamedTensor(name="x", buffer=d.upload(np.zeros((256, 256), np.float32)))
    request = kiln_pb2.RunRequest(executable=busy.executable, inputs=[square], outputs_as_buffers=False)
    over = threading.Event()

    def hammer():
        """So many at once that the device has always another to go on with."""
        calls = collections.deque()
        while not over.is_set():
            calls.append(d.stub.Run.future(request, timeout=60))
            if len(calls) > 40:
                calls.popleft().result()
        for c in calls:
            c.result()

    def tuning():
        return next(t for t in d.stub.GetStatus(kiln_pb2.GetStatusRequest()).tenants if t.name == "(tuning)")

    for _ in range(5):
        d.run(r.executable, given)
    d.wait_children("timing", timeout=60)
    thread = threading.Thread(target=hammer)
    thread.start()
    try:
        while "T" not in states(d):
            time.sleep(0.001)
        before, begin, turns = ticks(d), time.time(), 0
        while turns < 3 and time.time() < begin + 90:
            found = states(d)
            turns += bool(found) and "T" not in found
            time.sleep(0.001)
        used = (ticks(d) - before) / os.sysconf("SC_CLK_TCK")
        assert turns >= 3, d.log()
        assert used < 0.3 * (time.time() - begin), used
    finally:
        over.set()
        thread.join()
    end = time.time() + 60
    while not (tuning().device_ns and tuning().tune_ns) and time.time() < end:
        time.sleep(0.1)
    assert tuning().device_ns and tuning().tune_ns, tuning()


def test_background_off(start):
    d = start(config=[*OFF, "after = 0"])
    r = d.compile(model())
    for _ in range(20):
        d.run(r.executable, inputs())
    time.sleep(3)
    assert not d.children("timing") and d.stats().schedules == 0


def test_background_gives_way(start):
    """A search that a client asks for ends the one in the background."""
    d = start(config=SOON)
    r = d.compile(slow_graph(40))
    given = {"x": np.ones((8, 8), np.float32), **{f"w{i:04}": np.ones((8 + i, 9 + i), np.float32) for i in range(40)}}
    for _ in range(5):
        d.run(r.executable, given)
    d.wait_children("timing", timeout=30)
    _, s = tune(d, r.executable, 4)
    assert s.tried > 0


def test_idle_server_still_leaves(start):
    d = start(config=[*SOON, "[server]", "idle_exit = 2"])
    r = d.compile(model())
    for _ in range(5):
        d.run(r.executable, inputs())
    d.channel.close()
    assert d.process.wait(60) == 0


# -- events ---------------------------------------------------------------------------------------

def test_device_events(start):
    d = start(config=OFF)
    events = d.stub.Events(kiln_pb2.EventsRequest(), timeout=60)
    it = iter(events)
    assert next(it).WhichOneof("what") == "subscribed"
    os.kill(d.children("device")[0], signal.SIGKILL)
    down, up = next(it), next(it)
    assert not down.device.available and "crash" in down.device.reason and down.device.device == "cpu:0"
    assert up.device.available and down.unix_ns <= up.unix_ns and up.missed == 0
    d.process.send_signal(signal.SIGTERM)
    with fails(C.UNAVAILABLE, "stopping"):
        next(it)


def test_settings(start):
    for line, word in (("share = 0", "share"), ("share = 101", "share"), ("per_hour = 2h", "per_hour"), ("background = maybe", "true")):
        d = start(config=["[tuning]", line], wait=False)
        assert d.process.wait(20) != 0 and word in d.log()
