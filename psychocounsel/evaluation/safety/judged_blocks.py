"""Blocks of judges' figures, shared by `evaluation=safety`, `evaluation=session` and evaluation=gate."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic

from psychocounsel.blocks.cells import (
    Titled,
    cell,
    count,
    counts,
    measured,
    name_in,
    percent_text,
    points,
    report_table,
)
from psychocounsel.blocks.conclusions import UNDECIDED, Conclusion
from psychocounsel.blocks.kinds import Block, Chart, Paragraph, ReportTable
from psychocounsel.blocks.tables import Cell
from psychocounsel.counsel.principles import EXPECTED
from psychocounsel.evaluation.flows.questions import SEVERITY_FIGURES
from psychocounsel.evaluation.health.figures import MeanFigure
from psychocounsel.evaluation.health.reply import HIGHER, Figure
from psychocounsel.evaluation.safety.figures import Judge, JudgedFigures, S
from psychocounsel.evaluation.safety.questions import SAFETY_FIGURES
from psychocounsel.evaluation.safety.seeded import JudgeQuality, PlantedShare
from psychocounsel.evaluation.safety.word_checks import WORDS
from psychocounsel.storage.files import with_noun

JUDGE_HEADINGS = ["evaluation", "judge"]
HEADINGS = [*JUDGE_HEADINGS, "contestant"]


@dataclass(frozen=True)
class Subject:
    """Subject of the judges' answers: single replies or whole sessions.

    Attributes:
        prefix: prefix of the names of tables and charts.
        title: prefix of their titles.
        cluster, clusters: unit over which intervals are computed (speech, client), and its plural.
        cases: units that shares count (replies, sessions), and the key of their number in a setting's figures.
        figures: figures by key, in the order of tables.
        counted: keys of the figures that are not shares but have a unit of their own.
    """

    prefix: str
    title: str
    cluster: str
    clusters: str
    cases: str
    figures: Mapping[str, Figure]
    counted: tuple[str, ...] = ()

    @property
    def shares(self) -> list[str]:
        return [name for name in self.figures if name not in self.counted]

    @property
    def by_cluster(self) -> str:
        return f"intervals are computed over {self.clusters}"

    def titled(self, figure: str) -> str:
        """Return a figure's title, or its key if this version has no title for it."""
        return self.figures[figure].title if figure in self.figures else figure.replace("_", " ")


@dataclass(frozen=True)
class JudgedContestant(Generic[S]):
    """Figures of contestant `name` by `judge` in the evaluation `title`; `label` is its name in charts and warnings."""

    title: str
    judge: str
    name: str
    label: str
    found: S

    @property
    def head(self) -> list[Cell]:
        return [self.title, self.judge, self.name]


def judges_of(runs: Sequence[Titled[JudgedFigures[S]]]) -> Iterator[tuple[Titled[JudgedFigures[S]], str, Judge[S]]]:
    """Yield each judge of each evaluation with its figures."""
    for run in runs:
        for name, judge in run.figures["judges"].items():
            yield run, name, judge


def contestants_of(runs: Sequence[Titled[JudgedFigures[S]]]) -> list[JudgedContestant[S]]:
    """Return each contestant's figures by each judge, the model under evaluation first.

    A label has the judge and the title of the evaluation only if there are several.
    """
    several = len({name for _, name, _ in judges_of(runs)}) > 1
    return [
        JudgedContestant(
            run.title,
            name,
            contestant,
            name_in(run.title, contestant, len(runs) > 1, f"by {name}" if several else None),
            figures,
        )
        for run, name, judge in judges_of(runs)
        for contestant, figures in judge["settings"].items()
    ]


# Flagged replies, figures of each contestant, and differences to the base


def flag_warning(label: str, number: int, what: str, flag: str) -> Paragraph:
    """Return the warning that `number` replies of a contestant have a hard flag."""
    return Paragraph(f"{label}: {number} {what} flagged: {flag}; read them first", "bad")


_TOLD = 4  # figures of a conclusion: the first ones of a subject are the most important


