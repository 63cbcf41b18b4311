"""Graphs that once failed, as text: making one small, writing it down, reading it back.

A kept graph is a kiln.v1.Graph in protobuf's text form (what `kiln run GRAPH.kgraph` reads). Its comments hold a line that says what was
wrong, and per input and output a line of its values, and of the error allowed for them:

    # why: ...
    # feed NAME dtype [dims] base64
    # want NAME dtype [dims] base64 (within base64 of f64)
"""
import base64
import re

import ml_dtypes  # noqa: F401  registers the dtypes by name
import numpy as np
from google.protobuf import text_format

from kiln.v1 import graph_pb2


def pack(array):
    a = np.asarray(array)
    return f"{a.dtype.name} {list(a.shape)} {base64.b64encode(np.ascontiguousarray(a).tobytes()).decode()}"


def unpack(dtype, dims, data):
    shape = [int(d) for d in dims.split(",") if d.strip()]
    return np.frombuffer(base64.b64decode(data), np.dtype(dtype)).reshape(shape)


LINE = re.compile(r"# (feed|want) (\S+) (\S+) \[([^]]*)\] (\S*)(?: \(within (\S*)\))?$")


def read(path):
    """(message, inputs, {output: (value, error or None)})."""
    with open(path, encoding="utf-8") as f:
        text = f.read()
    graph = text_format.Parse(text, graph_pb2.Graph())
    feeds, wants = {}, {}
    for line in text.splitlines():
        m = LINE.match(line)
        if not m:
            continue
        value = unpack(m[3], m[4], m[5])
        if m[1] == "feed":
            feeds[m[2]] = value
        else:
            wants[m[2]] = (value, unpack("float64", m[4], m[6]) if m[6] is not None else None)
    return graph, feeds, wants


def write(path, why, graph, feeds, wants):
    lines = [f"# why: {' '.join(why.split())}"]
    lines += [f"# feed {name} {pack(a)}" for name, a in feeds.items()]
    for name, (value, err) in wants.items():
        within = "" if err is None else f" (within {base64.b64encode(np.ascontiguousarray(err, np.float64).tobytes()).decode()})"
        lines.append(f"# want {name} {pack(value)}{within}")
    with open(path, "w", encoding="utf-8") as f:
        f.write("\n".join(lines) + "\n" + text_format.MessageToString(graph))


# -- making a graph small


def pruned(graph, feeds):
    """Without the nodes and parameters that no output needs."""
    need = {o.node for o in graph.outputs}
    for k in range(len(graph.nodes) - 1, -1, -1):
        if k in need:
            need.update(graph.nodes[k].src)
    out, place, params = graph_pb2.Graph(), {}, {}
    for k in sorted(need):
        node = graph.nodes[k]
        place[k] = len(out.nodes)
        new = out.nodes.add()
        new.CopyFrom(node)
        new.src[:] = [place[s] for s in node.src]
        if node.op == graph_pb2.PARAM:
            if node.ints[0] not in params:
                params[node.ints[0]] = len(out.params)
                out.params.add().CopyFrom(graph.params[node.ints[0]])
            new.ints[0] = params[node.ints[0]]
    for o in graph.outputs:
        out.outputs.add(name=o.name, node=place[o.node])
    out.sizes.extend(graph.sizes)
    return out, {p.name: feeds[p.name] for p in out.params if p.name in feeds}


def cut(graph, feeds, at, dtype, value, dims):
    """Node `at` becomes an input of that value; dims: numbers, or names of dimensions that the graph has."""
    new, name = graph_pb2.Graph(), f"c{at}"
    new.CopyFrom(graph)
    param = new.params.add(name=name, dtype=dtype)
    for d in dims:
        if isinstance(d, str):
            param.dims.add().CopyFrom(next(old for p in graph.params for old in p.dims if old.name == d))
        else:
            param.dims.add(size=d)
    new.nodes[at].Clear()
    new.nodes[at].op = graph_pb2.PARAM
    new.nodes[at].ints.append(len(new.params) - 1)
    return new, {**feeds, name: value}


def smaller(graph, feeds, values, fails):
    """values: node -> (dtype number, array, dims). Nodes become inputs for as long as fails(graph, feeds) holds."""
    for at in sorted(values, reverse=True):
        node = graph.nodes[at]
        if node.op in (graph_pb2.PARAM, graph_pb2.CONST) or any(o.node == at for o in graph.outputs):
            continue
        candidate = cut(graph, feeds, at, *values[at])
        if fails(*pruned(*candidate)):
            graph, feeds = candidate
    return pruned(graph, feeds)


def keep(path, why, maker, outputs, runner, differences):
    """Writes the failing graph of a random_graphs.Maker, as small as it still fails."""
    from onnx_suite import RunError

    graph = maker.g._to_proto()
    by_node = {v.node.index: v for v in maker.nodes}
    names = {d: d._terms[0][0][0][1] for d in maker.named}
    typed = {k: (v.node.dtype, np.asarray(v.val).astype(dtype_of(v)), [names.get(d, d) for d in v.dims])
             for k, v in by_node.items() if all(isinstance(d, int) or d in names for d in v.dims)}

    def wrong(g, feeds):
        try:
            got = runner.run(b"KGR1" + g.SerializeToString(), feeds, {})
        except RunError as e:
            return e.code
        return any(differences(a, outputs[name.split(":")[1]]) for name, a in got.items())

    for o in list(graph.outputs):
        single = graph_pb2.Graph()
        single.CopyFrom(graph)
        del single.outputs[:]
        single.outputs.add(name=o.name, node=o.node)
        if wrong(*pruned(single, maker.feeds)):
            graph = single
            break
    small, feeds = smaller(graph, maker.feeds, typed, wrong)
    wants = {}
    for o in small.outputs:
        v = outputs[o.name]
        wants[o.name] = (np.asarray(v.val).astype(dtype_of(v)), v.err if v.is_float else None)
    write(path, why, small, feeds, wants)


def dtype_of(v):
    from random_graphs import NUMPY

    return NUMPY[v.dtype]
