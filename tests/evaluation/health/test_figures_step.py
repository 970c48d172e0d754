"""Step from files of replies to figures.json: every reply is measured as if alone."""

from pathlib import Path

import pytest

from psychocounsel.evaluation.contestants import replies_step
from psychocounsel.evaluation.health import figures_step
from psychocounsel.evaluation.health.reply import health_of
from psychocounsel.storage.files import read_json
from tests.support.contests import PROMPTS, contest, context, data, replies


def looping(prompt: str) -> str:
    return f"I hear you. Client: {prompt[:20]} " + "and then I cry " * 5


def test_a_file_of_broken_replies_is_worse_than_one_of_sound_ones(tmp_path: Path) -> None:
    bad = replies(tmp_path / "bad.jsonl", looping)
    good = replies(tmp_path / "good.jsonl", lambda prompt: f"You say: {prompt[:30]}. What would help you tonight?")
    config = contest("evaluation=health", *data(tmp_path), f"model.path={bad}", f"against={good}")
    with_files = context(config, tmp_path / "out")
    replies_step.run(with_files)
    metrics = figures_step.run(with_files)["metrics"]
    written = read_json(tmp_path / "out" / "figures.json")
    assert (written["evaluation"], written["model"]) == ("health", "bad")
    (variant,) = written["variants"]
    verdicts = {name: found["verdict"] for name, found in variant["against"]["good"].items()}
    assert {verdicts[name] for name in ("loop", "invented_turns", "unfinished", "repetition")} == {"worse"}
    assert {verdicts[name] for name in ("empty", "refusal", "leaked_tokens", "junk")} == {"unclear"}
    alone = [health_of(looping(prompt), prompt) for prompt in PROMPTS]
    for name in ("words", "characters", "repetition", "distinct_2"):
        assert metrics[name] == pytest.approx(sum(each[name] or 0 for each in alone) / len(PROMPTS))
    exceeded = [each["name"] for each in variant["settings"]["bad"]["limits"] if each["verdict"] == "exceeded"]
    assert len(written["warnings"]) == len(exceeded) == metrics["limits_exceeded"] > 1
    assert all(line.startswith("warning: bad: ") for line in written["warnings"])
    assert "cut" not in metrics, "replies from files do not show whether they were cut"
    assert not [prompt for prompt in PROMPTS if prompt in (tmp_path / "out" / "figures.json").read_text()]
