"""Spans that kilnd sends to a collector: OTLP over HTTP, bounded, and nobody waits for it. The collector is a small one of ours."""
import http.server
import json
import signal
import socket
import socketserver
import ssl
import threading
import time

import pytest
from conftest import add_graph, kiln_pb2, tensor
from tenants import As, authority, boss, certificate, ones, section
from test_identity import check_config, reload
from test_metrics import scrape


class Collector:
    """Answers with what `status` says and keeps what it was sent; over TCP, TLS with the certificate `tls`, or a Unix socket at `path`."""

    def __init__(self, path=None, port=0, tls=None, host="127.0.0.1"):
        self.status, self.bodies, self.requests, self.pause = 200, [], [], 0
        mine = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["content-length"]))
                time.sleep(mine.pause)
                status = mine.status
                mine.requests.append((self.path, dict(self.headers), status))
                if status == 200:
                    mine.bodies.append(json.loads(body))
                self.send_response(status)
                self.send_header("content-length", "2")
                self.end_headers()
                self.wfile.write(b"{}")

            def log_message(self, *args):
                pass

            def address_string(self):
                return "local"

            def setup(self):
                if tls:
                    self.request.do_handshake()
                super().setup()

        class Unix(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
            daemon_threads = True

        self.server = Unix(str(path), Handler) if path else http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler)
        if tls:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(f"{tls}.pem", f"{tls}.key")
            self.server.socket = context.wrap_socket(self.server.socket, server_side=True, do_handshake_on_connect=False)
        self.address = f"unix:{path}" if path else f"http{'s' if tls else ''}://{host}:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def spans(self):
        return [s for b in list(self.bodies) for r in b["resourceSpans"] for scope in r["scopeSpans"] for s in scope["spans"]]

    def wait(self, what, seconds=30):
        end = time.time() + seconds
        while not what():
            assert time.time() < end, (self.requests[-5:], len(self.spans()))
            time.sleep(0.02)

    def close(self):
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def collector():
    c = Collector()
    yield c
    c.close()


def config(c, *more):
    return ["[server]", "trace_all = true", f"trace_push = {c.address}", "node = node-7", *more]


def calls(d, n):
    for _ in range(n):
        d.info()


def attributes(list_):
    return {a["key"]: a["value"]["stringValue"] for a in list_}


@pytest.mark.parametrize("way", ["tcp", "unix"])
def test_what_arrives_is_what_was_recorded(start, tmp_path, way):
    c = Collector(tmp_path / "collector.sock" if way == "unix" else None)
    d = start(config=config(c, *boss(), *section("ann")))
    ann = As(d, "ann")
    exe = ann.compile(add_graph()).executable
    named = [kiln_pb2.NamedTensor(name=n, tensor=tensor(ones())) for n in "xb"]
    parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    ann.stub.Run(kiln_pb2.RunRequest(executable=exe, inputs=named), timeout=30, metadata=[("traceparent", parent)])
    c.wait(lambda: any(s["name"] == "kiln.v1.Kiln/Run" for s in c.spans()))
    path, headers, _ = c.requests[0]
    assert path == "/v1/traces" and {k.lower(): v for k, v in headers.items()}["content-type"] == "application/json"
    resource = attributes(c.bodies[0]["resourceSpans"][0]["resource"]["attributes"])
    assert resource["service.name"] == "kilnd" and resource["service.instance.id"] == "node-7"
    spans = c.spans()
    run = next(s for s in spans if s["name"] == "kiln.v1.Kiln/Run")
    assert run["traceId"] == "0af7651916cd43dd8448eb211c80319c" and run["parentSpanId"] == "b7ad6b7169203331"
    assert run["kind"] == 2 and run["status"]["code"] == 1
    assert attributes(run["attributes"]) == {"rpc.method": "kiln.v1.Kiln/Run", "kiln.tenant": "ann", "rpc.grpc.status": "OK"}
    phases = [s for s in spans if s.get("parentSpanId") == run["spanId"]]
    assert [s["name"] for s in phases] == ["parse", "upload", "queue", "run", "download"] and {s["kind"] for s in phases} == {1}
    # the same as an admin reads of it
    rows = {s.span_id.hex(): s for s in d.stub.GetTrace(kiln_pb2.GetTraceRequest(), timeout=10).spans}
    for s in [run, *phases]:
        row = rows[s["spanId"]]
        assert int(s["startTimeUnixNano"]) == row.start_unix_ns
        assert int(s["endTimeUnixNano"]) == row.start_unix_ns + row.duration_ns
    assert len({s["spanId"] for s in spans}) == len(spans)  # each once
    c.close()


