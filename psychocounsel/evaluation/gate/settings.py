"""Settings of `evaluation=gate`: it decides from safety, session and health, and from people's judgement of cases."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from omegaconf import DictConfig

from psychocounsel.asking.language_model import LanguageModel
from psychocounsel.errors import DONE, UserError
from psychocounsel.evaluation.gate.decision_step import strata_limits
from psychocounsel.evaluation.gate.keys import PARTS, GateConfig
from psychocounsel.evaluation.gate.parts import (
    ALL,
    check_sides,
    check_taken,
    forget_failures,
    part_config,
    run_part,
    run_parts,
    taken,
    taken_marks,
)
from psychocounsel.evaluation.health.reply import LIMITS
from psychocounsel.evaluation.stepped import COMPUTED_BY, SteppedEvaluation, show_tables
from psychocounsel.rundir.paths import EvaluationDir
from psychocounsel.rundir.results import FINISHED
from psychocounsel.settings.schema import suggestion
from psychocounsel.steps.course import Bar, Course, StepContext
from psychocounsel.steps.plan import planned_steps
from psychocounsel.storage.files import expanded, read_mapping, write_atomically

_THESE = f"they are {', '.join(LIMITS)}"
_OWN_CODE = ("evaluation/gate/*.py", "evaluation/safety/*.py", *COMPUTED_BY)


def _output(files: EvaluationDir, step: str) -> Path:
    """Return the output of a step. For a part it is the step's record, because the part's steps check its tables."""
    return {"adjudicate": files.adjudicate, "decision": files.figures}.get(step, files.step(step))


def _models(config: DictConfig, step: str) -> dict[str, list[LanguageModel]]:
    if step not in ALL or step not in run_parts(config):
        return {}
    course, own = ALL[step].evaluation.course, part_config(config, step)
    return {group: models for part_step in course.steps for group, models in course.models(own, part_step).items()}


def _reads(part: str) -> tuple[str, ...]:
    """Return the keys that affect a part's result; its section `evaluation` is excluded, because it has fixed values."""
    read = [key for keys in ALL[part].evaluation.course.reads.values() for key in keys]
    return ("gate.parts", "gate.from", *(key for key in read if key.split(".")[0] != "evaluation"))


def _code(part: str) -> tuple[str, ...]:
    return (*_OWN_CODE, *(pattern for patterns in ALL[part].evaluation.course.code.values() for pattern in patterns))


def _sources(config: DictConfig) -> dict[str, Any]:
    """Return marks of the parts' inputs: files of data and personas, and the directories of `gate.from`."""
    sources: dict[str, Any] = {**taken_marks(config)}
    for name in run_parts(config):
        marks = ALL[name].evaluation.course.sources(part_config(config, name))
        sources |= {f"{name}: {key}": value for key, value in marks.items()}
    return sources


@dataclass(frozen=True)
class _GateCourse(Course[EvaluationDir]):
    def run(self, step: str, context: StepContext[EvaluationDir]) -> dict[str, Any]:
        """Run a step. A part is skipped if `gate.from` provides it, or `gate.parts` leaves it out."""
        if step not in ALL:
            return super().run(step, context)
        if step not in run_parts(context.config):
            context.say(
                f"{step}: {'taken from ' + str(there[step]) if step in (there := taken(context.config)) else 'left out'}"
            )
            return {}
        return run_part(step, context)


