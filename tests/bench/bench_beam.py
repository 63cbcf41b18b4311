"""A search of one 512-cubed f32 matmul, by Kiln's server and by tinygrad with BEAM=2: wall time from the request, and what was found.

usage: bench_beam.py [--n 512] [--rounds N]        one thread each: run it under taskset

Each side starts from nothing, a fresh cache and a fresh process, in turns. Kiln's time is that of `kiln tune` through the daemon: proposals, compiles,
timings, the comparison with the untuned kernel. tinygrad's is that of its first call (it needs a `clang`).
"""
from __future__ import annotations

import argparse
import os
import pathlib
import statistics
import subprocess
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent)]

import numpy as np

TINYGRAD = """
import sys, time, numpy as np
from tinygrad import Tensor, TinyJit, Device
n = int(sys.argv[1])
a, b = (Tensor(np.random.rand(n, n).astype(np.float32)).realize() for _ in range(2))
f = TinyJit(lambda a, b: (a @ b).realize())
start = time.perf_counter()
f(a, b)
first, times = time.perf_counter() - start, []
for _ in range(12):
    start = time.perf_counter()
    f(a, b)
    Device[Device.DEFAULT].synchronize()
    times.append(time.perf_counter() - start)
print(first, sorted(times[2:])[5])
"""


def by_tinygrad(python: str, n: int) -> tuple[float, float]:
    env = {**os.environ, "BEAM": "2", "IGNORE_BEAM_CACHE": "1", "CACHELEVEL": "0", "DEV": "CPU:LLVM", "CPU_COUNT": "1", "THREADS": "0", "PARALLEL": "0"}
    out = subprocess.run([python, "-c", TINYGRAD, str(n)], env=env, check=True, capture_output=True, text=True).stdout.split()
    return float(out[0]), float(out[1])


def by_kiln(n: int) -> tuple[float, float]:
    import kiln
    import serving
    from onnx import TensorProto, helper
    of = lambda name: helper.make_tensor_value_info(name, TensorProto.FLOAT, [n, n])
    graph = helper.make_graph([helper.make_node("MatMul", ["a", "b"], ["y"])], "mm", [of("a"), of("b")], [of("y")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]).SerializeToString()
    noise = np.random.default_rng(0).standard_normal((2, n, n), np.float32)
    with serving.Server() as server, kiln.connect(server.target) as client:
        exe = client.compile(model)
        exe({"a": noise[0], "b": noise[1]})
        start = time.perf_counter()
        summary = exe.tune(budget=60)
        return time.perf_counter() - start, summary.kernels[0].best


def main() -> None:
    p = argparse.ArgumentParser()
    p.add_argument("--n", type=int, default=512)
    p.add_argument("--rounds", type=int, default=1)
    p.add_argument("--tinygrad-python", default=sys.executable)
    args = p.parse_args()
    kiln_, tiny = [], []
    for _ in range(args.rounds):
        kiln_.append(by_kiln(args.n))
        tiny.append(by_tinygrad(args.tinygrad_python, args.n))
    flops = 2 * args.n ** 3 / 1e9
    of = lambda name, all_: f"{name} {', '.join(f'{s:.2f}' for s, _ in all_)} s, {flops / statistics.median(t for _, t in all_):.1f} GFLOP/s"
    slowest = max(s for s, _ in kiln_)
    print(f"{args.n} cubed, f32: {of('Kiln', kiln_)}; {of('tinygrad', tiny)}; at least {min(s for s, _ in tiny) / slowest:.1f}x")


if __name__ == "__main__":
    main()
