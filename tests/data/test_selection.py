"""The held-out split, subsets and mixtures; pairs from ratings, pairs with soft labels, and swapped pairs."""

import itertools
import math
import random
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from omegaconf import DictConfig, OmegaConf

from psychocounsel.counsel.principles import PRINCIPLES
from psychocounsel.data.dataset import Dataset, build_dataset
from psychocounsel.data.group import Completion, Group
from psychocounsel.data.messages import Message
from psychocounsel.data.rows import Example, parse_row
from psychocounsel.data.selection import drop_test_speeches, load_split, pairs_of, split_by_prompt, subset
from psychocounsel.data.settings import DataConfig
from psychocounsel.data.shared_text import clients_of_groups, components_of, components_of_groups, normalised
from psychocounsel.data.tokenised_cache import flatten, unflatten
from psychocounsel.errors import UserError
from psychocounsel.evaluation.safety.speeches import crisis_speeches, swapped_speeches
from psychocounsel.model.tokenizer import load_chat_format
from tests.support.composed import check, compose
from tests.support.harness import write_jsonl
from tests.support.in_process import run_here

# The held-out split, subsets, mixtures, and the effect of ratings on pairs.


def numbered_example(prompt: str, number: int = 0) -> Example:
    return Example(
        f"{prompt}/{number}", f"row {number}", [{"role": "user", "content": prompt}], ["good", f"bad {number}"]
    )


def examples(prompts: int, each: int = 3) -> list[Example]:
    return [numbered_example(f"speech {prompt}", number) for prompt in range(prompts) for number in range(each)]


def test_speeches_that_safety_is_measured_on_are_not_trained_on() -> None:
    measured = numbered_example(f"  {crisis_speeches()[0].text.upper()} ")  # case and spacing do not count
    session = Example(
        "later",
        "row 9",
        [
            {"role": "user", "content": "Hello."},
            {"role": "assistant", "content": "Hello."},
            {"role": "user", "content": swapped_speeches()[0].text},
        ],
        ["good", "bad"],
    )
    told: list[Message] = [
        {"role": "assistant", "content": "Go on."},
        {"role": "user", "content": crisis_speeches()[1].text},
        {"role": "assistant", "content": "Thank you."},
    ]
    pair = replace(numbered_example("Good evening."), turns=[told, told[:1]])  # a pair of sessions
    lines, plain = list[str](), examples(3)
    assert drop_test_speeches([measured, *plain, session, pair], lines.append) == plain
    assert lines == ["3 training rows dropped (evaluation=safety or session measures on their speeches)"]
    assert drop_test_speeches(plain, lines.append) == plain and len(lines) == 1
    with pytest.raises(UserError, match="measures on all speeches; train on other data"):
        drop_test_speeches([measured], lines.append)


def ids(chosen: list[Example]) -> set[str]:
    return {each.id for each in chosen}


def prompts(chosen: list[Example]) -> set[str]:
    return {normalised(each.prompt) for each in chosen}


def config(**values: Any) -> DictConfig:
    return OmegaConf.merge(OmegaConf.structured(DataConfig), {"name": "test", "path": "x", **values})  # type: ignore


def rows(prompts: int, name: str = "a", each: int = 1) -> list[dict[str, Any]]:
    return [
        {
            "id": f"{name}{prompt}-{number}",
            "prompt": f"{name} speech {prompt}",
            "chosen": "good",
            "rejected": f"bad {number}",
        }
        for prompt in range(prompts)
        for number in range(each)
    ]


def file(folder: Path, name: str, content: list[dict[str, Any]]) -> str:
    return str(write_jsonl(folder / f"{name}.jsonl", content))


# -- the split


