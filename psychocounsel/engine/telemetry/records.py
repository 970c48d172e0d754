"""What a run prints and records: phases of its start, opening lines, each step, and the final report."""

import os
import shlex
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from psychocounsel.data.dataset import Dataset
from psychocounsel.engine.loop import OUT_OF_PATIENCE, LoopState
from psychocounsel.metrics.replies import cut_warning
from psychocounsel.model.settings import saves_adapter
from psychocounsel.rundir.results import FINISHED, MetricsLog, smaller_is_better, write_summary
from psychocounsel.rundir.run import BEGAN, LAUNCHED, Run
from psychocounsel.rundir.run_config import read_overrides
from psychocounsel.rundir.sweep import key_of
from psychocounsel.settings import config as configs
from psychocounsel.settings.targets import config_folders
from psychocounsel.storage.files import with_noun

# Opening lines: the size of the training and held-out data

_UNITS = {"pairs": "pair", "completions": "row", "labelled": "row", "prompts": "prompt"}


def opening_line(data: Dataset, unit: str, steps: int, batch: int) -> str:
    """Return `718 train / 174 held-out pairs (71 prompts), 23 steps of 32`.

    `unit` is the kind of data that the algorithm needs (`Needs.data`), `batch` the groups of a step.
    """
    word = _UNITS[unit]
    of = "" if word == "prompt" else f" ({with_noun(data.distinct_prompts, 'prompt')})"
    held_out = with_noun(len(data.held_out), f"held-out {word}")
    return f"{data.rows:,} train / {held_out}{of}, {with_noun(steps, 'step')} of {batch:,}"


# Seconds of the start by phase, from the command to the first optimizer step

_WORTH_A_LINE = 1.0  # seconds after which a phase is announced
_SHOWN = 0.5  # seconds: shorter phases are counted as "other"


