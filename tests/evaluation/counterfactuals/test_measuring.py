"""Counterfactuals in an evaluation: files and printed figures agree with the scorer, also if a reply is too long for it."""

import json
from collections.abc import Callable, Iterable
from operator import itemgetter
from pathlib import Path

import numpy as np
import pytest
from omegaconf import DictConfig

from psychocounsel.blocks.cells import Titled
from psychocounsel.blocks.terminal import terminal_lines
from psychocounsel.counsel.principles import PRINCIPLES
from psychocounsel.data.rows import Example
from psychocounsel.data.shared_text import normalised
from psychocounsel.distributed.world import World
from psychocounsel.evaluation.counterfactuals.making import Counterfactual, by_rules, spread
from psychocounsel.evaluation.counterfactuals.measuring import (
    Figures,
    counterfactual_figures,
    figures_and_rows,
    score_counterfactuals,
)
from psychocounsel.evaluation.counterfactuals.show import counterfactual_blocks
from psychocounsel.evaluation.reward.evaluation import evaluate_reward
from psychocounsel.reward.base import Conversation, Scorer
from psychocounsel.reward.encoding import TooManyTokens
from psychocounsel.reward.local_model import LocalScorer
from psychocounsel.storage.files import read_json
from tests.support.composed import check, compose
from tests.support.harness import world
from tests.support.ranks import in_ranks
from tests.support.shown_blocks import numbers, rows

# Counterfactuals in an evaluation: files and printed figures agree with the scorer, also if a reply is too long for
# it.

EXAMPLES = [
    Example(
        f"p{n}",
        "",
        [{"role": "user", "content": f"Day {n // 2}: I can't sleep."}],
        [f"It is {n}. What helps you?", "Relax. Now!"],
    )
    for n in range(6)
]


class Lengths(Scorer):
    """Scorer of the number of characters in prompt and reply; replies over `longest` characters are too long."""

    def __init__(self, longest: int) -> None:
        self.longest, self.scored = longest, 0

    def score(self, conversations: Iterable[Conversation], progress: object = iter) -> np.ndarray:
        found = [(each[0]["content"], each[-1]["content"], len(each)) for each in conversations]
        if any(len(reply) > self.longest for _, reply, _ in found):
            raise TooManyTokens("too long")
        self.scored += len(found)
        return np.array([1000 * count + len(prompt) + len(reply) for prompt, reply, count in found], np.float32)


def no_bar(steps: range, text: str) -> range:
    return steps


def config_of(*overrides: str) -> DictConfig:
    return check(compose([*overrides], name="evaluate"))


def test_each_distinct_reply_is_scored_once_and_what_is_too_long_is_left_out() -> None:
    made, scorer = by_rules(EXAMPLES, range(6)), Lengths(60)
    rewards = score_counterfactuals(made, EXAMPLES, scorer, world(), no_bar)
    for each, reward in zip(made, rewards, strict=True):
        if len(each.text) > 60:
            assert np.isnan(reward)
        else:
            assert reward == 2000 + len(EXAMPLES[each.pair].prompt[0]["content"]) + len(each.text), "speech and reply"
    assert 0 < np.isnan(rewards).sum() < len(made)
    distinct = {(EXAMPLES[each.pair].prompt[0]["content"], each.text) for each in made if len(each.text) <= 60}
    assert scorer.scored == len(distinct) < len(made)


def of_ranks(here: World) -> list[float]:
    made = by_rules(EXAMPLES, range(6))
    return [float(reward) for reward in score_counterfactuals(made, EXAMPLES, Lengths(10_000), here, no_bar)]


@pytest.mark.slow
def test_two_ranks_score_what_one_does() -> None:
    assert in_ranks(2, of_ranks) == of_ranks(world())


