"""End of a run: its `summary.json`, and a few lines for the user."""

import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from psychocounsel.engine.loop_state import OUT_OF_PATIENCE
from psychocounsel.rundir.run import Run
from psychocounsel.rundir.summary import FINISHED, smaller_is_better, write_summary
from psychocounsel.settings import config as configs
from psychocounsel.settings.targets import config_folders

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


@dataclass(frozen=True)
class Ending:
    """End of a run: its status (finished, stopped, failed), its step, and the evaluations before training, best and last."""

    status: str
    step: int
    total: int
    metrics: dict[str, Any]
    seconds: float
    early: str = ""  # reason for an end before the last step
    startup: dict[str, Any] = field(default_factory=dict)  # `Phases.summary`


def report_end(run: Run, outcome: Ending, fingerprint: str) -> None:
    """Write `summary.json` and print how the run ended. Only rank 0 calls it."""
    write_summary(
        run.dir,
        outcome.status,
        steps=outcome.step,
        total_steps=outcome.total,
        metrics=outcome.metrics,
        fingerprint=fingerprint,
        seconds=round(outcome.seconds, 3),
        **outcome.startup,
        **_early(outcome.early),
    )
    run.write_state(outcome.status, outcome.step, outcome.total)
    for line in _lines(run, outcome):
        run.say(line)


def _early(reason: str) -> dict[str, str]:
    """Return {key: reason} for an early end, and {} for another end.

    A search reads the key: it counts a run that a callback ended as pruned, and one that ran out of patience as complete.
    """
    return {"out_of_patience" if reason.startswith(OUT_OF_PATIENCE) else "ended_early": reason} if reason else {}


def _lines(run: Run, outcome: Ending) -> list[str]:
    """Return the lines about the run's results, the location of its files and the next command."""
    config = run.config
    target = configs.target_class(config, "algo")
    algorithm = target.__name__
    what = f"{algorithm} on {config.model.name} with data={config.data.name}"
    ended = f"{outcome.status} at step {outcome.step} of {outcome.total}, {_duration(outcome.seconds)}"
    lines = ["", f"{what}: {ended}" + (f" ({outcome.early})" if outcome.early else "")]
    before, best, last = (outcome.metrics[name] for name in ("before", "best", "last"))
    if best:
        heading = f"{'':<20}{'before':>10}{'best':>10}{'last':>10}   (best: step {best['step']},"
        lines += [f"{heading} with its 95 % interval by prompts)", *_rows(before, best, last)]
        lines += _unimproved(before, best, config.checkpoint)
    shown, model = _shorten(run.dir), _shorten(run.files.model)
    lines += [f"run directory       {shown}", f"report              python -m psychocounsel.report {shown}"]
    if outcome.status == FINISHED:
        lines.append(f"model               {model}   ({_loader(config, target.needs.main)} loads it)")
        lines.append("try next            python -m psychocounsel." + _next_idea(algorithm, run, shown, model))
    elif outcome.status == "stopped":
        lines.append(f"to resume           the same command with run_dir={shown}")
    return lines


def _unimproved(before: dict[str, Any], best: dict[str, Any], checkpoint: DictConfig) -> list[str]:
    """Return a warning if the model before training was better than every evaluated step by `checkpoint.metric`."""
    metric = checkpoint.metric
    if metric not in before:
        return []
    worse = (
        before[metric] < best[metric] if smaller_is_better(metric, checkpoint.mode) else before[metric] > best[metric]
    )
    if not worse:
        return []
    return [
        f"worse than before   {metric} is {best[metric]:.3g} at the best step, whose weights model/ holds, and was "
        f"{before[metric]:.3g} before training"
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
    adapter = config.model.lora.rank and not config.model.lora.merge
    return f"peft.AutoPeftModelFor{kind}.from_pretrained" if adapter else f"AutoModelFor{kind}.from_pretrained"


def _next_idea(algorithm: str, run: Run, shown: str, model: str) -> str:
    """Return a command that often comes next; a sweep keeps the overrides of this run."""
    if algorithm == "DPO":
        return " ".join(["train -m algo.beta=0.05,0.1,0.3 seed=1,2", *_typed(run, ("algo.beta", "seed"))])
    return f"train model.path={model} algo=dpo" if algorithm == "SFT" else f"export {shown}"


def _typed(run: Run, swept: tuple[str, ...]) -> list[str]:
    """Return the options and overrides of the run's command, quoted for a shell, without those that the sweep sets itself."""
    file = run.files.overrides
    given = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    own = (*swept, "run_dir", "sweep_dir", "dry_run")
    folders = [f"--config-dir={_shorten(Path(folder))}" for folder in config_folders(run.config.code_path)]
    kept = (text for text in given if text and text.lstrip("+").partition("=")[0] not in own)
    return [shlex.quote(text) for text in (*folders, *kept)]


def _shorten(path: Path) -> str:
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.1f} min"
