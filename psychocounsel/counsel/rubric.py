"""The rubric: dataclasses whose fields are the keys of its YAML files, and `load_rubric`, which reads a folder of them.

The folder is a shipped language or the user's own. Annotations set limits: the `keys` of a mapping (all of them
required, no others allowed), the `choices` of a value, and the minimum length of a list (`at_least`, default 1).
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Annotated

from psychocounsel.counsel import principles
from psychocounsel.counsel.principles import (
    ACTIONS,
    ANSWERS,
    DISCLOSURES,
    PRINCIPLES,
    RATINGS,
    RECENCIES,
    RISK_KINDS,
    SAFETY_QUESTIONS,
    STAGES,
)
from psychocounsel.counsel.strict_yaml import Problems, check_keys, read_file, shown
from psychocounsel.errors import UserError

# Principles, stages and rating

HEADINGS: tuple[str, ...] = ("answers", "at_most", "biases", "caps", "cases", "change", "circumstance", "client")
HEADINGS += ("counts_as_no", "counts_as_yes", "danger", "definition", "disclosures", "elsewhere", "evidence", "example")
HEADINGS += ("examples", "expected_action", "good_answer", "good_reply", "imminent_risk", "literature", "look_for")
HEADINGS += ("misfit", "not_applicable", "phrasings", "rating", "reason", "recencies", "reply", "risk")
HEADINGS += ("safety_questions", "stage", "stages", "ties", "words")

Rating = Annotated[int, {"choices": RATINGS}]
Limit = Annotated[int, {"choices": RATINGS[:-1]}]  # a maximum rating


@dataclass(frozen=True)
class Citation:
    cite: str
    use: str  # what the file uses from the work


@dataclass(frozen=True)
class RatedExample:
    """A rated reply to one of the file's speeches.

    `ratings` holds the rating of the level that lists the example, and may hold ratings on other principles.
    """

    sketch: str  # its point in a few words, such as "short and excellent"
    speech: str  # a key of the file's `speeches`
    reply: str
    ratings: dict[str, Rating]
    reason: str


@dataclass(frozen=True)
class Level:
    """A rating: the rule for giving it, precise enough for two raters to agree, and examples."""

    rule: str
    examples: Annotated[tuple[RatedExample, ...], {"at_least": 2}]


@dataclass(frozen=True)
class Cap:
    """A finding that limits the rating, whatever the rest of the reply is like."""

    when: str
    at_most: Limit
    because: str


@dataclass(frozen=True)
class Principle:
    name: str
    title: str
    origin: str
    definition: str
    look_for: tuple[str, ...]
    elsewhere: tuple[str, ...]  # aspects that other principles rate
    levels: Annotated[dict[int, Level], {"keys": RATINGS}]
    caps: tuple[Cap, ...]
    ties: tuple[str, ...]
    not_applicable: str
    imminent_risk: str  # how to rate if the expected action is an emergency
    speeches: dict[str, str]
    literature: tuple[Citation, ...]


@dataclass(frozen=True)
class Stage:
    title: str
    definition: str
    phrasings: tuple[str, ...]
    good_reply: str
    misfit: str


@dataclass(frozen=True)
class StageCase:
    """A speech whose stage is easy to misjudge."""

    speech: str
    change: str
    stage: Annotated[str, {"choices": STAGES}]
    words: str  # the decisive words of the speech
    reason: str


@dataclass(frozen=True)
class Stages:
    origin: str
    about: str
    steps: tuple[str, ...]  # how a rater infers the stage, in order
    stages: Annotated[dict[str, Stage], {"keys": STAGES}]
    cases: tuple[StageCase, ...]
    literature: tuple[Citation, ...]


@dataclass(frozen=True)
class Guide:
    origin: str
    language: str  # BCP 47 code: en, de, pt-BR
    title: str
    review: str  # who has reviewed the rubric
    steps: tuple[str, ...]
    imminent_risk: str
    biases: tuple[str, ...]  # things that must not influence a rating
    headings: Annotated[dict[str, str], {"keys": HEADINGS}]
    literature: tuple[Citation, ...]


# Risk and safety

SIGNS = DISCLOSURES[1:]  # all except "none": without a sign of risk, no action is expected

ActionsByTime = Annotated[dict[str, Annotated[str, {"choices": ACTIONS}]], {"keys": RECENCIES}]


@dataclass(frozen=True)
class RiskAction:
    title: str
    definition: str


@dataclass(frozen=True)
class RiskKind:
    title: str
    # A circumstance is no danger by itself, but changes the action that a danger requires.
    role: Annotated[str, {"choices": ("danger", "circumstance")}]
    definition: str
    phrasings: tuple[str, ...]
    good_reply: str
    expected_action: Annotated[dict[str, ActionsByTime], {"keys": SIGNS}]


@dataclass(frozen=True)
class RiskSign:
    """A value of disclosure or recency."""

    title: str
    definition: str
    phrasings: tuple[str, ...]
    good_reply: str


@dataclass(frozen=True)
class RiskFinding:
    """A rater's notes on one risk in a speech."""

    kind: Annotated[str, {"choices": RISK_KINDS}]
    disclosure: Annotated[str, {"choices": SIGNS}]
    recency: Annotated[str, {"choices": RECENCIES}]
    words: str  # quoted from the speech


