"""From raw votes to one rating for each principle of each reply, and to what votes say about a pair of replies."""

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
    """A reply with its votes, by (annotator, number of the vote). Votes of repeats are not among them."""

    row: Row
    votes: dict[tuple[str, int], Vote] = field(default_factory=dict)

    def ratings(self) -> dict[str, float] | None:
        """The mean of all votes on each principle; None unless each principle has a number from at least one vote."""
        means = dict[str, float]()
        for name in PRINCIPLES:
            given = [rating for vote in self.votes.values() if (rating := vote[name]) is not None]
            if not given:
                return None
            means[name] = sum(given) / len(given)
        return means


def rated_replies(replies: Iterable[Row], votes: Iterable[Row]) -> list[RatedReply]:
    """The replies to one speech that have a text, each text once (the first by `number`), with their votes."""
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
    """The share of votes that score `chosen` higher; a vote that scores both alike counts half.

    A vote counts if it rated both replies. The share is not smoothed: one vote gives 1, 0.5 or 0. None without such a vote.
    """
    shared = [key for key in chosen.votes if key in rejected.votes]
    said = [preference(chosen.votes[key], rejected.votes[key], weights) for key in shared]
    known = [each for each in said if each is not None]
    return sum(known) / len(known) if known else None


def tier(probability: float) -> str:
    """How far votes agree with the pair: all of them (`unanimous`), more than half (`majority`), or no more (`split`)."""
    return "unanimous" if probability == 1 else "majority" if probability > 0.5 else "split"
