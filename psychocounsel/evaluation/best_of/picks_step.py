"""The steps `picks` and `verdicts` of `evaluation=best_of`: reward models choose replies, judges compare them with the first."""

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa

from psychocounsel.asking.answers import Answers, asks_of
from psychocounsel.asking.budget import Estimate
from psychocounsel.evaluation.contestants import replies_step
from psychocounsel.evaluation.judging import verdicts_step
from psychocounsel.evaluation.judging.bias import training_warnings
from psychocounsel.evaluation.judging.pairs import ReplyPair, is_judged
from psychocounsel.reward.base import open_scorer
from psychocounsel.reward.encoding import score_what_fits
from psychocounsel.reward.sections import scorer_sections
from psychocounsel.rundir.paths import EvaluationDir
from psychocounsel.settings.targets import build_section
from psychocounsel.steps.course import StepContext
from psychocounsel.steps.tables import Row, by_speech, rows_of, written

SCHEMA = pa.schema(
    [
        *(pa.field(name, pa.string(), nullable=False) for name in ("speech", "reward_model")),
        *(pa.field(name, pa.int64(), nullable=False) for name in ("seed", "n", "sample")),
        pa.field("length_limit", pa.int64()),
        pa.field("reward", pa.float64(), nullable=False),
    ]
)
Replies = Iterable[tuple[str, Sequence[Row]]]  # the replies to each speech


def run(context: StepContext[EvaluationDir]) -> dict[str, Any]:
    """Score every reply with each reward model and write picks.parquet: the best of the first n replies, for each n.

    Replies without a text, and those that are too long for the reward model, are never chosen. A series of replies without
    a first one that judges can compare gets no picks.

    Raises:
        UserError: if a reward model cannot be loaded or gives no finite rewards.
    """
    speeches = {
        row["speech"]: json.loads(row["messages"]) for row in rows_of(context.files.speeches, ["speech", "messages"])
    }
    series = [*_series(_written_replies(context))]
    replies = [reply for rows in series for reply in rows if reply["text"]]
    conversations = [[*speeches[row["speech"]], {"role": "assistant", "content": row["text"]}] for row in replies]
    picks = list[Row]()
    for _, section in scorer_sections(context.config):
        scorer = open_scorer(build_section(section, "reward"))
        bar = partial(context.bar, what=f"scoring by {section.name}")
        rewards = scorer.unnormalised(score_what_fits(scorer, conversations, bar))
        for reply, reward in zip(replies, rewards.tolist(), strict=True):
            reply["reward"] = reward
        for rows in series:
            picks += _picks(rows, context.config.evaluation.n, section.name)
        del scorer  # one model is in memory at a time
    with written(context.files.picks, SCHEMA) as add:
        for pick in sorted(picks, key=lambda row: row["speech"]):
            add(pick)
    return {"picks": len(picks), "series": len(series)}


def judge(context: StepContext[EvaluationDir]) -> dict[str, Any]:
    """Ask the judges to compare each chosen reply with the first of its series, as `verdicts_step.run` does."""
    for line in training_warnings(context.config):
        context.say(line)
    return verdicts_step.run(context, picked_pairs)


def to_ask(context: StepContext[EvaluationDir], due: set[str]) -> list[str]:
    """Return the lines of a dry run; if replies are not picked yet, those of the largest number of different picks."""
    judging = verdicts_step.judging_of(context)
    with closing(Answers(context.files.answers)) as answers:
        pairs = picked_pairs(context)
        if "picks" in due:
            is_written = "replies" not in due
            replies = (
                _written_replies(context) if is_written else replies_step.imagined_replies(context, answers).items()
            )
            pairs = _possible_pairs(context, replies)
        asked = Estimate.of(asks_of(judging.calls(pairs)), answers).lines("verdicts")
        return [*training_warnings(context.config), *asked]


def _possible_pairs(context: StepContext[EvaluationDir], replies: Replies) -> Iterator[ReplyPair]:
    """Yield as many replies of each series with its first one as the reward models can pick at most."""
    models = len([*scorer_sections(context.config)])
    sizes = [
        n for n in context.config.evaluation.n if n > 1
    ]  # the best of one is the first reply, a tie without a call
    speeches = verdicts_step.speech_rows(context)
    for rows in _series(replies):
        if (speech := speeches.get(rows[0]["speech"])) is not None:
            last = max(sizes, default=1)
            yield from (ReplyPair(speech, row, rows[0]) for row in rows[1:last][: models * len(sizes)])


def picked_pairs(context: StepContext[EvaluationDir]) -> Iterator[ReplyPair]:
    """Yield each chosen reply with the first reply, once however many reward models choose it."""
    chosen = {_key(pick) for pick in rows_of(context.files.picks, SCHEMA.names)}
    speeches = verdicts_step.speech_rows(context)
    for rows in _series(_written_replies(context)):
        speech = speeches.get(rows[0]["speech"])
        if speech is not None:
            yield from (ReplyPair(speech, row, rows[0]) for row in rows[1:] if _key(row) in chosen)


def _key(row: Row) -> tuple[Any, ...]:
    return row["speech"], row["seed"], row["length_limit"], row["sample"]


def _written_replies(context: StepContext[EvaluationDir]) -> Replies:
    return by_speech(context.files.replies, verdicts_step.REPLY)


def _series(replies_by_speech: Replies) -> Iterator[list[Row]]:
    """Yield the replies of one model to each speech under each length limit, the first sample first; it must be judged."""
    for speech, replies in replies_by_speech:
        groups: dict[tuple[Any, ...], list[Row]] = {}
        for row in replies:
            groups.setdefault((row["seed"], row["length_limit"]), []).append({**row, "speech": speech})
        for rows in groups.values():
            rows.sort(key=lambda row: row["sample"])
            if is_judged(rows[0]):
                yield rows


def _picks(rows: list[Row], sizes: list[int], name: str) -> Iterator[Row]:
    for n in sorted(sizes):
        candidates = [row for row in rows[:n] if row["text"] and not np.isnan(row["reward"])]
        if candidates:
            best = max(candidates, key=lambda row: row["reward"])
            columns = {column: best[column] for column in SCHEMA.names if column in best}
            yield {**columns, "reward_model": name, "n": n}
