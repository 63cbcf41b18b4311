#!/usr/bin/env python3
"""Fits the polynomials of compiler/rules/transcend.c and writes compiler/rules/transcend_tables.h.

Each polynomial approximates f on [a, b] so that the largest weighted error is least: the exchange
algorithm of Remez, in 60 digits (needs mpmath). Coefficients are then rounded to the format, all at
once or one at a time with the rest fitted again to what is left; the best is kept. The error in the comment of each table is that of the rounded polynomial,
relative to the value of the function it is a part of.

Run: python3 compiler/rules/tool/fit.py > compiler/rules/transcend_tables.h
"""
import functools
import sys

import mpmath as mp

mp.mp.dps = 60


def round_to(x, fmt):
    """x as the nearest number of the format."""
    if fmt == "f64":
        return mp.mpf(float(x))
    m, e = mp.frexp(x)
    scaled = mp.ldexp(m, 24)
    return mp.ldexp(mp.nint(scaled), e - 24) if x else mp.mpf(0)


def solve(f, w, powers, points):
    n = len(powers)
    a, b = mp.matrix(n + 1, n + 1), mp.matrix(n + 1, 1)
    for i, x in enumerate(points):
        for j, p in enumerate(powers):
            a[i, j] = x**p
        a[i, n] = (-1) ** i / w(x)
        b[i] = f(x)
    s = mp.lu_solve(a, b)
    return [s[j] for j in range(n)]


def poly(c, powers, x):
    return mp.fsum(k * x**p for k, p in zip(c, powers))


def remez(f, w, powers, lo, hi):
    n = len(powers) + 1
    points = [(lo + hi) / 2 - (hi - lo) / 2 * mp.cos(mp.pi * (2 * i + 1) / (2 * n)) for i in range(n)]
    grid = [(lo + hi) / 2 - (hi - lo) / 2 * mp.cos(mp.pi * i / 400) for i in range(401)]
    for _ in range(30):
        c = solve(f, w, powers, points)
        err = [w(x) * (f(x) - poly(c, powers, x)) for x in grid]
        runs, start = [], 0
        for i in range(1, len(grid) + 1):  # the largest error between sign changes
            if i == len(grid) or (err[i] > 0) != (err[start] > 0):
                runs.append(max(range(start, i), key=lambda k: abs(err[k])))
                start = i
        while len(runs) > n:
            runs.pop(0 if abs(err[runs[0]]) < abs(err[runs[-1]]) else -1)
        worst = max(abs(e) for e in err)
        if len(runs) < n:
            return c, worst
        done = worst - min(abs(err[k]) for k in runs) < worst * mp.mpf("1e-3")
        points = [grid[k] for k in runs]
        if done:
            break
    return c, worst


def fit(f, w, n, lo, hi, fmt):
    """The best rounded coefficients found, and the largest weighted errors with and without rounding."""
    f, w = functools.cache(f), functools.cache(w)
    free, best = remez(f, w, list(range(n)), lo, hi)
    grid = [lo + (hi - lo) * i / 500 for i in range(501)]
    found = None
    for order in ([], range(n), range(n - 1, -1, -1)):
        fixed = {}
        for i in order:
            left = [j for j in range(n) if j not in fixed]
            rest = lambda x: f(x) - mp.fsum(k * x**j for j, k in fixed.items())
            c, _ = remez(rest, w, left, lo, hi)
            fixed[i] = round_to(c[left.index(i)], fmt)
        c = [fixed[i] for i in range(n)] if fixed else [round_to(k, fmt) for k in free]
        err = max(abs(w(x) * (f(x) - poly(c, range(n), x))) for x in grid)
        if found is None or err < found[1]:
            found = (c, err)
    return found[0], found[1], best


def emit(name, fmt, what, f, w, n, lo, hi, round_as=None):
    c, err, best = fit(f, w, n, mp.mpf(lo), mp.mpf(hi), round_as or fmt)
    bits = lambda e: f"2^{float(mp.log(e, 2)):.1f}"
    print(f"{name} {fmt}: {bits(err)}, unrounded {bits(best)}", file=sys.stderr)
    print(f"/* {what}; error 2^{float(mp.log(err, 2)):.1f} */")
    print(f"static const double {name}_{fmt}[] = {{")
    for k in c:
        print(f"    {float(k).hex()},")
    print("};")


ONE = lambda x: mp.mpf(1)
EPS = mp.mpf("1e-18")  # keeps 0/0 away; far below any node

SOFT = mp.mpf("1e-3")  # a weight that vanishes inside the interval would leave the exchange no room

# z = x*x in the odd and even functions
root = lambda z: mp.sqrt(z + EPS)


