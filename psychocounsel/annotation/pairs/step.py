"""The step `pairs` makes the training dataset from votes.parquet."""

from collections.abc import Iterator
from typing import Any

from omegaconf import DictConfig

from psychocounsel.annotation.pairs.dataset_tables import SPLITS, dataset_schema
from psychocounsel.annotation.pairs.merged_votes import TIERS
from psychocounsel.annotation.pairs.pair_making import PairMaker
from psychocounsel.annotation.scores.vote_table import RATED, RATING_COLUMNS
from psychocounsel.counsel.pairs import PairRule
from psychocounsel.counsel.principles import PRINCIPLES
from psychocounsel.errors import UserError
from psychocounsel.rundir.paths import AnnotationDir
from psychocounsel.steps.context import Say, StepContext
from psychocounsel.steps.tables import Row, by_speech, joined, rows_of, written

_SPEECH = ("text", "topic", "risk", "source", "license", "language", "split")
_REPLY = ("number", "reply", "writer", "model", "text")
_VOTE = ("reply", "annotator", "vote", "repeat", "outcome", *RATING_COLUMNS)

_REASONS = {
    "equal_scores": "pairs with equal scores",
    "gap_too_small": "pairs with a gap below pairs.min_gap",
    "chosen_less_safe": "pairs whose higher-scored reply is rated less safe (pairs.safety_veto)",
    "no_vote_rated_both": "pairs without a vote on both replies",
    "equal_replies": "replies that repeat another reply's text",
    "replies_without_text": "replies without a text",
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
        UserError: if a table is missing or damaged, or if `pairs.principle_weights` is invalid.
    """
    rules, files = context.config.pairs, context.files
    weights = _weights(rules)
    makers = {split: PairMaker(_rule(rules, split), weights, rules.safety_veto) for split in SPLITS}
    averaged = _several_votes(files)
    schema, number = dataset_schema(averaged), 0
    files.dataset.mkdir(exist_ok=True)
    files.card.unlink(missing_ok=True)  # it describes the old pairs, and `datasets` would cache by its old content hash
    with (
        written(files.dataset / "train.parquet", schema) as train,
        written(files.dataset / "test.parquet", schema) as test,
    ):
        for speech, replies, votes in context.bar(_speeches(files), "pairs"):
            split = speech["split"]
            for row in makers[split].pairs(speech, replies, votes):
                (test if split == "test" else train)({**row, "prefID": number})
                number += 1
    figures: dict[str, Any] = {split: _figures(maker) for split, maker in makers.items()}
    if not figures["test"]["pairs"]:
        (files.dataset / "test.parquet").unlink()  # `datasets` loads no folder with an empty split
    _tell(figures, averaged, context.say)
    return {**figures, "votes_averaged": averaged}


def _weights(rules: DictConfig) -> dict[str, float]:
    if unknown := [name for name in rules.principle_weights if name not in PRINCIPLES]:
        raise UserError(f"pairs.principle_weights: {unknown[0]} is not a principle; they are {', '.join(PRINCIPLES)}")
    weights = {name: float(rules.principle_weights.get(name, 1.0)) for name in PRINCIPLES}
    if min(weights.values()) < 0 or not any(weights.values()):
        raise UserError("pairs.principle_weights: weights must be 0 or more, and not all 0")
    return weights


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
    for split, each in figures.items():
        tiers = ", ".join(f"{name} {count}" for name, count in each["agreement"].items())
        say(f"{split}: {each['pairs']} pairs" + (f" ({tiers})" if averaged else " (one vote each)"))
        for name, reason in _REASONS.items():
            if each["dropped"][name]:
                say(f"  dropped: {each['dropped'][name]} {reason}")
        if each["against_majority"]:
            count = each["against_majority"]
            say(f"  {count} pairs follow the mean rating against most votes: their chosen_probability is below 0.5")
