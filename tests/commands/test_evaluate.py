"""Tests of `psychocounsel evaluate`: figures follow from the scorer's rewards on exactly the pairs that training held out."""

import json
import shlex
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from omegaconf import DictConfig, OmegaConf

from psychocounsel.counsel.system_prompt import SHORT
from psychocounsel.data.dataset import build_dataset
from psychocounsel.data.rows import Example
from psychocounsel.data.selection import load_split
from psychocounsel.data.shared_text import components_of, normalised
from psychocounsel.errors import USER_ERROR, UserError
from psychocounsel.evaluation.judging.controls import (
    control_conversations,
    controlled_speeches,
    scored_figures,
    worst_control,
)
from psychocounsel.evaluation.reward.evaluation import evaluate_reward
from psychocounsel.evaluation.reward.figures import flipped_figures, reward_figures
from psychocounsel.metrics.rewards import pair_metrics
from psychocounsel.model.tokenizer import load_chat_format
from psychocounsel.reward.local_model import LocalScorer
from psychocounsel.storage.files import read_json, write_json
from tests.support.composed import check, compose
from tests.support.harness import TINY, cli, metrics_of, world, write_jsonl
from tests.support.in_process import run_here

SPLIT = ["data.dev_fraction=0.1", "data.split_seed=3"]
STEPS = 4


