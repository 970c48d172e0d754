"""Warnings about judges that may be biased."""

from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from psychocounsel.asking.chat_server import ChatServer
from psychocounsel.evaluation.judging.bias import family_of, judge_warnings
from psychocounsel.evaluation.judging.judges import RewardJudge
from psychocounsel.rundir.paths import AnnotationDir, RunDir
from psychocounsel.storage.files import write_json

CHAT = "psychocounsel.asking.chat_server.ChatServer"
LOCAL = "psychocounsel.reward.local_model.LocalReward"

ALONE = {"mix": [], "eval_path": None}


def warned(contestants: dict[str, str], judge: dict[str, Any]) -> list[str]:
    members = [{"_target_": CHAT, "name": name, "model": model} for name, model in contestants.items()]
    config = {
        "contestants": {
            "_target_": "psychocounsel.evaluation.contestants.settings.Contestants",
            "members": members,
            "settings": [*contestants],
        },
        "judge": judge,
    }
    return list(judge_warnings(OmegaConf.create(config)))


def chat(model: str, name: str = "judge") -> dict[str, Any]:
    return {"_target_": CHAT, "name": name, "model": model}


def scorer(path: str | None) -> dict[str, Any]:
    target = "psychocounsel.evaluation.judging.judges.RewardJudge"
    return {"_target_": target, "name": "rm", "reward": {"_target_": LOCAL, "name": "rm", "path": path}}


@pytest.mark.parametrize(
    ("model", "family"),
    [
        ("gpt-4o", "gpt"),
        ("chatgpt-4o-latest", "gpt"),
        ("anthropic/claude-sonnet-4", "claude"),
        ("llama3.1:8b", "llama"),
        ("meta-llama/Llama-3.1-8B-Instruct", "llama"),
        ("Psychotherapy-LLM/PsychoCounsel-Llama3-8B", "llama"),
        ("Qwen/QwQ-32B", "qwen"),
        ("mistralai/Mixtral-8x7B", "mistral"),
        ("microsoft/phi-4", "phi"),
        ("HuggingFaceTB/SmolLM2-360M", "smollm"),
        ("my-yields-model", None),
        ("philosophy-tuned", None),
        ("builtin:tiny", None),
        (None, None),
    ],
)
def test_families(model: str | None, family: str | None) -> None:
    assert family_of(ChatServer(name="x", model=model)) == family
    assert family_of(RewardJudge(name="x", reward={"path": model})) == family


def test_a_local_model_tells_by_its_type(tmp_path: Path) -> None:
    write_json(tmp_path / "config.json", {"model_type": "qwen3"})
    assert family_of(ChatServer(name="x", model=str(tmp_path))) == "qwen"
    (named := tmp_path / "SmolLM2-135M").mkdir()
    write_json(named / "config.json", {"model_type": "llama"})
    assert family_of(ChatServer(name="x", model=str(named))) == "smollm", (
        "the architecture is Llama's, the model is not"
    )


def test_a_contestant_its_kin_and_strangers() -> None:
    lines = warned({"mine": "me/own", "theirs": "gpt-4o", "kin": "gpt-4o-mini", "cousin": "gpt-3.5"}, chat("gpt-4o"))
    assert lines == [
        "warning: the judge judge is also a contestant: judges prefer their own replies",
        "warning: the judge judge is of one model family (gpt) with kin, cousin: judges tend to prefer their own family",
    ]
    assert warned({"mine": "me/own", "theirs": "qwen3"}, chat("gpt-4o")) == []
    several = {
        "_target_": "psychocounsel.evaluation.judging.judges.Judges",
        "members": [chat("claude-1", "a"), chat("qwen3", "b")],
    }
    (line,) = warned({"mine": "me/own", "theirs": "qwen3-8b"}, several)
    assert "judge b is of one model family (qwen) with theirs" in line


def a_run(place: Path, **config: Any) -> Path:
    (place / "model").mkdir(parents=True)
    OmegaConf.save(OmegaConf.create({"model": {"path": "some/base"}, **config}), RunDir(place).config)
    RunDir(place).job.touch()
    return place


def test_a_judge_that_labelled_or_rewarded_the_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = a_run(tmp_path / "data", annotator={**chat("gpt-4o", "labeller"), "name": "labeller"})
    AnnotationDir(data).votes.touch()
    (data / "dataset").mkdir()
    run = a_run(
        tmp_path / "run",
        data={"path": str(data / "dataset"), **ALONE},
        reward={"_target_": LOCAL, "path": "rm"},
    )
    other = a_run(tmp_path / "other", data={"path": "some/hub", **ALONE})
    models = {"mine": str(run / "model"), "theirs": str(other / "model")}
    (line,) = warned(models, chat("gpt-4o"))
    assert "the judge judge labelled the training data of mine" in line
    (line,) = warned(models, chat("another", "labeller"))
    assert "labelled the training data of mine" in line
    assert warned(models, chat("another")) == []
    (tmp_path / "rm").mkdir()
    monkeypatch.chdir(tmp_path)
    (line,) = warned(models, scorer(str(tmp_path / "rm")))
    assert "the judge rm was the reward model in the training of mine" in line
    assert warned(models, scorer("elsewhere")) == []


def test_a_judge_that_gave_the_rewards_is_named(tmp_path: Path) -> None:
    target = "psychocounsel.grading.rewards.RubricReward"
    run = a_run(
        tmp_path / "run",
        data={"path": "some/hub", **ALONE},
        reward={"_target_": target, "name": "rubric", "judge": chat("gpt-4o")},
    )
    config = {"mine": str(run / "model"), "theirs": "elsewhere"}
    (line,) = warned(config, chat("gpt-4o", "judge"))
    assert "the judge judge gave the rewards in the training of mine" in line
    assert warned(config, chat("another", "judge")) == []


def test_rewards_without_a_path_are_not_taken_for_one_another(tmp_path: Path) -> None:
    run = a_run(
        tmp_path / "run",
        data={"path": "some/hub", **ALONE},
        reward={"_target_": "own.Reward", "name": "own"},
    )
    judge = {**scorer("x"), "reward": {"_target_": LOCAL, "name": "rm"}}
    assert warned({"mine": str(run / "model")}, judge) == []
