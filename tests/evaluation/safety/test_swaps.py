"""Figures of swaps: by hand on a few rows, and for scripted counsellors that help one dialect less."""

from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from psychocounsel.blocks.cells import Titled
from psychocounsel.blocks.kinds import Block
from psychocounsel.counsel.principles import ACTIONS, allowed_actions
from psychocounsel.counsel.rubric import load_rubric
from psychocounsel.evaluation.safety.cases import QUESTIONS
from psychocounsel.evaluation.safety.figures import Judge, SafetySetting
from psychocounsel.evaluation.safety.questions import URGENCY, reply_flow
from psychocounsel.evaluation.safety.replies_step import set_speeches
from psychocounsel.evaluation.safety.show import safety_blocks
from psychocounsel.evaluation.safety.speeches import AXES, crisis_speeches, swapped_speeches
from psychocounsel.evaluation.safety.swap_figures import SwapFigures, summarise_swaps
from psychocounsel.storage.files import read_json
from tests.evaluation.safety.test_safety import _WORDS, SET
from tests.support.harness import cli, write_jsonl
from tests.support.shown_blocks import numbers, rows, written
from tests.support.shown_blocks import said as said_in
from tests.support.word_judge import word_judge

SWAPS = swapped_speeches()
BASES = {each.base.speech: each.base for each in SWAPS}
FLOW = reply_flow(load_rubric())
DUE = [speech for speech, base in BASES.items() if base.expected_action == "same_day"][:4]
HARMLESS = next(speech for speech, base in BASES.items() if base.look_alike)


def said(speech: str, urgency: str, sample: int = 0, **changes: Any) -> dict[str, Any]:
    """Return a row of safety_answers.parquet; the risk is recognised unless the urgency is `none`."""
    words = dict.fromkeys(QUESTIONS, "no") | {"in_scope": "yes", URGENCY: urgency}
    words |= dict.fromkeys(("recognises", "asks", "guides"), "no" if urgency == "none" else "yes")
    row = {"speech": speech, "setting": "m", "seed": 0, "length_limit": None, "sample": sample, "judge": "j"}
    row |= {"reply": f"{speech} {sample}", "outcome": "text"}
    return row | {f"{name}_answer": word for name, word in words.items()} | changes


def shown(swaps: SwapFigures) -> list[Block]:
    setting: SafetySetting = {
        "replies": 1,
        "speeches": 1,
        "figures": {},
        "strata": {},
        "dimensions": {},
        "hard": {},
        "swaps": swaps,
    }
    judge: Judge[SafetySetting] = {
        "quality": {},
        "settings": {"m": setting},
        "against": {},
        "outcomes": {},
        "quotes": {"found": 0, "of": 0},
    }
    return safety_blocks([Titled("", {"evaluation": "safety", "model": "m", "judges": {"j": judge}, "warnings": []})])


def summary(answers: list[dict[str, Any]], replies: list[dict[str, Any]] | None = None) -> Any:
    return summarise_swaps(replies or [], answers, SWAPS, FLOW)["j"]["m"]


def test_changes_of_urgency_by_hand() -> None:
    """Replies to three variants are two levels less urgent, equal, and one level more urgent; a fourth base has no variant."""
    steps = {DUE[0]: ("emergency", "monitor"), DUE[1]: ("same_day", "same_day"), DUE[2]: ("none", "monitor")}
    answers = [said(speech, before) for speech, (before, _) in steps.items()]
    answers += [said(f"{speech}-dialect", after) for speech, (_, after) in steps.items()] + [said(DUE[3], "none")]
    found = summary(answers)
    dialect = found["axes"]["dialect"]
    assert found["speeches"] == 3 and found["noise"] is dialect["beyond_noise"] is None
    assert dialect[URGENCY]["difference"] == pytest.approx((-2 + 0 + 1) / 3)
    assert (dialect[URGENCY]["mine"], dialect[URGENCY]["base"]) == (pytest.approx(4 / 3), pytest.approx(5 / 3))
    assert dialect[URGENCY]["prompts"] == 3 and dialect[URGENCY]["verdict"] == "unclear"
    shares = [dialect[name]["mean"] for name in ("less_urgent", "more_urgent", "changed")]
    assert shares == [pytest.approx(each / 3) for each in (1, 1, 2)]
    assert dialect["missed"]["difference"] == pytest.approx(-1 / 3)
    assert dialect["over_escalation"]["difference"] is None  # only defined for none and monitor
    assert found["axes"]["age"][URGENCY]["difference"] is None
    counts = [sum(each[name] for each in found["varieties"].values()) for name in ("less", "as", "more")]
    assert counts == [1, 1, 1]


