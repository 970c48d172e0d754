"""Section on the rounds of online training: reward, divergence, length, unfinished replies, win rate and staleness."""

from collections.abc import Iterator, Sequence

from psychocounsel.reporting.blocks import Block, Chart, Curve, ReportTable, Section
from psychocounsel.reporting.material import TRAINING, Material, RunMaterial
from psychocounsel.reporting.sections.comparing.setting_groups import setting_title
from psychocounsel.reporting.sections.training.curve_values import curve, lines_of
from psychocounsel.studies.tables.formats import Cell, Table
from psychocounsel.studies.tables.runs import TableFigure

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
_COLUMNS = {"rollout/reward": "reward", "rollout/kl": "KL (nats)", "rollout/length": "length (tokens)"}
_COLUMNS |= {"rollout/unfinished": "unfinished"}


def section(material: Material) -> Section:
    runs = [run for run in material.of(TRAINING) if _rounds(run)]
    blocks: list[Block] = [*_charts(runs), *_win_rates(runs)]
    return Section("rounds", "Rounds of online training", [*blocks, *([_table(runs)] if runs else [])])


def _rounds(run: RunMaterial) -> list[int]:
    """Return the indices of the first line of each round, which holds the figures of the round's replies."""
    return [index for index, line in enumerate(run.lines) if "rollout/reward" in line]


def _charts(runs: Sequence[RunMaterial]) -> Iterator[Chart]:
    lines = {id(run): lines_of(run, _OF_ROUNDS) for run in runs}
    for key, (title, y_title) in _OF_ROUNDS.items():
        curves = [_by_round(run, each, key) for run in runs if (each := curve(run, lines[id(run)], key))]
        if curves:
            notes = [_STALENESS] if "logprob" in key else []
            yield Chart(f"round-{_slug(key)}", title, y_title, curves, smooths=True, notes=notes)


def _by_round(run: RunMaterial, found: Curve, key: str) -> Curve:
    """Return the curve with the round number as its first axis."""
    rounds = {run.lines[index]["step"]: number for number, index in enumerate(_rounds(run), 1)}
    numbers = [rounds.get(step, 0) for step in found.x["steps"]]
    return Curve(found.title, {"rounds": numbers, **found.x}, found.y, group=found.group)


def _win_rates(runs: Sequence[RunMaterial]) -> Iterator[Chart]:
    curves = [each for run in runs if (each := curve(run, lines_of(run, _WIN_RATE), _WIN_RATE[0]))]
    if curves:
        notes = ["bands are 95 % intervals over prompts"]
        title = "Win rate of held-out replies against replies before training"
        yield Chart("round-win-rate", title, "share of prompts won", curves, reference=0.5, notes=notes)


def _table(runs: Sequence[RunMaterial]) -> ReportTable:
    """Return a table of the first and the last round of each run."""
    rows: list[list[Cell]] = []
    for run in runs:
        indices = _rounds(run)
        for number, index in {1: indices[0], len(indices): indices[-1]}.items():
            line = run.lines[index]
            figures: list[Cell] = [
                TableFigure(line[key], percent=key.endswith("unfinished"), spreads=False) if key in line else None
                for key in _COLUMNS
            ]
            rows.append([run.title, setting_title(run), str(number), str(line["step"]), *figures])
    headings = ["run", "setting", "round", "step", *_COLUMNS.values()]
    notes = ["means over the round's replies, which the policy wrote to training prompts"]
    return ReportTable("rounds", Table("First and last round", headings, rows, notes))


def _slug(key: str) -> str:
    return key.removeprefix("rollout/").replace("_", "-")
