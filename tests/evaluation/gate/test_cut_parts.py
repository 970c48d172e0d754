"""Parts that show less than their set: they can refuse, and never let a model pass."""

from psychocounsel.evaluation.gate.gate_parts import cuts_of, tells_missed
from tests.evaluation.gate.made_cases import case
from tests.support.contests import contest


def test_keys_that_leave_out_a_part_of_the_set_are_named() -> None:
    session = ["evaluation=session", "model.path=builtin:tiny_dpo"]
    assert [*cuts_of(contest(*session))] == []
    assert [*cuts_of(contest(*session, "evaluation.turns=20"))] == []
    cut = contest(*session, "limit=5", "personas.patterns=[calm,masked]", "evaluation.turns=1")
    assert [*cuts_of(cut)] == ["limit=5", "personas.patterns=[calm,masked]", "evaluation.turns=1"]
    assert [*cuts_of(contest("evaluation=health", "limit=3"))] == ["limit=3"]


def test_a_part_without_a_client_of_the_model_at_risk_is_silent() -> None:
    of_base = case(1, "base")
    assert not tells_missed([case(1, missed=None), of_base], "model")
    assert tells_missed([case(1, missed=None), case(2), of_base], "model")
