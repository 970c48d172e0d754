"""Fixtures shared by all tests. Downloads from the hub are disabled."""

import atexit
import gc
import os
import shutil
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.register_assert_rewrite("tests.support.parity")

os.environ["HF_HUB_OFFLINE"] = "1"
# Commands inherit an ignored Ctrl-C, and a shell without a terminal ignores it in what it starts in the background.
signal.signal(signal.SIGINT, signal.default_int_handler)
# A fresh cache, so that no test reads entries of an earlier or a concurrent test session.
CACHE = os.environ["PSYCHOCOUNSEL_CACHE"] = tempfile.mkdtemp(prefix="psychocounsel-test-cache-")
os.environ["XDG_STATE_HOME"] = f"{CACHE}/state"  # no agreement of a test is kept for its user
atexit.register(shutil.rmtree, CACHE, ignore_errors=True)
# The worker processes of a session share this folder. The first process creates it and names it by its process number.
if "PYTEST_XDIST_WORKER" not in os.environ:
    place = tempfile.mkdtemp(prefix="psychocounsel-test-session-")
    os.environ["PSYCHOCOUNSEL_TEST_SESSION"] = f"{place}/{os.getpid()}"
    os.mkdir(os.environ["PSYCHOCOUNSEL_TEST_SESSION"])
    atexit.register(shutil.rmtree, place, ignore_errors=True)


@pytest.fixture(autouse=True)
def own_state(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Restore the umask and the hidden messages after each test, because commands on private data set both for the process."""
    from psychocounsel import errors
    from psychocounsel.storage import modes

    for module in (sys, threading):
        monkeypatch.setattr(module, "excepthook", module.excepthook)
    before, known = os.umask(0o077), modes._own[:]
    os.umask(before)
    yield
    os.umask(before)
    modes._own[:] = known
    errors.hide_words(False)


# Options that disable all background network traffic of the browser.
QUIET = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
QUIET += ["--disable-component-update", "--disable-sync", "--disable-dev-shm-usage"]


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """Yield Chromium for tests of pages, one for all of them: Playwright runs once in a process."""
    chromium = Path("/usr/bin/chromium")
    if not chromium.exists():
        pytest.skip(f"{chromium} is missing: apt-get install chromium")
    sync = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with sync.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=str(chromium), args=QUIET)
        yield opened
        opened.close()


@pytest.fixture(scope="session")
def small_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a very small model with random weights and the shipped tokenizer."""
    from transformers import AutoTokenizer

    from tests.support.harness import TINY, small_lm

    folder = tmp_path_factory.mktemp("small-model")
    tokenizer = AutoTokenizer.from_pretrained(TINY)
    small_lm(vocab_size=len(tokenizer), max_position_embeddings=2048).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def wide_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a small model with attention heads of size 64 and large logits, as real models have.

    In float32 this size selects blockwise attention. In bfloat16 large logits make rounding errors visible.
    """
    from transformers import AutoTokenizer

    from tests.support.harness import TINY, small_lm

    folder = tmp_path_factory.mktemp("wide-model")
    tokenizer = AutoTokenizer.from_pretrained(TINY)
    sizes = {"hidden_size": 128, "num_attention_heads": 2, "num_key_value_heads": 1, "num_hidden_layers": 2}
    lm = small_lm(vocab_size=len(tokenizer), max_position_embeddings=2048, head_dim=64, **sizes)
    lm.lm_head.weight.data *= 5
    lm.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def pytest_configure(config: pytest.Config) -> None:
    """Start the process that forks commands (tests/support/warm.py) before collection, if several workers run tests."""
    threads, several = os.environ.get("OMP_NUM_THREADS"), config.getoption("dist", "no") != "no"
    if several and threads and "PYTEST_XDIST_WORKER" not in os.environ:
        from tests.support.warm import begin

        begin(threads, Path(os.environ["PSYCHOCOUNSEL_TEST_SESSION"]))


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """Freeze all objects that exist after collection, because the garbage collector spends a seventh of the time on them."""
    from tests.support.quick_composing import compose_quickly

    compose_quickly()
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()
        gc.freeze()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run two long files first. If one of them came last, the other workers would wait minutes for it."""
    items.sort(key=lambda item: item.path.name not in ("test_vllm.py", "test_shipped_studies.py"))


@pytest.fixture(scope="session")
def vllm() -> None:
    """Skip a test if vLLM is not installed. The import takes seconds, so only tests of vLLM use this fixture."""
    pytest.importorskip("vllm")


@pytest.fixture
def in_process_training(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Set the variable that DeepSpeed needs, and use one thread, because more threads slow such small models down."""
    import torch

    monkeypatch.setenv("LOCAL_RANK", "0")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def export_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of the runs that the tests of export share."""
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
    """Restore the environment variables and `sys.path` after a test that calls a command in this process."""
    environment, path = dict(os.environ), list(sys.path)
    yield
    os.environ.clear()
    os.environ.update(environment)
    sys.path[:] = path
