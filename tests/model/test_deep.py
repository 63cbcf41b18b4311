"""Deep graphs: SHA3-256 on integers, QR and SVD, long chains, a thousand layers. They have to be right, and their compile time has to grow
with the number of nodes, not faster: ten times the nodes may take GROWTH times the time, which tells linear from quadratic. `pytest -s` prints the times."""
import hashlib
import re
import subprocess
import time

import numpy as np
import pytest

import kiln
import serving

GROWTH = 32  # tenfold nodes: linear work takes 10 to 15 times (caches), quadratic work 100; bench.py has the exact figures


def compiled(client, g):
    """(executable, seconds that its compile took)."""
    start = time.perf_counter()
    exe = client.compile(g, kiln.Options(no_cache=True))
    return exe, time.perf_counter() - start


def report(what, g, exe, seconds):
    r = exe.report()
    print(f"\n{what}: {len(g._proto.nodes)} nodes, {r['kernels']} kernels ({r['unique_kernels']} different), compiled in {seconds:.2f} s "
          f"(frontend {r['frontend_ns'] / 1e6:.0f} ms, plan {r['kernels_ns'] / 1e6:.0f} ms, code {r['codegen_ns'] / 1e6:.0f} ms)")


# -- SHA3-256

ROUNDS = 24
RATE = 136  # bytes absorbed at a time


def keccak_constants():
    """Rotations and round constants, from their definitions in FIPS 202: a walk over the lanes, and a shift register."""
    rotations, x, y = {(0, 0): 0}, 1, 0
    for t in range(24):
        rotations[x, y] = (t + 1) * (t + 2) // 2 % 64
        x, y = y, (2 * x + 3 * y) % 5
    register, constants = 1, []
    for _ in range(ROUNDS):
        value = 0
        for j in range(7):
            if register & 1:
                value |= 1 << ((1 << j) - 1)
            register = (register << 1) ^ (0x171 if register >> 7 else 0)
        constants.append(value)
    return rotations, constants


def keccak(g, lanes, rounds=ROUNDS):
    """The permutation of 25 u64 lanes, keyed by (x, y)."""
    rotations, constants = keccak_constants()

    def rotated(v, n):
        return v if n == 0 else (v << n) | (v >> (64 - n))

    for r in range(rounds):
        column = [lanes[x, 0] ^ lanes[x, 1] ^ lanes[x, 2] ^ lanes[x, 3] ^ lanes[x, 4] for x in range(5)]
        mix = [column[(x - 1) % 5] ^ rotated(column[(x + 1) % 5], 1) for x in range(5)]
        moved = {(y, (2 * x + 3 * y) % 5): rotated(lanes[x, y] ^ mix[x], rotations[x, y]) for x in range(5) for y in range(5)}
        lanes = {(x, y): moved[x, y] ^ (~moved[(x + 1) % 5, y] & moved[(x + 2) % 5, y]) for x in range(5) for y in range(5)}
        lanes[0, 0] = lanes[0, 0] ^ constants[r]
    return lanes


