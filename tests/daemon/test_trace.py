"""Traces: a W3C traceparent is taken over, a span per phase is recorded, `kiln trace` exports them; and `kiln top` and `kiln doctor`."""
import json
import os
import socket
import subprocess
import time

import grpc
import numpy as np
import pytest
from conftest import BIN, add_graph, fails, kiln_pb2, slow_graph

TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = "b7ad6b7169203331"


def call_run(d, exe, x, *parents):
    named = [kiln_pb2.NamedTensor(name=n, tensor=kiln_pb2.Tensor(dtype=12, dims=x.shape, data=x.tobytes())) for n in "xb"]
    return d.stub.Run(kiln_pb2.RunRequest(executable=exe, inputs=named), timeout=30,
                      metadata=[("traceparent", p) for p in parents])


def spans(d, after=0):
    return d.stub.GetTrace(kiln_pb2.GetTraceRequest(after=after), timeout=10)


def kiln(d, *args, rc=0):
    out = subprocess.run([BIN / "kiln", "--server", f"unix:{d.socket}", *args], capture_output=True, text=True, timeout=60)
    assert out.returncode == rc, out.stderr + out.stdout
    return out.stdout


@pytest.fixture
def d(start):
    return start()


@pytest.fixture
def exe(d):
    return d.compile(add_graph()).executable


X = np.arange(16, dtype=np.float32)


def test_a_sampled_call_is_recorded(d, exe):
    before = time.time_ns()
    call_run(d, exe, X, f"00-{TRACE}-{PARENT}-01")
    s = spans(d).spans
    calls = [x for x in s if x.call]
    assert len(calls) == 1 and calls[0].name == calls[0].method == "kiln.v1.Kiln/Run" and calls[0].code == "OK"
    call = calls[0]
    assert call.trace_id.hex() == TRACE and call.parent_id.hex() == PARENT and call.tenant == "local"
    phases = [x for x in s if not x.call]
    assert [x.name for x in phases] == ["parse", "upload", "queue", "run", "download"]
    assert all(x.trace_id == call.trace_id and x.parent_id == call.span_id and x.request == call.request for x in phases)
    assert len({x.span_id for x in s}) == len(s)
    # the phases follow each other without a gap, from the call's beginning to its end
    assert phases[0].start_unix_ns == call.start_unix_ns
    for a, b in zip(phases, phases[1:]):
        assert a.start_unix_ns + a.duration_ns == b.start_unix_ns
    assert 0 <= call.duration_ns - sum(x.duration_ns for x in phases) < 5_000_000
    assert before - 1_000_000_000 < call.start_unix_ns < time.time_ns() + 1_000_000_000


def test_phases_of_a_compile(d):
    graph = slow_graph(3)
    d.stub.Compile(d.compile_parts(graph), timeout=60, metadata=[("traceparent", f"00-{TRACE}-{PARENT}-01")])
    names = {x.name for x in spans(d).spans if not x.call}
    assert names >= {"upload", "queue", "cache", "compile", "run"}


def test_calls_that_do_not_ask_are_not_recorded(d, exe):
    call_run(d, exe, X)
    call_run(d, exe, X, f"00-{TRACE}-{PARENT}-00")
    for bad in ["", "x", f"00-{TRACE}-{PARENT}", f"ff-{TRACE}-{PARENT}-01", f"00-{'0' * 32}-{PARENT}-01", f"00-{TRACE.upper()}-{PARENT}-01"]:
        call_run(d, exe, X, bad)
    assert not spans(d).spans


def test_failures_are_recorded(d, exe):
    with fails(grpc.StatusCode.INVALID_ARGUMENT):
        call_run(d, exe, X[:3], f"00-{TRACE}-{PARENT}-01")
    assert [(x.name, x.code) for x in spans(d).spans if x.call] == [("kiln.v1.Kiln/Run", "INVALID_ARGUMENT")]


def test_all_calls_when_configured(start):
    d = start(config=["[server]", "trace_all = true"])
    d.info()
    calls = [x for x in spans(d).spans if x.method == "kiln.v1.Kiln/GetServerInfo" and x.call]
    assert len(calls) == 1 and not calls[0].parent_id and calls[0].trace_id != bytes(16)


def test_the_ring_is_bounded_and_read_in_pages(start):
    d = start(config=["[server]", "trace_all = true"])
    while True:
        for _ in range(500):
            d.info()
        if spans(d, 1 << 60).next > 12000:
            break
    first = spans(d)
    assert len(first.spans) == 1000 and first.more and first.lost > 0
    page = spans(d, first.next)
    assert page.lost == 0 and page.spans[0].start_unix_ns >= first.spans[-1].start_unix_ns - 1_000_000_000
    total, at = 0, 0
    while True:
        p = spans(d, at)
        total, at = total + len(p.spans), p.next
        if not p.more:
            break
    assert 8000 < total < 8300


