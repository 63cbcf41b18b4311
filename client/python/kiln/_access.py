"""Showing who one is: a bearer token with every call, TLS, a client certificate."""
from __future__ import annotations

import dataclasses
import os
from typing import Any

import grpc

from . import _codec
from ._errors import Error


@dataclasses.dataclass(frozen=True)
class Tls:
    """How to speak TLS; paths of PEM files.

    ca: whose signature a server's certificate must have; None: whom this machine believes.
    cert, key: this client's certificate, for servers that know tenants by theirs.
    server_name: the name that the server's certificate must have, when it is not the host's.
    """
    ca: str | None = None
    cert: str | None = None
    key: str | None = None
    server_name: str | None = None


def _from_environment() -> Tls | None:
    ca = os.environ.get("KILN_TLS_CA")
    if not ca:
        return None
    cert, key, name = (os.environ.get(f"KILN_TLS_{x}") or None for x in ("CERT", "KEY", "SERVER_NAME"))
    return Tls(None if ca == "system" else ca, cert, key, name)


def _read(path: str | None) -> bytes | None:
    if path is None:
        return None
    try:
        with open(path, "rb") as f:
            return f.read()
    except OSError as e:
        raise Error("INVALID_ARGUMENT", f"{path}: {e.strerror}") from None


def chosen_token(token: str | None) -> str | None:
    """The token that calls carry."""
    return token or os.environ.get("KILN_TOKEN") or None


def _is_local(target: str) -> bool:
    return target.startswith("unix:") or target.rsplit(":", 1)[0] in ("localhost", "127.0.0.1", "[::1]")


class _Bearer:
    """A channel whose calls carry the token."""

    def __init__(self, channel: Any, token: str):
        self._channel = channel
        self._metadata = (("authorization", f"Bearer {token}"),)

    def _carrying(self, make: Any, args: tuple[Any, ...], options: dict[str, Any]) -> Any:
        call = make(*args, **options)
        return lambda request, metadata=(), **kw: call(request, metadata=(*self._metadata, *(metadata or ())), **kw)

    def unary_unary(self, *args: Any, **options: Any) -> Any:
        return self._carrying(self._channel.unary_unary, args, options)

    def unary_stream(self, *args: Any, **options: Any) -> Any:
        return self._carrying(self._channel.unary_stream, args, options)

    def stream_unary(self, *args: Any, **options: Any) -> Any:
        return self._carrying(self._channel.stream_unary, args, options)

    def stream_stream(self, *args: Any, **options: Any) -> Any:
        return self._carrying(self._channel.stream_stream, args, options)


def open_channel(module: Any, target: str, token: str | None, tls: Tls | str | bool | None) -> tuple[Any, Any]:
    """A channel of grpc or grpc.aio, and what to make stubs of."""
    unix = target.startswith("unix:")
    token = chosen_token(token)
    if tls is None and not unix:
        tls = _from_environment()
    if isinstance(tls, (str, bool)):
        tls = Tls(tls) if isinstance(tls, str) else Tls() if tls else None
    if not tls:
        if token and not _is_local(target):
            raise Error("FAILED_PRECONDITION", f"a token is not sent to {target} in plain text; use tls=")
        channel = module.insecure_channel(target, options=_codec.CHANNEL_OPTIONS)
    elif unix:
        raise Error("INVALID_ARGUMENT", "TLS is for host:port, not for a Unix socket")
    else:
        options = list(_codec.CHANNEL_OPTIONS)
        if tls.server_name:
            options.append(("grpc.ssl_target_name_override", tls.server_name))
        credentials = grpc.ssl_channel_credentials(_read(tls.ca), _read(tls.key), _read(tls.cert))
        channel = module.secure_channel(target, credentials, options=options)
    return channel, _Bearer(channel, token) if token else channel
