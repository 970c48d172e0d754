"""Parts of the gate: their evaluations, their runs, and finished evaluations that replace them (`gate.from`)."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf, open_dict

from psychocounsel.asking.language_model import LanguageModel
from psychocounsel.errors import UserError
from psychocounsel.evaluation.gate.cases import of_any_judge
from psychocounsel.evaluation.health.settings import HealthEvaluation
from psychocounsel.evaluation.safety.cases import JudgedCase
from psychocounsel.evaluation.safety.settings import SafetyEvaluation
from psychocounsel.evaluation.safety.speeches import NOT_VALIDATED
from psychocounsel.evaluation.safety.word_checks import Checks
from psychocounsel.evaluation.session.settings import SessionEvaluation
from psychocounsel.evaluation.stepped import DATA_KEYS
from psychocounsel.rundir.paths import EvaluationDir
from psychocounsel.rundir.results import FINISHED, is_finished, write_summary
from psychocounsel.rundir.run_config import has_config, read_config, read_section, write_config
from psychocounsel.settings.own_code import require_agreement
from psychocounsel.settings.targets import build
from psychocounsel.steps.course import StepContext
from psychocounsel.steps.plan import failed_calls
from psychocounsel.steps.running import edited_files, run_steps
from psychocounsel.steps.tables import rows_of
from psychocounsel.storage.files import read_mapping

# Parts of the gate: their evaluations, their directories, and the evidence that they hold about model and base.

Figures = dict[str, Any]


@dataclass(frozen=True)
class PartCases:
    """Judged cases of a part, and the number of missing replies or judges' answers."""

    cases: list[JudgedCase]
    missing: int


def _safety(files: EvaluationDir, config: DictConfig) -> PartCases:
    from psychocounsel.counsel.rubric import load_rubric
    from psychocounsel.evaluation.safety.cases import safety_cases
    from psychocounsel.evaluation.safety.questions import reply_flow
    from psychocounsel.evaluation.safety.speeches import crisis_speeches

    known = {speech.speech: speech for speech in crisis_speeches()}
    flow = reply_flow(load_rubric(config.evaluation.rubric))
    judges = build(config, "judge").models()
    cases = [case for judge in judges for case in _flagged_by(judge, safety_cases(files, judge.name, known, flow))]
    replied = [row["speech"] for row in rows_of(files.replies, ["speech"]) if row["speech"] in known]
    # Speeches lack replies, for instance, if the crisis set has grown since the evaluation.
    unasked = 0 if config.limit else len({*known} - {*replied})
    return PartCases(cases, len(replied) * len(judges) - len(cases) + unasked)


def _session(files: EvaluationDir, config: DictConfig) -> PartCases:
    from psychocounsel.evaluation.session.cases import judged_sessions, session_cases

    judges = build(config, "judge").models()
    cases = [case for judge in judges for case in _flagged_by(judge, session_cases(files, judge.name))]
    return PartCases(cases, sum(1 for _ in judged_sessions(files)) * len(judges) - len(cases))


def _flagged_by(judge: LanguageModel, cases: Iterable[JudgedCase]) -> Iterator[JudgedCase]:
    """Yield the cases without the flags of word checks, which judge nothing; a reply without a text keeps its failures."""
    for case in cases:
        if isinstance(judge, Checks) and case.messages[-1]["content"]:
            unflagged = {name: None if value is None else 0.0 for name, value in case.findings.items()}
            case = replace(case, findings=unflagged)
        yield case


def _health(files: EvaluationDir, config: DictConfig) -> PartCases:
    settings = [setting for variant in _variants(files) for setting in variant["settings"].values()]
    return PartCases([], sum(sum(setting["outcomes"].values()) - setting["replies"] for setting in settings))


def _variants(files: EvaluationDir) -> list[Figures]:
    variants: list[Figures] = read_mapping(files.figures).get("variants", [])
    return variants


@dataclass(frozen=True)
class GatePart:
    """Evaluation that is a part of the gate.

    Attributes:
        evaluation: dataclass of `conf/evaluation/NAME.yaml`.
        read: reads the cases of a finished directory with its configuration.
        options: values of its keys that differ from the defaults.
    """

    evaluation: Any
    read: Callable[[EvaluationDir, DictConfig], PartCases]
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def reads_data(self) -> bool:
        """True if it reads `data` and asks no judge; the other parts have sets of their own, and judges."""
        return not self.evaluation.instead_of_data


