"""Whole models beside the fastest of their peers: Kiln by its heuristic and tuned, ONNX Runtime, OpenVINO, PyTorch and torch.compile, in one run.

usage: reach.py [--models NAME,...] [--peers NAME,...] [--budget SECONDS] [--threads N] [--rounds N] [--json FILE]

Equal threads, the same inputs and the same random weights; the sides take turns, round after round, and each number is the median over all
rounds. What is tuned is compared with the peers' times taken after the tuning; the table shows those taken before it. Kiln's time is what its device worker measures for a run, as the others have no socket between them and their caller either. PyTorch
runs the ONNX graph node by node (torch_graph.py). Every side's first output is compared with ONNX Runtime's. A peer that is not installed, or
cannot run a model, is shown as "-" with the reason at the end. --budget 0 leaves the tuned column out.
"""
from __future__ import annotations

import argparse
import gc
import importlib.util
import json
import math
import os
import pathlib
import statistics
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent), str(HERE.parent / "model")]

import numpy as np

import kiln
import models
import serving

PAUSE_SECONDS = 0.05


def zoo() -> dict:
    """name: a function that makes (model bytes, feeds)."""
    def light(name):
        input_name, x = models.light_input(name)
        return models.dense(name), {input_name: np.random.default_rng(0).standard_normal(x.shape).astype(np.float32)}

    def image(make):
        return make(), {"x": np.random.default_rng(0).standard_normal((1, 3, 224, 224)).astype(np.float32)}
    noise = lambda *shape: np.random.default_rng(1).standard_normal(shape).astype(np.float32)
    found = {name: lambda name=name: light(name) for name in models.LIGHT}
    found["mobilenet_v2"] = lambda: image(models.mobilenet_v2)
    found["vit_b16"] = lambda: image(models.vit_b16)
    found["bert_base"] = lambda: (models.bert_base(), {"ids": models.token_ids()})
    found["gpt2"] = lambda: (models.gpt2(), {"ids": models.token_ids()})
    found["gpt2_decode"] = lambda: (models.gpt2_decode(), models.gpt2_decode_inputs())
    found["silero_vad"] = lambda: (models.silero_vad(), {"x": noise(1, 576), "h": np.zeros((1, 1, 128), np.float32),
                                                         "c": np.zeros((1, 1, 128), np.float32)})
    if importlib.util.find_spec("magika"):
        found["magika"] = lambda: (models.magika_path().read_bytes(), {"bytes": np.random.default_rng(2).integers(0, 256, (1, 2048)).astype(np.int32)})
    return found


# -- the peers: each makes a function that runs once and returns the first output -------------------

def onnxruntime_(model, feeds, threads):
    import onnxruntime
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads, options.log_severity_level = threads, 1, 3
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return lambda: session.run(None, feeds)[0]


