"""The blocking client."""
from __future__ import annotations

import dataclasses
import functools
from typing import Any, Callable, Iterator, Mapping, Sequence

import grpc
import numpy as np

from . import _access, _codec, _spawn, _tune
from ._errors import Error, translated
from ._options import Options
from .v1 import kiln_pb2, kiln_pb2_grpc


@dataclasses.dataclass(frozen=True)
class TensorSpec:
    """An input or output of an executable: name, dtype ("f32") and shape, a tuple of ints and, where each run decides, of names.

    bounds: by such a name its (min, max, multiple). An output's name may be an expression, "2*n + 1", or "?" when it is computed.
    state: an input that runs update in place, whose value is a kiln.Buffer.
    """

    name: str
    dtype: str
    shape: tuple[int | str, ...]
    bounds: Mapping[str, tuple[int, int, int]] = dataclasses.field(default_factory=dict)
    state: bool = False

    @staticmethod
    def _from(spec: kiln_pb2.TensorSpec) -> "TensorSpec":
        bounds = {d.name: (d.min, d.max, max(d.multiple, 1)) for d in spec.shape if d.name}
        return TensorSpec(spec.name, _codec.dtype_name(spec.dtype), _codec.spec_shape(spec), bounds, spec.state)


@dataclasses.dataclass(frozen=True)
class ValueSpec:
    """An input or output that is not one tensor: a sequence of `length` tensors, called NAME[0] to NAME[length - 1] among the executable's
    tensors, or (none) an optional without a value."""

    name: str
    length: int
    none: bool

    @staticmethod
    def _from(spec: kiln_pb2.ValueSpec) -> "ValueSpec":
        return ValueSpec(spec.name, spec.length, spec.none)


@dataclasses.dataclass(frozen=True)
class KernelReport:
    """One kernel of an executable.

    calls: how often the plan calls it, of which once when it is loaded. executions, ns: of all calls in a run, when one was timed, else 0.
    flops, bytes_read, bytes_written, roofline_ns, predicted_ns: of one call; times are 0 where they are not known.
    opts: the schedule in use; source: "heuristic", "class" or "tuned". tried: records of schedules, the best first.
    measured, failed: how many records there are.
    """

    name: str
    hash: str
    shape: str
    calls: int
    once: int
    executions: int
    ns: int
    flops: int
    bytes_read: int
    bytes_written: int
    roofline_ns: int
    predicted_ns: int
    opts: str
    source: str
    tried: tuple[kiln_pb2.TriedSchedule, ...]
    measured: int
    failed: int


class Buffer:
    """A tensor kept on the server: dtype ("f32"), shape and buffer_id. Freed by free(), or with the server."""

    def __init__(self, client: "Client", buffer_id: str, dtype: str, shape: tuple[int, ...]):
        self._client = client
        self.buffer_id = buffer_id
        self.dtype = dtype
        self.shape = shape

    def numpy(self) -> np.ndarray:
        """Downloads the tensor. NOT_FOUND after free()."""
        with translated():
            parts = self._client._stub.Download(kiln_pb2.DownloadRequest(buffer=self.buffer_id), timeout=self._client.timeout)
            header, data = None, bytearray()
            for part in parts:
                if part.WhichOneof("part") == "header":
                    header = part.header
                else:
                    data += part.chunk
        return _codec.numpy_from_bytes(header.dtype, header.dims, bytes(data))

    def free(self) -> None:
        """Gives the memory back."""
        with translated():
            self._client._stub.FreeBuffers(kiln_pb2.FreeBuffersRequest(buffers=[self.buffer_id]), timeout=self._client.timeout)

    def __repr__(self) -> str:
        return f"kiln.Buffer({self.dtype}{list(self.shape)}, {self.buffer_id})"


