"""The shared tier: nodes that meet at a Redis server, and what a server that lies, stalls or is gone can do to them."""
import os
import shutil
import sqlite3
import subprocess
import threading
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import pytest
import records
from conftest import BIN, Daemon, ends_well, kiln_pb2
from test_tune import check, inputs, model, tune, wait_schedules
from tiers import Fake, Redis, bulk, free_port

OFF = ["[tuning]", "background = off"]


def node_key(path):
    """The public half; made when there is none."""
    out = subprocess.run([BIN / "kiln", "node-key", str(path)], capture_output=True, text=True, check=True).stdout
    return out.split()[0]


class Cluster:
    """Nodes with keys of their own that trust each other."""

    def __init__(self, tmp_path, start):
        self.path, self.begin = tmp_path, start
        self.tiers, self.n = [], 0

    def redis(self, *options, **kw):
        self.tiers.append(Redis(self.path / "redis", *options, **kw))
        return self.tiers[-1]

    def fake(self, answer):
        self.tiers.append(Fake(answer))
        return self.tiers[-1]

    def key(self, name):
        return self.path / f"{name}.key"

    def node(self, name, url, trust=("a", "b"), timeout=500, config=OFF, **kw):
        port = free_port()
        lines = [*config, "[server]", f"metrics = 127.0.0.1:{port}", "[shared]", f"server = {url}", f"key = {self.key(name)}",
                 f"timeout_ms = {timeout}"]
        lines += [f"trust = {node_key(self.key(t))} {t}" for t in trust]
        d = self.begin(config=lines, **kw)
        d.metrics_port = port
        return d


@pytest.fixture
def cluster(tmp_path, start):
    c = Cluster(tmp_path, start)
    yield c
    for t in c.tiers:
        t.stop()


def metric(d, name, **labels):
    """The sum of a metric's series that have these labels."""
    text = urllib.request.urlopen(f"http://127.0.0.1:{d.metrics_port}/metrics", timeout=10).read().decode()
    total = 0.0
    for line in text.splitlines():
        if line.split("{")[0].split(" ")[0] == f"kiln_{name}" and all(f'{k}="{v}"' in line for k, v in labels.items()):
            total += float(line.rsplit(" ", 1)[1])
    return total


def wait(what, d, seconds=60):
    end = time.time() + seconds
    while not what():
        assert time.time() < end, d.log()
        time.sleep(0.02)


def explain(d, executable):
    return {k.hash: k for k in d.stub.Explain(kiln_pb2.ExplainRequest(executable=executable, tried=10), timeout=60).kernels}


@pytest.fixture(scope="module")
def known(tmp_path_factory):
    """The kernels of the model with what the heuristic does for each, and a cache in which nothing was tried."""
    folder = tmp_path_factory.mktemp("known")
    d = Daemon(folder, config=OFF)
    r = d.compile(model())
    opts = {bytes.fromhex(h): k.opts for h, k in explain(d, r.executable).items()}
    ends_well(d)
    found = [(k, t, opts[k]) for k, t in records.kernels(folder / "cache.db")]
    assert len(found) == 2 and all(o for _, _, o in found)
    return found, folder / "cache.db"


def prepared(known, folder, opts):
    """A folder whose cache says that a search has found these opts for each kernel."""
    folder.mkdir(exist_ok=True)
    shutil.copy(known[1], folder / "cache.db")
    for kernel, target, heuristic in known[0]:
        records.insert(folder / "cache.db", kernel, target, heuristic if opts is None else opts,
                       median=1000 if opts is None else 10**9, flags=records.VERIFIED)
    return folder


def giver(c, known, url, **kw):
    """A node with something to give: schedules that are good, without the time that a search takes."""
    d = c.node("a", url, folder=prepared(known, c.path / "giver", None), **kw)
    wait(lambda: metric(d, "shared_given_total", result="ok") == len(known[0]), d)
    return d


def taker(c, known, url, **kw):
    """A node whose search ended with no opts at all, which everything beats."""
    return c.node("b", url, folder=prepared(known, c.path / "taker", ""), **kw)