@pytest.fixture(scope="module")
def run(small_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a reward model's training run of a few steps, with a held-out split other than the default."""
    folder = tmp_path_factory.mktemp("reward")
    settings = ["algo=reward", f"max_steps={STEPS}", "data.limit=128", "eval.every=0", "algo.lr=3e-3", "algo.warmup=0"]
    cli("train", *settings, f"model.path={small_model}", *SPLIT, "run_dir=mine", "cluster.threads=1", cwd=folder)
    return folder / "mine"


def evaluation(*overrides: str) -> DictConfig:
    """Return a configuration without the audit's baselines and controls, which take seconds and have their own tests."""
    return check(compose(["evaluation.baselines=false", "evaluation.controls=0", *overrides], name="evaluate"))


def evaluate(reward: Path, folder: Path, *overrides: str) -> tuple[dict[str, Any], list[dict[str, Any]], list[str]]:
    """Evaluate in this process and return the figures, the lines of scores.jsonl and the printed lines."""
    said: list[str] = []
    evaluate_reward(evaluation(f"reward.path={reward}", *overrides), folder, world(), said.append, no_bar)
    metrics, scores = written(folder)
    return metrics, scores, said


def no_bar(steps: range, text: str) -> range:
    return steps


def written(folder: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    summary = read_json(folder / "summary.json")
    assert summary["status"] == "finished"
    return summary["metrics"], [json.loads(line) for line in (folder / "scores.jsonl").read_text().splitlines()]


def split(*overrides: str) -> tuple[list[Example], list[Example]]:
    return load_split(check(compose(list(overrides))).data, lambda line: None)


def conversations(examples: list[Example], *before: dict[str, str]) -> list[list[dict[str, str]]]:
    replies = [(example.prompt, reply) for example in examples for reply in example.replies]
    return [[*before, *prompt, {"role": "assistant", "content": reply}] for prompt, reply in replies]


def pairs(count: int) -> list[dict[str, Any]]:
    return [
        {"id": f"p{number}", "prompt": f"Day {number // 2}: I can't sleep.", "chosen": f"What keeps you {number}?"}
        | {"rejected": "Relax." + " Please!" * (number % 7)}
        for number in range(count)
    ]


@pytest.fixture(scope="module")
def evaluated(
    run: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[dict[str, Any], list[dict[str, Any]], list[str]]:
    """Return all held-out pairs of the run."""
    return evaluate(run / "model", tmp_path_factory.mktemp("evaluated") / "out", *SPLIT)


def test_the_command_writes_and_says_the_figures_of_the_scorers_rewards(run: Path, tmp_path: Path) -> None:
    result = cli(
        "evaluate",
        f"reward.path={run}/model",
        *SPLIT,
        "run_dir=out",
        "reward.dtype=fp32",
        "evaluation.baselines=false",
        "evaluation.controls=8",
        "verbose=true",
        cwd=tmp_path,
    )
    metrics, scores = written(tmp_path / "out")
    _, held_out = split(*SPLIT)
    assert [line["id"] for line in scores] == [example.id for example in held_out]
    scorer = LocalScorer.load(str(run / "model"), dtype="fp32")
    expected = scorer.score(conversations(held_out)).reshape(-1, 2)
    found = np.array([[line["chosen"], line["rejected"]] for line in scores])
    assert np.ptp(found) > 0.05  # equal scores would make the comparison pointless
    np.testing.assert_allclose(found, expected, atol=2e-5)
    prompts = [normalised(example.prompt) for example in held_out]
    longer = [np.sign(len(chosen) - len(rejected)) / 2 + 0.5 for chosen, rejected in (e.replies for e in held_out)]
    controlled = controlled_speeches(held_out, SHORT, 8)
    rewards = scorer.score(control_conversations(controlled))
    assert metrics == {
        **pair_metrics(found[:, 0].tolist(), found[:, 1].tolist(), components_of(held_out).tolist()),
        **reward_figures([line["id"] for line in scores], found[:, 0] - found[:, 1], components_of(held_out)),
        **flipped_figures(held_out, found[:, 0] - found[:, 1]),
        **{"pairs": len(held_out), "prompts": len(set(prompts)), "longer_reply_accuracy": np.mean(longer)},
        **{"reward_mean": pytest.approx(found.mean()), "reward_std": pytest.approx(found.std(ddof=1))},
        **worst_control(scored_figures(controlled, rewards.tolist())),
    }
    lines = result.stderr.splitlines()
    row = next(line for line in lines if line.startswith("  mine"))
    assert " ".join(row.split()).startswith(
        f"mine {len(held_out)} {len(set(prompts))} {100 * metrics['accuracy']:.1f} "
    )
    assert f"{metrics['auc']:.4g} ({metrics['auc_low']:.4g} to {metrics['auc_high']:.4g})" in row
    config = OmegaConf.load(tmp_path / "out" / "config.yaml")
    assert (config.reward.path, config.data.dev_fraction, config.part) == (str(run / "model"), 0.1, "held_out")


@pytest.mark.slow
def test_figures_are_those_of_the_trainings_own_last_evaluation(run: Path, evaluated: Any) -> None:
    assert read_json(run / "model" / "psychocounsel.json")["step"] == STEPS, "the best step is the last"
    metrics, scores, _ = evaluated
    last = metrics_of(run)[-1]
    assert last["step"] == STEPS
    names = [f"{name}{end}" for name in ("accuracy", "auc", "ece", "brier") for end in ("", "_low", "_high")]
    for name in (*names, "reward_mean", "reward_std"):
        assert metrics[name] == pytest.approx(last[f"eval/{name}"], rel=1e-3, abs=1e-5), name
    margins = [line["chosen"] - line["rejected"] for line in scores]
    assert np.log1p(np.exp(np.negative(margins))).mean() == pytest.approx(last["eval/loss"], rel=1e-4)


def test_what_is_held_out_is_exactly_what_training_holds_out(run: Path, evaluated: Any) -> None:
    config: Any = OmegaConf.load(run / "config.yaml")
    data = build_dataset(config, load_chat_format(config.model)[1], "pairs", lambda line: None)
    _, scores, _ = evaluated
    ids = [line["id"] for line in scores]
    assert ids == [group.id for group in data.held_out]
    assert len(ids) >= 40 and not set(ids) & {group.id for group in data.train}


def test_all_pairs_or_the_first_ones(run: Path, tmp_path: Path) -> None:
    rows = str(write_jsonl(tmp_path / "pairs.jsonl", pairs(40)))
    train, held_out = split(f"data.path={rows}")
    assert (len(train), len(held_out)) == (36, 4)
    whole, scores, _ = evaluate(run / "model", tmp_path / "all", f"data.path={rows}", "part=all")
    assert (whole["pairs"], whole["prompts"]) == (40, 20)
    assert {line["id"] for line in scores} == {f"p{number}" for number in range(40)}
    _, few, _ = evaluate(run / "model", tmp_path / "few", f"data.path={rows}", "part=all", "limit=7")
    assert [line["id"] for line in few] == [line["id"] for line in scores[:7]]
    by_id = {line["id"]: line for line in scores}
    _, held, _ = evaluate(run / "model", tmp_path / "held", f"data.path={rows}", "part=held_out", "limit=100")
    assert [line["id"] for line in held] == [example.id for example in held_out]
    for line in [*few, *held]:
        assert line["chosen"] == pytest.approx(by_id[line["id"]]["chosen"], abs=2e-5)


_WRITING = "data.path=rows.jsonl part=all limit=2 replies.max_tokens=8"


@pytest.mark.parametrize(
    "evaluation",
    [
        "reward reward.path=RUN/model data.path=rows.jsonl part=all evaluation.baselines=false evaluation.controls=0",
        pytest.param(f"health model.path=RUN/policy against=builtin:tiny {_WRITING}", marks=pytest.mark.slow),
        pytest.param(
            f"winrate against=builtin:tiny judge=reward judge.reward='{{use: local, path: RUN/model}}' {_WRITING}",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_model_of_an_unfinished_run_is_called_so_and_measured_again_when_its_run_goes_on(
    run: Path, small_model: Path, tmp_path: Path, evaluation: str
) -> None:
    """The evaluation carries a doubt until the run has finished, even if the model's weights stay the same."""
    partial = tmp_path / "partial"
    shutil.copytree(run, partial)
    shutil.copytree(small_model, partial / "policy")
    summary = (partial / "summary.json").read_text()
    (partial / "summary.json").unlink()
    write_jsonl(tmp_path / "rows.jsonl", pairs(6))
    command = shlex.split(f"evaluation={evaluation.replace('RUN', str(partial))} run_dir=out cluster.threads=1")

    def doubts(step: int, said: str) -> list[str]:
        write_json(partial / "state.json", {"step": step, "total": 3})
        result = cli("evaluate", *command, cwd=tmp_path)
        assert ("is already finished" in result.stdout) == (said == "finished"), result.stdout
        assert ("is an intermediate model" in result.stderr) == (said == "doubt"), result.stderr
        found: list[str] = read_json(tmp_path / "out" / "summary.json").get("doubts", [])
        return [doubt for doubt in found if "intermediate" in doubt]

    [doubt] = doubts(1, "doubt")
    assert doubt.endswith(" is an intermediate model: its run stands at step 1 of 3")
    assert doubts(1, "finished") == [doubt]
    assert doubts(2, "doubt") == [doubt.replace("1 of", "2 of")]
    (partial / "summary.json").write_text(summary)
    assert doubts(3, "measured") == []
    assert doubts(3, "finished") == []
    assert not (tmp_path / "out" / "earlier.json").exists()


def test_held_out_pairs_of_a_file_of_their_own(run: Path, tmp_path: Path) -> None:
    rows = write_jsonl(tmp_path / "test.jsonl", pairs(6))
    _, scores, said = evaluate(
        run / "model", tmp_path / "out", f"data.eval_path={rows}", "data.min_gap=null", "verbose=true"
    )
    assert [line["id"] for line in scores] == [f"p{number}" for number in range(6)]
    assert any(" ".join(line.split()).startswith("mine 6 3 ") for line in said)


def test_the_system_prompt_is_read_as_in_training(run: Path, tmp_path: Path) -> None:
    rows = [
        *pairs(6),
        {**pairs(7)[6], "prompt": [{"role": "system", "content": "Own."}, {"role": "user", "content": "Hi."}]},
    ]
    more = [f"data.path={write_jsonl(tmp_path / 'rows.jsonl', rows)}", "reward.system_prompt=Be kind.", "part=all"]
    _, scores, _ = evaluate(run / "model", tmp_path / "out", *more)
    system = {"role": "system", "content": "Be kind."}
    train, held_out = split(*more[:2])
    scorer = LocalScorer.load(str(run / "model"))
    for line, example in zip(scores, [*train, *held_out], strict=True):
        before = [] if line["id"] == "p6" else [system]
        expected = scorer.score(conversations([example], *before))
        np.testing.assert_allclose([line["chosen"], line["rejected"]], expected, atol=2e-5)


@pytest.mark.slow
def test_figures_are_of_unnormalised_rewards(run: Path, tmp_path: Path) -> None:
    raw, plain, _ = evaluate(run / "model", tmp_path / "raw", *SPLIT, "limit=30")
    metrics, scores, _ = evaluate(run / "model", tmp_path / "out", *SPLIT, "limit=30", "reward.normalise=true")
    assert metrics == {name: pytest.approx(value, rel=1e-3, abs=1e-5) for name, value in raw.items()}
    config = read_json(run / "model" / "config.json")
    expected = [(line["chosen"] - config["mean"]) / config["std"] for line in plain]
    np.testing.assert_allclose([line["chosen"] for line in scores], expected, atol=1e-4)


@pytest.mark.slow
def test_two_processes_score_what_one_does(run: Path, tmp_path: Path) -> None:
    command = [f"reward.path={run}/model", *SPLIT, "limit=31", "run_dir=out", "cluster.processes=2"]
    cli("evaluate", *command, cwd=tmp_path)
    _, expected, _ = evaluate(run / "model", tmp_path / "one", *SPLIT, "limit=31")
    _, scores = written(tmp_path / "out")
    assert [line["id"] for line in scores] == [line["id"] for line in expected] and len(scores) == 31
    for line, one in zip(scores, expected, strict=True):
        assert [line["chosen"], line["rejected"]] == pytest.approx([one["chosen"], one["rejected"]], abs=2e-5)


# -- several evaluations in one command, and no evaluation


@pytest.mark.slow
def test_several_evaluations_get_a_folder_each(run: Path, tmp_path: Path) -> None:
    rows = str(write_jsonl(tmp_path / "pairs.jsonl", pairs(40)))
    command = ["-m", f"reward.path={run}/model", f"data.path={rows}", "part=held_out,all", "limit=3,5", "sweep_dir=out"]
    cli("evaluate", *command, cwd=tmp_path)
    found = {}
    for folder in (tmp_path / "out").iterdir():
        if folder.is_dir():
            config = OmegaConf.load(folder / "config.yaml")
            found[config.part, config.limit] = written(folder)[0]["pairs"]
    assert found == {("held_out", 3): 3, ("held_out", 5): 4, ("all", 3): 3, ("all", 5): 5}
    again = cli("evaluate", *command, cwd=tmp_path)
    assert again.stdout.count("is already finished") == 4
    table = again.stdout.split("accuracy  95 % interval           overrides\n")[1].split("\n\n")[0].splitlines()
    assert len(table) == 4 and all(line.startswith("done ") for line in table)


def test_a_dry_run_starts_nothing(run: Path, tmp_path: Path) -> None:
    command = [f"reward.path={run}/model", "dry_run=true", "run_dir=out"]
    result = cli("evaluate", *command, cwd=tmp_path)
    assert result.stdout.startswith(f"would run psychocounsel evaluate with 1 process on CPU in {tmp_path}/out: ")
    several = cli("evaluate", "-m", *command[:2], "limit=1,2", cwd=tmp_path).stdout.splitlines()
    assert len(several) == 5 and several[0].endswith(" limit=1")
    assert [line.startswith("builtin:sample: ") and "pairs dropped" in line for line in several[2:4]] == [True, True]
    assert several[4].startswith("data=sample: ") and ", the held-out part; part=all takes all" in several[4], (
        "one count for all evaluations"
    )
    assert not list(tmp_path.iterdir())


# -- refusals


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["reward=tinny"],
            "reward=tinny: no such choice; did you mean tiny? (reward is one of ensemble, flow, judge, local, ",
        ),
        (["reward.pathh=x"], "unknown key reward.pathh: did you mean reward.path?"),
        (["+nonsense=1"], "unknown key nonsense"),
        (["seed=3"], "unknown key seed"),
        (["algo.beta=3"], "unknown key algo.beta"),
        (["reward=local"], "reward.path is not set"),
        (["reward.path=nowhere/at/all"], "reward.path=nowhere/at/all: no such file or folder"),
        (["cluster.device=cuda"], "this machine has no GPU; use cluster.device=cpu"),
        (["device=cpu"], "unknown key device: did you mean cluster.device?"),
        (["part=train"], "part=train: must be one of auto, held_out, all"),
        (["limit=0"], "limit=0: must be at least 1"),
        (["data.limit=3", "data.fraction=0.5"], "exclude each other"),
        (["data.path=missing.jsonl"], "data.path=missing.jsonl: no such file or folder"),
        (["-m", "limit=1,2", "run_dir=x"], "with -m give sweep_dir="),
        (["-m", "limit=1,0"], "combination limit=0: limit=0: must be at least 1"),
    ],
)
def test_mistakes_on_the_command_line(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own_environment: None
) -> None:
    monkeypatch.chdir(tmp_path)
    result = run_here(shlex.join(["evaluate", *arguments]))
    assert result.code == USER_ERROR
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: ") and message in line
    assert not list(tmp_path.iterdir()), "a refused command creates no files"


def test_a_folder_that_holds_something_is_left_alone(run: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").touch()
    (tmp_path / "file").touch()
    for name in ("mine", "file"):
        result = cli("evaluate", f"reward.path={run}/model", f"run_dir={name}", cwd=tmp_path, check_code=USER_ERROR)
        assert f"error: run_dir={tmp_path}/{name}: " in result.stderr and "; give a" in result.stderr
    assert [file.name for file in (tmp_path / "mine").iterdir()] == ["thesis.tex"]


def test_what_cannot_be_evaluated_is_refused_and_leaves_nothing(run: Path, tmp_path: Path) -> None:
    single = write_jsonl(tmp_path / "single.jsonl", [{"prompt": f"{n}", "completion": "Yes?"} for n in range(20)])
    rows = write_jsonl(tmp_path / "pairs.jsonl", pairs(20))
    refusals = [
        (TINY, [f"data.path={rows}"], "is a language model, not a reward model"),
        (run / "model", [f"data.path={single}"], "no pairs to evaluate"),
        (run / "model", [f"data.path={rows}", "data.dev_fraction=0", "part=held_out"], "no pairs to evaluate"),
        (run / "model", [f"data.path={rows}", "data.min_gap=1"], "lacks ratings"),
        (run / "model", [f"data.path={rows}", "reward.max_length=8"], "every pair is too long for the reward model"),
    ]
    for reward, overrides, message in refusals:
        with pytest.raises(UserError, match=message) as caught:
            evaluate(reward, tmp_path / "out", *overrides)
        assert "\n" not in str(caught.value)
        assert not (tmp_path / "out").exists()
    write_jsonl(rows, [{"id": "long", "prompt": "Hi.", "chosen": "Yes. " * 2000, "rejected": "No."}, *pairs(20)])
    metrics, scores, said = evaluate(run / "model", tmp_path / "out", f"data.path={rows}")
    assert metrics["pairs"] == 20 and [score["id"] for score in scores] == [f"p{number}" for number in range(20)]
    assert any("warning: 1 of 21 pairs are left out, because they are too long for" in line for line in said)


# -- the shipped reward model


@pytest.mark.slow
def test_the_shipped_reward_model_is_better_than_chance_and_does_not_read_as_the_docs_say(tmp_path: Path) -> None:
    said: list[str] = []
    evaluate_reward(evaluation("reward=tiny"), tmp_path / "out", world(), said.append, no_bar)
    metrics, _ = written(tmp_path / "out")
    assert metrics["prompts"] >= 40
    assert metrics["accuracy_low"] > 0.5
    assert metrics["flipped_pairs"] > 60 and metrics["flipped_accuracy_low"] < 0.5 < metrics["flipped_accuracy_high"]
    assert 0.45 <= metrics["longer_reply_accuracy"] <= 0.55
    tables = (tmp_path / "out" / "tables.txt").read_text().splitlines()
    assert any(line.split()[:1] == ["tiny"] for line in tables), "the table has a row of the model"
