"""Test that the table in docs/memory.md matches the current estimate."""

from benchmarks.memory_table import PAGE, written


def test_the_table_is_that_of_the_estimate() -> None:
    page = PAGE.read_text()
    assert written(page) == page, "update it: python -m benchmarks.memory_table"
    assert page.count("| `experiment=") >= 7
