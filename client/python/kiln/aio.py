"""The same client for asyncio: kiln.aio.connect(), then await every call."""
from __future__ import annotations

import asyncio
import functools
from typing import Any, Callable, Mapping, Sequence

import grpc
import numpy as np

from . import _access, _codec, _spawn, _steps, _tune
from ._errors import Error, translated
from ._options import Options
from ._memory import Memory
from .client import RETRY_SECONDS, BufferBase, ExecutableBase, KernelReport, _give
from .v1 import kiln_pb2_grpc


class Buffer(BufferBase):
    """A tensor kept on the server: dtype ("f32"), shape and buffer_id; node: the server's name, when there are several."""

    async def numpy(self) -> np.ndarray:
        """Downloads the tensor."""
        return await self._client._do(_steps.download(self))

    async def free(self) -> None:
        """Gives the memory back."""
        await self._client._do(_steps.repeated(self._client, self._free(), harmless=False))


class Executable(ExecutableBase):
    """A compiled model on the server; inputs and outputs are lists of kiln.TensorSpec."""

    async def run(self, inputs: Mapping[str, Any], outputs: str | Sequence[str] | None = None, seed: int | None = None,
                  priority: str | None = None) -> dict[str, Any]:
        """As kiln.Executable.run; Buffers are those of this module."""
        response = await self._client._do(_steps.run(self, inputs, outputs, self._random(seed), priority))
        return _codec.run_outputs(response, self.outputs, functools.partial(Buffer, self._client), self.output_values)

    __call__ = run

    async def state(self) -> dict[str, Buffer]:
        """As kiln.Executable.state."""
        return {s.name: await self._client.upload(_codec.zeros(s.dtype, s.shape), self._report.device, near=self)
                for s in self.inputs if s.state}

    async def tune(self, budget: float = 60, progress: Callable[[_tune.TuneProgress], Any] | None = None,
                   seed: int = 0) -> _tune.TuneSummary:
        """As kiln.Executable.tune."""
        handle = self.executable_id
        try:
            return await self._tune(handle, budget, progress, seed)
        except Error as e:
            await self._client._do(_steps.after_tuning(self, handle, e))
        return await self._tune(self.executable_id, budget, progress, seed)

    async def _tune(self, handle: str, budget: float, progress: Callable[[_tune.TuneProgress], Any] | None, seed: int) -> _tune.TuneSummary:
        with translated():
            call = self._client._stub.Tune(_tune.request(handle, budget, seed), timeout=self._client.timeout,
                                           metadata=_steps.Call("Tune", lambda: None, _steps.node_of(handle)).metadata())
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
        return await self._client._do(_steps.explain(self, inputs, runs, tried, KernelReport))

    async def release(self) -> None:
        """As kiln.Executable.release."""
        for call in self._releases():
            await self._client._do(_steps.repeated(self._client, call, harmless=False))

    async def estimate(self) -> dict[str, Any]:
        """As kiln.Executable.estimate."""
        return await self._client._do(_steps.estimate(self))


class Client:
    """A connection to one server for one event loop."""

    def __init__(self, target: str, timeout: float | None = None, token: str | None = None,
                 tls: _access.Tls | str | bool | None = None, retry: float = RETRY_SECONDS):
        self.target = target
        self.timeout, self.retry = timeout, retry
        self._answered, self._routed = False, not target.startswith("unix:")
        self._token = _access.chosen_token(token)
        self._channel, calls = _access.open_channel(grpc.aio, target, token, tls)
        self._stub = kiln_pb2_grpc.KilnStub(calls)

    async def _attempt(self, call: _steps.Call) -> Any:
        with translated():
            answer = getattr(self._stub, call.method)(call.request(), timeout=call.timeout, metadata=call.metadata())
            return [part async for part in answer] if call.parts else await answer

    async def _do(self, steps: _steps.Steps) -> Any:
        """Takes the steps one by one and returns what they come to."""
        answer, error = None, None
        try:
            while True:
                step = steps.throw(error) if error else steps.send(answer)
                answer, error = None, None
                try:
                    answer = await (self._attempt(step) if isinstance(step, _steps.Call) else asyncio.sleep(step.seconds))
                except Error as e:
                    error = e
        except StopIteration as end:
            return end.value

    async def compile(self, model: Any, options: Options | None = None) -> Executable:
        """As kiln.Client.compile."""
        source = _steps.Source(model, options or Options())
        return Executable(self, await self._do(_steps.repeated(self, source.call(self))), source)

    async def upload(self, array: Any, device: str = "", near: Any = None, keep: bool = False) -> Buffer:
        """As kiln.Client.upload."""
        if isinstance(array, Memory):
            given = await asyncio.get_running_loop().run_in_executor(None, _give, self, array, device)
            if given:
                return Buffer(self, given, _codec.dtype_name(_codec.dtype_number(array.dtype)), array.shape, array.array if keep else None, device)
            array = array.array
        a = np.asarray(array)
        dtype = _codec.dtype_name(_codec.dtype_number(a.dtype))
        kept = a.copy() if keep else None
        handle = await self._do(_steps.upload(self, a if kept is None else kept, device, _steps.place_of(near)))
        return Buffer(self, handle, dtype, a.shape, kept, device)

    async def close(self) -> None:
        """Closes the connection."""
        await self._channel.close()

    async def __aenter__(self) -> "Client":
        return self

    async def __aexit__(self, *exc: Any) -> None:
        await self.close()


async def connect(server: str | None = None, *, timeout: float | None = None, spawn: bool = True, token: str | None = None,
                  tls: _access.Tls | str | bool | None = None, retry: float = RETRY_SECONDS) -> Client:
    """As kiln.connect."""
    target = await asyncio.get_running_loop().run_in_executor(None, _spawn.resolve, server, spawn)
    return Client(target, timeout, token, tls, retry)
