"""The KServe v2 (Open Inference Protocol) facade, by a stock tritonclient and the stubs that it brings; reflection by stock grpcio."""
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
from conftest import Daemon, Graph, add_graph, ends_well, fails
from google.protobuf import descriptor_pool
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from tritonclient.grpc import service_pb2, service_pb2_grpc
from tritonclient.utils import InferenceServerException, np_to_triton_dtype


def typed_graph(dtype):
    """y = x + x for n elements of a dtype, n chosen by the run."""
    g = Graph()
    x = g.param("x", [4], dtype)
    g.output("y", g.node("ADD", x, x) if dtype != "bool" else g.node("AND", x, x))
    return g.bytes()


def onnx_model():
    import onnx
    from onnx import TensorProto, helper
    rows = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3])
    out = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 2])
    weight = helper.make_tensor("w", TensorProto.FLOAT, [3, 2], [1, 2, 3, 4, 5, 6])
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"])], "g", [rows], [out], [weight])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    return onnx.ModelProto.SerializeToString(model)


@pytest.fixture
def folder(tmp_path):
    models = tmp_path / "models"
    (models / "versioned" / "2").mkdir(parents=True)
    (models / "versioned" / "10").mkdir()
    (models / "matmul.onnx").write_bytes(onnx_model())
    (models / "versioned" / "2" / "model.kgraph").write_bytes(b"an old one that nobody reads")
    (models / "versioned" / "10" / "model.kgraph").write_bytes(add_graph())
    (models / "broken.onnx").write_bytes(b"no model")
    (models / "notes.txt").write_text("not a model")
    return models


@pytest.fixture
def served(start, folder):
    d = start(config=["[server]", f"models = {folder}"])
    client = triton.InferenceServerClient(f"unix:{d.socket}")
    end = time.time() + 60
    while not client.is_server_ready():
        assert time.time() < end, d.log()
        time.sleep(0.02)
    yield d, client
    client.close()


def infer(client, name, values, **kw):
    inputs = []
    for key, a in values.items():
        i = triton.InferInput(key, a.shape, np_to_triton_dtype(a.dtype))
        i.set_data_from_numpy(a)
        inputs.append(i)
    return client.infer(name, inputs, **kw)


def test_server(served):
    d, client = served
    assert client.is_server_live() and client.is_server_ready()
    m = client.get_server_metadata()
    assert m.name == "kiln" and m.version and "model_repository" in m.extensions


def test_models_of_the_folder(served):
    d, client = served
    index = {m.name: (m.state, m.version) for m in client.get_model_repository_index().models}
    assert index == {"matmul": ("READY", "1"), "versioned": ("READY", "10"), "broken": ("UNAVAILABLE", "1")}
    broken = next(m for m in client.get_model_repository_index().models if m.name == "broken")
    assert "ModelProto" in broken.reason or "protobuf" in broken.reason or broken.reason, broken.reason
    assert client.is_model_ready("matmul") and client.is_model_ready("versioned", "10")
    assert not client.is_model_ready("versioned", "2") and not client.is_model_ready("broken") and not client.is_model_ready("nothing")


def test_metadata_and_configuration(served):
    d, client = served
    m = client.get_model_metadata("matmul")
    assert (m.name, list(m.versions), m.platform) == ("matmul", ["1"], "kiln_onnx")
    assert [(i.name, i.datatype, list(i.shape)) for i in m.inputs] == [("x", "FP32", [-1, 3])]
    assert [(o.name, o.datatype, list(o.shape)) for o in m.outputs] == [("y", "FP32", [-1, 2])]
    c = client.get_model_config("versioned").config
    assert c.name == "versioned" and c.max_batch_size == 0 and c.backend == "kiln"
    assert [(i.name, i.data_type, list(i.dims)) for i in c.input] == [("x", 11, [16]), ("b", 11, [16])]
    assert [(o.name, o.data_type, list(o.dims)) for o in c.output] == [("y", 11, [16])]


