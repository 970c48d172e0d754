"""A language model as the reward of a training: what is checked and foretold before a job starts. Imports no torch."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from psychocounsel.rundir.paths import RunDir
from psychocounsel.settings.command import NO_INTERNET, idle_keys
from psychocounsel.settings.targets import build, class_of

if TYPE_CHECKING:
    from psychocounsel.grading.rewards import JudgeReward

# Modules that ask language models or read data import numpy, so `--help` and runs without a judge do not import them.

_TRIED = 64  # prompts whose questions are written to estimate the tokens
_WORDS = 150  # assumed length of a reply


def judge_reward(config: DictConfig) -> JudgeReward | None:
    """Return the settings of a training's reward if a language model gives it, otherwise None."""
    if config.get("reward") is None or not class_of(config.reward, "reward").asks:
        return None
    settings: JudgeReward = build(config, "reward")
    return settings


def idle_judge(config: DictConfig) -> Iterator[tuple[str, str]]:
    """Yield the keys that have no effect without a judge, or with this one, each with the reason."""
    if (settings := judge_reward(config)) is None:
        yield "cluster.internet", NO_INTERNET
        yield "budget", "no language model gives the rewards (reward=rubric or reward=judge)"
        return
    from psychocounsel.asking.model_groups import NO_PRICE

    model = settings.model()
    if settings.crisis_to_third_parties and not model.is_third_party():
        yield "reward.crisis_to_third_parties", "the judge belongs to no third party"
    if config.budget.cost is not None and not (model.input_price or model.output_price):
        yield "budget.cost", NO_PRICE
    yield from idle_keys("reward.judge", model.unused())


def prepare_judge(config: DictConfig) -> None:
    """Check the judge's questions, its price for the budget, its key in the environment, and access to the network.

    Raises:
        UserError: naming the key and what to type instead.
    """
    if (settings := judge_reward(config)) is None:
        return
    from psychocounsel.asking.budget import Budget
    from psychocounsel.asking.model_groups import require_keys
    from psychocounsel.asking.parties import refuse_internet_of

    settings.questions()
    Budget(config.budget.cost, models=[settings.model()])
    if not config.dry_run:
        require_keys(config, ["reward"])
    refuse_internet_of(config, {"reward": settings})


def judge_forecast(config: DictConfig) -> list[str]:
    """Return the lines of a dry run: the calls to the judge, their price, and the hosts that get texts."""
    if (settings := judge_reward(config)) is None:
        return []
    from psychocounsel.asking.answers import Answers
    from psychocounsel.asking.budget import Estimate, estimated_tokens
    from psychocounsel.data.selection import load_split
    from psychocounsel.engine.schedule import steps_of
    from psychocounsel.remote.server_access import host_of

    train, held_out = (
        [*{json.dumps(row.prompt): row.prompt for row in rows}.values()]
        for rows in load_split(config.data, lambda line: None)
    )
    algorithm: Any = build(config, "algo")
    steps = steps_of(config, algorithm, len(train))
    evaluated = (2 + (steps - 1) // config.eval.every if config.eval.every else 2) * len(held_out[: config.eval.limit])
    questions, model = settings.questions(), settings.model()

    def per_prompt(samples: int) -> tuple[float, float]:
        """Return the mean number of calls about a prompt's replies, and of tokens of their prompts."""
        replies = [f"{number} " + "word " * _WORDS for number in range(samples)]
        tried = train[:: math.ceil(len(train) / _TRIED)]
        asks = [question.ask for prompt in tried for question in questions.about(prompt, replies, samples)]
        return len(asks) / len(tried), sum(map(estimated_tokens, asks)) / len(tried)

    trained = 0.0
    if (plan := algorithm.round) is not None:
        trained = steps / plan.passes * (config.global_batch_size - algorithm.offline_groups(config.global_batch_size))
    calls = tokens = 0.0
    for count, samples in ((trained, plan.samples if plan else 1), (evaluated, 1)):
        of_prompt = per_prompt(samples) if count else (0.0, 0.0)
        calls, tokens = calls + count * of_prompt[0], tokens + count * of_prompt[1]
    folder = RunDir(Path(config.run_dir)).reward_answers if config.run_dir else None
    estimate = Estimate()
    if folder is not None and folder.is_dir():
        with closing(Answers(folder)) as answers:
            estimate.bought = answers.journal.total.calls
    left = max(0, round(calls) - estimate.bought)
    for _ in range(left):
        estimate.add(model, round(tokens / calls))
    hosts = sorted({host_of(address) for _, address in settings.receivers("reward")})
    line = f"reward: texts go to {', '.join(hosts) or 'no host: the judge runs here'}"
    if model.is_third_party():
        line += f"; {model.name} is a third party and gets " + (
            "no crisis speeches" if settings.withholds_crises() else "crisis speeches, too"
        )
    return [*estimate.lines("reward"), line]
