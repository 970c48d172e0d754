"""`tracker=none|wandb|tensorboard`: where metrics go besides `metrics.jsonl`."""

import hashlib
import html
import os
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from psychocounsel.errors import UserError
from psychocounsel.rundir.paths import RunDir
from psychocounsel.settings.schema import option


def _require(package: str) -> None:
    if find_spec(package) is None:
        raise UserError(f"tracker={package}: is not installed; pip install 'psychocounsel[{package}]', or tracker=none")


@dataclass
class NoTracker:
    def check(self) -> None:
        """Raise UserError if this tracker cannot work here; called before any job starts."""

    def start(self, run_dir: Path, config: DictConfig) -> None:
        """Begin, or go on; the loop then logs all earlier steps again, since a kill loses what was not yet written."""

    def log(self, step: int, metrics: dict[str, float]) -> None:
        """Record one step's numbers."""

    def text(self, step: int, name: str, markdown: str) -> None:
        """Record a text of a step, before its numbers."""

    def finish(self) -> None:
        """Flush everything."""


@dataclass
class Wandb(NoTracker):
    """Weights & Biases; offline (to be synced later) where no key is set. The run id follows from the run directory."""

    project: str = "psychocounsel"
    entity: str | None = None
    name: str | None = None
    tags: list[str] = option([])

    def check(self) -> None:
        _require("wandb")

    def start(self, run_dir: Path, config: DictConfig) -> None:
        import wandb

        key = os.environ.get("WANDB_API_KEY") or wandb.api.api_key
        settings: Any = OmegaConf.to_container(config)
        mode: Any = os.environ.get("WANDB_MODE") or ("online" if key else "offline")
        self.run = wandb.init(
            project=self.project,
            entity=self.entity,
            name=self.name or run_dir.name,
            id=hashlib.sha256(str(run_dir).encode()).hexdigest()[:16],
            resume="allow",
            group=Path(config.sweep_dir).name if config.sweep_dir else None,
            tags=list(self.tags),
            config=settings,
            dir=str(run_dir),
            mode=mode,
            settings=wandb.Settings(silent=True),
        )

    def log(self, step: int, metrics: dict[str, float]) -> None:
        self.run.log(metrics, step=step)

    def text(self, step: int, name: str, markdown: str) -> None:
        import wandb

        self.run.log({name: wandb.Html(f"<pre style='white-space: pre-wrap'>{html.escape(markdown)}</pre>")}, step=step)

    def finish(self) -> None:
        self.run.finish()


@dataclass
class TensorBoard(NoTracker):
    """Event files in RUN/tensorboard: `tensorboard --logdir RUN_OR_SWEEP`."""

    def check(self) -> None:
        _require("tensorboard")

    def start(self, run_dir: Path, config: DictConfig) -> None:
        from torch.utils.tensorboard import SummaryWriter

        # Every step is written again: purge_step hides what earlier attempts wrote.
        self.writer: Any = SummaryWriter(str(RunDir(run_dir).tensorboard), purge_step=0)

    def log(self, step: int, metrics: dict[str, float]) -> None:
        for name, value in metrics.items():
            self.writer.add_scalar(name, value, step)

    def text(self, step: int, name: str, markdown: str) -> None:
        self.writer.add_text(name, markdown, step)

    def finish(self) -> None:
        self.writer.close()
