#!/usr/bin/env python3
"""ONNX's backend node tests, run through Kiln.

    onnx_suite.py [--runner kiln|eval|local|sse2|avx2|opencl|cuda] [--eval PATH] [--filter TEXT] [--every N] [--jobs N] [--open] [--update] [-v]

Every test of onnx.backend.test.case.node, and the stored ones of the kinds simple, pytorch-operator and
pytorch-converted, is compiled and run, and its outputs are compared with the
expected ones (rtol and atol of the test, 1e-3 and 1e-7 by default, as in ONNX's own runner). Prints

    N passed (of them N node tests, N with frozen inputs), N failed, N skipped

The runner opencl is the runner kiln with a daemon that has the first OpenCL device alone. The runner cuda is kiln-eval on the first GPU
and, for tests that only the daemon runs, a daemon that has it alone. --every N runs each N-th test: a driver may take a tenth of a second
for each kernel. --jobs N: in as many processes, each with a runner of its own.

onnx_not_passing.txt beside this file lists the tests that do not pass and why. The run fails when a
listed test passes or an unlisted one does not, so the list is always true; --update rewrites it. One
exception: differences in 16-bit floats (see rounding_only).

--open leaves every size of the inputs to the run, whatever the test says.

Frozen inputs: where the compiler says that a value which the test gives as an input has to be known at compile time,
the test is run again with its integer inputs (then, with all inputs) as initializers; the count is
printed. "skipped" are tests about strings.

Values of a test are arrays, lists of arrays (sequences) and None (an optional without a value), in
and out, whatever the runner. The eval runner spells them as docs/onnx.md says: tensors NAME[K].
"""

import argparse
import glob
import multiprocessing
import os
import struct
import subprocess
import sys
import tempfile
import warnings

import numpy as np
import onnx
from onnx import numpy_helper

HERE = os.path.dirname(os.path.abspath(__file__))
LIST = os.path.join(HERE, "onnx_not_passing.txt")


# Why a difference in numbers is one, by the beginning of the test's name.
WHY = {
    "test_dft_inverse": "expected values carry the error of an FFT in f32, 1.9e-7 where the exact value is 0; Kiln's are exact, rounded",
    "test_attention_4d_causal_fp16": "one step of f16: the reference rounds softmax's exponentials and sums to f16, Kiln computes them in f32",
}


class RunError(Exception):
    """A refusal: `code` is a gRPC status name."""

    def __init__(self, code, message):
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message


def numpy_dtype(name):
    import ml_dtypes

    table = {"bool": np.bool_, "f16": np.float16, "f32": np.float32, "f64": np.float64, "bf16": ml_dtypes.bfloat16,
             "f8e4m3fn": ml_dtypes.float8_e4m3fn, "f8e4m3fnuz": ml_dtypes.float8_e4m3fnuz, "f8e5m2": ml_dtypes.float8_e5m2,
             "f8e5m2fnuz": ml_dtypes.float8_e5m2fnuz, "f8e8m0": ml_dtypes.float8_e8m0fnu, "f4e2m1": ml_dtypes.float4_e2m1fn,
             "i4": ml_dtypes.int4, "u4": ml_dtypes.uint4, "i2": ml_dtypes.int2, "u2": ml_dtypes.uint2}
    for bits in (8, 16, 32, 64):
        table[f"i{bits}"] = np.dtype(f"int{bits}")
        table[f"u{bits}"] = np.dtype(f"uint{bits}")
    return np.dtype(table[name.lower()])


