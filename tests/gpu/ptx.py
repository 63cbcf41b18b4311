#!/usr/bin/env python3
"""Every kernel of models as PTX for several GPUs, assembled by ptxas: what a GPU would be given, without one.

    ptx.py [--every N] [--arch ARCH,...] [--nvrtc ARCH,...] [--kiln BUILD] [--jobs N]

The models are the networks of the onnx package, transformer stacks, rows and columns of sizes that matter, and every N-th node test of
ONNX. Equal kernels are assembled once. A kernel that cannot be compiled, or that ptxas refuses, is an error; kernels whose registers do
not suffice (spills) are counted and named. Needs ptxas in PATH, or the nvidia-cuda-nvcc package in this Python. Kernels that
may be compiled from CUDA C++ are so, a sample of them, where NVRTC is: on the linker's path, or the nvidia-cuda-nvrtc package.
"""
import argparse
import concurrent.futures
import glob
import hashlib
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.join(HERE, "../model")]
import kiln
import models
import onnx_suite

# the processor that code is generated for, its PTX version, and the KiB that a workgroup has on the GPU that ptxas assembles it for
ARCHS = {"sm_75": ("sm_75", "+ptx78", 64), "sm_80": ("sm_80", "+ptx78", 163), "sm_89": ("sm_89", "+ptx83", 99), "sm_90a": ("sm_90a", "+ptx85", 227),
         "sm_100": ("sm_90", "+ptx83", 227), "sm_120": ("sm_90", "+ptx83", 99)}
ALWAYS = "sm_75,sm_80,sm_90a,sm_120"
ROWS = [(16384, 4096), (4096, 16384), (65536, 1000), (128, 768), (33, 100003)]
NVRTC, NVRTC_DRIVER, NVRTC_MOST = "sm_80,sm_90a,sm_120", 13000, 40  # a compile takes 0.1 s
FEWEST = 150  # distinct kernels: with fewer, models are missing


def find_ptxas():
    path = shutil.which("ptxas")
    for found in glob.glob(os.path.join(sysconfig.get_paths()["purelib"], "nvidia/*/bin/ptxas")):
        path = found
    if not path:
        sys.exit("no ptxas: install the nvidia-cuda-nvcc package, or CUDA")
    return path


def graphs():
    """(name, bytes) of native graphs."""
    def make(name, shapes, build):
        g = kiln.Graph()
        g.output("y", build(g, *[g.param(f"x{k}", d, s) for k, (s, d) in enumerate(shapes)]))
        return f"{name}.kgraph", g.serialize()

    for rows, cols in ROWS:
        for d in ("f32", "f16"):
            x, w, size = ((rows, cols), d), ((cols,), d), f"{d}-{rows}x{cols}"
            yield make(f"softmax-{size}", [x], lambda g, x: g.softmax(x, axis=1))
            yield make(f"layernorm-{size}", [x, w, w], lambda g, x, w, b: g.layernorm(x, w, b))
            yield make(f"sums-{size}", [x], lambda g, x: x.sum(axis=0) * x.sum())
            yield make(f"transpose-{size}", [x], lambda g, x: g.contiguous(x.permute(1, 0)))
            yield make(f"add-{size}", [x, w], lambda g, x, w: x * w + 0.5)
    for d in ("f32", "f16", "bf16"):
        for m, n, k in ((1024, 1024, 1024), (128, 3072, 768), (1, 4096, 4096), (100, 300, 77)):
            yield make(f"matmul-{d}-{m}x{n}x{k}", [((m, k), d), ((k, n), d)], lambda g, a, b: a @ b)
    for a, b in (("f8e4m3fn", "f8e4m3fn"), ("f8e5m2", "f8e4m3fn"), ("f8e4m3fn", "f8e5m2"), ("f8e5m2fnuz", "f4e2m1")):
        for n in (256, 2048):  # by instructions of their own; as f16
            yield make(f"matmul-{a}-{b}-{n}", [((n, n), a), ((n, n), b)], lambda g, a, b: a.cast("f32") @ b.cast("f32").permute(1, 0))


def write_models(folder, every):
    for name, data in graphs():
        with open(os.path.join(folder, name), "wb") as f:
            f.write(data)
    made = {name: models.light_path(name).read_bytes() for name in models.LIGHT}
    made.update(bert=models.bert_base(layers=1), gpt2=models.gpt2(layers=1), chain=models.chain(3))
    for test in onnx_suite.load_tests("")[::every]:
        if test.model is not None:
            made["node-" + test.name.replace("/", "-")] = test.model.SerializeToString()
    for name, data in made.items():
        with open(os.path.join(folder, name + ".onnx"), "wb") as f:
            f.write(data)
    return sorted(glob.glob(os.path.join(folder, "*.*")))


def nvrtc_environment():
    """Of programs that look for libnvrtc."""
    folders = glob.glob(os.path.join(sysconfig.get_paths()["purelib"], "nvidia/*/lib"))
    path = ":".join([f for f in folders if glob.glob(f + "/libnvrtc.so.*")] + [os.environ.get("LD_LIBRARY_PATH", "")])
    return dict(os.environ, LD_LIBRARY_PATH=path)


