"""Schedules that the tuner timed by both compilers: code from PTX by LLVM and from CUDA C++ by NVRTC."""
from __future__ import annotations

import dataclasses
import math

from gpu_bench import Case, timings

OTHER = "COMPILER(0,1)"


@dataclasses.dataclass
class Pair:
    name: str
    opts: str
    llvm_ns: int
    nvrtc_ns: int

    @property
    def ratio(self) -> float:
        return self.llvm_ns / self.nvrtc_ns


def pairs(case: Case, kernels: list) -> list[Pair]:
    """kernels: of exe.explain(tried=...) after a search."""
    found = []
    for kernel in kernels:
        timed = timings(kernel)
        for opts, ns in timed.items():
            plain = " ".join(o for o in opts.split() if o != OTHER)
            if plain != opts and plain in timed:
                found.append(Pair(case.name, plain, timed[plain], ns))
    return found


def table(all_pairs: list[Pair]) -> None:
    if not all_pairs:
        return
    print("\n| schedule | LLVM us | NVRTC us | LLVM / NVRTC |\n|---|---|---|---|")
    for p in all_pairs:
        print(f"| {p.name}: {p.opts} | {p.llvm_ns / 1000:.1f} | {p.nvrtc_ns / 1000:.1f} | {p.ratio:.2f} |")
    mean = math.exp(sum(math.log(p.ratio) for p in all_pairs) / len(all_pairs))
    print(f"compilers: {len(all_pairs)} schedules, geometric mean {mean:.3f}, NVRTC faster by 3 % in {sum(p.ratio > 1.03 for p in all_pairs)}", flush=True)
