"""Several servers: handles that carry the name of theirs, and connections that end of age while what was begun on them is finished."""
import re
import threading
import time

import grpc
import numpy as np
import pytest
from conftest import add_graph, fails, kiln_pb2, slow_graph

C = grpc.StatusCode


def f32(n):
    return np.arange(n, dtype=np.float32)


def test_handles_carry_the_name_of_their_server(start):
    a, b, plain = start(config=["[server]", "node = a"]), start(args=["--node", "b-2"]), start()
    x = f32(16)
    handles = {d: (d.compile(add_graph(), no_cache=True).executable, d.upload(x)) for d in (a, b, plain)}
    assert [[h.partition("@")[2] for h in handles[d]] for d in (a, b, plain)] == [["a"] * 2, ["b-2"] * 2, [""] * 2]
    assert [d.info().node for d in (a, b, plain)] == ["a", "b-2", ""]
    for d, (exe, buffer) in handles.items():
        assert np.array_equal(d.run(exe, {"x": buffer, "b": x})["y"], 2 * x)
        assert d.stub.ListBuffers(kiln_pb2.ListBuffersRequest()).buffers[0].buffer == buffer
    exe, buffer = handles[a]
    with fails(C.NOT_FOUND, f"unknown executable '{exe}'", "of the server 'a', and this is 'b-2'", "compile the model again"):
        b.run(exe, {})
    with fails(C.NOT_FOUND, f"unknown buffer '{buffer}'", "of the server 'a'", "upload it again"):
        b.download(buffer)
    with fails(C.NOT_FOUND, "this is ''"):
        plain.run(exe, {})
    for cut in (exe.partition("@")[0], exe + "a", exe.replace("@a", "@"), exe.replace("@a", "@@a"), "exe-@a", "@a"):
        with fails(C.NOT_FOUND, "unknown executable"):
            a.run(cut, {})
    with fails(C.NOT_FOUND, "unknown executable"):
        a.run(handles[plain][0], {})


@pytest.mark.parametrize("name", ["a b", "x" * 33, "a@b", "-a"])
def test_bad_names_are_refused(tmp_path, start, name):
    d = start(args=["--node", name], wait=False)
    assert d.process.wait(20) == 78 and "node: expected at most 32 letters" in d.log()


def retired(d):
    """The limit of each connection that was told to go, in ms."""
    return [int(m) for m in re.findall(r'msg="connection retired".* limit_ms=(\d+)', d.log())]


def test_a_connection_of_age_ends_after_its_calls(start):
    d = start(config=["[server]", "connection_age = 1", "grace = 2", "log_level = debug"])
    begin = time.time()
    compiling = d.stub.Compile.future(d.compile_parts(slow_graph(250)), timeout=120)
    events = d.stub.Events(kiln_pb2.EventsRequest(), timeout=60)
    ended = []

    def follow():
        try:
            for _ in events:
                pass
        except grpc.RpcError as e:
            ended.append((e.code(), time.time() - begin))
    follower = threading.Thread(target=follow)
    follower.start()
    x, exe, calls = f32(16), d.compile(add_graph()).executable, 0
    while time.time() - begin < 5 or not compiling.done():
        assert np.array_equal(d.run(exe, {"x": x, "b": x})["y"], 2 * x)  # over one connection after the other
        calls += 1
    assert compiling.result().report.kernels == 250
    follower.join(30)
    assert ended and ended[0][0] == C.UNAVAILABLE and ended[0][1] > 2  # what never ends has the grace
    limits = retired(d)
    assert len(limits) >= 3 and calls > 10
    assert len(set(limits)) == len(limits) and all(900 <= n <= 1100 for n in limits)  # those that came together go one by one
