"""Models that are small to send and large to compile: each ends in time, with an answer or an error that says why, and leaves others alone."""
import pathlib
import threading
import time

import grpc
import numpy as np
import pytest
from conftest import SANITIZED, Daemon, Graph, add_graph, ends_well, fails, graph_pb2, kiln_pb2
from tenants import As, boss, section
from ways import say

CODE = grpc.StatusCode
SECONDS = 4  # of one step of a compile
CONFIG = ["[workers]", "compile = 1", f"compile_seconds = {SECONDS}s", "compile_memory = 512M", "[tuning]", "background = off"]
FEWER = 8 if SANITIZED else 1
totals = {"answered": 0, "refused": 0, "stopped": 0}


@pytest.fixture(scope="module")
def bombed(tmp_path_factory, request):
    d = Daemon(tmp_path_factory.mktemp("bombs"), config=CONFIG)
    d.compile(add_graph())
    yield d
    ends_well(d)
    say(request, "bombs: " + ", ".join(f"{n} {what}" for what, n in totals.items()))


# -- what is small and becomes large ------------------------------------------------------------------

def chain(n, op):
    g = Graph()
    x = g.param("x", [16])
    for _ in range(n):
        x = g.node(op, x)
    g.output("y", x)
    return g


def long_chain(n):
    """The same of negations, written as bytes at once: Python takes longer to make a million nodes than kilnd to read them."""
    op = graph_pb2.GraphOp.Value("NEG")
    g = chain(0, "NEG")
    g.g.outputs[0].node = n
    out = bytearray(g.bytes())
    for i in range(n):
        src = bytes([i]) if i < 128 else bytes([i & 127 | 128, i >> 7]) if i < 1 << 14 else bytes([i & 127 | 128, i >> 7 & 127 | 128, i >> 14])
        assert i < 1 << 21
        out += bytes([0x0a, 4 + len(src), 0x08, op, 0x1a, len(src)]) + src  # nodes { op src }
    return bytes(out)


def doubling(n, op):
    """As a tree it has 2^n nodes."""
    g = Graph()
    x = g.param("x", [16])
    for i in range(n):
        x = g.node(op, x, g.node("ADD", x, g.const(i + 0.5)))
    g.output("y", x)
    return g


def sines(n):
    """Each is a page of code once its range is reduced."""
    g = Graph()
    x = g.param("x", [16])
    for i in range(n):
        x = g.node("SIN", g.node("MUL", x, g.node("ADD", x, g.const(i * 0.5))))
    g.output("y", x)
    return g


def joined(n):
    """Every element of the result asks which of n pieces it lies in."""
    g = Graph()
    x = g.param("x", [16])
    g.output("y", g.node("CAT", *[g.node("MUL", x, g.const(float(i))) for i in range(n)], ints=[0]))
    return g


def many_params(n):
    g = Graph()
    x = g.param("x", [16])
    for i in range(n):
        x = g.node("ADD", x, g.param(f"x{i}", [16]))
    g.output("y", x)
    return g


def many_outputs(n):
    g = Graph()
    x = g.param("x", [16])
    for i in range(n):
        g.output(f"y{i}", g.node("ADD", x, g.const(float(i))))
    return g


def mirrors(n):
    """2^n elements, and a choice of two for each doubling."""
    g = Graph()
    x = g.param("x", [2])
    for _ in range(n):
        x = g.node("CAT", x, g.node("FLIP", x, ints=[0]), ints=[0])
    g.output("y", x)
    return g


def shuffles(n):
    """Reshapes between sizes without common divisors: nothing of the index arithmetic cancels out."""
    g = Graph()
    x = g.param("x", [2, 3, 5, 7, 11])
    dims = [[2, 3, 5, 7, 11], [11, 7, 5, 3, 2], [3, 2, 7, 5, 11], [5, 11, 2, 7, 3]]
    for i in range(n):
        x = g.node("RESHAPE", g.node("PERMUTE", x, ints=[4, 2, 0, 3, 1]), ints=dims[i % 4])
    g.output("y", x)
    return g


def windows(n):
    """Recomputed in place of stored, the innermost would be computed 3^n times."""
    g = Graph()
    x = g.param("x", [64])
    for _ in range(n):
        x = g.node("REDUCE_SUM", g.node("WINDOW", x, ints=[0, 3, 1, 1]), ints=[1])
        x = g.node("PAD", x, g.const(0.0), ints=[1, 1])
    g.output("y", x)
    return g