class Phases:
    """Measures phases one after another; rank 0 prints. After `ready` it measures nothing."""

    def __init__(self, run: Run) -> None:
        self.run, now = run, time.time()
        launched = float(os.environ.get(LAUNCHED, now))
        self.began = float(os.environ.get(BEGAN, launched))
        self.seconds: dict[str, float] = {"settings": launched - self.began, "imports": now - launched}
        self.total: float | None = None  # until the run is ready

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Context whose seconds count as phase `name`. A phase that takes longer than a second is announced."""
        if self.total is not None:
            yield
            return
        started = time.time()
        announcement = threading.Timer(_WORTH_A_LINE, self.run.say, [f"loading: {name}"])
        announcement.daemon = True
        announcement.start()
        try:
            yield
        finally:
            announcement.cancel()
            self.seconds[name] = self.seconds.get(name, 0.0) + time.time() - started

    def ready(self) -> None:
        """Print the seconds of the start, in total and by phase. A second call does nothing."""
        if self.total is None:
            self.total = round(time.time() - self.began, 2)  # the digits of the summary
            self.run.say(ready_line(self.total, self.seconds))

    def summary(self) -> dict[str, Any]:
        """Return the entry of `summary.json`; {} if the run ended before its first step."""
        if self.total is None:
            return {}
        parts = {name: round(seconds, 2) for name, seconds in self.seconds.items()}
        return {"startup": {"seconds": self.total, "phases": parts}}


def ready_line(total: float, seconds: dict[str, float]) -> str:
    """Return `ready in 41 s: imports 9 s, data 2 s, ...`, with the rest as "other"."""
    shown = {name: duration for name, duration in seconds.items() if duration >= _SHOWN}
    if (rest := total - sum(shown.values())) >= _SHOWN:
        shown["other"] = rest
    parts = ", ".join(f"{name} {duration:.0f} s" for name, duration in shown.items())
    return f"ready in {total:.0f} s" + (f": {parts}" if parts else "")


# Records of each step: `metrics.jsonl` and the tracker


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
                config = self.run.config
                limits = {"max_length": config.max_length, "rollout.max_tokens": config.rollout.max_tokens}
                key = min(limits, key=limits.__getitem__)  # `max_length` counts the prompt too
                for warning in cut_warning(line[name], f"{writer} at step {line['step']}", key, limits[key]):
                    self.run.say(warning)
                    self._has_warned = True

    def _track(self, line: dict[str, Any]) -> None:
        numbers = {name: value for name, value in line.items() if name not in ("step", "attempt")}
        if not numbers:
            return
        if self.tracker.texts and (text := self.sample(line["step"])):
            self.tracker.text(line["step"], "rollout/samples", text)
        self.tracker.log(line["step"], numbers)


# End of a run: its `summary.json`, and a few lines for the user

_ROWS = (
    ("eval/accuracy", "held-out accuracy", 100.0, " %"),
    ("eval/margin", "held-out margin", 1.0, ""),
    ("eval/auc", "held-out AUC", 1.0, ""),
    ("eval/ece", "held-out ECE", 1.0, ""),
    ("eval/brier", "held-out Brier", 1.0, ""),
    ("eval/loss", "held-out loss", 1.0, ""),
    ("eval/reward", "held-out reward", 1.0, ""),
    ("eval/win_rate", "win rate", 100.0, " %"),
    ("eval/kl", "divergence (nats)", 1.0, ""),
    ("eval/length", "length (tokens)", 1.0, ""),
    ("eval/unfinished", "unfinished", 100.0, " %"),
)


def report_end(
    run: Run, status: str, state: LoopState, total: int, seconds: float, startup: dict[str, Any], fingerprint: str
) -> None:
    """Write `summary.json` and print how the run ended, with `status` (finished, stopped, failed). Only rank 0 calls it.

    `total`: steps of the whole run. `seconds`: of this attempt. `startup`: `Phases.summary`.
    """
    write_summary(
        run.dir,
        status,
        steps=state.step,
        total_steps=total,
        metrics={"before": state.before, "best": state.best, "last": state.last},
        fingerprint=fingerprint,
        seconds=round(seconds, 3),
        **startup,
        **_early(state.ended_early),
    )
    run.write_state(status, state.step, total)
    for line in _lines(run, status, state, total, seconds):
        run.say(line)


def _early(reason: str) -> dict[str, str]:
    """Return {key: reason} for an early end, and {} for another end.

    A search reads the key: it counts a run that a callback ended as pruned, and one that ran out of patience as complete.
    """
    return {"out_of_patience" if reason.startswith(OUT_OF_PATIENCE) else "ended_early": reason} if reason else {}


def _lines(run: Run, status: str, state: LoopState, total: int, seconds: float) -> list[str]:
    """Return the lines about the run's results, the location of its files and the next command."""
    config = run.config
    target = configs.target_class(config, "algo")
    algorithm = target.__name__
    what = f"{algorithm} on {config.model.name} with data={config.data.name}"
    ended = f"{status} at step {state.step} of {total}, {_duration(seconds)}"
    lines = ["", f"{what}: {ended}" + (f" ({state.ended_early})" if state.ended_early else "")]
    before, best, last = state.before, state.best, state.last
    if 0 < state.step == state.empty:
        lines.append("nothing was trained: no step had a group to train on, so the weights are those before training")
    if best:
        heading = f"{'':<20}{'before':>10}{'best':>10}{'last':>10}   (best: step {best['step']},"
        lines += [f"{heading} with its 95 % interval by prompts)", *_rows(before, best, last)]
        lines += _unimproved(before, best, config.checkpoint)
    shown, model = _shorten(run.dir), _shorten(run.files.model)
    if pages := run.files.sample_pages():
        lines.append(f"replies to read     {_shorten(pages[-1])}")
    lines += [f"run directory       {shown}", f"report              psychocounsel report {shlex.quote(shown)}"]
    if status == FINISHED:
        lines.append(f"model               {model}   ({_loader(config, target.needs.main)} loads it)")
        lines.append("try next            psychocounsel " + _next_idea(algorithm, run, shown, model, bool(best)))
    elif status == "stopped":
        lines.append(f"to resume           the same command with run_dir={shlex.quote(shown)}")
    return lines


