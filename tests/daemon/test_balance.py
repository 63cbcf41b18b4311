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

import kiln
import numpy as np
import pytest
from conftest import BIN, add_graph
from netns import HUB_ADDRESS, NODES, PORT, Cluster, why_not

pytestmark = pytest.mark.skipif(why_not() is not None, reason=str(why_not()))
HERE = pathlib.Path(__file__).resolve().parent
ADDRESS = f"{HUB_ADDRESS}:{PORT}"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    c = Cluster(tmp_path_factory.mktemp("cluster"), ["connection_age = 5"])  # of the proxy's connections, too
    yield c
    c.stop()


@pytest.fixture
def client(cluster):
    """Through the proxy, by a socket that can be reached from here; as over TCP, it says which graph it compiles."""
    with kiln.connect(f"unix:{cluster.folder}/proxy.sock", retry=20) as c:
        c._routed = True
        yield c


def in_hub(cluster, program, **kw):
    """A Python program beside the proxy."""
    return subprocess.Popen(cluster.inside(sys.executable, *program), env={**os.environ, "KILN_SERVER": ADDRESS}, text=True, **kw)


def model(n, state=False):
    g = kiln.Graph()
    x = g.param("x", "f32", (n,), state=state)
    g.output("y", g.assign(x, x + 1.0) if state else x * 2.0)
    return g


def fails_with(code, call, *words):
    with pytest.raises(kiln.Error) as e:
        call()
    assert e.value.code == code and all(w in e.value.message for w in words), e.value


def node_of(handle):
    return handle.partition("@")[2]


def test_a_model_has_its_server(client, cluster):
    """Clients that compile the same meet; different models are spread."""
    with kiln.connect(f"unix:{cluster.folder}/proxy.sock") as other:
        other._routed = True
        first = [node_of(client.compile(model(8 + n)).executable_id) for n in range(16)]
        second = [node_of(other.compile(model(8 + n)).executable_id) for n in range(16)]
    assert first == second and len(set(first)) == len(NODES)
    assert {client.server_info().node for _ in range(12)} == set(NODES)  # calls of no model go around


def test_calls_go_where_their_buffers_are(client):
    x = np.arange(12, dtype=np.float32)
    exe = client.compile(model(12))
    near = client.upload(x, near=exe)
    assert near.node == node_of(exe.executable_id)
    away = next(b for b in (client.upload(x) for _ in range(12)) if b.node != near.node)
    assert np.array_equal(away.numpy(), x)
    assert np.array_equal(exe.run({"x": away})["y"], 2 * x)  # compiled there as well
    kept = exe.run({"x": near}, outputs="buffers")["y"]
    assert kept.node == near.node and np.array_equal(exe.run({"x": kept})["y"], 4 * x)
    two = kiln.Graph()
    two.output("y", two.param("a", "f32", (12,)) + two.param("b", "f32", (12,)))
    both = client.compile(two)
    fails_with("FAILED_PRECONDITION", lambda: both.run({"a": near, "b": away}), "different servers", near.buffer_id, away.buffer_id)
    movable = next(b for b in (client.upload(x, keep=True) for _ in range(12)) if b.node != near.node)
    assert np.array_equal(both.run({"a": near, "b": movable})["y"], 2 * x) and movable.node == near.node
    state = client.compile(model(6, state=True))
    s = state.state()
    for k in range(3):
        assert state.run(s)["y"].tolist() == [k + 1] * 6
    for b in (near, away, kept, movable):
        b.free()
    fails_with("NOT_FOUND", near.numpy)
    exe.release()
    fails_with("NOT_FOUND", lambda: exe.run({"x": x}), "released")


def test_what_a_lost_server_had(client, cluster):
    x = np.arange(20, dtype=np.float32)
    exe, counter = client.compile(model(20)), client.compile(model(20, state=True))
    lost, kept = client.upload(x, near=exe), client.upload(x, near=exe, keep=True)
    made = exe.run({"x": x}, outputs="buffers")["y"]
    states = {"x": client.upload(np.zeros(20, np.float32), near=exe)}
    counter.run(states)
    victim = NODES.index(lost.node)
    cluster.kill(victim)
    for call in (lost.numpy, made.numpy, lambda: exe.run({"x": lost}), lambda: exe.run({"x": made}), lambda: counter.run(states)):
        fails_with("DATA_LOSS", call, NODES[victim])
    assert np.array_equal(exe.run({"x": x})["y"], 2 * x) and node_of(exe.executable_id) != NODES[victim]
    assert np.array_equal(kept.numpy(), x) and np.array_equal(exe.run({"x": kept})["y"], 2 * x)
    assert kept.node == node_of(exe.executable_id)
    cluster.start(victim)
    cluster.wait_states({n: "UP" for n in NODES})
    fails_with("DATA_LOSS", lost.numpy, NODES[victim])  # it is there again, and knows nothing of before
    assert client.compile(model(20)).run({"x": x})["y"].tolist() == (2 * x).tolist()


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