class Executable:
    """A compiled model on the server.

    inputs, outputs: lists of TensorSpec in the model's order.
    input_values, output_values: lists of ValueSpec, the sequences and empty optionals that these tensors belong to.
    """

    def __init__(self, client: "Client", response: kiln_pb2.CompileResponse, options: Options = Options()):
        self._client = client
        self._report = response.report
        self.executable_id = response.executable
        self.inputs = [TensorSpec._from(s) for s in response.inputs]
        self.outputs = [TensorSpec._from(s) for s in response.outputs]
        self.input_values = [ValueSpec._from(s) for s in response.input_values]
        self.output_values = [ValueSpec._from(s) for s in response.output_values]
        self._seed, self._runs = options.seed, 0

    def run(self, inputs: Mapping[str, Any], outputs: str | Sequence[str] | None = None, seed: int | None = None,
            priority: str | None = None) -> dict[str, Any]:
        """Runs once.

        inputs: one numpy array (or kiln.Buffer) per model input, by name; dtype and shape must equal the spec's, and
        where that has a name any size within its bounds, the same one for every dimension of that name. A sequence is a list
        of them, an optional without a value is None or left out; the result has the same form.
        outputs: None for all as arrays, "buffers" for all as kiln.Buffer kept on the server, or a list of names.
        seed: of random ops; runs with equal seeds give equal numbers, on every device. None: fresh numbers, or, when the executable was
        compiled with Options(seed=...), those of its next run.
        priority: "high", "normal" or "low", among your own runs that wait for the device.
        Raises kiln.Error INVALID_ARGUMENT naming the input with expected and got; UNAVAILABLE when the device died.
        """
        request = _codec.run_request(self.executable_id, inputs, outputs, self.inputs, self.input_values, self.output_values,
                                     self._random(seed), priority)
        with translated():
            response = self._client._stub.Run(request, timeout=self._client.timeout)
        return _codec.run_outputs(response, self.outputs, functools.partial(Buffer, self._client), self.output_values)

    def _random(self, seed: int | None) -> tuple[int, int] | None:
        if seed is not None or self._seed is None:
            return None if seed is None else (seed, 0)
        self._runs += 1
        return self._seed, self._runs - 1

    __call__ = run

    def state(self) -> dict[str, Buffer]:
        """A new buffer of zeros for every state of the model, by name: what the first run's inputs are updated with."""
        return {s.name: self._client.upload(_codec.zeros(s.dtype, s.shape), self._report.device) for s in self.inputs if s.state}

    def tune(self, budget: float = 60, progress: Callable[[_tune.TuneProgress], Any] | None = None, seed: int = 0) -> _tune.TuneSummary:
        """Searches for faster kernels for at most `budget` seconds and says what came of it.

        What is found is compared with the plain kernels' results, used from the next run on, and kept in the server's cache.
        progress: called with a kiln.TuneProgress now and then (print does); an exception from it ends the search and is raised.
        """
        with translated():
            call = self._client._stub.Tune(_tune.request(self.executable_id, budget, seed), timeout=self._client.timeout)
            try:
                for part in call:
                    if part.WhichOneof("part") == "summary":
                        return _tune.TuneSummary._from(part.summary)
                    if progress and part.WhichOneof("part") == "progress":
                        progress(_tune.TuneProgress._from(part.progress))
            finally:
                call.cancel()
        raise Error("INTERNAL", "the server sent no summary")

    def report(self) -> dict[str, Any]:
        """What the compile did: graph_hash, kernels, unique_kernels, kernels_compiled, plan_cached, sizes in bytes, times in ns."""
        return {f.name: getattr(self._report, f.name) for f in self._report.DESCRIPTOR.fields}

    def explain(self, inputs: Mapping[str, Any] | None = None, runs: int = 10, tried: int = 3) -> list[KernelReport]:
        """What each kernel does, how it is scheduled and what was tried; with inputs also how long it takes, those that take most first.

        inputs: as for run(); they are run `runs` times, with every call of a kernel timed on its own. tried: how many records per kernel.
        """
        profiles = []
        for _ in range(runs if inputs is not None else 0):
            request = _codec.run_request(self.executable_id, inputs, None, self.inputs, self.input_values, self.output_values, self._random(None))
            request.profile = True
            with translated():
                profiles.append(self._client._stub.Run(request, timeout=self._client.timeout).profile)
        with translated():
            response = self._client._stub.Explain(kiln_pb2.ExplainRequest(executable=self.executable_id, tried=tried), timeout=self._client.timeout)
        return _codec.kernel_reports(response, profiles, KernelReport)

    def estimate(self) -> dict[str, Any]:
        """What a run would cost if it were asked for now: device_ns (measured says whether runs took that or kernels are predicted to), wait_ns
        behind what waits for the device, waiting runs of the caller's tenant, host_bytes of its tensors, and why it would be refused, or ""."""
        with translated():
            response = self._client._stub.Explain(kiln_pb2.ExplainRequest(executable=self.executable_id), timeout=self._client.timeout)
        return {f.name: getattr(response.run, f.name) for f in response.run.DESCRIPTOR.fields}

    def release(self) -> None:
        """Forgets the executable on the server; its cache entries stay."""
        with translated():
            self._client._stub.ReleaseExecutable(
                kiln_pb2.ReleaseExecutableRequest(executable=self.executable_id), timeout=self._client.timeout)


