"""File of a study, `launch/NAME.yaml`, read into a Study. docs/studies.md describes its form."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from psychocounsel.errors import UserError
from psychocounsel.settings.command import command_named
from psychocounsel.settings.schema import suggestion
from psychocounsel.settings.sweep import read_yaml
from psychocounsel.storage.files import expanded, shipped

COMMANDS = ("train", "annotate", "audit", "evaluate")
_KEYS = ("about", "values", "stages", "table")
_STAGE_KEYS = ("run", "best", "for_each", "needs")
# Names that are reserved for files in the study's folder and for references.
_TAKEN = ("table", "study", "stage", "each", "best", "select", "code", "submissions")
_OF_LAUNCH = ("study_dir", "only", "start_at", "force", "parallel", "dry_run", "cluster", "paths", "tracker")


@dataclass(frozen=True)
class StudyStage:
    """A stage of the file.

    Attributes:
        overrides: as typed after the command, with references like ${stage.sft.model}, and sweeps as with -m.
        best: metric that chooses the best cell; `mode` is min or max.
        for_each: stages; this stage runs once for each of their cells.
        needs: further stages that must finish first, in addition to those named in the overrides.
    """

    name: str
    command: str
    overrides: tuple[str, ...]
    best: str | None = None
    mode: str = "auto"
    for_each: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()

    def content(self) -> dict[str, Any]:
        """Return the stage in the form of the file."""
        best = self.best if self.mode == "auto" else {"metric": self.best, "mode": self.mode}
        listed = {"best": best, "for_each": [*self.for_each], "needs": [*self.needs]}
        return {"run": [self.command, *self.overrides], **{key: value for key, value in listed.items() if value}}


@dataclass(frozen=True)
class Study:
    """A study: `values` can be set on the command line; `table` is the layout of its tables."""

    name: str
    about: str
    values: dict[str, Any]
    stages: dict[str, StudyStage]
    table: dict[str, Any] = field(default_factory=dict)

    def text(self) -> str:
        """Return the study as YAML for `read_study`."""
        stages = {name: stage.content() for name, stage in self.stages.items()}
        content = {"about": self.about, "values": self.values, "stages": stages}
        if self.table:
            content["table"] = self.table
        written: str = yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=120)
        return written


def find_study(name: str) -> Path:
    """Return the file for `study=NAME`: a shipped one, or a path.

    Raises:
        UserError: if it does not exist.
    """
    path = expanded(name)
    if path.suffix in (".yaml", ".yml"):
        if not path.is_file():
            raise UserError(f"study={name}: no such file")
        return path
    studies = shipped_studies()
    if name in studies:
        return studies[name]
    if path.is_file():
        raise UserError(f"study={name}: a study's file ends in .yaml")
    listed = ", ".join(studies) or "none"
    raise UserError(
        f"study={name}: no such study; {near(name, list(studies))}(those that ship: {listed}, or FILE.yaml)"
    )


def shipped_studies() -> dict[str, Path]:
    """Return the files of `launch/` by name."""
    return {file.stem: file for file in sorted(shipped("launch").glob("*.yaml"))}


def summaries() -> str:
    """Return a line for each shipped study: its name and its `about`."""
    studies = {name: read_study(file) for name, file in shipped_studies().items()}
    width = max(map(len, studies), default=0)
    return "".join(f"    {name:<{width}}  {study.about}\n" for name, study in studies.items()) or "    none\n"


def read_study(path: Path, name: str | None = None) -> Study:
    """Return the study in a file; `name` defaults to the file's name.

    Raises:
        UserError: if the file does not have the form of a study; names the file and the place.
    """
    content = read_yaml(path)
    if not isinstance(content, Mapping) or not content.get("stages"):
        raise UserError(f"{path}: is not a study: it needs stages: NAME: COMMAND KEY=VALUE ...")
    _refuse_unknown(f"{path}", content, _KEYS)
    values, stages, table = content.get("values") or {}, content["stages"], content.get("table") or {}
    for key, part in (("values", values), ("stages", stages), ("table", table)):
        if not isinstance(part, Mapping):
            raise UserError(f"{path}: {key}: must contain NAME: VALUE")
    for value in values:
        if value in (*stages, *_OF_LAUNCH, *_TAKEN):
            raise UserError(
                f"{path}: values.{value}: this name has another meaning on the command line; choose a different one"
            )
    read = {str(stage): _stage(f"{path}: stages.{stage}", str(stage), given) for stage, given in stages.items()}
    return Study(name or path.stem, str(content.get("about") or ""), dict(values), read, dict(table))


def _stage(place: str, name: str, given: Any) -> StudyStage:
    if not name.isidentifier() or name in (*_TAKEN, *_OF_LAUNCH):
        raise UserError(f"{place}: a stage needs a name of letters, digits and _, except {', '.join(_TAKEN)}")
    fields = given if isinstance(given, Mapping) else {"run": given}
    _refuse_unknown(place, fields, _STAGE_KEYS)
    words = _words(place, fields.get("run"))
    if words[0] not in COMMANDS and command_named(words[0]) is None:
        raise UserError(
            f"{place}: {words[0]} is not a command of a study; {near(words[0], COMMANDS)}(one of {', '.join(COMMANDS)})"
        )
    best, mode = _best(place, fields.get("best"))
    lists = {key: _names(f"{place}.{key}", fields.get(key)) for key in ("for_each", "needs")}
    return StudyStage(name, words[0], tuple(words[1:]), best, mode, **lists)


def _best(place: str, given: Any) -> tuple[str | None, str]:
    """Return the metric and the mode of `best: METRIC`, or of `best: {metric: METRIC, mode: min}`."""
    fields = given if isinstance(given, Mapping) else {"metric": given}
    _refuse_unknown(f"{place}.best", fields, ("metric", "mode"))
    metric, mode = fields.get("metric"), fields.get("mode", "auto")
    if (given is not None and not isinstance(metric, str)) or mode not in ("auto", "min", "max"):
        raise UserError(f"{place}.best: is the name of a metric, as eval/accuracy, or {{metric: NAME, mode: min|max}}")
    if metric is not None and metric.startswith("test"):
        raise UserError(
            f"{place}.best: {metric} is a figure of the test data, which may be used only once; choose by held-out data"
        )
    return metric, mode


def _words(place: str, run: Any) -> list[str]:
    """Return the command and its overrides, from a line in shell syntax or a list."""
    if isinstance(run, str):
        try:
            words = shlex.split(run)
        except ValueError as error:
            raise UserError(f"{place}: cannot be read as a command line ({error})") from error
    else:
        words = list(run) if isinstance(run, list) else []
    if not words or not all(isinstance(word, str) for word in words):
        raise UserError(f"{place}: needs run: COMMAND KEY=VALUE ..., as one line or a list of texts")
    return words


def _names(place: str, given: Any) -> tuple[str, ...]:
    names = [given] if isinstance(given, str) else given or []
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise UserError(f"{place}: is the name of a stage, or a list of names")
    return tuple(names)


def _refuse_unknown(place: str, content: Mapping[Any, Any], known: tuple[str, ...]) -> None:
    if unknown := [str(key) for key in content if key not in known]:
        raise UserError(f"{place}: has no key {unknown[0]}; {near(unknown[0], known)}(it has {', '.join(known)})")


def near(wrong: str, known: Sequence[str]) -> str:
    """Return 'did you mean X? ' or ""."""
    advice = suggestion(wrong, list(known), "")
    return f"{advice} " if advice else ""
