"""Hooks into the training loop. Add one by `callbacks.NAME._target_=my_module.MyCallback` or in a YAML file."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import instantiate

from psychocounsel.errors import UserError
from psychocounsel.rundir.run import Run
from psychocounsel.settings.targets import wrong_return

Announce = Callable[[str], None]  # tells all callbacks that an event happened


class Callback:
    """Base class of callbacks: override `on`, `eval_end` or both.

    Events are `step_end`, `eval_batch`, `checkpoint_written`, `checkpoint_renamed`; in a round `sync_done`, `shard_done`,
    `scored` and `pairs_written`. Every rank announces them, except `shard_done` and `scored`: only the rank that wrote or
    scored the shard announces those.
    """

    def on(self, event: str, step: int, run: Run) -> None:
        """Handle `event`, which happened after `step` optimizer steps; for a checkpoint, `step` is the checkpoint's.

        The first `step_end` has `step` 0: it follows the evaluation before training.
        """

    def eval_end(self, metrics: dict[str, float], step: int, run: Run) -> str | None:
        """Handle the figures of an evaluation, by name (`eval/loss`); return a reason to end the run, or None to continue.

        Every rank calls this after each evaluation. If any rank returns a reason, the run ends normally after `step`, as if
        `step` had been its last. A large `model/` may still be being written.
        """
        return None


class Callbacks:
    """The callbacks of a run.

    Raises:
        UserError: if a callback cannot be created, or does not derive from Callback.
    """

    def __init__(self, run: Run) -> None:
        self.run = run
        self.callbacks = [_instantiate(name, callback) for name, callback in run.config.callbacks.items()]

    def announce(self, event: str, step: int) -> None:
        for callback in self.callbacks:
            callback.on(event, step, self.run)

    def eval_end(self, metrics: dict[str, float], step: int, gather: Callable[[str], list[str]]) -> str:
        """Return the reason to end the run after this evaluation, or "" to continue; every rank gets the same reason.

        `gather` collects the reasons of all ranks.
        """
        if not self.callbacks:
            return ""
        reasons = [callback.eval_end(metrics, step, self.run) for callback in self.callbacks]
        for callback, reason in zip(self.callbacks, reasons, strict=True):
            if not isinstance(reason, str | None):
                raise wrong_return(callback, "eval_end", reason, "the reason to end the run, or None")
        return next(filter(None, gather(next(filter(None, reasons), ""))), "")


def _instantiate(name: str, callback: Any) -> Callback:
    try:
        instance = instantiate(callback)
    except InstantiationException as error:
        reason = str(error.__cause__ or error).splitlines()[0]
        raise UserError(f"callbacks.{name}: cannot be created ({reason})") from error
    if not isinstance(instance, Callback):
        base = f"{Callback.__module__}.{Callback.__qualname__}"
        raise UserError(f"callbacks.{name}._target_={callback['_target_']}: must be a class that derives from {base}")
    return instance


@dataclass
class Profile(Callback):
    """Callback that writes a trace of `steps` steps, from step `first` (counted from 1), to RUN/profile/rank-<rank>.json."""

    first: int = 3
    steps: int = 3

    def __post_init__(self) -> None:
        self.profiler: Any = None

    def on(self, event: str, step: int, run: Run) -> None:
        import torch
        from torch.profiler import ProfilerActivity, profile

        if event != "step_end":
            return
        last, most = self.first + self.steps - 1, run.config.max_steps
        if most is not None and most < last:
            raise UserError(
                f"max_steps={most}: the trace of callbacks.profile needs {last} steps; give max_steps={last}"
            )
        if step == self.first - 1:
            activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if torch.cuda.is_available() else [])]
            self.profiler = profile(activities=activities, record_shapes=True)
            self.profiler.__enter__()
        elif self.profiler is not None and step == last:
            self.profiler.__exit__(None, None, None)
            path = run.files.trace(run.rank)
            path.parent.mkdir(exist_ok=True)
            self.profiler.export_chrome_trace(str(path))
            run.say(self.profiler.key_averages().table(sort_by="self_cpu_time_total", row_limit=12))
            run.say(f"trace: {path} (open it in ui.perfetto.dev)")
            self.profiler = None
