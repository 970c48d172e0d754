"""Data of a run: turns the `data` group of the configuration into Groups of token ids."""

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import cycle, islice

from omegaconf import DictConfig

from psychocounsel.counsel.system_prompt import COUNSELLOR
from psychocounsel.data.balance import weigh_pairs
from psychocounsel.data.controls import epoch_of, rate_of, with_controls
from psychocounsel.data.group import Group
from psychocounsel.data.rows import every_turn
from psychocounsel.data.selection import drop_leaks, drop_test_speeches, load_split
from psychocounsel.data.tokenise import ChatFormat, join_turns, tokenise
from psychocounsel.data.tokenised_cache import Parts, Report, through_cache
from psychocounsel.errors import UserError
from psychocounsel.storage.files import with_noun

FEW_PROMPTS = 30  # held-out prompts


@dataclass
class Dataset:
    """Groups that a run trains on and is evaluated on.

    `fresh`: number of training rows that each epoch replaces (control pairs). `train` ends with the `fresh` rows of the
    first epoch, of the second, and so on, `sets` times.
    `pairs`: pairs of the training split, for an algorithm that also writes replies to the prompts in `train`.
    `held_out_prompts`: the prompts of `held_out`, each once, if `eval.replies` asks for replies to them.
    """

    train: list[Group]
    held_out: list[Group]
    pairs: list[Group] = field(default_factory=list)
    held_out_prompts: list[Group] = field(default_factory=list)
    fresh: int = 0
    sets: int = 1

    @property
    def rows(self) -> int:
        """Number of training rows of an epoch."""
        return len(self.train) - (self.sets - 1) * self.fresh

    @property
    def distinct_prompts(self) -> int:
        """Number of held-out prompts, each counted once."""
        return len({group.prompt_ids.tobytes() for group in self.held_out})

    def few_prompts(self, wanted: bool) -> Iterator[str]:
        """Yield a warning if few prompts are held out, or none although held-out data are `wanted`."""
        more = "add rows, raise data.dev_fraction, or give data.eval_path"
        if not self.held_out and wanted:
            yield f"warning: no held-out prompt: nothing is evaluated, and model/ will hold the last weights; {more}"
        if self.held_out and (count := self.distinct_prompts) < FEW_PROMPTS:
            yield (
                f"warning: {with_noun(count, 'held-out prompt')}: below {FEW_PROMPTS}, held-out figures and the "
                f"choice of the best model are mostly noise; {more}"
            )

    def fingerprint(self) -> str:
        """Return the sha256 of all token ids, rewards, labels, weights and soft labels, in order.

        Of control pairs, it includes those of the first epoch, so that a run may go on for more epochs.
        """
        digest = hashlib.sha256()
        for group in [*self.train[: self.rows], *self.held_out, *self.pairs]:
            for ids in [group.prompt_ids, *(completion.ids for completion in group.completions)]:
                digest.update(len(ids).to_bytes(4, "little") + ids.tobytes())
            for mask in [reply.trained for reply in group.completions if reply.trained is not None]:
                digest.update(mask.tobytes())
            digest.update(repr([(completion.reward, completion.label) for completion in group.completions]).encode())
            parts = [reply.ratings for reply in group.completions if reply.reward is None and reply.ratings is not None]
            for ratings in parts:  # of replies without a mean rating, which are rated on some principles only
                digest.update(ratings.tobytes())
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
    if chat.positions is not None and config.max_length > chat.positions:
        raise UserError(
            f"max_length={config.max_length}: {chat.name} reads at most {chat.positions} tokens (max_position_embeddings); use "
            f"max_length={chat.positions}"
        )
    said: list[str] = []

    def noted(line: str) -> None:
        said.append(line)
        report(line)

    train, held_out = through_cache(config, chat, kind, noted, partial(_tokenise, chat, kind))
    if not train:
        reasons = "; ".join(line.removeprefix("training data: ") for line in said if line.startswith("training data: "))
        hint = ": raise it, or use data.too_long=shorten" if "long" in reasons else ""
        raise UserError(f"no training row is left ({reasons}) with max_length={config.max_length}{hint}")
    dataset = _assembled(config, train, held_out[: config.eval.limit], report)
    if config.eval.replies and kind != "prompts":
        _, prompts = through_cache(config, chat, "prompts", report, partial(_tokenise, chat, "prompts"))
        dataset.held_out_prompts = prompts[: config.eval.limit]
    if pairs:
        one_epoch = partial(_tokenise, chat, "pairs", epochs=1)
        dataset.pairs, _ = through_cache(config, chat, "pairs of one epoch", report, one_epoch)
        if not dataset.pairs:
            raise UserError(f"no pair fits max_length={config.max_length}: raise it, or use algo.offline_fraction=0")
    return dataset


