"""What tuning in the background costs a client in the foreground: the latency of one that sends a request every few milliseconds, with it and without.

usage: bench_background.py [--model squeezenet] [--every MS] [--rounds N] [--seconds S] [--share PERCENT]

Two servers, alike but for the setting, take turns; the one whose turn it is not is stopped (SIGSTOP, all its processes). Each has a second model
loaded that is worth tuning for long, so that there is always something to do. Each round gives each side one turn, in changing order, and a ratio of
their percentiles; the medians over the rounds are reported, beside the ratio of one half of the "off" server's own rounds to the other (what the machine does by itself).
How much the tuner did meanwhile is the CPU time of its processes, from /proc.
"""
from __future__ import annotations

import argparse
import os
import pathlib
import signal
import statistics
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE.parent / "model")]

import numpy as np

import kiln
import models
import serving

TICK = os.sysconf("SC_CLK_TCK")


def tiny() -> bytes:
    from onnx import TensorProto, helper
    w = helper.make_tensor("w", TensorProto.FLOAT, [256, 256], np.random.default_rng(0).standard_normal(256 * 256, np.float32).tobytes(), raw=True)
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["h"]), helper.make_node("Relu", ["h"], ["y"])], "tiny",
                              [helper.make_tensor_value_info("x", TensorProto.FLOAT, [16, 256])],
                              [helper.make_tensor_value_info("y", TensorProto.FLOAT, [16, 256])], [w])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]).SerializeToString()


def load(name: str):
    """(model bytes, feeds)"""
    r = np.random.default_rng(1)
    if name == "tiny":
        return tiny(), {"x": r.standard_normal((16, 256), np.float32)}
    input_name, x = models.light_input(name)
    return models.dense(name), {input_name: r.standard_normal(x.shape).astype(np.float32)}


class Side:
    def __init__(self, name: str, config: str, args):
        self.name, self.server = name, serving.Server(config=config)
        self.client = kiln.connect(self.server.target)
        model, self.feeds = load(args.model)
        self.exe = self.client.compile(model)
        other, self.other_feeds = load(args.other)
        self.other = self.client.compile(other)
        for _ in range(5):
            self.other(self.other_feeds)
        self.p50, self.p99, self.busy, self.n = [], [], 0.0, 0
        self.stop()

    def signal(self, what: int) -> None:
        for pid in self.pids():
            try:
                os.kill(pid, what)
            except ProcessLookupError:
                pass

    def pids(self) -> list[int]:
        """The server's processes, itself first, so that nothing is stopped by one that goes on."""
        parent = {}
        for p in pathlib.Path("/proc").glob("[0-9]*/stat"):
            try:
                parent[int(p.parent.name)] = int(p.read_text().rsplit(")", 1)[1].split()[1])
            except (OSError, IndexError):
                continue
        found = [self.server.process.pid]
        for pid in found:
            found += [p for p, of in parent.items() if of == pid]
        return found

    def background_cpu(self) -> float:
        """Seconds that the processes which yield to everybody (SCHED_IDLE) have used."""
        total = 0
        for pid in self.pids():
            try:
                if os.sched_getscheduler(pid) == os.SCHED_IDLE:
                    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
                    total += int(fields[11]) + int(fields[12])
            except (OSError, IndexError):
                continue
        return total / TICK

    def stop(self) -> None:
        self.signal(signal.SIGSTOP)

    def turn(self, seconds: float, every: float) -> None:
        self.signal(signal.SIGCONT)
        self.other(self.other_feeds)  # what is not used is not tuned
        time.sleep(0.3)
        for _ in range(20):
            self.exe(self.feeds)
        before, times, end = self.background_cpu(), [], time.perf_counter() + seconds
        while time.perf_counter() < end:
            start = time.perf_counter()
            self.exe(self.feeds)
            took = time.perf_counter() - start
            times.append(took * 1e3)
            time.sleep(max(every - took, 0.0005))
        self.busy += max(self.background_cpu() - before, 0)
        self.n += len(times)
        self.p50.append(statistics.median(times))
        self.p99.append(float(np.percentile(times, 99)))
        self.stop()


def main() -> None:
    p = argparse.ArgumentParser()
    p.add_argument("--model", default="squeezenet")
    p.add_argument("--other", default="shufflenet")
    p.add_argument("--every", type=float, default=25)
    p.add_argument("--rounds", type=int, default=7)
    p.add_argument("--seconds", type=float, default=4)
    p.add_argument("--share", type=int, default=50)
    args = p.parse_args()
    on = Side("on", f"[tuning]\nbackground = on\nafter = 0\nper_hour = 1h\nshare = {args.share}\n", args)
    off = Side("off", "[tuning]\nbackground = off\n", args)
    for r in range(args.rounds):
        for side in ((off, on) if r % 2 else (on, off)):
            side.turn(args.seconds, args.every / 1e3)
        print(f"round {r}: off p50 {off.p50[-1]:.2f} p99 {off.p99[-1]:.2f} ms, on p50 {on.p50[-1]:.2f} p99 {on.p99[-1]:.2f} ms", flush=True)
    ratio = lambda a, b: statistics.median(x / y for x, y in zip(a, b))
    own = lambda a: ratio(a[1::2], a[0::2])
    print(f"{args.model}, a request every {args.every:g} ms, {on.n} and {off.n} requests: p50 {statistics.median(off.p50):.2f} to {statistics.median(on.p50):.2f} ms "
          f"({ratio(on.p50, off.p50):.3f}x), p99 {statistics.median(off.p99):.2f} to {statistics.median(on.p99):.2f} ms ({ratio(on.p99, off.p99):.3f}x); "
          f"off beside itself {own(off.p50):.3f}x and {own(off.p99):.3f}x; the tuner used {on.busy / args.rounds / args.seconds:.0%} of a processor")
    for side in (on, off):
        side.signal(signal.SIGCONT)
        side.client.close()
        side.server.stop()
    for line in on.server.log().splitlines():
        if "tuned" in line:
            print(line)


if __name__ == "__main__":
    main()
