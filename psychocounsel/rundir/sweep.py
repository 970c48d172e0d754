"""A sweep's runs: their names such as `beta-0.3_seed-2`, their folders, and the table `sweep.jsonl` that lists them."""

import hashlib
import json
import re
import shlex
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from psychocounsel.errors import UserError
from psychocounsel.rundir.identity import defines, defining, differing, is_same, is_within, slug
from psychocounsel.rundir.paths import ONLY_CELL, AnnotationDir, RunDir, SweepDir, run_of_model
from psychocounsel.rundir.run_config import has_config, is_run, read_overrides, read_plain
from psychocounsel.storage.files import parse_json, write_atomically
from psychocounsel.storage.locks import held

# Names, made from the swept keys by their shortest unambiguous names

_SCIENTIFIC = re.compile(r"([+-]?[0-9.]+)[eE]\+?(-?)0*([0-9]+)")
_WORDS = {"True": "true", "False": "false", "None": "null"}
_STRUCTURED = re.compile(r"[\[\]{},:]")


@dataclass(frozen=True)
class Naming:
    """The parts of a job's name.

    `swept`: its overrides in which the jobs differ. `fixed`: its other overrides. `shown`: the swept overrides with
    shortened paths. `mark`: a hash that distinguishes jobs of the same name.
    """

    swept: tuple[str, ...]
    fixed: tuple[str, ...] = ()
    shown: tuple[str, ...] = ()
    mark: str = ""

    @property
    def swept_keys(self) -> list[str]:
        return list(map(key_of, self.swept))

    @property
    def name(self) -> str:
        return self.joined([])

    def joined(self, fixed: Sequence[str]) -> str:
        """Return the name with some of the fixed overrides before the swept ones."""
        name = cell_name([*fixed, *self.shown])
        return slug(f"{name}-{self.mark}") if self.mark else name


def namings(jobs: Sequence[Sequence[str]]) -> list[Naming]:
    """Return the naming of each job of one command, from the overrides of all jobs."""
    counts = Counter(text for job in jobs for text in set(job))
    parts = [_parted(job, {text for text in job if counts[text] < len(jobs)}) for job in jobs]
    short = _short_values([swept for swept, _ in parts])
    all_namings = [Naming(swept, fixed, tuple(short[text] for text in swept)) for swept, fixed in parts]
    owners: dict[str, set[tuple[str, ...]]] = {}
    for naming in all_namings:
        owners.setdefault(naming.name, set()).add(naming.swept)
    return [
        naming if len(owners[naming.name]) == 1 else replace(naming, mark=_mark(naming.swept)) for naming in all_namings
    ]


def cell_name(overrides: Sequence[str]) -> str:
    """Return a folder's name: `algo.beta=0.3 seed=2` gives `beta-0.3_seed-2`; no overrides give `run`.

    A key is shortened to its last part, unless two keys have the same last part.
    """
    keys = list(map(key_of, overrides))
    last = [key.rpartition(".")[2] for key in keys]
    shown = [end if last.count(end) == 1 else key for key, end in zip(keys, last, strict=True)]
    texts = [slug(f"{key}-{_value(text)}") for key, text in zip(shown, overrides, strict=True)]
    return slug("_".join(texts)) if texts else ONLY_CELL


def key_of(override: str) -> str:
    """Return the dotted key of an override, or of a group."""
    return override.lstrip("+~").partition("=")[0].partition("@")[0].replace("/", ".")


