"""Convolutions beside the CPU libraries: the layers of ResNet-50 at batch 1 and 16, MobileNetV2's depthwise layers. f32.

usage: bench_conv.py [--threads N] [--batch 1,16] [--set resnet50|mobilenet] [--only NAME[,NAME...]] [--rounds N]

Every side computes in the layout that it likes best and does not pay for getting there. Kiln: the layer stands behind a 1x1 convolution with a Relu,
as in a network, its result goes out in blocks of channels, and all kernels behind the first convolution count (and the zeros around its result);
conv1 reads the image, and all of its kernels count. The process is bench_model --turns. PyTorch (oneDNN): the fastest of contiguous, channels_last and blocked (to_mkldnn, packed
weights). ONNX Runtime: a model of that convolution alone. All take turns; medians of all turns; the ratio is the fastest peer's time over
Kiln's: above 1, Kiln is faster.
"""
from __future__ import annotations

import argparse
import copy
import math
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
import warnings

warnings.filterwarnings("ignore")
import numpy as np
import onnxruntime
import torch
from onnx import TensorProto, helper, numpy_helper

BIN = pathlib.Path(os.environ.get("KILN_BIN", pathlib.Path(__file__).resolve().parents[2] / "build/release/bin"))

# name: channels, filters, edge, kernel, stride, padding, how often in the network
RESNET50 = {
    "conv1 7x7/2": (3, 64, 224, 7, 2, 3, 1),
    "1x1 64-64 56": (64, 64, 56, 1, 1, 0, 1), "3x3 64 56": (64, 64, 56, 3, 1, 1, 3), "1x1 64-256 56": (64, 256, 56, 1, 1, 0, 4),
    "1x1 256-64 56": (256, 64, 56, 1, 1, 0, 2), "1x1 256-128 56": (256, 128, 56, 1, 1, 0, 1), "3x3/2 128 56": (128, 128, 56, 3, 2, 1, 1),
    "1x1 128-512 28": (128, 512, 28, 1, 1, 0, 4), "1x1/2 256-512 56": (256, 512, 56, 1, 2, 0, 1), "1x1 512-128 28": (512, 128, 28, 1, 1, 0, 3),
    "3x3 128 28": (128, 128, 28, 3, 1, 1, 3), "1x1 512-256 28": (512, 256, 28, 1, 1, 0, 1), "3x3/2 256 28": (256, 256, 28, 3, 2, 1, 1),
    "1x1 256-1024 14": (256, 1024, 14, 1, 1, 0, 6), "1x1/2 512-1024 28": (512, 1024, 28, 1, 2, 0, 1), "1x1 1024-256 14": (1024, 256, 14, 1, 1, 0, 5),
    "3x3 256 14": (256, 256, 14, 3, 1, 1, 5), "1x1 1024-512 14": (1024, 512, 14, 1, 1, 0, 1), "3x3/2 512 14": (512, 512, 14, 3, 2, 1, 1),
    "1x1 512-2048 7": (512, 2048, 7, 1, 1, 0, 3), "1x1/2 1024-2048 14": (1024, 2048, 14, 1, 2, 0, 1), "1x1 2048-512 7": (2048, 512, 7, 1, 1, 0, 2),
    "3x3 512 7": (512, 512, 7, 3, 1, 1, 2),
}
MOBILENET = {f"dw {c} {edge}/{stride}": (c, 0, edge, 3, stride, 1, 1) for c, edge, stride in (
    (32, 112, 1), (96, 112, 2), (144, 56, 1), (144, 56, 2), (192, 28, 1), (192, 28, 2), (384, 14, 1), (576, 14, 1), (576, 14, 2), (960, 7, 1))}
SETS = {"resnet50": RESNET50, "mobilenet": MOBILENET}
PAUSE_SECONDS = 0.01
BEFORE = 16  # channels that the convolution before the layer reads


def block_of(channels: int, lanes: int = 16) -> int:
    """As layout.c chooses it for vectors of 16."""
    best, least = 1, 1.34
    for b in range(2 * lanes, lanes - 1, -1):
        waste = math.ceil(b / lanes) * lanes / b
        if channels % b == 0 and waste < least:
            best, least = b, waste
    return best


