"""The shipped models are built from the training clients alone, by overrides that a run accepts."""

import json
from collections import defaultdict
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from psychocounsel.data.selection import load_split
from psychocounsel.data.shipped_rows import sample_rows
from psychocounsel.model import build_tiny
from tests.support.composed import check, compose

RECIPE = OmegaConf.load(Path(build_tiny.__file__).with_suffix(".yaml"))


def test_the_policy_learns_each_harmless_reply_under_the_client_whom_it_serves_best() -> None:
    clients = build_tiny.training_clients()
    _, held_out = load_split(check(compose(["data=sample"])).data, print)
    prompts = {client.prompt[0]["content"] for client in clients}
    assert not prompts & {pair.prompt[0]["content"] for pair in held_out}
    rated = defaultdict(list)
    for _, row in sample_rows():
        for reply in row["replies"]:
            if row["prompt"] in prompts and not reply["harmful"]:
                rated[reply["text"]].append((sum(reply["ratings"].values()), row["prompt"]))
    found = [(example.prompt[0]["content"], reply) for example, reply in build_tiny.targets(clients)]
    assert len(found) == len(rated) > 500
    for prompt, reply in found:
        assert (max(rated[reply])[0], prompt) in rated[reply]


def test_the_second_reward_model_sees_rated_replies_of_the_training_clients_alone(tmp_path: Path) -> None:
    _, held_out = load_split(check(compose(["data=sample"])).data, print)
    unseen = {pair.prompt[0]["content"] for pair in held_out}
    rows = list(build_tiny.rated_rows())
    assert rows and not unseen & {row["prompt"] for row in rows}
    assert len(unseen | {row["prompt"] for row in rows}) == len({row["prompt"] for _, row in sample_rows()})
    file = tmp_path / "rated.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = [each for each in RECIPE.tiny_reward_2 if each.startswith("data.")]
    train, own = load_split(check(compose(["algo=reward", "data=local", f"data.path={file}", *settings])).data, print)
    assert len(train) > 400 and len(own) > 100
    seen, first = ({pair.prompt[0]["content"] for pair in pairs} for pairs in (train, build_tiny.training_clients()))
    assert seen < first


@pytest.mark.parametrize(("model", "algorithm"), build_tiny.ALGORITHMS.items())
def test_the_recipe_is_one_that_a_run_takes(model: str, algorithm: str) -> None:
    assert check(compose([f"algo={algorithm}", "data=sample", *RECIPE[model]])).checkpoint.every == 0
