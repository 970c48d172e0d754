"""References in a study's overrides: `${study.VALUE}`, `${stage.NAME.model}`, `${each.model}`, replaced before Hydra reads them.

Other `${...}` are Hydra's, and stay.
"""

import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from psychocounsel.errors import UserError
from psychocounsel.rundir.paths import AnnotationDir, RunDir, SelectionDir, StageDir
from psychocounsel.rundir.sweep import key_of
from psychocounsel.settings.overrides import typed_override
from psychocounsel.settings.sweep import written
from psychocounsel.studies.study_file import StudyStage, near

_REFERENCE = re.compile(r"\$\{(study|stage|each)\.([^${}]*)\}")
_BEST, _ALL = "best", "all"
_EACH_FIELDS = ("model", "dir", "dataset", "name")
_FIELDS = ("model", "dir", "dataset", "best.model", "best.dir", "best.KEY", "all.model", "all.dir", "all.dataset")


class MadeCell(Protocol):
    """Fields of a cell that references can read."""

    name: str
    swept: dict[str, str]

    @property
    def run_dir(self) -> Path: ...


class FollowUp(UserError):
    """Error that may only follow from the mistake of another stage. It is not reported, because that mistake is."""


UNPLANNED = "0" * 64  # fingerprint of a choice that a mistake hides


@dataclass(frozen=True)
class MadeStage:
    """Fields of an earlier stage that references can read: its command, cells and folder.

    `is_known` is False if a mistake hides some of its cells.
    """

    command: str
    cells: Sequence[MadeCell]
    folder: StageDir
    has_best: bool
    is_known: bool = True
    choice: str = UNPLANNED  # fingerprint of the choice of its best cell

    @property
    def selection(self) -> SelectionDir:
        return self.folder.selection(self.choice)


@dataclass
class Filled:
    """Overrides with all references replaced.

    `after`: the run directories that they name. `settled`: keys whose values an earlier stage will choose, each with
    the run and the key that will hold the value; until then the override contains one value of that stage's sweep.
    """

    overrides: list[str]
    after: list[Path] = field(default_factory=list)
    settled: dict[str, dict[str, str]] = field(default_factory=dict)


def named_stages(stage: StudyStage) -> list[str]:
    """Return the stages named in a stage's overrides, `for_each` and `needs`."""
    named = [
        match[2].partition(".")[0]
        for text in stage.overrides
        for match in _REFERENCE.finditer(text)
        if match[1] == "stage"
    ]
    return list(dict.fromkeys([*named, *stage.for_each, *stage.needs]))


def with_values(stage: StudyStage, values: Mapping[str, Any]) -> list[str]:
    """Return the stage's overrides with `${study.VALUE}` replaced; a list becomes a sweep, KEY=A,B.

    A reference that is not the value of a key is replaced by overrides: `${study.size}`, with size: max_steps=2 data.limit=8.

    Raises:
        UserError: for a value that the study does not have.
    """
    overrides = list[str]()
    for text in stage.overrides:
        whole = _REFERENCE.fullmatch(text)
        if whole and whole[1] == "study":
            value = _value(whole[2], values)
            overrides += (
                [str(item) for item in value]
                if isinstance(value, list)
                else shlex.split("" if value is None else str(value))
            )
        else:
            overrides.append(_substituted(text, values))
    return overrides


def values_of_overrides(stages: Iterable[StudyStage]) -> set[str]:
    """Return the names of values that stand for whole overrides: `size` for `max_steps=2 data.limit=8`."""
    whole = (_REFERENCE.fullmatch(text) for stage in stages for text in stage.overrides)
    return {match[2] for match in whole if match and match[1] == "study"}


def listed_keys(stage: StudyStage, values: Mapping[str, Any]) -> set[str]:
    """Return the keys whose values come from a list of the study; they count as swept even with one value."""
    matches = ((text, match) for text in stage.overrides for match in _REFERENCE.finditer(text) if match[1] == "study")
    return {key_of(text) for text, match in matches if isinstance(values.get(match[2]), list) and "=" in text}


def _substituted(text: str, values: Mapping[str, Any]) -> str:
    key, _, given = text.partition("=")

    def replaced(match: re.Match[str]) -> str:
        if match[1] != "study":
            return match[0]
        value = _value(match[2], values)
        if isinstance(value, list):
            return ",".join(map(written, value))
        return written(value) if match[0] == given or not isinstance(value, str) else value

    return f"{key}={_REFERENCE.sub(replaced, given)}" if given else text


def _value(name: str, values: Mapping[str, Any]) -> Any:
    if name not in values:
        raise UserError(
            f"${{study.{name}}}: no such value in the study; {near(name, [*values])}(it has {', '.join(values) or 'none'})"
        )
    return values[name]


def fill(
    overrides: Sequence[str], stages: Mapping[str, MadeStage], parent: tuple[MadeStage, MadeCell] | None
) -> Filled:
    """Replace `${stage...}` and `${each...}` in the overrides of one cell.

    `parent` is the cell of `for_each` that it is made for, with the stage of that cell.

    Raises:
        UserError: for a stage or an output that does not exist.
    """
    filled = Filled([])
    for text in overrides:
        filled.overrides.append(_filled(text, stages, parent, filled))
    filled.after = list(dict.fromkeys(filled.after))
    return filled


