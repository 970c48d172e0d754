"""Inspect runs our tasks: scores are those of our own figures. Runs where the extra `inspect` is installed."""

import json
import math
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from psychocounsel.evaluation.health.reply_health import FIGURES, health_of
from tests.support.harness import ROOT

inspect_ai = pytest.importorskip("inspect_ai", reason="Inspect is an extra: pip install 'psychocounsel[inspect]'")

CLIENTS = [
    "I lost my brother in March, and since then I have not been able to sleep through a single night.",
    "My manager humiliates me in front of the team, and I have started to dread every Monday morning.",
    "Seit der Trennung sitze ich jeden Abend allein in der Wohnung und weiss nicht, wohin mit mir.",
]
REPLIES = [
    "That sounds lonely and exhausting. What goes through your mind when you lie awake?",
    "You should quit. You should quit. You should quit. You should quit. You should quit. You should quit.",
    "It must hurt to be treated like that. Client: Yes. Therapist: Go on",
]


def pairs(folder: Path) -> Path:
    rows = [{"prompt": text, "chosen": "I hear you.", "rejected": "Get over it."} for text in CLIENTS]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder / "pairs.jsonl"


def run(task: Any, folder: Path, stop: str = "stop") -> Any:
    """The log of a run in which the model says REPLIES in turn."""
    from inspect_ai.model import ModelOutput, ModelUsage, get_model

    outputs = [ModelOutput.from_content("mockllm/model", text, stop_reason=stop) for text in REPLIES]
    for output in outputs:
        output.usage = ModelUsage()  # else it would be counted by a tokenizer from the network
    model = get_model("mockllm/model", custom_outputs=outputs)
    (log,) = inspect_ai.eval(task, model=model, log_dir=str(folder / "logs"), display="none", max_samples=1)
    assert log.status == "success", log.error
    return log


@pytest.mark.parametrize("stop", ["stop", "max_tokens"])
def test_health_is_ours(tmp_path: Path, stop: str) -> None:
    from psychocounsel.evaluation.external.inspect_tasks import health

    log = run(health(data=str(pairs(tmp_path)), part="all"), tmp_path, stop)
    wanted = {}
    for sample in log.samples:
        client, reply = sample.input[-1].content, sample.output.completion
        assert client in CLIENTS and reply in REPLIES and sample.input[0].role == "system"
        wanted[client] = health_of(reply, client, stop == "max_tokens")
        found = sample.scores["health_figures"].value
        for name, value in wanted[client].items():
            assert (value is None and math.isnan(found[name])) or found[name] == value, name
    assert len(wanted) == 3
    means = {score.name: next(iter(score.metrics.values())).value for score in log.results.scores}
    for name in FIGURES:
        values = [each[name] for each in wanted.values() if each[name] is not None]
        assert (math.isnan(means[name]) and not values) or means[name] == pytest.approx(np.mean(values)), name


def test_winrate_is_that_of_the_rewards(tmp_path: Path) -> None:
    from psychocounsel.evaluation.external.inspect_tasks import winrate
    from psychocounsel.reward.local_model import LocalScorer

    rows = [{"prompt": text, "reply": "I am here with you. What would help tonight?"} for text in CLIENTS[:2]]
    (tmp_path / "base.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    log = run(winrate(against=str(tmp_path / "base.jsonl"), data=str(pairs(tmp_path)), part="all"), tmp_path)
    scorer, scores = LocalScorer.load("builtin:tiny_reward"), []
    for sample in log.samples:
        value, client = sample.scores["preferred"].value, sample.input[-1].content
        if client == CLIENTS[2]:
            assert math.isnan(value), "the file has no reply"
            continue
        texts = (sample.output.completion, rows[0]["reply"])
        talks = [[{"role": "user", "content": client}, {"role": "assistant", "content": text}] for text in texts]
        mine, base = scorer.unnormalised(scorer.score(talks))
        scores.append(float(mine > base))
        assert value == scores[-1]
    assert log.results.scores[0].metrics["mean"].value == pytest.approx(np.mean(scores))


def test_inspect_finds_the_tasks_by_the_package_name() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["entry-points"]["inspect_ai"] == {"psychocounsel": "psychocounsel.evaluation.external.inspect_tasks"}
