"""The graphs in tests/model/graphs, each of which once gave a wrong answer: every stage of the compiler, and the daemon.

kept_graphs.py has their format; random_graphs.py --keep writes them.
"""
import glob
import os

import kiln
import kept_graphs
import numpy as np
import pytest
import serving
from onnx_suite import EvalRunner

FOLDER = os.path.join(os.path.dirname(__file__), "graphs")
NAMES = sorted(os.path.basename(p) for p in glob.glob(os.path.join(FOLDER, "*.kgraph")))


@pytest.fixture(scope="module", params=["host", "sse2", "gpu", "nvidia", "buffers8"])
def stages(request):
    runner = EvalRunner(str(serving.BIN / "kiln-eval"), ["--stages"] + ([request.param] if request.param != "host" else []))
    yield runner
    runner.close()


def wrong(got, value, err):
    if got.dtype != value.dtype or got.shape != value.shape:
        return f"{got.dtype}{list(got.shape)}, expected {value.dtype}{list(value.shape)}"
    if err is None:
        return None if np.array_equal(got, value) else "differs"
    have, want = got.astype(np.float64), value.astype(np.float64)
    with np.errstate(all="ignore"):
        good = (have == want) | (np.isnan(have) & np.isnan(want)) | (np.abs(have - want) <= err) | np.isinf(err)
    return None if good.all() else f"{np.argwhere(~good)[0]}: {have[~good][0]}, expected {want[~good][0]}"


def test_there_are_kept_graphs():
    assert NAMES


@pytest.mark.parametrize("name", NAMES)
def test_kept_graph(name, stages):
    graph, feeds, wants = kept_graphs.read(os.path.join(FOLDER, name))
    assert wants
    got = stages.run(b"KGR1" + graph.SerializeToString(), feeds, {})
    assert {n.split(":")[0] for n in got} >= {"tensor", "ranged", "scheduled", "linear"}
    for output, array in got.items():
        assert not wrong(array, *wants[output.split(":")[1]]), f"{output}: {wrong(array, *wants[output.split(':')[1]])}"


@pytest.mark.parametrize("name", NAMES)
def test_kept_graph_through_the_daemon(name, client):
    graph, feeds, wants = kept_graphs.read(os.path.join(FOLDER, name))
    built = kiln.Graph()
    built._proto.CopyFrom(graph)
    exe = client.compile(built)
    for output, array in exe(feeds).items():
        assert not wrong(array, *wants[output]), output
    exe.release()
