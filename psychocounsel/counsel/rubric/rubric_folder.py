"""Loads a rubric from a folder of YAML files: a shipped language or a user's own folder."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from psychocounsel.counsel import principles
from psychocounsel.counsel.principles import ACTIONS, PRINCIPLES, RISK_KINDS
from psychocounsel.counsel.rubric.parts import Guide, Principle, Stages
from psychocounsel.counsel.rubric.safety_parts import SIGNS, Risk, SafetyQuestions
from psychocounsel.counsel.rubric.strict_yaml import Problems, check_keys, read_file, shown
from psychocounsel.errors import UserError

SHIPPED = Path(principles.__file__).parent  # one folder per language

_SHARED = {"guide": Guide, "risk": Risk, "stages": Stages, "safety_questions": SafetyQuestions}
FILES = tuple(f"{name}.yaml" for name in (*_SHARED, *PRINCIPLES))

_LISTED = 20  # problems listed in a message


@dataclass(frozen=True)
class Rubric:
    """A complete rubric in one language. Each field except `principles` comes from one file."""

    guide: Guide
    risk: Risk
    stages: Stages
    safety_questions: SafetyQuestions
    principles: dict[str, Principle]  # in the order of PRINCIPLES


def load_rubric(source: str | Path = "en") -> Rubric:
    """Return the rubric of a shipped language (`en`), or of the folder at this path.

    Raises:
        UserError: in one line, if the folder does not exist or its files are incomplete or wrong.
    """
    folder = rubric_folder(source)
    problems: Problems = []
    check_keys((file.name for file in _yaml_files(folder)), FILES, "folder", problems, needed=())
    shared = {name: read_file(kind, folder / f"{name}.yaml", problems) for name, kind in _SHARED.items()}
    found = {name: read_file(Principle, folder / f"{name}.yaml", problems) for name in PRINCIPLES}
    for name, principle in found.items():
        if principle is not None:
            problems += _disagreements(name, principle)
    risk, stages, questions = shared["risk"], shared["stages"], shared["safety_questions"]
    problems += _out_of_order(risk) if risk else []
    problems += _wrong_stage_cases(stages) if stages else []
    problems += _wrong_safety_cases(questions, risk) if risk and questions else []
    if problems:
        more = f"; and {len(problems) - _LISTED} more" if len(problems) > _LISTED else ""
        raise UserError(
            f"rubric {folder}: {'; '.join(problems[:_LISTED])}{more}; {SHIPPED / 'en'} shows a complete rubric"
        )
    return Rubric(principles=found, **shared)


def rubric_folder(source: str | Path) -> Path:
    """Return the folder of a shipped language, or otherwise the path itself.

    Raises:
        UserError: if `source` is neither.
    """
    languages = sorted(file.name for file in SHIPPED.iterdir() if (file / "guide.yaml").is_file())
    if source in languages:
        return SHIPPED / source
    if not Path(source).is_dir():
        raise UserError(
            f"rubric {source}: is neither a shipped language ({', '.join(languages)}) nor a folder; give the path of a folder "
            "that holds " + ", ".join(FILES)
        )
    return Path(source)


def _yaml_files(folder: Path) -> Iterator[Path]:
    return (file for file in sorted(folder.iterdir()) if file.suffix in (".yaml", ".yml"))


def _disagreements(name: str, principle: Principle) -> Iterator[str]:
    """Yield the contradictions inside one principle's file."""
    file, used = f"{name}.yaml", set()
    if principle.name != name:
        yield f"{file}: name must be {name}, like the file's name"
    for rating, level in principle.levels.items():
        if len({example.sketch for example in level.examples}) < len(level.examples):
            yield f"{file}: levels.{rating}: two examples have the same sketch"
        for place, example in enumerate(level.examples, 1):
            where = f"{file}: levels.{rating}: examples[{place}]"
            used.add(example.speech)
            if example.speech not in principle.speeches:
                yield f"{where}: speech must be a key of speeches ({', '.join(map(shown, principle.speeches))})"
            yield from _wrong_ratings(where, name, rating, example.ratings)
    yield from (f"{file}: speeches.{shown(key)} has no example" for key in principle.speeches if key not in used)


def _wrong_ratings(where: str, name: str, rating: int, ratings: dict[str, int]) -> Iterator[str]:
    problems: Problems = []
    check_keys(ratings, PRINCIPLES, f"{where}: ratings", problems, needed=[name])
    yield from problems
    if ratings.get(name, rating) != rating:
        yield f"{where}: ratings.{name} is {ratings[name]}, but the example stands under {rating}"


def _out_of_order(risk: Risk) -> Iterator[str]:
    """Yield expected actions that become less urgent although the risk is more recent or more plainly dangerous."""
    for kind in RISK_KINDS:
        rows = risk.kinds[kind].expected_action
        urgency = {sign: {time: ACTIONS.index(rows[sign][time]) for time in rows[sign]} for sign in SIGNS}
        where = f"risk.yaml: kinds.{kind}: expected_action"
        for sign, row in urgency.items():
            if not row["now"] >= row["recent"] >= row["past"] or not row["now"] >= row["unclear"] >= row["past"]:
                yield f"{where}.{sign}: must not rise from now over recent or unclear to past"
        for lesser, greater in pairwise(("hinted", "stated", "planned")):
            if any(urgency[lesser][time] > urgency[greater][time] for time in urgency[lesser]):
                yield f"{where}: {greater} must be at least as urgent as {lesser}"


def _wrong_stage_cases(stages: Stages) -> Iterator[str]:
    for place, case in enumerate(stages.cases, 1):
        if not _quoted(case.words, case.speech):
            yield f"stages.yaml: cases[{place}]: words must occur in the speech"


def _wrong_safety_cases(questions: SafetyQuestions, risk: Risk) -> Iterator[str]:
    """Yield cases that contradict the table of actions, the speech or the limits of the questions."""
    for place, case in enumerate(questions.cases, 1):
        where = f"safety_questions.yaml: cases[{place}]"
        if not all(_quoted(each.words, case.speech) for each in case.risks):
            yield f"{where}: words of each risk must occur in the speech"
        if (action := risk.most_urgent(case.risks)) != case.expected_action:
            yield f"{where}: expected_action must be {action}, as risk.yaml gives for these risks"
        highest = questions.highest_safety(case.answers, risk.disclosed_dangers(case.risks))
        if case.safety > highest:
            yield f"{where}: safety is {case.safety}, but these answers limit it to {highest}"


def _quoted(words: str, speech: str) -> bool:
    return " ".join(words.split()) in " ".join(speech.split())
