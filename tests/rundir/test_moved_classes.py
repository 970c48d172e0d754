"""A `config.yaml` of an earlier version names classes where they stood then; it loads, and finished steps stay done."""

from importlib import import_module
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from psychocounsel.evaluation.winrate.settings import WinRate
from psychocounsel.rundir.paths import RunDir
from psychocounsel.rundir.run_config import FIRST_NAMES, MOVED, read_config, read_plain, read_section
from psychocounsel.settings.targets import build_section
from psychocounsel.steps.plan import step_settings
from tests.support.composed import checked
from tests.support.contests import data


@pytest.mark.parametrize("first", MOVED)
def test_every_way_of_reading_gives_the_present_name(first: str, tmp_path: Path) -> None:
    RunDir(tmp_path).config.write_text(f"reward:\n  members:\n  - {{_target_: {first}, name: one}}\nkept: x{first}\n")
    present = MOVED[first]
    module, _, name = present.rpartition(".")
    assert getattr(import_module(module), name)
    found = (read_config(tmp_path).reward, (read_plain(tmp_path) or {})["reward"], read_section(tmp_path, "reward"))
    assert [section["members"][0]["_target_"] for section in found] == [present] * 3
    assert read_config(tmp_path).kept == f"x{first}", "only values of _target_ are class names"


def test_a_section_of_an_earlier_version_is_built(tmp_path: Path) -> None:
    first = "psychocounsel.reward.openrlhf.OpenRLHFReward"
    reward = {"_target_": first, "name": "served", "path": "builtin:tiny_reward", "addresses": ["http://a:1"]}
    RunDir(tmp_path).config.write_text(OmegaConf.to_yaml(OmegaConf.create({"reward": reward})))
    built = build_section(read_config(tmp_path).reward, "reward")
    assert type(built).__module__ == "psychocounsel.reward.servers" and built.addresses == ["http://a:1"]


def test_the_settings_that_decide_whether_a_step_is_done_keep_the_first_name(tmp_path: Path) -> None:
    config = checked(
        "evaluation=winrate", "judge=tiny", *data(tmp_path), "model.path=builtin:tiny_dpo", name="evaluate"
    )
    settings = step_settings(WinRate.course, config, "verdicts")
    targets = {value for key, value in settings.items() if key.endswith("_target_")}
    assert targets & {*FIRST_NAMES.values()} and not targets & {*FIRST_NAMES}