def normalised(n):
    g = Graph()
    x = g.param("x", [64, 64])

    def rows(op, t):
        return g.node("EXPAND", g.node("RESHAPE", g.node(op, t, ints=[1]), ints=[64, 1]), ints=[64, 64])
    for i in range(n):
        e = g.node("EXP", g.node("SUB", g.node("ADD", x, g.const(float(i))), rows("REDUCE_MAX", x)))
        x = g.node("DIV", e, rows("REDUCE_SUM", e))
    g.output("y", x)
    return g


def unrollable():
    """Sixteen axes of two, half of them summed: whoever unrolls them all has 65536 terms."""
    g = Graph()
    x = g.param("x", [2] * 16)
    g.output("y", g.node("REDUCE_SUM", g.node("EXP2", x), ints=list(range(0, 16, 2))))
    return g


def sorts(n, times):
    g = Graph()
    x = g.param("x", [n])
    for _ in range(times):
        x = g.node("CAST", g.node("ARGSORT", x, ints=[0], i=0), dtype=12)
    g.output("y", x)
    return g


def gathers(n):
    g = Graph()
    x, i = g.param("x", [64]), g.param("i", [64], "int64")
    for _ in range(n):
        i = g.node("GATHER", i, i, ints=[0])
    g.output("y", g.node("GATHER", x, i, ints=[0]))
    return g


def one_shape(make):
    def built():
        g = Graph()
        g.output("y", make(g))
        return g
    return built


def sum_of(dims):
    return one_shape(lambda g: g.node("REDUCE_SUM", g.node("EXPAND", g.param("x", [1] * len(dims)), ints=dims), ints=list(range(len(dims)))))


