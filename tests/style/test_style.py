"""The house rules that a machine can check: layers, sizes, format, no unfinished marks."""
import os
import re
import shutil
import subprocess

ROOT = os.path.normpath(os.path.join(os.path.dirname(__file__), "..", ".."))
LAYERS = {
    "base": {"base"},
    "proto": {"proto", "base"},
    "client": {"client", "proto", "base"},
    "compiler": {"compiler", "proto", "base"},
    "devices": {"devices", "base"},
    "cache": {"cache", "proto", "base"},
    "daemon": {"daemon", "cache", "devices", "compiler", "proto", "base"},
}
GENERATED = {"kiln", "grpc", "inference"}  # message headers in the build folder; they belong to proto/
FUNCTION_HARD, FUNCTION_P90, FILE_HARD = 80, 45, 1200


def tracked(*suffixes):
    """The files of the project: all but what is built, or hidden as .git is. An unpacked archive has no git to ask."""
    found = []
    for folder, folders, files in os.walk(ROOT):
        folders[:] = sorted(d for d in folders if d != "build" and d != "__pycache__" and not d.startswith("."))
        found += [os.path.relpath(os.path.join(folder, f), ROOT) for f in sorted(files) if f.endswith(suffixes)]
    return found


def read(name):
    with open(os.path.join(ROOT, name), encoding="utf-8", errors="replace") as f:
        return f.read()


def functions(text):
    """(name line, length, is a table) of each function whose body braces stand in the first column."""
    start = None
    lines = text.splitlines()
    for n, line in enumerate(lines):
        if start is None and re.match(r"^[A-Za-z_][^;=]*\)\s*\{$", line):
            start = n
        elif start is not None and line.startswith("}"):
            table = "/* long: table */" in "\n".join(lines[max(0, start - 3):start + 2])
            yield lines[start], n - start + 1, table
            start = None


def test_includes_follow_the_layers():
    bad, edges = [], 0
    for f in tracked(".c", ".h"):
        top = f.split("/")[0]
        if top not in LAYERS:
            continue
        for inc in re.findall(r'^\s*#\s*include\s+"([^"]+)"', read(f), re.M):
            target = "proto" if inc.split("/")[0] in GENERATED else inc.split("/")[0]
            if target in LAYERS:
                edges += 1
                if target not in LAYERS[top]:
                    bad.append(f"{f} includes {inc}")
    assert edges > 100, "the check found no includes to check"
    assert not bad, "\n".join(bad)


def test_only_codegen_and_the_cpu_device_use_llvm():
    bad = [f for f in tracked(".c", ".h") if "<llvm-c/" in read(f)
           and not f.startswith(("compiler/codegen/", "devices/cpu", "tests/"))]
    assert not bad, bad


def test_function_and_file_sizes():
    long_functions, long_files, lengths = [], [], []
    for f in tracked(".c", ".h"):
        text = read(f)
        if text.count("\n") > FILE_HARD:
            long_files.append((f, text.count("\n")))
        for line, length, table in functions(text):
            if not f.startswith("tests/"):
                lengths.append(length)
            if length > FUNCTION_HARD and not table:
                long_functions.append(f"{f}: {line} ({length} lines)")
    lengths.sort()
    assert not long_files and not long_functions, f"{long_files} {long_functions}"
    assert lengths[int(len(lengths) * 0.9)] <= FUNCTION_P90


def test_every_source_file_opens_with_a_comment():
    bad = [f for f in tracked(".c", ".h") if not read(f).startswith("/*")]
    assert not bad, bad


def test_nothing_is_marked_unfinished():
    mark = re.compile(r"\b(TO" + r"DO|FIX" + r"ME|XX" + r"X|HA" + r"CK)\b")
    bad = [f for f in tracked(".c", ".h", ".py", ".sh", ".def", ".rules", ".proto", ".txt") if mark.search(read(f))]
    assert not bad, bad


def test_format():
    tool = shutil.which("clang-format-14")
    assert tool, "clang-format-14 is installed by tests/run.sh"
    files = tracked(".c", ".h")
    out = subprocess.run([tool, "--dry-run", "-Werror", *files], cwd=ROOT, capture_output=True, text=True)
    assert out.returncode == 0, out.stderr[:2000]
