"""Blocks of an audit: conclusions, chart and tables of one or several audits, without any text of the data."""

from collections.abc import Iterator, Sequence
from typing import Any

from psychocounsel.blocks.cells import (
    Figures,
    Titled,
    count,
    exact,
    measured,
    name_in,
    named,
    percent_text,
    points,
    report_table,
)
from psychocounsel.blocks.kinds import Block, Chart, Paragraph, ReportTable
from psychocounsel.blocks.tables import Cell
from psychocounsel.evaluation.audit.blind import MOST_TOPIC_FOLDS, TITLES
from psychocounsel.evaluation.audit.figures import AuditFigures, CueAccuracy, TopicCounts
from psychocounsel.evaluation.audit.topics import CLUSTERS, NONE
from psychocounsel.evaluation.judging.controls import OVERLAP, control_blocks

Audits = Sequence[Titled[AuditFigures]]

_GATES = {
    "passed": ("passed, because the whole interval is below the limit", "good"),
    "refused": ("refused, because the whole interval is above the limit", "bad"),
    "undecided": ("undecided, because the interval includes the limit", "undecided"),
}
GAIN_NOTE = "gain: accuracy with the client's own speech minus accuracy with the speech shown, in percentage points"
_CONDITIONS = {"own": "the client's own speech", "swapped": "another client's speech", "removed": "no speech"}


def audit_blocks(audits: Audits) -> list[Block]:
    """Return conclusions, then tables of predicting labels without and with the speech, of ratings and of duplicates."""
    return [
        *(Paragraph(_of(audits, audit, text), tone) for audit in audits for text, tone in _conclusions(audit.figures)),
        *_blind(audits),
        *_chart(audits),
        *_cues(audits),
        *_reading(audits),
        *_principles(audits),
        *_controls(audits),
        *_sizes(audits),
        *_duplicates(audits),
        *_shared(audits),
        *_ratings(audits),
    ]


def _of(audits: Audits, audit: Titled[AuditFigures], text: str) -> str:
    """Return a sentence on an audit, preceded by its title if there are several audits."""
    return name_in(audit.title, text, len(audits) > 1)


# Conclusions

_BLIND = 0.65  # an interval that reaches above it is no evidence for labels that need the client


def _conclusions(figures: AuditFigures) -> Iterator[tuple[str, str]]:
    """Yield sentences, each with its tone: on the gate, on labels without the speech, on reading, and on missing figures."""
    baselines = {name: schemes["by_prompt"] for name, schemes in figures["blind"]["baselines"].items()}
    gate, counts = figures["gate"], figures["counts"]
    if gate["verdict"] in _GATES:
        verdict, tone = _GATES[gate["verdict"]]
        accuracy = f"{TITLES[gate['baseline']]} {percent_text(baselines[gate['baseline']])}"
        yield f"gate audit.max_blind={gate['limit']:g}: {verdict} ({accuracy}).", tone
    best = max(baselines, key=lambda name: baselines[name]["accuracy"])
    accuracy = f"the best baseline ({TITLES[best]}) is right on {percent_text(baselines[best])} of the pairs"
    if baselines[best]["low"] > 0.5:
        yield f"the labels can partly be predicted without reading the client: {accuracy}.", "warning"
    elif baselines[best]["high"] > _BLIND:
        yield (
            f"undecided whether labels can be predicted without reading the client: {accuracy}; more prompts tell.",
            "undecided",
        )
    else:
        yield f"no evidence that labels can be predicted without reading the client: {accuracy}.", "good"
    if reading := figures["reading"].get("reward"):
        yield uses_speech(_judge(figures, "reward"), reading)
    if 2 * counts["largest_component"] > counts["pairs"]:
        yield "one component holds more than half of the pairs: folds are uneven and intervals unreliable.", "warning"
    if figures["halo"] is None:
        yield "the data have no ratings, so halo and ceiling are unknown.", "plain"