# -- what it is for -------------------------------------------------------------------------------

def test_second_node(cluster, known):
    """What one node has tuned another uses, after checking it, and tries nothing itself.

    Both begin without opts, which every search beats; it may not beat the heuristic."""
    folder = prepared(known, cluster.path / "a", "")
    alone = cluster.begin(config=OFF, folder=folder)
    _, s = tune(alone, alone.compile(model()).executable, 60)
    assert s.replaced > 0, alone.log()
    wait_schedules(alone, s.measured)
    ends_well(alone)
    tier = cluster.redis()
    a = cluster.node("a", tier.url, folder=folder)
    ra = a.compile(model())
    wait(lambda: metric(a, "shared_given_total", result="ok") == len(known[0]), a)
    given = inputs()
    b = taker(cluster, known, tier.url)
    rb = b.compile(model())
    check(b.run(rb.executable, given), given)
    wait(lambda: metric(b, "shared_adopted_total") == s.replaced, b)
    check(b.run(rb.executable, given), given)
    assert metric(b, "tune_candidates_total") == 0
    assert metric(b, "shared_checks_total") == s.replaced
    mine, theirs = explain(b, rb.executable), explain(a, ra.executable)
    for h, k in mine.items():
        if theirs[h].opts:
            assert k.opts == theirs[h].opts and k.source == "shared" and k.origin == "a", b.log()


def test_announced(cluster, known):
    """A node that has the model loaded hears of a better schedule and takes it, without being asked."""
    tier = cluster.redis()
    b = taker(cluster, known, tier.url)
    rb = b.compile(model())
    wait(lambda: metric(b, "shared_hears") == 1, b)
    assert all(k.opts.strip() == "" and k.source == "tuned" for k in explain(b, rb.executable).values())
    giver(cluster, known, tier.url)
    wait(lambda: metric(b, "shared_adopted_total") == 2, b)
    check(b.run(rb.executable, inputs()), inputs())
    assert metric(b, "shared_news_total") >= 2 and metric(b, "tune_candidates_total") == 0
    wanted = {kernel: opts for kernel, _, opts in known[0]}
    for h, k in explain(b, rb.executable).items():
        assert (k.opts, k.source, k.origin) == (wanted[bytes.fromhex(h)], "shared", "a")
    text = b.stub.CacheWhy(kiln_pb2.CacheWhyRequest(hash=h), timeout=10).text
    assert "shared, from a" in text


def test_two_nodes_tune_once(cluster):
    """Asked for the same new model at once, one node searches and the other takes what it finds."""
    tier = cluster.redis()
    nodes = [cluster.node(n, tier.url) for n in ("a", "b")]
    for d in nodes:
        wait(lambda d=d: metric(d, "shared_up") == 1, d)
    compiled = [d.compile(model()) for d in nodes]
    with ThreadPoolExecutor() as pool:
        sums = list(pool.map(lambda p: tune(p[0], p[1].executable, 25)[1], zip(nodes, compiled)))
    tried = [metric(d, "tune_candidates_total") for d in nodes]
    assert sorted(t > 0 for t in tried) == [False, True], [s.ended for s in sums]
    first = tried.index(max(tried))
    other = nodes[1 - first]
    assert sums[1 - first].ended == "shared" and sums[first].ended in ("budget", "exhausted")
    # what it takes has to be not slower there too, which a busy machine may not show
    looked = metric(other, "shared_adopted_total") > 0 or "checked what other nodes have found" in other.log()
    assert sums[first].replaced == 0 or looked, other.log()
    check(other.run(compiled[1 - first].executable, inputs()), inputs())


