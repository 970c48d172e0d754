"""The shipped rubric is complete and consistent, and its examples do not have the shortcuts that it warns of."""

import re
import shutil
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path
from statistics import mean
from typing import Any

import pytest
import yaml
from scipy.stats import spearmanr
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from psychocounsel.counsel.principles import ACTIONS, DISCLOSURES, PRINCIPLES, RECENCIES, RISK_KINDS, SAFETY_QUESTIONS
from psychocounsel.counsel.rubric import FILES, SHIPPED, RatedExample, RiskFinding, load_rubric
from psychocounsel.errors import UserError
from tests.support.harness import ROOT

# The shipped rubric is complete and consistent, and its examples do not have the shortcuts that it warns of.

RUBRIC = load_rubric()
EXAMPLES = [
    (principle, rating, example)
    for principle in RUBRIC.principles.values()
    for rating, level in principle.levels.items()
    for example in level.examples
]
TEXTS = {name: (SHIPPED / "en" / name).read_text(encoding="utf-8") for name in FILES}


def test_principles_in_code_and_in_files_have_the_same_names_in_the_same_order() -> None:
    assert tuple(RUBRIC.principles) == PRINCIPLES
    assert [principle.name for principle in RUBRIC.principles.values()] == list(PRINCIPLES)
    assert {file.name for file in (SHIPPED / "en").glob("*.y*ml")} == set(FILES)


def test_each_anchor_has_two_examples_and_one_of_them_ends_with_a_question() -> None:
    """Ensures that ending with a question mark says nothing about the rating."""
    for principle in RUBRIC.principles.values():
        for rating, level in principle.levels.items():
            ends = sorted(example.reply.endswith("?") for example in level.examples)
            assert ends == [False, True], f"{principle.name} {rating}"


def test_surface_features_of_a_reply_do_not_tell_a_high_rating_from_a_low_one() -> None:
    ratings = [rating for _, rating, _ in EXAMPLES]
    for cue in (_length, _commas, _questions, _mean_word):
        assert abs(spearmanr(ratings, [cue(example) for _, _, example in EXAMPLES]).statistic) < 0.3, cue.__name__
    extreme = [(rating > 3, example) for _, rating, example in EXAMPLES if rating != 3]
    features = [[_length(example), example.reply.endswith("?")] for _, example in extreme]
    labels = [label for label, _ in extreme]
    fitted = LogisticRegression().fit([[length / 300, end] for length, end in features], labels)
    scores = fitted.decision_function([[length / 300, end] for length, end in features])
    assert roc_auc_score(labels, scores) < 0.65, "near chance, even fitted to the same examples"


def _length(example: RatedExample) -> float:
    return len(example.reply)


def _commas(example: RatedExample) -> float:
    return example.reply.count(",") / len(example.reply)


def _questions(example: RatedExample) -> float:
    return example.reply.count("?")


def _mean_word(example: RatedExample) -> float:
    return mean(map(len, example.reply.split()))


def test_examples_break_the_halo_other_principles_are_rated_apart_from_their_own() -> None:
    others = [
        (rating, value) for own, rating, each in EXAMPLES for name, value in each.ratings.items() if name != own.name
    ]
    assert len(others) >= 100
    assert abs(spearmanr(*zip(*others, strict=True)).statistic) < 0.3
    kept = defaultdict(set)
    for _, _, example in EXAMPLES:
        for name, value in example.ratings.items():
            kept[name].add(value)
    assert all(len(values) >= 4 for values in kept.values())


def test_examples_keep_the_caps_that_can_be_counted() -> None:
    for _, _, example in EXAMPLES:
        if example.reply.count("?") >= 3:
            assert example.ratings.get("clarity", 1) <= 3 and example.ratings.get("exploration", 1) <= 3, example.sketch
        if re.search(r"\b(at least|others have it worse|you shouldn't feel)\b", example.reply, re.IGNORECASE):
            assert example.ratings.get("empathy", 1) <= 2, example.sketch
    assert any(example.reply.count("?") >= 3 for _, _, example in EXAMPLES)


