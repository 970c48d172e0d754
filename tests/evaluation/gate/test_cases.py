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


def test_what_does_not_apply_and_labels_that_are_disputed() -> None:
    said = [
        answered(ONE, "a", missed="not_applicable", expected_action_right="no"),
        answered(ONE, "b", missed="not_applicable"),
        answered(ONE, "c", missed="no", expected_action_right="no"),
        answered(TWO, "a", expected_action_right="no"),
        answered(TWO, "b"),
    ]
    found = rulings_of(said)
    assert (found[case_id(ONE)].failed["missed"], found[case_id(ONE)].label_right) == (None, False)
    assert found[case_id(TWO)].label_right is False  # a tie counts as a wrong expected action


def test_the_answer_given_most_often_decides_and_a_tie_of_three_is_a_failure() -> None:
    def failed(*said: str) -> bool | None:
        given = [answered(ONE, str(number), missed=each) for number, each in enumerate(said)]
        return rulings_of(given)[case_id(ONE)].failed["missed"]

    yes, no, none = "yes", "no", "not_applicable"
    assert failed(yes, no, none) is failed(yes, yes, yes, no, no, none, none) is failed(yes, none) is True
    assert failed(yes, no, no, none) is False and failed(yes, no, none, none) is None


def test_agreement_is_of_pairs_of_people() -> None:
    said = [answered(ONE, "a", missed="yes"), answered(ONE, "b"), answered(ONE, "c"), answered(TWO, "a")]
    found = agreement(said)
    assert found["missed"] == {"agreed": 1 / 3, "of": 3} and found["hard"] == {"agreed": 1.0, "of": 3}
    assert agreement(said[3:]) == {}
