"""`rollout=hf`: the trained policy writes the replies itself, by transformers, in the training process."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from math import inf
from typing import TYPE_CHECKING, Any, Union

from psychocounsel.rollout.base import Rollout, RolloutSettings, Sampling, TrainedPolicy, completion
from psychocounsel.settings.schema import option

if TYPE_CHECKING:
    import torch
    from omegaconf import DictConfig

    from psychocounsel.data.group import Completion, Group
    from psychocounsel.distributed.world import World
    from psychocounsel.model.packed import PackedModel
    from psychocounsel.model.shape import Shape
    from psychocounsel.rollout.decoding import Cache

_Random = Union["torch.Generator", list["torch.Generator"]]  # one generator for all replies, or one for each
_WORTH = 256  # tokens from which on a common beginning of all prompts is read once, such as the rubric of a judge
_PART = 256  # tokens per block: drawing a block, then a token in it, is cheaper than noise for every token
# Shares are summed as whole numbers of 2^-40, in any order; with deterministic=true torch refuses to accumulate floats on GPU.
_WHOLE = 1 << 40


@dataclass
class HF(RolloutSettings):
    batch_size: int = option(64, at_least=1)  # replies written at once in each process

    def open(
        self, config: DictConfig, engine: TrainedPolicy, tokenizer: Any, stop: Sequence[int], world: World
    ) -> HFRollout:
        together = world if config.zero.stage == 3 else None
        return HFRollout(engine.module, tokenizer, stop, self.batch_size, together)

    def memory(self, shape: Shape, config: DictConfig, samples: int) -> dict[str, float | None]:
        from psychocounsel.model.shape import bytes_of_weight

        rows = max(1, self.batch_size // samples) * samples
        length = min(config.max_length, (config.max_prompt_length or config.max_length) + self.longest_reply(config))
        width = bytes_of_weight(config.model.dtype)
        # Raw, divided by the temperature, as weights of the draw, padded weights, and their sum. A sort needs more.
        logits = (5 if self.top_p == 1 else 8) * 4 * rows * shape.vocabulary
        return {"keys and values": rows * length * shape.cached() * width, "next logits": logits}

    def smaller(self) -> dict[str, Any]:
        return {"batch_size": 16} if self.batch_size > 16 else {}


class HFRollout(Rollout):
    """Writes replies with the present weights of `policy`.

    The replies to a prompt share its first pass, and prompts share that of a long common beginning; finished replies leave
    the batch. `stop` holds the ids of tokens that end a reply. `together` is set if ZeRO-3 shards the weights over its
    ranks; these ranks then make all passes together. A batch has at most `batch_size` replies, and their keys and values
    at most `cached_tokens` tokens.
    """

    def __init__(
        self,
        policy: PackedModel,
        tokenizer: Any,
        stop: Sequence[int],
        batch_size: int,
        together: World | None = None,
        cached_tokens: float = inf,
    ) -> None:
        self.policy, self.tokenizer, self.stop, self.batch_size = policy, tokenizer, sorted(stop), batch_size
        self.together, self.cached_tokens, self.version = together, cached_tokens, 0

    def sync(self, version: int) -> None:
        self.version = version

    def generate(
        self,
        groups: Sequence[Group],
        sampling: Sampling,
        seeds: Sequence[int] | None = None,
        watch: Callable[[list[int]], bool] | None = None,
    ) -> list[Group]:
        """Implements `Rollout.generate`. Random numbers come from `sampling.seed`, or from `seeds` if given.

        `seeds` holds one seed for each group; `sampling.n` must then be 1, and each reply depends on its own seed only.
        `watch`, for a single reply, receives the reply's tokens after each new token and returns False to stop.
        """
        import torch

        from psychocounsel.rollout.decoding import decoding

        device = self.policy.lm.device
        generator = torch.Generator(device).manual_seed(sampling.seed)
        batches = self._batches(groups, sampling)
        completions: dict[int, list[Completion]] = {}
        training = self.policy.training
        self.policy.eval()
        with decoding(self.policy, partitioned=self.together is not None):
            beginning = _Beginning.of(groups, self.policy.lm) if self.together is None else None
            while self._anyone(bool(batches)):
                members = batches.pop(0) if batches else []
                own = [torch.Generator(device).manual_seed(seeds[index]) for index in members] if seeds else generator
                replies = self._batch([groups[index] for index in members], sampling, own, watch, beginning)
                completions |= zip(members, replies, strict=True)
        self.policy.train(training)
        return [replace(group, completions=completions[index]) for index, group in enumerate(groups)]

    def _batches(self, groups: Sequence[Group], sampling: Sampling) -> list[list[int]]:
        """Return the indices of the groups of each batch, the shortest prompts first."""
        batches: list[list[int]] = [[]]
        for index in sorted(range(len(groups)), key=lambda index: (len(groups[index].prompt_ids), index)):
            replies = (len(batches[-1]) + 1) * sampling.n
            longest = min(len(groups[index].prompt_ids) + sampling.max_tokens, sampling.max_length)
            if batches[-1] and (replies > self.batch_size or replies * longest > self.cached_tokens):
                batches.append([])
            batches[-1].append(index)
        return [batch for batch in batches if batch]

    def _anyone(self, here: bool) -> bool:
        """Return True if there is work here or, with sharded weights, on any rank."""
        return here if self.together is None else self.together.any(here)

    def _batch(
        self,
        groups: Sequence[Group],
        sampling: Sampling,
        generator: _Random,
        watch: Callable[[list[int]], bool] | None,
        beginning: _Beginning | None,
    ) -> list[list[Completion]]:
        lm = self.policy.lm
        rows = _Rows(groups, sampling, lm, self.stop, beginning) if groups else None
        if rows is None:
            _keep_step(lm)
        while self._anyone(rows is not None and rows.alive):
            if rows is not None and rows.alive:
                own = (
                    [generator[number] for number in rows.numbers.tolist()]
                    if isinstance(generator, list)
                    else generator
                )
                rows.write(*_draw(rows.logits, sampling, own))
                if watch is not None and not watch(rows.ids[0]):
                    break
            if self._anyone(rows is not None and rows.alive):
                rows.look() if rows is not None and rows.alive else _keep_step(lm)
        replies = rows.replies() if rows is not None else []
        completions = [completion(*reply, self.tokenizer, self.stop, self.version) for reply in replies]
        return [completions[start : start + sampling.n] for start in range(0, len(completions), sampling.n)]


@dataclass
class _Beginning:
    """Keys and values, in a cache of one row, of the `length` tokens that all prompts begin with."""

    length: int
    cache: Cache

    @classmethod
    def of(cls, groups: Sequence[Group], lm: Any) -> _Beginning | None:
        """Return the keys and values of the tokens that all prompts begin with; None if they are too few for a pass of their own.

        At least one token of each prompt comes after them.

        None, too, for a model with sliding windows: they count the padding between the beginning and a shorter prompt's rest.
        """
        import numpy as np
        import torch

        from psychocounsel.rollout.decoding import Cache

        shortest = min((len(group.prompt_ids) for group in groups), default=1)
        cache = Cache(lm.config)
        if len(groups) < 2 or shortest <= _WORTH or not cache.sees_everything:
            return None
        starts = np.stack([group.prompt_ids[: shortest - 1] for group in groups])
        length = int((starts == starts[0]).all(0).cumprod().sum())
        if length < _WORTH:
            return None
        ids = torch.from_numpy(starts[:1, :length].astype(np.int64)).to(lm.device)
        lm(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
        return cls(length, cache)


class _Rows:
    """Replies in progress: cache, mask and next logits of the unfinished ones, and the tokens of all."""

    def __init__(
        self,
        groups: Sequence[Group],
        sampling: Sampling,
        lm: Any,
        stop: Sequence[int],
        beginning: _Beginning | None,
    ) -> None:
        import torch

        from psychocounsel.rollout.decoding import Cache

        self.lm, self.stop = lm, torch.tensor(stop, device=lm.device)
        known = beginning.length if beginning is not None else 0
        lengths = torch.tensor([len(group.prompt_ids) for group in groups])
        width = int(lengths.max()) - known
        ids = torch.zeros(len(groups), width, dtype=torch.long)
        for row, group in zip(ids, groups, strict=True):
            row[known - len(group.prompt_ids) :] = torch.from_numpy(group.prompt_ids[known:])
        mask = torch.arange(width)[None] >= width + known - lengths[:, None]
        positions = known + (mask.cumsum(-1) - 1).clamp(min=0)
        if beginning is not None:
            mask = torch.cat([mask.new_ones(len(groups), known), mask], 1)
            self.cache = deepcopy(beginning.cache)
            self.cache.batch_repeat_interleave(len(groups))
        else:
            self.cache = Cache(lm.config)
        logits = self._forward(ids, mask.long(), positions)
        self.cache.batch_repeat_interleave(sampling.n)
        self.logits = logits.repeat_interleave(sampling.n, 0)
        self.mask = mask.long().to(lm.device).repeat_interleave(sampling.n, 0)
        self.position = lengths.to(lm.device).repeat_interleave(sampling.n)
        limits = torch.minimum(torch.tensor(sampling.max_tokens), sampling.max_length - lengths)
        self.left = limits.to(lm.device).repeat_interleave(sampling.n)
        self.numbers = torch.arange(len(self.left), device=lm.device)  # index of the reply in each unfinished row
        self.ids: list[list[int]] = [[] for _ in range(len(self.left))]
        self.logprobs: list[list[float]] = [[] for _ in range(len(self.left))]

    @property
    def alive(self) -> bool:
        return len(self.numbers) > 0

    def replies(self) -> list[tuple[list[int], list[float]]]:
        return list(zip(self.ids, self.logprobs, strict=True))

    def write(self, tokens: torch.Tensor, logprobs: torch.Tensor) -> None:
        """Append tokens, int64[alive], and log-probabilities, float32[alive]; remove finished replies."""
        import torch

        written = zip(self.numbers.tolist(), tokens.tolist(), logprobs.tolist(), strict=True)
        for number, token, logprob in written:
            self.ids[number].append(token)
            self.logprobs[number].append(logprob)
        self.left = self.left - 1
        keep = ~torch.isin(tokens, self.stop) & (self.left > 0)
        if not bool(keep.all()):
            chosen = keep.nonzero().squeeze(1)
            self.numbers, self.left, self.position = self.numbers[chosen], self.left[chosen], self.position[chosen]
            self.mask, tokens = self.mask[chosen], tokens[chosen]
            if len(chosen):
                self.cache.batch_select_indices(chosen)
        self.last = tokens

    def look(self) -> None:
        """Compute the logits of the next token of each unfinished reply."""
        import torch

        self.mask = torch.cat([self.mask, self.mask.new_ones(len(self.last), 1)], 1)
        self.logits = self._forward(self.last[:, None], self.mask, self.position[:, None])
        self.position = self.position + 1

    def _forward(self, ids: torch.Tensor, mask: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """Return the logits of the next token, float32[rows, vocabulary]."""
        device = self.lm.device
        output = self.lm(
            input_ids=ids.to(device),
            attention_mask=mask.to(device),
            position_ids=positions.to(device),
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=1,
        )
        logits: torch.Tensor = output.logits[:, -1].float()
        return logits


def _keep_step(lm: Any) -> None:
    """Run a forward pass for nothing, because other ranks need this rank to gather sharded weights for their passes."""
    import torch

    token = torch.zeros(1, 1, dtype=torch.long, device=lm.device)
    lm(input_ids=token, attention_mask=token + 1, position_ids=token, logits_to_keep=1)


def _draw(logits: torch.Tensor, sampling: Sampling, generator: _Random) -> tuple[torch.Tensor, torch.Tensor]:
    """Return tokens, int64[rows], and their log-probabilities under the sampling distribution, float32[rows]."""
    import torch

    if not sampling.temperature:
        tokens = logits.argmax(-1, keepdim=True)
    else:
        logits = _filtered(logits, sampling)
        weights = (logits - logits.amax(-1, keepdim=True)).exp_()
        parts = torch.nn.functional.pad(weights, (0, -weights.shape[1] % _PART)).view(len(weights), -1, _PART)
        part = _pick(parts.sum(-1), generator)
        within = _pick(parts.gather(1, part[:, :, None].expand(-1, 1, _PART)).squeeze(1), generator)
        tokens = part * _PART + within
    logprobs = logits.gather(1, tokens) - logits.logsumexp(-1, keepdim=True)
    return tokens.squeeze(1), logprobs.squeeze(1)


def _pick(weights: torch.Tensor, generator: _Random) -> torch.Tensor:
    """Return a column for each row of `weights`, int64[rows, 1], drawn in proportion; never one of weight 0."""
    import torch

    below = (weights / weights.amax(-1, keepdim=True) * _WHOLE).long().cumsum(-1)
    drawn = _uniform(len(weights), generator, weights.device) * below[:, -1:]
    return torch.searchsorted(below, drawn.long(), right=True).clamp_(max=weights.shape[1] - 1)


def _uniform(rows: int, generator: _Random, device: torch.device) -> torch.Tensor:
    """Return float64[rows, 1] in [0, 1), all from one generator, or each row from its own."""
    import torch

    options: Any = {"dtype": torch.float64, "device": device}
    if not isinstance(generator, list):
        return torch.rand(rows, 1, generator=generator, **options)
    return torch.cat([torch.rand(1, 1, generator=source, **options) for source in generator])


def _filtered(logits: torch.Tensor, sampling: Sampling) -> torch.Tensor:
    """Return `logits / temperature`, -inf outside the `top_k` likeliest tokens and the fewest of these that reach `top_p`.

    float32[rows, vocabulary], like `logits`.
    """
    import torch

    # Divided here: while torch.compile hooks calls, a quotient passed as an argument would stay allocated until the return.
    logits = logits / sampling.temperature
    if sampling.top_k:
        least = logits.topk(min(sampling.top_k, logits.shape[-1])).values[:, -1:]
        logits = logits.masked_fill(logits < least, -torch.inf)
    if sampling.top_p < 1:
        ordered, places = logits.sort(descending=True)
        shares = ordered.softmax(-1).mul_(_WHOLE).long()
        enough = shares.cumsum_(-1) >= int(sampling.top_p * _WHOLE)
        dropped = torch.zeros_like(enough).scatter_(1, places[:, 1:], enough[:, :-1])
        logits.masked_fill_(dropped, -torch.inf)
    return logits
