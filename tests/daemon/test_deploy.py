"""What lies in deploy/: manifests, dashboard, alerts and example configurations say what is true of the daemon in the tree."""
import json
import os
import re
import shutil
import subprocess

import pytest
import yaml
from conftest import BIN, ROOT
from test_metrics import begin, scrape

DEPLOY = ROOT / "deploy"
DEFINED = {m for m in re.findall(r"^(?:COUNTER|GAUGE|HISTOGRAM)\((\w+)", (ROOT / "daemon/server/metrics.def").read_text(), re.M)}


def named(text):
    """The metrics that PromQL expressions name."""
    names = set(re.findall(r"\bkiln_[a-z_]+", text))
    return {n.removeprefix("kiln_") if n.removeprefix("kiln_") in DEFINED else re.sub("_(bucket|sum|count)$", "", n.removeprefix("kiln_")) for n in names}


def test_every_metric_is_served(start, tmp_path):
    _, kinds = scrape(begin(start, tmp_path))
    assert {k.removeprefix("kiln_") for k in kinds} == DEFINED


def test_the_dashboard_names_metrics_that_exist():
    board = json.loads((DEPLOY / "grafana.json").read_text())
    expressions = [t["expr"] for p in board["panels"] for t in p["targets"]]
    assert len(expressions) > 25
    unknown = named(" ".join(expressions)) - DEFINED
    assert not unknown, unknown
    assert len({p["id"] for p in board["panels"]}) == len(board["panels"])
    cells = [(x, y) for p in board["panels"] for x in range(p["gridPos"]["x"], p["gridPos"]["x"] + p["gridPos"]["w"])
             for y in range(p["gridPos"]["y"], p["gridPos"]["y"] + p["gridPos"]["h"])]
    assert len(cells) == len(set(cells)) and max(x for x, _ in cells) < 24, "panels overlap"
    for e in expressions:
        assert e.count("(") == e.count(")") and e.count("{") == e.count("}"), e
        for label in re.findall(r'[{,]\s*(\w+)(?:=|!=|=~)"', e) + sum((g.split(",") for g in re.findall(r"by \(([^)]*)\)", e)), []):
            assert label.strip() in {"job", "le", *labels_of_table()}, e


def labels_of_table():
    return set(re.findall(r'^LABEL\(\w+, "(\w+)"', (ROOT / "daemon/server/metrics.def").read_text(), re.M))


def test_alerts_name_metrics_that_exist():
    rules = yaml.safe_load((DEPLOY / "prometheus-rules.yaml").read_text())["groups"][0]["rules"]
    assert len(rules) > 5 and all(r["alert"] and r["annotations"]["summary"] for r in rules)
    unknown = named(" ".join(r["expr"] for r in rules)) - DEFINED
    assert not unknown, unknown


def test_kubernetes_manifests_are_valid():
    """Against the published schemas, which the package kubernetes-validate brings."""
    validate = pytest.importorskip("kubernetes_validate")
    text = (DEPLOY / "kubernetes/kiln.yaml").read_text()
    documents = list(yaml.safe_load_all(text))
    assert len(documents) == 5
    for d in documents:
        validate.validate(d, validate.latest_version(), strict=True)
    by_kind = {d["kind"]: d for d in documents}
    pod = by_kind["StatefulSet"]["spec"]["template"]
    container = pod["spec"]["containers"][0]
    assert by_kind["Service"]["spec"]["selector"].items() <= pod["metadata"]["labels"].items()
    mounts, volumes = {m["name"] for m in container["volumeMounts"]}, {v["name"] for v in pod["spec"]["volumes"]}
    claims = {c["metadata"]["name"] for c in by_kind["StatefulSet"]["spec"]["volumeClaimTemplates"]}
    assert mounts == volumes | claims
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert container[probe]["httpGet"]["path"] in ("/healthz", "/readyz")


