"""`ask_all` against servers that fail in every way: each Ask gets one outcome, and each answer is bought once."""

import json
import os
import signal
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from psychocounsel.asking.answers import Answers
from psychocounsel.asking.asker import ask_all
from psychocounsel.asking.budget import Budget, BudgetSpent, Estimate
from psychocounsel.asking.in_process import Transformers
from psychocounsel.asking.language_model import Answer, LanguageModel
from psychocounsel.errors import UserError
from psychocounsel.remote import client
from psychocounsel.steps.running import stoppable
from tests.support.answering import Reply, dead_address, no_proxy, serving
from tests.support.asking import asked, chat, question
from tests.support.scripted import Script, completion, reply_text

__all__ = ["dead_address", "no_proxy"]

BAD = {"busy": 0.08, "error": 0.08, "hang": 0.02, "drop": 0.07, "broken": 0.05}  # 30 % of all attempts


@pytest.fixture
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "_FIRST_PAUSE", 0.02)
    monkeypatch.setattr(client, "_LONGEST_PAUSE", 0.3)


def contents(server: Any) -> list[str]:
    """The client's texts in the requests of a run, without the check at its start."""
    return [payload["messages"][-1]["content"] for _, payload in server.asked if payload["max_tokens"] > 16]


@pytest.mark.usefixtures("short_pauses")
def test_with_30_percent_failing_each_ask_has_its_answer_once(tmp_path: Path) -> None:
    script = Script(**BAD, refusal=0.05, filtered=0.05, cut=0.05, seconds_of_a_hang=1.5)
    asks = [question(number) for number in range(300)]
    with serving(script) as server:
        model = chat(server.address, retries=20, timeout_seconds=1.0)
        found = asked(model, asks, tmp_path)
        assert len(found) == 300
        counts = Counter(outcome.outcome for outcome in found.values())
        assert set(counts) == {"text", "refused", "filtered", "cut"} and min(counts.values()) >= 5
        sent = {payload["messages"][0]["content"]: payload for _, payload in server.asked}
        for ask in asks:
            outcome = found[ask.speech]
            if outcome.outcome == "text":
                assert outcome.value == reply_text(sent[ask.messages[0]["content"]])
                assert outcome.answer.model == "served-2026" and outcome.answer.prompt_tokens == 50
        assert len(contents(server)) > 330, "failing attempts were repeated"
        before = len(server.asked)
        assert asked(model, asks, tmp_path) == found, "every outcome comes from the journal, refusals included"
        assert len(server.asked) == before
    lines = [json.loads(line) for file in tmp_path.glob("*.jsonl") for line in file.read_text().splitlines()]
    assert len(lines) == len({line["key"] for line in lines}) == 300
    assert Counter(line["about"] for line in lines) == {ask.speech: 1 for ask in asks}


def test_an_answer_that_cannot_be_read_is_asked_anew_and_then_counted(tmp_path: Path) -> None:
    """Attempts differ only in their seeds, and only some seeds make the scripted model's answer readable."""

    def write(payload: Any) -> str:
        return "5" if payload["seed"] % 3 == 0 else "five"

    def read(text: str) -> int:
        return int(text)

    asks = [question(number) for number in range(60)]
    with serving(Script(write)) as server:
        found = asked(chat(server.address), asks, tmp_path, read=read, retries=1)
        assert {outcome.outcome for outcome in found.values()} == {"text", "unparsable"}
        for outcome in found.values():
            assert (outcome.value == 5) == (outcome.outcome == "text")
        again = [outcome.attempts for outcome in found.values()]
        assert len(contents(server)) == sum(again) and {1, 2} == set(again)
        more = asked(chat(server.address), asks, tmp_path, read=read, retries=4)
        assert all(more[speech] == outcome for speech, outcome in found.items() if outcome.outcome == "text")
        bought = sum(outcome.attempts for outcome in more.values())
        assert len(contents(server)) == bought, "an earlier attempt was bought again"
        assert sum(outcome.outcome == "unparsable" for outcome in more.values()) < 15


