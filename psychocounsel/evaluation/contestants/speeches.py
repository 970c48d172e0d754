"""Speeches that contestants reply to: distinct prompts with their topic, their risk and whether training data has them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence

import pyarrow as pa
from omegaconf import DictConfig

from psychocounsel.asking.language_model import LanguageModel
from psychocounsel.counsel.traits import read_risk_rules, read_topics, sure_language_of
from psychocounsel.data.messages import Message, client_text
from psychocounsel.data.near_duplicates import near_matches, sketches
from psychocounsel.data.rows import Example
from psychocounsel.data.selection import load_split
from psychocounsel.data.shared_text import components_of, normalised
from psychocounsel.data.sources import StandardSource, load_examples
from psychocounsel.errors import UserError
from psychocounsel.evaluation.part import load_evaluated
from psychocounsel.rundir.run_config import read_config
from psychocounsel.rundir.trained_runs import runs_of
from psychocounsel.settings.targets import build
from psychocounsel.steps.tables import Row
from psychocounsel.storage.text_hashes import text_id

# Jaccard index of word 3-grams from which a speech counts as known from training; the default of `audit.near`.
NEAR = 0.8
SCHEMA = pa.schema(
    [
        pa.field("speech", pa.string(), nullable=False),
        pa.field("text", pa.string(), nullable=False),
        pa.field("messages", pa.string(), nullable=False),
        pa.field("language", pa.string()),
        pa.field("topic", pa.string()),
        pa.field("risk", pa.string(), nullable=False),
        pa.field("risk_source", pa.string(), nullable=False),
        pa.field("crisis", pa.bool_(), nullable=False),
        pa.field("near_training", pa.bool_(), nullable=False),
    ]
)


def evaluation_speeches(config: DictConfig, say: Callable[[str], None]) -> list[Row]:
    """Return the rows of speeches.parquet, ordered by `speech`.

    `part` and `limit` select prompts. `near_training` marks near duplicates of prompts that a contestant was trained on,
    as far as its training data are known.

    Raises:
        UserError: if no prompt is selected.
    """
    rows = load_evaluated(config, say)
    prompts = _distinct(rows.used)
    say(rows.part.line(config, len(prompts), len(_distinct(rows.whole)), "speeches"))
    prompts = prompts[: config.limit]
    if not prompts:
        raise UserError(
            "there are no speeches to reply to: part=held_out needs a held-out split; part=all takes all prompts"
        )
    known = _known(config, say)
    return sorted(_rows(prompts, known), key=lambda row: str(row["speech"]))


def _distinct(examples: Sequence[Example]) -> list[Example]:
    """Return the first example of each distinct prompt."""
    firsts: dict[str, Example] = {}
    for example in examples:
        firsts.setdefault(normalised(example.prompt), example)
    return list(firsts.values())


def _rows(examples: Sequence[Example], known: Sequence[str]) -> Iterator[Row]:
    texts = [normalised(example.prompt) for example in examples]
    near = near_matches(sketches(texts), sketches(known), NEAR) if known else set()
    topics, risks = read_topics(), read_risk_rules()
    for number, example in enumerate(examples):
        speech = client_words(example.prompt)
        topic, risk = topics.of(speech, example.topic), risks.of(speech, example.risk)
        yield {
            "speech": speech_id(texts[number]),
            "text": speech,
            "messages": json.dumps(example.prompt),
            "language": sure_language_of(speech),
            "topic": topic.coarse or example.topic,
            "risk": risk.kind,
            "risk_source": risk.source,
            "crisis": risk.crisis,
            "near_training": number in near,
        }


def speech_id(prompt: str) -> str:
    """Return the id of a speech in the tables, a hash of its normalised prompt."""
    return text_id(prompt)


def client_words(prompt: Sequence[Message]) -> str:
    """Return all client turns of a prompt as one text."""
    return client_text(prompt, "\n\n")


def clients_of(speeches: Iterable[Row]) -> dict[str, int]:
    """Return the number of each speech's client, by id: the turns of a session, which begin alike, are of one client.

    `speeches`: rows of speeches.parquet with the columns speech and messages.
    """
    examples = [Example(row["speech"], "", json.loads(row["messages"]), []) for row in speeches]
    return dict(zip((example.id for example in examples), components_of(examples).tolist(), strict=True))


def _known(config: DictConfig, say: Callable[[str], None]) -> list[str]:
    """Return the normalised prompts that contestants were trained on, as known from their runs and from `trained_on`."""
    examples, unknown = training_examples(config, build(config, "contestants").models())
    if unknown and not config.trained_on:
        say(
            f"the training data of {', '.join(unknown)} are unknown, so speeches near them are not marked; "
            "trained_on=[FILE] names them"
        )
    return sorted({normalised(example.prompt) for example in examples})


def training_examples(config: DictConfig, models: Sequence[LanguageModel]) -> tuple[list[Example], list[str]]:
    """Return the known training data of `models`, and the names of the models without any.

    The data are those of `trained_on`, of the runs that trained a model, and of the shipped model that they started from.

    Raises:
        UserError: if a run's data cannot be read any more.
    """
    source = StandardSource(columns=config.data.columns, html=config.data.html)
    examples = [example for path in config.trained_on for example in load_examples(path, "train", None, source)]
    unknown = []
    for model in models:
        runs = runs_of(model.model)
        for run in runs:
            examples += load_split(read_config(run).data, lambda line: None)[0]
        base = read_config(runs[-1]).model.path if runs else model.model
        if str(base).startswith("builtin:"):
            examples += _of_shipped_models(config)
        elif not runs:
            unknown.append(model.name)
    return examples, unknown


def _of_shipped_models(config: DictConfig) -> list[Example]:
    """Return the training split of the sample, on which the shipped models were trained."""
    if config.data.path == "builtin:sample":
        return load_split(config.data, lambda line: None)[0]
    return load_examples("builtin:sample", "train", None)
