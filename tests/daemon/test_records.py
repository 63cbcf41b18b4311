"""Schedule records: what a build does with good, illegal, foreign and damaged ones, and the calls that keep the cache up."""
import json
import resource
import signal
import subprocess
import threading
import time

import grpc
import numpy as np
import pytest
import records
from conftest import BIN, TSAN, Graph, fails, kiln_pb2, slow_graph

C = grpc.StatusCode
V = records.VERIFIED


def matmul(n=64):
    g = Graph()
    a, b = g.param("a", [n, n]), g.param("b", [n, n])
    g.output("y", g.node("MATMUL", a, b))
    return g.bytes()


def until(what, timeout=10):
    end = time.time() + timeout
    while not what():
        assert time.time() < end
        time.sleep(0.02)


def filled(start, folder, model):
    """A cache with one kernel, and its hash and target."""
    d = start(folder=folder)
    d.compile(model)
    until(lambda: d.stats().kernels == 1)
    assert d.stop() == 0
    (key,) = records.kernels(d.cache)
    return d.cache, *key


def check(d, exe):
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((2, 64, 64), dtype=np.float32)
    np.testing.assert_allclose(d.run(exe, {"a": a, "b": b})["y"], a @ b, rtol=1e-4, atol=1e-4)


def build(start, folder, compiled):
    """Starts a daemon on the cache, compiles: so many kernels are compiled, and the answer is right."""
    d = start(folder=folder)
    r = d.compile(matmul())
    assert r.report.kernels_compiled == compiled, d.log()
    check(d, r.executable)
    assert d.stop() == 0
    return d


OPTS = "VECTOR(1,8) UPCAST(0,2)"


def test_a_build_uses_the_verified_record(start, tmp_path):
    cache, kernel, target = filled(start, tmp_path / "a", matmul())
    records.insert(cache, kernel, target, OPTS, flags=V)
    build(start, tmp_path / "a", 1)  # in place of the heuristic's, which was stored
    build(start, tmp_path / "a", 0)  # and from now on it is what is stored
    records.insert(cache, kernel, target, "UPCAST(0,4)", median=500, flags=V)
    build(start, tmp_path / "a", 1)  # a faster one
    build(start, tmp_path / "a", 0)
    records.insert(cache, kernel, target, " ", median=100, flags=V)  # no opts at all
    build(start, tmp_path / "a", 1)
    build(start, tmp_path / "a", 0)


@pytest.mark.parametrize("kw", [{"opts": OPTS}, {"opts": OPTS, "flags": records.IMPORTED}, {"opts": OPTS, "cause": 5}])
def test_others_are_not_served(start, tmp_path, kw):
    cache, kernel, target = filled(start, tmp_path / "a", matmul())
    records.insert(cache, kernel, target, **kw)
    build(start, tmp_path / "a", 0)
    assert len(records.rows(cache)) == 1


def test_wrong_target_is_not_served(start, tmp_path):
    cache, kernel, target = filled(start, tmp_path / "a", matmul())
    records.insert(cache, kernel, bytes(32), OPTS, flags=V)
    d = build(start, tmp_path / "a", 0)
    d = start(folder=tmp_path / "a")
    text = d.stub.CacheWhy(kiln_pb2.CacheWhyRequest(hash=kernel.hex())).text
    assert "not this server's: only hints for the tuner" in text and OPTS in text


@pytest.mark.parametrize("opts", ["FROBNICATE(0,4)", "VECTOR(1,7) VECTOR(1,7)", "UPCAST(0,4096)", "THREAD(9,2)", "UPCAST(0,", "\xff\xfe",
                                  "VECTOR(1,-8)", "UPCAST(99999999999999999999,2)", "x" * 4000])
def test_illegal_opts_fall_back_to_the_heuristic(start, tmp_path, opts):
    cache, kernel, target = filled(start, tmp_path / "a", matmul())
    records.insert(cache, kernel, target, opts, flags=V)
    d = build(start, tmp_path / "a", 1)
    assert "the heuristic takes over" in d.log()
    assert [r[1:3] for r in records.rows(cache)] == [(1, 0)]  # compile_error, remembered
    d = build(start, tmp_path / "a", 0)
    assert "the heuristic takes over" not in d.log().split("cache open")[-1]


def flipped(data, at):
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1:]


