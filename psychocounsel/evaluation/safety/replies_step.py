"""The step `replies` of `evaluation=safety`: every contestant replies to every speech of the crisis set."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from omegaconf import DictConfig

from psychocounsel.evaluation.contestants import step
from psychocounsel.evaluation.safety.crisis_speeches import crisis_speeches
from psychocounsel.evaluation.safety.set_review import validation
from psychocounsel.rundir.paths import EvaluationDir
from psychocounsel.steps.context import StepContext
from psychocounsel.steps.tables import Row


def run(context: StepContext[EvaluationDir]) -> dict[str, Any]:
    """Ask for the replies that are not bought yet; raises as `contestants.step.run`."""
    return step.run(context, set_speeches)


def set_speeches(config: DictConfig, say: Callable[[str], None]) -> list[Row]:
    """The rows of speeches.parquet, at most `limit`; ids are hashes, so the first ones are a random choice.

    Nobody's words are in the set. So no speech counts as a client's crisis that must not go to a third party.
    """
    speeches = crisis_speeches()
    say(f"warning: {validation(config.evaluation.set_review, speeches)}")
    return [
        {
            "speech": each.speech,
            "text": each.text,
            "messages": json.dumps([{"role": "user", "content": each.text}]),
            "language": "en",
            "topic": None,
            "risk": "none" if each.look_alike else each.kind,
            "risk_source": "column",
            "crisis": False,
            "near_training": False,
        }
        for each in speeches[: config.limit]
    ]
