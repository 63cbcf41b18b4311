"""A compiler that is wrong: what it makes of candidates is refused with the cause, costs a worker at most, and is never served.

The server is the real one, as is its tuner; kiln-worker is the real one but for its compiler (faulty/faulty.c)."""
import time

import numpy as np
import pytest
from conftest import BIN, SANITIZED, Graph, kiln_pb2

WORKER = BIN.parent / "tests/faulty_worker"
N = 4096
SECONDS = 9  # from 10 on a search measures the machine first, with kernels that have faults as well

pytestmark = pytest.mark.skipif(not WORKER.exists(), reason="KILN_BIN is not in a build folder")


def model():
    g = Graph()
    g.output("y", g.node("ADD", g.param("a", [N]), g.param("b", [N])))
    return g.bytes()


def serve(start, faults, folder=None, config=()):
    kw = {"folder": folder} if folder else {}
    d = start(config=["[tuning]", "background = off", *config, "[workers]", f"program = {WORKER}"], env={"KILN_FAULTS": faults}, **kw)
    return d, d.compile(model()).executable


def right(d, exe):
    a, b = (np.random.default_rng(i).standard_normal(N, np.float32) for i in (1, 2))
    a[:3] = [np.nan, np.inf, 3.4e38]
    b[:3] = [1, -np.inf, 3.4e38]
    with np.errstate(all="ignore"):
        np.testing.assert_array_equal(d.run(exe, {"a": a, "b": b})["y"], a + b)


def search(d, exe, seconds, until):
    """Until the cause was seen, or to the end; every answer meanwhile is right. What is under way when the time is over may end."""
    call = d.stub.Tune(kiln_pb2.TuneRequest(executable=exe, budget_ns=int(seconds * 1e9)), timeout=120 + seconds)
    for part in call:
        right(d, exe)
        if part.WhichOneof("part") == "summary":
            return part.summary
        if until and any(t.cause == until for t in tried(d, exe)):
            call.cancel()
            return None


def tried(d, exe):
    return d.stub.Explain(kiln_pb2.ExplainRequest(executable=exe, tried=200), timeout=60).kernels[0].tried


def causes(d, exe):
    return {t.cause for t in tried(d, exe)}


@pytest.mark.parametrize("fault", ["wrong", "nothing", "wrong_nan"])
def test_wrong_result(start, fault):
    """Wrong in one place, in all by leaving what is there, and for NaN alone; each would win the race."""
    d, exe = serve(start, fault)
    s = search(d, exe, SECONDS, None)
    assert s.replaced == 0 and s.model_best_ns == s.model_first_ns
    assert {f.cause: f.count for f in s.failures}["wrong_result"] > 0
    known = {t.opts: t.cause for t in tried(d, exe)}
    assert "wrong_result" in known.values()
    assert not any(t.verified for t in tried(d, exe) if t.cause != "measured")
    right(d, exe)
    assert d.stop() == 0
    # remembered: another server does not serve them, and its search does not try them again
    d, exe = serve(start, fault, folder=d.folder)
    right(d, exe)
    search(d, exe, 3, None)
    right(d, exe)
    for opts, cause in known.items():
        if cause == "wrong_result":
            assert d.log().count(f'cause=wrong_result opts="{opts}"') == 1, opts


@pytest.mark.parametrize("fault", ["wrong", "nothing"])  # what is wrong for NaN alone is compared only when it is the faster
def test_what_is_right_wins_among_what_is_wrong(start, fault):
    d, exe = serve(start, f"plain,{fault}")
    s = search(d, exe, SECONDS, None)
    assert s.replaced == 1 and s.model_best_ns < s.model_first_ns
    assert "wrong_result" in causes(d, exe)
    (k,) = d.stub.Explain(kiln_pb2.ExplainRequest(executable=exe, tried=200), timeout=60).kernels
    assert k.source == "tuned" and [t.cause for t in k.tried if t.opts == k.opts] == ["measured"]
    right(d, exe)
    assert d.stop() == 0
    d, exe = serve(start, f"plain,{fault}", folder=d.folder)
    right(d, exe)


FAULTS = [("absent", "compile_error"), ("crash", "crash"), ("hang", "timeout"), ("scratch", "oom"),
          ("refused", "compile_error"), ("abort", "crash"), ("endless", "timeout"), ("greedy", "oom"), ("bloated", "oom")]


@pytest.mark.parametrize("fault,cause", FAULTS)
def test_faults_are_paid_for_once(start, fault, cause):
    """Candidates that crash, hang or want too much, when they are compiled or when they run: the cause is recorded, kilnd and its device worker live."""
    if SANITIZED and fault == "bloated":
        pytest.skip("a sanitizer's memory is not limited")
    d, exe = serve(start, f"{fault},slow,slow", config=["[workers]", "compile_memory = 300M"])
    device = d.children("device")
    search(d, exe, SECONDS, cause)
    assert cause in causes(d, exe), d.log()
    bad = {t.opts for t in tried(d, exe) if t.cause == cause}
    right(d, exe)
    assert d.children("device") == device
    assert d.stop() == 0
    d, exe = serve(start, f"{fault},slow,slow", folder=d.folder)
    assert bad <= {t.opts for t in tried(d, exe) if t.cause == cause}
    began = time.time()
    search(d, exe, 1, None)
    assert time.time() - began < 30
    right(d, exe)