class EvalRunner:
    """The frontend and the reference interpreter (or, with --compiled, the whole compiler and the CPU device),
    in one kiln-eval process that stays alive."""

    def __init__(self, path, options):
        self.path, self.options = path, options
        self.process = None

    def _start(self):
        self.process = subprocess.Popen([self.path, "--serve", *self.options], stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE)

    def _blob(self):
        head = self.process.stdout.read(8)
        if len(head) != 8:
            self.process.wait()
            code, self.process = self.process.returncode, None
            raise RunError("CRASH", f"kiln-eval ended with {code}")
        return self.process.stdout.read(struct.unpack("<Q", head)[0])

    def run(self, model, inputs, dims):
        if not self.process:
            self._start()
        inputs = flat(inputs)
        lines = [f"{k}={v}" for k, v in dims.items()]
        lines += [f"@{k}=" + " ".join(map(str, v.shape)) for k, v in inputs.items()]
        blobs = [model, "\n".join(lines).encode(), str(len(inputs)).encode()]
        for name, array in inputs.items():
            blobs += [name.encode(), np.ascontiguousarray(array).tobytes()]
        try:
            for b in blobs:
                self.process.stdin.write(struct.pack("<Q", len(b)) + b)
            self.process.stdin.flush()
        except BrokenPipeError:
            pass  # the reply, or its absence, says why
        status = self._blob().decode()
        if status != "ok":
            raise RunError(status, self._blob().decode(errors="replace"))
        outputs = {}
        for _ in range(int(self._blob())):
            name, dtype = self._blob().decode(), numpy_dtype(self._blob().decode())
            shape = [int(d) for d in self._blob().split()]
            outputs[name] = np.frombuffer(self._blob(), dtype).reshape(shape)
        for _ in range(int(self._blob())):
            name, length = self._blob().decode(), self._blob().decode()
            outputs[name] = None if length == "none" else [outputs.pop(f"{name}[{k}]") for k in range(int(length))]
        return outputs

    def close(self):
        if self.process:
            self.process.stdin.close()
            self.process.wait()


class KilnRunner:
    """The Python package, through a daemon: KILN_SERVER, or one started for the run (with that device)."""

    def __init__(self, device=None):
        sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
        import kiln
        import serving

        self.kiln = kiln
        with tempfile.NamedTemporaryFile("w", suffix=".ini") as config:
            config.write(f"[workers]\ndevice = {device}\n" if device else "")
            config.flush()
            own = device or not os.environ.get("KILN_SERVER")
            self.server = serving.Server("--config", config.name) if own else None
        self.client = kiln.connect(self.server.target if self.server else None)

    def run(self, model, inputs, dims):
        try:
            options = self.kiln.Options(dims=dims) if dims else None
            exe = self.client.compile(model, options=options) if options else self.client.compile(model)
            try:
                return dict(exe.run(inputs))
            finally:
                if hasattr(exe, "release"):
                    exe.release()
        except self.kiln.Error as e:
            raise RunError(e.code, str(e)) from None

    def close(self):
        self.client.close()
        if self.server:
            self.server.stop()


DEVICES = {"kiln": None, "opencl": "opencl:0", "cuda-daemon": "cuda:0"}


def make_runner(args, name=None):
    name = name or args.runner
    if not name:
        try:
            import kiln  # noqa: F401

            name = "kiln"
        except ImportError:
            name = "eval"
    options = {"eval": [], "local": ["--compiled"], "sse2": ["--compiled", "sse2"], "avx2": ["--compiled", "avx2"],
               "cuda": ["--compiled", "cuda"]}
    if name in DEVICES:
        return KilnRunner(DEVICES[name])
    return EvalRunner(args.eval, options[name])


def flat(inputs):
    """The tensors of the inputs: the elements of a sequence are NAME[K]."""
    tensors = {}
    for name, value in inputs.items():
        if isinstance(value, list):
            tensors.update({f"{name}[{k}]": v for k, v in enumerate(value)})
        elif value is not None:
            tensors[name] = value
    return tensors


def bind_tensor(name, kind, array):
    if not kind.HasField("shape"):
        return {f"{name}.rank": array.ndim}
    sizes = [axis for axis, dim in enumerate(kind.shape.dim) if not dim.HasField("dim_value")]
    return {f"{name}.{axis}": 0 for axis in sizes if array.shape[axis] == 0}  # without a binding a size is at least 1