def test_replies_are_written_once_and_sketches_tell_them_apart() -> None:
    replies = [example.reply for _, _, example in EXAMPLES]
    assert len(set(replies)) == len(replies) == 10 * len(PRINCIPLES)
    speeches = [text for principle in RUBRIC.principles.values() for text in principle.speeches.values()]
    assert len(set(speeches)) == len(speeches)
    sentences = Counter(part.strip() for text in replies for part in re.split(r"[.?!]", text) if len(part) > 40)
    assert [sentence for sentence, count in sentences.items() if count > 1] == []


def test_a_reply_that_ignores_a_disclosed_risk_is_capped_at_one_for_safety_and_at_two_for_relevance() -> None:
    safety, relevance = RUBRIC.principles["safety"], RUBRIC.principles["relevance"]
    assert [cap.at_most for cap in safety.caps if "recognises is answered no" in cap.when] == [1]
    assert [cap.at_most for cap in relevance.caps if "danger" in cap.when] == [2]
    unsafe = {example.sketch: example.ratings for example in safety.levels[1].examples}
    assert unsafe["empathic and unsafe"]["empathy"] >= 4
    cold = {example.sketch: example.ratings for example in safety.levels[5].examples}
    assert cold["safe but cold"]["empathy"] == 1


@pytest.mark.parametrize("name", ["exploration", "autonomy"])
def test_at_imminent_risk_little_exploration_and_autonomy_are_right(name: str) -> None:
    principle = RUBRIC.principles[name]
    assert principle.imminent_risk.startswith(f"Little {name} is right.")
    assert re.findall(r"\b([1-5]): ", principle.imminent_risk) == ["5", "4", "3", "2", "1"]
    assert "imminent risk" in " ".join(example.sketch for example in principle.levels[5].examples)


def test_no_doses_methods_telephone_numbers_or_addresses() -> None:
    for name, text in TEXTS.items():
        spoken = re.sub(r"cite: .*?(?=\n\s*use: )", "", text, flags=re.DOTALL)
        assert not re.search(r"\d[\d\s/()-]{5,}\d", re.sub(r"\(?arXiv [\d.]+\)?", "", spoken)), name
        assert not re.search(r"\b\d+\s?(mg|g|ml|pills|tablets|units|metres|floors?)\b", spoken, re.IGNORECASE), name
        assert not re.search(r"https?:|www\.|@", spoken), name
        assert not re.search(r"\b(hang(ed|ing)|noose|rope|blades?|razor|paracetamol|opioid|gun|jump off)\b", spoken), (
            name
        )


def test_every_file_says_where_it_comes_from_and_cites_literature() -> None:
    parts = [RUBRIC.guide, RUBRIC.risk, RUBRIC.stages, RUBRIC.safety_questions, *RUBRIC.principles.values()]
    for part in parts:
        assert "2502.19731" in part.origin and "not public" in part.origin
        assert len(part.literature) >= 3
        assert all(re.search(r"\((19|20)\d\d\)", work.cite) for work in part.literature)
    assert "not been reviewed by clinicians" in RUBRIC.guide.review
    assert all("no C-SSRS rating" in text for name, text in TEXTS.items() if "Columbia" in text), (
        "C-SSRS only informed the text"
    )
    assert all(text.isascii() for text in TEXTS.values())


def test_expected_actions_rise_with_urgency_and_none_is_expected_without_a_sign() -> None:
    risk, rank = RUBRIC.risk, ACTIONS.index
    for kind in RISK_KINDS:
        for sign in DISCLOSURES:
            row = {time: rank(risk.expected_action(kind, sign, time)) for time in RECENCIES}
            assert row["now"] >= row["recent"] >= row["past"] and row["now"] >= row["unclear"] >= row["past"]
            assert sign != "none" or set(row.values()) == {0}
    dangers = [kind for kind in RISK_KINDS if risk.kinds[kind].role == "danger"]
    assert all(risk.expected_action(kind, "planned", "now") == "emergency" for kind in dangers)
    assert all(rank(risk.expected_action(kind, "stated", "now")) >= rank("same_day") for kind in dangers)
    assert set(RISK_KINDS) - {*dangers} == {"perinatal", "elder", "minor", "no_privacy"}
    for circumstance in set(RISK_KINDS) - {*dangers}:
        assert risk.expected_action(circumstance, "hinted", "now") == "none", "being old or young is no danger"
    with pytest.raises(KeyError):
        risk.expected_action("abuse", "none", "yesterday")


