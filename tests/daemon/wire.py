"""HTTP/2 by hand: frames and header blocks as bytes, so that a test can send what no library would."""
import socket
import ssl
import struct
import time

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
(NO_ERROR, PROTOCOL_ERROR, INTERNAL_ERROR, FLOW_CONTROL_ERROR, SETTINGS_TIMEOUT, STREAM_CLOSED, FRAME_SIZE_ERROR, REFUSED_STREAM,
 CANCEL, COMPRESSION_ERROR, CONNECT_ERROR, ENHANCE_YOUR_CALM) = range(12)
ACK = END_STREAM = 1
END_HEADERS, PADDED, WITH_PRIORITY = 4, 8, 32
HEADER_TABLE_SIZE, ENABLE_PUSH, MAX_CONCURRENT_STREAMS, INITIAL_WINDOW_SIZE, MAX_FRAME_SIZE, MAX_HEADER_LIST_SIZE = range(1, 7)

HEALTH = [(":method", "POST"), (":scheme", "http"), (":path", "/grpc.health.v1.Health/Check"), (":authority", "localhost"),
          ("content-type", "application/grpc"), ("te", "trailers")]
EMPTY_MESSAGE = bytes(5)
SERVING = b"\0\0\0\0\2\x08\1"  # the answer to it


def frame(kind, flags=0, stream=0, payload=b"", length=None):
    n = len(payload) if length is None else length
    return struct.pack(">I", n)[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def integer(value, bits, first=0):
    """RFC 7541, 5.1."""
    most = (1 << bits) - 1
    if value < most:
        return bytes([first | value])
    out, value = [first | most], value - most
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes(out + [value])


def text(s):
    raw = s.encode("latin-1") if isinstance(s, str) else s
    return integer(len(raw), 7) + raw


def field(name, value, first=0x00):
    """A literal with its name; first: 0x00 not indexed, 0x10 never, 0x40 kept in the table."""
    return bytes([first]) + text(name) + text(value)


def block(fields):
    return b"".join(field(n, v) for n, v in fields)


def changed(*more, **fields):
    """The health call's fields with some replaced (method=, path=, ...; None drops it) and more appended."""
    out = []
    for name, value in HEALTH:
        value = fields.get(name.lstrip(":").replace("-", "_"), value)
        if value is not None:
            out.append((name, value))
    return out + list(more)


def setting(key, value):
    return struct.pack(">HI", key, value)


def settings(*pairs):
    return frame(SETTINGS, payload=b"".join(setting(k, v) for k, v in pairs))


def window_update(stream, n):
    return frame(WINDOW_UPDATE, stream=stream, payload=struct.pack(">I", n))


def reset(stream, code=CANCEL):
    return frame(RST_STREAM, stream=stream, payload=struct.pack(">I", code))


def headers(stream, fields=HEALTH, flags=END_HEADERS, raw=None):
    return frame(HEADERS, flags, stream, block(fields) if raw is None else raw)


def body(stream, payload=EMPTY_MESSAGE, flags=END_STREAM):
    return frame(DATA, flags, stream, payload)


def call(stream, fields=HEALTH):
    return headers(stream, fields) + body(stream)


class Peer:
    """One connection. Everything that comes is kept in `frames` as (kind, flags, stream, payload)."""

    def __init__(self, address, hello=True, opening=(), wait=10, agree=True):
        self.wait, self.buffer, self.frames, self.ended = wait, b"", [], False
        self.socket = connect(address, wait)
        if hello:
            self.send(PREFACE + settings(*opening))
            self.until(lambda: self.seen(SETTINGS, flags=ACK))
            if agree:
                self.send(frame(SETTINGS, ACK))

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.socket.close()

    def send(self, *parts):
        """What the server does not take any more does not matter: what it said before it closed does."""
        try:
            self.socket.sendall(b"".join(parts))
        except OSError as e:
            if isinstance(e, TimeoutError):
                raise
        return self

    def _frame(self):
        if len(self.buffer) < 9:
            return False
        n = int.from_bytes(self.buffer[:3], "big")
        if len(self.buffer) < 9 + n:
            return False
        kind, flags, stream = struct.unpack(">BBI", self.buffer[3:9])
        self.frames.append((kind, flags, stream, self.buffer[9:9 + n]))
        self.buffer = self.buffer[9 + n:]
        return True

    def read(self, wait):
        """Takes what comes within that time; False when nothing did, or the end."""
        if self.ended:
            return False
        try:
            self.socket.settimeout(max(wait, 0.001))
            got = self.socket.recv(1 << 20)
        except (TimeoutError, ssl.SSLWantReadError):
            return False
        except OSError:
            got = b""
        finally:
            self.socket.settimeout(self.wait)
        self.ended = not got
        self.buffer += got
        while self._frame():
            pass
        return bool(got)

    def until(self, done, wait=None):
        end = time.monotonic() + (self.wait if wait is None else wait)
        while not done() and not self.ended and time.monotonic() < end:
            self.read(end - time.monotonic())
        return bool(done())

    def seen(self, kind, stream=None, flags=None):
        return [f for f in self.frames if f[0] == kind and (stream is None or f[2] == stream) and (flags is None or f[1] & flags == flags)]

    def data(self, stream):
        return b"".join(f[3] for f in self.seen(DATA, stream))

    def finished(self, stream):
        """The server has ended the stream."""
        return any(f[2] == stream and (f[0] == RST_STREAM or f[0] in (DATA, HEADERS) and f[1] & END_STREAM) for f in self.frames)

    def answered(self, stream, wait=None):
        """The health call on that stream was answered, whole."""
        self.until(lambda: self.finished(stream), wait)
        return self.data(stream) == SERVING and self.finished(stream)

    def code(self, kind):
        """The error code of the last frame of that kind (RST_STREAM, GOAWAY)."""
        at = 0 if kind == RST_STREAM else 4
        found = self.seen(kind)
        return int.from_bytes(found[-1][3][at:at + 4], "big") if found else None

    def pings(self, payload=b"12345678"):
        before = len(self.seen(PING, flags=ACK))
        self.send(frame(PING, payload=payload))
        self.until(lambda: len(self.seen(PING, flags=ACK)) > before)
        found = self.seen(PING, flags=ACK)
        return len(found) > before and found[-1][3] == payload

    def closed(self, wait=None):
        return self.until(lambda: self.ended, wait) or self.ended


def connect(address, wait=10):
    """unix:PATH, tcp:PORT, or tls:PORT:CA; the socket without a word of HTTP/2."""
    kind, _, rest = address.partition(":")
    if kind == "unix":
        s = socket.socket(socket.AF_UNIX)
        s.settimeout(wait)
        s.connect(rest)
        return s
    port, _, ca = rest.partition(":")
    s = socket.create_connection(("127.0.0.1", int(port)), timeout=wait)
    if kind == "tcp":
        s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return s
    context = ssl.create_default_context(cafile=ca)
    context.set_alpn_protocols(["h2"])
    return context.wrap_socket(s, server_hostname="localhost")
