#!/usr/bin/env python3
"""docs/support.md: which graph op runs on which dtype, on which device, by trying.

    support_table.py [--update] [--new] [--eval PATH]

Every op of the graph format is asked of the frontend with every dtype; what it takes is computed by the reference interpreter, then
by every device, and compared. Prints the table, or rewrites docs/support.md. test_support.py compares; the section of a device that
the machine does not have is left as it is. ASSIGN has tests of its own (a state is no value of one dtype), SIZE is i64.
"""
import argparse
import os
import re
import subprocess
import sys

import numpy as np

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [HERE, os.path.dirname(HERE)]

import onnx_suite
import serving
from kiln import _codec, _ops
from kiln.v1 import graph_pb2

PAGE = os.path.join(HERE, "..", "..", "docs", "support.md")
DTYPES = [name[len("DTYPE_"):].lower() for name in graph_pb2.DType.keys() if name != "DTYPE_UNSPECIFIED"]
NOT_BY_DTYPE = {"ASSIGN", "SIZE"}
DEVICES = {"CPU": [], "OpenCL": ["opencl"]}  # the title of a section: what kiln-eval --compiled is told
SHAPE, FLAT = (4, 6), 24


def number(dtype):
    return graph_pb2.DType.Value("DTYPE_" + dtype.upper())


def is_float(dtype):
    return _codec.is_float(number(dtype))


def values(dtype, seed):
    """FLAT elements that mean something in every dtype, as one integer or bool would, in its own bits."""
    rng = np.random.default_rng(seed)
    if dtype == "bool":
        return rng.integers(0, 2, SHAPE).astype(np.bool_)
    if is_float(dtype):
        x = rng.choice([0.5, 1.0, 1.5, 2.0, 3.0, -0.5, -1.0, -2.0, 0.0, 0.25], SHAPE)
        return (np.abs(x) + 0.5 if dtype == "f8e8m0" else x).astype(np.float32).astype(_codec.numpy_dtype(number(dtype)))
    return rng.integers(-2 if dtype[0] == "i" else 0, 2 if dtype == "i2" else 4, SHAPE).astype(_codec.numpy_dtype(number(dtype)))


class Builder:
    """One graph over the inputs x, y, z of one dtype; ops are added by name."""

    def __init__(self, dtype):
        self.dtype, self.graph, self.feeds = dtype, graph_pb2.Graph(), {}
        self.x, self.y = (self._param(n, dtype, values(dtype, k)) for k, n in enumerate("xy"))
        self.z = self.node("PERMUTE", [self.y], [1, 0])
        self.cond = self._param("c", "bool", values("bool", 5))
        self.index = self._param("i", "i64", np.array([2, 0, 3, 9], np.int64))
        self.key = self._param("k", "u32", np.array([1, 2], np.uint32))

    def node(self, op, src=(), ints=(), dtype=None, **fields):
        self.graph.nodes.add(op=graph_pb2.GraphOp.Value(op), src=src, ints=ints, dtype=number(dtype) if dtype else 0, **fields)
        return len(self.graph.nodes) - 1

    def _param(self, name, dtype, array):
        p = self.graph.params.add(name=name, dtype=number(dtype))
        for d in array.shape:
            p.dims.add(size=d)
        self.feeds[name] = array
        return self.node("PARAM", ints=[len(self.graph.params) - 1])

    def const(self, value):
        return self.node("CONST", dtype=self.dtype, **({"f": value} if is_float(self.dtype) else {"i": value}))

    def add(self, op):
        """The nodes whose values show that `op` works on the dtype."""
        d, x, y, group = self.dtype, self.x, self.y, _ops.OPS[op].group
        ints = {"RESHAPE": [FLAT], "PERMUTE": [1, 0], "EXPAND": [2, *SHAPE], "PAD": [1, 0, 0, 2], "SHRINK": [1, 3, 0, 6], "FLIP": [1],
                "WINDOW": [1, 3, 1, 1], "CAT": [0], "GATHER": [0]}
        if op == "PARAM":
            return [x]
        if op == "CONST":
            return [self.const(1)]
        if op == "IOTA":
            return [self.node(op, ints=[1, 2, 4], dtype=d)]
        if op == "PAD":
            return [self.node(op, [x, self.const(1)], ints[op])]
        if op in ("CAT", "GATHER"):
            return [self.node(op, [x, y if op == "CAT" else self.index], ints[op])]
        if group == "MOVE":
            return [self.node(op, [x], ints[op])]
        if group == "REDUCE":
            return [self.node(op, [x], [1]), self.node(op, [x], [0, 1], i=1)]
        if op == "CAST":
            return [self.node(op, [x], dtype=to) for to in DTYPES if to != d]
        if op == "BITCAST":
            size = _codec.numpy_dtype(number(d)).itemsize
            return [self.node(op, [x], dtype=("i" if d[0] == "u" else "u") + str(8 * size))]
        if op == "WHERE":
            return [self.node(op, [self.cond, x, y])]
        if op == "ARGSORT":
            return [self.node(op, [x], [1]), self.node(op, [x], [0], i=1)]
        if op == "SCATTER_ALONG":
            at = self.node("RESHAPE", [self.index], [4, 1])
            return [self.node(op, [x, at, y], [0], i=how) for how in range(5)]
        if op == "MATMUL":
            return [self.node(op, [x, self.z])]
        if op == "RANDOM_KEY":
            return [self.node("RANDOM_BITS", [self.node(op, dtype=d)], [0, FLAT], dtype="u32")]
        if op == "RANDOM_FOLD":
            return [self.node(op, [self.key if d == "u32" else x], [3])]
        if group == "RANDOM":
            return [self.node(op, [self.key], [0, FLAT], dtype=d)]
        if op == "CONTIGUOUS" or group == "UNARY":
            return [self.node(op, [x])]
        if group in ("BINARY", "COMPARE"):
            return [self.node(op, [x, y])]
        raise SystemExit(f"{op} is new: say in {__file__} how it is tried")

    def output(self, op, nodes):
        for k, n in enumerate(nodes):
            self.graph.outputs.add(name=f"{op}.{k}", node=n)

    def _to_proto(self):
        return self.graph


