"""A real HAProxy, with the configuration of deploy/, before three kilnd in network namespaces: one is killed, one cut off, one stopped and
slowed, under load. No call that may be repeated fails, and no answer is wrong; the totals are printed (pytest -s)."""
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest
from netns import HUB_ADDRESS, NODES, PORT, Cluster, why_not

pytestmark = pytest.mark.skipif(why_not() is not None, reason=str(why_not()))
HERE = pathlib.Path(__file__).resolve().parent
ADDRESS = f"{HUB_ADDRESS}:{PORT}"


@pytest.fixture
def cluster(tmp_path):
    c = Cluster(tmp_path)
    yield c
    c.stop()


def in_hub(cluster, program, **kw):
    """A Python program beside the proxy."""
    return subprocess.Popen(cluster.inside(sys.executable, *program), env={**os.environ, "KILN_SERVER": ADDRESS}, text=True, **kw)


def test_no_call_fails_when_servers_do(cluster):
    load = in_hub(cluster, [HERE / "balance_load.py", ADDRESS, 30, 6], stdout=subprocess.PIPE)
    try:
        assert load.stdout.readline() == "go\n"
        everybody = {n: "UP" for n in NODES}
        time.sleep(1)
        cluster.kill(0)
        cluster.wait_states({NODES[0]: "DOWN"})
        time.sleep(1)
        cluster.start(0)
        cluster.wait_states(everybody)
        cluster.link(1, up=False)
        cluster.wait_states({NODES[1]: "DOWN"})
        time.sleep(1)
        cluster.link(1, up=True)
        cluster.wait_states(everybody)
        end = time.time() + 3
        while time.time() < end:  # slow: it works a tenth of the time
            cluster.signal(2, signal.SIGSTOP)
            time.sleep(0.09)
            cluster.signal(2, signal.SIGCONT)
            time.sleep(0.01)
        cluster.signal(2, signal.SIGSTOP)  # and then not at all
        cluster.wait_states({NODES[2]: "DOWN"})
        cluster.signal(2, signal.SIGCONT)
        cluster.wait_states(everybody)
        out = json.loads(load.communicate(timeout=120)[0])
    finally:
        load.kill()
        load.wait()
    print(f"\n{out['calls']}, on {out['servers']}, the slowest {out['slowest']} s, {len(out['failures'])} failed; "
          f"by the proxy: {cluster.states()}")
    assert not out["failures"], out["failures"][:5]
    assert load.returncode == 0 and set(out["servers"]) == set(NODES)
    assert out["calls"]["run"] > 1000 and out["calls"]["run with a buffer"] > 1000
    assert out["slowest"] < 20
