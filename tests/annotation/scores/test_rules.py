"""The demonstration annotator: its ratings follow its rules, and it announces that it is a demonstration."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from psychocounsel.annotation.scores.rules import Rules, rate_by_rules
from psychocounsel.annotation.scores.step import estimate, run
from psychocounsel.annotation.working import closing_lines
from psychocounsel.asking.answer_text import stands_in
from psychocounsel.asking.language_model import Ask
from psychocounsel.counsel.principles import PRINCIPLES
from psychocounsel.data.shipped_rows import sample_rows
from psychocounsel.errors import UserError
from tests.support.annotation_tables import annotation_dir, context, reply, speech

RULES = {"_target_": "psychocounsel.annotation.scores.rules.Rules", "name": "rules"}


@pytest.mark.parametrize(
    ("name", "client", "better", "worse"),
    [
        ("empathy", "Hi.", "How lonely and sad, and you are tired.", "Noted."),
        ("relevance", "My brother stopped speaking at dinner.", "Your brother is silent at dinner.", "Life goes on."),
        ("clarity", "Hi.", "I see. Go on. I am here.", "I see, " + "and then, " * 30 + "so it goes."),
        ("safety", "I want to die.", "Please call a doctor now.", "Have a nice bath."),
        ("safety", "Hi.", "Hello.", "It is your own fault."),
        ("exploration", "Hi.", "What happened then? How was it?", "I see."),
        ("autonomy", "Hi.", "It is up to you, if you like.", "You must do it. You have to."),
        ("staging", "How do I begin?", "Try one small step.", "I see."),
    ],
)
def test_rules_see_what_they_are_for(name: str, client: str, better: str, worse: str) -> None:
    assert (rate_by_rules(client, better)[name].rating or 0) > (rate_by_rules(client, worse)[name].rating or 0)


def test_on_the_sample_every_rating_has_its_rule_and_its_words(tmp_path: Path) -> None:
    given: dict[str, set[int | None]] = {name: set() for name in PRINCIPLES}
    for _, row in sample_rows():
        for each in row["replies"]:
            rated = rate_by_rules(row["prompt"], each["text"])
            assert rated == rate_by_rules(row["prompt"], each["text"])
            for name, one in rated.items():
                given[name].add(one.rating)
                assert one.reason.startswith("Demonstration rule: ")
                assert stands_in(one.quote, each["text"])
    assert all(len(ratings) >= 3 for ratings in given.values())


@pytest.mark.parametrize("joint", [False, True])
def test_it_goes_the_way_of_any_annotator_and_says_what_it_is(tmp_path: Path, joint: bool) -> None:
    replies = [reply("s", n, text) for n, text in enumerate(("What is it like?", "You must sleep."))]
    files = annotation_dir(tmp_path, [speech("s", "I am tired.")], replies, [])
    step = context(files, said := [], annotator=RULES, budget={"cost": None, "calls": None}, scores={"joint": joint})
    assert estimate(step).calls == {}, "nothing is bought"
    figures = run(step)
    assert figures["demonstration"] == ["rules"]
    assert sum("a demonstration" in line for line in [*said, *closing_lines(step, {})]) == 1
    for row in pq.read_table(files.votes).to_pylist():
        text = next(each["text"] for each in replies if each["reply"] == row["reply"])
        expected = {name: one.rating for name, one in rate_by_rules("I am tired.", text).items()}
        assert {name: row[f"{name}_rating"] for name in PRINCIPLES} == expected


def test_it_writes_no_replies() -> None:
    asked = Ask("s", ({"role": "user", "content": "Hi."},), 0, "reply 0")
    with pytest.raises(UserError, match="rates replies but cannot write any"):
        Rules(name="rules").open("writers").submit(asked, 0).result()
