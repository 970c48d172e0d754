"""The step `statistics` of `evaluation=winrate`: computes figures.json from verdicts.parquet."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Set
from itertools import combinations
from typing import Any

import numpy as np

from psychocounsel.asking.language_model import EMPTY
from psychocounsel.blocks.cells import Titled, limit_note, percent_text
from psychocounsel.evaluation.contestants.speeches import clients_of
from psychocounsel.evaluation.health.figures_step import system_prompts_of
from psychocounsel.evaluation.judging.bias import judge_roles, judge_warnings
from psychocounsel.evaluation.judging.controls import (
    BEST,
    CONTROL,
    DATA,
    ControlFigures,
    Verdict,
    control_figures,
    fooled_by,
    fooled_line,
    share_of,
    worst_control,
)
from psychocounsel.evaluation.judging.served_models import MOST_FREQUENT, answered_by, mixed_models
from psychocounsel.evaluation.showing import end_figures
from psychocounsel.evaluation.winrate.figures import ReplyCounts, WinrateFigures, over_seeds
from psychocounsel.evaluation.winrate.readers import (
    Experts,
    Marks,
    agreement_with_experts,
    beside_win_rate,
    read_experts,
    read_marks,
    readers_result,
)
from psychocounsel.evaluation.winrate.show import winrate_blocks, winrate_conclusions
from psychocounsel.evaluation.winrate.verdict_table import (
    OVERALL,
    PLAIN,
    ReplyKey,
    Variant,
    unhealthy_replies,
    variants,
)
from psychocounsel.metrics.agreement import bias_by_judge, judges_agreement
from psychocounsel.metrics.intervals import plain
from psychocounsel.metrics.regressions import bradley_terry, length_controlled
from psychocounsel.metrics.win_rates import (
    Verdicts,
    adjusted_tests,
    cluster_scores,
    pair_figures,
    prompt_means,
    seed_figures,
    slices,
)
from psychocounsel.rundir.paths import EvaluationDir
from psychocounsel.settings.targets import build
from psychocounsel.steps.course import StepContext
from psychocounsel.steps.tables import Row, rows_of

# Counts of the judges' verdicts, and warnings about unreliable verdicts.

# Limits of the warnings about a judge: the share of its pairs with contradicting verdicts (a coin: 50 %), and the distance of
# the interval of its share of first places from 50 %.
_CONTRADICTIONS, _BIAS = 0.2, 0.05


def verdict_counts(files: EvaluationDir) -> dict[str, dict[str, dict[str, int]]]:
    """Return `verdicts`, the number of calls by judge and outcome, and `answered_by`.

    `answered_by`: the number of answers by judge and by the model name that the server gave.
    """
    outcomes: dict[str, Counter[str]] = {}
    for row in rows_of(files.verdicts, ["judge", "outcome"]):
        outcomes.setdefault(row["judge"], Counter())[row["outcome"]] += 1
    models = answered_by(rows_of(files.verdicts, ["judge", "model"]))
    return {
        "verdicts": {name: dict(counts) for name, counts in outcomes.items()},
        "answered_by": {name: dict(counts) for name, counts in models.items()},
    }


def winrate_warnings(figures: WinrateFigures) -> Iterator[str]:
    """Yield warnings about judges that contradict themselves or favour a place, and about servers that changed their model."""
    for line in mixed_models(figures["answered_by"], MOST_FREQUENT):
        yield f"warning: {line}"
    for variant in figures["variants"]:
        where = limit_note(variant["length_limit"])
        for name, bias in variant["judges"].items():
            share, first = bias["inconsistent"]["value"], bias["first_place"]
            if share is not None and share > _CONTRADICTIONS:
                half = "when their order changes (a coin: 50 %)"
                yield f"warning: judge {name} contradicts itself in {100 * share:.0f} % of the pairs {half}{where}"
            low, high = first["low"], first["high"]
            if low is not None and high is not None and (low > 0.5 + _BIAS or high < 0.5 - _BIAS):
                place = "first" if low > 0.5 else "second"
                yield f"warning: judge {name} has a strong position bias: it prefers the reply that is shown {place}{where}"


# Controls: replies made by rule, and replies of the data, that judges compared with each other and with the contestants'.

_OF_CONTROLS = (
    "judge",
    "outcome",
    "speech",
    "length_limit",
    "sample",
    "first_setting",
    "first_seed",
    "second_setting",
    "overall",
)


def judge_controls(rows: Iterable[Row], clients: Mapping[str, int]) -> dict[str, ControlFigures]:
    """Return each judge's preferences for controls, from rows of controls.parquet. `clients`: the client of each speech."""
    verdicts: dict[str, list[Verdict]] = {}
    for row in rows:
        setting, _, kind = row["first_setting"].partition(" ")
        if setting == CONTROL:
            anchor = row["second_setting"].removeprefix(f"{DATA} ")
            score = _score(row["overall"])
            verdicts.setdefault(row["judge"], []).append((clients[row["speech"]], kind, anchor, score))
    return {judge: control_figures(of_judge) for judge, of_judge in verdicts.items()}


