"""Rows, sums, transposition, chains and products with a vector on a GPU beside PyTorch."""
from __future__ import annotations

from typing import Callable

from gpu_bench import Case, Goal, torch

SOFTMAX, LAYERNORM, SUMS = Goal(190, 184, True), Goal(187, 181, True), Goal(95, 90, True)


def softmax(rows: int, cols: int, goal: Goal | None = SOFTMAX) -> Case:
    return Case(f"softmax f32 {rows}x{cols}", [((rows, cols), "f32")], lambda g, x: g.softmax(x, axis=1), {"eager": lambda x: torch.softmax(x, 1)}, goal)


def layernorm(rows: int, cols: int, goal: Goal | None = SOFTMAX) -> Case:
    return Case(f"layernorm f32 {rows}x{cols}", [((rows, cols), "f32"), ((cols,), "f32"), ((cols,), "f32")],
                lambda g, x, w, b: g.layernorm(x, w, b), {"eager": lambda x, w, b: torch.nn.functional.layer_norm(x, (cols,), w, b)}, goal)


def whole(name: str, rows: int, cols: int, build: Callable, call: Callable, goal: Goal | None, dtype: str = "f32") -> Case:
    return Case(f"{name} {dtype} {rows}x{cols}", [((rows, cols), dtype)], build, {"eager": call}, goal)


def gelu_chain(rows: int, cols: int) -> Case:
    def call(x, w):
        return torch.nn.functional.gelu(1.5 * x + w) * torch.sigmoid(x)
    return Case(f"gelu(1.5 x + w) sigmoid(x) f32 {rows}x{cols}", [((rows, cols), "f32"), ((cols,), "f32")],
                lambda g, x, w: g.gelu(x * 1.5 + w) * g.sigmoid(x), {"eager": call}, Goal(195, 182, True))


def gemv(dtype: str, n: int) -> Case:
    return Case(f"matrix times vector {dtype} {n} squared", [((n, n), dtype), ((n,), dtype)], lambda g, a, b: a @ b, {"cuBLAS": lambda a, b: a @ b},
                Goal(176, 170, True), scale=0.125)


def chain(n: int, size: int, goal: Goal | None) -> Case:
    """Dependent small kernels: what a launch costs."""
    def build(g, x):
        for _ in range(n - 1):
            x = g.contiguous(x + 1)
        return x + 1

    def call(x):
        for _ in range(n):
            x = x + 1
        return x
    return Case(f"each of {n} dependent kernels of {size} elements", [((size,), "f32")], build, {"CUDA graph": call}, goal, per=n, copies=1)


def cases(size: Callable[[int], int]) -> list[Case]:
    n, m = size(16384), size(4096)
    return [
        softmax(n, m), layernorm(n, m, LAYERNORM), gelu_chain(n, m),
        whole("transpose", n, m, lambda g, x: x.permute(1, 0), lambda x: x.t().contiguous(), Goal(195, 186, True)),
        whole("sum all", n, m, lambda g, x: x.sum(), lambda x: x.sum(), SUMS),
        whole("sum over rows", n, m, lambda g, x: x.sum(axis=0), lambda x: x.sum(0), SUMS),
        whole("sum of rows", n, m, lambda g, x: x.sum(axis=1), lambda x: x.sum(1), SUMS),
        gemv("bf16", n),
        chain(100, 256, Goal(1.3, 0.8, True)), chain(100, size(32768), Goal(1.3, 0.8, True)),
        *(softmax(size(2**26 // c), size(c)) for c in (256, 1024, 8192, 16384, 32768)), softmax(size(65536), size(1000)),
        *(layernorm(size(2**26 // c), size(c)) for c in (256, 1024, 16384, 32768)), layernorm(size(65536), size(768), None), layernorm(128, size(768), None),
        whole("add", n, m, lambda g, x: x + x * 0.5, lambda x: torch.add(x, x, alpha=0.5), None),
        whole("add", n, size(8192), lambda g, x: x + x * 0.5, lambda x: torch.add(x, x, alpha=0.5), None, "f16"),
    ]
