"""kilnd's HTTP/2 against the RFCs: every row of cases.py over a Unix socket, TCP and TLS.

What h2spec does, with its sections and some more; the bytes are made here, so no library can mend them."""
import collections
import sys
import time

import pytest
from wire import Peer
from ways import WAYS, Ways, say

sys.path.insert(0, __file__.rpartition("/")[0])
from cases import CASES, hello  # noqa: E402

counts = collections.Counter()


@pytest.fixture(scope="module")
def ways(tmp_path_factory, request):
    w = Ways(tmp_path_factory.mktemp("h2"))
    yield w
    w.end()
    sections = {section for section, *_ in CASES}
    say(request, f"HTTP/2: {len(CASES)} cases of {len(sections)} sections; passed " + ", ".join(f"{counts[w]} over {w}" for w in WAYS))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("section,what,send,expect", CASES, ids=[f"{s} {w}" for s, w, *_ in CASES])
def test_case(ways, way, section, what, send, expect):
    with Peer(ways.address[way], hello=not isinstance(send, hello), wait=5) as p:
        for part in send:
            if callable(part):
                part(p)
            else:
                p.send(part)
                if isinstance(send, hello):
                    time.sleep(0.002)  # in pieces, not as one
        expect(p)
    counts[way] += 1
