"""The port for metrics and health: what it says, that it is true, and that strangers cannot block or grow it."""
import re
import socket
import time

import grpc
import numpy as np
from conftest import add_graph, fails, kiln_pb2
from tenants import As, boss, section



def begin(start, tmp_path, extra=(), **kw):
    path = tmp_path / "http.sock"
    d = start(config=["[server]", f"metrics = unix:{path}", *extra], **kw)
    d.http = path
    return d


def exchange(d, request, timeout=10):
    """The raw answer to raw bytes, until the server closes or the first whole answer has come."""
    with socket.socket(socket.AF_UNIX) as s:
        s.settimeout(timeout)
        s.connect(str(d.http))
        s.sendall(request)
        data = b""
        while True:
            part = s.recv(65536)
            data += part
            head, sep, body = data.partition(b"\r\n\r\n")
            length = re.search(rb"Content-Length: (\d+)", head)
            if not part or (sep and (request.startswith(b"HEAD") or length and len(body) >= int(length[1]))):
                return data


def get(d, path, method="GET"):
    data = exchange(d, f"{method} {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    head, _, body = data.partition(b"\r\n\r\n")
    return int(head.split()[1]), body.decode()


def scrape(d):
    """{'name{labels}': value} and {'name': kind}; the format is checked on the way."""
    status, text = get(d, "/metrics")
    assert status == 200
    values, kinds, helped = {}, {}, set()
    for line in text.splitlines():
        if line.startswith("# HELP "):
            helped.add(line.split()[2])
        elif line.startswith("# TYPE "):
            _, _, name, kind = line.split()
            assert name not in kinds, f"{name} stands twice"
            kinds[name] = kind
        else:
            m = re.fullmatch(r"([a-z_]+)(\{(?:[a-z_]+=\"(?:[^\"\\]|\\.)*\",?)*\})? ([0-9.]+)", line)
            assert m, line
            base = re.sub("_(bucket|sum|count)$", "", m[1])
            assert m[1] in kinds or kinds.get(base) == "histogram", line
            assert line.rpartition(" ")[0] not in values, line
            values[line.rpartition(" ")[0]] = float(m[3])
    assert set(kinds) == helped
    return values, kinds


def test_health_and_readiness(start, tmp_path):
    d = begin(start, tmp_path)
    assert get(d, "/healthz") == (200, "ok\n")
    assert get(d, "/readyz") == (200, "ok\n")
    assert get(d, "/readyz?verbose")[0] == 200
    assert get(d, "/nothing")[0] == 404
    assert get(d, "/healthz", "HEAD") == (200, "")


def test_not_ready_without_a_device(start, tmp_path):
    d = begin(start, tmp_path, extra=["[workers]", "device = cuda:7"], wait=False)
    end = time.time() + 20
    while not d.http.exists():
        assert time.time() < end and d.process.poll() is None, d.log()
        time.sleep(0.02)
    assert get(d, "/readyz") == (503, "no device is up\n")
    assert get(d, "/healthz")[0] == 200


def test_counters_say_what_happened(start, tmp_path):
    d = begin(start, tmp_path)
    x = np.arange(16, dtype=np.float32)
    before, kinds = scrape(d)
    exe = d.compile(add_graph()).executable
    for _ in range(5):
        d.run(exe, {"x": x, "b": x})
    with fails(grpc.StatusCode.NOT_FOUND):
        d.run("exe-0000000000000001", {"x": x})
    after, _ = scrape(d)

    def grown(name):
        return after.get(name, 0) - before.get(name, 0)
    run = 'method="kiln.v1.Kiln/Run"'
    assert grown(f'kiln_requests_total{{{run},code="OK"}}') == 5
    assert grown(f'kiln_requests_total{{{run},code="NOT_FOUND"}}') == 1
    assert grown(f'kiln_request_seconds_count{{{run}}}') == 6
    assert grown('kiln_device_runs_total{device="cpu:0"}') == 5
    assert 0 < grown('kiln_device_seconds_total{device="cpu:0"}') < 5
    assert grown('kiln_compiles_total{result="ok"}') == 1
    assert grown('kiln_tenant_requests_total{tenant="local"}') == 7
    assert grown('kiln_tenant_failures_total{tenant="local"}') == 1
    assert grown("kiln_kernels_compiled_total") == 1
    for phase in ("parse", "upload", "queue", "run", "download"):
        assert grown(f'kiln_phase_seconds_count{{phase="{phase}"}}') >= 5, phase
    assert grown('kiln_phase_seconds_count{phase="compile"}') >= 1
    assert grown("kiln_received_bytes_total") > 5 * 128 and grown("kiln_sent_bytes_total") > 5 * 64
    assert after["kiln_executables"] == 1 and after["kiln_ready"] == 1
    assert after['kiln_device_up{device="cpu:0"}'] == 1
    assert after["kiln_cache_kernels"] == 1 and after["kiln_cache_misses"] >= 1
    assert kinds["kiln_requests_total"] == "counter" and kinds["kiln_phase_seconds"] == "histogram"


def test_a_stock_parser_reads_it(start, tmp_path):
    from prometheus_client.parser import text_string_to_metric_families
    d = begin(start, tmp_path)
    d.info()
    families = {f.name: f for f in text_string_to_metric_families(get(d, "/metrics")[1])}
    assert families["kiln_ready"].samples[0].value == 1 and families["kiln_requests"].type == "counter"
    assert {s.labels["method"] for s in families["kiln_request_seconds"].samples} >= {"kiln.v1.Kiln/GetServerInfo"}


def test_histograms_are_cumulative(start, tmp_path):
    d = begin(start, tmp_path)
    for _ in range(20):
        d.info()
    values, _ = scrape(d)
    label = 'method="kiln.v1.Kiln/GetServerInfo"'
    buckets = [(float(m[1].replace("+Inf", "inf")), v) for k, v in values.items()
               if (m := re.fullmatch(rf'kiln_request_seconds_bucket{{{label},le="([^"]+)"}}', k))]
    assert buckets == sorted(buckets) and len(buckets) == 24
    assert all(a[1] <= b[1] for a, b in zip(buckets, buckets[1:]))
    assert buckets[-1][1] == values[f"kiln_request_seconds_count{{{label}}}"] == 20
    total = values[f"kiln_request_seconds_sum{{{label}}}"]
    assert 0 < total < 20 * next(le for le, n in buckets if n == 20)


def test_labels_are_bounded(start, tmp_path):
    """Names that clients make up become no series."""
    d = begin(start, tmp_path)
    before, _ = scrape(d)
    for i in range(50):
        with fails(grpc.StatusCode.NOT_FOUND):
            d.run(f"exe-{i:016x}", {})
        with fails(grpc.StatusCode.UNIMPLEMENTED):
            d.channel.unary_unary(f"/evil.Service{i}/M", request_serializer=bytes, response_deserializer=bytes)(b"")
    d.compile(add_graph(), name='evil"} 1\nkiln_ready 0')
    after, _ = scrape(d)
    assert not [k for k in after if "evil" in k]
    assert len(after) - len(before) < 250  # a few methods' histograms


def test_a_worker_that_dies_is_counted(start, tmp_path):
    import os
    import signal
    d = begin(start, tmp_path)
    os.kill(d.wait_children("device")[0], signal.SIGKILL)
    end = time.time() + 20
    key = 'kiln_worker_ends_total{role="device",cause="crash"}'
    while scrape(d)[0].get(key) != 1:
        assert time.time() < end, d.log()
        time.sleep(0.05)
    d.wait_ready()
    assert scrape(d)[0]['kiln_device_restarts{device="cpu:0"}'] == 1


def test_several_requests_on_one_connection(start, tmp_path):
    d = begin(start, tmp_path)
    with socket.socket(socket.AF_UNIX) as s:
        s.settimeout(10)
        s.connect(str(d.http))
        s.sendall(b"GET /healthz HTTP/1.1\r\n\r\n" * 3 + b"GET /readyz HTTP/1.1\r\nConnection: close\r\n\r\n")
        data = b""
        while part := s.recv(65536):
            data += part
    assert data.count(b"HTTP/1.1 200 OK") == 4 and data.count(b"ok\n") == 4


def test_what_is_not_a_plain_get_is_refused(start, tmp_path):
    d = begin(start, tmp_path)
    cases = {b"POST / HTTP/1.1\r\n\r\n": 405, b"GET / HTTP/2.0\r\n\r\n": 505, b"GET / HTTP/1.1\r\nA\r\n\r\n": 400,
             b"GET / HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello": 413, b"GET / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n": 413,
             b"\r\n\r\n": 400, b"GET /\0 HTTP/1.1\r\n\r\n": 400, b"GET http://x/ HTTP/1.1\r\n\r\n": 400, b"GET / HTTP/1.1\nA: b\n\n": 400,
             b"GET / HTTP/1.1\r\nA: " + b"x" * 9000: 431, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n": 400}
    for request, status in cases.items():
        assert exchange(d, request).split()[1] == b"%d" % status, request[:60]
    assert get(d, "/healthz")[0] == 200


def test_slow_clients_block_nobody(start, tmp_path):
    """100 clients that send a byte now and then: probes are answered all the time, and the slow ones are thrown out."""
    d = begin(start, tmp_path)
    slow = []
    for _ in range(100):
        s = socket.socket(socket.AF_UNIX)
        s.connect(str(d.http))
        s.sendall(b"GET /healthz HTTP/1.1\r\nA: ")
        slow.append(s)
    for _ in range(5):
        assert get(d, "/healthz")[0] == 200
    end = time.time() + 20
    while slow:
        assert time.time() < end, f"{len(slow)} are still connected"
        time.sleep(0.3)
        for s in slow[:]:
            try:
                s.sendall(b"x")
            except OSError:
                s.close()
                slow.remove(s)
    assert get(d, "/healthz")[0] == 200


def test_tcp_port(start, tmp_path):
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    start(config=["[server]", f"metrics = 127.0.0.1:{port}"])
    with socket.create_connection(("127.0.0.1", port), 10) as s:
        s.sendall(b"GET /healthz HTTP/1.0\r\n\r\n")
        assert s.recv(4096).startswith(b"HTTP/1.1 200 OK")


def test_reading_is_no_audited_call_and_removing_is(start, tmp_path):
    d = begin(start, tmp_path, args=["--log-level", "error"])
    d.stats()
    with fails(grpc.StatusCode.INVALID_ARGUMENT):
        d.stub.CacheRemove(kiln_pb2.CacheRemoveRequest(hash="ab\" action=\"forged"), timeout=10)
    lines = [line for line in d.log().splitlines() if "level=audit" in line]
    assert len(lines) == 1, d.log()
    assert 'action="cache.remove" tenant=local ' in lines[0] and "code=INVALID_ARGUMENT" in lines[0]
    assert r'subject="hash=ab\" action=\"forged"' in lines[0]
    assert scrape(d)[0]["kiln_audited_total"] == 1


def test_every_action_is_audited(start, tmp_path):
    """Whatever the level of the log is, whether it succeeds or not: one line each, of who did it, and nothing of those who may not."""
    d = begin(start, tmp_path, extra=[*boss(), *section("ann", "run"), *section("eve", "run, cache-write")], args=["--log-level", "off"])
    imports = lambda who, *parts: who.stub.CacheImport(iter([kiln_pb2.CacheImportRequest(**p) for p in parts]), timeout=10)
    actions = {
        "cache.verify": lambda who: who.stub.CacheVerify(kiln_pb2.CacheVerifyRequest(), timeout=10),
        "cache.prune": lambda who: who.stub.CachePrune(kiln_pb2.CachePruneRequest(older_ns=1), timeout=10),
        "cache.remove": lambda who: who.stub.CacheRemove(kiln_pb2.CacheRemoveRequest(hash="abcd"), timeout=10),
        "cache.export": lambda who: list(who.stub.CacheExport(kiln_pb2.CacheExportRequest(), timeout=10)),
        "cache.import": lambda who: imports(who, {"header": {"size": 3}}, {"chunk": b"abc"}),
    }
    said = lambda: [line for line in d.log().splitlines() if "level=audit" in line]
    eve, ann, n = As(d, "eve"), As(d, "ann"), 0
    for action, call in actions.items():
        try:
            call(eve)
            code = "OK"
        except grpc.RpcError as e:
            code = e.code().name
        n += 1
        assert len(said()) == n and f'action="{action}" tenant=eve ' in said()[-1] and f"code={code}" in said()[-1], (action, said())
        if action == "cache.export":
            continue
        with fails(grpc.StatusCode.PERMISSION_DENIED):
            call(ann)
    assert len({line.split('action="')[1].split('"')[0] for line in said() if "tenant=eve" in line}) == len(actions)
    assert all("tenant=eve" in line or "code=PERMISSION_DENIED" in line for line in said())


def test_logs_hold_no_tensor_bytes(start, tmp_path):
    d = begin(start, tmp_path, args=["--log-level", "debug"])
    marker = np.frombuffer(b"SECRETSECRETSECR" * 4, np.float32)
    exe = d.compile(add_graph(weight=marker)).executable
    d.run(exe, {"x": marker})
    d.download(d.upload(marker))
    with fails(grpc.StatusCode.INVALID_ARGUMENT):
        d.run(exe, {"x": marker[:3]})
    assert "Run" in d.log() and "SECRET" not in d.log()


def test_streams_that_last_are_no_phase(start, tmp_path):
    d = begin(start, tmp_path)
    watch = d.channel.unary_stream("/grpc.health.v1.Health/Watch", request_serializer=bytes, response_deserializer=bytes)(b"", timeout=60)
    next(watch)
    time.sleep(1.2)
    watch.cancel()
    end = time.time() + 10
    while (v := scrape(d)[0]).get('kiln_requests_total{method="grpc.health.v1.Health/Watch",code="CANCELLED"}') != 1:
        assert time.time() < end
    assert v['kiln_request_seconds_sum{method="grpc.health.v1.Health/Watch"}'] > 1.2
    assert v.get('kiln_phase_seconds_sum{phase="download"}', 0) < 1


def test_caches_of_tenants_count(start, tmp_path):
    """Each tenant has a file of its own; whoever runs the server sees the sum."""
    d = begin(start, tmp_path, [*boss(), *section("ann"), *section("ben"), *section("cat", shared_cache="true")])
    before, _ = scrape(d)
    for n, name in enumerate(("ann", "ben", "cat")):
        As(d, name).compile(add_graph(16 + n))
    end = time.time() + 20
    while (now := scrape(d)[0])["kiln_cache_plans"] < 3 and time.time() < end:  # they are written behind the answer
        time.sleep(0.05)
    assert before["kiln_cache_plans"] == 0 and now["kiln_cache_plans"] == now["kiln_cache_kernels"] == 3
    assert now["kiln_cache_bytes"] > 0