def _parted(job: Sequence[str], swept: set[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the swept and the fixed overrides, without Hydra's own."""
    own = [text for text in job if not key_of(text).startswith("hydra.")]
    return tuple(text for text in own if text in swept), tuple(text for text in own if text not in swept)


def _value(override: str) -> str:
    """Return the value as shown in a name: 1e-06 as 1e-6, without quotes."""
    text = override.partition("=")[2].strip("'\"")
    if match := _SCIENTIFIC.fullmatch(text):
        return f"{match[1]}e{match[2]}{match[3]}"
    return _WORDS.get(text, text).lstrip("/")


def _short_values(jobs: Sequence[Sequence[str]]) -> dict[str, str]:
    """Return each override with a shortened path: its last meaningful part, if no other value of the key has the same."""
    texts: dict[str, dict[str, str]] = {}
    for text in (text for job in jobs for text in job):
        head, equals, value = text.partition("=")
        texts.setdefault(key_of(text), {})[text] = f"{head}{equals}{_last_part(value)}"
    result: dict[str, str] = {}
    for short in texts.values():
        unique = len(set(short.values())) == len(short)
        result |= short if unique else {text: text for text in short}
    return result


def _last_part(value: str) -> str:
    text = value.strip("'\"")
    if "/" not in text or _STRUCTURED.search(text):
        return value
    path = Path(text)
    return (run_of_model(path) or path).name or value


def _mark(swept: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(swept).encode()).hexdigest()[:8]


def telling_name(path: Path, parent: bool = False) -> str:
    """Return the part of a path that names a run or model: `beta` for runs/beta/model, `sft` for STUDY/sft/run/model.

    With `parent`, and for a folder that names only a seed, the parent's name is a prefix: `dpo_seed-1`.
    """
    parts = [*path.parts]
    while len(parts) > 2 and (parts[-1] in ("model", "best", ONLY_CELL) or re.fullmatch("best-[0-9a-f]{8}", parts[-1])):
        parts.pop()
    has_prefix = parent or re.fullmatch(r"seed-\d+", parts[-1]) is not None
    return "_".join(parts[-2:] if has_prefix and len(parts) > 2 else parts[-1:])


# Folders: an existing one of the same run, or a new one

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
            more = [text for text in self._distinguishing(other, naming, new) if text not in joined]
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

    def _distinguishing(self, name: str, naming: Naming, new: dict[str, Any]) -> Iterator[str]:
        """Yield the fixed overrides in which a job with the values `new` differs from the run of this name."""
        keys = differing(new, self._defining(naming).get(name, {}))
        before = read_overrides(RunDir(self.path / name).overrides, "replace")
        for text in naming.fixed:
            key = key_of(text)
            of_all_groups = not any(is_within(new_key, key) for new_key in new)  # such as experiment=NAME
            if (
                text not in before
                and defines(key)
                and (of_all_groups or any(is_within(changed, key) for changed in keys))
            ):
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


# The table: each run with its index, overrides and folder


@dataclass(frozen=True)
class ListedRun:
    """A run as listed in its sweep; `overrides` as on the command line. Jobs that a study adds have no index."""

    index: int | None
    run_dir: Path
    overrides: str


def is_sweep(folder: Path) -> bool:
    return SweepDir(folder).table.exists()


def runs_of(folder: Path) -> list[ListedRun]:
    """Return the runs of a sweep, or the one run.

    Raises:
        UserError: if the folder is neither a sweep nor a run, or the sweep's table is damaged.
    """
    if is_sweep(folder):
        return [
            ListedRun(row["index"], folder / row["run_dir"], " ".join(row["overrides"])) for row in _read_table(folder)
        ]
    if is_run(folder):
        return [ListedRun(0, folder, " ".join(read_overrides(RunDir(folder).overrides)))]
    run, sweep = RunDir(folder).job.name, SweepDir(folder).table.name
    raise UserError(
        f"{folder}: is neither a run (it has no {run}) nor a sweep (no {sweep}); "
        f"`psychocounsel jobs list {shlex.quote(str(folder))}` shows those in it"
    )


def shards_of(runs: Iterable[Path]) -> list[ListedRun]:
    """Return the jobs that share the work of these runs (`shards=N`)."""
    folders = [AnnotationDir(run).shards for run in runs]
    return [shard for folder in folders if is_sweep(folder) for shard in runs_of(folder)]


def add_to_table(sweep: Path, runs: Iterable[tuple[Path, list[str]]]) -> None:
    """Add runs (folder and overrides) to `sweep.jsonl`; runs of earlier commands keep their lines."""
    with held(SweepDir(sweep).table_lock):
        rows = {row["run_dir"]: row for row in _read_table(sweep)}
        for run_dir, overrides in runs:
            folder = str(run_dir.relative_to(sweep))
            index = max((row["index"] for row in rows.values()), default=-1) + 1
            rows.setdefault(folder, {"index": index, "overrides": overrides, "run_dir": folder})
        _write_table(sweep, rows.values())


def remove_from_table(sweep: Path, runs: Iterable[Path]) -> None:
    """Remove runs from `sweep.jsonl`; the others keep their indices."""
    gone = {str(run.relative_to(sweep)) for run in runs}
    with held(SweepDir(sweep).table_lock):
        _write_table(sweep, [row for row in _read_table(sweep) if row["run_dir"] not in gone])


def _write_table(sweep: Path, rows: Iterable[dict[str, Any]]) -> None:
    write_atomically(SweepDir(sweep).table, "".join(json.dumps(row) + "\n" for row in rows))


def is_unused(sweep: Path) -> bool:
    """Return True if the folder holds only the file that Hydra writes before anything is checked."""
    return sweep.is_dir() and list(sweep.iterdir()) == [SweepDir(sweep).multirun]


def _read_table(sweep: Path) -> list[dict[str, Any]]:
    table = SweepDir(sweep).table
    if not table.exists():
        return []
    rows = []
    for number, line in enumerate(table.read_text(errors="replace").splitlines(), 1):
        try:
            row = parse_json(line)
            if not isinstance(row["index"], int) or not isinstance(row["overrides"], list):
                raise TypeError("not a row of a sweep")
            Path(row["run_dir"]), " ".join(row["overrides"])
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise UserError(
                f"{table} line {number}: is damaged; repair it, or remove it and repeat the command"
            ) from error
        rows.append(row)
    return rows
