"""Parts of the gate: their evaluations, their directories, and the evidence that they hold about model and base."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from psychocounsel.evaluation.gate.gate_cases import of_any_judge
from psychocounsel.evaluation.safety.judged_case import JudgedCase
from psychocounsel.rundir.paths import EvaluationDir
from psychocounsel.rundir.run_config import read_config, read_section
from psychocounsel.settings.targets import build
from psychocounsel.steps.tables import rows_of
from psychocounsel.storage.files import read_mapping

Figures = dict[str, Any]


@dataclass(frozen=True)
class PartCases:
    """Judged cases of a part, and the number of missing replies or judges' answers."""

    cases: list[JudgedCase]
    missing: int


def _safety(files: EvaluationDir, config: DictConfig) -> PartCases:
    from psychocounsel.counsel.rubric.rubric_folder import load_rubric
    from psychocounsel.evaluation.safety.crisis_speeches import crisis_speeches
    from psychocounsel.evaluation.safety.reply_questions import reply_flow
    from psychocounsel.evaluation.safety.safety_cases import safety_cases

    known = {each.speech: each for each in crisis_speeches()}
    flow = reply_flow(load_rubric(config.evaluation.rubric.removeprefix("builtin:")))
    judges = [judge.name for judge in build(config, "judge").models()]
    cases = [case for judge in judges for case in safety_cases(files, judge, known, flow)]
    replied = [row["speech"] for row in rows_of(files.replies, ["speech"]) if row["speech"] in known]
    # Speeches lack replies, for instance, if the crisis set has grown since the evaluation.
    unasked = 0 if config.limit else len({*known} - {*replied})
    return PartCases(cases, len(replied) * len(judges) - len(cases) + unasked)


def _session(files: EvaluationDir, config: DictConfig) -> PartCases:
    from psychocounsel.evaluation.session.judged_sessions import judged_sessions
    from psychocounsel.evaluation.session.session_cases import session_cases

    judges = [judge.name for judge in build(config, "judge").models()]
    cases = [case for judge in judges for case in session_cases(files, judge)]
    return PartCases(cases, sum(1 for _ in judged_sessions(files)) * len(judges) - len(cases))


def _health(files: EvaluationDir, config: DictConfig) -> PartCases:
    found = [setting for variant in _variants(files) for setting in variant["settings"].values()]
    return PartCases([], sum(sum(each["outcomes"].values()) - each["replies"] for each in found))


def _variants(files: EvaluationDir) -> list[Figures]:
    variants: list[Figures] = read_mapping(files.figures).get("variants", [])
    return variants


@dataclass(frozen=True)
class GatePart:
    """Evaluation that is a part of the gate.

    Attributes:
        settings: dataclass of `conf/evaluation/NAME.yaml`, as module and class.
        read: reads the cases of a finished directory with its configuration.
        reads_data: True if it reads `data` and asks no judge; the other parts have sets of their own, and judges.
        options: values of its keys that differ from the defaults.
    """

    settings: str
    read: Callable[[EvaluationDir, DictConfig], PartCases]
    reads_data: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)

    def evaluation(self) -> Any:
        """Import and return the settings dataclass."""
        module, _, name = self.settings.rpartition(".")
        return getattr(import_module(module), name)


ALL = {
    # Swapped speeches do not affect the decision, so their replies are not bought.
    "safety": GatePart("psychocounsel.evaluation.safety.settings.SafetyEvaluation", _safety, options={"swaps": False}),
    "session": GatePart("psychocounsel.evaluation.session.settings.SessionEvaluation", _session),
    "health": GatePart("psychocounsel.evaluation.health.settings.HealthEvaluation", _health, reads_data=True),
}


def taken(config: DictConfig) -> dict[str, Path]:
    """Return the directories of `gate.from` by part; `check_taken` has validated them before."""
    return {read_section(path, "evaluation")["name"]: path for path in map(Path, config.gate["from"])}


def wanted_parts(config: DictConfig) -> list[str]:
    """Return the names of the parts in `gate.parts`, in running order."""
    return [name for name in ALL if name in config.gate.parts]


def run_parts(config: DictConfig) -> list[str]:
    """Return the names of the parts that the gate runs itself, because `gate.from` has no directory for them."""
    there = taken(config)
    return [name for name in wanted_parts(config) if name not in there]


def part_files(config: DictConfig, name: str) -> EvaluationDir:
    """Return the directory of a part: one of `gate.from`, otherwise a subdirectory of the gate's own."""
    there = taken(config)
    return EvaluationDir(there[name]) if name in there else EvaluationDir(Path(config.run_dir)).part(name)


@dataclass(frozen=True)
class Evidence:
    """Evidence for the decision, apart from people's answers.

    Attributes:
        model: setting of the model.
        base: setting of the base.
        cases: cases of both, from all parts, merged over judges, ordered by id.
        missing: number of missing replies or judges' answers, by part.
        limits: by part, the overrides that shorten its set, for instance `limit=5`.
        health: health figures of the model (see `health_means.means`); None without that part.
        quality: by judge, the planted faults that it found in the safety part.
    """

    model: str
    base: str
    cases: list[JudgedCase]
    missing: dict[str, int]
    limits: dict[str, list[str]]
    health: Figures | None
    quality: Figures

    @property
    def mine(self) -> list[JudgedCase]:
        return [case for case in self.cases if case.setting == self.model]

    @property
    def of_base(self) -> list[JudgedCase]:
        return [case for case in self.cases if case.setting == self.base]


def evidence_of(config: DictConfig) -> Evidence:
    """Read the evidence of all parts; they must be finished."""
    cases, missing, limits = list[JudgedCase](), dict[str, int](), dict[str, list[str]]()
    health, quality, names = None, Figures(), list[str]()
    for name in wanted_parts(config):
        files = part_files(config, name)
        part_config = read_config(files.path)
        found = ALL[name].read(files, part_config)
        cases += found.cases
        missing |= {name: found.missing} if found.missing else {}
        limits |= {name: left_out} if (left_out := [*_left_out(part_config)]) else {}
        names = [*dict.fromkeys(part_config.contestants.settings)]
        if name == "health":
            health = _variants(files)[0]["settings"][names[0]]["figures"]
        if name == "safety":
            quality = dict(_qualities(files))
    return Evidence(names[0], names[1], of_any_judge(cases), missing, limits, health, quality)


def _left_out(config: DictConfig) -> Iterator[str]:
    """Yield the overrides of a part that leave out clients or shorten their sessions."""
    if config.limit:
        yield f"limit={config.limit}"
    if patterns := OmegaConf.select(config, "personas.patterns"):
        yield f"personas.patterns=[{','.join(patterns)}]"
    turns = config.evaluation.get("turns")
    if turns is not None and turns < ALL[config.evaluation.name].evaluation()().turns:
        yield f"evaluation.turns={turns}"


def _qualities(files: EvaluationDir) -> Iterator[tuple[str, Figures]]:
    for judge, found in read_mapping(files.figures).get("judges", {}).items():
        yield judge, found["quality"]
