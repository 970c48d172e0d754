"""The keys of `psychocounsel chat`: models, scores shown with each reply, and the transcript."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, open_dict

from psychocounsel.asking.model_groups import idle_groups, models_of
from psychocounsel.errors import UserError
from psychocounsel.evaluation.audit.settings import names_no_reward
from psychocounsel.evaluation.contestants.entries import resolve_contestants
from psychocounsel.evaluation.settings import ReplyDrawing
from psychocounsel.reward.sections import idle_rewards
from psychocounsel.settings.schema import PathsConfig, option
from psychocounsel.settings.targets import build
from psychocounsel.storage.files import expanded

_SHIPPED = "builtin:tiny_dpo"
TRANSCRIPTS = (".jsonl", ".md")


@dataclass
class ChatConfig:
    """The keys outside the groups `contestants`, `reward` and `annotator`, which come from their `_target_`."""

    replies: ReplyDrawing = field(default_factory=ReplyDrawing)
    rubric: str = "builtin:en"
    transcript: str | None = None
    crisis_to_third_parties: bool = False
    paths: PathsConfig = field(default_factory=PathsConfig)
    code_path: list[str] = option([])


def resolve_chat(composed: DictConfig, preset: Any) -> None:
    """Resolve the models of a conversation; `preset` loads a file of a group.

    Without a model, the shipped one replies. Without a reward, the shipped one scores, if all models are shipped.

    Raises:
        UserError: for an entry of another form.
    """
    with open_dict(composed):
        if composed.model.get("path") is None and not composed.model.get("use"):
            composed.model.path = _SHIPPED
        resolve_contestants(composed, preset, files=False)
        shipped = all(str(member.get("model")).startswith("builtin:") for member in composed.contestants.members)
        if shipped and names_no_reward(composed):
            composed.reward = preset("reward", "tiny")


def idle_chat(config: DictConfig) -> Iterator[tuple[str, str]]:
    """Yield the keys of a conversation that have no effect, each with the reason."""
    scored_elsewhere = config.get("reward") is not None and bool(build(config, "reward").receivers("reward"))
    if not scored_elsewhere and not any(model.is_third_party() for model in models_of(config)):
        yield "crisis_to_third_parties", "no model belongs to a third party"
    yield from idle_groups(config)
    if config.get("annotator") is None:
        yield "rubric", "only an annotator uses it: add annotator=NAME"
    elif not any(model.reads_prompts for model in build(config, "annotator").models()):
        yield "rubric", "annotator=rules reads no prompt"
    yield from idle_rewards(config)


def check_chat(config: DictConfig) -> None:
    """Refuse a missing rubric, and a transcript that cannot be written; make the transcript's path absolute.

    Raises:
        UserError: naming the key and what to type instead.
    """
    if config.rubric != "builtin:en" and not expanded(config.rubric).is_dir():
        raise UserError(
            f"rubric={config.rubric}: no such folder; give one like psychocounsel/counsel/principles/en, or builtin:en"
        )
    if config.transcript is not None:
        config.transcript = str(transcript_path(config.transcript, "transcript="))


def transcript_path(given: str, before: str) -> Path:
    """Return the absolute path of a new transcript; error messages begin with `before` and the path.

    Raises:
        UserError: if the file does not end in .jsonl or .md, exists already, or its folder is missing.
    """
    path = expanded(given).absolute()
    if path.suffix.lower() not in TRANSCRIPTS:
        raise UserError(f"{before}{given}: a transcript is a file that ends in {' or '.join(TRANSCRIPTS)}")
    if path.exists() or path.is_symlink():
        raise UserError(f"{before}{given}: exists already and is not overwritten; give another name")
    if not path.parent.is_dir():
        raise UserError(f"{before}{given}: no such folder: {path.parent}")
    return path
