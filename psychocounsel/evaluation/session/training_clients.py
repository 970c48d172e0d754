"""Clients for the training of policies over sessions (`rollout.clients`): scripted ones, and ones that a language model plays.

They are other clients than those of `evaluation=session`, so that the evaluation measures what holds for strangers.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

from omegaconf import DictConfig, OmegaConf

from psychocounsel.asking.answers import Answers, Outcome
from psychocounsel.asking.asker import ask_all
from psychocounsel.asking.budget import Budget
from psychocounsel.asking.language_model import Ask, LanguageModel, open_model
from psychocounsel.data.base import Row, Source
from psychocounsel.data.messages import Message
from psychocounsel.errors import UserError
from psychocounsel.evaluation.session.dialogue import ClientAsk
from psychocounsel.evaluation.session.personas import ClientTurn, Persona, SessionExchange
from psychocounsel.evaluation.session.played import Card, PlayedPersona
from psychocounsel.evaluation.session.scripted import SHIPPED, ScriptedPersona, scripted_personas
from psychocounsel.rollout.clients import ClientSettings, SimulatedClients
from psychocounsel.settings.paths import check_asked_model
from psychocounsel.settings.schema import option
from psychocounsel.settings.targets import build_section, target_class
from psychocounsel.storage.files import expanded

# Scripted clients

BUILTIN = "builtin:clients"
_SCRIPTS = Path(__file__).parents[2] / "data" / "clients"


def training_clients(path: str) -> list[ScriptedPersona]:
    """Return the clients of the scripts in a folder, or those that ship for `BUILTIN`.

    Raises:
        UserError: if the scripts are wrong, two clients begin with the same words, or one is a client of the evaluation.
    """
    folder = _folder(path)
    if not folder.is_dir():
        raise UserError(f"data.path={path}: is not a folder; give {BUILTIN}, or a folder of script files")
    clients = scripted_personas(folder)
    if shared := [client.name for client in clients if client.id in _ids_of_evaluation()]:
        raise UserError(
            f"data.path={path}: {shared[0]} is a client of evaluation=session, which would then measure what was learned by "
            "heart; train with other clients"
        )
    names: dict[str, str] = {}
    for client in clients:
        other = names.setdefault(_opening(client), client.name)
        if other != client.name:
            raise UserError(
                f"data.path={path}: {other} and {client.name} begin with the same words; change one of them"
            )
    return clients


def _folder(path: str) -> Path:
    return _SCRIPTS if path == BUILTIN else expanded(path)


@cache
def _ids_of_evaluation() -> frozenset[str]:
    return frozenset(client.id for client in scripted_personas(SHIPPED))


def _opening(client: Persona) -> str:
    turn = client.next((), 0)
    assert isinstance(turn, ClientTurn)
    return turn.text.strip()


@dataclass
class ClientOpenings(Source):
    """Settings of `data=clients`: the first words of scripted clients as prompts."""

    def rows(self, path: str | None, split: str, revision: str | None) -> Iterator[tuple[str, Row]]:
        for client in training_clients(str(path)):
            yield (
                f"{client.pattern}: {client.name}",
                {"id": client.id, "prompt": _opening(client), "topic": client.pattern},
            )

    def files(self, path: str | None) -> Sequence[Path]:
        return sorted(_folder(str(path)).glob("*.yaml"))


@dataclass
class ScriptedClients(ClientSettings):
    """Settings of `rollout.clients=scripted`. The scripts are those of `data=clients`."""

    def open(self, config: DictConfig, answers: Path) -> SimulatedClients:
        return _Scripted([client for path in _paths(config) for client in training_clients(path)])

    def check(self, key: str, config: DictConfig) -> None:
        """Refuse other data than `data=clients`, and wrong scripts."""
        if not config.data.get("_target_") or target_class(config, "data") is not ClientOpenings:
            raise UserError(f"{key}: scripted clients go on from their own first words: add data=clients")
        for path in _paths(config):
            training_clients(path)


def _paths(config: DictConfig) -> list[str]:
    return [path for path in (config.data.path, config.data.eval_path) if path]


class _Scripted(SimulatedClients):
    def __init__(self, clients: Sequence[ScriptedPersona]) -> None:
        self.by_opening = {_opening(client): client for client in clients}

    def answers(self, conversations: Sequence[Sequence[Message]], seeds: Sequence[int]) -> list[str | None]:
        return [self._next(conversation) for conversation in conversations]

    def _next(self, conversation: Sequence[Message]) -> str | None:
        client, session = self.by_opening[conversation[0]["content"].strip()], list[SessionExchange]()
        for message in conversation:
            if message["role"] == "assistant":
                turn = client.next(session, 0)
                assert turn is not None
                session.append(SessionExchange(turn, message["content"]))
        following = client.next(session, 0)
        return None if following is None else following.text


# Clients that a language model plays


@dataclass
class PlayedClients(ClientSettings):
    """Settings of `rollout.clients=played`: the model `client` goes on as the client of each conversation of the data."""

    asks: ClassVar[bool] = True

    client: dict[str, Any] = option({})
    retries: int = option(2, at_least=0, at_most=20)
    crisis_to_third_parties: bool = False

    def model(self) -> LanguageModel:
        """Return the model that plays the clients."""
        model: LanguageModel = build_section(OmegaConf.create(self.client), "client")
        return model

    def receivers(self, key: str) -> list[tuple[str, str]]:
        return self.model().receivers(f"{key}.client")

    def check(self, key: str, config: DictConfig) -> None:
        """Refuse a model without its key, and a third party that would see speeches about a crisis."""
        check_asked_model(config, f"{key}.client", self.client)
        model = self.model()
        model.check(f"{key}.client")
        if model.is_third_party() and not self.crisis_to_third_parties:
            raise UserError(
                f"{key}.client: {model.name} is run by a third party, and sessions may be about a crisis; use a server of your "
                f"own, such as {key}.client=local_vllm, or add {key}.crisis_to_third_parties=true"
            )
        variable = self.client.get("key_variable")
        if variable and variable not in os.environ and not config.dry_run:
            raise UserError(
                f"{key}.client.key_variable={variable}: this environment variable is not set: export {variable}=KEY"
            )
        Budget(config.budget.cost, models=[model])

    def open(self, config: DictConfig, answers: Path) -> SimulatedClients:
        return _Played(self, Answers(answers), config.budget)


class _Played(SimulatedClients):
    """Plays the client of each conversation from its words so far. The journal holds all answers, so none is bought twice."""

    def __init__(self, settings: PlayedClients, journal: Answers, limits: DictConfig) -> None:
        self.settings, self.model, self.journal = settings, settings.model(), journal
        self.budget = Budget.of(limits.cost, limits.calls, journal, [self.model])
        self.answerer = open_model(self.model, "rollout.clients.client")
        self.answerer.check()
        self._farewells = set[tuple[str, ...]]()  # conversations that ended with the client's leaving

    def answers(self, conversations: Sequence[Sequence[Message]], seeds: Sequence[int]) -> list[str | None]:
        asked = [
            None if _texts(conversation)[:-1] in self._farewells else _ask(conversation, seed)
            for conversation, seed in zip(conversations, seeds, strict=True)
        ]
        outcomes = ask_all(
            ((self.model, ask) for ask in asked if ask is not None),
            self.journal,
            self.budget,
            read=str,
            models=[self.model],
            key="rollout.clients.client",
            retries=self.settings.retries,
            opened={self.model.digest: self.answerer},
        )
        for _ in outcomes:
            pass
        pairs = zip(conversations, asked, strict=True)
        return [None if ask is None else self._words(conversation, ask) for conversation, ask in pairs]

    def _words(self, conversation: Sequence[Message], ask: ClientAsk) -> str | None:
        settled = self.journal.settled(self.model, ask, str, self.settings.retries)
        if not isinstance(settled, Outcome) or settled.value is None:
            return None
        turn = ask.persona.read(settled.value, ask.session)
        if turn is not None and turn.ends:
            self._farewells.add((*_texts(conversation), turn.text))
        return None if turn is None else turn.text


def _texts(conversation: Sequence[Message]) -> tuple[str, ...]:
    return tuple(message["content"] for message in conversation)


def _ask(conversation: Sequence[Message], seed: int) -> ClientAsk:
    """Return the question for the client's next message, after all that was said; what precedes its first words is a fact."""
    first = next(place for place, message in enumerate(conversation) if message["role"] == "user")
    before = "\n\n".join(message["content"] for message in conversation[:first])
    facts = (("What the counsellor wrote first", before),) if before else ()
    persona = PlayedPersona("played", Card("the client", None, facts, conversation[first]["content"]))
    session, turn = list[SessionExchange](), ClientTurn("")
    for message in conversation[first:]:
        if message["role"] == "user":
            turn = ClientTurn(message["content"])
        else:
            session.append(SessionExchange(turn, message["content"]))
    ask = persona.next(session, seed)
    assert isinstance(ask, Ask)
    return ClientAsk(**{**vars(ask), "part": f"client seed {seed}"}, persona=persona, session=tuple(session))
