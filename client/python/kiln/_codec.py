"""numpy arrays and requests as messages; shared by the blocking and the asyncio client."""
from __future__ import annotations

import itertools
import operator
import os
import statistics
from typing import Any, Callable, Iterator, Mapping, Sequence

import numpy as np

from ._errors import Error
from ._options import Dim, Options
from .v1 import graph_pb2, kiln_pb2

CHUNK_BYTES = 1 << 20
CHANNEL_OPTIONS = [
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    ("grpc.http2.max_frame_size", 256 << 10),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_http_proxy", 0),
]

# Dtypes that numpy lacks: Kiln's name, ml_dtypes' name, and the dtype that stands for the bits without ml_dtypes.
_EXTRA = {
    "bf16": ("bfloat16", "<u2"), "f8e4m3fn": ("float8_e4m3fn", "u1"), "f8e4m3fnuz": ("float8_e4m3fnuz", "u1"),
    "f8e5m2": ("float8_e5m2", "u1"), "f8e5m2fnuz": ("float8_e5m2fnuz", "u1"), "f8e8m0": ("float8_e8m0fnu", "u1"),
    "f4e2m1": ("float4_e2m1fn", "u1"), "i4": ("int4", "i1"), "u4": ("uint4", "u1"), "i2": ("int2", "i1"), "u2": ("uint2", "u1"),
}
try:
    import ml_dtypes as _ml
except ImportError:
    _ml = None

_NUMPY = {
    "bool": np.dtype(np.bool_), "i8": np.dtype(np.int8), "i16": np.dtype("<i2"), "i32": np.dtype("<i4"),
    "i64": np.dtype("<i8"), "u8": np.dtype(np.uint8), "u16": np.dtype("<u2"), "u32": np.dtype("<u4"),
    "u64": np.dtype("<u8"), "f16": np.dtype("<f2"), "f32": np.dtype("<f4"), "f64": np.dtype("<f8"),
}
_NUMPY.update({name: np.dtype(getattr(_ml, ml)) for name, (ml, _) in _EXTRA.items() if hasattr(_ml, ml)})


def _number(name: str) -> int:
    return graph_pb2.DType.Value("DTYPE_" + name.upper())


_TO_PROTO = {dt: _number(name) for name, dt in _NUMPY.items()}
_BITS = {_number(name): np.dtype(bits) for name, (_, bits) in _EXTRA.items()}
_FROM_PROTO = {**_BITS, **{number: dt for dt, number in _TO_PROTO.items()}}
_NAMES = {name: _number(name) for name in (*_NUMPY, *_EXTRA)} | {ml: _number(name) for name, (ml, _) in _EXTRA.items()}


def dtype_number(dtype: Any) -> int:
    """The DType enum value of a numpy dtype, or of a name such as "float32", "f32" or "bfloat16"."""
    if isinstance(dtype, str):
        if dtype in _NAMES:
            return _NAMES[dtype]
    dt = np.dtype(dtype).newbyteorder("<")
    if dt not in _TO_PROTO:
        raise Error("INVALID_ARGUMENT", f"dtype {dt} is not one that Kiln knows: {', '.join(sorted(_NUMPY))}")
    return _TO_PROTO[dt]


def numpy_dtype(number: int) -> np.dtype:
    """The numpy dtype of a DType enum value; those that numpy lacks need the ml_dtypes package and are bits without it."""
    return _FROM_PROTO[number]


def dtype_name(number: int) -> str:
    """"f32" for DTYPE_F32."""
    return graph_pb2.DType.Name(number)[len("DTYPE_"):].lower()


def is_float(number: int) -> bool:
    """Whether a DType enum value is a float dtype."""
    return dtype_name(number)[0] in "fb" and number != graph_pb2.DTYPE_BOOL


def _element_dtype(a: np.ndarray, wanted: Any) -> int:
    """The DType of an array's elements; its bits may stand for a dtype that numpy lacks, when that is wanted."""
    number = dtype_number(a.dtype)
    if wanted is None or number == (wanted := dtype_number(wanted)):
        return number
    return wanted if wanted in _BITS and a.dtype.kind in "iu" and a.dtype.itemsize == _BITS[wanted].itemsize else number


def tensor_from_numpy(array: Any, dtype: Any = None) -> kiln_pb2.Tensor:
    """A Tensor message with a little-endian row-major copy of the array's bytes. Of a dtype that numpy lacks, an array of
    integers of its size may hold the bits."""
    a = np.asarray(array)
    number = _element_dtype(a, dtype)
    if number in _BITS and a.dtype.kind in "iu" and a.dtype.isbuiltin == 1:
        a = a.view(numpy_dtype(number)) if a.ndim else a.reshape(1).view(numpy_dtype(number)).reshape(())
    a = np.ascontiguousarray(a, dtype=numpy_dtype(number)).reshape(a.shape)
    return kiln_pb2.Tensor(dtype=number, dims=a.shape, data=a.tobytes())