@pytest.mark.parametrize("rows", [1, 7])
def test_infer(served, rows):
    d, client = served
    x = np.random.default_rng(rows).random((rows, 3), np.float32)
    r = infer(client, "matmul", {"x": x}, request_id="my request")
    assert r.get_response().id == "my request" and r.get_response().model_version == "1"
    np.testing.assert_allclose(r.as_numpy("y"), x @ np.arange(1, 7, dtype=np.float32).reshape(3, 2), rtol=1e-6)
    assert infer(client, "matmul", {"x": x}, outputs=[triton.InferRequestedOutput("y")]).as_numpy("y").shape == (rows, 2)


def test_statistics(served):
    d, client = served
    for _ in range(3):
        infer(client, "matmul", {"x": np.zeros((1, 3), np.float32)})
    with pytest.raises(InferenceServerException):
        infer(client, "matmul", {"x": np.zeros((1, 4), np.float32)})
    s = client.get_inference_statistics("matmul").model_stats[0]
    assert (s.name, s.inference_count, s.inference_stats.success.count, s.inference_stats.fail.count) == ("matmul", 3, 3, 1)
    assert 0 < s.inference_stats.compute_infer.ns < s.inference_stats.success.ns
    assert abs(s.last_inference / 1000 - time.time()) < 60
    assert len(client.get_inference_statistics().model_stats) == 3


def test_load_with_content_and_unload(served):
    d, client = served
    client.load_model("mine", config="{}", files={"file:1/model.kgraph": add_graph(8)})
    x = np.arange(8, dtype=np.float32)
    np.testing.assert_array_equal(infer(client, "mine", {"x": x, "b": x}).as_numpy("y"), 2 * x)
    client.load_model("mine", config="{}", files={"file:1/model.kgraph": add_graph(4)})  # takes the place of the first
    np.testing.assert_array_equal(infer(client, "mine", {"x": x[:4], "b": x[:4]}).as_numpy("y"), 2 * x[:4])
    with pytest.raises(InferenceServerException):
        client.load_model("mine", config="{}", files={"file:1/model.onnx": b"no model"})
    assert infer(client, "mine", {"x": x[:4], "b": x[:4]}).as_numpy("y").shape == (4,)  # the good one goes on
    client.unload_model("mine")
    with pytest.raises(InferenceServerException, match="no model 'mine'"):
        infer(client, "mine", {"x": x, "b": x})
    audits = [line for line in d.log().splitlines() if "level=audit" in line]
    assert len(audits) == 4 and 'action="model.load"' in audits[0] and 'subject="model=mine"' in audits[0]
    assert "code=OK" not in audits[2] and 'action="model.unload"' in audits[3]


def test_load_from_the_folder(served, folder):
    d, client = served
    (folder / "late.kgraph").write_bytes(add_graph(2))
    client.load_model("late")
    assert client.is_model_ready("late")
    client.unload_model("late")
    assert not client.is_model_ready("late")
    with pytest.raises(InferenceServerException, match="no model 'later'"):
        client.load_model("later")
    assert "later" not in [m.name for m in client.get_model_repository_index().models]


def test_names_do_not_leave_the_folder(served, folder, tmp_path):
    d, client = served
    (tmp_path / "outside.onnx").write_bytes(onnx_model())
    (folder / "link.onnx").symlink_to(tmp_path / "outside.onnx")
    os.mkfifo(folder / "pipe.onnx")
    for name in ["../outside", "/etc/passwd", "..", ".", "", "a/b", "x\ny", "a" * 200]:
        with pytest.raises(InferenceServerException, match="no name for a model"):
            client.load_model(name)
    for name in ["link", "pipe"]:
        with pytest.raises(InferenceServerException):
            client.load_model(name)
    assert client.is_server_ready()


# -- what tritonclient does not do: typed contents and malformed requests --------------------------

CONTENTS = {"bool": ("BOOL", "bool_contents"), "int8": ("INT8", "int_contents"), "int16": ("INT16", "int_contents"),
            "int32": ("INT32", "int_contents"), "int64": ("INT64", "int64_contents"), "uint8": ("UINT8", "uint_contents"),
            "uint16": ("UINT16", "uint_contents"), "uint32": ("UINT32", "uint_contents"), "uint64": ("UINT64", "uint64_contents"),
            "float32": ("FP32", "fp32_contents"), "float64": ("FP64", "fp64_contents")}
VALUES = {"b": [True, False, True, True], "i": [-3, 0, 1, 60], "u": [0, 1, 2, 120], "f": [-1.5, 0, 0.25, 3]}