def uses_speech(who: str, reading: Figures) -> tuple[str, str]:
    """Return a sentence, with its tone, on whether a judge reads the client's speech.

    `reading`: from `reading_figures`, and `beyond_overlap`, which files of earlier versions lack.
    """
    gain = reading["gains"]["swapped"]
    low, high = 100 * gain["low"], 100 * gain["high"]
    than = "with the client's own speech instead of another client's"
    size = f"its accuracy changes by {100 * gain['gain']:+.1f} percentage points ({low:+.1f} to {high:+.1f}) {than}"
    if gain["low"] > 0:
        beyond = reading.get("beyond_overlap")
        if beyond is None:
            return (
                f"{who} uses the client's speech, but perhaps only words that it shares with the reply: {size}.",
                "plain",
            )
        more = beyond["gain"]
        less = f"{100 * more['value']:.1f} ({100 * more['low']:.1f} to {100 * more['high']:.1f})"
        against = f"counting shared words gains {less} points less"
        if more["low"] > 0:
            return f"{who} reads the client's speech: {size}; {against}.", "good"
        return f"no evidence that {who} reads more than words shared with the reply: {size}; {against}.", "warning"
    if gain["high"] < 0:
        return f"{who} is right less often with the right client's speech: {size}.", "bad"
    return f"no evidence that {who} uses the client's speech: {size}.", "warning"


def _judge(figures: AuditFigures, name: str) -> str:
    if name != "reward":
        return OVERLAP
    reward = figures.get("settings", {}).get("reward") or {}
    return f"the reward model {reward.get('name', '')}".strip()


# Without the client's speech


def _blind(audits: Audits) -> list[ReportTable]:
    rows, notes = list[list[Cell]](), list[str]()
    for audit in audits:
        figures = audit.figures
        for name, schemes in figures["blind"]["baselines"].items():
            by_prompt, by_topic = schemes["by_prompt"], schemes.get("by_topic")
            accuracies = [measured(by_prompt, "accuracy", True), measured(by_topic, "accuracy", True)]
            judged = [count(by_prompt["judged"]), count(by_topic["judged"] if by_topic else None)]
            rows.append([audit.title, TITLES[name], judged[0], accuracies[0], judged[1], accuracies[1]])
        notes += [_of(audits, audit, note) for note in _topic_notes(figures)]
    headings = ["audit", "baseline", "pairs", "accuracy", "pairs judged by topic", "accuracy, folds of topics"]
    fitted = (
        "baselines see both replies but not the client; each is judged on prompts (or topics) that it was not fitted to"
    )
    chance = "50 % is chance; intervals are computed over components, which share no prompt and no reply"
    title = "Predicting labels without the client's speech"
    return report_table("audit-blind", title, headings, rows, fitted, chance, *notes)


def _topic_notes(figures: AuditFigures) -> Iterator[str]:
    """Yield which topics are left out, and why fewer pairs are judged by topic than by prompt."""
    topics, schemes = figures["topics"], figures["blind"]["baselines"]["best_cue"]
    yield f"folds of topics: {_left_out(topics)}"
    judged = schemes["by_topic"]["judged"] if "by_topic" in schemes else 0
    others = figures["blind"]["baselines"].items()
    if below := [TITLES[name] for name, of in others if "by_topic" in of and of["by_topic"]["high"] < 0.5]:
        yield (
            f"below 50 % by topic ({', '.join(below)}): the topic decides which reply is better, so that what holds for the "
            "other topics is wrong for the one left out"
        )
    if topics["source"] != NONE and judged < schemes["by_prompt"]["judged"]:
        yield (
            f"by topic, only {judged} of {schemes['by_prompt']['judged']} pairs are judged: for the others, too few pairs of "
            "other topics without a shared text remain to fit a baseline"
        )


def _left_out(topics: TopicCounts) -> str:
    if topics["source"] == NONE:
        return "too few prompts"
    clusters = "clusters of prompts, because not all rows name a topic, or all name the same"
    what = clusters if topics["source"] == CLUSTERS else "topics of the data"
    folds = f", in {MOST_TOPIC_FOLDS} folds" if topics["count"] > MOST_TOPIC_FOLDS else ""
    return f"leaving out each of {topics['count']} {what}{folds}"


def _chart(audits: Audits) -> list[Chart]:
    baselines = [audit.figures["blind"]["baselines"] for audit in audits]
    names = [name for name in TITLES if any(name in schemes for schemes in baselines)]
    curves = []
    for number, (audit, schemes) in enumerate(zip(audits, baselines, strict=True)):
        accuracies = {names.index(name): by_scheme["by_prompt"] for name, by_scheme in schemes.items()}
        curves += points(audit.title, accuracies, "baseline", number, len(audits), "accuracy")
    notes = ["At one half, a baseline is no better than chance.", "Bars are 95 % intervals; folds are of prompts."]
    title, ticks = "Accuracy of predicting labels without the client's speech", [TITLES[name] for name in names]
    chart = Chart("audit-blind", title, "accuracy", curves, ticks=ticks, reference=0.5, notes=notes)
    return [chart] if curves else []


