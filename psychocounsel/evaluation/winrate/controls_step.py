"""The step `controls` of `evaluation=winrate`: judges compare controls and contestants with the best replies of the data.

A judge's verdicts on controls depend on the judge and the data alone, so that `paths.cache` keeps them for other evaluations.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from omegaconf import DictConfig

from psychocounsel.asking.answers import Answers, asks_of
from psychocounsel.asking.budget import Estimate
from psychocounsel.asking.language_model import FAILED, OTHER_LANGUAGE, WITHHELD, LanguageModel
from psychocounsel.asking.system_prompts import replies_prompt
from psychocounsel.counsel.system_prompt import COUNSELLOR
from psychocounsel.data.shared_text import normalised
from psychocounsel.errors import UserError
from psychocounsel.evaluation.contestants import replies_step
from psychocounsel.evaluation.judging.controls import CONTROL, DATA, ControlledSpeech, controlled_speeches
from psychocounsel.evaluation.judging.pairs import (
    OTHER_MODEL,
    SCHEMA,
    JudgeCall,
    Judging,
    ReplyPair,
    by_usual_model,
    is_judged,
    made_reply,
    read_verdict,
)
from psychocounsel.evaluation.judging.served_models import Models, answered_by
from psychocounsel.evaluation.judging.verdicts_step import REPLY, judging_of, speech_rows
from psychocounsel.evaluation.part import load_evaluated
from psychocounsel.rundir.paths import EvaluationDir
from psychocounsel.steps.buying import buy
from psychocounsel.steps.course import StepContext
from psychocounsel.steps.tables import Row, by_speech, rows_of, written
from psychocounsel.storage.cache_entries import Entry
from psychocounsel.storage.modes import make_shared, restricted
from psychocounsel.storage.trust import open_trusted


def run(context: StepContext[EvaluationDir]) -> dict[str, Any]:
    """Ask the judges for the verdicts that journal and cache lack, and write controls.parquet, ordered by speech.

    Raises:
        BudgetSpent: if the budget ends before all verdicts are bought; the journal keeps the bought ones.
        UserError: if a key, an address or the rubric is wrong, or no server answers any more.
    """
    config, judging = context.config, replace(judging_of(context), both_orders=False)
    pairs, models = [*_pairs(context, _replies(context))], _models(context)
    known = _known(config, judging, pairs, models)
    with closing(Answers(context.files.answers, context.shard)) as answers:
        calls = [*_calls(judging, pairs, known)]
        asks = [*asks_of(calls)]
        budget = buy(
            asks,
            answers,
            config.budget,
            models=judging.judges,
            key="judge",
            read=read_verdict,
            retries=config.evaluation.retries,
            count=len(asks),
            bar=context.bar,
            what="verdicts on controls",
        )
        rows = [row for stored in known.values() for row in stored]
        rows += [judging.row(call, answers, config.evaluation.retries) for call in calls]
    models = answered_by(rows) | models
    rows = [by_usual_model(row, models) for row in rows]
    with written(context.files.controls, SCHEMA) as add:
        for row in sorted(rows, key=lambda row: str(row["speech"])):
            add(row)
    _keep(config, judging, pairs, known, rows)
    outcomes = {
        judge.name: dict(Counter(row["outcome"] for row in rows if row["judge"] == judge.name))
        for judge in judging.judges
    }
    return {"verdicts": len(rows), "outcomes": outcomes, "spent": budget.spent, "bought": budget.made}


def to_ask(context: StepContext[EvaluationDir], without_replies: bool) -> list[str]:
    """Return the lines of a dry run. With `without_replies`, placeholders stand for replies that are not written yet."""
    judging = replace(judging_of(context), both_orders=False)
    with closing(Answers(context.files.answers)) as answers:
        replies = replies_step.imagined_replies(context, answers) if without_replies else _replies(context)
        pairs = [*_pairs(context, replies)]
        calls = _calls(judging, pairs, _known(context.config, judging, pairs, _models(context)))
        return Estimate.of(asks_of(calls), answers).lines("controls")


def _models(context: StepContext[EvaluationDir]) -> dict[str, Counter[str]]:
    """Return the models that gave the verdicts on the contestants' pairs; {} if there are no verdicts yet."""
    verdicts = context.files.verdicts
    return answered_by(rows_of(verdicts, ["judge", "model"])) if verdicts.exists() else {}


def _replies(context: StepContext[EvaluationDir]) -> dict[str, list[Row]]:
    return dict(by_speech(context.files.replies, REPLY))


def _pairs(context: StepContext[EvaluationDir], replies: Mapping[str, Sequence[Row]]) -> Iterator[ReplyPair]:
    """Yield the pairs about each controlled speech: controls, then the contestants' replies, against replies of the data."""
    speeches = speech_rows(context)
    controlled = {speech.id: speech for speech in _controlled(context) if speech.id in speeches}
    for name in sorted(controlled):
        yield from _of_speech(speeches[name], controlled[name], replies.get(name, []))


