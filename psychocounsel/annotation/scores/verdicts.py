"""Reads annotators' answers, and counts unusable answers and quotations that are not in the reply."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from psychocounsel.annotation.scores.rating_answers import Judgements, read_answer
from psychocounsel.annotation.scores.rating_asks import RatingAsk
from psychocounsel.annotation.scores.vote_table import RATED
from psychocounsel.asking.language_model import FAILED, REFUSED, TEXT, TOO_LONG
from psychocounsel.asking.refusals import is_refusal
from psychocounsel.asking.strict_json import Unreadable
from psychocounsel.counsel.quotations import ABSENT, stands_in

Verdict = list[Judgements] | None  # None: a refusal in prose, which counts as an answer and is not asked again

_REPLY = re.compile(r"^reply_\d+:? ")


@dataclass(frozen=True)
class Reader:
    """Parses answers. `joint`: see RatingPrompt. A refusal in prose counts as an answer."""

    joint: bool

    def __call__(self, text: str) -> Verdict:
        """Return the ratings of each reply in the order shown, or None for a refusal.

        Raises:
            Unreadable: if the answer holds neither ratings nor a refusal.
        """
        try:
            return read_answer(text, self.joint)
        except Unreadable:
            if is_refusal(text):
                return None
            raise


@dataclass
class Findings:
    """Counts of unusable answers and of quotations, by annotator."""

    unreadable: dict[str, Counter[str]] = field(default_factory=dict)  # reason -> number of answers, over all attempts
    quotes: dict[str, Counter[str]] = field(default_factory=dict)

    def note_answer(self, annotator: str, ask: RatingAsk, text: str, read: Reader) -> None:
        """Count the reason if an answer is unusable."""
        try:
            ask.check_value(read(text))
        except Unreadable as error:
            self.unreadable.setdefault(annotator, Counter())[_REPLY.sub("", str(error))] += 1

    def note_quotes(self, annotator: str, judged: Sequence[Judgements], replies: Sequence[str]) -> None:
        """Count quotations that are in their reply, those that are not, and those that say `absent`."""
        counts = self.quotes.setdefault(annotator, Counter())
        for judgements, reply in zip(judged, replies, strict=True):
            for each in judgements.values():
                absent = each.quote.casefold().strip("\"'. ") == ABSENT
                counts["absent" if absent else "found" if stands_in(each.quote, reply) else "not_in_reply"] += 1

    def figures(self) -> dict[str, Any]:
        """Return `unreadable` (counts by annotator and reason) and `quotes` (by annotator: `found`, `absent`, `not_in_reply`)."""
        return {
            "unreadable": {name: dict(sorted(counts.items())) for name, counts in sorted(self.unreadable.items())},
            "quotes": {
                name: {kind: counts[kind] for kind in ("found", "absent", "not_in_reply")}
                for name, counts in sorted(self.quotes.items())
            },
        }


def outcome_of_vote(outcome: str, verdict: Verdict) -> str:
    """Return the outcome for votes.parquet: `rated`, or the reason why there is no rating."""
    if outcome == TOO_LONG:  # only an annotator of the user's own gives it
        return FAILED
    if outcome != TEXT:
        return outcome
    return REFUSED if verdict is None else RATED