@pytest.mark.slow
def test_the_evaluation_writes_and_says_figures_of_the_scorers_rewards(tmp_path: Path) -> None:
    said: list[str] = []
    evaluate_reward(
        config_of("limit=12", "counterfactuals.limit=3", "reward.dtype=fp32"), tmp_path, world(), said.append, no_bar
    )
    summary = read_json(tmp_path / "summary.json")
    figures, rows = summary["counterfactuals"], (tmp_path / "counterfactuals.jsonl").read_text().splitlines()
    made = [json.loads(row) for row in rows]
    tables = (tmp_path / "tables.txt").read_text().splitlines()
    assert "  * replies of 3 pairs changed by rules; the rules are for English" in tables
    assert figures["pairs"] == 3 == len({row["id"] for row in made})
    pairs = {row["id"]: row for row in map(json.loads, (tmp_path / "scores.jsonl").read_text().splitlines())}
    assert sum(each["changed"] for each in figures["made"].values()) == len(made)
    assert figures["made"]["capitals"] == {"replies": 6, "changed": 6, "by": "rules"}
    assert figures["made"]["risk_question_dropped"]["replies"] == 3, "only chosen replies"
    gap = np.median([abs(row["chosen"] - row["rejected"]) for row in pairs.values()])
    assert figures["median_gap"] == pytest.approx(gap)
    assert all(row["original"] == pytest.approx(pairs[row["id"]][row["reply"]], abs=1e-5) for row in made)
    capitals = [row for row in made if row["kind"] == "capitals"]
    assert len(capitals) == 6 and all(row["text"].islower() for row in capitals)
    expected = np.mean([abs(row["changed"] - row["original"]) for row in capitals]) / gap
    assert figures["invariance"]["capitals"]["change"] == pytest.approx(expected, rel=1e-4)
    assert any(line.startswith("  capitals") and f"{expected:.4g}" in line for line in tables)
    relevance = {end: 100 * figures["sensitivity"]["relevance"][f"value{end}"] for end in ("", "_low", "_high")}
    line = next(line for line in tables if line.startswith("  relevance"))
    assert f"{relevance['']:.1f} ({relevance['_low']:.1f} to {relevance['_high']:.1f})" in line
    scorer = LocalScorer.load("builtin:tiny_reward", dtype="fp32")
    speech = {example.id: example.prompt for example in held_out()}[capitals[0]["id"]]
    alone = scorer.score([[*speech, {"role": "assistant", "content": capitals[0]["text"]}]])
    assert capitals[0]["changed"] == pytest.approx(float(alone[0]), abs=2e-5)


def test_a_principle_that_nothing_tests_is_named_in_the_table(tmp_path: Path) -> None:
    made = by_rules(EXAMPLES, range(6))
    scores = np.arange(12.0).reshape(6, 2)
    settings = config_of("counterfactuals.limit=6").counterfactuals
    figures = figures_and_rows(settings, made, np.zeros(len(made)), scores, EXAMPLES, tmp_path)
    blocks = counterfactual_blocks([Titled("", {**figures, "not_sent": 2, "left_out": 3})])
    shown = {row["principle"]: row for row in rows(blocks, "reward-sensitivity")}
    assert [*shown] == [*PRINCIPLES]
    assert numbers(shown["relevance"]["noticed"]) == tuple(
        figures["sensitivity"]["relevance"][f"value{end}"] for end in ("", "_low", "_high")
    )
    assert (shown["safety"]["changes"], shown["safety"]["noticed"]) == ("0", None)
    notes = [*terminal_lines(blocks)]
    assert "  * 2 replies were not sent to the language model, because they contain control tokens as text" in notes
    assert "  * 3 changed replies were skipped, because they are too long for the reward model" in notes


def held_out() -> list[Example]:
    from psychocounsel.data.selection import load_split

    return load_split(config_of().data, lambda line: None)[1]


def test_without_counterfactuals_all_is_as_it_was(tmp_path: Path) -> None:
    said: list[str] = []
    evaluate_reward(config_of("limit=4", "counterfactuals.limit=0"), tmp_path, world(), said.append, no_bar)
    assert {path.name for path in tmp_path.iterdir()} == {
        "summary.json",
        "tables.txt",
        "scores.jsonl",
        "reliability.json",
    }
    assert read_json(tmp_path / "summary.json").keys() == {"status", "metrics", "slices", "controls", "verdicts"}
    assert said[-1] == f"written to {tmp_path}" and not any("changes" in line for line in said)


# Sensitivity and invariance equal a plain loop over the pairs, and expose scorers with known faults.

Score = Callable[[str, str], float]  # scores a prompt and a reply


@pytest.fixture(scope="module")
def examples() -> list[Example]:
    """Return the sample's held-out pairs."""
    from psychocounsel.data.selection import load_split

    return load_split(check(compose([])).data, lambda line: None)[1]


def prompts_of(examples: list[Example]) -> list[str]:
    return [normalised(example.prompt) for example in examples]


def measured(
    examples: list[Example], score: Score, made: list[Counterfactual]
) -> tuple[Figures, np.ndarray, np.ndarray]:
    prompts = prompts_of(examples)
    scores = np.array(
        [[score(prompt, text) for text in each.replies[:2]] for each, prompt in zip(examples, prompts, strict=True)]
    )
    changed = np.array([score(prompts[each.pair], each.text) for each in made])
    return counterfactual_figures(made, changed, scores, prompts), changed, scores


def reader_of(examples: list[Example]) -> Score:
    """Return a scorer that reads: the share of a reply's words that the best reply to this client contains."""
    best: dict[str, tuple[float, set[str]]] = {}
    for example, prompt in zip(examples, prompts_of(examples), strict=True):
        assert example.scores is not None
        best[prompt] = max(
            best.get(prompt, (0.0, set())), (example.scores[0], words_of(example.replies[0])), key=itemgetter(0)
        )
    return lambda prompt, reply: len(words_of(reply) & best[prompt][1]) / max(1, len(words_of(reply)))


def words_of(reply: str) -> set[str]:
    return set(normalised([{"role": "user", "content": reply}]).split())


