"""Chooses the best cell of a stage: the setting with the best mean over its seeds, and of that the best run."""

import json
import math
import os
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from omegaconf import OmegaConf

from psychocounsel.errors import DONE, UserError
from psychocounsel.rundir.paths import SelectionDir, StageDir
from psychocounsel.rundir.run_config import has_config, read_config
from psychocounsel.rundir.summary import (
    FINISHED,
    is_finished,
    objective,
    objective_interval,
    read_summary,
    write_summary,
)
from psychocounsel.storage.files import fsync_directory, write_json

if TYPE_CHECKING:
    from psychocounsel.rundir.run import Run

_SEED = "seed"  # the key that tells runs of one setting apart
_TRIAL = "trial"  # the number of a search's trial, among its swept keys


@dataclass(frozen=True)
class Candidate:
    """A finished cell: its folder, the swept keys with their values, and its value of the metric."""

    folder: str
    swept: Mapping[str, str]
    value: float

    @property
    def setting(self) -> dict[str, str]:
        return {key: value for key, value in self.swept.items() if key != _SEED}


def choose(candidates: list[Candidate], mode: str) -> tuple[Candidate, list[dict[str, Any]]]:
    """The best run of the best setting, and all settings with their runs and means, the best first.

    Of equal ones the earlier counts. `mode` is min or max.
    """
    sign = 1 if mode == "min" else -1
    settings: dict[str, list[Candidate]] = {}
    for each in candidates:
        settings.setdefault(json.dumps(each.setting, sort_keys=True), []).append(each)
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
    """What the job does in `STAGE/select-...`: set the link `STAGE/best-...`, write `best.json`, and show both in the stage.

    Of a search those trials have a say that finished and were not pruned, as in a search without a study.

    Raises:
        UserError: for a cell that has no such metric, or for a search without such a trial.
    """
    stage, about = StageDir(run.dir.parent), run.config.study
    cells = [cell for cell in about.cells if not is_trial(cell.swept) or _counts(stage.cell(cell.folder), about.metric)]
    if not cells:
        raise UserError(f"{stage.path}: no trial of the search has finished with a finite {about.metric}")
    candidates = [_candidate(stage, cell.folder, cell.swept, about.metric) for cell in cells]
    best, rows = choose(candidates, about.mode)
    chosen = {"run": best.folder, "setting": best.setting, "value": best.value}
    record = {"metric": about.metric, "mode": about.mode, "fingerprint": about.fingerprint, "chosen": chosen}
    own = SelectionDir(run.dir)
    for link, file in (
        (own.best, own.record),
        (stage.best, stage.best_record),
    ):  # the stage's are for people: the newest
        _link(link, best.folder)
        write_json(file, {**record, "settings": rows})
    write_summary(run.dir, FINISHED, metrics={about.metric: best.value})
    interval = objective_interval(stage.cell(best.folder), about.metric)
    run.say(f"best of {stage.path.name} by {about.metric}: {best.folder}, {best.value:.4g}{interval}")
    return DONE


def is_trial(swept: Mapping[str, str]) -> bool:
    """Whether a cell with these swept keys is a trial of a search."""
    return _TRIAL in swept


def _counts(trial: Path, metric: str) -> bool:
    value = objective(trial, metric)
    is_good = is_finished(trial) and value is not None and math.isfinite(value)
    return is_good and not read_summary(trial).get("ended_early")


def found_values(run_dir: Path, swept: Mapping[str, str]) -> dict[str, str]:
    """The swept keys of a run with its values: of a search's trial those that it was given, in the place of placeholders."""
    if not is_trial(swept) or not has_config(run_dir):
        return dict(swept)
    config = read_config(run_dir)
    return {key: value if key == _TRIAL else str(OmegaConf.select(config, key)) for key, value in swept.items()}


def _candidate(stage: StageDir, folder: str, swept: Mapping[str, str], metric: str) -> Candidate:
    value = objective(stage.cell(folder), metric)
    if value is None or not math.isfinite(value):
        raise UserError(
            f"{stage.cell(folder)}: has no finite figure {metric}, by which the study chooses the best of its stage"
        )
    return Candidate(folder, found_values(stage.cell(folder), swept), value)


def _link(link: Path, target: str) -> None:
    """Let `link` name its neighbour `target`, in one step."""
    draft = link.with_name(f".{link.name}.{uuid.uuid4().hex}.tmp")
    os.symlink(target, draft)
    os.replace(draft, link)
    fsync_directory(link.parent)