@dataclass(frozen=True)
class Risk:
    origin: str
    about: str
    steps: tuple[str, ...]
    actions: Annotated[dict[str, RiskAction], {"keys": ACTIONS}]
    kinds: Annotated[dict[str, RiskKind], {"keys": RISK_KINDS}]
    disclosures: Annotated[dict[str, RiskSign], {"keys": DISCLOSURES}]
    recencies: Annotated[dict[str, RiskSign], {"keys": RECENCIES}]
    literature: tuple[Citation, ...]

    def expected_action(self, kind: str, disclosure: str, recency: str) -> str:
        """Return the expected action of a reply to a client with this single risk: one of ACTIONS.

        Raises:
            KeyError: if a name is not in RISK_KINDS, DISCLOSURES or RECENCIES.
        """
        if recency not in self.recencies:
            raise KeyError(recency)
        return "none" if disclosure == "none" else self.kinds[kind].expected_action[disclosure][recency]

    def most_urgent(self, findings: Iterable[RiskFinding]) -> str:
        """Return the most urgent expected action for these risks, "none" if there are no risks."""
        actions = (self.expected_action(finding.kind, finding.disclosure, finding.recency) for finding in findings)
        return max(actions, key=ACTIONS.index, default="none")

    def disclosed_dangers(self, findings: Iterable[RiskFinding]) -> list[str]:
        """Return the disclosure of each of these risks that is a danger; circumstances are ignored."""
        return [finding.disclosure for finding in findings if self.kinds[finding.kind].role == "danger"]


@dataclass(frozen=True)
class SafetyQuestion:
    question: str
    good_answer: Annotated[str, {"choices": ("yes", "no")}]
    at_most: Limit  # maximum rating on safety if the answer is not the good one
    counts_as_yes: str
    counts_as_no: str
    not_applicable: str
    evidence: str  # what the rater must quote


@dataclass(frozen=True)
class SafetyCase:
    """A speech and a reply with all of a rater's notes about safety."""

    speech: str
    risks: Annotated[tuple[RiskFinding, ...], {"at_least": 0}]
    expected_action: Annotated[str, {"choices": ACTIONS}]
    reply: str
    answers: Annotated[dict[str, Annotated[str, {"choices": ANSWERS}]], {"keys": SAFETY_QUESTIONS}]
    safety: Rating
    reason: str


@dataclass(frozen=True)
class SafetyQuestions:
    origin: str
    about: str
    # Maximum rating on safety if a danger is not recognised, by the client's disclosure.
    unrecognised_at_most: Annotated[dict[str, Limit], {"keys": SIGNS}]
    questions: Annotated[dict[str, SafetyQuestion], {"keys": SAFETY_QUESTIONS}]
    cases: tuple[SafetyCase, ...]
    literature: tuple[Citation, ...]

    def highest_safety(self, answers: dict[str, str], disclosures: Iterable[str]) -> int:
        """Return the highest rating on safety that these answers ("yes", "no", "not_applicable") allow.

        `disclosures` are the disclosures of each danger in the speech (`Risk.disclosed_dangers`).

        Raises:
            KeyError: if a name is not in SAFETY_QUESTIONS or DISCLOSURES.
            ValueError: for any other answer.
        """
        by_disclosure = [self.unrecognised_at_most[disclosure] for disclosure in disclosures if disclosure != "none"]
        if wrong := [name for name, answer in answers.items() if answer not in ANSWERS]:
            raise ValueError(f"{wrong[0]}: an answer is one of {', '.join(ANSWERS)}")
        answered = {self.questions[name]: answer for name, answer in answers.items()}
        bad = [
            question.at_most
            for question, answer in answered.items()
            if answer not in (question.good_answer, "not_applicable")
        ]
        bad += by_disclosure if answers.get("recognises") == "no" else []
        return min(bad, default=RATINGS[-1])


# The folder

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


def load_rubric(source: str | Path = "builtin:en") -> Rubric:
    """Return the rubric of a shipped language (`builtin:en`), or of the folder at this path.

    Raises:
        UserError: in one line, if the folder does not exist or its files are incomplete or wrong.
    """
    folder = rubric_folder(source)
    problems: Problems = []
    files = sorted(file.name for file in folder.iterdir() if file.suffix in (".yaml", ".yml"))
    check_keys(files, FILES, "folder", problems, needed=())
    shared = {name: read_file(kind, folder / f"{name}.yaml", problems) for name, kind in _SHARED.items()}
    by_name = {name: read_file(Principle, folder / f"{name}.yaml", problems) for name in PRINCIPLES}
    for name, principle in by_name.items():
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
    return Rubric(principles=by_name, **shared)


def rubric_folder(source: str | Path) -> Path:
    """Return the folder of a shipped language, or otherwise the path itself.

    Raises:
        UserError: if `source` is neither.
    """
    shipped = {
        f"builtin:{folder.name}": folder for folder in sorted(SHIPPED.iterdir()) if (folder / "guide.yaml").is_file()
    }
    if source in shipped:
        return shipped[str(source)]
    if not Path(source).is_dir():
        if f"builtin:{source}" in shipped:
            raise UserError(f"rubric {source}: write builtin:{source}")
        raise UserError(
            f"rubric {source}: is neither a shipped language ({', '.join(shipped)}) nor a folder; give the path of a folder "
            "that holds " + ", ".join(FILES)
        )
    return Path(source)


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
        yield f"{where}: ratings.{name} is {ratings[name]}, but the example is listed under {rating}"


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
        if not all(_quoted(finding.words, case.speech) for finding in case.risks):
            yield f"{where}: words of each risk must occur in the speech"
        if (action := risk.most_urgent(case.risks)) != case.expected_action:
            yield f"{where}: expected_action must be {action}, as risk.yaml gives for these risks"
        highest = questions.highest_safety(case.answers, risk.disclosed_dangers(case.risks))
        if case.safety > highest:
            yield f"{where}: safety is {case.safety}, but these answers limit it to {highest}"


def _quoted(words: str, speech: str) -> bool:
    return " ".join(words.split()) in " ".join(speech.split())
