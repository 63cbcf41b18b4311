"""The com.microsoft ops against ONNX Runtime on random inputs, or against numpy where its CPU provider has no kernel."""
import numpy as np
import onnx
import pytest

from one_node import SKIP, compare, feeds, model, onnxruntime_outputs

MS = "com.microsoft"


def rng(seed=0):
    return np.random.default_rng(seed)


def f32(*shape, seed=0, scale=1.0):
    return (rng(seed + sum(shape)).standard_normal(shape) * scale).astype(np.float32)


def u8(*shape, seed=0):
    return rng(seed + sum(shape)).integers(0, 256, shape).astype(np.uint8)


def i8(*shape, seed=0):
    return rng(seed + sum(shape)).integers(-128, 128, shape).astype(np.int8)


def scalar(value, dtype=np.float32):
    return np.array(value, dtype)


@pytest.mark.parametrize("op,inputs,attrs", [
    ("Gelu", {"x": f32(3, 7)}, {}),
    ("BiasGelu", {"x": f32(3, 7), "b": f32(7)}, {}),
    ("FastGelu", {"x": f32(3, 7)}, {}),
    ("FastGelu", {"x": f32(3, 7), "b": f32(7)}, {}),
    ("QuickGelu", {"x": f32(3, 7)}, {"alpha": 1.5}),
    ("FusedMatMul", {"a": f32(2, 3, 4), "b": f32(2, 5, 4)}, {"transB": 1, "alpha": 0.5}),
    ("FusedMatMul", {"a": f32(2, 4, 3), "b": f32(2, 4, 5)}, {"transA": 1}),
    ("FusedMatMul", {"a": f32(3, 2, 4), "b": f32(4, 2, 5)}, {"transBatchA": 1, "transBatchB": 1}),
    ("TransposeMatMul", {"a": f32(2, 4, 3), "b": f32(2, 4, 5)}, {"transA": 1}),
    ("CDist", {"a": f32(5, 4), "b": f32(6, 4)}, {"metric": "sqeuclidean"}),
    ("CDist", {"a": f32(5, 4), "b": f32(6, 4)}, {"metric": "euclidean"}),
    ("Inverse", {"x": f32(3, 5, 5) + 3 * np.eye(5, dtype=np.float32)}, {}),
    ("ExpandDims", {"x": f32(2, 3), "axis": np.array(-1, np.int32)}, {}),
    ("Trilu", {"x": f32(2, 4, 5), "k": np.array(1, np.int64)}, {"upper": 1}),
])
def test_simple(client, op, inputs, attrs):
    constants = [k for k in ("axis", "k") if k in inputs]
    compare(client, op, inputs, ["y"], constants=constants, domain=MS, **attrs)


@pytest.mark.parametrize("act,attrs", [
    ("Relu", {}), ("Tanh", {}), ("Sigmoid", {}), ("LeakyRelu", {"activation_alpha": 0.3}),
    ("HardSigmoid", {"activation_alpha": 0.3, "activation_beta": 0.4})])
def test_fused_gemm(client, act, attrs):
    inputs = {"a": f32(3, 4), "b": f32(5, 4), "c": f32(5)}
    compare(client, "FusedGemm", inputs, ["y"], domain=MS, activation=act, transB=1, alpha=0.5, beta=2.0, **attrs)


@pytest.mark.parametrize("act,params,z", [
    ("Relu", None, False), ("Relu", None, True), ("Clip", [0.1, 0.5], False), ("LeakyRelu", [0.2], False), ("HardSigmoid", [0.2, 0.5], False),
    ("Tanh", None, False), ("Sigmoid", None, True)])
def test_fused_conv(client, act, params, z):
    inputs = {"x": f32(2, 4, 9, 9), "w": f32(6, 2, 3, 3, scale=0.3), "b": f32(6)}
    if z:
        inputs["z"] = f32(2, 6, 5, 5)
    attrs = {"activation_params": params} if params else {}
    compare(client, "FusedConv", inputs, ["y"], domain=MS, activation=act, group=2, pads=[1, 1, 1, 1], strides=[2, 2], **attrs)