def anchors(
    rows: Iterable[Row], limit: int | None, lost: Set[ReplyKey], clients: Mapping[str, int]
) -> dict[str, dict[str, Any]]:
    """Return each contestant's win rates against the best and the median reply of the data, under one length limit.

    `win_rate` counts the replies in `lost` as lost, `plain` does not. A speech's value is the mean over judges, seeds and
    samples. `clients`: the client of each speech.
    """
    scores: dict[tuple[str, str], dict[str, list[tuple[float, float]]]] = {}
    for row in rows:
        setting, seed = row["first_setting"], row["first_seed"]
        if setting.startswith(f"{CONTROL} ") or row["length_limit"] != limit:
            continue
        plain_score = _score(row["overall"])
        key = (row["speech"], setting, seed, row["length_limit"], row["sample"])
        is_lost = key in lost and (row["outcome"] == EMPTY or not np.isnan(plain_score))
        by_speech = scores.setdefault((setting, row["second_setting"].removeprefix(f"{DATA} ")), {})
        by_speech.setdefault(row["speech"], []).append((0.0 if is_lost else plain_score, plain_score))
    results: dict[str, dict[str, Any]] = {}
    for (setting, anchor), of_setting in scores.items():
        for place, name in enumerate(("win_rate", "plain")):
            known = {
                speech: [pair[place] for pair in pairs if not np.isnan(pair[place])]
                for speech, pairs in of_setting.items()
            }
            if means := {speech: float(np.mean(values)) for speech, values in known.items() if values}:
                share = share_of([*means.values()], [clients[speech] for speech in means])
                results.setdefault(setting, {}).setdefault(anchor, {})[name] = share
    return results


def _score(overall: int | None) -> float:
    return float("nan") if overall is None else (1 + overall) / 2


def control_doubts(figures: WinrateFigures) -> Iterator[str]:
    """Yield why the win rate shows no winner: judges that prefer controls, or have no verdict on them; and improbable wins."""
    judges, limit = figures["controls"]["judges"], figures["controls"]["limit"]
    for judge in figures["verdicts"]:
        shares = judges.get(judge, {})
        if not shares:
            yield (
                f"judge {judge} was not measured on controls: it may prefer echoes or loops; evaluation.controls=40 "
                "measures it if the data hold replies to these speeches"
            )
        if line := fooled_line(f"judge {judge}", shares, limit):
            yield f"{line}; its win rates prove nothing"
    for variant in figures["variants"]:
        for contestant, results in variant["anchors"].items():
            if BEST in results and "plain" in results[BEST] and results[BEST]["plain"]["value"] > 0.5:
                share = percent_text(results[BEST]["plain"], "value")
                yield (
                    f"the judges prefer {contestant} to the best reply of the data in {share} of the speeches: this "
                    f"is a fault of the judges, unless {contestant} writes better than the authors of the data"
                )


# Counts of the contestants' replies.
#
# A contestant that gives no reply to hard speeches is only compared on easy ones; the counts make this visible.

_READ = ("speech", "setting", "length_limit", "text", "outcome")


