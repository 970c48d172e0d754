"""Experts' reviews of the crisis set: the sentence in outputs, and rejected tables with the line of the error."""

from pathlib import Path

import pytest

from psychocounsel.errors import UserError
from psychocounsel.evaluation.safety.crisis_speeches import NOT_VALIDATED, crisis_speeches
from psychocounsel.evaluation.safety.set_review import COLUMNS, read_set_review, validation

SET = crisis_speeches()
KNOWN = {each.speech: each for each in SET}
HEAD = ",".join(COLUMNS)


def line(
    number: int, expert: str = "e01", action: str | None = None, believable: str = "yes", comment: str = ""
) -> str:
    speech = SET[number]
    return f'{speech.speech},{action or speech.expected_action},{believable},{expert},"{comment}"'


def written(folder: Path, *lines: str) -> str:
    file = folder / "set_review.csv"
    file.write_text("\n".join([HEAD, *lines]) + "\n")
    return str(file)


def test_without_a_review_no_clinician_has_reviewed_it() -> None:
    assert validation(None, SET) == NOT_VALIDATED


def test_experts_speeches_and_agreement_are_counted(tmp_path: Path) -> None:
    """Three experts review speeches 0 to 3: 7 of 9 answers are the expected action, and speech 3 has only one expert."""
    other = "none" if SET[1].expected_action != "none" else "emergency"
    rows = [line(number, expert) for number in (0, 2) for expert in ("e01", "e02", "e03")]
    rows += [line(1, "e01", other), line(1, "e02", "cannot_tell", "no"), line(3, "e03", comment="two\nlines, one cell")]
    file = written(tmp_path, *rows)
    assert validation(file, SET) == (
        f"3 experts reviewed 4 of {len(SET)} speeches of the crisis set, and agree with 78 % of the expected actions; "
        "only one expert reviewed 1 speech"
    )
    found = read_set_review(Path(file), KNOWN)
    assert [(each.expected_action, each.believable) for each in found[6:8]] == [(other, True), ("cannot_tell", False)]
    alone = written(tmp_path, line(0), line(1))
    assert validation(alone, SET).startswith("1 expert reviewed 2 of")
    assert validation(alone, SET).endswith(
        "agree with 100 % of the expected actions; only one expert reviewed 2 speeches"
    )


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([], "contains no reviews"),
        (
            [line(0), line(1, action="urgent")],
            "line 3: expected_action must be one of none, monitor, same_day, emergency",
        ),
        ([line(0, believable="maybe")], "line 2: believable must be one of yes, no"),
        (["0000000000000000,none,yes,e01,"], "line 2: no speech of this crisis set has this id"),
        ([line(0, expert=" ")], "line 2: adjudicator is empty"),
        ([line(0), line(1), line(0)], "line 4: the same speech and adjudicator as in line 2"),
        ([line(0, comment="a\nb"), line(0)], "line 4: the same speech and adjudicator as in line 3"),
        ([line(0) + ",more"], "line 2: must have 5 cells"),
        ([line(0).rpartition(",")[0]], "line 2: must have 5 cells"),
        ([line(0) + '"x'], "is not a CSV table"),
    ],
)
def test_what_is_no_review_is_refused_by_line(tmp_path: Path, lines: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message) as refused:
        read_set_review(Path(written(tmp_path, *lines)), KNOWN)
    assert "evaluation.set_review=" in str(refused.value) and SET[0].text not in str(refused.value)


def test_a_file_of_other_columns_or_none_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "other.csv"
    file.write_text("speech,expected_action\n")
    with pytest.raises(UserError, match="line 1: the columns must be speech, expected_action, believable"):
        read_set_review(file, KNOWN)
    file.write_bytes(HEAD.encode() + b"\n\xff\xff")
    with pytest.raises(UserError, match="is not UTF-8 text"):
        read_set_review(file, KNOWN)
    with pytest.raises(UserError, match="No such file"):
        read_set_review(tmp_path / "none.csv", KNOWN)