@pytest.mark.parametrize("harm", ["flip", "short", "version", "column", "empty"])
def test_damaged_records_are_ignored(start, tmp_path, harm):
    cache, kernel, target = filled(start, tmp_path / "a", matmul())
    good = records.record(kernel, target, OPTS, flags=V)
    blob = {"flip": flipped(good, 120), "short": good[:-3], "version": records.record(kernel, target, OPTS, flags=V, version=9),
            "column": records.record(kernel, target, OPTS), "empty": b""}[harm]
    records.insert(cache, kernel, target, OPTS, flags=V, blob=blob)
    d = build(start, tmp_path / "a", 0)
    assert "a schedule record is ignored" in d.log()
    assert len(records.rows(cache)) == (harm == "version")  # that of a newer server stays for it


# -- the calls ------------------------------------------------------------------------------------

def export(d, kernel=""):
    parts = list(d.stub.CacheExport(kiln_pb2.CacheExportRequest(kernel=kernel)))
    return parts[0].records, b"".join(p.chunk for p in parts[1:])


def import_(d, data, size=None, chunk=1000, header=True):
    def parts():
        if header:
            yield kiln_pb2.CacheImportRequest(header=kiln_pb2.CacheImportHeader(size=len(data) if size is None else size))
        for at in range(0, len(data), chunk):
            yield kiln_pb2.CacheImportRequest(chunk=data[at:at + chunk])
    return d.stub.CacheImport(parts(), timeout=60)


def test_records_travel_and_are_candidates(start, tmp_path):
    cache, kernel, target = filled(start, tmp_path / "a", matmul())
    for k in range(20):
        records.insert(cache, kernel, target, f"UPCAST(0,{k + 2})", median=1000 + k, flags=V)
    records.insert(cache, bytes(32), target, "x", cause=4)
    a, b = start(folder=tmp_path / "a"), start(folder=tmp_path / "b")
    n, data = export(a)
    assert n == 21 and export(a, kernel.hex())[0] == 20 and export(a, "ffffffffff")[0] == 0
    r = import_(b, data)
    assert (r.records, r.stored) == (21, 21)
    r = import_(b, data)
    assert (r.records, r.stored) == (21, 0)
    assert b.stats().schedules == 21 and b.stats().schedule_bytes > 0
    b.compile(matmul())  # by the heuristic: nothing of it is verified here
    assert b.stop() == 0
    assert {row[2:] for row in records.rows(b.cache)} == {(0, 1)}
    check(a, a.compile(matmul()).executable)
    r = import_(a, data)
    assert r.stored == 0 and {row[2:] for row in records.rows(a.cache)} == {(1, 0), (0, 0)}


def test_a_large_file_comes_in_chunks(start, tmp_path):
    d = start(folder=tmp_path / "a")
    many = [records.record(k.to_bytes(32, "big"), bytes(32), "y" * 4000) for k in range(1000)]
    assert import_(d, records.file(*many), chunk=1 << 18).stored == 1000
    n, data = export(d)
    assert n == 1000 and len(data) > 4_000_000


@pytest.fixture(scope="module")
def good():
    return records.record(bytes(32), bytes(32), OPTS)


BAD = {"garbage": (lambda g: b"x" * 500, C.INVALID_ARGUMENT, "byte 0"), "empty": (lambda g: b"", C.INVALID_ARGUMENT, "byte 0"),
       "cut": (lambda g: records.file(g)[:-10], C.INVALID_ARGUMENT, "byte 24"),
       "flipped": (lambda g: flipped(records.file(g), 300), C.INVALID_ARGUMENT, "does not match its hash"),
       "version": (lambda g: records.file(g, version=2), C.FAILED_PRECONDITION, "version 2, this server reads 1"),
       "count": (lambda g: records.file(g, count=2**63), C.INVALID_ARGUMENT, "byte 16"),
       "more": (lambda g: records.file(g, count=2), C.INVALID_ARGUMENT, "record 1 at byte"),
       "fewer": (lambda g: records.file(g, g, count=1), C.INVALID_ARGUMENT, "behind the last record"),
       "record": (lambda g: records.file(g, flipped(g, 100)), C.INVALID_ARGUMENT, "record 1 at byte"),
       "record version": (lambda g: records.file(records.record(bytes(32), bytes(32), "x", version=3)), C.FAILED_PRECONDITION, "record 0 at byte 64"),
       "cause": (lambda g: records.file(records.record(bytes(32), bytes(32), "x", cause=6)), C.INVALID_ARGUMENT, "record 0 at byte 64"),
       "control": (lambda g: records.file(records.record(bytes(32), bytes(32), "a\nb")), C.INVALID_ARGUMENT, "control character")}


@pytest.mark.parametrize("name", BAD)
def test_bad_files_are_refused(daemon, good, name):
    make, code, words = BAD[name]
    with fails(code, words):
        import_(daemon, make(good))
    assert daemon.stats().schedules == 0


