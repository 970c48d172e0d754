"""Asks that depend on earlier answers: conversations run in parallel, with models of two groups."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from psychocounsel.asking.answers import Answers
from psychocounsel.asking.asker import ask_all
from psychocounsel.asking.budget import Budget, BudgetSpent
from psychocounsel.asking.language_model import Ask, LanguageModel
from psychocounsel.errors import UserError
from tests.support.answering import Reply, no_proxy, serving
from tests.support.asking import chat
from tests.support.scripted import Script

__all__ = ["no_proxy"]


class Chains:
    """Chains of Asks, each of which contains the previous answer; two models take turns."""

    def __init__(self, models: list[LanguageModel], count: int, length: int) -> None:
        self.models, self.length = models, length
        self.said = {number: list[str]() for number in range(count)}
        self.ready = list(range(count))

    def asks(self) -> Iterator[tuple[LanguageModel, Ask] | None]:
        while any(len(said) < self.length for said in self.said.values()):
            if not self.ready:
                yield None
                continue
            number = self.ready.pop(0)
            said = self.said[number]
            text = said[-1] if said else f"Chain {number}."
            model = self.models[len(said) % len(self.models)]
            yield model, Ask(f"{number}", ({"role": "user", "content": text},), number, f"turn {len(said)}")

    def take(self, ask: Ask, text: str) -> None:
        self.said[int(ask.speech)].append(text)
        if len(self.said[int(ask.speech)]) < self.length:
            self.ready.append(int(ask.speech))


def talk(chains: Chains, folder: Path, budget: Budget | None = None) -> None:
    with closing(Answers(folder)) as answers:
        keys = ["contestants", "client"]
        came = ask_all(chains.asks(), answers, budget or Budget(), read=str, models=chains.models, key=keys)
        for _, ask, outcome in came:
            chains.take(ask, str(outcome.value))


def ends(payload: Any) -> str:
    return f"{payload['temperature']} after {payload['messages'][-1]['content']}"


def contents(server: Any) -> list[str]:
    return [payload["messages"][-1]["content"] for _, payload in server.asked if payload["max_tokens"] > 16]


def test_chains_go_on_side_by_side_by_two_models_of_one_name(tmp_path: Path) -> None:
    with serving(Script(ends, latency=0.02)) as first, serving(Script(ends, latency=0.02)) as second:
        models: list[LanguageModel] = [chat(first.address, temperature=0.5), chat(second.address, temperature=0.25)]
        chains = Chains(models, count=6, length=4)
        with pytest.raises(BudgetSpent):
            talk(chains, tmp_path, Budget(calls=10))
        again = Chains(models, count=6, length=4)
        talk(again, tmp_path, Budget())
        assert again.said[5][-1] == "0.25 after 0.5 after 0.25 after 0.5 after Chain 5."
        assert len(contents(first)) == len(set(contents(first))) == 12
        assert len(contents(second)) == 12 and first.busiest > 1, "chains do not wait for each other"
        replayed = Chains(models, count=6, length=4)
        talk(replayed, tmp_path)
        assert replayed.said == again.said and len(contents(first)) == 12


def test_models_with_the_same_settings_are_opened_once(tmp_path: Path) -> None:
    with serving(Script(ends)) as server:
        models: list[LanguageModel] = [chat(server.address), chat(server.address)]
        talk(chains := Chains(models, count=2, length=3), tmp_path)
        assert all(len(said) == 3 for said in chains.said.values())
        assert len(server.asked) - len(contents(server)) == 1, "one check before the first call"


def test_a_message_names_the_key_of_the_model_that_refuses(tmp_path: Path) -> None:
    with serving(Script(ends)) as server, serving(lambda payload, number: Reply(401)) as locked:
        models: list[LanguageModel] = [chat(server.address, temperature=0.5), chat(locked.address)]
        with pytest.raises(UserError, match="client"):
            talk(Chains(models, count=1, length=1), tmp_path)


def test_waiting_for_nothing_is_an_error_and_no_endless_wait(tmp_path: Path) -> None:
    with closing(Answers(tmp_path)) as answers:
        came = ask_all(iter([None]), answers, Budget(), read=str, models=[chat("http://127.0.0.1:9")], key="x")
        with pytest.raises(RuntimeError, match="none is under way"):
            list(came)
