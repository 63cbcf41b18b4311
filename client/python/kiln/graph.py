"""Building a native graph by calling its ops.

    g = kiln.Graph()
    x = g.param("x", "f32", (4, "n"))            # a name is a dimension whose size each run decides
    g.output("y", g.exp2(x).sum(axis=1))

Every op of the graph format (docs/graph-ops.md) is a method of Graph with the op's name in lower case; and_, or_ and not_ have an
underscore. What numpy users expect beyond that is composed of these ops: see docs/graph-python.md. Node has the operators, indexing, and the
usual methods.

Elementwise operands broadcast as in numpy; Python numbers become constants of the other operand's dtype. What can be checked here is, and
raises kiln.Error with INVALID_ARGUMENT; the rest is checked by the server, whose error names the node.
"""
from __future__ import annotations

import inspect
from typing import Any, Sequence, Union

import numpy as np

from . import _codec, _size
from ._compose import Composed, NodeMethods, scatter_number
from ._errors import Error
from ._ops import OPS
from ._random import RandomOps
from ._size import Dim, Size
from .v1 import graph_pb2

Operand = Union["Node", int, float, bool]
Shape = tuple[Dim, ...]
DEFAULT_MAX = 65536


def _bad(message: str) -> Error:
    return Error("INVALID_ARGUMENT", message)


def _text(shape: Sequence[Dim]) -> str:
    return f"[{', '.join(map(str, shape))}]"


def _fits(kind: str, dtype: int) -> bool:
    is_bool = dtype == graph_pb2.DTYPE_BOOL
    return {"FLOAT": _codec.is_float(dtype), "NUMERIC": not is_bool, "BITS": not _codec.is_float(dtype),
            "INTEGER": not is_bool and not _codec.is_float(dtype)}.get(kind, True)


def _broadcast(op: str, *shapes: Sequence[Dim]) -> Shape:
    """The shape that the shapes of an op's sources broadcast to, as in numpy; sizes that only a run knows are left to the server."""
    rank, out = max(map(len, shapes), default=0), []
    for k in range(rank):
        dims = {s[k - rank + len(s)] for s in shapes if k - rank + len(s) >= 0}
        numbers = {d for d in dims if isinstance(d, int)} - {1}
        if len(numbers) > 1:
            raise _bad(f"{op}: shapes {' and '.join(map(_text, shapes))} do not broadcast")
        sizes = [d for d in dims if isinstance(d, Size)]
        out.append(numbers.pop() if numbers else sizes[0] if sizes else 1)
    return tuple(out)


class Node(NodeMethods):
    """A value of a graph: graph, index (its number), dtype (a DType number), shape (ints and kiln.Size)."""

    def __init__(self, graph: "Graph", index: int, dtype: int, shape: Sequence[Dim]):
        self.graph, self.index, self.dtype, self.shape = graph, index, dtype, tuple(shape)

    @property
    def rank(self) -> int:
        """The number of axes."""
        return len(self.shape)

    @property
    def ndim(self) -> int:
        """The number of axes, as numpy calls it."""
        return len(self.shape)

    @property
    def dtype_name(self) -> str:
        """The dtype as text, "f32"."""
        return _codec.dtype_name(self.dtype)

    def __repr__(self) -> str:
        return f"<kiln.Node {self.index}: {self.dtype_name}{_text(self.shape)}>"

    def _axis(self, axis: int) -> int:
        if not -self.rank <= axis < self.rank:
            raise _bad(f"axis {axis} of a tensor of rank {self.rank}")
        return axis % self.rank

    def _axes(self, axis: int | Sequence[int] | None) -> list[int]:
        axes = range(self.rank) if axis is None else [axis] if hasattr(axis, "__index__") else axis
        out = [self._axis(int(a)) for a in axes]  # type: ignore[union-attr]
        if len(set(out)) != len(out):
            raise _bad(f"an axis occurs twice in {list(axes)}")  # type: ignore[arg-type]
        return out


