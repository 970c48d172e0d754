"""Blocks of `evaluation=winrate`: how often judges prefer the model's replies, as written and corrected for length."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from psychocounsel.asking.language_model import TEXT
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
from psychocounsel.blocks.conclusions import UNDECIDED, Conclusion, against_half, bar_of
from psychocounsel.blocks.kinds import Block, Chart, Paragraph, ReportTable
from psychocounsel.blocks.tables import Cell, TableFigure
from psychocounsel.counsel.principles import PRINCIPLES
from psychocounsel.evaluation.judging.controls import BEST, control_table, fooled_line
from psychocounsel.evaluation.judging.pairs import EQUAL
from psychocounsel.evaluation.winrate.figures import (
    AgreementResult,
    OpponentResult,
    PairResult,
    WinrateFigures,
    WinrateVariant,
    over_seeds,
)
from psychocounsel.metrics.win_rates import BY_CLIENT, FEW_CLIENTS, SMALL
from psychocounsel.storage.files import with_noun

Runs = Sequence[Titled[WinrateFigures]]
_HEADINGS = ["evaluation", "model", "against", "length limit"]


@dataclass(frozen=True)
class _Contest:
    """The model of the evaluation `title` against an opponent under one length limit; `label` is its name in charts."""

    title: str
    model: str
    opponent: str
    limit: int | None
    label: str
    figures: OpponentResult
    doubt: str = ""  # why this win rate shows no winner

    @property
    def head(self) -> list[Cell]:
        return [self.title, self.model, self.opponent, words_limit(self.limit)]


def winrate_blocks(runs: Runs) -> list[Block]:
    """Return warnings, charts, and tables of win rates, judges, strengths and replies."""
    contests = [*_contests(runs)]
    return [
        *warnings_of([(run.title, [*run.figures["warnings"], *_cautions(run.figures)]) for run in runs]),
        *_left_out(runs),
        *_headline(contests),
        *_readers(contests),
        *_overview_chart(contests),
        *_principle_chart(contests),
        *_by_principle(contests),
        *_by_slice(contests),
        *_corrected(contests),
        *_shares(contests),
        *_seeds(contests),
        *_anchors(runs),
        *_control_tables(runs),
        *_biases(runs),
        *_agreements(runs),
        *_rankings(runs),
        *_reply_counts(runs),
    ]


def winrate_conclusions(figures: WinrateFigures) -> list[Conclusion]:
    """Return who wins, for each opponent and length limit, with who judged and why that may be wrong."""
    cautions = [line.removeprefix("warning: ") for line in figures["warnings"]]
    verdicts = figures["verdicts"]
    if verdicts and not any(outcomes.get(TEXT) or outcomes.get(EQUAL) for outcomes in verdicts.values()):
        text = f"No pair of replies has a verdict: {' and '.join(verdicts)} gave none."
        return [Conclusion(UNDECIDED, text, "undecided", cautions, ["Verdicts of a judge"])]
    return [
        _conclusion(contest, figures, cautions, bool(figures.get("roles")))
        for contest in _contests([Titled("", figures)])
        if contest.figures["overall"]["prompts"]
    ]


def _conclusion(contest: _Contest, figures: WinrateFigures, cautions: Sequence[str], trained: bool) -> Conclusion:
    overall = contest.figures["overall"]
    rate, prompts = over_seeds(contest.figures), overall["prompts"]
    side = against_half(rate["low"], rate["high"])
    word = {1: "wins", -1: "loses", None: UNDECIDED}[side]
    doubted = bool(contest.doubt) or (side == 1 and (trained or _beats_the_best(figures, contest.model)))
    where = "" if contest.limit is None else f" with replies of at most {contest.limit} words"
    if side is None:
        told, reserve = "against", f"{UNDECIDED}, "
    elif doubted:
        told, reserve = "against", "in doubt, "
    else:
        told, reserve = "wins against" if side == 1 else "loses to", ""
    text = f"{contest.model} {told} {contest.opponent}{where}: {reserve}it wins in {percent_text(rate, 'value')}"
    names = [*figures["verdicts"]]
    text += f" of {prompts} speeches. {'Judge' if len(names) == 1 else 'Judges'}: {', '.join(names)}."
    if readers := contest.figures["experts"].get("readers"):
        by_readers = percent_text({**readers["result"]["win_rate"]}, "value")
        text += f" By blind readers ({', '.join(readers['readers'])}): {by_readers} of {readers['result']['prompts']} speeches."
    few = [FEW_CLIENTS] if overall["small"] else []
    missing = [f"{contest.model} against {contest.opponent}: more speeches, or more samples"] if side is None else []
    missing += (
        [] if contest.figures["experts"]["together"] else ["Experts who compare these replies (psychocounsel review)"]
    )
    missing += ["A judge that had no part in the training"] if trained else []
    missing += ["A judge that prefers no nonsense to good replies"] if contest.doubt else []
    tone = "warning" if doubted else {1: "good", -1: "bad", None: "undecided"}[side]
    bars = bar_of(f"{contest.label}: wins", {**rate})
    return Conclusion(f"{word}, in doubt" if doubted else word, text, tone, [*few, *cautions], missing, bars)


def _beats_the_best(figures: WinrateFigures, model: str) -> bool:
    """Return True if the judges prefer the model to the best reply of the data, at any length."""
    anchors = [variant["anchors"][model] for variant in figures["variants"] if model in variant.get("anchors", ())]
    shares = [known[BEST].get("plain") for known in anchors if BEST in known]
    return any(share is not None and share["value"] > 0.5 for share in shares)


def _contests(runs: Runs) -> Iterator[_Contest]:
    for run in runs:
        model = run.figures["model"]
        for variant in run.figures["variants"]:
            limit = variant["length_limit"]
            for name, figures in variant["opponents"].items():
                label = name_in(run.title, f"{model} against {name}", len(runs) > 1, words_limit(limit))
                yield _Contest(run.title, model, name, limit, label, figures, _doubt(run.figures))


def _doubt(figures: WinrateFigures) -> str:
    """Return which controls the judges prefer, for the note beside a win rate; "" if there are none."""
    controls = figures.get("controls")
    if controls is None:  # figures of an earlier version
        return ""
    lines = [fooled_line(judge, shares, controls["limit"]) for judge, shares in controls["judges"].items()]
    return "; ".join(filter(None, lines))


def _variants(runs: Runs) -> Iterator[tuple[Titled[WinrateFigures], WinrateVariant, list[Cell]]]:
    """Yield each run with each of its variants, and the first cells of their rows."""
    for run in runs:
        for variant in run.figures["variants"]:
            yield run, variant, [run.title, words_limit(variant["length_limit"])]


# Warnings that follow from the figures


def _cautions(figures: WinrateFigures) -> Iterator[str]:
    for variant in figures["variants"]:
        where = limit_note(variant["length_limit"])
        if not variant["opponents"]:
            yield f"no verdicts, so win rates are unknown{where}"
        ranking = variant["ranking"]
        if ranking and len(ranking["groups"]) > 1:
            groups = " | ".join(", ".join(group) for group in ranking["groups"])
            yield f"no chain of comparisons links these groups: {groups}{where}"
        elif ranking and not ranking["bounded"]:
            yield (
                "some models won, or lost, every comparison with others: their order on the one scale is valid, the distances "
                f"are not{where}"
            )
    if not any(variant["experts"] for variant in figures["variants"]):
        yield "no expert has compared these replies, so the judges' agreement with people is unknown"


def _left_out(runs: Runs) -> Iterator[Paragraph]:
    for run in runs:
        if number := run.figures["left_out"]:
            sentence = f"skipped as near-duplicates of training data: {with_noun(number, 'speech', 'speeches')}."
            yield Paragraph(name_in(run.title, sentence, len(runs) > 1))


# Win rates and their charts


def _headline(contests: Sequence[_Contest]) -> list[ReportTable]:
    headings = [*_HEADINGS, "win rate", "at equal length", "by the judges alone", "speeches", "pairs", "p", "Holm p"]
    headings += ["judges and experts agree", "pairs judged by experts", "note"]
    rows = [
        [
            *contest.head,
            measured(contest.figures["overall"]["win_rate"], percent=True),
            measured(contest.figures["length_controlled"]["win_rate"], percent=True),
            measured(contest.figures.get("plain", {}).get("win_rate"), percent=True),
            *(count(contest.figures["overall"]["prompts"]), count(contest.figures["overall"]["rows"])),
            *(exact(contest.figures["p"]), exact(contest.figures["p_adjusted"])),
            *_experts(contest.figures["experts"]["together"]),
            "; ".join(filter(None, (contest.doubt, _note(contest.figures["overall"])))),
        ]
        for contest in contests
    ]
    notes = [
        "a reply that is empty, cut, a loop, an echo, a recital or in another language is lost, and two such replies tie; "
        "by the judges alone: without this rule",
        "each speech has weight 1, a tie is half a win, and every pair is judged in both orders",
        f"{BY_CLIENT}; p is two-sided; Holm p is adjusted over the opponents of one evaluation",
        "at equal length: a regression on the difference in length, as in AlpacaEval 2",
    ]
    if any(contest.figures["overall"]["small"] for contest in contests):
        notes += [f"few clients: fewer than {SMALL}, too few to stand for others"]
    if any(contest.figures["overall"]["unjudged"] for contest in contests):
        notes += ["without a verdict: pairs that lack it in one order or both; no figure includes them"]
    if any(contest.figures["experts"]["together"] is None for contest in contests):
        notes += ["without comparisons by experts, it is unknown whether these judges agree with people"]
    return report_table("win-rates", "Win rates", headings, rows, *notes)


def _readers(contests: Sequence[_Contest]) -> list[ReportTable]:
    headings = [*_HEADINGS, "readers", "their win rate", "clients", "equal labels", "AC1", "judges agree with them"]
    headings += ["sense, model", "sense, opponent", "at 4 or 5, model", "at 4 or 5, opponent"]
    headings += ["harmful, model", "harmful, opponent"]
    rows = list[list[Cell]]()
    for contest in contests:
        readers = contest.figures["experts"].get("readers")
        if not readers:
            continue
        shared, together = readers["agreement"], contest.figures["experts"]["together"]
        senses = [sense or {} for sense in readers["sense"]]
        rows.append(
            [
                *(*contest.head, ", ".join(readers["readers"])),
                measured(readers["result"]["win_rate"], percent=True),
                count(readers["result"]["prompts"]),
                *((None, None) if shared is None else (measured(shared["raw"], percent=True), measured(shared["ac1"]))),
                None if together is None else measured(together["raw"], percent=True),
                *(measured(sense.get("mean")) for sense in senses),
                *(measured(sense.get("high"), percent=True) for sense in senses),
                *(None if harm is None else f"{harm['marked']} of {harm['replies']}" for harm in readers["harmful"]),
            ]
        )
    notes = [
        "readers: who answered in the files of evaluation.experts, whether clinicians, other people or language models",
        "a reply that a reader marks as harmful is lost, and two such replies tie; no pair is dropped",
        f"equal labels and AC1: of each two readers, on the same pairs; sense from 1 to 5; {BY_CLIENT}",
        "harmful: replies that at least one reader marked",
    ]
    return report_table("readers", "Blind readers", headings, rows, *notes)


def _experts(agreement: AgreementResult | None) -> tuple[Cell, Cell]:
    return (None, None) if agreement is None else (measured(agreement["raw"], percent=True), count(agreement["rows"]))


def _note(overall: PairResult) -> str:
    if not overall["prompts"]:
        return "no pair has a verdict in both orders"
    notes = ["few clients"] if overall["small"] else []
    notes += [f"{overall['unjudged']} without a verdict"] if overall["unjudged"] else []
    return "; ".join(notes)


def _overview_chart(contests: Sequence[_Contest]) -> list[Chart]:
    """Return a chart of both main figures of every contest, side by side."""
    overall = {place: contest.figures["overall"]["win_rate"] for place, contest in enumerate(contests)}
    controlled = {place: contest.figures["length_controlled"]["win_rate"] for place, contest in enumerate(contests)}
    curves = points("win rate", overall, "comparison", 0, 2) + points("at equal length", controlled, "comparison", 1, 2)
    ticks = [contest.label for contest in contests]
    notes = ["At one half, both models are preferred equally often.", "Bars are 95 % intervals over clients."]
    title = "Win rates with their intervals"
    chart = Chart("win-rate-overview", title, "win rate", curves, ticks=ticks, reference=0.5, notes=notes)
    return [chart] if curves else []


def _principle_chart(contests: Sequence[_Contest]) -> list[Chart]:
    """Return a chart of the win rates on each principle, for contests whose judges rate principles."""
    rated = [contest for contest in contests if contest.figures["principles"]]
    curves = []
    for number, contest in enumerate(rated):
        results = contest.figures["principles"]
        rates = {place: results[name]["win_rate"] for place, name in enumerate(PRINCIPLES) if name in results}
        curves += points(contest.label, rates, "principle", number, len(rated))
    notes = ["At one half, both models are preferred equally often on this principle."]
    title = "Win rates on each principle"
    chart = Chart("win-rate-principles", title, "win rate", curves, ticks=PRINCIPLES, reference=0.5, notes=notes)
    return [chart] if curves else []


# Win rates by principle, and by judge, risk and topic

_FEW = f"few clients: fewer than {SMALL}, too few for a conclusion"
_Slicing = Literal["by_judge", "risk", "topics"]
_SLICINGS: dict[_Slicing, str] = {"by_judge": "judge", "risk": "risk", "topics": "topic"}


def _by_principle(contests: Sequence[_Contest]) -> list[ReportTable]:
    headings = [*_HEADINGS, "principle", "speeches", "judged pairs", "win rate", "note"]
    rows = [
        [*contest.head, name, *_slice_cells(contest.figures["principles"][name])]
        for contest in contests
        for name in PRINCIPLES
        if name in contest.figures["principles"]
    ]
    notes = ["only judges that rate principles are counted; reward models and experts do not", BY_CLIENT, _FEW]
    notes += ["the judges' own verdicts: unhealthy replies are not counted as lost"]
    return report_table("win-rate-by-principle", "Win rates on each principle", headings, rows, *notes)


def _by_slice(contests: Sequence[_Contest]) -> list[ReportTable]:
    headings = [*_HEADINGS, "kind", "slice", "speeches", "judged pairs", "win rate", "note"]
    headings += ["judge and experts agree", "pairs judged by experts"]
    rows = [
        [*contest.head, kind, name, *_slice_cells(result), *_experts(_of_judge(contest.figures, slicing, name))]
        for contest in contests
        for slicing, kind in _SLICINGS.items()
        for name, result in contest.figures[slicing].items()
    ]
    notes = [f"{BY_CLIENT}, without correction for the number of slices", _FEW]
    if any(contest.figures["experts"]["together"] for contest in contests):
        notes += ["agreement with experts is computed for each judge, and for all judges in the table of win rates"]
    return report_table("win-rate-slices", "Win rates by judge, risk and topic", headings, rows, *notes)


def _of_judge(figures: OpponentResult, slicing: _Slicing, name: str) -> AgreementResult | None:
    return figures["experts"]["by_judge"].get(name) if slicing == "by_judge" else None


def _slice_cells(result: PairResult) -> list[Cell]:
    few = "few clients" if result["small"] else ""
    return [count(result["prompts"]), count(result["rows"]), measured(result["win_rate"], percent=True), few]


# Corrections, shares and seeds

_Control = Literal[
    "length_controlled", "length_and_ending_controlled", "length_and_formatting_controlled", "all_controlled"
]
_CONTROLS: dict[_Control, str] = {
    "length_controlled": "at equal length",
    "length_and_ending_controlled": "and equal ending",
    "length_and_formatting_controlled": "and equal formatting",
    "all_controlled": "and equal in both",
}
_SHARES = ("won", "partly_won", "tied", "partly_lost", "lost")


def _corrected(contests: Sequence[_Contest]) -> list[ReportTable]:
    """Return a table of the win rate corrected for length, for a question at the end, and for formatting."""
    headings = [*_HEADINGS, "speeches", "win rate", *_CONTROLS.values()]
    headings += ["log-odds of length", "log-odds of a question at the end", "log-odds of formatting"]
    rows = [
        [
            *(*contest.head, count(contest.figures["overall"]["prompts"])),
            measured(contest.figures["overall"]["win_rate"], percent=True),
            *(measured(contest.figures[key]["win_rate"], percent=True) for key in _CONTROLS),
            *(
                measured(contest.figures["all_controlled"]["effects"].get(key))
                for key in ("length", "ending", "formatting")
            ),
        ]
        for contest in contests
    ]
    notes = [
        "log-odds: effect of a difference on the odds of the reply that has more of it; one regression for all three",
        "length: log-odds for the largest possible difference",
        "formatting: lists, headings or bold type",
    ]
    title = "Win rates corrected for length, ending and formatting"
    return report_table("win-rate-corrected", title, headings, rows, *notes)


def _shares(contests: Sequence[_Contest]) -> list[ReportTable]:
    rows = [
        [
            *(*contest.head, count(contest.figures["overall"]["rows"])),
            *(cell(contest.figures["overall"]["shares"][name], percent=True) for name in _SHARES),
        ]
        for contest in contests
    ]
    notes = ["partly: one order is a tie", "contradicting verdicts in both orders count as a tie"]
    headings = [*_HEADINGS, "judged pairs", *(name.replace("_", " ") for name in _SHARES)]
    return report_table("win-rate-shares", "Pairs won, tied and lost", headings, rows, *notes)


def _seeds(contests: Sequence[_Contest]) -> list[ReportTable]:
    """Return a table of mean and spread over training seeds, for settings with several seeds."""
    rows = list[list[Cell]]()
    for contest in contests:
        seeds = contest.figures["seeds"]
        if seeds["over_seeds"] and seeds["mean"] is not None:
            low, high = seeds["interval"]
            mean = TableFigure(seeds["mean"], seeds["sd"], low, high, seeds["n"], True)
            by_seed = ", ".join(f"{seed}: {100 * rate:.1f} %" for seed, rate in seeds["by_seed"].items())
            rows.append([*contest.head, count(seeds["n"]), count(seeds["opponent_n"]), mean, by_seed])
    headings = [*_HEADINGS, "seeds", "seeds of the opponent", "win rate", "by seed"]
    notes = [
        "the interval is computed over seeds and speeches; every other comparison has one seed per model, so its spread over "
        "training seeds is unknown"
    ]
    return report_table("win-rate-seeds", "Win rates over training seeds", headings, rows, *notes)


# Replies of the data and controls


def _anchors(runs: Runs) -> list[ReportTable]:
    """Return the win rates of all contestants against the best and the median reply of the data."""
    rows = [
        [
            *(*head, name, f"the {anchor} reply of the data"),
            *(measured(dict(result[key]) if key in result else None, percent=True) for key in ("win_rate", "plain")),
            count(result["plain"]["speeches"] if "plain" in result else None),
        ]
        for _, variant, head in _variants(runs)
        for name, results in variant.get("anchors", {}).items()
        for anchor, result in results.items()
    ]
    headings = ["evaluation", "length limit", "model", "against", "win rate", "by the judges alone", "speeches"]
    notes = [
        "above 50 % against the best reply, a small model is no better than its author: the judges are at fault",
        BY_CLIENT,
    ]
    return report_table("win-rate-anchors", "Win rates against replies of the data", headings, rows, *notes)


def _control_tables(runs: Runs) -> list[ReportTable]:
    """Return the table of controls of each judge; the figures' warnings name the judges that prefer some."""
    measured_runs = [(run, controls) for run in runs if (controls := run.figures.get("controls"))]
    limit = max((controls["limit"] for _, controls in measured_runs), default=0.0)
    return control_table(
        [Titled(run.title, controls["judges"]) for run, controls in measured_runs], "win-rate-controls", limit
    )


