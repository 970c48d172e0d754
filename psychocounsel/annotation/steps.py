"""`COURSE` defines the steps of `annotate`: their configuration keys, models and output files."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from psychocounsel.annotation.settings import SPLITS, STEPS
from psychocounsel.asking.language_model import LanguageModel
from psychocounsel.rundir.paths import AnnotationDir
from psychocounsel.settings.targets import build
from psychocounsel.steps.course import Course, StepContext
from psychocounsel.steps.plan import PlannedStep, planned_steps
from psychocounsel.steps.running import Figures, run_steps

STEP_MODELS = {"replies": "writers", "scores": "annotator"}  # step -> config group of the models that it asks


def directory(config: DictConfig) -> AnnotationDir:
    """Return the directory that a job works in: the dataset's own, or that of its shard."""
    whole = AnnotationDir(Path(config.out))
    if config.share is None:
        return whole
    return whole.cleaning(config.share) if config.steps[0] == "speeches" else whole.shard(config.share)


def output(files: AnnotationDir, step: str) -> Path:
    """Return the output file of a step."""
    made = {"speeches": files.speeches, "replies": files.replies, "scores": files.votes}
    return made.get(step, files.card if step == "card" else files.dataset / SPLITS["train"])


def _models(config: DictConfig, step: str) -> dict[str, list[LanguageModel]]:
    return {STEP_MODELS[step]: build(config, STEP_MODELS[step]).models()} if step in STEP_MODELS else {}


def _source_marks(config: DictConfig) -> dict[str, Any]:
    files: Iterable[Path] = build(config, "speeches").files()
    try:
        return {str(path): [(stat := path.stat()).st_size, stat.st_mtime_ns] for path in files}
    except OSError:
        return {}


COURSE = Course(
    steps=STEPS,
    modules={
        "speeches": "psychocounsel.annotation.speeches.step",
        "replies": "psychocounsel.annotation.replies",
        "scores": "psychocounsel.annotation.scores.step",
        "pairs": "psychocounsel.annotation.pairs",
        "card": "psychocounsel.annotation.card",
    },
    reads={
        "speeches": ("speeches", "pairs.test_fraction", "pairs.split_seed"),
        "replies": ("writers", "replies", "crisis_to_third_parties"),
        "scores": ("annotator", "scores", "crisis_to_third_parties"),
        "pairs": ("pairs",),
        "card": ("card", "accept_terms"),
    },
    omits={"pairs": ("pairs.test_fraction", "pairs.split_seed")},  # the step `speeches` reads these two
    output=output,
    models=_models,
    sources=_source_marks,
    answering=("speeches", "writers", "annotator"),
)


def due_steps(config: DictConfig) -> list[PlannedStep]:
    """Return the steps that a checked configuration asks for, each marked as due or done in its directory."""
    return planned_steps(COURSE, config, directory(config))


def do_steps(context: StepContext[AnnotationDir], begin: Callable[[str], None]) -> dict[str, Figures]:
    """Run the steps that are due (see steps/running.py), after finishing any removal that was interrupted."""
    # Imported here because it needs pyarrow, and submitting must not.
    from psychocounsel.annotation.removal import finish

    finish(context)
    return run_steps(COURSE, context, begin)