def bindings(model, inputs):
    """The ranks that the model leaves open, sizes of 0, and what sequences and optionals need. Other sizes are left to the run."""
    dims = {}
    for info in model.graph.input:
        if info.name not in inputs:
            continue
        value, kind = inputs[info.name], info.type
        if kind.HasField("optional_type"):
            kind = kind.optional_type.elem_type
        if value is None:
            dims[f"{info.name}.present"] = 0
        elif isinstance(value, list):
            dims[f"{info.name}.length"] = len(value)
            for k, array in enumerate(value):
                dims.update(bind_tensor(f"{info.name}[{k}]", kind.sequence_type.elem_type.tensor_type, array))
        else:
            dims.update(bind_tensor(info.name, kind.tensor_type, value))
    return dims


def freeze(model, inputs, which):
    """The model with some inputs turned into initializers."""
    frozen = onnx.ModelProto()
    frozen.CopyFrom(model)
    rest = {}
    for k, (name, array) in enumerate(inputs.items()):
        if isinstance(array, np.ndarray) and which(k, array):
            frozen.graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(array).reshape(array.shape), name))
            for i, info in enumerate(frozen.graph.input):
                if info.name == name:
                    del frozen.graph.input[i]
                    break
        else:
            rest[name] = array
    return frozen, rest


def open_sizes(model):
    """The model with the sizes above 1 of its tensor inputs left to the run, equal ones under one name. Vectors of integers keep
    their length, which tends to be a rank."""
    opened = onnx.ModelProto()
    opened.CopyFrom(model)
    for info in opened.graph.input:
        tensor = info.type.tensor_type
        if not info.type.HasField("tensor_type") or (len(tensor.shape.dim) == 1 and tensor.elem_type in (6, 7, 9)):
            continue
        for dim in tensor.shape.dim:
            if dim.dim_value > 1:
                dim.dim_param = f"size{dim.dim_value}"
    return opened


def describes_shapes(k, array):
    return array.dtype.kind in "iub" and array.ndim <= 1 and (k > 0 or array.ndim == 1) or (
        k > 0 and array.ndim == 0)


def compare(test, model, got, expected):
    names = [o.name for o in model.graph.output]
    if len(names) != len(expected):
        return "number of outputs"
    for name, want in zip(names, expected):
        reason = compare_value(test, name, got[name], want)
        if reason:
            return reason
    return None


def compare_value(test, name, have, want):
    if want is None or have is None:
        return None if have is want else f"output '{name}': {have}, expected {want}"
    if isinstance(want, list) != isinstance(have, list):
        return f"output '{name}': a tensor against a sequence"
    if isinstance(want, list):
        if len(have) != len(want):
            return f"output '{name}': {len(have)} tensors, expected {len(want)}"
        reasons = (compare_value(test, f"{name}[{k}]", *pair) for k, pair in enumerate(zip(have, want)))
        return next((r for r in reasons if r), None)
    want = np.asarray(want)
    if have.dtype != want.dtype:
        return f"output '{name}': dtype {have.dtype}, expected {want.dtype}"
    if have.shape != want.shape:
        return f"output '{name}': shape {have.shape}, expected {want.shape}"
    a, b = have, want
    if want.dtype.isbuiltin != 1:  # ml_dtypes' are exact in f32
        a, b = have.astype(np.float32), want.astype(np.float32)
    rtol = max(test.rtol, 2**-6) if want.dtype.name == "bfloat16" else test.rtol  # two steps of bf16, as in ONNX's own runner
    if not np.allclose(a, b, rtol=rtol, atol=test.atol, equal_nan=True):
        with np.errstate(all="ignore"):
            worst = np.nanmax(np.abs(a.astype(np.float64) - b.astype(np.float64)))
        return f"output '{name}' differs by up to {worst:.3g}"
    return None


def check_random(test, inputs, got):
    """What a random node's result is bound to be, as its numbers are others than numpy's; None for other tests."""
    node = test.model.graph.node[-1]
    if test.name.startswith("test_bernoulli"):
        return all(set(np.unique(v)) <= {0, 1} for v in got.values())
    if not test.name.startswith("test_training_dropout") or "zero_ratio" in test.name:
        return None
    ratio = float(inputs[node.input[1]]) if node.input[1] else 0.5
    x, y = inputs[node.input[0]], got[node.output[0]]
    kept = y != 0
    same_mask = all(np.array_equal(got[name], kept) for name in node.output[1:])
    return same_mask and 0 < kept.mean() < 1 and np.allclose(y[kept], x[kept] / (1 - ratio), rtol=1e-5)


