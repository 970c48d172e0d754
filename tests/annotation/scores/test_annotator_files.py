"""Every file in conf/annotator is a complete annotator once its model is named, and rates without randomness."""

import importlib.util
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from psychocounsel.asking.language_model import LanguageModel, Panel
from psychocounsel.errors import UserError
from psychocounsel.settings.targets import build
from psychocounsel.storage.files import shipped

FILES = sorted(file.stem for file in (shipped("conf") / "annotator").glob("*.yaml"))


def settings(name: str, *more: str) -> Any:
    with initialize_config_dir(str(shipped("conf").absolute()), version_base="1.3"):
        composed = compose(overrides=[f"+annotator={name}", *more])
    OmegaConf.resolve(composed)
    return composed


def test_the_files_are_those_that_the_page_names() -> None:
    page = (Path(__file__).parents[3] / "docs" / "annotate.md").read_text()
    assert all(f"`annotator={name}`" in page for name in FILES)


@pytest.mark.parametrize("name", [name for name in FILES if name not in ("panel", "rules")])
def test_each_file_is_an_annotator(name: str) -> None:
    model = build(settings(name, "annotator.model=some/model"), "annotator")
    assert isinstance(model, LanguageModel)
    assert (model.name, model.temperature, model.max_tokens) == ("some/model", 0.0, 2048)
    assert getattr(model, "sends_schema", True), "the schema must be sent to servers"
    if name != "vllm" or importlib.util.find_spec("vllm"):
        model.check("annotator")
    assert model.is_third_party() == (name == "openai")


def test_a_panel_names_its_members() -> None:
    members = [settings("openai", "annotator.model=x").annotator, settings("ollama", "annotator.model=y").annotator]
    panel = Panel(members=members)
    panel.check("annotator")
    assert [model.name for model in panel.models()] == ["x", "y"]
    assert [key for key, _ in panel.receivers("annotator")] == [
        "annotator.members[0].addresses",
        "annotator.members[1].addresses",
    ]
    with pytest.raises(UserError, match=r"annotator\.members: name at least 2 files of conf/annotator"):
        Panel(members=members[:1]).check("annotator")
    with pytest.raises(UserError, match="two models have the name x"):
        Panel(members=[members[0], members[0]]).check("annotator")


def test_the_demonstration_needs_nothing() -> None:
    rules = build(settings("rules"), "annotator")
    rules.check("annotator")
    assert rules.models() == [rules]
    assert not rules.is_third_party()
    assert set(rules.unused()) == set(settings("rules").annotator) - {"_target_", "name", "terms", "prompt"}
