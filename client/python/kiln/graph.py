"""Building a native graph by calling its ops.

    g = kiln.Graph()
    x = g.param("x", "f32", (4, "n"))            # a name is a symbolic dimension, bound by Options(dims={"n": 8})
    g.output("y", g.exp2(x).sum(axis=1))

Every op of the graph format is a method of Graph with the op's name in lower case; Node has the operators and the usual methods.
Elementwise operands broadcast as in numpy; Python numbers become constants of the other operand's dtype. Shapes and dtypes are checked
by the server, whose error names the node.
"""
from __future__ import annotations

from typing import Any, Sequence, Union

import numpy as np

from . import _codec
from ._errors import Error
from ._random import RandomOps
from .v1 import graph_pb2

Operand = Union["Node", int, float, bool]

_UNARY = ("neg", "abs", "recip", "sqrt", "exp", "exp2", "log", "log2", "sin", "cos", "tanh", "erf", "atan", "trunc", "floor",
          "ceil", "round", "contiguous")
_BINARY = ("add", "sub", "mul", "div", "mod", "floordiv", "floormod", "max", "min", "pow", "and_", "or_", "xor", "shl", "shr",
           "matmul")
_COMPARE = ("cmplt", "cmple", "cmpeq", "cmpne")


class Node:
    """A value of a graph. dtype is the DType enum value, known for every node."""

    def __init__(self, graph: "Graph", index: int, dtype: int, rank: int):
        self.graph, self.index, self.dtype, self.rank = graph, index, dtype, rank

    def _axes(self, axis: int | Sequence[int] | None) -> list[int]:
        axes = range(self.rank) if axis is None else [axis] if isinstance(axis, int) else axis
        return [a + self.rank if a < 0 else a for a in axes]

    def _reduce(self, op: str, axis: Any, keepdims: bool) -> "Node":
        axes = self._axes(axis)
        rank = self.rank if keepdims else self.rank - len(axes)
        return self.graph._node(op, [self], ints=axes, i=0 if keepdims else 1, rank=rank)

    def sum(self, axis: Any = None, keepdims: bool = False) -> "Node":
        """Sum over axis (an int, several, or None for all)."""
        return self._reduce("REDUCE_SUM", axis, keepdims)

    def prod(self, axis: Any = None, keepdims: bool = False) -> "Node":
        """Product over axis."""
        return self._reduce("REDUCE_PROD", axis, keepdims)

    def amax(self, axis: Any = None, keepdims: bool = False) -> "Node":
        """Maximum over axis; NaN propagates."""
        return self._reduce("REDUCE_MAX", axis, keepdims)

    def amin(self, axis: Any = None, keepdims: bool = False) -> "Node":
        """Minimum over axis; NaN propagates."""
        return self._reduce("REDUCE_MIN", axis, keepdims)

    def reshape(self, *dims: int) -> "Node":
        """The same elements with another shape; one dim may be -1."""
        return self.graph.reshape(self, dims[0] if len(dims) == 1 and not isinstance(dims[0], int) else dims)

    def permute(self, *order: int) -> "Node":
        """Result axis k is axis order[k]."""
        return self.graph.permute(self, order[0] if len(order) == 1 and not isinstance(order[0], int) else order)

    def cast(self, dtype: Any) -> "Node":
        """The values as another dtype."""
        return self.graph.cast(self, dtype)

    def __add__(self, o: Operand) -> "Node": return self.graph.add(self, o)
    def __radd__(self, o: Operand) -> "Node": return self.graph.add(o, self)
    def __sub__(self, o: Operand) -> "Node": return self.graph.sub(self, o)
    def __rsub__(self, o: Operand) -> "Node": return self.graph.sub(o, self)
    def __mul__(self, o: Operand) -> "Node": return self.graph.mul(self, o)
    def __rmul__(self, o: Operand) -> "Node": return self.graph.mul(o, self)
    def __truediv__(self, o: Operand) -> "Node": return self.graph.div(self, o)
    def __rtruediv__(self, o: Operand) -> "Node": return self.graph.div(o, self)
    def __floordiv__(self, o: Operand) -> "Node": return self.graph.floordiv(self, o)
    def __mod__(self, o: Operand) -> "Node": return self.graph.floormod(self, o)
    def __pow__(self, o: Operand) -> "Node": return self.graph.pow(self, o)
    def __matmul__(self, o: "Node") -> "Node": return self.graph.matmul(self, o)
    def __neg__(self) -> "Node": return self.graph.neg(self)
    def __lt__(self, o: Operand) -> "Node": return self.graph.cmplt(self, o)
    def __le__(self, o: Operand) -> "Node": return self.graph.cmple(self, o)
    def __gt__(self, o: Operand) -> "Node": return self.graph.cmplt(o, self)
    def __ge__(self, o: Operand) -> "Node": return self.graph.cmple(o, self)
    def __and__(self, o: Operand) -> "Node": return self.graph.and_(self, o)
    def __or__(self, o: Operand) -> "Node": return self.graph.or_(self, o)
    def __xor__(self, o: Operand) -> "Node": return self.graph.xor(self, o)


