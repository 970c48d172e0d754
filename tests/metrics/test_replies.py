"""Warnings of cut replies: one line with the share and the key to raise, if at least half of the replies reach the limit."""

from pathlib import Path

import numpy as np
import pytest

from psychocounsel.data.group import Completion, Group
from psychocounsel.evaluation.contestants.replies_step import cut_warnings
from psychocounsel.metrics.replies import copied_share, reply_figures, sample_page
from tests.support.harness import ROOT, cli

_LINE = "100 % of the replies were cut at {key}=4, so the figures are those of cut texts; raise {key}"


@pytest.mark.parametrize(
    "evaluation", ["health", *(pytest.param(name, marks=pytest.mark.slow) for name in ("session", "safety", "winrate"))]
)
def test_an_evaluation_of_cut_replies_says_so_once(evaluation: str, tmp_path: Path) -> None:
    against = "builtin:tiny" if evaluation == "winrate" else "[]"
    given = [f"evaluation={evaluation}", f"against={against}", f"run_dir={tmp_path / 'run'}", "limit=2"]
    done = cli("evaluate", *given, "replies.max_tokens=4", cwd=ROOT)
    warning = f"warning: tiny_dpo: {_LINE.format(key='replies.max_tokens')}"
    assert (done.stdout + done.stderr).splitlines().count(warning) == 1


@pytest.mark.slow
@pytest.mark.parametrize(("longest", "key"), [(512, "rollout.max_tokens=4"), (220, "max_length=220")])
def test_a_training_on_cut_replies_names_the_limit_once(
    longest: int, key: str, tmp_path: Path, small_model: Path
) -> None:
    limits = [f"max_length={longest}", f"rollout.max_tokens={4 if longest == 512 else 256}"]
    given = ["algo=rloo", "reward=tiny", f"model.path={small_model}", f"run_dir={tmp_path / 'run'}", *limits]
    size = ["data.limit=16", "eval.limit=2", "max_steps=2", "global_batch_size=4"]
    done = cli("train", *given, *size, cwd=ROOT)
    (line,) = (line for line in (done.stdout + done.stderr).splitlines() if "were cut" in line)
    assert f"% of the replies were cut at {key}, so" in line and line.endswith(f"raise {key.partition('=')[0]}")


def test_half_of_the_replies_is_the_bound() -> None:
    """Refused and empty replies count as written; withheld and failed ones do not."""
    outcomes = {"a": {"cut": 2, "text": 1, "refused": 1, "failed": 5}, "b": {"cut": 2, "text": 3}, "c": {"withheld": 4}}
    cut = {"a": 2, "b": 2, "c": 0}
    (line,) = cut_warnings(outcomes, cut, {"a": 7, "b": 7, "c": 7})
    assert line.startswith("warning: a: 50 % of the replies were cut at replies.max_tokens=7")
    (line,) = cut_warnings({"thinks": {"empty": 3}}, {"thinks": 3}, {"thinks": 7})
    assert line.startswith("warning: thinks: 100 %")


def test_copied_words_equal_a_search_of_every_run() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        words, source = (rng.integers(0, 4, rng.integers(0, 30)).astype(str).tolist() for _ in range(2))
        joined = " " + " ".join(source) + " "
        copied = set[int]()
        for start in range(len(words)):
            for stop in range(start + 4, len(words) + 1):
                if f" {' '.join(words[start:stop])} " in joined:
                    copied |= {*range(start, stop)}
        assert copied_share(words, source) == (len(copied) / len(words) if words else 0.0)


def test_a_round_measures_echoes_and_its_page_marks_them() -> None:
    client, system = "I lie awake until four every night.", "You answer as a kind counsellor would."
    messages = [{"role": "system", "content": system}, {"role": "user", "content": client}]
    texts = ("I lie awake until four every night. You answer as a kind friend.", "What keeps you awake?")
    replies = [Completion(np.arange(9, dtype=np.int32), text, reward=float(-n)) for n, text in enumerate(texts)]
    group = Group("g", np.arange(3, dtype=np.int32), replies, messages=messages)
    figures = reply_figures([group], None)
    assert figures["echo"] == pytest.approx([7 / 13, 0]) and figures["recital"] == pytest.approx([5 / 13, 0])
    page = sample_page([group], 1, "Round 0")
    assert "9 tokens, echo 54 %, recital 38 %\n" in page and "reward -1.000, 9 tokens\n" in page
    without = Group("g", group.prompt_ids, replies, messages=messages[1:])
    assert "recital" not in reply_figures([without], None)
    wordless = Group("w", group.prompt_ids, replies, messages=[{"role": "user", "content": "\U0001f62d ..."}])
    assert reply_figures([without, wordless], None)["echo"] == pytest.approx([7 / 13, 0, 0, 0]), "guard.echo needs it"
