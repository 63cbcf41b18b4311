"""Products of matrices on a GPU beside cuBLAS: the large ones, and the shapes of models and of nobody's liking."""
from __future__ import annotations

import math
from typing import Callable

from gpu_bench import Case, Goal

HALVES, WIDE = Goal(0.85, 1.0), Goal(0.8, 1.0)

# rows, columns, depth; "nn": both factors as they are multiplied, "nt": the second is stored [n, k], as linear layers have it, "tn": the first [k, m]
LARGE = [("bf16", 8192, 8192, 8192, "nn"), ("bf16", 4096, 4096, 4096, "nn"), ("bf16", 2048, 2048, 2048, "nn"), ("f32", 4096, 4096, 4096, "nn"),
         ("tf32", 4096, 4096, 4096, "nn"), ("tf32", 4096, 4096, 4096, "nt")]
BERT = [("f16", m, n, k, "nt") for m in (128, 512) for n, k in ((768, 768), (2304, 768), (3072, 768), (768, 3072))] + \
       [("f16", 384, n, k, "nt") for n, k in ((1024, 1024), (4096, 1024))]
GPT2 = [("f16", 1024, n, k, "nn") for n, k in ((768, 768), (2304, 768), (3072, 768), (768, 3072))] + [("f16", 1024, 50257, 768, "nt")]
LLAMA = [("bf16", m, n, k, "nt") for m in (2048, 512) for n, k in ((4096, 4096), (6144, 4096), (14336, 4096), (4096, 14336))] + \
        [("bf16", 1, n, k, "nt") for n, k in ((4096, 4096), (6144, 4096), (14336, 4096), (4096, 14336))] + \
        [("bf16", m, n, k, "nt") for m in (4, 8, 16) for n, k in ((4096, 4096), (14336, 4096), (4096, 14336))] + \
        [("bf16", 1, 4096, 4096, "nn"), ("bf16", 16, 4096, 4096, "nn")]
OTHERS = [("f16", 4096, 4096, 4096, "nt"), ("bf16", 4096, 4096, 4096, "tn"), ("f16", 1024, 1024, 1024, "nn"), ("f16", 512, 512, 512, "nn"),
          ("f16", 64, 4096, 4096, "nn"), ("f16", 256, 8192, 8192, "nn"), ("f16", 512, 8192, 8192, "nn"),
          ("f16", 4096, 4096, 512, "nn"), ("f16", 8192, 8192, 512, "nn"),
          ("f16", 4096, 11008, 4096, "nn"), ("f16", 5000, 5056, 4096, "nn"), ("f16", 1536, 4608, 1536, "nn"), ("f16", 2048, 5120, 5120, "nn"),
          ("f16", 3000, 3000, 3000, "nn"), ("f16", 3000, 3008, 3008, "nn"), ("f16", 1000, 1000, 1000, "nn"), ("f16", 1000, 1000, 1024, "nn"),
          ("f16", 4096, 4096, 4040, "nn"), ("f16", 2047, 2047, 2047, "nn"), ("bf16", 333, 777, 1111, "nn")]


def product(dtype: str, m: int, n: int, k: int, layout: str, size: Callable[[int], int]) -> Case:
    fast, shown = dtype == "tf32", "" if layout == "nn" else f" {layout}"
    name = f"{dtype} {m}x{n}x{k}{shown}"
    kind, (m, n, k) = "f32" if fast else dtype, (size(x) for x in (m, n, k))

    def one(a, b):
        return (a.T if layout[0] == "t" else a) @ (b.T if layout[1] == "t" else b)
    return Case(name, [((k, m) if layout[0] == "t" else (m, k), kind), ((n, k) if layout[1] == "t" else (k, n), kind)],
                lambda g, a, b: one(a, b), {"cuBLAS": one}, WIDE if kind == "f32" else HALVES, 2.0 * m * n * k * (0.15 if fast else 1),
                fast_math=fast, tolerance=5e-3 if fast else None, scale=1 / math.sqrt(math.sqrt(k)))


def large(size: Callable[[int], int]) -> list[Case]:
    return [product(*s, size) for s in LARGE]


def shapes(size: Callable[[int], int]) -> list[Case]:
    return [product(*s, size) for s in BERT + GPT2 + LLAMA + OTHERS]
