"""Tests of a judge's controls: which replies it compares, what is counted, and which judge cannot show a winner."""

from dataclasses import replace

import pytest

from psychocounsel.counsel.controls import KINDS
from psychocounsel.data.rows import Example
from psychocounsel.evaluation.judging.controls import (
    BEST,
    MEDIAN,
    ControlledSpeech,
    control_conversations,
    control_figures,
    control_pairs,
    controlled_speeches,
    fooled_by,
    fooled_line,
    overlap_figures,
    ranked_figures,
    scored_figures,
    worst_control,
)
from psychocounsel.metrics.intervals import constant_interval

PROMPT = "Answer as a counsellor would."


def example(client: int, replies: list[str], scores: list[float] | None = None, label: bool | None = None) -> Example:
    prompt = [{"role": "user", "content": f"Client {client} speaks. The nights are long. Nothing helps me sleep."}]
    return Example(f"{client}-{replies}", "row", prompt, replies, scores=scores, label=label)


def pairs(clients: int) -> list[Example]:
    return [example(n, [f"Good reply {n}. Tell me more?", f"Bad reply {n}."]) for n in range(clients)]


def test_the_best_and_the_median_reply_follow_the_ratings() -> None:
    rows = [example(1, ["a", "b"], [4, 2]), example(1, ["b", "c"], [2, 1]), example(1, ["d", "a"], [5, 4])]
    [speech] = controlled_speeches(rows, PROMPT, 9)
    assert speech.anchors == {BEST: "d", MEDIAN: "b"}, "d 5, a 4, b 2, c 1"


def test_the_turns_of_a_session_are_speeches_of_one_client() -> None:
    [first] = pairs(1)
    turns = [{"role": "assistant", "content": "How long?"}, {"role": "user", "content": "Years."}]
    later = Example("later", "row", [*first.prompt, *turns], ["Better later reply.", "Worse."])
    assert len({speech.client for speech in controlled_speeches([first, later], PROMPT, 9)}) == 1
    assert len({speech.client for speech in controlled_speeches([*pairs(2), later], PROMPT, 9)}) == 2


def test_without_ratings_the_best_reply_wins_its_pairs_and_a_bad_one_is_no_anchor() -> None:
    rows = [
        example(1, ["a", "b"]),
        example(1, ["c", "a"]),
        example(2, ["only"], label=True),
        example(3, ["no"], label=False),
    ]
    found = {speech.prompt[0]["content"][:8]: speech.anchors for speech in controlled_speeches(rows, PROMPT, 9)}
    assert found == {"Client 1": {BEST: "c", MEDIAN: "a"}, "Client 2": {BEST: "only"}}


def test_the_choice_and_the_texts_depend_on_the_data_alone() -> None:
    rows = pairs(30)
    first = controlled_speeches(rows, PROMPT, 7)
    assert len(first) == 7 and {speech.id for speech in first} <= {
        speech.id for speech in controlled_speeches(rows, PROMPT, 20)
    }
    again = controlled_speeches(rows, PROMPT, 7)
    assert [speech.texts() for speech in first] == [speech.texts() for speech in again]
    assert all({*speech.controls} == {*KINDS} for speech in first)
    assert not controlled_speeches(rows, PROMPT, 0)


def test_figures_are_shares_of_speeches_and_ties_count_half() -> None:
    verdicts = [(client, "echo", BEST, score) for client, score in enumerate((1, 0, 0.5, float("nan")))]
    verdicts += [(client % 10, "loop", BEST, 0.0) for client in range(20)]  # two speeches of each client
    figures = control_figures(verdicts)
    assert figures["echo"][BEST]["value"] == 0.5 and figures["echo"][BEST]["speeches"] == 3
    low, high = constant_interval(0.0, 10)
    assert figures["loop"] == {BEST: {"value": 0.0, "low": low, "high": high, "speeches": 20}}
    assert fooled_by(figures, 0.1) == ["echo"] and fooled_by(figures, 0.5) == []
    assert worst_control(figures, "m_") == {"m_worst_control": 0.5} and worst_control({}) == {}
    told = "j prefers bad replies made by rule to the best reply of the data: "
    assert fooled_line("j", figures, 0.1) == f"{told}the client's own words (50 %)"
    assert fooled_line("j", figures, 0.5) == ""
    preferred = control_figures((0, kind, BEST, 1.0) for kind in ("echo", "loop", "cut", "praise", "random"))
    line = fooled_line("j", preferred, 0.1)
    assert line.startswith(told) and line.count("(100 %)") == 3 and line.endswith(" (100 %), 2 more")


@pytest.mark.parametrize(
    ("reward", "fooling"),
    [
        (
            lambda speech, reply: len(reply),
            {"echo", "shuffled", "sentences", "loop", "praise", "half_echo", "refusal", "random"},
        ),
        (
            lambda speech, reply: len({*speech.split()} & {*reply.split()}),
            {"echo", "half_echo", "shuffled", "sentences"},
        ),
        (
            lambda speech, reply: reply.startswith("Good reply") and reply.endswith("?") - reply.count("?"),
            {"other_client"},
        ),
    ],
)
def test_planted_faults_of_a_scorer_are_found(reward, fooling) -> None:  # type: ignore[no-untyped-def]
    speeches = controlled_speeches(pairs(20), PROMPT, 20)
    rewards = [
        float(reward(conversation[-2]["content"], conversation[-1]["content"]))
        for conversation in control_conversations(speeches)
    ]
    figures = scored_figures(speeches, rewards)
    for kind, shares in figures.items():
        expected = [
            (control > best) + 0.5 * (control == best)
            for speech in speeches
            for best, control in [
                [
                    float(reward(speech.prompt[0]["content"], text))
                    for text in (speech.anchors[BEST], speech.controls[kind])
                ]
            ]
        ]
        assert shares[BEST]["value"] == pytest.approx(sum(expected) / 20)
    assert fooling & {*fooled_by(figures, 0.1)}, fooled_by(figures, 0.1)


def test_word_overlap_prefers_echoes() -> None:
    assert {"echo", "half_echo", "shuffled", "sentences"} <= {
        *fooled_by(overlap_figures(controlled_speeches(pairs(20), PROMPT, 20)), 0.9)
    }
    turns = [{"role": "user", "content": "Father died."}, {"role": "assistant", "content": "Oh."}]
    rows = [
        replace(row, prompt=[*turns, *row.prompt], replies=["Father speaks. Nothing helps.", "b"]) for row in pairs(9)
    ]
    echo = overlap_figures(controlled_speeches(rows, PROMPT, 9))["echo"]
    assert echo[BEST]["value"] == 0.5, "all turns of the client are the speech, so that both share all of their words"


def test_a_ranker_sees_the_best_reply_against_each_control() -> None:
    speeches = [
        ControlledSpeech(
            "s", [{"role": "user", "content": "Hm."}], {BEST: "good", MEDIAN: "so"}, {"echo": "Hm.", "cut": "go"}, 0
        )
    ]
    assert [row.replies for row in control_pairs(speeches)] == [["good", "Hm."], ["good", "go"]]
    figures = ranked_figures(speeches, [1.0, -0.5])
    assert figures["echo"][BEST]["value"] == 0 and figures["cut"][BEST]["value"] == 0.75
