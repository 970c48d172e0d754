"""Rules of the principles' ratings, as the page shows them."""

from typing import Any

from psychocounsel.counsel.principles import PRINCIPLES
from psychocounsel.counsel.rubric.rubric_folder import Rubric


def rating_rules(rubric: Rubric) -> list[dict[str, Any]]:
    """Return for each principle its name, title, definition and the rule of each rating, best first."""
    found = []
    for name in PRINCIPLES:
        principle = rubric.principles[name]
        rules = [(rating, principle.levels[rating].rule) for rating in sorted(principle.levels, reverse=True)]
        found.append({"name": name, "title": principle.title, "definition": principle.definition, "rules": rules})
    return found
