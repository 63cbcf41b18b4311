"""Tensors built in memory that a server on the same machine takes as it is.

The memory is a memfd, sealed when it is given away and passed over the Unix socket beside the bytes of the call that names it. grpcio
cannot pass descriptors, so that one call is spoken here: a connection of its own, one request, one answer. Only the answer's message is
read; when there is none the caller uploads in the ordinary way, and is told what is wrong by that.
"""
from __future__ import annotations

import array
import fcntl
import mmap
import os
import socket
import struct
from typing import Any, Sequence

import numpy as np

from . import _codec
from ._errors import Error
from .v1 import kiln_pb2

SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, GOAWAY = 0, 1, 3, 4, 7
END_STREAM, END_HEADERS = 1, 4
ANSWER_MOST = 1 << 16


class Memory:
    """A tensor to be filled in place: `array` is zeros of the shape and dtype. Client.upload(memory) gives it to a server on this
    machine without a copy; to others it is sent. From then on `array` is another one, which is only to be read, and no run can update
    the buffer."""

    def __init__(self, shape: Sequence[int], dtype: Any = "f32"):
        self.dtype = _codec.numpy_dtype(_codec.dtype_number(dtype))
        self.shape = tuple(int(n) for n in shape)
        self._bytes = int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize
        self._fd = os.memfd_create("kiln-tensor", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        self._sealed = False
        os.ftruncate(self._fd, max(self._bytes, 1))
        self._map(mmap.PROT_READ | mmap.PROT_WRITE)

    def _map(self, protection: int) -> None:
        self._pages = mmap.mmap(self._fd, max(self._bytes, 1), mmap.MAP_SHARED, protection)
        self.array = np.frombuffer(self._pages, self.dtype, self._bytes // self.dtype.itemsize).reshape(self.shape)

    def _seal(self) -> None:
        if self._sealed:
            return
        del self.array
        try:
            self._pages.close()  # a mapping that can be written to keeps the memory from being sealed
        except BufferError:
            self.array = np.frombuffer(self._pages, self.dtype, self._bytes // self.dtype.itemsize).reshape(self.shape)
            raise Error("FAILED_PRECONDITION", "the memory cannot be given away: there are references to its array, or to parts of it") from None
        fcntl.fcntl(self._fd, fcntl.F_ADD_SEALS, SEALS)
        self._sealed = True
        self._map(mmap.PROT_READ)

    def __del__(self) -> None:
        if hasattr(self, "_fd"):
            os.close(self._fd)


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def _field(name: str, value: str) -> bytes:
    """A header that no table remembers, neither indexed nor compressed."""
    out = b"\x10"
    for text in (name.encode(), value.encode()):
        n = len(text)
        out += bytes([n]) if n < 127 else b"\x7f" + _varint(n - 127)
        out += text
    return out


def _varint(n: int) -> bytes:
    out = b""
    while n >= 128:
        out, n = out + bytes([n & 127 | 128]), n >> 7
    return out + bytes([n])


def _request(message: bytes, token: str | None) -> bytes:
    fields = {":method": "POST", ":scheme": "http", ":path": "/kiln.v1.Kiln/Upload", ":authority": "localhost", "te": "trailers",
              "content-type": "application/grpc"}
    if token:
        fields["authorization"] = f"Bearer {token}"
    block = b"".join(_field(n, v) for n, v in fields.items())
    body = b"\0" + struct.pack(">I", len(message)) + message
    return PREFACE + _frame(SETTINGS, 0, 0, b"") + _frame(HEADERS, END_HEADERS, 1, block) + _frame(DATA, END_STREAM, 1, body)


def _message(s: socket.socket) -> bytes | None:
    """The one message of the answer; None when it has none."""
    stream, got = s.makefile("rb"), b""
    while True:
        head = stream.read(9)
        if len(head) < 9:
            return None
        size, kind, flags = int.from_bytes(head[:3], "big"), head[3], head[4]
        payload = stream.read(size)
        got += payload if kind == DATA else b""
        if len(payload) < size or len(got) > ANSWER_MOST or kind in (RST_STREAM, GOAWAY):
            return None
        if kind in (DATA, HEADERS) and flags & END_STREAM:
            whole = len(got) >= 5 and int.from_bytes(got[1:5], "big") == len(got) - 5
            return got[5:] if whole else None


def give(path: str, memory: Memory, device: str, token: str | None, timeout: float | None) -> str | None:
    """Passes the memory to the server on the Unix socket; its handle there, or None when that did not work."""
    memory._seal()
    header = kiln_pb2.UploadHeader(dtype=_codec.dtype_number(memory.dtype), dims=memory.shape, device=device, memory=1)
    request = _request(kiln_pb2.UploadRequest(header=header).SerializeToString(), token)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as s:
        s.settimeout(timeout)
        try:
            s.connect(path)
            sent = s.sendmsg([request], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [memory._fd]))])
            s.sendall(request[sent:])
            answer = _message(s)
        except OSError:
            return None
    return kiln_pb2.UploadResponse.FromString(answer).buffer if answer is not None else None
