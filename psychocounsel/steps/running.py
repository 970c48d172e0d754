"""Runs the steps of a command that are due, records each in the directory, and shows progress.

A step that is already done is skipped. Stop requests and the budget end the run early; the same command continues.
"""

import contextlib
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from omegaconf import DictConfig
from tqdm import tqdm

from psychocounsel import __version__
from psychocounsel.asking.budget import BudgetSpent
from psychocounsel.asking.model_groups import model_sections
from psychocounsel.errors import CONTINUE_LATER, DONE, GATE_NO, controlled
from psychocounsel.rundir.paths import RunDir, StepsDir
from psychocounsel.rundir.results import BUDGET_SPENT, FINISHED, write_summary
from psychocounsel.rundir.run import Run
from psychocounsel.steps.course import Course, F, StepContext
from psychocounsel.steps.plan import PlannedStep, failed_calls, planned_steps, requested_steps
from psychocounsel.storage.files import read_mapping, readable_time, with_noun, write_json
from psychocounsel.storage.hashes import mark_of

# Steps that are due

Figures = dict[str, Any]


def run_steps(
    course: Course[F], context: StepContext[F], begin: Callable[[str], None], by_name: bool = True
) -> dict[str, Figures]:
    """Run the steps that are due, in order; returns the figures of every finished step.

    Args:
        begin: is called with each step's name.
        by_name: False if the user's command has no key `steps`; then it repeats failed calls by itself.

    Raises:
        UserError: if an earlier step is missing or was done with other settings, or if a step raises it.
    """
    context.files.steps.mkdir(parents=True, exist_ok=True)
    for planned in planned_steps(course, context.config, context.files):
        if not planned.due:
            context.say(f"{planned.step}: done before")
            continue
        _report_changes(planned, context)
        begin(planned.step)
        if failed := failed_calls(_run_step(course, planned, context)):
            steps = f" with steps=[{','.join(_to_repeat(course, context.config, planned.step))}]" if by_name else ""
            context.say(
                f"{planned.step}: {with_noun(failed, 'call')} failed; repeat the command{steps} to make them again "
                "(in vain where a text is too long for the model, or a file has no reply)"
            )
    return figures_of(course, context)


def _to_repeat(course: Course[F], config: DictConfig, step: str) -> list[str]:
    """Return the value of `steps` that repeats the failed calls of `step`: this step and the requested ones after it."""
    requested = requested_steps(course, config)
    later = requested[requested.index(step) :]
    return later if len(later) < len(course.steps) else [step]  # `steps` with every step makes no call again


def _report_changes(planned: PlannedStep, context: StepContext[F]) -> None:
    """Print which settings have changed, because a table made with other settings is about to be replaced."""
    before = read_mapping(context.files.step(planned.step)).get("settings")
    if before is not None:
        keys = before.keys() | planned.settings.keys()
        changed = sorted(key for key in keys if before.get(key) != planned.settings.get(key))
        if changed:
            more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
            context.say(
                f"{planned.step}: made again, because {', '.join(changed[:3])}{more} changed; bought answers are kept"
            )


def _run_step(course: Course[F], planned: PlannedStep, context: StepContext[F]) -> Figures:
    """Run a step, record it with its settings, its source files and a hash of the file it wrote, and return its figures."""
    stale = course.steps[course.steps.index(planned.step) :]  # its table may mix old and new settings meanwhile
    for step in reversed(stale):  # last first: a kill must not leave a later record without an earlier one
        context.files.step(step).unlink(missing_ok=True)
    started = time.monotonic()
    figures = course.run(planned.step, context)
    about: Figures = {"step": planned.step, "fingerprint": planned.fingerprint}
    about |= {"settings": planned.settings, "sources": planned.sources}
    about |= {"version": __version__, "seconds": round(time.monotonic() - started, 1)}
    if (made := course.output(context.files, planned.step)).is_file():
        about["output"] = mark_of(made)
    write_json(context.files.step(planned.step), {**about, "figures": figures})
    return figures


def figures_of(course: Course[F], context: StepContext[F]) -> dict[str, Figures]:
    """Return the figures of every finished step, by step name."""
    records = {step: read_mapping(context.files.step(step)) for step in course.steps}
    return {step: record["figures"] for step, record in records.items() if record}


def edited_files(course: Course[F], files: F) -> Iterator[Path]:
    """Yield the files of finished steps whose content is not what the step wrote.

    Files of steps that an earlier version ran are not checked, because it recorded no hash.
    """
    for step in course.steps:
        mark = read_mapping(files.step(step)).get("output")
        made = course.output(files, step)
        if mark is not None and (not made.is_file() or mark_of(made) != mark):
            yield made


# Progress: a bar or lines, and `state.json` for `jobs status`

T = TypeVar("T")

_STATE_SECONDS = 5.0  # between two writes of state.json
_LINE_SECONDS = 60.0  # between two lines if the output is not a terminal
_FEWEST = 10  # items from which the time left is estimated; the first item of a batch takes as long as all of them


class TimedBar(tqdm):
    """A bar on a terminal that shows the time left only after `fewest` items."""

    fewest = _FEWEST

    def __init__(self, *given: Any, **options: Any) -> None:
        super().__init__(*given, **{"file": controlled(sys.stderr), **options})

    @property
    def format_dict(self) -> Any:
        shown = super().format_dict
        if self.total and self.n - self.initial < self.fewest:
            shown["bar_format"] = "{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}{postfix}]"
        return shown


