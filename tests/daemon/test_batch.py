"""Runs that wait together run together, where rows do not know of each other; every answer has the bits that a run of its own has."""
import grpc
import numpy as np
import pytest
from conftest import DTYPES, Graph, array, fails, kiln_pb2, tensor
from tenants import As, boss, section

WIDE = 24
rng = np.random.default_rng(5)


class Rows(Graph):
    """Graphs whose first axis is n rows."""

    def rows(self, name, *rest, dtype="float32"):
        p = self.g.params.add(name=name, dtype=DTYPES[np.dtype(dtype)])
        p.dims.add(name="n")
        for d in rest:
            p.dims.add(size=d)
        return self.node("PARAM", ints=[len(self.g.params) - 1])

    def weight(self, name, *dims):
        return self.param(name, dims, data=np.random.default_rng(len(self.g.params)).standard_normal(dims))


def linear(g):
    x = g.rows("x", WIDE)
    h = g.node("MAX", g.node("MATMUL", x, g.weight("w", WIDE, 40)), g.const(0.0))
    return {"y": g.node("MATMUL", h, g.weight("v", 40, 10))}


def softmax(g):
    x = g.rows("x", WIDE)
    e = g.node("EXP", g.node("SUB", x, g.node("REDUCE_MAX", x, ints=[1])))
    return {"y": g.node("DIV", e, g.node("REDUCE_SUM", e, ints=[1])), "z": g.node("REDUCE_SUM", x, ints=[1], i=1)}


def two_inputs(g):
    x, t = g.rows("x", WIDE), g.rows("t", WIDE)
    return {"y": g.node("MUL", g.node("TANH", x), g.node("ADD", t, x))}


def over_the_batch(g):
    x = g.rows("x", WIDE)
    return {"y": g.node("SUB", x, g.node("REDUCE_MAX", x, ints=[0]))}


def between_rows(g):
    x = g.rows("x", WIDE)
    return {"y": g.node("MATMUL", x, g.node("PERMUTE", x, ints=[1, 0]))}


def flipped(g):
    return {"y": g.node("FLIP", g.rows("x", WIDE), ints=[0])}


APART = [linear, softmax, two_inputs]
MIXING = [over_the_batch, between_rows, flipped]


def model(make):
    g = Rows()
    for name, node in make(g).items():
        g.output(name, node)
    return g.bytes()


def busy(n=384, times=40):
    g = Graph()
    y = x = g.param("x", [n, n])
    for _ in range(times):
        y = g.node("MATMUL", y, x)
    g.output("y", y)
    return g.bytes(), np.zeros((n, n), np.float32)


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """A daemon that batches and one that does not."""
    from conftest import Daemon, ends_well
    config = [*boss(), *section("a"), *section("b"), "[tuning]", "background = false"]
    both = [Daemon(tmp_path_factory.mktemp("batch"), config=config + ["[batching]", "delay_ms = 2000", "rows = 40"]),
            Daemon(tmp_path_factory.mktemp("alone"), config=config)]
    yield both
    for d in both:
        ends_well(d)


def request(exe, inputs, **fields):
    return kiln_pb2.RunRequest(executable=exe, inputs=[kiln_pb2.NamedTensor(name=k, tensor=tensor(v)) for k, v in inputs.items()], **fields)


def some_inputs(make, rows):
    names = ["x", "t"] if make is two_inputs else ["x"]
    return {name: rng.standard_normal((rows, WIDE)).astype(np.float32) for name in names}


def together(who, exe, many, block=True, **fields):
    """Runs all inputs of `many` while the device is busy with something else; the responses."""
    blocker = None
    if block:
        m, x = busy()
        blocker = who.stub.Run.future(request(who.compile(m).executable, {"x": x}), timeout=60)
    calls = [who.stub.Run.future(request(exe, inputs, **fields), timeout=60) for inputs in many]
    responses = [c.result() for c in calls]
    if blocker:
        blocker.result()
    return responses


def outputs(response):
    return {o.name: array(o.tensor) for o in response.outputs}


@pytest.mark.parametrize("make", APART + MIXING, ids=lambda f: f.__name__)
def test_bits_are_those_of_a_run_alone(pair, make):
    batching, plain = As(pair[0], "a"), As(pair[1], "a")
    exe, other = batching.compile(model(make)).executable, plain.compile(model(make)).executable
    many = [some_inputs(make, rows) for rows in (1, 3, 2, 1, 7, 5, 1, 4, 8, 6)]
    responses = together(batching, exe, many)
    for inputs, response in zip(many, responses):
        want = plain.run(other, inputs)
        got = outputs(response)
        assert list(got) == list(want)
        for name in want:
            assert got[name].shape == want[name].shape
            assert got[name].tobytes() == want[name].tobytes(), name
    times = [r.device_ns for r in responses]
    alike = max(times.count(t) for t in times)  # those that shared a run report the same time, to the nanosecond; two may by chance
    assert alike >= 4 if make in APART else alike < 4, times


