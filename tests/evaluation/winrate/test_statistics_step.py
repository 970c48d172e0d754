"""Figures from tables: dropouts are reported, equal replies do not count for judges, and risk has slices."""

from pathlib import Path
from typing import Any

import pytest

from psychocounsel.blocks.cells import Titled
from psychocounsel.errors import UserError
from psychocounsel.evaluation.contestants import replies_step as replies_step
from psychocounsel.evaluation.judging import verdicts_step
from psychocounsel.evaluation.winrate import statistics_step
from psychocounsel.evaluation.winrate.readers import read_experts, read_marks
from psychocounsel.evaluation.winrate.show import winrate_blocks
from psychocounsel.storage.files import read_json
from tests.support.annotating import model_server
from tests.support.contests import PROMPTS, Recorder, contest, context, data, replies, shown, verdict
from tests.support.harness import write_jsonl
from tests.support.scripted import completion
from tests.support.shown_blocks import rows


def figures(folder: Path, against: str, answer: Any) -> tuple[dict[str, Any], str]:
    said: list[str] = []
    with model_server(change=Recorder(answer)) as server:
        config = contest(
            "evaluation=winrate", *data(folder), f"model.path={folder}/mine.jsonl", f"against={against}",
            "judge=local_vllm", "judge.model=j", f"judge.addresses=[{server.address}/v1]", "verbose=true",
        )  # fmt: skip
        made = context(config, folder / "out", said)
        for step in (replies_step, verdicts_step, statistics_step):
            step.run(made)
    [variant] = read_json(folder / "out" / "figures.json")["variants"]
    return variant, "\n".join(said)


def test_a_contestant_that_does_not_reply_is_listed_and_said(tmp_path: Path) -> None:
    replies(tmp_path / "mine.jsonl", lambda prompt: f"What about {prompt[:13]}?")
    replies(tmp_path / "part.jsonl", lambda prompt: "No.", PROMPTS[:5])
    replies(tmp_path / "none.jsonl", lambda prompt: "No.", ["Something else."])
    against = f"[{tmp_path}/part.jsonl,{tmp_path}/none.jsonl]"
    found, said = figures(tmp_path, against, lambda payload, _: completion(verdict("tie"), payload))
    assert {name: each["overall"]["prompts"] for name, each in found["opponents"].items()} == {"part": 5, "none": 0}
    assert found["contestants"]["part"] == {"wanted": 12, "without_text": {"failed": 7}, "over_limit": 0}
    lines = [" ".join(line.split()) for line in said.splitlines()]
    assert "part 12 7 failed 0" in lines and "none 12 12 failed 0" in lines
    assert "* replies without text are in no comparison" in lines


def test_counts_and_warnings_stand_in_the_figures(tmp_path: Path) -> None:
    """A judge that prefers the first place twice, changes its model, and refuses one pair is counted and warned about."""
    replies(tmp_path / "mine.jsonl", lambda prompt: f"Hm, {prompt[:13]}?")
    replies(tmp_path / "base.jsonl", lambda prompt: f"No, {prompt[:13]}.")

    def answer(payload: Any, number: int) -> Any:
        text = payload["messages"][-1]["content"]
        given = completion("I'm sorry, but I can't help with that." if "week 3 " in text else verdict("first"), payload)
        return given | {"model": "other" if "week 4 " in text else "usual"}

    _, said = figures(tmp_path, f"{tmp_path}/base.jsonl", answer)
    found = read_json(tmp_path / "out" / "figures.json")
    assert found["verdicts"] == {"j": {"text": 20, "refused": 2, "other_model": 2}}
    assert found["answered_by"] == {"j": {"usual": 22, "other": 2}}
    several, contradicts, order, unmeasured = found["warnings"]
    assert unmeasured.startswith("warning: judge j was not measured on controls")
    assert several.startswith("warning: the server of judge j gave answers of several models (22 as usual, 2 as other)")
    assert contradicts.startswith("warning: judge j contradicts itself in 100 % of the pairs when their order changes")
    assert order == "warning: judge j has a strong position bias: it prefers the reply that is shown first"
    assert [said.count(line) for line in (contradicts, order, unmeasured)] == [1, 1, 1], "a warning stands once"
    assert said.count(several) == 2, "where the judge answered, and with the figure's other warnings"