def sha3_graph(blocks, rounds=ROUNDS):
    """x u64[batch, blocks, 17] to the digest u64[batch, 4]."""
    g = kiln.Graph()
    x = g.param("x", "u64", (3, blocks, RATE // 8))
    zero = g.full((3,), 0, "u64")
    lanes = {(i % 5, i // 5): zero for i in range(25)}
    for b in range(blocks):
        for i in range(RATE // 8):
            lanes[i % 5, i // 5] = lanes[i % 5, i // 5] ^ x[:, b, i]
        lanes = keccak(g, lanes, rounds)
    g.output("y", g.stack([lanes[i, 0] for i in range(4)], 1))
    return g


def padded(message, blocks):
    data = bytearray(message) + bytearray(blocks * RATE - len(message))
    data[len(message)] ^= 0x06
    data[-1] ^= 0x80
    return np.frombuffer(bytes(data), "<u8").reshape(blocks, RATE // 8)


@pytest.mark.parametrize("blocks", [1, 2])
def test_sha3(client, blocks):
    rng = np.random.default_rng(blocks)
    lengths = [0, 3, 135] if blocks == 1 else [136, 200, 271]
    messages = [rng.bytes(n) for n in lengths]
    g = sha3_graph(blocks)
    exe, seconds = compiled(client, g)
    report(f"SHA3-256 of {blocks} blocks", g, exe, seconds)
    got = exe({"x": np.stack([padded(m, blocks) for m in messages])})["y"]
    for m, digest in zip(messages, got):
        assert digest.astype("<u8").tobytes() == hashlib.sha3_256(m).digest()
    exe.release()


# -- linear algebra


def householder_qr(g, a, n):
    """Q and R of a [m, n], m >= n, by reflections; R has the signs that the reflections leave."""
    m = a.shape[0]
    q, r = g.eye(m), a
    rows = g.arange(m, "i32")
    for k in range(n):
        column = g.where(rows >= k, r[:, k], 0.0)
        norm = g.sqrt(g.reduce_sum(column * column))
        head = r[k, k]
        v = column + g.where(g.cmpeq(rows, k), g.where(head < 0.0, -norm, norm), 0.0)
        scale = 2.0 / g.reduce_sum(v * v)
        r = r - scale * g.outer(v, v @ r)
        q = q - scale * g.outer(q @ v, v)
    return q, r


@pytest.mark.parametrize("m,n", [(6, 4), (16, 16)])
def test_householder_qr(client, m, n):
    a = np.random.default_rng(m).standard_normal((m, n)).astype(np.float32)
    g = kiln.Graph()
    q, r = householder_qr(g, g.param("a", "f32", (m, n)), n)
    g.output("q", q), g.output("r", r)
    exe, seconds = compiled(client, g)
    report(f"Householder QR of {m} x {n}", g, exe, seconds)
    got = exe({"a": a})
    q, r = (got[k].astype(np.float64) for k in "qr")
    np.testing.assert_allclose(q @ r, a, atol=2e-5)
    np.testing.assert_allclose(q.T @ q, np.eye(m), atol=2e-5)
    np.testing.assert_allclose(np.tril(r, -1), 0, atol=2e-5)
    np.testing.assert_allclose(np.abs(np.diag(r)), np.abs(np.diag(np.linalg.qr(a.astype(np.float64))[1])), atol=2e-4)
    exe.release()


def jacobi_svd(g, a, sweeps):
    """U, the singular values and V of a [m, n] by rotations of pairs of columns until all are orthogonal."""
    n = a.shape[1]
    u, v, columns = a, g.eye(n), g.arange(n, "i32")
    for _ in range(sweeps):
        for p in range(n):
            for q in range(p + 1, n):
                x, y = u[:, p], u[:, q]
                alpha, beta, gamma = (g.reduce_sum(i * j) for i, j in ((x, x), (y, y), (x, y)))
                zeta = (beta - alpha) / (2.0 * g.where(g.cmpeq(gamma, 0.0), 1.0, gamma))
                t = g.where(zeta < 0.0, g.const(-1.0, "f32"), g.const(1.0, "f32")) / (abs(zeta) + g.sqrt(zeta * zeta + 1.0))
                t = g.where(g.cmpeq(gamma, 0.0), 0.0, t)
                c = g.rsqrt(t * t + 1.0)
                s = c * t
                at_p, at_q = g.cmpeq(columns, p), g.cmpeq(columns, q)

                def rotate(w):
                    i, j = g.unsqueeze(w[:, p], 1), g.unsqueeze(w[:, q], 1)
                    return g.where(at_p, c * i - s * j, g.where(at_q, s * i + c * j, w))

                u, v = rotate(u), rotate(v)
    sigma = g.sqrt(g.reduce_sum(u * u, 0))
    return u / sigma, sigma, v


def test_jacobi_svd(client):
    m, n, sweeps = 6, 4, 5
    a = np.random.default_rng(3).standard_normal((m, n)).astype(np.float32)
    g = kiln.Graph()
    for name, node in zip("usv", jacobi_svd(g, g.param("a", "f32", (m, n)), sweeps)):
        g.output(name, node)
    exe, seconds = compiled(client, g)
    report(f"Jacobi SVD of {m} x {n}, {sweeps} sweeps", g, exe, seconds)
    got = exe({"a": a})
    u, s, v = (got[k].astype(np.float64) for k in "usv")
    np.testing.assert_allclose(np.sort(s)[::-1], np.linalg.svd(a.astype(np.float64))[1], rtol=1e-4)
    np.testing.assert_allclose((u * s) @ v.T, a, atol=5e-5)
    np.testing.assert_allclose(u.T @ u, np.eye(n), atol=5e-4)
    exe.release()


# -- growth


def chain_elementwise(n):
    g = kiln.Graph()
    x = y = g.param("x", "i32", (64,))
    for k in range(n // 2):
        y = y * 3 + (k % 7) if k % 3 else y ^ x
    g.output("y", y)
    return g


def chain_movement(n):
    g = kiln.Graph()
    y = g.param("x", "i32", (4, 6))
    for k in range(n // 4):
        y = g.flip(y, [k % 2]).T
        y = g.shrink(g.pad(y, [(1, 0), (0, 1)], k % 5), [(0, y.shape[0]), (1, 1 + y.shape[1])])
        y = y + 1
    g.output("y", y)
    return g


def chain_reduce(n):
    g = kiln.Graph()
    y = g.param("x", "f32", (8, 8))
    for k in range(n // 3):
        y = y - g.reduce_max(y, k % 2, keepdims=True)
    g.output("y", y)
    return g


def chain_diamonds(n):
    """Every value is used twice: whoever recomputes what it reads does 2^n of it."""
    g = kiln.Graph()
    y = g.param("x", "i32", (4, 64))
    for k in range(n // 4):
        y = g.flip(y, [1]) + g.where(y < k, y, g.flip(y, [0]))
    g.output("y", y)
    return g


def mlp(layers):
    g = kiln.Graph()
    x = g.param("x", "f32", (4, 16))
    rng = np.random.default_rng(0)
    for _ in range(layers):
        w = g.constant((rng.standard_normal((16, 16)) * 0.3).astype(np.float32))
        x = g.relu(x @ w + g.constant(rng.standard_normal(16).astype(np.float32) * 0.1))
    g.output("y", x)
    return g


CHAINS = {"elementwise": (chain_elementwise, 3000), "movement": (chain_movement, 3000), "reduce": (chain_reduce, 1000),
          "diamonds": (chain_diamonds, 2000), "mlp": (mlp, 300)}


def plan_ms(path):
    """CPU time of the frontend and the plan, the best of three: what else the machine does hardly matters."""
    def once():
        out = subprocess.run([str(serving.BIN.parent / "tests" / "bench_plan"), str(path)], check=True, capture_output=True, text=True).stdout
        return sum(float(ms) for ms in re.findall(r"(?:frontend|plan) +([0-9.]+) ms", out))

    return min(once() for _ in range(3))


@pytest.mark.parametrize("name", CHAINS)
def test_time_grows_with_the_nodes(name, tmp_path):
    build, n = CHAINS[name]
    times = []
    for size in (n, 10 * n):
        path = tmp_path / f"{size}.kgraph"
        path.write_bytes(build(size).serialize())
        times.append(plan_ms(path))
    print(f"\n{name} of {n} and {10 * n}: {times[0]:.1f} ms, {times[1]:.1f} ms: {times[1] / times[0]:.1f}x")
    assert times[1] < GROWTH * times[0]


def test_chain_of_ten_thousand_is_right(client):
    g = chain_elementwise(10000)
    x = np.arange(64, dtype=np.int32) - 30
    want = x.copy()
    with np.errstate(over="ignore"):
        for k in range(5000):
            want = want * np.int32(3) + np.int32(k % 7) if k % 3 else want ^ x
    exe, _ = compiled(client, g)
    np.testing.assert_array_equal(exe({"x": x})["y"], want)
    exe.release()


def test_thousand_layers_are_right(client):
    g = mlp(1000)
    x = np.random.default_rng(1).standard_normal((4, 16)).astype(np.float32)
    want, rng = x.astype(np.float64), np.random.default_rng(0)
    for _ in range(1000):
        w = (rng.standard_normal((16, 16)) * 0.3).astype(np.float32)
        want = np.maximum(want @ w + rng.standard_normal(16).astype(np.float32) * np.float32(0.1), 0)
    exe, seconds = compiled(client, g)
    np.testing.assert_allclose(exe({"x": x})["y"], want, rtol=2e-3, atol=1e-3)
    exe.release()