def test_lease_ends_with_its_node(cluster):
    """A node that dies in the middle of a search holds nobody up for longer than its lease lasts; without a tier nobody waits."""
    tier = cluster.redis()
    b = cluster.node("b", tier.url)
    wait(lambda: metric(b, "shared_up") == 1, b)
    rb = b.compile(model())
    parts = iter(b.stub.Tune(kiln_pb2.TuneRequest(executable=rb.executable, budget_ns=int(60e9)), timeout=120))
    next(parts)
    assert tier.keys("lease")
    a = cluster.node("a", tier.url)
    ra = a.compile(model())
    parts_a = a.stub.Tune(kiln_pb2.TuneRequest(executable=ra.executable, budget_ns=int(60e9)), timeout=120)
    time.sleep(1)
    assert metric(a, "tune_candidates_total") == 0
    tier.stop()
    wait(lambda: metric(a, "tune_candidates_total") > 0, a)
    assert metric(a, "shared_leases_total", result="failed") == 1
    parts_a.cancel()


# -- the tier comes and goes ------------------------------------------------------------------------

def queued(folder):
    db = sqlite3.connect(folder / "cache.db")
    try:
        return db.execute("SELECT count(*) FROM outbox").fetchone()[0]
    finally:
        db.close()


def test_queue_survives_a_restart(cluster, known):
    """What was found while the tier was down is given when both are back."""
    tier = cluster.redis()
    tier.stop()
    folder = prepared(known, cluster.path / "a", None)
    a = cluster.node("a", tier.url, folder=folder)
    wait(lambda: metric(a, "shared_queue") == 2, a)
    assert metric(a, "shared_up") == 0 and metric(a, "shared_given_total", result="ok") == 0
    a.process.kill()
    a.process.wait()
    assert queued(folder) == 2
    tier.start()
    again = cluster.node("a", tier.url, folder=folder)
    wait(lambda: metric(again, "shared_given_total", result="ok") == 2, again)
    wait(lambda: metric(again, "shared_queue") == 0, again)
    assert len(tier.keys()) == 2 and queued(folder) == 0
    a.process.returncode = 0  # it was killed on purpose


def test_tier_down_and_up(cluster):
    """The breaker opens, closes again by itself, and nobody waits meanwhile."""
    tier = cluster.redis()
    b = cluster.node("b", tier.url)
    wait(lambda: metric(b, "shared_up") == 1, b)
    tier.stop()
    wait(lambda: metric(b, "shared_up") == 0, b)
    started = time.time()
    r = b.compile(model())
    check(b.run(r.executable, inputs()), inputs())
    assert time.time() - started < 10  # it computes; a timeout of the tier would come on top, for each question
    assert metric(b, "shared_breaks_total") >= 1
    tier.start()
    wait(lambda: metric(b, "shared_up") == 1, b)
    status = b.stub.GetStatus(kiln_pb2.GetStatusRequest(), timeout=10).shared
    assert status.state == "up" and status.reason == "" and status.trusted == 2
    assert status.node == node_key(cluster.key("b"))


@pytest.mark.parametrize("what", ["announcements", "everything"])
def test_nothing_announced_meanwhile_stays_missed(cluster, known, what):
    """A node that was cut off, from the channel alone or from the tier, takes what others found meanwhile when it is back."""
    tier = cluster.redis()
    tier.ask("ACL", "SETUSER", "cut", "on", ">pw", "~*", "&*", "+@all")
    b = taker(cluster, known, f"redis://cut:pw@127.0.0.1:{tier.port}")
    rb = b.compile(model())
    wait(lambda: metric(b, "shared_hears") == 1, b)
    # the server itself ends connections to channels that are not allowed any more
    tier.ask("ACL", "SETUSER", "cut", *(["resetchannels"] if what == "announcements" else ["off"]))
    if what == "everything":
        tier.ask("CLIENT", "KILL", "USER", "cut")
    wait(lambda: metric(b, "shared_hears") == 0, b)
    giver(cluster, known, tier.url)
    assert metric(b, "shared_up") == (what == "announcements") and metric(b, "shared_news_total") == metric(b, "shared_adopted_total") == 0
    tier.ask("ACL", "SETUSER", "cut", *(["allchannels"] if what == "announcements" else ["on"]))
    wait(lambda: metric(b, "shared_hears") == 1, b, 60)
    wait(lambda: metric(b, "shared_adopted_total") == len(known[0]), b)
    assert metric(b, "shared_news_total") == 0 and metric(b, "tune_candidates_total") == 0
    check(b.run(rb.executable, inputs()), inputs())


