"""Trainable models: transformers models that run packed batches, as policy, reward model or critic."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import numpy as np
import torch
from torch import nn

from psychocounsel.data.batch import Batch, build_batch
from psychocounsel.data.group import Completion, Group
from psychocounsel.errors import UserError
from psychocounsel.model.attention import Attention
from psychocounsel.model.cpu import adopt
from psychocounsel.model.lora import Adapter
from psychocounsel.model.output_layer import Head, OutputLayer


class PackedModel(nn.Module, ABC):
    """Wraps a transformers model `lm`; `adapter` switches its LoRA layers, if it has any.

    A subclass computes its output from the hidden states (`forward`), and the same output without packing (`alone`).
    """

    scores: ClassVar[bool] = False  # True if the model gives one value per completion, not per token

    def __init__(
        self, lm: Any, name: str, adapter: Adapter | None = None, attention: str = "auto", device: str = "cpu"
    ) -> None:
        super().__init__()
        self.lm = lm
        self.adapter = adapter
        self.text_config = lm.config.get_text_config()
        self.attention = Attention(self.text_config, attention, device, name)
        lm.set_attn_implementation(self.attention.implementation)
        adopt(lm)

    @property
    def drops(self) -> bool:
        """True if the model has dropout, in attention or elsewhere."""
        return self.attention.drops or any(isinstance(part, nn.Dropout) and part.p for part in self.modules())

    def hidden(self, batch: Batch) -> torch.Tensor:
        """Return the last hidden states of a packed batch, [B, T, H]."""
        inputs = self.attention.inputs(batch, self.lm.get_input_embeddings().weight.dtype)
        output = self.lm.base_model(
            input_ids=batch.input_ids, position_ids=batch.position_ids, use_cache=False, **inputs
        )
        return output.last_hidden_state

    def pieces(self, output: torch.Tensor, batch: Batch) -> list[list[np.ndarray]]:
        """Return `forward`'s output cut into one array per completion, grouped as `batch.groups`."""
        return batch.split_completions(output)

    @abstractmethod
    def alone(self, prompt: torch.Tensor, completion: torch.Tensor) -> torch.Tensor:
        """Return the same values as `pieces`, from a plain forward pass over int64[p] prompt and int64[c] completion tokens."""

    def settings(self, about: dict[str, Any]) -> dict[str, Any]:
        """Return additional settings for the exported config.json; `about` holds the step and the evaluation."""
        return {}

    @contextmanager
    def adapters_off(self) -> Iterator[None]:
        """Compute without the trained adapters within this context; a model without adapters is unchanged."""
        if self.adapter is None:
            yield
            return
        with self.adapter.off():
            yield


# The policy: log-probabilities of packed completions


class Policy(PackedModel):
    """Wraps a causal language model.

    Logits are divided by `temperature`, so log-probabilities are those of the distribution that replies are drawn from.
    """

    def __init__(
        self,
        lm: Any,
        name: str,
        adapter: Adapter | None = None,
        attention: str = "auto",
        device: str = "cpu",
        temperature: float = 1.0,
    ) -> None:
        super().__init__(lm, name, adapter, attention, device)
        self.temperature = temperature
        # In a list, because nn.Module would register the layer twice: it is already a part of `lm`.
        self.output_layer = [OutputLayer.of(lm.get_output_embeddings())]
        self.value_head: Head | None = None

    def add_value_head(self, dtype: torch.dtype) -> None:
        """Make `forward` also give values, from a linear head on the trunk that gives 0 until it is trained.

        The head is used only in training. It is not a part of `lm`, which is exported and writes replies.
        """
        self.value_head = Head(self.text_config.hidden_size, 1, bias=False, dtype=dtype)
        # Random values would change the policy before the head has learned anything.
        nn.init.zeros_(self.value_head.weight)

    def forward(self, batch: Batch, logprobs: bool = True, entropy: bool = False, values: bool = False) -> Any:
        """Return float32[N], or a tuple of float32[N] in the order of the arguments, from one pass through the trunk.

        `logprobs`: log-probabilities of `batch.target_ids`. `entropy` (with `logprobs`): the entropy of each target's
        distribution [nats]. `values`: the value before each target, from the value head.
        """
        hidden = self.hidden(batch)[batch.rows, batch.columns]
        outputs: list[torch.Tensor] = []
        if logprobs:
            softcap = getattr(self.text_config, "final_logit_softcapping", None)
            output = self.output_layer[0](hidden, batch.target_ids, self.temperature, softcap, entropy)
            outputs += output if entropy else [output]
        if values:
            assert self.value_head is not None
            outputs.append(self.value_head(hidden).squeeze(-1))
        return outputs[0] if len(outputs) == 1 else tuple(outputs)

    def alone(self, prompt: torch.Tensor, completion: torch.Tensor) -> torch.Tensor:
        """Return the log-probabilities of the completion, float32[c]."""
        ids = torch.cat([prompt, completion])[None]
        logits = self.lm(input_ids=ids, use_cache=False).logits[0, len(prompt) - 1 : -1].float() / self.temperature
        return logits.log_softmax(-1).gather(1, completion[:, None]).squeeze(1)


