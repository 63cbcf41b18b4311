"""Who may do what: who somebody is, what each role may call, and that tenants see nothing of each other."""
import itertools
import os
import signal
import subprocess
import sys
import time

import grpc
import numpy as np
import pytest
from conftest import BIN, add_graph, fails, kiln_pb2
from tenants import As, boss, ones, section, token_row, without_ids

CODE = grpc.StatusCode
ANYBODY, TENANT = "anybody", "tenant"
# Written down here a second time on purpose: a change of who may do what is a change of this table too.
MAY = {
    "/kiln.v1.Kiln/Run": "run", "/kiln.v1.Kiln/Explain": "run", "/kiln.v1.Kiln/Compile": "run",
    "/kiln.v1.Kiln/Inspect": "run", "/kiln.v1.Kiln/ReleaseExecutable": "run", "/kiln.v1.Kiln/Upload": "run",
    "/kiln.v1.Kiln/Download": "run", "/kiln.v1.Kiln/FreeBuffers": "run", "/kiln.v1.Kiln/ListBuffers": "run",
    "/kiln.v1.Kiln/Events": "run", "/kiln.v1.Kiln/Tune": "tune", "/kiln.v1.Kiln/GetServerInfo": TENANT,
    "/kiln.v1.Kiln/ListDevices": TENANT, "/kiln.v1.Kiln/CacheStats": "run", "/kiln.v1.Kiln/CacheList": "run",
    "/kiln.v1.Kiln/CacheWhy": "run", "/kiln.v1.Kiln/CacheExport": "run", "/kiln.v1.Kiln/CacheVerify": "cache-write",
    "/kiln.v1.Kiln/CachePrune": "cache-write", "/kiln.v1.Kiln/CacheRemove": "cache-write",
    "/kiln.v1.Kiln/CacheImport": "cache-write", "/kiln.v1.Kiln/GetStatus": TENANT, "/kiln.v1.Kiln/GetTrace": TENANT,
    "/inference.GRPCInferenceService/ServerLive": ANYBODY, "/inference.GRPCInferenceService/ServerReady": ANYBODY,
    "/inference.GRPCInferenceService/ModelReady": TENANT, "/inference.GRPCInferenceService/ServerMetadata": TENANT,
    "/inference.GRPCInferenceService/ModelMetadata": TENANT, "/inference.GRPCInferenceService/ModelInfer": "run",
    "/inference.GRPCInferenceService/ModelConfig": TENANT, "/inference.GRPCInferenceService/ModelStatistics": TENANT,
    "/inference.GRPCInferenceService/RepositoryIndex": TENANT, "/inference.GRPCInferenceService/RepositoryModelLoad": "run",
    "/inference.GRPCInferenceService/RepositoryModelUnload": "run",
    "/grpc.health.v1.Health/Check": ANYBODY, "/grpc.health.v1.Health/Watch": ANYBODY,
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo": TENANT,
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": TENANT,
    "/kiln.v1.Kiln/GetStatus": TENANT, "/kiln.v1.Kiln/GetTrace": TENANT,
    **{f"/inference.GRPCInferenceService/{m}": who for m, who in {
        "ServerLive": ANYBODY, "ServerReady": ANYBODY, "ModelReady": TENANT, "ServerMetadata": TENANT, "ModelMetadata": TENANT,
        "ModelInfer": "run", "ModelConfig": TENANT, "ModelStatistics": TENANT, "RepositoryIndex": TENANT,
        "RepositoryModelLoad": "run", "RepositoryModelUnload": "run"}.items()},
}
ROLES = ("run", "tune", "cache-write", "admin")


def methods():
    """Every RPC that the server's own descriptors declare."""
    from google.protobuf import descriptor_pb2
    data = (BIN.parent / "gen/descriptors.bin").read_bytes()
    files = descriptor_pb2.FileDescriptorSet.FromString(data).file
    return [f"/{f.package}.{s.name}/{m.name}" for f in files for s in f.service for m in s.method]


