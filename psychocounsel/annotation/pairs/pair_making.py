"""Makes the pairs of one speech from its votes, by the rules in `pairs`, and counts the candidates that make no pair."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from psychocounsel.annotation.pairs.dataset_tables import pair_row
from psychocounsel.annotation.pairs.merged_votes import chosen_probability, rated_replies
from psychocounsel.counsel.pairs import PairRule, make_pairs
from psychocounsel.steps.tables import Row


@dataclass
class PairMaker:
    """Makes pairs by one rule and counts the results.

    Attributes:
        dropped: candidates that made no pair, by reason.
        agreement: number of pairs by tier.
        notes: number of pairs with a peculiarity: `against_majority` (the mean prefers a reply that most votes do not) and
            `unequal_votes` (not all votes rated both replies).
    """

    rule: PairRule
    weights: Mapping[str, float]
    veto: bool
    dropped: Counter[str] = field(default_factory=Counter)
    agreement: Counter[str] = field(default_factory=Counter)
    notes: Counter[str] = field(default_factory=Counter)

    def pairs(self, speech: Row, replies: list[Row], votes: list[Row]) -> Iterator[Row]:
        """Yield the pairs of a speech as dataset rows without `prefID`."""
        found = rated_replies(replies, votes)
        texts = sum(row["text"] is not None for row in replies)
        self.dropped["replies_without_text"] += len(replies) - texts
        self.dropped["equal_replies"] += texts - len(found)
        self.dropped["replies_without_vote"] += sum(not reply.votes for reply in found)
        means = [(reply, ratings) for reply in found if (ratings := reply.ratings())]
        self.dropped["replies_not_rated_on_all"] += sum(bool(reply.votes) for reply in found) - len(means)
        self.dropped["speeches_with_one_rated_reply"] += len(means) == 1
        made = make_pairs([ratings for _, ratings in means], self.rule, self.weights, self.veto)
        self.dropped["equal_scores"] += made.ties
        self.dropped["gap_too_small"] += made.too_close
        self.dropped["chosen_less_safe"] += made.unsafe
        for places in made.pairs:
            (chosen, its), (rejected, others) = (means[place] for place in places)
            probability = chosen_probability(chosen, rejected, self.weights)
            if probability is None:
                self.dropped["no_vote_rated_both"] += 1
                continue
            row = pair_row(speech, (chosen, rejected), (its, others), probability)
            self.agreement[row["agreement"]] += 1
            self.notes["against_majority"] += probability < 0.5
            self.notes["unequal_votes"] += chosen.votes.keys() != rejected.votes.keys()
            yield row
