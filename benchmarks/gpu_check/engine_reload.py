"""Row of vLLM: an engine that sleeps, wakes and reloads weights."""

import os
from pathlib import Path
from typing import Any

import numpy as np

from psychocounsel.data.group import Group

Verdict = tuple[bool, str, dict[str, Any]]

_ALLOWED = 0.1  # nats: largest mean difference between log-probabilities of vLLM and of training, in bf16
_TOKENS = 32


def vllm(folder: Path, data: Path) -> Verdict:
    os.environ["PSYCHOCOUNSEL_DEVICE"] = "cuda"  # the launcher sets it for the processes of a run
    return reload(("cluster.device=cuda", "model.dtype=bf16", f"paths.cache={folder / 'cache'}"))


def reload(overrides: tuple[str, ...]) -> Verdict:
    """Compare greedy tokens of an engine before and after sleep, with other weights, and with the first weights again.

    Sampled tokens must be the same with the same seed, and have the log-probabilities of the distribution that `top_p` cuts.
    """
    policy = _Policy(overrides)
    first, difference = policy.write(0)
    policy.rollout.rest()
    woken, _ = policy.write(0)
    policy.move(1.0)
    other, _ = policy.write(1)
    policy.move(-1.0)
    back, _ = policy.write(2)
    drawn, sampled_difference = policy.sample()
    checks = {
        "equal after sleep": woken == first,
        "different with new weights": other != first,
        "equal with the first weights again": back == first,
        f"log-probabilities within {_ALLOWED:g} nats of training's": difference <= _ALLOWED,
        "equal sampled tokens with the same seed": policy.sample()[0] == drawn,
        f"sampled log-probabilities within {_ALLOWED:g} nats": sampled_difference <= _ALLOWED,
    }
    wrong = [name for name, holds in checks.items() if not holds]
    said = f"not {', not '.join(wrong)}" if wrong else "equal tokens after sleep and after new weights"
    nats = {"greedy": difference, "sampled": sampled_difference}
    figure = f"{said}; log-probabilities differ by {difference:.1e}, sampled ones by {sampled_difference:.1e}"
    return not wrong, figure, {"checks": checks, "nats": nats}


class _Policy:
    """Shipped model in a training engine, and a vLLM engine that gets its weights."""

    def __init__(self, overrides: tuple[str, ...]) -> None:
        import torch

        from psychocounsel.api import compose
        from psychocounsel.distributed.world import World
        from psychocounsel.engine.engines import build_engine
        from psychocounsel.model.tokenizer import load_chat_format
        from psychocounsel.settings import config as configs

        typed = ["algo=online_dpo", "rollout=vllm", "cluster.processes=1", *overrides]
        config: Any = compose(typed)
        tokenizer, chat = load_chat_format(config.model)
        world = World(0, 1)
        self.engine = build_engine(config, configs.build(config, "algo"), world, tokenizer)
        self.rollout = configs.build(config, "rollout").open(config, self.engine, tokenizer, [chat.end_token()], world)
        trained = [parameter for parameter in self.engine.module.parameters() if parameter.requires_grad]
        torch.manual_seed(3)
        self._moves = [(parameter, 0.02 * torch.randn_like(parameter)) for parameter in trained]
        self._kept = [parameter.detach().clone() for parameter in trained]

    def move(self, sign: float) -> None:
        """Set other weights if `sign` is positive, otherwise exactly the first weights."""
        import torch

        with torch.no_grad():
            for (parameter, by), kept in zip(self._moves, self._kept, strict=True):
                parameter.copy_(kept + by if sign > 0 else kept)

    def write(self, version: int) -> tuple[list[list[int]], float]:
        """Return greedy tokens with the current weights, and the mean difference of their log-probabilities to training's."""
        import torch

        from psychocounsel.data.batch import build_batch
        from psychocounsel.rollout.base import Sampling

        self.rollout.sync(version)
        made = self.rollout.generate(_prompts(), Sampling(1, 0.0, _TOKENS, 128, 0))
        attention = self.engine.module.attention
        batch = build_batch([made], multiple=attention.multiple).to(self.engine.deepspeed.device)
        self.engine.train(False)
        with torch.no_grad():
            pieces = self.engine.module.pieces(self.engine(batch), batch)
        replies = [reply for group in made for reply in group.completions]
        ours = [values for group in pieces for values in group]
        gaps = [np.abs(values - reply.logprobs) for values, reply in zip(ours, replies, strict=True)]
        return [reply.ids.tolist() for reply in replies], float(np.concatenate(gaps).mean())

    def sample(self) -> tuple[list[list[int]], float]:
        """Return tokens sampled at temperature 0.7 and top_p 0.9, and the mean error of their log-probabilities [nats].

        The expected log-probabilities are computed from the training engine's logits, divided by the temperature and cut to
        the likeliest tokens that reach 90 %.
        """
        import torch

        from psychocounsel.rollout.base import Sampling

        made = self.rollout.generate(_prompts(), Sampling(2, 0.7, _TOKENS, 128, 11, top_p=0.9))
        tokens, gaps = [], []
        for group in made:
            for reply in group.completions:
                ids = torch.tensor(np.concatenate([group.prompt_ids, reply.ids]), device=self.engine.deepspeed.device)
                with torch.no_grad(), self.engine.module.attention.plain(self.engine.module.lm):
                    logits = self.engine.module.lm(ids[None].long()).logits[0, len(group.prompt_ids) - 1 : -1].float()
                ordered, places = (logits / 0.7).softmax(-1).sort(descending=True)
                kept = ordered.cumsum(-1) - ordered < 0.9
                chosen = places == ids[len(group.prompt_ids) :, None]
                expected = (ordered[chosen] / (ordered * kept).sum(-1)).log().cpu().numpy()
                gaps.append(np.abs(expected - reply.logprobs))
                tokens.append(reply.ids.tolist())
        return tokens, float(np.concatenate(gaps).mean())


def _prompts() -> list[Group]:
    rng = np.random.default_rng(7)
    return [Group(str(n), rng.integers(3, 2000, length, dtype=np.int32)) for n, length in enumerate((5, 30, 12))]
