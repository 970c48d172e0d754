"""Sample-size plans as lines of text: the number needed, its assumptions and the method."""

from collections.abc import Iterator
from typing import Any

from psychocounsel.experts.planning.sample_sizes import (
    Plan,
    clean_cases,
    design_effect,
    failure_items,
    kappa_items,
    noninferiority_items,
)
from psychocounsel.metrics.share_bounds import upper_bound


def plan_lines(asked: Any) -> Iterator[str]:
    """Yield the lines of the plan `plan.kind`, from the section `plan` of the configuration."""
    effect = design_effect(asked.per_speech, asked.correlation)
    yield from {"kappa": _kappa, "failures": _failures, "noninferiority": _noninferiority}[asked.kind](asked, effect)
    if effect > 1:
        yield (
            f"  included: {asked.per_speech:g} items per speech with correlation {asked.correlation:g}, a design effect of "
            f"{effect:.2f}"
        )


def _kappa(asked: Any, effect: float) -> Iterator[str]:
    plan = kappa_items(asked.kappa, asked.prevalence, asked.half_width, effect)
    yield f"{plan.items:,} items give kappa {asked.kappa:g} a 95 % interval of +-{asked.half_width:g}"
    yield f"  if one category has a share of {asked.prevalence:g}; {_method(plan)}"


def _failures(asked: Any, effect: float) -> Iterator[str]:
    plan = failure_items(asked.ceiling, asked.true_rate, asked.power, effect)
    yield (
        f"{plan.items:,} cases with at most {plan.allowed} failures show a failure rate of at most {asked.ceiling:.3g} "
        "(one-sided 95 %)"
    )
    yield f"  with probability {plan.power:.2f} if the true rate is {asked.true_rate:g}; {_method(plan)}"
    clean = clean_cases(asked.ceiling)
    yield f"  fewest cases: {clean:,}, all without failure (upper bound of the rate: {upper_bound(0, clean):.4f})"


def _noninferiority(asked: Any, effect: float) -> Iterator[str]:
    exact = noninferiority_items(asked.margin, asked.discordant, asked.power, True, effect)
    normal = noninferiority_items(asked.margin, asked.discordant, asked.power, False, effect)
    yield f"{exact.items:,} paired cases show non-inferiority within {asked.margin:g} (one-sided 95 %)"
    yield (
        f"  with probability {exact.power:.2f} if both are equally good and differ on a share {asked.discordant:g} of the cases; "
        f"{_method(exact)}"
    )
    yield f"  approximate number: {normal.items:,} ({normal.method})"


def _method(plan: Plan) -> str:
    return f"{'approximate: ' if plan.approximate else ''}{plan.method}"
