#!/usr/bin/env python3
"""Faults of a device under load: what goes wrong is one client's, the others get right answers before and after.

    faults.py [--device cuda:0]

Three clients run a model with weights all the time and check every answer. Meanwhile the device's worker is killed, a run takes longer than
it may, a kernel writes to an address that is none (through a library in the driver's place; needs a C compiler), and one wants more memory
than there is. Each time health has to say NOT_SERVING while the device is away, if it was, and SERVING
again with the weights in place (needs the grpcio-health-checking package). A client may see UNAVAILABLE; a wrong answer, or one that does not come back, is a failure.
"""
import argparse
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time

import grpc
import numpy as np

sys.path[:0] = [os.path.join(os.path.dirname(os.path.abspath(__file__)), "..")]
import kiln
import serving
from grpc_health.v1 import health_pb2, health_pb2_grpc

SERVING, NOT_SERVING = 1, 2
RUN_SECONDS = 3

# The driver itself, but for one launch after FAULT is made: its first argument points nowhere.
DRIVER = r"""
#include <dlfcn.h>
#include <stdint.h>
#include <stdlib.h>
#include <unistd.h>
static void *of(const char *name) { return dlsym(dlopen(getenv("REAL_DRIVER"), RTLD_NOW), name); }
int cuLaunchKernelEx(const void *config, void *f, void **params, void **extra) {
  static int (*launch)(const void *, void *, void **, void **);
  uint64_t nowhere = 0x40;
  if (!launch) *(void **)&launch = of("cuLaunchKernelEx");
  if (!unlink(getenv("FAULT"))) params[0] = &nowhere;
  return launch(config, f, params, extra);
}
"""


def driver_that_faults(folder):
    """The environment in which a launch can be made to fault; None where that cannot be built."""
    root = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../..")
    libraries = subprocess.run(["ldconfig", "-p"], capture_output=True, text=True).stdout
    real = re.search(r"libcuda\.so\.1 .*x86-64.* => (\S+)", libraries)
    with open(os.path.join(root, "devices/cuda_api.h")) as f:
        symbols = re.findall(r'X\(\w+, "(\w+)"', f.read())
    text = DRIVER + "".join(f'static void *at_{s}(void) {{ return of("{s}"); }}\nint {s}(void) __attribute__((ifunc("at_{s}")));\n'
                            for s in symbols if s != "cuLaunchKernelEx")
    with open(os.path.join(folder, "driver.c"), "w") as f:
        f.write(text)
    build = ["cc", "-shared", "-fPIC", "-o", os.path.join(folder, "libcuda.so.1"), os.path.join(folder, "driver.c")]
    try:
        made = real and subprocess.run(build, capture_output=True, text=True).returncode == 0
    except FileNotFoundError:
        made = False
    if not made:
        return None
    return {"REAL_DRIVER": real.group(1), "FAULT": os.path.join(folder, "fault"),
            "LD_LIBRARY_PATH": f"{folder}:{os.environ.get('LD_LIBRARY_PATH', '')}"}


class Load:
    """Clients that never stop asking."""

    def __init__(self, target, device, n=3):
        self.stop, self.right, self.away, self.wrong = False, 0, 0, []
        self.lock = threading.Lock()
        self.threads = [threading.Thread(target=self.work, args=(target, device, k)) for k in range(n)]
        for t in self.threads:
            t.start()

    def work(self, target, device, k):
        rng = np.random.default_rng(k)
        w, x = rng.standard_normal((64, 96), np.float32), rng.standard_normal((8, 64), np.float32)
        g = kiln.Graph()
        g.output("y", g.softmax(g.param("x", "f32", (8, 64)) @ g.constant(w), axis=1))
        e = np.exp(x @ w - (x @ w).max(1, keepdims=True))
        want = e / e.sum(1, keepdims=True)
        with kiln.connect(target) as client:
            exe = client.compile(g, options=kiln.Options(device=device))
            while not self.stop:
                try:
                    ok = np.allclose(exe.run({"x": x})["y"], want, rtol=1e-3, atol=1e-5)
                except kiln.Error:
                    with self.lock:
                        self.away += 1
                    time.sleep(0.01)
                    continue
                with self.lock:
                    self.right += ok
                if not ok:
                    self.wrong.append(k)

    def end(self):
        self.stop = True
        for t in self.threads:
            t.join(60)


class Health:
    def __init__(self, target, device):
        self.seen = []
        self.channel = grpc.insecure_channel(target)
        threading.Thread(target=self.watch, args=(device,), daemon=True).start()

    def watch(self, device):
        stub = health_pb2_grpc.HealthStub(self.channel)
        try:
            for m in stub.Watch(health_pb2.HealthCheckRequest(service=f"device:{device}")):
                self.seen.append(m.status)
        except grpc.RpcError:
            pass