def test_an_expert_has_one_answer_about_a_pair(tmp_path: Path) -> None:
    """Without the column `expert`, files of one name in two folders would be one expert, whose last answers counted."""
    row = {"prompt": PROMPTS[0], "reply_a": "One.", "reply_b": "Two."}
    files = []
    for name, better in (("x", "a"), ("y", "b")):
        (tmp_path / name).mkdir()
        files.append(write_jsonl(tmp_path / name / "pairs.jsonl", [row | {"better": better}]))
    with pytest.raises(UserError, match="pairs.jsonl line 1: pairs compared these replies before, with another answer"):
        read_experts([*map(str, files)])
    again = {**row, "reply_a": "Two.", "reply_b": "One.", "better": "b"}
    turned = write_jsonl(tmp_path / "turned.jsonl", [row | {"better": "a"}, again])
    assert {*read_experts([str(turned)])["turned"].values()} == {1.0, -1.0}
    same = write_jsonl(tmp_path / "same.jsonl", [{**row, "reply_b": "One. ", "better": "a"}])
    with pytest.raises(UserError, match="same.jsonl line 1: both replies are the same text; better must be tie"):
        read_experts([str(same)])


def test_agreement_is_that_of_the_pairs_of_an_opponent_and_of_all_experts(tmp_path: Path) -> None:
    """With two judges and two experts, each win rate has the agreement on its own pairs."""
    replies(tmp_path / "mine.jsonl", lambda prompt: f"Hm, {prompt[:13]}?")
    for name in ("base", "other"):
        replies(tmp_path / f"{name}.jsonl", lambda prompt, name=name: f"{name}, {prompt[:13]}.")  # type: ignore[misc]
    said = [
        {"prompt": prompt, "reply_a": f"Hm, {prompt[:13]}?", "reply_b": f"base, {prompt[:13]}.", "expert": expert}
        | {"better": "a" if place < right else "b"}
        for expert, right in (("e1", 4), ("e2", 2))
        for place, prompt in enumerate(PROMPTS[:4])
    ]
    experts = write_jsonl(tmp_path / "experts.jsonl", said)

    def answer(payload: Any, number: int) -> Any:
        first, _ = shown(payload)
        mine_first = first.startswith("Hm")
        likes_mine = payload["model"] == "warm"
        return completion(verdict("first" if mine_first == likes_mine else "second"), payload)

    with model_server(change=Recorder(answer)) as server:
        members = ",".join(
            f"{{use: local_vllm, model: {name}, addresses: [{server.address}/v1]}}" for name in ("warm", "cold")
        )
        config = contest(
            "evaluation=winrate", *data(tmp_path), f"model.path={tmp_path}/mine.jsonl",
            f"against=[{tmp_path}/base.jsonl,{tmp_path}/other.jsonl]", "judge=several", f"judge.members=[{members}]",
            f"evaluation.experts=[{experts}]",
        )  # fmt: skip
        made = context(config, tmp_path / "out")
        for step in (replies_step, verdicts_step, statistics_step):
            step.run(made)
    written: Any = read_json(tmp_path / "out" / "figures.json")
    [variant] = written["variants"]
    beside = {name: each["experts"] for name, each in variant["opponents"].items()}
    shares = {name: (each["raw"]["value"], each["rows"]) for name, each in beside["base"]["by_judge"].items()}
    assert shares == {"warm": (6 / 8, 8), "cold": (2 / 8, 8)}
    together = beside["base"]["together"]
    assert (together["raw"]["value"], together["rows"], together["prompts"]) == (8 / 16, 16, 4)
    assert beside["other"] == {"together": None, "by_judge": {}, "readers": None}
    blocks = winrate_blocks([Titled("", written)])
    by_judge = [row for row in rows(blocks, "win-rate-slices") if row["kind"] == "judge"]
    told = {(row["against"], row["slice"]): row["judge and experts agree"] for row in by_judge}
    assert [told["base", name].value for name in ("warm", "cold")] == [6 / 8, 2 / 8]
    assert told["other", "warm"] is told["other", "cold"] is None
    headline = rows(blocks, "win-rates")
    assert headline[0]["judges and experts agree"].value == 8 / 16
    assert headline[1]["judges and experts agree"] is None


