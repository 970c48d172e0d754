"""Training with TRL's own trainers, recorded step by step. The parity tests use the recordings as reference."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch

Tensors = dict[str, torch.Tensor]
Rows = list[dict[str, Any]]

# DeepSpeed needs these variables. TRL must not see them, because accelerate would wrap the model in DDP.
_LAUNCHER = ("LOCAL_RANK", "RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE")

# One batch per step, in the order of the data, in fp32 on the CPU; nothing is saved or reported.
_PLAIN = {
    **{"use_cpu": True, "bf16": False, "gradient_checkpointing": False, "gradient_accumulation_steps": 1},
    **{"train_sampling_strategy": "sequential", "num_train_epochs": 1, "optim": "adamw_torch", "max_length": None},
    **{"logging_steps": 1, "save_strategy": "no", "report_to": "none", "disable_tqdm": True},
    "dataloader_pin_memory": False,
}


@dataclass
class Recording:
    """Recording of a training run.

    It holds the loss, metrics and gradient norm of each step, the gradients of the first step, and the parameters before
    the first step (`start`) and after the last step (`end`). Norms and gradients are measured before clipping. `data` is
    the dataset as TRL prepared it.
    """

    losses: list[float] = field(default_factory=list)
    metrics: list[dict[str, float]] = field(default_factory=list)
    norms: list[float] = field(default_factory=list)
    gradients: Tensors = field(default_factory=dict)
    start: Tensors = field(default_factory=dict)
    end: Tensors = field(default_factory=dict)
    data: Any = None

    @property
    def moved(self) -> Tensors:
        return {name: self.end[name] - self.start[name] for name in self.start}


def parameters_of(lm: torch.nn.Module) -> Tensors:
    return {name: parameter.detach().clone() for name, parameter in lm.named_parameters()}


def gradients_of(lm: torch.nn.Module) -> Tensors:
    return {name: parameter.grad.detach().clone() for name, parameter in lm.named_parameters()}


@contextmanager
def _without_launcher() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name in _LAUNCHER:
            patch.delenv(name, raising=False)
        yield


@_without_launcher()
def train_sft(lm: Any, tokenizer: Any, rows: Rows, folder: Path, **settings: Any) -> Recording:
    """Train `lm` in place with SFTTrainer on the chosen replies, without loss on the prompts."""
    from trl import SFTConfig, SFTTrainer

    demonstrations = [{"prompt": row["prompt"], "completion": row["chosen"]} for row in rows]
    config = SFTConfig(str(folder), completion_only_loss=True, **_PLAIN, **settings)
    return _record(SFTTrainer, config, lm, tokenizer, demonstrations)


@_without_launcher()
def train_dpo(lm: Any, reference: Any, tokenizer: Any, rows: Rows, folder: Path, **settings: Any) -> Recording:
    """Train `lm` in place with DPOTrainer against `reference`."""
    from trl import DPOConfig, DPOTrainer

    config = DPOConfig(str(folder), **_PLAIN, **settings)
    return _record(DPOTrainer, config, lm, tokenizer, rows, ref_model=reference)


@_without_launcher()
def train_reward(lm: Any, tokenizer: Any, rows: Rows, folder: Path, **settings: Any) -> Recording:
    """Train the reward model `lm` in place with RewardTrainer. A row may have a `margin`."""
    from trl import RewardConfig, RewardTrainer

    config = RewardConfig(str(folder), **_PLAIN, **settings)
    return _record(RewardTrainer, config, lm, tokenizer, rows)


@_without_launcher()
def train_simpo(lm: Any, tokenizer: Any, rows: Rows, folder: Path, **settings: Any) -> Recording:
    """Train `lm` in place with CPOTrainer and its SimPO loss."""
    from trl.experimental.cpo import CPOConfig, CPOTrainer

    config = CPOConfig(str(folder), loss_type="simpo", remove_unused_columns=False, **_PLAIN, **settings)
    return _record(CPOTrainer, config, lm, tokenizer, rows)


@_without_launcher()
def train_orpo(lm: Any, tokenizer: Any, rows: Rows, folder: Path, untouched: bool, **settings: Any) -> Recording:
    """Train `lm` in place with ORPOTrainer.

    If `untouched` is false, the trainer's likelihood term is replaced by one that excludes prompt tokens.
    """
    from torch.nn.functional import cross_entropy
    from trl.experimental.orpo import ORPOConfig, ORPOTrainer

    class RepliesOnly(ORPOTrainer):
        """Trainer whose likelihood term is recomputed from its own logits, over reply tokens only."""

        def concatenated_forward(self, model: Any, batch: Any) -> tuple[Any, ...]:
            *outputs, _ = super().concatenated_forward(model, batch)
            labels = batch["chosen_labels"][:, 1:]  # -100 in prompt and padding
            logits = outputs[2][:, : labels.shape[1]]
            return (*outputs, cross_entropy(logits.flatten(0, 1), labels.flatten()))

    config = ORPOConfig(str(folder), remove_unused_columns=False, **_PLAIN, **settings)
    return _record(ORPOTrainer if untouched else RepliesOnly, config, lm, tokenizer, rows)


@_without_launcher()
def train_kto(lm: Any, reference: Any, tokenizer: Any, rows: Rows, folder: Path, **settings: Any) -> Recording:
    """Train `lm` in place with KTOTrainer against `reference`, on single replies with a `label`."""
    from trl import KTOConfig, KTOTrainer

    config = KTOConfig(str(folder), **_PLAIN, **settings)
    return _record(KTOTrainer, config, lm, tokenizer, rows, ref_model=reference)


def _record(trainer_class: Any, config: Any, lm: Any, tokenizer: Any, rows: Rows, **more: Any) -> Recording:
    from datasets import Dataset

    recording = Recording(start=parameters_of(lm))

    class Recorded(trainer_class):
        """Trainer that records its losses and first gradients, and computes the same values as its parent class."""

        def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
            loss = super().training_step(*args, **kwargs)
            if not recording.losses:
                recording.gradients = gradients_of(lm)
            recording.losses.append(float(loss))
            return loss

    trainer = Recorded(model=lm, args=config, processing_class=tokenizer, train_dataset=Dataset.from_list(rows), **more)
    trainer.train()
    recording.metrics = [line for line in trainer.state.log_history if "grad_norm" in line]
    recording.norms = [line["grad_norm"] for line in recording.metrics]
    recording.end, recording.data = parameters_of(lm), trainer.train_dataset
    return recording
