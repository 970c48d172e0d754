"""`psychocounsel train`: trains a model on demonstrations, preferences or rewards."""

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from omegaconf import DictConfig, OmegaConf, open_dict

from psychocounsel.asking.model_groups import asked_repositories
from psychocounsel.data.privacy import data_files
from psychocounsel.data.settings import check_data, data_repositories, idle_data, resolve_mix, settle_data
from psychocounsel.engine.checks import check_training, figures_of_training, idle_training
from psychocounsel.engine.judge import check_judge, idle_judge, judge_forecast, prepare_judge
from psychocounsel.engine.settings import TrainConfig
from psychocounsel.errors import UserError
from psychocounsel.model.settings import model_repositories, settle_model
from psychocounsel.remote.confidential import check_confidential
from psychocounsel.reward.sections import (
    check_rewards,
    idle_rewards,
    resolve_rewards,
    reward_receivers,
    reward_repositories,
    settle_rewards,
)
from psychocounsel.reward.shipped import refuse_shipped_rewards
from psychocounsel.rundir import identity
from psychocounsel.rundir.paths import RunDir
from psychocounsel.settings.command import Command, Presets, ordered
from psychocounsel.settings.config import type_section, typed_groups
from psychocounsel.settings.keys import refuse_renamed
from psychocounsel.settings.targets import build, target_class

if TYPE_CHECKING:
    from psychocounsel.rundir.run import Run


# Keys whose value is a file of another group, and this group
_CHOICES = {"reward.judge": "judge", "rollout.clients": "clients", "rollout.clients.client": "client"}


def _as_choice(override: str, presets: Mapping[str, list[str]]) -> str:
    """Return an override such as `reward.judge=NAME` as Hydra writes it, a choice; others as they are.

    Raises:
        UserError: if there is no file of this name.
    """
    key, _, value = override.partition("=")
    if key not in _CHOICES:
        return override
    group = _CHOICES[key]
    if unknown := [name for name in value.split(",") if name not in presets[group]]:
        raise UserError(
            f"{key}={unknown[0]}: there is no conf/{group}/{unknown[0]}.yaml (there are {', '.join(presets[group])}); single "
            f"settings have keys below {key}"
        )
    return f"{group}@{override}"


class Train(Command):
    """Training by any algorithm of `algo`."""

    name: ClassVar[str] = "train"
    module: ClassVar[str] = "psychocounsel.train"
    section: ClassVar[str] = "algo"
    trains: ClassVar[bool] = True
    stopping: ClassVar[str] = "stopping at the next step"

    def arguments(
        self, options: Sequence[str], overrides: Sequence[str], presets: Mapping[str, list[str]]
    ) -> list[str]:
        return [_as_choice(text, presets) for text in overrides]

    def resolve(self, composed: DictConfig, presets: Presets) -> None:
        resolve_mix(composed, presets.data)
        resolve_rewards(composed, presets.section)

    def leave_out(self, plain: DictConfig) -> None:
        """Drop the groups reward and rollout if neither the algorithm nor its evaluation uses them."""
        refuse_renamed(plain, target_class)
        needs = target_class(plain, "algo").needs
        evaluated = str(OmegaConf.select(plain, "eval.replies")).lower() in ("true", "yes", "on", "1", "y")
        with open_dict(plain):
            for group, needed in (("reward", needs.reward), ("rollout", needs.rollouts)):
                if not needed and not evaluated:
                    plain.pop(group, None)

    def schema(self, plain: DictConfig) -> type:
        return TrainConfig

    def check(self, config: DictConfig, plain: DictConfig) -> None:
        check_rewards(config, typed_groups, judge_may_reward=True)
        for key in ("rollout.clients", "rollout.clients.client"):
            type_section(config, key, _CHOICES[key])
        check_data(config)
        check_training(config, build(config, "cluster"))
        check_judge(config)
        check_confidential(self, config)
        settle_model(config)
        settle_data(config)
        settle_rewards(config)
        models = [("model.path", OmegaConf.select(plain, "model.path"))]
        refuse_shipped_rewards(plain, models)  # last, because the messages on other mistakes are more specific

    def idle(self, config: DictConfig) -> Iterator[tuple[str, str]]:
        yield from idle_training(config)
        yield from idle_judge(config)
        yield from idle_rewards(config)
        yield from idle_data(config.data)

    def sources(self, config: DictConfig) -> Iterator[Path]:
        return data_files(config)

    def receivers(self, config: DictConfig) -> Iterator[tuple[str, str]]:
        for sender in ("tracker", "rollout"):
            if config.get(sender) is not None:
                yield from build(config, sender).receivers(sender)
        if OmegaConf.select(config, "rollout.clients"):
            yield from build(config, "rollout").simulated().receivers("rollout.clients")
        yield from reward_receivers(config)

    def repositories(self, config: DictConfig) -> Iterator[tuple[Any, str]]:
        yield from model_repositories(config)
        yield from data_repositories(config)
        yield from reward_repositories(config)
        yield from asked_repositories(config)

    def new_directory(self, config: DictConfig) -> Path:
        algorithm = config.algo._target_.rsplit(".", 1)[-1].lower()
        return identity.new_directory(config.paths.output, algorithm, config.model.name)

    def metric(self, config: DictConfig) -> str:
        return str(config.checkpoint.metric)

    def figure_names(self, config: DictConfig) -> list[str] | None:
        return ordered(figures_of_training(config))

    def prepare(self, config: DictConfig, run_dir: Path) -> None:
        prepare_judge(config)

    def forecast(self, config: DictConfig) -> list[str]:
        return judge_forecast(config)

    def nothing_due(self, config: DictConfig, before: DictConfig) -> bool:
        return all(before.get(key) == config.get(key) for key in ("max_steps", "epochs"))

    def product(self, config: DictConfig, files: RunDir) -> str:
        return f"{files.model.name}/"

    def work(self, run: "Run") -> int:
        from psychocounsel.engine.trainer import train

        return train(run)


COMMAND = Train()

if __name__ == "__main__":
    from psychocounsel.commands.application import main
    from psychocounsel.reporting.sweep_ending import show_sweep
    from psychocounsel.rundir.run import BEGAN

    os.environ[BEGAN] = str(time.time())
    main("psychocounsel.train", ended=show_sweep)
