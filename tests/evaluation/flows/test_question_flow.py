"""Question flows: only answers on the path count, and impossible flows are refused."""

import pytest

from psychocounsel.evaluation.flows.question_flow import END, FlowQuestion, QuestionFlow


def question(name: str, **goto: str) -> FlowQuestion:
    return FlowQuestion(name, f"{name}?", ("yes", "no"), goto)


FLOW = QuestionFlow([question("a", no="c"), question("b"), question("c", yes=END), question("d")])


@pytest.mark.parametrize(
    ("said", "counted"), [("yyny", "abcd"), ("nyny", "acd"), ("nyyn", "ac"), ("yyyy", "abc"), ("nnnn", "acd")]
)
def test_only_answers_on_the_way_count(said: str, counted: str) -> None:
    answers = {name: {"y": "yes", "n": "no"}[word] for name, word in zip("abcd", said, strict=True)}
    assert FLOW.path(answers) == {name: answers[name] for name in counted}


def test_a_question_on_the_way_needs_an_answer() -> None:
    assert FLOW.path({"a": "no", "c": "yes"}) == {"a": "no", "c": "yes"}
    with pytest.raises(KeyError):
        FLOW.path({"a": "yes", "c": "yes"})


@pytest.mark.parametrize(
    ("questions", "message"),
    [
        ([question("a"), question("a")], "two questions have the same id"),
        ([question("a", maybe="b"), question("b")], "maybe is not one of its answers"),
        ([question("a"), question("b", yes="a")], "goes to a, which is not a later question"),
        ([question("a", yes="z")], "goes to z, which is not a later question"),
    ],
)
def test_a_flow_that_cannot_be_is_refused(questions: list[FlowQuestion], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        QuestionFlow(questions)
