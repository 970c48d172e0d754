"""Sections on training curves and on the rounds of online training."""

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate
from typing import Any

from psychocounsel.blocks.kinds import Block, Chart, Curve, Paragraph, ReportTable, Section
from psychocounsel.blocks.tables import Cell, Table, TableFigure
from psychocounsel.reporting.material import TRAINING, Material, RunMaterial
from psychocounsel.reporting.sections.comparisons import differ, differing_loss_settings, loss_kind, setting_title

# Values of a run's metric lines over steps, tokens and GPU-hours

STEPS, TOKENS, HOURS = "steps", "tokens", "GPU-hours"


@dataclass(frozen=True)
class TrainingLines:
    """The lines of a run as columns, made once, because reports may hold hundreds of runs with thousands of lines.

    Attributes:
        places: by axis, the x value of each line: optimizer steps, tokens so far, hours of steps so far times processes.
        values: by metric, its values.
        indices: by metric, the indices of the lines that have it.
    """

    places: Mapping[str, Sequence[float]]
    values: Mapping[str, Sequence[Any]]
    indices: Mapping[str, Sequence[int]]
    _chosen: dict[tuple[int, ...], dict[str, Sequence[float]]] = field(default_factory=dict)

    def at(self, indices: Sequence[int]) -> dict[str, Sequence[float]]:
        """Return the x values of some lines by axis. Metrics that occur in the same lines share these lists."""
        key = tuple(indices)
        if key not in self._chosen:
            self._chosen[key] = {axis: [values[index] for index in key] for axis, values in self.places.items()}
        return self._chosen[key]


def lines_of(run: RunMaterial, keys: Collection[str] = ()) -> TrainingLines:
    """Return the lines of a run for all metrics, or for `keys` only. Axes that the lines do not record are omitted.

    With GPUs each process has one, so hours of steps times processes are GPU-hours; on CPU they are process hours.
    """
    known = {key for line in run.lines for key in line}
    chosen = known & {*keys} if keys else known
    indices = {key: [index for index, line in enumerate(run.lines) if key in line] for key in chosen}
    values = {key: [run.lines[index][key] for index in line_indices] for key, line_indices in indices.items()}
    places: dict[str, Sequence[float]] = {STEPS: [line["step"] for line in run.lines]}
    if "tokens" in known:
        places[TOKENS] = [*accumulate(line.get("tokens", 0) for line in run.lines)]
    if "step_seconds" in known:
        hours = processes_of(run) / 3600
        places[HOURS] = [seconds * hours for seconds in accumulate(line.get("step_seconds", 0.0) for line in run.lines)]
    return TrainingLines(places, values, indices)


def processes_of(run: RunMaterial) -> int:
    return int(run.environment.get("processes") or 1)


def curve(run: RunMaterial, lines: TrainingLines, key: str) -> Curve | None:
    """Return the values of `key`, with their interval if the lines have one; None if no value is finite."""
    values, indices = lines.values.get(key, ()), lines.indices.get(key, ())
    if not _are_finite(values):
        finite = [place for place, value in enumerate(values) if _is_number(value)]
        values, indices = [values[place] for place in finite], [indices[place] for place in finite]
    if not indices:
        return None
    run_curve = Curve(run.title, lines.at(indices), values, group=setting_title(run))
    if f"{key}_low" not in lines.values:
        return run_curve
    low, high = ([run.lines[index].get(f"{key}_{end}", math.nan) for index in indices] for end in ("low", "high"))
    return replace(run_curve, low=low, high=high) if all(map(_is_number, [*low, *high])) else run_curve


def not_finite(run: RunMaterial) -> int:
    """Return the number of values in the run's lines that are nan or infinite. No chart can show them."""
    values = (value for line in run.lines for value in line.values() if type(value) is float)
    return sum(value - value != 0 for value in values)  # nan - nan and inf - inf are nan, which differs from 0


def _are_finite(values: Sequence[Any]) -> bool:
    try:
        return all(map(math.isfinite, values))
    except TypeError:
        return False


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