def check_nvrtc(args, ptxas, arch, folder):
    """A sample of the same kernels as CUDA C++: compiled by the device's own code, then assembled."""
    files, n = distinct(folder, "cu")
    files, errors = files[::-(-len(files) // NVRTC_MOST) or 1], []
    program = [os.path.join(args.kiln, "tests/gpu/nvrtc_ptx"), str(NVRTC_DRIVER), arch]
    parts = [files[k::args.jobs] for k in range(args.jobs)]
    running = [subprocess.Popen(program + part, env=nvrtc_environment(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) for part in parts if part]
    errors += [line for p in running for line in p.communicate()[1].splitlines()]
    with concurrent.futures.ThreadPoolExecutor(args.jobs) as pool:
        done = list(pool.map(lambda p: assemble(ptxas, arch, p), [f[:-3] + ".ptx" for f in files] if not errors else []))
    for path, rc, text, _ in done:
        if rc:
            errors.append(f"{os.path.basename(path)}: {text.strip()}")
    joined = [f for f in files if os.path.exists(f[:-3] + ".ptx") and re.search(r"\b(min|max)\.[su](16x2|16|32)\b", open(f[:-3] + ".ptx").read())]
    errors += [f"{os.path.basename(f)}: an integer minimum that ptxas may join" for f in joined]
    for line in errors:
        print(f"{arch} by NVRTC: {line[:400]}")
    print(f"{arch} by NVRTC: {n} kernels as CUDA C++, {len(files)} of them compiled, {len(errors)} errors", flush=True)
    return not errors and len(files) >= NVRTC_MOST // 2


def emit(args, arch, paths, out, *more):
    cpu, features, local = ARCHS[arch]
    parts = [paths[k::args.jobs] for k in range(args.jobs)]
    running = [subprocess.Popen([os.path.join(args.kiln, "tests/gpu/ptx_emit"), cpu, features, out, *more, "--local", str(local), *part], stdout=subprocess.DEVNULL,
                                stderr=subprocess.PIPE, text=True) for part in parts]
    errors = [line for p in running for line in p.communicate()[1].splitlines()]
    if any(p.returncode not in (0, 1) for p in running):
        errors.append("ptx_emit crashed")
    return errors


def distinct(folder, ending="ptx"):
    """{content: one of its files}, and how many files there are."""
    found, n = {}, 0
    for path in sorted(glob.glob(os.path.join(folder, "*." + ending))):
        n += 1
        with open(path, "rb") as f:
            found.setdefault(hashlib.sha256(f.read()).digest(), path)
    return list(found.values()), n


def assemble(ptxas, arch, path):
    r = subprocess.run([ptxas, "-v", f"-arch={arch}", path, "-o", "/dev/null"], capture_output=True, text=True)
    spills = [int(n) for n in re.findall(r"(\d+) bytes spill stores", r.stderr)]
    return path, r.returncode, r.stdout + r.stderr, sum(spills)


def check(args, ptxas, arch, paths):
    with tempfile.TemporaryDirectory() as out:
        nvrtc = arch in args.nvrtc.split(",")
        errors = emit(args, arch, paths, out, *["--cuda-c"] * nvrtc)
        files, n = distinct(out)
        spilled, failed = [], 0
        with concurrent.futures.ThreadPoolExecutor(args.jobs) as pool:
            for path, rc, text, bytes_ in pool.map(lambda p: assemble(ptxas, arch, p), files):
                failed += rc != 0
                if rc:
                    print(f"{arch}: {os.path.basename(path)}: {text.strip()[:400]}")
                elif bytes_:
                    spilled.append(f"{os.path.basename(path)} {bytes_}")
        other = not nvrtc or check_nvrtc(args, ptxas, arch, out)
    for line in errors:
        print(f"{arch}: {line[:400]}")
    if spilled:
        print(f"{arch}: spills (bytes): {', '.join(spilled)}")
    print(f"{arch}: {n} kernels, {len(files)} different, {failed} refused by ptxas, {len(errors)} not compiled, {len(spilled)} spill", flush=True)
    if len(files) < FEWEST:
        print(f"{arch}: fewer than the {FEWEST} that there should be")
    return other and failed == 0 and not errors and len(files) >= FEWEST


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--every", type=int, default=40)
    p.add_argument("--arch", default=ALWAYS, help=f"of {','.join(ARCHS)}; by default {ALWAYS}")
    p.add_argument("--kiln", default=os.path.join(HERE, "../../build/release"))
    p.add_argument("--jobs", type=int, default=os.cpu_count())
    p.add_argument("--nvrtc", default=NVRTC, help=f"of --arch, those for which NVRTC compiles too; by default {NVRTC}")
    args = p.parse_args()
    ptxas = find_ptxas()
    with tempfile.TemporaryDirectory() as folder:
        paths = write_models(folder, args.every)
        ok = [check(args, ptxas, arch, paths) for arch in args.arch.split(",")]
    return 0 if all(ok) else 1


if __name__ == "__main__":
    sys.exit(main())