@pytest.fixture(scope="module")
def ours(tmp_path_factory):
    d = Daemon(tmp_path_factory.mktemp("kserve"))
    stub = service_pb2_grpc.GRPCInferenceServiceStub(d.channel)
    for dtype in CONTENTS:
        request = service_pb2.RepositoryModelLoadRequest(model_name=dtype)
        request.parameters["file:1/model.kgraph"].bytes_param = typed_graph(dtype)
        stub.RepositoryModelLoad(request, timeout=60)
    yield service_pb2, stub, d.channel
    ends_well(d)


def request(pb, dtype="float32", values=None, shape=(4,), **kw):
    name, field = CONTENTS[dtype]
    values = VALUES[dtype[0]] if values is None else values
    r = pb.ModelInferRequest(model_name=dtype, **kw)
    r.inputs.add(name="x", datatype=name, shape=shape, contents=pb.InferTensorContents(**{field: values}))
    return r


@pytest.mark.parametrize("dtype", CONTENTS)
def test_typed_contents(ours, dtype):
    pb, stub, _ = ours
    r = stub.ModelInfer(request(pb, dtype), timeout=60)
    assert r.outputs[0].datatype == CONTENTS[dtype][0] and list(r.outputs[0].shape) == [4]
    x = np.array(VALUES[dtype[0]], dtype)
    np.testing.assert_array_equal(np.frombuffer(r.raw_output_contents[0], dtype), x if dtype == "bool" else x + x)


def test_what_is_refused(ours):
    pb, stub, channel = ours
    cases = []

    def case(code, *words, edit=None, **kw):
        r = request(pb, **kw)
        if edit:
            edit(r)
        cases.append((code, words, r))
    code = grpc.StatusCode
    case(code.NOT_FOUND, "nothing", edit=lambda r: setattr(r, "model_name", "nothing"))
    case(code.NOT_FOUND, "version '7'", edit=lambda r: setattr(r, "model_version", "7"))
    case(code.INVALID_ARGUMENT, "16 bytes", "12", values=[1, 2, 3])
    case(code.INVALID_ARGUMENT, "f32[4]", "f32[5]", values=[1] * 5, shape=(5,))
    case(code.INVALID_ARGUMENT, "x", shape=(-1,))
    case(code.INVALID_ARGUMENT, "missing", edit=lambda r: r.ClearField("inputs"))
    case(code.INVALID_ARGUMENT, "'FP99'", edit=lambda r: setattr(r.inputs[0], "datatype", "FP99"))
    case(code.INVALID_ARGUMENT, "'BYTES'", edit=lambda r: setattr(r.inputs[0], "datatype", "BYTES"))
    case(code.INVALID_ARGUMENT, "typed contents", edit=lambda r: setattr(r.inputs[0], "datatype", "FP16"))
    case(code.INVALID_ARGUMENT, "no contents", edit=lambda r: r.inputs[0].ClearField("contents"))
    case(code.INVALID_ARGUMENT, "beside", edit=lambda r: r.raw_input_contents.append(b"\0" * 16))
    case(code.INVALID_ARGUMENT, "each of 1 inputs, got 2", edit=lambda r: r.raw_input_contents.extend([b"", b""]))
    case(code.INVALID_ARGUMENT, "'z'", edit=lambda r: setattr(r.inputs[0], "name", "z"))
    case(code.INVALID_ARGUMENT, "twice", edit=lambda r: r.inputs.append(r.inputs[0]))
    case(code.INVALID_ARGUMENT, "'w'", edit=lambda r: r.outputs.add(name="w"))
    for status, words, r in cases:
        with fails(status, *words):
            stub.ModelInfer(r, timeout=30)
    raw = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer", request_serializer=bytes, response_deserializer=bytes)
    for bad in (b"\xff", b"\x0a\x7fx", b"\x2a\x02\x0a\x05"):
        with fails(code.INVALID_ARGUMENT):
            raw(bad, timeout=30)


