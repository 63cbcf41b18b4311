"""Random numbers of a Graph: Threefry 2x32-20 of a key and a counter, the same bits on every device."""
from __future__ import annotations

from typing import TYPE_CHECKING, Any, Sequence

import numpy as np

from . import _codec
from ._errors import Error
from .v1 import graph_pb2

if TYPE_CHECKING:
    from .graph import Node


class RandomOps:
    """What kiln.Graph draws with.

    key: None for the run's own key, with a stream that no other draw of this graph has; an int for a fixed seed, or a Node, u32 [2],
    from random_key and random_fold, whose draws of one stream are equal. Shapes are ints.
    """

    _streams = 0

    def random_key(self) -> "Node":
        """The run's own key, u32 [2]; for random_fold, as its streams are drawn from already."""
        return self._node("RANDOM_KEY", [], (2,), dtype=graph_pb2.DTYPE_U32)

    def random_fold(self, key: "Node", n: int) -> "Node":
        """A key that depends on key and n."""
        return self._node("RANDOM_FOLD", [key], (2,), ints=[n])

    def _draw(self, op: str, shape: Sequence[int], dtype: Any, key: Any) -> "Node":
        stream = 0
        if key is None:
            key, stream = self.random_key(), self._streams
            self._streams += 1
        elif isinstance(key, int):
            key = self.constant(np.array([key & 0xFFFFFFFF, key >> 32 & 0xFFFFFFFF], np.uint32))
        return self._node(op, [key], shape, ints=[stream, *shape], dtype=_codec.dtype_number(dtype))

    def random_bits(self, shape: Sequence[int], dtype: Any = "u32", key: Any = None) -> "Node":
        """Random bits, u32 or u64."""
        return self._draw("RANDOM_BITS", shape, dtype, key)

    def random_uniform(self, shape: Sequence[int], dtype: Any = "f32", key: Any = None) -> "Node":
        """Uniform in [0, 1): f16, bf16, f32 or f64."""
        return self._draw("RANDOM_UNIFORM", shape, dtype, key)

    def random_normal(self, shape: Sequence[int], dtype: Any = "f32", key: Any = None) -> "Node":
        """Standard normal: f16, bf16, f32 or f64."""
        return self._draw("RANDOM_NORMAL", shape, dtype, key)

    def rand(self, shape: Sequence[int], dtype: Any = "f32", key: Any = None) -> "Node":
        """random_uniform() under numpy's name."""
        return self.random_uniform(shape, dtype, key)

    def randn(self, shape: Sequence[int], dtype: Any = "f32", key: Any = None) -> "Node":
        """random_normal() under numpy's name."""
        return self.random_normal(shape, dtype, key)

    def randint(self, low: int, high: int, shape: Sequence[int], dtype: Any = "i32", key: Any = None) -> "Node":
        """Integers in [low, high), uniform but for (high - low) / 2**64."""
        if not 0 < high - low < 1 << 64:
            raise Error("INVALID_ARGUMENT", f"randint of [{low}, {high}): expected 0 < high - low < 2**64")
        span = (high - low + (1 << 63)) % (1 << 64) - (1 << 63)  # its bits as an i64, which is how a CONST carries them
        u = self.mod(self.random_bits(shape, "u64", key), self.const(span, "u64"))
        offset = (low + (1 << 63)) % (1 << 64) - (1 << 63)
        return self.cast(self.add(u, self.const(offset, "u64")), dtype)

    def bernoulli(self, p: "Node | float", shape: Sequence[int], key: Any = None) -> "Node":
        """Bool: true with probability p, a number or an f32 tensor that broadcasts to shape."""
        return self.cmplt(self.rand(shape, "f32", key), p)
