"""`dry_run=true`: estimates the calls and prices of each step and lists their hosts. Reads speeches and asks no model."""

from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from psychocounsel.annotation import replies
from psychocounsel.annotation.replies import SCHEMA, reply_id, row_of
from psychocounsel.annotation.scores import step as scores
from psychocounsel.annotation.speeches import step as speeches
from psychocounsel.annotation.steps import STEP_MODELS, due_steps
from psychocounsel.asking.answers import Answers
from psychocounsel.asking.budget import IMAGINED_WORDS
from psychocounsel.asking.language_model import FAILED, TEXT
from psychocounsel.remote.hub import set_cache_directories
from psychocounsel.remote.server_access import host_of
from psychocounsel.rundir.paths import AnnotationDir
from psychocounsel.settings.targets import build
from psychocounsel.steps.course import StepContext
from psychocounsel.steps.plan import PlannedStep
from psychocounsel.steps.running import draft_of
from psychocounsel.steps.tables import rows_of, written


def forecast(config: DictConfig) -> list[str]:
    """Return the lines to print: calls, tokens and price of each step, and the hosts that would see texts.

    Raises:
        UserError: if the step `speeches` fails, or if texts would go to a host that is not allowed.
    """
    files = AnnotationDir(Path(config.out))
    set_cache_directories(config.paths.cache)
    due = {planned.step: planned for planned in due_steps(config) if planned.due}
    with draft_of(files) as draft:
        draft.speeches, draft.replies = files.speeches, files.replies
        context = StepContext(config, draft, lambda line: None, lambda items, *_, **__: items)
        return [*_steps(context, due), *_receivers(config, due)]


def _steps(context: StepContext[AnnotationDir], due: dict[str, PlannedStep]) -> Iterator[str]:
    draft = context.files
    if "speeches" in due:
        draft.speeches = draft.path / draft.speeches.name
        yield _kept(speeches.run(context)["sources"])
    else:
        yield f"speeches: {sum(1 for _ in rows_of(draft.speeches, ['speech'])):,}"
    if "replies" in due:
        yield from replies.estimate(context).lines("replies")
        draft.replies = draft.path / draft.replies.name
        _write_stand_ins(context)
    if "scores" in due:
        yield from scores.estimate(context).lines("scores")


def _kept(sources: dict[str, Any]) -> str:
    """Return the number of speeches, and why rows are dropped: `speeches: 340 of 356 rows (dropped: 16 too short)`."""
    rows, kept = (sum(figures[name] for figures in sources.values()) for name in ("rows", "kept"))
    dropped = sum((Counter(figures["fell"]) for figures in sources.values()), Counter[str]())
    reasons = ", ".join(f"{count:,} {reason}" for reason, count in dropped.most_common())
    return f"speeches: {kept:,}" + (f" of {rows:,} rows (dropped: {reasons})" if reasons else "")


def _write_stand_ins(context: StepContext[AnnotationDir]) -> None:
    """Write the bought replies, and a placeholder of a usual length for each other one: the estimate for `scores` needs both."""
    drawing = replies.drawing_of(context)
    text = "word " * (context.config.replies.length_limit or IMAGINED_WORDS)
    with closing(Answers(context.files.answers)) as answers, written(context.files.replies, SCHEMA) as add:
        for draw in replies.draws(context, drawing):
            row = row_of(draw, replies.bought(draw, answers), drawing.prompt_version(draw.writer))
            if row["outcome"] == FAILED:
                own = f"{draw.number} {text}"
                row |= {"outcome": TEXT, "text": own, "reply": reply_id(draw.speech, own)}
            add(row)


def _receivers(config: DictConfig, due: dict[str, PlannedStep]) -> Iterator[str]:
    for step, group in STEP_MODELS.items():
        if step not in due:
            continue
        settings = build(config, group)
        hosts = sorted({host_of(address) for _, address in settings.receivers(group)})
        others = [model.name for model in settings.models() if model.is_third_party()]
        crisis = "crisis speeches, too" if config.crisis_to_third_parties else "no crisis speeches"
        verbs = "is a third party and gets" if len(others) == 1 else "are third parties and get"
        hosts_text = ", ".join(hosts) or "no host: the models run here"
        yield f"{group}: texts go to {hosts_text}" + (f"; {', '.join(others)} {verbs} {crisis}" if others else "")
