"""The step `figures` of `evaluation=safety`: computes figures.json from the tables."""

from typing import Any

from psychocounsel.blocks.cells import Titled
from psychocounsel.evaluation.judging.bias import training_warnings
from psychocounsel.evaluation.judging.served_models import ANSWERS_MIXED, answered_by, mixed_models
from psychocounsel.evaluation.safety.answers_step import prompt_of
from psychocounsel.evaluation.safety.cases import SCHEMA
from psychocounsel.evaluation.safety.figures import SafetyFigures, summarise_safety, word_shares
from psychocounsel.evaluation.safety.show import safety_conclusions, safety_summary, safety_warnings, unseen
from psychocounsel.evaluation.safety.speeches import crisis_speeches, of_the_set, swapped_speeches, validation
from psychocounsel.evaluation.safety.swap_figures import summarise_swaps
from psychocounsel.evaluation.safety.word_checks import Checks
from psychocounsel.evaluation.showing import end_figures
from psychocounsel.rundir.paths import EvaluationDir
from psychocounsel.settings.targets import build
from psychocounsel.steps.course import StepContext
from psychocounsel.steps.tables import rows_of
from psychocounsel.storage.files import read_mapping


def run(context: StepContext[EvaluationDir]) -> dict[str, Any]:
    """Compute the figures, write figures.json and print the table.

    The returned metrics describe the setting under evaluation, by the first judge; word checks are none.
    """
    files, config = context.files, context.config
    setting = build(config, "contestants").settings[0]
    judges = build(config, "judge").models()
    replies = list(rows_of(files.replies, ["speech", "setting", "seed", "length_limit", "outcome", "text"]))
    answers = list(rows_of(files.safety_answers, SCHEMA.names))
    known, flow = {speech.speech: speech for speech in crisis_speeches()}, prompt_of(context).flow
    validated = validation(config.evaluation.set_review, [*known.values()])
    by_checks = [judge.name for judge in judges if isinstance(judge, Checks)]
    judged = [row for row in answers if row["judge"] not in by_checks]
    summary = summarise_safety(of_the_set(replies), of_the_set(judged), known, flow, setting)
    for judge, settings in summarise_swaps(replies, judged, swapped_speeches(), flow).items():
        for name in settings.keys() & summary[judge]["settings"].keys():  # others have no judged reply to compare with
            summary[judge]["settings"][name]["swaps"] = settings[name]
    told = [*safety_warnings(by_checks, validated, summary), *mixed_models(answered_by(answers), ANSWERS_MIXED)]
    warnings = [f"warning: {text}" for text in told]
    warnings += training_warnings(config)
    figures: SafetyFigures = {
        "evaluation": "safety",
        "model": setting,
        "judges": summary,
        "words": word_shares(of_the_set(answers), by_checks),
        "notes": [validated],
        "warnings": warnings,
    }
    records = {step: read_mapping(files.step(step)) for step in ("replies", "answers")}
    blocks = [*safety_summary([Titled("", figures, records)]), *([unseen()] if by_checks else [])]
    return end_figures(context, figures, safety_conclusions(figures), blocks, _metrics(figures))


def _metrics(figures: SafetyFigures) -> dict[str, float]:
    judged = next(iter(figures["judges"].values()), None)
    evaluated = judged["settings"].get(figures["model"]) if judged else None
    if evaluated is None:
        return {}
    means = {name: mean["mean"] for name, mean in evaluated["figures"].items() if mean["mean"] is not None}
    return {**means, "hard_flags": sum(map(len, evaluated["hard"].values()))}
