"""The models that tests and benchmarks share.

light(name)            the network graphs of the onnx package, as shipped: weights are ConstantOfShape nodes
dense(name)            the same with random weights as initializers, so that nothing can be folded away
bert_base(), gpt2()    transformer stacks with random weights, written with onnx.helper
mobilenet_v2(), vit_b16(), gpt2_decode(), silero_vad()
                       the architectures of these names with random weights; gpt2_decode is one step with a KV cache
bert_dynamic()         a BERT with named batch and sequence dimensions and a mask, its shapes computed as exporters do
half(model)            a float model with its weights, inputs and outputs in f16
magika()               the file-type model inside the magika package
trained(name)          a trained model inside another package (TRAINED), with an input for it
"""
from __future__ import annotations

import functools
import importlib.util
import os
import pathlib

import numpy as np
import onnx
import onnx.backend.test
from onnx import TensorProto, helper, numpy_helper

LIGHT = ("resnet50", "squeezenet", "densenet121", "inception_v1", "inception_v2", "shufflenet", "vgg19", "zfnet512", "bvlc_alexnet")
_DATA = pathlib.Path(onnx.backend.test.__file__).parent / "data" / "light"


def light_path(name: str) -> pathlib.Path:
    """light_NAME.onnx inside the onnx package."""
    return _DATA / f"light_{name}.onnx"


def light_expected(name: str) -> np.ndarray:
    """The expected output that the package carries for its own fixed input."""
    t = TensorProto()
    t.ParseFromString((_DATA / f"light_{name}_output_0.pb").read_bytes())
    return numpy_helper.to_array(t)


def light_input(name: str) -> tuple[str, np.ndarray]:
    """(input name, the input that the package's expected output belongs to: arange(size) / size, as onnx's runner makes it)."""
    model = onnx.load(light_path(name))
    filled = {i.name for i in model.graph.initializer}
    value = next(i for i in model.graph.input if i.name not in filled)
    dims = [d.dim_value for d in value.type.tensor_type.shape.dim]
    size = int(np.prod(dims))
    return value.name, (np.arange(size).reshape(dims) / size).astype(np.float32)


@functools.lru_cache(maxsize=None)
def dense(name: str) -> bytes:
    """light_NAME with every ConstantOfShape weight replaced by a random initializer, scaled so that activations stay finite."""
    model = onnx.load(light_path(name))
    graph = model.graph
    rng = np.random.default_rng(7)
    shapes = {i.name: numpy_helper.to_array(i) for i in graph.initializer}
    for n in graph.node:
        if n.op_type == "Constant":
            shapes[n.output[0]] = numpy_helper.to_array(n.attribute[0].t)
    variance = {n.input[4] for n in graph.node if n.op_type == "BatchNormalization"}
    keep = []
    for n in graph.node:
        if n.op_type != "ConstantOfShape":
            keep.append(n)
            continue
        shape = tuple(int(d) for d in shapes[n.input[0]])
        fan_in = int(np.prod(shape[1:])) if len(shape) > 1 else 1
        values = rng.standard_normal(shape) * (1.0 / np.sqrt(fan_in) if len(shape) > 1 else 0.1)
        if n.output[0] in variance:
            values = np.abs(values) + 1.0
        elif len(shape) == 1:
            values = values + 0.5
        graph.initializer.append(numpy_helper.from_array(values.astype(np.float32), n.output[0]))
    del graph.node[:]
    graph.node.extend(keep)
    return model.SerializeToString()


