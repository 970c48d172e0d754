"""Fixtures shared by all tests: nothing is fetched from anywhere."""

import atexit
import gc
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.register_assert_rewrite("tests.support.parity")

os.environ["HF_HUB_OFFLINE"] = "1"
# Nothing that an earlier session, or one beside this, has cached.
CACHE = os.environ["PSYCHOCOUNSEL_CACHE"] = tempfile.mkdtemp(prefix="psychocounsel-test-cache-")
atexit.register(shutil.rmtree, CACHE, ignore_errors=True)
# What the processes of this session share that run tests side by side: the first one makes it, and names it by its number.
if "PYTEST_XDIST_WORKER" not in os.environ:
    place = tempfile.mkdtemp(prefix="psychocounsel-test-session-")
    os.environ["PSYCHOCOUNSEL_TEST_SESSION"] = f"{place}/{os.getpid()}"
    os.mkdir(os.environ["PSYCHOCOUNSEL_TEST_SESSION"])
    atexit.register(shutil.rmtree, place, ignore_errors=True)


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """Chromium for tests of pages."""
    from tests.support.chromium import launched

    yield from launched()


@pytest.fixture(scope="session")
def small_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model that trains in a moment: random weights, the shipped tokenizer."""
    from transformers import AutoTokenizer

    from tests.support.harness import TINY, small_lm

    folder = tmp_path_factory.mktemp("small-model")
    tokenizer = AutoTokenizer.from_pretrained(TINY)
    small_lm(vocab_size=len(tokenizer), max_position_embeddings=2048).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def pytest_configure(config: pytest.Config) -> None:
    """Where tests run side by side, what they fork commands from gets ready while they are collected."""
    threads, several = os.environ.get("OMP_NUM_THREADS"), config.getoption("dist", "no") != "no"
    if several and threads and "PYTEST_XDIST_WORKER" not in os.environ:
        from tests.support.warm import begin

        begin(threads, Path(os.environ["PSYCHOCOUNSEL_TEST_SESSION"]))


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """What collecting imports and makes lives until the end: looking through it again and again takes a seventh of the time."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()
        gc.freeze()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes minutes in one file begins first: at the end the other processes would have nothing left to do."""
    items.sort(key=lambda item: item.path.name != "test_vllm.py")


@pytest.fixture(scope="session")
def vllm() -> None:
    """Skips where vLLM is not installed; importing it takes seconds, which only its own tests spend."""
    pytest.importorskip("vllm")


@pytest.fixture
def in_process_training(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """DeepSpeed wants what a run's launcher sets; on models so small, threads only wait for each other."""
    import torch
    from deepspeed.runtime import torch_autocast

    monkeypatch.setenv("LOCAL_RANK", "0")
    # DeepSpeed keeps for the whole process that an engine has autocast, and a run has engines of one kind.
    monkeypatch.setattr(torch_autocast, "TORCH_AUTOCAST_INITIALIZED", False)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def export_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the runs are that the tests of export share."""
    from tests.support.export_runs import make_base

    folder = tmp_path_factory.mktemp("home") / "alice"
    make_base(folder / "base")
    return folder


@pytest.fixture(scope="session")
def policy_run(export_home: Path) -> Path:
    from tests.support.export_runs import train

    return train(export_home, "policy")


@pytest.fixture(scope="session")
def adapter_run(export_home: Path) -> Path:
    from tests.support.export_runs import train_adapter

    return train_adapter(export_home)


@pytest.fixture
def own_environment() -> Iterator[None]:
    """What a command that is called in this process leaves in the environment is not for other tests."""
    environment, path = dict(os.environ), list(sys.path)
    yield
    os.environ.clear()
    os.environ.update(environment)
    sys.path[:] = path
