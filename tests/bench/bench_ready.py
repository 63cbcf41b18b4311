"""How soon a tuned model is ready again: another process, another client, the same cache.

usage: bench_ready.py [--models NAME,...] [--budget SECONDS] [--rounds N]

Each model is tuned, and the server is stopped. Then, round after round, a new server on the same cache gets the model from a new connection. Printed
are medians: what the caller waited, and the server's phases, as it traces them: the model's bytes coming in, model to graph, the cache, loading weights
and code into the device worker; the sum of those that have nothing to do with loading weights, which is what the goal of 5 ms is about; and how many
schedules were timed, which must be none.
"""
import argparse
import json
import statistics
import subprocess
import time

import kiln
import reach
import serving

CONFIG = "[tuning]\nbackground = off\n[server]\ntrace_all = true\n"
PHASES = ("upload", "queue", "cache", "run")


def ready(server, model, feeds):
    server.restart()
    with kiln.connect(server.target) as client:
        client.server_info()  # the connection and the server's start are no part of it
        begin = time.perf_counter()
        exe = client.compile(model)
        wall = (time.perf_counter() - begin) * 1e3
        report = exe.report()
        assert report["plan_cached"] and not report["kernels_compiled"], "something was compiled anew"
        trace = json.loads(subprocess.check_output([str(serving.BIN / "kiln"), "--server", server.target, "trace"]))
        exe(feeds)
    spans = {e["name"]: e["dur"] / 1e3 for e in trace["traceEvents"] if e.get("dur")}
    return [wall, *(spans[p] for p in PHASES), spans["queue"] + spans["cache"]]


def main():
    zoo = reach.zoo()
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--models", default="squeezenet,shufflenet,mobilenet_v2,resnet50")
    parser.add_argument("--budget", type=float, default=15)
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()
    print("| model | weights MB | kernels | wall ms | sending | graph | cache | load | graph + cache | timed again |\n|---|---|---|---|---|---|---|---|---|---|")
    for name in args.models.split(","):
        model, feeds = zoo[name]()
        model = bytes(model)  # anything else is copied first, for the caller may write to it
        with serving.Server(config=CONFIG) as server:
            with kiln.connect(server.target) as client:
                exe = client.compile(model)
                exe.tune(budget=args.budget)
                report, known = exe.report(), client.cache_stats().schedules
            rows = [ready(server, model, feeds) for _ in range(args.rounds)]
            with kiln.connect(server.target) as client:
                timed = client.cache_stats().schedules - known
        cells = [f"{statistics.median(column):.1f}" for column in zip(*rows)]
        print(f"| {name} | {report['weight_bytes'] / 1e6:.1f} | {report['unique_kernels']} | " + " | ".join(cells) + f" | {timed} |", flush=True)


if __name__ == "__main__":
    main()
