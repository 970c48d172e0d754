"""A language model as a ranker of pairs: verdicts of both orders, missing ones, and answers that are bought once."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from psychocounsel import api
from psychocounsel.counsel.principles import PRINCIPLES
from psychocounsel.data.rows import Example
from psychocounsel.errors import UserError
from psychocounsel.evaluation.reward.ranker import Ranker, rank_pairs
from psychocounsel.evaluation.reward.reward_evaluation import evaluate_reward
from psychocounsel.evaluation.reward.side_by_side import side_by_side
from psychocounsel.settings.targets import build_section
from tests.support.answering import Server, serving
from tests.support.harness import world, write_jsonl


def answer(better: str, model: str = "judge-1") -> dict[str, Any]:
    content = {name: {"reason": "It is so.", "better": better} for name in (*PRINCIPLES, "overall")}
    message = {"role": "assistant", "content": json.dumps(content)}
    usage = {"prompt_tokens": 10, "completion_tokens": 5}
    return {"model": model, "choices": [{"message": message, "finish_reason": "stop"}], "usage": usage}


def replies_of(payload: Any) -> tuple[str, str]:
    """The two replies in the order shown."""
    text = payload["messages"][-1]["content"]
    return tuple(
        text.split(f"<{name}-")[1].split(">\n")[1].split("\n</")[0] for name in ("first-reply", "second-reply")
    )  # type: ignore[return-value]


def prefers(rule: Callable[[str, str], str]) -> Callable[[Any, int], Any]:
    """A judge that is asked by chat, and lists its model."""
    return lambda payload, number: answer(rule(*replies_of(payload)) if is_about_a_pair(payload) else "tie")


def is_about_a_pair(payload: Any) -> bool:
    """Or it is the call that finds out whether the server answers."""
    return "<first-reply-" in payload["messages"][-1]["content"]


def calls_of(server: Server) -> list[Any]:
    return [payload for _, payload in server.asked if is_about_a_pair(payload)]


def reader(first: str, second: str) -> str:
    """Prefers the reply that is good; is confused by two that both say maybe, and takes the one shown first."""
    if "maybe" in first and "maybe" in second:
        return "first"
    return "first" if "good" in first else "second" if "good" in second else "tie"


def pair(number: int, chosen: str, rejected: str) -> Example:
    prompt = [{"role": "user", "content": f"My exam is on day {number}."}]
    return Example(str(number), f"row {number}", prompt, [chosen, rejected], risk="none")


PAIRS = [
    pair(0, "good one", "bad one"),
    pair(1, "bad two", "good two"),
    pair(2, "maybe three", "maybe 3"),
    pair(3, "so", "and so"),
    pair(4, "same", "same"),
]


def compared(server: Server) -> str:
    return f"compare=[{{use: llm, judge: {{use: local_vllm, model: m, addresses: ['{server.address}/v1']}}}}]"


def ranker(server: Server) -> Ranker:
    found: Ranker = build_section(api.compose([compared(server)], name="evaluate").compare[0], "reward")
    return found


def no_bar(steps: range, text: str) -> range:
    return steps


def test_verdicts_are_the_mean_of_both_orders_and_no_call_is_made_twice(tmp_path: Path) -> None:
    with serving(prefers(reader)) as server:
        settings = ranker(server)
        found = rank_pairs(settings, "compare[0]", PAIRS, tmp_path, no_bar)
        calls = calls_of(server)
        assert len(calls) == 8, "two orders of each pair but that of equal texts"
        assert sorted(map(replies_of, calls)) == sorted(
            order for each in PAIRS[:4] for order in (tuple(each.replies), tuple(each.replies[::-1]))
        )
        assert not any(word in json.dumps(calls) for word in ("chosen", "rejected"))
        again = rank_pairs(settings, "compare[0]", PAIRS, tmp_path, no_bar)
        assert len(calls_of(server)) == 8
    np.testing.assert_array_equal(found.orders, [[1, 1], [-1, -1], [1, -1], [0, 0], [0, 0]])
    np.testing.assert_array_equal(again.orders, found.orders)
    assert found.verdicts.tolist() == [1, -1, 0, 0, 0]
    assert found.outcomes == {"text": 8, "equal": 2} and found.models == {"judge-1": 8}


def test_a_missing_verdict_is_no_verdict(tmp_path: Path) -> None:
    def respond(payload: Any, number: int) -> Any:
        if not is_about_a_pair(payload):
            return answer("tie")
        first, second = replies_of(payload)
        if "two" in first:
            broken = answer("first")
            words = "The first, I think." if "good" in second else "I'm sorry, but I can't help with that."
            broken["choices"][0]["message"]["content"] = words
            return broken
        return answer(reader(first, second))

    with serving(respond) as server:
        found = rank_pairs(ranker(server), "compare[0]", PAIRS[:3], tmp_path, no_bar)
    assert found.verdicts.tolist()[::2] == [1, 0] and np.isnan(found.verdicts[1])
    assert found.outcomes == {"text": 4, "unparsable": 1, "refused": 1}
    table = side_by_side(PAIRS[:3], {"rm": np.array([1.0, 1.0, -1.0])}, np.arange(3), {"llm": found.verdicts})
    assert (table["pairs"], table["left_out"]) == (2, 1)
    assert table["models"]["llm"]["accuracy"] == 0.75 and table["models"]["rm"]["accuracy"] == 0.5
    assert table["models"]["llm"]["differences"]["accuracy"]["value"] == 0.25
    assert "auc" not in table["models"]["llm"], "a verdict is no probability"


def test_the_table_has_a_row_for_the_ranker(tmp_path: Path) -> None:
    rows = [
        {"id": each.id, "prompt": each.prompt, "chosen": each.replies[0], "rejected": each.replies[1]}
        for each in PAIRS[:4]
    ]
    with serving(prefers(reader)) as server:
        data = f"data.path={write_jsonl(tmp_path / 'p.jsonl', rows)}"
        config = api.compose([data, "part=all", "counterfactuals.limit=0", compared(server)], name="evaluate")
        said: list[str] = []
        evaluate_reward(config, tmp_path / "out", world(), said.append, no_bar)
    line = next(line for line in said if line.startswith("llm ") and "%" in line)
    assert line.split() == ["llm", "50.0", "%", "-", "-", "-"]
    scores = [json.loads(row) for row in (tmp_path / "out" / "scores.jsonl").read_text().splitlines()]
    assert {row["id"]: row["verdicts"]["llm"] for row in scores} == {
        "0": [1, 1],
        "1": [-1, -1],
        "2": [1, -1],
        "3": [0, 0],
    }


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["compare=[{use: llm}]"], r"compare\[0\].judge is not set"),
        (["compare=[{use: llm, judge: nobody}]"], r"compare\[0\].judge: no judge config named nobody"),
        (["compare=[{use: llm, judge: several}]"], r"compare\[0\].judge: several has several members"),
        (["compare=[{use: llm, judge: {use: reward, name: x}}]"], "is no language model"),
    ],
)
def test_what_cannot_rank_is_refused(overrides: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        api.compose(overrides, name="evaluate")
