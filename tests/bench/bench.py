"""The benchmark table of the README: Kiln beside ONNX Runtime on this machine, in one run.

usage: bench.py [--quick] [--only NAME[,NAME...]]     names: compile restart models matmul latency cache idle memory chain symbolic

Medians throughout. Ratios are ONNX Runtime's time over Kiln's: above 1, Kiln is faster. Both sides get the same number of threads and
the same inputs, and take turns; a pause between the turns lets the other side's threads stop spinning. Model weights are random
(models.dense), so that neither side can fold them.
"""
from __future__ import annotations

import argparse
import json
import math
import os
import pathlib
import platform
import statistics
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE.parent / "model")]

import numpy as np
import onnxruntime

import kiln
import models
import serving

THREADS = len(os.sched_getaffinity(0))
PAUSE_SECONDS = 0.05


def row(what: str, reach: str, got: str, note: str = "") -> None:
    print(f"| {what} | {reach} | {got} | {note} |", flush=True)


def median_ms(fn, seconds: float, least: int = 3) -> float:
    """Median wall time of fn in ms over about `seconds`, after one warm-up call."""
    fn()
    times, end = [], time.perf_counter() + seconds
    while len(times) < least or time.perf_counter() < end:
        start = time.perf_counter()
        fn()
        times.append((time.perf_counter() - start) * 1e3)
    return statistics.median(times)


def ort_session(model: bytes, threads: int) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def device_ms(client: kiln.Client, exe: kiln.Executable, feeds) -> float:
    """Kernel time of one run as the device reports it."""
    from kiln import _codec
    response = client._stub.Run(_codec.run_request(exe.executable_id, feeds, None))
    return response.device_ns / 1e6


def middle_ms(exe: kiln.Executable) -> float:
    """Model bytes to kernel list: wall time of one thread that waits for nothing, so no less than its CPU time (whose clock is coarse)."""
    report = exe.report()
    return (report["frontend_ns"] + report["kernels_ns"]) / 1e6


def zoo():
    """(name, model bytes, feeds) of every model of the table."""
    for name in models.LIGHT:
        input_name, x = models.light_input(name)
        x = np.random.default_rng(0).standard_normal(x.shape).astype(np.float32)
        yield name, models.dense(name), {input_name: x}
    yield "bert_base", models.bert_base(), {"ids": models.token_ids()}
    yield "gpt2", models.gpt2(), {"ids": models.token_ids()}
    rows = np.random.default_rng(1).integers(0, 257, (8, 2048)).astype(np.int32)
    yield "magika", models.magika_path().read_bytes(), {"bytes": rows}


def compile_options(name: str) -> kiln.Options:
    return kiln.Options(dims={"bytes.0": 8} if name == "magika" else {}, no_cache=True)


def bench_compile(quick: bool) -> None:
    input_name, x = models.light_input("resnet50")
    for label, model in (("as shipped", models.light_path("resnet50").read_bytes()), ("random weights, 102 MB", models.dense("resnet50"))):
        cpu, cold = [], []
        for _ in range(3 if quick else 5):
            with serving.Server() as server, kiln.connect(server.target) as client:
                client.server_info()
                start = time.perf_counter()
                exe = client.compile(model)
                exe({input_name: x})
                cold.append((time.perf_counter() - start) * 1e3)
                cpu.append(middle_ms(exe))
        row(f"ResNet-50 ({label}), frontend to kernel list", "50 ms of CPU", f"{statistics.median(cpu):.1f} ms", "one thread, wall time; no LLVM")
        row(f"ResNet-50 ({label}), cold submit to first answer", "1.0 s", f"{statistics.median(cold) / 1e3:.2f} s", f"{exe.report()['unique_kernels']} kernels compiled, upload included")


def bench_restart(quick: bool) -> None:
    input_name, x = models.light_input("resnet50")
    for label, model in (("as shipped", models.light_path("resnet50").read_bytes()), ("random weights, 102 MB", models.dense("resnet50"))):
        first, run = [], []
        with serving.Server() as server:
            with kiln.connect(server.target) as client:
                client.compile(model)
            for _ in range(3 if quick else 5):
                server.restart()
                with kiln.connect(server.target) as client:
                    client.server_info()
                    start = time.perf_counter()
                    exe = client.compile(model)
                    exe({input_name: x})
                    first.append((time.perf_counter() - start) * 1e3)
                    run.append(median_ms(lambda: exe({input_name: x}), 0.3))
                    assert exe.report()["kernels_compiled"] == 0
        row(f"ResNet-50 ({label}), daemon restarted, cache warm, to first answer", "150 ms plus the run",
            f"{statistics.median(first) - statistics.median(run):.0f} ms plus the run", f"run {statistics.median(run):.1f} ms")


