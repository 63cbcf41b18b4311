"""kilnd's HTTP/2 against the RFCs: every row of cases.py over a Unix socket, TCP and TLS.

What h2spec does, with its sections and some more; the bytes are made here, so no library can mend them."""
import collections
import sys
import time

import pytest
from conftest import Daemon, ends_well
from tenants import authority, certificate, free_port

sys.path.insert(0, __file__.rpartition("/")[0])
from cases import CASES, hello  # noqa: E402
from wire import Peer  # noqa: E402

WAYS = ["unix", "tcp", "tls"]
counts = collections.Counter()


@pytest.fixture(scope="module")
def addresses(tmp_path_factory):
    folder = tmp_path_factory.mktemp("h2")
    authority(folder, "ca")
    certificate(folder, "ca", "server", "server", "DNS:localhost,IP:127.0.0.1")
    ports = [free_port(), free_port()]
    tls = ["[tls]", f"certificate = {folder}/server.pem", f"key = {folder}/server.key"]
    (folder / "plain").mkdir()
    (folder / "tls").mkdir()
    daemons = [Daemon(folder / "plain", args=["--listen", f"127.0.0.1:{ports[0]}"]),
               Daemon(folder / "tls", config=tls, args=["--listen", f"127.0.0.1:{ports[1]}"])]
    yield {"unix": f"unix:{daemons[0].socket}", "tcp": f"tcp:{ports[0]}", "tls": f"tls:{ports[1]}:{folder}/ca.pem"}
    for d in daemons:
        d.info()
        ends_well(d)


@pytest.fixture(scope="module", autouse=True)
def totals(request):
    yield
    with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        sections = {section for section, *_ in CASES}
        print(f"\nHTTP/2: {len(CASES)} cases of {len(sections)} sections; passed " + ", ".join(f"{counts[w]} over {w}" for w in WAYS))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("section,what,send,expect", CASES, ids=[f"{s} {w}" for s, w, *_ in CASES])
def test_case(addresses, way, section, what, send, expect):
    with Peer(addresses[way], wait=4, hello=not isinstance(send, hello)) as p:
        for part in send:
            if callable(part):
                part(p)
            else:
                p.send(part)
                if isinstance(send, hello):
                    time.sleep(0.002)  # in pieces, not as one
        expect(p)
    counts[way] += 1
