"""The step `controls`: what judges are asked, once for each judge and set of controls, and what the win rate says of it."""

from pathlib import Path
from typing import Any

import pytest

from psychocounsel.counsel.controls import KINDS
from psychocounsel.evaluation.contestants import replies_step
from psychocounsel.evaluation.judging import verdicts_step
from psychocounsel.evaluation.winrate import controls_step, statistics_step
from psychocounsel.rundir.paths import EvaluationDir
from psychocounsel.steps.tables import rows_of
from psychocounsel.storage.files import read_json
from tests.support.annotating import model_server
from tests.support.contests import PROMPTS, Recorder, contest, context, data, replies, shown, verdict
from tests.support.scripted import completion

GOOD = "What keeps you awake?"  # the chosen reply of every row


def longer(payload: Any, number: int) -> Any:
    first, second = shown(payload)
    return completion(verdict("first" if len(first) > len(second) else "second"), payload)


def evaluated(folder: Path, out: str, answer: Any, *overrides: str) -> tuple[dict[str, Any], list[Any], EvaluationDir]:
    recorder = Recorder(answer)
    with model_server(change=recorder) as server:
        config = contest(
            "evaluation=winrate", *data(folder), f"model.path={folder}/mine.jsonl", f"against={folder}/base.jsonl",
            "judge=local_vllm", "judge.model=j", f"judge.addresses=[{server.address}/v1]", f"paths.cache={folder}/cache",
            "evaluation.controls=5", *overrides,
        )  # fmt: skip
        made = context(config, folder / out)
        for step in (replies_step, verdicts_step, controls_step):
            step.run(made)
        metrics = statistics_step.run(made)
    return metrics, recorder.payloads, EvaluationDir(folder / out)


def test_controls_and_replies_meet_those_of_the_data_and_a_judge_is_asked_once(tmp_path: Path) -> None:
    replies(tmp_path / "mine.jsonl", lambda prompt: f"Hm. What about {prompt[6:12]}, and how long has it been so?")
    replies(tmp_path / "base.jsonl", lambda prompt: f"No, {prompt[6:12]}.")
    summary, asked, files = evaluated(tmp_path, "one", longer)
    rows = [*rows_of(files.controls, ["speech", "first_setting", "second_setting", "order", "overall", "outcome"])]
    assert len({row["speech"] for row in rows}) == 5
    kinds = {row["first_setting"] for row in rows}
    # All rows share one good reply, so there is none to another client. A speech of one sentence has none to shuffle. The data
    # hold no third reply, so no median.
    made = {f"control {kind}" for kind in KINDS if kind not in ("other_client", "sentences")}
    assert kinds == made | {"mine", "base"}
    assert {row["second_setting"] for row in rows} == {"data best"} and len(rows) == 5 * 11
    assert {row["order"] for row in rows} == {"forward", "backward"}, "one order each, which the pair decides"
    lengths = {"control echo": 1, "control cut": -1, "control loop": 1, "mine": 1, "base": -1}
    for row in rows:
        assert row["overall"] == lengths.get(row["first_setting"], row["overall"]), row
    metrics = summary["metrics"]
    assert metrics["worst_control"] == 1 and metrics["judges_fooled"] == 1 and metrics["against_best"] == 1
    fooled, beaten = summary["doubts"]
    told = "judge j prefers bad replies made by rule to the best reply of the data: the client's own words (100 %), "
    assert fooled.startswith(told) and fooled.endswith(", 5 more; its win rates prove nothing")
    assert beaten.startswith("the judges prefer mine to the best reply of the data in 100.0 %")
    figures = read_json(files.figures)
    assert [f"warning: {line}" for line in summary["doubts"]] == figures["warnings"][-2:]
    cautions = [line.removeprefix("warning: ") for line in figures["warnings"]]
    [conclusion] = summary["verdicts"]
    assert conclusion["cautions"][1:] == cautions, "after the number of clients, every warning once"
    assert figures["controls"]["judges"]["j"]["echo"]["best"]["value"] == 1
    # The cache answers for the controls, so the second evaluation asks only about its contestants' replies.
    replies(tmp_path / "mine.jsonl", lambda prompt: f"Another reply {prompt[6:12]}?")
    _, again, _ = evaluated(tmp_path, "two", longer)
    on_controls = 5 * 9
    assert len(asked) == 12 * 2 + on_controls + 5 * 2 and len(again) == 12 * 2 + 5 * 2
    [kept] = (tmp_path / "cache" / "controls").glob("*.parquet")
    # A damaged file of the cache counts as missing, for the evaluation and for `cache list`.
    kept.write_bytes(b"PAR1")
    assert [entry.of for entry in controls_step.entries(tmp_path / "cache")] == ["damaged"]
    _, repaired, _ = evaluated(tmp_path, "three", longer)
    assert len(repaired) == len(asked)


