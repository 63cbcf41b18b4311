"""TLS on TCP: who is let in, as whom, and how long somebody may take to begin."""
import os
import socket
import ssl
import subprocess
import sys
import time

import grpc
import numpy as np
import pytest
from conftest import BIN, SANITIZED, Daemon, add_graph, ends_well, fails, kiln_pb2
from tenants import As, authority, boss, certificate, free_port, ones, secure_channel, section
from test_identity import check_config, reload

CODE = grpc.StatusCode


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("certificates")
    authority(folder, "ca")
    authority(folder, "other")
    for name in ("server", "server2"):
        certificate(folder, "ca", name, name, "DNS:localhost,IP:127.0.0.1")
    certificate(folder, "ca", "elsewhere", "elsewhere", "DNS:elsewhere.example")
    certificate(folder, "ca", "alice", "alice")
    certificate(folder, "ca", "bob", "someone", "URI:spiffe://example/bob,DNS:bob.example")
    certificate(folder, "ca", "carol", "carol")
    certificate(folder, "other", "mallory", "alice")
    return folder


def tls_section(files, name="server", client_ca=True):
    return ["[tls]", f"certificate = {files}/{name}.pem", f"key = {files}/{name}.key",
            *([f"client_ca = {files}/ca.pem"] if client_ca else [])]


def config(files, port, name="server"):
    return ["[server]", f"listen = 127.0.0.1:{port}", *tls_section(files, name), *boss(),
            *section("alice", certificate="cn:alice"), *section("bob", certificate="uri:spiffe://example/bob")]


@pytest.fixture(scope="module")
def served(files, tmp_path_factory):
    port = free_port()
    # --listen on the command line replaces the file's: the Unix socket of the fixture is given there, TCP too
    d = Daemon(tmp_path_factory.mktemp("tls"), config=config(files, port), args=["--listen", f"127.0.0.1:{port}"])
    d.port, d.files = port, files
    yield d
    ends_well(d)


def over_tls(d, name=None, **kw):
    who = As(d, name, channel=secure_channel(d.port, d.files, **kw))
    return who


def test_a_token_over_tls(served):
    alice = over_tls(served, "alice")
    exe = alice.compile(add_graph()).executable
    assert (alice.run(exe, {"x": ones(), "b": ones()})["y"] == 2).all()
    with fails(CODE.UNAUTHENTICATED):
        over_tls(served).info()
    with fails(CODE.UNAUTHENTICATED):
        over_tls(served, "nobody-of-that-name").info()


@pytest.mark.parametrize("n", [1, 1000, 1 << 20, (16 << 20) + 7])
def test_bytes_arrive_as_they_were(served, n):
    alice = over_tls(served, "alice")
    a = np.random.default_rng(n).integers(0, 255, n, np.uint8)
    buf = alice.upload(a)
    assert (alice.download(buf) == a).all()


def test_a_certificate_is_a_tenant(served):
    alice, bob = over_tls(served, cert="alice"), over_tls(served, cert="bob")
    buf = alice.upload(ones())
    assert (As(served, "alice").download(buf) == 1).all()  # the same tenant, by another way
    with fails(CODE.NOT_FOUND):
        bob.download(buf)
    bob.info()
    with fails(CODE.UNAUTHENTICATED):  # a good certificate of nobody
        over_tls(served, cert="carol").info()


def test_the_token_counts_before_the_certificate(served):
    buf = As(served, "bob").upload(ones())
    assert (over_tls(served, "bob", cert="alice").download(buf) == 1).all()


def test_a_certificate_of_another_authority(served):
    with fails(CODE.UNAVAILABLE):
        over_tls(served, "alice", cert="mallory").info()
    over_tls(served, "alice").info()


def test_a_server_of_another_name_or_authority(files, start):
    port = free_port()
    d = start(config=config(files, port, "elsewhere"), args=["--listen", f"127.0.0.1:{port}"])
    for ca in ("ca", "other"):
        with fails(CODE.UNAVAILABLE):
            As(d, "alice", channel=secure_channel(port, files, ca=ca)).info()


