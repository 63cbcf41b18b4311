"""The quickstart's client: asks kilnd what kind of file each argument is, with the model inside the magika package.

usage: quickstart.py SERVER FILE...
"""
import importlib.util
import json
import pathlib
import statistics
import sys
import time

import numpy as np

import kiln


def model_folder() -> pathlib.Path:
    """The newest standard model that the installed magika package ships."""
    package = pathlib.Path(importlib.util.find_spec("magika").origin).parent
    return sorted((package / "models").glob("standard_*"))[-1]


def features(path: str, config: dict) -> np.ndarray:
    """int32 [beg_size + end_size]: the first and last bytes of the file, stripped of white space, padded with the padding token."""
    data = pathlib.Path(path).read_bytes()
    block, pad = config["block_size"], config["padding_token"]
    small = len(data) <= block
    beg, end = data[:block], data[-block:]
    beg = (beg.strip() if small else beg.lstrip())[:config["beg_size"]]
    end = (end.strip() if small else end.rstrip())[-config["end_size"]:]
    row = np.full(config["beg_size"] + config["end_size"], pad, np.int32)
    row[:len(beg)] = list(beg)
    if end:
        row[-len(end):] = list(end)
    return row


def main() -> None:
    server, files = sys.argv[1], sys.argv[2:]
    folder = model_folder()
    config = json.loads((folder / "config.min.json").read_text())
    rows = np.stack([features(f, config) for f in files])
    with kiln.connect(server) as client:
        start = time.perf_counter()
        exe = client.compile(folder / "model.onnx", kiln.Options(dims={"bytes.0": len(files)}))
        compiled = time.perf_counter() - start
        probabilities = exe({exe.inputs[0].name: rows})[exe.outputs[0].name]
        first = time.perf_counter() - start
        times = []
        for _ in range(20):
            start = time.perf_counter()
            exe({exe.inputs[0].name: rows})
            times.append(time.perf_counter() - start)
        report = exe.report()
    print(f"\n{'file':45s} {'label':12s} {'score':>6s}")
    for path, row in zip(files, probabilities):
        best = int(row.argmax())
        print(f"{path:45s} {config['target_labels_space'][best]:12s} {row[best]:6.1%}")
    cache = "warm cache: the plan and its kernels were there" if report["plan_cached"] else \
        f"cold cache: {report['kernels_compiled']} of {report['unique_kernels']} kernels compiled now"
    print(f"\nsubmit to first answer {first * 1e3:8.1f} ms  ({cache})")
    print(f"  compile and load     {compiled * 1e3:8.1f} ms")
    print(f"  first run            {(first - compiled) * 1e3:8.1f} ms")
    print(f"warm run               {statistics.median(times) * 1e3:8.1f} ms  (median of {len(times)}, {len(files)} files per run)")


if __name__ == "__main__":
    main()
