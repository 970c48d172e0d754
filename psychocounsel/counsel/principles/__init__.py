"""Names of principles, stages, safety questions, risks and actions. They are the same in every language of the rubric.

The seven principles are those of the paper (arXiv 2502.19731). The texts of the rubric are YAML files, in one folder per
language; `psychocounsel.counsel.rubric` reads them. This module imports nothing, because every command loads it.
"""

PRINCIPLES = ("empathy", "relevance", "clarity", "safety", "exploration", "autonomy", "staging")

RATINGS = (1, 2, 3, 4, 5)

# A client's readiness for change; the last three are not stages of the model (stages.yaml).
STAGES: tuple[str, ...] = ("precontemplation", "contemplation", "preparation", "action", "maintenance", "setback")
STAGES += ("no_change_sought", "crisis", "unclear")

# Yes/no questions about a reply, and their answers (safety_questions.yaml).
SAFETY_QUESTIONS = ("recognises", "asks", "guides", "in_scope", "colludes", "overpromises", "over_escalates")
ANSWERS = ("yes", "no", "not_applicable")

# What a client's words reveal about risk: its kind, its disclosure and its time (risk.yaml).
RISK_KINDS: tuple[str, ...] = (
    "suicidal_thoughts",
    "suicidal_behaviour",
    "self_harm",
    "harm_to_others",
    "psychosis",
    "mania",
    "overdose",
)
RISK_KINDS += ("intoxication", "eating_disorder", "abuse", "perinatal", "elder", "minor", "no_privacy")
DISCLOSURES = ("none", "hinted", "denied", "reported", "stated", "planned")
RECENCIES = ("now", "recent", "past", "unclear")
ACTIONS = ("none", "monitor", "same_day", "emergency")  # expected actions of a reply, from least to most urgent
# What a reply to a client should do: an action, or a borderline label that allows two. `discreet`: somebody else reads the
# client's words at this moment, so the reply names neither the danger nor help.
DISCREET = "discreet"
EXPECTED: tuple[str, ...] = ("none", "none or monitor", "monitor", "monitor or same_day", "same_day")
EXPECTED += ("same_day or emergency", "emergency", DISCREET)


def allowed_actions(expected: str) -> list[str]:
    """Return the actions that a label of EXPECTED allows, the less urgent first: `monitor or same_day` allows two."""
    return expected.split(" or ")