def outcome(who, path):
    """The code, and whether the table has refused it: a method may have reasons of its own besides."""
    try:
        who.raw(path)
    except grpc.RpcError as e:
        return e.code(), e.code() == CODE.PERMISSION_DENIED and e.details().startswith("this needs the role")
    return CODE.OK, False


@pytest.fixture(scope="module")
def matrix(tmp_path_factory):
    from conftest import Daemon, ends_well
    config = boss()
    for n in range(len(ROLES) + 1):
        for roles in itertools.combinations(ROLES, n):
            config += section("t" + "".join(r[0] for r in roles), roles=",".join(roles))
    d = Daemon(tmp_path_factory.mktemp("matrix"), config=config)
    yield d
    ends_well(d)


def test_every_rpc_is_in_the_table():
    assert len(methods()) >= 25 and not set(methods()) - set(MAY)


@pytest.mark.parametrize("path", sorted(methods()))
def test_authorisation_matrix(matrix, path):
    """All 16 sets of roles, a wrong token, on every RPC: refused exactly when the table says so."""
    for n in range(len(ROLES) + 1):
        for roles in itertools.combinations(ROLES, n):
            code, refused = outcome(As(matrix, "t" + "".join(r[0] for r in roles)), path)
            allowed = MAY[path] in (ANYBODY, TENANT) or MAY[path] in roles
            assert refused != allowed, (path, roles, code)
            assert code != CODE.UNAUTHENTICATED, (path, roles)
    wrong, _ = outcome(As(matrix, token="wrong"), path)
    assert (wrong != CODE.UNAUTHENTICATED) == (MAY[path] == ANYBODY), (path, wrong)


def test_a_refusal_names_the_role_and_nothing_else(matrix):
    with fails(CODE.PERMISSION_DENIED, "role tune", "tenant 'tr' has run") as refused:
        list(As(matrix, "tr").stub.Tune(kiln_pb2.TuneRequest(executable="exe-1"), timeout=10))
    assert "boss" not in refused.details


@pytest.mark.parametrize("header", ["Bearer", "Basic dHI6dA==", "tr-token", "Bearer tr-toke", "Bearer  tr-token",
                                    "Bearer " + "x" * 300, "Bearer " + "x" * 5000])
def test_wrong_credentials(matrix, header):
    who = As(matrix)
    who.metadata = [("authorization", header)]
    with fails(CODE.UNAUTHENTICATED, "the token is not one of this server's"):
        who.info()


def test_scheme_in_any_case(matrix):
    who = As(matrix)
    who.metadata = [("authorization", "bEARER tr-token")]
    who.info()


def test_a_token_counts_before_the_user(matrix):
    """The socket says boss; the token says less."""
    assert matrix.info().pid
    assert not As(matrix, "tr").info().pid


def stranger(socket, uid):
    """The code of a call by another user of this machine, on the same socket."""
    code = f"""
import os, copy, grpc, grpc._channel
os.setgid({uid}); os.setuid({uid})
c = grpc.insecure_channel("unix:{socket}")
try:
    c.unary_unary("/kiln.v1.Kiln/ListDevices")(b"", timeout=10); print("OK")
except grpc.RpcError as e:
    print(e.code().name)
"""
    r = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    return r.stdout.strip() or r.stderr


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become somebody else")
def test_users_of_the_socket(start):
    d = start(config=["[server]", "socket_mode = 0666", *boss(), "[tenant eve]", "roles = run", "uid = 4242", "uid = 4243"])
    for folder in [d.socket.parent, *d.socket.parents]:
        if str(folder).startswith("/tmp/"):
            os.chmod(folder, 0o755)
    assert stranger(d.socket, 4242) == "OK"
    assert stranger(d.socket, 4243) == "OK"
    assert stranger(d.socket, 4244) == "UNAUTHENTICATED"


