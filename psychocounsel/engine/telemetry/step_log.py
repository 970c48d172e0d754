"""Records of each step: `metrics.jsonl` and the tracker."""

from collections.abc import Callable
from typing import Any

from psychocounsel.metrics.replies import cut_warning
from psychocounsel.rundir.metrics import MetricsLog
from psychocounsel.rundir.run import Run
from psychocounsel.settings import config as configs


class StepLog:
    """Writes the line of each step on rank 0; on other ranks all methods do nothing.

    `sample` returns example replies to show with a step, as Markdown, or None.
    """

    def __init__(self, run: Run, sample: Callable[[int], str | None]) -> None:
        self.run, self.sample = run, sample
        self.tracker: Any = configs.build(run.config, "tracker")
        self.log: MetricsLog | None = None
        self._has_warned = False  # of cut replies

    def open(self, written: int) -> None:
        """Continue after step `written`; all earlier steps are sent to the tracker again."""
        if self.run.is_main:
            self.tracker.start(self.run.dir, self.run.config)
            self.log = MetricsLog(self.run.files.metrics, written)
            for line in self.log.earlier:
                self._track(line)

    def write(self, line: dict[str, Any]) -> None:
        """Record the line of a step."""
        if self.log is not None:
            self.log.write(line)
            self._track(line)
            self._warn_of_cut_replies(line)

    def sync(self) -> None:
        """Sync the written lines to disk, so that they survive a crash of the machine."""
        if self.log is not None:
            self.log.sync()

    def close(self) -> None:
        if self.log is not None:
            self.log.sync()
            self.tracker.finish()

    def _warn_of_cut_replies(self, line: dict[str, Any]) -> None:
        """Print a warning for the first round or evaluation in which most replies were cut."""
        for name, writer in (("rollout/unfinished", "round"), ("eval/unfinished", "evaluation")):
            if name in line and not self._has_warned:
                limit = self.run.config.rollout.max_tokens
                for warning in cut_warning(line[name], f"{writer} at step {line['step']}", "rollout.max_tokens", limit):
                    self.run.say(warning)
                    self._has_warned = True

    def _track(self, line: dict[str, Any]) -> None:
        numbers = {name: value for name, value in line.items() if name not in ("step", "attempt")}
        if not numbers:
            return
        if self.tracker.texts and (text := self.sample(line["step"])):
            self.tracker.text(line["step"], "rollout/samples", text)
        self.tracker.log(line["step"], numbers)
