"""Mixed traffic whose every answer is checked: what the fault tests and the soak put on a daemon.

A Client does one call or a few at a time, chosen at random from compile, run, upload, download, explain, tune, KServe and calls that are given
up in the middle. All numbers are small integers, so that an answer has one right value whatever the order of sums. An error whose code the
test allows is counted; anything else, and any wrong number, is kept in `wrong`."""
import collections
import random
import threading
import time

import grpc
import numpy as np
from conftest import Graph, add_graph, kiln_pb2

C = grpc.StatusCode
LOST = (C.NOT_FOUND, C.DATA_LOSS)  # of handles whose process is gone


def product_graph(rows, n, weight):
    """y = (x @ weight) * 2 + b, with a weight that the server keeps."""
    g = Graph()
    x, w = g.param("x", [rows, n]), g.param("w", weight.shape, data=weight)
    b = g.param("b", [rows, weight.shape[1]])
    g.output("y", g.node("ADD", g.node("MUL", g.node("MATMUL", x, w), g.const(2.0)), b))
    return g.bytes()


def small(rng, *dims):
    return rng.integers(-8, 9, dims).astype(np.float32)


def counter_graph(n):
    """x += 1, and what x is then."""
    g = Graph()
    x = g.param("x", [n])
    g.g.params[0].state = True
    g.node("ASSIGN", x, g.node("ADD", x, g.const(1.0)))
    g.output("y", x)
    return g.bytes()