def test_better_stays(cluster, known):
    """A row with a better median is kept, a worse one and a damaged one are replaced."""
    tier = cluster.redis()
    giver(cluster, known, tier.url).stop()
    rows = {k: tier.ask("GET", k) for k in tier.keys()}
    first = next(iter(rows))
    folder = prepared(known, cluster.path / "other", None)
    for n, (kernel, target, opts) in enumerate(known[0]):  # one is faster than what is there, one is slower
        records.insert(folder / "cache.db", kernel, target, opts, median=900 if n else 1100, flags=records.VERIFIED)
    b = cluster.node("b", tier.url, folder=folder)
    wait(lambda: metric(b, "shared_given_total", result="ok") == 1, b)
    wait(lambda: metric(b, "shared_given_total", result="merged") == 1, b)
    assert sum(tier.ask("GET", k) == row for k, row in rows.items()) == 1
    b.stop()
    tier.ask("SET", first, b"nonsense")
    again = cluster.node("a", tier.url, folder=cluster.path / "giver")
    wait(lambda: metric(again, "shared_offers_total", verdict="malformed") == 1, again)
    wait(lambda: metric(again, "shared_given_total", result="ok") == 1, again)
    assert tier.ask("GET", first)[:4] == b"KENV"


def test_password_and_database(cluster):
    tier = cluster.redis("--requirepass", "s3cret")
    wrong = cluster.node("a", f"redis://:wrong@127.0.0.1:{tier.port}/3")
    wait(lambda: "it refuses" in wrong.log(), wrong)
    assert "wrong@" not in wrong.log()
    right = cluster.node("b", f"redis://:s3cret@127.0.0.1:{tier.port}/3")
    wait(lambda: metric(right, "shared_up") == 1, right)


# -- a hostile tier -------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def loot(tmp_path_factory, known):
    """What a node has put into a tier: rows by key, and the folder of its key."""
    folder = tmp_path_factory.mktemp("loot")
    daemons = []

    def begin(**kw):
        daemons.append(Daemon(**kw))
        return daemons[-1]

    c = Cluster(folder, begin)
    tier = c.redis()
    a = giver(c, known, tier.url)
    rows = {k: tier.ask("GET", k) for k in tier.keys()}
    ends_well(a)
    tier.stop()
    assert len(rows) == 2
    return rows, folder


def flip(b, at):
    return b[:at] + bytes([b[at] ^ 1]) + b[at + 1:]


LIES = {
    "wrong key": (lambda rows, k: rows[sorted(rows)[(sorted(rows).index(k) + 1) % len(rows)]], "wrong_key"),
    "flipped head": (lambda rows, k: flip(rows[k], 40), "unknown_node"),
    "flipped body": (lambda rows, k: flip(rows[k], 300), "bad_signature"),
    "flipped signature": (lambda rows, k: flip(rows[k], len(rows[k]) - 1), "bad_signature"),
    "cut": (lambda rows, k: rows[k][:200], "malformed"),
    "empty": (lambda rows, k: b"", None),
    "nonsense": (lambda rows, k: b"\0" * 5000, "malformed"),
    "a lease": (lambda rows, k: rows[k][:5] + b"\1" + rows[k][6:], "bad_signature"),
}


def liar(rows, lie):
    def answer(command):
        if command[0] == b"GET":
            return bulk(lie(rows, command[1])) if command[1] in rows else bulk(None)
        return b":1\r\n" if command[0] == b"EVAL" else b"+PONG\r\n"
    return answer


def hostile_node(cluster, known, loot, answer, **kw):
    """A node with a fake tier that trusts the one whose rows were taken: it compiles and runs the model."""
    fake = cluster.fake(answer)
    shutil.copy(loot[1] / "a.key", cluster.key("a"))
    d = taker(cluster, known, fake.url, **kw)
    r = d.compile(model())
    check(d.run(r.executable, inputs()), inputs())
    return d, r


