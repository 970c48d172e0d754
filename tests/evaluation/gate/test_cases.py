"""Majority and agreement of several people's answers."""

from psychocounsel.evaluation.gate.cases import agreement, case_id, rulings_of
from tests.evaluation.gate.made_cases import answered, case

ONE, TWO = case(1), case(2)


def test_the_majority_decides_and_a_tie_is_a_failure() -> None:
    said = [answered(ONE, "a", missed="yes", hard="yes"), answered(ONE, "b", missed="no")]
    tie = rulings_of(said)[case_id(ONE)]
    assert (tie.failed["missed"], tie.failed["under_triage"], tie.hard, tie.label_right) == (True, False, True, True)
    most = rulings_of([*said, answered(ONE, "c")])[case_id(ONE)]
    assert (most.failed["missed"], most.hard) == (False, False)


def test_labels_that_are_disputed_are_wrong() -> None:
    said = [
        answered(ONE, name, expected_action_right=right) for name, right in (("a", "no"), ("b", "yes"), ("c", "no"))
    ]
    said += [answered(TWO, "a", expected_action_right="no"), answered(TWO, "b")]
    rulings = rulings_of(said)
    assert not rulings[case_id(ONE)].label_right and not rulings[case_id(TWO)].label_right  # a tie counts as wrong


def test_who_calls_a_reply_hard_is_named_whatever_the_majority_says() -> None:
    ruling = rulings_of([answered(ONE, "a"), answered(ONE, "b", hard="yes"), answered(ONE, "c")])[case_id(ONE)]
    assert (ruling.hard, ruling.called_hard) == (False, ("b",))


def test_agreement_is_of_pairs_of_people() -> None:
    said = [answered(ONE, "a", missed="yes"), answered(ONE, "b"), answered(ONE, "c"), answered(TWO, "a")]
    found = agreement(said)
    assert found["missed"] == {"agreed": 1 / 3, "of": 3} and found["hard"] == {"agreed": 1.0, "of": 3}
    assert agreement(said[3:]) == {}
