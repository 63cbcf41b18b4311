"""Row kernels and attention beside the fastest peer: ONNX Runtime and OpenVINO on the same model, PyTorch eager on the same arithmetic.

usage: bench_rows.py [--threads N] [--only NAME[,NAME...]] [--seconds S]

Needs onnx, onnxruntime and torch (openvino if it is there), and bench_model of a release build (KILN_BENCH, or beside KILN_BIN). Medians. One thread is
measured in CPU time, since the machine may be shared; more in wall time. x is the fastest peer's time over Kiln's: above 1 Kiln is
faster. copy is the time of copying as many bytes as the kernel must read and write, by torch, over Kiln's.
"""
from __future__ import annotations

import argparse
import math
import os
import pathlib
import re
import statistics
import subprocess
import tempfile
import time

import numpy as np
import onnx
import onnxruntime
import torch
import torch.nn.functional as F
from onnx import TensorProto as T
from onnx import helper as h

ROOT = pathlib.Path(__file__).resolve().parents[2]
BENCH = os.environ.get("KILN_BENCH") or str(ROOT / "build/release/tests/bench_model")


def model(nodes, inputs, output, constants=(), opset=20) -> onnx.ModelProto:
    values = [h.make_tensor_value_info(n, t, s) for n, t, s in inputs]
    graph = h.make_graph(nodes, "row", values, [h.make_tensor_value_info(*output)],
                         [onnx.numpy_helper.from_array(v, k) for k, v in dict(constants).items()])
    return h.make_model(graph, opset_imports=[h.make_opsetid("", opset)], ir_version=10)


def simple(op, shape, out_shape=None, const=(), opset=20, **attrs):
    node = h.make_node(op, ["x", *dict(const)], ["y"], **attrs)
    return model([node], [("x", T.FLOAT, shape)], ("y", T.FLOAT, out_shape or shape), const, opset)


def gelu_chain(shape):
    """gelu(x * s + b) + x, as a frontend leaves it."""
    n = [h.make_node("Mul", ["x", "s"], ["a"]), h.make_node("Add", ["a", "b"], ["c"]), h.make_node("Gelu", ["c"], ["g"]),
         h.make_node("Add", ["g", "x"], ["y"])]
    const = {"s": np.full(shape[-1:], 1.5, np.float32), "b": np.full(shape[-1:], 0.25, np.float32)}
    return model(n, [("x", T.FLOAT, shape)], ("y", T.FLOAT, shape), const)


def rows():
    """name, model, torch function of the model's inputs, bytes that have to move."""
    r = np.random.default_rng(0)
    for m, n in ((1536, 128), (4096, 256), (4096, 1024), (1024, 4096), (256, 16384)):
        b = 8 * m * n
        yield f"softmax {m}x{n}", simple("Softmax", [m, n], axis=-1), lambda x: torch.softmax(x, -1), b
        yield f"log-softmax {m}x{n}", simple("LogSoftmax", [m, n], axis=-1), lambda x: torch.log_softmax(x, -1), b
    for m, n in ((128, 768), (4096, 768)):
        w, c = torch.ones(n), torch.zeros(n)
        const = {"w": w.numpy(), "c": c.numpy()}
        yield (f"layernorm {m}x{n}", simple("LayerNormalization", [m, n], const=const, axis=-1),
               lambda x, w=w, c=c: F.layer_norm(x, (w.numel(),), w, c), 8 * m * n)
        yield (f"RMSnorm {m}x{n}", simple("RMSNormalization", [m, n], const={"w": w.numpy()}, opset=23, axis=-1),
               lambda x, w=w: F.rms_norm(x, (w.numel(),), w, 1e-5), 8 * m * n)
    s, b = torch.full((768,), 1.5), torch.full((768,), 0.25)
    yield "gelu chain 4096x768", gelu_chain([4096, 768]), lambda x: F.gelu(x * s + b) + x, 8 * 4096 * 768
    one = {"axes": np.array([1])}
    yield "sum rows 4096x1024", simple("ReduceSum", [4096, 1024], [4096, 1], one), lambda x: x.sum(1, keepdim=True), 4 << 22
    one = {"axes": np.array([0])}
    yield "sum columns 4096x1024", simple("ReduceSum", [4096, 1024], [1, 1024], one), lambda x: x.sum(0, keepdim=True), 4 << 22
    yield "max rows 4096x1024", simple("ReduceMax", [4096, 1024], [4096, 1], {"axes": np.array([1])}), lambda x: x.amax(1, keepdim=True), 4 << 22
    yield "transpose 1024x1024", simple("Transpose", [1024, 1024], perm=[1, 0]), lambda x: x.t().contiguous(), 8 << 20
    yield "transpose 4096x1024", simple("Transpose", [4096, 1024], [1024, 4096], perm=[1, 0]), lambda x: x.t().contiguous(), 8 << 22
    yield ("transpose heads 12x512x64", simple("Transpose", [512, 12, 64], [12, 512, 64], perm=[1, 0, 2]),
           lambda x: x.permute(1, 0, 2).contiguous(), 8 * 12 * 512 * 64)
    at = r.integers(0, 30000, 4096)
    ids = torch.from_numpy(at)
    yield "gather 4096 of 30000x768", simple("Gather", [30000, 768], [4096, 768], {"at": at}), lambda x: x[ids], 8 * 4096 * 768
    at = r.integers(0, 256, (4096, 1))
    where, data = torch.from_numpy(at[:, 0]), torch.zeros(256, 64)
    node = h.make_node("ScatterND", ["zero", "at", "x"], ["y"], reduction="add")
    yield ("scatter-add 4096x64 into 256", model([node], [("x", T.FLOAT, [4096, 64])], ("y", T.FLOAT, [256, 64]),
                                                 {"zero": data.numpy(), "at": at}),
           lambda x: data.clone().index_add_(0, where, x), 4 * (4096 + 256) * 64)


