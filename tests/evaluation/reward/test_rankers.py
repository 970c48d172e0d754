"""A language model as a ranker of pairs: verdicts of both orders, missing verdicts, and answers that are bought once."""

import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from omegaconf import OmegaConf

from psychocounsel import api
from psychocounsel.counsel.principles import PRINCIPLES
from psychocounsel.data.rows import Example
from psychocounsel.errors import GATE_NO, UserError
from psychocounsel.evaluation.reward.comparison import side_by_side
from psychocounsel.evaluation.reward.evaluation import evaluate_reward
from psychocounsel.evaluation.reward.rankers import Ranker, rank_pairs, ranker_warnings, ranking_forecast
from psychocounsel.rundir.paths import AnnotationDir
from psychocounsel.settings.targets import build_section
from psychocounsel.storage.files import read_json
from tests.evaluation.judging.test_bias import ALONE, LOCAL, a_run, chat
from tests.support.answering import Server, serving
from tests.support.harness import cli, world, write_jsonl
from tests.support.in_process import run_here


def answer(better: str, model: str = "judge-1") -> dict[str, Any]:
    content = {name: {"reason": "It is so.", "better": better} for name in (*PRINCIPLES, "overall")}
    message = {"role": "assistant", "content": json.dumps(content)}
    usage = {"prompt_tokens": 10, "completion_tokens": 5}
    return {"model": model, "choices": [{"message": message, "finish_reason": "stop"}], "usage": usage}


def replies_of(payload: Any) -> tuple[str, str]:
    """Return the two replies in the order shown."""
    text = payload["messages"][-1]["content"]
    return tuple(
        text.split(f"<{name}-")[1].split(">\n")[1].split("\n</")[0] for name in ("first-reply", "second-reply")
    )  # type: ignore[return-value]


def prefers(rule: Callable[[str, str], str]) -> Callable[[Any, int], Any]:
    """Return a server's answers to chat requests: the verdict by `rule`, or `tie` to the check before the first call."""
    return lambda payload, number: answer(rule(*replies_of(payload)) if is_about_a_pair(payload) else "tie")


def is_about_a_pair(payload: Any) -> bool:
    """Return True if the request shows replies; the check before the first call shows none."""
    return "<first-reply-" in payload["messages"][-1]["content"]


def calls_of(server: Server) -> list[Any]:
    return [payload for _, payload in server.asked if is_about_a_pair(payload)]


def reader(first: str, second: str) -> str:
    """Prefer the good reply; of two replies with `maybe`, prefer the one shown first."""
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


def no_bar(steps: Any, text: str) -> Any:
    return steps


NO_LIMITS = OmegaConf.create({"cost": None, "calls": None})


def rows_of(examples: list[Example]) -> list[dict[str, Any]]:
    return [
        {"id": each.id, "prompt": each.prompt, "chosen": each.replies[0], "rejected": each.replies[1]}
        for each in examples
    ]


def test_verdicts_are_the_mean_of_both_orders_and_no_call_is_made_twice(tmp_path: Path) -> None:
    with serving(prefers(reader)) as server:
        settings = ranker(server)
        found = rank_pairs(settings, "compare[0]", PAIRS, tmp_path, NO_LIMITS, no_bar)
        calls = calls_of(server)
        assert len(calls) == 8, "two orders of each pair but that of equal texts"
        assert sorted(map(replies_of, calls)) == sorted(
            order for each in PAIRS[:4] for order in (tuple(each.replies), tuple(each.replies[::-1]))
        )
        assert not any(word in json.dumps(calls) for word in ("chosen", "rejected"))
        again = rank_pairs(settings, "compare[0]", PAIRS, tmp_path, NO_LIMITS, no_bar)
        assert len(calls_of(server)) == 8
    np.testing.assert_array_equal(found.orders, [[1, 1], [-1, -1], [1, -1], [0, 0], [0, 0]])
    np.testing.assert_array_equal(again.orders, found.orders)
    assert found.verdicts.tolist() == [1, -1, 0, 0, 0]
    assert found.outcomes == {"text": 8, "equal": 2} and found.models == {"judge-1": 8}


