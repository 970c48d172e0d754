"""The step `figures` of `evaluation=best_of`: win rates of the best of n replies against the first, and its divergence."""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from omegaconf import DictConfig

from psychocounsel.asking.language_model import EMPTY
from psychocounsel.blocks.cells import Titled
from psychocounsel.evaluation.best_of.picks_step import SCHEMA
from psychocounsel.evaluation.best_of.show import best_of_blocks, best_of_conclusions
from psychocounsel.evaluation.contestants.speeches import clients_of
from psychocounsel.evaluation.judging import verdicts_step
from psychocounsel.evaluation.judging.controls import share_of
from psychocounsel.evaluation.judging.judges import RewardJudge
from psychocounsel.evaluation.judging.pairs import BACKWARD, FORWARD
from psychocounsel.evaluation.showing import end_figures
from psychocounsel.evaluation.winrate.verdict_table import OVERALL, verdict_of
from psychocounsel.reward.sections import reward_sections
from psychocounsel.rundir.paths import EvaluationDir
from psychocounsel.settings.targets import build
from psychocounsel.steps.course import StepContext
from psychocounsel.steps.tables import Row, rows_of


def divergence_bound(n: int) -> float:
    """Return log n - (n - 1) / n [nats], an upper bound of the divergence of the best of n replies from the policy.

    The divergence is smaller if the policy is likely to write the same reply twice (arXiv 2401.01879).
    """
    return math.log(n) - (n - 1) / n


def run(context: StepContext[EvaluationDir]) -> dict[str, Any]:
    """Compute the win rates from picks.parquet and verdicts.parquet, write figures.json and print the table."""
    # A first reply that is picked ties on every speech, so speeches that no judge compares must be left out for all picks.
    judging = verdicts_step.judging_of(context)
    compared = {
        name
        for name, speech in verdicts_step.speech_rows(context).items()
        if not all(judging.barred(judge, speech) for judge in judging.judges)
    }
    clients = clients_of(rows_of(context.files.speeches, ["speech", "messages"]))
    models: dict[str, list[dict[str, Any]]] = {}
    for (name, n), of_speeches in sorted(
        _values(context.files).items(), key=lambda item: item[0][1]
    ):  # the largest n is last
        by_speech = {speech: rows for speech, rows in of_speeches.items() if speech in compared}
        if not by_speech:
            continue
        scores = [float(np.mean([score for score, _ in rows])) for rows in by_speech.values()]
        share = share_of(scores, [clients[speech] for speech in by_speech])
        reward = float(np.mean([np.mean([reward for _, reward in rows]) for rows in by_speech.values()]))
        models.setdefault(name, []).append({"n": n, "kl": divergence_bound(n), **share, "reward": reward})
    setting = context.config.contestants.settings[0]
    warnings = [*_judges_that_chose(context.config)]
    figures = {"evaluation": "best_of", "model": setting, "reward_models": models, "warnings": warnings}
    blocks, metrics = best_of_blocks([Titled("", figures)]), _metrics(models, context.config.reward.name)
    return end_figures(context, figures, best_of_conclusions(figures), blocks, metrics)


_READ = ("order", "outcome", OVERALL, "speech", "first_seed", "length_limit", "sample", "first_score")
Values = dict[tuple[str, int], dict[str, list[tuple[float, float]]]]


def _values(files: EvaluationDir) -> Values:
    """Return by reward model and n, for each speech, the score of each pick against the first reply, and its reward.

    A score is the mean over judges, and for a judge over both orders (1: the pick is better, 0.5: a tie, 0: worse). A
    verdict in one order alone does not count, because it may be position bias. A pick that is the first reply itself ties.
    Picks without a verdict are left out.
    """
    key = ("speech", "seed", "length_limit", "sample")
    answers: dict[tuple[Any, ...], dict[str, dict[str, Row]]] = {}
    for row in rows_of(files.verdicts, ["judge", *_READ]):
        place = (row["speech"], row["first_seed"], row["length_limit"], row["sample"])
        answers.setdefault(place, {}).setdefault(row["judge"], {})[row["order"]] = row
    verdicts: dict[tuple[Any, ...], list[float]] = {}
    for place, by_judge in answers.items():
        means = [
            1.0  # the first reply is empty, which loses without a call; a pick has a text
            if any(row["outcome"] == EMPTY for row in orders.values())
            else np.mean([verdict_of(orders, OVERALL, order) for order in (FORWARD, BACKWARD)])
            for orders in by_judge.values()
        ]
        verdicts[place] = [float(1 + mean) / 2 for mean in means if not np.isnan(mean)]
    values: Values = {}
    for pick in rows_of(files.picks, SCHEMA.names):
        known = [0.5] if pick["sample"] == 0 else verdicts.get(tuple(pick[name] for name in key))
        if known:
            of_pick = (float(np.mean(known)), pick["reward"])
            values.setdefault((pick["reward_model"], pick["n"]), {}).setdefault(pick["speech"], []).append(of_pick)
    return values


def _judges_that_chose(config: DictConfig) -> Iterator[str]:
    """Yield a warning for each judge that is one of the reward models whose choices it judges."""
    paths = {str(section.path): section.name for _, section in reward_sections(config) if section.get("path")}
    for judge in build(config, "judge").models():
        path = str(judge.reward.get("path")) if isinstance(judge, RewardJudge) else ""
        if path in paths:
            yield (
                f"warning: judge {judge.name} is the reward model {paths[path]} itself, so it agrees with its own choices; give "
                "another judge"
            )


def _metrics(models: dict[str, list[dict[str, Any]]], first: str) -> dict[str, float]:
    """Return `win_rate_of_N` of the first reward model, `win_rate_of_N/NAME` of the others, and `win_rate` of the largest N."""
    metrics: dict[str, float] = {}
    for name, points in models.items():
        for point in points:
            rate = f"win_rate_of_{point['n']}" + ("" if name == first else f"/{name}")
            metrics |= {rate: point["value"], f"{rate}_low": point["low"], f"{rate}_high": point["high"]}
    if models.get(first):
        last = models[first][-1]
        metrics |= {"win_rate": last["value"], "win_rate_low": last["low"], "win_rate_high": last["high"]}
    return metrics
