"""Section on training curves: metrics of all runs in one chart each, over steps, tokens or GPU-hours."""

from collections.abc import Iterator, Mapping, Sequence

from psychocounsel.reporting.blocks import Chart, Paragraph, Section
from psychocounsel.reporting.material import TRAINING, Material, RunMaterial
from psychocounsel.reporting.sections.comparing.losses import differing_loss_settings, loss_kind
from psychocounsel.reporting.sections.comparing.setting_groups import differ
from psychocounsel.reporting.sections.training.curve_values import TrainingLines, curve, lines_of

_LOSSES = {"loss": "Training loss", "eval/loss": "Held-out loss"}
_TITLES = {
    "rewards/accuracy": ("Training accuracy", "share of pairs ranked as labelled"),
    "eval/accuracy": ("Held-out accuracy", "share of pairs ranked as labelled"),
    "rewards/margin": ("Training margin", "reward of chosen minus rejected"),
    "eval/margin": ("Held-out margin", "reward of chosen minus rejected"),
    "rewards/chosen": ("Training reward of chosen replies", "reward"),
    "eval/chosen": ("Held-out reward of chosen replies", "reward"),
    "rollout/reward": ("Reward of replies in training", "reward"),
    "eval/reward": ("Held-out reward", "reward"),
    "eval/win_rate": ("Held-out win rate against the initial policy", "share of prompts won"),
    "eval/kl": ("Divergence from the reference", "nats per reply"),
    "eval/length": ("Length of held-out replies", "tokens"),
    "eval/unfinished": ("Unfinished held-out replies", "share"),
    "eval/repetition": ("Repetition in held-out replies", "share"),
    "approx_kl": ("Divergence from the policy at the round's start", "nats per token"),
    "entropy": ("Entropy of the policy", "nats per token"),
    "clip_fraction": ("Clipped probability ratios", "share of tokens"),
    "lr": ("Learning rate", "learning rate"),
    "grad_norm": ("Norm of the gradient", "L2 norm before clipping"),
}
_NOISY = ("rewards/", "rollout/", "grad_norm", "approx_kl", "entropy", "clip_fraction")
_CHANCE = {"rewards/accuracy": 0.5, "eval/accuracy": 0.5, "eval/win_rate": 0.5}
_ENDS = ("_low", "_high")


def section(material: Material) -> Section:
    runs = [run for run in material.of(TRAINING) if run.lines]
    lines = {id(run): lines_of(run) for run in runs}
    charts = [*_losses(runs, lines), *_others(runs, lines)]
    without = any(not run.environment.get("gpus") for run in runs)
    told = [Paragraph("For runs without a GPU, GPU-hours are process hours.")] if charts and without else []
    return Section("curves", "Training curves", [*told, *charts])


def _losses(runs: Sequence[RunMaterial], lines: Mapping[int, TrainingLines]) -> Iterator[Chart]:
    """Yield a chart for each algorithm and type of loss, because their losses have different scales."""
    kinds = {kind: [run for run in runs if loss_kind(run) == kind] for kind in dict.fromkeys(map(loss_kind, runs))}
    for key, title in _LOSSES.items():
        for kind, same in kinds.items():
            name = "-".join([_slug(key), *([_slug(kind)] if len(kinds) > 1 else [])])
            shown = f"{title} ({kind})" if kind else title
            yield from _chart(name, shown, "loss", key, same, lines, True, _about_losses(kind, same, len(kinds)))


def _about_losses(kind: str, runs: Sequence[RunMaterial], kinds: int) -> list[str]:
    """Return notes on why the curves' heights cannot be compared."""
    notes = (
        [f"Losses of other algorithms are in separate charts, because their scale differs from that of {kind}."]
        if kinds > 1
        else []
    )
    if differing := differing_loss_settings(runs):
        notes.append(f"{differ(differing)} between runs and the loss depends on it: compare shapes, not heights.")
    return notes


def _others(runs: Sequence[RunMaterial], lines: Mapping[int, TrainingLines]) -> Iterator[Chart]:
    """Yield charts of the known metrics in order, then of the other `eval/` metrics."""
    rest = dict.fromkeys(key for run in runs for key in lines[id(run)].values if key.startswith("eval/"))
    unknown = [key for key in rest if key not in _TITLES and key not in _LOSSES and not key.endswith(_ENDS)]
    titles = {**_TITLES, **{key: (f"Held-out {key.removeprefix('eval/')}", key) for key in sorted(unknown)}}
    for key, (title, y_title) in titles.items():
        smooths = key.startswith(_NOISY)
        notes = (
            ["Margins and rewards have different scales for different algorithms or values of beta."]
            if _is_scaled(key, runs)
            else []
        )
        yield from _chart(_slug(key), title, y_title, key, runs, lines, smooths, notes)


def _is_scaled(key: str, runs: Sequence[RunMaterial]) -> bool:
    return key.rpartition("/")[2] in ("margin", "chosen") and bool(differing_loss_settings(runs))


def _chart(
    name: str,
    title: str,
    y_title: str,
    key: str,
    runs: Sequence[RunMaterial],
    lines: Mapping[int, TrainingLines],
    smooths: bool,
    notes: Sequence[str],
) -> Iterator[Chart]:
    curves = [each for run in runs if (each := curve(run, lines[id(run)], key))]
    if curves:
        yield Chart(f"curve-{name}", title, y_title, curves, smooths, reference=_CHANCE.get(key), notes=notes)


def _slug(text: str) -> str:
    return "-".join("".join(sign if sign.isalnum() and sign.isascii() else " " for sign in text.lower()).split())
