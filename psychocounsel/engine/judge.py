"""A language model as the reward of a training: what is checked and foretold before a job starts. Imports no torch."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from psychocounsel.settings.command import NO_INTERNET, idle_keys
from psychocounsel.settings.targets import build, class_of

if TYPE_CHECKING:
    from psychocounsel.asking.language_model import LanguageModel
    from psychocounsel.grading.rewards import JudgeReward

# Modules that ask language models or read data import numpy, so `--help` and runs without a judge do not import them.

_TRIED = 64  # prompts whose questions are written to estimate the tokens
_RULES = 600  # about the tokens of the prompt that tells a model how to play a client


def judge_reward(config: DictConfig) -> JudgeReward | None:
    """Return the settings of a training's reward if a language model gives it, otherwise None."""
    if config.get("reward") is None or not class_of(config.reward, "reward").asks:
        return None
    settings: JudgeReward = build(config, "reward")
    return settings


def played_clients(config: DictConfig) -> Any:
    """Return the settings of the clients that a language model plays in sessions, otherwise None."""
    if not OmegaConf.select(config, "rollout.clients"):
        return None
    settings = build(config, "rollout").simulated()
    return settings if settings.asks else None


def idle_judge(config: DictConfig) -> Iterator[tuple[str, str]]:
    """Yield the keys that have no effect without a judge, or with this one, each with the reason."""
    if (settings := judge_reward(config)) is None:
        if played_clients(config) is None:
            yield "cluster.internet", NO_INTERNET
            yield "budget", "no language model gives the rewards (reward=rubric or reward=judge) or plays clients"
        return
    from psychocounsel.asking.model_groups import NO_PRICE

    model = settings.model()
    if settings.crisis_to_third_parties and not model.is_third_party():
        yield "reward.crisis_to_third_parties", "the judge belongs to no third party"
    if config.budget.cost is not None and not (model.input_price or model.output_price):
        yield "budget.cost", NO_PRICE
    yield from idle_keys("reward.judge", model.unused())


def check_judge(config: DictConfig) -> None:
    """Refuse a judge that cannot reward the run's sessions with clients.

    Raises:
        UserError: naming the setting.
    """
    if (settings := judge_reward(config)) is not None and config.rollout.clients:
        settings.check_sessions("reward", config.rollout.session_reward)


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
    """Return the lines of a dry run: the calls to the judge and to a model that plays clients, their price, and the hosts."""
    judge, clients = judge_reward(config), played_clients(config)
    if judge is None and clients is None:
        return []
    from psychocounsel.asking.budget import IMAGINED_WORDS
    from psychocounsel.data.selection import prompted_rows
    from psychocounsel.engine.schedule import round_order, steps_of

    train, held_out = (
        [*{json.dumps(row.prompt): row.prompt for row in rows}.values()] for rows in prompted_rows(config.data)
    )
    algorithm: Any = build(config, "algo")
    steps = steps_of(config, algorithm, len(train))
    evaluated = (2 + (steps - 1) // config.eval.every if config.eval.every else 2) * len(held_out[: config.eval.limit])
    trained, samples = 0, 1
    if (plan := algorithm.round) is not None:
        order = round_order(config, algorithm, len(train))
        trained = (
            order.rounds * order.prompts * (1 + plan.resample)
        )  # a round is written whole, even if the run ends in it
        samples = plan.samples
    turns = config.rollout.turns if config.rollout.clients else 1
    at_most = ", at most" if turns > 1 or (plan and plan.resample) else ""
    lines = []
    if clients is not None:
        calls = round((trained * samples + evaluated) * (turns - 1))
        tokens = _RULES + turns // 2 * (IMAGINED_WORDS + config.rollout.max_tokens)
        what = "clients' turns, at most"
        lines += _calls(config, clients.model(), "client_answers", calls, tokens, what)
        lines.append(f"clients: texts go to {_hosts(clients.receivers('rollout.clients'), 'the model runs here')}")
    if judge is not None:
        scored = 1 if config.rollout.session_reward == "last" else turns
        asked, tokens = _asked(judge, train, ((trained * scored, samples), (evaluated * scored, 1)))
        each = round(tokens / max(asked, 1))
        lines += _calls(config, judge.model(), "reward_answers", round(asked), each, "reward" + at_most)
        line, model = f"reward: texts go to {_hosts(judge.receivers('reward'), 'the judge runs here')}", judge.model()
        if model.is_third_party():
            line += f"; {model.name} is a third party and gets " + (
                "no crisis speeches" if judge.withholds_crises() else "crisis speeches, too"
            )
        lines.append(line)
    return lines


def _asked(settings: JudgeReward, prompts: Sequence[Any], counts: Iterable[tuple[float, int]]) -> tuple[float, float]:
    """Return the number of calls about replies, and of tokens of their prompts.

    `counts`: pairs of a number of prompts and the number of replies to each.
    """
    from psychocounsel.asking.answers import answer_key
    from psychocounsel.asking.budget import IMAGINED_WORDS, estimated_tokens

    model, questions, tried = settings.model(), settings.questions(), prompts[:: math.ceil(len(prompts) / _TRIED)]
    calls = tokens = 0.0
    for count, samples in counts:
        replies = [f"{number} " + "word " * IMAGINED_WORDS for number in range(samples)]
        asked = [question.ask for prompt in tried for question in questions.about(prompt, replies, samples) if count]
        asks = {answer_key(model, ask, 0): ask for ask in asked}.values()  # questions that replies share are asked once
        calls += count * len(asks) / len(tried)
        tokens += count * sum(map(estimated_tokens, asks)) / len(tried)
    return calls, tokens


def _calls(config: DictConfig, model: LanguageModel, journal: str, calls: int, tokens: int, what: str) -> list[str]:
    """Return lines about `calls` calls with prompts of `tokens` tokens, less those that the run's `journal` answers."""
    from psychocounsel.asking.answers import Answers
    from psychocounsel.asking.budget import Estimate

    estimate = Estimate()
    folder = Path(config.run_dir) / journal if config.run_dir else None
    if folder is not None and folder.is_dir():
        with closing(Answers(folder)) as answers:
            estimate.bought = answers.journal.total.calls
    for _ in range(max(0, calls - estimate.bought)):
        estimate.add(model, tokens)
    return estimate.lines(what)


def _hosts(receivers: Iterable[tuple[str, str]], here: str) -> str:
    from psychocounsel.remote.server_access import host_of

    return ", ".join(sorted({host_of(address) for _, address in receivers})) or f"no host: {here}"
