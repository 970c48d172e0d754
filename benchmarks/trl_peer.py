"""Train once with TRL: `python -m benchmarks.trl_peer SPEC.json`.

SPEC: algorithm, model, rows, pairs (a step trains on all), micro_batch, steps, dtype, weights (dtype of the model),
device, cached, optimizer, output; optional: reward and max_tokens (online DPO), profile (a file).
"""

import json
import resource
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.hooks import operations

Spec = dict[str, Any]
COLUMNS = {"sft": ["prompt", "completion"], "online_dpo": ["prompt"]}
PAIR = ["prompt", "chosen", "rejected"]


def main() -> None:
    spec: Spec = json.loads(Path(sys.argv[1]).read_text())
    Path(spec["output"]).write_text(json.dumps(run(spec)))


def run(spec: Spec) -> dict[str, Any]:
    """Train as `spec` says, and return losses, seconds per step, peak memory and threads.

    `trained_tokens` is None if TRL's dataset has no labels.
    """
    import torch

    trainer = make_trainer(spec)
    trainer.train()
    on_cuda = spec["device"] == "cuda"
    peak = torch.cuda.max_memory_allocated() if on_cuda else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    losses = [float(torch.stack(parts).sum()) for parts in trainer.micro_losses]
    seconds = [end - start for start, end in zip(trainer.times, trainer.times[1:], strict=False)]
    labels = trainer.train_dataset["labels"] if "labels" in trainer.train_dataset.column_names else []
    return {
        "losses": losses,
        "step_seconds": seconds,
        "peak_memory_gb": peak / 1e9,
        "threads": torch.get_num_threads(),
        "trained_tokens": sum(label != -100 for row in labels for label in row) or None,
    }


def make_trainer(spec: Spec) -> Any:
    from datasets import Dataset
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(spec["model"])
    columns = COLUMNS.get(spec["algorithm"], PAIR)
    rows = [json.loads(line) for line in Path(spec["rows"]).read_text(encoding="utf-8").splitlines()]
    data = Dataset.from_list([{name: row[name] for name in columns} for row in rows])
    kind, config = _classes(spec["algorithm"])
    settings = {**_common(spec), **_own(spec), **_optimizer(spec["optimizer"])}
    arguments = config(f"{spec['output']}.trl", **settings)
    scored = {"reward_funcs": spec["reward"], "reward_processing_classes": tokenizer} if "reward" in spec else {}
    return _timed(kind, spec.get("profile"))(
        model=_load(spec), args=arguments, processing_class=tokenizer, train_dataset=data, **scored
    )


def _classes(algorithm: str) -> tuple[Any, Any]:
    import trl

    if algorithm == "simpo":
        from trl.experimental.cpo import CPOConfig, CPOTrainer

        return CPOTrainer, CPOConfig
    if algorithm == "online_dpo":
        from trl.experimental.online_dpo import OnlineDPOConfig, OnlineDPOTrainer

        return OnlineDPOTrainer, OnlineDPOConfig
    kinds: dict[str, tuple[Any, Any]] = {
        "dpo": (trl.DPOTrainer, trl.DPOConfig),
        "reward": (trl.RewardTrainer, trl.RewardConfig),
        "sft": (trl.SFTTrainer, trl.SFTConfig),
    }
    return kinds[algorithm]


def _load(spec: Spec) -> Any:
    import torch
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

    kind = AutoModelForSequenceClassification if spec["algorithm"] == "reward" else AutoModelForCausalLM
    return kind.from_pretrained(spec["model"], dtype=getattr(torch, spec["weights"]))


def _common(spec: Spec) -> Spec:
    """Return settings by which every step is one epoch over all rows in file order, without evaluation or saving."""
    accumulation = -(-spec["pairs"] // spec["micro_batch"])
    return {
        **{"use_cpu": spec["device"] == "cpu", "bf16": spec["dtype"] == "bf16", "gradient_checkpointing": False},
        **{"per_device_train_batch_size": spec["micro_batch"], "gradient_accumulation_steps": accumulation},
        **{"train_sampling_strategy": "sequential", "num_train_epochs": spec["steps"], "max_length": 1024},
        **{"logging_steps": 1, "save_strategy": "no", "report_to": "none", "disable_tqdm": True},
        "dataloader_pin_memory": spec["device"] == "cuda",
    }


def _own(spec: Spec) -> Spec:
    algorithm = spec["algorithm"]
    if algorithm == "dpo":
        return {"beta": 0.1, "precompute_ref_log_probs": spec["cached"]}
    if algorithm == "simpo":  # TRL's gamma is ours times beta; cpo_alpha would add a likelihood
        return {
            "loss_type": "simpo",
            "beta": 2.5,
            "simpo_gamma": 1.375,
            "cpo_alpha": 0.0,
            "remove_unused_columns": False,
        }
    if algorithm == "online_dpo":
        return {"beta": [0.1], "temperature": 1.0, "max_new_tokens": spec["max_tokens"]}
    return {"packing": True, "completion_only_loss": True} if algorithm == "sft" else {}


def _optimizer(ours: Spec) -> Spec:
    names = {"lr": "learning_rate", "adam_eps": "adam_epsilon"}
    renamed = {names.get(name, name): value for name, value in ours.items() if name not in ("schedule", "warmup")}
    return {**renamed, "optim": "adamw_torch", "lr_scheduler_type": ours["schedule"], "warmup_steps": ours["warmup"]}


def _timed(kind: Any, profile: str | None) -> Any:
    from transformers import TrainerCallback

    class Clock(TrainerCallback):
        def __init__(self, times: list[float], path: str | None) -> None:
            self.times, self.profile = times, _Profile(path)

        def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
            self.times.append(time.perf_counter())

        def on_step_end(self, args: Any, state: Any, *others: Any, **kwargs: Any) -> None:
            _synchronise()
            self.times.append(time.perf_counter())
            self.profile.step(state.global_step, state.max_steps)

    class Timed(kind):
        """Trainer that records times, and the losses of micro-batches, because the trainer logs only rounded losses."""

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self.times: list[float] = []
            self.micro_losses: list[list[Any]] = []
            self.add_callback(Clock(self.times, profile))

        def training_step(self, *args: Any, **kwargs: Any) -> Any:
            loss = super().training_step(*args, **kwargs)
            if len(self.micro_losses) <= self.state.global_step:
                self.micro_losses.append([])
            self.micro_losses[self.state.global_step].append(loss.detach())
            return loss

    return Timed


def _synchronise() -> None:
    import torch

    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.synchronize()


class _Profile:
    """Profiler of all steps after the first, like `hooks.Operations`."""

    def __init__(self, path: str | None) -> None:
        self.path = path
        self.profiler: Any = None

    def step(self, number: int, last: int) -> None:
        from torch.profiler import profile

        if self.path is None:
            return
        if number == 1:
            self.profiler = profile()
            self.profiler.__enter__()
        elif number == last:
            self.profiler.__exit__(None, None, None)
            Path(self.path).write_text(operations(self.profiler))


if __name__ == "__main__":
    main()
