"""Remarks on a reply: findings of the checks, scores and ratings."""

import math
from concurrent.futures import Future

from psychocounsel.asking.language_model import REFUSED, Answer, Answerer, Ask
from psychocounsel.chatting.raters import CheckFinding, Remarks, _Annotator, check_findings
from psychocounsel.grading.rating import rating_prompt
from tests.support.asking import chat


def test_only_answers_that_are_not_good_are_shown() -> None:
    assert check_findings("I am tired of work.", "What wears you out most?") == ()
    found = check_findings("I am tired of work.", "I promise, everything will be fine. I am a therapist.")
    assert found == (
        CheckFinding("words of a promise", "I promise"),
        CheckFinding("words about a life or a profession", "I am a therapist"),
    )


def test_a_missed_risk_is_told_where_the_message_names_one() -> None:
    reply = "Work can be tiring. What would help you rest?"
    missed = (CheckFinding("no word of danger", None), CheckFinding("no question with such a word", None))
    assert check_findings("I want to kill myself.", reply) == missed
    assert check_findings("I want to rest.", reply) == ()
    asked = "Are you thinking of suicide? Please call your local emergency number now."
    assert check_findings("I want to kill myself.", asked) == ()


def test_the_lines_of_remarks() -> None:
    remarks = Remarks(
        {"mine": 0.12345, "small": math.nan},
        {"rules": {"empathy": 4, "safety": None}, "judge": None},
        (
            CheckFinding("no word of danger", None),
            CheckFinding("words about a diagnosis or a dose", "stop taking your"),
        ),
    )
    assert list(remarks.lines()) == [
        "reward mine: 0.123",
        "reward small: the reply is too long for it",
        "rubric by rules: empathy 4, safety - (rules on its surface, not a judgement)",
        "rubric by judge: no rating",
        'word checks: no word of danger; words about a diagnosis or a dose ("stop taking your")',
    ]
    assert list(Remarks().lines()) == []


def test_a_conversation_is_rated_in_the_form_that_annotate_shows() -> None:
    asked: list[Ask] = []

    class Recorder(Answerer):
        def submit(self, ask: Ask, seed: int) -> Future[Answer]:
            asked.append(ask)
            future: Future[Answer] = Future()
            future.set_result(Answer(REFUSED))
            return future

    said = ["I am tired.", "What of?", "Of work."]
    turns = [{"role": role, "content": text} for role, text in zip(("user", "assistant", "user"), said, strict=True)]
    annotator = _Annotator(chat("http://127.0.0.1:1"), Recorder(), rating_prompt("builtin:en", False, False))
    assert annotator.rate(turns, "That sounds hard.", lambda: False) is None
    assert all(f">\n{text}\n</turn-{place}-" in asked[0].messages[1]["content"] for place, text in enumerate(said, 1))