# Section on training curves: metrics of all runs in one chart each

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


# Do they learn, and at what price? The section of all other curves is folded.
_ASKED = ("rollout/reward", "eval/accuracy", "eval/reward", "eval/win_rate", "eval/kl", "eval/length")


def curve_section(material: Material) -> Section:
    runs = [run for run in material.of(TRAINING) if run.lines]
    lines = {id(run): lines_of(run) for run in runs}
    charts = [*_loss_charts(runs, lines), *_other_charts(runs, lines, asked=True)]
    lacks_gpus = any(not run.environment.get("gpus") for run in runs)
    notes = (
        [Paragraph("GPU-hours of runs without a GPU are hours of their processes.")] if charts and lacks_gpus else []
    )
    return Section("curves", "Training curves", [*notes, *charts])


def other_curve_section(material: Material) -> Section:
    runs = [run for run in material.of(TRAINING) if run.lines]
    lines = {id(run): lines_of(run) for run in runs}
    return Section("other-curves", "More training curves", [*_other_charts(runs, lines, asked=False)])


def _loss_charts(runs: Sequence[RunMaterial], lines: Mapping[int, TrainingLines]) -> Iterator[Chart]:
    """Yield a chart for each algorithm and type of loss, because their losses have different scales."""
    kinds = {kind: [run for run in runs if loss_kind(run) == kind] for kind in dict.fromkeys(map(loss_kind, runs))}
    for key, title in _LOSSES.items():
        for kind, same in kinds.items():
            name = "-".join([_chart_name(key), *([_chart_name(kind)] if len(kinds) > 1 else [])])
            shown = f"{title} ({kind})" if kind else title
            yield from _training_chart(
                name, shown, "loss", key, same, lines, True, _about_losses(kind, same, len(kinds))
            )


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


def _other_charts(runs: Sequence[RunMaterial], lines: Mapping[int, TrainingLines], asked: bool) -> Iterator[Chart]:
    """Yield charts of the known metrics in order, then of the other `eval/` metrics: those of _ASKED, or all others."""
    rest = dict.fromkeys(key for run in runs for key in lines[id(run)].values if key.startswith("eval/"))
    unknown = [key for key in rest if key not in _TITLES and key not in _LOSSES and not key.endswith(_ENDS)]
    titles = {**_TITLES, **{key: (f"Held-out {key.removeprefix('eval/')}", key) for key in sorted(unknown)}}
    for key, (title, y_title) in titles.items():
        if (key in _ASKED) != asked:
            continue
        smooths = key.startswith(_NOISY)
        notes = (
            ["Margins and rewards have different scales for different algorithms or values of beta."]
            if _is_scaled(key, runs)
            else []
        )
        yield from _training_chart(_chart_name(key), title, y_title, key, runs, lines, smooths, notes)


def _is_scaled(key: str, runs: Sequence[RunMaterial]) -> bool:
    return key.rpartition("/")[2] in ("margin", "chosen") and bool(differing_loss_settings(runs))


def _training_chart(
    name: str,
    title: str,
    y_title: str,
    key: str,
    runs: Sequence[RunMaterial],
    lines: Mapping[int, TrainingLines],
    smooths: bool,
    notes: Sequence[str],
) -> Iterator[Chart]:
    curves = [run_curve for run in runs if (run_curve := curve(run, lines[id(run)], key))]
    if curves:
        yield Chart(f"curve-{name}", title, y_title, curves, smooths, reference=_CHANCE.get(key), notes=notes)


def _chart_name(text: str) -> str:
    return "-".join("".join(sign if sign.isalnum() and sign.isascii() else " " for sign in text.lower()).split())


# Section on rounds: reward, divergence, length, unfinished replies, win rate and staleness

