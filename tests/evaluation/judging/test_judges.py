"""A reward model as the judge: its scores equal those of the Scorer, and other weights are scored again."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from psychocounsel.api import compose
from psychocounsel.errors import UserError
from psychocounsel.evaluation.judging.judges import RewardJudge
from psychocounsel.reward.local_model import LocalScorer
from psychocounsel.steps.plan import failed_calls
from psychocounsel.storage.files import PACKAGE
from tests.support.in_process import run_here
from tests.support.judged import evaluation_dir, judge_pairs, reply, speech

LOCAL = "psychocounsel.reward.local_model.LocalReward"
TEXTS = [
    ("That sounds lonely. What was the first night like?", "Just sleep more."),
    ("Calm down.", "You have carried this for weeks. Who knows about it?"),
    ("Same words.", "Same words."),
    ("word " * 900, "Too long beside this one."),
]


def settings(path: str, name: str = "rm", **more: Any) -> dict[str, Any]:
    target = "psychocounsel.evaluation.judging.judges.RewardJudge"
    return {"_target_": target, "name": name, "reward": {"_target_": LOCAL, "name": name, "path": path, **more}}


def test_scores_and_verdicts_are_those_of_the_scorer(tmp_path: Path) -> None:
    """For both shipped models, normalised or not, the judge gives the scores of the model itself."""
    speeches = [speech(str(number)) for number in range(len(TEXTS))]
    replies = [
        reply(str(number), setting, text)
        for number, texts in enumerate(TEXTS)
        for setting, text in zip(("beta", "base"), texts, strict=True)
    ]
    files = evaluation_dir(tmp_path, speeches, replies)
    judges = [
        settings("builtin:tiny_reward", max_length=400),
        settings("builtin:tiny_reward_2", "rm-2", max_length=400, normalise=True),
    ]
    said: list[str] = []
    figures, rows = judge_pairs(files, judges, said)
    for path, name in (("builtin:tiny_reward", "rm"), ("builtin:tiny_reward_2", "rm-2")):
        scorer = LocalScorer.load(path)
        mine = [row for row in rows if row["judge"] == name]
        assert [row["outcome"] for row in mine] == ["text", "text", "equal", "too_long"], "no verdict"
        for row, texts in zip(mine[:2], TEXTS, strict=False):
            turns = [{"role": "user", "content": f"I am client {row['speech']}."}]
            scores = scorer.score([[*turns, {"role": "assistant", "content": text}] for text in texts])
            np.testing.assert_allclose([row["first_score"], row["second_score"]], scores, rtol=1e-4, atol=1e-5)
            assert row["overall"] == np.sign(scores[0] - scores[1]) and row["order"] == "forward"
            assert row["empathy"] is None and row["prompt_version"] is None
        assert (mine[2]["overall"], mine[2]["empathy"]) == (0, None), "a scorer says nothing of principles"
    assert figures["outcomes"] == {name: {"text": 2, "equal": 1, "too_long": 1} for name in ("rm", "rm-2")}
    assert failed_calls(figures) == 0, "nothing that another attempt would change"
    assert "judge rm: 1 pair with a reply that is too long for the reward model" in said
    again, _ = judge_pairs(files, judges)
    assert again["bought"] == figures["bought"] == 6, "which is not asked for again"


def test_other_weights_under_the_same_path_are_another_judge(tmp_path: Path) -> None:
    shipped = PACKAGE / "model" / "shipped"
    folder = tmp_path / "rm"

    def digest(**more: Any) -> str:
        return RewardJudge(name="rm", reward={"_target_": LOCAL, "path": str(folder), **more}).digest

    shutil.copytree(shipped / "tiny_reward", folder)
    first = digest()
    assert digest() == first == digest(normalise=True), "scores are kept as the model gives them"
    assert digest(max_length=64) != first
    shutil.copytree(shipped / "tiny_reward_2", folder, dirs_exist_ok=True)
    assert digest() != first


def test_a_served_reward_model_of_others_is_a_third_party() -> None:
    def at(*addresses: str, **more: Any) -> RewardJudge:
        target = "psychocounsel.reward.servers.OpenRLHFReward"
        reward = {"_target_": target, "name": "r", "path": "builtin:tiny_reward", "addresses": [*addresses]}
        return RewardJudge(name="r", reward=reward, **more)

    assert not at("http://127.0.0.1:5000").is_third_party() and not at("http://10.0.0.2:5000").is_third_party()
    assert at("http://127.0.0.1:5000", "https://rm.example.com").is_third_party()
    assert not at("https://rm.example.com", third_party=False).is_third_party()
    assert not RewardJudge(name="r", reward={"_target_": LOCAL, "name": "r", "path": "x"}).is_third_party()
    assert [address for _, address in at("https://rm.example.com").receivers("judge")] == ["https://rm.example.com"]


def test_what_is_no_single_reward_model_is_refused() -> None:
    with pytest.raises(UserError, match="give a name in conf/reward"):
        RewardJudge(name="r", reward={}).check("judge")
    ensemble = {"_target_": "psychocounsel.reward.ensemble.EnsembleReward", "name": "e", "members": []}
    with pytest.raises(UserError, match="judge=several"):
        RewardJudge(name="r", reward=ensemble).check("judge")
    for path, said in (("/no/such/model", "/no/such/model"), ("builtin:tiny", "builtin:tiny")):
        local = {"_target_": LOCAL, "name": "r", "path": path}
        with pytest.raises(UserError, match=rf"judge\.members\[1\]\.reward.*{said}"):
            RewardJudge(name="r", reward=local).open("judge.members[1]")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("judge=reward judge.reward='{path: x}'", "judge.reward: is a path, a name in conf/reward, or a mapping"),
        ("judge=reward judge.reward='{use: local, pathh: x}'", "judge.reward: has no key pathh"),
        ("judge=reward judge.reward=no_such", "judge.reward: no reward config named no_such"),
        ("judge=reward judge.reward=builtin:my-reward", "judge.reward.path=builtin:my-reward: does not ship"),
        ("judge=reward judge.reward=/no/such/model", "judge.reward.path=/no/such/model: no such file or folder"),
        ("judge=reward judge.reward=builtin:tiny", "judge.reward.path=builtin:tiny: is a language model"),
        (
            "judge=several judge.members='[{use: reward, reward: /no/such}, {use: reward, reward: tiny}]'",
            "judge.members[0].reward.path=/no/such: no such",
        ),
        (
            "judge=several judge.members='[{use: reward, name: a, reward: tiny}, {use: reward, name: a, reward: tiny}]'",
            "name a",
        ),
        ("judge=several judge.members=[]", "judge.members"),
    ],
)
def test_a_wrong_judge_is_refused_in_one_line(
    given: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    answer = run_here(f"evaluate evaluation=winrate {given}")
    assert answer.code == 2 and said in answer.stderr, answer
    assert len(answer.stderr.strip().splitlines()) == 1


def test_the_key_of_a_judges_reward_server_is_asked_for_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MY_RM_KEY", raising=False)
    reward = {"use": "openrlhf_server", "path": "builtin:tiny_reward", "addresses": ["http://127.0.0.1:1"]}
    given = json.dumps({**reward, "key_variable": "MY_RM_KEY"}).replace('"', "")
    answer = run_here(f"evaluate evaluation=winrate judge=reward judge.reward='{given}'")
    assert (
        answer.code == 2
        and "judge.reward.key_variable=MY_RM_KEY: this environment variable is not set" in answer.stderr
    ), answer


def named(*rewards: str) -> list[str]:
    """Return the names of judges with these rewards."""
    members = ",".join(f"{{use: reward, reward: {reward}}}" for reward in rewards)
    given = ["evaluation=winrate", "judge=several", f"judge.members=[{members}]", "model.path=builtin:tiny_dpo"]
    return [str(judge.name) for judge in compose(given, name="evaluate").judge.members]


def test_a_judge_has_the_name_of_its_model(tmp_path: Path) -> None:
    """The file of conf/reward names it only if no path is given; models of one name get their parent folder's as a prefix."""
    for run in ("one/rm", "two/rm", "three/other"):
        shutil.copytree(PACKAGE / "model" / "shipped" / "tiny_reward", tmp_path / run / "model")
    assert named(f"{{use: local, path: {tmp_path}/three/other/model}}", "tiny") == ["other", "tiny"]
    assert named("builtin:tiny_reward", f"{tmp_path}/two/rm/model") == ["tiny_reward", "rm"]
    assert named("{use: local, path: builtin:tiny_reward}", "{use: local, path: ORG/NAME, name: mine}") == [
        "tiny_reward",
        "mine",
    ]
    paths = [f"{{use: local, path: {tmp_path}/{run}/model}}" for run in ("one/rm", "two/rm", "three/other")]
    assert named(*paths) == ["one_rm", "two_rm", "other"]


def test_answers_bought_under_an_earlier_name_are_kept_and_scored(tmp_path: Path) -> None:
    """An evaluation that was cut off when its judge was called `local` goes on, and all its verdicts are scored."""
    speeches = [speech(str(number)) for number in range(2)]
    replies = [
        reply(str(number), setting, f"{setting} says {number}") for number in range(2) for setting in ("beta", "base")
    ]
    files = evaluation_dir(tmp_path, speeches, replies)
    earlier, _ = judge_pairs(files, [settings("builtin:tiny_reward", "local")])
    assert earlier["bought"] == 2
    more = [speech("2")], [reply("2", setting, f"{setting} says 2") for setting in ("beta", "base")]
    files = evaluation_dir(tmp_path, [*speeches, *more[0]], [*replies, *more[1]])
    said: list[str] = []
    figures, rows = judge_pairs(files, [settings("builtin:tiny_reward", "mine")], said)
    assert figures["bought"] == 3, "two of them under the earlier name"
    assert figures["models"] == {"mine": {"mine": 3}}
    assert [(row["judge"], row["outcome"]) for row in rows] == [("mine", "text")] * 3
    assert not [line for line in said if "several models" in line]
