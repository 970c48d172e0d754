"""Step `ability`: lm-eval measures every contestant; ability.json holds its figures, document by document."""

from typing import Any

from psychocounsel.evaluation.external.ability import measure_ability, weights_of
from psychocounsel.rundir.paths import EvaluationDir
from psychocounsel.settings.targets import build
from psychocounsel.steps.context import StepContext
from psychocounsel.storage.files import write_json


def run(context: StepContext[EvaluationDir]) -> dict[str, Any]:
    """Measure every contestant and write ability.json; without tasks the file is empty.

    Raises:
        UserError: if lm-eval fails.
    """
    tasks = build(context.config, "evaluation").tasks()
    contestants = build(context.config, "contestants").models() if tasks.tasks else []
    found = {model.name: measure_ability(weights_of(model), tasks) for model in context.bar(contestants, "lm-eval")}
    write_json(context.files.ability, found)
    return {"tasks": list(tasks.tasks)}
