"""The blocking client."""
from __future__ import annotations

import dataclasses
import functools
import time
from typing import Any, Callable, Iterator, Mapping, Sequence

import grpc
import numpy as np

from . import _access, _codec, _memory, _spawn, _steps, _tune
from ._errors import Error, translated
from ._memory import Memory
from ._options import Options
from .v1 import kiln_pb2, kiln_pb2_grpc

RETRY_SECONDS = 10.0


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
    origin: str
    tried: tuple[kiln_pb2.TriedSchedule, ...]
    measured: int
    failed: int


class BufferBase:
    """A tensor kept on a server: dtype ("f32"), shape, buffer_id, and node, the server's name among several ("" when it is alone)."""

    def __init__(self, client: Any, buffer_id: str, dtype: str, shape: tuple[int, ...], kept: np.ndarray | None = None, device: str = ""):
        self._client = client
        self._kept, self._device, self._freed = kept, device, False
        self.buffer_id = buffer_id
        self.dtype = dtype
        self.shape = shape

    @property
    def node(self) -> str:
        return _steps.node_of(self.buffer_id)

    def _free(self) -> _steps.Call:
        self._freed, self._kept = True, None
        return _steps.Call("FreeBuffers", lambda: kiln_pb2.FreeBuffersRequest(buffers=[self.buffer_id]), self.node)

    def __repr__(self) -> str:
        return f"kiln.Buffer({self.dtype}{list(self.shape)}, {self.buffer_id})"


class Buffer(BufferBase):
    """A tensor kept on the server: dtype ("f32"), shape and buffer_id; node: the server's name, when there are several. Freed by free(),
    or with the server."""

    def numpy(self) -> np.ndarray:
        """Downloads the tensor. NOT_FOUND after free(), DATA_LOSS when the server has gone and no copy was kept."""
        return self._client._do(_steps.download(self))

    def free(self) -> None:
        """Gives the memory back."""
        self._client._do(_steps.repeated(self._client, self._free(), harmless=False))


class ExecutableBase:
    """What both forms of an executable know of it."""

    def __init__(self, client: Any, response: kiln_pb2.CompileResponse, source: _steps.Source):
        self._client = client
        self._source: _steps.Source | None = source  # None: it was released
        self._handles: dict[str, str] = {}  # by server
        self._adopt(response)
        self.inputs = [TensorSpec._from(s) for s in response.inputs]
        self.outputs = [TensorSpec._from(s) for s in response.outputs]
        self.input_values = [ValueSpec._from(s) for s in response.input_values]
        self.output_values = [ValueSpec._from(s) for s in response.output_values]
        self._seed, self._runs = source.options.seed, 0

    def _adopt(self, response: kiln_pb2.CompileResponse) -> None:
        if hasattr(self, "_report") and response.report.graph_hash != self._report.graph_hash:
            raise Error("FAILED_PRECONDITION", "the servers do not make the same graph of the model; do they have the same version?")
        self._report = response.report
        self.executable_id = response.executable
        self._handles[_steps.node_of(response.executable)] = response.executable

    def _forget(self, handle: str) -> None:
        if self._handles.get(_steps.node_of(handle)) == handle:
            del self._handles[_steps.node_of(handle)]

    def _random(self, seed: int | None) -> tuple[int, int] | None:
        if seed is not None or self._seed is None:
            return None if seed is None else (seed, 0)
        self._runs += 1
        return self._seed, self._runs - 1

    def _releases(self) -> list[_steps.Call]:
        handles, self._handles, self._source = list(self._handles.values()), {}, None
        return [_steps.Call("ReleaseExecutable", functools.partial(kiln_pb2.ReleaseExecutableRequest, executable=h), _steps.node_of(h))
                for h in handles]

    def report(self) -> dict[str, Any]:
        """What the compile did: graph_hash, kernels, unique_kernels, kernels_compiled, plan_cached, sizes in bytes, times in ns."""
        return {f.name: getattr(self._report, f.name) for f in self._report.DESCRIPTOR.fields}