class Client(threading.Thread):
    """Goes on until `stop` is set, or does single steps by `step`. `d` is anything with Daemon's calls: its channel may come and go.

    abandon: also compiles are given up, which costs a compile worker each. lost: handles may be gone (kilnd itself is what dies). Uploads that were acknowledged are in `kept`: id -> what is in it."""

    def __init__(self, d, seed, stop=None, allowed=(), lost=False, tune=False, pause=0.0, abandon=True):
        super().__init__(daemon=True)
        self.d, self.rng, self.stop, self.allowed, self.lost, self.pause = d, np.random.default_rng(seed), stop, tuple(allowed), lost, pause
        self.dice = random.Random(seed)
        self.seed, self.count, self.refused, self.wrong, self.kept, self.exe = seed, collections.Counter(), collections.Counter(), [], {}, {}
        self.lock, self.abandon = threading.Lock(), abandon
        self.serial = 0
        self.work = self.counter = None
        self.acts = [self.run_small] * 6 + [self.run_long] * 3 + [self.count_up] * 2 + [self.run_large] * 2 + [self.run_buffers] * 3 + [self.upload] * 3 + [self.read] * 3 + \
            [self.compile_new] * 2 + [self.compile_product, self.look, self.give_up, self.free]
        if tune:
            self.acts = [self.tune] * 3 + [self.run_small]

    def run(self):
        while not self.stop.is_set():
            self.step()
            if self.pause:
                time.sleep(self.pause)

    def step(self):
        act = self.dice.choice(self.acts)
        try:
            act()
            self.count[act.__name__] += 1
        except grpc.RpcError as e:
            gone = e.code() == C.NOT_FOUND and "compile the model again" in e.details()
            if gone or self.lost and e.code() in LOST:
                self.forget()  # and made anew by whoever needs it next
                self.refused[e.code().name] += 1
            elif e.code() in self.allowed:
                self.refused[e.code().name] += 1
                time.sleep(0.01)
            else:
                self.wrong.append(f"{act.__name__}: {e.code()}: {e.details()}")
        except Exception as e:  # noqa: BLE001
            self.wrong.append(f"{act.__name__}: {type(e).__name__}: {e}")

    def same(self, got, want, what):
        if got.shape != want.shape or not (got == want).all():
            self.wrong.append(f"{what}: {got.reshape(-1)[:4]} for {want.reshape(-1)[:4]}")

    # -- what it does ---------------------------------------------------------------------------

    def executable(self, n):
        if n not in self.exe:
            self.exe[n] = self.d.compile(add_graph(n), timeout=60).executable
        return self.exe[n]

    def leave_nothing(self):
        """Frees what it uploaded and has not freed, and releases what it compiled."""
        for key in [*self.kept, *(self.counter or ())[1:2]]:
            self.d.stub.FreeBuffers(kiln_pb2.FreeBuffersRequest(buffers=[key]), timeout=20)
        for exe in [*self.exe.values(), *(self.counter or ())[:1], *(self.work or ())[:1]]:
            self.d.stub.ReleaseExecutable(kiln_pb2.ReleaseExecutableRequest(executable=exe), timeout=20)
        self.forget()
        self.kept.clear()

    def forget(self):
        with self.lock:
            self.exe.clear()
            self.work = self.counter = None
            if self.lost:
                self.kept.clear()

    def run_one(self, n):
        x, b = small(self.rng, n), small(self.rng, n)
        self.same(self.d.run(self.executable(n), {"x": x, "b": b})["y"], x + b, f"run of {n}")

    def run_small(self):
        self.run_one(16)

    def run_large(self):
        self.run_one(1 << 16)

    def run_long(self):
        """Some milliseconds of the device's time."""
        if not self.work:
            x, w = small(self.rng, 256, 512), small(self.rng, 512, 512)
            exe = self.d.compile(product_graph(256, 512, w), timeout=60).executable
            self.work = exe, x, (x @ w) * 2
        exe, x, want = self.work
        b = small(self.rng, 256, 512)
        self.same(self.d.run(exe, {"x": x, "b": b})["y"], want + b, "long run")

    def count_up(self):
        """Updates a state: each acknowledged run counts once. After a failed one nobody knows, so another state is begun."""
        if not self.counter:
            start = small(self.rng, 2000)
            self.counter = [self.d.compile(counter_graph(2000), timeout=60).executable, self.d.upload(start), start]
        exe, key, value = self.counter
        try:
            got = self.d.run(exe, {"x": key})["y"]
        except grpc.RpcError:
            self.counter = None
            raise
        self.same(got, value + 1, "state")
        self.counter[2] = value + 1
        if value[0] > 40:
            self.counter = None
            self.d.stub.FreeBuffers(kiln_pb2.FreeBuffersRequest(buffers=[key]), timeout=20)

    def run_buffers(self):
        """From a buffer into a buffer, which is read and freed."""
        b, (key, x) = small(self.rng, 256), self.some(256)
        out = self.d.run(self.executable(256), {"x": key, "b": b}, buffers=True)["y"]
        self.same(self.d.download(out), x + b, "run of a buffer")
        self.d.stub.FreeBuffers(kiln_pb2.FreeBuffersRequest(buffers=[out]), timeout=20)

    def some(self, n):
        with self.lock:
            found = [(k, v) for k, v in self.kept.items() if v.shape == (n,)]
        if found:
            return self.dice.choice(found)
        return self.put(small(self.rng, n))

    def put(self, a):
        key = self.d.upload(a)
        with self.lock:
            self.kept[key] = a
        return key, a

    def upload(self):
        if len(self.kept) < 12:
            self.put(small(self.rng, self.dice.choice([1, 256, 256, 5000, 300000])))

    def read(self):
        with self.lock:
            found = self.dice.choice(list(self.kept.items())) if self.kept else None
        if found:
            self.same(self.d.download(found[0]), found[1], "download")

    def free(self):
        with self.lock:
            key = self.kept.popitem()[0] if self.kept else None
        if key:
            self.d.stub.FreeBuffers(kiln_pb2.FreeBuffersRequest(buffers=[key]), timeout=20)

    def compile_new(self):
        """A graph that nobody has seen, run once and released."""
        self.serial += 1
        n = 300 + 7 * (self.seed % 1000) + 10007 * self.serial
        exe = self.d.compile(add_graph(n), timeout=60).executable
        x, b = small(self.rng, n), small(self.rng, n)
        self.same(self.d.run(exe, {"x": x, "b": b})["y"], x + b, "run of a new graph")
        self.d.stub.ReleaseExecutable(kiln_pb2.ReleaseExecutableRequest(executable=exe), timeout=20)

    def compile_product(self):
        n = self.dice.randrange(8, 40)
        w, x = small(self.rng, n, 24), small(self.rng, 4, n)
        b = small(self.rng, 4, 24)
        exe = self.d.compile(product_graph(4, n, w), timeout=60).executable
        self.same(self.d.run(exe, {"x": x, "b": b})["y"], (x @ w) * 2 + b, "product")
        self.d.stub.ReleaseExecutable(kiln_pb2.ReleaseExecutableRequest(executable=exe), timeout=20)

    def look(self):
        exe = self.executable(16)
        self.d.stub.Explain(kiln_pb2.ExplainRequest(executable=exe, tried=3), timeout=20)
        self.d.stub.ListBuffers(kiln_pb2.ListBuffersRequest(), timeout=20)
        self.d.stub.CacheStats(kiln_pb2.CacheStatsRequest(), timeout=20)

    def give_up(self):
        """Calls that the client cancels somewhere between the first message and the answer."""
        self.serial += 1
        n = 200 + self.seed % 50 + 10007 * self.serial
        calls = []
        if self.abandon:
            calls.append(self.d.stub.Compile.future(self.d.compile_parts(add_graph(n), chunk=64), timeout=60))
        with self.lock:
            key = next(iter(self.kept), None)
        if key:
            calls.append(self.d.stub.Download(kiln_pb2.DownloadRequest(buffer=key), timeout=60))
        time.sleep(self.dice.random() * 0.02)
        for c in calls:
            c.cancel()

    def tune(self):
        exe = self.executable(self.dice.choice([16, 256, 1 << 16]))
        request = kiln_pb2.TuneRequest(executable=exe, budget_ns=int(3e8), seed=self.serial)
        self.serial += 1
        for _ in self.d.stub.Tune(request, timeout=60):
            pass


def verified(d):
    """The cache holds nothing damaged: the file by SQLite's own check, and every row by its hash. How many rows there are."""
    r = d.stub.CacheVerify(kiln_pb2.CacheVerifyRequest(), timeout=60)
    assert not r.corrupt and not r.problems, f"{r.corrupt} damaged rows; {r.problems}"
    return r.entries + r.schedules
