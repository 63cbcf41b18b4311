"""How a node reaches the shared tier: TLS to a real redis-server, servers that are not who they should be, and a reload of [shared]."""
import signal
import socket
import ssl
import threading
import time

import pytest
from conftest import kiln_pb2
from tenants import authority, certificate
from test_identity import reload
from test_shared import OFF, cluster, giver, known, metric, node_key, prepared, taker, wait  # noqa: F401
from test_tune import check, inputs, model
from tiers import free_port


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("certificates")
    authority(folder, "ca")
    authority(folder, "other")
    certificate(folder, "ca", "server", "tier", "IP:127.0.0.1")
    certificate(folder, "ca", "elsewhere", "tier", "DNS:elsewhere.example")
    certificate(folder, "other", "mallory", "tier", "IP:127.0.0.1")
    for node in "ab":
        certificate(folder, "ca", node, node)
    return folder


def tls_redis(cluster, files, name="server", clients="yes", *options):
    tier = cluster.redis("--tls-port", str(port := free_port()), "--tls-cert-file", f"{files}/{name}.pem", "--tls-key-file",
                         f"{files}/{name}.key", "--tls-ca-cert-file", f"{files}/ca.pem", "--tls-auth-clients", clients, *options)
    return tier, f"rediss://127.0.0.1:{port}"


def shared(*lines, base=OFF):
    """A configuration with more lines in [shared], which Cluster.node writes last."""
    return [*base, "[shared]", *lines]


def believing(files, node=None):
    return shared(f"ca = {files}/ca.pem", *([f"tls_certificate = {files}/{node}.pem", f"tls_key = {files}/{node}.key"] if node else []))


# -- TLS ------------------------------------------------------------------------------------------

def test_schedules_travel_over_tls(cluster, known, files):
    """Both connections are encrypted, both ends show certificates, and the password is asked for too."""
    tier, url = tls_redis(cluster, files, "server", "yes", "--requirepass", "s3cret")
    url = url.replace("//", "//:s3cret@")
    b = taker(cluster, known, url, config=believing(files, "b"))
    rb = b.compile(model())
    wait(lambda: metric(b, "shared_hears") == 1, b)
    giver(cluster, known, url, config=believing(files, "a"))
    wait(lambda: metric(b, "shared_adopted_total") == len(known[0]), b)
    assert metric(b, "shared_news_total") >= 1
    check(b.run(rb.executable, inputs()), inputs())
    assert "s3cret" not in b.log() and "rediss://127.0.0.1" in b.log()


REFUSED = {
    "another authority": ("mallory", "ca", "b", "the certificate is refused"),
    "an authority that nobody named": ("server", None, "b", "the certificate is refused"),
    "another name": ("elsewhere", "ca", "b", "the certificate is refused"),
    "a certificate of ours that its authority did not sign": ("server", "ca", "mallory", "TLS"),
}


@pytest.mark.parametrize("how", REFUSED)
def test_a_wrong_certificate(cluster, files, how):
    """Who cannot show that he is the server hears nothing of us, not even the password."""
    name, ca, own, why = REFUSED[how]
    _, url = tls_redis(cluster, files, name)
    lines = [f"ca = {files}/{ca}.pem"] if ca else []
    d = cluster.node("a", url.replace("//", "//:s3cret@"), config=shared(*lines, f"tls_certificate = {files}/{own}.pem", f"tls_key = {files}/{own}.key"))
    wait(lambda: metric(d, "shared_breaks_total") >= 2, d)
    assert why in d.log() and metric(d, "shared_up") == 0, d.log()


class Listener:
    """Takes connections and does `how` with each; what was sent in the clear is kept."""

    def __init__(self, how):
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.port, self.how, self.seen = self.socket.getsockname()[1], how, []
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self):
        while True:
            try:
                c, _ = self.socket.accept()
            except OSError:
                return
            threading.Thread(target=self.one, args=(c,), daemon=True).start()

    def one(self, c):
        try:
            self.how(self, c)
        except (OSError, ssl.SSLError):
            pass
        c.close()

    def stop(self):
        self.socket.close()


def old_version(files):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(files / "server.pem", files / "server.key")
    return context


def plain(self, c):
    c.sendall(b"+OK\r\n" * 3)
    self.seen.append(c.recv(4096))
    time.sleep(2)


def silence(self, c):
    self.seen.append(c.recv(4096))
    time.sleep(5)


def drips(self, c):
    self.seen.append(c.recv(4096))
    c.sendall(b"\x16\x03\x03\x40\x00")
    for _ in range(100):
        c.sendall(b"x")
        time.sleep(0.05)


def garbage(self, c):
    self.seen.append(c.recv(4096))
    c.sendall(b"\x17\x03\x03\x10\x00" + b"\xff" * (1 << 20))
    time.sleep(1)


def old(files):
    def how(self, c):
        old_version(files).wrap_socket(c, server_side=True)
    return how


@pytest.mark.parametrize("how", ["plain", "silence", "drips", "garbage", "old"])
def test_what_is_no_tls(cluster, files, how):
    """Nothing is sent to it but greetings, it is given up in time, and clients notice nothing."""
    fake = Listener(old(files) if how == "old" else globals()[how])
    cluster.tiers.append(fake)
    d = cluster.node("a", f"rediss://:s3cret@127.0.0.1:{fake.port}", config=believing(files), timeout=200)
    r = d.compile(model())
    check(d.run(r.executable, inputs()), inputs())
    wait(lambda: metric(d, "shared_breaks_total") >= 2, d)
    assert metric(d, "shared_up") == 0 and not any(b"s3cret" in s for s in fake.seen)


