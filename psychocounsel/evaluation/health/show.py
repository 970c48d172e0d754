"""Blocks of `evaluation=health`: chart and tables of one or several evaluations, without any text of a reply."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from psychocounsel.blocks.cells import (
    Titled,
    cell,
    count,
    counts,
    exact,
    limit_note,
    measured,
    name_in,
    percent_text,
    points,
    report_table,
    warnings_of,
    words_limit,
)
from psychocounsel.blocks.conclusions import Conclusion
from psychocounsel.blocks.kinds import Block, Chart, Paragraph, ReportTable
from psychocounsel.blocks.tables import Cell, TableFigure
from psychocounsel.evaluation.health.figures import (
    BETTER,
    EXCEEDED,
    UNDECIDED,
    WORSE,
    ContestantHealth,
    HealthFigures,
    HealthVariant,
)
from psychocounsel.evaluation.health.reply import FIGURES
from psychocounsel.metrics.intervals import constant_interval
from psychocounsel.metrics.win_rates import BY_CLIENT, FEW_CLIENTS, SMALL

_SHARES = [name for name, figure in FIGURES.items() if figure.share]
_MEASURES = [name for name, figure in FIGURES.items() if not figure.share]
_HEADINGS = ["evaluation", "contestant", "length limit"]
_VERDICTS = (
    "kept: the whole interval is within the limit; exceeded: all of it is above; undecided: too few speeches to tell"
)


@dataclass(frozen=True)
class _Contestant:
    """Contestant of the evaluation `title` under one length limit; `label` is its name in charts and warnings."""

    title: str
    name: str
    limit: int | None
    label: str
    health: ContestantHealth

    @property
    def head(self) -> list[Cell]:
        return [self.title, self.name, words_limit(self.limit)]


def health_blocks(runs: Sequence[Titled[HealthFigures]]) -> list[Block]:
    """Return warnings, the chart of shares, and tables of figures, differences, counts and seeds."""
    contestants = [*_contestants(runs)]
    return [
        *warnings_of([(run.title, run.figures["warnings"]) for run in runs]),
        *_few_clients(contestants),
        *_share_chart(contestants),
        *_figure_table("health-shares", "Health of replies: shares", contestants, _SHARES, _VERDICTS),
        *_figure_table("health-measures", "Health of replies: measures", contestants, _MEASURES),
        *_differences("health-differences-shares", "Health against the base: shares", runs, _SHARES),
        *_differences("health-differences-measures", "Health against the base: measures", runs, _MEASURES),
        *_reply_counts(contestants),
        *_seeds(contestants),
    ]


def health_conclusions(figures: HealthFigures) -> list[Conclusion]:
    """Return, for each length limit, whether the model under evaluation keeps the limits, and how it differs from others."""
    return [_conclusion(figures["model"], variant) for variant in figures["variants"]]


def _conclusion(model: str, variant: HealthVariant) -> Conclusion:
    health = variant["settings"][model]
    known = [check for check in health["limits"] if check["mean"] is not None]
    exceeded, undecided = ([check for check in known if check["verdict"] == name] for name in (EXCEEDED, UNDECIDED))
    unknown, total = [check for check in health["limits"] if check["mean"] is None], len(known)
    word = "beyond" if exceeded else UNDECIDED if undecided or not known else "within"
    who = name_in("", f"Health of {model}", False, words_limit(variant["length_limit"]))
    kept = {"beyond": f"{len(exceeded)} of {total} limits exceeded", "within": f"within all {total} limits"}
    parts = [kept.get(word, f"{UNDECIDED} for {len(undecided)} of {total} limits, none exceeded")]
    parts += [f"{UNDECIDED} for {len(undecided)}"] if exceeded and undecided else []
    parts += [f"unknown: {' and '.join(FIGURES[check['name']].title for check in unknown)}"] if unknown else []
    text = f"{who}: {', '.join(parts)} (n = {health['prompts']} speeches)."
    if exceeded:
        worst = [f"{FIGURES[check['name']].title} {percent_text(check, 'mean')}" for check in exceeded]
        text += f" Exceeded: {'; '.join(worst)}."
    for other, differences in variant["against"].items():
        by = {word: [FIGURES[name].title for name, row in differences.items() if row["verdict"] == word]
              for word in (WORSE, BETTER)}  # fmt: skip
        said = [f"{word} in {', '.join(names)}" for word, names in by.items() if names]
        text += f" Against {other}: {'; '.join(said) or 'no difference shown'}."
    limits = [check["limit"] for check in undecided]
    missing = [f"Health of {model}: more speeches. {_enough(min(limits))}"] if limits else []
    tones = {"beyond": "bad", UNDECIDED: "undecided", "within": "good"}
    few = [FEW_CLIENTS] if _is_small(health) else []
    return Conclusion(word, text, tones[word], few, missing)


def _enough(limit: float) -> str:
    """Return how many speeches without any fault would keep a limit."""
    count = next(number for number in range(1, 10_000) if constant_interval(0.0, number)[1] <= limit)
    return f"The limit of {100 * limit:g} % is kept by {count} without a fault, or by more with some."


def limit_warnings(variants: Sequence[HealthVariant]) -> Iterator[str]:
    """Yield a warning for each limit that the replies of a contestant exceed."""
    for variant in variants:
        where = limit_note(variant["length_limit"])
        for name, health in variant["settings"].items():
            for check in health["limits"]:
                if check["verdict"] == EXCEEDED:
                    share = percent_text(check, "mean")
                    title = FIGURES[check["name"]].title
                    yield f"{name}{where}: {title}: {share}, above the limit of {100 * check['limit']:g} %"


def _contestants(runs: Sequence[Titled[HealthFigures]]) -> Iterator[_Contestant]:
    for run in runs:
        for variant in run.figures["variants"]:
            limit = variant["length_limit"]
            for name, health in variant["settings"].items():
                label = name_in(run.title, name, len(runs) > 1, words_limit(limit))
                yield _Contestant(run.title, name, limit, label, health)


def _few_clients(contestants: Sequence[_Contestant]) -> Iterator[Paragraph]:
    labels = [contestant.label for contestant in contestants if _is_small(contestant.health)]
    if labels:
        yield Paragraph(f"{', '.join(labels)}: {FEW_CLIENTS}", "warning")


def _is_small(health: ContestantHealth) -> bool:
    return max(figure.get("clients", figure["prompts"]) for figure in health["figures"].values()) < SMALL


def _share_chart(contestants: Sequence[_Contestant]) -> list[Chart]:
    curves = []
    for number, contestant in enumerate(contestants):
        shares = {place: contestant.health["figures"][name] for place, name in enumerate(_SHARES)}
        curves += points(contestant.label, shares, "figure", number, len(contestants), "mean")
    ticks = [FIGURES[name].title for name in _SHARES]
    notes = [
        "Bars are 95 % intervals over clients.",
        "A question at the end and formatting are neither good nor bad.",
    ]
    chart = Chart("health", "Health of replies", "share of replies", curves, ticks=ticks, notes=notes)
    return [chart] if curves else []


def _figure_table(
    name: str, title: str, contestants: Sequence[_Contestant], figures: Sequence[str], *notes: str
) -> list[ReportTable]:
    """Return a table with a row for each figure of each contestant, and the limit for a healthy model."""
    rows = list[list[Cell]]()
    for contestant in contestants:
        checks = {check["name"]: check for check in contestant.health["limits"]}
        for figure in figures:
            mean, check = contestant.health["figures"][figure], checks.get(figure)
            value = measured(mean, "mean", FIGURES[figure].share)
            limit = [exact(check["limit"], percent=True), check["verdict"]] if check else [None, ""]
            row = [FIGURES[figure].title, count(mean["prompts"]), count(mean["replies"]), value, *limit]
            rows.append([*contestant.head, *row])
    headings = [*_HEADINGS, "figure", "speeches", "replies", "value", "limit", "verdict"]
    undefined = f"{BY_CLIENT}; a reply for which a figure is undefined is omitted from that figure"
    return report_table(name, title, headings, rows, undefined, *notes)


def _differences(
    name: str, title: str, runs: Sequence[Titled[HealthFigures]], figures: Sequence[str]
) -> list[ReportTable]:
    """Return a table of differences: the model under evaluation minus each other contestant."""
    rows = list[list[Cell]]()
    for run in runs:
        for variant in run.figures["variants"]:
            for other, differences in variant["against"].items():
                for figure in figures:
                    difference, percent = differences[figure], FIGURES[figure].share
                    sides = [cell(difference["mine"], percent=percent), cell(difference["base"], percent=percent)]
                    change = measured(difference, "difference", percent)
                    head = [run.title, run.figures["model"], other, words_limit(variant["length_limit"])]
                    row = [FIGURES[figure].title, count(difference["prompts"]), *sides, change, difference["verdict"]]
                    rows.append([*head, *row])
    headings = ["evaluation", "model", "minus", "length limit", "figure", "speeches", "model's", "base's", "difference"]
    notes = [
        f"minus: the contestant subtracted; paired by speech; {BY_CLIENT}, not corrected for the number of figures",
        "unclear: the interval of the difference includes 0",
        "intervals of both means are in the tables above",
    ]
    return report_table(name, title, [*headings, "verdict"], rows, *notes)


def _reply_counts(contestants: Sequence[_Contestant]) -> list[ReportTable]:
    rows = [
        [*contestant.head, count(health["prompts"]), count(health["replies"]), counts(health["outcomes"])]
        for contestant in contestants
        for health in [contestant.health]
    ]
    headings = [*_HEADINGS, "speeches", "replies", "outcomes of all calls"]
    return report_table("health-replies", "Replies whose health was measured", headings, rows)


def _seeds(contestants: Sequence[_Contestant]) -> list[ReportTable]:
    rows = [
        [
            *contestant.head,
            FIGURES[figure].title,
            TableFigure(seeds["mean"], seeds["sd"], n=seeds["n"]),
            count(seeds["n"]),
        ]
        for contestant in contestants
        for figure, seeds in contestant.health["seeds"].items()
    ]
    note = "mean and standard deviation of the means of each seed; shares between 0 and 1; without an interval"
    headings = [*_HEADINGS, "figure", "over seeds", "seeds"]
    return report_table("health-seeds", "Health over training seeds", headings, rows, note)