def _cues(audits: Audits) -> list[ReportTable]:
    rows, notes = list[list[Cell]](), list[str]()
    for audit in audits:
        cues, best = audit.figures["blind"]["cues"], audit.figures["blind"]["maximum"]
        for name, cue in sorted(cues.items(), key=_distance_from_chance):
            rows.append([audit.title, _words(name), count(cue["decides"]), measured(cue, "accuracy", True)])
        won = f"the best of {len(cues)} cues ({_words(best['cue'])}) wins {100 * best['accuracy']:.1f} %"
        chance = f"with random labels the best would win {100 * best['low']:.1f} to {100 * best['high']:.1f} %"
        notes.append(_of(audits, audit, f"{won}; {chance} (p = {best['p']:.2g})"))
    headings = ["audit", "cue", "pairs decided", "reply with more of it is chosen"]
    note = "reply with more of it is chosen: share of pairs; equal replies are half a win (nothing is fitted)"
    return report_table("audit-cues", "Single cues of replies", headings, rows, note, *notes)


def _distance_from_chance(cue: tuple[str, CueAccuracy]) -> float:
    return -abs(cue[1]["accuracy"] - 0.5)


def _words(name: str) -> str:
    return name.replace("_", " ")


# With the client's speech


def _reading(audits: Audits) -> list[ReportTable]:
    rows = list[list[Cell]]()
    for audit in audits:
        pairs = count(audit.figures["counts"]["pairs"])
        for name, reading in audit.figures["reading"].items():
            judge = _judge(audit.figures, name)
            rows += [[audit.title, judge, shown, pairs, *cells] for shown, *cells in reading_rows(reading)]
            if flipped := reading["flipped"]:
                own = [count(flipped["flipped_pairs"]), None, named(flipped, "flipped_accuracy", True), None]
                rows.append([audit.title, judge, "flipped pairs, own speech", *own])
    headings = ["audit", "judged by", "speech shown", "pairs", "pairs skipped", "accuracy", "gain of own speech"]
    notes = [
        GAIN_NOTE,
        "pairs skipped: too long for the judge with one of the speeches",
        "flipped pairs: two replies to two clients, with opposite labels; a judge that ignores the client is right on half",
    ]
    return report_table("audit-reading", "Judging with the client's speech", headings, rows, *notes)


def _controls(audits: Audits) -> Sequence[Block]:
    """Return the table of controls, after a warning about each judge that prefers one of them."""
    judged = [
        Titled(audit.title, {_judge(audit.figures, name): shares for name, shares in controls.items()})
        for audit in audits
        if (controls := audit.figures.get("controls"))
    ]
    return control_blocks(judged, "audit-controls")


def reading_rows(reading: Figures) -> Iterator[list[Cell]]:
    """Yield a row for each speech that a judge was shown: speech, pairs skipped, accuracy, gain of own speech."""
    for condition, shown in _CONDITIONS.items():
        if condition in reading:
            gain = measured(reading["gains"].get(condition), "gain", True)
            yield [shown, count(reading["left_out"]), measured(reading[condition], "accuracy", True), gain]
    if beyond := reading.get("beyond_overlap"):
        yield ["own speech, beyond shared words", None, None, measured(beyond["gain"], percent=True)]
        if misled := beyond["misled"]:
            shown = f"own speech, {misled['pairs']} pairs in which shared words mislead"
            yield [shown, None, measured(misled, "accuracy", True), None]


def _principles(audits: Audits) -> list[ReportTable]:
    rows = [
        [audit.title, _judge(audit.figures, "reward"), *cells]
        for audit in audits
        for cells in principle_rows(audit.figures.get("principles", {}))
    ]
    return principle_table("audit-principles", ["audit", "judged by"], rows)


def principle_rows(principles: Figures) -> Iterator[list[Cell]]:
    """Yield the cells of each principle from `principle_reading`."""
    for name, figures in principles.items():
        gain = measured(figures.get("gains", {}).get("swapped"), "gain", True)
        beyond = measured(figures.get("beyond_overlap", {}).get("gain"), percent=True)
        lengths = [measured(figures[key]) for key in ("length", "raters_length")]
        yield [name, count(figures["pairs"]), measured(figures.get("own"), "accuracy", True), gain, beyond, *lengths]


