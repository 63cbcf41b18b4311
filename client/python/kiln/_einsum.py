"""numpy.einsum over the graph's ops: operands are joined two at a time by a matmul over the labels that nothing else needs."""
from __future__ import annotations

from typing import TYPE_CHECKING, Sequence

from . import _size
from ._errors import Error

if TYPE_CHECKING:
    from .graph import Graph, Node


def _bad(message: str) -> Error:
    return Error("INVALID_ARGUMENT", message)


def _labels(text: str, operands: Sequence["Node"]) -> tuple[list[list[str]], list[str]]:
    """The labels of every operand and of the result; an ellipsis becomes labels "0", "1", ... from the right."""
    left, arrow, right = text.replace(" ", "").partition("->")
    inputs = left.split(",")
    if len(inputs) != len(operands) or not operands:
        raise _bad(f"einsum {text!r} of {len(operands)} operands")
    most = 0

    def expand(part: str, extra: int) -> list[str]:
        head, dots, tail = part.partition("...")
        if not (head + tail).replace("_", "a").isalpha() and head + tail:
            raise _bad(f"einsum {text!r}: {part!r} is not letters and at most one ...")
        return [*head, *([str(k) for k in range(extra - 1, -1, -1)] if dots else []), *tail]

    out = []
    for part, x in zip(inputs, operands):
        extra = x.rank - len(part.replace("...", ""))
        if extra < 0 or (extra and "..." not in part):
            raise _bad(f"einsum {text!r}: {part!r} of a tensor of rank {x.rank}")
        most = max(most, extra if "..." in part else 0)
        out.append(expand(part, extra))
    if arrow:
        result = expand(right, most)
    else:
        every = [c for labels in out for c in labels]
        result = [str(k) for k in range(most - 1, -1, -1)] + sorted(c for c in set(every) if every.count(c) == 1 and not c.isdigit())
    known = {c for labels in out for c in labels}
    if len(set(result)) != len(result) or not set(result) <= known:
        raise _bad(f"einsum {text!r}: the result has {''.join(result)!r}")
    return out, result


def _unique(g: "Graph", x: "Node", labels: list[str]) -> tuple["Node", list[str]]:
    """Diagonals: a label that occurs twice in one operand is one axis."""
    for c in list(labels):
        while labels.count(c) > 1:
            a = labels.index(c)
            b = labels.index(c, a + 1)
            if isinstance(x.shape[a], int) and isinstance(x.shape[b], int) and x.shape[a] != x.shape[b]:
                raise _bad(f"einsum: label {c!r} has {x.shape[a]} and {x.shape[b]} elements")
            same = g.cmpeq(g.iota("i64", x.shape, a), g.iota("i64", x.shape, b))
            x = g.reduce_sum(g.where(same, x, 0), b)
            labels = labels[:b] + labels[b + 1:]
    return x, labels


def _arranged(g: "Graph", x: "Node", labels: list[str], order: list[str]) -> "Node":
    """x with its axes in the given order; labels that it lacks have size 1."""
    have = [c for c in order if c in labels]
    x = g.permute(x, [labels.index(c) for c in have])
    shape = iter(x.shape)
    return g.reshape(x, [next(shape) if c in labels else 1 for c in order])


def _joined(g: "Graph", x: "Node", xl: list[str], y: "Node", yl: list[str], keep: set[str]) -> tuple["Node", list[str]]:
    """The product of two operands, summed over what they share and `keep` lacks."""
    def size(c: str):
        dims = [t.shape[labels.index(c)] for t, labels in ((x, xl), (y, yl)) if c in labels]
        return dims[0] if len(dims) == 1 or dims[0] != 1 else dims[1]

    summed = [c for c in xl if c in yl and c not in keep and x.shape[xl.index(c)] == y.shape[yl.index(c)]]
    shared = [c for c in xl if c in yl and c not in summed]
    rows, columns = [c for c in xl if c not in yl], [c for c in yl if c not in xl]
    a, b = _arranged(g, x, xl, shared + rows + summed), _arranged(g, y, yl, shared + summed + columns)
    n = len(shared)
    a = g.reshape(a, [*a.shape[:n], _size.product(map(size, rows)), _size.product(map(size, summed))])
    b = g.reshape(b, [*b.shape[:n], _size.product(map(size, summed)), _size.product(map(size, columns))])
    labels = shared + rows + columns
    z = g.reshape(g.matmul(a, b), [size(c) for c in labels])
    return z, labels


def einsum(g: "Graph", text: str, operands: Sequence["Node"]) -> "Node":
    """See Graph.einsum."""
    inputs, result = _labels(text, operands)
    terms = [_unique(g, x, labels) for x, labels in zip(operands, inputs)]

    def alone(x: "Node", labels: list[str], keep: set[str]) -> tuple["Node", list[str]]:
        gone = [k for k, c in enumerate(labels) if c not in keep]
        return (g.reduce_sum(x, gone) if gone else x), [c for c in labels if c in keep]

    def needed(at: int) -> set[str]:
        return set(result).union(*(labels for _, labels in terms[at:]))

    x, labels = terms[0]
    for k in range(1, len(terms)):
        y, other = terms[k]
        x, labels = alone(x, labels, needed(k))
        y, other = alone(y, other, needed(k + 1) | set(labels))
        x, labels = _joined(g, x, labels, y, other, needed(k + 1))
    x, labels = alone(x, labels, set(result))
    return g.permute(x, [labels.index(c) for c in result])
