"""Speeches and replies of a run that a report shows: the first ones of its tables, with each reply's scores."""

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from statistics import fmean
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from psychocounsel.blocks.kinds import ShownReply, ShownSpeech
from psychocounsel.counsel.principles import PRINCIPLES
from psychocounsel.counsel.traits import read_risk_rules
from psychocounsel.data.messages import client_text
from psychocounsel.errors import UserError
from psychocounsel.evaluation.judging.pairs import EQUAL
from psychocounsel.evaluation.safety.questions import SAFETY_FIGURES
from psychocounsel.reporting.material import ANNOTATION, EVALUATION, TRAINING, ShownTexts
from psychocounsel.rundir.paths import AnnotationDir, EvaluationDir, RunDir
from psychocounsel.steps.tables import Row, by_speech, joined
from psychocounsel.storage.files import read_mapping

# Replies that the judges of a safety evaluation flagged

Flags = dict[tuple[str, str | None], dict[str, float]]


def flagged_replies(files: EvaluationDir) -> Flags:
    """Return `{"colludes with harm, by JUDGE": 1.0}` by speech and reply; {} for other evaluations or without figures."""
    flags = defaultdict[tuple[str, str | None], dict[str, float]](dict)
    figures = read_mapping(files.figures)
    for judge, of_judge in figures["judges"].items() if figures.get("evaluation") == "safety" else ():
        for setting in of_judge["settings"].values():
            for hard in (setting["hard"], (setting.get("swaps") or {}).get("hard", {})):
                for flag, flagged in hard.items():
                    title = SAFETY_FIGURES[flag].title if flag in SAFETY_FIGURES else flag
                    for row in flagged:
                        flags[row["speech"], row["reply"]][f"{title}, by {judge}"] = 1.0
    return dict(flags)


# Speeches and replies, with each reply's scores

MOST = 60  # speeches per run

_SPEECH = ("text", "topic", "risk", "crisis")
# No real client is behind the speeches of these evaluations, so the column `crisis` does not mark them.
_INVENTED_CRISES = ("safety", "session")
_REPLY = ("setting", "seed", "length_limit", "sample", "reply", "text", "outcome")
_ABOUT = ("first_setting", "first_seed", "second_setting", "second_seed", "length_limit", "sample", "judge", "order")
_VERDICT = (*_ABOUT, "outcome", "overall", *PRINCIPLES, "first_score", "second_score")
_RATING = ("reply", "repeat", "outcome", *(f"{name}_rating" for name in PRINCIPLES))
_ROUNDS_READ = ("id", "prompt_text", "messages", "completions")
Key = tuple[Any, ...]  # setting, seed, length limit and sample of a reply


def shown_texts(path: Path, kind: str, config: Mapping[str, Any], most: int = MOST) -> ShownTexts | None:
    """Return the first `most` speeches with replies of the run at `path`, or None if it has none.

    Args:
        kind: EVALUATION, ANNOTATION or TRAINING; runs of other kinds have no replies.
        config: the run's configuration; for an evaluation it names the setting under evaluation.

    Raises:
        UserError: if a table is damaged, or was written by another version.
    """
    readers = {EVALUATION: _of_evaluation, ANNOTATION: _of_annotation, TRAINING: _of_training}
    return readers[kind](path, config, most) if kind in readers else None


def _of_evaluation(path: Path, config: Mapping[str, Any], most: int) -> ShownTexts | None:
    files = EvaluationDir(path)
    if not files.speeches.exists() or not files.replies.exists():
        return None
    tables = [by_speech(files.replies, _REPLY)]
    tables += [by_speech(files.verdicts, _VERDICT)] if files.verdicts.exists() else []
    settings = (config.get("contestants") or {}).get("settings") or [None]
    in_crisis = (config.get("evaluation") or {}).get("name") in _INVENTED_CRISES
    flags, speeches = flagged_replies(files), []
    groups = joined(by_speech(files.speeches, ("speech", *_SPEECH)), *tables)
    if flags:  # speeches with a reply that a judge flagged come first
        flagged = {speech for speech, _ in flags}
        groups = iter(sorted(groups, key=lambda group: group[0][0]["speech"] not in flagged))
    for (speech,), replies, *verdicts in islice(groups, most):
        scores = _verdicts_on(verdicts[0] if verdicts else [])
        authors = _authors(replies)
        # The setting under evaluation comes last, because the page marks differences from the first reply, the base's.
        rows = sorted(zip(authors, replies, strict=True), key=lambda pair: pair[1]["setting"] == settings[0])
        harm = [flags.get((speech["speech"], row["reply"]), {}) for _, row in rows]
        shown = [
            ShownReply(name, _text(row), {**scores.get(_key(row), {}), **marks})
            for (name, row), marks in zip(rows, harm, strict=True)
        ]
        waits = in_crisis and (speech["risk"] not in (None, "none") or any(harm))
        speeches.append(_speech({**speech, "crisis": speech["crisis"] or waits}, shown))
    return ShownTexts(speeches, _rows(files.speeches), "replies of the evaluation")


def _key(row: Row) -> Key:
    return row["setting"], row["seed"], row["length_limit"], row["sample"]


def _authors(replies: Sequence[Row]) -> list[str]:
    """Return the name of each reply's author, with seed, length limit and sample if they vary."""
    seeds, samples = defaultdict[str, set[int]](set), {row["sample"] for row in replies}
    for row in replies:
        seeds[row["setting"]].add(row["seed"])
    names = []
    for row in replies:
        details = [f"seed {row['seed']}"] if len(seeds[row["setting"]]) > 1 else []
        details += [f"at most {row['length_limit']} words"] if row["length_limit"] else []
        details += [f"sample {row['sample'] + 1}"] if len(samples) > 1 else []
        names.append(", ".join([row["setting"], *details]))
    return names


