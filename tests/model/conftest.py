"""One daemon for the model tests, and the numbers that they found, which stand at the end of the run."""
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


NUMBERS = []


@pytest.fixture
def number():
    """Takes a line for the end of the run: how much was compared, and what came out."""
    return NUMBERS.append


def pytest_terminal_summary(terminalreporter):
    for line in NUMBERS:
        terminalreporter.write_line(line)