def replies_of_contestants(files: EvaluationDir, include_near: bool) -> dict[int | None, dict[str, ReplyCounts]]:
    """Return counts by length limit and setting: `wanted` replies, `without_text` by outcome, and `over_limit`.

    Without `include_near`, speeches that are nearly the same as training data are not counted.
    """
    speeches = rows_of(files.speeches, ["speech", "near_training"])
    judged = {row["speech"] for row in speeches if include_near or not row["near_training"]}
    by_limit: dict[int | None, dict[str, ReplyCounts]] = {}
    for row in rows_of(files.replies, _READ):
        if row["speech"] not in judged:
            continue
        by_setting = by_limit.setdefault(row["length_limit"], {})
        counts = by_setting.setdefault(row["setting"], {"wanted": 0, "without_text": {}, "over_limit": 0})
        counts["wanted"] += 1
        if not row["text"]:
            counts["without_text"][row["outcome"]] = counts["without_text"].get(row["outcome"], 0) + 1
        elif row["length_limit"] and len(row["text"].split()) > row["length_limit"]:
            counts["over_limit"] += 1
    return by_limit


# The step.


def run(context: StepContext[EvaluationDir]) -> dict[str, Any]:
    """Compute every figure, write figures.json and print the table.

    The returned metrics describe each opponent; metrics without an opponent's name describe the first opponent.

    Raises:
        UserError: if a file of `evaluation.experts` is wrong.
    """
    config, files = context.config, context.files
    settings = [*dict.fromkeys(build(config, "contestants").settings)]
    lost = unhealthy_replies(files, system_prompts_of(config))
    clients = clients_of(rows_of(files.speeches, ["speech", "messages"]))
    by_limit = variants(files, settings, lost, clients)
    rows = [*rows_of(files.controls, _OF_CONTROLS)] if files.controls.exists() else []
    options: Any = {"samples": config.evaluation.samples, "seed": config.evaluation.figures_seed}
    replied = replies_of_contestants(files, config.evaluation.include_near)
    experts, marks = read_experts(config.evaluation.experts), read_marks(config.evaluation.experts)
    measured = {
        "evaluation": "winrate",
        "model": settings[0],
        "left_out": 0 if config.evaluation.include_near else _near(files),
        "roles": judge_roles(config),
        **verdict_counts(files),
        "controls": {"limit": config.evaluation.max_control, "judges": judge_controls(rows, clients)},
        "variants": [
            _variant(variant, replied, experts, marks, options)
            | {"anchors": anchors(rows, variant.length_limit, lost, clients)}
            for variant in context.bar(by_limit, "figures")
        ],
    }
    figures: WinrateFigures = plain(measured)
    doubts = [*control_doubts(figures)]
    figures["warnings"] = [
        *judge_warnings(config),
        *winrate_warnings(figures),
        *(f"warning: {line}" for line in doubts),
    ]
    blocks, metrics = winrate_blocks([Titled("", figures)]), dict(_metrics(figures))
    return {**end_figures(context, figures, winrate_conclusions(figures), blocks, metrics), "doubts": doubts}


def _near(files: EvaluationDir) -> int:
    return sum(row["near_training"] for row in rows_of(files.speeches, ["near_training"]))


def _variant(
    variant: Variant, replied: Mapping[int | None, Any], experts: Experts, marks: Marks, options: Any
) -> dict[str, Any]:
    """Return the figures of all opponents and of the judges, for one length limit."""
    overall, plain_verdicts = variant.verdicts.get(OVERALL), variant.verdicts.get(PLAIN)
    if overall is None or plain_verdicts is None:
        nothing: dict[str, Any] = {"opponents": {}, "judges": {}, "agreement": [], "experts": [], "ranking": None}
        return {"length_limit": variant.length_limit, **nothing}
    present = range(1, len(variant.settings))  # includes opponents without a verdict
    asked = plain_verdicts.where(variant.asked)  # without equal and empty replies, about which no judge was asked
    tests = adjusted_tests(
        {variant.settings[opponent]: _client_scores(overall.between(0, opponent)) for opponent in present},
        options["seed"],
    )
    opponents = {}
    for opponent in present:
        name = variant.settings[opponent]
        opponents[name] = {
            **_against(variant, opponent, options),
            "p": tests[name].raw,
            "p_adjusted": tests[name].adjusted,
        }
        opponents[name]["experts"] = {
            **beside_win_rate(variant, plain_verdicts, opponent, experts, options),
            "readers": readers_result(variant, plain_verdicts, opponent, experts, marks),
        }
    return {
        "length_limit": variant.length_limit,
        "opponents": opponents,
        "contestants": replied[variant.length_limit],
        "judges": {variant.judges[number]: bias for number, bias in bias_by_judge(asked).items()},
        "agreement": list(_agreements(asked, variant.judges, options)),
        "experts": list(agreement_with_experts(variant, plain_verdicts, experts, options)),
        "ranking": _ranking(variant, overall, options) if len(present) > 1 else None,
    }