class Layer:
    def __init__(self, name: str, spec, batch: int):
        c, k, edge, kernel, stride, pad, self.count = spec
        self.name, self.batch, self.channels, self.edge, self.kernel, self.stride, self.pad = name, batch, c, edge, kernel, stride, pad
        self.groups, self.filters = (c, c) if k == 0 else (1, k)
        self.out = (edge + 2 * pad - kernel) // stride + 1
        rng = np.random.default_rng(c + edge)
        self.x = rng.standard_normal((batch, c, edge, edge), np.float32)
        self.w = rng.standard_normal((self.filters, c // self.groups, kernel, kernel), np.float32)
        self.bias = rng.standard_normal(self.filters, np.float32)
        self.flops = 2 * batch * self.out ** 2 * kernel ** 2 * self.filters * c // self.groups

    def model(self, chain: bool) -> bytes:
        n, c, k, edge, out = self.batch, self.channels, self.filters, self.edge, self.out
        nodes, weights = [], [numpy_helper.from_array(self.w, "w"), numpy_helper.from_array(self.bias, "b")]
        shape, result, source = [n, c, edge, edge], [n, k, out, out], "x"
        if chain and c > 4:
            before = np.random.default_rng(0).standard_normal((c, BEFORE, 1, 1), np.float32)
            nodes += [helper.make_node("Conv", ["x", "v"], ["u"]), helper.make_node("Relu", ["u"], ["r"])]
            weights.append(numpy_helper.from_array(before, "v"))
            shape, source = [n, BEFORE, edge, edge], "r"
        nodes.append(helper.make_node("Conv", [source, "w", "b"], ["y"], strides=[self.stride] * 2, pads=[self.pad] * 4, group=self.groups))
        if chain:
            b = block_of(k)
            result = [n, k // b, out, out, b]
            weights.append(numpy_helper.from_array(np.array([n, k // b, b, out, out]), "s"))
            nodes += [helper.make_node("Reshape", ["y", "s"], ["z"]), helper.make_node("Transpose", ["z"], ["o"], perm=[0, 1, 3, 4, 2])]
        info = helper.make_tensor_value_info
        graph = helper.make_graph(nodes, "conv", [info("x", TensorProto.FLOAT, shape)], [info("o" if chain else "y", TensorProto.FLOAT, result)], weights)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()


class Kernels:
    """The layer's kernels in a process of their own; seconds."""

    def __init__(self, layer: Layer, threads: int):
        self.file = tempfile.NamedTemporaryFile(suffix=".onnx")
        self.file.write(layer.model(True))
        self.file.flush()
        self.process = subprocess.Popen([BIN.parent / "tests/bench_model", self.file.name, "--turns", "--kernels", "--threads", str(threads)],
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        calls = []
        while (line := self.process.stdout.readline()).strip() != "ready":
            if not line:
                raise RuntimeError("bench_model failed")
            if line.startswith("call "):
                calls.append(line.split(maxsplit=3)[1:])
        first = 0
        if layer.channels > 4:
            first = next(i for i, c in enumerate(calls) if c[0].startswith("r_")) + 1
        self.counted = [i >= first or c[1] == "1" for i, c in enumerate(calls)]
        self.names = " ".join(c[0] for i, c in enumerate(calls) if self.counted[i] and c[1] != "1")

    def __call__(self) -> float:
        self.process.stdin.write("1\n")
        self.process.stdin.flush()
        times = map(int, self.process.stdout.readline().split())
        return sum(t for t, counted in zip(times, self.counted) if counted) * 1e-9

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait()
        self.file.close()


def timed(call):
    def run() -> float:
        start = time.perf_counter()
        call()
        return time.perf_counter() - start
    return run


def torch_calls(layer: Layer):
    from torch.utils import mkldnn
    conv = torch.nn.Conv2d(layer.channels, layer.filters, layer.kernel, layer.stride, layer.pad, groups=layer.groups).eval()
    with torch.no_grad():
        conv.weight.copy_(torch.from_numpy(layer.w))
        conv.bias.copy_(torch.from_numpy(layer.bias))
    x = torch.from_numpy(layer.x)
    blocked = mkldnn.to_mkldnn(conv)
    xl = x.contiguous(memory_format=torch.channels_last)

    last = copy.deepcopy(conv).to(memory_format=torch.channels_last)
    xb = x.to_mkldnn()
    return {"torch": timed(lambda: conv(x)), "torch channels_last": timed(lambda: last(xl)), "torch blocked": timed(lambda: blocked(xb))}


def onnxruntime_call(layer: Layer, threads: int):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads, options.log_severity_level = threads, 1, 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "1" if threads > 1 else "0")
    session = onnxruntime.InferenceSession(layer.model(False), options, providers=["CPUExecutionProvider"])
    return timed(lambda: session.run(None, {"x": layer.x}))


def measure(layer: Layer, args):
    kernels = Kernels(layer, args.threads)
    calls = {"kiln": kernels, "onnxruntime": onnxruntime_call(layer, args.threads)} | torch_calls(layer)
    times = {who: [] for who in calls}
    with torch.no_grad():
        for _ in range(args.rounds):
            for who, call in calls.items():
                time.sleep(PAUSE_SECONDS)
                call()
                times[who] += [call() for _ in range(3)]
    kernels.close()
    return {who: statistics.median(t) for who, t in times.items()}, kernels.names


def table(layers, batch: int, args) -> None:
    ratios, total, best_total = [], 0.0, 0.0
    print(f"| batch {batch}, {args.threads} threads | Kiln us | GFLOP/s | fastest peer | us | ratio | kernels |\n|---|---|---|---|---|---|---|")
    for name, spec in layers.items():
        if args.only and name not in args.only.split(","):
            continue
        layer = Layer(name, spec, batch)
        times, kernels = measure(layer, args)
        mine = times.pop("kiln")
        best = min(times, key=times.get)
        ratios.append(times[best] / mine)
        total, best_total = total + layer.count * mine, best_total + layer.count * times[best]
        print(f"| {name} | {mine * 1e6:.0f} | {layer.flops / mine / 1e9:.0f} | {best} | {times[best] * 1e6:.0f} | {ratios[-1]:.2f} | {kernels} |", flush=True)
    print(f"\ngeomean {math.exp(sum(map(math.log, ratios)) / len(ratios)):.2f}, least {min(ratios):.2f}; all layers as often as the network has them: "
          f"Kiln {total * 1e3:.1f} ms, the fastest peer of each {best_total * 1e3:.1f} ms\n", flush=True)


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--threads", type=int, default=1)
    p.add_argument("--batch", default="1,16")
    p.add_argument("--set", choices=list(SETS), default=None)
    p.add_argument("--only", default="")
    p.add_argument("--rounds", type=int, default=7)
    args = p.parse_args()
    torch.set_num_threads(args.threads)
    print(f"onnxruntime {onnxruntime.__version__}, torch {torch.__version__}, {time.strftime('%Y-%m-%d')}\n")
    for batch in map(int, args.batch.split(",")):
        for name in [args.set] if args.set else SETS:
            table(SETS[name], batch, args)


main()