def test_verdicts_of_a_model_that_the_server_mostly_is_not_do_not_count(tmp_path: Path) -> None:
    def respond(payload: Any, number: int) -> Any:
        if not is_about_a_pair(payload):
            return answer("tie")
        shown = replies_of(payload)
        return answer(reader(*shown), model="judge-2" if shown == ("bad two", "good two") else "judge-1")

    with serving(respond) as server:
        found = rank_pairs(ranker(server), "compare[0]", PAIRS, tmp_path, NO_LIMITS, no_bar)
    np.testing.assert_array_equal(found.orders, [[1, 1], [np.nan, -1], [1, -1], [0, 0], [0, 0]])
    assert found.outcomes == {"text": 7, "other_model": 1, "equal": 2} and np.isnan(found.verdicts[1])
    assert found.models == {"judge-1": 7, "judge-2": 1}


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
        found = rank_pairs(ranker(server), "compare[0]", PAIRS[:3], tmp_path, NO_LIMITS, no_bar)
    assert found.verdicts.tolist()[::2] == [1, 0] and np.isnan(found.verdicts[1])
    assert found.outcomes == {"text": 4, "unparsable": 1, "refused": 1}
    table = side_by_side(PAIRS[:3], {"rm": np.array([1.0, 1.0, -1.0])}, np.arange(3), {"llm": found.verdicts})
    assert (table["pairs"], table["left_out"]) == (2, 1)
    assert table["models"]["llm"]["accuracy"] == 0.75 and table["models"]["rm"]["accuracy"] == 0.5
    assert table["models"]["llm"]["differences"]["accuracy"]["value"] == 0.25
    assert "auc" not in table["models"]["llm"], "a verdict is no probability"


