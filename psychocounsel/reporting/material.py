"""The material of a report: data read from its folders. Sections build their blocks from these classes and read no files."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from psychocounsel.blocks.kinds import ShownSpeech
from psychocounsel.studies.tables.runs import figure_of

TRAINING, EVALUATION, ANNOTATION, AUDIT, OTHER = "training", "evaluation", "annotation", "audit", "other"
COMMANDS = {TRAINING: "train", EVALUATION: "evaluate", ANNOTATION: "annotate", AUDIT: "audit"}


@dataclass(frozen=True)
class ShownTexts:
    """The first speeches with replies of a run, as many as a report shows.

    Attributes:
        count: number of all speeches with replies in the run.
        source: origin of the replies, such as `replies of the evaluation` or `replies of round 4 of training`.
    """

    speeches: Sequence[ShownSpeech]
    count: int
    source: str


@dataclass(frozen=True)
class RunMaterial:
    """A run directory of any command.

    Attributes:
        title: unique name in the report: the run's swept keys, or its folder.
        kind: TRAINING, EVALUATION, ANNOTATION, AUDIT or OTHER.
        what: algorithm of a training run, or name of an evaluation (reward, winrate, health, safety, ...), otherwise "".
        status: finished, running, stopped, failed, damaged or `not run`; of a gate also refused or undecided.
        config: the configuration as plain dictionaries and lists; {} if missing.
        settings: keys (dotted) whose values differ between the report's runs, with their values as text. The seed is not
            among them; `seed` holds it.
        evaluates: of an evaluation, the training run of this report whose model it evaluates.
        sweep: folder of the sweep or stage that lists this run, or None.
        stage: name of the stage in a study.
        lines: the complete lines of metrics.jsonl, one per step, not thinned.
        summary, state, environment, figures: contents of `summary.json`, `state.json`, `environment.json` and (evaluations)
            `figures.json`; {} if missing.
        extra: other JSON files by name (`reliability`, `audit`, `ability`); under `steps` the records of steps, by step;
            for annotation directories under `counts` the counts that `reading/runs.py` makes of their tables.
        texts: replies read by `reading/texts.py`; None if the run has none or texts must not be shown.
        attempts: one dictionary per attempt: number, begun, ended (seconds since 1970 or None), seconds, processes, gpus.
        problems: faults of the run directory, one line each (half-written line, another version's files, no metrics).
        confidential: texts of this run must not be shown.
    """

    path: Path
    title: str
    kind: str
    what: str
    status: str
    config: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, str] = field(default_factory=dict)
    seed: int | None = None
    sweep: Path | None = None
    evaluates: Path | None = None
    stage: str = ""
    overrides: str = ""
    lines: Sequence[Mapping[str, Any]] = ()
    summary: Mapping[str, Any] = field(default_factory=dict)
    state: Mapping[str, Any] = field(default_factory=dict)
    environment: Mapping[str, Any] = field(default_factory=dict)
    figures: Mapping[str, Any] = field(default_factory=dict)
    extra: Mapping[str, Any] = field(default_factory=dict)
    attempts: Sequence[Mapping[str, Any]] = ()
    problems: Sequence[str] = ()
    confidential: bool = False
    texts: ShownTexts | None = None

    @property
    def is_finished(self) -> bool:
        return self.status == "finished"

    @property
    def setting(self) -> str:
        """Name shared by runs that differ only in the seed: `algo=dpo, algo.beta=0.1`; empty if no setting differs."""
        return ", ".join(f"{key}={value}" for key, value in self.settings.items())

    def figure(self, key: str) -> float | None:
        """Return a figure of the summary. Of training: at the best evaluation, or see `before:KEY` and `last:KEY`."""
        return figure_of(self.summary, key)


@dataclass(frozen=True)
class StudyMaterial:
    """A study's folder: its stages in order, its gates with their result (None: not decided yet), and its tables.

    `tables` holds CSV texts by name.
    """

    path: Path
    name: str
    stages: Sequence[str]
    gates: Mapping[str, bool | None] = field(default_factory=dict)
    tables: Mapping[str, str] = field(default_factory=dict)
    best: Mapping[str, Path] = field(default_factory=dict)  # by stage: the chosen run
    problems: Sequence[str] = ()


@dataclass(frozen=True)
class Material:
    """Everything that a report is made from, in the order in which the folders were given."""

    folders: Sequence[Path]
    runs: Sequence[RunMaterial]
    studies: Sequence[StudyMaterial] = ()
    shows_texts: bool = True
    problems: Sequence[str] = ()

    def of(self, *kinds: str) -> list[RunMaterial]:
        return [run for run in self.runs if run.kind in kinds]
