"""Half an hour of mixed traffic with disconnects: does any process of the daemon grow?

Each round puts full load on by bench_load (and kills it in the middle), uploads, speaks as a checked client over TLS and over the Unix socket
(tests/daemon/mixed.py), and leaves connections half way through a frame. Resident memory and open descriptors of kilnd and of each worker are
sampled after it; what counts is the slope over the last three quarters, since caches fill in the beginning: the median of the slopes
between all pairs of samples, since what is resident of shared memory comes and goes. The cache is kept small, so that its pages in memory do not
count as growth. Of descriptors, slabs (memory in which tensors of runs travel) are counted apart: kilnd keeps 64 idle ones at most, and how many
it has depends on how many runs there were at once."""
import os
import pathlib
import random
import socket
import statistics
import subprocess
import time


def processes(pid):
    """pid -> name, of kilnd and all below it."""
    found, todo = {}, [pid]
    while todo:
        p = todo.pop()
        try:
            found[p] = pathlib.Path(f"/proc/{p}/comm").read_text().strip()
            todo += [int(c) for c in pathlib.Path(f"/proc/{p}/task/{p}/children").read_text().split()]
        except OSError:
            continue
    return found


def slope(t, v):
    pairs = [(v[j] - v[i]) / (t[j] - t[i]) for i in range(len(t)) for j in range(i + 1, len(t))]
    return statistics.median(pairs)


SLABS_MAX = 64


class Samples:
    def __init__(self, pid):
        self.pid, self.start, self.rows = pid, time.time(), {}  # (pid, name) -> [(seconds, KiB, of it anonymous, descriptors that are no slabs, slabs)]

    def take(self):
        for pid, name in processes(self.pid).items():
            try:
                status = dict(line.split(":", 1) for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines() if ":" in line)
                kib = [int(status[k].split()[0]) for k in ("VmRSS", "RssAnon")]
                open_ones = [os.readlink(f) for f in pathlib.Path(f"/proc/{pid}/fd").iterdir()]
            except (OSError, KeyError):
                continue  # it has just ended
            slabs = sum("kiln-slab" in f for f in open_ones)
            self.rows.setdefault((pid, name), []).append((time.time() - self.start, *kib, len(open_ones) - slabs, slabs))

    def report(self, minutes):
        """Prints a line per process that was there for most of the time; whether none of them grows."""
        flat = True
        print(f"{'process':26} {'samples':>8} {'MiB first':>10} {'last':>8} {'KiB/min':>9} {'anonymous':>10} {'fds':>9} {'fds/min':>8} {'slabs':>8}")
        for (pid, name), rows in sorted(self.rows.items(), key=lambda i: -len(i[1])):
            rows = [r for r in rows if r[0] > minutes * 15]
            if len(rows) < 8 or rows[-1][0] - rows[0][0] < minutes * 60 * 0.4:
                continue
            t = [r[0] / 60 for r in rows]
            rss, anon, fds, slabs = ([r[i] for r in rows] for i in (1, 2, 3, 4))
            by = [slope(t, v) for v in (rss, anon, fds)]
            grows = by[0] * minutes > max(4096, 0.05 * rss[0]) or by[1] * minutes > max(1024, 0.05 * anon[0]) or by[2] * minutes > 8 \
                or max(slabs) > SLABS_MAX
            flat &= not grows
            print(f"{name + ' ' + str(pid):26} {len(rows):8} {rss[0] / 1024:10.1f} {rss[-1] / 1024:8.1f} {by[0]:9.1f} {by[1]:10.1f} "
                  f"{min(fds):4}-{max(fds):<4} {by[2]:8.2f} {min(slabs):4}-{max(slabs):<3}{'   GROWS' if grows else ''}", flush=True)
        return flat


def leave(address, dice):
    """Connections that end anywhere in the preface, a frame, or a call."""
    hello = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
    call = bytes([0, 0, 60, 1, 4, 0, 0, 0, 1]) + b"\x83\x86\x44\x12/kiln.v1.Kiln/Uploa" + bytes(37)
    for _ in range(20):
        s = socket.socket(socket.AF_UNIX)
        s.connect(address)
        s.sendall((hello + call)[:dice.randrange(1, len(hello + call) + 1)])
        s.close()


def soak(bench_load, bench_upload, group, minutes, folder):
    """group: what bench_load is asked for, from a name and a model's. True: nothing grew and nothing was wrong."""
    from conftest import Daemon, kiln_pb2
    from mixed import Client, verified
    from tenants import As, authority, boss, certificate, free_port, secure_channel, section
    authority(folder, "ca")
    certificate(folder, "ca", "server", "server", "DNS:localhost,IP:127.0.0.1")
    port, dice = free_port(), random.Random(1)
    d = Daemon(folder, args=["--listen", f"127.0.0.1:{port}"],
               config=["[tls]", f"certificate = {folder}/server.pem", f"key = {folder}/server.key", "[cache]", "max_bytes = 2M",
                       "[tuning]", "background = false", "[limits]", "executables = 12", "[workers]", "compile = 2",
                       *boss(), *section("a", "run, tune, cache-write"), *section("b")])
    local = As(d, "a")
    samples, rounds, clients, uploads, calls, wrong = Samples(d.process.pid), 0, [], [], 0, []
    end, unix = time.time() + minutes * 60, f"unix:{d.socket}"
    while time.time() < end:
        rounds += 1
        subprocess.run([bench_load, unix, "1", group("r", "small", "a", 8, 16), group("h", "heavy", "b", 1, 4),
                        "name=n,connections=16,streams=8"], check=True, capture_output=True)
        cut = subprocess.Popen([bench_load, unix, "60", group("cut", "medium", "b", 20, 20)], stdout=subprocess.DEVNULL)
        time.sleep(0.3 + dice.random())
        cut.kill()
        cut.wait()
        subprocess.run([bench_upload, unix, "8", "3"], check=True, capture_output=True)
        leave(str(d.socket), dice)
        over_tls = secure_channel(port, folder)
        for i, who in enumerate((local, As(d, "a", channel=over_tls))):
            c = Client(who, 2 * rounds + i, abandon=time.time() < end - minutes * 30)  # compile workers grow old in the second half
            for _ in range(25):
                c.step()
            if rounds % 4 == 0:
                c.tune()
            if rounds % 2:
                c.leave_nothing()  # else some is left for the limits to find
            clients.append(c)
            uploads.append([*c.kept, *(c.counter or ())[1:2]])
        for ids in uploads[:-6]:
            local.stub.FreeBuffers(kiln_pb2.FreeBuffersRequest(buffers=ids))
        del uploads[:-6], clients[:-2]
        subprocess.run([bench_load, unix, "0.2", "name=n,connections=50,streams=2"], check=True, capture_output=True)
        over_tls.close()
        time.sleep(0.3)
        samples.take()
        if rounds % 10 == 0:
            print(f"  round {rounds}: " + ", ".join(f"{name} {rows[-1][1] >> 10} MiB {rows[-1][3]} fds" for (_, name), rows in samples.rows.items()
                                                   if time.time() - samples.start - rows[-1][0] < 5), flush=True)
        calls += sum(sum(c.count.values()) for c in clients)
        wrong = [w for c in clients for w in c.wrong]
        if wrong:
            print("WRONG:", *wrong[:5], sep="\n  ", flush=True)
            break
    print(f"{rounds} rounds in {minutes:.0f} minutes, {calls} checked steps; the cache holds {verified(local)} whole rows", flush=True)
    flat = samples.report((time.time() - samples.start) / 60)
    return d.stop() == 0 and flat and not wrong
