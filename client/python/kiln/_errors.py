"""The one exception type."""
import contextlib

import grpc


class Error(Exception):
    """A failed call.

    code: name of the gRPC status, e.g. "INVALID_ARGUMENT".
    message: what was wrong, what was expected and what was got.
    retry_after: seconds after which the server expects to have room, or None when it did not say; infinite when another try would end
        in the same way.
    """

    def __init__(self, code: str, message: str, retry_after: float | None = None):
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message
        self.retry_after = retry_after


def _fields(data: bytes):
    """(number, value) of a protobuf message: int for varints, bytes for lengths. ValueError when malformed."""
    at = 0

    def varint():
        nonlocal at
        value = shift = 0
        while True:
            if at >= len(data) or shift > 63:
                raise ValueError("malformed")
            byte = data[at]
            at += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    while at < len(data):
        key = varint()
        value: int | bytes = varint()
        if key & 7 == 2:
            if at + value > len(data):
                raise ValueError("malformed")
            value, at = data[at:at + value], at + value
        elif key & 7:
            raise ValueError("malformed")
        yield key >> 3, value


def retry_after(metadata) -> float | None:
    """Seconds of the google.rpc.RetryInfo in an answer's trailers."""
    for key, value in metadata or ():
        if key == "kiln-retry" and value == "never":
            return float("inf")
        if key != "grpc-status-details-bin":
            continue
        try:
            for number, detail in _fields(value):
                if number != 3:
                    continue
                any_ = dict(_fields(detail))
                if any_.get(1) == b"type.googleapis.com/google.rpc.RetryInfo":
                    delay = dict(_fields(dict(_fields(any_.get(2, b""))).get(1, b"")))
                    return delay.get(1, 0) + delay.get(2, 0) / 1e9
        except (ValueError, TypeError, AttributeError):
            return None
    return None


def error_of(e: grpc.RpcError) -> Error:
    """The Error for what grpc raised."""
    return Error(e.code().name, e.details() or "", retry_after(e.trailing_metadata()))


@contextlib.contextmanager
def translated():
    """Turns grpc.RpcError into Error."""
    try:
        yield
    except grpc.RpcError as e:
        raise error_of(e) from None