def test_nhwc_conv(client):
    x, w, b = f32(2, 9, 8, 4), f32(6, 4, 3, 3), f32(6)
    from onnx.reference import ReferenceEvaluator

    plain = ReferenceEvaluator(model("Conv", {"x": x.transpose(0, 3, 1, 2), "w": w, "b": b}, ["y"], pads=[1, 1, 1, 1]))
    want = plain.run(None, {"x": x.transpose(0, 3, 1, 2), "w": w, "b": b})[0].transpose(0, 2, 3, 1)
    compare(client, "NhwcConv", {"x": x, "w": w, "b": b}, ["y"], domain=MS, pads=[1, 1, 1, 1], want=[want], atol=1e-4)


def test_nhwc_max_pool(client):
    compare(client, "NhwcMaxPool", {"x": u8(2, 9, 8, 4)}, ["y"], domain=MS, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 0, 0])


def test_bias_softmax(client):
    x, b = f32(2, 3, 4, 5), f32(2, 1, 1, 5)
    s = np.exp(x + b - (x + b).max(-1, keepdims=True))
    compare(client, "BiasSoftmax", {"x": x, "b": b}, ["y"], domain=MS, axis=3, is_inner_broadcast=1, want=[s / s.sum(-1, keepdims=True)])


@pytest.mark.parametrize("beta,bias,skip", [(True, True, (2, 3, 8)), (True, False, (3, 8)), (False, True, (1, 3, 8)), (False, False, (2, 3, 8))])
def test_skip_layer_norm(client, beta, bias, skip):
    inputs = {"x": f32(2, 3, 8), "skip": f32(*skip, seed=1), "gamma": f32(8), "beta": f32(8, seed=2) if beta else SKIP,
              "bias": f32(8, seed=3) if bias else SKIP}
    if not bias:
        del inputs["bias"]
        if not beta:
            del inputs["beta"]
    compare(client, "SkipLayerNormalization", inputs, ["y", "", "", "sum"], domain=MS, epsilon=1e-5)
    if beta:
        del inputs["beta"]
        compare(client, "SkipSimplifiedLayerNormalization", inputs, ["y", "", "", "sum"], domain=MS, epsilon=1e-5)


def test_layer_norm_of_old_opsets(client):
    inputs = {"x": f32(2, 3, 8), "scale": f32(8), "bias": f32(8, seed=1)}
    compare(client, "LayerNormalization", inputs, ["y", "mean", "inv"], imports=11, axis=-1, epsilon=1e-5)
    del inputs["bias"]
    compare(client, "SimplifiedLayerNormalization", inputs, ["y"], imports=11, axis=-1, epsilon=1e-5)


def test_embed_layer_norm(client):
    ids, seg = rng().integers(0, 20, (2, 5)).astype(np.int32), rng(1).integers(0, 2, (2, 5)).astype(np.int32)
    mask = np.array([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]], np.int32)
    inputs = {"ids": ids, "seg": seg, "word": f32(20, 8), "pos": f32(12, 8), "segment": f32(2, 8), "gamma": f32(8), "beta": f32(8, seed=4), "mask": mask}
    compare(client, "EmbedLayerNormalization", inputs, ["y", "count", "sum"], domain=MS, epsilon=1e-5)


# -- quantised ---------------------------------------------------------------------------------

def q(name, array, scale, zero):
    return {name: array, name + "_s": scalar(scale), name + "_z": np.array(zero, array.dtype)}


def result(scale, zero, dtype):
    return {"y_s": scalar(scale), "y_z": np.array(zero, dtype)}


@pytest.mark.parametrize("make,zero", [(u8, 120), (i8, 3)])
@pytest.mark.parametrize("op", ["QLinearAdd", "QLinearMul"])
def test_qlinear_binary(client, op, make, zero):
    a, b = make(2, 3, 4), make(3, 1, seed=1)
    inputs = {**q("a", a, 0.05, zero), **q("b", b, 0.02, zero - 1), **result(0.06, zero + 1, a.dtype)}
    compare(client, op, inputs, ["y"], constants=[k for k in inputs if "_" in k], domain=MS, rtol=0, atol=1)


