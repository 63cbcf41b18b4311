"""Options of a compile request."""
from __future__ import annotations

import dataclasses
from typing import Mapping


@dataclasses.dataclass(frozen=True)
class Options:
    """What a compile request may choose.

    dims: sizes of symbolic dimensions by name; an unnamed one is "INPUT.AXIS", e.g. {"batch": 1, "x.0": 1}.
        Also "INPUT.length" of a sequence, "INPUT.present" (0 or 1) of an optional, "INPUT.rank" of a tensor without a shape.
    device: "cpu:0"; empty lets the server choose.
    no_cache: neither read nor write the server's cache.
    """

    dims: Mapping[str, int] = dataclasses.field(default_factory=dict)
    device: str = ""
    no_cache: bool = False