def equal(dtype, got, want):
    if got.dtype != want.dtype or got.shape != want.shape:
        return False
    if want.dtype.kind in "biu":
        return np.array_equal(got, want)
    rtol = {"f64": 1e-12, "f32": 1e-5, "f16": 2e-3, "bf16": 2e-2}.get(dtype, 0.26)  # below: a value on an edge may take either side
    g, w = got.astype(np.float64), want.astype(np.float64)
    return np.allclose(g, w, rtol=rtol, atol=1e-6, equal_nan=True)


def output_dtype(array):
    return _codec.dtype_name(_codec.dtype_number(array.dtype))


def interpret(runner, b):
    """The outputs by the reference interpreter; None when the frontend refuses the graph."""
    try:
        return runner.run(b"KGR1" + b.graph.SerializeToString(), b.feeds, {})
    except onnx_suite.RunError as e:
        if e.code == "INVALID_ARGUMENT":
            return None
        raise


def ops():
    return [op for op in _ops.OPS if op not in NOT_BY_DTYPE]


def missing(cells):
    """Ops of which a page's section says nothing."""
    return [op for op in ops() if any((op, d) not in cells for d in DTYPES)]


def references(runner, names):
    """Per dtype: the values of the ops that are defined on it, by op."""
    known = {}
    for dtype in DTYPES:
        known[dtype] = {}
        for op in names:
            b = Builder(dtype)
            b.output(op, b.add(op))
            got = interpret(runner, b)
            if got is not None:
                known[dtype][op] = got
    return known


def run_ops(runner, dtype, names):
    b = Builder(dtype)
    for op in names:
        b.output(op, b.add(op))
    return runner.run(b"KGR1" + b.graph.SerializeToString(), b.feeds, {})


def works(runner, dtype, known):
    """The ops whose values on the device are the interpreter's. All in one graph; one by one when that fails."""
    good, names = set(), list(known)
    try:
        got = run_ops(runner, dtype, names)
    except onnx_suite.RunError:
        got = {}
        for op in names:
            try:
                got.update(run_ops(runner, dtype, [op]))
            except onnx_suite.RunError:
                pass
    for op, want in known.items():
        if all(k in got and equal(output_dtype(w), got[k], w) for k, w in want.items()):
            good.add(op)
    return good


def section(title, cells):
    """cells: by (op, dtype)."""
    lines = [f"## {title}", "", "| op | " + " | ".join(DTYPES) + " |", "|---" * (len(DTYPES) + 1) + "|"]
    lines += [f"| {op} | " + " | ".join(cells[op, d] for d in DTYPES) + " |" for op in ops()]
    return "\n".join(lines) + "\n"


def cells_of(text):
    """Of every section of a page, by title."""
    found = {}
    for part in re.split(r"^## ", text, flags=re.M)[1:]:
        title, *lines = part.split("\n")
        rows = [[c.strip() for c in line.split("|")[1:-1]] for line in lines if line.startswith("|") and not line.startswith("|---")]
        found[title] = {(row[0], d): c for row in rows[1:] for d, c in zip(rows[0][1:], row[1:])}
    return found


HEAD = """# What runs where

Which op of the native graph (docs/graph-ops.md) runs on which dtype: `yes` where the device gives what the reference interpreter gives, `NO`
where it does not, nothing where the op is not defined on the dtype. For `CAST` that is the conversion to every other dtype. Made by
`tests/model/support_table.py --update`, which tries every combination; a test compares. ONNX's ops are made of these (docs/onnx.md).
"""


def measure(path, dtypes, names=None):
    """The cells of the devices that are there, by title. path: of kiln-eval; dtypes: those to try, by title; names: the ops, of all."""
    interpreter, names = onnx_suite.EvalRunner(path, []), ops() if names is None else names
    known = references(interpreter, names)
    interpreter.close()
    made = {}
    for title, options in DEVICES.items():
        if subprocess.run([path, "--serve", "--compiled", *options], stdin=subprocess.DEVNULL, capture_output=True).returncode:
            continue
        runner, made[title] = onnx_suite.EvalRunner(path, ["--compiled", *options]), {}
        for d in dtypes.get(title, DTYPES):
            good = works(runner, d, known[d])
            made[title].update({(op, d): "" if op not in known[d] else "yes" if op in good else "NO" for op in names})
        runner.close()
    return made


def page(cells):
    return HEAD + "".join("\n" + section(title, cells[title]) for title in DEVICES if title in cells)


def read_page():
    if not os.path.exists(PAGE):
        return ""
    with open(PAGE) as f:
        return f.read()


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--update", action="store_true")
    p.add_argument("--new", action="store_true", help="try only the ops that the page does not have yet")
    p.add_argument("--eval", default=os.path.join(serving.BIN, "kiln-eval"))
    args = p.parse_args()
    old = cells_of(read_page())
    names = sorted({op for cells in old.values() for op in missing(cells)}) if args.new else None
    made = measure(args.eval, {}, names)
    text = page({title: {**old.get(title, {}), **made.get(title, {})} for title in DEVICES if title in old or title in made})
    if args.update:
        with open(PAGE, "w") as f:
            f.write(text)
    else:
        print(text)


if __name__ == "__main__":
    main()