# The reward model: one score per packed completion, or one for each principle, read at its last token


class RewardModel(PackedModel):
    """Wraps a sequence-classification model whose linear head is called `score`, with one label or with S of them.

    Several scores are ratings: the head's outputs plus the middle of the rating scale, `rating_middle` of the config,
    because a head without a bias would need most of a training to reach it.
    """

    scores = True

    def forward(self, batch: Batch) -> torch.Tensor:
        """Return the score of each completion, float32[C], or float32[C, S] with several labels."""
        return self._score(self.hidden(batch)[batch.last_rows, batch.last_columns])

    def pieces(self, output: torch.Tensor, batch: Batch) -> list[list[np.ndarray]]:
        scores = iter(output.cpu().numpy())
        return [[np.array([next(scores)]) for _ in group.completions] for group in batch.groups]

    def alone(self, prompt: torch.Tensor, completion: torch.Tensor) -> torch.Tensor:
        """Return the score, float32[1] or float32[1, S], from the model's trunk and head."""
        ids = torch.cat([prompt, completion])[None]
        return self._score(self.lm.base_model(input_ids=ids, use_cache=False).last_hidden_state[0, -1:])

    def settings(self, about: dict[str, Any]) -> dict[str, Any]:
        """Return mean and standard deviation of the held-out rewards, under names that OpenRLHF reads, too.

        They are None if unknown, because the model that training started from may have had its own.
        """
        return {"mean": about.get("eval/reward_mean"), "std": about.get("eval/reward_std")}

    def _score(self, hidden: torch.Tensor) -> torch.Tensor:
        outputs: torch.Tensor = self.lm.score(hidden)
        return outputs.squeeze(-1) + getattr(self.lm.config, "rating_middle", 0.0)


# The critic: the value of a reply before each of its tokens


class Critic(PackedModel):
    """Wraps a sequence-classification model with one label, whose linear head `score` gives the values."""

    def forward(self, batch: Batch) -> torch.Tensor:
        """Return the value before each of `batch.target_ids`, float32[N]."""
        return self._values(self.hidden(batch)[batch.rows, batch.columns])

    def alone(self, prompt: torch.Tensor, completion: torch.Tensor) -> torch.Tensor:
        """Return the value before each token of the completion, float32[c]."""
        ids = torch.cat([prompt, completion])[None]
        hidden = self.lm.base_model(input_ids=ids, use_cache=False).last_hidden_state
        return self._values(hidden[0, len(prompt) - 1 : -1])

    def _values(self, hidden: torch.Tensor) -> torch.Tensor:
        return self.lm.score(hidden).squeeze(-1)


# Check of a loaded model: it is refused if packed rows give other results than separate sequences.

_TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 0.15}  # limit of the mean difference


def probe_groups(vocabulary: int) -> list[Group]:
    """Return two small groups of random tokens, with two and three completions."""
    rng = np.random.default_rng(0)

    def ids(count: int) -> np.ndarray:
        return rng.integers(0, vocabulary, count, dtype=np.int32)

    return [
        Group("a", ids(7), [Completion(ids(5)), Completion(ids(3))]),
        Group("b", ids(4), [Completion(ids(6)), Completion(ids(2)), Completion(ids(4))]),
    ]


@torch.no_grad()
def check_packing(
    model: PackedModel, forward: Callable[[Batch], torch.Tensor], dtype: torch.dtype, device: torch.device, name: str
) -> None:
    """Compare packed log-probabilities, values or scores with those of plain, separate forward passes of the model.

    `forward` runs the packed pass in `dtype`; it is an engine if weights are partitioned.

    Raises:
        UserError: if they differ, or the model cannot run packed rows at all.
    """
    groups = probe_groups(model.text_config.vocab_size)
    batch = build_batch([groups], multiple=model.attention.multiple).to(device)
    try:
        packed = model.pieces(forward(batch), batch)
    except (TypeError, ValueError, RuntimeError, KeyError, IndexError) as error:
        raise UserError(
            f"{name}: this architecture cannot run packed rows ({type(error).__name__}: {str(error)[:200]})"
        ) from error
    differences, expected = [], []
    for group, pieces in zip(groups, packed, strict=True):
        for completion, values in zip(group.completions, pieces, strict=True):
            prompt, reply = (torch.from_numpy(ids).long().to(device) for ids in (group.prompt_ids, completion.ids))
            with model.attention.plain(model.lm):
                alone = model.alone(prompt, reply)
            expected.append(alone.float().cpu().numpy())
            differences.append(np.abs(expected[-1] - values))
    # The scores of a new reward model hardly differ, so the difference is judged relative to their spread.
    scale = float(np.concatenate(expected).std()) + 1e-12 if model.scores else 1.0
    mean = float(np.concatenate(differences).mean()) / scale
    if not mean <= _TOLERANCE[dtype]:
        raise UserError(
            f"{name}: packed rows and separate sequences give results that differ by {mean:.3g}; "
            "training this architecture here would silently give wrong results"
        )
