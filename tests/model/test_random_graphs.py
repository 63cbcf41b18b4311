"""Random native graphs (random_graphs.py): every stage of the compiler in one process, and as executables of a daemon.

    KILN_RANDOM_GRAPHS=5000 KILN_RANDOM_OPENCL=2000 KILN_RANDOM_CUDA_C=500 KILN_RANDOM_SEED=1 pytest tests/model/test_random_graphs.py
"""
import os
import subprocess

import pytest
import random_graphs

COUNT = int(os.environ.get("KILN_RANDOM_GRAPHS", "300"))
OPENCL = int(os.environ.get("KILN_RANDOM_OPENCL", "20"))
CUDA_C = int(os.environ.get("KILN_RANDOM_CUDA_C", "30"))
SEED = int(os.environ.get("KILN_RANDOM_SEED", "20240"))


def test_every_stage_gives_what_numpy_gives(number):
    jobs = min(os.cpu_count() or 1, 2) if COUNT > 1000 else 1
    graphs, elements, known, _, failures = random_graphs.run_seeds(SEED, SEED + COUNT, jobs)
    number(f"random graphs, every stage and the CPU: {graphs}, {len(failures)} differ")
    assert graphs == COUNT
    assert not failures, f"{len(failures)} of {COUNT} graphs\n" + "\n\n".join(failures[:5])
    assert known > 0.8 * elements  # or the bounds say nothing


def expect_none(failures, count):
    assert not failures, f"{len(failures)} of {count} graphs\n" + "\n\n".join(failures[:5])


def test_code_for_workgroups_gives_what_numpy_gives(number):
    """Local memory and barriers without a device: the linear programs in the interpreter."""
    graphs, _, _, _, failures = random_graphs.run_seeds(SEED, SEED + (COUNT + 1) // 2, 1, ["gpu"])
    number(f"random graphs, code for workgroups: {graphs}, {len(failures)} differ")
    assert graphs == (COUNT + 1) // 2
    expect_none(failures, graphs)


def test_cuda_c_gives_what_numpy_gives(number):
    """What is printed for NVRTC, compiled for this processor: threads one after the other, from barrier to barrier."""
    graphs, _, _, _, failures = random_graphs.run_seeds(SEED, SEED + CUDA_C, 1, ["cuda-c"])
    number(f"random graphs, CUDA C++: {graphs}, {len(failures)} differ")
    assert graphs == CUDA_C
    expect_none(failures, graphs)


def test_opencl_gives_what_numpy_gives(number):
    probe = subprocess.run([str(random_graphs.serving.BIN / "kiln-eval"), "--serve", "--compiled", "opencl"],
                           stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if probe.returncode:
        pytest.skip(probe.stderr.strip())
    graphs, _, _, _, failures = random_graphs.run_seeds(SEED, SEED + OPENCL, 1, ["opencl"])
    number(f"random graphs, OpenCL: {graphs}, {len(failures)} differ")
    assert graphs == OPENCL
    expect_none(failures, graphs)


def test_the_daemon_gives_what_numpy_gives(number):
    """One executable for all sizes of a graph's named dimensions."""
    count = min((COUNT + 2) // 3, 3000)
    graphs, _, _, resized, failures = random_graphs.run_seeds(SEED, SEED + count, 1, ["daemon"])
    number(f"random graphs, a daemon: {graphs}, of them {resized} at two sets of sizes, {len(failures)} differ")
    assert graphs == count and (count < 100 or resized)
    expect_none(failures, graphs)