def test_the_table_has_a_row_for_the_ranker(tmp_path: Path) -> None:
    with serving(prefers(reader)) as server:
        data = f"data.path={write_jsonl(tmp_path / 'p.jsonl', rows_of(PAIRS[:4]))}"
        config = api.compose(
            ["reward=tiny", data, "part=all", "verbose=true", compared(server)],
            name="evaluate",
        )
        said: list[str] = []
        evaluate_reward(config, tmp_path / "out", world(), said.append, no_bar)
    row = next(line for line in said if line.startswith("  llm "))
    name, pairs, _, accuracy, *others = row.split()
    assert (name, pairs, accuracy) == ("llm", "4", "50.0") and others[-3:] == ["-", "-", "-"]
    assert "llm: the same verdict in both orders on 75.0% of 4 pairs; it has no probabilities" in said
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
        (["compare=[{use: llm, judge: {use: reward, name: x}}]"], "judge names no language model"),
    ],
)
def test_what_cannot_rank_is_refused(overrides: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        api.compose(overrides, name="evaluate")


def test_a_dry_run_counts_a_repeated_pair_once(tmp_path: Path) -> None:
    data = write_jsonl(tmp_path / "p.jsonl", rows_of([PAIRS[0], PAIRS[1], PAIRS[0]]))
    ranker = "compare=[{use: llm, judge: {use: local_vllm, model: m}}]"
    given = ["reward=tiny", f"data.path={data}", "part=all", "evaluation.controls=0", f"run_dir={tmp_path / 'out'}"]
    lines = ranking_forecast(api.compose([*given, ranker], name="evaluate"))
    assert lines[0].startswith("m: 4 calls, "), lines


@pytest.mark.slow
def test_a_dry_run_counts_the_calls_and_a_budget_stops_and_goes_on(tmp_path: Path) -> None:
    with serving(prefers(reader)) as server:
        data = f"data.path={write_jsonl(tmp_path / 'p.jsonl', rows_of(PAIRS[:4]))}"
        given = [
            "evaluate",
            "reward=tiny",
            data,
            "part=all",
            "evaluation.baselines=false",
            "evaluation.controls=0",
            "run_dir=out",
        ]
        given += [compared(server), "cluster.threads=1"]
        stopped = cli(*given, "budget.calls=3", cwd=tmp_path, check_code=GATE_NO)
        assert "budget.calls=3 (3 made): the next call would exceed this limit" in stopped.stderr
        assert read_json(tmp_path / "out" / "summary.json")["status"] == "budget spent"
        dry = cli(*given, "dry_run=true", cwd=tmp_path).stdout
        assert "m: 5 calls, about " in dry and "compare: 5 calls, 3 bought before; at no cost" in dry
        cli(*given, cwd=tmp_path)
        assert len(calls_of(server)) == 8, "no call was bought twice"
    summary = read_json(tmp_path / "out" / "summary.json")
    assert summary["status"] == "finished" and summary["compare"]["models"]["llm"]["accuracy"] == 0.5
    assert summary["compare"]["warnings"] == []


@pytest.mark.slow
def test_the_price_of_a_ranker_is_told_and_needed_for_a_limit_of_cost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)

    def compare(judge: str = "", more: str = "") -> str:
        return "compare=[{use: llm, judge: {use: openai, model: m" + judge + "}" + more + "}]"

    for given, said in [
        ([compare()], "compare[0].judge.key_variable=OPENAI_API_KEY: this environment variable is not set"),
        ([compare(), "budget.cost=1"], "the price of m is unknown"),
        ([compare(", input_price: 3"), "budget.cost=1"], "budget.cost=1: the price of m is unknown"),
        ([compare(more=", rubric: nowhere")], "nowhere"),
        (["budget.calls=3"], "budget.calls=3: has no effect, because compare contains no language model that ranks"),
    ]:
        answer = run_here(shlex.join(["evaluate", *given]))
        assert answer.code == 2 and said in answer.stderr, (given, answer.stderr)
    priced = compare(", input_price: 3, output_price: 15, max_tokens: 1000")
    dry = cli("evaluate", "limit=2", priced, "dry_run=true", cwd=tmp_path).stdout.splitlines()
    (line,) = [line for line in dry if line.startswith("m: 4 calls")]
    tokens = int(line.split("about ")[1].split(" ")[0].replace(",", ""))
    assert line.endswith(f"at most about {(3 * tokens + 15 * 4000) / 1e6:.4g}") and "at most 4,000 of answers" in line


def test_a_ranker_that_had_to_do_with_the_pairs_is_warned_of(tmp_path: Path) -> None:
    data = a_run(tmp_path / "data", annotator={**chat("gpt-4o", "labeller")})
    AnnotationDir(data).votes.touch()
    (data / "dataset").mkdir()
    run = a_run(tmp_path / "run", data={"path": str(data / "dataset"), **ALONE})
    pairs = [Example(str(n), "", PAIRS[n].prompt, PAIRS[n].replies, writers=["gpt-4-turbo", "qwen3"]) for n in range(2)]

    def warned(model: str, path: Path | str = "some/hub") -> list[str]:
        target = "psychocounsel.evaluation.reward.rankers.Ranker"
        section = {"_target_": target, "name": "llm", "judge": chat(model)}
        reward = {"_target_": LOCAL, "name": "mine", "path": str(run / "model")}
        config = {"data": {"path": str(path), **ALONE}, "reward": reward, "compare": [section]}
        return list(ranker_warnings(OmegaConf.create(config), pairs))

    family = (
        "warning: llm belongs to the model family (gpt) that wrote 50% of these replies: models tend to prefer their own "
        "family"
    )
    assert warned("gpt-4o", data / "dataset") == [
        "warning: llm labelled these pairs: its accuracy only measures agreement with itself",
        "warning: llm labelled the training data of mine, which learned to agree with it",
        family,
    ]
    assert warned("gpt-5", data / "dataset") == [
        "warning: llm and gpt-4o, which labelled these pairs, belong to one model family (gpt): they may share errors",
        family,
    ]
    assert warned("llama3.1:8b", data / "dataset") == []