def zeros(dtype: str, shape: Sequence[int]) -> np.ndarray:
    """Zeros of a dtype by Kiln's name."""
    return np.zeros(tuple(shape), numpy_dtype(dtype_number(dtype)))


def numpy_from_bytes(dtype: int, dims: Sequence[int], data: bytes) -> np.ndarray:
    """A writable array with its own memory."""
    return np.frombuffer(data, dtype=numpy_dtype(dtype)).reshape(tuple(dims)).copy()


def model_parts(model: Any) -> tuple[int, str, Any]:
    """(format, name for messages, bytes) of a path, bytes, an onnx.ModelProto or a kiln.Graph."""
    if hasattr(model, "_to_proto"):
        return kiln_pb2.MODEL_FORMAT_KGRAPH, "graph", model._to_proto().SerializeToString()
    if isinstance(model, (bytes, bytearray, memoryview)):
        return kiln_pb2.MODEL_FORMAT_ONNX, "model", model if isinstance(model, bytes) else memoryview(model)
    if isinstance(model, (str, os.PathLike)):
        path = os.fspath(model)
        with open(path, "rb") as f:
            data = f.read()
        kgraph = path.endswith(".kgraph")
        return (kiln_pb2.MODEL_FORMAT_KGRAPH if kgraph else kiln_pb2.MODEL_FORMAT_ONNX), os.path.basename(path), data
    if hasattr(model, "SerializeToString"):
        return kiln_pb2.MODEL_FORMAT_ONNX, "model", model.SerializeToString()
    raise Error("INVALID_ARGUMENT", f"a model is a path, bytes, an onnx.ModelProto or a kiln.Graph, got {type(model).__name__}")


def _chunks(data: Any) -> Iterator[bytes]:
    view = memoryview(data).cast("B")
    for at in range(0, len(view), CHUNK_BYTES):
        yield bytes(view[at:at + CHUNK_BYTES])


def compile_options(options: Options) -> kiln_pb2.CompileOptions:
    """Options as a message: numbers and ranges of dimensions."""
    message = kiln_pb2.CompileOptions(device=options.device, no_cache=options.no_cache, fast_math=options.fast_math)
    if options.batching is not None:
        message.batching.delay_ms, message.batching.rows = options.batching
        message.batching.SetInParent()
    for name, value in options.dims.items():
        if isinstance(value, (tuple, list)) and len(value) == 2:
            value = Dim(value[0], value[1])
        try:
            if isinstance(value, Dim):
                message.ranges.add(name=name, min=value.min, max=value.max, multiple=value.multiple)
            else:
                message.dims[name] = int(operator.index(value))
        except (TypeError, ValueError) as e:
            raise Error("INVALID_ARGUMENT", f"dimension '{name}': expected a number, (min, max) or kiln.Dim, got {value!r}") from e
    return message


def spec_shape(spec: kiln_pb2.TensorSpec) -> tuple[Any, ...]:
    """Sizes, and names of those that a run decides."""
    return tuple(d.name or d.size for d in spec.shape) if spec.shape else tuple(spec.dims)


def compile_requests(parts: tuple[int, str, Any], options: Options) -> Iterator[kiln_pb2.CompileRequest]:
    """The messages of a Compile call: one header, then chunks. What is wrong with the arguments is raised here, not on the way."""
    fmt, name, data = parts
    header = kiln_pb2.CompileHeader(format=fmt, name=name, options=compile_options(options), size=len(data))
    return itertools.chain([kiln_pb2.CompileRequest(header=header)], (kiln_pb2.CompileRequest(chunk=c) for c in _chunks(data)))


def inspect_requests(model: Any, options: Options, stage: str, kernel: int) -> Iterator[kiln_pb2.InspectRequest]:
    """The messages of an Inspect call."""
    fmt, name, data = model_parts(model)
    header = kiln_pb2.InspectHeader(format=fmt, name=name, options=compile_options(options), size=len(data), stage=stage, kernel=kernel)
    return itertools.chain([kiln_pb2.InspectRequest(header=header)], (kiln_pb2.InspectRequest(chunk=c) for c in _chunks(data)))


def upload_requests(array: Any, device: str) -> Iterator[kiln_pb2.UploadRequest]:
    """The messages of an Upload call."""
    a = np.asarray(array)
    number = dtype_number(a.dtype)
    flat = np.ascontiguousarray(a, dtype=numpy_dtype(number)).reshape(-1).view(np.uint8)
    yield kiln_pb2.UploadRequest(header=kiln_pb2.UploadHeader(dtype=number, dims=a.shape, device=device))
    for chunk in _chunks(flat):
        yield kiln_pb2.UploadRequest(chunk=chunk)


