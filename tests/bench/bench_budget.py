"""What a longer search would still find: a model tuned for a minute beside the same model tuned for many, and beside the heuristic.

usage: bench_budget.py [--models squeezenet,shufflenet] [--pieces 10] [--seconds 55] [--lock FILE]

The search goes on from its cache, so the long one is done in pieces; the cache as it was after the first piece is kept, and is what "a minute" means. At
the end servers on the three caches (none, first, last) run in turns, and the median of the ratios of neighbours is reported. --lock: held (flock) during each
piece and the comparison, for machines that several measure on.
"""
from __future__ import annotations

import argparse
import contextlib
import fcntl
import pathlib
import shutil
import statistics
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent), str(HERE.parent / "model")]

import numpy as np

import kiln
import models
import serving


@contextlib.contextmanager
def held(path: str | None):
    if not path:
        yield
        return
    with open(path) as f:
        fcntl.flock(f, fcntl.LOCK_EX)
        yield


def compare(folders: dict[str, str], model: bytes, feeds, seconds: float) -> dict[str, list[float]]:
    """Device time of runs in ms, in turns."""
    from kiln import _codec
    times: dict[str, list[float]] = {name: [] for name in folders}
    with contextlib.ExitStack() as stack:
        sides = []
        for name, folder in folders.items():
            client = stack.enter_context(kiln.connect(stack.enter_context(serving.Server(folder=folder)).target))
            exe = client.compile(model)
            sides.append((name, client, _codec.run_request(exe.executable_id, feeds, None)))
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            for name, client, request in sides:
                client._stub.Run(request)
                times[name].append(min(client._stub.Run(request).device_ns for _ in range(3)) / 1e6)
    return times


def main() -> None:
    p = argparse.ArgumentParser()
    p.add_argument("--models", default="squeezenet,shufflenet")
    p.add_argument("--pieces", type=int, default=10)
    p.add_argument("--seconds", type=float, default=55)
    p.add_argument("--lock")
    args = p.parse_args()
    for name in args.models.split(","):
        input_name, x = models.light_input(name)
        model, feeds = models.dense(name), {input_name: np.random.default_rng(0).standard_normal(x.shape).astype(np.float32)}
        with tempfile.TemporaryDirectory() as root:
            folders = {side: f"{root}/{side}" for side in ("heuristic", "first", "all")}
            for folder in folders.values():
                pathlib.Path(folder).mkdir()
            for piece in range(args.pieces):
                with held(args.lock), serving.Server(folder=folders["all"]) as server, kiln.connect(server.target) as client:
                    exe = client.compile(model)
                    exe(feeds)
                    s = exe.tune(budget=args.seconds)
                print(f"{name} piece {piece}: {s.ended}, {s.tried} tried, {s.speed_up:.3f}x", flush=True)
                if piece == 0:
                    shutil.copytree(folders["all"], folders["first"], dirs_exist_ok=True)
                if s.ended == "exhausted":
                    break
                time.sleep(5 if args.lock else 0)
            with held(args.lock):
                times = compare(folders, model, feeds, min(args.seconds, 40))
            ratio = lambda a, b: statistics.median(x / y for x, y in zip(times[a], times[b]))
            print(f"{name}: heuristic {statistics.median(times['heuristic']):.2f} ms, {args.seconds:g} s {statistics.median(times['first']):.2f} ms ({ratio('heuristic', 'first'):.3f}x), "
                  f"{(piece + 1) * args.seconds:g} s {statistics.median(times['all']):.2f} ms ({ratio('heuristic', 'all'):.3f}x); the short one takes {ratio('first', 'all'):.3f} of the long one", flush=True)


if __name__ == "__main__":
    main()
