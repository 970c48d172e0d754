"""Inspect runs our tasks, and its scores equal our own figures. `make extras` installs Inspect."""

import json
import math
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from psychocounsel.counsel.principles import PRINCIPLES
from psychocounsel.errors import UserError
from psychocounsel.evaluation.contestants import replies_step as replies_step
from psychocounsel.evaluation.health.reply import FIGURES, health_of
from psychocounsel.evaluation.judging import verdicts_step
from psychocounsel.evaluation.safety import answers_step as safety_answers_step
from psychocounsel.evaluation.safety import figures_step
from psychocounsel.evaluation.safety import replies_step as safety_replies_step
from psychocounsel.evaluation.safety.questions import written_answers
from psychocounsel.evaluation.safety.speeches import crisis_speeches
from psychocounsel.evaluation.safety.word_checks import check_reply
from psychocounsel.evaluation.winrate import statistics_step
from psychocounsel.storage.files import read_json
from tests.support.annotating import model_server
from tests.support.contests import Recorder, contest, context, replies, shown, verdict
from tests.support.harness import ROOT, write_jsonl
from tests.support.safety_folders import AGREES, fitting
from tests.support.scripted import completion

pytestmark = pytest.mark.extras
inspect_ai = pytest.importorskip("inspect_ai", reason="Inspect is an extra: pip install 'psychocounsel[inspect]'")

CLIENTS = [
    "I lost my brother in March, and since then I have not been able to sleep through a single night.",
    "My manager humiliates me in front of the team, and I have started to dread every Monday morning.",
    "Seit der Trennung sitze ich jeden Abend allein in der Wohnung und weiss nicht, wohin mit mir.",
]
REPLIES = [
    "That sounds lonely and exhausting. What goes through your mind when you lie awake?",
    "You should quit. You should quit. You should quit. You should quit. You should quit. You should quit.",
    "It must hurt to be treated like that. Client: Yes. Therapist: Go on",
]


def pairs(folder: Path) -> Path:
    rows = [{"prompt": text, "chosen": "I hear you.", "rejected": "Get over it."} for text in CLIENTS]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder / "pairs.jsonl"


def run(task: Any, folder: Path, stop: str = "stop", said: Sequence[str] = REPLIES) -> Any:
    """Run a task with a model that gives the answers `said` in turn; return Inspect's log."""
    from inspect_ai.model import ModelOutput, ModelUsage, get_model

    outputs = [ModelOutput.from_content("mockllm/model", text, stop_reason=stop) for text in said]
    for output in outputs:
        output.usage = ModelUsage()  # otherwise Inspect would load a tokenizer from the network to count tokens
    model = get_model("mockllm/model", custom_outputs=outputs)
    (log,) = inspect_ai.eval(task, model=model, log_dir=str(folder / "logs"), display="none", max_samples=1)
    assert log.status == "success", log.error
    return log


@pytest.mark.parametrize("stop", ["stop", "max_tokens"])
def test_health_is_ours(tmp_path: Path, stop: str) -> None:
    from psychocounsel.evaluation.external.inspect_tasks import health

    log = run(health(data=str(pairs(tmp_path)), part="all"), tmp_path, stop)
    wanted = {}
    for sample in log.samples:
        client, reply = sample.input[-1].content, sample.output.completion
        assert client in CLIENTS and reply in REPLIES and sample.input[0].role == "system"
        wanted[client] = health_of(reply, client, stop == "max_tokens")
        found = sample.scores["health_figures"].value
        for name, value in wanted[client].items():
            assert (value is None and math.isnan(found[name])) or found[name] == value, name
    assert len(wanted) == 3
    means = {score.name: next(iter(score.metrics.values())).value for score in log.results.scores}
    for name in FIGURES:
        values = [each[name] for each in wanted.values() if each[name] is not None]
        assert (math.isnan(means[name]) and not values) or means[name] == pytest.approx(np.mean(values)), name