@pytest.mark.parametrize("lie", LIES)
def test_lies(cluster, known, loot, lie):
    """Rows that are not what they claim to be are counted by what is wrong, never used, and harm nobody."""
    make, verdict = LIES[lie]
    d, r = hostile_node(cluster, known, loot, liar(loot[0], make))
    if verdict:
        wait(lambda: metric(d, "shared_offers_total", verdict=verdict) >= len(loot[0]), d)
    else:
        wait(lambda: metric(d, "shared_commands_total", result="ok") >= 2, d)
    check(d.run(r.executable, inputs()), inputs())
    assert metric(d, "shared_adopted_total") == metric(d, "shared_checks_total") == 0 and d.stats().schedules == 2


def test_good_rows_from_a_fake(cluster, known, loot):
    """The fake tier is no reason to refuse what is true."""
    d, r = hostile_node(cluster, known, loot, liar(loot[0], lambda rows, k: rows[k]))
    wait(lambda: metric(d, "shared_offers_total", verdict="taken") >= len(loot[0]), d)
    wait(lambda: metric(d, "shared_adopted_total") == len(loot[0]), d)
    check(d.run(r.executable, inputs()), inputs())


def test_untrusted_node(cluster, known, loot):
    """The same rows, signed by a node that this one was not told to trust."""
    d, _ = hostile_node(cluster, known, loot, liar(loot[0], lambda rows, k: rows[k]), trust=("c",))
    wait(lambda: metric(d, "shared_offers_total", verdict="unknown_node") >= len(loot[0]), d)
    assert d.stats().schedules == 2


def test_replayed(cluster, known):
    """An older row of a node is refused by whoever has seen a newer one of it."""
    tier = cluster.redis()
    giver(cluster, known, tier.url).stop()
    old = {k: tier.ask("GET", k) for k in tier.keys()}
    tier.ask("FLUSHALL")  # it says everything once more, later
    giver(cluster, known, tier.url).stop()
    b = taker(cluster, known, tier.url)
    b.compile(model())
    wait(lambda: metric(b, "shared_adopted_total") == len(old), b)
    b.stop()
    for k, row in old.items():
        tier.ask("SET", k, row)
    b = cluster.node("b", tier.url, folder=cluster.path / "taker")
    r = b.compile(model())
    wait(lambda: metric(b, "shared_offers_total", verdict="replayed") >= len(old), b)
    check(b.run(r.executable, inputs()), inputs())


def endless():
    yield b"$60000\r\n"
    for _ in range(600):
        time.sleep(0.05)
        yield b"x"


STALLS = {
    "silence": lambda c: b"" if c[0] == b"GET" else b"+OK\r\n",
    "silence from the start": lambda c: b"",
    "closes": lambda c: None if c[0] == b"GET" else b"+OK\r\n",
    "drips": lambda c: endless() if c[0] == b"GET" else b"+OK\r\n",
    "huge string": lambda c: b"$2000000000\r\n" + b"x" * (4 << 20) if c[0] == b"GET" else b"+OK\r\n",
    "large string": lambda c: bulk(b"x" * 1000000) if c[0] == b"GET" else b"+OK\r\n",
    "huge array": lambda c: b"*2000000000\r\n" if c[0] == b"GET" else b"+OK\r\n",
    "deep array": lambda c: b"*1\r\n" * 100000 if c[0] == b"GET" else b"+OK\r\n",
    "garbage": lambda c: os.urandom(3000) if c[0] == b"GET" else b"+OK\r\n",
    "error": lambda c: b"-ERR \x1b[31mno\"\r\n" if c[0] in (b"GET", b"PING") else b"+OK\r\n",
    "unasked": lambda c: b"+OK\r\n+OK\r\n*3\r\n$9\r\nsubscribe\r\n$1\r\nx\r\n:1\r\n",
    "wrong push": lambda c: b"*3\r\n$9\r\nsubscribe\r\n$1\r\nx\r\n:1\r\n*3\r\n:1\r\n:2\r\n:3\r\n" if c[0] == b"SUBSCRIBE" else b"+OK\r\n",
    "numbers": lambda c: b":7\r\n" if c[0] == b"GET" else b"+OK\r\n",
}


