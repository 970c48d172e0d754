"""Sources of pairs to review: folders of annotate, evaluate and audit, and files of pairs."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from psychocounsel.counsel.language import sure_language_of
from psychocounsel.counsel.principles import PRINCIPLES
from psychocounsel.counsel.risk_rules import read_risk_rules
from psychocounsel.data.rows import Example
from psychocounsel.data.selection.select import load_split
from psychocounsel.data.selection.shared_text import normalised
from psychocounsel.data.sources import load_examples
from psychocounsel.errors import UserError
from psychocounsel.evaluation.contestants.evaluation_speeches import client_words, speech_id
from psychocounsel.experts.items.candidate import PairCandidate, candidate, distinct
from psychocounsel.experts.items.judged_candidates import judged_candidates
from psychocounsel.rundir.paths import AnnotationDir, EvaluationDir, RunDir
from psychocounsel.rundir.run_config import read_config
from psychocounsel.steps.tables import Row, rows_of

_COLUMNS = ("ID", "question", "chosen", "rejected", "chosen_probability", "topic", "risk", "language")
_RATINGS = [(f"chosen_{name}_rating", f"rejected_{name}_rating") for name in PRINCIPLES]
SPLIT_VOTES = "split_votes"  # at most half of the annotators' votes prefer the chosen reply


def candidates_of(data: Path) -> list[PairCandidate]:
    """Return every pair of replies in a folder of annotate, evaluate or audit, or in a file, ordered by item.

    Raises:
        UserError: if there is no pair, or `data` is not such a folder or file.
    """
    found = distinct(_read(data))
    if not found:
        raise UserError(f"data={data}: no speech has two different replies")
    return found


def _read(data: Path) -> Iterator[PairCandidate | None]:
    tables = [file for name in ("train", "test") if (file := AnnotationDir(data).dataset / f"{name}.parquet").is_file()]
    if tables:
        return (_of_dataset(row) for file in tables for row in rows_of(file, [*_COLUMNS, *sum(_RATINGS, ())]))
    if EvaluationDir(data).verdicts.is_file():
        return judged_candidates(EvaluationDir(data))
    if RunDir(data).audit.is_file():
        config = read_config(data)
        train, held_out = load_split(config.data, lambda line: None)
        return _of_examples(([*train, *held_out] if config.part == "all" else held_out)[: config.limit], data)
    if data.is_dir() and not any(data.glob("*.jsonl")) and not any(data.rglob("*.parquet")):
        raise UserError(
            f"data={data}: this folder holds no pairs, crisis set or adjudicate.csv; if annotate, evaluate or audit writes this "
            "folder, that run has not come far enough: wait for it, or give another folder"
        )
    if not data.exists():
        raise UserError(f"data={data}: does not exist")
    return _of_examples(load_examples(str(data), "train", None), data)


def _of_dataset(row: Row) -> PairCandidate | None:
    gaps = [row[chosen] - row[rejected] for chosen, rejected in _RATINGS]
    return candidate(
        row["ID"],
        [{"role": "user", "content": row["question"]}],
        row["chosen"],
        row["rejected"],
        0,
        gap=sum(gaps) / len(gaps),
        flags=(SPLIT_VOTES,) if row["chosen_probability"] <= 0.5 else (),
        **{name: row[name] for name in ("risk", "topic", "language")},
    )


def _of_examples(examples: Sequence[Example], data: Path) -> Iterator[PairCandidate | None]:
    """Yield pairs as training reads them. Risk comes from the data's column, or from the shipped rules."""
    risks = read_risk_rules()
    for example in examples:
        if len(example.replies) != 2 or example.rated:
            raise UserError(
                f"data={data}: {example.where}: not a pair of a chosen and a rejected reply; annotate makes pairs from ratings"
            )
        words = client_words(example.prompt)
        yield candidate(
            speech_id(normalised(example.prompt)),
            example.prompt,
            example.replies[0],
            example.replies[1],
            0,
            gap=_gap(example.ratings),
            flags=(SPLIT_VOTES,) if example.probability is not None and example.probability <= 0.5 else (),
            risk=risks.of(words, example.risk).kind,
            topic=example.topic,
            language=sure_language_of(words),
        )


def _gap(ratings: Any) -> float | None:
    """Return the difference of mean ratings over the principles that both replies have."""
    if not ratings or len(ratings) != 2:
        return None
    both = ratings[0].keys() & ratings[1].keys()
    return sum(ratings[0][name] - ratings[1][name] for name in both) / len(both) if both else None
