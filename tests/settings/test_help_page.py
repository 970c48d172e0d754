"""The help page lists the groups that a command takes, with all their choices."""

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

from psychocounsel.commands.help import help_page
from tests.support.harness import ROOT

CONF = ROOT / "conf"


def listed(command: str, *folders: Path) -> dict[str, list[str]]:
    """Return the groups of a help page with their choices."""
    lines = help_page(command, [*folders, CONF]).partition("Groups and their choices\n")[2].partition("\n\n")[0]
    return {
        group.strip(): found.split(", ") for group, _, found in (line.partition(": ") for line in lines.splitlines())
    }


@pytest.mark.parametrize("command", ["train", "annotate", "evaluate", "audit", "chat"])
def test_groups_are_those_that_hydra_lets_the_command_choose(command: str) -> None:
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        chosen = compose(command, return_hydra_config=True).hydra.runtime.choices
    groups = [name for name in chosen if not name.startswith("hydra/") and "@" not in name]
    found = listed(command)
    assert set(found) == {*groups, *(["sweep"] if command == "train" else [])}
    for group, choices in found.items():
        assert choices == sorted(path.stem for path in (CONF / group).glob("*.yaml"))


def test_own_choices_and_own_groups_are_listed(tmp_path: Path) -> None:
    for file in ("algo/slic.yaml", "annotator/mine.yaml", "habits/daily.yaml"):
        (tmp_path / file).parent.mkdir()
        (tmp_path / file).touch()
    found = listed("train", tmp_path)
    assert {"slic", "dpo"} <= set(found["algo"]) and found["habits"] == ["daily"] and "annotator" not in found
