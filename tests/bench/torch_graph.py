"""An ONNX graph as a torch module, node by node: what PyTorch runs in the benchmark tables, eagerly or compiled. It knows the operators of the
benchmarks' models and says which one it does not know."""
from __future__ import annotations

import numpy as np
import onnx
import torch
import torch.nn.functional as F
from onnx import numpy_helper


def _attributes(node) -> dict:
    return {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}


def _pads(a: dict, rank: int) -> list[int]:
    """Begin and end of each axis, the last axis first, as F.pad has them."""
    p = list(a.get("pads", [0] * 2 * rank))
    return [v for d in reversed(range(rank)) for v in (p[d], p[d + rank])]


def _padded(x, a: dict, rank: int, value: float = 0.0):
    p = _pads(a, rank)
    return F.pad(x, p, value=value) if any(p) else x


def _conv(a, x, w, bias=None):
    rank = x.dim() - 2
    p = list(a.get("pads", [0] * 2 * rank))
    same = p[:rank] == p[rank:]
    f = (F.conv1d, F.conv2d, F.conv3d)[rank - 1]
    return f(x if same else _padded(x, a, rank), w, bias, a.get("strides", [1] * rank), p[:rank] if same else 0, a.get("dilations", [1] * rank),
             a.get("group", 1))


def _max_pool(a, x):
    k, rank = a["kernel_shape"], x.dim() - 2
    p = list(a.get("pads", [0] * 2 * rank))
    if p[:rank] == p[rank:] and all(2 * v <= s for v, s in zip(p, k)):
        return F.max_pool2d(x, k, a.get("strides", 1), p[:rank])
    return F.max_pool2d(_padded(x, a, rank, -torch.inf), k, a.get("strides", 1))


def _average_pool(a, x):
    k, rank = a["kernel_shape"], x.dim() - 2
    p = list(a.get("pads", [0] * 2 * rank))
    if p[:rank] == p[rank:]:
        return F.avg_pool2d(x, k, a.get("strides", 1), p[:rank], count_include_pad=bool(a.get("count_include_pad", 0)))
    ones = F.avg_pool2d(_padded(torch.ones_like(x[:1, :1]), a, rank), k, a.get("strides", 1))
    return F.avg_pool2d(_padded(x, a, rank), k, a.get("strides", 1)) / ones


def _gemm(a, x, y, c=None):
    x, y = (t.T if a.get(n) else t for t, n in ((x, "transA"), (y, "transB")))
    r = x @ y * a.get("alpha", 1.0)
    return r if c is None else r + c * a.get("beta", 1.0)


def _norm(a, x, scale, bias=None):
    axis = a.get("axis", -1)
    return F.layer_norm(x, x.shape[axis:], scale, bias, a.get("epsilon", 1e-5))


def _softmax(a, x):
    if a["opset"] >= 13:
        return torch.softmax(x, a.get("axis", -1))
    axis = a.get("axis", 1)  # over all axes from this one on
    return torch.softmax(x.reshape(*x.shape[:axis], -1), -1).reshape(x.shape)


def _lstm(a, x, w, r, b, lens, h, c):
    """One direction; ONNX orders the gates i o f c, torch i f g o."""
    def order(t):
        i, o, f, g = t.chunk(4, 0)
        return torch.cat([i, f, g, o], 0)
    wi, wr, (bi, br) = order(w[0]), order(r[0]), (order(t) for t in b[0].chunk(2))
    y, hn, cn = torch._VF.lstm(x, (h, c), [wi, wr, bi, br], True, 1, 0.0, False, False, False)
    return y[:, None], hn, cn


def _slice(a, x, starts, ends, axes=None, steps=None):
    for i, (s, e) in enumerate(zip(starts, ends)):
        axis = axes[i] if axes is not None else i
        x = x.narrow(axis, s, min(e, x.shape[axis]) - s)
    return x


def _pad(a, x, pads, value=None):
    p, rank = list(pads), x.dim()
    order = [v for d in reversed(range(rank)) for v in (p[d], p[d + rank])]
    mode = a.get("mode", b"constant").decode()
    while mode != "constant" and len(order) > 2 * (rank - 1) and not any(order[-2:]):
        order = order[:-2]
    return F.pad(x, order, mode=mode, **({} if mode != "constant" or value is None else {"value": float(value)}))