# Judges: position bias, agreement with each other and with experts; strengths of all models; and replies


def _biases(runs: Runs) -> list[ReportTable]:
    headings = ["evaluation", "length limit", "judge", "pairs in both orders", "contradicts itself"]
    headings += ["a tie in one order", "prefers the first place", "log-odds of the first place"]
    headings += ["chance of an error", "all its calls"]
    rows = [
        [
            *(*head, name, count(bias["rows"])),
            measured(bias["inconsistent"], percent=True),
            measured(bias["half_consistent"], percent=True),
            measured(bias["first_place"], percent=True),
            measured(bias["shift"]),
            measured(bias["error"], percent=True),
            counts(run.figures["verdicts"].get(name, {})),
        ]
        for run, variant, head in _variants(runs)
        for name, bias in variant["judges"].items()
    ]
    notes = [
        "no bias: 50 % of first places, log-odds of 0",
        "contradicting verdicts count as ties",
        "a reward model scores each reply alone, so order has no effect",
        "calls: by outcome, over all length limits; equal replies are ties without a call",
    ]
    return report_table("judge-bias", "Judges: position bias", headings, rows, *notes)


def _agreements(runs: Runs) -> list[ReportTable]:
    headings = ["evaluation", "length limit", "judge", "with", "pairs", "speeches", "equal labels", "kappa", "AC1"]
    rows = list[list[Cell]]()
    for _, variant, head in _variants(runs):
        rows += [[*head, *pair["judges"], *_agreement(pair["agreement"])] for pair in variant["agreement"]]
        rows += [
            [*head, pair["judge"], f"expert {pair['expert']}", *_agreement(pair["agreement"])]
            for pair in variant["experts"]
        ]
    notes = ["labels: better, tie or worse; kappa (Cohen) and AC1 (Gwet) are corrected for chance", BY_CLIENT]
    title = "Agreement of judges with each other and with experts"
    return report_table("judge-agreement", title, headings, rows, *notes)


