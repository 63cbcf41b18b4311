"""Attention on a GPU beside the best of PyTorch's scaled_dot_product_attention, and FlexAttention where rows see a window or have a bias."""
from __future__ import annotations

import functools
from typing import Any, Callable

from gpu_bench import Case, Goal, torch

FULL, CAUSAL, OTHER = Goal(0.8, 1.1), Goal(0.8, 1.2), Goal(0.7, 1.0)


def kiln_attention(g, q, k, v, *bias, dtype: str, causal: bool = False, window: int = 0):
    """softmax(q k^T / sqrt(d) + bias) v; scores are f32. Several heads of q may share one of k and v."""
    batch, heads, rows, depth = q.shape
    groups, keys = k.shape[1], k.shape[2]
    q = q.reshape(batch, groups, heads // groups * rows, depth) if rows == 1 else q.reshape(batch, groups, heads // groups, rows, depth)
    if rows > 1:
        k, v = (x.reshape(batch, groups, 1, keys, depth) for x in (k, v))
    scores = (q.cast("f32") @ g.swapaxes(k.cast("f32"), -1, -2)) * depth**-0.5
    if bias:
        scores = scores + bias[0].cast("f32").reshape(1, groups, heads // groups, 1, keys)
    if causal:
        i, j = (g.iota("i32", (rows, keys), axis) for axis in (0, 1))
        seen = j <= i
        if window:
            seen = g.and_(seen, i - j < window)
        scores = g.where(seen, scores, g.const(float("-inf"), "f32"))
    return (g.softmax(scores, axis=-1).cast(dtype) @ v).reshape(batch, heads, rows, depth)


@functools.lru_cache(maxsize=2)
def seen_mask(rows: int, window: int, device: str) -> Any:
    i = torch.arange(rows, device=device)
    seen = i[None, :] <= i[:, None]
    return seen & (i[:, None] - i[None, :] < window) if window else seen


def sdpa(backend: str | None, causal: bool, window: int) -> Callable[..., Any]:
    def call(q, k, v, *bias):
        F, mask = torch.nn.functional, None
        if bias or window:
            mask = seen_mask(q.shape[2], window, str(q.device))
            mask = torch.where(mask, bias[0], float("-inf")).to(q.dtype) if bias else mask
        kernels = torch.nn.attention
        with kernels.sdpa_kernel(getattr(kernels.SDPBackend, backend)):
            return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal and mask is None, enable_gqa=q.shape[1] != k.shape[1])
    return call


@functools.lru_cache(maxsize=None)
def flex(causal: bool, window: int) -> Callable[..., Any]:
    """Compiled once; the bias is one of each head and key."""
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention
    compiled = torch.compile(flex_attention, dynamic=False)

    @functools.lru_cache(maxsize=None)
    def blocks(rows: int, device: str):
        def seen(b, h, i, j):
            return (j <= i) & (i - j < window) if window else j <= i
        return create_block_mask(seen, None, None, rows, rows, device=device)

    def call(q, k, v, *bias):
        def add(score, b, h, i, j):
            return score + bias[0][0, h, 0, j]
        return compiled(q, k, v, score_mod=add if bias else None, block_mask=blocks(q.shape[2], str(q.device)) if causal else None)
    return call


def attention(name: str, size: Callable[[int], int], batch: int, heads: int, rows: int, depth: int, goal: Goal, groups: int = 0, keys: int = 0,
              causal: bool = False, window: int = 0, bias: bool = False, dtype: str = "bf16") -> Case:
    groups, keys, share = groups or heads, keys or rows, 0.5 if causal else 1.0
    shape = f"{batch}x{heads}{f'/{groups}' if groups != heads else ''}x{rows}{f'/{keys}' if keys != rows else ''}x{depth}"
    rows, keys, window = size(rows), size(keys), window and min(window, size(window))
    share = min(share, window / keys) if window else share
    batch = min(batch, size(batch))
    inputs = [((batch, heads, rows, depth), dtype)] + 2 * [((batch, groups, keys, depth), dtype)] + ([((1, heads, 1, keys), dtype)] if bias else [])
    peers = {f"SDPA {b}": sdpa(f"{b}_ATTENTION", causal, window) for b in ("CUDNN", "FLASH", "EFFICIENT")}
    peers["SDPA MATH"] = sdpa("MATH", causal, window)
    if rows * keys * batch * heads > 1 << 28:
        del peers["SDPA MATH"]  # all scores in memory
    if window or bias:
        peers["Flex"] = lambda *x: flex(causal, window)(*x)
    return Case(f"attention {dtype} {shape}{' ' if name else ''}{name}", inputs, functools.partial(kiln_attention, dtype=dtype, causal=causal, window=window), peers, goal,
                4.0 * share * batch * heads * rows * keys * depth, copies=2 if rows > 1 else None)  # of more, a mask would be stored for all


def cases(size: Callable[[int], int]) -> list[Case]:
    def one(name: str, batch: int, heads: int, rows: int, depth: int, goal: Goal = OTHER, **more: Any) -> Case:
        return attention(name, size, batch, heads, rows, depth, goal, causal=name.startswith("causal"), **more)
    return [
        one("", 4, 32, 4096, 128, FULL), one("causal", 4, 32, 4096, 128, CAUSAL),
        one("", 16, 32, 1024, 128), one("causal", 16, 32, 1024, 128), one("causal", 8, 32, 2048, 128), one("", 2, 32, 8192, 128),
        one("", 1, 32, 16384, 128), one("causal", 1, 32, 16384, 128), one("causal", 4, 32, 4096, 128, groups=8),
        one("", 4, 32, 4096, 64), one("causal", 4, 32, 4096, 64), one("", 4, 16, 4096, 256), one("causal", 4, 16, 4096, 256),
        one("one query", 4, 32, 1, 128, keys=4096), one("one query", 8, 32, 1, 128, groups=8, keys=8192), one("one query", 1, 32, 1, 128, groups=8, keys=16384),
        one("causal, window of 1024", 4, 32, 4096, 128, window=1024), one("causal, a bias per head and key", 4, 32, 4096, 128, bias=True),
    ]
