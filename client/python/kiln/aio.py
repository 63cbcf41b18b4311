"""The same client for asyncio: kiln.aio.connect(), then await every call."""
from __future__ import annotations

import asyncio
import functools
from typing import Any, Callable, Mapping, Sequence

import grpc
import numpy as np

from . import _access, _codec, _spawn, _tune
from ._errors import Error, translated
from ._options import Options
from .client import KernelReport, TensorSpec, ValueSpec
from .v1 import kiln_pb2, kiln_pb2_grpc


class Buffer:
    """A tensor kept on the server: dtype ("f32"), shape and buffer_id."""

    def __init__(self, client: "Client", buffer_id: str, dtype: str, shape: tuple[int, ...]):
        self._client = client
        self.buffer_id = buffer_id
        self.dtype = dtype
        self.shape = shape

    async def numpy(self) -> np.ndarray:
        """Downloads the tensor."""
        header, data = None, bytearray()
        with translated():
            async for part in self._client._stub.Download(kiln_pb2.DownloadRequest(buffer=self.buffer_id), timeout=self._client.timeout):
                if part.WhichOneof("part") == "header":
                    header = part.header
                else:
                    data += part.chunk
        return _codec.numpy_from_bytes(header.dtype, header.dims, bytes(data))

    async def free(self) -> None:
        """Gives the memory back."""
        with translated():
            await self._client._stub.FreeBuffers(kiln_pb2.FreeBuffersRequest(buffers=[self.buffer_id]), timeout=self._client.timeout)


class Executable:
    """A compiled model on the server; inputs and outputs are lists of kiln.TensorSpec."""

    def __init__(self, client: "Client", response: kiln_pb2.CompileResponse, options: Options = Options()):
        self._client = client
        self._report = response.report
        self.executable_id = response.executable
        self.inputs = [TensorSpec._from(s) for s in response.inputs]
        self.outputs = [TensorSpec._from(s) for s in response.outputs]
        self.input_values = [ValueSpec._from(s) for s in response.input_values]
        self.output_values = [ValueSpec._from(s) for s in response.output_values]
        self._seed, self._runs = options.seed, 0

    async def run(self, inputs: Mapping[str, Any], outputs: str | Sequence[str] | None = None, seed: int | None = None,
                  priority: str | None = None) -> dict[str, Any]:
        """As kiln.Executable.run; Buffers are those of this module."""
        request = _codec.run_request(self.executable_id, inputs, outputs, self.inputs, self.input_values, self.output_values,
                                     self._random(seed), priority)
        with translated():
            response = await self._client._stub.Run(request, timeout=self._client.timeout)
        return _codec.run_outputs(response, self.outputs, functools.partial(Buffer, self._client), self.output_values)

    def _random(self, seed: int | None) -> tuple[int, int] | None:
        if seed is not None or self._seed is None:
            return None if seed is None else (seed, 0)
        self._runs += 1
        return self._seed, self._runs - 1

    __call__ = run

    async def state(self) -> dict[str, Buffer]:
        """As kiln.Executable.state."""
        return {s.name: await self._client.upload(_codec.zeros(s.dtype, s.shape), self._report.device) for s in self.inputs if s.state}

    async def tune(self, budget: float = 60, progress: Callable[[_tune.TuneProgress], Any] | None = None,
                   seed: int = 0) -> _tune.TuneSummary:
        """As kiln.Executable.tune."""
        with translated():
            call = self._client._stub.Tune(_tune.request(self.executable_id, budget, seed), timeout=self._client.timeout)
            try:
                async for part in call:
                    if part.WhichOneof("part") == "summary":
                        return _tune.TuneSummary._from(part.summary)
                    if progress and part.WhichOneof("part") == "progress":
                        progress(_tune.TuneProgress._from(part.progress))
            finally:
                call.cancel()
        raise Error("INTERNAL", "the server sent no summary")

    async def explain(self, inputs: Mapping[str, Any] | None = None, runs: int = 10, tried: int = 3) -> list[KernelReport]:
        """As kiln.Executable.explain."""
        profiles = []
        for _ in range(runs if inputs is not None else 0):
            request = _codec.run_request(self.executable_id, inputs, None, self.inputs, self.input_values, self.output_values, self._random(None))
            request.profile = True
            with translated():
                profiles.append((await self._client._stub.Run(request, timeout=self._client.timeout)).profile)
        with translated():
            response = await self._client._stub.Explain(kiln_pb2.ExplainRequest(executable=self.executable_id, tried=tried),
                                                        timeout=self._client.timeout)
        return _codec.kernel_reports(response, profiles, KernelReport)

    async def estimate(self) -> dict[str, Any]:
        """As kiln.Executable.estimate."""
        with translated():
            response = await self._client._stub.Explain(kiln_pb2.ExplainRequest(executable=self.executable_id), timeout=self._client.timeout)
        return {f.name: getattr(response.run, f.name) for f in response.run.DESCRIPTOR.fields}

    def report(self) -> dict[str, Any]:
        """As kiln.Executable.report."""
        return {f.name: getattr(self._report, f.name) for f in self._report.DESCRIPTOR.fields}


class Client:
    """A connection to one server for one event loop."""

    def __init__(self, target: str, timeout: float | None = None, token: str | None = None,
                 tls: _access.Tls | str | bool | None = None):
        self.target = target
        self.timeout = timeout
        self._channel, calls = _access.open_channel(grpc.aio, target, token, tls)
        self._stub = kiln_pb2_grpc.KilnStub(calls)

    async def compile(self, model: Any, options: Options | None = None) -> Executable:
        """As kiln.Client.compile."""
        with translated():
            response = await self._stub.Compile(_codec.compile_requests(model, options or Options()), timeout=self.timeout)
        return Executable(self, response, options or Options())

    async def upload(self, array: Any, device: str = "") -> Buffer:
        """As kiln.Client.upload."""
        a = np.asarray(array)
        with translated():
            response = await self._stub.Upload(_codec.upload_requests(a, device), timeout=self.timeout)
        return Buffer(self, response.buffer, _codec.dtype_name(_codec.dtype_number(a.dtype)), a.shape)

    async def close(self) -> None:
        """Closes the connection."""
        await self._channel.close()

    async def __aenter__(self) -> "Client":
        return self

    async def __aexit__(self, *exc: Any) -> None:
        await self.close()


async def connect(server: str | None = None, *, timeout: float | None = None, spawn: bool = True, token: str | None = None,
                  tls: _access.Tls | str | bool | None = None) -> Client:
    """As kiln.connect."""
    target = await asyncio.get_running_loop().run_in_executor(None, _spawn.resolve, server, spawn)
    return Client(target, timeout, token, tls)