_OF_ROUNDS = {
    "rollout/reward": ("Reward of each round's replies", "reward"),
    "rollout/kl": ("Divergence of each round's replies from the reference", "nats per reply"),
    "rollout/length": ("Length of each round's replies", "tokens"),
    "rollout/unfinished": ("Unfinished replies of each round", "share"),
    "rollout/repetition": ("Repetition in the replies of each round", "share"),
    "rollout/ties": ("Ties among the replies to a prompt", "per prompt"),
    "rollout/staleness": ("Staleness: steps since the weights that wrote each round's replies", "steps, mean"),
    "rollout/logprob_difference_mean": (
        "Staleness: mean difference of log-probabilities between writing and training",
        "nats per token",
    ),
    "rollout/logprob_difference_max": (
        "Staleness: largest difference of log-probabilities between writing and training",
        "nats",
    ),
}
_WIN_RATE = ("eval/win_rate", "eval/win_rate_low", "eval/win_rate_high")
_STALENESS = "A difference far from 0 means that older weights or another engine wrote the replies."
_ROUND_COLUMNS = {"rollout/reward": "reward", "rollout/kl": "KL (nats)", "rollout/length": "length (tokens)"}
_ROUND_COLUMNS |= {"rollout/unfinished": "unfinished"}


def round_section(material: Material) -> Section:
    runs = [run for run in material.of(TRAINING) if _rounds(run)]
    blocks: list[Block] = [*_round_charts(runs), *_win_rates(runs)]
    return Section("rounds", "Rounds of online training", [*blocks, *([_round_table(runs)] if runs else [])])


def _rounds(run: RunMaterial) -> list[int]:
    """Return the indices of the first line of each round, which holds the figures of the round's replies."""
    return [index for index, line in enumerate(run.lines) if "rollout/reward" in line]


def _round_charts(runs: Sequence[RunMaterial]) -> Iterator[Chart]:
    lines = {id(run): lines_of(run, _OF_ROUNDS) for run in runs}
    for key, (title, y_title) in _OF_ROUNDS.items():
        curves = [_by_round(run, run_curve, key) for run in runs if (run_curve := curve(run, lines[id(run)], key))]
        if curves:
            notes = [_STALENESS] if "logprob" in key else []
            name = key.removeprefix("rollout/").replace("_", "-")
            yield Chart(f"round-{name}", title, y_title, curves, smooths=True, notes=notes)


def _by_round(run: RunMaterial, run_curve: Curve, key: str) -> Curve:
    """Return the curve with the round number as its first axis."""
    rounds = {run.lines[index]["step"]: number for number, index in enumerate(_rounds(run), 1)}
    numbers = [rounds.get(step, 0) for step in run_curve.x["steps"]]
    return Curve(run_curve.title, {"rounds": numbers, **run_curve.x}, run_curve.y, group=run_curve.group)


def _win_rates(runs: Sequence[RunMaterial]) -> Iterator[Chart]:
    curves = [run_curve for run in runs if (run_curve := curve(run, lines_of(run, _WIN_RATE), _WIN_RATE[0]))]
    if curves:
        notes = ["bands are 95 % intervals over prompts"]
        title = "Win rate of held-out replies against replies before training"
        yield Chart("round-win-rate", title, "share of prompts won", curves, reference=0.5, notes=notes)


def _round_table(runs: Sequence[RunMaterial]) -> ReportTable:
    """Return a table of the first and the last round of each run."""
    rows: list[list[Cell]] = []
    for run in runs:
        indices = _rounds(run)
        for number, index in {1: indices[0], len(indices): indices[-1]}.items():
            line = run.lines[index]
            figures: list[Cell] = [
                TableFigure(line[key], percent=key.endswith("unfinished"), spreads=False) if key in line else None
                for key in _ROUND_COLUMNS
            ]
            rows.append([run.title, setting_title(run), str(number), str(line["step"]), *figures])
    headings = ["run", "setting", "round", "step", *_ROUND_COLUMNS.values()]
    notes = ["means over the round's replies, which the policy wrote to training prompts"]
    return ReportTable("rounds", Table("First and last round", headings, rows, notes))