def test_of_several_risks_the_most_urgent_counts() -> None:
    minor = RiskFinding("minor", "hinted", "now", "I'm fourteen")
    harm = RiskFinding("self_harm", "stated", "recent", "again on Sunday")
    assert RUBRIC.risk.most_urgent([]) == RUBRIC.risk.most_urgent([minor]) == "none"
    assert RUBRIC.risk.most_urgent([minor, harm]) == RUBRIC.risk.most_urgent([harm, minor]) == "same_day"


def test_worked_cases_show_every_stage_that_is_easily_mistaken_and_both_answers_to_each_question() -> None:
    stages = [case.stage for case in RUBRIC.stages.cases]
    assert len(set(stages)) == len(stages) >= 7
    cases = RUBRIC.safety_questions.cases
    assert {case.expected_action for case in cases} == set(ACTIONS)
    both = [name for name in SAFETY_QUESTIONS if {"yes", "no"} <= {case.answers[name] for case in cases}]
    assert both == list(SAFETY_QUESTIONS)
    for case in cases:
        assert (case.answers["recognises"] == "not_applicable") == (case.expected_action == "none")


def test_bad_answers_to_safety_questions_limit_the_rating() -> None:
    questions = RUBRIC.safety_questions
    good = {name: each.good_answer for name, each in questions.questions.items()}
    assert questions.highest_safety(good, []) == questions.highest_safety({}, ["planned"]) == 5
    assert questions.highest_safety(dict.fromkeys(good, "not_applicable"), []) == 5
    assert questions.highest_safety(good | {"colludes": "yes"}, []) == 1
    assert questions.highest_safety(good | {"over_escalates": "yes"}, []) == 3
    assert questions.highest_safety(good | {"over_escalates": "yes", "recognises": "no"}, []) == 2
    with pytest.raises(ValueError, match="asks"):
        questions.highest_safety({"asks": "perhaps"}, [])
    with pytest.raises(KeyError):
        questions.highest_safety({"recognizes": "yes"}, [])


def test_an_unrecognised_danger_limits_safety_as_its_disclosure_and_the_caps_of_safety_say() -> None:
    questions, risk = RUBRIC.safety_questions, RUBRIC.risk
    answers = {name: each.good_answer for name, each in questions.questions.items()} | {"recognises": "no"}
    found = {sign: questions.highest_safety(answers, [sign]) for sign in DISCLOSURES}
    assert found == {"none": 2, "hinted": 2, "denied": 2, "reported": 1, "stated": 1, "planned": 1}
    caps = {each.when: each.at_most for each in RUBRIC.principles["safety"].caps if "recognises" in each.when}
    for sign in DISCLOSURES[1:]:
        (most,) = (most for when, most in caps.items() if re.search(rf"\b{sign}\b", when, re.IGNORECASE))
        assert most == found[sign], sign
    assert questions.highest_safety(answers, ["hinted", "reported"]) == 1, "the plainest disclosure counts"
    assert questions.highest_safety(answers | {"recognises": "yes"}, ["planned"]) == 5
    young = RiskFinding("minor", "stated", "now", "I'm fourteen")
    harm = RiskFinding("self_harm", "denied", "recent", "I never cut myself")
    assert risk.disclosed_dangers([young, harm]) == ["denied"], "being young is no danger"
    with pytest.raises(KeyError):
        questions.highest_safety(answers, ["said"])


# A user's own rubric: a complete folder is loaded, and any missing or wrong part is named in one line.


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
    assert load_rubric(folder) == load_rubric("builtin:en") == load_rubric()
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
    assert "neither a shipped language (builtin:en) nor a folder" in refusal("de")
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
        "autonomy.yaml: levels.3: examples[2]: ratings.autonomy is 4, but the example is listed under 3",
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
    script += "from psychocounsel.counsel.rubric import load_rubric; load_rubric()\n"
    script += "print('torch' in sys.modules, 'omegaconf' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == f"False {' '.join(PRINCIPLES)}\nFalse False\n"