def is_plain(value):
    if value is None or isinstance(value, list):
        return all(v is not None and is_plain(v) for v in value or [])
    return isinstance(value, (np.ndarray, np.generic)) and np.asarray(value).dtype.kind in "biufV" \
        and np.asarray(value).dtype.names is None


def run_test(runner, test, opened=False):
    """None when it passes, else the reason; and why inputs were frozen, if they were."""
    model, frozen = open_sizes(test.model) if opened else test.model, None
    decoded = [tuple([numpy_helper.to_array(v) if isinstance(v, onnx.TensorProto) else v for v in values] for values in pair)
               for pair in test.data_sets]
    for value in (v for ins, outs in decoded for v in list(ins) + list(outs)):
        if not is_plain(value):
            what = getattr(value, "dtype", None) or type(value).__name__
            return f"skip: a value is not a tensor of a dtype that Kiln has ({what})", None
    initializers = {t.name for t in model.graph.initializer}
    for ins, outs in decoded:
        names = [i.name for i in model.graph.input if i.name not in initializers]
        if len(names) != len(ins):
            return "skip: optional inputs left out", None
        inputs = {n: v if v is None or isinstance(v, list) else np.asarray(v) for n, v in zip(names, ins)}
        tries = [lambda k, a: False, describes_shapes, lambda k, a: True]
        for level, which in enumerate(tries):
            m, rest = freeze(model, inputs, which)
            try:
                got = runner.run(m.SerializeToString(), rest, bindings(m, rest))
                frozen = error if level > 0 else frozen
                break
            except RunError as e:
                error = f"{e.code}: {e.message}"
                if ELSEWHERE in error:
                    return f"skip: {ELSEWHERE}", frozen
                if e.code != "FAILED_PRECONDITION" or "known at compile time" not in e.message:
                    return error, frozen
        else:
            return error, frozen
        random = check_random(test, inputs, got)
        if random is not None:  # the numbers are free, dtypes and shapes are not
            right = random and all(got[o.name].dtype == w.dtype and got[o.name].shape == w.shape for o, w in zip(model.graph.output, outs))
            if not right:
                return "not what the random op may give", frozen
            continue
        reason = compare(test, model, got, outs)
        if reason:
            return reason, frozen
    return None, frozen


def load_tests(text):
    with warnings.catch_warnings(), open(os.devnull, "w") as null:
        warnings.simplefilter("ignore")
        from onnx.backend.test.case.node import collect_testcases

        stdout, sys.stdout = sys.stdout, null
        try:
            tests = collect_testcases(None)
        finally:
            sys.stdout = stdout
    tests += [t for kind in ("simple", "pytorch-operator", "pytorch-converted") for t in stored_tests(kind)]
    return sorted((t for t in tests if text in t.name), key=lambda t: t.name)


class StoredTest:
    """A test that the onnx package ships as files; its name is KIND/NAME."""

    rtol, atol = 1e-3, 1e-7

    def __init__(self, kind, path):
        self.name = f"{kind}/{os.path.basename(path)}"
        self.model = onnx.load(os.path.join(path, "model.onnx"))
        self.data_sets = []
        for folder in sorted(glob.glob(os.path.join(path, "test_data_set_*"))):
            graph = self.model.graph
            self.data_sets.append((self._read(folder, "input", graph.input), self._read(folder, "output", graph.output)))

    @staticmethod
    def _read(folder, prefix, infos):
        readers = {"tensor_type": (onnx.TensorProto, numpy_helper.to_array), "sequence_type": (onnx.SequenceProto, numpy_helper.to_list),
                   "optional_type": (onnx.OptionalProto, numpy_helper.to_optional)}
        values = []
        for k in range(len(glob.glob(os.path.join(folder, f"{prefix}_*.pb")))):
            message, decode = readers[infos[k].type.WhichOneof("value")]
            with open(os.path.join(folder, f"{prefix}_{k}.pb"), "rb") as f:
                values.append(decode(message.FromString(f.read())))
        return values


