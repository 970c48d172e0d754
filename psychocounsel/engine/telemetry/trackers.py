"""`tracker=none|wandb|tensorboard`: receiver of metrics in addition to `metrics.jsonl`."""

import html
import os
import uuid
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from shlex import quote
from typing import Any
from urllib.error import HTTPError
from urllib.request import urlopen

from omegaconf import DictConfig, OmegaConf

from psychocounsel.errors import UserError
from psychocounsel.rundir.identity import identity
from psychocounsel.rundir.paths import ONLY_CELL, RunDir
from psychocounsel.settings.schema import option
from psychocounsel.storage.files import write_atomically

_SECONDS = 8  # time-out of the test whether the server of a tracker answers


def _require(package: str) -> None:
    if find_spec(package) is None:
        raise UserError(f"tracker={package}: is not installed; pip install 'psychocounsel[{package}]', or tracker=none")


@dataclass
class NoTracker:
    """Base class of trackers, which itself records nothing.

    `texts`: also send speeches and replies to the tracker; otherwise it gets only numbers and settings.
    """

    texts: bool = False

    def check(self) -> None:
        """Raise UserError if this tracker cannot work here; called before any job starts."""
        if self.texts and type(self) is NoTracker:
            raise UserError("tracker.texts=true: tracker=none sends nothing anywhere; use tracker=wandb or tensorboard")

    def receivers(self, key: str) -> list[tuple[str, str]]:
        """Return the servers that texts are sent to, as (key, address).

        `data.confidential` checks each address against `data.allowed_hosts`.
        """
        return []

    def start(self, run_dir: Path, config: DictConfig) -> None:
        """Start or resume tracking; the loop then logs all earlier steps again, because a kill loses unwritten ones."""

    def log(self, step: int, metrics: dict[str, float]) -> None:
        """Record the numbers of one step."""

    def text(self, step: int, name: str, markdown: str) -> None:
        """Record a text of a step; called before the step's numbers are recorded."""

    def finish(self) -> None:
        """Write all pending records."""


@dataclass
class Wandb(NoTracker):
    """Weights & Biases; offline, for a later sync, without a key or if the server cannot be reached.

    A file in the run directory holds the run's id, so that a resumed run continues and a repeated one is another.
    `sync`: the job uploads offline runs when it ends (`cluster.archive.sync_where_asked`).
    """

    project: str = "psychocounsel"
    entity: str | None = None
    name: str | None = None
    tags: list[str] = option([])
    sync: bool = False

    def check(self) -> None:
        _require("wandb")

    def receivers(self, key: str) -> list[tuple[str, str]]:
        """Return the server if it receives texts; also for offline runs, because they may be synced later."""
        return [(f"{key}.texts", server_address())] if self.texts else []

    def start(self, run_dir: Path, config: DictConfig) -> None:
        import wandb

        key = os.environ.get("WANDB_API_KEY") or wandb.api.api_key
        settings = _settings(config)
        # By default wandb would send printed text, and changes in a git checkout, which may contain data.
        private = {"console": "off", "disable_git": True, "disable_code": True, "save_code": False}
        mode: Any = os.environ.get("WANDB_MODE") or ("online" if key and answers(server_address()) else "offline")
        if mode == "offline":
            print(
                f"tracker=wandb: offline, because {_why_offline(key)}; `psychocounsel jobs sync {quote(str(run_dir))}` uploads "
                "the run later",
                flush=True,
            )
        # The variable names the wandb service of another process, which still holds the id of a run that was killed.
        os.environ.pop("WANDB_SERVICE", None)
        self.run = wandb.init(
            project=self.project,
            entity=self.entity,
            name=self.name or _name(run_dir, config),
            id=_run_id(run_dir),
            resume="allow",
            group=Path(config.sweep_dir).name if config.sweep_dir else None,
            tags=list(self.tags),
            config=settings,
            dir=str(run_dir),
            mode=mode,
            settings=wandb.Settings(silent=True, base_url=server_address(), **private),
        )

    def log(self, step: int, metrics: dict[str, float]) -> None:
        self.run.log(metrics, step=step)

    def text(self, step: int, name: str, markdown: str) -> None:
        import wandb

        self.run.log({name: wandb.Html(f"<pre style='white-space: pre-wrap'>{html.escape(markdown)}</pre>")}, step=step)

    def finish(self) -> None:
        self.run.finish()


def _run_id(run_dir: Path) -> str:
    """Return the id of the run on W&B, which its first attempt draws and writes to the run directory."""
    file = RunDir(run_dir).wandb / "run_id"
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(file, uuid.uuid4().hex[:16])
    return file.read_text().strip()


def answers(address: str) -> bool:
    """Return True if a server answers within seconds, because wandb itself gives up after minutes, and then fails."""
    try:
        urlopen(address, timeout=_SECONDS).close()
    except HTTPError:  # it refuses, so it is there
        return True
    except (OSError, ValueError):
        return False
    return True


def _why_offline(key: str | None) -> str:
    if os.environ.get("WANDB_MODE"):
        return "WANDB_MODE is offline"
    return f"{server_address()} cannot be reached" if key else "no key is set (`wandb login`)"


def _settings(config: DictConfig) -> dict[str, Any]:
    """Return the configuration as a tracker may see it: without a confidential system prompt."""
    settings: Any = OmegaConf.to_container(config)
    if OmegaConf.select(config, "data.confidential"):
        settings["model"].pop("system_prompt")
    return dict(settings)


def _name(run_dir: Path, config: DictConfig) -> str:
    """Return the name of the run for the tracker: the sweep's or stage's name if the run is the only one in it."""
    is_alone = config.sweep_dir and run_dir.name == ONLY_CELL
    return Path(config.sweep_dir).name if is_alone else run_dir.name


def server_address() -> str:
    """Return the address of the Weights & Biases server, from the environment and its settings."""
    import wandb

    settings = wandb.Settings(silent=True, settings_system=str(Path("~/.config/wandb/settings").expanduser()))
    settings.update_from_system_settings()  # in the same order as wandb reads them when it starts
    settings.update_from_env_vars(dict(os.environ))
    return str(settings.base_url)


@dataclass
class TensorBoard(NoTracker):
    """Event files in RUN/tensorboard; show them with `tensorboard --logdir RUN_OR_SWEEP`."""

    def check(self) -> None:
        _require("tensorboard")

    def start(self, run_dir: Path, config: DictConfig) -> None:
        from torch.utils.tensorboard import SummaryWriter
        from torch.utils.tensorboard.summary import hparams

        # Every step is written again, so purge_step hides the events of earlier attempts.
        self.writer: Any = SummaryWriter(str(RunDir(run_dir).tensorboard), purge_step=0)
        settings = _settings(config)
        lines = OmegaConf.to_yaml(OmegaConf.create(settings)).splitlines()
        self.writer.add_text("config", "\n".join(f"    {line}" for line in lines), 0)
        scalars = {
            key: value for key, value in identity(settings).items() if isinstance(value, (bool, int, float, str))
        }
        for summary in hparams(scalars, {config.checkpoint.metric: 0.0}):  # for the tab HPARAMS, which compares runs
            self.writer.file_writer.add_summary(summary)

    def log(self, step: int, metrics: dict[str, float]) -> None:
        for name, value in metrics.items():
            self.writer.add_scalar(name, value, step)

    def text(self, step: int, name: str, markdown: str) -> None:
        self.writer.add_text(name, markdown, step)

    def finish(self) -> None:
        self.writer.close()
