"""Warnings, figures of each contestant, and differences to the base, for single replies or sessions."""

from collections.abc import Sequence

from psychocounsel.reporting.blocks import Paragraph, ReportTable
from psychocounsel.reporting.material import RunMaterial
from psychocounsel.reporting.sections.evaluations.figure_cells import Figures, cell, count, measured, report_table
from psychocounsel.reporting.sections.evaluations.judged_parts.judged_settings import (
    HEADINGS,
    JudgedSetting,
    Subject,
    judges_of,
)
from psychocounsel.studies.tables.formats import Cell


def warnings_of(runs: Sequence[RunMaterial]) -> list[Paragraph]:
    """Return the evaluations' warnings. A warning that all evaluations share appears once."""
    told = dict.fromkeys(line.removeprefix("warning: ") for run in runs for line in run.figures["warnings"])
    found = []
    for line in told:
        whose = [run.title for run in runs if {line, f"warning: {line}"} & {*run.figures["warnings"]}]
        said = f"{line[:1].upper()}{line[1:]}" if len(whose) == len(runs) else f"{', '.join(whose)}: {line}"
        found.append(Paragraph(f"{said}.", "warning"))
    return found


def figure_tables(subject: Subject, settings: Sequence[JudgedSetting]) -> list[ReportTable]:
    """Return a table of shares with a row for each figure of each contestant, and a table of figures that are not shares."""

    def rows(names: Sequence[str], percent: bool) -> list[list[Cell]]:
        return [
            [*each.head, subject.titled(name), *_counts(told), measured(told, "mean", percent)]
            for each in settings
            for name, told in each.found["figures"].items()
            if name in names
        ]

    headings = [*HEADINGS, "figure", subject.clusters, subject.cases]
    notes = [f"{subject.by_cluster}; a figure counts only the {subject.clusters} that call for it"]
    better = [subject.titled(name) for name in subject.shares if subject.figures[name].better == "higher"]
    more = [f"{' and '.join(better)}: more is better"] if better else []
    title = f"{subject.title}: figures"
    shares = [*headings, f"share of {subject.cases}"]
    return [
        *report_table(subject.prefix, title, shares, rows(subject.shares, True), *notes, *more),
        *report_table(f"{subject.prefix}-counted", f"{title} that are not shares", [*headings, "mean"],
                      rows(subject.counted, False), *notes),
    ]  # fmt: skip


def _counts(told: Figures) -> list[Cell]:
    return [count(told["prompts"]), count(told["replies"])]


def difference_tables(subject: Subject, runs: Sequence[RunMaterial]) -> list[ReportTable]:
    """Return tables of the model under evaluation minus each other contestant, as the evaluation compared them."""
    found = list[ReportTable]()
    for names, percent, suffix in ((subject.shares, True, ""), (subject.counted, False, "-counted")):
        rows = [
            [
                *(run.title, judge, run.figures["model"], other, subject.titled(name), count(told["prompts"])),
                *(cell(told["mine"], percent=percent), cell(told["base"], percent=percent)),
                *(measured(told, "difference", percent), told["verdict"]),
            ]
            for run, judge, of_judge in judges_of(runs)
            for other, compared in of_judge["against"].items()
            for name, told in compared.items()
            if name in names and told["difference"] is not None
        ]
        headings = [
            "evaluation",
            "judge",
            "model",
            "minus",
            "figure",
            subject.clusters,
            "model's",
            "base's",
            "difference",
        ]
        cluster = subject.clusters[:-1] if subject.clusters != "speeches" else "speech"
        notes = [f"minus: the contestant subtracted; paired by {cluster}"]
        notes[0] += f"; {subject.by_cluster}, without correction for the number of figures"
        notes += ["unclear: the interval of the difference includes 0"]
        title = f"{subject.title} against the base" + (": figures that are not shares" if suffix else "")
        name = f"{subject.prefix}-differences{suffix}"
        found += report_table(name, title, [*headings, "verdict"], rows, *notes)
    return found
