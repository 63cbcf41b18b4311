"""Random native graphs (random_graphs.py): every stage of the compiler in one process, and some of them through the daemon.

    KILN_RANDOM_GRAPHS=5000 KILN_RANDOM_OPENCL=2000 KILN_RANDOM_SEED=1 pytest tests/model/test_random_graphs.py
"""
import os
import subprocess

import kiln
import pytest
import random_graphs

COUNT = int(os.environ.get("KILN_RANDOM_GRAPHS", "300"))
OPENCL = int(os.environ.get("KILN_RANDOM_OPENCL", "20"))
SEED = int(os.environ.get("KILN_RANDOM_SEED", "20240"))


def test_every_stage_gives_what_numpy_gives():
    jobs = min(os.cpu_count() or 1, 2) if COUNT > 1000 else 1
    graphs, elements, known, _, failures = random_graphs.run_seeds(SEED, SEED + COUNT, jobs)
    assert graphs == COUNT
    assert not failures, f"{len(failures)} of {COUNT} graphs\n" + "\n\n".join(failures[:5])
    assert known > 0.8 * elements  # or the bounds say nothing


def expect_none(failures, count):
    assert not failures, f"{len(failures)} of {count} graphs\n" + "\n\n".join(failures[:5])


def test_code_for_workgroups_gives_what_numpy_gives():
    """Local memory and barriers without a device: the linear programs in the interpreter."""
    graphs, _, _, _, failures = random_graphs.run_seeds(SEED, SEED + (COUNT + 1) // 2, 1, ["gpu"])
    assert graphs == (COUNT + 1) // 2
    expect_none(failures, graphs)


def test_opencl_gives_what_numpy_gives():
    probe = subprocess.run([str(random_graphs.serving.BIN / "kiln-eval"), "--serve", "--compiled", "opencl"],
                           stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if probe.returncode:
        pytest.skip(probe.stderr.strip())
    graphs, _, _, _, failures = random_graphs.run_seeds(SEED, SEED + OPENCL, 1, ["opencl"])
    assert graphs == OPENCL
    expect_none(failures, graphs)


def test_the_daemon_gives_what_numpy_gives(client):
    for seed in range(SEED, SEED + min(COUNT, 100)):
        m = random_graphs.Maker(seed)
        outputs = m.grow()
        try:
            exe = client.compile(m.g)
            try:
                got = exe(m.feeds)
            finally:
                exe.release()
        except kiln.Error as e:
            raise AssertionError(f"seed {seed}: {e}\n" + "\n".join(m.log)) from None
        for name, want in outputs.items():
            wrong = random_graphs.differences(got[name], want)
            assert not wrong, f"seed {seed}: output {name} (node {want.node.index}): {wrong}\n" + "\n".join(m.log)
