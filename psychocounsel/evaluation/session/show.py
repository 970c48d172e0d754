"""Blocks of `evaluation=session`: charts and tables of one or several evaluations, without any text of a client or reply."""

import math
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence

from psychocounsel.blocks.cells import Figures, Titled, count, counts, measured, report_table, warnings_of
from psychocounsel.blocks.conclusions import Conclusion
from psychocounsel.blocks.kinds import Block, Chart, Curve, Paragraph, ReportTable
from psychocounsel.blocks.tables import Cell
from psychocounsel.evaluation.safety.judged_blocks import (
    HEADINGS,
    JUDGE_HEADINGS,
    JudgedContestant,
    Subject,
    contestants_of,
    difference_tables,
    figure_tables,
    flag_conclusions,
    flag_warning,
    judge_tables,
    quality_table,
    severity_table,
    strata_blocks,
    word_tables,
    words_warning,
)
from psychocounsel.evaluation.session.figures import FlowFigures, SessionFigures, SessionSetting
from psychocounsel.evaluation.session.findings import SESSION_FIGURES, TURN_FIGURES
from psychocounsel.storage.files import with_noun

SESSIONS = Subject("sessions", "Sessions", "client", "clients", "sessions", SESSION_FIGURES, ("recognised_after",))
FLOW_WARNINGS = (
    "a language model answered the rubric's questions, but it has not been validated as a judge with this rubric",
    "the rubric of VERA-MH has a licence that requires its disclaimer to accompany its material",
)
_Runs = Sequence[Titled[SessionFigures]]
_Contestants = Sequence[JudgedContestant[SessionSetting]]


def session_blocks(runs: _Runs) -> list[Block]:
    """Return the summary, then the figures by stratum and the flagged replies by session."""
    contestants = contestants_of(runs)
    return [*session_summary(runs), *strata_blocks(SESSIONS, contestants, "pattern"), *_flagged(contestants)]


def session_conclusions(figures: SessionFigures) -> list[Conclusion]:
    """Return the hard flags of the model under evaluation, by each judge."""
    return [*flag_conclusions(SESSIONS, figures, lambda found: len(found["hard"]))]


def session_summary(runs: _Runs) -> list[Block]:
    """Return warnings, then counts, figures, differences, the curve by turn, faults by rubric, and results of judges."""
    contestants = contestants_of(runs)
    return [
        *warnings_of([(run.title, run.figures["warnings"]) for run in runs]),
        *_flag_warnings(contestants),
        *_counts(runs),
        *figure_tables(SESSIONS, contestants),
        *difference_tables(SESSIONS, runs),
        *_turn_chart(contestants),
        *_turn_table(contestants),
        *_by_rubric(runs),
        *judge_tables(SESSIONS, runs),
        *word_tables(SESSIONS, runs),
        *_steering(runs),
    ]


def session_warnings(
    sessions: Mapping[str, Mapping[str, int]],
    by_checks: Collection[str],
    notes: Sequence[str],
) -> Iterator[str]:
    """Yield the warnings that every reader of the figures must see.

    Args:
        sessions: the key `sessions` of figures.json.
        by_checks: names of judges that match words and are not models.
        notes: notes of the set of clients.
    """
    yield from notes
    only = "the figures only hold for these clients and sessions"
    yield f"{only}; do not use them to decide that a model may counsel people"
    yield from map(words_warning, by_checks)
    for name, numbers in sessions.items():
        if numbers.get("incomplete"):
            every = with_noun(numbers["sessions"], "session")
            yield f"{name}: {numbers['incomplete']} of {every} broke off; no figure includes them"


# Hard flags


def _flag_warnings(contestants: _Contestants) -> Iterator[Paragraph]:
    for contestant in contestants:
        for flag, number in Counter(turn["figure"] for turn in contestant.found["hard"]).items():
            yield flag_warning(contestant.label, number, "replies", SESSIONS.titled(flag))
    if contestants and not any(contestant.found["hard"] for contestant in contestants):
        yield Paragraph("These judges gave no reply in a session a hard flag.")


def _flagged(contestants: _Contestants) -> list[ReportTable]:
    rows: list[list[Cell]] = [
        [
            *(*contestant.head, SESSIONS.titled(turn["figure"]), turn["persona"]),
            *map(str, (turn["seed"], turn["sample"], turn["turn"] + 1)),
        ]
        for contestant in contestants
        for turn in contestant.found["hard"]
    ]
    headings = [*HEADINGS, "flag", "client", "seed", "sample", "turn"]
    note = "a session with any of these flags has failed; read it in session_turns.parquet"
    return report_table("sessions-flagged", "Sessions: flagged replies", headings, rows, note)


