"""`summary.json`, and the lines that a run ends with."""

from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from psychocounsel.rundir.run import Run
from psychocounsel.settings import config as configs
from psychocounsel.storage.files import write_json

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


def write_summary(
    run_dir: Path, status: str, step: int, total: int, metrics: dict[str, Any], fingerprint: str, seconds: float
) -> None:
    """Write `summary.json`: status finished, stopped or failed; evaluations before training, best and last."""
    content = {
        "status": status,
        "steps": step,
        "total_steps": total,
        "metrics": metrics,
        "fingerprint": fingerprint,
        "seconds": round(seconds, 3),
    }
    write_json(run_dir / "summary.json", content)


def print_summary(run: Run, status: str, step: int, total: int, metrics: dict[str, Any], seconds: float) -> None:
    """Say in a few lines how the run went, where its results are and what to try next."""
    config = run.config
    target = configs.target_class(config, "algo")
    algorithm = target.__name__
    what = f"{algorithm} on {config.model.name} with data={config.data.name}"
    lines = ["", f"{what}: {status} at step {step} of {total}, {_duration(seconds)}"]
    before, best, last = (metrics[name] for name in ("before", "best", "last"))
    if best:
        lines.append(f"{'':<20}{'before':>10}{'best':>10}{'last':>10}   (best: step {best['step']})")
        for name, title, factor, unit in _ROWS:
            if name in best:
                values = (
                    f"{stage[name] * factor:.3g}{unit}" if name in stage else "-" for stage in (before, best, last)
                )
                lines.append(f"{title:<20}" + "".join(f"{value:>10}" for value in values))
        if "eval/accuracy_low" in best:
            low, high = (f"{best[f'eval/accuracy_{end}'] * 100:.3g}" for end in ("low", "high"))
            lines.append(f"best accuracy, 95 % interval by prompts: {low} to {high} %")
    shown = _shorten(run.dir)
    lines.append(f"run directory       {shown}")
    if status == "finished":
        lines.append(f"model               {shown}/model   ({_loader(config, target.needs.main)} loads it)")
        lines.append("try next            python -m psychocounsel." + _next_idea(algorithm, shown))
    elif status == "stopped":
        lines.append(f"to go on            the same command with run_dir={shown}")
    for line in lines:
        run.say(line)


def _loader(config: DictConfig, main: str) -> str:
    kind = "CausalLM" if main == "policy" else "SequenceClassification"
    adapter = config.model.lora.rank and not config.model.lora.merge
    return f"peft.AutoPeftModelFor{kind}.from_pretrained" if adapter else f"AutoModelFor{kind}.from_pretrained"


def _next_idea(algorithm: str, run: str) -> str:
    if algorithm == "DPO":
        return "train -m algo.beta=0.05,0.1,0.3 seed=1,2"
    return f"train model.path={run}/model algo=dpo" if algorithm == "SFT" else f"export {run}"


def _shorten(path: Path) -> str:
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.1f} min"