def principle_table(name: str, first: Sequence[str], rows: Sequence[Sequence[Cell]]) -> list[ReportTable]:
    """Return the table of `principle_rows`, which follow cells with the headings `first`."""
    headings = [*first, "principle", "pairs", "accuracy", "gain of own speech", "beyond shared words"]
    notes = [
        "pairs: those whose ratings differ on the principle, with the better-rated reply as the chosen one; without ratings "
        "all pairs",
        "gain: accuracy with the client's own speech minus accuracy with another client's, in percentage points; beyond "
        "shared words: this gain minus that of word overlap",
        "with length: correlation of the differences in score, or in rating, between two replies with those in characters",
    ]
    title = "Judging each principle with the client's speech"
    return report_table(name, title, [*headings, "with length", "with length, raters"], rows, *notes)


# The data themselves: sizes, duplicates, overlap with other sets, ratings


def _sizes(audits: Audits) -> list[ReportTable]:
    keys = ("pairs", "prompts", "replies", "components", "largest_component")
    rows = list[list[Cell]]()
    for audit in audits:
        counts: dict[str, Any] = {**audit.figures["counts"]}
        data = audit.figures.get("settings", {}).get("data") or {}
        rows.append([audit.title, data.get("name"), *(count(counts[key]) for key in keys)])
    headings = ["audit", "data", "pairs", "prompts", "replies", "components", "pairs in the largest"]
    notes = ["prompts and replies: distinct texts", "components share no prompt and no reply; folds are by component"]
    return report_table("audit-sizes", "Audited data", headings, rows, *notes)


def _duplicates(audits: Audits) -> list[ReportTable]:
    titles = {
        "repeated_pairs": "pairs that repeat an earlier one, with the same label",
        "repeated": "pairs (same prompt, same two replies) that occur several times",
        "contradicted": "of these, labelled both ways round",
        "reused_replies": "replies under several prompts",
        "pairs_with_reused": "pairs with such a reply",
        "near_prompts": "prompts with a near duplicate",
        "near_prompts_apart": "of these prompts, across components",
        "near_replies": "replies with a near duplicate",
        "near_replies_apart": "of these replies, across components",
        "near_pairs": "pairs whose two replies are near duplicates of each other",
    }
    rows = [
        [audit.title, title, count(counts.get(key))]
        for audit in audits
        for counts in [{**audit.figures["repeats"], **audit.figures["contradictions"]}]
        for key, title in titles.items()
    ]
    headings = ["audit", "duplicates", "number"]
    return report_table("audit-duplicates", "Duplicates in the audited data", headings, rows)


def _shared(audits: Audits) -> list[ReportTable]:
    keys = ("rows", "prompts", "near_prompts", "replies", "near_replies", "pairs")
    rows = [
        [audit.title, name, *(count(shared[key]) for key in keys)]
        for audit in audits
        for name, shared in audit.figures["against"].items()
    ]
    headings = ["audit", "other set", "its rows", "prompts shared", "near prompts shared", "replies shared"]
    headings += ["near replies shared", "pairs affected"]
    near = "near: not equal, but a near duplicate"
    return report_table("audit-shared", "Overlap of audited data with other sets", headings, rows, near)


def _ratings(audits: Audits) -> list[ReportTable]:
    """Return a table of ratings by principle, with notes on halo (correlated principles) and ceiling (top ratings)."""
    rows, notes = list[list[Cell]](), list[str]()
    for audit in audits:
        halo = audit.figures["halo"]
        if halo is None:
            continue
        for name, ratings in halo["principles"].items():
            cells = [exact(ratings["mean"]), exact(ratings["deviation"]), exact(ratings["at_top"], percent=True)]
            rows.append([audit.title, name, count(halo["replies"]), *cells, exact(ratings["with_others"])])
        overall = {"Cronbach's alpha": halo["alpha"], "share of the first component": halo["first_component"]}
        overall["mean correlation"] = halo["mean_correlation"]
        measures = (f"{what} {'unknown' if value is None else f'{value:.3f}'}" for what, value in overall.items())
        disagreement = "disagreement is unknown, because no reply has several different ratings"
        if measurement := audit.figures["disagreement"]:
            several = f"{measurement['replies']} of {measurement['of']} replies have several different ratings"
            disagreement = f"{several}; their standard deviation is {measurement['deviation']:.3f} on average"
        notes += [_of(audits, audit, note) for note in (", ".join(measures), disagreement)]
    headings = ["audit", "principle", "replies", "mean rating", "standard deviation", "top rating"]
    headings += ["correlation with the others"]
    return report_table("audit-ratings", "Ratings: halo and ceiling", headings, rows, *notes)
