"""The keys of `psychocounsel.chat`: models, scores shown with each reply, and the transcript."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf, open_dict

from psychocounsel.errors import UserError
from psychocounsel.settings.schema import PathsConfig, option
from psychocounsel.settings.typed.audit_keys import names_no_reward
from psychocounsel.settings.typed.evaluate_keys import ReplyDrawing

MAY_BE_NULL = ("reward", "annotator")
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


def is_chat(config: DictConfig) -> bool:
    """Return True if the configuration is that of a conversation."""
    return "transcript" in config


def chat_model(composed: DictConfig) -> DictConfig:
    """Return the section of the replying model: the shipped model if none is named."""
    model: DictConfig = composed.model
    return (
        model if model.get("path") or model.get("use") else cast(DictConfig, OmegaConf.merge(model, {"path": _SHIPPED}))
    )


def chat_arguments(overrides: Sequence[str]) -> list[str]:
    """Return overrides in Hydra's form: ~reward for reward=null; annotator=null is dropped, because it is the default."""
    return ["~reward" if text == "reward=null" else text for text in overrides if text != "annotator=null"]


def resolve_chat_reward(composed: DictConfig, preset: Any) -> None:
    """Use the shipped reward model in conversations with only shipped models, if no reward is chosen."""
    if not is_chat(composed) or not names_no_reward(composed):
        return
    if all(str(member.get("model")).startswith("builtin:") for member in composed.contestants.members):
        with open_dict(composed):
            composed.reward = preset("reward", "tiny")


def check_chat(config: DictConfig) -> None:
    """Refuse a missing rubric, and a transcript that cannot be written; make the transcript's path absolute.

    Raises:
        UserError: naming the key and what to type instead.
    """
    if config.rubric != "builtin:en" and not Path(config.rubric).expanduser().is_dir():
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
    path = Path(given).expanduser().absolute()
    if path.suffix.lower() not in TRANSCRIPTS:
        raise UserError(f"{before}{given}: a transcript is a file that ends in {' or '.join(TRANSCRIPTS)}")
    if path.exists() or path.is_symlink():
        raise UserError(f"{before}{given}: exists already and is not overwritten; give another name")
    if not path.parent.is_dir():
        raise UserError(f"{before}{given}: no such folder: {path.parent}")
    return path
