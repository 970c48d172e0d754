"""Sessions with the training clients as an environment of `verifiers` (extra `environment`), which prime-rl loads.

Its id is `psychocounsel`. Clients, sessions and rewards are those of `rollout.clients=scripted` (docs/sessions.md).
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import httpx
import numpy as np
import torch
import verifiers.v1 as vf
from omegaconf import DictConfig, OmegaConf
from pydantic import Field
from verifiers.v1.dialects.chat import message_to_wire
from verifiers.v1.runtimes import ProgramResult
from verifiers.v1.types import UserMessage, content_text

from psychocounsel.api import compose
from psychocounsel.counsel.system_prompt import SHORT, prompt_text
from psychocounsel.data.messages import Message
from psychocounsel.engine.rounds.scoring import earned_by_turns
from psychocounsel.errors import UserError
from psychocounsel.evaluation.session.training_clients import BUILTIN, ClientOpenings, ScriptedClients
from psychocounsel.grading.rewards import JudgeScorer
from psychocounsel.reward.base import Conversation, open_scorer
from psychocounsel.reward.encoding import score_what_fits
from psychocounsel.settings import config as configs

# The clients


class ClientTasksConfig(vf.TasksetConfig):
    clients: str = BUILTIN
    """`builtin:clients`, or a folder of scripts (`data.path` of `data=clients`)."""


class ClientTasks(vf.Taskset[vf.Task, ClientTasksConfig]):
    """A task for each client: its first words. `--env.taskset.system-prompt FILE` replaces the system message."""

    def load(self) -> Iterator[vf.Task]:
        prompt = prompt_text(SHORT, "system_prompt")
        for name, row in ClientOpenings().rows(self.config.clients, "train", None):
            yield vf.Task(vf.TaskData(id=row["id"], name=name, prompt=row["prompt"], system_prompt=prompt))


class TurnByTurn(vf.Harness[vf.HarnessConfig]):
    """Asks the policy for one turn, in this process: no program is installed or started."""

    APPENDS_SYSTEM_PROMPT = SUPPORTS_RESUME = True
    EXECUTES_CODE = NEEDS_CONTAINER = False

    async def launch(
        self, ctx: Any, trace: Any, runtime: Any, endpoint: str, secret: str, mcp_urls: Any, data: vf.TaskData
    ) -> ProgramResult:
        system, prompt = self.resolve_prompt(data)
        said = [UserMessage(content=prompt)] if isinstance(prompt, str) else prompt
        messages = [{"role": "system", "content": system}] if system else []
        payload = {"model": ctx.model, "messages": [*messages, *map(message_to_wire, said)]}
        async with httpx.AsyncClient(timeout=None, trust_env=False) as client:  # the server is in this process, too
            key = {"Authorization": f"Bearer {secret}"}
            answer = await client.post(f"{endpoint}/chat/completions", json=payload, headers=key)
        return ProgramResult(exit_code=int(answer.is_error), stdout="", stderr=answer.text if answer.is_error else "")


# The sessions


class SessionEnvConfig(vf.EnvConfig):
    counsellor: vf.AgentConfig = vf.AgentConfig(runtime={"type": "subprocess"})
    """The policy."""
    turns: int = Field(6, ge=1)
    """Largest number of the policy's turns, as `rollout.turns`."""
    session_reward: Literal["mean", "last", "min"] = "mean"
    """Reward of a session over its turns, as `rollout.session_reward`."""
    reward: list[str] = []
    """Settings of the reward as `psychocounsel train` takes them, such as reward.path=RUN/model, and of `budget`."""
    device: str = "cpu"
    """Device of a reward model."""
    answers: Path = Path("reward_answers")
    """Folder that keeps the answers of a judge, so that none is bought twice."""


