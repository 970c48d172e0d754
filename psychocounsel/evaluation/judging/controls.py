"""Controls of a judge: does it prefer echoes, loops or shuffled words to the best replies of the data?

`counsel/controls.py` makes the controls; here they meet the best and the median reply to the same speech.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypedDict

import numpy as np

from psychocounsel.blocks.cells import Titled, count, measured, name_in, report_table
from psychocounsel.blocks.kinds import Paragraph, ReportTable
from psychocounsel.blocks.tables import Cell
from psychocounsel.counsel.controls import KINDS, control_of
from psychocounsel.data.controls import Clients
from psychocounsel.data.messages import Message, client_text
from psychocounsel.data.rows import Example
from psychocounsel.data.selection import rank, refuse_sessions
from psychocounsel.data.shared_text import normalised
from psychocounsel.evaluation.contestants.speeches import speech_id
from psychocounsel.metrics.intervals import mean_interval
from psychocounsel.metrics.replies import CONTENT_WORD

BEST, MEDIAN = "best", "median"  # the replies of the data that a control meets
OVERLAP = "words shared with the speech"  # the name of word overlap among judges
# Settings in controls.parquet: `control KIND`, and `data best` or `data median` for a reply of the data.
CONTROL, DATA = "control", "data"
MOST_WON = 0.1  # default of `evaluation.max_control`
_SEED = 0


@dataclass(frozen=True)
class ControlledSpeech:
    """A speech with replies of the data and controls.

    Attributes:
        id: id of the speech in the tables of an evaluation.
        prompt: messages that end on the client's turn.
        anchors: the best reply of the data, and the median one if the data hold at least three, by BEST and MEDIAN.
        controls: control by kind; kinds that cannot be made from this speech are missing.
        client: number of the client; speeches of one client are not independent.
    """

    id: str
    prompt: list[Message]
    anchors: dict[str, str]
    controls: dict[str, str]
    client: int

    def texts(self) -> list[str]:
        return [*self.anchors.values(), *self.controls.values()]


def controlled_speeches(examples: Sequence[Example], system_prompt: str, limit: int) -> list[ControlledSpeech]:
    """Return the controls of at most `limit` speeches of `examples`, in a fixed random order of the prompts.

    The best reply has the highest score; in pairs without scores, it wins most of its pairs. Prompts without a good reply
    (labelled good, or chosen, or rated) are left out.
    """
    refuse_sessions(examples, "evaluation.controls")
    by_prompt: dict[str, list[Example]] = {}
    for example in examples:
        by_prompt.setdefault(normalised(example.prompt), []).append(example)
    ranked = {prompt: replies for prompt, rows in by_prompt.items() if (replies := _ranked(rows))}
    good = [_with_best(by_prompt[prompt][0], replies[0]) for prompt, replies in ranked.items()]
    clients, numbers = Clients(good, system_prompt), {prompt: number for number, prompt in enumerate(ranked)}
    chosen = sorted(ranked, key=lambda prompt: rank(prompt, _SEED, "controls"))[:limit]
    return [_controlled(clients, numbers[prompt], ranked[prompt], prompt) for prompt in chosen]


def _controlled(clients: Clients, number: int, replies: Sequence[str], prompt: str) -> ControlledSpeech:
    rng = random.Random(f"{_SEED} {prompt}")
    material = clients.material(number, rng)
    controls = {kind: text for kind in KINDS if (text := control_of(kind, material, rng)) is not None}
    anchors = {BEST: replies[0]} | ({MEDIAN: replies[len(replies) // 2]} if len(replies) > 2 else {})
    client = int(clients.component[number])
    return ControlledSpeech(speech_id(prompt), clients.good[number].prompt, anchors, controls, client)


def _ranked(rows: Sequence[Example]) -> list[str]:
    """Return the distinct replies to one prompt, the best first; [] if none of them is known to be good."""
    scores: dict[str, float] = {}
    for row in rows:
        if row.scores:
            scores |= dict(zip(row.replies, row.scores, strict=True))
    if not scores:
        for row in rows:
            wins = [1.0, -1.0] if len(row.replies) > 1 else [0.0 if row.label is False else 1.0]
            for reply, won in zip(row.replies, wins, strict=False):
                scores[reply] = scores.get(reply, 0.0) + won
        if max(scores.values(), default=0.0) <= 0:
            return []
    return sorted(scores, key=lambda reply: (-scores[reply], reply))


def _with_best(example: Example, best: str) -> Example:
    return Example(example.id, example.where, example.prompt, [best], topic=example.topic)


# Figures


class Share(TypedDict):
    """Share of speeches in which a control is preferred (a tie counts half), with its 95 % interval."""

    value: float
    low: float
    high: float
    speeches: int


ControlFigures = dict[str, dict[str, Share]]  # by kind of control, then by BEST and MEDIAN


Verdict = tuple[
    int, str, str, float
]  # client, kind of control, BEST or MEDIAN, 1 for a preferred control, 0.5 for a tie, 0


def control_figures(verdicts: Iterable[Verdict]) -> ControlFigures:
    """Return the figures of one judge. Each verdict is about another speech; NaN (no verdict) is left out."""
    won: dict[tuple[str, str], list[tuple[float, int]]] = {}
    for client, kind, anchor, score in verdicts:
        if not np.isnan(score):
            won.setdefault((kind, anchor), []).append((score, client))
    figures: ControlFigures = {}
    for kind in KINDS:
        for anchor in (BEST, MEDIAN):
            if known := won.get((kind, anchor)):
                shares = figures.setdefault(kind, {})
                shares[anchor] = share_of([score for score, _ in known], [client for _, client in known])
    return figures


def share_of(scores: Sequence[float], clients: Sequence[int]) -> Share:
    """Return the mean score and its 95 % interval over clients. Each speech has a score from 0 to 1 and a client."""
    values = np.array(scores, np.float64)
    low, high = mean_interval(values, np.array(clients), shares=True)
    return {"value": float(values.mean()), "low": low, "high": high, "speeches": len(values)}


def scored_figures(speeches: Sequence[ControlledSpeech], rewards: Sequence[float]) -> ControlFigures:
    """Return the figures of a scorer from the rewards of `control_conversations`, in their order."""
    numbers = iter(rewards)
    verdicts = []
    for speech in speeches:
        anchors = {name: next(numbers) for name in speech.anchors}
        controls = {kind: next(numbers) for kind in speech.controls}
        verdicts += [
            (speech.client, kind, name, 0.5 + 0.5 * float(np.sign(ours - theirs)))
            for kind, ours in controls.items()
            for name, theirs in anchors.items()
        ]
    return control_figures(verdicts)


def control_conversations(speeches: Sequence[ControlledSpeech]) -> list[list[Message]]:
    """Return a conversation for each anchor and each control of every speech."""
    return [[*speech.prompt, {"role": "assistant", "content": text}] for speech in speeches for text in speech.texts()]


def control_pairs(speeches: Sequence[ControlledSpeech]) -> list[Example]:
    """Return a preference pair for each control: the best reply of the data is chosen, the control is rejected."""
    return [
        Example(f"{speech.id} {kind}", "controls", speech.prompt, [speech.anchors[BEST], control])
        for speech in speeches
        for kind, control in speech.controls.items()
    ]


def ranked_figures(speeches: Sequence[ControlledSpeech], verdicts: Sequence[float]) -> ControlFigures:
    """Return the figures of a judge from its verdicts on `control_pairs`: from 1, if the best reply is better, to -1; NaN."""
    kinds = [(speech.client, kind) for speech in speeches for kind in speech.controls]
    return control_figures((*kind, BEST, (1 - verdict) / 2) for kind, verdict in zip(kinds, verdicts, strict=True))


def overlap_figures(speeches: Sequence[ControlledSpeech]) -> ControlFigures:
    """Return the figures of word overlap as a scorer: the share of a reply's distinct words that the speech contains."""
    rewards = [
        len(words & said) / max(len(words), 1)
        for speech in speeches
        for said in [_words(client_text(speech.prompt))]
        for words in map(_words, speech.texts())
    ]
    return scored_figures(speeches, rewards)


