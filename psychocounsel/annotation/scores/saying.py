"""Formats the figures of the step `scores` as lines for the terminal."""

from collections.abc import Iterator
from typing import Any

from psychocounsel.annotation.scores.rules import WARNING
from psychocounsel.annotation.scores.vote_figures import missing_table

_SKIPPED = {
    "crisis": "because their speeches may be about a crisis and it is a third party (crisis_to_third_parties=true sends them)",
    "language": "because it does not speak their language",
}


def said(figures: dict[str, Any]) -> Iterator[str]:
    """Yield the lines for the figures of the step `scores`."""
    for name in figures["demonstration"]:
        yield f"DEMONSTRATION: annotator {name} is {WARNING}"
    for name, each in figures["annotators"].items():
        votes = ", ".join(f"{count:,} {outcome}" for outcome, count in each["votes"].items() if count)
        yield f"{name}: {votes}"
        if len(models := [model for model in each["models"] if model != "not said"]) > 1:
            yield f"  warning: its server gave {len(models)} model names: {', '.join(models)}; an annotator should be one model"
    for name, reasons in figures["skipped"].items():
        for reason, count in reasons.items():
            yield f"{name} was not asked about {count:,} replies {_SKIPPED[reason]}"
    for name, reasons in figures["unreadable"].items():
        worst = max(reasons, key=lambda reason: (reasons[reason], reason))
        yield f"{name}: {sum(reasons.values()):,} answers could not be read (most often: {worst})"
    for name, counts in figures["quotes"].items():
        if counts["not_in_reply"]:
            share = counts["not_in_reply"] / sum(counts.values())
            yield f"{name}: {counts['not_in_reply']:,} quotations ({share:.1%}) are not in the reply that they quote"
    yield from missing_table(figures["missing"])
    for name, each in figures["retest"].items():
        yield from _retest(name, each)


def _retest(name: str, figures: dict[str, Any]) -> Iterator[str]:
    yield (
        f"{name}, asked twice about the same replies: {figures['rated_twice']:,} rated both times, "
        f"{figures['changed_outcome']:,} with another outcome the second time"
    )
    for principle, each in figures["principles"].items():
        if each["replies"]:
            kappa = "undefined" if each["weighted_kappa"] is None else f"{each['weighted_kappa']:.2f}"
            yield (
                f"  {principle:<12} equal {each['exact']:.0%}, mean difference {each['difference']:.2f}, "
                f"weighted kappa {kappa}"
            )
