"""Fixtures shared by all tests: nothing is fetched from anywhere."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.register_assert_rewrite("tests.parity")

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


@pytest.fixture
def in_process_training(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """DeepSpeed wants what a run's launcher sets; on models so small, threads only wait for each other."""
    import torch

    monkeypatch.setenv("LOCAL_RANK", "0")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
