"""Calls to judges: both orders, no names, no call for equal texts, no crisis speeches for third parties."""

import json
from collections import Counter
from itertools import product
from typing import Any

from psychocounsel.asking.answers import answer_key
from psychocounsel.asking.chat_server import ChatServer
from psychocounsel.asking.language_model import LanguageModel
from psychocounsel.counsel.principles import PRINCIPLES
from psychocounsel.evaluation.judging.judging import JudgeCall, Judging, judged_pairs
from psychocounsel.evaluation.judging.pair_prompt import pair_prompt
from psychocounsel.evaluation.judging.reward_judge import RewardJudge
from psychocounsel.evaluation.judging.verdict_rows import ReplyPair
from tests.support.judged import reply, shown, speech

READER = ChatServer(name="reader", model="m", addresses=["http://127.0.0.1:9"])
PROMPT = pair_prompt("builtin:en", False)


def calls(pairs: list[ReplyPair], judges: list[LanguageModel], seed: int = 0, others: bool = False) -> list[JudgeCall]:
    return list(Judging(judges, PROMPT, seed, others).calls(pairs))


def pair(first: str, second: str, settings: tuple[str, str] = ("beta", "base"), **about: Any) -> ReplyPair:
    row = speech("s", **about)
    row["messages"] = json.loads(row["messages"])
    return ReplyPair(row, reply("s", settings[0], first), reply("s", settings[1], second))


def keys(found: list[JudgeCall]) -> set[str]:
    return {answer_key(call.judge, call.ask, 0) for call in found if call.ask}


def test_a_reader_is_shown_both_orders_and_a_scorer_one() -> None:
    scorer = RewardJudge(name="scorer", reward={"path": "builtin:tiny_reward"})
    found = calls([pair("one", "two")], [READER, scorer])
    assert [(call.judge.name, call.order) for call in found] == [
        ("reader", "forward"),
        ("reader", "backward"),
        ("scorer", "forward"),
    ]
    forward, backward, scored = (call.ask for call in found)
    assert forward and backward and scored
    assert shown({"messages": forward.messages})[1:] == ("one", "two")
    assert shown({"messages": backward.messages})[1:] == ("two", "one")
    assert forward.messages[0] == backward.messages[0]
    request = [each.messages[1]["content"].rpartition("\n\n")[2] for each in (forward, backward)]
    assert request[0] == request[1], "the order of principles must not differ with the order of replies"
    assert scored.schema is None and scored.replies == ("one", "two")


def test_no_contestant_is_named_in_a_call_and_names_are_no_part_of_its_key() -> None:
    found = calls([pair("one", "two", ("WINNER-9", "LOSER-9"))], [READER])
    for call in found:
        assert call.ask and "-9" not in json.dumps([call.ask.messages, call.ask.part, call.ask.schema])
    assert keys(found) == keys(calls([pair("one", "two")], [READER]))
    assert keys(found) == keys(calls([pair("two", "one")], [READER])), "the other contestant first: the same two calls"
    assert not keys(found) & keys(calls([pair("one", "three")], [READER]))
    other = ChatServer(name="reader", model="m2", addresses=["http://127.0.0.1:9"])
    assert not keys(found) & keys(calls([pair("one", "two")], [other])), "another model is asked anew"
    longer = Judging([READER], pair_prompt("builtin:en", True), 0, False).calls([pair("one", "two")])
    assert not keys(found) & keys(list(longer)), "another prompt is asked anew"


def test_principles_rotate_by_pair() -> None:
    begun = Counter[str]()
    for number in range(210):
        call = calls([pair(f"one {number}", "two")], [READER])[0]
        assert call.ask and call.ask.schema
        begun[next(iter(call.ask.schema["properties"]))] += 1
    assert set(begun) == set(PRINCIPLES) and min(begun.values()) > 10  # 30 each are expected


def test_equal_texts_are_a_tie_without_asking_and_crises_are_kept_from_others() -> None:
    theirs = ChatServer(name="theirs", model="m", addresses=["https://api.example.com/v1"])
    served = {"_target_": "psychocounsel.reward.openrlhf.OpenRLHFReward", "name": "r", "path": "builtin:tiny_reward"}
    away = RewardJudge(name="away", reward={**served, "addresses": ["https://rm.example.com"]})
    near = RewardJudge(name="near", reward={**served, "addresses": ["http://127.0.0.1:5000"]})
    judges = [READER, theirs, away, near]

    def outcomes(found: list[JudgeCall]) -> list[tuple[str, str | None]]:
        return sorted({(call.judge.name, call.outcome) for call in found}, key=str)

    assert outcomes(calls([pair("one", "one")], judges)) == [(name, "equal") for name in sorted(j.name for j in judges)]
    crisis = [pair("one", "two", crisis=True)]
    assert outcomes(calls(crisis, judges)) == [
        ("away", "withheld"),
        ("near", None),
        ("reader", None),
        ("theirs", "withheld"),
    ]
    assert all(call.ask for call in calls(crisis, judges, others=True))


def test_pairs_are_those_of_a_brute_force() -> None:
    """Equal seeds are paired, or all seeds if the sides differ; limits and samples never mix; empty replies are skipped."""
    kinds = [("beta", 0), ("beta", 1), ("base", 0), ("base", 1), ("alone", 0)]
    rows = [
        reply("s", setting, f"{setting} {seed} {limit} {sample}", seed, length_limit=limit, sample=sample)
        for (setting, seed), limit, sample in product(kinds, (None, 150), (0, 1))
    ]
    rows[0] = {**rows[0], "text": None, "reply": None}
    found = {(each.first["reply"], each.second["reply"]) for each in judged_pairs(speech("s"), rows, "beta")}
    expected = set()
    for limit, sample in product((None, 150), (0, 1)):
        for mine, (setting, seed) in product((0, 1), kinds[2:]):
            if (setting == "alone" or mine == seed) and (mine, limit, sample) != (0, None, 0):
                expected.add((f"id-beta {mine} {limit} {sample}", f"id-{setting} {seed} {limit} {sample}"))
    assert found == expected and len(expected) == 2 * 2 * 4 - 2
