#!/usr/bin/env python3
"""Elementary functions of f32 at all 2^32 arguments beside f64.

    exhaustive.py [FUNCTION...] [--device cuda:0] [--every N]        functions: exp log sin cos tanh erf atan (all)

Arguments, the function in f32 and in f64, and the largest error of each row of arguments are computed on the device, a block of rows at a time.
Of one row in each block the f64 values, and the errors made of them, are compared with numpy's. An error counts in units in the last place
of f32 where the exact value lies (of subnormals the smallest one); what is beyond the largest f32 counts as 2^128. NaN, infinities and the
signs of zeros have to be as in f64. Fails above what docs/numerics.md promises. --every: every N-th block alone, for slow devices.
"""
import argparse
import math
import os
import sys
import time

import numpy as np

sys.path[:0] = [os.path.join(os.path.dirname(os.path.abspath(__file__)), "..")]
import kiln
import serving

NUMPY = {"exp": np.exp, "log": np.log, "sin": np.sin, "cos": np.cos, "tanh": np.tanh, "erf": np.vectorize(math.erf, otypes=[np.float64]), "atan": np.arctan}
PROMISED, PROMISED_F64 = 2.0, 4.0  # units, docs/numerics.md
OTHER = 1e9                        # the error where a NaN, an infinity or a zero is missing or has the wrong sign
COLS = 1 << 13


def units(g, got, want):
    """The error of f32 numbers beside f64 ones."""
    def f64(v):
        return g.const(v, "f64")
    edge = f64(2.0**128)
    near, exact = (g.max(g.min(x, edge), g.neg(edge)) for x in (got.cast("f64"), want))
    power = g.bitcast(g.bitcast(exact, "u64") & g.const(0x7FF0000000000000, "u64"), "f64")
    unit = g.max(g.min(power, f64(2.0**127)), f64(2.0**-126)) * f64(2.0**-23)
    signs = g.cmpne((g.bitcast(got, "u32") >> 31).cast("u64"), g.bitcast(want, "u64") >> 63)
    zeros = g.cmpeq(got, g.const(0.0, "f32")) & g.cmpeq(want, f64(0.0))
    other = g.cmpne(g.isnan(got), g.isnan(want)) | g.isinf(want) & g.cmpne(got.cast("f64"), want) | zeros & signs
    return g.where(other, f64(OTHER), g.where(g.isnan(want), f64(0.0), g.abs(near - exact) / unit))


def graph(name, rows, whole):
    """The largest error of each row; or, whole, f32 values, f64 values and errors of all."""
    g = kiln.Graph()
    bits = g.iota("u32", (rows, COLS), 0) * g.const(COLS, "u32") + g.iota("u32", (rows, COLS), 1) + g.param("first", "u32", (1, 1))
    x = g.bitcast(bits, "f32")
    got, want = getattr(g, name)(x), getattr(g, name)(x.cast("f64"))
    off = units(g, got, want)
    outputs = {"got": got, "want": want, "off": off} if whole else {"most": off.amax(1)}
    for key, value in outputs.items():
        g.output(key, value)
    return g


def reference(name, first):
    with np.errstate(all="ignore"):
        return NUMPY[name](np.arange(first, first + COLS, dtype=np.uint32).view(np.float32).astype(np.float64))


def compared(name, first, row):
    """What is wrong with a row's f64 values or the errors that were made of them, or None."""
    got, want, off = (row[k].ravel() for k in ("got", "want", "off"))
    exact = reference(name, first)
    with np.errstate(all="ignore"):
        close = (np.abs(want - exact) <= (PROMISED_F64 + 1) * np.spacing(np.abs(exact))) | (want == exact) | (np.isnan(want) & np.isnan(exact))
        here = np.abs(np.clip(got.astype(np.float64), -2.0**128, 2.0**128) - np.clip(exact, -2.0**128, 2.0**128))
        here /= np.ldexp(1.0, np.clip(np.frexp(np.clip(exact, -2.0**127, 2.0**127))[1] - 1, -126, 127) - 23)
        same = (np.abs(here - off) <= 1e-3) | np.isnan(exact) | (off == OTHER)
    if not close.all():
        return f"f64 at bits {first + int(np.argmin(close)):#x}: {want[np.argmin(close)]!r}, numpy says {exact[np.argmin(close)]!r}"
    return None if same.all() else f"an error at bits {first + int(np.argmin(same)):#x}: {off[np.argmin(same)]}, by numpy {here[np.argmin(same)]}"


def check(client, name, args):
    """Prints the largest error and where it is; whether all is as promised."""
    began = time.monotonic()
    blocks, one = (client.compile(graph(name, rows, whole), options=kiln.Options(device=args.device)) for rows, whole in ((args.rows, False), (1, True)))

    def row_at(first):
        return one.run({"first": np.array([[first]], np.uint32)})
    size, worst, at, done, wrong = args.rows * COLS, -1.0, 0, 0, None
    for first in range(0, 1 << 32, size * args.every):
        most = blocks.run({"first": np.array([[first]], np.uint32)})["most"].ravel()
        k = int(np.argmax(most))
        if most[k] > worst:
            worst, at = float(most[k]), first + k * COLS
        sample = first + (first // size * 7 + 3) % args.rows * COLS
        wrong = wrong or compared(name, sample, row_at(sample))
        done += size
    row = row_at(at)
    at += int(np.argmax(row["off"]))
    x = np.array([at], np.uint32).view(np.float32)[0]
    good = worst <= PROMISED and float(row["off"].max()) == worst and not wrong
    what = "another kind of number" if worst == OTHER else f"largest error {worst:.4f} units"
    print(f"| {name} | {done} arguments | {what} at {x!r} ({at:#010x}): {row['got'].ravel()[at % COLS]!r}, f64 {row['want'].ravel()[at % COLS]!r} "
          f"| {time.monotonic() - began:.1f} s | {'' if good else 'FAILED '}{wrong or ''} |", flush=True)
    return good


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("functions", nargs="*", default=list(NUMPY))
    p.add_argument("--device", default="cuda:0")
    p.add_argument("--every", type=int, default=1)
    p.add_argument("--rows", type=int, default=1 << 14, help="of a block")
    args = p.parse_args()
    unknown = [f for f in args.functions if f not in NUMPY]
    if unknown:
        p.error(f"no function {unknown[0]}; there are {', '.join(NUMPY)}")
    with serving.Server(config=f"[workers]\ndevice = {args.device}\n[tuning]\nbackground = off\n") as server, kiln.connect(server.target) as client:
        wrong = [name for name in args.functions if not check(client, name, args)]
    if wrong:
        sys.exit(f"not as promised: {', '.join(wrong)}")
    print(f"{len(args.functions)} functions within {PROMISED:g} units")


if __name__ == "__main__":
    main()