class Executable(ExecutableBase):
    """A compiled model on the server.

    inputs, outputs: lists of TensorSpec in the model's order.
    input_values, output_values: lists of ValueSpec, the sequences and empty optionals that these tensors belong to.

    When the server does not know it any more (an upgrade, a restart, or another server of several), it is compiled again.
    """

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
        Raises kiln.Error INVALID_ARGUMENT naming the input with expected and got; UNAVAILABLE when the device died; DATA_LOSS when the
        server that had one of the buffers has gone. A run that updates no state and leaves nothing on the server is repeated.
        """
        response = self._client._do(_steps.run(self, inputs, outputs, self._random(seed), priority))
        return _codec.run_outputs(response, self.outputs, functools.partial(Buffer, self._client), self.output_values)

    __call__ = run

    def state(self) -> dict[str, Buffer]:
        """A new buffer of zeros for every state of the model, by name: what the first run's inputs are updated with."""
        return {s.name: self._client.upload(_codec.zeros(s.dtype, s.shape), self._report.device, near=self) for s in self.inputs if s.state}

    def tune(self, budget: float = 60, progress: Callable[[_tune.TuneProgress], Any] | None = None, seed: int = 0) -> _tune.TuneSummary:
        """Searches for faster kernels for at most `budget` seconds and says what came of it.

        What is found is compared with the plain kernels' results, used from the next run on, and kept in the server's cache.
        progress: called with a kiln.TuneProgress now and then (print does); an exception from it ends the search and is raised.
        """
        handle = self.executable_id
        try:
            return self._tune(handle, budget, progress, seed)
        except Error as e:
            self._client._do(_steps.after_tuning(self, handle, e))
        return self._tune(self.executable_id, budget, progress, seed)

    def _tune(self, handle: str, budget: float, progress: Callable[[_tune.TuneProgress], Any] | None, seed: int) -> _tune.TuneSummary:
        with translated():
            call = self._client._stub.Tune(_tune.request(handle, budget, seed), timeout=self._client.timeout,
                                           metadata=_steps.Call("Tune", lambda: None, _steps.node_of(handle)).metadata())
            try:
                for part in call:
                    if part.WhichOneof("part") == "summary":
                        return _tune.TuneSummary._from(part.summary)
                    if progress and part.WhichOneof("part") == "progress":
                        progress(_tune.TuneProgress._from(part.progress))
            finally:
                call.cancel()
        raise Error("INTERNAL", "the server sent no summary")

    def explain(self, inputs: Mapping[str, Any] | None = None, runs: int = 10, tried: int = 3) -> list[KernelReport]:
        """What each kernel does, how it is scheduled and what was tried; with inputs also how long it takes, those that take most first.

        inputs: as for run(); they are run `runs` times, with every call of a kernel timed on its own. tried: how many records per kernel.
        """
        return self._client._do(_steps.explain(self, inputs, runs, tried, KernelReport))

    def estimate(self) -> dict[str, Any]:
        """What a run would cost if it were asked for now: device_ns (measured says whether runs took that or kernels are predicted to), wait_ns
        behind what waits for the device, waiting runs of the caller's tenant, host_bytes of its tensors, and why it would be refused, or ""."""
        return self._client._do(_steps.estimate(self))

    def release(self) -> None:
        """Forgets the executable on the server; its cache entries stay."""
        for call in self._releases():
            self._client._do(_steps.repeated(self._client, call, harmless=False))


