"""Explain: what kernels do and how they are scheduled, and runs in which each call is timed."""
import json
import sqlite3
import subprocess

import grpc
import numpy as np
import records
from conftest import BIN, Graph, fails, kiln_pb2, tensor
from test_records import OPTS, V, filled, matmul

C = grpc.StatusCode


def two_kernels(n=48):
    """A matmul that is called twice, and a sum."""
    g = Graph()
    a, w = g.param("a", [n, n]), g.param("w", [n, n])
    x = g.node("MATMUL", g.node("MATMUL", a, w), w)
    g.output("x", x)
    g.output("s", g.node("REDUCE_SUM", x, ints=[0]))
    return g.bytes()


def profiled(d, exe, inputs, profile=True):
    named = [kiln_pb2.NamedTensor(name=k, tensor=tensor(v)) for k, v in inputs.items()]
    return d.stub.Run(kiln_pb2.RunRequest(executable=exe, inputs=named, profile=profile), timeout=60)


def explained(d, exe, tried=8):
    return d.stub.Explain(kiln_pb2.ExplainRequest(executable=exe, tried=tried), timeout=60)


def test_kernels_and_their_cost(daemon):
    exe = daemon.compile(two_kernels()).executable
    x = explained(daemon, exe)
    assert x.device == "cpu:0" and x.calls == 3 and len(x.kernels) == 2
    by_calls = {len(k.calls): k for k in x.kernels}
    m, s = by_calls[2], by_calls[1]
    assert sorted([*m.calls, *s.calls]) == [0, 1, 2]
    assert m.shape == "48x48, reduces 48" and s.shape == "48, reduces 48"
    assert m.flops == 2 * 48**3 and m.bytes_read == 2 * 4 * 48**2 and m.bytes_written == 4 * 48**2
    for k in x.kernels:
        assert k.source == "heuristic" and len(k.hash) == 64 and k.name.startswith("r_")
        assert 0 < k.roofline_ns <= k.predicted_ns and not k.tried and k.measured == k.failed == k.once == 0
    assert "VECTOR" in m.opts or "UPCAST" in m.opts


def test_profiled_run_times_each_call(daemon):
    exe = daemon.compile(two_kernels()).executable
    rng = np.random.default_rng(0)
    inputs = {n: rng.standard_normal((48, 48), dtype=np.float32) for n in "aw"}
    plain = profiled(daemon, exe, inputs, profile=False)
    assert not plain.HasField("profile")
    r = profiled(daemon, exe, inputs)
    assert list(r.profile.call_runs) == [1, 1, 1]
    assert all(0 < ns <= r.device_ns for ns in r.profile.call_ns) and sum(r.profile.call_ns) <= r.device_ns
    assert [o.tensor.data for o in r.outputs] == [o.tensor.data for o in plain.outputs]
    assert not profiled(daemon, exe, inputs, profile=False).HasField("profile")


def test_calls_in_a_loop_are_counted(daemon):
    from onnx import TensorProto, helper
    F, I, B = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL
    value = helper.make_tensor_value_info
    body = helper.make_graph([helper.make_node("Sin", ["a"], ["b"]), helper.make_node("Identity", ["go"], ["again"])], "body",
                             [value("k", I, []), value("go", B, []), value("a", F, [5000])], [value("again", B, []), value("b", F, [5000])])
    graph = helper.make_graph([helper.make_node("Loop", ["n", "c", "x"], ["y"], body=body)], "g",
                              [value("x", F, [5000]), value("n", I, []), value("c", B, [])], [value("y", F, [5000])])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()
    exe = daemon.compile(model, fmt=1).executable
    r = profiled(daemon, exe, {"x": np.ones(5000, np.float32), "n": np.array(7), "c": np.array(True)})
    assert max(r.profile.call_runs) == 7
    for ns, runs in zip(r.profile.call_ns, r.profile.call_runs):
        assert (ns > 0) == (runs > 0)
    x = explained(daemon, exe)
    assert sum(len(k.calls) for k in x.kernels) == x.calls == len(r.profile.call_ns)


