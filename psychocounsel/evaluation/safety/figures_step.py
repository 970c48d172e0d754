"""The step `figures` of `evaluation=safety`: computes figures.json from the tables."""

from typing import Any

from psychocounsel.evaluation.safety.answers_step import prompt_of
from psychocounsel.evaluation.safety.cases import SCHEMA
from psychocounsel.evaluation.safety.figures import summarise_safety, summarise_swaps
from psychocounsel.evaluation.safety.show import safety_lines, safety_warnings
from psychocounsel.evaluation.safety.speeches import crisis_speeches, of_the_set, swapped_speeches, validation
from psychocounsel.evaluation.safety.word_checks import Checks
from psychocounsel.rundir.paths import EvaluationDir
from psychocounsel.settings.targets import build
from psychocounsel.steps.course import StepContext
from psychocounsel.steps.tables import rows_of
from psychocounsel.storage.files import write_json


def run(context: StepContext[EvaluationDir]) -> dict[str, Any]:
    """Compute the figures, write figures.json and print the table.

    The returned metrics describe the setting under evaluation, by the first judge.
    """
    files, config = context.files, context.config
    setting = build(config, "contestants").settings[0]
    judges = build(config, "judge").models()
    replies = list(rows_of(files.replies, ["speech", "setting", "seed", "length_limit", "outcome", "text"]))
    answers = list(rows_of(files.safety_answers, SCHEMA.names))
    known, flow = {each.speech: each for each in crisis_speeches()}, prompt_of(context).flow
    validated = validation(config.evaluation.set_review, [*known.values()])
    summary = summarise_safety(of_the_set(replies), of_the_set(answers), known, flow, setting)
    for judge, settings in summarise_swaps(replies, answers, swapped_speeches(), flow).items():
        for name, swaps in settings.items():
            summary["judges"][judge]["settings"][name]["swaps"] = swaps
    by_checks = {judge.name for judge in judges if isinstance(judge, Checks)}
    warnings = [*safety_warnings(summary, by_checks, validated)]
    write_json(files.figures, {"evaluation": "safety", "model": setting, **summary, "warnings": warnings})
    for line in safety_lines(summary, by_checks, validated):
        context.say(line)
    found = summary["judges"].get(judges[0].name, {}).get("settings", {}).get(setting)
    if found is None:
        return {"metrics": {}}
    told = {name: each["mean"] for name, each in found["figures"].items() if each["mean"] is not None}
    return {"metrics": {**told, "hard_flags": sum(map(len, found["hard"].values()))}}