def bench_models(quick: bool) -> None:
    ratios, seconds = {}, 0.5 if quick else 1.5
    with serving.Server() as server, kiln.connect(server.target) as client:
        for name, model, feeds in zoo():
            exe = client.compile(model, compile_options(name))
            ort_times, kiln_times, device_times = [], [], []
            for _ in range(2 if quick else 3):
                session = ort_session(model, THREADS)
                time.sleep(PAUSE_SECONDS)
                ort_times.append(median_ms(lambda: session.run(None, feeds), seconds))
                del session
                time.sleep(PAUSE_SECONDS)
                kiln_times.append(median_ms(lambda: exe(feeds), seconds))
                device_times.append(statistics.median(device_ms(client, exe, feeds) for _ in range(9)))
            o, k, d = (statistics.median(t) for t in (ort_times, kiln_times, device_times))
            ratios[name] = o / d
            report = exe.report()
            row(f"{name}, {THREADS} threads", "0.1x", f"{o / d:.2f}x",
                f"device {d:.2f} ms, with RPC {k:.2f} ms, ONNX Runtime {o:.2f} ms; {report['kernels']} kernels")
            exe.release()
    mean = math.exp(statistics.fmean(math.log(r) for r in ratios.values()))
    row("geometric mean over the models", "0.3x", f"{mean:.2f}x", f"lowest {min(ratios, key=ratios.get)} {min(ratios.values()):.2f}x")


def bench_matmul(quick: bool) -> None:
    if "one-core" not in sys.argv:  # this process and the daemon it starts, on one core
        cmd = ["taskset", "-c", "0", sys.executable, __file__, "--only", "matmul", "one-core"] + (["--quick"] if quick else [])
        subprocess.run(cmd, check=True)
        return
    model, n = models.matmul(1024), 1024
    feeds = {"A": np.random.default_rng(0).standard_normal((n, n)).astype(np.float32)}
    with serving.Server() as server, kiln.connect(server.target) as client:
        exe = client.compile(model, kiln.Options(no_cache=True))
        session = ort_session(model, 1)
        a = np.concatenate([exe(feeds)["C"].ravel(), session.run(None, feeds)[0].ravel()]).reshape(2, -1)
        np.testing.assert_allclose(a[0], a[1], rtol=1e-3, atol=1e-3)
        ort, dev = [], []
        for _ in range(3 if quick else 7):
            ort.append(median_ms(lambda: session.run(None, feeds), 0.3))
            dev.append(statistics.median(device_ms(client, exe, feeds) for _ in range(7)))
        o, d = statistics.median(ort), statistics.median(dev)
        gf = 2 * n ** 3 / 1e6
        row("f32 matmul 1024 cubed, one core", "0.5x", f"{o / d:.2f}x", f"{gf / d:.0f} GFLOP/s, ONNX Runtime {gf / o:.0f}")


def bench_latency(quick: bool) -> None:
    with serving.Server() as server:
        out = subprocess.run([str(serving.BIN.parent / "tests" / "bench_run"), server.target, "2000" if quick else "20000"],
                             check=True, capture_output=True, text=True).stdout
    r = json.loads(out)
    row("`run` of a cached one-kernel graph, Unix socket, C client, p50", "150 us", f"{r['p50_us']:.0f} us", f"p99 {r['p99_us']:.0f} us")


def bench_cache(quick: bool) -> None:
    out = subprocess.run([str(serving.BIN.parent / "tests" / "bench_cache")], check=True, capture_output=True, text=True).stdout
    r = json.loads(out)
    row("warm lookups of a 100-kernel plan, page cache warm", "4 ms", f"{r['median_ms']:.2f} ms", f"{r['kernels']} kernels of {r['bytes']} bytes")


def proc_status(pid: int) -> dict[str, int]:
    """Memory fields of /proc/PID/status in bytes."""
    fields = {}
    for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines():
        key, _, value = line.partition(":")
        if value.strip().endswith("kB"):
            fields[key] = int(value.split()[0]) * 1024
    return fields


def descendants(pid: int) -> list[int]:
    found = []
    for task in pathlib.Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            found += [int(child), *descendants(int(child))]
    return found


def bench_idle(quick: bool) -> None:
    with serving.Server() as server, kiln.connect(server.target) as client:
        client.server_info()
        time.sleep(1)
        pid = server.process.pid
        rss = proc_status(pid)["VmRSS"] / 2 ** 20
        llvm = "LLVM" in pathlib.Path(f"/proc/{pid}/maps").read_text()
        row("idle kilnd", "15 MB resident, no LLVM mapped", f"{rss:.1f} MB", "LLVM mapped" if llvm else "no LLVM mapped")


ORT_MEMORY = """
import ctypes, os, re, sys
import numpy as np, onnxruntime
def status(key): return int(re.search(key + r':\\s+(\\d+)', open('/proc/self/status').read()).group(1)) * 1024
feeds = dict(np.load(sys.argv[2]))
base = status('VmRSS')
o = onnxruntime.SessionOptions(); o.intra_op_num_threads = int(sys.argv[3])
s = onnxruntime.InferenceSession(sys.argv[1], o, providers=['CPUExecutionProvider'])
ctypes.CDLL('libc.so.6').malloc_trim(0)
open('/proc/self/clear_refs', 'w').write('5')
for _ in range(3): s.run(None, feeds)
print(status('VmHWM') - base)
"""


