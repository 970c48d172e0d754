"""A language model that a command asks is looked for before any work: a wrong path is one line that names its key."""

from pathlib import Path

import pytest

from psychocounsel.errors import USER_ERROR
from tests.support.harness import TINY
from tests.support.in_process import run_here
from tests.support.trained import trained_run

_COMMANDS = {
    "annotate speeches=sample annotator=rules writers.terms=MIT writers=transformers writers.model=PATH": "writers.model",
    "evaluate evaluation=safety model.path=builtin:tiny judge=transformers judge.model=PATH": "judge.model",
    "evaluate evaluation=session personas=played model.path=builtin:tiny client=transformers client.model=PATH": "client.model",
    "evaluate reward=tiny 'compare=[{use: llm, judge: {use: transformers, model: PATH}}]'": "compare[0].judge.model",
    "train algo=grpo reward=rubric reward.judge=transformers reward.judge.model=PATH": "reward.judge.model",
    "train algo=grpo data=clients rollout.clients=played rollout.clients.client=transformers rollout.clients.client.model=PATH": (
        "rollout.clients.client.model"
    ),
}
_PATHS = {
    "builtin:no_such": "does not ship with the package",
    "/no/such/model": "no such file or folder",
    "builtin:tiny_reward": "is a reward model, which writes no answers",
}


@pytest.mark.parametrize("command", _COMMANDS)
def test_a_wrong_path_is_refused_at_once(command: str, own_environment: None) -> None:
    for path, words in _PATHS.items():
        answer = run_here(f"{command.replace('PATH', path)} dry_run=true")
        assert answer.code == USER_ERROR and answer.stderr.startswith(f"error: {_COMMANDS[command]}={path}: {words}"), (
            answer
        )


def test_a_run_stands_for_its_model(tmp_path: Path, own_environment: None) -> None:
    judged = "evaluate evaluation=safety model.path=builtin:tiny judge=transformers dry_run=true judge.model="
    trained_run(tmp_path / "policy", weights=TINY)
    assert run_here(f"{judged}{tmp_path}/policy", rows=False).code == 0
    trained_run(tmp_path / "reward", weights=TINY.with_name("tiny_reward"))
    answer = run_here(f"{judged}{tmp_path}/reward")
    assert answer.code == USER_ERROR and f"judge.model={tmp_path}/reward: is a reward model" in answer.stderr, answer
