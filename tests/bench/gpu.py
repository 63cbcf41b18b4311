#!/usr/bin/env python3
"""Kernels and models on cuda:0 beside PyTorch, in one run: medians of the device's time.

    gpu.py [--only TEXT]        needs kilnd in $KILN_BIN, the kiln package, torch and onnx

Kiln's time is that of the run on the device, which kilnd reports, with inputs and outputs in device buffers; PyTorch's is that of one call between two
events, after warming up. Inputs are random. A row: what, Kiln, PyTorch eager, ratio (above 1: Kiln is faster).
"""
import argparse
import functools
import os
import statistics
import sys
import tempfile

import numpy as np
import torch

sys.path[:0] = [os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", part) for part in ("", "model")]
import kiln
import serving
from kiln import _codec

ROUNDS = 15


def torch_us(call):
    for _ in range(5):
        call()
    times = []
    for _ in range(ROUNDS):
        a, b = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        a.record()
        call()
        b.record()
        torch.cuda.synchronize()
        times.append(a.elapsed_time(b) * 1000)
    return statistics.median(times)


def kiln_us(client, exe, inputs):
    """The response's own time, which the Python client does not show."""
    times = []
    for _ in range(ROUNDS + 3):
        response = client._stub.Run(_codec.run_request(exe.executable_id, inputs, "buffers", exe.inputs))
        times.append(response.device_ns / 1000)
        for b in _codec.run_outputs(response, exe.outputs, functools.partial(kiln.Buffer, client)).values():
            b.free()
    return statistics.median(times[3:])


def matmul(n, dtype):
    return [((n, n), dtype), ((n, n), dtype)], lambda g, a, b: a @ b, lambda a, b: a @ b


def rows(rows_, cols, build, call):
    return [((rows_, cols), "f32")], build, call


def chain(n, size):
    """Dependent small kernels: what a launch costs."""
    def build(g, x):
        for _ in range(n):
            x = g.contiguous(x + 1)
        return x

    def call(x):
        for _ in range(n):
            x = x + 1
        return x
    return [((size,), "f32")], build, call


def softmax(rows_, cols):
    return rows(rows_, cols, lambda g, x: g.softmax(x, axis=1), lambda x: torch.softmax(x, 1))


def layernorm(rows_, cols):
    shapes = [((rows_, cols), "f32"), ((cols,), "f32"), ((cols,), "f32")]
    return shapes, lambda g, x, w, b: g.layernorm(x, w, b), lambda x, w, b: torch.nn.functional.layer_norm(x, (cols,), w, b)


CASES = {
    "matmul f32 1024": matmul(1024, "f32"),
    "matmul f32 4096": matmul(4096, "f32"),
    "matmul f16 4096": matmul(4096, "f16"),
    "softmax f32 262144x256": softmax(262144, 256),
    "softmax f32 65536x1000": softmax(65536, 1000),
    "softmax f32 16384x4096": softmax(16384, 4096),
    "softmax f32 4096x16384": softmax(4096, 16384),
    "softmax f32 2048x32768": softmax(2048, 32768),
    "softmax f32 1536x128": softmax(1536, 128),
    "layernorm f32 16384x4096": layernorm(16384, 4096),
    "layernorm f32 65536x768": layernorm(65536, 768),
    "layernorm f32 128x768": layernorm(128, 768),
    "sum all f32 16384x4096": rows(16384, 4096, lambda g, x: x.sum(), lambda x: x.sum()),
    "sum over rows f32 16384x4096": rows(16384, 4096, lambda g, x: x.sum(axis=0), lambda x: x.sum(0)),
    "sum of rows f32 16384x4096": rows(16384, 4096, lambda g, x: x.sum(axis=1), lambda x: x.sum(1)),
    "transpose f32 16384x4096": rows(16384, 4096, lambda g, x: g.contiguous(x.permute(1, 0)), lambda x: x.t().contiguous()),
    "add f32 16384x4096": rows(16384, 4096, lambda g, x: x + x * 0.5, lambda x: torch.add(x, x, alpha=0.5)),
    "add f16 16384x8192": ([((16384, 8192), "f16")], lambda g, x: x + x * 0.5, lambda x: torch.add(x, x, alpha=0.5)),
    "gemv f16 16384x16384": ([((16384, 16384), "f16"), ((16384,), "f16")], lambda g, a, b: a @ b, lambda a, b: a @ b),
    "100 kernels of 256 elements": chain(100, 256),
    "100 kernels of 32768 elements": chain(100, 32768),
}
WRONG = []
NUMPY = {"f32": np.float32, "f16": np.float16}


def measure(client, name):
    shapes, build, call = CASES[name]
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal(s, np.float32).astype(NUMPY[d]) for s, d in shapes]
    g = kiln.Graph()
    params = [g.param(f"x{k}", d, s) for k, (s, d) in enumerate(shapes)]
    g.output("y", build(g, *params))
    exe = client.compile(g, options=kiln.Options(device="cuda:0"))
    inputs = {f"x{k}": client.upload(a, device="cuda:0") for k, a in enumerate(arrays)}
    tensors = [torch.from_numpy(a).cuda() for a in arrays]
    got, want = exe.run(inputs)["y"], call(*tensors).float().cpu().numpy()
    error = float(np.abs(got.astype(np.float32) - want).max() / max(np.abs(want).max(), 1e-30))
    ours, theirs = kiln_us(client, exe, inputs), torch_us(lambda: call(*tensors))
    if error > (1e-2 if shapes[0][1] == "f16" else 1e-4):
        WRONG.append(name)
    print(f"| {name} | {ours:.1f} us | {theirs:.1f} us | {theirs / ours:.2f}x | error {error:.1e} |", flush=True)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--only", default="")
    args = p.parse_args()
    config = tempfile.NamedTemporaryFile("w", suffix=".ini")
    config.write("[workers]\ndevice = cuda:0\n")
    config.flush()
    print(f"{torch.cuda.get_device_name()}, PyTorch {torch.__version__}")
    print("| what | Kiln | PyTorch eager | ratio | largest error |\n|---|---|---|---|---|")
    with serving.Server("--config", config.name) as server, kiln.connect(server.target) as client:
        for name in CASES:
            if args.only not in name:
                continue
            try:
                measure(client, name)
            except kiln.Error as e:
                print(f"| {name} | {e} |", flush=True)
                WRONG.append(name)
    if WRONG:
        sys.exit(f"wrong or not run: {', '.join(WRONG)}")


if __name__ == "__main__":
    main()