def _assembled(config: DictConfig, train: list[Group], held_out: list[Group], report: Report) -> Dataset:
    """Return the data with the weights of `data.balance`, and with as many control pairs for each epoch as the first has.

    A later epoch that has fewer, because some were too long, takes its own again, so that more epochs change no earlier one.
    """
    epochs: dict[int, list[Group]] = {}
    rows = list[Group]()
    for group in train:
        epoch = epoch_of(group.id)
        (rows if epoch is None else epochs.setdefault(epoch, [])).append(group)
    if config.data.balance:
        rows = weigh_pairs(rows, config.data.balance, report)
    fresh = len(epochs[min(epochs)]) if epochs else 0
    controls = [group for epoch in sorted(epochs) for group in islice(cycle(epochs[epoch]), fresh)]
    return Dataset([*rows, *controls], held_out, fresh=fresh, sets=max(len(epochs), 1))


def _tokenise(chat: ChatFormat, kind: str, config: DictConfig, report: Report, epochs: int | None = None) -> Parts:
    """Load and tokenise rows. `epochs`: number of epochs that get controls of their own; None: all epochs of the run."""
    rows, held_out_rows = load_split(config.data, report)
    rows = drop_test_speeches(rows, report)
    every = config.data.train_on == "every" and kind in ("completions", "prompts")
    conversations = {"training": len(rows), "held-out": len(held_out_rows)}
    if every:
        rows, held_out_rows = ([turn for row in part for turn in every_turn(row)] for part in (rows, held_out_rows))
        rows = drop_leaks(rows, held_out_rows, report)  # sessions that begin alike
    if config.data.controls and kind == "pairs":
        prompt = chat.system_prompt or COUNSELLOR
        controls = partial(with_controls, data=config.data, system_prompt=prompt, seed=config.seed)
        rows = controls(rows, epochs=epochs or _epochs(config, len(rows)), report=report)
        if config.data.controls_held_out and held_out_rows:
            held_out_rows = controls(held_out_rows, epochs=1, report=lambda line: report(f"held-out part: {line}"))
    parts = []
    for name, examples in (("training", rows), ("held-out", held_out_rows)):
        groups = tokenise(
            examples,
            chat,
            kind,
            config.max_length,
            config.max_prompt_length,
            config.data.too_long,
            lambda line, name=name: report(f"{name} data: {line}"),  # type: ignore[misc]
            config.data.bad_rows == "drop",
        )
        parts.append(
            _joined(groups, conversations[name], name, report) if every and groups and kind == "completions" else groups
        )
    return parts[0], parts[1]


def _joined(turns: list[Group], conversations: int, name: str, report: Report) -> list[Group]:
    """Join the turns of each conversation to one row, or to several if the chat template changes earlier turns."""
    rows = join_turns(turns)
    reason = ", because the chat template changes earlier turns" if len(rows) > conversations else ""
    report(f"{name} data: {len(turns)} turns of {conversations} conversations are in {len(rows)} rows{reason}")
    return rows


def _epochs(config: DictConfig, pairs: int) -> int:
    """Return the number of epochs, begun ones included, in which a run trains on `pairs` pairs and their controls."""
    lengths = []
    if config.epochs is not None:
        lengths.append(config.epochs)
    if config.max_steps is not None:
        lengths.append(config.max_steps * config.global_batch_size / (pairs * (1 + rate_of(config.data))))
    return max(math.ceil(min(lengths)), 1)
