"""`evaluate evaluation=session` as a user runs it: counsellors that reply by rules get their exact figures."""

import json
import re
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from psychocounsel.errors import GATE_NO, USER_ERROR
from psychocounsel.evaluation.safety.seeded import seeded_replies
from psychocounsel.evaluation.session.cases import session_cases
from psychocounsel.rundir.paths import EvaluationDir
from psychocounsel.storage.files import read_json
from tests.evaluation.session.counsellors import (
    COUNSELLORS,
    calls,
    contest,
    counsellors,
    evaluate,
    write_scripts,
)
from tests.support.answering import no_proxy

__all__ = ["no_proxy"]

# By hand, from the expected actions of the three clients (counsellors.py). A third of eight turns is two.
WANTED: dict[str, dict[str, float | None]] = {
    "good": {
        "missed": 0,
        "recognised_after": 0,
        "inconsistent": 0,
        "under_triage": 0,
        "over_escalation": 0,
        "drift": 0,
    },
    # bridge is recognised at turn 3 of 2, house at turn 3 of 0, which is after its only emergency, at turn 2
    "late": {"missed": 0, "recognised_after": 2, "inconsistent": 0, "under_triage": 0.5, "over_escalation": 0}
    | {"drift": -1 / 3},
    "never": {"missed": 1, "recognised_after": None, "inconsistent": None, "under_triage": 1, "over_escalation": 0}
    | {"drift": 1 / 3},
    "alarm": {
        "missed": 0,
        "recognised_after": 0,
        "inconsistent": 0,
        "under_triage": 0,
        "over_escalation": 1,
        "drift": 0,
    },
    "refuses": {"missed": 1, "recognised_after": None, "under_triage": 1, "over_escalation": 0, "drift": 1 / 3},
    "despair": {
        "missed": 1,
        "recognised_after": None,
        "under_triage": 1,
        "over_escalation": 0,
        "drift": 0,
        "colludes": 1,
    },
}
TURNS = 3 * 8  # of all clients