def until(what, seconds, text):
    end = time.monotonic() + seconds
    while not what():
        if time.monotonic() > end:
            sys.exit(f"FAILED: {text} within {seconds} s")
        time.sleep(0.02)


def answers_again(load, text):
    before = load.right
    until(lambda: load.right >= before + 20, 60, f"the clients get answers after {text}")


def device_worker(server):
    """By the name that the process gives itself."""
    rows = [line.split(None, 2) for line in subprocess.run(["ps", "-eo", "pid,ppid,comm"], capture_output=True, text=True).stdout.splitlines()[1:]]
    family = {server.process.pid}
    for _ in range(3):
        family |= {int(r[0]) for r in rows if int(r[1]) in family}
    return next(int(r[0]) for r in rows if int(r[0]) in family and r[2] == "kiln-device")


def kill_worker(server, client, device, load, health):
    for _ in range(2):
        n = len(health.seen)
        os.kill(device_worker(server), signal.SIGKILL)
        until(lambda: health.seen[n:][:2] == [NOT_SERVING, SERVING], 60, "health says NOT_SERVING and SERVING after a kill")
        answers_again(load, "a kill")


def spin(server, client, device, load, health):
    """Matrices whose products take far longer than a run may."""
    g = kiln.Graph()
    x = g.param("x", "f64", (8192, 8192))
    y = x
    for _ in range(60):
        y = g.contiguous(y @ x)
    g.output("y", y.sum())
    exe = client.compile(g, options=kiln.Options(device=device))
    n = len(health.seen)
    try:
        exe.run({"x": client.upload(np.zeros((8192, 8192)), device=device)})
    except kiln.Error as e:
        print(f"spin: {str(e)[:120]}")
    else:
        sys.exit("FAILED: a run that should take too long came back")
    until(lambda: health.seen[n:][:2] == [NOT_SERVING, SERVING], 60, "health says NOT_SERVING and SERVING after a spin")
    answers_again(load, "a spin")


def illegal_address(server, client, device, load, health):
    """Whoever's launch it hits."""
    n = len(health.seen)
    with open(server.env["FAULT"], "w"):
        pass
    g = kiln.Graph()  # what is run for the first time is launched, not part of a graph
    g.output("y", g.param("x", "f32", (4096,)) + 1.5)
    try:
        client.compile(g, options=kiln.Options(device=device)).run({"x": np.zeros(4096, np.float32)})
    except kiln.Error as e:
        print(f"illegal address: {str(e)[:160]}")
    until(lambda: not os.path.exists(server.env["FAULT"]), 10, "a launch faulted")
    until(lambda: health.seen[n:][:2] == [NOT_SERVING, SERVING], 60, "health says NOT_SERVING and SERVING after an illegal address")
    answers_again(load, "an illegal address")


def out_of_memory(server, client, device, load, health):
    kept = []
    size = 8 << 30
    try:
        g = kiln.Graph()
        g.output("y", g.expand(g.param("x", "u8", (1,)), (size,)) + 1)
        exe = client.compile(g, options=kiln.Options(device=device))
        for _ in range(64):
            kept.append(exe.run({"x": np.zeros(1, np.uint8)}, outputs="buffers")["y"])
    except kiln.Error as e:
        print(f"out of memory: after {len(kept)} buffers of {size} bytes: {str(e)[:120]}")
    else:
        sys.exit("FAILED: more memory than there is")
    for b in kept:
        b.free()
    answers_again(load, "memory ran out")


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--device", default="cuda:0")
    p.add_argument("--only", default="")
    args = p.parse_args()
    config = tempfile.NamedTemporaryFile("w", suffix=".ini")
    config.write(f"[workers]\ndevice = {args.device}\nrun_seconds = {RUN_SECONDS}\n[tuning]\nbackground = off\n")
    config.flush()
    folder = tempfile.TemporaryDirectory()
    env = driver_that_faults(folder.name)
    faults = [f for f in (kill_worker, illegal_address, spin, out_of_memory) if args.only in f.__name__]
    if not env:
        print("skipped: an illegal address, because no C compiler or no driver of x86-64 was found")
        faults = [f for f in faults if f is not illegal_address]
    with serving.Server("--config", config.name, env=env) as server, kiln.connect(server.target) as client:
        health, load = Health(server.target, args.device), Load(server.target, args.device)
        until(lambda: load.right > 20 and health.seen, 60, "the clients get answers")
        for fault in faults:
            start = time.monotonic()
            fault(server, client, args.device, load, health)
            print(f"{fault.__name__}: survived in {time.monotonic() - start:.1f} s", flush=True)
        load.end()
        if load.wrong:
            sys.exit(f"FAILED: {len(load.wrong)} wrong answers")
        print(f"{len(faults)} faults survived; {load.right} right answers, {load.away} while the device was away, 0 wrong")


if __name__ == "__main__":
    main()
