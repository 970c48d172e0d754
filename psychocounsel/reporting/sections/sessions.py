"""Section on sessions with simulated clients: whether counsellors recognise risk, and keep doing so over many turns."""

import math
from collections.abc import Sequence

from psychocounsel.blocks.cells import Figures, count, measured, report_table
from psychocounsel.blocks.kinds import Block, Chart, Curve, Paragraph, ReportTable, Section
from psychocounsel.blocks.tables import Cell
from psychocounsel.evaluation.session.findings import TURN_FIGURES
from psychocounsel.reporting.material import Material, RunMaterial
from psychocounsel.reporting.sections.judged_figures import (
    HEADINGS,
    SESSIONS,
    JudgedSetting,
    difference_tables,
    figure_tables,
    judge_tables,
    judged_evaluations,
    quality_table,
    settings_of,
    severity_table,
    strata_blocks,
)


def section(material: Material) -> Section:
    runs, blocks = judged_evaluations(material, "session")
    settings = settings_of(runs)
    blocks += [*_flags(settings), *_counts(settings), *figure_tables(SESSIONS, settings)]
    blocks += [*difference_tables(SESSIONS, runs), *_turn_chart(settings), *_turn_table(settings)]
    blocks += [
        *strata_blocks(SESSIONS, settings, "pattern"),
        *_flow(runs),
        *judge_tables(SESSIONS, runs),
        *_steering(runs),
    ]
    return Section("sessions", "Sessions with simulated clients", blocks)


def _flags(settings: Sequence[JudgedSetting]) -> list[Block]:
    """Return a table of the flagged replies by session, without texts."""
    rows: list[list[Cell]] = [
        [
            *each.head,
            SESSIONS.titled(one["figure"]),
            one["persona"],
            *map(str, (one["seed"], one["sample"], one["turn"] + 1)),
        ]
        for each in settings
        for one in each.found["hard"]
    ]
    if not rows:
        return [Paragraph("These judges gave no reply in a session a hard flag.")] if settings else []
    headings = [*HEADINGS, "flag", "client", "seed", "sample", "turn"]
    notes = ["a session with any of these flags has failed; read it in session_turns.parquet"]
    replies = "reply in sessions has" if len(rows) == 1 else "replies in sessions have"
    said = f"{len(rows)} {replies} a hard flag: read them first."
    title = "Sessions: flagged replies"
    return [Paragraph(said, "bad"), *report_table("sessions-flagged", title, headings, rows, *notes)]


def _counts(settings: Sequence[JudgedSetting]) -> list[ReportTable]:
    rows = [
        [
            *(*each.head, count(each.found["personas"]), count(each.found["sessions"]), count(each.found["unjudged"])),
            count(each.run.figures["sessions"].get(each.name, {}).get("incomplete", 0)),
        ]
        for each in settings
    ]
    headings = [*HEADINGS, "clients", "sessions", "not judged", "broken off"]
    notes = ["sessions that broke off or are not fully judged are not counted"]
    return report_table("sessions-counts", "Sessions that were judged", headings, rows, *notes)


def _turn_chart(settings: Sequence[JudgedSetting]) -> list[Chart]:
    curves = []
    for each in settings:
        for name, figure in TURN_FIGURES.items():
            told = [turn for turn in each.found["curve"] if turn[name]["mean"] is not None]
            if told:
                places = [float(turn["turn"] + 1) for turn in told]
                mean, low, high = ([_or_gap(turn[name][end]) for turn in told] for end in ("mean", "low", "high"))
                curves.append(Curve(f"{each.title(settings)}: {figure.title}", {"turn": places}, mean, low, high))
    notes = ["Bands are 95 % intervals over clients; a turn that only one client reached has none."]
    notes += ["Later turns include only sessions that lasted that long."]
    chart = Chart("sessions-turns", "Sessions by turn", "share of replies", curves, notes=notes)
    return [chart] if curves else []


def _or_gap(value: float | None) -> float:
    return math.nan if value is None else value


def _turn_table(settings: Sequence[JudgedSetting]) -> list[ReportTable]:
    def cells(turn: Figures) -> list[Cell]:
        return [count(max(turn[name]["prompts"] for name in TURN_FIGURES)),
                *(measured(turn[name], "mean", True) for name in TURN_FIGURES)]  # fmt: skip

    rows = [[*each.head, str(turn["turn"] + 1), *cells(turn)] for each in settings for turn in each.found["curve"]]
    headings = [*HEADINGS, "turn", "clients", *(figure.title for figure in TURN_FIGURES.values())]
    notes = [SESSIONS.by_cluster, "due: the client's words so far call for an action"]
    return report_table("sessions-turns", "Sessions by turn", headings, rows, *notes)


def _flow(runs: Sequence[RunMaterial]) -> list[Block]:
    """Return a table of faults of whole sessions by dimension and severity, as judged by a rubric file."""
    flows = [(run, flow) for run in runs if (flow := run.figures.get("flow"))]
    found: list[tuple[list[Cell], Figures]] = [
        ([run.title, judge, name, flow["rubric"]["file"]], setting["dimensions"])
        for run, flow in flows
        for judge, of_judge in flow["judges"].items()
        for name, setting in of_judge["settings"].items()
    ]
    if not found:
        return []
    said = "A language model answered a rubric's questions: this judge has not been validated with this rubric."
    title = "Sessions by dimension and severity"
    table = severity_table("sessions-dimensions", title, [*HEADINGS, "rubric"], found, SESSIONS.by_cluster)
    return [Paragraph(said, "warning"), *table]


def _steering(runs: Sequence[RunMaterial]) -> list[ReportTable]:
    """Return a table of the accuracy of the checks that decide what scripted clients say next."""
    found = [
        (run.title, "checks that steer the clients", quality)
        for run in runs
        if (quality := run.figures.get("steering_checks"))
    ]
    return quality_table("sessions-steering", "Sessions: checks that steer the clients", found)
