"""`device = auto`: what a server finds by itself. There is no GPU here: a library in the driver's place answers, as devices/cuda_api.h asks."""
import os
import re
import subprocess
import time

import numpy as np
import pytest
from conftest import BIN, ROOT, SANITIZED, add_graph, array, fails, kiln_pb2, tensor
import grpc

C = grpc.StatusCode

DRIVER = r"""
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
static const int major[] = {9, 5, 8};
int cuInit(unsigned flags) {
  const char *how = getenv("DRIVER");
  (void)flags;
  if (how && !strcmp(how, "hangs")) for (;;) pause();
  if (how && !strcmp(how, "crashes")) abort();
  return how && !strcmp(how, "fails") ? 100 : 0;
}
int cuDeviceGetCount(int *n) { return *n = 3, 0; }
int cuDeviceGet(int *d, int ordinal) { return *d = ordinal, 0; }
int cuDeviceGetAttribute(int *v, int which, int d) { return *v = which == 75 ? major[d] : 0, 0; }
int cuGetErrorName(int e, const char **text) { return *text = e == 100 ? "NO_DEVICE" : "BROKEN", 0; }
int cuGetErrorString(int e, const char **text) { return (void)e, *text = "it is not real", 0; }
"""


@pytest.fixture(scope="module")
def driver(tmp_path_factory):
    """An environment in which a CUDA driver shows three devices and opens none."""
    folder = tmp_path_factory.mktemp("driver")
    symbols = re.findall(r'X\(\w+, "(\w+)"', (ROOT / "devices/cuda_api.h").read_text())
    assert "cuInit" in symbols and len(symbols) > 30
    rest = [s for s in symbols if f" {s}(" not in DRIVER]
    (folder / "driver.c").write_text(DRIVER + "".join(f"int {s}(void) {{ return 999; }}\n" for s in rest))
    subprocess.run(["cc", "-shared", "-fPIC", "-o", folder / "libcuda.so.1", folder / "driver.c"], check=True)
    # no OpenCL drivers: which of them a machine has is not what is tested here
    return {"LD_LIBRARY_PATH": f"{folder}:{os.environ.get('LD_LIBRARY_PATH', '')}", "OCL_ICD_VENDORS": str(folder)}


def found(env):
    r = subprocess.run([str(BIN / "kiln-worker"), "devices"], env={**os.environ, **env}, capture_output=True, text=True, timeout=60)
    return [line for line in r.stdout.splitlines() if not line.startswith("#")], r.stdout


def serves(d, x=np.arange(4, dtype=np.float32)):
    exe = d.compile(add_graph(4)).executable
    r = d.stub.Run(kiln_pb2.RunRequest(executable=exe, inputs=[kiln_pb2.NamedTensor(name=n, tensor=tensor(x)) for n in "xb"]), timeout=60)
    return bool((array(r.outputs[0].tensor) == 2 * x).all())


def test_the_worker_lists_what_it_finds(driver):
    names, text = found(driver)
    assert names == ["cpu:0", "cuda:0", "cuda:2"] and "# cuda:1: its compute capability is less than 7.5" in text
    names, text = found({**driver, "DRIVER": "fails"})
    assert names == ["cpu:0"] and "NO_DEVICE" in text
    names, _ = found({**driver, "DRIVER": "crashes"})
    assert names == ["cpu:0"]


def test_without_a_driver_the_processor_is_all(start):
    d = start(env={"OCL_ICD_VENDORS": "/nonexistent"})
    assert [(x.name, x.available) for x in d.devices()] == [("cpu:0", True)]


@pytest.mark.skipif(SANITIZED, reason="a second runtime in the driver's place")
def test_a_server_takes_what_is_found(start, driver):
    d = start(env=driver)
    devices = {x.name: x for x in d.devices()}
    assert list(devices) == ["cpu:0", "cuda:0", "cuda:2"] and devices["cpu:0"].available
    assert serves(d)
    end = time.time() + 20
    while not (reason := {x.name: x.last_failure for x in d.devices()}["cuda:0"]):
        assert time.time() < end, d.log()
        time.sleep(0.05)
    assert "it is not real" in reason  # as it would be listed if it stood in the configuration
    with fails(C.UNAVAILABLE, "cuda:0"):
        d.compile(add_graph(8), device="cuda:0")
    with fails(C.NOT_FOUND, "cuda:1", "cpu:0, cuda:0, cuda:2"):
        d.compile(add_graph(8), device="cuda:1")


@pytest.mark.parametrize("how", ["crashes", "fails", "hangs"])
def test_a_broken_driver_costs_its_devices_alone(start, driver, how):
    d = start(env={**driver, "DRIVER": how})
    assert [x.name for x in d.devices()] == ["cpu:0"] and serves(d)
    assert ("takes too long" in d.log()) == (how == "hangs")


def test_auto_beside_names(start, driver):
    d = start(config=["[workers]", "device = null:0", "device = auto", "device = cpu:0"], env={**driver, "DRIVER": "fails"})
    assert [x.name for x in d.devices()] == ["null:0", "cpu:0"]


def test_what_is_no_name_is_left_out(start, tmp_path):
    worker = tmp_path / "worker"
    worker.write_text(f"""#!/bin/sh
[ "$1" = devices ] || exec {BIN}/kiln-worker "$@"
printf 'cpu:0\\nnull:0\\nnull:0\\n; rm -rf /\\n:\\ncuda\\ncuda:1234\\n%01000d\\nhalf a line'
""")
    worker.chmod(0o755)
    d = start(config=["[workers]", f"program = {worker}"])
    assert [x.name for x in d.devices()] == ["cpu:0", "null:0"] and serves(d)


FAKES = BIN.parent / "tests/fakes"


@pytest.mark.skipif(SANITIZED, reason="a second runtime in the driver's place")
@pytest.mark.skipif(not (FAKES / "libcuda.so.1").exists(), reason="tests/fakes is not built")
def test_a_context_that_failed_costs_one_run(start, tmp_path):
    """The driver is tests/fakes/fake_cuda.c: its kernels compute nothing, but one may fault."""
    fault = tmp_path / "fault"
    d = start(config=["[workers]", "device = cuda:0"], env={"LD_LIBRARY_PATH": f"{FAKES}:{os.environ.get('LD_LIBRARY_PATH', '')}",
                                                            "FAKE_CUDA_FAULT": str(fault)})
    exe = d.compile(add_graph(4)).executable
    x = np.arange(4, dtype=np.float32)
    request = kiln_pb2.RunRequest(executable=exe, inputs=[kiln_pb2.NamedTensor(name=n, tensor=tensor(x)) for n in "xb"])
    for restarts in (1, 2):
        d.stub.Run(request, timeout=60)
        fault.touch()
        with fails(C.UNAVAILABLE, "FAKE_ERROR, 700"):
            d.stub.Run(request, timeout=60)
        assert not fault.exists()
        d.stub.Run(request, timeout=60)  # waits for the next worker, which loads the executable again
        device, = d.devices()
        assert device.available and device.restarts == restarts and "device_lost" in device.last_failure
