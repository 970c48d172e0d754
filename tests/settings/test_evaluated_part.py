"""The key `part`: `auto` takes a file whole unless an evaluated run trained on it, and otherwise the held-out part."""

from pathlib import Path

import pytest

from psychocounsel.evaluation.contestants.speeches import evaluation_speeches
from psychocounsel.evaluation.reward.rankers import evaluated_pairs
from psychocounsel.storage.files import folder_of
from tests.support.contests import PROMPTS, contest
from tests.support.harness import write_jsonl
from tests.support.trained import trained_run

ROWS = [{"prompt": prompt, "chosen": f"What keeps you awake? {prompt}", "rejected": prompt} for prompt in PROMPTS]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return write_jsonl(tmp_path / "own.jsonl", ROWS)


def said_and_used(*overrides: str) -> tuple[str, int]:
    """Return the first printed line of an evaluation of replies, and its number of speeches."""
    lines: list[str] = []
    speeches = evaluation_speeches(contest("evaluation=health", *overrides), lines.append)
    return next(line for line in lines if line.startswith("data=")), len(speeches)


@pytest.mark.slow
def test_a_file_is_taken_whole_unless_an_evaluated_run_trained_on_it(file: Path, tmp_path: Path) -> None:
    run = trained_run(tmp_path / "run", f"data.path={file}", "model.path=builtin:tiny")
    stranger = trained_run(tmp_path / "stranger", "model.path=builtin:tiny")
    own = [f"data.path={file}", "against=null"]
    whole = ("data=own: all 12 speeches, because no evaluated run trained on this file", 12)
    assert said_and_used(*own, "model.path=builtin:tiny") == whole
    assert said_and_used(*own, f"model.path={stranger}") == whole
    held_out = "data=own: 1 of 12 speeches, the held-out part, because {} trained on this file; part=all takes all"
    assert said_and_used(*own, f"model.path={run}") == (held_out.format(run), 1)
    assert said_and_used(f"data.path={file}", f"model.path={stranger}", f"against={run}") == (held_out.format(run), 1)
    assert said_and_used(*own, f"model.path={run}", "part=all") == (
        f"data=own: all 12 speeches; warning: {run} trained on some of them",
        12,
    )
    assert said_and_used(*own, "model.path=builtin:tiny", "part=held_out")[1] == 1


def test_another_split_than_that_of_the_training_is_warned_of(file: Path, tmp_path: Path) -> None:
    run = trained_run(tmp_path / "run", f"data.path={file}", "data.split_seed=5")
    given = [f"data.path={file}", f"model.path={run}", "against=null"]
    assert said_and_used(*given)[0].endswith(
        "; warning: that training had another data.split_seed, so it may have used some of these speeches"
    )
    assert "warning" not in said_and_used(*given, "data.split_seed=5")[0]


def test_datasets_keep_their_held_out_part(file: Path, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    file.rename(tmp_path / "folder" / "own.jsonl")
    assert contest("evaluation=health").part == "held_out"
    assert said_and_used("against=null") == (
        "data=sample: 71 of 356 speeches, the held-out part; part=all takes all",
        71,
    )
    given = [f"data.path={tmp_path}/folder", "against=null"]
    assert said_and_used(*given)[1] == 1
    separate = [*given, f"data.eval_path={tmp_path}/folder/own.jsonl"]
    assert contest("evaluation=health", *separate).part == "held_out", "held-out data are named"


def test_pairs_for_reward_models_follow_the_same_rule(file: Path, tmp_path: Path) -> None:
    weights = folder_of("builtin:tiny_reward")
    run = trained_run(tmp_path / "run", "algo=reward", f"data.path={file}", weights=weights)
    found = {}
    for given in ("reward=tiny", f"reward.path={run}/model", f"compare=[{run}/model]"):
        lines: list[str] = []
        pairs = evaluated_pairs(contest(f"data.path={file}", *dict.fromkeys(["reward=tiny", given])), lines.append)
        found[given.partition("=")[0]] = (len(pairs), lines[-1].partition(", ")[0])
    held_out = (1, "data=own: 1 of 12 pairs")
    assert found == {"reward": (12, "data=own: all 12 pairs"), "reward.path": held_out, "compare": held_out}
