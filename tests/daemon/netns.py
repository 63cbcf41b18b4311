"""Three kilnd in network namespaces of their own, joined by a bridge in a fourth, where HAProxy and the clients are."""
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import time

from conftest import ROOT, Daemon, ends_well

NODES = ("node-a", "node-b", "node-c")
HUB_ADDRESS, PORT, METRICS = "10.77.0.1", 50051, 9464


def why_not():
    """What is missing for namespaces, or None."""
    for tool in ("ip", "haproxy"):
        if not shutil.which(tool, path=os.environ["PATH"] + ":/usr/sbin:/sbin"):
            return f"there is no {tool}"
    name = f"kiln-try-{os.getpid()}"
    tried = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True)
    if tried.returncode:
        return f"network namespaces are not permitted here: {tried.stderr.strip()}"
    subprocess.run(["ip", "netns", "delete", name], check=True)
    return None


def ip(*words):
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)


class Cluster:
    """node i listens on 10.77.0.(11 + i)."""

    def __init__(self, folder, config=()):
        self.folder = pathlib.Path(folder)
        self.tag = f"kiln{os.getpid()}"
        self.hub = f"{self.tag}-hub"
        self.names = [f"{self.tag}-{n}" for n in NODES]
        self.daemons, self.processes, self.made = [], [], []
        self.config = config
        try:
            self._wire()
            for i in range(len(NODES)):
                self.start(i)
            for d in self.daemons:
                d.wait_ready()
            self._proxy()
        except BaseException:
            self.stop()
            raise

    def _wire(self):
        for name in (self.hub, *self.names):
            ip("netns", "add", name)
            self.made.append(name)
            ip("-n", name, "link", "set", "lo", "up")
        ip("-n", self.hub, "link", "add", "bridge0", "type", "bridge")
        ip("-n", self.hub, "addr", "add", f"{HUB_ADDRESS}/24", "dev", "bridge0")
        ip("-n", self.hub, "link", "set", "bridge0", "up")
        for i, name in enumerate(self.names):
            ip("link", "add", f"port{i}", "netns", self.hub, "type", "veth", "peer", "name", "eth0", "netns", name)
            ip("-n", self.hub, "link", "set", f"port{i}", "master", "bridge0", "up")
            ip("-n", name, "addr", "add", f"{self.address(i)}/24", "dev", "eth0")
            ip("-n", name, "link", "set", "eth0", "up")

    def address(self, i):
        return f"10.77.0.{11 + i}"

    def start(self, i):
        """Starts kilnd i, again when it was killed; its cache is still there."""
        folder = self.folder / NODES[i]
        folder.mkdir(exist_ok=True)
        config = ["[server]", "insecure_tcp = true", f"metrics = {self.address(i)}:{METRICS}", f"node = {NODES[i]}", *self.config]
        d = Daemon(folder, config=config, args=("--listen", f"{self.address(i)}:{PORT}"), wait=False,
                   prefix=("ip", "netns", "exec", self.names[i]))
        if i < len(self.daemons):
            self.daemons[i] = d
        else:
            self.daemons.append(d)
        return d

    def inside(self, *command):
        """The command, in the hub's namespace."""
        return ["ip", "netns", "exec", self.hub, *map(str, command)]

    def _proxy(self):
        """HAProxy with the configuration of deploy/, its addresses apart."""
        text = (ROOT / "deploy/haproxy/haproxy.cfg").read_text()
        for i, name in enumerate(NODES):
            text, n = re.subn(rf"server {name} \S+", f"server {name} {self.address(i)}:{PORT}", text)
            assert n == 1
        text, n = re.subn(r"^global$", f"global\n  stats socket {self.folder}/haproxy.sock mode 600 level admin\n  log stdout format raw daemon", text, flags=re.M)
        assert n == 1
        text = text.replace("  bind :50051 proto h2\n", f"  bind :50051 proto h2\n  bind unix@{self.folder}/proxy.sock proto h2\n", 1)
        text = text.replace("defaults\n", "defaults\n  log global\n  option httplog\n", 1)
        (self.folder / "haproxy.cfg").write_text(text)
        self.log = open(self.folder / "haproxy.log", "ab")
        self.processes.append(subprocess.Popen(self.inside("haproxy", "-db", "-f", self.folder / "haproxy.cfg"), stdout=self.log, stderr=self.log))
        self.wait_states({n: "UP" for n in NODES})

    def states(self):
        """What HAProxy holds of each server: {"node-a": "UP", ...}, and how many calls each has had."""
        with socket.socket(socket.AF_UNIX) as s:
            s.connect(str(self.folder / "haproxy.sock"))
            s.sendall(b"show stat\n")
            text = b""
            while part := s.recv(65536):
                text += part
        head, *rows = [line.split(",") for line in text.decode().splitlines() if line]
        at = {n.lstrip("# "): i for i, n in enumerate(head)}
        return {r[at["svname"]]: (r[at["status"]].split()[0], int(r[at["stot"]])) for r in rows if r[at["svname"]] in NODES}

    def wait_states(self, wanted, timeout=20):
        end = time.time() + timeout
        while True:
            try:
                now = {n: s for n, (s, _) in self.states().items() if n in wanted}
                if now == wanted:
                    return
            except OSError as e:
                now = e
            assert time.time() < end, f"{wanted} expected, {now}: {(self.folder / 'haproxy.log').read_text()[-2000:]}"
            time.sleep(0.05)

    # -- faults ---------------------------------------------------------------------------------------
    def kill(self, i):
        os.kill(self.daemons[i].process.pid, signal.SIGKILL)
        self.daemons[i].process.wait()
        self.daemons[i].channel.close()
        self.daemons[i].log_file.close()

    def link(self, i, up):
        ip("-n", self.hub, "link", "set", f"port{i}", "up" if up else "down")

    def signal(self, i, number):
        os.kill(self.daemons[i].process.pid, number)

    def stop(self):
        for p in self.processes:
            p.kill()
            p.wait()
        try:
            for d in self.daemons:
                ends_well(d)
        finally:
            for name in self.made:
                subprocess.run(["ip", "netns", "delete", name], capture_output=True)