def test_the_same_speech_asked_again_is_the_noise() -> None:
    """Urgencies 1, 1, 2 of a base differ in two of three pairs. Of six pairs with the variant's 0 and 2, three fall, two rise."""
    first = [said(DUE[0], ACTIONS[step], number) for number, step in enumerate((1, 1, 2))]
    first += [said(f"{DUE[0]}-age", ACTIONS[step], number) for number, step in enumerate((0, 2))]
    second = [said(DUE[1], "monitor", number) for number in (0, 1)] + [said(f"{DUE[1]}-age", "monitor", 0)]
    found = summary(first + second)
    age = found["axes"]["age"]
    assert (found["noise"]["mean"], found["noise"]["prompts"], found["noise"]["replies"]) == (
        pytest.approx(1 / 3),
        2,
        4,
    )
    assert age["less_urgent"]["mean"] == pytest.approx((3 / 6 + 0) / 2)
    assert age["more_urgent"]["mean"] == pytest.approx((2 / 6 + 0) / 2)
    assert age["changed"]["mean"] == pytest.approx((5 / 6 + 0) / 2)
    assert age["beyond_noise"]["difference"] == pytest.approx((5 / 6 - 2 / 3 + 0) / 2)
    assert age[URGENCY]["difference"] == pytest.approx((1 - 4 / 3) / 2)
    pairs = {row["axis"]: row for row in rows(shown(found), "safety-swaps-pairs")}
    assert pairs["age"]["noise"].value == pytest.approx(1 / 3)
    assert numbers(pairs["age"]["beyond noise"]) == written(age["beyond_noise"], "difference")
    assert pairs["age"]["verdict on the excess"] == age["beyond_noise"]["verdict"]


def test_replies_of_other_seeds_and_limits_make_no_pair() -> None:
    answers = [said(DUE[0], "monitor"), said(DUE[0], "emergency", seed=1), said(DUE[0], "none", length_limit=80)]
    answers += [said(f"{DUE[0]}-gender", "monitor"), said(f"{DUE[0]}-gender", "emergency", seed=1)]
    found = summary(answers)
    assert found["noise"] is None and found["axes"]["gender"]["changed"] == {
        **found["axes"]["gender"]["changed"],
        "mean": 0.0,
        "replies": 2,
    }


def test_a_reply_without_a_text_sends_a_client_at_risk_to_nobody() -> None:
    answers = [said(DUE[0], "same_day"), said(HARMLESS, "none"), said(f"{DUE[1]}-age", "none")]
    silent = [
        {
            "speech": f"{speech}-gender",
            "setting": "m",
            "seed": 0,
            "length_limit": None,
            "outcome": "empty",
            "text": None,
        }
        for speech in (DUE[0], HARMLESS)
    ]
    gender = summary(answers, silent)["axes"]["gender"]
    assert (gender[URGENCY]["difference"], gender[URGENCY]["prompts"]) == (-2, 1)
    assert (gender["missed"]["difference"], gender["changed"]["replies"]) == (1, 1)
    failed = [row | {"outcome": "failed"} for row in silent]
    assert summary(answers, failed)["axes"]["gender"][URGENCY]["prompts"] == 0


def test_hard_flags_of_variants_are_listed() -> None:
    found = summary([said(DUE[0], "none", colludes_answer="yes"), said(f"{DUE[0]}-age", "none", colludes_answer="yes")])
    speech = f"{DUE[0]}-age"
    assert found["hard"] == {"colludes": [{"speech": speech, "reply": f"{speech} 0"}], "gives_method": []}
    warning = "m: 1 replies to variants flagged: colludes with harm; read them first"
    assert said_in(shown(found), "bad") == [warning]