def test_bad_uploads(daemon, good):
    data = records.file(good)
    with fails(C.INVALID_ARGUMENT, "before the header"):
        import_(daemon, data, header=False)
    with fails(C.INVALID_ARGUMENT, "announced 10 bytes"):
        import_(daemon, data, size=10)
    with fails(C.INVALID_ARGUMENT, "announced 9999 bytes"):
        import_(daemon, data, size=9999)
    with fails(C.RESOURCE_EXHAUSTED, "at most"):
        import_(daemon, data, size=2**40)
    with fails(C.INVALID_ARGUMENT, "without a message"):
        daemon.stub.CacheImport(iter(()))
    for hash_ in ("zz", "a" * 65):
        with fails(C.INVALID_ARGUMENT, "hex"):
            export(daemon, hash_)


def test_verify_prune_remove(start, tmp_path):
    cache, kernel, target = filled(start, tmp_path / "a", matmul())
    records.insert(cache, kernel, target, OPTS, flags=V)
    records.insert(cache, kernel, target, "bad", flags=V, blob=b"x")
    records.insert(cache, bytes(32), bytes(32), OPTS)
    d = start(folder=tmp_path / "a")
    v = d.stub.CacheVerify(kiln_pb2.CacheVerifyRequest())
    assert (v.entries, v.schedules, v.corrupt, v.newer, v.problems) == (2, 2, 1, 0, "")
    with fails(C.NOT_FOUND, "nothing is stored under abcdef"):
        d.stub.CacheRemove(kiln_pb2.CacheRemoveRequest(hash="abcdef"))
    with fails(C.INVALID_ARGUMENT, "hex digits"):
        d.stub.CacheRemove(kiln_pb2.CacheRemoveRequest(hash="a"))
    for kw in ({}, {"older_ns": -1}):
        with fails(C.INVALID_ARGUMENT, "nothing to prune by"):
            d.stub.CachePrune(kiln_pb2.CachePruneRequest(**kw))
    with fails(C.INVALID_ARGUMENT, "not hexadecimal"):
        d.stub.CachePrune(kiln_pb2.CachePruneRequest(target="kernel"))
    r = d.stub.CachePrune(kiln_pb2.CachePruneRequest(target="00000000"))
    assert (r.entries, r.schedules) == (0, 1)
    r = d.stub.CacheRemove(kiln_pb2.CacheRemoveRequest(hash=kernel.hex()[:16]))
    assert (r.entries, r.schedules) == (1, 1) and r.bytes > 500
    r = d.stub.CachePrune(kiln_pb2.CachePruneRequest(older_ns=3_600_000_000_000))
    assert r.entries == 0
    r = d.stub.CachePrune(kiln_pb2.CachePruneRequest(older_ns=1))
    assert r.entries == 1 and d.stats().bytes == 0
    r = d.compile(matmul())  # what is loaded serves on
    check(d, r.executable)


def test_upkeep_without_a_cache(start):
    d = start(cache=None)
    for call in (lambda: d.stub.CacheVerify(kiln_pb2.CacheVerifyRequest()), lambda: export(d), lambda: import_(d, records.file()),
                 lambda: d.stub.CacheRemove(kiln_pb2.CacheRemoveRequest(hash="abcd")),
                 lambda: d.stub.CachePrune(kiln_pb2.CachePruneRequest(bytes=1))):
        with fails(C.FAILED_PRECONDITION, "no cache"):
            call()


# -- two daemons, a killed one, a full disk -------------------------------------------------------

def test_two_daemons_on_one_file(start, tmp_path):
    shared = str(tmp_path / "shared.db")
    a, b = (start(folder=tmp_path / name, cache="../shared.db") for name in "ab")
    parts = [records.file(*[records.record(k.to_bytes(32, "big"), bytes(32), f"x{d}") for k in range(40 * i, 40 * i + 40)])
             for d in range(2) for i in range(10)]
    errors = []

    def work(d, mine):
        try:
            for data in mine:
                import_(d, data)
                d.compile(slow_graph(1, first=len(data) % 7))
        except Exception as e:  # noqa: BLE001
            errors.append(e)
    threads = [threading.Thread(target=work, args=(d, parts[i * 10:i * 10 + 10])) for i, d in enumerate((a, b))]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not errors, errors
    assert len(records.rows(shared)) == 800
    assert a.stats().schedules == b.stats().schedules == 800
    assert a.stats().error == b.stats().error == ""
    v = a.stub.CacheVerify(kiln_pb2.CacheVerifyRequest())
    assert v.corrupt == 0 and not v.problems
    assert export(b)[0] == 800