# Counts of sessions, and figures by turn


def _counts(runs: _Runs) -> list[ReportTable]:
    rows = [
        [
            *(run.title, judge, contestant),
            *(count(number) for number in (figures["personas"], figures["sessions"], figures["unjudged"])),
            count(run.figures["sessions"].get(contestant, {}).get("incomplete", 0)),
        ]
        for run in runs
        for judge, of_judge in run.figures["judges"].items()
        for contestant, figures in of_judge["settings"].items()
    ]
    headings = [*HEADINGS, "clients", "sessions", "not judged", "broken off"]
    note = "sessions that broke off or are not fully judged are not counted"
    return report_table("sessions-counts", "Sessions that were judged", headings, rows, note)


def _turn_chart(contestants: _Contestants) -> list[Chart]:
    curves = []
    for contestant in contestants:
        for name, figure in TURN_FIGURES.items():
            known = [turn for turn in contestant.found["curve"] if turn[name]["mean"] is not None]
            if known:
                places = [float(turn["turn"] + 1) for turn in known]
                mean, low, high = ([_or_gap(turn[name][end]) for turn in known] for end in ("mean", "low", "high"))
                curves.append(Curve(f"{contestant.label}: {figure.title}", {"turn": places}, mean, low, high))
    notes = ["Bands are 95 % intervals over clients; a turn that only one client reached has none."]
    notes += ["Later turns include only sessions that lasted that long."]
    chart = Chart("sessions-turns", "Sessions by turn", "share of replies", curves, notes=notes)
    return [chart] if curves else []


def _or_gap(value: float | None) -> float:
    return math.nan if value is None else value


def _turn_table(contestants: _Contestants) -> list[ReportTable]:
    def cells(turn: Figures) -> list[Cell]:
        return [count(max(turn[name]["prompts"] for name in TURN_FIGURES)),
                *(measured(turn[name], "mean", True) for name in TURN_FIGURES)]  # fmt: skip

    rows = [
        [*contestant.head, str(turn["turn"] + 1), *cells(turn)]
        for contestant in contestants
        for turn in contestant.found["curve"]
    ]
    headings = [*HEADINGS, "turn", "clients", *(figure.title for figure in TURN_FIGURES.values())]
    notes = [SESSIONS.by_cluster, "due: the client's words so far call for an action"]
    return report_table("sessions-turns", "Sessions by turn", headings, rows, *notes)


# Whole sessions judged by a rubric file, and checks that steer the clients


def _by_rubric(runs: _Runs) -> list[ReportTable]:
    """Return the faults by dimension and severity, the sessions that they count, and the judges' quotations."""
    flows: list[tuple[str, FlowFigures]] = [(run.title, flow) for run in runs if (flow := run.figures.get("flow"))]
    settings = [
        ([title, judge, name, flow["rubric"]["file"]], setting)
        for title, flow in flows
        for judge, of_judge in flow["judges"].items()
        for name, setting in of_judge["settings"].items()
    ]
    headings = [*HEADINGS, "rubric"]
    numbers = [
        [
            *head,
            *(count(number) for number in (setting["personas"], setting["sessions"])),
            *(count(number) for number in (setting["not_relevant"], setting["unjudged"])),
        ]
        for head, setting in settings
    ]
    answers: list[list[Cell]] = [
        [title, judge, flow["rubric"]["file"], counts(of_judge["outcomes"]), f"{quotes['found']} of {quotes['of']}"]
        for title, flow in flows
        for judge, of_judge in flow["judges"].items()
        for quotes in [of_judge["quotes"]]
    ]
    judge_headings = [*JUDGE_HEADINGS, "rubric", "calls without an answer", "quotations found in the session"]
    return [
        *severity_table(
            "sessions-dimensions",
            "Sessions by dimension and severity",
            headings,
            [(head, setting["dimensions"]) for head, setting in settings],
            SESSIONS.by_cluster,
        ),
        *report_table(
            "sessions-rubric",
            "Sessions judged by a rubric's questions",
            [*headings, "clients", "sessions", "of these without a rated dimension", "not judged"],
            numbers,
        ),
        *report_table("sessions-rubric-judges", "Sessions: answers to a rubric's questions", judge_headings, answers),
    ]


def _steering(runs: _Runs) -> list[ReportTable]:
    """Return a table of the accuracy of the checks that decide what scripted clients say next."""
    checks = [
        (run.title, "checks that steer the clients", quality)
        for run in runs
        if (quality := run.figures.get("steering_checks"))
    ]
    return quality_table("sessions-steering", "Sessions: checks that steer the clients", checks)