def test_load_is_checked(ours):
    pb, stub, _ = ours

    def load(key, value, name="m", repository=""):
        r = pb.RepositoryModelLoadRequest(model_name=name, repository_name=repository)
        if isinstance(value, bytes):
            r.parameters[key].bytes_param = value
        else:
            r.parameters[key].string_param = value
        return r
    code = grpc.StatusCode
    for status, r in [(code.INVALID_ARGUMENT, load("file:1/model.pt", b"x")), (code.INVALID_ARGUMENT, load("file:1/model.onnx", b"")),
                      (code.INVALID_ARGUMENT, load("file:1/model.onnx", "text")), (code.INVALID_ARGUMENT, load("other", "x")),
                      (code.NOT_FOUND, load("file:1/model.onnx", b"x", repository="r")), (code.INVALID_ARGUMENT, load("file:a.onnx", b"x", "a/b")),
                      (code.FAILED_PRECONDITION, load("config", "{}"))]:
        with fails(status):
            stub.RepositoryModelLoad(r, timeout=30)
    assert {m.name for m in stub.RepositoryIndex(pb.RepositoryIndexRequest(), timeout=30).models} == set(CONTENTS)


def test_a_load_whose_client_goes_away(ours):
    pb, stub, _ = ours
    r = pb.RepositoryModelLoadRequest(model_name="gone")
    r.parameters["file:model.kgraph"].bytes_param = add_graph(333)
    call = stub.RepositoryModelLoad.future(r, timeout=30)
    time.sleep(0.005)
    call.cancel()
    end = time.time() + 30
    while [m.state for m in stub.RepositoryIndex(pb.RepositoryIndexRequest(), timeout=30).models if m.name == "gone"] == ["LOADING"]:
        assert time.time() < end
        time.sleep(0.01)
    names = [m.name for m in stub.RepositoryIndex(pb.RepositoryIndexRequest(), timeout=30).models]
    if "gone" in names:
        stub.RepositoryModelUnload(pb.RepositoryModelUnloadRequest(model_name="gone"), timeout=30)


def test_reflection_by_stock_tools(ours):
    _, _, channel = ours
    reflected = ProtoReflectionDescriptorDatabase(channel)
    assert set(reflected.get_services()) >= {"inference.GRPCInferenceService", "kiln.v1.Kiln", "grpc.health.v1.Health"}
    service = descriptor_pool.DescriptorPool(reflected).FindServiceByName("inference.GRPCInferenceService")
    method = service.FindMethodByName("ModelInfer")
    assert [f.name for f in method.input_type.fields][:3] == ["model_name", "model_version", "id"]


# -- under load ------------------------------------------------------------------------------------

@pytest.mark.parametrize("connections", ["kept", "new"])
def test_upgrade_drops_no_inference(tmp_path, folder, connections):
    """Models are called by name, so a client notices nothing of an upgrade: not one call fails. Those that connect anew for every call
    meet each daemon as early, and as late, as it accepts."""
    from test_service import Manager
    manager = Manager(tmp_path)
    manager.listen("calls")
    config = ["[server]", f"models = {folder}"]
    old = manager.start(config=config)
    failures, counts, done = [], [0] * 3, threading.Event()
    x = np.ones((2, 3), np.float32)

    def work(i):
        while not done.is_set():
            # without channel_args all clients of a process share one connection
            with triton.InferenceServerClient(f"unix:{tmp_path}/calls.sock", channel_args=[("grpc.use_local_subchannel_pool", 1)]) as client:
                while not done.is_set():
                    try:
                        assert infer(client, "matmul", {"x": x}).as_numpy("y").tolist() == [[9, 12]] * 2
                        counts[i] += 1
                    except Exception as e:
                        failures.append(f"{type(e).__name__}: {e}")
                    if connections == "new":
                        break
    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(counts))]
    for t in threads:
        t.start()

    def more(n):
        want, end = sum(counts) + n, time.time() + 60
        while sum(counts) < want and not failures:
            assert time.time() < end
            time.sleep(0.01)
    try:
        for _ in range(3):
            more(100)
            new = manager.start(config=config)  # ready with its models loaded
            more(50)
            old.process.send_signal(signal.SIGTERM)
            more(100)
            assert old.process.wait(30) == 0, old.log()
            old = new
    finally:
        done.set()
        for t in threads:
            t.join(60)
    assert not failures, failures[:5]
    manager.stop()


