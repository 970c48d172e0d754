"""Folders of cells: the existing one with the cell's fingerprint, or a new one named by the keys that distinguish it."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from psychocounsel.rundir.paths import ONLY_CELL, RunDir, StageDir, cell_record, is_selection
from psychocounsel.rundir.run_config import has_config
from psychocounsel.rundir.run_names import cell_name, key_of
from psychocounsel.storage.files import read_mapping, write_json


class StageFolders:
    """Folders of one stage: those on disk, and those that a plan assigns."""

    def __init__(self, stage: StageDir, study: Path) -> None:
        self.stage, self.study = stage, str(study)
        self.by_fingerprint: dict[str, Path] = {}
        self.taken: dict[str, str] = {}  # name: fingerprint ("" if unknown)
        for folder in sorted(stage.path.glob("*")) if stage.path.is_dir() else []:
            if folder.is_dir() and not folder.is_symlink() and not is_selection(folder):
                fingerprint = recorded_fingerprint(folder)
                if has_config(folder) or fingerprint == "":  # otherwise nothing has started in it
                    self.taken[folder.name] = fingerprint
                    self.by_fingerprint.setdefault(fingerprint, folder)

    def choose(self, fingerprint: str, base: str, swept: Mapping[str, str], overrides: Sequence[str]) -> Path:
        """Return a cell's folder. `base` is the name from its cell of `for_each`; `overrides` are all overrides of its stage.

        If another cell has the name, the overrides that differ from that cell's, or a number, are added.
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
        """Return fixed overrides that the run in `other` does not have, without paths inside the study."""
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
    """Record in `study.json` the cell of the run directory, before anything runs in it."""
    run_dir.mkdir(parents=True, exist_ok=True)
    write_json(cell_record(run_dir), {"stage": stage, "fingerprint": fingerprint})


def recorded_fingerprint(run_dir: Path) -> str:
    """Return the recorded fingerprint of a run directory's cell, or ""."""
    return str(read_mapping(cell_record(run_dir)).get("fingerprint", ""))
