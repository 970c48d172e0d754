"""Tests of system prompts: the shipped texts, and the prompt that a model was trained with."""

from pathlib import Path

import pytest
from omegaconf import DictConfig

from psychocounsel.counsel.system_prompt import (
    COUNSELLOR,
    SHORT,
    policy_prompt,
    prompt_text,
    reward_prompt,
    trained_prompt,
)
from psychocounsel.errors import UserError
from psychocounsel.rundir.run_config import write_config, write_job
from psychocounsel.storage.files import write_json
from tests.support.composed import check, compose


def folder_of(path: Path, **about: object) -> str:
    path.mkdir(parents=True)
    write_json(path / "psychocounsel.json", {"step": 3, **about})
    return str(path)


def new_run(folder: Path, config: DictConfig) -> None:
    folder.mkdir()
    write_config(folder, config)
    write_job(folder, "psychocounsel.train", 0, [])


def test_a_prompt_is_builtin_a_text_or_a_file(tmp_path: Path) -> None:
    assert prompt_text("builtin:counsellor", "key") == COUNSELLOR
    assert prompt_text("builtin:short", "key") == SHORT
    assert prompt_text("Be kind.", "key", 80) == "Be kind. Use at most 80 words."
    (tmp_path / "mine.txt").write_text("Ole ystävällinen.\n", encoding="utf-8")
    assert prompt_text(str(tmp_path / "mine.txt"), "key") == "Ole ystävällinen."
    for wrong in ("builtin:counselor", str(tmp_path / "none.txt")):
        with pytest.raises(UserError, match="^key="):
            prompt_text(wrong, "key")


def test_auto_is_the_prompt_of_the_training(tmp_path: Path) -> None:
    kind = folder_of(tmp_path / "run" / "model", system_prompt="Be kind. builtin:short.txt")
    plain = folder_of(tmp_path / "plain", system_prompt=None)
    for path in (kind, str(tmp_path / "run")):
        assert policy_prompt("auto", path, "key") == reward_prompt("auto", path, "key") == "Be kind. builtin:short.txt"
    assert policy_prompt("auto", kind, "key", 9) == "Be kind. builtin:short.txt Use at most 9 words."
    for path in (plain, "builtin:tiny"):
        assert trained_prompt(path) == ""
        assert policy_prompt("auto", path, "key") is None and reward_prompt("auto", path, "key") is None
        assert policy_prompt("auto", path, "key", 9) == "Use at most 9 words."
    for path in (folder_of(tmp_path / "old"), "org/model", None):
        assert trained_prompt(path) is None
        assert policy_prompt("auto", path, "key") == SHORT
    assert reward_prompt("auto", "org/model", "key") is None
    (tmp_path / "replies.jsonl").touch()
    assert trained_prompt(str(tmp_path / "replies.jsonl")) is None
    assert policy_prompt(None, kind, "key") is None and policy_prompt("Stay.", kind, "key") == "Stay."


def test_a_run_without_a_model_yet_names_its_prompt_in_its_config(tmp_path: Path) -> None:
    kind = folder_of(tmp_path / "kind", system_prompt="Be kind.")
    for name, overrides, expected in [
        ("given", ["model.system_prompt=Stay."], "Stay."),
        ("none", ["model.system_prompt=null"], ""),
        ("from tiny", [], ""),
    ]:
        new_run(tmp_path / name, check(compose(overrides)))
        assert trained_prompt(str(tmp_path / name)) == trained_prompt(str(tmp_path / name / "model")) == expected
    config = check(compose([]))
    config.model.path = kind
    new_run(tmp_path / "chained", config)
    assert trained_prompt(str(tmp_path / "chained")) == "Be kind."


def test_runs_that_start_from_each_other_have_no_known_prompt(tmp_path: Path) -> None:
    config = check(compose([]))
    for name, start in (("one", "two"), ("two", "one")):
        config.model.path = str(tmp_path / start)
        new_run(tmp_path / name, config)
    assert trained_prompt(str(tmp_path / "one")) is None