def large():
    """What no cache holds: name, model, torch function, bytes that have to move."""
    r = np.random.default_rng(2)
    m, n = 16384, 4096
    shape, size = [m, n], 8 * m * n
    w, c = torch.ones(n), torch.zeros(n)
    yield f"large softmax {m}x{n}", simple("Softmax", shape, axis=-1), lambda x: torch.softmax(x, -1), size
    yield (f"large layernorm {m}x{n}", simple("LayerNormalization", shape, const={"w": w.numpy(), "c": c.numpy()}, axis=-1),
           lambda x: F.layer_norm(x, (n,), w, c), size)
    yield (f"large RMSnorm {m}x{n}", simple("RMSNormalization", shape, const={"w": w.numpy()}, opset=23, axis=-1),
           lambda x: F.rms_norm(x, (n,), w, 1e-5), size)
    s, b = torch.full((n,), 1.5), torch.full((n,), 0.25)
    yield f"large gelu chain {m}x{n}", gelu_chain(shape), lambda x: F.gelu(x * s + b) + x, size
    for axis, name in ((1, "rows"), (0, "columns")):
        out = [m, 1] if axis else [1, n]
        yield (f"large sum {name} {m}x{n}", simple("ReduceSum", shape, out, {"axes": np.array([axis])}),
               lambda x, a=axis: x.sum(a, keepdim=True), size // 2)
    yield "large transpose 8192x8192", simple("Transpose", [8192, 8192], perm=[1, 0]), lambda x: x.t().contiguous(), 8 << 26
    yield f"large cumsum {m}x{n} along 0", simple("CumSum", shape, const={"axis": np.array(0)}), lambda x: torch.cumsum(x, 0), size
    at = r.integers(0, 100000, 65536)
    ids = torch.from_numpy(at)
    yield "large gather 65536 of 100000x768", simple("Gather", [100000, 768], [65536, 768], {"at": at}), lambda x: x[ids], 8 * 65536 * 768
    at = r.integers(0, 30000, (65536, 1))
    where, data = torch.from_numpy(at[:, 0]), torch.zeros(30000, 768)
    node = h.make_node("ScatterND", ["zero", "at", "x"], ["y"], reduction="add")
    yield ("large scatter-add 65536x768 into 30000", model([node], [("x", T.FLOAT, [65536, 768])], ("y", T.FLOAT, [30000, 768]),
                                                           {"zero": data.numpy(), "at": at}),
           lambda x: data.clone().index_add_(0, where, x), 4 * (65536 + 2 * 30000) * 768)


def updates():
    """Scatters: name, model, torch function, bytes that have to move."""
    r = np.random.default_rng(1)

    def elements(what, data, shape, axis, reduction):
        at, zero = r.integers(0, data[axis], shape), np.zeros(data, np.float32)
        node = h.make_node("ScatterElements", ["zero", "at", "x"], ["y"], axis=axis, reduction=reduction)
        m = model([node], [("x", T.FLOAT, shape)], ("y", T.FLOAT, data), {"zero": zero, "at": at})
        ids, of = torch.from_numpy(at), torch.from_numpy(zero)
        f = (lambda x: of.clone().scatter_add_(axis, ids, x)) if reduction == "add" else (lambda x: of.clone().scatter_(axis, ids, x))
        return f"scatter {what}", m, f, 12 * math.prod(shape) + 4 * math.prod(data)

    yield elements("add 1M into 64k", [65536], [1 << 20], 0, "add")
    yield elements("store 1M into 64k", [65536], [1 << 20], 0, "none")
    yield elements("add 1024x1024 along 0", [1024, 1024], [1024, 1024], 0, "add")
    yield elements("add 1024x1024 along 1", [1024, 1024], [1024, 1024], 1, "add")
    yield elements("store 4096x64 along 1", [4096, 256], [4096, 64], 1, "none")
    for rows, width, count in ((30000, 768, 4096), (2000, 256, 20000)):
        at = r.integers(0, rows, (count, 1))
        ids = torch.from_numpy(at[:, 0])
        zero = {"shape": np.array([rows, width]), "at": at}
        nodes = [h.make_node("ConstantOfShape", ["shape"], ["zero"]), h.make_node("ScatterND", ["zero", "at", "x"], ["y"], reduction="add")]
        m = model(nodes, [("x", T.FLOAT, [count, width])], ("y", T.FLOAT, [rows, width]), zero)
        yield (f"scatter gradient of {count} of {rows}x{width}", m,
               lambda x, rows=rows, width=width, ids=ids: torch.zeros(rows, width).index_add_(0, ids, x), 4 * (rows + count) * width)


def order():
    """Prefix sums, the largest, and sorting."""
    for shape, axis in (([1 << 20], 0), ([65536], 0), ([1024, 1024], 0), ([1024, 1024], 1), ([4096, 64], 1)):
        m = simple("CumSum", shape, const={"axis": np.array(axis)})
        yield f"cumsum {'x'.join(map(str, shape))} along {axis}", m, lambda x, a=axis: torch.cumsum(x, a), 8 * math.prod(shape)
    for shape, k in (([1000], 10), ([10000], 10), ([100000], 10), ([256, 1000], 10), ([1000], 1000), ([10000], 10000), ([100000], 100000),
                     ([256, 1000], 1000)):
        node = h.make_node("TopK", ["x", "k"], ["y", "at"], axis=-1)
        m = model([node], [("x", T.FLOAT, shape)], ("y", T.FLOAT, [*shape[:-1], k]), {"k": np.array([k])})
        f = (lambda x: torch.sort(x, -1, descending=True)) if k == shape[-1] else (lambda x, k=k: torch.topk(x, k, -1))
        yield f"{'sort' if k == shape[-1] else 'top 10 of'} {'x'.join(map(str, shape))}", m, f, 0


def attention():
    for dtype, name in ((T.FLOAT, "f32"), (T.BFLOAT16, "bf16")):
        for t in (128, 512, 1024, 2048, 4096):
            heads = 12 if t <= 512 else 2 if t < 4096 else 1
            for causal in (False, True):
                shape = [1, heads, t, 64]
                m = model([h.make_node("Attention", ["q", "k", "v"], ["o"], is_causal=int(causal))],
                          [(n, dtype, shape) for n in "qkv"], ("o", dtype, shape), opset=23)
                yield (f"attention {name} {heads}x{t}x64{' causal' if causal else ''}", m,
                       lambda q, k, v, c=causal: F.scaled_dot_product_attention(q, k, v, is_causal=c), 0)
    for dtype, name in ((T.FLOAT, "f32"),):
        q, kv = [1, 12, 1, 64], [1, 12, 1024, 64]
        m = model([h.make_node("Attention", ["q", "k", "v"], ["o"])], [("q", dtype, q), ("k", dtype, kv), ("v", dtype, kv)],
                  ("o", dtype, q), opset=23)
        yield "decode f32 12x1 of 1024x64", m, F.scaled_dot_product_attention, 8 * 12 * 1024 * 64


def median_us(fn, threads: int, seconds: float, clock=None) -> float:
    clock = clock or (time.thread_time if threads == 1 else time.perf_counter)
    fn()
    times, end = [], time.perf_counter() + seconds
    while len(times) < 5 or time.perf_counter() < end:
        start = clock()
        fn()
        times.append((clock() - start) * 1e6)
    return statistics.median(times)


def kiln_us(m: onnx.ModelProto, threads: int) -> tuple[float, int]:
    with tempfile.NamedTemporaryFile(suffix=".onnx") as f:
        onnx.save(m, f.name)
        out = subprocess.run([BENCH, f.name, "--kernels", "--repeat", "31", "--threads", str(threads)], capture_output=True, text=True)
    found = re.search(r"median ([\d.]+) ms", out.stdout)
    if not found:
        raise SystemExit(f"{BENCH}: {out.stdout}{out.stderr}")
    return float(found.group(1)) * 1e3, len(re.findall(r"^ +\d+ k\d+ ", out.stdout, re.M))


def peers_us(m: onnx.ModelProto, fn, threads: int, seconds: float) -> dict[str, float]:
    dims = [(i.name, i.type.tensor_type.elem_type, [d.dim_value for d in i.type.tensor_type.shape.dim]) for i in m.graph.input]
    found, bf16 = {}, dims[0][1] == T.BFLOAT16
    x = {n: torch.randn(s, dtype=torch.bfloat16 if bf16 else torch.float32) for n, _, s in dims}
    with torch.inference_mode():
        found["torch"] = median_us(lambda: fn(*x.values()), threads, seconds)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 4
    try:
        session = onnxruntime.InferenceSession(m.SerializeToString(), options, providers=["CPUExecutionProvider"])
        feeds = {} if bf16 else {n: v.numpy() for n, v in x.items()}
        found["ort"] = median_us(lambda: session.run(None, feeds), threads, seconds)
    except Exception:  # an op or dtype that it has no kernel for
        pass
    try:
        found["openvino"] = openvino_us(m, {} if bf16 else {n: v.numpy() for n, v in x.items()}, threads, seconds)
    except Exception:  # not installed, or an operator that it does not read
        pass
    return found


def openvino_us(m: onnx.ModelProto, feeds: dict[str, np.ndarray], threads: int, seconds: float) -> float:
    """Its thread is not the caller's: with one, the processor time of the process."""
    import openvino
    core = openvino.Core()
    options = {"INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1, "INFERENCE_PRECISION_HINT": "f32"}
    compiled = core.compile_model(core.read_model(m.SerializeToString()), "CPU", options)
    request = compiled.create_infer_request()
    values = {i.get_any_name(): openvino.Tensor(feeds[i.get_any_name()]) for i in compiled.inputs}
    run = lambda: request.infer(values, share_inputs=True, share_outputs=True)  # noqa: E731
    return median_us(run, threads, seconds, time.process_time if threads == 1 else None)


def copy_us(size: int, threads: int, seconds: float) -> float:
    a, b = (torch.zeros(size // 2, dtype=torch.uint8) for _ in range(2))
    return median_us(lambda: b.copy_(a), threads, seconds)


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--threads", type=int, default=1)
    p.add_argument("--only", default="")
    p.add_argument("--seconds", type=float, default=0.3)
    args = p.parse_args()
    torch.set_num_threads(args.threads)
    print(f"torch {torch.__version__}, onnxruntime {onnxruntime.__version__}, {args.threads} threads")
    print("| what | kernels | Kiln us | torch us | ort us | openvino us | x | copy |\n|---|---|---|---|---|---|---|---|")
    for name, m, fn, size in (*rows(), *large(), *updates(), *order(), *attention()):
        if args.only and not any(part in name for part in args.only.split(",")):
            continue
        ours, kernels = kiln_us(m, args.threads)
        theirs = peers_us(m, fn, args.threads, args.seconds)
        copy = f"{copy_us(size, args.threads, args.seconds) / ours:.2f}" if size else ""
        text = [f"{theirs[k]:.0f}" if k in theirs else "" for k in ("torch", "ort", "openvino")]
        print(f"| {name} | {kernels} | {ours:.0f} | {' | '.join(text)} | {min(theirs.values()) / ours:.2f} | {copy} |", flush=True)


if __name__ == "__main__":
    main()