class Client:
    """A connection to one server; safe to use from several threads. Use as a context manager, or close()."""

    def __init__(self, target: str, timeout: float | None = None, token: str | None = None,
                 tls: _access.Tls | str | bool | None = None, retry: float = RETRY_SECONDS):
        self.target = target
        self.timeout, self.retry = timeout, retry
        self._answered, self._routed = False, not target.startswith("unix:")
        self._token = _access.chosen_token(token)
        self._channel, calls = _access.open_channel(grpc, target, token, tls)
        self._stub = kiln_pb2_grpc.KilnStub(calls)

    def _attempt(self, call: _steps.Call) -> Any:
        with translated():
            answer = getattr(self._stub, call.method)(call.request(), timeout=call.timeout, metadata=call.metadata())
            return list(answer) if call.parts else answer

    def _do(self, steps: _steps.Steps) -> Any:
        """Takes the steps one by one and returns what they come to."""
        answer, error = None, None
        try:
            while True:
                step = steps.throw(error) if error else steps.send(answer)
                answer, error = None, None
                try:
                    answer = self._attempt(step) if isinstance(step, _steps.Call) else time.sleep(step.seconds)
                except Error as e:
                    error = e
        except StopIteration as end:
            return end.value

    def _ask(self, method: str, request: Any) -> Any:
        """The answer to a question that may be asked again."""
        return self._do(_steps.repeated(self, _steps.Call(method, lambda: request)))

    def compile(self, model: Any, options: Options | None = None) -> Executable:
        """Compiles a path to an .onnx or .kgraph file, the bytes of an ONNX model, an onnx.ModelProto, or a kiln.Graph.

        Raises kiln.Error INVALID_ARGUMENT or UNIMPLEMENTED naming the node at fault.
        """
        source = _steps.Source(model, options or Options())
        return Executable(self, self._do(_steps.repeated(self, source.call(self))), source)

    def inspect(self, model: Any, stage: str = "kernels", kernel: int = -1, options: Options | None = None) -> str:
        """The text of one compiler stage: tensor ranged kernels scheduled lowered linear code. kernel -1: all."""
        with translated():
            requests = _codec.inspect_requests(model, options or Options(), stage, kernel)
            return self._stub.Inspect(requests, timeout=self.timeout).text

    def upload(self, array: Any, device: str = "", near: Any = None, keep: bool = False) -> Buffer:
        """Copies an array to the server and keeps it there. A kiln.Memory is taken as it is by a server on this machine.

        near: an executable or a buffer; where there are several servers, to the one that has it.
        keep: a copy stays here, which is uploaded again when the server has lost its own. Not for what runs update.
        """
        if isinstance(array, Memory):
            given = _give(self, array, device)
            if given:
                return Buffer(self, given, _codec.dtype_name(_codec.dtype_number(array.dtype)), array.shape, array.array if keep else None, device)
            array = array.array
        a = np.asarray(array)
        dtype = _codec.dtype_name(_codec.dtype_number(a.dtype))
        kept = a.copy() if keep else None
        return Buffer(self, self._do(_steps.upload(self, a if kept is None else kept, device, _steps.place_of(near))), dtype, a.shape, kept, device)

    def buffers(self) -> list[Buffer]:
        """The buffers that the server keeps."""
        infos = self._ask("ListBuffers", kiln_pb2.ListBuffersRequest()).buffers
        return [Buffer(self, b.buffer, _codec.dtype_name(b.dtype), tuple(b.dims)) for b in infos]

    def server_info(self) -> kiln_pb2.GetServerInfoResponse:
        """Version, limits, cache state of the server."""
        return self._ask("GetServerInfo", kiln_pb2.GetServerInfoRequest())

    def devices(self) -> list[kiln_pb2.DeviceInfo]:
        """The devices of the server, available or not, with the reason."""
        return list(self._ask("ListDevices", kiln_pb2.ListDevicesRequest()).devices)

    def cache_stats(self) -> kiln_pb2.CacheStatsResponse:
        """Counts and sizes of the server's cache."""
        return self._ask("CacheStats", kiln_pb2.CacheStatsRequest())

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


def _give(client: Any, memory: Memory, device: str) -> str | None:
    """The handle of memory that was passed; None: it has to be sent."""
    if client._routed:
        return None
    return _memory.give(client.target[len("unix:"):], memory, device, client._token, client.timeout)


def connect(server: str | None = None, *, timeout: float | None = None, spawn: bool = True, token: str | None = None,
            tls: _access.Tls | str | bool | None = None, retry: float = RETRY_SECONDS) -> Client:
    """Connects to a server.

    server: "unix:PATH" or "host:port"; None means $KILN_SERVER, else the user's own daemon, which is started when it is
    not running and spawn is true. timeout: seconds for each call, None for no limit.

    token: who the caller is; None means $KILN_TOKEN. tls: True, the path of the authorities' certificates, or a kiln.Tls;
    None means $KILN_TLS_CA ("system" for the machine's own), $KILN_TLS_CERT, $KILN_TLS_KEY and $KILN_TLS_SERVER_NAME, and
    plain text without the first. A token is not sent to another machine in plain text.

    retry: for so many seconds calls are repeated, with growing pauses: those that change nothing when the server is not there for a
    moment (UNAVAILABLE), all when it says when there will be room (RESOURCE_EXHAUSTED with retry_after). 0: never. A server that has
    never answered is not waited for.
    """
    return Client(_spawn.resolve(server, spawn), timeout, token, tls, retry)