def memory_of(name: str, model: bytes, feeds) -> tuple[float, float, float]:
    """Bytes at the peak of runs, weights aside: (Kiln's, ONNX Runtime's, planned intermediates)."""
    with tempfile.TemporaryDirectory() as folder, serving.Server() as server, kiln.connect(server.target) as client:
        pathlib.Path(folder, "model.onnx").write_bytes(model)
        np.savez(f"{folder}/feeds.npz", **feeds)
        out = subprocess.run([sys.executable, "-c", ORT_MEMORY, f"{folder}/model.onnx", f"{folder}/feeds.npz", str(THREADS)],
                             check=True, capture_output=True, text=True)
        client.devices()
        time.sleep(1)  # the workers are up
        before = {p: proc_status(p)["VmRSS"] for p in descendants(server.process.pid)}
        exe = client.compile(model, compile_options(name))
        report = exe.report()
        for p in before:
            pathlib.Path(f"/proc/{p}/clear_refs").write_text("5")
        for _ in range(3):
            exe(feeds)
        device = max(before, key=lambda p: proc_status(p)["RssShmem"])
        mine = proc_status(device)["VmHWM"] - before[device] - report["weight_bytes"]
    return mine, int(out.stdout) - report["weight_bytes"], report["temp_bytes"]


def bench_memory(quick: bool) -> None:
    """Resident peak of the process that runs the model, during runs; less what was resident before the model was loaded, less the weights."""
    ratios = {}
    for name, model, feeds in zoo():
        mine, ort, planned = memory_of(name, model, feeds)
        ratios[name] = mine / ort
        row(f"{name}, peak memory of a run, weights aside", "1.1x ONNX Runtime's", f"{ratios[name]:.2f}x",
            f"{mine / 2 ** 20:.1f} MB (planned {planned / 2 ** 20:.1f}), ONNX Runtime {ort / 2 ** 20:.1f} MB")
    worst = max(ratios, key=ratios.get)
    row("worst peak memory of all models", "1.1x ONNX Runtime's", f"{ratios[worst]:.2f}x", worst)


def bench_chain(quick: bool) -> None:
    times = {}
    with serving.Server() as server, kiln.connect(server.target) as client:
        for n in (100, 1000, 10000):
            cpu = []
            for _ in range(9 if n < 10000 else 3):
                exe = client.compile(models.chain(n), kiln.Options(no_cache=True))
                cpu.append(middle_ms(exe))
                exe.release()
            times[n] = statistics.median(cpu)
    row("chain of 100, 1,000, 10,000 nodes, frontend to kernels", "each 10x at most 12x",
        f"{times[1000] / times[100]:.1f}x, {times[10000] / times[1000]:.1f}x", ", ".join(f"{t:.1f} ms" for t in times.values()))


def bench_symbolic(quick: bool) -> None:
    model, rounds = models.bert_symbolic(), 9 if quick else 31
    with serving.Server() as server, kiln.connect(server.target) as client:
        any_size = client.compile(model, kiln.Options(dims={"n": (1, 512)}))
        kernels = client.cache_stats().kernels
        for n in (128, 384):
            feeds, times = {"ids": models.token_ids(n)}, {"symbolic": [], "fixed": []}
            fixed = client.compile(model, kiln.Options(dims={"n": n}, no_cache=True))
            for round in range(rounds + 1):  # run by run in turns: the machine may be shared
                for what, exe in (("symbolic", any_size), ("fixed", fixed)):
                    start = time.perf_counter()
                    exe(feeds)
                    if round:
                        times[what].append((time.perf_counter() - start) * 1e3)
            fixed.release()
            s, f = (statistics.median(t) for t in times.values())
            row(f"BERT-base, {n} tokens, sequence length symbolic in [1, 512]", "1.3x the fixed-shape time", f"{s / f:.2f}x", f"{s:.1f} ms, fixed {f:.1f} ms")
        for n in range(1, 513, 11):
            any_size({"ids": models.token_ids(n)})
        row("kernels compiled for 47 more sequence lengths", "0", str(client.cache_stats().kernels - kernels), "")


def machine() -> str:
    cpu = next((line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), platform.machine())
    return f"{cpu}, {THREADS} cores, {platform.system()} {platform.release()}, ONNX Runtime {onnxruntime.__version__}, {time.strftime('%Y-%m-%d')}"


BENCHES = {"compile": bench_compile, "restart": bench_restart, "models": bench_models, "matmul": bench_matmul, "latency": bench_latency,
           "cache": bench_cache, "idle": bench_idle, "memory": bench_memory, "chain": bench_chain,
           "symbolic": bench_symbolic}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", default=",".join(BENCHES))
    parser.add_argument("one_core", nargs="?")
    args = parser.parse_args()
    if not args.one_core:
        print(f"{machine()}\n\n| what | reach | got | detail |\n|---|---|---|---|", flush=True)
    for name in args.only.split(","):
        BENCHES[name](args.quick)


if __name__ == "__main__":
    main()
