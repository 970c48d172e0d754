"""The speeches that contestants reply to: prompts of held-out pairs, each once, with topic, risk and nearness to training."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pyarrow as pa
from omegaconf import DictConfig, OmegaConf

from psychocounsel.counsel.language import sure_language_of
from psychocounsel.counsel.risk_rules import read_risk_rules
from psychocounsel.counsel.topic_rules import read_topics
from psychocounsel.data.rows import Example, Message
from psychocounsel.data.selection.near import near_matches, sketches
from psychocounsel.data.selection.select import load_split
from psychocounsel.data.selection.shared_text import normalised
from psychocounsel.data.sources import load_examples
from psychocounsel.errors import UserError
from psychocounsel.rundir.run_config import is_run, read_config
from psychocounsel.settings.targets import build
from psychocounsel.steps.tables import Row

NEAR = 0.8  # share of word 3-grams from which on a speech counts as known from training, as in `audit`
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
    """The rows of speeches.parquet, ordered by `speech`.

    `part` and `limit` select pairs' prompts as in `evaluation=reward`. `near_training` marks those that are nearly the same as
    a prompt that a contestant was trained on, as far as that is known.

    Raises:
        UserError: if there are none.
    """
    train, held_out = load_split(config.data, say)
    prompts = _distinct([*train, *held_out] if config.part == "all" else held_out)[: config.limit]
    if not prompts:
        raise UserError(
            "there are no speeches to reply to: part=held_out needs a held-out part of data, part=all takes all"
        )
    known = _known(config, say)
    return sorted(_rows(prompts, known), key=lambda row: str(row["speech"]))


def _distinct(examples: Sequence[Example]) -> list[Example]:
    """The first example of each prompt."""
    found: dict[str, Example] = {}
    for example in examples:
        found.setdefault(normalised(example.prompt), example)
    return list(found.values())


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
    """The id of a speech in the tables, by its normalised prompt."""
    return hashlib.sha256(prompt.encode()).hexdigest()[:16]


def client_words(prompt: Sequence[Message]) -> str:
    """What the client says in a prompt: all their turns."""
    return "\n\n".join(message["content"] for message in prompt if message["role"] == "user")


def _known(config: DictConfig, say: Callable[[str], None]) -> list[str]:
    """The normalised prompts that contestants were trained on, where their run or `trained_on` tells."""
    found = set[str]()
    for path in config.trained_on:
        found |= {normalised(example.prompt) for example in load_examples(path, "train", None)}
    unknown = []
    for model in build(config, "contestants").models():
        runs = runs_of(model.model)
        for run in runs:
            found |= {normalised(example.prompt) for example in load_split(read_config(run).data, lambda line: None)[0]}
        base = read_config(runs[-1]).model.path if runs else model.model
        if str(base).startswith("builtin:"):
            found |= {normalised(example.prompt) for example in _of_shipped_models(config)}
        elif not runs:
            unknown.append(model.name)
    if unknown and not config.trained_on:
        say(
            f"training data of {', '.join(unknown)}: unknown, so speeches near it are not left out; trained_on=[FILE] names it"
        )
    return sorted(found)


def _of_shipped_models(config: DictConfig) -> list[Example]:
    """Shipped models know the training part of the sample."""
    if config.data.path == "builtin:sample":
        return load_split(config.data, lambda line: None)[0]
    return load_examples("builtin:sample", "train", None)


def runs_of(path: str | None) -> list[Path]:
    """The runs that weights went through, the last one first: a DPO run began with the model of an SFT run, and so on."""
    found = list[Path]()
    while (run := run_of(path)) is not None and run not in found:
        found.append(run)
        path = OmegaConf.select(read_config(run), "model.path")
    return found


def run_of(path: str | None) -> Path | None:
    """The training run that a contestant's weights lie in; None of other weights.

    A served model may have the name of any folder, as of an evaluation, which trained nothing.
    """
    if path is None or path.startswith("builtin:"):
        return None
    folder = Path(path)
    return next((each for each in (folder, folder.parent) if each.is_dir() and _has_trained(each)), None)


def _has_trained(folder: Path) -> bool:
    return is_run(folder) and OmegaConf.select(read_config(folder), "model.path") is not None
