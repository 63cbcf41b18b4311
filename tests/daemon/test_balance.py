"""A real HAProxy, with the configuration of deploy/, before three kilnd in network namespaces: one is killed, one cut off, one stopped and
slowed, under load. No call that may be repeated fails, and no answer is wrong; the totals are printed (pytest -s)."""
import json
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time

import pytest
from conftest import BIN, add_graph
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


class Shell:
    """The C library: `kiln run` again and again, each with some hundred runs, all with the same answer."""

    def __init__(self, cluster, runs=400):
        self.model = cluster.folder / "model.kgraph"
        self.model.write_bytes(add_graph(48))
        self.command = cluster.inside(BIN / "kiln", "--server", ADDRESS, "--json", "run", self.model, "--random", "7", "--repeat", runs)
        self.done, self.failures, self.answers, self.stop = 0, [], set(), threading.Event()
        self.thread = threading.Thread(target=self.work)
        self.thread.start()

    def work(self):
        while not self.stop.is_set():
            out = subprocess.run(self.command, capture_output=True, text=True)
            if out.returncode:
                self.failures.append(out.stderr)
                continue
            answer = json.loads(out.stdout)
            self.done += answer["run"]["runs"]
            self.answers.add(json.dumps(answer["outputs"]))

    def end(self):
        self.stop.set()
        self.thread.join()


def test_no_call_fails_when_servers_do(cluster):
    shells = [Shell(cluster) for _ in range(2)]
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
        for s in shells:
            s.end()
        load.kill()
        load.wait()
    print(f"\n{sum(s.done for s in shells):.0f} runs by the C client, {sum(len(s.failures) for s in shells)} failed; by the Python client {out['calls']}, on {out['servers']}, the slowest {out['slowest']} s, {len(out['failures'])} failed; "
          f"by the proxy: {cluster.states()}")
    assert not out["failures"], out["failures"][:5]
    for s in shells:
        assert not s.failures and s.done > 400 and len(s.answers) == 1, (s.failures[:3], s.done, s.answers)
    assert load.returncode == 0 and set(out["servers"]) == set(NODES)
    assert out["calls"]["run"] > 1000 and out["calls"]["run with a buffer"] > 1000
    assert out["slowest"] < 20