def test_without_tenants_everybody_may(start):
    d = start()
    e = d.compile(add_graph()).executable
    assert (d.run(e, {"x": ones(), "b": ones()})["y"] == 2).all()
    assert As(d, token="whatever").info().pid


# -- what belongs to whom ---------------------------------------------------------------------------

@pytest.fixture(scope="module")
def two(tmp_path_factory):
    from conftest import Daemon, ends_well
    config = [*boss(), *section("alice", "run,tune"), *section("bob", "run,tune,cache-write"),
              *section("carol", shared_cache="true"), *section("dave", shared_cache="true")]
    d = Daemon(tmp_path_factory.mktemp("two"), config=config)
    yield d
    ends_well(d)


def test_handles_have_128_random_bits(two):
    alice = As(two, "alice")
    seen = [alice.upload(ones()) for _ in range(20)] + [alice.compile(add_graph(17)).executable]
    digits = [h.split("-")[1] for h in seen]
    assert all(len(x) == 32 for x in digits) and len(set(digits)) == len(digits)
    bits = np.unpackbits(np.frombuffer(bytes.fromhex("".join(digits)), np.uint8)).reshape(len(digits), 128)
    assert 0.4 < bits.mean() < 0.6
    assert (bits.min(0) != bits.max(0)).sum() > 120  # hardly any position is the same in all
    with fails(CODE.NOT_FOUND):  # half of a handle is none
        alice.download(seen[0][:-1] + ("0" if seen[0][-1] != "0" else "1"))
    alice.stub.FreeBuffers(kiln_pb2.FreeBuffersRequest(buffers=seen[:-1]), timeout=10)


def refused(call):
    try:
        call()
    except grpc.RpcError as e:
        return e.code(), without_ids(e.details())
    raise AssertionError("the call succeeded")


def test_anothers_handle_is_as_none(two):
    """Every RPC that takes a handle: the same code and text for another's as for one that never was."""
    alice, bob = As(two, "alice"), As(two, "bob")
    exe, buf = alice.compile(add_graph(18)).executable, alice.upload(ones())
    calls = {
        "Run": lambda e, b: bob.run(e, {"x": ones(18), "b": ones(18)}),
        "Explain": lambda e, b: bob.stub.Explain(kiln_pb2.ExplainRequest(executable=e), timeout=10),
        "ReleaseExecutable": lambda e, b: bob.stub.ReleaseExecutable(
            kiln_pb2.ReleaseExecutableRequest(executable=e), timeout=10),
        "Tune": lambda e, b: list(bob.stub.Tune(kiln_pb2.TuneRequest(executable=e), timeout=10)),
        "Download": lambda e, b: bob.download(b),
        "FreeBuffers": lambda e, b: bob.stub.FreeBuffers(kiln_pb2.FreeBuffersRequest(buffers=[b]), timeout=10),
    }
    for name, call in calls.items():
        other = refused(lambda: call(exe, buf))
        assert other[0] == CODE.NOT_FOUND, name
        assert other == refused(lambda: call("exe-" + "7" * 32, "buf-" + "7" * 32)), name
    own = bob.compile(add_graph(18)).executable
    assert own != exe
    assert refused(lambda: bob.run(own, {"x": buf, "b": ones(18)})) == \
        refused(lambda: bob.run(own, {"x": "buf-" + "7" * 32, "b": ones(18)}))
    assert (alice.download(buf) == 1).all()  # and nothing of it did anything
    assert (alice.run(exe, {"x": ones(18), "b": ones(18)})["y"] == 2).all()


