"""The one exception type."""
import contextlib

import grpc


class Error(Exception):
    """A failed call.

    code: name of the gRPC status, e.g. "INVALID_ARGUMENT".
    message: what was wrong, what was expected and what was got.
    """

    def __init__(self, code: str, message: str):
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message


@contextlib.contextmanager
def translated():
    """Turns grpc.RpcError into Error."""
    try:
        yield
    except grpc.RpcError as e:
        raise Error(e.code().name, e.details() or "") from None
