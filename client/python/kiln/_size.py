"""Sizes that a run decides: integer expressions over named dimensions and computed integers.

A Size is a polynomial with integer coefficients over atoms: a named dimension, a node's value, or a quotient, remainder, minimum or maximum
of two sizes. Equal polynomials are equal Sizes. An operation whose result is one number gives an int, so a dimension is an int wherever it
is known.
"""
from __future__ import annotations

from typing import Any, Union

from ._errors import Error

Dim = Union[int, "Size"]


class Size:
    """A size known by name only, as kiln.Graph.dim makes it: + - * // % with ints and other Sizes, min() and max() by name."""

    __slots__ = ("_terms",)

    def __init__(self, terms: tuple[tuple[tuple[Any, ...], int], ...]):
        self._terms = terms  # ((atoms, coefficient), ...), sorted; atoms are tuples (kind, ...)

    @staticmethod
    def atom(*key: Any) -> "Size":
        """One atom: ("dim", name), ("node", index, min, max), or (op, key of a, key of b)."""
        return Size((((key,), 1),))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Size) and self._terms == other._terms

    def __hash__(self) -> int:
        return hash(self._terms)

    def __repr__(self) -> str:
        return " + ".join("*".join(([str(c)] if c != 1 or not atoms else []) + [_atom_text(a) for a in atoms])
                          for atoms, c in self._terms)

    def __add__(self, o: Dim) -> Dim: return _add(self, o, 1)
    def __radd__(self, o: Dim) -> Dim: return _add(o, self, 1)
    def __sub__(self, o: Dim) -> Dim: return _add(self, o, -1)
    def __rsub__(self, o: Dim) -> Dim: return _add(o, self, -1)
    def __mul__(self, o: Dim) -> Dim: return _mul(self, o)
    def __rmul__(self, o: Dim) -> Dim: return _mul(o, self)
    def __floordiv__(self, o: Dim) -> Dim: return _divide("SIZE_FLOORDIV", self, o)
    def __rfloordiv__(self, o: Dim) -> Dim: return _divide("SIZE_FLOORDIV", o, self)
    def __mod__(self, o: Dim) -> Dim: return _divide("SIZE_MOD", self, o)
    def __rmod__(self, o: Dim) -> Dim: return _divide("SIZE_MOD", o, self)

    def min(self, o: Dim) -> Dim:
        """The smaller of the two."""
        return self if self == o else Size.atom("SIZE_MIN", terms_of(self), terms_of(o))

    def max(self, o: Dim) -> Dim:
        """The larger of the two."""
        return self if self == o else Size.atom("SIZE_MAX", terms_of(self), terms_of(o))


def _atom_text(atom: tuple[Any, ...]) -> str:
    if atom[0] == "dim":
        return str(atom[1])
    if atom[0] == "node":
        return f"node {atom[1]}"
    names = {"SIZE_FLOORDIV": "//", "SIZE_MOD": "%"}
    a, b = (repr(of_terms(t)) for t in atom[1:])
    return f"(({a}) {names[atom[0]]} ({b}))" if atom[0] in names else f"{atom[0][5:].lower()}({a}, {b})"


def terms_of(d: Dim) -> tuple[Any, ...]:
    """The polynomial of a dimension."""
    if isinstance(d, Size):
        return d._terms
    return (((), int(d)),) if d else ()


def of_terms(terms: Any) -> Dim:
    """The dimension of a polynomial: an int when it is constant."""
    if not terms:
        return 0
    if len(terms) == 1 and not terms[0][0]:
        return int(terms[0][1])
    return Size(terms)


def _collect(pairs: Any) -> Dim:
    total: dict[Any, int] = {}
    for atoms, c in pairs:
        total[atoms] = total.get(atoms, 0) + c
    return of_terms(tuple(sorted(((a, c) for a, c in total.items() if c), key=repr)))


def _check(*dims: Any) -> None:
    for d in dims:
        if not isinstance(d, (int, Size)) and not hasattr(d, "__index__"):
            raise Error("INVALID_ARGUMENT", f"a size is an int or a kiln.Size, got {type(d).__name__}")


def _add(a: Dim, b: Dim, sign: int) -> Dim:
    _check(a, b)
    return _collect([*terms_of(a), *((t, sign * c) for t, c in terms_of(b))])


def _mul(a: Dim, b: Dim) -> Dim:
    _check(a, b)
    return _collect((tuple(sorted(x + y, key=repr)), c * d) for x, c in terms_of(a) for y, d in terms_of(b))


def _divide(op: str, a: Dim, b: Dim) -> Dim:
    _check(a, b)
    if isinstance(b, int):
        if b <= 0:
            raise Error("INVALID_ARGUMENT", f"a size divided by {b}, expected a positive number")
        whole = [(t, c) for t, c in terms_of(a) if c % b == 0]
        rest = [(t, c) for t, c in terms_of(a) if c % b]
        if not rest:  # (b * x + b * y) // b
            return _collect((t, c // b) for t, c in whole) if op == "SIZE_FLOORDIV" else 0
    if a == b:
        return 1 if op == "SIZE_FLOORDIV" else 0
    return Size.atom(op, terms_of(a), terms_of(b))


def product(dims: Any) -> Dim:
    """The number of elements of a shape."""
    total: Dim = 1
    for d in dims:
        total = total * d
    return total


def emit(proto: Any, ids: dict[Any, int], size: Dim) -> int:
    """The position in proto.sizes of a size, adding what is missing; ids remembers what is there."""
    from .v1 import graph_pb2

    def entry(key: Any, **fields: Any) -> int:
        if key not in ids:
            ids[key] = len(proto.sizes)
            proto.sizes.add(**fields)
        return ids[key]

    def combine(op: str, a: int, b: int) -> int:
        return entry((op, a, b), op=graph_pb2.SizeOp.Value(op), src=[a, b])

    def constant(v: int) -> int:
        return entry(("const", v), op=graph_pb2.SIZE_CONST, value=v)

    def atom(a: tuple[Any, ...]) -> int:
        if a[0] == "dim":
            return entry(a, op=graph_pb2.SIZE_DIM, name=a[1])
        if a[0] == "node":
            return entry(a, op=graph_pb2.SIZE_NODE, node=a[1], min=a[2], max=a[3])
        return combine(a[0], polynomial(a[1]), polynomial(a[2]))

    def polynomial(terms: Any) -> int:
        total = None
        for atoms, c in terms:
            at = constant(c) if c != 1 or not atoms else None
            for a in atoms:
                at = atom(a) if at is None else combine("SIZE_MUL", at, atom(a))
            total = at if total is None else combine("SIZE_ADD", total, at)
        return constant(0) if total is None else total

    return polynomial(terms_of(size))
