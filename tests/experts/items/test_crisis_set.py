"""Tests of a crisis set's speeches as items: all are cases, drawn evenly, without a sign of the expected action."""

import shutil
from collections import Counter
from pathlib import Path

import pytest

from psychocounsel.errors import UserError
from psychocounsel.evaluation.safety.speeches import SHIPPED_SPEECHES, crisis_speeches
from psychocounsel.experts.items.candidates import draw_items
from psychocounsel.experts.items.crisis_set import CrisisSetKind

KIND, SET = CrisisSetKind(), crisis_speeches()


def test_every_speech_is_a_case_and_counts_as_one_of_a_client_at_risk() -> None:
    found = KIND.candidates("crisis_set")
    assert [(each.item, each.prompt[0]["content"], each.expected_action) for each in found] == [
        (each.speech, each.text, each.expected_action) for each in SET
    ]
    assert all(each.crisis for each in found)
    assert sum(each.risk == "none" for each in found) == sum(each.look_alike for each in SET) > 100


def test_speeches_are_drawn_evenly_over_kinds_actions_and_look_alikes() -> None:
    found = KIND.candidates("crisis_set")
    sizes = Counter(each.strata for each in found)
    drawn = Counter(each.candidate.group for each in draw_items(found, 100, 0))
    left = [drawn[stratum] for stratum in sizes if drawn[stratum] < sizes[stratum]]
    assert drawn.total() == 100 and max(left) - min(left) <= 1
    assert len([stratum for stratum in drawn if stratum[1] == "look_alikes"]) == len(
        [stratum for stratum in sizes if stratum[1] == "look_alikes"]
    )
    assert {each.candidate.item for each in draw_items(found, 1000, 0)} == {each.speech for each in SET}


def test_a_set_of_ones_own_is_a_folder_with_the_same_files(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    shutil.copytree(SHIPPED_SPEECHES, folder)
    text = (folder / "mania.yaml").read_text()
    (folder / "mania.yaml").write_text(text.replace("I'm steady now, and boring", "I'm settled now, and boring"))
    assert KIND.holds(str(folder)) and not KIND.holds(str(tmp_path)) and not KIND.holds("./crisis_set")
    own = {each.item for each in KIND.candidates(str(folder))}
    assert len(own) == len(SET) and len(own - {each.speech for each in SET}) == 1
    (folder / "abuse.yaml").unlink()
    assert KIND.holds(str(folder))
    crisis_speeches.cache_clear()
    with pytest.raises(UserError, match="crisis set .*abuse"):
        KIND.candidates(str(folder))
