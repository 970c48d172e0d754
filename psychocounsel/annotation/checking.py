"""Checks of `annotate` that run before anything starts, once its directory is known; imports no torch."""

from pathlib import Path

from omegaconf import DictConfig

from psychocounsel.annotation.licences import conflicts, refuse_conflicts
from psychocounsel.annotation.steps import STEP_MODELS, due_steps
from psychocounsel.asking.language_model import keys_of
from psychocounsel.asking.model_groups import require_keys
from psychocounsel.asking.parties import refuse_internet
from psychocounsel.errors import UserError
from psychocounsel.rundir.owner import refuse_if_owned
from psychocounsel.rundir.paths import AnnotationDir
from psychocounsel.settings.targets import build
from psychocounsel.steps.course import StepContext
from psychocounsel.storage.files import read_mapping


def prepare_annotation(config: DictConfig, run_dir: Path) -> None:
    """Check a configuration against its directory, and set `out` to that directory.

    Raises:
        UserError: for settings that cannot work; says what to type instead.
    """
    is_named, config.out = config.out is not None, str(run_dir)
    files = AnnotationDir(run_dir)
    if config.remove:
        if not files.speeches.exists():
            raise UserError(
                f"remove={config.remove}: {run_dir} has no {files.speeches.name}, so there is nothing to remove"
            )
        return
    _refuse_conflicts(config)
    steps = due_steps(config)
    due = {step.step for step in steps if step.due}
    if "speeches" in due and not steps[0].sources:
        build(config, "speeches").check()
    if is_named and "speeches" in due and not files.speeches.exists() and _reads_only_the_sample(config):
        print(f"{run_dir}: a new dataset of the shipped sample; speeches=FILE makes one of your own speeches")
    asking = [group for step, group in STEP_MODELS.items() if step in due]
    _check_prompts(StepContext(config, files, print, iter), due)
    if "replies" in due:
        _warn_of_shipped_writers(config)
    require_keys(config, asking)
    refuse_internet(config, asking)


def refuse_others_at_work(config: DictConfig, run_dir: Path) -> None:
    """Refuse to run in a dataset while one of its shards runs, or in a shard while the whole runs; changes nothing.

    Otherwise both processes would buy the same answers, and a removal would replace files that a shard appends to. Each process
    claims its own run directory before this check, so if two start together, at least one of them notices the other.

    Raises:
        UserError: names host and process; for a shard, also raised if a removal is unfinished.
        GoOnLater: in a job, if the other process does not end.
    """
    whole = AnnotationDir(Path(config.out))
    if config.share is not None:
        refuse_unfinished_removal(whole)
    shards = sorted(path for path in whole.shards.glob("*") if path.is_dir()) if config.share is None else []
    for other in (whole.path, *shards):
        if other.resolve() != run_dir.resolve():
            refuse_if_owned(other)


def refuse_unfinished_removal(whole: AnnotationDir) -> None:
    """Refuse to run a shard while a removal is unfinished, because the dataset still holds the speeches to remove.

    Raises:
        UserError: gives the command that finishes the removal.
    """
    from psychocounsel.annotation.removal import RECORD

    if not read_mapping(whole.step(RECORD)).get("done", True):
        raise UserError(
            f"{whole.path}: a removal of speeches is unfinished: first run its command again, "
            f"`psychocounsel annotate out={whole.path} remove=FILE`"
        )


def nothing_due(config: DictConfig) -> bool:
    """Return True if every step asked for is already done and no removal was asked for."""
    return not config.remove and not any(step.due for step in due_steps(config))


def _reads_only_the_sample(config: DictConfig) -> bool:
    return all(source.path == "builtin:sample" for source in build(config, "speeches").all_sources())


def _warn_of_shipped_writers(config: DictConfig) -> None:
    """Print a warning if a shipped model replies to speeches other than the shipped ones."""
    foreign = [source.title for source in build(config, "speeches").all_sources() if source.path != "builtin:sample"]
    shipped = [model.name for model in build(config, "writers").models() if (model.model or "").startswith("builtin:")]
    if foreign and shipped:
        print(
            f"warning: the writer {shipped[0]} is a shipped model of 3 million parameters, and its replies to {foreign[0]} "
            "will make no sense; choose another by writers=NAME (docs/annotate.md)"
        )


def _check_prompts(context: StepContext[AnnotationDir], due: set[str]) -> None:
    """Check prompts and rubric before any work, because otherwise the steps `replies` and `scores` would refuse them later."""
    if "replies" in due:
        from psychocounsel.annotation.replies import drawing_of

        drawing_of(context)
    if "scores" in due:
        from psychocounsel.annotation.scores.step import plan_of

        plan_of(context)


def _refuse_conflicts(config: DictConfig) -> None:
    """Refuse conflicts among the sources' licences, the terms of models' output, and the licence of the dataset.

    Ratings are model output, too. Annotators are checked only if their `terms` are given.
    """
    settings = build(config, "speeches")
    licences = {
        f"speeches.sources[{number}].license" if settings.sources else "speeches.license": (
            source.title,
            source.license,
        )
        for number, source in enumerate(settings.all_sources())
    }
    writers, annotators = (build(config, group).models() for group in ("writers", "annotator"))
    names = {model.name for model in writers}
    terms = {
        f"{key}.terms": (model.name, model.terms)
        for key, model in zip(keys_of(writers, "writers"), writers, strict=True)
    }
    terms |= {
        f"{key}.terms": (model.name, model.terms)
        for key, model in zip(keys_of(annotators, "annotator"), annotators, strict=True)
        if model.terms and model.name not in names
    }
    refuse_conflicts(conflicts(licences, terms, config.card.license), list(config.accept_terms))