def _words(text: str) -> set[str]:
    return {*CONTENT_WORD.findall(text.lower())}


def worst_control(figures: ControlFigures, prefix: str = "") -> dict[str, float]:
    """Return the metric `worst_control`: the largest share of speeches in which a control is preferred to the best reply."""
    shares = [by_anchor[BEST]["value"] for by_anchor in figures.values() if BEST in by_anchor]
    return {f"{prefix}worst_control": max(shares)} if shares else {}


def fooled_by(figures: ControlFigures, limit: float) -> list[str]:
    """Return the kinds of control that a judge prefers to the best reply in more than `limit` of the speeches."""
    return [kind for kind, shares in figures.items() if BEST in shares and shares[BEST]["value"] > limit]


_NAMED = 3  # controls that a warning names, the most preferred first


def fooled_line(judge: str, figures: ControlFigures, limit: float) -> str:
    """Return the warning about a judge that prefers controls (`fooled_by`) to good replies; "" if it prefers none."""
    kinds = sorted(fooled_by(figures, limit), key=lambda kind: -figures[kind][BEST]["value"])
    named = [f"{KINDS[kind].title} ({100 * figures[kind][BEST]['value']:.0f} %)" for kind in kinds[:_NAMED]]
    named += [f"{len(kinds) - _NAMED} more"] if len(kinds) > _NAMED else []
    return (
        f"{judge} prefers bad replies made by rule to the best reply of the data: {', '.join(named)}" if named else ""
    )


# Warnings and table


def control_blocks(runs: Sequence[Titled[Mapping[str, ControlFigures]]], name: str) -> list[Paragraph | ReportTable]:
    """Return a warning about each judge that prefers controls (not about word overlap), and the table `name`.

    `runs` holds, for each evaluation, the figures of each judge by its name.
    """
    warnings = [
        Paragraph(name_in(run.title, f"{line}.", len(runs) > 1), "warning")
        for run in runs
        for judge, figures in run.figures.items()
        if judge != OVERLAP and (line := fooled_line(judge, figures, MOST_WON))
    ]
    return [*warnings, *control_table(runs, name, MOST_WON)]


def control_table(runs: Sequence[Titled[Mapping[str, ControlFigures]]], name: str, limit: float) -> list[ReportTable]:
    rows: list[list[Cell]] = [
        [
            *(run.title, judge, KINDS[kind].title),
            *(measured(dict(shares[anchor]) if anchor in shares else None, percent=True) for anchor in (BEST, MEDIAN)),
            count(shares[BEST]["speeches"]),
        ]
        for run in runs
        for judge, figures in run.figures.items()
        for kind, shares in figures.items()
    ]
    headings = ["evaluation", "judge", "control", "preferred to the best reply", "to the median reply", "speeches"]
    notes = [
        "controls are made by rule from the speech and the best reply; a tie counts half; intervals over clients",
        "the median reply: of the speeches with at least three replies",
        f"a judge that prefers a control in more than {100 * limit:g} % of the speeches cannot tell which model is better",
    ]
    return report_table(name, "Judges on controls: replies that no reader would prefer", headings, rows, *notes)
