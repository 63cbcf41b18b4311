"""Options of a compile request."""
from __future__ import annotations

import dataclasses
from typing import Mapping


@dataclasses.dataclass(frozen=True)
class Dim:
    """Bounds of a dimension whose size each run decides: in [min, max], and a multiple of `multiple`."""

    min: int
    max: int
    multiple: int = 1


@dataclasses.dataclass(frozen=True)
class Options:
    """What a compile request may choose.

    dims: what named dimensions may be; an unnamed one is "INPUT.AXIS". A number fixes the size, (min, max) or kiln.Dim(min, max,
        multiple=8) leaves it to each run: {"batch": 4, "n": (1, 512), "x.1": kiln.Dim(8, 4096, multiple=8)}. One compile serves
        every size within the bounds. A dimension without an entry has the bounds that the model gives it, or (1, 65536).
        Also "INPUT.length" of a sequence, "INPUT.present" (0 or 1) of an optional, "INPUT.rank" of a tensor without a shape.
    device: "cpu:0"; empty lets the server choose.
    no_cache: neither read nor write the server's cache.
    fast_math: also algorithms whose rounding, or handling of NaN and infinities, is not that of the graph: Winograd convolutions, products of tf32.
    batching: (milliseconds, rows): how long a run may wait, while the device is busy, for others of the same caller to run with, where rows
        are independent, and of how many rows at most (0: as the server says). (0, 0): each run alone. None: as the server is configured.
    seed: of random ops; the executable's n-th run from here draws the n-th set of numbers of this seed. None: fresh numbers.
    """

    dims: Mapping[str, int | tuple[int, int] | Dim] = dataclasses.field(default_factory=dict)
    device: str = ""
    no_cache: bool = False
    fast_math: bool = False
    batching: tuple[int, int] | None = None
    seed: int | None = None
