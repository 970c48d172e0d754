"""Renders a rubric as text. Models and human raters read the same words."""

import textwrap
from collections.abc import Iterable, Iterator, Sequence

from psychocounsel.counsel.principles import PRINCIPLES
from psychocounsel.counsel.rubric import (
    Guide,
    Principle,
    Risk,
    RiskKind,
    RiskSign,
    Rubric,
    SafetyCase,
    SafetyQuestions,
    Stages,
)

PARTS = ("guide", "risk", "stages", "safety_questions", *PRINCIPLES)  # in the order in which a rater needs them

Block = tuple[str, str]  # style ("title", "heading", "text", "item" or "step") and words
Words = dict[str, str]  # the rubric's own headings, in its language

_WIDTH = 96  # characters per line of plain text


def parts_for(principles: Iterable[str]) -> tuple[str, ...]:
    """Return the parts of the rubric that raters of these principles need.

    Staging needs the stages; safety needs the risks and the safety questions.

    Raises:
        ValueError: if a name is not in PRINCIPLES.
    """
    wanted = set(principles)
    if unknown := sorted(wanted - set(PRINCIPLES)):
        raise ValueError(f"{unknown[0]} is not a principle; they are {', '.join(PRINCIPLES)}")
    wanted |= {"guide"} | ({"stages"} if "staging" in wanted else set())
    wanted |= {"risk", "safety_questions"} if "safety" in wanted else set()
    return tuple(part for part in PARTS if part in wanted)


def prompt_text(rubric: Rubric, parts: Sequence[str] = PARTS, examples: bool = True) -> str:
    """Return the parts as Markdown for an annotator. The caller must add the task and the form of the answer.

    `examples=False` omits rated replies and cases (two fifths of the whole text). Literature is always omitted.

    Raises:
        ValueError: if a name is not in PARTS.
    """
    marks = {"title": "# ", "heading": "## ", "text": "", "item": "- ", "step": ""}
    lines: list[str] = []
    before = ""
    for style, text in _blocks(rubric, parts, examples, for_people=False):
        if lines and not (style == before and style in ("item", "step")):
            lines.append("")
        lines.append(marks[style] + text)
        before = style
    return "\n".join(lines) + "\n"


def plain_text(rubric: Rubric, parts: Sequence[str] = PARTS) -> str:
    """Return the parts as plain text for people: lines of at most 96 characters, with origins and literature.

    Raises:
        ValueError: if a name is not in PARTS.
    """
    lines: list[str] = []
    for style, text in _blocks(rubric, parts, examples=True, for_people=True):
        if lines and style not in ("item", "step"):
            lines.append("")
        if style in ("title", "heading"):
            lines += [text, ("=" if style == "title" else "-") * min(len(text), _WIDTH)]
        else:
            first, others = {"item": ("  - ", "    "), "step": ("  ", "     ")}.get(style, ("", ""))
            lines += [
                line
                for place, paragraph in enumerate(text.splitlines())
                for line in textwrap.wrap(
                    paragraph, _WIDTH, initial_indent=others if place else first, subsequent_indent=others
                )
            ]
    return "\n".join(lines) + "\n"


def _blocks(rubric: Rubric, parts: Sequence[str], examples: bool, for_people: bool) -> Iterator[Block]:
    if unknown := [part for part in parts if part not in PARTS]:
        raise ValueError(f"{unknown[0]} is not a part of a rubric; they are {', '.join(PARTS)}")
    words = rubric.guide.headings
    for name in parts:
        part = rubric.principles[name] if name in PRINCIPLES else getattr(rubric, name)
        match part:
            case Guide():
                yield from _guide(part, words)
            case Risk():
                yield from _risk(part, words)
            case Stages():
                yield from _stages(part, words, examples)
            case SafetyQuestions():
                yield from _questions(part, words, examples)
            case Principle():
                yield from _principle(part, words, examples)
        if for_people:
            yield "heading", words["literature"]
            yield from (("item", f"{work.cite} {work.use}") for work in part.literature)
            yield "text", part.origin


def _guide(guide: Guide, words: Words) -> Iterator[Block]:
    yield "title", guide.title
    yield "text", guide.review
    yield from _steps(guide.steps)
    yield "heading", words["imminent_risk"]
    yield "text", guide.imminent_risk
    yield "heading", words["biases"]
    yield from _items(guide.biases)


def _risk(risk: Risk, words: Words) -> Iterator[Block]:
    yield "title", words["risk"]
    yield "text", risk.about
    yield from _steps(risk.steps)
    yield "heading", words["expected_action"]
    yield from _items(f"{name}: {action.title}. {action.definition}" for name, action in risk.actions.items())
    for name, kind in risk.kinds.items():
        yield from _risk_kind(name, kind, words)
    for part, values in (("disclosures", risk.disclosures), ("recencies", risk.recencies)):
        yield "heading", words[part]
        yield from _items(_risk_sign(name, value, words) for name, value in values.items())


