"""Tenants for the tests: their configuration, and a stub that speaks as one of them."""
import hashlib
import os
import pathlib
import re
import secrets
import socket
import subprocess

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


# -- certificates -----------------------------------------------------------------------------------

def openssl(*args, cwd):
    r = subprocess.run(["openssl", *args], cwd=cwd, capture_output=True, text=True)
    assert r.returncode == 0, r.stderr


def authority(folder, name):
    """A certificate authority NAME.pem, NAME.key."""
    openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2", "-keyout", f"{name}.key",
            "-out", f"{name}.pem", "-subj", f"/CN={name}", cwd=folder)


def certificate(folder, ca, name, cn, alternatives=""):
    """NAME.pem and NAME.key, signed by ca."""
    folder = pathlib.Path(folder)
    openssl("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", f"{name}.key", "-out", f"{name}.csr",
            "-subj", f"/CN={cn}", cwd=folder)
    (folder / f"{name}.ext").write_text(f"subjectAltName={alternatives}\n" if alternatives else "basicConstraints=CA:FALSE\n")
    openssl("x509", "-req", "-in", f"{name}.csr", "-CA", f"{ca}.pem", "-CAkey", f"{ca}.key", "-days", "2", "-out", f"{name}.pem",
            "-extfile", f"{name}.ext", cwd=folder)


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def secure_channel(port, folder, ca="ca", cert=None, name="localhost", own=False):
    """own: a connection that no other channel shares."""
    folder = pathlib.Path(folder)
    pair = [(folder / f"{cert}.{x}").read_bytes() for x in ("key", "pem")] if cert else [None, None]
    credentials = grpc.ssl_channel_credentials((folder / f"{ca}.pem").read_bytes(), *pair)
    return grpc.secure_channel(f"{name}:{port}", credentials, options=[
        ("grpc.max_receive_message_length", -1), ("grpc.use_local_subchannel_pool", int(own))])
