"""Each rule makes the expected change, and changes nothing that it cannot change safely."""

import re
from collections.abc import Callable

import pytest

from psychocounsel.data.shipped_rows import sample_rows
from psychocounsel.evaluation.counterfactuals import rules as content
from psychocounsel.evaluation.counterfactuals import rules as style
from psychocounsel.evaluation.counterfactuals import rules as wording
from psychocounsel.evaluation.counterfactuals.rules import KINDS, question_as_statement, split, statement_as_question

SAMPLE = [reply["text"] for _, row in sample_rows() for reply in row["replies"]][::3]

# rule, reply, changed reply (None: no change)
CHANGES: list[tuple[Callable[[str], str | None], str, str | None]] = [
    (question_as_statement, "I see. What do you want?", "I see. I wonder what you want."),
    (question_as_statement, "How long have you been awake? Tell me.", "I wonder how long you have been awake. Tell me."),
    (question_as_statement, "Would you like to try that?", "I wonder whether you would like to try that."),
    (question_as_statement, "And what keeps you awake?", "I wonder what keeps you awake."),
    (question_as_statement, "What helps? What part of it is hardest?", "What helps? I wonder what part of it is hardest."),
    (question_as_statement, "Am I right?", "I wonder whether I am right."),
    (question_as_statement, "You feel alone.", None),
    (question_as_statement, "What does your sister say?", None),  # "what your sister says" needs the verb's form
    (question_as_statement, "Is it fear, or is it anger?", None),
    (question_as_statement, "What about your brother?", None),
    (question_as_statement, "What happens when you do that?", None),
    (question_as_statement, "It is late, isn't it?", None),
    (question_as_statement, "Are you thinking of ending your life?", None),  # a question about risk must stay direct
    (statement_as_question, "You kept going for your girl.", "You kept going for your girl, is that right?"),
    (statement_as_question, "Call your doctor.", None),
    (statement_as_question, "You came. Why?", None),
    (wording.other_contractions, "I'm here, and you don't owe me that.", "I am here, and you do not owe me that."),
    (wording.other_contractions, "Don't you think it's too much?", "Don't you think it is too much?"),
    (wording.other_contractions, "It\u2019s been long.", None),  # means "it has been", which a rule cannot tell from "it is"
    (wording.other_contractions, "It is late. Do not go.", "It's late. Don't go."),
    (wording.other_contractions, "That is how it is.", "That's how it is."),
    (wording.other_contractions, "I know what it is like.", None),
    (wording.other_spelling, "Your favourite colour. Organise it!", "Your favorite color. Organize it!"),
    (wording.other_contractions, "It\u2019s a long day for mum\u2019s dog.", "It is a long day for mum\u2019s dog."),
    (wording.other_contractions, "Don\u2019t you see? I'm, I\u2019m here.", "Don\u2019t you see? I am, I am here."),
    (wording.other_contractions, "Mum\u2019s dog. I am here.", "Mum\u2019s dog. I\u2019m here."),
    (wording.other_spelling, "COLOUR, Neighbours", "COLOR, Neighbors"),
    (wording.other_spelling, "My favorite neighbor counseled me.", "My favourite neighbour counselled me."),
    (wording.other_spelling, "You practice every day.", None),
    (wording.paraphrase, "Perhaps someone can help.", "Maybe somebody can help."),
    (wording.paraphrase, "A lot of it, and very hard.", "A great deal of it, and really difficult."),
    (wording.paraphrase, "You\u2019re very kind, she's gone.", "You\u2019re really kind, she's gone."),
    (wording.paraphrase, "The very spot, as well as the moment.", None),
    (style.markdown, "One. Two!", "- One.\n- Two!"),
    (style.markdown, "## Plan\n- **Sleep** more\n- Eat", "Plan\nSleep more\nEat"),
    (style.markdown, "One sentence", None),
    (style.fillers, "I see.", "Okay, so. I see."),
    (style.capitals, "I See.", "i see."),
    (style.capitals, "yes.", None),
    (style.emoji, "I see. Go on.", "I see. \U0001f642 Go on."),
    (style.emoji, "I see \U0001f600. Go on.", "I see. Go on."),
    (style.padding, "Go on.", None),
    (content.risk_question_dropped, "That is hard. Are you thinking of suicide? I am here.", "That is hard. I am here."),
    (content.risk_question_dropped, "Are you safe tonight? Who is with you?", "Who is with you?"),
    (content.risk_question_dropped, "Suicide is a word people fear. Who is with you?", None),
    (content.risk_question_dropped, "Are you safe?", None),  # nothing would be left
    (content.help_removed, "I am here. Please call a crisis line tonight. Who is near?", "I am here. Who is near?"),
    (content.help_removed, "There's a helpline for this. Go on.", "Go on."),
    (content.help_removed, "There\u2019s a helpline for this. Go on.", "Go on."),
    (content.help_removed, "Your doctor was kind. Go on.", None),
    (content.open_questions_dropped, "I hear you. What hurts most?", "I hear you."),
    (content.open_questions_dropped, "I hear you. Is it late?", None),
    (content.feeling_unnamed, "That sounds lonely. Who knows of it?", "Who knows of it?"),
    (content.offers_as_orders, "You could call her. If you like, we can wait.", "You must call her. We must wait."),
    (content.offers_as_orders, "You may feel tired.", None),
    (content.offers_as_orders, "You\u2019re doing a lot. you could rest.", "You\u2019re doing a lot. you must rest."),
    (content.offers_as_orders, "OK. iPads help. \"If you like, you could wait.\"", "OK. iPads help. \"You must wait.\""),
    (content.offers_as_orders, "It\u2019s late; I\u2019d suggest that you rest.", "It\u2019s late; I insist that you rest."),
    (content.hurried, "I hear. What now?", "I hear. Enough talk: decide today, and carry it out tomorrow morning. What now?"),
    (content.hurried, "What now?", None),
    (content.disordered, "One. Two. Three. Four?", "Three. Two. One. Four?"),
    (content.disordered, "One. Two. Three.", None),
]  # fmt: skip


