"""The notices before the first message: what a language model is, where to find help in a crisis, and who sees the texts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from omegaconf import DictConfig

from psychocounsel.asking.language_model import LanguageModel, keys_of
from psychocounsel.asking.parties import is_own
from psychocounsel.errors import UserError
from psychocounsel.remote.server_access import host_of
from psychocounsel.settings.targets import build

NOTICE = """\
You are writing to a language model. It is not a therapist and not a human being, it can be wrong, and nobody reads along.
If you or somebody else may be in danger, call your local emergency number, or turn to a doctor, a crisis service or a person \
whom you trust."""
ABOUT_CHECKS = (
    "The checks of replies match words and overlook most of what a person sees: no finding does not mean a safe reply."
)
NOT_KEPT = "Nothing is saved to disk unless you ask for it. /help lists the commands; Ctrl-D leaves."


@dataclass(frozen=True)
class Outsider:
    """A receiver of the user's texts that may be a third party: its key, its name and its hosts."""

    key: str
    name: str
    hosts: tuple[str, ...]

    @property
    def where(self) -> str:
        return ", ".join(self.hosts) or "its servers"


def outsiders(config: DictConfig) -> Iterator[Outsider]:
    """Yield the models, annotators and rewards that may belong to third parties."""
    for group in ("contestants", "annotator"):
        if group in config:
            models: list[LanguageModel] = build(config, group).models()
            for key, model in zip(keys_of(models, group), models, strict=True):
                if model.is_third_party():
                    yield Outsider(key, model.name, _hosts(model.receivers(key)))
    if "reward" in config:
        receivers = build(config, "reward").receivers("reward")
        if not all(is_own(address) for _, address in receivers):
            yield Outsider("reward", str(config.reward.name), _hosts(receivers))


def refuse_outsiders(config: DictConfig) -> None:
    """Refuse third parties unless `crisis_to_third_parties` is true, because any message may be about a crisis.

    Raises:
        UserError: names the first third party and its host.
    """
    for each in outsiders(config):
        if not config.crisis_to_third_parties:
            raise UserError(
                f"{each.key}: {each.name} sends what you write to {each.where}, which may belong to others, and what you write "
                "may be about a crisis: add crisis_to_third_parties=true if they may see it, or use a model of your own"
            )


def notices(config: DictConfig) -> Iterator[str]:
    """Yield the lines shown before the first message."""
    yield from NOTICE.splitlines()
    for each in outsiders(config):
        yield f"{each.name}: your messages are sent to {each.where}, which may belong to others; they decide what they keep."
    yield ABOUT_CHECKS
    if config.transcript:
        yield f"This conversation is written to {config.transcript}. /help lists the commands; Ctrl-D leaves."
    else:
        yield NOT_KEPT


def _hosts(receivers: list[tuple[str, str]]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(host_of(address) for _, address in receivers))