def _reshape(a, x, shape):
    return x.reshape([x.shape[i] if d == 0 else d for i, d in enumerate(shape)])


def _flatten(a, x):
    axis = a.get("axis", 1)
    return x.reshape(int(np.prod(x.shape[:axis])), -1)


def _gather(a, x, index):
    axis = a.get("axis", 0)
    if not torch.is_tensor(index):
        return x.select(axis, int(index)) if np.ndim(index) == 0 else x.index_select(axis, torch.as_tensor(index).reshape(-1))
    return F.embedding(index, x) if axis == 0 and x.dim() == 2 else x.index_select(axis, index.reshape(-1))


def _unsqueeze(a, x, axes=None):
    for axis in sorted(axes if axes is not None else a["axes"]):
        x = x.unsqueeze(axis)
    return x


def _batch_norm(a, x, scale, bias, mean, var):
    return F.batch_norm(x, mean, var, scale, bias, False, 0.0, a.get("epsilon", 1e-5))


OPS = {
    "Add": lambda a, x, y: x + y, "Sub": lambda a, x, y: x - y, "Mul": lambda a, x, y: x * y, "Div": lambda a, x, y: x / y,
    "MatMul": lambda a, x, y: x @ y, "Relu": lambda a, x: F.relu(x), "Tanh": lambda a, x: torch.tanh(x), "Erf": lambda a, x: torch.erf(x),
    "Sqrt": lambda a, x: torch.sqrt(x), "Sigmoid": lambda a, x: torch.sigmoid(x), "Sum": lambda a, *x: sum(x[1:], x[0]),
    "Clip": lambda a, x, lo=None, hi=None: torch.clamp(x, None if lo is None else float(lo), None if hi is None else float(hi)),
    "Conv": _conv, "MaxPool": _max_pool, "AveragePool": _average_pool, "GlobalAveragePool": lambda a, x: x.mean((2, 3), keepdim=True),
    "BatchNormalization": _batch_norm, "Gemm": _gemm, "LayerNormalization": _norm, "Softmax": _softmax, "LSTM": _lstm, "Slice": _slice,
    "Concat": lambda a, *x: torch.cat(x, a["axis"]), "Transpose": lambda a, x: x.permute(a["perm"]), "Reshape": _reshape, "Flatten": _flatten,
    "Unsqueeze": _unsqueeze, "Gather": _gather, "Pad": _pad, "Dropout": lambda a, x, *_: x,
    "Identity": lambda a, x: x,
    "LRN": lambda a, x: F.local_response_norm(x, a["size"], a.get("alpha", 1e-4), a.get("beta", 0.75), a.get("bias", 1.0)),
}


class Module(torch.nn.Module):
    """forward takes the graph's inputs in order and returns its outputs in order."""

    def __init__(self, model: bytes):
        super().__init__()
        loaded = onnx.load_from_string(model)
        graph, opset = loaded.graph, next(o.version for o in loaded.opset_import if o.domain in ("", "ai.onnx"))
        self.values = {}
        for i in graph.initializer:
            self._keep(i.name, numpy_helper.to_array(i))
        self.inputs = [i.name for i in graph.input if i.name not in self.values]
        self.outputs = [o.name for o in graph.output]
        self.nodes = []
        for n in graph.node:
            if n.op_type == "Constant":
                self._keep(n.output[0], numpy_helper.to_array(n.attribute[0].t))
            elif n.op_type in OPS:
                self.nodes.append((OPS[n.op_type], {"opset": opset, **_attributes(n)}, list(n.input), list(n.output)))
            else:
                raise NotImplementedError(f"operator {n.op_type}")

    def _keep(self, name: str, array: np.ndarray) -> None:
        """Weights are tensors, the numbers of shapes are lists."""
        floats = array.dtype.kind == "f" and array.ndim
        self.values[name] = torch.from_numpy(array.copy()) if floats else array.tolist()

    def forward(self, *inputs):
        v = dict(self.values)
        v.update(zip(self.inputs, inputs))
        v[""] = None
        for f, attributes, names, out in self.nodes:
            r = f(attributes, *[v[n] for n in names])
            v.update(zip(out, r if isinstance(r, tuple) else (r,)))
        return tuple(v[o] for o in self.outputs)
