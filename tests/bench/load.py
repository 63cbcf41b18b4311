#!/usr/bin/env python3
"""What kilnd serves and how evenly it shares: starts a daemon and drives it with bench_load and bench_upload.

  load.py [--bin build/release/bin] [--tools build/release/tests] [--seconds 2] [--pin] [--strict] [--soak SECONDS] [SCENARIO...]

Scenarios: noop run one fair flood idle idle_tls upload cancel soak; all but soak by default. --pin puts the daemon on processor 0 and the load on 1, so that
"per core" means that; without it the system places them. --strict gives every tenant a device worker of its own. Prints one line per number, with the
goal beside it, and how much processor time kilnd spent per call, which a busy machine changes less than the rate. On a machine that others use, start it with `chrt -r 10`."""
import argparse
import json
import os
import pathlib
import resource
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(ROOT / "tests/daemon"))
os.environ.setdefault("KILN_BIN", str(ROOT / "build/release/bin"))


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def models(folder):
    """A run of one small kernel, and runs that take the device some time: name -> (file, n)."""
    from conftest import Graph
    out = {}
    g = Graph()
    x = g.param("x", [16])
    g.output("y", g.node("ADD", g.node("MUL", x, g.const(2.0)), g.const(1.0)))
    out["small"] = (g, 16)
    for name, n in (("light", 96), ("medium", 160), ("heavy", 320)):  # outer product, then its square, summed: the answer is small
        g = Graph()
        x = g.param("x", [n])
        a = g.node("MATMUL", g.node("RESHAPE", x, ints=[n, 1]), g.node("RESHAPE", x, ints=[1, n]))
        a = g.node("EXP2", a)
        g.output("y", g.node("REDUCE_SUM", g.node("MATMUL", a, a), ints=[1], i=1))
        out[name] = (g, n)
    files = {}
    for name, (g, n) in out.items():
        path = folder / f"{name}.kgraph"
        path.write_bytes(g.bytes())
        files[name] = (path, n)
    return files


class Server:
    def __init__(self, args, folder, tenants=()):
        from tenants import boss, section
        self.args, self.folder, self.failed = args, folder, False
        self.unix, self.tcp = f"unix:{folder}/kiln.sock", f"127.0.0.1:{free_port()}"
        conf = folder / "kiln.conf"
        isolation = "strict" if args.strict else "shared"
        lines = ["[server]", "max_connections = 20000", f"isolation = {isolation}", "[tuning]", "background = false"]
        if tenants:
            lines += boss()
        for t in tenants:
            lines += section(t, "run")
        conf.write_text("\n".join(lines) + "\n")
        command = [str(args.bin / "kilnd"), "--config", str(conf), "--no-cache", "--listen", self.unix, "--listen", self.tcp]
        self.process = subprocess.Popen(self.pin(0, command), stderr=open(folder / "log", "ab"))
        end = time.time() + 20
        while time.time() < end:
            if self.process.poll() is not None:
                sys.exit((folder / "log").read_text())
            if "device up" in (folder / "log").read_text():
                self.go_first()
                return
            time.sleep(0.05)
        sys.exit("kilnd does not start")

    def pin(self, core, command):
        return ["taskset", "-c", str(core), *command] if self.args.pin else command

    def go_first(self):
        """On one processor kilnd has to get in between the kernels that its worker runs, as the scheduler of a machine that is not busy lets it."""
        if os.sched_getscheduler(0) != os.SCHED_RR:
            return
        priority = os.sched_getparam(0).sched_priority + 1
        for task in os.listdir(f"/proc/{self.process.pid}/task"):
            os.sched_setscheduler(int(task), os.SCHED_RR, os.sched_param(priority))

    def cpu_us(self):
        f = pathlib.Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(f[11]) + int(f[12])) * 1e6 / os.sysconf("SC_CLK_TCK")

    def rss(self):
        f = pathlib.Path(f"/proc/{self.process.pid}/statm").read_text().split()
        return int(f[1]) * os.sysconf("SC_PAGE_SIZE")

    def load(self, address, *groups, seconds=None):
        command = [str(self.args.tools / "bench_load"), address, str(seconds or self.args.seconds), *groups]
        before = self.cpu_us()
        out = subprocess.run(self.pin(1, command), capture_output=True, text=True)
        if out.returncode:
            sys.exit(out.stderr)
        results = [json.loads(line) for line in out.stdout.splitlines()]
        per_call = (self.cpu_us() - before) / max(1, sum(r["all"] for r in results))
        for r in results:
            r["cpu_us"] = per_call
            if r["failed"]:
                print(f"  {r['name']}: {r['failed']} failed: {r['error']}")
        return results

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        if self.process.wait(30):
            sys.exit((self.folder / "log").read_text()[-3000:])