def ending(prompt: str, reply: str) -> float:
    """Scorer that does not read: it prefers replies that end with a question and, slightly, longer ones."""
    return float(reply.rstrip().endswith("?")) + 1e-4 * len(reply)


def test_figures_are_those_of_a_loop(examples: list[Example]) -> None:
    made = by_rules(examples, spread(examples, 30))
    rng = np.random.default_rng(0)
    found, changed, scores = measured(examples, lambda prompt, reply: float(rng.integers(-3, 4)), made)
    gap = float(np.median([abs(chosen - rejected) for chosen, rejected in scores]))
    assert found["median_gap"] == gap > 0
    for name, figures in found["invariance"].items():
        rows = [(each, now) for each, now in zip(made, changed, strict=True) if each.kind.name == name]
        moves = [(now - scores[each.pair][each.side]) / gap for each, now in rows]
        flips = []
        for each, now in rows:
            before, after = scores[each.pair].copy(), scores[each.pair].copy()
            after[each.side] = now
            flips.append(abs(np.sign(before[0] - before[1]) - np.sign(after[0] - after[1])) / 2)
        assert figures["count"] == len(rows)
        assert figures["change"] == pytest.approx(np.mean(np.abs(moves)))
        assert figures["shift"] == pytest.approx(np.mean(moves))
        assert figures["flips"] == pytest.approx(np.mean(flips))
        assert figures["flips_low"] <= figures["flips"] <= figures["flips_high"]
    for name, figures in found["sensitivity"].items():
        wins = [
            1.0 if scores[each.pair][0] > now else 0.5 if scores[each.pair][0] == now else 0.0
            for each, now in zip(made, changed, strict=True)
            if each.kind.prefers_original and each.kind.principle == name
        ]
        assert (figures["count"], figures["value"]) == (len(wins), pytest.approx(np.mean(wins)))
    assert sum(figures["count"] for figures in found["sensitivity"].values()) + found["all_styles"]["count"] == len(
        made
    )


def test_a_scorer_that_reads_is_told_from_one_that_looks_at_the_ending(examples: list[Example]) -> None:
    made = by_rules(examples, spread(examples, 80))
    reads, looks = (measured(examples, score, made)[0] for score in (reader_of(examples), ending))
    assert reads["sensitivity"]["relevance"]["value_low"] > 0.7
    assert looks["sensitivity"]["relevance"]["value_high"] < 0.7
    assert looks["sensitivity"]["relevance"]["value_low"] < 0.5 < looks["sensitivity"]["relevance"]["value_high"]
    assert (
        looks["invariance"]["question_as_statement"]["flips"]
        > 0.3
        > reads["invariance"]["question_as_statement"]["flips"]
    )
    assert looks["invariance"]["question_as_statement"]["shift"] < -0.5


def test_a_scorer_that_counts_no_dress_is_invariant(examples: list[Example]) -> None:
    made = [each for each in by_rules(examples, spread(examples, 20)) if each.kind.name in ("capitals", "emoji")]
    found, _, _ = measured(examples, lambda _, reply: float(sum(map(str.isalpha, reply))), made)
    assert found["all_styles"] == {
        **{"count": len(made), "change": 0.0, "change_low": 0.0, "change_high": 0.0, "shift": 0.0},
        **{"flips": 0.0, "flips_low": 0.0, "flips_high": pytest.approx(1 - 0.025 ** (1 / 20))},  # exact, of 20 prompts
    }


def test_what_cannot_be_read_is_left_out_and_a_constant_scorer_has_no_unit(examples: list[Example]) -> None:
    made = by_rules(examples, spread(examples, 5))
    changed = np.zeros(len(made))
    changed[::2] = np.nan
    found = counterfactual_figures(made, changed, np.zeros((len(examples), 2)), prompts_of(examples))
    assert found["left_out"] == len(made[::2])
    assert found["all_styles"]["change"] is None and found["all_styles"]["flips"] == 0
    assert {figures["value"] for figures in found["sensitivity"].values()} == {0.5}


def test_pairs_are_spread_over_prompts_and_a_strangers_reply_looks_alike(examples: list[Example]) -> None:
    prompts = prompts_of(examples)
    count = len(set(prompts))
    assert len({prompts[index] for index in spread(examples, count)}) == count > 60
    assert spread(examples, 10_000) == list(range(len(examples)))
    made = [each for each in by_rules(examples, spread(examples, 100)) if each.kind.name == "another_clients_reply"]
    assert len({(prompts[each.pair], examples[each.pair].replies[0]) for each in made}) == len(made)
    for each in made:
        theirs = {prompts[index] for index, example in enumerate(examples) if example.replies[0] == each.text}
        assert theirs and prompts[each.pair] not in theirs
        own = examples[each.pair].replies[0]
        assert each.text.endswith("?") == own.endswith("?") and abs(len(each.text) - len(own)) < 150