class StepProgress:
    """Reports the progress of a step. `write_state(phase, done, total)` writes `state.json`."""

    def __init__(self, write_state: Callable[[str, int, int | None], None], say: Callable[[str], None]) -> None:
        self.write_state, self.say = write_state, say
        self.live = sys.stderr.isatty()
        self.step = ""

    def begin(self, step: str) -> None:
        self.step = step
        self.write_state(step, 0, None)

    def bar(self, items: Iterable[T], what: str) -> Iterator[T]:
        """Yield the items and report how many are done, and of how many if `items` has a length."""
        total = len(items) if isinstance(items, Sized) else None
        started = written = printed = time.monotonic()
        shown: Any = TimedBar(items, what, total=total, leave=False, disable=not self.live, dynamic_ncols=True)
        for done, item in enumerate(shown, 1):
            yield item
            now = time.monotonic()
            if now - written >= _STATE_SECONDS:
                written = now
                self.write_state(self.step, done, total)
            if not self.live and now - printed >= _LINE_SECONDS:
                printed = now
                self.say(progress_line(what, done, total, now - started))


def progress_line(what: str, done: int, total: int | None, seconds: float) -> str:
    """Return a progress line such as `replies: 400 of 2,000, 3 min left`."""
    if total is None:
        return f"{what}: {done:,}"
    if done < _FEWEST:
        return f"{what}: {done:,} of {total:,}"
    left = readable_time(seconds / done * max(0, total - done))
    return f"{what}: {done:,} of {total:,}, {left} left"


# Drafts for dry runs: temporary tables next to the real journal


@contextmanager
def draft_of(files: F) -> Iterator[F]:
    """Give a directory like `files` in a temporary folder that only this user can read.

    The folder is removed at the end of the block, after SIGTERM as well. It lies inside the directory of `files` if
    that is writable, so that the next run there removes it if this process is killed. The draft uses the journal of
    `files`, so that bought answers are found.
    """

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    out = files.path
    inside = str(out) if out.is_dir() and os.access(out, os.W_OK) else None
    before = signal.signal(signal.SIGTERM, stop)
    try:
        with tempfile.TemporaryDirectory(prefix=".forecast-", suffix=".tmp", dir=inside) as folder:
            draft = type(files)(Path(folder))
            if files.answers.exists():
                draft.answers = files.answers
            yield draft
    finally:
        signal.signal(signal.SIGTERM, before)


# Stop requests: Ctrl-C, SIGTERM, SIGUSR1, `touch OUT/stop`. Calls under way are still awaited

_POLL_SECONDS = 1.0
_GRACE_SECONDS = 20.0  # for closing connections and files


def grace_of(config: DictConfig) -> float:
    """Return how long a stop request waits for answers under way [s], because they must be paid for anyway.

    This is the longest `timeout_seconds` of any model plus 20 s. A SLURM job gets only the 20 s, because it is killed soon.
    """
    if "SLURM_JOB_ID" in os.environ:
        return _GRACE_SECONDS
    waits = [float(section.get("timeout_seconds") or 0.0) for _, _, section in model_sections(config)]
    return max(waits, default=0.0) + _GRACE_SECONDS


@contextlib.contextmanager
def stoppable(run_dir: Path, grace_seconds: float, last_words: Callable[[], None]) -> Iterator[None]:
    """Inside the block, a stop request raises KeyboardInterrupt in the main thread.

    If the block has not ended `grace_seconds` after the request, `last_words` is called and the process exits with code 75.
    """
    file, done = RunDir(run_dir).stop, threading.Event()
    file.unlink(missing_ok=True)  # a leftover that stopped the previous attempt

    def end() -> None:
        if not done.is_set():
            last_words()
            os._exit(CONTINUE_LATER)

    def interrupt(number: int, frame: object) -> None:
        for signal_number in _SIGNALS:
            signal.signal(signal_number, signal.SIG_IGN)  # a second request must not interrupt the cleaning up
        late = threading.Timer(grace_seconds, end)
        late.daemon = True
        late.start()
        raise KeyboardInterrupt

    def watch() -> None:
        while not done.wait(_POLL_SECONDS):
            if file.exists():
                os.kill(os.getpid(), signal.SIGTERM)
                return

    before = {number: signal.signal(number, interrupt) for number in _SIGNALS}
    threading.Thread(target=watch, daemon=True, name="stop").start()
    try:
        yield
    finally:
        done.set()
        for number, handler in before.items():
            signal.signal(number, handler)


_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)

# The worker


def work_in_steps(
    run: Run,
    files: StepsDir,
    do: Callable[[], dict[str, Any]],
    ending: Callable[[], tuple[int, str]] = lambda: (DONE, FINISHED),
) -> int:
    """Run the steps by calling `do`, which returns `metrics` and further content of summary.json; returns the exit code.

    The code is 75 after a stop request and 3 if the budget is spent; the same command then continues. `ending` gives the exit
    code and the status in summary.json once all steps are done, for commands such as gates whose code depends on the result.
    """

    def stopped() -> None:
        run.write_state("stopped", 0, None)
        run.say(f"stopped; every answer so far is in {files.answers}, and the same command continues")

    try:
        with stoppable(run.dir, grace_of(run.config), stopped):
            content = do()
        code, status = ending()
        write_summary(run.dir, status, **content)
        return code
    except BudgetSpent as spent:
        return end_without_budget(run, spent)
    except KeyboardInterrupt:
        stopped()
        return CONTINUE_LATER


def end_without_budget(run: Run, spent: BudgetSpent) -> int:
    """Print that the budget is spent and write it to the summary; returns the exit code."""
    run.say(f"{spent}. The same command with a larger budget continues")
    if run.is_main:
        write_summary(run.dir, BUDGET_SPENT, metrics={})
    return GATE_NO
