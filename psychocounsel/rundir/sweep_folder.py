"""Folder of a job within a sweep: the folder of the same run, recognised by its configuration, or a new one."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from psychocounsel.rundir.identity import defines, defining, differing, is_of, is_same
from psychocounsel.rundir.paths import RunDir
from psychocounsel.rundir.run_config import has_config, read_plain
from psychocounsel.rundir.run_names import Naming, key_of

_SCALAR = (str, int, float, bool)


class SweepFolder:
    """The folder of a sweep or of a study's stage; the configurations of its runs are read once."""

    def __init__(self, path: Path) -> None:
        runs = sorted(path.iterdir()) if path.is_dir() else []
        self.path = path
        self.configs = {run.name: read_plain(run) for run in runs if run.is_dir() and has_config(run)}
        self._known: dict[tuple[str, ...], dict[str, dict[str, Any]]] = {}

    def choose(self, naming: Naming, config: DictConfig, is_it: Callable[[Path], bool] | None = None) -> Path:
        """Return the folder for a job with the checked `config`.

        If the same run exists already, its folder is returned, whatever its name. `is_it` recognises the same run; by
        default, runs with equal identity, length and swept keys are the same. A new run is named `naming.name`.
        If another run has this name, the fixed overrides in which the two differ are added. If there are none, or that
        name is taken, too, a number is added.
        """
        new = defining(config, naming.swept_keys)
        if is_it is not None:
            same = [name for name in self.configs if is_it(self.path / name)]
        else:
            same = [name for name, old in self._defining(naming).items() if is_same(new, old)]
            if self.configs.get(naming.name, new) is None:
                same.append(naming.name)  # damaged; its reader reports it
        if same:
            return self.path / (naming.name if naming.name in same else same[0])
        return self.path / self._free(naming, new)

    def _defining(self, naming: Naming) -> dict[str, dict[str, Any]]:
        """Return the defining values of each existing run, among runs in which the same keys are swept."""
        keys = tuple(naming.swept_keys)
        if keys not in self._known:
            self._known[keys] = {name: defining(config, keys) for name, config in self.configs.items() if config}
        return self._known[keys]

    def _free(self, naming: Naming, new: dict[str, Any]) -> str:
        joined: list[str] = []
        name = naming.name
        other = name if naming.swept else self._nearest(new, name)
        while other in self.configs:
            more = [text for text in self._telling(other, naming, new) if text not in joined]
            if not more:
                break
            joined = [*joined, *more]
            name = other = naming.joined(joined)
        number, base = 1, name
        while name in self.configs:
            number += 1
            name = f"{base}_{number}"
        return name

    def _nearest(self, new: dict[str, Any], default: str) -> str:
        """Return the run that differs in the fewest keys; `default` if there is none."""
        known = self._defining(Naming(()))
        return min(known, key=lambda name: len(differing(new, known[name])), default=default)

    def _telling(self, name: str, naming: Naming, new: dict[str, Any]) -> Iterator[str]:
        """Yield the fixed overrides in which a job with the values `new` differs from the run of this name."""
        keys = differing(new, self._defining(naming).get(name, {}))
        before = _overrides(self.path / name)
        for text in naming.fixed:
            key = key_of(text)
            of_all_groups = not any(is_of(each, key) for each in new)  # such as experiment=NAME
            if text not in before and defines(key) and (of_all_groups or any(is_of(each, key) for each in keys)):
                yield text
        typed = {key_of(text) for text in (*naming.fixed, *naming.swept)}
        for key in map(key_of, before):  # typed for the old run, and left out now
            if key in keys and key not in typed and isinstance(new.get(key), _SCALAR):
                yield f"{key}={new[key]}"


@dataclass(frozen=True)
class Place:
    """The place of one job in a sweep: the arguments of `SweepFolder.choose` except the configuration."""

    folder: SweepFolder
    naming: Naming
    is_it: Callable[[Path], bool] | None = None  # recognises the job's run if its configuration alone does not

    def choose(self, config: DictConfig) -> Path:
        return self.folder.choose(self.naming, config, self.is_it)


def _overrides(run: Path) -> list[str]:
    file = RunDir(run).overrides
    return file.read_text(errors="replace").splitlines() if file.exists() else []
