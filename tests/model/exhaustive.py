#!/usr/bin/env python3
"""All 2^32 arguments of f32 of elementary functions on a device, beside the same functions in f64: the largest error of each.

    exhaustive.py [--device cuda:0] [--every N] [FUNCTION...]     default: exp tanh erf log sin cos atan; --every: each N-th block of 2^26 arguments

Everything but the maximum is computed on the device: arguments from their bits, the value in f64 by Kiln's own functions of f64, the difference in
units of the last place of f32 there, subnormals included. A NaN or an infinity where there is none, or none where there is one, is an error of 1e9.
The f64 values of a few thousand arguments are compared with numpy's, so that a wrong one shows. Fails above BOUND.
"""
import argparse
import os
import sys
import time

import numpy as np

sys.path[:0] = [os.path.join(os.path.dirname(os.path.abspath(__file__)), "..")]
import kiln
import serving

ROWS, COLS = 1 << 12, 1 << 14
BLOCK = ROWS * COLS
BOUND = 2  # docs/numerics.md
SAMPLE = 4096


def error(g, name, x):
    """f64, of the shape of the f32 node x: how many units of the last place the function is off there."""
    got, exact = getattr(g, name)(x), getattr(g, name)(x.cast("f64"))
    rounded = exact.cast("f32")
    exponent = g.bitcast(g.bitcast(rounded, "u32") & 0x7F800000, "f32")
    unit = g.maximum(exponent, 2.0 ** -126).cast("f64") * 2.0 ** -23
    off = abs(got.cast("f64") - exact) / unit
    finite, right = abs(rounded) <= 3.4028234663852886e38, g.cmpeq(got, rounded)
    strange = g.where(right | (g.isnan(got) & g.isnan(rounded)), g.const(0.0, "f64"), 1e9)
    return g.where(finite & (abs(got) <= 3.4028234663852886e38), off, strange)


def arguments(g, count):
    """f32[count]: those whose bits are the number `base` and what follows."""
    return g.bitcast(g.arange(count, "u32") + g.param("base", "u32", (1,)), "f32")


def check(client, device, name, every):
    options = kiln.Options(device=device)
    g = kiln.Graph()
    g.output("worst", error(g, name, arguments(g, BLOCK)).reshape((ROWS, COLS)).amax(1))
    worst_of_rows = client.compile(g, options=options)
    g = kiln.Graph()
    g.output("error", error(g, name, arguments(g, COLS)))
    errors = client.compile(g, options=options)
    worst, at, start = -1.0, 0, time.perf_counter()
    for base in range(0, 1 << 32, BLOCK * every):
        rows = worst_of_rows.run({"base": np.array([base], np.uint32)})["worst"]
        if rows.max() > worst:
            worst, at = float(rows.max()), base + int(rows.argmax()) * COLS
    at += int(errors.run({"base": np.array([at], np.uint32)})["error"].argmax())
    print(f"| {name} | {worst:.4f} | {np.uint32(at).view(np.float32)!r} ({at:#010x}) | {time.perf_counter() - start:.1f} s |", flush=True)
    return worst <= BOUND


def sample_f64(client, device, name):
    """Whether the f64 function agrees with numpy's, where numpy has it."""
    if not hasattr(np, name):
        return True
    with np.errstate(invalid="ignore"):
        x = np.random.default_rng(0).integers(0, 1 << 32, SAMPLE, np.uint32).view(np.float32).astype(np.float64)
    g = kiln.Graph()
    g.output("y", getattr(g, name)(g.param("x", "f64", (SAMPLE,))))
    got = client.compile(g, options=kiln.Options(device=device)).run({"x": x})["y"]
    with np.errstate(all="ignore"):
        return np.allclose(got, getattr(np, name)(x), rtol=1e-14, atol=0, equal_nan=True)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("functions", nargs="*", default=["exp", "tanh", "erf", "log", "sin", "cos", "atan"])
    p.add_argument("--device", default="cuda:0")
    p.add_argument("--every", type=int, default=1)
    args = p.parse_args()
    print("| function | largest error, units of the last place | at | |\n|---|---|---|---|")
    with serving.Server() as server, kiln.connect(server.target) as client:
        bad = [n for n in args.functions if not sample_f64(client, args.device, n)]
        if bad:
            sys.exit(f"in f64 not what numpy says: {', '.join(bad)}")
        bad = [n for n in args.functions if not check(client, args.device, n, args.every)]
    if bad:
        sys.exit(f"more than {BOUND} units of the last place: {', '.join(bad)}")


if __name__ == "__main__":
    main()
