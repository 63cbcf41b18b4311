"""A daemon behind every kind of listener, for what concerns connections: a Unix socket, TCP, TLS."""
import pathlib

from conftest import Daemon, ends_well
from tenants import authority, certificate, free_port

WAYS = ["unix", "tcp", "tls"]


class Ways:
    """Two daemons: TCP is plain where no certificate is. `config` goes to both."""

    def __init__(self, folder, config=()):
        folder = pathlib.Path(folder)
        authority(folder, "ca")
        certificate(folder, "ca", "server", "server", "DNS:localhost,IP:127.0.0.1")
        tls = ["[tls]", f"certificate = {folder}/server.pem", f"key = {folder}/server.key"]
        ports = [free_port(), free_port()]
        plain, secure = folder / "plain", folder / "secure"
        plain.mkdir()
        secure.mkdir()
        self.folder = folder
        self.plain = Daemon(plain, config=config, args=["--listen", f"127.0.0.1:{ports[0]}"])
        self.secure = Daemon(secure, config=[*config, *tls], args=["--listen", f"127.0.0.1:{ports[1]}"])
        self.address = {"unix": f"unix:{self.plain.socket}", "tcp": f"tcp:{ports[0]}", "tls": f"tls:{ports[1]}:{folder}/ca.pem"}

    def daemon(self, way):
        return self.secure if way == "tls" else self.plain

    def end(self):
        for d in (self.plain, self.secure):
            d.info()
            ends_well(d)


def say(request, line):
    """A line of totals that is seen whether pytest captures or not."""
    with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        print("\n" + line)