def element_names(spec: Any) -> list[str]:
    """The tensors of a sequence."""
    return [f"{spec.name}[{k}]" for k in range(spec.length)]


def tensor_inputs(inputs: Mapping[str, Any], values: Sequence[Any]) -> dict[str, Any]:
    """The tensors of the inputs; values: the kiln.ValueSpecs of the sequences and empty optionals among them."""
    result = dict(inputs)
    for spec in values:
        if spec.name not in result:
            continue
        value = result.pop(spec.name)
        got = 0 if value is None else len(value)
        if got != spec.length or (spec.none and value is not None):
            expected = "None" if spec.none else f"a sequence of {spec.length} tensors"
            raise Error("INVALID_ARGUMENT", f"input '{spec.name}': expected {expected}, "
                        f"got {'None' if value is None else f'{got} tensors'}; the model was compiled for that")
        result.update(zip(element_names(spec), value or ()))
    return result


def run_request(executable: str, inputs: Mapping[str, Any], outputs: Any, specs: Sequence[Any] = (), input_values: Sequence[Any] = (),
                output_values: Sequence[Any] = (), random: tuple[int, int] | None = None,
                priority: str | None = None) -> kiln_pb2.RunRequest:
    """specs: of the executable's tensor inputs. random: seed and run number, None for fresh numbers. outputs: None (all, as arrays), "buffers" (all, kept on the server), or a list of names."""
    request = kiln_pb2.RunRequest(executable=executable)
    if priority is not None:
        if priority not in ("high", "normal", "low"):
            raise ValueError(f'priority: expected "high", "normal" or "low", got {priority!r}')
        request.priority = kiln_pb2.Priority.Value(f"PRIORITY_{priority.upper()}")
    if random is not None:
        request.random.seed, request.random.run = (int(v) & (1 << 64) - 1 for v in random)
    dtypes = {s.name: s.dtype for s in specs}
    for name, value in tensor_inputs(inputs, input_values).items():
        if hasattr(value, "buffer_id"):
            request.inputs.add(name=name, buffer=value.buffer_id)
        else:
            request.inputs.add(name=name).tensor.CopyFrom(tensor_from_numpy(value, dtypes.get(name)))
    if outputs == "buffers":
        request.outputs_as_buffers = True
    elif outputs is not None:
        lists = {spec.name: element_names(spec) for spec in output_values}
        request.outputs.extend(tensor for name in outputs for tensor in lists.get(name, [name]))
    return request


def run_outputs(response: kiln_pb2.RunResponse, specs: Sequence[Any], keep: Callable[[str, str, Any], Any],
                values: Sequence[Any] = ()) -> dict[str, Any]:
    """The outputs by name: arrays, or what keep(buffer id, dtype, shape) makes of those that stayed on the server; lists of them for
    sequences, None for optionals without a value."""
    by_name = {s.name: s for s in specs}
    result: dict[str, Any] = {}
    for out in response.outputs:
        if out.WhichOneof("value") == "buffer":
            spec = by_name[out.name]
            result[out.name] = keep(out.buffer, spec.dtype, tuple(out.dims))
        else:
            result[out.name] = numpy_from_bytes(out.tensor.dtype, out.tensor.dims, out.tensor.data)
    for spec in values:
        names = element_names(spec)
        if all(n in result for n in names):
            result[spec.name] = None if spec.none else [result.pop(n) for n in names]
    return result


def import_requests(file: bytes):
    """The messages of a CacheImport."""
    yield kiln_pb2.CacheImportRequest(header=kiln_pb2.CacheImportHeader(size=len(file)))
    for chunk in _chunks(file):
        yield kiln_pb2.CacheImportRequest(chunk=chunk)


def kernel_reports(response, profiles, make) -> list:
    """The kernels of an ExplainResponse with the medians of profiled runs."""
    found = []
    for k in response.kernels:
        ns = sum(statistics.median(p.call_ns[c] for p in profiles) for c in k.calls) if profiles else 0
        executions = sum(profiles[-1].call_runs[c] for c in k.calls) if profiles else 0
        found.append(make(name=k.name, hash=k.hash, shape=k.shape, calls=len(k.calls), once=k.once, executions=executions, ns=int(ns), flops=k.flops,
                          bytes_read=k.bytes_read, bytes_written=k.bytes_written, roofline_ns=k.roofline_ns, predicted_ns=k.predicted_ns,
                          opts=k.opts, source=k.source, origin=k.origin, tried=tuple(k.tried), measured=k.measured, failed=k.failed))
    return sorted(found, key=lambda r: -r.ns)
