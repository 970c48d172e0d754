"""The folders of a report as read: sections make their blocks of these, and touch no file themselves."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from psychocounsel.reporting.blocks import ShownSpeech
from psychocounsel.studies.tables.study_runs import figure_of

TRAINING, EVALUATION, ANNOTATION, AUDIT, OTHER = "training", "evaluation", "annotation", "audit", "other"


@dataclass(frozen=True)
class ShownTexts:
    """Speeches with replies that a run holds: the first ones, as many as a report shows.

    Attributes:
        count: speeches with replies that the run holds in all.
        source: what the replies are, as `replies of the evaluation` or `replies of round 4 of training`.
    """

    speeches: Sequence[ShownSpeech]
    count: int
    source: str


@dataclass(frozen=True)
class RunMaterial:
    """A run directory of any command.

    Attributes:
        title: tells it from all others of the report: its swept keys, or its folder.
        kind: TRAINING, EVALUATION, ANNOTATION, AUDIT or OTHER.
        what: the algorithm of a training, the evaluation's name of an evaluation (reward, winrate, health, safety, ...), else "".
        status: finished, running, stopped, failed, damaged, `not run`.
        config: plain dictionaries and lists; {} where there is none. settings: the keys whose values differ between the runs of
            the report, dotted, as text; the seed is apart in `seed`.
        evaluates: of an evaluation, the training of this report whose model it evaluates.
        sweep: the folder of the sweep or the stage that lists it, or None. stage: the stage's name in a study.
        lines: the whole lines of metrics.jsonl, one a step, not thinned. damaged_lines: so many could not be read.
        summary, state, environment, figures: `summary.json`, `state.json`, `environment.json`, `figures.json` (of evaluations) as
            read, {} where missing. extra: other JSON files by name (`reliability`, `audit`, `ability`), records under `steps` (by
            step), and of annotate directories `counts`, what `reading/dataset_counts.py` counts in their tables.
        texts: what `reading/shown_texts.py` reads of its replies; None where it holds none, or texts may not be shown.
        attempts: one dictionary an attempt: number, begun, ended (seconds since 1970 or None), seconds, processes, gpus.
        problems: what is wrong with it, a line each (half-written line, another version's directory, no metrics).
        confidential: its texts may not be shown.
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
    damaged_lines: int = 0
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
        """What runs with other seeds share: `algo=dpo, algo.beta=0.1`; the title where nothing differs but the seed."""
        return ", ".join(f"{key}={value}" for key, value in self.settings.items())

    def figure(self, key: str) -> float | None:
        """A figure of its summary: of a training at the best evaluation, or that of `before:KEY` or `last:KEY`."""
        return figure_of(self.summary, key)


@dataclass(frozen=True)
class StudyMaterial:
    """A study's folder: its stages in order, gates with whether they passed (None: not yet), and its written tables.

    `tables` holds CSV texts by name.
    """

    path: Path
    name: str
    stages: Sequence[str]
    gates: Mapping[str, bool | None] = field(default_factory=dict)
    tables: Mapping[str, str] = field(default_factory=dict)
    best: Mapping[str, Path] = field(default_factory=dict)  # by stage, the run that was chosen
    problems: Sequence[str] = ()


@dataclass(frozen=True)
class Material:
    """All that a report is made of, in the order in which folders were given."""

    folders: Sequence[Path]
    runs: Sequence[RunMaterial]
    studies: Sequence[StudyMaterial] = ()
    shows_texts: bool = True
    problems: Sequence[str] = ()

    def of(self, *kinds: str) -> list[RunMaterial]:
        return [run for run in self.runs if run.kind in kinds]
