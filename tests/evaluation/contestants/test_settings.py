"""Keys `model` and `against` become contestants: their bases, their number formats, and lists of seeds."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from psychocounsel.errors import UserError
from psychocounsel.evaluation.contestants.settings import ReplyFile
from psychocounsel.evaluation.judging.judges import RewardJudge
from psychocounsel.reward.local_model import LocalReward, LocalScorer, format_lines
from psychocounsel.rundir.run_config import write_job
from psychocounsel.settings.targets import build
from psychocounsel.storage.files import folder_of
from tests.support.chats import converse
from tests.support.contests import contest, replies
from tests.support.harness import TINY, write_jsonl
from tests.support.trained import trained_run

# Keys `model` and `against` become contestants: runs, folders, addresses, files of replies, lists of seeds.


def contestants(*overrides: str) -> list[tuple[str, int, str, str]]:
    found = build(contest("evaluation=health", *overrides), "contestants").all()
    return [(each.setting, each.seed, each.model.name, str(each.model.model)) for each in found]


def test_a_run_stands_for_its_model_and_a_list_of_paths_for_seeds(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name / "model").mkdir(parents=True)
        (tmp_path / name / "model" / "config.json").write_text("{}")
        write_job(tmp_path / name, "psychocounsel.train", 0, [])
    paths = [f"{tmp_path}/one", f"{tmp_path}/two/model"]
    found = contestants(f"model.path=[{','.join(paths)}]", "model.name=beta", "against=builtin:tiny")
    models = [str(tmp_path / name / "model") for name in ("one", "two")]
    assert found == [
        ("beta", 0, "beta-1", models[0]),
        ("beta", 1, "beta-2", models[1]),
        ("tiny", 0, "tiny", "builtin:tiny"),
    ]
    assert contestants(f"model.path={paths[1]}", "against=null") == [("two", 0, "two", models[1])]


def test_all_contestants_sample_alike_but_for_what_an_entry_says(tmp_path: Path) -> None:
    against = (
        "against=[{use: openai, model: gpt-x}, {path: 'http://localhost:8000/v1', model: served, temperature: 0.1}]"
    )
    config = contest(
        "evaluation=health", "model.path=builtin:tiny", against, "replies.temperature=0.4", "replies.max_tokens=77"
    )
    members = config.contestants.members
    assert [member.temperature for member in members] == [0.4, 0.4, 0.1]
    assert [member.max_tokens for member in members] == [77, 77, 77]
    assert [member.name for member in members] == ["tiny", "gpt-x", "served"]
    assert [build(config, "contestants").models()[place].is_third_party() for place in range(3)] == [False, True, False]


def test_a_file_of_replies_is_a_contestant(tmp_path: Path) -> None:
    file = replies(tmp_path / "people.jsonl", lambda prompt: "Yes.")
    assert contestants("model.path=builtin:tiny", f"against={file}")[1] == ("people", 0, "people", str(file))


def test_models_in_folders_of_one_name_are_told_apart_by_their_parents(tmp_path: Path) -> None:
    paths = [tmp_path / stage / "run_2" / "model" for stage in ("dpo", "sft")]
    for path in paths:
        path.mkdir(parents=True)
        (path / "config.json").write_text("{}")
    given = [f"model.path={paths[0]}", f"against=[{paths[1]},builtin:tiny]"]
    assert list(contest("evaluation=health", *given).contestants.settings) == ["dpo_run_2", "sft_run_2", "tiny"]
    with pytest.raises(UserError, match="two contestants are called dpo_run_2"):
        contest("evaluation=health", f"model.path={paths[0]}", f"against={paths[0]}")


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["model.path=null"], "model.path is not set"),
        (["model.path=./nowhere"], "no such file or folder"),
        (["model.path=."], "contains no config.json, so it is not a model"),
        (["model.path=nowhere.jsonl"], "no such file of replies"),
        (["model.path=http://localhost:1/v1"], "name the model that it serves"),
        (["against=[builtin:tiny,builtin:tiny]"], "two contestants are called tiny"),
        (["against=[builtin:tiny,{path: builtin:tiny_dpo, warmth: 1}]"], r"against\[1\]: has no key warmth"),
        (["against={use: pool}"], "has members itself"),
        (["against=3"], "against: 3 is not a contestant"),
        (["model.path=[]"], r"model.path=\[\]"),
    ],
)
def test_what_can_be_no_contestant_is_refused(overrides: list[str], said: str) -> None:
    with pytest.raises(UserError, match=said):
        contest("evaluation=health", *overrides)


def test_a_run_without_a_model_yet_is_refused(tmp_path: Path) -> None:
    write_job(tmp_path, "psychocounsel.train", 0, [])
    with pytest.raises(UserError, match="has no model yet"):
        contest("evaluation=health", f"model.path={tmp_path}")


@pytest.mark.parametrize("given", [["model.path="], ["model.path=builtin:tiny", "against="]])
def test_an_empty_path_is_not_the_current_folder(given: list[str]) -> None:
    with pytest.raises(UserError, match=r"is empty: give .*=VALUE, or leave it out"):
        contest("evaluation=health", *given)


@pytest.mark.parametrize("prompt", [3, ["a text"], [{"role": "user"}]])
def test_a_prompt_of_another_form_in_a_file_of_replies_is_one_line(tmp_path: Path, prompt: object) -> None:
    file = write_jsonl(tmp_path / "odd.jsonl", [{"prompt": prompt, "reply": "Yes."}])
    for act in (ReplyFile(name="odd", model=str(file)).check, ReplyFile(name="odd", model=str(file)).open):
        with pytest.raises(UserError, match=r"against: odd.jsonl line 1: prompt"):
            act("against")


# `against=auto`: the base of a run is the model that its training started from, and no other base is assumed.


def sides(*overrides: str) -> tuple[list[tuple[str, str]], list[str]]:
    """Return setting and model of each contestant, and the lines that the evaluation prints first."""
    found = build(contest("evaluation=safety", *overrides), "contestants")
    return [(each.setting, str(each.model.model)) for each in found.all()], [*found.opening()]


def test_a_model_of_unknown_origin_is_measured_alone(tmp_path: Path) -> None:
    shutil.copytree(TINY, tmp_path / "own")
    expected = (
        [("own", f"{tmp_path}/own")],
        ["no base: own is not compared; against=BASE names a model to compare it with"],
    )
    assert sides(f"model.path={tmp_path}/own") == expected
    assert sides("model.path=org/own")[0] == [("own", "org/own")]
    assert sides("model.path=builtin:tiny")[0] == [("tiny", "builtin:tiny")], "the first shipped model"


def test_the_shipped_model_is_compared_with_the_one_it_was_trained_from() -> None:
    assert sides() == (
        [("tiny_dpo", "builtin:tiny_dpo"), ("tiny", "builtin:tiny")],
        ["base: tiny, from which tiny_dpo was trained"],
    )


def test_a_run_is_compared_with_the_model_that_its_training_started_from(tmp_path: Path) -> None:
    shutil.copytree(TINY, tmp_path / "start")
    (tmp_path / "chat.jinja").write_text("{{ messages[-1].content }}")
    first = trained_run(
        tmp_path / "first", f"model.path={tmp_path}/start", f"model.chat_template={tmp_path}/chat.jinja"
    )
    second = trained_run(tmp_path / "second", f"model.path={first}/model")
    models = [("first", f"{first}/model"), ("start", f"{tmp_path}/start")]
    assert sides(f"model.path={first}") == (models, ["base: start, from which first was trained"])
    config = contest("evaluation=safety", f"model.path={first}")
    assert config.contestants.members[1].chat_template == f"{tmp_path}/chat.jinja", "as in training"
    assert sides(f"model.path={second}/model")[0] == [("second", f"{second}/model"), ("first", f"{first}/model")]
    assert sides(f"model.path={second}", "against=builtin:tiny")[0][1] == ("tiny", "builtin:tiny"), "as typed"
    assert len(sides(f"model.path={second}", "against=null")[0]) == 1


def test_seeds_of_one_setting_have_one_base(tmp_path: Path) -> None:
    shutil.copytree(TINY, tmp_path / "start")
    runs = [trained_run(tmp_path / f"seed-{seed}", f"model.path={tmp_path}/start") for seed in (1, 2)]
    given = f"model.path=[{runs[0]},{runs[1]}]"
    assert [setting for setting, _ in sides(given, "model.name=dpo")[0]] == ["dpo", "dpo", "start"]
    with pytest.raises(
        UserError, match=r"against=auto: the models of model.path did not start from one model; give against="
    ):
        sides(f"model.path=[{runs[0]},builtin:tiny_dpo]", "model.name=both")
    shutil.rmtree(tmp_path / "start")
    with pytest.raises(
        UserError, match=f"was trained from {tmp_path}/start, which no longer exists; give against=BASE"
    ):
        sides(given)


def test_a_run_that_is_yet_to_come_has_no_known_base(tmp_path: Path) -> None:
    given = [f"model.path={tmp_path}/later/model", f"after=[{tmp_path}/later]"]
    with pytest.raises(
        UserError, match=r"later/model does not exist yet, so its base is unknown; give against=BASE, or null"
    ):
        sides(*given)
    assert len(sides(*given, "against=builtin:tiny")[0]) == 2


def test_a_judge_that_is_yet_to_come_is_awaited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    judge = ["judge=transformers", "judge.model=runs/judge/model"]
    with pytest.raises(UserError, match="judge.model=runs/judge/model: no such file or folder"):
        contest("evaluation=winrate", *judge)
    assert contest("evaluation=winrate", *judge, "after=[runs/judge]").judge.model == f"{tmp_path}/runs/judge/model"


def test_evaluations_that_need_a_base_ask_for_it(tmp_path: Path) -> None:
    for name, judge, said in (
        ("winrate", "judge=tiny", "a win rate needs an opponent, and none is known; give against=PATH"),
        ("gate", "judge=checks", "a gate compares with one base, and none is known; give against=BASE"),
    ):
        config = contest(f"evaluation={name}", judge, "model.path=org/name")
        config.run_dir = str(tmp_path)
        with pytest.raises(UserError, match=f"against: {said}"):
            build(config, "evaluation").prepare(config, tmp_path)


# `dtype: auto` of contestants and reward models is the number format of the run that trained them.


def formats(*overrides: str) -> tuple[list[Any], list[str]]:
    """Return the number format of each contestant, and the line about formats."""
    found = build(contest("evaluation=health", *overrides), "contestants")
    return [getattr(model, "dtype", None) for model in found.models()], [*found.format_lines()]


def test_a_run_and_its_base_reply_in_the_number_format_of_the_training(tmp_path: Path) -> None:
    run = trained_run(tmp_path / "mine", "model.dtype=bf16")
    said = "number format of mine and tiny: bf16, because the training of mine had model.dtype=bf16"
    assert formats(f"model.path={run}") == (["bf16", "bf16"], [said])
    assert formats(f"model.path={run}/model", "against=null")[0] == ["bf16"]
    assert formats("model.path=builtin:tiny_dpo") == (["auto", "auto"], []), "nothing is known"


def test_a_typed_number_format_wins(tmp_path: Path) -> None:
    run = trained_run(tmp_path / "mine", "model.dtype=bf16")
    base = "against={path: 'builtin:tiny', dtype: fp32}"
    assert formats(f"model.path={run}", "model.dtype=fp32") == (
        ["fp32", "fp32"],
        ["number format of tiny: fp32, as for mine"],
    )
    assert formats(f"model.path={run}", base)[0] == ["bf16", "fp32"]


def test_each_run_has_the_format_of_its_own_training(tmp_path: Path) -> None:
    mine = trained_run(tmp_path / "mine", "model.dtype=bf16")
    wide = trained_run(tmp_path / "wide", "model.dtype=fp32")
    unsaid = trained_run(tmp_path / "unsaid")
    assert formats(f"model.path={mine}", f"against=[{wide},{unsaid}]")[0] == ["bf16", "fp32", "bf16"]
    assert formats(f"model.path={unsaid}", f"against={mine}")[0] == ["auto", "bf16"]


def test_the_weights_are_loaded_in_it_and_replies_are_kept_under_it(tmp_path: Path) -> None:
    run = trained_run(tmp_path / "mine", "model.dtype=bf16")
    kept = {}
    for dtype, wanted in (("bf16", torch.bfloat16), ("fp32", torch.float32)):
        given = [] if dtype == "bf16" else ["model.dtype=fp32"]
        (model,) = build(
            contest("evaluation=health", f"model.path={run}", "against=null", *given), "contestants"
        ).models()
        answerer: Any = model.open("model")
        assert next(answerer.rollout.policy.parameters()).dtype == wanted
        answerer.close()
        kept[dtype] = model.digest
    assert kept["bf16"] != kept["fp32"]


def test_a_reward_model_of_a_run_scores_in_the_number_format_of_its_training(tmp_path: Path) -> None:
    weights = folder_of("builtin:tiny_reward")
    run = trained_run(tmp_path / "mine", "algo=reward", "model.dtype=bf16", weights=weights)
    path = f"{run}/model"
    assert LocalScorer.load(path).dtype == torch.bfloat16
    assert LocalScorer.load(path, dtype="fp32").dtype == LocalScorer.load("builtin:tiny_reward").dtype == torch.float32
    said = "number format of mine: bf16, because its training had model.dtype=bf16"
    assert [*format_lines([LocalReward(name="mine", path=path)])] == [said]
    assert not [*format_lines([LocalReward(name="mine", path=path, dtype="bf16"), LocalReward(name="x", path="org/x")])]
    target = "psychocounsel.reward.local_model.LocalReward"
    digests = {
        dtype: RewardJudge(
            name="mine", reward={"_target_": target, "name": "mine", "path": path, "dtype": dtype}
        ).digest
        for dtype in ("auto", "bf16", "fp32")
    }
    assert digests["auto"] == digests["bf16"] != digests["fp32"], "verdicts are kept under the format used"


def test_chat_uses_the_same_formats_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = trained_run(tmp_path / "mine", "model.dtype=bf16")
    converse(monkeypatch, "Hello.\n", f"model.path={run}", "replies.max_tokens=2")
    assert "number format of mine: bf16, because the training of mine had model.dtype=bf16" in capsys.readouterr().err