# -- reload ---------------------------------------------------------------------------------------

def conf(d, *lines):
    return [*OFF, "[server]", f"metrics = 127.0.0.1:{d.metrics_port}", *(["[shared]", *lines] if lines else [])]


def settings(cluster, url, *trusted, name="b"):
    return [f"server = {url}", f"key = {cluster.key(name)}", *(f"trust = {node_key(cluster.key(t))} {t}" for t in trusted)]


def test_the_password_changes(cluster, known):
    """A password is exchanged at the tier, then on the node, without a restart."""
    tier = cluster.redis("--requirepass", "one")
    d = cluster.node("b", f"redis://:one@127.0.0.1:{tier.port}")
    wait(lambda: metric(d, "shared_hears") == 1, d)
    before = metric(d, "shared_breaks_total")
    two = settings(cluster, f"redis://:two@127.0.0.1:{tier.port}", "a")
    reload(d, conf(d, *two))
    wait(lambda: "it refuses" in d.log(), d)
    tier.stop()
    tier.options = ("--requirepass", "two")
    tier.start()
    wait(lambda: metric(d, "shared_hears") == 1, d, 60)
    assert metric(d, "shared_breaks_total") > before
    links = d.log().count("the shared tier is up")
    reload(d, conf(d, *two))  # nothing has changed: nothing is interrupted
    time.sleep(0.6)
    assert metric(d, "shared_hears") == 1 and d.log().count("the shared tier is up") == links


def test_a_node_joins_and_leaves(cluster, known):
    """A server that shared nothing begins to, hears of another node later, and stops again."""
    tier = cluster.redis()
    giver(cluster, known, tier.url)
    rows = {k: tier.ask("GET", k) for k in tier.keys()}
    folder = prepared(known, cluster.path / "taker", "")
    d = cluster.begin(config=[*OFF, "[server]", f"metrics = 127.0.0.1:{(port := free_port())}"], folder=folder)
    d.metrics_port = port
    r = d.compile(model())
    assert not d.stub.GetStatus(kiln_pb2.GetStatusRequest(), timeout=10).HasField("shared")
    reload(d, conf(d, *settings(cluster, tier.url)))  # trusts nobody yet
    wait(lambda: metric(d, "shared_offers_total", verdict="unknown_node") >= len(known[0]), d)
    wait(lambda: metric(d, "shared_given_total", result="ok") == len(rows), d)  # what it does not believe it has replaced
    assert metric(d, "shared_adopted_total") == 0
    for k, row in rows.items():
        tier.ask("SET", k, row)
    reload(d, conf(d, *settings(cluster, tier.url, "a")))
    wait(lambda: metric(d, "shared_adopted_total") == len(known[0]), d)
    check(d.run(r.executable, inputs()), inputs())
    reload(d, conf(d))
    wait(lambda: metric(d, "shared_up") == metric(d, "shared_hears") == 0, d)
    check(d.run(r.executable, inputs()), inputs())
    reload(d, conf(d, *settings(cluster, tier.url, "a")))
    wait(lambda: metric(d, "shared_hears") == 1, d)


def test_mistakes_change_nothing(cluster, files):
    tier = cluster.redis()
    d = cluster.node("b", tier.url)
    wait(lambda: metric(d, "shared_hears") == 1, d)
    good = settings(cluster, tier.url, "a")
    for bad in ([good[0], "trust = /nowhere"], [good[0], "trust = ed25519:12 x"], ["server = http://x"], [good[0], f"ca = {files}/ca.pem"],
                ["server = rediss://127.0.0.1", "ca = /nowhere"], [good[0], "timeout_ms = 1"],
                ["server = rediss://127.0.0.1", f"tls_certificate = {files}/a.pem"],
                ["server = rediss://127.0.0.1", f"tls_certificate = {files}/a.pem", f"tls_key = {files}/b.key"]):
        reload(d, conf(d, *bad), known="the configuration was not reloaded")
        assert metric(d, "shared_hears") == 1
    assert d.log().count("the shared tier is up") == 1


def test_reloads_without_end(cluster, known):
    """In the middle of whatever goes on: settings that change all the time, to a tier that is there and one that is not."""
    tier = cluster.redis()
    giver(cluster, known, tier.url)
    rows = {k: tier.ask("GET", k) for k in tier.keys()}
    d = taker(cluster, known, tier.url)
    r = d.compile(model())
    gone = f"redis://127.0.0.1:{free_port()}"
    for i in range(40):
        lines = settings(cluster, tier.url if i % 2 else gone, *["a"][: i % 3])
        (d.folder / "kiln.conf").write_text("\n".join(conf(d, *(lines if i % 5 else []))) + "\n")
        d.process.send_signal(signal.SIGHUP)
        time.sleep(0.03 * (i % 7))
    for k, row in rows.items():  # it has replaced them while it did not believe them
        tier.ask("SET", k, row)
    reload(d, conf(d, *settings(cluster, tier.url, "a", "b")))
    wait(lambda: metric(d, "shared_hears") == 1, d, 60)
    wait(lambda: metric(d, "shared_adopted_total") == len(known[0]), d)
    check(d.run(r.executable, inputs()), inputs())
