"""Matrix products beside the CPU libraries: 20 shapes, f32, bf16 and int8.

usage: bench_matmul.py [--threads N] [--dtypes f32,bf16,int8] [--only NAME[,NAME...]] [--seconds S] [--inputs] [--run]

The matrix B is a weight, as in a model, so that every side may pack it when it loads; --inputs makes it an input. Kiln's time is that of the
kernels in a process of their own (bench_model --turns), beside it that of a run through the daemon; the peers' is that of a call. All take turns; medians of all turns. Peers that are
not installed are left out, so is a peer that does not know the dtype:
  onnxruntime  f32 MatMul; int8: MatMulInteger, u8 times s8
  openvino     f32, and f32 with the inference precision bf16 (its kernels are oneDNN's)
  torch        f32, bf16 by torch.mm; int8 by torch._int_mm (oneDNN)
The ratio is the fastest peer's time over Kiln's: above 1, Kiln is faster.
"""
from __future__ import annotations

import argparse
import contextlib
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
from onnx import TensorProto, helper, numpy_helper

import kiln
import serving
from kiln import _codec

SHAPES = {  # name: M, N, K
    "square 256": (256, 256, 256), "square 512": (512, 512, 512), "square 1024": (1024, 1024, 1024),
    "square 2048": (2048, 2048, 2048), "square 4096": (4096, 4096, 4096),
    "bert qkv": (128, 768, 768), "bert ffn up": (128, 3072, 768), "bert ffn down": (128, 768, 3072), "bert 384 up": (384, 3072, 768),
    "gpt2 qkv": (256, 2304, 768), "gpt2 up": (256, 3072, 768), "gpt2 down": (256, 768, 3072),
    "resnet conv1": (12544, 64, 147), "resnet 56": (3136, 64, 576), "resnet 28": (784, 128, 1152), "resnet 14": (196, 256, 2304),
    "skinny 1": (1, 4096, 4096), "skinny 4": (4, 4096, 4096), "skinny 16": (16, 4096, 4096), "skinny 64": (64, 4096, 4096),
}
PAUSE_SECONDS = 0.02  # between the turns: the other side's threads stop spinning


def operands(name: str, dtype: str):
    m, n, k = SHAPES[name]
    rng = np.random.default_rng(m + n + k)
    if dtype == "int8":
        return rng.integers(0, 256, (m, k)).astype(np.uint8), rng.integers(-128, 128, (k, n)).astype(np.int8)
    return rng.standard_normal((m, k), np.float32), rng.standard_normal((k, n), np.float32)


def onnx_model(a: np.ndarray, b: np.ndarray, dtype: str, as_input: bool) -> bytes:
    """What Kiln and ONNX Runtime get. bf16: the model's tensors are of that type."""
    kinds = {"f32": (TensorProto.FLOAT,) * 3, "bf16": (TensorProto.BFLOAT16,) * 3,
             "int8": (TensorProto.UINT8, TensorProto.INT8, TensorProto.INT32)}[dtype]
    info = [helper.make_tensor_value_info(x, kind, shape)
            for x, kind, shape in zip("ABC", kinds, (a.shape, b.shape, (a.shape[0], b.shape[1])))]
    weight = helper.make_tensor("B", kinds[1], b.shape, to_bf16(b).tobytes(), raw=True) if dtype == "bf16" else numpy_helper.from_array(b, "B")
    node = helper.make_node("MatMulInteger" if dtype == "int8" else "MatMul", ["A", "B"], ["C"])
    graph = helper.make_graph([node], "matmul", info[:2] if as_input else info[:1], info[2:], [] if as_input else [weight])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()


def to_bf16(x: np.ndarray) -> np.ndarray:
    """Nearest, ties to even; the bits."""
    bits = x.view(np.uint32).astype(np.uint64)
    return ((bits + 0x7fff + (bits >> 16 & 1)) >> 16).astype(np.uint16)


def onnxruntime_peer(a, b, dtype, as_input, threads):
    if dtype == "bf16":
        return None
    import onnxruntime
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads, options.log_severity_level = threads, 1, 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "1" if threads > 1 else "0")
    session = onnxruntime.InferenceSession(onnx_model(a, b, dtype, as_input), options, providers=["CPUExecutionProvider"])
    feeds = {"A": a, "B": b} if as_input else {"A": a}
    return lambda: session.run(None, feeds)[0]


def openvino_peer(a, b, dtype, as_input, threads):
    if dtype == "int8":
        return None
    import openvino
    core = openvino.Core()
    model = core.read_model(model=onnx_model(a, b, "f32", as_input))
    compiled = core.compile_model(model, "CPU", {"INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1, "INFERENCE_PRECISION_HINT": dtype,
                                                 "ENABLE_CPU_PINNING": False})
    request = compiled.create_infer_request()
    for i, x in enumerate((a, b) if as_input else (a,)):
        request.set_input_tensor(i, openvino.Tensor(x, shared_memory=True))

    def call():
        request.infer()
        return request.get_output_tensor(0).data
    return call


