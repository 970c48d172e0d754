"""Bought answers with odd counts, names, charsets and forms: each is kept, charged and found again."""

import json
import math
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from psychocounsel.asking.answers import Answers, answer_key
from psychocounsel.asking.budget import Budget
from psychocounsel.asking.language_model import Answer
from psychocounsel.errors import UserError
from psychocounsel.remote.journal import Journal
from tests.support.answering import Reply, no_proxy, serving
from tests.support.asking import asked, chat, question
from tests.support.streaming import streaming

__all__ = ["no_proxy"]

KEY = "xy-proj-0123456789abcdef0123"
ODD: dict[str, dict[str, Any]] = {
    "a huge count": {"usage": {"prompt_tokens": 10**400, "completion_tokens": 2**63}},
    "an infinite count": {"usage": {"prompt_tokens": math.inf, "completion_tokens": math.nan}},
    "a negative count": {"usage": {"prompt_tokens": -1, "completion_tokens": -(10**30)}},
    "counts of other types": {"usage": {"prompt_tokens": "many", "completion_tokens": True}},
    "a list of counts": {"usage": [1, 2]},
    "counts as text": {"usage": "1"},
    "half a character as model": {"model": "served \ud83d"},
    "a number as model": {"model": 4.1},
    "a list as model": {"model": ["a"]},
    "text in parts": {
        "choices": [
            {"message": {"content": [{"type": "thinking", "thinking": []}, {"type": "text", "text": "I hear you."}]}}
        ]
    },
    "a reason of another type": {"choices": [{"message": {"content": "I hear you."}, "finish_reason": {"a": 1}}]},
}
CHARSETS = ("hex", "base64", "no-such-charset", "punycode", "idna", "utf-7", "latin-1", "undefined", "utf-16")


def _completion(more: dict[str, Any]) -> dict[str, Any]:
    message = {"role": "assistant", "content": "I hear you."}
    usage = {"prompt_tokens": 50, "completion_tokens": 10}
    return {"choices": [{"message": message}], "model": "served", "usage": usage} | more


def _bought_once(reply: Reply, folder: Path) -> Answer:
    budget = Budget()
    with serving(lambda payload, number: reply) as server:
        model = chat(server.address, input_price=1.0, output_price=1.0, third_party=False)
        found = asked(model, [question(1)], folder, budget)
        sent = len(server.asked)
        assert asked(model, [question(1)], folder) == found and len(server.asked) == sent, "it comes from the journal"
    (outcome,) = found.values()
    assert outcome.outcome == "text" and 0 < budget.spent < 0.001
    return outcome.answer


@pytest.mark.parametrize("more", ODD.values(), ids=ODD)
def test_an_odd_answer_is_kept_and_charged_by_what_can_be_true(more: dict[str, Any], tmp_path: Path) -> None:
    answer = _bought_once(Reply(body=json.dumps(_completion(more)).encode()), tmp_path)
    assert answer.text == "I hear you."
    pa.array([answer.prompt_tokens, answer.completion_tokens], pa.int64())
    pa.array([answer.model], pa.string())


@pytest.mark.parametrize("charset", CHARSETS)
def test_the_name_of_a_charset_loses_no_answer(charset: str, tmp_path: Path) -> None:
    body = json.dumps(_completion({"model": "größer"}), ensure_ascii=False).encode()
    answer = _bought_once(Reply(body=body, Content_Type=f"application/json; charset={charset}"), tmp_path)
    assert answer.model == "größer"


@pytest.mark.parametrize(("charset", "model"), [("latin-1", "größer"), ("no-such", "gr\ufffd\ufffder")])
def test_bytes_that_are_no_utf_8_lose_no_answer(charset: str, model: str, tmp_path: Path) -> None:
    body = json.dumps(_completion({"model": "größer"}), ensure_ascii=False).encode("latin-1")
    answer = _bought_once(Reply(body=body, Content_Type=f"application/json; charset={charset}"), tmp_path)
    assert answer.model == model


@pytest.mark.parametrize(
    "kept", [{"outcome": "text", "text": "5", "prompt_tokens": 10**30, "model": "\ud83d"}, {"outcome": "text"}]
)
def test_a_journal_with_odd_answers_of_an_earlier_version_is_read(kept: dict[str, Any], tmp_path: Path) -> None:
    model, ask = chat("http://127.0.0.1:9"), question(1)
    Journal(tmp_path).add(answer_key(model, ask, 0), kept)
    answer = Answers(tmp_path).find(model, ask, 0)
    assert answer is not None and answer.prompt_tokens is None and answer.model in (None, "\ufffd")


@pytest.mark.parametrize("kept", ["text", {}, {"outcome": "text", "other": 1}, [1]])
def test_a_line_of_another_form_is_named(kept: Any, tmp_path: Path) -> None:
    model, ask = chat("http://127.0.0.1:9"), question(1)
    Journal(tmp_path).add(answer_key(model, ask, 0), kept)
    with pytest.raises(UserError, match="has another form: remove its line, and it is asked again"):
        Answers(tmp_path).find(model, ask, 0)


def test_a_key_in_pieces_is_not_shown_while_it_streams(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", KEY)
    text, shown = f"Your key is {KEY}, s", list[str]()
    with streaming(lambda payload: list(text)) as server:
        answerer = chat(server.address, key_variable="MY_KEY").open("model")
        answer = answerer.stream(question(1), 0, lambda now: not shown.append(now))
        answerer.close()
    assert answer.text == "Your key is [key], s"
    assert not any(KEY[:2] in state for state in shown) and len({*shown}) > 10
