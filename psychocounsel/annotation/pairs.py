"""The step `pairs` makes the training dataset from votes.parquet."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
from omegaconf import DictConfig, OmegaConf

from psychocounsel.annotation.scores.votes import RATED, RATING_COLUMNS
from psychocounsel.annotation.settings import SIDES, SPLITS
from psychocounsel.counsel.pairs import PairRule, make_pairs, preference
from psychocounsel.counsel.principles import PRINCIPLES
from psychocounsel.grading.rating import conversation_of
from psychocounsel.rundir.paths import AnnotationDir
from psychocounsel.steps.course import Say, StepContext
from psychocounsel.steps.tables import Row, by_speech, joined, rows_of, written
from psychocounsel.storage.files import with_noun

# The step

_SPEECH = ("text", "topic", "risk", "source", "license", "language", "split")
_REPLY = ("number", "reply", "writer", "model", "text")
_VOTE = ("reply", "annotator", "vote", "repeat", "outcome", *RATING_COLUMNS)

_REASONS = {
    "equal_scores": "pairs with equal scores",
    "gap_too_small": "pairs with a gap below pairs.min_gap",
    "chosen_less_safe": "pairs whose higher-scored reply is rated less safe (pairs.safety_veto)",
    "no_vote_rated_both": "pairs without a vote on both replies",
    "equal_replies": "replies that repeat another reply's text",
    "replies_without_text": "replies that were cut, refused or failed",
    "replies_without_vote": "replies without a rating",
    "replies_not_rated_on_all": "replies with a principle that every vote marks as not applicable",
    "speeches_with_one_rated_reply": "speeches with one rated reply",
}


def run(context: StepContext[AnnotationDir]) -> dict[str, Any]:
    """Write dataset/train.parquet and, if there are test pairs, test.parquet; the figures account for every candidate.

    Returns:
        By split (`train`, `test`): `pairs`, `agreement` (pairs by tier), `dropped` (by reason), `against_majority` and
        `unequal_votes` (see PairMaker). `votes_averaged`: True if a rating may be the mean of several votes.

    Raises:
        UserError: if a table is missing or damaged.
    """
    rules, files = context.config.pairs, context.files
    weights = {name: float(rules.principle_weights.get(name, 1.0)) for name in PRINCIPLES}
    makers = {split: PairMaker(_rule(rules, split), weights, rules.safety_veto) for split in SPLITS}
    averaged = _several_votes(files)
    schema, number = dataset_schema(averaged), 0
    files.dataset.mkdir(exist_ok=True)
    files.card.unlink(missing_ok=True)  # it describes the old pairs, and `datasets` would cache by its old content hash
    with (
        written(files.dataset / SPLITS["train"], schema) as train,
        written(files.dataset / SPLITS["test"], schema) as test,
    ):
        for speech, replies, votes in context.bar(_speeches(files), "pairs"):
            split = speech["split"]
            if OmegaConf.select(context.config, "speeches.turns", default="last") != "last":
                speech["text"] = question_of(speech["text"])
            for row in makers[split].pairs(speech, replies, votes):
                (test if split == "test" else train)({**row, "prefID": number})
                number += 1
    figures: dict[str, Any] = {split: _figures(maker) for split, maker in makers.items()}
    if not figures["test"]["pairs"]:
        (files.dataset / SPLITS["test"]).unlink()  # `datasets` loads no folder with an empty split
    _tell(figures, averaged, context.say)
    return {**figures, "votes_averaged": averaged}


def _rule(rules: DictConfig, split: str) -> PairRule:
    """Return the pair rule of a split. Test pairs are best versus worst reply with any gap, as in the paper."""
    return PairRule("extremes", 0.0, rules.gap) if split == "test" else PairRule(rules.kind, rules.min_gap, rules.gap)


def _several_votes(files: AnnotationDir) -> bool:
    """Return True if a reply may have several votes to average; stops reading at the second (annotator, vote)."""
    seen = set[tuple[str, int]]()
    for row in rows_of(files.votes, ("annotator", "vote", "repeat", "outcome")):
        if row["outcome"] == RATED and row["repeat"] == 0:
            seen.add((row["annotator"], row["vote"]))
            if len(seen) > 1:
                return True
    return False


def _speeches(files: AnnotationDir) -> Iterator[tuple[Row, list[Row], list[Row]]]:
    tables = ((files.speeches, _SPEECH), (files.replies, _REPLY), (files.votes, _VOTE))
    for (speech,), replies, votes in joined(*(by_speech(path, columns) for path, columns in tables)):
        yield speech, sorted(replies, key=lambda row: row["number"]), votes


def _figures(maker: PairMaker) -> dict[str, Any]:
    return {
        "pairs": maker.agreement.total(),
        "agreement": {name: maker.agreement[name] for name in TIERS},
        "dropped": {name: maker.dropped[name] for name in _REASONS},
        "against_majority": maker.notes["against_majority"],
        "unequal_votes": maker.notes["unequal_votes"],
    }


def _tell(figures: dict[str, Any], averaged: bool, say: Say) -> None:
    if not figures["train"]["pairs"]:
        say("warning: no training pairs; a lower pairs.min_gap or a larger replies.per_speech gives more")
    for split, split_figures in figures.items():
        tiers = ", ".join(f"{name} {count}" for name, count in split_figures["agreement"].items())
        say(
            f"{split}: {with_noun(split_figures['pairs'], 'pair')}"
            + (f" ({tiers})" if averaged else " (one vote each)")
        )
        for name, reason in _REASONS.items():
            if split_figures["dropped"][name]:
                say(f"  dropped {reason}: {split_figures['dropped'][name]}")
        if split_figures["against_majority"]:
            count = split_figures["against_majority"]
            pairs = with_noun(count, "pair follows", "pairs follow")
            say(f"  {pairs} the mean rating against most votes: chosen_probability is below 0.5")


def question_of(text: str) -> str:
    """Return the column `question` of a text of speeches.parquet: a single speech itself, a conversation as JSON messages."""
    messages = conversation_of(text)
    return text if len(messages) == 1 else json.dumps(messages, ensure_ascii=False)


# Pairs of one speech


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
        rated = rated_replies(replies, votes)
        texts = sum(row["text"] is not None for row in replies)
        self.dropped["replies_without_text"] += len(replies) - texts
        self.dropped["equal_replies"] += texts - len(rated)
        self.dropped["replies_without_vote"] += sum(not reply.votes for reply in rated)
        means = [(reply, ratings) for reply in rated if (ratings := reply.ratings())]
        self.dropped["replies_not_rated_on_all"] += sum(bool(reply.votes) for reply in rated) - len(means)
        self.dropped["speeches_with_one_rated_reply"] += len(means) == 1
        made = make_pairs([ratings for _, ratings in means], self.rule, self.weights, self.veto)
        self.dropped["equal_scores"] += made.ties
        self.dropped["gap_too_small"] += made.too_close
        self.dropped["chosen_less_safe"] += made.unsafe
        for places in made.pairs:
            (chosen, chosen_ratings), (rejected, rejected_ratings) = (means[place] for place in places)
            probability = chosen_probability(chosen, rejected, self.weights)
            if probability is None:
                self.dropped["no_vote_rated_both"] += 1
                continue
            row = pair_row(speech, (chosen, rejected), (chosen_ratings, rejected_ratings), probability)
            self.agreement[row["agreement"]] += 1
            self.notes["against_majority"] += probability < 0.5
            self.notes["unequal_votes"] += chosen.votes.keys() != rejected.votes.keys()
            yield row


# Ratings of a reply and the preference probability of two replies, from all votes

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
            ratings = [rating for vote in self.votes.values() if (rating := vote[name]) is not None]
            if not ratings:
                return None
            means[name] = sum(ratings) / len(ratings)
        return means


def rated_replies(replies: Iterable[Row], votes: Iterable[Row]) -> list[RatedReply]:
    """Return the replies to one speech that have a text, with their votes. Equal texts are kept once (lowest `number`)."""
    rated: dict[str, RatedReply] = {}
    for row in replies:
        if row["text"] is not None:
            rated.setdefault(row["reply"], RatedReply(row))
    for row in votes:
        if row["outcome"] == RATED and row["repeat"] == 0 and row["reply"] in rated:
            ratings = {name: row[f"{name}_rating"] for name in PRINCIPLES}
            rated[row["reply"]].votes[row["annotator"], row["vote"]] = ratings
    return list(rated.values())


def chosen_probability(chosen: RatedReply, rejected: RatedReply, weights: Mapping[str, float]) -> float | None:
    """Return the share of votes that score `chosen` higher; a vote with equal scores counts half.

    Only votes on both replies count; without any, the result is None. It is not smoothed: a single vote gives 1, 0.5 or 0.
    """
    shared = [key for key in chosen.votes if key in rejected.votes]
    preferences = [preference(chosen.votes[key], rejected.votes[key], weights) for key in shared]
    known = [value for value in preferences if value is not None]
    return sum(known) / len(known) if known else None


def tier(probability: float) -> str:
    """Return a word for the share of votes that agree with the pair: `unanimous` (all), `majority` (over half) or `split`."""
    return "unanimous" if probability == 1 else "majority" if probability > 0.5 else "split"


# Columns of the dataset: those of PsychoCounsel-Preference in their order, then our own

_FROM_SPEECH = ("topic", "risk", "source", "license", "language")


def dataset_schema(fractions: bool) -> pa.Schema:
    """Return the schema. Ratings are float64 if votes were averaged (`fractions`), otherwise int64 as in the released dataset."""
    text = ("question", *SIDES, *(f"{side}_model" for side in SIDES))
    ratings = [f"{side}_{name}_rating" for side in SIDES for name in PRINCIPLES]
    return pa.schema(
        [
            ("ID", pa.string()),
            ("prefID", pa.int64()),
            *((name, pa.string()) for name in text),
            *((name, pa.float64() if fractions else pa.int64()) for name in ratings),
            ("chosen_probability", pa.float64()),
            ("agreement", pa.string()),
            *((name, pa.string()) for name in _FROM_SPEECH),
        ]
    )


def pair_row(
    speech: Row, pair: tuple[RatedReply, RatedReply], ratings: tuple[dict[str, float], dict[str, float]], chosen: float
) -> Row:
    """Return a dataset row without `prefID`.

    `pair` and `ratings` hold the chosen reply first; `chosen` is its probability.
    """
    row: Row = {"ID": speech["speech"], "question": speech["text"]}
    for side, reply, rated in zip(SIDES, pair, ratings, strict=True):
        row |= {side: reply.row["text"], f"{side}_model": reply.row["model"] or reply.row["writer"]}
        row |= {f"{side}_{name}_rating": rated[name] for name in PRINCIPLES}
    row |= {"chosen_probability": chosen, "agreement": tier(chosen)}
    return row | {name: speech[name] for name in _FROM_SPEECH}
