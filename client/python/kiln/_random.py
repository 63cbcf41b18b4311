"""Random numbers of a Graph: Threefry 2x32-20 of a key and a counter, the same bits on every device."""
from __future__ import annotations

from typing import TYPE_CHECKING, Any, Sequence

import numpy as np

from . import _codec
from .v1 import graph_pb2

if TYPE_CHECKING:
    from .graph import Node


class RandomOps:
    """What kiln.Graph draws with.

    key: None for the run's own key, which is another in every run and at every use; an int for a fixed seed; or a Node, u32 [2], from
    random_key and random_fold. Shapes are ints.
    """

    _random_uses = 0

    def random_key(self, use: int | None = None) -> "Node":
        """The run's own key number `use` (by default the next one), u32 [2]."""
        if use is None:
            use = self._random_uses
            self._random_uses += 1
        return self._node("RANDOM_KEY", [], ints=[use], dtype=graph_pb2.DTYPE_U32, rank=1)

    def random_fold(self, key: "Node", n: int) -> "Node":
        """A key that depends on key and n."""
        return self._node("RANDOM_FOLD", [key], ints=[n])

    def _key(self, key: Any) -> "Node":
        if key is None:
            return self.random_key()
        if isinstance(key, int):
            return self.constant(np.array([key & 0xFFFFFFFF, key >> 32 & 0xFFFFFFFF], np.uint32))
        return key

    def _draw(self, op: str, shape: Sequence[int], dtype: Any, key: Any) -> "Node":
        return self._node(op, [self._key(key)], ints=shape, dtype=_codec.dtype_number(dtype), rank=len(shape))

    def random_bits(self, shape: Sequence[int], dtype: Any = "u32", key: Any = None) -> "Node":
        """Random bits, u32 or u64."""
        return self._draw("RANDOM_BITS", shape, dtype, key)

    def rand(self, shape: Sequence[int], dtype: Any = "f32", key: Any = None) -> "Node":
        """Uniform in [0, 1): f16, bf16, f32 or f64."""
        return self._draw("RANDOM_UNIFORM", shape, dtype, key)

    def randn(self, shape: Sequence[int], dtype: Any = "f32", key: Any = None) -> "Node":
        """Standard normal: f16, bf16, f32 or f64."""
        return self._draw("RANDOM_NORMAL", shape, dtype, key)

    def randint(self, low: int, high: int, shape: Sequence[int], dtype: Any = "i32", key: Any = None) -> "Node":
        """Integers in [low, high), uniform but for (high - low) / 2**64."""
        if not 0 < high - low < 1 << 64:
            raise ValueError(f"randint of [{low}, {high}): expected low < high")
        span = (high - low + (1 << 63)) % (1 << 64) - (1 << 63)  # its bits as an i64, which is how a CONST carries them
        u = self.mod(self.random_bits(shape, "u64", key), self.const(span, "u64"))
        offset = (low + (1 << 63)) % (1 << 64) - (1 << 63)
        return self.cast(self.add(u, self.const(offset, "u64")), dtype)

    def bernoulli(self, p: "Node | float", shape: Sequence[int], key: Any = None) -> "Node":
        """Bool: true with probability p, a number or an f32 tensor that broadcasts to shape."""
        return self.cmplt(self.rand(shape, "f32", key), p)
