"""`psychocounsel audit`: measures how well preference labels can be predicted without reading the client."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from omegaconf import DictConfig

from psychocounsel.data.privacy import data_files
from psychocounsel.data.settings import (
    check_data,
    data_repositories,
    idle_data,
    idle_without_training,
    resolve_mix,
    settle_data,
)
from psychocounsel.evaluation.audit.settings import (
    AuditConfig,
    against_repositories,
    check_against,
    leave_out_reward,
    resolve_against,
)
from psychocounsel.evaluation.part import idle_in_part, settle_part
from psychocounsel.remote.confidential import check_confidential
from psychocounsel.reward.sections import (
    check_reward_paths,
    check_rewards,
    idle_rewards,
    resolve_rewards,
    reward_receivers,
    reward_repositories,
    settle_rewards,
)
from psychocounsel.rundir.paths import RunDir
from psychocounsel.settings.command import NO_INTERNET, Command, Presets
from psychocounsel.settings.config import typed_groups

if TYPE_CHECKING:
    import numpy as np

    from psychocounsel.evaluation.audit.reading import Score
    from psychocounsel.rundir.run import Run

_FIGURES = (
    "blind_accuracy",
    "blind_low",
    "blind_high",
    "*_accuracy",
    "*_reads",
    "*_reads_beyond_overlap",
    "*_worst_control",
)


class Audit(Command):
    """Audit of preference data, optionally with a reward model that reads them."""

    name: ClassVar[str] = "audit"
    module: ClassVar[str] = "psychocounsel.audit"
    section: ClassVar[str] = "audit"
    light_preloads: ClassVar[tuple[str, ...]] = (
        "psychocounsel.evaluation.audit.auditing",
        "psychocounsel.commands.application",
    )

    def resolve(self, composed: DictConfig, presets: Presets) -> None:
        resolve_mix(composed, presets.data)
        resolve_against(composed, presets.data)
        resolve_rewards(composed, presets.section)

    def leave_out(self, plain: DictConfig) -> None:
        leave_out_reward(plain)

    def schema(self, plain: DictConfig) -> type:
        return AuditConfig

    def check(self, config: DictConfig, plain: DictConfig) -> None:
        check_rewards(config, typed_groups)
        check_data(config)
        check_reward_paths(config)
        check_against(config)
        check_confidential(self, config)
        settle_data(config)
        settle_rewards(config)
        settle_part(config)

    def idle(self, config: DictConfig) -> Iterator[tuple[str, str]]:
        yield "cluster.internet", NO_INTERNET
        if config.get("reward") is None:
            yield "reward", "no reward model is named: add reward.path=FOLDER_OR_HUB_ID"
        yield from idle_rewards(config)
        yield from idle_data(config.data)
        yield from idle_without_training()
        yield from idle_in_part(config)

    def sources(self, config: DictConfig) -> Iterator[Path]:
        return data_files(config)

    def receivers(self, config: DictConfig) -> Iterator[tuple[str, str]]:
        return reward_receivers(config)

    def repositories(self, config: DictConfig) -> Iterator[tuple[Any, str]]:
        yield from data_repositories(config)
        yield from reward_repositories(config)
        yield from against_repositories(config)

    def subjects(self, config: DictConfig) -> Sequence[str]:
        return (str(config.data.name),)

    def metric(self, config: DictConfig) -> str:
        return "blind_accuracy"

    def figure_names(self, config: DictConfig) -> list[str]:
        return [*_FIGURES]

    def loads_a_model(self, config: DictConfig) -> bool:
        return config.get("reward") is not None

    def product(self, config: DictConfig, files: RunDir) -> str:
        return files.audit.name

    def work(self, run: "Run") -> int:
        """Audit in the run directory; imports torch only for a reward model."""
        from psychocounsel.engine.telemetry.progress import Progress
        from psychocounsel.errors import DONE
        from psychocounsel.evaluation.audit.auditing import audit
        from psychocounsel.remote.hub import set_cache_directories

        set_cache_directories(run.config.paths.cache)
        run.write_state("auditing", 0, None)
        bar = Progress(run.is_main).bar
        if run.config.get("reward") is not None:
            return audit(run.config, run.dir, run.say, bar, _score(run, bar), run.is_main)
        return audit(run.config, run.dir, run.say, bar, None) if run.is_main else DONE


def _score(run: "Run", bar: Any) -> "Score":
    """Return a function that scores conversations by reward and heads: each rank scores its share and receives all scores."""
    import numpy as np

    from psychocounsel.distributed.world import World
    from psychocounsel.model.cpu import prepare_process
    from psychocounsel.model.quiet import quiet_libraries
    from psychocounsel.reward.base import open_scorer
    from psychocounsel.reward.encoding import score_heads_that_fit
    from psychocounsel.settings.config import build

    quiet_libraries()
    world = World(run.rank, run.processes)
    if world.device.type == "cpu":
        prepare_process()
    scorer = open_scorer(build(run.config, "reward"), world.device)

    def score(conversations: list[Any]) -> "np.ndarray":
        scores = np.empty((len(conversations), 1 + len(scorer.heads)), np.float32)
        own = score_heads_that_fit(scorer, conversations[world.rank :: world.size], lambda steps: bar(steps, "scoring"))
        for rank, share in enumerate(world.gather(own)):
            scores[rank :: world.size] = share
        return scores

    return score


COMMAND = Audit()

if __name__ == "__main__":
    from psychocounsel.commands.application import main
    from psychocounsel.reporting.sweep_ending import show_sweep

    main("psychocounsel.audit", ended=show_sweep)