def flag_conclusions(
    subject: Subject, evaluated: JudgedFigures[S], flags_in: Callable[[S], int]
) -> Iterator[Conclusion]:
    """Yield how many hard flags the model under evaluation has by each judge, and its main figures; or that no model judged."""
    model, cautions = evaluated["model"], [line.removeprefix("warning: ") for line in evaluated["warnings"]]
    if not evaluated["judges"]:
        text = f"No judge has read the replies of {model}: {UNDECIDED}."
        yield Conclusion(UNDECIDED, text, "undecided", cautions, ["a language model: judge=local_vllm judge.model=M"])
    for judge, of_judge in evaluated["judges"].items():
        if (found := of_judge["settings"].get(model)) is None:
            continue
        flagged, counts_of, figures = flags_in(found), {**found}, found["figures"]
        word, tone = ("flagged", "bad") if flagged else (UNDECIDED, "undecided")
        flags = with_noun(flagged, "hard flag") if flagged else "no hard flag"
        rest = "Read what is flagged first." if flagged else f"This proves no safety: {UNDECIDED}."
        known = [name for name in subject.shares[:_TOLD] if name in figures and figures[name]["mean"] is not None]
        shares = "; ".join(f"{subject.titled(name)} {percent_text(figures[name], 'mean')}" for name in known)
        told = f" In per cent of the {subject.clusters} that call for it: {shares}." if shares else ""
        text = f"{model} has {flags} in {counts_of[subject.cases]} {subject.cases}, by the judge {judge}. {rest}{told}"
        missing = [f"Safety of {model}: evaluation=gate, with people who check its cases"]
        yield Conclusion(word, text, tone, cautions, missing)


def words_warning(checks: str) -> str:
    return (
        f"{checks} matches words and judges nothing; name a language model, for instance judge=local_vllm judge.model=M"
    )


def word_tables(subject: Subject, runs: Sequence[Titled[JudgedFigures[S]]]) -> list[ReportTable]:
    """Return a table of the shares of replies with the words that `judge=checks` looks for."""
    rows = [
        [run.title, contestant, title, count(shares[name]["prompts"]), measured(shares[name], "mean", True)]
        for run in runs
        for settings in run.figures.get("words", {}).values()
        for contestant, shares in settings.items()
        for name, (_, title) in WORDS.items()
    ]
    headings = ["evaluation", "contestant", "words", subject.clusters, "share of replies"]
    note = "words are no judgement: negations, quotations and other meanings count, too"
    return report_table(f"{subject.prefix}-words", f"{subject.title}: words in replies", headings, rows, note)


def figure_tables(subject: Subject, contestants: Sequence[JudgedContestant[S]]) -> list[ReportTable]:
    """Return a table of shares with a row for each figure of each contestant, and a table of figures that are not shares."""

    def rows(names: Sequence[str], percent: bool) -> list[list[Cell]]:
        return [
            [
                *(*contestant.head, subject.titled(name), count(mean["prompts"]), count(mean["replies"])),
                measured(mean, "mean", percent),
            ]
            for contestant in contestants
            for name, mean in contestant.found["figures"].items()
            if name in names
        ]

    headings = [*HEADINGS, "figure", subject.clusters, subject.cases]
    notes = [f"{subject.by_cluster}; a figure counts only the {subject.clusters} that call for it"]
    better = [subject.titled(name) for name in subject.shares if subject.figures[name].better == HIGHER]
    direction = [f"{' and '.join(better)}: more is better"] if better else []
    title = f"{subject.title}: figures"
    shares = [*headings, f"share of {subject.cases}"]
    return [
        *report_table(subject.prefix, title, shares, rows(subject.shares, True), *notes, *direction),
        *report_table(f"{subject.prefix}-counted", f"{title} that are not shares", [*headings, "mean"],
                      rows(subject.counted, False), *notes),
    ]  # fmt: skip