def test_more_than_one_batch(start, collector):
    d = start(config=config(collector))
    calls(d, 400)
    sent = lambda: [s for s in collector.spans() if s["name"].endswith("/GetServerInfo")]
    collector.wait(lambda: len(sent()) >= 400)
    assert max(len(b["resourceSpans"][0]["scopeSpans"][0]["spans"]) for b in collector.bodies) <= 256


def test_a_collector_that_is_away_comes_back(start):
    """What was recorded meanwhile is not lost, as far as the ring reaches, and nothing is sent twice."""
    c = Collector()
    port = c.server.server_address[1]
    d = start(config=config(c))
    calls(d, 5)
    c.wait(lambda: c.spans())
    c.status = 503
    calls(d, 5)
    c.wait(lambda: c.requests[-1][2] == 503)
    c.close()
    calls(d, 5)
    time.sleep(1.5)
    again = Collector(port=port)
    again.wait(lambda: sum(s["name"].endswith("/GetServerInfo") for s in again.spans() + c.spans()) >= 15, 60)
    ids = [s["spanId"] for s in c.spans() + again.spans()]
    assert len(set(ids)) == len(ids)
    assert "the collector does not take spans" in d.log() and "the collector takes spans" in d.log()
    again.close()


def test_what_is_refused_is_counted(start, collector, tmp_path):
    collector.status = 400
    d = start(config=[*config(collector), f"metrics = unix:{tmp_path}/metrics.sock"])
    d.http = tmp_path / "metrics.sock"
    count = lambda result: scrape(d)[0].get(f'kiln_spans_pushed_total{{result="{result}"}}', 0)
    calls(d, 3)
    collector.wait(lambda: collector.requests)
    collector.wait(lambda: count("failed") >= 3)
    time.sleep(1.2)  # what else was recorded until then
    lost, n = count("failed"), len(collector.requests)
    collector.status = 200
    calls(d, 3)
    collector.wait(lambda: collector.spans())
    collector.wait(lambda: count("ok") == len(collector.spans()))
    assert count("failed") == lost
    assert n <= 2 and collector.requests[n - 1][2] == 400  # not again


def test_nobody_waits_for_a_collector_that_hangs(start):
    """Nor for one that says nothing that HTTP knows; and the end of the server does not, either."""
    with socket.create_server(("127.0.0.1", 0)) as hung:
        class At:
            address = f"http://127.0.0.1:{hung.getsockname()[1]}"
        d = start(config=config(At))
        calls(d, 3)
        hung.settimeout(20)
        one, _ = hung.accept()
        before = time.time()
        calls(d, 200)
        assert time.time() - before < 15
        one.sendall(b"SSH-2.0-nonsense\r\n")
        one.close()
        two, _ = hung.accept()  # tried again
        begin = time.time()
        d.process.send_signal(signal.SIGTERM)
        assert d.process.wait(20) == 0 and time.time() - begin < 8
        two.close()


def test_a_reload_takes_it(start, collector):
    d = start(config=["[server]", "trace_all = true"])
    calls(d, 3)
    conf = d.folder / "kiln.conf"
    text = conf.read_text()
    conf.write_text(text.replace("trace_all = true", f"trace_all = true\ntrace_push = {collector.address}"))
    d.process.send_signal(signal.SIGHUP)
    end = time.time() + 10
    while "configuration reloaded" not in d.log():
        assert time.time() < end
        time.sleep(0.02)
    calls(d, 3)
    collector.wait(lambda: collector.spans())
    conf.write_text(text)
    d.process.send_signal(signal.SIGHUP)
    time.sleep(2)
    n = len(collector.requests)
    calls(d, 3)
    time.sleep(1.5)
    assert len(collector.requests) == n