def _of_speech(speech: Row, controlled: ControlledSpeech, replies: Sequence[Row]) -> Iterator[ReplyPair]:
    anchors = [made_reply(f"{DATA} {name}", text) for name, text in controlled.anchors.items()]
    for kind, text in controlled.controls.items():
        for anchor in anchors:
            yield ReplyPair(speech, made_reply(f"{CONTROL} {kind}", text), anchor)
    for reply in replies:
        if is_judged(reply):
            for anchor in anchors:
                yield ReplyPair(
                    speech, reply, anchor | {"length_limit": reply["length_limit"], "sample": reply["sample"]}
                )


def _controlled(context: StepContext[EvaluationDir]) -> list[ControlledSpeech]:
    config = context.config
    prompt = replies_prompt(config) or COUNSELLOR
    examples = load_evaluated(config, lambda line: None).used
    prompts = dict.fromkeys(normalised(example.prompt) for example in examples)
    evaluated = {*islice(prompts, config.limit)}  # as `evaluation_speeches` chooses them
    examples = [example for example in examples if normalised(example.prompt) in evaluated]
    return controlled_speeches(examples, prompt, config.evaluation.controls)


def _calls(judging: Judging, pairs: Sequence[ReplyPair], known: Mapping[str, Sequence[Row]]) -> Iterator[JudgeCall]:
    """Yield the calls about `pairs`, except those about controls of judges whose verdicts are `known`."""
    for call in judging.calls(pairs):
        if not (_is_control(call.pair) and call.judge.name in known):
            yield call


def _is_control(pair: ReplyPair) -> bool:
    return str(pair.first["setting"]).startswith(f"{CONTROL} ")


# Verdicts on controls in the cache, a file for each judge and set of controls.

_NO_VERDICT = (FAILED, WITHHELD, OTHER_MODEL)


def _file(config: DictConfig, judging: Judging, judge: LanguageModel, pairs: Sequence[ReplyPair]) -> Path:
    controls = [[pair.speech["speech"], pair.first["text"], pair.second["text"]] for pair in pairs if _is_control(pair)]
    about = [judge.digest, judging.version(judge), judging.seed, config.evaluation.retries, SCHEMA.names, controls]
    about += [judge.language] if judge.language else []  # it is asked about speeches in this language alone
    name = hashlib.sha256(json.dumps(about).encode()).hexdigest()[:32]
    return _home(config.paths.cache) / f"{name}.parquet"


def _known(config: DictConfig, judging: Judging, pairs: Sequence[ReplyPair], models: Models) -> dict[str, list[Row]]:
    """Return the rows of the judges whose verdicts on these controls are in the cache, by judge; damaged files are ignored.

    Verdicts of another model than the judge's most frequent one in `models` do not count: its server has changed its model.
    """
    known: dict[str, list[Row]] = {}
    for judge in judging.judges:
        file = _file(config, judging, judge, pairs)
        with contextlib.suppress(UserError, OSError):  # missing or damaged, or another user could have written it
            open_trusted(file).close()
            rows = [*rows_of(file, SCHEMA.names)]
            for row in rows:  # a judge with the same settings may have had another name
                row["judge"] = judge.name
                row["model"] = row["model"] if judge.reads_prompts or not row["model"] else judge.name
            # earlier versions stored withheld rows, and those of a judge of one language for the same judge of any
            unasked = (WITHHELD,) if judge.language else (WITHHELD, OTHER_LANGUAGE)
            if all(row["outcome"] not in unasked and by_usual_model(row, models) is row for row in rows):
                known[judge.name] = rows
    return known


def _keep(
    config: DictConfig,
    judging: Judging,
    pairs: Sequence[ReplyPair],
    known: Mapping[str, Sequence[Row]],
    rows: Sequence[Row],
) -> None:
    """Write a judge's verdicts on controls to the cache if the judge was asked about all controls and always answered."""
    for judge in judging.judges:
        own = [row for row in rows if row["judge"] == judge.name and row["first_setting"].startswith(f"{CONTROL} ")]
        if not own or judge.name in known or any(row["outcome"] in _NO_VERDICT for row in own):
            continue
        file = _file(config, judging, judge, pairs)
        make_shared(file.parent)
        with restricted(0o022), written(file, SCHEMA) as add:  # readers trust no file that others may write
            for row in own:
                add(row)


# For `psychocounsel cache`


def _home(cache: str | Path) -> Path:
    return Path(cache) / "controls"


def folders(cache: Path) -> list[Path]:
    return [_home(cache)]


def entries(cache: Path) -> Iterator[Entry]:
    for file in sorted(_home(cache).glob("*.parquet")):
        rows, about = 0, "damaged"
        with contextlib.suppress(OSError, pa.ArrowException):
            rows, about = pq.read_metadata(file).num_rows, "verdicts of a judge on controls"
        yield Entry("controls", about, rows, file.stat().st_mtime, [file])
