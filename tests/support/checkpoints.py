"""Engines in the test's own process, and the checkpoint code that saves and loads them."""

from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from omegaconf import OmegaConf

from psychocounsel.algo.dpo import DPO
from psychocounsel.distributed.world import World
from psychocounsel.engine.checkpoints.saving import Checkpoints
from psychocounsel.engine.step import Stepper
from psychocounsel.engine.zero import Engine
from psychocounsel.model.lora import add_adapter
from psychocounsel.model.packed import Policy
from psychocounsel.rundir.paths import RunDir
from tests.support.composed import check, compose
from tests.support.harness import random_groups, small_lm

GROUPS = random_groups(4)


@dataclass(frozen=True)
class Setting:
    """ZeRO stage, number of processes and kind of model of an engine."""

    stage: int
    processes: int = 1
    kind: str = "plain"

    def __str__(self) -> str:
        return f"{self.kind}-zero{self.stage}-of-{self.processes}"


def build(setting: Setting, here: World, folder: Path, *overrides: str) -> tuple[Stepper, Checkpoints]:
    """Return a Stepper and its Checkpoints in `folder`. `run.said` of the checkpoints lists the messages to the user."""
    config = check(compose([f"zero={setting.stage}", "zero.persistence_elements=60", *overrides]))
    dtype = torch.bfloat16 if setting.kind == "bf16" else torch.float32
    lm, adapter = small_lm(dtype=dtype if setting.stage else torch.float32, tie_word_embeddings=True), None
    if setting.kind == "lora":
        lora = {"rank": 4, "alpha": 8, "dropout": 0.0, "targets": ["q_proj", "down_proj"]}
        lm, adapter = add_adapter(lm, OmegaConf.create(lora), None)
    model = Policy(lm, "test", adapter, attention=config.model.attention)
    if setting.kind == "value head":
        model.add_value_head(dtype)
    algorithm = DPO(lr=1e-2, weight_decay=0.1)
    engines = {"policy": Engine(model, config, algorithm, dtype)}
    said: list[str] = []
    run: Any = SimpleNamespace(files=RunDir(folder), config=config, said=said, say=said.append)
    return Stepper(algorithm, engines, here, 4096), Checkpoints(run, engines, here, lambda event, step: None)


def learn(stepper: Stepper, steps: int = 1) -> None:
    """Train on GROUPS for `steps` optimizer steps."""
    stepper.main.train(True)
    for _ in range(steps):
        stepper.accumulate(GROUPS, train=True)
        stepper.main.step(1e-2)