class Graph(Composed, RandomOps):
    """A graph under construction."""

    def __init__(self) -> None:
        self._proto = graph_pb2.Graph()
        self._consts: dict[tuple[int, Any], Node] = {}
        self._sizes: dict[Any, int] = {}
        self._dims: dict[str, tuple[int, int, int]] = {}

    def _to_proto(self) -> graph_pb2.Graph:
        if not self._proto.outputs and all(n.op != graph_pb2.ASSIGN for n in self._proto.nodes):
            raise Error("FAILED_PRECONDITION", "the graph has no output; call output(name, node)")
        return self._proto

    def serialize(self) -> bytes:
        """The graph as a serialized kiln.v1.Graph: what a .kgraph file holds."""
        return self._to_proto().SerializeToString()

    def _node(self, op: str, src: Sequence[Node], shape: Sequence[Dim], ints: Sequence[Dim] = (), dtype: int | None = None,
              result: int | None = None, **fields: Any) -> Node:
        info = OPS[op]
        for s in src:
            if not isinstance(s, Node) or s.graph is not self:
                raise _bad(f"{op}: an operand is {'a node of another graph' if isinstance(s, Node) else type(s).__name__}")
        checked = src[:1] if op in ("PAD", "GATHER") else src
        for s in checked:
            if not _fits(info.dtypes, s.dtype):
                raise _bad(f"{op} of {s.dtype_name}")
        node = self._proto.nodes.add(op=graph_pb2.GraphOp.Value(op), src=[s.index for s in src], **fields)
        if any(isinstance(i, Size) for i in ints):
            node.sizes.extend(1 + _size.emit(self._proto, self._sizes, i) if isinstance(i, Size) else 0 for i in ints)
        node.ints.extend(0 if isinstance(i, Size) else int(i) for i in ints)
        if dtype is not None:
            node.dtype = dtype
        known = {"BOOL": graph_pb2.DTYPE_BOOL, "I64": graph_pb2.DTYPE_I64}.get(info.result)
        if known is None:
            known = result if result is not None else dtype if dtype is not None else src[1 if info.result == "BRANCH" else 0].dtype
        return Node(self, len(self._proto.nodes) - 1, known, shape)

    def _operands(self, op: str, *operands: Operand) -> list[Node]:
        """Python numbers as constants of the nodes' dtype, which has to be one."""
        nodes = [v for v in operands if isinstance(v, Node)]
        if not nodes:
            raise _bad(f"{op}: at least one operand must be a node of the graph")
        for v in nodes:
            if v.dtype != nodes[0].dtype:
                raise _bad(f"{op} of {nodes[0].dtype_name} and {v.dtype_name}; cast() converts")
        return [v if isinstance(v, Node) else self.const(v, nodes[0].dtype) for v in operands]

    def _elementwise(self, op: str, *operands: Operand) -> Node:
        nodes = self._operands(op, *operands)
        return self._node(op, nodes, _broadcast(op, *(n.shape for n in nodes)))

    # -- leaves

    def dim(self, name: str, min: int = 1, max: int = DEFAULT_MAX, multiple: int = 1) -> Size:
        """A named dimension with bounds, for the shapes of param(): every run may have another size in [min, max] that is a multiple of `multiple`.

        The same name always means the same size. Options(dims=...) can narrow the bounds, or fix the size.
        """
        if not name or not 0 <= min <= max or multiple < 1:
            raise _bad(f"dim {name!r}: bounds [{min}, {max}], multiple {multiple}")
        if self._dims.setdefault(name, (min, max, multiple)) != (min, max, multiple):
            raise _bad(f"dim {name!r} has the bounds {self._dims[name]} already")
        return Size.atom("dim", name)  # type: ignore[return-value]

    def param(self, name: str, dtype: Any, shape: Sequence[int | str | Size], state: bool = False) -> Node:
        """An input. shape: ints, names of dimensions, or what dim() gave. state: one that assign() updates in place; a run is given a
        kiln.Buffer for it, which keeps what the run left there."""
        number = _codec.dtype_number(dtype)
        dims: list[Dim] = [Size.atom("dim", d) if isinstance(d, str) else d if isinstance(d, Size) else int(d) for d in shape]
        names = []
        for d in dims:
            plain = isinstance(d, Size) and len(d._terms) == 1 and d._terms[0][1] == 1 and [a[0] for a in d._terms[0][0]] == ["dim"]
            if isinstance(d, Size) and not plain:
                raise _bad(f"param {name!r}: a dimension is a number or a name, got {d!r}")
            names.append(d._terms[0][0][0][1] if plain else None)
        param = self._proto.params.add(name=name, dtype=number, state=state)
        for d, known in zip(dims, names):
            if known is None:
                param.dims.add(size=d)
            elif known in self._dims:
                low, high, multiple = self._dims[known]
                param.dims.add(name=known, min=low, max=high, multiple=multiple)
            else:
                param.dims.add(name=known)
        return self._node("PARAM", [], dims, ints=[len(self._proto.params) - 1], result=number)

    def constant(self, array: Any, dtype: Any = None) -> Node:
        """A constant tensor of anything numpy takes; its bytes travel with the graph. For a dtype that numpy lacks the array may hold the bits."""
        t = _codec.tensor_from_numpy(array, dtype)
        param = self._proto.params.add(name=f"constant_{len(self._proto.params)}", dtype=t.dtype, data=t.data)
        for d in t.dims:
            param.dims.add(size=d)
        return self._node("PARAM", [], t.dims, ints=[len(self._proto.params) - 1], result=t.dtype)

    def const(self, value: int | float | bool, dtype: Any) -> Node:
        """A rank-0 constant: rounded to a float dtype, wrapped to an integer one."""
        number = dtype if isinstance(dtype, int) else _codec.dtype_number(dtype)
        key = (number, repr(value))
        if key not in self._consts:
            field = {"f": float(value)} if _codec.is_float(number) else {"i": _wrap(int(value))}
            self._consts[key] = self._node("CONST", [], (), dtype=number, **field)
        return self._consts[key]

    def iota(self, dtype: Any, shape: Sequence[Dim], axis: int = 0) -> Node:
        """The coordinate along axis, in a tensor of that shape; any dtype but bool."""
        number = dtype if isinstance(dtype, int) else _codec.dtype_number(dtype)
        return self._node("IOTA", [], shape, ints=[axis % max(len(shape), 1), *shape], dtype=number)

    def size(self, n: Dim) -> Node:
        """A size as data: a rank-0 i64."""
        return self._node("SIZE", [], (), ints=[n])

    def size_of(self, x: Node, max: int = DEFAULT_MAX, min: int = 0) -> Size:
        """An integer scalar that the run computes, as a size. A run in which it is outside [min, max] fails with OUT_OF_RANGE."""
        if x.rank or _codec.is_float(x.dtype) or x.dtype == graph_pb2.DTYPE_BOOL:
            raise _bad(f"size_of {x.dtype_name}{_text(x.shape)}, expected an integer scalar")
        return Size.atom("node", x.index, min, max)  # type: ignore[return-value]

    def output(self, name: str, node: Node) -> None:
        """Names an output."""
        self._proto.outputs.add(name=name, node=node.index)

    # -- movement

    def reshape(self, x: Node, dims: Sequence[Dim]) -> Node:
        """The same elements in row-major order with another shape; one dim may be -1 and is what is left."""
        dims = list(dims)
        if -1 in dims:
            at, total, known = dims.index(-1), _size.product(x.shape), _size.product(d for d in dims if d != -1)
            if not known or (isinstance(known, int) and isinstance(total, int) and total % known):
                raise _bad(f"cannot reshape {_text(x.shape)} to {_text(dims)}")
            shape = [*dims[:at], _size._divide("SIZE_FLOORDIV", total, known) if isinstance(total, Size) or isinstance(known, Size)
                     else total // known, *dims[at + 1:]]
        else:
            shape = dims
            have, want = _size.product(x.shape), _size.product(dims)
            if isinstance(have, int) and isinstance(want, int) and have != want:
                raise _bad(f"cannot reshape {_text(x.shape)} to {_text(dims)}")
        return self._node("RESHAPE", [x], shape, ints=shape)

    def permute(self, x: Node, order: Sequence[int]) -> Node:
        """Result axis k is axis order[k]; every axis once."""
        axes = x._axes(order)
        if len(axes) != x.rank:
            raise _bad(f"order {list(order)} of a tensor of rank {x.rank}")
        return self._node("PERMUTE", [x], [x.shape[a] for a in axes], ints=axes)

    def expand(self, x: Node, dims: Sequence[Dim]) -> Node:
        """Repeats axes of size 1 (and adds leading axes) to shape dims: numpy.broadcast_to."""
        _broadcast("EXPAND", x.shape, dims)
        return self._node("EXPAND", [x], dims, ints=list(dims))

    def pad(self, x: Node, amounts: Sequence[tuple[Dim, Dim]], value: Operand = 0, mode: str = "constant") -> Node:
        """Adds amounts[k] = (before, after) elements to axis k.

        mode: "constant" (of `value`, a number or a scalar node of x's dtype), "edge" (the outermost element), "reflect" (mirrored without the
        outermost), "symmetric" (mirrored with it) or "wrap"; all but "constant" need sizes that are numbers.
        """
        if len(amounts) != x.rank:
            raise _bad(f"{len(amounts)} paddings of a tensor of rank {x.rank}")
        if mode != "constant":
            return self._pad_by_index(x, amounts, mode)
        fill = value if isinstance(value, Node) else self.const(value, x.dtype)
        if fill.dtype != x.dtype or fill.rank:
            raise _bad(f"fill value {fill.dtype_name}{_text(fill.shape)}, expected a scalar of {x.dtype_name}")
        shape = [d + lo + hi for d, (lo, hi) in zip(x.shape, amounts)]
        return self._node("PAD", [x, fill], shape, ints=[i for pair in amounts for i in pair])

    def shrink(self, x: Node, bounds: Sequence[tuple[Dim, Dim]]) -> Node:
        """Keeps [begin, end) of every axis; 0 <= begin <= end <= size."""
        if len(bounds) != x.rank:
            raise _bad(f"{len(bounds)} ranges of a tensor of rank {x.rank}")
        for d, (lo, hi) in zip(x.shape, bounds):
            if all(isinstance(v, int) for v in (d, lo, hi)) and not 0 <= lo <= hi <= d:  # type: ignore[operator]
                raise _bad(f"range [{lo}, {hi}) of an axis of {d} elements")
        return self._node("SHRINK", [x], [hi - lo for lo, hi in bounds], ints=[i for pair in bounds for i in pair])

    def flip(self, x: Node, axes: int | Sequence[int]) -> Node:
        """Reverses axes."""
        return self._node("FLIP", [x], x.shape, ints=x._axes(axes))

    def window(self, x: Node, axis: int, size: int, stride: int = 1, dilation: int = 1) -> Node:
        """Sliding windows: a new axis of `size` follows `axis`; element (o, k) is source o * stride + k * dilation."""
        at = x._axis(axis)
        if size < 1 or stride < 1 or dilation < 1:
            raise _bad(f"window of size {size}, stride {stride}, dilation {dilation}")
        room = x.shape[at] - (dilation * (size - 1) + 1)
        if isinstance(room, int) and room < 0:
            raise _bad(f"window of size {size} and dilation {dilation} on {x.shape[at]} elements")
        shape = [*x.shape[:at], room // stride + 1, size, *x.shape[at + 1:]]
        return self._node("WINDOW", [x], shape, ints=[at, size, stride, dilation])

    def cat(self, xs: Sequence[Node], axis: int = 0) -> Node:
        """Concatenates tensors of one dtype along axis; their other axes must be equal."""
        nodes = self._operands("CAT", *xs)
        at = nodes[0]._axis(axis)
        for n in nodes:
            if n.rank != nodes[0].rank or any(isinstance(a, int) and isinstance(b, int) and a != b and k != at
                                              for k, (a, b) in enumerate(zip(n.shape, nodes[0].shape))):
                raise _bad(f"cat of {_text(nodes[0].shape)} and {_text(n.shape)} along axis {axis}")
        shape = list(nodes[0].shape)
        for n in nodes[1:]:
            shape[at] = shape[at] + n.shape[at]
        return self._node("CAT", nodes, shape, ints=[at])

    def gather(self, x: Node, indices: Node, axis: int = 0) -> Node:
        """x indexed along axis by an integer tensor, whose axes stand in its place; indices outside [0, size) read 0."""
        at = x._axis(axis)
        if _codec.is_float(indices.dtype) or indices.dtype == graph_pb2.DTYPE_BOOL:
            raise _bad(f"indices of {indices.dtype_name}, expected an integer dtype")
        return self._node("GATHER", [x, indices], [*x.shape[:at], *indices.shape, *x.shape[at + 1:]], ints=[at])

    # -- reductions

    def _reduce(self, op: str, x: Node, axes: int | Sequence[int] | None, keepdims: bool) -> Node:
        at = x._axes(axes)
        shape = [1 if k in at else d for k, d in enumerate(x.shape) if keepdims or k not in at]
        return self._node(op, [x], shape, ints=at, i=0 if keepdims else 1)

    def reduce_sum(self, x: Node, axes: int | Sequence[int] | None = None, keepdims: bool = False) -> Node:
        """Sum over axes: an int, several, or None for all."""
        return self._reduce("REDUCE_SUM", x, axes, keepdims)

    def reduce_prod(self, x: Node, axes: int | Sequence[int] | None = None, keepdims: bool = False) -> Node:
        """Product over axes: an int, several, or None for all."""
        return self._reduce("REDUCE_PROD", x, axes, keepdims)

    def reduce_max(self, x: Node, axes: int | Sequence[int] | None = None, keepdims: bool = False) -> Node:
        """Maximum over axes: an int, several, or None for all; NaN propagates."""
        return self._reduce("REDUCE_MAX", x, axes, keepdims)

    def reduce_min(self, x: Node, axes: int | Sequence[int] | None = None, keepdims: bool = False) -> Node:
        """Minimum over axes: an int, several, or None for all; NaN propagates."""
        return self._reduce("REDUCE_MIN", x, axes, keepdims)

    # -- conversion

    def cast(self, x: Node, dtype: Any) -> Node:
        """The values as another dtype: integers wrap, float to integer truncates and saturates (NaN gives 0), to bool is != 0."""
        return self._node("CAST", [x], x.shape, dtype=dtype if isinstance(dtype, int) else _codec.dtype_number(dtype))

    def bitcast(self, x: Node, dtype: Any) -> Node:
        """The same bits as another dtype of the same size."""
        return self._node("BITCAST", [x], x.shape, dtype=dtype if isinstance(dtype, int) else _codec.dtype_number(dtype))

    def contiguous(self, x: Node) -> Node:
        """The same value, stored in a buffer of its own: a hint that ends fusion here."""
        return self._node("CONTIGUOUS", [x], x.shape)

    # -- others

    def where(self, condition: Node, a: Operand, b: Operand) -> Node:
        """a where condition (bool) is true, else b; all three broadcast."""
        if not isinstance(condition, Node) or condition.dtype != graph_pb2.DTYPE_BOOL:
            raise _bad("the condition of WHERE must be a bool node")
        x, y = self._operands("WHERE", a, b)
        return self._node("WHERE", [condition, x, y], _broadcast("WHERE", condition.shape, x.shape, y.shape))

    def matmul(self, a: Node, b: Node) -> Node:
        """numpy.matmul: [..., M, K] x [..., K, N]; batch axes broadcast, a rank-1 operand is a row (left) or a column (right)."""
        a, b = self._operands("MATMUL", a, b)
        if not a.rank or not b.rank:
            raise _bad("MATMUL of a scalar")
        k, n = a.shape[-1], b.shape[-2] if b.rank > 1 else b.shape[0]
        if isinstance(k, int) and isinstance(n, int) and k != n:
            raise _bad(f"MATMUL of {_text(a.shape)} and {_text(b.shape)}: {k} and {n} elements to sum over")
        shape = [*_broadcast("MATMUL", a.shape[:-2], b.shape[:-2]), *a.shape[-2:-1], *(b.shape[-1:] if b.rank > 1 else ())]
        return self._node("MATMUL", [a, b], shape)

    def argsort(self, x: Node, axis: int = -1, descending: bool = False) -> Node:
        """The positions that sort x along axis, as i64; equal elements keep their order, NaN goes last."""
        return self._node("ARGSORT", [x], x.shape, ints=[x._axis(axis)], i=int(descending))

    def scatter_along(self, x: Node, indices: Node, updates: Node, axis: int = 0, how: str = "set") -> Node:
        """x with updates[a, u, b] at (a, indices[a, u, b], b), u counting along axis; one after the other in row-major order.

        how: "set" (the last of several updates of one element stays), "add", "mul", "max" or "min" (combined with what is there).
        All have one rank; along other axes the updates are at most as long as x, and indices may have size 1. Outside of
        [0, size) nothing is written.
        """
        number = scatter_number(how)
        if updates.dtype != x.dtype:
            raise _bad(f"updates of {updates.dtype_name} for data of {x.dtype_name}")
        if not x.rank == indices.rank == updates.rank:
            raise _bad(f"data, indices and updates of ranks {x.rank}, {indices.rank} and {updates.rank}")
        return self._node("SCATTER_ALONG", [x, indices, updates], x.shape, ints=[x._axis(axis)], i=number)

    def assign(self, target: Node, value: Operand) -> Node:
        """Writes value, broadcast to the target's shape, into a state or a view of one: reshape, permute, shrink, flip, window of it.

        Nodes are in program order, and a view shows what the state holds when it is used: what reads one after this reads the
        new contents. The result is the target.
        """
        a, b = self._operands("ASSIGN", target, value)
        if _broadcast("ASSIGN", a.shape, b.shape) != a.shape:
            raise _bad(f"ASSIGN of {_text(b.shape)} to {_text(a.shape)}")
        return self._node("ASSIGN", [a, b], a.shape)


def _wrap(value: int) -> int:
    value &= (1 << 64) - 1
    return value - (1 << 64) if value >> 63 else value


def _define_elementwise() -> None:
    """One method per elementwise op of the table."""
    parameter = inspect.Parameter.POSITIONAL_OR_KEYWORD

    def define(op: str, names: Sequence[str], kind: str) -> None:
        def method(self: Graph, *operands: Any) -> Node:
            return self._elementwise(op, *operands)

        method.__name__ = op.lower() + ("_" if op in ("AND", "OR", "NOT") else "")
        method.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
            [inspect.Parameter("self", parameter)] + [inspect.Parameter(n, parameter, annotation=kind) for n in names], return_annotation="Node")
        method.__qualname__ = f"Graph.{method.__name__}"
        dtypes = {"ALL": "any dtype", "NUMERIC": "any dtype but bool", "FLOAT": "floats", "BITS": "bool and integers", "INTEGER": "integers"}
        method.__doc__ = f"{OPS[op].doc} Dtypes: {dtypes[OPS[op].dtypes]}."
        setattr(Graph, method.__name__, method)

    for op, info in OPS.items():
        if info.group == "UNARY":
            define(op, ("x",), "Node")
        elif info.group in ("BINARY", "COMPARE"):
            define(op, ("a", "b"), "Operand")


_define_elementwise()