class Client:
    """A connection to one server; safe to use from several threads. Use as a context manager, or close()."""

    def __init__(self, target: str, timeout: float | None = None, token: str | None = None,
                 tls: _access.Tls | str | bool | None = None):
        self.target = target
        self.timeout = timeout
        self._channel, calls = _access.open_channel(grpc, target, token, tls)
        self._stub = kiln_pb2_grpc.KilnStub(calls)

    def compile(self, model: Any, options: Options | None = None) -> Executable:
        """Compiles a path to an .onnx or .kgraph file, the bytes of an ONNX model, an onnx.ModelProto, or a kiln.Graph.

        Raises kiln.Error INVALID_ARGUMENT or UNIMPLEMENTED naming the node at fault.
        """
        with translated():
            response = self._stub.Compile(_codec.compile_requests(model, options or Options()), timeout=self.timeout)
        return Executable(self, response, options or Options())

    def inspect(self, model: Any, stage: str = "kernels", kernel: int = -1, options: Options | None = None) -> str:
        """The text of one compiler stage: tensor ranged kernels scheduled lowered linear code. kernel -1: all."""
        with translated():
            requests = _codec.inspect_requests(model, options or Options(), stage, kernel)
            return self._stub.Inspect(requests, timeout=self.timeout).text

    def upload(self, array: Any, device: str = "") -> Buffer:
        """Copies an array to the server and keeps it there."""
        a = np.asarray(array)
        with translated():
            response = self._stub.Upload(_codec.upload_requests(a, device), timeout=self.timeout)
        return Buffer(self, response.buffer, _codec.dtype_name(_codec.dtype_number(a.dtype)), a.shape)

    def buffers(self) -> list[Buffer]:
        """The buffers that the server keeps."""
        with translated():
            infos = self._stub.ListBuffers(kiln_pb2.ListBuffersRequest(), timeout=self.timeout).buffers
        return [Buffer(self, b.buffer, _codec.dtype_name(b.dtype), tuple(b.dims)) for b in infos]

    def server_info(self) -> kiln_pb2.GetServerInfoResponse:
        """Version, limits, cache state of the server."""
        with translated():
            return self._stub.GetServerInfo(kiln_pb2.GetServerInfoRequest(), timeout=self.timeout)

    def devices(self) -> list[kiln_pb2.DeviceInfo]:
        """The devices of the server, available or not, with the reason."""
        with translated():
            return list(self._stub.ListDevices(kiln_pb2.ListDevicesRequest(), timeout=self.timeout).devices)

    def cache_stats(self) -> kiln_pb2.CacheStatsResponse:
        """Counts and sizes of the server's cache."""
        with translated():
            return self._stub.CacheStats(kiln_pb2.CacheStatsRequest(), timeout=self.timeout)

    def events(self) -> Iterator[kiln_pb2.Event]:
        """What happens in the server from now on: devices that come and go, kernels that are replaced by faster ones, searches.

        Without an end; closing the iterator or the client ends it. `missed` of an event says how many before it were left out because
        this side read too slowly.
        """
        with translated():
            call = self._stub.Events(kiln_pb2.EventsRequest())
            try:
                yield from call
            finally:
                call.cancel()

    def cache_export(self, kernel: str = "") -> bytes:
        """The server's schedule records as a file for another server. kernel: the start of a kernel's hash, empty for all."""
        with translated():
            parts = self._stub.CacheExport(kiln_pb2.CacheExportRequest(kernel=kernel), timeout=self.timeout)
            return b"".join(p.chunk for p in parts)

    def cache_import(self, file: bytes) -> kiln_pb2.CacheImportResponse:
        """Takes such a file, all of it or nothing. The server verifies what it brings before using it.

        Raises kiln.Error INVALID_ARGUMENT saying where the file is damaged, FAILED_PRECONDITION when it is of a newer version.
        """
        with translated():
            return self._stub.CacheImport(_codec.import_requests(file), timeout=self.timeout)

    def close(self) -> None:
        """Closes the connection."""
        self._channel.close()

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *exc: Any) -> None:
        self.close()


def connect(server: str | None = None, *, timeout: float | None = None, spawn: bool = True, token: str | None = None,
            tls: _access.Tls | str | bool | None = None) -> Client:
    """Connects to a server.

    server: "unix:PATH" or "host:port"; None means $KILN_SERVER, else the user's own daemon, which is started when it is
    not running and spawn is true. timeout: seconds for each call, None for no limit.

    token: who the caller is; None means $KILN_TOKEN. tls: True, the path of the authorities' certificates, or a kiln.Tls;
    None means $KILN_TLS_CA ("system" for the machine's own), $KILN_TLS_CERT, $KILN_TLS_KEY and $KILN_TLS_SERVER_NAME, and
    plain text without the first. A token is not sent to another machine in plain text.
    """
    return Client(_spawn.resolve(server, spawn), timeout, token, tls)
