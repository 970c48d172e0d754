"""Choice of a stage's best cell: the best run of the setting with the best mean over its seeds."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from omegaconf import OmegaConf

from psychocounsel.errors import DONE, UserError
from psychocounsel.rundir.paths import SelectionDir, StageDir
from psychocounsel.rundir.results import (
    FINISHED,
    is_finished,
    objective,
    objective_interval,
    read_summary,
    write_summary,
)
from psychocounsel.rundir.run_config import has_config, read_config
from psychocounsel.storage.files import point, write_json

if TYPE_CHECKING:
    from psychocounsel.rundir.run import Run

_SEED = "seed"  # the key that distinguishes runs of one setting
_TRIAL = "trial"  # the number of a search's trial, among its swept keys


@dataclass(frozen=True)
class Candidate:
    """A finished cell: its folder, its swept keys with values, and its value of the metric."""

    folder: str
    swept: Mapping[str, str]
    value: float

    @property
    def setting(self) -> dict[str, str]:
        return {key: value for key, value in self.swept.items() if key != _SEED}


def choose(candidates: list[Candidate], mode: str) -> tuple[Candidate, list[dict[str, Any]]]:
    """Return the best run of the best setting, and all settings with their runs and means, best first.

    Of equal settings, or of equal runs, the earlier wins. `mode` is min or max.
    """
    sign = 1 if mode == "min" else -1
    settings: dict[str, list[Candidate]] = {}
    for candidate in candidates:
        settings.setdefault(json.dumps(candidate.setting, sort_keys=True), []).append(candidate)
    ranked = sorted(settings.values(), key=lambda runs: sign * fmean(run.value for run in runs))
    rows = [
        {
            "setting": runs[0].setting,
            "mean": fmean(run.value for run in runs),
            "runs": [{"run": run.folder, "value": run.value} for run in runs],
        }
        for runs in ranked
    ]
    return min(ranked[0], key=lambda run: sign * run.value), rows


def select(run: "Run") -> int:
    """Run the job in `STAGE/select-...`: set the link `STAGE/best-...` and write `best.json`; copy both to the stage.

    In a search, only finished trials that were not pruned count, as in a search without a study.

    Raises:
        UserError: if a cell has no finite value of the metric, or a search has no finished trial with one.
    """
    stage, about = StageDir(run.dir.parent), run.config.study
    cells = [cell for cell in about.cells if not is_trial(cell.swept) or _counts(stage.cell(cell.folder), about.metric)]
    if not cells:
        raise UserError(f"{stage.path}: no finished trial of the search has a finite {about.metric}")
    candidates = [_candidate(stage, cell.folder, cell.swept, about.metric) for cell in cells]
    best, rows = choose(candidates, about.mode)
    chosen = {"run": best.folder, "setting": best.setting, "value": best.value}
    record = {"metric": about.metric, "mode": about.mode, "fingerprint": about.fingerprint, "chosen": chosen}
    own = SelectionDir(run.dir)
    # Later stages read the first link. The link and file of the stage show people the newest choice.
    for link, file in ((own.best, own.record), (stage.best, stage.best_record)):
        point(link, best.folder)
        write_json(file, {**record, "settings": rows})
    write_summary(run.dir, FINISHED, metrics={about.metric: best.value})
    interval = objective_interval(stage.cell(best.folder), about.metric)
    run.say(f"best of {stage.path.name} by {about.metric}: {best.folder}, {best.value:.4g}{interval}")
    return DONE


def is_trial(swept: Mapping[str, str]) -> bool:
    """Return True if a cell with these swept keys is a trial of a search."""
    return _TRIAL in swept


def _counts(trial: Path, metric: str) -> bool:
    value = objective(trial, metric)
    is_good = is_finished(trial) and value is not None and math.isfinite(value)
    return is_good and not read_summary(trial).get("ended_early")


def found_values(run_dir: Path, swept: Mapping[str, str]) -> dict[str, str]:
    """Return the swept keys of a run with their values; a search's trial has its actual values instead of placeholders."""
    if not is_trial(swept) or not has_config(run_dir):
        return dict(swept)
    config = read_config(run_dir)
    return {key: value if key == _TRIAL else str(OmegaConf.select(config, key)) for key, value in swept.items()}


def _candidate(stage: StageDir, folder: str, swept: Mapping[str, str], metric: str) -> Candidate:
    value = objective(stage.cell(folder), metric)
    if value is None or not math.isfinite(value):
        raise UserError(
            f"{stage.cell(folder)}: has no finite figure {metric}, which the study needs to choose the best run of its stage"
        )
    return Candidate(folder, found_values(stage.cell(folder), swept), value)