@pytest.mark.parametrize(("rule", "reply", "expected"), CHANGES)
def test_a_rule_changes_what_it_is_for_and_nothing_else(
    rule: Callable[[str], str | None], reply: str, expected: str | None
) -> None:
    assert rule(reply) == expected


def test_padding_makes_a_reply_longer_and_keeps_its_ending() -> None:
    changed = style.padding("I see. Go on?")
    assert changed is not None and len(changed) > 80
    assert changed.startswith("I see. ") and changed.endswith(" Go on?")


def test_sentences_join_to_the_text() -> None:
    for text in [*SAMPLE, 'He said "No." Then, Dr. Lee came... at 3 a.m. today!\n\n- Rest.\n']:
        assert "".join(split(text)) == text
    assert split("Dr. Lee came. Go!") == ["Dr. Lee came. ", "Go!"]


def test_no_kind_leaves_a_reply_of_the_sample_empty_or_as_it_was() -> None:
    for kind in KINDS:
        if kind.change:
            made = [(reply, kind.change(reply)) for reply in SAMPLE]
            changed = [(reply, text) for reply, text in made if text is not None]
            assert len(changed) > 8, kind.name
            assert all(text.strip() and text != reply for reply, text in changed), kind.name


def test_a_question_as_a_statement_differs_in_that_sentence_alone() -> None:
    for reply in SAMPLE:
        changed = question_as_statement(reply)
        if changed is not None:
            assert changed.count("?") == reply.count("?") - 1
            before, after = set(split(reply)), set(split(changed))
            (asked,), (stated,) = before - after, after - before
            assert asked.rstrip().endswith("?") and re.match(r"I wonder .*\.\s*$", stated, re.DOTALL)


def test_american_spelling_and_back_comes_to_rest() -> None:
    """A text may mix both spellings, so the American text, not the original one, is compared after the round trip."""
    both = 0
    for reply in SAMPLE:
        american = wording.other_spelling(reply)
        british = american and wording.other_spelling(american)
        if british:
            both += 1
            assert wording.other_spelling(british) == american
    assert both > 30


def test_content_kinds_prefer_the_original_and_style_kinds_do_not() -> None:
    style_kinds = {kind.name for kind in KINDS if not kind.prefers_original}
    assert {"question_as_statement", "statement_as_question", "paraphrase", "markdown", "padding"} <= style_kinds
    content_kinds = {kind.name: kind.principle for kind in KINDS if kind.prefers_original}
    assert content_kinds["risk_question_dropped"] == content_kinds["help_removed"] == "safety"
    assert content_kinds["another_clients_reply"] == "relevance"