def test_an_executable_says_how_it_is_batched(pair):
    """Whatever the server is configured to do; the answers have the same bits."""
    many = [some_inputs(linear, rows) for rows in (1, 3, 2, 1, 7, 5, 1, 4, 8, 6)]

    def alike(who, **batching):
        exe = who.compile(model(linear), batching=kiln_pb2.Batching(**batching)).executable
        responses = together(who, exe, many)
        times = [r.device_ns for r in responses]
        return max(times.count(t) for t in times), [outputs(r)["y"].tobytes() for r in responses]

    on, off = As(pair[0], "a"), As(pair[1], "a")
    one, bits = alike(on, delay_ms=0)
    assert one < 4
    for delay, rows, least, most in ((200, 0, 4, 10), (200, 9, 2, 5)):
        n, same = alike(off, delay_ms=delay, rows=rows)
        assert least <= n <= most and same == bits
    with fails(grpc.StatusCode.INVALID_ARGUMENT, "batching", "10000"):
        on.compile(model(linear), batching=kiln_pb2.Batching(delay_ms=10001))


def test_no_more_rows_than_allowed(pair):
    a = As(pair[0], "a")
    exe = a.compile(model(linear)).executable
    many = [some_inputs(linear, 15) for _ in range(8)]
    responses = together(a, exe, many)
    times = [r.device_ns for r in responses]
    assert max(times.count(t) for t in times) <= 2, times  # 3 times 15 is more than 40
    big = some_inputs(linear, 300)
    y = a.run(exe, big)["y"]
    assert y.shape == (300, 10)


def test_tenants_do_not_share(pair):
    a, b = As(pair[0], "a"), As(pair[0], "b")
    mine, theirs = a.compile(model(linear)).executable, b.compile(model(linear)).executable
    m, x = busy()
    blocker = a.stub.Run.future(request(a.compile(m).executable, {"x": x}), timeout=60)
    calls = [who.stub.Run.future(request(exe, some_inputs(linear, 2)), timeout=60) for who, exe in [(a, mine), (b, theirs)] * 4]
    times = [c.result().device_ns for c in calls]
    blocker.result()
    assert not set(times[::2]) & set(times[1::2]), times


def test_wanted_outputs_and_buffers(pair):
    a, plain = As(pair[0], "a"), As(pair[1], "a")
    exe, other = a.compile(model(softmax)).executable, plain.compile(model(softmax)).executable
    many = [some_inputs(softmax, 2) for _ in range(6)]
    for inputs, response in zip(many, together(a, exe, many, outputs=["z"])):
        got = outputs(response)
        assert list(got) == ["z"] and got["z"].tobytes() == plain.run(other, inputs, ["z"])["z"].tobytes()
    kept = a.run(exe, many[0], buffers=True)["y"]
    assert a.download(kept).tobytes() == plain.run(other, many[0])["y"].tobytes()
    got = a.run(exe, {"x": a.upload(many[1]["x"])})
    assert got["y"].tobytes() == plain.run(other, many[1])["y"].tobytes()


def test_who_gives_up_costs_the_others_nothing(pair):
    a, plain = As(pair[0], "a"), As(pair[1], "a")
    exe, other = a.compile(model(linear)).executable, plain.compile(model(linear)).executable
    for late in (0.0, 0.02):
        m, x = busy()
        blocker = a.stub.Run.future(request(a.compile(m).executable, {"x": x}), timeout=60)
        many = [some_inputs(linear, 3) for _ in range(9)]
        calls = [a.stub.Run.future(request(exe, inputs), timeout=60) for inputs in many]
        if late:
            blocker.result()
        for c in calls[::2]:
            c.cancel()
        for c, inputs in list(zip(calls, many))[1::2]:
            assert outputs(c.result())["y"].tobytes() == plain.run(other, inputs)["y"].tobytes()
        blocker.result()


def test_an_idle_device_waits_for_nobody(pair):
    """The delay is two seconds; nobody else is there."""
    a = As(pair[0], "a")
    exe = a.compile(model(linear)).executable
    for _ in range(5):
        a.stub.Run(request(exe, some_inputs(linear, 1)), timeout=1.5)


def test_wrong_inputs_fail_alone(pair):
    a = As(pair[0], "a")
    exe = a.compile(model(linear)).executable
    m, x = busy()
    blocker = a.stub.Run.future(request(a.compile(m).executable, {"x": x}), timeout=60)
    good = a.stub.Run.future(request(exe, some_inputs(linear, 2)), timeout=60)
    with pytest.raises(grpc.RpcError) as e:
        a.stub.Run(request(exe, {"x": np.zeros((2, WIDE + 1), np.float32)}), timeout=60)
    assert e.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert outputs(good.result())["y"].shape == (2, 10)
    blocker.result()