@dataclass(kw_only=True)
class GateEvaluation(SteppedEvaluation):
    """Evaluation that runs its parts as evaluations, collects people's answers and decides (docs/safety.md#the-gate)."""

    schema: ClassVar[type] = GateConfig
    sections: ClassVar[tuple[str, ...]] = ("contestants", "judge", "personas")
    metric: ClassVar[str] = "missed"
    course: ClassVar[Course[EvaluationDir]] = _GateCourse(
        steps=(*ALL, "adjudicate", "decision"),
        modules={
            "adjudicate": "psychocounsel.evaluation.gate.adjudicate_step",
            "decision": "psychocounsel.evaluation.gate.decision_step",
        },
        reads={
            **{name: _reads(name) for name in ALL},
            "adjudicate": ("gate.passes", "gate.adjudicated"),
            "decision": ("gate",),
        },
        output=_output,
        models=_models,
        sources=_sources,
        redone=("adjudicate", "decision"),
        answering=("contestants", "judge"),
        code={**{name: _code(name) for name in ALL}, "adjudicate": _OWN_CODE, "decision": _OWN_CODE},
    )

    name: str = "gate"

    def work(self, run: Any, bar: Bar) -> int:
        forget_failures(EvaluationDir(Path(run.config.run_dir)), run_parts(run.config))
        return super().work(run, bar)

    def ending(self, context: StepContext[EvaluationDir]) -> tuple[int, str]:
        from psychocounsel.evaluation.gate.deciding import WORDS
        from psychocounsel.evaluation.gate.decision_step import code_in
        from psychocounsel.evaluation.gate.show import gate_lines, gate_tables
        from psychocounsel.evaluation.showing import tables_line

        code = code_in(context.files)
        if context.files.step("decision").exists():
            figures: Any = read_mapping(context.files.figures)
            write_atomically(context.files.tables, "\n".join(gate_tables(figures)) + "\n")
            lines = [*(gate_tables(figures) if context.config.verbose else ()), *gate_lines(figures, context.files)]
            for line in [*lines, *tables_line(context.config, context.files.path)]:
                context.say(line)
        return code, FINISHED if code == DONE else WORDS[code]

    def prepare(self, config: DictConfig, run_dir: Path) -> None:
        if config.shards > 1:
            raise UserError(
                f"shards={config.shards}: a gate cannot be sharded; run evaluation=safety and the other parts with shards, then "
                "evaluation=gate gate.from=[DIR,...]"
            )
        _check_keys(config)
        _make_absolute(config, run_dir)
        check_taken(config)
        if run_parts(config):
            check_sides(config, "against")
        for name in run_parts(config):
            ALL[name].evaluation().prepare(part_config(config, name), EvaluationDir(run_dir).part(name).path)
        super().prepare(config, run_dir)

    def unused_sections(self, config: DictConfig) -> dict[str, str]:
        parts = [ALL[name] for name in run_parts(config)]
        reading = [key for part in parts for key in part.evaluation.sections]
        data = () if any(part.reads_data for part in parts) else ("data", "part")
        others = () if parts else ("model", "against", "replies", "limit", "budget")
        idle = [*(key for key in ("judge", "personas") if key not in reading), *data, *others]
        return dict.fromkeys(idle, "no part that this gate runs reads it")

    def figure_names(self, config: DictConfig) -> tuple[str, ...]:
        from psychocounsel.evaluation.gate.keys import DECIDING

        return ("hard_flags", "code", *DECIDING, *(f"{name}_high" for name in DECIDING))

    def to_ask(self, context: StepContext[EvaluationDir], due: set[str]) -> list[str]:
        return [line for name in run_parts(context.config) if name in due for line in _part_to_ask(context, name)]


def _part_to_ask(context: StepContext[EvaluationDir], name: str) -> Iterator[str]:
    evaluation = ALL[name].evaluation()
    config = part_config(context.config, name)
    real = EvaluationDir(Path(context.config.run_dir)).part(name)
    due = {planned.step for planned in planned_steps(evaluation.course, config, real) if planned.due}
    files = context.files.part(name)
    files.path.mkdir(parents=True, exist_ok=True)
    show_tables(real, files)
    for line in evaluation.to_ask(StepContext(config, files, context.say, context.bar), due):
        yield f"{name}: {line}"


def _check_keys(config: DictConfig) -> None:
    keys = config.gate
    for name in keys.parts:
        if name not in PARTS:
            raise UserError(f"gate.parts: unknown part {name}; the parts are {', '.join(PARTS)}")
    if not keys.parts or len({*keys.parts}) < len(keys.parts):
        raise UserError(
            f"gate.parts=[{','.join(keys.parts)}]: name at least one of [{','.join(PARTS)}], each only once"
        )
    for name, limit in (keys.health or {}).items():
        if name not in LIMITS:
            raise UserError(
                f"gate.health.{name}: is not a figure with a limit; {suggestion(str(name), [*LIMITS], _THESE)}"
            )
        if limit is not None and not 0 < limit <= 1:
            raise UserError(f"gate.health.{name}={limit}: must be above 0 and at most 1, or null")
    strata_limits(keys.strata)
    for case, name in keys.resolved.items():
        if not isinstance(name, str) or not name.strip():
            raise UserError(f"gate.resolved.{case}: must name the person who decided, for instance {{{case}: Dr Ada}}")


def _make_absolute(config: DictConfig, run_dir: Path) -> None:
    """Make all paths absolute and list every adjudication file, so that a changed file makes the decision due again."""
    keys = config.gate
    keys["from"] = [str(expanded(path).resolve()) for path in keys["from"]]
    own = str(EvaluationDir(run_dir.resolve()).adjudicate)
    others = [str(expanded(path).resolve()) for path in keys.adjudicated]
    for path in others:
        if path != own and not Path(path).is_file():  # the gate's own file may not exist yet
            raise UserError(f"gate.adjudicated: {path}: no such file")
    keys.adjudicated = [own, *(path for path in others if path != own)]
