"""The rubric as text: models and people read every word of the files, and only the parts they ask for."""

from collections.abc import Iterator
from dataclasses import fields, is_dataclass, replace

import pytest

from psychocounsel.counsel.principles import PRINCIPLES
from psychocounsel.counsel.rubric import HEADINGS, load_rubric
from psychocounsel.counsel.rubric_text import PARTS, parts_for, plain_text, prompt_text

RUBRIC = load_rubric()


def words_of(part: object, leave_out: tuple[str, ...] = ()) -> Iterator[str]:
    """Every text in a part of the rubric, and every key."""
    if isinstance(part, str):
        yield part
    elif isinstance(part, dict):
        for key, value in part.items():
            yield str(key)
            yield from words_of(value, leave_out)
    elif isinstance(part, tuple):
        for value in part:
            yield from words_of(value, leave_out)
    elif is_dataclass(part):
        for field in fields(part):
            if field.name not in leave_out:
                yield from words_of(getattr(part, field.name), leave_out)


def flat(text: str) -> str:
    return " ".join(text.split())


@pytest.mark.parametrize("name", PARTS)
def test_people_read_every_word_of_a_file_and_models_all_but_its_sources(name: str) -> None:
    part = RUBRIC.principles[name] if name in PRINCIPLES else getattr(RUBRIC, name)
    unread = ("headings", "speech", "language")  # shown to the reader in another form
    people = flat(plain_text(RUBRIC, [name])).replace("  - ", "")
    for text in words_of(part, unread):
        if text not in part_speeches(part):
            assert flat(text) in people, text
    model = flat(prompt_text(RUBRIC, [name]))
    for text in words_of(part, (*unread, "origin", "literature")):
        if text not in part_speeches(part):
            assert flat(text) in model, text
    assert all(flat(work.cite) not in model for work in part.literature)


def part_speeches(part: object) -> set[str]:
    return set(getattr(part, "speeches", {}))


def test_without_examples_the_rules_are_the_same() -> None:
    whole, rules = (prompt_text(RUBRIC, ["autonomy"], examples=given) for given in (True, False))
    assert whole.startswith(rules.rstrip())
    assert "eleven days" in whole and "eleven days" not in rules
    assert len(rules) < 0.45 * len(whole)


def test_a_rater_of_some_principles_gets_what_they_need_in_the_order_of_reading() -> None:
    assert parts_for(["empathy"]) == ("guide", "empathy")
    assert parts_for(["staging", "clarity"]) == ("guide", "stages", "clarity", "staging")
    assert parts_for(["safety"]) == ("guide", "risk", "safety_questions", "safety")
    assert parts_for(PRINCIPLES) == PARTS
    text = prompt_text(RUBRIC, parts_for(["empathy", "staging"]), examples=False)
    titles = [line for line in text.splitlines() if line.startswith("# ")]
    assert titles[1:] == [
        "# The client's stage of change",
        "# empathy: Empathy and emotional understanding",
        "# staging: Sensitivity to the client's stage of change",
    ]
    assert RUBRIC.guide.imminent_risk in text, "the definition of imminent risk is always included"


def test_unknown_names_are_refused() -> None:
    with pytest.raises(ValueError, match=r"warmth is not a principle; they are empathy, "):
        parts_for(["warmth"])
    with pytest.raises(ValueError, match=r"warmth is not a part of a rubric; they are guide, "):
        prompt_text(RUBRIC, ["warmth"])


def test_headings_are_the_files_own_so_that_another_language_has_no_english_ones() -> None:
    headings = {name: f"<{name}>" for name in HEADINGS}
    foreign = replace(RUBRIC, guide=replace(RUBRIC.guide, headings=headings))
    text = plain_text(foreign)
    assert {name for name in HEADINGS if f"<{name}>" not in text} == set()
    for heading in ("Client: ", "Reply: ", "Rating: ", "Reason: ", "Definition: ", "Not applicable: ", "(danger)"):
        assert heading in plain_text(RUBRIC) and heading not in text


def test_steps_are_numbered_in_the_order_of_the_file() -> None:
    for text, indent in ((prompt_text(RUBRIC, ["stages"]), ""), (plain_text(RUBRIC, ["stages"]), "  ")):
        found = [line for line in text.splitlines() if line.startswith(tuple(f"{indent}{n}. " for n in range(1, 10)))]
        assert [line.strip()[:24] for line in found] == [
            f"{number}. {step}"[:24] for number, step in enumerate(RUBRIC.stages.steps, 1)
        ]


def test_lines_for_people_are_short_and_keep_the_paragraphs_of_examples() -> None:
    text = plain_text(RUBRIC)
    assert max(map(len, text.splitlines())) <= 96
    assert "\n\n\n" not in text and not any(line != line.rstrip() for line in text.splitlines())
    example = RUBRIC.principles["clarity"].levels[5].examples[0]
    assert f"\nExample: {example.sketch}\nClient: " in text