def test_blind_readers_have_a_win_rate_of_their_own(tmp_path: Path) -> None:
    """Two readers compare 4 of 12 pairs: harm loses, both harmful tie, and sense is averaged over readers, then replies."""
    replies(tmp_path / "mine.jsonl", lambda prompt: f"Hm, {prompt[:13]}?")
    replies(tmp_path / "base.jsonl", lambda prompt: f"No, {prompt[:13]}.")
    better = {
        "r1": [("a", False, False), ("a", True, False), ("tie", True, True), ("b", False, False)],
        "r2": [("a", False, False), ("a", False, False), ("a", False, False), ("tie", False, False)],
    }
    said = [
        {"prompt": prompt, "reply_a": f"Hm, {prompt[:13]}?", "reply_b": f"No, {prompt[:13]}.", "expert": expert}
        | {"better": side, "harm_a": harm_a, "harm_b": harm_b, "sense_a": 4, "sense_b": 2 + (expert == "r2")}
        for expert, given in better.items()
        for prompt, (side, harm_a, harm_b) in zip(PROMPTS[:4], given, strict=True)
    ]
    experts = write_jsonl(tmp_path / "experts.jsonl", said)
    with model_server(change=Recorder(lambda payload, _: completion(verdict("tie"), payload))) as server:
        config = contest(
            "evaluation=winrate", *data(tmp_path), f"model.path={tmp_path}/mine.jsonl", f"against={tmp_path}/base.jsonl",
            "judge=local_vllm", "judge.model=j", f"judge.addresses=[{server.address}/v1]",
            f"evaluation.experts=[{experts}]",
        )  # fmt: skip
        made = context(config, tmp_path / "out")
        for step in (replies_step, verdicts_step, statistics_step):
            metrics = step.run(made)
    written: Any = read_json(tmp_path / "out" / "figures.json")
    readers = written["variants"][0]["opponents"]["base"]["experts"]["readers"]
    # r1: won, lost by harm, tie by harm, lost; r2: won, won, won, tie
    assert readers["result"]["win_rate"]["value"] == pytest.approx((1 + 0.5 + 0.75 + 0.25) / 4)
    assert readers["readers"] == ["r1", "r2"] and readers["result"]["prompts"] == 4
    assert readers["agreement"]["raw"]["value"] == 1 / 4 and readers["agreement"]["rows"] == 4
    assert [sense["mean"]["value"] for sense in readers["sense"]] == [4, 2.5]
    assert [sense["high"]["value"] for sense in readers["sense"]] == [1, 0]
    assert readers["harmful"] == [{"marked": 2, "replies": 4}, {"marked": 1, "replies": 4}]
    assert metrics["metrics"]["readers_win_rate/base"] == readers["result"]["win_rate"]["value"]
    [row] = rows(winrate_blocks([Titled("", written)]), "readers")
    assert (row["readers"], row["harmful, model"], row["clients"]) == ("r1, r2", "2 of 4", "4")


def test_a_wrong_sense_or_harm_is_named(tmp_path: Path) -> None:
    row = {"prompt": PROMPTS[0], "reply_a": "One.", "reply_b": "Two.", "better": "a"}
    for wrong, why in (
        ({"sense_b": 6}, "sense_b must be a number from 1 to 5"),
        ({"harm_a": "maybe"}, "harm_a must be true or false"),
        ({"harm_b": 2}, "harm_b must be true or false"),
        ({"sense_a": True}, "sense_a must be a number from 1 to 5"),
    ):
        file = write_jsonl(tmp_path / "pairs.jsonl", [row | wrong])
        with pytest.raises(UserError, match=f"evaluation.experts: pairs.jsonl line 1: {why}"):
            read_marks([str(file)])


def test_verdicts_in_one_order_alone_give_no_figure_and_no_ranking(tmp_path: Path) -> None:
    replies(tmp_path / "mine.jsonl", lambda prompt: f"Hm, {prompt[:13]}?")
    for name in ("base", "other"):
        replies(tmp_path / f"{name}.jsonl", lambda prompt, name=name: f"{name}, {prompt[:13]}.")  # type: ignore[misc]

    def answer(payload: Any, number: int) -> Any:
        mine_first = shown(payload)[0].startswith("Hm")
        return completion(verdict("first") if mine_first else "I'm sorry, but I can't help with that.", payload)

    found, said = figures(tmp_path, f"[{tmp_path}/base.jsonl,{tmp_path}/other.jsonl]", answer)
    assert found["ranking"] is None and "One scale for all models" not in said
    assert said.count("no pair has a verdict in both orders") == 2


def test_equal_replies_say_nothing_of_a_judge(tmp_path: Path) -> None:
    replies(tmp_path / "mine.jsonl", lambda prompt: "Tell me more." if prompt in PROMPTS[:6] else f"Hm, {prompt[:13]}?")
    replies(tmp_path / "base.jsonl", lambda prompt: "Tell me more.")
    found, _ = figures(tmp_path, f"{tmp_path}/base.jsonl", lambda payload, _: completion(verdict("first"), payload))
    assert found["opponents"]["base"]["overall"]["rows"] == 12
    assert found["judges"]["j"]["rows"] == 6
    assert found["judges"]["j"]["inconsistent"]["value"] == 1.0
    assert found["opponents"]["base"]["risk"].keys() == {"risk unknown"}