def _client_scores(verdicts: Verdicts) -> np.ndarray:
    found = prompt_means(verdicts)
    return cluster_scores(found.means - 0.5, found.clients)


def _against(variant: Variant, opponent: int, options: Any) -> dict[str, Any]:
    """Return the figures of the setting under evaluation against one opponent."""
    pairs = {name: verdicts.between(0, opponent) for name, verdicts in variant.verdicts.items()}
    overall, plain_verdicts = pairs.pop(OVERALL), pairs.pop(PLAIN)
    topics = {place: topic for place, topic in enumerate(variant.topics) if topic}
    names = {"none": "no risk", "unknown": "risk unknown"}
    risks = {place: names.get(kind, "risk") for place, kind in enumerate(variant.risks)}

    return {
        "overall": pair_figures(overall),
        "plain": pair_figures(plain_verdicts),
        "seeds": seed_figures(overall),
        "length_controlled": length_controlled(overall, **options),
        "length_and_ending_controlled": length_controlled(overall, ending=True, **options),
        "all_controlled": length_controlled(overall, ending=True, formatting=True, **options),
        "length_and_formatting_controlled": length_controlled(overall, formatting=True, **options),
        "by_judge": {
            variant.judges[judge]: pair_figures(overall.where(overall.judge == judge))
            for judge in sorted({*overall.judge.tolist()})
        },
        "principles": {name: pair_figures(verdicts) for name, verdicts in pairs.items()},
        "topics": slices(overall, topics),
        "risk": slices(overall, risks),
    }


def _agreements(verdicts: Verdicts, judges: list[str], options: Any) -> Iterator[dict[str, Any]]:
    for first, second in combinations(range(len(judges)), 2):
        yield {
            "judges": [judges[first], judges[second]],
            "agreement": judges_agreement(verdicts, first, second, **options),
        }


def _ranking(variant: Variant, verdicts: Verdicts, options: Any) -> dict[str, Any] | None:
    """Return the strengths of all settings; None if no pair has a verdict in both orders."""
    ranking = bradley_terry(verdicts, **options)
    if not ranking.groups:
        return None
    return {
        "strengths": {variant.settings[number]: strength for number, strength in ranking.strengths.items()},
        "groups": [[variant.settings[number] for number in group] for group in ranking.groups],
        "bounded": ranking.bounded,
    }


def _metrics(figures: WinrateFigures) -> Iterator[tuple[str, float]]:
    """Yield the metrics for summary.json: a key for each length limit and opponent.

    Metrics of the first opponent are also given without the opponent's name.
    """
    for number, variant in enumerate(figures["variants"]):  # `variants` puts no limit first, so the others have a limit
        suffix = "" if number == 0 else f"_{variant['length_limit']}_words"
        for place, (name, result) in enumerate(variant["opponents"].items()):
            rates = {
                f"win_rate{suffix}": result["overall"],
                f"win_rate_at_equal_length{suffix}": result["length_controlled"],
                f"win_rate_plain{suffix}": result["plain"],
            }
            for key, of_rate in rates.items():
                rate = over_seeds(result) if of_rate is result["overall"] else of_rate["win_rate"]
                for metric, value in ((key, rate["value"]), (f"{key}_low", rate["low"]), (f"{key}_high", rate["high"])):
                    if value is not None:
                        yield f"{metric}/{name}", value
                        if place == 0:
                            yield metric, value
            together = result["experts"]["together"]
            if number == 0 and together and together["raw"]["value"] is not None:
                yield f"experts_agree/{name}", together["raw"]["value"]
            readers = result["experts"].get("readers")
            if number == 0 and readers:
                for key, value in readers["result"]["win_rate"].items():
                    if value is not None:
                        yield f"readers_win_rate{'' if key == 'value' else f'_{key}'}/{name}", value
        for anchor, result_of_anchor in variant["anchors"].get(figures["model"], {}).items():
            yield f"against_{anchor}{suffix}", result_of_anchor["win_rate"]["value"]
    judges = figures["controls"]["judges"]
    if worst := [share for shares in judges.values() for share in worst_control(shares).values()]:
        yield "worst_control", max(worst)
        yield "judges_fooled", sum(bool(fooled_by(shares, figures["controls"]["limit"])) for shares in judges.values())
