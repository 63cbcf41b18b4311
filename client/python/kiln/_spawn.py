"""Finding the server, and starting the user's own daemon when none is named (as bazel and gpg-agent do)."""
from __future__ import annotations

import os
import shutil
import socket
import stat
import subprocess
import time

from ._errors import Error

IDLE_EXIT_SECONDS = 3600
START_TIMEOUT_SECONDS = 10.0


def socket_path() -> str:
    """The user's own socket: $XDG_RUNTIME_DIR/kiln/kiln.sock, else /tmp/kiln-UID/kiln.sock."""
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    folder = os.path.join(runtime, "kiln") if runtime else f"/tmp/kiln-{os.getuid()}"
    return os.path.join(folder, "kiln.sock")


def _listening(path: str) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as s:
        try:
            s.connect(path)
            return True
        except OSError:
            return False


def _private_folder(folder: str) -> None:
    os.makedirs(folder, mode=0o700, exist_ok=True)
    st = os.lstat(folder)
    if not stat.S_ISDIR(st.st_mode) or st.st_uid != os.getuid() or st.st_mode & 0o022:
        raise Error("PERMISSION_DENIED", f"{folder} must be a folder that only this user can write")


def _kilnd() -> str:
    folder = os.environ.get("KILN_BIN")
    found = os.path.join(folder, "kilnd") if folder else shutil.which("kilnd")
    if not found or not os.access(found, os.X_OK):
        raise Error("UNAVAILABLE", "no server named, none is listening, and kilnd is not in PATH (or in $KILN_BIN)")
    return found


def resolve(server: str | None, spawn: bool) -> str:
    """The gRPC target to connect to. A named server is never spawned."""
    server = server or os.environ.get("KILN_SERVER")
    if server:
        return server
    path = socket_path()
    if _listening(path):
        return "unix:" + path
    if not spawn:
        raise Error("UNAVAILABLE", f"no server named, none is listening on {path}, and starting one was forbidden")
    _private_folder(os.path.dirname(path))
    subprocess.Popen(
        [_kilnd(), "--listen", "unix:" + path, "--idle-exit", str(IDLE_EXIT_SECONDS)],
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
        stderr=open(os.path.join(os.path.dirname(path), "kilnd.log"), "ab"), start_new_session=True)
    deadline = time.monotonic() + START_TIMEOUT_SECONDS
    while not _listening(path):
        if time.monotonic() > deadline:
            raise Error("UNAVAILABLE", f"kilnd did not listen on {path} within {START_TIMEOUT_SECONDS:.0f} s; see kilnd.log beside it")
        time.sleep(0.01)
    return "unix:" + path