def test_chrome_format(d, exe, tmp_path):
    for i in range(3):
        call_run(d, exe, X, f"00-{TRACE}-{i + 1:016x}-01")
    trace = json.loads(kiln(d, "trace"))
    events = trace["traceEvents"]
    calls = [e for e in events if e["cat"] == "call"]
    assert len(calls) == 3 and all(e["ph"] == "X" and e["dur"] > 0 and e["args"]["trace_id"] == TRACE for e in calls)
    assert {e["name"] for e in events if e["cat"] == "phase" and e["tid"] == calls[0]["tid"]} == {"parse", "upload", "queue", "run", "download"}
    kiln(d, "trace", "--out", str(tmp_path / "t.json"))
    assert json.loads((tmp_path / "t.json").read_text()) == trace
    kiln(d, "trace", "--out", str(tmp_path / "no" / "t.json"), rc=73)
    kiln(d, "trace", "--format", "xml", rc=64)


def test_otlp_format(d, exe):
    call_run(d, exe, X, f"00-{TRACE}-{PARENT}-01")
    o = json.loads(kiln(d, "trace", "--format", "otlp"))
    resource = o["resourceSpans"][0]
    assert {"key": "service.name", "value": {"stringValue": "kilnd"}} in resource["resource"]["attributes"]
    s = resource["scopeSpans"][0]["spans"]
    call = next(x for x in s if x["kind"] == 2)
    assert call["traceId"] == TRACE and call["parentSpanId"] == PARENT and call["status"] == {"code": 1}
    assert all(x["parentSpanId"] == call["spanId"] for x in s if x["kind"] == 1)
    for x in s:
        assert int(x["endTimeUnixNano"]) >= int(x["startTimeUnixNano"]) > 1_600_000_000 * 10**9


# -- kiln top --------------------------------------------------------------------------------------

def test_top_once_says_what_is_going_on(start):
    d = start()
    exe = d.compile(add_graph()).executable
    for _ in range(7):
        d.run(exe, {"x": X, "b": X})
    buffer = d.upload(X)
    status = json.loads(kiln(d, "--json", "top", "--once"))
    device = status["devices"][0]
    assert (device["name"], device["available"], device["runs"], device["buffers"], device["buffer_bytes"]) == ("cpu:0", True, "7", "1", "64")
    assert int(device["busy_ns"]) > 0
    tenant = status["tenants"][0]
    assert tenant["name"] == "local" and tenant["executables"] == "1" and int(tenant["requests"]) >= 9
    assert status["compiles"] == "1" and status["cache"]["kernels"] == 1 and status["not_ready"] == ""
    text = kiln(d, "top", "--once")
    for word in ["cpu:0", "local", "DEVICE", "TENANT", "ready", "1 plans"]:
        assert word in text, text
    d.stub.FreeBuffers(kiln_pb2.FreeBuffersRequest(buffers=[buffer]), timeout=10)


def test_top_shows_rates_between_pictures(start):
    d = start()
    import threading
    stop = threading.Event()
    t = threading.Thread(target=lambda: [d.info() for _ in iter(stop.is_set, True)])
    t.start()
    try:
        text = kiln(d, "top", "--count", "2")
    finally:
        stop.set()
        t.join()
    pictures = [line for line in text.splitlines() if line.startswith("calls ")]
    assert len(pictures) == 2 and float(pictures[1].split()[1].rstrip("/s,")) > 20


def test_top_shows_a_search(start):
    d = start()
    exe = d.compile(slow_graph(2)).executable
    call = d.stub.Tune(kiln_pb2.TuneRequest(executable=exe, budget_ns=20_000_000_000), timeout=60)
    next(iter(call))
    s = json.loads(kiln(d, "--json", "top", "--once"))["searches"]
    assert len(s) == 1 and s[0]["model"] == "test" and not s[0]["background"] and 0 < int(s[0]["left_ns"]) <= 20_000_000_000
    assert "TUNING" in kiln(d, "top", "--once")
    call.cancel()


# -- kiln doctor -----------------------------------------------------------------------------------