def show(what, value, unit, goal, more=""):
    print(f"{what:46} {value:>12,.2f} {unit:6} goal {goal:>10}  {more}", flush=True)


def noop(s):
    r = s.load(s.tcp, "connections=8,streams=32")[0]
    show("no-op, TCP, 8 connections x 32", r["per_second"], "/s", "200,000", f"{r['cpu_us']:.2f} us of kilnd each")
    r = s.load(s.unix, "connections=8,streams=1")[0]
    show("no-op, Unix socket, 8 x 1", r["per_second"], "/s", "80,000", f"{r['cpu_us']:.2f} us of kilnd each")


def run_group(s, name="run", model="small", token=None, **more):
    path, n = s.models[model]
    fields = {"name": name, "method": "run", "model": path, "n": n, **({"token": f"{token}-token"} if token else {}), **more}
    return ",".join(f"{k}={v}" for k, v in fields.items())


def run(s):
    r = s.load(s.unix, run_group(s, connections=8, streams=32))[0]
    show("small cached runs, 8 x 32", r["per_second"], "/s", "100,000", f"{r['cpu_us']:.2f} us of kilnd each")


def one(s):
    r = s.load(s.unix, run_group(s))[0]
    show("cached run, one client, p50", r["p50_us"], "us", "100")
    show("cached run, one client, p99", r["p99_us"], "us", "300")


def jain(shares):
    return sum(shares) ** 2 / (len(shares) * sum(x * x for x in shares))


TENANTS = "abcdefgh"


