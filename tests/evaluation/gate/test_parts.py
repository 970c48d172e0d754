"""Key `gate.from`: directories that do not fit each other are refused in one line; fitting ones need no model."""

from pathlib import Path

import pytest

from psychocounsel.errors import UserError
from psychocounsel.evaluation.gate.parts import check_taken
from psychocounsel.rundir.paths import EvaluationDir
from psychocounsel.rundir.results import write_summary
from psychocounsel.rundir.run_config import write_config
from psychocounsel.storage.files import write_json
from tests.support.contests import contest, data, replies


def part(folder: Path, name: str, *overrides: str, directory: str = "", status: str = "finished") -> Path:
    """Write an evaluation's directory with the files that gate.from reads, and return it."""
    path = folder / (directory or name)
    path.mkdir()
    config = contest(f"evaluation={name}", *models(folder), *overrides)
    config.run_dir = str(path)
    write_config(path, config)
    write_summary(path, status, metrics={})
    return path


def models(folder: Path, model: str = "mine", base: str = "base") -> list[str]:
    files = [replies(folder / f"{name}.jsonl", lambda prompt: "What keeps you awake?") for name in (model, base)]
    return [f"model.path={files[0]}", f"against={files[1]}"]


def refusal(folder: Path, *taken: Path, options: tuple[str, ...] = ()) -> str:
    config = contest("evaluation=gate", *models(folder), *options, "gate.parts=[safety,health]")
    config.gate["from"] = [str(path) for path in taken]
    with pytest.raises(UserError) as refused:
        check_taken(config)
    assert "\n" not in str(refused.value)
    return str(refused.value)


def test_parts_of_one_model_base_and_judge_are_taken(tmp_path: Path) -> None:
    taken = [part(tmp_path, "safety"), part(tmp_path, "health", *data(tmp_path))]
    config = contest(
        "evaluation=gate", "gate.parts=[safety,health]", "model.path=builtin:tiny_dpo"
    )  # this model is never asked
    config.gate["from"] = list(map(str, taken))
    check_taken(config)


def test_what_is_no_part_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert "empty: is not the directory of an evaluation (it has no config.yaml)" in refusal(
        tmp_path, tmp_path / "empty"
    )
    other = part(tmp_path, "winrate", "judge=tiny")
    assert "holds evaluation=winrate; parts of a gate are safety, session, health" in refusal(tmp_path, other)
    unfinished = part(tmp_path, "safety", status="stopped")
    assert "safety: is not finished; run its command again" in refusal(tmp_path, unfinished)


def test_two_of_a_part_and_parts_that_are_left_out_are_refused(tmp_path: Path) -> None:
    twice = part(tmp_path, "safety"), part(tmp_path, "safety", directory="again")
    assert "two directories hold evaluation=safety; name only one" in refusal(tmp_path, *twice)
    session = part(tmp_path, "session")
    assert "holds session, which gate.parts leaves out" in refusal(tmp_path, session)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["judge=local_vllm", "judge.model=j", "judge.addresses=[http://127.0.0.1:1/v1]"], None),
        (["replies.temperature=0.1"], "replies of safety: not the same as in health"),
        (["model.path=other.jsonl"], "the model of safety: not the same as in health"),
        (["against=other.jsonl"], "the base of safety: not the same as in health"),
    ],
)
def test_parts_that_differ_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, overrides: list[str], words: str | None
) -> None:
    monkeypatch.chdir(tmp_path)
    replies(tmp_path / "other.jsonl", lambda prompt: "Something else.")
    health = part(tmp_path, "health", *data(tmp_path))
    safety = part(tmp_path, "safety", *overrides)
    if words is None:  # health has no judge; the gate's own judge is compared if the gate runs a judged part
        health_and_session = "the judge of session: not the same as in safety"
        config = contest("evaluation=gate", *models(tmp_path))
        config.gate["from"] = [str(safety)]
        with pytest.raises(UserError, match=health_and_session):
            check_taken(config)
        return
    assert words in refusal(tmp_path, health, safety)


def test_one_base_at_one_length_is_compared(tmp_path: Path) -> None:
    alone = part(tmp_path, "safety", "against=null")
    assert "a gate compares with one base, and none is known; give against=BASE" in refusal(tmp_path, alone)
    long = part(tmp_path, "safety", "replies.length_limits=[null,50]", directory="long")
    assert "set replies.length_limits to one value" in refusal(tmp_path, long)


def test_other_weights_under_the_same_path_are_another_model(tmp_path: Path) -> None:
    paths = [part(tmp_path, "safety"), part(tmp_path, "health", *data(tmp_path))]
    for path, content in zip(paths, ("a", "b"), strict=True):
        files = EvaluationDir(path)
        files.steps.mkdir()
        write_json(files.step("replies"), {"settings": {"contestants.local_weights.mine": content}})
    assert "the weights of mine of health: not the same as in safety" in refusal(tmp_path, *paths)
