"""A decoder whose keys and values stay on the server: every step sends one token and its position.

KILN_KV="LAYERS,WIDTH,HEADS,VOCABULARY,CONTEXT,STEPS" sets the size; "12,768,12,50257,1024,24" is GPT-2's."""
import os
import time

import numpy as np
import pytest

import kiln

SIZE = tuple(int(n) for n in os.environ.get("KILN_KV", "2,32,4,50,64,20").split(","))


class Weights:
    """Random, in the order of the layers."""

    def __init__(self, layers, width, vocabulary, context):
        rng = np.random.default_rng(0)

        def matrix(*shape, scale=0.05):
            return (rng.standard_normal(shape) * scale).astype(np.float32)

        self.tokens, self.places = matrix(vocabulary, width), matrix(context, width)
        self.layers = [(matrix(width, 3 * width), matrix(width, width), matrix(width, 4 * width), matrix(4 * width, width))
                       for _ in range(layers)]


def norm(x, mean):
    centred = x - mean(x)
    return centred, mean(centred * centred)


def full_logits(w, tokens, heads):
    """Of the last token, everything computed again."""
    n, width = len(tokens), w.tokens.shape[1]
    x = w.tokens[tokens] + w.places[:n]

    def layer_norm(x):
        c, v = norm(x, lambda a: a.mean(-1, keepdims=True))
        return c / np.sqrt(v + 1e-5)

    for qkv, out, up, down in w.layers:
        q, k, v = (a.reshape(n, heads, -1).transpose(1, 0, 2) for a in np.split(layer_norm(x) @ qkv, 3, axis=1))
        scores = q @ k.transpose(0, 2, 1) / np.sqrt(width // heads)
        scores = np.where(np.tril(np.ones((n, n), bool)), scores, -np.inf)
        p = np.exp(scores - scores.max(-1, keepdims=True))
        p /= p.sum(-1, keepdims=True)
        x = x + (p @ v).transpose(1, 0, 2).reshape(n, width) @ out
        x = x + np.tanh(layer_norm(x) @ up) @ down
    return layer_norm(x)[-1] @ w.tokens.T


def decoder(w, heads, context):
    """One step: logits of the next token; the caches are states."""
    g = kiln.Graph()
    width = w.tokens.shape[1]
    each = width // heads
    token, place = g.param("token", "i64", (1,)), g.param("place", "i64", ())
    at = g.size_of(place, max=context - 1)

    def layer_norm(x):
        centred = x - x.sum(-1, keepdims=True) / width
        return centred / g.sqrt((centred * centred).sum(-1, keepdims=True) / width + 1e-5)

    embedding = g.constant(w.tokens)
    x = g.gather(embedding, token) + g.gather(g.constant(w.places), place.reshape(1))
    for k, (qkv, out, up, down) in enumerate(w.layers):
        caches = [g.param(f"{name}{k}", "f32", (heads, context, each), state=True) for name in ("keys", "values")]
        h = (layer_norm(x) @ g.constant(qkv)).reshape(3, heads, 1, each)
        q, new = g.shrink(h, [(0, 1), (0, heads), (0, 1), (0, each)]).reshape(heads, 1, each), []
        for i, cache in enumerate(caches):
            one = g.shrink(h, [(i + 1, i + 2), (0, heads), (0, 1), (0, each)]).reshape(heads, 1, each)
            g.assign(g.shrink(cache, [(0, heads), (at, at + 1), (0, each)]), one)
            new.append(g.shrink(cache, [(0, heads), (0, at + 1), (0, each)]))
        scores = (q @ g.permute(new[0], [0, 2, 1])) / float(np.sqrt(each))
        p = g.exp(scores - scores.amax(-1, keepdims=True))
        p = p / p.sum(-1, keepdims=True)
        x = x + (p @ new[1]).reshape(1, width) @ g.constant(out)
        x = x + g.tanh(layer_norm(x) @ g.constant(up)) @ g.constant(down)
    g.output("logits", (layer_norm(x) @ g.permute(embedding, [1, 0])).reshape(w.tokens.shape[0]))
    return g


def test_decoding_equals_the_full_recomputation_and_compiles_once(client):
    layers, width, heads, vocabulary, context, steps = SIZE
    w = Weights(layers, width, vocabulary, context)
    exe = client.compile(decoder(w, heads, context))
    state, tokens, times = exe.state(), [1], []
    before = client.cache_stats()
    for k in range(steps):
        began = time.perf_counter()
        logits = exe({**state, "token": np.array(tokens[-1:], np.int64), "place": np.array(k, np.int64)})["logits"]
        times.append(time.perf_counter() - began)
        if k < 4 or k == steps - 1 or width < 100:
            np.testing.assert_allclose(logits, full_logits(w, tokens, heads), rtol=2e-3, atol=2e-4)
        tokens.append(int(logits.argmax()))
    after = client.cache_stats()
    assert (after.plans, after.kernels, after.misses) == (before.plans, before.kernels, before.misses)
    print(f"{layers} layers of {width}: {np.median(times) * 1e3:.1f} ms a token; {exe.report()['kernels']} kernels")


def test_a_place_outside_of_the_cache_is_refused(client):
    layers, width, heads, vocabulary, context, _ = SIZE
    exe = client.compile(decoder(Weights(layers, width, vocabulary, context), heads, context))
    with pytest.raises(kiln.Error) as e:
        exe({**exe.state(), "token": np.array([1], np.int64), "place": np.array(context, np.int64)})
    assert e.value.code == "OUT_OF_RANGE"
