#!/usr/bin/env python3
"""Elementary functions of f32 at all 2^32 arguments beside f64.

    exhaustive.py [FUNCTION...] [--device cuda:0] [--every N]        functions: exp log sin cos tanh erf atan (all)

The arguments are made on the device from the number of their block; PyTorch's f64 functions, on the GPU if there is one, are the reference.
An error counts in units in the last place of the f32 next to the exact value (subnormals have the smallest one); what is beyond the
largest f32 counts as 2^128. NaN, infinities and the signs of zeros have to be those of the reference. Fails above what docs/numerics.md
promises. --every: every N-th block alone, for devices that take longer.
"""
import argparse
import concurrent.futures
import os
import sys
import time

import numpy as np
import torch

sys.path[:0] = [os.path.join(os.path.dirname(os.path.abspath(__file__)), "..")]
import kiln
import serving

FUNCTIONS = ("exp", "log", "sin", "cos", "tanh", "erf", "atan")
PROMISED = 2.0  # docs/numerics.md
AHEAD = 3       # blocks on their way while one is compared


def compiled(client, name, block, device):
    g = kiln.Graph()
    bits = g.arange(block, "u32") + g.param("first", "u32", (1,))
    g.output("y", getattr(g, name)(g.bitcast(bits, "f32")))
    return client.compile(g, options=kiln.Options(device=device))


def arguments(first, block, where):
    begin = first - (1 << 32) if first >= 1 << 31 else first
    return torch.arange(begin, begin + block, dtype=torch.int64, device=where).to(torch.int32).view(torch.float32)


def errors(got, want):
    """(the errors of f32 numbers in units, where they are of another kind) beside f64 ones"""
    edge = 2.0**128
    unit = torch.ldexp(torch.ones_like(want), torch.clamp(torch.frexp(want.clamp(-edge / 2, edge / 2)).exponent - 24, min=-149))
    unit = torch.where(want == 0, torch.full_like(unit, 2.0**-149), unit)
    off = (got.double().clamp(-edge, edge) - want.clamp(-edge, edge)).abs() / unit
    other = (got.isnan() != want.isnan()) | (want.isinf() & (got.double() != want)) | ((want == 0) & (got == 0) & (got.signbit() != want.signbit()))
    return torch.nan_to_num(off, nan=0.0), other


def check(client, name, args, where):
    """Prints the largest error and where it is; whether it is as promised."""
    began, exe = time.monotonic(), compiled(client, name, args.block, args.device)
    worst, at, others, other_at, compared = -1.0, 0.0, 0, None, 0
    firsts = range(0, 1 << 32, args.block * args.every)
    with concurrent.futures.ThreadPoolExecutor(AHEAD) as pool:
        def run(first):
            return exe.run({"first": np.array([first], np.uint32)})["y"]
        waiting = [pool.submit(run, first) for first in firsts[:AHEAD]]
        for k, first in enumerate(firsts):
            got = torch.from_numpy(waiting.pop(0).result()).to(where)
            if k + AHEAD < len(firsts):
                waiting.append(pool.submit(run, firsts[k + AHEAD]))
            x = arguments(first, args.block, where)
            off, other = errors(got, getattr(torch, name)(x.double()))
            largest, i = off.max(0)
            compared += args.block
            if float(largest) > worst:
                worst, at = float(largest), float(x[i])
            if bool(other.any()):
                others += int(other.sum())
                other_at = float(x[other][0]) if other_at is None else other_at
    good = compared > 0 and worst <= PROMISED and not others
    strange = f", {others} of another kind, first at {other_at!r}" if others else ""
    print(f"| {name} | {compared} arguments | largest error {worst:.4f} units at {at!r} ({np.float32(at).view(np.uint32):#010x}){strange} "
          f"| {time.monotonic() - began:.1f} s | {'' if good else 'FAILED'} |", flush=True)
    return good


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("functions", nargs="*", default=FUNCTIONS)
    p.add_argument("--device", default="cuda:0")
    p.add_argument("--every", type=int, default=1)
    p.add_argument("--block", type=int, default=1 << 25)
    args = p.parse_args()
    unknown = [f for f in args.functions if f not in FUNCTIONS]
    if unknown:
        p.error(f"no function {unknown[0]}; there are {', '.join(FUNCTIONS)}")
    where = "cuda" if torch.cuda.is_available() else "cpu"
    with serving.Server(config=f"[workers]\ndevice = {args.device}\n[tuning]\nbackground = off\n") as server, kiln.connect(server.target) as client:
        wrong = [name for name in args.functions if not check(client, name, args, where)]
    if wrong:
        sys.exit(f"not as promised: {', '.join(wrong)}")
    print(f"{len(args.functions)} functions within {PROMISED:g} units")


if __name__ == "__main__":
    main()
