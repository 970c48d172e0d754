"""The data of a run: from the `data` group of the configuration to Groups of token ids."""

import hashlib
from dataclasses import dataclass
from functools import partial

from omegaconf import DictConfig

from psychocounsel.data.cache import Parts, Report, through_cache
from psychocounsel.data.group import Group
from psychocounsel.data.select import load_split
from psychocounsel.data.tokenise import ChatFormat, tokenise
from psychocounsel.errors import UserError


@dataclass
class Dataset:
    train: list[Group]
    held_out: list[Group]

    def fingerprint(self) -> str:
        """sha256 of all token ids, rewards and labels, in order."""
        digest = hashlib.sha256()
        for group in [*self.train, *self.held_out]:
            for ids in [group.prompt_ids, *(completion.ids for completion in group.completions)]:
                digest.update(len(ids).to_bytes(4, "little") + ids.tobytes())
            digest.update(repr([(completion.reward, completion.label) for completion in group.completions]).encode())
        return digest.hexdigest()


def build_dataset(config: DictConfig, chat: ChatFormat, kind: str, report: Report) -> Dataset:
    """Load, select and tokenise the training and held-out groups of a run; `kind` is what the algorithm needs.

    What was tokenised before comes from `paths.cache`, and is reported again.

    Raises:
        UserError: for unusable data; the message names file and row.
    """
    train, held_out = through_cache(config, chat, kind, report, partial(_tokenise, chat, kind))
    if not train:
        raise UserError(f"no training row fits max_length={config.max_length}: raise it, or use data.too_long=shorten")
    return Dataset(train, held_out[: config.eval.limit])


def _tokenise(chat: ChatFormat, kind: str, config: DictConfig, report: Report) -> Parts:
    train, held_out = (
        tokenise(
            examples,
            chat,
            kind,
            config.max_length,
            config.max_prompt_length,
            config.data.too_long,
            config.data.system_prompt,
            lambda line, name=name: report(f"{name} data: {line}"),  # type: ignore[misc]
        )
        for name, examples in zip(("training", "held-out"), load_split(config.data, report), strict=True)
    )
    return train, held_out
