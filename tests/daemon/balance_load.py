"""Clients that compile, run and upload through a proxy for a while, in the namespace of the proxy: python balance_load.py ADDRESS SECONDS
THREADS. Every answer is compared with numpy's. Prints one JSON object at the end; "go" once all threads have had an answer."""
import collections
import json
import sys
import threading
import time

import kiln
import numpy as np


class Load:
    def __init__(self, address, seconds, threads):
        self.address, self.end = address, time.monotonic() + seconds
        self.lock = threading.Lock()
        self.counts, self.failures, self.servers, self.slowest = collections.Counter(), [], collections.Counter(), 0.0
        self.ready = threading.Barrier(threads + 1)
        self.threads = [threading.Thread(target=self.work, args=(i,)) for i in range(threads)]

    def graph(self, n):
        g = kiln.Graph()
        x = g.param("x", "f32", (n,))
        g.output("y", g.sqrt(x * x + 3.0) * 2.0)
        return g

    def checked(self, what, call, right):
        begin = time.monotonic()
        try:
            got = call()
        except kiln.Error as e:
            with self.lock:
                self.failures.append(f"{what} after {time.monotonic() - begin:.1f} s: {e}")
            return None
        took = time.monotonic() - begin
        with self.lock:
            self.counts[what] += 1
            self.slowest = max(self.slowest, took)
            if right is not None and not np.allclose(got, right, rtol=1e-5):
                self.failures.append(f"{what}: a wrong answer")
        return got

    def work(self, number):
        random = np.random.default_rng(number)
        client = kiln.connect(self.address, retry=30)
        n = 64 + 16 * number
        exe = self.checked("compile", lambda: client.compile(self.graph(n)), None)
        weights = random.random(n, np.float32)
        kept = self.checked("upload", lambda: client.upload(weights, near=exe, keep=True), None)
        self.ready.wait()
        while time.monotonic() < self.end and exe and kept:
            x = random.random(n, np.float32)
            self.checked("run", lambda: exe.run({"x": x})["y"], np.sqrt(x * x + 3) * 2)
            self.checked("run with a buffer", lambda: exe.run({"x": kept})["y"], np.sqrt(weights * weights + 3) * 2)
            with self.lock:
                self.servers[exe.executable_id.partition("@")[2]] += 1
            if random.random() < 0.02:
                self.checked("download", kept.numpy, weights)
                other = 32 + int(random.integers(8))
                self.checked("compile", lambda: client.compile(self.graph(other)), None)
        client.close()

    def run(self):
        for t in self.threads:
            t.start()
        self.ready.wait()
        print("go", flush=True)
        for t in self.threads:
            t.join()
        print(json.dumps({"calls": self.counts, "failures": self.failures, "servers": self.servers, "slowest": round(self.slowest, 2)}))


if __name__ == "__main__":
    Load(sys.argv[1], float(sys.argv[2]), int(sys.argv[3])).run()
