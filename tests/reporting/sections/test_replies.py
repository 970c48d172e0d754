"""Tests of the section with texts side by side; none if none may be shown."""

from dataclasses import replace
from pathlib import Path

from psychocounsel.blocks.kinds import ShownReply, ShownSpeech
from psychocounsel.reporting.material import ANNOTATION, EVALUATION, Material, RunMaterial, ShownTexts
from psychocounsel.reporting.sections.replies import reply_section
from tests.reporting.sections.shown import material
from tests.support.shown_blocks import browsers, said

SECRET = "Zq7 nobody may read this"


def run(title: str, replies: dict[str, dict[str, str]], kind: str = EVALUATION, **more: object) -> RunMaterial:
    """Return a run with the replies of each author to each speech. The speech `crisis` is a crisis."""
    speeches = [
        ShownSpeech(
            speech,
            [
                ShownReply(author, text, {"better overall": 0.75 if author == title else 0.25})
                for author, text in of.items()
            ],
            "grief",
            "self_harm" if speech == "crisis" else "none",
            speech == "crisis",
        )
        for speech, of in replies.items()
    ]
    texts = ShownTexts(speeches, len(speeches) + 5, "replies of the evaluation")
    return RunMaterial(Path(title), title, kind, "winrate", "finished", texts=texts, **more)  # type: ignore[arg-type]


def words(of: Material) -> str:
    return repr(reply_section(of).blocks)


def test_replies_of_several_evaluations_stand_side_by_side_and_the_base_once() -> None:
    first = run("one", {"hello": {"base": "Hm.", "one": "Oh?"}, "crisis": {"base": "Hm.", "one": "Stay."}})
    second = run("two", {"later": {"base": "Ah.", "two": "Go on."}, "hello": {"base": "Hm.", "two": "Why?"}})
    found = reply_section(material(first, second))
    [browser] = browsers(found)
    assert [each.speech for each in browser.speeches] == ["hello", "crisis", "later"], (
        "speeches that both reply to come first"
    )
    hello, crisis, _ = browser.speeches
    assert [(reply.author, reply.text) for reply in hello.replies] == [("base", "Hm."), ("one", "Oh?"), ("two", "Why?")]
    assert hello.replies[0].scores == {"one: better overall": 0.25, "two: better overall": 0.25}
    assert hello.replies[1].scores == {"better overall": 0.75}
    assert (crisis.crisis, crisis.risk, crisis.topic, hello.crisis) == (True, "self_harm", "grief", False)
    assert said(found) == [
        "one: replies of the evaluation, 2 of 7 speeches.",
        "two: replies of the evaluation, 2 of 7 speeches.",
        "Scores `better ...` (0 to 1): how often judges preferred the reply to others; a tie counts half.",
    ]


def test_authors_of_one_name_are_told_apart_by_their_runs() -> None:
    found = reply_section(material(run("one", {"hello": {"model": "Oh?"}}), run("two", {"hello": {"model": "Why?"}})))
    [browser] = browsers(found)
    assert [reply.author for reply in browser.speeches[0].replies] == ["one: model", "two: model"]


def test_one_run_that_calls_a_speech_a_crisis_hides_it_for_all() -> None:
    calm = run("one", {"crisis": {"base": "Hm."}})
    assert calm.texts is not None
    speeches = [replace(speech, crisis=False) for speech in calm.texts.speeches]
    calm = replace(calm, texts=replace(calm.texts, speeches=speeches))
    [browser] = browsers(reply_section(material(calm, run("two", {"crisis": {"two": "Stay."}}))))
    assert browser.speeches[0].crisis


def test_the_page_has_at_most_sixty_speeches_of_a_browser() -> None:
    many = run("one", {f"speech {number}": {"base": "Hm."} for number in range(70)})
    found = reply_section(material(many))
    assert len(browsers(found)[0].speeches) == 60
    assert any("60 of these 70" in line for line in said(found))


def test_no_word_is_shown_without_texts_or_of_a_confidential_run() -> None:
    secret = {SECRET: {"base": SECRET, "one": SECRET}}
    hidden = material(run("one", secret), shows_texts=False)
    assert SECRET not in words(hidden) and not browsers(reply_section(hidden))
    assert said(reply_section(hidden)) == ["No text is shown: the report was made with --no-text."]
    both = material(run("one", secret, confidential=True), run("two", secret), shows_texts=False)
    assert SECRET not in words(both) and said(reply_section(both)) == [
        "No text is shown: the data of one are confidential."
    ]
    confidential = material(run("one", secret, confidential=True), run("two", {"hello": {"base": "Hm."}}))
    assert SECRET not in words(confidential)
    assert "one: its texts are confidential and are not shown." in said(reply_section(confidential), "warning")
    assert [each.speech for each in browsers(reply_section(confidential))[0].speeches] == ["hello"]


def test_datasets_and_training_have_browsers_of_their_own() -> None:
    found = reply_section(
        material(run("one", {"hello": {"base": "Hm."}}), run("made", {"hello": {"w": "Oh."}}, ANNOTATION))
    )
    assert [browser.name for browser in browsers(found)] == ["replies-of-evaluations", "replies-of-run-1"]
    assert not reply_section(material(RunMaterial(Path("x"), "x", EVALUATION, "winrate", "running"))).blocks
