"""Sections on replies: their health compared with the base, and their texts side by side."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from psychocounsel.blocks.cells import (
    Figures,
    cell,
    count,
    counts,
    exact,
    measured,
    name_in,
    points,
    report_table,
    words_limit,
)
from psychocounsel.blocks.kinds import (
    Block,
    Chart,
    Paragraph,
    ReportTable,
    Section,
    ShownReply,
    ShownSpeech,
    SpeechBrowser,
)
from psychocounsel.blocks.tables import Cell, TableFigure
from psychocounsel.evaluation.health.reply import FIGURES
from psychocounsel.reporting.material import EVALUATION, Material, RunMaterial
from psychocounsel.reporting.sections.evaluated import evaluations, without_figures

# Section on health: completeness, variety, loops, refusals and invented turns

_SHARES = [name for name, figure in FIGURES.items() if figure.share]
_MEASURES = [name for name, figure in FIGURES.items() if not figure.share]
_HEADINGS = ["evaluation", "contestant", "length limit"]
_BY_SPEECH = "intervals are computed over speeches"


@dataclass(frozen=True)
class _Replied:
    """A contestant of an evaluation under one length limit, with its figures."""

    run: RunMaterial
    name: str
    limit: int | None
    figures: Figures

    @property
    def head(self) -> list[Cell]:
        return [self.run.title, self.name, words_limit(self.limit)]


def health_section(material: Material) -> Section:
    every = evaluations(material, "health")
    runs = [run for run in every if run.figures.get("variants")]
    found = [each for run in runs for each in _contestants(run)]
    blocks: list[Block] = [*without_figures(every, lambda run: bool(run.figures.get("variants")))]
    blocks += [
        Paragraph(f"{run.title}: {line.removeprefix('warning: ')}", "warning")
        for run in runs
        for line in run.figures["warnings"]
    ]
    blocks += [*_share_chart(found, runs), *_figure_table("health-shares", "Health of replies: shares", found, _SHARES)]
    blocks += _figure_table("health-measures", "Health of replies: measures", found, _MEASURES)
    for percent, title in ((True, "shares"), (False, "measures")):
        blocks += _differences(runs, percent, f"health-differences-{title}", f"Health against the base: {title}")
    return Section("health", "Health of replies", [*blocks, *_reply_counts(found), *_seeds(found)])


def _contestants(run: RunMaterial) -> Iterator[_Replied]:
    for variant in run.figures["variants"]:
        for name, figures in variant["settings"].items():
            yield _Replied(run, name, variant["length_limit"], figures)


def _share_chart(found: Sequence[_Replied], runs: Sequence[RunMaterial]) -> list[Chart]:
    curves = []
    for number, each in enumerate(found):
        title = name_in(each.run.title, each.name, len(runs) > 1, words_limit(each.limit))
        shares = {place: each.figures["figures"][name] for place, name in enumerate(_SHARES)}
        curves += points(title, shares, "figure", number, len(found), "mean")
    ticks = [FIGURES[name].title for name in _SHARES]
    notes = [
        "Bars are 95 % intervals over speeches.",
        "A question at the end and formatting are neither good nor bad.",
    ]
    chart = Chart("health", "Health of replies", "share of replies", curves, ticks=ticks, notes=notes)
    return [chart] if curves else []


def _figure_table(name: str, title: str, found: Sequence[_Replied], figures: Sequence[str]) -> list[ReportTable]:
    """Return a table with a row for each figure of each contestant, and the limit for a healthy model."""
    rows = list[list[Cell]]()
    for each in found:
        limits = {limit["name"]: limit for limit in each.figures["limits"]}
        for key in figures:
            told = each.figures["figures"][key]
            limit: Mapping[str, str | float] = limits.get(key, {})
            value = measured(told, "mean", FIGURES[key].share)
            most = exact(limit.get("limit"), True)  # type: ignore[arg-type]
            row = [FIGURES[key].title, count(told["prompts"]), count(told["replies"]), value, most]
            rows.append([*each.head, *row, str(limit["verdict"]) if limit else ""])
    headings = [*_HEADINGS, "figure", "speeches", "replies", "value", "limit", "verdict"]
    notes = [f"{_BY_SPEECH}; a reply for which a figure is undefined is omitted from that figure"]
    notes += (
        ["kept: the whole interval is within the limit; exceeded: the whole interval is above it"]
        if figures is _SHARES
        else []
    )
    return report_table(name, title, headings, rows, *notes)


def _differences(runs: Sequence[RunMaterial], percent: bool, name: str, title: str) -> list[ReportTable]:
    """Return a table of differences: the model under evaluation minus each other contestant."""
    rows = [
        [
            *(run.title, run.figures["model"], other, words_limit(variant["length_limit"]), FIGURES[key].title),
            *(count(found["prompts"]), cell(found["mine"], percent=percent), cell(found["base"], percent=percent)),
            *(measured(found, "difference", percent), found["verdict"]),
        ]
        for run in runs
        for variant in run.figures["variants"]
        for other, figures in variant["against"].items()
        for key, found in figures.items()
        if FIGURES[key].share == percent
    ]
    headings = ["evaluation", "model", "minus", "length limit", "figure", "speeches", "model's", "base's", "difference"]
    notes = [
        f"minus: the contestant subtracted; paired by speech; {_BY_SPEECH}, not corrected for the number of figures"
    ]
    notes += [
        "unclear: the interval of the difference includes 0",
        "intervals of both means are in the tables above",
    ]
    return report_table(name, title, [*headings, "verdict"], rows, *notes)


def _reply_counts(found: Sequence[_Replied]) -> list[ReportTable]:
    rows = [
        [*each.head, count(each.figures["prompts"]), count(each.figures["replies"]), counts(each.figures["outcomes"])]
        for each in found
    ]
    headings = [*_HEADINGS, "speeches", "replies", "outcomes of all calls"]
    return report_table("health-replies", "Replies whose health was measured", headings, rows)


def _seeds(found: Sequence[_Replied]) -> list[ReportTable]:
    rows = [
        [*each.head, FIGURES[key].title, TableFigure(told["mean"], told["sd"], n=told["n"]), count(told["n"])]
        for each in found
        for key, told in each.figures["seeds"].items()
    ]
    notes = ["mean and standard deviation of the means of each seed; shares between 0 and 1; without an interval"]
    headings = [*_HEADINGS, "figure", "over seeds", "seeds"]
    return report_table("health-seeds", "Health over training seeds", headings, rows, *notes)


# Section with speeches and replies side by side; no texts if these must not be shown

_MOST_SPEECHES = 60  # speeches per browser


def reply_section(material: Material) -> Section:
    name, title = "replies", "Replies side by side"
    if not material.shows_texts:
        return Section(name, title, [_silence(material)] if material.runs else [])
    shown = [run for run in material.runs if run.texts is not None and run.texts.speeches and not run.confidential]
    blocks: list[Block] = [
        Paragraph(f"{run.title}: its texts are confidential and are not shown.", "warning")
        for run in material.runs
        if run.confidential
    ]
    evaluated = [run for run in shown if run.kind == EVALUATION]
    if evaluated:
        blocks += _browser("replies-of-evaluations", evaluated)
    for number, run in enumerate((run for run in shown if run.kind != EVALUATION), 1):
        blocks += _browser(f"replies-of-run-{number}", [run])
    return Section(name, title, blocks)


def _silence(material: Material) -> Paragraph:
    """Return a paragraph that says why no text is shown."""
    secret = ", ".join(run.title for run in material.runs if run.confidential)
    if secret:
        return Paragraph(f"No text is shown: the data of {secret} are confidential.", "warning")
    return Paragraph("No text is shown: the report was made with --no-text.")


def _browser(name: str, runs: Sequence[RunMaterial]) -> Iterator[Block]:
    speeches = _merged(runs)
    for run in runs:
        assert run.texts is not None
        held = len(run.texts.speeches)
        yield Paragraph(f"{run.title}: {run.texts.source}, {held} of {run.texts.count} speeches.")
    if any("better " in score for speech in speeches for reply in speech.replies for score in reply.scores):
        yield Paragraph(
            "Scores `better ...` (0 to 1): how often judges preferred the reply to others; a tie counts half."
        )
    if len(speeches) > _MOST_SPEECHES:
        yield Paragraph(
            f"The page shows {_MOST_SPEECHES} of these {len(speeches)} speeches, starting with those that most runs reply to."
        )
    yield SpeechBrowser(name, speeches[:_MOST_SPEECHES])


def _merged(runs: Sequence[RunMaterial]) -> list[ShownSpeech]:
    """Return each speech once with the replies of all runs. A reply that several runs share (the base's) appears once, first."""
    first: dict[str, ShownSpeech] = {}
    replies: dict[str, list[tuple[RunMaterial, ShownReply]]] = {}
    for run in runs:
        for speech in run.texts.speeches if run.texts else ():
            first.setdefault(speech.speech, speech)
            replies.setdefault(speech.speech, []).extend((run, reply) for reply in speech.replies)
    found = []
    for text, speech in first.items():
        crisis = speech.crisis or any(_is_crisis(run, text) for run, _ in replies[text])
        found.append(ShownSpeech(text, _distinct(replies[text]), speech.topic, speech.risk, crisis))
    held = {text: len({run.path for run, _ in of}) for text, of in replies.items()}
    # The sort is stable, so speeches with equally many runs stay in the order of the runs.
    return sorted(found, key=lambda speech: -held[speech.speech])


def _is_crisis(run: RunMaterial, text: str) -> bool:
    """True if the run treats the speech as a crisis. One such run is enough to hide it."""
    return any(speech.crisis for speech in (run.texts.speeches if run.texts else ()) if speech.speech == text)


def _distinct(replies: Sequence[tuple[RunMaterial, ShownReply]]) -> list[ShownReply]:
    """Return replies without duplicates of author and text. If an author has different texts, names start with the run."""
    authors: dict[tuple[str, str], list[tuple[RunMaterial, ShownReply]]] = {}
    for run, reply in replies:
        authors.setdefault((reply.author, reply.text), []).append((run, reply))
    texts: dict[str, int] = {}
    for author, _ in authors:
        texts[author] = texts.get(author, 0) + 1
    several = len({run.path for run, _ in replies}) > 1
    found = []
    for (author, text), said in sorted(authors.items(), key=lambda each: -len(each[1])):
        name = f"{said[0][0].title}: {author}" if several and texts[author] > 1 else author
        found.append(ShownReply(name, text, _scores(said)))
    return found


def _scores(said: Sequence[tuple[RunMaterial, ShownReply]]) -> dict[str, float]:
    """Return all scores of a reply. If several runs judged it, each score names its run."""
    judged = [(run, reply) for run, reply in said if reply.scores]
    return {
        f"{run.title}: {name}" if len(judged) > 1 else name: score
        for run, reply in judged
        for name, score in reply.scores.items()
    }
