"""A real redis-server for a test, and fakes that speak just enough of its protocol to be a hostile one."""
import pathlib
import shutil
import socket
import socketserver
import subprocess
import threading
import time


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def command(*args):
    parts = [a if isinstance(a, bytes) else str(a).encode() for a in args]
    return b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%s\r\n" % (len(p), p) for p in parts)


def read_reply(f):
    line = f.readline()
    if not line:
        raise EOFError
    kind, rest = line[:1], line[1:-2]
    if kind == b"$":
        n = int(rest)
        return None if n < 0 else f.read(n + 2)[:-2]
    if kind == b"*":
        return [read_reply(f) for _ in range(int(rest))]
    return int(rest) if kind == b":" else rest


class Redis:
    """A redis-server that keeps nothing on disk."""

    def __init__(self, folder, *options, port=None):
        program = shutil.which("redis-server")
        assert program, "redis-server is installed by tests/run.sh"
        self.port = port or free_port()
        self.options = options
        self.folder = pathlib.Path(folder)
        self.folder.mkdir(exist_ok=True)
        self.program = program
        self.start()

    def start(self):
        self.process = subprocess.Popen(
            [self.program, "--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", *self.options],
            cwd=self.folder, stdout=subprocess.DEVNULL)
        end = time.time() + 10
        while True:
            try:
                assert self.ask("PING") in (b"PONG", b"NOAUTH Authentication required.")
                return
            except OSError:
                assert time.time() < end
                time.sleep(0.02)

    def ask(self, *args):
        with socket.create_connection(("127.0.0.1", self.port), timeout=5) as s:
            s.sendall(command(*args))
            return read_reply(s.makefile("rb"))

    def keys(self, what="s"):
        return sorted(self.ask("KEYS", f"kiln:1:{what}:*"))

    def stop(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()

    @property
    def url(self):
        return f"redis://127.0.0.1:{self.port}"


class Fake:
    """answer(command) -> bytes to send, b"" for silence, None to close. Commands are lists of bytes."""

    def __init__(self, answer):
        fake = self
        self.seen = []

        class Handler(socketserver.StreamRequestHandler):
            def handle(self):
                try:
                    while True:
                        got = read_reply(self.rfile)
                        fake.seen.append(got)
                        out = answer(got)
                        if out is None:
                            return
                        for part in [out] if isinstance(out, bytes) else out:
                            self.wfile.write(part)
                            self.wfile.flush()
                except (OSError, ValueError, EOFError):
                    pass

        class Server(socketserver.ThreadingTCPServer):
            daemon_threads = True
            allow_reuse_address = True

        self.server = Server(("127.0.0.1", 0), Handler)
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def url(self):
        return f"redis://127.0.0.1:{self.port}"

    def stop(self):
        self.server.shutdown()
        self.server.server_close()


def bulk(b):
    return b"$-1\r\n" if b is None else b"$%d\r\n%s\r\n" % (len(b), b)
