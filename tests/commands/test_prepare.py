"""Tests of `prepare` with a real hub server: jobs without a network find the prepared files."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from psychocounsel.errors import CONTINUE_LATER, USER_ERROR
from psychocounsel.storage.files import read_json
from tests.support.harness import TINY, cli
from tests.support.hub_server import Hub, pairs

MODEL, DATA = "models/acme/tiny-chat", "datasets/acme/pairs"
BOTH = ["model.path=acme/tiny-chat", "data=local", "data.path=acme/pairs"]
SHORT = ["max_steps=1", "global_batch_size=4", "eval.limit=2", "cluster.threads=1"]


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """Yield a running hub with a model and a dataset. The user has no token, and paths.cache is empty."""
    for variable in ("HF_HOME", "HF_HUB_CACHE", "HF_DATASETS_CACHE", "HF_TOKEN"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("HF_TOKEN_PATH", str(tmp_path / "no-token"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("PSYCHOCOUNSEL_CACHE", str(tmp_path / "cache"))
    running = Hub(tmp_path / "hub")
    running.commit_folder(MODEL, TINY)
    running.commit(DATA, pairs("I can't sleep."))
    running.start()
    yield running
    running.stop()


def online(hub: Hub) -> dict[str, str]:
    return {"HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"}


def prepare(hub: Hub, *arguments: str, cwd: Path, code: int = 0, **environment: str) -> str:
    """Return the output of `prepare`, or its single error line."""
    result = cli("prepare", *arguments, cwd=cwd, check_code=code, **{**online(hub), **environment})
    assert "Traceback" not in result.stderr
    if code == 0:
        return result.stdout
    (line,) = [line for line in result.stderr.splitlines() if line.strip()]
    return line


def start_prepare(hub: Hub, cwd: Path, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "psychocounsel.prepare", *arguments]
    environment = {**os.environ, **online(hub)}
    return subprocess.Popen(command, cwd=cwd, env=environment, stdout=subprocess.PIPE, text=True)


def revisions(run_dir: Path) -> tuple[str, str]:
    config = yaml.safe_load((run_dir / "config.yaml").read_text())
    return config["model"]["revision"], config["data"]["revision"]


@pytest.mark.slow
def test_sizes_come_first_and_what_was_fetched_trains_offline(hub: Hub, tmp_path: Path) -> None:
    commits = (hub.repos[MODEL].refs["main"], hub.repos[DATA].refs["main"])
    hub.hold = ".*/(tree|resolve)/.*"
    process = start_prepare(hub, tmp_path, *BOTH)
    assert process.stdout is not None
    first = [process.stdout.readline() for _ in range(3)]
    assert not any("/resolve/" in request for request in hub.log), "no file has been requested yet"
    size = sum(file.stat().st_size for file in TINY.iterdir())
    assert first[0].startswith(
        f"model   acme/tiny-chat  commit {commits[0][:12]}  {size / 1e6:.1f} MB, all of it to do"
    )
    assert first[1].startswith(f"dataset acme/pairs  commit {commits[1][:12]}  ")
    assert first[2].startswith("to download: ") and f"free in {tmp_path / 'cache' / 'hub'}: " in first[2]
    hub.go_on.set()
    rest = process.communicate(timeout=120)[0]
    assert process.returncode == 0
    assert sorted(hub.sent) == sorted(["data/train.jsonl", *(file.name for file in TINY.iterdir())])
    assert f"new runs use commit {commits[0][:12]} of acme/tiny-chat" in rest
    assert "tiny-chat with data=pairs: 18 training groups, 2 held-out groups of 2 prompts" in rest
    hub.stop()
    cli("train", *BOTH, *SHORT, "run_dir=run", cwd=tmp_path, HF_HUB_OFFLINE="1", HF_ENDPOINT=hub.url)
    assert revisions(tmp_path / "run") == commits
    assert read_json(tmp_path / "run" / "environment.json")["weights"] == f"acme/tiny-chat@{commits[0]}"


@pytest.mark.slow
def test_a_newer_commit_is_for_new_runs(hub: Hub, tmp_path: Path) -> None:
    before = (hub.repos[MODEL].refs["main"], hub.repos[DATA].refs["main"])
    prepare(hub, *BOTH, cwd=tmp_path)
    offline = {"HF_HUB_OFFLINE": "1", "HF_ENDPOINT": hub.url}
    cli("train", *BOTH, *SHORT, "run_dir=first", cwd=tmp_path, **offline)
    hub.sent.clear()
    said = prepare(hub, *BOTH, cwd=tmp_path)
    assert not hub.sent and "to download: 0 B;" in said and said.count("all of it in the cache") == 2
    hub.commit(MODEL, {**hub.repos[MODEL].files("main"), "README.md": b"# Better now\n"})
    hub.commit(DATA, pairs("I wake up at four."))
    after = (hub.repos[MODEL].refs["main"], hub.repos[DATA].refs["main"])
    resumed = prepare(hub, *BOTH, *SHORT, "run_dir=first", "dry_run=true", cwd=tmp_path)
    assert all(f"commit {commit[:12]}" in resumed for commit in before), "existing runs keep their commit"
    assert "13 B of it to download" in prepare(hub, *BOTH, cwd=tmp_path)
    assert sorted(hub.sent) == ["README.md", "data/train.jsonl"], "unchanged weights are not fetched again"
    hub.stop()
    longer = [*BOTH, *SHORT, "max_steps=2"]
    longer_first = cli("train", *longer, "run_dir=first", cwd=tmp_path, **offline)
    assert revisions(tmp_path / "first") == before
    cli("train", *longer, "run_dir=second", cwd=tmp_path, **offline)
    assert revisions(tmp_path / "second") == after
    assert "resuming from step 1 of 2" in longer_first.stderr
    data = [read_json(tmp_path / name / "environment.json")["data"] for name in ("first", "second")]
    assert data[0] != data[1]


@pytest.mark.slow
def test_what_cannot_be_had_is_one_line(hub: Hub, tmp_path: Path) -> None:
    hub.commit_folder("models/acme/licensed", TINY)
    hub.commit(DATA, pairs("I can't sleep."))
    hub.repos["models/acme/licensed"].gated = hub.repos[DATA].gated = True
    hub.repos[MODEL].announced["model.safetensors"] = 10**16

    def refusal(*arguments: str, **environment: str) -> str:
        return prepare(hub, *arguments, cwd=tmp_path, code=USER_ERROR, **environment)

    licence = "is gated: accept its licence at https://huggingface.co/"
    assert f"model.path=acme/licensed: {licence}acme/licensed, then log in" in refusal("model.path=acme/licensed")
    assert f"{licence}datasets/acme/pairs, then log in here with `hf auth login`" in refusal(
        "data=local", "data.path=acme/pairs", HF_TOKEN="hf_of_somebody_else"
    )
    assert "model.path=acme/none: the hub has no such model" in refusal("model.path=acme/none")
    assert "the hub has no such model" in refusal("model.path=acme/none", HF_TOKEN="hf_good")
    assert "has no revision v9" in refusal("model.path=acme/tiny-chat", "model.revision=v9")
    assert "10,000.0 TB does not fit into" in refusal("model.path=acme/tiny-chat")
    assert "HF_HUB_OFFLINE is set" in refusal("model.path=acme/tiny-chat", HF_HUB_OFFLINE="1")
    assert "prepare must run where there is a network" in refusal(
        "model.path=acme/tiny-chat", HF_ENDPOINT="http://127.0.0.1:9"
    )
    assert not hub.sent
    assert {path.name for path in tmp_path.iterdir()} <= {"hub", "cache"}


@pytest.mark.slow
def test_a_download_that_breaks_goes_on(hub: Hub, tmp_path: Path) -> None:
    hub.hold = "GET .*/resolve/.*"
    process = start_prepare(hub, tmp_path, "model.path=acme/tiny-chat")
    while not list(tmp_path.glob("cache/hub/*/blobs/*.incomplete")):
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=10) == CONTINUE_LATER
    assert not list(tmp_path.glob("cache/hub/*/blobs/*")), "no incomplete files"
    hub.go_on.set()
    hub.repos[MODEL].refused.add("model.safetensors")
    line = prepare(hub, "model.path=acme/tiny-chat", cwd=tmp_path, code=USER_ERROR)
    assert "finished downloads are kept, and the same command continues" in line
    assert not (tmp_path / "cache" / "prepared").exists()
    hub.repos[MODEL].refused.clear()
    hub.sent.clear()
    prepare(hub, "model.path=acme/tiny-chat", "data.limit=8", cwd=tmp_path)
    assert "model.safetensors" in hub.sent and "config.json" not in hub.sent


@pytest.mark.slow
def test_all_models_of_a_sweep_and_only_the_weights_that_are_loaded(hub: Hub, tmp_path: Path) -> None:
    files = {file.name: file.read_bytes() for file in TINY.iterdir()}
    again = ["original/consolidated.00.pth", "pytorch_model.bin", "model.gguf", "onnx/model.onnx", "tf_model.h5"]
    hub.commit("models/acme/other", {**files, **dict.fromkeys(again, b"\0" * 10**6)})
    sweep = ["-m", "model.path=acme/tiny-chat,acme/other", "data.limit=8"]
    said = prepare(hub, *sweep, "dry_run=true", cwd=tmp_path)
    assert not any("/resolve/" in request for request in hub.log) and not (tmp_path / "cache").exists()
    sizes = [line.split("  ")[-1] for line in said.splitlines() if line.startswith("model ")]
    assert len(sizes) == 2 and sizes[0] == sizes[1]
    said = prepare(hub, *sweep, cwd=tmp_path)
    assert sorted(hub.sent) == sorted([*files, *files])
    assert (
        "tiny-chat with data=sample: 8 training groups" in said and "other with data=sample: 8 training groups" in said
    )
    prepared = sorted(path.name for path in (tmp_path / "cache" / "prepared").iterdir())
    assert prepared == ["models--acme--other.json", "models--acme--tiny-chat.json"]
    assert {path.name for path in tmp_path.iterdir()} == {"hub", "cache"}, "no run directory and no sweep folder"


@pytest.mark.slow
def test_nothing_to_fetch_still_checks_the_data(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(pairs("I can't sleep.")["data/train.jsonl"])
    (tmp_path / "b.jsonl").write_text('{"prompt": "Hello"}\n')
    sweep = ["-m", "data=local", "data.path=a.jsonl,b.jsonl"]
    result = cli("prepare", *sweep, cwd=tmp_path, check_code=USER_ERROR, HF_HUB_OFFLINE="1")
    assert result.stdout.splitlines()[0].startswith("nothing to fetch")
    assert "tiny with data=a: 18 training groups, 2 held-out groups of 2 prompts" in result.stdout
    assert "error: combination data=local data.path=b.jsonl: b.jsonl line 1: " in result.stderr
    assert "Traceback" not in result.stderr


def test_an_annotation_is_prepared_with_its_models_and_speeches(hub: Hub, tmp_path: Path) -> None:
    given = ["--config-name", "annotate", "speeches.path=acme/pairs", "speeches.license=cc0-1.0", "out=out"]
    writer = ["writers=tiny", "writers.model=acme/tiny-chat", "writers.terms=apache-2.0"]
    said = prepare(hub, *given, *writer, cwd=tmp_path)
    assert "acme/tiny-chat" in said and "acme/pairs" in said and "ready: jobs can run" in said
    assert "new runs use" not in said, "an annotation is pinned only by revision="
    assert sorted(hub.sent) == sorted(["data/train.jsonl", *(file.name for file in TINY.iterdir())])
    assert not (tmp_path / "out").exists()
