"""Start, stop, configuration, sockets, and the two standard services."""
import os
import signal
import socket
import stat
import subprocess
import threading
import time

import grpc
import numpy as np
from conftest import BIN, Daemon, add_graph, fails, kiln_pb2

C = grpc.StatusCode


def kilnd(*args):
    return subprocess.run([str(BIN / "kilnd"), *args], capture_output=True, text=True, timeout=20)


def test_reflection_lists_the_services(daemon):
    from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
    from google.protobuf.descriptor_pool import DescriptorPool
    db = ProtoReflectionDescriptorDatabase(daemon.channel)
    services = set(db.get_services())
    assert {"kiln.v1.Kiln", "grpc.health.v1.Health"} <= services
    service = DescriptorPool(db).FindServiceByName("kiln.v1.Kiln")
    assert {"Compile", "Run", "Upload"} <= {m.name for m in service.methods}


def test_health(daemon):
    from grpc_health.v1 import health_pb2, health_pb2_grpc
    health = health_pb2_grpc.HealthStub(daemon.channel)
    for service in ("", "kiln.v1.Kiln", "device:cpu:0"):
        assert health.Check(health_pb2.HealthCheckRequest(service=service)).status == 1
    with fails(C.NOT_FOUND, "nonsense"):
        health.Check(health_pb2.HealthCheckRequest(service="nonsense"))
    watch = health.Watch(health_pb2.HealthCheckRequest(service="nonsense"))
    assert next(watch).status == 3  # SERVICE_UNKNOWN
    watch.cancel()


def test_socket_is_private(start):
    d = start()
    assert stat.S_IMODE(os.stat(d.socket).st_mode) == 0o600
    assert stat.S_IMODE(os.stat(d.socket.parent).st_mode) == 0o700


def test_second_server_on_the_same_socket(start):
    d = start()
    r = kilnd("--listen", f"unix:{d.socket}", "--no-cache")
    assert r.returncode == 69 and "listens on" in r.stderr
    assert d.info().pid == d.process.pid


def test_stale_socket_is_replaced(start, tmp_path):
    folder = tmp_path / "s"
    (folder / "run").mkdir(parents=True)
    s = socket.socket(socket.AF_UNIX)
    s.bind(str(folder / "run" / "kiln.sock"))
    s.close()
    start(folder=folder)


def test_file_in_place_of_the_socket(tmp_path):
    path = tmp_path / "file"
    path.write_text("precious")
    r = kilnd("--listen", f"unix:{path}", "--no-cache")
    assert r.returncode == 69 and "not a socket" in r.stderr and path.read_text() == "precious"


def test_loopback_tcp(start):
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    d = start(args=["--listen", f"127.0.0.1:{port}"])
    with grpc.insecure_channel(f"127.0.0.1:{port}") as c:
        from conftest import kiln_pb2_grpc
        assert kiln_pb2_grpc.KilnStub(c).GetServerInfo(kiln_pb2.GetServerInfoRequest()).pid == d.process.pid


def test_sigterm_finishes_requests(start):
    d = start(config=["[workers]", "compile = 1"])
    pids = d.wait_children("compile")
    os.kill(pids[0], signal.SIGSTOP)
    call = d.stub.Compile.future(d.compile_parts(add_graph(16)), timeout=30)
    time.sleep(0.3)
    d.process.send_signal(signal.SIGTERM)
    time.sleep(0.3)
    os.kill(pids[0], signal.SIGCONT)
    assert call.result().executable
    assert d.process.wait(20) == 0
    assert not d.socket.exists()


def test_sigterm_with_a_stuck_request(start):
    d = start(config=["[server]", "grace = 1", "[workers]", "compile = 1"])
    os.kill(d.wait_children("compile")[0], signal.SIGSTOP)
    call = d.stub.Compile.future(d.compile_parts(add_graph(16)), timeout=30)
    time.sleep(0.3)
    d.process.send_signal(signal.SIGTERM)
    assert d.process.wait(20) == 0
    with fails(C.UNAVAILABLE):
        call.result()


def test_sigint_and_workers_end(start):
    d = start()
    workers = d.wait_children("compile") + d.children("device")
    d.process.send_signal(signal.SIGINT)
    assert d.process.wait(20) == 0
    end = time.time() + 5
    while any(os.path.exists(f"/proc/{p}") for p in workers):
        assert time.time() < end
        time.sleep(0.01)


def test_stop_with_open_watch_and_idle_connection(start):
    from grpc_health.v1 import health_pb2, health_pb2_grpc
    d = start()
    seen = []

    def watch():
        try:
            for m in health_pb2_grpc.HealthStub(d.channel).Watch(health_pb2.HealthCheckRequest()):
                seen.append(m.status)
        except grpc.RpcError:
            pass
    t = threading.Thread(target=watch, daemon=True)
    t.start()
    end = time.time() + 5
    while not seen:
        assert time.time() < end
    began = time.time()
    d.process.send_signal(signal.SIGTERM)
    assert d.process.wait(20) == 0 and time.time() - began < 5
    t.join(5)
    assert seen == [1, 2]  # was told before the end


def test_idle_exit(start):
    d = start(args=["--idle-exit", "1"])
    time.sleep(0.5)
    d.compile(add_graph(16))
    began = time.time()
    assert d.process.wait(20) == 0
    assert 0.5 < time.time() - began < 6
    assert 'why="idle"' in d.log()


def test_check_config(tmp_path):
    good = tmp_path / "good.conf"
    good.write_text("[server]\nlisten = unix:/tmp/x.sock\n[limits]\nmodel = 1G\n")
    r = kilnd("--config", str(good), "--check-config")
    assert r.returncode == 0 and "valid" in r.stdout
    for text, words in [("[server]\nlisten = 0.0.0.0:80\n", ["insecure_tcp"]),
                        ("[server]\nfoo = 1\n", ["bad.conf:2", "foo"]),
                        ("[limits]\nmodel = many\n", ["bad.conf:2", "many"]),
                        ("nonsense\n", ["bad.conf:1"])]:
        bad = tmp_path / "bad.conf"
        bad.write_text(text)
        r = kilnd("--config", str(bad), "--check-config")
        assert r.returncode == 78 and all(w in r.stderr for w in words), r.stderr


def test_shipped_configuration_is_valid():
    from conftest import ROOT
    assert kilnd("--config", str(ROOT / "deploy/kiln.conf"), "--check-config").returncode == 0


def test_many_connections(start):
    d = start(config=["[server]", "max_connections = 40"])
    sockets = []
    for _ in range(60):
        s = socket.socket(socket.AF_UNIX)
        s.connect(str(d.socket))
        sockets.append(s)
    for s in sockets:
        s.close()
    time.sleep(0.2)
    assert d.info().pid


def test_throughput_of_small_runs(daemon):
    r = daemon.compile(add_graph(16))
    x = np.ones(16, np.float32)
    for _ in range(200):
        assert daemon.run(r.executable, {"x": x, "b": x})["y"][0] == 2


def test_asked_to_stop_again_and_again(start):
    """To the last moment: exit status 0 and a whole cache file, not death by the signal."""
    d = start()
    while d.process.poll() is None:
        d.process.send_signal(signal.SIGTERM)
        time.sleep(0.0005)
    assert d.process.returncode == 0, d.log()
    assert 'msg="stopped"' in d.log()
