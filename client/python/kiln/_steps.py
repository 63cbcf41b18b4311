"""What a call takes until it has its outcome: repeating it, compiling again, bringing it to the server that knows its handles.

Generators without I/O: they yield a Call or a Wait, are sent the answer or thrown the kiln.Error, and return the result; client.py and
aio.py drive them. A handle "exe-...@NODE" belongs to one server of several behind a proxy, which brings calls there by the header
kiln-node. A Compile goes by kiln-graph-hash, so that clients of one model meet where it is loaded. What is repeated: calls that change
nothing, after UNAVAILABLE; any call that was refused with a time to try again. A handle that nobody knows any more is made again.
"""
from __future__ import annotations

import dataclasses
import hashlib
import os
import random
import time
from typing import Any, Callable, Generator, Sequence

import numpy as np

from . import _codec
from ._errors import Error
from .v1 import kiln_pb2

FIRST_PAUSE, LONGEST_PAUSE = 0.05, 2.0
HANDLES_TRIED = 5  # that a call may find to be unknown, one after the other


@dataclasses.dataclass
class Call:
    """A method of the stub. request: makes the message, or the messages, anew for each attempt. parts: the answer is a list of messages."""

    method: str
    request: Callable[[], Any]
    node: str = ""
    graph: str = ""
    parts: bool = False
    timeout: float | None = None

    def metadata(self) -> tuple[tuple[str, str], ...]:
        """The headers by which a proxy finds the server."""
        return (("kiln-node", self.node),) if self.node else (("kiln-graph-hash", self.graph),) if self.graph else ()


@dataclasses.dataclass
class Wait:
    """Seconds until the next attempt."""

    seconds: float


Steps = Generator[Any, Any, Any]


def place_of(near: Any) -> str:
    """The server that has an executable or a buffer."""
    return "" if near is None else node_of(near.buffer_id if hasattr(near, "buffer_id") else near.executable_id)


def node_of(handle: str) -> str:
    """The server that a handle belongs to; empty when it is alone."""
    return handle.partition("@")[2]


# -- repeating ------------------------------------------------------------------------------------


def _pause(client: Any, e: Error, harmless: bool, pause: float) -> float | None:
    """How long to wait before the next attempt; None: it would not help, or might do something twice."""
    jittered = pause * random.uniform(0.5, 1.0)
    if e.code == "RESOURCE_EXHAUSTED" and e.retry_after is not None:
        return max(e.retry_after, jittered)
    if e.code == "UNAVAILABLE" and harmless and client._answered:
        return max(e.retry_after or 0, jittered)
    return None


def repeated(client: Any, call: Call, harmless: bool = True) -> Steps:
    """The answer to a call, repeated for at most client.retry seconds. A server that never answered yet is not waited for."""
    began, pause = time.monotonic(), FIRST_PAUSE
    deadline = float("inf") if client.timeout is None else began + client.timeout
    while True:
        call.timeout = None if client.timeout is None else max(deadline - time.monotonic(), 0.001)
        try:
            answer = yield call
            client._answered = True
            return answer
        except Error as e:
            client._answered = client._answered or e.code != "UNAVAILABLE"
            wait = _pause(client, e, harmless, pause)
            if wait is None or time.monotonic() + wait > min(deadline, began + client.retry):
                raise
        yield Wait(wait)
        pause = min(2 * pause, LONGEST_PAUSE)


# -- models ---------------------------------------------------------------------------------------


class Source:
    """What an executable is compiled from, to be compiled again: bytes, or a file that must not have changed since."""

    def __init__(self, model: Any, options: Any):
        self.options = options
        self._path = os.fspath(model) if isinstance(model, (str, os.PathLike)) else None
        self._parts = None if self._path else _codec.model_parts(model)
        if self._parts and not isinstance(self._parts[2], bytes):
            self._parts = (*self._parts[:2], bytes(self._parts[2]))  # the caller may write to his
        self._file = self._stamp()

    def _stamp(self) -> Any:
        if self._path is None:
            return None
        try:
            st = os.stat(self._path)
        except OSError:
            return None
        return st.st_dev, st.st_ino, st.st_size, st.st_mtime_ns

    def parts(self, again: bool) -> tuple[int, str, Any]:
        """Format, name and bytes."""
        if again and self._path is not None and self._stamp() != self._file:
            raise Error("FAILED_PRECONDITION", f"the server has to be sent the model again, and {self._path} is not what it was")
        return self._parts or _codec.model_parts(self._path)

    def call(self, client: Any, node: str = "", again: bool = False) -> Call:
        """The Compile."""
        parts = self.parts(again)
        graph = ""
        if client._routed and not node:
            digest = hashlib.sha256(_codec.compile_options(self.options).SerializeToString(deterministic=True))
            digest.update(bytes([parts[0]]))
            digest.update(parts[2])
            graph = digest.hexdigest()
        return Call("Compile", lambda: _codec.compile_requests(parts, self.options), node, graph)


def compile_again(exe: Any, node: str) -> Steps:
    """A new handle of the executable, on that server if it can be reached; empty: on any."""
    if exe._source is None:
        raise Error("NOT_FOUND", f"executable '{exe.executable_id}' was released")
    response = yield from repeated(exe._client, exe._source.call(exe._client, node, again=True))
    exe._adopt(response)
    return response.executable