def _filled(
    text: str, stages: Mapping[str, MadeStage], parent: tuple[MadeStage, MadeCell] | None, filled: Filled
) -> str:
    key, _, given = text.partition("=")

    def replaced(match: re.Match[str]) -> str:
        alone = match[0] == given
        if match[1] == "each":
            return _of_each(match[0], match[2], parent, filled, alone)
        name, _, output = match[2].partition(".")
        if name not in stages:
            raise UserError(f"{match[0]}: no stage {name}; {near(name, [*stages])}(stages: {', '.join(stages)})")
        if output.startswith(f"{_BEST}.") and output.partition(".")[2] not in ("model", "dir", "dataset"):
            return _settled(match[0], key.lstrip("+"), output.partition(".")[2], stages[name], filled, alone)
        return _of_stage(match[0], name, output, stages[name], filled, alone)

    return f"{key}={_REFERENCE.sub(replaced, given)}" if given else text


def _of_each(
    reference: str, output: str, parent: tuple[MadeStage, MadeCell] | None, filled: Filled, alone: bool
) -> str:
    if parent is None:
        raise UserError(f"{reference}: is allowed only in stages with for_each: STAGE")
    if output not in _EACH_FIELDS:
        raise UserError(f"{reference}: a cell has {', '.join(_EACH_FIELDS)}")
    stage, cell = parent
    if output == "name":
        return written(cell.name) if alone else cell.name
    filled.after.append(cell.run_dir)
    return _path(_output(reference, stage.command, cell.run_dir, output), alone)


def _of_stage(reference: str, name: str, output: str, stage: MadeStage, filled: Filled, alone: bool) -> str:
    kind, _, rest = output.rpartition(".")
    if kind not in ("", _BEST, _ALL) or rest not in ("model", "dir", "dataset"):
        raise UserError(f"{reference}: a stage has {', '.join(_FIELDS)}")
    if kind == _BEST:
        if not stage.has_best:
            raise UserError(f"{reference}: stage {name} chooses no best cell; give it best: METRIC")
        filled.after.append(stage.selection.path)
        return _path(_output(reference, stage.command, stage.selection.best, rest), alone)
    filled.after += [cell.run_dir for cell in stage.cells]
    paths = [_output(reference, stage.command, cell.run_dir, rest) for cell in stage.cells]
    if kind == _ALL:
        if not alone:
            raise UserError(f"{reference}: is a list and must be the whole value of a key")
        return written(list(map(str, paths)))
    if len(paths) != 1:
        raise _refusal(stage)(
            f"{reference}: stage {name} has {len(paths)} cells; write ${{stage.{name}.best.{rest}}}, "
            f"${{stage.{name}.all.{rest}}}, or for_each: {name}"
        )
    return _path(paths[0], alone)


def _output(reference: str, command: str, run_dir: Path, output: str) -> Path:
    """Return the path of an output of a run."""
    made = {"train": ("dir", "model"), "annotate": ("dir", "dataset")}.get(command, ("dir",))
    if output not in made:
        raise UserError(f"{reference}: {command} makes no {output}; it has {', '.join(made)}")
    if output == "dir":
        return run_dir
    return RunDir(run_dir).model if output == "model" else AnnotationDir(run_dir).dataset


def _settled(reference: str, key: str, chosen: str, stage: MadeStage, filled: Filled, alone: bool) -> str:
    """Return one value of the sweep, as placeholder for the value that the stage will choose."""
    if not stage.has_best:
        raise UserError(f"{reference}: its stage chooses no best cell; give it best: METRIC")
    if not alone:
        raise UserError(f"{reference}: must be the whole value of a key, as KEY={reference}")
    values = {cell.swept[chosen] for cell in stage.cells if chosen in cell.swept}
    if not values:
        swept = sorted({name for cell in stage.cells for name in cell.swept})
        raise _refusal(stage)(f"{reference}: its stage sweeps {', '.join(swept) or 'nothing'}; give one of these keys")
    filled.after.append(stage.selection.path)
    filled.settled[key] = {"run": str(stage.selection.best), "key": chosen}
    return next(cell.swept[chosen] for cell in stage.cells if chosen in cell.swept)


def _refusal(stage: MadeStage) -> type[UserError]:
    """Return the error class for a reference that does not fit the cells of a stage."""
    return UserError if stage.is_known else FollowUp


def _path(path: Path, alone: bool) -> str:
    """Return a path quoted as the value of an override, or unquoted inside a longer value."""
    return written(str(path)) if alone else str(path)


def value_of(text: str) -> Any:
    """Return the value of KEY=VALUE as YAML would contain it: a sweep A,B becomes a list.

    Raises:
        UserError: for a text that is not an override.
    """
    override = typed_override(text)
    if override.is_sweep_override():
        return [_simple(value) for value in override.sweep_iterator()]
    return _simple(override.value())


def _simple(value: Any) -> Any:
    if isinstance(value, list):
        return [_simple(item) for item in value]
    if isinstance(value, dict):
        return {str(_simple(key)): _simple(inner) for key, inner in value.items()}
    return getattr(value, "text", value)
