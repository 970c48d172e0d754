"""The scripted clients for training: each one answers to what the counsellor says, and none repeats the evaluation's."""

import re

import pytest
import yaml

from psychocounsel.counsel.principles import ACTIONS
from psychocounsel.evaluation.safety.word_checks import check_reply
from psychocounsel.evaluation.session.personas import SessionExchange
from psychocounsel.evaluation.session.scripted import SHIPPED, Script, ScriptedPersona, read_scripts, scripted_personas
from tests.support.client_scripts import runs, session_with, strings
from tests.support.harness import ROOT

FOLDER = ROOT / "psychocounsel" / "data" / "clients"
CLIENTS = scripted_personas(FOLDER)
RUN = 6  # words

ATTENDS = "I am worried. Are you thinking of ending your life? Please call your doctor today."
LISTENS = "Thank you for telling me. What else was there in your week?"
REFERS = "Perhaps your doctor could help."
PROMISES = "I promise that everything will be fine."
ASKS = "Are you safe, and have you slept?"
REPLIES = (
    ATTENDS,
    LISTENS,
    REFERS,
    PROMISES,
    ASKS,
    "This is an emergency. Call an ambulance.",
    "That sounds dangerous.",
)
REPLIES += ("You clearly have depression.", "I have been through this, too.", "It makes sense to give up.")


def reached(client: ScriptedPersona) -> set[str]:
    """Return the names of the states that some sequence of `REPLIES` reaches."""
    turns = [client.next([], seed=0)]
    for turn in turns:  # the list grows while it is read
        for reply in REPLIES:
            follower = client.next([SessionExchange(turn, reply)], seed=0)
            if follower and follower not in turns:
                turns.append(follower)
    return {str(turn.state) for turn in turns}


def questions_at_branches(script: Script) -> set[str]:
    return {question for state in script.states.values() for way in state.then for question in way.if_}


def test_there_are_clients_with_and_without_a_risk_and_each_file_says_who_wrote_them() -> None:
    kinds = [client.kind for client in CLIENTS]
    assert len(CLIENTS) == 24 and kinds.count("none") >= 8 and len(kinds) - kinds.count("none") >= 8
    for file in FOLDER.glob("*.yaml"):
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
        assert content["pattern"] == file.stem
        assert "written by a machine; no clinician has reviewed them" in content["about"]


@pytest.mark.parametrize("client", CLIENTS, ids=lambda client: client.name)
def test_what_the_counsellor_says_decides_what_the_client_says(client: ScriptedPersona) -> None:
    script = client.script
    assert reached(client) == {*script.states}
    ends = [session_with(client, reply)[-1] for reply in (ATTENDS, LISTENS)]
    assert ends[0] != ends[1]
    assert len({tuple(session_with(client, reply)) for reply in (LISTENS, REFERS, PROMISES, ASKS)}) >= 3
    assert sum(len({way.goto for way in state.then}) > 1 for state in script.states.values()) >= 2
    assert {"asks", "guides", "overpromises"} <= questions_at_branches(script)


@pytest.mark.parametrize("client", CLIENTS, ids=lambda client: client.name)
def test_turns_are_short_and_a_due_action_stays_due(client: ScriptedPersona) -> None:
    for name, state in client.script.states.items():
        assert len(state.says.split()) <= 80 and len(re.findall(r"[.!?]+(?:\s|$)", state.says)) <= 4, name
        assert not re.search(r"\d", state.says), name
        if state.expected_action != ACTIONS[0]:
            assert all(client.script.states[way.goto].expected_action != ACTIONS[0] for way in state.then), name


def test_replies_give_every_answer_that_the_scripts_ask_for() -> None:
    given = {(question, answer.answer) for reply in REPLIES for question, answer in check_reply(reply).items()}
    for client in CLIENTS:
        ways = [way for state in client.script.states.values() for way in state.then]
        named = {(question, answer) for way in ways for question, answers in way.if_.items() for answer in answers}
        assert named <= given, client.name


def test_no_client_and_no_six_words_in_a_row_stand_in_the_evaluation() -> None:
    evaluated = [script for scripts in read_scripts(SHIPPED).values() for script in scripts]
    ids = {persona.id for persona in (ScriptedPersona("", script) for script in evaluated)}
    assert not ids & {ScriptedPersona("", client.script).id for client in CLIENTS}
    assert not {script.name for script in evaluated} & {client.name for client in CLIENTS}
    files = sorted((ROOT / "psychocounsel" / "evaluation").rglob("*.yaml"))
    owners = {
        run: file.name
        for file in files
        for text in strings(yaml.safe_load(file.read_text()))
        for run in runs(text, RUN)
    }
    assert len(owners) > 30_000
    for client in CLIENTS:
        own = {run for state in client.script.states.values() for run in runs(state.says, RUN)}
        assert {" ".join(run): owners[run] for run in own & owners.keys()} == {}, client.name
        owners |= dict.fromkeys(own, client.name)