def with_handle(exe: Any, make: Callable[[str], Call], harmless: bool = True, buffers: Sequence[Any] = ()) -> Steps:
    """The answer to make(handle of exe), which is called where the buffers are."""
    client, left = exe._client, HANDLES_TRIED
    while True:
        node = yield from gathered(client, buffers)
        handle = exe.executable_id if node is None else exe._handles.get(node)
        if handle is None or handle not in exe._handles.values():
            handle = yield from compile_again(exe, node or "")
            if node is not None and node_of(handle) != node:
                yield from brought(client, buffers, node, node_of(handle))
                continue
        try:
            return (yield from repeated(client, make(handle), harmless))
        except Error as e:
            left -= 1
            if e.code != "NOT_FOUND" or not left:
                raise
            if handle in e.message:
                exe._forget(handle)
                continue
            gone = [b for b in buffers if b.buffer_id in e.message]
            if not gone:
                raise
            yield from brought(client, gone, node_of(handle), node_of(handle))


def after_tuning(exe: Any, handle: str, e: Error) -> Steps:
    """A search with the handle failed: when that is unknown, the executable has a new one, and the search may begin again."""
    if e.code != "NOT_FOUND" or handle not in e.message:
        raise e
    exe._forget(handle)
    yield from compile_again(exe, "")


# -- buffers --------------------------------------------------------------------------------------


def lost(buffer: Any, server: str) -> Error:
    """For a tensor that nobody has any more."""
    where = f"server '{server}'" if server else "the server"
    return Error("DATA_LOSS", f"buffer '{buffer.buffer_id}': {where} cannot be reached or does not know it any more; upload or compute it again "
                 "(upload(..., keep=True) does it by itself)")


def gathered(client: Any, buffers: Sequence[Any]) -> Steps:
    """The server that has all the buffers, None when there are none; copies of those that were kept are brought to the others."""
    nodes = {b.node for b in buffers}
    if len(nodes) < 2:
        return next(iter(nodes), None)
    fixed = {b.node: b for b in buffers if b._kept is None}
    if len(fixed) > 1:
        a, b = list(fixed.values())[:2]
        raise Error("FAILED_PRECONDITION", f"buffer '{a.buffer_id}' and buffer '{b.buffer_id}' are on different servers; "
                    "upload(..., near=...) puts a tensor where another, or an executable, is")
    node = next(iter(fixed or nodes))
    yield from brought(client, [b for b in buffers if b.node != node], "", node)
    return node


def brought(client: Any, buffers: Sequence[Any], server: str, node: str) -> Steps:
    """Uploads again, to `node`, what the `server` does not have any more."""
    for b in buffers:
        if b._kept is None:
            raise lost(b, server)
        b.buffer_id = yield from upload(client, b._kept, b._device, node)


def upload(client: Any, array: np.ndarray, device: str, node: str) -> Steps:
    """The new handle."""
    call = Call("Upload", lambda: _codec.upload_requests(array, device), node)
    return (yield from repeated(client, call)).buffer


def download(buffer: Any) -> Steps:
    """The tensor."""
    call = Call("Download", lambda: kiln_pb2.DownloadRequest(buffer=buffer.buffer_id), buffer.node, parts=True)
    try:
        parts = yield from repeated(buffer._client, call)
    except Error as e:
        if e.code != "NOT_FOUND" or buffer._freed:
            raise
        if buffer._kept is None:
            raise lost(buffer, buffer.node) from None
        return buffer._kept.copy()
    header = parts[0].header
    return _codec.numpy_from_bytes(header.dtype, header.dims, b"".join(p.chunk for p in parts[1:]))


# -- runs -----------------------------------------------------------------------------------------


def run(exe: Any, inputs: Any, outputs: Any, random_state: Any, priority: str | None, profile: bool = False) -> Steps:
    """The RunResponse."""
    request = _codec.run_request("", inputs, outputs, exe.inputs, exe.input_values, exe.output_values, random_state, priority)
    request.profile = profile
    tensors = _codec.tensor_inputs(inputs, exe.input_values)
    buffers = {name: b for name, b in tensors.items() if hasattr(b, "buffer_id")}
    changes = request.outputs_as_buffers or any(s.state for s in exe.inputs)

    def make(handle: str) -> Call:
        request.executable = handle
        for i in request.inputs:
            if i.name in buffers:
                i.buffer = buffers[i.name].buffer_id
        return Call("Run", lambda: request, node_of(handle))
    return (yield from with_handle(exe, make, not changes, list(buffers.values())))


def explain(exe: Any, inputs: Any, runs: int, tried: int, make: Any) -> Steps:
    """The kernels' reports."""
    profiles = []
    for _ in range(runs if inputs is not None else 0):
        response = yield from run(exe, inputs, None, exe._random(None), None, profile=True)
        profiles.append(response.profile)
    response = yield from with_handle(
        exe, lambda handle: Call("Explain", lambda: kiln_pb2.ExplainRequest(executable=handle, tried=tried), node_of(handle)))
    return _codec.kernel_reports(response, profiles, make)


def estimate(exe: Any) -> Steps:
    """What a run would cost now."""
    response = yield from with_handle(exe, lambda handle: Call("Explain", lambda: kiln_pb2.ExplainRequest(executable=handle), node_of(handle)))
    return {f.name: getattr(response.run, f.name) for f in response.run.DESCRIPTOR.fields}
