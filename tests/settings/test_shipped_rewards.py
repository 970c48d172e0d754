"""The shipped reward models score foreign models and data only if the user has typed the reward model."""

from pathlib import Path

import pytest
from omegaconf import OmegaConf

from psychocounsel.errors import UserError
from psychocounsel.reward.shipped import foreign_source
from psychocounsel.rundir.paths import RunDir
from tests.support.composed import check, compose
from tests.support.contests import contest
from tests.support.harness import write_jsonl

ROW = {"prompt": "I can't sleep.", "chosen": "Since when?", "rejected": "Relax."}
ADVICE = "give reward.path=YOUR_REWARD_MODEL, or reward=tiny to use the shipped 3M model anyway"


@pytest.fixture
def rows(tmp_path: Path) -> str:
    return str(write_jsonl(tmp_path / "rows.jsonl", [ROW]))


@pytest.mark.parametrize(
    ("given", "key"),
    [
        (["algo=ppo", "model.path=org/name"], "model.path=org/name"),
        (["algo=grpo", "model=qwen3_0_6b"], "model.path=Qwen/Qwen3-0.6B"),
        (["algo=dpo", "eval.replies=true", "data.path=ROWS"], "data.path=ROWS"),
        (["algo=rloo", "data.mix=[{path: ROWS, rows: 1}]"], "data.mix[0].path=ROWS"),
        (["algo=online_dpo", "data.eval_path=ROWS"], "data.eval_path=ROWS"),
    ],
)
def test_a_training_that_would_learn_from_the_default_is_refused(given: list[str], key: str, rows: str) -> None:
    given = [text.replace("ROWS", rows) for text in given]
    with pytest.raises(UserError) as refusal:
        check(compose(given))
    said = str(refusal.value)
    assert said.startswith(key.replace("ROWS", rows) + ": ") and said.endswith(ADVICE) and "\n" not in said
    assert check(compose([*given, "reward=tiny"])).reward.path == "builtin:tiny_reward", "typed, so it is used"
    assert check(compose([*given, "reward.path=org/reward"])).reward.path == "org/reward"


def test_shipped_models_and_data_need_nothing(rows: str) -> None:
    for given in ([], ["model=tiny_dpo"], ["data.mix=[{path: 'builtin:sample', rows: 9}]"]):
        assert check(compose(["algo=grpo", *given])).reward.path == "builtin:tiny_reward"
    assert "reward" not in check(compose(["algo=dpo", "model.path=org/name", f"data.path={rows}"])), "nothing is scored"
    assert check(compose([], name="evaluate")).reward.name == "tiny"
    with pytest.raises(UserError, match="data.path=.*reward=tiny"):
        check(compose([f"data.path={rows}"], name="evaluate"))


def test_a_reward_model_of_ones_own_is_compared_with_the_default_only_if_it_is_typed() -> None:
    own = "compare=[tiny_2,org/own]"
    with pytest.raises(UserError, match=r"compare\[1\]=org/own: .*reward=tiny"):
        contest(own)
    assert [contest(own, "reward=tiny").reward.path, contest("compare=[tiny_2]").reward.path] == [
        "builtin:tiny_reward"
    ] * 2


def test_an_experiment_that_names_the_reward_counts_as_typed() -> None:
    assert check(compose(["experiment=grpo_8b", "rollout=hf"])).reward.name == "psychocounsel_8b"


def test_win_rates_by_the_default_judge_are_refused_for_foreign_contestants() -> None:
    own, foreign = "evaluation=winrate", "model.path=org/name"
    assert [each.reward.path for each in contest(own).judge.members] == ["builtin:tiny_reward", "builtin:tiny_reward_2"]
    assert contest(own, "judge=reward").judge.name == "tiny"
    for given, advice in (
        ([foreign], "model.path=org/name: .*give judge=NAME, or judge=tiny"),
        (["against=org/name"], "against=org/name: .*give judge=NAME, or judge=tiny"),
        ([foreign, "judge=reward"], "model.path=org/name: .*or judge.reward=tiny"),
    ):
        with pytest.raises(UserError, match=advice):
            contest(own, *given)
    assert len(contest(own, foreign, "judge=tiny").judge.members) == 2
    assert contest(own, foreign, "judge=reward", "judge.reward=tiny_2").judge.name == "tiny_2"
    contest("evaluation=health", foreign)  # no reward model judges


def test_a_run_is_as_foreign_as_what_it_was_trained_from(tmp_path: Path, rows: str) -> None:
    def trained(name: str, *given: str) -> str:
        run = RunDir(tmp_path / name)
        run.model.mkdir(parents=True)
        run.config.write_text(OmegaConf.to_yaml(check(compose([*given]))))
        run.job.write_text("{}")
        (run.model / "config.json").write_text("{}")
        return str(run.model)

    first = trained("first", "algo=sft")
    second = trained("second", f"model.path={first}")
    other = trained("other", f"data.path={rows}")
    sources = [
        foreign_source(compose([f"model.path={path}"]), [("model.path", path)])
        for path in (first, second, other, "org/name")
    ]
    assert sources == [None, None, f"model.path={other}", "model.path=org/name"]