def torch_peer(a, b, dtype, as_input, threads):
    import torch
    torch.set_num_threads(threads)
    if dtype == "int8":  # it knows s8 by s8 only
        x, y = torch.from_numpy((a.astype(np.int16) - 128).astype(np.int8)), torch.from_numpy(b)
        return None if a.shape[0] < 17 else lambda: torch._int_mm(x, y).numpy()
    kind = torch.bfloat16 if dtype == "bf16" else torch.float32
    x, y = torch.from_numpy(a).to(kind), torch.from_numpy(b).to(kind)
    out = torch.empty((a.shape[0], b.shape[1]), dtype=kind)
    return lambda: torch.mm(x, y, out=out)


PEERS = {"onnxruntime": onnxruntime_peer, "openvino": openvino_peer, "torch": torch_peer}


def peers(a, b, dtype, as_input, threads):
    for name, make in PEERS.items():
        try:
            call = make(a, b, dtype, as_input, threads)
        except ImportError:
            continue
        if call:
            yield name, call


class Kernels:
    """The kernels of a model in a process that runs them when told to; a context manager."""

    def __init__(self, model: bytes, threads: int):
        self.file = tempfile.NamedTemporaryFile(suffix=".onnx")
        self.file.write(model)
        self.file.flush()
        bench = serving.BIN.parent / "tests" / "bench_model"
        self.process = subprocess.Popen([bench, self.file.name, "--turns", "--threads", str(threads)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        while "ready" not in self.process.stdout.readline():
            if self.process.poll() is not None:
                raise RuntimeError("bench_model failed")

    def __call__(self) -> float:
        self.process.stdin.write("1\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline()) * 1e-3

    def __enter__(self) -> "Kernels":
        return self

    def __exit__(self, *exc) -> None:
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()
        self.file.close()


def timed(call):
    def run() -> float:
        start = time.perf_counter()
        call()
        return (time.perf_counter() - start) * 1e6
    return run


def medians(calls, args) -> dict[str, float]:
    """Microseconds."""
    times = {who: [] for who in calls}
    for _ in range(args.rounds):
        for who, call in calls.items():
            time.sleep(PAUSE_SECONDS)
            call()
            end, least = time.perf_counter() + args.seconds / args.rounds, 2
            while least > 0 or time.perf_counter() < end:
                times[who].append(call())
                least -= 1
    return {who: statistics.median(t) for who, t in times.items()}


def measure(client, name: str, dtype: str, args) -> dict[str, float]:
    a, b = operands(name, dtype)
    model = onnx_model(a, b, dtype, args.inputs)
    with Kernels(model, args.threads) as kernels:
        calls = {"kiln": kernels}
        if client:
            exe = client.compile(model, kiln.Options(no_cache=True))
            feeds = {"A": a, "B": b} if args.inputs else {"A": a}
            if dtype == "bf16":
                feeds = {x: _codec.tensor_from_numpy(to_bf16(v), "bf16") for x, v in feeds.items()}
            calls["run"] = timed(lambda: exe(feeds))
        for peer, call in peers(a, b, dtype, args.inputs, args.threads):
            calls[peer] = timed(call)
        return medians(calls, args)


def machine() -> str:
    cpu = next((line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), platform.machine())
    versions = []
    for module in ("onnxruntime", "openvino", "torch"):
        try:
            versions.append(f"{module} {__import__(module).__version__}")
        except ImportError:
            versions.append(f"no {module}")
    return f"{cpu}, {len(os.sched_getaffinity(0))} cores, {platform.system()} {platform.release()}, {', '.join(versions)}, {time.strftime('%Y-%m-%d')}"


def table(client, dtype: str, args) -> None:
    ratios = {}
    for name in args.only.split(","):
        times = measure(client, name, dtype, args)
        m, n, k = SHAPES[name]
        mine, others = times["kiln"], {who: t for who, t in times.items() if who in PEERS}
        best = min(others, key=others.get, default=None)
        if best:
            ratios[name] = others[best] / mine
        print(f"| {dtype} {name} | {m} x {n} x {k} | {mine:.0f} | {2 * m * n * k / mine / 1e3:.0f} | {best} | "
              + (f"{ratios[name]:.2f}x" if best else "") + f" | {', '.join(f'{who} {t:.0f}' for who, t in times.items() if who != 'kiln')} |", flush=True)
    if ratios:
        mean = math.exp(statistics.fmean(math.log(r) for r in ratios.values()))
        worst = min(ratios, key=ratios.get)
        print(f"| {dtype} geometric mean | | | | | {mean:.2f}x | lowest {worst} {ratios[worst]:.2f}x |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--dtypes", default="f32,bf16,int8")
    parser.add_argument("--only", default=",".join(SHAPES))
    parser.add_argument("--seconds", type=float, default=0.5, help="for each side and shape")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--inputs", action="store_true")
    parser.add_argument("--run", action="store_true", help="also time runs through a daemon")
    args = parser.parse_args()
    print(f"{machine()}, {args.threads} threads, B is {'an input' if args.inputs else 'a weight'}\n", flush=True)
    print("| what | M x N x K | Kiln us | GF/s | fastest peer | ratio | all, us |\n|---|---|---|---|---|---|---|", flush=True)
    with contextlib.ExitStack() as stack:
        client = None
        if args.run:
            client = stack.enter_context(kiln.connect(stack.enter_context(serving.Server()).target))
        for dtype in args.dtypes.split(","):
            table(client, dtype, args)


if __name__ == "__main__":
    main()
