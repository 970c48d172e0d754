"""The audit's baselines on the pairs of a reward model's evaluation, and how much the model depends on the speech."""

from collections.abc import Iterator, Sequence

from psychocounsel.evaluation.audit.blind import TITLES
from psychocounsel.reporting.blocks import Block, Paragraph
from psychocounsel.reporting.material import RunMaterial
from psychocounsel.reporting.sections.evaluations.figure_cells import (
    Figures,
    count,
    measured,
    percent_text,
    report_table,
)
from psychocounsel.studies.tables.formats import Cell

CONDITIONS = {"own": "the client's own speech", "swapped": "another client's speech", "removed": "no speech"}


def baselines(runs: Sequence[RunMaterial]) -> list[Block]:
    """Return a table for all runs and sentences on its result; nothing if no run computed baselines."""
    with_some = [run for run in runs if "baselines" in run.summary]
    headings = ["evaluation", "judged by", "speech shown", "pairs skipped", "accuracy", "gain of own speech"]
    rows = [row for run in with_some for row in _rows(run)]
    notes = ["baselines without the speech are judged on prompts that they were not fitted to"]
    notes += ["gain: accuracy with the client's own speech minus accuracy with the speech shown, in percentage points"]
    title = "Reward models against baselines that do not read the client's speech, or only count words shared with it"
    table = report_table("reward-baselines", title, headings, rows, *notes)
    return [*(Paragraph(*said) for run in with_some for said in _conclusions(run)), *table]


def reading_rows(title: str, found: Figures) -> Iterator[list[Cell]]:
    """Yield a row for each speech that a judge was shown: judge, speech, pairs skipped, accuracy, gain of own speech."""
    for condition, shown in CONDITIONS.items():
        if condition in found:
            gain = measured(found["gains"].get(condition), "gain", True)
            accuracy = measured(found[condition], "accuracy", True)
            yield [title, shown, count(found["left_out"]), accuracy, gain]


def _rows(run: RunMaterial) -> Iterator[list[Cell]]:
    found = run.summary["baselines"]
    for name, each in found["blind"].items():
        yield [run.title, TITLES.get(name, name), "replies only", None, measured(each, "accuracy", True), None]
    yield from ([run.title, *row] for row in reading_rows("words shared with the speech", found["overlap"]))
    for name, reading in run.summary.get("reading", {}).items():
        if reading is not None:
            yield from ([run.title, *row] for row in reading_rows(f"reward model {name}", reading))


def _conclusions(run: RunMaterial) -> Iterator[tuple[str, str]]:
    blind = run.summary["baselines"]["blind"]
    best = max(blind, key=lambda name: blind[name]["accuracy"])
    said = f"{run.title}: the best baseline that sees only the replies ({TITLES.get(best, best)}) is right on "
    yield f"{said}{percent_text(blind[best])} of these pairs.", "plain"
    for name, reading in run.summary.get("reading", {}).items():
        if reading is None:
            yield (
                f"{run.title}: no pair with another client's speech fits {name}'s length, so its use of the speech is unknown.",
                "warning",
            )
        else:
            yield reads(run.title, f"the reward model {name}", reading)


def reads(run: str, who: str, reading: Figures) -> tuple[str, str]:
    """Return a sentence, with its tone, on whether a judge uses the client's speech."""
    gain = reading["gains"]["swapped"]
    low, high = 100 * gain["low"], 100 * gain["high"]
    than = "with the client's own speech instead of another client's"
    size = f"its accuracy changes by {100 * gain['gain']:+.1f} percentage points ({low:+.1f} to {high:+.1f}) {than}"
    if gain["low"] > 0:
        return f"{run}: {who} uses the client's speech: {size}.", "good"
    if gain["high"] < 0:
        return f"{run}: {who} is right less often with the right client's speech: {size}.", "bad"
    return f"{run}: no evidence that {who} uses the client's speech: {size}.", "warning"
