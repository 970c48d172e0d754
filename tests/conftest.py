"""Fixtures shared by all tests: nothing is fetched from anywhere."""

import os
from pathlib import Path

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("PSYCHOCOUNSEL_CACHE", "/tmp/psychocounsel-test-cache")


@pytest.fixture(scope="session")
def small_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model that trains in a moment: random weights, the shipped tokenizer."""
    from transformers import AutoTokenizer

    from tests.harness import TINY, small_lm

    folder = tmp_path_factory.mktemp("small-model")
    tokenizer = AutoTokenizer.from_pretrained(TINY)
    small_lm(vocab_size=len(tokenizer), max_position_embeddings=2048).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
