"""Tenants for the tests: their configuration, and a stub that speaks as one of them."""
import hashlib
import os
import re
import secrets

import grpc
import numpy as np
from conftest import Daemon, kiln_pb2, kiln_pb2_grpc


def token_row(token):
    salt = secrets.token_bytes(16)
    return f"sha256:{salt.hex()}:{hashlib.sha256(salt + token.encode()).hexdigest()}"


def section(name, roles="run", token=None, **keys):
    """Lines of the configuration; the token of a tenant is its name and "-token" unless given."""
    lines = [f"[tenant {name}]", f"roles = {roles}", f"token = {token_row(token or name + '-token')}"]
    return lines + [f"{k} = {v}" for k, v in keys.items()]


def boss():
    """Whoever runs the tests, by the peer of the socket: what starting and stopping a daemon needs."""
    return ["[tenant boss]", "roles = all", f"uid = {os.getuid()}"]


class As(Daemon):
    """A daemon's calls on behalf of one tenant. Not a process: that is the daemon's."""

    def __init__(self, daemon, name=None, token=None, channel=None):
        self.daemon, self.process = daemon, daemon.process
        self.metadata = [("authorization", f"Bearer {token or name + '-token'}")] if name or token else []
        self.channel = grpc.intercept_channel(channel or daemon.channel, self)
        self.stub = kiln_pb2_grpc.KilnStub(self.channel)

    def _with(self, details):
        class Details(grpc.ClientCallDetails):
            method, timeout, credentials = details.method, details.timeout, details.credentials
            metadata = list(details.metadata or []) + self.metadata
            wait_for_ready = details.wait_for_ready
            compression = None
        return Details()

    def intercept_unary_unary(self, go, details, request):
        return go(self._with(details), request)

    intercept_unary_stream = intercept_stream_unary = intercept_stream_stream = intercept_unary_unary

    def log(self):
        return self.daemon.log()

    def buffers(self):
        return self.stub.ListBuffers(kiln_pb2.ListBuffersRequest(), timeout=10).buffers

    def raw(self, path, message=b"", timeout=10):
        """The first answer to one message on any method, whatever its kind; raises as grpc does."""
        call = self.channel.stream_stream(path)(iter([message]), timeout=timeout)
        try:
            return next(iter(call), None)
        finally:
            call.cancel()


for base in (grpc.UnaryUnaryClientInterceptor, grpc.UnaryStreamClientInterceptor, grpc.StreamUnaryClientInterceptor,
             grpc.StreamStreamClientInterceptor):
    base.register(As)


def without_ids(text):
    return re.sub(r"(exe|buf)-[0-9a-f]+", r"\1-ID", text)


def ones(n=16):
    return np.ones(n, np.float32)
