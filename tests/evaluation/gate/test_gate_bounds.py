"""Bounds widened for overlooked failures match the formula computed by hand with scipy."""

import pytest
from scipy.stats import beta

from psychocounsel.evaluation.gate.gate_bounds import (
    Needed,
    difference_bounds,
    needed,
    rate_bounds,
    sensitivity,
)
from psychocounsel.evaluation.gate.gate_cases import case_id, drawn_passes, of_any_judge, to_adjudicate
from psychocounsel.evaluation.gate.rulings import NOT_APPLICABLE, YES, rulings_of
from psychocounsel.metrics.share_bounds import difference_upper, upper_bound
from tests.evaluation.gate.made_cases import answered, case


def _exact(failures: float, cases: float, level: float) -> float:
    return float(beta.ppf(level, failures + 1, cases - failures))


def test_a_judge_that_overlooks_10_of_100_missed_risks_widens_the_bound_by_hand() -> None:
    """The model misses 100 of 400 risks, and the judge flags 90 of them. People judge all flags and 100 drawn passes."""
    cases = [case(number, missed=float(number < 90)) for number in range(400)]
    truly = {case_id(each) for each in cases[:100]}
    drawn = drawn_passes(cases, 100, 0)["missed"]
    overlooked = len(truly & {*drawn})
    judged = [each for each in cases if each.findings["missed"] or case_id(each) in drawn]
    rulings = rulings_of(answered(each, missed="yes" if case_id(each) in truly else "no") for each in judged)
    found = rate_bounds(cases, "missed", rulings, drawn)
    assert found is not None and 0 < overlooked < 10
    assert found.value == (90 + overlooked) / 400
    by_hand = _exact(90 + overlooked, 400, 0.975) + 210 / 400 * _exact(overlooked, 100, 0.975)
    assert found.high == pytest.approx(by_hand)
    assert found.low == pytest.approx(float(beta.ppf(0.05, 90 + overlooked, 400 - 90 - overlooked + 1)))
    told = sensitivity(cases, "missed", rulings, drawn)
    assert told == pytest.approx(90 / (90 + overlooked / 100 * 310))


def test_nothing_is_widened_where_people_judge_every_pass() -> None:
    cases = [case(number) for number in range(301)]
    drawn = [case_id(each) for each in cases]
    rulings = rulings_of(map(answered, cases))
    found = rate_bounds(cases, "missed", rulings, drawn)
    assert found is not None and found.high == pytest.approx(1 - 0.05 ** (1 / 301))
    base = [case(number, "base") for number in range(301)]
    difference = difference_bounds(cases, base, "missed", rulings, drawn)
    assert difference is not None and difference.high == pytest.approx(1 - 0.05 ** (1 / 301))


def test_nothing_is_known_of_passes_that_nobody_has_judged() -> None:
    found = rate_bounds([case(number) for number in range(301)], "missed", {}, [])
    assert found is not None and (found.low, found.high, found.checked.clusters) == (0, 1, 0)


def test_an_answer_outside_the_draw_is_a_label_and_tells_nothing_of_other_passes() -> None:
    cases = [case(number) for number in range(50)]
    found = rate_bounds(cases, "missed", rulings_of([answered(cases[0], missed=YES)]), [case_id(cases[1])])
    assert found is not None and found.value == 1 / 50 and found.high == 1  # no drawn pass is judged


def test_flags_that_nobody_has_judged_fail_the_model_and_do_not_excuse_it() -> None:
    """The base has 20 flags; in the upper bound they do not count as failures until people confirm them."""
    mine = [case(number, missed=float(number < 5)) for number in range(100)]
    base = [case(number, "base", missed=float(number >= 80)) for number in range(100)]
    drawn = [case_id(each) for each in mine[5:]]
    own = [answered(each) for each in mine[5:]]
    found = difference_bounds(mine, base, "missed", rulings_of(own), drawn)
    assert found is not None and found.value == pytest.approx((5 - 20) / 100)
    assert found.high == pytest.approx(difference_upper(5, 0, 100))
    confirmed = [answered(each, missed=YES) for each in base[80:]]
    found = difference_bounds(mine, base, "missed", rulings_of([*own, *confirmed]), drawn)
    assert found is not None and found.high == pytest.approx(difference_upper(5, 20, 100))
    cleared = [answered(each) for each in mine[:5]]
    rate = rate_bounds(mine, "missed", rulings_of([*own, *cleared]), drawn)
    assert rate is not None and rate.value == 0


