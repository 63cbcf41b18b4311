"""Random native graphs, compared with a numpy evaluation of every op.

    random_graphs.py [--seeds FIRST:END] [--jobs N] [--keep FOLDER] [--daemon] [--set sse2|avx2|opencl|cuda|gpu|nvidia|cuda-c|buffers8]

runs every graph by the interpreter, by the plan with its kernels interpreted after each stage of the compiler, and as machine code;
prints counts, and leaves a graph that differs, made as small as possible, in the folder: see test_graphs.py for the format.

A value is evaluated while its node is made, and carries a bound of the error that a correct implementation may have:
0 as long as every step is exactly representable, then what the roundings before it can amount to. Integers, bools and
exact floats have to be equal; ops that jump (comparisons, floor, casts to integers, indices) are only made from exact values.
An element whose bound is infinite (an overflow that a wider accumulator avoids) may be anything.
"""
import argparse
import math
import multiprocessing
import os
import sys
import time

import ml_dtypes
import numpy as np

sys.path[:0] = [os.path.dirname(os.path.abspath(__file__)), os.path.dirname(os.path.dirname(os.path.abspath(__file__)))]

import kiln
import kept_graphs
import serving
from kiln import _size
from onnx_suite import EvalRunner, RunError

MAX_RANK, MAX_ELEMENTS, MAX_LARGE = 5, 1500, 12000

FLOATS = {"f16": (10, -14, 65504.0), "bf16": (7, -126, float.fromhex("0x1.fep127")), "f32": (23, -126, float(np.finfo(np.float32).max)),
          "f64": (52, -1022, float(np.finfo(np.float64).max))}
NUMPY = {name: np.dtype(name) for name in ("bool",)}
NUMPY.update({f"{k}{b}": np.dtype(f"{n}{b}") for k, n in (("i", "int"), ("u", "uint")) for b in (8, 16, 32, 64)})
NUMPY.update({"f16": np.dtype(np.float16), "f32": np.dtype(np.float32), "f64": np.dtype(np.float64),
              "bf16": np.dtype(ml_dtypes.bfloat16)})
INTS = [d for d in NUMPY if d[0] in "iu"]
SMALL_FLOATS = {"f8e4m3fn": ml_dtypes.float8_e4m3fn, "f8e4m3fnuz": ml_dtypes.float8_e4m3fnuz, "f8e5m2": ml_dtypes.float8_e5m2,
                "f8e5m2fnuz": ml_dtypes.float8_e5m2fnuz, "f4e2m1": ml_dtypes.float4_e2m1fn}
SMALL_INTS = ["i4", "u4", "i2", "u2"]
LONG = np.longdouble


def eps(dtype):
    return 2.0 ** -FLOATS[dtype][0]


def tiny(dtype):
    mant, emin, _ = FLOATS[dtype]
    return 2.0 ** max(emin - mant, -1070)


def rounded(dtype, x):
    """x, in extended precision, to the nearest value of a float dtype, ties to even."""
    if dtype == "f64":
        return x.astype(np.float64)
    mant, emin, most = FLOATS[dtype]
    _, e = np.frexp(np.where(np.isfinite(x), x, 1))
    step = np.ldexp(LONG(1), np.maximum(e - 1, emin) - mant)
    with np.errstate(all="ignore"):
        r = np.where(np.isfinite(x), np.rint(x / step) * step, x)
    r = np.where(np.abs(r) > most, np.copysign(np.inf, x), r)
    return np.where(x == 0, x, r).astype(np.float64)


def product_error(dtype, p, x, ex, y, ey):
    """The error of the products p = x * y before they are summed: that of the operands, the sign of a zero, and what is below the normal numbers."""
    e = span(np.abs(x), ey) + span(np.abs(y), ex) + ex * ey
    low = (np.abs(p) < 2.0 ** (FLOATS[dtype][1] + 1)) & (p != rounded(dtype, p))
    return np.where(low | (p == 0) & (ex + ey > 0), e + tiny(dtype), e)


class V:
    """A node, its value and the bound of its error (None for integers and bools). Floats are held as float64."""

    def __init__(self, node, dtype, val, err=None):
        self.node, self.dtype, self.val = node, dtype, np.asarray(val)
        self.is_float = dtype in FLOATS
        if self.is_float:
            err = np.zeros(self.val.shape) if err is None else np.broadcast_to(err, self.val.shape)
            self.err = np.where(np.isnan(err), np.inf, err)
        else:
            assert self.val.dtype == NUMPY[dtype], (self.val.dtype, dtype)

    shape = property(lambda self: self.val.shape)
    rank = property(lambda self: self.val.ndim)
    dims = property(lambda self: self.node.shape)  # with the sizes that only a run knows
    static = property(lambda self: all(isinstance(d, int) for d in self.node.shape))
    exact = property(lambda self: not self.is_float or not self.err.any())