def stored_tests(kind):
    root = os.path.join(os.path.dirname(onnx.__file__), "backend", "test", "data", kind)
    return [StoredTest(kind, path) for path in sorted(glob.glob(os.path.join(root, "test_*")))]


def read_list():
    listed = {}
    if os.path.exists(LIST):
        with open(LIST) as f:
            for line in f:
                if line.strip() and not line.startswith("#"):
                    name, _, reason = line.strip().partition(": ")
                    listed[name] = reason
    return listed


def write_list(reasons):
    with open(LIST, "w") as f:
        f.write("# ONNX backend node tests that do not pass, and why. Written by onnx_suite.py --update.\n")
        for name in sorted(reasons):
            f.write(f"{name}: {reasons[name]}\n")


ELSEWHERE = "loops are run by the interpreter and the daemon alone"  # what kiln-eval --compiled says


def rounding_only(name, reason):
    """True for a difference in 16-bit floats. ONNX's tolerance is less than one rounding step of bf16, and the order in which a sum is
    taken depends on the processor's vectors, so such a test may pass on one machine and not on the next."""
    return "differs by" in reason and any(w in name for w in ("bf16", "bfloat16", "fp16", "float16"))


def run_part(part):
    """What run_test says of each test, by a runner of this process."""
    args, tests, name = part
    runner = make_runner(args, name)
    results = [run_test(runner, t, args.open) for t in tests]
    runner.close()
    return results


def run_tests(args, tests):
    if args.jobs == 1:
        return run_part((args, tests, args.runner))
    with multiprocessing.get_context("fork").Pool(args.jobs) as pool:
        parts = pool.map(run_part, [(args, tests[k :: args.jobs], args.runner) for k in range(args.jobs)])
    return [parts[k % args.jobs][k // args.jobs] for k in range(len(tests))]


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--runner", choices=["kiln", "eval", "local", "sse2", "avx2", "opencl", "cuda"])
    p.add_argument("--eval", default=os.path.join(HERE, "../../build/release/bin/kiln-eval"))
    p.add_argument("--filter", default="")
    p.add_argument("--every", type=int, default=1, metavar="N")
    p.add_argument("--jobs", type=int, default=1, metavar="N")
    p.add_argument("--open", action="store_true")
    p.add_argument("--update", action="store_true")
    p.add_argument("-v", action="store_true")
    args = p.parse_args()
    listed = read_list()
    reasons, passed, skipped, frozen_count, wrong = {}, 0, 0, 0, []
    tests, node_passed = load_tests(args.filter)[:: args.every], 0
    results = run_tests(args, tests)
    if args.runner == "cuda":
        rest = [t for t, (reason, _) in zip(tests, results) if reason and ELSEWHERE in reason]
        again = dict(zip((t.name for t in rest), run_part((args, rest, "cuda-daemon")) if rest else ()))
        results = [again.get(t.name, r) for t, r in zip(tests, results)]
    for test, (reason, frozen) in zip(tests, results):
        if args.v and frozen:
            print(f"{test.name}: with frozen inputs: {' '.join(frozen.split())[:200]}")
        if reason is None:
            passed += 1
            node_passed += "/" not in test.name
            frozen_count += frozen is not None
            if test.name in listed and not rounding_only(test.name, listed[test.name]):
                wrong.append(f"{test.name} passes, but is listed")
            continue
        reason = " ".join(reason.split())[:300]
        why = next((w for start, w in WHY.items() if test.name.startswith(start)), None)
        if why and "differs by" in reason:
            reason += f" ({why})"
        reasons[test.name] = reason
        skipped += reason.startswith("skip:")
        if args.v:
            print(f"{test.name}: {reason}")
        if test.name not in listed and not rounding_only(test.name, reason) and ELSEWHERE not in reason:
            wrong.append(f"{test.name} does not pass: {reason}")
    if args.update and not args.filter and args.every == 1:
        write_list(reasons)
        wrong = []
    for line in wrong:
        print(line)
    print(f"{passed} passed (of them {node_passed} node tests, {frozen_count} with frozen inputs), "
          f"{len(reasons) - skipped} failed, {skipped} skipped")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