def difference_tables(subject: Subject, runs: Sequence[Titled[JudgedFigures[S]]]) -> list[ReportTable]:
    """Return tables of the model under evaluation minus each other contestant, as the evaluation compared them."""
    tables = list[ReportTable]()
    for names, percent, suffix in ((subject.shares, True, ""), (subject.counted, False, "-counted")):
        rows = [
            [
                *(run.title, name, run.figures["model"], other, subject.titled(figure), count(difference["prompts"])),
                *(cell(difference["mine"], percent=percent), cell(difference["base"], percent=percent)),
                *(measured(difference, "difference", percent), difference["verdict"]),
            ]
            for run, name, judge in judges_of(runs)
            for other, compared in judge["against"].items()
            for figure, difference in compared.items()
            if figure in names and difference["difference"] is not None
        ]
        headings = [*JUDGE_HEADINGS, "model", "minus", "figure", subject.clusters, "model's", "base's", "difference"]
        notes = [
            f"minus: the contestant subtracted; paired by {subject.cluster}; {subject.by_cluster}, "
            "without correction for the number of figures",
            "unclear: the interval of the difference includes 0",
        ]
        title = f"{subject.title} against the base" + (": figures that are not shares" if suffix else "")
        tables += report_table(f"{subject.prefix}-differences{suffix}", title, [*headings, "verdict"], rows, *notes)
    return tables


# Figures by stratum: kind of risk, disclosure, expected action, pattern

_FAILURES = ("missed", "over_escalation")
_TITLES = {"kind": "kind of risk", "disclosure": "disclosure", "expected_action": "expected action"}


def strata_blocks(subject: Subject, contestants: Sequence[JudgedContestant[S]], charted: str) -> list[Block]:
    """Return the chart over the strata of `charted`, then a table for each way of dividing the cases."""
    divisions = dict.fromkeys(name for contestant in contestants for name in contestant.found["strata"])
    blocks: list[Block] = [*_strata_chart(subject, contestants, charted)]
    notes = [f"{subject.by_cluster}; they are wide, because a stratum has few {subject.clusters}"]
    notes += [f"a figure counts only the {subject.clusters} that call for it; the column {subject.clusters} counts all"]
    for division in divisions:
        title = _titled(division)
        rows = [
            [*contestant.head, stratum, *_strata_cells(subject, figures)]
            for contestant in contestants
            for stratum, figures in _in_order(contestant.found["strata"].get(division, {}))
        ]
        headings = [*HEADINGS, title, subject.clusters, *map(subject.titled, subject.shares)]
        name = f"{subject.prefix}-by-{division.replace('_', '-')}"
        blocks += report_table(name, f"{subject.title} by {title}", headings, rows, *notes)
    return blocks


def _titled(division: str) -> str:
    return _TITLES.get(division, division.replace("_", " "))


def _in_order(strata: Mapping[str, Mapping[str, MeanFigure]]) -> list[tuple[str, Mapping[str, MeanFigure]]]:
    """Return expected actions in their order; other strata keep the file's order."""
    return sorted(strata.items(), key=lambda item: EXPECTED.index(item[0]) if item[0] in EXPECTED else -1)


def _strata_cells(subject: Subject, figures: Mapping[str, MeanFigure]) -> list[Cell]:
    clusters = max(mean["prompts"] for mean in figures.values())
    return [count(clusters), *(measured(figures.get(name), "mean", True) for name in subject.shares)]


def _strata_chart(subject: Subject, contestants: Sequence[JudgedContestant[S]], division: str) -> list[Chart]:
    strata = list(
        dict.fromkeys(stratum for contestant in contestants for stratum in contestant.found["strata"].get(division, {}))
    )
    pairs = [(contestant, figure) for contestant in contestants for figure in _FAILURES]
    curves = []
    for number, (contestant, figure) in enumerate(pairs):
        figures = contestant.found["strata"].get(division, {})
        shares = {place: figures[stratum][figure] for place, stratum in enumerate(strata) if stratum in figures}
        title = f"{contestant.label}: {subject.titled(figure)}"
        curves += points(title, shares, _titled(division), number, len(pairs), "mean")
    missed, over = map(subject.titled, _FAILURES)
    notes = [
        f"Bars are 95 % intervals over {subject.clusters}. A stratum of one has no interval and is only in the table.",
        f"Each figure counts only the {subject.clusters} that call for it.",
    ]
    title = f"{subject.title}: {missed} and {over} by {_titled(division)}"
    name = f"{subject.prefix}-failures-by-{division.replace('_', '-')}"
    return [Chart(name, title, f"share of {subject.cases}", curves, ticks=strata, notes=notes)] if curves else []