@pytest.mark.parametrize("how", STALLS)
def test_stalls(cluster, known, loot, how):
    """However the tier answers, clients do not wait for it, and memory stays."""
    d, r = hostile_node(cluster, known, loot, STALLS[how], timeout=200)
    before = d.info().resident_bytes
    times = []
    for _ in range(40):
        began = time.perf_counter()
        d.run(r.executable, inputs())
        times.append(time.perf_counter() - began)
    assert sorted(times)[20] < 0.2  # no run waits for a question, which may take this long
    assert d.info().resident_bytes < before + (64 << 20)
    check(d.run(r.executable, inputs()), inputs())
    assert d.process.poll() is None


@pytest.mark.parametrize("how", ["silence", "drips", "closes", "numbers"])
def test_search_does_not_wait(cluster, known, loot, how):
    """A search asks whether another node makes it already; without an answer it begins."""
    d, r = hostile_node(cluster, known, loot, STALLS[how], timeout=200)
    parts = d.stub.Tune(kiln_pb2.TuneRequest(executable=r.executable, budget_ns=int(60e9)), timeout=120)
    began = time.time()
    next(iter(parts))
    assert time.time() - began < 10
    parts.cancel()


def test_flood_of_news(cluster, known, loot):
    """Announcements by the thousand cost little and change nothing."""
    rows, _ = loot
    target = [bytes.fromhex(part.decode()) for part in next(iter(rows)).split(b":")[3:]]
    push = b"*3\r\n$7\r\nmessage\r\n$11\r\nkiln:1:news\r\n" + bulk(b"".join(target) + bytes(32))

    def answer(command):
        if command[0] == b"SUBSCRIBE":
            return [b"*3\r\n$9\r\nsubscribe\r\n$11\r\nkiln:1:news\r\n:1\r\n", *[push * 100] * 500]
        return bulk(None) if command[0] == b"GET" else b"+OK\r\n"

    d, r = hostile_node(cluster, known, loot, answer)
    wait(lambda: metric(d, "shared_news_total") == 50000, d)
    check(d.run(r.executable, inputs()), inputs())
    assert metric(d, "shared_commands_total") < 200


def test_news_that_were_not_listened_to(cluster, known, loot):
    """What is lost in a flood of announcements is found by asking."""
    rows, _ = loot
    kernel, target = (bytes.fromhex(part.decode()) for part in next(iter(rows)).split(b":")[3:])
    push = b"*3\r\n$7\r\nmessage\r\n$11\r\nkiln:1:news\r\n"
    noise, news = push + bulk(bytes(32) + target + bytes(32)), push + bulk(kernel + target + bytes(32))
    flood, asked = threading.Event(), []

    def pushes():
        yield b"*3\r\n$9\r\nsubscribe\r\n$11\r\nkiln:1:news\r\n:1\r\n"
        flood.wait(60)
        yield noise * 20000
        yield news

    def answer(command):
        if command[0] == b"SUBSCRIBE":
            return pushes()
        if command[0] == b"GET":
            asked.append(command[1])
            return bulk(rows.get(command[1]) if flood.is_set() else None)
        return b"+OK\r\n"

    d, r = hostile_node(cluster, known, loot, answer)
    wait(lambda: metric(d, "shared_hears") == 1, d)
    time.sleep(3)  # it has asked for the first time, and after it was subscribed
    before = len(asked)
    flood.set()
    wait(lambda: metric(d, "shared_news_total") == 20001, d)
    wait(lambda: metric(d, "shared_adopted_total") == len(rows), d)
    assert before and len(asked) < before + 20
    check(d.run(r.executable, inputs()), inputs())


def test_settings(cluster):
    for line, word in (("server = http://x", "redis://"), ("timeout_ms = 1", "timeout_ms"), ("trust = ed25519:12 x", "64 hexadecimal")):
        lines = ["[shared]", line if line.startswith("server") else "server = redis://127.0.0.1:1", line]
        d = cluster.begin(config=lines, wait=False)
        assert d.process.wait(20) != 0 and word in d.log()
        d.process.returncode = 0
