"""Train once with the PPOTrainer of TRL 0.24 in its own environment: `python -m benchmarks.ppo_peer SPEC.json`.

SPEC: model, reward, rows (each round has all prompts), micro_batch, steps (rounds), passes, max_tokens, optimizer, replies,
output. Imports nothing from psychocounsel, because that environment lacks its dependencies.
"""

import json
import resource
import sys
import time
from pathlib import Path
from typing import Any

Spec = dict[str, Any]


def main() -> None:
    spec: Spec = json.loads(Path(sys.argv[1]).read_text())
    Path(spec["output"]).write_text(json.dumps(run(spec)))


def run(spec: Spec) -> dict[str, Any]:
    """Train as `spec` says, return seconds and loss of each round, and write the replies of each round to `replies`."""
    import torch

    trainer = make_trainer(spec)
    rounds = record(trainer)
    trainer.train()
    Path(spec["replies"]).write_text(json.dumps(rounds))
    return {
        "losses": [found["policy"] + found["value"] for found in rounds],
        "step_seconds": [found["seconds"] for found in rounds],
        "peak_memory_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9,
        "threads": torch.get_num_threads(),
    }


def make_trainer(spec: Spec) -> Any:
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification
    from trl import PPOConfig, PPOTrainer  # type: ignore[attr-defined]  # later versions have none

    tokenizer = load_tokenizer(Path(spec["model"]))
    rows = [json.loads(line) for line in Path(spec["rows"]).read_text(encoding="utf-8").splitlines()]
    prompts = [tokenizer.apply_chat_template(row["prompt"], add_generation_prompt=True) for row in rows]
    policy, reference = (AutoModelForCausalLM.from_pretrained(spec["model"]) for _ in range(2))
    reward, critic = (AutoModelForSequenceClassification.from_pretrained(spec["reward"]) for _ in range(2))
    trainer = PPOTrainer(
        PPOConfig(f"{spec['output']}.trl", **settings(spec, len(rows))),
        tokenizer,
        model=policy,
        ref_model=reference,
        reward_model=reward,
        value_model=critic,
        train_dataset=Dataset.from_dict({"input_ids": prompts}),
    )
    # A round is the whole dataset. At its end, Accelerate would otherwise take an optimizer step after every micro-batch.
    trainer.accelerator.gradient_state.plugin_kwargs["sync_with_dataloader"] = False
    return trainer


def settings(spec: Spec, prompts: int) -> Spec:
    """Return settings by which each pass over a round is one optimizer step, as in psychocounsel, without evaluation."""
    optimizer = spec["optimizer"]
    return {
        **{"use_cpu": True, "bf16": False, "gradient_checkpointing": False, "dataloader_pin_memory": False},
        **{"per_device_train_batch_size": spec["micro_batch"], "num_mini_batches": 1},
        **{"gradient_accumulation_steps": prompts // spec["micro_batch"], "num_ppo_epochs": spec["passes"]},
        **{"total_episodes": spec["steps"] * prompts, "local_rollout_forward_batch_size": prompts},
        **{"response_length": spec["max_tokens"], "temperature": 1.0, "stop_token": None, "missing_eos_penalty": None},
        **{"kl_coef": 0.05, "cliprange": 0.2, "cliprange_value": 0.2, "gamma": 1.0, "lam": 0.95},
        "vf_coef": 1.0,  # as in psychocounsel; Adam's updates do not depend on it
        **{"learning_rate": optimizer["lr"], "adam_epsilon": optimizer["adam_eps"], "lr_scheduler_type": "constant"},
        **{"adam_beta1": optimizer["adam_beta1"], "adam_beta2": optimizer["adam_beta2"], "weight_decay": 0.0},
        **{"num_sample_generations": 0, "save_strategy": "no", "report_to": "none", "disable_tqdm": True},
    }


def load_tokenizer(folder: Path) -> Any:
    """Return the benchmark's tokenizer, built from its files because this older transformers cannot read the settings."""
    from transformers import PreTrainedTokenizerFast

    class Tokenizer(PreTrainedTokenizerFast):
        # TRL treats the padding token as the end of a reply and masks it, so the padding token must never occur in a reply.
        pad_token_id = json.loads((folder / "config.json").read_text())["vocab_size"]

    names = json.loads((folder / "tokenizer_config.json").read_text())
    return Tokenizer(
        tokenizer_file=str(folder / "tokenizer.json"),
        padding_side="left",
        pad_token=names["pad_token"],
        eos_token=names["eos_token"],
        chat_template=(folder / "chat_template.jinja").read_text(),
    )


def record(trainer: Any) -> list[dict[str, Any]]:
    """Return a list that `trainer.train()` fills with the seconds, losses, replies and scores of each round."""
    from transformers import TrainerCallback
    from trl.trainer import ppo_trainer  # type: ignore[attr-defined]

    rounds: list[dict[str, Any]] = []
    now: dict[str, Any] = {}
    write, score, log = ppo_trainer.batch_generation, ppo_trainer.get_reward, trainer.log

    def timed_write(model: Any, queries: Any, *others: Any) -> Any:
        started = time.perf_counter()
        written = write(model, queries, *others)
        now.update(write=time.perf_counter() - started, queries=queries, width=queries.shape[1], written=written[0])
        return written

    def kept_score(model: Any, *others: Any) -> Any:
        found = score(model, *others)
        if model is trainer.reward_model:
            now["scores"] = found[1].tolist()
        return found

    def kept_log(metrics: dict[str, float], *others: Any) -> None:
        log(metrics, *others)
        now.update(policy=metrics["loss/policy_avg"], value=metrics["loss/value_avg"], kl=metrics["objective/kl"])

    class Clock(TrainerCallback):
        def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
            now["started"] = time.perf_counter()

        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            ended = time.perf_counter()
            rounds.append(_round(now, trainer.processing_class.pad_token_id) | {"seconds": ended - now["started"]})
            now["started"] = ended

    ppo_trainer.batch_generation, ppo_trainer.get_reward, trainer.log = timed_write, kept_score, kept_log
    trainer.add_callback(Clock())
    return rounds


def _round(now: dict[str, Any], padding: int) -> dict[str, Any]:
    prompts = [[token for token in row if token != padding] for row in now["queries"].tolist()]
    replies = [row[now["width"] :] for row in now["written"].tolist()]
    written = [
        {"prompt": prompt, "ids": ids, "score": score}
        for prompt, ids, score in zip(prompts, replies, now["scores"], strict=True)
    ]
    return {name: now[name] for name in ("policy", "value", "kl", "write")} | {"replies": written}


if __name__ == "__main__":
    main()
