"""Section on datasets made by `annotate`: losses with reasons, pairs, votes and their agreement, licences, cost."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from psychocounsel.annotation.settings import SPLITS, STEPS
from psychocounsel.blocks.cells import cell, count, counts, exact, name_in, report_table
from psychocounsel.blocks.kinds import Block, Chart, Curve, Paragraph, ReportTable, Section
from psychocounsel.blocks.tables import Cell
from psychocounsel.reporting.material import ANNOTATION, Material, RunMaterial
from psychocounsel.reporting.sections.evaluated import without_figures

# Rows lost on the way to a dataset: at which step, where and why; and missing ratings

StepsOf = Callable[[RunMaterial], dict[str, Any]]
_KEPT = ("text", "rated")  # outcomes that are not losses


def losses(runs: Sequence[RunMaterial], steps_of: StepsOf) -> list[ReportTable]:
    """Return a table with a row for each reason at each step, and a table of missing ratings."""
    rows = [[run.title, *row] for run in runs for row in _losses(steps_of(run))]
    headings = ["dataset", "step", "where", "reason", "lost"]
    notes = ["a loss may be counted at several steps: a reply without text also costs pairs"]
    tables = report_table("dataset-losses", "Losses by step and reason", headings, rows, *notes)
    return tables + _missing(runs, steps_of)


def _losses(steps: dict[str, Any]) -> Iterator[list[Cell]]:
    for source, figures in steps.get("speeches", {}).get("sources", {}).items():
        yield from _reasons("speeches", source, figures["fell"])
    for writer, outcomes in steps.get("replies", {}).get("writers", {}).items():
        yield from _reasons("replies", f"writer {writer}", outcomes)
    scores = steps.get("scores", {})
    for name, figures in scores.get("annotators", {}).items():
        yield from _reasons("scores", f"annotator {name}", figures["votes"])
    for name, reasons in scores.get("skipped", {}).items():
        skipped = {f"not asked: {reason}": number for reason, number in reasons.items()}
        yield from _reasons("scores", f"annotator {name}", skipped)
    for split, figures in steps.get("pairs", {}).items():
        if isinstance(figures, dict):
            yield from _reasons("pairs", split, figures["dropped"])


def _reasons(step: str, where: str, reasons: dict[str, int]) -> Iterator[list[Cell]]:
    for reason, number in sorted(reasons.items(), key=lambda item: -item[1]):
        if number and reason not in _KEPT:
            yield [step, where, reason.replace("_", " "), count(number)]


def _missing(runs: Sequence[RunMaterial], steps_of: StepsOf) -> list[ReportTable]:
    """Return a table with the share of missing ratings by risk and topic; no table if no rating is missing."""
    rows = [
        [
            *(run.title, kind, value, count(sum(number for key, number in ratings.items() if key != "missing"))),
            cell(ratings["missing"], percent=True),
        ]
        for run in runs
        for kind, values in steps_of(run).get("scores", {}).get("missing", {}).items()
        for value, ratings in values.items()
        if ratings["missing"]
    ]
    headings = ["dataset", "kind", "risk or topic", "ratings wanted", "missing"]
    notes = [
        "ratings are not missing at random, and nothing replaces them",
        "values without a row have all their ratings",
    ]
    return report_table("dataset-missing-ratings", "Missing ratings", headings, rows, *notes)


# Pairs: their number, the agreement of votes, and gap, topic, risk and language

_KINDS = ("gap", "topic", "risk", "language")


def _agreement(runs: Sequence[RunMaterial], steps_of: StepsOf) -> list[ReportTable]:
    rows = list[list[Cell]]()
    for run in runs:
        pairs, by_split = steps_of(run).get("pairs", {}), (run.extra.get("counts") or {}).get("pairs", {})
        for split in SPLITS:
            if figures := pairs.get(split):
                votes = [*figures["agreement"].values(), figures["against_majority"], figures["unequal_votes"]]
                clients = by_split.get(split, {}).get("clients")
                rows.append([run.title, split, count(figures["pairs"]), count(clients), *map(count, votes)])
    headings = ["dataset", "split", "pairs", "clients", "unanimous", "majority", "split votes", "against the majority"]
    notes = ["unanimous: all votes prefer the chosen reply; majority: more than half; split: half or fewer"]
    notes += [
        "with one vote per reply, every pair is unanimous, which says nothing about agreement",
        "no client is in both splits",
    ]
    title = "Pairs and the agreement of votes"
    return report_table("dataset-pairs", title, [*headings, "replies with unequal votes"], rows, *notes)


def _gap_chart(runs: Sequence[RunMaterial]) -> list[Chart]:
    histograms = [
        (name_in(run.title, split, len(runs) > 1), pairs["gap"])
        for run in runs
        for split, pairs in (run.extra.get("counts") or {}).get("pairs", {}).items()
        if pairs["gap"]
    ]
    ticks = sorted({gap for _, gaps in histograms for gap in gaps}, key=lambda gap: float(gap.split()[0]))
    curves = [
        Curve(title, {"gap of mean ratings": [ticks.index(gap) for gap in gaps]}, list(gaps.values()))
        for title, gaps in histograms
    ]
    notes = ["Bins of half a point, named by their ends; bins without pairs are omitted."]
    return (
        [Chart("dataset-gaps", "Pairs by the gap of their ratings", "pairs", curves, ticks=ticks, notes=notes)]
        if histograms
        else []
    )


def _kinds(runs: Sequence[RunMaterial]) -> list[ReportTable]:
    rows = list[list[Cell]]()
    for run in runs:
        by_split = (run.extra.get("counts") or {}).get("pairs", {})
        for kind in _KINDS:
            values = dict.fromkeys(value for pairs in by_split.values() for value in pairs[kind])
            for value in values:
                numbers = [
                    count(by_split[split][kind].get(value, 0)) if split in by_split else None for split in SPLITS
                ]
                rows.append([run.title, kind, value, *numbers])
    headings = ["dataset", "kind", "value", "training pairs", "test pairs"]
    return report_table("dataset-kinds", "Pairs by gap, topic, risk and language", headings, rows)


# Annotators' votes: outcomes, ratings, and agreement of an annotator with itself

_RATINGS = ("1", "2", "3", "4", "5", "not applicable")


def vote_tables(runs: Sequence[RunMaterial], steps_of: StepsOf) -> list[ReportTable]:
    scores = [(run.title, figures) for run in runs if (figures := steps_of(run).get("scores"))]
    votes = [
        [
            title,
            name,
            count(sum(annotator["votes"].values())),
            counts(annotator["votes"]),
            counts(annotator["models"]),
            _quotes(figures, name),
        ]
        for title, figures in scores
        for name, annotator in figures["annotators"].items()
    ]
    headings = ["dataset", "annotator", "votes", "by outcome", "answered as", "quotations not found in the reply"]
    tables = report_table("dataset-votes", "Votes of annotators", headings, votes, "votes for test-retest are included")
    ratings = [
        [title, name, principle, *(count(by_rating.get(rating, 0)) for rating in _RATINGS)]
        for title, figures in scores
        for name, annotator in figures["annotators"].items()
        for principle, by_rating in annotator["ratings"].items()
    ]
    headings = ["dataset", "annotator", "principle", *_RATINGS]
    tables += report_table("dataset-ratings", "Ratings by annotator", headings, ratings)
    retest = [[title, *row] for title, figures in scores for row in _retest(figures["retest"])]
    headings = [
        "dataset",
        "annotator",
        "principle",
        "replies rated twice",
        "equal",
        "mean difference",
        "weighted kappa",
    ]
    notes = ["the same annotator was asked twice about the same reply"]
    notes += ["kappa has squared weights (Cohen 1968); it is missing if all ratings are equal"]
    return tables + report_table("dataset-retest", "Annotators asked twice", headings, retest, *notes)


def _quotes(figures: dict[str, dict[str, dict[str, int]]], name: str) -> Cell:
    quotes = figures["quotes"].get(name)
    return count(quotes["not_in_reply"]) if quotes else None


def _retest(retest: dict[str, dict[str, dict[str, dict[str, float]]]]) -> Iterator[list[Cell]]:
    for annotator, record in retest.items():
        for principle, scores in record["principles"].items():
            figures = [cell(scores["exact"], percent=True), cell(scores["difference"]), cell(scores["weighted_kappa"])]
            yield [annotator, principle, count(int(scores["replies"])), *figures]


# The section


def section(material: Material) -> Section:
    datasets = material.of(ANNOTATION)
    runs = [run for run in datasets if steps_of(run)]
    blocks: list[Block] = [*without_figures(datasets, lambda run: bool(steps_of(run)))]
    blocks += [Paragraph(*warning) for run in runs for warning in _warnings(run)]
    blocks += [*_steps(runs), *losses(runs, steps_of), *_agreement(runs, steps_of), *_gap_chart(runs), *_kinds(runs)]
    blocks += [*vote_tables(runs, steps_of), *_licences(runs)]
    return Section("datasets", "Annotated datasets", blocks)


def steps_of(run: RunMaterial) -> dict[str, Any]:
    """Return the figures of each finished step, by the step's name."""
    records = run.extra.get("steps") or {}
    return {step: records[step]["figures"] for step in STEPS if (records.get(step) or {}).get("figures") is not None}