def _risk_kind(name: str, kind: RiskKind, words: Words) -> Iterator[Block]:
    yield "heading", f"{name}: {kind.title} ({words[kind.role]})"
    yield "text", kind.definition
    yield "item", _phrased(kind.phrasings, words)
    yield "item", f"{words['good_reply']}: {kind.good_reply}"
    rows = (
        f"{sign} ({', '.join(f'{time} {row[time]}' for time in row)})" for sign, row in kind.expected_action.items()
    )
    yield "item", f"{words['expected_action']}: {'; '.join(rows)}"


def _risk_sign(name: str, value: RiskSign, words: Words) -> str:
    phrasings = _phrased(value.phrasings, words)
    return f"{name}: {value.title}. {value.definition} {phrasings} {words['good_reply']}: {value.good_reply}"


def _stages(stages: Stages, words: Words, examples: bool) -> Iterator[Block]:
    yield "title", words["stages"]
    yield "text", stages.about
    yield from _steps(stages.steps)
    for name, stage in stages.stages.items():
        yield "heading", f"{name}: {stage.title}"
        yield "text", stage.definition
        yield "item", _phrased(stage.phrasings, words)
        yield from _labelled(stage, ("good_reply", "misfit"), words)
    if examples:
        yield "heading", words["cases"]
        for case in stages.cases:
            lines = [f"{words['client']}: {case.speech}", f"{words['change']}: {case.change}"]
            lines += [f'{words["stage"]}: {case.stage}. {words["words"]}: "{case.words}"']
            yield "text", "\n".join([*lines, f"{words['reason']}: {case.reason}"])


def _questions(part: SafetyQuestions, words: Words, examples: bool) -> Iterator[Block]:
    yield "title", words["safety_questions"]
    yield "text", part.about
    for name, question in part.questions.items():
        yield "heading", f"{name}: {question.question}"
        limit = f"{words['at_most']} {question.at_most}"
        if name == "recognises":
            limit += f" ({', '.join(f'{sign} {most}' for sign, most in part.unrecognised_at_most.items())})"
        yield "item", f"{words['good_answer']}: {question.good_answer}; {words['rating']} safety {limit}"
        yield from _labelled(question, ("counts_as_yes", "counts_as_no", "not_applicable", "evidence"), words)
    if examples:
        yield "heading", words["cases"]
        yield from (("text", _safety_case(case, words)) for case in part.cases)


def _safety_case(case: SafetyCase, words: Words) -> str:
    risks = (f'{finding.kind}, {finding.disclosure}, {finding.recency} ("{finding.words}")' for finding in case.risks)
    answers = ", ".join(f"{name} {answer}" for name, answer in case.answers.items())
    lines = [f"{words['client']}: {case.speech}", f"{words['risk']}: {'; '.join(risks) or '-'}"]
    lines += [f"{words['expected_action']}: {case.expected_action}", f"{words['reply']}: {case.reply}"]
    lines += [f"{words['answers']}: {answers}", f"{words['rating']}: safety {case.safety}"]
    return "\n".join([*lines, f"{words['reason']}: {case.reason}"])


def _principle(part: Principle, words: Words, examples: bool) -> Iterator[Block]:
    yield "title", f"{part.name}: {part.title}"
    yield "text", f"{words['definition']}: {part.definition}"
    yield "heading", words["look_for"]
    yield from _items(part.look_for)
    yield "heading", words["elsewhere"]
    yield from _items(part.elsewhere)
    yield "heading", words["rating"]
    yield from _items(f"{rating}: {level.rule}" for rating, level in part.levels.items())
    yield "heading", words["caps"]
    yield from _items(f"{cap.when} {words['at_most']} {cap.at_most}: {cap.because}" for cap in part.caps)
    yield "heading", words["ties"]
    yield from _items(part.ties)
    yield "text", f"{words['not_applicable']}: {part.not_applicable}"
    yield "text", f"{words['imminent_risk']}: {part.imminent_risk}"
    if examples:
        yield "heading", words["examples"]
        for level in part.levels.values():
            for example in level.examples:
                ratings = ", ".join(f"{name} {rating}" for name, rating in example.ratings.items())
                lines = [f"{words['example']}: {example.sketch}", f"{words['client']}: {part.speeches[example.speech]}"]
                lines += [f"{words['reply']}: {example.reply}", f"{words['rating']}: {ratings}"]
                yield "text", "\n".join([*lines, f"{words['reason']}: {example.reason}"])


def _labelled(part: object, names: Iterable[str], words: Words) -> Iterator[Block]:
    yield from (("item", f"{words[name]}: {getattr(part, name)}") for name in names)


def _phrased(phrasings: Iterable[str], words: Words) -> str:
    return f"{words['phrasings']}: " + " / ".join(f'"{phrasing}"' for phrasing in phrasings)


def _items(texts: Iterable[str]) -> Iterator[Block]:
    yield from (("item", text) for text in texts)


def _steps(texts: Iterable[str]) -> Iterator[Block]:
    yield from (("step", f"{number}. {text}") for number, text in enumerate(texts, 1))
