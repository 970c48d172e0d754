"""Commits of the hub: configurations are pinned to them, and the cache serves exactly these."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import HfApi, constants
from omegaconf import DictConfig, OmegaConf

from psychocounsel.data.sources import load_examples
from psychocounsel.errors import UserError
from psychocounsel.remote import hub as hubs
from psychocounsel.remote import hub_sources
from tests.support.composed import check, command_for, compose
from tests.support.harness import TINY
from tests.support.hub_server import Hub, pairs

DATA = "datasets/acme/pairs"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """Yield a running fake hub that huggingface_hub uses in this process, with an empty cache."""
    from datasets import config as datasets_config

    running = Hub(tmp_path / "hub")
    running.start()
    url = running.url + "/{repo_id}/resolve/{revision}/{filename}"
    places = {"ENDPOINT": running.url, "HUGGINGFACE_CO_URL_TEMPLATE": url, "HF_HUB_CACHE": str(tmp_path / "cache")}
    for name, value in {**places, "HF_HUB_OFFLINE": False, "HF_HUB_DISABLE_XET": True}.items():
        monkeypatch.setattr(constants, name, value)
    monkeypatch.setattr(datasets_config, "HF_DATASETS_CACHE", tmp_path / "datasets")
    yield running
    running.stop()


def sources_of(config: DictConfig) -> list[hub_sources.HubSource]:
    repositories = command_for(config).repositories(config)
    return list(dict.fromkeys(source for source, _ in repositories))


def test_sets_that_an_audit_is_held_against_are_pinned_like_its_data(tmp_path: Path) -> None:
    against = "audit.against=[{path: acme/test, revision: v1}, {path: acme/more}]"
    config = check(compose(["data.path=acme/pairs", against, f"paths.cache={tmp_path}"], name="audit"))
    sources = sources_of(config)
    assert [(source.id, source.revision) for source in sources] == [
        ("acme/pairs", None),
        ("acme/test", "v1"),
        ("acme/more", None),
    ]
    hub_sources.record(str(tmp_path), sources[2], "7" * 40)
    hub_sources.pin(config, command_for(config).repositories(config))
    assert [entry.revision for entry in config.audit.against] == ["v1", "7" * 40]


def test_every_place_of_a_configuration_is_pinned_where_it_asks_for_no_commit(tmp_path: Path) -> None:
    def config(*more: str) -> DictConfig:
        mix = "data.mix=[{path: acme/pairs, rows: 3}, {path: acme/more, rows: 3, revision: v1}]"
        return check(
            compose(["model.path=acme/chat", "data.eval_path=acme/pairs", mix, f"paths.cache={tmp_path}", *more])
        )

    asked = config()
    sources = sources_of(asked)
    named = [("model", "acme/chat", None), ("dataset", "acme/pairs", None), ("dataset", "acme/more", "v1")]
    assert [(source.kind, source.id, source.revision) for source in sources] == named
    for number, source in enumerate(sources):
        commit = f"{number}" * 40
        hub_sources.record(str(tmp_path), source, commit)
    pinned = config()
    hub_sources.pin(pinned, command_for(pinned).repositories(pinned))

    def commits(config: DictConfig) -> list[str | None]:
        return [config.model.revision, config.data.eval_revision, *(entry.revision for entry in config.data.mix)]

    assert commits(pinned) == ["0" * 40, "1" * 40, "1" * 40, "v1"]
    kept = config()
    hub_sources.keep_revisions(kept, OmegaConf.create(OmegaConf.to_yaml(pinned)), command_for(kept).repositories(kept))
    assert commits(kept) == commits(pinned)
    other = config("model.path=acme/other", "data.mix=[{path: acme/more, rows: 3}]")
    hub_sources.keep_revisions(
        other, OmegaConf.create(OmegaConf.to_yaml(pinned)), command_for(other).repositories(other)
    )
    assert commits(other) == [None, "1" * 40, None]


def test_offline_a_dataset_is_that_of_its_commit_or_refused(hub: Hub) -> None:
    """Given a name alone, `datasets` would load the commit that it loaded last."""
    commits: dict[str | None, str] = {}
    texts = {"v0": "I can't sleep.", "v1": "I wake up at four.", None: "I am tired."}
    for name, text in texts.items():
        commits[name] = hub.commit(DATA, pairs(text))
        hub.repos[DATA].refs[name or "main"] = commits[name]
        hubs.fetch(found := hubs.look_up(hub_sources.HubSource("dataset", "acme/pairs", name, "data.path")))
        assert found.missing == found.size > 0 and found.commit == commits[name]
    partial = hub.commit(DATA, pairs("I lie awake."))
    HfApi().hf_hub_download("acme/pairs", "data/train.jsonl", repo_type="dataset", revision=partial)
    hubs.go_offline()
    for name, text in texts.items():
        for revision in (name, commits[name]):
            (first, *_) = load_examples("acme/pairs", "train", revision)
            assert first.prompt[-1]["content"] == f"Day 0: {text}"
    with pytest.raises(UserError, match=r"acme/pairs: revision \w{40} is not in the cache, .* `psychocounsel prepare`"):
        load_examples("acme/pairs", "train", partial)


def test_the_hub_of_these_tests_takes_pushes(hub: Hub, tmp_path: Path) -> None:
    shutil.copytree(TINY, tmp_path / "model")
    (tmp_path / "model" / "README.md").write_text("---\nlicense: mit\n---\n# Mine\n")
    api = HfApi(token="hf_good")
    api.create_repo("me/mine", private=True)
    api.create_repo("me/mine", private=True, exist_ok=True)
    commit = api.upload_folder(repo_id="me/mine", folder_path=tmp_path / "model")
    pushed = hub.repos["models/me/mine"]
    assert pushed.private and pushed.refs["main"] == commit.oid
    sent = {path.name: path.read_bytes() for path in (tmp_path / "model").iterdir()}
    assert {name: data for name, data in pushed.files("main").items() if name != ".gitattributes"} == sent


def test_of_a_model_that_a_server_runs_no_weights_are_fetched(hub: Hub, tmp_path: Path) -> None:
    hub.commit_folder("models/acme/reward", TINY)
    served = ["reward=vllm_server", "reward.addresses=[http://a:1]", "reward.path=acme/reward"]
    config = check(compose(["algo=grpo", *served, f"paths.cache={tmp_path}"]))
    (source,) = sources_of(config)
    found = hubs.look_up(source)
    hubs.fetch(found)
    weights = (TINY / "model.safetensors").stat().st_size
    assert found.size == sum(file.stat().st_size for file in TINY.iterdir()) - weights
    assert sorted(hub.sent) == sorted(file.name for file in TINY.iterdir() if file.name != "model.safetensors")
    hub_sources.record(str(tmp_path), source, found.commit)
    hub_sources.pin(config, command_for(config).repositories(config))
    assert config.reward.revision == found.commit


def test_every_member_of_several_reward_models_is_pinned(tmp_path: Path) -> None:
    reward = {"_target_": "psychocounsel.reward.local_model.LocalReward", "name": "local"}
    server = {**reward, "_target_": "psychocounsel.reward.servers.VLLMReward", "addresses": ["http://a:1"]}
    composed = compose(["algo=grpo", "reward=ensemble", f"paths.cache={tmp_path}"])
    composed.reward.members = [{**reward, "path": "acme/one"}, {**server, "path": "acme/two"}]
    config = check(composed)
    sources = sources_of(config)
    assert [(source.id, source.weights) for source in sources] == [("acme/one", True), ("acme/two", False)]
    for number, source in enumerate(sources):
        hub_sources.record(str(tmp_path), source, f"{number}" * 40)
    hub_sources.pin(config, command_for(config).repositories(config))
    assert [member.revision for member in config.reward.members] == ["0" * 40, "1" * 40]
    assert [member.name for member in config.reward.members] == ["one", "two"]


def test_cache_directories_are_in_the_home_folder_and_none_is_called_tilde(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TRITON_CACHE_DIR", "TORCHINDUCTOR_CACHE_DIR", "HF_HUB_CACHE", "HF_HOME"):
        monkeypatch.delenv(name, raising=False)
    folders = hubs.cache_directories("~/.cache/psychocounsel")
    assert {"TORCHINDUCTOR_CACHE_DIR", "HF_HUB_CACHE"} <= folders.keys()
    assert all(Path(folder).is_relative_to(Path.home() / ".cache") for folder in folders.values())