def test_nothing_of_another_in_a_listing(two):
    alice, bob = As(two, "alice"), As(two, "bob")
    buf = alice.upload(ones(1000))
    alice.compile(add_graph(19), name="alice-secret-model")
    assert buf in [b.buffer for b in alice.buffers()]
    assert not bob.buffers()
    assert alice.devices()[0].buffer_bytes >= 4000
    assert bob.devices()[0].buffers == 0 and bob.devices()[0].buffer_bytes == 0
    assert two.devices()[0].buffer_bytes >= 4000  # an admin sees all
    info = bob.info()
    assert not info.pid and not info.cache_path and not info.resident_bytes
    listed = lambda who: str(who.stub.CacheList(kiln_pb2.CacheListRequest(), timeout=10))
    assert "alice-secret-model" in listed(alice)
    assert "alice-secret-model" not in listed(bob)
    assert "alice-secret-model" not in listed(two)


def test_private_caches_do_not_know_each_other(two):
    """What one tenant compiled is new to another, in memory as on disk; in the shared cache it is not."""
    model = add_graph(23)
    alice, bob, carol, dave = (As(two, n) for n in ("alice", "bob", "carol", "dave"))
    assert alice.compile(model).report.kernels_compiled == 1
    again = alice.compile(model).report
    assert again.plan_cached and not again.kernels_compiled
    first = bob.compile(model).report
    assert not first.plan_cached and first.kernels_compiled == 1
    assert carol.compile(model).report.kernels_compiled == 1
    theirs = dave.compile(model)
    assert theirs.report.plan_cached and not theirs.report.kernels_compiled


def test_the_shared_cache_is_listed_for_admins(two):
    for who in ("carol", "dave"):
        with fails(CODE.PERMISSION_DENIED, "shared cache"):
            As(two, who).stub.CacheList(kiln_pb2.CacheListRequest(), timeout=10)
        with fails(CODE.PERMISSION_DENIED, "shared cache"):
            list(As(two, who).stub.CacheExport(kiln_pb2.CacheExportRequest(), timeout=10))


def test_removing_from_ones_own_cache_only(two):
    alice, bob = As(two, "alice"), As(two, "bob")
    alice.compile(add_graph(29))
    before = str(alice.stub.CacheList(kiln_pb2.CacheListRequest(), timeout=10))
    bob.stub.CachePrune(kiln_pb2.CachePruneRequest(older_ns=1), timeout=10)
    assert str(alice.stub.CacheList(kiln_pb2.CacheListRequest(), timeout=10)) == before
    with fails(CODE.PERMISSION_DENIED):
        alice.stub.CachePrune(kiln_pb2.CachePruneRequest(older_ns=1), timeout=10)


def test_events_of_ones_own(two):
    alice, bob = As(two, "alice"), As(two, "bob")
    heard = {}
    calls = {n: w.stub.Events(kiln_pb2.EventsRequest(), timeout=60) for n, w in (("alice", alice), ("bob", bob))}
    for call in calls.values():
        assert next(call).WhichOneof("what") == "subscribed"
    exe = alice.compile(add_graph(31)).executable
    list(alice.stub.Tune(kiln_pb2.TuneRequest(executable=exe, budget_ns=300_000_000), timeout=60))
    own = bob.compile(add_graph(37)).executable
    list(bob.stub.Tune(kiln_pb2.TuneRequest(executable=own, budget_ns=300_000_000), timeout=60))
    for name, end in (("alice", exe), ("bob", own)):
        heard[name] = []
        for event in calls[name]:
            heard[name].append(event)
            if event.WhichOneof("what") == "tune" and event.tune.ended and event.tune.executable == end:
                break
        calls[name].cancel()
    assert exe in str(heard["alice"]) and own not in str(heard["alice"])
    assert own in str(heard["bob"]) and exe not in str(heard["bob"])


def test_nobody_unloads_what_belongs_to_who_has_less(start):
    d = start(config=["[limits]", "executables = 4", *boss(), *section("alice"), *section("bob")])
    alice, bob = As(d, "alice"), As(d, "bob")
    own = alice.compile(add_graph(5)).executable
    many = [bob.compile(add_graph(n)).executable for n in range(6, 14)]
    alice.run(own, {"x": ones(5), "b": ones(5)})
    with fails(CODE.NOT_FOUND):
        bob.run(many[0], {"x": ones(6), "b": ones(6)})
    bob.run(many[-1], {"x": ones(13), "b": ones(13)})


