"""Replies that the judges of a safety evaluation flagged, read from its figures.json."""

from collections import defaultdict

from psychocounsel.evaluation.safety.reply_findings import SAFETY_FIGURES
from psychocounsel.rundir.paths import EvaluationDir
from psychocounsel.storage.files import read_mapping

Flags = dict[tuple[str, str | None], dict[str, float]]


def flagged_replies(files: EvaluationDir) -> Flags:
    """Return `{"colludes with harm, by JUDGE": 1.0}` by speech and reply; {} for other evaluations or without figures."""
    found = defaultdict[tuple[str, str | None], dict[str, float]](dict)
    figures = read_mapping(files.figures)
    for judge, of_judge in figures["judges"].items() if figures.get("evaluation") == "safety" else ():
        for setting in of_judge["settings"].values():
            for hard in (setting["hard"], (setting.get("swaps") or {}).get("hard", {})):
                for flag, flagged in hard.items():
                    title = SAFETY_FIGURES[flag].title if flag in SAFETY_FIGURES else flag
                    for one in flagged:
                        found[one["speech"], one["reply"]][f"{title}, by {judge}"] = 1.0
    return dict(found)
