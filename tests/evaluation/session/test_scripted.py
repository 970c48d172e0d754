"""Files of scripted clients: errors name file and persona; the replies select a client's path."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from psychocounsel.errors import UserError
from psychocounsel.evaluation.session.personas import ClientTurn, SessionExchange
from psychocounsel.evaluation.session.scripted import ScriptedPersonas
from tests.evaluation.session.counsellors import WORDS, scripts, write_scripts

Change = Callable[[dict[str, Any]], Any]


def bridge(content: dict[str, Any]) -> Any:
    return content["escalating"]["personas"][0]


def state(content: dict[str, Any], name: str) -> Any:
    return bridge(content)["states"][name]


def shorten(content: dict[str, Any]) -> None:
    bridge(content)["states"] = {name: state(content, name) for name in ("s0", "s1", "s2")}
    state(content, "s2")["ends"] = True
    state(content, "s2").pop("then")


def read(folder: Path, **settings: Any) -> ScriptedPersonas:
    return ScriptedPersonas(name="scripted", folder=str(folder), **settings)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda all_: state(all_, "s2")["then"][0].update(goto="s9"), "state s2: goto s9 is not a state"),
        (lambda all_: state(all_, "s6")["then"][0].update(goto="s2"), "the states form a cycle"),
        (lambda all_: state(all_, "s3").update(then=[{"goto": "s4"}]), "state told is never reached"),
        (lambda all_: state(all_, "s5").pop("then"), "state s5: needs then or ends: true"),
        (lambda all_: state(all_, "s5").update(ends=True), "state s5: has ends: true, so then must be left out"),
        (lambda all_: state(all_, "s3")["then"].pop(), "state s3: then[1]: the last transition must have no if"),
        (
            lambda all_: state(all_, "s3")["then"].reverse(),
            "state s3: then[1]: needs an if, because the transitions after it",
        ),
        (
            lambda all_: state(all_, "s3")["then"][0].update({"if": {"ask": "yes"}}),
            "unknown key ask (did you mean asks?)",
        ),
        (lambda all_: state(all_, "s3")["then"][0].update({"if": {"asks": "maybe"}}), "if.asks must be one of yes, no"),
        (lambda all_: state(all_, "s3")["then"][0].update({"if": {"asks": True}}), "(write it in quotes)"),
        (
            lambda all_: state(all_, "s3")["then"][0].update({"if": {"urgency": ["yes"]}}),
            "if.urgency must be one of none",
        ),
        (lambda all_: state(all_, "s3").update(expected_action="soon"), "expected_action must be one of none, monitor"),
        (lambda all_: state(all_, "s3").update(disclosure="clear"), "disclosure must be one of none, hinted"),
        (lambda all_: state(all_, "s3").update(ends="no"), "ends must be true or false"),
        (lambda all_: state(all_, "s3").pop("says"), "says is missing"),
        (
            lambda all_: state(all_, "s3").update(says="turn 0  of bridge."),
            "state s3 says the same as an earlier state",
        ),
        (lambda all_: state(all_, "s1")["then"][0].update(goto="s3"), "state s2 is never reached"),
        (shorten, "the paths have 3 turns, but each must have 8 to 12"),
        (lambda all_: bridge(all_).update(start="here"), "start: here is not a state"),
        (lambda all_: bridge(all_).update(kind="sadness"), "kind must be one of suicidal_thoughts"),
        (lambda all_: bridge(all_).update(kind="none"), "state s2: an action is due, although the kind is none"),
        (
            lambda all_: [each.update(expected_action="none") for each in bridge(all_)["states"].values()],
            "on some path no action is ever due, although the kind is a risk",
        ),
        (lambda all_: bridge(all_).update(name="The Bridge"), "the name must be lower-case letters"),
        (lambda all_: all_["masked"]["personas"][0].update(name="bridge"), "masked.yaml: bridge: another persona in"),
        (lambda all_: all_["masked"].update(pattern="escalating"), "masked.yaml: another file also has the pattern"),
        (
            lambda all_: bridge(all_)["states"].update(
                {f"x{number}": state(all_, "s7") | {"says": f"More {number}."} for number in range(20)}
            ),
            "has 29 states, but at most 24 are allowed",
        ),
    ],
)
def test_a_script_that_breaks_a_rule_is_refused_by_file_and_persona(tmp_path: Path, change: Change, said: str) -> None:
    content = copy.deepcopy(scripts())
    change(content)
    with pytest.raises(UserError) as refused:
        read(write_scripts(tmp_path, content)).personas()
    message = str(refused.value)
    assert said in message and (".yaml: " in message) and "\n" not in message
    assert (
        "bridge" in message or "escalating.yaml: personas[1]" in message or "pattern" in message or "Bridge" in message
    )


def test_all_problems_are_listed_and_no_yaml_is_one(tmp_path: Path) -> None:
    content = scripts()
    state(content, "s2")["then"][0]["goto"] = "s9"
    content["masked"]["personas"][0]["start"] = "here"
    folder = write_scripts(tmp_path, content)
    (folder / "broken.yaml").write_text("personas: [")
    with pytest.raises(UserError, match=r"broken\.yaml is not valid YAML.*bridge: state s2.*house: start: here"):
        read(folder).personas()
    with pytest.raises(UserError, match="contains no script files"):
        read(tmp_path / "empty").personas()


def test_patterns_choose_and_another_script_is_another_client(tmp_path: Path) -> None:
    found = read(write_scripts(tmp_path), patterns=["calm", "masked"]).personas()
    assert [(each.name, each.pattern, each.kind) for each in found] == [
        ("garden", "calm", "none"),
        ("house", "masked", "abuse"),
    ]
    content = scripts()
    content["masked"]["personas"][0]["states"]["s3"]["disclosure"] = "planned"
    other = read(write_scripts(tmp_path, content), patterns=["calm", "masked"]).personas()
    assert other[0].id == found[0].id and other[1].id != found[1].id and len(other[1].id) == 16


def test_a_pattern_named_twice_has_its_clients_once(tmp_path: Path) -> None:
    folder = write_scripts(tmp_path)
    once, twice = (read(folder, patterns=["escalating"] * times).personas() for times in (1, 2))
    assert [persona.id for persona in twice] == [persona.id for persona in once]


def test_the_next_state_follows_the_last_reply(tmp_path: Path) -> None:
    persona = read(write_scripts(tmp_path), patterns=["escalating"]).personas()[0]

    def after(reply: str) -> list[str | None]:
        """Return the states of a session in which every reply is the same."""
        session, states = list[SessionExchange](), list[str | None]()
        while isinstance(turn := persona.next(session, 0), ClientTurn):
            assert turn == persona.next(session, 9), "the seed changes nothing"
            states.append(turn.state)
            session.append(SessionExchange(turn, reply))
        return states

    quiet = [f"s{number}" for number in range(8)]
    told = [*quiet[:4], "told", *quiet[5:]]
    assert after("Are you safe? Please see a doctor today.") == told
    assert after(WORDS["emergency"]) == told
    assert after("Are you safe?") == quiet, "asks, and is not urgent"
    assert after("Please see a doctor today.") == quiet, "is urgent, and asks nothing"
    assert after("") == quiet
    with pytest.raises(UserError, match="is not a folder"):
        read(tmp_path / "nowhere").check("personas")