def fair(s):
    """Eight tenants of equal weight: from 8 calls at once to 128, of runs that take from little to much of the device."""
    kinds = ["light", "medium", "heavy"]
    groups = [run_group(s, t, kinds[i % 3], t, connections=1 + i // 3, streams=8 << i % 5) for i, t in enumerate(TENANTS)]
    results = s.load(s.unix, *groups, seconds=max(4, s.args.seconds))
    shares = [r["device_s"] for r in results]
    show("Jain's index, 8 tenants, device time", jain(shares), "", "0.98", " ".join(f"{x:.2f}" for x in shares) + " s")


def flood(s, turns=5):
    """A victim with one call at a time, beside a tenant that has one too, and beside the same with 200; in turns, the medians."""
    victim, p99, p50 = run_group(s, "victim", "medium", "a"), {}, {}
    for _ in range(turns):
        for how, many in (("alone", None), ("polite", {}), ("flood", {"connections": 4, "streams": 50})):
            others = [] if many is None else [run_group(s, "other", "medium", "b", **many)]
            r = s.load(s.unix, victim, *others)[0]
            p99.setdefault(how, []).append(r["p99_us"])
            p50.setdefault(how, []).append(r["p50_us"])
    p99, p50 = ({how: statistics.median(v) for how, v in p.items()} for p in (p99, p50))
    show("p99 beside a flood / beside one call at a time", p99["flood"] / p99["polite"], "x", "1.20",
         f"p99 {p99['flood']:.0f} against {p99['polite']:.0f} us (alone {p99['alone']:.0f}); p50 {p50['flood']:.0f} against {p50['polite']:.0f}")


def tls_connection(port, trust):
    """One that has made a call, the health check, and had its answer."""
    path = b"/grpc.health.v1.Health/Check"
    headers = b"\x83\x86\x41\x01x\x44" + bytes([len(path)]) + path + b"\x5f\x10application/grpc\x40\x02te\x08trailers"

    def frame(kind, flags, stream, payload):
        return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload

    c = trust.wrap_socket(socket.create_connection(("127.0.0.1", port)), server_hostname="localhost")
    c.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(4, 0, 0, b"") + frame(1, 4, 1, headers) + frame(0, 1, 1, bytes(5)))
    got = b""
    while frame(1, 5, 1, b"")[3:] not in got:  # trailers
        more = c.recv(4096)
        if not more:
            sys.exit(f"idle_tls: the connection was closed after {got}")
        got += more
    return c


def idle_tls(s, n=2000):
    """The same over TLS; the client's handshakes are Python's, so fewer of them."""
    import ssl
    from conftest import Daemon
    from tenants import authority, certificate
    folder = s.folder / "tls"
    folder.mkdir()
    authority(folder, "ca")
    certificate(folder, "ca", "server", "server", "DNS:localhost,IP:127.0.0.1")
    port = free_port()
    d = Daemon(folder, args=["--listen", f"127.0.0.1:{port}"],
               config=["[server]", "max_connections = 20000", "connections_per_address = 20000", "[tls]",
                       f"certificate = {folder}/server.pem", f"key = {folder}/server.key"])
    trust = ssl.create_default_context(cafile=str(folder / "ca.pem"))
    trust.set_alpn_protocols(["h2"])
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    open_ones = [tls_connection(port, trust) for _ in range(50)]
    before = d.info().resident_bytes
    open_ones += [tls_connection(port, trust) for _ in range(n)]
    time.sleep(13)  # after 2 s a connection rests, after 10 without a call what is free goes back to the system
    used = d.info().resident_bytes - before
    show(f"the same over TLS ({n:,})", used / n / 1024, "KiB", "20")
    for c in open_ones:
        c.close()
    d.stop()


def idle(s, n=10000):
    s.load(s.unix, "connections=4,streams=4", seconds=0.2)
    command = [str(s.args.tools / "bench_load"), s.unix, "8", f"connections={n},streams=1,idle=1"]
    before = s.rss()
    p = subprocess.Popen(s.pin(1, command), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    time.sleep(6)
    used = s.rss() - before
    _, err = p.communicate()
    if p.returncode:
        print(f"  idle: {err.strip()} (is `ulimit -n` large enough?)")
        return
    show(f"memory of kilnd per idle connection ({n:,})", used / n / 1024, "KiB", "20")


class Caller:
    """One tenant on a connection of its own."""

    def __init__(self, s, name):
        import grpc
        from tenants import As
        channel = grpc.insecure_channel(s.unix, options=[("grpc.use_local_subchannel_pool", 1), ("grpc.max_send_message_length", -1)])
        self.me = As(type("Host", (), {"process": s.process, "channel": channel})(), name)
        self.stub, self.compile, self.upload, self.metadata = self.me.stub, self.me.compile, self.me.upload, self.me.metadata

    def request(self, graph, n):
        """A run whose input and output stay on the server."""
        import numpy as np
        from conftest import kiln_pb2
        exe = self.compile(graph.bytes()).executable
        x = kiln_pb2.NamedTensor(name="x", buffer=self.upload(np.ones((n, n), np.float32)))
        return kiln_pb2.RunRequest(executable=exe, inputs=[x], outputs_as_buffers=True)


def products(n, times):
    from conftest import Graph
    g = Graph()
    y = x = g.param("x", [n, n])
    for _ in range(times):
        y = g.node("MATMUL", y, x)
    g.output("y", y)
    return g


def cancel(s, times=25):
    """From the moment a client gives up until the next one has its answer, at random moments of the work; and what the work would have taken."""
    import random
    from conftest import kiln_pb2, slow_graph
    a, b = Caller(s, "a"), Caller(s, "b")
    small = b.request(products(16, 1), 16)

    def after(begin, whole, then):
        """Milliseconds from the cancellation to the end of `then`."""
        taken = []
        for _ in range(times):
            call = begin()
            time.sleep(random.uniform(0.02, 0.8) * whole)
            at = time.perf_counter()
            call.cancel()
            then()
            taken.append(1000 * (time.perf_counter() - at))
        return sorted(taken)

    def report(what, taken, whole):
        show(f"cancelled {what}, slowest of {times}", taken[-1], "ms", "50", f"median {taken[len(taken) // 2]:.1f} ms, of a run of {1000 * whole:.0f} ms")

    def timed(request):
        taken = []
        for _ in range(3):
            at = time.perf_counter()
            a.stub.Run(request, timeout=120)
            taken.append(time.perf_counter() - at)
        return min(taken)

    many, one = a.request(products(256, 1500), 256), a.request(products(3072, 1), 3072)
    run_small = lambda: b.stub.Run(small, timeout=60)
    for what, request in (("in a plan of 1,500 kernels", many), ("in one long kernel", one)):
        whole = timed(request)
        report(what, after(lambda: a.stub.Run.future(request, timeout=60), whole, run_small), whole)

    whole = timed(one)  # the one that waits is cancelled and the one that runs too: neither goes on
    behind = []

    def two():
        behind[:] = [a.stub.Run.future(one, timeout=60)]
        return a.stub.Run.future(one, timeout=60)

    def both():
        behind[0].cancel()
        run_small()
    report("in the queue, and what is before it", after(two, whole, both), whole)

    part = [0]

    def compiling():
        part[0] += 1
        header = kiln_pb2.CompileRequest(header=kiln_pb2.CompileHeader(format=2, name="c", size=0))
        model = slow_graph(60, 60 * part[0])
        header.header.size = len(model)
        return a.stub.Compile.future(iter([header, kiln_pb2.CompileRequest(chunk=model)]), timeout=60)

    def compile_small():
        part[0] += 1
        b.compile(products(16 + part[0], 1).bytes())
    at = time.perf_counter()
    compiling().result()
    whole = time.perf_counter() - at
    report("in a compile, until another's is done", after(compiling, whole, compile_small), whole)


def upload(s):
    out = subprocess.run(s.pin(1, [str(s.args.tools / "bench_upload"), s.unix, "64", "30"]), capture_output=True, text=True, check=True)
    goals = {"streamed": "3", "memory, built in place": "6"}
    for line in out.stdout.splitlines():
        r = json.loads(line)
        show(f"64 MiB upload, {r['way']}", r["gb_per_s"], "GB/s", goals.get(r["way"], "-"), f"{r['us']:.0f} us")


def soak(s):
    """Mixed traffic whose clients keep disconnecting; a daemon of its own, with a cache and TLS."""
    from soak import soak as run_soak
    folder = s.folder / "own"
    folder.mkdir()
    tools = s.args.tools
    flat = run_soak(str(tools / "bench_load"), str(tools / "bench_upload"),
                    lambda name, model, token, connections, streams: run_group(s, name, model, token, connections=connections, streams=streams),
                    s.args.soak / 60, folder)
    print("no process grows" if flat else "SOMETHING GROWS, OR WAS WRONG", flush=True)
    s.failed = not flat


SCENARIOS = {"noop": noop, "run": run, "one": one, "fair": fair, "flood": flood, "idle": idle, "idle_tls": idle_tls, "upload": upload, "cancel": cancel, "soak": soak}


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--bin", type=pathlib.Path, default=ROOT / "build/release/bin")
    p.add_argument("--tools", type=pathlib.Path, default=ROOT / "build/release/tests")
    p.add_argument("--seconds", type=float, default=2)
    p.add_argument("--soak", type=float, default=1800)
    p.add_argument("--pin", action="store_true")
    p.add_argument("--strict", action="store_true")
    p.add_argument("scenario", nargs="*", help=", ".join(SCENARIOS))
    args = p.parse_args()
    with tempfile.TemporaryDirectory(prefix="kiln-load-") as folder:
        folder = pathlib.Path(folder)
        files = models(folder)
        failed = False
        for name in args.scenario or [n for n in SCENARIOS if n != "soak"]:
            sub = folder / name
            sub.mkdir()
            s = Server(args, sub, TENANTS if name in ("fair", "flood", "cancel") else ())
            s.models = files
            SCENARIOS[name](s)
            s.stop()
            failed |= s.failed
    sys.exit(failed)


if __name__ == "__main__":
    main()
