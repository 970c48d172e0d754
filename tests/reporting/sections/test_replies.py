"""Tests of the sections on replies: their health against counts, and their texts side by side."""

from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from psychocounsel.blocks.kinds import Section, ShownReply, ShownSpeech
from psychocounsel.evaluation.contestants import replies_step
from psychocounsel.evaluation.health import figures_step
from psychocounsel.reporting.material import ANNOTATION, EVALUATION, Material, RunMaterial, ShownTexts
from psychocounsel.reporting.sections.replies import health_section, reply_section
from psychocounsel.storage.files import read_json
from tests.reporting.sections.shown import browsers, chart, material, numbers, rows, run_of, said, written
from tests.support.contests import contest, context, data, replies

# Health, against counts from replies.parquet and the intervals in figures.json


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> RunMaterial:
    """Every third reply of `mine` ends with a question. Replies of the base are one word longer."""
    folder = tmp_path_factory.mktemp("health")
    mine = replies(
        folder / "mine.jsonl", lambda prompt: f"You said so, {'truly?' if int(prompt[11:13]) % 3 == 0 else 'truly.'}"
    )
    base = replies(folder / "base.jsonl", lambda prompt: "You said it all so, truly.")
    config = contest("evaluation=health", *data(folder), f"model.path={mine}", f"against={base}")
    made = context(config, folder / "measured")
    replies_step.run(made)
    figures_step.run(made)
    return run_of(folder / "measured", EVALUATION, "health", config)


@pytest.fixture(scope="module")
def found(measured: RunMaterial) -> Section:
    return health_section(material(measured))


def texts(run: RunMaterial, setting: str) -> list[str]:
    return [row["text"] for row in pq.read_table(run.path / "replies.parquet").to_pylist() if row["setting"] == setting]


def test_figures_are_those_of_the_replies(measured: RunMaterial, found: Section) -> None:
    shares = {(row["contestant"], row["figure"]): row for row in rows(found, "health-shares")}
    measures = {(row["contestant"], row["figure"]): row for row in rows(found, "health-measures")}
    for name in ("mine", "base"):
        own = texts(measured, name)
        asking = shares[name, "ends with a question"]
        assert numbers(asking["value"])[0] == pytest.approx(sum(text.endswith("?") for text in own) / len(own))
        assert (asking["speeches"], asking["replies"]) == ("12", "12")
        words = numbers(measures[name, "words"]["value"])[0]
        assert words == pytest.approx(sum(len(text.split()) for text in own) / len(own))
    [variant] = read_json(measured.path / "figures.json")["variants"]
    wrote = variant["settings"]["mine"]
    assert numbers(shares["mine", "ends with a question"]["value"]) == written(
        wrote["figures"]["question_ending"], "mean"
    )
    limits = {each["name"]: each for each in wrote["limits"]}
    row = shares["mine", "refusal"]
    assert (row["limit"].value, row["verdict"]) == (limits["refusal"]["limit"], limits["refusal"]["verdict"])
    assert ("mine", "cut at max_tokens") in shares, "files of replies do not record this: the value is missing"
    assert shares["mine", "cut at max_tokens"]["value"] is None


def test_the_chart_shows_the_shares_at_their_names(measured: RunMaterial, found: Section) -> None:
    drawn = chart(found, "health")
    for curve in drawn.curves:
        own = texts(measured, curve.title)
        by_name = {drawn.ticks[round(place)]: value for place, value in zip(curve.x["figure"], curve.y, strict=True)}
        assert by_name["ends with a question"] == pytest.approx(sum(text.endswith("?") for text in own) / 12)
        assert "cut at max_tokens" not in by_name
    assert {curve.title for curve in drawn.curves} == {"mine", "base"}


def test_differences_are_paired_by_speech(measured: RunMaterial, found: Section) -> None:
    words = next(row for row in rows(found, "health-differences-measures") if row["figure"] == "words")
    lengths = [[len(text.split()) for text in texts(measured, name)] for name in ("mine", "base")]
    change = [mine - base for mine, base in zip(*lengths, strict=True)]
    assert numbers(words["difference"])[0] == pytest.approx(sum(change) / 12)
    [variant] = read_json(measured.path / "figures.json")["variants"]
    assert numbers(words["difference"]) == written(variant["against"]["base"]["words"], "difference")
    assert (words["model"], words["minus"], words["speeches"], words["verdict"]) == ("mine", "base", "12", "differs")
    asking = next(row for row in rows(found, "health-differences-shares") if row["figure"] == "ends with a question")
    assert numbers(asking["difference"])[0] == pytest.approx(4 / 12)
    assert asking["model's"].value == pytest.approx(4 / 12) and asking["base's"].value == 0


def test_warnings_of_the_evaluation_are_shown(measured: RunMaterial, tmp_path: Path) -> None:
    figures = dict(measured.figures) | {"warnings": ["warning: mine: loops, above the limit"]}
    run = run_of(tmp_path, EVALUATION, "health", figures=figures, title="again")
    assert said(health_section(material(run)), "warning") == ["again: mine: loops, above the limit"]


# Texts side by side; none if none may be shown

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
