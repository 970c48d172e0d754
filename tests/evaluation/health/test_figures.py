"""Means and paired differences by prompt equal hand-made figures and the general bootstrap; limits are right."""

from typing import Any

import numpy as np
import pytest
from scipy.stats import binomtest

from psychocounsel.evaluation.gate.deciding import held_health
from psychocounsel.evaluation.health.figures import beyond, compare, means
from psychocounsel.evaluation.health.figures_step import summarise
from psychocounsel.evaluation.health.reply import FIGURES, LIMITS, Health
from psychocounsel.metrics.intervals import bootstrap

CLIENT = "I have not slept for three weeks, and I cry every morning before work."
REPLY = "Three weeks without sleep, and mornings that begin with tears. What is hardest?"


def health(**values: float | None) -> Health:
    return dict.fromkeys(FIGURES) | values


def test_a_prompt_counts_once_however_many_replies_it_has() -> None:
    replies = {"a": [health(loop=1.0)] * 3 + [health(loop=0.0)], "b": [health(loop=0.0), health()], "c": [health()]}
    found = means(replies)["loop"]
    assert (found["mean"], found["prompts"], found["replies"]) == (0.375, 2, 5)
    assert means(replies)["words"] == {"mean": None, "low": None, "high": None, "prompts": 0, "replies": 0}


def test_a_share_that_never_occurs_has_the_exact_binomial_bound() -> None:
    found = means({str(prompt): [health(loop=0.0)] for prompt in range(71)})["loop"]
    assert found["high"] == pytest.approx(binomtest(0, 71).proportion_ci(method="exact").high)


def test_differences_are_paired_by_prompt() -> None:
    rng = np.random.default_rng(0)
    theirs = rng.normal(80, 30, 120)
    mine = theirs + rng.normal(4, 3, 120)
    sides = [{n: [health(words=value)] for n, value in enumerate(values)} for values in (mine, theirs)]
    sides[0][500] = [health(words=900.0)]  # a prompt without a reply of the base
    found = compare(*sides)["words"]
    assert found["prompts"] == 120
    assert found["difference"] == pytest.approx((mine - theirs).mean()) == found["mine"] - found["base"]
    low, high = bootstrap(lambda rows: (mine - theirs)[rows].mean(), range(120), samples=4000)
    assert (found["low"], found["high"]) == pytest.approx((low, high), abs=0.1)
    assert found["verdict"] == "differs", "neither longer nor shorter is better"


def test_equal_differences_promise_no_certainty() -> None:
    """A bootstrap of 60 zeros gives 0 to 0. By hand, with z = 1.96, the bound is z^2 / (n + z^2)."""

    def compared(mine: float, base: float, count: int, name: str = "loop") -> tuple[float | None, float | None, str]:
        sides = [{n: [health(**{name: value})] for n in range(count)} for value in (mine, base)]
        found = compare(*sides)[name]
        return found["low"], found["high"], found["verdict"]

    for value in (0.0, 1.0, 0.25):
        assert compared(value, value, 60) == (
            pytest.approx(-0.0602, abs=1e-4),
            pytest.approx(0.0602, abs=1e-4),
            "unclear",
        )
    assert compared(0.0, 0.0, 400)[1] == pytest.approx(3.8415 / 403.8415, abs=1e-5)
    low, high, verdict = compared(1.0, 0.0, 60)
    assert (high, verdict) == (1.0, "worse") and low is not None and 0.8 < low < 1
    assert compared(1.0, 0.0, 2)[2] == "unclear", "two prompts are too few for a verdict"
    assert compared(40.0, 40.0, 60, "words") == (None, None, "unclear"), (
        "figures that are not shares have no bound here"
    )


def test_equal_turns_of_a_session_promise_no_more_than_one_of_them() -> None:
    rng = np.random.default_rng(2)
    loops, words = (rng.random(20) < 0.3).astype(float), rng.normal(80, 30, 20)
    alone = {n: [health(loop=loops[n], words=words[n])] for n in range(20)}
    turns = {(n, turn): alone[n] for n in range(20) for turn in range(5)}
    clients = {turn: turn[0] for turn in turns}
    for name in ("loop", "words"):
        found, of_one = means(turns, clients=clients)[name], means(alone)[name]
        assert (found["prompts"], found["clients"]) == (100, 20) and "clients" not in of_one
        assert [found["low"], found["high"]] == pytest.approx([of_one["low"], of_one["high"]])
    base = {turn: [health(loop=0.0, words=80.0)] for turn in turns}
    found, of_one = compare(turns, base, clients=clients), compare(alone, {n: base[n, 0] for n in range(20)})
    for name in ("loop", "words"):
        assert found[name]["low"] == pytest.approx(of_one[name]["low"]) and found[name]["prompts"] == 100
    never = {turn: [health(loop=0.0)] for turn in turns}
    assert means(never, clients=clients)["loop"]["high"] == pytest.approx(1 - 0.025 ** (1 / 20))
    held = held_health(means(never, clients=clients), {"loop": 0.02})["loop"]
    assert (held["clusters"], held["verdict"]) == (20, "undecided"), "100 clients would be needed, not 100 turns"
    unlike = {(n, turn): [health(loop=float(turn == n))] for n in range(2) for turn in range(2)}
    alike = compare(unlike, {turn: [health(loop=0.0)] for turn in unlike}, clients={turn: turn[0] for turn in unlike})
    assert alike["loop"]["verdict"] == "unclear", "two clients with the same mean difference are too few for a verdict"
    one = means({turn: turns[turn] for turn in turns if turn[0] == 0}, clients=clients)["loop"]
    assert one["low"] is None, "one client has no spread, however many turns"


