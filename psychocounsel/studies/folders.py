"""Which folder a cell has: the one with its fingerprint, or a new one, named by what tells it from the others."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from psychocounsel.rundir.paths import ONLY_CELL, RunDir, StageDir, cell_record, is_selection
from psychocounsel.rundir.run_config import has_config
from psychocounsel.rundir.run_names import cell_name, key_of
from psychocounsel.storage.files import read_mapping, write_json


class StageFolders:
    """The folders of one stage as they are on disk, and those that a plan gives out."""

    def __init__(self, stage: StageDir, study: Path) -> None:
        self.stage, self.study = stage, str(study)
        self.by_fingerprint: dict[str, Path] = {}
        self.taken: dict[str, str] = {}  # name: fingerprint, "" where nobody knows
        for folder in sorted(stage.path.glob("*")) if stage.path.is_dir() else []:
            if folder.is_dir() and not folder.is_symlink() and not is_selection(folder):
                fingerprint = recorded_fingerprint(folder)
                if has_config(folder) or fingerprint == "":  # else nothing has begun in it
                    self.taken[folder.name] = fingerprint
                    self.by_fingerprint.setdefault(fingerprint, folder)

    def choose(self, fingerprint: str, base: str, swept: Mapping[str, str], overrides: Sequence[str]) -> Path:
        """The folder of a cell. `base` is the name that its cell of `for_each` gives it, `overrides` are all of its stage.

        A name that another cell has is joined by the overrides that differ from those of that cell, or by a number.
        """
        if fingerprint and fingerprint in self.by_fingerprint:
            return self.by_fingerprint[fingerprint]
        plain = _joined(base, swept)
        name = plain
        if name in self.taken:
            differing = self._differing(self.stage.cell(name), swept, overrides)
            name = _joined(base, {**differing, **swept})
        number = 2
        while name in self.taken:
            name, number = f"{_joined(base, swept)}_{number}", number + 1
        self.taken[name] = fingerprint
        folder = self.stage.cell(name)
        if fingerprint:
            self.by_fingerprint[fingerprint] = folder
        return folder

    def _differing(self, other: Path, swept: Mapping[str, str], overrides: Sequence[str]) -> dict[str, str]:
        """Fixed overrides that the run in `other` does not have, apart from paths within the study."""
        file = RunDir(other).overrides
        theirs = set(file.read_text().splitlines()) if file.exists() else set(overrides)
        found = {}
        for text in overrides:
            key, value = key_of(text), text.partition("=")[2]
            if text not in theirs and key not in swept and self.study not in text:
                found[key] = value
        return found


def _joined(base: str, telling: Mapping[str, str]) -> str:
    name = cell_name([f"{key}={value}" for key, value in telling.items()]) if telling else ""
    return "_".join(filter(None, (base, name))) or ONLY_CELL


def write_record(run_dir: Path, stage: str, fingerprint: str) -> None:
    """Say in `study.json` which cell the run directory is for, before anything runs in it."""
    run_dir.mkdir(parents=True, exist_ok=True)
    write_json(cell_record(run_dir), {"stage": stage, "fingerprint": fingerprint})


def recorded_fingerprint(run_dir: Path) -> str:
    """The fingerprint of the cell that a run directory is for; "" of none."""
    return str(read_mapping(cell_record(run_dir)).get("fingerprint", ""))
