"""Section on datasets made by `annotate`: losses with reasons, pairs, votes and their agreement, licences, cost."""

from collections.abc import Iterator, Sequence
from typing import Any

from psychocounsel.reporting.blocks import Block, Paragraph, ReportTable, Section
from psychocounsel.reporting.material import ANNOTATION, Material, RunMaterial
from psychocounsel.reporting.sections.evaluations.dataset_parts.dataset_losses import losses
from psychocounsel.reporting.sections.evaluations.dataset_parts.pair_counts_tables import pair_blocks
from psychocounsel.reporting.sections.evaluations.dataset_parts.vote_tables import vote_tables
from psychocounsel.reporting.sections.evaluations.figure_cells import count, exact, report_table, without_figures
from psychocounsel.studies.tables.formats import Cell

STEPS = ("speeches", "replies", "scores", "pairs", "card")


def section(material: Material) -> Section:
    every = material.of(ANNOTATION)
    runs = [run for run in every if steps_of(run)]
    blocks: list[Block] = [*without_figures(every, lambda run: bool(steps_of(run)))]
    blocks += [Paragraph(*said) for run in runs for said in _warnings(run)]
    blocks += [*_steps(runs), *losses(runs, steps_of), *pair_blocks(runs, steps_of), *vote_tables(runs, steps_of)]
    return Section("datasets", "Annotated datasets", [*blocks, *_licences(runs)])


def steps_of(run: RunMaterial) -> dict[str, Any]:
    """Return the figures of each finished step, by the step's name."""
    records = run.extra.get("steps") or {}
    return {step: records[step]["figures"] for step in STEPS if (records.get(step) or {}).get("figures") is not None}


def _warnings(run: RunMaterial) -> Iterator[tuple[str, str]]:
    steps = steps_of(run)
    for name in steps.get("scores", {}).get("demonstration", []):
        said = (
            f"a demonstration. The ratings of {name} come from simple rules that do not judge, so do not train on them"
        )
        yield f"{run.title}: {said}.", "bad"
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
    made = {"speeches": "speeches", "replies": "replies"}
    rows = list[list[Cell]]()
    for run in runs:
        for step, figures in steps_of(run).items():
            record = run.extra["steps"][step]
            number = figures.get(made[step]) if step in made else _made(step, figures)
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
        counts = run.extra.get("counts") or {}
        for each in counts.get("speeches", []):
            about = [f"speeches of {each['source']}", each["language"] or "unknown", each["license"] or "unknown"]
            rows.append([run.title, *about, count(each["count"])])
        for each in counts.get("replies", []):
            writer = each["writer"] + (f" ({each['model']})" if each["model"] not in (None, each["writer"]) else "")
            rows.append([run.title, f"replies of {writer}", "", each["terms"] or "unknown", count(each["count"])])
    headings = ["dataset", "what", "language", "licence or terms", "rows"]
    notes = ["all licences of sources and all terms of writers apply together; if one is unknown, ask its authors"]
    return report_table("dataset-licences", "Licences and terms", headings, rows, *notes)
