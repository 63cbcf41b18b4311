"""docs/support.md is what support_table.py finds, and has no NO in it.

OpenCL's compiler takes minutes for the whole table; a few dtypes of each kind stand for it, unless KILN_SUPPORT_ALL is set."""
import os

import serving
import support_table

SAMPLE = {} if os.environ.get("KILN_SUPPORT_ALL") else {"OpenCL": ["f32", "bf16", "f8e5m2", "i4", "u64"]}


def test_the_page_is_true():
    made = support_table.measure(os.path.join(serving.BIN, "kiln-eval"), SAMPLE)
    text = support_table.read_page()
    written = support_table.cells_of(text)
    assert "CPU" in made
    assert support_table.page(written) == text, "run tests/model/support_table.py --update"
    assert "| NO |" not in text
    for title, cells in made.items():
        wrong = {k: (written[title].get(k), v) for k, v in cells.items() if written[title].get(k) != v}
        assert not wrong, f"{title}: run tests/model/support_table.py --update"
