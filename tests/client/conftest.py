"""One daemon for the tests of the Python client."""
import os
import sys

import pytest

sys.path[:0] = [os.path.dirname(__file__), os.path.dirname(os.path.dirname(__file__))]

import kiln
import serving

os.environ.setdefault("KILN_BIN", str(serving.BIN))


@pytest.fixture(scope="session")
def client():
    with serving.Server() as server, kiln.connect(server.target) as c:
        yield c