@pytest.mark.parametrize("op,attrs,scale", [("QLinearSigmoid", {}, 1 / 256), ("QLinearLeakyRelu", {"alpha": 0.2}, 0.04)])
def test_qlinear_unary(client, op, attrs, scale):
    inputs = {**q("x", u8(4, 9), 0.04, 128), **result(scale, 2, np.uint8)}
    compare(client, op, inputs, ["y"], constants=[k for k in inputs if "_" in k], domain=MS, rtol=0, atol=1, **attrs)


@pytest.mark.parametrize("axis,opset", [(-1, 13), (1, 12)])
def test_qlinear_softmax(client, axis, opset):
    inputs = {**q("x", u8(2, 3, 10), 0.04, 128), **result(1 / 256, 0, np.uint8)}
    # ONNX Runtime's kernel looks exponentials up in a table, so it may be one step off.
    compare(client, "QLinearSoftmax", inputs, ["y"], constants=[k for k in inputs if "_" in k], domain=MS, rtol=0, atol=1, axis=axis, opset=opset)


def test_qlinear_where(client):
    inputs = {"c": rng().integers(0, 2, (3, 4)).astype(bool), **q("x", u8(3, 4), 0.05, 128), **q("w", u8(3, 4, seed=1), 0.04, 120), **result(0.06, 125, np.uint8)}
    compare(client, "QLinearWhere", inputs, ["y"], constants=[k for k in inputs if "_" in k], domain=MS, rtol=0, atol=1)


def test_qlinear_concat(client):
    inputs = {**result(0.06, 120, np.uint8), **q("a", u8(2, 3), 0.05, 118), **q("b", u8(2, 5), 0.03, 127)}
    compare(client, "QLinearConcat", inputs, ["y"], constants=[k for k in inputs if "_" in k], domain=MS, rtol=0, atol=1, axis=1)


@pytest.mark.parametrize("last", [0, 1])
def test_qlinear_pools(client, last):
    inputs = {**q("x", u8(2, 6, 7, 5), 0.05, 128), **result(0.04, 120, np.uint8)}
    constants = [k for k in inputs if "_" in k]
    compare(client, "QLinearGlobalAveragePool", inputs, ["y"], constants=constants, domain=MS, rtol=0, atol=1, channels_last=last)
    compare(client, "QLinearAveragePool", inputs, ["y"], constants=constants, domain=MS, rtol=0, atol=1, channels_last=last, kernel_shape=[3, 3], pads=[1, 1, 1, 1])


def test_qlinear_conv(client):
    inputs = {**q("x", u8(1, 3, 8, 8), 0.05, 128), **q("w", i8(4, 3, 3, 3), 0.02, 0), **result(0.5, 120, np.uint8), "b": rng(5).integers(-500, 500, 4).astype(np.int32)}
    compare(client, "QLinearConv", inputs, ["y"], constants=[k for k in inputs if k != "x"], domain=MS, rtol=0, atol=1, pads=[1, 1, 1, 1])


def test_qgemm(client):
    inputs = {"a": u8(4, 6), "a_s": scalar(0.05), "a_z": scalar(128, np.uint8), "b": i8(5, 6), "b_s": f32(5, scale=0.01), "b_z": np.zeros(5, np.int8),
              "bias": rng(5).integers(-500, 500, 5).astype(np.int32)}
    inputs["b_s"] = np.abs(inputs["b_s"])
    compare(client, "QGemm", inputs, ["y"], domain=MS, transB=1)
    inputs.update(result(0.1, 120, np.uint8))
    compare(client, "QGemm", inputs, ["y"], domain=MS, transB=1, rtol=0, atol=1)


