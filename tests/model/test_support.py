"""docs/support.md is what support_table.py finds, and has no NO in it."""
import os

import onnx_suite
import serving
import support_table


def test_the_page_is_true(client):
    runner = onnx_suite.EvalRunner(os.path.join(serving.BIN, "kiln-eval"), [])
    try:
        made = support_table.tables(client, runner)
    finally:
        runner.close()
    text = support_table.read_page()
    old = support_table.sections(text)
    assert "CPU" in made
    assert support_table.page({}, old) == text, "run tests/model/support_table.py --update"
    for title, section in made.items():
        assert "| NO |" not in section, title
        assert old.get(title) == section, f"{title}: run tests/model/support_table.py --update"