def test_killed_in_the_middle_of_a_write(start, tmp_path):
    d = start(folder=tmp_path / "a")
    data = [records.file(*[records.record((100 * i + k).to_bytes(32, "big"), bytes(32), "x") for k in range(100)]) for i in range(60)]
    done = []

    def work():
        try:
            for f in data:
                import_(d, f)
                done.append(1)
        except grpc.RpcError:
            pass
    t = threading.Thread(target=work)
    t.start()
    until(lambda: len(done) >= 10)
    d.process.send_signal(signal.SIGKILL)
    d.process.wait()
    t.join()
    assert len(done) < len(data)
    d = start(folder=tmp_path / "a")
    v = d.stub.CacheVerify(kiln_pb2.CacheVerifyRequest())
    assert v.corrupt == 0 and not v.problems and v.schedules % 100 == 0  # whole files or nothing of them
    assert v.schedules >= 100 * (len(done) - 1)
    d.compile(matmul())


@pytest.mark.skipif(TSAN, reason="the sanitizer maps files of its own, which the limit cuts off")
def test_full_disk(start, tmp_path):
    def limit():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, 400_000))
    d = start(folder=tmp_path / "a", preexec=limit)
    data = records.file(*[records.record(k.to_bytes(32, "big"), bytes(32), "y" * 4000) for k in range(200)])
    with pytest.raises(grpc.RpcError) as e:
        import_(d, data)
    assert e.value.code() in (C.RESOURCE_EXHAUSTED, C.UNAVAILABLE)
    assert d.stats().schedules == 0  # all or none
    check(d, d.compile(matmul()).executable)
    assert d.stub.CacheVerify(kiln_pb2.CacheVerifyRequest()).corrupt == 0


# -- the command ----------------------------------------------------------------------------------

def cli(d, *args, code=0):
    r = subprocess.run([str(BIN / "kiln"), "--server", f"unix:{d.socket}", "cache", *map(str, args)], capture_output=True, text=True)
    assert r.returncode == code, (r.stdout, r.stderr)
    return r.stdout if code == 0 else r.stdout + r.stderr


def test_the_command(start, tmp_path):
    cache, kernel, target = filled(start, tmp_path / "a", matmul())
    records.insert(cache, kernel, target, OPTS, flags=V)
    records.insert(cache, kernel, target, "bad", flags=V, blob=b"x")
    a, b, file = start(folder=tmp_path / "a"), start(folder=tmp_path / "b"), tmp_path / "records.bin"
    assert "2 schedule records" in cli(a, "stats")
    assert "1 were damaged and are removed" in cli(a, "verify", code=65)
    assert json.loads(cli(a, "verify", "--json")) == {"good": True, "entries": 2, "schedules": 1, "corrupt": 0, "newer": 0, "problems": ""}
    assert "1 schedule records" in cli(a, "export", file)
    assert json.loads(cli(a, "export", file, "--kernel", kernel.hex()[:12], "--json"))["records"] == 1
    assert json.loads(cli(a, "export", tmp_path / "none", "--kernel", "0" * 64, "--json"))["records"] == 0
    assert "1 schedule records, 1 new" in cli(b, "import", file)
    assert json.loads(cli(b, "import", file, "--json")) == {"records": 1, "stored": 0}
    assert "not verified imported by elsewhere" in cli(b, "why", kernel.hex())
    assert json.loads(cli(a, "ls", "--json"))["entries"][0]["schedules"] in (0, 1)
    data = file.read_bytes()
    for harm, code, words in ((data[:100], 65, "byte 24"), (flipped(data, 99), 65, "does not match its hash"), (b"", 65, "byte 0")):
        (tmp_path / "harm").write_bytes(harm)
        assert words in cli(b, "import", tmp_path / "harm", code=code)
    assert "No such file" in cli(b, "import", tmp_path / "nowhere", code=66)
    assert "No such file" in cli(a, "export", tmp_path / "no" / "where", code=73)
    assert "hex" in cli(a, "export", file, "--kernel", "xyz", code=65)
    assert file.read_bytes() == data  # a failed export leaves what was there
    assert "nothing is stored" in cli(a, "rm", "ffffffff", code=65)
    assert "removed 1 entries and 1 schedule records" in cli(a, "rm", kernel.hex())
    assert "removed 0 entries and 0" in cli(a, "prune", "--older", "1h")
    assert json.loads(cli(a, "prune", "--bytes", "1", "--json"))["entries"] == 1
    assert "removed 0 entries and 1 schedule records" in cli(b, "prune", "--target", target.hex()[:8])