class Maker:
    """A graph under construction with the values of its nodes."""

    def __init__(self, seed, sizes=0):
        """sizes: another number draws other values and other sizes of the named dimensions, for the same graph if nothing depends on them."""
        self.r, self.values = np.random.default_rng(seed), np.random.default_rng((seed, sizes))
        self.large = seed % 16 == 15
        self.most = MAX_LARGE if self.large else MAX_ELEMENTS
        self.g, self.nodes, self.feeds, self.log = kiln.Graph(), [], {}, []
        self.named, self.lows = {}, {}  # Size -> its value in this run, and the least it may be
        for name in ("n", "m")[:1 + self.below(2)] if seed % 5 == 4 else ():
            low, multiple = self.one_of(((1, 1), (1, 1), (2, 1), (4, 1), (4, 4), (2, 2)))
            d = self.g.dim(name, low, self.one_of((20, 64, 2048)), multiple)
            self.named[d] = low + multiple * int(self.values.integers((20 - low) // multiple + 1))
            self.lows[d] = low

    def below(self, n):
        return int(self.r.integers(n))

    def one_of(self, items):
        return items[self.below(len(items))]

    def fits(self, *dims):
        """Whether shapes broadcast for every size, and to a shape small enough in this run."""
        rank, out = max(map(len, dims)), []
        for k in range(rank):
            at = {d[k - rank + len(d)] for d in dims if k - rank + len(d) >= 0} - {1}
            if len(at) > 1:
                return False
            out.append(self.number(at.pop()) if at else 1)
        return math.prod(out) <= self.most

    def number(self, d):
        """A dimension's value in this run."""
        if isinstance(d, int):
            return d
        total = 0
        for atoms, c in d._terms:
            for a in atoms:
                if a[0] == "dim":
                    c *= next(v for k, v in self.named.items() if k._terms[0][0][0] == a)
                else:
                    x, y = (self.number(_size.of_terms(t)) for t in a[1:])
                    c *= {"SIZE_FLOORDIV": lambda: x // y, "SIZE_MOD": lambda: x % y, "SIZE_MIN": lambda: min(x, y), "SIZE_MAX": lambda: max(x, y)}[a[0]]()
            total += c
        return total

    def numbers(self, dims):
        return tuple(self.number(d) for d in dims)

    def keep(self, v):
        if v is not None and v.rank <= MAX_RANK and v.val.size <= self.most:
            self.nodes.append(v)

    # -- leaves

    def shape(self):
        sizes = (1, 2, 3, 4, 5, 7, 8, 9, 12, 16, 17)
        dims = [self.one_of(sizes + (31, 32, 33, 64, 100, 257) * 2 if self.large else sizes) for _ in range(self.below(4))]
        if dims and not self.below(12):
            dims[self.below(len(dims))] = self.one_of((0, 1, 1))
        dims = [self.one_of(list(self.named)) if self.named and self.below(2) else d for d in dims]
        return tuple(dims) if math.prod(self.numbers(dims)) <= self.most else tuple(dims[:2])

    def data(self, dtype, shape):
        """Mostly small multiples of 1/4, of which sums and products are exact; now and then special values."""
        if dtype == "bool":
            return self.values.integers(0, 2, shape).astype(np.bool_)
        if dtype in INTS:
            info, small = np.iinfo(NUMPY[dtype]), self.below(4)
            lo, hi = (max(info.min, -8), 9) if small else (info.min, info.max)
            return self.values.integers(lo, hi, shape, dtype=NUMPY[dtype], endpoint=not small)
        kind = self.below(8)
        x = self.values.integers(-16, 17, shape) / 4 if kind else self.values.standard_normal(shape)
        if kind == 1 and x.size:
            for special in (np.inf, -np.inf, np.nan, -0.0, FLOATS[dtype][2], tiny(dtype)):
                x = np.where(self.values.random(shape) < 0.05, special, x)
        return rounded(dtype, np.asarray(x, LONG))

    def param(self, dtype=None, shape=None):
        dtype = dtype or self.one_of(["f32"] * 6 + ["f16", "bf16", "f64", "bool"] + INTS)
        shape = self.shape() if shape is None else shape
        val = np.asarray(self.data(dtype, self.numbers(shape)))
        array = val.astype(NUMPY[dtype])
        if self.below(4) or not all(isinstance(d, int) for d in shape):
            name = f"p{len(self.feeds)}"
            self.feeds[name] = array
            return V(self.g.param(name, dtype, shape), dtype, val)
        return V(self.g.constant(array), dtype, val)

    def const(self, dtype, value):
        val = np.asarray(value, LONG if dtype in FLOATS else NUMPY[dtype])
        return V(self.g.const(value, dtype), dtype, rounded(dtype, val) if dtype in FLOATS else val)

    def iota(self, _=None):
        dims, dtype = self.shape() or (3,), self.one_of(["f32", "f16", *INTS])
        axis, shape = self.below(len(dims)), self.numbers(dims)
        at = np.broadcast_to(np.arange(shape[axis]).reshape([-1 if k == axis else 1 for k in range(len(shape))]), shape)
        val = at.astype(np.float64) if dtype in FLOATS else at.astype(NUMPY[dtype])
        return V(self.g.iota(dtype, dims, axis), dtype, val)

    # -- rounding

    def floats(self, node, dtype, x, err, work=None, fresh=True):
        """The result of arithmetic: x in extended precision, err what its operands bring. work: the dtype of the steps."""
        with np.errstate(all="ignore"):
            val = rounded(dtype, x)
            exact = (val == x) & (err == 0) | np.isnan(x) | (np.isinf(x) & (err == 0))
            own = eps(dtype) * np.abs(val) + tiny(dtype)
            err = np.where(exact, err, err + own)
            near = np.abs(x) + err > 0.99 * FLOATS[dtype][2]
            err = np.where(near & ~((err == 0) & np.isinf(x)) & fresh, np.inf, err)
            err = np.where(np.isnan(x) & (err > 0), np.inf, err)
        return V(node, dtype, val, err)

    # -- movement: the value and its error move alike

    def moved(self, node, v, move):
        return V(node, v.dtype, move(v.val), move(v.err) if v.is_float else None)

    def reshape(self, v):
        if not v.static:
            return self.regroup(v)
        if not v.val.size:
            return None
        dims, left = [], v.val.size
        for _ in range(self.below(MAX_RANK)):
            fits = [d for d in (1, 2, 3, 4, 5, 6, 7, 8) if left % d == 0]
            dims.append(self.one_of(fits))
            left //= dims[-1]
        if left > 1 or not dims:
            dims.append(left)
        order = self.r.permutation(len(dims))
        dims = [dims[k] for k in order]
        return self.moved(self.g.reshape(v.node, dims), v, lambda a: a.reshape(dims))

    def regroup(self, v):
        """Neighbouring axes joined, axes of size 1 added, an axis split where that is certain to go."""
        dims, k = list(v.dims), self.below(v.rank + 1)
        kind = self.below(3)
        if kind == 0 and k + 1 < v.rank:
            dims[k:k + 2] = [dims[k] * dims[k + 1]]
        elif kind == 1 and k < v.rank:
            part = self.one_of((2, 3, 4))
            if _size.of_terms(_size.terms_of(dims[k] % part)) == 0:
                dims[k:k + 1] = self.one_of(([dims[k] // part, part], [part, dims[k] // part]))
        else:
            dims.insert(k, 1)
        shape = self.numbers(dims)
        return self.moved(self.g.reshape(v.node, dims), v, lambda a: a.reshape(shape))

    def permute(self, v):
        order = [int(k) for k in self.r.permutation(v.rank)]
        return self.moved(self.g.permute(v.node, order), v, lambda a: a.transpose(order))

    def expand(self, v):
        sizes = (1, 2, 3, 5, 8, *self.named)
        dims = [self.one_of(sizes) if d == 1 else d for d in v.dims]
        if self.below(3) == 0:
            dims = [self.one_of((1, 2, 4, *self.named)), *dims]
        shape = self.numbers(dims)
        if math.prod(shape) > self.most or len(dims) > MAX_RANK:
            return None
        return self.moved(self.g.expand(v.node, dims), v, lambda a: np.broadcast_to(a, shape))

    def pad(self, v):
        amounts = [(self.one_of((0, 0, 1, 2)), self.one_of((0, 0, 1, 3))) for _ in range(v.rank)]
        value = 1 if v.dtype == "bool" else self.one_of((0, 0, 1, 3))
        node = self.g.pad(v.node, amounts, value)
        out = V(node, v.dtype, np.pad(v.val, amounts, constant_values=v.val.dtype.type(value)) if v.rank else v.val)
        if v.is_float and v.rank:
            out.err = np.pad(v.err, amounts)
        elif v.is_float:
            out.err = v.err
        return out

    def shrink(self, v):
        bounds = []
        for d in v.dims:
            if not isinstance(d, int):
                low = self.lows.get(d, 0)
                lo = self.below(low + 1)
                bounds.append((lo, d - self.below(low - lo + 1)))
                continue
            lo = self.below(d + 1) if self.below(2) else 0
            hi = lo + self.below(d - lo + 1)
            bounds.append((lo, max(hi, min(lo + 1, d))) if self.below(20) else (lo, hi))
        at = tuple(slice(lo, self.number(hi)) for lo, hi in bounds)
        return self.moved(self.g.shrink(v.node, bounds), v, lambda a: a[at])

    def flip(self, v):
        axes = [k for k in range(v.rank) if self.below(2)]
        return self.moved(self.g.flip(v.node, axes), v, lambda a: np.flip(a, axes))

    def window(self, v):
        axis, size, stride, dilation = self.below(v.rank or 1), self.one_of((1, 2, 3)), self.one_of((1, 1, 2)), self.one_of((1, 1, 2))
        if not v.rank or v.rank >= MAX_RANK:
            return None
        least = v.dims[axis] if isinstance(v.dims[axis], int) else self.lows.get(v.dims[axis], 0)
        if (size - 1) * dilation >= least:
            return None
        out = (v.shape[axis] - dilation * (size - 1) - 1) // stride + 1
        at = np.arange(out)[:, None] * stride + np.arange(size)[None, :] * dilation
        return self.moved(self.g.window(v.node, axis, size, stride, dilation), v, lambda a: np.take(a, at, axis))

    def cat(self, v):
        if not v.rank:
            return None
        axis, parts = self.below(v.rank), [v]
        for u in self.nodes:
            same = u.dtype == v.dtype and u.rank == v.rank and all(
                a == b or k == axis for k, (a, b) in enumerate(zip(u.dims, v.dims)))
            if same and len(parts) < 4 and self.below(2):
                parts.insert(self.below(len(parts) + 1), u)
        node = self.g.cat([p.node for p in parts], axis)
        return V(node, v.dtype, np.concatenate([p.val for p in parts], axis),
                 np.concatenate([p.err for p in parts], axis) if v.is_float else None)

    def gather(self, v):
        indices = [u for u in self.nodes if u.dtype in INTS and u.rank + v.rank - 1 <= 4]
        if not v.rank:
            return None
        if indices and self.below(2):
            at = self.one_of(indices)
        else:
            axis_size = max(v.shape) if v.static else 6
            dtype, shape = self.one_of(INTS), self.one_of(((), (3,), (2, 4), (1,)))
            val = self.r.integers(-2 if dtype[0] == "i" else 0, axis_size + 2, shape).astype(NUMPY[dtype])
            at = V(self.g.constant(np.asarray(val)), dtype, np.asarray(val))
        axis = self.below(v.rank)
        n, index = v.shape[axis], at.val.astype(object)
        inside = np.asarray((index >= 0) & (index < n), bool)
        safe = np.where(inside, index, 0).astype(np.int64)
        mask = inside.reshape((1,) * axis + at.shape + (1,) * (v.rank - axis - 1))

        def move(a):
            if not n:
                return np.zeros(a.shape[:axis] + at.shape + a.shape[axis + 1:], a.dtype)
            return np.where(mask, np.take(a, safe, axis), a.dtype.type(0))

        return self.moved(self.g.gather(v.node, at.node, axis), v, move)

    def contiguous(self, v):
        return self.moved(self.g.contiguous(v.node), v, lambda a: a)

    # -- elementwise

    def partner(self, v, dtype=None):
        """Something that broadcasts with v."""
        dtype, fits = dtype or v.dtype, []
        for u in self.nodes:
            if u.dtype == dtype and self.fits(u.dims, v.dims):
                fits.append(u)
        if fits and self.below(8):
            return self.one_of(fits)
        if self.below(2):
            return self.param(dtype, tuple(self.plain(d) if self.below(3) else 1 for d in v.dims[self.below(v.rank + 1):]))
        return self.const(dtype, bool(self.below(2)) if dtype == "bool" else self.below(6))

    def plain(self, d):
        """What a parameter may have as a dimension."""
        return d if isinstance(d, int) or d in self.named else 1

    def binary(self, v):
        u = self.partner(v)
        a, b = (v, u) if self.below(2) else (u, v)
        if v.dtype == "bool":
            op, f = self.one_of((("and_", np.logical_and), ("or_", np.logical_or), ("xor", np.logical_xor),
                                 ("max", np.logical_or), ("min", np.logical_and)))
            return V(getattr(self.g, op)(a.node, b.node), "bool", f(a.val, b.val))
        return self.float_binary(a, b) if v.is_float else self.int_binary(a, b)

    def int_binary(self, a, b):
        op = self.one_of(("add", "sub", "mul", "div", "mod", "floordiv", "floormod", "max", "min", "and_", "or_", "xor", "shl", "shr"))
        dtype, bits = NUMPY[a.dtype], NUMPY[a.dtype].itemsize * 8
        big_a, big_b = a.val.astype(object), b.val.astype(object)

        def trunc(x, y):
            return 0 if y == 0 else abs(x) // abs(y) * (1 if (x < 0) == (y < 0) else -1)

        table = {
            "add": lambda x, y: x + y, "sub": lambda x, y: x - y, "mul": lambda x, y: x * y, "max": max, "min": min,
            "div": trunc, "mod": lambda x, y: 0 if y == 0 else x - y * trunc(x, y),
            "floordiv": lambda x, y: 0 if y == 0 else x // y, "floormod": lambda x, y: 0 if y == 0 else x % y,
            "and_": lambda x, y: x & y, "or_": lambda x, y: x | y, "xor": lambda x, y: x ^ y,
            "shl": lambda x, y: x << y if 0 <= y < bits else 0, "shr": lambda x, y: x >> (y if 0 <= y < bits else bits),
        }
        shape = np.broadcast_shapes(a.shape, b.shape)
        flat = [table[op](int(x), int(y)) for x, y in zip(np.broadcast_to(big_a, shape).ravel(), np.broadcast_to(big_b, shape).ravel())]
        val = np.array([wrapped(x, dtype) for x in flat], dtype).reshape(shape)
        return V(getattr(self.g, op)(a.node, b.node), a.dtype, val)

    def float_binary(self, a, b):
        ops = ["add", "sub", "mul", "add", "mul", "div", "max", "min"]
        op = self.one_of(ops + (["mod", "floordiv", "floormod", "pow"] if a.exact and b.exact else []))
        node, d = getattr(self.g, op)(a.node, b.node), a.dtype
        x, y, ex, ey = a.val.astype(LONG), b.val.astype(LONG), a.err, b.err
        with np.errstate(all="ignore"):
            if op in ("max", "min"):
                f = np.maximum if op == "max" else np.minimum
                err = np.where(np.isnan(x) | np.isnan(y), ex + ey, np.maximum(ex, ey))
                err = np.where((x == 0) & (y == 0) & (np.signbit(x) != np.signbit(y)), err + tiny(d), err)  # either zero
                return V(node, d, f(a.val, b.val), err)
            if op in ("add", "sub"):
                return self.floats(node, d, x + y if op == "add" else x - y, ex + ey)
            if op == "mul":
                err = span(np.abs(x), ey) + span(np.abs(y), ex) + ex * ey
                return self.floats(node, d, x * y, np.where((x * y == 0) & (ex + ey > 0), err + tiny(d), err))  # either zero
            if op == "div":
                low = np.abs(y) - ey
                err = np.where(ex + ey == 0, 0, np.where(low > 0, (ex + np.abs(x / y) * ey) / low, np.inf))
                return self.floats(node, d, x / y, err)
            if op == "mod":
                return V(node, d, np.fmod(x, y).astype(np.float64))
            if op == "pow":
                z = np.power(x, y)
                wild = (np.abs(z) > FLOATS[d][2] / 2) & np.isfinite(z)
                return V(node, d, rounded(d, z), np.where(wild, np.inf, 4 * eps(d) * np.abs(z) + tiny(d)))
            q = np.floor(rounded(d, x / y).astype(LONG))
            if op == "floordiv":
                return V(node, d, q.astype(np.float64))
            product = self.floats(None, d, y * q, np.zeros(()))
            return self.floats(node, d, x - product.val, product.err)

    def compare(self, v):
        u = self.partner(v)
        if not (v.exact and u.exact):
            return None
        op, f = self.one_of((("cmplt", np.less), ("cmple", np.less_equal), ("cmpeq", np.equal), ("cmpne", np.not_equal)))
        return V(getattr(self.g, op)(v.node, u.node), "bool", f(v.val, u.val))

    def where(self, v):
        c, u = self.partner(v, "bool"), self.partner(v)
        if not self.fits(c.dims, v.dims, u.dims):
            return None
        node = self.g.where(c.node, v.node, u.node)
        return V(node, v.dtype, np.where(c.val, v.val, u.val), np.where(c.val, v.err, u.err) if v.is_float else None)

    def unary(self, v):
        if v.dtype == "bool":
            return V(self.g.not_(v.node), "bool", ~v.val)
        op = self.one_of(("neg", "abs", "not_") if not v.is_float else ("neg", "abs", *SMOOTH, *(JUMPS if v.exact else ())))
        node = getattr(self.g, op)(v.node)
        if not v.is_float:
            f = {"neg": lambda x: -x, "abs": abs, "not_": lambda x: ~x}[op]
            flat = [wrapped(f(int(x)), NUMPY[v.dtype]) for x in v.val.ravel()]
            return V(node, v.dtype, np.array(flat, NUMPY[v.dtype]).reshape(v.shape))
        if op in ("neg", "abs"):
            return V(node, v.dtype, -v.val if op == "neg" else np.abs(v.val), v.err)
        with np.errstate(all="ignore"):
            if op in JUMPS:
                return V(node, v.dtype, JUMPS[op](v.val))
            x, d = v.val.astype(LONG), v.dtype
            f = SMOOTH[op]
            y = f(x)
            spread = np.maximum(np.abs(f(x + v.err) - y), np.abs(f(x - v.err) - y)) * 2
            err = np.where(np.isinf(v.err), np.inf, np.where(v.err > 0, spread, 0))
            if op not in ("sqrt", "recip"):
                special = np.isnan(y) | np.isinf(y)
                err = err + np.where(special, 0, 3 * eps(d) * np.abs(y) + tiny(d))
                if op in ("sin", "cos"):  # beyond what any argument of a model is
                    err = np.where((np.abs(x) > 1e4) & np.isfinite(x), np.inf, err)
            return self.floats(node, d, y, err)

    def cast(self, v):
        to = self.one_of(["f32", "f16", "bf16", "f64", "bool", *INTS])
        if to not in FLOATS and not v.exact:
            return None
        node = self.g.cast(v.node, to)
        with np.errstate(all="ignore"):
            if to == "bool":
                return V(node, to, v.val != 0)
            if to in FLOATS:
                x = v.val.astype(LONG)
                err = v.err if v.is_float else np.zeros(v.shape)
                out = rounded(to, x)
                inexact = (out != x) & ~np.isnan(x)
                return V(node, to, out, np.where(inexact & (err > 0), err + eps(to) * np.abs(out) + tiny(to), err))
            info = np.iinfo(NUMPY[to])
            if not v.is_float:
                val = [wrapped(int(x), NUMPY[to]) for x in v.val.ravel()]
            else:
                val = [0 if np.isnan(x) else info.max if x >= info.max else info.min if x <= info.min else int(x) for x in v.val.ravel()]
            return V(node, to, np.array(val, NUMPY[to]).reshape(v.shape))

    # -- reductions

    def reduce(self, v):
        axes = [k for k in range(v.rank) if self.below(2)]
        keep = bool(self.below(2))
        op = self.one_of(("amax", "amin") if v.dtype == "bool" else ("sum", "sum", "prod", "amax", "amin"))
        node, at = getattr(v.node, op)(axes, keepdims=keep), tuple(axes)
        with np.errstate(all="ignore"):
            if op in ("amax", "amin"):
                return self.extreme(node, v, op, at, keep)
            if not v.is_float:
                f = np.sum if op == "sum" else np.prod
                return V(node, v.dtype, f(v.val, axis=at, keepdims=keep, dtype=v.val.dtype) if axes else v.val)
            x, e = v.val.astype(LONG), v.err
            if op == "sum":
                return self.summed(node, v.dtype, x, e, at, keep)
            n = math.prod(v.shape[k] for k in axes)
            p = np.prod(x, axis=at, keepdims=keep) if axes else x
            size = np.prod(np.abs(x) + e, axis=at, keepdims=keep) if axes else np.abs(x) + e
            bits = np.prod(np.where(x == 0, 0.0, odd_part(x)), axis=at, keepdims=keep) if axes else np.zeros(p.shape)
            plain = np.abs(p) + size < 2.0**100
            err = np.where((e.max(initial=0) == 0) & (bits < 2.0**20) & plain, 0,
                           size - np.abs(p) + n * max(eps("f32" if v.dtype != "f64" else "f64"), 0) * size)
            partial = np.prod(np.maximum(np.abs(x) + e, 1), axis=at, keepdims=keep) if axes else np.abs(x)
            small = np.prod(np.minimum(np.abs(x), 1), axis=at, keepdims=keep) if axes else np.ones(p.shape)
            unsure = np.any(e > 0, axis=at, keepdims=keep) if axes else e > 0
            err = np.where((p == 0) & unsure, err + tiny(v.dtype), err)
            wild = (partial > 1e30) | ((small < 1e-30) & (p != 0)) | (small < 1e-30) & ~np.isfinite(partial)
            err = np.where(wild, np.inf, err)
            return self.floats(node, v.dtype, p, err)

    def summed(self, node, dtype, x, e, at, keep):
        s = np.sum(x, axis=at, keepdims=keep) if at else x
        size = np.sum(np.abs(x) + e, axis=at, keepdims=keep) if at else np.abs(x)
        own = np.sum(e, axis=at, keepdims=keep) if at else e
        n = math.prod(x.shape[k] for k in at) if at else 1
        work = "f64" if dtype == "f64" else "f32"
        whole = x * 2.0**12
        plain = not x.size or bool(np.all(np.isfinite(x) & (whole == np.rint(whole))))
        lost = np.where(plain & (size < 2.0**11), 0, min(n, 64 + n) * eps(work) * size) if n > 1 else 0
        err = own + np.where(np.isfinite(size), lost, 0)
        finite = np.where(np.isfinite(x), np.abs(x), 0)
        finite = np.sum(finite, axis=at, keepdims=keep) if at else finite
        minus = (x == 0) & np.signbit(x)
        err = np.where(np.all(minus, axis=at, keepdims=keep) if at else minus, err + tiny(dtype), err)  # -0, or 0 where a sum starts from it
        err = np.where(finite > FLOATS[work][2] / 8, np.inf, err)  # a step may overflow, even to the other side
        return self.floats(node, dtype, s, err)

    def extreme(self, node, v, op, at, keep):
        if not at:
            return V(node, v.dtype, v.val, v.err if v.is_float else None)
        if v.dtype == "bool":
            return V(node, "bool", (np.any if op == "amax" else np.all)(v.val, axis=at, keepdims=keep))
        f, d = np.max if op == "amax" else np.min, v.dtype
        low, high = (-np.inf, np.inf) if v.is_float else (np.iinfo(NUMPY[d]).min, np.iinfo(NUMPY[d]).max)
        empty = low if op == "amax" else high
        val = f(v.val, axis=at, keepdims=keep, initial=empty)
        if not v.is_float:
            return V(node, d, val)
        zero, sign = v.val == 0, np.signbit(v.val)
        both = np.any(zero & sign, axis=at, keepdims=keep) & np.any(zero & ~sign, axis=at, keepdims=keep)
        err = np.max(v.err, axis=at, keepdims=keep, initial=0)
        return V(node, d, val, np.where(both & (val == 0), err + tiny(d), err))

    # -- what models are made of

    def matmul(self, v):
        if v.rank < 1 or v.dtype == "bool":
            return None
        k, n = v.dims[-1], self.one_of((1, 2, 5, 8, 17, *self.named))
        fits = [u for u in self.nodes if u.dtype == v.dtype and u.rank >= 2 and u.dims[-2] == k and u.rank + v.rank <= 6]
        if not fits and self.plain(k) != k:
            return None
        u = self.one_of(fits) if fits and (self.below(4) or self.plain(k) != k) else self.param(v.dtype, self.one_of(((k,), (k, n), (k, n))))
        if not self.fits(v.dims[:-2], u.dims[:-2]):
            return None
        shape = np.matmul(np.empty(v.shape, bool), np.empty(u.shape, bool)).shape
        if math.prod(shape) * self.number(k) > 20 * self.most:
            return None
        node = self.g.matmul(v.node, u.node)
        if not v.is_float:
            return V(node, v.dtype, np.asarray(np.matmul(v.val, u.val)))
        a, b = v.val, u.val
        a = a[None, :] if v.rank == 1 else a
        b = b[:, None] if u.rank == 1 else b
        ea, eb = v.err.reshape(a.shape), u.err.reshape(b.shape)
        with np.errstate(all="ignore"):
            x, y = a[..., :, None, :].astype(LONG), np.swapaxes(b, -1, -2)[..., None, :, :].astype(LONG)
            ex, ey = ea[..., :, None, :], np.swapaxes(eb, -1, -2)[..., None, :, :]
            p = x * y
            e = product_error(v.dtype, p, x, ex, y, ey)
            out = self.summed(node, v.dtype, p, np.broadcast_to(e, p.shape), (p.ndim - 1,), False)
        return V(node, v.dtype, out.val.reshape(shape), out.err.reshape(shape))

    def softmax(self, v, axis=None):
        if not v.rank or not v.is_float or not v.val.size:
            return None
        axis, g = self.below(v.rank) if axis is None else axis, self
        top = g.extreme(v.node.amax(axis, keepdims=True), v, "amax", (axis,), True)
        with np.errstate(all="ignore"):
            diff = self.floats(self.g.sub(v.node, top.node), v.dtype, v.val.astype(LONG) - top.val, v.err + top.err)
            y = np.exp(diff.val.astype(LONG))
            e = self.floats(self.g.exp(diff.node), v.dtype, y, np.abs(y) * np.expm1(diff.err) + 3 * eps(v.dtype) * y + tiny(v.dtype))
            total = self.summed(e.node.sum(axis, keepdims=True), v.dtype, e.val.astype(LONG), e.err, (axis,), True)
            low = total.val - total.err
            q = e.val.astype(LONG) / total.val
            err = np.where(low > 0, (e.err + np.abs(q) * total.err) / low, np.inf)
            return self.floats(self.g.div(e.node, total.node), v.dtype, q, err)

    def attention(self, v):
        """softmax(q k^T) v over v as queries: with or without a mask of positions, on keys that broadcast."""
        if v.rank < 2 or v.dtype not in ("f32", "f64") or not v.val.size or not v.static or v.shape[-1] > 16 or v.shape[-2] > 40:
            return None
        n, d, w = self.one_of((1, 3, 8, 17, 24, 33)), v.shape[-1], self.one_of((1, 4, 8, 9))
        batch = tuple(self.one_of((1, b)) for b in v.shape[:-2]) if self.below(2) else ()
        if math.prod(v.shape) * n * (d + w) > 60 * self.most:
            return None
        k, u = self.param(v.dtype, (*batch, n, d)), self.param(v.dtype, (*batch, n, w))
        scores = self.dot(v, k.node.transpose(*range(len(batch)), len(batch) + 1, len(batch)), np.swapaxes(k.val, -1, -2), np.swapaxes(k.err, -1, -2))
        if self.below(2):
            i, j = (self.g.iota("i32", scores.shape, scores.rank - 2 + a) for a in range(2))
            seen = np.arange(n)[None, :] <= np.arange(v.shape[-2])[:, None]
            node = self.g.where(self.g.cmple(j, i), scores.node, self.g.const(float("-inf"), v.dtype))
            scores = V(node, v.dtype, np.where(seen, scores.val, -np.inf), np.where(seen, scores.err, 0))
        p = self.softmax(scores, scores.rank - 1)
        return self.dot(p, u.node, u.val, u.err)

    def dot(self, a, node, b, eb):
        """The matrix product of a and a matrix, or matrices, that need not be a value of the graph."""
        with np.errstate(all="ignore"):
            x, y = a.val[..., :, None, :].astype(LONG), np.swapaxes(b, -1, -2)[..., None, :, :].astype(LONG)
            ex, ey = a.err[..., :, None, :], np.swapaxes(eb, -1, -2)[..., None, :, :]
            p = x * y
            e = product_error(a.dtype, p, x, ex, y, ey)
            return self.summed(self.g.matmul(a.node, node), a.dtype, p, np.broadcast_to(e, p.shape), (p.ndim - 1,), False)

    def cumulative(self, v):
        """Sums of prefixes, as a masked product with a triangle."""
        if not v.rank or v.dtype == "bool" or v.val.size * v.shape[-1] > 8 * self.most:
            return None
        n = v.shape[-1]
        if not n:
            return None
        i, j = (self.g.iota("i32", (v.dims[-1],) * 2, k) for k in range(2))
        mask = self.g.cast(self.g.cmple(i, j), v.dtype)
        if not v.is_float:
            return V(self.g.matmul(v.node, mask), v.dtype, np.asarray(np.cumsum(v.val, axis=-1, dtype=v.val.dtype)))
        if not np.isfinite(v.val).all():
            return None
        node = self.g.matmul(v.node, mask)
        triangle = np.tril(np.ones((n, n)))
        x = v.val[..., None, :].astype(LONG) * triangle
        return self.summed(node, v.dtype, x, np.where(triangle > 0, v.err[..., None, :], 0), (x.ndim - 1,), False)

    # -- storage dtypes, on exact values

    def small(self, v):
        """Cast to an 8-, 4- or 2-bit dtype, moved about and computed with, and cast back."""
        if v.dtype in ("bool", "f64") or not v.exact:
            return None
        name = self.one_of(list(SMALL_FLOATS) if v.is_float else SMALL_INTS)
        with np.errstate(all="ignore"):
            if v.is_float:
                work = np.float32
                fit = lambda x: np.where(np.isnan(x) & (name == "f4e2m1"), 0, x).astype(SMALL_FLOATS[name])  # noqa: E731
            else:
                work, bits = object, int(name[1])
                sign = 1 << (bits - 1) if name[0] == "i" else 0
                fit = lambda x: np.asarray(((x.astype(object) + sign) & ((1 << bits) - 1)) - sign, object)  # noqa: E731
            node, x = self.g.cast(v.node, name), fit(v.val.astype(work))
            if v.rank and self.below(2):
                axis = self.below(v.rank)
                node, x = self.g.flip(node, [axis]), np.flip(x, axis)
            if self.below(2):
                op = self.one_of(("add", "sub", "mul"))
                f = {"add": np.add, "sub": np.subtract, "mul": np.multiply}[op]
                node, x = getattr(self.g, op)(node, node), fit(np.asarray(f(x.astype(work), x.astype(work))))
            if self.below(2):
                node = self.g.contiguous(node)
            to = "f32" if v.is_float else "i32"
            return V(self.g.cast(node, to), to, np.asarray(x.astype(np.float64 if v.is_float else np.int32)))

    # -- compositions of the Python builder, on exact values

    def sort(self, v):
        if not v.rank or not v.exact:
            return None
        axis = self.below(v.rank)
        n, down = v.shape[axis], bool(self.below(2))
        if v.val.size > self.most // 4:
            return None
        x = v.val.astype(np.float64 if v.is_float else object)
        if v.is_float:
            order = np.argsort(-x if down else x, axis, kind="stable")
        else:
            keys = np.moveaxis(x, axis, -1)
            order = np.array([sorted(range(n), key=lambda k: (-int(row[k]) if down else int(row[k]))) for row in keys.reshape(-1, n)] if n else [],
                             np.int64).reshape(keys.shape)
            order = np.moveaxis(order, -1, axis)
        if self.below(2):
            return V(self.g.argsort(v.node, axis, down), "i64", order.astype(np.int64))
        return V(self.g.sort(v.node, axis, down), v.dtype, np.take_along_axis(v.val, order, axis))

    def extreme_place(self, v):
        if not v.rank or not v.exact or not v.val.size:
            return None
        axis, keep = self.below(v.rank), bool(self.below(2))
        if self.below(2):
            return V(self.g.argmax(v.node, axis, keep), "i64", np.argmax(v.val, axis, keepdims=keep).astype(np.int64))
        return V(self.g.argmin(v.node, axis, keep), "i64", np.argmin(v.val, axis, keepdims=keep).astype(np.int64))

    def take_along(self, v):
        if not v.rank or not v.val.size or not v.static:
            return None
        axis = self.below(v.rank)
        n, shape = v.shape[axis], list(v.shape)
        shape[axis] = self.one_of((1, 2, 5))
        if math.prod(shape) * n > 4 * self.most:
            return None
        at = self.r.integers(-n, n, shape)
        return self.moved(self.g.take_along_axis(v.node, self.g.constant(at), axis), v, lambda a: np.take_along_axis(a, at, axis))

    def scatter(self, v):
        if not v.rank or not v.exact or v.dtype == "bool":
            return None
        axis, count = self.below(v.rank), 1 + self.below(4)
        shape = (*v.dims[:axis], count, *v.dims[axis + 1:])
        if math.prod(self.numbers(shape)) * v.shape[axis] > 8 * self.most or any(self.plain(d) != d for d in shape):
            return None
        how = self.one_of(("set", "max", "min") if v.is_float else ("set", "add", "mul", "max", "min"))
        at = self.r.integers(0, (v.shape[axis] if v.static else 4) + 2, count).astype(NUMPY[self.one_of(("i32", "i64", "u8"))])
        u = self.param(v.dtype, shape)
        out = np.moveaxis(v.val.copy(), axis, 0)
        f = {"set": lambda a, b: b, "add": np.add, "mul": np.multiply, "max": np.maximum, "min": np.minimum}[how]
        with np.errstate(all="ignore"):
            for k, row in zip(at, np.moveaxis(u.val, axis, 0)):
                if k < len(out):
                    out[int(k)] = f(out[int(k)], row)
        out = np.moveaxis(out, 0, axis)
        zero = (out == 0) & (how != "set") if v.is_float else None
        node = self.g.scatter(v.node, self.g.constant(at), u.node, axis, how)
        return V(node, v.dtype, out, np.where(zero, tiny(v.dtype), 0) if v.is_float else None)

    def scatter_along(self, v):
        """Updates that meet at elements, by full indices or by some that spread over the other axes."""
        if not v.rank or not v.exact or v.val.size > self.most or not v.static:
            return None
        axis, wide = self.below(v.rank), bool(self.below(2))
        shape = [1 + self.below(n) if n else 0 for n in v.shape]
        shape[axis] = 1 + self.below(6)
        how = self.one_of(("set",) if v.dtype == "bool" else ("set", "max", "min") if v.is_float else ("set", "add", "mul", "max", "min"))
        at = self.r.integers(-1, v.shape[axis] + 1, [n if wide or k == axis else 1 for k, n in enumerate(shape)])
        at = at.astype(NUMPY[self.one_of(("i32", "i64", "i8"))])
        u = self.param(v.dtype, tuple(shape))
        f = {"set": lambda a, b: b, "add": np.add, "mul": np.multiply, "max": np.maximum, "min": np.minimum}[how]
        out, full = v.val.copy(), np.broadcast_to(at, shape)
        with np.errstate(all="ignore"):
            for place in np.ndindex(*shape):
                to = (*place[:axis], int(full[place]), *place[axis + 1:])
                if 0 <= to[axis] < out.shape[axis]:
                    out[to] = f(out[to], u.val[place])
        zero = (out == 0) & (how != "set") if v.is_float else None
        node = self.g.scatter_along(v.node, self.g.constant(at), u.node, axis, how)
        return V(node, v.dtype, out, np.where(zero, tiny(v.dtype), 0) if v.is_float else None)

    def conv(self, _=None):
        """Of small multiples of 1/4, whose sums are exact in f32."""
        groups, stride, dilation, pad = self.one_of((1, 1, 2)), self.one_of((1, 2)), self.one_of((1, 1, 2)), self.below(2)
        c, m = groups * self.one_of((1, 3, 4)), groups * self.one_of((1, 4, 5))
        h, w, kh, kw = 5 + self.below(5), 5 + self.below(5), 1 + self.below(3), 1 + self.below(2)
        dtype = self.one_of(("f32", "f32", "f16", "i32"))
        draw = lambda shape: self.r.integers(-8, 9, shape) / (1 if dtype == "i32" else 4)  # noqa: E731
        x, k = draw((1 + self.below(2), c, h, w)), draw((m, c // groups, kh, kw))
        nodes = [self.g.constant(a.astype(NUMPY[dtype])) for a in (x, k)]
        name = f"p{len(self.feeds)}"
        self.feeds[name] = x.astype(NUMPY[dtype])
        nodes[0] = self.g.param(name, dtype, x.shape)
        node = self.g.conv2d(nodes[0], nodes[1], None, stride, pad, dilation, groups)
        x = np.pad(x, [(0, 0), (0, 0), (pad, pad), (pad, pad)])
        oh, ow = node.shape[2], node.shape[3]
        y = np.zeros(node.shape)
        for f in range(m):
            base = f // (m // groups) * (c // groups)
            for i in range(kh):
                for j in range(kw):
                    part = x[:, base:base + c // groups, i * dilation:, j * dilation:][:, :, ::stride, ::stride][:, :, :oh, :ow]
                    y[:, f] += np.einsum("nchw,c->nhw", part, k[f, :, i, j])
        if dtype == "i32":
            return V(node, dtype, y.astype(np.int32))
        return self.floats(node, dtype, y.astype(LONG), np.where(y == 0, tiny(dtype), 0))

    MAKERS = ("reshape", "reshape", "permute", "expand", "pad", "shrink", "flip", "window", "cat", "cat", "gather", "contiguous",
              "binary", "binary", "binary", "compare", "where", "unary", "unary", "cast", "cast", "reduce", "reduce", "matmul",
              "matmul", "softmax", "attention", "attention", "cumulative", "iota", "sort", "extreme_place", "take_along", "scatter", "scatter_along",
              "scatter_along", "conv", "small")

    def grow(self):
        for d in self.named:  # every name is one of a parameter's
            self.keep(self.param(None, (d,)))
        for _ in range(1 + self.below(3)):
            self.keep(self.param())
        while not self.nodes:
            self.keep(self.param())
        for _ in range(3 + self.below(22)):
            v = self.nodes[-1] if self.below(2) else self.one_of(self.nodes)
            name = self.one_of(self.MAKERS)
            made = getattr(self, name)(v)
            if made is not None:
                self.log.append(f"{name} of {v.node.index} -> node {made.node.index} {made.dtype}{list(made.shape)}")
            self.keep(made)
        outputs = {self.nodes[-1].node.index: self.nodes[-1]}
        for _ in range(self.below(3)):
            v = self.one_of(self.nodes)
            outputs[v.node.index] = v
        for k, v in enumerate(outputs.values()):
            self.g.output(f"y{k}", v.node)
        return {f"y{k}": v for k, v in enumerate(outputs.values())}


def wrapped(x, dtype):
    bits = dtype.itemsize * 8
    x &= (1 << bits) - 1
    return x - (1 << bits) if dtype.kind == "i" and x >> (bits - 1) else x


def span(size, err):
    """size * err, where an exact operand contributes nothing however large the other is."""
    return np.where(err == 0, 0, size * np.where(err == 0, 0, err))


def odd_part(x):
    """The integer that x is times a power of two, as a measure of how many bits a product of such x needs."""
    m, _ = np.frexp(np.where(np.isfinite(x), x, 0))
    m = np.abs(m) * 2.0**53
    for _ in range(53):
        even = (m != 0) & (np.fmod(m, 2) == 0)
        m = np.where(even, m / 2, m)
    return np.maximum(m, 1)


def erf(x):
    return np.vectorize(math.erf, otypes=[np.float64])(x.astype(np.float64)).astype(LONG) if x.size else x


JUMPS = {"trunc": np.trunc, "floor": np.floor, "ceil": np.ceil, "round": np.rint}
SMOOTH = {"recip": lambda x: 1 / x, "sqrt": np.sqrt, "exp": np.exp, "exp2": np.exp2, "log": np.log, "log2": np.log2, "sin": np.sin,
          "cos": np.cos, "tanh": np.tanh, "erf": erf, "atan": np.arctan}


def differences(got, want):
    """What is wrong with an output; None: nothing."""
    if got.dtype != NUMPY[want.dtype] or got.shape != want.shape:
        return f"{got.dtype}{list(got.shape)}, expected {want.dtype}{list(want.shape)}"
    if not want.is_float:
        bad = got != want.val
        have, value, err = got, want.val, np.zeros(want.shape)
    else:
        have, value, err = got.astype(np.float64), want.val, want.err
        with np.errstate(all="ignore"):
            bad = ~((have == value) | (np.isnan(have) & np.isnan(value)) | (np.abs(have - value) <= err) | np.isinf(err))
    if not bad.any():
        return None
    at = tuple(int(k[0]) for k in np.nonzero(bad)) if bad.ndim else ()
    return f"{int(bad.sum())} of {bad.size} elements; at {list(at)}: {have[at]!r}, expected {value[at]!r} within {err[at]!r}"



class DaemonRunner:
    """A kilnd of its own: what EvalRunner gives, under the name "daemon:OUTPUT". A graph stays compiled until another comes, so that
    one executable serves all sizes."""

    def __init__(self, device):
        self.server = serving.Server(config=f"[workers]\ndevice = {device}\n[tuning]\nbackground = off\n")
        self.client = kiln.connect(self.server.target)
        self.model = self.exe = None

    def run(self, model, feeds, dims):
        try:
            if model != self.model:
                self.drop()
                g = kiln.Graph()
                g._proto.ParseFromString(model[4:])
                self.exe, self.model = self.client.compile(g), model
            return {f"daemon:{name}": value for name, value in self.exe(feeds).items()}
        except kiln.Error as e:
            raise RunError(e.code, e.message) from None

    def drop(self):
        if self.exe:
            self.exe.release()
        self.model = self.exe = None

    def close(self):
        self.drop()
        self.client.close()
        self.server.stop()


class Failure(Exception):
    """A graph whose outputs are not what they should be: (output, its V or None, what is wrong)."""


def attempt(runner, m, outputs):
    """Runs one graph by every stage; raises Failure for the first difference."""
    try:
        got = runner.run(b"KGR1" + m.g._to_proto().SerializeToString(), m.feeds, {})
    except RunError as e:
        raise Failure(None, None, str(e)) from None
    for name, array in got.items():
        want = outputs[name.split(":")[1]]
        wrong = differences(array, want)
        if wrong:
            raise Failure(name, want, wrong)


def shard(args):
    """The seeds of one process: (graphs, elements, elements with a finite bound, graphs run at a second set of sizes, failures)."""
    seeds, options, keep = args
    device = {"cuda": "cuda:0", "opencl": "opencl:0"}.get(options[-1] if options else "", "cpu:0")
    runner = DaemonRunner(device) if options[:1] == ["daemon"] else EvalRunner(str(serving.BIN / "kiln-eval"), ["--stages", *options])
    graphs = elements = known = resized = 0
    failures = []
    for seed in seeds:
        m = Maker(seed)
        outputs = m.grow()
        graphs += 1
        if graphs % 5000 == 0:
            print(f"{graphs} graphs so far, {len(failures)} differ", flush=True)
        try:
            attempt(runner, m, outputs)
            other = Maker(seed, 1)
            again = other.grow() if m.named else None
            if again and other.g.serialize() == m.g.serialize():  # the same graph at other sizes
                resized += 1
                m, outputs = other, again
                attempt(runner, m, outputs)
        except Failure as f:
            name, want, wrong = f.args
            text = f"seed {seed}: {name}: {wrong}"
            print(text, flush=True)
            failures.append(text + "\n" + "\n".join(m.log))
            if keep:
                kept_graphs.keep(os.path.join(keep, f"seed_{seed}.kgraph"), text, m, outputs, runner, differences)
        for v in outputs.values():
            elements += v.val.size
            known += v.val.size if not v.is_float else int(np.isfinite(v.err).sum())
    runner.close()
    return graphs, elements, known, resized, failures


def run_seeds(first, end, jobs, options=(), keep=None):
    """shard() over several processes, summed; a stride each, so that they end together."""
    parts = [(range(first + k, end, jobs), list(options), keep) for k in range(jobs)]
    if jobs == 1:
        results = [shard(parts[0])]
    else:
        with multiprocessing.get_context("spawn").Pool(jobs) as pool:
            results = pool.map(shard, parts)
    return tuple(sum((r[k] for r in results), [] if k == 4 else 0) for k in range(5))


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--seeds", default="0:1000", help="FIRST:END")
    p.add_argument("--jobs", type=int, default=os.cpu_count())
    p.add_argument("--keep", help="a folder for the graphs that fail")
    p.add_argument("--daemon", action="store_true", help="through a daemon, one executable for all sizes, instead of by every stage")
    p.add_argument("--set", choices=("sse2", "avx2", "opencl", "cuda", "gpu", "nvidia", "cuda-c", "buffers8"), help="an older instruction set to compile for, or another device")
    args = p.parse_args()
    if args.daemon and args.set not in (None, "cuda", "opencl"):
        p.error("a daemon has the devices of this machine")
    first, end = (int(v) for v in args.seeds.split(":"))
    start = time.monotonic()
    graphs, elements, known, resized, failures = run_seeds(first, end, args.jobs, ["daemon"] * args.daemon + [args.set] * bool(args.set), args.keep)
    seconds = time.monotonic() - start
    print(f"{graphs} graphs ({resized} at two sets of sizes), {len(failures)} differ; {elements} elements, {100 * known / max(elements, 1):.0f} % of them bounded; "
          f"{graphs / seconds:.1f} graphs/s")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