def test_variants_of_a_prompt_never_straddle_the_split() -> None:
    texts = [f"I \ufb01nd it hard, day {day}" for day in range(40)]
    variants = [
        variant
        for text in texts
        for variant in (
            text,
            text.upper(),
            f"  {text.replace(' ', '  ')}\n",
            text.replace("\ufb01", "fi"),
            text.replace(" ", "\u00a0"),
            text.replace("I", "\uff29"),
        )
    ]
    assert len({normalised(numbered_example(text).prompt) for text in variants}) == len(texts)
    for seed in range(5):
        train, held_out = split_by_prompt([numbered_example(text, n) for n, text in enumerate(variants)], 0.25, seed)
        assert not prompts(train) & prompts(held_out)
        assert len(held_out) == 6 * 10


def test_a_system_message_makes_no_other_prompt_but_an_earlier_turn_does() -> None:
    client = {"role": "user", "content": "Hello"}
    assert normalised([client]) == normalised([{"role": "system", "content": "Be kind."}, client])
    assert normalised([client]) != normalised(
        [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes?"}, client]
    )


def test_the_split_depends_on_its_seed_and_not_on_the_order_of_rows() -> None:
    data = examples(50)
    shuffled = random.Random(1).sample(data, len(data))
    first, again, other = (
        split_by_prompt(data, 0.2, 0),
        split_by_prompt(shuffled, 0.2, 0),
        split_by_prompt(data, 0.2, 1),
    )
    assert [ids(part) for part in first] == [ids(part) for part in again]
    assert ids(first[1]) != ids(other[1])


@pytest.mark.parametrize(("fraction", "held"), [(0.0, 0), (0.1, 5), (0.25, 12), (0.9, 45)])
def test_the_split_has_the_size_asked_for(fraction: float, held: int) -> None:
    train, held_out = split_by_prompt(examples(50), fraction, 0)
    assert (len(prompts(train)), len(prompts(held_out))) == (50 - held, held)
    assert len(train) + len(held_out) == 150


def test_prompts_that_share_a_reply_are_never_parted() -> None:
    """Rings of prompts: each shares a reply, differently spelled, with the next one of its ring."""
    data = []
    for number in range(60):
        ring = number // 3 * 3
        replies = [f"reply {number}", f" REPLY  {ring + (number + 1) % 3}" if number < 30 else f"bad {number}"]
        data.append(replace(numbered_example(f"prompt {number}", number), replies=replies))
    sizes = set()
    for seed in range(8):
        said: list[str] = []
        train, held_out = split_by_prompt(data, 0.2, seed, said.append)
        numbers = [{int(each.id.split("/")[1]) for each in part} for part in (train, held_out)]
        rings = [{number // 3 for number in part if number < 30} for part in numbers]
        assert not rings[0] & rings[1]
        assert len(train) + len(held_out) == 60
        assert bool(said) == (len(held_out) < 12)
        sizes.add(len(held_out))
    assert max(sizes) == 12 and min(sizes) >= 10


def test_a_component_larger_than_the_held_out_part_is_held_out_whole() -> None:
    data = [
        replace(each, replies=[f"pair {number // 2}", f"bad {number}"]) for number, each in enumerate(examples(10, 1))
    ]
    said: list[str] = []
    _, held_out = split_by_prompt(data, 0.1, 0, said.append)
    assert len(held_out) == 2 and held_out[0].replies[0] == held_out[1].replies[0]
    assert said == ["2 prompts are held out, not 1: prompts that share a reply or a session stay together"]


def test_where_all_prompts_hang_together_the_leak_is_said() -> None:
    said: list[str] = []
    data = [replace(each, replies=["I see.", f"{number}"]) for number, each in enumerate(examples(20))]
    train, held_out = split_by_prompt(data, 0.1, 0, said.append)
    assert (len(prompts(train)), len(prompts(held_out))) == (18, 2)
    assert said == [
        "warning: held-out prompts share replies or sessions with training rows, because these connect all prompts"
    ]


def test_data_seed_and_dev_fraction_reach_the_split(tmp_path: Path) -> None:
    path = file(tmp_path, "a", rows(50))
    held = [load_split(config(path=path, dev_fraction=0.2, split_seed=seed), print)[1] for seed in (0, 0, 1)]
    assert [len(part) for part in held] == [10, 10, 10]
    assert ids(held[0]) == ids(held[1]) != ids(held[2])


# -- subsets


@pytest.mark.parametrize("seed", range(3))
def test_limits_are_nested_and_deterministic(seed: int) -> None:
    data = examples(40)
    taken = [subset(data, limit, None, seed) for limit in (1, 7, 30, 119, 120)]
    assert [len(part) for part in taken] == [1, 7, 30, 119, 120]
    for smaller, larger in itertools.pairwise(taken):
        assert ids(smaller) < ids(larger)
    assert subset(data, 30, None, seed) == taken[2]
    assert [each.id for each in subset(data, 30, None, seed)] != [each.id for each in data[:30]]


def test_fractions_are_nested_and_take_whole_prompts() -> None:
    data = examples(40)
    taken = [subset(data, None, fraction, 0) for fraction in (0.01, 0.25, 0.5, 1.0)]
    assert [len(part) for part in taken] == [3, 30, 60, 120]
    for smaller, larger in itertools.pairwise(taken):
        assert prompts(smaller) < prompts(larger)
    assert ids(subset(data[::-1], None, 0.25, 0)) == ids(taken[1])
    assert ids(subset(data, None, 0.25, 1)) != ids(taken[1])


def test_a_limit_leaves_the_held_out_rows_alone(tmp_path: Path) -> None:
    path = file(tmp_path, "a", rows(50, each=2))
    whole, limited, part = (
        load_split(config(path=path, **more), print) for more in ({}, {"limit": 9}, {"fraction": 0.2})
    )
    assert whole[1] == limited[1] == part[1]
    assert (len(limited[0]), len(part[0])) == (9, 18)
    assert ids(limited[0]) < ids(whole[0])


def test_the_halves_share_no_text_and_leave_the_held_out_rows_alone() -> None:
    whole, *halves = (
        load_split(config(path="builtin:sample", **more), str) for more in ({}, {"half": "first"}, {"half": "second"})
    )
    first, second = (train for train, _ in halves)
    assert all(held_out == whole[1] for _, held_out in halves)
    assert ids(first) | ids(second) == ids(whole[0]) and not prompts(first) & prompts(second)
    assert not {reply for row in first for reply in row.replies} & {reply for row in second for reply in row.replies}
    assert 0.8 < len(prompts(first)) / len(prompts(second)) < 1.25
    limited, _ = load_split(config(path="builtin:sample", half="second", limit=20), str)
    assert len(limited) == 20 and ids(limited) < ids(second)


def test_halves_that_cannot_be_told_apart_are_told(tmp_path: Path) -> None:
    connected = rows(20)  # which share their chosen reply
    apart = [{**row, "chosen": f"good {number}", "rejected": f"bad {number}"} for number, row in enumerate(connected)]
    for path, shares in ((file(tmp_path, "a", apart), False), (file(tmp_path, "b", connected), True)):
        said: list[str] = []
        load_split(config(path=path, half="first", dev_fraction=0.0), said.append)
        assert any("data.half: the halves share replies" in line for line in said) == shares


def test_a_selection_that_leaves_nothing_says_so(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="leaves no training rows"):
        load_split(config(path=file(tmp_path, "a", rows(1)), dev_fraction=0.9), print)


def test_held_out_data_that_contain_every_training_prompt_are_named(tmp_path: Path) -> None:
    path = file(tmp_path, "a", rows(3))
    with pytest.raises(UserError, match=r"data\.eval_path=.*: contains every training prompt"):
        load_split(config(path=path, eval_path=path), print)


# -- held-out data of its own


def test_held_out_data_of_its_own_removes_leaks_from_training(tmp_path: Path) -> None:
    said: list[str] = []
    train_rows = rows(10, each=2)
    leaks = [{**train_rows[index], "prompt": train_rows[index]["prompt"].upper() + " "} for index in (0, 6)]
    data = config(path=file(tmp_path, "a", train_rows), eval_path=file(tmp_path, "b", [*leaks, *rows(3, "b")]))
    train, held_out = load_split(data, said.append)
    assert (len(train), len(held_out)) == (16, 5)
    assert not prompts(train) & prompts(held_out)
    assert said == [
        "4 training rows dropped (their prompt is in the held-out data)",
        "warning: 5 of 5 held-out rows share a reply with training rows",
    ]


def session_rows(sessions: int, turns: int = 4) -> list[dict[str, Any]]:
    """Return a row for each client's turn of a session, with all that was said before it."""
    made = []
    for session in range(sessions):
        said: list[dict[str, str]] = []
        for turn in range(turns):
            text = f"Client {session} at turn {turn}: still the same long story as before, and no sleep."
            said = [*said, {"role": "user", "content": text}]
            made.append({"prompt": said, "chosen": f"good {session} {turn}", "rejected": f"bad {session} {turn}"})
            said = [*said, {"role": "assistant", "content": f"Counsellor {session} {turn} asks something."}]
    return made


def sessions_of(examples: list[Example]) -> set[str]:
    return {example.prompt[0]["content"] for example in examples}


def test_the_turns_of_a_session_stay_together(tmp_path: Path) -> None:
    train, held_out = load_split(config(path=file(tmp_path, "a", session_rows(20)), dev_fraction=0.2), print)
    assert len(held_out) == 16 and not sessions_of(train) & sessions_of(held_out)
    greeted = [
        {**row, "prompt": [{"role": "user", "content": "Hello."}, *row["prompt"][1:]]} for row in session_rows(20)
    ]
    said: list[str] = []
    train, held_out = load_split(config(path=file(tmp_path, "b", greeted), dev_fraction=0.2), said.append)
    assert len(held_out) >= 8, "a short opening that all clients share connects nothing"


def test_the_turns_of_a_session_are_one_client_as_tokens_too() -> None:
    tokens = np.random.default_rng(0).integers(3, 256, 500, dtype=np.int32)
    system, hello = tokens[:40], tokens[40:44]
    sessions = [np.concatenate([system, hello, tokens[start : start + 60]]) for start in (100, 200, 300)]
    prompts = [*(session[:length] for session in sessions for length in (70, 100, 70)), sessions[0][:44]]
    groups = [Group(str(n), ids, [Completion(tokens[2 * n :][:2])]) for n, ids in enumerate(prompts)]
    for found in (clients_of_groups(groups).tolist(), components_of_groups(groups).tolist()):
        assert [len({*found[first : first + 3]}) for first in (0, 3, 6)] == [1, 1, 1]
        assert len({*found}) == 4, "the short opening of all clients connects nothing"


@pytest.mark.parametrize(
    "said",
    [
        "\u6211\u6700\u8fd1\u5f88\u7126\u8651\uff0c\u665a\u4e0a\u7761\u4e0d\u7740\u89c9\u3002",
        "\u0e09\u0e31\u0e19\u0e40\u0e04\u0e23\u0e35\u0e22\u0e14\u0e21\u0e32\u0e01\u0e41\u0e25\u0e30\u0e19\u0e2d"
        "\u0e19\u0e44\u0e21\u0e48\u0e2b\u0e25\u0e31\u0e1a" * 4,
    ],
    ids=["Chinese", "Thai"],
)
def test_turns_stay_together_where_spaces_separate_no_words(said: str) -> None:
    first = [{"role": "user", "content": said}]
    later = [*first, {"role": "assistant", "content": "\u55ef"}, {"role": "user", "content": said[:4]}]
    rows = [Example("a", "row 1", first, ["x", "y"]), Example("b", "row 2", later, ["z", "w"])]
    assert components_of(rows).tolist() == [0, 0]


def test_held_out_turns_remove_the_rest_of_their_session(tmp_path: Path) -> None:
    turns, said = session_rows(5), list[str]()
    others = [{**row, "chosen": f"else {number}", "rejected": "no"} for number, row in enumerate(turns)]
    data = config(path=file(tmp_path, "a", turns), eval_path=file(tmp_path, "b", [others[1], others[6]]))
    train, held_out = load_split(data, said.append)
    assert len(train) == 12 and not sessions_of(train) & sessions_of(held_out)
    assert said == [
        "2 training rows dropped (their prompt is in the held-out data)",
        "6 training rows dropped (other turns of their session are in the held-out data)",
    ]


def test_replies_shared_with_held_out_data_of_its_own_are_told(tmp_path: Path) -> None:
    said: list[str] = []
    held_out = [{**row, "chosen": f"own {index}", "rejected": "no"} for index, row in enumerate(rows(3, "b"))]
    held_out[1]["chosen"] = "GOOD "
    load_split(config(path=file(tmp_path, "a", rows(3)), eval_path=file(tmp_path, "b", held_out)), said.append)
    assert said == ["warning: 1 of 3 held-out rows share a reply with training rows"]


def test_nan_is_a_missing_value(tmp_path: Path) -> None:
    """pyarrow and json keep the NaN of a table in which only some rows have the column."""
    given = [{**row, "label": math.nan, "chosen_probability": math.nan} for row in rows(4)]
    train, _ = load_split(config(path=file(tmp_path, "a", given)), str)
    assert {(row.probability, len(row.replies)) for row in train} == {(None, 2)}


def test_a_score_whose_sum_overflows_is_refused(tmp_path: Path) -> None:
    given = [{"prompt": "p", "completion": "c", "reply_score": score} for score in (1e308, 1e308)]
    with pytest.raises(UserError, match=r"reply_score is 1e\+308: must be at most 1e\+100"):
        load_split(config(path=file(tmp_path, "a", given), min_gap=0), print)


def test_a_mixture_needs_a_path_for_its_held_out_split(tmp_path: Path) -> None:
    entry = {"path": file(tmp_path, "a", rows(5)), "rows": 3}
    with pytest.raises(UserError, match=r"data\.eval_split with data\.mix also needs data\.eval_path"):
        load_split(config(mix=[entry], eval_split="test"), print)


# -- mixtures


def mixed(tmp_path: Path, sizes: dict[str, int], by: str, amounts: list[float]) -> list[Example]:
    mix = [
        {"path": file(tmp_path, name, rows(size, name)), by: amount}
        for (name, size), amount in zip(sizes.items(), amounts, strict=True)
    ]
    return load_split(config(path=None, mix=mix, dev_fraction=0), print)[0]


def test_a_mixture_by_rows(tmp_path: Path) -> None:
    taken = mixed(tmp_path, {"a": 30, "b": 10}, "rows", [12, 10])
    assert Counter(each.id[0] for each in taken) == {"a": 12, "b": 10}
    assert len(ids(taken)) == 22


@pytest.mark.parametrize(
    ("sizes", "weights", "expected"),
    [
        ({"a": 30, "b": 10}, [1, 1], {"a": 10, "b": 10}),
        ({"a": 30, "b": 10}, [3, 1], {"a": 30, "b": 10}),
        ({"a": 30, "b": 90}, [0.75, 0.25], {"a": 30, "b": 10}),
        ({"a": 10, "b": 10, "c": 10}, [5, 3, 2], {"a": 10, "b": 6, "c": 4}),
    ],
)
def test_a_mixture_by_weight_takes_all_it_can_and_repeats_nothing(
    tmp_path: Path, sizes: dict[str, int], weights: list[float], expected: dict[str, int]
) -> None:
    taken = mixed(tmp_path, sizes, "weight", weights)
    assert Counter(each.id[0] for each in taken) == expected
    assert len(ids(taken)) == len(taken)


def test_a_mixture_that_wants_more_rows_than_there_are(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has 10 rows, not the 11 asked for"):
        mixed(tmp_path, {"a": 30, "b": 10}, "rows", [5, 11])


# -- ratings


def rating(**values: float) -> dict[str, float]:
    return {**dict.fromkeys(PRINCIPLES, 3.0), **values}


def rated_pair(number: int, chosen: dict[str, float], rejected: dict[str, float]) -> Example:
    pair = numbered_example(f"speech {number}", number)
    pair.ratings = [rating(**chosen), rating(**rejected)]
    return pair


def select(data: list[Example], **values: Any) -> tuple[list[Example], list[str]]:
    said: list[str] = []
    return pairs_of(data, config(**values), "f", said.append), said


def scored(*data: Example) -> list[Example]:
    """Return the example with the mean rating of each reply, as pairs_of gives it under equal weights."""
    return [
        replace(each, scores=[sum(given.values()) / 7 for given in each.ratings]) if each.ratings else each
        for each in data
    ]


WIDE = rated_pair(0, dict.fromkeys(PRINCIPLES, 5), dict.fromkeys(PRINCIPLES, 2))  # means 3 apart, sums 21
NARROW = rated_pair(1, {"empathy": 5, "clarity": 5}, {})  # sums 4 apart
EQUAL = rated_pair(2, {"empathy": 4}, {"clarity": 4})
UNSAFE = rated_pair(3, {"empathy": 5, "clarity": 5, "relevance": 5, "safety": 2}, {})  # sums 5 apart


@pytest.mark.parametrize(
    ("values", "kept"),
    [
        ({"min_gap": 3, "gap": "mean"}, [0]),
        ({"min_gap": 0.5, "gap": "mean"}, [0, 1, 3]),
        ({"min_gap": 4 / 7, "gap": "mean"}, [0, 1, 3]),
        ({"min_gap": 4, "gap": "sum"}, [0, 1, 3]),
        ({"min_gap": 4.5, "gap": "sum"}, [0, 3]),
        ({"min_gap": 0}, [0, 1, 3]),
        ({}, [0, 1, 2, 3]),
    ],
)
def test_min_gap_counts_in_means_or_sums(values: dict[str, Any], kept: list[int]) -> None:
    found, said = select([WIDE, NARROW, EQUAL, UNSAFE], **values)
    assert [each.where for each in found] == [f"row {number}" for number in kept]
    assert sum(int(line.split()[1]) for line in said) == 4 - len(kept)


@pytest.mark.parametrize(
    ("data", "values", "reason"),
    [
        ([WIDE, NARROW, EQUAL], {"min_gap": 22, "gap": "sum"}, "gap below data.min_gap"),
        ([EQUAL], {"safety_veto": True}, "their scores are equal"),
    ],
)
def test_a_selection_that_leaves_no_pair_is_refused_with_its_reason(
    data: list[Example], values: dict[str, Any], reason: str
) -> None:
    with pytest.raises(UserError, match=rf"^f: none of its pairs is left \({reason}\)$"):
        select(data, **values)


def test_principle_weights_relabel_pairs_and_say_how_many() -> None:
    found, said = select([WIDE, UNSAFE, EQUAL], principle_weights={"safety": 20})
    assert [each.replies for each in found] == [["good", "bad 0"], ["bad 3", "good"]]
    assert found[1].ratings == [UNSAFE.ratings[1], UNSAFE.ratings[0]]  # type: ignore[index]
    assert found[1].id == UNSAFE.id
    assert found[1].scores == [pytest.approx((3 * 6 + 3 * 20) / 26), pytest.approx((5 * 3 + 3 * 3 + 2 * 20) / 26)]
    assert said == [
        "f: 1 pair dropped (their scores are equal)",
        "f: 1 pair changed sides, because their ratings prefer the other reply (equal data.principle_weights keeps labels)",
    ]
    assert select([UNSAFE], principle_weights={"safety": 1}) == (scored(UNSAFE), [])


def test_a_chosen_reply_below_min_chosen_drops_its_pair() -> None:
    found, said = select([WIDE, UNSAFE, NARROW], min_chosen=3.6)
    assert found == scored(WIDE, UNSAFE)
    assert said == ["f: 1 pair dropped (the reply with the higher score is below data.min_chosen)"]
    assert select([WIDE], min_chosen=5, principle_weights={"safety": 2})[0] == scored(WIDE)


def test_the_safety_veto_drops_pairs_whose_rejected_reply_is_safer() -> None:
    found, said = select([WIDE, UNSAFE, NARROW], safety_veto=True)
    assert found == scored(WIDE, NARROW)
    assert said == ["f: 1 pair dropped (the reply with the higher score is rated less safe)"]


@pytest.mark.parametrize("values", [{"min_gap": 0.0}, {"principle_weights": {"safety": 2}}, {"safety_veto": True}])
def test_asking_for_ratings_that_are_not_there_names_the_row(values: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"^row 7: lacks ratings"):
        select([WIDE, numbered_example("speech", 7)], **values)


@pytest.mark.parametrize("weights", [{}, dict.fromkeys(PRINCIPLES, 1.0), dict.fromkeys(PRINCIPLES, 3.0)])
def test_equal_weights_ask_for_no_ratings_and_keep_the_labels(weights: dict[str, float]) -> None:
    data = [numbered_example("speech", 7), EQUAL, UNSAFE]
    assert select(data, principle_weights=weights) == (scored(*data), [])


def test_rated_replies_become_all_pairs_or_the_extremes() -> None:
    replies = Example("q", "row 0", [{"role": "user", "content": "speech"}], ["c", "a", "b"], rated=True)
    replies.ratings = [rating(empathy=3), rating(empathy=5), rating(empathy=4)]
    found, _ = select([replies])
    assert sorted(each.replies for each in found) == [["a", "b"], ["a", "c"], ["b", "c"]]
    assert len(ids(found)) == 3
    assert not any(each.rated for each in found)
    assert all(each.ratings[0]["empathy"] > each.ratings[1]["empathy"] for each in found if each.ratings)
    assert [each.replies for each in select([replies], pairs="extremes")[0]] == [["a", "c"]]


def test_writers_and_places_go_with_their_replies() -> None:
    replies = Example("q", "row 0", [{"role": "user", "content": "speech"}], ["c", "a", "b"], rated=True)
    replies.ratings, replies.writers = [rating(empathy=3), rating(empathy=5), rating(empathy=4)], ["C", "A", "B"]
    for pair in select([replies])[0]:
        assert pair.writers == [reply.upper() for reply in pair.replies]
        assert pair.order == ["cab".index(reply) for reply in pair.replies]
    pair = replace(UNSAFE, writers=["first", "second"])  # its rejected reply is rated safer
    (turned,) = select([pair], principle_weights=dict.fromkeys(PRINCIPLES, 0.0) | {"safety": 1.0})[0]
    assert turned.replies == UNSAFE.replies[::-1] and turned.writers == ["second", "first"] and turned.order is None


def test_a_reply_that_is_marked_harmful_is_never_chosen() -> None:
    said: list[str] = []
    ratings = [rating(), rating(clarity=5), rating(clarity=2)]
    prompt, harmful = [{"role": "user", "content": "speech"}], [False, True, False]
    replies = Example("q", "row 0", prompt, ["a", "harm", "b"], ratings, rated=True, harmful=harmful)
    found = pairs_of([replies], config(), "f", said.append)
    assert [each.replies for each in found] == [["a", "b"]]
    assert said == ["f: 2 pairs dropped (the reply with the higher score is marked harmful)"]
    worse = replace(replies, harmful=[False, False, True])
    assert len(pairs_of([worse], config(), "f", said.append)) == 3
    same = replace(replies, harmful=None, replies=["a", "a", "b"])
    assert [each.replies for each in pairs_of([same], config(), "f", said.append)] == [["a", "b"], ["a", "b"]]
    assert said[-1] == "f: 1 pair dropped (their replies are the same text)"


def test_a_single_rated_reply_is_counted() -> None:
    lonely = Example("q", "row 0", [{"role": "user", "content": "speech"}], ["a"], [rating()], rated=True)
    assert select([lonely, WIDE]) == (scored(WIDE), ["f: 1 pair dropped (their prompt has one reply only)"])


# `data.soft_labels` from column to groups: labels are kept, swapped with their pair, and required if the setting is
# on.

Row = dict[str, Any]


def row(number: int, **more: Any) -> Row:
    return {"id": number, "prompt": f"I am {number}.", "chosen": f"Good {number}.", "rejected": f"Bad {number}."} | more


def built(file: Path, cache: Path, *overrides: str) -> Dataset:
    given = ["data=local", f"data.path={file}", f"paths.cache={cache}", *overrides]
    config = check(compose(given))
    return build_dataset(config, load_chat_format(config.model)[1], "pairs", lambda line: None)


def labels_of(dataset: Dataset) -> dict[str, float | None]:
    return {group.id: group.probability for group in (*dataset.train, *dataset.held_out)}


def test_labels_reach_the_groups_if_asked_and_again_from_the_cache(tmp_path: Path) -> None:
    rows = [row(number, chosen_probability=number / 19) for number in range(20)]
    file = write_jsonl(tmp_path / "rows.jsonl", rows)
    expected = {str(number): number / 19 for number in range(20)}
    first, again = (built(file, tmp_path / "cache", "data.soft_labels=true") for _ in range(2))
    assert labels_of(first) == labels_of(again) == expected
    assert first.fingerprint() == again.fingerprint()
    plain = built(file, tmp_path / "cache")
    assert set(labels_of(plain).values()) == {None}
    assert plain.fingerprint() != first.fingerprint()
    one = replace(first.train[0], probability=0.123)
    assert Dataset([one], []).fingerprint() != Dataset([first.train[0]], []).fingerprint()
    kept = [None, 0.0, 0.5, 1.0]
    groups = [replace(first.train[0], probability=value) for value in kept]
    assert [group.probability for group in unflatten(flatten(groups))] == kept


def ratings(chosen: dict[str, int], rejected: dict[str, int]) -> Row:
    given = {"chosen": chosen, "rejected": rejected}
    return {f"{side}_{name}_rating": given[side].get(name, 3) for side in given for name in PRINCIPLES}


def test_a_pair_that_changes_sides_takes_the_other_label(tmp_path: Path) -> None:
    kept = ratings({"empathy": 5, "safety": 5}, {})
    turned = ratings({"empathy": 5}, {"safety": 4})  # by safety alone, the rejected reply is better
    rows = [row(number, chosen_probability=0.8, **(turned if number % 2 else kept)) for number in range(10)]
    weights = [f"data.principle_weights.{name}={int(name == 'safety')}" for name in PRINCIPLES]
    file = write_jsonl(tmp_path / "rows.jsonl", rows)
    found = built(file, tmp_path / "cache", "data.soft_labels=true", *weights)
    for group in (*found.train, *found.held_out):
        odd = int(group.id) % 2
        assert group.completions[0].text == ("Bad" if odd else "Good") + f" {group.id}."
        assert group.probability == pytest.approx(0.2 if odd else 0.8)


@pytest.mark.parametrize("value", [-0.01, 1.01, 85, "much", True, [0.5]])
def test_a_column_that_holds_something_else_is_refused_by_its_name(value: object) -> None:
    with pytest.raises(UserError, match=r"^here: chosen_probability must be a number from 0 to 1$"):
        parse_row(row(1, chosen_probability=value), "here")


@pytest.mark.parametrize("value", [None, 0, 1, 0.5])
def test_limits_and_a_missing_value(value: float | None) -> None:
    assert parse_row(row(1, chosen_probability=value), "here").probability == value


def test_rows_without_the_column_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    rows = [row(number, chosen_probability=0.7 if number else None) for number in range(20)]
    file = write_jsonl(tmp_path / "rows.jsonl", rows)
    answer = run_here(f"train algo=dpo data=local data.path={file} data.soft_labels=true dry_run=true")
    assert answer.code == 2
    assert (
        "rows.jsonl line 1: data.soft_labels=true reads the column chosen_probability, which it lacks" in answer.stderr
    )
    answer = run_here("train algo=dpo data=sample data.soft_labels=true dry_run=true")
    assert answer.code == 2 and "which it lacks: add it, or leave data.soft_labels out" in answer.stderr