def test_perf_analyzer(start, folder):
    """The independent load generator drives a model, where it can be installed."""
    tool = shutil.which("perf_analyzer", path=f"{pathlib.Path(sys.executable).parent}:{os.environ['PATH']}")
    # it is linked with the CUDA runtime, which a package of its own brings
    runtime = [p for root in sys.path for p in pathlib.Path(root).glob("nvidia/cuda_runtime/lib")]
    env = {**os.environ, "LD_LIBRARY_PATH": ":".join([*map(str, runtime), os.environ.get("LD_LIBRARY_PATH", "")])}
    if not tool or subprocess.run([tool, "--version"], env=env, capture_output=True).returncode:
        pytest.skip("perf_analyzer is not installed, or does not run here")
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        address = "127.0.0.1:%d" % s.getsockname()[1]
    d = start(config=["[server]", f"models = {folder}"], args=["--listen", address])
    client = triton.InferenceServerClient(address)
    while not client.is_server_ready():
        time.sleep(0.02)
    out = subprocess.run([tool, "-m", "versioned", "-i", "grpc", "-u", address, "--concurrency-range", "2", "-p", "500", "-r", "3", "-s", "1000"],
                         capture_output=True, text=True, timeout=120, env=env)
    # 2: the machine was too busy for its measurements to agree, which is not what is tested
    assert out.returncode in (0, 2), out.stdout + out.stderr
    s = client.get_inference_statistics("versioned").model_stats[0]
    assert s.inference_count >= 200 and s.inference_stats.fail.count == 0, out.stdout + d.log()
    client.close()


def test_tenants_see_their_own_models(start, folder):
    """A model that came with a request is its tenant's; what is in the folder is everybody's, and only an admin changes it."""
    from tenants import boss, section
    d = start(config=["[server]", f"models = {folder}", *boss(), *section("ann"), *section("ben"), *section("root", roles="run admin")])
    client = triton.InferenceServerClient(f"unix:{d.socket}")
    ann, ben, root = ({"authorization": f"Bearer {n}-token"} for n in ("ann", "ben", "root"))
    while not client.is_server_ready():
        time.sleep(0.02)
    x = np.arange(8, dtype=np.float32)
    client.load_model("mine", headers=ann, config="{}", files={"file:model.kgraph": add_graph(8)})
    assert infer(client, "mine", {"x": x, "b": x}, headers=ann).as_numpy("y").shape == (8,)
    with pytest.raises(InferenceServerException, match="no model 'mine'"):
        infer(client, "mine", {"x": x, "b": x}, headers=ben)
    with pytest.raises(InferenceServerException, match="no model 'mine'"):
        client.get_model_metadata("mine", headers=ben)
    assert not client.is_model_ready("mine", headers=ben)
    for who in (ben, root):
        assert "mine" not in {m.name for m in client.get_model_repository_index(headers=who).models}
        assert "mine" not in {m.name for m in client.get_inference_statistics(headers=who).model_stats}
    client.load_model("mine", headers=ben, config="{}", files={"file:model.kgraph": add_graph(4)})  # a name of his own
    assert infer(client, "mine", {"x": x, "b": x}, headers=ann).as_numpy("y").shape == (8,)
    for who in (ann, ben, root):
        assert infer(client, "versioned", {"x": np.zeros(16, np.float32), "b": np.zeros(16, np.float32)}, headers=who).as_numpy("y").shape == (16,)
    for action in (client.load_model, client.unload_model):
        with pytest.raises(InferenceServerException, match="role admin"):
            action("versioned", headers=ann)
    client.unload_model("versioned", headers=root)
    client.unload_model("mine", headers=ben)
    assert client.is_model_ready("mine", headers=ann) and not client.is_model_ready("mine", headers=ben)
    assert "tenant=ann" in next(line for line in d.log().splitlines() if "level=audit" in line)
    client.close()


def test_models_survive_their_device(start, folder):
    d = start(config=["[server]", f"models = {folder}"])
    with triton.InferenceServerClient(f"unix:{d.socket}") as client:
        while not client.is_server_ready():
            time.sleep(0.02)
        x = np.ones((1, 3), np.float32)
        for _ in range(3):
            os.kill(d.wait_children("device")[0], signal.SIGKILL)
            d.wait_ready()
            assert infer(client, "matmul", {"x": x}).as_numpy("y").tolist() == [[9, 12]]