BOMBS = {
    "a chain of 200000": lambda: long_chain(200000 // FEWER),
    "a chain of 5000 exponentials": lambda: chain(5000 // FEWER, "EXP2"),
    "a tree of 2^2000": lambda: doubling(2000 // FEWER, "MUL"),
    "a tree of 2^500 maxima": lambda: doubling(500 // FEWER, "MAX"),
    "2000 sines": lambda: sines(2000 // FEWER),
    "300 pieces joined": lambda: joined(300 // FEWER),
    "500 inputs": lambda: many_params(500 // FEWER),
    "100 outputs": lambda: many_outputs(100 // FEWER),
    "25 mirrors": lambda: mirrors(25),
    "60 mirrors": lambda: mirrors(60),
    "30 shuffles": lambda: shuffles(30 // FEWER),
    "1000 shuffles": lambda: shuffles(1000),
    "200 windows": lambda: windows(200 // FEWER),
    "50 normalisations": lambda: normalised(50 // FEWER),
    "16 axes to unroll": unrollable,
    "a sort of 2^22": lambda: sorts(1 << 22, 1),
    "20 sorts": lambda: sorts(1 << 10, 20 // FEWER),
    "2000 gathers": lambda: gathers(2000 // FEWER),
}
# Sizes whose product, or bytes, overflow on the way: all are refused by the front end.
SHAPES = {
    "expand to 2^63": sum_of([1 << 63 - 1]),
    "expand to 2^32 * 2^32": sum_of([1 << 32, 1 << 32]),
    "expand to eight times 2^40": sum_of([1 << 40] * 8),
    "expand to 2^31 * 2^31 * 4": sum_of([1 << 31, 1 << 31, 4]),
    "expand to 0 * 2^63": sum_of([0, (1 << 63) - 1, (1 << 63) - 1]),
    "an input of 2^62 bytes": one_shape(lambda g: g.param("x", [1 << 60])),
    "an input of 2^64 bytes": one_shape(lambda g: g.param("x", [1 << 31, 1 << 31])),
    "padding to 2^63": one_shape(lambda g: g.node("PAD", g.param("x", [16]), g.const(0.0), ints=[(1 << 63) - 1, (1 << 63) - 1])),
    "a negative padding": one_shape(lambda g: g.node("PAD", g.param("x", [16]), g.const(0.0), ints=[-1, 0])),
    "a reshape whose product wraps": one_shape(lambda g: g.node("RESHAPE", g.param("x", [16]), ints=[1 << 32, 1 << 32, 16])),
    "a reshape to -1 twice": one_shape(lambda g: g.node("RESHAPE", g.param("x", [16]), ints=[-1, -1])),
    "a window that wraps": one_shape(lambda g: g.node("WINDOW", g.param("x", [16]), ints=[0, (1 << 62), 1, (1 << 62)])),
    "a window with stride 0": one_shape(lambda g: g.node("WINDOW", g.param("x", [16]), ints=[0, 2, 0, 1])),
    "a slice that wraps": one_shape(lambda g: g.node("SHRINK", g.param("x", [16]), ints=[-(1 << 63), (1 << 63) - 1])),
    "an axis far away": one_shape(lambda g: g.node("REDUCE_SUM", g.param("x", [16]), ints=[1 << 62])),
    "an iota of 2^63": one_shape(lambda g: g.node("IOTA", ints=[0, (1 << 63) - 1], dtype=12)),
    "a product that is too large": one_shape(lambda g: g.node("MATMUL", g.param("x", [1 << 24, 1]), g.param("w", [1, 1 << 24]))),
    "200 axes": one_shape(lambda g: g.param("x", [1] * 200)),
    "a source that does not exist": one_shape(lambda g: g.node("NEG", 12345)),
    "a source that comes later": one_shape(lambda g: (g.param("x", [16]), g.node("NEG", 2), g.node("NEG", 1))[2]),
}


def outcome(d, model):
    """"answered", "refused", "stopped" and the words; the client's own patience never ends first."""
    try:
        d.compile(model, timeout=60)
    except grpc.RpcError as e:
        if e.code() == CODE.UNAVAILABLE:
            assert "cause timeout" in e.details() or "cause oom" in e.details() or "memory" in e.details(), e.details()
            return "stopped", e.details()
        assert e.code() in (CODE.INVALID_ARGUMENT, CODE.RESOURCE_EXHAUSTED, CODE.UNIMPLEMENTED, CODE.OUT_OF_RANGE), (e.code(), e.details())
        return "refused", e.details()
    return "answered", ""


@pytest.mark.parametrize("name", BOMBS)
def test_bomb(bombed, name):
    model = BOMBS[name]()
    model = model if isinstance(model, bytes) else model.bytes()
    before = bombed.info().resident_bytes
    what, words = outcome(bombed, model)
    totals[what] += 1
    assert what == "answered" or words
    x = np.ones(16, np.float32)
    assert bombed.run(bombed.compile(add_graph()).executable, {"x": x, "b": x})["y"][0] == 2
    assert SANITIZED or bombed.info().resident_bytes < before + (64 << 20)


@pytest.mark.parametrize("name", SHAPES)
def test_shape(bombed, name):
    workers = bombed.children("compile")
    with pytest.raises(grpc.RpcError) as e:
        bombed.compile(SHAPES[name]().bytes(), timeout=30)
    assert e.value.code() in (CODE.INVALID_ARGUMENT, CODE.RESOURCE_EXHAUSTED), e.value
    assert bombed.children("compile") == workers  # refused, not crashed
    totals["refused"] += 1


def test_memory_of_a_compile(start):
    d = start(config=["[workers]", "compile = 1", "compile_memory = 24M"])
    if SANITIZED:
        pytest.skip("memory is not bounded under a sanitizer")
    with fails(CODE.RESOURCE_EXHAUSTED, "memory"):
        d.compile(long_chain(300000))
    d.compile(add_graph())


def test_time_of_a_step(start):
    """The worker says so itself, and lives. Where it gets so little of the machine that it cannot, it has more time the next time."""
    model = long_chain(2000000)
    for seconds in (2, 6, 18):
        d = start(config=["[workers]", "compile = 1", f"compile_seconds = {seconds}s"])
        d.compile(add_graph())
        workers = d.children("compile")
        what, words = outcome(d, model)
        if what != "stopped":
            break
    assert what == "refused" and "compiling takes too long" in words and f"{seconds} seconds" in words
    assert d.children("compile") == workers


def test_a_compile_of_many_steps_overdraws_so_much(start):
    """No step is long, but there are thousands: a tenant's seconds end the compile, not only the next one."""
    d = start(config=[*boss(), *section("alice", compile_seconds="1s"), *section("bob"), "[workers]", "compile = 1"])
    alice, bob = As(d, "alice"), As(d, "bob")
    with fails(CODE.RESOURCE_EXHAUSTED, "seconds of compiling", "alice"):
        alice.compile(many_outputs(2000).bytes(), timeout=60)
    with fails(CODE.RESOURCE_EXHAUSTED, "seconds of compiling"):
        alice.compile(add_graph())
    bob.compile(add_graph())


def test_a_compile_of_many_steps_without_tenants(start):
    """The same where nobody has quotas: one model has so much, whoever it belongs to, and the next one as much again."""
    d = start(config=["[workers]", "compile = 1", "compile_total = 1s"])
    with fails(CODE.RESOURCE_EXHAUSTED, "seconds of compiling", "allows 1 for one model"):
        d.compile(many_outputs(2000).bytes(), timeout=60)
    d.compile(add_graph())


def test_others_compile_meanwhile(start):
    """One worker, and one who keeps it busy: another's model comes in between."""
    d = start(config=[*boss(), *section("alice"), *section("bob"), "[workers]", "compile = 1", "[tuning]", "background = off"])
    alice, bob = As(d, "alice"), As(d, "bob")
    over = threading.Event()

    def throw():
        i = 0
        while not over.is_set():
            i += 1
            g = many_outputs(300)
            g.output("more", g.node("ADD", 0, g.const(1000.0 + i)))
            try:
                alice.compile(g.bytes(), timeout=60)
            except grpc.RpcError:
                pass
    thread = threading.Thread(target=throw)
    thread.start()
    try:
        for n in range(20, 30):
            bob.compile(add_graph(n), timeout=30)
    finally:
        over.set()
        thread.join()


# -- very many models -------------------------------------------------------------------------------

OPS = ["NEG", "ABS", "SQRT", "EXP2", "LOG2", "TRUNC", "FLOOR", "CEIL", "RECIP", "ROUND"]


def numbered(i):
    """One of ten thousand graphs that share forty kernels."""
    g = Graph()
    for k in range(4):
        x = g.param(f"x{k}", [16 + k])
        g.output(f"y{k}", g.node(OPS[i // 10**k % 10], x))
    return g.bytes()


def test_ten_thousand_models(start, request):
    """Executables, the cache file and the memory of each process stay within their limits, whatever comes."""
    n = 300 if SANITIZED else 10000
    d = start(config=["[limits]", "executables = 32", "[cache]", "max_bytes = 2M", "[tuning]", "background = off"])
    first = d.compile(numbered(0)).executable
    for i in range(1, 300):
        d.compile(numbered(i))
    grown = [resident(pid) for pid in processes(d)]

    def some(part):
        for i in range(300 + part, n, 4):
            d.compile(numbered(i))
    threads = [threading.Thread(target=some, args=(k,)) for k in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    with fails(CODE.NOT_FOUND):
        d.run(first, {})
    last = d.compile(numbered(n - 1)).executable
    out = d.run(last, {f"x{k}": np.full(16 + k, 4, np.float32) for k in range(4)})
    assert len(out) == 4
    after = [resident(pid) for pid in processes(d)]
    assert SANITIZED or all(b < a + (24 << 20) for a, b in zip(grown, after)), (grown, after)
    size = sum(f.stat().st_size for f in pathlib.Path(d.folder).glob("cache.db"))
    assert size < 8 << 20, size
    say(request, f"{n} models: kilnd {(after[0] - grown[0]) >> 10} KiB more than after 300, the cache file {size >> 10} KiB")


def processes(d):
    return [d.process.pid, *sorted(d.children("device"))]


def resident(pid):
    return int(pathlib.Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096


# -- compression ------------------------------------------------------------------------------------

@pytest.mark.parametrize("how", [grpc.Compression.Gzip, grpc.Compression.Deflate])
def test_compressed_messages_are_refused(bombed, how):
    """A gigabyte of zeros in a megabyte never comes to be inflated: there is nothing here that inflates."""
    call = bombed.channel.unary_unary("/kiln.v1.Kiln/Run")
    before = bombed.info().resident_bytes
    with fails(CODE.UNIMPLEMENTED, "identity"):
        call(bytes(64 << 20), timeout=30, compression=how)
    assert SANITIZED or bombed.info().resident_bytes < before + (16 << 20)
    bombed.info()
