#!/usr/bin/env python3
"""Which ops of the onnx package Kiln has, and which it refuses and why.

    onnx_ops.py [--eval PATH] [--update]

The server's own table of ops (kiln-eval --ops) is compared with every version of every op that onnx.defs knows. One that Kiln refuses
has to be in REFUSED, with the reason, and nothing else may be; docs/onnx.md, between its two marks, has to say what the tables say.
--update writes it. The last line is "N of N definitions, N ops of com.microsoft".
"""
import argparse
import os
import subprocess
import sys

from onnx import defs

HERE = os.path.dirname(os.path.abspath(__file__))
PAGE = os.path.join(HERE, "../../docs/onnx.md")
BEGIN = "<!-- Written by tests/model/onnx_ops.py --update. -->\n"
END = "<!-- End of the written part. -->\n"

STRINGS = "has strings, which are no dtype here"
MAPS = "has maps, which are no type here"
# (domain, op) or (domain, op, last refused version): reason
REFUSED = {
    ("ai.onnx", "ImageDecoder"): "file formats are not arithmetic: decode before the upload",
    ("ai.onnx", "RegexFullMatch"): STRINGS,
    ("ai.onnx", "StringConcat"): STRINGS,
    ("ai.onnx", "StringNormalizer"): STRINGS,
    ("ai.onnx", "StringSplit"): STRINGS,
    ("ai.onnx.ml", "CastMap"): MAPS,
    ("ai.onnx.ml", "CategoryMapper"): STRINGS,
    ("ai.onnx.ml", "DictVectorizer"): MAPS,
    ("ai.onnx.ml", "LabelEncoder", 1): STRINGS,
    ("ai.onnx.ml", "SVMClassifier"): "support vector machines are not compiled yet",
    ("ai.onnx.ml", "SVMRegressor"): "support vector machines are not compiled yet",
    ("ai.onnx.ml", "ZipMap"): MAPS,
    ("ai.onnx.preview.training", "Gradient"): "needs differentiation of the graph",
}

# The title of a family, by an op that it has; the first that fits.
TITLES = {
    "QLinearAdd": "ONNX Runtime's quantised ops", "Abs": "Elementwise", "Reshape": "Movement", "Pad": "Padding", "Shape": "Constants and shapes", "Gather": "Indexing",
    "NonZero": "Sizes that the data decides", "ScatterND": "Scatter", "ReduceSum": "Reductions and order", "MatMul": "Matrix products",
    "Det": "Linear algebra", "Conv": "Convolution", "MaxPool": "Pooling", "Softmax": "Normalisation and softmax", "LinearAttention": "Attention",
    "LSTM": "Recurrence", "QuantizeLinear": "Quantisation", "Resize": "Resizing", "GridSample": "Sampling", "RoiAlign": "Detection",
    "NonMaxSuppression": "Detection, sizes that the data decides", "DFT": "Signals", "TfIdfVectorizer": "Text", "SoftmaxCrossEntropyLoss": "Losses",
    "If": "Control flow", "SequenceAt": "Sequences and optionals", "RandomNormal": "Random numbers", "Adam": "Training",
    "Scaler": "Machine learning", "TreeEnsemble": "Tree ensembles", "FastGelu": "ONNX Runtime's fused ops",
    "GroupQueryAttention": "ONNX Runtime's attention",
}


def registry(path):
    """[(family number, domain, op, first version)]"""
    lines = subprocess.run([path, "--ops"], check=True, capture_output=True, text=True).stdout.splitlines()
    return [(int(f), d, op, int(v)) for f, d, op, v in (line.split() for line in lines)]


def definitions():
    """{(domain, op): versions that a model can use, oldest first}"""
    table = {}
    for schema in defs.get_all_schemas_with_history():
        if not schema.deprecated:
            table.setdefault((schema.domain or "ai.onnx", schema.name), []).append(schema.since_version)
    return {key: sorted(versions) for key, versions in table.items()}


def expected_refusal(domain, op, version):
    for key in REFUSED:
        if key[:2] == (domain, op) and (len(key) == 2 or version <= key[2]):
            return key
    return None


def problems(ops):
    """What is refused without a reason, and reasons for what is not refused."""
    first, found, used = {}, [], set()
    for _, domain, op, version in ops:
        first[domain, op] = min(version, first.get((domain, op), version))
    for (domain, op), versions in sorted(definitions().items()):
        for version in versions:
            refused = version < first.get((domain, op), 1 << 30)
            key = expected_refusal(domain, op, version)
            if refused and not key:
                found.append(f"{domain}.{op}, version {version}, is refused without a reason in REFUSED")
            if key and refused:
                used.add(key)
    return found + [f"REFUSED has {'.'.join(map(str, key))}, which is not refused" for key in REFUSED if key not in used]


def label(domain, op, version, known):
    name = f"`{op}`" if domain in ("ai.onnx", "com.microsoft", "ai.onnx.ml", "ai.onnx.preview.training") else f"`{domain}.{op}`"
    oldest = known.get((domain, op), [version])[0]
    return name + (f" ({version})" if version > oldest else "")


def page(ops):
    known, families = definitions(), {}
    for family, domain, op, version in ops:
        entry = families.setdefault(family, {}).setdefault(domain, {})
        entry[op] = min(version, entry.get(op, version))
    lines = [BEGIN, "Every version of an op from the oldest on, unless a number in brackets names the first one.\n\n"]
    titled = []
    for family in families.values():
        names = {op for table in family.values() for op in table}
        title = next((t for op, t in TITLES.items() if op in names), None)
        if title is None:
            sys.exit(f"onnx_ops.py: the family of {sorted(names)[0]} has no title")
        titled.append((title, family))
    for title, family in sorted(titled, key=lambda item: item[0]):
        parts = []
        for domain, table in sorted(family.items()):
            prefix = "" if domain in ("ai.onnx", "ai.onnx.preview") else f"{domain}: "
            parts.append(prefix + ", ".join(label(domain, op, v, known) for op, v in sorted(table.items())))
        lines.append(f"- **{title}**: {'; '.join(parts)}\n")
    lines += ["\n### Refused\n\n", "What the onnx package defines and Kiln does not have:\n\n", "| op | versions | why |\n|---|---|---|\n"]
    for key, reason in sorted(REFUSED.items()):
        versions = "all" if len(key) == 2 else f"up to {key[2]}"
        lines.append(f"| `{key[0]}.{key[1]}` | {versions} | {reason} |\n")
    return "".join(lines + [END])


def split_page(text):
    begin, end = text.index(BEGIN), text.index(END) + len(END)
    return text[:begin], text[begin:end], text[end:]


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--eval", default=os.path.join(HERE, "../../build/release/bin/kiln-eval"))
    p.add_argument("--update", action="store_true")
    args = p.parse_args()
    ops = registry(args.eval)
    wrong, written = problems(ops), page(ops)
    with open(PAGE) as f:
        before, old, after = split_page(f.read())
    if args.update:
        with open(PAGE, "w") as f:
            f.write(before + written + after)
    elif old != written:
        wrong.append("docs/onnx.md is not what the tables say: run tests/model/onnx_ops.py --update")
    for line in wrong:
        print(line)
    known = definitions()
    total = sum(len(v) for v in known.values())
    missing = sum(expected_refusal(*key, v) is not None for key, versions in known.items() for v in versions)
    print(f"{total - missing} of {total} definitions, {len({o for _, d, o, _ in ops if d == 'com.microsoft'})} ops of com.microsoft")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
