"""Keys `model` and `against` become contestants: runs, folders, addresses, files of replies, lists of seeds."""

from pathlib import Path

import pytest

from psychocounsel.errors import UserError
from psychocounsel.evaluation.contestants.reply_file import ReplyFile
from psychocounsel.rundir.run_config import write_job
from psychocounsel.settings.targets import build
from tests.support.contests import contest, replies
from tests.support.harness import write_jsonl


def contestants(*overrides: str) -> list[tuple[str, int, str, str]]:
    found = build(contest("evaluation=health", *overrides), "contestants").all()
    return [(each.setting, each.seed, each.model.name, str(each.model.model)) for each in found]


def test_a_run_stands_for_its_model_and_a_list_of_paths_for_seeds(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name / "model").mkdir(parents=True)
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
    given = [f"model.path={paths[0]}", f"against=[{paths[1]},builtin:tiny]"]
    assert list(contest("evaluation=health", *given).contestants.settings) == ["dpo_run_2", "sft_run_2", "tiny"]
    with pytest.raises(UserError, match="two contestants are called dpo_run_2"):
        contest("evaluation=health", f"model.path={paths[0]}", f"against={paths[0]}")


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["model.path=null"], "model.path is not set"),
        (["model.path=./nowhere"], "no such file or folder"),
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


@pytest.mark.parametrize("prompt", [3, ["a text"], [{"role": "user"}]])
def test_a_prompt_of_another_form_in_a_file_of_replies_is_one_line(tmp_path: Path, prompt: object) -> None:
    file = write_jsonl(tmp_path / "odd.jsonl", [{"prompt": prompt, "reply": "Yes."}])
    with pytest.raises(UserError, match=r"odd.jsonl.*neither a text nor a list"):
        ReplyFile(name="odd", model=str(file)).open("against")
