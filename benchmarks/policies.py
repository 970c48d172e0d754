"""Compare SFT, DPO, online DPO and PPO of the shipped model by two reward models: `python -m benchmarks.policies FOLDER`.

Finished runs stay in the folder and are not repeated. See README.md.
"""

import argparse
import json
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from psychocounsel.api import compose
from psychocounsel.data.group import Group, read_groups, write_groups
from psychocounsel.metrics.intervals import bootstrap
from psychocounsel.metrics.replies import reply_metrics
from psychocounsel.metrics.rewards import win_rate

SAMPLES = 16  # replies to each prompt
_ROUNDS = ["algo.lr=3e-4", "rollout.max_tokens=96", "epochs=5"]  # five epochs, because there are five pairs per prompt
POLICIES: dict[str, list[str]] = {  # all but sft start from the model that sft trained; other settings: the defaults
    "sft": ["algo=sft", "epochs=3"],
    "dpo": ["algo=dpo", "algo.lr=3e-4"],
    "online_dpo": ["algo=online_dpo", *_ROUNDS],
    "ppo": ["algo=ppo", "algo.critic_lr=1e-3", *_ROUNDS],
    "online_dpo_finished": ["algo=online_dpo", "algo.unfinished_penalty=0.5", *_ROUNDS],
}
JUDGES = ("trained on", "second")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.policies", description=__doc__)
    parser.add_argument("folder", type=Path, help="folder for runs, replies and result.json; finished parts are kept")
    parser.add_argument("--seed", type=int, default=1, help="seed of all training runs")
    parser.add_argument(
        "--overrides", nargs="*", default=[], help="more overrides of every training run, for experiments"
    )
    arguments = parser.parse_args()
    folder: Path = arguments.folder.absolute()
    common = [f"seed={arguments.seed}", *arguments.overrides]
    train(folder / "reward", ["algo=reward", "seed=11"])
    models = {"shipped": "builtin:tiny"}
    for name, overrides in POLICIES.items():
        begin = [f"model.path={models['sft']}"] if "sft" in models else []
        train(folder / name, [*overrides, *begin, *common])
        models[name] = str(folder / name / "model")
    replies = {name: written(path, folder / f"{name}.parquet") for name, path in models.items()}
    rewards = {name: judged(made, str(folder / "reward" / "model")) for name, made in replies.items()}
    result = {name: figures(name, rewards, replies) for name in models}
    (folder / "result.json").write_text(json.dumps(result, indent=1) + "\n")
    print(table(result))


def train(run_dir: Path, overrides: list[str]) -> None:
    command = [sys.executable, "-m", "psychocounsel.train", "model=tiny", *overrides, f"run_dir={run_dir}"]
    subprocess.run(command, check=True)


def written(path: str, file: Path) -> list[Group]:
    """Return SAMPLES replies of the model to each held-out prompt. Every model uses the same random numbers."""
    from psychocounsel.data.dataset import build_dataset
    from psychocounsel.model.load import load_causal_lm
    from psychocounsel.model.packed import Policy
    from psychocounsel.model.tokenizer import load_chat_format
    from psychocounsel.rollout.base import Sampling
    from psychocounsel.rollout.hf import HFRollout

    if file.exists():
        return read_groups(file)
    import torch

    config: Any = compose(["algo=online_dpo", f"model.path={path}", "rollout.max_tokens=96"])
    tokenizer, chat = load_chat_format(config.model)
    prompts = build_dataset(config, chat, "prompts", lambda _: None).held_out
    policy = Policy(load_causal_lm(config.model, torch.float32, None), path)
    limits = {"max_tokens": config.rollout.max_tokens, "max_length": config.max_length}
    rollout = HFRollout(policy, tokenizer, [chat.end_token()], config.rollout.batch_size)
    made = rollout.generate(prompts, Sampling(SAMPLES, 1.0, seed=5, **limits))
    write_groups(file, made)
    return made


def judged(groups: list[Group], second: str) -> dict[str, np.ndarray]:
    """Return the rewards of each judge, float[prompts, SAMPLES]. The first judge's are also set in the replies."""
    from psychocounsel.reward.local_model import LocalScorer

    conversations = [
        [*(group.messages or []), {"role": "assistant", "content": reply.text}]
        for group in groups
        for reply in group.completions
    ]
    scorers = (LocalScorer.load("builtin:tiny_reward"), LocalScorer.load(second))
    rewards = [np.asarray(scorer.score(conversations)).reshape(len(groups), -1) for scorer in scorers]
    for group, row in zip(groups, rewards[0], strict=True):
        for reply, reward in zip(group.completions, row, strict=True):
            reply.reward = float(reward)
    return dict(zip(JUDGES, rewards, strict=True))


def figures(name: str, rewards: dict[str, dict[str, np.ndarray]], replies: dict[str, list[Group]]) -> dict[str, Any]:
    """Return the figures of one policy with 95 % intervals by bootstrap over prompts."""
    prompts = [group.id for group in replies[name]]
    found: dict[str, Any] = {"prompts": len(prompts)} | reply_metrics(replies[name], None, "replies")
    for judge in JUDGES:
        means = rewards[name][judge].mean(1)
        interval = bootstrap(partial(_mean, means), prompts)
        against = {
            other: win_rate(rewards[name][judge].tolist(), theirs[judge].tolist(), prompts)
            for other, theirs in rewards.items()
            if other != name
        }
        found[judge] = {"reward": float(means.mean()), "interval": interval, "against": against}
    return found


def _mean(values: np.ndarray, rows: np.ndarray) -> float:
    return float(values[rows].mean())


def table(result: dict[str, dict[str, Any]]) -> str:
    """Return a Markdown table with a row for each policy."""
    columns = [f"reward, {judge} | wins over SFT, {judge}" for judge in JUDGES]
    lines = [f"| | {' | '.join(columns)} | tokens | unfinished | repetition |", "|---" * 8 + "|"]
    for name, found in result.items():
        cells = [name]
        for judge in JUDGES:
            low, high = found[judge]["interval"]
            cells.append(f"{found[judge]['reward']:.2f} ({low:.2f} to {high:.2f})")
            wins = found[judge]["against"].get("sft")
            cells.append("{win_rate:.1%} ({win_rate_low:.1%} to {win_rate_high:.1%})".format(**wins) if wins else "")
        cells += [f"{found['replies/length']:.0f}", f"{found['replies/unfinished']:.1%}"]
        cells.append(f"{found['replies/repetition']:.1%}")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
