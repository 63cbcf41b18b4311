#!/usr/bin/env python3
"""Whole models on a GPU beside PyTorch, in one run: medians of the device's time, time to the first answer, and what each kernel takes.

    gpu_models.py [--only TEXT] [--device cuda:0] [--peer none|eager|graph] [--profile FOLDER] [--tune SECONDS]

Weights are random and the same for both. Kiln's time is that of a run on the device, which kilnd reports, with inputs and outputs in device
buffers; PyTorch's is that of one replay of a CUDA graph of what torch.compile made (and of the eager module), between two events. Both take
turns. "first" is from submitting the model to the first answer of a daemon with empty caches (the driver's cache too), "again" the
same after a restart with the cache. A difference is the largest one beside the largest value. --profile writes a table of the kernels of each model.
"""
import argparse
import os
import statistics
import sys
import tempfile
import time

import ml_dtypes
import numpy as np

sys.path[:0] = [os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", part) for part in ("", "model", "bench")]
import kiln
import serving
from gpu_bench import event_us, run_us
from kiln import _codec

ROUNDS, TURNS = 20, 3
TOLERANCE = 3e-2  # of f16 and bf16 through dozens of layers


class Onnx:
    """A model of models.py in f16."""

    def __init__(self, make, feeds):
        self.make, self.feeds = make, feeds

    def build(self):
        import models
        self.model = models.half(self.make(models))
        self.inputs = {k: v.astype(np.float16) if v.dtype == np.float32 else v for k, v in self.feeds(models).items()}

    def submit(self):
        return self.model

    def weights(self):
        return {}

    def torch(self, torch):
        import torch_graph
        module = torch_graph.Module(self.model)
        module.values = {k: v.cuda() if torch.is_tensor(v) else v for k, v in module.values.items()}
        return lambda *x: module.forward(*x)[0], [torch.from_numpy(v).cuda() for v in self.inputs.values()]


class Decode:
    """A step of a decoder of the shape of Llama 3.2 1B: weights and caches are bf16 and stay on the device, one token at a place."""

    def __init__(self, layers=16, width=2048, heads=32, groups=8, hidden=8192, vocab=128256, context=1024, place=512):
        self.size = layers, width, heads, groups, hidden, vocab, context
        self.place = place

    def build(self):
        layers, width, heads, groups, hidden, vocab, context = self.size
        rng, each = np.random.default_rng(0), width // heads
        numbers = rng.standard_normal(1 << 22, np.float32)

        def matrix(*shape):  # 2.5 GB of different numbers would take longer to draw than all the rest
            begin = int(rng.integers(0, 1 << 21))
            return np.resize((numbers[begin:] * np.float32(shape[-1] ** -0.5)).astype(ml_dtypes.bfloat16), shape)

        self.arrays = {"words": matrix(vocab, width), "norm": np.ones(width, ml_dtypes.bfloat16)}
        for k in range(layers):
            shapes = {"q": (width, width), "k": (groups * each, width), "v": (groups * each, width), "o": (width, width),
                      "gate": (hidden, width), "up": (hidden, width), "down": (width, hidden)}
            self.arrays.update({f"{n}{k}": matrix(*s) for n, s in shapes.items()})
            self.arrays.update({f"{n}{k}": np.ones(width, ml_dtypes.bfloat16) for n in ("before", "after")})
        angle = np.arange(context)[:, None] * (500000.0 ** (-np.arange(0, each, 2) / each))
        self.arrays["cos"], self.arrays["sin"] = np.cos(angle).astype(np.float32), np.sin(angle).astype(np.float32)
        self.inputs = {"token": np.array([17], np.int64), "place": np.array(self.place, np.int64)}

    def submit(self):
        layers, width, heads, groups, hidden, vocab, context = self.size
        each, g = width // heads, kiln.Graph()
        token, place = g.param("token", "i64", (1,)), g.param("place", "i64", ())
        at = g.size_of(place, max=context - 1)
        w = {n: g.param(n, "f32" if n in ("cos", "sin") else "bf16", a.shape) for n, a in self.arrays.items()}
        cos, sin = (g.gather(w[n], place.reshape(1)) for n in ("cos", "sin"))

        def norm(x, scale):
            y = x.cast("f32")
            return (y / g.sqrt((y * y).mean(-1, keepdims=True) + 1e-5)).cast("bf16") * scale

        def linear(x, name):
            return x @ w[name].T

        def turn(x, n):
            y = x.cast("f32").reshape(n, 2, each // 2)
            a, b = (g.shrink(y, [(0, n), (i, i + 1), (0, each // 2)]).reshape(n, each // 2) for i in (0, 1))
            return g.cat([a * cos - b * sin, b * cos + a * sin], axis=1).cast("bf16")

        x = g.gather(w["words"], token)
        for k in range(layers):
            h = norm(x, w[f"before{k}"])
            q = turn(linear(h, f"q{k}").reshape(heads, each), heads).reshape(groups, heads // groups, each)
            new = [turn(linear(h, f"k{k}").reshape(groups, each), groups), linear(h, f"v{k}").reshape(groups, each)]
            seen = []
            for name, value in zip(("keys", "values"), new):
                cache = g.param(f"{name}{k}", "bf16", (groups, context, each), state=True)
                g.assign(g.shrink(cache, [(0, groups), (at, at + 1), (0, each)]), value.reshape(groups, 1, each))
                seen.append(g.shrink(cache, [(0, groups), (0, at + 1), (0, each)]))
            scores = (q @ g.permute(seen[0], [0, 2, 1])).cast("f32") * float(each ** -0.5)
            y = (g.softmax(scores, axis=2).cast("bf16") @ seen[1]).reshape(1, width)
            x = x + linear(y, f"o{k}")
            h = norm(x, w[f"after{k}"])
            gate = linear(h, f"gate{k}").cast("f32")
            x = x + linear(((gate * g.sigmoid(gate)).cast("bf16") * linear(h, f"up{k}")), f"down{k}")
        g.output("logits", linear(norm(x, w["norm"]), "words"))
        return g

    def weights(self):
        return self.arrays

    def torch(self, torch):
        layers, width, heads, groups, hidden, vocab, context = self.size
        each, F = width // heads, torch.nn.functional
        bf16 = torch.bfloat16
        w = {n: torch.from_numpy(a.view(np.int16)).cuda().view(bf16) if a.dtype != np.float32 else torch.from_numpy(a).cuda() for n, a in self.arrays.items()}
        caches = [[torch.zeros(1, groups, context, each, dtype=bf16, device="cuda") for _ in range(2)] for _ in range(layers)]
        places = torch.arange(context, device="cuda")

        def turn(x, cos, sin):
            a, b = x.float().chunk(2, -1)
            return torch.cat([a * cos - b * sin, b * cos + a * sin], -1).to(bf16)

        def step(token, place):
            x = F.embedding(token, w["words"])
            cos, sin = (w[n].index_select(0, place.view(1)) for n in ("cos", "sin"))
            mask = (places <= place)[None, None, None]
            for k, cache in enumerate(caches):
                h = F.rms_norm(x, (width,), w[f"before{k}"], 1e-5)
                q = turn(F.linear(h, w[f"q{k}"]).view(1, heads, 1, each), cos, sin)
                new = [turn(F.linear(h, w[f"k{k}"]).view(1, groups, 1, each), cos, sin), F.linear(h, w[f"v{k}"]).view(1, groups, 1, each)]
                for c, n in zip(cache, new):
                    c.index_copy_(2, place.view(1), n)
                y = F.scaled_dot_product_attention(q, *cache, attn_mask=mask, enable_gqa=True)
                x = x + F.linear(y.reshape(1, width), w[f"o{k}"])
                h = F.rms_norm(x, (width,), w[f"after{k}"], 1e-5)
                x = x + F.linear(F.silu(F.linear(h, w[f"gate{k}"])) * F.linear(h, w[f"up{k}"]), w[f"down{k}"])
            return F.linear(F.rms_norm(x, (width,), w["norm"], 1e-5), w["words"])

        return step, [torch.from_numpy(v).cuda() for v in self.inputs.values()]


ids = lambda m: {"ids": m.token_ids()}
CASES = {
    "GPT-2 small T=128 f16": Onnx(lambda m: m.gpt2(), ids),
    "BERT-base T=128 f16": Onnx(lambda m: m.bert_base(), ids),
    "ResNet-50 batch 1 f16": Onnx(lambda m: m.dense("resnet50"), lambda m: {m.light_input("resnet50")[0]: np.random.default_rng(0).standard_normal((1, 3, 224, 224)).astype(np.float32)}),
    "Llama-3.2-1B decode bf16": Decode(),
}
WRONG = []


class Peer:
    """PyTorch, eager and as a CUDA graph of the compiled module."""

    def __init__(self, case, kind):
        import torch
        self.torch, self.times = torch, {"eager": [], "graph": []}
        self.call, self.inputs = case.torch(torch)
        with torch.no_grad():
            self.answer = self.call(*self.inputs).float().cpu().numpy()
            self.graph = None
            if kind == "graph":
                began = time.perf_counter()
                compiled, side = self.compiled(torch), torch.cuda.Stream()
                with torch.cuda.stream(side):
                    for _ in range(3):
                        compiled(*self.inputs)
                torch.cuda.synchronize()
                self.graph = torch.cuda.CUDAGraph()
                with torch.cuda.graph(self.graph, stream=side):
                    compiled(*self.inputs)
                self.first = time.perf_counter() - began

    def compiled(self, torch):
        """Its patterns for attention fail on some models; without them it is still what PyTorch can do."""
        for options in (None, {"pattern_matcher": False}):
            torch._dynamo.reset()
            compiled = torch.compile(self.call, dynamic=False, options=options)
            try:
                compiled(*self.inputs)
                return compiled
            except RuntimeError as e:
                error = e
        raise error

    def turn(self):
        with self.torch.no_grad():
            if self.graph:
                self._time("graph", self.graph.replay)
            self._time("eager", lambda: self.call(*self.inputs))

    def _time(self, what, call):
        call()
        self.times[what] += [event_us(call) for _ in range(ROUNDS)]

    def us(self, what):
        return statistics.median(self.times[what]) if self.times[what] else None


def take_turn(client, exe, inputs, times):
    request = _codec.run_request(exe.executable_id, inputs, "buffers", exe.inputs)
    times += [run_us(client, exe, request) for _ in range(ROUNDS + 3)][3:]


def first_answer(client, case, options):
    """(executable, its inputs, seconds to the first answer, the answer); weights are uploaded before the clock starts."""
    inputs = {k: client.upload(v, device=options.device) for k, v in case.weights().items()}
    client.server_info()
    model = case.submit()
    began = time.perf_counter()
    exe = client.compile(model, options=options)
    compiled = time.perf_counter() - began
    inputs.update(exe.state() if hasattr(case, "place") else {})
    answer = next(iter(exe.run({**inputs, **case.inputs}).values()))
    took = time.perf_counter() - began
    inputs.update({k: client.upload(v, device=options.device) for k, v in case.inputs.items()})
    return exe, inputs, (took, compiled), answer


def profile(client, exe, inputs, path):
    """The calls of each kernel, those that take most time first: the least time of a call that was waited for, beside its roofline."""
    request = _codec.run_request(exe.executable_id, inputs, "buffers", exe.inputs)
    request.profile = True
    runs = []
    for _ in range(8):
        response = client._stub.Run(request)
        runs.append(response.profile.call_ns)
        for b in _codec.run_outputs(response, exe.outputs, lambda *a: kiln.Buffer(client, *a)).values():
            b.free()
    least = np.array(runs[1:]).min(0) / 1000
    explained = client._stub.Explain(_codec.kiln_pb2.ExplainRequest(executable=exe.executable_id)).kernels
    rows = sorted(((sum(least[c] for c in k.calls), len(k.calls) - k.once, k) for k in explained), key=lambda r: -r[0])
    with open(path, "w") as f:
        f.write(f"{sum(least):.0f} us in {sum(r[1] for r in rows)} calls of {len(rows)} kernels, each waited for\n")
        for total, calls, k in rows:
            each = total / max(calls, 1)
            f.write(f"{total:9.1f} us {calls:4} x {each:7.1f} us, roofline {k.roofline_ns / 1000:6.1f}, {k.flops / 1e6:9.1f} MFLOP, "
                    f"{(k.bytes_read + k.bytes_written) / 1e6:7.2f} MB  {k.name} [{k.shape}] {k.source}: {k.opts}\n")


def us(value):
    return "-" if value is None else f"{value:.0f} us"


def measure(args, name, case, peer):
    options = kiln.Options(device=args.device)
    with tempfile.TemporaryDirectory() as cache:
        env, config = {"CUDA_CACHE_PATH": cache}, f"[workers]\ndevice = {args.device}\n[tuning]\nbackground = off\n"
        with serving.Server(config=config, env=env) as server:
            with kiln.connect(server.target) as client:
                exe, inputs, first, answer = first_answer(client, case, options)
                tuned = exe.tune(args.tune) if args.tune else None
                times = []
                for _ in range(TURNS):
                    take_turn(client, exe, inputs, times)
                    if peer:
                        peer.turn()
                report = exe.report()
                if args.profile:
                    profile(client, exe, {**inputs}, os.path.join(args.profile, name.split()[0] + ".txt"))
            server.restart()
            with kiln.connect(server.target) as client:
                _, _, again, answer_again = first_answer(client, case, options)
    ours, error = statistics.median(times), 0.0
    if peer:
        answer = answer.astype(np.float32).reshape(peer.answer.shape)
        error = float(np.abs(answer - peer.answer).max() / np.abs(peer.answer).max())
        if not error <= TOLERANCE:
            WRONG.append(name)
    if not np.array_equal(answer.astype(np.float32).ravel(), answer_again.astype(np.float32).ravel()) and not tuned:
        WRONG.append(f"{name}, after a restart")
    eager, graph = (peer.us("eager"), peer.us("graph")) if peer else (None, None)
    ratio = f"{graph / ours:.2f}x" if graph else "-"
    print(f"| {name} | {us(ours)} | {us(graph)} | {us(eager)} | {ratio} | {first[0]:.2f} s ({first[1]:.2f}) | {again[0]:.2f} s ({again[1]:.2f}) "
          f"| {peer.first if peer and peer.graph else 0:.1f} s | {report['kernels']} | {error:.1e} |", flush=True)
    if tuned:
        print(f"  tuned: {tuned}", flush=True)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--only", default="")
    p.add_argument("--device", default="cuda:0")
    p.add_argument("--peer", default="graph", choices=("none", "eager", "graph"))
    p.add_argument("--profile", default="")
    p.add_argument("--tune", type=float, default=0)
    args = p.parse_args()
    print("| model | Kiln | compiled, CUDA graph | eager | ratio | first (compile) | again (compile) | PyTorch's first | kernels | difference |\n" + "|---" * 10 + "|")
    for name, case in CASES.items():
        if any(part in name for part in args.only.split(",")):
            try:
                case.build()
                measure(args, name, case, Peer(case, args.peer) if args.peer != "none" else None)
            except (kiln.Error, RuntimeError) as e:
                print(f"| {name} | {str(e)[:600]} |", flush=True)
                WRONG.append(name)
    if WRONG:
        sys.exit(f"wrong or not run: {', '.join(WRONG)}")


if __name__ == "__main__":
    main()
