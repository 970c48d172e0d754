"""`psychocounsel annotate`: makes a preference dataset from client speeches."""

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from omegaconf import DictConfig

from psychocounsel.annotation import checking, steps
from psychocounsel.annotation.settings import AnnotateConfig, check_annotate
from psychocounsel.asking.model_groups import (
    asked_repositories,
    check_models,
    idle_models,
    model_receivers,
    resolve_models,
)
from psychocounsel.data.privacy import protect
from psychocounsel.remote.confidential import check_confidential
from psychocounsel.remote.hub_sources import HubSource, is_here
from psychocounsel.rundir.paths import AnnotationDir, RunDir
from psychocounsel.settings.command import Command, Presets, SharedSteps, idle_keys
from psychocounsel.settings.config import typed_groups
from psychocounsel.settings.targets import build
from psychocounsel.steps.course import one_process
from psychocounsel.steps.stored_overrides import annotate_arguments
from psychocounsel.storage.files import absolute

if TYPE_CHECKING:
    from psychocounsel.rundir.run import Run

_SHARED = ("replies", "scores")  # steps that query models


class Annotate(Command):
    """Makes a preference dataset from client speeches, in steps."""

    name: ClassVar[str] = "annotate"
    module: ClassVar[str] = "psychocounsel.annotate"
    section: ClassVar[str] = "speeches"
    texts: ClassVar[str] = "speeches"
    place: ClassVar[str] = "out"
    stopping: ClassVar[str] = "stopping: every answer so far is kept"
    light_preloads: ClassVar[tuple[str, ...]] = (
        *steps.COURSE.modules.values(),
        *("psychocounsel.annotation.working", "psychocounsel.commands.application"),
    )

    def arguments(
        self, options: Sequence[str], overrides: Sequence[str], presets: Mapping[str, list[str]]
    ) -> list[str]:
        return annotate_arguments(options, overrides, presets["speeches"])

    def resolve(self, composed: DictConfig, presets: Presets) -> None:
        resolve_models(composed, presets.section)

    def schema(self, plain: DictConfig) -> type:
        return AnnotateConfig

    def check(self, config: DictConfig, plain: DictConfig) -> None:
        check_models(config, typed_groups)
        check_annotate(config)
        check_confidential(self, config)
        for key in filter(config.get, ("out", "remove")):
            config[key] = absolute(config[key])

    def idle(self, config: DictConfig) -> Iterator[tuple[str, str]]:
        yield from idle_keys("speeches", build(config, "speeches").unused())
        yield from idle_models(config)
        if not any(model.reads_prompts for model in build(config, "annotator").models()):
            for name in ("rubric", "examples", "retries"):
                yield f"scores.{name}", "annotator=rules reads no prompt"
        if all(model.prompt is not None for model in build(config, "writers").models()):
            yield "replies.system_prompt", "every writer has its own prompt"
        if config.pairs.test_fraction == 0:
            yield "pairs.split_seed", "pairs.test_fraction=0 makes no test split"
        if config.shards == 1:
            yield "clean_in_shards_above_mb", "shards=1 does not share the work"

    def sources(self, config: DictConfig) -> Iterator[Path]:
        with contextlib.suppress(OSError):  # deleted files were read by an earlier step
            yield from build(config, "speeches").files()
        if config.out:  # a later check refuses a command without it
            yield AnnotationDir(Path(config.out)).speeches  # the files that it was made of may have been deleted

    def receivers(self, config: DictConfig) -> Iterator[tuple[str, str]]:
        return model_receivers(config)

    def repositories(self, config: DictConfig) -> Iterator[tuple[Any, str]]:
        yield from asked_repositories(config)
        parts = [(f"speeches.sources[{index}]", part) for index, part in enumerate(config.speeches.sources)]
        for key, part in parts or [("speeches", config.speeches)]:
            if part.path and not is_here(part.path):
                yield HubSource("dataset", part.path, part.get("revision"), f"{key}.path"), ""

    def subjects(self, config: DictConfig) -> Sequence[str]:
        return (str(config.speeches.name),)

    def metric(self, config: DictConfig) -> str:
        return "pairs"

    def loads_a_model(self, config: DictConfig) -> bool:
        return False

    def works_in_steps(self, config: DictConfig) -> bool:
        return True

    def process_count(self, config: DictConfig) -> int:
        return one_process(config.cluster, "annotate", "with cluster=slurm, shards=N splits the work")

    def prepare(self, config: DictConfig, run_dir: Path) -> None:
        checking.prepare_annotation(config, run_dir)

    def refuse_others_at_work(self, config: DictConfig, run_dir: Path) -> None:
        checking.refuse_others_at_work(config, run_dir)

    def nothing_due(self, config: DictConfig, before: DictConfig) -> bool:
        return checking.nothing_due(config)

    def shared_steps(self, config: DictConfig) -> SharedSteps:
        checking.refuse_unfinished_removal(AnnotationDir(Path(config.out)))
        due = {planned.step for planned in steps.due_steps(config) if planned.due}
        files = build(config, "speeches").files() if "speeches" in due else ()
        is_large = sum(file.stat().st_size for file in files if file.exists()) > 1e6 * config.clean_in_shards_above_mb
        query_steps = [step for step in config.steps if step in _SHARED]
        first = ["speeches"] if "speeches" in due else []
        return SharedSteps(due, query_steps, "replies and ratings", "pairs and card", first, is_large)

    def reads_rows(self, config: DictConfig) -> bool:
        return False  # a step reads them

    def forecast(self, config: DictConfig) -> list[str]:
        from psychocounsel.annotation.forecast import forecast

        protect(self, config, Path(config.out))  # this process reads speeches, as a worker does
        return forecast(config)

    def product(self, config: DictConfig, files: RunDir) -> str:
        return f"{AnnotationDir(files.path).dataset.name}/"

    def work(self, run: "Run") -> int:
        """Run the steps in the dataset's directory; imports torch only for models in this process."""
        from psychocounsel.annotation.working import annotate
        from psychocounsel.remote.hub import set_cache_directories

        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")  # the libraries' bars; steps show their own
        set_cache_directories(run.config.paths.cache)
        return annotate(run)


COMMAND = Annotate()

if __name__ == "__main__":
    from psychocounsel.commands.application import main
    from psychocounsel.reporting.sweep_ending import show_sweep

    main("psychocounsel.annotate", ended=show_sweep)