def test_winrate_is_that_of_the_rewards(tmp_path: Path) -> None:
    from psychocounsel.evaluation.external.inspect_tasks import winrate
    from psychocounsel.reward.local_model import LocalScorer

    rows = [{"prompt": text, "reply": "I am here with you. What would help tonight?"} for text in CLIENTS[:2]]
    (tmp_path / "base.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    given: Any = {"against": str(tmp_path / "base.jsonl"), "data": str(pairs(tmp_path)), "part": "all"}
    with pytest.raises(UserError, match="nothing judges the replies; give -T judge=openai/NAME, or -T reward="):
        winrate(**given)
    log = run(winrate(**given, reward="builtin:tiny_reward"), tmp_path)
    scorer, scores = LocalScorer.load("builtin:tiny_reward"), []
    for sample in log.samples:
        value, client = sample.scores["preferred"].value, sample.input[-1].content
        if client == CLIENTS[2]:
            assert math.isnan(value), "the file has no reply"
            continue
        texts = (sample.output.completion, rows[0]["reply"])
        talks = [[{"role": "user", "content": client}, {"role": "assistant", "content": text}] for text in texts]
        mine, base = scorer.unnormalised(scorer.score(talks))
        scores.append(float(mine > base))
        assert value == scores[-1]
    assert log.results.scores[0].metrics["mean"].value == pytest.approx(np.mean(scores))


def better(first: str, second: str) -> str:
    """Judge that prefers the first position if a reply quotes an order to quit, and questions otherwise."""
    if "quit" in first + second:
        return "first"
    asks = ["?" in text for text in (first, second)]
    return "tie" if asks[0] == asks[1] else "first" if asks[0] else "second"


def words_judge(text: str) -> str:
    """Safety judge that answers like the plain checks; its answers about disliked replies are unreadable."""
    reply = text.split("<reply-")[1].split(">\n", 1)[1].split("\n</reply-")[0]
    return "Hm." if "later" in reply else written_answers(check_reply(reply))


@pytest.fixture(scope="module")
def scripted_judges() -> None:
    """Register the models scripted/judge, scripted/mute and scripted/words with Inspect."""
    from inspect_ai.model import ModelAPI, ModelOutput, ModelUsage, modelapi

    @modelapi(name="scripted")
    class Scripted(ModelAPI):
        async def generate(self, input: Any, tools: Any, tool_choice: Any, config: Any) -> ModelOutput:
            if self.model_name == "words":
                said = words_judge(input[-1].text)
            else:
                side = better(*shown({"messages": [{"content": input[-1].text}]}))
                said = "Hm." if self.model_name == "mute" else verdict(side)
            output = ModelOutput.from_content(self.model_name, said)
            output.usage = ModelUsage()
            return output


def ours(folder: Path) -> dict[str, Any]:
    """Return the figures of `evaluation=winrate` for the same replies, with a server that judges by the same rule."""
    mine = dict(zip(CLIENTS, REPLIES, strict=True))
    replies(folder / "mine.jsonl", lambda prompt: mine[prompt], CLIENTS)
    judge = Recorder(lambda payload, _: completion(verdict(better(*shown(payload))), payload))
    with model_server(change=judge) as server:
        config = contest(
            "evaluation=winrate", "data=local", f"data.path={pairs(folder)}", "part=all",
            f"model.path={folder}/mine.jsonl", f"against={folder}/base.jsonl",
            "judge=local_vllm", "judge.model=j", f"judge.addresses=[{server.address}/v1]",
        )  # fmt: skip
        made = context(config, folder / "ours")
        for step in (replies_step, verdicts_step, statistics_step):
            step.run(made)
    found = read_json(folder / "ours" / "figures.json")["variants"][0]
    return {**found["opponents"]["base"], "judges": found["judges"], "prompts": judge.payloads}


def test_winrate_by_language_models_is_ours(tmp_path: Path, scripted_judges: None) -> None:
    """Inspect's figures equal those of our own steps, for both orders, ties and a judge with a preferred position."""
    from inspect_ai.log import read_eval_log

    from psychocounsel.evaluation.external.inspect_tasks import winrate

    replies(tmp_path / "base.jsonl", lambda prompt: "I am here with you.", CLIENTS)
    wanted = ours(tmp_path)
    given = {"against": str(tmp_path / "base.jsonl"), "data": str(pairs(tmp_path)), "part": "all"}
    log = run(winrate(**given, judge=["scripted/judge", "scripted/mute"]), tmp_path)
    means = {score.name: next(iter(score.metrics.values())).value for score in log.results.scores}
    rate, contradicting = wanted["plain"]["win_rate"]["value"], wanted["judges"]["j"]["inconsistent"]["value"]
    assert rate != 0.5 and contradicting > 0, "or equal figures would show nothing"
    assert means["win_rate"] == pytest.approx(rate) and means["inconsistent"] == pytest.approx(contradicting)
    for name in PRINCIPLES:
        assert means[name] == pytest.approx(wanted["principles"][name]["win_rate"]["value"]), name
    rows = [row for sample in log.samples for row in sample.scores["judged_in_both_orders"].metadata["verdicts"]]
    assert {row["judge"]: row["outcome"] for row in rows} == {"scripted/judge": "text", "scripted/mute": "unparsable"}
    whole = read_eval_log(log.location, resolve_attachments=True)
    asked = [
        event.input
        for sample in whole.samples
        for event in sample.events
        if event.event == "model" and "judge" in event.model
    ]
    assert sorted(each[-1].text for each in asked) == sorted(
        each["messages"][-1]["content"] for each in wanted["prompts"]
    )


def test_the_log_holds_the_transcripts_and_its_viewer_can_be_bundled(tmp_path: Path, scripted_judges: None) -> None:
    from inspect_ai.log import bundle_log_dir, read_eval_log

    from psychocounsel.evaluation.external.inspect_tasks import winrate

    replies(tmp_path / "base.jsonl", lambda prompt: "I am here with you.", CLIENTS)
    given = {"against": str(tmp_path / "base.jsonl"), "data": str(pairs(tmp_path)), "part": "all"}
    location = Path(run(winrate(**given, judge="scripted/judge"), tmp_path).location.removeprefix("file://"))
    log = read_eval_log(str(location))
    said = {sample.input[-1].text: sample for sample in log.samples}
    assert [*said] == CLIENTS
    for reply, sample in zip(REPLIES, said.values(), strict=True):
        score = sample.scores["judged_in_both_orders"]
        assert [message.role for message in sample.messages] == ["system", "user", "assistant"]
        assert sample.messages[-1].text == sample.output.completion == score.answer == reply
        assert (
            set(score.value) == {"win_rate", "inconsistent", *PRINCIPLES}
            and "scripted/judge, forward" in score.explanation
        )
    bundle_log_dir(log_dir=str(location.parent), output_dir=str(tmp_path / "page"))
    assert (tmp_path / "page" / "index.html").is_file()
    assert (tmp_path / "page" / "logs" / location.name).read_bytes() == location.read_bytes()
    assert location.name in (tmp_path / "page" / "logs" / "listing.json").read_text()


SPEECHES = crisis_speeches()[:16]


def safety_replies() -> list[str]:
    """Return four replies to each speech: fitting, agreeing with harm, empty, and one whose judgement is unreadable."""
    kinds = [fitting, lambda each: AGREES, lambda each: "", lambda each: "Let us talk about that later."]
    return [kinds[place % 4](each) for place, each in enumerate(SPEECHES)]


def our_safety(folder: Path, *judge: str) -> Any:
    """Return the figures of `evaluation=safety` for the same replies."""
    rows = [{"prompt": each.text, "reply": reply} for each, reply in zip(SPEECHES, safety_replies(), strict=True)]
    write_jsonl(folder / "mine.jsonl", rows)
    given = [f"model.path={folder}/mine.jsonl", "against=null", f"limit={len(SPEECHES)}", "evaluation.swaps=false"]
    made = context(contest("evaluation=safety", *given, *judge), folder / "ours")
    for step in (safety_replies_step, safety_answers_step, figures_step):
        step.run(made)
    [found] = read_json(folder / "ours" / "figures.json")["judges"].values()
    return found["settings"]["mine"]


def test_safety_is_ours(tmp_path: Path, scripted_judges: None) -> None:
    from psychocounsel.evaluation.external.inspect_tasks import safety

    def answer(payload: Any, _: int) -> Any:
        return completion(words_judge(payload["messages"][-1]["content"]), payload)

    with pytest.raises(UserError, match="nothing judges the replies"):
        safety()
    with model_server(change=Recorder(answer)) as server:
        wanted = our_safety(tmp_path, "judge=local_vllm", "judge.model=j", f"judge.addresses=[{server.address}/v1]")
    log = run(safety(judge="scripted/words", limit=len(SPEECHES)), tmp_path, said=safety_replies())
    assert "no clinician has reviewed it" in log.eval.metadata["warning"]
    means = {score.name: next(iter(score.metrics.values())).value for score in log.results.scores}
    for name, each in wanted["figures"].items():
        assert means[name] == pytest.approx(each["mean"]), name
    assert 0 < means["missed"] < 1 and means["colludes"] > 0, "or equal figures would show little"
    flagged = {one["speech"] for one in wanted["hard"]["colludes"]}
    colluding = {sample.id for sample in log.samples if sample.scores["safety_figures"].value["colludes"] == 1}
    assert colluding == flagged and len(flagged) == 4
    told = sum(not math.isnan(sample.scores["safety_figures"].value["triage_fits"]) for sample in log.samples)
    assert told == wanted["figures"]["triage_fits"]["replies"] < len(SPEECHES)
    strata = {sample.metadata["expected_action"] for sample in log.samples}
    assert strata == {each.expected_action for each in SPEECHES}


def test_inspect_finds_the_tasks_by_the_package_name() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["entry-points"]["inspect_ai"] == {"psychocounsel": "psychocounsel.evaluation.external.inspect_tasks"}
