"""Merges raw votes: one rating for each principle of a reply, and the preference probability of a pair of replies."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from psychocounsel.annotation.scores.vote_table import RATED
from psychocounsel.counsel.pairs import preference
from psychocounsel.counsel.principles import PRINCIPLES
from psychocounsel.steps.tables import Row

TIERS = ("unanimous", "majority", "split")

Vote = dict[str, float | None]  # principle -> rating; None: not applicable


@dataclass
class RatedReply:
    """A reply with its votes by (annotator, number of the vote). Repeated (test-retest) votes are not included."""

    row: Row
    votes: dict[tuple[str, int], Vote] = field(default_factory=dict)

    def ratings(self) -> dict[str, float] | None:
        """Return the mean of all votes on each principle, or None if any principle has no numeric vote."""
        means = dict[str, float]()
        for name in PRINCIPLES:
            given = [rating for vote in self.votes.values() if (rating := vote[name]) is not None]
            if not given:
                return None
            means[name] = sum(given) / len(given)
        return means


def rated_replies(replies: Iterable[Row], votes: Iterable[Row]) -> list[RatedReply]:
    """Return the replies to one speech that have a text, with their votes. Equal texts are kept once (lowest `number`)."""
    found: dict[str, RatedReply] = {}
    for row in replies:
        if row["text"] is not None:
            found.setdefault(row["reply"], RatedReply(row))
    for row in votes:
        if row["outcome"] == RATED and row["repeat"] == 0 and row["reply"] in found:
            ratings = {name: row[f"{name}_rating"] for name in PRINCIPLES}
            found[row["reply"]].votes[row["annotator"], row["vote"]] = ratings
    return list(found.values())


def chosen_probability(chosen: RatedReply, rejected: RatedReply, weights: Mapping[str, float]) -> float | None:
    """Return the share of votes that score `chosen` higher; a vote with equal scores counts half.

    Only votes on both replies count; without any, the result is None. It is not smoothed: a single vote gives 1, 0.5 or 0.
    """
    shared = [key for key in chosen.votes if key in rejected.votes]
    said = [preference(chosen.votes[key], rejected.votes[key], weights) for key in shared]
    known = [each for each in said if each is not None]
    return sum(known) / len(known) if known else None


def tier(probability: float) -> str:
    """Return a word for the share of votes that agree with the pair: `unanimous` (all), `majority` (over half) or `split`."""
    return "unanimous" if probability == 1 else "majority" if probability > 0.5 else "split"