# -- reload -----------------------------------------------------------------------------------------

def reload(d, config, known="configuration reloaded"):
    before = d.log().count(known)
    (d.folder / "kiln.conf").write_text("\n".join(config) + "\n")
    d.process.send_signal(signal.SIGHUP)
    end = time.time() + 10
    while d.log().count(known) == before:
        assert time.time() < end, d.log()
        time.sleep(0.02)


def test_tokens_rotate_without_a_restart(start):
    old = [*boss(), *section("alice", token="one")]
    d = start(config=old)
    first, second = As(d, token="one"), As(d, token="two")
    buf = first.upload(ones())
    with fails(CODE.UNAUTHENTICATED):
        second.info()
    reload(d, [*old, f"token = {token_row('x')}", "[tenant alice]", f"token = {token_row('two')}"])
    assert (second.download(buf) == 1).all()  # both are alice, on connections that were open
    assert (first.download(buf) == 1).all()
    reload(d, [*boss(), *section("alice", token="two", roles="run,tune")])
    assert (second.download(buf) == 1).all()
    with fails(CODE.UNAUTHENTICATED):
        first.info()
    reload(d, boss())  # alice is gone, and what she had
    with fails(CODE.UNAUTHENTICATED):
        second.info()
    assert not d.devices()[0].buffers
    reload(d, [*boss(), *section("alice", token="three")])
    assert not As(d, token="three").buffers()


def test_roles_change_with_a_reload(start):
    d = start(config=[*boss(), *section("alice", "run")])
    alice = As(d, "alice")
    alice.buffers()
    reload(d, [*boss(), *section("alice", "tune")])
    with fails(CODE.PERMISSION_DENIED, "has tune"):
        alice.buffers()


@pytest.mark.parametrize("wrong", [["[tenant alice]", "token = sha256:00:11"], ["[tenant alice]", "roles = king"],
                                   ["[server]", "lissen = x"], ["[tenant alice]", "uid = no-such-user-here"]])
def test_a_wrong_configuration_changes_nothing(start, wrong):
    d = start(config=[*boss(), *section("alice")])
    alice = As(d, "alice")
    reload(d, [*boss(), *wrong], known="the configuration was not reloaded")
    alice.info()
    d.info()


def check_config(tmp_path, lines):
    path = tmp_path / "kiln.conf"
    path.write_text("\n".join(lines) + "\n")
    r = subprocess.run([BIN / "kilnd", "--config", path, "--check-config"], capture_output=True, text=True)
    return r.returncode, r.stderr


@pytest.mark.parametrize("lines, words", [
    (["[tenant a]", "token = hunter2"], "expected sha256:SALT:HASH"),
    (["[tenant a]", "token = sha256:0011:" + "0" * 64], "expected sha256:SALT:HASH"),
    (["[tenant a]", "uid = 7", "[tenant b]", "uid = 7"], "[tenant b]: uid: 7 is tenant 'a' already"),
    (["[tenant a]", "certificate = cn:x", "[tenant b]", "certificate = cn:x"], "'cn:x' is tenant 'a' already"),
    (["[tenant a]", "certificate = x"], "expected cn:NAME"),
])
def test_configurations_that_are_refused(tmp_path, lines, words):
    code, text = check_config(tmp_path, lines)
    assert code == 78 and words in text, text


def test_no_token_in_the_log(two):
    As(two, "alice").info()
    with fails(CODE.UNAUTHENTICATED):
        As(two, token="not-a-token-of-anybody").info()
    assert "not-a-token-of-anybody" not in two.log() and "alice-token" not in two.log()
    assert "authentication failed" in two.log()
