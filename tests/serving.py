"""Starting a kilnd of one's own for a test or a benchmark."""
from __future__ import annotations

import os
import pathlib
import signal
import subprocess
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
BIN = pathlib.Path(os.environ.get("KILN_BIN", ROOT / "build" / "release" / "bin"))


class Server:
    """A kilnd on a Unix socket in a folder of its own. Use as a context manager; restart() keeps the folder and so the cache."""

    def __init__(self, *args: str, folder: str | None = None, env: dict[str, str] | None = None,
                 config: str = "[tuning]\nbackground = off\n"):
        self._temp = None if folder else tempfile.TemporaryDirectory(prefix="kiln-test-")
        self.folder = pathlib.Path(folder or self._temp.name)
        self.socket = self.folder / "kiln.sock"
        self.target = f"unix:{self.socket}"
        self.args = list(args)
        self.env = {**os.environ, **(env or {})}
        self.config = config
        self.process: subprocess.Popen | None = None
        self.start()

    def start(self) -> None:
        log = open(self.folder / "kilnd.log", "ab")
        config = self.folder / "kiln.conf"
        config.write_text(self.config)  # by default what is measured is not to change, nor the machine to be busy
        self.process = subprocess.Popen(
            [str(BIN / "kilnd"), "--config", str(config), "--listen", self.target, "--cache", str(self.folder / "cache.db"), *self.args],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self.env)
        import kiln._spawn
        deadline = time.monotonic() + 30
        while not kiln._spawn._listening(str(self.socket)):
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError("kilnd did not start:\n" + self.log())
            time.sleep(0.005)

    def log(self) -> str:
        return (self.folder / "kilnd.log").read_text(errors="replace")

    def stop(self, how: int = signal.SIGTERM) -> int:
        """Sends the signal and returns the exit status."""
        if self.process is None:
            return 0
        self.process.send_signal(how)
        status = self.process.wait(timeout=30)
        self.process = None
        return status

    def restart(self) -> None:
        self.stop()
        self.start()

    def __enter__(self) -> "Server":
        return self

    def __exit__(self, *exc) -> None:
        if self.process is not None:
            self.stop()
        if self._temp:
            self._temp.cleanup()
