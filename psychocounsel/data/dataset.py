"""Data of a run: turns the `data` group of the configuration into Groups of token ids."""

import hashlib
from dataclasses import dataclass, field
from functools import partial

from omegaconf import DictConfig

from psychocounsel.data.balance import weigh_pairs
from psychocounsel.data.group import Group
from psychocounsel.data.selection import load_split, with_swapped
from psychocounsel.data.tokenise import ChatFormat, tokenise
from psychocounsel.data.tokenised_cache import Parts, Report, through_cache
from psychocounsel.errors import UserError


@dataclass
class Dataset:
    """Groups that a run trains on and is evaluated on.

    `pairs`: pairs of the training split, for an algorithm that also writes replies to the prompts in `train`.
    `held_out_prompts`: the prompts of `held_out`, each once, if `eval.replies` asks for replies to them.
    """

    train: list[Group]
    held_out: list[Group]
    pairs: list[Group] = field(default_factory=list)
    held_out_prompts: list[Group] = field(default_factory=list)

    def fingerprint(self) -> str:
        """Return the sha256 of all token ids, rewards, labels, weights and soft labels, in order."""
        digest = hashlib.sha256()
        for group in [*self.train, *self.held_out, *self.pairs]:
            for ids in [group.prompt_ids, *(completion.ids for completion in group.completions)]:
                digest.update(len(ids).to_bytes(4, "little") + ids.tobytes())
            digest.update(repr([(completion.reward, completion.label) for completion in group.completions]).encode())
            if group.weight != 1:  # so that data without weights keep the fingerprint of earlier versions
                digest.update(f"weight {group.weight!r}".encode())
            if group.probability is not None:
                digest.update(f"probability {group.probability!r}".encode())
        return digest.hexdigest()


def build_dataset(config: DictConfig, chat: ChatFormat, kind: str, report: Report, pairs: bool = False) -> Dataset:
    """Load, select and tokenise the training and held-out groups of a run.

    `kind` is the kind of data that the algorithm needs. Training pairs get the weights of `data.balance`; held-out
    pairs count equally. `pairs` adds the pairs of the training split, whatever the kind. `eval.replies` adds the
    held-out prompts. Data tokenised before come from `paths.cache`, and their report is repeated.

    Raises:
        UserError: for unusable data; the message names file and row.
    """
    train, held_out = through_cache(config, chat, kind, report, partial(_tokenise, chat, kind))
    if not train:
        raise UserError(f"no training row fits max_length={config.max_length}: raise it, or use data.too_long=shorten")
    if config.data.balance:
        train = weigh_pairs(train, config.data.balance, report)
    dataset = Dataset(train, held_out[: config.eval.limit])
    if config.eval.replies and kind != "prompts":
        _, prompts = through_cache(config, chat, "prompts", report, partial(_tokenise, chat, "prompts"))
        dataset.held_out_prompts = prompts[: config.eval.limit]
    if pairs:
        dataset.pairs, _ = through_cache(config, chat, "pairs", report, partial(_tokenise, chat, "pairs"))
        if not dataset.pairs:
            raise UserError(f"no pair fits max_length={config.max_length}: raise it, or use algo.offline_fraction=0")
    return dataset


def _tokenise(chat: ChatFormat, kind: str, config: DictConfig, report: Report) -> Parts:
    rows, held_out_rows = load_split(config.data, report)
    if config.data.swapped and kind == "pairs":
        rows = with_swapped(rows, config.data.swapped, config.data.split_seed, report)
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
            config.data.bad_rows == "drop",
        )
        for name, examples in (("training", rows), ("held-out", held_out_rows))
    )
    return train, held_out