def test_what_was_tried_and_where_the_schedule_came_from(start, tmp_path):
    cache, kernel, target = filled(start, tmp_path / "a", matmul())
    records.insert(cache, kernel, target, OPTS, median=700, flags=V)
    records.insert(cache, kernel, target, "UPCAST(0,4)", median=900)
    records.insert(cache, kernel, target, "UPCAST(0,2)", median=100, flags=records.IMPORTED)
    records.insert(cache, kernel, target, "UPCAST(0,8)", cause=5)
    records.insert(cache, kernel, bytes(32), "UPCAST(1,4)", median=1)
    d = start(folder=tmp_path / "a")
    exe = d.compile(matmul()).executable
    (k,) = explained(d, exe).kernels
    assert k.opts == OPTS and k.source == "tuned" and (k.measured, k.failed) == (3, 1)
    assert [(t.opts, t.cause, t.verified, t.imported) for t in k.tried] == [
        (OPTS, "measured", True, False), ("UPCAST(0,2)", "measured", False, True), ("UPCAST(0,4)", "measured", False, False),
        ("UPCAST(0,8)", "wrong_result", False, False)]
    assert k.tried[0].median_ns == 700 and k.tried[0].host == "elsewhere" and k.tried[0].reps == 5
    (k,) = explained(d, exe, tried=1).kernels
    assert len(k.tried) == 1 and k.measured == 3
    (k,) = explained(d, exe, tried=0).kernels
    assert not k.tried
    # the command says the same
    (tmp_path / "m.kgraph").write_bytes(matmul())
    command = [str(BIN / "kiln"), "--server", f"unix:{d.socket}", "explain", str(tmp_path / "m.kgraph"), "--repeat", "3"]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert text.splitlines()[2].split() == "time share calls flops bytes of roof predicted schedule kernel".split()
    assert "tuned" in text and OPTS in text and "tried 4 schedules, 1 of them failed" in text
    j = json.loads(subprocess.run(command + ["--json"], check=True, capture_output=True, text=True).stdout)
    (k,) = j["kernels"]
    assert k["source"] == "tuned" and k["ns"] > 0 and k["executions"] == 1 and len(k["tried"]) == 3 and 0 < k["of_roofline"] and k["predicted_ns"] > 0
    assert j["profiled_runs"] == 3


def test_without_a_cache(start):
    d = start(cache=None)
    (k,) = explained(d, d.compile(matmul()).executable).kernels
    assert k.source == "heuristic" and k.flops == 2 * 64**3


def test_bad_questions(daemon):
    for exe in ("", "exe-0000000000000000", "nonsense"):
        with fails(C.NOT_FOUND, "executable"):
            explained(daemon, exe)
    r = subprocess.run([str(BIN / "kiln"), "--server", f"unix:{daemon.socket}", "explain", "/nowhere.onnx"], capture_output=True, text=True)
    assert r.returncode == 66 and "/nowhere.onnx" in r.stderr
    r = subprocess.run([str(BIN / "kiln"), "explain", "x.onnx", "--repeat=0"], capture_output=True, text=True)
    assert r.returncode == 64 and "--repeat" in r.stderr


def test_client_gone_while_explaining(daemon):
    exe = daemon.compile(two_kernels(64)).executable
    for _ in range(20):
        call = daemon.stub.Explain.future(kiln_pb2.ExplainRequest(executable=exe, tried=3))
        call.cancel()
    assert len(explained(daemon, exe).kernels) == 2


def test_a_tuned_model_needs_nothing_anew(start, tmp_path):
    """What a search found is what another server on the same cache compiles nothing for, and what it explains."""
    d = start(folder=tmp_path / "a")
    exe = d.compile(two_kernels(96)).executable
    for _ in d.stub.Tune(kiln_pb2.TuneRequest(executable=exe, budget_ns=40_000_000_000), timeout=120):
        pass
    before = {k.name: (k.opts, k.source, k.measured) for k in explained(d, exe).kernels}
    assert all(measured for _, _, measured in before.values())
    assert d.stop() == 0
    d = start(folder=tmp_path / "a")
    r = d.compile(two_kernels(96))
    assert r.report.plan_cached and r.report.kernels_compiled == 0
    assert {k.name: (k.opts, k.source, k.measured) for k in explained(d, r.executable).kernels} == before
    db = sqlite3.connect(d.cache)
    with db:
        db.execute("DELETE FROM blobs WHERE id IN (SELECT id FROM entries WHERE kind=1)")
        db.execute("DELETE FROM entries WHERE kind=1")  # the binaries are lost: made again from the records, without a timing
    db.close()
    assert d.stop() == 0
    d = start(folder=tmp_path / "a")
    r = d.compile(two_kernels(96))
    assert r.report.kernels_compiled == 2
    after = {k.name: (k.opts, k.source, k.measured) for k in explained(d, r.executable).kernels}
    assert {k: v for k, v in after.items() if before[k][1] != "heuristic"} == {k: v for k, v in before.items() if v[1] != "heuristic"}