def openvino_(model, feeds, threads):
    import openvino
    core = openvino.Core()
    compiled = core.compile_model(core.read_model(model), "CPU", {"INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1, "INFERENCE_PRECISION_HINT": "f32"})
    request, names = compiled.create_infer_request(), [i.get_any_name() for i in compiled.inputs]
    values = {n: openvino.Tensor(feeds[n]) for n in names}
    return lambda: request.infer(values, share_inputs=True, share_outputs=True)[compiled.outputs[0]]


def torch_(model, feeds, threads, compiled=False):
    import torch
    import torch_graph
    torch.set_num_threads(threads)
    module = torch_graph.Module(model).eval()
    args = [torch.from_numpy(feeds[n]) for n in module.inputs]
    run = torch.compile(module) if compiled else module

    def once():
        with torch.inference_mode():
            return run(*args)[0].numpy()
    once()
    return once


PEERS = {"onnxruntime": onnxruntime_, "openvino": openvino_, "torch": torch_, "torch.compile": lambda *a: torch_(*a, compiled=True)}


# -- measuring ------------------------------------------------------------------------------------

def times_ms(fn, seconds: float, least: int = 3) -> list[float]:
    fn()
    times, end = [], time.perf_counter() + seconds
    while len(times) < least or time.perf_counter() < end:
        start = time.perf_counter()
        fn()
        times.append((time.perf_counter() - start) * 1e3)
    return times


def device_times_ms(client, exe, feeds, seconds: float, least: int = 3) -> list[float]:
    from kiln import _codec
    request = _codec.run_request(exe.executable_id, feeds, None)
    client._stub.Run(request)
    times, end = [], time.perf_counter() + seconds
    while len(times) < least or time.perf_counter() < end:
        times.append(client._stub.Run(request).device_ns / 1e6)
    return times


def agrees(got: np.ndarray, want: np.ndarray) -> bool:
    scale = max(float(np.abs(want).max()), 1e-3)
    return got.shape == want.shape and float(np.abs(got - want).max()) <= 2e-3 * scale


def peers_of(name: str, model: bytes, feeds, want, args, notes: list[str]) -> dict:
    """Those that can run the model and agree, as functions."""
    runs = {}
    for peer in args.peers:
        try:
            runs[peer] = PEERS[peer](model, feeds, args.threads)
            if not agrees(np.asarray(runs[peer]()), want):
                raise ValueError("its answer differs")
        except Exception as e:  # noqa: BLE001: a peer that cannot is a row of the notes
            runs.pop(peer, None)
            notes.append(f"{name}: {peer}: {type(e).__name__}: {str(e).splitlines()[0][:120] if str(e) else ''}")
    return runs


def phase(client, exe, feeds, runs: dict, args) -> dict:
    """Medians of Kiln, as it is now, and of the peers, in turns."""
    times: dict[str, list[float]] = {side: [] for side in ("kiln", *runs)}
    for _ in range(args.rounds):
        for side in times:
            time.sleep(PAUSE_SECONDS)
            times[side] += device_times_ms(client, exe, feeds, args.seconds) if side == "kiln" else times_ms(runs[side], args.seconds)
    return {side: statistics.median(t) for side, t in times.items()}


def measure(client, name: str, make, args, notes: list[str]) -> dict:
    """Two phases, with the heuristic's schedules and tuned: each has its own times of the peers, since a machine changes while one tunes."""
    model, feeds = make()
    want = onnxruntime_(model, feeds, args.threads)()
    exe = client.compile(model)
    first = exe.outputs[0].name
    assert agrees(exe(feeds)[first], want), f"{name}: Kiln's answer differs"
    runs = peers_of(name, model, feeds, want, args, notes)
    found = {"heuristic": phase(client, exe, feeds, runs, args)}
    if args.budget:
        exe.tune(budget=args.budget)
        assert agrees(exe(feeds)[first], want), f"{name}: Kiln's answer differs after tuning"
        found["tuned"] = phase(client, exe, feeds, runs, args)
    exe.release()
    del runs
    gc.collect()
    return found


def ratio(times: dict) -> float:
    """Kiln's speed as a fraction of the fastest peer's."""
    return min((t for side, t in times.items() if side != "kiln"), default=math.nan) / times["kiln"]


def geomean(values) -> float:
    return math.exp(statistics.fmean(math.log(v) for v in values))


def machine(threads: int) -> str:
    cpu = next((line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), "?")
    load = os.getloadavg()[0]
    return f"{cpu}, {threads} threads, load before {load:.1f}, {time.strftime('%Y-%m-%d')}"


def main() -> None:
    all_models = zoo()
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--models", default=",".join(all_models))
    parser.add_argument("--peers", default=",".join(PEERS))
    parser.add_argument("--budget", type=float, default=60)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=0.7, help="of each side in each round")
    parser.add_argument("--json")
    args = parser.parse_args()
    args.peers = [p for p in args.peers.split(",") if p]
    notes: list[str] = []
    results = {}
    print(machine(args.threads) + "\n")
    print("| model | " + " | ".join(args.peers) + " | Kiln, heuristic | beside the fastest | Kiln, tuned | beside the fastest |")
    print("|---|" + "---|" * (len(args.peers) + 4), flush=True)
    with serving.Server() as server, kiln.connect(server.target) as client:
        for name in args.models.split(","):
            r = results[name] = measure(client, name, all_models[name], args, notes)
            cells = [f"{r['heuristic'][p]:.2f} ms" if p in r["heuristic"] else "-" for p in args.peers]
            for p in ("heuristic", "tuned"):
                cells += [f"{r[p]['kiln']:.2f} ms", f"{ratio(r[p]):.2f}x"] if p in r else ["-", "-"]
            print(f"| {name} | " + " | ".join(cells) + " |", flush=True)
    for p in ("heuristic", "tuned"):
        ratios = {n: ratio(r[p]) for n, r in results.items() if p in r and len(r[p]) > 1}
        if ratios:
            worst = min(ratios, key=ratios.get)
            print(f"\n{p}: {geomean(ratios.values()):.2f}x the fastest peer (geometric mean), lowest {worst} {ratios[worst]:.2f}x", flush=True)
    if notes:
        print("\nNot measured:\n" + "\n".join(f"- {n}" for n in notes))
    if args.json:
        pathlib.Path(args.json).write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
