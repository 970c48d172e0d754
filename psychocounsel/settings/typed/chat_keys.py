"""The keys of `psychocounsel.chat`: how models reply, what is shown beside a reply, and where a transcript goes."""

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
    """The keys besides the groups `contestants`, `reward` and `annotator`, which come from their `_target_`."""

    replies: ReplyDrawing = field(default_factory=ReplyDrawing)
    rubric: str = "builtin:en"
    transcript: str | None = None
    crisis_to_third_parties: bool = False
    paths: PathsConfig = field(default_factory=PathsConfig)
    code_path: list[str] = option([])


def is_chat(config: DictConfig) -> bool:
    """Whether a configuration is that of a conversation."""
    return "transcript" in config


def chat_model(composed: DictConfig) -> DictConfig:
    """The section of who replies: the shipped model, if nothing is named."""
    model: DictConfig = composed.model
    return (
        model if model.get("path") or model.get("use") else cast(DictConfig, OmegaConf.merge(model, {"path": _SHIPPED}))
    )


def chat_arguments(overrides: Sequence[str]) -> list[str]:
    """Overrides as Hydra reads them: it takes a choice away by ~reward; of annotator there is none to begin with."""
    return ["~reward" if text == "reward=null" else text for text in overrides if text != "annotator=null"]


def resolve_chat_reward(composed: DictConfig, preset: Any) -> None:
    """Let the shipped reward model score a conversation with shipped models alone, where no reward is chosen."""
    if not is_chat(composed) or not names_no_reward(composed):
        return
    if all(str(member.get("model")).startswith("builtin:") for member in composed.contestants.members):
        with open_dict(composed):
            composed.reward = preset("reward", "tiny")


def check_chat(config: DictConfig) -> None:
    """Refuse a rubric that is not there, and a transcript that cannot be written.

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
    """The absolute path of a transcript that is to be made; errors begin with `before` and the path.

    Raises:
        UserError: for another ending than .jsonl and .md, a file that is there, or a folder that is not.
    """
    path = Path(given).expanduser().absolute()
    if path.suffix.lower() not in TRANSCRIPTS:
        raise UserError(f"{before}{given}: a transcript is a file that ends in {' or '.join(TRANSCRIPTS)}")
    if path.exists() or path.is_symlink():
        raise UserError(f"{before}{given}: is there already, and nothing is overwritten; give another name")
    if not path.parent.is_dir():
        raise UserError(f"{before}{given}: there is no folder {path.parent}")
    return path