# -- TLS ------------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("certificates")
    for ca in ("ca", "other"):
        authority(folder, ca)
    certificate(folder, "ca", "server", "collector", "IP:127.0.0.1")
    certificate(folder, "ca", "named", "collector", "DNS:localhost")
    certificate(folder, "ca", "elsewhere", "collector", "DNS:elsewhere.example,IP:127.0.0.2")
    certificate(folder, "other", "mallory", "collector", "IP:127.0.0.1")
    return folder


def secure(c, files, ca="ca"):
    return config(c, *([f"trace_push_ca = {files}/{ca}.pem"] if ca else []))


@pytest.mark.parametrize("name,host", [("server", "127.0.0.1"), ("named", "localhost")])
def test_spans_travel_over_tls(start, files, name, host):
    """By address, and by a name (whose first address may be IPv6, where nobody listens)."""
    c = Collector(tls=files / name, host=host)
    d = start(config=secure(c, files))
    calls(d, 300)
    sent = lambda: [s for s in c.spans() if s["name"].endswith("/GetServerInfo")]
    c.wait(lambda: len(sent()) >= 300)
    assert {k.lower(): v for k, v in c.requests[0][1].items()}["host"] == c.address.removeprefix("https://")
    assert len({s["spanId"] for s in c.spans()}) == len(c.spans())
    c.close()


REFUSED = {
    "another name": ("elsewhere", "ca", "mismatch"),
    "another authority": ("mallory", "ca", "issuer certificate"),
    "an authority that nobody named": ("server", None, "issuer certificate"),
}


@pytest.mark.parametrize("how", REFUSED)
def test_a_collector_that_is_somebody_else(start, files, how):
    """It is sent nothing, and the log says why."""
    name, ca, why = REFUSED[how]
    c = Collector(tls=files / name)
    d = start(config=secure(c, files, ca))
    calls(d, 3)
    c.wait(lambda: "the collector does not take spans" in d.log())
    line = next(x for x in d.log().splitlines() if "the collector does not take spans" in x)
    assert "the certificate is refused" in line and why in line, line
    time.sleep(1.5)
    assert not c.requests
    c.close()


def test_a_collector_that_speaks_no_tls(start, files):
    c = Collector()
    c.address = c.address.replace("http:", "https:")
    d = start(config=secure(c, files))
    calls(d, 3)
    c.wait(lambda: "the collector does not take spans" in d.log())
    assert "TLS" in d.log() and not c.bodies
    c.close()


def test_whom_to_believe_can_be_mended(start, files):
    """A reload takes another file, and the same file with other contents; what waited arrives."""
    c = Collector(tls=files / "server")
    ca = files / "mended.pem"
    ca.write_text((files / "other.pem").read_text())
    d = start(config=secure(c, files, "mended"))
    calls(d, 3)
    c.wait(lambda: "the certificate is refused" in d.log())
    ca.write_text((files / "ca.pem").read_text())
    reload(d, secure(c, files, "mended"))
    c.wait(lambda: sum(s["name"].endswith("/GetServerInfo") for s in c.spans()) >= 3)
    reload(d, secure(c, files, "nothing"), known="the configuration was not reloaded")
    calls(d, 3)
    c.wait(lambda: sum(s["name"].endswith("/GetServerInfo") for s in c.spans()) >= 6)
    c.close()


def test_mistakes_in_the_address(tmp_path):
    for lines, word in ((["trace_push = https://"], "https://"), (["trace_push = https://a:port"], "https://"), (["trace_push = https://[::1"], "https://"),
                        (["trace_push = http://a", "trace_push_ca = /x"], "trace_push_ca"), (["trace_push_ca = /x"], "trace_push_ca")):
        code, said = check_config(tmp_path, ["[server]", *lines])
        assert code and word in said