def test_dynamic_quantize_matmul(client):
    inputs = {"a": f32(4, 8), "b": i8(8, 5), "s": np.abs(f32(5, scale=0.01)), "z": i8(5, seed=2) // 8, "bias": f32(5)}
    compare(client, "DynamicQuantizeMatMul", inputs, ["y"], domain=MS, constants=["b", "s", "z", "bias"])
    inputs = {"a": f32(4, 8), "b": i8(8, 5), "s": scalar(0.02)}
    compare(client, "DynamicQuantizeMatMul", inputs, ["y"], domain=MS, constants=["b", "s"])


@pytest.mark.parametrize("steps,dirs,form", [(5, 1, "plain"), (5, 2, "columns"), (3, 1, "states"), (70, 1, "plain")])
def test_dynamic_quantize_lstm(client, steps, dirs, form):
    H, N, B = 6, 7, 1  # one row: ONNX Runtime may quantise the states of rows apart
    per = (dirs, 4 * H) if form == "columns" else (dirs,)
    inputs = {"x": f32(steps, B, N), "w": i8(dirs, N, 4 * H), "r": i8(dirs, H, 4 * H, seed=1), "b": f32(dirs, 8 * H, scale=0.2), "lens": SKIP,
              "h": f32(dirs, B, H, scale=0.5) if form == "states" else SKIP, "c": f32(dirs, B, H, seed=4) if form == "states" else SKIP,
              "p": f32(dirs, 3 * H, scale=0.3) if form == "states" else SKIP,
              "ws": np.abs(f32(*per, scale=0.01)) + np.float32(0.002), "wz": np.zeros(per, np.int8),
              "rs": np.abs(f32(*per, seed=3, scale=0.01)) + np.float32(0.002), "rz": np.zeros(per, np.int8)}
    compare(client, "DynamicQuantizeLSTM", inputs, ["y", "yh", "yc"], domain=MS, constants=["w", "r", "b", "p", "ws", "wz", "rs", "rz"],
            hidden_size=H, direction="bidirectional" if dirs == 2 else "forward", rtol=2e-3, atol=2e-3)


def test_matmul_integer_to_float(client):
    inputs = {"a": u8(4, 8), "b": i8(8, 5), "as": scalar(0.03), "bs": np.abs(f32(5, scale=0.01)), "az": scalar(120, np.uint8), "bz": i8(5, seed=2) // 8, "bias": f32(5)}
    compare(client, "MatMulIntegerToFloat", inputs, ["y"], domain=MS)


def test_matmul_integer16(client):
    a, b = (rng(k).integers(-3000, 3000, s).astype(np.int16) for k, s in ((1, (4, 6)), (2, (6, 5))))
    compare(client, "MatMulInteger16", {"a": a, "b": b}, ["y"], domain=MS, want=[a.astype(np.int32) @ b.astype(np.int32)])


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.uint16, np.int16])
def test_quantize_and_dequantize(client, dtype):
    scale, zero = np.abs(f32(3)) + 0.01, np.array([1, 5, 7], dtype)
    compare(client, "QuantizeLinear", {"x": f32(2, 3, 4, scale=3), "s": scale, "z": zero}, ["y"], domain=MS, axis=1)
    x = rng(3).integers(0, 100, (2, 3, 4)).astype(dtype)
    compare(client, "DequantizeLinear", {"x": x, "s": scale, "z": zero}, ["y"], domain=MS, axis=1)