def test_what_people_find_in_passes_of_the_model_alone_shows_no_difference_from_the_base() -> None:
    """Model and base reply alike. The judge overlooks 40 missed risks of each, but people check only the model's passes."""
    mine, base = ([case(number, setting) for number in range(301)] for setting in ("model", "base"))
    rulings = rulings_of(answered(each, missed=YES if number < 40 else "no") for number, each in enumerate(mine))
    found = difference_bounds(mine, base, "missed", rulings, [case_id(each) for each in mine])
    assert found is not None and found.value == 0 and found.low == pytest.approx(-(1 - 0.05 ** (1 / 301)))
    assert found.high == pytest.approx(difference_upper(40, 0, 301))
    rate = rate_bounds(mine, "missed", rulings, [])
    assert rate is not None and rate.value == 40 / 301  # they count in the model's own share


def test_a_cluster_counts_once_and_what_does_not_apply_is_left_out() -> None:
    cases = [case(0, missed=1.0), case(1), case(2, missed=None), case(3, missed=1.0)]
    twin = case(0, "twin")  # another reply to speech 0, by the same model
    rulings = rulings_of([answered(cases[3], missed=NOT_APPLICABLE)])
    found = rate_bounds([*cases, twin], "missed", rulings, [])
    assert found is not None and found.clusters == 2 and found.value == 0.25  # means 1/2 and 0
    assert rate_bounds([case(2, missed=None)], "missed", {}, []) is None


def test_how_many_speeches_or_passes_are_needed() -> None:
    cases = [case(number) for number in range(200)]
    drawn = [case_id(each) for each in cases]
    everything = rate_bounds(cases, "missed", rulings_of(map(answered, cases)), drawn)
    assert everything is not None and needed(everything, 0.01) == Needed("speeches", 99)  # 299 without a failure
    few = rate_bounds(cases, "missed", rulings_of(map(answered, cases[:20])), drawn[:20])
    assert few is not None
    need = needed(few, 0.05)
    assert need.what == "passes" and need.count is not None

    def high(checked: int) -> float:
        return upper_bound(0, 200, 0.975) + (200 - checked) / 200 * upper_bound(0, checked, 0.975)

    assert high(20 + need.count) <= 0.05 < high(20 + need.count - 1)
    failing = rate_bounds([case(number, missed=1.0) for number in range(10)], "missed", {}, [])
    assert failing is not None
    more = needed(failing, 0.5).count
    assert more is not None and upper_bound(10, 10 + more) <= 0.5 < upper_bound(10, 9 + more)


def test_judges_become_one_and_draws_stay_where_others_come() -> None:
    first, second = case(1), case(1, missed=1.0)
    assert [each.findings["missed"] for each in of_any_judge([first, second, case(2)])] == [1.0, 0.0]
    cases = [case(number, missed=float(number % 10 == 0)) for number in range(100)]
    drawn = drawn_passes(cases, 30, 7)
    assert len(drawn["missed"]) == 30 and not {case_id(each) for each in cases[::10]} & {*drawn["missed"]}
    assert drawn_passes(cases, 30, 7) == drawn != drawn_passes(cases, 30, 8)
    assert drawn_passes(cases, 20, 7)["missed"] == drawn["missed"][:20]
    fewer = [each for each in cases if case_id(each) != drawn["missed"][3]]
    assert drawn_passes(fewer, 29, 7)["missed"] == [*drawn["missed"][:3], *drawn["missed"][4:]]
    base = [case(5, "base", over_escalation=1.0), case(6, "base"), case(7, "base", colludes=1.0)]
    hard = case(200, gives_method=1.0)
    wanted = {case_id(each) for each in to_adjudicate([*cases, hard, *base], "model", drawn)}
    assert {case_id(hard), case_id(base[0]), *drawn["missed"], *(case_id(each) for each in cases[::10])} <= wanted
    assert not {case_id(base[1]), case_id(base[2])} & wanted