def doctor(address, *, rc=0, env=None):
    """{check: [(verdict, found, advice)]}"""
    out = subprocess.run([BIN / "kiln", "--json", "--no-spawn", "--server", address, "doctor"], capture_output=True, text=True, timeout=60,
                         env={**os.environ, **(env or {})})
    assert out.returncode == rc, out.stdout + out.stderr
    checks = {}
    for c in json.loads(out.stdout)["checks"]:
        checks.setdefault(c["check"], []).append((c["verdict"], c["found"], c.get("advice", "")))
    return checks


def test_doctor_finds_nothing_wrong(start):
    d = start()
    checks = doctor(f"unix:{d.socket}")
    assert set(checks) >= {"programs", "hardware", "limits", "server", "version", "cache", "disk", "device", "answer"}
    for check in ("programs", "server", "version", "answer"):
        assert [v for v, _, _ in checks[check]] == ["ok"], checks[check]
    assert any("cpu:0 can be used" in found for _, found, _ in checks["hardware"])
    assert "shared" not in checks  # nothing is said of a tier that is not configured


def test_doctor_explains_sockets(start, tmp_path):
    c = doctor(f"unix:{tmp_path}/none.sock", rc=69)
    assert "No such file" in c["socket"][0][1] and "is kilnd" in c["socket"][0][2]
    (tmp_path / "file").write_text("")
    assert "is no socket" in doctor(f"unix:{tmp_path}/file", rc=69)["socket"][0][1]
    with socket.socket(socket.AF_UNIX) as s:
        s.bind(str(tmp_path / "dead.sock"))
    c = doctor(f"unix:{tmp_path}/dead.sock", rc=69)
    assert "mode 0" in c["socket"][0][1] and "gone" in c["socket"][0][2]


def test_doctor_explains_programs(start, tmp_path):
    d = start()
    bin = tmp_path / "bin"
    bin.mkdir()
    c = doctor(f"unix:{d.socket}", env={"KILN_BIN": str(bin)})
    assert [v for v, _, _ in c["programs"]] == ["warn", "warn"] and "LLVM" in c["programs"][1][2]
    (bin / "kilnd").write_text("#!/bin/sh\necho kilnd 0.0.1\n")
    (bin / "kiln-worker").write_text("#!/bin/sh\necho kiln-worker: error while loading shared libraries: libLLVM.so >&2; exit 127\n")
    for name in ("kilnd", "kiln-worker"):
        (bin / name).chmod(0o755)
    found = [f for _, f, _ in doctor(f"unix:{d.socket}", env={"KILN_BIN": str(bin)})["programs"]]
    assert "version 0.0.1" in found[0] and "libLLVM.so" in found[1]


def test_doctor_warns_of_limits_and_models(start, tmp_path):
    models = tmp_path / "models"
    models.mkdir()
    (models / "broken.onnx").write_bytes(b"x")
    d = start(config=["[server]", f"models = {models}"])
    out = subprocess.run(["sh", "-c", f"ulimit -n 512; exec {BIN}/kiln --json --no-spawn --server unix:{d.socket} doctor"],
                         capture_output=True, text=True, timeout=60)
    assert out.returncode == 0, out.stdout
    warned = {c["check"]: c["found"] for c in json.loads(out.stdout)["checks"] if c["verdict"] == "warn"}
    assert "at most 512 open files" in warned["limits"] and "broken is not loaded" in warned["model"]


def test_doctor_without_a_cache(start):
    d = start(cache=None)
    checks = doctor(f"unix:{d.socket}")
    assert "disk" not in checks


def test_tenants_see_their_own(start):
    from tenants import As, boss, section
    d = start(config=["[server]", "trace_all = true", *boss(), *section("ann"), *section("ben"), *section("root", roles="run admin")])
    ann, ben, root = (As(d, n) for n in ("ann", "ben", "root"))
    ann.compile(add_graph())
    ben.info()
    status = {n: who.stub.GetStatus(kiln_pb2.GetStatusRequest(), timeout=10) for n, who in (("ann", ann), ("ben", ben), ("root", root))}
    assert [t.name for t in status["ben"].tenants] == ["ben"]
    assert {t.name for t in status["root"].tenants} - {"(tuning)"} == {"ann", "ben", "boss", "root"}
    assert status["root"].compiles == 1 and status["ben"].compiles == 0 and status["ben"].answered == 0 and status["ben"].connections == 0
    assert status["ann"].tenants[0].executables == 1 and status["ben"].tenants[0].executables == 0
    assert {s.tenant for s in spans(ben).spans} == {"ben"} and {s.tenant for s in spans(ann).spans} == {"ann"}
    assert {s.tenant for s in spans(root).spans} >= {"ann", "ben", "root"}
