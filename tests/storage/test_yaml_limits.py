"""YAML files of a user: aliases and nesting are limited before anything copies their values."""

import pytest
import yaml

from psychocounsel.storage.yaml_limits import Unbounded, bounded
from tests.support.bad_files import BOMB

UNBOUNDED = {
    "a bomb": BOMB,
    "a bomb of mappings": BOMB.replace("[", "{b: [").replace("]", "]}"),
    "an alias inside of itself": "a: &a [1, *a]",
    "an alias of nothing": "a: *b",
    "a deep list": "a: " + "[" * 60_000 + "]" * 60_000,
    "a deep list of lines": "- " * 60_000 + "1",
}
BOUNDED = ["", "a: 3", "a: &a {b: 1}\nc: *a\nd: {<<: *a, e: 2}", "a: '*b'", "a: 2*b", "- &a 1\n" + "- *a\n" * 9999]


@pytest.mark.parametrize("text", UNBOUNDED.values(), ids=UNBOUNDED)
def test_a_text_without_bounds_is_refused(text: str) -> None:
    with pytest.raises(Unbounded):
        bounded(text)


@pytest.mark.parametrize("text", BOUNDED)
def test_other_texts_are_read_as_before(text: str) -> None:
    assert bounded(text) == text
    yaml.safe_load(text)