def _unimproved(before: dict[str, Any], best: dict[str, Any], checkpoint: DictConfig) -> list[str]:
    """Return a warning if the model before training was better than every evaluated step by `checkpoint.metric`."""
    metric = checkpoint.metric
    if metric not in before:
        return []
    worse = (
        before[metric] < best[metric] if smaller_is_better(metric, checkpoint.mode) else before[metric] > best[metric]
    )
    now, earlier = (f"{figures[metric]:.3g}" for figures in (best, before))
    if not worse or now == earlier:
        return []
    return [
        f"worse than before   {metric} is {now} at the best step, whose weights model/ holds, and was {earlier} before training"
    ]


def _rows(before: dict[str, Any], best: dict[str, Any], last: dict[str, Any]) -> Iterator[str]:
    """Yield a line for each figure of the best evaluation, with its interval, or a dash if it has none."""
    for name, title, factor, unit in _ROWS:
        if name not in best:
            continue
        values = (f"{stage[name] * factor:.3g}{unit}" if name in stage else "-" for stage in (before, best, last))
        ends = [f"{best[f'{name}_{end}'] * factor:.3g}" for end in ("low", "high") if f"{name}_{end}" in best]
        # An interval with equal ends would promise certainty.
        interval = f"{' to '.join(ends)}{unit}" if len({*ends}) == 2 else "-"
        yield f"{title:<20}" + "".join(f"{value:>10}" for value in values) + f"   {interval}"


def _loader(config: DictConfig, main: str) -> str:
    kind = "CausalLM" if main == "policy" else "SequenceClassification"
    return f"{'peft.AutoPeftModelFor' if saves_adapter(config.model) else 'AutoModelFor'}{kind}.from_pretrained"


# Overrides that choose the cluster; the size of a training job does not suit an evaluation.
_WHERE = ("cluster", "cluster.partition", "cluster.account", "cluster.qos")
# Keys of `data` that choose the rows and the held-out part. Keys of the training part are left out.
_OF_DATA = (
    *("path", "revision", "split", "subset", "columns", "delimiter", "group_by", "where", "html", "mix", "bad_rows"),
    *("eval_path", "eval_revision", "eval_split", "dev_fraction", "split_seed", "confidential", "allowed_hosts"),
    *("rating_range", "pairs", "min_gap", "gap", "principle_weights", "safety_veto"),
)


def _next_idea(algorithm: str, run: Run, shown: str, model: str, measured: bool) -> str:
    """Return the command that measures the model: on the data of this run, or in sessions with clients.

    `measured`: the run has held-out rows. Without them there is nothing to measure on, and the command exports the model.
    """
    named = shlex.quote(model)
    if (run.config.get("rollout") or {}).get("clients"):
        return f"evaluate evaluation=session model.path={named}"
    if not measured:
        return f"export {shlex.quote(shown)}"
    kind = "reward.path" if algorithm == "Reward" else "evaluation=health model.path"
    return f"evaluate {kind}={named}{_of_run(run)}"


def _of_run(run: Run) -> str:
    """Return the overrides that choose the rows of the run and its cluster, quoted for a shell, with `--config-dir`."""
    keys = {*_WHERE, "data", *(f"data.{name}" for name in _OF_DATA)}
    typed = read_overrides(run.files.overrides)
    folders = [f"--config-dir={_shorten(Path(folder))}" for folder in config_folders(run.config.code_path)]
    ours = [text for text in typed if ".".join(key_of(text).split(".")[:2]) in keys]
    if run.config.data.name != "sample" and {"data", "data.path"}.isdisjoint(map(key_of, ours)):
        ours.insert(0, f"data={run.config.data.name}")  # an experiment chose it
    return "".join(f" {shlex.quote(text)}" for text in (*folders, *ours))


def _shorten(path: Path) -> str:
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.1f} min"
