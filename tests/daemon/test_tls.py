"""TLS on TCP: who is let in, as whom, and how long somebody may take to begin."""
import socket
import ssl
import subprocess
import time

import grpc
import numpy as np
import pytest
from conftest import BIN, Daemon, add_graph, ends_well, fails
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
