"""What numpy users expect of a graph, composed of its ops: mixed into kiln.Graph (Composed) and kiln.Node (NodeMethods).

Nothing here adds to the graph format. Results have the dtype of the operand unless the docstring says otherwise. Means, normalisations and
contractions of f16 and bf16 are computed in f32 and rounded once.
"""
from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Callable, Sequence, Union

from . import _codec, _size
from ._errors import Error
from ._size import Dim, Size
from .v1 import graph_pb2

if TYPE_CHECKING:
    from .graph import Graph, Node, Operand
    Axes = Union[int, Sequence[int], None]

HALVES = (graph_pb2.DTYPE_F16, graph_pb2.DTYPE_BF16)


def _bad(message: str) -> Error:
    return Error("INVALID_ARGUMENT", message)


def _number(d: Dim, what: str) -> int:
    if isinstance(d, Size):
        raise Error("UNIMPLEMENTED", f"{what} of size {d!r}: only sizes known as numbers")
    return int(d)


class Composed:
    """Compositions, as methods of Graph."""

    # -- making tensors

    def full(self: "Graph", shape: Sequence[Dim], value: int | float | bool, dtype: Any) -> "Node":
        """A tensor of one value."""
        return self.expand(self.const(value, dtype), shape)

    def zeros(self: "Graph", shape: Sequence[Dim], dtype: Any = "f32") -> "Node":
        """A tensor of zeros."""
        return self.full(shape, 0, dtype)

    def ones(self: "Graph", shape: Sequence[Dim], dtype: Any = "f32") -> "Node":
        """A tensor of ones."""
        return self.full(shape, 1, dtype)

    def arange(self: "Graph", n: Dim, dtype: Any = "i64", start: int | float = 0, step: int | float = 1) -> "Node":
        """start, start + step, ...: n elements."""
        x = self.iota(dtype, (n,))
        x = x if step == 1 else x * step
        return x if start == 0 else x + start

    def eye(self: "Graph", n: Dim, dtype: Any = "f32") -> "Node":
        """The n x n identity matrix."""
        return self.cast(self.cmpeq(self.iota("i64", (n, n), 0), self.iota("i64", (n, n), 1)), dtype)

    # -- shape

    def transpose(self: "Graph", x: "Node", order: Sequence[int] | None = None) -> "Node":
        """numpy.transpose: the axes in another order, reversed without one."""
        return self.permute(x, tuple(reversed(range(x.rank))) if order is None else order)

    def swapaxes(self: "Graph", x: "Node", a: int, b: int) -> "Node":
        """Two axes exchanged."""
        order = list(range(x.rank))
        a, b = x._axis(a), x._axis(b)
        order[a], order[b] = b, a
        return self.permute(x, order)

    def moveaxis(self: "Graph", x: "Node", source: int, destination: int) -> "Node":
        """One axis moved to another place, the others in their order."""
        at, to = x._axis(source), x._axis(destination)
        order = [k for k in range(x.rank) if k != at]
        order.insert(to, at)
        return self.permute(x, order)

    def squeeze(self: "Graph", x: "Node", axes: "Axes" = None) -> "Node":
        """Without the given axes, which have size 1; without axes: all of size 1."""
        at = [k for k, d in enumerate(x.shape) if d == 1] if axes is None else x._axes(axes)
        for k in at:
            if isinstance(x.shape[k], int) and x.shape[k] != 1:
                raise _bad(f"squeeze of axis {k} of {x.shape[k]} elements")
        return self.reshape(x, [d for k, d in enumerate(x.shape) if k not in at])

    def unsqueeze(self: "Graph", x: "Node", axis: int) -> "Node":
        """With a new axis of size 1 before `axis` (counted in the result)."""
        at = axis + x.rank + 1 if axis < 0 else axis
        if not 0 <= at <= x.rank:
            raise _bad(f"axis {axis} of a tensor of rank {x.rank + 1}")
        return self.reshape(x, [*x.shape[:at], 1, *x.shape[at:]])

    def flatten(self: "Graph", x: "Node", start: int = 0) -> "Node":
        """The axes from `start` on as one."""
        at = x._axis(start) if x.rank else 0
        return self.reshape(x, [*x.shape[:at], _size.product(x.shape[at:])])

    def stack(self: "Graph", xs: Sequence["Node"], axis: int = 0) -> "Node":
        """Tensors of one shape joined along a new axis."""
        return self.cat([self.unsqueeze(x, axis) for x in xs], axis)

    def concat(self: "Graph", xs: Sequence["Node"], axis: int = 0) -> "Node":
        """cat() under numpy's name."""
        return self.cat(xs, axis)

    def split(self: "Graph", x: "Node", parts: int | Sequence[Dim], axis: int = 0) -> list["Node"]:
        """Pieces along axis: that many equal ones, or of the given sizes, which add up to the axis."""
        at = x._axis(axis)
        if isinstance(parts, int):
            if parts < 1 or (isinstance(x.shape[at], int) and x.shape[at] % parts):
                raise _bad(f"split of {x.shape[at]} elements into {parts} equal parts")
            sizes: list[Dim] = [x.shape[at] // parts] * parts
        else:
            sizes = list(parts)
            total = sum(sizes[1:], sizes[0]) if sizes else 0
            if isinstance(total, int) and isinstance(x.shape[at], int) and total != x.shape[at]:
                raise _bad(f"split of {x.shape[at]} elements into {sizes}")
        out, begin = [], 0
        for s in sizes:
            out.append(self.shrink(x, [(begin, begin + s) if k == at else (0, d) for k, d in enumerate(x.shape)]))
            begin = begin + s
        return out

    def slice(self: "Graph", x: "Node", axis: int, begin: int, end: int, step: int = 1) -> "Node":
        """Elements begin, begin + step, ... before end of one axis; as Python slices with 0 <= begin <= end and step > 0."""
        at, n = x._axis(axis), end - begin
        x = self.shrink(x, [(begin, end) if k == at else (0, d) for k, d in enumerate(x.shape)])
        if step == 1 or (isinstance(n, int) and n <= 1):
            return x
        count = (n + step - 1) // step
        pads = [(0, count * step - n) if k == at else (0, 0) for k in range(x.rank)]
        x = self.reshape(self.pad(x, pads), [*x.shape[:at], count, step, *x.shape[at + 1:]])
        x = self.shrink(x, [(0, 1) if k == at + 1 else (0, d) for k, d in enumerate(x.shape)])
        return self.squeeze(x, at + 1)

    def roll(self: "Graph", x: "Node", shift: int, axis: int) -> "Node":
        """numpy.roll along one axis."""
        at = x._axis(axis)
        n = _number(x.shape[at], "roll along an axis")
        s = shift % n if n else 0
        if not s:
            return x
        a, b = self.split(x, [n - s, s], at)
        return self.cat([b, a], at)

    def tile(self: "Graph", x: "Node", counts: Sequence[int]) -> "Node":
        """numpy.tile: axis k repeated counts[k] times as a whole."""
        counts = [1] * (x.rank - len(counts)) + [int(c) for c in counts]
        shape = [1] * (len(counts) - x.rank) + list(x.shape)
        wide = self.reshape(x, [v for d in shape for v in (1, d)])
        wide = self.expand(wide, [v for c, d in zip(counts, shape) for v in (c, d)])
        return self.reshape(wide, [c * d for c, d in zip(counts, shape)])

    def repeat(self: "Graph", x: "Node", count: int, axis: int) -> "Node":
        """numpy.repeat: every element of an axis `count` times."""
        at = x._axis(axis)
        wide = self.reshape(x, [*x.shape[:at + 1], 1, *x.shape[at + 1:]])
        wide = self.expand(wide, [*x.shape[:at + 1], count, *x.shape[at + 1:]])
        return self.reshape(wide, [*x.shape[:at], x.shape[at] * count, *x.shape[at + 1:]])

    def _pad_by_index(self: "Graph", x: "Node", amounts: Sequence[tuple[int, int]], mode: str) -> "Node":
        if mode not in ("edge", "reflect", "symmetric", "wrap"):
            raise _bad(f"pad mode {mode!r}, expected constant, edge, reflect, symmetric or wrap")
        for axis, (lo, hi) in enumerate(amounts):
            n = _number(x.shape[axis], f"pad mode {mode}")
            if not lo and not hi:
                continue
            if n == 0 or lo < 0 or hi < 0:
                raise _bad(f"pad {mode} of ({lo}, {hi}) around {n} elements")
            at = self.arange(lo + n + hi, "i64") - lo
            if mode == "edge":
                at = self.clip(at, 0, n - 1)
            elif mode == "wrap":
                at = self.floormod(at, n)
            else:
                period = max(2 * (n - 1), 1) if mode == "reflect" else 2 * n
                at = self.floormod(at, period)
                back = (period if mode == "reflect" else 2 * n - 1) - at
                at = self.where(self.cmplt(at, n), at, back)
            x = self.gather(x, at, axis)
        return x

    def tril(self: "Graph", x: "Node", k: int = 0) -> "Node":
        """The lower triangle of the last two axes, the rest 0; k: how many diagonals above the main one stay."""
        i, j = self._coordinates(x)
        return self.where(self.cmple(j, i + k), x, 0)

    def triu(self: "Graph", x: "Node", k: int = 0) -> "Node":
        """The upper triangle of the last two axes, the rest 0; k: how many diagonals above the main one go."""
        i, j = self._coordinates(x)
        return self.where(self.cmple(i + k, j), x, 0)

    def _coordinates(self: "Graph", x: "Node") -> tuple["Node", "Node"]:
        if x.rank < 2:
            raise _bad(f"a triangle of a tensor of rank {x.rank}")
        return self.iota("i64", x.shape[-2:], 0), self.iota("i64", x.shape[-2:], 1)

    # -- elementwise

    def clip(self: "Graph", x: "Node", low: "Operand | None" = None, high: "Operand | None" = None) -> "Node":
        """min(max(x, low), high); NaN stays."""
        x = x if low is None else self.max(x, low)
        return x if high is None else self.min(x, high)

    def maximum(self: "Graph", a: "Operand", b: "Operand") -> "Node":
        """max() under numpy's name: NaN if either is."""
        return self.max(a, b)

    def minimum(self: "Graph", a: "Operand", b: "Operand") -> "Node":
        """min() under numpy's name: NaN if either is."""
        return self.min(a, b)

    def isnan(self: "Graph", x: "Node") -> "Node":
        """Whether x is NaN, as bool."""
        return self.cmpne(x, x)

    def isinf(self: "Graph", x: "Node") -> "Node":
        """Whether x is inf or -inf, as bool."""
        return self.cmpeq(self.abs(x), math.inf)

    def sign(self: "Graph", x: "Node") -> "Node":
        """-1, 0 or 1; NaN stays, and so does the sign of zero."""
        return self.where(self.cmplt(x, 0), self.const(-1, x.dtype), self.where(self.cmplt(0, x), 1, x)) \
            if _signed(x.dtype) else self.min(x, 1)

    def square(self: "Graph", x: "Node") -> "Node":
        """x * x."""
        return self.mul(x, x)

    def rsqrt(self: "Graph", x: "Node") -> "Node":
        """1 / sqrt(x)."""
        return self.recip(self.sqrt(x))

    def log1p(self: "Graph", x: "Node") -> "Node":
        """log(1 + x), accurate near 0."""
        u = x + 1
        plain = self.log(u) * (x / (u - 1))
        return self.where(self.cmpeq(u, 1), x, self.where(self.isinf(u), u, plain))

    def expm1(self: "Graph", x: "Node") -> "Node":
        """exp(x) - 1, accurate near 0."""
        half = self.tanh(x * 0.5)
        near = 2 * half / (1 - half)
        return self.where(self.cmplt(self.abs(x), 0.5), near, self.exp(x) - 1)

    def relu(self: "Graph", x: "Node") -> "Node":
        """max(x, 0); NaN stays."""
        return self.max(x, 0)

    def sigmoid(self: "Graph", x: "Node") -> "Node":
        """1 / (1 + exp(-x))."""
        return self.recip(self.exp(-x) + 1)

    def silu(self: "Graph", x: "Node") -> "Node":
        """x * sigmoid(x)."""
        return x / (self.exp(-x) + 1)

    def gelu(self: "Graph", x: "Node", approximate: bool = False) -> "Node":
        """x * (1 + erf(x / sqrt(2))) / 2; approximate: the form with tanh."""
        if approximate:
            return x * 0.5 * (self.tanh((x + x * x * x * 0.044715) * math.sqrt(2 / math.pi)) + 1)
        return x * 0.5 * (self.erf(x * math.sqrt(0.5)) + 1)

    def softplus(self: "Graph", x: "Node") -> "Node":
        """log(1 + exp(x)), without overflow."""
        return self.max(x, 0) + self.log1p(self.exp(-self.abs(x)))

    # -- reductions

    def _wide(self: "Graph", x: "Node") -> "Node":
        return self.cast(x, "f32") if x.dtype in HALVES else x

    def _count(self: "Graph", x: "Node", axes: Sequence[int], dtype: int) -> "Operand":
        n = _size.product(x.shape[k] for k in axes)
        return self.cast(self.size(n), dtype) if isinstance(n, Size) else n

    def mean(self: "Graph", x: "Node", axes: "Axes" = None, keepdims: bool = False) -> "Node":
        """The mean over axes of floats; NaN over nothing."""
        w, at = self._wide(x), x._axes(axes)
        return self._like(self.div(self.reduce_sum(w, at, keepdims), self._count(x, at, w.dtype)), x)

    def _like(self: "Graph", y: "Node", x: "Node") -> "Node":
        return y if y.dtype == x.dtype else self.cast(y, x.dtype)

    def var(self: "Graph", x: "Node", axes: "Axes" = None, keepdims: bool = False, ddof: int = 0) -> "Node":
        """The variance over axes of floats: the mean of the squared distances from the mean, divided by the count less ddof."""
        w, at = self._wide(x), x._axes(axes)
        d = w - self.mean(w, at, keepdims=True)
        n = self._count(x, at, w.dtype)
        return self._like(self.div(self.reduce_sum(d * d, at, keepdims), n - ddof if ddof else n), x)

    def std(self: "Graph", x: "Node", axes: "Axes" = None, keepdims: bool = False, ddof: int = 0) -> "Node":
        """The square root of var()."""
        return self._like(self.sqrt(self.var(self._wide(x), axes, keepdims, ddof)), x)

    def any(self: "Graph", x: "Node", axes: "Axes" = None, keepdims: bool = False) -> "Node":
        """Whether anything along the axes is not 0, as bool."""
        return self.reduce_max(self.cast(x, "bool"), axes, keepdims)

    def all(self: "Graph", x: "Node", axes: "Axes" = None, keepdims: bool = False) -> "Node":
        """Whether everything along the axes is not 0, as bool."""
        return self.reduce_min(self.cast(x, "bool"), axes, keepdims)

    def logsumexp(self: "Graph", x: "Node", axes: "Axes" = None, keepdims: bool = False) -> "Node":
        """log(sum(exp(x))) over axes, without overflow."""
        w, at = self._wide(x), x._axes(axes)
        top = self.reduce_max(w, at, keepdims=True)
        top = self.where(self.isinf(top), 0, top)
        y = self.log(self.reduce_sum(self.exp(w - top), at, keepdims=True)) + top
        return self._like(y if keepdims else self.squeeze(y, at), x)

    def argmax(self: "Graph", x: "Node", axis: int, keepdims: bool = False) -> "Node":
        """The position of the first largest element along axis, as i64; a NaN counts as the largest."""
        return self._arg(x, axis, keepdims, self.reduce_max)

    def argmin(self: "Graph", x: "Node", axis: int, keepdims: bool = False) -> "Node":
        """The position of the first smallest element along axis, as i64; a NaN counts as the smallest."""
        return self._arg(x, axis, keepdims, self.reduce_min)

    def _arg(self: "Graph", x: "Node", axis: int, keepdims: bool, reduce: Callable[..., "Node"]) -> "Node":
        at = x._axis(axis)
        if x.shape[at] == 0:
            raise _bad("the position of an extreme among no elements")
        best = reduce(x, at, True)
        hit = self.cmpeq(x, best)
        if _codec.is_float(x.dtype):
            hit = self.or_(hit, self.isnan(x))
        place = self.iota("i64", x.shape, at)
        return self.reduce_min(self.where(hit, place, (1 << 62)), at, keepdims)

    def cumsum(self: "Graph", x: "Node", axis: int, reverse: bool = False) -> "Node":
        """The sums of prefixes along axis; reverse: of suffixes."""
        return self._prefixes(self._wide(x), axis, reverse, 0, self.reduce_sum, x)

    def cumprod(self: "Graph", x: "Node", axis: int, reverse: bool = False) -> "Node":
        """The products of prefixes along axis; reverse: of suffixes."""
        return self._prefixes(self._wide(x), axis, reverse, 1, self.reduce_prod, x)

    def _prefixes(self: "Graph", w: "Node", axis: int, reverse: bool, nothing: int, reduce: Callable[..., "Node"], x: "Node") -> "Node":
        at = w._axis(axis)
        w = self.moveaxis(w, at, -1)
        w = self.flip(w, -1) if reverse else w
        y = self._running(w, nothing, reduce, self.add if nothing == 0 else self.mul, 3)
        y = self.flip(y, -1) if reverse else y
        return self._like(self.moveaxis(y, -1, at), x)

    def _running(self: "Graph", w: "Node", nothing: int, reduce: Callable[..., "Node"], combine: Callable[..., "Node"], depth: int) -> "Node":
        """Prefixes along the last axis: within blocks, and, for the blocks before, of their totals in the same way."""
        n, block = w.shape[-1], 32
        if depth == 0 or (isinstance(n, int) and n <= 2 * block):
            rows = self.expand(self.unsqueeze(w, -2), [*w.shape, n])
            keep = self.cmple(self.iota("i64", (n, n), 1), self.iota("i64", (n, n), 0))
            return reduce(self.where(keep, rows, nothing), -1)
        count = (n + block - 1) // block
        w = self.pad(w, [(0, 0)] * (w.rank - 1) + [(0, count * block - n)], nothing)
        inner = self.contiguous(self._running(self.reshape(w, [*w.shape[:-1], count, block]), nothing, reduce, combine, depth))
        whole = (0, count)
        totals = self.reshape(self.shrink(inner, [(0, d) for d in inner.shape[:-1]] + [(block - 1, block)]), inner.shape[:-1])
        before = self.contiguous(self._running(totals, nothing, reduce, combine, depth - 1))
        before = self.pad(before, [(0, 0)] * (before.rank - 1) + [(1, 0)], nothing)
        before = self.shrink(before, [(0, d) for d in before.shape[:-1]] + [whole])
        y = self.reshape(combine(inner, self.unsqueeze(before, -1)), [*inner.shape[:-2], count * block])
        return self.shrink(y, [(0, d) for d in y.shape[:-1]] + [(0, n)])

    # -- normalisation

    def softmax(self: "Graph", x: "Node", axis: "Axes" = -1) -> "Node":
        """exp(x - max) / sum(exp(x - max)) along an axis, or several."""
        w, at = self._wide(x), x._axes(axis)
        e = self.exp(w - self.reduce_max(w, at, keepdims=True))
        return self._like(e * self.recip(self.reduce_sum(e, at, keepdims=True)), x)

    def log_softmax(self: "Graph", x: "Node", axis: "Axes" = -1) -> "Node":
        """log(softmax(x)), without underflow."""
        w, at = self._wide(x), x._axes(axis)
        d = w - self.reduce_max(w, at, keepdims=True)
        return self._like(d - self.log(self.reduce_sum(self.exp(d), at, keepdims=True)), x)

    def layernorm(self: "Graph", x: "Node", weight: "Node | None" = None, bias: "Node | None" = None, axes: "Axes" = -1,
                  epsilon: float = 1e-5) -> "Node":
        """(x - mean) / sqrt(var + epsilon) over axes, times weight, plus bias, which broadcast against x."""
        w, at = self._wide(x), x._axes(axes)
        d = w - self.mean(w, at, keepdims=True)
        y = d * self.rsqrt(self.mean(d * d, at, keepdims=True) + epsilon)
        y = y if weight is None else y * self._wide(weight)
        return self._like(y if bias is None else y + self._wide(bias), x)

    def rmsnorm(self: "Graph", x: "Node", weight: "Node | None" = None, axes: "Axes" = -1, epsilon: float = 1e-6) -> "Node":
        """x / sqrt(mean(x * x) + epsilon) over axes, times weight, which broadcasts against x."""
        w, at = self._wide(x), x._axes(axes)
        y = w * self.rsqrt(self.mean(w * w, at, keepdims=True) + epsilon)
        return self._like(y if weight is None else y * self._wide(weight), x)

    # -- indexing

    def one_hot(self: "Graph", indices: "Node", depth: Dim, dtype: Any = "f32", axis: int = -1) -> "Node":
        """1 where the new axis of `depth` elements has the index, else 0; an index outside is all 0."""
        at = axis + indices.rank + 1 if axis < 0 else axis
        wide = self.unsqueeze(self.cast(indices, "i64"), at)
        shape = [depth if k == at else d for k, d in enumerate(wide.shape)]
        return self.cast(self.cmpeq(wide, self.iota("i64", shape, at)), dtype)

    def take(self: "Graph", x: "Node", indices: "Node", axis: int) -> "Node":
        """gather() with numpy's negative indices, which count from the end; outside of [-size, size) reads 0."""
        n, wide = x.shape[x._axis(axis)], self.cast(indices, "i64")
        last = self.size(n) if isinstance(n, Size) else n
        return self.gather(x, self.where(self.cmplt(wide, 0), wide + last, wide), axis)

    def take_along_axis(self: "Graph", x: "Node", indices: "Node", axis: int) -> "Node":
        """numpy.take_along_axis: indices has x's rank, and x's size or 1 on the other axes; outside of [-size, size) reads 0."""
        at = x._axis(axis)
        if indices.rank != x.rank:
            raise _bad(f"indices of rank {indices.rank} for data of rank {x.rank}")
        x, wide = self.moveaxis(x, at, -1), self.moveaxis(self.cast(indices, "i64"), at, -1)
        n, k, rows = x.shape[-1], wide.shape[-1], _size.product(x.shape[:-1])
        shape = [*x.shape[:-1], k]
        last = self.size(n) if isinstance(n, Size) else n
        place = self.reshape(self.expand(wide, shape), [rows, k])
        place = self.where(self.cmplt(place, 0), place + last, place)
        inside = self.and_(self.cmple(0, place), self.cmplt(place, last))
        flat = self.where(inside, self.iota("i64", (rows, k), 0) * last + place, -1)
        return self.moveaxis(self.reshape(self.gather(self.reshape(x, [rows * n]), flat), shape), -1, at)

    def scatter(self: "Graph", x: "Node", indices: "Node", updates: "Node", axis: int = 0, how: str = "set") -> "Node":
        """The inverse of gather(): updates, of shape x[:axis] + indices + x[axis+1:], written to x at the indices along axis.

        how: "set" (the last of several updates of one element stays), "add", "mul", "max" or "min" (all of them, with the element's
        old value, in order; half floats are added and multiplied in f32). An index outside of [0, size) writes nothing.
        """
        scatter_number(how)
        at, count = x._axis(axis), _size.product(indices.shape)
        place = self.reshape(indices, [*[1] * at, count, *[1] * (x.rank - at - 1)])
        upd = self.reshape(updates, [*x.shape[:at], count, *x.shape[at + 1:]])
        if how not in ("add", "mul") or updates.dtype != x.dtype:
            return self.scatter_along(x, place, upd, at, how)
        return self._like(self.scatter_along(self._wide(x), place, self._wide(upd), at, how), x)

    def index_add(self: "Graph", x: "Node", indices: "Node", updates: "Node", axis: int = 0) -> "Node":
        """scatter() that adds: the gradient of gather(x, indices, axis) is index_add(zeros, indices, the gradient of its result)."""
        return self.scatter(x, indices, updates, axis, "add")

    # -- order

    def sort(self: "Graph", x: "Node", axis: int = -1, descending: bool = False) -> "Node":
        """Sorted along axis; equal elements keep their order, NaN goes last."""
        return self.take_along_axis(x, self.argsort(x, axis, descending), axis)

    def topk(self: "Graph", x: "Node", k: Dim, axis: int = -1, largest: bool = True) -> tuple["Node", "Node"]:
        """The k largest (or smallest) elements along axis in order, and their positions as i64; NaN goes last."""
        at = x._axis(axis)
        n = x.shape[at]
        if isinstance(k, int) and isinstance(n, int) and not 0 <= k <= n:
            raise _bad(f"the {k} largest of {n} elements")
        order = self.shrink(self.argsort(x, at, largest), [(0, k if a == at else d) for a, d in enumerate(x.shape)])
        return self.take_along_axis(x, order, at), order

    # -- contractions

    def outer(self: "Graph", a: "Node", b: "Node") -> "Node":
        """a[i] * b[j] of two vectors."""
        return self.mul(self.unsqueeze(a, 1), self.unsqueeze(b, 0))

    def einsum(self: "Graph", text: str, *operands: "Node") -> "Node":
        """numpy.einsum for one or more operands of one dtype: "bij,bjk->bik", "ii->i", "...ij->...ji", with or without the result.

        Operands are contracted from left to right.
        """
        from ._einsum import einsum

        return einsum(self, text, operands)

    def conv2d(self: "Graph", x: "Node", w: "Node", bias: "Node | None" = None, stride: int | Sequence[int] = 1,
               padding: int | Sequence[int] = 0, dilation: int | Sequence[int] = 1, groups: int = 1) -> "Node":
        """2-d convolution: x [N, C, H, W], w [M, C/groups, KH, KW], bias [M]; zeros are added around H and W.

        padding: a number, (H, W), or (top, bottom, left, right).
        """
        return self.conv(x, w, bias, _several(stride, 2, "stride"), _paddings(padding), _several(dilation, 2, "dilation"), groups)

    def conv(self: "Graph", x: "Node", w: "Node", bias: "Node | None", stride: Sequence[int], padding: Sequence[tuple[int, int]],
             dilation: Sequence[int], groups: int = 1) -> "Node":
        """Convolution over the axes from the third on: x [N, C, ...], w [M, C/groups, ...], bias [M] or None; one number per such axis,
        of padding a pair."""
        n = x.rank - 2
        if n < 1 or w.rank != x.rank or not len(stride) == len(padding) == len(dilation) == n:
            raise _bad(f"convolution of rank {x.rank} by rank {w.rank} with {len(stride)} strides")
        m, per = _number(w.shape[0], "a convolution's channels"), _number(w.shape[1], "a convolution's channels")
        if groups < 1 or m % groups or (isinstance(x.shape[1], int) and x.shape[1] != per * groups):
            raise _bad(f"convolution of {x.shape[1]} channels in {groups} groups by a kernel of shape {list(w.shape)}")
        out = x
        x, w = self._wide(x), self._wide(w)
        x = self.pad(x, [(0, 0), (0, 0), *padding])
        kernel = [_number(d, "a convolution's kernel") for d in w.shape[2:]]
        x = self._windows(x, kernel, stride, dilation)  # [N, C, out..., kernel...]
        batch, spatial = x.shape[0], x.shape[2:2 + n]
        x = self.reshape(x, [batch, groups, 1, per, *spatial, *kernel])
        order = [0, 1, 2, *range(4, 4 + n), 3, *range(4 + n, 4 + 2 * n)]
        x = self.permute(x, order)  # [N, groups, 1, out..., C/groups, kernel...]
        w = self.reshape(w, [groups, m // groups, *[1] * n, per, *kernel])
        y = self.reduce_sum(self.mul(x, w), range(3 + n, 4 + 2 * n))
        y = self.reshape(y, [batch, m, *spatial])
        y = y if bias is None else y + self.reshape(self._wide(bias), [m, *[1] * n])
        return self._like(y, out)

    def _windows(self: "Graph", x: "Node", kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int]) -> "Node":
        n = len(kernel)
        for k in range(n):
            x = self.window(x, 2 + 2 * k, kernel[k], stride[k], dilation[k])
        return self.permute(x, [0, 1, *range(2, 2 + 2 * n, 2), *range(3, 3 + 2 * n, 2)])

    def max_pool2d(self: "Graph", x: "Node", size: int | Sequence[int], stride: int | Sequence[int] | None = None,
                   padding: int | Sequence[int] = 0) -> "Node":
        """The maximum of windows of the last two of four axes; stride: the size when not given. Padding never is the maximum."""
        return self._pool(x, size, stride, padding, lowest(x.dtype), self.reduce_max)

    def avg_pool2d(self: "Graph", x: "Node", size: int | Sequence[int], stride: int | Sequence[int] | None = None,
                   padding: int | Sequence[int] = 0) -> "Node":
        """The mean of windows of the last two of four axes; stride: the size when not given. Padding counts as zeros."""
        return self._pool(x, size, stride, padding, 0, self.mean)

    def _pool(self: "Graph", x: "Node", size: Any, stride: Any, padding: Any, fill: Any, reduce: Callable[..., "Node"]) -> "Node":
        if x.rank != 4:
            raise _bad(f"pooling of rank {x.rank}, expected 4")
        kernel = _several(size, 2, "size")
        x = self.pad(x, [(0, 0), (0, 0), *_paddings(padding)], fill)
        return reduce(self._windows(x, kernel, kernel if stride is None else _several(stride, 2, "stride"), (1, 1)), (4, 5))


def _several(v: int | Sequence[int], n: int, what: str) -> list[int]:
    out = [v] * n if isinstance(v, int) else [int(k) for k in v]
    if len(out) != n:
        raise _bad(f"{what} of {len(out)} numbers, expected {n}")
    return out


def _paddings(v: int | Sequence[int]) -> list[tuple[int, int]]:
    p = [v] * 4 if isinstance(v, int) else [int(k) for k in v]
    if len(p) == 2:
        p = [p[0], p[0], p[1], p[1]]
    if len(p) != 4:
        raise _bad(f"padding of {len(p)} numbers, expected 1, 2 or 4")
    return [(p[0], p[1]), (p[2], p[3])]


def _signed(dtype: int) -> bool:
    return _codec.dtype_name(dtype)[0] not in "u" and dtype != graph_pb2.DTYPE_BOOL


def _range(dtype: int) -> tuple[Any, Any]:
    name = _codec.dtype_name(dtype)
    if dtype == graph_pb2.DTYPE_BOOL:
        return False, True
    if _codec.is_float(dtype):
        return -math.inf, math.inf
    bits = int(name[1:])
    return (0, (1 << bits) - 1) if name[0] == "u" else (-(1 << (bits - 1)), (1 << (bits - 1)) - 1)


def scatter_number(how: str) -> int:
    """What SCATTER_ALONG calls it."""
    names = ("set", "add", "mul", "max", "min")
    if how not in names:
        raise _bad(f"scatter how={how!r}, expected set, add, mul, max or min")
    return names.index(how)


def lowest(dtype: int) -> Any:
    """What max() over a dtype starts from."""
    return _range(dtype)[0]


class NodeMethods:
    """Operators, indexing and the usual methods of Node; all are Graph methods with the node first."""

    def sum(self: "Node", axis: "Axes" = None, keepdims: bool = False) -> "Node":
        """Sum over axis (an int, several, or None for all)."""
        return self.graph.reduce_sum(self, axis, keepdims)

    def prod(self: "Node", axis: "Axes" = None, keepdims: bool = False) -> "Node":
        """Product over axis."""
        return self.graph.reduce_prod(self, axis, keepdims)

    def amax(self: "Node", axis: "Axes" = None, keepdims: bool = False) -> "Node":
        """Maximum over axis; NaN propagates."""
        return self.graph.reduce_max(self, axis, keepdims)

    def amin(self: "Node", axis: "Axes" = None, keepdims: bool = False) -> "Node":
        """Minimum over axis; NaN propagates."""
        return self.graph.reduce_min(self, axis, keepdims)

    def mean(self: "Node", axis: "Axes" = None, keepdims: bool = False) -> "Node":
        """Mean over axis."""
        return self.graph.mean(self, axis, keepdims)

    def var(self: "Node", axis: "Axes" = None, keepdims: bool = False, ddof: int = 0) -> "Node":
        """Variance over axis."""
        return self.graph.var(self, axis, keepdims, ddof)

    def argmax(self: "Node", axis: int, keepdims: bool = False) -> "Node":
        """Position of the first largest element, i64."""
        return self.graph.argmax(self, axis, keepdims)

    def argmin(self: "Node", axis: int, keepdims: bool = False) -> "Node":
        """Position of the first smallest element, i64."""
        return self.graph.argmin(self, axis, keepdims)

    def reshape(self: "Node", *dims: Any) -> "Node":
        """The same elements with another shape; one dim may be -1."""
        return self.graph.reshape(self, dims[0] if len(dims) == 1 and isinstance(dims[0], (list, tuple)) else dims)

    def permute(self: "Node", *order: Any) -> "Node":
        """Result axis k is axis order[k]."""
        return self.graph.permute(self, order[0] if len(order) == 1 and isinstance(order[0], (list, tuple)) else order)

    def transpose(self: "Node", *order: Any) -> "Node":
        """The axes in another order, reversed without one."""
        return self.permute(*order) if order else self.graph.transpose(self)

    @property
    def T(self: "Node") -> "Node":
        """The axes reversed."""
        return self.graph.transpose(self)

    def cast(self: "Node", dtype: Any) -> "Node":
        """The values as another dtype."""
        return self.graph.cast(self, dtype)

    def astype(self: "Node", dtype: Any) -> "Node":
        """cast() under numpy's name."""
        return self.graph.cast(self, dtype)

    def flatten(self: "Node") -> "Node":
        """All axes as one."""
        return self.graph.flatten(self)

    def clip(self: "Node", low: "Operand | None" = None, high: "Operand | None" = None) -> "Node":
        """Limited to [low, high]."""
        return self.graph.clip(self, low, high)

    def __getitem__(self: "Node", key: Any) -> "Node":
        """numpy's basic indexing: ints, slices (steps too), None, Ellipsis; and one integer Node, which gathers along its axis."""
        g, x, axis = self.graph, self, 0
        keys = list(key) if isinstance(key, tuple) else [key]
        used = sum(k is not None and k is not Ellipsis for k in keys)
        if used > x.rank or sum(k is Ellipsis for k in keys) > 1:
            raise _bad(f"{len(keys)} indices of a tensor of rank {x.rank}")
        if Ellipsis not in [k if k is Ellipsis else None for k in keys]:
            keys.append(Ellipsis)
        for k in keys:
            if k is Ellipsis:
                axis += self.rank - used
            elif k is None:
                x, axis = g.unsqueeze(x, axis), axis + 1
            elif isinstance(k, slice):
                x, axis = _sliced(g, x, axis, k), axis + 1
            elif isinstance(k, NodeMethods):
                x, axis = g.take(x, k, axis), axis + k.rank  # type: ignore[arg-type,attr-defined]
            elif hasattr(k, "__index__"):
                n, at = x.shape[axis], int(k)
                if isinstance(n, int) and not -n <= at < n:
                    raise _bad(f"index {at} of an axis of {n} elements")
                begin = n + at if at < 0 else at
                x = g.squeeze(g.shrink(x, [(begin, begin + 1) if a == axis else (0, d) for a, d in enumerate(x.shape)]), axis)
            else:
                raise _bad(f"an index is an int, a slice, None, Ellipsis or an integer Node, got {type(k).__name__}")
        return x

    def __add__(self: "Node", o: "Operand") -> "Node": return self.graph.add(self, o)
    def __radd__(self: "Node", o: "Operand") -> "Node": return self.graph.add(o, self)
    def __sub__(self: "Node", o: "Operand") -> "Node": return self.graph.sub(self, o)
    def __rsub__(self: "Node", o: "Operand") -> "Node": return self.graph.sub(o, self)
    def __mul__(self: "Node", o: "Operand") -> "Node": return self.graph.mul(self, o)
    def __rmul__(self: "Node", o: "Operand") -> "Node": return self.graph.mul(o, self)
    def __truediv__(self: "Node", o: "Operand") -> "Node": return self.graph.div(self, o)
    def __rtruediv__(self: "Node", o: "Operand") -> "Node": return self.graph.div(o, self)
    def __floordiv__(self: "Node", o: "Operand") -> "Node": return self.graph.floordiv(self, o)
    def __rfloordiv__(self: "Node", o: "Operand") -> "Node": return self.graph.floordiv(o, self)
    def __mod__(self: "Node", o: "Operand") -> "Node": return self.graph.floormod(self, o)
    def __rmod__(self: "Node", o: "Operand") -> "Node": return self.graph.floormod(o, self)
    def __pow__(self: "Node", o: "Operand") -> "Node": return self.graph.pow(self, o)
    def __rpow__(self: "Node", o: "Operand") -> "Node": return self.graph.pow(o, self)
    def __matmul__(self: "Node", o: "Node") -> "Node": return self.graph.matmul(self, o)
    def __neg__(self: "Node") -> "Node": return self.graph.neg(self)
    def __abs__(self: "Node") -> "Node": return self.graph.abs(self)
    def __invert__(self: "Node") -> "Node": return self.graph.not_(self)
    def __lt__(self: "Node", o: "Operand") -> "Node": return self.graph.cmplt(self, o)
    def __le__(self: "Node", o: "Operand") -> "Node": return self.graph.cmple(self, o)
    def __gt__(self: "Node", o: "Operand") -> "Node": return self.graph.cmplt(o, self)
    def __ge__(self: "Node", o: "Operand") -> "Node": return self.graph.cmple(o, self)
    def __and__(self: "Node", o: "Operand") -> "Node": return self.graph.and_(self, o)
    def __rand__(self: "Node", o: "Operand") -> "Node": return self.graph.and_(o, self)
    def __or__(self: "Node", o: "Operand") -> "Node": return self.graph.or_(self, o)
    def __ror__(self: "Node", o: "Operand") -> "Node": return self.graph.or_(o, self)
    def __xor__(self: "Node", o: "Operand") -> "Node": return self.graph.xor(self, o)
    def __rxor__(self: "Node", o: "Operand") -> "Node": return self.graph.xor(o, self)
    def __lshift__(self: "Node", o: "Operand") -> "Node": return self.graph.shl(self, o)
    def __rlshift__(self: "Node", o: "Operand") -> "Node": return self.graph.shl(o, self)
    def __rshift__(self: "Node", o: "Operand") -> "Node": return self.graph.shr(self, o)
    def __rrshift__(self: "Node", o: "Operand") -> "Node": return self.graph.shr(o, self)

    __array_ufunc__ = None  # an array on the left leaves the operator to the node, which says what it takes
    __iter__ = None


def _sliced(g: "Graph", x: "Node", axis: int, k: slice) -> "Node":
    n = x.shape[axis]
    if k.start is None and k.stop is None and k.step in (None, 1):
        return x
    if isinstance(n, Size):
        if k.step not in (None, 1):
            raise Error("UNIMPLEMENTED", f"a slice with a step of an axis of size {n!r}")
        ends = [0 if k.start is None else k.start, n if k.stop is None else k.stop]
        begin, end = (n + e if isinstance(e, int) and e < 0 else e for e in ends)
        return g.shrink(x, [(begin, end) if a == axis else (0, d) for a, d in enumerate(x.shape)])
    begin, end, step = k.indices(n)
    if step > 0:
        return g.slice(x, axis, begin, max(begin, end), step)
    begin, end = n - 1 - begin, n - 1 - end
    return g.slice(g.flip(x, axis), axis, begin, max(begin, end), -step)
