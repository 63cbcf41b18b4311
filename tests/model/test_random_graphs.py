"""Random native graphs (random_graphs.py): every stage of the compiler in one process, and some of them through the daemon.

    KILN_RANDOM_GRAPHS=5000 KILN_RANDOM_SEED=1 pytest tests/model/test_random_graphs.py
"""
import os

import kiln
import random_graphs

COUNT = int(os.environ.get("KILN_RANDOM_GRAPHS", "300"))
SEED = int(os.environ.get("KILN_RANDOM_SEED", "20240"))


def test_every_stage_gives_what_numpy_gives():
    jobs = min(os.cpu_count() or 1, 2) if COUNT > 1000 else 1
    graphs, elements, known, _, failures = random_graphs.run_seeds(SEED, SEED + COUNT, jobs)
    assert graphs == COUNT
    assert not failures, f"{len(failures)} of {COUNT} graphs\n" + "\n\n".join(failures[:5])
    assert known > 0.8 * elements  # or the bounds say nothing


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