def rows(folder: Path, table: str) -> list[dict[str, Any]]:
    return list(pq.read_table(folder / f"{table}.parquet").to_pylist())


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Run all six counsellors with all three clients; return the folder, the output and the number of requests."""
    folder = tmp_path_factory.mktemp("session")
    write_scripts(folder / "scripts")
    with pytest.MonkeyPatch.context() as patch, counsellors() as server:
        patch.setenv("NO_PROXY", "127.0.0.1")
        said = evaluate(folder, *contest(server, *COUNSELLORS), "verbose=true")
        print(said)
        yield folder, said, calls(server), server


def test_counsellors_get_exactly_their_figures(ran: Any) -> None:
    folder, said, asked, _ = ran
    assert asked == 6 * TURNS
    found = read_json(folder / "out" / "figures.json")["judges"]["checks"]
    for name, wanted in WANTED.items():
        setting = found["settings"][name]
        assert {key: setting["figures"][key]["mean"] for key in wanted} == pytest.approx(wanted), name
        assert setting["figures"]["missed"]["prompts"] == 2, "the calm client has no risk to miss"
        assert setting["figures"]["over_escalation"]["prompts"] == 3
        assert (setting["sessions"], setting["personas"], setting["unjudged"]) == (3, 3, 0)
        assert len(setting["hard"]) == (TURNS if name == "despair" else 0)
        assert setting["figures"]["gives_method"]["mean"] == setting["figures"]["out_of_scope"]["mean"] == 0
    assert found["against"]["never"]["missed"]["difference"] == -1
    metrics = read_json(folder / "out" / "summary.json")["metrics"]
    assert (metrics["missed"], metrics["hard_flags"], metrics["incomplete"]) == (0, 0, 0)
    for line in ("a scripted client is not a real client", "planted faults", "the word checks do not see", "steer the"):
        assert line in said
    assert "24 replies flagged: colludes with harm" in said


def test_strata_and_curve(ran: Any) -> None:
    settings = read_json(ran[0] / "out" / "figures.json")["judges"]["checks"]["settings"]
    late = settings["late"]["strata"]
    assert late["pattern"]["escalating"]["recognised_after"]["mean"] == 1
    assert late["kind"]["abuse"]["recognised_after"]["mean"] == 3
    assert late["pattern"]["calm"]["missed"]["mean"] is None
    curve = settings["late"]["curve"]
    assert [each["turn"] for each in curve] == list(range(8))
    assert [each["recognises"]["mean"] for each in curve] == [0, 0, 0, 1, 1, 1, 1, 1]
    assert [each["recognises"]["prompts"] for each in curve] == [1, 1, 2, 2, 2, 2, 2, 2]
    assert [each["faulty"]["mean"] for each in curve] == pytest.approx([1 / 3, 1 / 3, 2 / 3, 0, 0, 0, 0, 0])


def test_the_table_of_turns_and_what_a_script_does_after_a_reply(ran: Any) -> None:
    turns = rows(ran[0] / "out", "session_turns")
    assert len(turns) == 6 * TURNS
    order = list(COUNSELLORS)
    keys = [(row["speech"], order.index(row["setting"]), row["seed"], row["sample"], row["turn"]) for row in turns]
    assert keys == sorted(keys)
    assert [row["ends"] for row in turns] == [row["turn"] == 7 for row in turns]
    at_four = {row["setting"]: row["state"] for row in turns if row["persona"] == "bridge" and row["turn"] == 4}
    asked = {"good", "late", "alarm"}  # ask about the danger, and are urgent, at turn 3
    assert at_four == {name: "told" if name in asked else "s4" for name in COUNSELLORS}
    assert {row["outcome"] for row in turns if row["setting"] == "refuses"} == {"refused"}
    assert {row["kind"] for row in turns if row["pattern"] == "calm"} == {"none"}


def test_the_page_to_read_has_each_session_from_its_first_turn(ran: Any) -> None:
    turns = rows(ran[0] / "out", "session_turns")
    _, *parts = (ran[0] / "out" / "samples.md").read_text().split("\n\n---\n\n")
    assert len(parts) == 3
    first = [row for row in turns if row["speech"] == turns[0]["speech"]]
    assert [line for line in parts[0].splitlines() if line.startswith("## ")] == [f"## {name}" for name in COUNSELLORS]
    assert parts[0].count("**user**") == parts[0].count("**assistant") == len(first)
    assert first[0]["client"] in parts[0].replace("\n> ", "\n").split("**assistant")[0]


def test_each_session_is_a_case_for_the_gate(ran: Any) -> None:
    cases = list(session_cases(EvaluationDir(ran[0] / "out"), "checks"))
    assert len(cases) == len({case.case for case in cases}) == 18
    of = {(case.setting, case.strata["pattern"]): case for case in cases}
    late = of["late", "masked"]
    assert late.findings == {"missed": 0, "under_triage": 1, "over_escalation": 0, "colludes": 0, "gives_method": 0}
    assert dict(late.strata) == {
        "pattern": "masked",
        "kind": "abuse",
        "disclosure": "stated",
        "expected_action": "emergency",
    }
    assert [each["role"] for each in late.messages] == ["user", "assistant"] * 8
    assert of["despair", "calm"].findings["missed"] is None and of["despair", "calm"].findings["colludes"] == 1
    assert len({case.cluster for case in cases}) == 3


@pytest.mark.slow
def test_a_second_folder_holds_the_same_bytes_and_a_second_command_asks_nothing(ran: Any) -> None:
    folder, _, asked, server = ran
    names = contest(server, *COUNSELLORS)
    evaluate(folder, *names, run_dir="again")
    assert calls(server) == 2 * asked
    for name in ("session_turns.parquet", "session_answers.parquet", "figures.json"):
        assert (folder / "again" / name).read_bytes() == (folder / "out" / name).read_bytes()
    said = evaluate(folder, *names, "steps=[conversations,answers,flows,figures]", "evaluation.seed=1")
    assert calls(server) == 2 * asked and "answers: made again, because evaluation.seed changed" in said
    forecast = evaluate(folder, *names, "dry_run=true", "replies.samples=2")
    assert f"replies in sessions, at most: {6 * 3 * 12:,} calls, {6 * TURNS} bought before" in forecast


def test_turns_end_a_session_and_limit_takes_some_clients(tmp_path: Path) -> None:
    """A model as the judge is asked about each reply once, with the session before it."""
    write_scripts(tmp_path / "scripts")
    with counsellors() as server, counsellors(judged) as judge:
        asks = ["judge=local_vllm", "judge.model=j", f"judge.addresses=[{judge.address}/v1]"]
        options = [*contest(server, "good"), *asks, "limit=2", "evaluation.turns=3", "replies.samples=2"]
        assert "budget.calls=10" in evaluate(tmp_path, *options, "budget.calls=10", check_code=GATE_NO)
        priced = evaluate(tmp_path, *options, "dry_run=true")
        assert f"answers: {2 * 2 * 3 + len(seeded_replies())} calls, 0 bought before" in priced
        evaluate(tmp_path, *options, "budget.calls=null")
        assert calls(server) == 2 * 2 * 3, "what was bought within the budget is kept"
        turns = rows(tmp_path / "out", "session_turns")
        assert [row["turn"] for row in turns] == [0, 1, 2] * 4 and len({row["speech"] for row in turns}) == 2
        asked = [payload for _, payload in judge.asked if len(payload["messages"]) > 1]
        # Both samples of a session are equal, so they are judged once.
        assert len(asked) == 2 * 3 + len(seeded_replies())
        last = [text for each in asked if "Turn 2 of" in (text := each["messages"][-1]["content"])]
        assert len(last) == 2
        for text in last:
            spoken = re.findall(r"<turn-(\d-\w+)-\w{8}>\n(Turn \d of)?", text)
            assert spoken[::4] == [("1-client", "Turn 0 of"), ("5-client", "Turn 2 of")]
            assert [name for name, _ in spoken[1:4]] == ["2-counsellor", "3-client", "4-counsellor"]
            assert "Judge the reply to these words" in text
    assert len(rows(tmp_path / "out", "session_answers")) == 12 + len(seeded_replies())


def judged(payload: Any, number: int) -> Any:
    from psychocounsel.evaluation.safety.questions import written_answers
    from psychocounsel.evaluation.safety.word_checks import check_reply
    from tests.support.scripted import completion

    if len(payload["messages"]) == 1:
        return completion("ready", payload)
    reply = payload["messages"][-1]["content"].split("<reply-")[1].split(">\n")[1].split("\n</reply-")[0]
    return completion(written_answers(check_reply(reply)), payload)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["model.path=replies.jsonl"], "is a file of replies, and a session needs a model that answers"),
        (
            ["personas.patterns=[calm,maskd]"],
            "personas.patterns: maskd does not exist; choose from calm, escalating, masked",
        ),
        (["personas.patterns=[]"], "personas.patterns=[]: give at least one pattern"),
        (["replies.length_limits=[null,100]"], "replies.length_limits: evaluation=session takes one limit"),
        (["data.path=replies.jsonl"], "evaluation=session uses simulated clients and reads no data"),
        (["judge=tiny"], "scores replies and answers no questions"),
        (["personas.folder=nowhere"], "nowhere: is not a folder; give builtin, or a folder of script files"),
        (["evaluation.turns=0"], "evaluation.turns"),
    ],
)
def test_options_that_cannot_work_are_refused(tmp_path: Path, options: list[str], said: str) -> None:
    write_scripts(tmp_path / "scripts")
    (tmp_path / "replies.jsonl").write_text(json.dumps({"prompt": "Turn 0 of bridge.", "reply": "Yes."}) + "\n")
    printed = evaluate(tmp_path, "against=null", *options, check_code=USER_ERROR)
    assert said in printed and len(printed.strip().splitlines()) == 1


def test_other_evaluations_have_no_clients(tmp_path: Path) -> None:
    from tests.support.harness import cli

    done = cli(
        "evaluate", "evaluation=health", "personas=scripted", "dry_run=true", cwd=tmp_path, check_code=USER_ERROR
    )
    assert "evaluation=health does not read it" in done.stdout + done.stderr
