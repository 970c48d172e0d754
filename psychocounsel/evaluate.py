"""`psychocounsel evaluate`: measures reward models and counsellors; `evaluation=` chooses the measurement."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from omegaconf import DictConfig, OmegaConf

from psychocounsel.asking.model_groups import (
    asked_repositories,
    check_models,
    model_receivers,
    resolve_models,
)
from psychocounsel.data.privacy import data_files
from psychocounsel.data.settings import check_data, data_repositories, resolve_mix, settle_data
from psychocounsel.evaluation.base import Evaluation
from psychocounsel.evaluation.contestants.entries import contestant_paths, resolve_contestants, resolve_reward_judges
from psychocounsel.evaluation.part import settle_part
from psychocounsel.evaluation.settings import compared_paths, idle_evaluation, leave_out_sections, make_files_absolute
from psychocounsel.remote.confidential import check_confidential
from psychocounsel.reward.sections import (
    check_reward_paths,
    check_rewards,
    resolve_rewards,
    reward_receivers,
    reward_repositories,
    settle_rewards,
)
from psychocounsel.reward.shipped import refuse_shipped_rewards
from psychocounsel.rundir.owner import refuse_if_owned
from psychocounsel.rundir.paths import EvaluationDir, RunDir
from psychocounsel.rundir.sweep import shards_of
from psychocounsel.settings.command import Command, Presets, SharedSteps, lists_own_figures, ordered
from psychocounsel.settings.config import typed_groups
from psychocounsel.settings.paths import check_local_path, is_made_before
from psychocounsel.settings.targets import build, require_kind, target_class
from psychocounsel.steps.stored_overrides import evaluate_arguments

if TYPE_CHECKING:
    from psychocounsel.rundir.run import Run


class Evaluate(Command):
    """Any evaluation of the group `evaluation`. What differs between evaluations is in their own classes."""

    name: ClassVar[str] = "evaluate"
    module: ClassVar[str] = "psychocounsel.evaluate"
    section: ClassVar[str] = "evaluation"

    def arguments(
        self, options: Sequence[str], overrides: Sequence[str], presets: Mapping[str, list[str]]
    ) -> list[str]:
        return evaluate_arguments(options, overrides)

    def resolve(self, composed: DictConfig, presets: Presets) -> None:
        resolve_mix(composed, presets.data)
        resolve_rewards(composed, presets.section)
        if "contestants" in target_class(composed, "evaluation").sections and composed.get("contestants") is None:
            resolve_contestants(composed, presets.section)
        resolve_models(composed, presets.section)
        resolve_reward_judges(composed, presets.section)

    def leave_out(self, plain: DictConfig) -> None:
        leave_out_sections(plain, target_class(plain, "evaluation"))

    def schema(self, plain: DictConfig) -> type:
        schema: type = target_class(plain, "evaluation").schema
        return schema

    def check(self, config: DictConfig, plain: DictConfig) -> None:
        check_rewards(config, typed_groups)
        check_models(config, typed_groups)
        check_data(config)
        check_reward_paths(config)
        for path in config.get("trained_on") or []:
            if not is_made_before(config, path):
                check_local_path(path, "trained_on", must_exist=True, of_data=True)
        check_confidential(self, config)
        settle_data(config)
        settle_rewards(config)
        make_files_absolute(config)
        settle_part(config)
        models = [*contestant_paths(plain), *compared_paths(plain)]
        refuse_shipped_rewards(plain, models)  # last, because the messages on other mistakes are more specific

    def idle(self, config: DictConfig) -> Iterator[tuple[str, str]]:
        return idle_evaluation(config)

    def sources(self, config: DictConfig) -> Iterator[Path]:
        if transcripts := OmegaConf.select(config, "evaluation.transcripts"):
            yield from (Path(transcripts), *Path(transcripts).rglob("*"))
        yield from data_files(config)

    def receivers(self, config: DictConfig) -> Iterator[tuple[str, str]]:
        yield from model_receivers(config)
        yield from reward_receivers(config)

    def repositories(self, config: DictConfig) -> Iterator[tuple[Any, str]]:
        yield from data_repositories(config)
        yield from reward_repositories(config)
        yield from asked_repositories(config)

    def subjects(self, config: DictConfig) -> Sequence[str]:
        if config.get("contestants") is not None:
            return (f"{config.evaluation.name}-{config.contestants.settings[0]}",)
        scored = config.reward if config.get("reward") is not None else config.data
        return (str(scored.name),)

    def metric(self, config: DictConfig) -> str:
        return str(_evaluation(config).metric)

    def figure_names(self, config: DictConfig) -> list[str] | None:
        evaluation = _evaluation(config)
        return ordered(evaluation.figure_names(config)) if lists_own_figures(evaluation, ("work", "course")) else None

    def works_in_steps(self, config: DictConfig) -> bool:
        return "steps" in target_class(config, "evaluation").schema.__dataclass_fields__

    def process_count(self, config: DictConfig) -> int | None:
        return _evaluation(config).process_count(config)

    def prepare(self, config: DictConfig, run_dir: Path) -> None:
        _evaluation(config).prepare(config, run_dir)

    def refuse_others_at_work(self, config: DictConfig, run_dir: Path) -> None:
        for shard in shards_of([run_dir]):  # they buy the same answers
            refuse_if_owned(shard.run_dir)

    def nothing_due(self, config: DictConfig, before: DictConfig) -> bool:
        return _evaluation(config).nothing_due(config)

    def shared_steps(self, config: DictConfig) -> SharedSteps:
        evaluation: Any = _evaluation(config)
        due = {planned.step for planned in evaluation.planned(config) if planned.due}
        return SharedSteps(due, evaluation.shared_steps(config), "replies and verdicts", "figures")

    def reads_rows(self, config: DictConfig) -> bool:
        return not _evaluation(config).instead_of_data

    def forecast(self, config: DictConfig) -> list[str]:
        return _evaluation(config).forecast(config)

    def product(self, config: DictConfig, files: RunDir) -> str:
        return (EvaluationDir(files.path).figures if self.works_in_steps(config) else files.scores).name

    def work(self, run: "Run") -> int:
        from psychocounsel.engine.telemetry.progress import Progress
        from psychocounsel.model.quiet import quiet_libraries
        from psychocounsel.remote.hub import set_cache_directories

        set_cache_directories(run.config.paths.cache)
        quiet_libraries()
        evaluation = _evaluation(run.config)
        return require_kind(evaluation, "work", evaluation.work(run, Progress(run.is_main).bar), int)


def _evaluation(config: DictConfig) -> Evaluation:
    evaluation: Evaluation = build(config, "evaluation")
    return evaluation


COMMAND = Evaluate()

if __name__ == "__main__":
    from psychocounsel.commands.application import main
    from psychocounsel.reporting.sweep_ending import show_sweep

    main("psychocounsel.evaluate", ended=show_sweep)