@pytest.mark.parametrize("bits", [4, 8, 2])
@pytest.mark.parametrize("k,zeros,extra", [(64, None, None), (64, "packed", "bias"), (80, "packed", None), (64, "float", None)])
def test_matmul_nbits(client, bits, k, zeros, extra):
    n, block = 6, 32
    blocks, blob = -(-k // block), block * bits // 8
    inputs = {"a": f32(2, 3, k), "b": u8(n, blocks, blob), "s": np.abs(f32(n * blocks, scale=0.05)).reshape(n, blocks)}
    if zeros:
        inputs["z"] = u8(n, -(-blocks * bits // 8), seed=3) if zeros == "packed" else f32(n, blocks, scale=3) + 8
    if extra:
        inputs.setdefault("z", SKIP)
        inputs["g"] = SKIP
        inputs["bias"] = f32(n)
    want = None
    if bits == 2 or zeros == "float":  # not on this processor, or only for some forms
        want = [nbits_product(inputs, bits, k, block)]
    compare(client, "MatMulNBits", inputs, ["y"], constants=["b", "s", "z", "bias"], domain=MS, K=k, N=n, bits=bits, block_size=block, accuracy_level=1, want=want,
            rtol=1e-3, atol=1e-3)


def unpacked(x, bits, count):
    per = 8 // bits
    return np.stack([x >> (bits * i) & ((1 << bits) - 1) for i in range(per)], -1).reshape(x.shape[0], -1)[:, :count].astype(np.float32)


def nbits_product(inputs, bits, k, block):
    n, blocks = inputs["s"].shape
    w = unpacked(inputs["b"].reshape(n, -1), bits, blocks * block).reshape(n, blocks, block)
    z = inputs.get("z")
    z = float(1 << (bits - 1)) if z is None else (unpacked(z, bits, blocks) if z.dtype == np.uint8 else z)[..., None]
    w = ((w - z) * inputs["s"][..., None]).reshape(n, -1)[:, :k]
    y = inputs["a"] @ w.T
    return (y + inputs["bias"] if inputs.get("bias") is not None else y).astype(np.float32)


# -- attention ---------------------------------------------------------------------------------

B, S, N, H = 2, 5, 4, 8
D = N * H


@pytest.mark.parametrize("form", ["none", "length", "start", "keys", "queries", "past", "causal", "bias", "sizes"])
def test_attention(client, form):
    attrs, outputs = {"num_heads": N}, ["y"]
    inputs = {"x": f32(B, S, D), "w": f32(D, 3 * D, scale=0.2), "b": f32(3 * D), "mask": SKIP, "past": SKIP, "bias": SKIP}
    if form == "length":
        inputs["mask"] = np.array([3, 5], np.int32)
    elif form == "start":
        inputs["mask"] = np.array([4, 5, 1, 0], np.int32)
    elif form == "keys":
        inputs["mask"] = np.array([[0, 1, 1, 1, 0], [1, 1, 1, 1, 1]], np.int32)
    elif form == "queries":
        inputs["mask"] = np.tril(np.ones((B, S, S), np.int32))
    elif form == "past":
        inputs["past"] = f32(2, B, N, 3, H)
        inputs["mask"] = np.ones((B, S + 3), np.int32)
        outputs.append("present")
    elif form == "causal":
        attrs["unidirectional"] = 1
        inputs["past"] = f32(2, B, N, 3, H)
        outputs.append("present")
    elif form == "bias":
        inputs["bias"] = f32(1, N, S, S)
    elif form == "sizes":
        inputs["w"], inputs["b"], attrs["qkv_hidden_sizes"] = f32(D, 2 * D + 2 * N, scale=0.2), f32(2 * D + 2 * N), [D, D, 2 * N]
    while list(inputs.values())[-1] is SKIP:
        inputs.popitem()
    compare(client, "Attention", inputs, outputs, domain=MS, atol=1e-4, **attrs)


@pytest.mark.parametrize("form", ["plain", "bias", "cross", "packed", "packed_kv", "past", "keys", "length", "causal", "attention_bias", "heads_kv"])
def test_multi_head_attention(client, form):
    attrs, outputs = {"num_heads": N}, ["y"]
    inputs = dict.fromkeys(["q", "k", "v", "b", "pad", "bias", "past_k", "past_v"], SKIP)
    inputs.update(q=f32(B, S, D), k=f32(B, S, D, seed=1), v=f32(B, S, D, seed=2))
    if form == "bias":
        inputs["b"] = f32(3 * D)
    elif form == "cross":
        inputs.update(k=f32(B, 7, D, seed=1), v=f32(B, 7, 2 * N, seed=2))
    elif form == "packed":
        inputs.update(q=f32(B, S, N, 3, H), k=SKIP, v=SKIP)
    elif form == "packed_kv":
        inputs.update(k=f32(B, 7, N, 2, H), v=SKIP)
    elif form == "past":
        inputs.update(past_k=f32(B, N, 3, H), past_v=f32(B, N, 3, H, seed=1))
        outputs += ["present_k", "present_v"]
    elif form == "keys":
        inputs["pad"] = np.array([[0, 1, 1, 1, 0], [1, 1, 1, 1, 1]], np.int32)
    elif form == "length":
        inputs["pad"] = np.array([3, 5], np.int32)
    elif form == "causal":
        attrs["unidirectional"] = 1
    elif form == "attention_bias":
        inputs["bias"] = f32(1, N, S, S)
    elif form == "heads_kv":
        inputs.update(k=f32(B, N, 7, H), v=f32(B, N, 7, H, seed=1))
    while list(inputs.values())[-1] is SKIP:
        inputs.popitem()
    want = None
    if form.startswith("packed"):  # the CPU provider has only the separate form
        if form == "packed":
            q, k, v = (inputs["q"][..., i, :].reshape(B, S, D) for i in range(3))
        else:
            q, (k, v) = inputs["q"], (inputs["k"][..., i, :].reshape(B, 7, D) for i in range(2))
        apart = {"q": q, "k": np.ascontiguousarray(k), "v": np.ascontiguousarray(v)}
        want = onnxruntime_outputs(model("MultiHeadAttention", apart, outputs, domain=MS, **attrs), feeds(apart)).values()
    compare(client, "MultiHeadAttention", inputs, outputs, domain=MS, atol=1e-4, want=want, **attrs)


@pytest.mark.parametrize("interleaved", [0, 1])
@pytest.mark.parametrize("form", ["flat", "heads", "offset", "partial"])
def test_rotary_embedding(client, form, interleaved):
    x, ids, half, attrs = f32(B, S, D), rng().integers(0, 16, (B, S)).astype(np.int64), H // 2, {}
    if form == "heads":
        x = f32(B, N, S, H)
    elif form == "offset":
        ids = np.array([3], np.int64)
    elif form == "partial":
        half, attrs = H // 4, {"num_heads": N, "rotary_embedding_dim": H // 2}
    angle = rng(9).uniform(0, 6, (16, half))
    inputs = {"x": x, "ids": ids, "cos": np.cos(angle).astype(np.float32), "sin": np.sin(angle).astype(np.float32)}
    compare(client, "RotaryEmbedding", inputs, ["y"], domain=MS, interleaved=interleaved, **attrs)


def group_inputs(tokens, past, lens, rotary, packed, nkv=2, room=None):
    B, H = len(lens), 16  # more than one row of a chunk, or smaller heads, the other side refuses
    D = N * H
    room = past if room is None else room
    inputs = {"q": f32(B, tokens, D), "k": f32(B, tokens, nkv * H, seed=1), "v": f32(B, tokens, nkv * H, seed=2)}
    if packed:
        inputs["q"] = np.concatenate([inputs["q"], inputs["k"], inputs["v"]], -1)
        inputs["k"] = inputs["v"] = SKIP
    inputs["past_k"] = f32(B, nkv, room, H, seed=3) if room else SKIP
    inputs["past_v"] = f32(B, nkv, room, H, seed=4) if room else SKIP
    inputs["lens"] = np.array(lens, np.int32)
    inputs["total"] = np.array(past + tokens, np.int32)
    if rotary:
        angle = rng(9).uniform(0, 6, (32, H // 2))
        inputs["cos"], inputs["sin"] = np.cos(angle).astype(np.float32), np.sin(angle).astype(np.float32)
    return inputs


@pytest.mark.parametrize("rotary", [0, 1])
@pytest.mark.parametrize("packed", [0, 1])
@pytest.mark.parametrize("case", ["prompt", "padded prompt", "decode", "decode uneven", "chunk", "buffer", "window", "softcap", "sink"])
def test_group_query_attention(client, case, packed, rotary):
    attrs = {"num_heads": N, "kv_num_heads": 2, "do_rotary": rotary}
    valid = None
    if case == "prompt":
        inputs = group_inputs(S, 0, [S - 1, S - 1], rotary, packed)
    elif case == "padded prompt":
        inputs, valid = group_inputs(S, 0, [2, S - 1], rotary, packed), [3, S]
    elif case == "decode":
        inputs = group_inputs(1, 6, [6, 6], rotary, packed)
    elif case == "decode uneven":
        inputs = group_inputs(1, 6, [3, 6], rotary, packed)
    elif case == "chunk":
        inputs = group_inputs(3, 6, [8], rotary, packed)
    elif case == "buffer":
        inputs = group_inputs(1, 6, [6, 4], rotary, packed, room=12)
    elif case == "window":
        inputs, attrs["local_window_size"] = group_inputs(3, 6, [8], rotary, packed), 4
    elif case == "softcap":
        inputs, attrs["softcap"] = group_inputs(3, 6, [8], rotary, packed), 2.0
    else:
        inputs, attrs["smooth_softmax"] = group_inputs(3, 6, [8], rotary, packed), 1

    def look(name, array):
        if valid and name == "y":
            return np.concatenate([row[:count] for row, count in zip(array, valid)])
        # beyond the keys of a row the cache holds nothing
        if name != "y":
            return np.concatenate([row[:, :n + 1].ravel() for row, n in zip(array, inputs["lens"])])
        return array

    compare(client, "GroupQueryAttention", inputs, ["y", "present_k", "present_v"], constants=["total"], domain=MS, atol=1e-4, look=look, **attrs)


def decoder():
    """GroupQueryAttention as exporters call it: the lengths come from the attention mask, and all sizes are open."""
    half, value = 8, onnx.helper.make_tensor_value_info
    width, kv = N * 2 * half, 2 * 2 * half
    make, angle = onnx.helper.make_node, rng(9).uniform(0, 6, (64, half))
    nodes = [
        make("Shape", ["mask"], ["shape"], start=1, end=2), make("Cast", ["shape"], ["total_1"], to=6), make("Squeeze", ["total_1"], ["total"]),
        make("ReduceSum", ["mask", "axis"], ["sum"], keepdims=0), make("Sub", ["sum", "one"], ["lens_64"]), make("Cast", ["lens_64"], ["lens"], to=6),
        make("GroupQueryAttention", ["q", "k", "v", "past_k", "past_v", "lens", "total", "cos", "sin"], ["y", "present_k", "present_v"], domain=MS,
             num_heads=N, kv_num_heads=2, do_rotary=1)]
    inits = {"axis": np.array([1]), "one": np.array(1), "cos": np.cos(angle).astype(np.float32), "sin": np.sin(angle).astype(np.float32)}
    ins = {"q": ["b", "s", width], "k": ["b", "s", kv], "v": ["b", "s", kv], "past_k": ["b", 2, "p", 2 * half], "past_v": ["b", 2, "p", 2 * half]}
    outs = {"y": ["b", "s", width], "present_k": ["b", 2, "t", 2 * half], "present_v": ["b", 2, "t", 2 * half]}
    graph = onnx.helper.make_graph(nodes, "decoder", [value(k, 1, d) for k, d in ins.items()] + [value("mask", 7, ["b", "t"])],
                                   [value(k, 1, d) for k, d in outs.items()], [onnx.numpy_helper.from_array(a, k) for k, a in inits.items()])
    opsets = [onnx.helper.make_opsetid("", 17), onnx.helper.make_opsetid(MS, 1)]
    return onnx.helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString()


def test_group_query_attention_of_any_length(client):
    """One executable for a prompt's chunks and single tokens after any past, equal to ONNX Runtime step by step."""
    blob = decoder()
    exe = client.compile(blob)
    past = {name: f32(2, 2, 1, 16, seed=k) for k, name in enumerate(("past_k", "past_v"))}
    for step, tokens in enumerate((5, 1, 1, 3)):
        inputs = {"q": f32(2, tokens, 64, seed=step), "k": f32(2, tokens, 32, seed=step), "v": f32(2, tokens, 32, seed=step + 1), **past}
        inputs["mask"] = np.ones((2, past["past_k"].shape[2] + tokens), np.int64)
        if tokens > 1:  # which the other side refuses for more than one row
            inputs = {name: value[:1] for name, value in inputs.items()}
        got, want = exe(inputs), onnxruntime_outputs(blob, inputs)
        for name, value in want.items():
            np.testing.assert_allclose(got[name], value, rtol=1e-3, atol=1e-4, err_msg=f"{name} in step {step}")
        past = {name: np.repeat(want["present" + name[4:]], 2 // len(inputs["q"]), 0) for name in past}