def _warnings(run: RunMaterial) -> Iterator[tuple[str, str]]:
    steps = steps_of(run)
    for name in steps.get("scores", {}).get("demonstration", []):
        remark = (
            f"a demonstration. The ratings of {name} come from simple rules that do not judge, so do not train on them"
        )
        yield f"{run.title}: {remark}.", "bad"
    for step in STEPS:
        if step not in steps:
            yield f"{run.title}: the step {step} is not finished.", "warning"
    if missing := steps.get("card", {}).get("missing"):
        keys = ", ".join(f"card.{name}" for name in missing)
        yield f"{run.title}: its data card lacks {keys}, because no such option was given.", "warning"
    if accepted := run.config.get("accept_terms"):
        yield (
            f"{run.title}: these conflicts of licences and terms were accepted: {', '.join(accepted)}.",
            "warning",
        )


def _steps(runs: Sequence[RunMaterial]) -> list[ReportTable]:
    keys = {"speeches": "speeches", "replies": "replies"}
    rows = list[list[Cell]]()
    for run in runs:
        for step, figures in steps_of(run).items():
            record = run.extra["steps"][step]
            number = figures.get(keys[step]) if step in keys else _made(step, figures)
            bought, spent = figures.get("bought"), exact(figures.get("spent"))
            rows.append([run.title, step, count(number), count(bought), spent, exact(record.get("seconds"))])
    headings = ["dataset", "step", "rows", "answers bought so far", "spent so far", "seconds"]
    notes = ["rows: speeches, replies, votes or pairs", "answers and costs include those of earlier steps"]
    notes += ["costs are in the currency of the prices; 0 for models without a price"]
    notes += ["seconds: of the step's last run"]
    return report_table("dataset-steps", "Steps and their cost", headings, rows, *notes)


def _made(step: str, figures: dict[str, Any]) -> int | None:
    if step == "scores":
        return int(sum(figures["outcomes"].values()))
    return sum(figures[split]["pairs"] for split in ("train", "test")) if step == "pairs" else None


def _licences(runs: Sequence[RunMaterial]) -> list[ReportTable]:
    rows = list[list[Cell]]()
    for run in runs:
        tables = run.extra.get("counts") or {}
        for row in tables.get("speeches", []):
            cells = [f"speeches of {row['source']}", row["language"] or "unknown", row["license"] or "unknown"]
            rows.append([run.title, *cells, count(row["count"])])
        for row in tables.get("replies", []):
            writer = row["writer"] + (f" ({row['model']})" if row["model"] not in (None, row["writer"]) else "")
            rows.append([run.title, f"replies of {writer}", "", row["terms"] or "unknown", count(row["count"])])
    headings = ["dataset", "what", "language", "licence or terms", "rows"]
    notes = ["all licences of sources and all terms of writers apply together; if one is unknown, ask its authors"]
    return report_table("dataset-licences", "Licences and terms", headings, rows, *notes)
