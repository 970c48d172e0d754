"""`against=auto`: the base of a run is the model that its training started from, and no other base is assumed."""

import shutil
from pathlib import Path

import pytest

from psychocounsel.errors import UserError
from psychocounsel.settings.targets import build
from tests.support.contests import contest
from tests.support.harness import TINY
from tests.support.trained import trained_run


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


def test_evaluations_that_need_a_base_ask_for_it(tmp_path: Path) -> None:
    for name, judge, said in (
        ("winrate", "judge=tiny", "a win rate needs an opponent, and none is known; give against=PATH"),
        ("gate", "judge=checks", "a gate compares with one base, and none is known; give against=BASE"),
    ):
        config = contest(f"evaluation={name}", judge, "model.path=org/name")
        config.run_dir = str(tmp_path)
        with pytest.raises(UserError, match=f"against: {said}"):
            build(config, "evaluation").prepare(config, tmp_path)
