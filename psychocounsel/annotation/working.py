"""The worker of `annotate` runs the steps or a removal, and prints the closing lines."""

from collections.abc import Iterator
from typing import Any

import pyarrow.parquet as pq

from psychocounsel.annotation.checking import refuse_others_at_work
from psychocounsel.annotation.removal import remove
from psychocounsel.annotation.scores.rules import WARNING, Rules
from psychocounsel.annotation.speeches.shares import forget_shares
from psychocounsel.annotation.steps import directory, do_steps
from psychocounsel.rundir.paths import AnnotationDir
from psychocounsel.rundir.run import Run
from psychocounsel.settings.targets import build
from psychocounsel.steps.course import StepContext
from psychocounsel.steps.running import StepProgress, work_in_steps


def annotate(run: Run) -> int:
    """Run the steps or a removal in the run's directory; returns the exit code: 75 if stopped, 3 if the budget is spent.

    Raises:
        UserError, GoOnLater: if another process is at work in the dataset, or if a step raises them.
    """
    config, progress = run.config, StepProgress(run.write_state, run.say)
    share = (0, 1) if config.share is None else (config.share, config.shards)
    context = StepContext(config, directory(config), run.say, progress.bar, share)
    refuse_others_at_work(config, run.dir)

    def do() -> dict[str, Any]:
        if config.remove:
            _forget_shards(context.files)
            return {"metrics": remove(context)}
        return {"metrics": _make(context, progress)}

    return work_in_steps(run, context.files, do)


def _make(context: StepContext[AnnotationDir], progress: StepProgress) -> dict[str, Any]:
    do_steps(context, progress.begin)
    counts = table_rows(context.files)
    if context.shard == (0, 1):
        forget_shares(context.files)
    if context.shard == (0, 1) and context.config.steps[-1] in ("pairs", "card"):
        _forget_shards(context.files)
        for line in closing_lines(context, counts):
            context.say(line)
    return {**counts, "pairs": counts.get("train", 0) + counts.get("test", 0)}


def _forget_shards(files: AnnotationDir) -> None:
    """Delete the tables of shards, because a later removal must not miss a copy. The journal holds their answers."""
    for path in files.shards.glob("*/*.parquet"):
        path.unlink()


def table_rows(files: AnnotationDir) -> dict[str, int]:
    """Return the number of rows of each table that exists."""
    tables = {"speeches": files.speeches, "replies": files.replies, "votes": files.votes}
    tables |= {split: files.dataset / f"{split}.parquet" for split in ("train", "test")}
    return {name: int(pq.read_metadata(path).num_rows) for name, path in tables.items() if path.exists()}


def closing_lines(context: StepContext[AnnotationDir], counts: dict[str, int]) -> Iterator[str]:
    """Yield the closing lines: the size of each table, warnings, and the next command."""
    names = {
        "votes": "ratings asked for",
        "train": "training pairs",
        "test": "held-out pairs (best versus worst reply)",
    }
    yield ""
    for name, count in counts.items():
        yield f"{count:>12,}  {names.get(name, name)}"
    yield ""
    if any(isinstance(model, Rules) for model in build(context.config, "annotator").models()):
        yield f"warning: annotator=rules is {WARNING}"
    folder = context.files.dataset
    made = context.files.card.exists()
    yield f"the card: {context.files.card}" if made else "no card yet: run steps=[card] with the same out"
    if counts.get("train"):
        yield f"train on it: psychocounsel train data=local data.path={folder}"
    else:
        yield "no training pairs, so nothing can be trained on it: use more speeches, or a smaller pairs.min_gap"
