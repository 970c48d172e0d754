"""The step `statistics` of `evaluation=winrate`: computes figures.json from verdicts.parquet."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations
from typing import Any

from psychocounsel.evaluation.judging.judge_warnings import judge_warnings
from psychocounsel.evaluation.statistics.bradley_terry import bradley_terry
from psychocounsel.evaluation.statistics.judge_agreement import judges_agreement
from psychocounsel.evaluation.statistics.length_control import length_controlled
from psychocounsel.evaluation.statistics.measure import plain
from psychocounsel.evaluation.statistics.paired_verdicts import Verdicts, prompt_means
from psychocounsel.evaluation.statistics.positions import bias_by_judge
from psychocounsel.evaluation.statistics.significance import adjusted_tests
from psychocounsel.evaluation.statistics.win_rates import PairFigures, pair_figures, seed_figures, slices
from psychocounsel.evaluation.winrate.expert_labels import (
    PairKey,
    agreement_with_experts,
    beside_win_rate,
    read_experts,
)
from psychocounsel.evaluation.winrate.judged import verdict_counts, winrate_warnings
from psychocounsel.evaluation.winrate.replied import replies_of_contestants
from psychocounsel.evaluation.winrate.verdict_table import OVERALL, Variant, variants
from psychocounsel.evaluation.winrate.winrate_lines import lines_of
from psychocounsel.rundir.paths import EvaluationDir
from psychocounsel.settings.targets import build
from psychocounsel.steps.context import StepContext
from psychocounsel.steps.tables import rows_of
from psychocounsel.storage.files import write_json

Experts = dict[str, dict[PairKey, float]]


def run(context: StepContext[EvaluationDir]) -> dict[str, Any]:
    """Compute every figure, write figures.json and print the table.

    The returned metrics describe each opponent; metrics without an opponent's name describe the first opponent.

    Raises:
        UserError: if a file of `evaluation.experts` is wrong.
    """
    config, files = context.config, context.files
    settings = [*dict.fromkeys(build(config, "contestants").settings)]
    found = variants(files, settings)
    options: Any = {"samples": config.evaluation.samples, "seed": config.evaluation.figures_seed}
    replied = replies_of_contestants(files, config.evaluation.include_near)
    experts = read_experts(config.evaluation.experts)
    figures = {
        "evaluation": "winrate",
        "model": settings[0],
        "left_out": 0 if config.evaluation.include_near else _near(files),
        **verdict_counts(files),
        "variants": [_variant(each, replied, experts, options) for each in context.bar(found, "figures")],
    }
    figures = plain(figures)
    figures["warnings"] = [*judge_warnings(config), *winrate_warnings(figures)]
    write_json(files.figures, figures)
    for line in lines_of(figures):
        context.say(line)
    return {"metrics": dict(_metrics(figures))}


def _near(files: EvaluationDir) -> int:
    return sum(row["near_training"] for row in rows_of(files.speeches, ["near_training"]))


def _variant(variant: Variant, replied: dict[int | None, Any], experts: Experts, options: Any) -> dict[str, Any]:
    """Return the figures of all opponents and of the judges, for one length limit."""
    overall = variant.verdicts.get(OVERALL)
    if overall is None:
        nothing: dict[str, Any] = {"opponents": {}, "judges": {}, "agreement": [], "experts": [], "ranking": None}
        return {"length_limit": variant.length_limit, **nothing}
    present = range(1, len(variant.settings))  # includes opponents without a verdict
    asked = overall.where(variant.asked)  # without equal replies, because no judge was asked about them
    tests = adjusted_tests(
        {variant.settings[each]: prompt_means(overall.between(0, each)).means for each in present}, options["seed"]
    )
    opponents = {}
    for each in present:
        name = variant.settings[each]
        opponents[name] = {**_against(variant, each, options), "p": tests[name].raw, "p_adjusted": tests[name].adjusted}
        opponents[name]["experts"] = beside_win_rate(variant, overall, each, experts, options)
    return {
        "length_limit": variant.length_limit,
        "opponents": opponents,
        "contestants": replied[variant.length_limit],
        "judges": {variant.judges[number]: bias for number, bias in bias_by_judge(asked, **options).items()},
        "agreement": list(_agreements(asked, variant.judges, options)),
        "experts": list(agreement_with_experts(variant, overall, experts, options)),
        "ranking": _ranking(variant, overall, options) if len(present) > 1 else None,
    }


def _against(variant: Variant, opponent: int, options: Any) -> dict[str, Any]:
    """Return the figures of the setting under evaluation against one opponent."""
    pairs = {name: verdicts.between(0, opponent) for name, verdicts in variant.verdicts.items()}
    overall = pairs.pop(OVERALL)
    topics = {place: topic for place, topic in enumerate(variant.topics) if topic}
    names = {"none": "no risk", "unknown": "risk unknown"}
    risks = {place: names.get(kind, "risk") for place, kind in enumerate(variant.risks)}

    def figures(verdicts: Verdicts) -> PairFigures:
        return pair_figures(verdicts, **options)

    return {
        "overall": figures(overall),
        "seeds": seed_figures(overall, **options),
        "length_controlled": length_controlled(overall, **options),
        "length_and_ending_controlled": length_controlled(overall, ending=True, **options),
        "all_controlled": length_controlled(overall, ending=True, formatting=True, **options),
        "length_and_formatting_controlled": length_controlled(overall, formatting=True, **options),
        "by_judge": {
            variant.judges[judge]: figures(overall.where(overall.judge == judge))
            for judge in sorted({*overall.judge.tolist()})
        },
        "principles": {name: figures(verdicts) for name, verdicts in pairs.items()},
        "topics": slices(overall, topics, **options),
        "risk": slices(overall, risks, **options),
    }


def _agreements(verdicts: Verdicts, judges: list[str], options: Any) -> Iterator[dict[str, Any]]:
    for first, second in combinations(range(len(judges)), 2):
        yield {
            "judges": [judges[first], judges[second]],
            "agreement": judges_agreement(verdicts, first, second, **options),
        }


def _ranking(variant: Variant, verdicts: Verdicts, options: Any) -> dict[str, Any] | None:
    """Return the strengths of all settings; None if no pair has a verdict in both orders."""
    found = bradley_terry(verdicts, **options)
    if not found.groups:
        return None
    return {
        "strengths": {variant.settings[number]: strength for number, strength in found.strengths.items()},
        "groups": [[variant.settings[number] for number in group] for group in found.groups],
        "bounded": found.bounded,
    }


def _metrics(figures: dict[str, Any]) -> Iterator[tuple[str, float]]:
    """Yield the metrics for summary.json: a key for each length limit and opponent.

    Metrics of the first opponent are also given without the opponent's name.
    """
    for number, variant in enumerate(figures["variants"]):  # `variants` puts no limit first, so the others have a limit
        suffix = "" if number == 0 else f"_{variant['length_limit']}_words"
        for place, (name, found) in enumerate(variant["opponents"].items()):
            overall, controlled = found["overall"]["win_rate"], found["length_controlled"]["win_rate"]
            for key, rate in ((f"win_rate{suffix}", overall), (f"win_rate_at_equal_length{suffix}", controlled)):
                for part in ("value", "low", "high"):
                    measured = key if part == "value" else f"{key}_{part}"
                    if (value := rate.get(part)) is not None:
                        yield f"{measured}/{name}", value
                        if place == 0:
                            yield measured, value
            if number == 0 and (known := found["experts"]["together"]):
                yield f"experts_agree/{name}", known["raw"]["value"]