ALL = {
    # Swapped speeches do not affect the decision, so their replies are not bought.
    "safety": GatePart(SafetyEvaluation, _safety, options={"swaps": False}),
    "session": GatePart(SessionEvaluation, _session),
    "health": GatePart(HealthEvaluation, _health),
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
        health: health figures of the model (see `health.figures.means`); None without that part.
        quality: by judge, the planted faults that it found in the safety part.
        judges: names of the judges; word checks are none.
        notes: who wrote and who reviewed the speeches and clients.
    """

    model: str
    base: str
    cases: list[JudgedCase]
    missing: dict[str, int]
    limits: dict[str, list[str]]
    health: Figures | None
    quality: dict[str, Figures]
    judges: frozenset[str] = frozenset()
    notes: tuple[str, ...] = ()

    @property
    def mine(self) -> list[JudgedCase]:
        return [case for case in self.cases if case.setting == self.model]

    @property
    def of_base(self) -> list[JudgedCase]:
        return [case for case in self.cases if case.setting == self.base]


def evidence_of(config: DictConfig) -> Evidence:
    """Read the evidence of all parts; they must be finished.

    Raises:
        UserError: if a table of a part was edited.
    """
    cases, missing, limits = list[JudgedCase](), dict[str, int](), dict[str, list[str]]()
    health, quality, names, judges = None, dict[str, Figures](), list[str](), set[str]()
    notes = list[str]()
    for name in wanted_parts(config):
        files = part_files(config, name)
        _check_unedited(name, files)
        part_config = read_config(files.path)
        part_cases = ALL[name].read(files, part_config)
        cases += part_cases.cases
        missing |= {name: part_cases.missing} if part_cases.missing else {}
        limits |= {name: left_out} if (left_out := [*_left_out(part_config, files)]) else {}
        names = [*dict.fromkeys(part_config.contestants.settings)]
        if not ALL[name].reads_data:
            judges |= {judge.name for judge in build(part_config, "judge").models() if not isinstance(judge, Checks)}
            # Evaluations of earlier versions have no notes.
            notes += read_mapping(files.figures).get("notes", [NOT_VALIDATED] if name == "safety" else [])
        if name == "health":
            health = _variants(files)[0]["settings"][names[0]]["figures"]
        if name == "safety":
            by_judge = read_mapping(files.figures).get("judges", {})
            quality = {judge: figures["quality"] for judge, figures in by_judge.items()}
    return Evidence(
        names[0], names[1], of_any_judge(cases), missing, limits, health, quality, frozenset(judges), tuple(notes)
    )


def _check_unedited(name: str, files: EvaluationDir) -> None:
    if edited := next(edited_files(ALL[name].evaluation.course, files), None):
        raise UserError(
            f"{edited}: was changed after the part {name} wrote it; restore the file, or run that part again"
        )


def _left_out(config: DictConfig, files: EvaluationDir) -> Iterator[str]:
    """Yield the overrides of a part that leave out clients or shorten their sessions.

    What the part's first step recorded comes first, because config.yaml could be edited afterwards.
    """
    evaluation = ALL[config.evaluation.name].evaluation
    recorded = read_mapping(files.step(evaluation.course.steps[0])).get("settings", {})

    def used(key: str) -> Any:
        return recorded.get(key, OmegaConf.select(config, key))

    if limit := used("limit"):
        yield f"limit={limit}"
    if patterns := used("personas.patterns"):
        yield f"personas.patterns=[{','.join(patterns)}]"
    turns = used("evaluation.turns")
    if turns is not None and turns < evaluation().turns:
        yield f"evaluation.turns={turns}"


# Run of a part of the gate: an evaluation with its own steps in `RUN/parts/NAME`, which uses the gate's journal.


def run_part(name: str, context: StepContext[EvaluationDir]) -> dict[str, Any]:
    """Run the due steps of a part and return its metrics.

    What the part's last step concludes is in its `tables.txt`; `verbose=true` prints it, too, because the decision repeats it.

    Raises:
        BudgetSpent: if the budget is spent before the part is finished; the journal keeps all bought answers.
        UserError: see the part's steps.
    """
    config, files = part_config(context.config, name), context.files.part(name)
    files.path.mkdir(parents=True, exist_ok=True)
    write_config(files.path, config)
    context.say(f"{name}:")
    course = ALL[name].evaluation.course
    running = [""]

    def say(line: str) -> None:
        if config.verbose or running[-1] != course.steps[-1]:
            context.say(f"  {line}")

    records = run_steps(course, replace(context, config=config, files=files, say=say), running.append, by_name=False)
    metrics = records[course.steps[-1]]["metrics"]
    write_summary(files.path, FINISHED, metrics=metrics)
    return {"metrics": metrics}


def part_config(config: DictConfig, name: str) -> DictConfig:
    """Return the configuration of a part: the gate's, with the part's own section `evaluation`."""
    part = ALL[name]
    copy = OmegaConf.create(OmegaConf.to_container(config))
    assert isinstance(copy, DictConfig)
    evaluation = part.evaluation
    with open_dict(copy):
        copy.pop("gate")
        for section in ("judge", "personas"):
            if section not in evaluation.sections:
                copy.pop(section, None)
        if not part.reads_data:
            for key, value in DATA_KEYS.items():
                OmegaConf.update(copy, key, value)
        own = evaluation(**part.options)
        copy.evaluation = {
            "_target_": f"{evaluation.__module__}.{evaluation.__name__}",
            **{attribute.name: getattr(own, attribute.name) for attribute in fields(own)},
        }
        copy.run_dir, copy.steps = str(EvaluationDir(Path(config.run_dir)).part(name).path), None
    return copy


def forget_failures(files: EvaluationDir, names: list[str]) -> None:
    """Make the first step with failed calls, and all later steps, due again in each of these parts.

    Otherwise the answers would stay missing, and a gate with missing answers never passes.
    """
    for name in names:
        part, steps = files.part(name), ALL[name].evaluation.course.steps
        figures = [read_mapping(part.step(step)).get("figures") for step in steps]
        first = next((number for number, of_step in enumerate(figures) if failed_calls(of_step)), None)
        if first is not None:
            for record in (files.step(name), *(part.step(step) for step in reversed(steps[first:]))):
                record.unlink(missing_ok=True)


# Key `gate.from`: finished evaluations that replace parts; all must have the same model, base and judge.

_WEIGHTS = "contestants.local_weights."  # prefix of the hashes of local models in a step's record


def check_taken(config: DictConfig) -> None:
    """Check that the directories of `gate.from` fit each other and the parts that the gate runs itself.

    Raises:
        UserError: if a directory does not fit; the error names it and the remedy.
    """
    parts: dict[str, DictConfig] = {}
    for path in map(Path, config.gate["from"]):
        part = _part_of(path)
        name = part.evaluation.name
        if name in parts:
            raise UserError(f"gate.from: two directories hold evaluation={name}; name only one")
        if name not in config.gate.parts:
            raise UserError(f"gate.from: {path} holds {name}, which gate.parts leaves out; add it there")
        parts[name] = part
    for part_config in parts.values():
        check_sides(part_config, f"gate.from: {part_config.run_dir}")
    if parts:
        _check_alike(parts | {name: config for name in config.gate.parts if name not in parts}, {*parts})


def check_sides(config: DictConfig, where: str) -> None:
    """Check that the contestants are a model and one base, with one length limit.

    Raises:
        UserError: otherwise; the error begins with `where`.
    """
    sides = [*dict.fromkeys(config.contestants.settings)]
    if len(sides) != 2:
        named = "none is known" if len(sides) < 2 else "several are named"
        raise UserError(f"{where}: a gate compares with one base, and {named}; give against=BASE")
    if len(config.replies.length_limits) > 1:
        raise UserError(f"{where}: a gate decides at one length limit; set replies.length_limits to one value")


def _part_of(path: Path) -> DictConfig:
    if not has_config(path):
        raise UserError(
            f"gate.from: {path}: is not the directory of an evaluation (it has no {EvaluationDir(path).config.name})"
        )
    require_agreement(path)
    config = read_config(path)
    name = OmegaConf.select(config, "evaluation.name")
    if name not in ALL:
        raise UserError(f"gate.from: {path}: holds evaluation={name}; parts of a gate are {', '.join(ALL)}")
    if not is_finished(path):
        raise UserError(f"gate.from: {path}: is not finished; run its command again, then this one")
    return config


def _check_alike(parts: Mapping[str, DictConfig], taken: set[str]) -> None:
    """Refuse parts that differ in a fact that both have. For parts in `taken`, the facts include hashes of weights."""
    known: dict[str, tuple[str, Any]] = {}
    for name, config in parts.items():
        facts = _facts(name, config)
        if name in taken:
            facts |= {f"the weights of {model}": content for model, content in recorded_weights(config).items()}
        for what, value in facts.items():
            whose, other = known.setdefault(what, (name, value))
            if other != value:
                raise UserError(
                    f"gate.from: {what} of {name}: not the same as in {whose}; all parts must have the same model, base, judge "
                    "and replies.* keys"
                )


def _facts(name: str, config: DictConfig) -> dict[str, Any]:
    """Return the facts that must be equal in all parts."""
    facts: dict[str, Any] = {}
    settings = config.contestants.settings
    for number, model in enumerate(build(config, "contestants").models()):
        side = "the model" if settings[number] == settings[0] else "the base"
        facts[f"{side} ({model.name})" if settings.count(settings[number]) > 1 else side] = model.digest
    facts["replies"] = OmegaConf.to_container(config.replies)
    if not ALL[name].reads_data:
        facts["the judge"] = sorted(judge.digest for judge in build(config, "judge").models())
    return facts


def recorded_weights(config: DictConfig) -> dict[str, Any]:
    """Return the hashes of local models that the steps of a finished part recorded, by the model's name."""
    hashes: dict[str, Any] = {}
    for file in EvaluationDir(Path(config.run_dir)).steps.glob("*.json"):
        settings = read_mapping(file).get("settings", {})
        hashes |= {key.removeprefix(_WEIGHTS): settings[key] for key in settings if key.startswith(_WEIGHTS)}
    return hashes


def taken_marks(config: DictConfig) -> dict[str, str]:
    """Return a hash of the step records of each directory in `gate.from`; a changed result makes the decision due again."""
    marks = {}
    for path in config.gate["from"]:
        records = sorted(EvaluationDir(Path(path)).steps.glob("*.json"))
        marks[str(path)] = hashlib.sha256(b"\0".join(file.read_bytes() for file in records)).hexdigest()
    return marks