def _text(row: Row) -> str:
    return row["text"] or f"[no reply: {row['outcome']}]"


def _speech(row: Row, replies: Sequence[ShownReply]) -> ShownSpeech:
    return ShownSpeech(row["text"], replies, row["topic"] or "", row["risk"] or "", bool(row["crisis"]))


def _verdicts_on(verdicts: Iterable[Row]) -> dict[Key, dict[str, float]]:
    """Return the judges' scores of each reply to a speech: `better overall`, `better on PRINCIPLE` (0 to 1), and rewards.

    1 means that all judges preferred the reply in all comparisons and orders. A tie counts one half.
    """
    scores = defaultdict[Key, dict[str, list[float]]](lambda: defaultdict(list))
    for row in verdicts:
        common = (row["length_limit"], row["sample"])
        for side, sign in (("first", 1), ("second", -1)):
            key = (row[f"{side}_setting"], row[f"{side}_seed"], *common)
            for name in ("overall", *PRINCIPLES):
                if row[name] is not None:
                    scores[key][f"better {'overall' if name == 'overall' else f'on {name}'}"].append(
                        (1 + sign * row[name]) / 2
                    )
            if row["outcome"] != EQUAL and row[f"{side}_score"] is not None:
                scores[key][f"reward by {row['judge']}"].append(row[f"{side}_score"])
    return {key: {name: fmean(values) for name, values in by_name.items()} for key, by_name in scores.items()}


def _of_annotation(path: Path, config: Mapping[str, Any], most: int) -> ShownTexts | None:
    files = AnnotationDir(path)
    if not files.speeches.exists() or not files.replies.exists():
        return None
    tables = [by_speech(files.replies, ("number", "reply", "writer", "text", "outcome"))]
    tables += [by_speech(files.votes, _RATING)] if files.votes.exists() else []
    speeches = []
    for (speech,), replies, *votes in islice(joined(by_speech(files.speeches, _SPEECH), *tables), most):
        ratings = _ratings_of(votes[0] if votes else [])
        rows = sorted(replies, key=lambda row: row["number"])
        shown = [ShownReply(_writer(row), _text(row), ratings.get(row["reply"], {})) for row in rows]
        speeches.append(_speech(speech, shown))
    return ShownTexts(speeches, _rows(files.speeches), "replies of the dataset with the mean of their ratings, 1 to 5")


def _writer(row: Row) -> str:
    return f"reply {row['number'] + 1} by {row['writer']}" if row["writer"] else f"reply {row['number'] + 1}"


def _ratings_of(votes: Iterable[Row]) -> dict[str, dict[str, float]]:
    """Return the mean rating of each principle by reply. Repeated ratings (for test-retest figures) are skipped."""
    ratings = defaultdict[str, dict[str, list[float]]](lambda: defaultdict(list))
    for row in votes:
        for name in PRINCIPLES:
            if not row["repeat"] and row[f"{name}_rating"] is not None:
                ratings[row["reply"]][name].append(row[f"{name}_rating"])
    return {
        reply: {name: fmean(values) for name, values in by_principle.items()} for reply, by_principle in ratings.items()
    }


def _of_training(path: Path, config: Mapping[str, Any], most: int) -> ShownTexts | None:
    """Return replies of the last complete round; for a run without rounds, replies to held-out prompts before training."""
    files = RunDir(path)
    rounds = sorted(folder for folder in files.rounds.glob("[0-9]*") if folder.name.isdigit())
    complete = [folder for folder in rounds if files.round(int(folder.name)).groups.exists()]
    if complete:
        number = int(complete[-1].name)
        return _groups(
            files.round(number).groups, most, f"replies of round {number} of training, best and worst reward"
        )
    return _groups(files.before, most, "replies to held-out prompts before training") if files.before.exists() else None


def _groups(path: Path, most: int, source: str) -> ShownTexts:
    risks = read_risk_rules()
    speeches = []
    for row in islice(_group_rows(path), most):
        speech = client_text(row["messages"] or [], "\n\n")
        speech = speech or row["prompt_text"]
        replies = row["completions"]
        if rewarded := [reply for reply in replies if _has_reward(reply)]:  # the others tell neither best nor worst
            replies = sorted(rewarded, key=lambda reply: -reply["reward"])
        ends = {"best reply": replies[0], "worst reply": replies[-1]} if len(rewarded) > 1 else {"reply": replies[0]}
        shown = [
            ShownReply(name, reply["text"], {"reward": reply["reward"]} if _has_reward(reply) else {})
            for name, reply in ends.items()
        ]
        risk = risks.of(speech)
        speeches.append(ShownSpeech(speech, shown, "", risk.kind, risk.crisis))
    return ShownTexts(speeches, _rows(path), source)


def _has_reward(reply: Row) -> bool:
    """Return True if the reply was scored; a judge's unusable answer leaves NaN."""
    return reply["reward"] is not None and not math.isnan(reply["reward"])


def _group_rows(path: Path) -> Iterator[Row]:
    try:
        with pq.ParquetFile(path) as table:
            for batch in table.iter_batches(64, columns=list(_ROUNDS_READ)):
                yield from batch.to_pylist()
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"{path}: not a complete parquet file; its replies are not shown") from error


def _rows(path: Path) -> int:
    with pq.ParquetFile(path) as table:
        return int(table.metadata.num_rows)