def test_a_judge_that_may_see_the_speeches_later_is_asked_about_controls(tmp_path: Path) -> None:
    for name in ("mine", "base"):
        replies(tmp_path / f"{name}.jsonl", lambda prompt, name=name: f"So {name}?")  # type: ignore[misc]
    outcomes = []
    for out, more in (("withheld", []), ("told", ["crisis_to_third_parties=true"])):
        *_, files = evaluated(tmp_path, out, longer, "judge.third_party=true", *more)
        outcomes.append({row["outcome"] for row in rows_of(files.controls, ["outcome"])})
    assert outcomes == [{"withheld"}, {"text"}]


def test_a_judge_of_one_language_is_asked_about_controls_once_it_judges_any(tmp_path: Path) -> None:
    """The cache also holds rows of versions that took the two judges for one."""
    for name in ("mine", "base"):
        replies(tmp_path / f"{name}.jsonl", lambda prompt, name=name: f"So {name}?")  # type: ignore[misc]
    outcomes = []
    for out, language in (("german", "de"), ("any", "null")):
        *_, files = evaluated(tmp_path, out, longer, f"judge.language={language}")
        outcomes.append({row["outcome"] for row in rows_of(files.controls, ["outcome"])})
    assert outcomes == [{"other_language"}, {"text"}]


def test_verdicts_on_controls_are_those_of_the_model_that_judges_the_pairs(tmp_path: Path) -> None:
    """The cache keeps verdicts for a judge, whose server may serve another model later."""
    for name in ("mine", "base"):
        replies(tmp_path / f"{name}.jsonl", lambda prompt, name=name: f"So {name}?")  # type: ignore[misc]

    def first_model(payload: Any, number: int) -> Any:
        return longer(payload, number) | {"model": "first"}

    def second_model(payload: Any, number: int) -> Any:
        return completion(verdict("tie"), payload) | {"model": "second"}

    numbers = []
    for out, answer in (("one", first_model), ("two", second_model), ("three", second_model)):
        summary, asked, files = evaluated(tmp_path, out, answer)
        numbers.append(len(asked))
        models = {row["model"] for row in rows_of(files.controls, ["model"])}
        assert models == ({"first"} if out == "one" else {"second"})
        assert summary["metrics"]["worst_control"] == (1 if out == "one" else 0.5)
    assert numbers[0] == numbers[1] > numbers[2], "the second model is asked about controls, once"


def test_a_judge_whose_server_changed_before_the_controls_counts_as_not_measured(tmp_path: Path) -> None:
    for name in ("mine", "base"):
        replies(tmp_path / f"{name}.jsonl", lambda prompt, name=name: f"So {name}?")  # type: ignore[misc]

    def changing(payload: Any, number: int) -> Any:
        on_pairs = {*shown(payload)} == {"So mine?", "So base?"}
        return longer(payload, number) | {"model": "first" if on_pairs else "second"}

    summary, _, files = evaluated(tmp_path, "out", changing)
    assert {row["outcome"] for row in rows_of(files.controls, ["outcome"])} == {"other_model"}
    assert summary["doubts"][0].startswith("judge j was not measured on controls")
    assert not (tmp_path / "cache" / "controls").exists(), "verdicts that do not count are not kept"


def test_a_judge_that_is_never_fooled_leaves_no_doubt(tmp_path: Path) -> None:
    replies(tmp_path / "mine.jsonl", lambda prompt: "So what would help?")
    replies(tmp_path / "base.jsonl", lambda prompt: f"No, {prompt[6:12]}.")

    def wise(payload: Any, number: int) -> Any:
        first, second = shown(payload)
        side = "first" if first == GOOD else "second" if second == GOOD else "tie"
        return completion(verdict(side), payload)

    summary, *_ = evaluated(tmp_path, "out", wise)
    assert summary["doubts"] == [] and summary["metrics"]["judges_fooled"] == 0
    assert summary["metrics"]["worst_control"] == 0 and summary["metrics"]["against_best"] == 0
    strict, *_ = evaluated(tmp_path, "strict", longer, "evaluation.max_control=1")
    assert strict["metrics"]["judges_fooled"] == 0


@pytest.mark.parametrize(
    ("mine", "base", "rate"),
    [
        (lambda prompt: "So what would help?", lambda prompt: prompt, 1.0),  # an echo loses
        (lambda prompt: prompt + " " + prompt, lambda prompt: prompt, 0.5),  # two echoes tie
        (lambda prompt: "I hear you. " * 8, lambda prompt: "So?", 0.0),  # a loop loses, although the judge prefers it
        (
            lambda prompt: "A longer reply than that.",
            lambda prompt: "So what?",
            1.0,
        ),  # healthy replies: the judge decides
    ],
)
def test_unhealthy_replies_lose_whatever_the_judge_says(tmp_path: Path, mine: Any, base: Any, rate: float) -> None:
    replies(tmp_path / "mine.jsonl", mine)
    replies(tmp_path / "base.jsonl", base)
    summary, *_ = evaluated(tmp_path, "out", longer, "evaluation.controls=0")
    metrics = summary["metrics"]
    plain = float(len(mine(PROMPTS[0])) > len(base(PROMPTS[0])))
    assert (metrics["win_rate"], metrics["win_rate_plain"]) == (rate, plain)
    assert summary["doubts"][0].startswith("judge j was not measured on controls")
