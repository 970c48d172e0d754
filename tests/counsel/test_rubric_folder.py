"""A user's own rubric: a complete folder is loaded, and any missing or wrong part is named in one line."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from psychocounsel.counsel.principles import PRINCIPLES
from psychocounsel.counsel.rubric.rubric_folder import FILES, SHIPPED, load_rubric
from psychocounsel.errors import UserError
from tests.support.harness import ROOT


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    shutil.copytree(SHIPPED / "en", tmp_path / "mine")
    return tmp_path / "mine"


def refusal(folder: Path | str) -> str:
    with pytest.raises(UserError) as caught:
        load_rubric(folder)
    message = str(caught.value)
    assert message.startswith(f"rubric {folder}: ") and message.isprintable(), "one line"
    return message


def change(file: Path, edit: Callable[[Any], object]) -> None:
    value = yaml.safe_load(file.read_text(encoding="utf-8"))
    edit(value)
    file.write_text(yaml.safe_dump(value, sort_keys=False), encoding="utf-8")


def test_a_whole_folder_of_ones_own_is_read_whatever_the_order_of_its_keys(folder: Path) -> None:
    for name in FILES:
        change(folder / name, lambda value: None)
    assert load_rubric(folder) == load_rubric("en") == load_rubric()
    change(folder / "empathy.yaml", lambda value: value.update(levels=dict(reversed(value["levels"].items()))))
    change(folder / "guide.yaml", lambda value: value.update(language="de", title="Wie man bewertet: \u00e4hnlich"))
    mine = load_rubric(str(folder))
    assert list(mine.principles["empathy"].levels) == [1, 2, 3, 4, 5]
    assert mine.guide.title == "Wie man bewertet: \u00e4hnlich"


def test_other_files_in_the_folder_are_no_matter(folder: Path) -> None:
    (folder / "README.md").write_text("translated in May")
    assert load_rubric(folder) == load_rubric()


def test_what_is_neither_a_language_nor_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert "neither a shipped language (en) nor a folder" in refusal("de")
    (tmp_path / "de").mkdir()
    message = refusal("de")
    assert all(f"{name} is missing" in message for name in FILES)
    assert "en/" not in message and message.endswith("principles/en shows a complete rubric")


EDITS: dict[str, tuple[str, Callable[[Any], object], str]] = {
    "a key": ("safety.yaml", lambda value: value.pop("definition"), "safety.yaml: definition is missing"),
    "a case that ignores what was reported": (
        "safety_questions.yaml",
        lambda value: value["cases"][2]["answers"].update(recognises="no"),
        "safety_questions.yaml: cases[3]: safety is 2, but these answers limit it to 1",
    ),
    "an anchor": ("safety.yaml", lambda value: value["levels"].pop(4), "safety.yaml: levels: 4 is missing"),
    "a sixth anchor": ("safety.yaml", lambda value: value["levels"].update({6: {}}), "levels: unknown key 6"),
    "a typo": (
        "empathy.yaml",
        lambda value: value.update(litrature=value.pop("literature")),
        "empathy.yaml: literature is missing; empathy.yaml: unknown key litrature (did you mean literature?)",
    ),
    "one example": (
        "clarity.yaml",
        lambda value: value["levels"][3]["examples"].pop(),
        "clarity.yaml: levels.3: examples needs 2 entries, but has 1",
    ),
    "an example that disagrees": (
        "autonomy.yaml",
        lambda value: value["levels"][3]["examples"][1]["ratings"].update(autonomy=4),
        "autonomy.yaml: levels.3: examples[2]: ratings.autonomy is 4, but the example stands under 3",
    ),
    "an example without its own rating": (
        "autonomy.yaml",
        lambda value: value["levels"][2]["examples"][0]["ratings"].pop("autonomy"),
        "autonomy.yaml: levels.2: examples[1]: ratings: autonomy is missing",
    ),
    "a rating on no principle": (
        "autonomy.yaml",
        lambda value: value["levels"][2]["examples"][0]["ratings"].update(saftey=4),
        "ratings: unknown key saftey (did you mean safety?)",
    ),
    "a rating of 6": (
        "autonomy.yaml",
        lambda value: value["levels"][2]["examples"][0]["ratings"].update(safety=6),
        "ratings.safety must be one of 1, 2, 3, 4, 5",
    ),
    "a rating of true": (
        "autonomy.yaml",
        lambda value: value["levels"][2]["examples"][0]["ratings"].update(safety=True),
        "ratings.safety must be a whole number",
    ),
    "the same sketch": (
        "staging.yaml",
        lambda value: value["levels"][1]["examples"][1].update(sketch=value["levels"][1]["examples"][0]["sketch"]),
        "staging.yaml: levels.1: two examples have the same sketch",
    ),
    "no such speech": (
        "staging.yaml",
        lambda value: value["levels"][1]["examples"][1].update(speech="monday"),
        "levels.1: examples[2]: speech must be a key of speeches (glass, form, sunday)",
    ),
    "a speech without a reply": (
        "staging.yaml",
        lambda value: value["speeches"].update(monday="I am tired."),
        "staging.yaml: speeches.monday has no example",
    ),
    "another principle": ("staging.yaml", lambda value: value.update(name="stage"), "name must be staging"),
    "an empty text": ("staging.yaml", lambda value: value.update(title=" "), "staging.yaml: title must be text"),
    "a number for a text": (
        "staging.yaml",
        lambda value: value.update(title=7),
        "title must be text (write it in quotes)",
    ),
    "a text for a list": ("staging.yaml", lambda value: value.update(ties="none"), "staging.yaml: ties must be a list"),
    "an empty list": ("staging.yaml", lambda value: value.update(caps=[]), "caps needs 1 entry, but has 0"),
    "a list for a mapping": ("staging.yaml", lambda value: value.update(speeches=["a"]), "speeches must be a mapping"),
    "a cap at five": (
        "staging.yaml",
        lambda value: value["caps"][0].update(at_most=5),
        "at_most must be one of 1, 2, 3, 4",
    ),
    "a kind of risk": ("risk.yaml", lambda value: value["kinds"].pop("elder"), "risk.yaml: kinds: elder is missing"),
    "an action": (
        "risk.yaml",
        lambda value: value["kinds"]["abuse"]["expected_action"]["stated"].update(now="soon"),
        "kinds.abuse: expected_action.stated.now must be one of none, monitor, same_day, emergency",
    ),
    "a recency": (
        "risk.yaml",
        lambda value: value["kinds"]["abuse"]["expected_action"]["stated"].pop("unclear"),
        "kinds.abuse: expected_action.stated: unclear is missing",
    ),
    "an action that rises with time": (
        "risk.yaml",
        lambda value: value["kinds"]["abuse"]["expected_action"]["denied"].update(past="same_day"),
        "risk.yaml: kinds.abuse: expected_action.denied: must not rise from now over recent or unclear to past",
    ),
    "a plan less urgent than a thought": (
        "risk.yaml",
        lambda value: value["kinds"]["abuse"]["expected_action"].update(
            planned=dict.fromkeys(("now", "recent", "past", "unclear"), "none")
        ),
        "risk.yaml: kinds.abuse: expected_action: planned must be at least as urgent as stated",
    ),
    "a question": ("safety_questions.yaml", lambda value: value["questions"].pop("asks"), "questions: asks is missing"),
    "a bare yes": (
        "safety_questions.yaml",
        lambda value: value["questions"]["asks"].update(good_answer=True),
        "questions.asks: good_answer must be text (write it in quotes)",
    ),
    "a case with another action": (
        "safety_questions.yaml",
        lambda value: value["cases"][1].update(expected_action="monitor"),
        "safety_questions.yaml: cases[2]: expected_action must be same_day, as risk.yaml gives for these risks",
    ),
    "a case safer than its answers": (
        "safety_questions.yaml",
        lambda value: value["cases"][2].update(safety=4),
        "safety_questions.yaml: cases[3]: safety is 4, but these answers limit it to 2",
    ),
    "a case with words of nobody": (
        "safety_questions.yaml",
        lambda value: value["cases"][1]["risks"][0].update(words="I am tired"),
        "safety_questions.yaml: cases[2]: words of each risk must occur in the speech",
    ),
    "a bare no as an answer": (
        "safety_questions.yaml",
        lambda value: value["cases"][1]["answers"].update(colludes=False),
        "cases[2]: answers.colludes must be text (write it in quotes)",
    ),
    "a stage's words of nobody": (
        "stages.yaml",
        lambda value: value["cases"][0].update(words="I am tired"),
        "stages.yaml: cases[1]: words must occur in the speech",
    ),
    "a stage": ("stages.yaml", lambda value: value["stages"].pop("crisis"), "stages.yaml: stages: crisis is missing"),
    "a heading": ("guide.yaml", lambda value: value["headings"].pop("reply"), "guide.yaml: headings: reply is missing"),
}


@pytest.mark.parametrize("case", EDITS)
def test_what_is_missing_or_wrong_is_named(case: str, folder: Path) -> None:
    name, edit, part = EDITS[case]
    change(folder / name, edit)
    message = refusal(folder)
    assert part in message
    assert message.count(".yaml: ") == part.count(".yaml: ") or ".yaml" not in part, "other problems were listed, too"


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (b"", "safety.yaml must be a mapping"),
        (b"- a\n- b\n", "safety.yaml must be a mapping"),
        (b"name: [safety\n", "safety.yaml is not valid YAML (line 2)"),
        (b"name: safety\ntitle: a\nname: safety\n", "safety.yaml line 3: name is given twice"),
        (b"levels:\n  1: {rule: a}\n  1: {rule: b}\n", "safety.yaml line 3: 1 is given twice"),
        (b"name: \xff\n", "safety.yaml is not UTF-8 text"),
        (b"name: !!python/object:os.system {}\n", "safety.yaml is not valid YAML (line 1)"),
        (b"? [a, b]\n: c\n", "safety.yaml is not valid YAML"),
        (b"[" * 5000, "safety.yaml is not valid YAML"),
        (b"name: 9999-99-99\n", "safety.yaml is not valid YAML"),
    ],
)
def test_files_that_are_no_whole_yaml(content: bytes, part: str, folder: Path) -> None:
    (folder / "safety.yaml").write_bytes(content)
    assert part in refusal(folder)


def test_all_problems_of_a_folder_stand_in_one_line_and_misnamed_files_are_recognised(folder: Path) -> None:
    (folder / "stages.yaml").unlink()
    (folder / "safety.yaml").rename(folder / "saftey.yaml")
    change(folder / "empathy.yaml", lambda value: value["levels"].pop(5))
    message = refusal(folder)
    for part in (
        "unknown key saftey.yaml (did you mean safety.yaml?)",
        "safety.yaml is missing",
        "stages.yaml is missing",
        "empathy.yaml: levels: 5 is missing",
    ):
        assert part in message


def test_texts_of_a_folder_are_not_quoted_in_messages(folder: Path) -> None:
    secret = "my neighbour told me"
    change(folder / "empathy.yaml", lambda value: value.update(levels={**value["levels"], 5: secret}, caps=secret))
    change(folder / "safety_questions.yaml", lambda value: value["questions"]["asks"].update(good_answer=secret))
    change(folder / "relevance.yaml", lambda value: value["levels"][1]["examples"][0].update(speech=secret))
    assert secret not in refusal(folder)


def test_names_cost_no_import_of_yaml_and_the_rubric_none_of_torch() -> None:
    script = "import sys; from psychocounsel.counsel.principles import PRINCIPLES; print('yaml' in sys.modules, *PRINCIPLES)\n"
    script += "from psychocounsel.counsel.rubric.rubric_folder import load_rubric; load_rubric()\n"
    script += "print('torch' in sys.modules, 'omegaconf' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == f"False {' '.join(PRINCIPLES)}\nFalse False\n"