def proxies(tmp_path):
    """HAProxy's configurations, as files with what they need beside them."""
    pem = tmp_path / "kiln.pem"
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-subj", "/CN=kiln",
                    "-keyout", str(tmp_path / "key"), "-out", str(tmp_path / "ca.pem")], check=True, capture_output=True)
    pem.write_text((tmp_path / "ca.pem").read_text() + (tmp_path / "key").read_text())
    manifest = list(yaml.safe_load_all((DEPLOY / "kubernetes/haproxy.yaml").read_text()))
    compose = yaml.safe_load((DEPLOY / "examples/compose.yaml").read_text())
    texts = {"deploy": (DEPLOY / "haproxy/haproxy.cfg").read_text(), "kubernetes": manifest[0]["data"]["haproxy.cfg"],
             "compose": compose["configs"]["haproxy"]["content"]}
    for name, text in texts.items():
        (tmp_path / name).write_text(text.replace("/etc/haproxy/tls", str(tmp_path)))
    return texts, manifest, compose


def test_haproxy_takes_its_configurations(tmp_path):
    """All three balance in the same way, and name the servers as their kilnd are named."""
    tool = shutil.which("haproxy", path=os.environ["PATH"] + ":/usr/sbin")
    assert tool, "haproxy is installed by tests/run.sh"
    texts, manifest, compose = proxies(tmp_path)
    rules = []
    for name, text in texts.items():
        out = subprocess.run([tool, "-c", "-f", str(tmp_path / name)], capture_output=True, text=True)
        warnings = [line for line in out.stderr.splitlines() if "[WARNING]" in line and "could not resolve address" not in line]
        assert out.returncode == 0 and not warnings, f"{name}: {out.stdout}{out.stderr}"
        lines = [line.strip() for line in text.splitlines()]
        rules.append([line for line in lines if re.match("balance|hash-|use-server|option|http-check|retr", line)])
    assert rules[0] == rules[1] == rules[2] and len(rules[0]) > 8
    servers = {name: re.findall(r"^ *server (\S+)", text, re.M) for name, text in texts.items()}
    pods = yaml.safe_load_all((DEPLOY / "kubernetes/kiln.yaml").read_text())
    stateful = next(d for d in pods if d["kind"] == "StatefulSet")
    name = stateful["metadata"]["name"]
    assert servers["kubernetes"] == [f"{name}-{i}" for i in range(stateful["spec"]["replicas"])]
    assert servers["compose"] == [s["command"][-1] for s in compose["services"].values() if "command" in s]
    (tmp_path / "c").write_text(compose["configs"]["node"]["content"])
    check_config(tmp_path / "c")
    validate = pytest.importorskip("kubernetes_validate")
    for d in manifest:
        validate.validate(d, validate.latest_version(), strict=True)


def check_config(path):
    out = subprocess.run([BIN / "kilnd", "--config", str(path), "--check-config"], capture_output=True, text=True)
    assert out.returncode == 0, f"{path}: {out.stderr}"


@pytest.mark.parametrize("path", [DEPLOY / "kiln.conf", *sorted((DEPLOY / "examples").glob("*.conf"))], ids=lambda p: p.name)
def test_example_configurations_are_valid(path):
    check_config(path)


def test_the_configuration_in_the_manifest_is_valid(tmp_path):
    data = next(d for d in yaml.safe_load_all((DEPLOY / "kubernetes/kiln.yaml").read_text()) if d["kind"] == "ConfigMap")["data"]
    (tmp_path / "c").write_text(data["server.conf"])
    check_config(tmp_path / "c")


def test_every_default_in_the_commented_configuration_is_valid(tmp_path):
    """Each line that is commented out as a setting can be switched on, one at a time."""
    lines = (DEPLOY / "kiln.conf").read_text().splitlines()
    section, tried = "", 0
    for line in lines:
        if m := re.match(r";?\[(.*)\]", line):
            section = m[1]
        m = re.match(r"; (\w+) = (\S.*)$", line)
        if not m or section.startswith("tenant") or section == "tls" or m[1] == "certificate":
            continue
        (tmp_path / "c").write_text(f"[{section}]\n{m[1]} = {m[2]}\n")
        check_config(tmp_path / "c")
        tried += 1
    assert tried > 20


def test_the_container_file_copies_what_is_there():
    text = (DEPLOY / "Containerfile").read_text()
    for source in re.findall(r"^COPY (?!--from)(\S+) ", text, re.M):
        assert (ROOT / source).exists(), source
    assert re.search(r"^USER (?!0|root)", text, re.M) and "package.sh --tree" in text
