"""The ops of the graph format. Generated from proto/graph_ops.def; a test compares."""
from __future__ import annotations

from typing import NamedTuple


class Op(NamedTuple):
    """One op: sources -1 is any number from 1; dtypes and result as in proto/graph_ops.def."""

    group: str
    sources: int
    dtypes: str
    result: str
    ints: str
    doc: str


OPS = {
    "PARAM": Op("LEAF", 0, "NONE", "PARAM", "index into `params`", "The parameter."),
    "CONST": Op("LEAF", 0, "NONE", "GIVEN", "none", "A scalar of rank 0: `f` for float dtypes, rounded to the dtype; `i` for others, wrapped."),
    "IOTA": Op("LEAF", 0, "NONE", "GIVEN", "axis, dims...", "The coordinate along the axis, in a tensor of that shape. The dtype is not bool."),
    "SIZE": Op("LEAF", 0, "NONE", "I64", "n", "A scalar of rank 0: n, as a rule one of `Graph.sizes`."),
    "RESHAPE": Op("MOVE", 1, "ALL", "SAME", "dims; one may be -1", "The same elements in row-major order; the number of elements must stay."),
    "PERMUTE": Op("MOVE", 1, "ALL", "SAME", "one per axis", "Result axis k is source axis ints[k]; each axis once."),
    "EXPAND": Op("MOVE", 1, "ALL", "SAME", "dims", "x broadcast to that shape."),
    "PAD": Op("MOVE", 2, "ALL", "SAME", "lo, hi per axis", "x with lo and hi elements added around each axis, not negative; source 1 is what they are, a scalar of rank 0 and of x's dtype."),
    "SHRINK": Op("MOVE", 1, "ALL", "SAME", "begin, end per axis", "Elements [begin, end) of every axis; 0 <= begin <= end <= size."),
    "FLIP": Op("MOVE", 1, "ALL", "SAME", "axes, each at most once", "Reversed along them."),
    "WINDOW": Op("MOVE", 1, "ALL", "SAME", "axis, size, stride, dilation", "An axis of d elements becomes (d - dilation*(size-1) - 1)/stride + 1, and an axis of `size` follows it: element (o, k) is x[o*stride + k*dilation]; the window must fit."),
    "CAT": Op("MOVE", -1, "ALL", "SAME", "axis", "The sources joined along the axis; the other axes must be equal."),
    "GATHER": Op("MOVE", 2, "INDEX", "SAME", "axis", "Shape data[:axis] + indices + data[axis+1:]: the data at the indices; one outside of [0, size) reads 0."),
    "REDUCE_SUM": Op("REDUCE", 1, "NUMERIC", "SAME", "axes, each at most once", "Sum; of nothing 0."),
    "REDUCE_PROD": Op("REDUCE", 1, "NUMERIC", "SAME", "axes, each at most once", "Product; of nothing 1."),
    "REDUCE_MAX": Op("REDUCE", 1, "ALL", "SAME", "axes, each at most once", "Maximum, NaN if any is; of nothing the lowest value (-inf, false)."),
    "REDUCE_MIN": Op("REDUCE", 1, "ALL", "SAME", "axes, each at most once", "Minimum, NaN if any is; of nothing the highest value (inf, true)."),
    "CAST": Op("CONVERT", 1, "ALL", "GIVEN", "none", "The values as `dtype`. Integers wrap; floats truncate toward zero, NaN gives 0, out of range saturates; to bool: != 0."),
    "BITCAST": Op("CONVERT", 1, "NUMERIC", "GIVEN", "none", "The same bits as another dtype of the same size, not bool."),
    "CONTIGUOUS": Op("CONVERT", 1, "ALL", "SAME", "none", "The same value, stored in a buffer of its own: a hint that ends fusion here."),
    "NEG": Op("UNARY", 1, "NUMERIC", "SAME", "none", "-x; integers wrap."),
    "ABS": Op("UNARY", 1, "NUMERIC", "SAME", "none", "Absolute value; the lowest integer stays."),
    "RECIP": Op("UNARY", 1, "FLOAT", "SAME", "none", "1 / x."),
    "SQRT": Op("UNARY", 1, "FLOAT", "SAME", "none", "Square root; NaN below zero."),
    "EXP": Op("UNARY", 1, "FLOAT", "SAME", "none", "e to the power x."),
    "EXP2": Op("UNARY", 1, "FLOAT", "SAME", "none", "2 to the power x."),
    "LOG": Op("UNARY", 1, "FLOAT", "SAME", "none", "Natural logarithm; NaN below zero, -inf at zero."),
    "LOG2": Op("UNARY", 1, "FLOAT", "SAME", "none", "Logarithm to base 2; NaN below zero, -inf at zero."),
    "SIN": Op("UNARY", 1, "FLOAT", "SAME", "none", "Sine of x radians."),
    "COS": Op("UNARY", 1, "FLOAT", "SAME", "none", "Cosine of x radians."),
    "TANH": Op("UNARY", 1, "FLOAT", "SAME", "none", "Hyperbolic tangent."),
    "ERF": Op("UNARY", 1, "FLOAT", "SAME", "none", "Error function."),
    "ATAN": Op("UNARY", 1, "FLOAT", "SAME", "none", "Arc tangent in radians."),
    "TRUNC": Op("UNARY", 1, "FLOAT", "SAME", "none", "Rounded toward zero."),
    "FLOOR": Op("UNARY", 1, "FLOAT", "SAME", "none", "Rounded down."),
    "CEIL": Op("UNARY", 1, "FLOAT", "SAME", "none", "Rounded up."),
    "ROUND": Op("UNARY", 1, "FLOAT", "SAME", "none", "Rounded to the nearest integer, half to even."),
    "NOT": Op("UNARY", 1, "BITS", "SAME", "none", "Logical for bool, bitwise for integers."),
    "ADD": Op("BINARY", 2, "NUMERIC", "SAME", "none", "a + b; integers wrap."),
    "SUB": Op("BINARY", 2, "NUMERIC", "SAME", "none", "a - b; integers wrap."),
    "MUL": Op("BINARY", 2, "NUMERIC", "SAME", "none", "a * b; integers wrap."),
    "DIV": Op("BINARY", 2, "NUMERIC", "SAME", "none", "Floats: IEEE quotient. Integers: truncated toward zero, 0 when the divisor is 0."),
    "MOD": Op("BINARY", 2, "NUMERIC", "SAME", "none", "Remainder with the sign of the dividend; integers: 0 when the divisor is 0."),
    "FLOORDIV": Op("BINARY", 2, "NUMERIC", "SAME", "none", "Quotient rounded down; integers: 0 when the divisor is 0."),
    "FLOORMOD": Op("BINARY", 2, "NUMERIC", "SAME", "none", "The remainder that belongs to FLOORDIV, with the sign of the divisor; integers: 0 when the divisor is 0."),
    "MAX": Op("BINARY", 2, "ALL", "SAME", "none", "The larger; NaN if either is NaN."),
    "MIN": Op("BINARY", 2, "ALL", "SAME", "none", "The smaller; NaN if either is NaN."),
    "POW": Op("BINARY", 2, "FLOAT", "SAME", "none", "a to the power b, as C's `pow`."),
    "AND": Op("BINARY", 2, "BITS", "SAME", "none", "Logical for bool, bitwise for integers."),
    "OR": Op("BINARY", 2, "BITS", "SAME", "none", "Logical for bool, bitwise for integers."),
    "XOR": Op("BINARY", 2, "BITS", "SAME", "none", "Logical for bool, bitwise for integers."),
    "SHL": Op("BINARY", 2, "INTEGER", "SAME", "none", "a shifted left; 0 when the count is negative or not below the width."),
    "SHR": Op("BINARY", 2, "INTEGER", "SAME", "none", "a shifted right, arithmetic for signed dtypes; a count that is negative or not below the width shifts everything out: 0, or -1 of a negative value."),
    "CMPLT": Op("COMPARE", 2, "ALL", "BOOL", "none", "a < b; false with NaN."),
    "CMPLE": Op("COMPARE", 2, "ALL", "BOOL", "none", "a <= b; false with NaN."),
    "CMPEQ": Op("COMPARE", 2, "ALL", "BOOL", "none", "a == b; false with NaN."),
    "CMPNE": Op("COMPARE", 2, "ALL", "BOOL", "none", "a != b; true with NaN."),
    "WHERE": Op("OTHER", 3, "COND", "BRANCH", "none", "Source 1 where source 0 is true, else source 2; all three broadcast."),
    "MATMUL": Op("OTHER", 2, "NUMERIC", "SAME", "none", "`numpy.matmul`: [..., M, K] x [..., K, N] = [..., M, N], batch axes broadcast; a source of rank 1 is a row (left) or a column (right) whose axis is dropped from the result; a scalar is refused. f16 and bf16 are accumulated in f32 and rounded once."),
    "ARGSORT": Op("OTHER", 1, "ALL", "I64", "axis", "The positions that sort the axis: ascending for `i` = 0, descending for `i` = 1; equal elements, -0 and 0 among them, keep their order, NaN goes last. The work is n log n."),
    "SCATTER_ALONG": Op("OTHER", 3, "UPDATES", "SAME", "axis", "The data, source 0, with the updates, source 2, at the indices, source 1, along the axis: element (a, u, b) of the updates goes to (a, indices[a, u, b], b), one after the other in row-major order. `i` says how: 0 the last one stays, 1 it is added, 2 multiplied, 3 the larger, 4 the smaller stays (NaN if either is). All sources have one rank; along other axes the updates are at most as long as the data, and the indices may have size 1. Outside of [0, size) nothing is written."),
    "ASSIGN": Op("OTHER", 2, "ALL", "SAME", "none", "Writes the value, source 1, broadcast to the target's shape, into the target, source 0: a state, or RESHAPE, PERMUTE, SHRINK, FLIP and WINDOW of one that show no element twice. The result is the target."),
    "RANDOM_KEY": Op("RANDOM", 0, "NONE", "GIVEN", "none", "The run's own key, u32 [2]: another in every run of an executable, the same for the same seed and run number. The dtype is u32."),
    "RANDOM_FOLD": Op("RANDOM", 1, "INTEGER", "SAME", "n", "A key of its own, u32 [2]: the block of the key, u32 [2], and counter n, at most 2^32 - 1."),
    "RANDOM_BITS": Op("RANDOM", 1, "INTEGER", "GIVEN", "stream, dims...", "32 or 64 random bits per element, as the dtype u32 or u64 says: the first word, or both with the first one low, of the block of the key, u32 [2], and the counter (k, stream) of element k in row-major order. The stream is below 2^20; with one key, equal streams give equal numbers."),
    "RANDOM_UNIFORM": Op("RANDOM", 1, "INTEGER", "GIVEN", "stream, dims...", "Numbers of the dtype f16, bf16, f32 or f64, uniform in [0, 1): the upper bits of RANDOM_BITS as a fraction of 11, 8, 24 or 53 bits."),
    "RANDOM_NORMAL": Op("RANDOM", 1, "INTEGER", "GIVEN", "stream, dims...", "Numbers of the dtype f16, bf16, f32 or f64 with the standard normal distribution."),
}
