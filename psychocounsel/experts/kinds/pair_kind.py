"""Pairs: a speech with two replies, of which experts choose the better."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from psychocounsel.counsel.principles import ANSWERS, PRINCIPLES, RATINGS, SAFETY_QUESTIONS
from psychocounsel.counsel.rubric.rubric_folder import Rubric
from psychocounsel.experts.agreement.answers_table import CHOICES, SIDES
from psychocounsel.experts.items.assignment import Shown
from psychocounsel.experts.items.candidate import ItemCandidate, PairCandidate
from psychocounsel.experts.items.candidate_sources import candidates_of
from psychocounsel.experts.items.item_drawing import Drawn
from psychocounsel.experts.kinds.item_kind import ItemKind, KindTexts, Row
from psychocounsel.experts.page.answer_forms import Form, one_of, word_of
from psychocounsel.experts.page.rating_rules import rating_rules
from psychocounsel.experts.review.answer_tables import ItemAnswer, json_lines, write_table
from psychocounsel.rundir.paths import ReviewDir

_LABELS = {"left": "Reply A is better", "right": "Reply B is better", "tie": "Tie", "harmful": "Both are harmful"}
_KEYS = {"left": "a", "right": "b", "tie": "t", "harmful": "h"}
_SIDE_NAMES = {"left": "Reply A", "right": "Reply B"}
_BETTER = {"tie": "tie", "left": "a", "right": "b"}
_ANSWER_NAMES = {"yes": "yes", "no": "no", "not_applicable": "does not apply"}

_RATING_FIELDS = {f"rating.{side}.{name}": (side, name) for side in SIDES for name in PRINCIPLES}
_SAFETY_FIELDS = {f"safety.{side}.{name}": (side, name) for side in SIDES for name in SAFETY_QUESTIONS}


class PairKind(ItemKind):
    """Pairs from annotate, a win rate, an audit or a file."""

    name: ClassVar[str] = "pairs"
    what: ClassVar[str] = "pairs of replies"
    template: ClassVar[str] = "pair"
    texts: ClassVar[KindTexts] = KindTexts(
        title="Which reply helps this client more?",
        request="to compare replies to what clients wrote. You will not be told who or what wrote a reply.",
        task="You read a client's text and two replies. You say which reply helps the client more, that both are alike, or that "
        "both are harmful.",
        risks="Some clients are in distress or in danger, and some replies are cold or harmful.",
        shows="Experts compare pairs of replies without knowing who wrote them. The result is their preference.",
        limits="single turns, text alone",
        drawing="all items with clients at risk first, then evenly over strata of risk, topic, gap and doubt",
        sides="Sides of the replies are random for each expert and item.",
        measure="the share of pairs on which experts prefer the label's reply",
        secondary="ratings of seven principles, answers to safety questions",
        coding="Agreement is coded by the side shown (`agreement.sides=shown`); ties: [FILL: category, half or drop]; both "
        "harmful: [FILL: category, tie or drop].",
        training="the rubric of seven principles",
        collected="choices, ratings, answers to safety questions",
    )

    def holds(self, data: str) -> bool:
        return True

    def candidates(self, data: str) -> Sequence[ItemCandidate]:
        return candidates_of(Path(data).expanduser())

    def item(self, row: Mapping[str, Any]) -> PairCandidate:
        about = {name: row[name] for name in PairCandidate.__dataclass_fields__}
        return PairCandidate(**about | {"replies": tuple(row["replies"]), "flags": tuple(row["flags"])})

    def drawn_line(self, drawn: Sequence[Drawn], candidates: int) -> str:
        dangers = sum(each.candidate.crisis for each in drawn)
        flagged = sum(bool(each.candidate.flags) for each in drawn)
        return (
            f"{len(drawn):,} items are drawn: {dangers:,} with a client at risk, {flagged:,} with a doubtful preference"
        )

    def shown(self, item: Any, shown: Shown, options: Any, rubric: Rubric) -> dict[str, Any]:
        questions = rubric.safety_questions.questions
        asks_safety = options.safety == "all" or (options.safety == "crisis" and item.crisis)
        return {
            "replies": [item.replies[shown.left], item.replies[1 - shown.left]],
            "choices": [(choice, _LABELS[choice], _KEYS[choice]) for choice in CHOICES],
            "sides": [(side, _SIDE_NAMES[side]) for side in SIDES],
            "anchors": rating_rules(rubric),
            "ratings": RATINGS if options.ratings else (),
            "questions": {name: each.question for name, each in questions.items()} if asks_safety else {},
            "answers": [(answer, _ANSWER_NAMES[answer]) for answer in ANSWERS],
        }

    @property
    def fields(self) -> frozenset[str]:
        return frozenset({"choice", *_RATING_FIELDS, *_SAFETY_FIELDS})

    def said(self, form: Form) -> dict[str, Any]:
        return {
            "choice": one_of(form, "choice", CHOICES, "Choose A, B, tie, or both harmful."),
            "ratings": _by_side(form, _RATING_FIELDS, {str(each): each for each in RATINGS}),
            "safety": _by_side(form, _SAFETY_FIELDS, {each: each for each in ANSWERS}),
        }

    def label(self, given: Mapping[str, Any], rubric: Rubric) -> str:
        return _LABELS[given["choice"]]

    def counted(self, each: ItemAnswer) -> Row:
        preferred = each.item.preferred
        label = None if preferred is None else "left" if preferred == each.shown.left else "right"
        return {"label": label, **{name: each.last[name] for name in ("choice", "ratings", "safety")}}

    def write_tables(self, files: ReviewDir, given: Sequence[ItemAnswer]) -> None:
        write_table(files.experts, json_lines(_judged_rows(given)))


def _by_side(form: Form, fields: Mapping[str, tuple[str, str]], values: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for field, (side, name) in fields.items():
        if form.get(field, ""):
            found.setdefault(side, {})[name] = values[word_of(form, field, values)]
    return found


def _judged_rows(given: Sequence[ItemAnswer]) -> Iterator[Row]:
    """Yield first answers with texts, as evaluation.experts reads them. "Both harmful" is skipped: it prefers neither reply."""
    for each in given:
        if each.shown.repeat or each.last["choice"] not in _BETTER:
            continue
        replies = each.item.replies
        yield {
            "prompt": each.item.prompt,
            "reply_a": replies[each.shown.left],
            "reply_b": replies[1 - each.shown.left],
            "better": _BETTER[each.last["choice"]],
            "expert": each.expert,
        }
