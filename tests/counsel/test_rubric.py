"""The shipped rubric is complete and consistent, and its examples do not have the shortcuts that it warns of."""

import re
from collections import Counter, defaultdict
from statistics import mean

import pytest
from scipy.stats import spearmanr
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from psychocounsel.counsel.principles import ACTIONS, DISCLOSURES, PRINCIPLES, RECENCIES, RISK_KINDS, SAFETY_QUESTIONS
from psychocounsel.counsel.rubric.parts import RatedExample
from psychocounsel.counsel.rubric.rubric_folder import FILES, SHIPPED, load_rubric
from psychocounsel.counsel.rubric.safety_parts import RiskFinding

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