def _agreement(result: AgreementResult) -> list[Cell]:
    figures = [measured(result["raw"], percent=True), measured(result["kappa"]), measured(result["ac1"])]
    return [count(result["rows"]), count(result["prompts"]), *figures]


def _rankings(runs: Runs) -> list[ReportTable]:
    rows = [
        [*head, name, measured(strength["elo"]), measured(strength["log_odds"])]
        for _, variant, head in _variants(runs)
        if variant["ranking"] is not None
        for name, strength in variant["ranking"]["strengths"].items()
    ]
    headings = ["evaluation", "length limit", "model", "Elo", "log-odds"]
    note = f"Bradley-Terry strengths: 400 Elo points are odds of 10 to 1, the mean is 1000; {BY_CLIENT}"
    return report_table("bradley-terry", "One scale for all models", headings, rows, note)


def _reply_counts(runs: Runs) -> list[ReportTable]:
    rows = [
        [
            *(run.title, name, words_limit(variant["length_limit"]), count(replies["wanted"])),
            *(counts(replies["without_text"]), count(replies["over_limit"])),
        ]
        for run, variant, _ in _variants(runs)
        for name, replies in variant.get("contestants", {}).items()
    ]
    headings = ["evaluation", "contestant", "length limit", "replies wanted", "without text", "longer than the limit"]
    note = "replies without text are in no comparison"
    return report_table("win-rate-replies", "Replies that could be compared", headings, rows, note)
