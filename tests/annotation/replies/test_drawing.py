"""The drawn writers depend only on seed, speech and names."""

from collections import Counter
from pathlib import Path

import pytest

from psychocounsel.annotation.replies.drawing import Drawing, Speech
from psychocounsel.asking.counsellor_prompt import COUNSELLOR, prompt_text
from psychocounsel.errors import UserError
from tests.support.asking import chat

SPEECHES = [Speech(f"{number:016x}", f"Speech {number}.", "en", False) for number in range(2000)]


def drawn(names: list[str], speeches: list[Speech], count: int = 2, seed: int = 0) -> dict[str, list[str]]:
    drawing = Drawing([chat("http://127.0.0.1:1", name) for name in names], count, seed, "Reply.", False)
    return {each.speech: [draw.writer.name for draw in drawing.of(each) if draw.writer] for each in speeches}


def test_the_draw_depends_on_seed_speech_and_names_alone() -> None:
    names = ["a", "b", "c", "d"]
    whole = drawn(names, SPEECHES)
    assert drawn(names, SPEECHES[::7]).items() <= whole.items(), "other speeches change nothing"
    assert drawn(names[::-1], SPEECHES) == whole, "the order of members changes nothing"
    assert drawn(names, SPEECHES, seed=1) != whole
    three = drawn(names, SPEECHES, 3)
    assert all(three[speech][:2] == found for speech, found in whole.items())
    more = drawn([*names, "e"], SPEECHES)
    for speech, found in whole.items():
        kept = [name for name in more[speech] if name != "e"]
        assert kept == found[: len(kept)], "a new writer takes only places that it wins"


def test_writers_have_equal_shares_and_differ_as_far_as_there_are_so_many() -> None:
    counts = Counter(name for found in drawn(["a", "b", "c", "d", "e"], SPEECHES).values() for name in found)
    assert all(abs(count - 800) < 4 * (4000 * 0.2 * 0.8) ** 0.5 for count in counts.values())
    assert {len(set(found)) for found in drawn(["a", "b", "c"], SPEECHES, 3).values()} == {3}
    assert {tuple(sorted(Counter(found).values())) for found in drawn(["a", "b"], SPEECHES, 5).values()} == {(2, 3)}


def test_equal_calls_of_a_speech_differ_in_part_and_seed() -> None:
    drawing = Drawing([chat("http://127.0.0.1:1")], 4, 0, "Reply.", False)
    asks = [draw.ask for draw in drawing.of(SPEECHES[0])]
    assert len({ask.part for ask in asks if ask}) == len({ask.seed for ask in asks if ask}) == 4


def test_a_writer_with_a_prompt_of_its_own_is_asked_by_it() -> None:
    writers = [chat("http://127.0.0.1:1", name) for name in ("a", "b")]
    plain = Drawing(writers, 2, 0, "Reply.", False)
    own = Drawing(writers, 2, 0, "Reply.", False, {"b": "Reply in verse."})
    shown = {
        draw.writer.name: draw.ask.messages[0]["content"] for draw in own.of(SPEECHES[0]) if draw.writer and draw.ask
    }
    assert shown == {"a": "Reply.", "b": "Reply in verse."}
    assert own.prompt_version(writers[0]) == plain.prompt_version(writers[0]) == own.prompt_version(None)
    assert own.prompt_version(writers[1]) != plain.prompt_version(writers[1])
    assert [draw.ask for draw in own.of(SPEECHES[0]) if draw.writer is writers[0]] == [
        draw.ask for draw in plain.of(SPEECHES[0]) if draw.writer is writers[0]
    ], "answers of the other writers are not asked for anew"


def test_the_system_prompt_is_ours_a_text_or_a_file(tmp_path: Path) -> None:
    def prompt(given: str, limit: int | None = None) -> str:
        return prompt_text(given, "replies.system_prompt", limit)

    assert prompt("builtin:counsellor") == COUNSELLOR
    assert prompt("Be kind.", 80) == "Be kind. Use at most 80 words."
    (tmp_path / "mine.txt").write_text("Ole ystävällinen.\n", encoding="utf-8")
    assert prompt(str(tmp_path / "mine.txt")) == "Ole ystävällinen."
    for wrong in ("builtin:counselor", str(tmp_path / "none.txt")):
        with pytest.raises(UserError, match="replies.system_prompt="):
            prompt(wrong)
