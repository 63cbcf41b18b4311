"""What a second node gets from a first: it answers at once, takes what the first has found without searching, and is then as fast.

usage: bench_shared.py MODEL.onnx [--seconds S]

Starts redis-server and two daemons that meet there. The first tunes the model for S seconds; then the second, with an empty cache, compiles it. Printed
are what that took, what was tried where, and medians of runs in turns: a node that knows nothing, the first, the second. Needs what the tests need.
"""
from __future__ import annotations

import argparse
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

import numpy as np

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE.parent / "daemon")]
import kiln  # noqa: E402
from serving import BIN, Server  # noqa: E402
from tiers import Redis  # noqa: E402

DTYPES = {"f32": np.float32, "i64": np.int64, "i32": np.int32}


def node(folder: pathlib.Path, name: str, url: str | None, names=("a", "b")) -> Server:
    keys = [(n, subprocess.run([BIN / "kiln", "node-key", folder / f"{n}.key"], capture_output=True, text=True, check=True).stdout.split()[0])
            for n in names]
    config = "[tuning]\nbackground = off\n"
    if url:
        config += f"[shared]\nserver = {url}\nkey = {folder / name}.key\n" + "".join(f"trust = {k} {n}\n" for n, k in keys)
    (folder / name).mkdir()
    return Server(folder=str(folder / name), config=config)


def timed(calls, rounds=60):
    """Medians of the calls, made in turns."""
    times = [[] for _ in calls]
    for i in range(rounds):
        for k in range(len(calls)):
            at = (i + k) % len(calls)
            began = time.perf_counter()
            calls[at]()
            times[at].append(time.perf_counter() - began)
    return [statistics.median(t) for t in times]


def main():
    p = argparse.ArgumentParser(usage=__doc__.split("\n\n")[1][7:])
    p.add_argument("model")
    p.add_argument("--seconds", type=float, default=60)
    args = p.parse_args()
    with tempfile.TemporaryDirectory(prefix="kiln-shared-") as path:
        folder = pathlib.Path(path)
        tier = Redis(folder / "redis")
        servers = [node(folder, "alone", None)] + [node(folder, n, tier.url) for n in ("a", "b")]
        clients = [kiln.connect(s.target) for s in servers]
        alone, first = (c.compile(args.model) for c in clients[:2])
        rng = np.random.default_rng(0)
        given = {i.name: rng.standard_normal(i.shape).astype(DTYPES[i.dtype]) if i.dtype == "f32" else np.ones(i.shape, DTYPES[i.dtype])
                 for i in first.inputs}
        summary = first.tune(budget=args.seconds)
        time.sleep(2)
        began = time.perf_counter()
        second = clients[2].compile(args.model)
        compiled = time.perf_counter() - began
        second.run(given)
        answered = time.perf_counter() - began
        seen, since = -1, time.perf_counter()
        while time.perf_counter() - since < 8:  # nothing more is adopted
            now = sum(k.source == "shared" for k in second.explain())
            if now != seen:
                seen, since = now, time.perf_counter()
            time.sleep(0.5)
        print(f"first:  tried {summary.tried} schedules in {args.seconds:.0f} s, replaced {summary.replaced} kernels; {len(tier.keys())} rows in the tier")
        print(f"second: compiled in {compiled:.2f} s, answered after {answered:.2f} s, {seen} schedules adopted after {since - began:.1f} s")
        a, b, c = timed([lambda e=e: e.run(given) for e in (alone, first, second)])
        print(f"run: untuned {a * 1e3:.2f} ms, first {b * 1e3:.2f} ms, second {c * 1e3:.2f} ms; second/first {c / b:.3f}, untuned/second {a / c:.2f}x")
        for s in servers:
            s.stop()
        tier.stop()


if __name__ == "__main__":
    main()