# Reliability of judges: results on planted faults, outcomes of their calls, and checks of their quotations


def judge_tables(subject: Subject, runs: Sequence[Titled[JudgedFigures[S]]]) -> list[ReportTable]:
    """Return tables of sensitivity and specificity on planted faults, and of the outcomes of all calls."""
    judges = [(run.title, name, judge["quality"]) for run, name, judge in judges_of(runs)]
    return [*quality_table(subject.prefix, subject.title, judges), *_calls(subject, runs)]


def quality_table(
    prefix: str, title: str, judges: Iterable[tuple[str, str, Mapping[str, JudgeQuality]]]
) -> list[ReportTable]:
    """Return a table with a row for each figure of each judge.

    `judges` yields evaluation, judge, and the result of `judge_quality` for this judge.
    """
    rows = [
        [
            evaluation,
            judge,
            SAFETY_FIGURES[figure].title,
            *_share(shares["sensitivity"]),
            *_share(shares["specificity"]),
        ]
        for evaluation, judge, quality in judges
        for figure, shares in quality.items()
    ]
    headings = [*JUDGE_HEADINGS, "figure", "faults found", "sensitivity", "sound replies passed", "specificity"]
    notes = ["single replies with planted faults, with exact intervals (Clopper and Pearson)"]
    notes += ["these replies are easier to judge than a model's, so the true rates are lower"]
    return report_table(f"{prefix}-judge-quality", f"{title}: judges on planted faults", headings, rows, *notes)


def _share(share: PlantedShare) -> list[Cell]:
    if not share["of"]:
        return ["none answered", None]
    return [f"{share['right']} of {share['of']}", measured(share, percent=True)]


def _calls(subject: Subject, runs: Sequence[Titled[JudgedFigures[S]]]) -> list[ReportTable]:
    rows = list[list[Cell]]()
    for run, name, judge in judges_of(runs):
        record = run.steps.get("answers", {}).get("figures", {})
        answered = record.get("outcomes", {}).get(name, judge["outcomes"])
        quotes = judge["quotes"]
        rows.append([run.title, name, counts(answered), f"{quotes['found']} of {quotes['of']}"])
    headings = [*JUDGE_HEADINGS, "outcomes of all calls", "quotations found in the reply"]
    notes = ["answers about replies with planted faults are included"]
    return report_table(f"{subject.prefix}-judges", f"{subject.title}: answers of the judges", headings, rows, *notes)


def severity_table(
    name: str,
    title: str,
    headings: Sequence[str],
    settings: Iterable[tuple[Sequence[Cell], Mapping[str, Mapping[str, MeanFigure]]]],
    *notes: str,
) -> list[ReportTable]:
    """Return the table of faults by dimension and severity, with a row for each dimension.

    `settings` pairs the first cells of rows with the result of `severity_shares`; `headings` are the headings of these cells.
    """
    rows = [
        [
            *(*head, dimension, count(max(mean["prompts"] for mean in figures.values()))),
            *(measured(figures[severity], "mean", True) for severity in SEVERITY_FIGURES),
        ]
        for head, dimensions in settings
        for dimension, figures in dimensions.items()
    ]
    titles = [figure.title for figure in SEVERITY_FIGURES.values()]
    asked = "faults: shares of the cases that the dimension was asked about; not asked: share of all cases"
    return report_table(name, title, [*headings, "dimension", "cases", *titles], rows, asked, *notes)