def test_requests_under_way_are_bounded_at_each_address_and_asks_are_pulled_as_needed(tmp_path: Path) -> None:
    pulled = [0]
    with serving(Script(latency=0.02)) as first, serving(Script(latency=0.02)) as second:
        model = chat([first.address, second.address], concurrency=3)

        def many() -> Any:
            for number in range(9000):
                pulled[0] += 1
                yield model, question(number)

        came = ask_all(many(), Answers(tmp_path), Budget(), read=str, models=[model], key="writers")
        for _ in range(100):
            next(came)
        assert pulled[0] < 5000, "too many Asks were pulled into memory"
        came.close()
        assert first.busiest <= 3 and second.busiest <= 3 and min(len(first.asked), len(second.asked)) > 30


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        (Reply(401), "does not accept the key in SERVER_KEY"),
        (Reply(404, b'{"error": {"message": "The model does not exist"}}'), "(The model does not exist)"),
        (Reply(200, b"<html>sign in</html>"), "something other than JSON"),
        ({"text": "an older route"}, "its answer cannot be used"),
    ],
)
def test_what_every_call_would_meet_ends_the_run_before_money_is_spent(
    reply: Any, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SERVER_KEY", "sk-0123456789abcdef")
    with serving(lambda payload, number: reply) as wrong, serving(Script()) as right:
        models: list[LanguageModel] = [
            chat(right.address, "right"),
            chat(wrong.address, "wrong", key_variable="SERVER_KEY"),
        ]
        asks = ((model, question(number)) for number in range(50) for model in models)
        with pytest.raises(UserError) as caught:
            list(ask_all(asks, Answers(tmp_path), Budget(), read=str, models=models, key="writers"))
        assert said in str(caught.value) and "sk-0123" not in str(caught.value)
        assert not contents(right) and not contents(wrong), "a request other than the checks was sent"


def test_a_request_too_long_for_the_model_fails_alone(tmp_path: Path) -> None:
    words = b'{"error": {"message": "This model has a maximum context length of 64 tokens", "code": "context"}}'

    def respond(payload: Any, number: int) -> Any:
        if payload["messages"][-1]["content"].endswith(("1.", "3.", "5.", "7.", "9.")):
            return Reply(400, words)
        time.sleep(0.3 if number < 40 else 0)  # the first answers come long after the first refusals
        return completion("Yes.", payload)

    with serving(respond) as server:
        found = asked(chat(server.address), [question(number) for number in range(300)], tmp_path)
        assert Counter(outcome.outcome for outcome in found.values()) == {"text": 150, "failed": 150}
        before = len(server.asked)
        asked(chat(server.address), [question(number) for number in range(300)], tmp_path)
        assert len(server.asked) == before + 1 + 150, "only the check and the failed Asks were sent"


def test_a_context_that_no_prompt_fits_ends_the_run(tmp_path: Path) -> None:
    """All prompts of a judge hold the rubric, so that a repeated command would fail as well."""
    words = b'{"error": {"message": "This model has a maximum context length of 64 tokens", "code": "context"}}'

    def respond(payload: Any, number: int) -> Any:
        return Reply(400, words) if payload["messages"][-1]["content"].startswith("Speech") else completion("", payload)

    with serving(respond) as server:
        said = "maximum context length of 64 tokens.*no prompt fits: choose a longer context"
        for count in (1, 7, 300):
            before = len(server.asked)
            with pytest.raises(UserError, match=said):
                asked(
                    chat(server.address, concurrency=1),
                    [question(number) for number in range(count)],
                    tmp_path / "server",
                )
            assert len(server.asked) < before + 20
    long = [replace(question(number), messages=({"role": "user", "content": "No. " * 9},)) for number in range(9)]
    for count, prompts in ((1, "1 prompt"), (9, "9 prompts")):
        said = (
            f"builtin:tiny: reads 16 tokens, too few for {prompts} of 23 or more; choose a model with a longer context"
        )
        with pytest.raises(UserError, match=f"writers.model={said}"):
            asked(Transformers(name="tiny", model="builtin:tiny", max_length=16), long[:count], tmp_path / "local")


@pytest.mark.usefixtures("short_pauses")
def test_one_bad_request_among_good_ones_fails_and_a_dead_server_ends_the_run(
    tmp_path: Path, dead_address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def respond(payload: Any, number: int) -> Any:
        return Reply(500) if payload["messages"][-1]["content"] == "Speech 3." else completion("Yes.", payload)

    with serving(respond) as server:
        found = asked(chat(server.address, retries=2, concurrency=2), [question(n) for n in range(60)], tmp_path / "a")
        assert [speech for speech, outcome in found.items() if outcome.outcome == "failed"] == [f"{3:016x}"]
    with pytest.raises(UserError, match="writers.addresses: no server answers"):
        asked(chat(dead_address), [question(1)], tmp_path / "b")

    def dies(payload: Any, number: int) -> Any:
        return completion("Yes.", payload) if number < 20 else Reply(503, b'{"error": "out of memory"}')

    monkeypatch.setattr(client, "_PATIENCE", 1.0)
    with serving(dies) as server:
        started = time.monotonic()
        with pytest.raises(UserError, match="out of memory"):
            asked(chat(server.address), [question(number) for number in range(60)], tmp_path / "c")
        assert time.monotonic() - started < 10
        kept = [line for file in (tmp_path / "c").glob("*.jsonl") for line in file.read_text().splitlines()]
        assert len(kept) == 19, "the answers that had arrived are kept"


def test_a_budget_stops_cleanly_and_a_larger_one_goes_on(tmp_path: Path) -> None:
    """A call costs 0.0003: 50 prompt tokens at 2 per million and 20 answer tokens at 10 per million."""
    asks = [question(number) for number in range(60)]
    with serving(Script(latency=0.01)) as server:
        model = chat(server.address, input_price=2.0, output_price=10.0)
        for limits, bought in (({"calls": 25}, 25), ({"cost": 0.0124}, None)):
            answers = Answers(tmp_path)
            budget = Budget.of(limits.get("cost"), limits.get("calls"), answers, [model])
            with pytest.raises(BudgetSpent, match="bought answers are kept"):
                list(ask_all(((model, ask) for ask in asks), answers, budget, read=str, models=[model], key="writers"))
            assert answers.journal.total.calls == budget.made == len(contents(server))
            assert answers.journal.total.cost == pytest.approx(0.0003 * answers.journal.total.calls)
            if bought:
                assert budget.made == bought
            else:  # the next call could cost up to 0.000648, more than what is left
                assert 0.0124 - 0.00066 < budget.spent <= 0.0124
            answers.close()
        found = asked(model, asks, tmp_path)
        assert len(found) == 60 and len(contents(server)) == 60, "an answer was bought twice"


def test_a_stop_request_keeps_the_answers_under_way(tmp_path: Path) -> None:
    started = []

    def slow(payload: Any, number: int) -> Any:
        if payload["max_tokens"] > 16:  # not the check at the start
            started.append(number)
            if len(started) == 8:
                os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.5)
        return completion("A reply?", payload)

    with serving(slow) as server, pytest.raises(KeyboardInterrupt), stoppable(tmp_path, 60, lambda: None):
        asked(chat(server.address), [question(number) for number in range(200)], tmp_path / "answers")
    kept = [line for file in (tmp_path / "answers").glob("*.jsonl") for line in file.read_text().splitlines()]
    assert 8 <= len(kept) == len(started) < 200


def test_a_cost_cannot_be_limited_without_prices(tmp_path: Path) -> None:
    hosted = chat("https://api.example.com/v1", "hosted")
    with pytest.raises(UserError, match="the price of hosted is unknown"):
        Budget(cost=1.0, models=[hosted])
    Budget(cost=1.0, models=[chat("http://127.0.0.1:8000/v1")])
    found = Estimate.of([(hosted, question(1))], Answers(tmp_path))
    assert found.unpriced == {"hosted"} and "price unknown" in found.lines("replies")[0]


def test_an_estimate_counts_what_is_not_bought(tmp_path: Path) -> None:
    with serving(Script()) as server:
        model = chat(server.address, input_price=1.0, output_price=2.0)
        asked(model, [question(number) for number in range(4)], tmp_path)
        found = Estimate.of([(model, question(number)) for number in range(10)], Answers(tmp_path))
    assert (found.calls["served"], found.bought, found.completion_tokens["served"]) == (6, 4, 6 * 64)
    tokens = 6 * round(4 + len("Speech 5.") / 4)
    assert found.prompt_tokens["served"] == tokens
    assert found.costs["served"] == pytest.approx((tokens + 2 * 6 * 64) / 1e6)


def test_keys_are_of_all_that_an_answer_depends_on(tmp_path: Path) -> None:
    answers = Answers(tmp_path)
    model = chat("http://127.0.0.1:1")
    ask, answer = question(1), Answer("text", "Yes.")
    answers.keep([(model, ask, 0, answer, 0.0)])
    assert answers.find(model, ask, 0) == answer
    others = [(model, ask, 1), (model, question(2), 0), (model, question(1, "reply 1"), 0)]
    others += [(chat("http://127.0.0.1:1", temperature=0.5), ask, 0), (chat("http://127.0.0.1:1", "other"), ask, 0)]
    assert [answers.find(*each) for each in others] == [None] * 5
    assert answers.find(chat("http://127.0.0.1:2", input_price=3.0), ask, 0) == answer, "an address may change"