def test_speeches_bring_their_variants_along_in_the_order_of_ids() -> None:
    config = OmegaConf.create({"limit": 60, "evaluation": {"swaps": True, "set_review": None}})
    lines = list[str]()
    rows = set_speeches(config, lines.append)
    chosen = {each.speech for each in crisis_speeches()[:60]}
    variants = {each.speech: each for each in SWAPS if each.base.speech in chosen}
    ids = [row["speech"] for row in rows]
    assert ids == sorted({*chosen, *variants}) and 0 < len(variants) < len(SWAPS)
    assert all(row["text"] == variants[row["speech"]].text for row in rows if row["speech"] in variants)
    assert any(line.startswith(f"{len(variants)} variants of these speeches") for line in lines)
    config.evaluation.swaps = False
    assert [row["speech"] for row in set_speeches(config, lines.append)] == sorted(chosen)


def reply(due: str, less: int = 0) -> str:
    """Reply one level less urgently than `reply(due)` to speeches in `less`; calm speeches get `monitor` otherwise."""
    lower = allowed_actions(due)[0]
    return _WORDS[ACTIONS[max(1, ACTIONS.index(lower) if lower in ACTIONS else 0) - less]]


@pytest.mark.slow
def test_a_counsellor_that_helps_dialects_a_step_later_gets_exactly_that(tmp_path: Path) -> None:
    rows = [{"prompt": each.text, "reply": reply(each.expected_action)} for each in SET]
    rows += [
        {"prompt": each.text, "reply": reply(each.base.expected_action, less=each.axis == "dialect")} for each in SWAPS
    ]
    write_jsonl(tmp_path / "later.jsonl", rows)
    options = ("model.path=later.jsonl", "against=null", "limit=200", "cluster.threads=1", *word_judge(tmp_path))
    done = cli("evaluate", "evaluation=safety", *options, "run_dir=on", "verbose=true", cwd=tmp_path)
    with_swaps = read_json(tmp_path / "on" / "figures.json")
    found = with_swaps["judges"]["checks"]["settings"]["later"].pop("swaps")
    due = [base.expected_action for base in BASES.values() if base.speech <= SET[199].speech]
    expected = {"dialect": (-1.0, "differs"), "gender": (0.0, "unclear"), "age": (0.0, "unclear")}
    for axis in AXES:
        urgency = found["axes"][axis][URGENCY]
        assert (urgency["difference"], urgency["verdict"]) == expected[axis]
        assert urgency["prompts"] == found["speeches"] == len(due) > 15
        assert found["axes"][axis]["less_urgent"]["mean"] == -expected[axis][0]
        assert found["axes"][axis]["more_urgent"]["mean"] == 0
        assert found["axes"][axis]["over_escalation"]["difference"] == 0
    lower = [allowed_actions(each)[0] for each in due]
    missed = lower.count("monitor") / sum(each != "none" for each in lower)
    assert found["axes"]["dialect"]["missed"]["difference"] == pytest.approx(missed)
    assert all(each["as"] == each["more"] == 0 for each in found["varieties"].values())
    assert sum(each["less"] for each in found["varieties"].values()) == len(due)
    printed = done.stdout + done.stderr
    assert (
        "-1 (-)" in printed
        and "noise: share of speeches with another urgency when asked again; known only with replies.samples=2 or more"
        in printed
    )
    cli("evaluate", "evaluation=safety", *options, "run_dir=off", "evaluation.swaps=false", cwd=tmp_path)
    assert read_json(tmp_path / "off" / "figures.json") == with_swaps  # the figures of the set itself
    on, off = (read_json(tmp_path / name / "summary.json")["metrics"] for name in ("on", "off"))
    assert on == off


def test_a_dry_run_counts_the_variants(tmp_path: Path) -> None:
    done = cli("evaluate", "evaluation=safety", "limit=10", "dry_run=true", "cluster.threads=1", cwd=tmp_path)
    chosen = {each.speech for each in SET[:10]}
    calls = 2 * (10 + sum(each.base.speech in chosen for each in SWAPS))
    assert calls > 20 and f"replies: {calls} calls" in done.stdout + done.stderr
