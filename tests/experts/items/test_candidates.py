"""Tests of drawing items from candidates, and of each expert's items and order."""

from collections import Counter
from itertools import combinations

import pytest

from psychocounsel.experts.items.candidates import PairCandidate, assign, draw_evenly, draw_items, sequence


def candidate(number: int, risk: str = "none", topic: str = "work", speech: str | None = None) -> PairCandidate:
    prompt = [{"role": "user", "content": str(number)}]
    gap = float(number % 30)
    item, speech = f"i{number:03}", speech or f"s{number:03}"
    about = {"gap": gap, "risk": risk, "topic": topic}
    return PairCandidate(item=item, speech=speech, prompt=prompt, replies=("a", "b"), preferred=0, **about)


def test_every_client_at_risk_is_drawn_first() -> None:
    pool = [candidate(number, "abuse" if number % 10 == 0 else "none") for number in range(200)]
    drawn = draw_items(pool, 50, 0)
    assert len({each.candidate.item for each in drawn}) == 50
    assert sum(each.candidate.crisis for each in drawn) == 20
    assert all(each.share == 1 for each in drawn if each.candidate.crisis)


def test_strata_have_equally_many_items_as_far_as_they_go() -> None:
    """Topics have 100, 10 and 2 candidates: 45 items are 2 of the smallest, 10 of the next, the rest of the largest."""
    sizes = {"work": 100, "grief": 10, "money": 2}
    pool = [candidate(300 * place + at, topic=topic) for place, topic in enumerate(sizes) for at in range(sizes[topic])]
    drawn = draw_items(pool, 45, 1)
    assert Counter(each.candidate.topic for each in drawn) == {"money": 2, "grief": 10, "work": 33}
    balanced = Counter(each.stratum for each in draw_items(pool, 18, 1))
    all_of_it = Counter(each.stratum for each in draw_items(pool, 112, 1))
    left = [balanced[stratum] for stratum in all_of_it if balanced[stratum] < all_of_it[stratum]]
    assert max(left) - min(left) <= 1
    for each in drawn:
        in_stratum = [other for other in drawn if other.stratum == each.stratum]
        assert each.share == pytest.approx(len(in_stratum) / round(len(in_stratum) / each.share))
    work = {each.stratum: each.share for each in drawn if each.candidate.topic == "work"}
    bands = Counter(each.stratum for each in drawn)
    assert sum(bands[stratum] / share for stratum, share in work.items()) == pytest.approx(100)


def test_a_speech_has_a_second_item_only_after_all_have_one() -> None:
    pool = [candidate(number, speech=f"s{number % 10}") for number in range(60)]
    drawn = draw_items(pool, 10, 3)
    per_speech = Counter(each.candidate.speech for each in drawn)
    assert len(per_speech) >= 8  # three bands draw in turn; within a band, a used speech comes last
    assert max(Counter(each.candidate.speech for each in draw_items(pool, 60, 3)).values()) == 6


def test_drawn_evenly_a_client_at_risk_has_no_better_chance_and_each_client_one_item_first() -> None:
    pool = [
        candidate(number, "abuse" if number % 10 == 0 else "none", speech=f"s{number % 100}") for number in range(200)
    ]
    taken = [draw_evenly(pool, 50, seed) for seed in range(40)]
    assert all(len({each.candidate.speech for each in drawn}) == 50 for drawn in taken)
    at_risk = sum(each.candidate.crisis for drawn in taken for each in drawn)
    assert 0.08 < at_risk / (50 * len(taken)) < 0.12  # a tenth of the clients
    assert {each.share for each in taken[0]} == {0.25} and taken[0] == draw_evenly(pool, 50, 0) != taken[1]
    assert len(draw_evenly(pool, 150, 0)) == 150 and len(draw_evenly(pool, 500, 0)) == 200


def test_the_same_seed_draws_the_same_items_and_another_seed_others() -> None:
    pool = [candidate(number) for number in range(200)]
    first, again, other = draw_items(pool, 20, 0), draw_items(list(pool), 20, 0), draw_items(pool, 20, 1)
    assert first == again and {each.candidate.item for each in first} != {each.candidate.item for each in other}


@pytest.mark.parametrize(("experts", "overlap"), [(2, 2), (5, 2), (6, 3), (4, 1)])
def test_each_item_has_its_experts_and_each_expert_a_fair_share(experts: int, overlap: int) -> None:
    names, items = [f"e{number}" for number in range(experts)], [f"i{number}" for number in range(60)]
    own = assign(items, names, overlap, 0)
    assert Counter(item for each in own.values() for item in each) == dict.fromkeys(items, overlap)
    loads = [len(each) for each in own.values()]
    assert max(loads) - min(loads) <= 1
    shared = [len(set(own[one]) & set(own[two])) for one, two in combinations(names, 2)]
    assert overlap == 1 or max(shared) - min(shared) <= 0.5 * sum(shared) / len(shared) + 2


def test_the_order_spreads_clients_at_risk_and_repeats_late() -> None:
    own = [candidate(number, "abuse" if number < 20 else "none") for number in range(100)]
    shown = sequence(own, 0.1, 0, 0)
    first, second = [each for each in shown if not each.repeat], [each for each in shown if each.repeat]
    assert [len(first), len(second)] == [100, 10]
    assert {each.item for each in first} == {each.item for each in own}
    places = {(each.item, each.repeat): at for at, each in enumerate(shown)}
    risky = {each.item for each in own if each.crisis}
    for each in second:
        assert each.item not in risky
        assert places[each.item, 1] - places[each.item, 0] >= 20
        assert places[each.item, 1] >= 50
    at_risk = [each.item in risky for each in first]
    assert max(sum(at_risk[at : at + 10]) for at in range(90)) <= 4  # 2 in 10 on average
    assert not any(all(at_risk[at : at + 3]) for at in range(98))


def test_sides_are_random_and_other_for_each_expert() -> None:
    own = [candidate(number) for number in range(400)]
    one, two = sequence(own, 0, 0, 0), sequence(own, 0, 0, 1)
    for shown in (one, two):
        assert 160 < sum(each.left for each in shown) < 240
    sides = [{each.item: each.left for each in shown} for shown in (one, two)]
    assert 160 < sum(sides[0][each.item] == sides[1][each.item] for each in own) < 240
    assert [each.item for each in one] != [each.item for each in two]