class SessionEnv(vf.Env[SessionEnvConfig]):
    """The policy and a client take turns. The reward of a session is that of its turns, combined by `session_reward`.

    `trace.info["turn_rewards"]` holds the parts of it that the turns earned. A session without a reward fails.

    Raises:
        UserError: for clients of the evaluation, wrong scripts, and settings of a reward that cannot work.
    """

    def __init__(self, config: SessionEnvConfig) -> None:
        super().__init__(config)
        path = self.taskset.config.clients
        self.clients = ScriptedClients().open(
            OmegaConf.create({"data": {"path": path, "eval_path": None}}), config.answers
        )
        self.train_config = _composed(config.reward, config.session_reward)

    async def start(self) -> None:
        """Open the reward. Sessions that end while it scores others are then scored together."""
        scorer = open_scorer(configs.build(self.train_config, "reward"), torch.device(self.config.device))
        if isinstance(scorer, JudgeScorer):
            openings = [_messages([UserMessage(content=task.data.prompt)]) for task in self.taskset]
            scorer.begin(self.config.answers, self.train_config.budget, openings)
        self._ended = asyncio.Queue[tuple[list[Conversation], asyncio.Future[np.ndarray]]]()
        self._scoring = asyncio.create_task(self._score(scorer))

    async def stop(self) -> None:
        if hasattr(self, "_scoring"):
            self._scoring.cancel()

    async def run(self, task: vf.Task, agents: vf.Agents) -> None:
        async with agents.counsellor.interaction(task) as session:
            reply = await session.turn()
            for _ in range(self.config.turns - 1):
                # No client would answer half a sentence.
                if reply.terminated or session.trace.calls[-1].finish_reason == "length":
                    break
                (words,) = self.clients.answers([_session(session.trace)], [0])
                if words is None:
                    break
                reply = await session.turn(words)

    async def finalize(self, task: vf.Task, episode: vf.Episode) -> None:
        """Record the reward of the session."""
        (trace,) = episode.traces
        said = _session(trace)
        if not trace.ok or not said:
            return
        ends = range(2, len(said) + 1, 2)
        conversations: list[Conversation]
        conversations = [said[:end] for end in (ends[-1:] if self.config.session_reward == "last" else ends)]
        scored = asyncio.get_running_loop().create_future()
        self._ended.put_nowait((conversations, scored))
        earned, _ = earned_by_turns(await scored, len(ends), self.config.session_reward)
        if np.isnan(earned).any():
            raise UserError("a turn has no reward: the reward model cannot hold it, or the judge's answer is unusable")
        trace.record_reward("session", earned.sum())
        trace.record_metric("turns", len(ends))
        trace.info["turn_rewards"] = earned.tolist()

    async def _score(self, scorer: Any) -> None:
        """Score the sessions in the queue, all that wait at once."""
        while True:
            batch = [await self._ended.get()]
            while not self._ended.empty():
                batch.append(self._ended.get_nowait())
            every = [conversation for conversations, _ in batch for conversation in conversations]
            try:
                rewards = await asyncio.to_thread(score_what_fits, scorer, every)
                ends = np.cumsum([len(conversations) for conversations, _ in batch])
                parts: Sequence[Any] = np.split(rewards, ends[:-1])
            except Exception as error:
                parts = [error] * len(batch)
            for (_, scored), part in zip(batch, parts, strict=True):
                if not scored.done():  # its episode may have been given up
                    scored.set_exception(part) if isinstance(part, Exception) else scored.set_result(part)


def _composed(reward: Sequence[str], session_reward: str) -> DictConfig:
    """Return the configuration of a training with these settings of its reward."""
    other = [setting for setting in reward if not setting.startswith(("reward=", "reward.", "budget."))]
    if other:
        raise UserError(f"{other[0]}: is no setting of reward or budget; the others belong to the trainer")
    sessions = ["data=clients", "rollout.clients=scripted", f"rollout.session_reward={session_reward}"]
    config = compose(["algo=grpo", *sessions, *reward])
    if getattr(configs.build(config, "reward"), "combine", None) == "constraint":
        raise UserError("reward.combine=constraint needs all replies of a round; use another value")
    return config


def _session(trace: vf.Trace) -> list[Message]:
    """Return the session up to the policy's last reply, without the system message."""
    said = _messages(trace.branches[-1].messages) if trace.branches else []
    return said if not said or said[-1]["role"] == "assistant" else said[:-1]


def _messages(messages: Sequence[Any]) -> list[Message]:
    said = [message for message in messages if message.role != "system"]
    return [{"role": message.role, "content": content_text(message.content)} for message in said]
