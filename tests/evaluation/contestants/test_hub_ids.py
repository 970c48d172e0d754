"""Hub ids as contestants: loaded from the cache without a network; a mistyped folder that looks like a hub id is refused."""

import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from huggingface_hub import constants

from psychocounsel.asking.in_process import Transformers
from psychocounsel.data.sources import load_examples
from psychocounsel.errors import USER_ERROR, UserError
from psychocounsel.remote import hub as hubs
from tests.support.answering import dead_address
from tests.support.contests import PROMPTS, data
from tests.support.harness import TINY, cli
from tests.support.hub_server import Hub
from tests.support.in_process import run_here
from tests.support.trained import trained_run

__all__ = ["dead_address"]
ONLINE = {"HF_HUB_OFFLINE": "0"}  # all other tests are offline


def cached(folder: Path, name: str) -> Path:
    """Write a cache in huggingface_hub's layout, with the shipped model under a hub id."""
    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = folder / f"models--{name.replace('/', '--')}"
    shutil.copytree(TINY, repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    return folder


@pytest.mark.slow
def test_a_cached_hub_id_replies_as_the_same_weights_do_without_a_network(tmp_path: Path, dead_address: str) -> None:
    environment = {"HF_HUB_CACHE": str(cached(tmp_path / "hub", "someone/chat")), "HF_ENDPOINT": dead_address, **ONLINE}
    given = [*data(tmp_path, PROMPTS[:3]), "model.path=someone/chat", "against=builtin:tiny", "replies.max_tokens=8"]
    result = cli("evaluate", "evaluation=health", *given, "run_dir=out", cwd=tmp_path, **environment)
    assert "etrying" not in result.stderr
    rows = pq.read_table(tmp_path / "out" / "replies.parquet").to_pylist()
    texts = {name: [row["text"] for row in rows if row["setting"] == name] for name in ("chat", "tiny")}
    assert texts["chat"] == texts["tiny"] and len(texts["tiny"]) == 3


@pytest.mark.slow
def test_a_mistyped_folder_is_one_line_and_nobody_tries_again(tmp_path: Path, dead_address: str) -> None:
    given = [*data(tmp_path, PROMPTS[:3]), "model.path=runs/dpoo", "against=null", "run_dir=out"]
    environment = {"HF_HUB_CACHE": str(tmp_path / "hub"), "HF_ENDPOINT": dead_address, **ONLINE}
    result = cli("evaluate", "evaluation=health", *given, cwd=tmp_path, check_code=USER_ERROR, **environment)
    (line,) = [line for line in result.stderr.splitlines() if "error" in line.lower() or "etrying" in line]
    assert line == (
        "error: model=runs/dpoo: this folder does not exist; if it is a hub id, the cache does not hold it, and "
        f"{dead_address} cannot be reached from here: run `psychocounsel prepare` with the same overrides where there "
        "is a network"
    )


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """Run a local hub for huggingface_hub in this process, with an empty cache."""
    running = Hub(tmp_path / "hub")
    running.start()
    places: dict[str, Any] = {"ENDPOINT": running.url, "HF_HUB_CACHE": str(tmp_path / "cache"), "HF_HUB_OFFLINE": False}
    for name, value in places.items():
        monkeypatch.setattr(constants, name, value)
    hubs.require_known.cache_clear()
    yield running
    running.stop()
    hubs.require_known.cache_clear()


def test_a_hub_that_knows_no_such_model_is_asked_once(hub: Hub) -> None:
    with pytest.raises(
        UserError, match=r"against\.model=me/mine: this folder does not exist, and the hub has no such model"
    ):
        Transformers(name="x", model="me/mine").open("against")
    asked = [request for request in hub.log if "me/mine" in request]
    assert asked == ["GET /api/models/me/mine"]


def test_a_model_that_the_hub_or_the_cache_has_is_no_mistake(
    hub: Hub, dead_address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.commit_folder("models/acme/chat", TINY)
    hubs.require_known("acme/chat", None, "model.path")
    hubs.require_known("acme/chat", "no-such-branch", "model.path")  # the loader reports the missing branch
    cached(Path(constants.HF_HUB_CACHE), "acme/kept")
    monkeypatch.setattr(constants, "ENDPOINT", dead_address)
    with pytest.raises(UserError, match=r"model.path=acme/chat: .*cannot be reached from here"):
        hubs.require_known("acme/chat", "v2", "model.path")
    assert not constants.HF_HUB_OFFLINE
    hubs.require_known("acme/kept", None, "model.path")
    assert constants.HF_HUB_OFFLINE, "later requests do not try the network again"
    with pytest.raises(UserError, match="if it is a hub id, the cache does not hold it, and HF_HUB_OFFLINE is set"):
        hubs.require_known("acme/other", None, "model.path")


def test_a_folder_whose_name_no_model_of_the_hub_can_have_is_one_line(hub: Hub) -> None:
    for name in ("runs/dpo--beta", "runs/dpo_beta-0.1.", "runs/x..y"):
        with pytest.raises(UserError, match="this folder does not exist, and the hub allows no such model name"):
            hubs.require_known(name, None, "model.path")


MODELS = {  # how each command names a model
    "train model.path={}": "model.path",
    "train algo=ppo reward.path={}": "reward.path",
    "evaluate reward.path={}": "reward.path",
    "evaluate evaluation=health model.path={}": "model.path",
    "evaluate evaluation=winrate judge=tiny model.path=builtin:tiny_dpo against={}": "against",
    "chat model.path={}": "model.path",
}


@pytest.mark.parametrize("line", MODELS)
def test_a_missing_folder_whose_parent_exists_is_no_hub_id_and_a_run_stands_for_its_model(
    line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own_environment: None
) -> None:
    monkeypatch.chdir(tmp_path)
    is_reward = MODELS[line] == "reward.path"
    trained_run(tmp_path / "runs" / "one", weights=TINY.with_name("tiny_reward") if is_reward else TINY)
    for name in ("begun", "audited"):
        (tmp_path / "runs" / name).mkdir()
    shutil.copy(tmp_path / "runs" / "one" / "job.json", tmp_path / "runs" / "begun")
    missing = run_here(line.format("runs/typo")).stderr
    assert f"{MODELS[line]}=runs/typo: runs/ has no such folder" in missing.replace("against.path", "against"), missing
    assert "runs/begun: the run has no model yet" in run_here(line.format("runs/begun")).stderr
    (tmp_path / "runs" / "audited" / "job.json").write_text('{"module": "psychocounsel.audit"}')
    no_model = "runs/audited: is a run of `psychocounsel audit`, which makes no model"
    assert no_model in run_here(line.format("runs/audited")).stderr
    assert "runs/begun/model: no such file or folder (a hub id" in run_here(line.format("runs/begun/model")).stderr
    if "judge=" in line:  # so is that of a judge
        judge = run_here(
            line.format("builtin:tiny").replace("judge=tiny", "judge=transformers judge.model=runs/no/model")
        )
        assert "judge.model=runs/no/model: no such file or folder (a hub id" in judge.stderr, judge.stderr
    if "chat" not in line:  # it would talk here; `evaluate` shares its reader
        answer = run_here(line.format("runs/one"), rows=False)
        assert answer.code == 0, answer.stderr


def test_a_process_asks_a_hub_out_of_reach_once(
    dead_address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    places: dict[str, Any] = {"ENDPOINT": dead_address, "HF_HUB_CACHE": str(tmp_path), "HF_HUB_OFFLINE": False}
    for name, value in places.items():
        monkeypatch.setattr(constants, name, value)
    began = time.monotonic()
    for name in ("acme/pairs", "acme/more"):
        with pytest.raises(UserError, match=f"{name}: is not in the cache, and .* cannot be reached"):
            load_examples(name, "train", None)
    assert hubs.answers.cache_info().currsize >= 1 and not hubs.answers(dead_address)
    assert time.monotonic() - began < 20, "datasets alone would try for half a minute each time"