class Graph(RandomOps):
    """A graph under construction."""

    def __init__(self) -> None:
        self._proto = graph_pb2.Graph()
        self._consts: dict[tuple[int, Any], Node] = {}

    def _to_proto(self) -> graph_pb2.Graph:
        if not self._proto.outputs and all(n.op != graph_pb2.ASSIGN for n in self._proto.nodes):
            raise Error("FAILED_PRECONDITION", "the graph has no output; call output(name, node)")
        return self._proto

    def _node(self, op: str, src: Sequence[Node], ints: Sequence[int] = (), dtype: int | None = None, rank: int | None = None,
              result: int | None = None, **fields: Any) -> Node:
        node = self._proto.nodes.add(op=graph_pb2.GraphOp.Value(op), src=[s.index for s in src], ints=[int(i) for i in ints], **fields)
        if dtype is not None:
            node.dtype = dtype
        known = result if result is not None else dtype if dtype is not None else src[0].dtype
        return Node(self, len(self._proto.nodes) - 1, known, max((s.rank for s in src), default=0) if rank is None else rank)

    def _pair(self, a: Operand, b: Operand) -> tuple[Node, Node]:
        like = a if isinstance(a, Node) else b
        if not isinstance(like, Node):
            raise Error("INVALID_ARGUMENT", "at least one operand must be a node of the graph")
        return tuple(v if isinstance(v, Node) else self.const(v, like.dtype) for v in (a, b))  # type: ignore[return-value]

    def param(self, name: str, dtype: Any, shape: Sequence[int | str], state: bool = False) -> Node:
        """An input. shape: ints, or names of symbolic dimensions. state: one that assign() updates in place; a run is given a
        kiln.Buffer for it, which keeps what the run left there."""
        number = _codec.dtype_number(dtype)
        param = self._proto.params.add(name=name, dtype=number, state=state)
        for d in shape:
            param.dims.add(**({"name": d} if isinstance(d, str) else {"size": int(d)}))
        return self._node("PARAM", [], ints=[len(self._proto.params) - 1], result=number, rank=len(shape))

    def assign(self, target: Node, value: Operand) -> Node:
        """Writes value, broadcast to the target's shape, into a state or a view of one: reshape, permute, shrink, flip, window of it.

        Nodes are in program order, and a view shows what the state holds when it is used: what reads one after this reads the
        new contents. The result is the target.
        """
        target, value = self._pair(target, value)
        return self._node("ASSIGN", [target, value], rank=target.rank)

    def constant(self, array: Any, dtype: Any = None) -> Node:
        """A constant tensor; its bytes travel with the graph. For a dtype that numpy lacks the array may hold the bits."""
        t = _codec.tensor_from_numpy(array, dtype)
        param = self._proto.params.add(name=f"constant_{len(self._proto.params)}", dtype=t.dtype, data=t.data)
        for d in t.dims:
            param.dims.add(size=d)
        return self._node("PARAM", [], ints=[len(self._proto.params) - 1], result=t.dtype, rank=len(t.dims))

    def const(self, value: int | float | bool, dtype: Any) -> Node:
        """A rank-0 constant."""
        number = dtype if isinstance(dtype, int) else _codec.dtype_number(dtype)
        key = (number, repr(value))
        if key not in self._consts:
            field = {"f": float(value)} if _codec.is_float(number) else {"i": int(value)}
            self._consts[key] = self._node("CONST", [], dtype=number, rank=0, **field)
        return self._consts[key]

    def iota(self, dtype: Any, shape: Sequence[int], axis: int = 0) -> Node:
        """The coordinate along axis."""
        return self._node("IOTA", [], ints=[axis, *shape], dtype=_codec.dtype_number(dtype), rank=len(shape))

    def output(self, name: str, node: Node) -> None:
        """Names an output."""
        self._proto.outputs.add(name=name, node=node.index)

    def reshape(self, x: Node, dims: Sequence[int]) -> Node:
        """The same elements in row-major order; one dim may be -1."""
        return self._node("RESHAPE", [x], ints=dims, rank=len(dims))

    def permute(self, x: Node, order: Sequence[int]) -> Node:
        """Result axis k is axis order[k]."""
        return self._node("PERMUTE", [x], ints=order)

    def expand(self, x: Node, dims: Sequence[int]) -> Node:
        """Repeats axes of size 1 (and adds leading axes) to shape dims."""
        return self._node("EXPAND", [x], ints=dims, rank=len(dims))

    def pad(self, x: Node, amounts: Sequence[tuple[int, int]], value: int | float = 0) -> Node:
        """Adds amounts[k] = (before, after) elements of `value` to axis k."""
        return self._node("PAD", [x, self.const(value, x.dtype)], ints=[i for pair in amounts for i in pair])

    def shrink(self, x: Node, bounds: Sequence[tuple[int, int]]) -> Node:
        """Keeps [begin, end) of every axis."""
        return self._node("SHRINK", [x], ints=[i for pair in bounds for i in pair])

    def flip(self, x: Node, axes: Sequence[int]) -> Node:
        """Reverses axes."""
        return self._node("FLIP", [x], ints=x._axes(axes))

    def window(self, x: Node, axis: int, size: int, stride: int = 1, dilation: int = 1) -> Node:
        """Sliding windows: a new axis of `size` follows `axis`; element (o, k) is source o * stride + k * dilation."""
        return self._node("WINDOW", [x], ints=[x._axes(axis)[0], size, stride, dilation], rank=x.rank + 1)

    def cat(self, xs: Sequence[Node], axis: int = 0) -> Node:
        """Concatenates along axis."""
        return self._node("CAT", list(xs), ints=[xs[0]._axes(axis)[0]])

    def gather(self, x: Node, indices: Node, axis: int = 0) -> Node:
        """x indexed along axis by an integer tensor; indices out of range read 0."""
        return self._node("GATHER", [x, indices], ints=[x._axes(axis)[0]], rank=x.rank - 1 + indices.rank, result=x.dtype)

    def cast(self, x: Node, dtype: Any) -> Node:
        """The values as another dtype: integers wrap, float to integer truncates and saturates."""
        return self._node("CAST", [x], dtype=_codec.dtype_number(dtype))

    def bitcast(self, x: Node, dtype: Any) -> Node:
        """The same bits as another dtype of the same size."""
        return self._node("BITCAST", [x], dtype=_codec.dtype_number(dtype))

    def where(self, condition: Node, a: Operand, b: Operand) -> Node:
        """a where condition is true, else b."""
        a, b = self._pair(a, b)
        return self._node("WHERE", [condition, a, b], result=a.dtype)

    def not_(self, x: Node) -> Node:
        """Logical not of a bool, bitwise not of an integer."""
        return self._node("NOT", [x])


def _define_elementwise() -> None:
    def unary(op: str):
        return lambda self, x: self._node(op, [x])

    def binary(op: str):
        return lambda self, a, b: self._node(op, self._pair(a, b))

    def compare(op: str):
        return lambda self, a, b: self._node(op, self._pair(a, b), result=graph_pb2.DTYPE_BOOL)

    for names, make in ((_UNARY, unary), (_BINARY, binary), (_COMPARE, compare)):
        for name in names:
            method = make(name.rstrip("_").upper())
            method.__name__ = name
            method.__doc__ = f"The {name.rstrip('_').upper()} op; see docs/graph.md."
            setattr(Graph, name, method)


_define_elementwise()