@pytest.mark.parametrize("clients", [6, 12])
def test_equal_models_seldom_differ_over_few_clients(clients: int) -> None:
    """Sessions of one client are alike. By percentiles of a bootstrap, 11 % of such comparisons found a difference."""
    rng, differ = np.random.default_rng(clients), 0
    for _ in range(400):
        odds = rng.normal(-0.5, 1, clients)
        sides = [
            {
                n: [health(loop=float(rng.random() < 1 / (1 + np.exp(-odds[n])))) for _ in range(6)]
                for n in range(clients)
            }
            for _ in range(2)
        ]
        differ += compare(*sides, {"loop": FIGURES["loop"]})["loop"]["verdict"] != "unclear"
    assert differ <= 28, "of 400 with a level of 5 %, more differ in 3 of 100 cases"


@pytest.mark.parametrize(
    ("name", "mine", "base", "verdict"),
    [
        ("loop", 1.0, 0.0, "worse"),
        ("loop", 0.0, 1.0, "better"),
        ("mtld", 90.0, 60.0, "better"),
        ("mtld", 60.0, 90.0, "worse"),
        ("question_ending", 1.0, 0.0, "differs"),
        ("loop", 1.0, 1.0, "unclear"),
    ],
)
def test_verdicts_follow_the_direction_of_a_figure(name: str, mine: float, base: float, verdict: str) -> None:
    sides = [{prompt: [health(**{name: value})] for prompt in range(9)} for value in (mine, base)]
    assert compare(*sides)[name]["verdict"] == verdict
    assert compare(*({0: side[0]} for side in sides))[name]["verdict"] == "unclear", "one prompt has no interval"


def test_limits_are_kept_exceeded_or_undecided() -> None:
    def verdict(loops: int, prompts: int) -> str:
        replies = {prompt: [health(loop=float(prompt < loops))] for prompt in range(prompts)}
        return {row["name"]: row["verdict"] for row in beyond(means(replies))}["loop"]

    assert LIMITS["loop"] == 0.02
    assert verdict(0, 71) == "undecided", "none of 71 is compatible with 5 %"
    assert [verdict(*each) for each in ((0, 200), (4, 200), (20, 200))] == ["kept", "undecided", "exceeded"]
    assert {row["verdict"] for row in beyond(means({}))} == {"undecided"}
    assert set(LIMITS) <= {name for name, figure in FIGURES.items() if figure.share and figure.better == "lower"}


def row(setting: str, speech: str, text: str | None, outcome: str = "text", **more: Any) -> dict[str, Any]:
    return {
        "setting": setting,
        "seed": 0,
        "speech": speech,
        "text": text,
        "outcome": outcome,
        "length_limit": None,
        "completion_tokens": 9,
    } | more


def test_a_summary_counts_what_is_no_reply_and_measures_the_rest() -> None:
    speeches = [{"speech": name, "text": CLIENT, "language": "en"} for name in "abcd"]
    rows = [row("base", name, REPLY) for name in "abcd"]
    rows += [
        row("mine", "a", REPLY + " I hear", "cut"),
        row("mine", "b", None, "empty"),
        row("mine", "c", None, "failed"),
    ]
    rows += [row("mine", "d", None, "refused"), row("mine", "a", REPLY, length_limit=150)]
    both, short = summarise(rows, speeches, "mine")
    assert (both["length_limit"], short["length_limit"]) == (None, 150)
    mine = both["settings"]["mine"]
    assert mine["outcomes"] == {"cut": 1, "empty": 1, "failed": 1, "refused": 1}
    assert (mine["replies"], mine["prompts"], mine["seeds"]) == (3, 3, {})
    figures = {name: (found["mean"], found["prompts"]) for name, found in mine["figures"].items()}
    assert figures["cut"] == (pytest.approx(1 / 3), 3) and figures["unfinished"] == (1, 1)
    assert figures["empty"] == (0.5, 2) and figures["refusal"] == (0.5, 2) and figures["words"] == (15, 1)
    against = both["against"]["base"]
    assert (against["words"]["difference"], against["words"]["prompts"]) == (2, 1)
    assert against["cut"]["prompts"] == 3 and list(both["against"]) == ["base"] and short["against"] == {}


def test_whether_replies_from_a_file_were_cut_is_not_told() -> None:
    rows = [row("file", "a", REPLY, completion_tokens=None), row("file", "b", "I hear", completion_tokens=None)]
    (variant,) = summarise(rows, [{"speech": name, "text": CLIENT, "language": "en"} for name in "ab"])
    found = variant["settings"]["file"]["figures"]
    assert found["cut"]["mean"] is None and found["unfinished"]["mean"] == 0.5
    rows.append(row("file", "a", "I hear", "cut", completion_tokens=None))  # a server that reports no token counts
    (variant,) = summarise(rows, [{"speech": name, "text": CLIENT, "language": "en"} for name in "ab"])
    assert variant["settings"]["file"]["figures"]["cut"]["mean"] == 0.25


def test_seeds_of_a_setting_have_mean_and_standard_deviation() -> None:
    texts = {1: REPLY, 2: REPLY + " I hear you.", 3: REPLY + " I hear you, I do."}
    rows = [row("mine", "a", text, seed=seed) for seed, text in texts.items()]
    (variant,) = summarise(rows, [{"speech": "a", "text": CLIENT, "language": "en"}])
    expected = {"n": 3, "mean": (13 + 16 + 18) / 3, "sd": 2.5166}
    assert variant["settings"]["mine"]["seeds"]["words"] == pytest.approx(expected, abs=1e-4)