def tables(fmt):
    d = fmt == "f64"
    half = mp.log(2) / 2 + mp.mpf("1e-4")
    emit("exp_poly", fmt, "e^r = 1 + r + r^2 * p(r), |r| <= ln(2)/2",
         lambda r: (mp.exp(r) - 1 - r) / r**2 if abs(r) > 1e-25 else mp.mpf("0.5"),
         lambda r: (r**2 + SOFT) / mp.exp(r), 11 if d else 5, -half, half)
    emit("exp2_poly", fmt, "2^r = 1 + r * p(r), |r| <= 1/2",
         lambda r: (2**r - 1) / r if abs(r) > 1e-25 else mp.log(2),
         lambda r: mp.sqrt(r**2 + SOFT) / 2**r, 13 if d else 6, -0.5, 0.5)
    if not d:
        emit("exp2_wide", fmt, "2^r = 1 + r * p(r), |r| <= 1/2, for pow",
             lambda r: (2**r - 1) / r if abs(r) > 1e-25 else mp.log(2),
             lambda r: mp.sqrt(r**2 + SOFT) / 2**r, 8, -0.5, 0.5, "f64")
        emit("log_poly", fmt, "log(1 + f) = f - f^2/2 + f^3 * p(f), -1/3 <= f <= 1/3",
             lambda f: (mp.log(1 + f) - f + f**2 / 2) / f**3 if abs(f) > 1e-15 else mp.mpf(1) / 3,
             lambda f: (f**2 + SOFT) * (f / mp.log(1 + f) if abs(f) > 1e-15 else 1), 9, mp.mpf(-1) / 3, mp.mpf(1) / 3)
    # f32's pow works in f64, on short polynomials
    odd = lambda z: (mp.log((1 + root(z)) / (1 - root(z))) - 2 * root(z)) / root(z)**3
    emit("log_odd", fmt, "log((1 + s)/(1 - s)) = 2s + s * z * p(z), z = s^2, |s| <= 1/5", odd,
         lambda z: z / 2 + mp.mpf("1e-30"), 9 if d else 5, 0, 0.0401, "f64")
    quarter = (mp.pi / 4 + mp.mpf("1e-6"))**2
    emit("sin_poly", fmt, "sin(r) = r + r^3 * p(r^2), |r| <= pi/4",
         lambda z: (mp.sin(root(z)) - root(z)) / root(z)**3,
         lambda z: root(z)**3 / mp.sin(root(z)), 7 if d else 4, 0, quarter)
    emit("cos_poly", fmt, "cos(r) = 1 - r^2/2 + r^4 * p(r^2), |r| <= pi/4",
         lambda z: (mp.cos(root(z)) - 1 + (z + EPS) / 2) / (z + EPS)**2,
         lambda z: (z + EPS)**2 / mp.cos(root(z)), 7 if d else 3, 0, quarter)
    emit("tanh_poly", fmt, "tanh(x) = x + x^3 * p(x^2), |x| <= 5/8",
         lambda z: (mp.tanh(root(z)) - root(z)) / root(z)**3,
         lambda z: root(z)**3 / mp.tanh(root(z)), 12 if d else 6, 0, 0.391)
    edge, top = ("1", 6) if d else ("0.9", 4)
    emit("erf_poly", fmt, f"erf(x) = x + x * p(x^2), |x| <= {edge}",
         lambda z: mp.erf(root(z)) / root(z) - 1,
         lambda z: root(z) / mp.erf(root(z)), 14 if d else 6, 0, mp.mpf(edge)**2)
    emit("erfc_poly", fmt, f"erfc(x) = e^-p(x), {edge} <= x <= {top}; error relative to erf",
         lambda x: -mp.log(mp.erfc(x)), lambda x: mp.erfc(x) / mp.erf(x), 24 if d else 7, edge, top)
    emit("atan_poly", fmt, "atan(t) = t + t^3 * p(t^2), |t| <= 1/2",
         lambda z: (mp.atan(root(z)) - root(z)) / root(z)**3,
         lambda z: root(z)**3 / mp.atan(root(z)), 15 if d else 6, 0, "0.25001")


def cut(x, bits):
    """The first `bits` bits of x."""
    m, e = mp.frexp(x)
    return mp.ldexp(mp.floor(mp.ldexp(m, bits)), e - bits)


def pair(name, what, x, hi):
    """x as hi + lo, lo rounded to f64."""
    if what:
        print(f"/* {what} */")
    print(f"static const double {name}[] = {{{float(hi).hex()}, {float(x - hi).hex()}}};")


def constants():
    ln2, log2e, pi = mp.log(2), 1 / mp.log(2), mp.pi
    pair("ln2_f32", "ln(2), the first part short enough that n times it is exact", ln2, cut(ln2, 15))
    pair("ln2_f64", "", ln2, cut(ln2, 38))
    pair("log2e_f32", "log2(e)", log2e, round_to(log2e, "f32"))
    pair("log2e_f64", "", log2e, round_to(log2e, "f64"))
    pair("quarter_pi_f32", "pi/4", pi / 4, round_to(pi / 4, "f32"))
    pair("quarter_pi_f64", "", pi / 4, round_to(pi / 4, "f64"))
    pair("quarter_turn", "pi/2", pi / 2, round_to(pi / 2, "f64"))


def turns(name, step, count, parts, rescale):
    """2/pi * 2^b modulo 4, divided by 2^b, as so many doubles each, for b = 0, step, ..."""
    print(f"/* 2/pi less a multiple of 4 * 2^-b, for b = 0, {step}, ... {step * (count - 1)}; see transcend.c */")
    print(f"static const double {name}[][{parts}] = {{")
    with mp.workdps(500):
        for k in range(count):
            b = k * step
            x = mp.fmod(2 / mp.pi * mp.mpf(2)**b, 4) / mp.mpf(2)**(b - (512 if k >= rescale else 0))
            row = []
            for _ in range(parts):
                row.append(float(x))
                x -= mp.mpf(row[-1])
            print("    {" + ", ".join(v.hex() for v in row) + "},")
    print("};")


print("/* Written by compiler/rules/tool/fit.py; do not edit. Lowest power first. */")
print("#pragma once\n")
tables("f32")
tables("f64")
constants()
turns("turns_f32", 24, 5, 2, 99)
turns("turns_f64", 48, 21, 4, 10)