def handshake(port, files, **how):
    """What a bare TLS client gets: the protocol version, or an error."""
    c = ssl.create_default_context(cafile=files / "ca.pem")
    if "alpn" in how:
        c.set_alpn_protocols(how["alpn"])
    if "most" in how:
        c.maximum_version = how["most"]
    with socket.create_connection(("localhost", port), timeout=10) as s, c.wrap_socket(s, server_hostname="localhost") as t:
        t.settimeout(10)
        return t.version(), t.selected_alpn_protocol()


def test_only_tls_1_3_and_h2(served):
    assert handshake(served.port, served.files, alpn=["http/1.1", "h2"]) == ("TLSv1.3", "h2")
    for how in ({"alpn": ["h2"], "most": ssl.TLSVersion.TLSv1_2}, {"alpn": ["http/1.1"]}):
        with pytest.raises((ssl.SSLError, ConnectionError)):
            handshake(served.port, served.files, **how)


def test_plain_text_is_no_handshake(served):
    with fails(CODE.UNAVAILABLE):
        As(served, "alice", channel=grpc.insecure_channel(f"127.0.0.1:{served.port}")).info()
    for junk in (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n", bytes(100_000), b"\x16\x03\x01\xff\xff" + b"\x01" * 70000):
        with socket.create_connection(("127.0.0.1", served.port), timeout=20) as s:
            try:
                s.sendall(junk)
                while s.recv(4096):
                    pass
            except ConnectionError:
                pass
    over_tls(served, "alice").info()


def test_slow_handshakes_are_cut(served):
    """Silence, one byte, and a byte a second: none holds a connection for long; meanwhile others are served."""
    began = time.time()
    open_ = [socket.create_connection(("127.0.0.1", served.port)) for _ in range(3)]
    open_[1].sendall(b"\x16")
    hello = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(40)
    for s in open_:
        s.setblocking(False)
    for i in range(30):
        try:
            open_[2].sendall(hello[i:i + 1])
        except OSError:
            pass
        ended = []
        for s in open_:
            try:
                ended.append(s.recv(100) == b"")
            except BlockingIOError:
                ended.append(False)
            except OSError:
                ended.append(True)
        if all(ended):
            break
        over_tls(served, "alice").info()
        time.sleep(1)
    assert all(ended) and time.time() - began > 5


def test_a_new_certificate_without_a_restart(files, start):
    port = free_port()
    d = start(config=config(files, port), args=["--listen", f"127.0.0.1:{port}"])

    def serial():
        c = ssl.create_default_context(cafile=files / "ca.pem")
        c.set_alpn_protocols(["h2"])
        with socket.create_connection(("localhost", port)) as s, c.wrap_socket(s, server_hostname="localhost") as t:
            return t.getpeercert()["serialNumber"]

    old = As(d, "alice", channel=secure_channel(port, files))
    old.info()
    before = serial()
    reload(d, config(files, port, "server2"))
    assert serial() != before
    old.info()  # a connection that was open goes on
    reload(d, [*boss(), *section("alice")], known="the configuration was not reloaded")
    assert serial() != before
    bad = files / "bad.pem"
    bad.write_text("no certificate")
    reload(d, [x.replace("server.pem", "bad.pem") for x in config(files, port)], known="the configuration was not reloaded")
    serial()
    old.info()


def test_what_a_tcp_listener_needs(files, tmp_path):
    outside = ["[server]", "listen = 0.0.0.0:7777"]
    code, text = check_config(tmp_path, outside)
    assert code == 78 and "plain text" in text and "insecure_tcp" in text
    assert check_config(tmp_path, [*outside, "insecure_tcp = true"])[0] == 0
    assert check_config(tmp_path, [*outside, *tls_section(files)])[0] == 0
    assert check_config(tmp_path, ["[tls]", f"certificate = {files}/server.pem"])[0] == 78
    assert check_config(tmp_path, ["[tls]", f"client_ca = {files}/ca.pem"])[0] == 78
    wrong = subprocess.run([BIN / "kilnd", "--config", write(tmp_path, ["[tls]", f"certificate = {files}/server.pem",
                            f"key = {files}/server2.key"]), "--listen", f"unix:{tmp_path}/s"], capture_output=True, text=True, timeout=20)
    assert wrong.returncode == 69 and "key" in wrong.stderr


def write(tmp_path, lines):
    path = tmp_path / "kiln.conf"
    path.write_text("\n".join(lines) + "\n")
    return path


# -- the clients ------------------------------------------------------------------------------------

def kiln(served, *args, token=None, **environment):
    names = ("KILN_TOKEN", "KILN_TLS_CA", "KILN_TLS_CERT", "KILN_TLS_KEY", "KILN_TLS_SERVER_NAME", "KILN_SERVER")
    env = {k: v for k, v in os.environ.items() if k not in names}
    r = subprocess.run([BIN / "kiln", "--server", f"localhost:{served.port}", "--no-spawn", *args], capture_output=True, text=True,
                       env={**env, **environment}, timeout=60)
    return r.returncode, r.stdout + r.stderr


def test_the_command_line_over_tls(served, tmp_path):
    ca = ["--tls-ca", str(served.files / "ca.pem")]
    secret = tmp_path / "token"
    secret.write_text("alice-token\n")
    assert kiln(served, "devices", *ca, "--token-file", str(secret))[0] == 0
    assert kiln(served, "devices", *ca, KILN_TOKEN="alice-token")[0] == 0
    assert kiln(served, "devices", KILN_TOKEN="alice-token", KILN_TLS_CA=str(served.files / "ca.pem"))[0] == 0
    pair = ["--tls-cert", str(served.files / "bob.pem"), "--tls-key", str(served.files / "bob.key")]
    assert kiln(served, "devices", *ca, *pair)[0] == 0
    model = tmp_path / "m.kgraph"
    model.write_bytes(add_graph())
    code, text = kiln(served, "run", str(model), "--random", "1", *ca, KILN_TOKEN="alice-token")
    assert code == 0, text
    for code, words, args, env in (
            (77, "UNAUTHENTICATED", ca, {}), (77, "UNAUTHENTICATED", ca, {"KILN_TOKEN": "wrong"}),
            (69, "the certificate is refused", ["--tls-ca", str(served.files / "other.pem")], {"KILN_TOKEN": "alice-token"}),
            (69, "the certificate is refused: hostname mismatch", [*ca, "--tls-server-name", "elsewhere.example"], {}),
            (69, "", [], {}), (65, "", ["--tls-ca", "/nonexistent"], {}), (66, "No such file", [*ca, "--token-file", "/nonexistent"], {}),
            (65, "whom to believe", pair, {})):
        got, text = kiln(served, "devices", *args, **env)
        assert got == code and words in text, (args, env, got, text)


def test_a_token_is_not_sent_in_plain_text(served, tmp_path):
    r = subprocess.run([BIN / "kiln", "--server", "192.0.2.1:7", "devices"], capture_output=True, text=True, timeout=30,
                       env={**os.environ, "KILN_TOKEN": "alice-token"})
    assert r.returncode == 65 and "plain text" in r.stderr, r.stderr


def test_tokens_that_kiln_makes(start, tmp_path):
    import json
    made = json.loads(subprocess.run([BIN / "kiln", "token", "--json"], capture_output=True, text=True, check=True).stdout)
    again = json.loads(subprocess.run([BIN / "kiln", "token", "--json"], capture_output=True, text=True, check=True).stdout)
    assert made["token"] != again["token"] and len(made["token"]) >= 64
    secret = tmp_path / "token"
    secret.write_text(made["token"])
    row = subprocess.run([BIN / "kiln", "token", "--token-file", str(secret)], capture_output=True, text=True, check=True).stdout
    d = start(config=[*boss(), "[tenant a]", f"token = {made['row']}", "[tenant b]", row.strip().replace("\n", "")])
    As(d, token=made["token"]).info()
    with fails(CODE.UNAUTHENTICATED):
        As(d, token=again["token"]).info()


PYTHON = """
import sys, asyncio, numpy as np, kiln
port, folder = sys.argv[1:]
ca = folder + "/ca.pem"
x = np.ones(16, np.float32)
def use(client):
    g = kiln.Graph(); a = g.param("x", "float32", (16,)); g.output("y", a + a)
    assert (client.compile(g)({"x": x})["y"] == 2).all()
    assert (client.upload(x).numpy() == 1).all()
use(kiln.connect(f"localhost:{port}", token="alice-token", tls=ca))
use(kiln.connect(f"localhost:{port}", tls=kiln.Tls(ca, folder + "/bob.pem", folder + "/bob.key")))
use(kiln.connect(f"127.0.0.1:{port}", token="alice-token", tls=kiln.Tls(ca, server_name="localhost")))
async def later():
    c = await kiln.aio.connect(f"localhost:{port}", token="alice-token", tls=ca)
    assert (await (await c.upload(x)).numpy() == 1).all()
asyncio.run(later())
def refused(code, *args, **kw):
    try: use(kiln.connect(*args, **kw))
    except kiln.Error as e: assert e.code == code, e
    else: raise AssertionError(code)
refused("UNAUTHENTICATED", f"localhost:{port}", tls=ca)
refused("UNAUTHENTICATED", f"localhost:{port}", tls=ca, token="wrong")
refused("UNAVAILABLE", f"localhost:{port}", tls=folder + "/other.pem", token="alice-token")
refused("FAILED_PRECONDITION", "192.0.2.1:7", token="alice-token")
refused("INVALID_ARGUMENT", f"localhost:{port}", tls="/nonexistent")
"""


def test_the_python_client_over_tls(served):
    env = {k: v for k, v in os.environ.items() if not k.startswith("KILN_T")}
    r = subprocess.run([sys.executable, "-c", PYTHON, str(served.port), str(served.files)], capture_output=True, text=True, env=env, timeout=60)
    assert r.returncode == 0, r.stdout + r.stderr


@pytest.mark.skipif(SANITIZED, reason="a sanitizer's library does not load into this program")
def test_a_connection_that_the_server_ended(start):
    """libkiln notices before it sends a call into it, and connects again."""
    import ctypes
    d = start(config=["[server]", "idle_connection = 1"])
    lib = ctypes.CDLL(BIN.parent / "lib/libkiln.so")
    client, info = ctypes.c_void_p(), ctypes.c_void_p()
    assert lib.kiln_connect(f"unix:{d.socket}".encode(), None, ctypes.byref(client), None) == 0
    for _ in range(2):
        assert lib.kiln_server_info(client, ctypes.byref(info), None) == 0
        lib.kiln_free(info)
        time.sleep(3.5)
    lib.kiln_close(client)


def resident(d):
    with open(f"/proc/{d.process.pid}/statm") as f:
        return int(f.read().split()[1]) * os.sysconf("SC_PAGESIZE")


def test_what_traffic_needed_is_given_back(files, start):
    """Connections that have moved large tensors and do nothing now cost little more than others."""
    port, n = free_port(), 48
    d = start(config=[*config(files, port), "[server]", "max_connections = 1000"], args=["--listen", f"127.0.0.1:{port}"])
    d.port = port

    def one():
        channel = secure_channel(port, files, own=True)
        alice = As(d, "alice", channel=channel)
        a = np.ones(2 << 20, np.uint8)
        assert (alice.download(b := alice.upload(a)) == 1).all()
        alice.stub.FreeBuffers(kiln_pb2.FreeBuffersRequest(buffers=[b]), timeout=20)
        return channel

    first = one()
    before, channels = resident(d), [one() for _ in range(n)]
    end = time.time() + 60
    while not SANITIZED and resident(d) - before > n * (96 << 10) and time.time() < end:
        time.sleep(0.5)
    assert SANITIZED or resident(d) - before <= n * (96 << 10)
    for channel in [first, *channels]:
        channel.close()