class _Builder:
    """Collects nodes and initializers of a transformer."""

    def __init__(self, seed: int):
        self.nodes, self.inits, self.count = [], [], 0
        self.rng = np.random.default_rng(seed)

    def op(self, kind: str, *inputs: str, **attrs) -> str:
        self.count += 1
        out = f"{kind.lower()}_{self.count}"
        self.nodes.append(helper.make_node(kind, list(inputs), [out], name=out, **attrs))
        return out

    def weight(self, *shape: int, scale: float = 0.02) -> str:
        return self.const((self.rng.standard_normal(shape) * scale).astype(np.float32))

    def const(self, array) -> str:
        self.count += 1
        name = f"w_{self.count}"
        self.inits.append(numpy_helper.from_array(np.asarray(array), name))
        return name

    def norm(self, x: str, width: int) -> str:
        scale = self.const(np.ones(width, np.float32) + self.rng.standard_normal(width).astype(np.float32) * 0.1)
        return self.op("LayerNormalization", x, scale, self.weight(width), axis=-1, epsilon=1e-5)

    def linear(self, x: str, n_in: int, n_out: int) -> str:
        return self.op("Add", self.op("MatMul", x, self.weight(n_in, n_out)), self.weight(n_out))

    def heads(self, x: str, tokens: int, heads: int, width: int, perm) -> str:
        shape = self.const(np.array([1, tokens, heads, width // heads], np.int64))
        return self.op("Transpose", self.op("Reshape", x, shape), perm=perm)

    def attention(self, x: str, tokens: int, width: int, heads: int, mask: str | None) -> str:
        q, k, v = (self.linear(x, width, width) for _ in range(3))
        q = self.heads(q, tokens, heads, width, [0, 2, 1, 3])
        k = self.heads(k, tokens, heads, width, [0, 2, 3, 1])
        v = self.heads(v, tokens, heads, width, [0, 2, 1, 3])
        scores = self.op("Mul", self.op("MatMul", q, k), self.const(np.float32((width // heads) ** -0.5)))
        if mask:
            scores = self.op("Add", scores, mask)
        y = self.op("MatMul", self.op("Softmax", scores, axis=-1), v)
        y = self.op("Reshape", self.op("Transpose", y, perm=[0, 2, 1, 3]), self.const(np.array([1, tokens, width], np.int64)))
        return self.linear(y, width, width)

    def gelu_erf(self, x: str) -> str:
        half = self.op("Mul", x, self.const(np.float32(0.5)))
        return self.op("Mul", half, self.op("Add", self.op("Erf", self.op("Mul", x, self.const(np.float32(2 ** -0.5)))), self.const(np.float32(1))))

    def gelu_tanh(self, x: str) -> str:
        cube = self.op("Mul", self.op("Mul", x, x), x)
        inner = self.op("Mul", self.op("Add", x, self.op("Mul", cube, self.const(np.float32(0.044715)))), self.const(np.float32(0.7978845608)))
        return self.op("Mul", self.op("Mul", x, self.const(np.float32(0.5))), self.op("Add", self.op("Tanh", inner), self.const(np.float32(1))))

    def conv(self, x: str, n_in: int, n_out: int, size: int = 1, stride: int = 1, group: int = 1) -> str:
        """A convolution with the bias that a folded batch normalisation leaves, padded to keep the size."""
        w = self.weight(n_out, n_in // group, size, size, scale=(2.0 / (n_in // group * size * size)) ** 0.5)
        return self.op("Conv", x, w, self.weight(n_out), kernel_shape=[size, size], strides=[stride] * 2, pads=[size // 2] * 4, group=group)

    def relu6(self, x: str) -> str:
        return self.op("Clip", x, self.const(np.float32(0)), self.const(np.float32(6)))

    def model(self, inputs, out: str, shape) -> bytes:
        graph = helper.make_graph(self.nodes, "transformer", inputs, [helper.make_tensor_value_info(out, TensorProto.FLOAT, shape)], self.inits)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()


@functools.lru_cache(maxsize=None)
def bert_base(layers: int = 12, width: int = 768, tokens: int = 128, vocab: int = 1000) -> bytes:
    """A BERT-base-sized encoder: token ids [1, tokens] i64 to hidden states [1, tokens, width]."""
    b = _Builder(1)
    x = b.op("Add", b.op("Gather", b.weight(vocab, width), "ids"), b.weight(tokens, width))
    x = b.norm(x, width)
    for _ in range(layers):
        x = b.norm(b.op("Add", x, b.attention(x, tokens, width, 12, None)), width)
        x = b.norm(b.op("Add", x, b.linear(b.gelu_erf(b.linear(x, width, 4 * width)), 4 * width, width)), width)
    return b.model([helper.make_tensor_value_info("ids", TensorProto.INT64, [1, tokens])], x, [1, tokens, width])


@functools.lru_cache(maxsize=None)
def bert_symbolic(layers: int = 12, width: int = 768, most: int = 512, vocab: int = 1000) -> bytes:
    """bert_base with any number of tokens up to `most`, the dimension "n": token ids [1, n] i64 to hidden states [1, n, width]."""
    b = _Builder(1)
    tokens = b.op("Slice", b.op("Shape", "ids"), b.const(np.array([1], np.int64)), b.const(np.array([2], np.int64)))
    words = b.op("Gather", b.weight(vocab, width), "ids")
    places = b.op("Slice", b.weight(most, width), b.const(np.array([0], np.int64)), tokens, b.const(np.array([0], np.int64)))
    x = b.norm(b.op("Add", words, places), width)
    for _ in range(layers):
        x = b.norm(b.op("Add", x, b.attention(x, -1, width, 12, None)), width)
        x = b.norm(b.op("Add", x, b.linear(b.gelu_erf(b.linear(x, width, 4 * width)), 4 * width, width)), width)
    return b.model([helper.make_tensor_value_info("ids", TensorProto.INT64, [1, "n"])], x, [1, "n", width])


@functools.lru_cache(maxsize=None)
def gpt2(layers: int = 12, width: int = 768, tokens: int = 128, vocab: int = 1000) -> bytes:
    """A GPT-2-small-sized decoder stack with a causal mask: token ids [1, tokens] i64 to hidden states."""
    b = _Builder(2)
    mask = b.const(np.triu(np.full((tokens, tokens), -1e9, np.float32), 1)[None, None])
    x = b.op("Add", b.op("Gather", b.weight(vocab, width), "ids"), b.weight(tokens, width))
    for _ in range(layers):
        x = b.op("Add", x, b.attention(b.norm(x, width), tokens, width, 12, mask))
        x = b.op("Add", x, b.linear(b.gelu_tanh(b.linear(b.norm(x, width), width, 4 * width)), 4 * width, width))
    return b.model([helper.make_tensor_value_info("ids", TensorProto.INT64, [1, tokens])], b.norm(x, width), [1, tokens, width])


@functools.lru_cache(maxsize=None)
def mobilenet_v2() -> bytes:
    """MobileNetV2 1.0 at 224: inverted residuals with linear bottlenecks. x [1, 3, 224, 224] to [1, 1000]."""
    b = _Builder(5)
    x, width = b.relu6(b.conv("x", 3, 32, 3, 2)), 32
    for expand, out, repeat, first in ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)):
        for i in range(repeat):
            stride, hidden = first if i == 0 else 1, width * expand
            y = b.relu6(b.conv(x, width, hidden)) if expand > 1 else x
            y = b.conv(b.relu6(b.conv(y, hidden, hidden, 3, stride, hidden)), hidden, out)
            x = b.op("Add", x, y) if stride == 1 and width == out else y
            width = out
    x = b.op("GlobalAveragePool", b.relu6(b.conv(x, width, 1280)))
    x = b.op("Gemm", b.op("Flatten", x), b.weight(1280, 1000), b.weight(1000))
    return b.model([helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 224, 224])], x, [1, 1000])


@functools.lru_cache(maxsize=None)
def vit_b16(layers: int = 12, width: int = 768) -> bytes:
    """A vision transformer of base size on patches of 16: x [1, 3, 224, 224] to [1, 1000]."""
    b = _Builder(6)
    patches = b.op("Conv", "x", b.weight(width, 3, 16, 16), b.weight(width), kernel_shape=[16, 16], strides=[16, 16])
    tokens = b.op("Transpose", b.op("Reshape", patches, b.const(np.array([1, width, 196], np.int64))), perm=[0, 2, 1])
    x = b.op("Add", b.op("Concat", b.weight(1, 1, width), tokens, axis=1), b.weight(1, 197, width))
    for _ in range(layers):
        x = b.op("Add", x, b.attention(b.norm(x, width), 197, width, 12, None))
        x = b.op("Add", x, b.linear(b.gelu_erf(b.linear(b.norm(x, width), width, 4 * width)), 4 * width, width))
    x = b.op("Gather", b.norm(x, width), b.const(np.int64(0)), axis=1)
    return b.model([helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 224, 224])], b.linear(x, width, 1000), [1, 1000])


@functools.lru_cache(maxsize=None)
def gpt2_decode(layers: int = 12, width: int = 768, past: int = 256, vocab: int = 1000) -> bytes:
    """One step of GPT-2-small with a KV cache, as exporters write it: id i64 [1, 1], k0, v0, ... f32 [1, 12, past, 64], to the logits and the
    caches with one entry more."""
    b, heads = _Builder(7), 12
    shape = [1, heads, past, width // heads]
    words = b.weight(vocab, width)
    x = b.op("Add", b.op("Gather", words, "id"), b.weight(1, 1, width))
    inputs, outputs = [helper.make_tensor_value_info("id", TensorProto.INT64, [1, 1])], []
    for i in range(layers):
        h = b.norm(x, width)
        q, k, v = (b.heads(b.linear(h, width, width), 1, heads, width, [0, 2, 1, 3]) for _ in range(3))
        grown = []
        for name, new in ((f"k{i}", k), (f"v{i}", v)):
            inputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
            grown.append(b.op("Concat", name, new, axis=2))
            outputs.append(helper.make_tensor_value_info(grown[-1], TensorProto.FLOAT, [1, heads, past + 1, width // heads]))
        scores = b.op("Mul", b.op("MatMul", q, b.op("Transpose", grown[0], perm=[0, 1, 3, 2])), b.const(np.float32((width // heads) ** -0.5)))
        y = b.op("Transpose", b.op("MatMul", b.op("Softmax", scores, axis=-1), grown[1]), perm=[0, 2, 1, 3])
        x = b.op("Add", x, b.linear(b.op("Reshape", y, b.const(np.array([1, 1, width], np.int64))), width, width))
        x = b.op("Add", x, b.linear(b.gelu_tanh(b.linear(b.norm(x, width), width, 4 * width)), 4 * width, width))
    logits = b.op("MatMul", b.norm(x, width), b.op("Transpose", words, perm=[1, 0]))
    outputs.insert(0, helper.make_tensor_value_info(logits, TensorProto.FLOAT, [1, 1, vocab]))
    graph = helper.make_graph(b.nodes, "decode", inputs, outputs, b.inits)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()


def gpt2_decode_inputs(layers: int = 12, past: int = 256) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(8)
    caches = {f"{kv}{i}": rng.standard_normal((1, 12, past, 64)).astype(np.float32) for i in range(layers) for kv in "kv"}
    return {"id": np.array([[17]], np.int64), **caches}


@functools.lru_cache(maxsize=None)
def silero_vad() -> bytes:
    """A voice detector of silero-vad's architecture, 16 kHz: a Fourier transform as a convolution, four convolutions, an LSTM cell, one output.
    x f32 [1, 576], h and c [1, 1, 128], to the probability and the state."""
    b = _Builder(9)
    ints = lambda *v: b.const(np.array(v, np.int64))
    n = np.arange(256)
    window = 0.5 - 0.5 * np.cos(2 * np.pi * n / 256)
    basis = [f(2 * np.pi * k * n / 256) * window for f in (np.cos, np.sin) for k in range(129)]
    x = b.op("Unsqueeze", b.op("Pad", "x", ints(0, 0, 0, 64), mode="reflect"), ints(1))
    x = b.op("Conv", x, b.const(np.array(basis, np.float32)[:, None]), kernel_shape=[256], strides=[128])
    re, im = (b.op("Slice", x, ints(at), ints(at + 129), ints(1)) for at in (0, 129))
    x = b.op("Sqrt", b.op("Add", b.op("Mul", re, re), b.op("Mul", im, im)))
    for n_in, n_out, stride in ((129, 128, 1), (128, 64, 2), (64, 64, 2), (64, 128, 1)):
        w = b.weight(n_out, n_in, 3, scale=(2 / (3 * n_in)) ** 0.5)
        x = b.op("Relu", b.op("Conv", x, w, b.weight(n_out), kernel_shape=[3], strides=[stride], pads=[1, 1]))
    x = b.op("Transpose", x, perm=[2, 0, 1])
    w, r, bias = b.weight(1, 512, 128, scale=0.08), b.weight(1, 512, 128, scale=0.08), b.weight(1, 1024)
    b.nodes.append(helper.make_node("LSTM", [x, w, r, bias, "", "h", "c"], ["y", "hn", "cn"], hidden_size=128))
    y = b.op("Relu", b.op("Reshape", "hn", ints(1, 128)))
    p = b.op("Sigmoid", b.op("Gemm", y, b.weight(128, 1, scale=0.1), b.weight(1)))
    value = helper.make_tensor_value_info
    state = [[1, 1, 128]] * 2
    graph = helper.make_graph(b.nodes, "vad", [value("x", TensorProto.FLOAT, [1, 576]), *(value(n, TensorProto.FLOAT, s) for n, s in zip("hc", state))],
                              [value(p, TensorProto.FLOAT, [1, 1]), *(value(n, TensorProto.FLOAT, s) for n, s in zip(("hn", "cn"), state))], b.inits)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()


class _Exported(_Builder):
    """Shapes as torch's exporter computes them: Shape, Gather, Unsqueeze, Concat, Reshape."""

    def size(self, x: str, axis: int) -> str:
        return self.op("Gather", self.op("Shape", x), self.const(np.int64(axis)), axis=0)

    def sizes(self, *parts) -> str:
        zero = self.const(np.array([0], np.int64))
        rows = [self.op("Unsqueeze", p, zero) if isinstance(p, str) else self.const(np.array([p], np.int64)) for p in parts]
        return self.op("Concat", *rows, axis=0)

    def exported_heads(self, x: str, heads: int, width: int, perm) -> str:
        shape = self.sizes(self.size(x, 0), self.size(x, 1), heads, width // heads)
        return self.op("Transpose", self.op("Reshape", x, shape), perm=perm)

    def exported_attention(self, x: str, width: int, heads: int, mask: str) -> str:
        q, k, v = (self.linear(x, width, width) for _ in range(3))
        q = self.exported_heads(q, heads, width, [0, 2, 1, 3])
        k = self.exported_heads(k, heads, width, [0, 2, 3, 1])
        v = self.exported_heads(v, heads, width, [0, 2, 1, 3])
        scores = self.op("Div", self.op("MatMul", q, k), self.const(np.float32((width // heads) ** 0.5)))
        y = self.op("MatMul", self.op("Softmax", self.op("Add", scores, mask), axis=-1), v)
        y = self.op("Transpose", y, perm=[0, 2, 1, 3])
        return self.linear(self.op("Reshape", y, self.sizes(self.size(y, 0), self.size(y, 1), width)), width, width)


@functools.lru_cache(maxsize=None)
def bert_dynamic(layers: int = 12, width: int = 768, heads: int = 12, vocab: int = 1000, longest: int = 512) -> bytes:
    """ids and mask, i64 [batch, sequence], to hidden states [batch, sequence, width]; sequences of up to `longest` tokens."""
    b = _Exported(4)
    zero, one = b.const(np.array([0], np.int64)), b.const(np.array([1], np.int64))
    length = b.op("Unsqueeze", b.size("ids", 1), zero)
    positions = b.op("Slice", b.const(np.arange(longest, dtype=np.int64)[None]), zero, length, one)
    x = b.op("Add", b.op("Gather", b.weight(vocab, width), "ids"), b.op("Gather", b.weight(longest, width), positions))
    x = b.norm(x, width)
    m = b.op("Cast", b.op("Unsqueeze", "mask", b.const(np.array([1, 2], np.int64))), to=TensorProto.FLOAT)
    m = b.op("Mul", b.op("Sub", b.const(np.float32(1)), m), b.const(np.float32(-1e4)))
    for _ in range(layers):
        x = b.norm(b.op("Add", x, b.exported_attention(x, width, heads, m)), width)
        x = b.norm(b.op("Add", x, b.linear(b.gelu_erf(b.linear(x, width, 4 * width)), 4 * width, width)), width)
    inputs = [helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "sequence"]) for name in ("ids", "mask")]
    return b.model(inputs, x, ["batch", "sequence", width])


_LARGEST_HALF = 65504.0


def half(model: bytes) -> bytes:
    """Every f32 of it as f16; what is beyond the range of f16 (the -1e9 of a mask) is its largest number."""
    m = onnx.load_from_string(model)
    for i in m.graph.initializer:
        if i.data_type == TensorProto.FLOAT:
            a = numpy_helper.to_array(i)
            i.CopyFrom(numpy_helper.from_array(np.clip(a, -_LARGEST_HALF, _LARGEST_HALF).astype(np.float16), i.name))
    for v in (*m.graph.input, *m.graph.output, *m.graph.value_info):
        if v.type.tensor_type.elem_type == TensorProto.FLOAT:
            v.type.tensor_type.elem_type = TensorProto.FLOAT16
    return m.SerializeToString()


def token_ids(tokens: int = 128, vocab: int = 1000) -> np.ndarray:
    """Fixed pseudo-random token ids."""
    return np.random.default_rng(3).integers(0, vocab, (1, tokens)).astype(np.int64)


def magika_path() -> pathlib.Path:
    """model.onnx of the newest standard model that the magika package ships."""
    package = pathlib.Path(importlib.util.find_spec("magika").origin).parent
    return sorted((package / "models").glob("standard_*"))[-1] / "model.onnx"


def matmul(n: int) -> bytes:
    """C = A @ B, f32, n cubed; A is an input, B a weight."""
    rng = np.random.default_rng(5)
    b = numpy_helper.from_array(rng.standard_normal((n, n)).astype(np.float32), "B")
    graph = helper.make_graph([helper.make_node("MatMul", ["A", "B"], ["C"])], "matmul",
                              [helper.make_tensor_value_info("A", TensorProto.FLOAT, [n, n])],
                              [helper.make_tensor_value_info("C", TensorProto.FLOAT, [n, n])], [b])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()


def _noise(*shape: int, scale: float = 0.3) -> np.ndarray:
    return (np.random.default_rng(sum(shape)).standard_normal(shape) * scale).astype(np.float32)


_RATE, _SILERO_STATE = np.array(16000, np.int64), (2, 1, 128)
# name: (package, file in it, inputs). The packages are installed without what they depend on; nothing of them is imported.
TRAINED = {
    "silero op13": ("silero_vad", "data/silero_vad_16k_op15.onnx", {"input": (1, 576), "state": _SILERO_STATE, "sr": _RATE}),
    "silero op16": ("silero_vad", "data/silero_vad.onnx", {"input": (1, 576), "state": _SILERO_STATE, "sr": _RATE}),
    "silero op16 8 kHz": ("silero_vad", "data/silero_vad.onnx", {"input": (1, 288), "state": _SILERO_STATE, "sr": np.array(8000, np.int64)}),
    "silero op15": ("silero_vad", "data/silero_vad_16k_op15.onnx", {"input": (1, 576), "state": _SILERO_STATE, "sr": _RATE}),
    "silero op18": ("silero_vad", "data/silero_vad_op18_ifless.onnx", {"input": (1, 576), "state": _SILERO_STATE, "sr": _RATE}),
    "silero half": ("silero_vad", "data/silero_vad_half.onnx", {"input": (1, 576), "state": _SILERO_STATE}),
    "silero sequence": ("silero_vad", "data/silero_vad_16k_sequence.onnx", {"input": (7, 576), "h": (1, 1, 128), "c": (1, 1, 128)}),
    "silero openvino": ("silero_vad", "data/silero_vad_openvino_16k.onnx", {"input": (1, 576), "state": _SILERO_STATE}),
    "silero of whisper": ("faster_whisper", "assets/silero_vad_v6.onnx", {"input": (5, 576), "h": (1, 1, 128), "c": (1, 1, 128)}),
    "basic pitch": ("basic_pitch", "saved_models/icassp_2022/nmp.onnx", {"serving_default_input_2:0": (1, 43844, 1)}),
    "nudenet": ("nudenet", "320n.onnx", {"images": (1, 3, 320, 320)}),
    "ocr detection": ("rapidocr_onnxruntime", "models/ch_PP-OCRv4_det_infer.onnx", {"x": (1, 3, 96, 160)}),
    "ocr recognition": ("rapidocr_onnxruntime", "models/ch_PP-OCRv4_rec_infer.onnx", {"x": (1, 3, 48, 96)}),
    "ocr direction": ("rapidocr_onnxruntime", "models/ch_ppocr_mobile_v2.0_cls_infer.onnx", {"x": (2, 3, 48, 192)}),
}


# No package ships this form: of what came after opset 13 the op15 file only spells out a default (allowzero = 0), so it can be stated as an op13 one.
RESTATED = {"silero op13": 13}


def restate(model: onnx.ModelProto, opset: int) -> bytes:
    """The same nodes under an older opset; onnx's checker refuses what that opset does not have."""
    def forget_defaults(graph):
        for node in graph.node:
            for attribute in list(node.attribute):
                if attribute.name == "allowzero" and attribute.i == 0:
                    node.attribute.remove(attribute)
                elif attribute.HasField("g"):
                    forget_defaults(attribute.g)
    forget_defaults(model.graph)
    model.opset_import[0].version = opset
    onnx.checker.check_model(model)
    return model.SerializeToString()


def trained(name: str) -> tuple[bytes, dict, dict]:
    """(the model, inputs, sizes of its open dimensions)."""
    package, file, shapes = TRAINED[name]
    path = pathlib.Path(importlib.util.find_spec(package).origin).parent / file
    inputs = {k: v if isinstance(v, np.ndarray) else _noise(*v) for k, v in shapes.items()}
    model, dims = onnx.load(path, load_external_data=False), {}
    for info in model.graph.input:
        for axis, dim in enumerate(info.type.tensor_type.shape.dim):
            if not dim.HasField("dim_value") or dim.dim_value < 0:
                dims[dim.dim_param.strip("?") or f"{info.name}.{axis}"] = inputs[info.name].shape[axis]
    data = restate(model, RESTATED[name]) if name in RESTATED else path.read_bytes()
    return data, inputs, dims


def chain(n: int) -> bytes:
    """n alternating elementwise and softmax nodes on f32[16, 64]."""
    nodes, at = [], "x"
    for i in range(n):
        kind = ("Relu", "Softmax", "Neg", "Sigmoid")[i % 4]
        nodes.append(helper.make_node(kind, [at], [f"v{i}"]))
        at = f"v{i}"
    graph = helper.make_graph(nodes, "chain", [helper.make_tensor_value_info("x", TensorProto.FLOAT, [16, 64])],
                              [helper.make_tensor_value_info(at, TensorProto.FLOAT, [16, 64])])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()
